//! Commits: sealed here, on the caller's side; [`apply`] writes the result on the writer's.

mod apply;

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use watertight_core::ids::{GenerationId, GenerationNo, Lifecycle, Seq, UnixMillis};
use watertight_core::run::RunState;
use watertight_core::session::{SessionColumns, SessionMeta};
use watertight_core::transcript::Entry;
use watertight_seal::chain::End;
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::DataKey;

use self::apply::{Applied, Birth, Closing, EntryRow, GenerationRow, HeadCheck, HeadRow, MetaRow, Prepared, RunWrite};
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
            let session = site.find(conn, vault)?.ok_or(StoreError::Integrity("session of a generation"))?;
            let ending = rows::ending(conn, &keys, &session, no)?.ok_or(StoreError::Integrity("generation end"))?;
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

/// What a commit becomes once it is applied.
pub(super) struct Pending {
    site: Site,
    generation: GenerationId,
    generation_no: GenerationNo,
    lifecycle: Lifecycle,
    head: Head,
    entries: Vec<Entry>,
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

/// Whether the commit may be the one that writes the session's row.
pub(super) fn is_birth(site: &Site, lease: Lease, head: &Head) -> bool {
    site.draft && lease.epoch == FIRST_LEASE && head.seq == Seq(0)
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
    let birth = if is_birth(&site, lease, head) {
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
    let meta = batch.meta.as_ref().map(|meta| meta_row(&keys, key, meta)).transpose()?;

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
        meta: meta_row(keys, key, meta.unwrap_or(&SessionMeta::default()))?,
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

fn meta_row(keys: &TenantKeys, key: &DataKey, meta: &SessionMeta) -> Result<MetaRow, StoreError> {
    let (archived, pinned) = (meta.archived_at.is_some(), meta.pinned_at.is_some());
    let sealed = rows::seal_json(key, &rows::meta_place(&[u8::from(archived), u8::from(pinned)]), meta)?;
    let label_hash = meta.label.as_deref().map(|label| keys.label_hash(label));
    Ok(MetaRow { sealed, label_hash, archived, pinned })
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
        RunChange::Begun { id, at } => RunWrite::Begun { hash: keys.run_hash(site.principal, &id), at: at.0 },
        RunChange::Progress { id, state } => {
            RunWrite::Progress { hash: keys.run_hash(site.principal, &id), state: state as u8 }
        }
        RunChange::Restarted { id } => RunWrite::Restarted { hash: keys.run_hash(site.principal, &id) },
        RunChange::End { id, outcome } => {
            let hash = keys.run_hash(site.principal, &id);
            let sealed = rows::seal_json(key, &rows::outcome_place(&hash), &outcome)?;
            RunWrite::End { hash, how: rows::how(&outcome), outcome: sealed }
        }
    })
}
