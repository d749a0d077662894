//! Clients that vanish: in the middle of a frame, of a request, of an answer.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use watertight_config::Config;
use watertight_core::ids::RunId;
use watertight_core::transcript::Message;
use watertight_engine::Engine;
use watertight_engine::admission::{Access, Presented};
use watertight_engine::request::{HistoryQuery, Target};
use watertight_engine::state_dir::StateDir;
use watertight_server::{ServerOptions, run};
use watertight_testkit::gateway_client::{ConnectOptions, GatewayClient, Tap};
use watertight_testkit::mock_provider::Reply;
use watertight_testkit::{MockProvider, PATIENCE};

/// Clients that vanish.
const CLIENTS: usize = 400;
/// How many of them at a time.
const AT_ONCE: usize = 16;

struct World {
    engine: Engine,
    access: Access,
    url: String,
    address: String,
    token: String,
    _mock: MockProvider,
    _dir: tempfile::TempDir,
}

impl World {
    async fn open(stop: &CancellationToken) -> (Self, JoinHandle<io::Result<()>>) {
        let mock = MockProvider::start().await;
        mock.answer_with(|request| {
            let words = request.last_user_text();
            Some(Reply::pieces((0..6).map(|n| format!("{words} {n} "))).with_pause(Duration::from_millis(2)))
        });
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[[agents]]\nid = \"main\"\nmodel = \"mock/m\"\n[providers.mock]\nkind = \"openai\"\nbase_url = \"{}\"\n",
            mock.base_url()
        );
        let state = StateDir::lock(&dir.path().join("state")).unwrap();
        let engine = Engine::open(Arc::new(Config::from_toml(&config).unwrap()), state).await.unwrap();
        let token = std::fs::read_to_string(engine.operator_token_file().unwrap()).unwrap().trim().to_owned();
        let access = engine.authenticate(Presented::Secret(&token), None).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = run(listener, engine.clone(), ServerOptions::default(), stop.clone().cancelled_owned());
        let server = tokio::spawn(server);
        let url = format!("ws://{address}/");
        (Self { engine, access, url, address, token, _mock: mock, _dir: dir }, server)
    }
}

fn key(n: usize) -> String {
    format!("agent:main:vanishing-{n}")
}

/// What every word of session `n` carries, its input and its answer.
fn marker(n: usize) -> String {
    format!("<marker-{n}>")
}

/// Which sessions' words these are.
fn markers(text: &str) -> Vec<&str> {
    text.split("<marker-").skip(1).filter_map(|rest| rest.split_once('>')).map(|(n, _)| n).collect()
}

/// Sees every message of one connection: what names a session holds the words of that session only.
#[derive(Default)]
struct Watch {
    foreign: Mutex<Vec<String>>,
    seen: Mutex<usize>,
}

impl Watch {
    fn see(&self, text: &str) {
        *self.seen.lock().unwrap() += 1;
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let payload = &message["payload"];
        let named = payload["sessionKey"].as_str().or_else(|| payload["session"]["key"].as_str());
        let Some(n) = named.and_then(|key| key.rsplit_once('-')).map(|(_, n)| n) else { return };
        if markers(text).iter().any(|found| *found != n) {
            self.foreign.lock().unwrap().push(text.to_owned());
        }
    }
}

