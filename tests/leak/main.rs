//! A byte that entered under one session never leaves under another, nor into a log, a probe or a file.
//!
//! Tenants whose every name collides, sessions that are cancelled, aborted, cut off, reset, crowded and asked for again,
//! a model that mixes and repeats, and an oracle that knows whose every marker is and looks at everything that comes out.
//!
//! * [`world`]: a gateway in this process, its tenants, and what listens to it.
//! * [`lane`]: turns through the engine's own door.
//! * [`socket`]: turns over WebSockets.
//! * [`session`], [`names`]: what is said, and under which names.
//! * [`model`]: the provider.
//! * [`oracle`], [`logs`]: what looks on.
//! * [`figures`], [`dice`]: counts and chance.
//!
//! `WATERTIGHT_LEAK_TURNS` is the number of turns, `WATERTIGHT_LEAK_SEED` repeats the choices of a run (not its timing).

mod dice;
mod figures;
mod lane;
mod logs;
mod model;
mod names;
mod oracle;
mod session;
mod socket;
mod world;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use watertight_testkit::MockProvider;

use crate::dice::Dice;
use crate::lane::Lane;
use crate::oracle::Oracle;
use crate::session::Session;
use crate::socket::SocketLane;
use crate::world::{Running, TENANTS};

/// Turns where nothing else is asked for.
const TURNS: u64 = 2_000;
/// Turns of one world.
const ROUND: u64 = 25_000;
/// Lanes through the engine.
const LANES: usize = 48;
/// Lanes over WebSockets.
const SOCKET_LANES: usize = 16;
/// Sessions of each lane.
const SESSIONS: usize = 10;
/// How often the provider's memory is emptied.
const FORGOTTEN: Duration = Duration::from_millis(100);

#[test]
fn no_byte_leaves_its_session() {
    let turns = number("WATERTIGHT_LEAK_TURNS").unwrap_or(TURNS);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos() as u64;
    let seed = number("WATERTIGHT_LEAK_SEED").unwrap_or_else(clock);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let oracle = Arc::new(Oracle::new(seed, say));
    logs::watch(&oracle);

    let began = Instant::now();
    runtime.block_on(play(&oracle, seed, turns));
    let seconds = began.elapsed().as_secs_f64();
    let _ = std::panic::take_hook();

    let figures = &oracle.figures;
    figures.memory.at_least(peak_memory());
    let rate = figures.turns.get() as f64 / seconds;
    say(&format!("leak test: {figures}{rate:.0} turns/s, seed {seed}"));
    say(&format!("leaks by place: {}", oracle.leaks()));
    assert_eq!((figures.leaks.get(), figures.wrongs.get()), (0, 0), "leaks and other faults");
    // What saw nothing proves nothing.
    for (name, count) in [
        ("turns", &figures.turns),
        ("prompts", &figures.prompts),
        ("events", &figures.events),
        ("log lines", &figures.log_lines),
        ("probes", &figures.probes),
        ("tags", &figures.tags),
    ] {
        assert!(count.get() > 0, "the oracle saw no {name}");
    }
}

/// To the terminal, also where the test's output is captured.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}

/// The most memory this process has held, in KiB; the provider and the clients are in it. 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

async fn play(oracle: &Arc<Oracle>, seed: u64, turns: u64) {
    let provider = model::start(oracle.clone(), seed).await;
    let mut left = turns;
    let mut round = 0;
    while left > 0 {
        let now = left.min(ROUND);
        left -= now;
        play_round(oracle, &provider, seed, round, now).await;
        round += 1;
        if left > 0 {
            let figures = &oracle.figures;
            say(&format!("{} turns, {} leaks", figures.turns.get(), figures.leaks.get()));
        }
    }
}

async fn play_round(oracle: &Arc<Oracle>, provider: &Arc<MockProvider>, seed: u64, round: usize, turns: u64) {
    let running = Running::open(oracle, provider, round, turns).await;
    let forgetting = tokio::spawn(forget_requests(provider.clone()));
    // The same numbers, and so the same names, in every tenant.
    let mut dealt = [0; TENANTS];
    let mut deal = |tenant: usize| {
        dealt[tenant] += 1;
        oracle.figures.sessions.one();
        Session::new(tenant, running.world.tenants[tenant].number, dealt[tenant] - 1)
    };
    let mut lanes = JoinSet::new();
    for at in 0..LANES + SOCKET_LANES {
        let world = running.world.clone();
        let dice = Dice::new(seed, (round * (LANES + SOCKET_LANES) + at) as u64);
        if at < LANES {
            let sessions = (0..SESSIONS).map(|of| deal((at + of) % TENANTS)).collect();
            lanes.spawn(Lane { world, dice, sessions }.run());
        } else {
            let tenant = at % TENANTS;
            let sessions = (0..SESSIONS).map(|_| deal(tenant)).collect();
            lanes.spawn(async move { SocketLane::connect(world, dice, tenant, sessions).await.run().await });
        }
    }
    while let Some(ended) = lanes.join_next().await {
        ended.expect("a lane ends");
    }
    running.close().await;
    forgetting.abort();
}

/// The provider remembers what it is sent; the oracle has seen it by then.
async fn forget_requests(provider: Arc<MockProvider>) {
    let mut ticks = tokio::time::interval(FORGOTTEN);
    loop {
        ticks.tick().await;
        provider.take_requests();
    }
}
