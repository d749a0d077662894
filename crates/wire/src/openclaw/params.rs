//! The parameters of every method: one shape, which lists all that upstream allows, and one type, which holds what we
//! use of it (gateway-ws.md §7).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use watertight_core::run::QueuePolicy;

use super::failure::ErrorShape;
use super::shape::{
    self, Shape, any, boolean, closed, integer, integer_within, list, one_of, open, optional, required, text,
    text_within, word,
};

/// The parameters of one method.
pub trait Params: Sized + for<'de> Deserialize<'de> {
    /// What they may be.
    const SHAPE: &'static Shape;

    /// Parses them; `method` names them in the error.
    fn parse(method: &str, params: Option<&RawValue>) -> Result<Self, ErrorShape> {
        shape::parse(method, Self::SHAPE, params)
    }
}

static ANY: Shape = any();
static STRING: Shape = text(0);

/// Says of each type of parameters what they may be.
macro_rules! shapes {
    ($($name:ident: $shape:expr;)*) => { $(
        impl Params for $name {
            const SHAPE: &'static Shape = {
                static SHAPE: Shape = $shape;
                &SHAPE
            };
        }
    )* };
}
pub(super) use shapes;

shapes! {
    Nothing: closed(&[]);
    HealthParams: closed(&[optional("probe", boolean())]);
    StatusParams: closed(&[optional("includeChannelSummary", boolean()), optional("includeCliProjection", boolean())]);
    AgentParams: closed(AGENT);
    AgentWaitParams: closed(&[required("runId", text(1)), optional("timeoutMs", integer(0))]);
    ChatSendParams: closed(CHAT_SEND);
    ChatAbortParams: closed(&[
        required("sessionKey", text(1)),
        optional("agentId", text(1)),
        optional("runId", text(1)),
        optional("preserveSideRuns", boolean()),
    ]);
    ChatHistoryParams: closed(CHAT_HISTORY);
    ChatStartupParams: CHAT_STARTUP;
    ModelsListParams: open(&[optional("agentId", text(1)), optional("provider", text(1)), optional("sessionKey", text(1))]);
    SessionsListParams: closed(SESSIONS_LIST);
    SessionsResolveParams: closed(&[
        optional("key", text(1)),
        optional("sessionId", text(1)),
        optional("label", text_within(1, 512)),
        optional("reference", closed(&[required("key", text(1)), optional("slug", text(1))])),
        optional("shortId", text(1)),
        optional("slugHint", text(1)),
        optional("agentId", text(1)),
        optional("spawnedBy", text(1)),
        optional("includeGlobal", boolean()),
        optional("includeUnknown", boolean()),
        optional("allowMissing", boolean()),
    ]);
    SessionsDescribeParams: closed(&[
        required("key", text(1)),
        optional("agentId", text(1)),
        optional("includeDerivedTitles", boolean()),
        optional("includeLastMessage", boolean()),
    ]);
    SessionsSendParams: closed(SESSIONS_SEND);
    SessionsMessagesParams: closed(&[
        required("key", text(1)),
        optional("agentId", text(1)),
        optional("includeApprovals", boolean()),
    ]);
}

/// No parameters.
#[derive(Debug, Deserialize)]
pub struct Nothing {}

/// `health`.
#[derive(Debug, Deserialize)]
pub struct HealthParams {}

/// `status`.
#[derive(Debug, Deserialize)]
pub struct StatusParams {}

/// What becomes of an input whose session is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueMode {
    /// It joins the run under way. Upstream's default; ours is to queue.
    Steer,
    /// Upstream gathers such inputs and runs them under ids of its own. Here each waits for its turn under its own.
    Followup,
    /// Like [`Self::Followup`].
    Collect,
    /// The run under way is aborted and this one goes next.
    Interrupt,
    /// It waits for its turn. Ours.
    Queue,
    /// It is refused. Ours.
    Reject,
}

const QUEUE_MODE: Shape = word(&["steer", "followup", "collect", "interrupt", "queue", "reject"]);

