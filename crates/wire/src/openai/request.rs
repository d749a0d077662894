//! The chat completions request.

use serde::Serialize;
use serde_json::{Map, Value, json};
use watertight_core::transcript::{Block, Message, ToolCall};

/// What stands for the result of a tool call that has none: the process ended between the two.
pub const RESULT_UNKNOWN: &str = "result unknown: the gateway stopped before it was recorded";

/// The body of `POST /chat/completions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatRequest {
    /// The provider's name for the model.
    pub model: String,
    /// The conversation, instructions first.
    pub messages: Vec<ChatMessage>,
    /// Tools the model may ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ChatTool>,
    /// Thinking level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
}

impl ChatRequest {
    /// Fields that [`Self::into_streaming_body`] takes from the turn alone.
    pub const OWN_FIELDS: [&str; 3] = ["model", "messages", "tools"];

    /// The body of a streaming request with the configured `extra` fields merged in: an extra field replaces ours, and
    /// `null` removes it, except for [`Self::OWN_FIELDS`].
    pub fn into_streaming_body(self, extra: &Map<String, Value>) -> Value {
        // A struct of strings, values and vectors always becomes an object.
        let mut body = serde_json::to_value(self).unwrap_or_default();
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        if let Some(fields) = body.as_object_mut() {
            for (name, value) in extra {
                if Self::OWN_FIELDS.contains(&name.as_str()) {
                    continue;
                }
                match value {
                    Value::Null => drop(fields.remove(name)),
                    value => drop(fields.insert(name.clone(), value.clone())),
                }
            }
        }
        body
    }
}

/// One message of the conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum ChatMessage {
    /// Instructions.
    System {
        /// The text.
        content: String,
    },
    /// An input.
    User {
        /// Text, or an array of parts when there are pictures.
        content: Value,
    },
    /// A model's answer.
    Assistant {
        /// The text; `null` when it only calls tools.
        content: Option<String>,
        /// The tools it asked for.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ChatToolCall>,
    },
    /// A tool's answer to one call.
    Tool {
        /// The call it answers.
        tool_call_id: String,
        /// What it returned.
        content: String,
    },
}

/// A request for a tool, as the model made it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatToolCall {
    /// Names the call.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The tool and its arguments.
    pub function: ChatFunctionCall,
}

/// The tool and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatFunctionCall {
    /// The tool.
    pub name: String,
    /// Arguments as JSON text.
    pub arguments: String,
}

/// A tool the model may ask for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatTool {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its description.
    pub function: ChatFunction,
}

/// A tool's description.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatFunction {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

impl ChatTool {
    /// A tool of this name, description and JSON Schema of arguments.
    pub fn new(name: String, description: String, parameters: Value) -> Self {
        Self { kind: "function", function: ChatFunction { name, description, parameters } }
    }
}

/// The messages for a transcript.
///
/// Every tool call gets exactly one result, directly after it and in the order of the calls, as the API demands: one
/// that has none gets [`RESULT_UNKNOWN`], a result nobody asked for is left out. Thinking and the gateway's own notes
/// are not sent.
pub fn messages_for(instructions: Option<&str>, transcript: &[Message]) -> Vec<ChatMessage> {
    let mut messages = Vec::with_capacity(transcript.len() + 1);
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        messages.push(ChatMessage::System { content: text.to_owned() });
    }
    for (at, message) in transcript.iter().enumerate() {
        match message {
            Message::User { content } => messages.push(ChatMessage::User { content: user_content(content) }),
            Message::Assistant { .. } => {
                let text = message.text();
                let calls: Vec<&ToolCall> = message.tool_calls().collect();
                if text.is_empty() && calls.is_empty() {
                    continue;
                }
                messages.push(ChatMessage::Assistant {
                    content: (!text.is_empty()).then_some(text),
                    tool_calls: calls.iter().copied().map(tool_call).collect(),
                });
                messages.extend(results_of(&calls, &transcript[at + 1..]));
            }
            // Results are placed with the call they answer.
            Message::ToolResult { .. } | Message::System { .. } => {}
        }
    }
    messages
}

/// One result per call, from what follows up to the next answer.
fn results_of(calls: &[&ToolCall], following: &[Message]) -> Vec<ChatMessage> {
    let mut results: Vec<(&str, String)> = following
        .iter()
        .take_while(|message| !matches!(message, Message::Assistant { .. }))
        .filter_map(|message| match message {
            Message::ToolResult { call_id, content, .. } => Some((call_id.as_str(), result_text(content))),
            _ => None,
        })
        .collect();
    calls
        .iter()
        .map(|call| {
            let found = results.iter().position(|(id, _)| *id == call.id);
            let content = found.map_or_else(|| RESULT_UNKNOWN.to_owned(), |at| results.remove(at).1);
            ChatMessage::Tool { tool_call_id: call.id.clone(), content }
        })
        .collect()
}

fn user_content(blocks: &[Block]) -> Value {
    let has_pictures = blocks.iter().any(|block| matches!(block, Block::Image { .. }));
    if !has_pictures {
        return Value::String(blocks.iter().filter_map(Block::text).collect());
    }
    let parts = blocks.iter().filter_map(|block| match block {
        Block::Text { text } => Some(json!({"type": "text", "text": text})),
        Block::Image { mime_type, data } => {
            Some(json!({"type": "image_url", "image_url": {"url": format!("data:{mime_type};base64,{data}")}}))
        }
        Block::Thinking { .. } | Block::ToolCall(_) => None,
    });
    Value::Array(parts.collect())
}

