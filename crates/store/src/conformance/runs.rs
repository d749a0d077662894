//! Idempotency and the run journal (isolation.md C4, C5).

use watertight_core::Steward;
use watertight_core::ids::UnixMillis;
use watertight_core::run::{RunOutcome, RunState};
use watertight_core::transcript::StopReason;

use super::Fixture;
use super::world::{START, World, accepted, run, said};
use crate::StoreError;
use crate::model::{Batch, RunChange};

/// A run id is a name under tenant and principal, whatever the session.
pub async fn a_run_id_is_accepted_once_per_principal(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let input = said("one");
    let entry = input.id;
    let runs = vec![accepted("r1", &input)];
    world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");

    let caller = &world.operator.caller;
    let found = world.store.find_run(caller, &run("r1")).await.expect("a look-up").expect("the run is there");
    assert_eq!((&found.id, found.digest, found.input), (&run("r1"), [7; 32], entry));
    assert_eq!((found.principal, found.session), (caller.principal(), desk.scope.session()));
    assert_eq!((found.key.as_str(), found.state), ("agent:main:main", RunState::Queued));
    assert_eq!((found.accepted_at, found.options.thinking.as_deref()), (START, Some("high")));
    assert_eq!((found.started_at, found.ended_at, &found.outcome), (None, None, &None));

    for key in ["agent:main:main", "agent:main:other"] {
        let mut desk = world.desk(key).await;
        let again = said("again");
        let runs = vec![accepted("r1", &again)];
        let refused = world.commit(&mut desk, Batch { entries: vec![again], runs, ..Batch::default() }).await;
        assert_eq!(refused.err(), Some(StoreError::RunExists), "{key}");
    }
    assert!(world.find(caller, "agent:main:other").await.is_none(), "the refused draft left nothing");

    let other = world.tenant("other").await;
    assert!(world.store.find_run(&other.caller, &run("r1")).await.expect("a look-up").is_none());
    let mut desk = world.desk_of(&other.caller, "agent:main:main").await;
    let input = said("one");
    let runs = vec![accepted("r1", &input)];
    world
        .commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() })
        .await
        .expect("another name space");
}

/// States are kept, the start is the first claim, and the first end stays.
pub async fn a_run_moves_on_and_ends_once(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let input = said("one");
    let answer = said("two").id;
    let runs = vec![accepted("r1", &input)];
    world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");
    let claimed = desk.now;
    let mut step = async |change: RunChange| {
        let now = desk.now;
        world.commit(&mut desk, Batch { runs: vec![change], ..Batch::default() }).await.expect("stored");
        let found = world.store.find_run(&world.operator.caller, &run("r1")).await.expect("a look-up");
        (now, found.expect("the run is there"))
    };
    let (_, found) = step(RunChange::Begun { id: run("r1"), at: claimed }).await;
    assert_eq!((found.state, found.started_at), (RunState::Claimed, Some(claimed)));
    let (_, found) = step(RunChange::Begun { id: run("r1"), at: UnixMillis(claimed.0 + 1) }).await;
    assert_eq!(found.started_at, Some(claimed), "a run begins once");
    for state in [RunState::Claimed, RunState::Calling, RunState::ToolIntent, RunState::ToolResult, RunState::Calling] {
        let (_, found) = step(RunChange::Progress { id: run("r1"), state }).await;
        assert_eq!((found.state, found.started_at, &found.outcome), (state, Some(claimed), &None));
    }
    let outcome = RunOutcome::Completed { stop: StopReason::Stop, answer };
    let (ended, found) = step(RunChange::End { id: run("r1"), outcome: outcome.clone() }).await;
    assert_eq!((found.state, found.ended_at, &found.outcome), (RunState::Ended, Some(ended), &Some(outcome.clone())));
    let late = [
        RunChange::End { id: run("r1"), outcome: RunOutcome::Aborted { reason: "rpc".to_owned() } },
        RunChange::Progress { id: run("r1"), state: RunState::Calling },
    ];
    for change in late {
        let (_, found) = step(change).await;
        assert_eq!((found.ended_at, &found.outcome), (Some(ended), &Some(outcome.clone())));
    }
}

/// Moving a run that this principal never accepted in this session is refused, with everything beside it.
pub async fn a_run_that_was_never_accepted_cannot_move(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let input = said("one");
    let runs = vec![accepted("r1", &input)];
    world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");
    let mut other = world.desk("agent:main:other").await;
    for (desk, id) in [(&mut desk, "r2"), (&mut other, "r1")] {
        let runs = vec![RunChange::Begun { id: run(id), at: UnixMillis(1) }];
        let refused = world.commit(desk, Batch { entries: vec![said("two")], runs, ..Batch::default() }).await;
        assert_eq!(refused.err(), Some(StoreError::NotPermitted));
    }
    assert_eq!(world.texts(&desk).await, ["one"]);
}

/// After a restart every open run of every tenant is ended, and ended runs are left alone.
pub async fn runs_left_open_end_as_interrupted(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let other = world.tenant("other").await;
    for (caller, ids) in [(&world.operator.caller, ["open", "done"]), (&other.caller, ["open", "done"])] {
        let mut desk = world.desk_of(caller, "agent:main:main").await;
        for id in ids {
            let input = said(id);
            let runs = vec![accepted(id, &input)];
            world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");
        }
        let end = RunChange::End { id: run("done"), outcome: RunOutcome::TimedOut };
        world.commit(&mut desk, Batch { runs: vec![end], ..Batch::default() }).await.expect("stored");
    }
    let world = world.reopened(fixture).await;
    let steward = Steward::from_opened_keystore();
    let now = START.plus_millis(1000);
    assert_eq!(world.store.interrupt_open_runs(&steward, now).await, Ok(2));
    assert_eq!(world.store.interrupt_open_runs(&steward, now).await, Ok(0));
    for caller in [&world.operator.caller, &other.caller] {
        let open = world.store.find_run(caller, &run("open")).await.expect("a look-up").expect("there");
        assert_eq!((open.state, &open.outcome), (RunState::Ended, &Some(RunOutcome::Interrupted)));
        assert_eq!(open.ended_at, Some(now));
        let done = world.store.find_run(caller, &run("done")).await.expect("a look-up").expect("there");
        assert_eq!(done.outcome, Some(RunOutcome::TimedOut));
    }
}
