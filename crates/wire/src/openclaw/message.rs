//! A transcript entry as clients see it (gateway-ws.md §2, "Stored message shape").

use serde::Serialize;
use serde_json::Value;
use watertight_core::transcript::{Block, Entry, Message, Usage};

use super::text;

/// Put behind text that was cut.
const CUT_MARK: &str = "\n...(truncated)...";

/// A stored message.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredMessage {
    role: &'static str,
    content: Content,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<WireUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_error: Option<bool>,
    #[serde(rename = "__openclaw")]
    place: Place,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    Plain(String),
    Blocks(Vec<WireBlock>),
}

/// A piece of a message.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum WireBlock {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// The model's reasoning.
    Thinking {
        /// The text.
        thinking: String,
    },
    /// The model asks for a tool.
    ToolCall {
        /// Names the call.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
    /// A picture. Its data stays here: one picture could fill a whole connection's queue.
    Image {
        /// Media type.
        mime_type: String,
        /// Always true: the data is left out.
        omitted: bool,
        /// Size of the data, in bytes.
        bytes: usize,
    },
}

/// Tokens of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WireUsage {
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write: u64,
    total_tokens: u64,
}

impl From<Usage> for WireUsage {
    fn from(usage: Usage) -> Self {
        let Usage { input, output, cache_read, cache_write } = usage;
        Self { input, output, cache_read, cache_write, total_tokens: usage.total() }
    }
}

/// Where a message stands in its transcript.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    id: String,
    seq: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
}

impl From<&Block> for WireBlock {
    fn from(block: &Block) -> Self {
        match block {
            Block::Text { text } => Self::Text { text: text.clone() },
            Block::Thinking { thinking } => Self::Thinking { thinking: thinking.clone() },
            Block::ToolCall(call) => {
                Self::ToolCall { id: call.id.clone(), name: call.name.clone(), arguments: call.arguments.clone() }
            }
            Block::Image { mime_type, data } => {
                Self::Image { mime_type: mime_type.clone(), omitted: true, bytes: decoded_len(data) }
            }
        }
    }
}

impl StoredMessage {
    /// The message of `entry`; each text longer than `max_chars` is cut and says so.
    pub fn new(entry: &Entry, max_chars: Option<usize>) -> Self {
        let message = &entry.body.message;
        let blocks = || message.content().iter().map(|block| shortened(block.into(), max_chars)).collect();
        let mut stored = Self {
            role: "system",
            content: Content::Plain(String::new()),
            timestamp: entry.at.0,
            provider: None,
            model: None,
            usage: None,
            stop_reason: None,
            error_message: None,
            tool_call_id: None,
            tool_name: None,
            is_error: None,
            place: Place {
                id: entry.id.to_string(),
                seq: entry.message_seq,
                run_id: entry.body.run.as_ref().map(ToString::to_string),
                idempotency_key: None,
            },
        };
        match message {
            Message::User { content } => {
                stored.role = "user";
                // An input of nothing but text is a plain string, as upstream's gateway stores it.
                stored.content = match content.as_slice() {
                    [Block::Text { text }] => Content::Plain(cut(text, max_chars)),
                    _ => Content::Blocks(blocks()),
                };
                stored.place.idempotency_key = entry.body.run.as_ref().map(|run| format!("{run}:user"));
            }
            Message::Assistant { model, usage, stop, error, .. } => {
                stored.role = "assistant";
                stored.content = Content::Blocks(blocks());
                stored.provider = Some(model.provider.clone());
                stored.model = Some(model.model.clone());
                stored.usage = usage.map(WireUsage::from);
                stored.stop_reason = Some(stop.as_str());
                stored.error_message.clone_from(error);
            }
            Message::ToolResult { call_id, tool, is_error, .. } => {
                stored.role = "toolResult";
                stored.content = Content::Blocks(blocks());
                stored.tool_call_id = Some(call_id.clone());
                stored.tool_name = Some(tool.clone());
                stored.is_error = Some(*is_error);
            }
            Message::System { note } => {
                stored.content = Content::Blocks(vec![WireBlock::Text { text: cut(note, max_chars) }]);
            }
        }
        stored
    }
}

/// Bytes that a base64 text stands for.
fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

fn cut(text: &str, max_chars: Option<usize>) -> String {
    match max_chars.map(|max| text::cut(text, max)) {
        Some((head, true)) => format!("{head}{CUT_MARK}"),
        _ => text.to_owned(),
    }
}

