//! A gateway that is down, refuses, dies or comes back (decision 3, sessions.md §2.6).

use std::process::Stdio;

use serde_json::json;
use watertight_testkit::{MockProvider, Reply};

use crate::command::{Held, ran, run, setup};
use crate::fake_gateway::{FakeGateway, Step, Visit, said};

/// An address where nothing listens.
async fn nowhere() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_gateway_that_is_down_is_an_error_without_fallback() {
    let address = nowhere().await;
    let setup = setup().config(&format!("[gateway]\nlisten = '{address}'\n"));
    let ran = run(&setup, &["agent", "-m", "hi", "--no-fallback"]).await;
    ran.refused(&format!("Gateway not reachable at ws://{address} (connection refused)."));
    assert!(!setup.state_dir().join("store.db").exists(), "nothing ran here");
}

#[tokio::test]
async fn a_gateway_named_by_its_url_is_never_replaced() {
    let address = nowhere().await;
    let ran = run(&setup(), &["agent", "-m", "hi", "--url", &address, "--token", "t"]).await;
    ran.refused(&format!("Gateway not reachable at ws://{address} (connection refused)."));
}

#[tokio::test]
async fn a_gateway_that_refuses_the_credential_is_not_replaced() {
    let gateway = FakeGateway::start([Visit::Refused("unauthorized: gateway token mismatch")]).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi"]).await;
    ran.refused(&format!(
        "The gateway at ws://{} refused the connection: unauthorized: gateway token mismatch",
        gateway.address
    ));
}

#[tokio::test]
async fn what_a_gateway_says_cannot_move_the_cursor() {
    let gateway = FakeGateway::start([Visit::Refused("no\u{1b}]0;pwned\u{7}\u{1b}[2J\u{202e}")]).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi"]).await;
    ran.refused(&format!("The gateway at ws://{} refused the connection: no]0;pwned[2J", gateway.address));
}

#[tokio::test]
async fn a_handshake_that_is_closed_without_a_reason_is_tried_again() {
    let visits = [Visit::ClosedAtOnce, Visit::Served(vec![Step::Accept, said("there")])];
    let gateway = FakeGateway::start(visits).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi", "--no-fallback"]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "there\n"));
    assert_eq!(ran.stderr, "Gateway agent connection closed during handshake; retrying in 1000ms before failing.\n");
}

#[tokio::test]
async fn a_gateway_that_has_just_started_gets_a_moment_to_name_its_address() {
    let gateway = FakeGateway::saying("here").await;
    let setup = setup().config("[gateway]\nauth.token = 't'\n");
    let mut held = Held::new(&setup, None);
    let mut command = setup.command(&["agent", "-m", "hi"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    held.announce(Some(gateway.address));
    let ran = ran(child.wait_with_output().await.unwrap());
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "here\n"), "{ran:?}");
}

#[tokio::test]
async fn a_broken_connection_is_made_again_and_the_same_run_asked_for() {
    for first in [vec![Step::Accept, Step::Delta("He"), Step::Break], vec![Step::Break]] {
        let visits = [Visit::Served(first), Visit::Served(vec![Step::Accept, said("Hello")])];
        let gateway = FakeGateway::start(visits).await;
        let ran = run(&gateway.setup(), &["agent", "-m", "hi", "--session-key", "x"]).await;
        assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "Hello\n"), "{ran:?}");
        let turns: Vec<_> = gateway.asked().into_iter().filter(|asked| asked.method == "agent").collect();
        assert_eq!(turns.len(), 2);
        assert_eq!(turns[0].params, turns[1].params, "the same request, so that it cannot run twice");
        assert_eq!((turns[0].connection, turns[1].connection), (0, 1));
        let run = turns[0].params["idempotencyKey"].as_str().unwrap();
        assert!(ran.stderr.contains(&format!("re-attaching to run {run}.")), "{ran:?}");
    }
}

#[tokio::test]
async fn a_run_that_is_in_flight_after_a_break_is_waited_for() {
    let visits = [Visit::Served(vec![Step::Accept, Step::Break]), Visit::InFlight(vec![said("Hello")])];
    let gateway = FakeGateway::start(visits).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi"]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "Hello\n"), "{ran:?}");
    let methods: Vec<String> = gateway.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["connect", "agent", "connect", "agent", "agent.wait", "agent"]);
}

