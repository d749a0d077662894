//! Letting turns in: the queue's bounds, what waits unacknowledged, making the input durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use watertight_core::ids::GenerationId;
use watertight_core::run::QueuePolicy;
use watertight_core::session::SessionStatus;
use watertight_core::transcript::{EntryBody, Message, Provenance};
use watertight_store::StoreError;
use watertight_store::model::{Batch, NewEntry, RunChange, Switch};

use super::live::{self};
use super::mail::{Submission, Why};
use super::{Actor, MAX_PARKED_BYTES, MAX_QUEUED, Queued, random_entry_id};
use crate::error::EngineError;
use crate::event::EventKind;
use crate::request::{Accepted, Disposition, GenerationChoice, TurnRequest};

impl Actor {
    pub(super) async fn on_submit(&mut self, mut submission: Box<Submission>) {
        let waiting = self.queue.len() + self.parked.len();
        let parked_bytes: usize = self.parked.iter().map(|parked| parked.request.bytes()).sum();
        if waiting >= MAX_QUEUED || parked_bytes + submission.request.bytes() > MAX_PARKED_BYTES {
            return submission.refuse(EngineError::QueueFull(waiting));
        }
        let busy = self.active.is_some() || !self.queue.is_empty();
        if submission.request.options.queue == QueuePolicy::Reject && (busy || !self.parked.is_empty()) {
            return submission.refuse(EngineError::Busy);
        }
        if !self.parked.is_empty() || (busy && self.switch_of(&submission.request).is_some()) {
            // Only here may the turn wait for long. Before, its draft may prove to be another's, and it starts over.
            if let Some(taken) = submission.taken.take() {
                taken();
            }
            self.parked.push_back(submission);
            return self.show_queue();
        }
        self.accept(submission).await;
    }

    /// The generation the request makes live, where that is another than the live one.
    pub(super) fn switch_of(&self, request: &TurnRequest) -> Option<GenerationId> {
        match &request.target.generation {
            GenerationChoice::MakeLive(wanted) if wanted != self.session.record.generation() => Some(wanted.clone()),
            _ => None,
        }
    }

    /// Makes the input durable, acknowledges it, and queues the run.
    pub(super) async fn accept(&mut self, submission: Box<Submission>) {
        let Ok(scope) = submission.scope.renewed(&self.session.record) else {
            return submission.refuse(EngineError::NoSession(self.session.record.key().to_string()));
        };
        if self.shared.draining.load(Ordering::Acquire) {
            return submission.refuse(EngineError::Draining);
        }
        let request = &submission.request;
        if let Some(expected) = &request.expect_generation
            && expected != self.session.record.generation()
        {
            return submission.refuse(EngineError::Changed(self.session.record.key().to_string()));
        }
        // A turn whose transcript cannot be read could not be answered: it is refused, not stored. A draft has none.
        if !self.session.record.is_draft()
            && let Err(error) = self.load_recent().await
        {
            return submission.refuse(error.into());
        }
        let input = random_entry_id();
        let entry = NewEntry {
            id: input,
            body: EntryBody {
                message: Message::User { content: request.input.clone() },
                provenance: Provenance::Caller { principal: scope.principal(), surface: request.surface.to_owned() },
                parent: None,
                run: Some(request.run.clone()),
                turn: Some(input),
            },
        };
        let switch = self.switch_of(request).map(|to| Switch { to });
        let now = self.shared.clock.now();
        let mut meta = self.session.meta.clone();
        if switch.is_some() {
            meta.previous_generation = Some(self.session.record.generation().clone());
            (meta.input_tokens, meta.output_tokens, meta.total_tokens) = (0, 0, 0);
        }
        meta.last_interaction_at = Some(now);
        live::describe_message(&mut meta, &entry.body.message);
        if self.active.is_none() && self.queue.is_empty() {
            meta.status = SessionStatus::Queued;
        }
        let batch = Batch {
            at: now,
            switch,
            entries: vec![entry],
            runs: vec![RunChange::Accept {
                id: request.run.clone(),
                digest: submission.digest,
                input,
                options: request.options.clone(),
            }],
            meta: Some(meta),
        };
        let switched = batch.switch.is_some();
        let created = scope.is_draft();
        let committed = match self.commit(&scope, batch).await {
            Ok(committed) => committed,
            Err(StoreError::RunExists) => {
                return submission.hand_back(Why::Known);
            }
            Err(StoreError::KeyTaken | StoreError::StaleLease | StoreError::SessionChanged) => {
                self.dying = true;
                return submission.hand_back(Why::Moved);
            }
            Err(error) => return submission.refuse(error.into()),
        };
        let Ok(scope) = scope.renewed(&committed.record) else {
            self.dying = true;
            return submission.hand_back(Why::Moved);
        };
        if switched {
            self.recent = None;
        }
        if (self.scope.is_draft() || switched)
            && let Ok(renewed) = self.scope.renewed(&committed.record)
        {
            self.scope = Arc::new(renewed);
        }
        let Submission { space, request, model, acknowledge, reply, .. } = *submission;
        let mut accepted = Accepted {
            run: request.run.clone(),
            key: committed.record.key().clone(),
            agent: self.agent.clone(),
            generation: committed.record.generation().clone(),
            input,
            message_seq: committed.entries.first().map(|entry| entry.message_seq),
            at: now,
            receipt: Some(self.receipt()),
            interrupted: None,
            disposition: Disposition::Started,
        };
        let queued = Queued {
            live: self.shared.runs.begin(space, &request.run),
            scope: Arc::new(scope),
            run: request.run.clone(),
            input,
            input_bytes: request.bytes(),
            model,
            options: request.options,
            left: None,
        };
        if queued.options.queue == QueuePolicy::Interrupt {
            self.queue.push_front(queued);
            // Before the acknowledgement: a crash in between leaves nobody who was told that the other run is over.
            accepted.interrupted = self.abort_active("interrupt").await;
        } else {
            self.queue.push_back(queued);
        }
        self.show_queue();
        acknowledge(&accepted);
        if created {
            let session = self.view();
            self.publish(None, EventKind::Changed { reason: "create", session });
        }
        self.publish_entries(&committed.entries, Some((&request.run, 0)));
        let _ = reply.send(Ok(accepted));
    }
}
