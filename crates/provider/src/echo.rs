//! The built-in echo model: no AI, no network, always the same answer to the same transcript.
//!
//! It answers `Echo: <the last user message> (turn <N>)`, where N counts the user messages it was sent, so that a
//! conversation's history is visible in the answers. In the first turn it also says what it is and how to get a real
//! model. A message that starts with `/echo` is a script, for tests and demonstrations:
//!
//! | message | what happens |
//! |---|---|
//! | `/echo slow N` | N words, one every 100 ms |
//! | `/echo long N` | an answer of N bytes, at most 4 MiB |
//! | `/echo fail`, or `fail rate_limit`, `timeout`, `context_length`, `auth`, `refusal` | the call fails that way |
//! | `/echo die` | the stream breaks off in the middle of the answer |
//! | `/echo hang` | no answer until the call is cancelled |
//! | `/echo tool NAME {…}` | asks for the tool with these arguments, then answers with its result |
//! | `/echo tools A B …` | asks for one tool after the other, a round each, then answers with the results |
//! | `/echo history` | lists the user messages it was sent |
//!
//! Token counts are a quarter of the characters.

mod script;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future;
use std::time::Duration;

use futures_util::stream;
use tokio::time::sleep;
use watertight_core::SessionScope;
use watertight_core::transcript::{Block, Message, StopReason, ToolCall, Usage};

use crate::fault::{Fault, ProviderError};
use crate::model::{Answer, ModelEvent, ModelInfo, ModelRequest, ModelStream, Provider};
use crate::naming::HeaderMode;
use script::Script;

/// The name of its only model. Any other name is answered just the same.
pub const MODEL: &str = "echo";

/// Between two words of `/echo slow`.
const SLOW_STEP: Duration = Duration::from_millis(100);

const FIRST_TURN_NOTE: &str = "This is the built-in echo model, not an AI: it repeats what it is sent. For a real \
    model set OPENAI_API_KEY, or name a provider in config.toml. Try /echo for its scripts.";

/// The built-in echo model.
pub struct Echo {
    name: String,
    slow_step: Duration,
}

impl Echo {
    /// The model, as a provider of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), slow_step: SLOW_STEP }
    }

    /// With another time between two words of `/echo slow`.
    #[must_use]
    pub fn with_slow_step(self, slow_step: Duration) -> Self {
        Self { slow_step, ..self }
    }

    fn error(&self, model: &str, fault: Fault) -> ProviderError {
        ProviderError {
            retryable: fault.is_retryable(),
            provider: self.name.clone(),
            model: model.to_owned(),
            status: None,
            preview: Some("asked for with /echo".into()),
            fault,
        }
    }
}

impl Provider for Echo {
    fn name(&self) -> &str {
        &self.name
    }

    /// Nothing leaves the process.
    fn header_mode(&self) -> HeaderMode {
        HeaderMode::Off
    }

    fn models(&self) -> Vec<ModelInfo> {
        vec![ModelInfo { id: MODEL.into(), context_window: None }]
    }

    fn call(&self, _scope: &SessionScope, request: ModelRequest) -> ModelStream {
        let steps = self.steps(&request);
        Box::pin(stream::unfold(steps, |mut steps| async move {
            loop {
                match steps.pop_front()? {
                    Step::Event(event) => return Some((Ok(event), steps)),
                    Step::Wait(time) => sleep(time).await,
                    Step::Hang => future::pending().await,
                    Step::Fail(error) => return Some((Err(error), VecDeque::new())),
                }
            }
        }))
    }
}

/// What the stream does, in order.
enum Step {
    Event(ModelEvent),
    Wait(Duration),
    Hang,
    Fail(ProviderError),
}

