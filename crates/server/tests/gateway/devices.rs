//! Device proofs, pairing, device tokens (gateway-ws.md §1.7; isolation.md §2.2, §2.3).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};
use watertight_core::ids::UnixMillis;
use watertight_engine::clock::Clock;
use watertight_server::ServerOptions;
use watertight_server::options::Limits;
use watertight_testkit::GatewayClient;
use watertight_testkit::device::Device;
use watertight_testkit::gateway_client::{Closed, ConnectError, ConnectOptions};

use super::{Running, chat, start, start_by, start_with};

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// A device with nothing but its key.
fn with_key(seed: u8) -> ConnectOptions {
    ConnectOptions {
        client_id: "test".into(),
        mode: "test".into(),
        device: Some(Device::new(seed)),
        extra: json!({"auth": {}}),
        ..ConnectOptions::default()
    }
    .with_scopes(&["operator.read", "operator.write"])
}

/// The same with this in `auth`.
fn with_auth(seed: u8, auth: Value) -> ConnectOptions {
    ConnectOptions { extra: json!({"auth": auth}), ..with_key(seed) }
}

fn refusal(result: Result<GatewayClient, ConnectError>) -> (Value, Closed) {
    match result {
        Err(ConnectError::Refused { error, closed }) => (error, closed),
        Ok(_) => panic!("it was let in"),
        Err(other) => panic!("{other}"),
    }
}

fn code(error: &Value) -> &str {
    error["details"]["code"].as_str().unwrap_or_default()
}

impl Running {
    async fn connect(&self, options: &ConnectOptions) -> Result<GatewayClient, ConnectError> {
        GatewayClient::connect(&self.url(), None, options).await
    }

    /// Sends these parameters of `connect` as they are.
    async fn connect_with(&self, make: impl FnOnce(&Value) -> Value) -> Result<Value, Value> {
        let client = GatewayClient::open(&self.url(), &[]).await.expect("a socket");
        let params = make(client.challenge());
        client.request("connect", params).await
    }

    /// The request this device is told to have approved.
    async fn knock(&self, options: &ConnectOptions) -> Value {
        let (error, closed) = refusal(self.connect(options).await);
        assert_eq!((&error["code"], code(&error)), (&json!("NOT_PAIRED"), "PAIRING_REQUIRED"), "{error}");
        assert_eq!(closed.code, Some(1008));
        error["details"].clone()
    }

    async fn approve(&self, request: &Value) -> Value {
        let operator = self.client().await;
        operator.request("device.pair.approve", json!({"requestId": request["requestId"]})).await.expect("approved")
    }

    /// A paired device's first connection, and its token.
    async fn pair(&self, seed: u8) -> (GatewayClient, String) {
        let request = self.knock(&with_key(seed)).await;
        self.approve(&request).await;
        let client = self.connect(&with_key(seed)).await.expect("its key fetches its token");
        let token = client.hello()["auth"]["deviceToken"].as_str().expect("a token").to_owned();
        (client, token)
    }
}

fn base(auth: Value) -> Value {
    ConnectOptions { extra: json!({"auth": auth}), ..ConnectOptions::default() }.params(None)
}

fn signed(device: &Device, mut params: Value, challenge: &Value) -> Value {
    let block = device.block(&params, 3, challenge["nonce"].as_str().unwrap(), challenge["ts"].as_i64().unwrap());
    params["device"] = block;
    params
}

#[tokio::test]
async fn a_right_proof_is_accepted_in_both_versions_beside_the_secret() {
    let server = start(ServerOptions::default()).await;
    let device = Device::new(1);
    for version in [3, 2] {
        let hello = server
            .connect_with(|challenge| {
                let mut params = base(json!({"token": server.token}));
                let (nonce, ts) = (challenge["nonce"].as_str().unwrap(), challenge["ts"].as_i64().unwrap());
                params["device"] = device.block(&params, version, nonce, ts);
                params
            })
            .await;
        assert!(hello.is_ok(), "{version}: {hello:?}");
    }
}

