//! Principals and the credentials that prove them.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::grant::VerbSet;
use crate::ids::{AuthEpoch, CredentialId, PrincipalId, TenantId, UnixMillis};

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

impl PrincipalKind {
    /// Its name in lists and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::User => "user",
            Self::Service => "service",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Operator, Self::User, Self::Service].into_iter().find(|kind| kind.name() == name)
    }
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

/// What a credential is for; the first four characters of its token say so (isolation.md §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// `wto_`: an operator, until rotated.
    Operator,
    /// `wta_`: access for minutes or hours.
    Access,
    /// `wtr_`: gets one new access token.
    Refresh,
    /// `wtd_`: a paired device, together with its key.
    Device,
    /// `wts_`: goes on with one stream.
    Stream,
}

impl CredentialKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Operator, Self::Access, Self::Refresh, Self::Device, Self::Stream];

    /// The prefix of its tokens, with the underscore.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Operator => "wto_",
            Self::Access => "wta_",
            Self::Refresh => "wtr_",
            Self::Device => "wtd_",
            Self::Stream => "wts_",
        }
    }

    /// Its name in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Access => "access",
            Self::Refresh => "refresh",
            Self::Device => "device",
            Self::Stream => "stream",
        }
    }

    /// Whether the bearer alone proves the principal.
    pub fn is_bearer(self) -> bool {
        matches!(self, Self::Operator | Self::Access)
    }
}

/// Credentials that descend from one another: revoked together (isolation.md §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Family(pub [u8; 16]);

/// Which credential a caller showed, and how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialTerms {
    /// Its public id.
    pub id: CredentialId,
    /// What it is for.
    pub kind: CredentialKind,
    /// The credentials it shares its fate with.
    pub family: Family,
    /// Last moment of validity; none means until revoked.
    pub not_after: Option<UnixMillis>,
    /// Longest time without use, in milliseconds; none means any.
    pub idle: Option<u64>,
    /// When it was last used, as far as the store knows.
    pub used_at: UnixMillis,
}

impl CredentialTerms {
    /// Whether it has ended at `now`, having last been used at `used_at`.
    pub fn is_over(&self, used_at: UnixMillis, now: UnixMillis) -> bool {
        self.not_after.is_some_and(|end| now > end) || self.idle.is_some_and(|idle| now.since(used_at) > idle)
    }
}

/// A credential as the store or, for shared secrets, the configuration holds it.
pub struct CredentialRecord {
    pub(crate) principal: Principal,
    pub(crate) demand: Demand,
    pub(crate) ceiling: VerbSet,
    pub(crate) auth_epoch: AuthEpoch,
    pub(crate) terms: Option<CredentialTerms>,
    pub(crate) revoked: bool,
}

impl CredentialRecord {
    /// Row decoding: a credential read from the store.
    pub fn decode(
        principal: Principal,
        hash: SecretHash,
        ceiling: VerbSet,
        auth_epoch: AuthEpoch,
        terms: CredentialTerms,
        revoked: bool,
    ) -> Self {
        Self { principal, demand: Demand::Secret(hash), ceiling, auth_epoch, terms: Some(terms), revoked }
    }

    /// A shared secret (or, in mode `none`, its absence) that the configuration names; acts as `principal`.
    pub fn from_config(principal: Principal, demand: Demand, auth_epoch: AuthEpoch) -> Self {
        Self { principal, demand, ceiling: VerbSet::all(), auth_epoch, terms: None, revoked: false }
    }

    /// What it says, but for the secret; none for a secret of the configuration.
    pub fn terms(&self) -> Option<&CredentialTerms> {
        self.terms.as_ref()
    }

    /// The tenant it belongs to. Says nothing about whether anybody proved it.
    pub fn tenant(&self) -> TenantId {
        self.principal.tenant
    }

    /// Whether the proof fits and the credential has not ended. The comparison runs first and always, so that a revoked
    /// or expired credential costs the same time.
    pub(crate) fn stands(&self, proof: &Proof, now: UnixMillis) -> bool {
        let accepted = self.accepts(proof);
        let over = self.terms.as_ref().is_some_and(|terms| terms.is_over(terms.used_at, now));
        accepted && !over && !self.revoked
    }

    fn accepts(&self, proof: &Proof) -> bool {
        match (&self.demand, proof) {
            (Demand::Nothing, _) => true,
            (Demand::Secret(stored), Proof::Secret(shown)) => stored.matches(shown),
            (Demand::Secret(_), Proof::Absent) => false,
        }
    }
}
