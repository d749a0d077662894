//! One task per active session. It alone writes the session, runs one turn at a time and publishes what happens.
//!
//! * `actor` (here): the mailbox, acceptance, the queue, retirement.
//! * `active`: the turn under way: the model's stream, tools, coalesced deltas, its end.
//! * `recent`: the newest entries, for prompts.
//! * `live`: what others may see of the session without asking the actor.

mod active;
pub(crate) mod live;
mod recent;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use watertight_core::SessionScope;
use watertight_core::ids::{EntryId, GenerationId, RunId, UnixMillis};
use watertight_core::run::{RunOptions, RunOutcome};
use watertight_core::session::SessionStatus;
use watertight_core::transcript::{Entry, EntryBody, Message, Provenance};
use watertight_provider::{ModelEvent, ProviderError};
use watertight_store::model::{Batch, Committed, NewEntry, OpenSession, RunChange, Switch};
use watertight_store::{Store, StoreError};

use crate::catalog::{Catalog, ModelChoice};
use crate::clock::Clock;
use crate::error::EngineError;
use crate::event::{EventKind, SessionEvent};
use crate::hub::{Bus, Hub};
use crate::prompt;
use crate::registry::Registry;
use crate::request::{Accepted, Disposition, GenerationChoice, TurnRequest};
use crate::runs::{LiveRun, RunSpace, Runs};
use crate::tools::Broker;
use crate::transcript::{self, Extent};
use crate::view::SessionView;
use active::{Active, ToolDone};
use live::Live;
use recent::Recent;

/// Runs that may wait in one session (isolation.md §2.10).
pub(crate) const MAX_QUEUED: usize = 32;
/// Bytes of input that may wait unacknowledged in one session. One input of the largest size always fits.
const MAX_PARKED_BYTES: usize = 64 * 1024 * 1024;
/// What an actor without work may keep of its transcript, in bytes.
const MAX_IDLE_BYTES: usize = 32 * 1024;
/// How long an actor without work stays.
const IDLE: Duration = Duration::from_mins(2);
/// Time limit of a run whose caller named none (sessions.md §2.3).
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(10);

/// What every actor uses.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) runs: Arc<Runs>,
    pub(crate) catalog: Catalog,
    pub(crate) broker: Broker,
    pub(crate) clock: Clock,
    /// Set when no more runs are accepted.
    pub(crate) draining: AtomicBool,
    /// Cancelled when active runs must end now.
    pub(crate) stop: CancellationToken,
}

/// What an actor is asked.
pub(crate) enum Mail {
    /// Accept a turn.
    Submit(Box<Submission>),
    /// End one run, or all; answers with those that were not over yet.
    Abort { run: Option<RunId>, reason: String, reply: oneshot::Sender<Vec<RunId>> },
}

/// A turn on its way to the actor.
pub(crate) struct Submission {
    pub(crate) scope: SessionScope,
    pub(crate) space: RunSpace,
    pub(crate) agent: String,
    pub(crate) is_main: bool,
    pub(crate) model: ModelChoice,
    pub(crate) digest: [u8; 32],
    pub(crate) request: TurnRequest,
    pub(crate) acknowledge: Box<dyn FnOnce(&Accepted) + Send>,
    pub(crate) reply: oneshot::Sender<Result<Accepted, Refused>>,
}

/// Why a submission was not accepted here.
pub(crate) enum Why {
    /// The session is not what the scope says any more, or the actor retired: admit it anew.
    Moved,
    /// The principal used the run id before: compare.
    Known,
    /// No; unless the run id was used before.
    No(EngineError),
}

/// A submission that comes back.
pub(crate) struct Refused {
    pub(crate) why: Why,
    pub(crate) submission: Box<Submission>,
}

/// An accepted turn that has not begun.
struct Queued {
    scope: Arc<SessionScope>,
    run: RunId,
    /// Its input's entry.
    input: EntryId,
    /// Size of its input's content.
    input_bytes: usize,
    model: ModelChoice,
    options: RunOptions,
    live: LiveRun,
}

