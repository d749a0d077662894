//! The socket from challenge to close (gateway-ws.md §1).

use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use watertight_core::grant::Verb;
use watertight_engine::admission::Held;
use watertight_engine::hub::Interest;
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::connect::Challenge;
use watertight_wire::openclaw::frame::{Event, Response, StateVersion};
use watertight_wire::openclaw::hello::{
    Features, Granted, Health, HelloOk, IssuedToken, Policy, Server, SessionDefaults, Snapshot,
};
use watertight_wire::openclaw::reply::{Shutdown, Tick};

use super::call::Client;
use super::clock::{Clocks, Due};
use super::dispatch::Dispatcher;
use super::feed::{self, Caps, Feed};
use super::frame::Frame;
use super::handshake::{self, Refusal, Welcome};
use super::incoming::{Heard, Incoming, Misread};
use super::origin::Page;
use super::outbox::{HARD_LIMIT, Need, Outbox, close_frame};
use super::presence::{self, Line};
use super::writer::{Broken, Pinged, Writer, write_all};
use super::{ATTACHMENTS, MAX_FRAME_BYTES, close, method, system, view};
use crate::accept::Peer;
use crate::gateway::{Gateway, Phase, now};
use crate::stream::{ReadHalf, Stream, WriteHalf};

/// The capability of a client that hears runs only of the sessions it names.
const SCOPED_EVENTS: &str = "session-scoped-events";

/// Serves a socket to its end; of what the client sends, `early` is here already.
pub(crate) async fn serve(gateway: Arc<Gateway>, peer: Peer, page: Page, stream: Stream, early: Bytes) {
    let mut socket = Socket { stream, incoming: Incoming::new(&early) };
    // It holds the whole buffer the request was read into.
    drop(early);
    let grace = gateway.options.timing.close_grace;
    let deadline = Instant::from_std(peer.accepted_at) + gateway.options.timing.handshake;

    // On the heap, as every other part that is over soon: what a connection's task takes, it takes to its end.
    let entering = Box::pin(enter(&gateway, &peer, page, Uuid::new_v4(), &mut socket));
    let entered = match tokio::time::timeout_at(deadline, entering).await {
        Ok(entered) => entered,
        Err(_) => Err(End::Silent),
    };
    let end = match entered {
        Ok((client, line, greeting)) => {
            // Believed from here on: no longer a stranger.
            drop(peer);
            socket.incoming.believe(MAX_FRAME_BYTES);
            let end = converse(&gateway, client, greeting, &mut socket).await;
            drop(line);
            end
        }
        Err(end) => Some(end),
    };
    if let Some(end) = end {
        Box::pin(finish(socket.stream, end, grace)).await;
    }
}

/// A client's connection.
struct Socket {
    stream: Stream,
    incoming: Incoming,
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
    welcome: Welcome,
    hello: HelloOk,
    health: Health,
    version: StateVersion,
}

