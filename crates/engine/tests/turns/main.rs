//! Turns over the real store and the built-in echo model.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod policies;
mod recovery;
mod world;

use std::time::Duration;

use watertight_core::grant::{Verb, VerbSet};
use watertight_core::ids::{GenerationId, RunId};
use watertight_core::run::{FailureKind, RunOptions, RunOutcome};
use watertight_core::transcript::{Message, StopReason};
use watertight_engine::EngineError;
use watertight_engine::event::EventKind;
use watertight_engine::hub::Interest;
use watertight_engine::request::{Disposition, GenerationChoice, Selector, Target};
use watertight_engine::state_dir::StateDir;
use world::{World, turn};

fn generation(id: &str) -> GenerationId {
    GenerationId::parse(id).unwrap()
}

#[tokio::test]
async fn a_turn_is_answered_and_remembered() {
    let world = World::open().await;
    let report = world.say("agent:main:a", "hello there").await;
    assert!(report.text.contains("Echo: hello there"), "{}", report.text);
    assert!(matches!(report.outcome, RunOutcome::Completed { stop: StopReason::Stop, .. }));
    let history = world.history("agent:main:a").await;
    assert_eq!(history.total, 2);
    assert_eq!(history.entries[0].body.message.text(), "hello there");
    assert_eq!(history.entries[1].body.message.text(), report.text);
    assert!(!history.has_more);
}

#[tokio::test]
async fn a_bare_key_names_the_same_session_as_its_full_form() {
    let world = World::open().await;
    world.say("incident-42", "one").await;
    assert_eq!(world.history("agent:main:incident-42").await.total, 2);
}

#[tokio::test]
async fn the_same_run_id_runs_once() {
    let world = World::open().await;
    let first = world.engine.submit(&world.access, turn("k", "r1", "/echo slow 3"), |_| {}).await.unwrap();
    assert!(matches!(first.disposition, Disposition::Started));
    let again = world.engine.submit(&world.access, turn("k", "r1", "/echo slow 3"), |_| {}).await.unwrap();
    assert!(matches!(again.disposition, Disposition::InFlight));
    let report = world.ended("r1").await;
    let after = world.engine.submit(&world.access, turn("k", "r1", "/echo slow 3"), |_| {}).await.unwrap();
    let Disposition::Ended(stored) = after.disposition else { panic!("{:?}", after.disposition) };
    assert_eq!(stored.text, report.text);
    assert_eq!(world.history("k").await.total, 2, "the input and its answer stand once");
}

#[tokio::test]
async fn a_run_id_used_for_another_request_is_a_conflict() {
    let world = World::open().await;
    world.say_as("k", "r1", "one").await;
    for other in [turn("k", "r1", "two"), turn("other", "r1", "one")] {
        let error = world.engine.submit(&world.access, other, |_| {}).await.unwrap_err();
        assert!(matches!(error, EngineError::RunConflict), "{error}");
    }
    assert_eq!(world.history("other").await.total, 0, "a refused first turn leaves no session behind");
    assert!(world.engine.describe(&world.access, &Target::of_key("other")).await.unwrap().is_none());
}

#[tokio::test]
async fn concurrent_turns_of_one_session_run_in_the_order_of_their_acknowledgement() {
    let world = World::open().await;
    let mut acknowledged = Vec::new();
    for n in 0..10 {
        let run = format!("r{n}");
        acknowledged.push(world.engine.submit(&world.access, turn("k", &run, &format!("m{n}")), |_| {}).await.unwrap());
    }
    for n in 0..10 {
        let report = world.ended(&format!("r{n}")).await;
        assert!(report.text.contains(&format!("m{n}")), "{}", report.text);
        assert!(report.text.contains(&format!("(turn {})", n + 1)), "{}", report.text);
    }
    let seqs: Vec<_> = acknowledged.iter().map(|accepted| accepted.message_seq.unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
}

#[tokio::test]
async fn a_busy_session_does_not_hold_up_another() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("slow", "r1", "/echo hang"), |_| {}).await.unwrap();
    world.say("fast", "hi").await;
    let aborted = world.engine.abort(&world.access, &Target::of_key("slow"), None, "rpc").await.unwrap();
    assert_eq!(aborted.runs, [RunId::parse("r1").unwrap()]);
}

