//! The OpenClaw gateway protocol, version 4 (gateway-ws.md), as a server speaks it.
//!
//! Inbound:
//! * [`bounds`]: depth and size of a frame before it is parsed.
//! * [`frame`]: the envelopes: requests in, responses and events out.
//! * [`shape`]: what an object may hold, and the exact words for what it may not.
//! * [`connect`]: the first request of a connection.
//! * [`device`]: devices and pairing, inbound and outbound.
//! * [`params`]: the parameters of every other method, one shape and one type each.
//! * [`text`]: cleaning what people typed.
//!
//! Outbound:
//! * [`failure`]: the error object and its closed set of codes.
//! * [`scope`]: `operator.*` names and the verbs they stand for.
//! * [`hello`]: what a connection is told when it is let in.
//! * [`row`]: a session in a list.
//! * [`message`]: a transcript entry as clients see it.
//! * [`chat`], [`agent`]: what happens in a run.
//! * [`reply`]: the answers of the methods.
//! * [`cursor`]: how far a client has read.

pub mod agent;
pub mod bounds;
pub mod chat;
pub mod connect;
pub mod cursor;
pub mod device;
pub mod failure;
pub mod frame;
pub mod hello;
pub mod message;
pub mod params;
pub mod reply;
pub mod row;
pub mod scope;
pub mod shape;
pub mod text;

pub use failure::{ErrorShape, WireCode};

/// The protocol version we speak and announce.
pub const PROTOCOL: u32 = 4;

/// The oldest version a probe may still speak.
pub const MINIMUM_PROBE_PROTOCOL: u32 = 3;
