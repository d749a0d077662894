//! The recorded behaviour of OpenClaw 2026.9.6's own command line (the cases of group `cli-e2e`). Where a decision of
//! product.md differs, the case is listed here with what we do instead and the decision's number.

use serde_json::Value;

use crate::command::{Ran, TWO_AGENTS, run, setup};

/// What holds for a case.
enum Verdict {
    /// As recorded, under our own name.
    AsRecorded,
    /// As recorded, but for what the decision changes: this text on stderr instead.
    Decided(u8, &'static str),
    /// Belongs to this other surface.
    Elsewhere(&'static str),
}

fn verdict(id: &str) -> Verdict {
    match id {
        "cli-e2e-1686" | "cli-e2e-1691" | "cli-e2e-1693" | "cli-e2e-1694" | "cli-e2e-1702" => Verdict::AsRecorded,
        "cli-e2e-1690" => Verdict::Decided(
            10,
            "Invalid --session-key \"agent:main\". Agent-prefixed session keys must use agent:<agent-id>:<session-key>.",
        ),
        "cli-e2e-1696" => Verdict::Decided(3, "Running the turn in this process instead, in the same session."),
        "cli-e2e-1700" => Verdict::Decided(11, "Invalid session ID: bad id/.."),
        "cli-e2e-1701" => Verdict::Elsewhere("OpenAI surface"),
        "cli-e2e-1707" | "cli-e2e-1708" => Verdict::Elsewhere("WebSocket"),
        unknown => panic!("{unknown} is not judged yet"),
    }
}

#[tokio::test]
async fn recorded_command_lines_behave_as_recorded_or_as_a_decision_says() {
    let recorded: Value = serde_json::from_str(include_str!("../../../core/tests/vectors/session-keys.json")).unwrap();
    let cases = recorded["cases"].as_array().unwrap().iter().filter(|case| case["group"] == "cli-e2e");
    let (mut as_recorded, mut with_our_value, mut elsewhere) = (0, 0, 0);
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let verdict = verdict(id);
        if let Verdict::Elsewhere(where_to) = verdict {
            assert!(case["argv"].is_null(), "{id} is a command line and does not belong to the {where_to}");
            elsewhere += 1;
            continue;
        }
        let argv: Vec<&str> = case["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let down = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let setup = setup().config(&format!("[gateway]\nlisten = '{down}'\n{TWO_AGENTS}"));
        let ran = run(&setup, &argv).await;
        match verdict {
            Verdict::AsRecorded => {
                assert_eq!(ran.exit.map(i64::from), case["expect"]["exit"].as_i64(), "{id}: {ran:?}");
                let text = ours(case["expect"]["stderr"].as_str().unwrap());
                // Decision 11: `Error: ` goes before every message.
                assert_eq!(ran.stderr, format!("Error: {text}\n"), "{id}");
                as_recorded += 1;
            }
            Verdict::Decided(decision, text) => {
                assert!(ran.stderr.contains(text), "{id}, decision {decision}: {ran:?}");
                decided(decision, case, &ran);
                with_our_value += 1;
            }
            Verdict::Elsewhere(_) => unreachable!("counted above"),
        }
    }
    println!("cli-e2e: {as_recorded} as recorded, {with_our_value} with our value, {elsewhere} belong elsewhere");
    assert_eq!(as_recorded + with_our_value + elsewhere, 11);
}

fn decided(decision: u8, case: &Value, ran: &Ran) {
    let recorded_exit = case["expect"]["exit"].as_i64();
    match decision {
        // A dead gateway is replaced, so the recorded failure becomes an answer.
        3 => assert!(ran.exit == Some(0) && !ran.stdout.is_empty(), "{ran:?}"),
        // Another message, the same shape.
        10 => {
            assert_eq!(ran.exit.map(i64::from), recorded_exit);
            assert_eq!(ran.json()["ok"], case["expect"]["stdoutJson"]["ok"]);
            assert_eq!(ran.json()["error"]["type"], case["expect"]["stdoutJson"]["error"]["type"]);
        }
        // Refused where OpenClaw ran it.
        _ => assert!(ran.exit == Some(1) && recorded_exit == Some(0), "{ran:?}"),
    }
}

/// A recorded text under our own name.
fn ours(text: &str) -> String {
    text.replace("OpenClaw", "watertight").replace("openclaw", "watertight")
}
