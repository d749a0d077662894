//! A WebSocket client of the gateway protocol (gateway-ws.md §1), as small as it can be.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use uuid::Uuid;

use crate::PATIENCE;
use crate::device::Device;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Sink = futures_util::stream::SplitSink<Socket, Message>;
type Source = futures_util::stream::SplitStream<Socket>;

/// What a client says of itself when it connects.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `client.id`.
    pub client_id: String,
    /// `client.mode`.
    pub mode: String,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// Capabilities to announce.
    pub caps: Vec<String>,
    /// Headers of the upgrade request, such as `Origin`.
    pub headers: Vec<(String, String)>,
    /// Fields of `connect` that replace those above.
    pub extra: Value,
    /// The device that signs the challenge.
    pub device: Option<Device>,
    /// Sees every text message as it came.
    pub tap: Option<Tap>,
}

/// Sees every text message of a connection as it came, before it is parsed.
#[derive(Clone)]
pub struct Tap(Arc<dyn Fn(&str) + Send + Sync>);

impl Tap {
    /// Calls this with every text message.
    pub fn new(see: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(see))
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

impl Default for ConnectOptions {
    /// A back end that may do everything.
    fn default() -> Self {
        Self {
            client_id: "gateway-client".into(),
            mode: "backend".into(),
            scopes: vec!["operator.admin".into()],
            caps: Vec::new(),
            headers: Vec::new(),
            extra: json!({}),
            device: None,
            tap: None,
        }
    }
}

impl ConnectOptions {
    /// Asking for these scopes only.
    #[must_use]
    pub fn with_scopes(self, scopes: &[&str]) -> Self {
        Self { scopes: scopes.iter().map(|&scope| scope.into()).collect(), ..self }
    }

