//! Which module may make a capability, or a record that a capability is made from (architecture rule 1).
//!
//! Names are found wherever they stand: in calls, as function values, behind `use`, under another name. A module that
//! needs the name of a guarded type only reads it; what it may not do is rename it, which would hide a later call.

use crate::source::{Source, Token};

/// Where a guarded name may stand.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The crate that defines it.
    Core,
    /// The module that turns a credential into a scope.
    Admission,
    /// The module that holds the housekeeping authority.
    Housekeeping,
    /// The store's decoding of rows.
    Rows,
    /// The module that verifies the signatures of devices.
    DeviceProofs,
    /// The store's conformance suite, compiled for its own tests only: see [`crate::edges`].
    Conformance,
    /// The store.
    Store,
    /// The scopes for tests of what lies below admission. No product crate can reach them: see [`crate::edges`].
    Testkit,
}

impl Place {
    fn holds(self, path: &str) -> bool {
        let module = |name: &str| path == format!("{name}.rs") || path.starts_with(&format!("{name}/"));
        match self {
            Self::Core => path.starts_with("crates/core/"),
            Self::Admission => module("crates/engine/src/admission"),
            Self::Housekeeping => module("crates/engine/src/steward"),
            Self::Rows => path
                .strip_prefix("crates/store/src/")
                .is_some_and(|rest| rest.split('/').any(|part| part == "rows" || part == "rows.rs")),
            Self::DeviceProofs => module("crates/seal/src/device"),
            Self::Conformance => module("crates/store/src/conformance") || path.starts_with("crates/store/tests/"),
            Self::Store => path.starts_with("crates/store/"),
            Self::Testkit => path == "crates/testkit/src/scope.rs",
        }
    }
}

/// Functions of `core::scope`, called by their path or imported.
const FUNCTIONS: &[(&[&str], &[Place])] = &[
    (&["authenticate", "admit", "authorize"], &[Place::Core, Place::Admission, Place::Conformance, Place::Testkit]),
    (&["authenticate_device", "keep_devices"], &[Place::Core, Place::Admission, Place::Conformance]),
    (&["administer", "redeem"], &[Place::Core, Place::Admission, Place::Conformance]),
    (&["readmit"], &[Place::Core, Place::Housekeeping, Place::Conformance, Place::Testkit]),
];

/// Who may have all of them at once.
const WHOLE_SCOPE: &[Place] = &[Place::Core, Place::Conformance, Place::Testkit];

/// Associated functions: type, function, places.
const CONSTRUCTORS: &[(&str, &str, &[Place])] = &[
    ("CredentialRecord", "decode", &[Place::Core, Place::Rows, Place::Conformance, Place::Testkit]),
    ("DeviceBond", "decode", &[Place::Core, Place::Store]),
    ("ProvenDevice", "verified", &[Place::Core, Place::DeviceProofs, Place::Conformance]),
    ("Grants", "decode", &[Place::Core, Place::Rows, Place::Conformance, Place::Testkit]),
    ("SessionRecord", "decode", &[Place::Core, Place::Rows, Place::Conformance, Place::Testkit]),
    ("RunRecord", "decode", &[Place::Core, Place::Rows, Place::Conformance, Place::Testkit]),
    ("CredentialRecord", "from_config", &[Place::Core, Place::Admission, Place::Conformance, Place::Testkit]),
    ("Steward", "from_opened_keystore", &[Place::Core, Place::Housekeeping, Place::Conformance]),
];

/// Names that may not even be written elsewhere.
const NAMES: &[(&str, &[Place])] = &[("Steward", &[Place::Core, Place::Store, Place::Housekeeping])];

/// One sentence for each use of a guarded name outside its places.
pub(crate) fn check(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut report = |at: usize, what: String, places: &[Place]| {
        if !places.iter().any(|place| place.holds(source.path())) {
            let line = source.tokens()[at].1;
            found.push(format!("{}:{line}: {what} (allowed in {places:?})", source.path()));
        }
    };
    let tokens = View(source.tokens());

    for at in 0..source.tokens().len() {
        let Some(word) = tokens.word(at) else { continue };
        for (name, places) in NAMES {
            if word == *name {
                report(at, format!("the name {name}"), places);
            }
        }
        for (owner, function, places) in CONSTRUCTORS {
            if word == *owner && tokens.calls_associated(at, function) {
                report(at, format!("{owner}::{function}"), places);
            }
        }
        let guarded = CONSTRUCTORS.iter().any(|(owner, ..)| word == *owner);
        if guarded && (tokens.is_renamed(at) || tokens.is_aliased(at)) {
            report(at, format!("another name for {word}"), &[Place::Core]);
        }
    }

    for (path, at) in tokens.paths() {
        let tail: Vec<&str> = path.iter().rev().map(String::as_str).take(2).collect();
        match tail[..] {
            ["*", "scope"] => report(at, "everything of core::scope at once".to_owned(), WHOLE_SCOPE),
            [name, "scope" | "watertight_core"] => {
                for (_, places) in FUNCTIONS.iter().filter(|(functions, _)| functions.contains(&name)) {
                    report(at, format!("core::scope::{name}"), places);
                }
            }
            _ => {}
        }
        if tail.first() == Some(&"scope") && tokens.is_renamed(at) {
            report(at, "another name for core::scope".to_owned(), WHOLE_SCOPE);
        }
    }
    found
}

