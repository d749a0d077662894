//! Lists of sessions: the caller's grants met with the query, pinned first, then the latest written first.

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use watertight_core::Caller;
use watertight_core::grant::{Grants, Verb};
use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_core::key::{AgentId, CanonicalKey, KeyPrefix};
use watertight_core::session::SessionMeta;
use watertight_seal::keyring::TenantKeys;

use super::commit::agent_tag;
use super::rows::{Session, SessionRaw};
use super::session::intact;
use super::vault::Vault;
use crate::StoreError;
use crate::model::{Archived, ListQuery, SessionPage, SessionRow};

/// Which keys a list may show.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// None.
    Nothing,
    /// Every key of the tenant.
    Everything,
    /// Every key of this agent.
    Agent(String),
    /// Keys under any of these.
    Prefixes(Vec<KeyPrefix>),
}

impl Reach {
    /// What the caller may read now, met with an agent's sessions.
    pub(super) fn of(caller: &Caller, grants: &Grants, agent: Option<&AgentId>, now: UnixMillis) -> Self {
        if !grants.belong_to(caller.tenant(), caller.principal()) || !caller.ceiling().allows(Verb::Read) {
            return Self::Nothing;
        }
        meet(grants.prefixes(Verb::Read, now), agent.map(AgentId::as_str))
    }

    /// Whether the key lies within. The columns that find a session are not sealed; its key is.
    pub(super) fn covers(&self, key: &CanonicalKey) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Agent(agent) => key.agent() == Some(agent),
            Self::Prefixes(prefixes) => prefixes.iter().any(|prefix| prefix.covers(key)),
        }
    }
}

/// The value if its session's key lies within the reach. Any other session was put there by a changed row.
pub(super) fn within<T>(reach: &Reach, key: &CanonicalKey, value: T) -> Option<T> {
    if reach.covers(key) {
        return Some(value);
    }
    tracing::warn!("a session that its columns place under other keys than its own is left out of the answer");
    None
}

fn meet<'a>(granted: impl Iterator<Item = &'a KeyPrefix>, agent: Option<&str>) -> Reach {
    let wanted = agent.map_or_else(Vec::new, |agent| vec!["agent".to_owned(), agent.to_owned()]);
    let mut met: Vec<Vec<String>> = granted
        .filter_map(|prefix| {
            let mine = prefix.segments();
            // Two prefixes have keys in common only if one begins with the other; those are the longer one's keys.
            let longer = if mine.len() >= wanted.len() { mine } else { &wanted };
            (longer.starts_with(mine) && longer.starts_with(&wanted)).then(|| longer.to_vec())
        })
        .collect();
    if met.contains(&wanted) {
        return agent.map_or(Reach::Everything, |agent| Reach::Agent(agent.to_owned()));
    }
    met.sort();
    met.dedup();
    if met.is_empty() {
        Reach::Nothing
    } else {
        Reach::Prefixes(met.into_iter().map(KeyPrefix::from_segments).collect())
    }
}

/// The page.
pub(super) fn page(
    conn: &Connection,
    vault: &Vault,
    keys: &TenantKeys,
    reach: &Reach,
    query: &ListQuery,
) -> Result<SessionPage, StoreError> {
    let empty = SessionPage { rows: Vec::new(), total: 0 };
    let counted = Counted::of(conn, keys, reach, query)?;
    if *reach == Reach::Nothing || counted.as_ref().is_some_and(|counted| counted.matching == 0) {
        return Ok(empty);
    }
    let few = counted.as_ref().is_some_and(|counted| counted.of_agent <= FEW);
    let filter = Filter::new(keys, reach, query, few);
    match &query.search {
        Some(text) => filter.search(conn, vault, query, &text.to_lowercase()),
        None => {
            let total = match counted {
                Some(counted) => counted.matching,
                None => filter.count(conn)?,
            };
            filter.plain(conn, vault, query, total)
        }
    }
}

/// Whether the query opens every session it reaches: what is searched is sealed.
pub(super) fn is_scan(query: &ListQuery) -> bool {
    query.search.is_some() && query.label.is_none()
}

/// Most rows of a brief list.
const BRIEF: u32 = 8;

/// Whether the query is for a few rows, and for a number that is kept.
pub(super) fn is_brief(reach: &Reach, query: &ListQuery) -> bool {
    let counted = query.search.is_none() && query.label.is_none() && query.active_since.is_none();
    counted && query.limit <= BRIEF && query.offset == 0 && !matches!(reach, Reach::Prefixes(_))
}

/// Sessions of an agent that are found sooner by their prefix than by walking every session in the order of the list.
const FEW: u64 = 512;

/// How many sessions a query matches that nothing but kept counts decide; a search only narrows it further.
struct Counted {
    matching: u64,
    /// Of the one agent that is asked for, whatever their state; of all agents, as good as infinitely many.
    of_agent: u64,
}

