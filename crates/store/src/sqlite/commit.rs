//! Commits: sealed on the caller's side, applied by the writer, checked inside the statement.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use watertight_core::ids::{GenerationId, GenerationNo, Lifecycle, PrincipalId, Seq, UnixMillis};
use watertight_core::run::RunState;
use watertight_core::session::{SessionColumns, SessionMeta};
use watertight_core::transcript::Entry;
use watertight_seal::chain::End;
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::DataKey;

use super::fault::{self, Fault};
use super::rows::{self, Ending, RunRequest};
use super::session::{FIRST_LEASE, Site};
use super::vault::{FIRST_KEY, Vault};
use crate::StoreError;
use crate::model::{Batch, Committed, Head, Lease, RunChange};

/// Which generation a commit writes to.
pub(super) struct Target {
    id: GenerationId,
    no: GenerationNo,
    /// Where the generation ends so far.
    ending: Ending,
    /// How it differs from the live one.
    change: Change,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// It is the live one.
    Stay,
    /// An older one becomes live again.
    Back,
    /// A new one becomes live.
    New,
}

impl Target {
    /// The live generation.
    pub(super) fn live(site: &Site, head: &Head) -> Self {
        Self {
            id: site.generation.clone(),
            no: site.generation_no,
            ending: Ending { message_seq: head.message_seq, leaf: head.leaf },
            change: Change::Stay,
        }
    }

    /// The generation of this id, existing or to be made. What is read here is checked by the write: no generation
    /// changes without the session's head or life changing.
    pub(super) fn named(conn: &Connection, vault: &Vault, site: &Site, to: &GenerationId) -> Result<Self, StoreError> {
        let keys = vault.tenant(site.tenant)?;
        let found: Option<(u32, u32)> = conn
            .prepare_cached(
                "SELECT g.generation, s.generation FROM generations g
                 JOIN sessions s ON s.tenant = g.tenant AND s.session = g.session
                 WHERE g.tenant = ?1 AND g.session = ?2 AND g.id_hash = ?3",
            )?
            .query_row(params![site.tenant.as_bytes(), site.session.as_bytes(), keys.generation_hash(to)], |row| {
                row.try_into()
            })
            .optional()?;
        if let Some((no, live)) = found {
            if no == live {
                // Live in the row but not in the scope: the session moved on.
                return Err(StoreError::SessionChanged);
            }
            let ending = rows::ending(conn, &keys, site.session, no)?.ok_or(StoreError::Integrity("generation end"))?;
            return Ok(Self { id: to.clone(), no: GenerationNo(no), ending, change: Change::Back });
        }
        let last: Option<u32> = conn
            .prepare_cached("SELECT max(generation) FROM generations WHERE tenant = ?1 AND session = ?2")?
            .query_row(params![site.tenant.as_bytes(), site.session.as_bytes()], |row| row.get(0))?;
        // A draft's first generation has no row yet.
        let last = last.unwrap_or(site.generation_no.0);
        let no = GenerationNo(last.checked_add(1).ok_or(StoreError::Integrity("generation number"))?);
        let ending = Ending { message_seq: 0, leaf: None };
        Ok(Self { id: to.clone(), no, ending, change: Change::New })
    }

    /// The data key of the generation, if no keystore access is needed to get it.
    pub(super) fn ready_key(&self, vault: &Vault, site: &Site) -> Option<Arc<DataKey>> {
        (self.change != Change::New).then(|| vault.cached(site.tenant, site.session, self.no.0)).flatten()
    }

    /// The data key of the generation; a new generation's is made and synced. Blocks.
    pub(super) fn load_key(&self, vault: &Vault, site: &Site) -> Result<Arc<DataKey>, StoreError> {
        match self.change {
            Change::New => vault.further_key(site.tenant, site.session, self.no.0),
            Change::Stay | Change::Back => vault.data_key(site.tenant, site.session, self.no.0),
        }
    }
}

/// What else a commit needs to know.
pub(super) struct Context<'a> {
    pub(super) vault: &'a Vault,
    pub(super) site: Site,
    pub(super) lease: Lease,
    pub(super) head: &'a Head,
    /// When the session was drafted, if it was drafted here.
    pub(super) drafted_at: Option<UnixMillis>,
}

/// A commit with everything sealed, ready for the writer.
pub(super) struct Prepared {
    site: Site,
    lease: Lease,
    before: HeadCheck,
    after: HeadRow,
    at: UnixMillis,
    /// The row of a session that may have none yet.
    birth: Option<Birth>,
    closing: Option<Closing>,
    opening: Option<GenerationRow>,
    entries: Vec<EntryRow>,
    runs: Vec<RunWrite>,
    meta: Option<MetaRow>,
}

struct HeadCheck {
    seq: u64,
    chain: [u8; 32],
}

struct HeadRow {
    lifecycle: u32,
    generation: u32,
    seq: u64,
    chain: [u8; 32],
    message_seq: u32,
    leaf: Option<[u8; 16]>,
    mac: [u8; 32],
}

