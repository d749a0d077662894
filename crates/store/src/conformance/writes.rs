//! Order, atomicity, leases, heads and lives (isolation.md C1, C3, C6).

use watertight_core::ids::Seq;
use watertight_core::session::SessionMeta;

use super::Fixture;
use super::world::{START, World, accepted, generation, said};
use crate::StoreError;
use crate::model::{Batch, Switch};

/// Seq and message seq count up without a gap, over batches of any size.
pub async fn entries_keep_their_order(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    let batch = Batch { entries: vec![said("two"), said("three")], ..Batch::default() };
    let done = world.commit(&mut desk, batch).await.expect("stored");
    let places: Vec<_> = done.entries.iter().map(|entry| (entry.seq, entry.message_seq)).collect();
    assert_eq!(places, [(Seq(2), 2), (Seq(3), 3)]);
    assert_eq!((done.head.seq, done.head.message_seq), (Seq(3), 3));
    assert_eq!(done.head.leaf, Some(done.entries[1].id));
    assert_eq!(world.texts(&desk).await, ["one", "two", "three"]);
}

/// A batch refused in its last step leaves no entry, no run, no description and no new head.
pub async fn a_batch_is_applied_whole_or_not_at_all(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let first = said("one");
    let runs = vec![accepted("r1", &first)];
    world.commit(&mut desk, Batch { entries: vec![first], runs, ..Batch::default() }).await.expect("stored");

    let second = said("two");
    let refused = Batch {
        switch: Some(Switch { to: generation("other") }),
        runs: vec![accepted("r2", &second), accepted("r1", &second)],
        entries: vec![second],
        meta: Some(SessionMeta { label: Some("x".to_owned()), ..SessionMeta::default() }),
        ..Batch::default()
    };
    assert_eq!(world.commit(&mut desk, refused).await.err(), Some(StoreError::RunExists));
    let caller = &world.operator.caller;
    assert!(world.store.find_run(caller, &super::world::run("r2")).await.expect("a look-up").is_none());
    assert_eq!(world.store.generations(&desk.scope).await.expect("generations").len(), 1);
    assert_eq!(world.store.describe(&desk.scope).await.expect("described").meta.label, None);
    assert_eq!(world.texts(&desk).await, ["one"]);
    world.say(&mut desk, "two again").await;
    assert_eq!(world.texts(&desk).await, ["one", "two again"]);
}

/// Two callers draft the same key; the slower one is told and finds the other's session.
pub async fn of_two_drafts_of_one_key_one_is_written(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let (mut first, mut second) = (world.desk("agent:main:main").await, world.desk("agent:main:main").await);
    assert_ne!(first.scope.session(), second.scope.session());
    world.say(&mut first, "first").await;
    let late = world.commit(&mut second, Batch { entries: vec![said("second")], ..Batch::default() }).await;
    assert_eq!(late.err(), Some(StoreError::KeyTaken));
    let mut again = world.desk("agent:main:main").await;
    assert_eq!(again.scope.session(), first.scope.session());
    world.say(&mut again, "second").await;
    assert_eq!(world.texts(&again).await, ["first", "second"]);
}

/// Opening a session takes its lease from whoever had it.
pub async fn a_writer_that_lost_its_lease_cannot_write(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut old = world.desk("agent:main:main").await;
    world.say(&mut old, "one").await;
    let mut new = world.desk("agent:main:main").await;
    assert!(new.lease.epoch > old.lease.epoch);
    let late = world.commit(&mut old, Batch { entries: vec![said("late")], ..Batch::default() }).await;
    assert_eq!(late.err(), Some(StoreError::StaleLease));
    world.say(&mut new, "two").await;
    assert_eq!(world.texts(&new).await, ["one", "two"]);
}

/// The same lease with a head that has moved on is refused.
pub async fn a_stale_head_cannot_write(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    let before = desk.head.clone();
    world.say(&mut desk, "two").await;
    let batch = Batch { at: START, entries: vec![said("late")], ..Batch::default() };
    let late = world.store.commit(&desk.scope, desk.lease, &before, batch).await;
    assert_eq!(late.err(), Some(StoreError::SessionChanged));
    assert_eq!(world.texts(&desk).await, ["one", "two"]);
}

