//! What a message asks the echo model to do.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::fault::Fault;

/// The answer to an `/echo` it does not know.
pub(super) const HELP: &str = "Scripts of the echo model: /echo slow N, /echo long N, /echo fail \
    [rate_limit|timeout|context_length|auth|refusal], /echo die, /echo hang, /echo tool NAME {json}, /echo tools A B, \
    /echo history";

const MAX_WORDS: usize = 100_000;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// What to do.
#[derive(Debug, PartialEq)]
pub(super) enum Script<'a> {
    Plain,
    Slow(usize),
    Long(usize),
    Fail(Fault),
    Die,
    Hang,
    Tools(Vec<(&'a str, Value)>),
    History,
    Unknown,
}

/// Reads a message. Anything that does not start with the word `/echo` is plain text.
pub(super) fn parse(text: &str) -> Script<'_> {
    let (first, rest) = split_word(text);
    if first != "/echo" {
        return Script::Plain;
    }
    let (verb, rest) = split_word(rest);
    match verb {
        "slow" => number(rest, MAX_WORDS).map_or(Script::Unknown, Script::Slow),
        "long" => number(rest, MAX_BYTES).map_or(Script::Unknown, Script::Long),
        "fail" => failure(rest).map_or(Script::Unknown, Script::Fail),
        "die" => Script::Die,
        "hang" => Script::Hang,
        "history" => Script::History,
        "tool" => match split_word(rest) {
            ("", _) => Script::Unknown,
            (tool, arguments) => Script::Tools(vec![(tool, json(arguments))]),
        },
        "tools" => match rest.split_whitespace().map(|tool| (tool, no_arguments())).collect::<Vec<_>>() {
            tools if tools.is_empty() => Script::Unknown,
            tools => Script::Tools(tools),
        },
        _ => Script::Unknown,
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn number(text: &str, max: usize) -> Option<usize> {
    text.parse::<usize>().ok().map(|n| n.min(max))
}

fn failure(text: &str) -> Option<Fault> {
    Some(match text {
        "" => Fault::Failed,
        "rate_limit" => Fault::RateLimited { retry_after: None },
        "timeout" => Fault::Timeout { after: Duration::from_mins(2) },
        "context_length" => Fault::ContextLength,
        "auth" => Fault::Auth,
        "refusal" => Fault::Refusal,
        _ => return None,
    })
}

/// Arguments that are no JSON are passed on as text, the way a careless model's would be.
fn json(text: &str) -> Value {
    if text.is_empty() {
        return no_arguments();
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn no_arguments() -> Value {
    Value::Object(Map::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scripts_are_read_by_words() {
        assert_eq!(parse("hello /echo"), Script::Plain);
        assert_eq!(parse("/echoes"), Script::Plain);
        assert_eq!(parse(" /echo  slow 3\n"), Script::Slow(3));
        assert_eq!(parse("/echo slow x"), Script::Unknown);
        assert_eq!(parse("/echo long 99999999"), Script::Long(MAX_BYTES));
        assert_eq!(parse("/echo fail context_length"), Script::Fail(Fault::ContextLength));
        assert_eq!(parse("/echo fail"), Script::Fail(Fault::Failed));
        assert_eq!(parse("/echo tool time {\"zone\": \"UTC\"}"), Script::Tools(vec![("time", json!({"zone": "UTC"}))]));
        assert_eq!(parse("/echo tool time {oops"), Script::Tools(vec![("time", json!("{oops"))]));
        assert_eq!(parse("/echo tools a b"), Script::Tools(vec![("a", json!({})), ("b", json!({}))]));
        for unknown in ["/echo", "/echo x", "/echo tool", "/echo tools", "/echo fail x"] {
            assert_eq!(parse(unknown), Script::Unknown, "{unknown}");
        }
    }
}