struct Birth {
    key_hash: [u8; 32],
    key: Vec<u8>,
    agent_tag: i64,
    sentinel: bool,
    owner: PrincipalId,
    created_at: i64,
    prefixes: Vec<[u8; 32]>,
    first: GenerationRow,
    meta: MetaRow,
}

struct MetaRow {
    sealed: Vec<u8>,
    archived: bool,
    pinned: bool,
}

struct GenerationRow {
    no: u32,
    id_hash: [u8; 32],
    id: Vec<u8>,
}

struct Closing {
    generation: u32,
    lifecycle: u32,
    ending: Ending,
    mac: [u8; 32],
}

struct EntryRow {
    seq: u64,
    message_seq: u32,
    entry: [u8; 16],
    role: u8,
    body: Vec<u8>,
    chain: [u8; 32],
}

enum RunWrite {
    Accept { hash: [u8; 32], input: [u8; 16], request: Vec<u8> },
    Progress { hash: [u8; 32], state: u8, started: bool },
    End { hash: [u8; 32], how: &'static str, outcome: Vec<u8> },
}

/// What a commit becomes once it is applied.
pub(super) struct Pending {
    site: Site,
    generation: GenerationId,
    generation_no: GenerationNo,
    lifecycle: Lifecycle,
    head: Head,
    entries: Vec<Entry>,
}

/// What only the row knows.
pub(super) struct Applied {
    owner: PrincipalId,
    created_at: UnixMillis,
}

impl Pending {
    /// The answer to the caller.
    pub(super) fn committed(self, applied: Applied) -> Committed {
        let record = rows::session_record(SessionColumns {
            tenant: self.site.tenant,
            id: self.site.session,
            key: self.site.key,
            owner: applied.owner,
            generation: self.generation,
            generation_no: self.generation_no,
            lifecycle: self.lifecycle,
            created_at: applied.created_at,
            draft: false,
        });
        Committed { record, head: self.head, entries: self.entries }
    }
}

/// Seals a batch for its target and works out where the session ends after it.
pub(super) fn prepare(
    context: Context<'_>,
    target: Target,
    key: &DataKey,
    batch: Batch,
) -> Result<(Prepared, Pending), StoreError> {
    let Context { vault, site, lease, head, drafted_at } = context;
    let keys = vault.tenant(site.tenant)?;
    let chain = keys.chain(site.session);
    let at = batch.at;
    let lifecycle = match target.change {
        Change::Stay => site.lifecycle,
        Change::Back | Change::New => {
            Lifecycle(site.lifecycle.0.checked_add(1).ok_or(StoreError::Integrity("lifecycle"))?)
        }
    };

    let mut end =
        Head { seq: head.seq, chain: head.chain, message_seq: target.ending.message_seq, leaf: target.ending.leaf };
    let (mut entries, mut entry_rows) = (Vec::new(), Vec::new());
    for new in batch.entries {
        let mut body = new.body;
        body.parent = body.parent.or(end.leaf);
        end.seq = end.seq.next();
        end.message_seq = end.message_seq.checked_add(1).ok_or(StoreError::Integrity("message number"))?;
        end.leaf = Some(new.id);
        let role = rows::role(body.message.role());
        let row = rows::entry_row(new.id, end.message_seq, at.0);
        let place = rows::entry_place(&row, lifecycle.0, target.no.0, end.seq.0, role);
        let sealed = rows::seal_json(key, &place, &body)?;
        end.chain = chain.link(&end.chain, end.seq.0, &sealed);
        entry_rows.push(EntryRow {
            seq: end.seq.0,
            message_seq: end.message_seq,
            entry: *new.id.as_bytes(),
            role,
            body: sealed,
            chain: end.chain,
        });
        entries.push(Entry { id: new.id, seq: end.seq, generation: target.no, message_seq: end.message_seq, at, body });
    }

    let after = HeadRow {
        lifecycle: lifecycle.0,
        generation: target.no.0,
        seq: end.seq.0,
        chain: end.chain,
        message_seq: end.message_seq,
        leaf: end.leaf.map(|id| *id.as_bytes()),
        mac: chain.head_mac(&End {
            lifecycle: lifecycle.0,
            generation: target.no.0,
            seq: end.seq.0,
            chain: &end.chain,
            message_seq: end.message_seq,
            leaf: end.leaf,
        }),
    };
    let closing = (target.change != Change::Stay).then(|| {
        let ending = Ending { message_seq: head.message_seq, leaf: head.leaf };
        let generation = site.generation_no.0;
        let mac = rows::closing_mac(&chain, lifecycle.0, generation, ending);
        Closing { generation, lifecycle: lifecycle.0, ending, mac }
    });
    let opening =
        if target.change == Change::New { Some(generation_row(&keys, key, target.no, &target.id)?) } else { None };
    let birth = if site.draft && lease.epoch == FIRST_LEASE && head.seq == Seq(0) {
        // The key text and the first generation's id are sealed with the first key, whatever the batch switches to.
        let first_key = if key.key_gen() == FIRST_KEY {
            None
        } else {
            Some(vault.data_key(site.tenant, site.session, FIRST_KEY)?)
        };
        let first_key = first_key.as_deref().unwrap_or(key);
        Some(birth(&keys, first_key, &site, drafted_at.unwrap_or(at), batch.meta.as_ref())?)
    } else {
        None
    };
    let runs = batch
        .runs
        .into_iter()
        .map(|change| run_write(&keys, key, &site, target.no.0, at, change))
        .collect::<Result<_, _>>()?;
    let meta = batch.meta.as_ref().map(|meta| meta_row(key, meta)).transpose()?;

    let pending =
        Pending { site: site.clone(), generation: target.id, generation_no: target.no, lifecycle, head: end, entries };
    let prepared = Prepared {
        lease,
        before: HeadCheck { seq: head.seq.0, chain: head.chain },
        after,
        at,
        birth,
        closing,
        opening,
        entries: entry_rows,
        runs,
        meta,
        site,
    };
    Ok((prepared, pending))
}

fn birth(
    keys: &TenantKeys,
    key: &DataKey,
    site: &Site,
    created_at: UnixMillis,
    meta: Option<&SessionMeta>,
) -> Result<Birth, StoreError> {
    let key_hash = keys.key_hash(&site.key);
    let row = rows::key_row(&key_hash, site.principal, created_at.0);
    let segments: Vec<&str> = site.key.segments().collect();
    let prefixes = (1..=segments.len()).map(|n| keys.prefix_hash(segments[..n].iter().copied())).collect();
    Ok(Birth {
        key_hash,
        key: key.seal(&rows::key_place(&row), site.key.as_str().as_bytes())?,
        agent_tag: site.key.agent().map_or(0, |agent| agent_tag(keys, agent)),
        sentinel: site.key.is_sentinel(),
        owner: site.principal,
        created_at: created_at.0,
        prefixes,
        first: generation_row(keys, key, site.generation_no, &site.generation)?,
        meta: meta_row(key, meta.unwrap_or(&SessionMeta::default()))?,
    })
}

/// 64 bits of the keyed hash of an agent's prefix: enough to find its sessions, which say themselves whose they are.
pub(super) fn agent_tag(keys: &TenantKeys, agent: &str) -> i64 {
    let hash = keys.prefix_hash(["agent", agent]);
    i64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}

fn generation_row(
    keys: &TenantKeys,
    key: &DataKey,
    no: GenerationNo,
    id: &GenerationId,
) -> Result<GenerationRow, StoreError> {
    let id_hash = keys.generation_hash(id);
    let sealed = key.seal(&rows::generation_place(no.0, &id_hash), id.as_str().as_bytes())?;
    Ok(GenerationRow { no: no.0, id_hash, id: sealed })
}

fn meta_row(key: &DataKey, meta: &SessionMeta) -> Result<MetaRow, StoreError> {
    let (archived, pinned) = (meta.archived_at.is_some(), meta.pinned_at.is_some());
    let sealed = rows::seal_json(key, &rows::meta_place(&[u8::from(archived), u8::from(pinned)]), meta)?;
    Ok(MetaRow { sealed, archived, pinned })
}

fn run_write(
    keys: &TenantKeys,
    key: &DataKey,
    site: &Site,
    generation: u32,
    at: UnixMillis,
    change: RunChange,
) -> Result<RunWrite, StoreError> {
    Ok(match change {
        RunChange::Accept { id, digest, input, options } => {
            let hash = keys.run_hash(site.principal, &id);
            let row = rows::run_row(site.principal, &hash, input, at.0);
            let request = RunRequest { id, digest, options };
            RunWrite::Accept {
                hash,
                input: *input.as_bytes(),
                request: rows::seal_json(key, &rows::request_place(&row, generation), &request)?,
            }
        }
        // An end needs its outcome.
        RunChange::Progress { state: RunState::Ended, .. } => return Err(StoreError::NotPermitted),
        RunChange::Progress { id, state } => RunWrite::Progress {
            hash: keys.run_hash(site.principal, &id),
            state: state as u8,
            started: state >= RunState::Claimed,
        },
        RunChange::End { id, outcome } => {
            let hash = keys.run_hash(site.principal, &id);
            let sealed = rows::seal_json(key, &rows::outcome_place(&hash), &outcome)?;
            RunWrite::End { hash, how: rows::how(&outcome), outcome: sealed }
        }
    })
}

impl Prepared {
    /// Applies the commit; runs on the writer, inside its savepoint.
    pub(super) fn apply(&self, conn: &Connection) -> Result<Applied, Fault> {
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
                     archived, pinned, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
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
                     meta = coalesce(?9, meta), archived = coalesce(?10, archived), pinned = coalesce(?11, pinned)
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
                    self.before.chain
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
                             accepted_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8)",
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
            RunWrite::Progress { hash, state, started } => {
                let started = started.then_some(self.at.0);
                let updated = conn
                    .prepare_cached(
                        "UPDATE runs SET state = ?1, started_at = coalesce(started_at, ?2)
                         WHERE tenant = ?3 AND principal = ?4 AND run_hash = ?5 AND session = ?6 AND state < 6",
                    )?
                    .execute(params![state, started, tenant, principal, hash, session])?;
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
