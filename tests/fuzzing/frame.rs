//! Requests of a WebSocket: the envelope, then its parameters as those of every method.

use serde_json::Value;
use serde_json::value::RawValue;
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::connect::ConnectParams;
use watertight_wire::openclaw::device::{
    PairApproveParams, PairRejectParams, PairRemoveParams, SetupCodeParams, TokenRevokeParams, TokenRotateParams,
};
use watertight_wire::openclaw::frame::{self, BadFrame, Request};
use watertight_wire::openclaw::params::{
    AgentParams, AgentWaitParams, ChatAbortParams, ChatHistoryParams, ChatSendParams, ChatStartupParams, HealthParams,
    ModelsListParams, Nothing, Params, SessionsDescribeParams, SessionsListParams, SessionsMessagesParams,
    SessionsResolveParams, SessionsSendParams, StatusParams,
};
use watertight_wire::openclaw::{shape, text};

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match frame::parse(text) {
        Ok(request) => accepted(&request),
        Err(BadFrame::NotJson) => {
            assert!(serde_json::from_str::<Value>(text).is_err(), "JSON that is said to be none");
        }
        Err(BadFrame::OutOfBounds(_)) => {}
        Err(BadFrame::NotRequest { id, problem }) => {
            assert!(!problem.is_empty() && problem.len() < 4096 && !problem.contains(char::is_control), "{problem:?}");
            let value: Value = serde_json::from_str(text).expect("it is JSON");
            assert_eq!(id.as_deref(), value["id"].as_str().filter(|id| !id.is_empty()));
        }
    }
    cleaned(text);
}

/// Written again, it is the same request.
fn accepted(request: &Request) {
    assert!(!request.id.is_empty() && !request.method.is_empty());
    let (id, method) = (Value::from(&*request.id), Value::from(&*request.method));
    let params = request.params.as_deref().map(RawValue::get);
    let tail = params.map_or_else(String::new, |params| format!(r#","params":{params}"#));
    let again = frame::parse(&format!(r#"{{"type":"req","id":{id},"method":{method}{tail}}}"#)).expect("a request");
    assert_eq!((&again.id, &again.method), (&request.id, &request.method));
    assert_eq!(again.params.as_deref().map(RawValue::get), params);

    let params = request.params.as_deref();
    connect(params);
    for parse in METHODS {
        parse(params);
    }
}

const METHODS: [fn(Option<&RawValue>); 21] = [
    method::<Nothing>,
    method::<HealthParams>,
    method::<StatusParams>,
    method::<AgentParams>,
    method::<AgentWaitParams>,
    method::<ChatSendParams>,
    method::<ChatAbortParams>,
    method::<ChatHistoryParams>,
    method::<ChatStartupParams>,
    method::<ModelsListParams>,
    method::<SessionsListParams>,
    method::<SessionsResolveParams>,
    method::<SessionsDescribeParams>,
    method::<SessionsSendParams>,
    method::<SessionsMessagesParams>,
    method::<PairApproveParams>,
    method::<PairRejectParams>,
    method::<PairRemoveParams>,
    method::<TokenRotateParams>,
    method::<TokenRevokeParams>,
    method::<SetupCodeParams>,
];

fn method<P: Params>(params: Option<&RawValue>) {
    let parsed = P::parse("m", params);
    if let Err(error) = &parsed {
        refused(error);
    }
    // What fits the shape fits the type, once no field is given twice.
    let Some(value) = params.and_then(|params| serde_json::from_str::<Value>(params.get()).ok()) else { return };
    let fits = value.is_null() || shape::problems(P::SHAPE, &value).is_none();
    let once = serde_json::value::to_raw_value(&value).expect("JSON");
    if let Err(error) = P::parse("m", Some(&once)) {
        let beyond = error.message.ends_with("must be a smaller integer");
        assert!(!fits || beyond, "{value} fits the shape and not {}: {}", std::any::type_name::<P>(), error.message);
        assert!(parsed.is_err(), "{value} is refused only when written anew");
    } else {
        assert!(fits || value.is_null(), "{value} does not fit the shape");
    }
}

fn refused(error: &ErrorShape) {
    assert!(error.message.starts_with("invalid ") && error.message.len() < 8192, "{}", error.message);
    assert!(!error.message.contains(char::is_control), "{:?}", error.message);
}

/// The payloads that a device signs name what was asked for, in one way only.
fn connect(params: Option<&RawValue>) {
    let connect = match ConnectParams::parse(params) {
        Ok(connect) => connect,
        Err(error) => return refused(&error),
    };
    let _ = (connect.negotiate(), connect.auth.secrets(), connect.auth.bootstrap_token());
    if let Some([third, second]) = connect.device_payloads() {
        assert_eq!((third.matches('|').count(), second.matches('|').count()), (10, 8), "{third}");
    }
}

/// Cleaning what is clean changes nothing.
fn cleaned(message: &str) {
    let Ok(clean) = text::clean(message) else { return };
    assert_eq!(text::clean(&clean).as_ref(), Ok(&clean), "{message:?}");
    let (cut, was_cut) = text::cut(&clean, 10);
    assert_eq!((clean.starts_with(cut), cut.len() < clean.len()), (true, was_cut));
    let _ = text::is_stop_command(&clean);
}
