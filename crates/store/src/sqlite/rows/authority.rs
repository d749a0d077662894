//! Tenants, credentials and grants.

use rusqlite::{Connection, OptionalExtension};
use watertight_core::grant::{Grant, Grants, VerbSet};
use watertight_core::ids::{AuthEpoch, PrincipalId, TenantId, UnixMillis};
use watertight_core::key::KeyPrefix;
use watertight_core::principal::{CredentialRecord, Principal, PrincipalKind, SecretHash};
use watertight_seal::keyring::TenantKeys;
use watertight_seal::record::Place;

use super::{open_json, unsigned};
use crate::StoreError;

/// A principal's kind in its stored form.
pub(in crate::sqlite) fn kind_to_stored(kind: PrincipalKind) -> u8 {
    match kind {
        PrincipalKind::Operator => 1,
        PrincipalKind::User => 2,
        PrincipalKind::Service => 3,
    }
}

fn kind(stored: u8) -> Result<PrincipalKind, StoreError> {
    match stored {
        1 => Ok(PrincipalKind::Operator),
        2 => Ok(PrincipalKind::User),
        3 => Ok(PrincipalKind::Service),
        _ => Err(StoreError::Integrity("principal kind")),
    }
}

/// The credential of this public id.
pub(in crate::sqlite) fn credential(conn: &Connection, id: &str) -> Result<Option<CredentialRecord>, StoreError> {
    let row = conn
        .prepare_cached(
            "SELECT c.tenant, c.principal, p.kind, c.secret_hash, c.ceiling, p.auth_epoch, c.not_after, c.revoked
             FROM credentials c JOIN principals p ON p.tenant = c.tenant AND p.principal = c.principal
             WHERE c.credential = ?1",
        )?
        .query_row([id], |row| {
            Ok((
                TenantId::from_bytes(row.get(0)?),
                PrincipalId::from_bytes(row.get(1)?),
                row.get::<_, u8>(2)?,
                SecretHash::new(row.get(3)?),
                VerbSet::from_bits(row.get(4)?),
                AuthEpoch(unsigned(row, 5)?),
                row.get::<_, Option<i64>>(6)?.map(UnixMillis),
                row.get::<_, bool>(7)?,
            ))
        })
        .optional()?;
    let Some((tenant, id, stored_kind, hash, ceiling, epoch, not_after, revoked)) = row else { return Ok(None) };
    let principal = Principal { tenant, id, kind: kind(stored_kind)? };
    Ok(Some(CredentialRecord::decode(principal, hash, ceiling, epoch, not_after, revoked)))
}

/// The tenant of this name with its operator and the operator's epoch.
pub(in crate::sqlite) fn tenant(conn: &Connection, name: &str) -> Result<Option<(Principal, AuthEpoch)>, StoreError> {
    let row = conn
        .prepare_cached(
            "SELECT t.tenant, p.principal, p.kind, p.auth_epoch
             FROM tenants t JOIN principals p ON p.tenant = t.tenant AND p.principal = t.operator WHERE t.name = ?1",
        )?
        .query_row([name], |row| {
            Ok((
                TenantId::from_bytes(row.get(0)?),
                PrincipalId::from_bytes(row.get(1)?),
                row.get::<_, u8>(2)?,
                AuthEpoch(unsigned(row, 3)?),
            ))
        })
        .optional()?;
    let Some((tenant, id, stored_kind, epoch)) = row else { return Ok(None) };
    Ok(Some((Principal { tenant, id, kind: kind(stored_kind)? }, epoch)))
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
