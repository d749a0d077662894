//! Runs that nobody is running: what a former process left open, and what an actor that died left behind.
//!
//! A session with such runs is noted here. Whoever starts its actor next, a request or [`Recovery::wake`], finds them:
//! the actor takes them up before anything else, so what comes later stands behind them (isolation.md C1, C5).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_store::StoreError;

use crate::actor::Shared;
use crate::registry::Registry;
use crate::steward::{Housekeeping, Readmitted};

/// How often a run is started anew before it counts as what ends the process.
pub(crate) const MAX_RESTARTS: u32 = 3;
/// Sessions at the most whose left runs are at work at the same time: a start must not ask a provider for everything at
/// once.
const MAX_AWAKE: usize = 256;
/// Time before a session whose actor died is woken.
const PAUSE: Duration = Duration::from_secs(1);

/// A tenant's session.
pub(crate) type SessionName = (TenantId, SessionId);

/// The sessions with runs that nobody is running. Bounded by the runs that were accepted.
pub(crate) struct Recovery {
    housekeeping: Housekeeping,
    left: Mutex<HashSet<SessionName>>,
    /// The same as they were found at the start, in the order in which they waited.
    found: Mutex<Vec<SessionName>>,
    awake: Arc<Semaphore>,
}

/// Held by an actor that was woken, until the runs it found have ended.
pub(crate) type Awake = OwnedSemaphorePermit;

impl Recovery {
    pub(crate) fn new(housekeeping: Housekeeping, found: Vec<SessionName>) -> Self {
        Self {
            housekeeping,
            left: Mutex::new(found.iter().copied().collect()),
            found: Mutex::new(found),
            awake: Arc::new(Semaphore::new(MAX_AWAKE)),
        }
    }

    pub(crate) fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    /// Whether the session has runs that nobody is running.
    pub(crate) fn is_pending(&self, session: SessionName) -> bool {
        lock(&self.left).contains(&session)
    }

    /// How many sessions have.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.left).len()
    }

    /// The open runs of a session that is noted here, for its actor alone. When this fails they stay noted.
    pub(crate) async fn take_up(&self, session: SessionName, now: UnixMillis) -> Result<Vec<Readmitted>, StoreError> {
        if !lock(&self.left).remove(&session) {
            return Ok(Vec::new());
        }
        let taken = self.housekeeping.take_up(session.0, session.1, now).await;
        if taken.is_err() {
            self.note(session);
        }
        taken
    }

    /// Notes a session whose actor left runs behind.
    pub(crate) fn note(&self, session: SessionName) {
        lock(&self.left).insert(session);
    }

    /// Wakes the sessions that were found at the start, the longest waiting first, as many at a time as may be awake.
    pub(crate) async fn wake(shared: Arc<Shared>, registry: Arc<Registry>) {
        let found = std::mem::take(&mut *lock(&shared.recovery.found));
        for session in found {
            let Ok(awake) = shared.recovery.awake.clone().acquire_owned().await else { return };
            if shared.stop.is_cancelled() {
                return;
            }
            // A request may have come first.
            if shared.recovery.is_pending(session) {
                registry.wake(&shared, session, Some(awake)).await;
            }
        }
    }

    /// Notes a session whose actor died over its runs, and wakes it in a while.
    pub(crate) fn wake_again(shared: &Arc<Shared>, registry: &Arc<Registry>, session: SessionName) {
        shared.recovery.note(session);
        // None while the runtime goes down: the next process will find them.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (shared, registry) = (shared.clone(), registry.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => registry.wake(&shared, session, None).await,
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
