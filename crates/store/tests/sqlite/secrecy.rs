//! Nothing a client sent is readable in any file of the state directory.

use std::fs;

use watertight_core::grant::Verb;
use watertight_core::run::{RunOptions, RunOutcome};
use watertight_core::scope::authorize;
use watertight_core::session::SessionMeta;
use watertight_store::conformance::world::{START, World, generation, run, said};
use watertight_store::model::{Batch, RunChange};

use crate::Sqlite;

const MARKER: &str = "canary7731";

fn holds(dir: &std::path::Path, needle: &[u8]) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_holds_a_marker_sent_in_a_key_message_run_id_label_or_generation() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let permit = world.permit(&world.operator.caller, Verb::Write, &format!("agent:{MARKER}:user:{MARKER}-key")).await;
    let record = world.store.draft_session(&permit, Some(generation(&format!("{MARKER}-gen"))), START).await.unwrap();
    let mut desk = world.open(authorize(permit, &record).unwrap()).await;
    let input = said(&format!("a message with {MARKER}-text"));
    let id = run(&format!("{MARKER}-run"));
    let options = RunOptions { extra_instructions: Some(format!("{MARKER}-extra")), ..RunOptions::default() };
    let meta = SessionMeta {
        label: Some(format!("{MARKER}-label")),
        derived_title: Some(format!("{MARKER}-title")),
        last_run: Some(id.clone()),
        ..SessionMeta::default()
    };
    let batch = Batch {
        runs: vec![RunChange::Accept { id: id.clone(), digest: [1; 32], input: input.id, options }],
        entries: vec![input],
        meta: Some(meta),
        ..Batch::default()
    };
    world.commit(&mut desk, batch).await.unwrap();
    world.switch(&mut desk, &format!("{MARKER}-next")).await;
    let outcome = RunOutcome::Aborted { reason: format!("{MARKER}-reason") };
    let end = RunChange::End { id, outcome };
    world.commit(&mut desk, Batch { runs: vec![end], ..Batch::default() }).await.unwrap();

    // The search finds what is there: the tenant's name, which is configuration.
    assert!(!holds(fixture.path(), b"default").is_empty());
    let secret = world.operator.token.expose();
    let check = |when: &str| {
        assert_eq!(holds(fixture.path(), MARKER.as_bytes()), Vec::<String>::new(), "{when}");
        assert_eq!(holds(fixture.path(), secret[21..85].as_bytes()), Vec::<String>::new(), "{when}: token");
        assert_eq!(holds(fixture.path(), &[1; 32]), Vec::<String>::new(), "{when}: master key");
    };
    assert!(fixture.path().join("store.db-wal").exists());
    check("while open");
    drop(world.store);
    check("after closing");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    let mut seen = 0;
    for entry in fs::read_dir(fixture.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        seen += 1;
    }
    assert!(seen >= 4, "store, log, keystore and lock");
}
