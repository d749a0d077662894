//! The rules of ARCHITECTURE.md that a compiler cannot see, read off the manifests and the sources:
//!
//! * [`edges`]: which crate may depend on which.
//! * [`capabilities`]: which module may make a capability or a record that one is made from.
//! * [`lints`]: where `unsafe` may stand, and that every crate is under the workspace's lints.
//! * [`source`]: Rust source as words, without comments and literals.

mod capabilities;
mod edges;
mod lints;
mod source;

use std::path::{Path, PathBuf};

use edges::{Edge, Kind};
use source::Source;

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_path_buf()
}

fn workspace_metadata(root: &Path) -> cargo_metadata::Metadata {
    cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata reads the workspace")
}

fn workspace_edges(metadata: &cargo_metadata::Metadata) -> Vec<Edge> {
    let members: Vec<String> = metadata.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    let mut edges = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in package.dependencies.iter().filter(|d| members.contains(&d.name)) {
            let kind = match dependency.kind {
                cargo_metadata::DependencyKind::Development => Kind::Development,
                _ => Kind::Normal,
            };
            let edge = Edge::new(&package.name, &dependency.name, kind);
            edges.push(edge.with_features(&dependency.features));
        }
    }
    assert!(edges.len() > members.len(), "the workspace lists its crates' dependencies");
    edges
}

fn workspace_sources(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = ["crates", "tests", "bench"].iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder can be listed") {
            let path = entry.expect("a directory entry can be read").path();
            if path.is_dir() {
                if !path.ends_with("node_modules") && !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is UTF-8");
                let name = path.strip_prefix(root).expect("it lies below the root").to_string_lossy();
                sources.push(Source::new(&name, &text));
            }
        }
    }
    assert!(sources.iter().any(|s| s.path() == "crates/core/src/scope.rs"), "the sources were found");
    sources
}

#[test]
fn every_crate_edge_is_allowed() {
    let violations = edges::check(&workspace_edges(&workspace_metadata(&workspace_root())));
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn what_is_for_tests_is_switched_on_by_no_feature() {
    let metadata = workspace_metadata(&workspace_root());
    let violations: Vec<String> = metadata
        .workspace_packages()
        .iter()
        .flat_map(|package| {
            let features: Vec<_> =
                package.features.iter().map(|(name, enables)| (name.as_str(), enables.as_slice())).collect();
            edges::check_features(&package.name, &features)
        })
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn capabilities_are_made_only_in_their_places() {
    let violations: Vec<String> = workspace_sources(&workspace_root()).iter().flat_map(capabilities::check).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn unsafe_code_stands_in_its_places_only() {
    let root = workspace_root();
    let violations: Vec<String> = workspace_sources(&root).iter().flat_map(lints::check).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
    let manifests: Vec<PathBuf> = workspace_metadata(&root)
        .workspace_packages()
        .iter()
        .map(|package| package.manifest_path.clone().into_std_path_buf())
        .collect();
    let violations = lints::check_manifests(&root, &manifests);
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}
