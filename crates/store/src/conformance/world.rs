//! Tenants, callers and open sessions for the suite.

use std::sync::Arc;

use watertight_core::grant::{Grant, Grants, Verb, VerbSet};
use watertight_core::ids::{EntryId, GenerationId, RunId, UnixMillis};
use watertight_core::key::{CanonicalKey, KeyPrefix};
use watertight_core::principal::Proof;
use watertight_core::run::RunOptions;
use watertight_core::scope::{admit, authenticate, authorize};
use watertight_core::session::{SessionMeta, SessionRecord};
use watertight_core::transcript::{Block, Entry, EntryBody, Message, Provenance};
use watertight_core::{Caller, KeyPermit, SessionScope, Steward};
use watertight_seal::token::{Token, TokenHasher, TokenKind};

use super::{Fixture, Subject};
use crate::model::{
    Archived, Batch, Committed, EntryRange, GenerationHit, Head, Lease, ListQuery, NewEntry, NewTenant, RunChange,
    Switch, TenantRow,
};
use crate::{Store, StoreError};

/// When the suite's first write happens.
pub const START: UnixMillis = UnixMillis(1_700_000_000_000);

/// A store under test with its first tenant's operator.
pub struct World {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Hashes tokens.
    pub hasher: Arc<TokenHasher>,
    /// The operator of tenant `default`.
    pub operator: Operator,
}

/// A tenant's operator.
pub struct Operator {
    /// As the store made it.
    pub row: TenantRow,
    /// Its token.
    pub token: Token,
    /// As authenticated.
    pub caller: Caller,
}

/// A session opened for writing.
pub struct Desk {
    /// The authority.
    pub scope: SessionScope,
    /// The lease.
    pub lease: Lease,
    /// Where the session ends.
    pub head: Head,
    /// Time of the next write.
    pub now: UnixMillis,
}

impl World {
    /// A fresh store.
    pub async fn new(fixture: &impl Fixture) -> Self {
        let Subject { store, hasher } = fixture.open().await;
        let operator = operator(&store, &hasher, "default").await;
        Self { store, hasher, operator }
    }

    /// The same store closed and opened again.
    pub async fn reopened(self, fixture: &impl Fixture) -> Self {
        let Self { store, operator, .. } = self;
        drop(store);
        let Subject { store, hasher } = fixture.open().await;
        Self { store, hasher, operator }
    }

    /// Another tenant's operator.
    pub async fn tenant(&self, name: &str) -> Operator {
        operator(&self.store, &self.hasher, name).await
    }

    /// The permit for a key.
    pub async fn permit(&self, caller: &Caller, verb: Verb, key: &str) -> KeyPermit {
        let grants = self.store.grants(caller).await.expect("grants");
        admit(caller, &grants, verb, &CanonicalKey::from_stored(key), START).expect("the key is admitted")
    }

    /// The session a key names, if any.
    pub async fn find(&self, caller: &Caller, key: &str) -> Option<SessionRecord> {
        self.store.find_session(&self.permit(caller, Verb::Read, key).await).await.expect("the look-up works")
    }

    /// A scope on the session of a key, drafted if there is none.
    pub async fn scope(&self, caller: &Caller, key: &str) -> SessionScope {
        let permit = self.permit(caller, Verb::Write, key).await;
        let record = match self.store.find_session(&permit).await.expect("the look-up works") {
            Some(record) => record,
            None => self.store.draft_session(&permit, None, START).await.expect("a draft"),
        };
        authorize(permit, &record).expect("the permit fits the record")
    }

    /// The operator's session of a key, opened for writing.
    pub async fn desk(&self, key: &str) -> Desk {
        self.desk_of(&self.operator.caller, key).await
    }

    /// A caller's session of a key, opened for writing.
    pub async fn desk_of(&self, caller: &Caller, key: &str) -> Desk {
        let scope = self.scope(caller, key).await;
        self.open(scope).await
    }

    /// Opens a scope for writing.
    pub async fn open(&self, scope: SessionScope) -> Desk {
        let open = self.store.open_session(&scope).await.expect("the session opens");
        let scope = scope.renewed(&open.record).expect("the same session");
        Desk { scope, lease: open.lease, head: open.head, now: START }
    }

    /// Commits and moves the desk on.
    pub async fn commit(&self, desk: &mut Desk, batch: Batch) -> Result<Committed, StoreError> {
        let batch = Batch { at: desk.now, ..batch };
        let done = self.store.commit(&desk.scope, desk.lease, &desk.head, batch).await?;
        desk.head = done.head.clone();
        desk.scope = desk.scope.renewed(&done.record).expect("the same session");
        desk.now = desk.now.plus_millis(1);
        Ok(done)
    }