#[tokio::test]
async fn two_first_turns_of_one_key_make_one_session() {
    for _ in 0..20 {
        let world = World::open().await;
        let (a, b) = tokio::join!(
            world.engine.submit(&world.access, turn("k", "a", "one"), |_| {}),
            world.engine.submit(&world.access, turn("k", "b", "two"), |_| {}),
        );
        assert_eq!(a.unwrap().generation, b.unwrap().generation);
        world.ended("a").await;
        world.ended("b").await;
        assert_eq!(world.history("k").await.total, 4);
    }
}

#[tokio::test]
async fn a_restart_keeps_the_conversation() {
    let world = World::open().await;
    let before = world.say_as("k", "r1", "remember me").await;
    let world = world.restarted().await;
    let history = world.history("k").await;
    assert_eq!(history.entries[1].body.message.text(), before.text);
    let report = world.say("k", "/echo history").await;
    assert!(report.text.contains("remember me"), "{}", report.text);
    let known = world.ended("r1").await;
    assert_eq!(known.text, before.text, "a run of the former process is still answered for");
}

#[tokio::test]
async fn an_abort_keeps_what_was_said_and_is_announced_before_it_is_answered() {
    let world = World::open().await;
    let (sink, _listener) = world.listen(Interest::Everything);
    world.engine.submit(&world.access, turn("k", "r1", "/echo slow 1000"), |_| {}).await.unwrap();
    sink.wait(|event| matches!(event.kind, EventKind::Text { .. })).await;
    let aborted = world.engine.abort(&world.access, &Target::of_key("k"), None, "rpc").await.unwrap();
    assert_eq!(aborted.runs.len(), 1);
    let ended = sink.seen().into_iter().find_map(|event| match &event.kind {
        EventKind::Ended { report, .. } => Some(report.clone()),
        _ => None,
    });
    let report = ended.expect("the end was published before the abort returned");
    assert!(matches!(&report.outcome, RunOutcome::Aborted { reason } if reason == "rpc"));
    let history = world.history("k").await;
    let last = &history.entries.last().unwrap().body.message;
    assert!(matches!(last, Message::Assistant { stop: StopReason::Aborted, .. }), "{last:?}");
    assert!(!last.text().is_empty() && report.text == last.text());
    world.say("k", "still works").await;
}

#[tokio::test]
async fn a_waiting_turn_can_be_aborted_alone() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo hang"), |_| {}).await.unwrap();
    world.engine.submit(&world.access, turn("k", "r2", "never runs"), |_| {}).await.unwrap();
    let run = RunId::parse("r2").unwrap();
    let aborted = world.engine.abort(&world.access, &Target::of_key("k"), Some(&run), "rpc").await.unwrap();
    assert_eq!(aborted.runs, [run]);
    assert!(matches!(world.ended("r2").await.outcome, RunOutcome::Aborted { .. }));
    let view = world.engine.describe(&world.access, &Target::of_key("k")).await.unwrap().unwrap();
    assert_eq!(view.active_runs, [RunId::parse("r1").unwrap()]);
}

#[tokio::test]
async fn tools_run_and_their_results_are_remembered() {
    let world = World::open().await;
    let (sink, _listener) = world.listen(Interest::Everything);
    let report = world.say("agent:main:t", "/echo tool session_info {}").await;
    assert!(report.text.contains("agent:main:t"), "{}", report.text);
    let roles: Vec<_> = world.history("agent:main:t").await.entries.iter().map(|e| e.body.message.role()).collect();
    use watertight_core::transcript::Role;
    assert_eq!(roles, [Role::User, Role::Assistant, Role::ToolResult, Role::Assistant]);
    let kinds: Vec<_> = sink.seen().iter().map(|event| world::name(&event.kind)).collect();
    let position = |name| kinds.iter().position(|kind| *kind == name).unwrap_or_else(|| panic!("{name} in {kinds:?}"));
    assert!(position("tool-started") < position("tool-ended") && position("tool-ended") < position("ended"));
}

#[tokio::test]
async fn an_unknown_tool_is_the_models_to_handle() {
    let world = World::open().await;
    let report = world.say("k", "/echo tool no_such_tool {}").await;
    assert!(matches!(report.outcome, RunOutcome::Completed { .. }), "{:?}", report.outcome);
    assert!(report.text.contains("no tool named"), "{}", report.text);
}

