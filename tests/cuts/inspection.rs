//! Whether an image holds what was promised before its cut.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::AddAssign;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use watertight_core::ids::{GenerationId, RunId};
use watertight_core::run::RunOutcome;
use watertight_core::transcript::{Entry, Message};
use watertight_engine::EngineError;
use watertight_engine::report::RunReport;
use watertight_engine::request::{Accepted, Disposition, Target};
use watertight_engine::verification::{Request, verify};
use watertight_store::StoreError;

use crate::ledger::{End, Ledger, Turn};
use crate::subject::{PATIENCE, Say, Subject, everything};

/// Of the last promises before the cut, and of those before them, so many are looked at on their own.
const PICKED: usize = 6;
/// Between two looks for runs that hang.
const GLANCE: Duration = Duration::from_millis(20);

/// What an image lacks.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The gateway does not start on it.
    Unopened(String),
    /// An acknowledged turn is not there, not in its place or not as it was.
    TurnLost(String),
    /// A turn is there more than once.
    TurnDoubled(String),
    /// An announced end is not there or another.
    EndLost(String),
    /// A receipt does not hold.
    ReceiptBroken(String),
    /// A session takes no turn or does not end one.
    Wedged(String),
    /// Something stored is damaged.
    Damaged(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unopened(what) => write!(f, "does not open: {what}"),
            Self::TurnLost(what) => write!(f, "acknowledged turn lost: {what}"),
            Self::TurnDoubled(what) => write!(f, "turn doubled: {what}"),
            Self::EndLost(what) => write!(f, "announced end lost: {what}"),
            Self::ReceiptBroken(what) => write!(f, "receipt broken: {what}"),
            Self::Wedged(what) => write!(f, "session wedged: {what}"),
            Self::Damaged(what) => write!(f, "damaged: {what}"),
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(StoreError::Integrity(_)) => Self::Damaged(error.to_string()),
            error => Self::Wedged(error.to_string()),
        }
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checked {
    turns: usize,
    ends: usize,
    receipts: usize,
}

impl AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.turns += other.turns;
        self.ends += other.ends;
        self.receipts += other.receipts;
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} acknowledgements, {} ends and {} receipts checked", self.turns, self.ends, self.receipts)
    }
}

/// How closely an image is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    /// Every promise on its own, and not only some.
    pub(crate) thorough: bool,
    /// Whether `watertight verify` goes over it too.
    pub(crate) verified: bool,
}

/// Starts the gateway on the image and holds it against what was promised before the cut.
pub(crate) async fn inspect(
    dir: &Path,
    ledger: &Ledger,
    cut: usize,
    depth: Depth,
    random: &mut fastrand::Rng,
) -> Result<Checked, Problem> {
    let subject = Subject::open(dir).await.map_err(Problem::Unopened)?;
    let inspection = Inspection { subject: &subject, ledger, cut, depth };
    let result = tokio::time::timeout(2 * PATIENCE, inspection.run(random)).await;
    subject.close().await;
    result.unwrap_or_else(|_| Err(Problem::Wedged("an answer does not come".to_owned())))
}

struct Inspection<'a> {
    subject: &'a Subject,
    ledger: &'a Ledger,
    cut: usize,
    depth: Depth,
}