impl QueueMode {
    /// The policy it stands for.
    pub fn policy(self) -> QueuePolicy {
        match self {
            Self::Steer => QueuePolicy::Steer,
            Self::Followup | Self::Collect | Self::Queue => QueuePolicy::Queue,
            Self::Interrupt => QueuePolicy::Interrupt,
            Self::Reject => QueuePolicy::Reject,
        }
    }
}

const PROVENANCE: Shape = open(&[required("kind", text(1))]);

const AGENT: &[shape::Field] = &[
    required("message", text(1)),
    required("idempotencyKey", text(1)),
    optional("agentId", text(1)),
    optional("provider", text(0)),
    optional("model", text(0)),
    optional("to", text(0)),
    optional("replyTo", text(0)),
    optional("sessionId", text(0)),
    optional("sessionKey", text(0)),
    optional("expectedExistingSessionId", text(1)),
    optional("thinking", text(0)),
    optional("deliver", boolean()),
    optional("attachments", list(&ANY)),
    optional("channel", text(0)),
    optional("replyChannel", text(0)),
    optional("accountId", text(0)),
    optional("replyAccountId", text(0)),
    optional("threadId", text(0)),
    optional("groupId", text(0)),
    optional("groupChannel", text(0)),
    optional("groupSpace", text(0)),
    optional("timeout", integer(0)),
    optional("bestEffortDeliver", boolean()),
    optional("lane", text(0)),
    optional("cwd", text(1)),
    optional("cleanupBundleMcpOnRunEnd", boolean()),
    optional("modelRun", boolean()),
    optional("promptMode", one_of(&["full", "minimal", "none"])),
    optional("extraSystemPrompt", text(0)),
    optional("bootstrapContextMode", one_of(&["full", "lightweight"])),
    optional("bootstrapContextRunKind", one_of(&["default", "heartbeat", "cron"])),
    optional("acpTurnSource", one_of(&["manual_spawn"])),
    optional("internalRuntimeHandoffId", text(1)),
    optional("internalExecutionIdentityRetry", boolean()),
    optional("internalExecutionIdentityRecoveryAttempt", integer(1)),
    optional("execApprovalFollowupExpectedSessionId", text(1)),
    optional("internalEvents", list(&ANY)),
    optional("inputProvenance", PROVENANCE),
    optional("suppressPromptPersistence", boolean()),
    optional("sessionEffects", one_of(&["visible", "internal"])),
    optional("sourceReplyDeliveryMode", one_of(&["automatic", "message_tool_only"])),
    optional("disableMessageTool", boolean()),
    optional("swarmCollector", boolean()),
    optional("swarmOutputSchema", Shape::Map(&ANY)),
    optional("forceRestartSafeTools", boolean()),
    optional("forceCodeModeTools", boolean()),
    optional("voiceWakeTrigger", text(0)),
    optional("label", text_within(1, 512)),
    optional("queueMode", QUEUE_MODE),
];

/// `agent`. Fields that steer messaging channels, sub-agents or runtimes we do not have are accepted and ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentParams {
    /// The input.
    pub message: String,
    /// Names the run.
    pub idempotency_key: String,
    /// Which agent.
    pub agent_id: Option<String>,
    /// Which provider answers instead of the agent's own.
    pub provider: Option<String>,
    /// Which model answers instead of the agent's own.
    pub model: Option<String>,
    /// Whom a channel would deliver to.
    pub to: Option<String>,
    /// Which transcript.
    pub session_id: Option<String>,
    /// Which session.
    pub session_key: Option<String>,
    /// Only run if this transcript is live.
    pub expected_existing_session_id: Option<String>,
    /// Thinking level.
    pub thinking: Option<String>,
    /// Whether a channel must deliver the reply.
    #[serde(default)]
    pub deliver: bool,
    /// Pictures and files beside the text.
    #[serde(default)]
    pub attachments: Vec<Value>,
    /// Time limit, in seconds; 0 means none.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub timeout: Option<u64>,
    /// Added to the agent's instructions for this run.
    pub extra_system_prompt: Option<String>,
    /// What becomes of it when the session is at work. Ours: upstream has it in `chat.send` only.
    pub queue_mode: Option<QueueMode>,
}

/// `agent.wait`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentWaitParams {
    /// Which run.
    pub run_id: String,
    /// How long, in milliseconds.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub timeout_ms: Option<u64>,
}