#[tokio::test]
async fn a_wrong_proof_ends_the_connection_also_beside_a_right_secret() {
    let server = start(ServerOptions::default()).await;
    let token = server.token.clone();
    let auth = || json!({"token": token});
    let device = Device::new(1);
    let other_nonce = GatewayClient::open(&server.url(), &[]).await.unwrap().challenge()["nonce"].clone();
    type Change = Box<dyn Fn(&mut Value)>;
    let set = |at: &'static str, to: Value| -> Change {
        Box::new(move |params: &mut Value| *params.pointer_mut(at).expect(at) = to.clone())
    };
    let other = Device::new(2);
    let cases: Vec<(&str, &str, Change)> = vec![
        ("DEVICE_AUTH_PUBLIC_KEY_INVALID", "device-public-key", set("/device/publicKey", json!("A".repeat(43)))),
        ("DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch", set("/device/publicKey", json!(other.public_key()))),
        ("DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch", set("/device/id", json!(other.id()))),
        ("DEVICE_AUTH_NONCE_REQUIRED", "device-nonce-missing", set("/device/nonce", json!(""))),
        ("DEVICE_AUTH_NONCE_MISMATCH", "device-nonce-mismatch", set("/device/nonce", other_nonce)),
        ("DEVICE_AUTH_SIGNATURE_INVALID", "device-signature", set("/device/signature", json!("A".repeat(86)))),
        (
            "DEVICE_AUTH_SIGNATURE_INVALID",
            "device-signature",
            set("/scopes", json!(["operator.admin", "operator.read"])),
        ),
        ("DEVICE_AUTH_SIGNATURE_INVALID", "device-signature", set("/client/mode", json!("cli"))),
        ("DEVICE_AUTH_SIGNATURE_INVALID", "device-signature", set("/client/id", json!("cli"))),
        ("DEVICE_AUTH_SIGNATURE_INVALID", "device-signature", set("/client/platform", json!("darwin"))),
        ("DEVICE_AUTH_SIGNATURE_INVALID", "device-signature", set("/auth", json!({"password": token}))),
    ];
    for (expected, reason, change) in cases {
        let error = server
            .connect_with(|challenge| {
                let mut params = signed(&device, base(auth()), challenge);
                change(&mut params);
                params
            })
            .await
            .expect_err("a wrong proof is refused");
        assert_eq!((code(&error), &error["details"]["reason"]), (expected, &json!(reason)), "{error}");
        assert_eq!(error["code"], "INVALID_REQUEST");
    }
    for off in [-121_000, 121_000] {
        let error = server.connect_with(|challenge| {
            let mut params = base(auth());
            let (nonce, ts) = (challenge["nonce"].as_str().unwrap(), challenge["ts"].as_i64().unwrap());
            params["device"] = device.block(&params, 3, nonce, ts + off);
            params
        });
        assert_eq!(code(&error.await.unwrap_err()), "DEVICE_AUTH_SIGNATURE_EXPIRED", "{off}");
    }
}

#[tokio::test]
async fn a_proof_is_good_for_one_connection() {
    let server = start(ServerOptions::default()).await;
    let first = GatewayClient::open(&server.url(), &[]).await.unwrap();
    let params = signed(&Device::new(1), base(json!({"token": server.token})), first.challenge());
    first.request("connect", params.clone()).await.expect("it is let in");
    let error = server.connect_with(|_| params).await.unwrap_err();
    assert_eq!(code(&error), "DEVICE_AUTH_NONCE_MISMATCH");
}

