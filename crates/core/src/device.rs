//! Devices: the key that names one, and what its approval gives (isolation.md §2.2, §2.3; gateway-ws.md §1.7).

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::grant::{Grants, Verb, VerbSet};
use crate::ids::{CredentialId, PrincipalId, TenantId, UnixMillis};
use crate::principal::{CredentialKind, CredentialRecord, Proof};
use crate::scope::{self, Caller, Denied};

/// Fingerprint of a device's key: the SHA-256 of its 32 bytes. `device.id` of the wire is this in hex. Proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId([u8; 32]);

impl DeviceId {
    /// The fingerprint that was computed from a key, or stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads exactly 64 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

/// A device whose key signed this connection's challenge. Only `seal::device` makes one, after it verified the
/// signature. It says which key is at the other end, and nothing of what that key may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenDevice {
    id: DeviceId,
    key: [u8; 32],
}

impl ProvenDevice {
    /// Called by `seal::device` with a key whose signature it verified, and the key's fingerprint.
    pub fn verified(id: DeviceId, key: [u8; 32]) -> Self {
        Self { id, key }
    }

    /// The fingerprint.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The public key, raw.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

/// Names one request to be paired: random, made by us, never used for another. An approval names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PairingId(Uuid);

impl PairingId {
    /// The id made of these 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Reads a UUID as the wire carries it.
    pub fn parse(text: &str) -> Option<Self> {
        // One spelling only: no braces, no capitals.
        Uuid::try_parse(text).ok().filter(|uuid| uuid.to_string() == text).map(Self)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for PairingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What binds a device's token to the device: only together with this key does the token open anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceBond {
    device: DeviceId,
    principal: PrincipalId,
    credential: CredentialId,
    verbs: VerbSet,
}

impl DeviceBond {
    /// Row decoding: the device whose token this credential is, whom it acts for, and the most it may do.
    pub fn decode(device: DeviceId, principal: PrincipalId, credential: CredentialId, verbs: VerbSet) -> Self {
        Self { device, principal, credential, verbs }
    }
}

/// Verifies a device's token. The only way to a [`Caller`] from one; whoever has the token and not the key gets none.
pub fn authenticate_device(
    record: &CredentialRecord,
    proof: &Proof,
    bond: &DeviceBond,
    proven: &ProvenDevice,
    now: UnixMillis,
) -> Result<Caller, Denied> {
    // The comparison of the secret runs first and always.
    let stands = record.stands(proof, now);
    let ours = record.terms.as_ref().is_some_and(|terms| {
        terms.kind == CredentialKind::Device && terms.id == bond.credential && record.principal.id == bond.principal
    });
    if stands && ours && bond.device == proven.id() {
        Ok(scope::caller(record).narrowed(bond.verbs))
    } else {
        Err(Denied::Credential)
    }
}

/// The right to say which devices of a tenant may act, for whom, and with what.
#[derive(Clone, Debug)]
pub struct DeviceKeeper {
    tenant: TenantId,
    principal: PrincipalId,
    credential: Option<CredentialId>,
    verbs: VerbSet,
    everyone: bool,
}

/// Checks that the caller may pair devices, by grant and by credential. Who may so on every key keeps the devices of all
/// principals, anybody else its own. The only way to a [`DeviceKeeper`].
pub fn keep_devices(caller: &Caller, grants: &Grants, now: UnixMillis) -> Result<DeviceKeeper, Denied> {
    if !grants.belong_to(caller.tenant(), caller.principal()) {
        return Err(Denied::NotPermitted);
    }
    let granted: VerbSet = Verb::ALL.into_iter().filter(|verb| grants.prefixes(*verb, now).next().is_some()).collect();
    let verbs = granted.meet(caller.ceiling());
    if !verbs.allows(Verb::Pairing) {
        return Err(Denied::NotPermitted);
    }
    Ok(DeviceKeeper {
        tenant: caller.tenant(),
        principal: caller.principal(),
        credential: caller.terms().map(|terms| terms.id.clone()),
        verbs,
        everyone: grants.verbs_everywhere(now).meet(caller.ceiling()).allows(Verb::Pairing),
    })
}

impl DeviceKeeper {
    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Who keeps them; a device that it approves acts for it.
    pub fn principal(&self) -> PrincipalId {
        self.principal
    }

    /// With which credential; none for a secret of the configuration.
    pub fn credential(&self) -> Option<&CredentialId> {
        self.credential.as_ref()
    }

