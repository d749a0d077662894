//! Saying who may do what: principals, credentials, grants, revocation, the audit log (isolation.md §2.2 to §2.4).
//!
//! Everything here acts in the caller's own tenant, under core's `TenantAdmin`, and is in that tenant's audit log.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use watertight_core::TenantAdmin;
use watertight_core::grant::{Grant, Verb, VerbSet};
use watertight_core::ids::{CredentialId, GrantId, PrincipalId, UnixMillis};
use watertight_core::key::{Home, KeyPrefix};
use watertight_core::principal::{Family, PrincipalKind};
use watertight_core::scope::{Refresh, Renewal};
use watertight_seal::token::{Token, TokenKind};
use watertight_store::StoreError;
pub use watertight_store::authority::{AuditEvent, AuditRow, CredentialRow, GrantRow, PrincipalRow};
use watertight_store::authority::{NewCredential, Revoke};
use zeroize::Zeroizing;

use super::Engine;
use crate::actor::Shared;
use crate::admission::{Access, AuthFailure, home_of};
use crate::error::EngineError;
use crate::steward::rotation::{OnKeyProgress, Rotated};

/// How long an access token lasts without use (isolation.md §2.2).
pub const DEFAULT_IDLE: Duration = Duration::from_mins(30);
/// How long an access token lasts.
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(12);
/// How long a refresh token can be traded in.
pub const REFRESH_LIFETIME: Duration = Duration::from_hours(30 * 24);
/// Longest name of a principal or of a tenant, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Longest label of a credential, in bytes.
const MAX_LABEL_BYTES: usize = 200;

/// A credential to be issued.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The principal's name.
    pub principal: String,
    /// The most it may be used for; what the principal is granted narrows it further.
    pub ceiling: VerbSet,
    /// How long it lasts; none means until it is revoked.
    pub lifetime: Option<Duration>,
    /// How long it lasts without use; none means any time.
    pub idle: Option<Duration>,
    /// Whether a refresh token comes with it.
    pub refresh: bool,
    /// What its owner calls it.
    pub label: Option<String>,
}

/// Issued credentials. The only time their texts are seen.
pub struct Issued {
    /// The access token.
    pub token: Zeroizing<String>,
    /// Its public id.
    pub id: CredentialId,
    /// When it ends.
    pub not_after: Option<UnixMillis>,
    /// The refresh token.
    pub refresh: Option<Zeroizing<String>>,
}

/// What is to be revoked.
#[derive(Clone, Debug)]
pub enum RevokeTarget {
    /// A credential with all that descend from the same one, by its public id.
    Token(CredentialId),
    /// Every credential of the principal of this name.
    Principal(String),
}

/// What came of revoking.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Credentials that are refused from now on and were not before.
    pub credentials: Vec<CredentialId>,
    /// Connections and streams that were closed.
    pub closed: usize,
}

/// Why something is allowed or refused.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The canonical key that was asked about.
    pub key: String,
    /// The grant that allows it.
    pub by: Option<GrantRow>,
    /// The same in one sentence.
    pub reason: String,
}

impl Engine {
    /// Whether the caller may administer its tenant.
    pub fn may_administer(&self, access: &Access) -> bool {
        self.admin(access).is_ok()
    }

    fn admin(&self, access: &Access) -> Result<TenantAdmin, EngineError> {
        self.inner.shared.admission.administer(access)
    }

    /// The right to administer the tenant whose operator runs the gateway, and with it to make others.
    fn gateway_admin(&self, access: &Access) -> Result<TenantAdmin, EngineError> {
        let admin = self.admin(access)?;
        if admin.tenant() == self.inner.shared.admission.gateway() { Ok(admin) } else { Err(EngineError::NotAdmin) }
    }

    /// The names of all tenants, for the operator of the gateway.
    pub async fn tenants(&self, access: &Access) -> Result<Vec<String>, EngineError> {
        self.gateway_admin(access)?;
        Ok(self.inner.shared.recovery.housekeeping().tenant_names().await?)
    }

    /// Makes a tenant, for the operator of the gateway; its operator's token.
    pub async fn add_tenant(&self, access: &Access, name: &str) -> Result<Zeroizing<String>, EngineError> {
        self.gateway_admin(access)?;
        check_name("The tenant's name", name)?;
        self.create_tenant(name).await.map(Zeroizing::new)
    }

    /// [`Self::rotate_keys`], for the operator of the gateway.
    pub async fn replace_keys(&self, access: &Access, tenant: Option<&str>) -> Result<Vec<Rotated>, EngineError> {
        self.gateway_admin(access)?;
        let quiet: OnKeyProgress = Arc::new(|_| ControlFlow::Continue(()));
        self.rotate_keys(tenant, quiet).await.map_err(|error| EngineError::Invalid(error.to_string()))
    }

