//! Where sessions end, as far as it changed: for the next checkpoint.
//!
//! Every commit tells where its session ended before and ends now. The sum over all sessions is taken once, from a
//! snapshot of the moment in which the watching began, and carried on from there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::Notify;
use watertight_core::ids::{SessionId, TenantId};
use watertight_seal::checkpoint::{HeadSum, Signer};

use super::rows;
use crate::StoreError;
use crate::checkpoint::{HeadAt, NAMED, part};

/// Changes that are remembered by name at the most; more are only counted.
const MOST: usize = 4 * NAMED;

type Name = (TenantId, SessionId);

/// The changes since the last checkpoint.
pub(super) struct Heads {
    signer: Arc<Signer>,
    state: Mutex<State>,
    many: Notify,
}

#[derive(Default)]
struct State {
    /// Whether changes are noted.
    watching: bool,
    /// The sum at the last look at everything, and what changed it since.
    sum: HeadSum,
    changed: HashMap<Name, HeadAt>,
    /// Changes beyond those remembered.
    unnamed: u64,
}

/// What one checkpoint names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) sessions: Vec<(TenantId, SessionId, HeadAt)>,
    pub(super) unnamed: u64,
    /// What was added to and taken from the sum since watching began.
    pub(super) sum: HeadSum,
}

impl Heads {
    pub(super) fn new(signer: Arc<Signer>) -> Self {
        Self { signer, state: Mutex::default(), many: Notify::new() }
    }

    /// Notes changes from now on. To be called on the writer, so that no commit is between.
    pub(super) fn watch(&self) {
        *self.lock() = State { watching: true, ..State::default() };
    }

    /// A session ended at `before` and ends at `after` now, durably.
    pub(super) fn moved(&self, name: Name, before: (u64, [u8; 32]), after: (u64, [u8; 32])) {
        if before != after {
            self.change(name, before, Some(after));
        }
    }

    /// A session that ended at `before` is gone.
    pub(super) fn gone(&self, name: Name, before: (u64, [u8; 32])) {
        self.change(name, before, None);
    }

    fn change(&self, name: Name, before: (u64, [u8; 32]), after: HeadAt) {
        if !self.lock().watching {
            return;
        }
        let part = |(seq, chain): (u64, [u8; 32])| part(&self.signer, name.0, name.1, seq, &chain);
        let (old, new) = (part(before), after.map(part).unwrap_or_default());
        let mut state = self.lock();
        state.sum = state.sum.minus(old).plus(new);
        if state.changed.len() < MOST || state.changed.contains_key(&name) {
            state.changed.insert(name, after);
        } else {
            state.unnamed += 1;
        }
        if state.changed.len() >= NAMED {
            self.many.notify_one();
        }
    }

    /// Resolves when there is enough for a checkpoint before its time.
    pub(super) async fn many(&self) {
        self.many.notified().await;
    }

    /// The next checkpoint's changes; none when nothing changed and it need not be. What does not fit is left.
    pub(super) fn take(&self, even_if_none: bool) -> Option<Changes> {
        let mut state = self.lock();
        if !state.watching || (state.changed.is_empty() && state.unnamed == 0 && !even_if_none) {
            return None;
        }
        // A sum goes with all the changes that made it: what is not named here is counted.
        let all = std::mem::take(&mut state.changed);
        let unnamed = std::mem::take(&mut state.unnamed) + all.len().saturating_sub(NAMED) as u64;
        let sessions = all.into_iter().take(NAMED).map(|((tenant, session), head)| (tenant, session, head)).collect();
        Some(Changes { sessions, unnamed, sum: state.sum })
    }

    /// Gives back what could not be written down; newer changes stand.
    pub(super) fn put_back(&self, changes: Changes) {
        let mut state = self.lock();
        state.unnamed += changes.unnamed;
        for (tenant, session, head) in changes.sessions {
            if state.changed.len() < MOST {
                state.changed.entry((tenant, session)).or_insert(head);
            } else {
                state.unnamed += 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sum over every session, as the connection sees them.
pub(super) fn sum(conn: &Connection, signer: &Signer) -> Result<HeadSum, StoreError> {
    let mut statement = conn.prepare("SELECT tenant, session, head_seq, head_chain FROM sessions")?;
    let mut rows = statement.query([])?;
    let mut sum = HeadSum::default();
    while let Some(row) = rows.next()? {
        let (tenant, session) = (TenantId::from_bytes(row.get(0)?), SessionId::from_bytes(row.get(1)?));
        sum = sum.plus(part(signer, tenant, session, rows::unsigned(row, 2)?, &row.get(3)?));
    }
    Ok(sum)
}
