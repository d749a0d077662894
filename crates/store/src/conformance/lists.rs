//! Order, filters and pages of session lists.

use watertight_core::grant::Verb;
use watertight_core::key::AgentId;
use watertight_core::session::SessionMeta;

use super::Fixture;
use super::world::{START, World, everything, only, reading};
use crate::model::{Archived, ListQuery};

fn meta(change: impl FnOnce(&mut SessionMeta)) -> SessionMeta {
    let mut meta = SessionMeta::default();
    change(&mut meta);
    meta
}

/// Sessions written at 1, 2, 3 … milliseconds after [`START`], with these descriptions.
async fn filled(world: &World, sessions: &[(&str, SessionMeta)]) {
    for (at, (key, meta)) in (1..).zip(sessions) {
        let mut desk = world.desk(key).await;
        desk.now = START.plus_millis(at);
        world.describe(&mut desk, meta.clone()).await;
    }
}

fn of_agent(id: &str, query: ListQuery) -> ListQuery {
    ListQuery { agent: Some(AgentId::parse(id).expect("an agent id")), ..query }
}

/// Pinned first, each group by the last write.
pub async fn pinned_sessions_come_first_then_the_latest_written(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let pinned = meta(|meta| meta.pinned_at = Some(START));
    let plain = SessionMeta::default();
    filled(
        &world,
        &[
            ("agent:main:a", pinned.clone()),
            ("agent:main:b", plain.clone()),
            ("agent:main:c", pinned),
            ("agent:main:d", plain),
        ],
    )
    .await;
    let (keys, total) = world.listed(everything()).await;
    assert_eq!(keys, ["agent:main:c", "agent:main:a", "agent:main:d", "agent:main:b"]);
    assert_eq!(total, 4);
    let mut desk = world.desk("agent:main:b").await;
    desk.now = START.plus_millis(100);
    world.say(&mut desk, "now the latest").await;
    assert_eq!(world.listed(everything()).await.0[2], "agent:main:b");
}

/// Agent, activity, archive and sentinels narrow together.
pub async fn filters_meet(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let archived = meta(|meta| meta.archived_at = Some(START));
    filled(
        &world,
        &[
            ("agent:main:a", SessionMeta::default()),
            ("agent:ops:b", SessionMeta::default()),
            ("agent:main:c", archived.clone()),
            ("global", SessionMeta::default()),
            ("agent:main-two:d", SessionMeta::default()),
            ("agent:main:e", SessionMeta::default()),
        ],
    )
    .await;
    let cases: [(ListQuery, &[&str]); 8] = [
        (everything(), &["agent:main:e", "agent:main-two:d", "agent:ops:b", "agent:main:a"]),
        (
            ListQuery { sentinels: true, ..everything() },
            &["agent:main:e", "agent:main-two:d", "global", "agent:ops:b", "agent:main:a"],
        ),
        (of_agent("main", everything()), &["agent:main:e", "agent:main:a"]),
        (of_agent("none", everything()), &[]),
        (ListQuery { archived: Archived::Only, ..everything() }, &["agent:main:c"]),
        (
            of_agent("main", ListQuery { archived: Archived::Include, ..everything() }),
            &["agent:main:e", "agent:main:c", "agent:main:a"],
        ),
        (ListQuery { active_since: Some(START.plus_millis(5)), ..everything() }, &["agent:main:e", "agent:main-two:d"]),
        (of_agent("ops", ListQuery { active_since: Some(START.plus_millis(6)), ..everything() }), &[]),
    ];
    for (query, expected) in cases {
        let text = format!("{query:?}");
        let expected: Vec<String> = expected.iter().map(|&key| key.to_owned()).collect();
        let total = expected.len() as u64;
        assert_eq!(world.listed(query).await, (expected, total), "{text}");
    }
}

