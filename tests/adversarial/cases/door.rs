//! P17, P18, P39, P40: what comes before, or around, a credential.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use watertight_testkit::PATIENCE;
use watertight_testkit::gateway_client::ConnectOptions;

use crate::file;
use crate::http::{self, HERE, header};
use crate::world::{World, reason};

type Socket = WebSocketStream<TcpStream>;

/// A socket from this address, after the challenge.
async fn socket(world: &World, from: Ipv4Addr) -> Option<Socket> {
    let stream = http::open(world.gateway.address(), from).await;
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let opened = timeout(PATIENCE, client_async_with_config(world.gateway.url(), stream, Some(config))).await;
    let (mut socket, _) = opened.expect("an answer in time").ok()?;
    let challenge = timeout(PATIENCE, socket.next()).await.expect("a challenge in time")?.ok()?;
    challenge.is_text().then_some(socket)
}

/// A socket that has said hello with these fields of `auth`; else the error.
async fn hello(world: &World, from: Ipv4Addr, auth: Value) -> Result<Socket, Value> {
    let mut socket = socket(world, from).await.ok_or_else(|| json!("no socket"))?;
    let mut params = ConnectOptions::default().with_scopes(&["operator.read", "operator.write"]).params(None);
    params["auth"] = auth;
    let frame = json!({"type": "req", "id": "c", "method": "connect", "params": params});
    socket.send(Message::text(frame.to_string())).await.unwrap();
    let answer = answer_to(&mut socket, "c").await.ok_or_else(|| json!("closed"))?;
    if answer["ok"] == true { Ok(socket) } else { Err(answer["error"].clone()) }
}

/// The response of this id; none when the socket closes first.
async fn answer_to(socket: &mut Socket, id: &str) -> Option<Value> {
    loop {
        let message = timeout(PATIENCE, socket.next()).await.expect("a message in time")?.ok()?;
        if let Message::Text(text) = message {
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["type"] == "res" && frame["id"] == id {
                return Some(frame);
            }
        }
    }
}

