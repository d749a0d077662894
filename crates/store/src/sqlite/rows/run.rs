//! Runs.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use watertight_core::ids::{EntryId, GenerationNo, PrincipalId, RunId, SessionId, TenantId, UnixMillis};
use watertight_core::run::{RunColumns, RunOptions, RunOutcome, RunRecord, RunState};
use watertight_core::session::SessionRecord;
use watertight_seal::record::Place;

use super::RecordSite;
use crate::StoreError;
use crate::sqlite::vault::Vault;

/// The sealed part of a run that is fixed when it is accepted.
#[derive(Serialize, Deserialize)]
pub(in crate::sqlite) struct RunRequest {
    pub(in crate::sqlite) id: RunId,
    pub(in crate::sqlite) digest: [u8; 32],
    pub(in crate::sqlite) options: RunOptions,
}

/// The row name of a run: whose it is and the plain columns that are fixed when it is accepted.
pub(in crate::sqlite) fn run_row(
    principal: PrincipalId,
    run_hash: &[u8; 32],
    input: EntryId,
    accepted_at: i64,
) -> Vec<u8> {
    [&principal.as_bytes()[..], run_hash, input.as_bytes(), &accepted_at.to_le_bytes()].concat()
}

/// Where a run's request stands.
pub(in crate::sqlite) fn request_place(row: &[u8], generation: u32) -> Place<'_> {
    Place { lifecycle: 0, generation, table: "runs", column: "request", row, seq: 0, role: 0 }
}

/// Where a run's outcome stands; written without reading the run first, so bound to its name alone.
pub(in crate::sqlite) fn outcome_place(run_hash: &[u8; 32]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "runs", column: "outcome", row: run_hash, seq: 0, role: 0 }
}

/// How an outcome is called in the plain column; the rest of it is sealed.
pub(in crate::sqlite) fn how(outcome: &RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Completed { .. } => "completed",
        RunOutcome::Failed { .. } => "failed",
        RunOutcome::Aborted { .. } => "aborted",
        RunOutcome::TimedOut => "timed_out",
        RunOutcome::Interrupted => "interrupted",
    }
}

/// A run's row as it stands in the database.
pub(in crate::sqlite) struct RunRaw {
    pub(in crate::sqlite) principal: PrincipalId,
    pub(in crate::sqlite) run_hash: [u8; 32],
    pub(in crate::sqlite) session: SessionId,
    generation: u32,
    pub(in crate::sqlite) input: EntryId,
    state: u8,
    how: Option<String>,
    request: Vec<u8>,
    outcome: Option<Vec<u8>>,
    accepted_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    restarts: u32,
}

impl RunRaw {
    /// What to select of `runs`, for [`Self::read`].
    pub(in crate::sqlite) const COLUMNS: &str = "principal, run_hash, session, generation, input, state, how, request,
        outcome, accepted_at, started_at, ended_at, restarts";

    /// Reads [`Self::COLUMNS`].
    pub(in crate::sqlite) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            principal: PrincipalId::from_bytes(row.get(0)?),
            run_hash: row.get(1)?,
            session: SessionId::from_bytes(row.get(2)?),
            generation: row.get(3)?,
            input: EntryId::from_bytes(row.get(4)?),
            state: row.get(5)?,
            how: row.get(6)?,
            request: row.get(7)?,
            outcome: row.get(8)?,
            accepted_at: row.get(9)?,
            started_at: row.get(10)?,
            ended_at: row.get(11)?,
            restarts: row.get(12)?,
        })
    }

    /// The principal's run of this hash.
    pub(in crate::sqlite) fn find(
        conn: &Connection,
        tenant: TenantId,
        principal: PrincipalId,
        run_hash: &[u8; 32],
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!("SELECT {} FROM runs WHERE tenant = ?1 AND principal = ?2 AND run_hash = ?3", Self::COLUMNS);
        let key = params![tenant.as_bytes(), principal.as_bytes(), run_hash];
        Ok(conn.prepare_cached(&sql)?.query_row(key, Self::read).optional()?)
    }

    /// Opens and verifies the run of this session.
    pub(in crate::sqlite) fn open(&self, vault: &Vault, session: &SessionRecord) -> Result<RunRecord, StoreError> {
        if session.id() != self.session {
            return Err(StoreError::Integrity("session of a run"));
        }
        let keys = vault.tenant(session.tenant())?;
        let site = RecordSite { vault, tenant: session.tenant(), session: self.session };
        let row = run_row(self.principal, &self.run_hash, self.input, self.accepted_at);
        let request: RunRequest = site.json(&request_place(&row, self.generation), &self.request)?;
        if keys.run_hash(self.principal, &request.id) != self.run_hash {
            return Err(StoreError::Integrity("run id"));
        }
        let state = RunState::from_stored(self.state).ok_or(StoreError::Integrity("run state"))?;
        let outcome = match (&self.outcome, self.how.as_deref()) {
            (Some(sealed), plain) => {
                let outcome = site.json(&outcome_place(&self.run_hash), sealed)?;
                if plain != Some(how(&outcome)) {
                    return Err(StoreError::Integrity("run outcome"));
                }
                Some(outcome)
            }
            // The only end that is written without a key: of a run that a former process left open.
            (None, Some("interrupted")) => Some(RunOutcome::Interrupted),
            (None, None) => None,
            (None, Some(_)) => return Err(StoreError::Integrity("run outcome")),
        };
        if outcome.is_some() != (state == RunState::Ended) {
            return Err(StoreError::Integrity("run state"));
        }
        Ok(RunRecord::decode(RunColumns {
            id: request.id,
            principal: self.principal,
            session: self.session,
            key: session.key().as_str().to_owned(),
            generation: GenerationNo(self.generation),
            input: self.input,
            digest: request.digest,
            state,
            options: request.options,
            accepted_at: UnixMillis(self.accepted_at),
            started_at: self.started_at.map(UnixMillis),
            ended_at: self.ended_at.map(UnixMillis),
            outcome,
            restarts: self.restarts,
        }))
    }
}