/// The task's state.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    mailbox: mpsc::Receiver<Mail>,
    live: Arc<Live>,
    /// For reads and housekeeping; every run writes under its own scope.
    scope: Arc<SessionScope>,
    agent: String,
    is_main: bool,
    session: OpenSession,
    /// Opened with the first commit: only then is the session certainly this actor's.
    bus: Option<Bus>,
    event_seq: u64,
    /// Newest entries of the live generation, once a turn needed them.
    recent: Option<Recent>,
    active: Option<Active>,
    queue: VecDeque<Queued>,
    /// Turns that switch the generation, and all behind them, wait unacknowledged until the session is quiet.
    parked: VecDeque<Box<Submission>>,
    /// Set when the store says that this actor must not write any more.
    dying: bool,
}

/// Why the actor woke.
enum Wake {
    Mail(Option<Mail>),
    Model(Option<Result<ModelEvent, ProviderError>>),
    Tool(ToolDone),
    Flush,
    Retry,
    Expired,
    Idle,
    Stop,
}

/// What an actor starts from.
pub(crate) struct Birth {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mailbox: mpsc::Receiver<Mail>,
    pub(crate) live: Arc<Live>,
    pub(crate) first: Box<Submission>,
}

impl Birth {
    /// The actor's life.
    pub(crate) async fn live(self) {
        let Self { shared, registry, mut mailbox, live, first } = self;
        // Also when the actor panics: a session that looks alive but answers nobody would be worse.
        let place = Place { registry: registry.clone(), live: live.clone() };
        let session = match shared.store.open_session(&first.scope).await {
            Ok(session) => session,
            Err(error) => {
                drop(place);
                mailbox.close();
                refuse(first, &error);
                while let Some(mail) = mailbox.recv().await {
                    if let Mail::Submit(submission) = mail {
                        refuse(submission, &error);
                    }
                }
                return;
            }
        };
        let Ok(scope) = first.scope.renewed(&session.record) else {
            drop(place);
            first.hand_back(Why::Moved);
            return give_back(mailbox).await;
        };
        let mut actor = Actor {
            shared,
            registry,
            mailbox,
            live,
            scope: Arc::new(scope),
            agent: first.agent.clone(),
            is_main: first.is_main,
            session,
            bus: None,
            event_seq: 0,
            recent: None,
            active: None,
            queue: VecDeque::new(),
            parked: VecDeque::new(),
            dying: false,
        };
        actor.on_submit(first).await;
        // A draft whose first turn was refused has no row: there is nothing to stay for.
        if !(actor.bus.is_none() && actor.session.record.is_draft()) {
            actor.work().await;
        }
        let Actor { mailbox, .. } = actor;
        drop(place);
        give_back(mailbox).await;
    }
}

/// The actor's place in the registry.
struct Place {
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.remove(&self.live);
    }
}

impl Actor {
    async fn work(&mut self) {
        while !self.dying {
            if self.active.is_none() {
                self.begin_next().await;
                if self.dying {
                    break;
                }
            }
            match self.wake().await {
                Wake::Mail(Some(Mail::Submit(submission))) => self.on_submit(submission).await,
                Wake::Mail(Some(Mail::Abort { run, reason, reply })) => {
                    let ended = self.abort(run.as_ref(), &reason).await;
                    let _ = reply.send(ended);
                }
                Wake::Mail(None) => break,
                Wake::Model(event) => self.on_model(event).await,
                Wake::Tool(done) => self.on_tool(done).await,
                Wake::Flush => self.flush(),
                Wake::Retry => self.retry_close().await,
                Wake::Expired => self.expire().await,
                Wake::Idle => {
                    if self.registry.retire(&self.live, &mut self.mailbox) {
                        return;
                    }
                }
                Wake::Stop => {
                    self.interrupt_all().await;
                    return;
                }
            }
        }
        // Acknowledged turns are in the journal; whoever waits here learns that this process did not finish them.
        self.abandon_all();
    }

