//! What the text of a key is, and its parts.

use super::text::{fold, lower, trim};

/// The parts of `agent:<id>:<rest>`, folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentKey {
    /// The id, lower-cased and trimmed, not slugged.
    pub agent: String,
    /// Everything after it.
    pub rest: String,
}

/// Parses `agent:<id>:<rest>` (sessions.md §1.1); None if `key` is anything else.
pub fn parse_agent_key(key: &str) -> Option<AgentKey> {
    let folded = fold(key);
    let (agent, rest) = folded.strip_prefix("agent:")?.split_once(':')?;
    let agent = trim(agent);
    let well_formed = !agent.is_empty() && !rest.is_empty() && !rest.starts_with(':');
    well_formed.then(|| AgentKey { agent: agent.to_owned(), rest: rest.to_owned() })
}

/// What the text of a key is (sessions.md §1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Blank.
    Missing,
    /// `agent:<id>:<rest>`.
    Agent,
    /// Starts with `agent:` and is not an agent key.
    MalformedAgent,
    /// Everything else, sentinels included.
    LegacyOrAlias,
}

impl Shape {
    /// Upstream's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Agent => "agent",
            Self::MalformedAgent => "malformed_agent",
            Self::LegacyOrAlias => "legacy_or_alias",
        }
    }
}

/// Classifies the text of a key.
pub fn shape(key: &str) -> Shape {
    let trimmed = trim(key);
    if trimmed.is_empty() {
        Shape::Missing
    } else if parse_agent_key(trimmed).is_some() {
        Shape::Agent
    } else if lower(trimmed).starts_with("agent:") {
        Shape::MalformedAgent
    } else {
        Shape::LegacyOrAlias
    }
}

/// Whether `key` is `global` or `unknown`, in any case and with any space around it.
pub fn is_sentinel(key: &str) -> bool {
    matches!(lower(trim(key)).as_str(), "global" | "unknown")
}
