//! One call: requests, retries, reading the answer.
//!
//! A call owns its response. Dropping it drops the response, which closes the connection unless the answer was read to
//! its end; a connection with unread bytes never goes back to the pool, so no later call can read this one's answer.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use reqwest::Response;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;
use watertight_core::SessionScope;
use watertight_core::transcript::Message;
use watertight_wire::openai::request::messages_for;
use watertight_wire::openai::{ApiProblem, ChatAnswer, ChatRequest, ChatTool};

use crate::fault::{Fault, ProviderError};
use crate::model::{ModelEvent, ModelRequest};
use crate::openai::Endpoint;
use crate::openai::assemble::{Assembler, Told};
use crate::openai::options::{OpenAiOptions, Timeouts};
use crate::openai::retry::retry_after;
use crate::openai::verdict;
use crate::sse::{SseError, SseEvent, SseLimits, SseParser};

/// Most of an error body that is read, in bytes.
const ERROR_BODY_BYTES: usize = 64 * 1024;
/// How long an error body may take.
const ERROR_BODY_TIME: Duration = Duration::from_secs(5);
/// How long usage may follow the answer's end. The answer is complete by then; a provider that keeps the stream open
/// must not hold it up.
const AFTER_FINISH: Duration = Duration::from_secs(5);

/// A call under way.
pub(super) struct Call {
    endpoint: Arc<Endpoint>,
    headers: HeaderMap,
    model: String,
    body: Bytes,
    taken_ids: HashSet<String>,
    ready: VecDeque<ModelEvent>,
    phase: Phase,
}

enum Phase {
    Unsent,
    Streaming(Box<Streaming>),
    /// Over, with an error that is still to be told.
    Over(Option<ProviderError>),
}

struct Streaming {
    response: Response,
    parser: SseParser,
    assembler: Assembler,
    /// Raw bytes so far.
    bytes: usize,
    deadlines: Deadlines,
}

/// Until when the next piece of a stream is waited for.
struct Deadlines {
    /// When the first byte must be there; none once it was.
    first_byte_by: Option<Instant>,
    /// When a complete answer is taken as it is, whatever still comes: set once, so that comments cannot put it off.
    finish_by: Option<Instant>,
}

impl Deadlines {
    fn new(first_byte_by: Instant) -> Self {
        Self { first_byte_by: Some(first_byte_by), finish_by: None }
    }

    /// The next deadline, and how long was allowed for it.
    fn next(&mut self, timeouts: &Timeouts, finished: bool, now: Instant) -> (Instant, Duration) {
        if finished {
            (*self.finish_by.get_or_insert(now + AFTER_FINISH), AFTER_FINISH)
        } else if let Some(deadline) = self.first_byte_by {
            (deadline, timeouts.first_byte)
        } else {
            (now + timeouts.idle, timeouts.idle)
        }
    }
}

/// What ended a call, and under which status.
struct Failure {
    told: Told,
    status: Option<u16>,
}

impl Call {
    pub(super) fn new(endpoint: Arc<Endpoint>, scope: &SessionScope, request: ModelRequest) -> Self {
        let headers = endpoint.headers(scope);
        let taken_ids = request.messages.iter().flat_map(Message::tool_calls).map(|call| call.id.clone()).collect();
        let tools = request.tools.iter().map(|tool| ChatTool::new(&tool.name, &tool.description, &tool.parameters));
        let transcript: Vec<&Message> = request.messages.iter().collect();
        let chat = ChatRequest {
            messages: messages_for(request.instructions.as_deref(), &transcript),
            model: &request.model,
            tools: tools.collect(),
            // "off" is our word for it; providers have no common one, and none is what most take for it.
            reasoning_effort: request.thinking.as_deref().filter(|level| *level != "off"),
        };
        let body = chat.streaming_body(&endpoint.options.extra_body);
        Self {
            endpoint,
            headers,
            model: request.model,
            body: body.into(),
            taken_ids,
            ready: VecDeque::new(),
            phase: Phase::Unsent,
        }
    }

    /// The next event; none after the last.
    pub(super) async fn next(&mut self) -> Option<Result<ModelEvent, ProviderError>> {
        loop {
            // What arrived before an error is delivered before it.
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let step = match &mut self.phase {
                Phase::Unsent => self.open().await,
                Phase::Streaming(_) => self.read().await,
                Phase::Over(error) => return error.take().map(Err),
            };
            if let Err(Failure { told, status }) = step {
                self.phase = Phase::Over(Some(self.endpoint.error(&self.model, told.fault, status, &told.words)));
            }
        }
    }

