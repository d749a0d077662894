//! One WebSocket connection to a gateway (gateway-ws.md §1).

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use crate::agent::endpoint::Endpoint;
use crate::args::PROGRAM;
use crate::tls;

/// To open the connection, TLS and upgrade included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// For the challenge, and again for the answer to `connect` (gateway-ws.md §1.2).
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);
/// Ticks come this often where the gateway does not say.
const DEFAULT_TICK: Duration = Duration::from_secs(30);
const PROTOCOL: u32 = 4;

/// An open, authenticated connection.
pub(crate) struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    tick: Duration,
}

/// Why there is no connection. Nothing was delivered in any of these cases.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    /// Nothing answered as a gateway.
    Unreachable(String),
    /// Closed with 1000 and no reason: a gateway that is just being replaced.
    ClosedInHandshake,
    /// Something answered that must not be sent our credential.
    Foreign(String),
    /// The gateway is starting or stopping.
    NotReady(String),
    /// The gateway said no.
    Refused(String),
}

/// The connection is gone.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

/// What a gateway sends.
#[derive(Debug)]
pub(crate) enum Frame {
    Response(Response),
    Event { name: String, payload: Value },
}

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) id: String,
    pub(crate) ok: bool,
    pub(crate) payload: Value,
    pub(crate) error: Option<RemoteError>,
}

/// An error as the gateway words it.
#[derive(Debug)]
pub(crate) struct RemoteError {
    pub(crate) message: String,
    pub(crate) retryable: bool,
    /// The gateway says that it is being replaced; the one that comes after it will answer.
    pub(crate) restarting: bool,
}

impl Connection {
    /// Connects and authenticates as the operator. `caps` are the optional abilities of gateway-ws.md §1.5.
    pub(crate) async fn open(endpoint: &Endpoint, caps: &[&str]) -> Result<Self, OpenFailure> {
        let unreachable = |reason: String| {
            OpenFailure::Unreachable(format!("Gateway not reachable at {} ({reason}).", endpoint.shown()))
        };
        let holder = endpoint.holder();
        let connector = endpoint.connector().map_err(unreachable)?;
        let connecting = connect_async_tls_with_config(endpoint.url.as_str(), None, false, Some(connector));
        let socket = match timeout(CONNECT_LIMIT, connecting).await {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(WsError::Http(answer))) if answer.status() == 400 && endpoint.url.scheme() == "ws" => {
                return Err(unreachable("it answered with HTTP status 400; if it speaks TLS, use wss://".to_owned()));
            }
            Ok(Err(error)) => return Err(unreachable(reason_of(&error))),
            Err(_) => return Err(unreachable("no answer in time".to_owned())),
        };
        let mut connection = Self { socket, last_id: 0, tick: DEFAULT_TICK };
        let silent = |_| unreachable("it does not speak the gateway protocol".to_owned());
        let challenge = timeout(HANDSHAKE_LIMIT, connection.next_frame()).await.map_err(silent)?;
        match challenge {
            Ok(Frame::Event { name, .. }) if name == "connect.challenge" => {}
            Ok(_) => return Err(unreachable("it does not speak the gateway protocol".to_owned())),
            Err(ended) => return Err(ended.in_handshake(&unreachable)),
        }
        let mut params = json!({
            "minProtocol": PROTOCOL,
            "maxProtocol": PROTOCOL,
            "client": {
                "id": "cli",
                "version": env!("CARGO_PKG_VERSION"),
                "platform": std::env::consts::OS,
                "mode": "cli",
                "displayName": PROGRAM,
            },
            "role": "operator",
            "scopes": ["operator.admin"],
            "caps": caps,
        });
        if let Some(secret) = endpoint.secret(holder.as_ref()).map_err(OpenFailure::Foreign)? {
            params["auth"] = json!({"token": secret.expose()});
        }
        let id = match connection.send("connect", &params).await {
            Ok(id) => id,
            Err(Lost(reason)) => return Err(unreachable(reason)),
        };
        let answer = async {
            loop {
                match connection.next_frame().await {
                    Ok(Frame::Response(response)) if response.id == id => break Ok(response),
                    Ok(_) => {}
                    Err(ended) => break Err(ended),
                }
            }
        };
        let hello = timeout(HANDSHAKE_LIMIT, answer)
            .await
            .map_err(|_| unreachable("no answer to connect in time".to_owned()))?
            .map_err(|ended| ended.in_handshake(&unreachable))?;
        if !hello.ok {
            let error = hello.error.unwrap_or(RemoteError {
                message: "it gave no reason".into(),
                retryable: false,
                restarting: false,
            });
            let message = format!("The gateway at {} refused the connection: {}", endpoint.shown(), error.message);
            return Err(match endpoint.withheld() {
                _ if error.retryable => OpenFailure::NotReady(message),
                Some(why) => OpenFailure::Refused(format!("{}. {why}", message.trim_end_matches('.'))),
                None => OpenFailure::Refused(message),
            });
        }
        if let Some(tick) = hello.payload.pointer("/policy/tickIntervalMs").and_then(Value::as_u64) {
            connection.tick = Duration::from_millis(tick.clamp(1_000, 300_000));
        }
        Ok(connection)
    }

    /// Sends a request and gives its id. On an error it may have been delivered all the same.
    pub(crate) async fn send(&mut self, method: &str, params: &Value) -> Result<String, Lost> {
        self.last_id += 1;
        let id = self.last_id.to_string();
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.socket.send(Message::text(frame.to_string())).await.map_err(|error| Lost(reason_of(&error)))?;
        Ok(id)
    }

    /// The next frame. Silence over two ticks counts as a lost connection.
    pub(crate) async fn next(&mut self) -> Result<Frame, Lost> {
        match timeout(self.tick * 2, self.next_frame()).await {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(ended)) => Err(Lost(ended.reason)),
            Err(_) => Err(Lost("the gateway went silent".to_owned())),
        }
    }

    /// Sends a request and waits for its answer, past everything else.
    pub(crate) async fn ask(&mut self, method: &str, params: &Value) -> Result<Response, Lost> {
        let id = self.send(method, params).await?;
        loop {
            match self.next().await? {
                Frame::Response(response) if response.id == id => return Ok(response),
                _ => {}
            }
        }
    }

    /// Says goodbye. Nothing depends on it.
    pub(crate) async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }

    async fn next_frame(&mut self) -> Result<Frame, Ended> {
        loop {
            let message = match self.socket.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(Ended { reason: reason_of(&error), plain_close: false }),
                None => return Err(Ended { reason: "connection closed".to_owned(), plain_close: false }),
            };
            match message {
                Message::Text(text) => {
                    if let Some(frame) = parse(&text) {
                        return Ok(frame);
                    }
                }
                Message::Close(close) => return Err(Ended::of_close(close)),
                _ => {}
            }
        }
    }
}

