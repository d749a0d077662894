//! Reading sessions: transcripts, lists, descriptions.

use std::sync::Arc;
use std::time::Duration;

use watertight_core::grant::Verb;
use watertight_core::ids::{EntryId, Seq};
use watertight_core::key::CanonicalKey;
use watertight_core::session::SessionStatus;
use watertight_core::transcript::Entry;
use watertight_store::model::{Archived, ListQuery, SessionRow};

use super::{DEFAULT_LIST_LIMIT, Engine, SessionFilter, agent_of};
use crate::actor::live::Live;
use crate::admission::Access;
use crate::error::EngineError;
use crate::request::{Cursor, HistoryQuery, Selector, Target};
use crate::transcript::{self, Extent};
use crate::view::{Changes, History, SessionList, SessionView};

/// Entries of one answer to what a client missed, at the most.
const MAX_CHANGES: u32 = 1_000;

impl Engine {
    /// A page of the session's live generation. A session that does not exist yet is empty.
    pub async fn history(&self, access: &Access, target: &Target, query: HistoryQuery) -> Result<History, EngineError> {
        let key = self.key_of(access, target)?;
        let Some(scope) = self.inner.shared.admission.existing(access, Verb::Read, &key).await? else {
            let session = self.unborn(access, &key);
            return Ok(History {
                session,
                entries: Vec::new(),
                total: 0,
                newest: Seq(0),
                has_more: false,
                in_flight: None,
            });
        };
        let store = &self.inner.shared.store;
        let row = store.describe(&scope).await?;
        let live = self.live(&row);
        let generation = row.record.generation_no();
        let extent = |limit, skip| Extent { limit, skip, max_bytes: query.max_bytes };
        let entries = transcript::tail(&**store, &scope, generation, extent(query.limit.max(1), query.offset)).await?;
        let end = |entries: &[Entry]| entries.last().map_or((0, Seq(0)), |entry| (entry.message_seq, entry.seq));
        let (total, newest) = match query.offset {
            0 => end(&entries),
            _ => end(&transcript::tail(&**store, &scope, generation, extent(1, 0)).await?),
        };
        let has_more = entries.first().is_some_and(|entry| entry.message_seq > 1);
        let in_flight = live.as_ref().and_then(|live| live.in_flight());
        let session = self.view(access, row);
        Ok(History { session, entries, total, newest, has_more, in_flight })
    }