    /// [`Self::rotate_master_key`], for the operator of the gateway.
    pub async fn replace_master_key(&self, access: &Access) -> Result<PathBuf, EngineError> {
        self.gateway_admin(access)?;
        self.rotate_master_key().await.map_err(|error| EngineError::Invalid(error.to_string()))
    }

    /// Makes a principal. With `home` it may read and write the sessions under its own name with every agent.
    pub async fn add_principal(
        &self,
        access: &Access,
        name: &str,
        kind: PrincipalKind,
        home: bool,
    ) -> Result<PrincipalRow, EngineError> {
        let admin = self.admin(access)?;
        check_name("The principal's name", name)?;
        let its_home = Home::user(name)?;
        let Shared { store, clock, .. } = &*self.inner.shared;
        let row = store.create_principal(&admin, name, kind, clock.now()).await?;
        let row = row.ok_or_else(|| EngineError::Invalid(format!("There is a principal named {name:?} already.")))?;
        if home {
            let verbs: VerbSet = [Verb::Read, Verb::Write].into_iter().collect();
            for agent in self.inner.config.roster().iter() {
                let prefix = access.rules().home_prefix(&its_home, agent);
                store.grant(&admin, row.id, Grant { verbs, prefix, not_after: None }, clock.now()).await?;
            }
            self.regrant(row.id, &admin).await?;
        }
        Ok(row)
    }

    /// The tenant's principals, oldest first.
    pub async fn principals(&self, access: &Access) -> Result<Vec<PrincipalRow>, EngineError> {
        Ok(self.inner.shared.store.principals(&self.admin(access)?).await?)
    }

    async fn principal(&self, admin: &TenantAdmin, name: &str) -> Result<PrincipalRow, EngineError> {
        let found = self.inner.shared.store.principal_named(admin, name).await?;
        found.ok_or_else(|| EngineError::NoSuch { what: "principal", name: shown(name) })
    }

    /// Refuses a principal from now on and closes what it has open, or lets it in again. How much was closed.
    pub async fn set_principal_disabled(
        &self,
        access: &Access,
        name: &str,
        disabled: bool,
    ) -> Result<usize, EngineError> {
        let admin = self.admin(access)?;
        let row = self.principal(&admin, name).await?;
        if disabled && row.id == admin.principal() {
            return Err(EngineError::Invalid("A principal does not disable itself.".into()));
        }
        let Shared { store, clock, admission, .. } = &*self.inner.shared;
        store.set_disabled(&admin, row.id, disabled, clock.now()).await?;
        let tenant = admin.tenant();
        Ok(if disabled { admission.end(|of, id, _| of == tenant && id == row.id) } else { 0 })
    }

    /// Issues a credential.
    pub async fn issue_token(&self, access: &Access, new: NewToken) -> Result<Issued, EngineError> {
        let admin = self.admin(access)?;
        if new.ceiling.is_empty() {
            return Err(EngineError::Invalid("Name at least one scope, such as read or write.".into()));
        }
        if new.label.as_ref().is_some_and(|label| label.len() > MAX_LABEL_BYTES) {
            return Err(EngineError::Invalid(format!("The label is longer than {MAX_LABEL_BYTES} bytes.")));
        }
        let principal = self.principal(&admin, &new.principal).await?;
        let family = Family(watertight_seal::random().map_err(StoreError::from)?);
        let now = self.inner.shared.clock.now();
        let pair = Pair::generate(new.refresh)?;
        let terms = Terms { ceiling: new.ceiling, lifetime: new.lifetime, idle: new.idle, label: new.label };
        for credential in pair.credentials(principal.id, family, &terms, now) {
            self.inner.shared.store.issue(&admin, credential, now).await?;
        }
        Ok(pair.issued(&terms, now))
    }

    /// Trades a refresh token for a new pair. A refresh token that was traded before revokes all that descend from the
    /// same one, and closes what is open on them.
    pub async fn refresh(&self, text: &str) -> Result<Issued, AuthFailure> {
        let Shared { store, clock, admission, .. } = &*self.inner.shared;
        let now = clock.now();
        let (renewal, reused): (Renewal, bool) = match admission.redeem(text, now).await? {
            Refresh::Renewal(renewal) => (renewal, false),
            Refresh::Reused(renewal) => (renewal, true),
        };
        let caller = renewal.caller();
        let pair = Pair::generate(true).map_err(|_| AuthFailure::Unavailable)?;
        let terms = Terms {
            ceiling: caller.ceiling(),
            lifetime: Some(DEFAULT_LIFETIME),
            idle: Some(DEFAULT_IDLE),
            label: None,
        };
        let credentials = pair.credentials(caller.principal(), renewal.family(), &terms, now);
        let renewed = store.renew(&renewal, credentials, now).await.map_err(|_| AuthFailure::Unavailable)?;
        if !renewed || reused {
            let (tenant, family) = (caller.tenant(), renewal.family());
            admission.end_family(tenant, family);
            return Err(AuthFailure::Mismatch);
        }
        Ok(pair.issued(&terms, now))
    }