    /// What it holds at this moment, on some key at least.
    pub fn verbs(&self) -> VerbSet {
        self.verbs
    }

    /// Whether it keeps a device that acts for `principal`, or a request that this principal invited; none means that
    /// nobody did.
    pub fn keeps(&self, principal: Option<PrincipalId>) -> bool {
        self.everyone || principal == Some(self.principal)
    }
}

/// Why a device was not approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// The caller may not pair devices.
    #[error("pairing a device needs the verb pairing")]
    NotAllowed,
    /// The caller holds nothing of what the device asks for.
    #[error("the caller holds nothing of what the device asks for")]
    NothingInCommon,
}

/// What approving a request gives its device: what it asked for, as far as the approver holds it at this moment. Never
/// more than either (isolation.md §2.3). A device that asks for nothing gets nothing, which is enough to be known.
pub fn approve(requested: VerbSet, approver: VerbSet) -> Result<VerbSet, NotApproved> {
    if !approver.allows(Verb::Pairing) {
        return Err(NotApproved::NotAllowed);
    }
    let given = requested.meet(approver);
    if given.is_empty() && !requested.is_empty() {
        return Err(NotApproved::NothingInCommon);
    }
    Ok(given)
}

/// What a new token of a device may open: what the device holds and, where named, no more than that; and no more than
/// whoever rotates it holds at this moment (isolation.md §2.3).
#[must_use]
pub fn rotate(held: VerbSet, named: Option<VerbSet>, caller: VerbSet) -> VerbSet {
    held.meet(named.unwrap_or(held)).meet(caller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Grant;
    use crate::ids::AuthEpoch;
    use crate::key::KeyPrefix;
    use crate::principal::{CredentialTerms, Family, Principal, PrincipalKind, SecretHash};
    use proptest::prelude::*;

    fn verb_sets() -> impl Strategy<Value = VerbSet> {
        any::<u16>().prop_map(VerbSet::from_bits)
    }

    proptest! {
        #[test]
        fn an_approval_never_gives_more_than_was_asked_for_or_is_held(asked in verb_sets(), held in verb_sets()) {
            let Ok(given) = approve(asked, held) else { return Ok(()) };
            prop_assert!(held.allows(Verb::Pairing));
            for verb in Verb::ALL {
                prop_assert_eq!(given.allows(verb), asked.allows(verb) && held.allows(verb));
            }
        }

        #[test]
        fn a_rotation_never_widens(held in verb_sets(), named in verb_sets(), caller in verb_sets()) {
            let given = rotate(held, Some(named), caller);
            for verb in Verb::ALL {
                prop_assert!(!given.allows(verb) || (held.allows(verb) && named.allows(verb) && caller.allows(verb)));
            }
        }
    }

    #[test]
    fn an_approver_with_fewer_scopes_narrows_and_one_without_any_is_refused() {
        let of = |verbs: &[Verb]| verbs.iter().copied().collect::<VerbSet>();
        let asked = of(&[Verb::Admin]);
        let given = approve(asked, of(&[Verb::Pairing, Verb::Read])).unwrap();
        assert!(given.allows(Verb::Read) && !given.allows(Verb::Write) && !given.allows(Verb::Admin));
        assert_eq!(approve(asked, of(&[Verb::Write])), Err(NotApproved::NotAllowed));
        assert_eq!(approve(of(&[Verb::Write]), of(&[Verb::Pairing])), Err(NotApproved::NothingInCommon));
        assert_eq!(approve(VerbSet::NONE, of(&[Verb::Pairing])), Ok(VerbSet::NONE));
    }

    const TENANT: TenantId = TenantId::from_bytes([1; 16]);
    const OWNER: PrincipalId = PrincipalId::from_bytes([2; 16]);
    const NOW: UnixMillis = UnixMillis(1000);

    fn record(kind: CredentialKind, ceiling: VerbSet) -> CredentialRecord {
        let terms = CredentialTerms {
            id: CredentialId::parse("0123456789abcdef").unwrap(),
            kind,
            family: Family([3; 16]),
            not_after: Some(UnixMillis(2000)),
            idle: None,
            used_at: NOW,
        };
        let principal = Principal { tenant: TENANT, id: OWNER, kind: PrincipalKind::User };
        CredentialRecord::decode(principal, SecretHash::new([4; 32]), ceiling, AuthEpoch(1), terms, false)
    }

    fn shown(byte: u8) -> Proof {
        Proof::Secret(SecretHash::new([byte; 32]))
    }

    #[test]
    fn a_device_token_needs_its_secret_its_key_its_kind_and_its_time() {
        let (id, other) = (DeviceId::from_bytes([5; 32]), DeviceId::from_bytes([6; 32]));
        let (proven, stranger) = (ProvenDevice::verified(id, [5; 32]), ProvenDevice::verified(other, [6; 32]));
        let credential = || CredentialId::parse("0123456789abcdef").unwrap();
        let read: VerbSet = [Verb::Read].into_iter().collect();
        let bond = DeviceBond::decode(id, OWNER, credential(), read);
        let device = record(CredentialKind::Device, VerbSet::all());
        let caller = authenticate_device(&device, &shown(4), &bond, &proven, NOW).unwrap();
        assert_eq!((caller.principal(), caller.ceiling().allows(Verb::Write)), (OWNER, false));
        assert!(scope::authenticate(&device, &shown(4), NOW).is_err(), "no bearer");

        let access = record(CredentialKind::Access, VerbSet::all());
        let elsewhere = DeviceBond::decode(id, PrincipalId::from_bytes([9; 16]), credential(), read);
        let former = DeviceBond::decode(id, OWNER, CredentialId::parse("fedcba9876543210").unwrap(), read);
        for (record, secret, bond, proven, now) in [
            (&device, 5, &bond, &proven, NOW),
            (&device, 4, &bond, &stranger, NOW),
            (&device, 4, &bond, &proven, UnixMillis(2001)),
            (&access, 4, &bond, &proven, NOW),
            (&device, 4, &elsewhere, &proven, NOW),
            (&device, 4, &former, &proven, NOW),
        ] {
            assert!(authenticate_device(record, &shown(secret), bond, proven, now).is_err());
        }
    }

    #[test]
    fn who_may_pair_on_some_keys_keeps_its_own_devices_only() {
        let all = VerbSet::all();
        let caller = scope::authenticate(&record(CredentialKind::Access, all), &shown(4), NOW).unwrap();
        let grants = |verbs: &[Verb], prefix: &str| {
            let (verbs, prefix) = (verbs.iter().copied().collect(), KeyPrefix::parse(prefix).unwrap());
            Grants::decode(TENANT, OWNER, vec![Grant { verbs, prefix, not_after: Some(NOW) }])
        };
        let (someone, home) = (Some(PrincipalId::from_bytes([9; 16])), "agent:main:user:al");
        let narrow = keep_devices(&caller, &grants(&[Verb::Pairing, Verb::Read], home), NOW).unwrap();
        assert!(narrow.keeps(Some(OWNER)) && !narrow.keeps(someone) && !narrow.keeps(None));
        assert!(narrow.verbs().allows(Verb::Read) && !narrow.verbs().allows(Verb::Write));
        let wide = keep_devices(&caller, &grants(&[Verb::Pairing], "*"), NOW).unwrap();
        assert!(wide.keeps(Some(OWNER)) && wide.keeps(someone) && wide.keeps(None));

        assert!(keep_devices(&caller, &grants(&[Verb::Write], "*"), NOW).is_err(), "without the verb");
        assert!(
            keep_devices(&caller, &grants(&[Verb::Pairing], "*"), UnixMillis(1001)).is_err(),
            "the grant has ended"
        );
        let writer = caller.clone().narrowed([Verb::Write].into_iter().collect());
        assert!(keep_devices(&writer, &grants(&[Verb::Pairing], "*"), NOW).is_err(), "not asked for");
        let others = Grants::decode(TENANT, PrincipalId::from_bytes([9; 16]), Vec::new());
        assert!(keep_devices(&caller, &others, NOW).is_err(), "another's grants");
    }

    #[test]
    fn a_device_and_a_request_have_one_spelling() {
        let id = DeviceId::from_bytes([0xab; 32]);
        assert_eq!(DeviceId::parse(&id.to_string()), Some(id));
        for bad in ["", "ab", &"AB".repeat(32), &"ab".repeat(33), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(DeviceId::parse(bad), None, "{bad}");
        }
        let request = PairingId::from_bytes([7; 16]);
        assert_eq!(PairingId::parse(&request.to_string()), Some(request));
        let text = PairingId::from_bytes([0xab; 16]).to_string();
        for bad in [text.to_uppercase(), format!("{{{text}}}"), text.replace('-', ""), String::new()] {
            assert_eq!(PairingId::parse(&bad), None, "{bad}");
        }
    }
}