#[tokio::test]
async fn a_refusal_after_a_break_is_an_answer() {
    let busy = json!({"code": "UNAVAILABLE", "message": "the session's queue is full", "retryable": true,
                      "retryAfterMs": 1000, "details": {"code": "too_busy"}});
    let gateway = FakeGateway::start([Visit::Served(vec![Step::Break]), Visit::Served(vec![Step::Refuse(busy)])]).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi"]).await;
    assert_eq!(ran.exit, Some(1), "{ran:?}");
    assert!(ran.stderr.ends_with("\nError: the session's queue is full\n"), "{ran:?}");
    assert_eq!(gateway.asked().last().unwrap().connection, 1, "it was asked once");
}

#[tokio::test]
async fn a_gateway_that_is_being_replaced_is_asked_again_for_the_run() {
    let restarting = json!({"code": "UNAVAILABLE", "message": "gateway restarting; retry shortly", "retryable": true,
                            "details": {"reason": "gateway-restarting"}});
    let visits = [
        Visit::Served(vec![Step::Accept, Step::Break]),
        Visit::Served(vec![Step::Refuse(restarting.clone())]),
        Visit::Served(vec![Step::Refuse(restarting)]),
        Visit::Served(vec![Step::Accept, said("Hello")]),
    ];
    let gateway = FakeGateway::start(visits).await;
    let ran = run(&gateway.setup(), &["agent", "-m", "hi"]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "Hello\n"), "{ran:?}");
    assert!(ran.stderr.contains("lost (gateway restarting; retry shortly); re-attaching"), "{ran:?}");
}

#[tokio::test]
async fn a_gateway_that_is_gone_for_good_leaves_a_hint_and_no_second_run() {
    let gateway = FakeGateway::start([Visit::Served(vec![Step::Accept, Step::Vanish])]).await;
    let setup = gateway.setup();
    let ran = run(&setup, &["agent", "-m", "hi", "--json"]).await;
    assert_eq!(ran.exit, Some(1));
    let answer = ran.json();
    let run = gateway.turn()["idempotencyKey"].as_str().unwrap().to_owned();
    assert_eq!((&answer["ok"], &answer["runId"], &answer["origin"]), (&json!(false), &json!(run), &json!("gateway")));
    let expected = format!(
        "Gateway agent call connection closed; the Gateway may still be running this turn (accepted run {run}; use \
         --timeout <seconds> to extend the CLI wait). Check that the Gateway is up and read the session transcript \
         before retrying or rerunning with --local, so the turn does not execute twice.\nGateway not reachable at \
         ws://{} (connection refused).",
        gateway.address
    );
    assert_eq!(answer["error"]["message"], expected);
    assert!(!setup.state_dir().join("store.db").exists(), "it was not run here");
}

#[tokio::test]
async fn a_real_gateway_that_is_killed_in_the_middle_never_runs_the_turn_twice() {
    let model = MockProvider::start().await;
    model.push(Reply::hang());
    let setup = setup().config(&format!(
        "[[agents]]\nid = 'main'\nmodel = 'p/m'\n[providers.p]\nkind = 'openai'\nbase_url = '{}'\n",
        model.base_url()
    ));
    let gateway = setup.start().await;
    let address = gateway.address();
    let mut command = setup.command(&["agent", "-m", "once-only", "--session-key", "x", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    model.wait_for_requests(1).await;
    gateway.kill().await;
    let gateway = setup.start_at(address).await;
    let ran = ran(child.wait_with_output().await.unwrap());
    assert!(ran.stderr.contains("re-attaching to run"), "{ran:?}");
    // The restarted gateway takes the run up: it had done nothing lasting, so the model is asked anew, and it is the
    // same run that the client hears of.
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert_eq!(ran.json()["status"], "ok");
    let asked = model.requests();
    assert_eq!(asked.len(), 2, "once by each process");
    let inputs = asked[1].body["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
    assert_eq!(inputs.count(), 1, "the input is there once");
    drop(gateway);
}
