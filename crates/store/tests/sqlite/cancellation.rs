//! What is asked of the store and given up half-way happens wholly or not at all, and nobody else hears its answer.

use watertight_core::session::SessionMeta;
use watertight_store::conformance::world::{Desk, START, World, accepted, everything, generation, run, said};
use watertight_store::model::{Batch, EntryRange, Switch};
use watertight_testkit::polls::{Dropped, poll_at_most};

use super::Sqlite;

const KEY: &str = "agent:main:given-up";

/// What is asked of the store.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Append,
    AppendThree,
    AcceptRun,
    Switch,
    FirstCommit,
    RefusedCommit,
    Open,
    Entries,
    Describe,
    List,
    FindRun,
    Generations,
}

const ALL: [Asked; 12] = [
    Asked::Append,
    Asked::AppendThree,
    Asked::AcceptRun,
    Asked::Switch,
    Asked::FirstCommit,
    Asked::RefusedCommit,
    Asked::Open,
    Asked::Entries,
    Asked::Describe,
    Asked::List,
    Asked::FindRun,
    Asked::Generations,
];

impl Asked {
    /// The commit it is, where it is one.
    fn batch(self) -> Option<Batch> {
        let batch = Batch { at: START, ..Batch::default() };
        let meta = || Some(SessionMeta { label: Some("given up".into()), ..SessionMeta::default() });
        match self {
            Self::Append | Self::FirstCommit => Some(Batch { entries: vec![said("given up")], meta: meta(), ..batch }),
            Self::AppendThree => Some(Batch { entries: vec![said("given up"), said("2"), said("3")], ..batch }),
            Self::AcceptRun => {
                let input = said("given up");
                Some(Batch { runs: vec![accepted("given-up", &input)], entries: vec![input], meta: meta(), ..batch })
            }
            Self::Switch => {
                let switch = Some(Switch { to: generation("another") });
                Some(Batch { switch, entries: vec![said("given up")], ..batch })
            }
            Self::RefusedCommit => {
                let input = said("given up");
                Some(Batch { runs: vec![accepted("taken", &input)], entries: vec![input], ..batch })
            }
            Self::Open | Self::Entries | Self::Describe | Self::List | Self::FindRun | Self::Generations => None,
        }
    }

    /// Asks, and lets the answer go.
    async fn ask(self, world: &World, desk: &Desk) {
        let store = &world.store;
        let caller = &world.operator.caller;
        if let Some(batch) = self.batch() {
            return drop(store.commit(&desk.scope, desk.lease, &desk.head, batch).await);
        }
        let range = EntryRange::Tail { limit: 10, skip: 0 };
        match self {
            Self::Open => drop(store.open_session(&desk.scope).await),
            Self::Entries => drop(store.entries(&desk.scope, desk.scope.generation_no(), range).await),
            Self::Describe => drop(store.describe(&desk.scope).await),
            Self::List => drop(world.listed(everything()).await),
            Self::FindRun => drop(store.find_run(caller, &run("taken")).await),
            _ => drop(store.generations(&desk.scope).await),
        }
    }
}

/// True when it was complete.
async fn give_up(asked: Asked, polls: usize, dropped: Dropped) -> bool {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut beside = world.desk("agent:main:beside").await;
    let mut desk = world.desk(KEY).await;
    let mut before = Vec::new();
    if !matches!(asked, Asked::FirstCommit) {
        let input = said("one");
        let runs = vec![accepted("taken", &input)];
        world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.unwrap();
        before.push("one".to_owned());
    }

    let complete = poll_at_most(asked.ask(&world, &desk), polls, dropped).await.is_some();

    // Others write and read as if nothing had been.
    world.say(&mut beside, "beside").await;
    assert_eq!(world.texts(&beside).await, ["beside"]);
    // The next writer takes the lease; what the dropped commit has not done by then it never does.
    let mut desk = world.desk(KEY).await;
    let texts = world.texts(&desk).await;
    let with = |more: &[&str]| before.iter().cloned().chain(more.iter().map(|text| (*text).to_owned())).collect();
    let done: Vec<String> = match asked {
        Asked::Append | Asked::AcceptRun | Asked::FirstCommit => with(&["given up"]),
        Asked::AppendThree => with(&["given up", "2", "3"]),
        Asked::Switch => vec!["given up".into()],
        _ => before.clone(),
    };
    assert!(texts == before || texts == done, "{asked:?} after {polls} polls: {texts:?}");
    let happened = texts == done && done != before;
    assert!(happened || !complete || done == before, "{asked:?}: complete, and not there");
    let caller = &world.operator.caller;
    let run = world.store.find_run(caller, &run("given-up")).await.unwrap();
    assert_eq!(run.is_some(), happened && matches!(asked, Asked::AcceptRun), "{asked:?}: entry and run go together");
    if !(texts.is_empty() && matches!(asked, Asked::FirstCommit)) {
        let label = world.store.describe(&desk.scope).await.unwrap().meta.label;
        let described = happened && matches!(asked, Asked::Append | Asked::AcceptRun | Asked::FirstCommit);
        assert_eq!(label.is_some(), described, "{asked:?}: entry and description go together");
    }

    world.say(&mut desk, "next").await;
    let next: Vec<String> = texts.into_iter().chain(["next".to_owned()]).collect();
    assert_eq!(world.texts(&desk).await, next, "{asked:?}: nothing came after it was settled");
    let world = world.reopened(&fixture).await;
    let desk = world.desk(KEY).await;
    assert_eq!(world.texts(&desk).await, next, "{asked:?}: and so it is on the disk");
    complete
}

#[tokio::test]
async fn a_request_given_up_at_any_poll_happens_wholly_or_not_at_all() {
    let mut drops = 0;
    for asked in ALL {
        for dropped in [Dropped::AtOnce, Dropped::WhenWoken] {
            for polls in 0.. {
                if give_up(asked, polls, dropped).await {
                    break;
                }
                drops += 1;
                assert!(polls < 100, "{asked:?} does not end");
            }
        }
    }
    assert!(drops > 2 * ALL.len(), "requests that are ready at once prove nothing: {drops}");
}

/// Many commits of one session and of others are under way at once when one of them is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_dropped_in_a_group_takes_no_other_along() {
    let fixture = Sqlite::new();
    let world = std::sync::Arc::new(World::new(&fixture).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let world = world.clone();
        tasks.spawn(async move {
            let mut desk = world.desk(&format!("agent:main:s{n}")).await;
            for round in 0..20 {
                if n % 2 == 0 {
                    let batch = Batch { at: START, entries: vec![said("given up")], ..Batch::default() };
                    let commit = world.store.commit(&desk.scope, desk.lease, &desk.head, batch);
                    drop(poll_at_most(commit, 1, Dropped::AtOnce).await);
                    desk = world.desk(&format!("agent:main:s{n}")).await;
                } else {
                    world.say(&mut desk, &format!("{n} {round}")).await;
                }
            }
            let texts = world.texts(&desk).await;
            match n % 2 {
                0 => assert!(texts.len() <= 20 && texts.iter().all(|text| text == "given up")),
                _ => assert_eq!(texts, (0..20).map(|round| format!("{n} {round}")).collect::<Vec<_>>()),
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}
