//! The socket from challenge to close (gateway-ws.md §1).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use watertight_core::grant::Verb;
use watertight_engine::hub::Interest;
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::connect::Challenge;
use watertight_wire::openclaw::frame::{Event, Response, StateVersion};
use watertight_wire::openclaw::hello::{Features, Granted, Health, HelloOk, Policy, Server, SessionDefaults, Snapshot};
use watertight_wire::openclaw::reply::{Shutdown, Tick};

use super::call::Client;
use super::dispatch::Dispatcher;
use super::feed::{self, Caps, Feed};
use super::gate::{Gate, Gated};
use super::handshake::{self, Refusal, Welcome};
use super::origin::Page;
use super::outbox::{HARD_LIMIT, Need, Outbox, close_frame};
use super::presence::{self, Circle, Line};
use super::writer::{Broken, Writer};
use super::{ATTACHMENTS, MAX_FRAME_BYTES, close, method, system, view};
use crate::accept::Peer;
use crate::gateway::{Gateway, Phase, now};

pub(super) type Socket = WebSocketStream<Gated<TokioIo<Upgraded>>>;

/// What a connection keeps for reading also while nothing comes, in bytes.
const READ_BUFFER: usize = 4 * 1024;
/// Small frames that leave together, in bytes. The library never gives back what the largest batch took.
const WRITE_BUFFER: usize = 4 * 1024;

/// The capability of a client that hears runs only of the sessions it names.
const SCOPED_EVENTS: &str = "session-scoped-events";

/// Serves a socket to its end.
pub(crate) async fn serve(gateway: Arc<Gateway>, peer: Peer, page: Page, io: TokioIo<Upgraded>) {
    let gate = Gate::default();
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_frame_size(Some(MAX_FRAME_BYTES))
        .max_message_size(Some(MAX_FRAME_BYTES));
    let mut socket = WebSocketStream::from_raw_socket(gate.guard(io), Role::Server, Some(config)).await;
    let grace = gateway.options.timing.close_grace;
    let conn_id = Uuid::new_v4();
    let deadline = Instant::from_std(peer.accepted_at) + gateway.options.timing.handshake;

    // On the heap, as every other part that is over soon: what a connection's task takes, it takes to its end.
    let entering = Box::pin(enter(&gateway, &peer, page, &gate, conn_id, &mut socket));
    let entered = tokio::time::timeout_at(deadline, entering).await;
    let (client, line, greeting, welcome) = match entered {
        Ok(Ok(entered)) => entered,
        Ok(Err(end)) => return Box::pin(finish(socket, end, grace)).await,
        Err(_) => return Box::pin(finish(socket, End::Silent, grace)).await,
    };
    // Believed from here on: no longer a stranger.
    gate.open();
    drop(peer);
    let socket = converse(&gateway, client, greeting, &welcome, &gate, socket).await;
    drop(line);
    if let Some(socket) = socket {
        Box::pin(finish(socket, End::Gone, grace)).await;
    }
}

/// How a socket ends.
enum End {
    /// The client is gone, or has its close frame already.
    Gone,
    /// With a close frame that says nothing.
    Silent,
    /// With a close frame that says why.
    With(CloseFrame),
}

impl End {
    fn with(code: u16, reason: &str) -> Self {
        Self::With(close_frame(code, reason))
    }
}

/// The messages a client gets first.
struct Greeting {
    hello: HelloOk,
    health: Health,
    version: StateVersion,
}

