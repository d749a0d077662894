//! A wall clock that jumps while runs are under way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use watertight_engine::clock::Clock;
use watertight_server::ServerOptions;

use super::{chat, message, start_by};

const DAY: i64 = 24 * 60 * 60 * 1000;

async fn jumps_by(millis: i64) {
    let jump = Arc::new(AtomicI64::new(0));
    let clock = {
        let jump = jump.clone();
        Clock::from_fn(move || Clock::system().now().plus_millis(jump.load(Ordering::Relaxed)))
    };
    let server = start_by(clock, "", ServerOptions::default()).await;
    let client = server.client().await;
    chat(&client, "main", "before", "r1").await;
    let slow = json!({"sessionKey": "main", "message": "/echo slow 4", "idempotencyKey": "r2"});
    let mut answers = client.send("agent", Some(slow)).await;
    assert_eq!(answers.next().await.unwrap()["payload"]["status"], "accepted");
    client.request("chat.send", message("main", "waiting", "r3")).await.unwrap();
    client.next_payload("chat", |chat| chat["runId"] == "r2" && chat["state"] == "delta").await;

    jump.store(millis, Ordering::Relaxed);

    let ended = answers.next().await.unwrap()["payload"].take();
    assert_eq!(ended["status"], "ok", "{ended:#}");
    let took = ended["result"]["meta"]["durationMs"].as_i64().unwrap();
    assert!((0..=DAY + 600_000).contains(&took), "{took}");
    client.next_payload("chat", |chat| chat["runId"] == "r3" && chat["state"] == "final").await;
    assert!(chat(&client, "main", "after", "r4").await.contains("after"));
    let again = client.request("chat.send", message("main", "before", "r1")).await.unwrap();
    assert_eq!(again["status"], "ok", "what ran stays known: {again:#}");

    let history = client.request("chat.history", json!({"sessionKey": "main"})).await.unwrap();
    let inputs = history["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "user");
    let inputs: Vec<_> = inputs.map(|m| m["content"].as_str().unwrap_or_default()).collect();
    assert_eq!(inputs, ["before", "/echo slow 4", "waiting", "after"], "the order is not the clock's");
    let cursor = &history["deltaCursor"];
    chat(&client, "main", "last", "r5").await;
    let delta = client.request("chat.history", json!({"sessionKey": "main", "cursor": cursor})).await.unwrap();
    assert_eq!(delta["messages"].as_array().unwrap().len(), 2, "{delta:#}");
    let list = client.request("sessions.list", json!({})).await.unwrap();
    assert_eq!(list["totalCount"], 1);
}

#[tokio::test]
async fn a_clock_that_goes_back_by_a_day_disturbs_neither_runs_nor_order() {
    jumps_by(-DAY).await;
}

#[tokio::test]
async fn a_clock_that_goes_ahead_by_a_day_ends_no_run() {
    jumps_by(DAY).await;
}
