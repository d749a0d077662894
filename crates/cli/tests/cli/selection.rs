//! Which session a command names; what is refused before any dispatch, and in which order (sessions.md §2.2, §2.3).

use serde_json::{Value, json};

use crate::command::run;
use crate::fake_gateway::FakeGateway;

/// The selectors the gateway was sent for these flags.
async fn sent(flags: &[&str]) -> Value {
    sent_under("", flags).await
}

async fn sent_under(config: &str, flags: &[&str]) -> Value {
    let gateway = FakeGateway::saying("ok").await;
    let args = [&["agent", "--message", "hi"], flags].concat();
    let ran = run(&gateway.setup_with(config), &args).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let turn = gateway.turn();
    json!({"sessionKey": turn["sessionKey"], "sessionId": turn["sessionId"], "agentId": turn["agentId"]})
}

fn selectors(key: Option<&str>, id: Option<&str>, agent: Option<&str>) -> Value {
    json!({"sessionKey": key, "sessionId": id, "agentId": agent})
}

/// Runs `agent --message hi` with these flags against a gateway that must hear nothing.
async fn refused(flags: &[&str], message: &str) {
    refused_whole(&[&["agent", "--message", "hi"], flags].concat(), message).await;
}

async fn refused_whole(args: &[&str], message: &str) {
    let gateway = FakeGateway::saying("ok").await;
    run(&gateway.setup(), args).await.refused(message);
    assert!(gateway.asked().is_empty(), "refused before any dispatch: {args:?}");
}

#[tokio::test]
async fn an_agents_key_is_sent_as_it_is() {
    assert_eq!(
        sent(&["--session-key", "agent:ops:incident-42"]).await,
        selectors(Some("agent:ops:incident-42"), None, None)
    );
    assert_eq!(
        sent(&["--session-key", "agent:ops:Incident-42", "--agent", "OPS"]).await,
        selectors(Some("agent:ops:Incident-42"), None, Some("OPS"))
    );
    // Whether the agent of a key exists is the gateway's to say.
    assert_eq!(sent(&["--session-key", "agent:nope:x"]).await, selectors(Some("agent:nope:x"), None, None));
}

#[tokio::test]
async fn a_bare_key_belongs_to_the_agent_or_to_the_default_agent() {
    assert_eq!(sent(&["--session-key", "inc"]).await, selectors(Some("agent:main:inc"), None, None));
    assert_eq!(
        sent(&["--session-key", "inc", "--agent", "ops"]).await,
        selectors(Some("agent:ops:inc"), None, Some("ops"))
    );
    assert_eq!(sent(&["--session-key", "main"]).await, selectors(Some("agent:main:main"), None, None));
}

#[tokio::test]
async fn the_tenants_policy_decides_whether_a_bare_key_is_folded() {
    let key = ["--session-key", "Incident 42"];
    assert_eq!(sent(&key).await["sessionKey"], "agent:main:Incident 42");
    let openclaw = "[tenants.default]\nkey_policy = 'openclaw'";
    assert_eq!(sent_under(openclaw, &key).await["sessionKey"], "agent:main:incident 42");
}

#[tokio::test]
async fn a_sentinel_is_literal_without_an_agent_and_the_agents_with_one() {
    for sentinel in ["global", "unknown"] {
        assert_eq!(sent(&["--session-key", sentinel]).await, selectors(Some(sentinel), None, None));
        let scoped = format!("agent:ops:{sentinel}");
        assert_eq!(
            sent(&["--session-key", sentinel, "--agent", "ops"]).await,
            selectors(Some(&scoped), None, Some("ops"))
        );
    }
}

#[tokio::test]
async fn a_key_goes_before_an_id_and_an_id_before_an_agent() {
    assert_eq!(
        sent(&["--session-key", "x", "--session-id", "sid-1"]).await,
        selectors(Some("agent:main:x"), Some("sid-1"), None)
    );
    assert_eq!(sent(&["--session-id", "sid-1"]).await, selectors(None, Some("sid-1"), None));
    assert_eq!(
        sent(&["--session-id", "sid-1", "--agent", "ops", "--to", "+1"]).await,
        selectors(None, Some("sid-1"), Some("ops"))
    );
}

