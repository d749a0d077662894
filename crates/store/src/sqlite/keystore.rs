//! `keys.db`: wrapped keys, apart from the store (isolation.md §2.8).
//!
//! [`rotation`]: turning epochs, new tenant and master keys. [`shredding`]: destroying a session's or a tenant's keys.
//!
//! A rollback journal that is truncated and `secure_delete` keep deleted keys from lingering in the file. One
//! connection behind a lock: a key is read once per session and process, and written 64 at a time.

mod rotation;
mod shredding;

use std::cmp::Ordering;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_seal::checkpoint::Signer;
use watertight_seal::keyring::{Root, WrappedDataKey, WrappedEpoch, WrappedTenant};
use watertight_seal::token::TokenHasher;

pub(super) use self::shredding::Shredded;
use super::{OpenError, checks, migration};
use crate::StoreError;

/// A wrapped data key and whose it is.
pub(super) struct KeyRow {
    pub(super) session: SessionId,
    pub(super) key_gen: u32,
    pub(super) wrapped: WrappedDataKey,
}

/// The open keystore.
pub(super) struct Keystore {
    conn: Mutex<Option<Connection>>,
    syncs: AtomicU64,
}

/// What opening a keystore yields.
pub(super) struct Opened {
    pub(super) keystore: Keystore,
    pub(super) hasher: TokenHasher,
    pub(super) signer: Signer,
    pub(super) store_id: [u8; 16],
}

/// How a keystore and its store stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Each is the one the other last saw.
    Together,
    /// The store was put back from a copy.
    Ahead,
    /// The keystore was put back from a copy.
    Behind,
}

impl Keystore {
    /// Opens or creates the keystore. With another master key than the one it was made with it is refused, unwritten.
    pub(super) fn open(path: &Path, root: &Root) -> Result<Opened, OpenError> {
        let fresh = !path.exists();
        if fresh {
            checks::private_file(path)?;
        }
        let mut conn =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        checks::common_settings(&conn)?;
        let version = migration::check(&conn, migration::KEYS)?;
        // A first start that broke off leaves a file without tables, which guards nothing yet.
        let identity = if version == 0 { None } else { Some(identity(&conn)?) };
        if let Some((_, pepper)) = &identity {
            root.open_pepper(pepper).map_err(|_| OpenError::WrongMasterKey)?;
        }

        checks::private_file(path)?;
        checks::pragma(&conn, "journal_mode", "TRUNCATE", "truncate")?;
        checks::pragma(&conn, "synchronous", "FULL", "2")?;
        checks::pragma(&conn, "fullfsync", "ON", "1")?;
        checks::pragma(&conn, "secure_delete", "ON", "1")?;
        let (store_id, pepper) = if let Some(identity) = identity {
            migration::apply(&mut conn, migration::KEYS, |_| Ok(()))?;
            identity
        } else {
            let store_id: [u8; 16] = watertight_seal::random().map_err(|_| OpenError::Random)?;
            let (_, pepper) = root.create_pepper().map_err(|_| OpenError::Random)?;
            migration::apply(&mut conn, migration::KEYS, |conn| {
                conn.execute(
                    "INSERT INTO keystore (id, store_id, pepper, opens) VALUES (1, ?1, ?2, 0)",
                    (store_id, &pepper),
                )?;
                Ok(())
            })?;
            (store_id, pepper)
        };
        conn.set_prepared_statement_cache_capacity(16);
        Self::opened(conn, root, store_id, &pepper)
    }

    /// Opens the keystore for reading. Nothing is written, but for what SQLite rolls back where a process was killed in the
    /// middle of a write.
    pub(super) fn open_for_reading(path: &Path, root: &Root) -> Result<Opened, OpenError> {
        let conn =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        checks::common_settings(&conn)?;
        // A process at work in it may write it again and again while its epochs turn.
        conn.busy_timeout(std::time::Duration::from_secs(30))?;
        checks::pragma(&conn, "query_only", "ON", "1")?;
        migration::demand_latest(&conn, migration::KEYS, path)?;
        let (store_id, pepper) = identity(&conn)?;
        Self::opened(conn, root, store_id, &pepper)
    }

    fn opened(conn: Connection, root: &Root, store_id: [u8; 16], pepper: &[u8]) -> Result<Opened, OpenError> {
        let hasher = root.open_pepper(pepper).map_err(|_| OpenError::WrongMasterKey)?;
        let signer = root.open_signer(pepper).map_err(|_| OpenError::WrongMasterKey)?;
        checks::pragma(&conn, "cache_size", "-16384", "-16384")?;
        let keystore = Self { conn: Mutex::new(Some(conn)), syncs: AtomicU64::new(0) };
        Ok(Opened { keystore, hasher, signer, store_id })
    }

    /// Whether this root opens what the file holds now: another process may have put it under another master key.
    pub(super) fn is_under(&self, root: &Root) -> Result<bool, StoreError> {
        let pepper: Vec<u8> =
            self.with(|conn| conn.query_row("SELECT pepper FROM keystore WHERE id = 1", [], |row| row.get(0)))?;
        Ok(root.open_pepper(&pepper).is_ok())
    }

