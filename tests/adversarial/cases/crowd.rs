//! P25, P31, P35: many at once, and what is left behind.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use watertight_testkit::PATIENCE;
use watertight_testkit::gateway_client::ConnectOptions;
use watertight_testkit::mock_provider::Reply;

use crate::world::{World, canary, turn};

fn scopes() -> Vec<String> {
    vec!["operator.read".into(), "operator.write".into()]
}

/// Everybody uses the same ids for everything.
pub(crate) async fn p25() {
    let people = crate::parameter("WATERTIGHT_PEOPLE", 20);
    let requests = crate::parameter("WATERTIGHT_REQUESTS", 50);
    let mut world = World::open().await;
    for at in 0..people {
        let name = format!("p{at}");
        let prefix = format!("agent:main:user:{name}");
        world.make_person(if at % 2 == 0 { "T1" } else { "T2" }, &name, &scopes(), &[prefix]).await;
    }
    let mut all = tokio::task::JoinSet::new();
    for at in 0..people {
        let (url, token) = (world.gateway.url(), world.person(&format!("p{at}")).token.clone());
        let word = format!("canary-{at}-");
        all.spawn(async move {
            let (mut socket, _) = connect_async(&url).await.unwrap();
            let params = ConnectOptions::default().with_scopes(&["operator.read", "operator.write"]).params(Some(&token));
            let connect = json!({"type": "req", "id": "0", "method": "connect", "params": params});
            socket.send(Message::text(connect.to_string())).await.unwrap();
            let mut answers: BTreeMap<String, usize> = BTreeMap::new();
            let mut finals = 0;
            let (mut to, mut from) = socket.split();
            let send = async {
                for id in 1..=requests {
                    let params = json!({"sessionKey": "s", "idempotencyKey": format!("r{id}"), "message": format!("{word}{id}")});
                    let frame = json!({"type": "req", "id": id.to_string(), "method": "chat.send", "params": params});
                    to.send(Message::text(frame.to_string())).await.unwrap();
                }
            };
            let read = async {
                while answers.len() <= requests || finals < answers.len().saturating_sub(1) {
                    let message = timeout(PATIENCE, from.next()).await.expect("a frame in time").unwrap().unwrap();
                    let Message::Text(text) = message else { continue };
                    for other in 0..people {
                        let marker = format!("canary-{other}-");
                        assert!(marker == word || !text.contains(&marker), "{word} got {text}");
                    }
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == "res" {
                        *answers.entry(frame["id"].as_str().unwrap().to_owned()).or_default() += 1;
                        // A full queue refuses; it still answers where it was asked.
                        if frame["ok"] != true {
                            assert_eq!(frame["error"]["details"]["reasonCode"], "rate_limited", "{frame}");
                            finals += 1;
                        }
                    }
                    if frame["event"] == "chat" && frame["payload"]["state"] == "final" {
                        assert!(text.contains(&word), "{word} got an answer that is not its own: {text}");
                        finals += 1;
                    }
                }
            };
            tokio::join!(send, read);
            assert!(answers.values().all(|count| *count == 1), "{word}: {answers:?}");
            answers.len() - 1
        });
    }
    let mut replies = 0;
    while let Some(done) = all.join_next().await {
        replies += done.expect("a connection of its own");
    }
    assert_eq!(replies, people * requests);
}

