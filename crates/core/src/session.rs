//! A session as the store holds it.

use serde::{Deserialize, Serialize};

use crate::ids::{GenerationId, GenerationNo, Lifecycle, PrincipalId, RunId, SessionId, TenantId, UnixMillis};
use crate::key::CanonicalKey;

/// The identity of a session: its row without the changing description. Only the store's row decoding makes one.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    tenant: TenantId,
    id: SessionId,
    key: CanonicalKey,
    owner: PrincipalId,
    generation: GenerationId,
    generation_no: GenerationNo,
    lifecycle: Lifecycle,
    created_at: UnixMillis,
    draft: bool,
}

/// The columns of a [`SessionRecord`].
#[derive(Clone, Debug)]
pub struct SessionColumns {
    /// The tenant.
    pub tenant: TenantId,
    /// The internal id.
    pub id: SessionId,
    /// The canonical key.
    pub key: CanonicalKey,
    /// Who created the session.
    pub owner: PrincipalId,
    /// The live generation as the wire names it.
    pub generation: GenerationId,
    /// Its ordinal.
    pub generation_no: GenerationNo,
    /// Resets and switches so far.
    pub lifecycle: Lifecycle,
    /// When the session was created.
    pub created_at: UnixMillis,
    /// True while the row is not written yet.
    pub draft: bool,
}

impl SessionRecord {
    /// Row decoding: a session read from the store, or drafted there for a key that has none.
    pub fn decode(columns: SessionColumns) -> Self {
        let SessionColumns { tenant, id, key, owner, generation, generation_no, lifecycle, created_at, draft } =
            columns;
        Self { tenant, id, key, owner, generation, generation_no, lifecycle, created_at, draft }
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The internal id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The canonical key.
    pub fn key(&self) -> &CanonicalKey {
        &self.key
    }

    /// Who created the session.
    pub fn owner(&self) -> PrincipalId {
        self.owner
    }

    /// The live generation.
    pub fn generation(&self) -> &GenerationId {
        &self.generation
    }

    /// Ordinal of the live generation.
    pub fn generation_no(&self) -> GenerationNo {
        self.generation_no
    }

    /// Resets and switches so far.
    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    /// When the session was created.
    pub fn created_at(&self) -> UnixMillis {
        self.created_at
    }

    /// Whether the row is still to be written.
    pub fn is_draft(&self) -> bool {
        self.draft
    }
}

/// Where a session's latest run stands. Wire names of gateway-ws.md §2.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    /// A run waits for its place.
    Queued,
    /// A run is active.
    Running,
    /// The last run completed, or none ever ran.
    #[default]
    Done,
    /// The last run failed.
    Failed,
    /// The last run was aborted.
    Killed,
    /// The last run hit its time limit.
    Timeout,
}

/// The changing description of a session, stored sealed. Counters of generations start anew on reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionMeta {
    /// User-chosen label, unique within the tenant's agent.
    pub label: Option<String>,
    /// Name shown in lists.
    pub display_name: Option<String>,
    /// First words of the first user message, at most 80 characters.
    pub derived_title: Option<String>,
    /// First words of the latest message, at most 120 characters.
    pub last_message_preview: Option<String>,
    /// Where the latest run stands.
    pub status: SessionStatus,
    /// Latest run.
    pub last_run: Option<RunId>,
    /// When the latest run started.
    pub started_at: Option<UnixMillis>,
    /// When the latest run ended.
    pub ended_at: Option<UnixMillis>,
    /// One sentence about the latest failure.
    pub last_run_error: Option<String>,
    /// Whether the latest run was aborted.
    pub aborted_last_run: bool,
    /// Last real user turn.
    pub last_interaction_at: Option<UnixMillis>,
    /// Provider of the latest answer.
    pub model_provider: Option<String>,
    /// Model of the latest answer.
    pub model: Option<String>,
    /// Prompt tokens of the live generation, summed.
    pub input_tokens: u64,
    /// Completion tokens of the live generation, summed.
    pub output_tokens: u64,
    /// Prompt-side size of the latest call, in tokens.
    pub total_tokens: u64,
    /// Messages in the live generation.
    pub message_count: u32,
    /// The generation that was live before the present one.
    pub previous_generation: Option<GenerationId>,
    /// When the session was archived.
    pub archived_at: Option<UnixMillis>,
    /// When the session was pinned.
    pub pinned_at: Option<UnixMillis>,
}
