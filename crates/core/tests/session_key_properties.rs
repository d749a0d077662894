//! Laws of session keys over hostile text. `PROPTEST_CASES` sets the number of cases; without it composition runs
//! 100,000 and every other law 20,000.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use proptest::prelude::*;
use watertight_core::key::compose::{compose, decompose};
use watertight_core::key::dispatch::normalize_cli_target;
use watertight_core::key::openclaw::request::{self, Selectors};
use watertight_core::key::openclaw::{self, MainKeyRules, StoreRules, class, session_id, store};
use watertight_core::key::{AgentId, Conversation, Home, KeyError, KeyPolicy, KeyRules, Part, Roster, Route, strict};

fn config(default_cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default_cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Pieces of which attacks on a composed key are made.
const PIECES: [&str; 30] = [
    ":",
    "::",
    ":user:",
    ":thread:",
    "user",
    "thread",
    "agent:",
    "agent:main:",
    "AGENT:Ops:",
    "main",
    "MAIN",
    "global",
    "%",
    "%25",
    "%3A",
    "%3a",
    ".",
    "..",
    "/",
    "a",
    "A",
    "Σ",
    "İ",
    "\u{212a}",
    "é",
    " ",
    "cron:",
    "signal:group:",
    "matrix:channel:",
    "\0",
];

fn hostile() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..6).prop_map(|pieces| pieces.concat())
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => hostile(),
        1 => any::<String>(),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ]
}

fn opaque() -> impl Strategy<Value = String> {
    any_text().prop_filter("parts are not empty", |text| !text.is_empty())
}

/// Text that is likely to be a strict key.
fn tidy() -> impl Strategy<Value = String> {
    "[a-cA-C%.~]{1,2}(:[a-cA-C%]{1,2}){0,2}"
}

fn roster() -> Roster {
    Roster::new(["main", "ops", "my-agent"].map(|id| AgentId::parse(id).unwrap()).to_vec(), 0).unwrap()
}

fn rules(policy: KeyPolicy) -> KeyRules {
    KeyRules::new(policy, roster())
}

