//! What a campaign does, all of it from one seed.

use std::time::Duration;

/// Cycles that one state directory sees before the next one takes its place, so that histories stay short.
pub(crate) const LIFE: u64 = 200;
/// Cycles between two audits.
pub(crate) const AUDIT: u64 = 10;
/// How often a run is started anew before it is given up as interrupted.
pub(crate) const MAX_RESTARTS: u64 = 3;

/// Size and seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Kills.
    pub(crate) cycles: u64,
    /// Clients at work at once.
    pub(crate) writers: usize,
    /// What everything random is drawn from. The moments of the kills are drawn from it; what the program was doing just
    /// then is the machine's choice, so that a seed brings back the load but not always the finding.
    pub(crate) seed: u64,
    /// How long the end of a run is waited for before its session counts as wedged.
    pub(crate) end_within: Duration,
    /// Whether the log loses its end in each kill, which must not go unnoticed.
    pub(crate) sabotage: bool,
}

impl Plan {
    /// The short form, unless `WATERTIGHT_CRASH_CYCLES`, `_WRITERS` or `_SEED` say otherwise.
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str| {
            let text = std::env::var(format!("WATERTIGHT_CRASH_{name}")).ok().filter(|text| !text.is_empty())?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("WATERTIGHT_CRASH_{name} is no number: {text}")))
        };
        Self {
            cycles: number("CYCLES").unwrap_or(200),
            writers: usize::try_from(number("WRITERS").unwrap_or(64)).expect("a number of writers"),
            seed: number("SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0),
            end_within: Duration::from_secs(20),
            sabotage: false,
        }
    }
}

/// Random numbers: SplitMix64, enough for choosing moments and messages.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of its own for somebody, drawn from these.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.roll())
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    /// True so many times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// When the program is to be killed.
    pub(crate) fn kill(&mut self) -> Kill {
        let mut between = |from, to| Duration::from_micros(from + self.below(to - from));
        let early = between(0, 10_000);
        let (busy, long) = (between(0, 60_000), between(60_000, 200_000));
        match self.below(10) {
            0..3 => Kill { all_connected: false, after: early },
            3..5 => Kill { all_connected: true, after: early },
            5..9 => Kill { all_connected: true, after: busy },
            _ => Kill { all_connected: true, after: long },
        }
    }
}

/// The moment of a kill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    /// Whether every writer is to be connected first. If not, the kill meets recovery, handshakes and repetitions.
    pub(crate) all_connected: bool,
    /// How long after that, or after the program was ready.
    pub(crate) after: Duration,
}
