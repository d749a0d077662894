//! From the text a caller wrote to the canonical key: the one entry for every surface.

use std::fmt;
use std::str::FromStr;

use super::compose::{Composed, Part, compose};
use super::openclaw::{MainKeyRules, StoreRules};
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
        match self.policy {
            KeyPolicy::Strict => self.composed_key(home, agent, &composed),
            // Upstream folds this key like any other.
            KeyPolicy::Openclaw => self.scoped(home, self.agent_or_default(agent)?, &openclaw::fold(composed.as_str())),
        }
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
        let asked = self.agent_or_default(agent)?;
        if openclaw::is_sentinel(text) {
            return self.sentinel(home, &openclaw::fold(text), agent);
        }
        match openclaw::shape(text) {
            openclaw::Shape::Missing => Err(KeyError::Empty),
            openclaw::Shape::MalformedAgent => Err(KeyError::Malformed),
            openclaw::Shape::Agent => {
                let rules = StoreRules::of(&self.roster, MainKeyRules::default());
                let key = StoreRules { default_agent: asked.as_str(), ..rules }.store_key(text);
                let key = CanonicalKey::resolved(&key);
                let owner = self.owner(&key).ok_or_else(|| KeyError::unknown_agent(key.agent().unwrap_or_default()))?;
                self.check_match(owner, agent)?;
                openclaw::check_bounds(key.as_str())?;
                Ok(key)
            }
            openclaw::Shape::LegacyOrAlias => {
                let bare = openclaw::fold(text);
                // `agent:<id>::x` would no longer parse.
                if bare.starts_with(':') {
                    return Err(KeyError::EmptySegment);
                }
                let key = self.scoped(home, asked, &bare)?;
                // A room id keeps its case only behind the agent: under a home it is folded like the rest, so that
                // the key, written whole, still names this session.
                Ok(CanonicalKey::resolved(&openclaw::fold(key.as_str())))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(policy: KeyPolicy) -> KeyRules {
        let id = |text| AgentId::parse(text).unwrap();
        KeyRules::new(policy, Roster::new(vec![id("main"), id("ops"), id("my-agent")], 0).unwrap())
    }

    fn strict(text: &str) -> Result<String, KeyError> {
        rules(KeyPolicy::Strict).resolve(&Home::Operator, text, None).map(|key| key.as_str().to_owned())
    }

    fn openclaw(text: &str) -> Result<String, KeyError> {
        rules(KeyPolicy::Openclaw).resolve(&Home::Operator, text, None).map(|key| key.as_str().to_owned())
    }

    fn alice() -> Home {
        Home::user("alice").unwrap()
    }

    #[test]
    fn strict_folds_the_structure_and_nothing_else() {
        assert_eq!(strict("AGENT:OPS:Incident-42").unwrap(), "agent:ops:Incident-42");
        assert_eq!(strict("foo").unwrap(), "agent:main:foo");
        assert_eq!(strict("main").unwrap(), "agent:main:main");
        assert_eq!(strict("MAIN").unwrap(), "agent:main:MAIN");
        assert_eq!(strict("global").unwrap(), "global");
        assert_eq!(strict("Global").unwrap(), "agent:main:Global");
        assert_eq!(strict("agent").unwrap(), "agent:main:agent");
        assert_eq!(strict("agent:main:agent:other:x").unwrap(), "agent:main:agent:other:x");
    }

    #[test]
    fn strict_never_decodes_or_trims() {
        assert_eq!(strict("%61lice").unwrap(), "agent:main:%61lice");
        assert_eq!(strict("alice%3Athread%3Ax").unwrap(), "agent:main:alice%3Athread%3Ax");
        assert_eq!(strict("alice "), Err(KeyError::BadCharacter { position: 5 }));
        assert_eq!(strict("\talice"), Err(KeyError::BadCharacter { position: 0 }));
        assert_eq!(strict("alice\0"), Err(KeyError::BadCharacter { position: 5 }));
        assert_eq!(strict("alice\r\nX-Evil: 1"), Err(KeyError::BadCharacter { position: 5 }));
        assert_eq!(strict("alice\\bob"), Err(KeyError::BadCharacter { position: 5 }));
        assert_eq!(strict(""), Err(KeyError::Empty));
        for dots in ["..", "../bob", "alice/../bob"] {
            assert_eq!(strict(dots), Err(KeyError::DotDot));
        }
    }

    #[test]
    fn look_alike_letters_are_refused() {
        for name in
            ["\u{212a}im", "kim\u{200b}", "al\u{131}ce", "\u{430}lice", "e\u{301}ve", "\u{e9}ve", "alice\u{202e}"]
        {
            let refused = strict(&format!("agent:main:user:{name}"));
            assert!(matches!(refused, Err(KeyError::BadCharacter { .. })), "{name:?}");
        }
    }

    #[test]
    fn malformed_and_empty_segments_are_told_apart() {
        for text in ["agent:", "agent:main", "agent::x", "agent:main:", "agent:main::x", "AGENT:main"] {
            assert_eq!(strict(text), Err(KeyError::Malformed), "{text}");
        }
        for text in ["a::b", ":a", "main:", "agent:main:a::b", "agent:main:a:"] {
            assert_eq!(strict(text), Err(KeyError::EmptySegment), "{text}");
        }
    }

    #[test]
    fn reserved_namespaces_are_refused_bare_and_nested_in_any_case() {
        for word in ["subagent", "cron", "acp", "hook", "harness"] {
            for text in [
                format!("{word}:1"),
                format!("agent:main:{word}:1"),
                format!("AGENT:main:{}:1", word.to_uppercase()),
                format!("agent:main:foo:{word}:x"),
                format!("agent:main:agent:other:{word}:x"),
            ] {
                assert!(matches!(strict(&text), Err(KeyError::Reserved { namespace }) if namespace == word), "{text}");
            }
            assert_eq!(strict(word).unwrap(), format!("agent:main:{word}"));
            assert_eq!(strict(&format!("x{word}:1")).unwrap(), format!("agent:main:x{word}:1"));
        }
    }

    #[test]
    fn length_and_segments_are_bounded_in_canonical_form() {
        let room = strict::MAX_BYTES - "agent:main:".len();
        assert!(strict(&"x".repeat(room)).is_ok());
        assert_eq!(strict(&"x".repeat(room + 1)), Err(KeyError::TooLong { bytes: 513, max: 512 }));
        assert!(strict(&["x"; 14].join(":")).is_ok());
        assert_eq!(strict(&["x"; 15].join(":")), Err(KeyError::TooManySegments { segments: 17, max: 16 }));
        assert_eq!(openclaw(&"x".repeat(5000)), Err(KeyError::TooLong { bytes: 5000, max: 4096 }));
        assert_eq!(openclaw("a\0"), Err(KeyError::BadCharacter { position: 1 }));
    }

    #[test]
    fn an_agent_must_be_configured_and_is_never_slugged_under_strict() {
        assert_eq!(strict("agent:ghost:x"), Err(KeyError::unknown_agent("ghost")));
        assert_eq!(openclaw("agent:ghost:x"), Err(KeyError::unknown_agent("ghost")));
        let rules = rules(KeyPolicy::Strict);
        for named in ["my agent", "My!Agent", "my/agent", "-my-agent", ""] {
            let refused = rules.resolve(&Home::Operator, "x", Some(named));
            assert!(matches!(refused, Err(KeyError::BadAgentId { .. })), "{named}");
        }
        assert_eq!(rules.resolve(&Home::Operator, "x", Some("MY-AGENT")).unwrap().as_str(), "agent:my-agent:x");
    }

    #[test]
    fn an_agent_beside_the_key_scopes_it_or_must_agree_with_it() {
        for policy in [KeyPolicy::Strict, KeyPolicy::Openclaw] {
            let rules = rules(policy);
            let resolve = |text, agent| rules.resolve(&Home::Operator, text, Some(agent));
            assert_eq!(resolve("x", "ops").unwrap().as_str(), "agent:ops:x");
            assert_eq!(resolve("main", "ops").unwrap().as_str(), "agent:ops:main");
            assert_eq!(resolve("agent:ops:x", "OPS").unwrap().as_str(), "agent:ops:x");
            assert_eq!(resolve("agent:main:x", "ops"), Err(KeyError::agent_mismatch("main", "ops")));
            assert_eq!(resolve("global", "ops").unwrap().as_str(), "global");
            assert_eq!(resolve("global", "ghost"), Err(KeyError::unknown_agent("ghost")));
            assert_eq!(rules.main_key(&Home::Operator, Some("ops")).unwrap().as_str(), "agent:ops:main");
            assert_eq!(rules.main_key(&Home::Operator, None).unwrap().as_str(), "agent:main:main");
        }
    }

    #[test]
    fn a_principals_bare_keys_live_in_its_home_and_the_sentinels_are_not_its_own() {
        for policy in [KeyPolicy::Strict, KeyPolicy::Openclaw] {
            let rules = rules(policy);
            let resolve = |text| rules.resolve(&alice(), text, None);
            assert_eq!(resolve("foo").unwrap().as_str(), "agent:main:user:alice:foo");
            assert_eq!(resolve("main").unwrap(), rules.main_key(&alice(), None).unwrap());
            assert_eq!(resolve("user:bob:x").unwrap().as_str(), "agent:main:user:alice:user:bob:x");
            assert_eq!(resolve("agent:main:user:bob:x").unwrap().as_str(), "agent:main:user:bob:x");
            for sentinel in ["global", "unknown"] {
                assert_eq!(resolve(sentinel), Err(KeyError::SentinelNotYours));
            }
            let ops = rules.roster.get("ops").unwrap();
            let explicit = rules.explicit_key(&alice(), Some("ops"), "s-1").unwrap();
            assert_eq!(explicit.as_str(), "agent:ops:user:alice:explicit:s-1");
            assert!(rules.home_prefix(&alice(), ops).covers(&explicit));
        }
    }

    #[test]
    fn case_variants_of_a_user_never_share_a_home_under_either_policy() {
        for policy in [KeyPolicy::Strict, KeyPolicy::Openclaw] {
            let rules = rules(policy);
            let keys: Vec<_> =
                ["alice", "Alice", "ALICE", "al:ice", "al%3aice", "al%3Aice", "\u{212a}", "K", "k", "cron"]
                    .map(|name| rules.resolve(&Home::user(name).unwrap(), "x", None).unwrap())
                    .to_vec();
            for (at, key) in keys.iter().enumerate() {
                assert!(!keys[..at].contains(key), "{key}");
                assert_eq!(&rules.resolve(&Home::Operator, key.as_str(), None).unwrap(), key);
            }
        }
    }

    #[test]
    fn openclaw_folds_as_upstream_does() {
        assert_eq!(openclaw(" GLOBAL ").unwrap(), "global");
        assert_eq!(openclaw("Incident 42").unwrap(), "agent:main:incident 42");
        assert_eq!(openclaw("AGENT:Ops:Foo").unwrap(), "agent:ops:foo");
        assert_eq!(openclaw("agent:main:signal:group:AbC").unwrap(), "agent:main:signal:group:AbC");
        assert_eq!(openclaw("agent:My Agent:X").unwrap(), "agent:my agent:x");
        assert_eq!(openclaw("subagent:1").unwrap(), "agent:main:subagent:1");
        assert_eq!(openclaw(" \u{feff}"), Err(KeyError::Empty));
        assert_eq!(openclaw("agent:main"), Err(KeyError::Malformed));
        assert_eq!(openclaw(":lead"), Err(KeyError::EmptySegment));
        let rules = rules(KeyPolicy::Openclaw);
        let key = rules.resolve(&Home::Operator, "agent:My Agent:X", Some("my-agent")).unwrap();
        assert_eq!(rules.owner(&key).unwrap().as_str(), "my-agent");
    }

    #[test]
    fn without_an_agent_called_main_its_main_session_is_the_default_agents_under_openclaw_only() {
        let ops = Roster::single(AgentId::parse("ops").unwrap());
        let resolve = |policy| KeyRules::new(policy, ops.clone()).resolve(&Home::Operator, "agent:main:main", None);
        assert_eq!(resolve(KeyPolicy::Openclaw).unwrap().as_str(), "agent:ops:main");
        assert_eq!(resolve(KeyPolicy::Strict), Err(KeyError::unknown_agent("main")));
    }
}