/// Search ignores case and covers key, label, display name and title; a label matches exactly.
pub async fn search_and_label_look_into_sealed_fields(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    filled(
        &world,
        &[
            ("agent:main:needle", SessionMeta::default()),
            ("agent:main:b", meta(|meta| meta.label = Some("The NEEDLE".to_owned()))),
            ("agent:main:c", meta(|meta| meta.display_name = Some("needles".to_owned()))),
            ("agent:main:d", meta(|meta| meta.derived_title = Some("a Needle?".to_owned()))),
            ("agent:main:e", meta(|meta| meta.last_message_preview = Some("needle".to_owned()))),
        ],
    )
    .await;
    let search = |text: &str| ListQuery { search: Some(text.to_owned()), ..everything() };
    let (keys, total) = world.listed(search("nEEdle")).await;
    assert_eq!(keys, ["agent:main:d", "agent:main:c", "agent:main:b", "agent:main:needle"]);
    assert_eq!(total, 4);
    let page = ListQuery { limit: 2, offset: 1, ..search("needle") };
    assert_eq!(world.listed(page).await, (vec!["agent:main:c".to_owned(), "agent:main:b".to_owned()], 4));
    assert_eq!(world.listed(search("haystack")).await, (Vec::new(), 0));
    let label = |text: &str| ListQuery { label: Some(text.to_owned()), ..everything() };
    assert_eq!(world.listed(label("The NEEDLE")).await.0, ["agent:main:b"]);
    assert!(world.listed(label("the needle")).await.0.is_empty());
    let both = |text: &str| ListQuery { search: Some(text.to_owned()), ..label("The NEEDLE") };
    assert_eq!(world.listed(both("NEEDLE")).await, (vec!["agent:main:b".to_owned()], 1));
    assert_eq!(world.listed(both("haystack")).await, (Vec::new(), 0));
    // A write without a description keeps the label; a description without one takes it away.
    let mut desk = world.desk("agent:main:b").await;
    world.say(&mut desk, "hello").await;
    assert_eq!(world.listed(label("The NEEDLE")).await.1, 1);
    world.describe(&mut desk, SessionMeta::default()).await;
    assert_eq!(world.listed(label("The NEEDLE")).await, (Vec::new(), 0));
}

/// Bounded by the time of the last write, pinned sessions still come first, in pages too.
pub async fn a_time_bounds_pinned_sessions_and_others_alike(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let pinned = meta(|meta| meta.pinned_at = Some(START));
    let sessions: Vec<(String, SessionMeta)> = (1..=9)
        .map(|n| (format!("agent:main:{n}"), if n % 3 == 0 { pinned.clone() } else { SessionMeta::default() }))
        .collect();
    let sessions: Vec<(&str, SessionMeta)> = sessions.iter().map(|(key, meta)| (key.as_str(), meta.clone())).collect();
    filled(&world, &sessions).await;
    let since = |n: i64| ListQuery { active_since: Some(START.plus_millis(n)), ..everything() };
    let cases: [(i64, &[i64]); 5] =
        [(1, &[9, 6, 3, 8, 7, 5, 4, 2, 1]), (4, &[9, 6, 8, 7, 5, 4]), (7, &[9, 8, 7]), (9, &[9]), (10, &[])];
    for (from, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|n| format!("agent:main:{n}")).collect();
        for agent in [None, Some("main")] {
            for limit in [1, 2, 3, 20] {
                let mut joined = Vec::new();
                while joined.len() < expected.len() {
                    let query = ListQuery { limit, offset: joined.len() as u32, ..since(from) };
                    let query = agent.map_or(query.clone(), |agent| of_agent(agent, query));
                    let (page, total) = world.listed(query).await;
                    assert!(!page.is_empty() && total == expected.len() as u64, "since {from}, limit {limit}");
                    joined.extend(page);
                }
                assert_eq!(joined, expected, "since {from}, limit {limit}");
            }
        }
        let beyond = ListQuery { offset: 9, ..since(from) };
        assert_eq!(world.listed(beyond).await, (Vec::new(), expected.len() as u64));
    }
}

/// The total follows sessions that come, are archived and come back.
pub async fn a_total_follows_every_change(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let archived = meta(|meta| meta.archived_at = Some(START));
    let totals = async || {
        let mut totals = Vec::new();
        for archived in [Archived::Exclude, Archived::Only, Archived::Include] {
            let query = ListQuery { archived, limit: 1, ..everything() };
            totals.push(world.listed(of_agent("main", query.clone())).await.1);
            totals.push(world.listed(ListQuery { sentinels: true, ..query }).await.1);
        }
        totals
    };
    assert_eq!(totals().await, [0, 0, 0, 0, 0, 0]);
    filled(&world, &[("agent:main:a", SessionMeta::default()), ("agent:ops:b", archived.clone())]).await;
    filled(&world, &[("agent:main:c", archived.clone()), ("global", SessionMeta::default())]).await;
    assert_eq!(totals().await, [1, 2, 1, 2, 2, 4]);
    let mut desk = world.desk("agent:main:a").await;
    world.describe(&mut desk, archived).await;
    assert_eq!(totals().await, [0, 1, 2, 3, 2, 4]);
    world.say(&mut desk, "still archived").await;
    assert_eq!(totals().await, [0, 1, 2, 3, 2, 4]);
    world.describe(&mut desk, SessionMeta::default()).await;
    assert_eq!(totals().await, [1, 2, 1, 2, 2, 4]);
}

