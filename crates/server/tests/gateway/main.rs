//! The server in this process, on a real engine with the echo model, over real sockets.

mod admin;
mod clock;
mod devices;
mod handshake;
mod http;
mod lifetime;
mod methods;
mod slow_clients;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watertight_config::Config;
use watertight_engine::Engine;
use watertight_engine::clock::Clock;
use watertight_engine::engine::Parts;
use watertight_engine::state_dir::StateDir;
use watertight_server::{ServerOptions, run};
use watertight_testkit::GatewayClient;
use watertight_testkit::gateway_client::{ConnectError, ConnectOptions};

/// A server at work. Dropping it ends it at once.
struct Running {
    address: SocketAddr,
    token: Option<String>,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    _state: TempDir,
}

/// With the generated token, and these options.
async fn start(options: ServerOptions) -> Running {
    start_with("", options).await
}

/// With this configuration, too.
async fn start_with(config: &str, options: ServerOptions) -> Running {
    start_by(Clock::system(), config, options).await
}

/// By another clock, too.
async fn start_by(clock: Clock, config: &str, options: ServerOptions) -> Running {
    let state = tempfile::tempdir().expect("a directory");
    let config = Arc::new(Config::from_toml(config).expect("a configuration"));
    let dir = StateDir::lock(&state.path().join("state")).expect("a free state directory");
    let engine = Engine::open_with(config, dir, Parts { clock, ..Parts::default() }).await.expect("an engine");
    let token =
        engine.operator_token_file().map(|file| std::fs::read_to_string(file).expect("a token").trim().to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let server = tokio::spawn(run(listener, engine, options, stop.clone().cancelled_owned()));
    Running { address, token, stop, server, _state: state }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Running {
    fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    async fn client(&self) -> GatewayClient {
        self.try_client(&ConnectOptions::default()).await.expect("it is let in")
    }

    async fn try_client(&self, options: &ConnectOptions) -> Result<GatewayClient, ConnectError> {
        GatewayClient::connect(&self.url(), self.token.as_deref(), options).await
    }
}

/// A client of this sort.
fn options(id: &str, mode: &str) -> ConnectOptions {
    ConnectOptions { client_id: id.into(), mode: mode.into(), ..ConnectOptions::default() }
}

/// `chat.send` parameters.
fn message(key: &str, text: &str, run: &str) -> Value {
    json!({"sessionKey": key, "message": text, "idempotencyKey": run})
}

/// Sends and waits for the answer's text.
async fn chat(client: &GatewayClient, key: &str, text: &str, run: &str) -> String {
    client.request("chat.send", message(key, text, run)).await.expect("it is accepted");
    let end = client.next_payload("chat", |chat| chat["runId"] == run && chat["state"] == "final").await;
    end["message"]["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}
