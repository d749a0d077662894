//! Ticks, pings, presence, and how it ends.

use std::time::Duration;

use serde_json::json;
use watertight_server::ServerOptions;
use watertight_server::options::Timing;
use watertight_testkit::gateway_client::{Closed, ConnectError, ConnectOptions, GatewayClient};

use super::{chat, message, start};

fn timing(change: impl FnOnce(&mut Timing)) -> ServerOptions {
    let mut timing = Timing::default();
    change(&mut timing);
    ServerOptions { timing, ..ServerOptions::default() }
}

#[tokio::test]
async fn ticks_come_at_the_announced_interval_and_numbers_have_no_gaps() {
    let server = start(timing(|timing| timing.tick = Duration::from_millis(30))).await;
    let client = server.client().await;
    assert_eq!(client.hello()["policy"]["tickIntervalMs"], 30);
    for _ in 0..3 {
        assert!(client.next_payload("tick", |_| true).await["ts"].is_i64());
    }
    let numbers: Vec<u64> = client.events().iter().filter_map(|frame| frame["seq"].as_u64()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_and_one_that_does_not_is_dropped() {
    let server = start(timing(|timing| {
        timing.ping = Duration::from_millis(50);
        timing.pong = Duration::from_millis(300);
        timing.tick = Duration::from_millis(100);
    }))
    .await;
    let (alive, dead) = (server.client().await, server.client().await);
    dead.set_reading(false);
    for _ in 0..10 {
        alive.next_payload("tick", |_| true).await;
    }
    dead.set_reading(true);
    dead.closed().await;
    assert!(alive.request("health", json!({})).await.is_ok());
}

#[tokio::test]
async fn coming_and_going_is_told() {
    let server = start(timing(|timing| timing.presence = Duration::from_millis(10))).await;
    let watcher = server.client().await;
    let other = server
        .try_client(&ConnectOptions { client_id: "cli".into(), mode: "cli".into(), ..ConnectOptions::default() })
        .await
        .unwrap();
    let modes = |presence: &serde_json::Value| {
        presence["presence"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["mode"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    watcher.next_payload("presence", |presence| modes(presence) == ["gateway", "backend", "cli"]).await;
    drop(other);
    watcher.next_payload("presence", |presence| modes(presence) == ["gateway", "backend"]).await;
}

#[tokio::test]
async fn a_shutdown_lets_runs_end_refuses_newcomers_and_closes_with_1012() {
    let mut server = start(ServerOptions::default()).await;
    let client = server.client().await;
    client.request("chat.send", message("main", "/echo slow 15", "r")).await.unwrap();
    client.next_payload("chat", |chat| chat["state"] == "delta").await;
    server.stop.cancel();

    // Until the run has ended, newcomers learn that they should come back.
    let newcomer = loop {
        match server.try_client(&ConnectOptions::default()).await {
            Err(error) => break error,
            Ok(early) => drop(early),
        }
    };
    let ConnectError::Refused { error, closed } = newcomer else { panic!("{newcomer}") };
    assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
    assert_eq!(error["details"]["reason"], "gateway-restarting");
    assert_eq!(closed.code, Some(1013));
    let late = client.request("chat.send", message("main", "late", "l")).await.unwrap_err();
    assert_eq!((&late["code"], &late["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));

    let end = client.next_payload("chat", |chat| chat["runId"] == "r" && chat["state"] == "final").await;
    assert!(end["message"]["content"][0]["text"].as_str().unwrap().contains("word15"), "{end}");
    assert_eq!(client.next_payload("shutdown", |_| true).await, json!({"reason": "gateway stopping"}));
    assert_eq!(client.closed().await, Closed { code: Some(1012), reason: "service restart".into() });
    (&mut server.server).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_run_is_answered_for_before_a_shutdown_closes_the_connection() {
    let mut server = start(ServerOptions { drain_grace: Duration::ZERO, ..ServerOptions::default() }).await;
    let client = server.client().await;
    let mut runs = Vec::new();
    for n in 0..40 {
        let params = json!({
            "message": "/echo hang", "sessionKey": format!("agent:main:s{n}"), "idempotencyKey": format!("r{n}"),
        });
        runs.push(client.send("agent", Some(params)).await);
    }
    for run in &mut runs {
        assert_eq!(run.next().await.unwrap()["payload"]["status"], "accepted");
    }
    server.stop.cancel();
    for run in &mut runs {
        assert!(run.next().await.is_some_and(|last| last["payload"]["runId"].is_string()), "an answer is lost");
    }
    assert_eq!(client.closed().await.code, Some(1012));
    (&mut server.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_frame_that_is_no_text_closes_with_1003_and_a_huge_one_with_1009() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    client.send_binary(b"{}".to_vec()).await;
    assert_eq!(client.closed().await, Closed { code: Some(1003), reason: "text frames only".into() });
    let client = server.client().await;
    client.send_text("x".repeat(25 * 1024 * 1024 + 1)).await;
    assert_eq!(client.closed().await, Closed { code: Some(1009), reason: "payload too large".into() });
}

#[tokio::test]
async fn unreadable_frames_leave_the_connection_open() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    client.send_text("{nope").await;
    client.send_text("[".repeat(100_000)).await;
    client.send_text(r#"{"type":"req","id":"7","method":""}"#).await;
    assert!(client.request("health", json!({})).await.is_ok());
}

#[tokio::test]
async fn a_run_goes_on_without_the_client_that_started_it() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let mut answers = client
        .send("agent", Some(json!({"message": "/echo slow 3", "sessionKey": "main", "idempotencyKey": "r"})))
        .await;
    answers.next().await.unwrap();
    drop(client);
    let other = server.client().await;
    let waited = other.request("agent.wait", json!({"runId": "r"})).await.unwrap();
    assert_eq!(waited["status"], "ok");
    assert!(chat(&other, "main", "next", "n").await.contains("turn 2"));
}

#[tokio::test]
async fn a_polite_close_is_answered() {
    let server = start(ServerOptions::default()).await;
    let client: GatewayClient = server.client().await;
    client.close().await;
}
