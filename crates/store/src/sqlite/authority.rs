//! Changing who may do what. Rare, so rows are sealed on the writer, in the transaction that also writes the audit log.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};
use watertight_core::TenantAdmin;
use watertight_core::grant::{Grant, VerbSet};
use watertight_core::ids::{AuthEpoch, CredentialId, GrantId, PrincipalId, UnixMillis};
use watertight_core::principal::{CredentialKind, Family, PrincipalKind, SecretHash};
use watertight_seal::keyring::TenantKeys;

use super::audit;
use super::fault::Fault;
use super::rows::{
    self, CredentialColumns, PrincipalColumns, PrincipalFound, credential_kind_to_stored, grant_place, grant_row,
    kind_to_stored, label_place, name_place, open_json, seal_json,
};
use crate::StoreError;
use crate::authority::{AuditEvent, CredentialRow, GrantRow, PrincipalRow, Revoke, Revoked};

/// A credential's label, where it has one.
type SealedLabel = Option<Vec<u8>>;

const FIRST_EPOCH: AuthEpoch = AuthEpoch(1);

/// Who changes something, in whose tenant, and when.
#[derive(Clone)]
pub(super) struct Hand {
    pub(super) keys: Arc<TenantKeys>,
    pub(super) principal: Option<PrincipalId>,
    pub(super) credential: Option<String>,
    pub(super) now: UnixMillis,
}

impl Hand {
    pub(super) fn of(keys: Arc<TenantKeys>, admin: &TenantAdmin, now: UnixMillis) -> Self {
        let credential = admin.credential().map(|id| id.as_str().to_owned());
        Self { keys, principal: Some(admin.principal()), credential, now }
    }

    pub(super) fn log(&self, conn: &Connection, action: &str, object: Value) -> Result<(), Fault> {
        let (principal, credential) = (self.principal, self.credential.clone());
        let event = AuditEvent { action: action.to_owned(), principal, credential, object };
        Ok(audit::append(conn, &self.keys, self.now, &event)?)
    }

    /// Makes a principal; none when the name is taken.
    pub(super) fn create_principal(
        &self,
        conn: &Connection,
        name: &str,
        kind: PrincipalKind,
    ) -> Result<Option<PrincipalRow>, Fault> {
        let Some(row) = insert_principal(conn, &self.keys, name, kind, self.now)? else { return Ok(None) };
        let object = json!({"principal": row.id, "kind": kind.name(), "name": name});
        self.log(conn, "principal.create", object)?;
        Ok(Some(row))
    }

    /// Refuses a principal's credentials from now on, or no longer.
    pub(super) fn set_disabled(&self, conn: &Connection, id: PrincipalId, disabled: bool) -> Result<bool, Fault> {
        let Some(found) = rows::principal(conn, &self.keys, id)? else { return Ok(false) };
        let columns = PrincipalColumns { disabled: disabled.into(), ..found.columns };
        self.update(conn, columns)?;
        let action = if disabled { "principal.disable" } else { "principal.enable" };
        self.log(conn, action, json!({"principal": id}))?;
        Ok(true)
    }

    /// Writes a principal's row with the next epoch: authority that was checked before is out of date.
    fn update(&self, conn: &Connection, columns: PrincipalColumns) -> Result<(), Fault> {
        let columns = PrincipalColumns { auth_epoch: columns.auth_epoch + 1, ..columns };
        conn.prepare_cached(
            "UPDATE principals SET disabled = ?1, auth_epoch = ?2, mac = ?3 WHERE tenant = ?4 AND principal = ?5",
        )?
        .execute(params![
            columns.disabled,
            columns.auth_epoch,
            columns.mac(&self.keys),
            self.keys.tenant().as_bytes(),
            columns.principal.as_bytes()
        ])?;
        Ok(())
    }

    fn next_epoch(&self, conn: &Connection, id: PrincipalId) -> Result<(), Fault> {
        let found = rows::principal(conn, &self.keys, id)?.ok_or(StoreError::Integrity("principal"))?;
        self.update(conn, found.columns)
    }

    /// Stores a credential; false when there is no such principal.
    pub(super) fn issue(&self, conn: &Connection, new: &Issue) -> Result<bool, Fault> {
        if rows::principal(conn, &self.keys, new.principal)?.is_none() {
            return Ok(false);
        }
        new.insert(conn, &self.keys, self.now)?;
        let object = json!({
            "credential": new.id.as_str(), "kind": new.kind.name(), "principal": new.principal,
            "ceiling": new.ceiling.names(), "notAfter": new.not_after, "idleMs": new.idle,
        });
        self.log(conn, "token.issue", object)?;
        Ok(true)
    }

