//! The answers of the methods, and the two events that carry a session's row (gateway-ws.md §2, §3).

use serde::Serialize;
use serde_json::value::RawValue;
use watertight_core::Receipt;

use super::hello::{Empty, Heartbeat, STORE_NAME, SessionCount};
use super::message::StoredMessage;
use super::row::SessionRow;

/// Which model answers where nothing else is said.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// Configured provider name.
    pub model_provider: String,
    /// The provider's name for the model.
    pub model: String,
    /// Size of its context window, in tokens.
    pub context_tokens: u64,
}

/// `chat.history`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPage {
    /// The key as the client wrote it.
    pub session_key: String,
    /// The transcript; absent while the session does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Oldest first.
    pub messages: Vec<StoredMessage>,
    /// Always empty: an input is in the transcript as soon as it is acknowledged.
    pub pending_inputs: PendingInputs,
    /// Whether older messages exist.
    pub has_more: bool,
    /// The offset of the next older page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u32>,
    /// The offset this page was asked with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// Messages of the transcript in all.
    pub total_messages: u32,
    /// Where the newest page ends, to ask later for what came after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta_cursor: Option<String>,
    /// Which model answers.
    pub defaults: Defaults,
    /// The session.
    pub session_info: SessionRow,
    /// The run that is answering now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_run: Option<InFlightRun>,
    /// The agents; only in `chat.startup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents_list: Option<AgentsList>,
}

/// Inputs that are not in the transcript yet.
#[derive(Debug, Default, Serialize)]
pub struct PendingInputs {
    items: [(); 0],
    total: u32,
}

/// A run in the middle of its answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlightRun {
    run_id: String,
    text: String,
    started_at: i64,
    events: [(); 0],
    provisional: bool,
}

impl InFlightRun {
    /// The run, with what it has said so far. That is not durable yet, which the mark says.
    pub fn new(run_id: String, text: String, started_at: i64) -> Self {
        Self { run_id, text, started_at, events: [], provisional: true }
    }
}

/// `chat.history` with a cursor: all that came after it. Clients take it for whole, so what does not fit one answer is
/// [`HistoryReset`] instead (§2.1, §4.2).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryDelta<'a> {
    kind: &'static str,
    messages: Vec<SessionMessage<'a>>,
    delta_cursor: String,
    pending_inputs: PendingInputs,
    session_info: SessionRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight_run: Option<InFlightRun>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agents_list: Option<AgentsList>,
}

impl<'a> HistoryDelta<'a> {
    /// The messages, where they end now, and the session; the agents only in `chat.startup`.
    pub fn new(
        messages: Vec<SessionMessage<'a>>,
        delta_cursor: String,
        session_info: SessionRow,
        in_flight_run: Option<InFlightRun>,
        agents_list: Option<AgentsList>,
    ) -> Self {
        let pending_inputs = PendingInputs::default();
        Self { kind: "delta", messages, delta_cursor, pending_inputs, session_info, in_flight_run, agents_list }
    }
}

/// `chat.history` with a cursor: start anew. Always allowed (§2.1).
#[derive(Debug, Serialize)]
pub struct HistoryReset {
    kind: &'static str,
}

impl HistoryReset {
    /// Start anew.
    pub const RESET: Self = Self { kind: "reset" };
}

/// `chat.send`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatAck<'a> {
    /// The run.
    pub run_id: &'a str,
    /// `started`, `in_flight`, `ok`, `error` or `timeout`.
    pub status: &'static str,
    /// Place of the input in its transcript, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_seq: Option<u32>,
    /// What went wrong in a run that had ended before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<&'a str>,
    /// Whether another run was aborted for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted_active_run: bool,
    /// Ours: proves later that the input is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// `chat.abort`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AbortAck {
    ok: bool,
    aborted: bool,
    run_ids: Vec<String>,
}

impl AbortAck {
    /// These runs were ended; none means there was nothing to end.
    pub fn new(run_ids: Vec<String>) -> Self {
        Self { ok: true, aborted: !run_ids.is_empty(), run_ids }
    }
}

/// `sessions.list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsPage {
    ts: i64,
    path: &'static str,
    count: usize,
    total_count: u64,
    limit_applied: u32,
    offset: u32,
    next_offset: Option<u64>,
    has_more: bool,
    owners: [(); 0],
    defaults: Defaults,
    sessions: Vec<SessionRow>,
}

