//! Reads a state directory, also while a process serves from it, and proves that what is stored is what was stored.
//!
//! * [`session`]: one session: rows, chain, head, generations, the runs its entries name, its receipts.
//! * [`checkpoints`]: what was exported of the store.
//! * [`keys`]: the wrapped keys.
//! * [`runs`]: runs that no entry names.
//!
//! Nothing is written: no schema step, no count of openings, no key. Each session is read in one transaction, so a writer
//! beside it changes nothing of what is compared. No content leaves; what is opened is dropped.

mod checkpoints;
mod keys;
mod runs;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use watertight_core::Steward;
use watertight_core::ids::{SessionId, TenantId};
use watertight_core::receipt::Receipt;
use watertight_seal::keyring::{Root, TenantKeys};
use watertight_seal::master::MasterKey;

use self::session::Visit;
use super::keystore::Keystore;
use super::vault::Vault;
use super::{KEYS_FILE, OpenError, STORE_FILE, checks, migration, rows};
use crate::StoreError;
use crate::verification::{Problem, Progress, Report, Selection, VerifyError};

/// A state directory opened for reading only.
pub struct Verifier {
    conn: Connection,
    vault: Vault,
    tenants: Vec<Tenant>,
}

struct Tenant {
    id: TenantId,
    name: String,
}

/// Sessions to go through, with the receipts to compare.
type Wanted = BTreeMap<SessionId, Vec<Receipt>>;

impl Verifier {
    /// Whether `dir` holds what [`Self::open`] needs, the master key apart; and if not, why.
    pub fn find(dir: &Path) -> Result<(), OpenError> {
        let (store_path, keys_path) = (dir.join(STORE_FILE), dir.join(KEYS_FILE));
        match (store_path.exists(), keys_path.exists()) {
            (true, true) => Ok(()),
            (true, false) => Err(OpenError::KeystoreMissing { path: store_path }),
            (false, true) => Err(OpenError::StoreMissing { path: keys_path }),
            (false, false) => Err(OpenError::NoStore { path: dir.to_owned() }),
        }
    }

