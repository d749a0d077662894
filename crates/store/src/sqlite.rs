//! The embedded store: `store.db` behind one writer thread and a few readers, `keys.db` for wrapped keys.
//!
//! * [`open`]: opening, and every reason not to. [`checks`]: what must hold before (isolation.md C8). [`soundness`]: the
//!   check of the whole file after an unclean end, for a large file beside the work.
//! * [`migration`]: schema steps with checksums.
//! * [`writer`]: the writer thread and its group commit. [`readers`]: the read-only connections.
//! * [`keystore`]: `keys.db`. [`vault`]: the opened keys. [`pool`]: the keys of sessions to come, and the drafts.
//! * [`rows`]: decoding and verification, the only place that makes core's records.
//! * [`session`], [`transcript`], [`commit`], [`list`], [`tenants`], [`recovery`]: one per family of operations.
//! * [`authority`], [`audit`]: who may do what, and the log of its changes. [`devices`]: devices and their pairing.
//! * [`rotation`]: new epochs and master keys. [`shredding`]: sessions and tenants that are gone for good.
//! * [`checkpoints`]: signed checkpoints, of what [`heads`] notes.
//! * [`verifier`]: proving what is stored, beside a process that serves it.
//! * [`fault`]: what SQLite's and seal's errors mean to a caller.
//!
//! Records are sealed and opened on the caller's side or on a reader's thread; the writer sees SQL only.

mod audit;
mod authority;
mod checkpoints;
mod checks;
mod commit;
mod devices;
mod fault;
mod heads;
mod key_status;
mod keystore;
mod known;
mod list;
mod migration;
mod open;
mod pool;
mod readers;
mod recovery;
mod rotation;
mod rows;
mod session;
mod shredding;
mod soundness;
mod tenants;
mod transcript;
mod vault;
mod verifier;
mod writer;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use watertight_core::grant::{Grant, Grants, Verb};
use watertight_core::ids::{
    CredentialId, EntryId, GenerationId, GenerationNo, GrantId, PrincipalId, RunId, SessionId, TenantId, UnixMillis,
};
use watertight_core::principal::{CredentialRecord, PrincipalKind};
use watertight_core::receipt::Receipt;
use watertight_core::run::RunRecord;
use watertight_core::scope::Renewal;
use watertight_core::session::{SessionColumns, SessionRecord};
use watertight_core::transcript::Entry;
use watertight_core::{Caller, KeyPermit, SessionScope, Steward, TenantAdmin};
use watertight_seal::keyring::Root;
use watertight_seal::master::MasterKey;
use watertight_seal::names::HashedNames;
use watertight_seal::token::TokenHasher;

use self::authority::{Hand, Issue};
use self::checks::StoreLock;
use self::commit::{Context, Target};
use self::fault::Fault;
use self::heads::Heads;
use self::keystore::Keystore;
use self::known::Known;
use self::list::Reach;
pub use self::open::OpenError;
use self::open::open_database;
use self::readers::Readers;
use self::session::{FIRST_GENERATION, FIRST_LIFE, Site};
use self::soundness::{Check, Finding, Soundness};
use self::vault::Vault;
pub use self::verifier::Verifier;
use self::writer::Writer;
use crate::authority::{AuditRow, CredentialRow, GrantRow, NewCredential, PrincipalRow, Revoke, Revoked};
use crate::model::{
    Batch, Committed, DamagedRun, EntryRange, Generation, GenerationHit, Head, Lease, ListQuery, NewTenant, OpenRuns,
    OpenSession, SessionPage, SessionRow, TenantRow,
};
use crate::{Store, StoreError, StoreFuture};

/// Figures since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Synced transactions in `store.db`.
    pub commits: u64,
    /// Writes carried by them; those beyond `commits` shared a sync.
    pub writes: u64,
    /// Synced transactions in `keys.db`.
    pub keystore_syncs: u64,
}

