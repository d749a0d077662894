//! The adversarial cases and the authorization matrix, against the built program.
//!
//! * [`file`]: the cases (`tests/vectors/adversarial.json`) and what cannot be run yet (`not-applicable.json`).
//! * [`cases`]: one entry for every case.
//! * [`world`]: a gateway with the file's tenants and principals.
//! * [`http`]: HTTP to the byte.
//! * [`matrix`]: every method and route, by everybody, on everything.
//! * [`revocation`]: how long a revocation takes, and that nothing comes after it.
//!
//! `WATERTIGHT_CASES=P03,P20` runs these cases only.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
mod file;
mod http;
mod matrix;
mod revocation;
mod world;

use std::collections::BTreeSet;
use std::path::Path;

use cases::{CASES, Entry};

/// A number that a longer run sets.
fn parameter(name: &str, default: usize) -> usize {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|error| panic!("{name} must be a number: {error}"))
}

#[test]
fn every_case_of_the_file_is_run_or_listed_with_the_reason_and_never_both() {
    let file = file::vectors();
    let of_file: Vec<&str> =
        file["cases"].as_array().unwrap().iter().map(|case| case["id"].as_str().unwrap()).collect();
    let listed = file::not_applicable();
    let whole: BTreeSet<&str> = listed.iter().filter(|e| e.clause.is_none()).map(|e| e.case.as_str()).collect();
    for id in &of_file {
        let entries = CASES.iter().filter(|(case, _)| case == id).count();
        let expected = usize::from(!whole.contains(id));
        assert_eq!(entries, expected, "{id} has {entries} entries, and is listed: {}", whole.contains(id));
    }
    for (id, _) in CASES {
        assert!(of_file.contains(id), "{id} is no case of the file");
    }
    for entry in &listed {
        assert!(of_file.contains(&entry.case.as_str()), "{} is no case of the file", entry.case);
        if entry.clause.is_some() {
            assert!(!whole.contains(entry.case.as_str()), "{} is listed whole and in part", entry.case);
        }
    }
}

#[test]
fn a_suite_that_covers_a_case_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (id, entry) in CASES {
        if let Entry::Suite(paths) = entry {
            for path in *paths {
                assert!(root.join(path).exists(), "{id} names {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_case_whose_surface_exists_holds() {
    let wanted = std::env::var("WATERTIGHT_CASES").ok();
    let is_wanted = |id: &str| wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one == id));
    let listed = file::not_applicable();
    let mut failed = Vec::new();
    for (id, entry) in CASES.iter().filter(|(id, _)| is_wanted(id)) {
        let title = file::case(id)["title"].as_str().unwrap().to_owned();
        match entry {
            Entry::Suite(paths) => println!("{id} {title}: {}", paths.join(", ")),
            Entry::Run(case) => {
                let begun = std::time::Instant::now();
                // In a task of its own, so that one case that fails does not hide the others.
                let held = tokio::spawn(case()).await.is_ok();
                println!("{id} {title}: {} in {:.1?}", if held { "holds" } else { "FAILED" }, begun.elapsed());
                if !held {
                    failed.push(*id);
                }
            }
        }
    }
    for entry in &listed {
        let clause = entry.clause.as_ref().map(|clause| format!(", {clause}")).unwrap_or_default();
        println!("{}{clause}: not applicable: {}", entry.case, entry.reason);
    }
    assert!(failed.is_empty(), "these cases failed: {failed:?}");
}
