//! Whether a session's transcript is what its writers were promised (isolation.md C1-C5).

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::Value;

use crate::ledger::{End, Kind, Turn};
use crate::plan::MAX_RESTARTS;

/// Entries up to which an answer's count of what the model was shown is exact: below the gateway's own limit of a prompt.
const MAX_COUNTED: usize = 1_900;

/// A stored message, as `chat.history` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) seq: u64,
    pub(crate) role: String,
    pub(crate) text: String,
    pub(crate) run: Option<String>,
    pub(crate) stop: Option<String>,
    /// Tool calls it asks for.
    pub(crate) calls: Vec<String>,
    /// The call it is the result of.
    pub(crate) call: Option<String>,
}

impl Message {
    pub(crate) fn read(stored: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let blocks = stored["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        let said = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
        let calls = blocks.iter().filter(|block| block["type"] == "toolCall").filter_map(|block| text(&block["id"]));
        let place = &stored["__openclaw"];
        Self {
            id: text(&place["id"]).unwrap_or_default(),
            seq: place["seq"].as_u64().unwrap_or_default(),
            role: text(&stored["role"]).unwrap_or_default(),
            text: text(&stored["content"]).unwrap_or(said),
            run: text(&place["runId"]),
            stop: text(&stored["stopReason"]),
            calls: calls.collect(),
            call: text(&stored["toolCallId"]),
        }
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Acknowledged, and not there.
    Lost(String),
    /// There more than once.
    Doubled(String),
    /// The second was acknowledged before the first was sent, or before it by the same connection.
    Reordered { first: String, second: String },
    /// Nobody sent it, not so, or not to this session.
    Foreign { place: u64, text: String },
    /// Places are missing, or ids repeat.
    Torn { place: u64 },
    /// An acknowledgement or its receipt named another place.
    Misplaced(String),
    /// An answer, a call or a result more than once.
    DoubledAnswer(String),
    /// Somebody was told an answer that is not there.
    LostAnswer(String),
    /// The answer to another input, of another prompt, or not what was told.
    WrongAnswer { run: String, text: String },
    /// An answer before its input, a result before its call, an answer to a run that was told as failed.
    Stray { run: String, place: u64 },
    /// Acknowledged, and no end was told.
    Wedged(String),
    /// Ended otherwise than with an answer, although it was killed too seldom for that.
    GivenUp { run: String, kills: u64, end: End },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Judges a transcript while nothing is under way in it. `turns` are all that were ever sent to the session.
pub(crate) fn judge(history: &[Message], turns: &[Turn]) -> Vec<Fault> {
    let by_run: HashMap<&str, &Turn> = turns.iter().map(|turn| (turn.run.as_str(), turn)).collect();
    let mut faults = Vec::new();
    whole(history, &mut faults);
    let inputs = inputs(history, &by_run, &mut faults);
    order(&inputs, &mut faults);
    answers(history, &by_run, &mut faults);
    for turn in turns.iter().filter(|turn| turn.acked_at.is_some()) {
        match &turn.end {
            None => faults.push(Fault::Wedged(turn.run.clone())),
            Some(End::Completed(_)) => {}
            Some(end) => {
                // No turn here uses a tool with side effects, so each is to be taken up again until that has been done
                // often enough. A kill counts whether or not the run had been taken up when it came.
                let kills = turn.kills_at_end - turn.kills_at_send;
                if kills <= MAX_RESTARTS || *end != End::Interrupted {
                    faults.push(Fault::GivenUp { run: turn.run.clone(), kills, end: end.clone() });
                }
            }
        }
    }
    faults
}

/// Places count from 1 without a gap, and no id occurs twice.
fn whole(history: &[Message], faults: &mut Vec<Fault>) {
    let mut ids = HashSet::new();
    for (at, message) in history.iter().enumerate() {
        if message.seq != at as u64 + 1 || !ids.insert(&message.id) {
            faults.push(Fault::Torn { place: message.seq });
        }
    }
}

/// Each acknowledged input once, and none that was not sent. Answers with the inputs in the order they stand.
fn inputs<'a>(history: &[Message], by_run: &HashMap<&str, &'a Turn>, faults: &mut Vec<Fault>) -> Vec<&'a Turn> {
    let mut found: HashMap<&str, usize> = HashMap::new();
    let mut inputs = Vec::new();
    for message in history.iter().filter(|message| message.role == "user") {
        let sent = message.run.as_deref().and_then(|run| by_run.get(run)).filter(|turn| turn.text == message.text);
        let Some(turn) = sent else {
            faults.push(Fault::Foreign { place: message.seq, text: message.text.clone() });
            continue;
        };
        if turn.message_seq.is_some_and(|seq| seq != message.seq) {
            faults.push(Fault::Misplaced(turn.run.clone()));
        }
        *found.entry(&turn.run).or_default() += 1;
        inputs.push(*turn);
    }
    for turn in by_run.values() {
        match found.get(turn.run.as_str()) {
            None | Some(0) if turn.acked_at.is_some() => faults.push(Fault::Lost(turn.run.clone())),
            Some(2..) => faults.push(Fault::Doubled(turn.run.clone())),
            _ => {}
        }
    }
    inputs
}

/// What was acknowledged before something else was sent stands before it, whoever sent them; what one writer was
/// answered first stands first; receipts rise and name one session.
fn order(inputs: &[&Turn], faults: &mut Vec<Fault>) {
    let mut earliest: Option<(u64, &Turn)> = None;
    for turn in inputs.iter().rev() {
        if let (Some((acked, later)), Some(sent)) = (earliest, turn.sent_at)
            && acked < sent
        {
            faults.push(Fault::Reordered { first: turn.run.clone(), second: later.run.clone() });
        }
        if let Some(acked) = turn.acked_at
            && earliest.is_none_or(|(before, _)| acked < before)
        {
            earliest = Some((acked, turn));
        }
    }
    // A repetition may be answered in any order: what it is about was settled before.
    let mut last: HashMap<usize, &Turn> = HashMap::new();
    for turn in inputs.iter().filter(|turn| turn.fresh) {
        if let Some(before) = last.insert(turn.writer, turn)
            && before.acked_at > turn.acked_at
        {
            faults.push(Fault::Reordered { first: before.run.clone(), second: turn.run.clone() });
        }
    }
    let receipts: Vec<_> = inputs.iter().filter_map(|turn| Some((turn.receipt.as_ref()?, turn))).collect();
    for pair in receipts.windows(2) {
        let [(before, _), (after, turn)] = pair else { continue };
        if before.session != after.session || before.seq >= after.seq {
            faults.push(Fault::Misplaced(turn.run.clone()));
        }
    }
}

/// Each run is answered at most once, after its input, with what it asked for; each tool is called once.
fn answers(history: &[Message], by_run: &HashMap<&str, &Turn>, faults: &mut Vec<Fault>) {
    // How many inputs stand before, and the place of each run's own among them.
    let mut heard: HashMap<&str, usize> = HashMap::new();
    let mut answered: HashMap<&str, &str> = HashMap::new();
    let mut asked: HashMap<&str, &[String]> = HashMap::new();
    let mut resulted = HashSet::new();
    for message in history {
        let run = message.run.as_deref().unwrap_or_default();
        let Some(turn) = by_run.get(run) else {
            if message.role != "user" {
                faults.push(Fault::Foreign { place: message.seq, text: message.text.clone() });
            }
            continue;
        };
        let stray = || Fault::Stray { run: run.to_owned(), place: message.seq };
        if message.role == "user" {
            let place = heard.len() + 1;
            heard.entry(run).or_insert(place);
            continue;
        }
        let Some(place) = heard.get(run) else {
            faults.push(stray());
            continue;
        };
        match message.role.as_str() {
            "assistant" if message.stop.as_deref() == Some("toolUse") => {
                let due = turn.kind == Kind::Tool && !answered.contains_key(run);
                if !due {
                    faults.push(stray());
                }
                if asked.insert(run, &message.calls).is_some() {
                    faults.push(Fault::DoubledAnswer(run.to_owned()));
                }
            }
            "toolResult" => {
                let due =
                    asked.get(run).is_some_and(|calls| calls.iter().any(|call| message.call.as_ref() == Some(call)));
                if !due || answered.contains_key(run) {
                    faults.push(stray());
                }
                if !resulted.insert((run, message.call.clone())) {
                    faults.push(Fault::DoubledAnswer(run.to_owned()));
                }
            }
            "assistant" if message.stop.as_deref() == Some("stop") => {
                if answered.insert(run, &message.text).is_some() {
                    faults.push(Fault::DoubledAnswer(run.to_owned()));
                }
                let exact = history.len() <= MAX_COUNTED;
                let counted = message.text.ends_with(&format!("(turn {place})"));
                if !message.text.contains(&turn.text) || (exact && !counted) {
                    faults.push(Fault::WrongAnswer { run: run.to_owned(), text: message.text.clone() });
                }
            }
            // A run that did not come to an answer may leave what it had said.
            "assistant" if !matches!(turn.end, Some(End::Completed(_))) => {}
            _ => faults.push(stray()),
        }
    }
    for turn in by_run.values() {
        let stored = answered.get(turn.run.as_str());
        match (&turn.end, stored) {
            (Some(End::Completed(_)), None) => faults.push(Fault::LostAnswer(turn.run.clone())),
            (Some(End::Completed(Some(told))), Some(stored)) if told != stored => {
                faults.push(Fault::WrongAnswer { run: turn.run.clone(), text: told.clone() });
            }
            (Some(End::Interrupted | End::Failed(_)), Some(_)) => {
                faults.push(Fault::Stray { run: turn.run.clone(), place: 0 });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
