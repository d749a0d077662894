//! The one door of every surface.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use watertight_config::{Auth, Config};
use watertight_core::SessionScope;
use watertight_core::grant::{Verb, VerbSet};
use watertight_core::ids::{EntryId, GenerationId, RunId, UnixMillis};
use watertight_core::key::{CanonicalKey, KeyError};
use watertight_core::run::{RunOutcome, RunRecord};
use watertight_core::session::SessionStatus;
use watertight_core::transcript::{Message, Usage};
use watertight_provider::{HashedNames, HeaderMode, SessionNames};
use watertight_store::model::{Archived, ListQuery, SessionRow};
use watertight_store::sqlite::SqliteStore;
use watertight_store::{Store, StoreError};

use crate::actor::live::Live;
use crate::actor::{Mail, Refused, Shared, Submission, Why};
use crate::admission::{Access, Admission, AuthFailure, Presented};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::error::EngineError;
use crate::hub::{EventSink, Hub, Interest, Listener};
use crate::registry::Registry;
use crate::report::RunReport;
use crate::request::{Accepted, Disposition, GenerationChoice, HistoryQuery, Selector, Target, TurnRequest};
use crate::runs::Runs;
use crate::state_dir::{OpenError, StateDir};
use crate::steward;
use crate::tools::Broker;
use crate::transcript::{self, Extent};
use crate::view::{AgentView, History, ModelView, SessionList, SessionView};

/// Rows of a list whose caller named no number.
const DEFAULT_LIST_LIMIT: u32 = 100;
/// How often a turn is admitted anew when its session moved under it. Each round means somebody else made progress.
const MAX_ROUNDS: u32 = 8;
/// How long a run that the store knows as open, but nobody runs, is given to begin before it counts as lost.
const BEGIN_GRACE: Duration = Duration::from_secs(1);

/// Watertight without a surface: sessions, runs, events. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    admission: Admission,
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    interrupted: u64,
    opened_at: UnixMillis,
    /// Last, so that the directory is freed after everything in it is closed.
    dir: StateDir,
}

/// What was aborted.
#[derive(Clone, Debug)]
pub struct Aborted {
    /// The session.
    pub key: CanonicalKey,
    /// The runs that were active or waiting and are ended now.
    pub runs: Vec<RunId>,
}

/// What to list. The caller's grants narrow it further.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Only this agent's sessions.
    pub agent: Option<String>,
    /// Only sessions written in this time.
    pub active_within: Option<Duration>,
    /// Only sessions whose key, label, display name or title contains this, ignoring case.
    pub search: Option<String>,
    /// Only the session with this label.
    pub label: Option<String>,
    /// Archived sessions.
    pub archived: Archived,
    /// Whether the sentinels are listed.
    pub sentinels: bool,
    /// Rows at the most; 0 means 100.
    pub limit: u32,
    /// Rows to leave out first.
    pub offset: u32,
}

/// The keyed hashes of decision 9, from the store's keys.
struct Names(Arc<SqliteStore>);

impl SessionNames for Names {
    fn hashed(&self, scope: &SessionScope) -> Option<HashedNames> {
        match self.0.hashed_names(scope) {
            Ok(names) => Some(HashedNames { key: names.session_key, generation: names.session_id }),
            Err(error) => {
                tracing::error!("a session's names cannot be hashed: {error}");
                None
            }
        }
    }
}

impl Engine {
    /// Opens the state directory, the keys and the store, and makes what a first start needs.
    pub async fn open(config: Arc<Config>, dir: StateDir) -> Result<Self, OpenError> {
        Self::open_with_clock(config, dir, Clock::system()).await
    }

