//! Chunks become events and, at the end, an answer.
//!
//! Nothing here trusts the provider: sizes and counts are bounded, and an id it gives a tool call is kept only if no
//! other call of the session's transcript or of this answer has it, so that a result can never be taken for another's.

use std::collections::HashSet;

use serde_json::Value;
use uuid::Uuid;
use watertight_core::transcript::{Block, StopReason, ToolCall, Usage};
use watertight_wire::openai::{ApiProblem, ChatAnswer, ToolCallPiece};

use crate::fault::Fault;
use crate::model::{Answer, ModelEvent};
use crate::openai::options::AnswerLimits;
use crate::openai::verdict;

/// An answer in the making.
pub(crate) struct Assembler {
    limits: AnswerLimits,
    requested_model: String,
    taken_ids: HashSet<String>,
    started: bool,
    bytes: usize,
    text: String,
    thinking: String,
    calls: Vec<DraftCall>,
    usage: Option<Usage>,
    finish: Option<String>,
}

#[derive(Default)]
struct DraftCall {
    index: Option<u32>,
    id: Option<String>,
    name: String,
    arguments: String,
}

/// A fault, with the provider's words about it.
pub(crate) struct Told {
    pub(crate) fault: Fault,
    pub(crate) words: String,
}

impl From<Fault> for Told {
    fn from(fault: Fault) -> Self {
        Self { fault, words: String::new() }
    }
}

/// Longest tool call id that is kept and longest tool name that is accepted, in bytes.
const MAX_NAME_BYTES: usize = 128;

impl Assembler {
    /// For an answer to a request for `requested_model` whose transcript already uses `taken_ids`.
    pub(crate) fn new(limits: AnswerLimits, requested_model: String, taken_ids: HashSet<String>) -> Self {
        Self {
            limits,
            requested_model,
            taken_ids,
            started: false,
            bytes: 0,
            text: String::new(),
            thinking: String::new(),
            calls: Vec::new(),
            usage: None,
            finish: None,
        }
    }

    /// Whether the provider said that the answer is complete; usage may still follow.
    pub(crate) fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Whether there is anything of an answer.
    pub(crate) fn has_content(&self) -> bool {
        self.bytes > 0
    }

    /// Takes a chunk, or a whole plain answer.
    pub(crate) fn take(&mut self, chunk: ChatAnswer, events: &mut impl Extend<ModelEvent>) -> Result<(), Told> {
        if let Some(error) = &chunk.error {
            let problem = ApiProblem::from_error(error);
            return Err(Told { fault: verdict::of_problem(&problem), words: problem.message });
        }
        if let Some(usage) = chunk.usage() {
            self.usage = Some(usage);
        }
        if !self.started {
            self.started = true;
            let model = chunk.model.and_then(short).unwrap_or_else(|| self.requested_model.clone());
            events.extend([ModelEvent::Started { model, response_id: chunk.id.and_then(short) }]);
        }
        // One alternative is asked for; others would mix into it.
        let Some(mut choice) = chunk.choices.into_iter().find(|choice| choice.index == 0) else { return Ok(()) };
        if let Some(finish) = choice.finish_reason.take() {
            self.finish = Some(finish);
        }
        let piece = choice.into_piece();
        let (thinking, text) = (piece.thinking(), piece.text());
        self.count(thinking.len() + text.len())?;
        if !thinking.is_empty() {
            self.thinking.push_str(thinking);
            events.extend([ModelEvent::Thinking(thinking.to_owned())]);
        }
        if !text.is_empty() {
            self.text.push_str(&text);
            events.extend([ModelEvent::Text(text)]);
        }
        piece.tool_calls.into_iter().try_for_each(|call| self.take_call(call))
    }

    /// The answer is over.
    pub(crate) fn finish(mut self) -> Result<Answer, Told> {
        let reason = self.finish.take().unwrap_or_default();
        if reason == "content_filter" {
            return Err(Fault::Refusal.into());
        }
        let cut = reason == "length";
        // The last call of a cut answer may be half a call, and so may the plan behind the others.
        let drafts = if cut { Vec::new() } else { std::mem::take(&mut self.calls) };
        let calls: Vec<Block> = drafts.into_iter().map(|draft| self.complete(draft)).collect::<Result<_, _>>()?;
        let stop = match (cut, calls.is_empty()) {
            (true, _) => StopReason::Length,
            (false, true) => StopReason::Stop,
            (false, false) => StopReason::ToolUse,
        };
        let mut content = Vec::with_capacity(calls.len() + 2);
        if !self.thinking.is_empty() {
            content.push(Block::Thinking { thinking: self.thinking });
        }
        if !self.text.is_empty() {
            content.push(Block::Text { text: self.text });
        }
        content.extend(calls);
        Ok(Answer { content, usage: self.usage, stop })
    }

