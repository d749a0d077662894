//! New epochs, tenant keys and master keys while the store is at work.

use std::ops::ControlFlow;

use watertight_core::Steward;
use watertight_core::ids::{TenantId, UnixMillis};
use watertight_seal::master::MasterKey;

use super::{SqliteStore, key_status};
use crate::StoreError;
use crate::keys::{EpochAge, TenantKeyStatus, Turned, Turning};

impl SqliteStore {
    /// Every tenant's epochs, the oldest first.
    pub async fn epochs(&self, _steward: &Steward) -> Result<Vec<EpochAge>, StoreError> {
        let vault = self.vault.clone();
        blocking(move || vault.keystore().epochs()).await
    }

    /// Every tenant's keys in numbers. Reads every row of the keystore.
    pub async fn key_status(&self, _steward: &Steward) -> Result<Vec<TenantKeyStatus>, StoreError> {
        self.read(key_status::of_all).await
    }

    /// Turns a tenant to a new shred epoch: its data keys are wrapped anew, a thousand to a transaction, and the older
    /// epochs' keys are destroyed. `progress` hears of each batch, with data keys done and in all, and may stop it
    /// between two. What was not done is left to [`Turning::Finish`].
    pub async fn turn_keys(
        &self,
        _steward: &Steward,
        tenant: TenantId,
        how: Turning,
        now: UnixMillis,
        mut progress: impl FnMut(u64, u64) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Turned, StoreError> {
        let vault = self.vault.clone();
        blocking(move || vault.turn(tenant, how, now, &mut progress)).await
    }

    /// Puts the pepper and every tenant's key under another master key, in one transaction. From its end on only that one
    /// opens the store: it must be safe on disk before.
    pub async fn replace_master_key(&self, _steward: &Steward, master: MasterKey) -> Result<(), StoreError> {
        let vault = self.vault.clone();
        blocking(move || vault.replace_master(&master)).await
    }
}

/// Runs what waits for the keystore or a disk on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Unavailable(e.to_string()))?
}
