//! Destroying keys for good. What is shredded is written down in the same transaction, so that its rows in the store are
//! known to be remains and not damage.

use rusqlite::{Connection, params};
use watertight_core::ids::{SessionId, TenantId};

use super::Keystore;
use crate::StoreError;

/// What was shredded: a session, or a whole tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sqlite) struct Shredded {
    pub(in crate::sqlite) tenant: TenantId,
    /// None: everything of the tenant.
    pub(in crate::sqlite) session: Option<SessionId>,
}

impl Shredded {
    fn name(&self) -> &[u8] {
        self.session.as_ref().map_or(&[], |session| session.as_bytes())
    }
}

impl Keystore {
    /// Deletes the keys, synced; how many data keys there were.
    pub(in crate::sqlite) fn shred(&self, what: Shredded) -> Result<usize, StoreError> {
        self.write(|conn| {
            conn.execute(
                "INSERT INTO shredded (tenant, session) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![what.tenant.as_bytes(), what.name()],
            )?;
            if what.session.is_some() {
                return conn.execute(
                    "DELETE FROM data_keys WHERE tenant = ?1 AND session = ?2",
                    params![what.tenant.as_bytes(), what.name()],
                );
            }
            let keys = conn.execute("DELETE FROM data_keys WHERE tenant = ?1", [what.tenant.as_bytes()])?;
            conn.execute("DELETE FROM epoch_keys WHERE tenant = ?1", [what.tenant.as_bytes()])?;
            conn.execute("DELETE FROM tenant_keys WHERE tenant = ?1", [what.tenant.as_bytes()])?;
            Ok(keys)
        })
    }

    /// Everything that was ever shredded.
    pub(in crate::sqlite) fn shredded(&self) -> Result<Vec<Shredded>, StoreError> {
        self.with(|conn| {
            let mut statement = conn.prepare("SELECT tenant, session FROM shredded")?;
            let found = statement.query_map([], |row| {
                let session: Vec<u8> = row.get(1)?;
                let session = <[u8; 16]>::try_from(session).ok().map(SessionId::from_bytes);
                Ok(Shredded { tenant: TenantId::from_bytes(row.get(0)?), session })
            })?;
            found.collect()
        })
    }

    /// Whether the session, or its whole tenant, was shredded.
    pub(in crate::sqlite) fn is_shredded(&self, tenant: TenantId, session: SessionId) -> Result<bool, StoreError> {
        self.with(|conn| is_shredded(conn, tenant, session))
    }
}

pub(super) fn is_shredded(conn: &Connection, tenant: TenantId, session: SessionId) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM shredded WHERE tenant = ?1 AND session IN (?2, x''))")?
        .query_row(params![tenant.as_bytes(), session.as_bytes()], |row| row.get(0))
}