/// The embedded store. Closing or dropping it finishes what is queued and marks the end as clean.
pub struct SqliteStore {
    check: Option<Check>,
    soundness: Soundness,
    writer: Writer,
    readers: Arc<Readers>,
    vault: Arc<Vault>,
    known: Arc<Known>,
    heads: Arc<Heads>,
    base: checkpoints::Base,
    /// One tenant is made at a time, so that two starts of one name make one set of keys.
    bootstrap: tokio::sync::Mutex<()>,
    schema_version: u32,
    _lock: StoreLock,
}

const STORE_FILE: &str = "store.db";
const KEYS_FILE: &str = "keys.db";

impl SqliteStore {
    /// Whether a store was ever made in `dir`; when not, a missing master key may be made too.
    pub fn exists(dir: &Path) -> bool {
        dir.join(STORE_FILE).exists() || dir.join(KEYS_FILE).exists()
    }

    /// Opens the store in `dir`, or makes one where there is none. Blocks; call it before serving.
    ///
    /// Refuses a wrong master key, half a store, an unknown schema, a network file system, a second opener and an unsafe
    /// SQLite before anything is written.
    pub fn open(dir: &Path, master: &MasterKey) -> Result<Self, OpenError> {
        checks::sqlite_version()?;
        checks::directory(dir)?;
        let mut lock = StoreLock::take(dir)?;
        let (store_path, keys_path) = (dir.join(STORE_FILE), dir.join(KEYS_FILE));
        match (store_path.exists(), keys_path.exists()) {
            (true, false) => return Err(OpenError::KeystoreMissing { path: store_path }),
            // A first start that broke off between the two files leaves a keystore that guards nothing.
            (false, true) if Keystore::guards_data(&keys_path)? => {
                return Err(OpenError::StoreMissing { path: keys_path });
            }
            _ => {}
        }
        let root = Root::new(master);
        let keystore = Keystore::open(&keys_path, &root)?;
        let expected = keystore.keystore.has_tenants()?;
        let open::Opened { conn, schema_version, finding } = open_database(&store_path, &keystore, expected)?;
        let vault = Vault::open(root, keystore)?;
        let unchecked = finding == Finding::Unknown;
        let soundness = Soundness::new(finding);
        let writer = Writer::start(conn, soundness.clone())?;
        let readers = Readers::open(&store_path)?;
        let check = if unchecked { Some(Check::start(&store_path, soundness.clone())?) } else { None };
        lock.sign().map_err(|source| OpenError::Directory { path: dir.to_owned(), source })?;
        Ok(Self {
            check,
            soundness,
            writer,
            readers: Arc::new(readers),
            heads: Arc::new(Heads::new(vault.signer())),
            base: checkpoints::Base::default(),
            vault: Arc::new(vault),
            known: Arc::default(),
            bootstrap: tokio::sync::Mutex::new(()),
            schema_version,
            _lock: lock,
        })
    }

    /// Finishes what is queued, folds the log into the database and marks the end as clean.
    pub async fn close(self) {
        // Waiting for the writer blocks; dropping does it.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Hashes presented tokens and passwords for comparison with stored ones.
    pub fn token_hasher(&self) -> Arc<TokenHasher> {
        self.vault.hasher()
    }

    /// The session's names for a provider in header mode `hashed`.
    pub fn hashed_names(&self, scope: &SessionScope) -> Result<HashedNames, StoreError> {
        Ok(self.vault.tenant(scope.tenant())?.hashed_names(scope))
    }

    /// Waits for the check of a large store after an unclean end; ready at once when there is none. After an error,
    /// which says what is damaged, every write is refused with [`StoreError::Unavailable`].
    pub async fn checked(&self) -> Result<(), StoreError> {
        self.soundness.known().await
    }

    /// Resolves when a write or a sync failed, or the file went away, so that every write is refused from now on: the
    /// store has to be opened again. Pending for as long as there is nothing wrong.
    pub async fn failed(&self) -> StoreError {
        self.writer.failed().await
    }

    /// Figures since the store was opened.
    pub fn counts(&self) -> Counts {
        Counts { commits: self.writer.commits(), writes: self.writer.operations(), keystore_syncs: self.vault.syncs() }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Vault) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let vault = self.vault.clone();
        self.readers.run(move |conn| read(conn, &vault)).await
    }

