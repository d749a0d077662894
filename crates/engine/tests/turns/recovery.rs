//! What becomes of runs whose process died (isolation.md C5).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use watertight_core::run::{QueuePolicy, RunOutcome};
use watertight_core::session::SessionStatus;
use watertight_core::transcript::Message;
use watertight_engine::event::EventKind;
use watertight_engine::hub::Interest;
use watertight_engine::request::{Disposition, Target};
use watertight_engine::tools::{Tool, ToolContext, ToolFuture};
use watertight_provider::ToolSpec;

use crate::world::{World, gated_tool, turn};

/// A tool that never comes back until it is let, and counts how often it was started.
#[derive(Clone)]
struct Press {
    name: &'static str,
    idempotent: bool,
    stuck: bool,
    starts: Arc<AtomicU32>,
    started: Arc<Notify>,
}

impl Press {
    fn new(name: &'static str, idempotent: bool) -> Self {
        Self { name, idempotent, stuck: true, starts: Arc::default(), started: Arc::default() }
    }

    fn free(&self) -> Self {
        Self { stuck: false, ..self.clone() }
    }

    fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }
}

impl Tool for Press {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: self.name.into(), description: "Presses.".into(), parameters: json!({"type": "object"}) }
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    fn run(&self, _: ToolContext, _: Value) -> ToolFuture {
        self.starts.fetch_add(1, Ordering::SeqCst);
        self.started.notify_one();
        let stuck = self.stuck;
        let done: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            if stuck {
                std::future::pending::<()>().await;
            }
            Ok("pressed".to_owned())
        });
        done
    }
}

