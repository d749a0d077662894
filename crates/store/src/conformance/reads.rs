//! Ranges, drafts, permissions and descriptions.

use watertight_core::grant::Verb;
use watertight_core::ids::{EntryId, GenerationNo, Seq};
use watertight_core::receipt::Receipt;
use watertight_core::scope::authorize;
use watertight_core::session::SessionMeta;

use super::Fixture;
use super::world::{START, World, only, said};
use crate::StoreError;
use crate::model::{Batch, EntryRange};

/// Tail with and without skip, before, after, limits at and beyond the ends; always oldest first.
pub async fn a_range_is_the_entries_it_names(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    for text in ["1", "2", "3", "4", "5"] {
        world.say(&mut desk, text).await;
    }
    let tail = |limit, skip| EntryRange::Tail { limit, skip };
    let before = |before, limit| EntryRange::Before { before, limit };
    let after = |seq, limit| EntryRange::After { after: Seq(seq), limit };
    let cases: [(EntryRange, &[&str]); 19] = [
        (tail(2, 0), &["4", "5"]),
        (tail(2, 1), &["3", "4"]),
        (tail(2, 4), &["1"]),
        (tail(2, 5), &[]),
        (tail(9, 9), &[]),
        (tail(0, 0), &[]),
        (tail(u32::MAX, 0), &["1", "2", "3", "4", "5"]),
        (before(5, 2), &["3", "4"]),
        (before(3, 10), &["1", "2"]),
        (before(2, 1), &["1"]),
        (before(1, 10), &[]),
        (before(0, 10), &[]),
        (before(u32::MAX, 2), &["4", "5"]),
        (before(3, 0), &[]),
        (after(0, 2), &["1", "2"]),
        (after(3, 10), &["4", "5"]),
        (after(5, 10), &[]),
        (after(u64::MAX, 10), &[]),
        (after(2, 0), &[]),
    ];
    for (range, expected) in cases {
        let entries = world.store.entries(&desk.scope, GenerationNo(1), range).await;
        let entries = entries.unwrap_or_else(|error| panic!("{range:?}: {error}"));
        let texts: Vec<_> = entries.iter().map(|entry| entry.body.message.text()).collect();
        assert_eq!(texts, expected, "{range:?}");
    }
}

/// Paging from the end back to the start, each page below the oldest entry seen, while the session is written.
pub async fn pages_back_from_the_end_join_while_the_session_is_written(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    // Numbers are those of the generation, not of the session.
    world.say(&mut desk, "of another generation").await;
    world.switch(&mut desk, "second").await;
    for n in 1..=7 {
        world.say(&mut desk, &n.to_string()).await;
    }
    let (mut seen, mut before) = (Vec::new(), u32::MAX);
    loop {
        let range = EntryRange::Before { before, limit: 2 };
        let page = world.store.entries(&desk.scope, GenerationNo(2), range).await.expect("a page");
        let Some(oldest) = page.first() else { break };
        before = oldest.message_seq;
        seen.splice(..0, page.iter().map(|entry| entry.body.message.text()));
        world.say(&mut desk, "written meanwhile").await;
    }
    assert_eq!(seen, ["1", "2", "3", "4", "5", "6", "7"]);
}

/// Another session's entry id is as good as no id.
pub async fn an_entry_is_found_by_its_id_in_its_own_session_only(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let (mut one, mut two) = (world.desk("agent:main:one").await, world.desk("agent:main:two").await);
    let entry = world.say(&mut one, "one").await;
    world.say(&mut one, "later").await;
    world.say(&mut two, "two").await;
    assert_eq!(world.store.entry(&one.scope, entry.id).await.expect("a look-up"), Some(entry.clone()));
    assert_eq!(world.store.entry(&two.scope, entry.id).await.expect("a look-up"), None);
    assert_eq!(world.store.entry(&one.scope, EntryId::from_bytes([0; 16])).await.expect("a look-up"), None);
    world.switch(&mut one, "second").await;
    assert!(world.store.entry(&one.scope, entry.id).await.expect("a look-up").is_some(), "of any generation");
}