impl SessionsPage {
    /// `sessions` are rows `offset` and following of `total`. `taken` is how many of the matches the page covers: more
    /// than it has rows where some were left out.
    pub fn new(
        ts: i64,
        (offset, limit): (u32, u32),
        taken: usize,
        total: u64,
        defaults: Defaults,
        sessions: Vec<SessionRow>,
    ) -> Self {
        let next = u64::from(offset) + taken as u64;
        let has_more = next < total && taken > 0;
        Self {
            ts,
            path: STORE_NAME,
            count: sessions.len(),
            total_count: total,
            limit_applied: limit,
            offset,
            next_offset: has_more.then_some(next),
            has_more,
            owners: [],
            defaults,
            sessions,
        }
    }
}

/// `sessions.subscribe`.
#[derive(Debug, Serialize)]
pub struct Subscribed {
    subscribed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<SessionsPage>,
}

impl Subscribed {
    /// With the list, where one was asked for.
    pub fn new(list: Option<SessionsPage>) -> Self {
        Self { subscribed: true, list }
    }
}

/// `sessions.messages.subscribe` and `.unsubscribe`.
#[derive(Debug, Serialize)]
pub struct MessagesSubscribed {
    /// Whether the connection hears the session's messages now.
    pub subscribed: bool,
    /// The canonical key.
    pub key: String,
}

/// `sessions.resolve`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Resolved {
    /// Found.
    #[serde(rename_all = "camelCase")]
    Hit {
        /// True.
        ok: bool,
        /// The canonical key.
        key: String,
        /// Its agent.
        agent_id: String,
        /// Its name in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        display_name: Option<String>,
    },
    /// Missing, or not the caller's.
    Miss {
        /// False.
        ok: bool,
    },
}

/// `sessions.describe`.
#[derive(Debug, Serialize)]
pub struct Described {
    /// The session; null where it is missing, or not the caller's.
    pub session: Option<SessionRow>,
}

/// `agents.list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentsList {
    default_id: String,
    main_key: &'static str,
    scope: &'static str,
    agents: Vec<AgentRow>,
}

#[derive(Debug, Serialize)]
struct AgentRow {
    id: String,
    kind: &'static str,
    name: String,
    model: PrimaryModel,
}

/// An object, not a text: pages take anything else for "no model configured" (control-ui.md §1).
#[derive(Debug, Serialize)]
struct PrimaryModel {
    primary: String,
}

impl AgentsList {
    /// The agents, each with its provider and model.
    pub fn new(default_id: String, agents: impl IntoIterator<Item = (String, (String, String))>) -> Self {
        let agents = agents
            .into_iter()
            .map(|(id, (provider, model))| AgentRow {
                name: id.clone(),
                id,
                kind: "agent",
                model: PrimaryModel { primary: format!("{provider}/{model}") },
            })
            .collect();
        Self { default_id, main_key: "main", scope: "per-sender", agents }
    }
}

/// `models.list`.
#[derive(Debug, Serialize)]
pub struct ModelsList {
    /// The models.
    pub models: Vec<ModelRow>,
}

/// A model.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRow {
    id: String,
    name: String,
    provider: String,
    context_window: u64,
    available: bool,
}

impl ModelRow {
    /// A model of a configured provider.
    pub fn new(provider: String, model: String, context_window: u64) -> Self {
        Self { name: model.clone(), id: model, provider, context_window, available: true }
    }
}

