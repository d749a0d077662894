//! A session as lists and descriptions show it.

use watertight_core::ids::{GenerationId, RunId, Seq, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_core::session::SessionMeta;
use watertight_core::transcript::Entry;

/// A session with what is going on in it now.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its key.
    pub key: CanonicalKey,
    /// The agent that answers in it.
    pub agent: String,
    /// Whether it is the agent's main session.
    pub is_main: bool,
    /// Its live generation; none where the session does not exist yet.
    pub generation: Option<GenerationId>,
    /// Its description. `status` is corrected for runs that a former process left open.
    pub meta: SessionMeta,
    /// When it was created; none where it does not exist yet.
    pub created_at: Option<UnixMillis>,
    /// Its last write; none where it does not exist yet.
    pub updated_at: Option<UnixMillis>,
    /// Runs that are active or waiting, oldest first; also those that wait to be accepted behind a change of generation.
    pub active_runs: Vec<RunId>,
    /// Provider and model that answer in it now.
    pub model: (String, String),
    /// Size of the model's context window, in tokens.
    pub context_tokens: u64,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Vec<SessionView>,
    /// How many match in all.
    pub total: u64,
}

/// One page of a transcript, oldest first.
#[derive(Clone, Debug)]
pub struct History {
    /// The session.
    pub session: SessionView,
    /// The entries.
    pub entries: Vec<Entry>,
    /// Messages of the generation in all.
    pub total: u32,
    /// The newest entry of the generation, whether on this page or not; 0 when there is none. With the session's
    /// generation a [`Cursor`](crate::request::Cursor).
    pub newest: Seq,
    /// Whether older messages exist.
    pub has_more: bool,
    /// The run that is answering now.
    pub in_flight: Option<InFlight>,
}

/// What a client missed.
#[derive(Clone, Debug)]
pub enum Changes {
    /// The transcript the cursor belongs to is not live (any more), or does not reach so far: read it anew.
    Reset,
    /// Entries after the cursor, oldest first.
    Since {
        /// The session.
        session: Box<SessionView>,
        /// The entries.
        entries: Vec<Entry>,
        /// Whether more follow.
        has_more: bool,
        /// The run that is answering now; its text follows the newest entry.
        in_flight: Option<InFlight>,
    },
}

/// A run in the middle of its answer.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// The run.
    pub run: RunId,
    /// What it has said since its last durable entry.
    pub text: String,
    /// When it started.
    pub started_at: UnixMillis,
}

/// An agent as clients list it.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// Its id.
    pub id: String,
    /// Whether it is the default agent.
    pub is_default: bool,
    /// Its provider and model.
    pub model: (String, String),
}

/// A model as clients list it.
#[derive(Clone, Debug)]
pub struct ModelView {
    /// Configured provider name.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
    /// Size of its context window, in tokens.
    pub context_tokens: u64,
}
