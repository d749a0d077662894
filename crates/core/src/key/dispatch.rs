//! What the command line does to its selectors before anything is sent (sessions.md §2.2, §2.3; decisions 2, 3, 10, 11).
//!
//! The gateway canonicalises keys. Here the shape and the agent are checked and the agent prefix is added, so that a
//! wrong command fails before any dispatch and the same key goes to the gateway and to a local run.

use super::error::Printable;
use super::openclaw::request::Selectors;
use super::openclaw::store::{main_session_key, scope_bare_key};
use super::openclaw::text::trim;
use super::openclaw::{self, MainKeyRules, SessionScoping, Shape};
use super::{AgentId, KeyPolicy, Roster, strict};
use crate::error::ErrorCode;
use crate::ids::GenerationId;

/// A key ready to be sent, and the agents to name beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchKey {
    /// The key.
    pub session_key: String,
    /// The agent to send: `--agent` as written, or the only agent when a bare key was scoped to it.
    pub agent: Option<String>,
    /// The default one of several agents, for a key that named none. Not sent; a local run uses it.
    pub implied_agent: Option<AgentId>,
}

/// What a command targets, ready to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DispatchTarget {
    /// The key.
    pub session_key: Option<String>,
    /// `--session-id` as written.
    pub session_id: Option<String>,
    /// The agent to send, as in [`DispatchKey::agent`].
    pub agent: Option<String>,
    /// `--to` as written, unless it was a key.
    pub to: Option<String>,
    /// As in [`DispatchKey::implied_agent`].
    pub implied_agent: Option<AgentId>,
}

/// Why a command is refused before dispatch. [`DispatchError::message`] has the exact texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// Starts with `agent:` and is no agent key.
    #[error("malformed --session-key")]
    Malformed {
        /// The key.
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
    /// `--session-id` may not name a transcript.
    #[error("invalid --session-id")]
    InvalidSessionId {
        /// `--session-id` as written.
        id: Printable,
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
            Self::InvalidSessionId { id } => format!("Invalid session ID: {id}"),
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
            Self::Blank { .. } | Self::InvalidSessionId { .. } | Self::InvalidTimeout => ErrorCode::InvalidRequest,
        }
    }
}

/// Refuses a flag whose value is blank (message 7). `flag` is spelt with its dashes.
pub fn check_not_blank(flag: &'static str, value: Option<&str>) -> Result<(), DispatchError> {
    match value {
        Some(text) if trim(text).is_empty() => Err(DispatchError::Blank { flag }),
        _ => Ok(()),
    }
}

/// Refuses an `--agent` that is not configured (message 3). Comes after the key's own checks.
pub fn check_known_agent(policy: KeyPolicy, roster: &Roster, agent: &str) -> Result<(), DispatchError> {
    let agent = trim(agent);
    match roster.get(&folded_agent(policy, agent)) {
        Some(_) => Ok(()),
        None => Err(DispatchError::UnknownAgent { agent: Printable::new(agent) }),
    }
}

/// The generation that `--session-id` names (decision 11).
pub fn parse_session_id(text: &str) -> Result<GenerationId, DispatchError> {
    GenerationId::parse(text)
        .map_err(|_| DispatchError::InvalidSessionId { id: Printable::within(text, GenerationId::MAX_BYTES) })
}

/// Seconds of `--timeout`; 0 means none (message 6).
pub fn parse_timeout_seconds(text: &str) -> Result<u64, DispatchError> {
    strict_non_negative_integer(text).ok_or(DispatchError::InvalidTimeout)
}

/// A whole number that JavaScript holds exactly, in plain digits with at most a sign; surrounding space is ignored.
pub fn strict_non_negative_integer(text: &str) -> Option<u64> {
    const MAX_SAFE: u64 = (1 << 53) - 1;
    let text = trim(text);
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| *n <= MAX_SAFE && (!negative || *n == 0))
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
    let agent = agent.map(trim);
    let rules = MainKeyRules::default();
    match policy {
        KeyPolicy::Strict => strict_key(roster, key, agent),
        KeyPolicy::Openclaw => openclaw_key(rules, roster, key, agent),
    }
    .map(Some)
}

