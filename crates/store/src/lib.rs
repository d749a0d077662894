//! The durable session store.
//!
//! * [`Store`]: the trait. Every method but two takes a capability from core; there are no default bodies, so a new
//!   implementation cannot forget one.
//! * [`model`]: what goes in and comes out.
//! * [`authority`]: who may do what, and the log of its changes.
//! * [`device`]: devices, those that ask to become one, and the part of the trait that keeps them.
//! * [`error`]: what a caller can act on.
//! * [`checkpoint`]: signed lines by which an older copy of the store is found.
//! * [`keys`]: what is to be done with wrapped keys, and what is known of them.
//! * [`sqlite`]: the embedded implementation: one writer thread with group commit, a few readers, a keystore apart.
//! * [`verification`]: what a proof of the stored sessions is asked for and what it finds.
//! * `conformance`: the suite every implementation must pass, written against the trait. It makes capabilities, so it is
//!   compiled for this crate's own tests only.

pub mod authority;
pub mod checkpoint;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod device;
pub mod error;
pub mod keys;
pub mod model;
pub mod sqlite;
pub mod verification;

use std::future::Future;
use std::pin::Pin;

use watertight_core::grant::{Grant, Grants};
use watertight_core::ids::{
    CredentialId, EntryId, GenerationId, GenerationNo, GrantId, PrincipalId, RunId, SessionId, TenantId, UnixMillis,
};
use watertight_core::principal::{CredentialRecord, PrincipalKind};
use watertight_core::receipt::Receipt;
use watertight_core::run::RunRecord;
use watertight_core::scope::Renewal;
use watertight_core::session::SessionRecord;
use watertight_core::transcript::Entry;
use watertight_core::{Caller, KeyPermit, SessionScope, Steward, TenantAdmin};

use authority::{AuditRow, CredentialRow, GrantRow, NewCredential, PrincipalRow, Revoke, Revoked};
pub use error::StoreError;
use model::{
    Batch, Committed, DamagedRun, EntryRange, Generation, GenerationHit, Head, Lease, ListQuery, NewTenant, OpenRuns,
    OpenSession, SessionPage, SessionRow, TenantRow,
};
pub use sqlite::{OpenError, SqliteStore};