fn tools(presses: &[&Press]) -> Vec<Box<dyn Tool>> {
    presses.iter().map(|press| Box::new((*press).clone()) as Box<dyn Tool>).collect()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs `life` in a process that dies where it then stands: every task is dropped, nothing is drained or closed.
fn died<T>(life: impl Future<Output = T>) -> T {
    let runtime = runtime();
    let left = runtime.block_on(life);
    runtime.shutdown_timeout(Duration::from_secs(30));
    left
}

#[test]
fn runs_that_had_done_nothing_lasting_start_anew_in_their_order() {
    let dir = died(async {
        let world = World::open().await;
        let (sink, _listener) = world.listen(Interest::Everything);
        world.engine.submit(&world.access, turn("k", "r1", "/echo slow 20"), |_| {}).await.unwrap();
        world.engine.submit(&world.access, turn("k", "r2", "second"), |_| {}).await.unwrap();
        world.engine.submit(&world.access, turn("other", "r3", "/echo hang"), |_| {}).await.unwrap();
        sink.wait(|event| matches!(event.kind, EventKind::Text { .. })).await;
        world.dir.clone()
    });
    runtime().block_on(async {
        let world = World::open_in(dir).await;
        assert_eq!(world.engine.unfinished_sessions(), 2);
        let view = world.engine.describe(&world.access, &Target::of_key("k")).await.unwrap().unwrap();
        assert_ne!(view.meta.status, SessionStatus::Failed, "it is going to go on");
        let (sink, _listener) = world.listen(Interest::Everything);
        world.engine.recover();
        assert!(matches!(world.ended("r1").await.outcome, RunOutcome::Completed { .. }));
        assert!(matches!(world.ended("r2").await.outcome, RunOutcome::Completed { .. }));
        let order: Vec<_> = sink
            .seen()
            .iter()
            .filter(|event| matches!(event.kind, EventKind::Ended { .. }))
            .map(|event| event.run.as_ref().unwrap().0.to_string())
            .collect();
        assert_eq!(order, ["r1", "r2"]);
        let texts: Vec<_> = world.history("k").await.entries.iter().map(|entry| entry.body.message.text()).collect();
        assert_eq!(texts.len(), 4, "nothing is doubled: {texts:?}");
        assert!(texts[2].starts_with("word1 ") && texts[3].contains("second"), "{texts:?}");
        world.until_waiting("other", "r3").await;
        let known = world.engine.submit(&world.access, turn("other", "r3", "/echo hang"), |_| {}).await.unwrap();
        assert!(matches!(known.disposition, Disposition::InFlight), "a client that asks again finds its run");
        assert!(known.receipt.is_some());
    });
}

#[test]
fn a_turn_that_comes_before_the_waking_stands_behind_what_was_left() {
    let dir = died(async {
        let world = World::open().await;
        world.engine.submit(&world.access, turn("k", "r1", "/echo slow 5"), |_| {}).await.unwrap();
        world.dir.clone()
    });
    runtime().block_on(async {
        let world = World::open_in(dir).await;
        // Nobody calls recover.
        world.say_as("k", "r2", "/echo history").await;
        assert!(matches!(world.ended("r1").await.outcome, RunOutcome::Completed { .. }));
        let history = world.history("k").await.entries;
        assert_eq!(history.len(), 4);
        assert!(history[3].body.message.text().starts_with("1. /echo slow 5\n2. /echo history"));
        assert_eq!(world.engine.unfinished_sessions(), 0);
    });
}

#[test]
fn a_tool_with_effects_and_no_result_is_never_run_again() {
    let (bomb, clock) = (Press::new("bomb", false), Press::new("clock", true));
    let dir = died(async {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let world = World::open_with(dir.clone(), tools(&[&bomb, &clock])).await;
        world.engine.submit(&world.access, turn("a", "r1", "/echo tools time bomb"), |_| {}).await.unwrap();
        world.engine.submit(&world.access, turn("b", "r2", "/echo tool clock"), |_| {}).await.unwrap();
        bomb.started.notified().await;
        clock.started.notified().await;
        dir
    });
    runtime().block_on(async {
        let world = World::open_with(dir, tools(&[&bomb.free(), &clock.free()])).await;
        world.engine.recover();
        let report = world.ended("r1").await;
        assert!(matches!(report.outcome, RunOutcome::Completed { .. }), "{:?}", report.outcome);
        assert!(report.text.contains("bomb failed: unknown_outcome"), "the model is told: {}", report.text);
        assert_eq!(bomb.starts(), 1);
        let entries = world.history("a").await.entries;
        let results: Vec<_> = entries
            .iter()
            .filter_map(|entry| match &entry.body.message {
                Message::ToolResult { tool, is_error, .. } => Some((tool.as_str(), *is_error)),
                _ => None,
            })
            .collect();
        assert_eq!(results, [("time", false), ("bomb", true)], "the first round is not repeated");

        let report = world.ended("r2").await;
        assert!(report.text.contains("clock said: pressed"), "{}", report.text);
        assert_eq!(clock.starts(), 2, "what does no harm is run again");
    });
}

#[test]
fn a_run_that_ends_the_process_each_time_is_given_up() {
    let mut dir = died(async {
        let world = World::open().await;
        let (sink, _listener) = world.listen(Interest::Everything);
        world.engine.submit(&world.access, turn("k", "r1", "/echo slow 4000"), |_| {}).await.unwrap();
        world.engine.submit(&world.access, turn("k", "r2", "behind it"), |_| {}).await.unwrap();
        sink.wait(|event| matches!(event.kind, EventKind::Text { .. })).await;
        world.dir.clone()
    });
    for _ in 0..3 {
        dir = died(async {
            let world = World::open_in(dir).await;
            let (sink, _listener) = world.listen(Interest::Everything);
            world.engine.recover();
            sink.wait(|event| matches!(event.kind, EventKind::Text { .. })).await;
            world.dir.clone()
        });
    }
    runtime().block_on(async {
        let world = World::open_in(dir).await;
        world.engine.recover();
        assert_eq!(world.ended("r1").await.outcome, RunOutcome::Interrupted);
        assert!(matches!(world.ended("r2").await.outcome, RunOutcome::Completed { .. }), "what waited goes on");
    });
}

#[test]
fn an_input_that_was_taken_up_stays_taken_up() {
    let press = Press::new("press", true);
    let dir = died(async {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let (gate, gated) = gated_tool("gate");
        let mut tools = tools(&[&press]);
        tools.push(gated);
        let world = World::open_with(dir.clone(), tools).await;
        world.engine.submit(&world.access, turn("k", "r1", "/echo tool gate"), |_| {}).await.unwrap();
        let mut steer = turn("k", "r2", "/echo tool press");
        steer.options.queue = QueuePolicy::Steer;
        world.engine.submit(&world.access, steer, |_| {}).await.unwrap();
        world.engine.submit(&world.access, turn("k", "r3", "/echo history"), |_| {}).await.unwrap();
        gate.notify_one();
        press.started.notified().await;
        dir
    });
    runtime().block_on(async {
        let world = World::open_with(dir, tools(&[&press.free()])).await;
        world.engine.recover();
        let (first, second) = (world.ended("r1").await, world.ended("r2").await);
        assert_eq!(first.text, second.text, "one answer to both");
        assert!(first.text.starts_with("press said: pressed"), "{}", first.text);
        assert!(world.ended("r3").await.text.starts_with("1. /echo tool gate\n2. /echo tool press\n3. "));
        let roles: Vec<_> = world.history("k").await.entries.iter().map(|entry| entry.body.message.role()).collect();
        assert_eq!(roles.len(), 9, "three inputs, two calls with results, two answers: {roles:?}");
    });
}