#[tokio::test]
async fn a_failing_provider_ends_the_run_and_not_the_session() {
    let world = World::open().await;
    let report = world.say("k", "/echo fail rate_limit").await;
    assert!(matches!(report.outcome, RunOutcome::Failed { kind: FailureKind::RateLimit, .. }), "{:?}", report.outcome);
    let report = world.say("k", "/echo die").await;
    assert!(matches!(report.outcome, RunOutcome::Failed { .. }));
    assert!(!report.text.is_empty(), "what had arrived is kept");
    world.say("k", "fine again").await;
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_ended() {
    let world = World::open().await;
    let mut request = turn("k", "r1", "/echo hang");
    request.options = RunOptions { timeout_ms: Some(50), ..RunOptions::default() };
    world.engine.submit(&world.access, request, |_| {}).await.unwrap();
    assert_eq!(world.ended("r1").await.outcome, RunOutcome::TimedOut);
}

#[tokio::test]
async fn a_named_generation_is_made_live_and_can_be_gone_back_to() {
    let world = World::open().await;
    let first = world.say_as("k", "r1", "in the first").await.generation.clone();
    let mut request = turn("k", "r2", "in the second");
    request.target.generation = GenerationChoice::MakeLive(generation("second"));
    world.engine.submit(&world.access, request, |_| {}).await.unwrap();
    let report = world.ended("r2").await;
    assert_eq!(report.generation, generation("second"));
    let history = world.history("k").await;
    assert_eq!((history.total, history.session.generation.clone()), (2, Some(generation("second"))));
    assert_eq!(history.session.meta.previous_generation, Some(first.clone()));

    let mut request = turn("k", "r3", "/echo history");
    request.target.generation = GenerationChoice::MakeLive(first.clone());
    world.engine.submit(&world.access, request, |_| {}).await.unwrap();
    let report = world.ended("r3").await;
    assert!(report.text.contains("in the first") && !report.text.contains("in the second"), "{}", report.text);
    assert_eq!(world.history("k").await.total, 4);

    let live = Selector::Generation(first);
    let found = world.engine.find(&world.access, &live, None).await.unwrap().unwrap();
    assert_eq!(found.key.as_str(), "agent:main:k");
    let rotated = Selector::Generation(generation("second"));
    assert!(world.engine.find(&world.access, &rotated, None).await.unwrap().is_none());
}

#[tokio::test]
async fn a_switch_waits_until_the_session_is_quiet() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo slow 3"), |_| {}).await.unwrap();
    let mut request = turn("k", "r2", "second");
    request.target.generation = GenerationChoice::MakeLive(generation("b"));
    let switched = world.engine.submit(&world.access, request, |_| {}).await.unwrap();
    assert_eq!(switched.generation, generation("b"));
    let first = world.ended("r1").await;
    assert!(matches!(first.outcome, RunOutcome::Completed { .. }) && first.generation != switched.generation);
    world.ended("r2").await;
}

#[tokio::test]
async fn an_expected_generation_that_is_not_live_refuses_the_turn() {
    let world = World::open().await;
    let live = world.say("k", "one").await.generation.clone();
    let mut request = turn("k", "r2", "two");
    request.expect_generation = Some(generation("elsewhere"));
    let error = world.engine.submit(&world.access, request.clone(), |_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Changed(_)), "{error}");
    request.expect_generation = Some(live);
    world.engine.submit(&world.access, request, |_| {}).await.unwrap();
    world.ended("r2").await;
}

#[tokio::test]
async fn events_are_gap_free_and_deltas_add_up() {
    let world = World::open().await;
    let (sink, _listener) = world.listen(Interest::Everything);
    let report = world.say_as("k", "r1", "/echo slow 4").await;
    let events = sink.seen();
    let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let mut said = String::new();
    for event in &events {
        if let EventKind::Text { delta, text } = &event.kind {
            said.push_str(delta);
            assert_eq!(**text, *said);
        }
    }
    assert_eq!(said, report.text);
    let ends = events.iter().filter(|event| matches!(event.kind, EventKind::Ended { .. })).count();
    assert_eq!(ends, 1);
    let kinds: Vec<_> = events.iter().map(|event| world::name(&event.kind)).collect();
    assert_eq!(kinds[..3], ["changed", "entry", "started"], "a new session, its input, its run");
}

#[tokio::test]
async fn the_acknowledgement_comes_before_the_first_event() {
    let world = World::open().await;
    let (sink, _listener) = world.listen(Interest::Everything);
    let (tell, told) = tokio::sync::oneshot::channel();
    let watch = sink.clone();
    let acknowledge = move |_: &_| {
        let _ = tell.send(watch.seen().len());
    };
    world.engine.submit(&world.access, turn("k", "r1", "hi"), acknowledge).await.unwrap();
    assert_eq!(told.await.unwrap(), 0);
    world.ended("r1").await;
    assert!(!sink.seen().is_empty());
}

