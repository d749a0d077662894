//! The `agent` event, and what `agent` and `agent.wait` answer: a run as programs see it (gateway-ws.md §2.1, §3.2).

use serde::Serialize;
use serde_json::Value;
use watertight_core::Receipt;
use watertight_core::ids::{GenerationId, RunId, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_core::run::RunOutcome;
use watertight_core::transcript::{ModelRef, StopReason, Usage};

use super::message::WireBlock;

/// Something that happened in a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentEvent<'a> {
    /// The run.
    pub run_id: &'a str,
    /// Place among the run's events.
    pub seq: u64,
    /// Which part of the run speaks.
    pub stream: &'static str,
    /// When, in milliseconds since the epoch.
    pub ts: i64,
    /// The canonical key.
    pub session_key: &'a str,
    /// The transcript.
    pub session_id: &'a str,
    /// The agent that answers.
    pub agent_id: &'a str,
    /// What happened.
    pub data: AgentData<'a>,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum AgentData<'a> {
    /// Stream `lifecycle`.
    Lifecycle(Lifecycle<'a>),
    /// Stream `run_status`.
    RunStatus {
        /// How far the run is.
        phase: &'static str,
    },
    /// Stream `assistant`.
    Assistant {
        /// The answer so far.
        text: &'a str,
        /// What is new.
        delta: &'a str,
    },
    /// Stream `thinking`.
    Thinking {
        /// What is new.
        delta: &'a str,
    },
    /// Stream `tool`.
    Tool(Tool<'a>),
}

impl AgentData<'_> {
    /// The stream it belongs to.
    pub fn stream(&self) -> &'static str {
        match self {
            Self::Lifecycle(_) => "lifecycle",
            Self::RunStatus { .. } => "run_status",
            Self::Assistant { .. } => "assistant",
            Self::Thinking { .. } => "thinking",
            Self::Tool(_) => "tool",
        }
    }
}

/// The run as a whole.
#[derive(Debug, Serialize)]
#[serde(tag = "phase", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Lifecycle<'a> {
    /// It was claimed.
    Start {
        /// When.
        started_at: i64,
    },
    /// This model answers.
    Model {
        /// Configured provider name.
        provider: &'a str,
        /// The provider's name for the model.
        model: &'a str,
    },
    /// It ended with an answer or was stopped.
    End {
        /// When it was claimed.
        started_at: i64,
        /// When it ended.
        ended_at: i64,
        /// Why.
        stop_reason: &'a str,
        /// Whether a caller stopped it.
        aborted: bool,
        /// `cancelled` where a caller stopped it.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
        /// What it said last.
        terminal_reply: TerminalReply<'a>,
        /// Ours: where its session ended right after it.
        #[serde(skip_serializing_if = "Option::is_none")]
        receipt: Option<Receipt>,
    },
    /// It failed.
    Error {
        /// One sentence.
        error: &'a str,
        /// When it ended.
        ended_at: i64,
        /// Ours: where its session ended right after it.
        #[serde(skip_serializing_if = "Option::is_none")]
        receipt: Option<Receipt>,
    },
}

/// What a run said last.
#[derive(Debug, Serialize)]
pub struct TerminalReply<'a> {
    disposition: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl<'a> TerminalReply<'a> {
    /// Longest text that is repeated here, in bytes. The terminal `chat` event carries all of it.
    pub const MAX_TEXT: usize = 256 * 1024;

    /// The text unless it is long, or that there was none.
    pub fn new(text: &'a str) -> Self {
        Self {
            disposition: if text.is_empty() { "silent" } else { "visible" },
            text: Some(text).filter(|text| text.len() <= Self::MAX_TEXT),
        }
    }
}

/// A tool at work.
#[derive(Debug, Serialize)]
#[serde(tag = "phase", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Tool<'a> {
    /// It was started.
    Start {
        /// The tool.
        name: &'a str,
        /// The call.
        tool_call_id: &'a str,
        /// Its arguments.
        args: &'a Value,
    },
    /// It has answered.
    Result {
        /// The tool.
        name: &'a str,
        /// The call.
        tool_call_id: &'a str,
        /// Whether the call failed.
        is_error: bool,
        /// What it returned.
        result: ToolOutput,
    },
}

/// What a tool returned.
#[derive(Debug, Serialize)]
pub struct ToolOutput {
    /// The pieces.
    pub content: Vec<WireBlock>,
}

