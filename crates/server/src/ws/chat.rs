//! `chat.*` (gateway-ws.md §2.1).

use uuid::Uuid;
use watertight_core::ids::{EntryId, GenerationId, RunId};
use watertight_core::run::RunOptions;
use watertight_core::transcript::{Block, Entry};
use watertight_engine::EngineError;
use watertight_engine::report::RunReport;
use watertight_engine::request::{Accepted, Cursor, Disposition, GenerationChoice, HistoryQuery, Target, TurnRequest};
use watertight_engine::view::{Changes, History, InFlight, SessionView};
use watertight_wire::openclaw::agent::AgentFinal;
use watertight_wire::openclaw::message::StoredMessage;
use watertight_wire::openclaw::params::{
    ChatAbortParams, ChatHistoryParams, ChatSendParams, ChatStartupParams, QueueMode,
};
use watertight_wire::openclaw::reply::{
    AbortAck, AgentsList, ChatAck, HistoryDelta, HistoryPage, HistoryReset, InFlightRun, PendingInputs, SessionMessage,
};
use watertight_wire::openclaw::row::Extras;
use watertight_wire::openclaw::{cursor, text};

use super::call::{Answer, Call, Failure, Outcome};
use super::{image, view};

/// Messages of a page that names no limit.
const DEFAULT_LIMIT: u32 = 200;
/// Bytes of messages in a page at the most.
const MAX_PAGE_BYTES: usize = 6 * 1024 * 1024;
/// Messages of a delta at the most. Clients take it for whole: one that lacks more reads anew.
const MAX_DELTA: u32 = 1000;

/// One sentence for every way of asking us to deliver a reply somewhere.
pub(super) const NO_CHANNELS: &str =
    "This gateway has no messaging channels and cannot deliver the reply; send the request without deliver.";

/// Acknowledged once the input is durable, before the first event of the run.
pub(crate) async fn send(mut call: Call) -> Outcome {
    let params: ChatSendParams = call.params().await?;
    let run = call.run_id("idempotencyKey", &params.idempotency_key)?;
    if params.deliver {
        return Err(Failure::invalid(NO_CHANNELS));
    }
    let message = text::clean(&params.message).map_err(|error| Failure::invalid(error.to_string()))?;
    let mut target = Target { key: Some(params.session_key), agent: params.agent_id, ..Target::default() };
    if params.attachments.is_empty() && !params.suppress_command_interpretation && text::is_stop_command(&message) {
        return stop(&call, &target, None, "stop").await;
    }
    if let Some(id) = &params.session_id {
        let id = GenerationId::parse(id)
            .map_err(|error| Failure::invalid(format!("invalid chat.send params: at /sessionId: {error}")))?;
        target.generation = GenerationChoice::NamesNew(id);
    }
    let request = TurnRequest {
        target,
        input: input(&message, &params.attachments)?,
        run,
        options: RunOptions {
            timeout_ms: params.timeout_ms,
            thinking: params.thinking.filter(|level| !level.trim().is_empty()),
            queue: params.queue_mode.map(QueueMode::policy).unwrap_or_default(),
            ..RunOptions::default()
        },
        expect_generation: None,
        surface: "ws",
        method: "chat.send",
    };
    submit(call, request).await
}

/// Acknowledges the turn as `chat.send` does, and no more.
pub(super) async fn submit(mut call: Call, request: TurnRequest) -> Outcome {
    let (client, id) = (call.client.clone(), call.id.clone());
    let acknowledge = move |accepted: &Accepted| {
        if matches!(accepted.disposition, Disposition::Started | Disposition::InFlight) {
            client.started(&accepted.run, &accepted.key);
        }
        client.outbox.respond(&id, &ack(accepted));
    };
    // From the session's mailbox on, the session itself keeps the order.
    let taken = call.started();
    call.gateway.engine.submit_in_order(call.access(), request, taken, acknowledge).await?;
    Ok(Answer::Sent)
}

fn ack(accepted: &Accepted) -> ChatAck<'_> {
    let ack = |status, summary| ChatAck {
        run_id: accepted.run.as_str(),
        status,
        message_seq: accepted.message_seq,
        summary,
        interrupted_active_run: accepted.interrupted.is_some(),
        receipt: accepted.receipt,
    };
    match &accepted.disposition {
        Disposition::Started => ack("started", None),
        Disposition::InFlight => ack("in_flight", None),
        Disposition::Ended(report) => ack(ended_status(report), view::ended(report).error()),
    }
}

