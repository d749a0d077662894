//! Agent ids as upstream validates and slugs them (sessions.md §1.4).

use super::text::{lower, trim};
use crate::key::AgentId;

/// The agent of a key or a flag that names none.
pub const DEFAULT_AGENT: &str = "main";

/// Whether `text` is an agent id without slugging.
pub fn is_valid_agent_id(text: &str) -> bool {
    AgentId::parse(trim(text)).is_ok()
}

/// The id that upstream makes of any text: `Ops!Team` becomes `ops-team`, `日本` becomes `main`.
pub fn normalize_agent_id(text: &str) -> String {
    let trimmed = trim(text);
    if trimmed.is_empty() {
        return DEFAULT_AGENT.to_owned();
    }
    if is_valid_agent_id(trimmed) {
        return trimmed.to_ascii_lowercase();
    }
    let mut slug = String::new();
    for c in lower(trimmed).chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-') {
            slug.push(c);
        } else if !slug.ends_with('\u{0}') {
            // One mark for a whole run; a dash of the input beside it stays a dash of its own.
            slug.push('\u{0}');
        }
    }
    let slug = slug.replace('\u{0}', "-");
    let slug: String = slug.trim_matches('-').chars().take(AgentId::MAX_BYTES).collect();
    if slug.is_empty() { DEFAULT_AGENT.to_owned() } else { slug }
}
