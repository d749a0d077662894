//! What a verification of the stored sessions is asked for and what it finds.

use watertight_core::ids::SessionId;
use watertight_core::key::CanonicalKey;
use watertight_core::receipt::Receipt;

use crate::StoreError;

/// What to verify. Without sessions and receipts: everything.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this tenant.
    pub tenant: Option<String>,
    /// These sessions, by tenant and key.
    pub sessions: Vec<(String, CanonicalKey)>,
    /// These receipts, with the whole of their sessions.
    pub receipts: Vec<Receipt>,
}

/// What was verified, and what does not hold.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sessions gone through.
    pub sessions: u64,
    /// Entries opened and found in their places.
    pub entries: u64,
    /// Runs opened.
    pub runs: u64,
    /// Receipts compared.
    pub receipts: u64,
    /// Checkpoints compared.
    pub checkpoints: u64,
    /// The first [`Self::KEPT`] problems.
    pub problems: Vec<Problem>,
    /// Problems beyond them.
    pub further: u64,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The tenant, where it is known.
    pub tenant: Option<String>,
    /// The session.
    pub session: Option<SessionId>,
    /// The session's key, where it could be read. For the operator's eyes only.
    pub key: Option<String>,
    /// The entry's place in the session.
    pub seq: Option<u64>,
    /// The receipt that does not hold.
    pub receipt: Option<Receipt>,
    /// What is wrong; holds no stored content.
    pub what: String,
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Sessions gone through.
    pub done: u64,
    /// Sessions to go through in all, as far as known.
    pub total: u64,
}

/// Why a verification came to no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No tenant has this name.
    #[error("there is no tenant {0:?} in this store")]
    UnknownTenant(String),
    /// The checkpoints cannot be read, or there is none.
    #[error("{0}")]
    Checkpoints(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Report {
    /// Problems kept at the most.
    pub const KEPT: usize = 1000;

    /// Whether everything that was looked at holds.
    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes a problem once.
    pub(crate) fn push(&mut self, problem: Problem) {
        if self.problems.contains(&problem) {
            return;
        }
        if self.problems.len() < Self::KEPT {
            self.problems.push(problem);
        } else {
            self.further += 1;
        }
    }
}