/// From challenge to the judgement of the first frame.
async fn enter<'a>(
    gateway: &'a Arc<Gateway>,
    peer: &Peer,
    page: Page,
    conn_id: Uuid,
    socket: &mut Socket,
) -> Result<(Arc<Client>, Line<'a>, Box<Greeting>), End> {
    let incoming = &mut socket.incoming;
    let (mut reading, stream) = socket.stream.split();
    let stream = &stream;
    let nonce = Uuid::new_v4().to_string();
    send(stream, &Event::unnumbered("connect.challenge", Challenge { nonce: &nonce, ts: now().0 })).await?;
    let first = loop {
        match incoming.next(&mut reading).await {
            Ok(Heard::Text(text)) => break text,
            Ok(Heard::Binary) => return Err(End::with(close::NOT_TEXT, "text frames only")),
            Ok(Heard::Ping(payload)) => send_frame(stream, Frame::pong(&payload)).await?,
            Ok(Heard::Pong) => {}
            Ok(Heard::Close(answer)) => {
                send_frame(stream, Frame::close(answer.as_ref())).await?;
                return Err(End::Gone);
            }
            Err(misread) => return Err(misread.into()),
        }
    };
    let welcome = match handshake::judge(gateway, peer, page, &nonce, &first).await {
        Ok(welcome) => welcome,
        Err(Refusal { response, code, reason }) => {
            if let Some((id, error)) = response {
                send(stream, &Response::<()>::failed(&id, &error, None)).await?;
            }
            return Err(End::with(code, &reason));
        }
    };
    let entry = presence::entry(&welcome.params.client, &welcome.scopes, conn_id, now());
    let Some(line) = gateway.roll.enter(&welcome.access, entry) else {
        let error = ErrorShape::unavailable("This credential has too many connections open. Close one first.");
        send(stream, &Response::<()>::failed(&welcome.id, &error.retry_after(1000), None)).await?;
        return Err(End::with(close::TRY_LATER, "too many connections"));
    };
    let outbox = Arc::new(Outbox::default());
    let caps = Caps {
        session_scoped: welcome.params.has_cap(SCOPED_EVENTS),
        tool_events: welcome.params.has_cap("tool-events"),
    };
    let client = Client {
        conn_id,
        access: welcome.access.clone(),
        seat: welcome.seat,
        circle: line.circle(),
        feed: Arc::new(Feed::new(outbox.clone(), caps)),
        outbox,
        listener: OnceLock::new(),
        gone: CancellationToken::new(),
    };
    // Before anything is said: what ends the credential from here on ends the connection.
    let held: Arc<dyn Held> = client.outbox.clone();
    client.access.hold(&held);
    if let Some(seat) = &client.seat {
        gateway.engine.hold_device(seat, &held);
    }
    let id = welcome.id.clone();
    match greet(gateway, &client, welcome).await {
        Ok(greeting) => Ok((Arc::new(client), line, Box::new(greeting))),
        Err(failure) => {
            send(stream, &Response::<()>::failed(&id, &failure, None)).await?;
            Err(End::with(close::TRY_LATER, "not available now"))
        }
    }
}

/// Sends a frame to a stranger. The deadline of the handshake is the only bound on its patience.
async fn send(stream: &WriteHalf<'_>, frame: &impl serde::Serialize) -> Result<(), End> {
    let frame = Frame::json(frame, 512).map_err(|error| {
        tracing::error!(%error, "a frame cannot be written as JSON");
        End::Gone
    })?;
    send_frame(stream, frame).await
}

async fn send_frame(stream: &WriteHalf<'_>, frame: Frame) -> Result<(), End> {
    write_all(stream, &[frame], Duration::MAX).await.map_err(|Broken| End::Gone)
}

/// Why a message could not be read, as a close frame says it.
impl From<Misread> for End {
    fn from(misread: Misread) -> Self {
        match misread {
            Misread::Gone => Self::Gone,
            Misread::StrangerTooBig => Self::with(close::TOO_BIG, "preauth payload too large"),
            Misread::TooBig => Self::with(close::TOO_BIG, "payload too large"),
            Misread::NotUtf8 => Self::with(close::NOT_UTF8, "text is not UTF-8"),
            Misread::Protocol => Self::with(close::PROTOCOL, "WebSocket protocol error"),
        }
    }
}

/// The methods hello names.
static METHODS: LazyLock<Vec<&'static str>> = LazyLock::new(method::advertised);

