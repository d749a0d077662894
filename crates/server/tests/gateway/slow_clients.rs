//! Clients that do not read.

use std::time::Duration;

use serde_json::json;
use watertight_server::ServerOptions;
use watertight_server::options::Timing;

use super::{chat, start};

#[tokio::test]
async fn a_client_that_does_not_read_its_events_is_closed_and_holds_nobody_up() {
    let server = start(ServerOptions::default()).await;
    let (stuck, busy) = (server.client().await, server.client().await);
    stuck.set_reading(false);
    // Beyond 8 MiB of events and what the two kernels hold.
    for n in 0..12 {
        chat(&busy, &format!("agent:main:long-{n}"), "/echo long 1000000", &format!("r{n}")).await;
        busy.take_events();
    }
    stuck.set_reading(true);
    let closed = stuck.closed().await;
    assert!(closed.code.is_none_or(|code| code == 1008), "{closed:?}");
    let finals = stuck.events().iter().filter(|frame| frame["payload"]["state"] == "final").count();
    assert!(finals < 12, "it had everything");
    assert!(busy.request("health", json!({})).await.is_ok());
}

#[tokio::test]
async fn a_client_that_never_reads_again_is_let_go_at_once() {
    // Neither a tick nor a ping comes to its help: the overflow itself ends it.
    let never = Duration::from_hours(1);
    let timing = Timing { tick: never, ping: never, ..Timing::default() };
    let server = start(ServerOptions { timing, ..ServerOptions::default() }).await;
    let (stuck, busy) = (server.client().await, server.client().await);
    let connections = async || {
        let presence = busy.request("system-presence", json!({})).await.unwrap();
        presence.as_array().unwrap().len() - 1
    };
    stuck.set_reading(false);
    assert_eq!(connections().await, 2);
    for n in 0..12 {
        chat(&busy, &format!("agent:main:long-{n}"), "/echo long 1000000", &format!("r{n}")).await;
        busy.take_events();
    }
    while connections().await == 2 {
        busy.next_payload("presence", |_| true).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_asked_for_more_and_loses_none() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    chat(&client, "main", "/echo long 3000000", "r").await;
    client.take_events();
    client.set_reading(false);
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(client.send("chat.history", Some(json!({"sessionKey": "main"}))).await);
    }
    client.set_reading(true);
    for mut answer in answers {
        let answer = answer.next().await.expect("every request is answered");
        assert_eq!(answer["payload"]["messages"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn large_pictures_and_answers_close_no_connection_that_reads() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    client.request("sessions.subscribe", json!({})).await.unwrap();
    let picture = json!({"type": "image", "mimeType": "image/png", "content": "A".repeat(8 * 1024 * 1024)});
    let send = json!({"sessionKey": "main", "message": "look", "idempotencyKey": "p", "attachments": [picture]});
    client.request("chat.send", send).await.unwrap();
    client.next_payload("chat", |chat| chat["runId"] == "p" && chat["state"] == "final").await;
    let text = chat(&client, "main", "/echo long 4194304", "t").await;
    assert_eq!(text.len(), 4_194_304);
    assert!(client.request("health", json!({})).await.is_ok());
}

#[tokio::test]
async fn a_client_that_asks_and_never_reads_is_let_go() {
    // Long enough for the busy client to answer from a loaded machine.
    let (ping, pong) = (Duration::from_millis(100), Duration::from_secs(5));
    let timing = Timing { ping, pong, presence: Duration::from_millis(10), ..Timing::default() };
    let server = start(ServerOptions { timing, ..ServerOptions::default() }).await;
    let (stuck, busy) = (server.client().await, server.client().await);
    chat(&busy, "main", "/echo long 3000000", "r").await;
    stuck.set_reading(false);
    for _ in 0..12 {
        stuck.send("chat.history", Some(json!({"sessionKey": "main"}))).await;
    }
    busy.next_payload("presence", |presence| presence["presence"].as_array().unwrap().len() == 2).await;
}
