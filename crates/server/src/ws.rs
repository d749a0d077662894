//! The OpenClaw WebSocket protocol, version 4 (gateway-ws.md).
//!
//! A connection's life:
//! * [`upgrade`]: from HTTP to a socket.
//! * [`origin`]: which pages may open one.
//! * [`connection`]: the socket from challenge to close.
//! * [`incoming`]: from bytes to messages, and how much a stranger may send.
//! * [`handshake`]: who is let in, and as what.
//! * [`devices`]: proofs of device keys, pairing, device tokens.
//! * [`clock`]: when a connection is told something without having asked.
//! * [`outbox`]: what waits to be written, and what happens when it piles up.
//! * [`frame`]: one frame to a client.
//! * [`writer`]: from there to the socket.
//! * [`presence`]: who is here.
//!
//! Requests:
//! * [`method`]: the table of methods; each entry says who may call it.
//! * [`dispatch`]: from a frame to a method, bounded and in order.
//! * [`call`]: one request, and how it is answered.
//! * [`failure`]: the one place where an engine error becomes a wire error.
//! * [`agent`], [`chat`], [`sessions`], [`system`]: one file per family.
//! * [`image`]: pictures beside a message.
//! * [`view`]: the engine's views as the wire shows them.
//!
//! Events:
//! * [`feed`]: from what happens in sessions to what a connection hears.

mod agent;
mod call;
mod chat;
mod clock;
pub(crate) mod connection;
pub(crate) mod devices;
mod dispatch;
mod failure;
mod feed;
mod frame;
mod handshake;
mod image;
mod incoming;
mod method;
pub(crate) mod origin;
mod outbox;
pub(crate) mod presence;
mod sessions;
mod system;
pub(crate) mod upgrade;
pub(crate) mod view;
mod writer;

use watertight_wire::openclaw::hello::AttachmentPolicy;

/// Largest frame of a client we know, in bytes.
const MAX_FRAME_BYTES: usize = 25 * 1024 * 1024;

/// Largest pictures of a message.
const ATTACHMENTS: AttachmentPolicy =
    AttachmentPolicy { max_bytes: 20 * 1024 * 1024, max_image_bytes: 6 * 1024 * 1024 };

/// Why a socket is closed, as close frames number it (gateway-ws.md §1.9). 4001 is kept for revoked credentials.
mod close {
    pub(super) const PROTOCOL: u16 = 1002;
    pub(super) const NOT_TEXT: u16 = 1003;
    pub(super) const NOT_UTF8: u16 = 1007;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const RESTART: u16 = 1012;
    pub(super) const TRY_LATER: u16 = 1013;
    /// The credential was revoked or has expired (isolation.md §2.4).
    pub(super) const AUTH_ENDED: u16 = 4001;
}
