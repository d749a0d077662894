//! The built program from outside, over real sockets and with the official clients.
//!
//! * [`wire_vectors`]: recorded exchanges, frame by frame.
//! * [`official_gateway_client`], [`official_openclaw_cli`]: the clients people have.
//! * [`pairing`]: a device that pairs.
//! * [`sealed_store`], [`restart`]: what is on disk and what survives.
//! * [`provider_header`]: what a provider is told.
//! * [`interleaved`]: sessions side by side.
//! * [`receipts`], [`queue_modes`]: what an acknowledgement is worth, and what it waits for.
//! * [`replay`]: nothing missed after a reconnect.
//! * [`endurance`]: what never ends, comes all at once, or finds no place to write.
//! * [`bad_input`]: what is malformed or broken.
//!
//! [`stage`] sets up a gateway, [`socket`] is a connection at the level of frames, [`shape`] compares frames, and
//! [`clients`] runs the official clients.

mod bad_input;
mod clients;
mod endurance;
mod interleaved;
mod official_gateway_client;
mod official_openclaw_cli;
mod pairing;
mod provider_header;
mod queue_modes;
mod receipts;
mod replay;
mod restart;
mod sealed_store;
mod shape;
mod socket;
mod stage;
mod wire_vectors;
