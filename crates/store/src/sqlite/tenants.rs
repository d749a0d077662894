//! Tenants, principals and what they may do.

use rusqlite::{Connection, params};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{AuthEpoch, PrincipalId, TenantId, UnixMillis};
use watertight_core::key::KeyPrefix;
use watertight_core::principal::{Principal, PrincipalKind, SecretHash};
use watertight_seal::keyring::TenantKeys;

use super::fault::Fault;
use super::rows;
use crate::StoreError;
use crate::model::TenantRow;

const FIRST_EPOCH: AuthEpoch = AuthEpoch(1);

/// What a new tenant's rows are made of.
pub(super) struct NewRows {
    name: String,
    tenant: TenantId,
    operator: PrincipalId,
    credential: String,
    secret_hash: SecretHash,
    grant: [u8; 16],
    prefix: Vec<u8>,
    now: UnixMillis,
}

impl NewRows {
    /// A tenant of this name with one operator, who may do everything.
    pub(super) fn new(
        keys: &TenantKeys,
        name: &str,
        credential: &str,
        secret_hash: SecretHash,
        now: UnixMillis,
    ) -> Result<Self, StoreError> {
        let operator = PrincipalId::from_bytes(watertight_seal::random()?);
        let grant = watertight_seal::random()?;
        let row = rows::grant_row(operator, &grant, VerbSet::all(), None);
        let everything = KeyPrefix::everything();
        Ok(Self {
            name: name.to_owned(),
            tenant: keys.tenant(),
            operator,
            credential: credential.to_owned(),
            secret_hash,
            grant,
            prefix: rows::seal_json(keys.own(), &rows::grant_place(&row), &everything.segments())?,
            now,
        })
    }

    /// Writes the rows, unless a tenant of this name is there by now; runs on the writer.
    pub(super) fn insert(&self, conn: &Connection) -> Result<TenantRow, Fault> {
        if let Some(found) = find(conn, &self.name)? {
            return Ok(found);
        }
        let (tenant, operator) = (self.tenant.as_bytes(), self.operator.as_bytes());
        conn.execute(
            "INSERT INTO tenants (tenant, name, operator, created_at) VALUES (?1, ?2, ?3, ?4)",
            params![tenant, self.name, operator, self.now.0],
        )?;
        conn.execute(
            "INSERT INTO principals (tenant, principal, kind, auth_epoch, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![tenant, operator, rows::kind_to_stored(PrincipalKind::Operator), FIRST_EPOCH.0 as i64, self.now.0],
        )?;
        conn.execute(
            "INSERT INTO credentials (credential, tenant, principal, secret_hash, ceiling, not_after, revoked, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, NULL, 0, ?6)",
            params![
                self.credential,
                tenant,
                operator,
                self.secret_hash.as_bytes(),
                VerbSet::all().bits(),
                self.now.0
            ],
        )?;
        conn.execute(
            "INSERT INTO grants (tenant, principal, grant_id, verbs, prefix, not_after) VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
            params![tenant, operator, self.grant, VerbSet::all().bits(), self.prefix],
        )?;
        Ok(TenantRow {
            name: self.name.clone(),
            operator: Principal { tenant: self.tenant, id: self.operator, kind: PrincipalKind::Operator },
            auth_epoch: FIRST_EPOCH,
        })
    }
}

/// The tenant of this name.
pub(super) fn find(conn: &Connection, name: &str) -> Result<Option<TenantRow>, StoreError> {
    let found = rows::tenant(conn, name)?;
    Ok(found.map(|(operator, auth_epoch)| TenantRow { name: name.to_owned(), operator, auth_epoch }))
}

/// Ends the runs a former process left open; runs on the writer, and needs no key.
pub(super) fn interrupt_open_runs(conn: &Connection, now: UnixMillis) -> Result<u64, Fault> {
    let mut tenants = conn.prepare("SELECT tenant FROM tenants")?;
    let tenants = tenants.query_map([], |row| row.get::<_, [u8; 16]>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut ended = 0;
    for tenant in tenants {
        ended += conn.execute(
            "UPDATE runs SET state = 6, how = 'interrupted', outcome = NULL, ended_at = ?1
             WHERE tenant = ?2 AND state < 6",
            params![now.0, tenant],
        )? as u64;
    }
    Ok(ended)
}
