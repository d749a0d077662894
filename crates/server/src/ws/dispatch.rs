//! From a frame to a method, bounded and in order.
//!
//! Each request runs in a task of its own that is driven to its end, also when the client is gone: what it writes must
//! not be torn. Requests that name one session start in the order they came.

use std::borrow::Cow;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures_util::poll;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::task::TaskTracker;
use watertight_core::ErrorCode;
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::frame::{self, BadFrame, Request};

use super::call::{self, Answer, Call, Client, Start};
use super::method::{self, Method, Order};
use super::outbox::Outbox;
use crate::gateway::Gateway;

/// Most requests of a connection that are starting.
const MAX_STARTS: usize = 256;
/// Most bytes of them.
const MAX_START_BYTES: usize = 50 * 1024 * 1024;
/// Requests of a connection that are carried out side by side. Each may make an answer of several megabytes.
const MAX_RUNNING: usize = 16;
/// Most requests of a connection that wait for something after they started.
const MAX_WAITING: usize = 4096;
/// Queues for the order of a session's requests. Two sessions may share one; that costs time, never order.
const LANES: usize = 64;

/// Starts the requests of one connection.
pub(crate) struct Dispatcher {
    gateway: Arc<Gateway>,
    client: Arc<Client>,
    starts: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    workers: Workers,
    waiting: Arc<Semaphore>,
    /// Requests that are not answered yet.
    open: TaskTracker,
    /// Made for the first request that needs one: most connections only listen.
    lanes: OnceLock<Vec<Arc<Mutex<()>>>>,
    hasher: RandomState,
}

type Turn = Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>;

impl Dispatcher {
    pub(crate) fn new(gateway: Arc<Gateway>, client: Arc<Client>) -> Self {
        Self {
            gateway,
            workers: Workers::new(client.outbox.clone()),
            client,
            starts: Arc::new(Semaphore::new(MAX_STARTS)),
            bytes: Arc::new(Semaphore::new(MAX_START_BYTES)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            open: TaskTracker::new(),
            lanes: OnceLock::new(),
            hasher: RandomState::new(),
        }
    }

    /// Starts what a text frame asks for. Never waits for it.
    pub(crate) async fn frame(&self, text: Utf8Bytes) {
        let outbox = &self.client.outbox;
        let bytes = text.len();
        match call::aside(bytes, move || frame::parse(&text)).await {
            Ok(request) => {
                let id = request.id.clone();
                if let Err(error) = self.request(request, bytes).await {
                    outbox.refuse(&id, &error, None);
                }
            }
            Err(BadFrame::NotJson) => {
                if let Some(count) = self.gateway.unreadable_frames.count() {
                    tracing::warn!(connection = %self.client.conn_id, bytes, count, "a frame is not JSON");
                }
            }
            Err(BadFrame::OutOfBounds(problem)) => {
                outbox.refuse("invalid", &ErrorShape::invalid(format!("invalid request frame: {problem}")), None);
            }
            Err(BadFrame::NotRequest { id, problem }) => {
                let error = ErrorShape::invalid(format!("invalid request frame: {problem}"));
                outbox.refuse(id.as_deref().unwrap_or("invalid"), &error, None);
            }
        }
    }

    /// Completes when every request is answered, if no more come.
    pub(crate) async fn answered(&self) {
        self.open.close();
        self.open.wait().await;
    }

    async fn request(&self, request: Request, bytes: usize) -> Result<(), ErrorShape> {
        let method = find(&request.method)?;
        method.authorization.check(self.client.access.verbs())?;
        self.client.access.spend(self.gateway.engine.now()).map_err(|wait| {
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            ErrorShape::unavailable("Too many requests. Try again shortly.")
                .with_code(ErrorCode::TooBusy)
                .retry_after(wait)
        })?;
        if method.is_use() {
            self.gateway.engine.touch(&self.client.access);
        }
        let mut permits = self.permits(bytes)?;
        let waiting = self.waiting.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = self.turn(method, request.params.as_deref()).await;
        let call = Call {
            gateway: self.gateway.clone(),
            client: self.client.clone(),
            id: request.id,
            method: method.name,
            params: request.params,
            start: Start::default(),
        };
        let workers = self.workers.clone();
        self.gateway.connections.spawn(self.open.track_future(async move {
            let turn = match turn {
                Some(turn) => Some(turn.await),
                None => None,
            };
            permits.extend(workers.begin().await);
            answer(method, Call { start: Start::new(permits, turn), ..call }).await;
            drop(waiting);
        }));
        Ok(())
    }

    fn permits(&self, bytes: usize) -> Result<Vec<OwnedSemaphorePermit>, ErrorShape> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let start = self.starts.clone().try_acquire_owned();
        let size = self.bytes.clone().try_acquire_many_owned(bytes);
        match (start, size) {
            (Ok(start), Ok(size)) => Ok(vec![start, size]),
            _ => Err(busy()),
        }
    }

