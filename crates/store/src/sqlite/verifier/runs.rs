//! Runs that no entry names. What is counted differs from what the entries named also where a session was written
//! between the two looks; those sessions are looked at again, at one moment.

use std::collections::HashMap;

use watertight_core::ids::SessionId;
use watertight_seal::keyring::TenantKeys;

use super::session::Visit;
use super::{Problem, Tenant, Verifier, problem};
use crate::StoreError;
use crate::sqlite::rows::{RunRaw, SessionRaw};
use crate::verification::Report;

/// Checks the runs that the visits did not come by; `named` says how many each visit did. With `whole`, sessions that
/// were not visited are looked at too.
pub(super) fn settle(
    verifier: &Verifier,
    tenant: &Tenant,
    keys: &TenantKeys,
    named: HashMap<SessionId, u64>,
    whole: bool,
    report: &mut Report,
) -> Result<(), StoreError> {
    let Verifier { conn, vault, .. } = verifier;
    let mut counts: HashMap<SessionId, u64> = HashMap::new();
    let mut statement = conn.prepare("SELECT session FROM runs WHERE tenant = ?1")?;
    let mut rows = statement.query([tenant.id.as_bytes()])?;
    while let Some(row) = rows.next()? {
        *counts.entry(SessionId::from_bytes(row.get(0)?)).or_default() += 1;
    }
    drop(rows);
    counts.retain(|session, count| named.get(session).map_or(whole, |named| named != count));
    let differing = counts;
    if differing.is_empty() {
        return Ok(());
    }

    let transaction = conn.unchecked_transaction()?;
    let sql = format!("SELECT {} FROM runs WHERE tenant = ?1", RunRaw::COLUMNS);
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([tenant.id.as_bytes()])?;
    let mut by_session: HashMap<SessionId, Vec<RunRaw>> = HashMap::new();
    while let Some(row) = rows.next()? {
        match RunRaw::read(row).map_err(StoreError::from) {
            Ok(raw) if differing.contains_key(&raw.session) => by_session.entry(raw.session).or_default().push(raw),
            Ok(_) => {}
            Err(fault @ StoreError::Integrity(_)) => report.push(problem(tenant, &format!("a run: {fault}"))),
            Err(fault) => return Err(fault),
        }
    }
    drop(rows);
    for (session, mut raws) in by_session {
        let opened = match SessionRaw::find(conn, tenant.id, session)? {
            Some(raw) => raw.open(vault),
            None => Err(StoreError::Integrity("session of a run")),
        };
        let Ok(opened) = opened else {
            // Where the session was visited, what is wrong with it is said already.
            if !named.contains_key(&session) {
                report.push(Problem {
                    session: Some(session),
                    ..problem(tenant, "there are runs of it, but no session")
                });
            }
            continue;
        };
        let before = report.runs;
        let mut visit = Visit::new(conn, vault, keys, tenant, session, report).keyed(&opened.record);
        let places = visit.places();
        let Some(places) = visit.sound(None, "", places)? else { continue };
        raws.sort_by_key(|raw| places.get(&raw.input).copied());
        let mut opening = 0;
        for raw in raws {
            opening += u64::from(visit.run(&opened.record, &raw, &places)?);
        }
        // Those that the visit came by were counted there.
        report.runs = before + u64::saturating_sub(opening, named.get(&session).copied().unwrap_or(0));
    }
    transaction.finish()?;
    Ok(())
}
