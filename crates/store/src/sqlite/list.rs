//! Lists of sessions: the caller's grants met with the query, pinned first, then the latest written first.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
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
    let Some(filter) = Filter::new(keys, reach, query) else {
        return Ok(SessionPage { rows: Vec::new(), total: 0 });
    };
    match &query.search {
        Some(text) => filter.search(conn, vault, query, &text.to_lowercase()),
        None => filter.plain(conn, vault, query),
    }
}

/// Whether the query opens every session it reaches: what is searched is sealed.
pub(super) fn is_scan(query: &ListQuery) -> bool {
    query.search.is_some() && query.label.is_none()
}

/// Which sessions to look at, by plain columns: FROM and WHERE with their parameters.
struct Filter<'a> {
    reach: &'a Reach,
    sentinels: bool,
    tenant: TenantId,
    sql: String,
    values: Vec<Value>,
}

impl<'a> Filter<'a> {
    fn new(keys: &TenantKeys, reach: &'a Reach, query: &ListQuery) -> Option<Self> {
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
        };
        match reach {
            Reach::Nothing => return None,
            Reach::Everything => filter.values.push(tenant()),
            Reach::Agent(agent) => {
                filter.values.push(tenant());
                filter.and(" AND s.agent_tag = ?", [Value::Integer(agent_tag(keys, agent))]);
            }
            Reach::Prefixes(prefixes) => {
                let marks = vec!["?"; prefixes.len()].join(", ");
                // A cross join keeps its order: from the few sessions under the prefixes to their rows, and not
                // through every session of the tenant.
                filter.sql = format!(
                    "(SELECT DISTINCT x.session AS session FROM session_prefixes x
                         WHERE x.tenant = ? AND x.prefix_hash IN ({marks})) own
                     CROSS JOIN sessions s WHERE s.session = own.session AND s.tenant = ?"
                );
                filter.values.push(tenant());
                filter.values.extend(
                    prefixes.iter().map(|prefix| blob(&keys.prefix_hash(prefix.segments().iter().map(String::as_str)))),
                );
                filter.values.push(tenant());
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
        Some(filter)
    }

    fn and(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    /// Answered from the index, except for the rows of the page itself.
    fn plain(&self, conn: &Connection, vault: &Vault, query: &ListQuery) -> Result<SessionPage, StoreError> {
        let total: i64 = conn
            .prepare_cached(&format!("SELECT count(*) FROM {}", self.sql))?
            .query_row(params_from_iter(&self.values), |row| row.get(0))?;
        let mut page = SessionPage { rows: Vec::new(), total: total.unsigned_abs() };
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
        // The index alone gives the order; rows are read one by one, so that a damaged one hides no other.
        let limit = limit.map_or(-1, i64::from);
        let sql = format!(
            "SELECT s.session FROM {}
             ORDER BY s.pinned DESC, s.updated_at DESC, s.session LIMIT {limit} OFFSET {offset}",
            self.sql
        );
        let ids: Vec<[u8; 16]> = conn
            .prepare(&sql)?
            .query_map(params_from_iter(&self.values), |row| row.get(0))?
            .collect::<Result<_, _>>()?;
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
