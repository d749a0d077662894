//! Where the text comes from (sessions.md §2.3, messages 5, 9 and 10).

use crate::command::{run, run_with_input};
use crate::fake_gateway::FakeGateway;

#[tokio::test]
async fn standard_input_is_read_where_the_file_is_a_dash() {
    let gateway = FakeGateway::saying("ok").await;
    let ran =
        run_with_input(&gateway.setup(), &["agent", "--message-file", "-"], "\u{feff}Grüße\nzwei\n".as_bytes()).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert_eq!(gateway.turn()["message"], "Grüße\nzwei\n");
}

#[tokio::test]
async fn a_message_may_look_like_a_flag() {
    let gateway = FakeGateway::saying("ok").await;
    assert_eq!(run(&gateway.setup(), &["agent", "--message", "--help me"]).await.exit, Some(0));
    assert_eq!(gateway.turn()["message"], "--help me");
}

#[tokio::test]
async fn a_file_that_is_no_message_is_refused() {
    let gateway = FakeGateway::saying("ok").await;
    let setup = gateway.setup();
    let path = |name: &str| setup.state_dir().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("blank"), " \n").unwrap();
    std::fs::write(path("binary"), b"\xff\xfe").unwrap();
    for (name, said) in [
        ("missing", "Message file not found"),
        (".", "Message file is a directory"),
        ("blank", "Message file is empty"),
        ("binary", "Message file must be valid UTF-8"),
    ] {
        let path = path(name);
        run(&setup, &["agent", "--message-file", &path]).await.refused(&format!("{said}: {path}"));
    }
    let binary = run_with_input(&setup, &["agent", "--message-file", "-"], b"\xff").await;
    binary.refused("Message file must be valid UTF-8: -");
    let large = run_with_input(&setup, &["agent", "--message-file", "-"], &vec![b'a'; 4 * 1024 * 1024 + 1]).await;
    large.refused("Message file is too large: -. At most 4 MiB are allowed.");
    run(&setup, &["agent", "--message-file", ""]).await.refused("--message-file must not be empty.");
    let both = run(&setup, &["agent", "--message-file", "x", "--message", "y"]).await;
    both.refused("Use either --message or --message-file, not both.");
    assert!(gateway.asked().is_empty());
}

#[tokio::test]
async fn no_message_is_refused() {
    let gateway = FakeGateway::saying("ok").await;
    let missing = "Missing message. Use watertight agent --message \"...\" --agent <id> or watertight agent \
                   --message-file <path> --agent <id>.";
    run(&gateway.setup(), &["agent", "--agent", "ops"]).await.refused(missing);
    run(&gateway.setup(), &["agent", "--message", " \n"]).await.refused(missing);
    assert!(gateway.asked().is_empty());
}

#[tokio::test]
async fn compaction_is_a_command_and_not_a_message() {
    let gateway = FakeGateway::saying("ok").await;
    let said = "Slash commands cannot be executed via --message from the CLI. Compaction is not available yet.";
    for message in ["/compact", "/compact now", "/compact:x"] {
        run(&gateway.setup(), &["agent", "--message", message]).await.refused(said);
    }
    assert!(gateway.asked().is_empty());
    assert_eq!(run(&gateway.setup(), &["agent", "--message", "/compactor"]).await.exit, Some(0));
}
