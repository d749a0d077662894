//! From a request's key to the store's key: main aliases, sentinels, scoping (sessions.md §1.5-1.7).

use super::agent_id::normalize_agent_id;
use super::shape::{Shape, is_sentinel, parse_agent_key, shape};
use super::text::{fold, lower, trim};
use crate::key::{MAIN, Roster};

/// What upstream's `session.scope` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionScoping {
    /// A session per sender.
    #[default]
    PerSender,
    /// One session for all: every main alias means `global`.
    Global,
}

/// The key carries no agent where one is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOwner {
    /// Starts with `agent:` and is no agent key: falling back to a default would hide the mistake.
    #[error("Malformed agent session key; refusing default-agent resolution.")]
    Malformed,
    /// A bare key, and no default agent was given.
    #[error("Session key does not contain an agent id; resolve it with the configured default agent.")]
    Bare,
}

/// The main key that upstream's `session.mainKey` means.
pub fn normalize_main_key(configured: Option<&str>) -> String {
    let key = lower(trim(configured.unwrap_or_default()));
    if key.is_empty() { MAIN.to_owned() } else { key }
}

/// The main session of an agent.
pub fn main_session_key(agent: &str, main_key: Option<&str>) -> String {
    format!("agent:{}:{}", normalize_agent_id(agent), normalize_main_key(main_key))
}

/// The store key of `key` in the namespace of `agent`. Sentinels are no exception here.
pub fn to_store_key(agent: &str, key: &str, main_key: Option<&str>) -> String {
    let lowered = lower(trim(key));
    if lowered.is_empty() || lowered == MAIN {
        return main_session_key(agent, main_key);
    }
    match parse_agent_key(key) {
        Some(parsed) => format!("agent:{}:{}", parsed.agent, parsed.rest),
        None => agent_scoped(agent, fold(key)),
    }
}

/// The store key of `key` in the namespace of `agent`; sentinels stay literal.
pub fn canonical_for_agent(agent: &str, key: &str) -> String {
    if is_sentinel(key) { lower(trim(key)) } else { agent_scoped(agent, fold(key)) }
}

fn agent_scoped(agent: &str, folded: String) -> String {
    if folded.starts_with("agent:") { folded } else { format!("agent:{}:{folded}", normalize_agent_id(agent)) }
}

/// The key as a request writes it: the rest of an agent key, else the text. None if blank.
pub fn to_request_key(store_key: &str) -> Option<String> {
    let trimmed = trim(store_key);
    let key = || parse_agent_key(trimmed).map_or_else(|| trimmed.to_owned(), |parsed| parsed.rest);
    (!trimmed.is_empty()).then(key)
}

/// A bare key scoped to `agent`; every other key, and any key without an agent, as it is. None if blank.
pub fn scope_bare_key(agent: Option<&str>, key: &str, main_key: Option<&str>) -> Option<String> {
    let key = trim(key);
    let agent = agent.map(trim).filter(|agent| !agent.is_empty());
    match (shape(key), agent) {
        (Shape::Missing, _) => None,
        (Shape::LegacyOrAlias, Some(agent)) => Some(to_store_key(agent, key, main_key)),
        _ => Some(key.to_owned()),
    }
}

/// The agent that owns `key`; `default_agent` for a bare key.
pub fn key_owner(key: &str, default_agent: Option<&str>) -> Result<String, NoOwner> {
    if let Some(parsed) = parse_agent_key(key) {
        return Ok(normalize_agent_id(&parsed.agent));
    }
    if shape(key) == Shape::MalformedAgent {
        return Err(NoOwner::Malformed);
    }
    default_agent.map(trim).filter(|agent| !agent.is_empty()).map(normalize_agent_id).ok_or(NoOwner::Bare)
}

/// What decides which keys mean an agent's main session.
#[derive(Clone, Copy, Debug, Default)]
pub struct MainKeyRules<'a> {
    /// Upstream's `session.scope`.
    pub scoping: SessionScoping,
    /// Upstream's `session.mainKey`; None means `main`.
    pub main_key: Option<&'a str>,
}

impl MainKeyRules<'_> {
    /// The main session of `agent`, or `global` if `key` is an alias of it; else `key`, trimmed. Compares exactly.
    pub fn canonical_alias(&self, agent: &str, key: &str) -> String {
        let key = trim(key);
        let agent = normalize_agent_id(agent);
        let main_key = normalize_main_key(self.main_key);
        let is_main = |rest: &str| rest == MAIN || rest == main_key;
        // `agent:main:…` is the agent of the time before agents had names, so it is an alias of every agent's.
        let owned = key.strip_prefix("agent:").and_then(|tail| tail.split_once(':'));
        let alias = is_main(key) || owned.is_some_and(|(id, rest)| (id == agent || id == MAIN) && is_main(rest));
        match (alias, self.scoping) {
            (false, _) => key.to_owned(),
            (true, SessionScoping::PerSender) => format!("agent:{agent}:{main_key}"),
            (true, SessionScoping::Global) => "global".to_owned(),
        }
    }
}

/// What decides the store key of a request.
#[derive(Clone, Copy, Debug)]
pub struct StoreRules<'a> {
    /// Which keys mean a main session.
    pub main: MainKeyRules<'a>,
    /// The agent of keys that name none.
    pub default_agent: &'a str,
    /// Whether an agent called `main` is configured.
    pub has_main: bool,
}

impl<'a> StoreRules<'a> {
    /// The rules over a tenant's agents.
    pub fn of(roster: &'a Roster, main: MainKeyRules<'a>) -> Self {
        Self { main, default_agent: roster.default().as_str(), has_main: roster.get(MAIN).is_some() }
    }

    /// The store key of a request's key; blank stays blank.
    pub fn store_key(&self, key: &str) -> String {
        let key = trim(key);
        let lowered = lower(key);
        if key.is_empty() || is_sentinel(key) {
            return lowered;
        }
        if parse_agent_key(key).is_some() {
            return self.agent_store_key(key, self.default_agent);
        }
        if lowered == MAIN || lowered == normalize_main_key(self.main.main_key) {
            return self.main.canonical_alias(self.default_agent, &lowered);
        }
        canonical_for_agent(self.default_agent, key)
    }

    /// The store key of an agent key. `agent:main:main` means `heir`'s main session when no `main` is configured.
    fn agent_store_key(&self, key: &str, heir: &str) -> String {
        let folded = fold(key);
        let Some(parsed) = parse_agent_key(&folded) else { return folded };
        let agent = normalize_agent_id(&parsed.agent);
        let rest = lower(trim(&parsed.rest));
        let main = rest == MAIN || rest == normalize_main_key(self.main.main_key);
        if agent == MAIN && main && !self.has_main {
            let heir = normalize_agent_id(heir);
            return self.main.canonical_alias(&heir, &format!("agent:{heir}:{rest}"));
        }
        self.main.canonical_alias(&agent, &folded)
    }

    /// The agent that owns a row of `agent`'s store; None for a sentinel, which has no owner.
    pub fn stored_owner(&self, agent: &str, key: &str) -> Option<String> {
        let key = trim(key);
        let scoped = if parse_agent_key(key).is_some() { key.to_owned() } else { canonical_for_agent(agent, key) };
        let canonical = if is_sentinel(&scoped) { scoped } else { self.agent_store_key(&scoped, agent) };
        if is_sentinel(&canonical) {
            return None;
        }
        Some(key_owner(&canonical, Some(self.default_agent)).unwrap_or_else(|_| normalize_agent_id(self.default_agent)))
    }
}
