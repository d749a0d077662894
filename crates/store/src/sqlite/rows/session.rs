//! Sessions and their generations.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use watertight_core::ids::{
    EntryId, GenerationId, GenerationNo, Lifecycle, PrincipalId, Seq, SessionId, TenantId, UnixMillis,
};
use watertight_core::key::CanonicalKey;
use watertight_core::session::{SessionColumns, SessionMeta, SessionRecord};
use watertight_seal::chain::{self, Chain, End};
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::Place;

use super::{RecordSite, unsigned};
use crate::StoreError;
use crate::model::{Generation, Head};
use crate::sqlite::vault::Vault;

/// A session as its row holds it, opened and verified.
pub(in crate::sqlite) struct Session {
    pub(in crate::sqlite) record: SessionRecord,
    pub(in crate::sqlite) meta: SessionMeta,
    pub(in crate::sqlite) head: Head,
    pub(in crate::sqlite) updated_at: UnixMillis,
}

/// A session's row as it stands in the database.
pub(in crate::sqlite) struct SessionRaw {
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
    label_hash: Option<[u8; 32]>,
    archived: bool,
    pinned: bool,
    created_at: i64,
    updated_at: i64,
    generation_id: Option<([u8; 32], Vec<u8>)>,
}

impl SessionRaw {
    /// What to select, `s` being the session and `g` its live generation; [`Self::FROM`] joins them.
    pub(in crate::sqlite) const COLUMNS: &str =
        "s.tenant, s.session, s.key_hash, s.key, s.owner, s.lifecycle, s.generation,
        s.head_seq, s.head_chain, s.head_message_seq, s.head_leaf, s.head_mac, s.meta, s.label_hash,
        s.archived, s.pinned, s.created_at, s.updated_at, g.id_hash, g.id";
    /// From where.
    pub(in crate::sqlite) const FROM: &str = "sessions s LEFT JOIN generations g
        ON g.tenant = s.tenant AND g.session = s.session AND g.generation = s.generation";

    /// Reads [`Self::COLUMNS`].
    pub(in crate::sqlite) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let id_hash: Option<[u8; 32]> = row.get(18)?;
        let id: Option<Vec<u8>> = row.get(19)?;
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
            label_hash: row.get(13)?,
            archived: row.get(14)?,
            pinned: row.get(15)?,
            created_at: row.get(16)?,
            updated_at: row.get(17)?,
            generation_id: id_hash.zip(id),
        })
    }

    /// The row of a session, if there is one.
    pub(in crate::sqlite) fn find(
        conn: &Connection,
        tenant: TenantId,
        session: SessionId,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!("SELECT {} FROM {} WHERE s.tenant = ?1 AND s.session = ?2", Self::COLUMNS, Self::FROM);
        Ok(conn.prepare_cached(&sql)?.query_row((tenant.as_bytes(), session.as_bytes()), Self::read).optional()?)
    }

    /// Where the row says that the session ends.
    pub(in crate::sqlite) fn head(&self) -> Head {
        Head {
            seq: Seq(self.head_seq),
            chain: self.head_chain,
            message_seq: self.head_message_seq,
            leaf: self.head_leaf,
        }
    }

    /// Opens and verifies the row.
    pub(in crate::sqlite) fn open(self, vault: &Vault) -> Result<Session, StoreError> {
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
        let meta: SessionMeta =
            site.json(&meta_place(&[u8::from(self.archived), u8::from(self.pinned)]), &self.meta)?;
        if meta.label.as_deref().map(|label| keys.label_hash(label)) != self.label_hash {
            return Err(StoreError::Integrity("session label"));
        }
        let (id_hash, id) = self.generation_id.as_ref().ok_or(StoreError::Integrity("live generation"))?;
        let record = SessionRecord::decode(SessionColumns {
            tenant: self.tenant,
            id: self.session,
            key,
            owner: self.owner,
            generation: generation_id(&site, self.generation, id_hash, id)?,
            generation_no: GenerationNo(self.generation),
            lifecycle: Lifecycle(self.lifecycle),
            created_at: UnixMillis(self.created_at),
            draft: false,
        });
        let head = self.head();
        Ok(Session { record, meta, head, updated_at: UnixMillis(self.updated_at) })
    }
}

