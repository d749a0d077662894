//! Transcript entries.

use rusqlite::Row;
use watertight_core::ids::{EntryId, GenerationNo, Seq, UnixMillis};
use watertight_core::transcript::{Entry, EntryBody, Role};
use watertight_seal::chain::{self, Chain};
use watertight_seal::record::Place;

use super::{Ending, RecordSite, unsigned};
use crate::StoreError;

/// An entry's row as it stands in the database, with the link of its neighbour before.
pub(in crate::sqlite) struct EntryRaw {
    pub(in crate::sqlite) seq: u64,
    pub(in crate::sqlite) message_seq: u32,
    generation: u32,
    entry: EntryId,
    lifecycle: u32,
    role: u8,
    at: i64,
    body: Vec<u8>,
    chain: [u8; 32],
    previous: Option<[u8; 32]>,
    /// Whether the session's next entry is there.
    pub(in crate::sqlite) followed: bool,
}

impl EntryRaw {
    /// Columns of an entry `e` with its neighbours, for [`Self::read`]; add a WHERE.
    pub(in crate::sqlite) const SELECT: &str =
        "SELECT e.seq, e.generation, e.message_seq, e.entry, e.lifecycle, e.role, e.at,
            e.body, e.chain,
            (SELECT p.chain FROM entries p WHERE p.tenant = e.tenant AND p.session = e.session AND p.seq = e.seq - 1),
            EXISTS (SELECT 1 FROM entries n WHERE n.tenant = e.tenant AND n.session = e.session AND n.seq = e.seq + 1)
        FROM entries e";

    /// The same without the neighbours, for who reads every entry in order; such a row has no [`Self::open`].
    pub(in crate::sqlite) const SELECT_ALONE: &str =
        "SELECT e.seq, e.generation, e.message_seq, e.entry, e.lifecycle, e.role, e.at, e.body, e.chain, NULL, 0
        FROM entries e";

    pub(in crate::sqlite) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: unsigned(row, 0)?,
            generation: row.get(1)?,
            message_seq: row.get(2)?,
            entry: EntryId::from_bytes(row.get(3)?),
            lifecycle: row.get(4)?,
            role: row.get(5)?,
            at: row.get(6)?,
            body: row.get(7)?,
            chain: row.get(8)?,
            previous: row.get(9)?,
            followed: row.get(10)?,
        })
    }

    /// Checks the link to the entry before and opens the body in its place.
    pub(in crate::sqlite) fn open(self, site: &RecordSite<'_>, chain: &Chain) -> Result<Entry, StoreError> {
        let previous = match self.seq {
            1 => chain::START,
            _ => self.previous.ok_or(StoreError::Integrity("missing entry"))?,
        };
        if !self.follows(&previous, chain) {
            return Err(StoreError::Integrity("entry chain"));
        }
        let body = self.body(site)?;
        Ok(Entry {
            id: self.entry,
            seq: Seq(self.seq),
            generation: GenerationNo(self.generation),
            message_seq: self.message_seq,
            at: UnixMillis(self.at),
            body,
        })
    }

    /// Whether its link is the one after `previous`.
    pub(in crate::sqlite) fn follows(&self, previous: &[u8; 32], chain: &Chain) -> bool {
        chain::same(&chain.link(previous, self.seq, &self.body), &self.chain)
    }

    /// Opens the body in its place.
    pub(in crate::sqlite) fn body(&self, site: &RecordSite<'_>) -> Result<EntryBody, StoreError> {
        let row = entry_row(self.entry, self.message_seq, self.at);
        site.json(&entry_place(&row, self.lifecycle, self.generation, self.seq, self.role), &self.body)
    }

    /// Its id.
    pub(in crate::sqlite) fn id(&self) -> EntryId {
        self.entry
    }

    /// Its generation.
    pub(in crate::sqlite) fn generation(&self) -> u32 {
        self.generation
    }

    /// Where its generation ends if it is the last.
    pub(in crate::sqlite) fn ending(&self) -> Ending {
        Ending { message_seq: self.message_seq, leaf: Some(self.entry) }
    }

    /// The chain up to and with this entry.
    pub(in crate::sqlite) fn chain(&self) -> &[u8; 32] {
        &self.chain
    }
}

/// The row name of an entry: its id and the plain columns beside the sealed body.
pub(in crate::sqlite) fn entry_row(entry: EntryId, message_seq: u32, at: i64) -> Vec<u8> {
    [&entry.as_bytes()[..], &message_seq.to_le_bytes(), &at.to_le_bytes()].concat()
}

/// Where an entry's body stands.
pub(in crate::sqlite) fn entry_place(row: &[u8], lifecycle: u32, generation: u32, seq: u64, role: u8) -> Place<'_> {
    Place { lifecycle, generation, table: "entries", column: "body", row, seq, role }
}

/// The stored form of a role.
pub(in crate::sqlite) fn role(role: Role) -> u8 {
    role as u8
}
