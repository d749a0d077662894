//! The official clients of `tests/clients`: the `openclaw` program and scripts over `@openclaw/gateway-client`.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// Far longer than any exchange takes; ends a test whose client hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// The installed clients and the Node.js that runs them, with a home of their own.
pub(crate) struct Clients {
    node: PathBuf,
    folder: PathBuf,
    home: TempDir,
}

/// Where a client finds the gateway.
#[derive(Clone)]
pub(crate) struct Target {
    /// `ws://…`
    pub(crate) url: String,
    /// The operator token.
    pub(crate) token: String,
}

impl Clients {
    /// The clients, or nothing where they are not installed: then the test is noted as skipped and returns.
    /// `WATERTIGHT_REQUIRE_CLIENTS` turns that into a failure.
    pub(crate) fn find() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let bundled = folder.join("node_modules/.bin/node");
        let node = if bundled.exists() { Some(bundled) } else { node_on_path() };
        let installed = folder.join("node_modules/openclaw/openclaw.mjs").exists();
        match node {
            Some(node) if installed => {
                let home = TempDir::new().expect("a home for the clients");
                // Otherwise the program logs to a folder shared by the whole machine.
                let config = serde_json::json!({"logging": {"file": home.path().join("openclaw.log")}});
                std::fs::write(home.path().join("openclaw.json"), config.to_string()).expect("its configuration");
                Some(Self { node, folder, home })
            }
            _ => {
                note_skip();
                None
            }
        }
    }

    /// Runs `openclaw ARGS` against the gateway and waits for its end.
    pub(crate) async fn openclaw(&self, target: &Target, args: &[&str]) -> Output {
        let program = self.folder.join("node_modules/openclaw/openclaw.mjs");
        let mut command = self.command(&program);
        command
            .args(args)
            .env("OPENCLAW_GATEWAY_URL", &target.url)
            .env("OPENCLAW_GATEWAY_TOKEN", &target.token)
            .env("OPENCLAW_STATE_DIR", self.home.path())
            .env("OPENCLAW_NO_AUTO_UPDATE", "1");
        timeout(PATIENCE, command.output()).await.expect("openclaw ends in time").expect("openclaw starts")
    }

    /// Starts a script of `tests/clients`.
    pub(crate) fn script(&self, name: &str, target: &Target) -> Script {
        let mut command = self.command(&self.folder.join(name));
        command.env("GATEWAY_URL", &target.url).env("GATEWAY_TOKEN", &target.token);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the script starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let errors = child.stderr.take().expect("stderr is piped");
        Script { child, lines, errors }
    }

    fn command(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(script).env_clear().env("HOME", self.home.path()).env("PATH", "/usr/bin:/bin");
        command.current_dir(self.home.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// A running script, read line by line.
pub(crate) struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: ChildStderr,
}

impl Script {
    /// The next line, which must be about `what`.
    pub(crate) async fn expect(&mut self, what: &str) -> Value {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            let _ = self.child.start_kill();
            let mut errors = String::new();
            let _ = self.errors.read_to_string(&mut errors).await;
            panic!("the script said nothing about {what}: {line:?}\n{errors}");
        };
        let said: Value = serde_json::from_str(&line).expect("scripts print JSON");
        assert_eq!(said["what"], what, "{said:#}");
        said
    }

    /// Waits for the script's good end.
    pub(crate) async fn finish(mut self) {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("the script ends in time");
        assert!(status.expect("the script was started").success());
    }
}

fn node_on_path() -> Option<PathBuf> {
    let output = std::process::Command::new("node").arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    runs_the_clients(version.trim()).then(|| PathBuf::from("node"))
}

/// `openclaw` wants 24.16 or later of 24, or 26.1 or later.
fn runs_the_clients(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(24), Some(minor)) => minor >= 16,
        (Some(26), Some(minor)) => minor >= 1,
        (Some(major), _) => major > 26,
        _ => false,
    }
}

/// Whether a switch of the environment is on: anything but nothing and `0`.
fn is_set(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0")
}

fn note_skip() {
    assert!(
        !is_set(std::env::var_os("WATERTIGHT_REQUIRE_CLIENTS").as_deref()),
        "the official clients are required and not installed: run `make clients`"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("{test}: skipped, the official clients are not installed (`make clients`)");
    if let Some(log) = std::env::var_os("WATERTIGHT_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(log).expect("the list of skipped tests");
        writeln!(log, "{test}").expect("the list of skipped tests can be written");
    }
}

#[test]
fn a_switch_is_on_unless_it_is_empty_or_zero() {
    for on in ["1", "true", "yes"] {
        assert!(is_set(Some(OsStr::new(on))), "{on}");
    }
    assert!(!is_set(None) && !is_set(Some(OsStr::new(""))) && !is_set(Some(OsStr::new("0"))));
}

#[test]
fn only_a_node_that_the_clients_accept_is_taken() {
    for good in ["v24.16.0", "v24.21.3", "v26.1.0", "v27.0.0"] {
        assert!(runs_the_clients(good), "{good}");
    }
    for bad in ["v20.20.2", "v24.15.9", "v25.9.0", "v26.0.1", "", "node"] {
        assert!(!runs_the_clients(bad), "{bad}");
    }
}
