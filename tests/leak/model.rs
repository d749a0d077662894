//! The model: repeats and mixes the tags of its prompt, makes up its own, and fails in every way it is asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use watertight_engine::tools::{Tool, ToolContext, ToolFuture};
use watertight_provider::ToolSpec;
use watertight_testkit::Recorded;
use watertight_testkit::mock_provider::{MockProvider, Reply, ScriptedCall};

use crate::dice::Dice;
use crate::oracle::{ARGUMENT, FAULT, MODEL, Oracle, Prompt};

/// Tags of the prompt that an answer repeats, at the most.
const REPEATED: usize = 5;

/// What an input asks the model to do. Stands in the text as `do:<word>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answer.
    Say,
    /// Answer with reasoning before.
    Think,
    /// Answer in one JSON body.
    Plain,
    /// Ask for tools, then answer.
    Tools,
    /// Answer slowly, so that something can happen in between.
    Slow,
    /// Begin, and never end.
    Hang,
    /// Refuse.
    Refuse,
    /// Be busy, so that the request is sent again.
    Busy,
    /// Fail.
    Fail,
    /// Cut the connection in the middle.
    Cut,
    /// End in the middle.
    Early,
    /// Close before the answer.
    Close,
    /// Send what is no answer.
    Garble,
}

/// Every manner with its word.
const WORDS: [(Manner, &str); 13] = [
    (Manner::Say, "say"),
    (Manner::Think, "think"),
    (Manner::Plain, "plain"),
    (Manner::Tools, "tools"),
    (Manner::Slow, "slow"),
    (Manner::Hang, "hang"),
    (Manner::Refuse, "refuse"),
    (Manner::Busy, "busy"),
    (Manner::Fail, "fail"),
    (Manner::Cut, "cut"),
    (Manner::Early, "early"),
    (Manner::Close, "close"),
    (Manner::Garble, "garble"),
];

impl Manner {
    /// Those in which no complete answer comes.
    pub(crate) const FAULTS: [Self; 7] =
        [Self::Refuse, Self::Busy, Self::Cut, Self::Early, Self::Close, Self::Garble, Self::Refuse];

    pub(crate) fn word(self) -> &'static str {
        WORDS.iter().find(|(manner, _)| *manner == self).map_or("say", |(_, word)| word)
    }

    fn of(text: &str) -> Self {
        let word = text.rsplit_once("do:").map_or("", |(_, rest)| rest);
        let word = word.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
        WORDS.iter().find(|(_, known)| *known == word).map_or(Self::Say, |(manner, _)| *manner)
    }
}

/// Starts the model.
pub(crate) async fn start(oracle: Arc<Oracle>, seed: u64) -> Arc<MockProvider> {
    let provider = Arc::new(MockProvider::start().await);
    let calls = AtomicU64::new(0);
    provider.answer_with(move |request| {
        let prompt = oracle.prompt(request)?;
        let dice = Dice::new(seed, calls.fetch_add(1, Ordering::Relaxed));
        Some(Model { oracle: &oracle, dice, prompt }.answer(request))
    });
    provider
}

struct Model<'a> {
    oracle: &'a Oracle,
    dice: Dice,
    prompt: Prompt,
}

impl Model<'_> {
    fn answer(mut self, request: &Recorded) -> Reply {
        let manner = Manner::of(&request.last_user_text());
        let figures = &self.oracle.figures;
        if matches!(manner, Manner::Fail | Manner::Hang) || Manner::FAULTS.contains(&manner) {
            figures.model_errors.one();
        }
        match manner {
            Manner::Tools if request.last_role() != "tool" => {
                let calls = self.calls();
                self.oracle.figures.tool_calls.add(calls.len());
                Reply::tool_calls(calls)
            }
            Manner::Say | Manner::Tools => Reply::pieces(self.pieces()),
            Manner::Think => {
                let thinking = self.text();
                Reply::pieces(self.pieces()).with_thinking(&thinking)
            }
            Manner::Plain => Reply::pieces(self.pieces()).plain(),
            Manner::Slow => {
                let pause = Duration::from_millis(1 + self.dice.below(12) as u64);
                Reply::pieces(self.pieces()).with_pause(pause)
            }
            Manner::Hang => Reply::pieces(self.pieces()).then_hang(),
            Manner::Refuse => self.error(400),
            Manner::Busy => self.error(429).with_header("retry-after-ms", "3"),
            Manner::Fail => self.error(500),
            Manner::Cut => Reply::pieces(self.pieces()).then_die(),
            Manner::Early => Reply::pieces(self.pieces()).then_end_early(),
            Manner::Close => Reply::close(),
            Manner::Garble => {
                let text = self.text();
                Reply::raw("text/event-stream", [format!("data: {{\"choices\": [{text}\n\n")])
            }
        }
    }

    fn error(&mut self, status: u16) -> Reply {
        let fault = self.own(FAULT);
        let text = self.text();
        Reply::error(status, "told_to_fail", &format!("{fault} refused: {text}"))
    }

    fn own(&self, sort: char) -> String {
        self.oracle.text(self.oracle.mint(self.prompt.owner, sort))
    }

    /// The input's tag first: whoever asked can tell that the answer is its own.
    fn text(&mut self) -> String {
        let mut text = format!("{} was asked; ", self.oracle.text(self.prompt.input));
        for _ in 0..self.dice.below(REPEATED + 1) {
            let tag = *self.dice.pick(&self.prompt.tags);
            text.push_str(&self.oracle.text(tag));
            text.push(' ');
        }
        text.push_str(&self.own(MODEL));
        text
    }

    /// Torn anywhere, also within a tag.
    fn pieces(&mut self) -> Vec<String> {
        let text = self.text();
        let mut cuts: Vec<usize> = (0..self.dice.below(4)).map(|_| self.dice.below(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|ends| text[ends[0]..ends[1]].to_owned()).collect()
    }

    /// Under the same ids in every session.
    fn calls(&mut self) -> Vec<ScriptedCall> {
        let tools = ["time", "session_info", "no_such_tool", Repeat::NAME, Repeat::NAME];
        let calls = 1 + self.dice.below(2);
        (0..calls)
            .map(|at| {
                let tool = *self.dice.pick(&tools);
                ScriptedCall::new(&format!("call-{at}"), tool, &json!({"note": self.own(ARGUMENT)}))
            })
            .collect()
    }
}

/// A server-side tool that says what it was told, or fails with it.
pub(crate) struct Repeat;

impl Repeat {
    const NAME: &str = "repeat";
}

impl Tool for Repeat {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: Self::NAME.into(),
            description: "Repeats its note.".into(),
            parameters: json!({"type": "object", "properties": {"note": {"type": "string"}}}),
        }
    }

    fn is_idempotent(&self) -> bool {
        false
    }

    fn run(&self, _context: ToolContext, arguments: Value) -> ToolFuture {
        Box::pin(async move {
            let note = arguments["note"].as_str().unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(note.len() as u64 % 4)).await;
            if note.ends_with(['0', '1', '2', '3']) { Err(format!("{note} failed")) } else { Ok(note.to_owned()) }
        })
    }
}
