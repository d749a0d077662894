//! The newest entries of the live generation, as far as a prompt can use them.

use std::sync::Arc;

use watertight_core::transcript::Entry;

use crate::prompt;

/// Oldest first; bounded in number and bytes, except that the newest entry always stays.
#[derive(Default)]
pub(super) struct Recent {
    entries: Vec<Arc<Entry>>,
    bytes: usize,
}

impl Recent {
    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    pub(super) fn extend(&mut self, new: impl IntoIterator<Item = Entry>) {
        for entry in new {
            self.bytes += prompt::size(&entry.body.message);
            self.entries.push(Arc::new(entry));
        }
        let mut surplus = 0;
        while surplus + 1 < self.entries.len()
            && (self.bytes > prompt::MAX_BYTES || self.entries.len() - surplus > prompt::MAX_ENTRIES as usize)
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
    use watertight_core::ids::{EntryId, GenerationNo, Seq, UnixMillis};
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
            },
        }
    }

    #[test]
    fn old_entries_go_when_there_are_too_many_or_too_large_ones() {
        let mut recent = Recent::default();
        recent.extend((0..prompt::MAX_ENTRIES + 5).map(|n| entry(n.to_string())));
        assert_eq!(recent.entries().len(), prompt::MAX_ENTRIES as usize);
        assert_eq!(recent.entries()[0].body.message.text(), "5");
        recent.extend([entry("x".repeat(prompt::MAX_BYTES + 1))]);
        assert_eq!(recent.entries().len(), 1, "the newest stays whatever its size");
        recent.extend([entry("small".into())]);
        assert_eq!(recent.entries()[0].body.message.text(), "small");
    }
}