#[tokio::test]
async fn on_this_machine_the_operators_secret_pairs_a_device_at_once() {
    let server = start(ServerOptions::default()).await;
    let options = with_auth(1, json!({"token": server.token}));
    let client = server.connect(&options).await.expect("it is let in");
    let auth = &client.hello()["auth"];
    assert_eq!(auth["scopes"], json!(["operator.read", "operator.write"]));
    let token = auth["deviceToken"].as_str().expect("a token");
    assert!(token.starts_with("wtd_") && auth["issuedAtMs"].is_i64());
    let list = server.client().await.request("device.pair.list", json!({})).await.unwrap();
    let row = &list["paired"][0];
    assert_eq!((&row["deviceId"], &row["approvedVia"]), (&json!(Device::new(1).id()), &json!("silent")));
    assert_eq!(row["scopes"], json!(["operator.read", "operator.write"]));
    assert_eq!((&row["connected"], &list["pending"]), (&json!(true), &json!([])));
    assert!(!list.to_string().contains("wtd_"));

    // The token alone opens it now, and no second one is issued beside the secret.
    let again = server.connect(&with_auth(1, json!({"token": token, "deviceToken": token}))).await.expect("let in");
    assert!(again.request("sessions.list", json!({})).await.is_ok());
    let beside = server.connect(&options).await.expect("it is let in");
    assert!(beside.hello()["auth"].get("deviceToken").is_none());
    // More scopes are given as silently.
    let more = server.connect(&options.clone().with_scopes(&["operator.admin"])).await.expect("it is let in");
    assert_eq!(more.hello()["auth"]["scopes"], json!(["operator.admin"]));
}

#[tokio::test]
async fn behind_a_proxy_a_device_with_the_secret_has_to_be_approved() {
    let server = start(ServerOptions { behind_tls_proxy: true, ..ServerOptions::default() }).await;
    let options = with_auth(1, json!({"token": server.token}));
    let request = server.knock(&options).await;
    assert_eq!(request["reason"], "not-paired");
    server.approve(&request).await;
    let client = server.connect(&options).await.expect("it is let in");
    assert!(client.hello()["auth"]["deviceToken"].is_string());
    let wider = server.knock(&options.with_scopes(&["operator.admin"])).await;
    assert_eq!(wider["reason"], "scope-upgrade");
    assert_eq!(wider["approvedScopes"], json!(["operator.read", "operator.write"]));
}

#[tokio::test]
async fn an_unknown_device_asks_is_approved_and_comes_back_with_its_token() {
    let server = start(ServerOptions::default()).await;
    let operator = server.client().await;
    let request = server.knock(&with_key(1)).await;
    assert_eq!(request["requestedScopes"], json!(["operator.read", "operator.write"]));
    let told = operator.next_payload("device.pair.requested", |_| true).await;
    assert_eq!((&told["requestId"], &told["deviceId"]), (&request["requestId"], &json!(Device::new(1).id())));
    assert!(told.get("pairingCode").is_none() && told["publicKey"] == Device::new(1).public_key());
    // Asking again is the same request.
    assert_eq!(server.knock(&with_key(1)).await["requestId"], request["requestId"]);

    let list = operator.request("device.pair.list", json!({})).await.unwrap();
    assert_eq!(list["pending"][0]["pairingCode"], request["pairingCode"]);
    let params = json!({"requestId": request["requestId"], "deviceId": Device::new(2).id()});
    let error = operator.request("device.pair.approve", params).await.unwrap_err();
    assert_eq!(error["message"], "unknown requestId", "another fingerprint than the one that was seen");
    let params = json!({"requestId": request["requestId"], "deviceId": Device::new(1).id()});
    let approved = operator.request("device.pair.approve", params).await.unwrap();
    assert_eq!(approved["device"]["scopes"], json!(["operator.read", "operator.write"]));
    let told = operator.next_payload("device.pair.resolved", |_| true).await;
    assert_eq!(told["decision"], "approved");

    let client = server.connect(&with_key(1)).await.expect("its key fetches its token");
    let token = client.hello()["auth"]["deviceToken"].as_str().expect("a token").to_owned();
    assert_eq!(client.hello()["auth"]["scopes"], json!(["operator.read", "operator.write"]));
    assert!(client.request("sessions.list", json!({})).await.is_ok());
    assert_eq!(client.request("device.pair.list", json!({})).await.unwrap_err()["code"], "FORBIDDEN");
    for auth in [json!({"token": token}), json!({"deviceToken": token}), json!({"token": token, "deviceToken": token})]
    {
        assert!(server.connect(&with_auth(1, auth)).await.is_ok());
    }
    // The key alone fetches it once.
    assert_eq!(server.knock(&with_key(1)).await["reason"], "not-paired");
}