/// One client's short life. Whether it was told that its turn is accepted.
async fn vanish(world: &World, n: usize) -> bool {
    match n % 8 {
        // No handshake at all, or half of one.
        0 => {
            let mut socket = TcpStream::connect(&world.address).await.unwrap();
            let head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
            let _ = socket.write_all(&head[..(n * 7) % head.len()]).await;
            return false;
        }
        // Before it has said who it is.
        1 => return GatewayClient::open(&world.url, &[]).await.is_err(),
        _ => {}
    }
    let watch = Arc::new(Watch::default());
    let tap = watch.clone();
    let options = ConnectOptions { tap: Some(Tap::new(move |text| tap.see(text))), ..ConnectOptions::default() };
    let client = GatewayClient::connect(&world.url, Some(&world.token), &options).await.unwrap();
    let params = json!({"sessionKey": key(n), "message": marker(n), "idempotencyKey": format!("vanishing-{n}")});
    let mut told = false;
    match n % 8 {
        // In the middle of its request.
        2 => {
            let text = json!({"type": "req", "id": "1", "method": "chat.send", "params": params}).to_string();
            client.send_text(&text[..text.len() / 2]).await;
        }
        // With its request on the way.
        3 => drop(client.send("chat.send", Some(params)).await),
        // With another request of another kind behind it.
        4 => {
            drop(client.send("chat.send", Some(params)).await);
            drop(client.send("chat.history", Some(json!({"sessionKey": key(n)}))).await);
            drop(client.send("chat.abort", Some(json!({"sessionKey": key(n)}))).await);
        }
        // Accepted, and then gone.
        5 => told = client.request("chat.send", params).await.is_ok(),
        // In the middle of the answer.
        6 => {
            told = client.request("chat.send", params).await.is_ok();
            let own = key(n);
            let delta = |event: &Value| event["event"] == "chat" && event["payload"]["sessionKey"] == own.as_str();
            client.event_or_close(delta).await;
        }
        // While it waits for the end.
        _ => {
            let params =
                json!({"sessionKey": key(n), "message": marker(n), "idempotencyKey": format!("vanishing-{n}")});
            let end = client.request_final("agent", params);
            drop(timeout(Duration::from_millis((n % 23) as u64), end).await);
        }
    }
    drop(client);
    let foreign = watch.foreign.lock().unwrap();
    assert!(foreign.is_empty(), "client {n} was sent what is another session's: {foreign:?}");
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_take_nothing_along_and_leave_nothing_behind() {
    let stop = CancellationToken::new();
    let (world, server) = World::open(&stop).await;
    let world = Arc::new(world);
    let lanes = (0..AT_ONCE).map(|lane| {
        let world = world.clone();
        tokio::spawn(async move {
            let mut told = HashMap::new();
            for n in (lane..CLIENTS).step_by(AT_ONCE) {
                told.insert(n, vanish(&world, n).await);
            }
            told
        })
    });
    let mut told = HashMap::new();
    for lane in join_all(lanes).await {
        told.extend(lane.unwrap());
    }

    // One that stays is served as ever.
    let client = GatewayClient::connect(&world.url, Some(&world.token), &ConnectOptions::default()).await.unwrap();
    let mut accepted = 0;
    for n in 0..CLIENTS {
        let params = json!({"sessionKey": key(n), "message": marker(n), "idempotencyKey": format!("staying-{n}")});
        client.request("chat.send", params).await.unwrap();
    }
    for n in 0..CLIENTS {
        let staying = RunId::parse(&format!("staying-{n}")).unwrap();
        let report = world.engine.wait(&world.access, &staying, Some(PATIENCE)).await.unwrap().expect("its turn ends");
        assert!(markers(&report.text).iter().all(|found| *found == n.to_string()), "{n}: {}", report.text);
    }

    // Nothing of what the others asked for is on its way any more.
    drop(client);
    stop.cancel();
    server.await.unwrap().unwrap();
    for n in 0..CLIENTS {
        let query = HistoryQuery { limit: 1000, offset: 0, max_bytes: usize::MAX };
        let history = world.engine.history(&world.access, &Target::of_key(key(n)), query).await.unwrap();
        let messages: Vec<&Message> = history.entries.iter().map(|entry| &entry.body.message).collect();
        let inputs = messages.iter().filter(|message| matches!(message, Message::User { .. })).count();
        let was_told = told[&n];
        assert!(inputs == 2 || (inputs == 1 && !was_told), "session {n}: {inputs} inputs, told {was_told}");
        accepted += inputs - 1;
        for message in messages {
            let text = message.text();
            assert!(markers(&text).iter().all(|found| *found == n.to_string()), "session {n}: {text}");
        }
        // A turn that was accepted has come to its end, though nobody heard it.
        let vanished = RunId::parse(&format!("vanishing-{n}")).unwrap();
        let known = world.engine.wait(&world.access, &vanished, Some(Duration::ZERO)).await.unwrap();
        assert_eq!(known.is_some(), inputs == 2, "session {n}");
    }
    println!("{CLIENTS} clients vanished, {accepted} turns of theirs were accepted");
    assert!(accepted > CLIENTS / 4, "turns that never arrive prove nothing");
}
