//! Lean clients: they cost as little as they can, so that what is measured is the other side.
//!
//! * [`Wire`]: a socket and what was read from it.
//! * [`websocket`]: frames of the gateway protocol, as bytes.
//! * [`http`]: a streamed chat completion.

pub(crate) mod http;
pub(crate) mod websocket;

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for at least this much is made before each read, in bytes.
const READ: usize = 4 * 1024;

/// A socket and what was read from it but not used yet.
pub(crate) struct Wire {
    socket: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::new(), start: 0 })
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Done with the first `n` unread bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Reads more; false at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 && self.buffer.capacity() - self.buffer.len() < READ {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.reserve(READ);
        Ok(self.socket.read_buf(&mut self.buffer).await? > 0)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }
}
