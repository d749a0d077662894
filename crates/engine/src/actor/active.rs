//! The turn under way.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use watertight_core::SessionScope;
use watertight_core::ids::{EntryId, RunId, UnixMillis};
use watertight_core::run::{FailureKind, QueuePolicy, RunOptions, RunOutcome, RunState};
use watertight_core::session::SessionStatus;
use watertight_core::transcript::{Block, EntryBody, Message, ModelRef, Provenance, StopReason, ToolCall, Usage};
use watertight_core::turn::{Command, Effect, Turn, TurnLimits};
use watertight_provider::{Answer, ModelEvent, ModelRequest, ModelStream, ProviderError};
use watertight_store::StoreError;
use watertight_store::model::{Batch, NewEntry, RunChange};

use super::ending::RETRY;
use super::{Actor, DEFAULT_TIMEOUT, Queued, live, random_entry_id};
use crate::catalog::ModelChoice;
use crate::event::EventKind;
use crate::prompt;
use crate::runs::LiveRun;
use crate::tools::{ToolContext, ToolOutput};

/// Shortest time between two text events of one run (gateway-ws.md §3.1).
const PACE: Duration = Duration::from_millis(75);

/// A begun turn.
pub(super) struct Active {
    pub(super) run: RunId,
    /// Its input's entry.
    pub(super) input: EntryId,
    /// Size of its input's content.
    input_bytes: usize,
    /// The input it answers now: its own, or the latest one it took up.
    asking: EntryId,
    /// Runs whose inputs it took up on its way (`steer`); they end with it.
    pub(super) taken_up: Vec<Queued>,
    pub(super) stream: Option<ModelStream>,
    pub(super) tools: JoinSet<ToolDone>,
    pub(super) flush_at: Option<Instant>,
    pub(super) deadline: Option<Instant>,
    /// When to try again to store the end, where the disk was full.
    pub(super) retry_at: Option<Instant>,
    /// The end that is still to be stored.
    pub(super) closing: Option<(RunOutcome, Option<NewEntry>)>,
    pub(super) scope: Arc<SessionScope>,
    pub(super) turn: Turn,
    pub(super) model: ModelChoice,
    options: RunOptions,
    pub(super) live: LiveRun,
    pub(super) started_at: UnixMillis,
    /// Events of this run so far.
    events: u64,
    /// Text since the run's last durable entry.
    pub(super) text: String,
    /// How much of `text` has been published.
    shown: usize,
    thinking: String,
    /// No text event before this.
    next_flush: Option<Instant>,
    /// The HTTP status of the failed call.
    pub(super) provider_status: Option<u16>,
    pub(super) usage: Usage,
    pub(super) last_usage: Usage,
}

/// A tool call that has come back.
pub(super) struct ToolDone {
    call: ToolCall,
    output: ToolOutput,
}

impl Active {
    fn new(queued: Queued, now: UnixMillis) -> Self {
        let Queued { scope, run, input, input_bytes, model, options, live, left: _ } = queued;
        let timeout = match options.timeout_ms {
            None => Some(DEFAULT_TIMEOUT),
            Some(0) => None,
            Some(millis) => Some(Duration::from_millis(millis)),
        };
        Self {
            run,
            input,
            input_bytes,
            asking: input,
            taken_up: Vec::new(),
            stream: None,
            tools: JoinSet::new(),
            flush_at: None,
            // An absurdly long limit is no limit.
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            retry_at: None,
            closing: None,
            scope,
            turn: Turn::Queued,
            model,
            options,
            live,
            started_at: now,
            events: 0,
            text: String::new(),
            shown: 0,
            thinking: String::new(),
            next_flush: None,
            provider_status: None,
            usage: Usage::default(),
            last_usage: Usage::default(),
        }
    }

    /// Whether this input is its own or one it took up.
    pub(super) fn holds(&self, turn: EntryId) -> bool {
        self.input == turn || self.taken_up.iter().any(|taken| taken.input == turn)
    }

    /// Size of all its inputs' content.
    pub(super) fn input_bytes(&self) -> usize {
        self.input_bytes + self.taken_up.iter().map(|taken| taken.input_bytes).sum::<usize>()
    }

    pub(super) fn model_ref(&self) -> ModelRef {
        let (provider, model) = self.model.names();
        ModelRef { provider, model }
    }

    fn entry(&self, message: Message, provenance: Provenance) -> NewEntry {
        let run = Some(self.run.clone());
        let body = EntryBody { message, provenance, parent: None, run, turn: Some(self.asking) };
        NewEntry { id: random_entry_id(), body }
    }