static ATTACHMENT: Shape = open(&[
    optional("type", text(0)),
    optional("mimeType", text(0)),
    optional("fileName", text(0)),
    optional("origin", one_of(&["paste", "file"])),
    optional("content", any()),
    optional("sizeBytes", Shape::Number),
    optional("durationMs", Shape::Number),
    optional("width", Shape::Number),
    optional("height", Shape::Number),
]);

static MENTION: Shape =
    closed(&[required("profileId", text_within(1, 256)), required("start", integer(0)), required("end", integer(1))]);

const CHAT_SEND: &[shape::Field] = &[
    required("sessionKey", text_within(1, 512)),
    required("message", text(0)),
    required("idempotencyKey", text(1)),
    optional("agentId", text(1)),
    optional("sessionId", text(1)),
    optional("mentions", Shape::List { of: &MENTION, min: 0, max: 10 }),
    optional("workContext", open(&[required("page", text_within(1, 64))])),
    optional("intent", open(&[required("kind", text(1))])),
    optional("thinking", text(0)),
    optional("fastMode", Shape::Either(&[boolean(), one_of(&["auto"])])),
    optional("fastAutoOnSeconds", integer(1)),
    optional("queueMode", QUEUE_MODE),
    optional("deliver", boolean()),
    optional("originatingChannel", text(0)),
    optional("originatingTo", text(0)),
    optional("originatingAccountId", text(0)),
    optional("originatingThreadId", text(0)),
    optional("replyToId", text(1)),
    optional("attachments", list(&ATTACHMENT)),
    optional("toolBindings", Shape::Map(&ANY)),
    optional("timeoutMs", integer(0)),
    optional("systemInputProvenance", PROVENANCE),
    optional("systemProvenanceReceipt", text(0)),
    optional("suppressCommandInterpretation", boolean()),
    optional("expectedLeafEntryId", Shape::OrNull(&STRING)),
    optional("expectedSessionRoutingContract", text(1)),
    optional("expectedPermissionMode", Shape::OrNull(&STRING)),
    optional("expectedToolOverrides", Shape::OrNull(&ANY)),
];

/// `chat.send`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatSendParams {
    /// Which session.
    pub session_key: String,
    /// The input; empty only beside attachments.
    pub message: String,
    /// Names the run.
    pub idempotency_key: String,
    /// Which agent, beside a bare key.
    pub agent_id: Option<String>,
    /// The first transcript's id where the session is new; otherwise ignored (§2.1).
    pub session_id: Option<String>,
    /// Thinking level.
    pub thinking: Option<String>,
    /// Whether a channel must deliver the reply.
    #[serde(default)]
    pub deliver: bool,
    /// Pictures and files beside the text.
    #[serde(default)]
    pub attachments: Vec<Value>,
    /// Time limit, in milliseconds; 0 means none.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub timeout_ms: Option<u64>,
    /// Whether `/stop` is a message like any other.
    #[serde(default)]
    pub suppress_command_interpretation: bool,
    /// What becomes of it when the session is at work.
    pub queue_mode: Option<QueueMode>,
}

const SESSIONS_SEND: &[shape::Field] = &[
    required("key", text(1)),
    required("message", text(0)),
    optional("agentId", text(1)),
    optional("mentions", Shape::List { of: &MENTION, min: 0, max: 10 }),
    optional("thinking", text(0)),
    optional("attachments", list(&ATTACHMENT)),
    optional("timeoutMs", integer(0)),
    optional("idempotencyKey", text(1)),
];

/// `sessions.send` and `sessions.steer`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsSendParams {
    /// Which session; it must exist.
    pub key: String,
    /// Which agent, beside a bare key.
    pub agent_id: Option<String>,
    /// The input; empty only beside attachments.
    pub message: String,
    /// Thinking level.
    pub thinking: Option<String>,
    /// Pictures and files beside the text.
    #[serde(default)]
    pub attachments: Vec<Value>,
    /// Time limit, in milliseconds; 0 means none.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub timeout_ms: Option<u64>,
    /// Names the run; a new name where absent.
    pub idempotency_key: Option<String>,
}

