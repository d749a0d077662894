//! Row decoding: the only place where columns become core's records. Every sealed column is opened in its place and
//! every head and chain link is checked here, so nothing unverified leaves the store.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use watertight_core::grant::{Grant, Grants, VerbSet};
use watertight_core::ids::{
    AuthEpoch, EntryId, GenerationId, GenerationNo, Lifecycle, PrincipalId, RunId, Seq, SessionId, TenantId, UnixMillis,
};
use watertight_core::key::{CanonicalKey, KeyPrefix};
use watertight_core::principal::{CredentialRecord, Principal, PrincipalKind, SecretHash};
use watertight_core::run::{RunColumns, RunOptions, RunOutcome, RunRecord, RunState};
use watertight_core::session::{SessionColumns, SessionMeta, SessionRecord};
use watertight_core::transcript::{Entry, EntryBody, Role};
use watertight_seal::chain::{self, Chain, End};
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::{self, DataKey, Place};

use super::vault::Vault;
use crate::StoreError;
use crate::model::{Generation, Head};

/// A session as its row holds it, opened and verified.
pub(super) struct Session {
    pub(super) record: SessionRecord,
    pub(super) meta: SessionMeta,
    pub(super) head: Head,
    pub(super) updated_at: UnixMillis,
}

/// A session's row as it stands in the database.
pub(super) struct SessionRaw {
    tenant: TenantId,
    session: SessionId,
    key_hash: [u8; 32],
    key: Vec<u8>,
    owner: PrincipalId,
    lifecycle: u32,
    generation: u32,
    head_seq: u64,
    head_chain: [u8; 32],
    head_message_seq: u32,
    head_leaf: Option<EntryId>,
    head_mac: [u8; 32],
    meta: Vec<u8>,
    archived: bool,
    pinned: bool,
    created_at: i64,
    updated_at: i64,
    generation_id: Option<([u8; 32], Vec<u8>)>,
}

impl SessionRaw {
    /// What to select, `s` being the session and `g` its live generation; [`Self::FROM`] joins them.
    pub(super) const COLUMNS: &str = "s.tenant, s.session, s.key_hash, s.key, s.owner, s.lifecycle, s.generation,
        s.head_seq, s.head_chain, s.head_message_seq, s.head_leaf, s.head_mac, s.meta, s.archived,
        s.pinned, s.created_at, s.updated_at, g.id_hash, g.id";
    /// From where.
    pub(super) const FROM: &str = "sessions s LEFT JOIN generations g
        ON g.tenant = s.tenant AND g.session = s.session AND g.generation = s.generation";

