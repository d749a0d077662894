//! The newest entries of the live generation, as far as a prompt can use them.

use std::sync::Arc;

use watertight_core::ids::EntryId;
use watertight_core::transcript::Entry;

use crate::prompt;

/// Oldest first; bounded in number and bytes, except that entries of turns that have not ended stay.
#[derive(Default)]
pub(super) struct Recent {
    entries: Vec<Arc<Entry>>,
    bytes: usize,
}

impl Recent {
    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Bytes of content held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds entries and lets go of the oldest. `open` tells whether a turn, named by its input, has not ended; the
    /// entries added now stay in any case.
    pub(super) fn extend(&mut self, new: impl IntoIterator<Item = Entry>, open: impl Fn(EntryId) -> bool) {
        let old = self.entries.len();
        for entry in new {
            self.bytes += prompt::size(&entry.body.message);
            self.entries.push(Arc::new(entry));
        }
        let mut surplus = 0;
        while surplus < old
            && (self.bytes > prompt::MAX_BYTES || self.entries.len() - surplus > prompt::MAX_ENTRIES as usize)
            && !self.entries[surplus].body.turn.is_some_and(&open)
        {
            self.bytes -= prompt::size(&self.entries[surplus].body.message);
            surplus += 1;
        }
        self.entries.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::{GenerationNo, Seq, UnixMillis};
    use watertight_core::transcript::{Block, EntryBody, Message, Provenance};

    fn entry(text: String) -> Entry {
        Entry {
            id: EntryId::from_bytes([0; 16]),
            seq: Seq(1),
            generation: GenerationNo(1),
            message_seq: 1,
            at: UnixMillis(0),
            body: EntryBody {
                message: Message::User { content: vec![Block::from_text(text)] },
                provenance: Provenance::Gateway,
                parent: None,
                run: None,
                turn: Some(EntryId::from_bytes([7; 16])),
            },
        }
    }

    #[test]
    fn old_entries_go_when_there_are_too_many_or_too_large_ones() {
        let mut recent = Recent::default();
        for n in 0..prompt::MAX_ENTRIES + 5 {
            recent.extend([entry(n.to_string())], |_| false);
        }
        assert_eq!(recent.entries().len(), prompt::MAX_ENTRIES as usize);
        assert_eq!(recent.entries()[0].body.message.text(), "5");
        recent.extend([entry("x".repeat(prompt::MAX_BYTES + 1))], |_| false);
        assert_eq!(recent.entries().len(), 1, "what was just added stays whatever its size");
        recent.extend([entry("small".into())], |_| false);
        assert_eq!((recent.entries().len(), recent.bytes()), (1, 5));
    }

    #[test]
    fn entries_of_open_turns_stay() {
        let mut recent = Recent::default();
        recent.extend([entry("the input of the turn under way".into())], |_| true);
        recent.extend([entry("x".repeat(prompt::MAX_BYTES))], |_| true);
        recent.extend([entry("y".repeat(prompt::MAX_BYTES))], |_| true);
        assert_eq!(recent.entries().len(), 3);
    }
}
