//! Accepting a turn.

use tokio::sync::oneshot;
use watertight_core::SessionScope;
use watertight_core::grant::Verb;
use watertight_core::key::CanonicalKey;
use watertight_store::StoreError;

use super::{Engine, agent_of};
use crate::actor::mail::{Refused, Submission, Why};
use crate::admission::{Access, Standing};
use crate::error::EngineError;
use crate::request::{Accepted, Disposition, GenerationChoice, TurnRequest};

/// How often a turn is admitted anew when its session moved under it. Each round means somebody else made progress.
const MAX_ROUNDS: u32 = 8;

impl Engine {
    /// Accepts a turn: resolves its session, makes the input durable, queues the run. Needs [`Verb::Write`].
    ///
    /// `acknowledge` is called exactly once on success, whatever the disposition. Where this request starts the run it is
    /// called before the run's first event: a surface that answers its client there answers before the events. It must
    /// not block.
    pub async fn submit(
        &self,
        access: &Access,
        request: TurnRequest,
        acknowledge: impl FnOnce(&Accepted) + Send + 'static,
    ) -> Result<Accepted, EngineError> {
        self.submit_in_order(access, request, || {}, acknowledge).await
    }

    /// [`Self::submit`] for a surface that keeps its clients' requests in order: `taken` is called, or dropped, once the
    /// turn's place in its session is certain. What is asked of the session after that comes after this turn, so nobody
    /// need wait for the acknowledgement, which a change of generation may hold back for long.
    pub async fn submit_in_order(
        &self,
        access: &Access,
        request: TurnRequest,
        taken: impl FnOnce() + Send + 'static,
        acknowledge: impl FnOnce(&Accepted) + Send + 'static,
    ) -> Result<Accepted, EngineError> {
        if request.input.is_empty() {
            return Err(EngineError::Invalid("message or attachment required".into()));
        }
        let key = self.key_of(access, &request.target)?;
        let agent = agent_of(access, &key)?;
        let shared = &self.inner.shared;
        let model = match shared.catalog.model(shared.catalog.agent(&agent), request.options.model.as_deref()) {
            Ok(model) => model,
            Err(error) => return self.refuse(access, &key, request, acknowledge, error).await,
        };
        let first_generation = match &request.target.generation {
            GenerationChoice::Live => None,
            GenerationChoice::NamesNew(id) | GenerationChoice::MakeLive(id) => Some(id.clone()),
        };
        let standing = Standing { is_main: self.is_main(access, &key, &agent), agent };
        // Everything that travels to an actor comes back from one that cannot take it.
        let mut travelling = (
            request,
            Some(Box::new(taken) as Box<dyn FnOnce() + Send>),
            Box::new(acknowledge) as Box<dyn FnOnce(&Accepted) + Send>,
        );
        for _ in 0..MAX_ROUNDS {
            let (request, taken, acknowledge) = travelling;
            if !self.is_ready() {
                return self.refuse(access, &key, request, acknowledge, EngineError::Draining).await;
            }
            let scope = match self.inner.shared.admission.existing(access, Verb::Write, &key).await? {
                Some(scope) => scope,
                None => {
                    // Before a key is spent on a draft: a used run id is refused or answered for.
                    if let Some(accepted) = self.known(access, &key, &request).await? {
                        acknowledge(&accepted);
                        return Ok(accepted);
                    }
                    self.inner.shared.admission.writable(access, &key, first_generation.as_ref()).await?
                }
            };
            let (reply, answer) = oneshot::channel();
            let submission = Box::new(Submission {
                digest: digest(&scope, &request),
                scope,
                space: access.run_space(),
                standing: standing.clone(),
                model: model.clone(),
                request,
                taken,
                acknowledge,
                reply,
            });
            self.inner.registry.submit(shared, submission).await;
            let Refused { why, submission } = match answer.await {
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(refused)) => refused,
                Err(_) => return Err(StoreError::Unavailable("the session's task ended".into()).into()),
            };
            let Submission { request, taken, acknowledge, .. } = *submission;
            match why {
                Why::Moved => travelling = (request, taken, acknowledge),
                Why::Known => {
                    return self.refuse(access, &key, request, acknowledge, EngineError::RunConflict).await;
                }
                Why::No(error) => return self.refuse(access, &key, request, acknowledge, error).await,
            }
        }
        Err(EngineError::Changed(key.to_string()))
    }

    /// Refuses a turn, unless its run id was accepted before: a client that repeats a request whose acknowledgement it
    /// lost must hear what became of the run, whatever stands in the way of a new one now.
    async fn refuse(
        &self,
        access: &Access,
        key: &CanonicalKey,
        request: TurnRequest,
        acknowledge: impl FnOnce(&Accepted),
        error: EngineError,
    ) -> Result<Accepted, EngineError> {
        match self.known(access, key, &request).await? {
            Some(accepted) => {
                acknowledge(&accepted);
                Ok(accepted)
            }
            None => Err(error),
        }
    }

    /// What a run id that the caller used before means for this request: the same run, or a conflict.
    async fn known(
        &self,
        access: &Access,
        key: &CanonicalKey,
        request: &TurnRequest,
    ) -> Result<Option<Accepted>, EngineError> {
        let Some(record) = self.inner.shared.admission.run(access, &request.run).await? else { return Ok(None) };
        let scope = self.inner.shared.admission.existing(access, Verb::Read, key).await?;
        let Some(scope) = scope.filter(|scope| digest(scope, request) == record.digest) else {
            return Err(EngineError::RunConflict);
        };
        let disposition = match &record.outcome {
            Some(outcome) => Disposition::Ended(Box::new(self.report(access, &scope, &record, outcome).await?)),
            None => Disposition::InFlight,
        };
        let receipt = self.inner.shared.store.receipt(&scope, record.input).await?;
        Ok(Some(Accepted {
            run: record.id.clone(),
            key: key.clone(),
            agent: agent_of(access, key)?,
            generation: self.generation_of(&scope, &record).await?,
            input: record.input,
            message_seq: None,
            at: record.accepted_at,
            receipt,
            interrupted: None,
            disposition,
        }))
    }
}

/// Binds a run id to its request (isolation.md C4): call, session, generation and content.
fn digest(scope: &SessionScope, request: &TurnRequest) -> [u8; 32] {
    let generation = match &request.target.generation {
        GenerationChoice::MakeLive(id) => id.as_str(),
        GenerationChoice::Live | GenerationChoice::NamesNew(_) => "",
    };
    // Blocks are plain data: they always have a JSON form.
    let content = serde_json::to_vec(&request.input).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    for part in [request.method.as_bytes(), scope.session().as_bytes(), generation.as_bytes(), &content] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
