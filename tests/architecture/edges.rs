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
    ("tests", &["core", "wire", "seal", "config", "provider", "store", "engine", "server", "testkit"]),
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
    /// The features it enables.
    features: Vec<String>,
}

impl Edge {
    /// An edge between packages as Cargo names them.
    pub(crate) fn new(from: &str, to: &str, kind: Kind) -> Self {
        let short = |name: &str| name.strip_prefix("watertight-").unwrap_or(name).to_owned();
        Self { from: short(from), to: short(to), kind, features: Vec::new() }
    }

    /// The same edge enabling these features.
    pub(crate) fn with_features(self, features: &[String]) -> Self {
        Self { features: features.to_vec(), ..self }
    }

    fn enables(&self, feature: &str) -> bool {
        self.features.iter().any(|enabled| enabled == feature)
    }

    /// A crate's own tests using the crate with more of its features.
    fn is_own_test(&self) -> bool {
        self.from == self.to && self.kind == Kind::Development
    }
}

/// Features that let their crate make capabilities: for that crate's own tests only.
const TEST_FEATURES: &[(&str, &str)] = &[("store", "conformance")];

/// One sentence for each edge that is not allowed.
pub(crate) fn check(edges: &[Edge]) -> Vec<String> {
    edges.iter().filter(|edge| !is_allowed(edge)).map(describe).collect()
}

/// One sentence for each feature of `package` that switches another one on which is for tests.
pub(crate) fn check_features(package: &str, features: &[(&str, &[String])]) -> Vec<String> {
    let names_one = |enabled: &str| {
        TEST_FEATURES.iter().any(|(_, feature)| enabled == *feature || enabled.ends_with(&format!("/{feature}")))
    };
    features
        .iter()
        .filter(|(_, enables)| enables.iter().any(|enabled| names_one(enabled)))
        .map(|(name, _)| format!("the feature {name} of {package} may not switch on a feature that is for tests"))
        .collect()
}

fn is_allowed(edge: &Edge) -> bool {
    if edge.is_own_test() {
        return true;
    }
    if test_feature(edge).is_some() {
        return false;
    }
    let Some((_, below)) = ALLOWED.iter().find(|(name, _)| *name == edge.from) else {
        return false;
    };
    below.contains(&edge.to.as_str()) || (edge.to == "testkit" && edge.kind == Kind::Development)
}

fn test_feature(edge: &Edge) -> Option<&'static str> {
    let (_, feature) = TEST_FEATURES.iter().find(|(to, feature)| edge.to == *to && edge.enables(feature))?;
    Some(feature)
}

fn describe(edge: &Edge) -> String {
    if let Some(feature) = test_feature(edge) {
        return format!("{} may not enable {feature} of {}: it is for that crate's own tests", edge.from, edge.to);
    }
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
fn capabilities_for_tests_are_enabled_by_their_own_crate_s_tests_only() {
    let conformance = ["conformance".to_owned()];
    let edge = |from: &str, kind| Edge::new(from, "watertight-store", kind).with_features(&conformance);
    for kind in [Kind::Normal, Kind::Development] {
        assert_eq!(check(&[edge("watertight-engine", kind)]).len(), 1, "{kind:?}");
    }
    assert_eq!(check(&[edge("watertight-store", Kind::Normal)]).len(), 1);
    assert!(check(&[edge("watertight-store", Kind::Development)]).is_empty());
    let default = ["conformance".to_owned(), "default".to_owned()];
    assert_eq!(check_features("watertight-store", &[("default", &default)]).len(), 1);
    assert!(check_features("watertight-store", &[("conformance", &[])]).is_empty());
    // Another crate's feature can pass it on without an edge of its own.
    let passed_on = ["watertight-store/conformance".to_owned()];
    assert_eq!(check_features("watertight-cli", &[("testing", &passed_on)]).len(), 1);
}

#[test]
fn an_unknown_crate_is_reported() {
    assert_eq!(check(&[Edge::new("watertight-utils", "watertight-core", Kind::Normal)]).len(), 1);
}

#[test]
fn an_edge_that_points_down_passes() {
    assert!(check(&[Edge::new("watertight-engine", "watertight-store", Kind::Normal)]).is_empty());
}