    /// Reads [`Self::COLUMNS`].
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let id_hash: Option<[u8; 32]> = row.get(17)?;
        let id: Option<Vec<u8>> = row.get(18)?;
        Ok(Self {
            tenant: TenantId::from_bytes(row.get(0)?),
            session: SessionId::from_bytes(row.get(1)?),
            key_hash: row.get(2)?,
            key: row.get(3)?,
            owner: PrincipalId::from_bytes(row.get(4)?),
            lifecycle: row.get(5)?,
            generation: row.get(6)?,
            head_seq: unsigned(row, 7)?,
            head_chain: row.get(8)?,
            head_message_seq: row.get(9)?,
            head_leaf: row.get::<_, Option<[u8; 16]>>(10)?.map(EntryId::from_bytes),
            head_mac: row.get(11)?,
            meta: row.get(12)?,
            archived: row.get(13)?,
            pinned: row.get(14)?,
            created_at: row.get(15)?,
            updated_at: row.get(16)?,
            generation_id: id_hash.zip(id),
        })
    }

    /// The row of a session, if there is one.
    pub(super) fn find(conn: &Connection, tenant: TenantId, session: SessionId) -> Result<Option<Self>, StoreError> {
        let sql = format!("SELECT {} FROM {} WHERE s.tenant = ?1 AND s.session = ?2", Self::COLUMNS, Self::FROM);
        Ok(conn.prepare_cached(&sql)?.query_row((tenant.as_bytes(), session.as_bytes()), Self::read).optional()?)
    }

    /// Opens and verifies the row.
    pub(super) fn open(self, vault: &Vault) -> Result<Session, StoreError> {
        let keys = vault.tenant(self.tenant)?;
        let end = End {
            lifecycle: self.lifecycle,
            generation: self.generation,
            seq: self.head_seq,
            chain: &self.head_chain,
            message_seq: self.head_message_seq,
            leaf: self.head_leaf,
        };
        if !chain::same(&keys.chain(self.session).head_mac(&end), &self.head_mac) {
            return Err(StoreError::Integrity("session head"));
        }
        let site = RecordSite { vault, tenant: self.tenant, session: self.session };
        let key = site.text(&key_place(&key_row(&self.key_hash, self.owner, self.created_at)), &self.key)?;
        let key = CanonicalKey::from_stored(&key);
        if keys.key_hash(&key) != self.key_hash {
            return Err(StoreError::Integrity("session key"));
        }
        let meta = site.json(&meta_place(&[u8::from(self.archived), u8::from(self.pinned)]), &self.meta)?;
        let (id_hash, id) = self.generation_id.ok_or(StoreError::Integrity("live generation"))?;
        let record = SessionRecord::decode(SessionColumns {
            tenant: self.tenant,
            id: self.session,
            key,
            owner: self.owner,
            generation: generation_id(&site, self.generation, &id_hash, &id)?,
            generation_no: GenerationNo(self.generation),
            lifecycle: Lifecycle(self.lifecycle),
            created_at: UnixMillis(self.created_at),
            draft: false,
        });
        let head = Head {
            seq: Seq(self.head_seq),
            chain: self.head_chain,
            message_seq: self.head_message_seq,
            leaf: self.head_leaf,
        };
        Ok(Session { record, meta, head, updated_at: UnixMillis(self.updated_at) })
    }
}

/// The record of a session that has no row yet, or of one after a commit.
pub(super) fn session_record(columns: SessionColumns) -> SessionRecord {
    SessionRecord::decode(columns)
}

/// Where a session's key text stands; bound to it are the columns that say whose it is.
pub(super) fn key_place(row: &[u8]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "sessions", column: "key", row, seq: 0, role: 0 }
}

/// The row name of [`key_place`].
pub(super) fn key_row(key_hash: &[u8; 32], owner: PrincipalId, created_at: i64) -> Vec<u8> {
    [&key_hash[..], owner.as_bytes(), &created_at.to_le_bytes()].concat()
}

/// Where a session's description stands; bound to it are the flags that lists sort by.
pub(super) fn meta_place(flags: &[u8; 2]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "sessions", column: "meta", row: flags, seq: 0, role: 0 }
}

/// Where a generation's id stands.
pub(super) fn generation_place(generation: u32, id_hash: &[u8; 32]) -> Place<'_> {
    Place { lifecycle: 0, generation, table: "generations", column: "id", row: id_hash, seq: 0, role: 0 }
}

fn generation_id(
    site: &RecordSite<'_>,
    generation: u32,
    id_hash: &[u8; 32],
    id: &[u8],
) -> Result<GenerationId, StoreError> {
    let text = site.text(&generation_place(generation, id_hash), id)?;
    GenerationId::parse(&text).map_err(|_| StoreError::Integrity("generation id"))
}

/// Every generation of a session, oldest first.
pub(super) fn generations(
    conn: &Connection,
    vault: &Vault,
    tenant: TenantId,
    session: SessionId,
) -> Result<Vec<Generation>, StoreError> {
    let site = RecordSite { vault, tenant, session };
    let mut statement = conn.prepare_cached(
        "SELECT generation, id_hash, id, created_at FROM generations
         WHERE tenant = ?1 AND session = ?2 ORDER BY generation",
    )?;
    let mut rows = statement.query((tenant.as_bytes(), session.as_bytes()))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let no: u32 = row.get(0)?;
        let (id_hash, id): ([u8; 32], Vec<u8>) = (row.get(1)?, row.get(2)?);
        found.push(Generation {
            no: GenerationNo(no),
            id: generation_id(&site, no, &id_hash, &id)?,
            created_at: UnixMillis(row.get(3)?),
        });
    }
    Ok(found)
}

