//! From what happens in sessions to what a connection hears (gateway-ws.md §3).
//!
//! The engine delivers events in the publisher's own context, before it answers whoever waits for them. So whatever a
//! feed queues here stands in the outbox before the answer does: `chat` aborted before the response to `chat.abort`,
//! `chat` final before the last response of `agent`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::value::to_raw_value;
use watertight_core::ids::RunId;
use watertight_core::key::CanonicalKey;
use watertight_core::run::{FailureKind, RunOutcome};
use watertight_core::transcript::Entry;
use watertight_engine::event::{EventKind, SessionEvent};
use watertight_engine::hub::{EventSink, Listener};
use watertight_engine::report::RunReport;
use watertight_engine::view::SessionView;
use watertight_wire::openclaw::agent::{AgentData, AgentEvent, Lifecycle, TerminalReply, Tool, ToolOutput};
use watertight_wire::openclaw::chat::{ChatEvent, ChatMessage, ChatState, ErrorDetail, error_kind};
use watertight_wire::openclaw::reply::SessionsChanged;
use watertight_wire::openclaw::row::Extras;

use super::outbox::{Need, Outbox, Pushed};
use super::{chat, view};

/// Most keys a connection may subscribe to by name (isolation.md §2.10).
const MAX_SUBSCRIPTIONS: usize = Listener::MAX_WATCHED;

/// Most runs that are remembered of each sort. Where a grant ends, the ends of runs are not heard.
const MAX_RUNS: usize = 1024;
/// Text beyond which an answer is told again only when it has grown by an eighth, in bytes: each time all of it is sent.
const LONG_ANSWER: usize = 256 * 1024;

/// The events we send, as hello names them.
pub(crate) const EVENTS: &[&str] = &[
    "agent",
    "chat",
    "connect.challenge",
    "device.pair.requested",
    "device.pair.resolved",
    "health",
    "presence",
    "session.message",
    "session.tool",
    "sessions.changed",
    "shutdown",
    "tick",
];

/// What one connection hears.
pub(crate) struct Feed {
    outbox: Arc<Outbox>,
    caps: Caps,
    state: Mutex<State>,
}

/// What the client said it can handle.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Caps {
    /// `chat` and `agent` only of sessions it subscribed to by name.
    pub(crate) session_scoped: bool,
    /// Tool events of the runs it starts.
    pub(crate) tool_events: bool,
}

#[derive(Default)]
struct State {
    /// Hears of changes to the list, and every session's messages.
    list: bool,
    /// Sessions subscribed to by name.
    keys: HashSet<CanonicalKey>,
    /// Runs this connection started that have not ended, and hears of.
    own_runs: HashMap<RunId, CanonicalKey>,
    /// Runs whose answer is growing, with what the client has of it.
    answers: HashMap<RunId, (CanonicalKey, Told)>,
}

impl State {
    /// Nothing of the session is heard any more, so neither are the ends of its runs.
    fn forget(&mut self, key: &CanonicalKey) {
        self.own_runs.retain(|_, of| of != key);
        self.answers.retain(|_, (of, _)| of != key);
    }
}

/// What a client has of a growing answer.
#[derive(Clone, Copy, Default)]
struct Told {
    /// Bytes of it.
    bytes: usize,
    /// Whether a piece was skipped, so that the next one must bring all.
    torn: bool,
}

/// Too many subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("This connection has {MAX_SUBSCRIPTIONS} subscriptions, which is the most. Unsubscribe from one first.")]
pub(crate) struct TooMany;