#[tokio::test]
async fn a_listener_of_watched_sessions_hears_only_those() {
    let world = World::open().await;
    let (sink, listener) = world.listen(Interest::Watched);
    let wanted = world.engine.resolve_key(&world.access, "wanted", None).unwrap();
    assert!(listener.watch(&wanted));
    world.say("other", "hi").await;
    world.say("wanted", "hi").await;
    assert!(!sink.seen().is_empty());
    assert!(sink.seen().iter().all(|event| event.key == wanted));
    let heard = sink.seen().len();
    listener.unwatch(&wanted);
    world.say("wanted", "again").await;
    assert_eq!(sink.seen().len(), heard);
}

#[tokio::test]
async fn a_caller_without_read_hears_and_reads_nothing() {
    let world = World::open().await;
    world.say("k", "secret").await;
    let nobody = world.access_with(VerbSet::NONE).await;
    let (sink, _listener) = world.listen_as(&nobody, Interest::Everything);
    world.say("k", "more").await;
    assert!(sink.seen().is_empty());
    let target = Target::of_key("k");
    // As a session that is not there.
    assert!(matches!(world.engine.describe(&nobody, &target).await, Err(EngineError::NoSession(_))));
    let read = world.engine.history(&nobody, &target, world::page()).await;
    assert!(matches!(read, Err(EngineError::NoSession(_))));
    assert_eq!(world.engine.list(&nobody, Default::default()).await.unwrap().total, 0);
    let reader = world.access_with([Verb::Read].into_iter().collect()).await;
    assert_eq!(world.engine.history(&reader, &target, world::page()).await.unwrap().total, 4);
    let error = world.engine.submit(&reader, turn("k", "r9", "no"), |_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::NoSession(_)), "{error}");
}