    /// What has been said so far, as an entry that says it broke off.
    pub(super) fn broken_off(&self, stop: StopReason, error: Option<String>) -> Option<NewEntry> {
        if self.text.is_empty() {
            return None;
        }
        let message = Message::Assistant {
            content: vec![Block::from_text(self.text.clone())],
            model: self.model_ref(),
            usage: None,
            stop,
            error,
        };
        Some(self.entry(message, Provenance::Model))
    }

    /// When it began and how it ended.
    pub(super) fn end_changes(&self, outcome: &RunOutcome) -> Vec<RunChange> {
        let end = |id: &RunId| RunChange::End { id: id.clone(), outcome: outcome.clone() };
        let taken_up = self.taken_up.iter().map(|taken| end(&taken.run));
        [self.begun(), end(&self.run)].into_iter().chain(taken_up).collect()
    }

    fn begun(&self) -> RunChange {
        RunChange::Begun { id: self.run.clone(), at: self.started_at }
    }
}

impl Actor {
    /// Claims the run. The journal's `claimed` and `calling` cost no write: until a tool's intent is recorded, a run
    /// may be started anew whatever else it did, so they would tell a recovery nothing that `queued` does not.
    pub(super) async fn begin(&mut self, mut queued: Queued) {
        let left = queued.left.take();
        if let Some(left) = &left {
            if !self.may_start_anew(&queued, left).await {
                if !self.end_queued(queued, RunOutcome::Interrupted).await && !self.dying {
                    // The disk is full: nothing in this session could go on.
                    tokio::time::sleep(RETRY).await;
                }
                return;
            }
            if self.dying {
                return self.queue.push_front(queued);
            }
        }
        let now = self.now();
        let active = Active::new(queued, now);
        let run = active.run.clone();
        let meta = &mut self.session.meta;
        meta.status = SessionStatus::Running;
        meta.last_run = Some(run.clone());
        meta.started_at = Some(now);
        meta.ended_at = None;
        meta.last_run_error = None;
        meta.aborted_last_run = false;
        self.live.set_active(Some((run, now)));
        self.active = Some(active);
        self.show_queue();
        let session = self.view();
        self.tell(EventKind::Started { started_at: now, session });
        self.tell(EventKind::StartingModel);
        let command = match left {
            Some(left) => self.resumption(left.state).await,
            None => Command::Claim,
        };
        let resumed = matches!(command, Command::Resume { .. });
        let Some(active) = &mut self.active else { return };
        match &active.turn.step(command, TurnLimits::default())[..] {
            [Effect::RunTools(calls)] if resumed => self.repeat_tools(calls.clone()).await,
            _ => self.call_model().await,
        }
    }

