//! Keys that are replaced while the engine is at work, and the signed checkpoints of what it stores.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use watertight_core::ids::UnixMillis;
use watertight_store::keys::TenantKeyStatus;

use super::Engine;
use crate::actor::Shared;
use crate::error::EngineError;
use crate::steward::checkpoint;
use crate::steward::rotation::{OnKeyProgress, Rotated, RotationError};

/// Time between two looks at whether an epoch is due, and between two checkpoints.
const BEAT: Duration = Duration::from_mins(1);

impl Engine {
    /// Gives one tenant, or all of them, a new tenant key and a new epoch, and wraps their data keys anew, while
    /// everything goes on. `progress` hears of each thousand data keys.
    pub async fn rotate_keys(
        &self,
        tenant: Option<&str>,
        progress: OnKeyProgress,
    ) -> Result<Vec<Rotated>, RotationError> {
        let Shared { recovery, clock, .. } = &*self.inner.shared;
        recovery.housekeeping().rotate(tenant, clock.now(), progress).await
    }

    /// Replaces the master key, where it is in a file; which file that is. The old key opens older copies of the keystore
    /// only.
    pub async fn rotate_master_key(&self) -> Result<PathBuf, RotationError> {
        let Shared { recovery, .. } = &*self.inner.shared;
        recovery.housekeeping().replace_master_key(&self.inner.config, self.inner.dir.path()).await
    }

    /// Every tenant's keys in numbers.
    pub async fn key_status(&self) -> Result<Vec<TenantKeyStatus>, EngineError> {
        Ok(self.inner.shared.recovery.housekeeping().key_status().await?)
    }

    /// Starts what keeps the keys in the background: what was shredded is removed, epochs turn when they are due, and
    /// signed checkpoints are appended, once a minute where something changed and at the end of [`Self::drain`].
    pub fn keep_keys(&self) {
        self.turn_epochs();
        self.write_checkpoints();
    }

    fn write_checkpoints(&self) {
        let shared = self.inner.shared.clone();
        let slot = self.inner.checkpoints.clone();
        let path = checkpoint::file(&self.inner.config, self.inner.dir.path());
        tokio::spawn(async move {
            let opened = shared.recovery.housekeeping().checkpoints(path.clone()).await;
            let checkpoints = match opened {
                Ok(checkpoints) => Arc::new(checkpoints),
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "checkpoints cannot be written; none are made");
                    return;
                }
            };
            *slot.lock().await = Some(checkpoints.clone());
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    _ = beat.tick() => {}
                    () = checkpoints.due() => {}
                }
                checkpoints.append(shared.clock.now(), false).await;
            }
        });
    }

    /// The last checkpoint, of a store that nothing is written to any more.
    pub(super) async fn end_checkpoints(&self) {
        let checkpoints = self.inner.checkpoints.lock().await.take();
        if let Some(checkpoints) = checkpoints {
            checkpoints.append(self.inner.shared.clock.now(), true).await;
        }
    }

    fn turn_epochs(&self) {
        let shared = self.inner.shared.clone();
        let epoch = Duration::from_hours(u64::from(self.inner.config.keys.epoch_hours));
        tokio::spawn(async move {
            let housekeeping = shared.recovery.housekeeping();
            match housekeeping.sweep_shredded().await {
                Ok(0) => {}
                Ok(swept) => tracing::info!(swept, "removed what was left of shredded sessions"),
                Err(error) => tracing::warn!(%error, "what is left of shredded sessions could not be removed"),
            }
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    _ = beat.tick() => {}
                }
                let now = shared.clock.now();
                let due = UnixMillis(now.0.saturating_sub(i64::try_from(epoch.as_millis()).unwrap_or(i64::MAX)));
                let stop = shared.stop.clone();
                let go_on =
                    move || if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                if let Err(error) = housekeeping.turn_due(due, now, go_on).await {
                    tracing::warn!(%error, "key epochs could not be looked at");
                }
            }
        });
    }
}