#[tokio::test]
async fn a_device_token_opens_nothing_without_the_devices_key() {
    let server = start(ServerOptions::default()).await;
    let (_client, token) = server.pair(1).await;
    let bare = ConnectOptions { extra: json!({"auth": {"token": token}}), ..ConnectOptions::default() };
    let (error, closed) = refusal(server.connect(&bare).await);
    assert_eq!(code(&error), "AUTH_DEVICE_TOKEN_MISMATCH");
    assert!(closed.reason.contains("device token mismatch"));
    let (error, _) = refusal(server.connect(&with_auth(2, json!({"deviceToken": token}))).await);
    assert_eq!(code(&error), "AUTH_DEVICE_TOKEN_MISMATCH");
    let (mut changed, last) = (token.clone(), token.chars().last().unwrap());
    changed.pop();
    changed.push(if last == '0' { '1' } else { '0' });
    let (error, _) = refusal(server.connect(&with_auth(1, json!({"deviceToken": changed}))).await);
    assert_eq!(code(&error), "AUTH_DEVICE_TOKEN_MISMATCH");
}

#[tokio::test]
async fn a_device_that_wants_more_asks_again_and_keeps_what_it_has() {
    let server = start(ServerOptions::default()).await;
    let (client, token) = server.pair(1).await;
    let wider = with_auth(1, json!({"deviceToken": token})).with_scopes(&["operator.admin"]);
    let request = server.knock(&wider).await;
    assert_eq!((&request["reason"], &request["approvedRoles"]), (&json!("scope-upgrade"), &json!(["operator"])));
    assert!(client.request("sessions.list", json!({})).await.is_ok(), "what is open stays open");
    server.approve(&request).await;
    let admin = server.connect(&wider).await.expect("it has more now");
    assert_eq!(admin.hello()["auth"]["scopes"], json!(["operator.admin"]));
}

#[tokio::test]
async fn an_approver_gives_no_more_than_it_holds() {
    let server = start(ServerOptions::default()).await;
    let with = |scopes: &[&str]| ConnectOptions::default().with_scopes(scopes);
    let reader = server.try_client(&with(&["operator.pairing", "operator.read"])).await.unwrap();
    let (asking, wide) = (with_key(1), with_key(1).with_scopes(&["operator.admin"]));
    let request = server.knock(&wide).await;
    let approved = reader.request("device.pair.approve", json!({"requestId": request["requestId"]})).await.unwrap();
    let held: Vec<_> = approved["device"]["scopes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(held.contains(&"operator.read") && !held.contains(&"operator.write") && !held.contains(&"operator.admin"));
    // What was asked for was decided about: the device comes in with what it was given.
    let client = server.connect(&wide).await.expect("it is let in");
    assert!(client.request("chat.send", super::message("main", "x", "r")).await.is_err());
    drop(asking);

    let pairing = server.try_client(&with(&["operator.pairing"])).await.unwrap();
    let request = server.knock(&with_key(2)).await;
    let error = pairing.request("device.pair.approve", json!({"requestId": request["requestId"]})).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("holds none of the scopes"), "{error}");
    let writer = server.try_client(&with(&["operator.write"])).await.unwrap();
    let error = writer.request("device.pair.approve", json!({"requestId": request["requestId"]})).await.unwrap_err();
    assert_eq!(error["details"]["missingScope"], "operator.pairing");
}

