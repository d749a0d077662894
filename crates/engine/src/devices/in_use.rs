//! What is open on a device: a revoked or removed device's connections end with it, whatever they were let in by.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use watertight_core::device::DeviceId;
use watertight_core::ids::TenantId;

use crate::admission::{Ended, Held};

type Name = (TenantId, DeviceId);

/// All devices in use. Bounded by the open connections.
#[derive(Default)]
pub(crate) struct InUse {
    open: Mutex<HashMap<Name, Vec<Weak<dyn Held>>>>,
    /// Grows with every withdrawal, after it is durable and before [`Self::open`] is searched.
    changes: AtomicU64,
}

/// A device that was let in, for what is opened on it. Nothing was withdrawn from any device since it was looked up, or
/// what is opened ends at once.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub(super) tenant: TenantId,
    pub(super) device: DeviceId,
    pub(super) seen: u64,
}

impl Seat {
    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }
}

impl InUse {
    /// To be read before a device is looked up.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Ends `held` with the device.
    pub(crate) fn hold(&self, seat: &Seat, held: &Arc<dyn Held>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if self.changes() != seat.seen {
            drop(open);
            held.end(Ended::Revoked);
            return;
        }
        // Closed connections are swept when the lists would grow, so that they stay in proportion to the open ones.
        if open.len() == open.capacity() {
            open.retain(|_, all| all.iter().any(|held| held.strong_count() > 0));
        }
        let all = open.entry((seat.tenant, seat.device)).or_default();
        if all.len() == all.capacity() {
            all.retain(|held| held.strong_count() > 0);
        }
        all.push(Arc::downgrade(held));
    }

    /// Whether anything is open on the device.
    pub(super) fn is_open(&self, tenant: TenantId, device: DeviceId) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&(tenant, device)).is_some_and(|all| all.iter().any(|held| held.strong_count() > 0))
    }

    /// Ends all that is open on the device; how much that was.
    pub(super) fn end(&self, tenant: TenantId, device: DeviceId) -> usize {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let ended = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&(tenant, device));
        let open: Vec<_> = ended.iter().flatten().filter_map(Weak::upgrade).collect();
        for held in &open {
            held.end(Ended::Revoked);
        }
        open.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[derive(Default)]
    struct Line(AtomicBool);

    impl Held for Line {
        fn end(&self, _: Ended) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn seat(in_use: &InUse, device: u8) -> Seat {
        let tenant = TenantId::from_bytes([1; 16]);
        Seat { tenant, device: DeviceId::from_bytes([device; 32]), seen: in_use.changes() }
    }

    fn line() -> (Arc<Line>, Arc<dyn Held>) {
        let line = Arc::new(Line::default());
        (line.clone(), line)
    }

    #[test]
    fn what_is_open_on_a_device_ends_with_it_and_nothing_else_does() {
        let in_use = InUse::default();
        let ((one, held_one), (other, held_other)) = (line(), line());
        let (seat_one, seat_other) = (seat(&in_use, 1), seat(&in_use, 2));
        in_use.hold(&seat_one, &held_one);
        in_use.hold(&seat_other, &held_other);
        assert!(in_use.is_open(seat_one.tenant, seat_one.device));
        assert_eq!(in_use.end(seat_one.tenant, seat_one.device), 1);
        assert!(one.0.load(Ordering::SeqCst) && !other.0.load(Ordering::SeqCst));
        assert!(!in_use.is_open(seat_one.tenant, seat_one.device));
    }

    #[test]
    fn a_connection_that_was_looked_up_before_a_withdrawal_ends_at_once() {
        let in_use = InUse::default();
        let early = seat(&in_use, 1);
        in_use.end(early.tenant, early.device);
        let (late, held) = line();
        in_use.hold(&early, &held);
        assert!(late.0.load(Ordering::SeqCst));
    }
}
