//! What an actor is asked, and what comes back.

use tokio::sync::{mpsc, oneshot};
use watertight_core::SessionScope;
use watertight_core::ids::RunId;

use crate::admission::Standing;
use crate::catalog::ModelChoice;
use crate::error::EngineError;
use crate::recovery::Awake;
use crate::request::{Accepted, TurnRequest};
use crate::runs::RunSpace;

/// What an actor is asked.
pub(crate) enum Mail {
    /// Accept a turn.
    Submit(Box<Submission>),
    /// Take up runs that were left open.
    TakeUp { awake: Option<Awake> },
    /// End one run, or all; answers with those that were not over yet.
    Abort { run: Option<RunId>, reason: String, reply: oneshot::Sender<Vec<RunId>> },
}

/// A turn on its way to the actor.
pub(crate) struct Submission {
    pub(crate) scope: SessionScope,
    pub(crate) space: RunSpace,
    pub(crate) standing: Standing,
    pub(crate) model: ModelChoice,
    pub(crate) digest: [u8; 32],
    pub(crate) request: TurnRequest,
    /// Called when the turn waits where nothing that comes later can overtake it.
    pub(crate) taken: Option<Box<dyn FnOnce() + Send>>,
    pub(crate) acknowledge: Box<dyn FnOnce(&Accepted) + Send>,
    pub(crate) reply: oneshot::Sender<Result<Accepted, Refused>>,
}

/// Why a submission was not accepted here.
pub(crate) enum Why {
    /// The session is not what the scope says any more, or the actor retired: admit it anew.
    Moved,
    /// The principal used the run id before: compare.
    Known,
    /// No; unless the run id was used before.
    No(EngineError),
}

/// A submission that comes back.
pub(crate) struct Refused {
    pub(crate) why: Why,
    pub(crate) submission: Box<Submission>,
}

impl Submission {
    pub(crate) fn refuse(self: Box<Self>, error: EngineError) {
        self.hand_back(Why::No(error));
    }

    pub(crate) fn hand_back(mut self: Box<Self>, why: Why) {
        // The submission travels through its own reply channel; whoever takes it makes a new one.
        let reply = std::mem::replace(&mut self.reply, oneshot::channel().0);
        let _ = reply.send(Err(Refused { why, submission: self }));
    }
}

/// Empties the mailbox of an actor that takes no more.
pub(super) async fn give_back(mut mailbox: mpsc::Receiver<Mail>) {
    mailbox.close();
    while let Some(mail) = mailbox.recv().await {
        match mail {
            Mail::Submit(submission) => submission.hand_back(Why::Moved),
            Mail::TakeUp { .. } => {}
            Mail::Abort { reply, .. } => {
                let _ = reply.send(Vec::new());
            }
        }
    }
}