    /// The tenant's credentials, all or one principal's, oldest first.
    pub async fn tokens(&self, access: &Access, principal: Option<&str>) -> Result<Vec<CredentialRow>, EngineError> {
        let admin = self.admin(access)?;
        let which = match principal {
            Some(name) => Some(Revoke::Principal(self.principal(&admin, name).await?.id)),
            None => None,
        };
        Ok(self.inner.shared.store.credentials(&admin, which).await?)
    }

    /// Refuses credentials from now on, closes every connection and stream that rests on them and drops what is queued
    /// there, all before it returns (isolation.md §2.4).
    pub async fn revoke(&self, access: &Access, target: RevokeTarget) -> Result<Revocation, EngineError> {
        let admin = self.admin(access)?;
        let Shared { store, clock, admission, .. } = &*self.inner.shared;
        let what = match target {
            RevokeTarget::Principal(name) => Revoke::Principal(self.principal(&admin, &name).await?.id),
            RevokeTarget::Token(id) => {
                let found = store.credentials(&admin, Some(Revoke::Credential(id.clone()))).await?.pop();
                let missing = || EngineError::NoSuch { what: "token", name: id.as_str().to_owned() };
                Revoke::Family(found.ok_or_else(missing)?.family)
            }
        };
        let revoked = store.revoke(&admin, what, clock.now()).await?;
        let tenant = admin.tenant();
        let meant = |id: Option<&CredentialId>| id.is_some_and(|id| revoked.credentials.contains(id));
        let closed = admission.end(|of, _, id| of == tenant && meant(id));
        Ok(Revocation { credentials: revoked.credentials, closed })
    }

    /// Grants verbs on the keys under a prefix, until then.
    pub async fn grant(&self, access: &Access, principal: &str, grant: Grant) -> Result<GrantRow, EngineError> {
        let admin = self.admin(access)?;
        if grant.verbs.is_empty() {
            return Err(EngineError::Invalid("Name at least one verb, such as read or write.".into()));
        }
        let Shared { store, clock, .. } = &*self.inner.shared;
        let row = self.principal(&admin, principal).await?;
        let granted = store.grant(&admin, row.id, grant, clock.now()).await?;
        let granted = granted.ok_or_else(|| EngineError::NoSuch { what: "principal", name: shown(principal) })?;
        self.regrant(row.id, &admin).await?;
        Ok(granted)
    }

    /// Takes a grant away; open connections lose it before this returns.
    pub async fn ungrant(&self, access: &Access, grant: GrantId) -> Result<(), EngineError> {
        let admin = self.admin(access)?;
        let Shared { store, clock, .. } = &*self.inner.shared;
        let owner = store.ungrant(&admin, grant, clock.now()).await?;
        let owner = owner.ok_or_else(|| EngineError::NoSuch { what: "grant", name: grant.to_string() })?;
        self.regrant(owner, &admin).await
    }

    /// The tenant's grants, all or one principal's, the ended ones too.
    pub async fn grants(&self, access: &Access, principal: Option<&str>) -> Result<Vec<GrantRow>, EngineError> {
        let admin = self.admin(access)?;
        let of = match principal {
            Some(name) => Some(self.principal(&admin, name).await?.id),
            None => None,
        };
        Ok(self.inner.shared.store.grant_rows(&admin, of).await?)
    }

    /// Gives open connections of a principal what it is granted now.
    async fn regrant(&self, principal: PrincipalId, admin: &TenantAdmin) -> Result<(), EngineError> {
        let Shared { store, admission, .. } = &*self.inner.shared;
        // One after the other: what was read first must not be set last.
        let _turn = admission.regranting().lock().await;
        let grants = store.grants_of(admin, principal).await?;
        admission.regrant(admin.tenant(), principal, &grants);
        Ok(())
    }

