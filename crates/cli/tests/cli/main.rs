//! The command line, case by case, over the built program.
//!
//! * [`access`]: who may do what.
//! * [`agents`]: what an unknown agent points to.
//! * [`help`]: help texts, version, wrong command lines.
//! * [`selection`]: which session a command names; what is refused before any dispatch, and in which order.
//! * [`message`]: where the text comes from.
//! * [`output`]: what is printed, plain, as JSON and on a terminal.
//! * [`connection`]: a gateway that is down, refuses, dies or comes back.
//! * [`credential`]: who is sent the operator's token, and who is not.
//! * [`signals`]: Ctrl-C and SIGTERM.
//! * [`local`]: turns without a gateway, and in its place.
//! * [`serve`]: the gateway's start and stop.
//! * [`tls`]: a gateway with TLS, and whose certificate is believed.
//! * [`keys`]: the keys, replacing them, and checkpoints.
//! * [`verify`]: proving what is stored.
//! * [`vectors`]: the recorded behaviour of OpenClaw's own command line.
//!
//! [`command`] runs the program, [`fake_gateway`] stands in for a gateway where one must misbehave.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod agents;
mod command;
mod connection;
mod credential;
mod fake_gateway;
mod help;
mod keys;
mod local;
mod message;
mod output;
mod selection;
mod serve;
mod signals;
mod tls;
mod vectors;
mod verify;