/// A scope made before a switch cannot write after it, even with the right lease and head.
pub async fn an_older_life_cannot_write(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    let old = world.scope(&world.operator.caller, "agent:main:main").await;
    world.switch(&mut desk, "next").await;
    let batch = Batch { at: START, entries: vec![said("late")], ..Batch::default() };
    let late = world.store.commit(&old, desk.lease, &desk.head, batch).await;
    assert_eq!(late.err(), Some(StoreError::SessionChanged));
    assert_eq!(world.texts(&desk).await, Vec::<String>::new());
}

/// The scope of a draft stays good for the session its first commit wrote.
pub async fn a_draft_scope_goes_on_after_its_first_commit(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let scope = world.scope(&world.operator.caller, "agent:main:main").await;
    assert!(scope.is_draft());
    let open = world.store.open_session(&scope).await.expect("opened");
    let mut head = open.head;
    for text in ["one", "two"] {
        let batch = Batch { at: START, entries: vec![said(text)], ..Batch::default() };
        head = world.store.commit(&scope, open.lease, &head, batch).await.expect("stored").head;
    }
    let range = crate::model::EntryRange::Tail { limit: 10, skip: 0 };
    let entries = world.store.entries(&scope, scope.generation_no(), range).await.expect("entries");
    assert_eq!(entries.len(), 2);
    assert!(!world.store.describe(&scope).await.expect("described").record.is_draft());
}

/// An entry without a parent follows the leaf; one that names its parent keeps it.
pub async fn a_missing_parent_is_the_leaf(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let first = world.say(&mut desk, "one").await;
    let second = world.say(&mut desk, "two").await;
    assert_eq!((first.body.parent, second.body.parent), (None, Some(first.id)));
    let mut branch = said("other two");
    branch.body.parent = Some(first.id);
    let done = world.commit(&mut desk, Batch { entries: vec![branch], ..Batch::default() }).await.expect("stored");
    assert_eq!(done.entries[0].body.parent, Some(first.id));
    let range = crate::model::EntryRange::Tail { limit: 10, skip: 0 };
    let stored = world.store.entries(&desk.scope, desk.scope.generation_no(), range).await.expect("entries");
    assert_eq!(stored, [first, second, done.entries[0].clone()]);
}

/// Sessions, entries, generations, descriptions, runs, grants and tokens survive a restart; the next write goes on.
pub async fn everything_is_there_after_reopening(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let input = said("one");
    let runs = vec![accepted("r1", &input)];
    let meta = Some(SessionMeta { label: Some("mine".to_owned()), ..SessionMeta::default() });
    let batch = Batch { entries: vec![input], runs, meta, ..Batch::default() };
    let before = world.commit(&mut desk, batch).await.expect("stored");
    world.switch(&mut desk, "second").await;
    world.say(&mut desk, "two").await;

    let world = world.reopened(fixture).await;
    let caller = super::world::caller(&world.store, &world.hasher, &world.operator.token).await;
    assert!(caller.is_some(), "the token is still accepted");
    let found = world.find(&world.operator.caller, "agent:main:main").await.expect("the session is there");
    assert_eq!(found.id(), before.record.id());
    assert_eq!(found.generation(), &generation("second"));
    assert_eq!((found.created_at(), found.owner()), (before.record.created_at(), before.record.owner()));
    let mut desk = world.desk("agent:main:main").await;
    assert_eq!(world.texts(&desk).await, ["two"]);
    let range = crate::model::EntryRange::Tail { limit: 10, skip: 0 };
    let first = world.store.entries(&desk.scope, before.record.generation_no(), range).await.expect("entries");
    assert_eq!(first, before.entries);
    let run = world.store.find_run(&world.operator.caller, &super::world::run("r1")).await.expect("a look-up");
    assert_eq!(run.expect("the run is there").input, before.entries[0].id);
    assert_eq!(world.store.describe(&desk.scope).await.expect("described").meta.label.as_deref(), Some("mine"));
    world.say(&mut desk, "three").await;
    assert_eq!(world.texts(&desk).await, ["two", "three"]);
}
