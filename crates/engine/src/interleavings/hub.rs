//! A listener that is on a bus misses nothing; one that has left hears nothing; nobody waits for ever.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use watertight_core::ids::{GenerationId, UnixMillis};
use watertight_core::key::CanonicalKey;
use watertight_testkit::scope::{caller, scope, tenant};

use super::explore;
use crate::admission::Access;
use crate::clock::Clock;
use crate::event::{EventKind, Rendered, SessionEvent};
use crate::hub::{Bus, EventSink, Hub, Interest, Listener};

const KEY: &str = "agent:main:k";

/// Counts what it hears, of which nothing may come once it has left.
#[derive(Default)]
struct Ear {
    heard: AtomicUsize,
    left: AtomicBool,
}

impl EventSink for Ear {
    fn deliver(&self, _event: &Arc<SessionEvent>) {
        assert!(!self.left.load(Ordering::SeqCst), "an event came after the listener had left");
        self.heard.fetch_add(1, Ordering::SeqCst);
    }
}

impl Ear {
    fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
    }
}

fn hub() -> Arc<Hub> {
    Hub::new(Clock::from_fn(|| UnixMillis(1)))
}

fn key() -> CanonicalKey {
    CanonicalKey::from_stored(KEY)
}

fn open(hub: &Arc<Hub>, of: u8) -> Bus {
    hub.open_bus(&scope(tenant(of), KEY, "g"))
}

fn listen(hub: &Arc<Hub>, of: u8, interest: Interest) -> (Arc<Ear>, Listener) {
    let ear = Arc::new(Ear::default());
    let (caller, grants) = caller(tenant(of));
    let listener = hub.listen(Access::of(caller, grants), interest, ear.clone());
    (ear, listener)
}

fn publish(bus: &Bus) {
    bus.publish(&Arc::new(SessionEvent {
        seq: 1,
        key: key(),
        agent: "main".into(),
        generation: GenerationId::parse("g").unwrap(),
        run: None,
        at: UnixMillis(1),
        kind: EventKind::StartingModel,
        rendered: Rendered::default(),
    }));
}

/// `ready` runs beside the opening of a bus; what is published after both have happened must be heard.
fn heard_after(interest: Interest, ready: impl Fn(&Listener) + Send + Sync + 'static) {
    let ready = Arc::new(ready);
    explore(move || {
        let hub = hub();
        let (ear, listener) = listen(&hub, 1, interest);
        let is_ready = Arc::new(AtomicBool::new(false));
        let publisher = {
            let (hub, is_ready) = (hub.clone(), is_ready.clone());
            thread::spawn(move || {
                let bus = open(&hub, 1);
                let must_hear = is_ready.load(Ordering::SeqCst);
                publish(&bus);
                (must_hear, bus)
            })
        };
        ready(&listener);
        is_ready.store(true, Ordering::SeqCst);
        let (must_hear, bus) = publisher.join().unwrap();
        assert!(ear.heard() == 1 || (!must_hear && ear.heard() == 0), "heard {}", ear.heard());
        let before = ear.heard();
        publish(&bus);
        assert_eq!(ear.heard(), before + 1, "both are over: the next event is heard once");
    });
}

#[test]
fn who_watches_while_a_bus_opens_hears_it() {
    heard_after(Interest::Watched, |listener| assert!(listener.watch(&key())));
}

#[test]
fn who_begins_to_hear_everything_while_a_bus_opens_hears_it() {
    heard_after(Interest::Watched, Listener::hear_everything);
}

#[test]
fn who_listens_while_a_bus_opens_hears_it() {
    explore(|| {
        let hub = hub();
        let other = hub.clone();
        let listening = thread::spawn(move || listen(&other, 1, Interest::Everything));
        let bus = open(&hub, 1);
        let (ear, _listener) = listening.join().unwrap();
        publish(&bus);
        assert_eq!(ear.heard(), 1);
    });
}

