//! A timer of microseconds: the runtime's own rounds to milliseconds, which is more than some of what is measured.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?))
    }

    /// Blocks the thread until then; not at all when it is past.
    pub(crate) fn until(&self, then: Instant) -> Result<()> {
        let wait = then.saturating_duration_since(Instant::now());
        if wait < Duration::from_micros(10) {
            return Ok(());
        }
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        rustix::io::read(&self.0, &mut [0_u8; 8])?;
        Ok(())
    }
}
