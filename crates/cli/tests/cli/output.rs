//! What is printed, plain, as JSON and on a terminal (sessions.md §2.7).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;
use watertight_testkit::PATIENCE;

use crate::command::{ran, run, setup};
use crate::fake_gateway::{FakeGateway, Step, Visit, said};

async fn answered(steps: Vec<Step>, flags: &[&str]) -> crate::command::Ran {
    let gateway = FakeGateway::start([Visit::Served(steps)]).await;
    run(&gateway.setup(), &[&["agent", "-m", "hi"], flags].concat()).await
}

#[tokio::test]
async fn piped_output_is_the_answer_and_nothing_else() {
    let ran = answered(vec![Step::Accept, Step::Delta("Hel"), Step::Delta("Hello"), said("Hello  \n")], &[]).await;
    assert_eq!((ran.exit, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "Hello\n", ""));
}

#[tokio::test]
async fn every_payload_is_printed_and_media_as_attachments() {
    let payloads = json!([
        {"text": "one\n", "mediaUrl": null},
        {"text": "two", "mediaUrl": "http://h/a.png", "mediaUrls": ["http://h/a.png", "http://h/b.png"]},
    ]);
    let end = Step::Final(json!({"status": "ok", "summary": "completed", "result": {"payloads": payloads}}));
    let ran = answered(vec![Step::Accept, end], &[]).await;
    assert_eq!(ran.stdout, "one\ntwo\nAttachment: http://h/a.png\nAttachment: http://h/b.png\n");
}

#[tokio::test]
async fn an_answer_without_words_prints_nothing_when_it_went_well() {
    let end = |status| Step::Final(json!({"status": status, "result": {"payloads": []}}));
    let ran = answered(vec![Step::Accept, end("ok")], &[]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), ""));
    let ran = answered(vec![Step::Accept, end("error")], &[]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(1), "No reply from agent.\n"));
}

#[tokio::test]
async fn a_turn_that_timed_out_is_printed_and_fails() {
    let payloads = json!([{"text": "so far", "mediaUrl": null}]);
    let end = Step::Final(json!({"status": "timeout", "summary": "late", "result": {"payloads": payloads}}));
    let ran = answered(vec![Step::Accept, end], &[]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(1), "so far\n"));
}

#[tokio::test]
async fn a_run_that_is_already_under_way_is_not_started_again() {
    let ran = answered(vec![Step::Final(json!({"status": "in_flight"}))], &[]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), ""));
    assert!(ran.stderr.ends_with("is already in flight; not starting a duplicate run.\n"), "{ran:?}");
}

#[tokio::test]
async fn tool_calls_are_shown_on_stderr_when_asked_for() {
    let steps = || {
        let started = json!({"phase": "start", "name": "time", "toolCallId": "c1", "args": {"zone": "UTC"}});
        let content = json!([{"type": "text", "text": "noon"}]);
        let ended = json!({"phase": "result", "name": "time", "isError": false, "result": {"content": content}});
        vec![Step::Accept, Step::Tool(started), Step::Tool(ended), said("It is noon.")]
    };
    for (level, shown) in
        [("off", ""), ("on", "[tool] time\n"), ("full", "[tool] time {\"zone\":\"UTC\"}\n[tool] time answered: noon\n")]
    {
        let ran = answered(steps(), &["--verbose", level]).await;
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("It is noon.\n", shown));
    }
}

#[tokio::test]
async fn json_is_the_final_response_as_it_came() {
    let gateway = FakeGateway::start([Visit::Served(vec![Step::Accept, Step::Delta("H"), said("Hello")])]).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi", "--json"]).await;
    assert_eq!((ran.exit, ran.stderr.as_str()), (Some(0), ""));
    let expected = json!({
        "runId": gateway.turn()["idempotencyKey"],
        "status": "ok",
        "summary": "completed",
        "result": {"payloads": [{"text": "Hello", "mediaUrl": null}], "meta": {"durationMs": 1}},
    });
    assert_eq!(ran.json(), expected);
    assert_eq!(ran.stdout, format!("{:#}\n", ran.json()), "two spaces of indent, one line end");
}

#[tokio::test]
async fn a_real_gateway_and_a_local_run_give_the_same_result() {
    let setup = setup();
    let args = ["agent", "-m", "hi", "--session-key", "x", "--json"];
    let gateway = setup.start().await;
    let over = run(&setup, &args).await.json();
    assert_eq!(gateway.terminate().await.code(), Some(0));
    let mut here = run(&setup, &[&args[..], &["--local"]].concat()).await.json();
    assert_eq!((&over["status"], &over["summary"]), (&json!("ok"), &json!("completed")));
    assert_eq!(over["runId"].as_str().unwrap().len(), 36);
    let shape = |value: &Value| -> Vec<String> {
        let keys = |at: &str| -> Vec<String> {
            value.pointer(at).and_then(Value::as_object).unwrap().keys().map(|key| format!("{at}/{key}")).collect()
        };
        ["", "/meta", "/meta/agentMeta", "/meta/agentMeta/usage", "/payloads/0"].map(keys).concat()
    };
    // A local answer has nothing around it: its receipt stands among what is told about it.
    let local = here["meta"].as_object_mut().and_then(|meta| meta.remove("receipt")).unwrap();
    assert_eq!(local["session"], over["receipt"]["session"]);
    assert_eq!(shape(&over["result"]), shape(&here));
    assert_eq!(over.pointer("/result/meta/agentMeta/sessionId"), here.pointer("/meta/agentMeta/sessionId"));
}