impl Feed {
    pub(crate) fn new(outbox: Arc<Outbox>, caps: Caps) -> Self {
        Self { outbox, caps, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of the list from now on.
    pub(crate) fn subscribe_list(&self) {
        self.lock().list = true;
    }

    /// Hears the session's messages from now on.
    pub(crate) fn subscribe(&self, key: CanonicalKey) -> Result<(), TooMany> {
        let mut state = self.lock();
        if state.keys.len() >= MAX_SUBSCRIPTIONS && !state.keys.contains(&key) {
            return Err(TooMany);
        }
        state.keys.insert(key);
        Ok(())
    }

    /// Stops hearing them, unless the whole list is subscribed to.
    pub(crate) fn unsubscribe(&self, key: &CanonicalKey) {
        let mut state = self.lock();
        state.keys.remove(key);
        if !state.list && self.caps.session_scoped {
            state.forget(key);
        }
    }

    /// The connection started this run. Called before the run's first event.
    pub(crate) fn started(&self, run: &RunId, key: &CanonicalKey) {
        let mut state = self.lock();
        let heard = !self.caps.session_scoped || state.list || state.keys.contains(key);
        if self.caps.tool_events && heard && state.own_runs.len() < MAX_RUNS {
            state.own_runs.insert(run.clone(), key.clone());
        }
    }

    /// Queues a form of the event, which is written once for everybody who hears it.
    fn push<P: Serialize>(
        &self,
        event: &SessionEvent,
        name: &str,
        form: &'static str,
        payload: impl FnOnce() -> P,
        need: Need,
    ) -> Pushed {
        let written = event.rendered.form(form, || {
            to_raw_value(&payload())
                .inspect_err(|error| tracing::error!(%error, name, "an event cannot be written as JSON"))
                .ok()
        });
        written.map_or(Pushed::Skipped, |written| self.outbox.written_event(name, &written, need, None))
    }

    fn message(&self, event: &SessionEvent, entry: &Entry, session: &SessionView) {
        self.push(event, "session.message", "session.message", || chat::envelope(entry, session, None), Need::Required);
    }

    fn changed(&self, event: &SessionEvent, reason: &str, phase: Option<&'static str>, session: &SessionView) {
        let payload = || SessionsChanged {
            session_key: event.key.as_str(),
            agent_id: &event.agent,
            reason,
            phase,
            run_id: event.run.as_ref().map(|(run, _)| run.as_str()),
            ts: event.at.0,
            session: view::row(session, Extras::ALL),
        };
        self.push(event, "sessions.changed", "sessions.changed", payload, Need::Droppable);
    }

    fn chat<'a>(&self, event: &'a SessionEvent, state: impl FnOnce() -> ChatState<'a>, need: Need) -> Pushed {
        self.chat_as("chat", event, state, need)
    }

    fn chat_as<'a>(
        &self,
        form: &'static str,
        event: &'a SessionEvent,
        state: impl FnOnce() -> ChatState<'a>,
        need: Need,
    ) -> Pushed {
        let Some((run, seq)) = &event.run else { return Pushed::Skipped };
        let payload = || ChatEvent {
            run_id: run.as_str(),
            session_key: event.key.as_str(),
            agent_id: &event.agent,
            seq: *seq,
            state: state(),
        };
        self.push(event, "chat", form, payload, need)
    }

    fn agent<'a>(&self, name: &str, event: &'a SessionEvent, data: impl FnOnce() -> AgentData<'a>, need: Need) {
        let Some((run, seq)) = &event.run else { return };
        let payload = || {
            let data = data();
            AgentEvent {
                run_id: run.as_str(),
                seq: *seq,
                stream: data.stream(),
                ts: event.at.0,
                session_key: event.key.as_str(),
                session_id: event.generation.as_str(),
                agent_id: &event.agent,
                data,
            }
        };
        self.push(event, name, "agent", payload, need);
    }

    /// The answer grows. A client that lacks a piece of it gets all of it once.
    fn text<'a>(&self, state: &mut State, event: &'a SessionEvent, delta: &'a str, text: &'a str) {
        let Some((run, _)) = &event.run else { return };
        if state.answers.len() >= MAX_RUNS && !state.answers.contains_key(run) {
            // Whoever is still growing gets all of it once.
            state.answers.clear();
        }
        let (_, told) = state.answers.entry(run.clone()).or_insert_with(|| (event.key.clone(), Told::default()));
        let grown = text.len() < told.bytes || text.len() - told.bytes >= told.bytes / 8;
        if text.len() > LONG_ANSWER && !grown {
            return;
        }
        self.agent("agent", event, || AgentData::Assistant { text, delta }, Need::Droppable);
        let replace = told.torn || told.bytes + delta.len() != text.len();
        let chat = || ChatState::Delta {
            delta_text: if replace { text } else { delta },
            message: ChatMessage::new(text, event.at),
            replace,
        };
        let form = if replace { "chat.replace" } else { "chat" };
        let pushed = self.chat_as(form, event, chat, Need::Droppable);
        *told = Told { bytes: text.len(), torn: pushed == Pushed::Skipped };
    }

    /// Exactly one terminal `chat` state per run.
    fn ended(&self, event: &SessionEvent, report: &RunReport) {
        let run = view::ended(report);
        let message = || ChatMessage::last(&report.text, report.ended_at, report.receipt);
        let told = |kind: FailureKind| {
            let state = || ChatState::Error {
                error_message: run.error().unwrap_or("The run failed."),
                error_kind: error_kind(kind),
                error_detail: report.model.as_ref().map(|model| ErrorDetail::new(model, report.provider_status)),
                message: message(),
            };
            self.chat(event, state, Need::Required)
        };
        let end = |aborted: bool| {
            let data = || {
                AgentData::Lifecycle(Lifecycle::End {
                    started_at: report.started_at.0,
                    ended_at: report.ended_at.0,
                    stop_reason: run.stop_reason(),
                    aborted,
                    status: aborted.then_some("cancelled"),
                    terminal_reply: TerminalReply::new(&report.text),
                    receipt: report.receipt,
                })
            };
            self.agent("agent", event, data, Need::Required);
        };
        let failed = || {
            let data = || {
                AgentData::Lifecycle(Lifecycle::Error {
                    error: run.error().unwrap_or("The run failed."),
                    ended_at: report.ended_at.0,
                    receipt: report.receipt,
                })
            };
            self.agent("agent", event, data, Need::Required);
        };
        match &report.outcome {
            RunOutcome::Completed { stop, .. } => {
                end(false);
                let done = || ChatState::completed(message(), *stop, report.usage);
                self.chat(event, done, Need::Required);
            }
            RunOutcome::Aborted { reason } => {
                let aborted = || ChatState::Aborted { stop_reason: reason, message: message() };
                self.chat(event, aborted, Need::Required);
                end(true);
            }
            RunOutcome::Failed { kind, .. } => {
                failed();
                told(*kind);
            }
            RunOutcome::TimedOut => {
                failed();
                told(FailureKind::Timeout);
            }
            RunOutcome::Interrupted => {
                failed();
                told(FailureKind::Unknown);
            }
        }
    }

    /// Tool events go to the connection that started the run; others that follow the list hear them by another name.
    fn tool<'a>(&self, state: &State, event: &'a SessionEvent, tool: impl FnOnce() -> Tool<'a>) {
        let own = event.run.as_ref().is_some_and(|(run, _)| state.own_runs.contains_key(run));
        let name = match (own, state.list) {
            (true, _) => "agent",
            (false, true) => "session.tool",
            (false, false) => return,
        };
        self.agent(name, event, || AgentData::Tool(tool()), Need::Required);
    }
}

