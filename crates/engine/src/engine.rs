//! The one door of every surface.
//!
//! * `engine` (here): opening, who calls, keys, listening, what is configured, draining.
//! * `administration`: who may do what.
//! * `keys`: keys that are replaced, and checkpoints.
//! * `submit`: accepting a turn.
//! * `outcome`: what becomes of runs.
//! * `reading`: transcripts, lists, descriptions.

pub mod administration;
mod keys;
mod outcome;
mod reading;
mod submit;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use watertight_config::{Auth, Config};
use watertight_core::SessionScope;
use watertight_core::grant::VerbSet;
use watertight_core::ids::{GenerationId, RunId, UnixMillis};
use watertight_core::key::{CanonicalKey, KeyError};
use watertight_provider::{HashedNames, HeaderMode, SessionNames};
use watertight_store::Store;
use watertight_store::model::Archived;
use watertight_store::sqlite::SqliteStore;

use crate::actor::Shared;
use crate::admission::{Access, Admission, AuthFailure, Presented};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::error::EngineError;
use crate::hub::{EventSink, Hub, Interest, Listener};
use crate::recovery::Recovery;
use crate::registry::Registry;
use crate::request::Target;
use crate::runs::Runs;
use crate::state_dir::{OpenError, StateDir};
use crate::steward;
use crate::steward::checkpoint::Checkpoints;
use crate::tools::{Broker, Tool};
use crate::view::{AgentView, ModelView};

/// Rows of a list whose caller named no number.
const DEFAULT_LIST_LIMIT: u32 = 100;

/// Watertight without a surface: sessions, runs, events. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    sqlite: Arc<SqliteStore>,
    opened_at: UnixMillis,
    /// While checkpoints are written.
    checkpoints: Arc<tokio::sync::Mutex<Option<Arc<Checkpoints>>>>,
    /// Last, so that the directory is freed after everything in it is closed.
    dir: StateDir,
}

/// What an engine is made of beside its configuration.
pub struct Parts {
    /// The time.
    pub clock: Clock,
    /// Server-side tools beside the built-in ones.
    pub tools: Vec<Box<dyn Tool>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { clock: Clock::system(), tools: Vec::new() }
    }
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
        Self::open_with(config, dir, Parts::default()).await
    }

    /// [`Self::open`] with parts of one's own.
    pub async fn open_with(config: Arc<Config>, dir: StateDir, parts: Parts) -> Result<Self, OpenError> {
        let Parts { clock, tools } = parts;
        let opened_at = clock.now();
        let opened = steward::open(&config, dir.path(), opened_at).await?;
        let sqlite = opened.store;
        let store: Arc<dyn Store> = sqlite.clone();
        let names: Arc<dyn SessionNames> = Arc::new(Names(sqlite.clone()));
        let catalog = Catalog::build(&config, &opened.tenants, &names)?;
        let admission = Admission::new(&config, &opened.tenants, store.clone(), sqlite.token_hasher(), clock.clone());
        let shared = Arc::new(Shared {
            store,
            hub: Hub::new(clock.clone()),
            runs: Arc::new(Runs::default()),
            catalog,
            admission,
            devices: crate::devices::InUse::default(),
            broker: Broker::new(tools),
            clock,
            recovery: Recovery::new(opened.housekeeping, opened.unfinished),
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        let registry = Registry::new();
        Ok(Self {
            inner: Arc::new(Inner { config, shared, registry, sqlite, opened_at, checkpoints: Arc::default(), dir }),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// The configuration it runs under.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The state directory it holds.
    pub fn state_dir(&self) -> &StateDir {
        &self.inner.dir
    }

    /// Sessions with runs that a former process left open and nobody has taken up yet.
    pub fn unfinished_sessions(&self) -> usize {
        self.inner.shared.recovery.pending()
    }

    /// Takes up the runs that a former process left open, in the background (isolation.md C5). Without it they wait for
    /// the next turn of their session.
    pub fn recover(&self) {
        tokio::spawn(Recovery::wake(self.inner.shared.clone(), self.inner.registry.clone()));
    }

    /// Makes a tenant of this name with one operator, who may do everything in it, and answers with the operator's
    /// token, which is stored hashed and shown nowhere else. Refused when there is such a tenant.
    pub async fn create_tenant(&self, name: &str) -> Result<String, EngineError> {
        let Shared { recovery, clock, .. } = &*self.inner.shared;
        match recovery.housekeeping().create_tenant(name, clock.now()).await? {
            Some(token) => Ok(token.expose().to_string()),
            None => Err(EngineError::Invalid(format!("There is a tenant named {name:?} already."))),
        }
    }

    /// Waits for the check of a large store after an unclean end; ready at once where there is none. An error says what
    /// is damaged: nothing more is written then, and the process should end.
    pub async fn checked(&self) -> Result<(), EngineError> {
        Ok(self.inner.sqlite.checked().await?)
    }

    /// Resolves when the store has stopped after a failed write or sync: nothing is acknowledged any more, and the process
    /// should end, so that whoever starts it again has it go on from what is durable (isolation.md C9).
    pub async fn failed(&self) -> EngineError {
        self.inner.sqlite.failed().await.into()
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
        self.inner.shared.admission.caller(presented, requested).await
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

    /// Takes no new runs, lets active ones finish for `grace` and interrupts the rest, and takes the announced address
    /// back. The store closes cleanly when the last clone of the engine is dropped.
    pub async fn drain(&self, grace: Duration) {
        self.refuse_runs();
        if !self.inner.shared.runs.quiet(grace).await {
            tracing::warn!("runs are still active after {} s; they are interrupted", grace.as_secs());
        }
        self.inner.shared.stop.cancel();
        self.inner.registry.ended().await;
        self.end_checkpoints().await;
        self.state_dir().withdraw();
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
}

/// The agent that answers in the session of this key.
fn agent_of(access: &Access, key: &CanonicalKey) -> Result<String, EngineError> {
    match access.rules().owner(key) {
        Some(agent) => Ok(agent.to_string()),
        None => Err(KeyError::unknown_agent(key.agent().unwrap_or_default()).into()),
    }
}