/// From challenge to the judgement of the first frame.
async fn enter<'a>(
    gateway: &'a Arc<Gateway>,
    peer: &Peer,
    page: Page,
    gate: &Gate,
    conn_id: Uuid,
    socket: &mut Socket,
) -> Result<(Arc<Client>, Line<'a>, Box<Greeting>, Box<Welcome>), End> {
    let nonce = Uuid::new_v4().to_string();
    let challenge = Event::unnumbered("connect.challenge", Challenge { nonce: &nonce, ts: now().0 });
    send(socket, &challenge).await?;
    let first = loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => break text,
            Some(Ok(Message::Binary(_))) => return Err(End::with(close::NOT_TEXT, "text frames only")),
            Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(misread(&error, gate)),
        }
    };
    let welcome = match handshake::judge(gateway, peer, page, &first).await {
        Ok(welcome) => welcome,
        Err(Refusal { response, code, reason }) => {
            if let Some((id, error)) = response {
                send(socket, &Response::<()>::failed(&id, &error, None)).await?;
            }
            return Err(End::with(code, &reason));
        }
    };
    let entry = presence::entry(&welcome.params.client, &welcome.scopes, conn_id, now());
    let Some(line) = gateway.roll.enter(&welcome.access, entry) else {
        let error = ErrorShape::unavailable("This credential has too many connections open. Close one first.");
        send(socket, &Response::<()>::failed(&welcome.id, &error.retry_after(1000), None)).await?;
        return Err(End::with(close::TRY_LATER, "too many connections"));
    };
    let greeting = match greet(gateway, &line.circle(), &welcome, conn_id).await {
        Ok(greeting) => greeting,
        Err(failure) => {
            send(socket, &Response::<()>::failed(&welcome.id, &failure, None)).await?;
            return Err(End::with(close::TRY_LATER, "not available now"));
        }
    };
    let outbox = Arc::new(Outbox::default());
    let caps = Caps {
        session_scoped: welcome.params.has_cap(SCOPED_EVENTS),
        tool_events: welcome.params.has_cap("tool-events"),
    };
    let client = Client {
        conn_id,
        access: welcome.access.clone(),
        circle: line.circle(),
        feed: Arc::new(Feed::new(outbox.clone(), caps)),
        outbox,
        listener: OnceLock::new(),
        gone: CancellationToken::new(),
    };
    Ok((Arc::new(client), line, Box::new(greeting), Box::new(welcome)))
}

async fn send(socket: &mut Socket, frame: &impl serde::Serialize) -> Result<(), End> {
    let text = serde_json::to_string(frame).map_err(|error| {
        tracing::error!(%error, "a frame cannot be written as JSON");
        End::Gone
    })?;
    socket.send(Message::text(text)).await.map_err(|_| End::Gone)
}

