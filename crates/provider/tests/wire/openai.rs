//! The OpenAI client against a real socket.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use watertight_core::run::FailureKind;
use watertight_core::transcript::{Block, StopReason};
use watertight_provider::naming::HeaderMode;
use watertight_provider::openai::OptionsError;
use watertight_provider::{ApiKey, Fault, ModelEvent, OpenAi, OpenAiOptions, Provider, ToolSpec};
use watertight_testkit::canary;
use watertight_testkit::mock_provider::ScriptedCall;
use watertight_testkit::scope::{scope, tenant};
use watertight_testkit::{MockProvider, Reply};

use crate::support::{
    self, Setup, answer_text, as_message, collect, failure, message, request, run, text_of, tool_result, user,
};

const KEY: &str = "agent:main:main";

#[tokio::test]
async fn a_streamed_answer_arrives_in_pieces_and_whole() {
    let mock = MockProvider::start().await;
    mock.push(Reply::pieces(["Hel", "lo"]).with_thinking("hm"));
    let (events, outcome) = collect(&Setup::new(&mock).provider(), KEY, user("hi")).await;

    assert!(matches!(&events[0], ModelEvent::Started { model, response_id: Some(id) }
        if model == "m-1" && id == "chatcmpl-mock-0"));
    assert_eq!(events[1], ModelEvent::Thinking("hm".into()));
    assert_eq!(text_of(&events), "Hello");
    let answer = outcome.unwrap();
    assert_eq!(answer.content, [Block::Thinking { thinking: "hm".into() }, Block::from_text("Hello")]);
    assert_eq!(answer.stop, StopReason::Stop);
    assert_eq!(answer.usage.unwrap().output, 2);
}

