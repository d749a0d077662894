//! A disk that is full, and one that cannot be written at all. The gateway runs in a mount namespace of its own, where
//! its state directory is a small file system; where the machine allows no such namespace the tests are skipped.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Child;
use watertight_testkit::GatewaySetup;

use crate::socket::{PATIENCE, Socket};
use crate::stage;

/// Makes what follows see `$1` as the state directory, and becomes the rest of the arguments.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=6m,mode=700 none "$WATERTIGHT_STATE_DIR" && exec "$@""#;
const ON_A_READ_ONLY_DISK: &str = r#"mount --bind "$WATERTIGHT_STATE_DIR" "$WATERTIGHT_STATE_DIR" &&
    mount -o remount,bind,ro "$WATERTIGHT_STATE_DIR" && exec "$@""#;

/// The arguments of `unshare` for a shell that sees other mounts than everybody else.
fn confined<'a>(script: &'a str, program: &[&'a str]) -> Vec<&'a str> {
    [&["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"], program].concat()
}

/// Whether this machine allows it; where not, the test is noted as skipped.
async fn namespaces() -> bool {
    let setup = GatewaySetup::new("unshare");
    let output = setup.command(&confined(ON_A_SMALL_DISK, &["true"])).output().await;
    let allowed = output.is_ok_and(|output| output.status.success());
    if !allowed {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        eprintln!("{test}: skipped, this machine allows no mount namespace");
        if let Some(log) = std::env::var_os("WATERTIGHT_SKIP_LOG") {
            let mut log = OpenOptions::new().create(true).append(true).open(log).expect("the list of skipped tests");
            writeln!(log, "{test}").expect("the list of skipped tests can be written");
        }
    }
    allowed
}

/// A gateway whose state lies on a disk of six megabytes.
struct Small {
    _process: Child,
    /// Its state directory, as it sees it.
    state: PathBuf,
    address: String,
    _setup: GatewaySetup,
}

impl Small {
    async fn start() -> Self {
        let setup = GatewaySetup::new("unshare");
        let binary = stage::binary();
        let program = [binary.to_str().expect("a path of text"), "serve", "--listen", "127.0.0.1:0"];
        let mut command = setup.command(&confined(ON_A_SMALL_DISK, &program));
        let process = command.stdout(Stdio::null()).spawn().expect("it starts");
        let inside = format!("/proc/{}/root", process.id().expect("it was just started"));
        let state = Path::new(&inside).join(setup.state_dir().strip_prefix("/").expect("a whole path"));
        let announced = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            loop {
                ticks.tick().await;
                let lock = fs::read_to_string(state.join("serve.lock")).unwrap_or_default();
                let lock: Value = serde_json::from_str(&lock).unwrap_or_default();
                if let Some(address) = lock["address"].as_str() {
                    return format!("ws://{address}/");
                }
            }
        };
        let address = tokio::time::timeout(PATIENCE, announced).await.expect("the gateway starts");
        Self { _process: process, state, address, _setup: setup }
    }

    async fn client(&self) -> Socket {
        let token = fs::read_to_string(self.state.join("operator.token")).expect("a token");
        Socket::connect(&self.address, token.trim(), json!(["operator.admin"]), json!([])).await.0
    }

    fn filler(&self) -> PathBuf {
        self.state.join("filler")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut filler = OpenOptions::new().create(true).append(true).open(self.filler()).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
    }
}

fn message(n: usize) -> Value {
    let (key, run) = (format!("agent:main:s{n}"), format!("r{n}"));
    json!({"sessionKey": key, "message": "x".repeat(50_000), "idempotencyKey": run})
}

#[tokio::test]
async fn a_full_disk_refuses_new_turns_loses_none_and_ends_by_itself() {
    if !namespaces().await {
        return;
    }
    let gateway = Small::start().await;
    let mut client = gateway.client().await;
    client.chat("agent:main:before", "hello").await;
    gateway.fill();
    // The log has some room of its own left.
    let mut taken = 0;
    let error = loop {
        let response = client.request("chat.send", message(taken)).await;
        if response["ok"] == false {
            break response["error"].clone();
        }
        taken += 1;
        assert!(taken < 500, "the disk is not full");
    };
    assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)), "{error:#}");
    assert_eq!(error["details"]["code"], "storage_full", "{error:#}");
    assert!(error["retryAfterMs"].as_u64().is_some_and(|millis| millis > 0), "{error:#}");
    assert_eq!(client.history("agent:main:before").await.len(), 2, "reads go on");
    assert_eq!(client.call("health", json!({})).await["ok"], true);

    fs::remove_file(gateway.filler()).expect("room is made");
    // The same request, as a client repeats it. Nothing was stored of it, so it is a new one.
    while client.request("chat.send", message(taken)).await["ok"] == false {}
    for n in 0..=taken {
        let waited = client.call("agent.wait", json!({"runId": format!("r{n}"), "timeoutMs": 60_000})).await;
        assert_eq!(waited["status"], "ok", "turn {n} of {taken}: {waited:#}");
        let roles: Vec<_> =
            client.history(&format!("agent:main:s{n}")).await.into_iter().map(|(role, _)| role).collect();
        assert_eq!(roles, ["user", "assistant"], "turn {n} of {taken}");
    }
    client.chat("agent:main:before", "and after").await;
    assert_eq!(client.history("agent:main:before").await.len(), 4);
}

/// Names and times of everything in a directory.
fn listing(dir: &Path) -> Vec<(String, std::time::SystemTime)> {
    let entries = fs::read_dir(dir).expect("the directory is there").map(|entry| entry.expect("an entry"));
    let mut listing: Vec<_> = entries
        .map(|entry| {
            let changed = entry.metadata().and_then(|about| about.modified()).expect("a time");
            (entry.file_name().to_string_lossy().into_owned(), changed)
        })
        .collect();
    listing.sort();
    listing
}

#[tokio::test]
async fn a_read_only_disk_is_an_error_at_the_start() {
    if !namespaces().await {
        return;
    }
    let setup = GatewaySetup::new("unshare");
    let binary = stage::binary();
    let binary = binary.to_str().expect("a path of text");
    // A first start leaves a state directory behind.
    let agent = [binary, "agent", "--local", "--message", "hello"];
    let made = setup.command(&confined(r#"exec "$@""#, &agent)).output().await.expect("it runs");
    assert!(made.status.success(), "{made:?}");
    let before = listing(&setup.state_dir());
    let serve = [binary, "serve", "--listen", "127.0.0.1:0"];
    let serving = setup.command(&confined(ON_A_READ_ONLY_DISK, &serve)).output();
    let ended = tokio::time::timeout(PATIENCE, serving).await.expect("it ends").expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("Error: ") && said.to_lowercase().contains("read-only"), "{said}");
    assert_eq!(listing(&setup.state_dir()), before, "nothing is written");
}
