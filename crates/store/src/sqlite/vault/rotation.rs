//! New epochs, new tenant keys, new master keys, and destroyed ones.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_seal::keyring::{Root, TenantKeys};
use watertight_seal::master::MasterKey;

use super::super::keystore::{KeyRow, Keystore, Shredded};
use super::{Vault, lock, read};
use crate::StoreError;
use crate::keys::{Turned, Turning};

/// Data keys wrapped anew in one transaction: what the keystore is held for is a few milliseconds.
const BATCH: u32 = 1000;

impl Vault {
    /// The keystore, for what looks at wrapped keys only.
    pub(in crate::sqlite) fn keystore(&self) -> &Keystore {
        &self.keystore
    }

    /// The tenant's keys as the keystore holds them now, whoever wrote it.
    pub(in crate::sqlite) fn reload(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, StoreError> {
        let root = read(&self.root);
        let wrapped = self.keystore.tenant(tenant)?.ok_or(StoreError::Integrity("tenant keys"))?;
        match root.open_tenant(tenant, &wrapped) {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.put_tenant(&keys);
                Ok(keys)
            }
            Err(_) if !self.keystore.is_under(&root)? => {
                Err(StoreError::Unavailable("the master key was replaced meanwhile: start again".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn put_tenant(&self, keys: &Arc<TenantKeys>) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(keys.tenant(), keys.clone());
    }

    /// Turns the tenant to a new epoch and wraps its data keys anew, or with `finish` only ends a turn that broke off. A
    /// new tenant key comes with it when `renew` says so. Blocks; a keystore transaction for every thousand keys.
    pub(in crate::sqlite) fn turn(
        &self,
        tenant: TenantId,
        how: Turning,
        now: UnixMillis,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Turned, StoreError> {
        let _one_at_a_time = lock(&self.rotating);
        if how != Turning::Finish {
            self.begin_turn(tenant, how == Turning::WithTenantKey, now)?;
        }
        let keys = self.tenant(tenant)?;
        let total = self.keystore.count_older(tenant)?;
        let (mut done, mut kept, mut after) = (0, 0, None);
        while progress(done, total.max(done)).is_continue() {
            let batch = self.keystore.data_keys_after(tenant, after, Some(keys.epoch()), BATCH)?;
            let Some(last) = batch.last() else { break };
            after = Some((last.session, last.key_gen));
            let mut rewrapped = Vec::with_capacity(batch.len());
            for KeyRow { session, key_gen, wrapped } in batch {
                done += 1;
                match keys.rewrap_data_key(session, key_gen, &wrapped) {
                    Ok(wrapped) => rewrapped.push(KeyRow { session, key_gen, wrapped }),
                    Err(error) => {
                        kept += 1;
                        tracing::error!(%tenant, %session, key_gen, %error,
                            "a data key does not open; it is left as it is, and its epoch's key with it");
                    }
                }
            }
            self.keystore.rewrap(tenant, &rewrapped)?;
        }
        let left = {
            let _nobody_opens = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
            let left = self.keystore.end_turn(tenant, keys.epoch())?;
            self.put_tenant(&Arc::new(keys.keeping(&left)));
            left
        };
        Ok(Turned { epoch: keys.epoch(), rewrapped: done - kept, damaged: kept, epochs_left: left.len() as u64 })
    }

    fn begin_turn(&self, tenant: TenantId, renew: bool, now: UnixMillis) -> Result<(), StoreError> {
        let root = read(&self.root);
        let wrapped = self.keystore.tenant(tenant)?.ok_or(StoreError::Integrity("tenant keys"))?;
        let renewed = if renew { Some(root.renew_tenant(tenant, &wrapped)?) } else { None };
        let (key, epoch) = root.next_epoch(tenant, renewed.as_ref().unwrap_or(&wrapped))?;
        // Whoever still wraps under the former epoch has stored what it wrapped when this is had, and nobody reads the
        // tenant's keys anew before they are the turned ones.
        let _nobody_wraps = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
        self.keystore.begin_turn(tenant, renewed.as_ref(), &epoch, now)?;
        self.put_tenant(&Arc::new(self.tenant(tenant)?.turned(key)));
        Ok(())
    }

    /// Puts everything under another master key, in one transaction.
    pub(in crate::sqlite) fn replace_master(&self, master: &MasterKey) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.rotating);
        let new = Root::new(master);
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        self.keystore.replace_master(
            |pepper| Ok(new.adopt_pepper(&root, pepper)?),
            |tenant, key| Ok(new.adopt_tenant_key(&root, tenant, key)?),
        )?;
        *root = new;
        Ok(())
    }

    /// Destroys a session's or a tenant's keys, here and in the keystore. Blocks. Returns how many data keys there were.
    pub(in crate::sqlite) fn shred(&self, what: Shredded) -> Result<usize, StoreError> {
        // A turn that goes on would store a key anew only where it still is, but a tenant must not turn meanwhile.
        let _one_at_a_time = lock(&self.rotating);
        let _nobody_opens = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keystore.shred(what)?;
        lock(&self.cache).forget(|(tenant, session, _)| {
            *tenant == what.tenant && what.session.is_none_or(|shredded| shredded == *session)
        });
        if what.session.is_none() {
            self.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(&what.tenant);
            lock(&self.pools).remove(&what.tenant);
        }
        Ok(keys)
    }

    /// Whether the whole tenant was shredded.
    pub(in crate::sqlite) fn is_tenant_shredded(&self, tenant: TenantId) -> Result<bool, StoreError> {
        // No session has this id.
        self.keystore.is_shredded(tenant, SessionId::from_bytes([0; 16]))
    }

    /// Whether the session, or its tenant, was shredded.
    pub(in crate::sqlite) fn is_shredded(&self, tenant: TenantId, session: SessionId) -> Result<bool, StoreError> {
        self.keystore.is_shredded(tenant, session)
    }
}