async fn greet(gateway: &Gateway, client: &Client, welcome: Welcome) -> Result<Greeting, ErrorShape> {
    let Client { access, circle, conn_id, .. } = client;
    let engine = &gateway.engine;
    let options = &gateway.options;
    let unavailable = |error| super::call::Failure::from(error).error;
    let health = system::snapshot(gateway, access).await.map_err(unavailable)?;
    let main_key = engine.main_key(access, None).map_err(unavailable)?;
    let defaults = view::defaults(engine);
    let presence = circle.list();
    let version = StateVersion { presence: presence.version, health: circle.next_health_version() };
    let hello = HelloOk::new(
        Server { version: options.version, boot_id: gateway.boot_id.to_string(), conn_id: conn_id.to_string() },
        Features { methods: &METHODS, events: feed::EVENTS },
        Snapshot {
            presence: if access.verbs().allows(Verb::Read) { presence.entries.clone() } else { nobody() },
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
        Granted {
            role: "operator",
            scopes: welcome.scopes.clone(),
            device: welcome
                .device_token
                .as_ref()
                .map(|(token, at)| IssuedToken { device_token: token.to_string(), issued_at_ms: at.0 }),
        },
        Policy {
            max_payload: MAX_FRAME_BYTES,
            max_buffered_bytes: HARD_LIMIT,
            tick_interval_ms: u64::try_from(options.timing.tick.as_millis()).unwrap_or(u64::MAX),
            attachments: ATTACHMENTS,
        },
    );
    Ok(Greeting { welcome, hello, health, version })
}

/// An empty list.
fn nobody() -> Arc<RawValue> {
    RawValue::from_string("[]".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned()).into()
}

/// From hello to the end; how the socket is to be closed, where it still can be.
async fn converse(
    gateway: &Arc<Gateway>,
    client: Arc<Client>,
    greeting: Box<Greeting>,
    socket: &mut Socket,
) -> Option<End> {
    let outbox = client.outbox.clone();
    let _gone = client.gone.clone().drop_guard();
    let health_version = greeting.version.health;
    // Before the first list, so that no change after it is missed.
    let presence = client.circle.watch();
    let reads = welcome(gateway, &client, greeting);

    let timing = gateway.options.timing;
    let pinged = Pinged::default();
    let (mut reading, stream) = socket.stream.split();
    let mut writer = Writer { outbox: &outbox, stream: &stream, pinged: &pinged, patience: timing.ping + timing.pong };
    let session = Session { gateway, client: &client, pinged: &pinged, reads, health_version };
    let mut writer = std::pin::pin!(writer.write());
    let end = tokio::select! {
        // First: what has been written is known before its answer is read.
        biased;
        written = &mut writer => written,
        read = session.read(&mut reading, &mut socket.incoming, presence) => match read {
            Read::Gone => Err(Broken),
            // The outbox is closing; what it holds still goes out, if the client takes it in time.
            Read::Closing => tokio::time::timeout(timing.close_grace, writer).await.unwrap_or(Err(Broken)),
        },
    };
    tracing::debug!(connection = %client.conn_id, "a client is gone, or being disconnected");
    match end {
        Ok(()) => Some(End::Gone),
        Err(Broken) => {
            outbox.abandon();
            None
        }
    }
}

/// Queues what a client gets first; whether it hears events.
fn welcome(gateway: &Gateway, client: &Arc<Client>, greeting: Box<Greeting>) -> bool {
    let Greeting { welcome, hello, health, version } = *greeting;
    tracing::debug!(connection = %client.conn_id, client = ?welcome.params.client.id, "a client is connected");
    client.outbox.respond(&welcome.id, &hello);
    let reads = client.access.verbs().allows(Verb::Read);
    // After hello, so that no event comes before it.
    if reads {
        let scoped = welcome.params.has_cap(SCOPED_EVENTS);
        let interest = if scoped { Interest::Watched } else { Interest::Everything };
        client.listener.get_or_init(|| gateway.engine.listen(&client.access, interest, client.feed.clone()));
        send_presence(client, version.health);
    }
    if let Some(keeper) = gateway.engine.pairing_view(&client.access) {
        gateway.audience.join(client.conn_id, keeper, &client.outbox);
    }
    let version = StateVersion { presence: client.circle.version(), ..version };
    client.outbox.versioned_event("health", &health, Need::Droppable, Some(version));
    reads
}

fn send_presence(client: &Client, health: u64) {
    let list = client.circle.list();
    let version = StateVersion { presence: list.version, health };
    client.outbox.written_event("presence", &list.payload, Need::Droppable, Some(version));
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
    pinged: &'a Pinged,
    reads: bool,
    /// Of the health snapshot the client has.
    health_version: u64,
}

impl Session<'_> {
    /// Reads requests and keeps the clocks until the connection ends.
    async fn read(
        &self,
        stream: &mut ReadHalf<'_>,
        incoming: &mut Incoming,
        mut presence: watch::Receiver<u64>,
    ) -> Read {
        let timing = self.gateway.options.timing;
        let outbox = &self.client.outbox;
        // Made for the first request: most connections only listen.
        let mut dispatcher = None;
        let mut clocks = Clocks::new(timing, Instant::now());
        clocks.presence_at(self.client.circle.told(timing.presence));
        let mut tells_presence = false;
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(clocks.next()));
        let mut closing = std::pin::pin!(self.gateway.reached(Phase::Closing));
        loop {
            let backed_up = outbox.is_backed_up();
            clocks.reading(!backed_up, Instant::now());
            let expiry = self.expiry();
            set(alarm.as_mut(), expiry.map_or(clocks.next(), |expiry| clocks.next().min(expiry)));
            tokio::select! {
                // In this order: a client that keeps sending cannot keep a closed connection open, and a ping is known
                // to be written before its pong is read.
                biased;
                () = outbox.ended() => return Read::Closing,
                () = &mut closing => {
                    self.shut_down(dispatcher.as_deref()).await;
                    return Read::Closing;
                }
                () = outbox.room(), if backed_up => {}
                at = written(self.pinged) => clocks.pinged(at),
                () = &mut alarm => {
                    if let Some(why) = self.client.access.ended(self.gateway.engine.now()) {
                        outbox.end(why);
                        continue;
                    }
                    while let Some(due) = clocks.strike(Instant::now()) {
                        match due {
                            Due::Tick => {
                                outbox.event("tick", &Tick { ts: now().0 }, Need::Droppable);
                            }
                            Due::Ping => outbox.ping(),
                            Due::Presence => tells_presence = self.reads,
                            Due::NoPong => {
                                tracing::info!(connection = %self.client.conn_id, "a client does not answer pings");
                                return Read::Gone;
                            }
                        }
                    }
                }
                Ok(()) = presence.changed(), if tells_presence => {
                    presence.mark_unchanged();
                    send_presence(self.client, self.health_version);
                    // A rush of connections is told in one go.
                    tells_presence = false;
                    clocks.presence_at(self.client.circle.told(timing.presence));
                }
                heard = incoming.next(stream), if !backed_up => match heard {
                    Ok(heard) => {
                        clocks.heard();
                        if let Some(end) = self.heard(heard, &mut dispatcher).await {
                            return end;
                        }
                    }
                    Err(misread) => match misread.into() {
                        End::With(frame) => {
                            outbox.close(frame.code.into(), &frame.reason);
                            return Read::Closing;
                        }
                        End::Gone | End::Silent => return Read::Gone,
                    },
                },
            }
        }
    }

    /// When the credential has expired, as things stand: a use puts it off.
    fn expiry(&self) -> Option<Instant> {
        let end = self.client.access.lasts_until()?;
        let left = end.plus_millis(1).since(self.gateway.engine.now());
        Some(Instant::now() + Duration::from_millis(left))
    }

    async fn heard(&self, heard: Heard, dispatcher: &mut Option<Box<Dispatcher>>) -> Option<Read> {
        let outbox = &self.client.outbox;
        match heard {
            Heard::Text(text) => {
                let dispatcher = dispatcher
                    .get_or_insert_with(|| Box::new(Dispatcher::new(self.gateway.clone(), self.client.clone())));
                Box::pin(dispatcher.frame(text)).await;
                return None;
            }
            Heard::Ping(payload) => {
                outbox.pong(payload);
                return None;
            }
            Heard::Pong => return None,
            Heard::Binary => outbox.close(close::NOT_TEXT, "text frames only"),
            Heard::Close(answer) => outbox.answer_close(answer),
        }
        Some(Read::Closing)
    }

    /// Says goodbye. The last runs have just ended: what is still to be answered about them goes out first.
    async fn shut_down(&self, dispatcher: Option<&Dispatcher>) {
        if let Some(dispatcher) = dispatcher {
            let _ = tokio::time::timeout(self.gateway.options.timing.close_grace, dispatcher.answered()).await;
        }
        let outbox = &self.client.outbox;
        outbox.event("shutdown", &Shutdown { reason: "gateway stopping" }, Need::Required);
        outbox.close(close::RESTART, "service restart");
    }
}

/// Moves the alarm, if it has to be.
fn set(alarm: Pin<&mut Sleep>, at: Instant) {
    if alarm.deadline() != at || alarm.is_elapsed() {
        alarm.reset(at);
    }
}

/// Completes when a ping has been written. Whoever writes runs in the same task, and before, so nobody need be woken.
async fn written(pinged: &Pinged) -> Instant {
    poll_fn(|_| pinged.take().map_or(std::task::Poll::Pending, std::task::Poll::Ready)).await
}

/// Sends the close frame, if one is given, then reads what the client still sends until it closes too. Dropping a
/// socket with unread bytes would reset it, and the client might never see why it was closed.
async fn finish(mut stream: Stream, end: End, grace: Duration) {
    let farewell = async {
        let frame = match end {
            End::Gone => None,
            End::Silent => Some(Frame::close(None)),
            End::With(frame) => Some(Frame::close(Some(&frame))),
        };
        if let Some(frame) = frame {
            let _ = send_frame(&stream.split().1, frame).await;
        }
        stream.hang_up().await;
    };
    let _ = tokio::time::timeout(grace, farewell).await;
}
