//! The turn over a gateway.
//!
//! The run id is the request's idempotency key, and every attempt repeats the same request. So when the connection
//! breaks after the request may have been delivered, repeating it re-attaches to the run, or starts it if it never
//! arrived; it can not run twice (decision 3, isolation.md C4).

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use watertight_core::run::QueuePolicy;

use crate::agent::client::{Connection, Frame, Lost, OpenFailure, Response};
use crate::agent::endpoint::Endpoint;
use crate::agent::terminal::{Reply, Terminal};
use crate::agent::turn::Turn;
use crate::failure::Failure;
use crate::signals::{Signal, Signals};

/// Waits before the next handshake with a gateway that is being replaced (sessions.md §2.6).
const HANDSHAKE_DELAYS: [u64; 5] = [1_000, 2_000, 5_000, 10_000, 15_000];
/// How long a broken connection is tried to be made anew, from the time it broke until the run is heard of again.
const REATTACH_WINDOW: Duration = Duration::from_secs(15);
/// Waits before these tries: the first, doubled each time up to the last.
const REATTACH_DELAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// How long one `agent.wait` may wait, in milliseconds; it is asked again.
const WAIT_MS: u64 = 600_000;
/// For each attempt to abort the run.
const ABORT_LIMIT: Duration = Duration::from_secs(2);
/// Waits between attempts to abort (sessions.md §2.6).
const ABORT_DELAYS: [u64; 4] = [50, 150, 300, 600];

/// Why there is no answer.
pub(crate) enum GatewayError {
    /// The request never left this process.
    Undelivered { reason: String },
    /// Anything else.
    Failed(Failure),
    /// A signal; the run was aborted as far as that was possible.
    Stopped(Signal),
}

/// Runs the turn and prints its answer. `fallback` only words a message.
pub(crate) async fn run(
    turn: &Turn,
    endpoint: &Endpoint,
    fallback: bool,
    terminal: &mut Terminal,
    signals: &mut Signals,
) -> Result<ExitCode, GatewayError> {
    let mut attempt = Attempt {
        turn,
        endpoint,
        terminal,
        params: params(turn),
        deadline: turn.client_wait().map(|wait| Instant::now() + wait),
        delivered: false,
        accepted: false,
        key: turn.address.known_key(),
        connection: None,
        reattach: Reattach::default(),
    };
    let deadline = attempt.deadline;
    let end = tokio::select! {
        end = attempt.answer(fallback && !endpoint.explicit) => Some(end),
        () = until(deadline) => None,
        signal = signals.next() => {
            tokio::select! {
                () = attempt.abort() => {}
                // A second signal: no more waiting.
                _ = signals.next() => {}
            }
            return Err(GatewayError::Stopped(signal));
        }
    };
    match end {
        Some(Ok(response)) => attempt.finish(&response).map_err(GatewayError::Failed),
        Some(Err(NoAnswer::Undelivered(reason))) => Err(GatewayError::Undelivered { reason }),
        Some(Err(NoAnswer::Refused(message))) => Err(GatewayError::Failed(Failure::new(message))),
        Some(Err(NoAnswer::Lost(reason))) => Err(GatewayError::Failed(attempt.hint("connection closed", &reason))),
        None if !attempt.delivered => {
            let reason = format!("Gateway not reachable at {} (no answer in time).", endpoint.shown());
            Err(GatewayError::Undelivered { reason })
        }
        None => Err(GatewayError::Failed(attempt.hint("timed out", "No answer in time."))),
    }
}

/// The params of the `agent` request (sessions.md §2.5); what is absent is left out.
fn params(turn: &Turn) -> Value {
    let mut params = Map::new();
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            params.insert(key.to_owned(), value.into());
        }
    };
    put("message", Some(&turn.message));
    put("sessionKey", turn.address.session_key.as_deref());
    put("sessionId", turn.address.session_id.as_deref());
    put("agentId", turn.address.agent.as_deref());
    put("model", turn.model.as_deref());
    put("thinking", turn.thinking.as_deref());
    put("queueMode", queue_mode(turn.queue));
    put("idempotencyKey", Some(&turn.run.to_string()));
    params.insert("deliver".to_owned(), false.into());
    params.insert("timeout".to_owned(), turn.timeout.into());
    Value::Object(params)
}

