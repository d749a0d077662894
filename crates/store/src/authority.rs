//! Who may do what in a tenant: principals, credentials, grants, and the log of their changes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use watertight_core::grant::{Grant, VerbSet};
use watertight_core::ids::{AuthEpoch, CredentialId, GrantId, PrincipalId, UnixMillis};
use watertight_core::principal::{CredentialKind, Family, PrincipalKind};
use watertight_seal::token::Token;

/// A principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalRow {
    /// Its random id.
    pub id: PrincipalId,
    /// Its name, unique in the tenant; its bare keys live under it.
    pub name: String,
    /// What sort of caller it is.
    pub kind: PrincipalKind,
    /// Whether its credentials are refused.
    pub disabled: bool,
    /// Grows with everything that takes authority away from it.
    pub auth_epoch: AuthEpoch,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// A credential to be stored, its secret hashed.
#[derive(Debug)]
pub struct NewCredential<'a> {
    /// Whose it is.
    pub principal: PrincipalId,
    /// The token; its kind is the credential's.
    pub token: &'a Token,
    /// What it shares its fate with.
    pub family: Family,
    /// The most it may ever be used for.
    pub ceiling: VerbSet,
    /// Last moment of validity; none means until revoked.
    pub not_after: Option<UnixMillis>,
    /// Longest time without use, in milliseconds.
    pub idle: Option<u64>,
    /// What its owner calls it.
    pub label: Option<String>,
}

/// A stored credential. Nothing in it helps to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRow {
    /// The public part of its token.
    pub id: CredentialId,
    /// What it is for.
    pub kind: CredentialKind,
    /// Whose it is.
    pub principal: PrincipalId,
    /// What it shares its fate with.
    pub family: Family,
    /// The most it may ever be used for.
    pub ceiling: VerbSet,
    /// Last moment of validity.
    pub not_after: Option<UnixMillis>,
    /// Longest time without use, in milliseconds.
    pub idle: Option<u64>,
    /// When it was last used, to the minute.
    pub used_at: UnixMillis,
    /// Whether it is refused, for having been revoked or traded in.
    pub revoked: bool,
    /// What its owner calls it.
    pub label: Option<String>,
    /// When it was issued.
    pub created_at: UnixMillis,
}

/// A grant with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRow {
    /// Its random id.
    pub id: GrantId,
    /// Whose it is.
    pub principal: PrincipalId,
    /// What it allows.
    pub grant: Grant,
}

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoke {
    /// One credential.
    Credential(CredentialId),
    /// A credential with all that descend from the same one.
    Family(Family),
    /// Every credential of a principal.
    Principal(PrincipalId),
}

/// What came of revoking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Credentials that are refused from now on and were not before.
    pub credentials: Vec<CredentialId>,
}

/// An entry of the audit log. Names ids and settings, never what was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// What was done, such as `token.revoke`.
    pub action: String,
    /// Who did it; none for the gateway itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<PrincipalId>,
    /// With which credential; none for a secret of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// To what: ids, verbs, prefixes, times.
    pub object: Value,
}

/// An entry of the audit log in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place, from 1, without a gap.
    pub seq: u64,
    /// When.
    pub at: UnixMillis,
    /// What.
    pub event: AuditEvent,
    /// The chain up to it.
    pub chain: [u8; 32],
}
