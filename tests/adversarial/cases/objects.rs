//! P19, P20, P23, P28: what is one's own, and what is not.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use watertight_testkit::gateway_client::{ConnectOptions, GatewayClient, Tap};

use crate::file;
use crate::world::{World, canary, reason, turn, turn_as};

const ALICE: &str = "agent:main:user:alice";

async fn listed(client: &GatewayClient, search: Option<&str>) -> Vec<String> {
    let mut params = json!({"limit": 1000});
    if let Some(search) = search {
        params["search"] = search.into();
    }
    let page = client.request("sessions.list", params).await.unwrap();
    page["sessions"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

pub(crate) async fn p19() {
    let world = World::open().await;
    let (alice, al) = (world.socket("alice").await, world.socket("al").await);
    turn(&alice, ALICE, &canary()).await.unwrap();
    for step in file::steps("P19") {
        let action = step["action"].as_str().unwrap();
        let (method, rest) = action.split_once(' ').unwrap();
        match method {
            "chat.history" => {
                let error = al.request(method, json!({"sessionKey": rest})).await.unwrap_err();
                assert_eq!(reason(&error), "session_not_found", "{error}");
                assert_eq!(error["message"], format!("No session found: {rest}"));
            }
            "chat.send" => drop(turn(&al, rest, "hello").await.unwrap()),
            "sessions.list" => {
                let prefix = rest.trim_start_matches("prefix ").trim_matches('\'');
                let mut keys = listed(&al, Some(prefix)).await;
                keys.sort();
                assert_eq!(keys, ["agent:main:user:al", "agent:main:user:al:thread:1"]);
                assert_eq!(listed(&al, None).await.len(), 2);
            }
            other => panic!("the file has a new action: {other}"),
        }
    }
}

pub(crate) async fn p20() {
    let world = World::open().await;
    let steps = file::steps("P20");
    let (alice, mallory) = (world.socket("alice").await, world.socket("mallory").await);
    let word = canary();
    let key = steps[0]["key"].as_str().unwrap();
    turn(&alice, key, &word).await.unwrap();
    let before = world.state("T1").await;

    let said = turn(&mallory, steps[1]["key"].as_str().unwrap(), steps[1]["content"].as_str().unwrap()).await.unwrap();
    assert!(!said.contains(&word), "{said}");
    let asked = world.provider.requests();
    assert!(asked.last().is_some_and(|request| !request.raw.windows(word.len()).any(|w| w == word.as_bytes())));
    assert_eq!(listed(&mallory, None).await, [key]);
    let history = mallory.request("chat.history", json!({"sessionKey": key})).await.unwrap();
    assert_eq!(history["messages"].as_array().unwrap().len(), 2, "{history}");
    assert!(!history.to_string().contains(&word));
    // Two sessions to the model too.
    let ids: std::collections::BTreeSet<_> =
        asked.iter().map(|request| request.session_id().map(str::to_owned)).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");

    assert_eq!(world.state("T1").await, before);
    let history = alice.request("chat.history", json!({"sessionKey": key})).await.unwrap();
    assert!(history.to_string().contains(&word), "{history}");

    // Two rows of two tenants.
    let World { gateway, setup, .. } = world;
    assert!(gateway.terminate().await.success());
    let db = rusqlite::Connection::open(setup.state_dir().join("store.db")).unwrap();
    let count = "SELECT count(*), count(DISTINCT tenant), count(DISTINCT session) FROM sessions";
    let counts: (u32, u32, u32) = db.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(counts, (2, 2, 2));
}

/// Whatever bob subscribes to, he hears nothing of alice.
pub(crate) async fn p23() {
    const TURNS: usize = 25;
    let world = World::open().await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = heard.clone();
    let tap = Tap::new(move |text| log.lock().unwrap().push(text.to_owned()));
    let options = ConnectOptions { tap: Some(tap), ..ConnectOptions::default() };
    let alice = world.socket("alice").await;
    turn(&alice, ALICE, "first").await.unwrap();
    let page = alice.request("chat.history", json!({"sessionKey": ALICE})).await.unwrap();

    let bob = world.try_socket("bob", &options).await.unwrap();
    bob.request("sessions.subscribe", json!({})).await.unwrap();
    for key in ["*", ALICE, "agent:main:user:alice:*"] {
        let _ = bob.request("sessions.messages.subscribe", json!({"key": key})).await;
    }
    let params = json!({"sessionKey": ALICE, "cursor": page["deltaCursor"]});
    let error = bob.request("chat.history", params).await.unwrap_err();
    assert_eq!(reason(&error), "session_not_found", "{error}");
    let asked = heard.lock().unwrap().len();

    let words: Vec<String> = (0..TURNS).map(|_| canary()).collect();
    for word in &words {
        turn(&alice, ALICE, word).await.unwrap();
    }
    for method in ["system-presence", "health", "status", "sessions.list"] {
        bob.request(method, json!({})).await.unwrap();
    }
    // All that alice's turns caused has gone out by now, also to bob if it were for him.
    turn(&bob, "own", "mine").await.unwrap();
    let all = heard.lock().unwrap().clone();
    for text in &all[asked..] {
        assert!(!text.contains("alice") && !words.iter().any(|word| text.contains(word)), "bob got {text}");
    }
    let events = bob.events();
    assert!(events.iter().all(|event| !event.to_string().contains("alice")), "{events:?}");
    // Nor do the probes tell of her.
    for path in ["/healthz", "/readyz", "/health", "/metrics"] {
        let (_, body) = world.gateway.get(path).await.unwrap();
        assert!(!body.contains("alice") && !words.iter().any(|word| body.contains(word)), "{path}: {body}");
    }
}

pub(crate) async fn p28() {
    let world = World::open().await;
    let mut answers = Vec::new();
    for (at, step) in file::steps("P28").iter().enumerate() {
        let field = |name: &str| step[name].as_str().unwrap();
        let client = world.socket(field("as")).await;
        let key = format!("agent:main:user:{}", field("as"));
        let answer = turn_as(&client, &key, field("content"), field("idempotencyKey")).await;
        match at {
            0 => drop(answer.as_ref().unwrap()),
            // The stored one: no second run.
            1 => assert_eq!((&answer, world.model_calls()), (&answers[0], 1)),
            2 => {
                let error = answer.as_ref().unwrap_err();
                assert_eq!((reason(error), world.model_calls()), ("idempotency_mismatch", 1), "{error}");
            }
            _ => {
                assert_eq!(world.model_calls(), at - 1, "a run of its own");
                assert!(!answer.as_ref().unwrap().contains("CANARY_A"));
            }
        }
        answers.push(answer);
    }
    let state: Vec<Value> = world.state("T1").await.as_array().unwrap().clone();
    let alice = state.iter().find(|row| row[0] == ALICE).unwrap();
    assert_eq!(alice[2].as_array().unwrap().len(), 2, "{alice}");
}
