//! Tenants: their making and finding.

use std::sync::Arc;

use rusqlite::{Connection, params};
use serde_json::json;
use watertight_core::grant::{Grant, VerbSet};
use watertight_core::ids::{AuthEpoch, CredentialId, UnixMillis};
use watertight_core::key::KeyPrefix;
use watertight_core::principal::{CredentialKind, Family, Principal, PrincipalKind, SecretHash};
use watertight_seal::keyring::TenantKeys;

use super::audit;
use super::authority::{Issue, insert_grant, insert_principal};
use super::fault::Fault;
use super::rows::{self, TenantColumns};
use super::vault::Vault;
use crate::StoreError;
use crate::authority::AuditEvent;
use crate::model::TenantRow;

/// The name of the principal every tenant begins with.
const OPERATOR: &str = "operator";

/// A tenant to be made, with one operator, who may do everything.
pub(super) struct NewRows {
    pub(super) keys: Arc<TenantKeys>,
    pub(super) name: String,
    pub(super) credential: CredentialId,
    pub(super) secret_hash: SecretHash,
    pub(super) family: [u8; 16],
    pub(super) now: UnixMillis,
}

impl NewRows {
    /// Writes the rows; runs on the writer.
    pub(super) fn insert(&self, conn: &Connection) -> Result<TenantRow, Fault> {
        let Self { keys, now, .. } = self;
        let tenant = keys.tenant();
        // Until the operator is known: rows refer to the tenant.
        conn.execute(
            "INSERT INTO tenants (tenant, name, operator, created_at, mac) VALUES (?1, ?2, x'', ?3, x'')",
            params![tenant.as_bytes(), self.name, now.0],
        )?;
        let operator = insert_principal(conn, keys, OPERATOR, PrincipalKind::Operator, *now)?;
        let operator = operator.ok_or(StoreError::Integrity("principal"))?.id;
        let row = TenantColumns { name: self.name.clone(), operator, created_at: now.0 };
        conn.execute(
            "UPDATE tenants SET operator = ?1, mac = ?2 WHERE tenant = ?3",
            params![operator.as_bytes(), row.mac(keys), tenant.as_bytes()],
        )?;
        let everything = Grant { verbs: VerbSet::all(), prefix: KeyPrefix::everything(), not_after: None };
        insert_grant(conn, keys, operator, &everything)?;
        let issue = Issue {
            id: self.credential.clone(),
            kind: CredentialKind::Operator,
            hash: self.secret_hash.clone(),
            principal: operator,
            family: Family(self.family),
            ceiling: VerbSet::all(),
            not_after: None,
            idle: None,
            label: None,
        };
        issue.insert(conn, keys, *now)?;
        let event = AuditEvent {
            action: "tenant.create".into(),
            principal: None,
            credential: None,
            object: json!({"name": self.name, "operator": operator, "credential": self.credential.as_str()}),
        };
        audit::begin(conn, keys, *now, &event)?;
        Ok(TenantRow {
            name: self.name.clone(),
            operator: Principal { tenant, id: operator, kind: PrincipalKind::Operator },
            auth_epoch: AuthEpoch(1),
        })
    }
}

/// The names of all tenants, oldest first.
pub(super) fn names(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let mut statement = conn.prepare("SELECT name FROM tenants ORDER BY created_at, name")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(names)
}

/// The tenant of this name.
pub(super) fn find(conn: &Connection, vault: &Vault, name: &str) -> Result<Option<TenantRow>, StoreError> {
    let found = rows::tenant(conn, vault, name)?;
    Ok(found.map(|(operator, auth_epoch)| TenantRow { name: name.to_owned(), operator, auth_epoch }))
}
