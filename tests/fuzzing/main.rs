//! The fuzz targets as seeded property tests: every target on every seed, and on `WATERTIGHT_FUZZ_CASES` changed ones (the
//! default takes about a second a target). `WATERTIGHT_FUZZ_SEED` brings a run back. `tests/fuzz` runs the same targets
//! under libFuzzer.

mod mutation;
#[allow(unreachable_pub, reason = "the file is also the library of the crate of fuzz targets")]
#[path = "targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use targets::{TARGETS, Target};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzzing")
}

fn seeds_of(target: &Target) -> Vec<Vec<u8>> {
    let folder = folder().join("seeds").join(target.name);
    let entries = fs::read_dir(&folder).expect("a folder of seeds");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a seed")).collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().expect("a whole number"))
}

/// Plays one target; says what breaks it, so that it can be kept as a seed.
fn play(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let seeds = seeds_of(target);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let seed = number("WATERTIGHT_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let cases = number("WATERTIGHT_FUZZ_CASES").unwrap_or(target.cases);
    let mut dice = Rng::with_seed(seed);
    let changed = (0..cases).map(|_| mutation::mutate(&mut dice, &seeds));
    for data in seeds.iter().cloned().chain(changed) {
        let holds = catch_unwind(|| targets::check(name, &data)).is_ok();
        assert!(holds, "seed {seed}: {name} breaks on b\"{}\"", data.escape_ascii());
    }
}

macro_rules! properties {
    ($($test:ident: $target:literal;)*) => {
        $(#[test]
        fn $test() {
            play($target);
        })*

        #[test]
        fn every_target_is_played_here_and_under_libfuzzer() {
            let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, BTreeSet::from([$($target),*]));
            let manifest = fs::read_to_string(folder().join("../../fuzz/Cargo.toml")).expect("the manifest of fuzz/");
            let binaries: BTreeSet<&str> = manifest
                .split("[[bin]]\nname = \"")
                .skip(1)
                .filter_map(|bin| bin.split_once('"').map(|(name, _)| name))
                .collect();
            assert_eq!(names, binaries);
        }
    };
}

properties! {
    a_key_resolves_to_itself_and_its_segments_come_apart_as_they_went_in: "key";
    a_request_written_again_is_the_same_request: "frame";
    events_do_not_depend_on_how_the_stream_is_cut: "sse";
    an_answer_is_read_and_words_stay_words: "answer";
    a_token_has_one_text: "token";
    a_record_opens_unchanged_and_in_its_place_only: "record";
    a_configuration_is_read_or_every_error_has_its_line: "config";
    a_receipt_is_what_its_text_says: "receipt";
}
