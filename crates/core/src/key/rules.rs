//! From the text a caller wrote to the canonical key: the one entry for every surface.

use std::fmt;
use std::str::FromStr;

use super::compose::{Composed, Part, compose};
use super::strict::{self, Parsed};
use super::{AgentId, CanonicalKey, KeyError, KeyPrefix, MAIN, Roster, openclaw};

/// How a tenant reads keys (decision 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyPolicy {
    /// Structure folded by ASCII only, everything else byte-exact. The default.
    #[default]
    Strict,
    /// The folding and aliases of OpenClaw 2026.9.6, for a tenant migrated from it.
    Openclaw,
}

impl KeyPolicy {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Openclaw => "openclaw",
        }
    }
}

impl fmt::Display for KeyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a key policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be \"strict\" or \"openclaw\"")]
pub struct UnknownPolicy;

impl FromStr for KeyPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "strict" => Ok(Self::Strict),
            "openclaw" => Ok(Self::Openclaw),
            _ => Err(UnknownPolicy),
        }
    }
}

/// Where a caller's bare keys live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// An operator's: directly under the agent, and the two sentinels.
    Operator,
    /// Anybody else's: under these segments, such as `user:alice`.
    Principal {
        /// What stands between the agent and the key.
        segments: Composed,
    },
}

impl Home {
    /// The home of the principal of this name: `user:<name, escaped>`.
    pub fn user(name: &str) -> Result<Self, KeyError> {
        compose(&[Part::Word("user"), Part::Opaque(name)]).map(|segments| Self::Principal { segments })
    }
}

/// How one tenant resolves keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRules {
    /// The grammar.
    pub policy: KeyPolicy,
    /// The agents a key may name.
    pub roster: Roster,
}

impl KeyRules {
    /// Rules of `policy` over `roster`.
    pub fn new(policy: KeyPolicy, roster: Roster) -> Self {
        Self { policy, roster }
    }

    /// The session that `text` names for a caller of this home, beside which the request named `agent`.
    ///
    /// A bare key is scoped to `agent`, or to the default agent; a sentinel stays literal whatever the agent
    /// (decision 2); a key of another agent than `agent` is a mismatch. Resolving an operator's result again
    /// changes nothing.
    pub fn resolve(&self, home: &Home, text: &str, agent: Option<&str>) -> Result<CanonicalKey, KeyError> {
        match self.policy {
            KeyPolicy::Strict => self.resolve_strict(home, text, agent),
            KeyPolicy::Openclaw => self.resolve_openclaw(home, text, agent),
        }
    }

    /// The main session of `agent`, or of the default agent, in the caller's home (decision 4).
    pub fn main_key(&self, home: &Home, agent: Option<&str>) -> Result<CanonicalKey, KeyError> {
        let agent = self.agent_or_default(agent)?;
        self.scoped(home, agent, MAIN)
    }

    /// The session of a generation id that is found nowhere: `agent:<agent>:explicit:<id>` (sessions.md §2.4).
    pub fn explicit_key(&self, home: &Home, agent: Option<&str>, session_id: &str) -> Result<CanonicalKey, KeyError> {
        let composed = compose(&[Part::Word("explicit"), Part::Opaque(session_id)])?;
        self.composed_key(home, agent, &composed)
    }

    /// The session whose rest was composed from typed parts, under the caller's home.
    pub fn composed_key(&self, home: &Home, agent: Option<&str>, rest: &Composed) -> Result<CanonicalKey, KeyError> {
        let agent = self.agent_or_default(agent)?;
        self.scoped(home, agent, &self.spelt(rest))
    }

    /// The prefix of every key of a caller's home under `agent`: what a grant on the home covers.
    pub fn home_prefix(&self, home: &Home, agent: &AgentId) -> KeyPrefix {
        let mut segments = vec!["agent".to_owned(), agent.as_str().to_owned()];
        if let Home::Principal { segments: front } = home {
            segments.extend(self.spelt(front).split(':').map(str::to_owned));
        }
        KeyPrefix::from_segments(segments)
    }

    /// The configured agent that owns `key`; the default agent for a sentinel. None if it is no longer configured.
    pub fn owner(&self, key: &CanonicalKey) -> Option<&AgentId> {
        match (key.agent(), self.policy) {
            (None, _) => Some(self.roster.default()),
            (Some(agent), KeyPolicy::Strict) => self.roster.get(agent),
            (Some(agent), KeyPolicy::Openclaw) => self.roster.get(&openclaw::normalize_agent_id(agent)),
        }
    }

