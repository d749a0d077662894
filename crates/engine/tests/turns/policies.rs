//! What becomes of an input whose session is at work.

use watertight_core::run::{QueuePolicy, RunOutcome};
use watertight_engine::EngineError;
use watertight_engine::event::EventKind;
use watertight_engine::hub::Interest;
use watertight_engine::request::{Disposition, TurnRequest};

use crate::world::{World, turn};

fn with(policy: QueuePolicy, run: &str, text: &str) -> TurnRequest {
    let mut request = turn("k", run, text);
    request.options.queue = policy;
    request
}

#[tokio::test]
async fn reject_is_refused_while_the_session_is_at_work_and_stores_nothing() {
    let world = World::open().await;
    let run = with(QueuePolicy::Reject, "r0", "first");
    world.engine.submit(&world.access, run, |_| {}).await.unwrap();
    world.ended("r0").await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo hang"), |_| {}).await.unwrap();
    let error = world.engine.submit(&world.access, with(QueuePolicy::Reject, "r2", "no"), |_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Busy), "{error}");
    assert_eq!(world.history("k").await.total, 3);
    let again = world.engine.submit(&world.access, with(QueuePolicy::Reject, "r0", "first"), |_| {}).await.unwrap();
    assert!(matches!(again.disposition, Disposition::Ended(_)), "a known run is answered for");
}

#[tokio::test]
async fn interrupt_ends_the_active_run_and_goes_next() {
    let world = World::open().await;
    let (sink, _listener) = world.listen(Interest::Everything);
    world.engine.submit(&world.access, turn("k", "r1", "/echo slow 100000"), |_| {}).await.unwrap();
    world.engine.submit(&world.access, turn("k", "r2", "waits"), |_| {}).await.unwrap();
    sink.wait(|event| matches!(event.kind, EventKind::Text { .. })).await;
    let accepted = world.engine.submit(&world.access, with(QueuePolicy::Interrupt, "r3", "now"), |_| {}).await.unwrap();
    assert_eq!(accepted.interrupted.as_ref().map(ToString::to_string).as_deref(), Some("r1"));
    assert_eq!(world.ended("r1").await.outcome, RunOutcome::Aborted { reason: "interrupt".into() });
    world.ended("r3").await;
    world.ended("r2").await;
    let ended: Vec<_> = sink
        .seen()
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Ended { .. }))
        .map(|event| event.run.as_ref().unwrap().0.to_string())
        .collect();
    assert_eq!(ended, ["r1", "r3", "r2"], "what was acknowledged is not dropped");
    let again = world.engine.submit(&world.access, with(QueuePolicy::Interrupt, "r3", "now"), |_| {}).await.unwrap();
    assert!(matches!(again.disposition, Disposition::Ended(_)) && again.interrupted.is_none());
}

#[tokio::test]
async fn an_interrupt_of_an_idle_session_is_a_plain_turn() {
    let world = World::open().await;
    let accepted = world.engine.submit(&world.access, with(QueuePolicy::Interrupt, "r", "hi"), |_| {}).await.unwrap();
    assert_eq!(accepted.interrupted, None);
    assert!(matches!(world.ended("r").await.outcome, RunOutcome::Completed { .. }));
}

#[tokio::test]
async fn a_steering_input_is_taken_up_before_the_next_model_call() {
    let (gate, tool) = crate::world::gated_tool("gate");
    let world = World::open_with(std::sync::Arc::new(tempfile::tempdir().unwrap()), vec![tool]).await;
    let (sink, _listener) = world.listen(Interest::Everything);
    world.engine.submit(&world.access, turn("k", "r1", "/echo tool gate"), |_| {}).await.unwrap();
    sink.wait(|event| matches!(event.kind, EventKind::ToolStarted { .. })).await;
    world.engine.submit(&world.access, turn("k", "r2", "waits its turn"), |_| {}).await.unwrap();
    world.engine.submit(&world.access, with(QueuePolicy::Steer, "r3", "/echo history"), |_| {}).await.unwrap();
    gate.notify_one();
    let (first, steering) = (world.ended("r1").await, world.ended("r3").await);
    assert_eq!(first.text, "1. /echo tool gate\n2. /echo history\n(turn 2)", "r2 has not begun");
    assert_eq!(steering.text, first.text);
    assert!(matches!(steering.outcome, RunOutcome::Completed { .. }));
    world.ended("r2").await;
    world.say_as("k", "r4", "/echo history").await;
    let ends = sink.seen().iter().filter(|event| matches!(event.kind, EventKind::Ended { .. })).count();
    assert_eq!(ends, 4, "one end for each run");
    assert_eq!(world.history("k").await.entries.len(), 9);
}

#[tokio::test]
async fn a_steering_input_that_comes_too_late_waits_its_turn() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo slow 20"), |_| {}).await.unwrap();
    world.engine.submit(&world.access, with(QueuePolicy::Steer, "r2", "hello"), |_| {}).await.unwrap();
    let report = world.ended("r2").await;
    assert!(report.text.contains("Echo: hello"), "{}", report.text);
    assert!(world.ended("r1").await.text.starts_with("word1 "));
}

#[tokio::test]
async fn aborting_a_run_that_was_taken_up_ends_the_run_it_is_part_of() {
    let (gate, tool) = crate::world::gated_tool("gate");
    let world = World::open_with(std::sync::Arc::new(tempfile::tempdir().unwrap()), vec![tool]).await;
    let (sink, _listener) = world.listen(Interest::Everything);
    world.engine.submit(&world.access, turn("k", "r1", "/echo tool gate"), |_| {}).await.unwrap();
    sink.wait(|event| matches!(event.kind, EventKind::ToolStarted { .. })).await;
    world.engine.submit(&world.access, with(QueuePolicy::Steer, "r2", "/echo slow 100000"), |_| {}).await.unwrap();
    gate.notify_one();
    sink.wait(|event| matches!(&event.kind, EventKind::Text { text, .. } if text.starts_with("word1"))).await;
    let run = watertight_core::ids::RunId::parse("r2").unwrap();
    let target = watertight_engine::request::Target::of_key("k");
    world.engine.abort(&world.access, &target, Some(&run), "rpc").await.unwrap();
    assert_eq!(world.ended("r1").await.outcome, RunOutcome::Aborted { reason: "rpc".into() });
    assert_eq!(world.ended("r2").await.outcome, RunOutcome::Aborted { reason: "rpc".into() });
}