/// A run that has ended, in core's terms.
#[derive(Clone, Copy, Debug)]
pub struct EndedRun<'a> {
    /// The run.
    pub run: &'a RunId,
    /// Its session.
    pub key: &'a CanonicalKey,
    /// Its transcript.
    pub generation: &'a GenerationId,
    /// How it ended.
    pub outcome: &'a RunOutcome,
    /// What it said.
    pub text: &'a str,
    /// Which model answered.
    pub model: Option<&'a ModelRef>,
    /// Tokens over all calls.
    pub usage: Usage,
    /// Tokens of the last call.
    pub last_usage: Usage,
    /// When it was claimed.
    pub started_at: UnixMillis,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Where its session ended right after it.
    pub receipt: Option<Receipt>,
}

impl<'a> EndedRun<'a> {
    /// Why it stopped, in the wire's words.
    pub fn stop_reason(&self) -> &'a str {
        match self.outcome {
            RunOutcome::Completed { stop, .. } => stop.as_str(),
            RunOutcome::Aborted { reason } => reason,
            RunOutcome::TimedOut => "timeout",
            RunOutcome::Failed { .. } | RunOutcome::Interrupted => StopReason::Error.as_str(),
        }
    }

    /// The sentence of a run that did not come to an answer.
    pub fn error(&self) -> Option<&'a str> {
        match self.outcome {
            RunOutcome::Completed { .. } => None,
            RunOutcome::Failed { message, .. } => Some(message),
            RunOutcome::Aborted { .. } => Some("aborted"),
            RunOutcome::TimedOut => Some("The run hit its time limit."),
            RunOutcome::Interrupted => Some("The gateway stopped before the run could end."),
        }
    }

    fn is_aborted(&self) -> bool {
        matches!(self.outcome, RunOutcome::Aborted { .. } | RunOutcome::TimedOut)
    }
}

/// The `result` of a finished run: what `agent` answers in the end, and what the command line prints for a local run.
#[derive(Debug, Serialize)]
pub struct AgentResult {
    /// The answer, piece by piece.
    pub payloads: Vec<Payload>,
    /// About the run.
    pub meta: ResultMeta,
}

/// A piece of an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    text: String,
    media_url: Option<String>,
}

/// About a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultMeta {
    duration_ms: u64,
    aborted: bool,
    stop_reason: String,
    agent_meta: AgentMeta,
    final_assistant_visible_text: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentMeta {
    session_id: String,
    session_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    usage: MetaUsage,
    last_call_usage: MetaUsage,
    prompt_tokens: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MetaUsage {
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write: u64,
    total: u64,
}

impl From<Usage> for MetaUsage {
    fn from(usage: Usage) -> Self {
        let Usage { input, output, cache_read, cache_write } = usage;
        Self { input, output, cache_read, cache_write, total: usage.total() }
    }
}

/// The `result` of a finished run (sessions.md §2.7).
pub fn agent_result(run: EndedRun<'_>) -> AgentResult {
    let payload = || Payload { text: run.text.to_owned(), media_url: None };
    AgentResult {
        payloads: if run.text.is_empty() { Vec::new() } else { vec![payload()] },
        meta: ResultMeta {
            duration_ms: run.ended_at.since(run.started_at),
            aborted: run.is_aborted(),
            stop_reason: run.stop_reason().to_owned(),
            agent_meta: AgentMeta {
                session_id: run.generation.to_string(),
                session_key: run.key.to_string(),
                provider: run.model.map(|model| model.provider.clone()),
                model: run.model.map(|model| model.model.clone()),
                usage: run.usage.into(),
                last_call_usage: run.last_usage.into(),
                prompt_tokens: run.last_usage.prompt_tokens(),
            },
            final_assistant_visible_text: run.text.to_owned(),
        },
    }
}

/// The first response of `agent`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentAccepted<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The canonical key.
    pub session_key: &'a str,
    /// The agent that answers.
    pub agent_id: &'a str,
    /// `accepted`, or `in_flight` for a run that was accepted before; then no second response follows.
    pub status: &'static str,
    /// When the input became durable.
    pub accepted_at: i64,
    /// Whether another run was aborted for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted_active_run: bool,
    /// Ours: proves later that the input is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// The last response of `agent`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentFinal<'a> {
    run_id: &'a str,
    status: &'static str,
    summary: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<AgentResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

impl<'a> AgentFinal<'a> {
    /// What became of the run. A failed one comes with an error beside it and has no result.
    pub fn new(run: EndedRun<'a>) -> Self {
        let (status, summary, stop_reason) = match run.outcome {
            RunOutcome::Completed { .. } => ("ok", "completed", None),
            RunOutcome::Aborted { .. } | RunOutcome::TimedOut => ("timeout", "aborted", Some(run.stop_reason())),
            RunOutcome::Failed { .. } | RunOutcome::Interrupted => ("error", run.error().unwrap_or_default(), None),
        };
        let result = (status != "error").then(|| agent_result(run));
        Self { run_id: run.run.as_str(), status, summary, stop_reason, result, receipt: run.receipt }
    }

    /// `ok`, `timeout` or `error`.
    pub fn status(&self) -> &'static str {
        self.status
    }
}