    /// Appends one user message.
    pub async fn say(&self, desk: &mut Desk, text: &str) -> Entry {
        let batch = Batch { entries: vec![said(text)], ..Batch::default() };
        let mut done = self.commit(desk, batch).await.expect("the message is stored");
        done.entries.remove(0)
    }

    /// Makes a generation live.
    pub async fn switch(&self, desk: &mut Desk, to: &str) -> Committed {
        let batch = Batch { switch: Some(Switch { to: generation(to) }), ..Batch::default() };
        self.commit(desk, batch).await.expect("the switch is stored")
    }

    /// Writes the session's description.
    pub async fn describe(&self, desk: &mut Desk, meta: SessionMeta) {
        let batch = Batch { meta: Some(meta), ..Batch::default() };
        self.commit(desk, batch).await.expect("the description is stored");
    }

    /// Texts of the live generation, oldest first.
    pub async fn texts(&self, desk: &Desk) -> Vec<String> {
        let range = EntryRange::Tail { limit: 1000, skip: 0 };
        let entries = self.store.entries(&desk.scope, desk.scope.generation_no(), range).await.expect("entries");
        entries.iter().map(|entry| entry.body.message.text()).collect()
    }

    /// The sessions that hold a generation and that a caller may read, latest written first.
    pub async fn holding(&self, caller: &Caller, id: &str) -> Vec<GenerationHit> {
        let grants = self.store.grants(caller).await.expect("grants");
        self.store.find_generation(caller, &grants, &generation(id), START).await.expect("a look-up")
    }

    /// Keys of the sessions a query lists for the operator, and how many match in all.
    pub async fn listed(&self, query: ListQuery) -> (Vec<String>, u64) {
        let caller = &self.operator.caller;
        let grants: Grants = self.store.grants(caller).await.expect("grants");
        let page = self.store.list(caller, &grants, query).await.expect("a list");
        (page.rows.iter().map(|row| row.record.key().as_str().to_owned()).collect(), page.total)
    }
}

async fn operator(store: &Arc<dyn Store>, hasher: &TokenHasher, name: &str) -> Operator {
    let steward = Steward::from_opened_keystore();
    let token = Token::generate(TokenKind::Operator).expect("random bytes");
    let new = NewTenant { name, operator_token: &token, now: START };
    let row = store.ensure_tenant(&steward, new).await.expect("the tenant is made");
    let caller = caller(store, hasher, &token).await.expect("the token is accepted");
    Operator { row, token, caller }
}

/// Who a token proves to be; none when it is not accepted.
pub async fn caller(store: &Arc<dyn Store>, hasher: &TokenHasher, token: &Token) -> Option<Caller> {
    let record = store.credential(token.id()).await.expect("the look-up works")?;
    authenticate(&record, &Proof::Secret(hasher.hash_token(token)), START).ok()
}

/// The same caller holding one verb only.
pub fn only(caller: &Caller, verb: Verb) -> Caller {
    caller.clone().narrowed([verb].into_iter().collect::<VerbSet>())
}

/// A user message to append.
pub fn said(text: &str) -> NewEntry {
    let message = Message::User { content: vec![Block::from_text(text)] };
    let body = EntryBody { message, provenance: Provenance::Gateway, parent: None, run: None, turn: None };
    NewEntry { id: EntryId::from_bytes(watertight_seal::random().expect("random bytes")), body }
}

/// A run to accept with the entry that holds its input.
pub fn accepted(id: &str, input: &NewEntry) -> RunChange {
    let options = RunOptions { thinking: Some("high".to_owned()), ..RunOptions::default() };
    RunChange::Accept { id: run(id), digest: [7; 32], input: input.id, options }
}

/// A run id.
pub fn run(id: &str) -> RunId {
    RunId::parse(id).expect("a run id")
}

/// A generation id.
pub fn generation(id: &str) -> GenerationId {
    GenerationId::parse(id).expect("a generation id")
}

/// Grants of the caller to read under these prefixes, until [`START`].
pub fn reading(caller: &Caller, prefixes: &[&str]) -> Grants {
    let grant = |prefix: &&str| Grant {
        verbs: [Verb::Read].into_iter().collect(),
        prefix: KeyPrefix::from_segments(prefix.split(':').map(str::to_owned).collect()),
        not_after: Some(START),
    };
    Grants::decode(caller.tenant(), caller.principal(), prefixes.iter().map(grant).collect())
}

/// A query for everything but archived sessions and sentinels.
pub fn everything() -> ListQuery {
    ListQuery {
        now: START,
        agent: None,
        active_since: None,
        search: None,
        label: None,
        archived: Archived::Exclude,
        sentinels: false,
        limit: 100,
        offset: 0,
    }
}
