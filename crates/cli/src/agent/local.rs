//! The turn in this process: `--local`, or in place of a gateway that is down (decision 3).

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use watertight_config::Overrides;
use watertight_core::ids::{GenerationId, RunId};
use watertight_core::key::CanonicalKey;
use watertight_core::run::RunOptions;
use watertight_core::transcript::Block;
use watertight_engine::admission::{Access, AuthFailure, Presented};
use watertight_engine::event::{EventKind, SessionEvent};
use watertight_engine::hub::{EventSink, Interest};
use watertight_engine::report::RunReport;
use watertight_engine::request::{GenerationChoice, Selector, Target, TurnRequest};
use watertight_engine::state_dir::{Holder, OpenError, StateDir};
use watertight_engine::{Engine, EngineError};
use watertight_wire::openclaw::agent::AgentFinal;

use crate::agent::stopped;
use crate::agent::terminal::{Reply, Terminal};
use crate::agent::turn::Turn;
use crate::failure::Failure;
use crate::home::Home;
use crate::signals::{Signal, Signals};

/// Events that wait for a slow terminal. Text events repeat everything so far, so one that finds no room is no loss.
const EVENT_QUEUE: usize = 256;
/// For the run that a signal aborted, and what it writes last.
const CLOSING_GRACE: Duration = Duration::from_secs(5);

/// Why the turn runs here.
#[derive(Debug)]
pub(crate) enum Circumstance {
    /// `--local`.
    Asked,
    /// No gateway answered.
    Fallback {
        /// Why not.
        reason: String,
    },
}

/// Runs the turn and prints its answer.
pub(crate) async fn run(
    home: &Home,
    turn: &Turn,
    circumstance: Circumstance,
    terminal: &mut Terminal,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let dir = StateDir::lock(home.state_dir()).map_err(|error| circumstance.explain(error))?;
    let config = home.config(Overrides::default())?;
    if let Circumstance::Fallback { reason } = &circumstance {
        terminal.note(&format!("{reason} Running the turn in this process instead, in the same session."));
    }
    let engine = Engine::open(Arc::new(config), dir).await.map_err(|error| Failure::new(capitalized(&error)))?;
    let end = follow(&engine, home, turn, terminal, signals).await;
    let end = match end {
        Ok(end) => end,
        Err(failure) => {
            engine.drain(Duration::ZERO).await;
            return Err(failure);
        }
    };
    tokio::select! {
        () = engine.drain(CLOSING_GRACE) => {}
        // A second signal: the store survives that as it survives a crash.
        _ = signals.next() => {}
    }
    match end {
        End::Stopped(signal) => Ok(stopped(signal)),
        End::Report(report) => finish(&report, &circumstance, terminal),
    }
}

enum End {
    Report(Arc<RunReport>),
    Stopped(Signal),
}

async fn follow(
    engine: &Engine,
    home: &Home,
    turn: &Turn,
    terminal: &mut Terminal,
    signals: &mut Signals,
) -> Result<End, Failure> {
    let secret = home.operator_secret(engine.config());
    let presented = secret.as_ref().map_or(Presented::Nothing, |secret| Presented::Secret(secret.expose()));
    let access = engine.authenticate(presented, None).await.map_err(|error| match error {
        AuthFailure::Unavailable => Failure::new(error),
        _ => Failure::new("The operator's token in the state directory is not the one the store knows."),
    })?;

    let run = RunId::from_uuid(turn.run);
    let (key, target) = target(engine, &access, turn).await.map_err(refused)?;
    let (sink, mut events) = mpsc::channel(EVENT_QUEUE);
    let listener = engine.listen(&access, Interest::Watched, Arc::new(Queue(sink)));
    // A caller that may not read the session sees no text grow; the answer itself is another matter.
    let _ = listener.watch(&key);
    let request = TurnRequest {
        target: target.clone(),
        input: vec![Block::from_text(turn.message.clone())],
        run: run.clone(),
        options: RunOptions {
            model: turn.model.clone(),
            extra_instructions: None,
            timeout_ms: Some(turn.timeout.saturating_mul(1000)),
            thinking: turn.thinking.clone(),
            queue: turn.queue,
        },
        expect_generation: None,
        surface: "cli-local",
        method: "agent",
    };
    engine.submit(&access, request, |_| {}).await.map_err(refused)?;
    let ended = engine.wait(&access, &run, None);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => {
                terminal.end_line();
                let aborted = engine.abort(&access, &Target { generation: GenerationChoice::Live, ..target }, Some(&run), "signal").await;
                let line = match aborted {
                    Ok(aborted) if aborted.runs.is_empty() => format!("Run {run} had already ended."),
                    Ok(_) => format!("Run {run} was aborted."),
                    Err(error) => format!("Run {run} could not be aborted: {error}"),
                };
                terminal.note(&line);
                return Ok(End::Stopped(signal));
            }
            Some(event) = events.recv() => show(terminal, &run, &event),
            report = &mut ended => {
                return match report.map_err(refused)? {
                    Some(report) => Ok(End::Report(report)),
                    None => Err(Failure::new("The run did not end.")),
                };
            }
        }
    }
}

