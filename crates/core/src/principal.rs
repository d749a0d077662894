//! Principals and the credentials that prove them.

use subtle::ConstantTimeEq;

use crate::grant::VerbSet;
use crate::ids::{AuthEpoch, PrincipalId, TenantId, UnixMillis};

/// What sort of caller a principal is. Decides how its bare keys resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// Runs the gateway of a tenant; bare keys and the sentinels are its own.
    Operator,
    /// A person; bare keys resolve inside the home prefix.
    User,
    /// A program acting for itself or, with `session.assert`, for users.
    Service,
}

/// A principal as credentials and scopes carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The tenant it lives in.
    pub tenant: TenantId,
    /// Its id inside the tenant.
    pub id: PrincipalId,
    /// What sort of caller it is.
    pub kind: PrincipalKind,
}

/// Keyed hash of a presented secret. The secret itself never reaches core.
#[derive(Clone)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Wraps the hash that `seal` computed.
    pub fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// What a credential demands before it is believed.
#[derive(Clone)]
pub enum Demand {
    /// A secret whose keyed hash is this.
    Secret(SecretHash),
    /// Nothing: `gateway.auth.mode = "none"`, which the server allows on loopback only.
    Nothing,
}

/// What the caller presented.
pub enum Proof {
    /// The keyed hash of a token or password.
    Secret(SecretHash),
    /// No credential at all.
    Absent,
}

/// A credential as the store or, for shared secrets, the configuration holds it.
pub struct CredentialRecord {
    pub(crate) principal: Principal,
    pub(crate) demand: Demand,
    pub(crate) ceiling: VerbSet,
    pub(crate) auth_epoch: AuthEpoch,
    pub(crate) not_after: Option<UnixMillis>,
    pub(crate) revoked: bool,
}

impl CredentialRecord {
    /// Row decoding: a credential read from the store.
    pub fn decode(
        principal: Principal,
        hash: SecretHash,
        ceiling: VerbSet,
        auth_epoch: AuthEpoch,
        not_after: Option<UnixMillis>,
        revoked: bool,
    ) -> Self {
        Self { principal, demand: Demand::Secret(hash), ceiling, auth_epoch, not_after, revoked }
    }

    /// A shared secret (or, in mode `none`, its absence) that the configuration names; acts as `principal`.
    pub fn from_config(principal: Principal, demand: Demand, auth_epoch: AuthEpoch) -> Self {
        Self { principal, demand, ceiling: VerbSet::all(), auth_epoch, not_after: None, revoked: false }
    }

    pub(crate) fn accepts(&self, proof: &Proof) -> bool {
        match (&self.demand, proof) {
            (Demand::Nothing, _) => true,
            (Demand::Secret(stored), Proof::Secret(shown)) => stored.matches(shown),
            (Demand::Secret(_), Proof::Absent) => false,
        }
    }
}
