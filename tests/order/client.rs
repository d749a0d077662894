//! A WebSocket client that masks with zeros, which changes nothing: its frames can be read in a trace.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Far longer than any answer takes, also under a tracer.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a client was told of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing but a refusal, or that the connection is gone.
    Refused,
    /// That it is accepted; its end did not come.
    Acknowledged,
    /// That it ended with an answer.
    Completed,
}

/// One connection.
pub(crate) struct Client {
    socket: TcpStream,
    received: Vec<u8>,
    next_id: u64,
}

impl Client {
    /// Opens a connection and says hello.
    pub(crate) async fn connect(address: SocketAddr, token: &str) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("the gateway listens");
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(upgrade.as_bytes()).await.expect("the gateway takes the upgrade");
        let mut client = Self { socket, received: Vec::new(), next_id: 0 };
        let end = loop {
            let end = client.received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            match end {
                Some(end) => break end + 4,
                None => assert!(client.receive().await, "the gateway answers the upgrade"),
            }
        };
        client.received.drain(..end);
        client
            .send(
                "connect",
                &json!({
                    "minProtocol": 4, "maxProtocol": 4,
                    "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
                    "role": "operator", "scopes": ["operator.admin"], "caps": [], "auth": {"token": token},
                }),
            )
            .await;
        loop {
            let frame = client.next().await.expect("the gateway says hello");
            if frame["type"] == "res" {
                assert_eq!(frame["ok"], true, "{frame:#}");
                return client;
            }
        }
    }

    /// Sends a request. On a closed connection it does nothing: what is waited for tells.
    pub(crate) async fn send(&mut self, method: &str, params: &Value) {
        self.next_id += 1;
        let id = self.next_id.to_string();
        let payload = json!({"type": "req", "id": id, "method": method, "params": params}).to_string();
        let length = u16::try_from(payload.len()).expect("a short request");
        let mut frame = vec![0x81, 0x80 | 0x7e];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload.as_bytes());
        let _ = self.socket.write_all(&frame).await;
    }

    /// Reads until the run is acknowledged or refused.
    pub(crate) async fn until_acknowledged(&mut self, run: &str) -> Told {
        loop {
            match self.next().await {
                None => return Told::Refused,
                Some(frame) if frame["type"] != "res" => {}
                Some(frame) if frame["payload"]["runId"] == run => return Told::Acknowledged,
                Some(frame) if frame["ok"] == false => return Told::Refused,
                Some(_) => {}
            }
        }
    }

    /// Reads until the run's end is told by the response that `agent` sends last, or by the event that ends the run.
    pub(crate) async fn until_end_of(&mut self, run: &str) -> Told {
        let mut told = self.until_acknowledged(run).await;
        while told == Told::Acknowledged {
            let Some(frame) = self.next().await else { return told };
            let payload = &frame["payload"];
            if frame["event"] == "chat" && payload["runId"] == run {
                match payload["state"].as_str() {
                    Some("final") => told = Told::Completed,
                    Some("error" | "aborted") => return told,
                    _ => {}
                }
            }
        }
        told
    }

    /// The next frame of text; none when the connection is gone.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((opcode, payload)) = self.take_frame() {
                match opcode {
                    1 => return Some(serde_json::from_slice(&payload).expect("the gateway sends JSON")),
                    8 => return None,
                    _ => continue,
                }
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, &second) = (self.received.first()?, self.received.get(1)?);
        let bytes = |from: usize, to: usize| self.received.get(from..to);
        let (length, start) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(bytes(2, 4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(bytes(2, 10)?.try_into().ok()?), 10),
            short => (u64::from(short), 2),
        };
        let end = start + usize::try_from(length).ok()?;
        let payload = bytes(start, end)?.to_vec();
        self.received.drain(..end);
        Some((first & 0x0f, payload))
    }

    /// Reads more. False when the connection is gone.
    async fn receive(&mut self) -> bool {
        let read = timeout(PATIENCE, self.socket.read_buf(&mut self.received)).await;
        read.expect("the gateway says something in time").is_ok_and(|bytes| bytes > 0)
    }
}