/// How a connection ended.
struct Ended {
    reason: String,
    /// 1000 without a reason.
    plain_close: bool,
}

impl Ended {
    fn of_close(close: Option<tokio_tungstenite::tungstenite::protocol::CloseFrame>) -> Self {
        match close {
            Some(frame) if frame.code == CloseCode::Normal && frame.reason.is_empty() => {
                Self { reason: "closed with 1000".to_owned(), plain_close: true }
            }
            Some(frame) => {
                let code = u16::from(frame.code);
                let reason = frame.reason.as_str();
                let text = if reason.is_empty() {
                    format!("closed with {code}")
                } else {
                    format!("closed with {code}: {reason}")
                };
                Self { reason: text, plain_close: false }
            }
            None => Self { reason: "closed".to_owned(), plain_close: false },
        }
    }

    fn in_handshake(self, unreachable: &dyn Fn(String) -> OpenFailure) -> OpenFailure {
        if self.plain_close { OpenFailure::ClosedInHandshake } else { unreachable(self.reason) }
    }
}

/// A frame, if the text is one; what is not is skipped, as every client of this protocol does (gateway-ws.md §1.3).
fn parse(text: &str) -> Option<Frame> {
    let mut frame: Value = serde_json::from_str(text).ok()?;
    let text_of = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    match frame.get("type")?.as_str()? {
        "res" => {
            let error = frame.get("error").map(|error| RemoteError {
                message: text_of(error, "message").unwrap_or_else(|| "it gave no reason".to_owned()),
                retryable: error.get("retryable").and_then(Value::as_bool).unwrap_or(false),
                restarting: error.pointer("/details/reason").and_then(Value::as_str) == Some("gateway-restarting"),
            });
            Some(Frame::Response(Response {
                id: text_of(&frame, "id")?,
                ok: frame.get("ok")?.as_bool()?,
                payload: frame.get_mut("payload").map(Value::take).unwrap_or_default(),
                error,
            }))
        }
        "event" => Some(Frame::Event {
            name: text_of(&frame, "event")?,
            payload: frame.get_mut("payload").map(Value::take).unwrap_or_default(),
        }),
        _ => None,
    }
}

fn reason_of(error: &WsError) -> String {
    match error {
        WsError::Io(error) => match error.kind() {
            _ if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref()) => tls::explain(error),
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => error.to_string(),
        },
        WsError::Http(response) => format!("it answered with HTTP status {}", response.status().as_u16()),
        WsError::ConnectionClosed | WsError::AlreadyClosed | WsError::Protocol(_) => "connection closed".to_owned(),
        other => other.to_string(),
    }
}
