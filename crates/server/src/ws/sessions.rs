//! `sessions.*` (gateway-ws.md §2.2).

use std::time::Duration;

use uuid::Uuid;
use watertight_core::ErrorCode;
use watertight_core::ids::{GenerationId, RunId};
use watertight_core::run::{QueuePolicy, RunOptions};
use watertight_engine::admission::Access;
use watertight_engine::engine::SessionFilter;
use watertight_engine::request::{Selector, Target, TurnRequest};
use watertight_engine::view::{SessionList, SessionView};
use watertight_store::model::Archived as StoreArchived;
use watertight_wire::openclaw::params::{
    Archived, SessionsDescribeParams, SessionsListParams, SessionsMessagesParams, SessionsResolveParams,
    SessionsSendParams,
};
use watertight_wire::openclaw::reply::{Described, MessagesSubscribed, Resolved, SessionsPage, Subscribed};
use watertight_wire::openclaw::row::Extras;
use watertight_wire::openclaw::{ErrorShape, text};

use super::call::{Answer, Call, Failure, Outcome};
use super::{chat, view};
use crate::gateway::{Gateway, now};

/// Rows of a list that names no limit.
const DEFAULT_LIMIT: u32 = 100;
/// Rows of a list at the most.
const MAX_LIMIT: u32 = 1000;

pub(crate) async fn list(mut call: Call) -> Outcome {
    let params: SessionsListParams = call.params().await?;
    Answer::of(&page(&call.gateway, call.access(), params).await?)
}

/// Like a list, and hears of every change to it from now on. Without parameters the list itself is left out.
pub(crate) async fn subscribe(mut call: Call) -> Outcome {
    let asked = call.params.as_ref().is_some_and(|params| !matches!(compact(params.get()).as_str(), "{}" | "null"));
    let params: SessionsListParams = call.params().await?;
    // Before the list is read: a change in between is then heard, not lost.
    call.client.hear_list();
    let list = if asked { Some(page(&call.gateway, call.access(), params).await?) } else { None };
    Answer::of(&Subscribed::new(list))
}

fn compact(json: &str) -> String {
    json.chars().take(16).filter(|c| !c.is_whitespace()).collect()
}

async fn page(gateway: &Gateway, access: &Access, params: SessionsListParams) -> Result<SessionsPage, Failure> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let offset = params.offset.unwrap_or(0);
    let extras = Extras { derived_title: params.include_derived_titles, last_message: params.include_last_message };
    let found = if params.asks_for_nothing_we_have() {
        SessionList { sessions: Vec::new(), total: 0 }
    } else {
        gateway.engine.list(access, filter(&params, limit, offset)).await?
    };
    let wanted = |session: &&SessionView| {
        (!params.active_only || !session.active_runs.is_empty())
            && params.pinned.is_none_or(|pinned| pinned == session.meta.pinned_at.is_some())
    };
    let rows = found.sessions.iter().filter(wanted).map(|session| view::row(session, extras)).collect();
    let taken = found.sessions.len();
    Ok(SessionsPage::new(now().0, (offset, limit), taken, found.total, view::defaults(&gateway.engine), rows))
}

fn filter(params: &SessionsListParams, limit: u32, offset: u32) -> SessionFilter {
    SessionFilter {
        agent: params.agent_id.clone(),
        active_within: params.active_minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60))),
        search: params.search.clone().filter(|search| !search.trim().is_empty()),
        label: params.label.clone(),
        archived: match params.archived {
            None | Some(Archived::Only(false)) => StoreArchived::Exclude,
            Some(Archived::Only(true)) => StoreArchived::Only,
            Some(Archived::All(_)) => StoreArchived::Include,
        },
        sentinels: params.include_global || params.include_unknown,
        limit,
        offset,
    }
}

