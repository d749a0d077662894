//! Session rows: looking one up, drafting one, opening one for writing.

use rusqlite::{Connection, OptionalExtension, params_from_iter};
use watertight_core::SessionScope;
use watertight_core::ids::{
    GenerationId, GenerationNo, LeaseEpoch, Lifecycle, PrincipalId, Seq, SessionId, TenantId, UnixMillis,
};
use watertight_core::key::CanonicalKey;
use watertight_core::session::{SessionColumns, SessionMeta, SessionRecord};
use watertight_seal::chain::{self, Chain};
use watertight_seal::keyring::TenantKeys;

use super::fault::Fault;
use super::list::{self, Reach};
use super::rows::{self, EntryRaw, RecordSite, Session, SessionRaw};
use super::vault::Vault;
use crate::StoreError;
use crate::model::{Generation, GenerationHit, Head, Lease, OpenSession, SessionRow};

/// The lease a session is born with; the first [`open`] of its row makes it 2.
pub(super) const FIRST_LEASE: LeaseEpoch = LeaseEpoch(1);
/// The first generation of a session.
pub(super) const FIRST_GENERATION: GenerationNo = GenerationNo(1);
/// The first life of a session.
pub(super) const FIRST_LIFE: Lifecycle = Lifecycle(1);
/// Sessions one generation id is looked for in, at the most.
const HITS: u32 = 256;

/// What a scope says, owned, for the threads that do the work.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) tenant: TenantId,
    pub(super) principal: PrincipalId,
    pub(super) session: SessionId,
    pub(super) key: CanonicalKey,
    pub(super) generation: GenerationId,
    pub(super) generation_no: GenerationNo,
    pub(super) lifecycle: Lifecycle,
    pub(super) draft: bool,
}

impl Site {
    pub(super) fn of(scope: &SessionScope) -> Self {
        Self {
            tenant: scope.tenant(),
            principal: scope.principal(),
            session: scope.session(),
            key: scope.key().clone(),
            generation: scope.generation().clone(),
            generation_no: scope.generation_no(),
            lifecycle: scope.lifecycle(),
            draft: scope.is_draft(),
        }
    }

    /// The session's record as it was drafted.
    pub(super) fn drafted(&self, created_at: UnixMillis) -> SessionRecord {
        rows::session_record(SessionColumns {
            tenant: self.tenant,
            id: self.session,
            key: self.key.clone(),
            owner: self.principal,
            generation: self.generation.clone(),
            generation_no: self.generation_no,
            lifecycle: self.lifecycle,
            created_at,
            draft: true,
        })
    }

    /// The session's row. A scope outlives its session only when the session was deleted: that reads like "missing".
    pub(super) fn find(&self, conn: &Connection, vault: &Vault) -> Result<Option<Session>, StoreError> {
        match SessionRaw::find(conn, self.tenant, self.session)? {
            Some(raw) => Ok(Some(raw.open(vault)?)),
            None if self.draft => Ok(None),
            None => Err(StoreError::NotPermitted),
        }
    }
}

/// Where a session without entries ends.
fn empty_head() -> Head {
    Head { seq: Seq(0), chain: chain::START, message_seq: 0, leaf: None }
}

/// The session of a key.
pub(super) fn find(
    conn: &Connection,
    vault: &Vault,
    tenant: TenantId,
    key: &CanonicalKey,
) -> Result<Option<SessionRecord>, StoreError> {
    let keys = vault.tenant(tenant)?;
    let sql =
        format!("SELECT {} FROM {} WHERE s.tenant = ?1 AND s.key_hash = ?2", SessionRaw::COLUMNS, SessionRaw::FROM);
    let raw =
        conn.prepare_cached(&sql)?.query_row((tenant.as_bytes(), keys.key_hash(key)), SessionRaw::read).optional()?;
    let Some(raw) = raw else { return Ok(None) };
    let record = raw.open(vault)?.record;
    if record.key() != key {
        return Err(StoreError::Integrity("session key"));
    }
    Ok(Some(record))
}

/// The session's row and description; of a draft, as drafted.
pub(super) fn describe(
    conn: &Connection,
    vault: &Vault,
    site: &Site,
    drafted_at: UnixMillis,
) -> Result<SessionRow, StoreError> {
    Ok(match site.find(conn, vault)? {
        Some(session) => SessionRow { record: session.record, meta: session.meta, updated_at: session.updated_at },
        None => SessionRow { record: site.drafted(drafted_at), meta: SessionMeta::default(), updated_at: drafted_at },
    })
}

/// Every generation of the session, oldest first; of a draft, its first.
pub(super) fn generations(
    conn: &Connection,
    vault: &Vault,
    site: &Site,
    drafted_at: UnixMillis,
) -> Result<Vec<Generation>, StoreError> {
    if site.find(conn, vault)?.is_none() {
        return Ok(vec![Generation { no: site.generation_no, id: site.generation.clone(), created_at: drafted_at }]);
    }
    rows::generations(conn, vault, site.tenant, site.session)
}

