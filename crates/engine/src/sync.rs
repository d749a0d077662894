//! The locks of what `interleavings` checks: the standard ones, or those of `loom`, which tries every order in which
//! threads can take them.

use std::sync::PoisonError;

#[cfg(all(test, watertight_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, watertight_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// A panic under a lock must not silence everybody else.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
