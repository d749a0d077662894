//! Paths, common headers, and what is refused before a socket opens.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use watertight_server::ServerOptions;
use watertight_server::options::{Limits, Timing};
use watertight_testkit::PATIENCE;

use super::{Running, start};

/// The whole answer to this request, in lower case.
async fn exchange(server: &Running, request: &str) -> String {
    let mut socket = TcpStream::connect(server.address).await.expect("it listens");
    socket.write_all(request.replace('\n', "\r\n").as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("it answers");
    String::from_utf8_lossy(&answer).to_lowercase()
}

async fn get(server: &Running, line: &str) -> String {
    exchange(server, &format!("{line} HTTP/1.1\nHost: localhost\nConnection: close\n\n")).await
}

#[tokio::test]
async fn probes_answer_without_a_credential() {
    let server = start(ServerOptions::default()).await;
    for path in ["/health", "/healthz"] {
        let answer = get(&server, &format!("GET {path}")).await;
        assert!(answer.starts_with("http/1.1 200") && answer.ends_with(r#"{"ok":true,"status":"live"}"#), "{answer}");
        assert!(
            answer.contains("content-type: application/json; charset=utf-8")
                && answer.contains("cache-control: no-store")
        );
    }
    for path in ["/ready", "/readyz?verbose=1"] {
        let answer = get(&server, &format!("GET {path}")).await;
        assert!(answer.starts_with("http/1.1 200") && answer.contains(r#""ready":true"#), "{answer}");
    }
    for path in ["/startup", "/startupz"] {
        let answer = get(&server, &format!("GET {path}")).await;
        assert!(answer.starts_with("http/1.1 200") && answer.contains(r#""status":"started""#), "{answer}");
    }
}

#[tokio::test]
async fn a_head_request_to_a_probe_gets_the_length_and_no_body() {
    let server = start(ServerOptions::default()).await;
    let answer = get(&server, "HEAD /health").await;
    assert!(answer.starts_with("http/1.1 200") && answer.contains("content-length: 27"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_refused_in_plain_text() {
    let server = start(ServerOptions::default()).await;
    for path in ["/nope", "/healthz/x", "/HEALTH"] {
        let answer = get(&server, &format!("GET {path}")).await;
        assert!(answer.starts_with("http/1.1 404") && answer.ends_with("not found"), "{answer}");
        assert!(answer.contains("content-type: text/plain; charset=utf-8"), "{answer}");
    }
    let answer = get(&server, "DELETE /readyz").await;
    assert!(answer.starts_with("http/1.1 405") && answer.ends_with("method not allowed"), "{answer}");
    assert!(answer.contains("allow: get, head\r\n"), "{answer}");
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let server = start(ServerOptions::default()).await;
    for line in ["GET /health", "GET /nope", "POST /health", "GET /"] {
        let answer = get(&server, line).await;
        for header in [
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "permissions-policy: camera=(), microphone=(self), geolocation=()",
        ] {
            assert!(answer.contains(header), "{line}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_foreign_host_name_is_refused_on_loopback() {
    let server = start(ServerOptions::default()).await;
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0"] {
        let request = format!("GET /health HTTP/1.1\nHost: {host}\nConnection: close\n\n");
        let answer = exchange(&server, &request).await;
        assert!(answer.starts_with("http/1.1 403"), "{host}: {answer}");
    }
    for host in ["localhost:1", "127.0.0.1", "[::1]:9"] {
        let request = format!("GET /health HTTP/1.1\nHost: {host}\nConnection: close\n\n");
        assert!(exchange(&server, &request).await.starts_with("http/1.1 200"), "{host}");
    }
    let two = "GET /health HTTP/1.1\nHost: localhost\nHost: evil.example\nConnection: close\n\n";
    assert!(exchange(&server, two).await.starts_with("http/1.1 400"));
}

#[tokio::test]
async fn behind_a_proxy_the_host_name_is_the_proxys() {
    let server = start(ServerOptions { behind_tls_proxy: true, ..ServerOptions::default() }).await;
    let answer = exchange(&server, "GET /readyz HTTP/1.1\nHost: gw.example\nConnection: close\n\n").await;
    assert!(answer.starts_with("http/1.1 200") && answer.ends_with(r#"{"ready":true}"#), "{answer}");
}

const HANDSHAKE: &str =
    "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";

#[tokio::test]
async fn only_the_root_upgrades_and_only_to_a_websocket() {
    let server = start(ServerOptions::default()).await;
    let ask = |path: &str, lines: String| {
        let request = format!("GET {path} HTTP/1.1\nHost: localhost\n{lines}\n");
        let server = &server;
        async move { exchange(server, &request).await }
    };
    let answer = ask("/elsewhere", HANDSHAKE.into()).await;
    assert!(answer.starts_with("http/1.1 404"), "{answer}");
    let answer = ask("/", HANDSHAKE.replace("websocket", "h2c")).await;
    assert!(answer.starts_with("http/1.1 400") && answer.ends_with("bad request"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let answer = ask("/", HANDSHAKE.replace("Version: 13", "Version: 8")).await;
    assert!(answer.starts_with("http/1.1 400") && answer.contains("sec-websocket-version: 13"), "{answer}");
    let answer = get(&server, "GET /").await;
    assert!(answer.starts_with("http/1.1 426") && answer.contains("upgrade: websocket"), "{answer}");
}

#[tokio::test]
async fn compression_and_subprotocols_are_never_agreed_to() {
    let server = start(ServerOptions::default()).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let offers = "Sec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Protocol: openclaw\n";
    let request = format!("GET / HTTP/1.1\nHost: localhost\n{HANDSHAKE}{offers}\n").replace('\n', "\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = socket.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101") && answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{answer}"
    );
    assert!(!answer.contains("sec-websocket-extensions") && !answer.contains("sec-websocket-protocol"), "{answer}");
}

#[tokio::test]
async fn secrets_and_session_keys_in_the_url_are_refused_with_advice() {
    let server = start(ServerOptions::default()).await;
    for (query, says) in
        [("token=x", "send the token in the connect request"), ("sessionKey=main", "name the session in each request")]
    {
        let request = format!("GET /?{query} HTTP/1.1\nHost: localhost\n{HANDSHAKE}\n");
        let answer = exchange(&server, &request).await;
        assert!(answer.starts_with("http/1.1 400") && answer.contains(says), "{answer}");
    }
}

#[tokio::test]
async fn a_header_beyond_its_bounds_is_refused() {
    let server = start(ServerOptions::default()).await;
    let long = format!("GET /health HTTP/1.1\nHost: localhost\nX-Long: {}\n\n", "x".repeat(40_000));
    assert!(exchange(&server, &long).await.starts_with("http/1.1 431"));
    let fields = "X-Field: 1\n".repeat(70);
    let many = format!("GET /health HTTP/1.1\nHost: localhost\n{fields}\n");
    assert!(exchange(&server, &many).await.starts_with("http/1.1 431"));
}

#[tokio::test]
async fn an_address_may_hold_only_so_many_connections_that_have_not_authenticated() {
    let limits = Limits { strangers_per_address: 3, ..Limits::default() };
    let server = start(ServerOptions { limits, ..ServerOptions::default() }).await;
    let believed = server.client().await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let length = answer.rsplit("\r\n\r\n").next().unwrap().len();
    assert!(answer.contains(&format!("Content-Length: {length}\r\n")), "{answer}");
    assert!(believed.request("health", serde_json::json!({})).await.is_ok(), "who is let in takes no place");
}

#[tokio::test]
async fn a_header_that_does_not_come_whole_is_not_waited_for() {
    let timing = Timing { header: Duration::from_millis(100), ..Timing::default() };
    let server = start(ServerOptions { timing, ..ServerOptions::default() }).await;
    for begun in ["", "GET /healthz HTTP/1.1\r\nHost: loc"] {
        let mut socket = TcpStream::connect(server.address).await.expect("it listens");
        socket.write_all(begun.as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the connection ends");
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{begun}");
    }
}

#[tokio::test]
async fn requests_do_not_keep_a_strangers_connection_open_for_ever() {
    let timing = Timing { handshake: Duration::from_millis(200), ..Timing::default() };
    let server = start(ServerOptions { timing, ..ServerOptions::default() }).await;
    let socket = TcpStream::connect(server.address).await.expect("it listens");
    let (mut read, mut write) = socket.into_split();
    let asking = tokio::spawn(async move {
        while write.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let mut some = [0; 4096];
    while matches!(read.read(&mut some).await, Ok(read) if read > 0) {}
    drop(read);
    asking.await.expect("the socket is closed");
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_before_the_upgrade() {
    let options = ServerOptions { allowed_origins: vec!["https://app.example".into()], ..ServerOptions::default() };
    let server = start(options).await;
    let upgrade = async |origin: &str, host: &str| {
        let head = format!("GET / HTTP/1.1\nHost: {host}\nOrigin: {origin}\nConnection: Upgrade\nUpgrade: websocket\n");
        let request = format!("{head}Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n");
        let mut socket = TcpStream::connect(server.address).await.expect("it listens");
        socket.write_all(request.replace('\n', "\r\n").as_bytes()).await.expect("it reads");
        let mut line = [0; 12];
        socket.read_exact(&mut line).await.expect("it answers");
        String::from_utf8_lossy(&line).into_owned()
    };
    for foreign in [
        "https://evil.example",
        "null",
        "https://app.example.evil.com",
        "http://127.0.0.1.evil.com",
        "https://app.example:444",
        "http://app.example",
    ] {
        assert_eq!(upgrade(foreign, "127.0.0.1").await, "HTTP/1.1 403", "{foreign}");
    }
    assert_eq!(upgrade("https://app.example", "rebind.evil.example").await, "HTTP/1.1 403");
    assert_eq!(upgrade("https://app.example", "127.0.0.1").await, "HTTP/1.1 101");
}
