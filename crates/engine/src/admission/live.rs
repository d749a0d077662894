//! What open connections rest on: one record per credential in use, shared by all who showed it, so that a revocation
//! or a changed grant reaches them at once (isolation.md §2.4).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use watertight_core::Caller;
use watertight_core::grant::Grants;
use watertight_core::ids::{CredentialId, PrincipalId, TenantId, UnixMillis};
use watertight_core::principal::{CredentialTerms, Family};

/// The store is told of a credential's use this often, in milliseconds.
const TOUCH_EVERY: u64 = 60_000;

/// Why a connection's authority ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Somebody took it away.
    Revoked,
    /// Its time is over, or it was not used for too long.
    Expired,
}

/// Whatever must end with the authority it rests on: a connection, a stream.
pub trait Held: Send + Sync {
    /// Drops what is queued and closes, at once and without waiting.
    fn end(&self, why: Ended);
}

/// A credential in use.
pub(super) struct Live {
    terms: Option<CredentialTerms>,
    grants: RwLock<Arc<Grants>>,
    used_at: AtomicI64,
    /// What the store knows of that.
    stored_use: AtomicI64,
    revoked: AtomicBool,
    held: Mutex<Vec<Weak<dyn Held>>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("terms", &self.terms).field("revoked", &self.revoked).finish_non_exhaustive()
    }
}

impl Live {
    pub(super) fn new(caller: &Caller, grants: Grants) -> Self {
        let used_at = caller.terms().map_or(0, |terms| terms.used_at.0);
        Self {
            terms: caller.terms().cloned(),
            grants: RwLock::new(Arc::new(grants)),
            used_at: AtomicI64::new(used_at),
            stored_use: AtomicI64::new(used_at),
            revoked: AtomicBool::new(false),
            held: Mutex::default(),
        }
    }

    pub(super) fn grants(&self) -> Arc<Grants> {
        self.grants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_grants(&self, grants: Grants) {
        *self.grants.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grants);
    }

    /// Why it gives nobody anything any more; none while it does.
    pub(super) fn ended(&self, now: UnixMillis) -> Option<Ended> {
        if self.revoked.load(Ordering::Acquire) {
            return Some(Ended::Revoked);
        }
        let over = self.terms.as_ref().is_some_and(|terms| terms.is_over(self.used_at(), now));
        over.then_some(Ended::Expired)
    }

    /// The last moment at which it has not expired, as things stand.
    pub(super) fn lasts_until(&self) -> Option<UnixMillis> {
        let terms = self.terms.as_ref()?;
        let idle = terms.idle.map(|idle| self.used_at().plus_millis(i64::try_from(idle).unwrap_or(i64::MAX)));
        [terms.not_after, idle].into_iter().flatten().min()
    }

    fn used_at(&self) -> UnixMillis {
        UnixMillis(self.used_at.load(Ordering::Acquire))
    }

    /// Notes a use; whether the store is to be told.
    pub(super) fn touch(&self, now: UnixMillis) -> bool {
        if self.terms.as_ref().is_none_or(|terms| terms.idle.is_none()) {
            return false;
        }
        self.used_at.fetch_max(now.0, Ordering::AcqRel);
        let stored = self.stored_use.load(Ordering::Acquire);
        now.since(UnixMillis(stored)) >= TOUCH_EVERY
            && self.stored_use.compare_exchange(stored, now.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends `held` when this ends; at once where it has.
    pub(super) fn hold(&self, held: &Arc<dyn Held>) {
        let mut all = lock(&self.held);
        // Closed connections are swept when the list would grow, so that it stays in proportion to the open ones.
        if all.len() == all.capacity() {
            all.retain(|held| held.strong_count() > 0);
        }
        all.push(Arc::downgrade(held));
        drop(all);
        if self.revoked.load(Ordering::Acquire) {
            held.end(Ended::Revoked);
        }
    }

    fn revoke(&self) -> usize {
        self.revoked.store(true, Ordering::Release);
        let held = std::mem::take(&mut *lock(&self.held));
        let open: Vec<_> = held.iter().filter_map(Weak::upgrade).collect();
        for held in &open {
            held.end(Ended::Revoked);
        }
        open.len()
    }
}

/// Whose authority, by which credential; none for a secret of the configuration.
type Name = (TenantId, PrincipalId, Option<CredentialId>);

/// All credentials in use. Bounded by the open connections.
#[derive(Default)]
pub(super) struct InUse {
    all: Mutex<HashMap<Name, Weak<Live>>>,
    /// Grows with every change of what anybody may do, after it is durable and before [`Self::all`] is searched.
    changes: AtomicU64,
}

impl InUse {
    /// To be read before a record is loaded, and handed to [`Self::join`] with what came of it.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// The record of the caller's credential. None when something changed since `seen`: what was loaded may be out of
    /// date, and is to be loaded again.
    pub(super) fn join(&self, caller: &Caller, grants: Grants, seen: u64) -> Option<Arc<Live>> {
        let name = (caller.tenant(), caller.principal(), caller.terms().map(|terms| terms.id.clone()));
        let mut all = lock(&self.all);
        if self.changes() != seen {
            return None;
        }
        if let Some(live) = all.get(&name).and_then(Weak::upgrade) {
            live.set_grants(grants);
            return Some(live);
        }
        if all.len() == all.capacity() {
            all.retain(|_, live| live.strong_count() > 0);
        }
        let live = Arc::new(Live::new(caller, grants));
        all.insert(name, Arc::downgrade(&live));
        Some(live)
    }

    /// Ends all of them that `is_meant`; how many connections and streams were open on them.
    pub(super) fn revoke(&self, is_meant: impl Fn(TenantId, PrincipalId, Option<&CredentialId>) -> bool) -> usize {
        self.end(|(tenant, principal, credential), _| is_meant(*tenant, *principal, credential.as_ref()))
    }

    /// The same for those of a family.
    pub(super) fn revoke_family(&self, tenant: TenantId, family: Family) -> usize {
        let theirs = |live: &Live| live.terms.as_ref().is_some_and(|terms| terms.family == family);
        self.end(|(of, _, _), live| *of == tenant && theirs(live))
    }

    fn end(&self, is_meant: impl Fn(&Name, &Live) -> bool) -> usize {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let mut ended = Vec::new();
        lock(&self.all).retain(|name, live| {
            let Some(live) = live.upgrade() else { return false };
            let meant = is_meant(name, &live);
            if meant {
                ended.push(live);
            }
            !meant
        });
        ended.iter().map(|live| live.revoke()).sum()
    }

    /// Gives all of a principal's the grants it has now.
    pub(super) fn regrant(&self, tenant: TenantId, principal: PrincipalId, grants: &Grants) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let all = lock(&self.all);
        let theirs = all.iter().filter(|((of, id, _), _)| *of == tenant && *id == principal);
        theirs.filter_map(|(_, live)| live.upgrade()).for_each(|live| live.set_grants(grants.clone()));
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
