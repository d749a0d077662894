//! What checkpoints say that the store holds, it holds.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use rusqlite::OptionalExtension;
use watertight_core::Steward;
use watertight_core::ids::{SessionId, TenantId};
use watertight_seal::chain;

use super::Verifier;
use crate::StoreError;
use crate::checkpoint::{Checkpoint, HeadAt, MAX_LINE};
use crate::sqlite::heads;
use crate::verification::{Problem, Report, VerifyError};

/// A session as the last checkpoint that names it saw it.
struct Seen {
    number: u64,
    head: HeadAt,
}

impl Verifier {
    /// Compares the store with the checkpoints in `lines`, oldest first. Finds an older copy of the whole store, and of
    /// each session that is named.
    pub fn compare(
        &self,
        _steward: &Steward,
        name: &str,
        lines: impl BufRead,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let unreadable = |error: io::Error| VerifyError::Checkpoints(format!("{name} cannot be read: {error}"));
        let (mut seen, mut last) = (HashMap::new(), None::<(Checkpoint, [u8; 32])>);
        let mut lines = lines;
        let mut line = String::new();
        let mut row = 0_u64;
        loop {
            line.clear();
            let limit = MAX_LINE as u64 + 1;
            if Read::by_ref(&mut lines).take(limit).read_line(&mut line).map_err(unreadable)? == 0 {
                break;
            }
            row += 1;
            // A kill may have cut the last one.
            let Some(text) = line.strip_suffix('\n') else {
                if line.len() > MAX_LINE {
                    return Err(VerifyError::Checkpoints(format!("{name}, line {row} is too long for a checkpoint")));
                }
                break;
            };
            let text = text.trim_end();
            if text.is_empty() {
                continue;
            }
            let opened = Checkpoint::open(text, &self.vault.signer());
            let Some((checkpoint, mac)) = opened.filter(|(found, _)| found.store == self.vault.store_id()) else {
                report.push(of_store(format!("{name}, line {row} is not a checkpoint of this store, or was changed")));
                continue;
            };
            if let Some((before, before_mac)) = &last
                && checkpoint.previous != Some(*before_mac)
            {
                report.push(of_store(format!(
                    "{name}, line {row}: checkpoint {} does not follow checkpoint {}",
                    checkpoint.number, before.number
                )));
            }
            report.checkpoints += 1;
            for (tenant, session, head) in &checkpoint.sessions {
                seen.insert((*tenant, *session), Seen { number: checkpoint.number, head: *head });
            }
            last = Some((checkpoint, mac));
        }
        let Some((last, _)) = last else {
            return Err(VerifyError::Checkpoints(format!("{name} holds no checkpoint of this store")));
        };
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_by_key(|(at, _)| *at);
        for ((tenant, session), seen) in seen {
            self.compare_session(tenant, session, &seen, report)?;
        }
        self.compare_all(&last, report)?;
        Ok(())
    }

    fn compare_session(
        &self,
        tenant: TenantId,
        session: SessionId,
        seen: &Seen,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        // It may have been destroyed after the checkpoint; what a copy of the store brings back does not open.
        if self.vault.is_shredded(tenant, session)? {
            return Ok(());
        }
        let head: Option<i64> = self
            .conn
            .prepare_cached("SELECT head_seq FROM sessions WHERE tenant = ?1 AND session = ?2")?
            .query_row((tenant.as_bytes(), session.as_bytes()), |row| row.get(0))
            .optional()?;
        let number = seen.number;
        let found = match (seen.head, head) {
            (None, None) => return Ok(()),
            (None, Some(_)) => (None, format!("it is back, but checkpoint {number} saw it destroyed")),
            (Some((seq, _)), None) => {
                (Some(seq), format!("the session is gone that checkpoint {number} saw up to here"))
            }
            (Some((seq, _)), Some(head)) if head.unsigned_abs() < seq => (
                Some(seq),
                format!("the session is an older copy: it ends at entry {head}, checkpoint {number} saw it up to here"),
            ),
            (Some((seq, sum)), Some(_)) => {
                let place = i64::try_from(seq).unwrap_or(i64::MAX);
                let stored: Option<Vec<u8>> = self
                    .conn
                    .prepare_cached("SELECT chain FROM entries WHERE tenant = ?1 AND session = ?2 AND seq = ?3")?
                    .query_row((tenant.as_bytes(), session.as_bytes(), place), |row| row.get(0))
                    .optional()?;
                match stored {
                    Some(stored) if chain::same(&stored, &sum) => return Ok(()),
                    Some(_) => {
                        (Some(seq), format!("the entry, or one before it, is not the one that checkpoint {number} saw"))
                    }
                    None => (Some(seq), format!("the entry is gone that checkpoint {number} saw")),
                }
            }
        };
        let (seq, what) = found;
        let tenant = self.tenants.iter().find(|known| known.id == tenant).map(|known| known.name.clone());
        report.push(Problem { tenant, session: Some(session), key: None, seq, receipt: None, what });
        Ok(())
    }

    fn compare_all(&self, last: &Checkpoint, report: &mut Report) -> Result<(), StoreError> {
        let transaction = self.conn.unchecked_transaction()?;
        let (opens, clean): (i64, bool) =
            self.conn.query_row("SELECT opens, clean FROM store WHERE id = 1", [], |row| row.try_into())?;
        let number = last.number;
        if opens < last.opens {
            report.push(of_store(format!(
                "the whole store is an older copy: it was opened {opens} times, and checkpoint {number} is of opening {}",
                last.opens
            )));
        }
        // Nothing was written between that checkpoint and the store's end, and nothing since.
        let same_moment = last.end && clean && opens == last.opens;
        if same_moment && heads::sum(&self.conn, &self.vault.signer())?.to_bytes() != last.sum {
            report.push(of_store(format!(
                "the sessions as a whole are not those that checkpoint {number} saw: one that is named in no line here is an \
                 older copy, or gone"
            )));
        }
        transaction.finish()?;
        Ok(())
    }
}

fn of_store(what: String) -> Problem {
    Problem { tenant: None, session: None, key: None, seq: None, receipt: None, what }
}
