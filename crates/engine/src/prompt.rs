//! What a model is shown of a session.
//!
//! Inputs are durable the moment they are acknowledged, so the transcript of a busy session interleaves: a second
//! input may stand between a first one's tool call and its result. A model is shown runs, not arrivals: each run's
//! input followed by all that answered it, in the order of the inputs, without runs that have not begun.

use std::collections::HashMap;
use std::sync::Arc;

use watertight_core::ids::RunId;
use watertight_core::transcript::{Block, Entry, Message};

/// Entries of the live generation kept at hand, at the most.
pub(crate) const MAX_ENTRIES: u32 = 2_000;
/// Bytes of content a prompt may have, at the most; the oldest runs are left out first.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The messages to send for `run`. `begun` tells of every other run whether it has begun.
pub(crate) fn messages(entries: &[Arc<Entry>], run: &RunId, begun: impl Fn(&RunId) -> bool) -> Vec<Message> {
    let mut groups: Vec<Vec<&Entry>> = Vec::new();
    let mut group_of: HashMap<&RunId, usize> = HashMap::new();
    for entry in entries {
        match &entry.body.run {
            None => groups.push(vec![entry]),
            Some(id) if id == run || begun(id) => {
                let group = *group_of.entry(id).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                groups[group].push(entry);
            }
            Some(_) => {}
        }
    }
    let mut bytes = 0;
    let mut kept = groups
        .into_iter()
        .rev()
        .enumerate()
        .take_while(|(index, group)| {
            bytes += group.iter().map(|entry| size(&entry.body.message)).sum::<usize>();
            // The run's own group always goes out: an input too large for any prompt is the provider's to refuse.
            *index == 0 || bytes <= MAX_BYTES
        })
        .map(|(_, group)| group)
        .collect::<Vec<_>>();
    kept.reverse();
    kept.into_iter().flatten().map(|entry| entry.body.message.clone()).collect()
}

/// Bytes of content of a message, roughly as a provider will get them.
pub(crate) fn size(message: &Message) -> usize {
    let note = match message {
        Message::System { note } => note.len(),
        _ => 0,
    };
    note + message
        .content()
        .iter()
        .map(|block| match block {
            Block::Text { text } | Block::Thinking { thinking: text } => text.len(),
            Block::ToolCall(call) => call.name.len() + call.arguments.to_string().len(),
            Block::Image { data, .. } => data.len(),
        })
        .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::{EntryId, GenerationNo, Seq, UnixMillis};
    use watertight_core::transcript::{EntryBody, ModelRef, Provenance, StopReason};

    fn entry(seq: u64, run: &str, message: Message) -> Arc<Entry> {
        Arc::new(Entry {
            id: EntryId::from_bytes([u8::try_from(seq).unwrap(); 16]),
            seq: Seq(seq),
            generation: GenerationNo(1),
            message_seq: u32::try_from(seq).unwrap(),
            at: UnixMillis(0),
            body: EntryBody {
                message,
                provenance: Provenance::Gateway,
                parent: None,
                run: Some(RunId::parse(run).unwrap()),
            },
        })
    }

    fn user(text: &str) -> Message {
        Message::User { content: vec![Block::from_text(text)] }
    }

    fn answer(text: &str) -> Message {
        Message::Assistant {
            content: vec![Block::from_text(text)],
            model: ModelRef { provider: "p".into(), model: "m".into() },
            usage: None,
            stop: StopReason::Stop,
            error: None,
        }
    }

    fn texts(messages: &[Message]) -> Vec<String> {
        messages.iter().map(Message::text).collect()
    }

    #[test]
    fn runs_are_shown_whole_and_in_the_order_of_their_inputs() {
        let entries = [
            entry(1, "a", user("a in")),
            entry(2, "b", user("b in")),
            entry(3, "a", answer("a out")),
            entry(4, "b", answer("b out")),
            entry(5, "c", user("c in")),
        ];
        let all = messages(&entries, &RunId::parse("c").unwrap(), |_| true);
        assert_eq!(texts(&all), ["a in", "a out", "b in", "b out", "c in"]);
    }

    #[test]
    fn a_waiting_input_is_not_shown_to_the_run_before_it() {
        let entries = [entry(1, "a", user("a in")), entry(2, "b", user("b in"))];
        let shown = messages(&entries, &RunId::parse("a").unwrap(), |_| false);
        assert_eq!(texts(&shown), ["a in"]);
    }

    #[test]
    fn the_oldest_runs_are_left_out_when_the_prompt_is_too_large() {
        let big = "x".repeat(MAX_BYTES / 2);
        let entries = [entry(1, "a", user(&big)), entry(2, "b", user(&big)), entry(3, "c", user("c"))];
        let shown = messages(&entries, &RunId::parse("c").unwrap(), |_| true);
        assert_eq!(shown.len(), 2, "a no longer fits");
        let own = [entry(1, "a", user(&big)), entry(2, "b", user(&"y".repeat(MAX_BYTES + 1)))];
        assert_eq!(messages(&own, &RunId::parse("b").unwrap(), |_| true).len(), 1);
    }
}
