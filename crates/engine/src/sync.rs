//! The locks and maps of what `interleavings` checks: the standard ones, or those of `loom`, which tries every order in
//! which threads can take the locks.

use std::sync::PoisonError;

#[cfg(not(all(test, watertight_loom)))]
pub(crate) use std::collections::HashMap;
#[cfg(not(all(test, watertight_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, watertight_loom)))]
pub(crate) use tokio::sync::Notify;

#[cfg(all(test, watertight_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// A map that is walked in the same order each time, or `loom` could not go the same way twice.
#[cfg(all(test, watertight_loom))]
pub(crate) type HashMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;

/// Tokio's, with a point before each step where another thread may go first.
#[cfg(all(test, watertight_loom))]
#[derive(Default)]
pub(crate) struct Notify {
    inner: tokio::sync::Notify,
    point: Mutex<()>,
}

#[cfg(all(test, watertight_loom))]
impl Notify {
    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        drop(lock(&self.point));
        self.inner.notified()
    }

    pub(crate) fn notify_waiters(&self) {
        drop(lock(&self.point));
        self.inner.notify_waiters();
    }
}

/// A panic under a lock must not silence everybody else.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
