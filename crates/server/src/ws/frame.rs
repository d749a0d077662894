//! One frame to a client: its header and its payload in one piece (RFC 6455 §5.2). A server does not mask.

use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use serde::Serialize;

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;

/// The longest header.
const HEADER: usize = 10;

/// A frame, ready to be written.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    /// Room for the longest header, then the payload.
    bytes: Vec<u8>,
    /// Where the header begins.
    start: usize,
}

impl Frame {
    /// A text frame that holds this as JSON, which takes about so many bytes.
    pub(crate) fn json(value: &impl Serialize, expected: usize) -> serde_json::Result<Self> {
        let mut bytes = Vec::with_capacity(HEADER + expected);
        bytes.resize(HEADER, 0);
        serde_json::to_writer(&mut bytes, value)?;
        Ok(Self::finish(TEXT, bytes))
    }

    /// A ping.
    pub(crate) fn ping() -> Self {
        Self::control(PING, &[])
    }

    /// The answer to a ping.
    pub(crate) fn pong(payload: &[u8]) -> Self {
        Self::control(PONG, payload)
    }

    /// A close frame.
    pub(crate) fn close(close: Option<&CloseFrame>) -> Self {
        let mut payload = Vec::new();
        if let Some(CloseFrame { code, reason }) = close {
            payload.extend(u16::from(*code).to_be_bytes());
            payload.extend(reason.as_bytes());
        }
        Self::control(CLOSE, &payload)
    }

    fn control(opcode: u8, payload: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes.extend(payload);
        Self::finish(opcode, bytes)
    }

    fn finish(opcode: u8, mut bytes: Vec<u8>) -> Self {
        let length = bytes.len() - HEADER;
        let start = match u16::try_from(length) {
            Ok(short @ 0..126) => {
                bytes[HEADER - 1] = short.to_be_bytes()[1];
                HEADER - 2
            }
            Ok(medium) => {
                bytes[HEADER - 3] = 126;
                bytes[HEADER - 2..HEADER].copy_from_slice(&medium.to_be_bytes());
                HEADER - 4
            }
            Err(_) => {
                bytes[1] = 127;
                bytes[2..HEADER].copy_from_slice(&(length as u64).to_be_bytes());
                0
            }
        };
        bytes[start] = FINAL | opcode;
        Self { bytes, start }
    }

    /// The frame as it is written.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The payload.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::frame::{Frame as Known, FrameSocket};

    fn known(frame: Known) -> Vec<u8> {
        let mut socket = FrameSocket::new(Vec::new());
        socket.send(frame).unwrap();
        socket.into_inner().0
    }

    #[test]
    fn frames_are_those_of_the_library() {
        for length in [0, 1, 123, 124, 65_533, 65_534, 200_000] {
            let text = "x".repeat(length);
            let quoted = format!("\"{text}\"");
            let expected = known(Known::message(
                quoted.clone(),
                tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode::Data(
                    tokio_tungstenite::tungstenite::protocol::frame::coding::Data::Text,
                ),
                true,
            ));
            let frame = Frame::json(&text, 16).unwrap();
            assert!(frame.as_bytes() == expected && frame.payload() == quoted.as_bytes(), "{length}");
        }
        let close = CloseFrame { code: 1008.into(), reason: "slow consumer".into() };
        assert_eq!(Frame::close(Some(&close)).as_bytes(), known(Known::close(Some(close))));
        assert_eq!(Frame::close(None).as_bytes(), known(Known::close(None)));
        assert_eq!(Frame::ping().as_bytes(), known(Known::ping(Vec::new())));
        assert_eq!(Frame::pong(b"abc").as_bytes(), known(Known::pong(&b"abc"[..])));
    }
}
