//! An engine in a directory of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use watertight_config::{Config, Sources};
use watertight_core::grant::VerbSet;
use watertight_core::ids::RunId;
use watertight_core::run::RunOptions;
use watertight_core::transcript::Block;
use watertight_engine::Engine;
use watertight_engine::admission::{Access, Presented};
use watertight_engine::engine::Parts;
use watertight_engine::event::{EventKind, SessionEvent};
use watertight_engine::hub::{EventSink, Interest, Listener};
use watertight_engine::report::RunReport;
use watertight_engine::request::{HistoryQuery, Target, TurnRequest};
use watertight_engine::state_dir::StateDir;
use watertight_engine::tools::{Tool, ToolContext, ToolFuture};
use watertight_engine::view::History;
use watertight_provider::ToolSpec;

/// Longer than any turn here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) access: Access,
    pub(crate) dir: Arc<tempfile::TempDir>,
}

impl World {
    pub(crate) async fn open() -> Self {
        Self::open_in(Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub(crate) async fn open_in(dir: Arc<tempfile::TempDir>) -> Self {
        Self::open_with(dir, Vec::new()).await
    }

    pub(crate) async fn open_with(dir: Arc<tempfile::TempDir>, tools: Vec<Box<dyn Tool>>) -> Self {
        let state: PathBuf = dir.path().join("state");
        let lock = StateDir::lock(&state).unwrap();
        let sources = Sources { state_dir: state.clone(), env: BTreeMap::new(), ..Sources::default() };
        let config = Config::load(sources).map_err(|errors| errors.to_string()).unwrap();
        let parts = Parts { tools, ..Parts::default() };
        let engine = Engine::open_with(Arc::new(config), lock, parts).await.unwrap();
        let access = operator(&engine, None).await;
        Self { engine, access, dir }
    }

    /// Stops cleanly and starts again on the same directory.
    pub(crate) async fn restarted(self) -> Self {
        self.engine.drain(Duration::ZERO).await;
        let Self { engine, access, dir } = self;
        drop((engine, access));
        assert_eq!(
            StateDir::holder(&dir.path().join("state")),
            None,
            "a drained and dropped engine frees its directory"
        );
        Self::open_in(dir).await
    }

    pub(crate) async fn access_with(&self, verbs: VerbSet) -> Access {
        operator(&self.engine, Some(verbs)).await
    }

    pub(crate) async fn say(&self, key: &str, text: &str) -> Arc<RunReport> {
        self.say_as(key, &uuid::Uuid::new_v4().to_string(), text).await
    }

    pub(crate) async fn say_as(&self, key: &str, run: &str, text: &str) -> Arc<RunReport> {
        self.engine.submit(&self.access, turn(key, run, text), |_| {}).await.unwrap();
        self.ended(run).await
    }

    pub(crate) async fn ended(&self, run: &str) -> Arc<RunReport> {
        let run = RunId::parse(run).unwrap();
        self.engine.wait(&self.access, &run, Some(PATIENCE)).await.unwrap().expect("the run ends")
    }

    /// Returns when the session shows the run among those that are active or waiting.
    pub(crate) async fn until_waiting(&self, key: &str, run: &str) {
        let run = RunId::parse(run).unwrap();
        let shown = async {
            loop {
                let view = self.engine.describe(&self.access, &Target::of_key(key)).await.unwrap();
                if view.is_some_and(|view| view.active_runs.contains(&run)) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, shown).await.expect("the run is shown");
    }

    pub(crate) async fn history(&self, key: &str) -> History {
        self.engine.history(&self.access, &Target::of_key(key), page()).await.unwrap()
    }

    pub(crate) fn listen(&self, interest: Interest) -> (Arc<Sink>, Listener) {
        self.listen_as(&self.access, interest)
    }

    pub(crate) fn listen_as(&self, access: &Access, interest: Interest) -> (Arc<Sink>, Listener) {
        let sink = Arc::new(Sink::default());
        let listener = self.engine.listen(access, interest, sink.clone());
        (sink, listener)
    }
}

async fn operator(engine: &Engine, verbs: Option<VerbSet>) -> Access {
    let token = std::fs::read_to_string(engine.operator_token_file().unwrap()).unwrap();
    engine.authenticate(Presented::Secret(token.trim()), verbs).await.unwrap()
}

pub(crate) fn turn(key: &str, run: &str, text: &str) -> TurnRequest {
    TurnRequest {
        target: Target::of_key(key),
        input: vec![Block::from_text(text)],
        run: RunId::parse(run).unwrap(),
        options: RunOptions::default(),
        expect_generation: None,
        surface: "test",
        method: "agent",
    }
}

pub(crate) fn page() -> HistoryQuery {
    HistoryQuery { limit: 1000, offset: 0, max_bytes: usize::MAX }
}

/// Keeps every event.
#[derive(Default)]
pub(crate) struct Sink {
    events: Mutex<Vec<Arc<SessionEvent>>>,
    more: Notify,
}

impl EventSink for Sink {
    fn deliver(&self, event: &Arc<SessionEvent>) {
        self.events.lock().unwrap().push(event.clone());
        self.more.notify_waiters();
    }
}

impl Sink {
    pub(crate) fn seen(&self) -> Vec<Arc<SessionEvent>> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) async fn wait(&self, wanted: impl Fn(&SessionEvent) -> bool) {
        let found = async {
            loop {
                let more = self.more.notified();
                if self.seen().iter().any(|event| wanted(event)) {
                    return;
                }
                more.await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the event comes");
    }
}

pub(crate) fn name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Entry { .. } => "entry",
        EventKind::StartingModel => "starting-model",
        EventKind::Started { .. } => "started",
        EventKind::Model { .. } => "model",
        EventKind::Text { .. } => "text",
        EventKind::Thinking { .. } => "thinking",
        EventKind::ToolStarted { .. } => "tool-started",
        EventKind::ToolEnded { .. } => "tool-ended",
        EventKind::Ended { .. } => "ended",
        EventKind::Changed { .. } => "changed",
    }
}

/// A tool of this name without effects that answers once it is let.
pub(crate) fn gated_tool(name: &'static str) -> (Arc<Notify>, Box<dyn Tool>) {
    let gate = Arc::new(Notify::new());
    (gate.clone(), Box::new(Gated { name, gate }))
}

struct Gated {
    name: &'static str,
    gate: Arc<Notify>,
}

impl Tool for Gated {
    fn spec(&self) -> ToolSpec {
        let parameters = serde_json::json!({"type": "object"});
        ToolSpec { name: self.name.into(), description: "Waits.".into(), parameters }
    }

    fn is_idempotent(&self) -> bool {
        true
    }

    fn run(&self, _: ToolContext, _: serde_json::Value) -> ToolFuture {
        let gate = self.gate.clone();
        Box::pin(async move {
            gate.notified().await;
            Ok("open".to_owned())
        })
    }
}