#[test]
fn who_hears_everything_goes_on_when_a_watch_ends_beside() {
    explore(|| {
        let hub = hub();
        let bus = open(&hub, 1);
        let (ear, listener) = listen(&hub, 1, Interest::Watched);
        assert!(listener.watch(&key()));
        let listener = Arc::new(listener);
        let other = listener.clone();
        let unwatching = thread::spawn(move || other.unwatch(&key()));
        listener.hear_everything();
        unwatching.join().unwrap();
        publish(&bus);
        assert_eq!(ear.heard(), 1);
    });
}

#[test]
fn watching_and_unwatching_at_once_agree_on_the_seat() {
    explore(|| {
        let hub = hub();
        let bus = open(&hub, 1);
        let (ear, listener) = listen(&hub, 1, Interest::Watched);
        let listener = Arc::new(listener);
        let other = listener.clone();
        let watching = thread::spawn(move || assert!(other.watch(&key())));
        listener.unwatch(&key());
        watching.join().unwrap();
        publish(&bus);
        assert_eq!(ear.heard(), bus.seats(), "who has a seat wants to hear, and who wants to hear has one");
    });
}

#[test]
fn nothing_is_delivered_after_leaving() {
    explore(|| {
        let hub = hub();
        let (ear, listener) = listen(&hub, 1, Interest::Everything);
        let bus = open(&hub, 1);
        let publisher = thread::spawn(move || {
            publish(&bus);
            bus
        });
        drop(listener);
        ear.leave();
        let bus = publisher.join().unwrap();
        assert_eq!(bus.seats(), 0);
    });
}

#[test]
fn nothing_is_delivered_after_a_watch_has_ended() {
    explore(|| {
        let hub = hub();
        let (ear, listener) = listen(&hub, 1, Interest::Watched);
        assert!(listener.watch(&key()));
        let bus = open(&hub, 1);
        let publisher = thread::spawn(move || publish(&bus));
        listener.unwatch(&key());
        ear.leave();
        publisher.join().unwrap();
    });
}

#[test]
fn who_leaves_while_a_bus_opens_is_not_on_it() {
    explore(|| {
        let hub = hub();
        let (ear, listener) = listen(&hub, 1, Interest::Everything);
        let other = hub.clone();
        let opening = thread::spawn(move || open(&other, 1));
        drop(listener);
        ear.leave();
        let bus = opening.join().unwrap();
        publish(&bus);
        assert_eq!(bus.seats(), 0, "nothing is kept for a listener that has left");
    });
}

#[test]
fn a_bus_that_closes_does_not_take_its_successor_along() {
    explore(|| {
        let hub = hub();
        let former = open(&hub, 1);
        let closing = thread::spawn(move || drop(former));
        let bus = open(&hub, 1);
        closing.join().unwrap();
        let (ear, _listener) = listen(&hub, 1, Interest::Everything);
        publish(&bus);
        assert_eq!(ear.heard(), 1, "the successor is found by those who come later");
    });
}

#[test]
fn the_same_key_in_two_tenants_is_two_buses() {
    explore(|| {
        let hub = hub();
        let (mine, listener) = listen(&hub, 1, Interest::Watched);
        let (theirs, _other_listener) = listen(&hub, 2, Interest::Everything);
        let publisher = {
            let hub = hub.clone();
            thread::spawn(move || {
                let bus = open(&hub, 2);
                publish(&bus);
                bus
            })
        };
        assert!(listener.watch(&key()));
        listener.hear_everything();
        let _bus = publisher.join().unwrap();
        assert_eq!((mine.heard(), theirs.heard()), (0, 1));
    });
}

#[test]
fn two_publishers_and_two_listeners_never_wait_for_each_other() {
    explore(|| {
        let hub = hub();
        let (stays, _listener) = listen(&hub, 1, Interest::Everything);
        let (leaves, leaver) = listen(&hub, 1, Interest::Everything);
        let first = open(&hub, 1);
        let second = hub.open_bus(&scope(tenant(1), "agent:main:other", "g"));
        let publisher = thread::spawn(move || publish(&first));
        let leaving = thread::spawn(move || {
            drop(leaver);
            leaves.leave();
        });
        publish(&second);
        publisher.join().unwrap();
        leaving.join().unwrap();
        assert_eq!(stays.heard(), 2);
    });
}