    /// [`Self::open`] under another clock.
    pub async fn open_with_clock(config: Arc<Config>, dir: StateDir, clock: Clock) -> Result<Self, OpenError> {
        let opened_at = clock.now();
        let opened = steward::open(&config, dir.path(), opened_at).await?;
        let sqlite = Arc::new(opened.store);
        let store: Arc<dyn Store> = sqlite.clone();
        let names: Arc<dyn SessionNames> = Arc::new(Names(sqlite.clone()));
        let catalog = Catalog::build(&config, &opened.tenants, &names)?;
        let admission = Admission::new(&config, &opened.tenants, store.clone(), sqlite.token_hasher(), clock.clone());
        let shared = Arc::new(Shared {
            store,
            hub: Hub::new(clock.clone()),
            runs: Arc::new(Runs::default()),
            catalog,
            broker: Broker::built_in(),
            clock,
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        let registry = Registry::new();
        let interrupted = opened.interrupted;
        Ok(Self { inner: Arc::new(Inner { config, admission, shared, registry, interrupted, opened_at, dir }) })
    }

    /// The configuration it runs under.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The state directory it holds.
    pub fn state_dir(&self) -> &StateDir {
        &self.inner.dir
    }

    /// Runs a former process left open and this start ended as interrupted.
    pub fn interrupted_at_start(&self) -> u64 {
        self.inner.interrupted
    }

    /// Where the operator's generated token lies; none where the configuration names another credential.
    pub fn operator_token_file(&self) -> Option<PathBuf> {
        let generated = matches!(self.inner.config.gateway.auth, Auth::GeneratedToken);
        generated.then(|| steward::operator_token_file(self.inner.dir.path()))
    }

    /// Verifies what a client presented. `requested` narrows what it may do; none keeps all that the credential allows.
    pub async fn authenticate(
        &self,
        presented: Presented<'_>,
        requested: Option<VerbSet>,
    ) -> Result<Access, AuthFailure> {
        self.inner.admission.caller(presented, requested).await
    }

    /// The key a text names for this caller.
    pub fn resolve_key(&self, access: &Access, key: &str, agent: Option<&str>) -> Result<CanonicalKey, EngineError> {
        Ok(access.rules().resolve(access.home(), key, agent)?)
    }

    /// The main session's key of an agent (none: the default agent) for this caller.
    pub fn main_key(&self, access: &Access, agent: Option<&str>) -> Result<CanonicalKey, EngineError> {
        Ok(access.rules().main_key(access.home(), agent)?)
    }

    /// The key of a session that is known by nothing but the id of its transcript (sessions.md §2.4).
    pub fn explicit_key(
        &self,
        access: &Access,
        agent: Option<&str>,
        generation: &GenerationId,
    ) -> Result<CanonicalKey, EngineError> {
        Ok(access.rules().explicit_key(access.home(), agent, generation.as_str())?)
    }

    /// Accepts a turn: resolves its session, makes the input durable, queues the run. Needs [`Verb::Write`].
    ///
    /// `acknowledge` is called exactly once on success, whatever the disposition. Where this request starts the run it is
    /// called before the run's first event: a surface that answers its client there answers before the events. It must
    /// not block.
    pub async fn submit(
        &self,
        access: &Access,
        request: TurnRequest,
        acknowledge: impl FnOnce(&Accepted) + Send + 'static,
    ) -> Result<Accepted, EngineError> {
        if request.input.is_empty() {
            return Err(EngineError::Invalid("message or attachment required".into()));
        }
        let key = self.key_of(access, &request.target)?;
        let agent = agent_of(access, &key)?;
        let shared = &self.inner.shared;
        let model = match shared.catalog.model(shared.catalog.agent(&agent), request.options.model.as_deref()) {
            Ok(model) => model,
            Err(error) => return self.refuse(access, &key, request, acknowledge, error).await,
        };
        let first_generation = match &request.target.generation {
            GenerationChoice::Live => None,
            GenerationChoice::NamesNew(id) | GenerationChoice::MakeLive(id) => Some(id.clone()),
        };
        let is_main = self.is_main(access, &key, &agent);
        // Everything that travels to an actor comes back from one that cannot take it.
        let mut travelling = (request, Box::new(acknowledge) as Box<dyn FnOnce(&Accepted) + Send>);
        for _ in 0..MAX_ROUNDS {
            let (request, acknowledge) = travelling;
            if !self.is_ready() {
                return self.refuse(access, &key, request, acknowledge, EngineError::Draining).await;
            }
            let scope = match self.inner.admission.existing(access, Verb::Write, &key).await? {
                Some(scope) => scope,
                None => {
                    // Before a key is spent on a draft: a used run id is refused or answered for.
                    if let Some(accepted) = self.known(access, &key, &request).await? {
                        acknowledge(&accepted);
                        return Ok(accepted);
                    }
                    self.inner.admission.writable(access, &key, first_generation.as_ref()).await?
                }
            };
            let (reply, answer) = oneshot::channel();
            let submission = Box::new(Submission {
                digest: digest(&scope, &request),
                scope,
                space: access.run_space(),
                agent: agent.clone(),
                is_main,
                model: model.clone(),
                request,
                acknowledge,
                reply,
            });
            self.inner.registry.submit(shared, submission).await;
            let Refused { why, submission } = match answer.await {
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(refused)) => refused,
                Err(_) => return Err(StoreError::Unavailable("the session's task ended".into()).into()),
            };
            let Submission { request, acknowledge, .. } = *submission;
            match why {
                Why::Moved => travelling = (request, acknowledge),
                Why::Known => {
                    return self.refuse(access, &key, request, acknowledge, EngineError::RunConflict).await;
                }
                Why::No(error) => return self.refuse(access, &key, request, acknowledge, error).await,
            }
        }
        Err(EngineError::Changed(key.to_string()))
    }

    /// Refuses a turn, unless its run id was accepted before: a client that repeats a request whose acknowledgement it
    /// lost must hear what became of the run, whatever stands in the way of a new one now.
    async fn refuse(
        &self,
        access: &Access,
        key: &CanonicalKey,
        request: TurnRequest,
        acknowledge: impl FnOnce(&Accepted),
        error: EngineError,
    ) -> Result<Accepted, EngineError> {
        match self.known(access, key, &request).await? {
            Some(accepted) => {
                acknowledge(&accepted);
                Ok(accepted)
            }
            None => Err(error),
        }
    }

    /// What a run id that the caller used before means for this request: the same run, or a conflict.
    async fn known(
        &self,
        access: &Access,
        key: &CanonicalKey,
        request: &TurnRequest,
    ) -> Result<Option<Accepted>, EngineError> {
        let Some(record) = self.inner.admission.run(access, &request.run).await? else { return Ok(None) };
        let scope = self.inner.admission.existing(access, Verb::Read, key).await?;
        let Some(scope) = scope.filter(|scope| digest(scope, request) == record.digest) else {
            return Err(EngineError::RunConflict);
        };
        let disposition = match &record.outcome {
            Some(outcome) => Disposition::Ended(Box::new(self.report(access, &scope, &record, outcome).await?)),
            None => Disposition::InFlight,
        };
        Ok(Some(Accepted {
            run: record.id.clone(),
            key: key.clone(),
            agent: agent_of(access, key)?,
            generation: self.generation_of(&scope, &record).await?,
            input: record.input,
            message_seq: None,
            at: record.accepted_at,
            disposition,
        }))
    }

    /// Waits until the caller's run has ended; `None` when `limit` passes first. A run nobody knows waits like any other.
    pub async fn wait(
        &self,
        access: &Access,
        run: &RunId,
        limit: Option<Duration>,
    ) -> Result<Option<Arc<RunReport>>, EngineError> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let expecting = self.inner.shared.runs.expect(access.run_space(), run);
        let mut lost_at = None;
        loop {
            let begin = expecting.begun();
            if let Ok(report) = self.inner.shared.runs.wait(access.run_space(), run, left()).await {
                let now = self.inner.shared.clock.now();
                match report {
                    // The run is the caller's, but its session may be closed to this connection: then it is unknown.
                    Some(report) if !access.may_read(&report.key, now) => {
                        let Some(left) = left() else { std::future::pending().await };
                        tokio::time::sleep(left).await;
                        return Ok(None);
                    }
                    report => return Ok(report),
                }
            }
            let record = self.inner.admission.run(access, run).await?;
            let open = record.as_ref().is_some_and(|record| record.outcome.is_none());
            if let Some(record) = &record {
                let now = Instant::now();
                let lost = open && now >= *lost_at.get_or_insert(now + BEGIN_GRACE);
                if !open || lost {
                    let outcome = record.outcome.clone().unwrap_or(RunOutcome::Interrupted);
                    return self.stored_report(access, record, &outcome).await.map(|report| report.map(Arc::new));
                }
            }
            let pause = match (left(), open) {
                (Some(left), _) if left.is_zero() => return Ok(None),
                (Some(left), true) => Some(left.min(BEGIN_GRACE)),
                (None, true) => Some(BEGIN_GRACE),
                (left, false) => left,
            };
            match pause {
                Some(pause) => {
                    let _ = tokio::time::timeout(pause, begin).await;
                }
                None => begin.await,
            }
        }
    }

