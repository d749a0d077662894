//! A WebSocket of the gateway protocol. Frames are handed out as bytes, and looked at by searching.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::net::TcpStream;

use super::Wire;

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The first byte's flag of a frame that is a whole message.
const FINAL: u8 = 0x80;
/// The second byte's flag of a frame from a client.
const MASKED: u8 = 0x80;

/// Lengths beyond 125 stand in the two or eight bytes after these.
const LEN_16: u8 = 0x7e;
const LEN_64: u8 = 0x7f;

/// An open connection.
pub(crate) struct WebSocket {
    wire: Wire,
    out: Vec<u8>,
    /// Bytes of the frame handed out last.
    taken: usize,
}

impl WebSocket {
    /// Opens the socket, waits for the challenge, sends `connect` and waits for hello. The client hears events only of
    /// sessions it subscribes to.
    pub(crate) async fn open(gateway: SocketAddr, token: &str) -> Result<Self> {
        let mut wire = Wire::new(TcpStream::connect(gateway).await.context("no connection to the gateway")?)?;
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: {gateway}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        wire.send(upgrade.as_bytes()).await?;
        let head = loop {
            if let Some(at) = memmem::find(wire.unread(), b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(wire.fill().await?, "the gateway closed before the upgrade");
        };
        let status = String::from_utf8_lossy(&wire.unread()[..head.min(200)]).into_owned();
        ensure!(status.starts_with("HTTP/1.1 101 "), "no upgrade: {status}");
        wire.consume(head);

        let mut socket = Self { wire, out: Vec::new(), taken: 0 };
        let challenge = socket.next().await?;
        ensure!(contains(challenge, br#""connect.challenge""#), "no challenge: {}", shown(challenge));
        let connect = format!(
            r#"{{"type":"req","id":"connect","method":"connect","params":{{"minProtocol":4,"maxProtocol":4,"client":{{"id":"gateway-client","version":"1.0.0","platform":"linux","mode":"backend"}},"role":"operator","scopes":["operator.admin"],"caps":["session-scoped-events"],"auth":{{"token":"{token}"}}}}}}"#
        );
        socket.queue(&connect);
        socket.flush().await?;
        let hello = socket.response("connect").await?;
        ensure!(contains(hello, br#""hello-ok""#), "no hello: {}", shown(hello));
        Ok(socket)
    }

    /// Puts a text frame behind those that wait for [`Self::flush`].
    pub(crate) fn queue(&mut self, text: &str) {
        self.frame(TEXT, text.as_bytes());
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.wire.send(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Sends a close frame and lets go.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.frame(CLOSE, &1000_u16.to_be_bytes());
        self.flush().await
    }

    /// The next text frame. Answers pings on the way.
    pub(crate) async fn next(&mut self) -> Result<&[u8]> {
        self.wire.consume(std::mem::take(&mut self.taken));
        loop {
            let Some(Head { opcode, start, end }) = head(self.wire.unread())? else {
                ensure!(self.wire.fill().await?, "the gateway closed the socket");
                continue;
            };
            match opcode {
                TEXT => {
                    self.taken = end;
                    return Ok(&self.wire.unread()[start..end]);
                }
                PING => {
                    let payload = self.wire.unread()[start..end].to_vec();
                    self.frame(PONG, &payload);
                    self.flush().await?;
                }
                CLOSE => bail!("the gateway closed: {}", shown(&self.wire.unread()[start..end])),
                _ => {}
            }
            self.wire.consume(end);
        }
    }

    /// The next response to this request; what comes before it is passed over.
    pub(crate) async fn response(&mut self, id: &str) -> Result<&[u8]> {
        loop {
            let frame = self.next().await?;
            if is_response(frame, id) {
                break;
            }
        }
        // Asked for again, because the borrow of the loop cannot be handed out.
        let Some(Head { start, end, .. }) = head(self.wire.unread())? else { bail!("the frame is gone") };
        Ok(&self.wire.unread()[start..end])
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        self.out.push(FINAL | opcode);
        match payload.len() {
            len @ 0..126 => self.out.push(MASKED | len as u8),
            len @ 126..=0xffff => {
                self.out.push(MASKED | LEN_16);
                self.out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                self.out.push(MASKED | LEN_64);
                self.out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        // A mask of zero: legal, and it costs nothing. It protects old proxies, of which there are none here.
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(payload);
    }
}

struct Head {
    opcode: u8,
    start: usize,
    end: usize,
}

/// A whole frame at the beginning of `bytes`, where there is one.
fn head(bytes: &[u8]) -> Result<Option<Head>> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    ensure!(first & FINAL != 0, "the gateway fragments messages, which this client cannot put together");
    ensure!(second & MASKED == 0, "a frame of a server is not masked");
    let (start, len) = match second {
        LEN_16 => match rest.first_chunk() {
            Some(&len) => (4, usize::from(u16::from_be_bytes(len))),
            None => return Ok(None),
        },
        LEN_64 => match rest.first_chunk() {
            Some(&len) => (10, usize::try_from(u64::from_be_bytes(len))?),
            None => return Ok(None),
        },
        len => (2, usize::from(len)),
    };
    let end = start + len;
    Ok((bytes.len() >= end).then_some(Head { opcode: first & 0x0f, start, end }))
}

/// Whether `frame` is a response to the request `id`.
pub(crate) fn is_response(frame: &[u8], id: &str) -> bool {
    // Both stand at the beginning, before anything a person or a model wrote.
    let start = &frame[..frame.len().min(64 + id.len())];
    contains(start, br#""type":"res""#) && contains(start, format!(r#""id":"{id}""#).as_bytes())
}

/// Whether a response is of success.
pub(crate) fn is_ok(frame: &[u8]) -> bool {
    contains(frame, br#""ok":true"#)
}

pub(crate) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    memmem::find(bytes, needle).is_some()
}

/// The beginning of a frame, for a message.
pub(crate) fn shown(frame: &[u8]) -> String {
    String::from_utf8_lossy(&frame[..frame.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_only_with_its_last_byte() {
        for len in [0, 5, 125, 126, 70_000] {
            let mut bytes = vec![FINAL | TEXT];
            match len {
                0..126 => bytes.push(len as u8),
                126..=0xffff => {
                    bytes.push(LEN_16);
                    bytes.extend((len as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(LEN_64);
                    bytes.extend((len as u64).to_be_bytes());
                }
            }
            let start = bytes.len();
            bytes.resize(start + len, b'x');
            let found = head(&bytes).unwrap().unwrap();
            assert_eq!((found.opcode, found.start, found.end), (TEXT, start, start + len));
            for cut in [1, start, start + len - 1] {
                assert!(cut >= start + len || head(&bytes[..cut]).unwrap().is_none(), "{len} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_response_is_known_by_its_id() {
        let frame = br#"{"type":"res","id":"a","ok":true,"payload":{"text":"x"}}"#;
        assert!(is_response(frame, "a") && is_ok(frame));
        assert!(!is_response(frame, "b"));
        assert!(!is_response(br#"{"type":"event","event":"chat","payload":{"id":"a"}}"#, "a"));
    }
}