    /// Refuses credentials from now on.
    pub(super) fn revoke(&self, conn: &Connection, what: &Revoke, why: &str) -> Result<Revoked, Fault> {
        let found = credentials(conn, &self.keys, Some(what))?;
        let mut revoked = Revoked::default();
        if found.is_empty() {
            return Ok(revoked);
        }
        let mut owners = Vec::new();
        for (columns, _) in found {
            if columns.revoked != 0 {
                continue;
            }
            let columns = CredentialColumns { revoked: 1, ..columns };
            self.rewrite(conn, &columns)?;
            if !owners.contains(&columns.principal) {
                owners.push(columns.principal);
            }
            revoked.credentials.extend(CredentialId::parse(&columns.credential));
        }
        for owner in owners {
            self.next_epoch(conn, owner)?;
        }
        let ids: Vec<&str> = revoked.credentials.iter().map(CredentialId::as_str).collect();
        let object = match what {
            Revoke::Principal(id) => json!({"credentials": ids, "principal": id}),
            _ => json!({"credentials": ids}),
        };
        self.log(conn, why, object)?;
        Ok(revoked)
    }

    /// Writes what may change in a credential's row.
    fn rewrite(&self, conn: &Connection, columns: &CredentialColumns) -> Result<(), Fault> {
        conn.prepare_cached("UPDATE credentials SET revoked = ?1, used_at = ?2, mac = ?3 WHERE credential = ?4")?
            .execute(params![columns.revoked, columns.used_at, columns.mac(&self.keys), columns.credential])?;
        Ok(())
    }

    /// Notes that a credential was used.
    pub(super) fn touch(&self, conn: &Connection, id: &CredentialId) -> Result<(), Fault> {
        for (columns, _) in credentials(conn, &self.keys, Some(&Revoke::Credential(id.clone())))? {
            if columns.used_at < self.now.0 {
                self.rewrite(conn, &CredentialColumns { used_at: self.now.0, ..columns })?;
            }
        }
        Ok(())
    }

    /// Trades a refresh token for new credentials; none, and its family revoked, when somebody traded it before.
    pub(super) fn renew(&self, conn: &Connection, used: &CredentialId, new: &[Issue]) -> Result<bool, Fault> {
        let what = Revoke::Credential(used.clone());
        let found = credentials(conn, &self.keys, Some(&what))?.pop();
        let (columns, _) = found.ok_or(StoreError::Integrity("credential"))?;
        if columns.revoked != 0 {
            self.revoke(conn, &Revoke::Family(Family(columns.family)), "token.refresh_reuse")?;
            return Ok(false);
        }
        self.rewrite(conn, &CredentialColumns { revoked: 1, used_at: self.now.0, ..columns })?;
        for issue in new {
            issue.insert(conn, &self.keys, self.now)?;
        }
        let ids: Vec<&str> = new.iter().map(|issue| issue.id.as_str()).collect();
        self.log(conn, "token.refresh", json!({"used": used.as_str(), "credentials": ids}))?;
        Ok(true)
    }

    /// Grants something; none when there is no such principal.
    pub(super) fn grant(&self, conn: &Connection, to: PrincipalId, grant: &Grant) -> Result<Option<GrantRow>, Fault> {
        if rows::principal(conn, &self.keys, to)?.is_none() {
            return Ok(None);
        }
        let id = insert_grant(conn, &self.keys, to, grant)?;
        self.next_epoch(conn, to)?;
        let object = json!({
            "grant": id, "principal": to, "verbs": grant.verbs.names(), "prefix": grant.prefix.to_string(),
            "notAfter": grant.not_after,
        });
        self.log(conn, "grant.add", object)?;
        Ok(Some(GrantRow { id, principal: to, grant: grant.clone() }))
    }

    /// Takes a grant away; whose it was.
    pub(super) fn ungrant(&self, conn: &Connection, id: GrantId) -> Result<Option<PrincipalId>, Fault> {
        let owner: Option<[u8; 16]> = conn
            .prepare_cached("DELETE FROM grants WHERE tenant = ?1 AND grant_id = ?2 RETURNING principal")?
            .query_row(params![self.keys.tenant().as_bytes(), id.as_bytes()], |row| row.get(0))
            .optional()?;
        let Some(owner) = owner.map(PrincipalId::from_bytes) else { return Ok(None) };
        self.next_epoch(conn, owner)?;
        self.log(conn, "grant.remove", json!({"grant": id, "principal": owner}))?;
        Ok(Some(owner))
    }
}

