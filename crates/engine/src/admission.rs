//! From credential to caller, from key to permit, from row to scope.
//!
//! The only module that loads the records and calls core's `authenticate`, `admit` and `authorize` (architecture
//! rule 1). Every surface, and `--local` too, comes through here.

use std::collections::HashMap;
use std::sync::Arc;

use watertight_config::{Auth, Config};
use watertight_core::grant::{Grants, Verb, VerbSet};
use watertight_core::ids::{GenerationId, PrincipalId, RunId, TenantId, UnixMillis};
use watertight_core::key::{CanonicalKey, Home, KeyError, KeyPolicy, KeyRules};
use watertight_core::principal::{CredentialRecord, Demand, Principal, PrincipalKind, Proof};
use watertight_core::run::RunRecord;
use watertight_core::scope::{admit, authenticate, authorize};
use watertight_core::{Caller, KeyPermit, SessionScope};
use watertight_seal::token::{Token, TokenHasher, TokenKind};
use watertight_store::Store;
use watertight_store::model::{GenerationHit, ListQuery, SessionPage, TenantRow};

use crate::clock::Clock;
use crate::error::EngineError;

/// A verified caller with its grants, as a connection holds it.
#[derive(Clone, Debug)]
pub struct Access {
    caller: Caller,
    grants: Grants,
    home: Home,
    rules: Arc<KeyRules>,
}

/// What a session's key says of it.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// The agent that answers.
    pub(crate) agent: String,
    /// Whether it is the agent's main session.
    pub(crate) is_main: bool,
}

/// What a client showed as its credential.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// A token, or the shared secret; clients put either into either field.
    Secret(&'a str),
    /// Nothing.
    Nothing,
}

/// Why a client was not believed, in the terms its surface reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthFailure {
    /// Nothing was presented and something is needed.
    #[error("a credential is required")]
    Missing,
    /// What was presented is wrong, expired or revoked.
    #[error("the credential was not accepted")]
    Mismatch,
    /// The store could not be asked.
    #[error("the gateway cannot check credentials now")]
    Unavailable,
}

/// Loads the records and asks core.
pub(crate) struct Admission {
    store: Arc<dyn Store>,
    hasher: Arc<TokenHasher>,
    clock: Clock,
    /// The secret the configuration names, acting as the operator of tenant `default`.
    shared: Option<CredentialRecord>,
    rules: HashMap<TenantId, Arc<KeyRules>>,
    strict: Arc<KeyRules>,
}

impl Admission {
    pub(crate) fn new(
        config: &Config,
        tenants: &[TenantRow],
        store: Arc<dyn Store>,
        hasher: Arc<TokenHasher>,
        clock: Clock,
    ) -> Self {
        let operator = &tenants[0];
        let shared = |demand| CredentialRecord::from_config(operator.operator, demand, operator.auth_epoch);
        let secret = |text: &str| Demand::Secret(hasher.hash(text.as_bytes()));
        let shared = match &config.gateway.auth {
            Auth::GeneratedToken => None,
            Auth::Token(text) | Auth::Password(text) => Some(shared(secret(text.expose()))),
            Auth::None => Some(shared(Demand::Nothing)),
        };
        let rules = |policy| Arc::new(KeyRules::new(policy, config.roster()));
        let by_tenant = tenants
            .iter()
            .map(|row| {
                let policy = config.tenants.get(&row.name).map_or(KeyPolicy::Strict, |tenant| tenant.key_policy);
                (row.operator.tenant, rules(policy))
            })
            .collect();
        Self { store, hasher, clock, shared, rules: by_tenant, strict: rules(KeyPolicy::Strict) }
    }

    /// Verifies what a client showed and loads its grants.
    pub(crate) async fn caller(
        &self,
        presented: Presented<'_>,
        requested: Option<VerbSet>,
    ) -> Result<Access, AuthFailure> {
        let caller = match (&self.shared, presented) {
            (None, Presented::Nothing) => return Err(AuthFailure::Missing),
            (None, Presented::Secret(text)) => self.stored_credential(text).await?,
            (Some(record), presented) => match self.check(record, presented) {
                Err(AuthFailure::Mismatch) => match presented {
                    // A shared secret replaces the generated operator token; every other token goes on to hold.
                    Presented::Secret(text) if !is_operator_token(text) => self.stored_credential(text).await?,
                    _ => return Err(AuthFailure::Mismatch),
                },
                checked => checked?,
            },
        };
        let caller = match requested {
            Some(verbs) => caller.narrowed(verbs),
            None => caller,
        };
        let grants = self.store.grants(&caller).await.map_err(|_| AuthFailure::Unavailable)?;
        let home = home_of(caller.kind(), caller.principal()).map_err(|_| AuthFailure::Unavailable)?;
        let rules = self.rules_of(caller.tenant()).clone();
        Ok(Access { caller, grants, home, rules })
    }

    fn rules_of(&self, tenant: TenantId) -> &Arc<KeyRules> {
        self.rules.get(&tenant).unwrap_or(&self.strict)
    }

    /// What the key says of its session to this principal; none where no configured agent answers in it.
    pub(crate) fn standing(&self, principal: &Principal, key: &CanonicalKey) -> Option<Standing> {
        let rules = self.rules_of(principal.tenant);
        let agent = rules.owner(key)?.as_str();
        let home = home_of(principal.kind, principal.id).ok()?;
        let is_main = rules.main_key(&home, Some(agent)).is_ok_and(|main| main == *key);
        Some(Standing { agent: agent.to_owned(), is_main })
    }