/// `chat.abort`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatAbortParams {
    /// Which session.
    pub session_key: String,
    /// Which agent, beside a bare key.
    pub agent_id: Option<String>,
    /// Which run; all of the session's where absent.
    pub run_id: Option<String>,
}

static RUN_ID: Shape = text_within(1, 256);

const CHAT_HISTORY: &[shape::Field] = &[
    required("sessionKey", text(1)),
    optional("agentId", text(1)),
    optional("cursor", text(0)),
    optional("limit", integer_within(1, 1000)),
    optional("maxBytes", integer(1024)),
    optional("offset", integer(0)),
    optional("pendingBefore", integer(1)),
    optional("inputRunIds", Shape::List { of: &RUN_ID, min: 1, max: 50 }),
    optional("messageId", text(1)),
    optional("sessionId", text(1)),
    optional("maxChars", integer_within(1, 500_000)),
];

/// `chat.history`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatHistoryParams {
    /// Which session.
    pub session_key: String,
    /// Which agent, beside a bare key.
    pub agent_id: Option<String>,
    /// Where a former page ended.
    pub cursor: Option<String>,
    /// Messages at the most.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub limit: Option<u32>,
    /// Bytes of messages at the most.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub max_bytes: Option<u64>,
    /// How many of the newest to leave out.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub offset: Option<u32>,
    /// A message of the wanted transcript.
    pub message_id: Option<String>,
    /// Which transcript; needs `message_id`.
    pub session_id: Option<String>,
    /// Characters of text per message at the most.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub max_chars: Option<usize>,
}

const CHAT_STARTUP: Shape = Shape::Either(&[
    closed(CHAT_HISTORY),
    closed(&[
        required("shortId", text(1)),
        required("agentId", text(1)),
        optional("slugHint", text(1)),
        optional("limit", integer_within(1, 1000)),
        optional("maxBytes", integer(1024)),
    ]),
]);

/// `chat.startup`: by key, or by the short id of a link.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum ChatStartupParams {
    /// By key.
    Key(ChatHistoryParams),
    /// By the short id of a link.
    Link {
        /// The short id.
        #[serde(rename = "shortId")]
        short_id: String,
    },
}

/// `models.list`.
#[derive(Debug, Deserialize)]
pub struct ModelsListParams {
    /// Only this provider's.
    pub provider: Option<String>,
}

const SESSIONS_LIST: &[shape::Field] = &[
    optional("limit", integer(1)),
    optional("offset", integer(0)),
    optional("activeMinutes", integer(1)),
    optional("activeOnly", boolean()),
    optional("requireLastInteraction", boolean()),
    optional("sortBy", one_of(&["updatedAt", "lastInteractionAt", "activity"])),
    optional("includeGlobal", boolean()),
    optional("includeUnknown", boolean()),
    optional("excludeSubagents", boolean()),
    optional("excludeCron", boolean()),
    optional("excludeSystem", boolean()),
    optional("configuredAgentsOnly", boolean()),
    optional("includeDerivedTitles", boolean()),
    optional("includeLastMessage", boolean()),
    optional("includeActivitySummary", boolean()),
    optional("label", text_within(1, 512)),
    optional("projectId", text(1)),
    optional("workspaceDir", text(1)),
    optional("group", text(0)),
    optional("pinned", boolean()),
    optional("boardFace", one_of(&["chat", "dashboard"])),
    optional("hasBoard", boolean()),
    optional("creatorId", text(1)),
    optional("ownerId", text(1)),
    optional("ownerFirst", boolean()),
    optional("involvingMe", boolean()),
    optional(
        "profileRelation",
        closed(&[required("profileId", text(1)), required("relationship", one_of(&["owned", "created", "involving"]))]),
    ),
    optional("involvingProfileId", text(1)),
    optional("includePeople", boolean()),
    optional("spawnedBy", text(1)),
    optional("agentId", text(1)),
    optional("search", text(0)),
    optional("archived", Shape::Either(&[boolean(), one_of(&["all"])])),
];

