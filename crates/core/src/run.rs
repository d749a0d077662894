//! Runs: one input and everything done to answer it.

use serde::{Deserialize, Serialize};

use crate::ids::{EntryId, GenerationNo, PrincipalId, RunId, SessionId, UnixMillis};
use crate::transcript::StopReason;

/// How far a run has come. The journal of isolation.md C5; the order of the variants is the order of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum RunState {
    /// Acknowledged, waiting for its place.
    Queued = 1,
    /// Taken by the session's writer.
    Claimed = 2,
    /// A provider call is under way.
    Calling = 3,
    /// Tool calls are recorded and may be under way.
    ToolIntent = 4,
    /// Every recorded tool call has its result recorded.
    ToolResult = 5,
    /// Ended; the outcome says how.
    Ended = 6,
}

impl RunState {
    /// The state from its stored form.
    pub fn from_stored(value: u8) -> Option<Self> {
        [Self::Queued, Self::Claimed, Self::Calling, Self::ToolIntent, Self::ToolResult, Self::Ended]
            .into_iter()
            .find(|state| *state as u8 == value)
    }
}

/// How a run ended. Exactly one per run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum RunOutcome {
    /// The model answered.
    Completed {
        /// Why it stopped.
        stop: StopReason,
        /// The entry that holds the answer.
        answer: EntryId,
    },
    /// The provider or the gateway failed.
    Failed {
        /// What sort of failure.
        kind: FailureKind,
        /// One sentence for the user; never a secret.
        message: String,
    },
    /// A caller stopped it.
    Aborted {
        /// What stopped it, such as `rpc`.
        reason: String,
    },
    /// It hit its time limit.
    TimedOut,
    /// The process ended before the run could.
    Interrupted,
}

/// What sort of failure ended a run. Wire names of gateway-ws.md §3.1 where they exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The model declined.
    Refusal,
    /// The provider did not answer in time.
    Timeout,
    /// The provider asked us to slow down.
    RateLimit,
    /// The transcript no longer fits.
    ContextLength,
    /// The provider cannot be reached or broke off.
    ProviderUnavailable,
    /// The provider refused our credential.
    ProviderAuth,
    /// The run asked for tools more often than allowed.
    ToolLoop,
    /// A stored record failed its integrity check.
    Integrity,
    /// Anything else.
    Unknown,
}

/// What becomes of an input whose session is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueuePolicy {
    /// It waits for its turn.
    #[default]
    Queue,
    /// The active run is aborted and this one goes next.
    Interrupt,
    /// It is refused.
    Reject,
    /// The active run takes it up before its next model call; where it makes none, it waits for its turn.
    Steer,
}

/// What a caller asked of a run beyond the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// `provider/model` or a model of the agent's provider, instead of the agent's own.
    pub model: Option<String>,
    /// Added to the agent's instructions for this run only.
    pub extra_instructions: Option<String>,
    /// Time limit from start to end, in milliseconds; none means the default, 0 means no limit.
    pub timeout_ms: Option<u64>,
    /// Thinking level, passed to the provider as `reasoning_effort`.
    pub thinking: Option<String>,
    /// What becomes of it when the session is at work.
    pub queue: QueuePolicy,
}

/// A run as the store holds it. Only the store's row decoding makes one.
#[derive(Clone, Debug)]
pub struct RunRecord {
    columns: RunColumns,
}

/// The columns of a [`RunRecord`].
#[derive(Clone, Debug)]
pub struct RunColumns {
    /// The client's name for it.
    pub id: RunId,
    /// Whose it is: run ids are names under (tenant, principal).
    pub principal: PrincipalId,
    /// The session it runs in.
    pub session: SessionId,
    /// The canonical key of that session, as text.
    pub key: String,
    /// The generation its input went to.
    pub generation: GenerationNo,
    /// The entry that holds its input.
    pub input: EntryId,
    /// Digest of method, session and content: the same run id with another digest is a conflict (C4).
    pub digest: [u8; 32],
    /// How far it has come.
    pub state: RunState,
    /// What the caller asked for.
    pub options: RunOptions,
    /// When it was acknowledged.
    pub accepted_at: UnixMillis,
    /// When it was claimed.
    pub started_at: Option<UnixMillis>,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
    /// How it ended.
    pub outcome: Option<RunOutcome>,
    /// How often a later process started it anew.
    pub restarts: u32,
}

impl RunRecord {
    /// Row decoding: a run read from the store.
    pub fn decode(columns: RunColumns) -> Self {
        Self { columns }
    }
}

impl std::ops::Deref for RunRecord {
    type Target = RunColumns;

    fn deref(&self) -> &RunColumns {
        &self.columns
    }
}