    /// Sessions of the tenant that were stored, as far as the keystore was told.
    pub(super) fn known_stored(&self, tenant: TenantId) -> Result<Vec<SessionId>, StoreError> {
        self.with(|conn| {
            let mut statement =
                conn.prepare("SELECT session FROM data_keys WHERE tenant = ?1 AND key_gen = 1 AND pooled = 0")?;
            let sessions = statement.query_map([tenant.as_bytes()], |row| row.get(0).map(SessionId::from_bytes))?;
            sessions.collect()
        })
    }

    /// Whether a keystore at `path` guards anything; asked when its store is missing.
    pub(super) fn guards_data(path: &Path) -> Result<bool, OpenError> {
        let conn =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        if migration::check(&conn, migration::KEYS)? == 0 {
            return Ok(false);
        }
        Ok(conn.query_row("SELECT EXISTS (SELECT 1 FROM tenant_keys)", [], |row| row.get(0))?)
    }

    /// Keeps step with the store, which was opened `before` times until now, and will be once more. A store behind this
    /// keystore was restored from a copy, or not opened at last: sessions it does not know of may have used pooled keys,
    /// and may come back with a newer copy. Such keys are never drawn again, and kept. A keystore behind its store is
    /// left as it is.
    pub(super) fn keep_step(&self, before: i64) -> Result<Step, StoreError> {
        self.write(|conn| {
            let seen: i64 = conn.query_row("SELECT opens FROM keystore WHERE id = 1", [], |row| row.get(0))?;
            let step = match seen.cmp(&before) {
                Ordering::Less => return Ok(Step::Behind),
                Ordering::Equal => Step::Together,
                Ordering::Greater => Step::Ahead,
            };
            conn.execute("UPDATE keystore SET opens = ?1 WHERE id = 1", [before + 1])?;
            if step == Step::Ahead {
                conn.execute("UPDATE data_keys SET pooled = 2 WHERE pooled = 1", [])?;
            }
            Ok(step)
        })
    }

    /// Whether it holds any tenant's keys.
    pub(super) fn has_tenants(&self) -> Result<bool, StoreError> {
        self.with(|conn| conn.query_row("SELECT EXISTS (SELECT 1 FROM tenant_keys)", [], |row| row.get(0)))
    }

    /// The keys of every tenant.
    pub(super) fn tenants(&self) -> Result<Vec<(TenantId, WrappedTenant)>, StoreError> {
        self.with(|conn| {
            let mut statement = conn.prepare("SELECT tenant FROM tenant_keys")?;
            let tenants = statement.query_map([], |row| row.get(0).map(TenantId::from_bytes))?;
            let mut found = Vec::new();
            for tenant in tenants {
                let tenant = tenant?;
                found.extend(wrapped_tenant(conn, tenant)?.map(|keys| (tenant, keys)));
            }
            Ok(found)
        })
    }

    /// The keys of one tenant.
    pub(super) fn tenant(&self, tenant: TenantId) -> Result<Option<WrappedTenant>, StoreError> {
        self.with(|conn| wrapped_tenant(conn, tenant))
    }

    /// Stores a new tenant's keys together with its first pooled data keys: one sync.
    pub(super) fn insert_tenant(
        &self,
        tenant: TenantId,
        keys: &WrappedTenant,
        pooled: &[KeyRow],
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.write(|conn| {
            conn.execute(
                "INSERT INTO tenant_keys (tenant, tenant_key, index_root, epoch) VALUES (?1, ?2, ?3, ?4)",
                params![tenant.as_bytes(), keys.key, keys.index_root, keys.epoch],
            )?;
            for epoch in &keys.epochs {
                insert_epoch(conn, tenant, epoch, now)?;
            }
            insert_keys(conn, tenant, pooled, true)
        })
    }

    /// Stores data keys for sessions to come, notes which pooled ones are in use by now and deletes those of sessions
    /// that will never be: one sync.
    pub(super) fn refill(
        &self,
        tenant: TenantId,
        keys: &[KeyRow],
        used: &[SessionId],
        unused: &[SessionId],
    ) -> Result<(), StoreError> {
        self.write(|conn| {
            // With the keys of further generations that a refused commit left behind.
            let mut delete = conn.prepare_cached("DELETE FROM data_keys WHERE tenant = ?1 AND session = ?2")?;
            for session in unused {
                delete.execute(params![tenant.as_bytes(), session.as_bytes()])?;
            }
            let mut note = conn
                .prepare_cached("UPDATE data_keys SET pooled = 0 WHERE tenant = ?1 AND session = ?2 AND key_gen = 1")?;
            for session in used {
                note.execute(params![tenant.as_bytes(), session.as_bytes()])?;
            }
            insert_keys(conn, tenant, keys, true)
        })
    }

