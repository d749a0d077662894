//! Session keys: the names of conversations.
//!
//! placeholder header, to be completed with the grammar.

use std::fmt;
use std::sync::Arc;

/// A session key in canonical form. A name, not an authority.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalKey(Arc<str>);

/// Names the agent of a key or a turn: `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Arc<str>);

impl CanonicalKey {
    /// A key read back from the store, where it was written in canonical form.
    pub fn from_stored(text: &str) -> Self {
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
}

impl AgentId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_fmt {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )* };
}
text_fmt!(CanonicalKey, AgentId);

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