/// Why a frame could not be read, as a close frame says it.
fn misread(error: &Error, gate: &Gate) -> End {
    match error {
        _ if gate.is_overrun() => End::with(close::TOO_BIG, "preauth payload too large"),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => End::with(close::TOO_BIG, "payload too large"),
        Error::Utf8(_) => End::with(close::NOT_UTF8, "text is not UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        Error::Protocol(_) => End::with(close::PROTOCOL, "WebSocket protocol error"),
        _ => End::Gone,
    }
}

async fn greet(gateway: &Gateway, circle: &Circle, welcome: &Welcome, conn_id: Uuid) -> Result<Greeting, ErrorShape> {
    let Welcome { access, scopes, .. } = welcome;
    let engine = &gateway.engine;
    let options = &gateway.options;
    let unavailable = |error| super::call::Failure::from(error).error;
    let health = system::snapshot(gateway, access).await.map_err(unavailable)?;
    let main_key = engine.main_key(access, None).map_err(unavailable)?;
    let defaults = view::defaults(engine);
    let version = StateVersion { presence: circle.version(), health: circle.next_health_version() };
    let hello = HelloOk::new(
        Server { version: options.version, boot_id: gateway.boot_id.to_string(), conn_id: conn_id.to_string() },
        Features { methods: method::advertised(), events: feed::EVENTS },
        Snapshot {
            presence: if access.verbs().allows(Verb::Read) { circle.list() } else { Vec::new() },
            health: health.clone(),
            state_version: version,
            uptime_ms: gateway.uptime_ms(),
            session_defaults: SessionDefaults {
                default_agent_id: view::default_agent(engine),
                main_key: "main",
                main_session_key: main_key.to_string(),
                scope: "per-sender",
                model_configured: !defaults.model.is_empty(),
            },
            auth_mode: access.verbs().allows(Verb::Admin).then(|| options.auth_mode.as_str()),
        },
        Granted { role: "operator", scopes: scopes.clone() },
        Policy {
            max_payload: MAX_FRAME_BYTES,
            max_buffered_bytes: HARD_LIMIT,
            tick_interval_ms: u64::try_from(options.timing.tick.as_millis()).unwrap_or(u64::MAX),
            attachments: ATTACHMENTS,
        },
    );
    Ok(Greeting { hello, health, version })
}

/// From hello to the end. The socket, where it can still be closed in order.
async fn converse(
    gateway: &Arc<Gateway>,
    client: Arc<Client>,
    greeting: Box<Greeting>,
    welcome: &Welcome,
    gate: &Gate,
    socket: Socket,
) -> Option<Socket> {
    let reads = client.access.verbs().allows(Verb::Read);
    let outbox = client.outbox.clone();
    let _gone = client.gone.clone().drop_guard();
    tracing::debug!(connection = %client.conn_id, client = ?welcome.params.client.id, "a client is connected");

    // Before the first list, so that no change after it is missed.
    let presence = client.circle.watch();
    outbox.respond(&welcome.id, &greeting.hello);
    // After hello, so that no event comes before it.
    if reads {
        let scoped = welcome.params.has_cap(SCOPED_EVENTS);
        let interest = if scoped { Interest::Watched } else { Interest::Everything };
        client.listener.get_or_init(|| gateway.engine.listen(&client.access, interest, client.feed.clone()));
        send_presence(&client, greeting.version.health);
    }
    let version = StateVersion { presence: client.circle.version(), ..greeting.version };
    outbox.versioned_event("health", &greeting.health, Need::Droppable, Some(version));

    let (mut sink, mut stream) = socket.split();
    let (ping_written, pinged) = watch::channel(None);
    let session = Session {
        gateway,
        client: &client,
        dispatcher: Dispatcher::new(gateway.clone(), client.clone()),
        reads,
        health_version: greeting.version.health,
    };
    drop(greeting);
    let grace = gateway.options.timing.close_grace;
    let end = {
        let timing = gateway.options.timing;
        let patience = timing.ping + timing.pong;
        let mut writer = Writer { outbox: &outbox, sink: &mut sink, gate, ping_written, patience };
        let mut writer = std::pin::pin!(writer.write());
        let end = tokio::select! {
            written = &mut writer => Some(written),
            read = session.read(&mut stream, pinged, presence) => match read {
                Read::Gone => {
                    tracing::debug!(connection = %client.conn_id, "a client is gone");
                    outbox.abandon();
                    return None;
                }
                // The outbox is closing; what it holds still goes out, if the client takes it in time.
                Read::Closing => None,
            },
        };
        match end {
            Some(written) => written,
            None => tokio::time::timeout(grace, writer).await.unwrap_or(Err(Broken)),
        }
    };
    tracing::debug!(connection = %client.conn_id, "a client is being disconnected");
    match end {
        Ok(()) => sink.reunite(stream).ok(),
        Err(Broken) => {
            outbox.abandon();
            None
        }
    }
}

fn send_presence(client: &Client, health: u64) {
    if let Some((payload, presence)) = client.circle.payload() {
        let version = StateVersion { presence, health };
        client.outbox.written_event("presence", &payload, Need::Droppable, Some(version));
    }
}

/// Why reading stopped.
enum Read {
    /// The client is gone, or does not answer.
    Gone,
    /// The outbox is closing.
    Closing,
}

/// The reading side of a connection that was let in.
struct Session<'a> {
    gateway: &'a Arc<Gateway>,
    client: &'a Arc<Client>,
    dispatcher: Dispatcher,
    reads: bool,
    /// Of the health snapshot the client has.
    health_version: u64,
}