/// The session: by key, by the id of its transcript, or an agent's main session (sessions.md §2.2, §2.4).
async fn target(engine: &Engine, access: &Access, turn: &Turn) -> Result<(CanonicalKey, Target), EngineError> {
    let address = &turn.address;
    let agent = address.agent.as_deref();
    let id = match &address.session_id {
        Some(id) => Some(GenerationId::parse(id).map_err(|error| EngineError::Name { what: "--session-id", error })?),
        None => None,
    };
    let (key, generation) = match (&address.session_key, id) {
        (Some(key), id) => {
            let key = engine.resolve_key(access, key, agent)?;
            (key, id.map_or(GenerationChoice::Live, GenerationChoice::MakeLive))
        }
        (None, Some(id)) => match engine.find(access, &Selector::Generation(id.clone()), agent).await? {
            Some(session) => (session.key, GenerationChoice::Live),
            None => (engine.explicit_key(access, agent, &id)?, GenerationChoice::MakeLive(id)),
        },
        (None, None) => (engine.main_key(access, agent)?, GenerationChoice::Live),
    };
    let target = Target { key: Some(key.to_string()), agent: None, generation };
    Ok((key, target))
}

/// The same answer a gateway gives, of which `--json` shows the inner object alone (sessions.md §2.7).
fn finish(report: &RunReport, circumstance: &Circumstance, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
    let run = watertight_server::ended_run(report);
    let answer = serde_json::to_value(AgentFinal::new(run)).map_err(Failure::new)?;
    if answer["status"] == "error" {
        terminal.end_line();
        return Err(Failure::new(run.error().unwrap_or("The run failed.")));
    }
    let mut result = answer["result"].clone();
    if let Some(receipt) = answer.get("receipt") {
        result["meta"]["receipt"] = receipt.clone();
    }
    if matches!(circumstance, Circumstance::Fallback { .. }) {
        result["meta"]["transport"] = json!("embedded");
        result["meta"]["fallbackFrom"] = json!("gateway");
    }
    terminal.finish(&Reply::new(&answer, report.run.as_str(), &result))
}

fn show(terminal: &mut Terminal, run: &RunId, event: &SessionEvent) {
    if event.run.as_ref().is_none_or(|(of, _)| of != run) {
        return;
    }
    match &event.kind {
        EventKind::Text { text, .. } => terminal.text(text),
        EventKind::ToolStarted { name, arguments, .. } => terminal.tool_started(name, arguments),
        EventKind::ToolEnded { name, is_error, content, .. } => {
            let text: Vec<&str> = content.iter().filter_map(Block::text).collect();
            terminal.tool_ended(name, *is_error, &text.join("\n"));
        }
        _ => {}
    }
}

/// Hands events over to the task that prints.
struct Queue(mpsc::Sender<Arc<SessionEvent>>);

impl EventSink for Queue {
    fn deliver(&self, event: &Arc<SessionEvent>) {
        let _ = self.0.try_send(event.clone());
    }
}

impl Circumstance {
    fn explain(&self, error: OpenError) -> Failure {
        match (self, error) {
            (Self::Asked, OpenError::InUse { holder: Holder { pid, address: Some(address), .. }, .. }) => {
                Failure::new(format!(
                    "A Gateway is running for this state directory (pid {pid}, address {address}). Run without --local \
                     to use it, or stop the Gateway first."
                ))
            }
            (Self::Asked, OpenError::InUse { holder: Holder { pid, address: None, .. }, .. }) => Failure::new(format!(
                "Another process is using this state directory (pid {pid}). Wait for it to end, or name another \
                 directory with --state-dir."
            )),
            (Self::Fallback { reason }, OpenError::InUse { holder, .. }) => Failure::new(format!(
                "{reason}\nThe turn was not run here either: process {} is using the state directory.",
                holder.pid
            )),
            (_, error) => Failure::new(capitalized(&error)),
        }
    }
}

fn refused(error: EngineError) -> Failure {
    Failure::new(capitalized(&error))
}

/// The library's text as a sentence of its own.
fn capitalized(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => text,
    }
}
