//! What goes into and comes out of a [`Store`](crate::Store).

use watertight_core::grant::Grants;
use watertight_core::ids::{
    AuthEpoch, EntryId, GenerationId, GenerationNo, LeaseEpoch, RunId, Seq, SessionId, UnixMillis,
};
use watertight_core::key::{AgentId, CanonicalKey};
use watertight_core::principal::Principal;
use watertight_core::run::{RunOptions, RunOutcome, RunRecord, RunState};
use watertight_core::session::{SessionMeta, SessionRecord};
use watertight_core::transcript::{Entry, EntryBody};

use crate::StoreError;

/// Where a session's total order ends. The next write names it and fails if the session has moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Last entry of the session; 0 when there is none.
    pub seq: Seq,
    /// Chain hash over every entry up to `seq` (isolation.md §2.8).
    pub chain: [u8; 32],
    /// Messages in the live generation.
    pub message_seq: u32,
    /// Last entry of the live generation.
    pub leaf: Option<EntryId>,
}

/// The right to write one session, until somebody else takes the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Checked inside every write.
    pub epoch: LeaseEpoch,
}

/// A session opened for writing.
#[derive(Clone, Debug)]
pub struct OpenSession {
    /// Its row now.
    pub record: SessionRecord,
    /// Its description now.
    pub meta: SessionMeta,
    /// The right to write it.
    pub lease: Lease,
    /// Where it ends.
    pub head: Head,
}

/// One atomic write to a session. Applied in this order, in one synced transaction, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// When.
    pub at: UnixMillis,
    /// Make another generation live first.
    pub switch: Option<Switch>,
    /// Entries to append to the live generation.
    pub entries: Vec<NewEntry>,
    /// Runs to accept or move on. Run ids are names under the scope's tenant and principal.
    pub runs: Vec<RunChange>,
    /// The new description, where it changes.
    pub meta: Option<SessionMeta>,
}

/// Makes a generation live: an existing one of this session, or a new one with this id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The wanted generation.
    pub to: GenerationId,
}

/// An entry to append. Its seq, message seq and parent follow from the head.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Random id.
    pub id: EntryId,
    /// What it says. A missing `parent` is filled with the leaf it lands on.
    pub body: EntryBody,
}

/// A change to a run.
#[derive(Clone, Debug)]
pub enum RunChange {
    /// A new run; refused with [`StoreError::RunExists`](crate::StoreError::RunExists) when the principal has one of this id.
    Accept {
        /// The client's name for it.
        id: RunId,
        /// Digest of method, session and content.
        digest: [u8; 32],
        /// The entry that holds its input.
        input: EntryId,
        /// What the caller asked for.
        options: RunOptions,
    },
    /// When the run was claimed. Costs no write of its own: it goes with the first thing the run stores.
    Begun {
        /// Which run.
        id: RunId,
        /// When.
        at: UnixMillis,
    },
    /// The run has come this far.
    Progress {
        /// Which run.
        id: RunId,
        /// How far.
        state: RunState,
    },
    /// A later process takes the run up anew: its count of restarts grows by one.
    Restarted {
        /// Which run.
        id: RunId,
    },
    /// The run is over. A run that is over already stays as it ended.
    End {
        /// Which run.
        id: RunId,
        /// How it ended.
        outcome: RunOutcome,
    },
}

/// What a [`Batch`] became.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The session's row after it.
    pub record: SessionRecord,
    /// Where the session ends after it.
    pub head: Head,
    /// The appended entries with their places.
    pub entries: Vec<Entry>,
}

/// Which entries of one generation to read; the answer is always oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryRange {
    /// The last `limit` entries, leaving out the `skip` newest.
    Tail {
        /// How many at the most.
        limit: u32,
        /// How many of the newest to leave out.
        skip: u32,
    },
    /// The last `limit` entries below a message number. Pages that each go on below the oldest one seen neither repeat
    /// nor skip an entry while the session is written.
    Before {
        /// Exclusive upper bound, as [`Entry::message_seq`] counts.
        before: u32,
        /// How many at the most.
        limit: u32,
    },
    /// Up to `limit` entries after `after`.
    After {
        /// Exclusive lower bound.
        after: Seq,
        /// How many at the most.
        limit: u32,
    },
}

