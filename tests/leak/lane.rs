//! Turns through the engine's own door, as a surface would take them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use watertight_core::ids::{GenerationId, RunId};
use watertight_core::run::{QueuePolicy, RunOptions, RunOutcome};
use watertight_core::transcript::Block;
use watertight_engine::EngineError;
use watertight_engine::engine::SessionFilter;
use watertight_engine::report::RunReport;
use watertight_engine::request::{
    Accepted, Disposition, GenerationChoice, HistoryQuery, Selector, Target, TurnRequest,
};
use watertight_testkit::canary::tag::Audience;

use crate::dice::Dice;
use crate::model::Manner;
use crate::names;
use crate::oracle::Place;
use crate::session::{Input, Session};
use crate::world::{PATIENCE, Tenant, World};

/// Message ids a tenant keeps for others to ask for.
const KEPT_ENTRIES: usize = 64;
/// Turns of a shared session before the lanes go on to the next.
const SHARED_TURNS: u64 = 24;

/// Drives some sessions, one scene after another, until the world's turns are used up.
pub(crate) struct Lane {
    pub(crate) world: Arc<World>,
    pub(crate) dice: Dice,
    pub(crate) sessions: Vec<Session>,
}

impl Lane {
    pub(crate) async fn run(mut self) {
        while self.world.goes_on() {
            let at = self.dice.below(self.sessions.len());
            let mut session = self.sessions.swap_remove(at);
            self.scene(&mut session).await;
            self.sessions.push(session);
        }
    }

    async fn scene(&mut self, session: &mut Session) {
        if session.is_long() {
            return self.switch(session).await;
        }
        match self.dice.below(100) {
            0..34 => self.say(session).await,
            34..44 => self.use_tools(session).await,
            44..54 => self.fail(session).await,
            54..62 => self.abort(session).await,
            62..70 => self.give_up(session).await,
            70..73 => self.crowd(session).await,
            73..79 => self.switch(session).await,
            79..83 => self.intervene(session).await,
            83..87 => self.ask_again(session).await,
            87..90 => self.share(session.tenant).await,
            90..93 => self.ask_for_others(session).await,
            _ => self.read(session).await,
        }
    }

    fn tenant(&self, session: &Session) -> &Tenant {
        &self.world.tenants[session.tenant]
    }

    /// An answer of the engine to a client of this session.
    fn check(&self, audience: Audience, answer: &dyn std::fmt::Debug) {
        let text = format!("{answer:?}");
        self.world.oracle.figures.answer_bytes.add(text.len());
        self.world.oracle.check(Place::Answer, audience, text.as_bytes());
    }

    fn request(&mut self, session: &Session, input: &Input) -> TurnRequest {
        let generation = GenerationId::parse(&input.generation).expect("a transcript's id");
        TurnRequest {
            target: Target {
                key: Some(session.key.clone()),
                agent: None,
                generation: if input.switches {
                    GenerationChoice::MakeLive(generation)
                } else {
                    GenerationChoice::NamesNew(generation)
                },
            },
            input: vec![Block::from_text(input.text.clone())],
            run: RunId::parse(&input.run).expect("a run's id"),
            options: RunOptions {
                extra_instructions: input.instructed.then(|| input.instructions.clone()),
                timeout_ms: (input.manner == Manner::Hang).then(|| 20 + self.dice.below(60) as u64),
                ..RunOptions::default()
            },
            expect_generation: None,
            surface: "leak",
            method: "agent",
        }
    }

    async fn submit(&mut self, session: &mut Session, input: &Input) -> Result<Accepted, EngineError> {
        let request = self.request(session, input);
        self.submit_request(session, input, request).await
    }

    async fn submit_request(
        &self,
        session: &mut Session,
        input: &Input,
        request: TurnRequest,
    ) -> Result<Accepted, EngineError> {
        let (world, audience) = (self.world.clone(), session.audience());
        let acknowledge = move |accepted: &Accepted| {
            let text = format!("{accepted:?}");
            world.oracle.check(Place::Answer, audience, text.as_bytes());
            if matches!(accepted.disposition, Disposition::Started) {
                world.began_turn();
            }
        };
        let access = &self.tenant(session).access;
        let submitted = self.world.engine.submit(access, request, acknowledge).await;
        self.check(session.audience(), &submitted);
        match &submitted {
            Ok(_) => session.remember(input.clone()),
            Err(EngineError::QueueFull(_) | EngineError::Busy) => self.world.oracle.figures.refused.one(),
            Err(EngineError::RunConflict) => self.world.oracle.figures.conflicts.one(),
            Err(error) => self.world.oracle.wrong("a turn was refused", format!("{error} {input:?}")),
        }
        submitted
    }