    /// The session that parameters name, in one spelling. A session named by nothing but a transcript's id has to be
    /// looked up first, so its requests keep their order only among those that name it so.
    fn session(&self, name: &Name<'_>) -> String {
        let (engine, access) = (&self.gateway.engine, &self.client.access);
        let given =
            |text: &Option<Cow<'_, str>>| text.as_deref().filter(|text| !text.trim().is_empty()).map(str::to_owned);
        let agent = given(&name.agent_id);
        let key = given(&name.session_key).or_else(|| given(&name.key));
        let resolved = match (&key, given(&name.session_id)) {
            (Some(key), _) => engine.resolve_key(access, key, agent.as_deref()),
            (None, Some(id)) => return id,
            (None, None) => engine.main_key(access, agent.as_deref()),
        };
        // A name that means nothing is refused later.
        resolved.map_or_else(|_| key.unwrap_or_default(), |key| key.to_string())
    }

    /// A place in the queue of the session the parameters name, taken now and waited for later.
    async fn turn(&self, method: &Method, params: Option<&RawValue>) -> Option<Turn> {
        if method.order == Order::Free {
            return None;
        }
        let name: Name<'_> = params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
        let lane = self.hasher.hash_one(self.session(&name)) as usize % LANES;
        let lanes = self.lanes.get_or_init(|| std::iter::repeat_with(Arc::default).take(LANES).collect());
        let mut turn: Turn = Box::pin(lanes[lane].clone().lock_owned());
        match poll!(&mut turn) {
            // The lock queues in the order of first polls, which is the order of frames.
            std::task::Poll::Pending => Some(turn),
            std::task::Poll::Ready(guard) => Some(Box::pin(std::future::ready(guard))),
        }
    }
}

/// Those who carry out a connection's requests.
#[derive(Clone)]
struct Workers {
    running: Arc<Semaphore>,
    outbox: Arc<Outbox>,
}

impl Workers {
    fn new(outbox: Arc<Outbox>) -> Self {
        Self { running: Arc::new(Semaphore::new(MAX_RUNNING)), outbox }
    }

    /// Waits until a request may be carried out. The outbox is looked at last: whoever waited for a place has not seen
    /// the answers that were queued meanwhile.
    async fn begin(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.running.clone().acquire_owned().await.ok();
        self.outbox.room().await;
        place
    }
}

/// The part of the parameters that says which session they are about.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Name<'a> {
    #[serde(borrow, rename = "sessionKey")]
    session_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "agentId")]
    agent_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "sessionId")]
    session_id: Option<Cow<'a, str>>,
}

fn find(name: &str) -> Result<&'static Method, ErrorShape> {
    method::find(name).ok_or_else(|| match name {
        "connect" => ErrorShape::invalid("connect is only valid as the first request"),
        _ => {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
            ErrorShape::invalid(format!("unknown method: {shown}"))
        }
    })
}

fn busy() -> ErrorShape {
    ErrorShape::unavailable("Too many requests of this connection are under way. Wait for one to be answered.")
        .with_code(ErrorCode::TooBusy)
        .retry_after(500)
}

async fn answer(method: &'static Method, call: Call) {
    let (client, id) = (call.client.clone(), call.id.clone());
    match (method.handler)(call).await {
        Ok(Answer::Payload(payload)) => client.outbox.respond(&id, &payload),
        Ok(Answer::Sent | Answer::Nobody) => {}
        Err(failure) => client.outbox.refuse(&id, &failure.error, failure.payload.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_requests_with_large_answers_stops_when_the_outbox_is_full() {
        const ANSWER: usize = 1024 * 1024;
        let outbox = Arc::new(Outbox::default());
        let workers = Workers::new(outbox.clone());
        let answer = "x".repeat(ANSWER);
        let requests: Vec<_> = (0..300)
            .map(|_| {
                let (workers, outbox, answer) = (workers.clone(), outbox.clone(), answer.clone());
                tokio::spawn(async move {
                    let _place = workers.begin().await;
                    tokio::task::yield_now().await;
                    outbox.respond("r", &answer);
                })
            })
            .collect();
        // One thread: each pass lets everybody go on who can.
        for _ in 0..300 {
            tokio::task::yield_now().await;
        }
        let answered = requests.iter().filter(|request| request.is_finished()).count();
        assert!((8..=8 + MAX_RUNNING).contains(&answered), "{answered}");
        requests.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