    fn take_call(&mut self, piece: ToolCallPiece) -> Result<(), Told> {
        let arguments = piece.function.arguments();
        let name = piece.function.name.unwrap_or_default();
        // One more for the call itself, so that empty calls count too.
        self.count(arguments.len() + name.len() + piece.id.as_ref().map_or(0, String::len) + 1)?;
        let at = match self.place_of(piece.index, piece.id.as_deref(), &name) {
            Some(at) => at,
            None if self.calls.len() >= self.limits.tool_calls => {
                let limit = format!("{} tool calls in one answer", self.limits.tool_calls);
                return Err(Fault::TooLarge { limit }.into());
            }
            None => {
                self.calls.push(DraftCall { index: piece.index, ..DraftCall::default() });
                self.calls.len() - 1
            }
        };
        let draft = &mut self.calls[at];
        draft.id = draft.id.take().or(piece.id);
        if draft.name.is_empty() {
            draft.name = name;
        }
        draft.arguments.push_str(&arguments);
        Ok(())
    }

    /// The call a fragment continues; none when it begins one. Fragments go together by index. Some providers leave the
    /// index out, or give every call the same: a new id with a name then begins a new call.
    fn place_of(&self, index: Option<u32>, id: Option<&str>, name: &str) -> Option<usize> {
        let at = match index {
            Some(_) => self.calls.iter().rposition(|draft| draft.index == index)?,
            None => self.calls.len().checked_sub(1)?,
        };
        let begins_another = !name.is_empty() && id.is_some() && id != self.calls[at].id.as_deref();
        (!begins_another).then_some(at)
    }

    fn complete(&mut self, draft: DraftCall) -> Result<Block, Told> {
        let usable = !draft.name.is_empty()
            && draft.name.len() <= MAX_NAME_BYTES
            && draft.name.bytes().all(|b| b.is_ascii_graphic());
        if !usable {
            return Err(Fault::Malformed { problem: "a tool call has no usable name" }.into());
        }
        let arguments = match draft.arguments.trim() {
            "" => Value::Object(serde_json::Map::new()),
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        let id = draft.id.filter(|id| id.len() <= MAX_NAME_BYTES && id.bytes().all(|b| b.is_ascii_graphic()));
        let id = match id {
            Some(id) if !self.taken_ids.contains(&id) => id,
            _ => new_call_id(),
        };
        self.taken_ids.insert(id.clone());
        Ok(Block::ToolCall(ToolCall { id, name: draft.name, arguments }))
    }

    fn count(&mut self, bytes: usize) -> Result<(), Told> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.answer {
            return Err(Fault::TooLarge { limit: format!("{} bytes in one answer", self.limits.answer) }.into());
        }
        Ok(())
    }
}

/// Letters and digits only, since clients that replay history strip everything else from ids.
fn new_call_id() -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("call{}", &random[..24])
}

