//! One request, and how it is answered.

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use watertight_core::ids::RunId;
use watertight_core::key::CanonicalKey;
use watertight_engine::admission::Access;
use watertight_engine::devices::Seat;
use watertight_engine::hub::Listener;
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::params::Params;

use super::feed::{Feed, TooMany};
use super::outbox::Outbox;
use super::presence::Circle;
use crate::gateway::Gateway;

/// A connection that has been let in, as its requests see it.
pub(crate) struct Client {
    /// Names the connection.
    pub(crate) conn_id: Uuid,
    /// What it may do.
    pub(crate) access: Access,
    /// The device it ends with.
    pub(crate) seat: Option<Seat>,
    /// The connections it sees.
    pub(crate) circle: Arc<Circle>,
    /// What waits to be written to it.
    pub(crate) outbox: Arc<Outbox>,
    /// What it hears.
    pub(crate) feed: Arc<Feed>,
    /// Where it listens. Empty for a connection that may not read.
    pub(crate) listener: OnceLock<Listener>,
    /// Cancelled when the connection is gone.
    pub(crate) gone: CancellationToken,
}

impl Client {
    /// Hears of the list, and every session's messages, from now on.
    pub(crate) fn hear_list(&self) {
        self.feed.subscribe_list();
        if let Some(listener) = self.listener.get() {
            listener.hear_everything();
        }
    }

    /// Hears the session's messages from now on.
    pub(crate) fn hear(&self, key: &CanonicalKey) -> Result<(), TooMany> {
        self.feed.subscribe(key.clone())?;
        match self.listener.get() {
            Some(listener) if !listener.watch(key) => {
                self.feed.unsubscribe(key);
                Err(TooMany)
            }
            _ => Ok(()),
        }
    }

    /// The connection started this run. Called before the run's first event.
    pub(crate) fn started(&self, run: &RunId, key: &CanonicalKey) {
        // Whoever may not read hears neither events nor the end.
        if self.listener.get().is_some() {
            self.feed.started(run, key);
        }
    }

    /// Stops hearing them, unless the whole list is subscribed to.
    pub(crate) fn ignore(&self, key: &CanonicalKey) {
        self.feed.unsubscribe(key);
        if let Some(listener) = self.listener.get() {
            listener.unwatch(key);
        }
    }
}

/// One request.
pub(crate) struct Call {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) client: Arc<Client>,
    /// The client's name for it.
    pub(crate) id: String,
    pub(crate) method: &'static str,
    /// Its parameters, until they are parsed.
    pub(crate) params: Option<Box<RawValue>>,
    /// What the request holds while it starts; a request that goes on to wait gives it back.
    pub(crate) start: Start,
}

/// What a request holds while it starts.
#[derive(Default)]
pub(crate) struct Start {
    _permits: Vec<OwnedSemaphorePermit>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Start {
    /// A share of the connection's starts and bytes, and the turn among the requests of one session.
    pub(crate) fn new(permits: Vec<OwnedSemaphorePermit>, turn: Option<OwnedMutexGuard<()>>) -> Self {
        Self { _permits: permits, _turn: turn }
    }
}

/// Text beyond which other connections would feel its parsing, in bytes.
const LARGE: usize = 1024 * 1024;

/// Works on a text of `size` bytes: a large one where it holds nobody up.
pub(crate) async fn aside<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if size < LARGE {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(_) => std::future::pending().await,
        },
    }
}

/// How a request is answered.
pub(crate) type Outcome = Result<Answer, Failure>;

/// A successful answer.
pub(crate) enum Answer {
    /// To be sent.
    Payload(Box<RawValue>),
    /// Sent already.
    Sent,
    /// Nobody is left to answer.
    Nobody,
}

impl Answer {
    /// This answer.
    pub(crate) fn of(payload: &impl Serialize) -> Outcome {
        Ok(Self::Payload(raw(payload)?))
    }
}

/// A failed answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: ErrorShape,
    /// Beside the error; only a failed `agent` run has one.
    pub(crate) payload: Option<Box<RawValue>>,
}

impl Failure {
    /// A request that does not fit.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        ErrorShape::invalid(message).into()
    }

    /// A failed run.
    pub(crate) fn with_payload(error: ErrorShape, payload: &impl Serialize) -> Self {
        Self { error, payload: raw(payload).ok() }
    }
}

impl From<ErrorShape> for Failure {
    fn from(error: ErrorShape) -> Self {
        Self { error, payload: None }
    }
}

fn raw(payload: &impl Serialize) -> Result<Box<RawValue>, ErrorShape> {
    serde_json::value::to_raw_value(payload).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        ErrorShape::unavailable("The answer cannot be written. This is a defect of the gateway.")
    })
}

impl Call {
    /// The parameters. Their text is given back.
    pub(crate) async fn params<P: Params + Send + 'static>(&mut self) -> Result<P, Failure> {
        let (method, params) = (self.method, self.params.take());
        let size = params.as_ref().map_or(0, |params| params.get().len());
        Ok(aside(size, move || P::parse(method, params.as_deref())).await?)
    }

    /// Gives back what the request holds while it starts, when it is called or dropped.
    pub(crate) fn started(&mut self) -> impl FnOnce() + Send + use<> {
        let start = std::mem::take(&mut self.start);
        move || drop(start)
    }

    /// The client's idempotency key.
    pub(crate) fn run_id(&self, field: &str, text: &str) -> Result<RunId, Failure> {
        RunId::parse(text)
            .map_err(|error| Failure::invalid(format!("invalid {} params: at /{field}: {error}", self.method)))
    }

    pub(crate) fn access(&self) -> &Access {
        &self.client.access
    }
}
