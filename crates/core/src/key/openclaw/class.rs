//! What sort of session a key names, as far as its text tells (sessions.md §1.8).

use super::shape::parse_agent_key;
use super::text::{lower, trim};

/// Whether the rest of an agent key starts with `prefix`, in any case.
fn rest_starts(key: &str, prefix: &str) -> bool {
    parse_agent_key(key).is_some_and(|parsed| lower(trim(&parsed.rest)).starts_with(prefix))
}

/// A sub-agent's session, agent-scoped or bare.
pub fn is_subagent_key(key: &str) -> bool {
    lower(trim(key)).starts_with("subagent:") || rest_starts(key, "subagent:")
}

/// An ACP session, agent-scoped or bare.
pub fn is_acp_key(key: &str) -> bool {
    lower(trim(key)).starts_with("acp:") || rest_starts(key, "acp:")
}

/// A cron job's session; only an agent-scoped key is one.
pub fn is_cron_key(key: &str) -> bool {
    rest_starts(key, "cron:")
}

/// One isolated run of a cron job: `cron:<job>:run:<run>`, and what follows.
pub fn is_cron_run_key(key: &str) -> bool {
    let Some(parsed) = parse_agent_key(key) else { return false };
    let mut segments = parsed.rest.split(':');
    let mut next = || segments.next().unwrap_or_default();
    next() == "cron" && !next().is_empty() && next() == "run" && !next().is_empty()
}

/// A session kept in memory only.
pub fn is_incognito_key(key: &str) -> bool {
    let lowered = lower(trim(key));
    let segments: Vec<&str> = lowered.split(':').collect();
    let ["agent", agent, "dashboard" | "subagent" | "internal-session-effects", name] = segments[..] else {
        return false;
    };
    !agent.is_empty() && name.strip_prefix("incognito-").is_some_and(|id| !id.is_empty())
}

/// How many sub-agents deep a key is: its `subagent:` parts, adjacent ones counted once.
pub fn subagent_depth(key: &str) -> usize {
    let lowered = lower(trim(key));
    let body = parse_agent_key(&lowered).map_or(lowered, |parsed| lower(&parsed.rest));
    let mut segments = body.split(':').peekable();
    let mut depth = 0;
    while let Some(segment) = segments.next() {
        if segment == "subagent" && segments.peek().is_some() {
            depth += 1;
            // Its colon is used up: a second `subagent` right behind it does not count.
            segments.next_if_eq(&"subagent");
        }
    }
    depth
}

/// What the store knows of a session, as far as its display kind depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindHints {
    /// Another session spawned it.
    pub spawned: bool,
    /// It is recorded as a group's or a channel's.
    pub group_chat: bool,
}

/// The kind under which a session is displayed. Sentinels count only as they are stored.
pub fn session_kind(key: &str, hints: KindHints) -> &'static str {
    match key {
        "global" => "global",
        "unknown" => "unknown",
        _ if is_cron_key(key) => "cron",
        _ if hints.spawned => "spawn-child",
        _ if hints.group_chat || key.contains(":group:") || key.contains(":channel:") => "group",
        _ => "direct",
    }
}

/// The sort of chat a key's peer part tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatType {
    /// One person.
    Direct,
    /// A group.
    Group,
    /// A channel.
    Channel,
    /// The key does not tell, or tells two at once.
    Unknown,
}

impl ChatType {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Group => "group",
            Self::Channel => "channel",
            Self::Unknown => "unknown",
        }
    }

    fn of_peer_kind(word: &str) -> Option<Self> {
        match word {
            "direct" | "dm" => Some(Self::Direct),
            "group" => Some(Self::Group),
            "channel" => Some(Self::Channel),
            _ => None,
        }
    }
}

/// The chat type of a key: `direct:<peer>`, `<channel>:<kind>:<peer>`, `<channel>:<account>:<kind>:<peer>` or one of
/// the old shapes. A key that fits two of them is unknown, unless it has an old shape to fall back on.
pub fn chat_type(key: &str) -> ChatType {
    let lowered = lower(trim(key));
    let body = parse_agent_key(&lowered).map_or(lowered, |parsed| parsed.rest);
    let old = old_shape(&body);
    let segments: Vec<&str> = body.split(':').collect();
    let at = |index: usize| segments.get(index).copied().unwrap_or_default();
    let filled = |indices: &[usize]| indices.iter().all(|index| !at(*index).is_empty());
    let kind_at = |index: usize| ChatType::of_peer_kind(at(index));
    let shapes = [
        kind_at(0).filter(|kind| *kind == ChatType::Direct && filled(&[1])),
        kind_at(1).filter(|_| filled(&[0, 2])),
        kind_at(2).filter(|_| filled(&[0, 1, 3])),
    ];
    let fitting = shapes.iter().flatten().count() + usize::from(old.is_some());
    let shape = if at(0) == "agent" || fitting > 1 { None } else { shapes.into_iter().flatten().next() };
    shape.or(old).unwrap_or(ChatType::Unknown)
}

fn old_shape(body: &str) -> Option<ChatType> {
    let segments: Vec<&str> = body.split(':').collect();
    let guild = |text: &str| text.strip_prefix("guild-").is_some_and(|id| !id.is_empty());
    let channel = |text: &str| text.strip_prefix("channel-").is_some_and(|id| !id.is_empty());
    let whatsapp = |text: &str| text.strip_suffix("@g.us").is_some_and(|id| !id.is_empty());
    match segments[..] {
        ["group", id, ..] if !id.is_empty() => Some(ChatType::Group),
        ["channel", id, ..] if !id.is_empty() => Some(ChatType::Channel),
        [id] | ["whatsapp", id] if whatsapp(id) => Some(ChatType::Group),
        ["discord", place, room] if guild(place) && channel(room) => Some(ChatType::Channel),
        ["discord", account, place, room] if !account.is_empty() && guild(place) && channel(room) => {
            Some(ChatType::Channel)
        }
        _ => None,
    }
}
