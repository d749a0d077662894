//! Devices that may act, and their tokens.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;
use watertight_core::device::{self, DeviceBond, DeviceId, DeviceKeeper, ProvenDevice};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{CredentialId, PrincipalId};
use watertight_core::principal::Family;
use watertight_seal::keyring::TenantKeys;

use super::place;
use crate::StoreError;
use crate::authority::Revoke;
use crate::device::{ApprovedVia, Description, DeviceRow, DeviceToken, MAX_DEVICES, TokenChange, Withdrawal};
use crate::sqlite::authority::{Hand, Issue};
use crate::sqlite::fault::Fault;
use crate::sqlite::rows::{CredentialColumns, open_json, seal_json};

/// How long an approved device may take to fetch its token with its key alone, in milliseconds: a day.
pub(super) const CLAIM: i64 = 24 * 60 * 60 * 1000;

pub(super) fn device_of(keys: &TenantKeys, id: &[u8], sealed: &[u8]) -> Result<DeviceRow, StoreError> {
    let row: DeviceRow = open_json(keys.own(), &place("devices", id), sealed)?;
    if row.id.as_bytes() == id { Ok(row) } else { Err(StoreError::Integrity("device")) }
}

/// The device of this fingerprint.
pub(super) fn device(conn: &Connection, keys: &TenantKeys, id: DeviceId) -> Result<Option<DeviceRow>, StoreError> {
    let sealed: Option<Vec<u8>> = conn
        .prepare_cached("SELECT record FROM devices WHERE tenant = ?1 AND device = ?2")?
        .query_row(params![keys.tenant().as_bytes(), id.as_bytes()], |row| row.get(0))
        .optional()?;
    sealed.map(|sealed| device_of(keys, id.as_bytes(), &sealed)).transpose()
}

/// The devices that this keeper keeps, in the order of their approval.
pub(super) fn devices(
    conn: &Connection,
    keys: &TenantKeys,
    keeper: &DeviceKeeper,
) -> Result<Vec<DeviceRow>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT device, record FROM devices WHERE tenant = ?1")?;
    let mut rows = statement.query([keys.tenant().as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, sealed): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        found.push(device_of(keys, &id, &sealed)?);
    }
    found.retain(|row| keeper.keeps(Some(row.principal)));
    found.sort_by_key(|row| (row.created_at, row.id));
    Ok(found)
}

fn put(conn: &Connection, keys: &TenantKeys, row: &DeviceRow) -> Result<(), Fault> {
    let sealed = seal_json(keys.own(), &place("devices", row.id.as_bytes()), row)?;
    conn.prepare_cached("INSERT OR REPLACE INTO devices (tenant, device, family, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![keys.tenant().as_bytes(), row.id.as_bytes(), row.family.0, sealed])?;
    Ok(())
}

/// The device whose token this credential is.
pub(super) fn bond(
    conn: &Connection,
    keys: &TenantKeys,
    id: &CredentialId,
    family: Family,
) -> Result<Option<DeviceBond>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT device, record FROM devices WHERE tenant = ?1 AND family = ?2")?;
    let mut rows = statement.query(params![keys.tenant().as_bytes(), family.0])?;
    while let Some(row) = rows.next()? {
        let (device, sealed): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let row = device_of(keys, &device, &sealed)?;
        if row.family == family && row.token.credential.as_deref() == Some(id.as_str()) {
            return Ok(Some(DeviceBond::decode(row.id, row.principal, id.clone(), row.verbs)));
        }
    }
    Ok(None)
}

/// Writes an approved device. What the same key was approved for before, by whoever acts for the same principal, it
/// keeps; for another principal it begins anew, and its tokens end.
pub(super) fn approved(
    hand: &Hand,
    conn: &Connection,
    former: Option<DeviceRow>,
    new: DeviceRow,
) -> Result<Option<DeviceRow>, Fault> {
    let keys = &hand.keys;
    let row = match former {
        Some(former) if former.principal == new.principal => DeviceRow {
            verbs: former.verbs.union(new.verbs),
            asked: former.asked.union(new.asked),
            created_at: former.created_at,
            family: former.family,
            token: former.token,
            ..new
        },
        Some(former) => {
            hand.revoke(conn, &Revoke::Family(former.family), "device.token.revoke")?;
            new
        }
        None => {
            let count: i64 = conn
                .prepare_cached("SELECT count(*) FROM devices WHERE tenant = ?1")?
                .query_row([keys.tenant().as_bytes()], |row| row.get(0))?;
            if count >= MAX_DEVICES as i64 {
                return Ok(None);
            }
            new
        }
    };
    put(conn, keys, &row)?;
    raise_ceiling(conn, keys, &row)?;
    let object = json!({
        "device": row.id.to_string(), "principal": row.principal, "verbs": row.verbs.names(), "via": row.via,
    });
    hand.log(conn, "device.approve", object)?;
    Ok(Some(row))
}

