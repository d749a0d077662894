//! Which key, in whose store, the selectors of one command mean (sessions.md §2.2, §2.4), without a stored row.

use super::agent_id::normalize_agent_id;
use super::shape::{Shape, is_sentinel, parse_agent_key, shape};
use super::store::{MainKeyRules, NoOwner, SessionScoping, key_owner, main_session_key};
use super::text::trim;

/// What a command may name. Blank counts as absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selectors<'a> {
    /// `--session-key`.
    pub session_key: Option<&'a str>,
    /// `--session-id`.
    pub session_id: Option<&'a str>,
    /// `--agent`.
    pub agent: Option<&'a str>,
    /// `--to`.
    pub to: Option<&'a str>,
}

impl<'a> Selectors<'a> {
    /// The selectors trimmed, and an agent key given as the recipient promoted to the session key if neither a key nor
    /// an id is given.
    #[must_use]
    pub fn promoted(self) -> Self {
        let given = |text: Option<&'a str>| text.map(trim).filter(|text| !text.is_empty());
        let named = Self {
            session_key: given(self.session_key),
            session_id: given(self.session_id),
            agent: given(self.agent),
            to: given(self.to),
        };
        match (named.session_key, named.session_id, named.to) {
            (None, None, Some(to)) if shape(to) == Shape::Agent => Self { session_key: Some(to), to: None, ..named },
            _ => named,
        }
    }
}

/// The key and the owner that a command means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget {
    /// The agent whose store holds the session.
    pub agent: String,
    /// The key, not folded; None when nothing was selected.
    pub session_key: Option<String>,
}

/// The key of a session id that no stored session has.
pub fn explicit_session_key(agent: &str, session_id: &str) -> String {
    format!("agent:{}:explicit:{}", normalize_agent_id(agent), trim(session_id))
}

/// The key and the owner that `selectors` mean where `default_agent` answers for what names no agent.
///
/// A key wins over an id, an id over the agent's main session, that over a recipient, who shares the main session.
pub fn resolve(
    main: MainKeyRules<'_>,
    default_agent: &str,
    selectors: Selectors<'_>,
) -> Result<RequestTarget, NoOwner> {
    let Selectors { session_key, session_id, agent, to } = selectors.promoted();
    let requested = agent.map(normalize_agent_id);
    let agent_main = || match (&requested, session_id) {
        (Some(agent), None) => Some(main_session_key(agent, main.main_key)),
        _ => None,
    };
    let key = session_key.map(str::to_owned).or_else(agent_main);
    let named = requested.or_else(|| key.as_deref().and_then(parse_agent_key).map(|parsed| parsed.agent));
    let default = named.map_or_else(|| normalize_agent_id(default_agent), |agent| normalize_agent_id(&agent));

    let Some(key) = key else {
        let session_key = match (to, session_id, main.scoping) {
            (Some(_), _, SessionScoping::Global) => Some("global".to_owned()),
            (Some(_), _, SessionScoping::PerSender) => Some(main_session_key(&default, main.main_key)),
            (None, Some(id), _) => Some(explicit_session_key(&default, id)),
            (None, None, _) => None,
        };
        return Ok(RequestTarget { agent: default, session_key });
    };
    let owner = if is_sentinel(&key) { default } else { key_owner(&key, Some(&default))? };
    let session_key = Some(main.canonical_alias(&owner, &key));
    Ok(RequestTarget { agent: owner, session_key })
}
