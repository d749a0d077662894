//! What was promised to clients, in the order of the disk's operations.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use watertight_core::ids::RunId;
use watertight_core::run::RunOutcome;
use watertight_engine::event::{EventKind, SessionEvent};
use watertight_engine::hub::EventSink;
use watertight_engine::report::RunReport;
use watertight_engine::request::{Accepted, Disposition};
use watertight_testkit::disk::Disk;

/// An acknowledged turn.
#[derive(Clone)]
pub(crate) struct Turn {
    /// How many operations of the disk came before the acknowledgement.
    pub(crate) at: usize,
    pub(crate) said: Said,
    pub(crate) accepted: Accepted,
}

/// What a client said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) text: String,
    /// The generation it asked for.
    pub(crate) generation: Option<String>,
    /// Whether its run never ends by itself.
    pub(crate) hangs: bool,
}

impl Turn {
    pub(crate) fn key(&self) -> &str {
        self.accepted.key.as_str()
    }
}

/// An announced end of a run.
#[derive(Clone)]
pub(crate) struct End {
    /// How many operations of the disk came before the announcement.
    pub(crate) at: usize,
    pub(crate) report: Arc<RunReport>,
}

#[derive(Default)]
struct Pages {
    turns: Vec<Turn>,
    ends: Vec<End>,
    hanging: HashSet<RunId>,
}

/// What a run promised, while it goes on.
pub(crate) struct Notebook {
    disk: Arc<Disk>,
    pages: Mutex<Pages>,
}

impl Notebook {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self { disk, pages: Mutex::default() }
    }

    /// The notes of a process that was killed after the first `at` operations, to go on with.
    pub(crate) fn continued(disk: Arc<Disk>, ledger: &Ledger, at: usize) -> Self {
        let (turns, ends) = (ledger.turns_before(at).to_vec(), ledger.ends_before(at).to_vec());
        let pages = Pages { turns, ends, hanging: ledger.hanging.clone() };
        Self { disk, pages: Mutex::new(pages) }
    }

    /// Notes an acknowledgement that is being given now. One that was given before promises nothing new.
    pub(crate) fn acknowledge(&self, said: &Said, accepted: &Accepted) {
        let mut pages = self.pages();
        let started = matches!(accepted.disposition, Disposition::Started);
        if started || !pages.turns.iter().any(|turn| turn.accepted.run == accepted.run) {
            let at = self.disk.now();
            if said.hangs {
                pages.hanging.insert(accepted.run.clone());
            }
            pages.turns.push(Turn { at, said: said.clone(), accepted: accepted.clone() });
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.pages().turns.len()
    }

    /// Everything noted so far.
    pub(crate) fn close(&self) -> Ledger {
        let Pages { turns, ends, hanging } = std::mem::take(&mut *self.pages());
        Ledger { turns, ends, hanging }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Notebook {
    fn deliver(&self, event: &Arc<SessionEvent>) {
        if let EventKind::Ended { report, .. } = &event.kind {
            let mut pages = self.pages();
            let at = self.disk.now();
            pages.ends.push(End { at, report: report.clone() });
        }
    }
}

/// What a run promised, each in the order it was promised in.
pub(crate) struct Ledger {
    turns: Vec<Turn>,
    ends: Vec<End>,
    hanging: HashSet<RunId>,
}

impl Ledger {
    /// Whether the run never ends by itself.
    pub(crate) fn hangs(&self, run: &RunId) -> bool {
        self.hanging.contains(run)
    }

    /// The turns acknowledged before the cut.
    pub(crate) fn turns_before(&self, cut: usize) -> &[Turn] {
        &self.turns[..self.turns.partition_point(|turn| turn.at <= cut)]
    }

    /// The turns acknowledged after the cut.
    pub(crate) fn turns_after(&self, cut: usize) -> &[Turn] {
        &self.turns[self.turns_before(cut).len()..]
    }

    /// The ends announced before the cut.
    pub(crate) fn ends_before(&self, cut: usize) -> &[End] {
        &self.ends[..self.ends.partition_point(|end| end.at <= cut)]
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.turns.len()
    }

    /// Announced answers.
    pub(crate) fn answers(&self) -> usize {
        self.ends.iter().filter(|end| matches!(end.report.outcome, RunOutcome::Completed { .. })).count()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} turns acknowledged, {} ends announced, {} of them answers",
            self.turns.len(),
            self.ends.len(),
            self.answers()
        )
    }
}