/// An agent's list is the same whether it has a few sessions or many.
pub async fn an_agent_of_many_sessions_is_listed_like_one_of_few(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut expected = Vec::new();
    for n in 0..520 {
        let key = format!("agent:main:{n}");
        let mut desk = world.desk(&key).await;
        desk.now = START.plus_millis(n);
        world.describe(&mut desk, SessionMeta::default()).await;
        expected.insert(0, key);
        if [0, 2, 511, 519].contains(&n) {
            filled(&world, &[("agent:ops:a", SessionMeta::default()), ("agent:main-two:a", SessionMeta::default())])
                .await;
            let query = ListQuery { limit: 1000, ..everything() };
            assert_eq!(world.listed(of_agent("main", query)).await, (expected.clone(), expected.len() as u64));
        }
    }
    let page = ListQuery { limit: 3, offset: 517, ..everything() };
    assert_eq!(world.listed(of_agent("main", page)).await, (expected[517..].to_vec(), 520));
    assert_eq!(world.listed(of_agent("ops", everything())).await, (vec!["agent:ops:a".to_owned()], 1));
}

/// Pages of any size join to the whole list.
pub async fn pages_join_without_gap_or_repeat(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let keys: Vec<String> = (0..11).map(|n| format!("agent:main:s{n}")).collect();
    for key in &keys {
        // All in one millisecond: the order still holds from page to page.
        let mut desk = world.desk(key).await;
        world.describe(&mut desk, SessionMeta::default()).await;
    }
    let (whole, _) = world.listed(everything()).await;
    assert_eq!(whole.len(), 11);
    for limit in [1, 3, 11, 12] {
        let mut joined = Vec::new();
        loop {
            let query = ListQuery { limit, offset: joined.len() as u32, ..everything() };
            let (page, total) = world.listed(query).await;
            assert_eq!(total, 11);
            if page.is_empty() {
                break;
            }
            joined.extend(page);
        }
        assert_eq!(joined, whole, "pages of {limit}");
    }
}

/// A list shows what lies under the caller's own prefixes, whole segments, while the grants last.
pub async fn a_caller_lists_under_its_own_prefixes_only(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    filled(
        &world,
        &[
            ("agent:main:user:al", SessionMeta::default()),
            ("agent:main:user:al:notes", SessionMeta::default()),
            ("agent:main:user:alice", SessionMeta::default()),
            ("agent:ops:user:al", SessionMeta::default()),
            ("agent:main:main", SessionMeta::default()),
            ("global", SessionMeta::default()),
        ],
    )
    .await;
    let caller = &world.operator.caller;
    let sentinels = ListQuery { sentinels: true, ..everything() };
    let late = ListQuery { now: START.plus_millis(1), ..everything() };
    let (al, al_notes) = ("agent:main:user:al", "agent:main:user:al:notes");
    let cases: [(&[&str], ListQuery, &[&str]); 7] = [
        (&[al], sentinels.clone(), &[al_notes, al]),
        (&[al, al_notes, al], everything(), &[al_notes, al]),
        (&[al, "agent:ops"], everything(), &["agent:ops:user:al", al_notes, al]),
        (&[al, "agent:ops"], of_agent("ops", everything()), &["agent:ops:user:al"]),
        (&["global"], sentinels, &["global"]),
        (&["agent:main:user:nobody"], everything(), &[]),
        (&[al], late, &[]),
    ];
    for (prefixes, query, expected) in cases {
        let text = format!("{prefixes:?} {query:?}");
        let page = world.store.list(caller, &reading(caller, prefixes), query).await.expect("a list");
        let keys: Vec<&str> = page.rows.iter().map(|row| row.record.key().as_str()).collect();
        assert_eq!((keys.as_slice(), page.total), (expected, expected.len() as u64), "{text}");
    }
}

/// Neither a ceiling without the read verb nor another principal's grants show anything.
pub async fn a_caller_without_read_lists_nothing(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    filled(&world, &[("agent:main:a", SessionMeta::default())]).await;
    let caller = &world.operator.caller;
    let grants = world.store.grants(caller).await.expect("grants");
    let pairing = only(caller, Verb::Pairing);
    assert_eq!(world.store.list(&pairing, &grants, everything()).await.expect("a list").total, 0);
    let other = world.tenant("other").await;
    assert_eq!(world.store.list(&other.caller, &grants, everything()).await.expect("a list").total, 0);
    assert_eq!(world.store.list(caller, &grants, everything()).await.expect("a list").total, 1);
}