/// How a run that had ended before is reported.
fn ended_status(report: &RunReport) -> &'static str {
    AgentFinal::new(view::ended(report)).status()
}

/// The blocks of a cleaned message and its pictures.
pub(super) fn input(message: &str, attachments: &[serde_json::Value]) -> Result<Vec<Block>, Failure> {
    let pictures = image::blocks(attachments)?;
    if message.trim().is_empty() && pictures.is_empty() {
        return Err(Failure::invalid("message or attachment required"));
    }
    let text = (!message.trim().is_empty()).then(|| Block::from_text(message));
    Ok(text.into_iter().chain(pictures).collect())
}

/// Answered once the runs' end is durable and has been announced.
pub(crate) async fn abort(mut call: Call) -> Outcome {
    let params: ChatAbortParams = call.params().await?;
    // What cannot be a run id names no run.
    let run = match params.run_id.as_deref().map(RunId::parse) {
        None => None,
        Some(Ok(run)) => Some(run),
        Some(Err(_)) => return Answer::of(&AbortAck::new(Vec::new())),
    };
    let target = Target { key: Some(params.session_key), agent: params.agent_id, ..Target::default() };
    stop(&call, &target, run.as_ref(), "rpc").await
}

async fn stop(call: &Call, target: &Target, run: Option<&RunId>, reason: &str) -> Outcome {
    let runs = match call.gateway.engine.abort(call.access(), target, run, reason).await {
        Ok(aborted) => aborted.runs,
        // Nothing runs in a session that is not there.
        Err(EngineError::NoSession(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    Answer::of(&AbortAck::new(runs.iter().map(ToString::to_string).collect()))
}

pub(crate) async fn history(mut call: Call) -> Outcome {
    let params: ChatHistoryParams = call.params().await?;
    page(&call, params, None).await
}

/// The same page with what else a client needs to begin.
pub(crate) async fn startup(mut call: Call) -> Outcome {
    match call.params().await? {
        ChatStartupParams::Key(params) => page(&call, params, Some(view::agents(&call.gateway.engine))).await,
        // We make no short ids, so no link of ours carries one.
        ChatStartupParams::Link { short_id } => {
            let shown: String = short_id.chars().filter(|c| !c.is_control()).take(64).collect();
            Err(EngineError::NoSession(shown).into())
        }
    }
}

async fn page(call: &Call, mut params: ChatHistoryParams, agents: Option<AgentsList>) -> Outcome {
    if params.session_id.is_some() && params.message_id.is_none() {
        return Err(Failure::invalid("sessionId requires messageId"));
    }
    let target = Target { key: Some(params.session_key.clone()), agent: params.agent_id, ..Target::default() };
    if params.cursor.is_some() && (params.offset.is_some() || params.message_id.is_some()) {
        return Err(Failure::invalid("cursor cannot be used with offset or messageId"));
    }
    let limit = usize::try_from(params.max_bytes.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let max_bytes = limit.min(MAX_PAGE_BYTES);
    if let Some(text) = &params.cursor {
        return delta(call, &target, text, max_bytes, params.max_chars, agents).await;
    }
    if let Some(id) = &params.session_id {
        let session = call.gateway.engine.describe(call.access(), &target).await?;
        let live = session.as_ref().and_then(|session| session.generation.as_ref());
        if live.map(GenerationId::as_str) != Some(id) {
            return Err(Failure::invalid("sessionId does not belong to sessionKey"));
        }
    }
    let mut query =
        HistoryQuery { limit: params.limit.unwrap_or(DEFAULT_LIMIT), offset: params.offset.unwrap_or(0), max_bytes };
    let history = match &params.message_id {
        None => call.gateway.engine.history(call.access(), &target, query).await?,
        Some(id) => {
            let history = around(call, &target, &mut query, id).await?;
            params.offset = Some(query.offset);
            history
        }
    };
    Answer::of(&page_of(history, params.session_key, params.offset, params.max_chars, agents))
}

/// All that came after the cursor, or the advice to read anew. A client that subscribes first and asks then misses
/// nothing; what it hears twice has the same `sessionSeq`.
async fn delta(
    call: &Call,
    target: &Target,
    text: &str,
    max_bytes: usize,
    max_chars: Option<usize>,
    agents: Option<AgentsList>,
) -> Outcome {
    let engine = &call.gateway.engine;
    // The key must still be one this caller could have.
    engine.resolve_key(call.access(), target.key.as_deref().unwrap_or_default(), target.agent.as_deref())?;
    let Some((generation, seq)) = cursor::read(text) else { return Answer::of(&HistoryReset::RESET) };
    let cursor = Cursor { generation, seq };
    match engine.changes(call.access(), target, &cursor, MAX_DELTA, max_bytes).await? {
        Changes::Since { session, entries, has_more: false, in_flight } => {
            let end = entries.last().map_or(cursor.seq, |entry| entry.seq);
            let messages = entries.iter().map(|entry| envelope(entry, &session, max_chars)).collect();
            let cursor = cursor::write(&cursor.generation, end);
            let info = view::row(&session, Extras::ALL);
            Answer::of(&HistoryDelta::new(messages, cursor, info, in_flight.map(in_flight_run), agents))
        }
        Changes::Since { .. } | Changes::Reset => Answer::of(&HistoryReset::RESET),
    }
}

/// An entry as `session.message` tells it.
pub(super) fn envelope<'a>(entry: &Entry, session: &'a SessionView, max_chars: Option<usize>) -> SessionMessage<'a> {
    SessionMessage {
        session_key: session.key.as_str(),
        agent_id: &session.agent,
        message: StoredMessage::new(entry, max_chars),
        message_id: entry.id.to_string(),
        message_seq: entry.message_seq,
        session_seq: entry.seq.0,
        session: view::row(session, Extras::ALL),
    }
}

fn in_flight_run(run: InFlight) -> InFlightRun {
    InFlightRun::new(run.run.to_string(), run.text, run.started_at.0)
}

/// The page of the live transcript that has the message in its middle, or at its end where the bytes do not suffice.
async fn around(call: &Call, target: &Target, query: &mut HistoryQuery, id: &str) -> Result<History, Failure> {
    let missing = || {
        let shown: String = id.chars().filter(|c| !c.is_control()).take(64).collect();
        Failure::invalid(format!("No message {shown} in this session's current transcript"))
    };
    let engine = &call.gateway.engine;
    let wanted = EntryId::from_bytes(Uuid::parse_str(id).map_err(|_| missing())?.into_bytes());
    let seq = engine.entry(call.access(), target, wanted).await?.ok_or_else(missing)?.message_seq;
    let newest = HistoryQuery { limit: 1, offset: 0, ..query.clone() };
    let newer = engine.history(call.access(), target, newest).await?.total.saturating_sub(seq);
    for offset in [newer.saturating_sub(query.limit / 2), newer] {
        query.offset = offset;
        let history = engine.history(call.access(), target, query.clone()).await?;
        if history.entries.iter().any(|entry| entry.id == wanted) {
            return Ok(history);
        }
    }
    // It belongs to a former transcript.
    Err(missing())
}

fn page_of(
    history: History,
    session_key: String,
    offset: Option<u32>,
    max_chars: Option<usize>,
    agents_list: Option<AgentsList>,
) -> HistoryPage {
    let History { session, entries, total, newest, has_more, in_flight } = history;
    // Only the page that ends with the newest message says where the client is.
    let whole_tail = offset.unwrap_or(0) == 0;
    let read = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    HistoryPage {
        session_key,
        session_id: session.generation.as_ref().map(ToString::to_string),
        messages: entries.iter().map(|entry| StoredMessage::new(entry, max_chars)).collect(),
        pending_inputs: PendingInputs::default(),
        has_more,
        next_offset: has_more.then(|| offset.unwrap_or(0).saturating_add(read)),
        offset,
        total_messages: total,
        delta_cursor: session.generation.as_ref().filter(|_| whole_tail).map(|id| cursor::write(id, newest)),
        defaults: view::session_defaults(&session),
        session_info: view::row(&session, Extras::ALL),
        in_flight_run: in_flight.map(in_flight_run),
        agents_list,
    }
}