    /// The run's end. A complete answer repeats its own input.
    async fn ended(&self, session: &Session, input: &Input) -> Option<Arc<RunReport>> {
        let run = RunId::parse(&input.run).expect("a run's id");
        let access = &self.tenant(session).access;
        let report = match self.world.engine.wait(access, &run, Some(PATIENCE)).await {
            Ok(Some(report)) => report,
            other => {
                self.world.oracle.wrong("a run did not end", format!("{other:?} {input:?}"));
                return None;
            }
        };
        self.check(session.audience(), &report);
        let figures = &self.world.oracle.figures;
        match &report.outcome {
            RunOutcome::Completed { .. } => {
                figures.completed.one();
                if input.is_repeated && !report.text.contains(&self.world.oracle.text(input.tag)) {
                    self.world.oracle.wrong("an answer to another input", format!("{report:?} {input:?}"));
                }
            }
            RunOutcome::TimedOut => figures.timeouts.one(),
            RunOutcome::Failed { .. } | RunOutcome::Aborted { .. } | RunOutcome::Interrupted => {}
        }
        Some(report)
    }

    async fn turn(&mut self, session: &mut Session, manner: Manner) -> Option<Arc<RunReport>> {
        if !self.world.goes_on() {
            return None;
        }
        let input = session.input(&self.world.oracle, manner);
        self.submit(session, &input).await.ok()?;
        self.ended(session, &input).await
    }

    async fn say(&mut self, session: &mut Session) {
        let manner =
            *self.dice.pick(&[Manner::Say, Manner::Say, Manner::Say, Manner::Think, Manner::Plain, Manner::Slow]);
        self.turn(session, manner).await;
    }

    async fn use_tools(&mut self, session: &mut Session) {
        self.turn(session, Manner::Tools).await;
    }

    async fn fail(&mut self, session: &mut Session) {
        let manner = match self.dice.below(40) {
            // Is sent again twice, with pauses.
            0 => Manner::Fail,
            1..9 => Manner::Hang,
            _ => *self.dice.pick(&Manner::FAULTS),
        };
        self.turn(session, manner).await;
    }

    /// Ends a run at any point of it, and sometimes all that wait behind it.
    async fn abort(&mut self, session: &mut Session) {
        let mut inputs = Vec::new();
        for _ in 0..=self.dice.below(3) {
            if !self.world.goes_on() {
                break;
            }
            let manner = *self.dice.pick(&[Manner::Slow, Manner::Slow, Manner::Tools, Manner::Say]);
            let input = session.input(&self.world.oracle, manner);
            if self.submit(session, &input).await.is_ok() {
                inputs.push(input);
            }
        }
        sleep(Duration::from_micros(self.dice.below(20_000) as u64)).await;
        if inputs.is_empty() {
            return;
        }
        let all = self.dice.one_in(3);
        let run = (!all).then(|| RunId::parse(&self.dice.pick(&inputs).run).expect("a run's id"));
        let access = &self.tenant(session).access;
        let target = Target::of_key(&session.key);
        let aborted = self.world.engine.abort(access, &target, run.as_ref(), "leak").await;
        self.check(session.audience(), &aborted);
        self.world.oracle.figures.aborts.one();
        for input in inputs {
            self.ended(session, &input).await;
        }
    }

    /// Drops the request at any point of it, then asks again under the same run id: the run began, or begins now.
    async fn give_up(&mut self, session: &mut Session) {
        if !self.world.goes_on() {
            return;
        }
        let manner = *self.dice.pick(&[Manner::Say, Manner::Slow, Manner::Tools, Manner::Think]);
        let input = session.input(&self.world.oracle, manner);
        let request = self.request(session, &input);
        let patience = Duration::from_micros(self.dice.below(3_000) as u64);
        let submit = self.submit_request(session, &input, request.clone());
        if timeout(patience, submit).await.is_err() {
            self.world.oracle.figures.cancels.one();
            if self.submit_request(session, &input, request).await.is_err() {
                return;
            }
        }
        let run = RunId::parse(&input.run).expect("a run's id");
        let wait = self.world.engine.wait(&self.tenant(session).access, &run, None);
        if timeout(patience, wait).await.is_err() {
            self.world.oracle.figures.cancels.one();
        }
        self.ended(session, &input).await;
    }

