//! Runs that a former process left open: found by the index over open runs, ended without a key where none fits.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use watertight_core::ids::{EntryId, SessionId, TenantId, UnixMillis};

use super::fault::Fault;
use super::rows::{self, RunRaw, Session, SessionRaw};
use super::vault::Vault;
use crate::StoreError;
use crate::model::{DamagedRun, OpenRun, OpenRuns};

/// Sessions with open runs, the longest waiting first. Reads the index alone and needs no key.
pub(super) fn unfinished(conn: &Connection) -> Result<Vec<(TenantId, SessionId)>, StoreError> {
    let mut tenants = conn.prepare("SELECT tenant FROM tenants")?;
    let tenants = tenants.query_map([], |row| row.get::<_, [u8; 16]>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut statement = conn.prepare(
        "SELECT session, min(accepted_at) FROM runs INDEXED BY runs_open WHERE tenant = ?1 AND state < 6
         GROUP BY session",
    )?;
    let mut found = Vec::new();
    for tenant in tenants {
        let mut sessions = statement.query([tenant])?;
        while let Some(row) = sessions.next()? {
            let since: i64 = row.get(1)?;
            found.push((since, TenantId::from_bytes(tenant), SessionId::from_bytes(row.get(0)?)));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, tenant, session)| (tenant, session)).collect())
}

/// The open runs of one session. Damage makes its own run a damaged one; only a fault of the store itself is an error.
pub(super) fn open_runs(
    conn: &Connection,
    vault: &Vault,
    tenant: TenantId,
    session: SessionId,
) -> Result<OpenRuns, StoreError> {
    let names = names(conn, tenant, session)?;
    let mut open = OpenRuns::default();
    if names.is_empty() {
        return Ok(open);
    }
    let found = or_damage(find_session(conn, vault, tenant, session))?;
    let mut raws = Vec::new();
    for name in names {
        match or_damage(find_run(conn, tenant, &name))? {
            Ok(raw) => raws.push((name, raw)),
            Err(fault) => open.damaged.push(name.damaged(session, fault)),
        }
    }
    let places = places(conn, tenant, session, raws.iter().map(|(_, raw)| raw.input).collect())?;
    let mut runs = Vec::new();
    for (name, raw) in raws {
        let place = places.get(&raw.input).copied();
        let opened = found.as_ref().map_err(Clone::clone).and_then(|found| take_up(conn, vault, found, &raw, place));
        match or_damage(opened)? {
            Ok(run) => runs.push(run),
            Err(fault) => open.damaged.push(name.damaged(session, fault)),
        }
    }
    runs.sort_by_key(|(seq, _)| *seq);
    open.runs = runs.into_iter().map(|(_, run)| run).collect();
    Ok(open)
}

/// Ends a run as interrupted, whatever its row holds; runs on the writer.
pub(super) fn interrupt(
    conn: &Connection,
    tenant: TenantId,
    principal: &[u8],
    run_hash: &[u8],
    now: UnixMillis,
) -> Result<(), Fault> {
    conn.prepare_cached(
        "UPDATE runs SET state = 6, how = 'interrupted', outcome = NULL, ended_at = ?1
         WHERE tenant = ?2 AND principal = ?3 AND run_hash = ?4 AND state < 6",
    )?
    .execute(params![now.0, tenant.as_bytes(), principal, run_hash])?;
    Ok(())
}

/// What names a run in its tenant, as it stands in the index.
struct Name {
    principal: Vec<u8>,
    hash: Vec<u8>,
}

impl Name {
    fn damaged(self, session: SessionId, fault: StoreError) -> DamagedRun {
        DamagedRun { session, fault, principal: self.principal, hash: self.hash }
    }
}

fn names(conn: &Connection, tenant: TenantId, session: SessionId) -> Result<Vec<Name>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT principal, run_hash FROM runs INDEXED BY runs_open
         WHERE tenant = ?1 AND session = ?2 AND state < 6 ORDER BY accepted_at, run_hash",
    )?;
    let names = statement.query_map((tenant.as_bytes(), session.as_bytes()), |row| {
        Ok(Name { principal: row.get(0)?, hash: row.get(1)? })
    })?;
    Ok(names.collect::<Result<_, _>>()?)
}

fn find_run(conn: &Connection, tenant: TenantId, name: &Name) -> Result<RunRaw, StoreError> {
    let sql = format!("SELECT {} FROM runs WHERE tenant = ?1 AND principal = ?2 AND run_hash = ?3", RunRaw::COLUMNS);
    let found = conn
        .prepare_cached(&sql)?
        .query_row(params![tenant.as_bytes(), name.principal, name.hash], RunRaw::read)
        .optional()?;
    found.ok_or(StoreError::Integrity("index of open runs"))
}

fn find_session(conn: &Connection, vault: &Vault, tenant: TenantId, session: SessionId) -> Result<Session, StoreError> {
    SessionRaw::find(conn, tenant, session)?.ok_or(StoreError::Integrity("session of a run"))?.open(vault)
}

/// Where these entries stand in the session. Inputs of open runs stand near its end, so it is read from there, and no
/// further than needed.
fn places(
    conn: &Connection,
    tenant: TenantId,
    session: SessionId,
    mut wanted: Vec<EntryId>,
) -> Result<HashMap<EntryId, i64>, StoreError> {
    wanted.sort_unstable();
    wanted.dedup();
    let mut found = HashMap::new();
    let mut statement = conn.prepare_cached(
        "SELECT entry, seq FROM entries INDEXED BY entries_by_place WHERE tenant = ?1 AND session = ?2
         ORDER BY seq DESC",
    )?;
    let mut entries = statement.query((tenant.as_bytes(), session.as_bytes()))?;
    while found.len() < wanted.len()
        && let Some(row) = entries.next()?
    {
        // An id of another length is nobody's input, and no reason to leave the session alone.
        if let Ok(entry) = row.get(0).map(EntryId::from_bytes)
            && wanted.binary_search(&entry).is_ok()
        {
            found.insert(entry, row.get(1)?);
        }
    }
    Ok(found)
}

/// The run with its input's place and with what core asks for to admit it anew.
fn take_up(
    conn: &Connection,
    vault: &Vault,
    session: &Session,
    raw: &RunRaw,
    place: Option<i64>,
) -> Result<(i64, OpenRun), StoreError> {
    let session = &session.record;
    let place = place.ok_or(StoreError::Integrity("input of a run"))?;
    let run = raw.open(vault, session)?;
    let keys = vault.tenant(session.tenant())?;
    let found = rows::principal(conn, &keys, raw.principal)?.ok_or(StoreError::Integrity("principal"))?;
    let (principal, auth_epoch) = (found.principal, found.auth_epoch);
    let grants = rows::grants(conn, &keys, raw.principal)?;
    Ok((place, OpenRun { run, session: session.clone(), principal, auth_epoch, grants }))
}

/// Damage, set apart from the faults that are the store's.
fn or_damage<T>(result: Result<T, StoreError>) -> Result<Result<T, StoreError>, StoreError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(fault @ StoreError::Integrity(_)) => Ok(Err(fault)),
        Err(fault) => Err(fault),
    }
}
