//! OpenClaw 2026.9.6's reading of session keys, for tenants migrated from it (sessions.md §1).
//!
//! The rules here are upstream's, kept exactly, with their known weaknesses: whole keys are lower-cased, agent ids
//! are slugged. [`super::KeyRules`] adds what a gateway for several users needs on top: bounds, configured agents
//! only, home prefixes that folding cannot merge.
//!
//! * [`text`]: trimming and lower-casing as JavaScript does them, and the peer ids that keep their case.
//! * [`shape`](mod@shape): what a key's text is: agent key, malformed, sentinel, anything else; parsing.
//! * [`agent_id`]: validating and slugging agent ids.
//! * [`class`]: sub-agent, cron, ACP and incognito keys; the display kind; the chat type.
//! * [`store`]: from request key to store key: main aliases, sentinels, owners.
//! * [`request`]: the key and the owner that the selectors of one command mean.
//! * [`session_id`]: which ids may name a transcript, and which session an id means.

pub mod agent_id;
pub mod class;
pub mod request;
pub mod session_id;
pub mod shape;
pub mod store;
pub mod text;

pub use agent_id::{is_valid_agent_id, normalize_agent_id};
pub use shape::{AgentKey, Shape, is_sentinel, parse_agent_key, shape};
pub use store::{MainKeyRules, SessionScoping, StoreRules};
pub use text::fold;

use std::fmt::Write as _;

use super::KeyError;

/// Longest key, in bytes, as written and in canonical form. Upstream has no bound.
pub const MAX_BYTES: usize = 4096;

pub(super) fn check_bounds(key: &str) -> Result<(), KeyError> {
    if key.len() > MAX_BYTES {
        return Err(KeyError::TooLong { bytes: key.len(), max: MAX_BYTES });
    }
    key.bytes().position(|b| b == 0).map_or(Ok(()), |position| Err(KeyError::BadCharacter { position }))
}

/// Composed segments spelt so that folding cannot merge two of them: capitals are percent-encoded, hex digits small.
pub(super) fn fold_proof(composed: &str) -> String {
    let mut spelt = String::with_capacity(composed.len());
    let mut hex_digits = 0;
    for c in composed.chars() {
        if hex_digits > 0 {
            hex_digits -= 1;
            spelt.push(c.to_ascii_lowercase());
        } else if c.is_ascii_uppercase() {
            // Writing to a String cannot fail.
            let _ = write!(spelt, "%{:02x}", u32::from(c));
        } else {
            hex_digits = if c == '%' { 2 } else { 0 };
            spelt.push(c);
        }
    }
    spelt
}
