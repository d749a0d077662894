//! The actors: handing mail to them, starting them, waiting for their end.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use watertight_core::ids::{SessionId, TenantId};

use crate::actor::birth::{Birth, Cause};
use crate::actor::live::Live;
use crate::actor::mail::{Mail, Submission, Why};
use crate::actor::{MAX_QUEUED, Shared};
use crate::error::EngineError;
use crate::places::{Door, Found, MAX_ACTORS, Mailbox, Places};
use crate::recovery::{Awake, SessionName};

pub(crate) struct Registry {
    places: Places<mpsc::Sender<Mail>>,
    tasks: TaskTracker,
}

impl Registry {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { places: Places::new(), tasks: TaskTracker::new() })
    }

    /// Hands the submission to its session's actor, which is started where there is none.
    pub(crate) async fn submit(self: &Arc<Self>, shared: &Arc<Shared>, submission: Box<Submission>) {
        let id = (submission.scope.tenant(), submission.scope.session());
        let sender = match self.places.enter(id, || mpsc::channel(MAX_QUEUED)) {
            Found::Actor(sender) => sender,
            Found::Full => return submission.refuse(EngineError::QueueFull(MAX_ACTORS)),
            Found::Vacancy(mailbox, live) => {
                return self.start(shared, mailbox, live, Cause::Submission(submission));
            }
        };
        if let Err(mpsc::error::SendError(Mail::Submit(submission))) = sender.send(Mail::Submit(submission)).await {
            submission.hand_back(Why::Moved);
        }
    }

    /// Has the session's actor take up runs that were left open; it is started where there is none.
    pub(crate) async fn wake(self: &Arc<Self>, shared: &Arc<Shared>, name: SessionName, awake: Option<Awake>) {
        match self.places.enter(name, || mpsc::channel(MAX_QUEUED)) {
            // One that ends meanwhile has left nothing, or is woken again.
            Found::Actor(sender) => drop(sender.send(Mail::TakeUp { awake }).await),
            Found::Full => tracing::warn!(session = %name.1, "too many sessions are at work to take up runs left open"),
            Found::Vacancy(mailbox, live) => self.start(shared, mailbox, live, Cause::Left(awake)),
        }
    }

    fn start(self: &Arc<Self>, shared: &Arc<Shared>, mailbox: mpsc::Receiver<Mail>, live: Arc<Live>, cause: Cause) {
        let birth = Birth { shared: shared.clone(), registry: self.clone(), mailbox, live, cause };
        self.tasks.spawn(birth.live());
    }

    /// The mailbox of a session's actor, where it has one.
    pub(crate) fn sender(&self, tenant: TenantId, session: SessionId) -> Option<mpsc::Sender<Mail>> {
        self.places.door((tenant, session))
    }

    /// What is going on in a session, where it has an actor.
    pub(crate) fn live(&self, tenant: TenantId, session: SessionId) -> Option<Arc<Live>> {
        self.places.live((tenant, session))
    }

    /// Forgets an idle actor unless mail has come; true means it is forgotten and must end.
    pub(crate) fn retire(&self, live: &Arc<Live>, mailbox: &mut mpsc::Receiver<Mail>) -> bool {
        self.places.retire(live, mailbox)
    }

    /// Forgets an actor that ends.
    pub(crate) fn remove(&self, live: &Arc<Live>) {
        self.places.remove(live);
    }

    /// Waits until every actor has ended.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Door for mpsc::Sender<Mail> {
    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }
}

impl Mailbox for mpsc::Receiver<Mail> {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn close(&mut self) {
        Self::close(self);
    }
}
