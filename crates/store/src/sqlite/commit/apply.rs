//! A sealed commit becomes rows; runs on the writer. Every statement names the tenant, and the one that moves the head
//! checks lease, life and head (isolation.md C6).

use rusqlite::{Connection, OptionalExtension, params};
use watertight_core::ids::{PrincipalId, UnixMillis};

use crate::StoreError;
use crate::model::Lease;
use crate::sqlite::fault::{self, Fault};
use crate::sqlite::rows::Ending;
use crate::sqlite::session::{FIRST_LEASE, Site};

/// A commit with everything sealed, ready for the writer.
pub(in crate::sqlite) struct Prepared {
    pub(super) site: Site,
    pub(super) lease: Lease,
    pub(super) before: HeadCheck,
    pub(super) after: HeadRow,
    pub(super) at: UnixMillis,
    /// The row of a session that may have none yet.
    pub(super) birth: Option<Birth>,
    pub(super) closing: Option<Closing>,
    pub(super) opening: Option<GenerationRow>,
    pub(super) entries: Vec<EntryRow>,
    pub(super) runs: Vec<RunWrite>,
    pub(super) meta: Option<MetaRow>,
}

pub(super) struct HeadCheck {
    pub(super) seq: u64,
    pub(super) chain: [u8; 32],
}

pub(super) struct HeadRow {
    pub(super) lifecycle: u32,
    pub(super) generation: u32,
    pub(super) seq: u64,
    pub(super) chain: [u8; 32],
    pub(super) message_seq: u32,
    pub(super) leaf: Option<[u8; 16]>,
    pub(super) mac: [u8; 32],
}

pub(super) struct Birth {
    pub(super) key_hash: [u8; 32],
    pub(super) key: Vec<u8>,
    pub(super) agent_tag: i64,
    pub(super) sentinel: bool,
    pub(super) owner: PrincipalId,
    pub(super) created_at: i64,
    pub(super) prefixes: Vec<[u8; 32]>,
    pub(super) first: GenerationRow,
    pub(super) meta: MetaRow,
}

pub(super) struct MetaRow {
    pub(super) sealed: Vec<u8>,
    pub(super) label_hash: Option<[u8; 32]>,
    pub(super) archived: bool,
    pub(super) pinned: bool,
}

pub(super) struct GenerationRow {
    pub(super) no: u32,
    pub(super) id_hash: [u8; 32],
    pub(super) id: Vec<u8>,
}

pub(super) struct Closing {
    pub(super) generation: u32,
    pub(super) lifecycle: u32,
    pub(super) ending: Ending,
    pub(super) mac: [u8; 32],
}

pub(super) struct EntryRow {
    pub(super) seq: u64,
    pub(super) message_seq: u32,
    pub(super) entry: [u8; 16],
    pub(super) role: u8,
    pub(super) body: Vec<u8>,
    pub(super) chain: [u8; 32],
}

pub(super) enum RunWrite {
    Accept { hash: [u8; 32], input: [u8; 16], request: Vec<u8> },
    Begun { hash: [u8; 32], at: i64 },
    Progress { hash: [u8; 32], state: u8 },
    Restarted { hash: [u8; 32] },
    End { hash: [u8; 32], how: &'static str, outcome: Vec<u8> },
}

/// What only the row knows.
pub(in crate::sqlite) struct Applied {
    pub(super) owner: PrincipalId,
    pub(super) created_at: UnixMillis,
}

impl Prepared {
    /// Applies the commit; runs on the writer, inside its savepoint.
    pub(in crate::sqlite) fn apply(&self, conn: &Connection) -> Result<Applied, Fault> {
        let born = match &self.birth {
            Some(birth) => self.insert_session(conn, birth)?,
            None => None,
        };
        let applied = match born {
            Some(applied) => applied,
            None => self.update_session(conn)?,
        };
        self.write_generations(conn)?;
        self.insert_entries(conn)?;
        self.runs.iter().try_for_each(|run| self.write_run(conn, run))?;
        Ok(applied)
    }

