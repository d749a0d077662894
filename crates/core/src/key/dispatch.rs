//! What the command line does to a key before anything is sent (sessions.md §2.2, §2.3; decisions 2, 10, 11).
//!
//! The gateway canonicalises keys. Here the shape and the agent are checked and the agent prefix is added, so that a
//! wrong command fails before any dispatch and the same key goes to the gateway and to a local run.

use super::error::Printable;
use super::openclaw::{self, Shape};
use super::{KeyPolicy, Roster};
use crate::error::ErrorCode;

/// A key ready to be sent, and the agent to name beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchKey {
    /// The key.
    pub session_key: String,
    /// The agent as the user wrote it, or the default agent when a bare key was scoped to it. None when only the key
    /// says which.
    pub agent: Option<String>,
}

/// Why a command is refused before dispatch. [`DispatchError::message`] has the exact texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// Starts with `agent:` and is no agent key.
    #[error("malformed --session-key")]
    Malformed {
        /// The key, trimmed.
        key: Printable,
    },
    /// The key belongs to another agent than `--agent` names.
    #[error("--agent and --session-key name different agents")]
    AgentMismatch {
        /// `--agent` as written.
        agent: Printable,
        /// The agent of the key.
        key_agent: Printable,
    },
    /// `--agent` names no configured agent.
    #[error("unknown agent id")]
    UnknownAgent {
        /// `--agent` as written.
        agent: Printable,
    },
    /// A flag was given with nothing but white space.
    #[error("blank {flag}")]
    Blank {
        /// The flag, with its dashes.
        flag: &'static str,
    },
    /// `--timeout` is no count of seconds.
    #[error("invalid --timeout")]
    InvalidTimeout,
}

impl DispatchError {
    /// The line for the user; `program` is the command's name.
    pub fn message(&self, program: &str) -> String {
        match self {
            Self::Malformed { key } => format!(
                "Invalid --session-key \"{key}\". Agent-prefixed session keys must use agent:<agent-id>:<session-key>."
            ),
            Self::AgentMismatch { agent, key_agent } => {
                format!("Agent id \"{agent}\" does not match session key agent \"{key_agent}\".")
            }
            Self::UnknownAgent { agent } => {
                format!("Unknown agent id \"{agent}\". Use \"{program} agents list\" to see configured agents.")
            }
            Self::Blank { flag } => format!("{flag} must not be blank"),
            Self::InvalidTimeout => "Invalid --timeout. Use seconds as a non-negative integer, for example --timeout \
                                     600. Use --timeout 0 to disable the timeout."
                .to_owned(),
        }
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed { .. } => ErrorCode::InvalidKey,
            Self::AgentMismatch { .. } => ErrorCode::KeyMismatch,
            Self::UnknownAgent { .. } => ErrorCode::UnknownAgent,
            Self::Blank { .. } | Self::InvalidTimeout => ErrorCode::InvalidRequest,
        }
    }
}

/// Refuses a flag whose value is blank (message 7). `flag` is spelt with its dashes.
pub fn check_not_blank(flag: &'static str, value: Option<&str>) -> Result<(), DispatchError> {
    match value {
        Some(text) if openclaw::text::trim(text).is_empty() => Err(DispatchError::Blank { flag }),
        _ => Ok(()),
    }
}

/// Refuses an `--agent` that is not configured (message 3). Comes after the key's own checks.
pub fn check_known_agent(policy: KeyPolicy, roster: &Roster, agent: &str) -> Result<(), DispatchError> {
    let known = same_agent_id(policy, agent).is_some_and(|id| roster.get(&id).is_some());
    if known { Ok(()) } else { Err(DispatchError::UnknownAgent { agent: Printable::new(agent) }) }
}

/// Seconds of `--timeout`; 0 means none (message 6).
pub fn parse_timeout_seconds(text: &str) -> Result<u64, DispatchError> {
    strict_non_negative_integer(text).ok_or(DispatchError::InvalidTimeout)
}

/// A whole number that JavaScript holds exactly, written in plain digits; surrounding space is ignored.
pub fn strict_non_negative_integer(text: &str) -> Option<u64> {
    const MAX_SAFE: u64 = (1 << 53) - 1;
    let digits = openclaw::text::trim(text);
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| *n <= MAX_SAFE)
}

