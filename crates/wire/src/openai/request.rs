//! The chat completions request.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value, json};
use watertight_core::transcript::{Block, Message, ToolCall};

/// What stands for the result of a tool call that has none: the process ended between the two.
pub const RESULT_UNKNOWN: &str = "result unknown: the gateway stopped before it was recorded";

/// The body of `POST /chat/completions`; borrows the transcript it is made from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatRequest<'a> {
    /// The provider's name for the model.
    pub model: &'a str,
    /// The conversation, instructions first.
    pub messages: Vec<ChatMessage<'a>>,
    /// Tools the model may ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ChatTool<'a>>,
    /// Thinking level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<&'a str>,
}

/// A request with what asks for a stream that ends with the tokens it took.
#[derive(Serialize)]
struct Streaming<'a> {
    #[serde(flatten)]
    request: &'a ChatRequest<'a>,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl ChatRequest<'_> {
    /// Fields that [`Self::streaming_body`] takes from the turn alone.
    pub const OWN_FIELDS: [&'static str; 3] = ["model", "messages", "tools"];

    /// The body of a streaming request, as JSON text, with the configured `extra` fields merged in: an extra field
    /// replaces ours, and `null` removes it, except for [`Self::OWN_FIELDS`].
    pub fn streaming_body(&self, extra: &Map<String, Value>) -> Vec<u8> {
        let streaming =
            Streaming { request: self, stream: true, stream_options: StreamOptions { include_usage: true } };
        // Structs of strings, values and vectors always have a JSON form.
        if extra.is_empty() {
            return serde_json::to_vec(&streaming).unwrap_or_default();
        }
        let mut body = serde_json::to_value(&streaming).unwrap_or_default();
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
        body.to_string().into_bytes()
    }
}

/// One message of the conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum ChatMessage<'a> {
    /// Instructions.
    System {
        /// The text.
        content: &'a str,
    },
    /// An input.
    User {
        /// What was said.
        content: UserContent<'a>,
    },
    /// A model's answer.
    Assistant {
        /// The text; `null` when it only calls tools.
        content: Option<Cow<'a, str>>,
        /// The tools it asked for.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ChatToolCall<'a>>,
    },
    /// A tool's answer to one call.
    Tool {
        /// The call it answers.
        tool_call_id: &'a str,
        /// What it returned.
        content: Cow<'a, str>,
    },
}

/// What an input says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum UserContent<'a> {
    /// Text alone.
    Text(Cow<'a, str>),
    /// An array of parts, where there are pictures.
    Parts(Vec<Value>),
}

/// A request for a tool, as the model made it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatToolCall<'a> {
    /// Names the call.
    pub id: &'a str,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The tool and its arguments.
    pub function: ChatFunctionCall<'a>,
}

/// The tool and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatFunctionCall<'a> {
    /// The tool.
    pub name: &'a str,
    /// Arguments as JSON text.
    pub arguments: Cow<'a, str>,
}

/// A tool the model may ask for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatTool<'a> {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its description.
    pub function: ChatFunction<'a>,
}

/// A tool's description.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatFunction<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it does, for the model.
    pub description: &'a str,
    /// JSON Schema of its arguments.
    pub parameters: &'a Value,
}

impl<'a> ChatTool<'a> {
    /// A tool of this name, description and JSON Schema of arguments.
    pub fn new(name: &'a str, description: &'a str, parameters: &'a Value) -> Self {
        Self { kind: "function", function: ChatFunction { name, description, parameters } }
    }
}

