//! The audit log: appended in the transaction of what it tells of, chained, its end under a MAC (isolation.md §1, A7).

use rusqlite::{Connection, OptionalExtension, params};

use watertight_core::ids::{SessionId, UnixMillis};
use watertight_seal::chain::{START, same};
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::Place;

use super::rows::{open_json, seal_json};
use crate::StoreError;
use crate::authority::{AuditEvent, AuditRow};

/// Rows of one page at the most.
const MAX_PAGE: u32 = 1000;

/// Where a log ends.
struct Head {
    seq: u64,
    chain: [u8; 32],
}

/// Begins the log of a new tenant with its making. Every log has a beginning: one that is gone was taken away.
pub(super) fn begin(
    conn: &Connection,
    keys: &TenantKeys,
    at: UnixMillis,
    event: &AuditEvent,
) -> Result<(), StoreError> {
    write(conn, keys, at, event, &Head { seq: 0, chain: START })
}

/// Appends an event; runs on the writer, in the transaction of what the event tells of.
pub(super) fn append(
    conn: &Connection,
    keys: &TenantKeys,
    at: UnixMillis,
    event: &AuditEvent,
) -> Result<(), StoreError> {
    write(conn, keys, at, event, &head(conn, keys)?)
}

fn write(
    conn: &Connection,
    keys: &TenantKeys,
    at: UnixMillis,
    event: &AuditEvent,
    head: &Head,
) -> Result<(), StoreError> {
    let seq = head.seq + 1;
    let sealed = seal_json(keys.own(), &place(seq, at), event)?;
    let chain = link(keys, &head.chain, seq, &sealed);
    let tenant = keys.tenant();
    conn.prepare_cached("INSERT INTO audit (tenant, seq, at, event, chain) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![tenant.as_bytes(), stored(seq)?, at.0, sealed, chain])?;
    conn.prepare_cached(
        "INSERT INTO audit_heads (tenant, seq, chain, mac) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (tenant) DO UPDATE SET seq = ?2, chain = ?3, mac = ?4",
    )?
    .execute(params![tenant.as_bytes(), stored(seq)?, chain, mac(keys, seq, &chain)])?;
    Ok(())
}

/// Events after `after`, oldest first; verified link by link.
pub(super) fn page(conn: &Connection, keys: &TenantKeys, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
    let head = head(conn, keys)?;
    let mut previous = match after {
        0 => START,
        after => conn
            .prepare_cached("SELECT chain FROM audit WHERE tenant = ?1 AND seq = ?2")?
            .query_row(params![keys.tenant().as_bytes(), stored(after)?], |row| row.get(0))
            .optional()?
            .ok_or(StoreError::Integrity("audit log"))?,
    };
    let mut statement = conn.prepare_cached(
        "SELECT seq, at, event, chain FROM audit WHERE tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    let limit = limit.min(MAX_PAGE);
    let mut rows = statement.query(params![keys.tenant().as_bytes(), stored(after)?, limit])?;
    let (mut found, mut expected) = (Vec::new(), after);
    while let Some(row) = rows.next()? {
        let (seq, at) = (super::rows::unsigned(row, 0)?, UnixMillis(row.get(1)?));
        let (sealed, chain): (Vec<u8>, [u8; 32]) = (row.get(2)?, row.get(3)?);
        expected += 1;
        if seq != expected || !same(&chain, &link(keys, &previous, seq, &sealed)) {
            return Err(StoreError::Integrity("audit log"));
        }
        previous = chain;
        found.push(AuditRow { seq, at, event: open_json(keys.own(), &place(seq, at), &sealed)?, chain });
    }
    let is_last = found.len() < limit as usize;
    if is_last && (expected != head.seq || (head.seq > 0 && !same(&previous, &head.chain))) {
        return Err(StoreError::Integrity("end of the audit log"));
    }
    Ok(found)
}

/// The number of the newest event.
pub(super) fn newest(conn: &Connection, keys: &TenantKeys) -> Result<u64, StoreError> {
    Ok(head(conn, keys)?.seq)
}

fn head(conn: &Connection, keys: &TenantKeys) -> Result<Head, StoreError> {
    let row: Option<(u64, [u8; 32], Vec<u8>)> = conn
        .prepare_cached("SELECT seq, chain, mac FROM audit_heads WHERE tenant = ?1")?
        .query_row([keys.tenant().as_bytes()], |row| Ok((super::rows::unsigned(row, 0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    match row {
        Some((seq, chain, found)) if same(&mac(keys, seq, &chain), &found) => Ok(Head { seq, chain }),
        _ => Err(StoreError::Integrity("end of the audit log")),
    }
}

fn link(keys: &TenantKeys, previous: &[u8; 32], seq: u64, sealed: &[u8]) -> [u8; 32] {
    // No session has this id: they are random.
    keys.chain(SessionId::from_bytes([0; 16])).link(previous, seq, sealed)
}

fn mac(keys: &TenantKeys, seq: u64, chain: &[u8; 32]) -> [u8; 32] {
    keys.authority_mac("audit_heads", &[&seq.to_le_bytes(), chain])
}

fn place(seq: u64, at: UnixMillis) -> Place<'static> {
    // The time takes the place of a generation's number: what it is bound to matters, not what it is called.
    let at = u64::try_from(at.0).unwrap_or(0);
    Place {
        lifecycle: (at >> 32) as u32,
        generation: (at & u64::from(u32::MAX)) as u32,
        table: "audit",
        column: "event",
        row: b"",
        seq,
        role: 0,
    }
}

fn stored(seq: u64) -> Result<i64, StoreError> {
    i64::try_from(seq).map_err(|_| StoreError::Integrity("audit log"))
}
