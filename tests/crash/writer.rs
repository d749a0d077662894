//! A client: connects, repeats what was not acknowledged, goes on asking until the connection is gone.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use watertight_testkit::GatewayClient;
use watertight_testkit::gateway_client::{Answers, ConnectOptions};

use crate::ledger::{End, Kind, Ledger, Method, Turn};
use crate::plan::Dice;

/// What the gateway says of a run that it gave up because it was killed.
const INTERRUPTED: &str = "The gateway stopped before the run could end.";
/// Cycles for which a writer keeps its session, and for which sessions are shared.
const AGE: u64 = 16;
const SHARED_AGE: u64 = 64;
/// Sessions that writers share at any time.
const SHARED: usize = 2;

/// Where the program serves.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) ledger: Arc<Ledger>,
    /// Connections that may be opened at once: the gateway bounds those that have not said who they are.
    pub(crate) door: Semaphore,
    /// Writers that have a connection, or found that there is none to be had.
    pub(crate) arrived: watch::Sender<usize>,
    /// Cycles of the state directory so far.
    pub(crate) cycle: u64,
    /// How long the end of a run is waited for.
    pub(crate) end_within: Duration,
}

impl Place {
    /// A connection that hears only sessions it names; none when the program is gone.
    pub(crate) async fn connect(&self) -> Option<GatewayClient> {
        let _through = self.door.acquire().await.expect("the door is never closed");
        let options = ConnectOptions { caps: vec!["session-scoped-events".into()], ..ConnectOptions::default() };
        GatewayClient::connect(&self.url, Some(&self.token), &options).await.ok()
    }
}

/// What a writer does all day.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// Asks the echo model and waits for the end of each run.
    Waits,
    /// Asks a model of the mock provider and listens for the event that ends the run.
    Listens,
    /// The same in a session with others.
    Shares,
    /// Uses `agent`, which answers twice.
    Agent,
    /// Asks for turns with a tool.
    Tools,
    /// Sends several requests before it looks at any answer.
    Bursts,
    /// The same in a session with others, by both methods.
    Crowds,
}

/// A client over all its connections.
pub(crate) struct Writer {
    index: usize,
    habit: Habit,
    dice: Dice,
    /// Sent and not acknowledged, in the order they were sent.
    pending: Vec<Turn>,
    /// Acknowledged, their end not heard.
    open: Vec<String>,
}

impl Writer {
    pub(crate) fn new(index: usize, dice: Dice) -> Self {
        let habit = match index % 8 {
            0 | 1 => Habit::Waits,
            2 => Habit::Listens,
            3 => Habit::Shares,
            4 => Habit::Agent,
            5 => Habit::Tools,
            6 => Habit::Bursts,
            _ => Habit::Crowds,
        };
        Self { index, habit, dice, pending: Vec::new(), open: Vec::new() }
    }

    /// Works until the connection is gone.
    pub(crate) async fn work(mut self, place: Arc<Place>) -> Self {
        let client = place.connect().await;
        place.arrived.send_modify(|arrived| *arrived += 1);
        if let Some(client) = client {
            while self.round(&client, &place).await.is_some() {}
        }
        self
    }

    /// Repeats what was not acknowledged and waits until all of its runs have ended.
    pub(crate) async fn settle(mut self, place: Arc<Place>) -> Self {
        let client = place.connect().await.expect("a gateway that nobody kills lets a client in");
        while !self.pending.is_empty() || !self.open.is_empty() {
            if self.finish(&client, &place, false).await.is_none() {
                place.ledger.fault(format!("the connection of writer {} broke while nobody killed", self.index));
                break;
            }
        }
        self
    }

    /// What is left over, then new requests, then the ends of all of them. None when the connection is gone.
    async fn round(&mut self, client: &GatewayClient, place: &Place) -> Option<()> {
        self.finish(client, place, false).await?;
        if !self.pending.is_empty() {
            return Some(());
        }
        self.pending = self.requests(place);
        let listens = matches!(self.habit, Habit::Listens);
        if listens {
            let key = self.pending.first().map(|turn| &turn.key);
            client.request("sessions.messages.subscribe", json!({"key": key})).await.ok()?;
        }
        self.finish(client, place, listens).await
    }

