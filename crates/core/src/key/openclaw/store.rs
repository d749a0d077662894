//! From a request's key to the store's key: main aliases, sentinels, scoping (sessions.md §1.5-1.7).

use super::agent_id::normalize_agent_id;
use super::shape::{Shape, is_sentinel, parse_agent_key, shape};
use super::text::{fold, lower, trim};
use crate::key::{MAIN, Roster};

/// What `session.scope` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionScoping {
    /// A session per sender.
    #[default]
    PerSender,
    /// One session for all: every main alias means `global`.
    Global,
}

/// What decides the store key of a request.
#[derive(Clone, Debug)]
pub struct StoreRules<'a> {
    /// Upstream's `session.scope`.
    pub scoping: SessionScoping,
    /// Upstream's `session.mainKey`; None means `main`.
    pub main_key: Option<&'a str>,
    /// The agent of keys that name none.
    pub default_agent: &'a str,
    /// Whether an agent called `main` is configured.
    pub has_main: bool,
}

/// The main key a configured value means.
pub fn normalize_main_key(configured: Option<&str>) -> String {
    let key = lower(trim(configured.unwrap_or_default()));
    if key.is_empty() { MAIN.to_owned() } else { key }
}

/// The main session of an agent.
pub fn main_session_key(agent: &str, main_key: Option<&str>) -> String {
    format!("agent:{}:{}", normalize_agent_id(agent), normalize_main_key(main_key))
}

impl<'a> StoreRules<'a> {
    /// The rules of a tenant: per sender, main key `main`.
    pub fn of(roster: &'a Roster) -> Self {
        Self {
            scoping: SessionScoping::PerSender,
            main_key: None,
            default_agent: roster.default().as_str(),
            has_main: roster.get(MAIN).is_some(),
        }
    }

    /// `key` if it is no alias of `agent`'s main session, else that session, or `global` under the global scope.
    pub fn canonical_main_alias(&self, agent: &str, key: &str) -> String {
        let agent = normalize_agent_id(agent);
        let main_key = normalize_main_key(self.main_key);
        let own_main = format!("agent:{agent}:{main_key}");
        let alias = key == MAIN
            || key == main_key
            || key == own_main
            || key == format!("agent:{agent}:{MAIN}")
            || key == format!("agent:{MAIN}:{MAIN}")
            || key == format!("agent:{MAIN}:{main_key}");
        match (alias, self.scoping) {
            (false, _) => key.to_owned(),
            (true, SessionScoping::PerSender) => own_main,
            (true, SessionScoping::Global) => "global".to_owned(),
        }
    }

    /// The store key of a request's key; blank stays blank.
    pub fn store_key(&self, key: &str) -> String {
        let folded = fold(key);
        if is_sentinel(&folded) || folded.is_empty() {
            return folded;
        }
        if let Some(parsed) = parse_agent_key(&folded) {
            let legacy_main = parsed.agent == MAIN && parsed.rest == MAIN && !self.has_main;
            let owner = if legacy_main { self.default_agent } else { &parsed.agent };
            return self.canonical_main_alias(owner, &format!("agent:{}:{}", parsed.agent, parsed.rest));
        }
        if shape(&folded) == Shape::MalformedAgent {
            return folded;
        }
        if folded == MAIN || folded == normalize_main_key(self.main_key) {
            return self.canonical_main_alias(self.default_agent, &folded);
        }
        format!("agent:{}:{folded}", normalize_agent_id(self.default_agent))
    }
}
