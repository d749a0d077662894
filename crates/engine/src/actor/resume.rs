//! Taking up runs that were left open: what may start anew does, what had begun tools goes on where its journal ends.

use watertight_core::ids::EntryId;
use watertight_core::run::{FailureKind, RunOutcome, RunState};
use watertight_core::transcript::{Entry, Message, ToolCall};
use watertight_core::turn::Command;
use watertight_store::StoreError;
use watertight_store::model::{Batch, RunChange};

use super::{Actor, Left, Queued};
use crate::prompt;
use crate::recovery::MAX_RESTARTS;
use crate::steward::Readmitted;

impl Actor {
    /// Puts the runs before everything that waits, in the order of their inputs; but the one that was at work with tools
    /// goes on first: it may have taken up inputs of those before it.
    pub(super) async fn take_up(&mut self, mut left: Vec<Readmitted>) {
        left.sort_by_key(|left| left.record.state < RunState::ToolIntent);
        if let Err(error) = self.queue_left(left).await {
            tracing::error!(session = %self.scope.session(), "runs that were left open cannot be taken up: {error}");
            self.shared.recovery.note(self.live.name());
            self.dying = true;
        }
        self.show_queue();
    }

    async fn queue_left(&mut self, left: Vec<Readmitted>) -> Result<(), StoreError> {
        for (place, Readmitted { record, principal, scope, .. }) in left.into_iter().enumerate() {
            let Some(input) = self.shared.store.entry(&scope, record.input).await? else {
                tracing::error!(session = %scope.session(), "a run that was left open has no input; it ends as interrupted");
                let housekeeping = self.shared.recovery.housekeeping();
                housekeeping.interrupt(scope.tenant(), &record, self.now()).await?;
                continue;
            };
            let catalog = &self.shared.catalog;
            let agent = catalog.agent(&self.agent);
            let (model, unknown) = match catalog.model(agent, record.options.model.as_deref()) {
                Ok(model) => (model, None),
                Err(error) => (agent.model.clone(), Some(error)),
            };
            let queued = Queued {
                live: self.shared.runs.begin((principal.tenant, principal.id), &record.id),
                scope: scope.into(),
                run: record.id.clone(),
                input: record.input,
                input_bytes: prompt::size(&input.body.message),
                model,
                options: record.options.clone(),
                left: Some(Left { restarts: record.restarts, state: record.state }),
            };
            match unknown {
                Some(error) => {
                    let outcome = RunOutcome::Failed { kind: FailureKind::Unknown, message: error.to_string() };
                    self.end_queued(queued, outcome).await;
                }
                None => self.queue.insert(place.min(self.queue.len()), queued),
            }
        }
        Ok(())
    }

    /// Counts one more start of a run that was left open. False when it has been started often enough: what ends the
    /// process each time must not go on for ever.
    pub(super) async fn may_start_anew(&mut self, queued: &Queued, left: &Left) -> bool {
        if left.restarts >= MAX_RESTARTS {
            return false;
        }
        let batch =
            Batch { at: self.now(), runs: vec![RunChange::Restarted { id: queued.run.clone() }], ..Batch::default() };
        let scope = queued.scope.clone();
        match self.commit(&scope, batch).await {
            // A full disk must not end what it can only delay.
            Ok(_) | Err(StoreError::Full) => {}
            Err(error) => {
                tracing::error!(session = %scope.session(), "the restart of a run was not stored: {error}");
                self.dying = true;
            }
        }
        true
    }

    /// Where the active run, left open with tools begun, goes on; the start where its journal holds nothing yet.
    pub(super) async fn resumption(&mut self, state: RunState) -> Command {
        if state < RunState::ToolIntent || self.load_recent().await.is_err() {
            return Command::Claim;
        }
        let (Some(active), Some(recent)) = (&mut self.active, &self.recent) else { return Command::Claim };
        let waiting_turns: Vec<EntryId> = self.queue.iter().map(|queued| queued.input).collect();
        let own = recent.entries().iter().filter(|entry| {
            let body = &entry.body;
            // Also what answered an input that the run had taken up (`steer`): that input's own run has not begun.
            let turn = body.turn == Some(active.input) || body.turn.is_some_and(|turn| waiting_turns.contains(&turn));
            turn && body.run.as_ref() == Some(&active.run) && !matches!(body.message, Message::User { .. })
        });
        let (round, waiting, turn) = journaled(own.map(|entry| &**entry));
        if let Some(last) = turn.filter(|turn| *turn != active.input) {
            self.take_up_inputs(Some(last));
        }
        if round == 0 { Command::Claim } else { Command::Resume { round, waiting } }
    }
}

/// Model calls answered so far, the calls of the last answer without a result, and the turn that answer belongs to.
fn journaled<'a>(entries: impl Iterator<Item = &'a Entry>) -> (u32, Vec<ToolCall>, Option<EntryId>) {
    let (mut round, mut waiting, mut turn): (u32, Vec<ToolCall>, _) = (0, Vec::new(), None);
    for entry in entries {
        match &entry.body.message {
            message @ Message::Assistant { .. } => {
                round += 1;
                waiting = message.tool_calls().cloned().collect();
                turn = entry.body.turn;
            }
            Message::ToolResult { call_id, .. } => {
                if let Some(found) = waiting.iter().position(|call| call.id == *call_id) {
                    waiting.remove(found);
                }
            }
            Message::User { .. } | Message::System { .. } => {}
        }
    }
    (round, waiting, turn)
}
