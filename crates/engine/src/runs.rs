//! Runs that are under way, for those who wait for their end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use watertight_core::ids::{PrincipalId, RunId, TenantId};

use crate::report::RunReport;

/// Run ids are names under a tenant and a principal.
pub(crate) type RunSpace = (TenantId, PrincipalId);

/// The end of one run, once it is known.
type Ending = watch::Receiver<Option<Arc<RunReport>>>;

/// Every run under way. Bounded by the queues of the sessions.
#[derive(Default)]
pub(crate) struct Runs {
    live: Mutex<HashMap<(RunSpace, RunId), Ending>>,
    begun: Notify,
    ended: Notify,
}

/// Held by the session's actor from the acceptance of a run to its end.
pub(crate) struct LiveRun {
    runs: Arc<Runs>,
    name: (RunSpace, RunId),
    ending: watch::Sender<Option<Arc<RunReport>>>,
}

impl Runs {
    pub(crate) fn begin(self: &Arc<Self>, space: RunSpace, run: &RunId) -> LiveRun {
        let (ending, receiver) = watch::channel(None);
        let name = (space, run.clone());
        self.lock().insert(name.clone(), receiver);
        self.begun.notify_waiters();
        LiveRun { runs: self.clone(), name, ending }
    }

    /// The report of a run that is under way. `Ok(None)` when `limit` passes first; `Err(Settled)` when the run is not
    /// under way (any more): the store knows how it ended, if it ever began.
    pub(crate) async fn wait(
        &self,
        space: RunSpace,
        run: &RunId,
        limit: Option<Duration>,
    ) -> Result<Option<Arc<RunReport>>, Settled> {
        let ending = self.lock().get(&(space, run.clone())).cloned();
        let Some(mut ending) = ending else { return Err(Settled) };
        let ended = async { ending.wait_for(Option::is_some).await.map(|report| report.clone()) };
        match within(limit, ended).await {
            None => Ok(None),
            Some(Ok(report)) => Ok(report),
            Some(Err(_)) => Err(Settled),
        }
    }

    /// Resolves when the next run begins. Make it before looking, so that no beginning is missed.
    pub(crate) fn next_begin(&self) -> Notified<'_> {
        self.begun.notified()
    }

    /// Returns when no run is under way, or `limit` has passed (false).
    pub(crate) async fn quiet(&self, limit: Duration) -> bool {
        let quiet = async {
            loop {
                let ended = self.ended.notified();
                if self.lock().is_empty() {
                    return;
                }
                ended.await;
            }
        };
        within(Some(limit), quiet).await.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(RunSpace, RunId), Ending>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The run is not under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled;

impl LiveRun {
    /// Tells everybody who waits.
    pub(crate) fn end(self, report: Arc<RunReport>) {
        self.ending.send_replace(Some(report));
    }
}

impl Drop for LiveRun {
    fn drop(&mut self) {
        self.runs.lock().remove(&self.name);
        self.runs.ended.notify_waiters();
    }
}

async fn within<T>(limit: Option<Duration>, what: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, what).await.ok(),
        None => Some(what.await),
    }
}
