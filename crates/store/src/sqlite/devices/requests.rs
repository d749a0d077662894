//! Devices that ask, and what is decided about them.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;
use watertight_core::device::{self, DeviceId, DeviceKeeper, NotApproved, PairingId, ProvenDevice};
use watertight_core::ids::UnixMillis;
use watertight_core::principal::Family;
use watertight_seal::keyring::TenantKeys;

use super::invitations::forget_invitation;
use super::paired::{CLAIM, approved, device};
use super::place;
use crate::StoreError;
use crate::device::{ApprovedVia, Asked, Decided, DeviceRow, DeviceToken, MAX_PAIRINGS, NewPairing, PairingRow};
use crate::sqlite::authority::Hand;
use crate::sqlite::fault::Fault;
use crate::sqlite::rows::{open_json, seal_json};

/// Letters and digits that are not mistaken for one another. 32 of them: five bits each.
const CODE: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Requests of the tenant that are not over, oldest first.
pub(super) fn pairings(conn: &Connection, keys: &TenantKeys, now: UnixMillis) -> Result<Vec<PairingRow>, StoreError> {
    let mut found = all_pairings(conn, keys)?;
    found.retain(|row| row.is_live(now));
    found.sort_by_key(|row| (row.requested_at, row.id));
    Ok(found)
}

fn all_pairings(conn: &Connection, keys: &TenantKeys) -> Result<Vec<PairingRow>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT request, record FROM pairings WHERE tenant = ?1")?;
    let mut rows = statement.query([keys.tenant().as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, sealed): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        found.push(pairing_of(keys, &id, &sealed)?);
    }
    Ok(found)
}

fn pairing_of(keys: &TenantKeys, id: &[u8], sealed: &[u8]) -> Result<PairingRow, StoreError> {
    let row: PairingRow = open_json(keys.own(), &place("pairings", id), sealed)?;
    if row.id.as_bytes()[..] == *id { Ok(row) } else { Err(StoreError::Integrity("pairing request")) }
}

fn forget(conn: &Connection, keys: &TenantKeys, id: PairingId) -> Result<(), Fault> {
    conn.prepare_cached("DELETE FROM pairings WHERE tenant = ?1 AND request = ?2")?
        .execute(params![keys.tenant().as_bytes(), id.as_bytes()])?;
    Ok(())
}

/// The same request of the same device, if it waits.
pub(super) fn waiting(
    conn: &Connection,
    keys: &TenantKeys,
    device: DeviceId,
    new: &NewPairing,
    now: UnixMillis,
) -> Result<Option<PairingRow>, StoreError> {
    let found: Option<(Vec<u8>, Vec<u8>)> = conn
        .prepare_cached("SELECT request, record FROM pairings WHERE tenant = ?1 AND device = ?2")?
        .query_row(params![keys.tenant().as_bytes(), device.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, sealed)) = found else { return Ok(None) };
    let row = pairing_of(keys, &id, &sealed)?;
    Ok(Some(row).filter(|row| row.is_live(now) && is_same(row, new)))
}

fn is_same(row: &PairingRow, new: &NewPairing) -> bool {
    (row.verbs, &row.about, row.invited_by) == (new.verbs, &new.about, new.invited_by)
}

/// A device asks to be paired, or to be given more. One request of a device waits at a time.
pub(super) fn ask(
    conn: &Connection,
    keys: &TenantKeys,
    proven: &ProvenDevice,
    new: NewPairing,
    now: UnixMillis,
) -> Result<Asked, Fault> {
    let mut live = Vec::new();
    for row in all_pairings(conn, keys)? {
        if row.is_live(now) {
            live.push(row);
        } else {
            forget(conn, keys, row.id)?;
        }
    }
    let former = live.iter().position(|row| row.device == proven.id()).map(|at| live.swap_remove(at));
    if let Some(former) = &former
        && is_same(former, &new)
    {
        return Ok(Asked::Waiting(Box::new(former.clone())));
    }
    let [of_address, of_all] = MAX_PAIRINGS;
    if live.len() >= of_all || live.iter().filter(|row| row.source == new.source).count() >= of_address {
        return Ok(Asked::TooMany);
    }
    if let Some(former) = &former {
        forget(conn, keys, former.id)?;
    }
    let letters: [u8; 8] = watertight_seal::random().map_err(StoreError::from)?;
    let row = PairingRow {
        id: PairingId::from_bytes(watertight_seal::random().map_err(StoreError::from)?),
        device: proven.id(),
        key: *proven.key(),
        code: letters.iter().map(|byte| char::from(CODE[usize::from(byte % 32)])).collect(),
        verbs: new.verbs,
        about: new.about,
        source: new.source,
        invited_by: new.invited_by,
        known: device(conn, keys, proven.id())?.is_some(),
        requested_at: now,
        expires_at: new.expires_at,
    };
    let sealed = seal_json(keys.own(), &place("pairings", row.id.as_bytes()), &row)?;
    conn.prepare_cached("INSERT INTO pairings (tenant, request, device, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![keys.tenant().as_bytes(), row.id.as_bytes(), row.device.as_bytes(), sealed])?;
    Ok(Asked::New(Box::new(row), former.map(Box::new)))
}

/// Decides about one request. What it names is exactly this request, and so one key: a later one of the same device has
/// another name. `shown`, where given, is the fingerprint that the decider saw.
pub(super) fn decide(
    hand: &Hand,
    conn: &Connection,
    keeper: &DeviceKeeper,
    request: PairingId,
    shown: Option<DeviceId>,
    approve: bool,
) -> Result<Decided, Fault> {
    let keys = &hand.keys;
    let found = pairings(conn, keys, hand.now)?.into_iter().find(|row| row.id == request);
    let Some(pairing) = found.filter(|row| keeper.keeps(row.invited_by) && shown.is_none_or(|id| id == row.device))
    else {
        return Ok(Decided::Unknown);
    };
    let object = json!({"device": pairing.device.to_string(), "request": pairing.id});
    if !approve {
        forget(conn, keys, pairing.id)?;
        hand.log(conn, "device.reject", object)?;
        return Ok(Decided::Rejected(pairing));
    }
    let former = device(conn, keys, pairing.device)?;
    if former.as_ref().is_some_and(|row| !keeper.keeps(Some(row.principal))) {
        return Ok(Decided::Unknown);
    }
    let given = match device::approve(pairing.verbs, keeper.verbs()) {
        Ok(given) => given,
        Err(NotApproved::NothingInCommon) => return Ok(Decided::NothingInCommon),
        Err(NotApproved::NotAllowed) => return Err(StoreError::NotPermitted.into()),
    };
    // A known device goes on acting for whom it did; an invited one acts for who invited it.
    let acts_for = former.as_ref().map(|row| row.principal).or(pairing.invited_by).unwrap_or(keeper.principal());
    forget(conn, keys, pairing.id)?;
    forget_invitation(conn, keys, pairing.device)?;
    let row = approved(
        hand,
        conn,
        former,
        DeviceRow {
            id: pairing.device,
            key: pairing.key,
            principal: acts_for,
            asked: pairing.verbs,
            verbs: given,
            about: pairing.about.clone(),
            via: ApprovedVia::Owner,
            approved_by: keeper.principal(),
            created_at: hand.now,
            approved_at: hand.now,
            family: Family(watertight_seal::random().map_err(StoreError::from)?),
            token: DeviceToken::default(),
            claim_until: Some(hand.now.plus_millis(CLAIM)),
        },
    )?;
    Ok(row.map_or(Decided::TooMany, |row| Decided::Approved(pairing, Box::new(row))))
}
