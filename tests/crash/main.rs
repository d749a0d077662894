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

/// `WATERTIGHT_CRASH_CYCLES`, `_WRITERS` and `_SEED` change its size; `make crash` is the long form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kills() {
    let result = campaign::run(plan::Plan::from_environment()).await;
    figures::say(&result);
}