/// The API takes text only here. A picture from a tool is named, not sent as the user's: data never becomes input.
fn result_text(blocks: &[Block]) -> String {
    let pieces = blocks.iter().filter_map(|block| match block {
        Block::Text { text } => Some(text.clone()),
        Block::Image { mime_type, .. } => Some(format!("[picture, {mime_type}, not shown]")),
        Block::Thinking { .. } | Block::ToolCall(_) => None,
    });
    pieces.collect::<Vec<_>>().join("\n")
}

fn tool_call(call: &ToolCall) -> ChatToolCall {
    let arguments = match &call.arguments {
        // What the model wrote was no JSON: it gets to see it again as it was.
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    ChatToolCall {
        id: call.id.clone(),
        kind: "function",
        function: ChatFunctionCall { name: call.name.clone(), arguments },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::transcript::{ModelRef, StopReason};

    fn user(text: &str) -> Message {
        Message::User { content: vec![Block::from_text(text)] }
    }

    fn assistant(content: Vec<Block>) -> Message {
        Message::Assistant {
            content,
            model: ModelRef { provider: "p".into(), model: "m".into() },
            usage: None,
            stop: StopReason::Stop,
            error: None,
        }
    }

    fn call(id: &str, arguments: Value) -> Block {
        Block::ToolCall(ToolCall { id: id.into(), name: "time".into(), arguments })
    }

    fn result(id: &str, text: &str) -> Message {
        Message::ToolResult {
            call_id: id.into(),
            tool: "time".into(),
            content: vec![Block::from_text(text)],
            is_error: false,
        }
    }

    #[test]
    fn a_whole_conversation_becomes_chat_messages() {
        let transcript = [
            Message::System { note: "reset".into() },
            user("what time is it?"),
            assistant(vec![
                Block::Thinking { thinking: "secret".into() },
                Block::from_text("Looking."),
                call("c1", json!({"zone": "UTC"})),
            ]),
            result("c1", "noon"),
            assistant(vec![Block::from_text("Noon.")]),
            Message::User {
                content: vec![
                    Block::from_text("and this?"),
                    Block::Image { mime_type: "image/png".into(), data: "AAAA".into() },
                ],
            },
        ];
        insta::assert_json_snapshot!(messages_for(Some("Be brief."), &transcript), @r#"
        [
          {
            "role": "system",
            "content": "Be brief."
          },
          {
            "role": "user",
            "content": "what time is it?"
          },
          {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
              {
                "id": "c1",
                "type": "function",
                "function": {
                  "name": "time",
                  "arguments": "{\"zone\":\"UTC\"}"
                }
              }
            ]
          },
          {
            "role": "tool",
            "tool_call_id": "c1",
            "content": "noon"
          },
          {
            "role": "assistant",
            "content": "Noon."
          },
          {
            "role": "user",
            "content": [
              {
                "text": "and this?",
                "type": "text"
              },
              {
                "image_url": {
                  "url": "data:image/png;base64,AAAA"
                },
                "type": "image_url"
              }
            ]
          }
        ]
        "#);
    }

    #[test]
    fn a_call_without_a_result_gets_one_and_a_result_without_a_call_is_left_out() {
        let transcript = [
            result("c0", "nobody asked"),
            user("go"),
            assistant(vec![call("c1", json!({})), call("c2", json!("not { json"))]),
            result("c2", "two"),
            result("c9", "nobody asked"),
            user("go on"),
            assistant(vec![Block::Thinking { thinking: "only thinking".into() }]),
            result("c1", "too late: another answer came between"),
        ];
        insta::assert_json_snapshot!(messages_for(None, &transcript), @r#"
        [
          {
            "role": "user",
            "content": "go"
          },
          {
            "role": "assistant",
            "content": null,
            "tool_calls": [
              {
                "id": "c1",
                "type": "function",
                "function": {
                  "name": "time",
                  "arguments": "{}"
                }
              },
              {
                "id": "c2",
                "type": "function",
                "function": {
                  "name": "time",
                  "arguments": "not { json"
                }
              }
            ]
          },
          {
            "role": "tool",
            "tool_call_id": "c1",
            "content": "result unknown: the gateway stopped before it was recorded"
          },
          {
            "role": "tool",
            "tool_call_id": "c2",
            "content": "two"
          },
          {
            "role": "user",
            "content": "go on"
          }
        ]
        "#);
    }

    #[test]
    fn a_picture_from_a_tool_is_named_and_never_becomes_the_users() {
        let picture = Block::Image { mime_type: "image/png".into(), data: "AAAA".into() };
        assert_eq!(result_text(&[Block::from_text("here"), picture]), "here\n[picture, image/png, not shown]");
    }

    #[test]
    fn extra_fields_replace_and_remove_ours_but_never_the_conversation() {
        let request = ChatRequest {
            model: "m".into(),
            messages: messages_for(None, &[user("hi")]),
            tools: vec![],
            reasoning_effort: Some("low".into()),
        };
        let extra = json!({"model": "x", "messages": [], "tools": [], "temperature": 0, "stream_options": null,
            "reasoning_effort": "high"});
        let body = request.into_streaming_body(extra.as_object().unwrap());
        insta::assert_json_snapshot!(body, @r#"
        {
          "messages": [
            {
              "content": "hi",
              "role": "user"
            }
          ],
          "model": "m",
          "reasoning_effort": "high",
          "stream": true,
          "temperature": 0
        }
        "#);
    }
}
