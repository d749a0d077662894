//! What became of a run.

use watertight_core::Receipt;
use watertight_core::ids::{GenerationId, RunId, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_core::run::RunOutcome;
use watertight_core::transcript::{ModelRef, Usage};

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The run.
    pub run: RunId,
    /// Its session.
    pub key: CanonicalKey,
    /// The agent that answered.
    pub agent: String,
    /// The generation it ran in.
    pub generation: GenerationId,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Text of the answer, or of the part of it that arrived before the run broke off.
    pub text: String,
    /// Which model answered.
    pub model: Option<ModelRef>,
    /// The HTTP status the provider failed with; known in the process that ran it only.
    pub provider_status: Option<u16>,
    /// Tokens over all calls of the run.
    pub usage: Usage,
    /// Tokens of the last call.
    pub last_usage: Usage,
    /// When it was claimed.
    pub started_at: UnixMillis,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Where its session ended right after it; none where that cannot be told any more.
    pub receipt: Option<Receipt>,
}