/// A credential to be stored.
pub(super) struct Issue {
    pub(super) id: CredentialId,
    pub(super) kind: CredentialKind,
    pub(super) hash: SecretHash,
    pub(super) principal: PrincipalId,
    pub(super) family: Family,
    pub(super) ceiling: VerbSet,
    pub(super) not_after: Option<UnixMillis>,
    pub(super) idle: Option<u64>,
    pub(super) label: Option<String>,
}

impl Issue {
    pub(super) fn insert(&self, conn: &Connection, keys: &TenantKeys, now: UnixMillis) -> Result<(), Fault> {
        let columns = CredentialColumns {
            credential: self.id.as_str().to_owned(),
            principal: self.principal,
            kind: credential_kind_to_stored(self.kind),
            family: self.family.0,
            secret_hash: *self.hash.as_bytes(),
            ceiling: self.ceiling.bits().into(),
            not_after: self.not_after.map(|end| end.0),
            idle: self.idle.map(|idle| i64::try_from(idle).unwrap_or(i64::MAX)),
            used_at: now.0,
            revoked: 0,
            created_at: now.0,
        };
        let label = match &self.label {
            Some(label) => Some(seal_json(keys.own(), &label_place(&columns.credential), label)?),
            None => None,
        };
        conn.prepare_cached(
            "INSERT INTO credentials (credential, tenant, principal, kind, family, secret_hash, ceiling, not_after, idle,
                 used_at, revoked, label, created_at, mac)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute(params![
            columns.credential,
            keys.tenant().as_bytes(),
            columns.principal.as_bytes(),
            columns.kind,
            columns.family,
            columns.secret_hash,
            columns.ceiling,
            columns.not_after,
            columns.idle,
            columns.used_at,
            columns.revoked,
            label,
            columns.created_at,
            columns.mac(keys)
        ])?;
        Ok(())
    }
}

/// Writes a principal's row; none when the name is taken.
pub(super) fn insert_principal(
    conn: &Connection,
    keys: &TenantKeys,
    name: &str,
    kind: PrincipalKind,
    now: UnixMillis,
) -> Result<Option<PrincipalRow>, Fault> {
    let columns = PrincipalColumns {
        principal: PrincipalId::from_bytes(watertight_seal::random().map_err(StoreError::from)?),
        kind: kind_to_stored(kind),
        name_hash: keys.principal_hash(name),
        disabled: 0,
        auth_epoch: FIRST_EPOCH.0 as i64,
        created_at: now.0,
    };
    let sealed = seal_json(keys.own(), &name_place(&columns.principal), &name)?;
    let written = conn
        .prepare_cached(
            "INSERT INTO principals (tenant, principal, kind, name_hash, name, disabled, auth_epoch, created_at, mac)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            keys.tenant().as_bytes(),
            columns.principal.as_bytes(),
            columns.kind,
            columns.name_hash,
            sealed,
            columns.disabled,
            columns.auth_epoch,
            columns.created_at,
            columns.mac(keys)
        ])?;
    Ok((written == 1).then(|| PrincipalRow {
        id: columns.principal,
        name: name.to_owned(),
        kind,
        disabled: false,
        auth_epoch: FIRST_EPOCH,
        created_at: now,
    }))
}

/// Writes a grant's row.
pub(super) fn insert_grant(
    conn: &Connection,
    keys: &TenantKeys,
    to: PrincipalId,
    grant: &Grant,
) -> Result<GrantId, Fault> {
    let id: [u8; 16] = watertight_seal::random().map_err(StoreError::from)?;
    let row = grant_row(to, &id, grant.verbs, grant.not_after);
    let prefix = seal_json(keys.own(), &grant_place(&row), &grant.prefix.segments())?;
    conn.prepare_cached(
        "INSERT INTO grants (tenant, principal, grant_id, verbs, prefix, not_after) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        keys.tenant().as_bytes(),
        to.as_bytes(),
        id,
        grant.verbs.bits(),
        prefix,
        grant.not_after.map(|end| end.0)
    ])?;
    Ok(GrantId::from_bytes(id))
}

