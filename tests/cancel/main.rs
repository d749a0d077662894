//! Whatever is given up half-way leaves nothing behind for anybody else, and happens wholly or not at all.
//!
//! Every request of a list is polled once, twice and so on until it completes, and dropped each time: at once, and when
//! it would have gone on. After each drop others use the same connections, the same store and the same sessions, and must
//! find what is theirs and nothing else.
//!
//! * [`provider`]: calls to a model provider, over one pool of connections.
//! * [`hostile`]: a provider that says more than it was asked, and one that would answer the wrong call.
//! * [`engine`]: turns, and looking at them.
//! * [`sockets`]: clients that vanish.
//!
//! What is dropped in the store has its own tests there: `crates/store/tests/sqlite/cancellation.rs`.

#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod engine;
mod hostile;
mod provider;
mod sockets;
