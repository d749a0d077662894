//! A proven device at the door.

use watertight_core::device::{DeviceId, PairingId, ProvenDevice};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{PrincipalId, TenantId, UnixMillis};
use watertight_seal::token::{Token, TokenKind};
use watertight_store::StoreError;
use watertight_store::device::{Asked, Description, DeviceRow, NewPairing, PairingRow};
use zeroize::Zeroizing;

use super::Seat;
use crate::admission::{Access, AuthFailure};
use crate::engine::Engine;

/// How long a pairing request waits, in milliseconds (isolation.md §2.2).
const PAIRING_LIFE: i64 = 10 * 60 * 1000;

/// A device that knocks.
#[derive(Debug)]
pub struct Newcomer {
    /// Its key, proved.
    pub device: ProvenDevice,
    /// What it asks for.
    pub requested: VerbSet,
    /// What it says of itself.
    pub about: Description,
    /// Its address as limits count it.
    pub source: String,
    /// Whether it is on this machine, with nobody in between.
    pub near: bool,
}

/// A device that was let in.
#[derive(Debug)]
pub struct Let {
    /// What it may do.
    pub access: Access,
    /// What is opened on it ends with it.
    pub seat: Option<Seat>,
    /// Its new token, to be shown this once, with the time of its issue.
    pub token: Option<(Zeroizing<String>, UnixMillis)>,
}

/// A device that was not let in, and may ask to be.
#[derive(Debug)]
pub struct Wanting {
    tenant: TenantId,
    invited_by: Option<PrincipalId>,
    verbs: VerbSet,
    /// What it is approved for; none when it is not known.
    pub approved: Option<VerbSet>,
}

/// What comes of knocking.
#[derive(Debug)]
pub enum Arrival {
    /// In.
    In(Box<Let>),
    /// It has to be paired, or to be given more, first.
    Pair(Wanting),
}

/// A request that waits for somebody's decision.
#[derive(Debug)]
pub struct Pending {
    /// In which tenant.
    pub tenant: TenantId,
    /// The request.
    pub request: PairingRow,
    /// Whether it was made just now.
    pub is_new: bool,
    /// The request of the same device whose place it took.
    pub superseded: Option<PairingRow>,
}

/// Names a request that is over, for those who saw it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The request.
    pub request: PairingId,
    /// The device.
    pub device: DeviceId,
}

impl Engine {
    /// A device beside a secret that was accepted. On this machine and with the operator's secret it is approved at
    /// once, for no more than it asks and the secret gives; elsewhere it must have been approved. A secret that is not
    /// an operator's opens what it opens, with or without a device.
    pub async fn arrive_with_secret(&self, access: Access, from: &Newcomer) -> Result<Arrival, AuthFailure> {
        let bare = |access| Ok(Arrival::In(Box::new(Let { access, seat: None, token: None })));
        if !access.is_operator_secret() {
            return bare(access);
        }
        let (tenant, principal) = access.identity();
        let seen = self.devices_in_use().changes();
        let store = self.store();
        let known = store.device(tenant, &from.device).await.map_err(unavailable)?;
        if known.as_ref().is_some_and(|row| row.principal != principal) {
            // Somebody else's device: the secret speaks for itself.
            return bare(access);
        }
        let row = match known {
            Some(row) if holds(row.verbs, from.requested) || (!from.near && covers(&row, from.requested)) => row,
            _ if from.near => {
                let (about, now) = (from.about.clone(), self.now());
                let approved = store.approve_silently(access.caller(), &from.device, from.requested, about, now).await;
                match approved.map_err(unavailable)? {
                    Some(row) => row,
                    None => return bare(access),
                }
            }
            known => {
                let approved = known.map(|row| row.verbs);
                return Ok(Arrival::Pair(Wanting { tenant, invited_by: None, verbs: from.requested, approved }));
            }
        };
        let token = self.token_for(tenant, &from.device, &row).await?;
        let seat = Some(Seat { tenant, device: from.device.id(), seen });
        Ok(Arrival::In(Box::new(Let { access: access.narrowed(row.verbs), seat, token })))
    }

    /// A device with its token.
    pub async fn arrive_with_token(&self, text: &str, from: &Newcomer) -> Result<Arrival, AuthFailure> {
        let seen = self.devices_in_use().changes();
        let access = self.admission().device_caller(&from.device, text, from.requested).await?;
        let (tenant, _) = access.identity();
        let row = self.store().device(tenant, &from.device).await.map_err(unavailable)?;
        let row = row.ok_or(AuthFailure::Mismatch)?;
        Ok(if covers(&row, from.requested) {
            let seat = Some(Seat { tenant, device: from.device.id(), seen });
            Arrival::In(Box::new(Let { access, seat, token: None }))
        } else {
            let (invited_by, approved) = (Some(row.principal), Some(row.verbs));
            Arrival::Pair(Wanting { tenant, invited_by, verbs: from.requested, approved })
        })
    }