#[tokio::test]
async fn a_full_queue_refuses_and_loses_nothing() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r", "/echo hang"), |_| {}).await.unwrap();
    let mut refused = 0;
    for n in 0..40 {
        match world.engine.submit(&world.access, turn("k", &format!("r{n}"), "x"), |_| {}).await {
            Ok(_) => {}
            Err(EngineError::QueueFull(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 8, "32 wait");
    let run = RunId::parse("r").unwrap();
    world.engine.abort(&world.access, &Target::of_key("k"), Some(&run), "rpc").await.unwrap();
    for n in 0..32 {
        world.ended(&format!("r{n}")).await;
    }
}

#[tokio::test]
async fn a_drain_takes_no_new_runs_and_interrupts_what_does_not_end() {
    let world = World::open().await;
    world.say_as("k", "done", "one").await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo hang"), |_| {}).await.unwrap();
    world.engine.submit(&world.access, turn("k", "r2", "waits"), |_| {}).await.unwrap();
    world.engine.refuse_runs();
    let error = world.engine.submit(&world.access, turn("k", "r3", "late"), |_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Draining), "{error}");
    let known = world.engine.submit(&world.access, turn("k", "done", "one"), |_| {}).await.unwrap();
    assert!(matches!(known.disposition, Disposition::Ended(_)), "a known run is still answered for");
    let world = world.restarted().await;
    assert_eq!(world.ended("r1").await.outcome, RunOutcome::Interrupted);
    assert_eq!(world.engine.unfinished_sessions(), 1, "what waited stays in the journal");
    world.say("k", "goes on").await;
    assert!(matches!(world.ended("r2").await.outcome, RunOutcome::Completed { .. }));
}

#[tokio::test]
async fn an_unknown_model_is_refused_before_anything_is_written() {
    let world = World::open().await;
    let mut request = turn("k", "r1", "hi");
    request.options.model = Some("nope/nothing".into());
    let error = world.engine.submit(&world.access, request, |_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::UnknownModel(_)), "{error}");
    assert!(world.engine.describe(&world.access, &Target::of_key("k")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_credential_is_refused() {
    use watertight_engine::admission::{AuthFailure, Presented};
    let world = World::open().await;
    for wrong in ["", "nope", "wto_0123456789abcdef_00_00"] {
        let refused = world.engine.authenticate(Presented::Secret(wrong), None).await.unwrap_err();
        assert_eq!(refused, AuthFailure::Mismatch, "{wrong:?}");
    }
    let refused = world.engine.authenticate(Presented::Nothing, None).await.unwrap_err();
    assert_eq!(refused, AuthFailure::Missing);
}

#[tokio::test]
async fn waiting_for_a_run_nobody_knows_ends_with_the_limit() {
    let world = World::open().await;
    let run = RunId::parse("nobody").unwrap();
    let waited = world.engine.wait(&world.access, &run, Some(Duration::from_millis(20))).await.unwrap();
    assert!(waited.is_none());
}

#[tokio::test]
async fn a_waiter_may_come_before_the_run() {
    let world = World::open().await;
    let run = RunId::parse("early").unwrap();
    let (waited, _) = tokio::join!(world.engine.wait(&world.access, &run, Some(Duration::from_secs(20))), async {
        tokio::task::yield_now().await;
        world.engine.submit(&world.access, turn("k", "early", "hi"), |_| {}).await.unwrap()
    },);
    assert!(waited.unwrap().unwrap().text.contains("hi"));
}

#[tokio::test]
async fn sessions_are_listed_latest_first_and_in_pages() {
    let world = World::open().await;
    for key in ["a", "b", "c"] {
        world.say(key, "hi").await;
    }
    let filter = |limit, offset| watertight_engine::engine::SessionFilter { limit, offset, ..Default::default() };
    let page = world.engine.list(&world.access, filter(2, 0)).await.unwrap();
    assert_eq!((page.total, page.sessions.len()), (3, 2));
    let rest = world.engine.list(&world.access, filter(2, 2)).await.unwrap();
    assert_eq!(rest.sessions.len(), 1);
    let newest = &page.sessions[0];
    assert!(page.sessions.iter().chain(&rest.sessions).all(|view| view.updated_at <= newest.updated_at));
}

#[tokio::test]
async fn large_inputs_behind_a_turn_do_not_push_it_out_of_its_own_prompt() {
    let world = World::open().await;
    let large = "x".repeat(5 * 1024 * 1024);
    world.engine.submit(&world.access, turn("k", "r1", "/echo slow 2"), |_| {}).await.unwrap();
    for n in 2..5 {
        world.engine.submit(&world.access, turn("k", &format!("r{n}"), &format!("{n} {large}")), |_| {}).await.unwrap();
    }
    for n in 2..5 {
        let report = world.ended(&format!("r{n}")).await;
        assert!(
            report.text.starts_with(&format!("Echo: {n} ")),
            "{}",
            report.text.chars().take(40).collect::<String>()
        );
    }
}

#[tokio::test]
async fn a_repeated_request_hears_of_its_run_whatever_stands_in_the_way_of_a_new_one() {
    let world = World::open().await;
    let mut first = turn("k", "r0", "/echo hang");
    first.target.generation = GenerationChoice::NamesNew(generation("first"));
    first.expect_generation = Some(generation("first"));
    let repeat = first.clone();
    first.expect_generation = None;
    world.engine.submit(&world.access, first, |_| {}).await.unwrap();
    for n in 1..=32 {
        world.engine.submit(&world.access, turn("k", &format!("r{n}"), "x"), |_| {}).await.unwrap();
    }
    let again = world.engine.submit(&world.access, repeat, |_| {}).await.unwrap();
    assert!(matches!(again.disposition, Disposition::InFlight), "not a full queue");
    let again = world.engine.submit(&world.access, turn("k", "r9", "x"), |_| {}).await.unwrap();
    assert!(matches!(again.disposition, Disposition::InFlight));
    let mut unknown_model = turn("k", "r9", "x");
    unknown_model.options.model = Some("no/such".into());
    let again = world.engine.submit(&world.access, unknown_model, |_| {}).await.unwrap();
    assert!(matches!(again.disposition, Disposition::InFlight));
}

#[tokio::test]
async fn an_expected_generation_counts_when_the_turn_is_let_in() {
    let world = World::open().await;
    let mut first = turn("k", "r1", "/echo slow 20");
    first.target.generation = GenerationChoice::NamesNew(generation("a"));
    world.engine.submit(&world.access, first, |_| {}).await.unwrap();
    let mut switching = turn("k", "r2", "second");
    switching.target.generation = GenerationChoice::MakeLive(generation("b"));
    let mut expects_the_old = turn("k", "r3", "third");
    expects_the_old.expect_generation = Some(generation("a"));
    let (switched, refused) = tokio::join!(world.engine.submit(&world.access, switching, |_| {}), async {
        world.until_waiting("k", "r2").await;
        world.engine.submit(&world.access, expects_the_old, |_| {}).await
    });
    assert_eq!(switched.unwrap().generation, generation("b"));
    assert!(matches!(refused.unwrap_err(), EngineError::Changed(_)));
}

#[tokio::test]
async fn an_abort_of_everything_reaches_turns_that_wait_to_be_accepted() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo hang"), |_| {}).await.unwrap();
    let mut switching = turn("k", "r2", "second");
    switching.target.generation = GenerationChoice::MakeLive(generation("b"));
    let (refused, aborted) = tokio::join!(world.engine.submit(&world.access, switching, |_| {}), async {
        world.until_waiting("k", "r2").await;
        world.engine.abort(&world.access, &Target::of_key("k"), None, "rpc").await
    });
    assert_eq!(aborted.unwrap().runs, [RunId::parse("r1").unwrap(), RunId::parse("r2").unwrap()]);
    assert!(matches!(refused.unwrap_err(), EngineError::Invalid(_)));
    assert_eq!(world.history("k").await.total, 1, "the refused input was not stored");
}

#[tokio::test]
async fn a_drain_lets_no_waiting_turn_in() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo hang"), |_| {}).await.unwrap();
    let mut switching = turn("k", "r2", "second");
    switching.target.generation = GenerationChoice::MakeLive(generation("b"));
    let (refused, ()) = tokio::join!(world.engine.submit(&world.access, switching, |_| {}), async {
        world.until_waiting("k", "r2").await;
        world.engine.drain(Duration::ZERO).await;
    });
    assert!(matches!(refused.unwrap_err(), EngineError::Draining));
}

#[tokio::test]
async fn a_drained_engine_no_longer_announces_an_address() {
    let world = World::open().await;
    let state_dir = world.engine.state_dir();
    state_dir.announce("127.0.0.1:1".parse().unwrap(), None).unwrap();
    world.engine.drain(Duration::ZERO).await;
    assert_eq!(StateDir::holder(state_dir.path()).unwrap().address, None);
}

#[tokio::test]
async fn a_narrowed_connection_does_not_hear_how_a_run_ended() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo slow 2"), |_| {}).await.unwrap();
    let nobody = world.access_with(VerbSet::NONE).await;
    let run = RunId::parse("r1").unwrap();
    let (heard, own) = tokio::join!(world.engine.wait(&nobody, &run, Some(Duration::from_secs(2))), world.ended("r1"));
    assert!(heard.unwrap().is_none());
    assert!(!own.text.is_empty());
    assert!(world.engine.wait(&nobody, &run, Some(Duration::ZERO)).await.unwrap().is_none(), "nor from the store");
}