    /// Sends the request, again while the budget lasts, and begins to read the answer.
    async fn open(&mut self) -> Result<(), Failure> {
        let (response, first_byte_by) = self.request_within_budget().await?;
        let status = Some(response.status().as_u16());
        let limits = self.endpoint.options.limits;
        let assembler = Assembler::new(limits, self.model.clone(), std::mem::take(&mut self.taken_ids));
        match content_type(&response).as_str() {
            // No type at all: a router that passes an upstream's stream on may leave it out.
            "" | "text/event-stream" => {
                self.phase = Phase::Streaming(Box::new(Streaming {
                    response,
                    parser: SseParser::new(SseLimits { line: limits.line, event: limits.answer }),
                    assembler,
                    bytes: 0,
                    deadlines: Deadlines::new(first_byte_by),
                }));
                Ok(())
            }
            "application/json" => {
                let read = self.plain(response, first_byte_by, assembler).await;
                read.map_err(|told| Failure { told, status })
            }
            other => {
                let content_type = other.chars().filter(|c| !c.is_control()).take(80).collect();
                Err(Failure { told: Fault::NotAnApi { content_type }.into(), status })
            }
        }
    }

    async fn request_within_budget(&self) -> Result<(Response, Instant), Failure> {
        let options = &self.endpoint.options;
        let began = Instant::now();
        let mut retry = 0;
        loop {
            let failure = match self.request().await {
                Ok(opened) => return Ok(opened),
                Err(failure) => failure,
            };
            let fault = &failure.told.fault;
            let jitter = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
            let Some(delay) = options.retry.delay(retry, fault, began.elapsed(), jitter) else {
                return Err(failure);
            };
            let (provider, delay_ms) = (options.name.as_str(), delay.as_millis());
            tracing::warn!(provider, status = failure.status, delay_ms, %fault, "a model request is tried again");
            sleep(delay).await;
            retry += 1;
        }
    }

    /// One request. The instant is when the first byte of the answer's body is due.
    async fn request(&self) -> Result<(Response, Instant), Failure> {
        let Endpoint { client, url, options } = &*self.endpoint;
        let first_byte = options.timeouts.first_byte;
        let first_byte_by = Instant::now() + first_byte;
        let send = client.post(url.clone()).headers(self.headers.clone()).body(self.body.clone()).send();
        let response = match timeout_at(first_byte_by, send).await {
            Err(_) => return Err(Failure { told: Fault::Timeout { after: first_byte }.into(), status: None }),
            Ok(Err(error)) => {
                let fault = if error.is_connect() { Fault::Unreachable } else { Fault::EndedEarly };
                return Err(Failure { told: Told { fault, words: root_cause(&error) }, status: None });
            }
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok((response, first_byte_by));
        }
        let asked = retry_after(response.headers());
        let problem = read_problem(response).await;
        let fault = verdict::of_status(status, asked, &problem);
        Err(Failure { told: Told { fault, words: problem.message }, status: Some(status.as_u16()) })
    }

    /// A provider that answers the streaming request with one JSON body.
    async fn plain(
        &mut self,
        mut response: Response,
        first_byte_by: Instant,
        mut assembler: Assembler,
    ) -> Result<(), Told> {
        let options = &self.endpoint.options;
        let mut body = Vec::new();
        let (mut deadline, mut limit) = (first_byte_by, options.timeouts.first_byte);
        while let Some(piece) = next_piece(&mut response, deadline, limit).await? {
            if body.len() + piece.len() > options.limits.answer {
                return Err(Fault::TooLarge { limit: format!("{} bytes in one answer", options.limits.answer) }.into());
            }
            body.extend_from_slice(&piece);
            limit = options.timeouts.idle;
            deadline = Instant::now() + limit;
        }
        let not_a_completion = Fault::Malformed { problem: "the body is no chat completion" };
        let answer: ChatAnswer = serde_json::from_slice(&body).map_err(|_| not_a_completion.clone())?;
        if answer.choices.is_empty() && answer.error.is_none() {
            return Err(not_a_completion.into());
        }
        assembler.take(answer, &mut self.ready)?;
        self.ready.push_back(ModelEvent::Done(assembler.finish()?));
        self.phase = Phase::Over(None);
        Ok(())
    }

    /// Reads on in the stream, to its end if that has come.
    async fn read(&mut self) -> Result<(), Failure> {
        let Phase::Streaming(streaming) = &mut self.phase else { return Ok(()) };
        let status = Some(streaming.response.status().as_u16());
        let failed = |told| Failure { told, status };
        if !streaming.advance(&self.endpoint.options, &mut self.ready).await.map_err(failed)? {
            return Ok(());
        }
        if let Phase::Streaming(streaming) = std::mem::replace(&mut self.phase, Phase::Over(None)) {
            self.ready.push_back(ModelEvent::Done(streaming.assembler.finish().map_err(failed)?));
        }
        Ok(())
    }
}

