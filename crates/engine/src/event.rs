//! What happens in a session, as listeners see it.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use serde_json::value::RawValue;
use watertight_core::ids::{GenerationId, RunId, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_core::transcript::{Block, Entry};

use crate::report::RunReport;
use crate::view::SessionView;

/// One event of one session.
#[derive(Debug)]
pub struct SessionEvent {
    /// Place in the session's stream of events since its actor started, from 1, without gaps.
    pub seq: u64,
    /// The session.
    pub key: CanonicalKey,
    /// The agent that answers in it.
    pub agent: String,
    /// The generation the event belongs to.
    pub generation: GenerationId,
    /// The run it belongs to, and its place among that run's events: 0 is the input, the rest count from 1.
    pub run: Option<(RunId, u64)>,
    /// When it happened.
    pub at: UnixMillis,
    /// What happened.
    pub kind: EventKind,
    /// What surfaces made of it.
    pub rendered: Rendered,
}

/// The forms surfaces gave an event, so that each is written once and not once per listener.
#[derive(Debug, Default)]
pub struct Rendered(Mutex<Vec<(&'static str, Arc<RawValue>)>>);

impl Rendered {
    /// The form of this name, made by `render` where nobody has asked for it before. `None` where it cannot be made.
    pub fn form(&self, name: &'static str, render: impl FnOnce() -> Option<Box<RawValue>>) -> Option<Arc<RawValue>> {
        let mut forms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, form)) = forms.iter().find(|(known, _)| *known == name) {
            return Some(form.clone());
        }
        let form: Arc<RawValue> = render()?.into();
        forms.push((name, form.clone()));
        Some(form)
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// A durable entry: an input, an answer or a tool's result.
    Entry {
        /// The entry.
        entry: Arc<Entry>,
        /// The session after it.
        session: Arc<SessionView>,
    },
    /// The run waits for the model's first word.
    StartingModel,
    /// The run was claimed.
    Started {
        /// When.
        started_at: UnixMillis,
        /// The session now.
        session: Arc<SessionView>,
    },
    /// Which model answers.
    Model {
        /// Configured provider name.
        provider: String,
        /// The provider's name for the model.
        model: String,
    },
    /// The answer grows. Coalesced: the first piece at once, then at most one event each 75 ms. Provisional until its entry.
    Text {
        /// What is new since the last such event.
        delta: String,
        /// Everything since the run's last durable entry.
        text: Arc<str>,
    },
    /// The model's reasoning grows; coalesced alike.
    Thinking {
        /// What is new.
        delta: String,
    },
    /// A tool was started; its intent is durable.
    ToolStarted {
        /// The call.
        call_id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
    /// A tool has answered; its result is durable.
    ToolEnded {
        /// The call.
        call_id: String,
        /// The tool.
        name: String,
        /// Whether the call failed.
        is_error: bool,
        /// What it returned.
        content: Vec<Block>,
    },
    /// The run is over; its outcome is durable. Exactly one per run.
    Ended {
        /// How.
        report: Arc<RunReport>,
        /// The session now.
        session: Arc<SessionView>,
    },
    /// The session was created or changed outside a run.
    Changed {
        /// Why, a wire word of gateway-ws.md §3; `create` when its first input was stored.
        reason: &'static str,
        /// The session now.
        session: Arc<SessionView>,
    },
}