    /// More than the session's queue takes, all at once.
    async fn crowd(&mut self, session: &mut Session) {
        let mut inputs = Vec::new();
        let size = 4 + self.dice.below(40);
        for at in 0..size {
            if !self.world.goes_on() {
                break;
            }
            let manner = if at == 0 { Manner::Slow } else { Manner::Say };
            let input = session.input(&self.world.oracle, manner);
            match self.submit(session, &input).await {
                Ok(_) => inputs.push(input),
                Err(_) => break,
            }
        }
        if self.dice.one_in(2) {
            let access = &self.tenant(session).access;
            let aborted = self.world.engine.abort(access, &Target::of_key(&session.key), None, "leak").await;
            self.check(session.audience(), &aborted);
            self.world.oracle.figures.aborts.one();
        }
        for input in inputs {
            self.ended(session, &input).await;
        }
    }

    /// A new transcript, or a former one, made live by its first input; perhaps while a run of the present one goes on.
    async fn switch(&mut self, session: &mut Session) {
        if session.is_new() {
            return self.say(session).await;
        }
        let mut before = None;
        if self.dice.one_in(3) && self.world.goes_on() {
            let input = session.input(&self.world.oracle, Manner::Slow);
            before = self.submit(session, &input).await.ok().map(|_| input);
        }
        if self.world.goes_on() {
            let next = session.next_generation();
            let generation = if self.dice.one_in(4) { self.dice.below(usize::from(next)) as u16 } else { next };
            let input = session.input_as(&self.world.oracle, Manner::Say, generation);
            if self.submit(session, &input).await.is_ok() {
                session.switched(generation);
                self.world.oracle.figures.resets.one();
                self.ended(session, &input).await;
            }
        }
        if let Some(input) = before {
            self.ended(session, &input).await;
        }
    }

    /// A former run id again: with its own content it is the same run, with another it is refused.
    async fn ask_again(&mut self, session: &mut Session) {
        if session.past.is_empty() {
            return;
        }
        let input = self.dice.pick(&session.past).clone();
        let mut request = self.request(session, &input);
        let differs = self.dice.one_in(3);
        if differs {
            request.input.push(Block::from_text("and more"));
        }
        let past = session.past.clone();
        let answered = self.submit_request(session, &input, request).await;
        session.past = past;
        self.world.oracle.figures.resends.one();
        match answered {
            Ok(accepted) if !differs => {
                if let Disposition::Ended(report) = &accepted.disposition
                    && matches!(report.outcome, RunOutcome::Completed { .. })
                    && input.is_repeated
                    && !report.text.contains(&self.world.oracle.text(input.tag))
                {
                    self.world.oracle.wrong("a resend was answered for another run", format!("{report:?} {input:?}"));
                }
                if matches!(accepted.disposition, Disposition::Started) {
                    self.world.oracle.wrong("a resend began a run", &input.run);
                }
            }
            Err(EngineError::RunConflict) if differs => {}
            other => self.world.oracle.wrong("a resend was not taken for one", format!("{other:?} {differs}")),
        }
    }

    /// An input that does not simply wait for the run under way.
    async fn intervene(&mut self, session: &mut Session) {
        if !self.world.goes_on() {
            return;
        }
        let manner = *self.dice.pick(&[Manner::Slow, Manner::Tools, Manner::Tools]);
        let mut first = session.input(&self.world.oracle, manner);
        // The model may be asked under them with the other input as the newest.
        first.instructed = false;
        first.is_repeated = false;
        if self.submit(session, &first).await.is_err() {
            return;
        }
        sleep(Duration::from_micros(self.dice.below(8_000) as u64)).await;
        if self.world.goes_on() {
            let mut second = session.input(&self.world.oracle, Manner::Say);
            second.instructed = false;
            let mut request = self.request(session, &second);
            let policies = [QueuePolicy::Interrupt, QueuePolicy::Reject, QueuePolicy::Steer, QueuePolicy::Steer];
            request.options.queue = *self.dice.pick(&policies);
            self.world.oracle.figures.interruptions.one();
            if self.submit_request(session, &second, request).await.is_ok() {
                self.ended(session, &second).await;
            }
        }
        self.ended(session, &first).await;
    }

