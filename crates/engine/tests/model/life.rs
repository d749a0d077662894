//! One process' worth of engine: what is done to it, and what can be seen of it.
//!
//! Time stands still but for [`Life::pass`]: a blocking task keeps tokio from letting it pass while the store's thread
//! is at work. So a case does the same each time, and shrinks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use watertight_config::Config;
use watertight_core::ids::{GenerationId, RunId, TenantId};
use watertight_core::run::{QueuePolicy, RunOptions, RunOutcome};
use watertight_core::transcript::{Block, Message};
use watertight_engine::admission::{Access, Presented};
use watertight_engine::engine::Parts;
use watertight_engine::event::{EventKind, SessionEvent};
use watertight_engine::hub::{EventSink, Interest, Listener};
use watertight_engine::request::{Accepted, Disposition, GenerationChoice, HistoryQuery, Target, TurnRequest};
use watertight_engine::state_dir::StateDir;
use watertight_engine::tools::{Tool, ToolContext, ToolFuture};
use watertight_engine::{Engine, EngineError};
use watertight_provider::ToolSpec;

use crate::terms::{Answer, LIMIT, Outcome, Policy, RESULT, Request, Role, UNKNOWN, View};

/// Sessions under test, one in each tenant, all of the same name.
pub(crate) const TENANTS: usize = 2;
const KEY: &str = "agent:main:k";
/// Longer than a history that goes well takes to settle.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same once a history has failed: the shorter ones that are tried after it mostly fail too.
const SHORT: Duration = Duration::from_secs(1);

/// How long to wait for what ought to be.
fn patience() -> Duration {
    if crate::HAS_FAILED.load(Ordering::Relaxed) { SHORT } else { PATIENCE }
}

/// What outlives a process.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    /// The token of the second tenant's operator, once it has one.
    token: Option<String>,
    tools: Arc<Tools>,
    /// Runs whose end was announced.
    ended: [HashSet<RunId>; TENANTS],
    answers: [Vec<Option<Answer>>; TENANTS],
}

pub(crate) struct Life {
    /// Ends the task that keeps time from passing.
    stand_still: mpsc::Sender<()>,
    engine: Engine,
    tenants: Vec<Tenant>,
    place: Place,
    runtime: Runtime,
}

struct Tenant {
    access: Access,
    sink: Arc<Sink>,
    _listener: Listener,
    tickets: Vec<(usize, JoinHandle<Result<Accepted, EngineError>>)>,
}

#[derive(Default)]
struct Sink(Mutex<Vec<Arc<SessionEvent>>>);

impl EventSink for Sink {
    fn deliver(&self, event: &Arc<SessionEvent>) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// The tools of both tenants: they wait until they are let go, and are counted.
#[derive(Default)]
struct Tools(Mutex<HashMap<TenantId, (u32, Arc<Semaphore>)>>);

struct Held {
    tools: Arc<Tools>,
    name: &'static str,
}

impl Tool for Held {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: self.name.into(), description: "Waits.".into(), parameters: json!({"type": "object"}) }
    }

    fn is_idempotent(&self) -> bool {
        self.name == "again"
    }

    fn run(&self, context: ToolContext, _arguments: Value) -> ToolFuture {
        let gate = {
            let mut tools = self.tools.0.lock().unwrap();
            let (count, gate) = tools.entry(context.scope.tenant()).or_insert_with(|| (0, Arc::new(Semaphore::new(0))));
            *count += 1;
            gate.clone()
        };
        Box::pin(async move {
            gate.acquire().await.map_err(|_| "closed".to_owned())?.forget();
            Ok(RESULT.to_owned())
        })
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            token: None,
            tools: Arc::default(),
            ended: Default::default(),
            answers: Default::default(),
        }
    }
}

