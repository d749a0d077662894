//! The administration API, and what a revocation does to sockets that are open.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use watertight_server::ServerOptions;
use watertight_testkit::gateway_client::ConnectOptions;

use super::{Running, message, start};

/// The status and the body of an answer.
async fn ask(server: &Running, token: Option<&str>, line: &str, body: Option<&Value>, more: &str) -> (u16, Value) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{bearer}{more}");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let mut socket = TcpStream::connect(server.address).await.expect("it listens");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("it answers");
    let answer = String::from_utf8(answer).expect("text");
    let status = answer[9..12].parse().expect("a status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn post(server: &Running, path: &str, body: Value) -> Value {
    let (status, answer) = ask(server, server.token.as_deref(), &format!("POST {path}"), Some(&body), "").await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// A user with a token to read and write.
async fn user(server: &Running, name: &str) -> Value {
    post(server, "/v1/admin/principals", json!({"name": name})).await;
    post(server, "/v1/admin/tokens", json!({"principal": name, "scopes": ["read", "write"]})).await
}

fn showing(token: &Value) -> ConnectOptions {
    ConnectOptions { extra: json!({"auth": {"token": token}}), ..ConnectOptions::default() }
}

#[tokio::test]
async fn nobody_administers_without_a_credential_that_may() {
    let server = start(ServerOptions::default()).await;
    let token = user(&server, "alice").await["token"].clone();
    for line in ["GET /v1/admin/principals", "POST /v1/admin/tokens"] {
        let (status, answer) = ask(&server, None, line, Some(&json!({})), "").await;
        assert_eq!((status, &answer["error"]["code"]), (401, &json!("unauthorized")), "{line}");
    }
    let (status, answer) = ask(&server, token.as_str(), "GET /v1/admin/principals", None, "").await;
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("forbidden")));
    let operator = server.token.as_deref();
    let foreign = "Origin: https://evil.example\r\n";
    let (status, answer) = ask(&server, operator, "GET /v1/admin/principals", None, foreign).await;
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("origin_not_allowed")));
    let twice = format!("Authorization: Bearer {}\r\n", operator.unwrap_or_default());
    let (status, answer) = ask(&server, operator, "GET /v1/admin/principals", None, &twice).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("duplicate_security_header")));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_in_words() {
    let server = start(ServerOptions::default()).await;
    let operator = server.token.as_deref();
    for (line, body, status) in [
        ("POST /v1/admin/tokens", json!({"principal": "nobody", "scopes": ["read"]}), 404),
        ("POST /v1/admin/tokens", json!({"principal": "operator", "scopes": ["fly"]}), 400),
        ("POST /v1/admin/tokens", json!({"principal": "operator", "scopes": []}), 400),
        ("POST /v1/admin/principals", json!({"name": "a:b"}), 400),
        ("POST /v1/admin/principals", json!({"name": "a", "color": "red"}), 400),
        ("POST /v1/admin/grants", json!({"principal": "operator", "verbs": ["read"], "prefix": "a::b"}), 400),
        ("POST /v1/admin/tokens/xyz/revoke", json!({}), 400),
        ("POST /v1/admin/tokens/0000000000000000/revoke", json!({}), 404),
        ("DELETE /v1/admin/grants/00000000-0000-0000-0000-000000000000", json!({}), 404),
        ("GET /v1/admin/audit?limit=x", json!({}), 400),
        ("GET /v1/admin/nowhere", json!({}), 404),
    ] {
        let (got, answer) = ask(&server, operator, line, Some(&body), "").await;
        assert_eq!(got, status, "{line}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
    }
}

#[tokio::test]
async fn a_users_socket_closes_before_its_revocation_is_answered() {
    let server = start(ServerOptions::default()).await;
    let (alice, bob) = (user(&server, "alice").await, user(&server, "bob").await);
    let open = server.try_client(&showing(&alice["token"])).await.expect("alice is let in");
    let other = server.try_client(&showing(&bob["token"])).await.expect("bob is let in");
    assert!(open.request("chat.send", message("notes", "hello", "r1")).await.is_ok());
    let id = alice["id"].as_str().expect("an id");
    let done = post(&server, &format!("/v1/admin/tokens/{id}/revoke"), json!({})).await;
    assert_eq!(done, json!({"revoked": [id], "closed": 1}));
    let end = open.closed().await;
    assert_eq!((end.code, end.reason.as_str()), (Some(4001), "revoked"));
    assert!(server.try_client(&showing(&alice["token"])).await.is_err());
    assert!(other.request("sessions.list", json!({})).await.is_ok());
    let foreign = other.request("chat.history", json!({"sessionKey": "agent:main:user:alice:notes"})).await;
    assert!(
        foreign.expect_err("not bob's")["message"].as_str().is_some_and(|text| text.starts_with("No session found"))
    );
}

#[tokio::test]
async fn a_refresh_token_is_traded_once() {
    let server = start(ServerOptions::default()).await;
    post(&server, "/v1/admin/principals", json!({"name": "alice"})).await;
    let wanted = json!({"principal": "alice", "scopes": ["read"], "refresh": true});
    let pair = post(&server, "/v1/admin/tokens", wanted).await;
    let trade = json!({"refreshToken": pair["refreshToken"]});
    let (status, second) = ask(&server, None, "POST /v1/auth/refresh", Some(&trade), "").await;
    assert_eq!(status, 200, "{second}");
    assert!(server.try_client(&showing(&second["token"])).await.is_ok());
    let (status, _) = ask(&server, None, "POST /v1/auth/refresh", Some(&trade), "").await;
    assert_eq!(status, 401);
    assert!(server.try_client(&showing(&second["token"])).await.is_err(), "its family is revoked");
}

#[tokio::test]
async fn the_description_names_every_route_and_no_other() {
    let server = start(ServerOptions::default()).await;
    let (status, described) = ask(&server, None, "GET /v1/admin/openapi.json", None, "").await;
    assert_eq!(status, 200);
    let source = include_str!("../../src/admin/routes.rs");
    let mut routes: Vec<&str> = source
        .split(".route(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|path| !path.contains("{*"))
        .collect();
    routes.sort_unstable();
    let paths: Vec<&String> = described["paths"].as_object().expect("paths").keys().collect();
    assert_eq!(paths, routes);
}

#[tokio::test]
async fn a_user_who_asks_too_much_is_told_to_wait_and_nobody_else_is() {
    let server = start(ServerOptions::default()).await;
    let (alice, bob) = (user(&server, "alice").await, user(&server, "bob").await);
    let open = server.try_client(&showing(&alice["token"])).await.expect("alice is let in");
    let other = server.try_client(&showing(&bob["token"])).await.expect("bob is let in");
    let asked: Vec<_> = (0..400).map(|_| open.request("agents.list", json!({}))).collect();
    let answers = futures_util::future::join_all(asked).await;
    let refused: Vec<&Value> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!refused.is_empty(), "four bursts at once are too many");
    for error in refused {
        assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
        assert!(error["retryAfterMs"].as_u64().is_some_and(|wait| wait > 0), "{error}");
    }
    assert!(other.request("agents.list", json!({})).await.is_ok());
    assert!(!open.is_closed());
}
