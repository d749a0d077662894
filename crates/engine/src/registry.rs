//! Which sessions have an actor. Keyed by tenant and random session id, never by client text.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use watertight_core::ids::{SessionId, TenantId};

use crate::actor::birth::Birth;
use crate::actor::live::Live;
use crate::actor::mail::{Mail, Submission, Why};
use crate::actor::{MAX_QUEUED, Shared};
use crate::error::EngineError;

/// Active sessions at the most; each holds a task and the tail of its transcript.
const MAX_ACTORS: usize = 100_000;

pub(crate) struct Registry {
    actors: Mutex<HashMap<(TenantId, SessionId), Entry>>,
    tasks: TaskTracker,
}

struct Entry {
    sender: mpsc::Sender<Mail>,
    live: Arc<Live>,
}

impl Registry {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { actors: Mutex::default(), tasks: TaskTracker::new() })
    }

    /// Hands the submission to its session's actor, which is started where there is none.
    pub(crate) async fn submit(self: &Arc<Self>, shared: &Arc<Shared>, submission: Box<Submission>) {
        let id = (submission.scope.tenant(), submission.scope.session());
        let (sender, submission) = {
            let mut actors = self.lock();
            match actors.get(&id) {
                Some(entry) if !entry.sender.is_closed() => (entry.sender.clone(), submission),
                _ if actors.len() >= MAX_ACTORS => {
                    drop(actors);
                    return submission.refuse(EngineError::QueueFull(MAX_ACTORS));
                }
                // None, or one that died in a panic and could not say goodbye.
                _ => {
                    let (sender, mailbox) = mpsc::channel(MAX_QUEUED);
                    let live = Arc::new(Live::new(id.0, id.1));
                    actors.insert(id, Entry { sender, live: live.clone() });
                    let birth =
                        Birth { shared: shared.clone(), registry: self.clone(), mailbox, live, first: submission };
                    self.tasks.spawn(birth.live());
                    return;
                }
            }
        };
        if let Err(mpsc::error::SendError(Mail::Submit(submission))) = sender.send(Mail::Submit(submission)).await {
            submission.hand_back(Why::Moved);
        }
    }

    /// The mailbox of a session's actor, where it has one.
    pub(crate) fn sender(&self, tenant: TenantId, session: SessionId) -> Option<mpsc::Sender<Mail>> {
        self.lock().get(&(tenant, session)).map(|entry| entry.sender.clone())
    }

    /// What is going on in a session, where it has an actor.
    pub(crate) fn live(&self, tenant: TenantId, session: SessionId) -> Option<Arc<Live>> {
        self.lock().get(&(tenant, session)).map(|entry| entry.live.clone())
    }

    /// Forgets an idle actor unless mail has come; true means it is forgotten and must end.
    pub(crate) fn retire(&self, live: &Arc<Live>, mailbox: &mut mpsc::Receiver<Mail>) -> bool {
        let mut actors = self.lock();
        if !mailbox.is_empty() {
            return false;
        }
        remove(&mut actors, live);
        // Whoever still holds a sender gets the mail back and starts the next actor.
        mailbox.close();
        true
    }

    /// Forgets an actor that ends.
    pub(crate) fn remove(&self, live: &Arc<Live>) {
        remove(&mut self.lock(), live);
    }

    /// Waits until every actor has ended.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, SessionId), Entry>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(actors: &mut HashMap<(TenantId, SessionId), Entry>, live: &Arc<Live>) {
    let id = (live.tenant, live.session);
    // A successor may have the place already.
    if actors.get(&id).is_some_and(|entry| Arc::ptr_eq(&entry.live, live)) {
        actors.remove(&id);
    }
}
