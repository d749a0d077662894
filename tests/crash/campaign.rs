//! Load, kill, restart, and now and then an audit.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use watertight_testkit::gateway::built_program;
use watertight_testkit::{Gateway, GatewayClient, GatewaySetup, MockProvider};

use crate::census::Census;
use crate::figures::{Figures, say};
use crate::ledger::{Ledger, Turn};
use crate::oracle::{Message, judge};
use crate::plan::{AUDIT, Dice, LIFE, Plan};
use crate::writer::{Place, Writer, probe, repeat};

/// Connections that are opened at once; half of what the gateway allows one address.
const DOOR: usize = 16;
/// Sessions audited at once.
const AUDITORS: usize = 8;
/// Faults that are told; the others are in the report.
const TOLD: usize = 10;

/// What is wrong, a line each.
type Breach = Vec<String>;

/// A campaign that found something.
#[derive(Debug)]
pub(crate) struct Broken {
    /// What was found, and where to look.
    pub(crate) told: String,
    /// The folder that was kept.
    pub(crate) kept: PathBuf,
}

/// Kills the program `plan.cycles` times and answers with the result line.
pub(crate) async fn run(plan: Plan) -> Result<String, Broken> {
    say(&format!("crash: {} cycles, {} writers, seed {}", plan.cycles, plan.writers, plan.seed));
    let provider = MockProvider::start().await;
    let census = Arc::new(Census::default());
    provider.answer_with({
        let census = census.clone();
        move |request| census.answer(request)
    });
    // Whoever builds meanwhile must not put another program in its place.
    let program = built_program();
    let folder = program.parent().expect("a program lies in a folder");
    let own = tempfile::Builder::new().prefix("crash-").tempdir_in(folder).expect("a folder beside the program");
    let own_program = own.path().join("watertight");
    fs::hard_link(&program, &own_program).expect("a link to the program");
    let mut figures = Figures::new(plan);
    let mut dice = Dice::new(plan.seed);
    for number in 0..plan.cycles.div_ceil(LIFE) {
        let mut life = Life::new(number, &own_program, &provider, &census, plan, &mut dice);
        let cycles = LIFE.min(plan.cycles - number * LIFE);
        // Also what panics on the way is to be looked into: a gateway that does not answer, say.
        let lived = AssertUnwindSafe(life.live(cycles, &provider, &mut figures, &mut dice)).catch_unwind().await;
        let breach = match lived {
            Ok(Ok(())) => continue,
            Ok(Err(breach)) => breach,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                vec![text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()]
            }
        };
        return Err(life.report(&breach));
    }
    Ok(figures.result())
}

/// Bytes before the first frame of a log.
const HEADER: usize = 32;

/// What SQLite's log holds.
#[derive(Default)]
struct Log {
    salt: Vec<u8>,
    /// Bytes of a frame: its header and a page.
    frame: usize,
    /// Frames written since the log was begun.
    frames: usize,
}

impl Log {
    fn read(path: &Path) -> Self {
        let log = std::fs::read(path).unwrap_or_default();
        let Some(head) = log.get(..HEADER) else { return Self::default() };
        let frame = 24 + u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let salt = &head[16..24];
        // A log is begun anew at its start: what an earlier one left behind bears another salt.
        let frames = log[HEADER..].chunks_exact(frame).take_while(|frame| frame[8..16] == *salt).count();
        Self { salt: salt.to_vec(), frame, frames }
    }
}

/// One state directory.
struct Life {
    plan: Plan,
    setup: GatewaySetup,
    gateway: Option<Gateway>,
    token: String,
    ledger: Arc<Ledger>,
    census: Arc<Census>,
    writers: Vec<Writer>,
    cycle: u64,
    /// What it said before it was killed last.
    last_words: String,
}

impl Life {
    fn new(
        number: u64,
        program: &Path,
        provider: &MockProvider,
        census: &Arc<Census>,
        plan: Plan,
        dice: &mut Dice,
    ) -> Self {
        let base_url = provider.base_url();
        let setup = GatewaySetup::new(program).config(&format!(
            "[[agents]]\nid = \"main\"\nmodel = \"echo/echo\"\ndefault = true\n\n\
             [[agents]]\nid = \"mock\"\nmodel = \"p1/m1\"\n\n\
             [providers.p1]\nkind = \"openai\"\nbase_url = \"{base_url}\"\n"
        ));
        let ledger = Arc::new(Ledger::new(number));
        census.turn_to(&ledger);
        let writers = (0..plan.writers).map(|index| Writer::new(index, dice.split())).collect();
        Self {
            plan,
            setup,
            gateway: None,
            token: String::new(),
            ledger,
            census: census.clone(),
            writers,
            cycle: 0,
            last_words: String::new(),
        }
    }

