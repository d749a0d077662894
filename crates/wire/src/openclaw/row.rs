//! A session in a list (gateway-ws.md §2.2, `SessionRow`).

use serde::Serialize;
use watertight_core::ids::{GenerationId, RunId, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_core::session::{SessionMeta, SessionStatus};

/// What a row is made from.
#[derive(Clone, Copy, Debug)]
pub struct RowSource<'a> {
    /// The session.
    pub key: &'a CanonicalKey,
    /// The agent that answers in it.
    pub agent: &'a str,
    /// Whether it is the agent's main session.
    pub is_main: bool,
    /// Its live transcript; none where the session does not exist yet.
    pub generation: Option<&'a GenerationId>,
    /// Its description.
    pub meta: &'a SessionMeta,
    /// When it was created.
    pub created_at: Option<UnixMillis>,
    /// Its last write.
    pub updated_at: Option<UnixMillis>,
    /// Runs that are active or waiting.
    pub active_runs: &'a [RunId],
    /// Provider and model that answer in it.
    pub model: (&'a str, &'a str),
    /// Size of the model's context window, in tokens.
    pub context_tokens: u64,
}

/// What a row leaves out unless it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// The title derived from the first message.
    pub derived_title: bool,
    /// The first words of the last message.
    pub last_message: bool,
}

impl Extras {
    /// Everything.
    pub const ALL: Self = Self { derived_title: true, last_message: true };
}

/// A session in a list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    key: String,
    kind: &'static str,
    agent_id: String,
    is_main: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    updated_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<i64>,
    archived: bool,
    pinned: bool,
    unread: bool,
    status: SessionStatus,
    has_active_run: bool,
    active_run_ids: Vec<String>,
    model: String,
    model_provider: String,
    context_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    derived_title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_message_preview: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_tokens_fresh: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_interaction_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_session_id: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    aborted_last_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run_error: Option<String>,
}

impl SessionRow {
    /// The row of a session.
    pub fn new(source: RowSource<'_>, extras: Extras) -> Self {
        let RowSource { key, meta, generation, .. } = source;
        let millis = |at: Option<UnixMillis>| at.map(|at| at.0);
        let (provider, model) = source.model;
        let counted = (meta.total_tokens > 0).then_some(());
        Self {
            key: key.to_string(),
            kind: match key.as_str() {
                "global" => "global",
                "unknown" => "unknown",
                _ => "direct",
            },
            agent_id: source.agent.to_owned(),
            is_main: source.is_main,
            session_id: generation.map(ToString::to_string),
            updated_at: millis(source.updated_at),
            created_at: millis(source.created_at),
            archived: meta.archived_at.is_some(),
            pinned: meta.pinned_at.is_some(),
            unread: false,
            status: meta.status,
            has_active_run: !source.active_runs.is_empty(),
            active_run_ids: source.active_runs.iter().map(ToString::to_string).collect(),
            model: model.to_owned(),
            model_provider: provider.to_owned(),
            context_tokens: source.context_tokens,
            label: meta.label.clone(),
            display_name: meta.display_name.clone(),
            derived_title: meta.derived_title.clone().filter(|_| extras.derived_title),
            last_message_preview: meta.last_message_preview.clone().filter(|_| extras.last_message),
            input_tokens: counted.map(|()| meta.input_tokens),
            output_tokens: counted.map(|()| meta.output_tokens),
            total_tokens: counted.map(|()| meta.total_tokens),
            total_tokens_fresh: counted.map(|()| true),
            started_at: millis(meta.started_at),
            ended_at: millis(meta.ended_at),
            last_interaction_at: millis(meta.last_interaction_at),
            previous_session_id: meta.previous_generation.as_ref().map(ToString::to_string),
            aborted_last_run: meta.aborted_last_run,
            last_run_error: meta.last_run_error.clone(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(extras: Extras) -> SessionRow {
        let key = CanonicalKey::from_stored("agent:main:main");
        let generation = GenerationId::parse("00000000-0000-4000-8000-000000000900").unwrap();
        let meta = SessionMeta {
            derived_title: Some("Say hi".into()),
            last_message_preview: Some("Hi there".into()),
            ..SessionMeta::default()
        };
        let source = RowSource {
            key: &key,
            agent: "main",
            is_main: true,
            generation: Some(&generation),
            meta: &meta,
            created_at: Some(UnixMillis(1_799_999_995_000)),
            updated_at: Some(UnixMillis(1_800_000_000_000)),
            active_runs: &[],
            model: ("p1", "m1"),
            context_tokens: 200_000,
        };
        SessionRow::new(source, extras)
    }

    #[test]
    fn a_row_has_the_fields_clients_use() {
        let none = Extras { derived_title: false, last_message: false };
        insta::assert_json_snapshot!(row(none), @r#"
        {
          "key": "agent:main:main",
          "kind": "direct",
          "agentId": "main",
          "isMain": true,
          "sessionId": "00000000-0000-4000-8000-000000000900",
          "updatedAt": 1800000000000,
          "createdAt": 1799999995000,
          "archived": false,
          "pinned": false,
          "unread": false,
          "status": "done",
          "hasActiveRun": false,
          "activeRunIds": [],
          "model": "m1",
          "modelProvider": "p1",
          "contextTokens": 200000
        }
        "#);
    }

    #[test]
    fn titles_and_last_messages_come_only_when_asked_for() {
        let json = serde_json::to_value(row(Extras::ALL)).unwrap();
        assert_eq!((&json["derivedTitle"], &json["lastMessagePreview"]), (&"Say hi".into(), &"Hi there".into()));
    }
}