/// The code the socket is closed with; none where it just ends.
async fn close_code(socket: &mut Socket) -> Option<u16> {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("it closes in time") {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

pub(crate) async fn p17() {
    let case = file::case("P17");
    let (listed, _) = case["config"].as_str().unwrap().split_once(", listen").unwrap();
    let world = World::configured(&["main"], &format!("[gateway]\n{}\n", listed.replace('\'', "\""))).await;
    let token = world.operator("T1");
    for step in file::steps("P17") {
        let headers = step["headers"].as_object().unwrap();
        let mut given: Vec<_> = headers.iter().map(|(name, value)| header(name, value.as_str().unwrap())).collect();
        let is_page = headers.contains_key("Origin");
        if !is_page {
            given.push(header("Cookie", "session=ambient"));
        }
        let answer = http::exchange(world.gateway.address(), HERE, &http::upgrade(&given)).await;
        let answer = answer.expect("an answer, and no upgrade");
        assert_eq!(answer.status, 403, "{step}: {answer:?}");
        assert!(answer.body.starts_with("origin_not_allowed"), "{step}: {answer:?}");
        // With a credential in the header too: no page of a stranger's uses the API.
        if is_page {
            given.push(header("Authorization", &format!("Bearer {token}")));
        }
        let request = http::request("GET", "/v1/admin/principals", &given, "");
        let answer = http::exchange(world.gateway.address(), HERE, &request).await.unwrap();
        assert_eq!(answer.status, if is_page { 403 } else { 401 }, "{step}: {answer:?}");
        assert!(!answer.body.contains("alice"), "{answer:?}");
    }
    world.gateway.wait_for_output("a page of another origin tried to connect").await;
    // A listed page, one of this machine, and a program are let through to the handshake.
    for origin in [Some("https://app.example"), Some("http://127.0.0.1:18789"), None] {
        let headers = origin.map(|origin| vec![("Origin".to_owned(), origin.to_owned())]).unwrap_or_default();
        let options = ConnectOptions { headers, ..ConnectOptions::default() };
        assert!(world.try_socket("alice", &options).await.is_ok(), "{origin:?}");
    }
}

/// Wrong secrets of an address before it is locked; the product's default.
const FAILURES: usize = 10;

pub(crate) async fn p18() {
    let tries = crate::parameter("WATERTIGHT_GUESSES", 40);
    let world = World::open().await;
    let wrong = "wta_0123456789abcdef_0000000000000000000000000000000000000000000_00000000";
    let right = world.person("alice").token.clone();
    let ways: [(Ipv4Addr, Value, usize); 2] = [
        (Ipv4Addr::new(127, 0, 0, 11), json!({"token": wrong}), 1),
        // Two secrets in one try count twice.
        (Ipv4Addr::new(127, 0, 0, 12), json!({"token": wrong, "deviceToken": "bogus"}), 2),
    ];
    for (from, auth, each) in ways {
        for at in 0..tries {
            let error = hello(&world, from, auth.clone()).await.expect_err("a wrong token");
            let limited = reason(&error) == "rate_limited";
            assert!(limited || reason(&error) == "unauthorized", "{error}");
            assert!(limited || at < FAILURES, "try {at} was judged: {error}");
            assert!(!limited || at * each >= FAILURES - 1, "try {at} was not judged: {error}");
        }
        // Nor does the right one tell that it is right; elsewhere it works.
        let error = hello(&world, from, json!({"token": right})).await.expect_err("a locked address");
        assert_eq!(reason(&error), "rate_limited", "{error}");
        let answer = world.http_from(from, world.operator("T1"), "GET", "/v1/admin/tokens", &Value::Null).await;
        assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"), "{answer:?}");
        assert!(hello(&world, HERE, json!({"token": right})).await.is_ok());
    }
    // Nobody is somebody else for saying so.
    let from = Ipv4Addr::new(127, 0, 0, 13);
    let mut answers = Vec::new();
    for at in 0..tries {
        let headers = [
            header("Host", &world.gateway.address().to_string()),
            header("X-Forwarded-For", &format!("198.51.100.{at}")),
            header("Authorization", &format!("Bearer {wrong}")),
        ];
        let request = http::request("GET", "/v1/admin/tokens", &headers, "");
        answers.push(http::exchange(world.gateway.address(), from, &request).await.unwrap().status);
    }
    assert_eq!(answers[..FAILURES], [401; FAILURES]);
    assert!(answers[FAILURES..].iter().all(|status| *status == 429), "{answers:?}");
}

pub(crate) async fn p39() {
    let world = World::open().await;
    let address = world.gateway.address();
    // Slow ones first: their deadline runs while the others are tried.
    let crowd = crate::parameter("WATERTIGHT_SLOW", 8);
    let slow = Ipv4Addr::new(127, 0, 0, 21);
    let mut dripping = Vec::new();
    for _ in 0..crowd {
        let mut stream = http::open(address, slow).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        dripping.push(tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(500));
            let mut rest = Vec::new();
            let (mut from, mut to) = stream.split();
            loop {
                tokio::select! {
                    ended = from.read_to_end(&mut rest) => return drop(ended),
                    _ = beat.tick() => drop(to.write_all(b"s").await),
                }
            }
        }));
    }

    // Upgrades that never authenticate: capped by address, and nobody else is kept out.
    let flood = crate::parameter("WATERTIGHT_UPGRADES", 200);
    let stranger = Ipv4Addr::new(127, 0, 0, 22);
    let mut open = Vec::new();
    for _ in 0..flood {
        open.extend(socket(&world, stranger).await);
    }
    assert!(!open.is_empty() && open.len() < flood, "{} of {flood} strangers were let in", open.len());
    assert!(hello(&world, HERE, json!({"token": world.person("alice").token})).await.is_ok());

    // Refused before the body, of which nothing is ever sent.
    let request = format!(
        "POST /v1/admin/tokens HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer wrong\r\nContent-Length: {}\r\n\r\n",
        10_u64 << 30
    );
    let mut stream = http::open(address, HERE).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("an answer before the body").unwrap();
    assert_eq!(&head, b"HTTP/1.1 401");
    drop(stream);

    let mut early = socket(&world, HERE).await.unwrap();
    let _ = early.send(Message::text("x".repeat(64 * 1024 + 1))).await;
    assert_eq!(close_code(&mut early).await, Some(1009));

    // HTTP/2 is not spoken, so neither its resets nor its continuations are read.
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend(std::iter::repeat_n([0_u8, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8], 1000).flatten());
    let mut stream = http::open(address, HERE).await;
    let _ = stream.write_all(&preface).await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection is closed");
    assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));

    for one in dripping {
        timeout(PATIENCE, one).await.expect("closed at the header's deadline").unwrap();
    }
    assert!(hello(&world, HERE, json!({"token": world.person("alice").token})).await.is_ok());
}

