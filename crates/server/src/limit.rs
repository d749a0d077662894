//! Who may knock, and how often with a wrong secret (isolation.md §2.10). Loopback is not exempt.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::options::Limits;

/// An address as limits count it: IPv4 as it is, also when written as IPv6; of IPv6 the /64 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections that nobody has vouched for yet.
pub(crate) struct Strangers {
    per_source: usize,
    total: usize,
    counts: Mutex<(usize, HashMap<Source, usize>)>,
}

/// A stranger's place. Dropped when it is believed, or gone.
pub(crate) struct Place {
    strangers: Arc<Strangers>,
    source: Source,
}

impl Strangers {
    pub(crate) fn new(per_source: usize, total: usize) -> Arc<Self> {
        Arc::new(Self { per_source, total, counts: Mutex::default() })
    }

    /// A place for one more; none when its address, or the house, is full.
    pub(crate) fn admit(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut counts = lock(&self.counts);
        let (all, by_source) = &mut *counts;
        let own = by_source.get(&source).copied().unwrap_or(0);
        if *all >= self.total || own >= self.per_source {
            return None;
        }
        *all += 1;
        by_source.insert(source, own + 1);
        Some(Place { strangers: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.strangers.counts);
        let (all, by_source) = &mut *counts;
        *all = all.saturating_sub(1);
        if let Entry::Occupied(mut own) = by_source.entry(self.source) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// Most addresses whose failures are remembered; with more, every new address is refused.
const MAX_SOURCES: usize = 10_000;
/// Most failures per second over all addresses; with more, everybody waits for the next second.
const FAILURES_PER_SECOND: u32 = 200;

/// Wrong secrets by address. A missing secret does not count.
pub(crate) struct FailedLogins {
    limits: Limits,
    state: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    sources: HashMap<Source, Attempts>,
    second: Option<Instant>,
    in_second: u32,
}

struct Attempts {
    window_start: Instant,
    count: u32,
    locked_until: Option<Instant>,
}

/// Refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Locked {
    /// When to try again.
    pub(crate) retry_after: Duration,
}

impl FailedLogins {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Whether the address may try now. Asked before a secret is looked at, so that a lock tells nothing about it.
    pub(crate) fn check(&self, source: Source, now: Instant) -> Result<(), Locked> {
        let mut state = lock(&self.state);
        let locked_until = state.sources.get(&source).and_then(|attempts| attempts.locked_until);
        if let Some(left) =
            locked_until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
        {
            return Err(Locked { retry_after: left });
        }
        if state.is_flooded(now) {
            return Err(Locked { retry_after: Duration::from_secs(1) });
        }
        if state.sources.len() >= MAX_SOURCES && !state.sources.contains_key(&source) {
            state.forget_old(now, self.limits.failure_window);
            if state.sources.len() >= MAX_SOURCES {
                return Err(Locked { retry_after: self.limits.failure_window });
            }
        }
        Ok(())
    }

    /// Notes wrong secrets. They are never forgotten before their time: whoever has one secret could else guess at
    /// another.
    pub(crate) fn failed(&self, source: Source, secrets: u32, now: Instant) {
        let Limits { failures, failure_window, lockout, .. } = self.limits;
        let mut state = lock(&self.state);
        if !state.is_flooded(now) {
            state.in_second += secrets;
        }
        let attempts =
            state.sources.entry(source).or_insert(Attempts { window_start: now, count: 0, locked_until: None });
        if now.duration_since(attempts.window_start) >= failure_window {
            attempts.window_start = now;
            attempts.count = 0;
        }
        attempts.count = attempts.count.saturating_add(secrets);
        if attempts.count >= failures {
            attempts.locked_until = Some(now + lockout);
            attempts.count = 0;
        }
    }
}

impl Failures {
    fn is_flooded(&mut self, now: Instant) -> bool {
        let same = self.second.is_some_and(|second| now.duration_since(second) < Duration::from_secs(1));
        if !same {
            self.second = Some(now);
            self.in_second = 0;
        }
        self.in_second >= FAILURES_PER_SECOND
    }

    fn forget_old(&mut self, now: Instant, window: Duration) {
        self.sources.retain(|_, attempts| {
            attempts.locked_until.is_some_and(|until| until > now) || now.duration_since(attempts.window_start) < window
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn spellings_of_one_address_share_their_count() {
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }

    #[test]
    fn strangers_are_bounded_by_address_and_in_all() {
        let strangers = Strangers::new(2, 3);
        let (a, b) = (source("10.0.0.1"), source("10.0.0.2"));
        let first = strangers.admit(a).unwrap();
        let _second = strangers.admit(a).unwrap();
        assert!(strangers.admit(a).is_none(), "the address is full");
        let _third = strangers.admit(b).unwrap();
        assert!(strangers.admit(b).is_none(), "the house is full");
        drop(first);
        let _fourth = strangers.admit(b).unwrap();
        assert!(strangers.admit(a).is_none());
    }

    #[test]
    fn places_leave_nothing_behind() {
        let strangers = Strangers::new(2, 3);
        drop(strangers.admit(source("10.0.0.1")));
        let counts = lock(&strangers.counts);
        assert!(counts.0 == 0 && counts.1.is_empty());
    }

    #[test]
    fn too_many_wrong_secrets_lock_an_address_and_no_other() {
        let logins = FailedLogins::new(Limits::default());
        let (a, b) = (source("127.0.0.1"), source("10.0.0.2"));
        let start = Instant::now();
        for _ in 0..9 {
            logins.failed(a, 1, start);
        }
        assert_eq!(logins.check(a, start), Ok(()));
        logins.failed(a, 1, start);
        assert_eq!(logins.check(a, start), Err(Locked { retry_after: Duration::from_mins(5) }));
        assert_eq!(logins.check(b, start), Ok(()));
        assert!(logins.check(a, start + Duration::from_secs(299)).is_err());
        assert_eq!(logins.check(a, start + Duration::from_mins(5)), Ok(()));
    }

    #[test]
    fn old_failures_do_not_add_up_and_each_secret_counts() {
        let logins = FailedLogins::new(Limits::default());
        let a = source("127.0.0.1");
        let start = Instant::now();
        for minute in 0..20 {
            logins.failed(a, 1, start + Duration::from_secs(61 * minute));
        }
        let later = start + Duration::from_secs(2000);
        assert_eq!(logins.check(a, later), Ok(()));
        for _ in 0..5 {
            assert_eq!(logins.check(a, later), Ok(()));
            logins.failed(a, 2, later);
        }
        assert!(logins.check(a, later).is_err());
    }

    #[test]
    fn a_flood_from_many_addresses_makes_everybody_wait_a_second() {
        let logins = FailedLogins::new(Limits::default());
        let start = Instant::now();
        for host in 0..FAILURES_PER_SECOND {
            logins.failed(Source(IpAddr::from([10, 1, (host / 256) as u8, (host % 256) as u8])), 1, start);
        }
        assert!(logins.check(source("10.9.9.9"), start).is_err());
        assert_eq!(logins.check(source("10.9.9.9"), start + Duration::from_secs(1)), Ok(()));
    }
}
