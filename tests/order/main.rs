//! No acknowledgement leaves before the sync of its commit has returned (isolation.md C3), and none at all after a sync
//! has failed (C9), as the kernel saw it.
//!
//! * [`strace`]: the program under a tracer; tests that need it are counted as skipped where it is not to be had.
//! * [`trace`]: what the tracer wrote, read back. [`proof`]: what must hold in it.
//! * [`client`]: a connection whose frames are legible in the trace.

#![allow(clippy::unwrap_used, reason = "a failed precondition of a test is a failed test")]

mod client;
mod proof;
mod strace;
mod trace;

use std::process::ExitStatus;

use serde_json::json;
use watertight_testkit::gateway::built_program;
use watertight_testkit::{Gateway, GatewaySetup};

use client::{Client, Told};
use proof::{Attribution, Harm, prove};
use trace::Trace;

/// Turns of one client that waits for each.
const ALONE: usize = 120;
/// Turns of each of several clients that do not wait for one another.
const TOGETHER: usize = 60;
const CLIENTS: usize = 4;

fn run_id(client: usize, turn: usize) -> String {
    format!("order-{client}-{turn:04}")
}

/// Asks by turns with both methods and waits for the end of each run; answers with how many were acknowledged.
async fn converse(gateway: &Gateway, client: usize, turns: usize) -> usize {
    let mut socket = Client::connect(gateway.address(), &gateway.token()).await;
    for turn in 0..turns {
        let run = run_id(client, turn);
        // Every third turn goes to a session that the clients share.
        let key = if turn % 3 == 0 { "agent:main:shared".to_owned() } else { format!("agent:main:c{client}") };
        let method = if turn % 2 == 0 { "chat.send" } else { "agent" };
        let params = json!({"sessionKey": key, "message": format!("turn {turn}"), "idempotencyKey": run});
        socket.send(method, &params).await;
        let told = socket.until_end_of(&run).await;
        if told != Told::Completed {
            return turn + usize::from(told == Told::Acknowledged);
        }
    }
    turns
}

async fn traced(setup: &GatewaySetup, work: impl AsyncFnOnce(&Gateway)) -> Trace {
    let gateway = setup.start().await;
    let pid = gateway.pid();
    work(&gateway).await;
    assert!(gateway.terminate().await.success());
    strace::read(setup, pid).await
}

#[tokio::test]
async fn no_acknowledgement_leaves_before_the_sync_of_its_commit() {
    let Some(mut setup) = strace::setup(built_program()) else { return };
    strace::watch(&mut setup, None);
    let trace = traced(&setup, async |gateway| {
        assert_eq!(converse(gateway, 0, ALONE).await, ALONE);
    })
    .await;
    let runs: Vec<String> = (0..ALONE).map(|turn| run_id(0, turn)).collect();
    let proof = prove(&trace, &runs, Attribution::Exact).unwrap_or_else(|found| panic!("{}", found.join("\n")));
    assert_eq!((proof.acknowledged, proof.ended), (ALONE, ALONE));

    // The same trace with the harm that each of these would be must not pass.
    for turn in (0..ALONE).step_by(ALONE / 8) {
        for harm in [Harm::Missing, Harm::Failed, Harm::Late] {
            for commit in [0, 1] {
                let harmed = proof.harmed(&trace, turn, commit, harm);
                let found = prove(&harmed, &runs, Attribution::Exact);
                assert!(found.is_err(), "{harm:?} of commit {commit} of turn {turn} went unnoticed");
            }
        }
    }
}

#[tokio::test]
async fn acknowledgements_of_several_clients_follow_a_sync_each() {
    let Some(mut setup) = strace::setup(built_program()) else { return };
    strace::watch(&mut setup, None);
    let trace = traced(&setup, async |gateway| {
        let clients = (0..CLIENTS).map(|client| converse(gateway, client, TOGETHER));
        let done = futures_util::future::join_all(clients).await;
        assert_eq!(done, [TOGETHER; CLIENTS]);
    })
    .await;
    let runs: Vec<String> =
        (0..CLIENTS).flat_map(|client| (0..TOGETHER).map(move |turn| run_id(client, turn))).collect();
    let proof = prove(&trace, &runs, Attribution::Shared).unwrap_or_else(|found| panic!("{}", found.join("\n")));
    assert_eq!((proof.acknowledged, proof.ended), (runs.len(), runs.len()));
}

