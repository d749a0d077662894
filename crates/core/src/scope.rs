//! The capability chain: `authenticate` → [`Caller`] → `admit` → [`KeyPermit`] → `authorize` → [`SessionScope`].
//!
//! All fields are private and every value is made only by the function named here, so holding a [`SessionScope`]
//! is the proof that a verified credential, a live grant and the session's own row all agreed. The functions are
//! pure: `engine::admission` alone loads the records and calls them (architecture rule 1).

use crate::grant::{Grants, Verb, VerbSet};
use crate::ids::{
    AuthEpoch, CredentialId, GenerationId, GenerationNo, Lifecycle, PrincipalId, SessionId, TenantId, UnixMillis,
};
use crate::key::CanonicalKey;
use crate::principal::{CredentialKind, CredentialRecord, CredentialTerms, Family, Principal, PrincipalKind, Proof};
use crate::run::RunRecord;
use crate::session::SessionRecord;

/// Why authority was refused. Deliberately coarse: it never says whether something exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The credential is wrong, expired or revoked.
    #[error("the credential was not accepted")]
    Credential,
    /// No grant covers this verb on this key, or the record is another tenant's.
    #[error("not permitted")]
    NotPermitted,
}

/// A verified caller.
#[derive(Clone, Debug)]
pub struct Caller {
    principal: Principal,
    ceiling: VerbSet,
    auth_epoch: AuthEpoch,
    terms: Option<CredentialTerms>,
}

/// Verifies `proof` against the record. The only way to a [`Caller`] from a bearer; a credential that is no bearer by
/// itself (refresh, device, stream) gives none.
pub fn authenticate(record: &CredentialRecord, proof: &Proof, now: UnixMillis) -> Result<Caller, Denied> {
    let bearer = record.terms.as_ref().is_none_or(|terms| terms.kind.is_bearer());
    if record.stands(proof, now) && bearer { Ok(caller(record)) } else { Err(Denied::Credential) }
}

pub(crate) fn caller(record: &CredentialRecord) -> Caller {
    let CredentialRecord { principal, ceiling, auth_epoch, ref terms, .. } = *record;
    Caller { principal, ceiling, auth_epoch, terms: terms.clone() }
}

/// The right to trade a refresh token for new credentials of its family, once. The store refuses it the second time.
#[derive(Debug)]
pub struct Renewal {
    caller: Caller,
    terms: CredentialTerms,
}

/// What a refresh token is good for.
#[derive(Debug)]
pub enum Refresh {
    /// New credentials.
    Renewal(Renewal),
    /// It was used before: whoever holds its family is not to be believed any more.
    Reused(Renewal),
}

/// Verifies a refresh token. A used one that is shown again with the right secret is told apart from a wrong one: it
/// revokes its family.
pub fn redeem(record: &CredentialRecord, proof: &Proof, now: UnixMillis) -> Result<Refresh, Denied> {
    let shown =
        CredentialRecord { revoked: false, demand: record.demand.clone(), terms: record.terms.clone(), ..*record };
    let stands = shown.stands(proof, now);
    let terms = record.terms.as_ref().filter(|terms| terms.kind == CredentialKind::Refresh);
    let (true, Some(terms)) = (stands, terms) else { return Err(Denied::Credential) };
    let renewal = Renewal { caller: caller(record), terms: terms.clone() };
    Ok(if record.revoked { Refresh::Reused(renewal) } else { Refresh::Renewal(renewal) })
}

impl Renewal {
    /// Whose credentials they are.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The refresh token that is traded in.
    pub fn terms(&self) -> &CredentialTerms {
        &self.terms
    }

    /// The family the new credentials belong to.
    pub fn family(&self) -> Family {
        self.terms.family
    }
}

impl Caller {
    /// The tenant the credential belongs to.
    pub fn tenant(&self) -> TenantId {
        self.principal.tenant
    }

    /// The principal the credential proves.
    pub fn principal(&self) -> PrincipalId {
        self.principal.id
    }

    /// What sort of principal it is.
    pub fn kind(&self) -> PrincipalKind {
        self.principal.kind
    }

    /// The most this caller may ever do on this connection.
    pub fn ceiling(&self) -> VerbSet {
        self.ceiling
    }

    /// The epoch the credential was verified at.
    pub fn auth_epoch(&self) -> AuthEpoch {
        self.auth_epoch
    }

    /// The credential that was shown; none for a secret of the configuration.
    pub fn terms(&self) -> Option<&CredentialTerms> {
        self.terms.as_ref()
    }

    /// The same caller holding at most `requested`; it can only narrow.
    #[must_use]
    pub fn narrowed(self, requested: VerbSet) -> Self {
        Self { ceiling: self.ceiling.meet(requested), ..self }
    }
}

/// Permission to use one verb on one key. Says nothing about whether the session exists.
#[derive(Debug)]
pub struct KeyPermit {
    principal: Principal,
    key: CanonicalKey,
    verb: Verb,
    verbs: VerbSet,
    auth_epoch: AuthEpoch,
}

/// Checks `verb` on `key`: the grant's verbs met with the caller's ceiling. The only way to a [`KeyPermit`].
pub fn admit(
    caller: &Caller,
    grants: &Grants,
    verb: Verb,
    key: &CanonicalKey,
    now: UnixMillis,
) -> Result<KeyPermit, Denied> {
    if !grants.belong_to(caller.tenant(), caller.principal()) {
        return Err(Denied::NotPermitted);
    }
    let verbs = grants.verbs_on(key, now).meet(caller.ceiling);
    if !verbs.allows(verb) {
        return Err(Denied::NotPermitted);
    }
    Ok(KeyPermit { principal: caller.principal, key: key.clone(), verb, verbs, auth_epoch: caller.auth_epoch })
}

