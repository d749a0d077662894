//! What the mock provider sees: under which names sessions come to it, with what, and how often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use watertight_testkit::mock_provider::ScriptedCall;
use watertight_testkit::{Recorded, Reply};

use crate::ledger::{End, Ledger};

/// Between the pieces of a slow answer.
const PAUSE: Duration = Duration::from_millis(3);

/// Answers like the echo model, and keeps an eye on what it is asked.
#[derive(Default)]
pub(crate) struct Census(Mutex<Book>);

#[derive(Default)]
struct Book {
    ledger: Option<Arc<Ledger>>,
    /// The name of each session's transcript, as first seen.
    transcripts: HashMap<String, String>,
    /// Calls for a run, before and after its tool's result.
    calls: HashMap<(String, bool), u64>,
    requests: u64,
}

impl Census {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on requests are about this ledger's turns.
    pub(crate) fn turn_to(&self, ledger: &Arc<Ledger>) {
        *self.book() = Book { ledger: Some(ledger.clone()), ..Book::default() };
    }

    /// Requests about the present ledger's turns so far.
    pub(crate) fn requests(&self) -> u64 {
        self.book().requests
    }

    /// Looks at a request and says how to answer it.
    pub(crate) fn answer(&self, request: &Recorded) -> Option<Reply> {
        let mut book = self.book();
        book.requests += 1;
        let ledger = book.ledger.clone()?;
        let inputs: Vec<&str> = request.messages().iter().filter(|m| m["role"] == "user").map(text).collect();
        let Some(input) = inputs.last() else {
            ledger.fault("the provider was asked without an input".to_owned());
            return None;
        };
        let words: Vec<&str> = input.split(' ').collect();
        let [key, run, kind] = words[..] else {
            ledger.fault(format!("the provider was asked {input:?}, which nobody sent"));
            return None;
        };
        if let Some(other) = inputs.iter().find(|text| text.split(' ').next() != Some(key)) {
            ledger.fault(format!("the provider was sent {other:?} in the prompt of {run} of {key}"));
        }
        if request.session_key() != Some(key) {
            ledger.fault(format!("{run} of {key} came to the provider as {:?}", request.session_key()));
        }
        let transcript = request.session_id().unwrap_or_default().to_owned();
        let known = book.transcripts.entry(key.to_owned()).or_insert_with(|| transcript.clone());
        if transcript.is_empty() || *known != transcript {
            ledger.fault(format!("the transcript of {key} was {known:?} for the provider and is {transcript:?}"));
        }
        let after_tool = request.last_role() == "tool";
        let calls = book.calls.entry((run.to_owned(), after_tool)).or_default();
        *calls += 1;
        match ledger.turn(run) {
            Some(turn) => {
                let allowed = 1 + ledger.kills() - turn.kills_at_send;
                if *calls > allowed {
                    ledger
                        .fault(format!("the provider was asked {calls} times for {run}, which lived {allowed} times"));
                }
                if let Some(End::Completed(_)) = turn.end {
                    ledger.fault(format!("the provider was asked for {run}, which had ended"));
                }
            }
            None => ledger.fault(format!("the provider was asked for {run}, which nobody sent")),
        }
        if kind == "tool" && !after_tool {
            return Some(Reply::tool_calls(vec![ScriptedCall::new(&format!("call-{run}"), "time", &json!({}))]));
        }
        let end = format!(" (turn {})", inputs.len());
        let reply = Reply::pieces(["Heard: ", input, &end]);
        Some(if kind == "slow" { reply.with_pause(PAUSE) } else { reply })
    }
}

fn text(message: &Value) -> &str {
    let content = &message["content"];
    content.as_str().or_else(|| content[0]["text"].as_str()).unwrap_or_default()
}
