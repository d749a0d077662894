//! From bytes to messages (RFC 6455 §5), with a bound that is narrow until the client is believed (gateway-ws.md §1.2).
//!
//! The WebSocket library reserves memory for a frame as soon as its header is read, never gives a buffer back, and has
//! one limit for strangers and friends. Thousands of connections that only listen must cost next to nothing, so bytes
//! are read here: into memory that grows with what has really come, and that is given back when a message is complete.

use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::poll_fn;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::stream::ReadHalf;

/// Largest frame before hello, in bytes of payload.
pub(crate) const MAX_STRANGER_FRAME: usize = 64 * 1024;
/// Everything before hello: one such frame, its header, and a few pings.
const MAX_STRANGER_BYTES: usize = MAX_STRANGER_FRAME + 2048;
/// Room for one read, in bytes: more than most requests take.
const SMALL_READ: usize = 4 * 1024;
/// Room for one read within a large frame.
const LARGE_READ: usize = 256 * 1024;
/// Most bytes of payload in a control frame (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;

/// What a client said.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary,
    /// A ping, to be answered with its payload.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// A close frame, as it is to be answered.
    Close(Option<CloseFrame>),
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misread {
    /// The other side is gone.
    Gone,
    /// A stranger sent too much.
    StrangerTooBig,
    /// A message beyond the limit.
    TooBig,
    /// A text that is not UTF-8.
    NotUtf8,
    /// Not the WebSocket protocol.
    Protocol,
}

/// The reading side of a socket.
pub(crate) struct Incoming {
    buffer: BytesMut,
    /// Of the frame whose payload is awaited.
    header: Option<(FrameHeader, usize)>,
    /// The fragments of a message so far; whether it is text.
    fragments: Option<(bool, BytesMut)>,
    /// Most bytes of a frame and of a message.
    limit: usize,
    /// What a stranger may still send, in bytes; none for a client that is believed.
    allowance: Option<usize>,
}

impl Incoming {
    /// For a stranger, of whom these bytes are here already.
    pub(crate) fn new(early: &[u8]) -> Self {
        Self {
            buffer: BytesMut::from(early),
            header: None,
            fragments: None,
            limit: MAX_STRANGER_FRAME,
            allowance: Some(MAX_STRANGER_BYTES.saturating_sub(early.len())),
        }
    }

    /// The client is believed: frames of up to `limit` bytes from now on.
    pub(crate) fn believe(&mut self, limit: usize) {
        self.limit = limit;
        self.allowance = None;
    }