/// `status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    runtime_version: &'static str,
    heartbeat: StatusHeartbeats,
    channel_summary: [(); 0],
    queued_system_events: [(); 0],
    tasks: Tasks,
    sessions: StatusSessions,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusHeartbeats {
    default_agent_id: String,
    agents: Vec<StatusHeartbeat>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusHeartbeat {
    agent_id: String,
    #[serde(flatten)]
    heartbeat: Heartbeat,
}

/// We have no background tasks; clients read the counters all the same.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tasks {
    total: u32,
    active: u32,
    terminal: u32,
    failures: u32,
    by_status: Empty,
    by_runtime: Empty,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusSessions {
    paths: [&'static str; 1],
    count: u64,
    defaults: StatusDefaults,
    recent: Vec<SessionRow>,
    by_agent: Vec<StatusAgent>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusDefaults {
    model: String,
    context_tokens: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusAgent {
    agent_id: String,
    #[serde(flatten)]
    sessions: SessionCount,
}

impl Status {
    /// How things stand: sessions in all, the latest of them, and the count of each agent.
    pub fn new(
        version: &'static str,
        default_agent: String,
        defaults: Defaults,
        count: u64,
        recent: Vec<SessionRow>,
        by_agent: Vec<(String, SessionCount)>,
    ) -> Self {
        let heartbeats = by_agent
            .iter()
            .map(|(agent, _)| StatusHeartbeat { agent_id: agent.clone(), heartbeat: Heartbeat::OFF })
            .collect();
        Self {
            runtime_version: version,
            heartbeat: StatusHeartbeats { default_agent_id: default_agent, agents: heartbeats },
            channel_summary: [],
            queued_system_events: [],
            tasks: Tasks::default(),
            sessions: StatusSessions {
                paths: [STORE_NAME],
                count,
                defaults: StatusDefaults { model: defaults.model, context_tokens: defaults.context_tokens },
                recent,
                by_agent: by_agent.into_iter().map(|(agent_id, sessions)| StatusAgent { agent_id, sessions }).collect(),
            },
        }
    }
}

/// Event `session.message`. The row stands in `session` and is not repeated beside it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionMessage<'a> {
    /// The canonical key.
    pub session_key: &'a str,
    /// The agent that answers in it.
    pub agent_id: &'a str,
    /// The message.
    pub message: StoredMessage,
    /// Its id.
    pub message_id: String,
    /// Its place in the transcript, from 1.
    pub message_seq: u32,
    /// Ours: its place among all entries of the session, from 1. What is heard twice has the same.
    pub session_seq: u64,
    /// The session after it.
    pub session: SessionRow,
}

/// Event `sessions.changed`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsChanged<'a> {
    /// The canonical key.
    pub session_key: &'a str,
    /// The agent that answers in it.
    pub agent_id: &'a str,
    /// Why.
    pub reason: &'a str,
    /// How far a run is: `start`, `end` or `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<&'static str>,
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<&'a str>,
    /// When.
    pub ts: i64,
    /// The session now.
    pub session: SessionRow,
}

/// Event `presence`.
#[derive(Debug, Serialize)]
pub struct Presence<'a> {
    /// Who is here: JSON of a list of [`super::hello::PresenceEntry`].
    pub presence: &'a RawValue,
}

/// Event `tick`.
#[derive(Debug, Serialize)]
pub struct Tick {
    /// Our clock, in milliseconds since the epoch.
    pub ts: i64,
}

/// Event `shutdown`.
#[derive(Debug, Serialize)]
pub struct Shutdown {
    /// Why.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openclaw::row::{Extras, tests::row};
    use serde_json::{json, to_value};
    use watertight_core::ids::{Seq, SessionId};

    fn defaults() -> Defaults {
        Defaults { model_provider: "p1".into(), model: "m1".into(), context_tokens: 200_000 }
    }

    #[test]
    fn a_list_says_where_the_next_page_begins() {
        let page = |offset, taken, total| {
            to_value(SessionsPage::new(7, (offset, 60), taken, total, defaults(), vec![row(Extras::ALL)])).unwrap()
        };
        let last = page(0, 1, 1);
        assert_eq!((&last["nextOffset"], &last["hasMore"], &last["count"]), (&json!(null), &json!(false), &json!(1)));
        let more = page(10, 5, 40);
        assert_eq!(
            (&more["nextOffset"], &more["hasMore"], &more["totalCount"]),
            (&json!(15), &json!(true), &json!(40))
        );
        let mut keys: Vec<_> = last.as_object().unwrap().keys().collect();
        keys.sort();
        insta::assert_debug_snapshot!(keys, @r#"
        [
            "count",
            "defaults",
            "hasMore",
            "limitApplied",
            "nextOffset",
            "offset",
            "owners",
            "path",
            "sessions",
            "totalCount",
            "ts",
        ]
        "#);
    }

    #[test]
    fn a_history_page_has_its_shape() {
        let page = HistoryPage {
            session_key: "main".into(),
            session_id: Some("s".into()),
            messages: vec![],
            pending_inputs: PendingInputs::default(),
            has_more: false,
            next_offset: None,
            offset: None,
            total_messages: 0,
            delta_cursor: Some("c".into()),
            defaults: defaults(),
            session_info: row(Extras::ALL),
            in_flight_run: Some(InFlightRun::new("r".into(), "pa".into(), 1)),
            agents_list: None,
        };
        let mut page = to_value(page).unwrap();
        page["sessionInfo"] = json!("row");
        insta::assert_json_snapshot!(page, @r#"
        {
          "defaults": {
            "contextTokens": 200000,
            "model": "m1",
            "modelProvider": "p1"
          },
          "deltaCursor": "c",
          "hasMore": false,
          "inFlightRun": {
            "events": [],
            "provisional": true,
            "runId": "r",
            "startedAt": 1,
            "text": "pa"
          },
          "messages": [],
          "pendingInputs": {
            "items": [],
            "total": 0
          },
          "sessionId": "s",
          "sessionInfo": "row",
          "sessionKey": "main",
          "totalMessages": 0
        }
        "#);
        assert_eq!(to_value(HistoryReset::RESET).unwrap(), json!({"kind": "reset"}));
        let delta = to_value(HistoryDelta::new(vec![], "c".into(), row(Extras::ALL), None, None)).unwrap();
        let mut keys: Vec<_> = delta.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["deltaCursor", "kind", "messages", "pendingInputs", "sessionInfo"], "upstream's is closed");
        assert_eq!(delta["kind"], "delta");
    }

    #[test]
    fn small_answers_have_their_shape() {
        assert_eq!(to_value(AbortAck::new(vec![])).unwrap(), json!({"ok": true, "aborted": false, "runIds": []}));
        assert_eq!(to_value(Subscribed::new(None)).unwrap(), json!({"subscribed": true}));
        let ack = |interrupted_active_run, receipt| {
            let (status, message_seq) = ("started", Some(1));
            to_value(ChatAck { run_id: "r", status, message_seq, summary: None, interrupted_active_run, receipt })
                .unwrap()
        };
        assert_eq!(ack(false, None), json!({"runId": "r", "status": "started", "messageSeq": 1}));
        let receipt = Receipt { session: SessionId::from_bytes([1; 16]), seq: Seq(7), chain: [2; 32] };
        assert_eq!(
            ack(true, Some(receipt)),
            json!({
                "runId": "r", "status": "started", "messageSeq": 1, "interruptedActiveRun": true,
                "receipt": {"session": "01".repeat(16), "seq": 7, "chain": "02".repeat(32)},
            })
        );
        let hit =
            Resolved::Hit { ok: true, key: "agent:main:main".into(), agent_id: "main".into(), display_name: None };
        assert_eq!(to_value(hit).unwrap(), json!({"ok": true, "key": "agent:main:main", "agentId": "main"}));
        assert_eq!(to_value(Resolved::Miss { ok: false }).unwrap(), json!({"ok": false}));
        let agents = AgentsList::new("main".into(), [("main".into(), ("p1".into(), "m1".into()))]);
        assert_eq!(
            to_value(agents).unwrap(),
            json!({
                "defaultId": "main", "mainKey": "main", "scope": "per-sender",
                "agents": [{"id": "main", "kind": "agent", "name": "main", "model": {"primary": "p1/m1"}}],
            })
        );
        assert_eq!(
            to_value(ModelRow::new("p1".into(), "m1".into(), 9)).unwrap(),
            json!({"id": "m1", "name": "m1", "provider": "p1", "contextWindow": 9, "available": true})
        );
    }

    #[test]
    fn status_counts_sessions_by_agent() {
        let count = SessionCount::new(1, vec![]);
        let status = Status::new("0.1.0", "main".into(), defaults(), 1, vec![], vec![("main".into(), count)]);
        insta::assert_json_snapshot!(to_value(status).unwrap(), @r#"
        {
          "channelSummary": [],
          "heartbeat": {
            "agents": [
              {
                "ackMaxChars": 0,
                "agentId": "main",
                "enabled": false,
                "every": "disabled",
                "everyMs": null,
                "prompt": "",
                "target": "none"
              }
            ],
            "defaultAgentId": "main"
          },
          "queuedSystemEvents": [],
          "runtimeVersion": "0.1.0",
          "sessions": {
            "byAgent": [
              {
                "agentId": "main",
                "count": 1,
                "path": "store.db",
                "recent": []
              }
            ],
            "count": 1,
            "defaults": {
              "contextTokens": 200000,
              "model": "m1"
            },
            "paths": [
              "store.db"
            ],
            "recent": []
          },
          "tasks": {
            "active": 0,
            "byRuntime": {},
            "byStatus": {},
            "failures": 0,
            "terminal": 0,
            "total": 0
          }
        }
        "#);
    }
}
