//! Running the program.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::process::Stdio;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use watertight_testkit::{GatewaySetup, PATIENCE};

/// Two agents, `main` the default.
pub(crate) const TWO_AGENTS: &str = "[[agents]]\nid = 'main'\n[[agents]]\nid = 'ops'\n";

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Asserts that it was refused with this line and printed no data.
    #[track_caller]
    pub(crate) fn refused(&self, message: &str) {
        assert_eq!(self.stderr, format!("Error: {message}\n"), "{self:?}");
        assert_eq!((self.exit, self.stdout.as_str()), (Some(1), ""), "{self:?}");
    }
}

/// Holds the state directory as a process that serves there, or has not named its address yet.
pub(crate) struct Held(File);

impl Held {
    pub(crate) fn new(setup: &GatewaySetup, address: Option<SocketAddr>) -> Self {
        let lock = File::create(setup.state_dir().join("serve.lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let mut held = Self(lock);
        held.announce(address);
        held
    }

    pub(crate) fn announce(&mut self, address: Option<SocketAddr>) {
        self.write(&json!({"pid": 1, "address": address}));
    }

    pub(crate) fn write(&mut self, note: &Value) {
        self.0.set_len(0).unwrap();
        self.0.rewind().unwrap();
        write!(self.0, "{note}").unwrap();
    }
}

/// A fresh state directory without a configuration.
pub(crate) fn setup() -> GatewaySetup {
    GatewaySetup::new(env!("CARGO_BIN_EXE_watertight"))
}

/// Runs the program to its end.
pub(crate) async fn run(setup: &GatewaySetup, args: &[&str]) -> Ran {
    finish(setup.command(args)).await
}

/// Runs the program with this on its standard input.
pub(crate) async fn run_with_input(setup: &GatewaySetup, args: &[&str], input: &[u8]) -> Ran {
    let mut command = setup.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = tokio::spawn(async move {
        // The program may refuse before it has read everything.
        let _ = stdin.write_all(&input).await;
    });
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends").unwrap();
    writer.await.unwrap();
    ran(output)
}

/// Runs a prepared command to its end.
pub(crate) async fn finish(mut command: Command) -> Ran {
    ran(timeout(PATIENCE, command.output()).await.expect("the program ends").unwrap())
}

pub(crate) fn ran(output: std::process::Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { exit: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