    /// The next message. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self, stream: &mut ReadHalf<'_>) -> Result<Heard, Misread> {
        loop {
            if let Some(heard) = self.take()? {
                return Ok(heard);
            }
            if self.buffer.is_empty() {
                // It may still hold on to the memory of the message before.
                self.buffer = BytesMut::new();
            }
            self.fill(stream).await?;
        }
    }

    async fn fill(&mut self, stream: &mut ReadHalf<'_>) -> Result<(), Misread> {
        let missing = self.header.as_ref().map_or(0, |(_, length)| length.saturating_sub(self.buffer.len()));
        // What has come at the least doubles, so that a large frame is not copied often, and one that was only
        // announced takes no memory.
        let room = missing.clamp(SMALL_READ, LARGE_READ.max(self.buffer.len()));
        let read = poll_fn(|cx| {
            let read = stream.poll_read(cx, &mut self.buffer, room);
            if self.buffer.is_empty() {
                // Whoever waits holds nothing.
                self.buffer = BytesMut::new();
            }
            read
        });
        match read.await {
            Ok(0) | Err(_) => Err(Misread::Gone),
            Ok(read) => self.allow(read),
        }
    }

    fn allow(&mut self, read: usize) -> Result<(), Misread> {
        if let Some(allowance) = &mut self.allowance {
            *allowance = allowance.checked_sub(read).ok_or(Misread::StrangerTooBig)?;
        }
        Ok(())
    }

    fn too_big(&self) -> Misread {
        if self.allowance.is_some() { Misread::StrangerTooBig } else { Misread::TooBig }
    }

    /// The next message among the bytes that are here.
    fn take(&mut self) -> Result<Option<Heard>, Misread> {
        while let Some((header, payload)) = self.frame()? {
            let heard = match header.opcode {
                OpCode::Control(control) => Some(Self::control(control, header.is_final, payload)?),
                OpCode::Data(data) => self.data(data, header.is_final, payload)?,
            };
            if heard.is_some() {
                return Ok(heard);
            }
        }
        Ok(None)
    }

    /// The next frame, its payload unmasked.
    fn frame(&mut self) -> Result<Option<(FrameHeader, BytesMut)>, Misread> {
        if self.header.is_none() {
            let mut cursor = Cursor::new(&self.buffer);
            let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Misread::Protocol)?;
            let Some((header, length)) = parsed else { return Ok(None) };
            let length = usize::try_from(length).ok().filter(|length| *length <= self.limit);
            let length = length.ok_or_else(|| self.too_big())?;
            let taken = usize::try_from(cursor.position()).map_err(|_| Misread::Protocol)?;
            self.buffer.advance(taken);
            self.header = Some((header, length));
        }
        let Some((header, length)) = self.header.take_if(|(_, length)| *length <= self.buffer.len()) else {
            return Ok(None);
        };
        let mut payload = self.buffer.split_to(length);
        match header.mask {
            Some(mask) if !(header.rsv1 || header.rsv2 || header.rsv3) => unmask(&mut payload, mask),
            // A client masks, and nothing was agreed on that would use the other bits.
            _ => return Err(Misread::Protocol),
        }
        Ok(Some((header, payload)))
    }

    fn control(control: Control, is_final: bool, payload: BytesMut) -> Result<Heard, Misread> {
        if !is_final || payload.len() > MAX_CONTROL {
            return Err(Misread::Protocol);
        }
        match control {
            Control::Ping => Ok(Heard::Ping(payload.freeze())),
            Control::Pong => Ok(Heard::Pong),
            Control::Close => close(payload.freeze()),
            Control::Reserved(_) => Err(Misread::Protocol),
        }
    }

    fn data(&mut self, data: Data, is_final: bool, payload: BytesMut) -> Result<Option<Heard>, Misread> {
        let (is_text, whole) = match (data, self.fragments.take()) {
            (Data::Text, None) => (true, payload),
            (Data::Binary, None) => (false, payload),
            (Data::Continue, Some((is_text, mut fragments))) => {
                if fragments.len() + payload.len() > self.limit {
                    return Err(self.too_big());
                }
                fragments.extend_from_slice(&payload);
                (is_text, fragments)
            }
            _ => return Err(Misread::Protocol),
        };
        if !is_final {
            self.fragments = Some((is_text, whole));
            return Ok(None);
        }
        if !is_text {
            return Ok(Some(Heard::Binary));
        }
        let text = Utf8Bytes::try_from(whole.freeze()).map_err(|_| Misread::NotUtf8)?;
        Ok(Some(Heard::Text(text)))
    }
}

/// A close frame as it is to be answered: with what it says, unless it may not say that.
fn close(payload: Bytes) -> Result<Heard, Misread> {
    if payload.is_empty() {
        return Ok(Heard::Close(None));
    }
    let (code, reason) = payload.split_first_chunk::<2>().ok_or(Misread::Protocol)?;
    let code = CloseCode::from(u16::from_be_bytes(*code));
    let reason = std::str::from_utf8(reason).map_err(|_| Misread::NotUtf8)?;
    let answer = if code.is_allowed() {
        CloseFrame { code, reason: reason.into() }
    } else {
        CloseFrame { code: CloseCode::Protocol, reason: "Protocol violation".into() }
    };
    Ok(Heard::Close(Some(answer)))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests;
