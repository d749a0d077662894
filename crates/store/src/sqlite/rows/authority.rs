//! Tenants, credentials and grants.

use rusqlite::{Connection, OptionalExtension, Row};
use watertight_core::grant::{Grant, Grants, VerbSet};
use watertight_core::ids::{AuthEpoch, CredentialId, GrantId, PrincipalId, TenantId, UnixMillis};
use watertight_core::key::KeyPrefix;
use watertight_core::principal::{
    CredentialKind, CredentialRecord, CredentialTerms, Family, Principal, PrincipalKind, SecretHash,
};
use watertight_seal::chain;
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::Place;

use super::open_json;
use crate::StoreError;
use crate::sqlite::vault::Vault;

/// A tenant's row. These three kinds of rows are plain, so each carries a MAC under a key of its tenant: a row that was
/// changed, or made without the keys, gives nobody anything.
pub(in crate::sqlite) struct TenantColumns {
    pub(in crate::sqlite) name: String,
    pub(in crate::sqlite) operator: PrincipalId,
    pub(in crate::sqlite) created_at: i64,
}

/// A principal's row.
pub(in crate::sqlite) struct PrincipalColumns {
    pub(in crate::sqlite) principal: PrincipalId,
    /// 1 operator, 2 user, 3 service.
    pub(in crate::sqlite) kind: i64,
    pub(in crate::sqlite) name_hash: [u8; 32],
    pub(in crate::sqlite) disabled: i64,
    pub(in crate::sqlite) auth_epoch: i64,
    pub(in crate::sqlite) created_at: i64,
}

/// A credential's row.
pub(in crate::sqlite) struct CredentialColumns {
    /// The public part of the token.
    pub(in crate::sqlite) credential: String,
    pub(in crate::sqlite) principal: PrincipalId,
    /// 1 operator, 2 access, 3 refresh, 4 device, 5 stream.
    pub(in crate::sqlite) kind: i64,
    pub(in crate::sqlite) family: [u8; 16],
    pub(in crate::sqlite) secret_hash: [u8; 32],
    /// The bits of a [`VerbSet`].
    pub(in crate::sqlite) ceiling: i64,
    pub(in crate::sqlite) not_after: Option<i64>,
    pub(in crate::sqlite) idle: Option<i64>,
    pub(in crate::sqlite) used_at: i64,
    pub(in crate::sqlite) revoked: i64,
    pub(in crate::sqlite) created_at: i64,
}

impl TenantColumns {
    pub(in crate::sqlite) fn mac(&self, keys: &TenantKeys) -> [u8; 32] {
        keys.authority_mac("tenants", &[self.name.as_bytes(), self.operator.as_bytes(), &self.created_at.to_le_bytes()])
    }
}

impl PrincipalColumns {
    pub(in crate::sqlite) fn mac(&self, keys: &TenantKeys) -> [u8; 32] {
        keys.authority_mac(
            "principals",
            &[
                self.principal.as_bytes(),
                &self.kind.to_le_bytes(),
                &self.name_hash,
                &self.disabled.to_le_bytes(),
                &self.auth_epoch.to_le_bytes(),
                &self.created_at.to_le_bytes(),
            ],
        )
    }
}

impl CredentialColumns {
    /// The columns in the order of [`Self::read`].
    pub(in crate::sqlite) const NAMES: &'static str =
        "credential, principal, kind, family, secret_hash, ceiling, not_after, idle, used_at, revoked, created_at, mac";

    /// The columns, and the MAC behind them, from a row that begins with [`Self::NAMES`] at `at`.
    pub(in crate::sqlite) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<(Self, Vec<u8>)> {
        let columns = Self {
            credential: row.get(at)?,
            principal: PrincipalId::from_bytes(row.get(at + 1)?),
            kind: row.get(at + 2)?,
            family: row.get(at + 3)?,
            secret_hash: row.get(at + 4)?,
            ceiling: row.get(at + 5)?,
            not_after: row.get(at + 6)?,
            idle: row.get(at + 7)?,
            used_at: row.get(at + 8)?,
            revoked: row.get(at + 9)?,
            created_at: row.get(at + 10)?,
        };
        Ok((columns, row.get(at + 11)?))
    }

    pub(in crate::sqlite) fn mac(&self, keys: &TenantKeys) -> [u8; 32] {
        let not_after = self.not_after.map(i64::to_le_bytes);
        let idle = self.idle.map(i64::to_le_bytes);
        keys.authority_mac(
            "credentials",
            &[
                self.credential.as_bytes(),
                self.principal.as_bytes(),
                &self.kind.to_le_bytes(),
                &self.family,
                &self.secret_hash,
                &self.ceiling.to_le_bytes(),
                not_after.as_ref().map_or(&[], |end| &end[..]),
                idle.as_ref().map_or(&[], |idle| &idle[..]),
                &self.used_at.to_le_bytes(),
                &self.revoked.to_le_bytes(),
                &self.created_at.to_le_bytes(),
            ],
        )
    }

