//! Power loss: a recorded run of the engine is cut at every sync, and what an honest disk may hold there is opened again
//! (isolation.md C3, C8, C9; docs/reliability.md "Power loss").
//!
//! * [`ledger`]: what was promised, each promise with its place among the disk's operations.
//! * [`subject`]: the engine in a directory.
//! * [`workload`]: the recorded run.
//! * [`replay`]: the cuts of a recording, and the images of each.
//! * [`inspection`]: whether an image holds what was promised before its cut.
//! * [`faults`]: syncs that fail, disks that fill up.
//! * [`kills`]: a kill before the power fails.
//!
//! `WATERTIGHT_CUTS_COMMITS` sets the length of the run (80), `WATERTIGHT_CUTS_SEEDS` how often the dice are cast for each
//! cut (1), `WATERTIGHT_CUTS_SEED` the first seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod faults;
mod inspection;
mod kills;
mod ledger;
mod replay;
mod subject;
mod workload;

use inspection::Problem;
use replay::Plan;
use watertight_testkit::disk::Keep;
use workload::{Length, Run};

/// Synced commits of the run in `make test`.
const SHORT: usize = 80;

fn parameter(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        _ => default,
    }
}

fn first_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    parameter("WATERTIGHT_CUTS_SEED", u64::try_from(since.as_millis()).unwrap_or(0))
}

#[test]
fn no_cut_loses_what_was_acknowledged() {
    let commits = parameter("WATERTIGHT_CUTS_COMMITS", SHORT as u64) as usize;
    let seeds = parameter("WATERTIGHT_CUTS_SEEDS", 1);
    let run = workload::run(Length { commits, lies_after: None });
    let plan = Plan { seed: first_seed(), seeds, keeps: &replay::EVERY_KEEP, from: 0, stop_at: usize::MAX };
    let result = replay::all_cuts(&run.recording, &run.ledger, &plan);
    println!("{result}");
    assert!(result.is_clean(), "\n{}", result.losses());
    let Run { ledger, .. } = run;
    assert!(ledger.acknowledged() > commits / 4 && ledger.answers() > commits / 8, "the run did its work: {ledger}");
}

/// The machine's own proof: it sees the losses it is there for.
#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    let run = workload::run(Length { commits: 50, lies_after: Some(20) });
    let caught = |keep| {
        let plan = Plan { seed: first_seed(), seeds: 1, keeps: &[keep], from: run.second_life, stop_at: 1 };
        let result = replay::all_cuts(&run.recording, &run.ledger, &plan);
        println!("on a disk that lies: {result}");
        result
    };
    let gone = |problem: &Problem| matches!(problem, Problem::TurnLost(_));
    assert!(caught(Keep::Nothing).problems().any(gone), "a turn that is gone was not missed");
    assert!(!caught(Keep::Sectors).is_clean(), "files in pieces were taken for sound");
}
