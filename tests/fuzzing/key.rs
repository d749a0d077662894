//! Session keys. The first byte says under which rules, the second which agent the request names; the rest is the text.

use std::sync::LazyLock;

use watertight_core::key::compose::{compose, decompose};
use watertight_core::key::dispatch::normalize_cli_key;
use watertight_core::key::{AgentId, Home, KeyPolicy, KeyPrefix, KeyRules, Part, Roster, strict};

struct Worlds {
    rules: Vec<KeyRules>,
    homes: Vec<Home>,
}

static WORLDS: LazyLock<Worlds> = LazyLock::new(|| {
    let agent = |id| AgentId::parse(id).expect("an agent id");
    let rosters = [
        Roster::single(agent("main")),
        Roster::new(vec![agent("main"), agent("ops"), agent("my-agent")], 1).expect("a roster"),
        Roster::single(agent("ops")),
    ];
    let rules = [KeyPolicy::Strict, KeyPolicy::Openclaw]
        .into_iter()
        .flat_map(|policy| rosters.iter().map(move |roster| KeyRules::new(policy, roster.clone())))
        .collect();
    let homes = ["alice", "Al:ice", "cron"].map(|name| Home::user(name).expect("a home")).to_vec();
    Worlds { rules, homes }
});

const AGENTS: [Option<&str>; 6] = [None, Some("main"), Some("ops"), Some("OPS"), Some("my agent"), Some("nobody")];

pub(crate) fn check(data: &[u8]) {
    let Some(([world, agent], text)) = data.split_first_chunk::<2>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (world, agent) = (usize::from(*world), AGENTS[usize::from(*agent) % AGENTS.len()]);
    let rules = &WORLDS.rules[world % WORLDS.rules.len()];
    let home = &WORLDS.homes[world / WORLDS.rules.len() % WORLDS.homes.len()];
    operators_key(rules, text, agent);
    principals_key(rules, home, text, agent);
    command_lines_key(rules, text, agent);
    segments(text);
    prefix(text);
}

/// Resolving a result again changes nothing, and every result has an owner and keeps to the grammar's bounds.
fn operators_key(rules: &KeyRules, text: &str, agent: Option<&str>) {
    let Ok(key) = rules.resolve(&Home::Operator, text, agent) else { return };
    for agent in [None, agent] {
        let again = rules.resolve(&Home::Operator, key.as_str(), agent);
        assert_eq!(again.as_ref(), Ok(&key), "{text:?} under {:?}", rules.policy);
    }
    well_formed(rules, key.as_str());
    let owner = rules.owner(&key).expect("a resolved key has an owner");
    assert!(rules.roster.contains(owner), "{key} belongs to {owner}");
}

/// A key of a home lies in it unless it was written whole, and written whole it names the same session.
fn principals_key(rules: &KeyRules, home: &Home, text: &str, agent: Option<&str>) {
    let Ok(key) = rules.resolve(home, text, agent) else { return };
    assert!(!key.is_sentinel(), "{text:?} gave a principal the sentinel {key}");
    well_formed(rules, key.as_str());
    assert_eq!(rules.resolve(home, key.as_str(), agent), Ok(key.clone()), "{text:?} under {:?}", rules.policy);
    let owner = rules.owner(&key).expect("a resolved key has an owner");
    let inside = rules.home_prefix(home, owner).covers(&key);
    let whole = text.trim_start().get(..6).is_some_and(|start| start.eq_ignore_ascii_case("agent:"));
    let whole = whole || text.trim_start_matches('\u{feff}').trim().to_lowercase().starts_with("agent:");
    assert!(inside || whole, "the bare key {text:?} became {key}, which lies outside the home");
}

fn well_formed(rules: &KeyRules, key: &str) {
    assert!(!key.contains('\0'), "{key:?}");
    if rules.policy == KeyPolicy::Strict {
        assert!(key.len() <= strict::MAX_BYTES && key.split(':').count() <= strict::MAX_SEGMENTS, "{key}");
        assert!(key.bytes().all(|byte| byte == b':' || strict::in_alphabet(byte)), "{key}");
        assert!(!key.contains("..") && key.split(':').all(|segment| !segment.is_empty()), "{key}");
    }
}

/// What the command line sends, and a gateway takes, it would send again.
fn command_lines_key(rules: &KeyRules, text: &str, agent: Option<&str>) {
    let cli = |key: &str, agent: Option<&str>| normalize_cli_key(rules.policy, &rules.roster, Some(key), agent);
    let Ok(sent) = cli(text, agent) else { return };
    let sent = sent.expect("a key gives a key");
    if rules.resolve(&Home::Operator, &sent.session_key, sent.agent.as_deref()).is_err() {
        return;
    }
    let again = cli(&sent.session_key, sent.agent.as_deref()).map(|key| key.map(|key| key.session_key));
    assert_eq!(again, Ok(Some(sent.session_key)), "{text:?} for {agent:?} under {:?}", rules.policy);
}

/// Composed segments give back what they were made of, so two lists never meet in one key.
fn segments(text: &str) {
    let texts: Vec<&str> = text.split('\u{1}').collect();
    let parts: Vec<Part<'_>> = texts.iter().map(|text| Part::Opaque(text)).collect();
    if let Ok(composed) = compose(&parts) {
        let back = decompose(composed.as_str()).expect("what was composed comes apart");
        assert!(back.iter().eq(&texts), "{texts:?} came back as {back:?}");
        assert_eq!(composed.segments().count(), texts.len());
        let plain = |byte: u8| byte == b':' || strict::in_alphabet(byte);
        assert!(composed.as_str().bytes().all(plain) && !composed.as_str().contains(".."), "{composed:?}");
    }
    if let Some(texts) = decompose(text) {
        let parts: Vec<Part<'_>> = texts.iter().map(|text| Part::Opaque(text)).collect();
        let composed = compose(&parts).expect("no part is empty");
        assert_eq!(decompose(composed.as_str()), Some(texts));
    }
}

fn prefix(text: &str) {
    if let Ok(prefix) = KeyPrefix::parse(text) {
        assert_eq!(KeyPrefix::parse(&prefix.to_string()), Ok(prefix));
    }
    if let Ok(id) = AgentId::parse(text) {
        assert_eq!(AgentId::parse(id.as_str()), Ok(id));
    }
}