/// Left out where it is what happens anyway: gateways that are not ours have no such field.
fn queue_mode(policy: QueuePolicy) -> Option<&'static str> {
    match policy {
        QueuePolicy::Queue => None,
        QueuePolicy::Interrupt => Some("interrupt"),
        QueuePolicy::Reject => Some("reject"),
        QueuePolicy::Steer => Some("steer"),
    }
}

/// The state of one turn over however many connections it takes.
struct Attempt<'a> {
    turn: &'a Turn,
    endpoint: &'a Endpoint,
    terminal: &'a mut Terminal,
    params: Value,
    deadline: Option<Instant>,
    /// Whether the request may have reached the gateway.
    delivered: bool,
    /// Whether the gateway has accepted the run.
    accepted: bool,
    /// The session's key, as far as it is known.
    key: Option<String>,
    connection: Option<Connection>,
    reattach: Reattach,
}

/// The pace of re-attaching since the run was last heard of.
#[derive(Debug, Default)]
struct Reattach {
    since: Option<(Instant, Duration)>,
}

impl Reattach {
    /// Waits for the time of the next try and gives how long it may take; none when it is over.
    async fn next(&mut self) -> Option<Duration> {
        let [first, longest] = REATTACH_DELAYS;
        let (end, delay) = self.since.unwrap_or_else(|| (Instant::now() + REATTACH_WINDOW, first));
        self.since = Some((end, (delay * 2).min(longest)));
        sleep(delay).await;
        end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// The gateway has the run.
    fn heard_of_it(&mut self) {
        self.since = None;
    }
}

/// Why [`Attempt::answer`] has none.
enum NoAnswer {
    /// Nothing was delivered.
    Undelivered(String),
    /// The gateway said no before anything was delivered.
    Refused(String),
    /// It may have been delivered, and the gateway is gone.
    Lost(String),
}

impl Attempt<'_> {
    /// The final response.
    async fn answer(&mut self, fallback: bool) -> Result<Response, NoAnswer> {
        self.connect_first(fallback).await?;
        loop {
            let Lost(reason) = match self.exchange().await {
                Ok(response) => return Ok(response),
                Err(lost) => lost,
            };
            self.connection = None;
            self.terminal
                .note(&format!("Connection to the gateway lost ({reason}); re-attaching to run {}.", self.turn.run));
            self.reconnect(reason).await?;
        }
    }

    /// The first connection: a gateway that is being replaced gets some time.
    async fn connect_first(&mut self, fallback: bool) -> Result<(), NoAnswer> {
        let last_word = if fallback { "running it here" } else { "failing" };
        let mut delays = HANDSHAKE_DELAYS.into_iter();
        loop {
            let (what, reason, gives_up) = match self.open().await {
                Ok(()) => return Ok(()),
                Err(OpenFailure::Unreachable(reason) | OpenFailure::Foreign(reason)) => {
                    return Err(NoAnswer::Undelivered(reason));
                }
                Err(OpenFailure::Refused(message)) => return Err(NoAnswer::Refused(message)),
                Err(OpenFailure::ClosedInHandshake) => (
                    "Gateway agent connection closed during handshake",
                    format!("Gateway not reachable at {} (closed during handshake).", self.endpoint.shown()),
                    NoAnswer::Undelivered as fn(String) -> NoAnswer,
                ),
                Err(OpenFailure::NotReady(message)) => {
                    ("The gateway is starting or stopping", message, NoAnswer::Refused as fn(String) -> NoAnswer)
                }
            };
            let Some(delay) = delays.next() else { return Err(gives_up(reason)) };
            self.terminal.note(&format!("{what}; retrying in {delay}ms before {last_word}."));
            sleep(Duration::from_millis(delay)).await;
        }
    }

