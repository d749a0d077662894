//! What a mock provider can be told to answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// One answer to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    /// The last user message, repeated.
    Echo,
    /// An answer, as a stream or plain, as the request asks.
    Answer(ScriptedAnswer),
    /// Bytes as they are, then this end.
    Raw { content_type: String, pieces: Vec<Bytes>, end: End },
    /// No answer at all.
    Silence,
    /// The connection is closed without an answer.
    Close,
}

#[derive(Clone, Debug)]
pub(super) struct ScriptedAnswer {
    pub(super) pieces: Vec<String>,
    pub(super) thinking: String,
    pub(super) calls: Vec<ScriptedCall>,
    pub(super) plain: bool,
    pub(super) pause: Option<Duration>,
    pub(super) gate: Option<Gate>,
    pub(super) end: End,
    pub(super) finish: Option<String>,
}

/// What follows the last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The answer is complete.
    Complete,
    /// The body ends properly, without finish reason and end mark.
    Early,
    /// The connection is cut.
    Cut,
    /// Nothing, until the client goes away.
    Silence,
}

/// A tool call to ask for.
#[derive(Clone, Debug)]
pub struct ScriptedCall {
    /// Names the call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON text of the arguments, as the model writes it.
    pub arguments: String,
}

impl ScriptedCall {
    /// A call with these arguments.
    pub fn new(id: &str, name: &str, arguments: &Value) -> Self {
        Self { id: id.into(), name: name.into(), arguments: arguments.to_string() }
    }
}

/// Lets the pieces of an answer out one by one.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// Lets `pieces` more out. The end of the answer counts as one.
    pub fn open(&self, pieces: usize) {
        self.0.add_permits(pieces);
    }

    pub(super) async fn pass(&self) {
        self.0.acquire().await.expect("the gate is never closed").forget();
    }
}

impl Reply {
    /// The last user message, repeated.
    pub fn echo() -> Self {
        Self::of(200, Body::Echo)
    }

    /// Text in one piece.
    pub fn text(text: &str) -> Self {
        Self::pieces([text])
    }

    /// Text in these pieces, a chunk each.
    pub fn pieces<T: Into<String>>(pieces: impl IntoIterator<Item = T>) -> Self {
        Self::answer(pieces, Vec::new())
    }

    /// Asks for these tools. As a stream, arguments come in two fragments each.
    pub fn tool_calls(calls: Vec<ScriptedCall>) -> Self {
        Self::answer::<String>([], calls)
    }

    /// Text in these pieces, each let out by the gate; so is the end.
    pub fn gated<T: Into<String>>(pieces: impl IntoIterator<Item = T>) -> (Self, Gate) {
        let gate = Gate(Arc::new(Semaphore::new(0)));
        let mut reply = Self::pieces(pieces);
        if let Body::Answer(answer) = &mut reply.body {
            answer.gate = Some(gate.clone());
        }
        (reply, gate)
    }