    /// The configured agent that a request names.
    pub fn agent(&self, text: &str) -> Result<&AgentId, KeyError> {
        match self.policy {
            KeyPolicy::Strict => {
                let id = AgentId::parse(text)?;
                self.roster.get(id.as_str()).ok_or_else(|| KeyError::unknown_agent(text))
            }
            KeyPolicy::Openclaw => {
                self.roster.get(&openclaw::normalize_agent_id(text)).ok_or_else(|| KeyError::unknown_agent(text))
            }
        }
    }

    fn agent_or_default(&self, agent: Option<&str>) -> Result<&AgentId, KeyError> {
        agent.map_or(Ok(self.roster.default()), |text| self.agent(text))
    }

    fn resolve_strict(&self, home: &Home, text: &str, agent: Option<&str>) -> Result<CanonicalKey, KeyError> {
        match strict::parse(text)? {
            Parsed::Sentinel => self.sentinel(home, text, agent),
            Parsed::Agent { agent: named, rest } => {
                let owner = self.agent(named)?;
                self.check_match(owner, agent)?;
                let canonical = format!("agent:{owner}:{rest}");
                strict::check_bounds(&canonical)?;
                Ok(CanonicalKey::resolved(&canonical))
            }
            Parsed::Bare => self.scoped(home, self.agent_or_default(agent)?, text),
        }
    }

    fn resolve_openclaw(&self, home: &Home, text: &str, agent: Option<&str>) -> Result<CanonicalKey, KeyError> {
        openclaw::check_bounds(text)?;
        if openclaw::is_sentinel(text) {
            return self.sentinel(home, &openclaw::fold(text), agent);
        }
        match openclaw::shape(text) {
            openclaw::Shape::Missing => Err(KeyError::Empty),
            openclaw::Shape::MalformedAgent => Err(KeyError::Malformed),
            openclaw::Shape::Agent => {
                let key = openclaw::StoreRules::of(&self.roster).store_key(text);
                let key = CanonicalKey::resolved(&key);
                let owner = self.owner(&key).ok_or_else(|| KeyError::unknown_agent(key.agent().unwrap_or_default()))?;
                self.check_match(owner, agent)?;
                openclaw::check_bounds(key.as_str())?;
                Ok(key)
            }
            openclaw::Shape::LegacyOrAlias => {
                let folded = openclaw::fold(text);
                // `agent:<id>::x` would no longer parse.
                if folded.starts_with(':') {
                    return Err(KeyError::EmptySegment);
                }
                self.scoped(home, self.agent_or_default(agent)?, &folded)
            }
        }
    }

    fn sentinel(&self, home: &Home, literal: &str, agent: Option<&str>) -> Result<CanonicalKey, KeyError> {
        self.agent_or_default(agent)?;
        match home {
            Home::Operator => Ok(CanonicalKey::resolved(literal)),
            Home::Principal { .. } => Err(KeyError::SentinelNotYours),
        }
    }

    fn check_match(&self, owner: &AgentId, agent: Option<&str>) -> Result<(), KeyError> {
        match agent {
            Some(named) if self.agent(named)? != owner => Err(KeyError::agent_mismatch(owner.as_str(), named)),
            _ => Ok(()),
        }
    }

    fn scoped(&self, home: &Home, agent: &AgentId, rest: &str) -> Result<CanonicalKey, KeyError> {
        let canonical = match home {
            Home::Operator => format!("agent:{agent}:{rest}"),
            Home::Principal { segments } => format!("agent:{agent}:{}:{rest}", self.spelt(segments)),
        };
        match self.policy {
            KeyPolicy::Strict => strict::check_bounds(&canonical)?,
            KeyPolicy::Openclaw => openclaw::check_bounds(&canonical)?,
        }
        Ok(CanonicalKey::resolved(&canonical))
    }

    /// Composed segments as this policy stores them. Upstream's folding would merge `Alice` with `alice`, so under it
    /// capitals are escaped too; the hex digits are then all that folding can still touch.
    fn spelt(&self, composed: &Composed) -> String {
        match self.policy {
            KeyPolicy::Strict => composed.as_str().to_owned(),
            KeyPolicy::Openclaw => openclaw::fold_proof(composed.as_str()),
        }
    }
}
