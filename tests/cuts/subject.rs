//! The engine over the real store in a directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use watertight_config::{Config, Sources};
use watertight_core::ids::{GenerationId, RunId};
use watertight_core::run::{QueuePolicy, RunOptions};
use watertight_core::transcript::Block;
use watertight_engine::Engine;
use watertight_engine::admission::{Access, Presented};
use watertight_engine::request::{GenerationChoice, HistoryQuery, Target, TurnRequest};
use watertight_engine::state_dir::StateDir;

/// Longer than anything here takes; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) engine: Engine,
    pub(crate) access: Access,
}

impl Subject {
    /// Starts on the directory as a gateway does.
    pub(crate) async fn open(dir: &Path) -> Result<Self, String> {
        let lock = StateDir::lock(dir).map_err(|error| error.to_string())?;
        let sources = Sources { state_dir: dir.to_owned(), env: BTreeMap::new(), ..Sources::default() };
        let config = Config::load(sources).map_err(|errors| errors.to_string())?;
        let engine = Engine::open(Arc::new(config), lock).await.map_err(|error| error.to_string())?;
        engine.recover();
        let file = engine.operator_token_file().ok_or("no operator token")?;
        let token = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        let access = engine.authenticate(Presented::Secret(token.trim()), None).await;
        Ok(Self { engine, access: access.map_err(|error| format!("{error:?}"))? })
    }

    /// Ends in order.
    pub(crate) async fn close(self) {
        self.engine.drain(Duration::ZERO).await;
    }
}

/// A turn to submit.
pub(crate) struct Say<'a> {
    pub(crate) key: &'a str,
    pub(crate) run: &'a str,
    pub(crate) text: &'a str,
    pub(crate) generation: Option<&'a str>,
    pub(crate) queue: QueuePolicy,
}

impl<'a> Say<'a> {
    pub(crate) fn plain(key: &'a str, run: &'a str, text: &'a str) -> Self {
        Self { key, run, text, generation: None, queue: QueuePolicy::Queue }
    }

    pub(crate) fn request(&self) -> TurnRequest {
        let generation = match self.generation {
            Some(id) => GenerationChoice::MakeLive(GenerationId::parse(id).unwrap()),
            None => GenerationChoice::Live,
        };
        TurnRequest {
            target: Target { generation, ..Target::of_key(self.key) },
            input: vec![Block::from_text(self.text)],
            run: RunId::parse(self.run).unwrap(),
            options: RunOptions { queue: self.queue, ..RunOptions::default() },
            expect_generation: None,
            surface: "test",
            method: "agent",
        }
    }
}

/// A whole transcript.
pub(crate) fn everything() -> HistoryQuery {
    HistoryQuery { limit: 1_000_000, offset: 0, max_bytes: usize::MAX }
}
