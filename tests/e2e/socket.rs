//! A WebSocket to the gateway at the level of frames, for exchanges that no well-behaved client has.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// Far longer than any answer takes; ends a test that waits for what never comes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// One connection and everything it received.
pub(crate) struct Socket {
    inner: Box<WebSocketStream<MaybeTlsStream<TcpStream>>>,
    /// Every frame received so far, in order.
    pub(crate) log: Vec<Value>,
    taken: Vec<bool>,
    next_id: u64,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Close {
    /// The close code; none where the peer only hung up.
    pub(crate) code: Option<u16>,
    /// The reason given with it.
    pub(crate) reason: String,
}

/// One answered chat message.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Its run.
    pub(crate) run: String,
    /// The payloads of its `chat` events, the last one terminal.
    pub(crate) events: Vec<Value>,
}

impl Turn {
    /// How it ended: `final`, `error` or `aborted`.
    pub(crate) fn state(&self) -> &str {
        self.end()["state"].as_str().unwrap_or_default()
    }

    /// The last event.
    pub(crate) fn end(&self) -> &Value {
        self.events.last().expect("a turn has events")
    }

    /// The text of the answer.
    pub(crate) fn text(&self) -> String {
        message_text(&self.end()["message"])
    }
}

/// The text of a message as the wire shows it: a string, or the text blocks joined.
pub(crate) fn message_text(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        blocks => blocks.as_array().into_iter().flatten().filter_map(|block| block["text"].as_str()).collect(),
    }
}

impl Socket {
    /// Opens a connection; nothing is sent.
    pub(crate) async fn open(url: &str) -> Self {
        let (inner, _) = timeout(PATIENCE, connect_async_with_config(url, None, true))
            .await
            .expect("the gateway answers in time")
            .expect("the gateway accepts the connection");
        Self { inner: Box::new(inner), log: Vec::new(), taken: Vec::new(), next_id: 0 }
    }

    /// Opens a connection and says hello with `scopes`; answers the whole hello response.
    pub(crate) async fn connect(url: &str, token: &str, scopes: Value, caps: Value) -> (Self, Value) {
        let mut socket = Self::open(url).await;
        socket.until("the challenge", |frame| frame["event"] == "connect.challenge").await;
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4,
            "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
            "caps": caps, "role": "operator", "scopes": scopes, "auth": {"token": token},
        });
        let hello = socket.request("connect", params).await;
        assert_eq!(hello["ok"], true, "{hello:#}");
        (socket, hello)
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &Value) {
        self.send_message(Message::text(frame.to_string())).await;
    }

    /// Sends a message as it is. A gateway that has hung up is no failure: what it answered is still to be read.
    pub(crate) async fn send_message(&mut self, message: Message) {
        let _ = timeout(PATIENCE, self.inner.send(message)).await.expect("the gateway takes the message in time");
    }

    /// Sends a request without waiting; answers its id.
    pub(crate) async fn start(&mut self, method: &str, params: Value) -> String {
        self.next_id += 1;
        let id = format!("t{}", self.next_id);
        self.send(&json!({"type": "req", "id": id, "method": method, "params": params})).await;
        id
    }

    /// The response to the request `id`.
    pub(crate) async fn response(&mut self, id: &str) -> Value {
        self.until(&format!("the answer to {id}"), |frame| frame["type"] == "res" && frame["id"] == id).await
    }

    /// Sends a request; answers the first response to it.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.start(method, params).await;
        self.response(&id).await
    }

    /// The payload of a request that must succeed.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let response = self.request(method, params).await;
        assert_eq!(response["ok"], true, "{method}: {response:#}");
        response["payload"].clone()
    }

    /// The error of a request that must fail.
    pub(crate) async fn refused(&mut self, method: &str, params: Value) -> Value {
        let response = self.request(method, params).await;
        assert_eq!(response["ok"], false, "{method}: {response:#}");
        assert!(response["error"]["code"].is_string() && response["error"]["message"] != "", "{response:#}");
        response["error"].clone()
    }

    /// Takes the first frame, received or to come, that `wanted` accepts. Each frame is taken once.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut at = 0;
        loop {
            while at < self.log.len() {
                if !self.taken[at] && wanted(&self.log[at]) {
                    self.taken[at] = true;
                    return self.log[at].clone();
                }
                at += 1;
            }
            if let Err(close) = self.receive().await {
                panic!("the connection ended with {close:?} before {what}; {}", self.story());
            }
        }
    }

    /// Reads until the connection ends.
    pub(crate) async fn closed(&mut self) -> Close {
        loop {
            if let Err(close) = self.receive().await {
                return close;
            }
        }
    }

    /// Sends a chat message; answers its run id once it is acknowledged.
    pub(crate) async fn start_chat(&mut self, key: &str, message: &str) -> String {
        let run = uuid::Uuid::new_v4().to_string();
        let ack = self.call("chat.send", json!({"sessionKey": key, "message": message, "idempotencyKey": run})).await;
        assert_eq!((&ack["status"], &ack["runId"]), (&"started".into(), &run.as_str().into()), "{ack:#}");
        run
    }

    /// Waits for the end of a run and collects its `chat` events.
    pub(crate) async fn end_of(&mut self, run: String) -> Turn {
        let of_run = |frame: &Value| frame["event"] == "chat" && frame["payload"]["runId"] == run.as_str();
        self.until(&format!("the end of run {run}"), |frame| of_run(frame) && is_terminal(&frame["payload"])).await;
        let events = self.log.iter().filter(|frame| of_run(frame)).map(|frame| frame["payload"].clone()).collect();
        Turn { run, events }
    }

    /// Sends a chat message and waits for the end of its run, whatever it is.
    pub(crate) async fn chat(&mut self, key: &str, message: &str) -> Turn {
        let run = self.start_chat(key, message).await;
        self.end_of(run).await
    }

    /// The messages of a session, oldest first: role and text.
    pub(crate) async fn history(&mut self, key: &str) -> Vec<(String, String)> {
        let history = self.call("chat.history", json!({"sessionKey": key, "limit": 1000})).await;
        let messages = history["messages"].as_array().expect("history has messages");
        messages.iter().map(|m| (m["role"].as_str().unwrap_or_default().to_owned(), message_text(m))).collect()
    }

    /// What came last, for a failed test's message.
    fn story(&self) -> String {
        let last: Vec<String> =
            self.log.iter().rev().take(3).map(|frame| format!("{:.600}", frame.to_string())).collect();
        format!("of {} frames the last were, newest first:\n{}", self.log.len(), last.join("\n"))
    }

    async fn receive(&mut self) -> Result<(), Close> {
        let message = timeout(PATIENCE, self.inner.next())
            .await
            .unwrap_or_else(|_| panic!("nothing came for {PATIENCE:?}; last: {:#?}", self.log.last()));
        match message {
            Some(Ok(Message::Text(text))) => {
                self.log.push(serde_json::from_str(&text).expect("the gateway sends JSON"));
                self.taken.push(false);
                Ok(())
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                Err(Close { code: Some(frame.code.into()), reason: frame.reason.to_string() })
            }
            Some(Ok(Message::Close(None))) | None => Err(Close { code: None, reason: String::new() }),
            Some(Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) | Error::Protocol(_))) => {
                Err(Close { code: None, reason: String::new() })
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => panic!("the gateway broke the protocol: {error}"),
        }
    }
}

fn is_terminal(payload: &Value) -> bool {
    matches!(payload["state"].as_str(), Some("final" | "error" | "aborted"))
}