/// Memory of the gateway at this moment, in bytes.
fn resident(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// A frame's head: declared length, final or not, masked with zeros.
fn frame_head(opcode: u8, last: bool, length: u64) -> Vec<u8> {
    let mut head = vec![if last { 0x80 | opcode } else { opcode }];
    match length {
        0..=125 => head.push(0x80 | length as u8),
        _ => {
            head.push(0x80 | 127);
            head.extend(length.to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}

pub(crate) async fn p40() {
    const ROOM: u64 = 64 * 1024 * 1024;
    let world = World::open().await;
    let token = json!({"token": world.person("alice").token});
    let before = resident(&world);

    let mut giant = hello(&world, HERE, token.clone()).await.unwrap();
    giant.get_mut().write_all(&frame_head(1, true, (1 << 63) - 1)).await.unwrap();
    assert!(matches!(close_code(&mut giant).await, Some(1009 | 1002)));

    // One attachment of a gibibyte, as far as it is read.
    let mut attachment = hello(&world, HERE, token.clone()).await.unwrap();
    attachment.get_mut().write_all(&frame_head(1, true, 1 << 30)).await.unwrap();
    assert_eq!(close_code(&mut attachment).await, Some(1009));

    // A message in ever so many pieces: taken whole, or refused; never more memory than its bytes.
    let pieces = crate::parameter("WATERTIGHT_FRAGMENTS", 100_000);
    let mut fragments = hello(&world, HERE, token.clone()).await.unwrap();
    let mut bytes = frame_head(1, false, 1);
    bytes.push(b'x');
    for _ in 0..pieces {
        bytes.extend(frame_head(0, false, 1));
        bytes.push(b'x');
    }
    bytes.extend(frame_head(0, true, 0));
    let sent = fragments.get_mut().write_all(&bytes).await.is_ok();
    if sent {
        let _ = fragments.send(Message::text(json!({"type": "req", "id": "h", "method": "health"}).to_string())).await;
        let _ = answer_to(&mut fragments, "h").await;
    }

    let answer = {
        let headers = [
            header("Host", &world.gateway.address().to_string()),
            header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ];
        let mut stream = http::open(world.gateway.address(), HERE).await;
        stream.write_all(&http::upgrade(&headers)).await.unwrap();
        let mut head = vec![0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut head)).await.expect("an answer").unwrap();
        String::from_utf8_lossy(&head[..read]).to_ascii_lowercase()
    };
    assert!(answer.starts_with("http/1.1 101") && !answer.contains("sec-websocket-extensions"), "{answer}");

    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wide: Vec<String> = (0..1_000_000).map(|at| format!("\"k{at}\":0")).collect();
    let frame = |params: &str| format!(r#"{{"type":"req","id":"q","method":"chat.send","params":{params}}}"#);
    let twice = r#"{"sessionKey":"a","sessionKey":"b","message":"hi","idempotencyKey":"p40"}"#;
    for text in [frame(&nested), frame(&format!("{{{}}}", wide.join(","))), frame(twice)] {
        let mut socket = hello(&world, HERE, token.clone()).await.unwrap();
        socket.send(Message::text(text)).await.unwrap();
        // Refused under its own id, or under `invalid` where it was not parsed.
        let refused = loop {
            match timeout(PATIENCE, socket.next()).await.expect("an answer in time") {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == "res" {
                        break frame["error"]["code"] == "INVALID_REQUEST";
                    }
                }
                Some(Ok(Message::Close(close))) => break close.is_some_and(|close| u16::from(close.code) == 1009),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break false,
            }
        };
        assert!(refused);
    }
    assert_eq!((world.model_calls(), world.state("T1").await), (0, json!([])));

    let pings = crate::parameter("WATERTIGHT_PINGS", 50_000);
    let mut pinging = hello(&world, HERE, token.clone()).await.unwrap();
    let mut flood = Vec::new();
    for _ in 0..pings {
        flood.extend(frame_head(9, true, 0));
    }
    // The answers are read while it is sent: neither side waits for the other.
    let ask = frame_of_health();
    flood.extend(ask);
    let stream = pinging.get_mut();
    let (mut from, mut to) = stream.split();
    let read = async {
        let mut seen = Vec::new();
        let mut chunk = vec![0; 65536];
        while !String::from_utf8_lossy(&seen).contains("\"flooded\"") {
            let read = from.read(&mut chunk).await.unwrap_or(0);
            if read == 0 {
                break;
            }
            let keep = seen.len().saturating_sub(64);
            seen.drain(..keep);
            seen.extend(&chunk[..read]);
        }
    };
    let both = async { tokio::join!(to.write_all(&flood), read) };
    let _ = timeout(PATIENCE, both).await.expect("the flood is taken, or the connection closed");

    let grown = resident(&world).saturating_sub(before);
    println!("P40 the gateway grew by {} MiB", grown >> 20);
    assert!(grown <= ROOM, "the gateway grew by {grown} bytes");
    assert!(hello(&world, HERE, token).await.is_ok());
}

/// A request for health under the id `flooded`, as a masked frame.
fn frame_of_health() -> Vec<u8> {
    let text = json!({"type": "req", "id": "flooded", "method": "health"}).to_string();
    let mut frame = frame_head(1, true, text.len() as u64);
    frame.extend(text.as_bytes());
    frame
}
