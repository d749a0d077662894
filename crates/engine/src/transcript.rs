//! Reading a part of a transcript without reading more of it than is wanted.

use watertight_core::SessionScope;
use watertight_core::ids::{GenerationNo, Seq};
use watertight_core::transcript::Entry;
use watertight_store::model::EntryRange;
use watertight_store::{Store, StoreError};

use crate::prompt;

/// Entries read at a time: few enough that a page of the largest messages still fits in memory.
const PAGE: u32 = 64;

/// How much of a transcript to read.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// Entries at the most.
    pub(crate) limit: u32,
    /// How many of the newest to leave out.
    pub(crate) skip: u32,
    /// Bytes of content at the most. The first entry read counts whatever its size.
    pub(crate) max_bytes: usize,
}

impl Extent {
    /// The newest entry.
    pub(crate) fn last() -> Self {
        Self { limit: 1, skip: 0, max_bytes: 0 }
    }
}

/// The newest entries of a generation that fit, oldest first.
pub(crate) async fn tail(
    store: &dyn Store,
    scope: &SessionScope,
    generation: GenerationNo,
    extent: Extent,
) -> Result<Vec<Entry>, StoreError> {
    let mut newest_first: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    while let Some(left) = extent.limit.checked_sub(newest_first.len() as u32).filter(|left| *left > 0) {
        let limit = left.min(PAGE);
        // The session may be written between two pages: only the first counts from its end.
        let range = match newest_first.last() {
            None => EntryRange::Tail { limit, skip: extent.skip },
            Some(oldest) => EntryRange::Before { before: oldest.message_seq, limit },
        };
        let page = store.entries(scope, generation, range).await?;
        let whole = page.len() == limit as usize;
        for entry in page.into_iter().rev() {
            bytes += prompt::size(&entry.body.message);
            if bytes > extent.max_bytes && !newest_first.is_empty() {
                newest_first.reverse();
                return Ok(newest_first);
            }
            newest_first.push(entry);
        }
        if !whole {
            break;
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// The entries of a generation after `after` that fit, oldest first; the first is read whatever its size.
pub(crate) async fn since(
    store: &dyn Store,
    scope: &SessionScope,
    generation: GenerationNo,
    after: Seq,
    extent: Extent,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    while let Some(left) = extent.limit.checked_sub(entries.len() as u32).filter(|left| *left > 0) {
        let limit = left.min(PAGE);
        let after = entries.last().map_or(after, |entry| entry.seq);
        let page = store.entries(scope, generation, EntryRange::After { after, limit }).await?;
        let whole = page.len() == limit as usize;
        for entry in page {
            bytes += prompt::size(&entry.body.message);
            if bytes > extent.max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
        }
        if !whole {
            break;
        }
    }
    Ok(entries)
}