impl Streaming {
    /// Takes the next piece of the stream; true when the answer is complete.
    async fn advance(&mut self, options: &OpenAiOptions, ready: &mut VecDeque<ModelEvent>) -> Result<bool, Told> {
        let (finished, now) = (self.assembler.is_finished(), Instant::now());
        let (deadline, limit) = self.deadlines.next(&options.timeouts, finished, now);
        // A piece that is there already is taken before a deadline that has passed.
        if finished && now >= deadline {
            return Ok(true);
        }
        let piece = match next_piece(&mut self.response, deadline, limit).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return self.end(ready),
            Err(_) if finished => return Ok(true),
            Err(fault) => return Err(fault.into()),
        };
        self.deadlines.first_byte_by = None;
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.bytes > options.limits.stream {
            return Err(too_large(options.limits.stream, "stream"));
        }
        let mut events = Vec::new();
        let fed = self.parser.feed(&piece, &mut events);
        for event in events {
            if self.take(&event, ready)? {
                return Ok(true);
            }
        }
        match fed {
            Ok(()) => Ok(false),
            Err(SseError::NotUtf8) => Err(Fault::Malformed { problem: "the stream is not UTF-8" }.into()),
            Err(SseError::LineTooLong) => Err(too_large(options.limits.line, "line")),
            Err(SseError::EventTooLarge) => Err(too_large(options.limits.answer, "event")),
        }
    }

    /// Takes one event; true when the answer is complete.
    fn take(&mut self, event: &SseEvent, ready: &mut VecDeque<ModelEvent>) -> Result<bool, Told> {
        if is_end_mark(event) {
            // Some providers say only here that the answer is complete, but nothing at all is no answer.
            let complete = self.assembler.is_finished() || self.assembler.has_content();
            return if complete { Ok(true) } else { Err(Fault::EndedEarly.into()) };
        }
        if event.event.as_deref() == Some("error") {
            let body = serde_json::from_str::<Value>(&event.data).ok();
            let problem = body
                .and_then(|body| ApiProblem::from_body(&body))
                .unwrap_or_else(|| ApiProblem { message: event.data.clone(), code: None });
            return Err(Told { fault: verdict::of_problem(&problem), words: problem.message });
        }
        let chunk: ChatAnswer = serde_json::from_str(&event.data)
            .map_err(|_| Fault::Malformed { problem: "a piece of the stream is no chat completion chunk" })?;
        self.assembler.take(chunk, ready)?;
        Ok(false)
    }

    /// The provider closed the stream.
    fn end(&mut self, ready: &mut VecDeque<ModelEvent>) -> Result<bool, Told> {
        // A chunk cut off by the end of the stream is no fault of its own.
        if let Ok(Some(event)) = self.parser.finish()
            && (is_end_mark(&event) || serde_json::from_str::<Value>(&event.data).is_ok())
            && self.take(&event, ready)?
        {
            return Ok(true);
        }
        if self.assembler.is_finished() { Ok(true) } else { Err(Fault::EndedEarly.into()) }
    }
}

fn is_end_mark(event: &SseEvent) -> bool {
    event.data.trim() == "[DONE]"
}

fn too_large(limit: usize, what: &str) -> Told {
    Fault::TooLarge { limit: format!("{limit} bytes in one {what}") }.into()
}

async fn next_piece(response: &mut Response, deadline: Instant, limit: Duration) -> Result<Option<Bytes>, Fault> {
    match timeout_at(deadline, response.chunk()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(_)) => Err(Fault::EndedEarly),
        Err(_) => Err(Fault::Timeout { after: limit }),
    }
}

/// What the body of an error says, as far as it comes in time. Markup says nothing to a user.
async fn read_problem(mut response: Response) -> ApiProblem {
    let is_page = content_type(&response).contains("html");
    let deadline = Instant::now() + ERROR_BODY_TIME;
    let mut body = Vec::new();
    while body.len() < ERROR_BODY_BYTES
        && let Ok(Some(piece)) = next_piece(&mut response, deadline, ERROR_BODY_TIME).await
    {
        body.extend_from_slice(&piece);
    }
    if let Some(problem) = serde_json::from_slice(&body).ok().and_then(|body| ApiProblem::from_body(&body)) {
        return problem;
    }
    let text = String::from_utf8_lossy(&body);
    let words = if is_page || text.trim_start().starts_with('<') { "" } else { &*text };
    ApiProblem { message: words.to_owned(), code: None }
}

/// The media type without its parameters, in lower case; empty when there is none.
fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Why no connection could be made, without the address: that may hold a secret in its query.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut text = String::new();
    while let Some(source) = cause.source() {
        cause = source;
        text = cause.to_string();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_complete_answer_does_not_put_its_end_off() {
        let began = Instant::now();
        let timeouts = Timeouts::default();
        let mut deadlines = Deadlines::new(began + timeouts.first_byte);
        assert_eq!(deadlines.next(&timeouts, false, began), (began + timeouts.first_byte, timeouts.first_byte));
        deadlines.first_byte_by = None;
        for seconds in [1, 2] {
            let now = began + Duration::from_secs(seconds);
            assert_eq!(deadlines.next(&timeouts, false, now), (now + timeouts.idle, timeouts.idle));
        }
        for seconds in [3, 4, 60] {
            let now = began + Duration::from_secs(seconds);
            let finish_by = began + Duration::from_secs(3) + AFTER_FINISH;
            assert_eq!(deadlines.next(&timeouts, true, now), (finish_by, AFTER_FINISH), "after {seconds} seconds");
        }
    }
}
