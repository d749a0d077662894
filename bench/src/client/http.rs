//! Requests over a persistent HTTP connection.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::net::TcpStream;

use super::Wire;

/// A persistent connection.
pub(crate) struct Http {
    wire: Wire,
    address: SocketAddr,
}

impl Http {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await.context("no connection")?;
        Ok(Self { wire: Wire::new(socket)?, address })
    }

    /// `GET path` with an answer of a known length.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.wire.send(request.as_bytes()).await?;
        loop {
            let bytes = self.wire.unread();
            if let Some(at) = memmem::find(bytes, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..at]).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length: usize = length.context("no content-length")?.trim().parse()?;
                if bytes.len() >= at + 4 + length {
                    let body = bytes[at + 4..at + 4 + length].to_vec();
                    self.wire.consume(at + 4 + length);
                    return Ok(body);
                }
            }
            ensure!(self.wire.fill().await?, "the connection closed within the answer");
        }
    }

    /// Asks for a streamed completion in the name of a session.
    pub(crate) async fn ask(&mut self, session_key: &str, body: &str) -> Result<()> {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\naccept: */*\r\ncontent-type: application/json\r\n\
             x-openclaw-session-key: {session_key}\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        Ok(self.wire.send(request.as_bytes()).await?)
    }

    /// Waits until the answer contains `text`.
    pub(crate) async fn until(&mut self, text: &[u8]) -> Result<()> {
        loop {
            let bytes = self.wire.unread();
            if bytes.len() > 16 && !bytes.starts_with(b"HTTP/1.1 200 ") {
                bail!("refused: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
            }
            if memmem::find(bytes, text).is_some() {
                return Ok(());
            }
            ensure!(self.wire.fill().await?, "the connection closed within the answer");
        }
    }

    /// Waits for the answer's end and returns all of it.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>> {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        loop {
            let bytes = self.wire.unread();
            if bytes.ends_with(END) {
                let whole = bytes.to_vec();
                self.wire.consume(whole.len());
                return Ok(whole);
            }
            ensure!(self.wire.fill().await?, "the connection closed within the answer");
        }
    }
}
