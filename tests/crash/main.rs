//! The built program, killed again and again under load (isolation.md C1-C5).
//!
//! * [`campaign`]: load, kill, restart, audit. [`plan`]: its size, and what is random in it.
//! * [`writer`]: one client. [`ledger`]: what all of them asked and were told. [`census`]: what the provider sees.
//! * [`oracle`]: whether a transcript is what the writers were promised.
//! * [`figures`]: counts and the result line.

#![allow(clippy::unwrap_used, reason = "a failed precondition of a test is a failed test")]

mod campaign;
mod census;
mod figures;
mod ledger;
mod oracle;
mod plan;
mod writer;

use std::time::Duration;

use plan::Plan;

/// `WATERTIGHT_CRASH_CYCLES`, `_WRITERS` and `_SEED` change its size; `make crash` is the long form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kills() {
    match campaign::run(Plan::from_environment()).await {
        Ok(result) => figures::say(&result),
        Err(broken) => panic!("{}", broken.told),
    }
}

/// The machine can fail: a program that acknowledged what it then does not have is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_loses_its_end_does_not_go_unnoticed() {
    let plan = Plan { cycles: 8, writers: 16, end_within: Duration::from_secs(1), sabotage: true, seed: 1 };
    let broken = campaign::run(plan).await.expect_err("every kill took away what had been acknowledged");
    let report = std::fs::read_to_string(broken.kept.join("breach.txt")).unwrap();
    assert!(
        !broken.told.contains("does not start"),
        "the damage is not of the sort that anybody notices: {}",
        broken.told
    );
    assert!(report.contains("seed 1") && broken.kept.join("state/store.db").exists(), "{}", broken.told);
    std::fs::remove_dir_all(broken.kept).unwrap();
}