impl Counted {
    fn of(conn: &Connection, keys: &TenantKeys, reach: &Reach, query: &ListQuery) -> Result<Option<Self>, StoreError> {
        let agent = match reach {
            Reach::Everything => None,
            Reach::Agent(agent) => Some(agent_tag(keys, agent)),
            Reach::Nothing | Reach::Prefixes(_) => return Ok(None),
        };
        if query.label.is_some() || query.active_since.is_some() {
            return Ok(None);
        }
        let archived = match query.archived {
            Archived::Exclude => Some(false),
            Archived::Only => Some(true),
            Archived::Include => None,
        };
        let (matching, all): (i64, i64) = conn
            .prepare_cached(
                "SELECT coalesce(sum(iif((?3 IS NULL OR archived = ?3) AND (?4 OR sentinel = 0), sessions, 0)), 0),
                     coalesce(sum(sessions), 0)
                 FROM session_counts WHERE tenant = ?1 AND (?2 IS NULL OR agent_tag = ?2)",
            )?
            .query_row(params![keys.tenant().as_bytes(), agent, archived, query.sentinels], |row| row.try_into())?;
        let of_agent = if agent.is_some() { all.unsigned_abs() } else { u64::MAX };
        Ok(Some(Self { matching: matching.unsigned_abs(), of_agent }))
    }
}

/// Which sessions to look at, by plain columns: FROM and WHERE with their parameters.
struct Filter<'a> {
    reach: &'a Reach,
    sentinels: bool,
    tenant: TenantId,
    sql: String,
    values: Vec<Value>,
    /// Whether the time of the last write bounds it, and the list's index is what it is read from.
    since: bool,
}

impl<'a> Filter<'a> {
    /// `few` says that an agent's sessions are to be found by its prefix.
    fn new(keys: &TenantKeys, reach: &'a Reach, query: &ListQuery, few: bool) -> Self {
        let tenant = || blob(keys.tenant().as_bytes());
        let mut filter = Self {
            reach,
            sentinels: query.sentinels,
            tenant: keys.tenant(),
            // Left alone, the planner walks every session in the order of the list for the few that bear the label.
            sql: match query.label {
                Some(_) => "sessions s INDEXED BY sessions_by_label WHERE s.tenant = ?".to_owned(),
                None => "sessions s WHERE s.tenant = ?".to_owned(),
            },
            values: Vec::new(),
            since: query.active_since.is_some() && query.label.is_none(),
        };
        match reach {
            Reach::Nothing => filter.and(" AND false", [tenant()]),
            Reach::Everything => filter.values.push(tenant()),
            Reach::Agent(agent) if few => filter.under(keys, [&["agent", agent.as_str()][..]]),
            Reach::Agent(agent) => {
                filter.values.push(tenant());
                filter.and(" AND s.agent_tag = ?", [Value::Integer(agent_tag(keys, agent))]);
            }
            Reach::Prefixes(prefixes) => {
                let prefixes: Vec<Vec<&str>> =
                    prefixes.iter().map(|prefix| prefix.segments().iter().map(String::as_str).collect()).collect();
                filter.under(keys, prefixes.iter().map(Vec::as_slice));
            }
        }
        match query.archived {
            Archived::Exclude => filter.and(" AND s.archived = 0", []),
            Archived::Only => filter.and(" AND s.archived = 1", []),
            Archived::Include => {}
        }
        if !query.sentinels {
            filter.and(" AND s.sentinel = 0", []);
        }
        if let Some(label) = &query.label {
            filter.and(" AND s.label_hash = ?", [blob(&keys.label_hash(label))]);
        }
        if let Some(since) = query.active_since {
            filter.and(" AND s.updated_at >= ?", [Value::Integer(since.0)]);
        }
        filter
    }

    fn and(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    /// Only sessions under these prefixes. A cross join keeps its order: from the few sessions under the prefixes to their
    /// rows, and not through every session of the tenant.
    fn under<'p>(&mut self, keys: &TenantKeys, prefixes: impl IntoIterator<Item = &'p [&'p str]>) {
        let hashes: Vec<Value> =
            prefixes.into_iter().map(|prefix| blob(&keys.prefix_hash(prefix.iter().copied()))).collect();
        let tenant = blob(keys.tenant().as_bytes());
        self.sql = format!(
            "(SELECT DISTINCT x.session AS session FROM session_prefixes x
                 WHERE x.tenant = ? AND x.prefix_hash IN ({})) own
             CROSS JOIN sessions s WHERE s.session = own.session AND s.tenant = ?",
            vec!["?"; hashes.len()].join(", ")
        );
        self.values = [vec![tenant.clone()], hashes, vec![tenant]].concat();
        self.since = false;
    }

    fn count(&self, conn: &Connection) -> Result<u64, StoreError> {
        // With the flag named, the index leads to the sessions of the time alone.
        let parts = if self.since { " AND s.pinned IN (0, 1)" } else { "" };
        let total: i64 = conn
            .prepare_cached(&format!("SELECT count(*) FROM {}{parts}", self.sql))?
            .query_row(params_from_iter(&self.values), |row| row.get(0))?;
        Ok(total.unsigned_abs())
    }