#[tokio::test]
async fn a_superseded_a_rejected_and_a_foreign_request_are_unknown() {
    let server = start(ServerOptions::default()).await;
    let operator = server.client().await;
    let first = server.knock(&with_key(1)).await;
    let second = server.knock(&with_key(1).with_scopes(&["operator.admin"])).await;
    assert_ne!(first["requestId"], second["requestId"]);
    let told = operator.next_payload("device.pair.resolved", |_| true).await;
    assert_eq!((&told["requestId"], &told["decision"]), (&first["requestId"], &json!("rejected")));
    let unknown = |error: Value| assert_eq!(error["message"], "unknown requestId");
    unknown(operator.request("device.pair.approve", json!({"requestId": first["requestId"]})).await.unwrap_err());
    operator.request("device.pair.reject", json!({"requestId": second["requestId"]})).await.unwrap();
    unknown(operator.request("device.pair.approve", json!({"requestId": second["requestId"]})).await.unwrap_err());
    unknown(operator.request("device.pair.reject", json!({"requestId": second["requestId"]})).await.unwrap_err());
    unknown(operator.request("device.pair.approve", json!({"requestId": "nope"})).await.unwrap_err());
    assert_eq!(server.knock(&with_key(1)).await["reason"], "not-paired", "a rejection gives nothing");
}

#[tokio::test]
async fn few_requests_of_one_address_wait_at_a_time() {
    let limits = Limits { failures: 100, ..Limits::default() };
    let server = start(ServerOptions { limits, ..ServerOptions::default() }).await;
    for seed in 1..=3 {
        server.knock(&with_key(seed)).await;
    }
    let (error, _) = refusal(server.connect(&with_key(4)).await);
    assert_eq!(code(&error), "AUTH_RATE_LIMITED");
    assert!(error["retryAfterMs"].is_u64());
    // One that waits may knock again, and a decision makes room.
    let request = server.knock(&with_key(1)).await;
    server.approve(&request).await;
    server.knock(&with_key(4)).await;
}

#[tokio::test]
async fn many_requests_from_one_address_lock_it_like_wrong_secrets() {
    let limits = Limits { failures: 3, ..Limits::default() };
    let server = start(ServerOptions { limits, ..ServerOptions::default() }).await;
    for scope in ["operator.read", "operator.write", "operator.admin"] {
        server.knock(&with_key(1).with_scopes(&[scope])).await;
    }
    let (error, _) = refusal(server.connect(&with_key(1)).await);
    assert_eq!(code(&error), "AUTH_RATE_LIMITED");
}

/// A clock that is moved by hand.
fn clock() -> (Clock, impl Fn(i64)) {
    let now = Arc::new(AtomicI64::new(1_900_000_000_000));
    let shown = now.clone();
    (Clock::from_fn(move || UnixMillis(shown.load(Ordering::SeqCst))), move |by| {
        now.fetch_add(by, Ordering::SeqCst);
    })
}

#[tokio::test]
async fn requests_claims_and_tokens_end_by_themselves() {
    let (clock, pass) = clock();
    let server = start_by(clock, "", ServerOptions::default()).await;
    let operator = server.client().await;
    let request = server.knock(&with_key(1)).await;
    pass(10 * MINUTE);
    let error = operator.request("device.pair.approve", json!({"requestId": request["requestId"]})).await.unwrap_err();
    assert_eq!(error["message"], "unknown requestId");
    assert_eq!(operator.request("device.pair.list", json!({})).await.unwrap()["pending"], json!([]));

    let again = server.knock(&with_key(1)).await;
    assert_ne!(again["requestId"], request["requestId"]);
    server.approve(&again).await;
    pass(DAY + 1);
    let late = server.knock(&with_key(1)).await;
    server.approve(&late).await;
    let client = server.connect(&with_key(1)).await.expect("its key fetches its token");
    let token = client.hello()["auth"]["deviceToken"].as_str().unwrap().to_owned();
    let options = with_auth(1, json!({"deviceToken": token}));
    pass(6 * DAY);
    let used = server.connect(&options).await.expect("it is let in");
    chat(&used, "main", "still here", "r1").await;
    pass(6 * DAY);
    assert!(server.connect(&options).await.is_ok(), "a use keeps it");
    pass(8 * DAY);
    let (error, _) = refusal(server.connect(&options).await);
    assert_eq!(code(&error), "AUTH_DEVICE_TOKEN_MISMATCH", "seven days without use");
}