/// Where a generation that is not live ends.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    pub(super) message_seq: u32,
    pub(super) leaf: Option<EntryId>,
}

/// The MAC over the end of a generation when another becomes live in `lifecycle`.
pub(super) fn closing_mac(chain: &Chain, lifecycle: u32, generation: u32, ending: Ending) -> [u8; 32] {
    chain.closing_mac(&End {
        lifecycle,
        generation,
        seq: 0,
        chain: &chain::START,
        message_seq: ending.message_seq,
        leaf: ending.leaf,
    })
}

/// Where generation `no` ended; none when the session has no such generation.
pub(super) fn ending(
    conn: &Connection,
    keys: &TenantKeys,
    session: SessionId,
    no: u32,
) -> Result<Option<Ending>, StoreError> {
    type Columns = (Option<u32>, Option<u32>, Option<[u8; 16]>, Option<[u8; 32]>);
    let row: Option<Columns> = conn
        .prepare_cached(
            "SELECT end_lifecycle, end_message_seq, end_leaf, end_mac FROM generations
             WHERE tenant = ?1 AND session = ?2 AND generation = ?3",
        )?
        .query_row(params![keys.tenant().as_bytes(), session.as_bytes(), no], |row| row.try_into())
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let (Some(lifecycle), Some(message_seq), leaf, Some(mac)) = row else {
        return Err(StoreError::Integrity("generation end"));
    };
    let ending = Ending { message_seq, leaf: leaf.map(EntryId::from_bytes) };
    if !chain::same(&closing_mac(&keys.chain(session), lifecycle, no, ending), &mac) {
        return Err(StoreError::Integrity("generation end"));
    }
    Ok(Some(ending))
}

/// An entry's row as it stands in the database, with the link of its neighbour before.
pub(super) struct EntryRaw {
    pub(super) seq: u64,
    pub(super) message_seq: u32,
    generation: u32,
    entry: EntryId,
    lifecycle: u32,
    role: u8,
    at: i64,
    body: Vec<u8>,
    chain: [u8; 32],
    previous: Option<[u8; 32]>,
    /// Whether the session's next entry is there.
    pub(super) followed: bool,
}

impl EntryRaw {
    /// Columns of an entry `e` with its neighbours, for [`Self::read`]; add a WHERE.
    pub(super) const SELECT: &str = "SELECT e.seq, e.generation, e.message_seq, e.entry, e.lifecycle, e.role, e.at,
            e.body, e.chain,
            (SELECT p.chain FROM entries p WHERE p.tenant = e.tenant AND p.session = e.session AND p.seq = e.seq - 1),
            EXISTS (SELECT 1 FROM entries n WHERE n.tenant = e.tenant AND n.session = e.session AND n.seq = e.seq + 1)
        FROM entries e";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: unsigned(row, 0)?,
            generation: row.get(1)?,
            message_seq: row.get(2)?,
            entry: EntryId::from_bytes(row.get(3)?),
            lifecycle: row.get(4)?,
            role: row.get(5)?,
            at: row.get(6)?,
            body: row.get(7)?,
            chain: row.get(8)?,
            previous: row.get(9)?,
            followed: row.get(10)?,
        })
    }

    /// Checks the link to the entry before and opens the body in its place.
    pub(super) fn open(self, site: &RecordSite<'_>, chain: &Chain) -> Result<Entry, StoreError> {
        let previous = match self.seq {
            1 => chain::START,
            _ => self.previous.ok_or(StoreError::Integrity("missing entry"))?,
        };
        if !chain::same(&chain.link(&previous, self.seq, &self.body), &self.chain) {
            return Err(StoreError::Integrity("entry chain"));
        }
        let row = entry_row(self.entry, self.message_seq, self.at);
        let place = entry_place(&row, self.lifecycle, self.generation, self.seq, self.role);
        let body: EntryBody = site.json(&place, &self.body)?;
        Ok(Entry {
            id: self.entry,
            seq: Seq(self.seq),
            generation: GenerationNo(self.generation),
            message_seq: self.message_seq,
            at: UnixMillis(self.at),
            body,
        })
    }

    /// The chain up to and with this entry.
    pub(super) fn chain(&self) -> &[u8; 32] {
        &self.chain
    }
}

