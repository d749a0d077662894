//! An OpenAI-compatible endpoint that does as it is told and remembers what it was sent.
//!
//! * [`reply`]: what it can be told to answer.
//! * `server`: the HTTP side.

pub mod reply;
mod server;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::PATIENCE;
pub use reply::{Gate, Reply, ScriptedCall};

/// A request it got.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its place among all requests, from 0.
    pub order: usize,
    /// The connection it came over, from 0.
    pub connection: usize,
    /// When it came.
    pub at: Instant,
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body as it came.
    pub raw: Bytes,
    /// Its body; `null` if it is no JSON.
    pub body: Value,
}

impl Recorded {
    /// A header's text; none when it is absent or no visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The header `x-openclaw-session-key`.
    pub fn session_key(&self) -> Option<&str> {
        self.header("x-openclaw-session-key")
    }

    /// The header `x-openclaw-session-id`.
    pub fn session_id(&self) -> Option<&str> {
        self.header("x-openclaw-session-id")
    }

    /// The messages.
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The text of the last user message.
    pub fn last_user_text(&self) -> String {
        let last = self.messages().iter().rfind(|message| message["role"] == "user");
        match last.map(|message| &message["content"]) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }

    /// The role of the last message, such as `user` or `tool`.
    pub fn last_role(&self) -> &str {
        self.messages().last().and_then(|message| message["role"].as_str()).unwrap_or_default()
    }
}

type Answerer = Arc<dyn Fn(&Recorded) -> Option<Reply> + Send + Sync>;

/// The endpoint. Stops when dropped.
pub struct MockProvider {
    address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

struct State {
    book: Mutex<Book>,
    counts: watch::Sender<Counts>,
}

#[derive(Default)]
struct Book {
    requests: Vec<Recorded>,
    /// How many were taken out of the list.
    taken: usize,
    queue: VecDeque<Reply>,
    answerer: Option<Answerer>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    requests: usize,
    disconnects: usize,
    answered: usize,
}

impl State {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MockProvider {
    /// Listens on a free port of 127.0.0.1. Untold, it repeats the last user message.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State { book: Mutex::default(), counts: watch::Sender::default() });
        let stop = CancellationToken::new();
        tokio::spawn(server::run(listener, Arc::clone(&state), stop.clone()));
        Self { address, state, _stop: stop.drop_guard() }
    }

    /// What goes into `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The next request that nothing else is queued for gets this reply. First in, first out.
    pub fn push(&self, reply: Reply) {
        self.state.book().queue.push_back(reply);
    }

    /// [`Self::push`] for several.
    pub fn push_all(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.book().queue.extend(replies);
    }

    /// Answers by looking at the request, where nothing is queued. `None` repeats the last user message.
    pub fn answer_with(&self, answerer: impl Fn(&Recorded) -> Option<Reply> + Send + Sync + 'static) {
        self.state.book().answerer = Some(Arc::new(answerer));
    }

    /// All requests so far, in the order they came.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.book().requests.clone()
    }

    /// Takes the requests that came so far; a long run does this to keep its memory small.
    pub fn take_requests(&self) -> Vec<Recorded> {
        let mut book = self.state.book();
        let requests = std::mem::take(&mut book.requests);
        book.taken += requests.len();
        requests
    }

    /// The requests that carry this session key.
    pub fn requests_of(&self, session_key: &str) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| request.session_key() == Some(session_key)).collect()
    }

    /// Waits until at least `n` requests came, and returns all.
    pub async fn wait_for_requests(&self, n: usize) -> Vec<Recorded> {
        self.wait(|counts| counts.requests >= n, &format!("{n} requests")).await;
        self.requests()
    }

    /// Waits until `n` requests in all were given up by the client before their answer was complete.
    pub async fn wait_for_disconnects(&self, n: usize) {
        self.wait(|counts| counts.disconnects >= n, &format!("{n} disconnects")).await;
    }

    /// Waits until `n` answers in all were written to their end.
    pub async fn wait_for_answers(&self, n: usize) {
        self.wait(|counts| counts.answered >= n, &format!("{n} complete answers")).await;
    }

    /// How many requests the client gave up before their answer was complete.
    pub fn disconnects(&self) -> usize {
        self.state.counts.borrow().disconnects
    }

    async fn wait(&self, reached: impl Fn(&Counts) -> bool, what: &str) {
        let mut counts = self.state.counts.subscribe();
        let wait = timeout(PATIENCE, counts.wait_for(|counts| reached(counts))).await;
        if wait.is_err() {
            let counts = *self.state.counts.borrow();
            panic!(
                "the mock provider waited for {what}; it has {} requests, {} disconnects, {} complete answers",
                counts.requests, counts.disconnects, counts.answered
            );
        }
    }
}
