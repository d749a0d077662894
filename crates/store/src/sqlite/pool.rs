//! Keys for sessions to come, and the drafts they were drawn for.
//!
//! A draft that is given up is not told from one that is still to be committed, so the oldest beyond a bound are taken
//! to be given up: their keys are deleted and their commit is refused from then on. An id that was drawn is never drawn
//! again by the same process, since somebody may still hold a scope on it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use watertight_core::ids::{SessionId, UnixMillis};
use watertight_seal::record::DataKey;

use crate::StoreError;

/// Data keys kept ready per tenant; refilled below half.
pub(super) const READY: usize = 64;
/// Drafts per tenant that may still be committed.
pub(super) const DRAFTS: usize = 1024;

/// A data key that is synced in the keystore and waits for its session.
pub(super) struct Pooled {
    pub(super) session: SessionId,
    pub(super) key: Arc<DataKey>,
}

/// One tenant's.
#[derive(Default)]
pub(super) struct Pool {
    /// Whether the keystore's own pooled keys were read.
    pub(super) loaded: bool,
    refilling: bool,
    ready: VecDeque<Pooled>,
    drafts: HashMap<SessionId, Draft>,
    /// The drafts, oldest first; may name some that are none any more.
    order: VecDeque<SessionId>,
    /// Stored by now; the keystore still counts them as pooled.
    used: Vec<SessionId>,
}

struct Draft {
    at: UnixMillis,
    /// Commits under way, or whose end is not known.
    commits: u32,
}

impl Pool {
    /// The pool of a tenant whose keystore rows are these.
    pub(super) fn loaded(ready: Vec<Pooled>) -> Self {
        Self { loaded: true, ready: ready.into(), ..Self::default() }
    }

    /// A key for a draft made at `now`.
    pub(super) fn draw(&mut self, now: UnixMillis) -> Option<Pooled> {
        let drawn = self.ready.pop_front()?;
        self.drafts.insert(drawn.session, Draft { at: now, commits: 0 });
        self.order.push_back(drawn.session);
        Some(drawn)
    }

    /// How many keys are missing; none while there are enough.
    pub(super) fn missing(&self) -> Option<usize> {
        (self.ready.len() < READY / 2).then(|| READY - self.ready.len())
    }

    /// Whether the caller is to refill the pool. Says so to one at a time.
    pub(super) fn ask_for_refill(&mut self) -> bool {
        let ask = self.missing().is_some() && !self.refilling;
        self.refilling |= ask;
        ask
    }

    /// The refill is over, with these keys.
    pub(super) fn refilled(&mut self, keys: Vec<Pooled>) {
        self.ready.extend(keys);
        self.refilling = false;
    }

    /// When an outstanding draft was made.
    pub(super) fn drafted_at(&self, session: SessionId) -> Option<UnixMillis> {
        self.drafts.get(&session).map(|draft| draft.at)
    }

    /// Keeps an outstanding draft's key until the commit's end is known; when it was made. None when the session is
    /// stored by now, or was given up.
    pub(super) fn begin_commit(&mut self, session: SessionId) -> Option<UnixMillis> {
        let draft = self.drafts.get_mut(&session)?;
        draft.commits += 1;
        Some(draft.at)
    }

    /// The end of a commit that began.
    pub(super) fn end_commit<T>(&mut self, session: SessionId, result: &Result<T, StoreError>) {
        match result {
            Ok(_) => self.stored(session),
            // It may have been written after all.
            Err(StoreError::Unavailable(_)) => {}
            Err(_) => {
                if let Some(draft) = self.drafts.get_mut(&session) {
                    draft.commits = draft.commits.saturating_sub(1);
                }
            }
        }
    }

    /// Drafts whose commits did not tell how they ended, such as those whose caller went away.
    pub(super) fn unsettled(&self) -> Vec<SessionId> {
        self.drafts.iter().filter(|(_, draft)| draft.commits > 0).map(|(session, _)| *session).collect()
    }

    /// The session is in the store.
    pub(super) fn stored(&mut self, session: SessionId) {
        if self.drafts.remove(&session).is_some() {
            self.used.push(session);
        }
    }

    /// Sessions that are in the store and that the keystore does not know of; each once.
    pub(super) fn take_used(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.used)
    }

    /// Gives up the oldest drafts beyond the bound. From here on none of them is committed.
    pub(super) fn give_up(&mut self) -> Vec<SessionId> {
        let drafts = &mut self.drafts;
        let mut given_up = Vec::new();
        self.order.retain(|session| match drafts.get(session) {
            None => false,
            Some(draft) if draft.commits > 0 || drafts.len() <= DRAFTS => true,
            Some(_) => {
                drafts.remove(session);
                given_up.push(*session);
                false
            }
        });
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::TenantId;
    use watertight_seal::keyring::Root;
    use watertight_seal::master::MasterKey;

    fn session(n: usize) -> SessionId {
        SessionId::from_bytes((n as u128).to_be_bytes())
    }

    /// A pool of which so many keys were drawn, session `n` at time `n`.
    fn drawn(count: usize) -> Pool {
        let root = Root::new(&MasterKey::from_slice(&[1; 32]).unwrap());
        let (keys, _) = root.create_tenant(TenantId::from_bytes([1; 16])).unwrap();
        let key = Arc::new(keys.create_data_key(session(0), 1).unwrap().0);
        let mut pool = Pool::loaded((0..count).map(|n| Pooled { session: session(n), key: key.clone() }).collect());
        for n in 0..count {
            assert_eq!(pool.draw(UnixMillis(n as i64)).unwrap().session, session(n));
        }
        pool
    }

    const REFUSED: Result<(), StoreError> = Err(StoreError::KeyTaken);

    #[test]
    fn the_oldest_drafts_beyond_the_bound_are_given_up_and_cannot_be_committed() {
        let mut pool = drawn(DRAFTS + 3);
        pool.stored(session(0));
        assert_eq!(pool.give_up(), [session(1), session(2)]);
        assert_eq!((pool.begin_commit(session(1)), pool.drafted_at(session(2))), (None, None));
        assert_eq!(pool.begin_commit(session(3)), Some(UnixMillis(3)));
        assert!(pool.give_up().is_empty());
        assert_eq!(pool.take_used(), [session(0)]);
        assert!(pool.take_used().is_empty());
    }

    #[test]
    fn a_draft_under_commit_is_kept_until_its_end_is_known() {
        let mut pool = drawn(DRAFTS + 4);
        for n in 0..4 {
            assert!(pool.begin_commit(session(n)).is_some());
        }
        assert!(pool.begin_commit(session(2)).is_some(), "a second one at the same time");
        pool.end_commit(session(0), &Ok(()));
        pool.end_commit(session(1), &REFUSED);
        pool.end_commit(session(2), &REFUSED);
        pool.end_commit(session(3), &Err::<(), _>(StoreError::Unavailable("?".to_owned())));
        let mut unsettled = pool.unsettled();
        unsettled.sort();
        assert_eq!(unsettled, [session(2), session(3)]);
        assert_eq!(pool.give_up(), [session(1), session(4), session(5)]);
        pool.end_commit(session(2), &Ok(()));
        assert_eq!(pool.take_used(), [session(0), session(2)]);
    }

    #[test]
    fn one_refill_is_asked_for_at_a_time() {
        let mut pool = Pool::default();
        assert!(pool.ask_for_refill() && !pool.ask_for_refill());
        assert_eq!(pool.missing(), Some(READY));
        pool.refilled(Vec::new());
        assert!(pool.ask_for_refill());
    }
}