    /// Why a principal may, or may not, use a verb on a key.
    pub async fn explain(
        &self,
        access: &Access,
        principal: &str,
        key: &str,
        verb: Verb,
    ) -> Result<Explanation, EngineError> {
        let admin = self.admin(access)?;
        let row = self.principal(&admin, principal).await?;
        let home = home_of(row.kind, &row.name)?;
        let key = access.rules().resolve(&home, key, None)?;
        let Shared { store, clock, .. } = &*self.inner.shared;
        let now = clock.now();
        let rows = store.grant_rows(&admin, Some(row.id)).await?;
        let covering: Vec<&GrantRow> = rows.iter().filter(|row| row.grant.prefix.covers(&key)).collect();
        let live = |row: &&&GrantRow| row.grant.not_after.is_none_or(|end| now <= end);
        let by = covering.iter().filter(live).find(|row| row.grant.verbs.allows(verb));
        let (allowed, reason) = match (row.disabled, by) {
            (true, _) => (false, format!("The principal {principal:?} is disabled.")),
            (false, Some(by)) => {
                let (verbs, prefix) = (by.grant.verbs.names().join(", "), &by.grant.prefix);
                (true, format!("Grant {} allows {verbs} on {prefix}; a token must allow {} too.", by.id, verb.name()))
            }
            (false, None) if covering.is_empty() => (false, format!("No grant of {principal:?} covers {key}.")),
            (false, None) if covering.iter().find(live).is_none() => {
                (false, format!("Every grant of {principal:?} that covers {key} has ended."))
            }
            (false, None) => (false, format!("No grant of {principal:?} that covers {key} allows {}.", verb.name())),
        };
        let by = by.filter(|_| allowed).map(|row| (**row).clone());
        Ok(Explanation { allowed, key: key.to_string(), by, reason })
    }

    /// Events of the tenant's audit log after `after`, oldest first, at most 1,000.
    pub async fn audit(&self, access: &Access, after: u64, limit: u32) -> Result<Vec<AuditRow>, EngineError> {
        Ok(self.inner.shared.store.audit(&self.admin(access)?, after, limit).await?)
    }

    /// The number of the newest event of the tenant's audit log.
    pub async fn audit_end(&self, access: &Access) -> Result<u64, EngineError> {
        Ok(self.inner.shared.store.audit_end(&self.admin(access)?).await?)
    }

    /// Notes that the caller did something itself: its credential's idle time begins anew.
    pub fn touch(&self, access: &Access) {
        let shared = self.inner.shared.clone();
        let now = shared.clock.now();
        if access.touch(now) {
            let access = access.clone();
            tokio::spawn(async move {
                if let Err(error) = shared.store.touch(access.caller(), now).await {
                    tracing::warn!("the use of a credential was not noted: {error}");
                }
            });
        }
    }

    /// The time, as credentials are judged by.
    pub fn now(&self) -> UnixMillis {
        self.inner.shared.clock.now()
    }
}

/// What an access token allows and how long.
struct Terms {
    ceiling: VerbSet,
    lifetime: Option<Duration>,
    idle: Option<Duration>,
    label: Option<String>,
}

/// An access token and, where wanted, a refresh token.
struct Pair {
    access: Token,
    refresh: Option<Token>,
}

impl Pair {
    fn generate(refresh: bool) -> Result<Self, EngineError> {
        let refresh = if refresh { Some(Token::generate(TokenKind::Refresh).map_err(StoreError::from)?) } else { None };
        Ok(Self { access: Token::generate(TokenKind::Access).map_err(StoreError::from)?, refresh })
    }

    fn credentials(
        &self,
        principal: PrincipalId,
        family: Family,
        terms: &Terms,
        now: UnixMillis,
    ) -> Vec<NewCredential<'_>> {
        let credential = |token, lifetime: Option<Duration>, idle: Option<Duration>| NewCredential {
            principal,
            token,
            family,
            ceiling: terms.ceiling,
            not_after: lifetime.map(|lifetime| now.plus_millis(millis(lifetime))),
            idle: idle.map(|idle| millis(idle).unsigned_abs()),
            label: terms.label.clone(),
        };
        let refresh = self.refresh.as_ref().map(|token| credential(token, Some(REFRESH_LIFETIME), None));
        [credential(&self.access, terms.lifetime, terms.idle)].into_iter().chain(refresh).collect()
    }

    fn issued(self, terms: &Terms, now: UnixMillis) -> Issued {
        Issued {
            token: self.access.expose(),
            id: self.access.id().clone(),
            not_after: terms.lifetime.map(|lifetime| now.plus_millis(millis(lifetime))),
            refresh: self.refresh.map(|token| token.expose()),
        }
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A name is one that lists and shells show as it is.
fn check_name(what: &str, name: &str) -> Result<(), EngineError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+=-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(fits) || name.contains("..") {
        return Err(EngineError::Invalid(format!(
            "{what} must be 1 to {MAX_NAME_BYTES} letters and digits of ASCII and ._@+=- without '..'."
        )));
    }
    Ok(())
}

/// The prefix a text names.
pub fn parse_prefix(text: &str) -> Result<KeyPrefix, EngineError> {
    Ok(KeyPrefix::parse(text)?)
}

/// Client text as an answer repeats it.
fn shown(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES).collect()
}
