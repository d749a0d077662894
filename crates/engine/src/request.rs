//! What a surface asks for, in our words.

use watertight_core::Receipt;
use watertight_core::ids::{EntryId, GenerationId, RunId, Seq, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_core::run::RunOptions;
use watertight_core::transcript::Block;

use crate::prompt;
use crate::report::RunReport;

/// Names a session, as a surface parsed it. Nothing here is believed: the key is resolved under the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The session key as the client wrote it.
    pub key: Option<String>,
    /// The agent it named beside or instead of the key.
    pub agent: Option<String>,
    /// Which transcript of the session.
    pub generation: GenerationChoice,
}

impl Target {
    /// The session of this key.
    pub fn of_key(key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }
}

/// Which transcript of a session a turn goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GenerationChoice {
    /// The live one.
    #[default]
    Live,
    /// The live one; where the session is new, its first transcript gets this id (`chat.send` with `sessionId`).
    NamesNew(GenerationId),
    /// This one: it is made live first, as a new transcript where the session has none of that id (gateway-ws.md §5.2).
    MakeLive(GenerationId),
}

/// One turn to run.
#[derive(Clone, Debug)]
pub struct TurnRequest {
    /// In which session.
    pub target: Target,
    /// The input.
    pub input: Vec<Block>,
    /// The client's idempotency key.
    pub run: RunId,
    /// What else the caller asked for.
    pub options: RunOptions,
    /// Only run if the live generation is this one (`agent.expectedExistingSessionId`).
    pub expect_generation: Option<GenerationId>,
    /// Through which surface it came, such as `ws` or `cli-local`.
    pub surface: &'static str,
    /// The call it came by, such as `agent` or `chat.send`; the same run id by another call is a conflict.
    pub method: &'static str,
}

impl TurnRequest {
    /// Size of the input's content.
    pub(crate) fn bytes(&self) -> usize {
        self.input.iter().map(prompt::block_size).sum()
    }
}

/// A turn the gateway has acknowledged: its input is durable.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The run.
    pub run: RunId,
    /// The session.
    pub key: CanonicalKey,
    /// The agent that answers: the key's, or the default agent for a sentinel.
    pub agent: String,
    /// The generation the input went to.
    pub generation: GenerationId,
    /// The input's entry.
    pub input: EntryId,
    /// Place of the input in its generation, from 1; none where the run was known before.
    pub message_seq: Option<u32>,
    /// When the input became durable.
    pub at: UnixMillis,
    /// Proves later that the input is still there; none where it cannot be told any more.
    pub receipt: Option<Receipt>,
    /// The run that this one's queue policy ended.
    pub interrupted: Option<RunId>,
    /// Whether this request started the run.
    pub disposition: Disposition,
}

/// What a request with a run id meant.
#[derive(Clone, Debug)]
pub enum Disposition {
    /// It started or queued the run.
    Started,
    /// The run was accepted before and goes on.
    InFlight,
    /// The run was accepted before and has ended.
    Ended(Box<RunReport>),
}

/// Which part of a transcript to read.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Messages at the most; the surface bounds it.
    pub limit: u32,
    /// How many of the newest to leave out.
    pub offset: u32,
    /// Bytes of message content at the most; the newest messages win.
    pub max_bytes: usize,
}

/// How far a client has read a session. A name like any other: it is looked up under the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The transcript it read.
    pub generation: GenerationId,
    /// The last entry it has; 0 before the first.
    pub seq: Seq,
}

/// Names an existing session by something other than its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Its key, resolved like any other.
    Key(String),
    /// Its live generation.
    Generation(GenerationId),
    /// Its label.
    Label(String),
}
