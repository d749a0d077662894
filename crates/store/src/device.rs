//! Devices, those that ask to become one, and codes that invite one.

use serde::{Deserialize, Serialize};
use watertight_core::Caller;
use watertight_core::device::{DeviceBond, DeviceId, DeviceKeeper, PairingId, ProvenDevice};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{CredentialId, PrincipalId, TenantId, UnixMillis};
use watertight_core::principal::{CredentialRecord, Family};
use watertight_seal::token::Token;

use crate::StoreFuture;

/// Devices as a store keeps them. Part of [`crate::Store`].
pub trait DeviceStore {
    // Without a capability: where authority begins.

    /// The credential with this public id, with the device whose token it is; none for any other credential.
    fn device_credential<'a>(&'a self, id: &'a CredentialId)
    -> StoreFuture<'a, Option<(CredentialRecord, DeviceBond)>>;

    // Under a proven device.

    /// What the tenant knows of the device.
    fn device<'a>(&'a self, tenant: TenantId, device: &'a ProvenDevice) -> StoreFuture<'a, Option<DeviceRow>>;

    /// A tenant in which the device's key alone fetches its token at `now`, after an approval.
    fn claimable<'a>(
        &'a self,
        device: &'a ProvenDevice,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<(TenantId, DeviceRow)>>;

    /// Presents a setup code, which is this device's alone from then on; none when it is over or another's.
    fn present_setup_code<'a>(
        &'a self,
        device: &'a ProvenDevice,
        code: &'a str,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<Invitation>>;

    /// Asks to be paired, or to be given more.
    fn ask_pairing<'a>(&'a self, device: &'a ProvenDevice, new: NewPairing, now: UnixMillis) -> StoreFuture<'a, Asked>;

    /// Stores the device's token in place of `former`; none when that does not hold any more. It lasts as
    /// [`TOKEN_LIFE`] says.
    fn issue_device_token<'a>(
        &'a self,
        tenant: TenantId,
        device: DeviceId,
        former: Option<&'a str>,
        token: &'a Token,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<DeviceRow>>;

    // Under a caller who showed its secret beside the device's proof.

    /// Approves the device at once, for the caller and for no more than it holds; none when there are too many devices.
    fn approve_silently<'a>(
        &'a self,
        caller: &'a Caller,
        device: &'a ProvenDevice,
        verbs: VerbSet,
        about: Description,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<DeviceRow>>;

    // Under the right to keep devices. Every change is in the audit log, in the same transaction.

    /// Requests that are not over and that the keeper may decide, oldest first.
    fn pairings<'a>(&'a self, keeper: &'a DeviceKeeper, now: UnixMillis) -> StoreFuture<'a, Vec<PairingRow>>;

    /// The keeper's devices, oldest first.
    fn devices<'a>(&'a self, keeper: &'a DeviceKeeper) -> StoreFuture<'a, Vec<DeviceRow>>;

    /// Approves or rejects exactly this request; `shown`, where given, is the fingerprint that the decider saw.
    fn decide_pairing<'a>(
        &'a self,
        keeper: &'a DeviceKeeper,
        request: PairingId,
        shown: Option<DeviceId>,
        approve: bool,
        now: UnixMillis,
    ) -> StoreFuture<'a, Decided>;

    /// Takes something from a device; none when the keeper has no such device.
    fn withdraw<'a>(
        &'a self,
        keeper: &'a DeviceKeeper,
        device: DeviceId,
        what: Withdrawal,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<TokenChange>>;

    /// Stores a code that invites one device to ask for at most `verbs`; false when too many wait.
    fn invite_device<'a>(
        &'a self,
        keeper: &'a DeviceKeeper,
        code: &'a str,
        verbs: VerbSet,
        expires_at: UnixMillis,
        now: UnixMillis,
    ) -> StoreFuture<'a, bool>;
}

/// How long a device's token lasts without use, and at all, in milliseconds: 7 and 90 days (isolation.md §2.2).
pub const TOKEN_LIFE: [u64; 2] = [7 * 86_400_000, 90 * 86_400_000];

/// What a setup code is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// In which tenant.
    pub tenant: TenantId,
    /// Who invites.
    pub invited_by: PrincipalId,
    /// The most that may be asked for.
    pub verbs: VerbSet,
}

