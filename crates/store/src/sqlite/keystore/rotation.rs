//! Turning epochs in small transactions, and putting tenants under new keys.
//!
//! A turn is: a new epoch (one transaction), the data keys of older epochs wrapped anew (a batch each), the older epochs
//! deleted (one). Each step leaves a keystore that opens; epochs beside the newest are a turn to be finished.

use rusqlite::params;
use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_seal::keyring::{WrappedEpoch, WrappedTenant};

use super::{KeyRow, Keystore, insert_epoch, wrapped_key};
use crate::StoreError;
use crate::keys::{EpochAge, EpochStatus, TenantKeyStatus};

/// Where a walk over data keys stands: after this one.
pub(in crate::sqlite) type Cursor = (SessionId, u32);

impl Keystore {
    /// Every tenant with its newest epoch, when that was made, and whether older epochs are still there.
    pub(in crate::sqlite) fn epochs(&self) -> Result<Vec<EpochAge>, StoreError> {
        self.with(|conn| {
            let mut statement = conn.prepare(
                "SELECT t.tenant, e.made_at,
                     EXISTS (SELECT 1 FROM epoch_keys o WHERE o.tenant = t.tenant AND o.epoch <> t.epoch)
                 FROM tenant_keys t LEFT JOIN epoch_keys e ON e.tenant = t.tenant AND e.epoch = t.epoch
                 ORDER BY e.made_at, t.tenant",
            )?;
            let tenants = statement.query_map([], |row| {
                Ok(EpochAge {
                    tenant: TenantId::from_bytes(row.get(0)?),
                    since: made_at(row.get(1)?),
                    unfinished: row.get(2)?,
                })
            })?;
            tenants.collect()
        })
    }

    /// Every tenant's keys in numbers. Reads every row.
    pub(in crate::sqlite) fn survey(&self) -> Result<Vec<TenantKeyStatus>, StoreError> {
        let tenants: Vec<(TenantId, u32)> = self.with(|conn| {
            let mut statement = conn.prepare("SELECT tenant, epoch FROM tenant_keys ORDER BY tenant")?;
            let tenants = statement.query_map([], |row| Ok((TenantId::from_bytes(row.get(0)?), row.get(1)?)))?;
            tenants.collect()
        })?;
        tenants.into_iter().map(|(tenant, epoch)| self.survey_of(tenant, epoch)).collect()
    }