    async fn stored_report(
        &self,
        access: &Access,
        record: &RunRecord,
        outcome: &RunOutcome,
    ) -> Result<Option<RunReport>, EngineError> {
        let key = CanonicalKey::from_stored(&record.key);
        let scope = self.inner.admission.existing(access, Verb::Read, &key).await?;
        match scope.filter(|scope| scope.session() == record.session) {
            Some(scope) => self.report(access, &scope, record, outcome).await.map(Some),
            None => Ok(None),
        }
    }

    /// The report of a run that ended in the past, as far as the store remembers it.
    async fn report(
        &self,
        access: &Access,
        scope: &SessionScope,
        record: &RunRecord,
        outcome: &RunOutcome,
    ) -> Result<RunReport, EngineError> {
        let answer = match outcome {
            RunOutcome::Completed { answer, .. } => self.inner.shared.store.entry(scope, *answer).await?,
            _ => None,
        };
        let (text, model, usage) = match answer.map(|entry| entry.body.message) {
            Some(message @ Message::Assistant { .. }) => {
                let text = message.text();
                let Message::Assistant { model, usage, .. } = message else { unreachable!() };
                (text, Some(model), usage.unwrap_or_default())
            }
            _ => (String::new(), None, Usage::default()),
        };
        Ok(RunReport {
            run: record.id.clone(),
            key: scope.key().clone(),
            agent: agent_of(access, scope.key())?,
            generation: self.generation_of(scope, record).await?,
            outcome: outcome.clone(),
            text,
            model,
            provider_status: None,
            usage,
            last_usage: usage,
            started_at: record.started_at.unwrap_or(record.accepted_at),
            ended_at: record.ended_at.unwrap_or_else(|| self.inner.shared.clock.now()),
        })
    }