    async fn wake(&mut self) -> Wake {
        let idle = self.active.is_none() && self.queue.is_empty() && self.parked.is_empty();
        let idle_at = Instant::now() + IDLE;
        let mut no_tools = JoinSet::new();
        let (stream, tools, flush_at, retry_at, deadline) = match &mut self.active {
            Some(active) => {
                (active.stream.as_mut(), &mut active.tools, active.flush_at, active.retry_at, active.deadline)
            }
            None => (None, &mut no_tools, None, None, None),
        };
        let due = |at: Option<Instant>| async move {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let model = async {
            match stream {
                Some(stream) => stream.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.stop.cancelled() => Wake::Stop,
            mail = self.mailbox.recv() => Wake::Mail(mail),
            event = model => Wake::Model(event),
            Some(Ok(done)) = tools.join_next() => Wake::Tool(done),
            () = due(flush_at) => Wake::Flush,
            () = due(retry_at) => Wake::Retry,
            () = due(deadline) => Wake::Expired,
            () = sleep_until(idle_at), if idle => Wake::Idle,
        }
    }

    async fn on_submit(&mut self, submission: Box<Submission>) {
        let request = &submission.request;
        let waiting = self.queue.len() + self.parked.len();
        let parked_bytes: usize = self.parked.iter().map(|parked| parked.request.bytes()).sum();
        if waiting >= MAX_QUEUED || parked_bytes + request.bytes() > MAX_PARKED_BYTES {
            return submission.refuse(EngineError::QueueFull(waiting));
        }
        let busy = self.active.is_some() || !self.queue.is_empty();
        if !self.parked.is_empty() || (busy && self.switch_of(request).is_some()) {
            self.parked.push_back(submission);
            return self.show_queue();
        }
        self.accept(submission).await;
    }

    /// The generation the request makes live, where that is another than the live one.
    fn switch_of(&self, request: &TurnRequest) -> Option<GenerationId> {
        match &request.target.generation {
            GenerationChoice::MakeLive(wanted) if wanted != self.session.record.generation() => Some(wanted.clone()),
            _ => None,
        }
    }

    /// Makes the input durable, acknowledges it, and queues the run.
    async fn accept(&mut self, submission: Box<Submission>) {
        let Ok(scope) = submission.scope.renewed(&self.session.record) else {
            return submission.refuse(EngineError::NoSession(self.session.record.key().to_string()));
        };
        if self.shared.draining.load(Ordering::Acquire) {
            return submission.refuse(EngineError::Draining);
        }
        let request = &submission.request;
        if let Some(expected) = &request.expect_generation
            && expected != self.session.record.generation()
        {
            return submission.refuse(EngineError::Changed(self.session.record.key().to_string()));
        }
        let input = random_entry_id();
        let entry = NewEntry {
            id: input,
            body: EntryBody {
                message: Message::User { content: request.input.clone() },
                provenance: Provenance::Caller { principal: scope.principal(), surface: request.surface.to_owned() },
                parent: None,
                run: Some(request.run.clone()),
                turn: Some(input),
            },
        };
        let switch = self.switch_of(request).map(|to| Switch { to });
        let now = self.shared.clock.now();
        let mut meta = self.session.meta.clone();
        if switch.is_some() {
            meta.previous_generation = Some(self.session.record.generation().clone());
            (meta.input_tokens, meta.output_tokens, meta.total_tokens) = (0, 0, 0);
        }
        meta.last_interaction_at = Some(now);
        live::describe_message(&mut meta, &entry.body.message);
        if self.active.is_none() && self.queue.is_empty() {
            meta.status = SessionStatus::Queued;
        }
        let batch = Batch {
            at: now,
            switch,
            entries: vec![entry],
            runs: vec![RunChange::Accept {
                id: request.run.clone(),
                digest: submission.digest,
                input,
                options: request.options.clone(),
            }],
            meta: Some(meta),
        };
        let switched = batch.switch.is_some();
        let committed = match self.commit(&scope, batch).await {
            Ok(committed) => committed,
            Err(StoreError::RunExists) => {
                return submission.hand_back(Why::Known);
            }
            Err(StoreError::KeyTaken | StoreError::StaleLease | StoreError::SessionChanged) => {
                self.dying = true;
                return submission.hand_back(Why::Moved);
            }
            Err(error) => return submission.refuse(error.into()),
        };
        let Ok(scope) = scope.renewed(&committed.record) else {
            self.dying = true;
            return submission.hand_back(Why::Moved);
        };
        if switched {
            self.recent = None;
        }
        if (self.scope.is_draft() || switched)
            && let Ok(renewed) = self.scope.renewed(&committed.record)
        {
            self.scope = Arc::new(renewed);
        }
        let Submission { space, request, model, acknowledge, reply, .. } = *submission;
        let accepted = Accepted {
            run: request.run.clone(),
            key: committed.record.key().clone(),
            agent: self.agent.clone(),
            generation: committed.record.generation().clone(),
            input,
            message_seq: committed.entries.first().map(|entry| entry.message_seq),
            at: now,
            disposition: Disposition::Started,
        };
        let live = self.shared.runs.begin(space, &request.run);
        self.queue.push_back(Queued {
            scope: Arc::new(scope),
            run: request.run.clone(),
            input,
            input_bytes: request.bytes(),
            model,
            options: request.options,
            live,
        });
        self.show_queue();
        acknowledge(&accepted);
        self.publish_entries(&committed.entries, Some((&request.run, 0)));
        let _ = reply.send(Ok(accepted));
    }

    /// Starts the next queued turn. A quiet session lets in the first parked turn and all behind it up to the next
    /// one that switches.
    async fn begin_next(&mut self) {
        while let Some(first) = self.parked.front()
            && !self.dying
            && (self.queue.is_empty() || self.switch_of(&first.request).is_none())
        {
            if let Some(submission) = self.parked.pop_front() {
                self.accept(submission).await;
                self.show_queue();
            }
        }
        match self.queue.pop_front() {
            Some(next) if !self.dying => self.begin(next).await,
            Some(next) => self.queue.push_front(next),
            None => self.settle_down(),
        }
    }

    /// Nothing is left to do: keeps little while it waits for more.
    fn settle_down(&mut self) {
        if self.recent.as_ref().is_some_and(|recent| recent.bytes() > MAX_IDLE_BYTES) {
            self.recent = None;
        }
    }

    /// Commits under `scope`, and keeps head, row and the cached tail in step.
    async fn commit(&mut self, scope: &SessionScope, mut batch: Batch) -> Result<Committed, StoreError> {
        if let (Some(meta), None) = (&mut batch.meta, &batch.switch) {
            meta.message_count = self.session.head.message_seq + u32::try_from(batch.entries.len()).unwrap_or(u32::MAX);
        }
        let meta = batch.meta.clone();
        let committed = self.shared.store.commit(scope, self.session.lease, &self.session.head, batch).await?;
        self.session.head = committed.head.clone();
        self.session.record = committed.record.clone();
        if let Some(mut meta) = meta {
            meta.message_count = committed.head.message_seq;
            self.session.meta = meta;
        }
        if let Some(recent) = &mut self.recent {
            let active = self.active.as_ref().map(|active| active.input);
            let open = |turn| active == Some(turn) || self.queue.iter().any(|queued| queued.input == turn);
            recent.extend(committed.entries.iter().cloned(), open);
        }
        if self.bus.is_none() {
            let scope = scope.renewed(&committed.record).map_err(|_| StoreError::NotPermitted)?;
            self.bus = Some(self.shared.hub.open_bus(&scope));
        }
        Ok(committed)
    }

    /// Reads the newest entries of the live generation once; from then on commits keep them in step.
    async fn load_recent(&mut self) -> Result<(), StoreError> {
        if self.recent.is_none() {
            // Turns behind the active one may have brought more than a prompt holds: read far enough to find its input.
            let open = self.open_bytes();
            let extent =
                Extent { limit: prompt::MAX_ENTRIES, skip: 0, max_bytes: prompt::MAX_BYTES.saturating_add(open) };
            let generation = self.session.record.generation_no();
            let mut recent = Recent::default();
            let read = transcript::tail(&*self.shared.store, &self.scope, generation, extent).await?;
            recent.extend(read, |_| true);
            self.recent = Some(recent);
        }
        Ok(())
    }

    /// Bytes of the inputs that are acknowledged and not answered.
    fn open_bytes(&self) -> usize {
        let active = self.active.as_ref().map_or(0, |active| active.input_bytes);
        active + self.queue.iter().map(|queued| queued.input_bytes).sum::<usize>()
    }

    /// Ends the run, or every run, and answers with those that were not over yet.
    async fn abort(&mut self, run: Option<&RunId>, reason: &str) -> Vec<RunId> {
        let wanted = |id: &RunId| run.is_none_or(|run| run == id);
        let mut ended = Vec::new();
        if self.active.as_ref().is_some_and(|active| wanted(&active.run)) {
            ended.extend(self.abort_active(reason).await);
        }
        let (hit, kept): (VecDeque<_>, VecDeque<_>) = self.queue.drain(..).partition(|queued| wanted(&queued.run));
        self.queue = kept;
        for queued in hit {
            let run = queued.run.clone();
            if self.end_queued(queued, RunOutcome::Aborted { reason: reason.to_owned() }).await {
                ended.push(run);
            }
        }
        let (hit, kept): (VecDeque<_>, VecDeque<_>) =
            self.parked.drain(..).partition(|parked| wanted(&parked.request.run));
        self.parked = kept;
        for parked in hit {
            parked.refuse(EngineError::Invalid("The run was aborted before it was accepted.".into()));
        }
        self.show_queue();
        ended
    }

    fn view(&self) -> Arc<SessionView> {
        let model = &self.shared.catalog.agent(&self.agent).model;
        Arc::new(SessionView {
            key: self.session.record.key().clone(),
            agent: self.agent.clone(),
            is_main: self.is_main,
            generation: Some(self.session.record.generation().clone()),
            meta: self.session.meta.clone(),
            created_at: Some(self.session.record.created_at()),
            updated_at: Some(self.shared.clock.now()),
            active_runs: self.live.runs(),
            model: model.names(),
            context_tokens: model.context_tokens(),
        })
    }

    fn publish_entries(&mut self, entries: &[Entry], run: Option<(&RunId, u64)>) {
        let session = self.view();
        for entry in entries {
            let run = run.map(|(id, seq)| (id.clone(), seq));
            self.publish(run, EventKind::Entry { entry: Arc::new(entry.clone()), session: session.clone() });
        }
    }

    fn publish(&mut self, run: Option<(RunId, u64)>, kind: EventKind) {
        let Some(bus) = &self.bus else { return };
        self.event_seq += 1;
        bus.publish(&Arc::new(SessionEvent {
            seq: self.event_seq,
            key: self.session.record.key().clone(),
            agent: self.agent.clone(),
            generation: self.session.record.generation().clone(),
            run,
            at: self.shared.clock.now(),
            kind,
        }));
    }

    fn show_queue(&self) {
        let queued = self.queue.iter().map(|queued| &queued.run);
        let parked = self.parked.iter().map(|parked| &parked.request.run);
        self.live.set_queue(queued.chain(parked).cloned().collect());
    }

    fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }
}

impl Submission {
    pub(crate) fn refuse(self: Box<Self>, error: EngineError) {
        self.hand_back(Why::No(error));
    }

    pub(crate) fn hand_back(mut self: Box<Self>, why: Why) {
        // The submission travels through its own reply channel; whoever takes it makes a new one.
        let reply = std::mem::replace(&mut self.reply, oneshot::channel().0);
        let _ = reply.send(Err(Refused { why, submission: self }));
    }
}

fn refuse(submission: Box<Submission>, error: &StoreError) {
    match error {
        StoreError::KeyTaken | StoreError::StaleLease | StoreError::SessionChanged => submission.hand_back(Why::Moved),
        error => submission.refuse(error.clone().into()),
    }
}

/// Empties the mailbox of an actor that takes no more.
async fn give_back(mut mailbox: mpsc::Receiver<Mail>) {
    mailbox.close();
    while let Some(mail) = mailbox.recv().await {
        match mail {
            Mail::Submit(submission) => submission.hand_back(Why::Moved),
            Mail::Abort { reply, .. } => {
                let _ = reply.send(Vec::new());
            }
        }
    }
}

fn random_entry_id() -> EntryId {
    EntryId::from_bytes(*uuid::Uuid::new_v4().as_bytes())
}
