//! A store's keys in numbers.

use std::collections::HashMap;

use rusqlite::Connection;
use watertight_core::ids::TenantId;

use super::vault::Vault;
use crate::StoreError;
use crate::keys::TenantKeyStatus;

/// Of every tenant the keystore knows, by name.
pub(super) fn of_all(conn: &Connection, vault: &Vault) -> Result<Vec<TenantKeyStatus>, StoreError> {
    let mut names = names(conn)?;
    let mut tenants = vault.keystore().survey()?;
    for tenant in &mut tenants {
        tenant.name = names.remove(&tenant.tenant);
    }
    tenants.sort_by(|a, b| (a.name.is_none(), &a.name).cmp(&(b.name.is_none(), &b.name)));
    Ok(tenants)
}

/// The tenants' names.
pub(super) fn names(conn: &Connection) -> Result<HashMap<TenantId, String>, StoreError> {
    let mut statement = conn.prepare("SELECT tenant, name FROM tenants")?;
    let names = statement.query_map([], |row| Ok((TenantId::from_bytes(row.get(0)?), row.get(1)?)))?;
    Ok(names.collect::<Result<_, _>>()?)
}
