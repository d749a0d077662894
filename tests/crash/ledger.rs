//! What the writers asked for and what they were told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// How a turn is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Send,
    Agent,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Send => "chat.send",
            Self::Agent => "agent",
        }
    }
}

/// What the model is to do with a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answer.
    Plain,
    /// Answer in pieces with pauses; a model of the mock provider only.
    Slow,
    /// Ask for the tool `time`, then answer; a model of the mock provider only.
    Tool,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Slow => "slow",
            Self::Tool => "tool",
        }
    }
}

/// How a run ended, as somebody was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this answer, where it was told.
    Completed(Option<String>),
    /// The program was killed too often.
    Interrupted,
    /// Any other way.
    Failed(String),
}

impl End {
    /// Whether two accounts of one end can both be true.
    fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Completed(Some(one)), Self::Completed(Some(two))) => one == two,
            (Self::Completed(_), Self::Completed(_)) => true,
            (one, two) => one == two,
        }
    }
}

/// One request of one writer, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) run: String,
    pub(crate) writer: usize,
    pub(crate) key: String,
    pub(crate) text: String,
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    /// When it was first sent, on the ledger's clock.
    pub(crate) sent_at: Option<u64>,
    /// When it was first acknowledged.
    pub(crate) acked_at: Option<u64>,
    /// Whether that was the answer to the request that started it, and not to a repetition.
    pub(crate) fresh: bool,
    /// The place in the transcript that an acknowledgement named.
    pub(crate) message_seq: Option<u64>,
    /// The receipt of its input.
    pub(crate) receipt: Option<Receipt>,
    /// Kills before it was first sent.
    pub(crate) kills_at_send: u64,
    /// Kills before its end was first told.
    pub(crate) kills_at_end: u64,
    pub(crate) end: Option<End>,
    /// Whether an audit has looked at it.
    pub(crate) audited: bool,
}

impl Turn {
    /// The parameters of the request.
    pub(crate) fn params(&self) -> Value {
        json!({"sessionKey": self.key, "message": self.text, "idempotencyKey": self.run})
    }
}

/// Everything asked of one state directory.
pub(crate) struct Ledger {
    life: u64,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Counts what happened.
    clock: u64,
    kills: u64,
    turns: HashMap<String, Turn>,
    /// Runs of a session, in the order they were made up.
    sessions: BTreeMap<String, Vec<String>>,
    /// As the command line takes them.
    receipts: HashSet<String>,
    new_receipts: HashSet<String>,
    acked: u64,
    resent: u64,
    refused: u64,
    faults: Vec<String>,
}

impl Book {
    fn note(&mut self, receipt: &Receipt) {
        let text = receipt.text();
        if !self.receipts.contains(&text) {
            self.new_receipts.insert(text);
        }
    }
}

/// A receipt as the wire carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Receipt {
    pub(crate) session: String,
    pub(crate) seq: u64,
    pub(crate) chain: String,
}

impl Receipt {
    /// The receipt of an answer or an event; none where there is none.
    fn of(told: &Value) -> Option<Self> {
        let receipt = told.get("receipt").or_else(|| told.pointer("/message/receipt"))?;
        Some(Self {
            session: receipt["session"].as_str()?.to_owned(),
            seq: receipt["seq"].as_u64()?,
            chain: receipt["chain"].as_str()?.to_owned(),
        })
    }

    /// As the command line takes it.
    pub(crate) fn text(&self) -> String {
        format!("{}:{}:{}", self.session, self.seq, self.chain)
    }
}

/// Counts for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acked: u64,
    pub(crate) resent: u64,
    pub(crate) refused: u64,
}

