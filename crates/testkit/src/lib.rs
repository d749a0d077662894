//! What tests and benches share. Never part of the product: the architecture test allows it as a dev-dependency only.
//!
//! * [`mock_provider`]: an OpenAI-compatible endpoint that does as it is told and remembers what it was sent.
//! * [`canary`]: unique markers, and an oracle that finds those of others.
//! * [`gateway`]: the built program as a child process.
//! * [`gateway_client`]: a WebSocket client of the gateway protocol.
//! * [`certificates`]: certificates and who trusts them.
//! * [`relay`]: records every byte between a client and a gateway, and speaks TLS for clients that cannot.
//! * [`device`]: a device with a key of its own.
//! * [`disk`]: a disk under SQLite that loses power, lies about syncs, fails and fills up.
//! * [`polls`]: polling a future by hand and dropping it half-way.
//! * [`scope`]: session scopes for tests of what lies below admission.
//!
//! Everything here panics with a sentence when its own preconditions fail: that is a failed test. Every wait ends after
//! [`PATIENCE`].

pub mod canary;
pub mod certificates;
pub mod device;
pub mod disk;
pub mod gateway;
pub mod gateway_client;
pub mod mock_provider;
pub mod polls;
pub mod relay;
pub mod scope;

use std::time::Duration;

pub use gateway::{Gateway, GatewaySetup};
pub use gateway_client::GatewayClient;
pub use mock_provider::{MockProvider, Recorded, Reply};

/// How long anything is waited for before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