/// `sessions.list`, and `sessions.subscribe` when it asks for a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SessionsListParams {
    /// Rows at the most.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub limit: Option<u32>,
    /// Rows to leave out first.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub offset: Option<u32>,
    /// Only sessions written in the last so many minutes.
    #[serde(default, deserialize_with = "shape::optional_whole_number")]
    pub active_minutes: Option<u64>,
    /// Only sessions with a run; applies to the page.
    pub active_only: bool,
    /// Whether the sentinel `global` is listed.
    pub include_global: bool,
    /// Whether the sentinel `unknown` is listed.
    pub include_unknown: bool,
    /// Whether rows carry a derived title.
    pub include_derived_titles: bool,
    /// Whether rows carry the last message.
    pub include_last_message: bool,
    /// Only the session of this label.
    pub label: Option<String>,
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// Only sessions that contain this.
    pub search: Option<String>,
    /// Archived sessions.
    pub archived: Option<Archived>,
    /// Only pinned sessions, or none of them; applies to the page.
    pub pinned: Option<bool>,
    /// Only sessions of a project.
    pub project_id: Option<String>,
    /// Only sessions of a directory.
    pub workspace_dir: Option<String>,
    /// Only sessions of a group.
    pub group: Option<String>,
    /// Only sessions with or without a board.
    pub has_board: Option<bool>,
    /// Only sessions a profile has to do with.
    pub involving_profile_id: Option<String>,
    /// Only sub-agents of a session.
    pub spawned_by: Option<String>,
}

/// How a list treats archived sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Archived {
    /// True: only them; false: none of them.
    Only(bool),
    /// Both.
    All(All),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// The word.
    All,
}

impl SessionsListParams {
    /// Whether it filters by something our sessions never have, so that nothing can match.
    pub fn asks_for_nothing_we_have(&self) -> bool {
        self.project_id.is_some()
            || self.workspace_dir.is_some()
            || self.group.as_ref().is_some_and(|group| !group.is_empty())
            || self.has_board == Some(true)
            || self.involving_profile_id.is_some()
            || self.spawned_by.is_some()
    }
}

/// `sessions.resolve`: exactly one of the names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsResolveParams {
    /// By key.
    pub key: Option<String>,
    /// By live transcript.
    pub session_id: Option<String>,
    /// By label.
    pub label: Option<String>,
    /// By a link's key.
    pub reference: Option<Reference>,
    /// By a link's short id.
    pub short_id: Option<String>,
    /// Which agent's.
    pub agent_id: Option<String>,
    /// Whether a miss is an answer instead of an error.
    #[serde(default)]
    pub allow_missing: bool,
}

/// A link to a session.
#[derive(Debug, Deserialize)]
pub struct Reference {
    /// The key in it.
    pub key: String,
}

/// `sessions.describe`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsDescribeParams {
    /// Which session.
    pub key: String,
    /// Which agent, beside a bare key.
    pub agent_id: Option<String>,
    /// Whether the row carries a derived title.
    #[serde(default)]
    pub include_derived_titles: bool,
    /// Whether the row carries the last message.
    #[serde(default)]
    pub include_last_message: bool,
}