/// A draft opened for writing: nothing is stored yet.
pub(super) fn open_draft(site: &Site, drafted_at: UnixMillis) -> OpenSession {
    OpenSession {
        record: site.drafted(drafted_at),
        meta: SessionMeta::default(),
        lease: Lease { epoch: FIRST_LEASE },
        head: empty_head(),
    }
}

/// Takes the lease, whoever had it; runs on the writer. None when the session has no row.
pub(super) fn take_lease(conn: &Connection, tenant: TenantId, session: SessionId) -> Result<Option<Lease>, Fault> {
    let epoch = conn
        .prepare_cached(
            "UPDATE sessions SET lease_epoch = lease_epoch + 1 WHERE tenant = ?1 AND session = ?2
             RETURNING lease_epoch",
        )?
        .query_row((tenant.as_bytes(), session.as_bytes()), |row| rows::unsigned(row, 0))
        .optional()?;
    Ok(epoch.map(|epoch| Lease { epoch: LeaseEpoch(epoch) }))
}

/// What the writer of a stored session needs, verified up to its end.
pub(super) fn open_stored(
    conn: &Connection,
    vault: &Vault,
    site: &Site,
    lease: Lease,
) -> Result<OpenSession, StoreError> {
    let session = site.find(conn, vault)?.ok_or(StoreError::NotPermitted)?;
    verify_end(conn, vault, &*vault.tenant(site.tenant)?, &session)?;
    Ok(OpenSession { record: session.record, meta: session.meta, lease, head: session.head })
}

/// Checks that the session ends where its head says: the last entry is there, links to the one before, and carries the
/// head's chain; nothing follows it.
fn verify_end(conn: &Connection, vault: &Vault, keys: &TenantKeys, session: &Session) -> Result<(), StoreError> {
    let (tenant, id) = (session.record.tenant(), session.record.id());
    let sql = format!("{} WHERE e.tenant = ?1 AND e.session = ?2 ORDER BY e.seq DESC LIMIT 1", EntryRaw::SELECT);
    let last = conn.prepare_cached(&sql)?.query_row((tenant.as_bytes(), id.as_bytes()), EntryRaw::read).optional()?;
    let Some(last) = last else {
        let empty = session.head.seq == Seq(0) && session.head.chain == chain::START;
        return if empty { Ok(()) } else { Err(StoreError::Integrity("missing entry")) };
    };
    if last.seq != session.head.seq.0 || !chain::same(last.chain(), &session.head.chain) {
        return Err(StoreError::Integrity("session head"));
    }
    let links: Chain = keys.chain(id);
    last.open(&RecordSite { vault, tenant, session: id }, &links).map(drop)
}

/// Sessions within the reach that hold this generation, latest written first. A damaged one is left out: it answers for
/// itself when it is opened.
pub(super) fn find_generation(
    conn: &Connection,
    vault: &Vault,
    keys: &TenantKeys,
    reach: &Reach,
    id: &GenerationId,
) -> Result<Vec<GenerationHit>, StoreError> {
    let tenant = keys.tenant();
    // Bounded after the caller's own were picked out, so that nobody else's sessions can crowd them out.
    let own = match reach {
        Reach::Nothing => return Ok(Vec::new()),
        Reach::Everything | Reach::Agent(_) => String::new(),
        Reach::Prefixes(prefixes) => format!(
            "AND EXISTS (SELECT 1 FROM session_prefixes x
                 WHERE x.tenant = ? AND x.prefix_hash IN ({}) AND x.session = f.session)",
            vec!["?"; prefixes.len()].join(", ")
        ),
    };
    let mut values = vec![tenant.as_bytes().to_vec(), keys.generation_hash(id).to_vec()];
    if let Reach::Prefixes(prefixes) = reach {
        values.push(tenant.as_bytes().to_vec());
        values.extend(prefixes.iter().map(|p| keys.prefix_hash(p.segments().iter().map(String::as_str)).to_vec()));
    }
    let sql = format!(
        "SELECT f.session, f.generation FROM generations f
         JOIN sessions s ON s.tenant = f.tenant AND s.session = f.session
         WHERE f.tenant = ? AND f.id_hash = ? {own}
         ORDER BY s.updated_at DESC, s.session LIMIT {HITS}"
    );
    let found: Vec<([u8; 16], u32)> =
        conn.prepare(&sql)?.query_map(params_from_iter(values), |row| row.try_into())?.collect::<Result<_, _>>()?;
    let mut hits = Vec::new();
    for (session, generation) in found {
        let raw = SessionRaw::find(conn, tenant, SessionId::from_bytes(session));
        let opened = raw.and_then(|raw| raw.map(|raw| raw.open(vault)).transpose());
        let Some(session) = intact(opened)?.flatten() else { continue };
        let key = session.record.key();
        let live = session.record.generation_no().0 == generation;
        let hit = GenerationHit { key: key.clone(), live, updated_at: session.updated_at };
        hits.extend(list::within(reach, key, hit));
    }
    Ok(hits)
}

/// The value, or none when its record is damaged; that is logged, and other faults stay faults.
pub(super) fn intact<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Integrity(what)) => {
            tracing::warn!(what, "a damaged session is left out of the answer");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