    /// [`Self::read`] of a few rows found through an index.
    async fn look_up<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Vault) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let vault = self.vault.clone();
        self.readers.look_up(move |conn| read(conn, &vault)).await
    }

    /// Changes what somebody may do, and the audit log with it.
    async fn change<T: Send + 'static>(
        &self,
        admin: &TenantAdmin,
        now: UnixMillis,
        change: impl FnOnce(&Hand, &Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let hand = Hand::of(self.vault.tenant(admin.tenant())?, admin, now);
        self.writer.submit(move |conn| change(&hand, conn)).await
    }

    fn issue_of(&self, new: NewCredential<'_>) -> Issue {
        Issue {
            id: new.token.id().clone(),
            kind: new.token.kind(),
            hash: self.vault.hasher().hash_token(new.token),
            principal: new.principal,
            family: new.family,
            ceiling: new.ceiling,
            not_after: new.not_after,
            idle: new.idle,
            label: new.label,
        }
    }

    fn drafted_at(&self, site: &Site) -> UnixMillis {
        self.vault.with_pool(site.tenant, |pool| pool.drafted_at(site.session)).unwrap_or_default()
    }

    /// Writes a draft's row with its first entries. A draft that was given up since is refused: its key is gone, and
    /// nothing may be sealed with it any more.
    async fn first_commit(&self, site: Site, lease: Lease, head: &Head, batch: Batch) -> Result<Committed, StoreError> {
        let (tenant, session) = (site.tenant, site.session);
        let drafted_at = self.vault.with_pool(tenant, |pool| pool.begin_commit(session));
        if drafted_at.is_none() {
            let lookup = site.clone();
            let stored = self.read(move |conn, vault| Ok(lookup.find(conn, vault)?.is_some())).await?;
            if !stored {
                return Err(StoreError::KeyTaken);
            }
        }
        let result = self.write(site, lease, head, batch, drafted_at).await;
        if drafted_at.is_some() {
            self.vault.with_pool(tenant, |pool| pool.end_commit(session, &result));
        }
        result
    }

    async fn write(
        &self,
        site: Site,
        lease: Lease,
        head: &Head,
        batch: Batch,
        drafted_at: Option<UnixMillis>,
    ) -> Result<Committed, StoreError> {
        let target = match &batch.switch {
            Some(switch) if switch.to != site.generation => {
                let (site, to) = (site.clone(), switch.to.clone());
                self.read(move |conn, vault| Target::named(conn, vault, &site, &to)).await?
            }
            _ => Target::live(&site, head),
        };
        let (prepared, pending) = if let Some(key) = target.ready_key(&self.vault, &site) {
            let context = Context { vault: &self.vault, site, lease, head, drafted_at };
            commit::prepare(context, target, &key, batch)?
        } else {
            let (vault, head) = (self.vault.clone(), head.clone());
            tokio::task::spawn_blocking(move || {
                let key = target.load_key(&vault, &site)?;
                let context = Context { vault: &vault, site, lease, head: &head, drafted_at };
                commit::prepare(context, target, &key, batch)
            })
            .await
            .map_err(|e| StoreError::Unavailable(e.to_string()))??
        };
        let write = move |conn: &Connection| prepared.apply(conn).map(|applied| pending.committed(applied));
        let (known, heads, before) = (self.known.clone(), self.heads.clone(), (head.seq.0, head.chain));
        self.writer
            .submit_then(write, move |committed: &Committed| {
                known.put(&committed.record);
                let (record, head) = (&committed.record, &committed.head);
                heads.moved((record.tenant(), record.id()), before, (head.seq.0, head.chain));
            })
            .await
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if let Some(check) = &mut self.check {
            check.stop();
        }
        self.writer.stop();
        self.vault.close();
    }
}

