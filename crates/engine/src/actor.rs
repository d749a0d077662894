//! One task per active session. It alone writes the session, runs one turn at a time and publishes what happens.
//!
//! * `actor` (here): its state, the loop, the queue, commits, what it publishes.
//! * `mail`: what it is asked.
//! * `birth`: its start and end.
//! * `acceptance`: letting turns in.
//! * `resume`: taking up runs that were left open.
//! * `active`: the turn under way: the model's stream, tools, coalesced deltas.
//! * `ending`: how turns end.
//! * `recent`: the newest entries, for prompts.
//! * `live`: what others may see of the session without asking the actor.

mod acceptance;
mod active;
pub(crate) mod birth;
mod ending;
pub(crate) mod live;
pub(crate) mod mail;
mod recent;
mod resume;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use watertight_core::ids::{EntryId, RunId, UnixMillis};
use watertight_core::run::{RunOptions, RunOutcome, RunState};
use watertight_core::transcript::Entry;
use watertight_core::{Receipt, SessionScope};
use watertight_provider::{ModelEvent, ProviderError};
use watertight_store::model::{Batch, Committed, OpenSession};
use watertight_store::{Store, StoreError};

use crate::admission::Admission;
use crate::catalog::{Catalog, ModelChoice};
use crate::clock::Clock;
use crate::error::EngineError;
use crate::event::{EventKind, Rendered, SessionEvent};
use crate::hub::{Bus, Hub};
use crate::prompt;
use crate::recovery::{Awake, Recovery};
use crate::registry::Registry;
use crate::runs::{LiveRun, Runs};
use crate::tools::Broker;
use crate::transcript::{self, Extent};
use crate::view::SessionView;
use active::{Active, ToolDone};
use live::Live;
use mail::{Mail, Submission};
use recent::Recent;

/// Runs that may wait in one session (isolation.md §2.10).
pub(crate) const MAX_QUEUED: usize = 32;
/// Bytes of input that may wait unacknowledged in one session. One input of the largest size always fits.
const MAX_PARKED_BYTES: usize = 64 * 1024 * 1024;
/// What an actor without work may keep of its transcript, in bytes.
const MAX_IDLE_BYTES: usize = 32 * 1024;
/// How long an actor without work stays: long enough for a program that answers, not for a person who reads. Beginning
/// anew costs one read of the transcript's end; staying costs memory for every session that was touched.
const IDLE: Duration = Duration::from_secs(20);
/// Time limit of a run whose caller named none (sessions.md §2.3).
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(10);

/// What every actor uses.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) runs: Arc<Runs>,
    pub(crate) catalog: Catalog,
    pub(crate) admission: Admission,
    pub(crate) devices: crate::devices::InUse,
    pub(crate) broker: Broker,
    pub(crate) clock: Clock,
    pub(crate) recovery: Recovery,
    /// Set when no more runs are accepted.
    pub(crate) draining: AtomicBool,
    /// Cancelled when active runs must end now.
    pub(crate) stop: CancellationToken,
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
    /// Set where a former process, or an actor that died, left the run open.
    left: Option<Left>,
}

/// What the journal says of a run that was left open.
struct Left {
    restarts: u32,
    state: RunState,
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
    /// Held until the runs that were found have ended.
    awake: Option<Awake>,
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
                Wake::Mail(Some(Mail::TakeUp { awake })) => self.on_take_up(awake).await,
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
        while self.active.is_none()
            && !self.dying
            && let Some(next) = self.queue.pop_front()
        {
            self.begin(next).await;
        }
        if self.active.is_none() && self.queue.is_empty() && self.parked.is_empty() {
            self.settle_down();
        }
    }

    /// Nothing is left to do: keeps little while it waits for more.
    fn settle_down(&mut self) {
        self.awake = None;
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
            let active = &self.active;
            let open = |turn| {
                active.as_ref().is_some_and(|active| active.holds(turn))
                    || self.queue.iter().any(|queued| queued.input == turn)
            };
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
        let active = self.active.as_ref().map_or(0, Active::input_bytes);
        active + self.queue.iter().map(|queued| queued.input_bytes).sum::<usize>()
    }

    /// Looks for runs that were left open, once more.
    async fn on_take_up(&mut self, awake: Option<Awake>) {
        self.awake = awake.or(self.awake.take());
        let session = (self.session.record.tenant(), self.session.record.id());
        match self.shared.recovery.take_up(session, self.now()).await {
            Ok(left) => self.take_up(left).await,
            Err(error) => tracing::error!(session = %session.1, "runs that were left open cannot be read: {error}"),
        }
    }

    /// Ends the run, or every run, and answers with those that were not over yet.
    async fn abort(&mut self, run: Option<&RunId>, reason: &str) -> Vec<RunId> {
        let wanted = |id: &RunId| run.is_none_or(|run| run == id);
        let mut ended = Vec::new();
        // A run that the active one took up has become part of it.
        let hit = |active: &Active| wanted(&active.run) || active.taken_up.iter().any(|taken| wanted(&taken.run));
        if self.active.as_ref().is_some_and(hit) {
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
            ended.push(parked.request.run.clone());
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
            context_tokens: model.context_tokens,
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
            rendered: Rendered::default(),
        }));
    }

    fn show_queue(&self) {
        let taken_up = self.active.iter().flat_map(|active| &active.taken_up);
        let queued = taken_up.chain(&self.queue).map(|queued| &queued.run);
        let parked = self.parked.iter().map(|parked| &parked.request.run);
        self.live.set_queue(queued.chain(parked).cloned().collect());
    }

    /// Where the session ends now.
    fn receipt(&self) -> Receipt {
        let head = &self.session.head;
        Receipt { session: self.session.record.id(), seq: head.seq, chain: head.chain }
    }

    fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }
}

fn random_entry_id() -> EntryId {
    EntryId::from_bytes(*uuid::Uuid::new_v4().as_bytes())
}
