//! When a connection is told something without having asked (gateway-ws.md §1.2). One timer serves them all.

use std::time::Duration;

use tokio::time::Instant;

use crate::options::Timing;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A tick.
    Tick,
    /// A ping.
    Ping,
    /// The pong that did not come.
    NoPong,
    /// The presence list may be told again, once it has changed.
    Presence,
}

/// The clocks of one connection.
pub(super) struct Clocks {
    timing: Timing,
    tick: Instant,
    ping: Instant,
    presence: Option<Instant>,
    pong: Pong,
}

impl Clocks {
    pub(super) fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, tick: now + timing.tick, ping: now + timing.ping, presence: None, pong: Pong::new(timing.pong) }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Instant {
        let sure = self.tick.min(self.ping);
        [self.presence, self.pong.due()].into_iter().flatten().fold(sure, Instant::min)
    }

    /// What is due by now, one at a time; the rest keeps its time, and nothing comes in a burst.
    pub(super) fn strike(&mut self, now: Instant) -> Option<Due> {
        if self.pong.due().is_some_and(|due| due <= now) {
            return Some(Due::NoPong);
        }
        if self.tick <= now {
            self.tick = now + self.timing.tick;
            return Some(Due::Tick);
        }
        if self.ping <= now {
            self.ping = now + self.timing.ping;
            return Some(Due::Ping);
        }
        self.presence.take_if(|due| *due <= now).map(|_| Due::Presence)
    }

    /// The presence list was told; not again before this.
    pub(super) fn presence_at(&mut self, at: Instant) {
        self.presence = Some(at);
    }

    /// Whether the client is read from now.
    pub(super) fn reading(&mut self, reading: bool, now: Instant) {
        self.pong.reading(reading, now);
    }

    /// A ping has left.
    pub(super) fn pinged(&mut self, at: Instant) {
        self.pong.pinged(at);
    }

    /// The client said something.
    pub(super) fn heard(&mut self) {
        self.pong.heard();
    }
}

/// When an answer to a ping is due. While requests are not read, pongs are not either.
struct Pong {
    patience: Duration,
    reading: bool,
    due: Option<Instant>,
}

impl Pong {
    fn new(patience: Duration) -> Self {
        Self { patience, reading: true, due: None }
    }

    /// After a pause the client gets the whole time again.
    fn reading(&mut self, reading: bool, now: Instant) {
        if reading && !self.reading {
            self.due = self.due.map(|_| now + self.patience);
        }
        self.reading = reading;
    }

    fn pinged(&mut self, at: Instant) {
        self.due = self.due.or(Some(at + self.patience));
    }

    fn heard(&mut self) {
        self.due = None;
    }

    fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_not_read_gets_the_whole_time_for_its_pong_again() {
        let patience = Duration::from_secs(25);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pong = Pong::new(patience);
        assert_eq!(pong.due(), None);
        pong.pinged(start);
        pong.pinged(after(20));
        assert_eq!(pong.due(), Some(after(25)), "a later ping gives no more time");
        pong.reading(false, after(21));
        assert_eq!(pong.due(), None);
        pong.reading(true, after(60));
        assert_eq!(pong.due(), Some(after(85)));
        pong.heard();
        pong.reading(false, after(61));
        pong.reading(true, after(62));
        assert_eq!(pong.due(), None);
    }

    #[test]
    fn each_clock_strikes_in_its_time_and_late_ones_once() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let timing = Timing { tick: Duration::from_secs(30), ping: Duration::from_secs(25), ..Timing::default() };
        let mut clocks = Clocks::new(timing, start);
        assert_eq!((clocks.next(), clocks.strike(after(24))), (after(25), None));
        clocks.presence_at(after(2));
        assert_eq!((clocks.next(), clocks.strike(after(2))), (after(2), Some(Due::Presence)));
        assert_eq!(clocks.strike(after(25)), Some(Due::Ping));
        clocks.pinged(after(25));
        assert_eq!((clocks.next(), clocks.strike(after(30))), (after(30), Some(Due::Tick)));
        clocks.heard();
        let late = after(500);
        assert_eq!(
            [clocks.strike(late), clocks.strike(late), clocks.strike(late)],
            [Some(Due::Tick), Some(Due::Ping), None]
        );
        clocks.pinged(late);
        assert_eq!(clocks.strike(late + timing.pong), Some(Due::NoPong));
    }
}
