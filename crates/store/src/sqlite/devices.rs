//! Devices, pairing requests and setup codes. Rare, so records are sealed and opened on the writer, in the transaction
//! that also writes the audit log.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use watertight_core::Caller;
use watertight_core::device::{self, DeviceBond, DeviceId, DeviceKeeper, NotApproved, PairingId, ProvenDevice};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{CredentialId, PrincipalId, TenantId, UnixMillis};
use watertight_core::principal::{CredentialRecord, Family};
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::Place;
use watertight_seal::token::Token;

use super::SqliteStore;
use super::authority::{Hand, Issue};
use super::fault::Fault;
use super::rows::{self, CredentialColumns, open_json, seal_json};
use crate::authority::Revoke;
use crate::device::{
    ApprovedVia, Asked, Decided, Description, DeviceRow, DeviceStore, DeviceToken, Invitation, MAX_DEVICES,
    MAX_PAIRINGS, MAX_SETUP_CODES, NewPairing, PairingRow, TOKEN_LIFE, TokenChange, Withdrawal,
};
use crate::{StoreError, StoreFuture};

/// How long an approved device may take to fetch its token with its key alone, in milliseconds: a day.
const CLAIM: i64 = 24 * 60 * 60 * 1000;

/// Letters and digits that are not mistaken for one another. 32 of them: five bits each.
const CODE: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// A setup code that waits.
#[derive(Serialize, Deserialize)]
struct Setup {
    invited_by: PrincipalId,
    verbs: VerbSet,
    /// The first device that presented it; nobody else may.
    device: Option<DeviceId>,
    expires_at: UnixMillis,
}

/// Where a record stands.
fn place<'a>(table: &'static str, row: &'a [u8]) -> Place<'a> {
    Place { lifecycle: 0, generation: 0, table, column: "record", row, seq: 0, role: 0 }
}

impl Hand {
    fn keeping(store: &SqliteStore, keeper: &DeviceKeeper, now: UnixMillis) -> Result<Self, StoreError> {
        let credential = keeper.credential().map(|id| id.as_str().to_owned());
        Ok(Self { keys: store.vault.tenant(keeper.tenant())?, principal: Some(keeper.principal()), credential, now })
    }
}

