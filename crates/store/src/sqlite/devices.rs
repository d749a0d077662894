//! Devices, pairing requests and setup codes. Rare, so records are sealed and opened on the writer, in the transaction
//! that also writes the audit log.
//!
//! * [`paired`]: devices that may act, and their tokens.
//! * [`requests`]: devices that ask, and what is decided about them.
//! * [`invitations`]: setup codes.

mod invitations;
mod paired;
mod requests;

use watertight_core::Caller;
use watertight_core::device::{DeviceBond, DeviceId, DeviceKeeper, PairingId, ProvenDevice};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{CredentialId, TenantId, UnixMillis};
use watertight_core::principal::CredentialRecord;
use watertight_seal::record::Place;
use watertight_seal::token::Token;

use self::invitations::{invite, present, tenant_of_code};
use self::paired::{approve_silently, bond, device_of, devices, issue, withdraw};
use self::requests::{ask, decide, pairings, waiting};
use super::SqliteStore;
use super::authority::{Hand, Issue};
use super::rows;
use crate::device::{
    Asked, Decided, Description, DeviceRow, DeviceStore, Invitation, NewPairing, PairingRow, TOKEN_LIFE, TokenChange,
    Withdrawal,
};
use crate::{StoreError, StoreFuture};

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
        Box::pin(self.look_up(move |conn, vault| paired::device(conn, &*vault.tenant(tenant)?, id)))
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