/// The row name of an entry: its id and the plain columns beside the sealed body.
pub(super) fn entry_row(entry: EntryId, message_seq: u32, at: i64) -> Vec<u8> {
    [&entry.as_bytes()[..], &message_seq.to_le_bytes(), &at.to_le_bytes()].concat()
}

/// Where an entry's body stands.
pub(super) fn entry_place(row: &[u8], lifecycle: u32, generation: u32, seq: u64, role: u8) -> Place<'_> {
    Place { lifecycle, generation, table: "entries", column: "body", row, seq, role }
}

/// The stored form of a role.
pub(super) fn role(role: Role) -> u8 {
    role as u8
}

/// The sealed part of a run that is fixed when it is accepted.
#[derive(Serialize, Deserialize)]
pub(super) struct RunRequest {
    pub(super) id: RunId,
    pub(super) digest: [u8; 32],
    pub(super) options: RunOptions,
}

/// The row name of a run: whose it is and the plain columns that are fixed when it is accepted.
pub(super) fn run_row(principal: PrincipalId, run_hash: &[u8; 32], input: EntryId, accepted_at: i64) -> Vec<u8> {
    [&principal.as_bytes()[..], run_hash, input.as_bytes(), &accepted_at.to_le_bytes()].concat()
}

/// Where a run's request stands.
pub(super) fn request_place(row: &[u8], generation: u32) -> Place<'_> {
    Place { lifecycle: 0, generation, table: "runs", column: "request", row, seq: 0, role: 0 }
}

/// Where a run's outcome stands; written without reading the run first, so bound to its name alone.
pub(super) fn outcome_place(run_hash: &[u8; 32]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "runs", column: "outcome", row: run_hash, seq: 0, role: 0 }
}

/// How an outcome is called in the plain column; the rest of it is sealed.
pub(super) fn how(outcome: &RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Completed { .. } => "completed",
        RunOutcome::Failed { .. } => "failed",
        RunOutcome::Aborted { .. } => "aborted",
        RunOutcome::TimedOut => "timed_out",
        RunOutcome::Interrupted => "interrupted",
    }
}

/// A run's row as it stands in the database.
pub(super) struct RunRaw {
    session: SessionId,
    generation: u32,
    input: EntryId,
    state: u8,
    how: Option<String>,
    request: Vec<u8>,
    outcome: Option<Vec<u8>>,
    accepted_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
}

impl RunRaw {
    /// The principal's run of this hash.
    pub(super) fn find(
        conn: &Connection,
        tenant: TenantId,
        principal: PrincipalId,
        run_hash: &[u8; 32],
    ) -> Result<Option<Self>, StoreError> {
        let found = conn
            .prepare_cached(
                "SELECT session, generation, input, state, how, request, outcome, accepted_at, started_at, ended_at
                 FROM runs WHERE tenant = ?1 AND principal = ?2 AND run_hash = ?3",
            )?
            .query_row(params![tenant.as_bytes(), principal.as_bytes(), run_hash], |row| {
                Ok(Self {
                    session: SessionId::from_bytes(row.get(0)?),
                    generation: row.get(1)?,
                    input: EntryId::from_bytes(row.get(2)?),
                    state: row.get(3)?,
                    how: row.get(4)?,
                    request: row.get(5)?,
                    outcome: row.get(6)?,
                    accepted_at: row.get(7)?,
                    started_at: row.get(8)?,
                    ended_at: row.get(9)?,
                })
            })
            .optional()?;
        Ok(found)
    }

