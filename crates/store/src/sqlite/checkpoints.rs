//! Signed checkpoints of everything the store holds (isolation.md §2.8).

use std::sync::OnceLock;

use watertight_core::Steward;
use watertight_core::ids::UnixMillis;
use watertight_seal::checkpoint::HeadSum;

use super::rotation::blocking;
use super::{SqliteStore, heads};
use crate::StoreError;
use crate::checkpoint::Checkpoint;

/// What the checkpoints of this opening of the store have in common.
#[derive(Default)]
pub(super) struct Base(OnceLock<(HeadSum, i64)>);

impl SqliteStore {
    /// Begins to note what changes, and takes the sum over all sessions once, beside the work. Needed before
    /// [`Self::checkpoint`].
    pub async fn watch_heads(&self, _steward: &Steward) -> Result<(), StoreError> {
        let (readers, heads) = (self.readers.clone(), self.heads.clone());
        // On the writer, between two commits: what is not in the snapshot is noted.
        let snapshot = self
            .writer
            .submit(move |_| {
                let conn = readers.snapshot()?;
                heads.watch();
                Ok(conn)
            })
            .await?;
        let signer = self.vault.signer();
        let found = blocking(move || {
            let opens = snapshot.query_row("SELECT opens FROM store WHERE id = 1", [], |row| row.get(0))?;
            Ok((heads::sum(&snapshot, &signer)?, opens))
        })
        .await?;
        let _ = self.base.0.set(found);
        Ok(())
    }

    /// Resolves when so much has changed that a checkpoint is due before its time.
    pub async fn much_changed(&self) {
        self.heads.many().await;
    }

    /// The next checkpoint's line and its MAC, if something changed since the last one, or as the `end` before the store
    /// is closed. It names the changes that `written` says are on disk; they are kept for the next one if not.
    pub fn checkpoint<E>(
        &self,
        _steward: &Steward,
        (number, previous): (u64, Option<[u8; 32]>),
        at: UnixMillis,
        end: bool,
        write: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<Option<[u8; 32]>, E> {
        let Some((base, opens)) = self.base.0.get() else { return Ok(None) };
        let Some(changes) = self.heads.take(end) else { return Ok(None) };
        let checkpoint = Checkpoint {
            store: self.vault.store_id(),
            number,
            at,
            opens: *opens,
            sum: base.plus(changes.sum).to_bytes(),
            sessions: changes.sessions.clone(),
            unnamed: changes.unnamed,
            end,
            previous,
        };
        let (line, mac) = checkpoint.sign(&self.vault.signer());
        match write(&line) {
            Ok(()) => Ok(Some(mac)),
            Err(error) => {
                self.heads.put_back(changes);
                Err(error)
            }
        }
    }

    /// Number and MAC of the checkpoint in this line; none when this store did not sign it.
    pub fn read_checkpoint(&self, _steward: &Steward, line: &str) -> Option<(u64, [u8; 32])> {
        let (checkpoint, mac) = Checkpoint::open(line, &self.vault.signer())?;
        (checkpoint.store == self.vault.store_id()).then_some((checkpoint.number, mac))
    }
}