#[tokio::test]
async fn without_a_key_or_an_id_the_agents_main_session_is_meant() {
    assert_eq!(sent(&["--agent", "ops"]).await, selectors(None, None, Some("ops")));
    assert_eq!(sent(&[]).await, selectors(Some("agent:main:main"), None, None));
}

#[tokio::test]
async fn a_recipient_means_the_main_session_unless_it_is_an_agents_key() {
    assert_eq!(sent(&["--to", "+15555550123"]).await, selectors(None, None, Some("main")));
    assert_eq!(sent(&["-t", "+15555550123", "--agent", "ops"]).await, selectors(None, None, Some("ops")));
    assert_eq!(sent(&["--to", "agent:ops:x"]).await, selectors(Some("agent:ops:x"), None, None));
    assert_eq!(sent(&["--to", "agent:ops:x", "--session-key", "y"]).await, selectors(Some("agent:main:y"), None, None));
}

#[tokio::test]
async fn a_malformed_key_is_refused() {
    for key in ["agent:", "agent:main", "agent::x", "agent:main:", "agent:main::x", "AGENT:ops"] {
        let message = format!(
            "Invalid --session-key \"{key}\". Agent-prefixed session keys must use agent:<agent-id>:<session-key>."
        );
        refused(&["--session-key", key], &message).await;
        refused(&["--session-key", key, "--agent", "ops"], &message).await;
    }
}

#[tokio::test]
async fn a_key_of_another_agent_than_the_one_named_is_refused() {
    let message = "Agent id \"ops\" does not match session key agent \"main\".";
    refused(&["--session-key", "agent:main:x", "--agent", "ops"], message).await;
    refused(&["--to", "agent:main:x", "--agent", "ops"], message).await;
}

#[tokio::test]
async fn a_blank_flag_is_refused_even_beside_another_selector() {
    for flag in ["--agent", "--session-id", "--session-key", "--to"] {
        for blank in ["", " ", "\t"] {
            refused(&[flag, blank], &format!("{flag} must not be blank")).await;
        }
    }
    refused(&["--session-key", "x", "--agent", " "], "--agent must not be blank").await;
    refused(&["--session-key", " ", "--agent", "ops"], "--session-key must not be blank").await;
}

#[tokio::test]
async fn an_agent_that_is_not_configured_is_refused() {
    let message = "Unknown agent id \"nope\". Use \"watertight agents list\" to see configured agents.";
    refused(&["--agent", "nope"], message).await;
    refused(&["--agent", "nope", "--session-key", "x"], message).await;
}

#[tokio::test]
async fn a_timeout_is_a_whole_number_of_seconds() {
    let message = "Invalid --timeout. Use seconds as a non-negative integer, for example --timeout 600. Use --timeout 0 \
                   to disable the timeout.";
    for wrong in ["abc", "600s", "1.5", "-1", "1e3", "", " "] {
        refused(&["--timeout", wrong], message).await;
    }
    let gateway = FakeGateway::saying("ok").await;
    run(&gateway.setup(), &["agent", "-m", "hi"]).await;
    assert_eq!(gateway.turn()["timeout"], 600);
    for (text, seconds) in [("0", 0), ("60", 60), (" 7 ", 7)] {
        let gateway = FakeGateway::saying("ok").await;
        run(&gateway.setup(), &["agent", "-m", "hi", "--timeout", text]).await;
        assert_eq!(gateway.turn()["timeout"], seconds);
    }
}

#[tokio::test]
async fn a_session_id_is_never_shaped_like_a_path() {
    refused(&["--session-id", "../../etc/passwd"], "Invalid session ID: ../../etc/passwd").await;
    refused(&["--session-id", "bad id/..", "--agent", "ops"], "Invalid session ID: bad id/..").await;
}

