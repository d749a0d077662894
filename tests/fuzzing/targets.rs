//! What every parser of hostile input must keep to, as plain functions of bytes.
//!
//! `tests/fuzzing` feeds them with seeded mutations of `seeds/`, on any toolchain; `fuzz/` has this file as its library and
//! lets libFuzzer look for inputs. A function panics when a property is violated, and returns otherwise.
//!
//! * `key`: session keys, prefixes, composed segments, what the command line sends.
//! * `frame`: requests of a WebSocket and the parameters of every method.
//! * `sse`: event streams of providers.
//! * `answer`: what providers say, and the requests that are made of a transcript.
//! * `token`: credential tokens and device keys.
//! * `record`: sealed records.
//! * `config`: configuration files.
//! * `receipt`: receipts and cursors.

mod answer;
mod config;
mod frame;
mod key;
mod receipt;
mod record;
mod sse;
mod token;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder of seeds.
    pub name: &'static str,
    /// Panics on a violated property.
    pub check: fn(&[u8]),
    /// Inputs that take about a second in a development build.
    pub cases: u64,
}

/// Every target.
pub static TARGETS: [Target; 8] = [
    Target { name: "key", check: key::check, cases: 90_000 },
    Target { name: "frame", check: frame::check, cases: 60_000 },
    Target { name: "sse", check: sse::check, cases: 60_000 },
    Target { name: "answer", check: answer::check, cases: 60_000 },
    Target { name: "token", check: token::check, cases: 60_000 },
    Target { name: "record", check: record::check, cases: 60_000 },
    Target { name: "config", check: config::check, cases: 15_000 },
    Target { name: "receipt", check: receipt::check, cases: 150_000 },
];

/// Checks one input of the target of this name.
pub fn check(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.check)(data);
}
