//! Figures of a large store. To be run in release, on its own:
//! `cargo test --release -p watertight-store --test sqlite scale -- --ignored --nocapture`, with the number of sessions in
//! `WATERTIGHT_SESSIONS` if not 100,000.

use std::sync::Arc;
use std::time::{Duration, Instant};

use watertight_core::Steward;
use watertight_core::ids::UnixMillis;
use watertight_core::key::AgentId;
use watertight_store::Store;
use watertight_store::conformance::world::{START, World, accepted, everything, said};
use watertight_store::conformance::{Fixture, Subject};
use watertight_store::model::{Archived, Batch, ListQuery, RunChange};
use watertight_store::sqlite::Verifier;
use watertight_store::verification::Selection;

use crate::durability::killed_now;
use crate::{Sqlite, master};

/// Sessions with a run that nobody ended.
const OPEN: u64 = 2000;
/// Sessions written at the same time.
const WRITERS: u64 = 256;

fn sessions() -> u64 {
    std::env::var("WATERTIGHT_SESSIONS").map_or(100_000, |text| text.parse().unwrap())
}

/// So many sessions with one answered turn each, the last ones unanswered.
async fn filled(fixture: &Sqlite, sessions: u64) -> World {
    let world = Arc::new(World::new(fixture).await);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let world = world.clone();
        writers.spawn(async move {
            for n in (writer..sessions).step_by(WRITERS as usize) {
                let agent = if n % 10 == 0 { "ops" } else { "main" };
                let mut desk = world.desk(&format!("agent:{agent}:user:{}:{n}", n % 1000)).await;
                desk.now = START.plus_millis(n as i64);
                let id = format!("run-{n}");
                let input = said("What is the state of the incident, and who is on it?");
                let runs = vec![accepted(&id, &input)];
                world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.unwrap();
                if n + OPEN < sessions {
                    let runs = vec![RunChange::End {
                        id: watertight_store::conformance::world::run(&id),
                        outcome: watertight_core::run::RunOutcome::TimedOut,
                    }];
                    let entries = vec![said("It is under control.")];
                    world.commit(&mut desk, Batch { entries, runs, ..Batch::default() }).await.unwrap();
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    Arc::into_inner(world).unwrap()
}

/// Time this thread had a processor, where the system tells.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes 100,000 sessions"]
async fn a_store_of_a_hundred_thousand_sessions() {
    let sessions = sessions();
    let fixture = Sqlite::new();
    let start = Instant::now();
    let world = filled(&fixture, sessions).await;
    println!("{sessions} sessions of a turn each: made in {:.1?}", start.elapsed());

    let killed = killed_now(&fixture);
    let start = Instant::now();
    let store = killed.store();
    let opened = start.elapsed();
    let steward = Steward::from_opened_keystore();
    let unfinished = store.unfinished(&steward).await.unwrap();
    let found = start.elapsed();
    assert_eq!(unfinished.len() as u64, OPEN.min(sessions));
    println!("after a kill: open in {opened:.1?}, {} open sessions known in {found:.1?}", unfinished.len());
    let mut times = Vec::new();
    for (tenant, session) in unfinished {
        let start = Instant::now();
        assert_eq!(store.open_runs(&steward, tenant, session).await.unwrap().runs.len(), 1);
        times.push(start.elapsed());
    }
    println!(
        "open runs of one session: p50 {:.1?}, p99 {:.1?}",
        percentile(&mut times, 50),
        percentile(&mut times, 99)
    );
    let start = Instant::now();
    store.checked().await.unwrap();
    println!("the check beside the work took {:.1?} more", start.elapsed());
    drop(store);

    let caller = &world.operator.caller;
    let grants = world.store.grants(caller).await.unwrap();
    let page = |query: ListQuery| ListQuery { limit: 50, ..query };
    let agent = |name: &str| Some(AgentId::parse(name).unwrap());
    let lists = [
        ("all", page(everything())),
        ("agent of a tenth", page(ListQuery { agent: agent("ops"), ..everything() })),
        ("of no session", page(ListQuery { agent: agent("none"), ..everything() })),
        (
            "written lately",
            page(ListQuery { active_since: Some(UnixMillis(START.0 + sessions as i64 - 100)), ..everything() }),
        ),
        ("page 100", page(ListQuery { offset: 5000, ..everything() })),
        ("archived", page(ListQuery { archived: Archived::Only, ..everything() })),
        ("by label", page(ListQuery { label: Some("none".to_owned()), ..everything() })),
    ];
    for (name, query) in lists {
        let mut times = Vec::new();
        for _ in 0..300 {
            let start = Instant::now();
            let page = world.store.list(caller, &grants, query.clone()).await.unwrap();
            times.push(start.elapsed());
            assert!(page.rows.len() <= 50);
        }
        println!("list, {name}: p50 {:.2?}, p99 {:.2?}", percentile(&mut times, 50), percentile(&mut times, 99));
    }
    let start = Instant::now();
    let query = page(ListQuery { search: Some("incident-42".to_owned()), ..everything() });
    world.store.list(caller, &grants, query).await.unwrap();
    println!("list, search: {:.1?}", start.elapsed());

    let World { store, .. } = world;
    drop(store);
    let start = Instant::now();
    let Subject { store, .. } = fixture.open().await;
    println!("after an end in order: open in {:.1?}", start.elapsed());
    let (start, cpu) = (Instant::now(), cpu_time());
    let report =
        Verifier::open(fixture.path(), &master()).unwrap().verify(&steward, &Selection::default(), |_| {}).unwrap();
    println!(
        "verified {} sessions, {} entries in {:.1?}, {:.1?} of them on a processor",
        report.sessions,
        report.entries,
        start.elapsed(),
        cpu_time().saturating_sub(cpu)
    );
    assert!(report.holds(), "{:?}", &report.problems[..1]);
    drop(store);
}
