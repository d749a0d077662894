//! One bus per session. Who may listen is decided when a bus and a listener meet: at the start of either, or when a
//! listener begins to watch a key. Publishing then costs nothing for listeners of other sessions.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use watertight_core::SessionScope;
use watertight_core::ids::TenantId;
use watertight_core::key::CanonicalKey;

use crate::admission::Access;
use crate::clock::Clock;
use crate::event::SessionEvent;
use crate::sync::{HashMap, Mutex, lock};

/// Which sessions a listener wants to hear, among those it may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every session.
    Everything,
    /// Only those it watches by key.
    Watched,
}

/// Takes the events of a listener, synchronously and in order, in the publisher's own context: what is published
/// before an answer is sent is delivered before that answer. It must not block; a slow consumer is its own affair.
pub trait EventSink: Send + Sync + 'static {
    /// One event.
    fn deliver(&self, event: &Arc<SessionEvent>);
}

/// All buses and listeners, apart by tenant.
pub(crate) struct Hub {
    clock: Clock,
    next_id: AtomicU64,
    tenants: Mutex<HashMap<TenantId, Tenant>>,
}

#[derive(Default)]
struct Tenant {
    listeners: HashMap<u64, Arc<Seat>>,
    buses: HashMap<CanonicalKey, Arc<Stops>>,
}

/// A listener as buses hold it.
struct Seat {
    id: u64,
    access: Access,
    wish: Mutex<Wish>,
    /// Buses it is on, so that leaving costs no walk over all the others.
    joined: Mutex<Vec<Weak<Stops>>>,
    /// None once the listener has left. Locked while an event is delivered, so that none comes after that.
    sink: Mutex<Option<Arc<dyn EventSink>>>,
}

/// What a listener wants to hear.
struct Wish {
    interest: Interest,
    watched: HashSet<CanonicalKey>,
}

/// The seats of one bus, by listener.
#[derive(Default)]
struct Stops {
    seats: Mutex<HashMap<u64, Arc<Seat>>>,
}

/// The publishing end of one session's bus. Held by its actor; dropping it closes the bus.
pub(crate) struct Bus {
    hub: Weak<Hub>,
    tenant: TenantId,
    key: CanonicalKey,
    stops: Arc<Stops>,
}

/// A place in the hub. Dropping it ends the listening: no event is delivered once it is dropped.
pub struct Listener {
    hub: Weak<Hub>,
    seat: Arc<Seat>,
}

impl Hub {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, next_id: AtomicU64::new(1), tenants: Mutex::default() })
    }

    /// Opens the bus of the scope's session, with everybody on it who listens and may read it now.
    pub(crate) fn open_bus(self: &Arc<Self>, scope: &SessionScope) -> Bus {
        let stops = Arc::new(Stops::default());
        let mut tenants = lock(&self.tenants);
        let tenant = tenants.entry(scope.tenant()).or_default();
        for seat in tenant.listeners.values() {
            if seat.wants(scope.key()) && self.may_hear(seat, scope.key()) {
                stops.add(seat);
            }
        }
        tenant.buses.insert(scope.key().clone(), stops.clone());
        Bus { hub: Arc::downgrade(self), tenant: scope.tenant(), key: scope.key().clone(), stops }
    }

    pub(crate) fn listen(self: &Arc<Self>, access: Access, interest: Interest, sink: Arc<dyn EventSink>) -> Listener {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let tenant_id = access.tenant();
        #[cfg(watertight_leak)]
        crate::deliberate_leak::remember(tenant_id, &sink);
        let seat = Arc::new(Seat {
            id,
            access,
            wish: Mutex::new(Wish { interest, watched: HashSet::new() }),
            joined: Mutex::default(),
            sink: Mutex::new(Some(sink)),
        });
        let mut tenants = lock(&self.tenants);
        let tenant = tenants.entry(tenant_id).or_default();
        if interest == Interest::Everything {
            self.join_all(tenant, &seat);
        }
        tenant.listeners.insert(id, seat.clone());
        Listener { hub: Arc::downgrade(self), seat }
    }

    fn join_all(&self, tenant: &Tenant, seat: &Arc<Seat>) {
        for (key, stops) in &tenant.buses {
            if self.may_hear(seat, key) {
                stops.add(seat);
            }
        }
    }

    fn may_hear(&self, seat: &Seat, key: &CanonicalKey) -> bool {
        seat.access.may_read(key, self.clock.now())
    }

    fn with_bus(&self, seat: &Seat, key: &CanonicalKey, act: impl FnOnce(&Arc<Stops>)) {
        let tenants = lock(&self.tenants);
        if let Some(stops) = tenants.get(&seat.access.tenant()).and_then(|tenant| tenant.buses.get(key)) {
            act(stops);
        }
    }
}