#[tokio::test]
async fn a_used_token_ends_after_ninety_days() {
    let (clock, pass) = clock();
    let server = start_by(clock, "", ServerOptions::default()).await;
    let (_, token) = server.pair(1).await;
    let options = with_auth(1, json!({"deviceToken": token}));
    for round in 0..15 {
        pass(6 * DAY - 1);
        let client = server.connect(&options).await.expect("it is let in");
        // The use is written before the message is.
        chat(&client, "main", "still here", &format!("r{round}")).await;
    }
    pass(DAY);
    assert_eq!(code(&refusal(server.connect(&options).await).0), "AUTH_DEVICE_TOKEN_MISMATCH");
    // It asks anew, and its key fetches another.
    let request = server.knock(&with_key(1)).await;
    server.approve(&request).await;
    let client = server.connect(&with_key(1)).await.expect("its key fetches its token");
    assert!(client.hello()["auth"]["deviceToken"].is_string());
}

#[tokio::test]
async fn a_device_that_lost_its_token_is_approved_anew_and_the_lost_one_ends() {
    let server = start(ServerOptions::default()).await;
    let (former, lost) = server.pair(1).await;
    let request = server.knock(&with_key(1)).await;
    server.approve(&request).await;
    assert!(former.request("health", json!({})).await.is_ok(), "nothing ends before it is fetched");
    let client = server.connect(&with_key(1)).await.expect("its key fetches another");
    assert_eq!(former.closed().await.code, Some(4001));
    let found = refusal(server.connect(&with_auth(1, json!({"deviceToken": lost}))).await);
    assert_eq!(code(&found.0), "AUTH_DEVICE_TOKEN_MISMATCH");
    assert!(client.request("sessions.list", json!({})).await.is_ok());
}

#[tokio::test]
async fn on_this_machine_the_operators_secret_gives_what_an_approver_did_not() {
    let server = start(ServerOptions::default()).await;
    let reader = ConnectOptions::default().with_scopes(&["operator.pairing", "operator.read"]);
    let reader = server.try_client(&reader).await.unwrap();
    let request = server.knock(&with_key(1)).await;
    reader.request("device.pair.approve", json!({"requestId": request["requestId"]})).await.unwrap();
    let narrow = server.connect(&with_key(1)).await.expect("it is let in");
    assert_eq!(narrow.hello()["auth"]["scopes"], json!(["operator.read"]));
    let wide = server.connect(&with_auth(1, json!({"token": server.token}))).await.expect("it is let in");
    assert_eq!(wide.hello()["auth"]["scopes"], json!(["operator.read", "operator.write"]));
}

#[tokio::test]
async fn what_is_taken_from_a_device_closes_its_connections() {
    let server = start(ServerOptions::default()).await;
    let operator = server.client().await;
    let id = |seed| Device::new(seed).id();
    for (method, params) in [
        ("device.token.revoke", json!({"deviceId": id(1), "role": "operator"})),
        ("device.token.rotate", json!({"deviceId": id(2), "role": "operator"})),
        ("device.pair.remove", json!({"deviceId": id(3)})),
    ] {
        let seed = match method {
            "device.token.revoke" => 1,
            "device.token.rotate" => 2,
            _ => 3,
        };
        let (client, token) = server.pair(seed).await;
        // Let in by the secret, on the same device: it ends too.
        let beside = server.connect(&with_auth(seed, json!({"token": server.token}))).await.expect("it is let in");
        let answer = operator.request(method, params.clone()).await.unwrap();
        for ended in [client, beside] {
            let closed = ended.closed().await;
            assert_eq!((closed.code, closed.reason.as_str()), (Some(4001), "revoked"), "{method}");
        }
        let options = with_auth(seed, json!({"deviceToken": token}));
        assert_eq!(code(&refusal(server.connect(&options).await).0), "AUTH_DEVICE_TOKEN_MISMATCH", "{method}");
        match method {
            "device.token.rotate" => {
                assert_eq!(answer["tokenDelivery"], "withheld-cross-device");
                assert!(answer.get("token").is_none());
                let fetched = server.connect(&with_key(seed)).await.expect("its key fetches the new one");
                assert_ne!(fetched.hello()["auth"]["deviceToken"], json!(token));
            }
            _ => {
                server.knock(&with_key(seed)).await;
            }
        }
        let gone = operator.request(method, json!({"deviceId": id(9), "role": "operator"})).await;
        if method != "device.pair.remove" {
            assert_eq!(gone.unwrap_err()["message"], "unknown deviceId");
        }
    }
    assert!(operator.request("health", json!({})).await.is_ok(), "nobody else's connection ends");
}

