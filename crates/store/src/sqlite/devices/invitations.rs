//! Setup codes.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use watertight_core::device::{DeviceId, ProvenDevice};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{PrincipalId, TenantId, UnixMillis};
use watertight_seal::keyring::TenantKeys;

use super::place;
use crate::StoreError;
use crate::device::MAX_SETUP_CODES;
use crate::sqlite::authority::Hand;
use crate::sqlite::fault::Fault;
use crate::sqlite::rows::{open_json, seal_json};

/// A setup code that waits.
#[derive(Serialize, Deserialize)]
struct Setup {
    invited_by: PrincipalId,
    verbs: VerbSet,
    /// The first device that presented it; nobody else may.
    device: Option<DeviceId>,
    expires_at: UnixMillis,
}

/// Stores a code that invites one device; false when too many wait.
pub(super) fn invite(
    hand: &Hand,
    conn: &Connection,
    code_hash: &[u8; 32],
    invited_by: PrincipalId,
    verbs: VerbSet,
    expires_at: UnixMillis,
) -> Result<bool, Fault> {
    let keys = &hand.keys;
    let mut waiting = 0;
    for (hash, setup) in setups(conn, keys)? {
        if hand.now < setup.expires_at {
            waiting += 1;
        } else {
            conn.prepare_cached("DELETE FROM setup_codes WHERE code_hash = ?1")?.execute([hash])?;
        }
    }
    if waiting >= MAX_SETUP_CODES {
        return Ok(false);
    }
    put_setup(conn, keys, code_hash, &Setup { invited_by, verbs, device: None, expires_at })?;
    hand.log(conn, "device.invite", json!({"principal": invited_by, "verbs": verbs.names(), "notAfter": expires_at}))?;
    Ok(true)
}

/// Whose tenant a code belongs to.
pub(super) fn tenant_of_code(conn: &Connection, code_hash: &[u8; 32]) -> Result<Option<TenantId>, StoreError> {
    let tenant = conn
        .prepare_cached("SELECT tenant FROM setup_codes WHERE code_hash = ?1")?
        .query_row([code_hash], |row| row.get(0))
        .optional()?;
    Ok(tenant.map(TenantId::from_bytes))
}

/// A device presents a code: from now on it is this device's alone. Who invited it and to what; none when the code is
/// over or another device's.
pub(super) fn present(
    conn: &Connection,
    keys: &TenantKeys,
    code_hash: &[u8; 32],
    proven: &ProvenDevice,
    now: UnixMillis,
) -> Result<Option<(PrincipalId, VerbSet)>, Fault> {
    let sealed: Option<Vec<u8>> = conn
        .prepare_cached("SELECT record FROM setup_codes WHERE code_hash = ?1 AND tenant = ?2")?
        .query_row(params![code_hash, keys.tenant().as_bytes()], |row| row.get(0))
        .optional()?;
    let Some(sealed) = sealed else { return Ok(None) };
    let setup: Setup = open_json(keys.own(), &place("setup_codes", code_hash), &sealed)?;
    if now >= setup.expires_at || setup.device.is_some_and(|device| device != proven.id()) {
        return Ok(None);
    }
    let (invited_by, verbs) = (setup.invited_by, setup.verbs);
    if setup.device.is_none() {
        put_setup(conn, keys, code_hash, &Setup { device: Some(proven.id()), ..setup })?;
    }
    Ok(Some((invited_by, verbs)))
}

fn setups(conn: &Connection, keys: &TenantKeys) -> Result<Vec<([u8; 32], Setup)>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT code_hash, record FROM setup_codes WHERE tenant = ?1")?;
    let mut rows = statement.query([keys.tenant().as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (hash, sealed): ([u8; 32], Vec<u8>) = (row.get(0)?, row.get(1)?);
        let setup = open_json(keys.own(), &place("setup_codes", &hash), &sealed)?;
        found.push((hash, setup));
    }
    Ok(found)
}

fn put_setup(conn: &Connection, keys: &TenantKeys, code_hash: &[u8; 32], setup: &Setup) -> Result<(), Fault> {
    let sealed = seal_json(keys.own(), &place("setup_codes", code_hash), setup)?;
    conn.prepare_cached("INSERT OR REPLACE INTO setup_codes (code_hash, tenant, record) VALUES (?1, ?2, ?3)")?
        .execute(params![code_hash, keys.tenant().as_bytes(), sealed])?;
    Ok(())
}

/// The code that an approved device came with has done its work.
pub(super) fn forget_invitation(conn: &Connection, keys: &TenantKeys, device: DeviceId) -> Result<(), Fault> {
    for (hash, setup) in setups(conn, keys)? {
        if setup.device == Some(device) {
            conn.prepare_cached("DELETE FROM setup_codes WHERE code_hash = ?1")?.execute([hash])?;
        }
    }
    Ok(())
}