#[tokio::test]
async fn a_listener_may_widen_its_interest() {
    let world = World::open().await;
    let (sink, listener) = world.listen(Interest::Watched);
    world.say("k", "unheard").await;
    assert!(sink.seen().is_empty());
    listener.hear_everything();
    world.say("k", "heard").await;
    assert!(!sink.seen().is_empty());
}

#[tokio::test]
async fn an_ordered_turn_is_taken_before_it_is_acknowledged() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo hang"), |_| {}).await.unwrap();
    let mut switching = turn("k", "r2", "second");
    switching.target.generation = GenerationChoice::MakeLive(generation("b"));
    let (tell, taken) = tokio::sync::oneshot::channel();
    let take = move || {
        let _ = tell.send(());
    };
    let (refused, aborted) =
        tokio::join!(world.engine.submit_in_order(&world.access, switching, take, |_| {}), async {
            taken.await.unwrap();
            world.engine.abort(&world.access, &Target::of_key("k"), None, "rpc").await.unwrap()
        });
    assert_eq!(aborted.runs.len(), 2, "what is asked after the turn was taken reaches it");
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_stored_report_tells_the_same_times_as_the_live_one() {
    let world = World::open().await;
    world.engine.submit(&world.access, turn("k", "r1", "/echo slow 2"), |_| {}).await.unwrap();
    world.engine.submit(&world.access, turn("k", "r2", "waits first"), |_| {}).await.unwrap();
    let live = world.ended("r2").await;
    let again = world.engine.submit(&world.access, turn("k", "r2", "waits first"), |_| {}).await.unwrap();
    let Disposition::Ended(stored) = again.disposition else { panic!("{:?}", again.disposition) };
    assert_eq!((stored.started_at, stored.ended_at), (live.started_at, live.ended_at));
    assert!(live.started_at > again.at, "it waited before it began");
}
