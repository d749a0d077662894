//! Tenants, credentials and grants.

use rusqlite::{Connection, OptionalExtension};
use watertight_core::grant::{Grant, Grants, VerbSet};
use watertight_core::ids::{AuthEpoch, PrincipalId, TenantId, UnixMillis};
use watertight_core::key::KeyPrefix;
use watertight_core::principal::{CredentialRecord, Principal, PrincipalKind, SecretHash};
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
    pub(in crate::sqlite) auth_epoch: i64,
    pub(in crate::sqlite) created_at: i64,
}

/// A credential's row.
pub(in crate::sqlite) struct CredentialColumns {
    /// The public part of the token.
    pub(in crate::sqlite) credential: String,
    pub(in crate::sqlite) principal: PrincipalId,
    pub(in crate::sqlite) secret_hash: [u8; 32],
    /// The bits of a [`VerbSet`].
    pub(in crate::sqlite) ceiling: i64,
    pub(in crate::sqlite) not_after: Option<i64>,
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
                &self.auth_epoch.to_le_bytes(),
                &self.created_at.to_le_bytes(),
            ],
        )
    }
}

impl CredentialColumns {
    pub(in crate::sqlite) fn mac(&self, keys: &TenantKeys) -> [u8; 32] {
        let not_after = self.not_after.map(i64::to_le_bytes);
        keys.authority_mac(
            "credentials",
            &[
                self.credential.as_bytes(),
                self.principal.as_bytes(),
                &self.secret_hash,
                &self.ceiling.to_le_bytes(),
                not_after.as_ref().map_or(&[], |end| &end[..]),
                &self.revoked.to_le_bytes(),
                &self.created_at.to_le_bytes(),
            ],
        )
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
    let row = conn
        .prepare_cached(
            "SELECT tenant, principal, secret_hash, ceiling, not_after, revoked, created_at, mac
             FROM credentials WHERE credential = ?1",
        )?
        .query_row([id], |row| {
            let columns = CredentialColumns {
                credential: id.to_owned(),
                principal: PrincipalId::from_bytes(row.get(1)?),
                secret_hash: row.get(2)?,
                ceiling: row.get(3)?,
                not_after: row.get(4)?,
                revoked: row.get(5)?,
                created_at: row.get(6)?,
            };
            Ok((TenantId::from_bytes(row.get(0)?), columns, row.get::<_, Vec<u8>>(7)?))
        })
        .optional()?;
    let Some((tenant, columns, mac)) = row else { return Ok(None) };
    let keys = vault.tenant(tenant)?;
    verify(columns.mac(&keys), &mac, "credential")?;
    let (principal, epoch) = principal(conn, &keys, columns.principal)?;
    // What the MAC covers was written from these types.
    let ceiling = u16::try_from(columns.ceiling).map_err(|_| StoreError::Integrity("credential"))?;
    Ok(Some(CredentialRecord::decode(
        principal,
        SecretHash::new(columns.secret_hash),
        VerbSet::from_bits(ceiling),
        epoch,
        columns.not_after.map(UnixMillis),
        columns.revoked != 0,
    )))
}

/// A principal that another row names, with its epoch.
pub(in crate::sqlite) fn principal(
    conn: &Connection,
    keys: &TenantKeys,
    id: PrincipalId,
) -> Result<(Principal, AuthEpoch), StoreError> {
    let row = conn
        .prepare_cached(
            "SELECT kind, auth_epoch, created_at, mac FROM principals WHERE tenant = ?1 AND principal = ?2",
        )?
        .query_row((keys.tenant().as_bytes(), id.as_bytes()), |row| {
            let columns =
                PrincipalColumns { principal: id, kind: row.get(0)?, auth_epoch: row.get(1)?, created_at: row.get(2)? };
            Ok((columns, row.get::<_, Vec<u8>>(3)?))
        })
        .optional()?;
    let (columns, mac) = row.ok_or(StoreError::Integrity("principal"))?;
    verify(columns.mac(keys), &mac, "principal")?;
    let epoch = u64::try_from(columns.auth_epoch).map_err(|_| StoreError::Integrity("principal"))?;
    Ok((Principal { tenant: keys.tenant(), id, kind: kind(columns.kind)? }, AuthEpoch(epoch)))
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
    principal(conn, &keys, columns.operator).map(Some)
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

/// The grants of a principal.
pub(in crate::sqlite) fn grants(
    conn: &Connection,
    keys: &TenantKeys,
    principal: PrincipalId,
) -> Result<Grants, StoreError> {
    let mut statement = conn
        .prepare_cached("SELECT grant_id, verbs, prefix, not_after FROM grants WHERE tenant = ?1 AND principal = ?2")?;
    let mut rows = statement.query((keys.tenant().as_bytes(), principal.as_bytes()))?;
    let mut rules = Vec::new();
    while let Some(row) = rows.next()? {
        let grant: [u8; 16] = row.get(0)?;
        let verbs = VerbSet::from_bits(row.get(1)?);
        let sealed: Vec<u8> = row.get(2)?;
        let not_after = row.get::<_, Option<i64>>(3)?.map(UnixMillis);
        let name = grant_row(principal, &grant, verbs, not_after);
        let segments: Vec<String> = open_json(keys.own(), &grant_place(&name), &sealed)?;
        rules.push(Grant { verbs, prefix: KeyPrefix::from_segments(segments), not_after });
    }
    Ok(Grants::decode(keys.tenant(), principal, rules))
}