    /// The parameters of `connect`, without a device.
    pub fn params(&self, token: Option<&str>) -> Value {
        let mut params = json!({
            "minProtocol": 4, "maxProtocol": 4,
            "client": {"id": self.client_id, "version": "1.0.0", "platform": "linux", "mode": self.mode},
            "role": "operator", "scopes": self.scopes, "caps": self.caps,
        });
        if let Some(token) = token {
            params["auth"] = json!({"token": token});
        }
        for (name, value) in self.extra.as_object().into_iter().flatten() {
            params[name] = value.clone();
        }
        params
    }
}

/// How the other side closed the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The close code; none when the connection just broke.
    pub code: Option<u16>,
    /// The reason given.
    pub reason: String,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub enum ConnectError {
    /// The socket could not be opened or upgraded.
    Socket(String),
    /// The gateway answered `connect` with this error, and closed so.
    Refused {
        /// The `error` of the response.
        error: Value,
        /// The close that followed.
        closed: Closed,
    },
    /// The gateway closed without an answer.
    Closed(Closed),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(problem) => write!(f, "no socket: {problem}"),
            Self::Refused { error, closed } => write!(f, "refused with {error}, closed with {closed:?}"),
            Self::Closed(closed) => write!(f, "closed with {closed:?}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// An open connection. Dropping it cuts the connection without a close frame, as a client that vanishes does.
pub struct GatewayClient {
    shared: Arc<Shared>,
    sink: AsyncMutex<Sink>,
    reading: watch::Sender<bool>,
    reader: JoinHandle<()>,
    challenge: Value,
    hello: Value,
    next_id: AtomicU64,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<HashMap<String, mpsc::UnboundedSender<Value>>>,
    events: Mutex<Vec<Event>>,
    /// Counts the events, and says when there are no more.
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    events: usize,
    closed: Option<Closed>,
}

struct Event {
    frame: Value,
    taken: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GatewayClient {
    /// Opens the socket, waits for the challenge, sends `connect` and waits for hello.
    pub async fn connect(url: &str, token: Option<&str>, options: &ConnectOptions) -> Result<Self, ConnectError> {
        let mut client = Self::open_tapped(url, &options.headers, options.tap.clone()).await?;
        let mut params = options.params(token);
        if let Some(device) = &options.device {
            let (nonce, ts) = (client.challenge["nonce"].as_str().unwrap_or_default(), &client.challenge["ts"]);
            params["device"] = device.block(&params, 3, nonce, ts.as_i64().unwrap_or_default());
        }
        let answer = client.send("connect", Some(params)).await.next().await;
        match answer.map(outcome) {
            Some(Ok(hello)) => {
                client.hello = hello;
                Ok(client)
            }
            Some(Err(error)) => Err(ConnectError::Refused { error, closed: client.closed().await }),
            None => Err(ConnectError::Closed(client.closed().await)),
        }
    }

    /// Opens the socket and waits for the challenge, but sends no `connect`.
    pub async fn open(url: &str, headers: &[(String, String)]) -> Result<Self, ConnectError> {
        Self::open_tapped(url, headers, None).await
    }

    async fn open_tapped(url: &str, headers: &[(String, String)], tap: Option<Tap>) -> Result<Self, ConnectError> {
        let socket_error = |error: SocketError| ConnectError::Socket(error.to_string());
        let mut request = url.into_client_request().map_err(socket_error)?;
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("the header has a name");
            request.headers_mut().insert(name, value.parse().expect("the header has a value"));
        }
        // The gateway's own limits are what is under test, not ours.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = connect_async_with_config(request, Some(config), true).await.map_err(socket_error)?;
        let (sink, source) = socket.split();
        let shared = Arc::new(Shared::default());
        let (reading, reading_allowed) = watch::channel(true);
        let reader = tokio::spawn(read(source, Arc::clone(&shared), reading_allowed, tap));
        let mut client = Self {
            shared,
            sink: AsyncMutex::new(sink),
            reading,
            reader,
            challenge: Value::Null,
            hello: Value::Null,
            next_id: AtomicU64::new(1),
        };
        match client.wait_for_event(|frame| frame["event"] == "connect.challenge").await {
            Some(challenge) => client.challenge = challenge["payload"].clone(),
            None => return Err(ConnectError::Closed(client.closed().await)),
        }
        Ok(client)
    }

    /// The challenge's payload.
    pub fn challenge(&self) -> &Value {
        &self.challenge
    }

    /// The payload of hello.
    pub fn hello(&self) -> &Value {
        &self.hello
    }

    /// Sends a request and waits for its first response: its payload, or its error. A connection that closes first is
    /// an error with code `CLOSED`.
    pub async fn request(&self, method: &str, params: Value) -> Result<Value, Value> {
        let mut answers = self.send(method, Some(params)).await;
        self.answer(&mut answers).await
    }

    /// Sends a request that gets two responses with the same id: the payload of the first, and the second. An error in
    /// the first is the only response.
    pub async fn request_final(&self, method: &str, params: Value) -> Result<(Value, Result<Value, Value>), Value> {
        let mut answers = self.send(method, Some(params)).await;
        let accepted = self.answer(&mut answers).await?;
        Ok((accepted, self.answer(&mut answers).await))
    }

    /// Sends a request and returns at once.
    pub async fn send(&self, method: &str, params: Option<Value>) -> Answers {
        let id = format!("{}:{}", self.next_id.fetch_add(1, Ordering::Relaxed), Uuid::new_v4());
        let (answers, receiver) = mpsc::unbounded_channel();
        lock(&self.shared.waiting).insert(id.clone(), answers);
        if self.shared.progress.borrow().closed.is_some() {
            lock(&self.shared.waiting).clear();
        }
        let mut frame = json!({"type": "req", "id": id, "method": method});
        if let Some(params) = params {
            frame["params"] = params;
        }
        self.send_text(frame.to_string()).await;
        Answers { id, method: method.to_owned(), receiver, shared: Arc::clone(&self.shared) }
    }

    /// Sends text as it is. On a closed connection it does nothing: what is waited for tells.
    pub async fn send_text(&self, text: impl Into<String>) {
        let _ = self.sink.lock().await.send(Message::text(text.into())).await;
    }

    /// Sends a binary message.
    pub async fn send_binary(&self, bytes: Vec<u8>) {
        let _ = self.sink.lock().await.send(Message::Binary(Bytes::from(bytes))).await;
    }

    /// Waits for an event that fits, among those that came and were not returned yet; others stay. Takes whole frames.
    pub async fn next_event(&self, fits: impl Fn(&Value) -> bool) -> Value {
        match self.wait_for_event(fits).await {
            Some(event) => event,
            None => panic!("the connection closed first; {}", self.story()),
        }
    }

    /// Waits for an event of this name whose payload fits, and returns the payload.
    pub async fn next_payload(&self, event: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.next_event(|frame| frame["event"] == event && fits(&frame["payload"])).await["payload"].take()
    }

    /// [`Self::next_event`]; none when the connection closes first.
    pub async fn event_or_close(&self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        self.wait_for_event(fits).await
    }

    /// Every event frame so far, in the order they came.
    pub fn events(&self) -> Vec<Value> {
        lock(&self.shared.events).iter().map(|event| event.frame.clone()).collect()
    }

    /// Takes the event frames that came so far; a long run does this to keep its memory small.
    pub fn take_events(&self) -> Vec<Value> {
        lock(&self.shared.events).drain(..).map(|event| event.frame).collect()
    }

    /// Stops reading from the socket, as a client that hangs does, or goes on.
    pub fn set_reading(&self, reading: bool) {
        self.reading.send_replace(reading);
    }

    /// Waits until the connection is closed, and says how.
    pub async fn closed(&self) -> Closed {
        let mut progress = self.shared.progress.subscribe();
        let wait = timeout(PATIENCE, progress.wait_for(|progress| progress.closed.is_some())).await;
        match wait {
            Ok(Ok(progress)) => progress.closed.clone().expect("it was waited for"),
            _ => panic!("the connection stayed open; {}", self.story()),
        }
    }

    /// Whether the connection is closed by now.
    pub fn is_closed(&self) -> bool {
        self.shared.progress.borrow().closed.is_some()
    }

    /// Closes the connection with a close frame and waits for the other side's.
    pub async fn close(self) -> Closed {
        let _ = self.sink.lock().await.close().await;
        self.closed().await
    }

    async fn answer(&self, answers: &mut Answers) -> Result<Value, Value> {
        match answers.next().await {
            Some(answer) => outcome(answer),
            None => Err(json!({"code": "CLOSED", "message": format!("{:?}", self.closed().await)})),
        }
    }

    /// None when the connection closed first.
    async fn wait_for_event(&self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let mut progress = self.shared.progress.subscribe();
        let wait = async {
            loop {
                let closed = progress.borrow_and_update().closed.is_some();
                if let Some(event) = lock(&self.shared.events).iter_mut().find(|e| !e.taken && fits(&e.frame)) {
                    event.taken = true;
                    return Some(event.frame.clone());
                }
                if closed || progress.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(event) => event,
            Err(elapsed) => panic!("no such event came: {elapsed}; {}", self.story()),
        }
    }

    fn story(&self) -> String {
        self.shared.story()
    }
}

impl Shared {
    /// What came so far, for a failed test's message.
    fn story(&self) -> String {
        let events = lock(&self.events);
        let names: Vec<&str> = events.iter().filter_map(|event| event.frame["event"].as_str()).collect();
        let last = events.last().map(|event| event.frame.to_string()).unwrap_or_default();
        let closed = &self.progress.borrow().closed;
        format!("events so far {names:?}, the last {last:.500}, closed {closed:?}")
    }
}

/// The responses to one request, as whole frames.
pub struct Answers {
    id: String,
    method: String,
    receiver: mpsc::UnboundedReceiver<Value>,
    shared: Arc<Shared>,
}

impl Answers {
    /// The id the request was sent under.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next response; none when the connection closed first.
    pub async fn next(&mut self) -> Option<Value> {
        match timeout(PATIENCE, self.receiver.recv()).await {
            Ok(answer) => answer,
            Err(elapsed) => panic!("the gateway did not answer {}: {elapsed}; {}", self.method, self.shared.story()),
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        lock(&self.shared.waiting).remove(&self.id);
    }
}

impl Drop for GatewayClient {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn outcome(mut response: Value) -> Result<Value, Value> {
    if response["ok"] == true { Ok(response["payload"].take()) } else { Err(response["error"].take()) }
}

async fn read(mut source: Source, shared: Arc<Shared>, mut allowed: watch::Receiver<bool>, tap: Option<Tap>) {
    let closed = loop {
        if allowed.wait_for(|allowed| *allowed).await.is_err() {
            return;
        }
        let message = tokio::select! {
            biased;
            // Reading was stopped: the next message stays in the socket.
            changed = allowed.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            message = source.next() => message,
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                if let Some(Tap(see)) = &tap {
                    see(&text);
                }
                match serde_json::from_str(&text) {
                    Ok(frame) => take_frame(&shared, frame),
                    Err(error) => {
                        break Closed { code: None, reason: format!("the gateway sent {text:.200}: {error}") };
                    }
                }
            }
            Some(Ok(Message::Close(frame))) => {
                let code = frame.as_ref().map(|frame| frame.code.into());
                break Closed { code, reason: frame.map(|frame| frame.reason.to_string()).unwrap_or_default() };
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => break Closed { code: None, reason: error.to_string() },
            None => break Closed { code: None, reason: "the connection ended".into() },
        }
    };
    // Lets the library answer the close frame before the socket goes.
    let _ = timeout(PATIENCE, async { while let Some(Ok(_)) = source.next().await {} }).await;
    shared.progress.send_modify(|progress| progress.closed = Some(closed));
    lock(&shared.waiting).clear();
}

fn take_frame(shared: &Shared, frame: Value) {
    if frame["type"] == "res" {
        let waiting = lock(&shared.waiting);
        if let Some(answers) = frame["id"].as_str().and_then(|id| waiting.get(id)) {
            let _ = answers.send(frame);
        }
    } else {
        lock(&shared.events).push(Event { frame, taken: false });
        shared.progress.send_modify(|progress| progress.events += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio_tungstenite::accept_async;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;

    type ServerSocket = WebSocketStream<TcpStream>;

    async fn send(socket: &mut ServerSocket, frame: Value) {
        socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn receive(socket: &mut ServerSocket) -> Value {
        serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap()
    }

    /// A gateway that serves one connection by this script.
    async fn gateway<F: Future<Output = ()> + Send>(
        script: impl FnOnce(ServerSocket) -> F + Send + 'static,
    ) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut socket = accept_async(socket).await.unwrap();
            let payload = json!({"nonce": "n", "ts": 1});
            send(&mut socket, json!({"type": "event", "event": "connect.challenge", "payload": payload})).await;
            script(socket).await;
        });
        (url, served)
    }

    #[tokio::test]
    async fn it_connects_asks_hears_events_and_sees_the_close() {
        let (url, served) = gateway(|mut socket| async move {
            let connect = receive(&mut socket).await;
            assert_eq!(connect["params"]["auth"]["token"], "t");
            send(&mut socket, json!({"type": "res", "id": connect["id"], "ok": true, "payload": {"type": "hello-ok"}}))
                .await;

            let agent = receive(&mut socket).await;
            for status in ["accepted", "ok"] {
                send(&mut socket, json!({"type": "event", "event": "agent", "payload": {"of": status}})).await;
                send(&mut socket, json!({"type": "res", "id": agent["id"], "ok": true, "payload": {"status": status}}))
                    .await;
            }
            let bad = receive(&mut socket).await;
            send(
                &mut socket,
                json!({"type": "res", "id": bad["id"], "ok": false, "error": {"code": "X", "message": "no"}}),
            )
            .await;
            let frame = CloseFrame { code: 1012.into(), reason: "restart".into() };
            socket.close(Some(frame)).await.unwrap();
        })
        .await;

        let client = GatewayClient::connect(&url, Some("t"), &ConnectOptions::default()).await.unwrap();
        assert_eq!(
            (client.challenge()["nonce"].as_str(), client.hello()["type"].as_str()),
            (Some("n"), Some("hello-ok"))
        );
        let (accepted, last) = client.request_final("agent", json!({})).await.unwrap();
        assert_eq!((accepted["status"].as_str(), last.unwrap()["status"].as_str()), (Some("accepted"), Some("ok")));
        // Out of order: what does not fit stays for later.
        client.next_payload("agent", |payload| payload["of"] == "ok").await;
        client.next_payload("agent", |payload| payload["of"] == "accepted").await;
        assert_eq!(client.request("bad", json!({})).await.unwrap_err()["code"], "X");
        assert_eq!(client.closed().await, Closed { code: Some(1012), reason: "restart".into() });
        assert_eq!(client.request("late", json!({})).await.unwrap_err()["code"], "CLOSED");
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_connect_tells_the_error_and_the_close_code() {
        let (url, served) = gateway(|mut socket| async move {
            let connect = receive(&mut socket).await;
            send(
                &mut socket,
                json!({"type": "res", "id": connect["id"], "ok": false, "error": {"code": "INVALID_REQUEST"}}),
            )
            .await;
            let frame = CloseFrame { code: 1008.into(), reason: "unauthorized".into() };
            socket.close(Some(frame)).await.unwrap();
        })
        .await;
        match GatewayClient::connect(&url, None, &ConnectOptions::default()).await {
            Err(ConnectError::Refused { error, closed }) => {
                assert_eq!((error["code"].as_str(), closed.code), (Some("INVALID_REQUEST"), Some(1008)));
            }
            other => panic!("{:?}", other.err()),
        }
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_sees_nothing_until_it_goes_on() {
        let (sent, was_sent) = oneshot::channel();
        let (url, served) = gateway(|mut socket| async move {
            let ask = receive(&mut socket).await;
            send(&mut socket, json!({"type": "event", "event": "held", "payload": {}})).await;
            send(&mut socket, json!({"type": "res", "id": ask["id"], "ok": true})).await;
            sent.send(()).unwrap();
            while socket.next().await.is_some() {}
        })
        .await;
        let client = GatewayClient::open(&url, &[]).await.unwrap();
        client.set_reading(false);
        let mut answers = client.send("ask", None).await;
        was_sent.await.unwrap();
        // Another connection's round trip: by then the reader would have been woken.
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (connected, accepted) = tokio::join!(TcpStream::connect(other.local_addr().unwrap()), other.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        assert_eq!(client.events().len(), 1, "only the challenge");
        client.set_reading(true);
        assert!(answers.next().await.is_some());
        drop(answers);
        drop(client);
        served.await.unwrap();
    }
}
