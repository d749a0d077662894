//! Agent ids as upstream validates and slugs them (sessions.md §1.4).

use super::text::{lower, trim};
use crate::key::{AgentId, MAIN};

/// Whether `text` is an agent id without slugging.
pub fn is_valid_agent_id(text: &str) -> bool {
    AgentId::parse(trim(text)).is_ok()
}

/// The id that upstream makes of any text: `Ops!Team` becomes `ops-team`, blank or `日本` becomes `main`.
pub fn normalize_agent_id(text: &str) -> String {
    /// Stands for a run of characters outside the alphabet; becomes one dash.
    const GAP: char = '\0';
    let trimmed = trim(text);
    if is_valid_agent_id(trimmed) {
        return trimmed.to_ascii_lowercase();
    }
    let mut slug = String::new();
    for c in lower(trimmed).chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-') {
            slug.push(c);
        } else if !slug.ends_with(GAP) {
            slug.push(GAP);
        }
    }
    let slug: String = slug.replace(GAP, "-").trim_matches('-').chars().take(AgentId::MAX_BYTES).collect();
    if slug.is_empty() { MAIN.to_owned() } else { slug }
}
