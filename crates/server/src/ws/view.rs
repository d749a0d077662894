//! The engine's views as the wire shows them.

use watertight_engine::Engine;
use watertight_engine::report::RunReport;
use watertight_engine::view::SessionView;
use watertight_wire::openclaw::agent::EndedRun;
use watertight_wire::openclaw::reply::{AgentsList, Defaults};
use watertight_wire::openclaw::row::{Extras, RowSource, SessionRow};

/// A session's row.
pub(crate) fn row(view: &SessionView, extras: Extras) -> SessionRow {
    let source = RowSource {
        key: &view.key,
        agent: &view.agent,
        is_main: view.is_main,
        generation: view.generation.as_ref(),
        meta: &view.meta,
        created_at: view.created_at,
        updated_at: view.updated_at,
        active_runs: &view.active_runs,
        model: (&view.model.0, &view.model.1),
        context_tokens: view.context_tokens,
    };
    SessionRow::new(source, extras)
}

/// The model of one session.
pub(crate) fn session_defaults(view: &SessionView) -> Defaults {
    let (model_provider, model) = view.model.clone();
    Defaults { model_provider, model, context_tokens: view.context_tokens }
}

/// The model of the default agent.
pub(crate) fn defaults(engine: &Engine) -> Defaults {
    let agents = engine.agents();
    let (provider, model) =
        agents.iter().find(|agent| agent.is_default).map(|agent| agent.model.clone()).unwrap_or_default();
    let size = engine.models().into_iter().find(|known| known.provider == provider && known.model == model);
    Defaults { context_tokens: size.map_or(0, |known| known.context_tokens), model_provider: provider, model }
}

/// The default agent.
pub(crate) fn default_agent(engine: &Engine) -> String {
    engine.agents().into_iter().find(|agent| agent.is_default).map(|agent| agent.id).unwrap_or_default()
}

/// `agents.list`.
pub(crate) fn agents(engine: &Engine) -> AgentsList {
    AgentsList::new(default_agent(engine), engine.agents().into_iter().map(|agent| (agent.id, agent.model)))
}

/// A run that has ended, in the words of the wire. Whoever runs turns without a gateway answers by the same.
pub fn ended(report: &RunReport) -> EndedRun<'_> {
    EndedRun {
        run: &report.run,
        key: &report.key,
        generation: &report.generation,
        outcome: &report.outcome,
        text: &report.text,
        model: report.model.as_ref(),
        usage: report.usage,
        last_usage: report.last_usage,
        started_at: report.started_at,
        ended_at: report.ended_at,
        receipt: report.receipt,
    }
}
