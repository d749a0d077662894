//! From credential to caller, from key to permit, from row to scope.
//!
//! The only module that loads the records and calls core's `authenticate`, `admit` and `authorize` (architecture
//! rule 1). Every surface, and `--local` too, comes through here.

mod budget;
mod device;
mod live;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use watertight_config::{Auth, Config};
use watertight_core::grant::{Grants, Verb, VerbSet};
use watertight_core::ids::{CredentialId, GenerationId, PrincipalId, RunId, TenantId, UnixMillis};
use watertight_core::key::{CanonicalKey, Home, KeyError, KeyPolicy, KeyRules};
use watertight_core::principal::{CredentialRecord, Demand, Family, Principal, PrincipalKind, Proof};
use watertight_core::run::RunRecord;
use watertight_core::scope::{Refresh, administer, admit, authenticate, authorize, redeem};
use watertight_core::{Caller, KeyPermit, SessionScope, TenantAdmin};
use watertight_seal::token::{Token, TokenHasher, TokenKind};
use watertight_store::Store;
use watertight_store::model::{GenerationHit, ListQuery, SessionPage, TenantRow};

use budget::{Budget, Budgets};
pub use live::{Ended, Held};
use live::{InUse, Live};

use crate::clock::Clock;
use crate::error::EngineError;