/// What becomes of a device that is taken something from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It is gone.
    Remove,
    /// Its token holds no longer.
    Revoke,
    /// Its token holds no longer, and its key fetches another that opens no more than this.
    Rotate(Option<VerbSet>),
}

/// What a device says of itself, and where it came from. Believed by nobody; shown to whoever decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its operating system.
    pub platform: String,
    /// What sort of machine it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Which program.
    pub client_id: String,
    /// In what way it connects.
    pub client_mode: String,
    /// The address it came from.
    pub address: String,
}

/// How a device came to be approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovedVia {
    /// Somebody looked at its request.
    Owner,
    /// On the gateway's own machine, with the operator's secret.
    Silent,
}

/// A device that may act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Fingerprint of its key.
    pub id: DeviceId,
    /// Its public key, raw.
    pub key: [u8; 32],
    /// Whom it acts for.
    pub principal: PrincipalId,
    /// What it asked for when it was approved.
    pub asked: VerbSet,
    /// The most it may do.
    pub verbs: VerbSet,
    /// What it says of itself.
    pub about: Description,
    /// How it was approved.
    pub via: ApprovedVia,
    /// By whom.
    pub approved_by: PrincipalId,
    /// When it was first approved.
    pub created_at: UnixMillis,
    /// When it was last approved.
    pub approved_at: UnixMillis,
    /// All its tokens are of this family.
    pub family: Family,
    /// Its token.
    pub token: DeviceToken,
    /// Until when its key alone gets it a token: after an approval or a rotation, once.
    pub claim_until: Option<UnixMillis>,
}

/// A device's token; the secret is nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceToken {
    /// The public part of the one that holds; none before the first and after it was revoked.
    pub credential: Option<String>,
    /// When the first was issued.
    pub created_at: Option<UnixMillis>,
    /// When it was last replaced.
    pub rotated_at: Option<UnixMillis>,
    /// When it was revoked, if none was issued since.
    pub revoked_at: Option<UnixMillis>,
}

/// A device that asks to be paired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingRow {
    /// Names the request. An approval names it.
    pub id: PairingId,
    /// Fingerprint of the device's key.
    pub device: DeviceId,
    /// The key, raw.
    pub key: [u8; 32],
    /// What people compare: eight letters and digits, shown on both sides.
    pub code: String,
    /// What it asks for.
    pub verbs: VerbSet,
    /// What it says of itself.
    pub about: Description,
    /// The address as limits count it.
    pub source: String,
    /// Who invited it with a setup code.
    pub invited_by: Option<PrincipalId>,
    /// Whether the device is known and wants something more.
    pub known: bool,
    /// When it asked.
    pub requested_at: UnixMillis,
    /// When the request ends by itself.
    pub expires_at: UnixMillis,
}

impl PairingRow {
    /// Whether it can still be decided.
    pub fn is_live(&self, now: UnixMillis) -> bool {
        now < self.expires_at
    }
}

/// What a device asks with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPairing {
    /// In which tenant.
    pub tenant: TenantId,
    /// What it asks for.
    pub verbs: VerbSet,
    /// What it says of itself.
    pub about: Description,
    /// The address as limits count it.
    pub source: String,
    /// Who invited it.
    pub invited_by: Option<PrincipalId>,
    /// When the request is to end by itself.
    pub expires_at: UnixMillis,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A new request; it takes the place of this other one of the same device.
    New(Box<PairingRow>, Option<Box<PairingRow>>),
    /// The same was asked before and waits.
    Waiting(Box<PairingRow>),
    /// Too many wait, of this address or of all.
    TooMany,
}

/// Requests that wait at the most, of one address and of one tenant.
pub const MAX_PAIRINGS: [usize; 2] = [3, 256];
/// Devices of one tenant at the most.
pub const MAX_DEVICES: usize = 4096;
/// Setup codes of one tenant that wait at the most.
pub const MAX_SETUP_CODES: usize = 64;

/// What somebody decided about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// The device may act.
    Approved(PairingRow, Box<DeviceRow>),
    /// The request is gone.
    Rejected(PairingRow),
    /// There is no such request, or it is over, or another one's key, or somebody else's.
    Unknown,
    /// The caller holds nothing of what the device asks for.
    NothingInCommon,
    /// There are too many devices.
    TooMany,
}

/// What became of a device's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenChange {
    /// The device as it is now.
    pub device: DeviceRow,
    /// Tokens that no longer hold.
    pub ended: Vec<CredentialId>,
}
