//! What a campaign counts.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::ledger::{End, Tally, Turn};
use crate::plan::Plan;

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// Counts since the campaign began.
pub(crate) struct Figures {
    plan: Plan,
    begun: Instant,
    shown: Instant,
    pub(crate) cycles: u64,
    acked: u64,
    resent: u64,
    refused: u64,
    completed: u64,
    interrupted: u64,
    failed: u64,
    taken_up: u64,
    pub(crate) provider_calls: u64,
    pub(crate) receipts: u64,
    pub(crate) audits: u64,
    restarts: Vec<Duration>,
}

impl Figures {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            begun: Instant::now(),
            shown: Instant::now(),
            cycles: 0,
            acked: 0,
            resent: 0,
            refused: 0,
            completed: 0,
            interrupted: 0,
            failed: 0,
            taken_up: 0,
            provider_calls: 0,
            receipts: 0,
            audits: 0,
            restarts: Vec::new(),
        }
    }

    /// The program was started again after a kill, and ready after this time.
    pub(crate) fn restarted(&mut self, ready_after: Duration) {
        self.restarts.push(ready_after);
    }

    /// A state directory is done with.
    pub(crate) fn add(&mut self, tally: Tally) {
        self.acked += tally.acked;
        self.resent += tally.resent;
        self.refused += tally.refused;
    }

    /// An audit has seen the end of this turn.
    pub(crate) fn ended(&mut self, turn: &Turn) {
        match turn.end {
            Some(End::Completed(_)) => {
                self.completed += 1;
                self.taken_up += u64::from(turn.kills_at_end > turn.kills_at_send);
            }
            Some(End::Interrupted) => self.interrupted += 1,
            Some(End::Failed(_)) => self.failed += 1,
            None => {}
        }
    }

    /// One line now and then.
    pub(crate) fn progress(&mut self, now: Tally) {
        if self.shown.elapsed() >= PROGRESS {
            self.shown = Instant::now();
            let done = self.cycles;
            let rate = self.begun.elapsed().as_secs_f64() / done.max(1) as f64;
            say(&format!(
                "crash: {done} of {} cycles, {rate:.3} s each, {} acknowledged, {} sent again, {} answered, {} interrupted, \
                 seed {}",
                self.plan.cycles,
                self.acked + now.acked,
                self.resent + now.resent,
                self.completed,
                self.interrupted,
                self.plan.seed
            ));
        }
    }

    /// The result of a campaign that found nothing.
    pub(crate) fn result(mut self) -> String {
        self.restarts.sort_unstable();
        let restart = |percent: usize| {
            let at = (self.restarts.len() * percent / 100).min(self.restarts.len().saturating_sub(1));
            self.restarts.get(at).copied().unwrap_or_default().as_secs_f64() * 1000.0
        };
        format!(
            "crash: {} cycles of {} writers in {:.0} s: {} acked, {} resent, {} refused, 0 lost, 0 doubled, 0 reordered, \
             0 wedged; {} completed, {} of them after a kill, {} interrupted, {} failed; {} calls of the provider, {} audits, {} receipts verified; \
             restart to ready p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; seed {}",
            self.cycles,
            self.plan.writers,
            self.begun.elapsed().as_secs_f64(),
            self.acked,
            self.resent,
            self.refused,
            self.completed,
            self.taken_up,
            self.interrupted,
            self.failed,
            self.provider_calls,
            self.audits,
            self.receipts,
            restart(50),
            restart(99),
            restart(100),
            self.plan.seed
        )
    }
}

/// Says something that the test harness does not hold back.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