impl Life {
    pub(crate) fn begin(mut place: Place) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (stand_still, ended) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || ended.recv());
        let (engine, tenants) = runtime.block_on(async {
            let engine = open(place.dir.path(), &place.tools).await;
            let own = std::fs::read_to_string(engine.operator_token_file().unwrap()).unwrap().trim().to_owned();
            let other = match place.token.take() {
                Some(token) => token,
                None => engine.create_tenant("other").await.unwrap(),
            };
            let mut tenants = Vec::new();
            for token in [&own, &other] {
                let access = engine.authenticate(Presented::Secret(token), None).await.unwrap();
                let sink = Arc::new(Sink::default());
                let listener = engine.listen(&access, Interest::Everything, sink.clone());
                tenants.push(Tenant { access, sink, _listener: listener, tickets: Vec::new() });
            }
            place.token = Some(other);
            engine.recover();
            (engine, tenants)
        });
        Self { stand_still, engine, tenants, place, runtime }
    }

    pub(crate) fn submit(&mut self, tenant: usize, request: Request) {
        let turn = TurnRequest {
            target: Target {
                generation: request
                    .switch
                    .map_or(GenerationChoice::Live, |n| GenerationChoice::MakeLive(generation(n))),
                ..Target::of_key(KEY)
            },
            input: vec![Block::from_text(request.text(tenant))],
            run: run_id(request.run),
            options: RunOptions {
                queue: match request.policy {
                    Policy::Queue => QueuePolicy::Queue,
                    Policy::Interrupt => QueuePolicy::Interrupt,
                    Policy::Reject => QueuePolicy::Reject,
                    Policy::Steer => QueuePolicy::Steer,
                },
                timeout_ms: request.limited.then_some(LIMIT),
                ..RunOptions::default()
            },
            expect_generation: None,
            surface: "test",
            method: "agent",
        };
        let (engine, access) = (self.engine.clone(), self.tenants[tenant].access.clone());
        let ticket = self.place.answers[tenant].len();
        self.place.answers[tenant].push(None);
        let sent = self.runtime.spawn(async move { engine.submit(&access, turn, |_| {}).await });
        self.tenants[tenant].tickets.push((ticket, sent));
    }

    pub(crate) fn abort(&mut self, tenant: usize, run: Option<u8>) -> Vec<u8> {
        let access = &self.tenants[tenant].access;
        let run = run.map(run_id);
        let target = Target::of_key(KEY);
        let aborted = self.engine.abort(access, &target, run.as_ref(), "rpc");
        let aborted = self.runtime.block_on(aborted).unwrap();
        aborted.runs.iter().map(run_number).collect()
    }

    /// Lets the tool that waits come back.
    pub(crate) fn release(&mut self, tenant: usize) {
        let id = self.tenants[tenant].access.identity().0;
        if let Some((_, gate)) = self.place.tools.0.lock().unwrap().get(&id) {
            gate.add_permits(1);
        }
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.runtime.block_on(tokio::time::advance(Duration::from_millis(millis)));
    }

    /// Waits until the sessions look like this; else what they look like after a long while.
    pub(crate) fn settle(&mut self, expected: &[View]) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let seen: Vec<View> = (0..TENANTS).map(|tenant| self.view(tenant)).collect();
            if seen == expected {
                return self.check_events();
            }
            if began.elapsed() > patience() {
                let differ = (0..TENANTS).filter(|tenant| seen[*tenant] != expected[*tenant]);
                let differ = differ.map(|t| format!("tenant {t}\n is {:#?}\n not {:#?}", seen[t], expected[t]));
                return Err(differ.collect::<Vec<_>>().join("\n"));
            }
            self.runtime.block_on(tokio::task::yield_now());
        }
    }

    /// How the run ended, to one who asks.
    pub(crate) fn outcome(&self, tenant: usize, run: u8) -> Option<Outcome> {
        let access = &self.tenants[tenant].access;
        let run = run_id(run);
        let wait = self.engine.wait(access, &run, Some(Duration::ZERO));
        self.runtime.block_on(wait).unwrap().map(|report| outcome(&report.outcome))
    }

    /// Stops the process in good order.
    pub(crate) fn stop(mut self) -> Result<Place, String> {
        self.runtime.block_on(self.engine.drain(Duration::ZERO));
        let (began, left) =
            (Instant::now(), |tenant: &Tenant| tenant.tickets.iter().any(|(_, sent)| !sent.is_finished()));
        while self.tenants.iter().any(left) && began.elapsed() < patience() {
            self.runtime.block_on(tokio::task::yield_now());
        }
        self.check_events()?;
        Ok(self.leave())
    }

    /// Kills it: every task ends where it is.
    pub(crate) fn die(self) -> Place {
        self.leave()
    }

    fn leave(mut self) -> Place {
        for tenant in 0..TENANTS {
            self.collect_answers(tenant);
            for answer in self.place.answers[tenant].iter_mut().filter(|answer| answer.is_none()) {
                *answer = Some(Answer::Nothing);
            }
            self.tenants[tenant].tickets.clear();
            let events = self.tenants[tenant].sink.0.lock().unwrap();
            let ended = events.iter().filter(|event| matches!(event.kind, EventKind::Ended { .. }));
            self.place.ended[tenant].extend(ended.filter_map(|event| event.run.as_ref().map(|(run, _)| run.clone())));
        }
        let Self { stand_still, engine, tenants, place, runtime } = self;
        drop(stand_still);
        // The tasks first: they hold the engine too.
        drop(runtime);
        drop((tenants, engine));
        place
    }

    fn collect_answers(&mut self, tenant: usize) {
        let Self { runtime, tenants, place, .. } = self;
        let tickets = std::mem::take(&mut tenants[tenant].tickets);
        for (ticket, sent) in tickets {
            if sent.is_finished() {
                let told = runtime.block_on(sent).expect("a turn does not panic");
                place.answers[tenant][ticket] = Some(answer(told));
            } else {
                tenants[tenant].tickets.push((ticket, sent));
            }
        }
    }

    fn view(&mut self, tenant: usize) -> View {
        self.collect_answers(tenant);
        let Tenant { access, sink, .. } = &self.tenants[tenant];
        let query = HistoryQuery { limit: 1000, offset: 0, max_bytes: usize::MAX };
        let history = self.runtime.block_on(self.engine.history(access, &Target::of_key(KEY), query)).unwrap();
        let entries = history.entries.iter().map(|entry| {
            let role = match &entry.body.message {
                Message::User { .. } => Role::User,
                Message::Assistant { .. } => Role::Assistant,
                _ => Role::ToolResult,
            };
            (role, shortened(&entry.body.message.text()))
        });
        let seqs: Vec<u32> = history.entries.iter().map(|entry| entry.message_seq).collect();
        assert!(seqs.iter().copied().eq(1..=history.total), "places are counted without a gap: {seqs:?}");
        let events = sink.0.lock().unwrap();
        let ended = events.iter().filter_map(|event| match &event.kind {
            EventKind::Ended { report, .. } => {
                Some((run_number(&report.run), outcome(&report.outcome), shortened(&report.text)))
            }
            _ => None,
        });
        let calls = events.iter().filter(|event| matches!(event.kind, EventKind::Model { .. })).count();
        let executions = self.place.tools.0.lock().unwrap().get(&access.identity().0).map_or(0, |(count, _)| *count);
        View {
            entries: entries.collect(),
            runs: history.session.active_runs.iter().map(run_number).collect(),
            in_flight: history.in_flight.map(|active| (run_number(&active.run), active.text)),
            ended: ended.collect(),
            answers: self.place.answers[tenant].clone(),
            executions,
            calls: u32::try_from(calls).unwrap(),
        }
    }

    /// What each listener has seen so far follows the rules that no order changes.
    fn check_events(&mut self) -> Result<(), String> {
        for (tenant, Tenant { sink, .. }) in self.tenants.iter().enumerate() {
            let events = sink.0.lock().unwrap();
            let mut ended = HashSet::new();
            let mut places: BTreeMap<&RunId, u64> = BTreeMap::new();
            let mut said: BTreeMap<&RunId, String> = BTreeMap::new();
            let mut last = 0;
            for event in events.iter() {
                // An actor that was idle for long has gone, and the next one counts anew.
                if event.seq != last + 1 && event.seq != 1 {
                    return Err(format!("event {} of tenant {tenant} follows {last}", event.seq));
                }
                last = event.seq;
                let Some((run, place)) = &event.run else { continue };
                let before = places.insert(run, *place);
                if before.is_some_and(|before| *place != before + 1) || (before.is_none() && *place > 1) {
                    return Err(format!("place {place} of {run} of tenant {tenant} follows {before:?}"));
                }
                match &event.kind {
                    EventKind::Text { delta, text } => {
                        let said = said.entry(run).or_default();
                        said.push_str(delta);
                        if **text != **said {
                            return Err(format!("{run} says {text:?} after pieces of {said:?}"));
                        }
                    }
                    EventKind::ToolStarted { .. } => drop(said.remove(run)),
                    EventKind::Ended { .. } if !ended.insert(run.clone()) || self.place.ended[tenant].contains(run) => {
                        return Err(format!("the end of {run} of tenant {tenant} is announced twice"));
                    }
                    _ => {}
                }
                if ended.contains(run) && !matches!(event.kind, EventKind::Ended { .. }) {
                    return Err(format!("{:?} of {run} of tenant {tenant} comes after its end", event.kind));
                }
            }
        }
        Ok(())
    }
}

