//! What is to be done with wrapped keys, and what is known of them. No key material.

use watertight_core::ids::{TenantId, UnixMillis};

use crate::verification::Problem;

/// How a tenant is turned to a new shred epoch (isolation.md §2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turning {
    /// No new epoch: only a turn that broke off is brought to its end.
    Finish,
    /// A new epoch.
    Epoch,
    /// A new epoch under a new tenant key.
    WithTenantKey,
}

/// A turn to a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// The newest epoch.
    pub epoch: u32,
    /// Data keys that were wrapped anew.
    pub rewrapped: u64,
    /// Data keys that do not open. They stay as they are.
    pub damaged: u64,
    /// Older epochs that could not be destroyed: damaged data keys are under them, or the turn was stopped.
    pub epochs_left: u64,
}

/// A tenant's epochs, without a look at its data keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochAge {
    /// The tenant.
    pub tenant: TenantId,
    /// When its newest epoch began; none when that is not known.
    pub since: Option<UnixMillis>,
    /// Whether older epochs are still there: a turn has not ended.
    pub unfinished: bool,
}

/// A tenant's keys in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantKeyStatus {
    /// The tenant.
    pub tenant: TenantId,
    /// Its name; none when the store does not know it.
    pub name: Option<String>,
    /// The newest epoch.
    pub epoch: u32,
    /// Every epoch whose key is there, oldest first.
    pub epochs: Vec<EpochStatus>,
    /// Data keys of sessions that are not stored yet.
    pub pooled: u64,
}

/// One shred epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStatus {
    /// Its number, from 1.
    pub epoch: u32,
    /// When it began; none when that is not known.
    pub since: Option<UnixMillis>,
    /// Data keys under it.
    pub data_keys: u64,
}

/// Which wrapped keys were opened, and what does not hold.
#[derive(Clone, Debug, Default)]
pub struct KeyReport {
    /// Tenants whose keys were looked at.
    pub tenants: u64,
    /// Epoch keys that opened.
    pub epochs: u64,
    /// Data keys that opened and are the ones that were committed to.
    pub data_keys: u64,
    /// The first [`crate::verification::Report::KEPT`] problems.
    pub problems: Vec<Problem>,
    /// Problems beyond them.
    pub further: u64,
}

impl KeyReport {
    /// Whether every key that was looked at holds.
    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }
}