/// Makes the key to send out of `--session-key` and `--agent`. None without a key.
///
/// A bare key gets the prefix of `agent` or of the default agent. A sentinel stays literal without `--agent` and
/// becomes `agent:<id>:<sentinel>` with it (decision 2). Whether the key's agent exists is the gateway's to say.
pub fn normalize_cli_key(
    policy: KeyPolicy,
    roster: &Roster,
    key: Option<&str>,
    agent: Option<&str>,
) -> Result<Option<DispatchKey>, DispatchError> {
    check_not_blank("--agent", agent)?;
    check_not_blank("--session-key", key)?;
    let Some(key) = key else { return Ok(None) };
    let sent = match policy {
        KeyPolicy::Strict => strict_key(roster, key, agent)?,
        KeyPolicy::Openclaw => openclaw_key(roster, key, agent)?,
    };
    Ok(Some(sent))
}

fn strict_key(roster: &Roster, key: &str, agent: Option<&str>) -> Result<DispatchKey, DispatchError> {
    let agent_key = match key.split_once(':') {
        Some((word, tail)) if word.eq_ignore_ascii_case("agent") => Some(
            tail.split_once(':')
                .filter(|(id, rest)| !id.is_empty() && !rest.is_empty() && !rest.starts_with(':'))
                .map(|(id, _)| id)
                .ok_or_else(|| malformed(key))?,
        ),
        _ => None,
    };
    if let Some(key_agent) = agent_key {
        check_same_agent(KeyPolicy::Strict, key_agent, agent)?;
        return Ok(DispatchKey { session_key: key.to_owned(), agent: agent.map(str::to_owned) });
    }
    if agent.is_none() && super::strict::is_sentinel(key) {
        return Ok(DispatchKey { session_key: key.to_owned(), agent: None });
    }
    let agent = agent.unwrap_or(roster.default().as_str());
    // The id is folded where it is one; where it is not, message 3 follows and nothing is sent.
    Ok(DispatchKey {
        session_key: format!("agent:{}:{key}", agent.to_ascii_lowercase()),
        agent: Some(agent.to_owned()),
    })
}

fn openclaw_key(roster: &Roster, key: &str, agent: Option<&str>) -> Result<DispatchKey, DispatchError> {
    let key = openclaw::text::trim(key);
    match openclaw::shape(key) {
        Shape::MalformedAgent => Err(malformed(key)),
        Shape::Agent => {
            let key_agent = openclaw::parse_agent_key(key).map(|parsed| parsed.agent).unwrap_or_default();
            check_same_agent(KeyPolicy::Openclaw, &key_agent, agent)?;
            Ok(DispatchKey { session_key: key.to_owned(), agent: agent.map(str::to_owned) })
        }
        Shape::Missing | Shape::LegacyOrAlias => {
            if agent.is_none() && openclaw::is_sentinel(key) {
                return Ok(DispatchKey { session_key: key.to_owned(), agent: None });
            }
            let agent = agent.unwrap_or(roster.default().as_str());
            Ok(DispatchKey {
                session_key: format!("agent:{}:{}", openclaw::normalize_agent_id(agent), openclaw::fold(key)),
                agent: Some(agent.to_owned()),
            })
        }
    }
}

fn check_same_agent(policy: KeyPolicy, key_agent: &str, agent: Option<&str>) -> Result<(), DispatchError> {
    match agent {
        Some(named) if same_agent_id(policy, named) != same_agent_id(policy, key_agent) => {
            Err(DispatchError::AgentMismatch { agent: Printable::new(named), key_agent: Printable::new(key_agent) })
        }
        _ => Ok(()),
    }
}

fn same_agent_id(policy: KeyPolicy, agent: &str) -> Option<String> {
    match policy {
        KeyPolicy::Strict => Some(agent.to_ascii_lowercase()),
        KeyPolicy::Openclaw => Some(openclaw::normalize_agent_id(agent)),
    }
}

fn malformed(key: &str) -> DispatchError {
    // Long enough to show any key a gateway would take.
    DispatchError::Malformed { key: Printable::within(key, super::strict::MAX_BYTES) }
}
