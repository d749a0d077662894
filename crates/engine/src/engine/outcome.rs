//! What becomes of runs: waiting for their end, what the store remembers of it, ending them early.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use watertight_core::SessionScope;
use watertight_core::grant::Verb;
use watertight_core::ids::{GenerationId, RunId};
use watertight_core::key::CanonicalKey;
use watertight_core::run::{RunOutcome, RunRecord};
use watertight_core::transcript::{Message, Usage};

use super::{Aborted, Engine, agent_of};
use crate::actor::mail::Mail;
use crate::admission::Access;
use crate::error::EngineError;
use crate::report::RunReport;
use crate::request::Target;

/// How long a run that the store knows as open, but nobody runs, is given to begin before it counts as lost.
const BEGIN_GRACE: Duration = Duration::from_secs(1);

impl Engine {
    /// Waits until the caller's run has ended; `None` when `limit` passes first. A run nobody knows waits like any other.
    pub async fn wait(
        &self,
        access: &Access,
        run: &RunId,
        limit: Option<Duration>,
    ) -> Result<Option<Arc<RunReport>>, EngineError> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let expecting = self.inner.shared.runs.expect(access.run_space(), run);
        let mut lost_at = None;
        loop {
            let begin = expecting.begun();
            if let Ok(report) = self.inner.shared.runs.wait(access.run_space(), run, left()).await {
                let now = self.inner.shared.clock.now();
                match report {
                    // The run is the caller's, but its session may be closed to this connection: then it is unknown.
                    Some(report) if !access.may_read(&report.key, now) => {
                        let Some(left) = left() else { std::future::pending().await };
                        tokio::time::sleep(left).await;
                        return Ok(None);
                    }
                    report => return Ok(report),
                }
            }
            let record = self.inner.shared.admission.run(access, run).await?;
            let open = record.as_ref().is_some_and(|record| record.outcome.is_none());
            if let Some(record) = &record {
                let now = Instant::now();
                let pending = self.inner.shared.recovery.is_pending((access.tenant(), record.session));
                let lost = open && !pending && now >= *lost_at.get_or_insert(now + BEGIN_GRACE);
                if !open || lost {
                    let outcome = record.outcome.clone().unwrap_or(RunOutcome::Interrupted);
                    return self.stored_report(access, record, &outcome).await.map(|report| report.map(Arc::new));
                }
            }
            let pause = match (left(), open) {
                (Some(left), _) if left.is_zero() => return Ok(None),
                (Some(left), true) => Some(left.min(BEGIN_GRACE)),
                (None, true) => Some(BEGIN_GRACE),
                (left, false) => left,
            };
            match pause {
                Some(pause) => {
                    let _ = tokio::time::timeout(pause, begin).await;
                }
                None => begin.await,
            }
        }
    }

    async fn stored_report(
        &self,
        access: &Access,
        record: &RunRecord,
        outcome: &RunOutcome,
    ) -> Result<Option<RunReport>, EngineError> {
        let key = CanonicalKey::from_stored(&record.key);
        let scope = match self.inner.shared.admission.existing(access, Verb::Read, &key).await {
            // The caller may not read there any more: the run is as unknown to it as any other's.
            Err(EngineError::NoSession(_)) => None,
            scope => scope?,
        };
        match scope.filter(|scope| scope.session() == record.session) {
            Some(scope) => self.report(access, &scope, record, outcome).await.map(Some),
            None => Ok(None),
        }
    }

    /// The report of a run that ended in the past, as far as the store remembers it.
    pub(super) async fn report(
        &self,
        access: &Access,
        scope: &SessionScope,
        record: &RunRecord,
        outcome: &RunOutcome,
    ) -> Result<RunReport, EngineError> {
        let store = &self.inner.shared.store;
        let (answer, receipt) = match outcome {
            RunOutcome::Completed { answer, .. } => {
                (store.entry(scope, *answer).await?, store.receipt(scope, *answer).await?)
            }
            _ => (None, None),
        };
        let (text, model, usage) = match answer.map(|entry| entry.body.message) {
            Some(message @ Message::Assistant { .. }) => {
                let text = message.text();
                let Message::Assistant { model, usage, .. } = message else { unreachable!() };
                (text, Some(model), usage.unwrap_or_default())
            }
            _ => (String::new(), None, Usage::default()),
        };
        Ok(RunReport {
            run: record.id.clone(),
            key: scope.key().clone(),
            agent: agent_of(access, scope.key())?,
            generation: self.generation_of(scope, record).await?,
            outcome: outcome.clone(),
            text,
            model,
            provider_status: None,
            usage,
            last_usage: usage,
            started_at: record.started_at.unwrap_or(record.accepted_at),
            ended_at: record.ended_at.unwrap_or_else(|| self.inner.shared.clock.now()),
            receipt,
        })
    }

    pub(super) async fn generation_of(
        &self,
        scope: &SessionScope,
        record: &RunRecord,
    ) -> Result<GenerationId, EngineError> {
        if record.generation == scope.generation_no() {
            return Ok(scope.generation().clone());
        }
        let generations = self.inner.shared.store.generations(scope).await?;
        let found = generations.into_iter().find(|generation| generation.no == record.generation);
        Ok(found.map_or_else(|| scope.generation().clone(), |generation| generation.id))
    }

    /// Ends one run of a session, or all of them, and answers when their end is durable and announced.
    pub async fn abort(
        &self,
        access: &Access,
        target: &Target,
        run: Option<&RunId>,
        reason: &str,
    ) -> Result<Aborted, EngineError> {
        let key = self.key_of(access, target)?;
        let scope = self.inner.shared.admission.existing(access, Verb::Write, &key).await?;
        let sender = scope.and_then(|scope| self.inner.registry.sender(scope.tenant(), scope.session()));
        let mut runs = Vec::new();
        if let Some(sender) = sender {
            let (reply, answer) = oneshot::channel();
            let mail = Mail::Abort { run: run.cloned(), reason: reason.to_owned(), reply };
            if sender.send(mail).await.is_ok() {
                runs = answer.await.unwrap_or_default();
            }
        }
        Ok(Aborted { key, runs })
    }
}