/// The scope must allow the verb; a refusal reads like "missing".
fn demand(scope: &SessionScope, verb: Verb) -> Result<(), StoreError> {
    if scope.allows(verb) { Ok(()) } else { Err(StoreError::NotPermitted) }
}

impl Store for SqliteStore {
    fn credential<'a>(&'a self, id: &'a CredentialId) -> StoreFuture<'a, Option<CredentialRecord>> {
        let id = id.as_str().to_owned();
        Box::pin(self.look_up(move |conn, vault| rows::credential(conn, vault, &id)))
    }

    fn schema_version(&self) -> StoreFuture<'_, u32> {
        Box::pin(std::future::ready(Ok(self.schema_version)))
    }

    fn grants<'a>(&'a self, caller: &'a Caller) -> StoreFuture<'a, Grants> {
        let (tenant, principal) = (caller.tenant(), caller.principal());
        Box::pin(self.look_up(move |conn, vault| rows::grants(conn, &*vault.tenant(tenant)?, principal)))
    }

    fn list<'a>(&'a self, caller: &'a Caller, grants: &'a Grants, query: ListQuery) -> StoreFuture<'a, SessionPage> {
        let tenant = caller.tenant();
        let reach = Reach::of(caller, grants, query.agent.as_ref(), query.now);
        let (readers, vault) = (self.readers.clone(), self.vault.clone());
        let (scan, brief) = (list::is_scan(&query), list::is_brief(&reach, &query));
        let read = move |conn: &Connection| list::page(conn, &vault, &*vault.tenant(tenant)?, &reach, &query);
        Box::pin(async move {
            match (scan, brief) {
                (true, _) => readers.run_scan(read).await,
                (false, true) => readers.look_up(read).await,
                (false, false) => readers.run(read).await,
            }
        })
    }

    fn find_generation<'a>(
        &'a self,
        caller: &'a Caller,
        grants: &'a Grants,
        id: &'a GenerationId,
        now: UnixMillis,
    ) -> StoreFuture<'a, Vec<GenerationHit>> {
        let (tenant, id) = (caller.tenant(), id.clone());
        let reach = Reach::of(caller, grants, None, now);
        Box::pin(
            self.read(move |conn, vault| session::find_generation(conn, vault, &*vault.tenant(tenant)?, &reach, &id)),
        )
    }

    fn find_run<'a>(&'a self, caller: &'a Caller, id: &'a RunId) -> StoreFuture<'a, Option<RunRecord>> {
        let (tenant, principal, id) = (caller.tenant(), caller.principal(), id.clone());
        Box::pin(self.look_up(move |conn, vault| {
            let hash = vault.tenant(tenant)?.run_hash(principal, &id);
            let Some(raw) = rows::RunRaw::find(conn, tenant, principal, &hash)? else { return Ok(None) };
            let session = rows::SessionRaw::find(conn, tenant, raw.session)?;
            let session = session.ok_or(StoreError::Integrity("session of a run"))?.open(vault)?;
            raw.open(vault, &session.record).map(Some)
        }))
    }

    fn find_session<'a>(&'a self, permit: &'a KeyPermit) -> StoreFuture<'a, Option<SessionRecord>> {
        let (tenant, key) = (permit.tenant(), permit.key().clone());
        Box::pin(async move {
            if let Some(record) = self.known.get(tenant, &key) {
                return Ok(Some(record));
            }
            let found = self.look_up(move |conn, vault| session::find(conn, vault, tenant, &key)).await?;
            if let Some(record) = &found {
                self.known.put(record);
            }
            Ok(found)
        })
    }

    fn draft_session<'a>(
        &'a self,
        permit: &'a KeyPermit,
        generation: Option<GenerationId>,
        now: UnixMillis,
    ) -> StoreFuture<'a, SessionRecord> {
        Box::pin(async move {
            if !permit.may_create() {
                return Err(StoreError::NotPermitted);
            }
            let drawn = self.vault.draw(permit.tenant(), &self.readers, now).await?;
            let generation = match generation {
                Some(generation) => generation,
                None => {
                    GenerationId::from_uuid(uuid::Builder::from_random_bytes(watertight_seal::random()?).into_uuid())
                }
            };
            Ok(rows::session_record(SessionColumns {
                tenant: permit.tenant(),
                id: drawn.session,
                key: permit.key().clone(),
                owner: permit.principal(),
                generation,
                generation_no: FIRST_GENERATION,
                lifecycle: FIRST_LIFE,
                created_at: now,
                draft: true,
            }))
        })
    }

    fn describe<'a>(&'a self, scope: &'a SessionScope) -> StoreFuture<'a, SessionRow> {
        Box::pin(async move {
            demand(scope, Verb::Read)?;
            let site = Site::of(scope);
            let drafted_at = self.drafted_at(&site);
            self.read(move |conn, vault| session::describe(conn, vault, &site, drafted_at)).await
        })
    }

    fn open_session<'a>(&'a self, scope: &'a SessionScope) -> StoreFuture<'a, OpenSession> {
        Box::pin(async move {
            demand(scope, Verb::Write)?;
            let site = Site::of(scope);
            let (tenant, id) = (site.tenant, site.session);
            if site.draft {
                let lookup = site.clone();
                let stored = self.read(move |conn, vault| Ok(lookup.find(conn, vault)?.is_some())).await?;
                if !stored {
                    let drafted_at = self.drafted_at(&site);
                    return Ok(session::open_draft(&site, drafted_at));
                }
            }
            let lease = self.writer.submit(move |conn| session::take_lease(conn, tenant, id)).await?;
            let lease = lease.ok_or(StoreError::NotPermitted)?;
            self.read(move |conn, vault| session::open_stored(conn, vault, &site, lease)).await
        })
    }

    fn commit<'a>(
        &'a self,
        scope: &'a SessionScope,
        lease: Lease,
        head: &'a Head,
        batch: Batch,
    ) -> StoreFuture<'a, Committed> {
        Box::pin(async move {
            demand(scope, Verb::Write)?;
            let site = Site::of(scope);
            if commit::is_birth(&site, lease, head) {
                self.first_commit(site, lease, head, batch).await
            } else {
                self.write(site, lease, head, batch, None).await
            }
        })
    }

    fn entries<'a>(
        &'a self,
        scope: &'a SessionScope,
        generation: GenerationNo,
        range: EntryRange,
    ) -> StoreFuture<'a, Vec<Entry>> {
        Box::pin(async move {
            demand(scope, Verb::Read)?;
            let site = Site::of(scope);
            self.read(move |conn, vault| transcript::entries(conn, vault, &site, generation, range)).await
        })
    }

    fn entry<'a>(&'a self, scope: &'a SessionScope, id: EntryId) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move {
            demand(scope, Verb::Read)?;
            let site = Site::of(scope);
            self.read(move |conn, vault| transcript::entry(conn, vault, &site, id)).await
        })
    }

    fn receipt<'a>(&'a self, scope: &'a SessionScope, id: EntryId) -> StoreFuture<'a, Option<Receipt>> {
        Box::pin(async move {
            demand(scope, Verb::Read)?;
            let site = Site::of(scope);
            self.read(move |conn, vault| transcript::receipt(conn, vault, &site, id)).await
        })
    }

    fn generations<'a>(&'a self, scope: &'a SessionScope) -> StoreFuture<'a, Vec<Generation>> {
        Box::pin(async move {
            demand(scope, Verb::Read)?;
            let site = Site::of(scope);
            let drafted_at = self.drafted_at(&site);
            self.read(move |conn, vault| session::generations(conn, vault, &site, drafted_at)).await
        })
    }

    fn ensure_tenant<'a>(&'a self, steward: &'a Steward, tenant: NewTenant<'a>) -> StoreFuture<'a, TenantRow> {
        Box::pin(async move {
            let _one_at_a_time = self.bootstrap.lock().await;
            if let Some(found) = self.find_tenant(steward, tenant.name).await? {
                return Ok(found);
            }
            let (vault, now) = (self.vault.clone(), tenant.now);
            let keys = tokio::task::spawn_blocking(move || {
                vault.create_tenant(TenantId::from_bytes(watertight_seal::random()?), now)
            })
            .await
            .map_err(|e| StoreError::Unavailable(e.to_string()))??;
            let token = tenant.operator_token;
            let rows = tenants::NewRows {
                keys,
                name: tenant.name.to_owned(),
                credential: token.id().clone(),
                secret_hash: self.vault.hasher().hash_token(token),
                family: watertight_seal::random()?,
                now: tenant.now,
            };
            self.writer.submit(move |conn| rows.insert(conn)).await
        })
    }

    fn find_tenant<'a>(&'a self, _steward: &'a Steward, name: &'a str) -> StoreFuture<'a, Option<TenantRow>> {
        let name = name.to_owned();
        Box::pin(self.read(move |conn, vault| tenants::find(conn, vault, &name)))
    }

    fn tenant_names<'a>(&'a self, _steward: &'a Steward) -> StoreFuture<'a, Vec<String>> {
        Box::pin(self.read(|conn, _| tenants::names(conn)))
    }

    fn create_principal<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        name: &'a str,
        kind: PrincipalKind,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<PrincipalRow>> {
        let name = name.to_owned();
        Box::pin(self.change(admin, now, move |hand, conn| hand.create_principal(conn, &name, kind)))
    }

    fn principals<'a>(&'a self, admin: &'a TenantAdmin) -> StoreFuture<'a, Vec<PrincipalRow>> {
        let tenant = admin.tenant();
        Box::pin(self.read(move |conn, vault| authority::principals(conn, &*vault.tenant(tenant)?)))
    }

    fn principal_named<'a>(&'a self, admin: &'a TenantAdmin, name: &'a str) -> StoreFuture<'a, Option<PrincipalRow>> {
        let (tenant, name) = (admin.tenant(), name.to_owned());
        Box::pin(self.read(move |conn, vault| authority::principal_named(conn, &*vault.tenant(tenant)?, &name)))
    }

    fn set_disabled<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        principal: PrincipalId,
        disabled: bool,
        now: UnixMillis,
    ) -> StoreFuture<'a, bool> {
        Box::pin(self.change(admin, now, move |hand, conn| hand.set_disabled(conn, principal, disabled)))
    }

    fn issue<'a>(&'a self, admin: &'a TenantAdmin, new: NewCredential<'a>, now: UnixMillis) -> StoreFuture<'a, bool> {
        let issue = self.issue_of(new);
        Box::pin(self.change(admin, now, move |hand, conn| hand.issue(conn, &issue)))
    }

    fn credentials<'a>(&'a self, admin: &'a TenantAdmin, which: Option<Revoke>) -> StoreFuture<'a, Vec<CredentialRow>> {
        let tenant = admin.tenant();
        let read = move |conn: &Connection, vault: &Vault| {
            authority::credential_rows(conn, &*vault.tenant(tenant)?, which.as_ref())
        };
        Box::pin(self.read(read))
    }

    fn revoke<'a>(&'a self, admin: &'a TenantAdmin, what: Revoke, now: UnixMillis) -> StoreFuture<'a, Revoked> {
        Box::pin(self.change(admin, now, move |hand, conn| hand.revoke(conn, &what, "token.revoke")))
    }

    fn grant<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        to: PrincipalId,
        grant: Grant,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<GrantRow>> {
        Box::pin(self.change(admin, now, move |hand, conn| hand.grant(conn, to, &grant)))
    }

    fn ungrant<'a>(
        &'a self,
        admin: &'a TenantAdmin,
        grant: GrantId,
        now: UnixMillis,
    ) -> StoreFuture<'a, Option<PrincipalId>> {
        Box::pin(self.change(admin, now, move |hand, conn| hand.ungrant(conn, grant)))
    }

    fn grant_rows<'a>(&'a self, admin: &'a TenantAdmin, of: Option<PrincipalId>) -> StoreFuture<'a, Vec<GrantRow>> {
        let tenant = admin.tenant();
        Box::pin(self.read(move |conn, vault| authority::grant_rows(conn, &*vault.tenant(tenant)?, of)))
    }

    fn grants_of<'a>(&'a self, admin: &'a TenantAdmin, principal: PrincipalId) -> StoreFuture<'a, Grants> {
        let tenant = admin.tenant();
        Box::pin(self.look_up(move |conn, vault| rows::grants(conn, &*vault.tenant(tenant)?, principal)))
    }

    fn audit<'a>(&'a self, admin: &'a TenantAdmin, after: u64, limit: u32) -> StoreFuture<'a, Vec<AuditRow>> {
        let tenant = admin.tenant();
        Box::pin(self.read(move |conn, vault| audit::page(conn, &*vault.tenant(tenant)?, after, limit)))
    }

    fn audit_end<'a>(&'a self, admin: &'a TenantAdmin) -> StoreFuture<'a, u64> {
        let tenant = admin.tenant();
        Box::pin(self.read(move |conn, vault| audit::newest(conn, &*vault.tenant(tenant)?)))
    }

    fn renew<'a>(
        &'a self,
        renewal: &'a Renewal,
        new: Vec<NewCredential<'a>>,
        now: UnixMillis,
    ) -> StoreFuture<'a, bool> {
        let issues: Vec<Issue> = new.into_iter().map(|new| self.issue_of(new)).collect();
        let (caller, used) = (renewal.caller(), renewal.terms().id.clone());
        let (tenant, principal) = (caller.tenant(), caller.principal());
        Box::pin(async move {
            let ours = issues.iter().all(|issue| issue.principal == principal && issue.family == renewal.family());
            if !ours {
                return Err(StoreError::NotPermitted);
            }
            let keys = self.vault.tenant(tenant)?;
            let credential = Some(used.as_str().to_owned());
            let hand = Hand { keys, principal: Some(principal), credential, now };
            self.writer.submit(move |conn| hand.renew(conn, &used, &issues)).await
        })
    }

    fn touch<'a>(&'a self, caller: &'a Caller, now: UnixMillis) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let Some(terms) = caller.terms() else { return Ok(()) };
            let (keys, id) = (self.vault.tenant(caller.tenant())?, terms.id.clone());
            let hand = Hand { keys, principal: Some(caller.principal()), credential: None, now };
            self.writer.submit(move |conn| hand.touch(conn, &id)).await
        })
    }

    fn unfinished<'a>(&'a self, _steward: &'a Steward) -> StoreFuture<'a, Vec<(TenantId, SessionId)>> {
        Box::pin(self.read(|conn, _| recovery::unfinished(conn)))
    }

    fn open_runs<'a>(
        &'a self,
        _steward: &'a Steward,
        tenant: TenantId,
        session: SessionId,
    ) -> StoreFuture<'a, OpenRuns> {
        Box::pin(self.read(move |conn, vault| recovery::open_runs(conn, vault, tenant, session)))
    }

    fn interrupt_run<'a>(
        &'a self,
        _steward: &'a Steward,
        tenant: TenantId,
        run: &'a RunRecord,
        now: UnixMillis,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let (principal, hash) = (run.principal, self.vault.tenant(tenant)?.run_hash(run.principal, &run.id));
            self.writer.submit(move |conn| recovery::interrupt(conn, tenant, principal.as_bytes(), &hash, now)).await
        })
    }

    fn interrupt_damaged_run<'a>(
        &'a self,
        _steward: &'a Steward,
        tenant: TenantId,
        run: &'a DamagedRun,
        now: UnixMillis,
    ) -> StoreFuture<'a, ()> {
        let (principal, hash) = (run.principal.clone(), run.hash.clone());
        Box::pin(self.writer.submit(move |conn| recovery::interrupt(conn, tenant, &principal, &hash, now)))
    }
}