    /// Opens and verifies the run and the session it names.
    pub(super) fn open(
        self,
        conn: &Connection,
        vault: &Vault,
        tenant: TenantId,
        principal: PrincipalId,
        run_hash: &[u8; 32],
    ) -> Result<RunRecord, StoreError> {
        let site = RecordSite { vault, tenant, session: self.session };
        let row = run_row(principal, run_hash, self.input, self.accepted_at);
        let request: RunRequest = site.json(&request_place(&row, self.generation), &self.request)?;
        let state = RunState::from_stored(self.state).ok_or(StoreError::Integrity("run state"))?;
        let outcome = match (&self.outcome, self.how.as_deref()) {
            (Some(sealed), plain) => {
                let outcome = site.json(&outcome_place(run_hash), sealed)?;
                if plain != Some(how(&outcome)) {
                    return Err(StoreError::Integrity("run outcome"));
                }
                Some(outcome)
            }
            // The only end that is written without a key: at the start, for runs a former process left open.
            (None, Some("interrupted")) => Some(RunOutcome::Interrupted),
            (None, None) => None,
            (None, Some(_)) => return Err(StoreError::Integrity("run outcome")),
        };
        if outcome.is_some() != (state == RunState::Ended) {
            return Err(StoreError::Integrity("run state"));
        }
        let session = SessionRaw::find(conn, tenant, self.session)?.ok_or(StoreError::Integrity("session of a run"))?;
        let session = session.open(vault)?;
        Ok(RunRecord::decode(RunColumns {
            id: request.id,
            principal,
            session: self.session,
            key: session.record.key().as_str().to_owned(),
            generation: GenerationNo(self.generation),
            input: self.input,
            digest: request.digest,
            state,
            options: request.options,
            accepted_at: UnixMillis(self.accepted_at),
            started_at: self.started_at.map(UnixMillis),
            ended_at: self.ended_at.map(UnixMillis),
            outcome,
        }))
    }
}

/// A principal's kind in its stored form.
pub(super) fn kind_to_stored(kind: PrincipalKind) -> u8 {
    match kind {
        PrincipalKind::Operator => 1,
        PrincipalKind::User => 2,
        PrincipalKind::Service => 3,
    }
}

fn kind(stored: u8) -> Result<PrincipalKind, StoreError> {
    match stored {
        1 => Ok(PrincipalKind::Operator),
        2 => Ok(PrincipalKind::User),
        3 => Ok(PrincipalKind::Service),
        _ => Err(StoreError::Integrity("principal kind")),
    }
}

/// The credential of this public id.
pub(super) fn credential(conn: &Connection, id: &str) -> Result<Option<CredentialRecord>, StoreError> {
    let row = conn
        .prepare_cached(
            "SELECT c.tenant, c.principal, p.kind, c.secret_hash, c.ceiling, p.auth_epoch, c.not_after, c.revoked
             FROM credentials c JOIN principals p ON p.tenant = c.tenant AND p.principal = c.principal
             WHERE c.credential = ?1",
        )?
        .query_row([id], |row| {
            Ok((
                TenantId::from_bytes(row.get(0)?),
                PrincipalId::from_bytes(row.get(1)?),
                row.get::<_, u8>(2)?,
                SecretHash::new(row.get(3)?),
                VerbSet::from_bits(row.get(4)?),
                AuthEpoch(unsigned(row, 5)?),
                row.get::<_, Option<i64>>(6)?.map(UnixMillis),
                row.get::<_, bool>(7)?,
            ))
        })
        .optional()?;
    let Some((tenant, id, stored_kind, hash, ceiling, epoch, not_after, revoked)) = row else { return Ok(None) };
    let principal = Principal { tenant, id, kind: kind(stored_kind)? };
    Ok(Some(CredentialRecord::decode(principal, hash, ceiling, epoch, not_after, revoked)))
}