/// What `agent.wait` answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waited<'a> {
    run_id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    terminal_reply: Option<TerminalReply<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

impl<'a> Waited<'a> {
    /// The time passed first, or nobody knows the run: the two are not told apart.
    pub fn timeout(run_id: &'a str) -> Self {
        Self {
            run_id,
            status: "timeout",
            started_at: None,
            ended_at: None,
            stop_reason: None,
            error: None,
            terminal_reply: None,
            receipt: None,
        }
    }

    /// The run has ended.
    pub fn ended(run: EndedRun<'a>) -> Self {
        let status = match run.outcome {
            RunOutcome::Completed { .. } => "ok",
            RunOutcome::TimedOut => "timeout",
            RunOutcome::Failed { .. } | RunOutcome::Aborted { .. } | RunOutcome::Interrupted => "error",
        };
        Self {
            run_id: run.run.as_str(),
            status,
            started_at: Some(run.started_at.0),
            ended_at: Some(run.ended_at.0),
            stop_reason: Some(run.stop_reason()),
            error: run.error(),
            terminal_reply: Some(TerminalReply::new(run.text)),
            receipt: run.receipt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::{EntryId, Seq, SessionId};
    use watertight_core::run::FailureKind;

    fn with_run<T>(outcome: RunOutcome, text: &str, test: impl FnOnce(EndedRun<'_>) -> T) -> T {
        test(EndedRun {
            run: &RunId::parse("r").unwrap(),
            key: &CanonicalKey::from_stored("agent:main:main"),
            generation: &GenerationId::parse("s").unwrap(),
            outcome: &outcome,
            text,
            model: Some(&ModelRef { provider: "p1".into(), model: "m1".into() }),
            usage: Usage { input: 8, output: 5, cache_read: 3, cache_write: 0 },
            last_usage: Usage { input: 8, output: 5, cache_read: 3, cache_write: 0 },
            started_at: UnixMillis(1_800_000_000_000),
            ended_at: UnixMillis(1_800_000_000_010),
            receipt: None,
        })
    }

    fn completed() -> RunOutcome {
        RunOutcome::Completed { stop: StopReason::Stop, answer: EntryId::from_bytes([0; 16]) }
    }

    #[test]
    fn a_completed_run_answers_with_its_text() {
        let answer = with_run(completed(), "pong", |run| serde_json::to_value(AgentFinal::new(run)).unwrap());
        insta::assert_json_snapshot!(answer, @r#"
        {
          "result": {
            "meta": {
              "aborted": false,
              "agentMeta": {
                "lastCallUsage": {
                  "cacheRead": 3,
                  "cacheWrite": 0,
                  "input": 8,
                  "output": 5,
                  "total": 16
                },
                "model": "m1",
                "promptTokens": 11,
                "provider": "p1",
                "sessionId": "s",
                "sessionKey": "agent:main:main",
                "usage": {
                  "cacheRead": 3,
                  "cacheWrite": 0,
                  "input": 8,
                  "output": 5,
                  "total": 16
                }
              },
              "durationMs": 10,
              "finalAssistantVisibleText": "pong",
              "stopReason": "stop"
            },
            "payloads": [
              {
                "mediaUrl": null,
                "text": "pong"
              }
            ]
          },
          "runId": "r",
          "status": "ok",
          "summary": "completed"
        }
        "#);
    }

    #[test]
    fn failure_abort_and_time_limit_are_told_apart() {
        let failed = RunOutcome::Failed { kind: FailureKind::Unknown, message: "It broke.".into() };
        let answer = with_run(failed.clone(), "", |run| serde_json::to_value(AgentFinal::new(run)).unwrap());
        assert_eq!(answer, serde_json::json!({"runId": "r", "status": "error", "summary": "It broke."}));
        let aborted = RunOutcome::Aborted { reason: "rpc".into() };
        let answer = with_run(aborted.clone(), "part", |run| serde_json::to_value(AgentFinal::new(run)).unwrap());
        assert_eq!(
            (&answer["status"], &answer["summary"], &answer["stopReason"]),
            (&"timeout".into(), &"aborted".into(), &"rpc".into())
        );
        assert_eq!(answer["result"]["meta"]["aborted"], true);

        let waited = |outcome| with_run(outcome, "", |run| serde_json::to_value(Waited::ended(run)).unwrap());
        let answer = waited(aborted);
        assert_eq!(
            (&answer["status"], &answer["error"], &answer["stopReason"]),
            (&"error".into(), &"aborted".into(), &"rpc".into())
        );
        assert_eq!(waited(failed)["error"], "It broke.");
        assert_eq!(waited(RunOutcome::TimedOut)["status"], "timeout");
        assert_eq!(waited(completed())["status"], "ok");
        assert_eq!(
            serde_json::to_value(Waited::timeout("x")).unwrap(),
            serde_json::json!({"runId": "x", "status": "timeout"})
        );
    }

    #[test]
    fn every_answer_about_an_end_carries_its_receipt() {
        let receipt = Receipt { session: SessionId::from_bytes([1; 16]), seq: Seq(7), chain: [2; 32] };
        let shown = serde_json::json!({"session": "01".repeat(16), "seq": 7, "chain": "02".repeat(32)});
        let failed = RunOutcome::Failed { kind: FailureKind::Unknown, message: "It broke.".into() };
        for outcome in [completed(), failed, RunOutcome::Aborted { reason: "rpc".into() }, RunOutcome::TimedOut] {
            with_run(outcome, "", |run| {
                let run = EndedRun { receipt: Some(receipt), ..run };
                assert_eq!(serde_json::to_value(AgentFinal::new(run)).unwrap()["receipt"], shown);
                assert_eq!(serde_json::to_value(Waited::ended(run)).unwrap()["receipt"], shown);
            });
        }
    }

    #[test]
    fn a_long_answer_is_not_repeated_when_the_run_ends() {
        let json = |text: &str| serde_json::to_string(&TerminalReply::new(text)).unwrap();
        assert_eq!(json("hi"), r#"{"disposition":"visible","text":"hi"}"#);
        assert_eq!(json(&"x".repeat(TerminalReply::MAX_TEXT + 1)), r#"{"disposition":"visible"}"#);
    }

    #[test]
    fn each_stream_has_its_shape() {
        let data = |data: AgentData<'_>| (data.stream(), serde_json::to_string(&data).unwrap());
        let args = serde_json::json!({"command": "ls"});
        let shown = [
            data(AgentData::Lifecycle(Lifecycle::Start { started_at: 1 })),
            data(AgentData::Lifecycle(Lifecycle::Model { provider: "p", model: "m" })),
            data(AgentData::Lifecycle(Lifecycle::Error { error: "x", ended_at: 2, receipt: None })),
            data(AgentData::Lifecycle(Lifecycle::End {
                started_at: 1,
                ended_at: 2,
                stop_reason: "rpc",
                aborted: true,
                status: Some("cancelled"),
                terminal_reply: TerminalReply::new(""),
                receipt: None,
            })),
            data(AgentData::RunStatus { phase: "starting_model" }),
            data(AgentData::Assistant { text: "pong", delta: "ng" }),
            data(AgentData::Thinking { delta: "hm" }),
            data(AgentData::Tool(Tool::Start { name: "exec", tool_call_id: "c1", args: &args })),
            data(AgentData::Tool(Tool::Result {
                name: "exec",
                tool_call_id: "c1",
                is_error: false,
                result: ToolOutput { content: vec![WireBlock::Text { text: "a".into() }] },
            })),
        ];
        insta::assert_debug_snapshot!(shown, @r#"
        [
            (
                "lifecycle",
                "{\"phase\":\"start\",\"startedAt\":1}",
            ),
            (
                "lifecycle",
                "{\"phase\":\"model\",\"provider\":\"p\",\"model\":\"m\"}",
            ),
            (
                "lifecycle",
                "{\"phase\":\"error\",\"error\":\"x\",\"endedAt\":2}",
            ),
            (
                "lifecycle",
                "{\"phase\":\"end\",\"startedAt\":1,\"endedAt\":2,\"stopReason\":\"rpc\",\"aborted\":true,\"status\":\"cancelled\",\"terminalReply\":{\"disposition\":\"silent\",\"text\":\"\"}}",
            ),
            (
                "run_status",
                "{\"phase\":\"starting_model\"}",
            ),
            (
                "assistant",
                "{\"text\":\"pong\",\"delta\":\"ng\"}",
            ),
            (
                "thinking",
                "{\"delta\":\"hm\"}",
            ),
            (
                "tool",
                "{\"phase\":\"start\",\"name\":\"exec\",\"toolCallId\":\"c1\",\"args\":{\"command\":\"ls\"}}",
            ),
            (
                "tool",
                "{\"phase\":\"result\",\"name\":\"exec\",\"toolCallId\":\"c1\",\"isError\":false,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}}",
            ),
        ]
        "#);
    }
}