    /// A device with nothing but its key. After an approval the key fetches the device's token, once.
    pub async fn arrive(&self, from: &Newcomer) -> Result<Arrival, AuthFailure> {
        if let Some(arrival) = self.claim(from).await? {
            return Ok(arrival);
        }
        let tenant = self.admission().gateway();
        let known = self.store().device(tenant, &from.device).await.map_err(unavailable)?;
        let approved = known.map(|row| row.verbs);
        Ok(Arrival::Pair(Wanting { tenant, invited_by: None, verbs: from.requested, approved }))
    }

    /// A device with a setup code, which is this device's alone from now on. It does not let in; it brings the request
    /// before whoever made it, for no more than was invited to.
    pub async fn arrive_with_code(&self, code: &str, from: &Newcomer) -> Result<Arrival, AuthFailure> {
        if let Some(arrival) = self.claim(from).await? {
            return Ok(arrival);
        }
        let found = self.store().present_setup_code(&from.device, code, self.now()).await.map_err(unavailable)?;
        let invitation = found.ok_or(AuthFailure::Mismatch)?;
        Ok(Arrival::Pair(Wanting {
            tenant: invitation.tenant,
            invited_by: Some(invitation.invited_by),
            verbs: from.requested.meet(invitation.verbs),
            approved: None,
        }))
    }

    async fn claim(&self, from: &Newcomer) -> Result<Option<Arrival>, AuthFailure> {
        let (now, seen) = (self.now(), self.devices_in_use().changes());
        let Some((tenant, row)) = self.store().claimable(&from.device, now).await.map_err(unavailable)? else {
            return Ok(None);
        };
        if !covers(&row, from.requested) {
            let (invited_by, approved) = (Some(row.principal), Some(row.verbs));
            return Ok(Some(Arrival::Pair(Wanting { tenant, invited_by, verbs: from.requested, approved })));
        }
        // In place of one that has ended, or that the device lost. Somebody with the same key who was quicker leaves
        // this one nothing to show.
        let Some(token) = self.issue(tenant, &from.device, &row, now).await? else { return Ok(None) };
        self.admission().end_family(tenant, row.family);
        let access = self.admission().device_caller(&from.device, &token.0, from.requested).await?;
        let seat = Some(Seat { tenant, device: from.device.id(), seen });
        Ok(Some(Arrival::In(Box::new(Let { access, seat, token: Some(token) }))))
    }

    /// Asks for it. None when too many requests wait.
    pub async fn ask_pairing(&self, wanting: Wanting, from: &Newcomer) -> Result<Option<Pending>, AuthFailure> {
        let Wanting { tenant, invited_by, verbs, .. } = wanting;
        let now = self.now();
        let new = NewPairing {
            tenant,
            verbs,
            about: from.about.clone(),
            source: from.source.clone(),
            invited_by,
            expires_at: now.plus_millis(PAIRING_LIFE),
        };
        let asked = self.store().ask_pairing(&from.device, new, now).await.map_err(unavailable)?;
        Ok(match asked {
            Asked::New(request, superseded) => {
                Some(Pending { tenant, request: *request, is_new: true, superseded: superseded.map(|former| *former) })
            }
            Asked::Waiting(request) => Some(Pending { tenant, request: *request, is_new: false, superseded: None }),
            Asked::TooMany => None,
        })
    }

    /// A new token for a device that has none that holds; none for one that has.
    async fn token_for(
        &self,
        tenant: TenantId,
        device: &ProvenDevice,
        row: &DeviceRow,
    ) -> Result<Option<(Zeroizing<String>, UnixMillis)>, AuthFailure> {
        let now = self.now();
        if self.holds_token(row, now).await? {
            return Ok(None);
        }
        self.issue(tenant, device, row, now).await
    }

    async fn issue(
        &self,
        tenant: TenantId,
        device: &ProvenDevice,
        row: &DeviceRow,
        now: UnixMillis,
    ) -> Result<Option<(Zeroizing<String>, UnixMillis)>, AuthFailure> {
        let token = Token::generate(TokenKind::Device).map_err(|_| AuthFailure::Unavailable)?;
        let former = row.token.credential.as_deref();
        let store = self.store();
        let issued = store.issue_device_token(tenant, device.id(), former, &token, now).await.map_err(unavailable)?;
        Ok(issued.map(|_| (token.expose(), now)))
    }

    /// Whether the device's token can still be used.
    async fn holds_token(&self, row: &DeviceRow, now: UnixMillis) -> Result<bool, AuthFailure> {
        let Some(id) = row.token.credential.as_deref().and_then(watertight_core::ids::CredentialId::parse) else {
            return Ok(false);
        };
        let found = self.store().device_credential(&id).await.map_err(unavailable)?;
        Ok(found.is_some_and(|(record, _)| record.terms().is_some_and(|terms| !terms.is_over(terms.used_at, now))))
    }
}

/// Whether somebody has decided about all that is asked for. What was refused then is not asked about again: the device
/// is let in with what it was given.
fn covers(row: &DeviceRow, requested: VerbSet) -> bool {
    holds(row.verbs.union(row.asked), requested)
}

fn holds(held: VerbSet, requested: VerbSet) -> bool {
    requested.meet(held) == requested.meet(requested)
}

fn unavailable(error: StoreError) -> AuthFailure {
    tracing::error!(%error, "a device could not be looked up");
    AuthFailure::Unavailable
}