    fn survey_of(&self, tenant: TenantId, epoch: u32) -> Result<TenantKeyStatus, StoreError> {
        self.with(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT e.epoch, e.made_at, coalesce(d.keys, 0) FROM epoch_keys e
                 LEFT JOIN (SELECT epoch, count(*) AS keys FROM data_keys WHERE tenant = ?1 GROUP BY epoch) d
                     ON d.epoch = e.epoch
                 WHERE e.tenant = ?1 ORDER BY e.epoch",
            )?;
            let epochs = statement.query_map([tenant.as_bytes()], |row| {
                let keys: i64 = row.get(2)?;
                Ok(EpochStatus { epoch: row.get(0)?, since: made_at(row.get(1)?), data_keys: keys.unsigned_abs() })
            })?;
            let epochs = epochs.collect::<Result<_, _>>()?;
            let pooled: i64 = conn
                .prepare_cached("SELECT count(*) FROM data_keys WHERE tenant = ?1 AND pooled <> 0")?
                .query_row([tenant.as_bytes()], |row| row.get(0))?;
            Ok(TenantKeyStatus { tenant, name: None, epoch, epochs, pooled: pooled.unsigned_abs() })
        })
    }

    /// Adds an epoch, the newest from now on; with a renewed tenant key everything under it is replaced too.
    pub(in crate::sqlite) fn begin_turn(
        &self,
        tenant: TenantId,
        renewed: Option<&WrappedTenant>,
        epoch: &WrappedEpoch,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.write(|conn| {
            if let Some(renewed) = renewed {
                conn.execute(
                    "UPDATE tenant_keys SET tenant_key = ?2, index_root = ?3 WHERE tenant = ?1",
                    params![tenant.as_bytes(), renewed.key, renewed.index_root],
                )?;
                for WrappedEpoch { epoch, key } in &renewed.epochs {
                    conn.execute(
                        "UPDATE epoch_keys SET epoch_key = ?3 WHERE tenant = ?1 AND epoch = ?2",
                        params![tenant.as_bytes(), epoch, key],
                    )?;
                }
            }
            insert_epoch(conn, tenant, epoch, now)?;
            conn.execute(
                "UPDATE tenant_keys SET epoch = ?2 WHERE tenant = ?1",
                params![tenant.as_bytes(), epoch.epoch],
            )?;
            Ok(())
        })
    }

    /// How many data keys of the tenant are of older epochs than the newest.
    pub(in crate::sqlite) fn count_older(&self, tenant: TenantId) -> Result<u64, StoreError> {
        self.with(|conn| {
            let count: i64 = conn
                .prepare_cached(
                    "SELECT count(*) FROM data_keys WHERE tenant = ?1
                     AND epoch <> (SELECT epoch FROM tenant_keys WHERE tenant = ?1)",
                )?
                .query_row([tenant.as_bytes()], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        })
    }

    /// The next data keys after the cursor; of older epochs than `newest` only, if it is given.
    pub(in crate::sqlite) fn data_keys_after(
        &self,
        tenant: TenantId,
        after: Option<Cursor>,
        newest: Option<u32>,
        limit: u32,
    ) -> Result<Vec<KeyRow>, StoreError> {
        self.with(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT session, key_gen, epoch, data_key, commitment FROM data_keys
                 WHERE tenant = ?1 AND (session, key_gen) > (?2, ?3) AND epoch <> ?4
                 ORDER BY session, key_gen LIMIT ?5",
            )?;
            let (session, key_gen) = match &after {
                Some((session, key_gen)) => (&session.as_bytes()[..], *key_gen),
                None => (&[][..], 0),
            };
            let rows = statement.query_map(
                params![tenant.as_bytes(), session, key_gen, newest.unwrap_or(0), limit],
                |row| {
                    let session = SessionId::from_bytes(row.get(0)?);
                    Ok(KeyRow { session, key_gen: row.get(1)?, wrapped: wrapped_key(row, 2)? })
                },
            )?;
            rows.collect()
        })
    }

    /// Replaces data keys by their forms under the newest epoch. What was deleted meanwhile stays deleted.
    pub(in crate::sqlite) fn rewrap(&self, tenant: TenantId, keys: &[KeyRow]) -> Result<(), StoreError> {
        self.write(|conn| {
            let mut update = conn.prepare_cached(
                "UPDATE data_keys SET epoch = ?4, data_key = ?5 WHERE tenant = ?1 AND session = ?2 AND key_gen = ?3",
            )?;
            for KeyRow { session, key_gen, wrapped } in keys {
                update.execute(params![tenant.as_bytes(), session.as_bytes(), key_gen, wrapped.epoch, wrapped.key])?;
            }
            Ok(())
        })
    }

    /// Deletes the older epochs that no data key is under any more; returns those that are left.
    pub(in crate::sqlite) fn end_turn(&self, tenant: TenantId, newest: u32) -> Result<Vec<u32>, StoreError> {
        self.write(|conn| {
            conn.execute(
                "DELETE FROM epoch_keys WHERE tenant = ?1 AND epoch <> ?2
                 AND epoch <> (SELECT epoch FROM tenant_keys WHERE tenant = ?1)
                 AND epoch NOT IN (SELECT epoch FROM data_keys WHERE tenant = ?1)",
                params![tenant.as_bytes(), newest],
            )?;
            let mut statement =
                conn.prepare_cached("SELECT epoch FROM epoch_keys WHERE tenant = ?1 AND epoch <> ?2 ORDER BY epoch")?;
            let left = statement.query_map(params![tenant.as_bytes(), newest], |row| row.get(0))?;
            left.collect()
        })
    }

    /// Puts the pepper and every tenant's key under another master key: all or nothing.
    pub(in crate::sqlite) fn replace_master(
        &self,
        pepper: impl FnOnce(&[u8]) -> Result<Vec<u8>, StoreError>,
        mut tenant_key: impl FnMut(TenantId, &[u8]) -> Result<Vec<u8>, StoreError>,
    ) -> Result<(), StoreError> {
        let (old_pepper, tenants) = self.with(|conn| {
            let pepper: Vec<u8> = conn.query_row("SELECT pepper FROM keystore WHERE id = 1", [], |row| row.get(0))?;
            let mut statement = conn.prepare("SELECT tenant, tenant_key FROM tenant_keys")?;
            let tenants = statement
                .query_map([], |row| Ok((TenantId::from_bytes(row.get(0)?), row.get::<_, Vec<u8>>(1)?)))?
                .collect::<Result<Vec<_>, _>>()?;
            Ok((pepper, tenants))
        })?;
        let pepper = pepper(&old_pepper)?;
        let tenants = tenants.into_iter().map(|(tenant, key)| Ok((tenant, tenant_key(tenant, &key)?)));
        let tenants = tenants.collect::<Result<Vec<_>, StoreError>>()?;
        self.write(|conn| {
            conn.execute("UPDATE keystore SET pepper = ?1 WHERE id = 1", [&pepper])?;
            let mut update = conn.prepare_cached("UPDATE tenant_keys SET tenant_key = ?2 WHERE tenant = ?1")?;
            for (tenant, key) in &tenants {
                update.execute(params![tenant.as_bytes(), key])?;
            }
            Ok(())
        })
    }
}

fn made_at(millis: Option<i64>) -> Option<UnixMillis> {
    millis.filter(|millis| *millis > 0).map(UnixMillis)
}
