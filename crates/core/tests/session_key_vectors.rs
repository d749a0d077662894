//! The recorded behaviour of OpenClaw 2026.9.6, case by case, under the `openclaw` policy.
//!
//! A case must give what was recorded, or stand in `session-keys-overrides.json`: under `decided` with our value and
//! the number of the decision that wins, under `recorded_wrongly` with the value the released client really gives, or
//! under `elsewhere` if it needs a gateway or a command line. An entry that is not needed fails as well.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use watertight_core::key::dispatch::{
    DispatchError, DispatchTarget, normalize_cli_target, parse_session_id, parse_timeout_seconds,
    strict_non_negative_integer,
};
use watertight_core::key::openclaw::class::{self, KindHints};
use watertight_core::key::openclaw::request::{self, Selectors};
use watertight_core::key::openclaw::session_id::{self, Selection};
use watertight_core::key::openclaw::{self, MainKeyRules, SessionScoping, StoreRules, store};
use watertight_core::key::{AgentId, Home, KeyPolicy, KeyRules, Roster};

#[derive(Deserialize)]
struct Recorded {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    group: String,
    #[serde(default)]
    r#fn: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    input: Map<String, Value>,
    #[serde(default, rename = "configValue")]
    config: Value,
    expect: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Overrides {
    decided: Vec<Decided>,
    recorded_wrongly: Vec<RecordedWrongly>,
    elsewhere: Vec<Elsewhere>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decided {
    id: String,
    decision: u8,
    expect: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedWrongly {
    id: String,
    expect: Value,
    evidence: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Elsewhere {
    id: String,
    reason: String,
}

#[test]
fn recorded_cases_hold_or_a_listed_decision_wins() {
    let recorded: Recorded = serde_json::from_str(include_str!("vectors/session-keys.json")).unwrap();
    let overrides: Overrides = serde_json::from_str(include_str!("vectors/session-keys-overrides.json")).unwrap();
    let mut failures = Vec::new();

    let mut ours = BTreeMap::new();
    for entry in &overrides.decided {
        assert!([2, 3, 10, 11].contains(&entry.decision), "{}: decision {}", entry.id, entry.decision);
        assert!(ours.insert(&entry.id, &entry.expect).is_none(), "{} is listed twice", entry.id);
    }
    for entry in &overrides.recorded_wrongly {
        assert!(!entry.evidence.is_empty(), "{} needs evidence", entry.id);
        assert!(ours.insert(&entry.id, &entry.expect).is_none(), "{} is listed twice", entry.id);
    }
    let decided: BTreeSet<&String> = overrides.decided.iter().map(|entry| &entry.id).collect();
    let mut elsewhere: BTreeSet<&String> = overrides.elsewhere.iter().map(|entry| &entry.id).collect();
    assert!(overrides.elsewhere.iter().all(|entry| !entry.reason.is_empty()));

    let (mut ran, mut as_recorded, mut with_our_value, mut corrected) = (0, 0, 0, 0);
    for case in &recorded.cases {
        if elsewhere.remove(&case.id) {
            if ours.contains_key(&case.id) || case.group != "cli-e2e" {
                failures.push(format!("{}: listed under elsewhere, but it is checked here", case.id));
            }
            continue;
        }
        ran += 1;
        let result = run(case);
        let expected = comparable(case);
        match (ours.remove(&case.id), result == expected) {
            (None, true) => as_recorded += 1,
            (Some(_), true) => failures.push(format!("{}: the override is not needed", case.id)),
            (Some(our), false) if result == *our => {
                if decided.contains(&case.id) {
                    with_our_value += 1;
                } else {
                    corrected += 1;
                }
            }
            (our, false) => failures.push(format!(
                "{} {} {:?} {:?}\n    result   {result}\n    recorded {expected}\n    ours     {our:?}",
                case.id, case.r#fn, case.args, case.input
            )),
        }
    }
    for id in ours.keys().chain(elsewhere.iter()) {
        failures.push(format!("{id}: listed, but there is no such case"));
    }

    println!(
        "session key vectors: {ran} ran, {as_recorded} passed as recorded, {with_our_value} passed with our value \
         (decisions 2, 3, 10, 11), {corrected} with a corrected recording, {} checked elsewhere",
        overrides.elsewhere.len()
    );
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The result in the form the recording has it.
fn run(case: &Case) -> Value {
    match case.group.as_str() {
        "cli-explicit-key" => cli_target(case),
        "request-store-ownership" => request_target(case),
        "cli-e2e" => end_to_end(case),
        _ => function(case),
    }
}

fn value(value: impl Into<Value>) -> Value {
    json!({ "value": value.into() })
}

fn maybe(found: Option<impl Into<Value>>) -> Value {
    found.map_or_else(|| json!({ "undefined": true }), value)
}

fn throws(message: impl std::fmt::Display) -> Value {
    json!({ "throws": message.to_string() })
}

fn function(case: &Case) -> Value {
    let text = |at: usize| case.args.get(at).and_then(Value::as_str);
    let first = text(0).unwrap_or_default();
    let fields = case.args.first().cloned().unwrap_or_default();
    let field = |name: &str| fields.get(name).and_then(Value::as_str);
    let key = field("sessionKey").unwrap_or_default();
    let roster = roster(&fields["cfg"]);
    let main = main_rules(&fields["cfg"]);

    match case.r#fn.as_str() {
        "parseAgentSessionKey" => value(
            openclaw::parse_agent_key(first)
                .map_or(Value::Null, |parsed| json!({ "agentId": parsed.agent, "rest": parsed.rest })),
        ),
        "classifySessionKeyShape" => value(openclaw::shape(first).as_str()),
        "normalizeSessionKeyPreservingOpaquePeerIds" => value(openclaw::fold(first)),
        "isSubagentSessionKey" => value(class::is_subagent_key(first)),
        "isCronSessionKey" => value(class::is_cron_key(first)),
        "isCronRunSessionKey" => value(class::is_cron_run_key(first)),
        "isAcpSessionKey" => value(class::is_acp_key(first)),
        "isIncognitoSessionKey" => value(class::is_incognito_key(first)),
        "isUnscopedSessionKeySentinel" => value(openclaw::is_sentinel(first)),
        "getSubagentDepth" => value(class::subagent_depth(first)),
        "classifySessionKind" => {
            let entry = case.args.get(1).cloned().unwrap_or_default();
            let chat = entry.get("chatType").and_then(Value::as_str);
            let hints = KindHints {
                spawned: entry.get("spawnedBy").is_some(),
                group_chat: matches!(chat, Some("group" | "channel")),
            };
            value(class::session_kind(first, hints))
        }
        "deriveSessionChatTypeFromKey" => value(class::chat_type(first).as_str()),
        "normalizeAgentId" => value(openclaw::normalize_agent_id(first)),
        "isValidAgentId" => value(openclaw::is_valid_agent_id(first)),
        "normalizeMainKey" => value(store::normalize_main_key(text(0))),
        "buildAgentMainSessionKey" => {
            value(store::main_session_key(field("agentId").unwrap_or_default(), field("mainKey")))
        }
        "toAgentStoreSessionKey" => value(store::to_store_key(
            field("agentId").unwrap_or_default(),
            field("requestKey").unwrap_or_default(),
            field("mainKey"),
        )),
        "toAgentRequestSessionKey" => maybe(store::to_request_key(first)),
        "scopeLegacySessionKeyToAgent" => maybe(store::scope_bare_key(field("agentId"), key, field("mainKey"))),
        "resolveAgentIdFromSessionKey" => match store::key_owner(first, text(1)) {
            Ok(agent) => value(agent),
            Err(error) => throws(format!("Error: {error}")),
        },
        "canonicalizeMainSessionAlias" => value(main.canonical_alias(field("agentId").unwrap_or_default(), key)),
        "canonicalizeSessionKeyForAgent" => value(store::canonical_for_agent(first, text(1).unwrap_or_default())),
        "resolveSessionStoreKey" => value(StoreRules::of(&roster, main).store_key(key)),
        "resolveStoredSessionOwnerAgentId" => {
            let owner = StoreRules::of(&roster, main).stored_owner(field("agentId").unwrap_or_default(), key);
            value(owner.map_or(Value::Null, Value::from))
        }
        "validateSessionId" => match session_id::validate_session_id(first) {
            Ok(id) => value(id),
            Err(error) => throws(format!("Error: {error}")),
        },
        "resolveSessionIdMatchSelection" => value(session_id_match(&case.args)),
        "buildExplicitSessionIdSessionKey" => value(request::explicit_session_key(
            field("agentId").unwrap_or_default(),
            field("sessionId").unwrap_or_default(),
        )),
        "parseStrictNonNegativeInteger" => maybe(strict_non_negative_integer(first)),
        unknown => panic!("{}: no counterpart of {unknown}", case.id),
    }
}

fn session_id_match(args: &[Value]) -> Value {
    let rows: Vec<(&str, i64)> = args[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row[0].as_str().unwrap(), row[1]["updatedAt"].as_i64().unwrap_or(0)))
        .collect();
    match session_id::select_by_session_id(&rows, args[1].as_str().unwrap()) {
        Selection::None => json!({ "kind": "none" }),
        Selection::Selected(key) => json!({ "kind": "selected", "sessionKey": key }),
        Selection::Ambiguous(keys) => json!({ "kind": "ambiguous", "sessionKeys": keys }),
    }
}

fn cli_target(case: &Case) -> Value {
    let roster = roster(&case.config);
    match normalize_cli_target(KeyPolicy::Openclaw, main_rules(&case.config), &roster, selectors(&case.input)) {
        Ok(target) => value(target_fields(&target)),
        Err(error) => throws(error.message("openclaw")),
    }
}

fn target_fields(target: &DispatchTarget) -> Value {
    let fields = [
        ("sessionKey", target.session_key.clone()),
        ("sessionId", target.session_id.clone()),
        ("agent", target.agent.clone()),
        ("to", target.to.clone()),
        ("localGatewayCompatibilityAgentId", target.implied_agent.as_ref().map(AgentId::to_string)),
    ];
    let given = fields.into_iter().filter_map(|(name, text)| Some((name.to_owned(), Value::from(text?))));
    Value::Object(given.collect())
}

fn request_target(case: &Case) -> Value {
    let roster = roster(&case.config);
    match request::resolve(main_rules(&case.config), roster.default().as_str(), selectors(&case.input)) {
        Ok(target) => value(json!({ "agentId": target.agent, "sessionKey": target.session_key })),
        Err(error) => throws(error),
    }
}

/// The text that refuses the command or call, where the selectors alone decide it. Exit status and error code belong
/// to the command line and the server. The recorded commands ran with the agents `main` and `ops`.
fn end_to_end(case: &Case) -> Value {
    let roster = Roster::new(["main", "ops"].map(|id| AgentId::parse(id).unwrap()).to_vec(), 0).unwrap();
    let message = match case.id.as_str() {
        "cli-e2e-1686" => cli_error(&roster, "agent:main:x", Some("ops")).message("openclaw"),
        "cli-e2e-1690" => cli_error(&roster, "agent:main", None).message("openclaw"),
        "cli-e2e-1693" => parse_timeout_seconds("abc").unwrap_err().message("openclaw"),
        "cli-e2e-1694" => cli_error(&roster, " ", Some("ops")).message("openclaw"),
        "cli-e2e-1700" => parse_session_id("bad id/..").unwrap_err().message("openclaw"),
        "cli-e2e-1707" => rpc_error(&roster, "agent:main:q", Some("ops")),
        "cli-e2e-1708" => rpc_error(&roster, "agent:nope:q", None),
        unknown => panic!("{unknown} is neither checked here nor listed under elsewhere"),
    };
    json!({ "message": message })
}

/// What was recorded, without what has no counterpart in core.
fn comparable(case: &Case) -> Value {
    let mut expected = case.expect.clone();
    match case.group.as_str() {
        "request-store-ownership" => {
            if let Some(value) = expected.get_mut("value").and_then(Value::as_object_mut) {
                // Our store has no such path.
                value.remove("storePath");
            }
            expected
        }
        "cli-e2e" => {
            let texts = ["/stderr", "/error/message", "/stdoutJson/error/message"];
            json!({ "message": texts.iter().find_map(|at| expected.pointer(at)) })
        }
        _ => expected,
    }
}

fn cli_error(roster: &Roster, key: &str, agent: Option<&str>) -> DispatchError {
    let selectors = Selectors { session_key: Some(key), agent, ..Selectors::default() };
    normalize_cli_target(KeyPolicy::Openclaw, MainKeyRules::default(), roster, selectors).unwrap_err()
}

fn rpc_error(roster: &Roster, key: &str, agent: Option<&str>) -> String {
    let rules = KeyRules::new(KeyPolicy::Openclaw, roster.clone());
    rules.resolve(&Home::Operator, key, agent).unwrap_err().to_string()
}

fn selectors(input: &Map<String, Value>) -> Selectors<'_> {
    let field = |name: &str| input.get(name).and_then(Value::as_str);
    Selectors {
        session_key: field("sessionKey"),
        session_id: field("sessionId"),
        agent: field("agent"),
        to: field("to"),
    }
}

/// The agents of a recorded configuration: `agents.entries` or the older `agents.list`; without either, `main`.
fn roster(config: &Value) -> Roster {
    let agents = &config["agents"];
    let entries: Vec<(String, bool)> = match (agents["entries"].as_object(), agents["list"].as_array()) {
        (Some(entries), _) => entries.iter().map(|(id, entry)| (id.clone(), entry["default"] == json!(true))).collect(),
        (None, Some(list)) => list
            .iter()
            .map(|entry| (entry["id"].as_str().unwrap().to_owned(), entry["default"] == json!(true)))
            .collect(),
        (None, None) => vec![("main".to_owned(), true)],
    };
    let default = entries.iter().position(|(_, default)| *default).unwrap_or(0);
    Roster::new(entries.iter().map(|(id, _)| AgentId::parse(id).unwrap()).collect(), default).unwrap()
}

fn main_rules(config: &Value) -> MainKeyRules<'_> {
    let session = &config["session"];
    MainKeyRules {
        scoping: if session["scope"] == "global" { SessionScoping::Global } else { SessionScoping::PerSender },
        main_key: session["mainKey"].as_str(),
    }
}
