//! The `chat` event: a run as people see it (gateway-ws.md §3.1).

use serde::Serialize;
use watertight_core::Receipt;
use watertight_core::ids::UnixMillis;
use watertight_core::run::FailureKind;
use watertight_core::transcript::{ModelRef, StopReason, Usage};

use super::message::{WireBlock, WireUsage};

/// Something that happened in a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatEvent<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The canonical key.
    pub session_key: &'a str,
    /// The agent that answers.
    pub agent_id: &'a str,
    /// Place among the run's events: it rises, with gaps.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub state: ChatState<'a>,
}

/// What happened. `final`, `aborted` and `error` end the run; exactly one of them is sent.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum ChatState<'a> {
    /// The run is being prepared.
    Status {
        /// How far it is.
        phase: &'static str,
    },
    /// The answer grows.
    Delta {
        /// What is new since the last delta of this run, or all of it with `replace`.
        delta_text: &'a str,
        /// The answer so far.
        message: ChatMessage,
        /// Whether `delta_text` replaces what came before.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        replace: bool,
    },
    /// The answer is complete and durable.
    Final {
        /// Why it stopped.
        stop_reason: &'static str,
        /// The answer; absent for a silent one.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage>,
        /// Tokens over all calls of the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<WireUsage>,
    },
    /// A caller stopped it.
    Aborted {
        /// What stopped it.
        stop_reason: &'a str,
        /// What it had said.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage>,
    },
    /// It failed.
    Error {
        /// One sentence.
        error_message: &'a str,
        /// What sort of failure.
        error_kind: &'static str,
        /// Who failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_detail: Option<ErrorDetail<'a>>,
        /// What it had said.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage>,
    },
}

/// Who failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDetail<'a> {
    /// Configured provider name.
    pub provider: &'a str,
    /// The provider's name for the model.
    pub model: &'a str,
    /// The HTTP status it failed with, from 100 to 599.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
}

impl<'a> ErrorDetail<'a> {
    /// The model that was asked and the HTTP status it failed with.
    pub fn new(model: &'a ModelRef, http_status: Option<u16>) -> Self {
        Self { provider: &model.provider, model: &model.model, http_status }
    }
}

/// An answer as `chat` events carry it.
#[derive(Debug, Serialize)]
pub struct ChatMessage {
    role: &'static str,
    content: [WireBlock; 1],
    timestamp: i64,
    /// Ours. Here and not beside the message: clients check the event against a closed schema, but not its message.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

impl ChatMessage {
    /// The answer's text.
    pub fn new(text: &str, at: UnixMillis) -> Self {
        let content = [WireBlock::Text { text: text.to_owned() }];
        Self { role: "assistant", content, timestamp: at.0, receipt: None }
    }

    /// What a run said last, with where its session ended right after it; none for a silent answer.
    pub fn last(text: &str, at: UnixMillis, receipt: Option<Receipt>) -> Option<Self> {
        (!text.is_empty()).then(|| Self { receipt, ..Self::new(text, at) })
    }
}

impl ChatState<'_> {
    /// A complete answer.
    pub fn completed(message: Option<ChatMessage>, stop: StopReason, usage: Usage) -> Self {
        let counted = usage != Usage::default();
        Self::Final { stop_reason: stop.as_str(), message, usage: counted.then(|| usage.into()) }
    }
}

/// The wire's word for a failure.
pub fn error_kind(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Refusal => "refusal",
        FailureKind::Timeout => "timeout",
        FailureKind::RateLimit => "rate_limit",
        FailureKind::ContextLength => "context_length",
        FailureKind::ProviderUnavailable
        | FailureKind::ProviderAuth
        | FailureKind::ToolLoop
        | FailureKind::Integrity
        | FailureKind::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::{Seq, SessionId};

    const AT: UnixMillis = UnixMillis(1_800_000_000_000);

    fn event(seq: u64, state: ChatState<'_>) -> String {
        let event = ChatEvent { run_id: "r", session_key: "agent:main:main", agent_id: "main", seq, state };
        serde_json::to_string(&event).unwrap()
    }

    #[test]
    fn each_state_has_its_shape() {
        insta::assert_snapshot!(event(1, ChatState::Status { phase: "starting_model" }), @r#"{"runId":"r","sessionKey":"agent:main:main","agentId":"main","seq":1,"state":"status","phase":"starting_model"}"#);
        let delta =
            ChatState::Delta { delta_text: " there", message: ChatMessage::new("Hi there", AT), replace: false };
        insta::assert_snapshot!(event(4, delta), @r#"{"runId":"r","sessionKey":"agent:main:main","agentId":"main","seq":4,"state":"delta","deltaText":" there","message":{"role":"assistant","content":[{"type":"text","text":"Hi there"}],"timestamp":1800000000000}}"#);
        let done = ChatState::completed(ChatMessage::last("Hi", AT, None), StopReason::Stop, Usage::default());
        insta::assert_snapshot!(event(7, done), @r#"{"runId":"r","sessionKey":"agent:main:main","agentId":"main","seq":7,"state":"final","stopReason":"stop","message":{"role":"assistant","content":[{"type":"text","text":"Hi"}],"timestamp":1800000000000}}"#);
        let silent = ChatState::completed(ChatMessage::last("", AT, None), StopReason::Stop, Usage::default());
        insta::assert_snapshot!(event(7, silent), @r#"{"runId":"r","sessionKey":"agent:main:main","agentId":"main","seq":7,"state":"final","stopReason":"stop"}"#);
        let receipt = Receipt { session: SessionId::from_bytes([1; 16]), seq: Seq(7), chain: [2; 32] };
        let aborted = ChatState::Aborted { stop_reason: "rpc", message: ChatMessage::last("part", AT, Some(receipt)) };
        insta::assert_snapshot!(event(5, aborted), @r#"{"runId":"r","sessionKey":"agent:main:main","agentId":"main","seq":5,"state":"aborted","stopReason":"rpc","message":{"role":"assistant","content":[{"type":"text","text":"part"}],"timestamp":1800000000000,"receipt":{"session":"01010101010101010101010101010101","seq":7,"chain":"0202020202020202020202020202020202020202020202020202020202020202"}}}"#);
        let model = ModelRef { provider: "p1".into(), model: "m1".into() };
        let failed = ChatState::Error {
            error_message: "model call failed",
            error_kind: error_kind(FailureKind::RateLimit),
            error_detail: Some(ErrorDetail::new(&model, Some(429))),
            message: None,
        };
        insta::assert_snapshot!(event(9, failed), @r#"{"runId":"r","sessionKey":"agent:main:main","agentId":"main","seq":9,"state":"error","errorMessage":"model call failed","errorKind":"rate_limit","errorDetail":{"provider":"p1","model":"m1","httpStatus":429}}"#);
    }
}
