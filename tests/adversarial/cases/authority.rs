//! P13 to P16: what a credential gives, and that it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use watertight_testkit::gateway_client::{ConnectError, ConnectOptions, GatewayClient, Tap};
use watertight_testkit::mock_provider::Reply;

use crate::file;
use crate::world::{World, canary, reason, turn};

/// The reader asks for more than it has at connect, and gets what it has.
pub(crate) async fn p13() {
    let world = World::open().await;
    let alice = world.socket("alice").await;
    turn(&alice, "agent:main:user:alice", "hello").await.unwrap();
    let before = (world.state("T1").await, world.model_calls());

    let steps = file::steps("P13");
    let asked: Vec<&str> =
        steps[0]["params"]["scopes"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let mut wishes = asked.clone();
    wishes.push("operator.read");
    let token = &world.person("reader").token;
    let options = ConnectOptions::default().with_scopes(&wishes);
    let reader = GatewayClient::connect(&world.gateway.url(), Some(token), &options).await.unwrap();
    assert_eq!(reader.hello()["auth"]["scopes"], json!(["operator.read"]));
    let options = ConnectOptions::default().with_scopes(&asked);
    let nothing = GatewayClient::connect(&world.gateway.url(), Some(token), &options).await.unwrap();
    assert_eq!(nothing.hello()["auth"]["scopes"], json!([]), "what is not the credential's is not given");

    let key = "agent:main:user:alice";
    for message in ["hello", "/reset"] {
        let params = json!({"sessionKey": key, "message": message, "idempotencyKey": Uuid::new_v4()});
        for client in [&reader, &nothing] {
            let error = client.request("chat.send", params.clone()).await.unwrap_err();
            assert_eq!((reason(&error), &error["code"]), ("forbidden_scope", &json!("FORBIDDEN")), "{error}");
            assert_eq!(error["details"]["missingScope"], "operator.write", "{error}");
        }
    }
    // Methods that do not exist yet are refused to everybody.
    for method in ["config.get", "sessions.delete"] {
        let error = reader.request(method, json!({"key": key})).await.unwrap_err();
        assert_eq!(error["code"], "INVALID_REQUEST", "{error}");
    }
    assert!(reader.request("chat.history", json!({"sessionKey": key})).await.is_ok());
    assert_eq!((world.state("T1").await, world.model_calls()), before);
}

/// Fifty sockets and five running answers end with the credential; what the model says afterwards reaches nobody.
pub(crate) async fn p14() {
    const SOCKETS: usize = 50;
    const RUNS: usize = 5;
    let world = World::open().await;
    let (late, heard) = (canary(), Arc::new(AtomicUsize::new(0)));
    let mut gates = Vec::new();
    for _ in 0..RUNS {
        let (reply, gate) = Reply::gated(["early ".to_owned(), late.clone()]);
        world.provider.push(reply);
        gates.push(gate);
    }
    let listen = || {
        let (late, heard) = (late.clone(), heard.clone());
        let tap = Tap::new(move |text| {
            heard.fetch_add(usize::from(text.contains(&late)), Ordering::SeqCst);
        });
        ConnectOptions { tap: Some(tap), ..ConnectOptions::default() }
    };
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let socket = world.try_socket("alice", &listen()).await.unwrap();
        socket.request("sessions.subscribe", json!({})).await.unwrap();
        sockets.push(socket);
    }
    for (at, gate) in gates.iter().enumerate() {
        let key = format!("agent:main:user:alice:{at}");
        let params = json!({"sessionKey": key, "message": "hello", "idempotencyKey": Uuid::new_v4()});
        sockets[at].request("chat.send", params).await.unwrap();
        gate.open(1);
    }
    world.provider.wait_for_requests(RUNS).await;
    let (token, admin) = (world.person("alice").token.clone(), world.person("t1admin").token.clone());
    let path = format!("/v1/admin/tokens/{}/revoke", world.person("alice").id);
    let done = world.http(&admin, "POST", &path, &json!({})).await;
    assert_eq!((done.status, &done.json()["closed"]), (200, &json!(SOCKETS)), "{done:?}");

    // From here on: nothing new, and nothing of what the model goes on to say.
    let refused = world.http(&token, "GET", "/v1/admin/tokens", &Value::Null).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    let refused = world.try_socket("alice", &ConnectOptions::default()).await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{:?}", refused.err());
    for gate in &gates {
        gate.open(2);
    }
    world.provider.wait_for_answers(RUNS).await;
    for socket in &sockets {
        let closed = socket.closed().await;
        assert_eq!((closed.code, closed.reason.as_str()), (Some(4001), "revoked"));
        let params = json!({"sessionKey": "agent:main:user:alice", "message": "x", "idempotencyKey": Uuid::new_v4()});
        assert_eq!(socket.request("chat.send", params).await.unwrap_err()["code"], "CLOSED");
    }
    assert_eq!(heard.load(Ordering::SeqCst), 0, "what came after the revocation was delivered");
    // The runs were recorded to their end.
    let t1admin = world.socket("t1admin").await;
    for at in 0..RUNS {
        let key = format!("agent:main:user:alice:{at}");
        loop {
            let page = t1admin.request("chat.history", json!({"sessionKey": key})).await.unwrap();
            if page["inFlightRun"].is_null() {
                assert!(page["messages"].as_array().unwrap().len() >= 2, "{page}");
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A refresh token that comes twice ends the family.
pub(crate) async fn p15() {
    let world = World::open().await;
    let scopes = &world.person("alice").scopes;
    let body = json!({"principal": "alice", "scopes": scopes, "refresh": true});
    let first = world.admin("T1", "POST", "/v1/admin/tokens", body).await;
    let refresh = async |pair: &Value| {
        world.http("", "POST", "/v1/auth/refresh", &json!({"refreshToken": pair["refreshToken"]})).await
    };
    let second = refresh(&first).await;
    assert_eq!(second.status, 200, "{second:?}");
    let third = refresh(&second.json()).await;
    assert_eq!(third.status, 200, "{third:?}");
    let third = third.json();
    let token = third["token"].as_str().unwrap();
    let options = ConnectOptions::default().with_scopes(&["operator.read"]);
    let victim = GatewayClient::connect(&world.gateway.url(), Some(token), &options).await.unwrap();

    let attack = refresh(&first).await;
    assert_eq!((attack.status, attack.code().as_str()), (401, "unauthorized"), "{attack:?}");
    let closed = victim.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (Some(4001), "revoked"));
    assert_eq!(refresh(&third).await.status, 401);
    assert_eq!(world.http(token, "GET", "/v1/admin/tokens", &Value::Null).await.status, 401);
    let audit = world.admin("T1", "GET", "/v1/admin/audit?limit=1000", Value::Null).await;
    let actions: Vec<&str> =
        audit["events"].as_array().unwrap().iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert!(actions.iter().any(|action| action.contains("reuse")), "{actions:?}");
    // The other credential of the same principal is another family.
    assert!(world.try_socket("alice", &ConnectOptions::default()).await.is_ok());
}

/// Thirty minutes are two seconds here.
pub(crate) async fn p16() {
    let world = World::open().await;
    let scopes = &world.person("alice").scopes;
    let body = json!({"principal": "alice", "scopes": scopes, "idleMs": 2000});
    let issued = world.admin("T1", "POST", "/v1/admin/tokens", body).await;
    let options = ConnectOptions::default().with_scopes(&["operator.read", "operator.write"]);
    let url = world.gateway.url();
    let client = GatewayClient::connect(&url, issued["token"].as_str(), &options).await.unwrap();
    let (key, word) = ("agent:main:user:alice", canary());
    turn(&client, key, &word).await.unwrap();

    // What clients do by themselves, as often as they like.
    let mut beat = tokio::time::interval(Duration::from_millis(50));
    while !client.is_closed() {
        beat.tick().await;
        for method in ["health", "status", "sessions.subscribe", "system-presence"] {
            let _ = client.request(method, json!({})).await;
        }
        let _ = client.request("sessions.messages.subscribe", json!({"key": key})).await;
    }
    let closed = client.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (Some(4001), "auth_expired"));
    let again = GatewayClient::connect(&url, issued["token"].as_str(), &options).await;
    assert!(matches!(again, Err(ConnectError::Refused { .. })), "{:?}", again.err());
    // A conversation is no login: it is there for whoever signs in again.
    let history = world.socket("alice").await.request("chat.history", json!({"sessionKey": key})).await.unwrap();
    assert!(history.to_string().contains(&word), "{history}");
}
