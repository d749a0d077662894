//! Turns over the WebSocket: acknowledged, streamed, final.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use watertight_testkit::gateway::{Gateway, GatewaySetup};
use watertight_testkit::gateway_client::{ConnectOptions, GatewayClient};
use watertight_testkit::mock_provider::{MockProvider, Reply};

use crate::figures::{Report, histogram};
use crate::{Options, floor, process};

/// How long the floor is measured, before and after the turns.
const FLOOR_TIME: Duration = Duration::from_secs(1);

/// What one session took, in microseconds from sending.
struct Taken {
    acknowledged: Histogram<u64>,
    first_text: Histogram<u64>,
    done: Histogram<u64>,
}

impl Taken {
    fn new() -> Self {
        Self { acknowledged: histogram(), first_text: histogram(), done: histogram() }
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.acknowledged.add(&other.acknowledged)?;
        self.first_text.add(&other.first_text)?;
        self.done.add(&other.done)?;
        Ok(())
    }
}

pub(crate) async fn measure(binary: &Path, options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let provider = MockProvider::start().await;
    let chunks = options.chunks;
    provider.answer_with(move |_| Some(Reply::pieces((0..chunks).map(|n| format!("chunk {n} ")))));
    let setup = GatewaySetup::new(binary).config(&format!(
        "[[agents]]\nid = \"main\"\nmodel = \"mock/m\"\n[providers.mock]\nkind = \"openai\"\nbase_url = \"{}\"\n",
        provider.base_url()
    ));

    let mut commits = floor::synced_commits(&setup.state_dir(), FLOOR_TIME)?;
    let started = Instant::now();
    let gateway = setup.start().await;
    report.add("first start to ready", started.elapsed().as_secs_f64() * 1000.0, "ms");
    gateway.terminate().await;
    let started = Instant::now();
    let gateway = setup.start().await;
    report.add("start to ready (asked every 20 ms)", started.elapsed().as_secs_f64() * 1000.0, "ms");
    report.add("resident, idle", process::resident(gateway.pid())?, "MiB");

    let mut clients = Vec::new();
    for session in 0..options.sessions {
        clients.push(watching(&gateway, &format!("agent:main:bench-{session}")).await?);
    }
    // One turn each first: connections to the provider, page cache, session actors.
    all_sessions(clients.iter(), 1).await?;
    let cpu_before = process::cpu(gateway.pid())?;
    let start = Instant::now();
    let taken = all_sessions(clients.iter(), options.turns).await?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = process::cpu(gateway.pid())?.saturating_sub(cpu_before);
    commits.add(&floor::synced_commits(&setup.state_dir(), FLOOR_TIME)?)?;

    let turns = (options.sessions * options.turns) as f64;
    report.add("turns a second", turns / elapsed, "1/s");
    report.add("gateway CPU a turn", cpu.as_secs_f64() * 1000.0 / turns, "ms");
    report.add_latency("acknowledged", &taken.acknowledged);
    report.add_latency("first text", &taken.first_text);
    report.add_latency("final", &taken.done);
    report.add_latency("floor: one synced commit", &commits);

    let alone = run_session(&clients[0], 50).await?;
    report.add_latency("one session alone: acknowledged", &alone.acknowledged);
    report.add_latency("one session alone: first text", &alone.first_text);
    report.add_latency("one session alone: final", &alone.done);

    let before = process::resident(gateway.pid())?;
    let cpu_before = process::cpu(gateway.pid())?;
    let mut idle = Vec::new();
    for _ in 0..options.idle {
        idle.push(gateway.try_connect(&quiet()).await.map_err(|error| anyhow!("{error}"))?);
    }
    if options.idle > 0 {
        let each = options.idle as f64;
        report.add("memory of an idle connection", (process::resident(gateway.pid())? - before) * 1024.0 / each, "KiB");
        let cpu = process::cpu(gateway.pid())?.saturating_sub(cpu_before);
        report.add("gateway CPU of a handshake", cpu.as_secs_f64() * 1000.0 / each, "ms");
    }
    drop(idle);
    gateway.terminate().await;
    Ok(report)
}

/// A client that hears only what it asks for.
fn quiet() -> ConnectOptions {
    ConnectOptions { caps: vec!["session-scoped-events".into()], ..ConnectOptions::default() }
}

struct Session {
    client: GatewayClient,
    key: String,
}

async fn watching(gateway: &Gateway, key: &str) -> Result<Session> {
    let client = gateway.try_connect(&quiet()).await.map_err(|error| anyhow!("{error}"))?;
    let subscribed = client.request("sessions.messages.subscribe", json!({"key": key})).await;
    subscribed.map_err(|error| anyhow!("{error}"))?;
    Ok(Session { client, key: key.to_owned() })
}

async fn all_sessions(sessions: impl Iterator<Item = &Session>, turns: usize) -> Result<Taken> {
    let mut all = Taken::new();
    let runs: Vec<_> = sessions.map(|session| run_session(session, turns)).collect();
    for taken in futures_util::future::join_all(runs).await {
        all.add(&taken?)?;
    }
    Ok(all)
}

async fn run_session(session: &Session, turns: usize) -> Result<Taken> {
    let mut taken = Taken::new();
    for _ in 0..turns {
        let run = uuid::Uuid::new_v4().to_string();
        let params = json!({"sessionKey": session.key, "message": "a question of some length", "idempotencyKey": run});
        let start = Instant::now();
        let answer = session.client.request("chat.send", params).await.map_err(|error| anyhow!("{error}"))?;
        taken.acknowledged.saturating_record(start.elapsed().as_micros() as u64);
        anyhow::ensure!(answer["status"] == "started", "unexpected acknowledgement {answer}");
        let of_run = |payload: &Value| payload["runId"] == run.as_str();
        let first = |payload: &Value| of_run(payload) && payload["state"] == "delta";
        session.client.next_payload("chat", first).await;
        taken.first_text.saturating_record(start.elapsed().as_micros() as u64);
        let last = |payload: &Value| of_run(payload) && matches!(payload["state"].as_str(), Some("final" | "error"));
        let end = session.client.next_payload("chat", last).await;
        taken.done.saturating_record(start.elapsed().as_micros() as u64);
        anyhow::ensure!(end["state"] == "final", "the turn failed: {end}");
        session.client.take_events();
    }
    Ok(taken)
}
