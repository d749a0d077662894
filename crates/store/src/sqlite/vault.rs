//! The opened keys: tenants' keys, session data keys in a bounded cache, and the pool of keys for sessions to come.
//!
//! [`rotation`]: turning a tenant to a new epoch, new master keys, shredding.
//!
//! The pool holds data keys that are wrapped and synced already, each with its session id drawn beforehand, so that a
//! new session costs no keystore sync. Keys that were drawn and never used are free again at the next start, as many as
//! the pool holds; the rest are deleted.

mod rotation;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_seal::SealError;
use watertight_seal::checkpoint::Signer;
use watertight_seal::keyring::{Root, TenantKeys, WrappedDataKey};
use watertight_seal::record::DataKey;
use watertight_seal::token::TokenHasher;

use super::keystore::{KeyRow, Keystore, Opened};
use super::pool::{Pool, Pooled, READY};
use super::readers::Readers;
use crate::StoreError;

/// Opened data keys kept at the most.
const CACHE: usize = 4096;
/// The key number of a session's first data key. Each generation has its own: generation n is sealed with key n.
pub(super) const FIRST_KEY: u32 = 1;

/// Everything that holds opened keys.
pub(super) struct Vault {
    /// Held while something is wrapped under it and stored, so that no key of a former master key is left behind.
    root: RwLock<Root>,
    keystore: Keystore,
    hasher: Arc<TokenHasher>,
    signer: Arc<Signer>,
    store_id: [u8; 16],
    tenants: RwLock<HashMap<TenantId, Arc<TenantKeys>>>,
    cache: Mutex<Cache>,
    pools: Mutex<HashMap<TenantId, Pool>>,
    /// Held while a pool is filled, so that an empty one is filled once and not by everybody who waits.
    filling: Mutex<()>,
    /// Held for reading while a key is wrapped and stored, or read and opened; for writing when an epoch ends.
    epochs: RwLock<()>,
    /// One rotation at a time.
    rotating: Mutex<()>,
}

impl Vault {
    /// Opens the keys of every tenant.
    pub(super) fn open(root: Root, opened: Opened) -> Result<Self, StoreError> {
        let Opened { keystore, hasher, signer, store_id } = opened;
        let mut tenants = HashMap::new();
        for (tenant, wrapped) in keystore.tenants()? {
            match root.open_tenant(tenant, &wrapped) {
                Ok(keys) => drop(tenants.insert(tenant, Arc::new(keys))),
                // The others go on; what is this tenant's answers with an integrity error.
                Err(error) => tracing::error!(%tenant, %error, "the keys of a tenant do not open"),
            }
        }
        Ok(Self {
            root: RwLock::new(root),
            keystore,
            hasher: Arc::new(hasher),
            signer: Arc::new(signer),
            store_id,
            tenants: RwLock::new(tenants),
            cache: Mutex::default(),
            pools: Mutex::default(),
            filling: Mutex::new(()),
            epochs: RwLock::new(()),
            rotating: Mutex::new(()),
        })
    }

    pub(super) fn hasher(&self) -> Arc<TokenHasher> {
        self.hasher.clone()
    }