/// Exactly one of the names. A miss is an error, or `ok: false` where the client allows it.
pub(crate) async fn resolve(mut call: Call) -> Outcome {
    let params: SessionsResolveParams = call.params().await?;
    let mut names = Vec::new();
    names.extend(params.key.map(|key| (key.clone(), Some(Selector::Key(key)))));
    names.extend(params.session_id.map(|id| {
        // What cannot be a session id names no session.
        let selector = GenerationId::parse(&id).ok().map(Selector::Generation);
        (id, selector)
    }));
    names.extend(params.label.map(|label| (label.clone(), Some(Selector::Label(label)))));
    names.extend(params.reference.map(|link| (link.key.clone(), Some(Selector::Key(link.key)))));
    names.extend(params.short_id.map(|id| (id, None)));
    let Ok([(name, selector)]) = <[_; 1]>::try_from(names) else {
        return Err(Failure::invalid(
            "invalid sessions.resolve params: exactly one of key, sessionId, label, shortId or reference is required",
        ));
    };
    let found = match selector {
        Some(selector) => call.gateway.engine.find(call.access(), &selector, params.agent_id.as_deref()).await?,
        None => None,
    };
    match found {
        Some(session) => Answer::of(&Resolved::Hit {
            ok: true,
            key: session.key.to_string(),
            agent_id: session.agent,
            display_name: session.meta.display_name,
        }),
        None if params.allow_missing => Answer::of(&Resolved::Miss { ok: false }),
        None => Err(watertight_engine::EngineError::NoSession(shown(&name)).into()),
    }
}

/// A client's text, safe to echo.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(512).collect()
}

pub(crate) async fn describe(mut call: Call) -> Outcome {
    let params: SessionsDescribeParams = call.params().await?;
    let target = Target { key: Some(params.key), agent: params.agent_id, ..Target::default() };
    let found = call.gateway.engine.describe(call.access(), &target).await?;
    let extras = Extras { derived_title: params.include_derived_titles, last_message: params.include_last_message };
    Answer::of(&Described { session: found.map(|session| view::row(&session, extras)) })
}

/// `chat.send` to a session that exists.
pub(crate) async fn send(call: Call) -> Outcome {
    submit(call, QueuePolicy::Queue, "sessions.send").await
}

/// The same, and what runs there is aborted for it.
pub(crate) async fn steer(call: Call) -> Outcome {
    submit(call, QueuePolicy::Interrupt, "sessions.steer").await
}

async fn submit(mut call: Call, queue: QueuePolicy, method: &'static str) -> Outcome {
    let params: SessionsSendParams = call.params().await?;
    let run = match &params.idempotency_key {
        Some(key) => call.run_id("idempotencyKey", key)?,
        None => RunId::from_uuid(Uuid::new_v4()),
    };
    let message = text::clean(&params.message).map_err(|error| Failure::invalid(error.to_string()))?;
    let input = chat::input(&message, &params.attachments)?;
    let target = Target { key: Some(params.key), agent: params.agent_id, ..Target::default() };
    if call.gateway.engine.describe(call.access(), &target).await?.is_none() {
        let key = shown(target.key.as_deref().unwrap_or_default());
        return Err(ErrorShape::invalid(format!("session not found: {key}")).with_code(ErrorCode::NotFound).into());
    }
    let options = RunOptions {
        timeout_ms: params.timeout_ms,
        thinking: params.thinking.filter(|level| !level.trim().is_empty()),
        queue,
        ..RunOptions::default()
    };
    let request = TurnRequest { target, input, run, options, expect_generation: None, surface: "ws", method };
    chat::submit(call, request).await
}

/// Also works for a session that does not exist yet. What the caller may not read is never heard.
pub(crate) async fn messages_subscribe(mut call: Call) -> Outcome {
    let params: SessionsMessagesParams = call.params().await?;
    let key = call.gateway.engine.resolve_key(call.access(), &params.key, params.agent_id.as_deref())?;
    call.client.hear(&key).map_err(|error| Failure::invalid(error.to_string()))?;
    Answer::of(&MessagesSubscribed { subscribed: true, key: key.to_string() })
}

pub(crate) async fn messages_unsubscribe(mut call: Call) -> Outcome {
    let params: SessionsMessagesParams = call.params().await?;
    let key = call.gateway.engine.resolve_key(call.access(), &params.key, params.agent_id.as_deref())?;
    call.client.ignore(&key);
    Answer::of(&MessagesSubscribed { subscribed: false, key: key.to_string() })
}