impl Session<'_> {
    /// Reads requests and keeps the clocks until the connection ends.
    async fn read(
        &self,
        stream: &mut SplitStream<Socket>,
        mut pinged: watch::Receiver<Option<Instant>>,
        mut presence: watch::Receiver<u64>,
    ) -> Read {
        let timing = self.gateway.options.timing;
        let outbox = &self.client.outbox;
        let mut ticks = clock(timing.tick);
        let mut pings = clock(timing.ping);
        let mut closing = std::pin::pin!(self.gateway.reached(Phase::Closing));
        let mut next_presence = self.client.circle.told(timing.presence);
        let mut pong = Pong::new(timing.pong);
        loop {
            let backed_up = outbox.is_backed_up();
            pong.reading(!backed_up, Instant::now());
            tokio::select! {
                // In this order: a client that keeps sending cannot keep a closed connection open, and a ping is known
                // to be written before its pong is read.
                biased;
                () = outbox.ended() => return Read::Closing,
                () = &mut closing => {
                    // The last runs have just ended: what is still to be answered about them goes out first.
                    let _ = tokio::time::timeout(timing.close_grace, self.dispatcher.answered()).await;
                    outbox.event("shutdown", &Shutdown { reason: "gateway stopping" }, Need::Required);
                    outbox.close(close::RESTART, "service restart");
                    return Read::Closing;
                }
                () = outbox.room(), if backed_up => {}
                _ = ticks.tick() => {
                    outbox.event("tick", &Tick { ts: now().0 }, Need::Droppable);
                }
                _ = pings.tick() => outbox.ping(),
                Ok(()) = pinged.changed() => {
                    if let Some(at) = *pinged.borrow_and_update() {
                        pong.pinged(at);
                    }
                }
                () = tokio::time::sleep_until(pong.due().unwrap_or_else(Instant::now)), if pong.due().is_some() => {
                    tracing::info!(connection = %self.client.conn_id, "a client does not answer pings");
                    return Read::Gone;
                }
                Ok(()) = changed_after(&mut presence, next_presence), if self.reads => {
                    next_presence = self.client.circle.told(timing.presence);
                    presence.mark_unchanged();
                    send_presence(self.client, self.health_version);
                }
                message = stream.next(), if !backed_up => match message {
                    Some(Ok(message)) => {
                        pong.heard();
                        if let Some(end) = self.message(message).await {
                            return end;
                        }
                    }
                    Some(Err(error)) => match misread(&error, &Gate::default()) {
                        End::With(frame) => {
                            outbox.close(frame.code.into(), &frame.reason);
                            return Read::Closing;
                        }
                        End::Gone | End::Silent => return Read::Gone,
                    },
                    None => return Read::Gone,
                },
            }
        }
    }

    async fn message(&self, message: Message) -> Option<Read> {
        match message {
            Message::Text(text) => {
                Box::pin(self.dispatcher.frame(text)).await;
                None
            }
            Message::Binary(_) => {
                self.client.outbox.close(close::NOT_TEXT, "text frames only");
                Some(Read::Closing)
            }
            // The library answers pings and closes; after a close it reports the end.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => None,
        }
    }
}

/// When an answer to a ping is due. While requests are not read, pongs are not either.
struct Pong {
    patience: Duration,
    reading: bool,
    due: Option<Instant>,
}

impl Pong {
    fn new(patience: Duration) -> Self {
        Self { patience, reading: true, due: None }
    }

    /// Whether the client is read from now. After a pause it gets the whole time again.
    fn reading(&mut self, reading: bool, now: Instant) {
        if reading && !self.reading {
            self.due = self.due.map(|_| now + self.patience);
        }
        self.reading = reading;
    }

    fn pinged(&mut self, at: Instant) {
        self.due = self.due.or(Some(at + self.patience));
    }

    /// The client said something.
    fn heard(&mut self) {
        self.due = None;
    }

    fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.reading)
    }
}

/// Ticks after each period, never at once and never in a burst.
fn clock(period: Duration) -> tokio::time::Interval {
    let mut clock = tokio::time::interval_at(Instant::now() + period, period);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}

/// Completes on a change, but not before `earliest`: a rush of connections is told in one go.
async fn changed_after(version: &mut watch::Receiver<u64>, earliest: Instant) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep_until(earliest).await;
    version.changed().await
}

/// Sends the close frame, if one is given, then reads what the client still sends until it closes too. Dropping a
/// socket with unread bytes would reset it, and the client might never see why it was closed.
async fn finish(mut socket: Socket, end: End, grace: Duration) {
    let farewell = async {
        let frame = match end {
            End::Gone => None,
            End::Silent => Some(Message::Close(None)),
            End::With(frame) => Some(Message::Close(Some(frame))),
        };
        if let Some(frame) = frame {
            let _ = socket.send(frame).await;
        }
        let io = socket.get_mut().inner_mut();
        let _ = io.shutdown().await;
        // On the heap: this future is part of every connection's task.
        let mut rest = vec![0; 4096];
        while matches!(io.read(&mut rest).await, Ok(read) if read > 0) {}
    };
    let _ = tokio::time::timeout(grace, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_not_read_gets_the_whole_time_for_its_pong_again() {
        let patience = Duration::from_secs(25);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pong = Pong::new(patience);
        assert_eq!(pong.due(), None);
        pong.pinged(start);
        pong.pinged(after(20));
        assert_eq!(pong.due(), Some(after(25)), "a later ping gives no more time");
        pong.reading(false, after(21));
        assert_eq!(pong.due(), None);
        pong.reading(true, after(60));
        assert_eq!(pong.due(), Some(after(85)));
        pong.heard();
        pong.reading(false, after(61));
        pong.reading(true, after(62));
        assert_eq!(pong.due(), None);
    }
}
