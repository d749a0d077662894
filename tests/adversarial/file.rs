//! The file of cases, and the list of what cannot be run yet.

use std::path::Path;

use serde_json::Value;

/// Cases, fixtures and the error contract, as the file has them.
pub(crate) fn vectors() -> Value {
    read("vectors/adversarial.json")
}

/// The case of this id.
pub(crate) fn case(id: &str) -> Value {
    let file = vectors();
    let cases = file["cases"].as_array().expect("a list of cases");
    cases.iter().find(|case| case["id"] == id).unwrap_or_else(|| panic!("the file has no case {id}")).clone()
}

/// The steps of the case.
pub(crate) fn steps(id: &str) -> Vec<Value> {
    case(id)["steps"].as_array().expect("a list of steps").clone()
}

/// A case, or a clause of one, that names a surface which does not exist yet.
pub(crate) struct NotApplicable {
    pub(crate) case: String,
    /// None where it is the whole case.
    pub(crate) clause: Option<String>,
    pub(crate) reason: String,
}

/// What is not run, and why. Later work empties it.
pub(crate) fn not_applicable() -> Vec<NotApplicable> {
    let list = read("adversarial/not-applicable.json");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let entries = list.as_array().expect("a list");
    let entry = |entry: &Value| NotApplicable {
        case: text(&entry["case"]).expect("a case"),
        clause: text(&entry["clause"]),
        reason: text(&entry["reason"]).filter(|reason| !reason.is_empty()).expect("a reason"),
    };
    entries.iter().map(entry).collect()
}

fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} is read: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{} is JSON: {error}", path.display()))
}
