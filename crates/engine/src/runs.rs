//! Runs that are under way, for those who wait for their end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::watch;
use watertight_core::ids::{PrincipalId, RunId, TenantId};

use crate::report::RunReport;
use crate::sync::{HashMap, Mutex, Notify, lock};

/// Run ids are names under a tenant and a principal.
pub(crate) type RunSpace = (TenantId, PrincipalId);

/// The end of one run, once it is known.
type Ending = watch::Receiver<Option<Arc<RunReport>>>;

/// Every run under way. Bounded by the queues of the sessions.
#[derive(Default)]
pub(crate) struct Runs {
    live: Mutex<HashMap<(RunSpace, RunId), Ending>>,
    /// Runs somebody waits for that are not under way.
    expected: Mutex<HashMap<(RunSpace, RunId), Expected>>,
    ended: Notify,
}

/// A run that somebody waits for.
#[derive(Default)]
struct Expected {
    begun: Arc<Notify>,
    waiters: usize,
}

/// Somebody waits for this run to begin.
pub(crate) struct Expecting<'a> {
    runs: &'a Runs,
    name: (RunSpace, RunId),
    begun: Arc<Notify>,
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
        lock(&self.live).insert(name.clone(), receiver);
        if let Some(expected) = lock(&self.expected).get(&name) {
            expected.begun.notify_waiters();
        }
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
        let ending = lock(&self.live).get(&(space, run.clone())).cloned();
        let Some(mut ending) = ending else { return Err(Settled) };
        let ended = async { ending.wait_for(Option::is_some).await.map(|report| report.clone()) };
        match within(limit, ended).await {
            None => Ok(None),
            Some(Ok(report)) => Ok(report),
            Some(Err(_)) => Err(Settled),
        }
    }

    /// Watches for the run's beginning. Make it before looking, so that the beginning is not missed.
    pub(crate) fn expect(&self, space: RunSpace, run: &RunId) -> Expecting<'_> {
        let name = (space, run.clone());
        let begun = {
            let mut expected = lock(&self.expected);
            let expected = expected.entry(name.clone()).or_default();
            expected.waiters += 1;
            expected.begun.clone()
        };
        Expecting { runs: self, name, begun }
    }

    /// Returns when no run is under way, or `limit` has passed (false).
    pub(crate) async fn quiet(&self, limit: Duration) -> bool {
        within(Some(limit), self.all_ended()).await.is_some()
    }

    /// Returns when no run is under way.
    pub(crate) async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if lock(&self.live).is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// How many runs are under way, and how many somebody waits for.
    #[cfg(all(test, watertight_loom))]
    pub(crate) fn names(&self) -> (usize, usize) {
        (lock(&self.live).len(), lock(&self.expected).len())
    }
}

impl Expecting<'_> {
    /// Resolves when the run begins; counts from the moment it is made.
    pub(crate) fn begun(&self) -> Notified<'_> {
        self.begun.notified()
    }
}

impl Drop for Expecting<'_> {
    fn drop(&mut self) {
        let mut expected = lock(&self.runs.expected);
        if let Some(run) = expected.get_mut(&self.name) {
            run.waiters -= 1;
            if run.waiters == 0 {
                expected.remove(&self.name);
            }
        }
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
        {
            let mut live = lock(&self.runs.live);
            // The run may have been begun anew by the session's next actor.
            if live.get(&self.name).is_some_and(|ending| ending.same_channel(&self.ending.subscribe())) {
                live.remove(&self.name);
            }
        }
        self.runs.ended.notify_waiters();
    }
}

async fn within<T>(limit: Option<Duration>, what: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, what).await.ok(),
        None => Some(what.await),
    }
}
