//! An actor's start and end.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use watertight_store::StoreError;

use super::live::Live;
use super::mail::{Mail, Submission, Why, give_back};
use super::{Actor, Shared};
use crate::registry::Registry;

/// What an actor starts from.
pub(crate) struct Birth {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mailbox: mpsc::Receiver<Mail>,
    pub(crate) live: Arc<Live>,
    pub(crate) first: Box<Submission>,
}

impl Birth {
    /// The actor's life.
    pub(crate) async fn live(self) {
        let Self { shared, registry, mut mailbox, live, first } = self;
        // Also when the actor panics: a session that looks alive but answers nobody would be worse.
        let place = Place { registry: registry.clone(), live: live.clone() };
        let session = match shared.store.open_session(&first.scope).await {
            Ok(session) => session,
            Err(error) => {
                drop(place);
                mailbox.close();
                refuse(first, &error);
                while let Some(mail) = mailbox.recv().await {
                    if let Mail::Submit(submission) = mail {
                        refuse(submission, &error);
                    }
                }
                return;
            }
        };
        let Ok(scope) = first.scope.renewed(&session.record) else {
            drop(place);
            first.hand_back(Why::Moved);
            return give_back(mailbox).await;
        };
        let mut actor = Actor {
            shared,
            registry,
            mailbox,
            live,
            scope: Arc::new(scope),
            agent: first.agent.clone(),
            is_main: first.is_main,
            session,
            bus: None,
            event_seq: 0,
            recent: None,
            active: None,
            queue: VecDeque::new(),
            parked: VecDeque::new(),
            dying: false,
        };
        actor.on_submit(first).await;
        // A draft whose first turn was refused has no row: there is nothing to stay for.
        if !(actor.bus.is_none() && actor.session.record.is_draft()) {
            actor.work().await;
        }
        let Actor { mailbox, .. } = actor;
        drop(place);
        give_back(mailbox).await;
    }
}

/// The actor's place in the registry.
struct Place {
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.remove(&self.live);
    }
}

fn refuse(submission: Box<Submission>, error: &StoreError) {
    match error {
        StoreError::KeyTaken | StoreError::StaleLease | StoreError::SessionChanged => submission.hand_back(Why::Moved),
        error => submission.refuse(error.clone().into()),
    }
}
