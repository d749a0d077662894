//! An actor's start and end.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use watertight_core::SessionScope;
use watertight_store::StoreError;
use watertight_store::model::OpenSession;

use super::live::Live;
use super::mail::{Mail, Submission, Why, give_back};
use super::{Actor, Shared};
use crate::admission::Standing;
use crate::recovery::{Awake, Recovery};
use crate::registry::Registry;
use crate::steward::Readmitted;

/// What an actor starts from.
pub(crate) struct Birth {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mailbox: mpsc::Receiver<Mail>,
    pub(crate) live: Arc<Live>,
    pub(crate) cause: Cause,
}

/// Why an actor starts.
pub(crate) enum Cause {
    /// A turn.
    Submission(Box<Submission>),
    /// Runs that were left open.
    Left(Option<Awake>),
}

impl Birth {
    /// The actor's life.
    pub(crate) async fn live(self) {
        let Self { shared, registry, mut mailbox, live, cause } = self;
        // Also when the actor panics: a session that looks alive but answers nobody would be worse.
        let place = Place { shared: shared.clone(), registry: registry.clone(), live: live.clone() };
        let opened = match shared.recovery.take_up(live.name(), shared.clock.now()).await {
            Ok(left) => match bearings(&shared, &cause, &left) {
                Some((scope, standing)) => open(&shared, &live, scope, &left).await.map(|open| (open, standing, left)),
                // Nothing is left: somebody else has seen to it.
                None => Err(StoreError::SessionChanged),
            },
            Err(error) => Err(error),
        };
        let ((session, scope), standing, left) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                drop(place);
                mailbox.close();
                if let Cause::Submission(first) = cause {
                    refuse(first, &error);
                }
                while let Some(mail) = mailbox.recv().await {
                    if let Mail::Submit(submission) = mail {
                        refuse(submission, &error);
                    }
                }
                return;
            }
        };
        let (first, awake) = match cause {
            Cause::Submission(first) => (Some(first), None),
            Cause::Left(awake) => (None, awake),
        };
        let mut actor = Actor {
            shared,
            registry,
            mailbox,
            live,
            scope: Arc::new(scope),
            agent: standing.agent,
            is_main: standing.is_main,
            session,
            bus: None,
            event_seq: 0,
            recent: None,
            active: None,
            queue: VecDeque::new(),
            parked: VecDeque::new(),
            awake,
            dying: false,
        };
        actor.take_up(left).await;
        if let Some(first) = first {
            if actor.dying {
                first.hand_back(Why::Moved);
            } else {
                actor.on_submit(first).await;
            }
        }
        // A draft whose first turn was refused has no row: there is nothing to stay for.
        if !(actor.bus.is_none() && actor.session.record.is_draft()) {
            actor.work().await;
        }
        let Actor { mailbox, .. } = actor;
        drop(place);
        give_back(mailbox).await;
    }
}

/// Under which scope the session is opened, and what it is: of the turn, or of the first run that was left open.
fn bearings<'a>(shared: &Shared, cause: &'a Cause, left: &'a [Readmitted]) -> Option<(&'a SessionScope, Standing)> {
    if let Cause::Submission(first) = cause {
        return Some((&first.scope, first.standing.clone()));
    }
    let run = left.first()?;
    let key = run.scope.key();
    // A session of an agent that is no longer configured: the default agent answers.
    let unknown = || Standing { agent: key.agent().unwrap_or_default().to_owned(), is_main: false };
    Some((&run.scope, shared.admission.standing(&run.principal, &run.name, key).unwrap_or_else(unknown)))
}

async fn open(
    shared: &Shared,
    live: &Live,
    scope: &SessionScope,
    left: &[Readmitted],
) -> Result<(OpenSession, SessionScope), StoreError> {
    let opened = match shared.store.open_session(scope).await {
        Ok(session) => {
            scope.renewed(&session.record).map(|scope| (session, scope)).map_err(|_| StoreError::SessionChanged)
        }
        Err(error) => Err(error),
    };
    match &opened {
        // A damaged session can run nothing: its runs must not stay open for ever.
        Err(StoreError::Integrity(_)) => {
            for run in left {
                shared.recovery.housekeeping().interrupt(live.tenant, &run.record, shared.clock.now()).await?;
            }
        }
        Err(_) if !left.is_empty() => shared.recovery.note(live.name()),
        _ => {}
    }
    opened
}

/// The actor's place in the registry.
struct Place {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = !self.live.runs().is_empty() && !self.shared.stop.is_cancelled();
        if left {
            Recovery::wake_again(&self.shared, &self.registry, self.live.name());
        }
        self.registry.remove(&self.live);
    }
}

fn refuse(submission: Box<Submission>, error: &StoreError) {
    match error {
        StoreError::KeyTaken | StoreError::StaleLease | StoreError::SessionChanged => submission.hand_back(Why::Moved),
        error => submission.refuse(error.clone().into()),
    }
}