/// The principals of a tenant in the order in which they were made.
pub(super) fn principals(conn: &Connection, keys: &TenantKeys) -> Result<Vec<PrincipalRow>, StoreError> {
    let sql =
        format!("SELECT {} FROM principals WHERE tenant = ?1 ORDER BY created_at, principal", PrincipalFound::NAMES);
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query([keys.tenant().as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(principal_row(keys, PrincipalFound::verified(keys, PrincipalFound::read(row)?)?)?);
    }
    Ok(found)
}

/// The principal of this name.
pub(super) fn principal_named(
    conn: &Connection,
    keys: &TenantKeys,
    name: &str,
) -> Result<Option<PrincipalRow>, StoreError> {
    let sql = format!("SELECT {} FROM principals WHERE tenant = ?1 AND name_hash = ?2", PrincipalFound::NAMES);
    let row = conn
        .prepare_cached(&sql)?
        .query_row(params![keys.tenant().as_bytes(), keys.principal_hash(name)], PrincipalFound::read)
        .optional()?;
    row.map(|row| principal_row(keys, PrincipalFound::verified(keys, row)?)).transpose()
}

fn principal_row(keys: &TenantKeys, found: PrincipalFound) -> Result<PrincipalRow, StoreError> {
    Ok(PrincipalRow {
        id: found.principal.id,
        name: found.name(keys)?,
        kind: found.principal.kind,
        disabled: found.disabled,
        auth_epoch: found.auth_epoch,
        created_at: UnixMillis(found.columns.created_at),
    })
}

/// Credentials of a tenant, all or those that are meant, in the order in which they were issued.
pub(super) fn credential_rows(
    conn: &Connection,
    keys: &TenantKeys,
    which: Option<&Revoke>,
) -> Result<Vec<CredentialRow>, StoreError> {
    let mut found = Vec::new();
    for (columns, label) in credentials(conn, keys, which)? {
        let terms = columns.terms()?;
        let label = match label {
            Some(sealed) => Some(open_json(keys.own(), &label_place(&columns.credential), &sealed)?),
            None => None,
        };
        found.push(CredentialRow {
            id: terms.id,
            kind: terms.kind,
            principal: columns.principal,
            family: terms.family,
            ceiling: columns.verbs()?,
            not_after: terms.not_after,
            idle: terms.idle,
            used_at: terms.used_at,
            revoked: columns.revoked != 0,
            label,
            created_at: UnixMillis(columns.created_at),
        });
    }
    Ok(found)
}

fn credentials(
    conn: &Connection,
    keys: &TenantKeys,
    which: Option<&Revoke>,
) -> Result<Vec<(CredentialColumns, SealedLabel)>, StoreError> {
    let (filter, name): (&str, Vec<u8>) = match which {
        None => ("?2 = ?2", Vec::new()),
        Some(Revoke::Credential(id)) => ("credential = CAST(?2 AS TEXT)", id.as_str().as_bytes().to_vec()),
        Some(Revoke::Family(family)) => ("family = ?2", family.0.to_vec()),
        Some(Revoke::Principal(id)) => ("principal = ?2", id.as_bytes().to_vec()),
    };
    let sql = format!(
        "SELECT label, {} FROM credentials WHERE tenant = ?1 AND {filter} ORDER BY created_at, credential",
        CredentialColumns::NAMES
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params![keys.tenant().as_bytes(), name])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (columns, mac) = CredentialColumns::read(row, 1)?;
        found.push((columns.verified(keys, &mac)?, row.get(0)?));
    }
    Ok(found)
}

/// Grants of a tenant, all or one principal's.
pub(super) fn grant_rows(
    conn: &Connection,
    keys: &TenantKeys,
    of: Option<PrincipalId>,
) -> Result<Vec<GrantRow>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT principal, grant_id, verbs, prefix, not_after FROM grants
         WHERE tenant = ?1 AND (?2 IS NULL OR principal = ?2) ORDER BY principal, grant_id",
    )?;
    let of = of.map(|id| id.as_bytes().to_vec());
    let mut read = statement.query(params![keys.tenant().as_bytes(), of])?;
    let mut found = Vec::new();
    while let Some(row) = read.next()? {
        let principal = PrincipalId::from_bytes(row.get(0)?);
        let (id, grant) = rows::grant(keys, principal, row, 1)?;
        found.push(GrantRow { id, principal, grant });
    }
    Ok(found)
}