#[tokio::test]
async fn the_request_body_is_as_documented() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).with(|options| {
        options.extra_body = json!({"temperature": 0.5}).as_object().unwrap().clone();
    });
    let mut request = request(vec![message("one")]);
    request.instructions = Some("Be brief.".into());
    request.thinking = Some("low".into());
    request.tools = [ToolSpec {
        name: "time".into(),
        description: "Tells the time.".into(),
        parameters: json!({"type": "object", "properties": {}}),
    }]
    .into();
    collect(&provider.provider(), KEY, request).await.1.unwrap();

    let sent = &mock.requests()[0];
    assert_eq!(sent.path, "/v1/chat/completions");
    assert_eq!(sent.header("authorization"), Some("Bearer sk-test-key"));
    insta::assert_json_snapshot!(sent.body, @r#"
    {
      "messages": [
        {
          "content": "Be brief.",
          "role": "system"
        },
        {
          "content": "one",
          "role": "user"
        }
      ],
      "model": "m-1",
      "reasoning_effort": "low",
      "stream": true,
      "stream_options": {
        "include_usage": true
      },
      "temperature": 0.5,
      "tools": [
        {
          "function": {
            "description": "Tells the time.",
            "name": "time",
            "parameters": {
              "properties": {},
              "type": "object"
            }
          },
          "type": "function"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn thinking_that_is_off_is_not_asked_for() {
    let mock = MockProvider::start().await;
    let mut request = user("hi");
    request.thinking = Some("off".into());
    collect(&Setup::new(&mock).provider(), KEY, request).await.1.unwrap();
    assert!(mock.requests()[0].body.get("reasoning_effort").is_none());
}

#[tokio::test]
async fn a_plain_answer_to_a_streaming_request_is_accepted() {
    let mock = MockProvider::start().await;
    mock.push(Reply::text("plain").plain());
    mock.push(Reply::tool_calls(vec![ScriptedCall::new("c1", "time", &json!({"zone": "UTC"}))]).plain());
    let provider = Setup::new(&mock).provider();

    let (events, outcome) = collect(&provider, KEY, user("hi")).await;
    assert_eq!((text_of(&events), answer_text(&outcome.unwrap())), ("plain".into(), "plain".into()));
    let answer = collect(&provider, KEY, user("hi")).await.1.unwrap();
    assert_eq!(answer.stop, StopReason::ToolUse);
}

#[tokio::test]
async fn every_request_of_a_tool_turn_names_the_session_retries_included() {
    let mock = MockProvider::start().await;
    let call = ScriptedCall::new("c1", "time", &json!({"zone": "UTC"}));
    mock.push_all([Reply::error(500, "server_error", "oops"), Reply::tool_calls(vec![call]), Reply::text("noon")]);
    let provider = Setup::new(&mock).provider();

    let answer = collect(&provider, "agent:ops:zoë 日本%41", user("time?")).await.1.unwrap();
    let call = answer.content.iter().find_map(|block| match block {
        Block::ToolCall(call) => Some(call.clone()),
        _ => None,
    });
    assert_eq!(call.unwrap().arguments, json!({"zone": "UTC"}));
    let transcript = vec![message("time?"), as_message(answer), tool_result("c1", "time", "12:00")];
    collect(&provider, "agent:ops:zoë 日本%41", request(transcript)).await.1.unwrap();

    let requests = mock.requests();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert_eq!(request.session_key(), Some("agent:ops:zo%C3%AB%20%E6%97%A5%E6%9C%AC%41"));
        assert_eq!(request.session_id(), Some("gen-1"));
    }
    assert_eq!(requests[2].messages()[2]["tool_call_id"], "c1");
}

#[tokio::test]
async fn only_the_entrys_own_tenant_goes_out_raw() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();
    for byte in [1, 2] {
        run(provider.call(&scope(tenant(byte), KEY, "gen-1"), user("hi"))).await.1.unwrap();
    }
    let seen: Vec<_> = mock
        .requests()
        .iter()
        .map(|r| (r.session_key().map(str::to_owned), r.session_id().map(str::to_owned)))
        .collect();
    let pair = |key: &str, id: &str| (Some(key.to_owned()), Some(id.to_owned()));
    assert_eq!(seen, [pair(KEY, "gen-1"), pair("wt1_hash-of-tenant-2", "wt1_generation-of-tenant-2")]);
}

#[tokio::test]
async fn two_keys_that_escape_to_one_text_are_told_apart_by_the_generation() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();
    for (key, generation) in [("agent:main:incident 42", "gen-1"), ("agent:main:incident%2042", "gen-2")] {
        run(provider.call(&scope(tenant(1), key, generation), user("hi"))).await.1.unwrap();
    }
    let requests = mock.requests();
    assert_eq!(requests[0].session_key(), Some("agent:main:incident%2042"));
    assert_eq!(requests[1].session_key(), requests[0].session_key(), "decision 9: nothing is decoded, `%` stays");
    assert_ne!(requests[1].session_id(), requests[0].session_id());
}

#[tokio::test]
async fn hashed_hides_the_names_and_off_sends_none() {
    let mock = MockProvider::start().await;
    for mode in [HeaderMode::Hashed, HeaderMode::Off] {
        let provider = Setup::new(&mock).mode(mode).provider();
        assert_eq!(provider.header_mode(), mode);
        collect(&provider, KEY, user("hi")).await.1.unwrap();
    }
    let requests = mock.requests();
    assert_eq!(requests[0].session_key(), Some("wt1_hash-of-tenant-1"));
    assert_eq!(requests[1].session_key().or(requests[1].session_id()), None);
    assert!(requests.iter().all(|r| !format!("{:?}{:?}", r.headers, r.raw).contains(KEY)));
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection_and_the_next_call_gets_its_own_answer() {
    let mock = MockProvider::start().await;
    mock.push(Reply::pieces(["secret of the first"]).then_hang());
    let provider = Setup::new(&mock).provider();

    let mut stream = provider.call(&scope(tenant(1), "agent:main:first", "gen-1"), user("one"));
    while !matches!(support::next(&mut stream).await, Some(Ok(ModelEvent::Text(_)))) {}
    drop(stream);
    mock.wait_for_disconnects(1).await;

    let (events, outcome) = collect(&provider, "agent:main:second", user("two")).await;
    assert_eq!((text_of(&events), answer_text(&outcome.unwrap())), ("two".into(), "two".into()));
    let requests = mock.requests();
    assert_ne!(requests[0].connection, requests[1].connection);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_each_get_their_own_answer_though_every_third_is_cancelled() {
    let mock = MockProvider::start().await;
    mock.answer_with(|request| {
        let own = format!("{} {}", request.session_key()?, request.last_user_text());
        Some(Reply::pieces(own.split_inclusive(' ')))
    });
    let provider = Arc::new(Setup::new(&mock).provider());
    let calls = (0..90).map(|n| {
        let provider = Arc::clone(&provider);
        tokio::spawn(async move {
            let key = format!("agent:main:s{n}");
            let marker = canary::marker();
            let mut stream = provider.call(&scope(tenant(1), &key, "gen-1"), user(&marker));
            if n % 3 == 0 {
                // Given up after the first event, with the rest of the answer on its way.
                support::next(&mut stream).await.unwrap().unwrap();
                return;
            }
            let (events, outcome) = run(stream).await;
            assert_eq!(text_of(&events), format!("{key} {marker}"));
            assert_eq!(answer_text(&outcome.unwrap()), format!("{key} {marker}"));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_was_never_answered_is_aborted_too() {
    let mock = MockProvider::start().await;
    mock.push(Reply::hang());
    let provider = Setup::new(&mock).provider();
    let mut stream = provider.call(&scope(tenant(1), KEY, "gen-1"), user("one"));
    tokio::select! {
        event = support::next(&mut stream) => panic!("{event:?}"),
        _ = mock.wait_for_requests(1) => {}
    }
    drop(stream);
    mock.wait_for_disconnects(1).await;
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_complete_answer() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();
    for n in 1..=2 {
        collect(&provider, KEY, user("hi")).await.1.unwrap();
        mock.wait_for_answers(n).await;
    }
    let requests = mock.requests();
    assert_eq!(requests[0].connection, requests[1].connection);
}

#[tokio::test]
async fn what_another_request_may_mend_is_tried_again_within_the_budget() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();

    mock.push(Reply::error(429, "rate_limit_exceeded", "slow down").with_header("retry-after", "0"));
    mock.push(Reply::error(503, "overloaded", "busy"));
    assert!(collect(&provider, KEY, user("hi")).await.1.is_ok());
    assert_eq!(mock.requests().len(), 3);

    mock.push_all((0..3).map(|_| Reply::error(502, "bad_gateway", "down")));
    let error = failure(collect(&provider, KEY, user("hi")).await);
    assert_eq!((error.fault.clone(), error.status, error.retryable), (Fault::Failed, Some(502), true));
    assert_eq!(mock.requests().len(), 6, "two retries and no more");
}

#[tokio::test]
async fn what_no_request_can_mend_is_told_at_once() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();
    for (reply, kind, fault) in [
        (Reply::error(401, "invalid_api_key", "wrong key sk-test-key"), FailureKind::ProviderAuth, Fault::Auth),
        (Reply::error(404, "model_not_found", "no m-1"), FailureKind::Unknown, Fault::NotFound),
        (Reply::error(400, "context_length_exceeded", "too long"), FailureKind::ContextLength, Fault::ContextLength),
        (Reply::error(429, "insufficient_quota", "pay"), FailureKind::RateLimit, Fault::OutOfQuota),
        (
            Reply::error(429, "rate_limit", "later").with_header("retry-after", "21"),
            FailureKind::RateLimit,
            Fault::RateLimited { retry_after: Some(Duration::from_secs(21)) },
        ),
        (
            Reply::raw("text/plain", [""]).with_status(307).with_header("location", "http://127.0.0.1:1/"),
            FailureKind::ProviderUnavailable,
            Fault::Redirect,
        ),
    ] {
        let before = mock.requests().len();
        mock.push(reply);
        let error = failure(collect(&provider, KEY, user("hi")).await);
        assert_eq!((error.kind(), &error.fault), (kind, &fault));
        assert_eq!(mock.requests().len(), before + 1, "{fault:?}");
        assert!(!error.to_string().contains("sk-test-key"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_api_is_called_that() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();

    mock.push(Reply::html());
    let error = failure(collect(&provider, KEY, user("hi")).await);
    insta::assert_snapshot!(error, @r#"
    The provider test (model m-1) answered with text/html instead of a chat completion; check base_url.
    "#);

    mock.push(Reply::html().with_status(403));
    let error = failure(collect(&provider, KEY, user("hi")).await);
    insta::assert_snapshot!(error, @r#"
    The provider test (model m-1) refused the API key; check api_key of this provider (HTTP 403).
    "#);

    mock.push(Reply::raw("application/json", ["[1, 2"]));
    let error = failure(collect(&provider, KEY, user("hi")).await);
    assert!(matches!(error.fault, Fault::Malformed { .. }));
}

#[tokio::test]
async fn a_broken_stream_ends_in_a_clear_error_after_what_arrived() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();
    let chunk = |text: &str| format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}));
    for (reply, fault) in [
        (Reply::pieces(["part"]).then_die(), "EndedEarly"),
        (Reply::pieces(["part"]).then_end_early(), "EndedEarly"),
        (Reply::raw("text/event-stream", [chunk("part"), "data: {\"choi".into()]), "EndedEarly"),
        (Reply::raw("text/event-stream", [chunk("part"), "data: {nonsense}\n\n".into()]), "Malformed"),
        (Reply::raw("text/event-stream", [chunk("part").into_bytes(), b"data: \xff\xfe\n\n".to_vec()]), "Malformed"),
        (
            Reply::raw("text/event-stream", [chunk("part"), "data: {\"error\":{\"message\":\"boom\"}}\n\n".into()]),
            "Failed",
        ),
        (Reply::raw("text/event-stream", [chunk("part"), "event: error\ndata: boom\n\n".into()]), "Failed"),
    ] {
        mock.push(reply.clone());
        let (events, outcome) = collect(&provider, KEY, user("hi")).await;
        assert_eq!(text_of(&events), "part", "{reply:?}");
        let error = outcome.unwrap_err();
        assert!(format!("{:?}", error.fault).starts_with(fault), "{:?}: {reply:?}", error.fault);
    }
    assert_eq!(mock.requests().len(), 7, "nothing was tried again after the answer began");
}

#[tokio::test]
async fn an_answer_without_its_last_blank_line_or_end_mark_is_complete() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock).provider();
    let end = json!({"choices": [{"delta": {"content": "all"}, "finish_reason": "stop"}]});
    let mark = format!("data: {}\n\ndata: [DONE]", json!({"choices": [{"delta": {"content": "all"}}]}));
    for stream in [format!("data: {end}"), format!("data: {end}\n\n"), mark] {
        mock.push(Reply::raw("text/event-stream", [stream.clone()]));
        let answer = collect(&provider, KEY, user("hi")).await.1.unwrap_or_else(|e| panic!("{stream}: {e}"));
        assert_eq!(answer_text(&answer), "all");
    }
    mock.push(Reply::raw("text/event-stream", ["data: [DONE]\n\n"]));
    assert_eq!(failure(collect(&provider, KEY, user("hi")).await).fault, Fault::EndedEarly);
}

#[tokio::test]
async fn an_oversize_answer_ends_the_call() {
    let mock = MockProvider::start().await;
    let provider = Setup::new(&mock)
        .with(|options| {
            options.limits.line = 2_000;
            options.limits.answer = 3_000;
            options.limits.stream = 20_000;
        })
        .provider();
    let comments = vec![":\n".repeat(500); 30];
    for (reply, limit) in [
        (Reply::pieces(vec!["x".repeat(900); 10]), "3000 bytes in one answer"),
        (Reply::raw("text/event-stream", [":".repeat(3_000)]), "2000 bytes in one line"),
        (
            Reply::raw("text/event-stream", [format!("data: {}\n", "1".repeat(1_900)).repeat(2)]),
            "3000 bytes in one event",
        ),
        (Reply::raw("text/event-stream", comments), "20000 bytes in one stream"),
        (Reply::text(&"x".repeat(4_000)).plain(), "3000 bytes in one answer"),
    ] {
        mock.push(reply);
        let error = failure(collect(&provider, KEY, user("hi")).await);
        assert_eq!(error.fault, Fault::TooLarge { limit: limit.into() });
    }
}

#[tokio::test]
async fn a_silent_provider_is_not_waited_for_forever() {
    let mock = MockProvider::start().await;
    let short = Duration::from_millis(50);
    let first = Setup::new(&mock).with(move |options| options.timeouts.first_byte = short).provider();
    mock.push(Reply::hang());
    let error = failure(collect(&first, KEY, user("hi")).await);
    assert_eq!((error.fault.clone(), error.kind()), (Fault::Timeout { after: short }, FailureKind::Timeout));

    let idle = Setup::new(&mock).with(move |options| options.timeouts.idle = short).provider();
    mock.push(Reply::pieces(["part"]).then_hang());
    let (events, outcome) = collect(&idle, KEY, user("hi")).await;
    assert_eq!(text_of(&events), "part");
    assert_eq!(outcome.unwrap_err().fault, Fault::Timeout { after: short });
    mock.wait_for_disconnects(2).await;
}

#[tokio::test]
async fn a_provider_that_is_down_is_unreachable() {
    let mock = MockProvider::start().await;
    let setup = Setup::new(&mock);
    mock.push(Reply::close());
    let error = failure(collect(&setup.provider(), KEY, user("hi")).await);
    assert_eq!(error.fault, Fault::EndedEarly, "the request may have arrived: it is not sent again");
    assert_eq!(mock.requests().len(), 1);

    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = setup.with(move |options| options.base_url = format!("http://{free_port}/v1").parse().unwrap());
    let error = failure(collect(&down.provider(), KEY, user("hi")).await);
    assert_eq!(error.fault, Fault::Unreachable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn options_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut OpenAiOptions)| {
        let setup = Setup::at("http://127.0.0.1:9/v1").with(change);
        OpenAi::new(setup.options()).err()
    };
    assert_eq!(refused(|_| {}), None);
    for url in ["ftp://h/v1", "http://user@h/v1", "http://:pw@h/v1", "http://h/v1#x", "data:text/plain,x"] {
        let setup = Setup::at(url);
        assert_eq!(OpenAi::new(setup.options()).err(), Some(OptionsError::BaseUrl), "{url}");
    }
    assert_eq!(refused(|o| o.api_key = Some(ApiKey::new("a\nb"))), Some(OptionsError::ApiKey));
    let extra = |o: &mut OpenAiOptions| drop(o.extra_body.insert("messages".into(), Value::Null));
    assert_eq!(refused(extra), Some(OptionsError::ExtraBody { field: "messages" }));
}

#[test]
fn sessions_are_named_by_default_only_near_by() {
    let default_for = |url: &str| HeaderMode::default_for(&url.parse().unwrap());
    for near in [
        "http://localhost:1/v1",
        "http://127.9.9.9/",
        "http://127.1/",
        "http://10.0.0.1/",
        "http://172.31.0.1/",
        "http://192.168.1.1/",
        "http://[::1]/",
        "http://[fd00::1]/",
        "http://[::ffff:10.0.0.1]/",
    ] {
        assert_eq!(default_for(near), HeaderMode::Raw, "{near}");
    }
    for far in [
        "https://api.openai.com/v1",
        "http://localhost.example.com/",
        "http://172.32.0.1/",
        "http://8.8.8.8/",
        "http://0.0.0.0/",
        "http://169.254.1.1/",
        "http://[2001:db8::1]/",
        "http://[::ffff:8.8.8.8]/",
        "http://router.internal/",
    ] {
        assert_eq!(default_for(far), HeaderMode::Off, "{far}");
    }
}
