//! Who is let in, and as what.

use std::time::Duration;

use serde_json::{Value, json};
use watertight_server::ServerOptions;
use watertight_server::options::{AuthMode, Limits, Timing};
use watertight_testkit::GatewayClient;
use watertight_testkit::device::Device;
use watertight_testkit::gateway_client::{Closed, ConnectError, ConnectOptions};

use super::{options, start, start_with};

fn refused(result: Result<GatewayClient, ConnectError>) -> (Value, Closed) {
    match result {
        Err(ConnectError::Refused { error, closed }) => (error, closed),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

fn code(error: &Value) -> &str {
    error["details"]["code"].as_str().unwrap_or_default()
}

fn closed(code: u16, reason: &str) -> Closed {
    Closed { code: Some(code), reason: reason.into() }
}

#[tokio::test]
async fn hello_tells_a_client_what_it_needs() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let challenge = client.challenge();
    assert!(challenge["nonce"].as_str().is_some_and(|nonce| nonce.len() == 36) && challenge["ts"].is_i64());
    let hello = client.hello();
    assert_eq!((&hello["type"], &hello["protocol"]), (&json!("hello-ok"), &json!(4)));
    assert_eq!(hello["auth"], json!({"role": "operator", "scopes": ["operator.admin"]}));
    assert_eq!(
        hello["policy"],
        json!({
            "maxPayload": 26_214_400, "maxBufferedBytes": 8_388_608, "tickIntervalMs": 30_000,
            "attachments": {"maxBytes": 20_971_520, "maxImageBytes": 6_291_456},
        })
    );
    let defaults = &hello["snapshot"]["sessionDefaults"];
    assert_eq!((&defaults["mainSessionKey"], &defaults["defaultAgentId"]), (&json!("agent:main:main"), &json!("main")));
    assert_eq!(hello["snapshot"]["authMode"], "token");
    let first = client.next_event(|frame| frame["event"] != "connect.challenge").await;
    let second = client.next_event(|frame| frame["event"] != "connect.challenge").await;
    let names = [&first, &second].map(|event| (event["event"].clone(), event["seq"].clone()));
    assert_eq!(names, [(json!("presence"), json!(1)), (json!("health"), json!(2))]);
    assert!(second["stateVersion"]["presence"].is_u64());
}

#[tokio::test]
async fn the_shared_secret_is_taken_from_either_field() {
    let server = start_with(
        "[gateway.auth]\nmode = \"password\"\npassword = \"open sesame\"",
        ServerOptions { auth_mode: AuthMode::Password, ..ServerOptions::default() },
    )
    .await;
    for auth in [
        json!({"password": "open sesame"}),
        json!({"token": "open sesame"}),
        json!({"token": "stale", "password": "open sesame"}),
    ] {
        let options = ConnectOptions { extra: json!({"auth": auth}), ..ConnectOptions::default() };
        assert!(server.try_client(&options).await.is_ok(), "{auth}");
    }
    let wrong = ConnectOptions { extra: json!({"auth": {"password": "close"}}), ..ConnectOptions::default() };
    let (error, closed) = refused(server.try_client(&wrong).await);
    assert_eq!((code(&error), closed.code), ("AUTH_PASSWORD_MISMATCH", Some(1008)));
}

#[tokio::test]
async fn without_a_credential_a_client_must_be_a_device_and_a_device_must_pair() {
    let server = start(ServerOptions::default()).await;
    let nothing = ConnectOptions { extra: json!({"auth": {}}), ..ConnectOptions::default() };
    let (error, end) = refused(server.try_client(&nothing).await);
    assert_eq!((&error["code"], code(&error)), (&json!("NOT_PAIRED"), "DEVICE_IDENTITY_REQUIRED"));
    assert_eq!(end, closed(1008, "device identity required"));

    let unpaired = ConnectOptions { device: Some(Device::new(1)), ..nothing };
    let (error, end) = refused(server.try_client(&unpaired).await);
    assert_eq!((&error["code"], code(&error)), (&json!("NOT_PAIRED"), "PAIRING_REQUIRED"));
    assert!(end.reason.starts_with("pairing required:"), "{end:?}");
}

#[tokio::test]
async fn with_no_authentication_configured_nothing_need_be_shown() {
    let server = start_with("[gateway.auth]\nmode = \"none\"", ServerOptions::default()).await;
    assert!(server.try_client(&ConnectOptions::default()).await.is_ok());
}

#[tokio::test]
async fn a_client_without_a_device_keeps_its_scopes_only_as_cli_or_back_end() {
    let server = start(ServerOptions::default()).await;
    for (id, mode, keeps) in
        [("gateway-client", "backend", true), ("cli", "cli", true), ("test", "test", false), ("cli", "probe", false)]
    {
        let client = server.try_client(&options(id, mode)).await.unwrap();
        let scopes = if keeps { json!(["operator.admin"]) } else { json!([]) };
        assert_eq!(client.hello()["auth"]["scopes"], scopes, "{id}/{mode}");
        assert!(client.request("health", json!({})).await.is_ok());
        let list = client.request("sessions.list", json!({})).await;
        assert_eq!(list.is_ok(), keeps);
        if let Err(error) = list {
            assert_eq!(error["message"], "missing scope: operator.read");
            assert!(client.hello()["snapshot"].get("authMode").is_none());
        }
    }
}

#[tokio::test]
async fn requested_scopes_narrow_and_none_means_none() {
    let server = start(ServerOptions::default()).await;
    let reader = server.try_client(&ConnectOptions::default().with_scopes(&["operator.read"])).await.unwrap();
    assert!(reader.request("sessions.list", json!({})).await.is_ok());
    let error = reader.request("chat.send", super::message("main", "x", "r")).await.unwrap_err();
    assert_eq!((&error["code"], &error["message"]), (&json!("FORBIDDEN"), &json!("missing scope: operator.write")));
    let nobody = server.try_client(&ConnectOptions::default().with_scopes(&[])).await.unwrap();
    assert_eq!(nobody.request("sessions.list", json!({})).await.unwrap_err()["code"], "FORBIDDEN");
}

fn from_page(id: &str, mode: &str, origin: &str) -> ConnectOptions {
    let headers = if origin.is_empty() { vec![] } else { vec![("Origin".to_owned(), origin.to_owned())] };
    ConnectOptions { headers, ..options(id, mode) }
}

#[tokio::test]
async fn pages_without_an_origin_are_refused_and_our_own_need_a_device() {
    let server = start(ServerOptions::default()).await;
    let own = format!("http://{}", server.address);
    for (id, mode, origin, says) in [
        ("openclaw-control-ui", "webchat", "", "CONTROL_UI_ORIGIN_NOT_ALLOWED"),
        ("openclaw-control-ui", "webchat", own.as_str(), "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"),
        ("webchat", "webchat", own.as_str(), "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"),
        ("openclaw-tui", "ui", "", "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"),
    ] {
        let (error, end) = refused(server.try_client(&from_page(id, mode, origin)).await);
        assert_eq!((code(&error), end.code), (says, Some(1008)), "{id} {origin}");
    }
    assert!(server.try_client(&from_page("gateway-client", "backend", &own)).await.is_ok());
    assert!(server.try_client(&from_page("gateway-client", "backend", "http://localhost:3000")).await.is_ok());
    let page = ConnectOptions { device: Some(Device::new(1)), ..from_page("openclaw-control-ui", "webchat", &own) };
    let client = server.try_client(&page).await.unwrap();
    assert_eq!(client.hello()["auth"]["scopes"], json!(["operator.admin"]));
}

#[tokio::test]
async fn other_roles_and_protocols_are_refused() {
    let server = start(ServerOptions::default()).await;
    let extra = |extra: Value| ConnectOptions { extra, ..ConnectOptions::default() };
    let (error, end) = refused(server.try_client(&extra(json!({"role": "node"}))).await);
    assert_eq!((&error["message"], end), (&json!("invalid role"), closed(1008, "invalid role")));
    let (error, end) = refused(server.try_client(&extra(json!({"minProtocol": 5, "maxProtocol": 6}))).await);
    assert_eq!((code(&error), end), ("PROTOCOL_MISMATCH", closed(1002, "protocol mismatch")));
    let (error, _) = refused(server.try_client(&options("mine", "cli")).await);
    assert_eq!(error["message"], "invalid connect params: at /client/id: must be equal to one of the allowed values");
}

#[tokio::test]
async fn wrong_secrets_lock_the_address_also_on_loopback() {
    let limits = Limits { failures: 3, ..Limits::default() };
    let server = start(ServerOptions { limits, ..ServerOptions::default() }).await;
    let wrong = ConnectOptions { extra: json!({"auth": {"token": "nope"}}), ..ConnectOptions::default() };
    for _ in 0..3 {
        assert_eq!(code(&refused(server.try_client(&wrong).await).0), "AUTH_TOKEN_MISMATCH");
    }
    let (error, end) = refused(server.try_client(&ConnectOptions::default()).await);
    assert_eq!(
        (code(&error), &error["details"]["recommendedNextStep"]),
        ("AUTH_RATE_LIMITED", &json!("wait_then_retry"))
    );
    assert!(error["retryAfterMs"].as_u64().is_some_and(|ms| ms > 290_000), "{error}");
    assert_eq!(end.code, Some(1008));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_at_the_deadline() {
    let timing = Timing { handshake: Duration::from_millis(200), ..Timing::default() };
    let server = start(ServerOptions { timing, ..ServerOptions::default() }).await;
    let silent = GatewayClient::open(&server.url(), &[]).await.unwrap();
    silent.closed().await;
}

#[tokio::test]
async fn too_much_before_hello_closes_with_1009_also_when_it_is_only_announced() {
    let server = start(ServerOptions::default()).await;
    let client = GatewayClient::open(&server.url(), &[]).await.unwrap();
    client.send_text("x".repeat(1_000_000)).await;
    assert_eq!(client.closed().await, closed(1009, "preauth payload too large"));
}

#[tokio::test]
async fn connect_is_the_first_request_and_no_other() {
    let server = start(ServerOptions::default()).await;
    let early = GatewayClient::open(&server.url(), &[]).await.unwrap();
    let error = early.request("health", json!({})).await.unwrap_err();
    assert_eq!(error["message"], "invalid handshake: first request must be connect");
    assert_eq!(early.closed().await, closed(1008, "invalid handshake: first request must be connect"));
    let late = server.client().await.request("connect", json!({})).await.unwrap_err();
    assert_eq!(late["message"], "connect is only valid as the first request");
}

#[tokio::test]
async fn a_credential_holds_only_so_many_connections() {
    let limits = Limits { connections_per_principal: 2, ..Limits::default() };
    let server = start(ServerOptions { limits, ..ServerOptions::default() }).await;
    let (first, _second) = (server.client().await, server.client().await);
    let (error, end) = refused(server.try_client(&ConnectOptions::default()).await);
    assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
    assert_eq!(end, closed(1013, "too many connections"));
    first.close().await;
    while server.try_client(&ConnectOptions::default()).await.is_err() {}
}

#[tokio::test]
async fn every_presence_list_names_the_health_snapshot_it_goes_with() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let health = client.hello()["snapshot"]["stateVersion"]["health"].clone();
    let presence = client.next_event(|frame| frame["event"] == "presence").await;
    assert!(health.as_u64() > Some(0) && presence["stateVersion"]["health"] == health, "{presence}");
}

#[tokio::test]
async fn a_right_secret_does_not_make_up_for_wrong_ones() {
    let limits = Limits { failures: 3, ..Limits::default() };
    let server = start(ServerOptions { limits, ..ServerOptions::default() }).await;
    let wrong = ConnectOptions { extra: json!({"auth": {"token": "nope"}}), ..ConnectOptions::default() };
    let token = server.token.as_deref().unwrap();
    let both = json!({"auth": {"token": "nope", "password": token}});
    for _ in 0..2 {
        let both = ConnectOptions { extra: both.clone(), ..ConnectOptions::default() };
        assert!(server.try_client(&both).await.is_ok());
    }
    assert_eq!(code(&refused(server.try_client(&wrong).await).0), "AUTH_TOKEN_MISMATCH");
    let (error, _) = refused(server.try_client(&ConnectOptions::default()).await);
    assert_eq!(code(&error), "AUTH_RATE_LIMITED");
}

#[tokio::test]
async fn behind_a_proxy_nobody_is_locked_out_for_what_another_did() {
    let limits = Limits { failures: 2, strangers_per_address: 1, ..Limits::default() };
    let server = start(ServerOptions { limits, behind_tls_proxy: true, ..ServerOptions::default() }).await;
    let _waiting = GatewayClient::open(&server.url(), &[]).await.unwrap();
    let wrong = ConnectOptions { extra: json!({"auth": {"token": "nope"}}), ..ConnectOptions::default() };
    for _ in 0..5 {
        assert_eq!(code(&refused(server.try_client(&wrong).await).0), "AUTH_TOKEN_MISMATCH");
    }
    assert!(server.try_client(&ConnectOptions::default()).await.is_ok());
}
