//! Why a session key, or an agent named with it, was refused.

use std::fmt;

use crate::error::ErrorCode;

/// Client text made safe to print: control and invisible characters escaped, at most 64 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printable(String);

impl Printable {
    const MAX_CHARS: usize = 64;

    pub(crate) fn new(text: &str) -> Self {
        Self::within(text, Self::MAX_CHARS)
    }

    pub(crate) fn within(text: &str, max_chars: usize) -> Self {
        let mut shown = String::new();
        for (at, c) in text.chars().enumerate() {
            if at == max_chars {
                shown.push('…');
                break;
            }
            // `escape_debug` covers controls, bidi marks and other unprintable characters, but also quotes.
            if matches!(c, '"' | '\'' | '\\') {
                shown.push(c);
            } else {
                shown.extend(c.escape_debug());
            }
        }
        Self(shown)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key was refused. The texts name the rule and hold no more of the input than an agent id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No text, or nothing but white space.
    #[error("The session key is empty.")]
    Empty,
    /// Longer than the policy allows, counted in canonical form.
    #[error("The session key is {bytes} bytes long in full; at most {max} are allowed.")]
    TooLong {
        /// Length, in bytes.
        bytes: usize,
        /// The bound, in bytes.
        max: usize,
    },
    /// More segments than the policy allows, counted in canonical form.
    #[error("The session key has {segments} segments in full; at most {max} are allowed.")]
    TooManySegments {
        /// How many it has.
        segments: usize,
        /// The bound.
        max: usize,
    },
    /// A character outside the alphabet.
    #[error(
        "The session key has a character that is not allowed at byte {position}. Allowed are letters and digits of \
         ASCII and ._@+=!~/#$%- with ':' between segments; percent-encode anything else."
    )]
    BadCharacter {
        /// Where, in bytes from 0.
        position: usize,
    },
    /// Two colons in a row, or a colon at an end.
    #[error("The session key has an empty segment: remove the doubled, leading or trailing ':'.")]
    EmptySegment,
    /// Contains `..`.
    #[error("The session key must not contain '..'.")]
    DotDot,
    /// Starts with `agent:` but is not `agent:<agent id>:<rest>`.
    #[error("A session key that starts with 'agent:' must have the form agent:<agent-id>:<session-key>.")]
    Malformed,
    /// Uses an internal namespace.
    #[error("The session key uses the reserved namespace '{namespace}:'. Choose another word.")]
    Reserved {
        /// Which.
        namespace: &'static str,
    },
    /// `global` or `unknown` from a caller who is not an operator.
    #[error("The session keys 'global' and 'unknown' belong to the operator. Choose another key.")]
    SentinelNotYours,
    /// Not of the form of an agent id.
    #[error("\"{agent}\" is not an agent id. Use 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit.")]
    BadAgentId {
        /// What was given.
        agent: Printable,
    },
    /// No such agent is configured.
    #[error("Agent \"{agent}\" no longer exists in configuration")]
    UnknownAgent {
        /// The id as the caller named it.
        agent: Printable,
    },
    /// The key belongs to another agent than the one named beside it.
    #[error("The agent-scoped session key belongs to \"{key_agent}\", not \"{agent}\".")]
    AgentMismatch {
        /// The agent in the key.
        key_agent: Printable,
        /// The agent named beside it.
        agent: Printable,
    },
}

impl KeyError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownAgent { .. } => ErrorCode::UnknownAgent,
            Self::AgentMismatch { .. } => ErrorCode::KeyMismatch,
            Self::BadAgentId { .. } => ErrorCode::InvalidRequest,
            _ => ErrorCode::InvalidKey,
        }
    }

    pub(crate) fn bad_agent_id(agent: &str) -> Self {
        Self::BadAgentId { agent: Printable::new(agent) }
    }

    /// No agent of this id is configured.
    pub fn unknown_agent(agent: &str) -> Self {
        Self::UnknownAgent { agent: Printable::new(agent) }
    }

    pub(crate) fn agent_mismatch(key_agent: &str, agent: &str) -> Self {
        Self::AgentMismatch { key_agent: Printable::new(key_agent), agent: Printable::new(agent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_never_echoes_control_characters() {
        let error = KeyError::unknown_agent("a\r\nX-Evil: 1\u{1b}[2J\u{202e}");
        let text = error.to_string();
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text}");
        assert_eq!(error.code(), ErrorCode::UnknownAgent);
        assert!(KeyError::unknown_agent(&"x".repeat(9999)).to_string().len() < 200);
    }
}