/// The record of a session that has no row yet, or of one after a commit.
pub(in crate::sqlite) fn session_record(columns: SessionColumns) -> SessionRecord {
    SessionRecord::decode(columns)
}

/// Where a session's key text stands; bound to it are the columns that say whose it is.
pub(in crate::sqlite) fn key_place(row: &[u8]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "sessions", column: "key", row, seq: 0, role: 0 }
}

/// The row name of [`key_place`].
pub(in crate::sqlite) fn key_row(key_hash: &[u8; 32], owner: PrincipalId, created_at: i64) -> Vec<u8> {
    [&key_hash[..], owner.as_bytes(), &created_at.to_le_bytes()].concat()
}

/// Where a session's description stands; bound to it are the flags that lists sort by.
pub(in crate::sqlite) fn meta_place(flags: &[u8; 2]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "sessions", column: "meta", row: flags, seq: 0, role: 0 }
}

/// Where a generation's id stands.
pub(in crate::sqlite) fn generation_place(generation: u32, id_hash: &[u8; 32]) -> Place<'_> {
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
pub(in crate::sqlite) fn generations(
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
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::sqlite) struct Ending {
    pub(in crate::sqlite) message_seq: u32,
    pub(in crate::sqlite) leaf: Option<EntryId>,
}

/// The MAC over the end of a generation when another becomes live in `lifecycle`.
pub(in crate::sqlite) fn closing_mac(chain: &Chain, lifecycle: u32, generation: u32, ending: Ending) -> [u8; 32] {
    chain.closing_mac(&End {
        lifecycle,
        generation,
        seq: 0,
        chain: &chain::START,
        message_seq: ending.message_seq,
        leaf: ending.leaf,
    })
}

/// Where generation `no` of the session ended; none when there is no such generation or it is the live one.
pub(in crate::sqlite) fn ending(
    conn: &Connection,
    keys: &TenantKeys,
    session: &Session,
    no: u32,
) -> Result<Option<Ending>, StoreError> {
    Ok(endings(conn, keys, session)?.remove(&no))
}

/// Where each generation of the session ended that is not the live one.
///
/// A generation that was reopened and closed again has had several ends, each with a sound MAC, so an older one could
/// be put back and would hide what came after it. The ends of all generations together are as many messages as the
/// session's head counts, and the head's own MAC is of now: that leaves no room for an older end.
pub(in crate::sqlite) fn endings(
    conn: &Connection,
    keys: &TenantKeys,
    session: &Session,
) -> Result<HashMap<u32, Ending>, StoreError> {
    let damaged = || StoreError::Integrity("generation end");
    let (id, live) = (session.record.id(), session.record.generation_no().0);
    let chain = keys.chain(id);
    let mut statement = conn.prepare_cached(
        "SELECT generation, end_lifecycle, end_message_seq, end_leaf, end_mac FROM generations
         WHERE tenant = ?1 AND session = ?2 AND generation <> ?3",
    )?;
    let mut rows = statement.query(params![keys.tenant().as_bytes(), id.as_bytes(), live])?;
    let (mut found, mut messages) = (HashMap::new(), u64::from(session.head.message_seq));
    while let Some(row) = rows.next()? {
        type Columns = (u32, Option<u32>, Option<u32>, Option<[u8; 16]>, Option<[u8; 32]>);
        let (generation, Some(lifecycle), Some(message_seq), leaf, Some(mac)) = Columns::try_from(row)? else {
            return Err(damaged());
        };
        let ending = Ending { message_seq, leaf: leaf.map(EntryId::from_bytes) };
        if !chain::same(&closing_mac(&chain, lifecycle, generation, ending), &mac) {
            return Err(damaged());
        }
        messages += u64::from(message_seq);
        found.insert(generation, ending);
    }
    if messages == session.head.seq.0 { Ok(found) } else { Err(damaged()) }
}