impl Ledger {
    pub(crate) fn new(life: u64) -> Self {
        Self { life, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes up a turn that nobody has sent yet.
    pub(crate) fn make(&self, writer: usize, key: &str, kind: Kind, method: Method) -> Turn {
        let mut book = self.book();
        let run = format!("run-{}-{}", self.life, book.turns.len());
        let turn = Turn {
            text: format!("{key} {run} {}", kind.word()),
            run: run.clone(),
            writer,
            key: key.to_owned(),
            kind,
            method,
            sent_at: None,
            acked_at: None,
            fresh: false,
            message_seq: None,
            receipt: None,
            kills_at_send: 0,
            kills_at_end: 0,
            end: None,
            audited: false,
        };
        book.sessions.entry(key.to_owned()).or_default().push(run.clone());
        book.turns.insert(run, turn.clone());
        turn
    }

    /// It is about to be sent, for the first time or again.
    pub(crate) fn sending(&self, run: &str) {
        let mut book = self.book();
        book.clock += 1;
        let (now, kills) = (book.clock, book.kills);
        let turn = book.turns.get_mut(run).expect("a turn that was made");
        if turn.sent_at.is_some() {
            book.resent += 1;
        } else {
            (turn.sent_at, turn.kills_at_send) = (Some(now), kills);
        }
    }

    /// It was acknowledged with this payload.
    pub(crate) fn acknowledged(&self, run: &str, told: &Value) {
        let mut book = self.book();
        book.clock += 1;
        let now = book.clock;
        let turn = book.turns.get_mut(run).expect("a turn that was made");
        if turn.acked_at.is_none() {
            turn.acked_at = Some(now);
            turn.fresh = matches!(told["status"].as_str(), Some("started" | "accepted"));
            book.acked += 1;
        }
        if let Some(seq) = told["messageSeq"].as_u64() {
            let turn = book.turns.get_mut(run).expect("a turn that was made");
            if turn.message_seq.replace(seq).is_some_and(|before| before != seq) {
                book.faults.push(format!("{run} was acknowledged at two places of its transcript"));
            }
        }
        // An acknowledgement that tells an end carries the end's receipt, which is another entry's.
        if matches!(told["status"].as_str(), Some("started" | "accepted" | "in_flight"))
            && let Some(receipt) = Receipt::of(told)
        {
            let turn = book.turns.get_mut(run).expect("a turn that was made");
            if let Some(before) = turn.receipt.replace(receipt.clone()).filter(|before| *before != receipt) {
                let fault = format!("{run} was acknowledged with {} and with {}", before.text(), receipt.text());
                book.faults.push(fault);
            }
            book.note(&receipt);
        }
    }

    /// It was refused for now.
    pub(crate) fn refused(&self) {
        self.book().refused += 1;
    }

    /// Somebody was told how it ended, in this answer or event.
    pub(crate) fn ended(&self, run: &str, end: End, told: &Value) {
        let mut book = self.book();
        let kills = book.kills;
        if let Some(receipt) = Receipt::of(told) {
            book.note(&receipt);
        }
        let turn = book.turns.get_mut(run).expect("a turn that was made");
        match &mut turn.end {
            None => {
                turn.end = Some(end);
                turn.kills_at_end = kills;
            }
            Some(before) if !before.agrees(&end) => {
                let fault = format!("{run} ended twice: told {before:?}, then {end:?}");
                book.faults.push(fault);
            }
            Some(before) => {
                if let (End::Completed(text @ None), End::Completed(Some(told))) = (before, end) {
                    *text = Some(told);
                }
            }
        }
    }

    /// Something that must not happen.
    pub(crate) fn fault(&self, what: String) {
        self.book().faults.push(what);
    }

    /// The program was killed.
    pub(crate) fn killed(&self) {
        self.book().kills += 1;
    }

    pub(crate) fn kills(&self) -> u64 {
        self.book().kills
    }

    pub(crate) fn turn(&self, run: &str) -> Option<Turn> {
        self.book().turns.get(run).cloned()
    }

    /// The turns of a session that were sent.
    pub(crate) fn of_session(&self, key: &str) -> Vec<Turn> {
        let book = self.book();
        let runs = book.sessions.get(key).into_iter().flatten();
        runs.map(|run| book.turns[run].clone()).filter(|turn| turn.sent_at.is_some()).collect()
    }

    /// Every session that was written to.
    pub(crate) fn sessions(&self) -> Vec<String> {
        self.book().sessions.keys().cloned().collect()
    }

    /// Sessions with turns that no audit has looked at.
    pub(crate) fn touched(&self) -> Vec<String> {
        let book = self.book();
        let new = |runs: &Vec<String>| runs.iter().any(|run| !book.turns[run].audited);
        book.sessions.iter().filter(|(_, runs)| new(runs)).map(|(key, _)| key.clone()).collect()
    }

    /// An audit has looked at these.
    pub(crate) fn audited(&self, runs: impl IntoIterator<Item = String>) {
        let mut book = self.book();
        for run in runs {
            if let Some(turn) = book.turns.get_mut(&run) {
                turn.audited = true;
            }
        }
    }

    /// Receipts as the command line takes them: all so far, or those that were not given out here yet.
    pub(crate) fn receipts(&self, all: bool) -> Vec<String> {
        let mut book = self.book();
        let new = std::mem::take(&mut book.new_receipts);
        book.receipts.extend(new.iter().cloned());
        if all { book.receipts.iter().cloned().collect() } else { new.into_iter().collect() }
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.book().faults.clone()
    }

    pub(crate) fn tally(&self) -> Tally {
        let book = self.book();
        Tally { acked: book.acked, resent: book.resent, refused: book.refused }
    }
}
