//! The official client library as a device: it pairs, comes back with its token, and is thrown out.

use serde_json::Value;

use crate::clients::Clients;
use crate::stage::{self, Stage};

impl Stage {
    /// Runs a command that must succeed and print JSON.
    async fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args).await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

#[tokio::test]
async fn the_official_library_pairs_and_comes_back_until_it_is_thrown_out() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let mut script = clients.script("pairing.mjs", &gateway.target());

    let asked = script.expect("asked").await;
    assert_eq!(asked["details"]["code"], "PAIRING_REQUIRED", "{asked:#}");
    let list = gateway.json(&["pairing", "list", "--json"]).await;
    let waiting = &list["pending"][0];
    assert_eq!(waiting["requestId"], asked["details"]["requestId"]);
    assert_eq!(waiting["deviceId"], asked["deviceId"]);
    let code = asked["details"]["pairingCode"].as_str().expect("a code");
    let approved = gateway.json(&["devices", "approve", code, "--json"]).await;
    assert_eq!(approved["device"]["scopes"], serde_json::json!(["operator.read", "operator.write"]));

    let paired = script.expect("paired").await;
    assert_eq!(paired["stored"], true, "{paired:#}");
    let back = script.expect("back").await;
    assert!(back["auth"].get("deviceToken").is_none(), "it has its token");
    assert_eq!(back["sessions"]["count"], 0);

    let gateway = gateway.restart().await;
    let closed = script.expect("closed").await;
    assert_eq!(closed["code"], 1012, "{closed:#}");
    let list = gateway.json(&["devices", "list", "--json"]).await;
    assert_eq!(list["paired"][0]["deviceId"], asked["deviceId"], "a restart keeps devices");
    script.finish().await;
}

#[tokio::test]
async fn devices_are_shown_and_taken_from_on_the_command_line() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let mut script = clients.script("pairing.mjs", &gateway.target());
    let asked = script.expect("asked").await;
    let id = asked["deviceId"].as_str().expect("an id");
    let shown = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let text = shown(gateway.run(&["devices", "list"]).await);
    assert!(text.starts_with("waiting ") && text.contains(id), "{text}");
    let other = "0".repeat(64);
    let request = asked["details"]["requestId"].as_str().expect("a request");
    let wrong = gateway.run(&["pairing", "approve", request, "--device", &other]).await;
    assert!(!wrong.status.success());
    let text = shown(gateway.run(&["pairing", "approve", request, "--device", id]).await);
    assert!(text.starts_with(&format!("Approved device {id}")), "{text}");
    script.expect("paired").await;
    script.expect("back").await;

    assert!(!gateway.run(&["devices", "revoke", "00000000"]).await.status.success());
    let revoked = gateway.json(&["devices", "revoke", &id[..8], "--json"]).await;
    assert_eq!(revoked["deviceId"], id);
    let closed = script.expect("closed").await;
    assert_eq!((&closed["code"], &closed["reason"]), (&4001.into(), &"revoked".into()));
    script.finish().await;
    let text = shown(gateway.run(&["devices", "list"]).await);
    assert!(text.contains("has no token"), "{text}");
    gateway.json(&["devices", "remove", id, "--json"]).await;
    let again = gateway.run(&["devices", "rotate", id, "--json"]).await;
    assert!(!again.status.success());
    assert!(shown(again).contains("There is no paired device"));
    // The client asks anew for as long as it runs.
    let code = gateway.json(&["pairing", "code", "--scope", "read", "--json"]).await;
    assert_eq!(code["setupCode"].as_str().map(str::len), Some(26));
}
