//! How turns end: what is stored, what is said, and what happens when the store does not take it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use watertight_core::ids::{EntryId, UnixMillis};
use watertight_core::run::RunOutcome;
use watertight_core::session::{SessionMeta, SessionStatus};
use watertight_core::transcript::{ModelRef, StopReason, Usage};
use watertight_core::turn::Ending;
use watertight_store::StoreError;
use watertight_store::model::{Batch, NewEntry, RunChange};

use super::mail::Why;
use super::{Actor, Queued, live};
use crate::event::EventKind;
use crate::report::RunReport;

/// Time between two attempts to store the end of a run on a full disk.
pub(super) const RETRY: Duration = Duration::from_secs(1);

impl Actor {
    pub(super) async fn finish(&mut self, ending: Ending) {
        self.flush();
        let broken_off = self.active.as_ref().and_then(|active| match &ending {
            Ending::Completed { .. } => None,
            Ending::Failed { message, .. } => active.broken_off(StopReason::Error, Some(message.clone())),
            Ending::Aborted { .. } => active.broken_off(StopReason::Aborted, None),
            Ending::TimedOut => active.broken_off(StopReason::Aborted, Some("The run hit its time limit.".into())),
        });
        self.close(ending, broken_off).await;
    }

    /// Stores the end of the run with its last entry, then announces both.
    pub(super) async fn close(&mut self, ending: Ending, entry: Option<NewEntry>) {
        let answer = entry.as_ref().map_or(EntryId::from_bytes([0; 16]), |entry| entry.id);
        let outcome = match ending {
            Ending::Completed { stop } => RunOutcome::Completed { stop, answer },
            Ending::Failed { kind, message } => RunOutcome::Failed { kind, message },
            Ending::Aborted { reason } => RunOutcome::Aborted { reason },
            Ending::TimedOut => RunOutcome::TimedOut,
        };
        self.settle(outcome, entry).await;
    }

    pub(super) async fn settle(&mut self, outcome: RunOutcome, entry: Option<NewEntry>) {
        let Some(active) = &self.active else { return };
        let now = self.now();
        let mut meta = self.session.meta.clone();
        describe_end(&mut meta, &outcome, now);
        if let Some(entry) = &entry {
            live::describe_message(&mut meta, &entry.body.message);
        }
        (meta.model_provider, meta.model) = {
            let (provider, model) = active.model.names();
            (Some(provider), Some(model))
        };
        meta.input_tokens = meta.input_tokens.saturating_add(active.usage.prompt_tokens());
        meta.output_tokens = meta.output_tokens.saturating_add(active.usage.output);
        if active.last_usage != Usage::default() {
            meta.total_tokens = active.last_usage.prompt_tokens();
        }
        let batch = Batch {
            at: now,
            entries: entry.clone().into_iter().collect(),
            runs: active.end_changes(&outcome),
            meta: Some(meta),
            ..Batch::default()
        };
        let scope = active.scope.clone();
        match self.commit(&scope, batch).await {
            Ok(committed) => {
                self.announce(&committed.entries);
                self.conclude(outcome, now);
            }
            // The run stays, its end unsaid, until the disk takes it: nothing behind it is lost.
            Err(StoreError::Full) => {
                tracing::warn!(session = %self.session.record.id(), "the disk is full; the end of a run waits");
                if let Some(active) = &mut self.active {
                    active.closing = Some((outcome, entry));
                    active.deadline = None;
                    active.retry_at = Some(Instant::now() + RETRY);
                }
            }
            Err(error) => self.lose(&format!("the end of a run was not stored: {error}")),
        }
    }

    /// Tries again to store the end of the run.
    pub(super) async fn retry_close(&mut self) {
        let Some(active) = &mut self.active else { return };
        active.retry_at = None;
        if let Some((outcome, entry)) = active.closing.take() {
            self.settle(outcome, entry).await;
        }
    }

