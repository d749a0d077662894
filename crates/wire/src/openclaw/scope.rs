//! `operator.*` names and the verbs they stand for (gateway-ws.md §1.5).

use watertight_core::grant::{Verb, VerbSet};

/// The name a missing scope is reported by.
pub fn name(verb: Verb) -> &'static str {
    match verb {
        Verb::Read => "operator.read",
        Verb::Write => "operator.write",
        Verb::Admin => "operator.admin",
        Verb::Approvals => "operator.approvals",
        Verb::Questions => "operator.questions",
        Verb::Pairing => "operator.pairing",
        Verb::Talk => "operator.talk",
        Verb::SessionAssert => "session.assert",
        Verb::ListAll => "session.list_all",
    }
}

/// The names of the verbs of a set, as lists show them: `operator.admin` says it all, and `operator.write` includes
/// `operator.talk`.
pub fn names(verbs: VerbSet) -> Vec<&'static str> {
    if verbs.allows(Verb::Admin) {
        return vec![name(Verb::Admin)];
    }
    let said = |verb: &Verb| verbs.allows(*verb) && (*verb != Verb::Talk || !verbs.allows(Verb::Write));
    Verb::ALL.into_iter().filter(said).map(name).collect()
}

/// The verb a name asks for; none for a name that opens nothing here.
pub fn verb(name: &str) -> Option<Verb> {
    match name {
        // Speech secrets are part of talk, which opens nothing here.
        "operator.talk.secrets" => Some(Verb::Talk),
        _ => Verb::ALL.into_iter().find(|verb| self::name(*verb) == name),
    }
}

/// The verbs a list of names asks for. An empty list asks for nothing.
pub fn verbs<'a>(names: impl IntoIterator<Item = &'a str>) -> VerbSet {
    names.into_iter().filter_map(verb).collect()
}

/// The names of `asked` that `held` allows, in the order they were asked, each once.
pub fn granted(asked: &[String], held: VerbSet) -> Vec<String> {
    let mut granted: Vec<String> = Vec::new();
    for name in asked {
        if verb(name).is_some_and(|verb| held.allows(verb)) && !granted.contains(name) {
            granted.push(name.clone());
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_name_of_its_own() {
        for verb in Verb::ALL {
            assert_eq!(self::verb(name(verb)), Some(verb));
        }
        assert_eq!(verb("operator.everything"), None);
    }

    #[test]
    fn a_list_names_what_is_held_and_little_of_what_is_implied() {
        assert_eq!(names(VerbSet::all()), ["operator.admin"]);
        assert_eq!(
            names(verbs(["operator.write", "operator.pairing"])),
            ["operator.read", "operator.write", "operator.pairing"]
        );
        assert_eq!(names(verbs(["operator.talk"])), ["operator.talk"]);
        assert!(names(VerbSet::NONE).is_empty());
    }

    #[test]
    fn what_was_not_asked_for_is_not_held() {
        assert!(verbs([]).is_empty());
        assert!(verbs(["operator.nonsense"]).is_empty());
        let asked = verbs(["operator.write"]);
        assert!(asked.allows(Verb::Read) && asked.allows(Verb::Write) && !asked.allows(Verb::Admin));
    }

    #[test]
    fn only_what_is_held_is_reported_as_granted() {
        let asked = ["operator.admin", "operator.read", "operator.read", "made.up"].map(String::from);
        assert_eq!(granted(&asked, VerbSet::all()), ["operator.admin", "operator.read"]);
        assert_eq!(granted(&asked, verbs(["operator.read"])), ["operator.read"]);
        assert!(granted(&asked, VerbSet::NONE).is_empty());
    }
}