    /// Stores the data key of a further generation and returns the one that holds: a key of that number that is there
    /// already, from a switch that broke off or races with this one, is kept, since something may be sealed with it. None
    /// when the session was shredded: it gets no key any more.
    pub(super) fn add_key(&self, tenant: TenantId, key: KeyRow) -> Result<Option<WrappedDataKey>, StoreError> {
        self.write(|conn| {
            if shredding::is_shredded(conn, tenant, key.session)? {
                return Ok(None);
            }
            let held = data_key(conn, tenant, key.session, key.key_gen)?;
            if held.is_some() {
                return Ok(held);
            }
            insert_keys(conn, tenant, std::slice::from_ref(&key), false)?;
            Ok(Some(key.wrapped))
        })
    }

    /// A session's data key.
    pub(super) fn data_key(
        &self,
        tenant: TenantId,
        session: SessionId,
        key_gen: u32,
    ) -> Result<Option<WrappedDataKey>, StoreError> {
        self.with(|conn| data_key(conn, tenant, session, key_gen))
    }

    /// Data keys of the tenant whose sessions were not known to be in the store when last looked at.
    pub(super) fn pooled(&self, tenant: TenantId) -> Result<Vec<KeyRow>, StoreError> {
        self.with(|conn| {
            let mut statement = conn.prepare(
                "SELECT session, epoch, data_key, commitment FROM data_keys
                 WHERE tenant = ?1 AND pooled = 1 AND key_gen = 1",
            )?;
            let rows = statement.query_map([tenant.as_bytes()], |row| {
                let session = SessionId::from_bytes(row.get(0)?);
                Ok(KeyRow { session, key_gen: 1, wrapped: wrapped_key(row, 1)? })
            })?;
            rows.collect()
        })
    }

    /// Synced transactions so far.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }

    /// Closes the file; whoever still asks is told that the store is closed.
    pub(super) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        // A panic inside rolled its transaction back; the connection itself is sound.
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let guard = self.lock();
        let conn = guard.as_ref().ok_or_else(|| StoreError::Unavailable("the keystore is closed".to_owned()))?;
        Ok(read(conn)?)
    }

    fn write<T>(&self, change: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut guard = self.lock();
        let conn = guard.as_mut().ok_or_else(|| StoreError::Unavailable("the keystore is closed".to_owned()))?;
        let result = conn.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
            let answer = change(&transaction)?;
            transaction.commit()?;
            self.syncs.fetch_add(1, Relaxed);
            Ok(answer)
        });
        if let Err(error) = &result
            && !super::fault::is_survivable(error)
        {
            tracing::error!(%error, "the keystore could not be synced; no new keys are made until the next start");
            guard.take();
        }
        Ok(result?)
    }
}

fn wrapped_tenant(conn: &Connection, tenant: TenantId) -> rusqlite::Result<Option<WrappedTenant>> {
    let mut statement =
        conn.prepare_cached("SELECT epoch, epoch_key FROM epoch_keys WHERE tenant = ?1 ORDER BY epoch")?;
    let epochs = statement
        .query_map([tenant.as_bytes()], |row| Ok(WrappedEpoch { epoch: row.get(0)?, key: row.get(1)? }))?
        .collect::<Result<_, _>>()?;
    conn.prepare_cached("SELECT tenant_key, index_root, epoch FROM tenant_keys WHERE tenant = ?1")?
        .query_row([tenant.as_bytes()], |row| {
            Ok(WrappedTenant { key: row.get(0)?, index_root: row.get(1)?, epoch: row.get(2)?, epochs })
        })
        .optional()
}

fn insert_epoch(conn: &Connection, tenant: TenantId, epoch: &WrappedEpoch, now: UnixMillis) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO epoch_keys (tenant, epoch, epoch_key, made_at) VALUES (?1, ?2, ?3, ?4)",
        params![tenant.as_bytes(), epoch.epoch, epoch.key, now.0],
    )?;
    Ok(())
}

fn identity(conn: &Connection) -> Result<([u8; 16], Vec<u8>), OpenError> {
    Ok(conn.query_row("SELECT store_id, pepper FROM keystore WHERE id = 1", [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn data_key(
    conn: &Connection,
    tenant: TenantId,
    session: SessionId,
    key_gen: u32,
) -> rusqlite::Result<Option<WrappedDataKey>> {
    conn.prepare_cached(
        "SELECT epoch, data_key, commitment FROM data_keys WHERE tenant = ?1 AND session = ?2 AND key_gen = ?3",
    )?
    .query_row(params![tenant.as_bytes(), session.as_bytes(), key_gen], |row| wrapped_key(row, 0))
    .optional()
}

fn wrapped_key(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<WrappedDataKey> {
    Ok(WrappedDataKey { epoch: row.get(at)?, key: row.get(at + 1)?, commitment: row.get(at + 2)? })
}

fn insert_keys(conn: &Connection, tenant: TenantId, keys: &[KeyRow], pooled: bool) -> rusqlite::Result<()> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO data_keys (tenant, session, key_gen, epoch, data_key, commitment, pooled)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for KeyRow { session, key_gen, wrapped } in keys {
        insert.execute(params![
            tenant.as_bytes(),
            session.as_bytes(),
            key_gen,
            wrapped.epoch,
            wrapped.key,
            wrapped.commitment,
            pooled
        ])?;
    }
    Ok(())
}