#[tokio::test]
async fn levels_are_words_of_a_list() {
    refused(&["--thinking", "deep"], "Invalid thinking level. Use one of: off, minimal, low, medium, high, xhigh.")
        .await;
    refused(&["--verbose", "loud"], "Invalid verbose level. Use \"on\", \"full\", or \"off\".").await;
}

#[tokio::test]
async fn flags_that_need_a_messaging_channel_are_refused() {
    for flags in [
        &["--deliver"][..],
        &["--channel", "x"],
        &["--reply-to", "x"],
        &["--reply-channel", "x"],
        &["--reply-account", "x"],
    ] {
        let message = format!(
            "{} needs a messaging channel, which watertight does not have: leave it out and read the answer here.",
            flags[0]
        );
        refused(flags, &message).await;
    }
}

/// blank flags, message, `/compact`, malformed, mismatch, unknown agent, timeout, session id.
#[tokio::test]
async fn checks_come_in_one_order() {
    let malformed = "Invalid --session-key \"agent:x\". Agent-prefixed session keys must use \
                     agent:<agent-id>:<session-key>.";
    let unknown = "Unknown agent id \"nope\". Use \"watertight agents list\" to see configured agents.";
    refused_whole(&["agent", "--agent", " ", "--session-key", "agent:x"], "--agent must not be blank").await;
    refused_whole(
        &["agent", "--session-key", "agent:x"],
        "Missing message. Use watertight agent --message \"...\" --agent <id> or watertight agent --message-file \
         <path> --agent <id>.",
    )
    .await;
    refused_whole(
        &["agent", "-m", "/compact", "--session-key", "agent:x"],
        "Slash commands cannot be executed via --message from the CLI. Compaction is not available yet.",
    )
    .await;
    refused(&["--session-key", "agent:x", "--agent", "nope"], malformed).await;
    refused(&["--agent", "nope", "--timeout", "x"], unknown).await;
    refused(
        &["--timeout", "x", "--session-id", "../x"],
        "Invalid --timeout. Use seconds as a non-negative integer, for \
        example --timeout 600. Use --timeout 0 to disable the timeout.",
    )
    .await;
}

#[tokio::test]
async fn what_was_asked_of_the_turn_is_sent_with_it() {
    let gateway = FakeGateway::saying("ok").await;
    let args = ["agent", "-m", "hi", "--model", "p/m", "--thinking", "HIGH", "--verbose", "on", "--session-key", "x"];
    assert_eq!(run(&gateway.setup(), &args).await.exit, Some(0));
    let turn = gateway.turn();
    assert_eq!((&turn["message"], &turn["model"], &turn["thinking"]), (&json!("hi"), &json!("p/m"), &json!("high")));
    assert_eq!(turn["deliver"], false);
    assert!(turn["idempotencyKey"].as_str().unwrap().len() == 36, "a UUID");
    let connect = &gateway.asked()[0].params;
    assert_eq!(connect["auth"]["token"], "fake-token");
    assert_eq!((&connect["client"]["id"], &connect["client"]["mode"]), (&json!("cli"), &json!("cli")));
    assert_eq!(connect["scopes"], json!(["operator.admin"]));
    assert_eq!(connect["caps"], json!(["tool-events"]));
}

#[tokio::test]
async fn another_gateway_resolves_bare_keys_itself() {
    let gateway = FakeGateway::saying("ok").await;
    let url = format!("http://{}", gateway.address);
    let setup = crate::command::setup().env("WATERTIGHT_URL", &url).env("WATERTIGHT_TOKEN", "theirs");
    let ran = run(&setup, &["agent", "-m", "hi", "--session-key", "x"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert_eq!(gateway.turn()["sessionKey"], "x");
    assert_eq!(gateway.asked()[0].params["auth"]["token"], "theirs");
}

#[tokio::test]
async fn the_operators_token_is_not_sent_to_another_machine() {
    let setup = crate::command::setup().config("[gateway]\nauth.token = 'ours'\n");
    let ran = run(&setup, &["agent", "-m", "hi", "--url", "wss://gateway.example"]).await;
    ran.refused("Pass --token (or WATERTIGHT_TOKEN) for a gateway on another machine.");
}
