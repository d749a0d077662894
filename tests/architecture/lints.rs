//! Where `unsafe` may stand, and that no crate is outside the workspace's lints.

use std::path::Path;

use crate::source::{Source, Token};

/// The tool launcher's crate, and the layer that tests put under SQLite.
const UNSAFE_PLACES: &[&str] = &["crates/sandbox/src/", "crates/testkit/src/disk/vfs.rs"];

/// Crates that repeat the workspace's lints, because they deny `unsafe` where the others forbid it: a module may then
/// be allowed it. Cargo lets no package inherit lints and change one.
const OWN_LINTS: &[&str] = &["crates/testkit"];

/// One sentence for each `unsafe` outside its places.
pub(crate) fn check(source: &Source) -> Vec<String> {
    if UNSAFE_PLACES.iter().any(|place| source.path().starts_with(place)) {
        return Vec::new();
    }
    let is_unsafe = |token: &Token| matches!(token, Token::Word(word) if word == "unsafe" || word == "unsafe_code");
    let found = source.tokens().iter().filter(|(token, _)| is_unsafe(token));
    found.map(|(_, line)| format!("{}:{line}: unsafe (allowed in {UNSAFE_PLACES:?})", source.path())).collect()
}

/// One sentence for each manifest that leaves the workspace's lints.
pub(crate) fn check_manifests(root: &Path, manifests: &[std::path::PathBuf]) -> Vec<String> {
    let read = |path: &Path| std::fs::read_to_string(path).expect("a manifest can be read");
    let workspace = read(&root.join("Cargo.toml"));
    let mut found = Vec::new();
    for path in manifests {
        let name = path.strip_prefix(root).expect("it lies below the root").parent().expect("it lies in a folder");
        let text = read(path);
        let fits = if OWN_LINTS.iter().any(|own| Path::new(own) == name) {
            own_lints_fit(&workspace, &text)
        } else {
            lines_of(&text, "lints").eq(["workspace = true"])
        };
        if !fits {
            found.push(format!("{}: not the workspace's lints", path.display()));
        }
    }
    found
}

fn own_lints_fit(workspace: &str, manifest: &str) -> bool {
    ["rust", "clippy"].iter().all(|tool| {
        let expected: Vec<String> = lines_of(workspace, &format!("workspace.lints.{tool}"))
            .map(|line| line.replace(r#"unsafe_code = "forbid""#, r#"unsafe_code = "deny""#))
            .collect();
        !expected.is_empty() && lines_of(manifest, &format!("lints.{tool}")).eq(expected)
    })
}

/// The lines of one table of a manifest, without comments.
fn lines_of<'a>(manifest: &'a str, table: &str) -> impl Iterator<Item = &'a str> {
    let header = format!("[{table}]");
    let inside = manifest.lines().skip_while(move |line| *line != header).skip(1);
    inside.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[test]
fn unsafe_outside_its_places_is_reported() {
    let violations = |path: &str, text: &str| check(&Source::new(path, text)).len();
    for text in ["unsafe { f() }", "unsafe fn f() {}", "#[unsafe(no_mangle)]", "#![allow(unsafe_code)]"] {
        assert_eq!(violations("crates/store/src/sqlite.rs", text), 1, "{text}");
        assert_eq!(violations("tests/cuts/main.rs", text), 1, "{text}");
        assert_eq!(violations("crates/testkit/src/disk/vfs.rs", text), 0, "{text}");
    }
    assert_eq!(violations("crates/store/src/sqlite.rs", "// unsafe\nlet x = \"unsafe\";"), 0);
}

#[test]
fn a_crate_that_repeats_the_lints_repeats_all_of_them() {
    let workspace = "[workspace.lints.rust]\nunsafe_code = \"forbid\"\na = \"warn\"\n[workspace.lints.clippy]\n# why\nb = \"deny\"\n";
    let own = |rust: &str| format!("[lints.rust]\n{rust}\n[lints.clippy]\nb = \"deny\"\n");
    assert!(own_lints_fit(workspace, &own("unsafe_code = \"deny\"\na = \"warn\"")));
    assert!(!own_lints_fit(workspace, &own("unsafe_code = \"allow\"\na = \"warn\"")));
    assert!(!own_lints_fit(workspace, &own("unsafe_code = \"deny\"")));
}