/// An answer of the store. Boxed so that `dyn Store` works; one allocation beside a synced write does not matter.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Durable sessions. A future that resolves to `Ok` after a write means the write is synced (isolation.md C3).
///
/// Dropping a future never leaves a half-done write: what was handed to the writer completes or fails as a whole.
pub trait Store: device::DeviceStore + Send + Sync + 'static {
    // Without a capability: where authority begins.

    /// The credential with this public id. The only look-up of authority.
    fn credential<'a>(&'a self, id: &'a CredentialId) -> StoreFuture<'a, Option<CredentialRecord>>;

    /// Version of the schema the store is at.
    fn schema_version(&self) -> StoreFuture<'_, u32>;

    // Under a caller.

    /// The grants of the caller's principal.
    fn grants<'a>(&'a self, caller: &'a Caller) -> StoreFuture<'a, Grants>;

    /// Sessions the caller may read: its grants' prefixes met with the query.
    fn list<'a>(&'a self, caller: &'a Caller, grants: &'a Grants, query: ListQuery) -> StoreFuture<'a, SessionPage>;

    /// Sessions the caller may read at `now` that hold this generation, latest written first; at most a few hundred.
    fn find_generation<'a>(
        &'a self,
        caller: &'a Caller,
        grants: &'a Grants,
        id: &'a GenerationId,
        now: UnixMillis,
    ) -> StoreFuture<'a, Vec<GenerationHit>>;

    /// Notes that the caller's credential was used at `now`.
    fn touch<'a>(&'a self, caller: &'a Caller, now: UnixMillis) -> StoreFuture<'a, ()>;

    /// The caller's own run of this id.
    fn find_run<'a>(&'a self, caller: &'a Caller, id: &'a RunId) -> StoreFuture<'a, Option<RunRecord>>;

    // Under a key permit.

    /// The session the permitted key names.
    fn find_session<'a>(&'a self, permit: &'a KeyPermit) -> StoreFuture<'a, Option<SessionRecord>>;

    /// A session for a key that has none: id and data key come from the pool, the row is written by the first commit.
    /// `generation` names its first transcript; none draws a UUID. Refused when the permit may not create.
    fn draft_session<'a>(
        &'a self,
        permit: &'a KeyPermit,
        generation: Option<GenerationId>,
        now: UnixMillis,
    ) -> StoreFuture<'a, SessionRecord>;

    // Under a session scope.

    /// The session's row and description now. For a draft: the row as drafted.
    fn describe<'a>(&'a self, scope: &'a SessionScope) -> StoreFuture<'a, SessionRow>;

    /// Takes the session's lease (a new epoch) and reads what its writer needs. For a draft: no write.
    fn open_session<'a>(&'a self, scope: &'a SessionScope) -> StoreFuture<'a, OpenSession>;

    /// Applies the batch in one synced transaction, if epoch, lifecycle and head are still these.
    ///
    /// The first commit of a draft writes its row too; [`StoreError::KeyTaken`] when another session has the key by now.
    fn commit<'a>(
        &'a self,
        scope: &'a SessionScope,
        lease: Lease,
        head: &'a Head,
        batch: Batch,
    ) -> StoreFuture<'a, Committed>;

    /// Entries of one generation, oldest first.
    fn entries<'a>(
        &'a self,
        scope: &'a SessionScope,
        generation: GenerationNo,
        range: EntryRange,
    ) -> StoreFuture<'a, Vec<Entry>>;

    /// One entry of the session, of any generation.
    fn entry<'a>(&'a self, scope: &'a SessionScope, id: EntryId) -> StoreFuture<'a, Option<Entry>>;

    /// The receipt of one entry of the session; none when it holds no such entry.
    fn receipt<'a>(&'a self, scope: &'a SessionScope, id: EntryId) -> StoreFuture<'a, Option<Receipt>>;

    /// The session's generations, oldest first.
    fn generations<'a>(&'a self, scope: &'a SessionScope) -> StoreFuture<'a, Vec<Generation>>;

    // Under the right to administer a tenant. Every change is in the audit log, in the same transaction.

    /// Makes a principal, to whom nothing is granted; none when the name is taken.
    fn create_principal<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        name: &'a str,
        kind: PrincipalKind,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<PrincipalRow>>;

    /// The tenant's principals, oldest first.
    fn principals<'a>(&'a self, admin: &'a TenantAdmin) -> StoreFuture<'a, Vec<PrincipalRow>>;

    /// The principal of this name.
    fn principal_named<'a>(&'a self, admin: &'a TenantAdmin, name: &'a str) -> StoreFuture<'a, Option<PrincipalRow>>;

    /// Refuses a principal's credentials, or no longer; false when there is no such principal.
    fn set_disabled<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        principal: PrincipalId,
        disabled: bool,
        now: UnixMillis,
    ) -> StoreFuture<'a, bool>;

    /// Stores a credential; false when there is no such principal.
    fn issue<'a>(&'a self, admin: &'a TenantAdmin, new: NewCredential<'a>, now: UnixMillis) -> StoreFuture<'a, bool>;

    /// Credentials of the tenant, all or some, oldest first. Nothing in them helps to use them.
    fn credentials<'a>(&'a self, admin: &'a TenantAdmin, which: Option<Revoke>) -> StoreFuture<'a, Vec<CredentialRow>>;

    /// Refuses credentials from now on. What is meant and not there is nothing.
    fn revoke<'a>(&'a self, admin: &'a TenantAdmin, what: Revoke, now: UnixMillis) -> StoreFuture<'a, Revoked>;

    /// Grants something; none when there is no such principal.
    fn grant<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        to: PrincipalId,
        grant: Grant,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<GrantRow>>;

    /// Takes a grant away; whose it was, none when there is no such grant.
    fn ungrant<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        grant: GrantId,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<PrincipalId>>;

    /// Grants of the tenant, all or one principal's, the ended ones too.
    fn grant_rows<'a>(&'a self, admin: &'a TenantAdmin, of: Option<PrincipalId>) -> StoreFuture<'a, Vec<GrantRow>>;

    /// What a principal of the tenant is granted now, to be used in its name; an error when there is no such principal.
    fn grants_of<'a>(&'a self, admin: &'a TenantAdmin, principal: PrincipalId) -> StoreFuture<'a, Grants>;

    /// Up to `limit` events after `after` (at most 1,000), oldest first, each verified to follow the one before.
    fn audit<'a>(&'a self, admin: &'a TenantAdmin, after: u64, limit: u32) -> StoreFuture<'a, Vec<AuditRow>>;

    /// The number of the newest event.
    fn audit_end<'a>(&'a self, admin: &'a TenantAdmin) -> StoreFuture<'a, u64>;

    // Under a verified refresh token.

    /// Trades the token for new credentials of its family and principal. False, with the whole family revoked, when it
    /// was traded before.
    fn renew<'a>(&'a self, renewal: &'a Renewal, new: Vec<NewCredential<'a>>, now: UnixMillis)
    -> StoreFuture<'a, bool>;

    // Under the steward: housekeeping. No transcript leaves; of a run, what core needs to admit it anew.

    /// The tenant of this name, made if missing (id, keys, operator principal with every verb on every key, token).
    fn ensure_tenant<'a>(&'a self, steward: &'a Steward, tenant: NewTenant<'a>) -> StoreFuture<'a, TenantRow>;

    /// The tenant of this name, if it was ever made.
    fn find_tenant<'a>(&'a self, steward: &'a Steward, name: &'a str) -> StoreFuture<'a, Option<TenantRow>>;

    /// The names of all tenants, oldest first.
    fn tenant_names<'a>(&'a self, steward: &'a Steward) -> StoreFuture<'a, Vec<String>>;

    /// Sessions of every tenant with runs that are not over, the one whose run has waited longest first.
    fn unfinished<'a>(&'a self, steward: &'a Steward) -> StoreFuture<'a, Vec<(TenantId, SessionId)>>;

    /// The runs of one session that are not over. One that does not open hides no other.
    fn open_runs<'a>(&'a self, steward: &'a Steward, tenant: TenantId, session: SessionId)
    -> StoreFuture<'a, OpenRuns>;

    /// Ends a run as interrupted. A run that is over stays as it ended.
    fn interrupt_run<'a>(
        &'a self,
        steward: &'a Steward,
        tenant: TenantId,
        run: &'a RunRecord,
        now: UnixMillis,
    ) -> StoreFuture<'a, ()>;

    /// Ends a run that does not open as interrupted; needs no key. A run that is over stays as it ended.
    fn interrupt_damaged_run<'a>(
        &'a self,
        steward: &'a Steward,
        tenant: TenantId,
        run: &'a DamagedRun,
        now: UnixMillis,
    ) -> StoreFuture<'a, ()>;
}
