//! Tenants, principals and what they may do.

use rusqlite::{Connection, params};
use watertight_core::grant::VerbSet;
use watertight_core::ids::{AuthEpoch, PrincipalId, TenantId, UnixMillis};
use watertight_core::key::KeyPrefix;
use watertight_core::principal::{Principal, PrincipalKind, SecretHash};
use watertight_seal::keyring::TenantKeys;

use super::fault::Fault;
use super::rows::{self, CredentialColumns, PrincipalColumns, TenantColumns};
use super::vault::Vault;
use crate::StoreError;
use crate::model::TenantRow;

const FIRST_EPOCH: AuthEpoch = AuthEpoch(1);

/// The rows of a new tenant.
pub(super) struct NewRows {
    tenant: TenantId,
    tenant_row: TenantColumns,
    tenant_mac: [u8; 32],
    operator_row: PrincipalColumns,
    operator_mac: [u8; 32],
    credential_row: CredentialColumns,
    credential_mac: [u8; 32],
    grant: [u8; 16],
    prefix: Vec<u8>,
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
        let tenant_row = TenantColumns { name: name.to_owned(), operator, created_at: now.0 };
        let operator_row = PrincipalColumns {
            principal: operator,
            kind: rows::kind_to_stored(PrincipalKind::Operator),
            auth_epoch: FIRST_EPOCH.0 as i64,
            created_at: now.0,
        };
        let credential_row = CredentialColumns {
            credential: credential.to_owned(),
            principal: operator,
            secret_hash: *secret_hash.as_bytes(),
            ceiling: VerbSet::all().bits().into(),
            not_after: None,
            revoked: 0,
            created_at: now.0,
        };
        let grant = watertight_seal::random()?;
        let grant_row = rows::grant_row(operator, &grant, VerbSet::all(), None);
        let everything = KeyPrefix::everything();
        Ok(Self {
            tenant: keys.tenant(),
            tenant_mac: tenant_row.mac(keys),
            operator_mac: operator_row.mac(keys),
            credential_mac: credential_row.mac(keys),
            tenant_row,
            operator_row,
            credential_row,
            grant,
            prefix: rows::seal_json(keys.own(), &rows::grant_place(&grant_row), &everything.segments())?,
        })
    }

    /// Writes the rows; runs on the writer.
    pub(super) fn insert(&self, conn: &Connection) -> Result<TenantRow, Fault> {
        let (tenant, operator) = (self.tenant.as_bytes(), self.tenant_row.operator.as_bytes());
        let row = &self.tenant_row;
        conn.execute(
            "INSERT INTO tenants (tenant, name, operator, created_at, mac) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![tenant, row.name, operator, row.created_at, self.tenant_mac],
        )?;
        let row = &self.operator_row;
        conn.execute(
            "INSERT INTO principals (tenant, principal, kind, auth_epoch, created_at, mac)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![tenant, operator, row.kind, row.auth_epoch, row.created_at, self.operator_mac],
        )?;
        let row = &self.credential_row;
        conn.execute(
            "INSERT INTO credentials (credential, tenant, principal, secret_hash, ceiling, not_after, revoked,
                 created_at, mac)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                row.credential,
                tenant,
                operator,
                row.secret_hash,
                row.ceiling,
                row.not_after,
                row.revoked,
                row.created_at,
                self.credential_mac
            ],
        )?;
        conn.execute(
            "INSERT INTO grants (tenant, principal, grant_id, verbs, prefix, not_after) VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
            params![tenant, operator, self.grant, VerbSet::all().bits(), self.prefix],
        )?;
        Ok(TenantRow {
            name: self.tenant_row.name.clone(),
            operator: Principal { tenant: self.tenant, id: self.tenant_row.operator, kind: PrincipalKind::Operator },
            auth_epoch: FIRST_EPOCH,
        })
    }
}

/// The tenant of this name.
pub(super) fn find(conn: &Connection, vault: &Vault, name: &str) -> Result<Option<TenantRow>, StoreError> {
    let found = rows::tenant(conn, vault, name)?;
    Ok(found.map(|(operator, auth_epoch)| TenantRow { name: name.to_owned(), operator, auth_epoch }))
}
