//! Ctrl-C and SIGTERM (sessions.md §2.6).

use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::Notify;
use tokio::time::timeout;
use watertight_testkit::{GatewaySetup, MockProvider, PATIENCE, Reply};

use crate::command::{Ran, ran, setup};
use crate::fake_gateway::{FakeGateway, Step, Visit, said};

fn start(setup: &GatewaySetup, args: &[&str]) -> Child {
    setup.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A model that never answers its first call, and an agent on it.
async fn hanging_model() -> (MockProvider, GatewaySetup) {
    let model = MockProvider::start().await;
    model.push(Reply::hang());
    let setup = setup().config(&format!(
        "[[agents]]\nid = 'main'\nmodel = 'p/m'\n[providers.p]\nkind = 'openai'\nbase_url = '{}'\n",
        model.base_url()
    ));
    (model, setup)
}

fn kill(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

async fn stop(child: Child, signal: Signal) -> Ran {
    kill(&child, signal);
    ended(child).await
}

async fn ended(child: Child) -> Ran {
    ran(timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends").unwrap())
}

#[tokio::test]
async fn a_signal_aborts_the_run_on_the_open_connection() {
    for (signal, exit) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let gateway = FakeGateway::start([Visit::Served(vec![Step::Accept])]).await;
        let setup = gateway.setup();
        let child = start(&setup, &["agent", "-m", "hi", "--session-key", "x"]);
        let turn = gateway.wait_for("agent").await;
        let ran = stop(child, signal).await;
        assert_eq!((ran.exit, ran.stdout.as_str()), (Some(exit), ""), "{ran:?}");
        let run = turn.params["idempotencyKey"].as_str().unwrap();
        assert_eq!(ran.stderr, format!("Run {run} was aborted.\n"));
        let abort = gateway.wait_for("chat.abort").await;
        assert_eq!(abort.connection, turn.connection);
        assert_eq!(abort.params["runId"], run);
        assert_eq!(abort.params["sessionKey"], "agent:main:x");
    }
}

#[tokio::test]
async fn a_signal_before_the_run_was_accepted_waits_for_its_session() {
    let go_on = Arc::new(Notify::new());
    let gateway = FakeGateway::start([Visit::Served(vec![Step::Wait(go_on.clone()), Step::Accept])]).await;
    let setup = gateway.setup();
    let child = start(&setup, &["agent", "-m", "hi", "--session-id", "sid-1"]);
    gateway.wait_for("agent").await;
    let stopping = tokio::spawn(stop(child, Signal::INT));
    go_on.notify_one();
    assert_eq!(stopping.await.unwrap().exit, Some(130));
    assert_eq!(gateway.wait_for("chat.abort").await.params["sessionKey"], "agent:main:main", "as it was accepted");
}

#[tokio::test]
async fn a_signal_before_the_run_was_accepted_aborts_it_under_the_key_it_got() {
    let go_on = Arc::new(Notify::new());
    let steps = vec![Step::Wait(go_on.clone()), Step::AcceptAs("agent:main:folded")];
    let gateway = FakeGateway::start([Visit::Served(steps)]).await;
    let setup = gateway.setup();
    let child = start(&setup, &["agent", "-m", "hi", "--session-key", "Folded"]);
    gateway.wait_for("agent").await;
    kill(&child, Signal::INT);
    go_on.notify_one();
    assert!(ended(child).await.stderr.ends_with("was aborted.\n"));
    assert_eq!(gateway.wait_for("chat.abort").await.params["sessionKey"], "agent:main:folded");
}

#[tokio::test]
async fn a_run_that_was_never_accepted_is_not_said_to_have_ended() {
    let gateway = FakeGateway::start([Visit::Served(vec![])]).await;
    let setup = gateway.setup();
    let child = start(&setup, &["agent", "-m", "hi", "--session-key", "x"]);
    let turn = gateway.wait_for("agent").await;
    let ran = stop(child, Signal::INT).await;
    let run = turn.params["idempotencyKey"].as_str().unwrap();
    let line = format!("Run {run} was not found; it was sent but not accepted yet and may still start.\n");
    assert_eq!((ran.exit, ran.stderr), (Some(130), line));
}

#[tokio::test]
async fn a_signal_while_the_connection_is_down_aborts_over_a_new_one() {
    let visits = [Visit::Served(vec![Step::Accept, Step::Break]), Visit::ClosedAtOnce, Visit::Served(vec![])];
    let gateway = FakeGateway::start(visits).await;
    let setup = gateway.setup();
    let child = start(&setup, &["agent", "-m", "hi", "--session-key", "x"]);
    gateway.wait_for("agent").await;
    let ran = stop(child, Signal::INT).await;
    assert_eq!(ran.exit, Some(130), "{ran:?}");
    assert_ne!(gateway.wait_for("chat.abort").await.connection, 0);
}

#[tokio::test]
async fn a_signal_aborts_the_call_of_a_real_gateway() {
    let (model, setup) = hanging_model().await;
    let gateway = setup.start().await;
    let child = start(&setup, &["agent", "-m", "hi", "--session-key", "x"]);
    model.wait_for_requests(1).await;
    let ran = stop(child, Signal::INT).await;
    assert_eq!(ran.exit, Some(130), "{ran:?}");
    assert!(ran.stderr.ends_with("was aborted.\n"), "{ran:?}");
    model.wait_for_disconnects(1).await;
    drop(gateway);
}

#[tokio::test]
async fn a_signal_aborts_a_local_run() {
    let (model, setup) = hanging_model().await;
    let child = start(&setup, &["agent", "-m", "hi", "--local"]);
    model.wait_for_requests(1).await;
    let ran = stop(child, Signal::INT).await;
    assert_eq!(ran.exit, Some(130), "{ran:?}");
    assert!(ran.stderr.ends_with("was aborted.\n"), "{ran:?}");
    model.wait_for_disconnects(1).await;
}

#[tokio::test]
async fn a_finished_turn_leaves_nothing_to_abort() {
    let gateway = FakeGateway::start([Visit::Served(vec![Step::Accept, said("done")])]).await;
    let ran = crate::command::run(&gateway.setup(), &["agent", "-m", "hi"]).await;
    assert_eq!(ran.exit, Some(0));
    assert!(gateway.asked().iter().all(|asked| asked.method != "chat.abort"));
}
