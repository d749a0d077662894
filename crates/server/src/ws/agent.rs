//! `agent` and `agent.wait` (gateway-ws.md §2.1).

use std::sync::Arc;
use std::time::Duration;

use watertight_core::grant::Verb;
use watertight_core::ids::{GenerationId, RunId};
use watertight_core::key::Part;
use watertight_core::key::compose::compose;
use watertight_core::run::{RunOptions, RunOutcome};
use watertight_engine::EngineError;
use watertight_engine::report::RunReport;
use watertight_engine::request::{Accepted, Disposition, GenerationChoice, Selector, Target, TurnRequest};
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::agent::{AgentAccepted, AgentFinal, Waited};
use watertight_wire::openclaw::params::{AgentParams, AgentWaitParams, QueueMode};
use watertight_wire::openclaw::text;

use super::call::{Answer, Call, Failure, Outcome};
use super::{chat, view};

/// How long `agent.wait` waits where nothing else is said.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// How long it waits at the most.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// Answers twice with the same id: once the input is durable, and once the run has ended.
pub(crate) async fn run(mut call: Call) -> Outcome {
    let params: AgentParams = call.params().await?;
    let run = call.run_id("idempotencyKey", &params.idempotency_key)?;
    if params.deliver {
        return Err(Failure::invalid(chat::NO_CHANNELS));
    }
    let options = options(&call, &params)?;
    let message = text::clean(&params.message).map_err(|error| Failure::invalid(error.to_string()))?;
    let input = chat::input(&message, &params.attachments)?;
    let expect_generation = generation("expectedExistingSessionId", params.expected_existing_session_id.as_deref())?;
    let target = target(&call, params, &run).await?;
    let request = TurnRequest { target, input, run, options, expect_generation, surface: "ws", method: "agent" };

    let (client, id) = (call.client.clone(), call.id.clone());
    let acknowledge = move |accepted: &Accepted| match accepted.disposition {
        Disposition::Started => {
            client.started(&accepted.run, &accepted.key);
            client.outbox.respond(&id, &interim(accepted, "accepted"));
        }
        Disposition::InFlight => client.started(&accepted.run, &accepted.key),
        Disposition::Ended(_) => {}
    };
    // From the session's mailbox on, the session itself keeps the order.
    let taken = call.started();
    let accepted = call.gateway.engine.submit_in_order(call.access(), request, taken, acknowledge).await?;
    match &accepted.disposition {
        Disposition::Started => {}
        // The client follows the run by its events or by agent.wait.
        Disposition::InFlight => return Answer::of(&interim(&accepted, "in_flight")),
        Disposition::Ended(report) => return last(report),
    }
    match outlasting(&call, &accepted.run, None).await? {
        Some(report) => last(&report),
        None => Ok(Answer::Nobody),
    }
}

fn interim<'a>(accepted: &'a Accepted, status: &'static str) -> AgentAccepted<'a> {
    AgentAccepted {
        run_id: accepted.run.as_str(),
        session_key: accepted.key.as_str(),
        agent_id: &accepted.agent,
        status,
        accepted_at: accepted.at.0,
        interrupted_active_run: accepted.interrupted.is_some(),
        receipt: accepted.receipt,
    }
}

/// The last response: an error and a payload beside it where the run failed.
fn last(report: &RunReport) -> Outcome {
    let run = view::ended(report);
    let payload = AgentFinal::new(run);
    match (&report.outcome, run.error()) {
        (RunOutcome::Failed { .. } | RunOutcome::Interrupted, Some(message)) => {
            Err(Failure::with_payload(ErrorShape::unavailable(message), &payload))
        }
        _ => Answer::of(&payload),
    }
}

fn options(call: &Call, params: &AgentParams) -> Result<RunOptions, Failure> {
    let text = |field: &Option<String>| field.clone().filter(|text| !text.trim().is_empty());
    let model = match (text(&params.provider), text(&params.model)) {
        (Some(provider), Some(model)) => Some(format!("{provider}/{model}")),
        (None, Some(model)) => Some(model),
        (Some(_), None) => return Err(Failure::invalid("provider needs a model beside it")),
        (None, None) => None,
    };
    // Another model costs somebody's money and may go to somebody else.
    if model.is_some() && !call.access().verbs().allows(Verb::Admin) {
        return Err(ErrorShape::missing_scope(Verb::Admin).into());
    }
    Ok(RunOptions {
        model,
        extra_instructions: text(&params.extra_system_prompt),
        timeout_ms: params.timeout.map(|seconds| seconds.saturating_mul(1000)),
        thinking: text(&params.thinking),
        queue: params.queue_mode.map(QueueMode::policy).unwrap_or_default(),
    })
}

/// Which session: by key, else by transcript, else the agent's main one, else a new one of its own.
async fn target(call: &Call, params: AgentParams, run: &RunId) -> Result<Target, Failure> {
    let text = |field: Option<String>| field.filter(|text| !text.trim().is_empty());
    let AgentParams { agent_id: agent, session_key, session_id, to, .. } = params;
    let wanted = generation("sessionId", text(session_id).as_deref())?;
    if let Some(key) = text(session_key) {
        let generation = wanted.map_or(GenerationChoice::Live, GenerationChoice::MakeLive);
        return Ok(Target { key: Some(key), agent, generation });
    }
    if let Some(id) = wanted {
        let selector = Selector::Generation(id.clone());
        return Ok(match call.gateway.engine.find(call.access(), &selector, agent.as_deref()).await? {
            Some(session) => Target { key: Some(session.key.to_string()), ..Target::default() },
            None => {
                let key = call.gateway.engine.explicit_key(call.access(), agent.as_deref(), &id)?;
                Target { key: Some(key.to_string()), agent: None, generation: GenerationChoice::NamesNew(id) }
            }
        });
    }
    // A recipient without a channel means the conversation every channel would share.
    if agent.is_some() || text(to).is_some() {
        return Ok(Target { agent, ..Target::default() });
    }
    Ok(Target { key: Some(explicit(run.as_str())?), ..Target::default() })
}

/// The bare key of a session named by nothing but an id.
fn explicit(id: &str) -> Result<String, Failure> {
    let key = compose(&[Part::Word("explicit"), Part::Opaque(id)]).map_err(EngineError::from)?;
    Ok(key.as_str().to_owned())
}

fn generation(field: &str, id: Option<&str>) -> Result<Option<GenerationId>, Failure> {
    id.map(GenerationId::parse)
        .transpose()
        .map_err(|error| Failure::invalid(format!("invalid agent params: at /{field}: {error}")))
}

/// A run nobody knows waits like any other.
pub(crate) async fn wait(mut call: Call) -> Outcome {
    let params: AgentWaitParams = call.params().await?;
    let limit = params.timeout_ms.map_or(DEFAULT_WAIT, Duration::from_millis).min(MAX_WAIT);
    let run = call.run_id("runId", &params.run_id)?;
    call.started()();
    match outlasting(&call, &run, Some(limit)).await? {
        Some(report) => Answer::of(&Waited::ended(view::ended(&report))),
        None if call.client.gone.is_cancelled() => Ok(Answer::Nobody),
        None => Answer::of(&Waited::timeout(run.as_str())),
    }
}

/// Waits for the end of a run, but not for longer than the client is there.
async fn outlasting(call: &Call, run: &RunId, limit: Option<Duration>) -> Result<Option<Arc<RunReport>>, EngineError> {
    tokio::select! {
        ended = call.gateway.engine.wait(call.access(), run, limit) => ended,
        () = call.client.gone.cancelled() => Ok(None),
    }
}