impl Echo {
    fn steps(&self, request: &ModelRequest) -> VecDeque<Step> {
        let turn = TurnView::of(&request.messages);
        let started = ModelEvent::Started { model: request.model.clone(), response_id: None };
        let mut steps = VecDeque::from([Step::Event(started)]);
        let fail = |fault| Step::Fail(self.error(&request.model, fault));
        match script::parse(&turn.text) {
            Script::Hang => {
                steps.clear();
                steps.push_back(Step::Hang);
            }
            Script::Fail(fault) => {
                steps.clear();
                steps.push_back(fail(fault));
            }
            Script::Die => {
                say(&mut steps, "This answer breaks off in the", None);
                steps.push_back(fail(Fault::EndedEarly));
            }
            Script::Slow(words) => {
                let words: Vec<String> = (1..=words).map(|n| format!("word{n} ")).collect();
                let text = turn.signed(words.concat());
                say(&mut steps, &text, Some(self.slow_step));
                done(&mut steps, request, vec![Block::from_text(text)]);
            }
            Script::Tools(calls) => match calls.into_iter().nth(turn.rounds) {
                Some((tool, arguments)) => {
                    let id = format!("callecho{}x{}", turn.number, turn.rounds + 1);
                    let text = format!("Asking for {tool}.");
                    say(&mut steps, &text, None);
                    let call = Block::ToolCall(ToolCall { id, name: tool.to_owned(), arguments });
                    done(&mut steps, request, vec![Block::from_text(text), call]);
                }
                None => answer(&mut steps, request, turn.signed(turn.results())),
            },
            Script::Long(bytes) => {
                answer(&mut steps, request, "0123456789abcde\n".chars().cycle().take(bytes).collect());
            }
            Script::History => answer(&mut steps, request, turn.signed(turn.history())),
            Script::Unknown => answer(&mut steps, request, turn.signed(format!("{}\n", script::HELP))),
            Script::Plain if turn.number <= 1 => {
                answer(&mut steps, request, turn.signed(format!("Echo: {}\n\n{FIRST_TURN_NOTE}\n", turn.text)));
            }
            Script::Plain => answer(&mut steps, request, turn.signed(format!("Echo: {} ", turn.text))),
        }
        steps
    }
}

/// The present turn, as the transcript shows it.
struct TurnView<'a> {
    messages: &'a [Message],
    /// The last user message.
    text: String,
    /// How many user messages there are.
    number: usize,
    /// Answers that asked for tools since the last user message.
    rounds: usize,
    /// What follows the last user message.
    since: &'a [Message],
}

impl<'a> TurnView<'a> {
    fn of(messages: &'a [Message]) -> Self {
        let is_user = |message: &Message| matches!(message, Message::User { .. });
        let last = messages.iter().rposition(is_user);
        let since = last.map_or(messages, |at| &messages[at + 1..]);
        Self {
            messages,
            text: last.map(|at| messages[at].text()).unwrap_or_default(),
            number: messages.iter().filter(|message| is_user(message)).count(),
            rounds: since.iter().filter(|message| message.tool_calls().next().is_some()).count(),
            since,
        }
    }

    fn signed(&self, mut text: String) -> String {
        // Writing to a string cannot fail.
        let _ = write!(text, "(turn {})", self.number);
        text
    }

    fn results(&self) -> String {
        let line = |message: &Message| match message {
            Message::ToolResult { tool, is_error, .. } => {
                let verb = if *is_error { "failed" } else { "said" };
                Some(format!("{tool} {verb}: {}\n", message.text()))
            }
            _ => None,
        };
        self.since.iter().filter_map(line).collect()
    }

    fn history(&self) -> String {
        let users = self.messages.iter().filter(|message| matches!(message, Message::User { .. }));
        let lines: Vec<String> =
            users.enumerate().map(|(at, message)| format!("{}. {}\n", at + 1, message.text())).collect();
        lines.concat()
    }
}

/// The text in pieces of a few words, or word by word with `pause` before each.
fn say(steps: &mut VecDeque<Step>, text: &str, pause: Option<Duration>) {
    const WORDS: usize = 3;
    const MAX_PIECE_BYTES: usize = 16 * 1024;
    let mut piece = String::new();
    let mut words = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        piece.push_str(word);
        words += 1;
        // A long answer goes in larger pieces, as a busy provider would send it.
        let large_enough = if text.len() > MAX_PIECE_BYTES { piece.len() >= MAX_PIECE_BYTES } else { words >= WORDS };
        if pause.is_some() || large_enough {
            steps.extend(pause.map(Step::Wait));
            steps.push_back(Step::Event(ModelEvent::Text(std::mem::take(&mut piece))));
            words = 0;
        }
    }
    if !piece.is_empty() {
        steps.push_back(Step::Event(ModelEvent::Text(piece)));
    }
}

fn answer(steps: &mut VecDeque<Step>, request: &ModelRequest, text: String) {
    say(steps, &text, None);
    done(steps, request, vec![Block::from_text(text)]);
}

fn done(steps: &mut VecDeque<Step>, request: &ModelRequest, content: Vec<Block>) {
    let calls_tools = content.iter().any(|block| matches!(block, Block::ToolCall(_)));
    let stop = if calls_tools { StopReason::ToolUse } else { StopReason::Stop };
    let chars = |text: &str| text.chars().count() as u64;
    let sent: u64 = request.messages.iter().map(|message| chars(&message.text())).sum::<u64>()
        + request.instructions.as_deref().map_or(0, chars);
    let said: u64 = content.iter().filter_map(Block::text).map(chars).sum();
    let usage = Usage { input: sent.div_ceil(4), output: said.div_ceil(4), ..Usage::default() };
    steps.push_back(Step::Event(ModelEvent::Done(Answer { content, usage: Some(usage), stop })));
}