/// A verified caller with its grants, as a connection holds it.
#[derive(Clone, Debug)]
pub struct Access {
    caller: Caller,
    live: Arc<Live>,
    /// Of a user.
    budget: Option<Arc<Budget>>,
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
    in_use: InUse,
    budgets: Budgets,
    regranting: Mutex<()>,
    /// The tenant whose operator runs the gateway.
    gateway: TenantId,
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
        Self {
            store,
            hasher,
            clock,
            shared,
            rules: by_tenant,
            strict: rules(KeyPolicy::Strict),
            in_use: InUse::default(),
            budgets: Budgets::default(),
            regranting: Mutex::default(),
            gateway: operator.operator.tenant,
        }
    }

    /// Verifies what a client showed and loads its grants.
    pub(crate) async fn caller(
        &self,
        presented: Presented<'_>,
        requested: Option<VerbSet>,
    ) -> Result<Access, AuthFailure> {
        loop {
            let seen = self.in_use.changes();
            let caller = self.verified(presented).await?;
            if let Some(access) = self.admitted(caller, seen, requested).await? {
                return Ok(access);
            }
        }
    }

    /// What a verified caller may do. None when something was revoked or granted since `seen`: look again.
    async fn admitted(
        &self,
        caller: Caller,
        seen: u64,
        requested: Option<VerbSet>,
    ) -> Result<Option<Access>, AuthFailure> {
        let grants = self.store.grants(&caller).await.map_err(|_| AuthFailure::Unavailable)?;
        let home = home_of(caller.kind(), grants.name().unwrap_or_default()).map_err(|_| AuthFailure::Unavailable)?;
        let Some(live) = self.in_use.join(&caller, grants, seen) else { return Ok(None) };
        let (budget, rules) = (self.budget_of(&caller), self.rules_of(caller.tenant()));
        let caller = match requested {
            Some(verbs) => caller.narrowed(verbs),
            None => caller,
        };
        Ok(Some(Access { caller, live, budget, home, rules }))
    }

    fn budget_of(&self, caller: &Caller) -> Option<Arc<Budget>> {
        let user = caller.kind() == PrincipalKind::User;
        user.then(|| self.budgets.of((caller.tenant(), caller.principal()), self.clock.now()))
    }

    async fn verified(&self, presented: Presented<'_>) -> Result<Caller, AuthFailure> {
        match (&self.shared, presented) {
            (None, Presented::Nothing) => Err(AuthFailure::Missing),
            (None, Presented::Secret(text)) => self.stored_credential(text).await,
            (Some(record), presented) => match self.check(record, presented) {
                Err(AuthFailure::Mismatch) => match presented {
                    // A shared secret replaces the generated operator token; every other token goes on to hold.
                    Presented::Secret(text) if !self.is_replaced(text).await? => self.stored_credential(text).await,
                    _ => Err(AuthFailure::Mismatch),
                },
                checked => checked,
            },
        }
    }

    /// The right to administer the caller's tenant.
    pub(crate) fn administer(&self, access: &Access) -> Result<TenantAdmin, EngineError> {
        let now = self.clock.now();
        access.stands(now)?;
        administer(&access.caller, &access.live.grants(), now).map_err(|_| EngineError::NotAdmin)
    }

    /// Verifies a refresh token.
    pub(crate) async fn redeem(&self, text: &str, now: UnixMillis) -> Result<Refresh, AuthFailure> {
        let (record, proof) = self.looked_up(text).await?;
        redeem(&record, &proof, now).map_err(|_| AuthFailure::Mismatch)
    }

    /// The tenant whose operator runs the gateway.
    pub(crate) fn gateway(&self) -> TenantId {
        self.gateway
    }

    /// Ends the credentials in use that are meant, and all that rests on them; how many connections and streams.
    pub(crate) fn end(&self, is_meant: impl Fn(TenantId, PrincipalId, Option<&CredentialId>) -> bool) -> usize {
        self.in_use.revoke(is_meant)
    }

    /// The same for those of one family.
    pub(crate) fn end_family(&self, tenant: TenantId, family: Family) -> usize {
        self.in_use.revoke_family(tenant, family)
    }

    /// Held from reading what a principal is granted to [`Self::regrant`].
    pub(crate) fn regranting(&self) -> &Mutex<()> {
        &self.regranting
    }

    /// Gives a principal's credentials in use what it is granted now.
    pub(crate) fn regrant(&self, tenant: TenantId, principal: PrincipalId, grants: &Grants) {
        self.in_use.regrant(tenant, principal, grants);
    }

    /// Whether a text is an operator token of the tenant whose operator the configuration gives a secret of its own.
    async fn is_replaced(&self, text: &str) -> Result<bool, AuthFailure> {
        let Ok(token) = Token::parse(text) else { return Ok(false) };
        if token.kind() != TokenKind::Operator {
            return Ok(false);
        }
        let record = self.store.credential(token.id()).await.map_err(|_| AuthFailure::Unavailable)?;
        Ok(record.is_none_or(|record| record.tenant() == self.gateway))
    }

    fn rules_of(&self, tenant: TenantId) -> Arc<KeyRules> {
        self.rules.get(&tenant).unwrap_or(&self.strict).clone()
    }

    /// What the key says of its session to this principal; none where no configured agent answers in it.
    pub(crate) fn standing(&self, principal: &Principal, name: &str, key: &CanonicalKey) -> Option<Standing> {
        let rules = self.rules_of(principal.tenant);
        let agent = rules.owner(key)?.as_str();
        let home = home_of(principal.kind, name).ok()?;
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
        let (record, proof) = self.looked_up(text).await?;
        authenticate(&record, &proof, self.clock.now()).map_err(|_| AuthFailure::Mismatch)
    }

    /// The credential that a token names, and what the token proves.
    async fn looked_up(&self, text: &str) -> Result<(CredentialRecord, Proof), AuthFailure> {
        let (token, proof) = self.proof_of(text)?;
        let record = self.store.credential(token.id()).await.map_err(|_| AuthFailure::Unavailable)?;
        Ok((record.ok_or(AuthFailure::Mismatch)?, proof))
    }

    /// A token, hashed before it is looked up, so that an unknown id costs the same work as a wrong secret.
    fn proof_of(&self, text: &str) -> Result<(Token, Proof), AuthFailure> {
        let token = Token::parse(text).map_err(|_| AuthFailure::Mismatch)?;
        let proof = Proof::Secret(self.hasher.hash_token(&token));
        Ok((token, proof))
    }

    fn permit(&self, access: &Access, verb: Verb, key: &CanonicalKey) -> Result<KeyPermit, EngineError> {
        let now = self.clock.now();
        access.stands(now)?;
        admit(&access.caller, &access.live.grants(), verb, key, now)
            .map_err(|_| EngineError::NoSession(key.to_string()))
    }

    /// The scope of an existing session; `None` where the caller may use the key and there is none yet. A key beyond the
    /// caller's grants is not found, whatever is stored under it.
    pub(crate) async fn existing(
        &self,
        access: &Access,
        verb: Verb,
        key: &CanonicalKey,
    ) -> Result<Option<SessionScope>, EngineError> {
        let permit = self.permit(access, verb, key)?;
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
        access.stands(self.clock.now())?;
        if !access.verbs().allows(Verb::Read) {
            return Ok(SessionPage { rows: Vec::new(), total: 0 });
        }
        Ok(self.store.list(&access.caller, &access.live.grants(), query).await?)
    }

    pub(crate) async fn run(&self, access: &Access, run: &RunId) -> Result<Option<RunRecord>, EngineError> {
        access.stands(self.clock.now())?;
        Ok(self.store.find_run(&access.caller, run).await?)
    }

    /// Sessions holding this generation that the caller may read, latest written first.
    pub(crate) async fn holding(
        &self,
        access: &Access,
        generation: &GenerationId,
    ) -> Result<Vec<GenerationHit>, EngineError> {
        let now = self.clock.now();
        access.stands(now)?;
        let hits = self.store.find_generation(&access.caller, &access.live.grants(), generation, now).await?;
        Ok(hits.into_iter().filter(|hit| access.may_read(&hit.key, now)).collect())
    }
}

