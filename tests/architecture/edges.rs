//! Which crate may depend on which. Edges point one way, from the surfaces down to core.

/// For each crate, all it may depend on. A crate that is not listed may not exist.
const ALLOWED: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("wire", &["core"]),
    ("seal", &["core"]),
    ("config", &["core"]),
    ("sandbox", &["core"]),
    ("provider", &["core", "wire"]),
    ("store", &["core", "seal"]),
    ("engine", &["core", "wire", "seal", "config", "sandbox", "provider", "store"]),
    ("router", &["core", "wire", "seal", "config", "sandbox", "provider", "store", "engine"]),
    ("server", &["core", "wire", "seal", "config", "sandbox", "provider", "store", "engine", "router"]),
    ("cli", &["core", "wire", "seal", "config", "sandbox", "provider", "store", "engine", "router", "server"]),
    ("testkit", &["core", "wire"]),
    ("tests", &["testkit"]),
    ("bench", &["testkit"]),
];

/// How one crate depends on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Part of what is built, build scripts included.
    Normal,
    /// For the crate's own tests only.
    Development,
}

/// One crate depending on another, by the names without the `watertight-` prefix.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    from: String,
    to: String,
    kind: Kind,
}

impl Edge {
    /// An edge between packages as Cargo names them.
    pub(crate) fn new(from: &str, to: &str, kind: Kind) -> Self {
        let short = |name: &str| name.strip_prefix("watertight-").unwrap_or(name).to_owned();
        Self { from: short(from), to: short(to), kind }
    }
}

/// One sentence for each edge that is not allowed.
pub(crate) fn check(edges: &[Edge]) -> Vec<String> {
    edges.iter().filter(|edge| !is_allowed(edge)).map(describe).collect()
}

fn is_allowed(edge: &Edge) -> bool {
    let Some((_, below)) = ALLOWED.iter().find(|(name, _)| *name == edge.from) else {
        return false;
    };
    below.contains(&edge.to.as_str()) || (edge.to == "testkit" && edge.kind == Kind::Development)
}

fn describe(edge: &Edge) -> String {
    if edge.to == "testkit" {
        return format!("{} may use testkit as a dev-dependency only", edge.from);
    }
    match ALLOWED.iter().find(|(name, _)| *name == edge.from) {
        Some((_, below)) => format!("{} may not depend on {}, only on {below:?}", edge.from, edge.to),
        None => format!("{} is not a crate that ARCHITECTURE.md knows", edge.from),
    }
}

#[test]
fn an_edge_that_points_up_is_reported() {
    for (from, to) in
        [("core", "wire"), ("store", "engine"), ("provider", "seal"), ("wire", "config"), ("router", "server")]
    {
        let edge = Edge::new(&format!("watertight-{from}"), &format!("watertight-{to}"), Kind::Normal);
        assert_eq!(check(&[edge]).len(), 1, "{from} -> {to}");
        let edge = Edge::new(from, to, Kind::Development);
        assert_eq!(check(&[edge]).len(), 1, "{from} -> {to} for tests");
    }
}

#[test]
fn testkit_is_for_tests_and_bench_only() {
    assert_eq!(check(&[Edge::new("watertight-server", "watertight-testkit", Kind::Normal)]).len(), 1);
    assert!(check(&[Edge::new("watertight-server", "watertight-testkit", Kind::Development)]).is_empty());
    assert!(check(&[Edge::new("watertight-bench", "watertight-testkit", Kind::Normal)]).is_empty());
}

#[test]
fn an_unknown_crate_is_reported() {
    assert_eq!(check(&[Edge::new("watertight-utils", "watertight-core", Kind::Normal)]).len(), 1);
}

#[test]
fn an_edge_that_points_down_passes() {
    assert!(check(&[Edge::new("watertight-engine", "watertight-store", Kind::Normal)]).is_empty());
}
