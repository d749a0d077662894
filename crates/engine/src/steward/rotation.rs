//! New keys: a tenant's epochs and tenant key, and the master key.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use watertight_config::Config;
use watertight_core::ids::UnixMillis;
use watertight_seal::master::{MasterKey, MasterKeySource};
pub use watertight_store::keys::Turned;
use watertight_store::keys::{EpochAge, TenantKeyStatus, Turning};
use watertight_store::sqlite::SqliteStore;
use watertight_store::{OpenError as StoreOpenError, StoreError};

use super::{Housekeeping, master_key_source};
use crate::state_dir::OpenError;

/// How far a rotation has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProgress {
    /// The tenant at hand.
    pub tenant: String,
    /// Its data keys that were wrapped anew.
    pub done: u64,
    /// Its data keys that are to be wrapped anew.
    pub total: u64,
}

/// Hears how far a rotation has come, and may stop it: what was not done is done by the next one.
pub type OnKeyProgress = Arc<dyn Fn(&KeyProgress) -> ControlFlow<()> + Send + Sync>;

/// A tenant whose keys were replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Its name, or its id where the store knows none.
    pub tenant: String,
    /// What was done.
    pub turned: Turned,
}

/// Why keys were not replaced. Texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// No tenant has this name.
    #[error("There is no tenant named {0:?}.")]
    UnknownTenant(String),
    /// The master key is not ours to write.
    #[error(
        "The master key comes from {0}, where Watertight cannot write a new one; only a key of file:<path> can be replaced."
    )]
    NotAFile(MasterKeySource),
    /// The key file cannot be written.
    #[error(transparent)]
    MasterKey(#[from] watertight_seal::master::MasterKeyError),
    /// The keystore refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Opens the store under the master key. A crash while the master key was being replaced leaves two: the one that opens
/// the store takes its place.
pub(super) fn open_store(config: &Config, dir: &Path) -> Result<SqliteStore, OpenError> {
    let failed = |error: &dyn std::error::Error| OpenError::Store(error.to_string());
    let source = master_key_source(config, dir)?;
    // A missing key beside a store is never replaced: what the store holds would be lost for good.
    let master = source.load_or_create(!SqliteStore::exists(dir)).map_err(|error| failed(&error))?;
    let path = key_file(&source);
    match (SqliteStore::open(dir, &master), path, successor(&source)) {
        (Err(StoreOpenError::WrongMasterKey), Some(path), Some(successor)) => {
            let store = SqliteStore::open(dir, &successor).map_err(|error| failed(&error))?;
            MasterKey::adopt_successor(path).map_err(|error| failed(&error))?;
            tracing::warn!("a new master key had not taken its place yet; it has now");
            Ok(store)
        }
        (Ok(store), Some(path), Some(_)) => {
            MasterKey::discard_successor(path).map_err(|error| failed(&error))?;
            tracing::warn!("removed a new master key that had never come into use");
            Ok(store)
        }
        (opened, _, _) => opened.map_err(|error| failed(&error)),
    }
}

fn key_file(source: &MasterKeySource) -> Option<&PathBuf> {
    match source {
        MasterKeySource::File(path) => Some(path),
        _ => None,
    }
}

/// The master key that lies beside the one in use, to follow it.
pub(super) fn successor(source: &MasterKeySource) -> Option<MasterKey> {
    MasterKeySource::File(MasterKey::successor_file(key_file(source)?)).load().ok()
}

impl Housekeeping {
    /// Every tenant's keys in numbers.
    pub(crate) async fn key_status(&self) -> Result<Vec<TenantKeyStatus>, StoreError> {
        self.store.key_status(&self.steward).await
    }

    /// Every tenant's epochs, the oldest first.
    pub(crate) async fn epochs(&self) -> Result<Vec<EpochAge>, StoreError> {
        self.store.epochs(&self.steward).await
    }

    /// Gives one tenant, or all, a new tenant key and a new epoch.
    pub(crate) async fn rotate(
        &self,
        tenant: Option<&str>,
        now: UnixMillis,
        progress: OnKeyProgress,
    ) -> Result<Vec<Rotated>, RotationError> {
        let mut tenants = self.key_status().await?;
        if let Some(name) = tenant {
            tenants.retain(|status| status.name.as_deref() == Some(name));
            if tenants.is_empty() {
                return Err(RotationError::UnknownTenant(name.to_owned()));
            }
        }
        let mut rotated = Vec::new();
        for TenantKeyStatus { tenant, name, .. } in tenants {
            let name = name.unwrap_or_else(|| tenant.to_string());
            let (progress, named) = (progress.clone(), name.clone());
            let report = move |done, total| progress(&KeyProgress { tenant: named.clone(), done, total });
            let turned = self.store.turn_keys(&self.steward, tenant, Turning::WithTenantKey, now, report).await?;
            rotated.push(Rotated { tenant: name, turned });
        }
        Ok(rotated)
    }

    /// Brings turns that broke off to their end and turns tenants whose epoch began before `due`. A tenant whose keys do
    /// not open stops no other.
    pub(crate) async fn turn_due(
        &self,
        due: UnixMillis,
        now: UnixMillis,
        go_on: impl Fn() -> ControlFlow<()> + Clone + Send + 'static,
    ) -> Result<(), StoreError> {
        for EpochAge { tenant, since, unfinished } in self.epochs().await? {
            let how = if since.is_none_or(|since| since <= due) {
                Turning::Epoch
            } else if unfinished {
                Turning::Finish
            } else {
                continue;
            };
            let go_on = go_on.clone();
            match self.store.turn_keys(&self.steward, tenant, how, now, move |_, _| go_on()).await {
                Ok(Turned { epoch, rewrapped, damaged: 0, .. }) => {
                    tracing::info!(%tenant, epoch, rewrapped, "turned to a new key epoch");
                }
                Ok(Turned { epoch, damaged, .. }) => {
                    tracing::error!(%tenant, epoch, damaged, "data keys do not open, so the key that wraps them is kept; \
                         run `watertight keys verify`");
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => tracing::error!(%tenant, %error, "the tenant's keys could not be turned"),
            }
        }
        Ok(())
    }

    /// Replaces the master key: the new one is on disk before anything is under it, and takes the old one's place after.
    pub(crate) async fn replace_master_key(&self, config: &Config, dir: &Path) -> Result<PathBuf, RotationError> {
        let source = master_key_source(config, dir).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let Some(path) = key_file(&source) else { return Err(RotationError::NotAFile(source)) };
        let master = MasterKey::create_successor(path)?;
        self.store.replace_master_key(&self.steward, master).await?;
        MasterKey::adopt_successor(path)?;
        Ok(path.clone())
    }

    /// Removes what shredding left in the store.
    pub(crate) async fn sweep_shredded(&self) -> Result<usize, StoreError> {
        self.store.sweep_shredded(&self.steward).await
    }
}
