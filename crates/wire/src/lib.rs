//! Serde types of the protocols Watertight speaks, and their conversions to and from core. No I/O.
//!
//! * [`openclaw`]: the OpenClaw gateway protocol, version 4, as a server speaks it (gateway-ws.md).
//! * [`openai`]: the OpenAI chat completions API, as a client of a provider speaks it.

pub mod openai;
pub mod openclaw;