/// `sessions.messages.subscribe` and `.unsubscribe`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsMessagesParams {
    /// Which session.
    pub key: String,
    /// Which agent, beside a bare key.
    pub agent_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said<P: Params + std::fmt::Debug>(method: &str, params: Value) -> String {
        let raw = RawValue::from_string(params.to_string()).unwrap();
        P::parse(method, Some(&raw)).unwrap_err().message
    }

    fn fits<P: Params>(params: Value) -> P {
        let raw = RawValue::from_string(params.to_string()).unwrap();
        P::parse("m", Some(&raw)).unwrap()
    }

    #[test]
    fn missing_and_extra_fields_are_named() {
        let send = json!({"sessionKey": "main", "message": "hi"});
        assert_eq!(
            said::<ChatSendParams>("chat.send", send),
            "invalid chat.send params: must have required property 'idempotencyKey'"
        );
        assert_eq!(
            said::<Nothing>("agents.list", json!({"extra": 1})),
            "invalid agents.list params: at root: unexpected property 'extra'"
        );
        assert_eq!(
            said::<AgentParams>("agent", json!({"message": "", "idempotencyKey": "k"})),
            "invalid agent params: at /message: must NOT have fewer than 1 characters"
        );
        assert_eq!(
            said::<ChatHistoryParams>("chat.history", json!({"sessionKey": "k", "limit": 1001})),
            "invalid chat.history params: at /limit: must be <= 1000"
        );
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_fraction() {
        let wait: AgentWaitParams = fits(json!({"runId": "r", "timeoutMs": 5.0}));
        assert_eq!(wait.timeout_ms, Some(5));
        let list: SessionsListParams = fits(json!({"limit": 2.0}));
        assert_eq!((list.limit, list.offset), (Some(2), None));
        assert_eq!(
            said::<AgentWaitParams>("agent.wait", json!({"runId": "r", "timeoutMs": 5.5})),
            "invalid agent.wait params: at /timeoutMs: must be integer"
        );
        assert_eq!(
            said::<ChatHistoryParams>("chat.history", json!({"sessionKey": "k", "offset": 1_u64 << 40})),
            "invalid chat.history params: at /offset: must be a smaller integer"
        );
    }

    #[test]
    fn what_official_clients_send_is_accepted() {
        fits::<AgentParams>(json!({
            "message": "hi", "sessionKey": "agent:main:x", "deliver": false, "timeout": 600, "idempotencyKey": "k",
            "cleanupBundleMcpOnRunEnd": true, "bestEffortDeliver": false, "lane": "nested",
        }));
        fits::<ChatSendParams>(json!({
            "sessionKey": "k", "sessionId": "s", "message": "hi", "deliver": false, "expectedLeafEntryId": null,
            "idempotencyKey": "k", "attachments": [{"type": "image", "mimeType": "image/png", "content": "aGk="}],
        }));
        fits::<SessionsListParams>(json!({
            "includeGlobal": true, "includeUnknown": true, "configuredAgentsOnly": true, "limit": 200,
            "includeDerivedTitles": true, "includeLastMessage": true, "ownerFirst": true, "agentId": "main",
        }));
        fits::<ChatAbortParams>(json!({"sessionKey": "k", "preserveSideRuns": true}));
        fits::<SessionsMessagesParams>(json!({"key": "k", "includeApprovals": true}));
    }

    #[test]
    fn every_queue_mode_stands_for_a_policy_and_an_unknown_one_is_told_which_there_are() {
        let send = |mode: &str| json!({"sessionKey": "k", "message": "hi", "idempotencyKey": "i", "queueMode": mode});
        for (mode, policy) in [
            ("steer", QueuePolicy::Steer),
            ("followup", QueuePolicy::Queue),
            ("collect", QueuePolicy::Queue),
            ("queue", QueuePolicy::Queue),
            ("interrupt", QueuePolicy::Interrupt),
            ("reject", QueuePolicy::Reject),
        ] {
            assert_eq!(fits::<ChatSendParams>(send(mode)).queue_mode.unwrap().policy(), policy, "{mode}");
            let agent = json!({"message": "hi", "idempotencyKey": "i", "queueMode": mode});
            assert_eq!(fits::<AgentParams>(agent).queue_mode.unwrap().policy(), policy, "{mode}");
        }
        assert_eq!(
            said::<ChatSendParams>("chat.send", send("sometimes")),
            "invalid chat.send params: at /queueMode: must be one of steer, followup, collect, interrupt, queue, reject"
        );
    }

    #[test]
    fn archived_is_a_boolean_or_all() {
        let of = |archived| fits::<SessionsListParams>(json!({"archived": archived})).archived.unwrap();
        assert_eq!(of(json!(true)), Archived::Only(true));
        assert_eq!(of(json!("all")), Archived::All(All::All));
    }

    #[test]
    fn chat_startup_takes_a_key_or_a_link() {
        assert!(matches!(fits(json!({"sessionKey": "k", "limit": 80})), ChatStartupParams::Key(_)));
        assert!(matches!(fits(json!({"shortId": "x", "agentId": "main"})), ChatStartupParams::Link { .. }));
        let said = said::<ChatStartupParams>("chat.startup", json!({}));
        assert_eq!(said, "invalid chat.startup params: must have required property 'sessionKey'");
    }
}
