//! The only crate that sees key material.
//!
//! * [`token`]: credential tokens: text form, checksum, keyed hash.

pub mod token;