    /// Opens the store in `dir`, which must exist and be of the present schema. Refuses a wrong master key.
    pub fn open(dir: &Path, master: &MasterKey) -> Result<Self, OpenError> {
        checks::sqlite_version()?;
        Self::find(dir)?;
        let (store_path, keys_path) = (dir.join(STORE_FILE), dir.join(KEYS_FILE));
        let root = Root::new(master);
        let keystore = Keystore::open_for_reading(&keys_path, &root)?;
        let conn = Connection::open_with_flags(
            &store_path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        checks::common_settings(&conn)?;
        checks::pragma(&conn, "query_only", "ON", "1")?;
        // 64 MiB: sessions are read in the order of their ids, which is none at all on the disk.
        checks::pragma(&conn, "cache_size", "-65536", "-65536")?;
        conn.set_prepared_statement_cache_capacity(64);
        migration::demand_latest(&conn, migration::STORE, &store_path)?;
        let store_id: [u8; 16] = conn.query_row("SELECT store_id FROM store WHERE id = 1", [], |row| row.get(0))?;
        if store_id != keystore.store_id {
            return Err(OpenError::NotTogether);
        }
        // Keys come after the tenants they are for: a tenant that is made meanwhile is left out, and not without keys.
        let tenants = tenants(&conn)?;
        Ok(Self { conn, vault: Vault::open(root, keystore)?, tenants })
    }

    /// Verifies what is selected, and says how far it has come after each session. Blocks.
    pub fn verify(
        &self,
        _steward: &Steward,
        selection: &Selection,
        mut progress: impl FnMut(Progress),
    ) -> Result<Report, VerifyError> {
        let mut report = Report::default();
        let chosen = self.chosen(selection)?;
        if selection.sessions.is_empty() && selection.receipts.is_empty() {
            let total = chosen.iter().map(|tenant| self.count(tenant)).sum::<Result<u64, StoreError>>()?;
            for tenant in chosen {
                self.verify_tenant(tenant, &mut report, &mut |done| progress(Progress { done, total }))?;
            }
            return Ok(report);
        }
        let wanted = self.wanted(&chosen, selection, &mut report)?;
        let total = wanted.values().map(|wanted| wanted.len() as u64).sum();
        for tenant in chosen {
            let Some(wanted) = wanted.get(&tenant.id) else { continue };
            let Some(keys) = self.keys(tenant, &mut report)? else { continue };
            let mut found = HashMap::new();
            for (session, receipts) in wanted {
                found.insert(*session, self.visit(tenant, &keys, *session, receipts, &mut report)?);
                progress(Progress { done: report.sessions, total });
            }
            runs::settle(self, tenant, &keys, found, false, &mut report)?;
        }
        Ok(report)
    }

    fn chosen(&self, selection: &Selection) -> Result<Vec<&Tenant>, VerifyError> {
        let named = selection.tenant.iter().chain(selection.sessions.iter().map(|(tenant, _)| tenant));
        for name in named {
            if !self.tenants.iter().any(|tenant| tenant.name == *name) {
                return Err(VerifyError::UnknownTenant(name.clone()));
            }
        }
        let only = selection.tenant.as_ref();
        Ok(self.tenants.iter().filter(|tenant| only.is_none_or(|name| tenant.name == *name)).collect())
    }

    /// Every session of the tenant, whatever table still knows of it.
    fn verify_tenant(
        &self,
        tenant: &Tenant,
        report: &mut Report,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let Some(keys) = self.keys(tenant, report)? else { return Ok(()) };
        // Read before the store is, so that a session that is stored meanwhile is not missed.
        let stored = self.vault.known_stored(tenant.id)?;
        let mut found = HashMap::new();
        let mut last: Option<SessionId> = None;
        while let Some(session) = self.next(tenant, last)? {
            // What is left of a shredded session is not damage; the next start removes it.
            let shredded = self.vault.is_shredded(tenant.id, session)?;
            let named = if shredded { 0 } else { self.visit(tenant, &keys, session, &[], report)? };
            found.insert(session, named);
            progress(report.sessions);
            last = Some(session);
        }
        for session in stored.into_iter().filter(|session| !found.contains_key(session)) {
            if !self.exists(tenant.id, session)? {
                report.push(Problem {
                    session: Some(session),
                    ..problem(tenant, "the session is gone: its key is there, the session is not")
                });
            }
        }
        if !self.counts_agree(tenant)? {
            report.push(problem(tenant, "the kept count of its sessions is wrong, so lists name a wrong total"));
        }
        runs::settle(self, tenant, &keys, found, true, report)
    }

    /// The tenant's keys; without them nothing of it can be verified. None for what is left of a shredded one, too.
    fn keys(&self, tenant: &Tenant, report: &mut Report) -> Result<Option<std::sync::Arc<TenantKeys>>, StoreError> {
        if self.vault.is_tenant_shredded(tenant.id)? {
            return Ok(None);
        }
        match self.vault.tenant(tenant.id).and_then(|keys| {
            rows::tenant(&self.conn, &self.vault, &tenant.name)?;
            Ok(keys)
        }) {
            Ok(keys) => Ok(Some(keys)),
            Err(StoreError::Integrity(what)) => {
                report
                    .push(problem(tenant, &format!("nothing of the tenant can be verified: its {what} does not hold")));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn visit(
        &self,
        tenant: &Tenant,
        keys: &TenantKeys,
        session: SessionId,
        receipts: &[Receipt],
        report: &mut Report,
    ) -> Result<u64, StoreError> {
        let transaction = self.conn.unchecked_transaction()?;
        let named = Visit::new(&self.conn, &self.vault, keys, tenant, session, report).check(receipts);
        transaction.finish()?;
        match named {
            // A page of the database that does not read; the other sessions go on.
            Err(fault @ StoreError::Integrity(_)) => {
                report.push(Problem { session: Some(session), ..problem(tenant, &fault.to_string()) });
                Ok(0)
            }
            named => named,
        }
    }

    /// The sessions of the selection by their tenants. What names none is a problem.
    fn wanted(
        &self,
        chosen: &[&Tenant],
        selection: &Selection,
        report: &mut Report,
    ) -> Result<HashMap<TenantId, Wanted>, StoreError> {
        let mut wanted: HashMap<TenantId, Wanted> = HashMap::new();
        for (name, key) in &selection.sessions {
            let Some(tenant) = chosen.iter().find(|tenant| tenant.name == *name) else { continue };
            let found = match self.vault.tenant(tenant.id) {
                Ok(keys) => self.session_of(tenant.id, &keys.key_hash(key))?,
                // Said once, where the tenant's turn comes.
                Err(_) => Some(SessionId::from_bytes([0; 16])),
            };
            match found {
                Some(session) => drop(wanted.entry(tenant.id).or_default().entry(session).or_default()),
                None => report.push(Problem {
                    key: Some(key.as_str().to_owned()),
                    ..problem(tenant, "there is no session of this key")
                }),
            }
        }
        for receipt in &selection.receipts {
            report.receipts += 1;
            let mut found = None;
            for tenant in chosen {
                if self.exists(tenant.id, receipt.session)? {
                    found = Some(tenant);
                }
            }
            match found {
                Some(tenant) => {
                    wanted.entry(tenant.id).or_default().entry(receipt.session).or_default().push(*receipt);
                }
                None => report.push(Problem {
                    tenant: None,
                    session: Some(receipt.session),
                    key: None,
                    seq: Some(receipt.seq.0),
                    receipt: Some(*receipt),
                    what: "there is no session of this receipt".to_owned(),
                }),
            }
        }
        Ok(wanted)
    }

    fn session_of(&self, tenant: TenantId, key_hash: &[u8; 32]) -> Result<Option<SessionId>, StoreError> {
        let found = self
            .conn
            .prepare_cached("SELECT session FROM sessions WHERE tenant = ?1 AND key_hash = ?2")?
            .query_row((tenant.as_bytes(), key_hash), |row| Ok(SessionId::from_bytes(row.get(0)?)))
            .optional()?;
        Ok(found)
    }

    /// Whether the session has a row, or entries without one.
    fn exists(&self, tenant: TenantId, session: SessionId) -> Result<bool, StoreError> {
        let exists = self
            .conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant = ?1 AND session = ?2)
                     OR EXISTS (SELECT 1 FROM entries WHERE tenant = ?1 AND session = ?2)",
            )?
            .query_row((tenant.as_bytes(), session.as_bytes()), |row| row.get(0))?;
        Ok(exists)
    }

    /// The next session after `last` that has a row, or entries without one.
    fn next(&self, tenant: &Tenant, last: Option<SessionId>) -> Result<Option<SessionId>, StoreError> {
        let after = last.as_ref().map_or(&[][..], |session| session.as_bytes());
        let next: Option<Vec<u8>> = self
            .conn
            .prepare_cached(
                "SELECT min(session) FROM (
                     SELECT * FROM (SELECT session FROM sessions WHERE tenant = ?1 AND session > ?2
                         ORDER BY session LIMIT 1)
                     UNION ALL
                     SELECT * FROM (SELECT session FROM entries WHERE tenant = ?1 AND session > ?2
                         ORDER BY session LIMIT 1))",
            )?
            .query_row((tenant.id.as_bytes(), after), |row| row.get(0))?;
        next.map(|next| next.try_into().map(SessionId::from_bytes))
            .transpose()
            .map_err(|_| StoreError::Integrity("session id"))
    }

    /// Whether as many sessions were counted as there are; asked at one moment.
    fn counts_agree(&self, tenant: &Tenant) -> Result<bool, StoreError> {
        Ok(self.conn.query_row(
            "SELECT NOT EXISTS (
                 SELECT agent_tag, archived, sentinel, sum(sessions) FROM (
                     SELECT agent_tag, archived, sentinel, sessions FROM session_counts WHERE tenant = ?1
                     UNION ALL
                     SELECT agent_tag, archived, sentinel, -count(*) FROM sessions WHERE tenant = ?1
                         GROUP BY agent_tag, archived, sentinel)
                 GROUP BY agent_tag, archived, sentinel HAVING sum(sessions) <> 0)",
            [tenant.id.as_bytes()],
            |row| row.get(0),
        )?)
    }

    fn count(&self, tenant: &Tenant) -> Result<u64, StoreError> {
        let count: i64 =
            self.conn.query_row("SELECT count(*) FROM sessions WHERE tenant = ?1", [tenant.id.as_bytes()], |row| {
                row.get(0)
            })?;
        Ok(count.unsigned_abs())
    }
}

fn tenants(conn: &Connection) -> Result<Vec<Tenant>, StoreError> {
    let mut statement = conn.prepare("SELECT tenant, name FROM tenants ORDER BY name")?;
    let tenants =
        statement.query_map([], |row| Ok(Tenant { id: TenantId::from_bytes(row.get(0)?), name: row.get(1)? }))?;
    Ok(tenants.collect::<Result<_, _>>()?)
}

fn problem(tenant: &Tenant, what: &str) -> Problem {
    Problem {
        tenant: Some(tenant.name.clone()),
        session: None,
        key: None,
        seq: None,
        receipt: None,
        what: what.to_owned(),
    }
}
