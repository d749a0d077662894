//! The gateway's start and stop.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use watertight_testkit::{GatewaySetup, MockProvider, Reply};

use crate::command::{run, setup};

#[tokio::test]
async fn the_start_says_all_a_person_needs_and_never_the_token() {
    let setup = setup().config(
        "[[agents]]\nid = 'main'\n[[agents]]\nid = 'ops'\ndefault = true\nmodel = 'near/m'\n\
         [providers.near]\nkind = 'openai'\nbase_url = 'http://127.0.0.1:9/v1'\n\
         [providers.far]\nkind = 'openai'\nbase_url = 'https://models.example/v1'\napi_key = 'sk-secret'\n\
         [providers.set]\nkind = 'openai'\nbase_url = 'https://models.example/v1'\nsession_header = 'hashed'\n",
    );
    let gateway = setup.start().await;
    let said = gateway.output();
    for line in [
        format!("listens on ws://{}", gateway.address()),
        format!("token     in {}", setup.state_dir().join("operator.token").display()),
        format!("config    {}", setup.state_dir().join("config.toml").display()),
        "agent     main: echo/echo".to_owned(),
        "agent     ops (default): near/m".to_owned(),
        "session header raw (a loopback or private address)".to_owned(),
        "session header off (the address is public; session_header changes it)".to_owned(),
        "session header hashed (as configured)".to_owned(),
        "agent --session-key first --message \"Hello\"".to_owned(),
    ] {
        assert!(said.contains(&line), "{line:?} is missing in:\n{said}");
    }
    assert!(!said.contains(&gateway.token()) && !said.contains("sk-secret"), "{said}");
    let mode = setup.state_dir().join("operator.token").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_first_command_it_prints_works() {
    let setup = setup();
    let gateway = setup.start().await;
    let said = gateway.output();
    let command = said.lines().find(|line| line.contains("agent --session-key")).unwrap().trim();
    let mut shell = tokio::process::Command::new("sh");
    // Only what a new terminal would have: no variable names the state directory.
    let output = shell.args(["-c", command]).env_remove("WATERTIGHT_STATE_DIR").output().await.unwrap();
    let ran = crate::command::ran(output);
    assert!(ran.exit == Some(0) && ran.stdout.contains("Hello"), "{command}: {ran:?}");
}

#[tokio::test]
async fn a_program_path_that_is_no_text_is_no_reason_not_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join(OsStr::from_bytes(b"water\xff"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_watertight"), &program).unwrap();
    let gateway = GatewaySetup::new(program).start().await;
    assert!(gateway.output().contains("  watertight --state-dir"), "{}", gateway.output());
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused_and_told_who_is_there() {
    let setup = setup();
    let gateway = setup.start().await;
    let ran = run(&setup, &["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains(&format!("process {}", gateway.pid())), "{ran:?}");
    assert!(ran.stderr.contains(&gateway.address().to_string()), "{ran:?}");
}

#[tokio::test]
async fn an_address_open_to_others_is_refused_without_tls_or_authentication() {
    let ran = run(&setup(), &["serve", "--listen", "0.0.0.0:0"]).await;
    assert_eq!(ran.exit, Some(1));
    assert!(ran.stderr.contains("--listen: 0.0.0.0:0 is open to other machines"), "{ran:?}");
    let none = setup().config("[gateway]\nbehind_tls_proxy = true\nauth.mode = 'none'\n");
    let ran = run(&none, &["serve", "--listen", "0.0.0.0:0"]).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains("auth.mode = \"none\""), "{ran:?}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run(&setup(), &["serve", "--listen", &address]).await;
    assert_eq!(ran.exit, Some(1));
    assert!(ran.stderr.starts_with(&format!("Error: cannot listen on {address}")), "{ran:?}");
}

#[tokio::test]
async fn a_wrong_configuration_is_reported_whole() {
    let setup = setup().config("listn = 1\n[gateway]\nlisten = 'x'\n");
    let ran = run(&setup, &["serve"]).await;
    assert_eq!(ran.exit, Some(1));
    let file = setup.state_dir().join("config.toml");
    let expected = format!(
        "Error: The configuration is wrong:\n{file}:1: listn: unknown key \"listn\"; known are: gateway, keys, tenants, \
         providers, agents\n{file}:3: gateway.listen: must be an address with a port, such as 127.0.0.1:18789 or \
         [::1]:18789\n",
        file = file.display()
    );
    assert_eq!(ran.stderr, expected);
}

#[tokio::test]
async fn either_signal_stops_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let setup = setup();
        let mut gateway = setup.start().await;
        gateway.signal(signal);
        assert_eq!(gateway.wait().await.code(), Some(0), "{}", gateway.output());
        let again = setup.start().await;
        assert_eq!(again.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_runs() {
    let model = MockProvider::start().await;
    model.push(Reply::hang());
    let setup = setup().config(&format!(
        "[[agents]]\nid = 'main'\nmodel = 'p/m'\n[providers.p]\nkind = 'openai'\nbase_url = '{}'\n",
        model.base_url()
    ));
    let mut gateway = setup.start().await;
    let mut client = setup.command(&["agent", "-m", "hi"]);
    let mut client = client.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    model.wait_for_requests(1).await;
    gateway.signal(Signal::TERM);
    // It says that it is not ready before it closes.
    while gateway.get("/readyz").await.is_ok_and(|(status, _)| status == 200) {}
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().await.code(), Some(0), "{}", gateway.output());
    client.kill().await.unwrap();
}

#[tokio::test]
async fn the_most_detailed_log_holds_no_token_message_or_key() {
    let setup = setup().env("WATERTIGHT_LOG", "trace");
    let gateway = setup.start().await;
    let ran = run(&setup, &["agent", "--session-key", "key-marker-5a1", "--message", "message-marker-7c3"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let token = gateway.token();
    let log = format!("{}{}", gateway.output(), ran.stderr);
    gateway.terminate().await;
    assert!(log.contains("a client is connected"), "the log is on: {log}");
    for secret in [token.as_str(), "key-marker-5a1", "message-marker-7c3"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_lost_token_is_said_at_the_start() {
    let setup = setup();
    setup.start().await.terminate().await;
    std::fs::write(setup.state_dir().join("operator.token"), "\n").unwrap();
    let gateway = setup.start().await;
    assert!(gateway.output().contains("token     MISSING from"), "{}", gateway.output());
    gateway.terminate().await;
}
