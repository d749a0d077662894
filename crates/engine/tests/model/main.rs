//! Random histories of sessions against a simple model: what is sent, aborted, timed out, steered, interrupted, switched,
//! stopped and killed in any order comes to the same transcripts, queues, outcomes and events as in the model.
//!
//! * [`model`]: what ought to happen.
//! * [`terms`]: what both are compared by.
//! * [`life`]: the engine, over the real store, under a clock that stands still.
//!
//! `WATERTIGHT_MODEL_CASES` is the number of histories.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod life;
mod model;
mod terms;

use std::sync::atomic::{AtomicBool, Ordering};

use life::{Life, Place, TENANTS};
use model::Session;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use terms::{Kind, Policy, Request};

/// Set by the first history that fails.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// What is done next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Submit(usize, Request),
    Abort(usize, Option<u8>),
    /// The tool of the active run comes back.
    Release(usize),
    /// So many tenths of a second pass.
    Pass(u64),
    /// So much time passes that idle actors go.
    Rest,
    Stop,
    Die,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Say),
        3 => (1..4_u8).prop_map(Kind::Slow),
        3 => Just(Kind::Hang),
        1 => Just(Kind::Fail),
        1 => Just(Kind::Die),
        4 => any::<bool>().prop_map(|repeatable| Kind::Tool { repeatable }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let policy = prop_oneof![
        4 => Just(Policy::Queue),
        2 => Just(Policy::Interrupt),
        1 => Just(Policy::Reject),
        3 => Just(Policy::Steer),
    ];
    let switch = prop_oneof![5 => Just(None), 1 => (0..2_u8).prop_map(Some)];
    (0..8_u8, kind(), policy, switch, prop::bool::weighted(0.2))
        .prop_map(|(run, kind, policy, switch, limited)| Request { run, kind, policy, switch, limited })
}

fn step() -> impl Strategy<Value = Step> {
    let tenant = 0..TENANTS;
    prop_oneof![
        12 => (tenant.clone(), request()).prop_map(|(tenant, request)| Step::Submit(tenant, request)),
        3 => (tenant.clone(), prop::option::of(0..8_u8)).prop_map(|(tenant, run)| Step::Abort(tenant, run)),
        5 => tenant.prop_map(Step::Release),
        6 => (1..4_u64).prop_map(Step::Pass),
        1 => Just(Step::Rest),
        1 => Just(Step::Stop),
        2 => Just(Step::Die),
    ]
}

/// The engine and the model, side by side.
struct Both {
    life: Option<Life>,
    sessions: [Session; TENANTS],
    now: u64,
}

impl Both {
    fn new() -> Self {
        let sessions = std::array::from_fn(Session::new);
        Self { life: Some(Life::begin(Place::new())), sessions, now: 0 }
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("there is always a process")
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Submit(tenant, request) => {
                self.sessions[tenant].submit(request);
                self.life().submit(tenant, request);
            }
            Step::Abort(tenant, run) => {
                let expected = self.sessions[tenant].abort(run);
                let told = self.life().abort(tenant, run);
                if told != expected {
                    return Err(format!("aborting {run:?} told of {told:?}, not {expected:?}"));
                }
            }
            Step::Release(tenant) => {
                if self.sessions[tenant].release() {
                    self.life().release(tenant);
                }
            }
            Step::Pass(steps) => self.pass(steps * 100)?,
            // What is not idle would see its limits pass: another step's concern.
            Step::Rest if self.sessions.iter().all(Session::is_idle) => self.pass(150_000)?,
            Step::Rest => {}
            Step::Stop => {
                self.sessions.iter_mut().for_each(Session::stop);
                let place = self.life.take().expect("there is always a process").stop()?;
                self.begin(place);
            }
            Step::Die => {
                self.sessions.iter_mut().for_each(Session::die);
                let place = self.life.take().expect("there is always a process").die();
                self.begin(place);
            }
        }
        self.settle()
    }

    fn begin(&mut self, place: Place) {
        let now = self.now;
        self.sessions.iter_mut().for_each(|session| session.start(now));
        self.life = Some(Life::begin(place));
    }

    /// Lets time pass, stopping wherever something happens by itself.
    fn pass(&mut self, millis: u64) -> Result<(), String> {
        let end = self.now + millis;
        while self.now < end {
            let due = self.sessions.iter().filter_map(Session::next_due).min();
            let next = due.map_or(end, |due| due.min(end));
            let step = next - self.now;
            self.now = next;
            self.life().pass(step);
            self.sessions.iter_mut().for_each(|session| session.pass(next));
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        let expected: Vec<_> = self.sessions.iter().map(Session::view).collect();
        self.life().settle(&expected)
    }

    /// Every run that is over is remembered as the model says, in the last process too.
    fn check_outcomes(&mut self) -> Result<(), String> {
        for tenant in 0..TENANTS {
            for (run, expected) in self.sessions[tenant].outcomes().clone() {
                let outcome = self.life().outcome(tenant, run);
                if outcome != Some(expected) {
                    return Err(format!("run {run} of tenant {tenant} ended {outcome:?}, not {expected:?}"));
                }
            }
        }
        Ok(())
    }
}

fn play(steps: &[Step]) -> Result<(), String> {
    let mut both = Both::new();
    for (at, step) in steps.iter().enumerate() {
        both.take(*step).map_err(|problem| format!("after step {at}, {step:?}:\n{problem}"))?;
    }
    both.check_outcomes()
}

fn cases() -> u32 {
    std::env::var("WATERTIGHT_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(Config {
        cases: cases(),
        max_shrink_iters: 2000,
        max_shrink_time: 180_000,
        // A history that fails becomes a test of its own.
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn sessions_do_what_the_model_says(steps in prop::collection::vec(step(), 1..30)) {
        play(&steps).map_err(|problem| {
            HAS_FAILED.store(true, Ordering::Relaxed);
            TestCaseError::fail(problem)
        })?;
    }
}

fn sent(run: u8, kind: Kind, policy: Policy) -> Step {
    Step::Submit(0, Request { run, kind, policy, switch: None, limited: false })
}

/// A run that was started too often used to stay in the list of active runs after it had ended.
#[test]
fn a_run_that_was_started_too_often_is_no_longer_shown() {
    let slow = |run| sent(run, Kind::Slow(1), Policy::Queue);
    play(&[slow(1), slow(0), Step::Stop, Step::Die, Step::Die, Step::Die]).unwrap();
}

/// A run that stood before older ones and had taken one up used to lose the tool call it made for it.
#[test]
fn what_was_at_work_goes_on_before_what_is_older() {
    let tool = Kind::Tool { repeatable: false };
    let steps =
        [sent(1, tool, Policy::Queue), sent(2, tool, Policy::Steer), sent(0, Kind::Say, Policy::Interrupt), Step::Die];
    play(&steps).unwrap();
}
