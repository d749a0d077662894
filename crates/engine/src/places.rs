//! Which sessions have an actor: one at most. Keyed by tenant and random session id, never by client text.
//!
//! What decides between two that come at once is all in here, so that `interleavings` can try every order.

use std::sync::Arc;

use watertight_core::ids::{SessionId, TenantId};

use crate::actor::live::Live;
use crate::sync::{HashMap, Mutex, MutexGuard, lock};

/// Active sessions at the most; each holds a task and the tail of its transcript.
pub(crate) const MAX_ACTORS: usize = 100_000;

type Id = (TenantId, SessionId);

/// Where mail for an actor goes in.
pub(crate) trait Door: Clone {
    /// Whether nobody will ever take mail from here.
    fn is_closed(&self) -> bool;
}

/// Where an actor takes its mail.
pub(crate) trait Mailbox {
    /// Whether no mail waits.
    fn is_empty(&self) -> bool;
    /// Lets no more mail in; what is inside can still be taken.
    fn close(&mut self);
}

/// One place for each session that has an actor.
pub(crate) struct Places<D> {
    actors: Mutex<HashMap<Id, Place<D>>>,
}

struct Place<D> {
    door: D,
    live: Arc<Live>,
}

/// What somebody finds who brings mail.
pub(crate) enum Found<D, M> {
    /// An actor, behind this door.
    Actor(D),
    /// None. The place is the caller's now, who starts the actor with this mailbox.
    Vacancy(M, Arc<Live>),
    /// None, and no place for another.
    Full,
}

impl<D: Door> Places<D> {
    pub(crate) fn new() -> Self {
        Self { actors: Mutex::default() }
    }

    /// The session's actor, or a new place for one, with the door and mailbox that `open` makes.
    pub(crate) fn enter<M>(&self, id: Id, open: impl FnOnce() -> (D, M)) -> Found<D, M> {
        let mut actors = self.lock();
        match actors.get(&id) {
            Some(place) if !place.door.is_closed() => Found::Actor(place.door.clone()),
            _ if actors.len() >= MAX_ACTORS => Found::Full,
            // None, or one that died in a panic and could not say goodbye.
            _ => {
                let (door, mailbox) = open();
                let live = Arc::new(Live::new(id.0, id.1));
                actors.insert(id, Place { door, live: live.clone() });
                Found::Vacancy(mailbox, live)
            }
        }
    }

    /// The door of a session's actor, where it has one.
    pub(crate) fn door(&self, id: Id) -> Option<D> {
        self.lock().get(&id).map(|place| place.door.clone())
    }

    /// What is going on in a session, where it has an actor.
    pub(crate) fn live(&self, id: Id) -> Option<Arc<Live>> {
        self.lock().get(&id).map(|place| place.live.clone())
    }

    /// Forgets an idle actor unless mail has come; true means it is forgotten and must end.
    pub(crate) fn retire(&self, live: &Arc<Live>, mailbox: &mut impl Mailbox) -> bool {
        let mut actors = self.lock();
        if !mailbox.is_empty() {
            return false;
        }
        forget(&mut actors, live);
        // Whoever still holds a door gets the mail back and starts the next actor.
        mailbox.close();
        true
    }

    /// Forgets an actor that ends.
    pub(crate) fn remove(&self, live: &Arc<Live>) {
        forget(&mut self.lock(), live);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Place<D>>> {
        lock(&self.actors)
    }
}

fn forget<D>(actors: &mut HashMap<Id, Place<D>>, live: &Arc<Live>) {
    let id = (live.tenant, live.session);
    // A successor may have the place already.
    if actors.get(&id).is_some_and(|place| Arc::ptr_eq(&place.live, live)) {
        actors.remove(&id);
    }
}
