//! Reading entries, each checked against its neighbours and the whole against where the session ends.

use rusqlite::{Connection, OptionalExtension, params};
use watertight_core::ids::{EntryId, GenerationNo};
use watertight_core::receipt::Receipt;
use watertight_core::transcript::Entry;
use watertight_seal::chain;

use super::rows::{self, EntryRaw, RecordSite, Session};
use super::session::Site;
use super::vault::Vault;
use crate::StoreError;
use crate::model::EntryRange;

/// Entries of one generation, oldest first. A gap, a missing end or a broken link is an integrity error, never a
/// shorter answer.
pub(super) fn entries(
    conn: &Connection,
    vault: &Vault,
    site: &Site,
    generation: GenerationNo,
    range: EntryRange,
) -> Result<Vec<Entry>, StoreError> {
    let Some(session) = site.find(conn, vault)? else { return Ok(Vec::new()) };
    let keys = vault.tenant(site.tenant)?;
    let end = if generation == session.record.generation_no() {
        session.head.message_seq
    } else {
        match rows::ending(conn, &keys, &session, generation.0)? {
            Some(ending) => ending.message_seq,
            None => return Ok(Vec::new()),
        }
    };
    let raws = match range {
        EntryRange::Tail { limit: 0, .. }
        | EntryRange::Before { limit: 0, .. }
        | EntryRange::After { limit: 0, .. } => Vec::new(),
        EntryRange::Tail { limit, skip } => read_up_to(conn, site, generation, end.saturating_sub(skip), limit)?,
        EntryRange::Before { before, limit } => {
            read_up_to(conn, site, generation, end.min(before.saturating_sub(1)), limit)?
        }
        EntryRange::After { after, limit } => {
            let raws = read_after(conn, site, generation, after.0, limit)?;
            let complete = raws.len() as u64 == u64::from(limit);
            // What comes before is counted, so that a hole right at the lower bound shows too.
            let before = count_up_to(conn, site, generation, after.0)?;
            let first = raws.first().map_or(end + 1, |raw| raw.message_seq);
            let last = raws.last().map_or(end, |raw| raw.message_seq);
            if before + 1 != u64::from(first) || (!complete && last != end) {
                return Err(StoreError::Integrity("missing entry"));
            }
            raws
        }
    };
    open_all(vault, site, &session, raws)
}

/// One entry of the session.
pub(super) fn entry(conn: &Connection, vault: &Vault, site: &Site, id: EntryId) -> Result<Option<Entry>, StoreError> {
    Ok(find(conn, vault, site, id)?.map(|(entry, _)| entry))
}

/// The receipt of one entry of the session, which is opened for it: no receipt is given for what cannot be read.
pub(super) fn receipt(
    conn: &Connection,
    vault: &Vault,
    site: &Site,
    id: EntryId,
) -> Result<Option<Receipt>, StoreError> {
    let found = find(conn, vault, site, id)?;
    Ok(found.map(|(entry, chain)| Receipt { session: site.session, seq: entry.seq, chain }))
}

/// One entry of the session with the chain up to and with it.
fn find(conn: &Connection, vault: &Vault, site: &Site, id: EntryId) -> Result<Option<(Entry, [u8; 32])>, StoreError> {
    let Some(session) = site.find(conn, vault)? else { return Ok(None) };
    let sql = format!("{} WHERE e.tenant = ?1 AND e.session = ?2 AND e.entry = ?3", EntryRaw::SELECT);
    let raw = conn
        .prepare_cached(&sql)?
        .query_row(params![site.tenant.as_bytes(), site.session.as_bytes(), id.as_bytes()], EntryRaw::read)
        .optional()?;
    let Some(raw) = raw else { return Ok(None) };
    let chain = *raw.chain();
    Ok(open_all(vault, site, &session, vec![raw])?.pop().map(|entry| (entry, chain)))
}

/// Opens entries that were read in order and checks that they follow each other up to the session's head.
fn open_all(vault: &Vault, site: &Site, session: &Session, raws: Vec<EntryRaw>) -> Result<Vec<Entry>, StoreError> {
    let chain = vault.tenant(site.tenant)?.chain(site.session);
    let record_site = RecordSite { vault, tenant: site.tenant, session: site.session };
    let first = raws.first().map_or(0, |raw| raw.message_seq);
    let mut entries = Vec::with_capacity(raws.len());
    for (expected, raw) in (first..).zip(raws) {
        let is_last = raw.seq == session.head.seq.0;
        let fits = raw.message_seq == expected && raw.seq <= session.head.seq.0 && raw.followed != is_last;
        if !fits || (is_last && !chain::same(raw.chain(), &session.head.chain)) {
            return Err(StoreError::Integrity("entry order"));
        }
        entries.push(raw.open(&record_site, &chain)?);
    }
    Ok(entries)
}

/// The last `limit` entries up to message number `newest`, which the generation has, oldest first.
fn read_up_to(
    conn: &Connection,
    site: &Site,
    generation: GenerationNo,
    newest: u32,
    limit: u32,
) -> Result<Vec<EntryRaw>, StoreError> {
    let oldest = newest.saturating_sub(limit);
    // The inner query reads the index alone, so that skipped entries cost no page of their own.
    let sql = format!(
        "{} WHERE e.tenant = ?1 AND e.session = ?2 AND e.seq IN (
             SELECT i.seq FROM entries i
             WHERE i.tenant = ?1 AND i.session = ?2 AND i.generation = ?3
               AND i.message_seq > ?4 AND i.message_seq <= ?5
             ORDER BY i.seq DESC LIMIT ?6)
         ORDER BY e.seq",
        EntryRaw::SELECT
    );
    let (tenant, session) = (site.tenant.as_bytes(), site.session.as_bytes());
    let mut statement = conn.prepare_cached(&sql)?;
    let rows =
        statement.query_map(params![tenant, session, generation.0, oldest, newest, newest - oldest], EntryRaw::read)?;
    let raws = rows.collect::<Result<Vec<_>, _>>()?;
    if raws.len() as u64 == u64::from(newest - oldest) { Ok(raws) } else { Err(StoreError::Integrity("missing entry")) }
}

/// Up to `limit` entries above `after`, oldest first.
fn read_after(
    conn: &Connection,
    site: &Site,
    generation: GenerationNo,
    after: u64,
    limit: u32,
) -> Result<Vec<EntryRaw>, StoreError> {
    let sql = format!(
        "{} WHERE e.tenant = ?1 AND e.session = ?2 AND e.seq > ?3 AND e.generation = ?4 ORDER BY e.seq LIMIT ?5",
        EntryRaw::SELECT
    );
    let (tenant, session) = (site.tenant.as_bytes(), site.session.as_bytes());
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params![tenant, session, signed(after), generation.0, limit], EntryRaw::read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn count_up_to(conn: &Connection, site: &Site, generation: GenerationNo, seq: u64) -> Result<u64, StoreError> {
    let count: i64 = conn
        .prepare_cached(
            "SELECT count(*) FROM entries WHERE tenant = ?1 AND session = ?2 AND seq <= ?3 AND generation = ?4",
        )?
        .query_row(params![site.tenant.as_bytes(), site.session.as_bytes(), signed(seq), generation.0], |row| {
            row.get(0)
        })?;
    Ok(count.unsigned_abs())
}

/// SQLite's integers are signed; what is beyond them is beyond every entry.
fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