    /// With `listens` the connection hears the events of what is sent now.
    async fn finish(&mut self, client: &GatewayClient, place: &Place, listens: bool) -> Option<()> {
        let agents = self.send(client, place).await?;
        for (run, mut answers) in agents {
            let end = answers.next().await?;
            told_by_agent(&place.ledger, &run, &end);
            self.open.retain(|open| *open != run);
        }
        for run in self.open.clone() {
            if listens {
                listen(client, &place.ledger, &run).await?;
            } else {
                wait(client, place, &run).await?;
            }
        }
        self.open.clear();
        Some(())
    }

    /// Sends what is pending, one after the other without waiting, then takes the acknowledgements. What was refused
    /// for now stays pending. Answers with the `agent` requests that have a second response to come.
    async fn send(&mut self, client: &GatewayClient, place: &Place) -> Option<Vec<(String, Answers)>> {
        let ledger = &place.ledger;
        let mut sent = Vec::new();
        for turn in &self.pending {
            ledger.sending(&turn.run);
            sent.push((turn.clone(), client.send(turn.method.name(), Some(turn.params())).await));
        }
        let mut agents = Vec::new();
        let mut refused = Vec::new();
        for (turn, mut answers) in sent {
            let answer = answers.next().await?;
            let told = &answer["payload"];
            if told["runId"] == turn.run.as_str() {
                ledger.acknowledged(&turn.run, told);
                self.pending.retain(|pending| pending.run != turn.run);
                match told["status"].as_str() {
                    Some("started" | "in_flight") => self.open.push(turn.run),
                    Some("accepted") => {
                        self.open.push(turn.run.clone());
                        agents.push((turn.run, answers));
                    }
                    _ if turn.method == Method::Agent => told_by_agent(ledger, &turn.run, &answer),
                    _ => told_by_send(ledger, &turn.run, told),
                }
            } else if answer["error"]["retryable"] == true {
                ledger.refused();
                refused.push(turn);
            } else {
                ledger.fault(format!("{} of {} was answered {answer}", turn.run, turn.key));
                self.pending.retain(|pending| pending.run != turn.run);
            }
        }
        self.pending = refused;
        Some(agents)
    }

    /// What it asks next.
    fn requests(&mut self, place: &Place) -> Vec<Turn> {
        let (age, shared_age) = (place.cycle / AGE, place.cycle / SHARED_AGE);
        let agent = if matches!(self.habit, Habit::Waits | Habit::Agent | Habit::Bursts) { "main" } else { "mock" };
        let key = match self.habit {
            Habit::Shares => format!("agent:{agent}:s{}-{shared_age}", self.index / 8 % SHARED),
            // All in one, so that its queue fills.
            Habit::Crowds => format!("agent:{agent}:s0-{shared_age}"),
            _ => format!("agent:{agent}:w{}-{age}", self.index),
        };
        let requests = match self.habit {
            Habit::Bursts | Habit::Crowds => 3 + self.dice.below(8),
            _ => 1,
        };
        let mut turns = Vec::new();
        for _ in 0..requests {
            let method = match self.habit {
                Habit::Agent => Method::Agent,
                Habit::Tools | Habit::Crowds if self.dice.chance(50) => Method::Agent,
                _ => Method::Send,
            };
            let kind = match self.habit {
                Habit::Tools => Kind::Tool,
                Habit::Shares | Habit::Crowds if self.dice.chance(10) => Kind::Tool,
                _ if agent == "mock" && self.dice.chance(20) => Kind::Slow,
                _ => Kind::Plain,
            };
            turns.push(place.ledger.make(self.index, &key, kind, method));
        }
        turns
    }
}