impl DeviceStore for SqliteStore {
    fn device_credential<'a>(
        &'a self,
        id: &'a CredentialId,
    ) -> StoreFuture<'a, Option<(CredentialRecord, DeviceBond)>> {
        let id = id.clone();
        Box::pin(self.look_up(move |conn, vault| {
            let Some(record) = rows::credential(conn, vault, id.as_str())? else { return Ok(None) };
            let Some(family) = record.terms().map(|terms| terms.family) else { return Ok(None) };
            let bond = bond(conn, &*vault.tenant(record.tenant())?, &id, family)?;
            Ok(bond.map(|bond| (record, bond)))
        }))
    }

    fn device<'a>(&'a self, tenant: TenantId, device: &'a ProvenDevice) -> StoreFuture<'a, Option<DeviceRow>> {
        let id = device.id();
        Box::pin(self.look_up(move |conn, vault| self::device(conn, &*vault.tenant(tenant)?, id)))
    }

    fn claimable<'a>(
        &'a self,
        device: &'a ProvenDevice,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<(TenantId, DeviceRow)>> {
        let id = device.id();
        Box::pin(self.look_up(move |conn, vault| {
            let mut statement =
                conn.prepare_cached("SELECT tenant, record FROM devices WHERE device = ?1 ORDER BY tenant")?;
            let mut rows = statement.query([id.as_bytes()])?;
            while let Some(row) = rows.next()? {
                let (tenant, sealed): ([u8; 16], Vec<u8>) = (row.get(0)?, row.get(1)?);
                let tenant = TenantId::from_bytes(tenant);
                let row = device_of(&*vault.tenant(tenant)?, id.as_bytes(), &sealed)?;
                if row.claim_until.is_some_and(|end| now <= end) {
                    return Ok(Some((tenant, row)));
                }
            }
            Ok(None)
        }))
    }

    fn present_setup_code<'a>(
        &'a self,
        device: &'a ProvenDevice,
        code: &'a str,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<Invitation>> {
        let hash = *self.vault.hasher().hash(code.as_bytes()).as_bytes();
        Box::pin(async move {
            let Some(tenant) = self.look_up(move |conn, _| tenant_of_code(conn, &hash)).await? else { return Ok(None) };
            let (keys, device) = (self.vault.tenant(tenant)?, device.clone());
            let found = self.writer.submit(move |conn| present(conn, &keys, &hash, &device, now)).await?;
            Ok(found.map(|(invited_by, verbs)| Invitation { tenant, invited_by, verbs }))
        })
    }

    fn ask_pairing<'a>(&'a self, device: &'a ProvenDevice, new: NewPairing, now: UnixMillis) -> StoreFuture<'a, Asked> {
        Box::pin(async move {
            let (keys, device) = (self.vault.tenant(new.tenant)?, device.clone());
            // Whoever knocks again and again keeps readers busy, not the writer.
            let (read_keys, id, same) = (keys.clone(), device.id(), new.clone());
            let waiting = self.read(move |conn, _| waiting(conn, &read_keys, id, &same, now)).await?;
            if let Some(row) = waiting {
                return Ok(Asked::Waiting(Box::new(row)));
            }
            self.writer.submit(move |conn| ask(conn, &keys, &device, new, now)).await
        })
    }

    fn issue_device_token<'a>(
        &'a self,
        tenant: TenantId,
        device: DeviceId,
        former: Option<&'a str>,
        token: &'a Token,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<DeviceRow>> {
        Box::pin(async move {
            let hand = Hand { keys: self.vault.tenant(tenant)?, principal: None, credential: None, now };
            let former = former.map(str::to_owned);
            let (id, kind, hash) = (token.id().clone(), token.kind(), self.vault.hasher().hash_token(token));
            let [idle, life] = TOKEN_LIFE;
            let new = move |row: &DeviceRow| Issue {
                id,
                kind,
                hash,
                principal: row.principal,
                family: row.family,
                ceiling: row.verbs,
                not_after: Some(now.plus_millis(i64::try_from(life).unwrap_or(i64::MAX))),
                idle: Some(idle),
                label: row.about.display_name.clone(),
            };
            self.writer.submit(move |conn| issue(&hand, conn, device, former.as_deref(), new)).await
        })
    }

    fn approve_silently<'a>(
        &'a self,
        caller: &'a Caller,
        device: &'a ProvenDevice,
        verbs: VerbSet,
        about: Description,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<DeviceRow>> {
        Box::pin(async move {
            let (principal, device, verbs) = (caller.principal(), device.clone(), verbs.meet(caller.ceiling()));
            let credential = caller.terms().map(|terms| terms.id.as_str().to_owned());
            let hand = Hand { keys: self.vault.tenant(caller.tenant())?, principal: Some(principal), credential, now };
            self.writer.submit(move |conn| approve_silently(&hand, conn, &device, principal, verbs, about)).await
        })
    }

    fn pairings<'a>(&'a self, keeper: &'a DeviceKeeper, now: UnixMillis) -> StoreFuture<'a, Vec<PairingRow>> {
        let keeper = keeper.clone();
        Box::pin(self.read(move |conn, vault| {
            let mut found = pairings(conn, &*vault.tenant(keeper.tenant())?, now)?;
            found.retain(|row| keeper.keeps(row.invited_by));
            Ok(found)
        }))
    }

    fn devices<'a>(&'a self, keeper: &'a DeviceKeeper) -> StoreFuture<'a, Vec<DeviceRow>> {
        let keeper = keeper.clone();
        Box::pin(self.read(move |conn, vault| devices(conn, &*vault.tenant(keeper.tenant())?, &keeper)))
    }

    fn decide_pairing<'a>(
        &'a self,
        keeper: &'a DeviceKeeper,
        request: PairingId,
        shown: Option<DeviceId>,
        approve: bool,
        now: UnixMillis,
    ) -> StoreFuture<'a, Decided> {
        Box::pin(async move {
            let (hand, keeper) = (Hand::keeping(self, keeper, now)?, keeper.clone());
            self.writer.submit(move |conn| decide(&hand, conn, &keeper, request, shown, approve)).await
        })
    }

    fn withdraw<'a>(
        &'a self,
        keeper: &'a DeviceKeeper,
        device: DeviceId,
        what: Withdrawal,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<TokenChange>> {
        Box::pin(async move {
            let (hand, keeper) = (Hand::keeping(self, keeper, now)?, keeper.clone());
            self.writer.submit(move |conn| withdraw(&hand, conn, &keeper, device, what)).await
        })
    }

    fn invite_device<'a>(
        &'a self,
        keeper: &'a DeviceKeeper,
        code: &'a str,
        verbs: VerbSet,
        expires_at: UnixMillis,
        now: UnixMillis,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let hash = *self.vault.hasher().hash(code.as_bytes()).as_bytes();
            let (hand, invited_by) = (Hand::keeping(self, keeper, now)?, keeper.principal());
            let verbs = verbs.meet(keeper.verbs());
            self.writer.submit(move |conn| invite(&hand, conn, &hash, invited_by, verbs, expires_at)).await
        })
    }
}

fn device_of(keys: &TenantKeys, id: &[u8], sealed: &[u8]) -> Result<DeviceRow, StoreError> {
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
fn waiting(
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

/// Writes an approved device. What the same key was approved for before, by whoever acts for the same principal, it
/// keeps; for another principal it begins anew, and its tokens end.
fn approved(
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
fn forget_invitation(conn: &Connection, keys: &TenantKeys, device: DeviceId) -> Result<(), Fault> {
    for (hash, setup) in setups(conn, keys)? {
        if setup.device == Some(device) {
            conn.prepare_cached("DELETE FROM setup_codes WHERE code_hash = ?1")?.execute([hash])?;
        }
    }
    Ok(())
}