/// A receipt is where the session ended right after its entry was stored, whatever was stored later; other sessions'
/// entries have none.
pub async fn a_receipt_names_the_place_of_its_entry(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let mut expected = Vec::new();
    for n in 1..=4 {
        let entry = world.say(&mut desk, &n.to_string()).await;
        let receipt = Receipt { session: desk.scope.session(), seq: entry.seq, chain: desk.head.chain };
        expected.push((entry.id, receipt));
        if n == 2 {
            world.switch(&mut desk, "second").await;
        }
    }
    let mut other = world.desk("agent:main:other").await;
    world.say(&mut other, "elsewhere").await;
    for (id, receipt) in expected {
        assert_eq!(world.store.receipt(&desk.scope, id).await, Ok(Some(receipt)));
        assert_eq!(world.store.receipt(&other.scope, id).await, Ok(None));
    }
    let draft = world.scope(&world.operator.caller, "agent:main:draft").await;
    assert_eq!(world.store.receipt(&draft, EntryId::from_bytes([1; 16])).await, Ok(None));
}

/// A draft can be opened and read; nobody finds it until its first commit.
pub async fn a_draft_reads_as_empty_and_writes_nothing(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let desk = world.desk("agent:main:main").await;
    assert!(desk.scope.is_draft());
    assert_eq!((desk.head.seq, desk.head.leaf), (Seq(0), None));
    assert!(world.texts(&desk).await.is_empty());
    let row = world.store.describe(&desk.scope).await.expect("described");
    assert!(row.record.is_draft() && row.meta == SessionMeta::default() && row.record.created_at() == START);
    let generations = world.store.generations(&desk.scope).await.expect("generations");
    assert_eq!(generations.len(), 1);
    assert_eq!(&generations[0].id, desk.scope.generation());
    assert!(world.find(&world.operator.caller, "agent:main:main").await.is_none());
    assert_eq!(world.listed(super::world::everything()).await, (Vec::new(), 0));
}

/// Without the write verb nothing is drafted, opened for writing or committed.
pub async fn reading_allows_no_writing(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    let reader = only(&world.operator.caller, Verb::Read);
    let permit = world.permit(&reader, Verb::Read, "agent:main:new").await;
    assert_eq!(world.store.draft_session(&permit, None, START).await.err(), Some(StoreError::NotPermitted));

    let permit = world.permit(&reader, Verb::Read, "agent:main:main").await;
    let record = world.store.find_session(&permit).await.expect("a look-up").expect("it is there");
    let scope = authorize(permit, &record).expect("it fits");
    assert_eq!(world.store.open_session(&scope).await.err(), Some(StoreError::NotPermitted));
    let batch = Batch { at: START, entries: vec![said("two")], ..Batch::default() };
    let refused = world.store.commit(&scope, desk.lease, &desk.head, batch).await;
    assert_eq!(refused.err(), Some(StoreError::NotPermitted));
    let range = EntryRange::Tail { limit: 10, skip: 0 };
    assert_eq!(world.store.entries(&scope, GenerationNo(1), range).await.expect("entries").len(), 1);
}

/// A description stays until another is written; every write moves the time.
pub async fn a_description_is_what_was_last_written(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let meta = SessionMeta { label: Some("mine".to_owned()), message_count: 3, ..SessionMeta::default() };
    world.describe(&mut desk, meta.clone()).await;
    let written = desk.now;
    world.say(&mut desk, "one").await;
    let row = world.store.describe(&desk.scope).await.expect("described");
    assert_eq!((&row.meta, row.updated_at), (&meta, written));
    let changed = SessionMeta { archived_at: Some(START), ..meta };
    world.describe(&mut desk, changed.clone()).await;
    assert_eq!(world.store.describe(&desk.scope).await.expect("described").meta, changed);
    assert_eq!(world.store.open_session(&desk.scope).await.expect("opened").meta, changed);
}
