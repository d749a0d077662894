//! HTTP to the byte, from any address of loopback: what well-behaved clients would not send.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use watertight_testkit::PATIENCE;

/// Where requests come from that do not say otherwise.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// `error.code`.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// What two refusals are compared by: all but the date.
    pub(crate) fn bytes(&self) -> String {
        let dated = |line: &&str| !line.to_ascii_lowercase().starts_with("date:");
        let head: Vec<&str> = self.head.lines().filter(dated).collect();
        format!("{}\n\n{}", head.join("\n"), self.body)
    }
}

/// Opens a connection from this address of loopback.
pub(crate) async fn open(to: SocketAddr, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).expect("an address of loopback");
    timeout(PATIENCE, socket.connect(to)).await.expect("it connects in time").expect("it connects")
}

/// Sends bytes over a connection of its own and reads until the other side closes. None where it closed without an
/// answer.
pub(crate) async fn exchange(to: SocketAddr, from: Ipv4Addr, request: &[u8]) -> Option<Answer> {
    let mut stream = open(to, from).await;
    // A refusal may come, and the connection be closed, before all is sent.
    let _ = stream.write_all(request).await;
    read_answer(&mut stream).await
}

/// Reads until the other side closes.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the other side closes in time");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A request in full. `headers` may name one twice.
pub(crate) fn request(method: &str, path: &str, headers: &[(String, String)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    let length = body.len().to_string();
    text.extend(["Content-Length: ", &length, "\r\n\r\n", body]);
    text.into_bytes()
}

/// A request for an upgrade to a WebSocket, with these headers beside it.
pub(crate) fn upgrade(headers: &[(String, String)]) -> Vec<u8> {
    let mut text = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        .to_owned();
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A header.
pub(crate) fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}