    /// The keys of a tenant.
    pub(super) fn tenant(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, StoreError> {
        let tenants = read(&self.tenants);
        tenants.get(&tenant).cloned().ok_or(StoreError::Integrity("tenant keys"))
    }

    /// Signs checkpoints.
    pub(super) fn signer(&self) -> Arc<Signer> {
        self.signer.clone()
    }

    /// What store and keystore have in common.
    pub(super) fn store_id(&self) -> [u8; 16] {
        self.store_id
    }

    /// Makes a tenant's keys and fills its pool: one keystore sync. Blocks.
    pub(super) fn create_tenant(&self, tenant: TenantId, now: UnixMillis) -> Result<Arc<TenantKeys>, StoreError> {
        let root = read(&self.root);
        let (keys, wrapped) = root.create_tenant(tenant)?;
        let (ready, rows) = new_keys(&keys, READY)?;
        self.keystore.insert_tenant(tenant, &wrapped, &rows, now)?;
        let keys = Arc::new(keys);
        lock(&self.pools).insert(tenant, Pool::loaded(ready));
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(tenant, keys.clone());
        Ok(keys)
    }

    /// A data key if it is open already.
    pub(super) fn cached(&self, tenant: TenantId, session: SessionId, key_gen: u32) -> Option<Arc<DataKey>> {
        lock(&self.cache).get(&(tenant, session, key_gen))
    }

    /// A data key. Blocks when it is not open yet.
    pub(super) fn data_key(
        &self,
        tenant: TenantId,
        session: SessionId,
        key_gen: u32,
    ) -> Result<Arc<DataKey>, StoreError> {
        if let Some(key) = self.cached(tenant, session, key_gen) {
            return Ok(key);
        }
        let _no_epoch_ends = read(&self.epochs);
        let key = Arc::new(self.open_data_key(tenant, session, key_gen)?);
        self.remember(tenant, session, &key);
        Ok(key)
    }

    fn open_data_key(&self, tenant: TenantId, session: SessionId, key_gen: u32) -> Result<DataKey, StoreError> {
        let mut wrapped = self.wrapped_data_key(tenant, session, key_gen)?;
        let mut keys = self.tenant(tenant)?;
        if !keys.knows_epoch(wrapped.epoch) {
            // Another process, whose state directory this one only reads, has turned meanwhile.
            keys = self.reload(tenant)?;
            wrapped = self.wrapped_data_key(tenant, session, key_gen)?;
        }
        Ok(keys.open_data_key(session, key_gen, &wrapped)?)
    }

    fn wrapped_data_key(
        &self,
        tenant: TenantId,
        session: SessionId,
        key_gen: u32,
    ) -> Result<WrappedDataKey, StoreError> {
        let wrapped = self.keystore.data_key(tenant, session, key_gen)?;
        wrapped.ok_or(StoreError::Integrity("session without data key"))
    }

    /// The data key of a further generation, made and synced if it is missing. Blocks.
    pub(super) fn further_key(
        &self,
        tenant: TenantId,
        session: SessionId,
        key_gen: u32,
    ) -> Result<Arc<DataKey>, StoreError> {
        let _no_epoch_ends = read(&self.epochs);
        let keys = self.tenant(tenant)?;
        let (_, wrapped) = keys.create_data_key(session, key_gen)?;
        let held = self.keystore.add_key(tenant, KeyRow { session, key_gen, wrapped })?;
        let held = held.ok_or(StoreError::NotPermitted)?;
        let key = Arc::new(keys.open_data_key(session, key_gen, &held)?);
        self.remember(tenant, session, &key);
        Ok(key)
    }

    fn remember(&self, tenant: TenantId, session: SessionId, key: &Arc<DataKey>) {
        lock(&self.cache).put((tenant, session, key.key_gen()), key.clone());
    }

    /// A session id with its data key for a draft made at `now`, synced already. Waits for the keystore only when the
    /// pool is empty.
    pub(super) async fn draw(
        self: &Arc<Self>,
        tenant: TenantId,
        readers: &Arc<Readers>,
        now: UnixMillis,
    ) -> Result<Pooled, StoreError> {
        let (drawn, refill) = self.draw_ready(tenant, now);
        let (vault, readers) = (self.clone(), readers.clone());
        if let Some(pooled) = drawn {
            if refill {
                // Nobody waits for it. When it fails, the draw that finds the pool empty tries again and says why.
                tokio::task::spawn_blocking(move || drop(vault.fill(tenant, &readers)));
            }
            return Ok(pooled);
        }
        tokio::task::spawn_blocking(move || {
            loop {
                vault.fill(tenant, &readers)?;
                // Others may have emptied it again meanwhile.
                if let (Some(pooled), _) = vault.draw_ready(tenant, now) {
                    return Ok(pooled);
                }
            }
        })
        .await
        .map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    /// Looks at the tenant's pool or changes it.
    pub(super) fn with_pool<T>(&self, tenant: TenantId, change: impl FnOnce(&mut Pool) -> T) -> T {
        change(lock(&self.pools).entry(tenant).or_default())
    }

    /// One from the pool, and whether it is to be refilled.
    fn draw_ready(&self, tenant: TenantId, now: UnixMillis) -> (Option<Pooled>, bool) {
        let (drawn, refill) = self.with_pool(tenant, |pool| (pool.draw(now), pool.ask_for_refill()));
        if let Some(pooled) = &drawn {
            self.remember(tenant, pooled.session, &pooled.key);
        }
        (drawn, refill)
    }

    /// Fills a tenant's pool unless somebody else just did. Blocks.
    fn fill(&self, tenant: TenantId, readers: &Readers) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.filling);
        let result = match self.with_pool(tenant, |pool| pool.missing()) {
            Some(missing) => self.new_pooled(tenant, readers, missing),
            None => Ok(Vec::new()),
        };
        let (keys, result) = match result {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        self.with_pool(tenant, |pool| pool.refilled(keys));
        result
    }

    /// So many keys for the pool, synced; the same sync notes which were used and deletes which were given up.
    fn new_pooled(&self, tenant: TenantId, readers: &Readers, missing: usize) -> Result<Vec<Pooled>, StoreError> {
        let _no_epoch_ends = read(&self.epochs);
        let keys = self.tenant(tenant)?;
        let mut found = Vec::new();
        let (mut used, mut unused) = (Vec::new(), Vec::new());
        // A former process's, of which nobody holds a scope: nothing was drawn since.
        if !self.with_pool(tenant, |pool| pool.loaded) {
            for row in self.keystore.pooled(tenant)? {
                if is_stored(readers, tenant, row.session)? {
                    used.push(row.session);
                } else if found.len() < missing
                    && let Ok(key) = keys.open_data_key(row.session, row.key_gen, &row.wrapped)
                {
                    found.push(Pooled { session: row.session, key: Arc::new(key) });
                } else {
                    unused.push(row.session);
                }
            }
        }
        for session in self.with_pool(tenant, |pool| pool.unsettled()) {
            if is_stored(readers, tenant, session)? {
                self.with_pool(tenant, |pool| pool.stored(session));
            }
        }
        self.with_pool(tenant, |pool| {
            used.extend(pool.take_used());
            unused.extend(pool.give_up());
        });
        let (made, rows) = new_keys(&keys, missing.saturating_sub(found.len()))?;
        self.keystore.refill(tenant, &rows, &used, &unused)?;
        self.with_pool(tenant, |pool| pool.loaded = true);
        found.extend(made);
        Ok(found)
    }

    /// Sessions of the tenant that were stored, as far as the keystore was told.
    pub(super) fn known_stored(&self, tenant: TenantId) -> Result<Vec<SessionId>, StoreError> {
        self.keystore.known_stored(tenant)
    }

    /// Synced keystore transactions so far.
    pub(super) fn syncs(&self) -> u64 {
        self.keystore.syncs()
    }

    /// Closes the keystore; keys that are open stay usable until dropped.
    pub(super) fn close(&self) {
        self.keystore.close();
    }
}

fn new_keys(keys: &TenantKeys, count: usize) -> Result<(Vec<Pooled>, Vec<KeyRow>), SealError> {
    let (mut ready, mut rows) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let session = SessionId::from_bytes(watertight_seal::random()?);
        let (key, wrapped) = keys.create_data_key(session, FIRST_KEY)?;
        ready.push(Pooled { session, key: Arc::new(key) });
        rows.push(KeyRow { session, key_gen: FIRST_KEY, wrapped });
    }
    Ok((ready, rows))
}

