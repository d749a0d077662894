//! Grants: which verbs on which keys a principal holds (isolation.md §2.3).

use serde::{Deserialize, Serialize};

use crate::ids::{PrincipalId, TenantId, UnixMillis};
use crate::key::{CanonicalKey, KeyPrefix};

/// What a caller may do. The wire's `operator.*` scope names map onto these one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Verb {
    /// Read transcripts, lists and events.
    Read = 0,
    /// Send turns, abort runs, create sessions. Implies [`Verb::Read`].
    Write = 1,
    /// Everything, including what is destructive. Implies every other verb.
    Admin = 2,
    /// Answer approval requests.
    Approvals = 3,
    /// Answer questions an agent asks.
    Questions = 4,
    /// Pair and revoke devices.
    Pairing = 5,
    /// Accepted for compatibility; opens nothing here.
    Talk = 6,
    /// Name another user's segment in a key.
    SessionAssert = 7,
    /// List sessions beyond the caller's home prefix.
    ListAll = 8,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Write,
        Self::Admin,
        Self::Approvals,
        Self::Questions,
        Self::Pairing,
        Self::Talk,
        Self::SessionAssert,
        Self::ListAll,
    ];

    fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The verb as grants and lists name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Approvals => "approvals",
            Self::Questions => "questions",
            Self::Pairing => "pairing",
            Self::Talk => "talk",
            Self::SessionAssert => "session.assert",
            Self::ListAll => "session.list_all",
        }
    }

    /// The verb of this name; the wire's `operator.<name>` is understood too.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix("operator.").unwrap_or(text);
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }
}

/// A set of verbs. Absent or empty means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VerbSet(u16);

impl VerbSet {
    /// No verb.
    pub const NONE: Self = Self(0);

    /// Every verb.
    pub fn all() -> Self {
        Verb::ALL.into_iter().collect()
    }

    /// The set from its stored form; unknown bits are dropped.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits & Self::all().0)
    }

    /// The stored form.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether the set allows `verb`, directly or because a stronger verb implies it.
    pub fn allows(self, verb: Verb) -> bool {
        let holds = |v: Verb| self.0 & v.bit() != 0;
        holds(verb) || holds(Verb::Admin) || (matches!(verb, Verb::Read | Verb::Talk) && holds(Verb::Write))
    }

    /// The verbs that both sets allow; never more than either.
    #[must_use]
    pub fn meet(self, other: Self) -> Self {
        Verb::ALL.into_iter().filter(|v| self.allows(*v) && other.allows(*v)).collect()
    }

    /// Verbs of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no verb is held.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Names of the verbs that are held, without those they imply.
    pub fn names(self) -> Vec<&'static str> {
        Verb::ALL.into_iter().filter(|verb| self.0 & verb.bit() != 0).map(Verb::name).collect()
    }

    /// The verbs of these names; the first name that is none is the error.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        names.into_iter().map(|name| Verb::parse(name).ok_or(name)).collect()
    }
}

impl FromIterator<Verb> for VerbSet {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        Self(verbs.into_iter().fold(0, |bits, v| bits | v.bit()))
    }
}

/// One rule: these verbs, on keys under this prefix, until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it allows.
    pub verbs: VerbSet,
    /// On which keys.
    pub prefix: KeyPrefix,
    /// Last moment of validity; none means until revoked.
    pub not_after: Option<UnixMillis>,
}

/// The grants of one principal, as the store holds them. Only the store's row decoding makes one.
#[derive(Clone, Debug)]
pub struct Grants {
    tenant: TenantId,
    principal: PrincipalId,
    name: Option<String>,
    rules: Vec<Grant>,
}

impl Grants {
    /// Row decoding: the grants found for this principal.
    pub fn decode(tenant: TenantId, principal: PrincipalId, rules: Vec<Grant>) -> Self {
        Self { tenant, principal, name: None, rules }
    }

    /// Row decoding: with the principal's name.
    #[must_use]
    pub fn named(self, name: String) -> Self {
        Self { name: Some(name), ..self }
    }

    /// The principal's name in its tenant, under which its bare keys live.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The rules, live or not.
    pub fn rules(&self) -> &[Grant] {
        &self.rules
    }

    /// Whether these are the grants of that principal.
    pub fn belong_to(&self, tenant: TenantId, principal: PrincipalId) -> bool {
        self.tenant == tenant && self.principal == principal
    }

    /// The verbs the grants allow on `key` at `now`.
    pub fn verbs_on(&self, key: &CanonicalKey, now: UnixMillis) -> VerbSet {
        self.live(now).filter(|g| g.prefix.covers(key)).fold(VerbSet::NONE, |all, g| all.union(g.verbs))
    }

    /// The verbs that are allowed on every key at `now`.
    pub fn verbs_everywhere(&self, now: UnixMillis) -> VerbSet {
        let everywhere = self.live(now).filter(|grant| grant.prefix.segments().is_empty());
        everywhere.fold(VerbSet::NONE, |all, grant| all.union(grant.verbs))
    }

    /// The prefixes under which `verb` is allowed at `now`.
    pub fn prefixes(&self, verb: Verb, now: UnixMillis) -> impl Iterator<Item = &KeyPrefix> {
        self.live(now).filter(move |g| g.verbs.allows(verb)).map(|g| &g.prefix)
    }

    fn live(&self, now: UnixMillis) -> impl Iterator<Item = &Grant> {
        self.rules.iter().filter(move |g| g.not_after.is_none_or(|end| now <= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verb_sets() -> impl Strategy<Value = VerbSet> {
        any::<u16>().prop_map(VerbSet::from_bits)
    }

    proptest! {
        #[test]
        fn meet_never_widens(a in verb_sets(), b in verb_sets()) {
            let both = a.meet(b);
            for verb in Verb::ALL {
                prop_assert_eq!(both.allows(verb), a.allows(verb) && b.allows(verb));
            }
            prop_assert_eq!(both, b.meet(a));
            prop_assert_eq!(both.meet(a), both);
        }
    }

    #[test]
    fn write_implies_read_and_admin_implies_all() {
        let write: VerbSet = [Verb::Write].into_iter().collect();
        assert!(write.allows(Verb::Read) && !write.allows(Verb::Admin));
        let admin: VerbSet = [Verb::Admin].into_iter().collect();
        assert!(Verb::ALL.into_iter().all(|v| admin.allows(v)));
        assert!(Verb::ALL.into_iter().all(|v| !VerbSet::NONE.allows(v)));
    }

    #[test]
    fn a_verb_is_found_by_its_name_and_by_the_wire_s() {
        for verb in Verb::ALL {
            assert_eq!(Verb::parse(verb.name()), Some(verb));
        }
        assert_eq!(Verb::parse("operator.write"), Some(Verb::Write));
        assert_eq!((Verb::parse("Write"), Verb::parse("operator.operator.read")), (None, None));
        assert_eq!(VerbSet::parse(["read", "nope"]), Err("nope"));
        assert_eq!(VerbSet::parse(["read", "write"]).unwrap().names(), ["read", "write"]);
    }

    #[test]
    fn an_expired_grant_allows_nothing() {
        let key = CanonicalKey::from_stored("agent:main:main");
        let grants = Grants::decode(
            TenantId::from_bytes([1; 16]),
            PrincipalId::from_bytes([2; 16]),
            vec![Grant { verbs: VerbSet::all(), prefix: KeyPrefix::everything(), not_after: Some(UnixMillis(10)) }],
        );
        assert!(grants.verbs_on(&key, UnixMillis(10)).allows(Verb::Read));
        assert!(grants.verbs_on(&key, UnixMillis(11)).is_empty());
    }
}
