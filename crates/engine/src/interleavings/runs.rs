//! Whoever waits for a run learns of its end, whenever it begins and ends.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;
use watertight_core::ids::{GenerationId, PrincipalId, RunId, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_core::run::RunOutcome;
use watertight_core::transcript::Usage;
use watertight_testkit::scope::tenant;

use super::{block_on, explore};
use crate::report::RunReport;
use crate::runs::{RunSpace, Runs};
use crate::sync::lock;

fn space() -> RunSpace {
    (tenant(1), PrincipalId::from_bytes([1; 16]))
}

fn run() -> RunId {
    RunId::parse("r").unwrap()
}

fn report() -> Arc<RunReport> {
    Arc::new(RunReport {
        run: run(),
        key: CanonicalKey::from_stored("agent:main:k"),
        agent: "main".into(),
        generation: GenerationId::parse("g").unwrap(),
        outcome: RunOutcome::TimedOut,
        text: String::new(),
        model: None,
        provider_status: None,
        usage: Usage::default(),
        last_usage: Usage::default(),
        started_at: UnixMillis(0),
        ended_at: UnixMillis(0),
        receipt: None,
    })
}

/// What the store says of the run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    None,
    Open,
    Ended,
}

/// As `Engine::wait`, without its time limits: the run's beginning and end must be enough to wake it.
async fn wait(runs: &Runs, store: &Mutex<Row>) {
    let expecting = runs.expect(space(), &run());
    loop {
        let begin = expecting.begun();
        if runs.wait(space(), &run(), None).await.is_ok_and(|report| report.is_some()) {
            return;
        }
        if *lock(store) == Row::Ended {
            return;
        }
        begin.await;
    }
}

#[test]
fn who_waits_learns_of_the_end_whenever_the_run_begins() {
    explore(|| {
        let (runs, store) = (Arc::new(Runs::default()), Arc::new(Mutex::new(Row::None)));
        let actor = {
            let (runs, store) = (runs.clone(), store.clone());
            thread::spawn(move || {
                *lock(&store) = Row::Open;
                let live = runs.begin(space(), &run());
                *lock(&store) = Row::Ended;
                live.end(report());
            })
        };
        block_on(wait(&runs, &store));
        actor.join().unwrap();
        assert_eq!(runs.names(), (0, 0), "nothing is kept of a run that is over");
    });
}

#[test]
fn two_that_wait_and_leave_at_once_leave_nothing_behind() {
    explore(|| {
        let (runs, store) = (Arc::new(Runs::default()), Arc::new(Mutex::new(Row::Open)));
        let live = runs.begin(space(), &run());
        let waiter = {
            let (runs, store) = (runs.clone(), store.clone());
            thread::spawn(move || block_on(wait(&runs, &store)))
        };
        let actor = {
            let store = store.clone();
            thread::spawn(move || {
                *lock(&store) = Row::Ended;
                live.end(report());
            })
        };
        block_on(wait(&runs, &store));
        waiter.join().unwrap();
        actor.join().unwrap();
        assert_eq!(runs.names(), (0, 0));
    });
}

#[test]
fn one_that_gives_up_does_not_take_the_other_along() {
    explore(|| {
        let (runs, store) = (Arc::new(Runs::default()), Arc::new(Mutex::new(Row::None)));
        let leaver = {
            let runs = runs.clone();
            thread::spawn(move || drop(runs.expect(space(), &run())))
        };
        let actor = {
            let (runs, store) = (runs.clone(), store.clone());
            thread::spawn(move || {
                *lock(&store) = Row::Open;
                let live = runs.begin(space(), &run());
                *lock(&store) = Row::Ended;
                live.end(report());
            })
        };
        block_on(wait(&runs, &store));
        leaver.join().unwrap();
        actor.join().unwrap();
        assert_eq!(runs.names(), (0, 0));
    });
}

#[test]
fn a_run_begun_anew_is_not_forgotten_with_its_former_self() {
    explore(|| {
        let (runs, store) = (Arc::new(Runs::default()), Arc::new(Mutex::new(Row::Open)));
        let former = runs.begin(space(), &run());
        let ending = thread::spawn(move || drop(former));
        let live = runs.begin(space(), &run());
        ending.join().unwrap();
        let waiter = {
            let (runs, store) = (runs.clone(), store.clone());
            thread::spawn(move || block_on(wait(&runs, &store)))
        };
        assert_eq!(runs.names().0, 1);
        *lock(&store) = Row::Ended;
        live.end(report());
        waiter.join().unwrap();
        assert_eq!(runs.names(), (0, 0));
    });
}

#[test]
fn it_is_quiet_when_the_last_run_has_ended() {
    explore(|| {
        let runs = Arc::new(Runs::default());
        let first = runs.begin(space(), &run());
        let second = runs.begin(space(), &RunId::parse("s").unwrap());
        let one = thread::spawn(move || first.end(report()));
        let other = thread::spawn(move || drop(second));
        block_on(runs.all_ended());
        assert_eq!(runs.names().0, 0);
        one.join().unwrap();
        other.join().unwrap();
    });
}