    /// An error status with a body in OpenAI's form.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"error": {"message": message, "type": code, "code": code}});
        Self::raw("application/json", [body.to_string()]).with_status(status)
    }

    /// A web page.
    pub fn html() -> Self {
        Self::raw("text/html; charset=utf-8", ["<!doctype html><title>Sign in</title><p>Please sign in."])
    }

    /// Bytes as they are.
    pub fn raw<T: Into<Bytes>>(content_type: &str, pieces: impl IntoIterator<Item = T>) -> Self {
        let pieces = pieces.into_iter().map(Into::into).collect();
        Self::of(200, Body::Raw { content_type: content_type.into(), pieces, end: End::Complete })
    }

    /// No answer until the client goes away.
    pub fn hang() -> Self {
        Self::of(200, Body::Silence)
    }

    /// The connection is closed without an answer.
    pub fn close() -> Self {
        Self::of(200, Body::Close)
    }

    /// This status instead of 200.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// One more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Reasoning before the text.
    #[must_use]
    pub fn with_thinking(self, thinking: &str) -> Self {
        self.change(|answer| answer.thinking = thinking.into())
    }

    /// This time before every piece.
    #[must_use]
    pub fn with_pause(self, pause: Duration) -> Self {
        self.change(|answer| answer.pause = Some(pause))
    }

    /// This finish reason.
    #[must_use]
    pub fn with_finish(self, reason: &str) -> Self {
        self.change(|answer| answer.finish = Some(reason.into()))
    }

    /// One JSON body, though the request asks for a stream.
    #[must_use]
    pub fn plain(self) -> Self {
        self.change(|answer| answer.plain = true)
    }

    /// After the last piece the connection is cut.
    #[must_use]
    pub fn then_die(self) -> Self {
        self.then(End::Cut)
    }

    /// After the last piece the stream ends properly, but without the answer's end.
    #[must_use]
    pub fn then_end_early(self) -> Self {
        self.then(End::Early)
    }

    /// After the last piece nothing comes until the client goes away.
    #[must_use]
    pub fn then_hang(self) -> Self {
        self.then(End::Silence)
    }

    fn then(mut self, new: End) -> Self {
        match &mut self.body {
            Body::Answer(ScriptedAnswer { end, .. }) | Body::Raw { end, .. } => *end = new,
            other => panic!("{other:?} has no end to change"),
        }
        self
    }

    fn answer<T: Into<String>>(pieces: impl IntoIterator<Item = T>, calls: Vec<ScriptedCall>) -> Self {
        let answer = ScriptedAnswer {
            pieces: pieces.into_iter().map(Into::into).collect(),
            thinking: String::new(),
            calls,
            plain: false,
            pause: None,
            gate: None,
            end: End::Complete,
            finish: None,
        };
        Self::of(200, Body::Answer(answer))
    }

    fn of(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    fn change(mut self, change: impl FnOnce(&mut ScriptedAnswer)) -> Self {
        match &mut self.body {
            Body::Answer(answer) => change(answer),
            other => panic!("{other:?} is no answer of text or tool calls"),
        }
        self
    }
}

impl ScriptedAnswer {
    /// Text in one piece, without anything special.
    pub(super) fn of_text(text: String) -> Self {
        match Reply::pieces([text]).body {
            Body::Answer(answer) => answer,
            other => panic!("{other:?} is no answer"),
        }
    }

    /// The events of the stream, up to the last piece.
    pub(super) fn chunks(&self, model: &Value, order: usize) -> Vec<String> {
        let mut deltas = vec![json!({"role": "assistant", "content": ""})];
        if !self.thinking.is_empty() {
            deltas.push(json!({"reasoning_content": self.thinking}));
        }
        deltas.extend(self.pieces.iter().map(|piece| json!({"content": piece})));
        for (index, call) in self.calls.iter().enumerate() {
            let middle = call.arguments.char_indices().nth(call.arguments.chars().count() / 2).map_or(0, |(at, _)| at);
            let (head, tail) = call.arguments.split_at(middle);
            let function = json!({"name": call.name, "arguments": head});
            deltas.push(
                json!({"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]}),
            );
            deltas.push(json!({"tool_calls": [{"index": index, "function": {"arguments": tail}}]}));
        }
        let chunk = |delta: Value| {
            json!({"id": id(order), "object": "chat.completion.chunk", "created": 1_800_000_000, "model": model,
                "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
        };
        deltas.into_iter().map(|delta| format!("data: {}\n\n", chunk(delta))).collect()
    }

    /// The events that complete the stream.
    pub(super) fn ending(&self, model: &Value, order: usize, usage: &Value) -> String {
        let last = json!({"id": id(order), "object": "chat.completion.chunk", "created": 1_800_000_000, "model": model,
            "choices": [{"index": 0, "delta": {}, "finish_reason": self.finish_reason()}]});
        let usage = json!({"id": id(order), "object": "chat.completion.chunk", "created": 1_800_000_000, "model": model,
            "choices": [], "usage": usage});
        format!("data: {last}\n\ndata: {usage}\n\ndata: [DONE]\n\n")
    }

    /// The plain body.
    pub(super) fn completion(&self, model: &Value, order: usize, usage: &Value) -> Value {
        let mut message = json!({"role": "assistant", "content": self.pieces.concat()});
        if !self.thinking.is_empty() {
            message["reasoning_content"] = json!(self.thinking);
        }
        if !self.calls.is_empty() {
            let call = |call: &ScriptedCall| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}});
            message["tool_calls"] = self.calls.iter().map(call).collect();
        }
        json!({"id": id(order), "object": "chat.completion", "created": 1_800_000_000, "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason()}], "usage": usage})
    }

    fn finish_reason(&self) -> &str {
        let usual = if self.calls.is_empty() { "stop" } else { "tool_calls" };
        self.finish.as_deref().unwrap_or(usual)
    }
}

fn id(order: usize) -> String {
    format!("chatcmpl-mock-{order}")
}
