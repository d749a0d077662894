//! Looking at devices and requests, deciding, taking away.

use std::sync::Arc;

use watertight_core::device::{DeviceId, DeviceKeeper, PairingId};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{PrincipalId, TenantId, UnixMillis};
use watertight_core::principal::Family;
use watertight_seal::token::{Token, TokenKind};
use watertight_store::StoreError;
use watertight_store::device::{Decided, DeviceRow, PairingRow, Withdrawal};
use zeroize::Zeroizing;

use super::Seat;
use crate::actor::Shared;
use crate::admission::{Access, Held};
use crate::engine::Engine;
use crate::error::EngineError;

/// How long a setup code can be presented, in milliseconds (isolation.md §2.2).
const CODE_LIFE: i64 = 10 * 60 * 1000;
/// Letters and digits of a setup code: five bits each, 130 in all.
const CODE_LEN: usize = 26;

/// What a connection may see of pairing.
#[derive(Clone, Copy, Debug)]
pub struct Keeper {
    tenant: TenantId,
    principal: PrincipalId,
    everyone: bool,
}

impl Keeper {
    /// Whether a request of this tenant, which this principal invited, is its business.
    pub fn sees(&self, tenant: TenantId, invited_by: Option<PrincipalId>) -> bool {
        self.tenant == tenant && (self.everyone || invited_by == Some(self.principal))
    }
}

/// A setup code, shown this once.
pub struct Invited {
    /// The code.
    pub code: Zeroizing<String>,
    /// When it ends.
    pub expires_at: UnixMillis,
}

/// What was taken from a device.
pub struct Withdrawn {
    /// The device as it is now.
    pub device: DeviceRow,
    /// When.
    pub at: UnixMillis,
    /// What ends with it.
    pub ending: Ending,
}

/// The connections of a device that was taken something from. They end when this is dropped, at the latest.
pub struct Ending {
    shared: Arc<Shared>,
    tenant: TenantId,
    device: DeviceId,
    family: Family,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Self { shared, tenant, device, family } = self;
        let closed = shared.admission.end_family(*tenant, *family) + shared.devices.end(*tenant, *device);
        tracing::info!(%device, closed, "something was taken from a device");
    }
}

impl Engine {
    fn device_keeper(&self, access: &Access) -> Result<DeviceKeeper, EngineError> {
        self.admission().keep_devices(access)
    }

    /// What the caller may see of pairing; none when nothing.
    pub fn pairing_view(&self, access: &Access) -> Option<Keeper> {
        let keeper = self.device_keeper(access).ok()?;
        Some(Keeper { tenant: keeper.tenant(), principal: keeper.principal(), everyone: keeper.keeps(None) })
    }

    /// Ends `held` with the device.
    pub fn hold_device(&self, seat: &Seat, held: &Arc<dyn Held>) {
        self.devices_in_use().hold(seat, held);
    }

    /// Requests that wait and that the caller may decide, oldest first.
    pub async fn pairings(&self, access: &Access) -> Result<Vec<PairingRow>, EngineError> {
        Ok(self.store().pairings(&self.device_keeper(access)?, self.now()).await?)
    }

    /// The caller's devices, oldest first, each with whether it is connected.
    pub async fn devices(&self, access: &Access) -> Result<Vec<(DeviceRow, bool)>, EngineError> {
        let keeper = self.device_keeper(access)?;
        let rows = self.store().devices(&keeper).await?;
        let open = |row: &DeviceRow| self.devices_in_use().is_open(keeper.tenant(), row.id);
        Ok(rows
            .into_iter()
            .map(|row| {
                let is_open = open(&row);
                (row, is_open)
            })
            .collect())
    }

    /// Approves exactly this request, for no more than the caller holds at this moment; `shown`, where given, is the
    /// fingerprint the caller saw.
    pub async fn approve_pairing(
        &self,
        access: &Access,
        request: PairingId,
        shown: Option<DeviceId>,
    ) -> Result<Decided, EngineError> {
        self.decide(access, request, shown, true).await
    }

    /// Rejects exactly this request.
    pub async fn reject_pairing(&self, access: &Access, request: PairingId) -> Result<Decided, EngineError> {
        self.decide(access, request, None, false).await
    }

    async fn decide(
        &self,
        access: &Access,
        request: PairingId,
        shown: Option<DeviceId>,
        approve: bool,
    ) -> Result<Decided, EngineError> {
        let keeper = self.device_keeper(access)?;
        Ok(self.store().decide_pairing(&keeper, request, shown, approve, self.now()).await?)
    }

    /// Takes something from a device; none when the caller has no such device.
    pub async fn withdraw(
        &self,
        access: &Access,
        device: DeviceId,
        what: Withdrawal,
    ) -> Result<Option<Withdrawn>, EngineError> {
        let keeper = self.device_keeper(access)?;
        let (tenant, at) = (keeper.tenant(), self.now());
        let Some(change) = self.store().withdraw(&keeper, device, what, at).await? else { return Ok(None) };
        let ending = Ending { shared: self.shared().clone(), tenant, device, family: change.device.family };
        Ok(Some(Withdrawn { device: change.device, at, ending }))
    }

    /// The token in place of the one that a device has just given up, for the device itself. None when it has fetched
    /// one meanwhile.
    pub async fn rotated_token(&self, withdrawn: &Withdrawn) -> Result<Option<Zeroizing<String>>, EngineError> {
        let token = Token::generate(TokenKind::Device).map_err(StoreError::from)?;
        let (tenant, device) = (withdrawn.ending.tenant, withdrawn.device.id);
        let issued = self.store().issue_device_token(tenant, device, None, &token, self.now()).await?;
        Ok(issued.map(|_| token.expose()))
    }

    /// Makes a setup code, which lets one device ask for at most `verbs`. None when too many wait.
    pub async fn invite_device(&self, access: &Access, verbs: VerbSet) -> Result<Option<Invited>, EngineError> {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
        let keeper = self.device_keeper(access)?;
        let now = self.now();
        let expires_at = now.plus_millis(CODE_LIFE);
        let bytes: Zeroizing<[u8; CODE_LEN]> = Zeroizing::new(watertight_seal::random().map_err(StoreError::from)?);
        let code: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        let code = Zeroizing::new(code);
        let stored = self.store().invite_device(&keeper, &code, verbs, expires_at, now).await?;
        Ok(stored.then_some(Invited { code, expires_at }))
    }
}