impl Seat {
    fn wants(&self, key: &CanonicalKey) -> bool {
        let wish = lock(&self.wish);
        wish.interest == Interest::Everything || wish.watched.contains(key)
    }

    /// Delivers the event unless the listener has left, or no longer wants or may hear the session.
    fn hear(&self, key: &CanonicalKey, event: &Arc<SessionEvent>) {
        let sink = lock(&self.sink);
        if let Some(sink) = &*sink
            && self.wants(key)
            && self.access.may_read(key, event.at)
        {
            sink.deliver(event);
        }
    }
}

impl Stops {
    fn add(self: &Arc<Self>, seat: &Arc<Seat>) {
        if lock(&self.seats).insert(seat.id, seat.clone()).is_none() {
            let mut joined = lock(&seat.joined);
            // Closed buses are swept when the list would grow, so that it stays in proportion to the open ones.
            if joined.len() == joined.capacity() {
                joined.retain(|stops| stops.strong_count() > 0);
            }
            joined.push(Arc::downgrade(self));
        }
    }

    fn remove(&self, id: u64) {
        lock(&self.seats).remove(&id);
    }
}

impl Bus {
    /// Delivers the event to everybody on the bus who may read the session now: a grant may have ended since they met.
    pub(crate) fn publish(&self, event: &Arc<SessionEvent>) {
        #[cfg(watertight_leak)]
        crate::deliberate_leak::stray(self.tenant, event);
        // No lock of more than one listener is held across a sink.
        let seats: Vec<Arc<Seat>> = lock(&self.stops.seats).values().cloned().collect();
        for seat in seats {
            seat.hear(&self.key, event);
        }
    }

    /// How many listeners have a seat.
    #[cfg(all(test, watertight_loom))]
    pub(crate) fn seats(&self) -> usize {
        lock(&self.stops.seats).len()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let mut tenants = lock(&hub.tenants);
        if let Some(tenant) = tenants.get_mut(&self.tenant) {
            // The session's next actor may have opened its bus already.
            if tenant.buses.get(&self.key).is_some_and(|stops| Arc::ptr_eq(stops, &self.stops)) {
                tenant.buses.remove(&self.key);
            }
        }
    }
}

impl Listener {
    /// Most keys one listener may watch by name (isolation.md §2.10).
    pub const MAX_WATCHED: usize = 10_000;

    /// Also hears the session of this key, whether it exists yet or not, if the listener's caller may read it.
    /// False when [`Self::MAX_WATCHED`] is reached.
    #[must_use]
    pub fn watch(&self, key: &CanonicalKey) -> bool {
        {
            let watched = &mut lock(&self.seat.wish).watched;
            if watched.len() >= Self::MAX_WATCHED && !watched.contains(key) {
                return false;
            }
            watched.insert(key.clone());
        }
        if let Some(hub) = self.hub.upgrade()
            && hub.may_hear(&self.seat, key)
        {
            // Asked again where buses are opened too: it may have been taken back since.
            hub.with_bus(&self.seat, key, |stops| {
                if self.seat.wants(key) {
                    stops.add(&self.seat);
                }
            });
        }
        true
    }

    /// Hears every session it may read from now on.
    pub fn hear_everything(&self) {
        lock(&self.seat.wish).interest = Interest::Everything;
        let Some(hub) = self.hub.upgrade() else { return };
        let tenants = lock(&hub.tenants);
        if let Some(tenant) = tenants.get(&self.seat.access.tenant()) {
            hub.join_all(tenant, &self.seat);
        }
    }

    /// Stops hearing it, unless everything is heard: no event of it is delivered once this has returned.
    pub fn unwatch(&self, key: &CanonicalKey) {
        {
            let _no_delivery = lock(&self.seat.sink);
            lock(&self.seat.wish).watched.remove(key);
        }
        if let Some(hub) = self.hub.upgrade() {
            hub.with_bus(&self.seat, key, |stops| {
                if !self.seat.wants(key) {
                    stops.remove(self.seat.id);
                }
            });
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&self.seat.sink).take();
        let Some(hub) = self.hub.upgrade() else { return };
        if let Some(tenant) = lock(&hub.tenants).get_mut(&self.seat.access.tenant()) {
            tenant.listeners.remove(&self.seat.id);
        }
        for stops in std::mem::take(&mut *lock(&self.seat.joined)) {
            if let Some(stops) = stops.upgrade() {
                stops.remove(self.seat.id);
            }
        }
    }
}