    async fn generation_of(&self, scope: &SessionScope, record: &RunRecord) -> Result<GenerationId, EngineError> {
        if record.generation == scope.generation_no() {
            return Ok(scope.generation().clone());
        }
        let generations = self.inner.shared.store.generations(scope).await?;
        let found = generations.into_iter().find(|generation| generation.no == record.generation);
        Ok(found.map_or_else(|| scope.generation().clone(), |generation| generation.id))
    }

    /// Ends one run of a session, or all of them, and answers when their end is durable and announced.
    pub async fn abort(
        &self,
        access: &Access,
        target: &Target,
        run: Option<&RunId>,
        reason: &str,
    ) -> Result<Aborted, EngineError> {
        let key = self.key_of(access, target)?;
        let scope = self.inner.admission.existing(access, Verb::Write, &key).await?;
        let sender = scope.and_then(|scope| self.inner.registry.sender(scope.tenant(), scope.session()));
        let mut runs = Vec::new();
        if let Some(sender) = sender {
            let (reply, answer) = oneshot::channel();
            let mail = Mail::Abort { run: run.cloned(), reason: reason.to_owned(), reply };
            if sender.send(mail).await.is_ok() {
                runs = answer.await.unwrap_or_default();
            }
        }
        Ok(Aborted { key, runs })
    }

    /// A page of the session's live generation. A session that does not exist yet is empty.
    pub async fn history(&self, access: &Access, target: &Target, query: HistoryQuery) -> Result<History, EngineError> {
        let key = self.key_of(access, target)?;
        let Some(scope) = self.inner.admission.existing(access, Verb::Read, &key).await? else {
            let session = self.unborn(access, &key);
            return Ok(History { session, entries: Vec::new(), total: 0, has_more: false, in_flight: None });
        };
        let store = &self.inner.shared.store;
        let row = store.describe(&scope).await?;
        let live = self.live(&row);
        let generation = row.record.generation_no();
        let extent = |limit, skip| Extent { limit, skip, max_bytes: query.max_bytes };
        let entries = transcript::tail(&**store, &scope, generation, extent(query.limit.max(1), query.offset)).await?;
        let total = match query.offset {
            0 => entries.last().map(|entry| entry.message_seq),
            _ => {
                let newest = transcript::tail(&**store, &scope, generation, extent(1, 0)).await?;
                newest.last().map(|entry| entry.message_seq)
            }
        };
        let has_more = entries.first().is_some_and(|entry| entry.message_seq > 1);
        let in_flight = live.as_ref().and_then(|live| live.in_flight());
        let session = self.view(access, row);
        Ok(History { session, entries, total: total.unwrap_or(0), has_more, in_flight })
    }