/// The tenant of this name with its operator and the operator's epoch.
pub(super) fn tenant(conn: &Connection, name: &str) -> Result<Option<(Principal, AuthEpoch)>, StoreError> {
    let row = conn
        .prepare_cached(
            "SELECT t.tenant, p.principal, p.kind, p.auth_epoch
             FROM tenants t JOIN principals p ON p.tenant = t.tenant AND p.principal = t.operator WHERE t.name = ?1",
        )?
        .query_row([name], |row| {
            Ok((
                TenantId::from_bytes(row.get(0)?),
                PrincipalId::from_bytes(row.get(1)?),
                row.get::<_, u8>(2)?,
                AuthEpoch(unsigned(row, 3)?),
            ))
        })
        .optional()?;
    let Some((tenant, id, stored_kind, epoch)) = row else { return Ok(None) };
    Ok(Some((Principal { tenant, id, kind: kind(stored_kind)? }, epoch)))
}

/// The row name of a grant: everything about it that is plain.
pub(super) fn grant_row(
    principal: PrincipalId,
    grant: &[u8; 16],
    verbs: VerbSet,
    not_after: Option<UnixMillis>,
) -> Vec<u8> {
    let end = not_after.map_or(i64::MAX, |end| end.0);
    [&principal.as_bytes()[..], grant, &verbs.bits().to_le_bytes(), &end.to_le_bytes()].concat()
}

/// Where a grant's prefix stands.
pub(super) fn grant_place(row: &[u8]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "grants", column: "prefix", row, seq: 0, role: 0 }
}

/// The grants of a principal.
pub(super) fn grants(conn: &Connection, keys: &TenantKeys, principal: PrincipalId) -> Result<Grants, StoreError> {
    let mut statement = conn
        .prepare_cached("SELECT grant_id, verbs, prefix, not_after FROM grants WHERE tenant = ?1 AND principal = ?2")?;
    let mut rows = statement.query((keys.tenant().as_bytes(), principal.as_bytes()))?;
    let mut rules = Vec::new();
    while let Some(row) = rows.next()? {
        let grant: [u8; 16] = row.get(0)?;
        let verbs = VerbSet::from_bits(row.get(1)?);
        let sealed: Vec<u8> = row.get(2)?;
        let not_after = row.get::<_, Option<i64>>(3)?.map(UnixMillis);
        let name = grant_row(principal, &grant, verbs, not_after);
        let segments: Vec<String> = open_json(keys.own(), &grant_place(&name), &sealed)?;
        rules.push(Grant { verbs, prefix: KeyPrefix::from_segments(segments), not_after });
    }
    Ok(Grants::decode(keys.tenant(), principal, rules))
}

/// Whose records are being opened: finds the data key by the number in each record's header.
pub(super) struct RecordSite<'a> {
    pub(super) vault: &'a Vault,
    pub(super) tenant: TenantId,
    pub(super) session: SessionId,
}

impl RecordSite<'_> {
    fn json<T: for<'de> Deserialize<'de>>(&self, place: &Place<'_>, sealed: &[u8]) -> Result<T, StoreError> {
        open_json(&*self.key(sealed)?, place, sealed)
    }

    fn text(&self, place: &Place<'_>, sealed: &[u8]) -> Result<String, StoreError> {
        let plain = self.key(sealed)?.open(place, sealed)?;
        String::from_utf8(plain.to_vec()).map_err(|_| StoreError::Integrity("text"))
    }

    fn key(&self, sealed: &[u8]) -> Result<std::sync::Arc<DataKey>, StoreError> {
        self.vault.data_key(self.tenant, self.session, record::key_gen(sealed)?)
    }
}

fn open_json<T: for<'de> Deserialize<'de>>(key: &DataKey, place: &Place<'_>, sealed: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(&key.open(place, sealed)?).map_err(|_| StoreError::Integrity("stored form"))
}

/// Seals a value as JSON.
pub(super) fn seal_json<T: Serialize>(key: &DataKey, place: &Place<'_>, value: &T) -> Result<Vec<u8>, StoreError> {
    let plain = serde_json::to_vec(value).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    Ok(key.seal(place, &plain)?)
}

/// A count or sequence number; SQLite's integers are signed.
pub(super) fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(at)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, value))
}
