//! Frames that no client should send.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::assert_sound;
use crate::socket::Socket;
use crate::stage;

#[tokio::test]
async fn an_oversize_frame_before_hello_closes_the_connection_with_1009() {
    let gateway = stage::echo().await;
    let mut socket = Socket::open(&gateway.url()).await;
    socket.send_message(Message::text("x".repeat(65_537))).await;
    assert_eq!(socket.closed().await.code, Some(1009));
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn an_oversize_frame_after_hello_closes_only_its_connection() {
    let gateway = stage::echo().await;
    let mut neighbour = gateway.client().await;
    let mut socket = gateway.client().await;
    socket.send_message(Message::text(" ".repeat(26_214_401))).await;
    assert_eq!(socket.closed().await.code, Some(1009));
    assert_eq!(neighbour.call("health", json!({})).await["ok"], true);
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn the_largest_frame_is_still_read() {
    let gateway = stage::echo().await;
    let mut socket = gateway.client().await;
    let frame = json!({"type": "req", "id": "big", "method": "health"}).to_string();
    socket.send_message(Message::text(frame.clone() + &" ".repeat(26_214_400 - frame.len()))).await;
    assert_eq!(socket.response("big").await["ok"], true);
}

#[tokio::test]
async fn a_first_frame_other_than_connect_ends_the_connection() {
    let gateway = stage::echo().await;
    for first in [
        json!({"type": "req", "id": "1", "method": "health"}).to_string(),
        json!({"type": "event", "event": "connect"}).to_string(),
        "not json".to_owned(),
        "[".repeat(60_000),
        "{}".to_owned(),
    ] {
        let mut socket = Socket::open(&gateway.url()).await;
        socket.send_message(Message::text(first.clone())).await;
        let close = socket.closed().await;
        assert_eq!(close.code, Some(1008), "{first:.80} {close:?}");
    }
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn unreadable_text_after_hello_leaves_the_connection_open() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let deep = format!(
        "{{\"type\":\"req\",\"id\":\"deep\",\"method\":\"health\",\"params\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for text in ["not json", "", "{\"type\":\"req\"", "\u{feff}{}", &deep] {
        client.send_message(Message::text(text.to_owned())).await;
        assert_eq!(client.call("health", json!({})).await["ok"], true, "after {text:.40}");
    }
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn a_frame_that_is_no_request_is_answered_and_the_connection_stays() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    for (frame, id) in [
        (json!({"type": "req", "id": "a1"}), "a1"),
        (json!({"type": "req", "id": "a2", "method": ""}), "a2"),
        (json!({"type": "req", "id": "a3", "method": 7}), "a3"),
        (json!({"type": "req", "method": "health"}), "invalid"),
        (json!({"type": "req", "id": "", "method": "health"}), "invalid"),
        (json!({"type": "nonsense", "id": "a4"}), "a4"),
        (json!([1, 2]), "invalid"),
        (json!("text"), "invalid"),
        (Value::Null, "invalid"),
    ] {
        client.send(&frame).await;
        let response = client.until(&frame.to_string(), |f| f["type"] == "res" && f["ok"] == false).await;
        let message = response["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(response["error"]["code"], "INVALID_REQUEST", "{frame} got {response:#}");
        assert!(message.starts_with("invalid request frame"), "{frame} got {message}");
        let echoed = response["id"].as_str().unwrap_or_default();
        assert!(echoed == id || echoed == "invalid", "{frame} got the id {echoed:?}");
    }
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn unknown_methods_and_bad_parameters_are_refused_by_name() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    for (method, params, says) in [
        ("no.such.method", json!({}), "unknown method: no.such.method"),
        ("chat.send", json!({"sessionKey": "main", "message": "x"}), "must have required property 'idempotencyKey'"),
        (
            "chat.send",
            json!({"sessionKey": "main", "message": "", "idempotencyKey": "a"}),
            "message or attachment required",
        ),
        ("chat.send", json!({"sessionKey": 7, "message": "x", "idempotencyKey": "a"}), "sessionKey"),
        ("chat.send", json!([]), "invalid chat.send params"),
        ("chat.history", json!({"sessionKey": "main", "limit": -1}), "limit"),
        ("agent", json!({"message": "x", "idempotencyKey": "a", "timeout": "soon"}), "timeout"),
        ("sessions.resolve", json!({}), "invalid sessions.resolve params"),
    ] {
        let error = client.refused(method, params.clone()).await;
        assert_eq!(error["code"], "INVALID_REQUEST", "{method} {params}: {error:#}");
        assert!(error["message"].as_str().unwrap_or_default().contains(says), "{method} {params}: {error:#}");
    }
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_disturb_nobody() {
    let gateway = stage::echo().await;
    let mut neighbour = gateway.client().await;
    let not_utf8 = Frame::message(b"{\"type\":\"req\",\"id\":\"\xff\xfe\"}".to_vec(), OpCode::Data(Data::Text), true);
    for (message, code) in [
        (Message::Frame(not_utf8), 1007),
        (Message::binary(b"{\"type\":\"req\",\"id\":\"b\",\"method\":\"health\"}".to_vec()), 1003),
        (Message::binary(vec![0_u8; 1000]), 1003),
    ] {
        for mut socket in [Socket::open(&gateway.url()).await, gateway.client().await] {
            socket.send_message(message.clone()).await;
            assert_eq!(socket.closed().await.code, Some(code), "{message:?}");
            assert_eq!(neighbour.call("health", json!({})).await["ok"], true);
        }
    }
    let mut alive = gateway.client().await;
    alive.send_message(Message::Ping(b"there?".to_vec().into())).await;
    assert_eq!(alive.call("health", json!({})).await["ok"], true);
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn a_reused_run_id_with_another_message_or_session_is_a_conflict() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let turn = client.chat("agent:main:a", "first").await;
    for (key, message) in [("agent:main:a", "second"), ("agent:main:b", "first")] {
        let params = json!({"sessionKey": key, "message": message, "idempotencyKey": turn.run});
        assert_eq!(client.refused("chat.send", params).await["code"], "INVALID_REQUEST");
    }
    assert_eq!(client.history("agent:main:a").await.len(), 2);
    assert_eq!(client.history("agent:main:b").await.len(), 0);
}
