//! Idempotency and the run journal (isolation.md C4, C5).

use watertight_core::Steward;
use watertight_core::ids::{SessionId, UnixMillis};
use watertight_core::run::{RunOutcome, RunState};
use watertight_core::scope::readmit;
use watertight_core::transcript::StopReason;

use super::Fixture;
use super::world::{START, World, accepted, run, said};
use crate::StoreError;
use crate::model::{Batch, OpenRun, RunChange};

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

/// What a restart finds: the sessions with open runs of every tenant, the longest waiting first; ended runs are left out.
pub async fn unfinished_sessions_come_longest_waiting_first(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let other = world.tenant("other").await;
    let (mine, theirs) = (&world.operator.caller, &other.caller);
    let steward = Steward::from_opened_keystore();
    assert_eq!(world.store.unfinished(&steward).await, Ok(Vec::new()));
    let accept = async |caller, key, at: i64, id: &str| {
        let mut desk = world.desk_of(caller, key).await;
        desk.now = START.plus_millis(at);
        let input = said(id);
        let runs = vec![accepted(id, &input)];
        world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");
        desk
    };
    let young = accept(mine, "agent:main:young", 300, "r1").await;
    let old = accept(theirs, "agent:main:old", 100, "r1").await;
    let middle = accept(mine, "agent:main:middle", 200, "r2").await;
    let again = accept(theirs, "agent:main:old", 400, "r2").await;
    let mut done = accept(mine, "agent:main:done", 0, "r3").await;
    let end = RunChange::End { id: run("r3"), outcome: RunOutcome::TimedOut };
    world.commit(&mut done, Batch { runs: vec![end], ..Batch::default() }).await.expect("stored");
    assert_eq!(old.scope.session(), again.scope.session());

    let expected = [&old, &middle, &young].map(|desk| (desk.scope.tenant(), desk.scope.session()));
    let world = world.reopened(fixture).await;
    assert_eq!(world.store.unfinished(&steward).await, Ok(expected.to_vec()));
    for (tenant, session) in expected {
        let open = world.store.open_runs(&steward, tenant, session).await.expect("open runs");
        for open in open.runs {
            world.store.interrupt_run(&steward, tenant, &open.run, START.plus_millis(1000)).await.expect("ended");
        }
    }
    assert_eq!(world.store.unfinished(&steward).await, Ok(Vec::new()));
}

/// Open runs come with what core asks for to admit them anew, in the order of their inputs, whatever their ids; a scope
/// made of it goes on with the session.
pub async fn open_runs_are_admitted_anew_in_the_order_of_their_inputs(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    for id in ["zebra", "done", "ant", "mole"] {
        let input = said(id);
        let runs = vec![accepted(id, &input)];
        world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");
    }
    let runs = vec![
        RunChange::Begun { id: run("zebra"), at: START },
        RunChange::Progress { id: run("zebra"), state: RunState::ToolIntent },
        RunChange::End { id: run("done"), outcome: RunOutcome::TimedOut },
    ];
    world.commit(&mut desk, Batch { runs, ..Batch::default() }).await.expect("stored");
    let mut elsewhere = world.desk("agent:main:elsewhere").await;
    let input = said("not here");
    let runs = vec![accepted("elsewhere", &input)];
    world.commit(&mut elsewhere, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");

    let world = world.reopened(fixture).await;
    let steward = Steward::from_opened_keystore();
    let (tenant, session) = (desk.scope.tenant(), desk.scope.session());
    let open = world.store.open_runs(&steward, tenant, session).await.expect("open runs");
    assert_eq!(open.damaged, []);
    let found: Vec<_> = open.runs.iter().map(|open| (open.run.id.as_str(), open.run.state)).collect();
    assert_eq!(found, [("zebra", RunState::ToolIntent), ("ant", RunState::Queued), ("mole", RunState::Queued)]);
    for OpenRun { run, session, principal, auth_epoch, grants } in open.runs {
        assert_eq!((run.restarts, run.key.as_str()), (0, session.key().as_str()));
        let scope = readmit(&steward, &run, &session, principal, &grants, auth_epoch, START).expect("admitted");
        let mut desk = world.open(scope).await;
        let entry = world.store.entry(&desk.scope, run.input).await.expect("a look-up").expect("the input is there");
        assert_eq!(entry.body.message.text(), run.id.as_str());
        for _ in 0..2 {
            let runs = vec![RunChange::Restarted { id: run.id.clone() }];
            world.commit(&mut desk, Batch { runs, ..Batch::default() }).await.expect("stored");
        }
        let found = world.store.find_run(&world.operator.caller, &run.id).await.expect("a look-up").expect("there");
        assert_eq!((found.restarts, found.state), (2, run.state), "a restart is counted and changes nothing else");
    }
    let nobody = SessionId::from_bytes([0; 16]);
    assert!(world.store.open_runs(&steward, tenant, nobody).await.expect("open runs").runs.is_empty());
    let other = world.tenant("other").await;
    let theirs = world.store.open_runs(&steward, other.caller.tenant(), session).await.expect("open runs");
    assert!(theirs.runs.is_empty() && theirs.damaged.is_empty(), "a session is its own tenant's");
}

/// Interrupting ends an open run once; a run that is over, another tenant's and an unknown one stay as they are.
pub async fn a_run_is_interrupted_once(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let other = world.tenant("other").await;
    let steward = Steward::from_opened_keystore();
    let mut open = Vec::new();
    for caller in [&world.operator.caller, &other.caller] {
        let mut desk = world.desk_of(caller, "agent:main:main").await;
        let input = said("one");
        let runs = vec![accepted("r1", &input)];
        world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.expect("stored");
        open.push((desk, world.store.find_run(caller, &run("r1")).await.expect("a look-up").expect("there")));
    }
    let (desk, found) = open.remove(0);
    let now = START.plus_millis(1000);
    for at in [now, now.plus_millis(1)] {
        world.store.interrupt_run(&steward, desk.scope.tenant(), &found, at).await.expect("ended");
        let found = world.store.find_run(&world.operator.caller, &run("r1")).await.expect("a look-up").expect("there");
        assert_eq!((found.state, &found.outcome), (RunState::Ended, &Some(RunOutcome::Interrupted)));
        assert_eq!(found.ended_at, Some(now));
    }
    let (desk, theirs) = open.remove(0);
    world.store.interrupt_run(&steward, desk.scope.tenant(), &found, now).await.expect("nothing to do");
    let still = world.store.find_run(&other.caller, &theirs.id).await.expect("a look-up").expect("there");
    assert_eq!(still.state, RunState::Queued);
}