impl Access {
    /// What an operator of tenant `default` would hold, for `interleavings`.
    #[cfg(all(test, watertight_loom))]
    pub(crate) fn of(caller: Caller, grants: Grants) -> Self {
        let main = watertight_core::key::AgentId::parse("main").expect("an agent id");
        let rules = KeyRules::new(KeyPolicy::Strict, watertight_core::key::Roster::single(main));
        let live = Arc::new(Live::new(&caller, grants));
        Self { caller, live, budget: None, home: Home::Operator, rules: Arc::new(rules) }
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
        self.live.ended(now).is_none() && admit(&self.caller, &self.live.grants(), Verb::Read, key, now).is_ok()
    }

    /// The verified caller.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Notes a use of the credential; whether the store is to be told.
    pub(crate) fn touch(&self, now: UnixMillis) -> bool {
        self.live.touch(now)
    }

    /// Refuses when the credential behind this has ended.
    pub(crate) fn stands(&self, now: UnixMillis) -> Result<(), EngineError> {
        self.live.ended(now).map_or(Ok(()), |why| Err(EngineError::Ended(why)))
    }

    /// Takes one request from what a user may ask for; else how long until there is one (isolation.md §2.10).
    pub fn spend(&self, now: UnixMillis) -> Result<(), Duration> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.take(now))
    }

    /// Ends `held` when the credential is revoked, or at once where it has been.
    pub fn hold(&self, held: &Arc<dyn Held>) {
        self.live.hold(held);
    }

    /// The last moment at which the credential has not expired; later with every use. None means until it is revoked.
    pub fn lasts_until(&self) -> Option<UnixMillis> {
        self.live.lasts_until()
    }

    /// Why the credential has ended at `now`; none while it has not.
    pub fn ended(&self, now: UnixMillis) -> Option<Ended> {
        self.live.ended(now)
    }
}

/// Where a principal's bare keys live: under its name.
pub(crate) fn home_of(kind: PrincipalKind, name: &str) -> Result<Home, KeyError> {
    match kind {
        PrincipalKind::Operator => Ok(Home::Operator),
        PrincipalKind::User | PrincipalKind::Service => Home::user(name),
    }
}