    fn check(&self, record: &CredentialRecord, presented: Presented<'_>) -> Result<Caller, AuthFailure> {
        let proof = match presented {
            Presented::Secret(text) => Proof::Secret(self.hasher.hash(text.as_bytes())),
            Presented::Nothing => Proof::Absent,
        };
        authenticate(record, &proof, self.clock.now()).map_err(|_| match presented {
            Presented::Secret(_) => AuthFailure::Mismatch,
            Presented::Nothing => AuthFailure::Missing,
        })
    }

    async fn stored_credential(&self, text: &str) -> Result<Caller, AuthFailure> {
        let token = Token::parse(text).map_err(|_| AuthFailure::Mismatch)?;
        // Hashed before the look-up, so that an unknown id costs the same work as a wrong secret.
        let proof = Proof::Secret(self.hasher.hash_token(&token));
        let record = self.store.credential(token.id()).await.map_err(|_| AuthFailure::Unavailable)?;
        let record = record.ok_or(AuthFailure::Mismatch)?;
        authenticate(&record, &proof, self.clock.now()).map_err(|_| AuthFailure::Mismatch)
    }

    fn permit(&self, access: &Access, verb: Verb, key: &CanonicalKey) -> Result<KeyPermit, EngineError> {
        admit(&access.caller, &access.grants, verb, key, self.clock.now())
            .map_err(|_| EngineError::NoSession(key.to_string()))
    }

    /// The scope of an existing session; `None` where it is missing or not the caller's.
    pub(crate) async fn existing(
        &self,
        access: &Access,
        verb: Verb,
        key: &CanonicalKey,
    ) -> Result<Option<SessionScope>, EngineError> {
        let Ok(permit) = self.permit(access, verb, key) else { return Ok(None) };
        let Some(record) = self.store.find_session(&permit).await? else { return Ok(None) };
        Ok(authorize(permit, &record).ok())
    }

    /// The scope of a session to write into; a missing one is drafted, to be created by its first commit.
    pub(crate) async fn writable(
        &self,
        access: &Access,
        key: &CanonicalKey,
        first_generation: Option<&GenerationId>,
    ) -> Result<SessionScope, EngineError> {
        let permit = self.permit(access, Verb::Write, key)?;
        let record = match self.store.find_session(&permit).await? {
            Some(record) => record,
            None => self.store.draft_session(&permit, first_generation.cloned(), self.clock.now()).await?,
        };
        authorize(permit, &record).map_err(|_| EngineError::NoSession(key.to_string()))
    }

    pub(crate) async fn list(&self, access: &Access, query: ListQuery) -> Result<SessionPage, EngineError> {
        if !access.verbs().allows(Verb::Read) {
            return Ok(SessionPage { rows: Vec::new(), total: 0 });
        }
        Ok(self.store.list(&access.caller, &access.grants, query).await?)
    }

    pub(crate) async fn run(&self, access: &Access, run: &RunId) -> Result<Option<RunRecord>, EngineError> {
        Ok(self.store.find_run(&access.caller, run).await?)
    }

    /// Sessions holding this generation that the caller may read, latest written first.
    pub(crate) async fn holding(
        &self,
        access: &Access,
        generation: &GenerationId,
    ) -> Result<Vec<GenerationHit>, EngineError> {
        let now = self.clock.now();
        let hits = self.store.find_generation(&access.caller, &access.grants, generation, now).await?;
        Ok(hits.into_iter().filter(|hit| access.may_read(&hit.key, now)).collect())
    }
}

impl Access {
    /// What an operator of tenant `default` would hold, for `interleavings`.
    #[cfg(all(test, watertight_loom))]
    pub(crate) fn of(caller: Caller, grants: Grants) -> Self {
        let main = watertight_core::key::AgentId::parse("main").expect("an agent id");
        let rules = KeyRules::new(KeyPolicy::Strict, watertight_core::key::Roster::single(main));
        Self { caller, grants, home: Home::Operator, rules: Arc::new(rules) }
    }

    /// The most this connection may do.
    pub fn verbs(&self) -> VerbSet {
        self.caller.ceiling()
    }

    /// Who acts, for a surface that keeps what is one principal's from another. No authority comes with it.
    pub fn identity(&self) -> (TenantId, PrincipalId) {
        (self.caller.tenant(), self.caller.principal())
    }

    /// How this caller's key texts are read.
    pub(crate) fn rules(&self) -> &KeyRules {
        &self.rules
    }

    /// Where its bare keys live.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.caller.tenant()
    }

    /// Run ids are names under this pair.
    pub(crate) fn run_space(&self) -> (TenantId, PrincipalId) {
        self.identity()
    }

    /// Whether the session of this key may be heard.
    pub(crate) fn may_read(&self, key: &CanonicalKey, now: UnixMillis) -> bool {
        admit(&self.caller, &self.grants, Verb::Read, key, now).is_ok()
    }
}

fn is_operator_token(text: &str) -> bool {
    Token::parse(text).is_ok_and(|token| token.kind() == TokenKind::Operator)
}

/// Where a principal's bare keys live.
fn home_of(kind: PrincipalKind, principal: PrincipalId) -> Result<Home, KeyError> {
    match kind {
        PrincipalKind::Operator => Ok(Home::Operator),
        PrincipalKind::User | PrincipalKind::Service => Home::user(&principal.to_string()),
    }
}