impl EventSink for Feed {
    fn deliver(&self, event: &Arc<SessionEvent>) {
        let mut state = self.lock();
        let by_name = state.keys.contains(&event.key);
        // A client that wants only the sessions it named hears nothing of the runs of others.
        let hears_runs = !self.caps.session_scoped || by_name;
        let hears_list = state.list;
        match &event.kind {
            EventKind::Entry { entry, session } => {
                if hears_list || by_name {
                    self.message(event, entry, session);
                }
            }
            EventKind::StartingModel if hears_runs => {
                let phase = "starting_model";
                self.chat(event, || ChatState::Status { phase }, Need::Droppable);
                self.agent("agent", event, || AgentData::RunStatus { phase }, Need::Droppable);
            }
            EventKind::Started { started_at, session } => {
                if hears_runs {
                    let start = || AgentData::Lifecycle(Lifecycle::Start { started_at: started_at.0 });
                    self.agent("agent", event, start, Need::Required);
                }
                if hears_list {
                    self.changed(event, "agent.run.started", Some("start"), session);
                }
            }
            EventKind::Model { provider, model } if hears_runs => {
                let model = || AgentData::Lifecycle(Lifecycle::Model { provider, model });
                self.agent("agent", event, model, Need::Droppable);
            }
            EventKind::Text { delta, text } if hears_runs => self.text(&mut state, event, delta, text),
            EventKind::Thinking { delta } if hears_runs => {
                self.agent("agent", event, || AgentData::Thinking { delta }, Need::Droppable);
            }
            EventKind::ToolStarted { call_id, name, arguments } => {
                let tool = || Tool::Start { name, tool_call_id: call_id, args: arguments };
                self.tool(&state, event, tool);
            }
            EventKind::ToolEnded { call_id, name, is_error, content } => {
                let result = || ToolOutput { content: content.iter().map(Into::into).collect() };
                let tool = || Tool::Result { name, tool_call_id: call_id, is_error: *is_error, result: result() };
                self.tool(&state, event, tool);
            }
            EventKind::Ended { report, session } => {
                state.own_runs.remove(&report.run);
                state.answers.remove(&report.run);
                if hears_runs {
                    self.ended(event, report);
                }
                if hears_list {
                    let failed = matches!(report.outcome, RunOutcome::Failed { .. } | RunOutcome::Interrupted);
                    self.changed(event, "agent.input.settled", Some(if failed { "error" } else { "end" }), session);
                }
            }
            EventKind::Changed { reason, session } => {
                if hears_list {
                    self.changed(event, reason, None, session);
                }
            }
            EventKind::StartingModel
            | EventKind::Model { .. }
            | EventKind::Text { .. }
            | EventKind::Thinking { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests;
