//! How much a stranger may send (gateway-ws.md §1.2).
//!
//! The WebSocket library fixes its frame limit when the socket is made, and reserves memory for a frame as soon as its
//! header is read. So the gate stands in front of it: until it is opened it reads the frame headers that pass, and
//! stops at the first byte of a frame that is too large, or when too much has passed in all. It also counts what leaves, so
//! that a client that reads slowly can be told from one that does not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest frame before hello, in bytes of payload.
pub(crate) const MAX_STRANGER_FRAME: u64 = 64 * 1024;
/// Everything before hello: one such frame, its header, and a few pings.
const MAX_STRANGER_BYTES: u64 = MAX_STRANGER_FRAME + 2048;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const OVERRUN: u8 = 2;

/// The handle of a gate.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: AtomicU8,
    written: AtomicU64,
}

impl Gate {
    /// Lets everything pass from now on.
    pub(crate) fn open(&self) {
        self.0.state.store(OPEN, Ordering::Release);
    }

    /// Whether the stranger sent too much. Reads have failed since.
    pub(crate) fn is_overrun(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == OVERRUN
    }

    /// Bytes the other side's system has taken so far.
    pub(crate) fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// A stream behind this gate.
    pub(crate) fn guard<S>(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone(), passed: 0, scan: Scan::default() }
    }
}

/// A stream behind a gate.
pub(crate) struct Gated<S> {
    inner: S,
    gate: Gate,
    passed: u64,
    scan: Scan,
}

impl<S> Gated<S> {
    /// The stream itself, past the gate.
    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

/// Where in the stream of frames we are.
#[derive(Default)]
struct Scan {
    header: Vec<u8>,
    payload_left: u64,
}

impl Scan {
    /// Reads over `bytes`; false when a frame header among them announces too much.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skip = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= skip as u64;
                bytes = &bytes[skip..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let Some(length) = self.announced() {
                if length > MAX_STRANGER_FRAME {
                    return false;
                }
                // A client masks: four bytes stand before the payload.
                self.payload_left = length + if self.header[1] & 0x80 != 0 { 4 } else { 0 };
                self.header.clear();
            }
        }
        true
    }

    /// The payload length, once enough of the header is here.
    fn announced(&self) -> Option<u64> {
        let short = u64::from(self.header.get(1)? & 0x7f);
        let extended = match short {
            126 => self.header.get(2..4)?,
            127 => self.header.get(2..10)?,
            _ => return Some(short),
        };
        Some(extended.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let too_much = || Poll::Ready(Err(io::Error::other("a client sent too much before it authenticated")));
        match this.gate.0.state.load(Ordering::Acquire) {
            CLOSED => {}
            OPEN => return Pin::new(&mut this.inner).poll_read(cx, buf),
            _ => return too_much(),
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        this.passed += fresh.len() as u64;
        if this.passed > MAX_STRANGER_BYTES || !this.scan.pass(fresh) {
            buf.set_filled(before);
            this.gate.0.state.store(OVERRUN, Ordering::Release);
            return too_much();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = std::task::ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        this.gate.0.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A masked text frame's header.
    fn header(length: u64) -> Vec<u8> {
        let mut bytes = vec![0x81];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..65_536 => {
                bytes.push(0xfe);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0xff);
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes
    }

    fn frame(length: u64) -> Vec<u8> {
        let mut bytes = header(length);
        bytes.resize(bytes.len() + length as usize, b'x');
        bytes
    }

    async fn read_through(gate: &Gate, bytes: &[u8]) -> io::Result<usize> {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        ours.write_all(bytes).await.unwrap();
        drop(ours);
        let mut all = Vec::new();
        gate.guard(theirs).read_to_end(&mut all).await
    }

    #[tokio::test]
    async fn a_frame_of_exactly_the_limit_passes() {
        let gate = Gate::default();
        let bytes = frame(MAX_STRANGER_FRAME);
        assert_eq!(read_through(&gate, &bytes).await.unwrap(), bytes.len());
        assert!(!gate.is_overrun());
    }

    #[tokio::test]
    async fn the_header_of_a_larger_frame_never_reaches_the_reader() {
        for length in [MAX_STRANGER_FRAME + 1, 25 << 20, u64::MAX] {
            let gate = Gate::default();
            let bytes = header(length);
            assert!(read_through(&gate, &bytes).await.is_err(), "{length}");
            assert!(gate.is_overrun());
        }
    }

    #[tokio::test]
    async fn a_large_frame_behind_a_small_one_is_found() {
        let gate = Gate::default();
        let bytes = [frame(5), frame(300), header(MAX_STRANGER_FRAME + 1)].concat();
        assert!(read_through(&gate, &bytes).await.is_err());
    }

    #[test]
    fn a_header_split_anywhere_is_understood() {
        for length in [5, 300, 70_000] {
            let bytes = header(length);
            let mut scan = Scan::default();
            let verdicts: Vec<bool> = bytes.iter().map(|byte| scan.pass(&[*byte])).collect();
            assert_eq!(verdicts.contains(&false), length > MAX_STRANGER_FRAME, "{length}");
        }
    }

    #[tokio::test]
    async fn many_small_frames_are_too_much_in_all() {
        let gate = Gate::default();
        let bytes = frame(100).repeat(700);
        assert!(read_through(&gate, &bytes).await.is_err());
        assert!(gate.is_overrun());
    }

    #[tokio::test]
    async fn an_open_gate_lets_everything_pass() {
        let gate = Gate::default();
        gate.open();
        let bytes = frame(400_000);
        assert_eq!(read_through(&gate, &bytes).await.unwrap(), bytes.len());
    }
}