    /// One entry of a session, of any of its generations.
    pub async fn entry(
        &self,
        access: &Access,
        target: &Target,
        id: EntryId,
    ) -> Result<Option<watertight_core::transcript::Entry>, EngineError> {
        let key = self.key_of(access, target)?;
        match self.inner.admission.existing(access, Verb::Read, &key).await? {
            Some(scope) => Ok(self.inner.shared.store.entry(&scope, id).await?),
            None => Ok(None),
        }
    }

    /// Sessions the caller may read.
    pub async fn list(&self, access: &Access, filter: SessionFilter) -> Result<SessionList, EngineError> {
        let now = self.inner.shared.clock.now();
        let agent = match &filter.agent {
            Some(text) => Some(access.rules().agent(text)?.clone()),
            None => None,
        };
        let since = |within: Duration| now.plus_millis(-i64::try_from(within.as_millis()).unwrap_or(i64::MAX));
        let query = ListQuery {
            now,
            agent,
            active_since: filter.active_within.map(since),
            search: filter.search,
            label: filter.label,
            archived: filter.archived,
            sentinels: filter.sentinels,
            limit: if filter.limit == 0 { DEFAULT_LIST_LIMIT } else { filter.limit },
            offset: filter.offset,
        };
        let page = self.inner.admission.list(access, query).await?;
        let sessions = page.rows.into_iter().map(|row| self.view(access, row)).collect();
        Ok(SessionList { sessions, total: page.total })
    }

    /// One session; `None` where it does not exist.
    pub async fn describe(&self, access: &Access, target: &Target) -> Result<Option<SessionView>, EngineError> {
        let key = self.key_of(access, target)?;
        self.describe_key(access, &key).await
    }

    async fn describe_key(&self, access: &Access, key: &CanonicalKey) -> Result<Option<SessionView>, EngineError> {
        match self.inner.admission.existing(access, Verb::Read, key).await? {
            Some(scope) => {
                let row = self.inner.shared.store.describe(&scope).await?;
                Ok(Some(self.view(access, row)))
            }
            None => Ok(None),
        }
    }

    /// An existing session; `None` where nothing the caller may read matches.
    ///
    /// By generation, only live ones match; of several, the one whose key ends in the id wins, then the latest
    /// written, and a tie matches nothing (sessions.md §2.4).
    pub async fn find(
        &self,
        access: &Access,
        selector: &Selector,
        agent: Option<&str>,
    ) -> Result<Option<SessionView>, EngineError> {
        match selector {
            Selector::Key(text) => {
                let key = self.resolve_key(access, text, agent)?;
                self.describe_key(access, &key).await
            }
            Selector::Generation(id) => {
                let agent = match agent {
                    Some(text) => Some(access.rules().agent(text)?.clone()),
                    None => None,
                };
                let mut hits = self.inner.admission.holding(access, id).await?;
                hits.retain(|hit| {
                    hit.live && agent.as_ref().is_none_or(|agent| access.rules().owner(&hit.key) == Some(agent))
                });
                let ending = format!(":{id}");
                hits.sort_by_key(|hit| std::cmp::Reverse((hit.key.as_str().ends_with(&ending), hit.updated_at)));
                let rank = |at: usize| hits.get(at).map(|hit| (hit.key.as_str().ends_with(&ending), hit.updated_at));
                match hits.first() {
                    Some(hit) if rank(0) != rank(1) => self.describe_key(access, &hit.key).await,
                    _ => Ok(None),
                }
            }
            Selector::Label(label) => {
                let filter = SessionFilter {
                    agent: agent.map(str::to_owned),
                    label: Some(label.clone()),
                    archived: Archived::Include,
                    sentinels: true,
                    limit: 1,
                    ..SessionFilter::default()
                };
                Ok(self.list(access, filter).await?.sessions.into_iter().next())
            }
        }
    }

    /// Starts listening. Only sessions the caller may read are ever heard.
    pub fn listen(&self, access: &Access, interest: Interest, sink: Arc<dyn EventSink>) -> Listener {
        self.inner.shared.hub.listen(access.clone(), interest, sink)
    }

