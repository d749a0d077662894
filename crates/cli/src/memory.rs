//! What this process holds in memory (tokens, keys, plaintext) stays out of files and of other processes' reach.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dumps, and no reading of this process by others of the same user (isolation.md §2.8). Best effort: a system
/// that refuses is no reason not to run.
pub(crate) fn guard() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps cannot be turned off");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "this process cannot be hidden from others of the same user");
    }
}