    /// What was added to the session's live generation after `cursor`: at most `limit` entries and about `max_bytes` of
    /// content, but at least one entry where there is any. A client that listens first and asks then misses nothing:
    /// what it hears twice has the same `seq`.
    pub async fn changes(
        &self,
        access: &Access,
        target: &Target,
        cursor: &Cursor,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Changes, EngineError> {
        let key = self.key_of(access, target)?;
        let Some(scope) = self.inner.shared.admission.existing(access, Verb::Read, &key).await? else {
            return Ok(Changes::Reset);
        };
        if *scope.generation() != cursor.generation {
            return Ok(Changes::Reset);
        }
        let store = &self.inner.shared.store;
        let row = store.describe(&scope).await?;
        let live = self.live(&row);
        let newest = transcript::tail(&**store, &scope, scope.generation_no(), Extent::last()).await?;
        // A cursor beyond the end is of a transcript that was longer once, or made up.
        if cursor.seq > newest.last().map_or(Seq(0), |entry| entry.seq) {
            return Ok(Changes::Reset);
        }
        let extent = Extent { limit: limit.clamp(1, MAX_CHANGES), skip: 0, max_bytes };
        let entries = transcript::since(&**store, &scope, scope.generation_no(), cursor.seq, extent).await?;
        let has_more = match (entries.last(), newest.last()) {
            (Some(read), Some(newest)) => read.seq < newest.seq,
            _ => false,
        };
        let in_flight = live.as_ref().and_then(|live| live.in_flight());
        Ok(Changes::Since { session: Box::new(self.view(access, row)), entries, has_more, in_flight })
    }

    /// One entry of a session, of any of its generations.
    pub async fn entry(&self, access: &Access, target: &Target, id: EntryId) -> Result<Option<Entry>, EngineError> {
        let key = self.key_of(access, target)?;
        match self.inner.shared.admission.existing(access, Verb::Read, &key).await? {
            Some(scope) => Ok(self.inner.shared.store.entry(&scope, id).await?),
            None => Ok(None),
        }
    }

    /// Sessions the caller may read.
    pub async fn list(&self, access: &Access, filter: SessionFilter) -> Result<SessionList, EngineError> {
        let now = self.inner.shared.clock.now();
        let agent = match &filter.agent {
            Some(text) => Some(access.rules().agent(text)?.clone()),
            None => None,
        };
        let since = |within: Duration| now.plus_millis(-i64::try_from(within.as_millis()).unwrap_or(i64::MAX));
        let query = ListQuery {
            now,
            agent,
            active_since: filter.active_within.map(since),
            search: filter.search,
            label: filter.label,
            archived: filter.archived,
            sentinels: filter.sentinels,
            limit: if filter.limit == 0 { DEFAULT_LIST_LIMIT } else { filter.limit },
            offset: filter.offset,
        };
        let page = self.inner.shared.admission.list(access, query).await?;
        let sessions = page.rows.into_iter().map(|row| self.view(access, row)).collect();
        Ok(SessionList { sessions, total: page.total })
    }

    /// One session; `None` where it does not exist.
    pub async fn describe(&self, access: &Access, target: &Target) -> Result<Option<SessionView>, EngineError> {
        let key = self.key_of(access, target)?;
        self.describe_key(access, &key).await
    }

    async fn describe_key(&self, access: &Access, key: &CanonicalKey) -> Result<Option<SessionView>, EngineError> {
        match self.inner.shared.admission.existing(access, Verb::Read, key).await? {
            Some(scope) => {
                let row = self.inner.shared.store.describe(&scope).await?;
                Ok(Some(self.view(access, row)))
            }
            None => Ok(None),
        }
    }

    /// An existing session; `None` where nothing the caller may read matches.
    ///
    /// By generation, only live ones match; of several, the one whose key ends in the id wins, then the latest
    /// written, and a tie matches nothing (sessions.md §2.4).
    pub async fn find(
        &self,
        access: &Access,
        selector: &Selector,
        agent: Option<&str>,
    ) -> Result<Option<SessionView>, EngineError> {
        match selector {
            Selector::Key(text) => {
                let key = self.resolve_key(access, text, agent)?;
                self.describe_key(access, &key).await
            }
            Selector::Generation(id) => {
                let agent = match agent {
                    Some(text) => Some(access.rules().agent(text)?.clone()),
                    None => None,
                };
                let mut hits = self.inner.shared.admission.holding(access, id).await?;
                hits.retain(|hit| {
                    hit.live && agent.as_ref().is_none_or(|agent| access.rules().owner(&hit.key) == Some(agent))
                });
                let ending = format!(":{id}");
                hits.sort_by_key(|hit| std::cmp::Reverse((hit.key.as_str().ends_with(&ending), hit.updated_at)));
                let rank = |at: usize| hits.get(at).map(|hit| (hit.key.as_str().ends_with(&ending), hit.updated_at));
                match hits.first() {
                    Some(hit) if rank(0) != rank(1) => self.describe_key(access, &hit.key).await,
                    _ => Ok(None),
                }
            }
            Selector::Label(label) => {
                let filter = SessionFilter {
                    agent: agent.map(str::to_owned),
                    label: Some(label.clone()),
                    archived: Archived::Include,
                    sentinels: true,
                    limit: 1,
                    ..SessionFilter::default()
                };
                Ok(self.list(access, filter).await?.sessions.into_iter().next())
            }
        }
    }

    fn live(&self, row: &SessionRow) -> Option<Arc<Live>> {
        self.inner.registry.live(row.record.tenant(), row.record.id())
    }

    fn view(&self, access: &Access, row: SessionRow) -> SessionView {
        let active_runs = self.live(&row).map(|live| live.runs()).unwrap_or_default();
        let SessionRow { record, mut meta, updated_at } = row;
        let mut view = self.unborn(access, record.key());
        let open = matches!(meta.status, SessionStatus::Running | SessionStatus::Queued);
        let former = updated_at < self.inner.opened_at;
        let pending = self.inner.shared.recovery.is_pending((record.tenant(), record.id()));
        if open && active_runs.is_empty() && former && !pending {
            // A former process left the run open, and it could not be taken up.
            meta.status = SessionStatus::Failed;
        } else if !open && !active_runs.is_empty() {
            meta.status = SessionStatus::Running;
        }
        view.generation = Some(record.generation().clone());
        view.created_at = Some(record.created_at());
        view.updated_at = Some(updated_at);
        view.meta = meta;
        view.active_runs = active_runs;
        view
    }

    /// The view of a session that does not exist yet. Sessions of agents that are no longer configured still show.
    fn unborn(&self, access: &Access, key: &CanonicalKey) -> SessionView {
        let agent = agent_of(access, key).unwrap_or_else(|_| key.agent().unwrap_or_default().to_owned());
        let model = &self.inner.shared.catalog.agent(&agent).model;
        SessionView {
            key: key.clone(),
            is_main: self.is_main(access, key, &agent),
            generation: None,
            meta: Default::default(),
            created_at: None,
            updated_at: None,
            active_runs: Vec::new(),
            model: model.names(),
            context_tokens: model.context_tokens,
            agent,
        }
    }
}
