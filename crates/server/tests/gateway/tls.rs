//! TLS on the listener: what goes over it, and what strangers may try.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, version};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use watertight_config::TlsFiles;
use watertight_server::ServerOptions;
use watertight_server::options::{Limits, Timing};
use watertight_server::tls::Tls;
use watertight_testkit::certificates::Authority;
use watertight_testkit::gateway_client::{Closed, ConnectOptions};
use watertight_testkit::relay::Relay;
use watertight_testkit::{GatewayClient, PATIENCE};

use super::{Running, chat, message, start};

/// A server with TLS, and who vouches for it.
struct Secured {
    server: Running,
    authority: Authority,
    dir: TempDir,
}

async fn secured(mut options: ServerOptions) -> Secured {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let (cert, key) = authority.issue(&["localhost", "127.0.0.1"]).write(dir.path());
    options.tls = Some(Tls::load(&TlsFiles { cert, key }).expect("a certificate"));
    Secured { server: start(options).await, authority, dir }
}

impl Secured {
    async fn relay(&self, client: Arc<ClientConfig>) -> Relay {
        Relay::over_tls(self.server.address, client).await
    }

    async fn client(&self, relay: &Relay) -> GatewayClient {
        let url = format!("ws://{}/", relay.address());
        let token = self.server.token.as_deref();
        GatewayClient::connect(&url, token, &ConnectOptions::default()).await.expect("it is let in")
    }

    async fn handshake(&self, client: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.server.address).await?;
        TlsConnector::from(client).connect(ServerName::try_from("localhost").expect("a name"), tcp).await
    }
}

/// What comes until the end, however that is reached.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut all)).await.expect("the connection ends");
    all
}

#[tokio::test]
async fn turns_of_every_size_go_over_both_versions() {
    let gateway = secured(ServerOptions::default()).await;
    for (name, version) in [("1.3", &version::TLS13), ("1.2", &version::TLS12)] {
        let relay = gateway.relay(gateway.authority.client_of(&[version])).await;
        let client = gateway.client(&relay).await;
        for bytes in [1, 20_000, 300_000] {
            let text = "y".repeat(bytes);
            let run = format!("{name}-{bytes}");
            assert!(chat(&client, "main", &text, &run).await.contains(&text), "{run}");
        }
        client.send_binary(vec![0; 10]).await;
        assert_eq!(client.closed().await, Closed { code: Some(1003), reason: "text frames only".into() });
    }
}

#[tokio::test]
async fn http_is_answered_and_the_end_is_announced() {
    let gateway = secured(ServerOptions::default()).await;
    let mut socket = gateway.handshake(gateway.authority.client()).await.unwrap();
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    // Without close_notify this would be an error.
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn only_http_1_is_agreed_to() {
    let gateway = secured(ServerOptions::default()).await;
    let with = |protocols: &[&str]| {
        let mut client = (*gateway.authority.client()).clone();
        client.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(client)
    };
    let socket = gateway.handshake(with(&["h2", "http/1.1"])).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(gateway.handshake(with(&["h2"])).await.is_err());
}

#[tokio::test]
async fn plain_text_is_told_and_garbage_is_closed() {
    let gateway = secured(ServerOptions::default()).await;
    let mut socket = TcpStream::connect(gateway.server.address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(rest(&mut socket).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "This port speaks TLS: use https:// or wss://\n");
    assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");

    let mut socket = TcpStream::connect(gateway.server.address).await.unwrap();
    socket.write_all(&[0x80; 200]).await.unwrap();
    assert_eq!(rest(&mut socket).await, b"");
    let mut socket = TcpStream::connect(gateway.server.address).await.unwrap();
    socket.write_all(&[0x16; 200]).await.unwrap();
    let alert = rest(&mut socket).await;
    assert!(alert.len() <= 7, "at most an alert: {alert:?}");

    let relay = gateway.relay(gateway.authority.client()).await;
    assert!(gateway.client(&relay).await.request("health", json!({})).await.is_ok(), "others are served");
}

#[tokio::test]
async fn a_stalled_handshake_and_a_header_that_never_comes_are_closed_at_the_deadline() {
    let timing = Timing { header: Duration::from_millis(300), ..Timing::default() };
    let gateway = secured(ServerOptions { timing, ..ServerOptions::default() }).await;
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut socket = TcpStream::connect(gateway.server.address).await.unwrap();
        socket.write_all(begun).await.unwrap();
        assert_eq!(rest(&mut socket).await, b"", "{begun:?}");
    }
    let mut socket = gateway.handshake(gateway.authority.client()).await.unwrap();
    socket.write_all(b"GET / HT").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the connection ends");
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn whoever_shakes_hands_is_a_stranger() {
    let limits = Limits { strangers_per_address: 3, ..Limits::default() };
    let gateway = secured(ServerOptions { limits, ..ServerOptions::default() }).await;
    let relay = gateway.relay(gateway.authority.client()).await;
    let believed = gateway.client(&relay).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(gateway.server.address).await.unwrap();
        socket.write_all(b"\x16\x03\x01").await.unwrap();
        waiting.push(socket);
    }
    let mut refused = TcpStream::connect(gateway.server.address).await.unwrap();
    assert_eq!(rest(&mut refused).await, b"", "no plain text on a port that speaks TLS");
    assert!(believed.request("health", json!({})).await.is_ok(), "who is let in takes no place");
    waiting.clear();
    // Their places are free as soon as the server has seen them go.
    timeout(PATIENCE, async { while gateway.handshake(gateway.authority.client()).await.is_err() {} }).await.unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_old_ones_go_on() {
    let timing = Timing { certificate: Duration::from_millis(20), ..Timing::default() };
    let gateway = secured(ServerOptions { timing, ..ServerOptions::default() }).await;
    let relay = gateway.relay(gateway.authority.client()).await;
    let before = gateway.client(&relay).await;
    let resuming = gateway.authority.client();
    gateway.handshake(resuming.clone()).await.unwrap();

    let other = Authority::new();
    other.issue(&["localhost"]).write(gateway.dir.path());
    timeout(PATIENCE, async { while gateway.handshake(other.client()).await.is_err() {} }).await.unwrap();
    assert!(gateway.handshake(gateway.authority.client()).await.is_err(), "the old one is no longer shown");
    assert!(gateway.handshake(resuming).await.is_err(), "nor is a session under it resumed");
    before.request("chat.send", message("main", "still here", "r")).await.unwrap();
    let end = before.next_payload("chat", |chat| chat["state"] == "final").await;
    assert!(end["message"]["content"][0]["text"].as_str().unwrap().contains("still here"), "{end}");
}

#[tokio::test]
async fn a_shutdown_closes_connections_under_tls_as_it_does_others() {
    let mut gateway = secured(ServerOptions::default()).await;
    let relay = gateway.relay(gateway.authority.client()).await;
    let client = gateway.client(&relay).await;
    // In the middle of a handshake.
    let mut stalled = TcpStream::connect(gateway.server.address).await.unwrap();
    stalled.write_all(b"\x16\x03\x01").await.unwrap();
    gateway.server.stop.cancel();
    assert_eq!(client.closed().await, Closed { code: Some(1012), reason: "service restart".into() });
    assert_eq!(rest(&mut stalled).await, b"");
    (&mut gateway.server.server).await.unwrap().unwrap();
}