/// One generation of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its ordinal.
    pub no: GenerationNo,
    /// Its wire name.
    pub id: GenerationId,
    /// When it began.
    pub created_at: UnixMillis,
}

/// A session in a list or a description.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// Its row.
    pub record: SessionRecord,
    /// Its description.
    pub meta: SessionMeta,
    /// Last write, to the millisecond.
    pub updated_at: UnixMillis,
}

/// What to list. Everything is met with the caller's grants.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// When, for grants that expire.
    pub now: UnixMillis,
    /// Only this agent's sessions.
    pub agent: Option<AgentId>,
    /// Only sessions written since then.
    pub active_since: Option<UnixMillis>,
    /// Only sessions whose key, label, display name or title contains this, ignoring case.
    pub search: Option<String>,
    /// Only the session with exactly this label.
    pub label: Option<String>,
    /// Archived sessions: none, only, or all.
    pub archived: Archived,
    /// Whether the sentinels `global` and `unknown` are listed.
    pub sentinels: bool,
    /// Rows at the most, from 1.
    pub limit: u32,
    /// Rows to leave out first.
    pub offset: u32,
}

/// How a list treats archived sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Archived {
    /// Leave them out.
    #[default]
    Exclude,
    /// Only them.
    Only,
    /// Both.
    Include,
}

/// One page of a list: pinned sessions first, then the latest written first.
#[derive(Clone, Debug)]
pub struct SessionPage {
    /// The rows.
    pub rows: Vec<SessionRow>,
    /// How many sessions match in all.
    pub total: u64,
}

/// A session that holds a wanted generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationHit {
    /// The session's key.
    pub key: CanonicalKey,
    /// Whether the generation is the live one.
    pub live: bool,
    /// When the session was last written.
    pub updated_at: UnixMillis,
}

/// What the first start of a tenant writes.
#[derive(Debug)]
pub struct NewTenant<'a> {
    /// Its name in the configuration.
    pub name: &'a str,
    /// The operator's token, to be stored hashed.
    pub operator_token: &'a watertight_seal::token::Token,
    /// When.
    pub now: UnixMillis,
}

/// A tenant and its operator, as bootstrap finds or makes them.
#[derive(Clone, Debug)]
pub struct TenantRow {
    /// The tenant's name in the configuration.
    pub name: String,
    /// Its operator; carries the tenant id.
    pub operator: Principal,
    /// The operator's present epoch.
    pub auth_epoch: AuthEpoch,
}

/// What a former process left unfinished in one session.
#[derive(Clone, Debug, Default)]
pub struct OpenRuns {
    /// Runs that can be taken up, in the order of their inputs.
    pub runs: Vec<OpenRun>,
    /// Runs that cannot: all there is to do is to end them.
    pub damaged: Vec<DamagedRun>,
}

/// An unfinished run with all that [`readmit`](watertight_core::scope::readmit) asks for.
#[derive(Clone, Debug)]
pub struct OpenRun {
    /// The run.
    pub run: RunRecord,
    /// Its session now.
    pub session: SessionRecord,
    /// Whose it is.
    pub principal: Principal,
    /// The principal's present epoch.
    pub auth_epoch: AuthEpoch,
    /// What the principal may do now.
    pub grants: Grants,
}

/// An unfinished run of which something it needs does not open, so that it can be neither read nor taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRun {
    /// Its session.
    pub session: SessionId,
    /// What is wrong; holds no stored content.
    pub fault: StoreError,
    /// What its row is named by, right or wrong.
    pub(crate) principal: Vec<u8>,
    pub(crate) hash: Vec<u8>,
}