    /// Answered from the index, except for the rows of the page itself.
    fn plain(
        &self,
        conn: &Connection,
        vault: &Vault,
        query: &ListQuery,
        total: u64,
    ) -> Result<SessionPage, StoreError> {
        let mut page = SessionPage { rows: Vec::new(), total };
        self.each(conn, vault, query.offset, Some(query.limit), |session| page.rows.push(row(session)))?;
        Ok(page)
    }

    /// Opens every candidate: what is searched is sealed. `text` is in lower case.
    fn search(
        &self,
        conn: &Connection,
        vault: &Vault,
        query: &ListQuery,
        text: &str,
    ) -> Result<SessionPage, StoreError> {
        let mut page = SessionPage { rows: Vec::new(), total: 0 };
        self.each(conn, vault, 0, None, |session| {
            if holds(session.record.key().as_str(), &session.meta, text) {
                if page.total >= u64::from(query.offset) && page.rows.len() < query.limit as usize {
                    page.rows.push(row(session));
                }
                page.total += 1;
            }
        })?;
        Ok(page)
    }

    fn each(
        &self,
        conn: &Connection,
        vault: &Vault,
        offset: u32,
        limit: Option<u32>,
        mut visit: impl FnMut(Session),
    ) -> Result<(), StoreError> {
        // Rows are read one by one, so that a damaged one hides no other.
        let ids = self.ids(conn, u64::from(offset), limit.map(u64::from))?;
        for id in ids {
            let found = SessionRaw::find(conn, self.tenant, SessionId::from_bytes(id));
            let opened = found.and_then(|raw| raw.map(|raw| raw.open(vault)).transpose());
            let Some(session) = intact(opened)?.flatten() else { continue };
            let key = session.record.key().clone();
            if let Some(session) = within(self.reach, &key, session)
                && (self.sentinels || !key.is_sentinel())
            {
                visit(session);
            }
        }
        Ok(())
    }

    /// The candidates in the order of the list, from an index alone.
    fn ids(&self, conn: &Connection, offset: u64, limit: Option<u64>) -> Result<Vec<[u8; 16]>, StoreError> {
        let read = |part: &str, offset: u64, limit: Option<u64>| {
            let limit = limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
            let sql = format!(
                "SELECT s.session FROM {}{part}
                 ORDER BY s.pinned DESC, s.updated_at DESC, s.session LIMIT {limit} OFFSET {offset}",
                self.sql
            );
            let mut statement = conn.prepare(&sql)?;
            let ids = statement.query_map(params_from_iter(&self.values), |row| row.get(0))?;
            ids.collect::<Result<Vec<_>, rusqlite::Error>>()
        };
        if !self.since {
            return Ok(read("", offset, limit)?);
        }
        // Each part ends where its time ends; read as one, the first would be followed to the last session there is.
        let end = limit.map(|limit| offset.saturating_add(limit));
        let mut ids = read(" AND s.pinned = 1", 0, end)?;
        ids.extend(read(" AND s.pinned = 0", 0, end.map(|end| end - ids.len() as u64))?);
        ids.drain(..ids.len().min(usize::try_from(offset).unwrap_or(usize::MAX)));
        Ok(ids)
    }
}

fn row(session: Session) -> SessionRow {
    SessionRow { record: session.record, meta: session.meta, updated_at: session.updated_at }
}

/// Whether key, label, display name or title contains the lower-case text.
fn holds(key: &str, meta: &SessionMeta, text: &str) -> bool {
    [Some(key), meta.label.as_deref(), meta.display_name.as_deref(), meta.derived_title.as_deref()]
        .into_iter()
        .flatten()
        .any(|field| field.to_lowercase().contains(text))
}

fn blob(bytes: &[u8]) -> Value {
    Value::Blob(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> KeyPrefix {
        KeyPrefix::from_segments(text.split(':').filter(|s| !s.is_empty()).map(str::to_owned).collect())
    }

    fn reach(granted: &[&str], agent: Option<&str>) -> Reach {
        let granted: Vec<_> = granted.iter().map(|text| prefix(text)).collect();
        meet(granted.iter(), agent)
    }

    #[test]
    fn a_list_never_reaches_beyond_the_grants() {
        assert_eq!(reach(&[], None), Reach::Nothing);
        assert_eq!(reach(&["agent:main:user:al"], Some("ops")), Reach::Nothing);
        assert_eq!(reach(&["agent:ops"], Some("op")), Reach::Nothing);
        let own = || Reach::Prefixes(vec![prefix("agent:main:user:al")]);
        assert_eq!(reach(&["agent:main:user:al", "agent:main:user:al"], None), own());
        assert_eq!(reach(&["agent:main:user:al", "agent:ops:user:al"], Some("main")), own());
    }

    #[test]
    fn an_agent_narrows_a_wider_grant() {
        assert_eq!(reach(&[""], None), Reach::Everything);
        for granted in ["", "agent", "agent:ops"] {
            assert_eq!(reach(&[granted, "agent:main:x"], Some("ops")), Reach::Agent("ops".to_owned()));
        }
    }
}