async fn open(dir: &Path, tools: &Arc<Tools>) -> Engine {
    let state = StateDir::lock(&dir.join("state")).unwrap();
    let tool = |name| Box::new(Held { tools: tools.clone(), name }) as Box<dyn Tool>;
    let parts = Parts { tools: vec![tool("once"), tool("again")], ..Parts::default() };
    Engine::open_with(Arc::new(Config::from_toml("").unwrap()), state, parts).await.unwrap()
}

fn answer(told: Result<Accepted, EngineError>) -> Answer {
    match told.map(|accepted| accepted.disposition) {
        Ok(Disposition::Started) => Answer::Started,
        Ok(Disposition::InFlight | Disposition::Ended(_)) => Answer::Known,
        Err(EngineError::RunConflict) => Answer::Conflict,
        Err(EngineError::Busy) => Answer::Busy,
        Err(EngineError::Invalid(_)) => Answer::Aborted,
        Err(EngineError::Draining) => Answer::Draining,
        Err(error) => panic!("a turn is refused for a reason the model does not know: {error}"),
    }
}

fn outcome(outcome: &RunOutcome) -> Outcome {
    match outcome {
        RunOutcome::Completed { .. } => Outcome::Completed,
        RunOutcome::Failed { .. } => Outcome::Failed,
        RunOutcome::Aborted { .. } => Outcome::Aborted,
        RunOutcome::TimedOut => Outcome::TimedOut,
        RunOutcome::Interrupted => Outcome::Interrupted,
    }
}

/// What a tool says whose outcome is unknown, by its first word.
fn shortened(text: &str) -> String {
    const REST: &str = ": the gateway stopped while this tool ran. Whether it took effect is not known; it was not run \
                        again.";
    text.replace(&format!("{UNKNOWN}{REST}"), UNKNOWN)
}

fn run_id(n: u8) -> RunId {
    RunId::parse(&format!("run-{n}")).unwrap()
}

fn run_number(run: &RunId) -> u8 {
    run.as_str().strip_prefix("run-").unwrap().parse().unwrap()
}

fn generation(n: u8) -> GenerationId {
    GenerationId::parse(&format!("generation-{n}")).unwrap()
}
