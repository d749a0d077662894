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