#[tokio::test]
async fn a_device_that_rotates_its_own_token_is_told_it_and_closed() {
    let server = start(ServerOptions::default()).await;
    let options = with_key(1).with_scopes(&["operator.read", "operator.pairing"]);
    let request = server.knock(&options).await;
    server.approve(&request).await;
    let client = server.connect(&options).await.expect("it is let in");
    let old = client.hello()["auth"]["deviceToken"].clone();
    let params = json!({"deviceId": Device::new(1).id(), "role": "operator", "scopes": ["operator.read"]});
    let answer = client.request("device.token.rotate", params).await.unwrap();
    assert_eq!((&answer["tokenDelivery"], &answer["scopes"]), (&json!("in-band"), &json!(["operator.read"])));
    assert_eq!(client.closed().await.code, Some(4001));
    let auth = |token: &Value| {
        let options = with_auth(1, json!({"deviceToken": token}));
        options.with_scopes(&["operator.read"])
    };
    assert!(server.connect(&auth(&old)).await.is_err());
    assert!(server.connect(&auth(&answer["token"])).await.is_ok());
}

#[tokio::test]
async fn a_setup_code_is_the_first_keys_alone_and_lets_nobody_in_by_itself() {
    let (clock, pass) = clock();
    let server = start_by(clock, "", ServerOptions::default()).await;
    let operator = server.client().await;
    let made = operator.request("device.pair.setupCode", json!({"scopes": ["operator.read"]})).await.unwrap();
    let code_text = made["setupCode"].as_str().unwrap();
    assert_eq!(code_text.len(), 26);
    let with_code = |seed| with_auth(seed, json!({"bootstrapToken": code_text}));
    let request = server.knock(&with_code(1)).await;
    let (error, _) = refusal(server.connect(&with_code(2)).await);
    assert_eq!(code(&error), "AUTH_BOOTSTRAP_TOKEN_INVALID", "it is the first key's");
    let approved = server.approve(&request).await;
    assert_eq!(approved["device"]["scopes"], json!(["operator.read"]), "no more than was invited to");
    let client = server.connect(&with_code(1).with_scopes(&["operator.read"])).await.expect("it is let in");
    assert!(client.hello()["auth"]["deviceToken"].is_string());
    let (error, _) = refusal(server.connect(&with_code(1)).await);
    assert_eq!(code(&error), "AUTH_BOOTSTRAP_TOKEN_INVALID", "it has done its work");

    let late = operator.request("device.pair.setupCode", json!({})).await.unwrap();
    pass(10 * MINUTE);
    let (error, _) = refusal(server.connect(&with_auth(3, json!({"bootstrapToken": late["setupCode"]}))).await);
    assert_eq!(code(&error), "AUTH_BOOTSTRAP_TOKEN_INVALID", "ten minutes");
}

#[tokio::test]
async fn without_authentication_a_device_needs_no_pairing() {
    let server = start_with("[gateway.auth]\nmode = \"none\"", ServerOptions::default()).await;
    let client = server.connect(&with_key(1)).await.expect("it is let in");
    assert!(client.hello()["auth"].get("deviceToken").is_none());
}