    /// Writes the session's row; none when it is there already.
    fn insert_session(&self, conn: &Connection, birth: &Birth) -> Result<Option<Applied>, Fault> {
        let (tenant, session) = (self.site.tenant.as_bytes(), self.site.session.as_bytes());
        let exists: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant = ?1 AND session = ?2)")?
            .query_row((tenant, session), |row| row.get(0))?;
        if exists {
            return Ok(None);
        }
        let meta = self.meta.as_ref().unwrap_or(&birth.meta);
        let after = &self.after;
        let inserted = conn
            .prepare_cached(
                "INSERT INTO sessions (tenant, session, key_hash, key, agent_tag, sentinel, owner, lifecycle,
                     generation, lease_epoch, head_seq, head_chain, head_message_seq, head_leaf, head_mac, meta,
                     label_hash, archived, pinned, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
                     ?21)",
            )?
            .execute(params![
                tenant,
                session,
                birth.key_hash,
                birth.key,
                birth.agent_tag,
                birth.sentinel,
                birth.owner.as_bytes(),
                after.lifecycle,
                after.generation,
                FIRST_LEASE.0 as i64,
                after.seq as i64,
                after.chain,
                after.message_seq,
                after.leaf,
                after.mac,
                meta.sealed,
                meta.label_hash,
                meta.archived,
                meta.pinned,
                birth.created_at,
                self.at.0
            ]);
        match inserted {
            Err(error) if fault::is_duplicate(&error) => return Err(StoreError::KeyTaken.into()),
            other => other?,
        };
        let mut insert =
            conn.prepare_cached("INSERT INTO session_prefixes (tenant, prefix_hash, session) VALUES (?1, ?2, ?3)")?;
        for prefix in &birth.prefixes {
            insert.execute((tenant, prefix, session))?;
        }
        self.insert_generation(conn, &birth.first, birth.created_at)?;
        Ok(Some(Applied { owner: birth.owner, created_at: UnixMillis(birth.created_at) }))
    }

    /// Moves the session's head, if the writer still holds the lease and the session is as the writer knows it (C6).
    fn update_session(&self, conn: &Connection) -> Result<Applied, Fault> {
        let (tenant, session) = (self.site.tenant.as_bytes(), self.site.session.as_bytes());
        let (after, meta) = (&self.after, self.meta.as_ref());
        let updated = conn
            .prepare_cached(
                "UPDATE sessions SET lifecycle = ?1, generation = ?2, head_seq = ?3, head_chain = ?4,
                     head_message_seq = ?5, head_leaf = ?6, head_mac = ?7, updated_at = ?8,
                     meta = coalesce(?9, meta), archived = coalesce(?10, archived), pinned = coalesce(?11, pinned),
                     label_hash = iif(?9 IS NULL, label_hash, ?18)
                 WHERE tenant = ?12 AND session = ?13 AND lease_epoch = ?14 AND lifecycle = ?15
                     AND head_seq = ?16 AND head_chain = ?17
                 RETURNING owner, created_at",
            )?
            .query_row(
                params![
                    after.lifecycle,
                    after.generation,
                    after.seq as i64,
                    after.chain,
                    after.message_seq,
                    after.leaf,
                    after.mac,
                    self.at.0,
                    meta.map(|meta| &meta.sealed),
                    meta.map(|meta| meta.archived),
                    meta.map(|meta| meta.pinned),
                    tenant,
                    session,
                    self.lease.epoch.0 as i64,
                    self.site.lifecycle.0,
                    self.before.seq as i64,
                    self.before.chain,
                    meta.and_then(|meta| meta.label_hash)
                ],
                |row| Ok(Applied { owner: PrincipalId::from_bytes(row.get(0)?), created_at: UnixMillis(row.get(1)?) }),
            )
            .optional()?;
        if let Some(applied) = updated {
            return Ok(applied);
        }
        let epoch: Option<i64> = conn
            .prepare_cached("SELECT lease_epoch FROM sessions WHERE tenant = ?1 AND session = ?2")?
            .query_row((tenant, session), |row| row.get(0))
            .optional()?;
        match epoch {
            Some(epoch) if epoch != self.lease.epoch.0 as i64 => Err(StoreError::StaleLease.into()),
            _ => Err(StoreError::SessionChanged.into()),
        }
    }

    fn write_generations(&self, conn: &Connection) -> Result<(), Fault> {
        let (tenant, session) = (self.site.tenant.as_bytes(), self.site.session.as_bytes());
        if let Some(closing) = &self.closing {
            conn.prepare_cached(
                "UPDATE generations SET end_lifecycle = ?1, end_message_seq = ?2, end_leaf = ?3, end_mac = ?4
                 WHERE tenant = ?5 AND session = ?6 AND generation = ?7",
            )?
            .execute(params![
                closing.lifecycle,
                closing.ending.message_seq,
                closing.ending.leaf.map(|id| *id.as_bytes()),
                closing.mac,
                tenant,
                session,
                closing.generation
            ])?;
        }
        match &self.opening {
            Some(opening) => self.insert_generation(conn, opening, self.at.0),
            None => Ok(()),
        }
    }

    fn insert_generation(&self, conn: &Connection, row: &GenerationRow, created_at: i64) -> Result<(), Fault> {
        conn.prepare_cached(
            "INSERT INTO generations (tenant, session, generation, id_hash, id, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            self.site.tenant.as_bytes(),
            self.site.session.as_bytes(),
            row.no,
            row.id_hash,
            row.id,
            created_at
        ])?;
        Ok(())
    }

    fn insert_entries(&self, conn: &Connection) -> Result<(), Fault> {
        let mut insert = conn.prepare_cached(
            "INSERT INTO entries (tenant, session, seq, generation, message_seq, entry, lifecycle, role, at, body, chain)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        for entry in &self.entries {
            insert.execute(params![
                self.site.tenant.as_bytes(),
                self.site.session.as_bytes(),
                entry.seq as i64,
                self.after.generation,
                entry.message_seq,
                entry.entry,
                self.after.lifecycle,
                entry.role,
                self.at.0,
                entry.body,
                entry.chain
            ])?;
        }
        Ok(())
    }

    fn write_run(&self, conn: &Connection, run: &RunWrite) -> Result<(), Fault> {
        let (tenant, principal) = (self.site.tenant.as_bytes(), self.site.principal.as_bytes());
        let session = self.site.session.as_bytes();
        let (hash, updated) = match run {
            RunWrite::Accept { hash, input, request } => {
                let inserted = conn
                    .prepare_cached(
                        "INSERT INTO runs (tenant, principal, run_hash, session, generation, input, state, request,
                             accepted_at, restarts)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, 0)",
                    )?
                    .execute(params![
                        tenant,
                        principal,
                        hash,
                        session,
                        self.after.generation,
                        input,
                        request,
                        self.at.0
                    ]);
                return match inserted {
                    Err(error) if fault::is_duplicate(&error) => Err(StoreError::RunExists.into()),
                    other => Ok(other.map(drop)?),
                };
            }
            RunWrite::Begun { hash, at } => {
                let updated = conn
                    .prepare_cached(
                        "UPDATE runs SET started_at = coalesce(started_at, ?1), state = max(state, 2)
                         WHERE tenant = ?2 AND principal = ?3 AND run_hash = ?4 AND session = ?5 AND state < 6",
                    )?
                    .execute(params![at, tenant, principal, hash, session])?;
                (hash, updated)
            }
            RunWrite::Progress { hash, state } => {
                let updated = conn
                    .prepare_cached(
                        "UPDATE runs SET state = ?1
                         WHERE tenant = ?2 AND principal = ?3 AND run_hash = ?4 AND session = ?5 AND state < 6",
                    )?
                    .execute(params![state, tenant, principal, hash, session])?;
                (hash, updated)
            }
            RunWrite::Restarted { hash } => {
                let updated = conn
                    .prepare_cached(
                        "UPDATE runs SET restarts = restarts + 1
                         WHERE tenant = ?1 AND principal = ?2 AND run_hash = ?3 AND session = ?4 AND state < 6",
                    )?
                    .execute(params![tenant, principal, hash, session])?;
                (hash, updated)
            }
            RunWrite::End { hash, how, outcome } => {
                let updated = conn
                    .prepare_cached(
                        "UPDATE runs SET state = 6, how = ?1, outcome = ?2, ended_at = ?3
                         WHERE tenant = ?4 AND principal = ?5 AND run_hash = ?6 AND session = ?7 AND state < 6",
                    )?
                    .execute(params![how, outcome, self.at.0, tenant, principal, hash, session])?;
                (hash, updated)
            }
        };
        if updated == 1 {
            return Ok(());
        }
        // A run that is over stays as it ended; one that was never accepted here is nobody's.
        let ended: bool = conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM runs
                 WHERE tenant = ?1 AND principal = ?2 AND run_hash = ?3 AND session = ?4)",
            )?
            .query_row((tenant, principal, hash, session), |row| row.get(0))?;
        if ended { Ok(()) } else { Err(StoreError::NotPermitted.into()) }
    }
}