/// A kill may come between the write of a commit and its sync. What the next process finds in the log is then only in the
/// system's memory, and a repeated request must not be acknowledged from it before it is durable.
#[tokio::test]
async fn a_repeated_request_after_a_kill_is_acknowledged_once_the_log_is_durable() {
    let Some(mut setup) = strace::setup(built_program()) else { return };
    let params = json!({"sessionKey": "hang", "message": "/echo hang", "idempotencyKey": run_id(0, 0)});
    let gateway = setup.start().await;
    let mut socket = Client::connect(gateway.address(), &gateway.token()).await;
    socket.send("chat.send", &params).await;
    assert_eq!(socket.until_acknowledged(&run_id(0, 0)).await, Told::Acknowledged);
    gateway.kill().await;

    strace::watch(&mut setup, None);
    let gateway = setup.start().await;
    let pid = gateway.pid();
    let mut socket = Client::connect(gateway.address(), &gateway.token()).await;
    socket.send("chat.send", &params).await;
    let told = socket.until_acknowledged(&run_id(0, 0)).await;
    assert!(told != Told::Refused, "{told:?}");
    gateway.kill().await;
    let trace = strace::read(&setup, pid).await;
    proof::durable_before_any_acknowledgement(&trace, &run_id(0, 0)).unwrap_or_else(|found| panic!("{found}"));
}

/// Runs the program with every sync of its writer failing from the `nth` on. Answers how it ended and what it said.
async fn with_failing_syncs(
    nth: usize,
    clients: usize,
) -> Option<(Trace, Vec<usize>, ExitStatus, String, GatewaySetup)> {
    let mut setup = strace::setup(built_program())?;
    // The store and its keys are made before: a first start syncs much more.
    assert!(setup.start().await.terminate().await.success());
    strace::watch(&mut setup, Some(nth));
    let mut gateway = setup.start().await;
    let pid = gateway.pid();
    let work = (0..clients).map(|client| converse(&gateway, client, ALONE));
    let acknowledged = futures_util::future::join_all(work).await;
    let status = gateway.wait().await;
    let output = gateway.output();
    drop(gateway);
    let trace = strace::read(&setup, pid).await;
    strace::leave(&mut setup);
    Some((trace, acknowledged, status, output, setup))
}

/// The first sync to fail: late enough that the start is over, and once that of an input, once that of an answer.
const FAILING: [usize; 2] = [14, 15];

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_the_program_stops() {
    for nth in FAILING {
        let Some((trace, acknowledged, status, output, setup)) = with_failing_syncs(nth, 1).await else { return };
        let acknowledged = acknowledged[0];
        assert!((3..ALONE).contains(&acknowledged), "{acknowledged} turns were acknowledged; it said:\n{output}");
        let runs: Vec<String> = (0..acknowledged).map(|turn| run_id(0, turn)).collect();
        prove(&trace, &runs, Attribution::Exact).unwrap_or_else(|found| panic!("{}", found.join("\n")));
        proof::nothing_after_failure(&trace).unwrap_or_else(|found| panic!("{found}"));

        assert!(status.code().is_some_and(|code| code != 0), "it ended with {status}; it said:\n{output}");
        let telling = output.lines().filter(|line| line.contains("could not be made durable")).count();
        assert_eq!(telling, 1, "one line says why:\n{output}");

        // What was acknowledged is there after a restart, once.
        let gateway = setup.start().await;
        let client = gateway.connect().await;
        let mut found = Vec::new();
        for key in ["agent:main:shared", "agent:main:c0"] {
            let history = client.request("chat.history", json!({"sessionKey": key, "limit": 1000})).await.unwrap();
            let inputs = history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
            found.extend(inputs.filter_map(|message| message["__openclaw"]["runId"].as_str().map(str::to_owned)));
        }
        for run in &runs {
            assert_eq!(found.iter().filter(|found| *found == run).count(), 1, "{run} in {found:?}");
        }
    }
}

#[tokio::test]
async fn after_a_failed_sync_no_client_of_several_is_acknowledged() {
    let Some((trace, _, status, output, _)) = with_failing_syncs(FAILING[0] + 10, CLIENTS).await else { return };
    proof::nothing_after_failure(&trace).unwrap_or_else(|found| panic!("{found}"));
    assert!(status.code().is_some_and(|code| code != 0), "it ended with {status}; it said:\n{output}");
}

/// The same without a tracer: what is written into a file that has no name any more is lost too.
#[tokio::test]
async fn a_gateway_whose_store_is_gone_stops() {
    let setup = GatewaySetup::new(built_program());
    let mut gateway = setup.start().await;
    assert_eq!(converse(&gateway, 0, 1).await, 1);
    let store = setup.state_dir().join("store.db");
    std::fs::rename(&store, store.with_extension("elsewhere")).unwrap();
    assert_eq!(converse(&gateway, 1, 1).await, 0);
    let status = gateway.wait().await;
    assert_eq!(status.code(), Some(1), "{}", gateway.output());
    assert!(
        gateway.output().contains("Error: stopped, because nothing can be stored any more"),
        "{}",
        gateway.output()
    );
}
