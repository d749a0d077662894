//! Session keys: the names of conversations.
//!
//! A key is `agent:<agent id>:<rest>`, or one of the operator's two sentinels `global` and `unknown`. What a client
//! writes may be shorter (a bare key) or spelt differently; [`KeyRules`] is the one place where such text becomes a
//! [`CanonicalKey`].
//!
//! * [`rules`]: the entry for every surface: policy, roster, the caller's home.
//! * [`strict`]: the default grammar; nothing is folded but the structure (isolation.md §2.1).
//! * [`openclaw`]: the grammar, folding and aliases of OpenClaw 2026.9.6, for migrated tenants (sessions.md §1).
//! * [`compose`]: building keys from opaque parts so that two tuples never meet in one key.
//! * [`dispatch`]: what the command line does to a key before it is sent (sessions.md §2.2).
//! * [`roster`]: the configured agents.
//! * [`error`]: why a key was refused.

pub mod compose;
pub mod dispatch;
pub mod error;
pub mod openclaw;
pub mod roster;
pub mod rules;
pub mod strict;

use std::sync::Arc;

pub use compose::{Composed, Conversation, Part, Route};
pub use error::KeyError;
pub use roster::{Roster, RosterError};
pub use rules::{Home, KeyPolicy, KeyRules};

/// A session key in canonical form. A name, not an authority.
///
/// Made only by [`KeyRules`] or read back from the store.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalKey(Arc<str>);

impl CanonicalKey {
    /// A key read back from the store, where it was written in canonical form.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    fn resolved(text: &str) -> Self {
        Self(text.into())
    }

    /// The key as the wire and the provider see it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments between the colons.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split(':')
    }

    /// The agent id as the key spells it; none for a sentinel. Under the `openclaw` policy it may differ from the
    /// configured id (`my agent` for `my-agent`): ask [`KeyRules::owner`] for the agent.
    pub fn agent(&self) -> Option<&str> {
        self.parts().map(|(agent, _)| agent)
    }

    /// Everything after the agent id; none for a sentinel.
    pub fn rest(&self) -> Option<&str> {
        self.parts().map(|(_, rest)| rest)
    }

    /// Whether it is `global` or `unknown`, which carry no agent.
    pub fn is_sentinel(&self) -> bool {
        strict::is_sentinel(&self.0)
    }

    /// Whether it is an agent's main session.
    pub fn is_main(&self) -> bool {
        self.rest() == Some(MAIN)
    }

    fn parts(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix("agent:")?.split_once(':')
    }
}

/// The rest of an agent's main session, and the bare key that means it.
const MAIN: &str = "main";

/// Names the agent of a key or a turn: `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Arc<str>);

impl AgentId {
    /// Longest id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Parses an id; ASCII capitals are folded, nothing else is changed (sessions.md §1.4).
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let word = |b: u8| b.is_ascii_alphanumeric();
        let well_formed = text.len() <= Self::MAX_BYTES
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || matches!(b, b'_' | b'-'));
        if well_formed { Ok(Self(text.to_ascii_lowercase().into())) } else { Err(KeyError::bad_agent_id(text)) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

crate::ids::text_id_fmt!(CanonicalKey, AgentId);

/// A run of whole leading segments. `agent:main:user:al` does not cover `agent:main:user:alice`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyPrefix(Vec<String>);

impl KeyPrefix {
    /// Covers every key.
    pub fn everything() -> Self {
        Self(Vec::new())
    }

    /// The prefix made of these segments.
    pub fn from_segments(segments: Vec<String>) -> Self {
        Self(segments)
    }

    /// Reads `*`, or whole leading segments such as `agent:main:user:alice`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text == "*" {
            return Ok(Self::everything());
        }
        let whole = text.strip_suffix(":*").unwrap_or(text);
        if whole.len() > strict::MAX_BYTES {
            return Err(KeyError::TooLong { bytes: whole.len(), max: strict::MAX_BYTES });
        }
        if let Some(position) = whole.bytes().position(|byte| byte != b':' && !strict::in_alphabet(byte)) {
            return Err(KeyError::BadCharacter { position });
        }
        let mut segments: Vec<String> = whole.split(':').map(str::to_owned).collect();
        if segments.iter().any(String::is_empty) {
            return Err(KeyError::EmptySegment);
        }
        if segments.len() > strict::MAX_SEGMENTS {
            return Err(KeyError::TooManySegments { segments: segments.len(), max: strict::MAX_SEGMENTS });
        }
        // As keys are folded, and no further.
        if let [agent, id, ..] = &mut segments[..]
            && agent.eq_ignore_ascii_case("agent")
        {
            agent.make_ascii_lowercase();
            id.make_ascii_lowercase();
        }
        Ok(Self(segments))
    }

    /// The segments.
    pub fn segments(&self) -> &[String] {
        &self.0
    }

    /// Whether `key` starts with all of these segments.
    pub fn covers(&self, key: &CanonicalKey) -> bool {
        let mut segments = key.segments();
        self.0.iter().all(|mine| segments.next() == Some(mine.as_str()))
    }
}

impl std::fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { f.write_str("*") } else { f.write_str(&self.0.join(":")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canonical_key_knows_its_parts() {
        let key = CanonicalKey::from_stored("agent:ops:a:b");
        assert_eq!((key.agent(), key.rest()), (Some("ops"), Some("a:b")));
        assert!(!key.is_sentinel() && !key.is_main());
        assert!(CanonicalKey::from_stored("agent:ops:main").is_main());
        let global = CanonicalKey::from_stored("global");
        assert!(global.is_sentinel() && global.agent().is_none() && global.rest().is_none());
    }

    #[test]
    fn a_prefix_is_read_as_whole_segments() {
        let prefix = KeyPrefix::parse("Agent:OPS:user:Al").unwrap();
        assert_eq!(prefix.to_string(), "agent:ops:user:Al");
        assert!(prefix.covers(&CanonicalKey::from_stored("agent:ops:user:Al:x")));
        assert!(!prefix.covers(&CanonicalKey::from_stored("agent:ops:user:Alice")));
        assert_eq!(KeyPrefix::parse("agent:ops:*"), KeyPrefix::parse("agent:ops"));
        assert_eq!(KeyPrefix::parse("*").unwrap(), KeyPrefix::everything());
        for bad in ["", ":", "a::b", "a:", "a b", "é", &"a:".repeat(17), &"a".repeat(600)] {
            assert!(KeyPrefix::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_agent_id_folds_ascii_capitals_and_is_never_slugged() {
        assert_eq!(AgentId::parse("OPS-Team_1").unwrap().as_str(), "ops-team_1");
        assert_eq!(AgentId::parse(&"a".repeat(64)).unwrap().as_str().len(), 64);
        for bad in ["", " ops", "ops team", "Ops!Team", "ops/team", "-ops", "_ops", "ops.team", "\u{212a}im", "é"] {
            assert!(AgentId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(AgentId::parse(&"a".repeat(65)).is_err());
    }

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        let prefix = KeyPrefix::from_segments(["agent", "main", "user", "al"].map(String::from).to_vec());
        assert!(prefix.covers(&CanonicalKey::from_stored("agent:main:user:al:x")));
        assert!(prefix.covers(&CanonicalKey::from_stored("agent:main:user:al")));
        assert!(!prefix.covers(&CanonicalKey::from_stored("agent:main:user:alice:x")));
        assert!(!prefix.covers(&CanonicalKey::from_stored("agent:main:user")));
    }
}