    /// A further connection, after one was lost.
    async fn reconnect(&mut self, mut reason: String) -> Result<(), NoAnswer> {
        while let Some(left) = self.reattach.next().await {
            match timeout(left, self.open()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(OpenFailure::Refused(message))) => return Err(NoAnswer::Lost(message)),
                Ok(Err(OpenFailure::Unreachable(text) | OpenFailure::Foreign(text) | OpenFailure::NotReady(text))) => {
                    reason = text;
                }
                Ok(Err(OpenFailure::ClosedInHandshake)) | Err(_) => {}
            }
        }
        Err(NoAnswer::Lost(reason))
    }

    async fn open(&mut self) -> Result<(), OpenFailure> {
        let caps: &[&str] = if self.terminal.wants_tools() { &["tool-events"] } else { &[] };
        self.connection = Some(Connection::open(self.endpoint, caps).await?);
        Ok(())
    }

    /// Sends the request on the present connection and follows it to the final response.
    async fn exchange(&mut self) -> Result<Response, Lost> {
        let Some(connection) = &mut self.connection else { return Err(Lost("not connected".to_owned())) };
        let again = self.delivered;
        self.delivered = true;
        let mut id = connection.send("agent", &self.params).await?;
        let run = self.turn.run.to_string();
        // The request that waits for the end of a run under way.
        let mut waiting = None;
        loop {
            match connection.next().await? {
                Frame::Response(response) if response.id == id => match status(&response) {
                    Some("accepted") => {
                        self.accepted = true;
                        self.reattach.heard_of_it();
                        self.key = key_of(&response).or(self.key.take());
                    }
                    // It goes on under a request of an earlier connection: wait for its end, then ask for its answer.
                    Some("in_flight") if again => {
                        self.reattach.heard_of_it();
                        waiting =
                            Some(connection.send("agent.wait", &json!({"runId": run, "timeoutMs": WAIT_MS})).await?);
                    }
                    _ => {
                        // A gateway that is stopping takes nothing; the one that comes after it will. Everything else
                        // is an answer.
                        if again
                            && let Some(error) = response.error.as_ref().filter(|error| error.restarting)
                            && status(&response).is_none()
                        {
                            return Err(Lost(error.message.clone()));
                        }
                        return Ok(response);
                    }
                },
                Frame::Response(response) if waiting.as_ref() == Some(&response.id) => {
                    if let Some(error) = response.error {
                        return Err(Lost(error.message));
                    }
                    id = connection.send("agent", &self.params).await?;
                }
                Frame::Event { name, payload } if payload.get("runId").and_then(Value::as_str) == Some(&run) => {
                    show(self.terminal, &name, &payload);
                }
                _ => {}
            }
        }
    }

    fn finish(&mut self, response: &Response) -> Result<ExitCode, Failure> {
        let payload = &response.payload;
        let run = self.turn.run.to_string();
        if !response.ok {
            let said = response.error.as_ref().map(|error| error.message.clone());
            let summary = payload.get("summary").and_then(Value::as_str).map(str::to_owned);
            let message = said.or(summary).unwrap_or_else(|| "The gateway gave no reason.".to_owned());
            // Close the line that live text has begun.
            self.terminal.end_line();
            let known = self.accepted || status(response).is_some();
            return Err(if known { Failure::of_run(message, run) } else { Failure::new(message) });
        }
        self.terminal.finish(&Reply::new(payload, &run, payload))
    }

    /// What to do about a run whose end is unknown (sessions.md §2.6).
    fn hint(&mut self, what: &str, reason: &str) -> Failure {
        self.terminal.end_line();
        let run = self.turn.run.to_string();
        let accepted = if self.accepted {
            format!(" (accepted run {run}; use --timeout <seconds> to extend the CLI wait)")
        } else {
            String::new()
        };
        let message = format!(
            "Gateway agent call {what}; the Gateway may still be running this turn{accepted}. Check that the Gateway \
             is up and read the session transcript before retrying or rerunning with --local, so the turn does not \
             execute twice.\n{reason}"
        );
        if self.accepted { Failure::of_run(message, run) } else { Failure::new(message) }
    }

    /// Ends the run: over the present connection, else over new ones.
    async fn abort(&mut self) {
        self.terminal.end_line();
        if !self.delivered {
            return;
        }
        let run = self.turn.run.to_string();
        if !self.accepted {
            // Only the gateway knows which session the request has come to; its first answer says so.
            let _ = timeout(ABORT_LIMIT, self.learn_key()).await;
        }
        let Some(key) = self.key.take() else {
            self.terminal.note(&format!("Run {run} was sent but not accepted yet; it may still start."));
            return;
        };
        let params = json!({"sessionKey": key, "runId": run});
        if let Some(mut connection) = self.connection.take()
            && let Ok(Ok(response)) = timeout(ABORT_LIMIT, connection.ask("chat.abort", &params)).await
        {
            self.aborted(&run, &response);
            connection.close().await;
            return;
        }
        for delay in ABORT_DELAYS {
            sleep(Duration::from_millis(delay)).await;
            let anew = async {
                let mut connection = Connection::open(self.endpoint, &[]).await.ok()?;
                connection.ask("chat.abort", &params).await.ok()
            };
            if let Ok(Some(response)) = timeout(ABORT_LIMIT, anew).await {
                self.aborted(&run, &response);
                return;
            }
        }
        self.terminal.note(&format!("Run {run} could not be aborted; the Gateway may still be running it."));
    }

    async fn learn_key(&mut self) -> Option<()> {
        let connection = self.connection.as_mut()?;
        while !self.accepted {
            if let Frame::Response(response) = connection.next().await.ok()?
                && let Some(key) = key_of(&response)
            {
                self.accepted = true;
                self.key = Some(key);
            }
        }
        Some(())
    }

    fn aborted(&mut self, run: &str, response: &Response) {
        let line = match (&response.error, response.payload.get("aborted").and_then(Value::as_bool)) {
            (None, Some(true)) => format!("Run {run} was aborted."),
            (None, _) if self.accepted => format!("Run {run} had already ended."),
            (None, _) => format!("Run {run} was not found; it was sent but not accepted yet and may still start."),
            (Some(error), _) => format!("Run {run} could not be aborted: {}", error.message),
        };
        self.terminal.note(&line);
    }
}