/// A token that holds opens what its device holds now. The store's list of credentials says so too.
fn raise_ceiling(conn: &Connection, keys: &TenantKeys, row: &DeviceRow) -> Result<(), Fault> {
    let Some(id) = &row.token.credential else { return Ok(()) };
    let sql = format!("SELECT {} FROM credentials WHERE tenant = ?1 AND credential = ?2", CredentialColumns::NAMES);
    let found = conn
        .prepare_cached(&sql)?
        .query_row(params![keys.tenant().as_bytes(), id], |row| CredentialColumns::read(row, 0))
        .optional()?;
    let Some((columns, mac)) = found else { return Ok(()) };
    let columns = CredentialColumns { ceiling: row.verbs.bits().into(), ..columns.verified(keys, &mac)? };
    conn.prepare_cached("UPDATE credentials SET ceiling = ?1, mac = ?2 WHERE credential = ?3")?.execute(params![
        columns.ceiling,
        columns.mac(keys),
        id
    ])?;
    Ok(())
}

/// Approves a device at once, for the caller who showed its secret beside the device's proof.
pub(super) fn approve_silently(
    hand: &Hand,
    conn: &Connection,
    proven: &ProvenDevice,
    principal: PrincipalId,
    verbs: VerbSet,
    about: Description,
) -> Result<Option<DeviceRow>, Fault> {
    let former = device(conn, &hand.keys, proven.id())?;
    let new = DeviceRow {
        id: proven.id(),
        key: *proven.key(),
        principal,
        asked: verbs,
        verbs,
        about,
        via: ApprovedVia::Silent,
        approved_by: principal,
        created_at: hand.now,
        approved_at: hand.now,
        family: Family(watertight_seal::random().map_err(StoreError::from)?),
        token: DeviceToken::default(),
        claim_until: None,
    };
    approved(hand, conn, former, new)
}

/// Gives a device its token, in place of `former`; none when that is not the one that holds any more.
pub(super) fn issue(
    hand: &Hand,
    conn: &Connection,
    id: DeviceId,
    former: Option<&str>,
    new: impl FnOnce(&DeviceRow) -> Issue,
) -> Result<Option<DeviceRow>, Fault> {
    let Some(row) = device(conn, &hand.keys, id)? else { return Ok(None) };
    if row.token.credential.as_deref() != former {
        return Ok(None);
    }
    let issue = new(&row);
    let token = DeviceToken {
        credential: Some(issue.id.as_str().to_owned()),
        created_at: row.token.created_at.or(Some(hand.now)),
        rotated_at: row.token.created_at.map(|_| hand.now),
        revoked_at: None,
    };
    hand.revoke(conn, &Revoke::Family(row.family), "device.token.rotate")?;
    if !hand.issue(conn, &issue)? {
        return Ok(None);
    }
    let row = DeviceRow { token, claim_until: None, ..row };
    put(conn, &hand.keys, &row)?;
    Ok(Some(row))
}

/// Takes something from a device that this keeper keeps; none when there is no such device.
pub(super) fn withdraw(
    hand: &Hand,
    conn: &Connection,
    keeper: &DeviceKeeper,
    id: DeviceId,
    what: Withdrawal,
) -> Result<Option<TokenChange>, Fault> {
    let found = device(conn, &hand.keys, id)?.filter(|row| keeper.keeps(Some(row.principal)));
    let Some(row) = found else { return Ok(None) };
    let (action, row) = match what {
        Withdrawal::Remove => {
            conn.prepare_cached("DELETE FROM devices WHERE tenant = ?1 AND device = ?2")?
                .execute(params![hand.keys.tenant().as_bytes(), id.as_bytes()])?;
            ("device.remove", row)
        }
        Withdrawal::Revoke => {
            let token = DeviceToken { credential: None, revoked_at: Some(hand.now), ..row.token };
            ("device.token.revoke", DeviceRow { token, claim_until: None, ..row })
        }
        Withdrawal::Rotate(named) => {
            let token = DeviceToken { credential: None, rotated_at: Some(hand.now), ..row.token };
            let verbs = device::rotate(row.verbs, named, keeper.verbs());
            let claim_until = Some(hand.now.plus_millis(CLAIM));
            ("device.token.rotate", DeviceRow { verbs, token, claim_until, ..row })
        }
    };
    if action != "device.remove" {
        put(conn, &hand.keys, &row)?;
    }
    let ended: Vec<CredentialId> = hand.revoke(conn, &Revoke::Family(row.family), action)?.credentials;
    hand.log(conn, action, json!({"device": id.to_string(), "principal": row.principal}))?;
    Ok(Some(TokenChange { device: row, ended }))
}