impl KeyPermit {
    /// The tenant the key is looked up in.
    pub fn tenant(&self) -> TenantId {
        self.principal.tenant
    }

    /// Who asked.
    pub fn principal(&self) -> PrincipalId {
        self.principal.id
    }

    /// The permitted key.
    pub fn key(&self) -> &CanonicalKey {
        &self.key
    }

    /// The verb that was asked for.
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// Whether a missing session may be created with this permit.
    pub fn may_create(&self) -> bool {
        self.verbs.allows(Verb::Write)
    }
}

/// The capability to touch one session. Store, hub, tools, caches and provider calls take one, never a string key.
///
/// Not `Clone`: share one run's scope behind an `Arc`; another run asks for its own.
#[derive(Debug)]
pub struct SessionScope {
    principal: Principal,
    session: SessionId,
    key: CanonicalKey,
    generation: GenerationId,
    generation_no: GenerationNo,
    lifecycle: Lifecycle,
    verbs: VerbSet,
    auth_epoch: AuthEpoch,
    draft: bool,
}

/// Binds a permit to the session's row. The only way to a [`SessionScope`] from a caller.
pub fn authorize(permit: KeyPermit, record: &SessionRecord) -> Result<SessionScope, Denied> {
    if record.tenant() != permit.tenant() || record.key() != permit.key() {
        return Err(Denied::NotPermitted);
    }
    Ok(SessionScope {
        principal: permit.principal,
        session: record.id(),
        key: permit.key,
        generation: record.generation().clone(),
        generation_no: record.generation_no(),
        lifecycle: record.lifecycle(),
        verbs: permit.verbs,
        auth_epoch: permit.auth_epoch,
        draft: record.is_draft(),
    })
}

impl SessionScope {
    /// The session's tenant.
    pub fn tenant(&self) -> TenantId {
        self.principal.tenant
    }

    /// Who acts.
    pub fn principal(&self) -> PrincipalId {
        self.principal.id
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The canonical key the session goes by.
    pub fn key(&self) -> &CanonicalKey {
        &self.key
    }

    /// The generation that was live when the scope was made.
    pub fn generation(&self) -> &GenerationId {
        &self.generation
    }

    /// Ordinal of [`Self::generation`].
    pub fn generation_no(&self) -> GenerationNo {
        self.generation_no
    }

    /// The life this scope may write into.
    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    /// Whether the scope allows `verb`.
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.allows(verb)
    }

    /// The epoch the authority was checked at.
    pub fn auth_epoch(&self) -> AuthEpoch {
        self.auth_epoch
    }

    /// Whether the session's row is still to be written, together with its first input.
    pub fn is_draft(&self) -> bool {
        self.draft
    }

    /// The same authority over the session's present row, after a commit created it or moved its generation.
    pub fn renewed(&self, record: &SessionRecord) -> Result<Self, Denied> {
        let permit = KeyPermit {
            principal: self.principal,
            key: self.key.clone(),
            verb: Verb::Read,
            verbs: self.verbs,
            auth_epoch: self.auth_epoch,
        };
        if record.id() != self.session {
            return Err(Denied::NotPermitted);
        }
        authorize(permit, record)
    }
}

/// What a run that a later process takes up needs: to read its session's transcript and to go on writing it.
const RUN_VERBS: [Verb; 2] = [Verb::Read, Verb::Write];

/// Binds a run that a former process left open to its session anew, under what its principal may do now (isolation.md
/// C5). Refused when the principal may no longer write there. The scope holds no verb that a run does not need.
pub fn readmit(
    _steward: &Steward,
    run: &RunRecord,
    session: &SessionRecord,
    principal: Principal,
    grants: &Grants,
    auth_epoch: AuthEpoch,
    now: UnixMillis,
) -> Result<SessionScope, Denied> {
    let ceiling = RUN_VERBS.into_iter().collect();
    let caller = Caller { principal, ceiling, auth_epoch, terms: None };
    if run.principal != principal.id || run.session != session.id() || run.generation != session.generation_no() {
        return Err(Denied::NotPermitted);
    }
    authorize(admit(&caller, grants, Verb::Write, session.key(), now)?, session)
}

/// The right to say who may do what in one tenant. Everything that is issued or granted under it stays in that tenant.
#[derive(Debug)]
pub struct TenantAdmin {
    principal: Principal,
    credential: Option<CredentialId>,
}

/// Checks that the caller administers its tenant: `admin` on every key, by grant and by credential. The only way to a
/// [`TenantAdmin`].
pub fn administer(caller: &Caller, grants: &Grants, now: UnixMillis) -> Result<TenantAdmin, Denied> {
    let ours = grants.belong_to(caller.tenant(), caller.principal());
    if ours && grants.verbs_everywhere(now).meet(caller.ceiling).allows(Verb::Admin) {
        let credential = caller.terms.as_ref().map(|terms| terms.id.clone());
        Ok(TenantAdmin { principal: caller.principal, credential })
    } else {
        Err(Denied::NotPermitted)
    }
}

impl TenantAdmin {
    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.principal.tenant
    }

    /// Who administers it.
    pub fn principal(&self) -> PrincipalId {
        self.principal.id
    }

    /// With which credential; none for a secret of the configuration.
    pub fn credential(&self) -> Option<&CredentialId> {
        self.credential.as_ref()
    }
}

/// Housekeeping authority: bootstrap, recovery lists, chain verification, sweeps, rotation. Yields no plaintext.
///
/// Made once at start from the opened keystore and named only in `engine::steward`.
#[derive(Debug)]
pub struct Steward {
    _private: (),
}

impl Steward {
    /// Called by `engine::steward` after the master key has opened the keystore.
    pub fn from_opened_keystore() -> Self {
        Self { _private: () }
    }
}