fn is_stored(readers: &Readers, tenant: TenantId, session: SessionId) -> Result<bool, StoreError> {
    readers.run_blocking(|conn| {
        Ok(conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant = ?1 AND session = ?2)")?
            .query_row((tenant.as_bytes(), session.as_bytes()), |row| row.get(0))?)
    })
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under these locks is changed in single steps, so a panic elsewhere leaves it sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type CacheKey = (TenantId, SessionId, u32);

/// A bounded map in two halves: what is not asked for while one half fills up is forgotten (and zeroized).
#[derive(Default)]
struct Cache {
    young: HashMap<CacheKey, Arc<DataKey>>,
    old: HashMap<CacheKey, Arc<DataKey>>,
}

impl Cache {
    fn get(&mut self, at: &CacheKey) -> Option<Arc<DataKey>> {
        if let Some(key) = self.young.get(at) {
            return Some(key.clone());
        }
        let key = self.old.remove(at)?;
        self.put(*at, key.clone());
        Some(key)
    }

    fn put(&mut self, at: CacheKey, key: Arc<DataKey>) {
        if self.young.len() >= CACHE / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(at, key);
    }

    /// Forgets the keys of what is shredded.
    fn forget(&mut self, gone: impl Fn(&CacheKey) -> bool) {
        self.young.retain(|at, _| !gone(at));
        self.old.retain(|at, _| !gone(at));
    }
}
