//! How much one person may ask for (isolation.md §2.10): requests, by a bucket. Operators and services have no such
//! bound: what they ask for is a program's own affair.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use watertight_core::ids::{PrincipalId, TenantId, UnixMillis};

/// Requests a user may send in one go.
const BURST: u32 = 100;
/// Requests a second that a user may go on with.
const RATE: u32 = 50;
/// A request in the bucket's own small coin: one for each millisecond and request a second.
const PRICE: u64 = 1000;

/// What one principal has left.
#[derive(Debug)]
pub(super) struct Budget(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    left: u64,
    at: UnixMillis,
}

impl Budget {
    fn new(now: UnixMillis) -> Self {
        Self(Mutex::new(Bucket { left: u64::from(BURST) * PRICE, at: now }))
    }

    /// Takes one request; else how long until there is one.
    pub(super) fn take(&self, now: UnixMillis) -> Result<(), Duration> {
        let mut bucket = lock(&self.0);
        let earned = now.since(bucket.at).saturating_mul(RATE.into());
        bucket.left = bucket.left.saturating_add(earned).min(u64::from(BURST) * PRICE);
        bucket.at = bucket.at.max(now);
        match bucket.left.checked_sub(PRICE) {
            Some(left) => {
                bucket.left = left;
                Ok(())
            }
            None => Err(Duration::from_millis((PRICE - bucket.left).div_ceil(RATE.into()))),
        }
    }
}

/// The budgets of those who are here, one for all connections of a principal.
#[derive(Default)]
pub(super) struct Budgets(Mutex<HashMap<(TenantId, PrincipalId), Weak<Budget>>>);

impl Budgets {
    /// The principal's.
    pub(super) fn of(&self, principal: (TenantId, PrincipalId), now: UnixMillis) -> Arc<Budget> {
        let mut all = lock(&self.0);
        if let Some(budget) = all.get(&principal).and_then(Weak::upgrade) {
            return budget;
        }
        if all.len() == all.capacity() {
            all.retain(|_, budget| budget.strong_count() > 0);
        }
        let budget = Arc::new(Budget::new(now));
        all.insert(principal, Arc::downgrade(&budget));
        budget
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let start = UnixMillis(1_000_000);
        let budget = Budget::new(start);
        for _ in 0..BURST {
            assert_eq!(budget.take(start), Ok(()));
        }
        assert_eq!(budget.take(start), Err(Duration::from_millis(20)));
        let second = start.plus_millis(1000);
        let taken = (0..BURST).filter(|_| budget.take(second).is_ok()).count();
        assert_eq!(taken, RATE as usize);
        let later = second.plus_millis(1_000_000);
        let taken = (0..2 * BURST).filter(|_| budget.take(later).is_ok()).count();
        assert_eq!(taken, BURST as usize, "it holds no more than a burst");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let start = UnixMillis(1_000_000);
        let budget = Budget::new(start);
        for _ in 0..BURST {
            assert_eq!(budget.take(start), Ok(()));
        }
        assert!(budget.take(UnixMillis(0)).is_err());
        assert!(budget.take(start).is_err());
        assert!(budget.take(start.plus_millis(20)).is_ok());
    }

    #[test]
    fn all_connections_of_a_principal_share_one() {
        let budgets = Budgets::default();
        let id = |byte| (TenantId::from_bytes([byte; 16]), PrincipalId::from_bytes([1; 16]));
        let (one, two) = (budgets.of(id(1), UnixMillis(0)), budgets.of(id(1), UnixMillis(0)));
        assert!(Arc::ptr_eq(&one, &two));
        assert!(!Arc::ptr_eq(&one, &budgets.of(id(2), UnixMillis(0))));
    }
}