impl Inspection<'_> {
    async fn run(&self, random: &mut fastrand::Rng) -> Result<Checked, Problem> {
        let turns = self.ledger.turns_before(self.cut);
        let mut keys: BTreeSet<&str> = turns.iter().map(Turn::key).collect();
        let mut checked = Checked::default();
        self.settle(turns).await?;
        let mut sessions: BTreeMap<&str, Vec<&Turn>> = BTreeMap::new();
        for turn in turns {
            sessions.entry(turn.key()).or_default().push(turn);
        }
        for (key, turns) in &sessions {
            self.transcript(key, turns, &mut checked).await?;
        }
        for turn in self.picked(turns, random) {
            self.turn(turn, &mut checked).await?;
        }
        for end in self.picked(self.ledger.ends_before(self.cut), random) {
            self.end(end, &mut checked).await?;
        }
        if self.depth.verified && !turns.is_empty() {
            self.verify(turns, &mut checked)?;
        }
        // A session nobody has used yet where there is none.
        keys.insert("agent:main:main");
        let key = random.choice(keys).unwrap_or_default();
        let turns = sessions.get(key).map(Vec::as_slice).unwrap_or_default();
        let generation = random.choice(turns).map(|turn| turn.accepted.generation.as_str());
        self.probe(key, generation).await?;
        // Of the transcript that the probe made live again.
        self.transcript(key, turns, &mut checked).await?;
        Ok(checked)
    }

    /// The promises to look at on their own: the last ones, and some of those before.
    fn picked<'t, T>(&self, promises: &'t [T], random: &mut fastrand::Rng) -> Vec<&'t T> {
        if self.depth.thorough {
            return promises.iter().collect();
        }
        let (former, latest) = promises.split_at(promises.len().saturating_sub(PICKED));
        latest.iter().chain(random.choose_multiple(former.iter(), PICKED)).collect()
    }

    /// Waits until every acknowledged run that the cut left open has ended.
    async fn settle(&self, turns: &[Turn]) -> Result<(), Problem> {
        let ended: HashSet<&RunId> = self.ledger.ends_before(self.cut).iter().map(|end| &end.report.run).collect();
        for turn in turns.iter().filter(|turn| !ended.contains(&turn.accepted.run)) {
            // What is lost would be waited for in vain.
            self.entry(turn).await?;
            self.ended(turn.key(), &turn.accepted.run).await?;
        }
        Ok(())
    }

    /// Waits for the end of a run.
    async fn ended(&self, key: &str, run: &RunId) -> Result<Arc<RunReport>, Problem> {
        let Subject { engine, access } = self.subject;
        let report = self.unhung(key, engine.wait(access, run, Some(PATIENCE))).await?;
        report.ok_or_else(|| Problem::Wedged(format!("{run} in {key} does not end")))
    }

    /// Does something in a session, and meanwhile aborts what hangs there by what it says: also a run that was
    /// acknowledged only after the cut, but whose input is there.
    async fn unhung<T>(&self, key: &str, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, Problem> {
        let Subject { engine, access } = self.subject;
        let target = Target::of_key(key);
        let begun = Instant::now();
        let mut work = pin!(work);
        while begun.elapsed() < PATIENCE {
            let active = engine.describe(access, &target).await?.map(|view| view.active_runs).unwrap_or_default();
            for run in active.iter().filter(|run| self.ledger.hangs(run)) {
                engine.abort(access, &target, Some(run), "rpc").await?;
            }
            if let Ok(result) = tokio::time::timeout(GLANCE, work.as_mut()).await {
                return Ok(result?);
            }
        }
        Err(Problem::Wedged(format!("{key} does not go on")))
    }

    /// The live transcript: every turn that was acknowledged in it stands in its place, once.
    async fn transcript(&self, key: &str, turns: &[&Turn], checked: &mut Checked) -> Result<(), Problem> {
        let Subject { engine, access } = self.subject;
        let history = engine.history(access, &Target::of_key(key), everything()).await?;
        let mut said: HashMap<String, usize> = HashMap::new();
        for entry in history.entries.iter().filter(|entry| is_input(entry)) {
            *said.entry(entry.body.message.text()).or_default() += 1;
        }
        if let Some((text, times)) = said.iter().find(|(_, times)| **times > 1) {
            return Err(Problem::TurnDoubled(format!("{times} times in {key}: {text:.60}")));
        }
        let generation: Option<&GenerationId> = history.session.generation.as_ref();
        for turn in turns.iter().filter(|turn| Some(&turn.accepted.generation) == generation) {
            // A turn that was acknowledged only when it was sent again was given no place.
            let found = match turn.accepted.message_seq {
                Some(place) => history.entries.get((place as usize).saturating_sub(1)),
                None => history.entries.iter().find(|entry| entry.id == turn.accepted.input),
            };
            if !found.is_some_and(|entry| is(entry, turn)) {
                let Accepted { run, generation, message_seq, .. } = &turn.accepted;
                return Err(Problem::TurnLost(format!("{run}, message {message_seq:?} of {key} {generation:?}")));
            }
            checked.turns += 1;
        }
        Ok(())
    }

    /// The turn's entry is there, in whatever generation.
    async fn entry(&self, turn: &Turn) -> Result<(), Problem> {
        let Subject { engine, access } = self.subject;
        let entry = engine.entry(access, &Target::of_key(turn.key()), turn.accepted.input).await?;
        match entry {
            Some(entry) if is(&entry, turn) => Ok(()),
            _ => Err(Problem::TurnLost(format!("{} in {}", turn.accepted.run, turn.key()))),
        }
    }

    /// The turn's entry, its receipt, and what a client hears that asks again.
    async fn turn(&self, turn: &Turn, checked: &mut Checked) -> Result<(), Problem> {
        let Subject { engine, access } = self.subject;
        let run = &turn.accepted.run;
        self.entry(turn).await?;
        checked.turns += 1;
        let generation = turn.said.generation.as_deref();
        let again = Say { generation, ..Say::plain(turn.key(), run.as_str(), &turn.said.text) };
        let known = self.unhung(turn.key(), engine.submit(access, again.request(), |_| {})).await?;
        let same = known.input == turn.accepted.input && known.generation == turn.accepted.generation;
        if !same || !matches!(known.disposition, Disposition::Ended(_)) {
            return Err(Problem::TurnDoubled(format!("{run} in {} when it is sent again", turn.key())));
        }
        if turn.accepted.receipt.is_none() || known.receipt != turn.accepted.receipt {
            return Err(Problem::ReceiptBroken(format!("{run} in {}", turn.key())));
        }
        checked.receipts += 1;
        Ok(())
    }

    /// The announced end, and the answer it told of.
    async fn end(&self, end: &End, checked: &mut Checked) -> Result<(), Problem> {
        let Subject { engine, access } = self.subject;
        let told = &end.report;
        let lost = |what: &str| Problem::EndLost(format!("{} in {}: {what}", told.run, told.key));
        let target = Target::of_key(told.key.as_str());
        if let RunOutcome::Completed { answer, .. } = told.outcome {
            let entry = engine.entry(access, &target, answer).await?;
            if entry.map(|entry| entry.body.message.text()).as_ref() != Some(&told.text) {
                return Err(lost("its answer"));
            }
        }
        let found = engine.wait(access, &told.run, Some(PATIENCE)).await?.ok_or_else(|| lost("open again"))?;
        if found.outcome != told.outcome {
            return Err(lost("another outcome"));
        }
        checked.ends += 1;
        Ok(())
    }

    /// Chains and heads of every session agree, and every receipt given out holds.
    fn verify(&self, turns: &[Turn], checked: &mut Checked) -> Result<(), Problem> {
        let engine = &self.subject.engine;
        let of_turns = turns.iter().filter_map(|turn| turn.accepted.receipt);
        let of_ends = self.ledger.ends_before(self.cut).iter().filter_map(|end| end.report.receipt);
        let request = Request { receipts: of_turns.chain(of_ends).collect(), ..Request::default() };
        let report = verify(engine.config(), engine.state_dir().path(), &request, |_| {})
            .map_err(|error| Problem::Damaged(error.to_string()))?;
        if let Some(problem) = report.problems.first() {
            return Err(match problem.receipt {
                Some(receipt) => Problem::ReceiptBroken(format!("{receipt}: {}", problem.what)),
                None => Problem::Damaged(problem.what.clone()),
            });
        }
        checked.receipts += report.receipts as usize;
        Ok(())
    }

    /// A new turn in the session is taken and answered, in a transcript that may be an old one.
    async fn probe(&self, key: &str, generation: Option<&str>) -> Result<(), Problem> {
        let Subject { engine, access } = self.subject;
        let run = RunId::parse(&format!("probe-at-{}", self.cut)).unwrap();
        let say = Say { generation, ..Say::plain(key, run.as_str(), "still there?") };
        self.unhung(key, engine.submit(access, say.request(), |_| {})).await?;
        let report = self.ended(key, &run).await?;
        match &report.outcome {
            RunOutcome::Completed { .. } => Ok(()),
            outcome => Err(Problem::Wedged(format!("a new turn in {key} ends {outcome:?}"))),
        }
    }
}

fn is_input(entry: &Entry) -> bool {
    matches!(entry.body.message, Message::User { .. })
}

fn is(entry: &Entry, turn: &Turn) -> bool {
    is_input(entry)
        && entry.id == turn.accepted.input
        && turn.accepted.message_seq.is_none_or(|place| place == entry.message_seq)
        && entry.body.message.text() == turn.said.text
}