    /// A turn in a session that other lanes use at the same time.
    async fn share(&mut self, tenant: usize) {
        if !self.world.goes_on() {
            return;
        }
        let turn = self.world.next_shared(tenant);
        let number = names::SHARED + (turn / SHARED_TURNS) as u16;
        let mut session = Session::new(tenant, self.world.tenants[tenant].number, number);
        let mut input = session.input(&self.world.oracle, Manner::Say);
        // Others of the session's lanes are asked under theirs at the same time; each prompt knows its own newest.
        input.run = names::run(number, (turn % SHARED_TURNS) as u32);
        if self.submit(&mut session, &input).await.is_ok() {
            self.ended(&session, &input).await;
        }
    }

    /// Names of other tenants' things: they exist, but not for this caller.
    async fn ask_for_others(&mut self, session: &mut Session) {
        let others = self.world.tenants.len();
        let other = (session.tenant + 1 + self.dice.below(others - 1)) % others;
        let entries = self.world.tenants[other].entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let world = self.world.clone();
        let access = &world.tenants[session.tenant].access;
        let target = Target::of_key(&session.key);
        world.oracle.figures.reads.one();
        if !entries.is_empty() {
            let id = *self.dice.pick(&entries);
            let entry = self.world.engine.entry(access, &target, id).await;
            self.check(session.audience(), &entry);
            if !matches!(entry, Ok(None)) {
                self.world.oracle.wrong("an entry of another tenant was found", format!("{entry:?}"));
            }
        }
        // A tag of another tenant's session of the same key finds nothing here.
        let foreign = self.world.oracle.mint_input(watertight_testkit::canary::tag::Owner {
            tenant: self.world.tenants[other].number,
            ..session.owner
        });
        let text = self.world.oracle.text(foreign.0);
        let prefix = &text[..text.len() - 13];
        let filter = SessionFilter { search: Some(prefix.to_owned()), sentinels: true, ..SessionFilter::default() };
        let list = self.world.engine.list(access, filter).await;
        self.check(Audience::Tenant(session.owner.tenant), &list);
        if !list.as_ref().is_ok_and(|list| list.sessions.is_empty()) {
            self.world.oracle.wrong("a search for another tenant's words found something", format!("{list:?}"));
        }
    }

    async fn read(&mut self, session: &mut Session) {
        let world = self.world.clone();
        world.oracle.figures.reads.one();
        let tenant = &world.tenants[session.tenant];
        let (engine, access) = (&world.engine, &tenant.access);
        let target = Target::of_key(&session.key);
        let all = Audience::Tenant(session.owner.tenant);
        match self.dice.below(5) {
            0 | 1 => {
                let query = HistoryQuery {
                    limit: 1 + self.dice.below(40) as u32,
                    offset: self.dice.below(6) as u32,
                    max_bytes: 64 * 1024,
                };
                let history = engine.history(access, &target, query).await;
                self.check(session.audience(), &history);
                if let Ok(history) = history {
                    let mut kept = tenant.entries.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.extend(history.entries.iter().map(|entry| entry.id));
                    let excess = kept.len().saturating_sub(KEPT_ENTRIES);
                    kept.drain(..excess);
                }
            }
            2 => {
                let filter =
                    SessionFilter { limit: 10, offset: self.dice.below(20) as u32, ..SessionFilter::default() };
                match engine.list(access, filter).await {
                    Ok(list) => {
                        for view in &list.sessions {
                            let audience = names::session(view.key.as_str()).map_or(Audience::Nobody, |session_of| {
                                Audience::Session(session.owner.tenant, session_of)
                            });
                            self.check(audience, view);
                        }
                    }
                    Err(error) => self.check(all, &error),
                }
            }
            3 => {
                let view = engine.describe(access, &target).await;
                self.check(session.audience(), &view);
            }
            _ => {
                let id = names::generation(session.owner.generation);
                let selector = Selector::Generation(GenerationId::parse(&id).expect("a transcript's id"));
                // Many sessions have a transcript of this id; any of this tenant's may be the answer.
                let view = engine.find(access, &selector, None).await;
                self.check(all, &view);
            }
        }
    }
}