    /// Runs the calls that were cut short again, where that does no harm; the others end as unknown.
    async fn repeat_tools(&mut self, calls: Vec<ToolCall>) {
        let (repeated, unknown): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| self.shared.broker.may_repeat(call));
        self.run_tools(repeated);
        for call in unknown {
            self.tell(EventKind::ToolStarted {
                call_id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            });
            self.on_tool(ToolDone { call, output: ToolOutput::unknown_outcome() }).await;
        }
    }

    /// Takes up waiting inputs of the same principal that are to steer the active run, up to `last` or all of them.
    pub(super) fn take_up_inputs(&mut self, last: Option<EntryId>) {
        let Some(active) = &mut self.active else { return };
        let principal = active.scope.principal();
        let mut done = false;
        let mut kept = VecDeque::new();
        for queued in self.queue.drain(..) {
            // Another principal's input would act with this one's rights.
            let steers = queued.options.queue == QueuePolicy::Steer && queued.scope.principal() == principal;
            if done || !steers {
                kept.push_back(queued);
                continue;
            }
            done = last == Some(queued.input);
            active.asking = queued.input;
            active.taken_up.push(queued);
        }
        self.queue = kept;
        self.show_queue();
    }

    /// Publishes an event of the active run.
    pub(super) fn tell(&mut self, kind: EventKind) {
        if let Some(active) = &mut self.active {
            active.events += 1;
            let run = (active.run.clone(), active.events);
            self.publish(Some(run), kind);
        }
    }

    /// Advances the turn and carries out what follows.
    async fn step(&mut self, command: Command) {
        let Some(active) = &mut self.active else { return };
        for effect in active.turn.step(command, TurnLimits::default()) {
            match effect {
                Effect::CallModel { .. } => self.call_model().await,
                Effect::RunTools(calls) => self.run_tools(calls),
                Effect::Cancel => self.cancel(),
                Effect::Finish(ending) => self.finish(ending).await,
            }
        }
    }

    async fn call_model(&mut self) {
        if let Err(error) = self.load_recent().await {
            let kind = match error.code() {
                watertight_core::ErrorCode::IntegrityError => FailureKind::Integrity,
                _ => FailureKind::Unknown,
            };
            let message = format!("The transcript cannot be read: {error}.");
            return Box::pin(self.step(Command::CallFailed { kind, message })).await;
        }
        self.take_up_inputs(None);
        let (Some(active), Some(recent)) = (&mut self.active, &self.recent) else { return };
        let waits = |turn| self.queue.iter().any(|queued| queued.input == turn);
        let Some(messages) = prompt::messages(recent.entries(), active.asking, waits) else {
            let message = "The input is too far back in the session to be answered.".to_owned();
            return Box::pin(self.step(Command::CallFailed { kind: FailureKind::Unknown, message })).await;
        };
        let agent = self.shared.catalog.agent(&self.agent);
        let instructions = match (&agent.instructions, &active.options.extra_instructions) {
            (Some(agent), Some(extra)) => Some(format!("{agent}\n\n{extra}")),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        let request = ModelRequest {
            model: active.model.model.clone(),
            instructions,
            messages,
            tools: self.shared.broker.specs(),
            thinking: active.options.thinking.clone(),
            run: active.run.clone(),
        };
        active.stream = Some(active.model.provider.call(&active.scope, request));
    }

    pub(super) async fn on_model(&mut self, event: Option<Result<ModelEvent, ProviderError>>) {
        let Some(active) = &mut self.active else { return };
        match event {
            Some(Ok(ModelEvent::Started { .. })) => {
                let (provider, model) = active.model.names();
                self.tell(EventKind::Model { provider, model });
            }
            Some(Ok(ModelEvent::Text(text))) => {
                active.text.push_str(&text);
                self.pace();
            }
            Some(Ok(ModelEvent::Thinking(text))) => {
                active.thinking.push_str(&text);
                self.pace();
            }
            Some(Ok(ModelEvent::Done(answer))) => {
                active.stream = None;
                self.on_answer(answer).await;
            }
            Some(Err(error)) => {
                active.stream = None;
                // A good status says nothing about what went wrong after it.
                active.provider_status = error.status.filter(|status| *status >= 300);
                let command = Command::CallFailed { kind: error.fault.kind(), message: error.to_string() };
                self.step(command).await;
            }
            None => {
                active.stream = None;
                let message = "The provider's answer ended without an end.".to_owned();
                self.step(Command::CallFailed { kind: FailureKind::ProviderUnavailable, message }).await;
            }
        }
    }

    /// First piece at once, then at most one event each [`PACE`].
    fn pace(&mut self) {
        let Some(active) = &mut self.active else { return };
        if active.flush_at.is_some() {
            return;
        }
        match active.next_flush {
            Some(due) if due > Instant::now() => active.flush_at = Some(due),
            _ => self.flush(),
        }
    }

    /// Publishes what has not been shown yet.
    pub(super) fn flush(&mut self) {
        let Some(active) = &mut self.active else { return };
        active.flush_at = None;
        let began = Instant::now();
        let thinking = std::mem::take(&mut active.thinking);
        let delta = active.text[active.shown..].to_owned();
        active.shown = active.text.len();
        let text: Arc<str> = active.text.as_str().into();
        if !thinking.is_empty() {
            self.tell(EventKind::Thinking { delta: thinking });
        }
        if !delta.is_empty() {
            self.live.set_text(text.clone());
            self.tell(EventKind::Text { delta, text });
        }
        if let Some(active) = &mut self.active {
            // Telling a long answer to many takes time: at most a fifth of the run's is spent on it.
            let now = Instant::now();
            active.next_flush = Some(now + PACE.max((now - began) * 4));
        }
    }

    /// Stores a complete answer together with what it leads to: the end of the run, or the intent to run tools.
    async fn on_answer(&mut self, answer: Answer) {
        self.flush();
        let Some(active) = &mut self.active else { return };
        if let Some(usage) = answer.usage {
            active.usage = active.usage.plus(usage);
            active.last_usage = usage;
        }
        let message = Message::Assistant {
            content: answer.content,
            model: active.model_ref(),
            usage: answer.usage,
            stop: answer.stop,
            error: None,
        };
        let calls: Vec<ToolCall> = message.tool_calls().cloned().collect();
        let text = message.text();
        let entry = active.entry(message, Provenance::Model);
        let effects = active.turn.step(Command::Answered { stop: answer.stop, calls }, TurnLimits::default());
        if let [Effect::Finish(ending)] = &effects[..] {
            active.text = text;
            return self.close(ending.clone(), Some(entry)).await;
        }
        let progress =
            vec![active.begun(), RunChange::Progress { id: active.run.clone(), state: RunState::ToolIntent }];
        let scope = active.scope.clone();
        if !self.record(&scope, entry, progress).await {
            return;
        }
        if let Some(active) = &mut self.active {
            active.text.clear();
            active.shown = 0;
            self.live.set_text("".into());
        }
        for effect in effects {
            if let Effect::RunTools(calls) = effect {
                self.run_tools(calls);
            }
        }
    }

    fn run_tools(&mut self, calls: Vec<ToolCall>) {
        for call in calls {
            self.tell(EventKind::ToolStarted {
                call_id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            });
            let Some(active) = &mut self.active else { return };
            let context = ToolContext {
                scope: active.scope.clone(),
                agent: self.agent.clone(),
                messages: self.session.head.message_seq,
                now: self.shared.clock.now(),
            };
            let running = self.shared.broker.run(context, &call);
            // A panic is the tool's failure, not the session's.
            let guarded = AssertUnwindSafe(running).catch_unwind();
            active.tools.spawn(async move {
                let failed = |_| ToolOutput { text: "The tool failed.".into(), is_error: true };
                ToolDone { call, output: guarded.await.unwrap_or_else(failed) }
            });
        }
    }

    pub(super) async fn on_tool(&mut self, done: ToolDone) {
        let Some(active) = &mut self.active else { return };
        let call = done.call;
        let content = done.output.content();
        let is_error = done.output.is_error;
        let entry = active.entry(
            Message::ToolResult {
                call_id: call.id.clone(),
                tool: call.name.clone(),
                content: content.clone(),
                is_error,
            },
            Provenance::Tool,
        );
        let last = matches!(&active.turn, Turn::Tools { waiting, .. } if waiting.len() == 1);
        let progress = last.then(|| RunChange::Progress { id: active.run.clone(), state: RunState::ToolResult });
        let progress = progress.into_iter().collect();
        let scope = active.scope.clone();
        if !self.record(&scope, entry, progress).await {
            return;
        }
        self.tell(EventKind::ToolEnded { call_id: call.id.clone(), name: call.name, is_error, content });
        self.step(Command::ToolRecorded { call_id: call.id }).await;
    }

    /// Stores and announces one entry of the active run. False when the store refused: the run is over then.
    async fn record(&mut self, scope: &SessionScope, entry: NewEntry, progress: Vec<RunChange>) -> bool {
        let mut meta = self.session.meta.clone();
        live::describe_message(&mut meta, &entry.body.message);
        let batch =
            Batch { at: self.now(), entries: vec![entry], runs: progress, meta: Some(meta), ..Batch::default() };
        match self.commit(scope, batch).await {
            Ok(committed) => {
                self.announce(&committed.entries);
                true
            }
            Err(error) => {
                self.cancel();
                let message = format!("The gateway could not store the run's progress: {error}.");
                if error == StoreError::Full {
                    if let Some(active) = &mut self.active {
                        active.turn = Turn::Ended;
                    }
                    let outcome = RunOutcome::Failed { kind: FailureKind::Unknown, message };
                    self.settle(outcome, None).await;
                } else {
                    self.lose(&message);
                }
                false
            }
        }
    }

    pub(super) fn announce(&mut self, entries: &[watertight_core::transcript::Entry]) {
        let session = self.view();
        for entry in entries {
            self.tell(EventKind::Entry { entry: Arc::new(entry.clone()), session: session.clone() });
        }
    }

    pub(super) fn cancel(&mut self) {
        if let Some(active) = &mut self.active {
            active.stream = None;
            active.tools.abort_all();
            active.tools = JoinSet::new();
        }
    }

    pub(super) async fn expire(&mut self) {
        if let Some(active) = &mut self.active {
            active.deadline = None;
        }
        self.step(Command::Expire).await;
    }

    pub(super) async fn abort_active(&mut self, reason: &str) -> Option<RunId> {
        let run = self.active.as_ref()?.run.clone();
        self.step(Command::Abort { reason: reason.to_owned() }).await;
        Some(run)
    }
}