/// Shows an event of the run.
fn show(terminal: &mut Terminal, name: &str, payload: &Value) {
    let text = |path: &str| payload.pointer(path).and_then(Value::as_str);
    match (name, text("/state"), text("/stream"), text("/data/phase")) {
        ("chat", Some("delta"), ..) => {
            if let Some(so_far) = text("/message/content/0/text") {
                terminal.text(so_far);
            }
        }
        ("agent", _, Some("tool"), Some("start")) => {
            let arguments = payload.pointer("/data/args").unwrap_or(&Value::Null);
            terminal.tool_started(text("/data/name").unwrap_or("tool"), arguments);
        }
        ("agent", _, Some("tool"), Some("result")) => {
            let failed = payload.pointer("/data/isError").and_then(Value::as_bool).unwrap_or(false);
            let result = text("/data/result/content/0/text").unwrap_or_default();
            terminal.tool_ended(text("/data/name").unwrap_or("tool"), failed, result);
        }
        _ => {}
    }
}

fn key_of(response: &Response) -> Option<String> {
    response.payload.get("sessionKey").and_then(Value::as_str).map(str::to_owned)
}

fn status(response: &Response) -> Option<&str> {
    response.payload.get("status").and_then(Value::as_str)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn re_attaching_slows_down_and_ends() {
        let start = Instant::now();
        let mut reattach = Reattach::default();
        let mut tries = Vec::new();
        while reattach.next().await.is_some() {
            tries.push(start.elapsed().as_millis());
        }
        assert_eq!(tries[..6], [100, 300, 700, 1_500, 3_100, 5_100], "{tries:?}");
        assert!(tries.len() < 12 && start.elapsed() < REATTACH_WINDOW + REATTACH_DELAYS[1], "{tries:?}");
        reattach.heard_of_it();
        assert!(reattach.next().await.is_some(), "the next break starts anew");
    }
}