fn shortened(block: WireBlock, max_chars: Option<usize>) -> WireBlock {
    match block {
        WireBlock::Text { text } => WireBlock::Text { text: cut(&text, max_chars) },
        WireBlock::Thinking { thinking } => WireBlock::Thinking { thinking: cut(&thinking, max_chars) },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::{EntryId, GenerationNo, RunId, Seq, UnixMillis};
    use watertight_core::transcript::{EntryBody, ModelRef, Provenance, StopReason, ToolCall};

    fn entry(message: Message) -> Entry {
        Entry {
            id: EntryId::from_bytes([1; 16]),
            seq: Seq(9),
            generation: GenerationNo(1),
            message_seq: 2,
            at: UnixMillis(1_800_000_000_000),
            body: EntryBody {
                message,
                provenance: Provenance::Gateway,
                parent: None,
                run: Some(RunId::parse("run-1").unwrap()),
                turn: None,
            },
        }
    }

    #[test]
    fn a_typed_input_is_a_plain_string() {
        let message = Message::User { content: vec![Block::from_text("Say hi")] };
        insta::assert_json_snapshot!(StoredMessage::new(&entry(message), None), @r#"
        {
          "role": "user",
          "content": "Say hi",
          "timestamp": 1800000000000,
          "__openclaw": {
            "id": "01010101-0101-0101-0101-010101010101",
            "seq": 2,
            "runId": "run-1",
            "idempotencyKey": "run-1:user"
          }
        }
        "#);
    }

    #[test]
    fn an_answer_carries_model_usage_and_stop_reason() {
        let message = Message::Assistant {
            content: vec![
                Block::Thinking { thinking: "hm".into() },
                Block::from_text("Hi there"),
                Block::ToolCall(ToolCall {
                    id: "c1".into(),
                    name: "time".into(),
                    arguments: serde_json::json!({"z": "UTC"}),
                }),
            ],
            model: ModelRef { provider: "p1".into(), model: "m1".into() },
            usage: Some(Usage { input: 8, output: 5, cache_read: 3, cache_write: 0 }),
            stop: StopReason::ToolUse,
            error: None,
        };
        insta::assert_json_snapshot!(StoredMessage::new(&entry(message), None), @r#"
        {
          "role": "assistant",
          "content": [
            {
              "type": "thinking",
              "thinking": "hm"
            },
            {
              "type": "text",
              "text": "Hi there"
            },
            {
              "type": "toolCall",
              "id": "c1",
              "name": "time",
              "arguments": {
                "z": "UTC"
              }
            }
          ],
          "timestamp": 1800000000000,
          "provider": "p1",
          "model": "m1",
          "usage": {
            "input": 8,
            "output": 5,
            "cacheRead": 3,
            "cacheWrite": 0,
            "totalTokens": 16
          },
          "stopReason": "toolUse",
          "__openclaw": {
            "id": "01010101-0101-0101-0101-010101010101",
            "seq": 2,
            "runId": "run-1"
          }
        }
        "#);
    }

    #[test]
    fn a_tool_result_names_its_call() {
        let message = Message::ToolResult {
            call_id: "c1".into(),
            tool: "time".into(),
            content: vec![Block::from_text("noon")],
            is_error: false,
        };
        insta::assert_json_snapshot!(StoredMessage::new(&entry(message), None), @r#"
        {
          "role": "toolResult",
          "content": [
            {
              "type": "text",
              "text": "noon"
            }
          ],
          "timestamp": 1800000000000,
          "toolCallId": "c1",
          "toolName": "time",
          "isError": false,
          "__openclaw": {
            "id": "01010101-0101-0101-0101-010101010101",
            "seq": 2,
            "runId": "run-1"
          }
        }
        "#);
    }

    #[test]
    fn a_picture_is_told_of_without_its_data() {
        for (data, bytes) in [("", 0), ("aGk=", 2), ("aGkh", 3), ("aGkhIQ==", 4)] {
            let block = Block::Image { mime_type: "image/png".into(), data: data.into() };
            let expected =
                serde_json::json!({"type": "image", "mimeType": "image/png", "omitted": true, "bytes": bytes});
            assert_eq!(serde_json::to_value(WireBlock::from(&block)).unwrap(), expected);
        }
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let message = Message::User { content: vec![Block::from_text("abcdef")] };
        let json = serde_json::to_value(StoredMessage::new(&entry(message), Some(3))).unwrap();
        assert_eq!(json["content"], "abc\n...(truncated)...");
    }
}