/// Makes the target to send out of all selectors. Blank flags are refused first, in the order of sessions.md §2.3.
///
/// A key decides over everything else; an agent key given as `--to` is a key; with no selector at all the target is
/// the default agent's main session (decision 10). `main` is the default but for migrated configurations.
pub fn normalize_cli_target(
    policy: KeyPolicy,
    main: MainKeyRules<'_>,
    roster: &Roster,
    selectors: Selectors<'_>,
) -> Result<DispatchTarget, DispatchError> {
    check_not_blank("--agent", selectors.agent)?;
    check_not_blank("--session-id", selectors.session_id)?;
    check_not_blank("--session-key", selectors.session_key)?;
    check_not_blank("--to", selectors.to)?;
    let Selectors { session_key, session_id, agent, to } = selectors.promoted();
    // Promotion trims, which the strict grammar must not do to a key.
    let session_key = match policy {
        KeyPolicy::Strict => selectors.session_key.or(session_key),
        KeyPolicy::Openclaw => session_key,
    };
    let beside = DispatchTarget {
        session_id: session_id.map(str::to_owned),
        to: to.map(str::to_owned),
        agent: agent.map(str::to_owned),
        ..DispatchTarget::default()
    };
    if let Some(key) = session_key {
        let sent = match policy {
            KeyPolicy::Strict => strict_key(roster, key, agent)?,
            KeyPolicy::Openclaw => openclaw_key(main, roster, key, agent)?,
        };
        let DispatchKey { session_key, agent, implied_agent } = sent;
        return Ok(DispatchTarget { session_key: Some(session_key), agent, implied_agent, ..beside });
    }
    if agent.is_some() || session_id.is_some() {
        return Ok(beside);
    }
    let default = roster.default();
    let unscoped = main.scoping == SessionScoping::Global;
    Ok(match (sole(roster), unscoped) {
        (true, true) => beside,
        (true, false) => DispatchTarget { agent: Some(default.to_string()), ..beside },
        (false, _) => {
            let session_key = (!unscoped && to.is_none()).then(|| main_session_key(default.as_str(), main.main_key));
            DispatchTarget { session_key, implied_agent: Some(default.clone()), ..beside }
        }
    })
}

fn sole(roster: &Roster) -> bool {
    roster.iter().count() == 1
}

/// The fields for a key that named no agent: a sole agent is sent beside the key it was given to.
fn defaulted(roster: &Roster, session_key: String, scoped: bool) -> DispatchKey {
    let default = roster.default();
    if sole(roster) {
        DispatchKey { session_key, agent: scoped.then(|| default.to_string()), implied_agent: None }
    } else {
        DispatchKey { session_key, agent: None, implied_agent: Some(default.clone()) }
    }
}

fn strict_key(roster: &Roster, key: &str, agent: Option<&str>) -> Result<DispatchKey, DispatchError> {
    if let Some((word, tail)) = key.split_once(':')
        && word.eq_ignore_ascii_case("agent")
    {
        let (key_agent, _) = tail
            .split_once(':')
            .filter(|(id, rest)| !id.is_empty() && !rest.is_empty() && !rest.starts_with(':'))
            .ok_or_else(|| malformed(key))?;
        check_same_agent(KeyPolicy::Strict, key_agent, agent)?;
        return Ok(as_written(key, agent));
    }
    Ok(match agent {
        // Where the id is none, message 3 follows and nothing is sent.
        Some(named) => as_written(&format!("agent:{}:{key}", named.to_ascii_lowercase()), agent),
        None if strict::is_sentinel(key) => defaulted(roster, key.to_owned(), false),
        None => defaulted(roster, format!("agent:{}:{key}", roster.default()), true),
    })
}

fn openclaw_key(
    main: MainKeyRules<'_>,
    roster: &Roster,
    key: &str,
    agent: Option<&str>,
) -> Result<DispatchKey, DispatchError> {
    let key = trim(key);
    match openclaw::shape(key) {
        Shape::MalformedAgent => return Err(malformed(key)),
        Shape::Agent => {
            let key_agent = openclaw::parse_agent_key(key).map(|parsed| parsed.agent).unwrap_or_default();
            check_same_agent(KeyPolicy::Openclaw, &key_agent, agent)?;
            return Ok(as_written(key, agent));
        }
        Shape::Missing | Shape::LegacyOrAlias => {}
    }
    if agent.is_none() && openclaw::is_sentinel(key) {
        return Ok(defaulted(roster, key.to_owned(), false));
    }
    let owner = agent.unwrap_or(roster.default().as_str());
    let scoped = scope_bare_key(Some(owner), key, main.main_key).unwrap_or_default();
    Ok(match agent {
        Some(_) => as_written(&scoped, agent),
        None => defaulted(roster, scoped, true),
    })
}

fn as_written(session_key: &str, agent: Option<&str>) -> DispatchKey {
    DispatchKey { session_key: session_key.to_owned(), agent: agent.map(str::to_owned), implied_agent: None }
}

fn check_same_agent(policy: KeyPolicy, key_agent: &str, agent: Option<&str>) -> Result<(), DispatchError> {
    let key_agent = folded_agent(policy, key_agent);
    match agent {
        Some(named) if folded_agent(policy, named) != key_agent => {
            Err(DispatchError::AgentMismatch { agent: Printable::new(named), key_agent: Printable::new(&key_agent) })
        }
        _ => Ok(()),
    }
}

fn folded_agent(policy: KeyPolicy, agent: &str) -> String {
    match policy {
        KeyPolicy::Strict => agent.to_ascii_lowercase(),
        KeyPolicy::Openclaw => openclaw::normalize_agent_id(agent),
    }
}

