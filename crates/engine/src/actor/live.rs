//! What others may see of a session without asking its actor.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use watertight_core::ids::{RunId, SessionId, TenantId, UnixMillis};
use watertight_core::session::SessionMeta;
use watertight_core::transcript::Message;

use crate::recovery::SessionName;
use crate::view::InFlight;

/// Longest derived title, in characters.
const TITLE_CHARS: usize = 80;
/// Longest preview of the latest message, in characters.
const PREVIEW_CHARS: usize = 120;

/// Shared between an actor and those who look.
pub(crate) struct Live {
    pub(crate) tenant: TenantId,
    pub(crate) session: SessionId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: Option<(RunId, UnixMillis, Arc<str>)>,
    queued: Vec<RunId>,
}

impl Live {
    pub(crate) fn new(tenant: TenantId, session: SessionId) -> Self {
        Self { tenant, session, state: Mutex::default() }
    }

    pub(crate) fn name(&self) -> SessionName {
        (self.tenant, self.session)
    }

    /// Active and waiting runs, oldest first.
    pub(crate) fn runs(&self) -> Vec<RunId> {
        let state = self.lock();
        state.active.iter().map(|(run, ..)| run).chain(&state.queued).cloned().collect()
    }

    pub(crate) fn in_flight(&self) -> Option<InFlight> {
        let state = self.lock();
        let (run, started_at, text) = state.active.as_ref()?;
        Some(InFlight { run: run.clone(), text: text.to_string(), started_at: *started_at })
    }

    pub(super) fn set_queue(&self, queued: Vec<RunId>) {
        self.lock().queued = queued;
    }

    pub(super) fn set_active(&self, active: Option<(RunId, UnixMillis)>) {
        self.lock().active = active.map(|(run, at)| (run, at, "".into()));
    }

    pub(super) fn set_text(&self, text: Arc<str>) {
        if let Some(active) = &mut self.lock().active {
            active.2 = text;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps title and preview in step with a new message.
pub(super) fn describe_message(meta: &mut SessionMeta, message: &Message) {
    let text = message.text();
    if text.trim().is_empty() {
        return;
    }
    if meta.derived_title.is_none() && matches!(message, Message::User { .. }) {
        meta.derived_title = Some(first_words(&text, TITLE_CHARS));
    }
    if !matches!(message, Message::ToolResult { .. }) {
        meta.last_message_preview = Some(first_words(&text, PREVIEW_CHARS));
    }
}

/// The beginning of a text on one line.
fn first_words(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.chars().count() > limit {
            let mut cut: String = line.chars().take(limit - 1).collect();
            cut.push('…');
            return cut;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_short_line() {
        assert_eq!(first_words("  a\n b\tc ", 80), "a b c");
        let long = first_words(&"ä".repeat(500), 80);
        assert_eq!(long.chars().count(), 80);
        assert!(long.ends_with('…'));
    }
}