/// One turn of a stranger to the session, which must be answered: it is not wedged.
pub(crate) async fn probe(client: &GatewayClient, place: &Place, key: &str) -> Option<()> {
    let ledger = &place.ledger;
    let turn = ledger.make(usize::MAX, key, Kind::Plain, Method::Send);
    ledger.sending(&turn.run);
    match client.request(turn.method.name(), turn.params()).await {
        Ok(told) => ledger.acknowledged(&turn.run, &told),
        Err(error) => ledger.fault(format!("{key} takes no turn while nobody is at work in it: {error}")),
    }
    wait(client, place, &turn.run).await
}

/// Repeats an answered request: it must be known, and its end as it was told.
pub(crate) async fn repeat(client: &GatewayClient, ledger: &Ledger, turn: &Turn) -> Option<()> {
    ledger.sending(&turn.run);
    let answer = client.send(turn.method.name(), Some(turn.params())).await.next().await?;
    let told = &answer["payload"];
    match told["status"].as_str() {
        Some("ok" | "error" | "timeout") if turn.method == Method::Agent => told_by_agent(ledger, &turn.run, &answer),
        Some("ok" | "error" | "timeout") => told_by_send(ledger, &turn.run, told),
        _ => ledger.fault(format!("{} has ended, and its repetition was answered {answer}", turn.run)),
    }
    Some(())
}

async fn wait(client: &GatewayClient, place: &Place, run: &str) -> Option<()> {
    let ledger = &place.ledger;
    let limit = u64::try_from(place.end_within.as_millis()).unwrap_or(u64::MAX);
    match client.request("agent.wait", json!({"runId": run, "timeoutMs": limit})).await {
        Ok(told) if told["status"] == "ok" => {
            let text = told["terminalReply"]["text"].as_str().map(str::to_owned);
            ledger.ended(run, End::Completed(text), &told);
        }
        Ok(told) if told["endedAt"].is_number() => ledger.ended(run, failure(told["error"].as_str()), &told),
        Ok(told) => ledger.fault(format!("{run} has no end after {limit} ms: {told}")),
        Err(error) if error["code"] == "CLOSED" => return None,
        Err(error) => ledger.fault(format!("waiting for {run} was answered {error}")),
    }
    Some(())
}

/// Hears the end of a run that this connection started, once.
async fn listen(client: &GatewayClient, ledger: &Ledger, run: &str) -> Option<()> {
    let of_run = |frame: &Value| frame["event"] == "chat" && frame["payload"]["runId"] == run;
    let terminal = |frame: &Value| matches!(frame["payload"]["state"].as_str(), Some("final" | "error" | "aborted"));
    let event = client.event_or_close(|frame| of_run(frame) && terminal(frame)).await?;
    let told = &event["payload"];
    let end = match told["state"].as_str() {
        Some("final") => End::Completed(told["message"]["content"][0]["text"].as_str().map(str::to_owned)),
        Some("error") => failure(told["errorMessage"].as_str()),
        state => End::Failed(format!("{state:?}")),
    };
    ledger.ended(run, end, told);
    let ends = client.take_events().iter().filter(|frame| of_run(frame) && terminal(frame)).count();
    if ends != 1 {
        ledger.fault(format!("{run} ended {ends} times on one connection"));
    }
    Some(())
}

fn told_by_send(ledger: &Ledger, run: &str, told: &Value) {
    let end = match told["status"].as_str() {
        Some("ok") => End::Completed(None),
        _ => failure(told["summary"].as_str()),
    };
    ledger.ended(run, end, told);
}

fn told_by_agent(ledger: &Ledger, run: &str, answer: &Value) {
    let told = &answer["payload"];
    let end = match told["status"].as_str() {
        Some("ok") => End::Completed(told["result"]["payloads"][0]["text"].as_str().map(str::to_owned)),
        _ => failure(told["summary"].as_str()),
    };
    ledger.ended(run, end, told);
}

fn failure(message: Option<&str>) -> End {
    match message {
        Some(INTERRUPTED) => End::Interrupted,
        message => End::Failed(message.unwrap_or_default().to_owned()),
    }
}