fn malformed(key: &str) -> DispatchError {
    // Long enough to show any key a gateway would take.
    DispatchError::Malformed { key: Printable::within(key, strict::MAX_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(ids: &[&str]) -> Roster {
        Roster::new(ids.iter().map(|id| AgentId::parse(id).unwrap()).collect(), 0).unwrap()
    }

    fn strict(key: &str, agent: Option<&str>) -> Result<String, String> {
        normalize_cli_key(KeyPolicy::Strict, &roster(&["main", "ops"]), Some(key), agent)
            .map(|sent| sent.unwrap().session_key)
            .map_err(|error| error.message("watertight"))
    }

    #[test]
    fn strict_adds_the_prefix_and_folds_nothing_of_the_key() {
        assert_eq!(strict("Incident-42", None).unwrap(), "agent:main:Incident-42");
        assert_eq!(strict("Incident-42", Some("OPS")).unwrap(), "agent:ops:Incident-42");
        assert_eq!(strict("AGENT:OPS:X", Some("ops")).unwrap(), "AGENT:OPS:X");
        assert_eq!(strict(" padded ", None).unwrap(), "agent:main: padded ", "the gateway refuses it");
        assert_eq!(strict("agent:nope:x", None).unwrap(), "agent:nope:x", "the gateway refuses it");
    }

    #[test]
    fn a_sentinel_is_literal_without_an_agent_and_the_agents_with_one() {
        assert_eq!(strict("global", None).unwrap(), "global");
        assert_eq!(strict("unknown", Some("ops")).unwrap(), "agent:ops:unknown");
        assert_eq!(strict("GLOBAL", None).unwrap(), "agent:main:GLOBAL");
    }

    #[test]
    fn shape_and_mismatch_are_refused_with_the_exact_texts() {
        let malformed = |key: &str| {
            format!(
                "Invalid --session-key \"{key}\". Agent-prefixed session keys must use agent:<agent-id>:<session-key>."
            )
        };
        for key in ["agent:", "agent:main", "agent::x", "agent:main:", "Agent:main::x"] {
            assert_eq!(strict(key, None), Err(malformed(key)));
            assert_eq!(strict(key, Some("ops")), Err(malformed(key)));
        }
        let mismatch = "Agent id \"Ops\" does not match session key agent \"main\".";
        assert_eq!(strict("agent:main:x", Some("Ops")), Err(mismatch.to_owned()));
        assert_eq!(strict(" ", None), Err("--session-key must not be blank".to_owned()));
        assert_eq!(strict("x", Some("\t")), Err("--agent must not be blank".to_owned()));
        assert_eq!(strict("agent:\u{1b}[2J", None), Err(malformed("agent:\\u{1b}[2J")));
    }

    #[test]
    fn an_unknown_agent_is_named_as_written() {
        let roster = roster(&["main", "my-agent"]);
        assert_eq!(check_known_agent(KeyPolicy::Strict, &roster, "MAIN"), Ok(()));
        assert_eq!(check_known_agent(KeyPolicy::Openclaw, &roster, "my agent"), Ok(()));
        let refused = check_known_agent(KeyPolicy::Strict, &roster, "my agent").unwrap_err();
        let text = "Unknown agent id \"my agent\". Use \"watertight agents list\" to see configured agents.";
        assert_eq!((refused.message("watertight").as_str(), refused.code()), (text, ErrorCode::UnknownAgent));
    }

    #[test]
    fn a_key_goes_before_an_id_and_an_agent_key_may_come_as_the_recipient() {
        let roster = roster(&["main", "ops"]);
        let target = |selectors| normalize_cli_target(KeyPolicy::Strict, MainKeyRules::default(), &roster, selectors);
        let none = Selectors::default();
        let both = Selectors { session_key: Some("x"), session_id: Some("s"), to: Some("+1555"), ..none };
        let sent = target(both).unwrap();
        assert_eq!(sent.session_key.as_deref(), Some("agent:main:x"));
        assert_eq!((sent.session_id.as_deref(), sent.to.as_deref()), (Some("s"), Some("+1555")));
        let sent = target(Selectors { to: Some("agent:ops:X"), ..none }).unwrap();
        assert_eq!((sent.session_key.as_deref(), sent.to), (Some("agent:ops:X"), None));
        let sent = target(none).unwrap();
        assert_eq!(sent.session_key.as_deref(), Some("agent:main:main"));
        assert_eq!(target(Selectors { to: Some(" "), ..none }), Err(DispatchError::Blank { flag: "--to" }));
    }

    #[test]
    fn a_timeout_is_a_plain_count_of_seconds() {
        assert_eq!(parse_timeout_seconds(" 600 "), Ok(600));
        assert_eq!(parse_timeout_seconds("0"), Ok(0));
        for bad in ["", "-1", "1.5", "600s", "1e3", "0x10", "9007199254740992", "99999999999999999999"] {
            assert_eq!(parse_timeout_seconds(bad), Err(DispatchError::InvalidTimeout), "{bad}");
        }
    }
}
