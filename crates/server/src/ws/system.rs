//! `health`, `status`, `system-presence`, `agents.list`, `models.list` (gateway-ws.md §2.3).

use std::time::Instant;

use watertight_core::grant::Verb;
use watertight_core::ids::UnixMillis;
use watertight_engine::EngineError;
use watertight_engine::admission::Access;
use watertight_engine::engine::SessionFilter;
use watertight_engine::view::{SessionList, SessionView};
use watertight_wire::openclaw::hello::{AgentSessions, Health, RecentSession, SessionCount};
use watertight_wire::openclaw::params::{HealthParams, ModelsListParams, Nothing, StatusParams};
use watertight_wire::openclaw::reply::{ModelRow, ModelsList, Status};
use watertight_wire::openclaw::row::Extras;

use super::call::{Answer, Call, Outcome};
use super::view;
use crate::gateway::{Gateway, now};

/// Latest sessions in a snapshot.
const RECENT: u32 = 5;

pub(crate) async fn health(mut call: Call) -> Outcome {
    let HealthParams {} = call.params().await?;
    Answer::of(&snapshot(&call.gateway, call.access()).await?)
}

pub(crate) async fn status(mut call: Call) -> Outcome {
    let StatusParams {} = call.params().await?;
    let engine = &call.gateway.engine;
    let latest = latest(&call.gateway, call.access(), None).await?;
    let mut by_agent = Vec::new();
    for agent in engine.agents() {
        let count = count(&call.gateway, call.access(), &agent.id).await?;
        by_agent.push((agent.id, count));
    }
    let rows = latest.sessions.iter().map(|session| view::row(session, Extras::ALL)).collect();
    let status = Status::new(
        call.gateway.options.version,
        view::default_agent(engine),
        view::defaults(engine),
        latest.total,
        rows,
        by_agent,
    );
    Answer::of(&status)
}

pub(crate) fn presence(call: &Call) -> Outcome {
    // Upstream takes any parameters here.
    Answer::of(&call.client.circle.list().entries)
}

pub(crate) async fn agents(mut call: Call) -> Outcome {
    let Nothing {} = call.params().await?;
    Answer::of(&view::agents(&call.gateway.engine))
}

pub(crate) async fn models(mut call: Call) -> Outcome {
    let params: ModelsListParams = call.params().await?;
    let models = call.gateway.engine.models().into_iter();
    let models = models
        .filter(|model| params.provider.as_ref().is_none_or(|wanted| *wanted == model.provider))
        .map(|model| ModelRow::new(model.provider, model.model, model.context_tokens))
        .collect();
    Answer::of(&ModelsList { models })
}

/// How we are, with the sessions this caller may see.
pub(crate) async fn snapshot(gateway: &Gateway, access: &Access) -> Result<Health, EngineError> {
    let begun = Instant::now();
    let all = summary(&latest(gateway, access, None).await?, now());
    let views = gateway.engine.agents();
    let only = views.len() == 1;
    let mut agents = Vec::with_capacity(views.len());
    for agent in views {
        let sessions = if only { all.clone() } else { count(gateway, access, &agent.id).await? };
        agents.push(AgentSessions { id: agent.id, is_default: agent.is_default, sessions });
    }
    let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Health::new(now().0, took, agents, all))
}

async fn count(gateway: &Gateway, access: &Access, agent: &str) -> Result<SessionCount, EngineError> {
    let latest = latest(gateway, access, Some(agent.to_owned())).await?;
    Ok(summary(&latest, now()))
}

/// The latest sessions this caller may read: none without the scope to read.
async fn latest(gateway: &Gateway, access: &Access, agent: Option<String>) -> Result<SessionList, EngineError> {
    if !access.verbs().allows(Verb::Read) {
        return Ok(SessionList { sessions: Vec::new(), total: 0 });
    }
    gateway.engine.list(access, SessionFilter { agent, limit: RECENT, ..SessionFilter::default() }).await
}

fn summary(list: &SessionList, now: UnixMillis) -> SessionCount {
    let recent = |session: &SessionView| RecentSession {
        key: session.key.to_string(),
        updated_at: session.updated_at.map(|at| at.0),
        age: session.updated_at.map(|at| now.since(at)),
    };
    SessionCount::new(list.total, list.sessions.iter().map(recent).collect())
}