    async fn live(
        &mut self,
        cycles: u64,
        provider: &MockProvider,
        figures: &mut Figures,
        dice: &mut Dice,
    ) -> Result<(), Breach> {
        self.start().await?;
        for cycle in 0..cycles {
            self.cycle = cycle;
            if cycle > 0 && cycle % AUDIT == 0 {
                self.audit(false, figures).await?;
            }
            self.load_and_kill(dice).await;
            self.start().await?;
            if let Some(gateway) = &self.gateway {
                figures.restarted(gateway.ready_after());
            }
            figures.cycles += 1;
            provider.take_requests();
            figures.progress(self.ledger.tally());
            self.faultless()?;
        }
        self.audit(true, figures).await?;
        figures.add(self.ledger.tally());
        figures.provider_calls += self.census.requests();
        if let Some(gateway) = self.gateway.take() {
            gateway.kill().await;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), Breach> {
        match self.setup.try_start().await {
            Ok(gateway) => {
                self.token = gateway.token();
                self.gateway = Some(gateway);
                Ok(())
            }
            Err(failed) => Err(vec![format!("it does not start: {}", failed.status), failed.output]),
        }
    }

    fn place(&self) -> Arc<Place> {
        let gateway = self.gateway.as_ref().expect("the program runs");
        Arc::new(Place {
            url: gateway.url(),
            token: self.token.clone(),
            ledger: self.ledger.clone(),
            door: Semaphore::new(DOOR),
            arrived: watch::Sender::default(),
            cycle: self.cycle,
            end_within: self.plan.end_within,
        })
    }

    async fn load_and_kill(&mut self, dice: &mut Dice) {
        let place = self.place();
        let before = Log::read(&self.log());
        let mut working = JoinSet::new();
        for writer in self.writers.drain(..) {
            working.spawn(writer.work(place.clone()));
        }
        let kill = dice.kill();
        let wanted = if kill.all_connected { working.len() } else { 0 };
        // The sender is in the place, which is still there.
        let _ = place.arrived.subscribe().wait_for(|arrived| *arrived >= wanted).await;
        sleep(kill.after).await;
        let gateway = self.gateway.take().expect("the program runs");
        self.ledger.killed();
        self.last_words = gateway.output();
        gateway.kill().await;
        self.writers = working.join_all().await;
        if self.plan.sabotage {
            self.forget(before);
        }
    }

    /// Takes from the dead program's log the latter half of what it wrote under load, as a program would that
    /// acknowledges before it writes. What the start wrote stays: without it nothing would start.
    fn forget(&self, before: Log) {
        let log = Log::read(&self.log());
        let begun = if log.salt == before.salt { before.frames } else { 0 };
        let kept = begun + log.frames.saturating_sub(begun) / 2;
        let file = OpenOptions::new().write(true).open(self.log()).expect("the log can be opened");
        file.set_len((HEADER + kept * log.frame) as u64).expect("the log can be cut");
    }

    fn log(&self) -> PathBuf {
        self.setup.state_dir().join("store.db-wal")
    }

    /// What anybody noticed on the way.
    fn faultless(&self) -> Result<(), Breach> {
        let faults = self.ledger.faults();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Lets everything come to its end and looks at the transcripts: of every session, or of those that were written to
    /// since the last audit.
    async fn audit(&mut self, of_all: bool, figures: &mut Figures) -> Result<(), Breach> {
        let place = self.place();
        let mut settling = JoinSet::new();
        for writer in self.writers.drain(..) {
            settling.spawn(writer.settle(place.clone()));
        }
        self.writers = settling.join_all().await;

        let client = place.connect().await.ok_or_else(|| vec!["no connection for an audit".to_owned()])?;
        let touched = self.ledger.touched();
        let sessions = if of_all { self.ledger.sessions() } else { touched.clone() };
        let ledger = &self.ledger;
        let (client, place) = (&client, &*place);
        let audits = sessions.iter().map(|key| {
            let probed = touched.contains(key);
            async move { audit_session(client, place, key, probed).await }
        });
        let found: Vec<Breach> = stream::iter(audits).buffer_unordered(AUDITORS).collect().await;
        let found = [self.ledger.faults(), found.concat()].concat();
        if !found.is_empty() {
            return Err(found);
        }
        self.verify(of_all, figures).await?;
        let new = sessions.iter().flat_map(|key| ledger.of_session(key)).filter(|turn| !turn.audited);
        let new: Vec<Turn> = new.collect();
        for turn in &new {
            figures.ended(turn);
        }
        ledger.audited(new.into_iter().map(|turn| turn.run));
        figures.audits += 1;
        Ok(())
    }

    /// Has the program verify its store beside the one that serves it: by every receipt it gave since the last audit, or
    /// by all it ever gave, and then the rest too.
    async fn verify(&self, everything: bool, figures: &mut Figures) -> Result<(), Breach> {
        let receipts = self.ledger.receipts(everything);
        let file = self.setup.state_dir().with_file_name("receipts.txt");
        fs::write(&file, receipts.join("\n")).expect("the receipts are written");
        let file = file.to_str().expect("a path of text");
        let mut runs = vec![vec!["verify", "--receipts", file]];
        if everything {
            runs.push(vec!["verify"]);
        }
        for args in runs {
            let output = self.setup.command(&args).output().await.expect("the program starts");
            if !output.status.success() {
                let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
                return Err(vec![format!("{args:?} ended with {}", output.status), said.concat()]);
            }
        }
        if everything {
            figures.receipts += receipts.len() as u64;
        }
        Ok(())
    }

    /// Keeps the state directory with all that is known.
    fn report(mut self, breach: &Breach) -> Broken {
        let words = self.gateway.as_ref().map(Gateway::output).unwrap_or_default();
        let state = self.setup.keep();
        let kept = state.parent().expect("the state directory has a folder").to_owned();
        let mut text = format!("seed {}, cycle {} of this state directory\n\n", self.plan.seed, self.cycle);
        let mut section = |title: &str, body: &str| {
            let _ = writeln!(text, "## {title}\n{body}\n");
        };
        section("Found", &breach.join("\n"));
        section("Said by the program", &words);
        section("Said before the last kill", &self.last_words);
        for key in self.ledger.sessions() {
            let turns: Vec<String> = self.ledger.of_session(&key).iter().map(|turn| format!("{turn:?}")).collect();
            section(&key, &turns.join("\n"));
        }
        fs::write(kept.join("breach.txt"), text).expect("the report is written");
        let told: Vec<String> = breach.iter().take(TOLD).cloned().collect();
        let told = format!(
            "a promise is broken in cycle {} of a state directory (seed {}); all that is known is in {}, breach.txt first:\n{}",
            self.cycle,
            self.plan.seed,
            kept.display(),
            told.join("\n")
        );
        Broken { told, kept }
    }
}

/// Looks at one session in which nothing is under way.
async fn audit_session(client: &GatewayClient, place: &Place, key: &str, probed: bool) -> Breach {
    let ledger = &place.ledger;
    let gone = || vec![format!("the connection broke in the audit of {key}")];
    if probed {
        for turn in ledger.of_session(key).iter().filter(|turn| !turn.audited && turn.end.is_some()) {
            if repeat(client, ledger, turn).await.is_none() {
                return gone();
            }
        }
        if probe(client, place, key).await.is_none() {
            return gone();
        }
    }
    let history = match transcript(client, key).await {
        Ok(history) => history,
        Err(error) => return vec![format!("the history of {key} was answered {error}")],
    };
    let faults = judge(&history, &ledger.of_session(key));
    if faults.is_empty() {
        return Breach::new();
    }
    let mut found: Breach = faults.iter().map(|fault| format!("{key}: {fault}")).collect();
    found.extend(history.iter().map(|message| format!("    {key}: {message:?}")));
    found
}

/// Every message of a session, oldest first.
async fn transcript(client: &GatewayClient, key: &str) -> Result<Vec<Message>, Value> {
    let mut pages = Vec::new();
    let mut offset = 0;
    loop {
        let page = client.request("chat.history", json!({"sessionKey": key, "limit": 1000, "offset": offset})).await?;
        pages.push(page["messages"].as_array().into_iter().flatten().map(Message::read).collect::<Vec<_>>());
        match page["nextOffset"].as_u64() {
            Some(next) => offset = next,
            None => break,
        }
    }
    pages.reverse();
    Ok(pages.concat())
}
