//! Counts what strangers can make happen as often as they like, so that the log does not grow with it.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often something happened.
#[derive(Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    /// Counts one more; the count so far where it is worth a line: the first, the second, the fourth, and so on.
    pub(crate) fn count(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        count.is_power_of_two().then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_few_lines() {
        let tally = Tally::default();
        let told: Vec<u64> = (0..1000).filter_map(|_| tally.count()).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    }
}
