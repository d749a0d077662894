//! The envelopes: requests in, responses and events out (gateway-ws.md §1.3).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::bounds::{self, OutOfBounds};
use super::failure::ErrorShape;
use super::shape::{self, Shape, any, closed, one_of, optional, required, text, text_within};

/// A request.
#[derive(Debug)]
pub struct Request {
    /// The client's name for the request; echoed, never interpreted.
    pub id: String,
    /// The method.
    pub method: String,
    /// Its parameters, not parsed yet.
    pub params: Option<Box<RawValue>>,
}

/// A frame that is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// Not JSON at all.
    NotJson,
    /// JSON beyond the bounds; its id is not known.
    OutOfBounds(OutOfBounds),
    /// JSON, but not a request.
    NotRequest {
        /// The id it carries, where it has one.
        id: Option<String>,
        /// What does not fit.
        problem: String,
    },
}

static ENVELOPE: Shape = closed(&[
    required("type", one_of(&["req"])),
    required("id", text(1)),
    required("method", text(1)),
    optional("params", any()),
    optional("traceparent", text_within(0, 128)),
    optional("expectedProfileId", text_within(1, 128)),
]);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    expected_profile_id: Option<Cow<'a, str>>,
}

/// Parses a text frame.
pub fn parse(text: &str) -> Result<Request, BadFrame> {
    bounds::check(text).map_err(BadFrame::OutOfBounds)?;
    if let Ok(Envelope { kind, id, method, params, traceparent, expected_profile_id }) = serde_json::from_str(text) {
        let short = |text: Option<Cow<'_, str>>| text.is_none_or(|text| text.chars().count() <= 128);
        if kind == "req" && !id.is_empty() && !method.is_empty() && short(traceparent) && short(expected_profile_id) {
            let (id, method) = (id.into_owned(), method.into_owned());
            return Ok(Request { id, method, params: params.map(ToOwned::to_owned) });
        }
    }
    // The rare path: find the words for what is wrong.
    let value: Value = serde_json::from_str(text).map_err(|_| BadFrame::NotJson)?;
    let problem = shape::problems(&ENVELOPE, &value).unwrap_or_else(|| "at root: duplicate property".to_owned());
    let id = value.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
    Err(BadFrame::NotRequest { id, problem })
}

/// A response frame.
#[derive(Debug, Serialize)]
pub struct Response<'a, P> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<P>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorShape>,
}

impl<'a, P: Serialize> Response<'a, P> {
    /// Success.
    pub fn ok(id: &'a str, payload: P) -> Self {
        Self { kind: "res", id, ok: true, payload: Some(payload), error: None }
    }

    /// Failure; a failed `agent` run carries a payload beside the error.
    pub fn failed(id: &'a str, error: &'a ErrorShape, payload: Option<P>) -> Self {
        Self { kind: "res", id, ok: false, payload, error: Some(error) }
    }
}

/// Counters that tell a client whether its snapshot is the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateVersion {
    /// Raised with every change of the presence list.
    pub presence: u64,
    /// Raised with every health snapshot.
    pub health: u64,
}

/// An event frame.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a, P> {
    #[serde(rename = "type")]
    kind: &'static str,
    event: &'a str,
    payload: P,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_version: Option<StateVersion>,
}

impl<'a, P: Serialize> Event<'a, P> {
    /// Event number `seq` of a connection, from 1.
    pub fn numbered(event: &'a str, payload: P, seq: u64, state_version: Option<StateVersion>) -> Self {
        Self { kind: "event", event, payload, seq: Some(seq), state_version }
    }

    /// The one event without a number: `connect.challenge`.
    pub fn unnumbered(event: &'a str, payload: P) -> Self {
        Self { kind: "event", event, payload, seq: None, state_version: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (Option<String>, String) {
        match parse(text) {
            Err(BadFrame::NotRequest { id, problem }) => (id, problem),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_may_come_without_params() {
        let request = parse(r#"{"type":"req","id":"1:x","method":"health"}"#).unwrap();
        assert_eq!((&*request.id, &*request.method), ("1:x", "health"));
        assert!(request.params.is_none());
        let request = parse(r#"{"type":"req","id":"a\u0062","method":"m","params":{"x":[1]}}"#).unwrap();
        assert_eq!(request.id, "ab");
        assert_eq!(request.params.unwrap().get(), r#"{"x":[1]}"#);
    }

    #[test]
    fn a_bad_envelope_keeps_its_id_and_says_what_is_wrong() {
        assert_eq!(
            problem(r#"{"type":"req","id":"7"}"#),
            (Some("7".into()), "must have required property 'method'".into())
        );
        assert_eq!(problem(r#"{"type":"req","id":"7","method":"m","x":1}"#).1, "at root: unexpected property 'x'");
        assert_eq!(
            problem(r#"{"type":"event","id":"7","method":"m"}"#).1,
            "at /type: must be equal to one of the allowed values"
        );
        assert_eq!(problem(r#"{"type":"req","id":"","method":"m"}"#).0, None);
        assert_eq!(problem("[1]"), (None, "must be object".into()));
        assert_eq!(problem(r#"{"type":"req","id":"1","method":"m","id":"2"}"#).1, "at root: duplicate property");
    }

    #[test]
    fn what_is_not_json_is_told_apart_from_what_is_too_deep() {
        assert_eq!(parse("{nope").unwrap_err(), BadFrame::NotJson);
        assert_eq!(parse(&"[".repeat(100_000)).unwrap_err(), BadFrame::OutOfBounds(OutOfBounds::TooDeep));
    }

    #[test]
    fn frames_go_out_in_the_wire_order() {
        let error = ErrorShape::invalid("no");
        insta::assert_snapshot!(serde_json::to_string(&Response::ok("1", 5)).unwrap(), @r#"{"type":"res","id":"1","ok":true,"payload":5}"#);
        insta::assert_snapshot!(
            serde_json::to_string(&Response::<()>::failed("1", &error, None)).unwrap(),
            @r#"{"type":"res","id":"1","ok":false,"error":{"code":"INVALID_REQUEST","message":"no"}}"#
        );
        let version = Some(StateVersion { presence: 2, health: 1 });
        insta::assert_snapshot!(
            serde_json::to_string(&Event::numbered("tick", 0, 12, version)).unwrap(),
            @r#"{"type":"event","event":"tick","payload":0,"seq":12,"stateVersion":{"presence":2,"health":1}}"#
        );
    }
}