    /// The configured agents.
    pub fn agents(&self) -> Vec<AgentView> {
        self.inner.shared.catalog.agents()
    }

    /// The models of the configured providers.
    pub fn models(&self) -> Vec<ModelView> {
        self.inner.shared.catalog.models()
    }

    /// Each provider with how it names sessions, for the start-up print: (name, where it is, header mode).
    pub fn providers(&self) -> Vec<(String, String, HeaderMode)> {
        self.inner.shared.catalog.providers()
    }

    /// Whether new runs are taken.
    pub fn is_ready(&self) -> bool {
        !self.inner.shared.draining.load(Ordering::Acquire)
    }

    /// Takes no new runs from now on.
    pub fn refuse_runs(&self) {
        self.inner.shared.draining.store(true, Ordering::Release);
    }

    /// Takes no new runs, lets active ones finish for `grace` and interrupts the rest. The store closes cleanly when the
    /// last clone of the engine is dropped.
    pub async fn drain(&self, grace: Duration) {
        self.refuse_runs();
        if !self.inner.shared.runs.quiet(grace).await {
            tracing::warn!("runs are still active after {} s; they are interrupted", grace.as_secs());
        }
        self.inner.shared.stop.cancel();
        self.inner.registry.ended().await;
    }

    fn key_of(&self, access: &Access, target: &Target) -> Result<CanonicalKey, EngineError> {
        match &target.key {
            Some(key) => self.resolve_key(access, key, target.agent.as_deref()),
            None => self.main_key(access, target.agent.as_deref()),
        }
    }

    fn is_main(&self, access: &Access, key: &CanonicalKey, agent: &str) -> bool {
        self.main_key(access, Some(agent)).is_ok_and(|main| main == *key)
    }

    fn live(&self, row: &SessionRow) -> Option<Arc<Live>> {
        self.inner.registry.live(row.record.tenant(), row.record.id())
    }

    fn view(&self, access: &Access, row: SessionRow) -> SessionView {
        let active_runs = self.live(&row).map(|live| live.runs()).unwrap_or_default();
        let SessionRow { record, mut meta, updated_at } = row;
        let mut view = self.unborn(access, record.key());
        let open = matches!(meta.status, SessionStatus::Running | SessionStatus::Queued);
        let former = updated_at < self.inner.opened_at;
        if open && active_runs.is_empty() && former {
            // A former process left the run open.
            meta.status = SessionStatus::Failed;
        } else if !open && !active_runs.is_empty() {
            meta.status = SessionStatus::Running;
        }
        view.generation = Some(record.generation().clone());
        view.created_at = Some(record.created_at());
        view.updated_at = Some(updated_at);
        view.meta = meta;
        view.active_runs = active_runs;
        view
    }

    /// The view of a session that does not exist yet. Sessions of agents that are no longer configured still show.
    fn unborn(&self, access: &Access, key: &CanonicalKey) -> SessionView {
        let agent = agent_of(access, key).unwrap_or_else(|_| key.agent().unwrap_or_default().to_owned());
        let model = &self.inner.shared.catalog.agent(&agent).model;
        SessionView {
            key: key.clone(),
            is_main: self.is_main(access, key, &agent),
            generation: None,
            meta: Default::default(),
            created_at: None,
            updated_at: None,
            active_runs: Vec::new(),
            model: model.names(),
            context_tokens: model.context_tokens(),
            agent,
        }
    }
}

/// The agent that answers in the session of this key.
fn agent_of(access: &Access, key: &CanonicalKey) -> Result<String, EngineError> {
    match access.rules().owner(key) {
        Some(agent) => Ok(agent.to_string()),
        None => Err(KeyError::unknown_agent(key.agent().unwrap_or_default()).into()),
    }
}

/// Binds a run id to its request (isolation.md C4): call, session, generation and content.
fn digest(scope: &SessionScope, request: &TurnRequest) -> [u8; 32] {
    let generation = match &request.target.generation {
        GenerationChoice::MakeLive(id) => id.as_str(),
        GenerationChoice::Live | GenerationChoice::NamesNew(_) => "",
    };
    // Blocks are plain data: they always have a JSON form.
    let content = serde_json::to_vec(&request.input).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    for part in [request.method.as_bytes(), scope.session().as_bytes(), generation.as_bytes(), &content] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