    /// Announces the end of the active run and forgets it.
    fn conclude(&mut self, outcome: RunOutcome, now: UnixMillis) {
        let Some(active) = &self.active else { return };
        let report = Arc::new(RunReport {
            run: active.run.clone(),
            key: self.session.record.key().clone(),
            agent: self.agent.clone(),
            generation: active.scope.generation().clone(),
            outcome,
            text: active.text.clone(),
            model: Some(active.model_ref()),
            provider_status: active.provider_status,
            usage: active.usage,
            last_usage: active.last_usage,
            started_at: active.started_at,
            ended_at: now,
            receipt: Some(self.receipt()),
        });
        self.live.set_active(None);
        let session = self.view();
        self.tell(EventKind::Ended { report: report.clone(), session: session.clone() });
        let Some(active) = self.active.take() else { return };
        active.live.end(report.clone());
        for taken in active.taken_up {
            let report = Arc::new(RunReport { run: taken.run.clone(), ..(*report).clone() });
            self.publish(Some((taken.run, 1)), EventKind::Ended { report: report.clone(), session: session.clone() });
            taken.live.end(report);
        }
        self.show_queue();
    }

    /// The store did not take what the run did. This actor no longer knows where the session stands, and ends; the
    /// journal still holds the run as open, and the next actor takes it up.
    pub(super) fn lose(&mut self, message: &str) {
        tracing::error!(session = %self.session.record.id(), "{message}");
        self.dying = true;
    }

    /// Ends a run that never began. False when the store did not take it: it goes on waiting.
    pub(super) async fn end_queued(&mut self, queued: Queued, outcome: RunOutcome) -> bool {
        let batch = Batch {
            at: self.now(),
            runs: vec![RunChange::End { id: queued.run.clone(), outcome: outcome.clone() }],
            ..Batch::default()
        };
        match self.commit(&queued.scope, batch).await {
            Ok(_) => {}
            Err(StoreError::Full) => {
                self.queue.push_back(queued);
                return false;
            }
            Err(error) => {
                self.lose(&format!("the end of a waiting run was not stored: {error}"));
                self.queue.push_back(queued);
                return false;
            }
        }
        self.conclude_queued(queued, outcome);
        true
    }

    fn conclude_queued(&mut self, queued: Queued, outcome: RunOutcome) {
        self.show_queue();
        let now = self.now();
        let (provider, model) = queued.model.names();
        let report = Arc::new(RunReport {
            run: queued.run.clone(),
            key: self.session.record.key().clone(),
            agent: self.agent.clone(),
            generation: queued.scope.generation().clone(),
            outcome,
            text: String::new(),
            model: Some(ModelRef { provider, model }),
            provider_status: None,
            usage: Usage::default(),
            last_usage: Usage::default(),
            started_at: now,
            ended_at: now,
            receipt: Some(self.receipt()),
        });
        let session = self.view();
        self.publish(Some((queued.run.clone(), 1)), EventKind::Ended { report: report.clone(), session });
        queued.live.end(report);
    }

    /// The gateway stops: the active run ends as interrupted, durably where the store still takes it. Those that wait
    /// stay in the journal for the next process.
    pub(super) async fn interrupt_all(&mut self) {
        self.cancel();
        self.flush();
        let broken_off = self.active.as_ref().and_then(|active| active.broken_off(StopReason::Aborted, None));
        self.settle(RunOutcome::Interrupted, broken_off).await;
        self.abandon_all();
    }

    /// Lets go of everything without the store. Acknowledged turns stay in the journal, and the session shows them until
    /// somebody takes them up.
    pub(super) fn abandon_all(&mut self) {
        self.cancel();
        while let Some(submission) = self.parked.pop_front() {
            submission.hand_back(Why::Moved);
        }
        self.show_queue();
    }
}

fn describe_end(meta: &mut SessionMeta, outcome: &RunOutcome, now: UnixMillis) {
    meta.ended_at = Some(now);
    meta.aborted_last_run = matches!(outcome, RunOutcome::Aborted { .. });
    (meta.status, meta.last_run_error) = match outcome {
        RunOutcome::Completed { .. } => (SessionStatus::Done, None),
        RunOutcome::Failed { message, .. } => (SessionStatus::Failed, Some(message.clone())),
        RunOutcome::Aborted { .. } => (SessionStatus::Killed, None),
        RunOutcome::TimedOut => (SessionStatus::Timeout, Some("The run hit its time limit.".into())),
        RunOutcome::Interrupted => (SessionStatus::Failed, Some("The gateway stopped during the run.".into())),
    };
}
