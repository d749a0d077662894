//! What a model is shown of a session.
//!
//! Inputs are durable the moment they are acknowledged, so the transcript of a busy session interleaves: a second
//! input may stand between a first one's tool call and its result. A model is shown turns, not arrivals: each input
//! followed by all that answered it, in the order of the inputs. Turns that have not begun are left out, and the one
//! that is asking comes last: a run may have taken up a later input than those that wait (`steer`), or gone before them
//! (`interrupt`).

use std::collections::HashMap;
use std::sync::Arc;

use watertight_core::ids::EntryId;
use watertight_core::transcript::{Block, Entry, Message};

/// Entries of the live generation kept at hand, at the most.
pub(crate) const MAX_ENTRIES: u32 = 2_000;
/// Bytes of content a prompt may have, at the most; the oldest turns are left out first.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The messages to send for the turn of `asking`; none when that input is not among the entries. `waits` tells whether a
/// turn, named by its input, has not begun.
pub(crate) fn messages(
    entries: &[Arc<Entry>],
    asking: EntryId,
    waits: impl Fn(EntryId) -> bool,
) -> Option<Vec<Message>> {
    let mut groups: Vec<Vec<&Entry>> = Vec::new();
    let mut group_of: HashMap<EntryId, usize> = HashMap::new();
    let mut own = Vec::new();
    for entry in entries {
        match entry.body.turn {
            None => groups.push(vec![entry]),
            Some(turn) if turn == asking => own.push(&**entry),
            Some(turn) if waits(turn) => {}
            Some(turn) => {
                let group = *group_of.entry(turn).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                groups[group].push(entry);
            }
        }
    }
    if own.is_empty() {
        return None;
    }
    // The turn's own group always goes out: an input too large for any prompt is the provider's to refuse.
    let mut left = MAX_BYTES.saturating_sub(bytes_of(&own));
    let mut first = groups.len();
    while first > 0 {
        let Some(rest) = left.checked_sub(bytes_of(&groups[first - 1])) else { break };
        (left, first) = (rest, first - 1);
    }
    let shown = groups[first..].iter().flatten().chain(&own);
    let messages: Vec<Message> = shown.map(|entry| entry.body.message.clone()).collect();
    #[cfg(watertight_leak)]
    let messages = crate::deliberate_leak::mixed(messages);
    Some(messages)
}

fn bytes_of(group: &[&Entry]) -> usize {
    group.iter().map(|entry| size(&entry.body.message)).sum()
}

/// Bytes of content of a message, roughly as a provider will get them.
pub(crate) fn size(message: &Message) -> usize {
    let note = match message {
        Message::System { note } => note.len(),
        _ => 0,
    };
    note + message.content().iter().map(block_size).sum::<usize>()
}

/// Bytes of content of a block.
pub(crate) fn block_size(block: &Block) -> usize {
    match block {
        Block::Text { text } | Block::Thinking { thinking: text } => text.len(),
        Block::ToolCall(call) => call.name.len() + call.arguments.to_string().len(),
        Block::Image { data, .. } => data.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::{GenerationNo, Seq, UnixMillis};
    use watertight_core::transcript::{EntryBody, ModelRef, Provenance, StopReason};

    fn id(n: u64) -> EntryId {
        EntryId::from_bytes([u8::try_from(n).unwrap(); 16])
    }

    /// Entry `seq` of the turn whose input is entry `turn`.
    fn entry(seq: u64, turn: u64, message: Message) -> Arc<Entry> {
        Arc::new(Entry {
            id: id(seq),
            seq: Seq(seq),
            generation: GenerationNo(1),
            message_seq: u32::try_from(seq).unwrap(),
            at: UnixMillis(0),
            body: EntryBody { message, provenance: Provenance::Gateway, parent: None, run: None, turn: Some(id(turn)) },
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
    fn turns_are_shown_whole_and_in_the_order_of_their_inputs() {
        let entries = [
            entry(1, 1, user("a in")),
            entry(2, 2, user("b in")),
            entry(3, 1, answer("a out")),
            entry(4, 2, answer("b out")),
            entry(5, 5, user("c in")),
        ];
        let all = messages(&entries, id(5), |_| false).unwrap();
        assert_eq!(texts(&all), ["a in", "a out", "b in", "b out", "c in"]);
    }

    #[test]
    fn a_later_input_is_not_shown_to_the_turn_before_it() {
        let entries = [entry(1, 1, user("a in")), entry(2, 2, user("b in")), entry(3, 1, answer("calls a tool"))];
        assert_eq!(texts(&messages(&entries, id(1), |turn| turn == id(2)).unwrap()), ["a in", "calls a tool"]);
    }

    #[test]
    fn the_oldest_turns_are_left_out_when_the_prompt_is_too_large() {
        let big = "x".repeat(MAX_BYTES / 2);
        let entries = [entry(1, 1, user(&big)), entry(2, 2, user(&big)), entry(3, 3, user("c"))];
        assert_eq!(messages(&entries, id(3), |_| false).unwrap().len(), 2, "a no longer fits");
        let own = [entry(1, 1, user("small")), entry(2, 2, user(&"y".repeat(MAX_BYTES + 1)))];
        assert_eq!(messages(&own, id(2), |_| false).unwrap().len(), 1);
    }

    #[test]
    fn large_later_inputs_do_not_push_a_turn_out_of_its_own_prompt() {
        let big = "x".repeat(MAX_BYTES);
        let entries = [entry(1, 1, user("a in")), entry(2, 2, user(&big)), entry(3, 3, user(&big))];
        assert_eq!(texts(&messages(&entries, id(1), |turn| turn != id(1)).unwrap()), ["a in"]);
        assert!(messages(&entries, id(9), |_| false).is_none());
    }

    #[test]
    fn a_later_input_that_a_run_took_up_comes_last() {
        let entries = [
            entry(1, 1, user("a in")),
            entry(2, 2, user("b waits")),
            entry(3, 1, answer("calls a tool")),
            entry(4, 4, user("steers a")),
            entry(5, 1, answer("the result")),
        ];
        let shown = messages(&entries, id(4), |turn| turn == id(2)).unwrap();
        assert_eq!(texts(&shown), ["a in", "calls a tool", "the result", "steers a"]);
        // When it is b's turn, the exchange it missed stands before it.
        let shown = messages(&entries, id(2), |_| false).unwrap();
        assert_eq!(texts(&shown), ["a in", "calls a tool", "the result", "steers a", "b waits"]);
    }
}
