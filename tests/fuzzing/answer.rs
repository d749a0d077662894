//! What providers say, and what is said to them. The input is an answer or an error body, and the words of a transcript.

use serde_json::{Map, Value};
use watertight_core::transcript::{Block, Message};
use watertight_wire::openai::request::messages_for;
use watertight_wire::openai::{ApiProblem, ChatAnswer, ChatRequest};

pub(crate) fn check(data: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<ChatAnswer>(data) {
        read(answer);
    }
    let body = serde_json::from_slice::<Value>(data).ok();
    if let Some(problem) = body.as_ref().and_then(ApiProblem::from_body) {
        let _ = problem.is_context_length();
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let extra = body.and_then(|body| body.as_object().cloned()).unwrap_or_default();
        request(text, &extra);
    }
}

/// A cached token is counted once.
fn read(answer: ChatAnswer) {
    if let Some(usage) = answer.usage() {
        assert!(usage.input == 0 || usage.input.checked_add(usage.cache_read).is_some(), "{usage:?}");
    }
    assert!(answer.id.as_deref() != Some("") && answer.model.as_deref() != Some(""));
    for choice in answer.choices {
        assert!(choice.finish_reason.as_deref() != Some(""));
        let piece = choice.into_piece();
        let _ = (piece.text(), piece.thinking());
        for call in piece.tool_calls {
            assert!(call.id.as_deref() != Some("") && call.function.name.as_deref() != Some(""));
            let _ = call.function.arguments();
        }
    }
}

/// Words stay words: whatever they are, the body is JSON that says them in their place, and no configured field
/// replaces the conversation.
fn request(text: &str, extra: &Map<String, Value>) {
    let user = Message::User { content: vec![Block::from_text(text)] };
    let result = Message::ToolResult {
        call_id: text.to_owned(),
        tool: "time".to_owned(),
        content: vec![Block::from_text(text)],
        is_error: false,
    };
    let note = Message::System { note: text.to_owned() };
    let transcript = [&user, &result, &note, &user];
    let request = ChatRequest {
        model: "m",
        messages: messages_for(Some(text), &transcript),
        tools: Vec::new(),
        reasoning_effort: None,
    };
    let plain: Value = serde_json::from_slice(&request.streaming_body(&Map::new())).expect("JSON");
    let messages = plain["messages"].as_array().expect("messages");
    let instructions = messages.iter().filter(|message| message["role"] == "system");
    assert!(instructions.map(|message| &message["content"]).eq((!text.is_empty()).then_some(text)), "{messages:?}");
    let said = messages.iter().filter(|message| message["role"] == "user").map(|message| &message["content"]);
    assert!(said.eq([text, text]), "{messages:?}");
    assert!(messages.iter().all(|message| message["role"] != "tool"), "a result nobody asked for is told");

    let body: Value = serde_json::from_slice(&request.streaming_body(extra)).expect("JSON");
    for field in ChatRequest::OWN_FIELDS {
        assert_eq!(body.get(field), plain.get(field), "{field} was replaced");
    }
}