/// What was said, and every secret, is in no file and no line of the log.
pub(crate) async fn p31() {
    let sessions = crate::parameter("WATERTIGHT_SESSIONS", 10);
    let turns = crate::parameter("WATERTIGHT_TURNS", 10);
    let world = World::open().await;
    let alice = world.socket("alice").await;
    let mut words = Vec::new();
    for session in 0..sessions {
        let name = canary();
        let key = format!("agent:main:user:alice:{name}");
        words.push(name);
        for at in 0..turns {
            let word = canary();
            if at % 5 == 4 {
                world.provider.push(Reply::error(400, "bad", &format!("refused {word}")));
            }
            let _ = turn(&alice, &key, &word).await;
            words.push(word);
        }
        let _ = alice.request("chat.history", json!({"sessionKey": format!("bad key {}", words[session])})).await;
        let _ = alice.request(&words[session], json!({})).await;
    }
    words.extend(world.tokens());
    let mut said = String::new();
    for path in ["/healthz", "/readyz", "/startupz", "/health", "/metrics", "/"] {
        said.push_str(&world.gateway.get(path).await.unwrap().1);
    }
    said.push_str(&world.gateway.output());
    for word in &words {
        assert!(!said.contains(word.as_str()), "a probe or the log tells {word}");
    }

    let World { mut gateway, setup, provider, .. } = world;
    hunt(&setup.state_dir(), &words);
    gateway.signal(Signal::TERM);
    gateway.wait().await;
    hunt(&setup.state_dir(), &words);
    let said = gateway.output();
    assert!(!words.iter().any(|word| said.contains(word.as_str())), "the log tells at the end");
    drop(provider);
}

/// Looks for the words in every file, and at who may read it.
fn hunt(dir: &Path, words: &[String]) {
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", dir.display());
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            hunt(&entry.path(), words);
            continue;
        }
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        // As text of one byte per character: none of the words has another.
        let bytes = std::fs::read(entry.path()).unwrap();
        let found = words.iter().find(|word| memmem(&bytes, word.as_bytes()));
        assert_eq!(found, None, "in {}", entry.path().display());
    }
}

fn memmem(bytes: &[u8], word: &[u8]) -> bool {
    let first = word[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(word) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Clients that stop reading are let go; nobody else notices.
pub(crate) async fn p35() {
    const PIECE: usize = 512 * 1024;
    let stopped = crate::parameter("WATERTIGHT_STOPPED", 3);
    let world = World::open().await;
    let key = "agent:main:user:alice";
    let reader = world.socket("alice").await;
    turn(&reader, key, "hello").await.unwrap();
    let page = reader.request("chat.history", json!({"sessionKey": key})).await.unwrap();
    let mut deaf = Vec::new();
    for _ in 0..stopped {
        let client = world.socket("alice").await;
        client.request("sessions.subscribe", json!({})).await.unwrap();
        client.set_reading(false);
        deaf.push(client);
    }
    let size = 2 * PIECE;
    let mut turns = 0;
    // Until the gateway has let all of them go, as the presence of others tells.
    loop {
        world.provider.push(Reply::pieces([
            "x".repeat(size / 4),
            "x".repeat(size / 4),
            "x".repeat(size / 4),
            "x".repeat(size / 4),
        ]));
        let said = turn(&reader, key, "more").await.expect("the run does not stall");
        assert_eq!(said.len(), size);
        turns += 1;
        let connections = reader.request("system-presence", json!({})).await.unwrap();
        let is_client = |entry: &&Value| entry["reason"] == "connect";
        if connections.as_array().unwrap().iter().filter(is_client).count() == 1 {
            break;
        }
        assert!(turns < 100, "a client that does not read is never let go: {connections}");
    }
    for client in &deaf {
        client.set_reading(true);
        let closed = client.closed().await;
        assert!(matches!(closed.code, Some(1008) | None), "{closed:?}");
    }
    // From where it was, nothing is missing.
    let again = world.socket("alice").await;
    let delta = again.request("chat.history", json!({"sessionKey": key, "cursor": page["deltaCursor"]})).await.unwrap();
    let whole = again.request("chat.history", json!({"sessionKey": key, "limit": 1000, "maxChars": 10})).await.unwrap();
    let total = whole["totalMessages"].as_u64().or_else(|| whole["messages"].as_array().map(|m| m.len() as u64));
    assert_eq!(total, Some(2 + 2 * turns as u64), "of {turns} turns; the delta: {:.200}", delta.to_string());
}