fn policies() -> impl Strategy<Value = KeyPolicy> {
    prop::sample::select(vec![KeyPolicy::Strict, KeyPolicy::Openclaw])
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tuple {
    peer: String,
    user: Option<String>,
    thread: Option<String>,
}

impl Tuple {
    fn composed(&self) -> String {
        let route = Route::Direct { channel: "clawg-ui", peer: &self.peer };
        let conversation = Conversation { route, user: self.user.as_deref(), thread: self.thread.as_deref() };
        conversation.compose().unwrap().as_str().to_owned()
    }
}

fn tuples() -> impl Strategy<Value = Tuple> {
    (opaque(), prop::option::of(opaque()), prop::option::of(opaque())).prop_map(|(peer, user, thread)| Tuple {
        peer,
        user,
        thread,
    })
}

/// The tuple a composed rest came from, read by position.
fn read_back(rest: &str) -> Option<Tuple> {
    let texts = decompose(rest)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ["clawg-ui", "direct", peer, tail @ ..] = &texts[..] else { return None };
    let (user, tail) = match tail {
        ["user", user, tail @ ..] => (Some((*user).to_owned()), tail),
        _ => (None, tail),
    };
    let thread = match tail {
        [] => None,
        ["thread", thread] => Some((*thread).to_owned()),
        _ => return None,
    };
    Some(Tuple { peer: (*peer).to_owned(), user, thread })
}

proptest! {
    #![proptest_config(config(100_000))]

    #[test]
    fn a_composed_conversation_reads_back_as_it_was(tuple in tuples()) {
        prop_assert_eq!(read_back(&tuple.composed()), Some(tuple));
    }

    #[test]
    fn two_conversations_compose_alike_only_if_they_are_equal(a in tuples(), b in tuples()) {
        prop_assert_eq!(a.composed() == b.composed(), a == b);
    }

    #[test]
    fn opaque_parts_round_trip(texts in prop::collection::vec(opaque(), 1..5)) {
        let parts: Vec<Part<'_>> = texts.iter().map(|text| Part::Opaque(text)).collect();
        let composed = compose(&parts).unwrap();
        prop_assert_eq!(composed.segments().count(), texts.len());
        prop_assert_eq!(decompose(composed.as_str()), Some(texts));
    }
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn a_composed_key_may_also_be_written_whole(tuple in tuples(), policy in policies()) {
        let rules = rules(policy);
        let route = Route::Direct { channel: "clawg-ui", peer: &tuple.peer };
        let rest = Conversation { route, user: tuple.user.as_deref(), thread: tuple.thread.as_deref() };
        match rules.composed_key(&Home::Operator, None, &rest.compose().unwrap()) {
            Ok(key) => prop_assert_eq!(rules.resolve(&Home::Operator, key.as_str(), None), Ok(key)),
            Err(error) => prop_assert!(matches!(error, KeyError::TooLong { .. }), "{}", error),
        }
    }

    #[test]
    fn strict_keeps_the_agent_and_the_rest_apart(
        agents in prop::array::uniform2(prop::sample::select(vec!["main", "MAIN", "Main", "ops", "OPS"])),
        words in prop::array::uniform2(prop::sample::select(vec!["agent", "AGENT", "aGent"])),
        rests in prop::array::uniform2(tidy()),
    ) {
        let rules = rules(KeyPolicy::Strict);
        let resolve = |at: usize| {
            let text = format!("{}:{}:{}", words[at], agents[at], rests[at]);
            rules.resolve(&Home::Operator, &text, None)
        };
        if let (Ok(a), Ok(b)) = (resolve(0), resolve(1)) {
            prop_assert_eq!(a == b, agents[0].eq_ignore_ascii_case(agents[1]) && rests[0] == rests[1]);
            prop_assert_eq!(a.rest(), Some(rests[0].as_str()));
        }
    }

    #[test]
    fn strict_bare_keys_never_merge(texts in prop::array::uniform2(prop_oneof![tidy(), any_text()])) {
        let rules = rules(KeyPolicy::Strict);
        let resolve = |text: &str| rules.resolve(&Home::Operator, text, None);
        let bare = |text: &str| !text.to_ascii_lowercase().starts_with("agent:");
        if let [Ok(a), Ok(b)] = texts.each_ref().map(|text| resolve(text))
            && texts.iter().all(|text| bare(text))
        {
            prop_assert_eq!(a == b, texts[0] == texts[1]);
        }
    }

    #[test]
    fn resolving_again_changes_nothing(
        text in prop_oneof![any_text(), tidy()],
        agent in prop::option::of(prop::sample::select(vec!["main", "Ops"])),
        policy in policies(),
    ) {
        let rules = rules(policy);
        if let Ok(key) = rules.resolve(&Home::Operator, &text, agent) {
            prop_assert_eq!(rules.resolve(&Home::Operator, key.as_str(), None), Ok(key.clone()));
            let owner = rules.owner(&key).unwrap().as_str();
            if !key.is_sentinel() {
                prop_assert_eq!(rules.resolve(&Home::Operator, key.as_str(), Some(owner)), Ok(key));
            }
        }
    }

    #[test]
    fn a_strict_key_holds_to_the_grammar(text in any_text(), name in opaque()) {
        let rules = rules(KeyPolicy::Strict);
        for home in [Home::Operator, Home::user(&name).unwrap()] {
            if let Ok(key) = rules.resolve(&home, &text, None) {
                let whole = key.as_str();
                prop_assert!(whole.len() <= strict::MAX_BYTES && key.segments().count() <= strict::MAX_SEGMENTS);
                prop_assert!(whole.bytes().all(|b| b == b':' || strict::in_alphabet(b)) && !whole.contains(".."));
                prop_assert!(key.segments().all(|segment| !segment.is_empty()));
                prop_assert!(key.is_sentinel() || rules.roster.get(key.agent().unwrap()).is_some());
            }
        }
    }

    #[test]
    fn a_home_holds_its_own_bare_keys_and_nobody_elses(
        names in prop::array::uniform2(opaque()),
        text in any_text(),
        policy in policies(),
    ) {
        let rules = rules(policy);
        let home = |at: usize| Home::user(&names[at]).unwrap();
        let main = rules.roster.default();
        let whole = text.to_lowercase();
        let bare = !openclaw::text::trim(&whole).starts_with("agent:");
        if let (true, Ok(key)) = (bare, rules.resolve(&home(0), &text, None)) {
            prop_assert!(rules.home_prefix(&home(0), main).covers(&key), "{}", key);
            prop_assert_eq!(rules.home_prefix(&home(1), main).covers(&key), names[0] == names[1]);
            prop_assert_eq!(rules.resolve(&Home::Operator, key.as_str(), None), Ok(key));
        }
    }

    #[test]
    fn no_text_makes_any_of_it_panic(text in any_text(), other in any_text(), policy in policies()) {
        let roster = roster();
        let rules = rules(policy);
        for home in [Home::Operator, Home::user("u").unwrap()] {
            for error in [
                rules.resolve(&home, &text, Some(&other)).err(),
                rules.main_key(&home, Some(&other)).err(),
                rules.explicit_key(&home, None, &text).err(),
            ].into_iter().flatten() {
                prop_assert!(!error.to_string().chars().any(char::is_control));
            }
        }
        let selectors =
            Selectors { session_key: Some(&text), session_id: None, agent: Some(&other), to: Some(&other) };
        let main = MainKeyRules { main_key: Some(&other), ..MainKeyRules::default() };
        if let Err(error) = normalize_cli_target(policy, main, &roster, selectors) {
            prop_assert!(!error.message("watertight").chars().any(char::is_control));
        }
        let folded = openclaw::fold(&text);
        prop_assert_eq!(openclaw::fold(&folded), folded);
        let slug = openclaw::normalize_agent_id(&text);
        prop_assert!(slug.len() <= AgentId::MAX_BYTES && !slug.is_empty());
        let _ = (class::chat_type(&text), class::subagent_depth(&text), class::is_incognito_key(&text));
        let _ = (class::is_cron_run_key(&text), class::is_acp_key(&text), store::to_request_key(&text));
        let _ = (StoreRules::of(&roster, main).store_key(&text), StoreRules::of(&roster, main).stored_owner(&other, &text));
        let _ = request::resolve(main, &other, selectors);
        let _ = session_id::validate_session_id(&text).is_ok();
        let _ = session_id::select_by_session_id(&[(&text, 1), (&other, 2)], &other);
    }
}

#[test]
fn no_two_of_all_short_hostile_tuples_meet() {
    let pieces = ["a", ":", "%", "user", "thread", ":user:", ":thread:", "%3A", "."];
    let mut texts: Vec<String> = pieces.map(str::to_owned).to_vec();
    texts.extend(pieces.iter().flat_map(|a| pieces.iter().map(move |b| format!("{a}{b}"))));
    texts.sort();
    texts.dedup();
    // Peers stay short so that the whole cube fits in a test.
    let peers = ["a", "a:user:a", "user", "a:thread:a", "%3A"];
    let optional: Vec<Option<String>> = std::iter::once(None).chain(texts.into_iter().map(Some)).collect();

    let mut seen = HashMap::new();
    for peer in peers {
        for user in &optional {
            for thread in &optional {
                let tuple = Tuple { peer: peer.to_owned(), user: user.clone(), thread: thread.clone() };
                if let Some(other) = seen.insert(tuple.composed(), tuple.clone()) {
                    panic!("{tuple:?} and {other:?} give one key");
                }
            }
        }
    }
    assert!(seen.len() > 30_000);
}