    /// Checks the MAC.
    pub(in crate::sqlite) fn verified(self, keys: &TenantKeys, mac: &[u8]) -> Result<Self, StoreError> {
        verify(self.mac(keys), mac, "credential")?;
        Ok(self)
    }

    /// What it says, but for the secret.
    pub(in crate::sqlite) fn terms(&self) -> Result<CredentialTerms, StoreError> {
        let wrong = || StoreError::Integrity("credential");
        Ok(CredentialTerms {
            id: CredentialId::parse(&self.credential).ok_or_else(wrong)?,
            kind: usize::try_from(self.kind - 1)
                .ok()
                .and_then(|at| CredentialKind::ALL.get(at).copied())
                .ok_or_else(wrong)?,
            family: Family(self.family),
            not_after: self.not_after.map(UnixMillis),
            idle: self.idle.map(u64::try_from).transpose().map_err(|_| wrong())?,
            used_at: UnixMillis(self.used_at),
        })
    }

    pub(in crate::sqlite) fn verbs(&self) -> Result<VerbSet, StoreError> {
        // What the MAC covers was written from this type.
        let bits = u16::try_from(self.ceiling).map_err(|_| StoreError::Integrity("credential"))?;
        Ok(VerbSet::from_bits(bits))
    }
}

/// A credential's kind in its stored form.
pub(in crate::sqlite) fn credential_kind_to_stored(kind: CredentialKind) -> i64 {
    CredentialKind::ALL.iter().position(|other| *other == kind).map_or(0, |at| at as i64 + 1)
}

/// Where a credential's label stands.
pub(in crate::sqlite) fn label_place(credential: &str) -> Place<'_> {
    Place {
        lifecycle: 0,
        generation: 0,
        table: "credentials",
        column: "label",
        row: credential.as_bytes(),
        seq: 0,
        role: 0,
    }
}

/// Where a principal's name stands.
pub(in crate::sqlite) fn name_place(principal: &PrincipalId) -> Place<'_> {
    Place {
        lifecycle: 0,
        generation: 0,
        table: "principals",
        column: "name",
        row: principal.as_bytes(),
        seq: 0,
        role: 0,
    }
}

fn verify(expected: [u8; 32], stored: &[u8], what: &'static str) -> Result<(), StoreError> {
    if chain::same(&expected, stored) { Ok(()) } else { Err(StoreError::Integrity(what)) }
}

/// A principal's kind in its stored form.
pub(in crate::sqlite) fn kind_to_stored(kind: PrincipalKind) -> i64 {
    match kind {
        PrincipalKind::Operator => 1,
        PrincipalKind::User => 2,
        PrincipalKind::Service => 3,
    }
}

fn kind(stored: i64) -> Result<PrincipalKind, StoreError> {
    match stored {
        1 => Ok(PrincipalKind::Operator),
        2 => Ok(PrincipalKind::User),
        3 => Ok(PrincipalKind::Service),
        _ => Err(StoreError::Integrity("principal kind")),
    }
}

/// The credential of this public id.
pub(in crate::sqlite) fn credential(
    conn: &Connection,
    vault: &Vault,
    id: &str,
) -> Result<Option<CredentialRecord>, StoreError> {
    let sql = format!("SELECT tenant, {} FROM credentials WHERE credential = ?1", CredentialColumns::NAMES);
    let row = conn
        .prepare_cached(&sql)?
        .query_row([id], |row| Ok((TenantId::from_bytes(row.get(0)?), CredentialColumns::read(row, 1)?)))
        .optional()?;
    let Some((tenant, (columns, mac))) = row else { return Ok(None) };
    let keys = vault.tenant(tenant)?;
    let columns = columns.verified(&keys, &mac)?;
    let owner = principal(conn, &keys, columns.principal)?.ok_or(StoreError::Integrity("principal"))?;
    Ok(Some(CredentialRecord::decode(
        owner.principal,
        SecretHash::new(columns.secret_hash),
        columns.verbs()?,
        owner.auth_epoch,
        columns.terms()?,
        columns.revoked != 0 || owner.disabled,
    )))
}

/// A principal as its row says, its name not opened.
pub(in crate::sqlite) struct PrincipalFound {
    pub(in crate::sqlite) principal: Principal,
    pub(in crate::sqlite) auth_epoch: AuthEpoch,
    pub(in crate::sqlite) disabled: bool,
    pub(in crate::sqlite) columns: PrincipalColumns,
    sealed_name: Vec<u8>,
}

impl PrincipalFound {
    pub(in crate::sqlite) const NAMES: &'static str =
        "principal, kind, name_hash, disabled, auth_epoch, created_at, mac, name";

    pub(in crate::sqlite) fn read(row: &Row<'_>) -> rusqlite::Result<(PrincipalColumns, Vec<u8>, Vec<u8>)> {
        let columns = PrincipalColumns {
            principal: PrincipalId::from_bytes(row.get(0)?),
            kind: row.get(1)?,
            name_hash: row.get(2)?,
            disabled: row.get(3)?,
            auth_epoch: row.get(4)?,
            created_at: row.get(5)?,
        };
        Ok((columns, row.get(6)?, row.get(7)?))
    }

