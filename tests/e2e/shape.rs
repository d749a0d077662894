//! Compares a frame of ours with a recorded one: the same shape and the same constants.
//!
//! Every key of the recorded frame must be in ours, with the same JSON type; ours may have more. Values are compared
//! where they are constants of the protocol or an echo of what the exchange sent. Ids that we draw, times, versions,
//! counters and texts of ours are not.

use serde_json::Value;

/// Keys whose strings and numbers are part of the protocol or echo the request.
const CONSTANTS: &[&str] = &[
    "type",
    "event",
    "state",
    "status",
    "phase",
    "stream",
    "code",
    "message",
    "reason",
    "role",
    "kind",
    "stopReason",
    "errorKind",
    "httpStatus",
    "summary",
    "scope",
    "runId",
    "sessionKey",
    "key",
    "agentId",
    "defaultAgentId",
    "mainKey",
    "mainSessionKey",
    "authMode",
    "authReason",
    "missingScope",
    "recommendedNextStep",
    "protocol",
    "clientMinProtocol",
    "clientMaxProtocol",
    "expectedProtocol",
    "minimumProbeProtocol",
    "maxPayload",
    "tickIntervalMs",
    "limitApplied",
];

/// Where `ours` lacks something of `recorded`, one line each. `except` lists paths such as `payload.reason` whose
/// value may differ; shape still counts.
pub(crate) fn differences(recorded: &Value, ours: &Value, except: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    compare(recorded, ours, "", except, &mut found);
    found
}

/// Panics with every difference and the frame itself.
#[track_caller]
pub(crate) fn assert_matches(recorded: &Value, ours: &Value, except: &[&str]) {
    let found = differences(recorded, ours, except);
    assert!(found.is_empty(), "\n{}\nin {ours:#}", found.join("\n"));
}

fn compare(recorded: &Value, ours: &Value, path: &str, except: &[&str], found: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Object(fields), Value::Object(our_fields)) => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match our_fields.get(key) {
                    Some(our_value) => compare(value, our_value, &path, except, found),
                    None => found.push(format!("{path} is missing")),
                }
            }
        }
        (Value::Array(items), Value::Array(our_items)) => compare_lists(items, our_items, path, except, found),
        (Value::Bool(_), Value::Bool(_))
        | (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_)) => {
            let key = path.rsplit('.').next().unwrap_or(path);
            let is_constant = recorded.is_boolean() || CONSTANTS.contains(&key);
            if is_constant && recorded != ours && !except.contains(&path) {
                found.push(format!("{path} is {ours} and not {recorded}"));
            }
        }
        (Value::Null, Value::Null) => {}
        _ => found.push(format!("{path} is a {} and not a {}", kind(ours), kind(recorded))),
    }
}

/// Lists may hold more and other things than the recorded one, but the words recorded must be there, and the first
/// object must look like the first one recorded.
fn compare_lists(items: &[Value], our_items: &[Value], path: &str, except: &[&str], found: &mut Vec<String>) {
    for word in items.iter().filter(|item| item.is_string()) {
        if !our_items.contains(word) {
            found.push(format!("{path} lacks {word}"));
        }
    }
    if let Some(first @ Value::Object(_)) = items.first() {
        match our_items.first() {
            Some(our_first) => compare(first, our_first, &format!("{path}[0]"), except, found),
            None => found.push(format!("{path} is empty")),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_key_another_type_and_another_constant_are_found() {
        let recorded = json!({"type": "res", "payload": {"status": "ok", "ts": 1, "text": "a", "done": true}});
        let ours = json!({"type": "res", "payload": {"status": "no", "ts": "1", "done": false}});
        assert_eq!(differences(&recorded, &ours, &[]).len(), 4);
        assert_eq!(differences(&recorded, &ours, &["payload.status"]).len(), 3);
    }

    #[test]
    fn more_keys_and_other_texts_are_no_difference() {
        let recorded = json!({"type": "res", "text": "a", "ts": 1, "list": ["x"], "rows": [{"key": "k", "at": 1}]});
        let ours =
            json!({"type": "res", "text": "b", "ts": 2, "list": ["y", "x"], "rows": [{"key": "k", "at": 2}], "z": 0});
        assert!(differences(&recorded, &ours, &[]).is_empty());
    }

    #[test]
    fn lists_must_hold_the_recorded_words_and_a_row_of_the_recorded_shape() {
        let recorded = json!({"words": ["a"], "rows": [{"key": "k"}]});
        assert_eq!(differences(&recorded, &json!({"words": ["b"], "rows": []}), &[]).len(), 2);
        assert_eq!(differences(&recorded, &json!({"words": ["a"], "rows": [{"id": 1}]}), &[]).len(), 1);
    }
}