/// The messages for a transcript.
///
/// Every tool call gets exactly one result, directly after it and in the order of the calls, as the API demands: one
/// that has none gets [`RESULT_UNKNOWN`], a result nobody asked for is left out. Thinking and the gateway's own notes
/// are not sent.
pub fn messages_for<'a>(instructions: Option<&'a str>, transcript: &[&'a Message]) -> Vec<ChatMessage<'a>> {
    let mut messages = Vec::with_capacity(transcript.len() + 1);
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        messages.push(ChatMessage::System { content: text });
    }
    for (at, message) in transcript.iter().enumerate() {
        match *message {
            Message::User { content } => messages.push(ChatMessage::User { content: user_content(content) }),
            Message::Assistant { .. } => {
                let text = joined(message.content());
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
fn results_of<'a>(calls: &[&'a ToolCall], following: &[&'a Message]) -> Vec<ChatMessage<'a>> {
    let mut results: Vec<(&str, Cow<'_, str>)> = following
        .iter()
        .take_while(|message| !matches!(message, Message::Assistant { .. }))
        .filter_map(|message| match *message {
            Message::ToolResult { call_id, content, .. } => Some((call_id.as_str(), result_text(content))),
            _ => None,
        })
        .collect();
    calls
        .iter()
        .map(|call| {
            let found = results.iter().position(|(id, _)| *id == call.id);
            let content = found.map_or(Cow::Borrowed(RESULT_UNKNOWN), |at| results.remove(at).1);
            ChatMessage::Tool { tool_call_id: &call.id, content }
        })
        .collect()
}

/// All text blocks joined; borrowed where there is one.
fn joined(blocks: &[Block]) -> Cow<'_, str> {
    let mut texts = blocks.iter().filter_map(Block::text);
    match (texts.next(), texts.next()) {
        (None, _) => Cow::Borrowed(""),
        (Some(only), None) => Cow::Borrowed(only),
        (Some(first), Some(second)) => Cow::Owned([first, second].into_iter().chain(texts).collect()),
    }
}

fn user_content(blocks: &[Block]) -> UserContent<'_> {
    let has_pictures = blocks.iter().any(|block| matches!(block, Block::Image { .. }));
    if !has_pictures {
        return UserContent::Text(joined(blocks));
    }
    let parts = blocks.iter().filter_map(|block| match block {
        Block::Text { text } => Some(json!({"type": "text", "text": text})),
        Block::Image { mime_type, data } => {
            Some(json!({"type": "image_url", "image_url": {"url": format!("data:{mime_type};base64,{data}")}}))
        }
        Block::Thinking { .. } | Block::ToolCall(_) => None,
    });
    UserContent::Parts(parts.collect())
}

/// The API takes text only here. A picture from a tool is named, not sent as the user's: data never becomes input.
fn result_text(blocks: &[Block]) -> Cow<'_, str> {
    if let [Block::Text { text }] = blocks {
        return Cow::Borrowed(text);
    }
    let pieces = blocks.iter().filter_map(|block| match block {
        Block::Text { text } => Some(text.clone()),
        Block::Image { mime_type, .. } => Some(format!("[picture, {mime_type}, not shown]")),
        Block::Thinking { .. } | Block::ToolCall(_) => None,
    });
    Cow::Owned(pieces.collect::<Vec<_>>().join("\n"))
}

fn tool_call(call: &ToolCall) -> ChatToolCall<'_> {
    let arguments = match &call.arguments {
        // What the model wrote was no JSON: it gets to see it again as it was.
        Value::String(text) => Cow::Borrowed(text.as_str()),
        other => Cow::Owned(other.to_string()),
    };
    ChatToolCall { id: &call.id, kind: "function", function: ChatFunctionCall { name: &call.name, arguments } }
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
        insta::assert_json_snapshot!(messages_for(Some("Be brief."), &transcript.iter().collect::<Vec<_>>()), @r#"
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
        insta::assert_json_snapshot!(messages_for(None, &transcript.iter().collect::<Vec<_>>()), @r#"
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
        let message = user("hi");
        let request = ChatRequest {
            model: "m",
            messages: messages_for(None, &[&message]),
            tools: Vec::new(),
            reasoning_effort: Some("low"),
        };
        let plain: Value = serde_json::from_slice(&request.streaming_body(&Map::new())).unwrap();
        assert_eq!(
            plain,
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "reasoning_effort": "low",
                "stream": true, "stream_options": {"include_usage": true}})
        );
        let extra = json!({"model": "x", "messages": [], "tools": [], "temperature": 0, "stream_options": null,
            "reasoning_effort": "high"});
        let body = request.streaming_body(extra.as_object().unwrap());
        let body: Value = serde_json::from_slice(&body).unwrap();
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