#[tokio::test]
async fn a_refusal_of_the_gateway_is_an_error_without_a_run() {
    let refusal = || vec![Step::Failed("Agent \"nope\" no longer exists in configuration", Value::Null)];
    // `Value::Null["runId"]` makes an object with the run's id alone, as a refused request has none.
    let ran = answered(refusal(), &["--session-key", "agent:nope:x"]).await;
    ran.refused("Agent \"nope\" no longer exists in configuration");
    let ran = answered(refusal(), &["--session-key", "agent:nope:x", "--json"]).await;
    assert_eq!(ran.exit, Some(1));
    let error = json!({"type": "cli_error", "message": "Agent \"nope\" no longer exists in configuration"});
    assert_eq!(ran.json(), json!({"ok": false, "error": error}));
}

#[tokio::test]
async fn a_failed_run_is_an_error_that_names_the_run() {
    let failed = || vec![Step::Accept, Step::Failed("the provider is down", json!({"status": "error"}))];
    answered(failed(), &[]).await.refused("the provider is down");
    let gateway = FakeGateway::start([Visit::Served(failed())]).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi", "--json"]).await;
    let expected = json!({
        "ok": false,
        "error": {"type": "cli_error", "message": "the provider is down"},
        "runId": gateway.turn()["idempotencyKey"],
        "origin": "gateway",
    });
    assert_eq!((ran.exit, ran.json()), (Some(1), expected));
}

#[tokio::test]
async fn an_error_before_any_dispatch_is_json_too() {
    let gateway = FakeGateway::saying("ok").await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi", "--session-key", "agent:main", "--json"]).await;
    let message = "Invalid --session-key \"agent:main\". Agent-prefixed session keys must use \
                   agent:<agent-id>:<session-key>.";
    assert_eq!(ran.json(), json!({"ok": false, "error": {"type": "cli_error", "message": message}}));
    assert_eq!(ran.stderr, format!("Error: {message}\n"));
    assert_eq!(ran.exit, Some(1));
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_is_a_failure() {
    let gateway = FakeGateway::saying("Hello").await;
    let setup = gateway.setup();
    for flags in [&[][..], &["--json"], &["--local"]] {
        let mut command = setup.command(&[&["agent", "-m", "hi"], flags].concat());
        command.stdout(File::options().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends").unwrap());
        let message =
            "Error: The turn ended, but its answer could not be written: No space left on device (os error 28)\n";
        assert_eq!((ran.exit, ran.stderr.as_str()), (Some(1), message), "{flags:?}");
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_failure() {
    let go_on = Arc::new(Notify::new());
    let steps = vec![Step::Accept, Step::Wait(go_on.clone()), said("Hello")];
    let gateway = FakeGateway::start([Visit::Served(steps)]).await;
    let setup = gateway.setup();
    let mut command = setup.command(&["agent", "-m", "hi"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    go_on.notify_one();
    let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends").unwrap());
    assert_eq!((ran.exit, ran.stderr.as_str()), (Some(0), ""));
}

/// A terminal: the program's side, and what appears on it.
fn terminal() -> (OwnedFd, mpsc::Receiver<Vec<u8>>) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let (seen, screen) = mpsc::channel();
    std::thread::spawn(move || {
        let mut master = File::from(master);
        let mut bytes = [0; 4096];
        // An error is the end: the last program on the other side has gone.
        while let Ok(count @ 1..) = master.read(&mut bytes) {
            if seen.send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    (slave, screen)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_answer_appears_while_it_is_written() {
    // The end never comes, so what is on the screen was written before it.
    let hostile = "Hello \u{1b}]0;owned\u{7}wor";
    let steps = vec![Step::Accept, Step::Delta("Hello "), Step::Delta(hostile)];
    let gateway = FakeGateway::start([Visit::Served(steps)]).await;
    let (slave, screen) = terminal();
    let setup = gateway.setup();
    let mut command = setup.command(&["agent", "-m", "hi"]);
    let mut child = command.stdout(slave).spawn().unwrap();
    drop(command);
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = String::new();
        while !shown.contains("wor") {
            let bytes = screen.recv_timeout(Duration::from_secs(30)).expect("the text appears");
            shown.push_str(&String::from_utf8(bytes).unwrap());
        }
        shown
    });
    assert_eq!(shown.await.unwrap(), "Hello ]0;ownedwor", "and the terminal obeys nothing in it");
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_whole_answer_stands_there_once() {
    let steps = vec![Step::Accept, Step::Delta("Hello"), said("Hello world")];
    let gateway = FakeGateway::start([Visit::Served(steps)]).await;
    let setup = gateway.setup();
    let (slave, screen) = terminal();
    let mut command = setup.command(&["agent", "-m", "hi"]);
    let child = command.stdout(slave).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(command);
    let ran = ran(child.wait_with_output().await.unwrap());
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        while let Ok(bytes) = screen.recv_timeout(Duration::from_secs(30)) {
            shown.extend(bytes);
        }
        String::from_utf8(shown).unwrap()
    });
    assert_eq!(shown.await.unwrap().replace('\r', ""), "Hello world\n");
}