struct View<'a>(&'a [(Token, usize)]);

impl View<'_> {
    fn word(&self, at: usize) -> Option<&str> {
        match self.0.get(at) {
            Some((Token::Word(word), _)) => Some(word),
            _ => None,
        }
    }

    fn is_mark(&self, at: usize, mark: &str) -> bool {
        matches!(self.0.get(at), Some((Token::Mark(found), _)) if *found == mark)
    }

    /// `Owner::function` or `<Owner>::function`, called or named.
    fn calls_associated(&self, at: usize, function: &str) -> bool {
        let after = if self.is_mark(at + 1, ">") { at + 2 } else { at + 1 };
        self.is_mark(after, "::") && self.word(after + 1) == Some(function)
    }

    /// `Owner as Other`.
    fn is_renamed(&self, at: usize) -> bool {
        self.word(at + 1) == Some("as")
    }

    /// `type Other = … Owner`.
    fn is_aliased(&self, at: usize) -> bool {
        let mut before = at;
        while before > 0 && !self.is_mark(before - 1, "=") {
            before -= 1;
            if !(self.word(before).is_some() || self.is_mark(before, "::")) {
                return false;
            }
        }
        before >= 3 && self.word(before - 3) == Some("type")
    }

    /// Every path of two segments and more, with the place of its last segment; groups of a `use` are spelled out.
    fn paths(&self) -> Vec<(Vec<String>, usize)> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.0.len() {
            if self.word(at).is_some() && self.is_mark(at + 1, "::") {
                at = self.path_from(at, &[], &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }

    /// Reads the path that starts at `at`, below `prefix`; returns where it ends.
    fn path_from(&self, mut at: usize, prefix: &[String], paths: &mut Vec<(Vec<String>, usize)>) -> usize {
        let mut path = prefix.to_vec();
        loop {
            if let Some(word) = self.word(at) {
                path.push(word.to_owned());
            } else if self.is_mark(at, "*") {
                path.push("*".to_owned());
            } else if self.is_mark(at, "{") {
                return self.group_from(at + 1, &path, paths);
            } else {
                return at.max(1);
            }
            if !self.is_mark(at + 1, "::") {
                paths.push((path, at));
                return at + 1;
            }
            at += 2;
        }
    }

    fn group_from(&self, mut at: usize, prefix: &[String], paths: &mut Vec<(Vec<String>, usize)>) -> usize {
        while at < self.0.len() && !self.is_mark(at, "}") {
            if self.word(at) == Some("as") {
                at += 2;
            } else if self.word(at).is_some() || self.is_mark(at, "*") {
                at = self.path_from(at, prefix, paths);
            } else {
                at += 1;
            }
        }
        at + 1
    }
}

#[cfg(test)]
fn violations(path: &str, text: &str) -> usize {
    check(&Source::new(path, text)).len()
}

#[test]
fn scope_functions_outside_admission_are_reported_however_they_are_named() {
    for text in [
        "fn f() { watertight_core::scope::authorize(p, r) }",
        "use watertight_core::scope; fn f() { scope::admit(a, b, c, d, e) }",
        "use watertight_core::scope::authenticate;",
        "use watertight_core::{ids::TenantId, scope::{Caller, authorize as bind}};",
        "use watertight_core::admit;",
        "let f = watertight_core::scope::authenticate;",
    ] {
        assert_eq!(violations("crates/server/src/ws/chat.rs", text), 1, "{text}");
        assert_eq!(violations("crates/engine/src/actor.rs", text), 1, "{text}");
        assert_eq!(violations("crates/engine/src/steward.rs", text), 1, "{text}");
        assert_eq!(violations("crates/engine/src/admission.rs", text), 0, "{text}");
        assert_eq!(violations("crates/engine/src/admission/bearer.rs", text), 0, "{text}");
        assert_eq!(violations("crates/core/src/scope.rs", text), 0, "{text}");
        assert_eq!(violations("crates/store/src/conformance/leases.rs", text), 0, "{text}");
    }
}

#[test]
fn all_scope_functions_at_once_are_nobody_s_in_the_product() {
    for text in [
        "use watertight_core::scope::*;",
        "use watertight_core::scope as capability;",
        "use watertight_core::{scope as capability};",
    ] {
        for path in ["crates/engine/src/actor.rs", "crates/engine/src/admission.rs", "crates/engine/src/steward.rs"] {
            assert_eq!(violations(path, text), 1, "{path}: {text}");
        }
        assert_eq!(violations("crates/store/src/conformance/leases.rs", text), 0, "{text}");
    }
}

#[test]
fn a_run_is_admitted_anew_only_by_housekeeping() {
    for text in ["use watertight_core::scope::{readmit, SessionScope};", "watertight_core::scope::readmit(s, r)"] {
        assert_eq!(violations("crates/engine/src/admission.rs", text), 1, "{text}");
        assert_eq!(violations("crates/store/src/sqlite/recovery.rs", text), 1, "{text}");
        assert_eq!(violations("crates/engine/src/steward.rs", text), 0, "{text}");
        assert_eq!(violations("crates/engine/src/steward/recovery.rs", text), 0, "{text}");
        assert_eq!(violations("crates/testkit/src/scope.rs", text), 0, "{text}");
    }
}

#[test]
fn a_method_of_the_same_name_is_not_core_s() {
    let text =
        "use watertight_core::scope::{Caller, SessionScope}; fn f() { engine.authorize(x); Admission::admit(y) }";
    assert_eq!(violations("crates/server/src/ws/chat.rs", text), 0);
}

#[test]
fn records_are_decoded_only_from_rows() {
    for owner in ["CredentialRecord", "Grants", "SessionRecord", "RunRecord"] {
        for text in [
            format!("let r = {owner}::decode(a, b);"),
            format!("rows.map({owner}::decode)"),
            format!("<{owner}>::decode(a)"),
        ] {
            assert_eq!(violations("crates/engine/src/actor.rs", &text), 1, "{text}");
            assert_eq!(violations("crates/store/src/sqlite/writer.rs", &text), 1, "{text}");
            assert_eq!(violations("crates/store/src/sqlite/rows/run.rs", &text), 0, "{text}");
            assert_eq!(violations("crates/store/tests/sqlite.rs", &text), 0, "{text}");
        }
    }
    assert_eq!(violations("crates/store/src/sqlite/rows.rs", "RunRecord::decode(columns)"), 0);
    assert_eq!(violations("crates/server/src/ws.rs", "RunColumns::decode(x); let r: RunRecord = y; other.decode()"), 0);
}

#[test]
fn a_guarded_type_keeps_its_name() {
    for text in
        ["use watertight_core::run::RunRecord as Record;", "type Record = watertight_core::session::SessionRecord;"]
    {
        assert_eq!(violations("crates/engine/src/admission.rs", text), 1, "{text}");
        assert_eq!(violations("crates/store/src/sqlite/rows.rs", text), 1, "{text}");
    }
    assert_eq!(
        violations("crates/engine/src/actor.rs", "type Runs = Vec<RunRecord>; let x = RunRecord { columns };"),
        0
    );
}

#[test]
fn a_shared_secret_becomes_a_record_only_in_admission() {
    let text = "CredentialRecord::from_config(principal, demand, epoch)";
    assert_eq!(violations("crates/store/src/sqlite/rows.rs", text), 1);
    assert_eq!(violations("crates/server/src/auth.rs", text), 1);
    assert_eq!(violations("crates/engine/src/admission.rs", text), 0);
}

#[test]
fn the_housekeeping_authority_is_named_only_by_its_keepers() {
    assert_eq!(violations("crates/server/src/admin.rs", "fn sweep(by: &Steward)"), 1);
    assert_eq!(violations("crates/engine/src/engine.rs", "use watertight_core::Steward;"), 1);
    assert_eq!(violations("crates/store/src/lib.rs", "fn recover(&self, by: &Steward);"), 0);
    assert_eq!(violations("crates/store/src/sqlite.rs", "Steward::from_opened_keystore()"), 1);
    assert_eq!(violations("crates/engine/src/steward.rs", "Steward::from_opened_keystore()"), 0);
    assert_eq!(
        violations("crates/engine/src/engine.rs", "mod steward; // the Steward\n const X: &str = \"Steward\";"),
        0
    );
}
