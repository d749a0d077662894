//! Resets, switches and coming back (product.md decision 13).

use watertight_core::grant::{Grants, Verb};
use watertight_core::ids::{GenerationNo, Lifecycle, Seq};
use watertight_core::scope::authorize;

use super::Fixture;
use super::world::{START, World, generation, reading, said};
use crate::model::{Batch, EntryRange, GenerationHit, Switch};

const ALL: EntryRange = EntryRange::Tail { limit: 100, skip: 0 };

/// The new transcript starts at message 1, the session's order goes on, the old transcript stays readable.
pub async fn a_switch_starts_a_new_transcript_and_keeps_the_old_one(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    let (first, life) = (desk.scope.generation().clone(), desk.scope.lifecycle());
    let batch =
        Batch { switch: Some(Switch { to: generation("second") }), entries: vec![said("two")], ..Batch::default() };
    let done = world.commit(&mut desk, batch).await.expect("stored");
    assert_eq!(done.record.generation(), &generation("second"));
    assert_eq!((done.record.generation_no(), done.record.lifecycle()), (GenerationNo(2), Lifecycle(life.0 + 1)));
    let entry = &done.entries[0];
    assert_eq!((entry.seq, entry.message_seq, entry.generation), (Seq(2), 1, GenerationNo(2)));
    assert_eq!(entry.body.parent, None, "a transcript starts without a parent");
    assert_eq!(world.texts(&desk).await, ["two"]);

    let old = world.store.entries(&desk.scope, GenerationNo(1), ALL).await.expect("entries");
    assert_eq!(old.len(), 1);
    assert_eq!(old[0].body.message.text(), "one");
    let listed = world.store.generations(&desk.scope).await.expect("generations");
    let listed: Vec<_> = listed.into_iter().map(|g| (g.no, g.id)).collect();
    assert_eq!(listed, [(GenerationNo(1), first), (GenerationNo(2), generation("second"))]);
    assert!(world.store.entries(&desk.scope, GenerationNo(9), ALL).await.expect("entries").is_empty());
}

/// An older transcript made live again goes on with its own numbers and leaf.
pub async fn switching_back_goes_on_where_the_transcript_ended(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "a1").await;
    let a2 = world.say(&mut desk, "a2").await;
    let first = desk.scope.generation().as_str().to_owned();
    world.switch(&mut desk, "second").await;
    world.say(&mut desk, "b1").await;
    let back = world.switch(&mut desk, &first).await;
    assert_eq!((back.record.generation_no(), back.head.message_seq), (GenerationNo(1), 2));
    assert_eq!((back.head.seq, back.head.leaf), (Seq(3), Some(a2.id)));
    let a3 = world.say(&mut desk, "a3").await;
    assert_eq!((a3.seq, a3.message_seq, a3.body.parent), (Seq(4), 3, Some(a2.id)));
    assert_eq!(world.texts(&desk).await, ["a1", "a2", "a3"]);
    world.switch(&mut desk, "second").await;
    world.say(&mut desk, "b2").await;
    assert_eq!(world.texts(&desk).await, ["b1", "b2"]);
    let range = EntryRange::After { after: Seq(2), limit: 10 };
    let later = world.store.entries(&desk.scope, GenerationNo(1), range).await.expect("entries");
    assert_eq!(later.iter().map(|e| e.body.message.text()).collect::<Vec<_>>(), ["a3"]);
    // The same after a restart, when nothing is remembered.
    let world = world.reopened(fixture).await;
    let desk = world.desk("agent:main:main").await;
    assert_eq!(world.texts(&desk).await, ["b1", "b2"]);
    let entries = world.store.entries(&desk.scope, GenerationNo(1), ALL).await.expect("entries");
    assert_eq!(entries.len(), 3);
}

/// Neither a new life nor a new generation.
pub async fn switching_to_the_live_generation_changes_nothing(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    let (live, life) = (desk.scope.generation().as_str().to_owned(), desk.scope.lifecycle());
    let done = world.switch(&mut desk, &live).await;
    assert_eq!((done.record.lifecycle(), done.record.generation_no()), (life, GenerationNo(1)));
    assert_eq!(done.head.message_seq, 1);
    assert_eq!(world.store.generations(&desk.scope).await.expect("generations").len(), 1);
}

/// Hits are the tenant's own, latest written first, and say whether the generation is live.
pub async fn a_generation_is_found_in_every_session_that_holds_it(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let other = world.tenant("other").await;
    let mut foreign = world.desk_of(&other.caller, "agent:main:foreign").await;
    world.switch(&mut foreign, "shared").await;
    let mut old = world.desk("agent:main:old").await;
    world.switch(&mut old, "shared").await;
    world.switch(&mut old, "newer").await;
    let mut live = world.desk("agent:main:live").await;
    live.now = START.plus_millis(50);
    world.switch(&mut live, "shared").await;

    let caller = &world.operator.caller;
    let hits = world.holding(caller, "shared").await;
    let hits: Vec<_> = hits.iter().map(|GenerationHit { key, live, .. }| (key.as_str(), *live)).collect();
    assert_eq!(hits, [("agent:main:live", true), ("agent:main:old", false)]);
    assert!(world.holding(caller, "nowhere").await.is_empty());
}

/// What others hold under the same id neither shows nor crowds the caller's own out.
pub async fn a_generation_is_found_among_the_callers_own_sessions_only(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let mut own = world.desk("agent:main:user:al:one").await;
    world.switch(&mut own, "shared").await;
    for n in 0..300 {
        let permit = world.permit(&world.operator.caller, Verb::Write, &format!("agent:main:user:bo:{n}")).await;
        let record = world.store.draft_session(&permit, Some(generation("shared")), START).await.expect("a draft");
        let mut others = world.open(authorize(permit, &record).expect("it fits")).await;
        others.now = START.plus_millis(100);
        world.say(&mut others, "hello").await;
    }
    let caller = &world.operator.caller;
    let held = async |grants: &Grants, now| {
        let hits = world.store.find_generation(caller, grants, &generation("shared"), now).await.expect("a look-up");
        hits.iter().map(|hit| hit.key.as_str().to_owned()).collect::<Vec<_>>()
    };
    let grants = reading(caller, &["agent:main:user:al", "agent:ops"]);
    assert_eq!(held(&grants, START).await, ["agent:main:user:al:one"]);
    assert!(held(&grants, START.plus_millis(1)).await.is_empty(), "the grants have ended");
    assert!(held(&reading(caller, &["agent:main:user:a"]), START).await.is_empty());
    let other = world.tenant("other").await;
    let foreign = world.store.grants(&other.caller).await.expect("grants");
    assert!(held(&foreign, START).await.is_empty(), "another principal's grants show nothing");
}

/// The first transcript bears the id the caller chose.
pub async fn a_draft_may_choose_its_generation(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let permit = world.permit(&world.operator.caller, Verb::Write, "agent:main:main").await;
    let record = world.store.draft_session(&permit, Some(generation("chosen")), START).await.expect("a draft");
    let mut desk = world.open(authorize(permit, &record).expect("it fits")).await;
    world.say(&mut desk, "one").await;
    let found = world.find(&world.operator.caller, "agent:main:main").await.expect("it is there");
    assert_eq!((found.generation(), found.generation_no()), (&generation("chosen"), GenerationNo(1)));
    // A draft whose first commit switches at once holds both.
    let mut other = world.desk("agent:main:other").await;
    world.switch(&mut other, "second").await;
    assert_eq!(world.store.generations(&other.scope).await.expect("generations").len(), 2);
    world.say(&mut other, "two").await;
    assert_eq!(world.texts(&other).await, ["two"]);
}