    pub(in crate::sqlite) fn verified(
        keys: &TenantKeys,
        (columns, mac, sealed_name): (PrincipalColumns, Vec<u8>, Vec<u8>),
    ) -> Result<Self, StoreError> {
        verify(columns.mac(keys), &mac, "principal")?;
        let epoch = u64::try_from(columns.auth_epoch).map_err(|_| StoreError::Integrity("principal"))?;
        Ok(Self {
            principal: Principal { tenant: keys.tenant(), id: columns.principal, kind: kind(columns.kind)? },
            auth_epoch: AuthEpoch(epoch),
            disabled: columns.disabled != 0,
            columns,
            sealed_name,
        })
    }

    pub(in crate::sqlite) fn name(&self, keys: &TenantKeys) -> Result<String, StoreError> {
        open_json(keys.own(), &name_place(&self.principal.id), &self.sealed_name)
    }
}

/// A principal by its id.
pub(in crate::sqlite) fn principal(
    conn: &Connection,
    keys: &TenantKeys,
    id: PrincipalId,
) -> Result<Option<PrincipalFound>, StoreError> {
    let sql = format!("SELECT {} FROM principals WHERE tenant = ?1 AND principal = ?2", PrincipalFound::NAMES);
    let row = conn
        .prepare_cached(&sql)?
        .query_row((keys.tenant().as_bytes(), id.as_bytes()), PrincipalFound::read)
        .optional()?;
    row.map(|row| PrincipalFound::verified(keys, row)).transpose()
}

/// The tenant of this name with its operator and the operator's epoch.
pub(in crate::sqlite) fn tenant(
    conn: &Connection,
    vault: &Vault,
    name: &str,
) -> Result<Option<(Principal, AuthEpoch)>, StoreError> {
    let row = conn
        .prepare_cached("SELECT tenant, operator, created_at, mac FROM tenants WHERE name = ?1")?
        .query_row([name], |row| {
            let operator = PrincipalId::from_bytes(row.get(1)?);
            let columns = TenantColumns { name: name.to_owned(), operator, created_at: row.get(2)? };
            Ok((TenantId::from_bytes(row.get(0)?), columns, row.get::<_, Vec<u8>>(3)?))
        })
        .optional()?;
    let Some((tenant, columns, mac)) = row else { return Ok(None) };
    let keys = vault.tenant(tenant)?;
    verify(columns.mac(&keys), &mac, "tenant")?;
    let operator = principal(conn, &keys, columns.operator)?.ok_or(StoreError::Integrity("principal"))?;
    Ok(Some((operator.principal, operator.auth_epoch)))
}

/// The row name of a grant: everything about it that is plain.
pub(in crate::sqlite) fn grant_row(
    principal: PrincipalId,
    grant: &[u8; 16],
    verbs: VerbSet,
    not_after: Option<UnixMillis>,
) -> Vec<u8> {
    let end = not_after.map_or(i64::MAX, |end| end.0);
    [&principal.as_bytes()[..], grant, &verbs.bits().to_le_bytes(), &end.to_le_bytes()].concat()
}

/// Where a grant's prefix stands.
pub(in crate::sqlite) fn grant_place(row: &[u8]) -> Place<'_> {
    Place { lifecycle: 0, generation: 0, table: "grants", column: "prefix", row, seq: 0, role: 0 }
}

/// A principal's grant with its id, from a row that has id, verbs, prefix and end from `at` on.
pub(in crate::sqlite) fn grant(
    keys: &TenantKeys,
    principal: PrincipalId,
    row: &Row<'_>,
    at: usize,
) -> Result<(GrantId, Grant), StoreError> {
    let id: [u8; 16] = row.get(at)?;
    let verbs = VerbSet::from_bits(row.get(at + 1)?);
    let sealed: Vec<u8> = row.get(at + 2)?;
    let not_after = row.get::<_, Option<i64>>(at + 3)?.map(UnixMillis);
    let name = grant_row(principal, &id, verbs, not_after);
    let segments: Vec<String> = open_json(keys.own(), &grant_place(&name), &sealed)?;
    Ok((GrantId::from_bytes(id), Grant { verbs, prefix: KeyPrefix::from_segments(segments), not_after }))
}

/// The grants of a principal; none of one that is disabled.
pub(in crate::sqlite) fn grants(
    conn: &Connection,
    keys: &TenantKeys,
    principal: PrincipalId,
) -> Result<Grants, StoreError> {
    let owner = self::principal(conn, keys, principal)?.ok_or(StoreError::Integrity("principal"))?;
    let mut statement = conn.prepare_cached(
        "SELECT grant_id, verbs, prefix, not_after FROM grants WHERE tenant = ?1 AND principal = ?2 AND NOT ?3",
    )?;
    let mut rows = statement.query((keys.tenant().as_bytes(), principal.as_bytes(), owner.disabled))?;
    let mut rules = Vec::new();
    while let Some(row) = rows.next()? {
        rules.push(grant(keys, principal, row, 0)?.1);
    }
    Ok(Grants::decode(keys.tenant(), principal, rules).named(owner.name(keys)?))
}
