//! The official command line against ours.

use std::process::Output;

use serde_json::Value;

use crate::clients::{Clients, Target};
use crate::stage;

#[track_caller]
fn stdout(output: &Output) -> &str {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", output.status);
    std::str::from_utf8(&output.stdout).expect("openclaw prints UTF-8")
}

#[tokio::test]
async fn openclaw_agent_gets_an_answer_and_continues_the_session() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let target = &gateway.target();
    let first = clients.openclaw(target, &["agent", "--session-key", "agent:main:e2e", "--message", "hi"]).await;
    assert!(stdout(&first).contains("Echo: hi"), "{}", stdout(&first));

    let args = ["agent", "--session-key", "agent:main:e2e", "--message", "once more", "--json"];
    let second = clients.openclaw(target, &args).await;
    let answer: Value = serde_json::from_str(stdout(&second)).expect("--json prints JSON");
    assert_eq!((&answer["status"], &answer["summary"]), (&"ok".into(), &"completed".into()), "{answer:#}");
    let text = answer["result"]["payloads"][0]["text"].as_str().expect("an answer");
    assert!(text.contains("once more") && text.contains("(turn 2)"), "{text}");
}

#[tokio::test]
async fn openclaw_agent_without_a_key_runs_in_the_agent_s_main_session() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let output = clients.openclaw(&gateway.target(), &["agent", "--agent", "main", "--message", "hello"]).await;
    assert!(stdout(&output).contains("Echo: hello"));
    let mut client = gateway.client().await;
    let list = client.call("sessions.list", serde_json::json!({})).await;
    assert_eq!(list["sessions"][0]["key"], "agent:main:main", "{list:#}");
}

#[tokio::test]
async fn openclaw_reports_a_failed_turn() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let args = ["agent", "--session-key", "agent:main:e2e", "--message", "/echo fail context_length"];
    let output = clients.openclaw(&gateway.target(), &args).await;
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("context window"), "{errors}");
}

#[tokio::test]
async fn openclaw_gateway_calls_are_answered() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let target = &gateway.target();
    let output = clients.openclaw(target, &["gateway", "call", "health", "--json"]).await;
    let health: Value = serde_json::from_str(stdout(&output)).expect("--json prints JSON");
    assert_eq!(health["ok"], true, "{health:#}");

    let output = clients.openclaw(target, &["gateway", "call", "sessions.list", "--json"]).await;
    let list: Value = serde_json::from_str(stdout(&output)).expect("--json prints JSON");
    assert_eq!((&list["count"], &list["sessions"]), (&0.into(), &serde_json::json!([])), "{list:#}");

    let output = clients.openclaw(target, &["health"]).await;
    assert!(stdout(&output).contains("Agents: main (default)"), "{}", stdout(&output));

    let output = clients.openclaw(target, &["gateway", "call", "no.such.method"]).await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown method: no.such.method"));
}

#[tokio::test]
async fn openclaw_with_a_wrong_token_is_turned_away() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let wrong = &Target { token: "wrong".to_owned(), ..gateway.target() };
    let output = clients.openclaw(wrong, &["gateway", "call", "sessions.list"]).await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("token mismatch"), "{said}");
}
