//! Turns without a gateway, and in its place.

use serde_json::json;

use crate::command::{Ran, TWO_AGENTS, run, setup};

#[tokio::test]
async fn a_local_turn_needs_no_gateway_and_leaves_the_directory_free() {
    let setup = setup();
    let first = run(&setup, &["agent", "--local", "-m", "marker-one", "--session-key", "x"]).await;
    assert_eq!((first.exit, first.stderr.as_str()), (Some(0), ""), "{first:?}");
    assert!(first.stdout.contains("marker-one"), "the echo model repeats it: {first:?}");
    let again = run(&setup, &["agent", "--local", "-m", "marker-two", "--session-key", "x"]).await;
    assert_eq!(again.exit, Some(0), "{again:?}");
}

#[tokio::test]
async fn local_json_is_the_inner_object_alone() {
    let setup = setup();
    let ran = run(&setup, &["agent", "--local", "-m", "hi", "--session-key", "x", "--json"]).await;
    let answer = ran.json();
    let keys: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["meta", "payloads"]);
    assert!(answer["payloads"][0]["text"].as_str().unwrap().contains("hi"));
    let meta = &answer["meta"];
    assert_eq!((&meta["aborted"], &meta["stopReason"]), (&json!(false), &json!("stop")));
    assert!(meta["durationMs"].is_u64());
    let agent = &meta["agentMeta"];
    assert_eq!(agent["sessionKey"], "agent:main:x");
    assert_eq!((&agent["provider"], &agent["model"]), (&json!("echo"), &json!("echo")));
    assert_eq!(agent["sessionId"].as_str().unwrap().len(), 36);
    assert!(agent["usage"]["total"].is_u64());
}

async fn session_of(setup: &watertight_testkit::GatewaySetup, flags: &[&str]) -> (String, String) {
    let ran = run(setup, &[&["agent", "--local", "-m", "hi", "--json"], flags].concat()).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let agent = ran.json()["meta"]["agentMeta"].clone();
    let text = |name: &str| agent[name].as_str().unwrap().to_owned();
    (text("sessionKey"), text("sessionId"))
}

#[tokio::test]
async fn a_session_id_finds_its_session_and_else_makes_one() {
    let setup = setup().config(TWO_AGENTS);
    let (key, id) = session_of(&setup, &["--session-key", "agent:ops:x"]).await;
    assert_eq!(key, "agent:ops:x");
    assert_eq!(session_of(&setup, &["--session-id", &id]).await, (key, id));
    let made = session_of(&setup, &["--session-id", "my-id", "--agent", "ops"]).await;
    assert_eq!(made, ("agent:ops:explicit:my-id".to_owned(), "my-id".to_owned()));
}

#[tokio::test]
async fn a_key_with_a_session_id_switches_the_transcript() {
    let setup = setup();
    let (key, first) = session_of(&setup, &["--session-key", "x"]).await;
    let switched = session_of(&setup, &["--session-key", "x", "--session-id", "other"]).await;
    assert_eq!(switched, (key.clone(), "other".to_owned()));
    assert_eq!(session_of(&setup, &["--session-key", "x"]).await.1, "other");
    assert_eq!(session_of(&setup, &["--session-key", "x", "--session-id", &first]).await, (key, first));
}

#[tokio::test]
async fn without_a_key_the_main_session_is_used() {
    let setup = setup().config(TWO_AGENTS);
    assert_eq!(session_of(&setup, &[]).await.0, "agent:main:main");
    assert_eq!(session_of(&setup, &["--agent", "ops"]).await.0, "agent:ops:main");
    assert_eq!(session_of(&setup, &["--to", "+15555550123"]).await.0, "agent:main:main");
    assert_eq!(session_of(&setup, &["--session-key", "global"]).await.0, "global");
    assert_eq!(session_of(&setup, &["--session-key", "global", "--agent", "ops"]).await.0, "agent:ops:global");
}

#[tokio::test]
async fn local_is_refused_while_a_gateway_serves_the_directory() {
    let setup = setup();
    let gateway = setup.start().await;
    let ran = run(&setup, &["agent", "--local", "-m", "hi"]).await;
    ran.refused(&format!(
        "A Gateway is running for this state directory (pid {}, address {}). Run without --local to use it, or stop \
         the Gateway first.",
        gateway.pid(),
        gateway.address()
    ));
}

fn down() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("[gateway]\nlisten = '{}'\n", listener.local_addr().unwrap())
}

#[tokio::test]
async fn without_a_gateway_the_turn_runs_here_in_the_same_session_and_says_so() {
    let setup = setup().config(&down());
    let ran = run(&setup, &["agent", "-m", "hi", "--session-key", "x", "--json"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert!(ran.stderr.starts_with("Gateway not reachable at ws://127.0.0.1:"), "{ran:?}");
    assert!(ran.stderr.ends_with("Running the turn in this process instead, in the same session.\n"), "{ran:?}");
    let meta = &ran.json()["meta"];
    assert_eq!((&meta["transport"], &meta["fallbackFrom"]), (&json!("embedded"), &json!("gateway")));
    let key = |ran: &Ran| ran.json()["meta"]["agentMeta"]["sessionKey"].clone();
    assert_eq!(key(&ran), "agent:main:x");

    let gateway = setup.start().await;
    let over = run(&setup, &["agent", "-m", "and now?", "--session-key", "x", "--json"]).await;
    let ids = [&ran.json()["meta"], &over.json()["result"]["meta"]].map(|meta| meta["agentMeta"]["sessionId"].clone());
    assert_eq!(ids[0], ids[1], "the gateway goes on in the same transcript");
    drop(gateway);
}

#[tokio::test]
async fn a_provider_that_fails_is_an_error_here_too() {
    let setup = setup().config(
        "[[agents]]\nid = 'main'\nmodel = 'p/m'\n[providers.p]\nkind = 'openai'\nbase_url = 'http://127.0.0.1:1/v1'\n",
    );
    let ran = run(&setup, &["agent", "--local", "-m", "hi", "--json"]).await;
    assert_eq!((ran.exit, &ran.json()["ok"]), (Some(1), &json!(false)), "{ran:?}");
    assert!(!ran.json()["error"]["message"].as_str().unwrap().is_empty());
}