/// A name of the provider's that is fit to be shown.
fn short(name: String) -> Option<String> {
    (name.len() <= 256 && !name.chars().any(char::is_control)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: AnswerLimits = AnswerLimits { line: 1000, answer: 1000, stream: 1000, tool_calls: 3 };

    fn run(taken: &[&str], chunks: &[Value]) -> Result<(Vec<ModelEvent>, Answer), Fault> {
        let taken = taken.iter().map(|&id| id.to_owned()).collect();
        let mut assembler = Assembler::new(LIMITS, "asked".into(), taken);
        let mut events = Vec::new();
        for chunk in chunks {
            assembler.take(serde_json::from_value(chunk.clone()).unwrap(), &mut events).map_err(|told| told.fault)?;
        }
        let answer = assembler.finish().map_err(|told| told.fault)?;
        Ok((events, answer))
    }

    fn delta(delta: Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta}]})
    }

    fn call_delta(call: Value) -> Value {
        delta(json!({"tool_calls": [call]}))
    }

    fn end(reason: &str) -> Value {
        json!({"choices": [{"delta": {}, "finish_reason": reason}]})
    }

    fn calls(answer: &Answer) -> Vec<(String, String, Value)> {
        let call = |block: &Block| match block {
            Block::ToolCall(call) => Some((call.id.clone(), call.name.clone(), call.arguments.clone())),
            _ => None,
        };
        answer.content.iter().filter_map(call).collect()
    }

    #[test]
    fn text_and_thinking_stream_and_are_joined_in_the_answer() {
        let (events, answer) = run(
            &[],
            &[
                json!({"id": "r1", "model": "m-1", "choices": [{"delta": {"role": "assistant", "content": ""}}]}),
                delta(json!({"reasoning_content": "hm", "reasoning": "hm"})),
                delta(json!({"content": "a"})),
                json!({"choices": [{"index": 1, "delta": {"content": "another alternative"}}]}),
                delta(json!({"content": "b"})),
                end("stop"),
                json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
            ],
        )
        .unwrap();
        let started = ModelEvent::Started { model: "m-1".into(), response_id: Some("r1".into()) };
        let text = |t: &str| ModelEvent::Text(t.into());
        assert_eq!(events, [started, ModelEvent::Thinking("hm".into()), text("a"), text("b")]);
        assert_eq!(answer.content, [Block::Thinking { thinking: "hm".into() }, Block::from_text("ab")]);
        assert_eq!(answer.usage, Some(Usage { input: 3, output: 2, ..Usage::default() }));
        assert_eq!(answer.stop, StopReason::Stop);
    }

    #[test]
    fn tool_calls_are_put_together_from_interleaved_fragments() {
        let (_, answer) = run(
            &[],
            &[
                call_delta(json!({"index": 0, "id": "a", "function": {"name": "time", "arguments": "{\"z"}})),
                call_delta(json!({"index": 1, "id": "b", "function": {"name": "echo", "arguments": ""}})),
                call_delta(json!({"index": 0, "function": {"arguments": "one\":1}"}})),
                end("stop"),
            ],
        )
        .unwrap();
        let expected = [("a".into(), "time".into(), json!({"zone": 1})), ("b".into(), "echo".into(), json!({}))];
        assert_eq!(calls(&answer), expected);
        assert_eq!(answer.stop, StopReason::ToolUse, "whatever finish reason was given");
    }

    #[test]
    fn calls_without_an_index_or_all_with_the_same_are_told_apart_by_id() {
        for index in [json!(null), json!(0)] {
            let piece = |id: &str| {
                call_delta(json!({"index": index, "id": id, "function": {"name": "time", "arguments": "{}"}}))
            };
            let (_, answer) = run(&[], &[piece("a"), piece("b"), end("tool_calls")]).unwrap();
            assert_eq!(calls(&answer).len(), 2);
        }
    }

    #[test]
    fn an_id_of_another_call_is_replaced() {
        let piece = |index: u32, id: &str| {
            call_delta(json!({"index": index, "id": id, "function": {"name": "time", "arguments": "{}"}}))
        };
        let chunks = [piece(0, "old"), piece(1, "fresh"), piece(2, "fresh"), end("tool_calls")];
        let (_, answer) = run(&["old"], &chunks).unwrap();
        let ids: HashSet<String> = calls(&answer).into_iter().map(|(id, ..)| id).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.contains("fresh") && !ids.contains("old"), "{ids:?}");
        assert!(ids.iter().all(|id| id.len() <= 40 && id.bytes().all(|b| b.is_ascii_alphanumeric())));
    }

    #[test]
    fn arguments_that_are_no_json_are_kept_as_text() {
        let piece = call_delta(json!({"index": 0, "id": "a", "function": {"name": "time", "arguments": "{oops"}}));
        let (_, answer) = run(&[], &[piece, end("tool_calls")]).unwrap();
        assert_eq!(calls(&answer)[0].2, json!("{oops"));
    }

    #[test]
    fn a_cut_answer_calls_no_tools() {
        let piece = call_delta(json!({"index": 0, "id": "a", "function": {"name": "time", "arguments": "{}"}}));
        let (_, answer) = run(&[], &[delta(json!({"content": "x"})), piece, end("length")]).unwrap();
        assert_eq!((answer.content, answer.stop), (vec![Block::from_text("x")], StopReason::Length));
    }

    #[test]
    fn too_much_of_anything_ends_the_call() {
        let big = delta(json!({"content": "x".repeat(600)}));
        assert!(matches!(run(&[], &[big.clone(), big]), Err(Fault::TooLarge { .. })));
        let many: Vec<Value> = (0..4)
            .map(|i| call_delta(json!({"index": i, "id": i.to_string(), "function": {"name": "time"}})))
            .collect();
        assert_eq!(run(&[], &many).unwrap_err(), Fault::TooLarge { limit: "3 tool calls in one answer".into() });
        let empty = call_delta(json!({"index": 0}));
        assert!(matches!(run(&[], &vec![empty; 1001]), Err(Fault::TooLarge { .. })));
    }

    #[test]
    fn errors_and_refusals_inside_the_stream_end_the_call() {
        let error = json!({"error": {"message": "slow", "code": "rate_limit_exceeded"}});
        assert_eq!(run(&[], &[error]).unwrap_err(), Fault::RateLimited { retry_after: None });
        assert_eq!(run(&[], &[end("content_filter")]).unwrap_err(), Fault::Refusal);
        let nameless = call_delta(json!({"index": 0, "id": "a", "function": {"arguments": "{}"}}));
        assert!(matches!(run(&[], &[nameless, end("stop")]), Err(Fault::Malformed { .. })));
    }
}
