//! Session scopes for tests of what lies below admission: the provider clients, for one.
//!
//! The one place outside the product that goes through the capability chain with records of its own making.

use watertight_core::grant::{Grant, Grants, Verb, VerbSet};
use watertight_core::ids::{
    AuthEpoch, GenerationId, GenerationNo, Lifecycle, PrincipalId, SessionId, TenantId, UnixMillis,
};
use watertight_core::key::{CanonicalKey, KeyPrefix};
use watertight_core::principal::{CredentialRecord, Demand, Principal, PrincipalKind, Proof};
use watertight_core::scope::{admit, authenticate, authorize};
use watertight_core::session::{SessionColumns, SessionRecord};
use watertight_core::{Caller, SessionScope};

/// The tenant whose id is this byte sixteen times.
pub fn tenant(byte: u8) -> TenantId {
    TenantId::from_bytes([byte; 16])
}

/// An operator of `tenant`, whom everything is granted.
pub fn caller(tenant: TenantId) -> (Caller, Grants) {
    let principal = Principal { tenant, id: PrincipalId::from_bytes([1; 16]), kind: PrincipalKind::Operator };
    let credential = CredentialRecord::from_config(principal, Demand::Nothing, AuthEpoch(1));
    let caller = authenticate(&credential, &Proof::Absent, UnixMillis(0)).expect("nothing is demanded");
    let everything = Grant { verbs: VerbSet::all(), prefix: KeyPrefix::everything(), not_after: None };
    (caller, Grants::decode(tenant, principal.id, vec![everything]))
}

/// A scope of an operator of `tenant` on the session `key` in `generation`.
pub fn scope(tenant: TenantId, key: &str, generation: &str) -> SessionScope {
    let now = UnixMillis(0);
    let (caller, grants) = caller(tenant);
    let key = CanonicalKey::from_stored(key);
    let permit = admit(&caller, &grants, Verb::Write, &key, now).expect("everything is granted");
    let record = SessionRecord::decode(SessionColumns {
        tenant,
        id: SessionId::from_bytes([3; 16]),
        key,
        owner: caller.principal(),
        generation: GenerationId::parse(generation).expect("a generation id"),
        generation_no: GenerationNo(1),
        lifecycle: Lifecycle(0),
        created_at: now,
        draft: false,
    });
    authorize(permit, &record).expect("permit and record agree")
}
