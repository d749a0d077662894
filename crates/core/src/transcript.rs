//! Transcript entries: what a session remembers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{EntryId, GenerationNo, PrincipalId, RunId, Seq, UnixMillis};

/// One durable entry of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Random id; what clients refer to.
    pub id: EntryId,
    /// Place in the session's total order.
    pub seq: Seq,
    /// The generation it belongs to.
    pub generation: GenerationNo,
    /// 1-based place within its generation; what the wire calls `messageSeq`.
    pub message_seq: u32,
    /// When it was written.
    pub at: UnixMillis,
    /// What it says. The part that is stored sealed.
    pub body: EntryBody,
}

/// The sealed part of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryBody {
    /// The message.
    pub message: Message,
    /// Where it came from.
    pub provenance: Provenance,
    /// The entry it follows in its branch; none for the first of a generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<EntryId>,
    /// The run that wrote it, by the name its caller gave it. Two principals may use the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The input it belongs to: an input's own id, or that of the input it answers. Names the run without doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<EntryId>,
}

/// Who said it, without the content. Bound into the seal of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum Role {
    /// A person or a program asking.
    User = 1,
    /// The model.
    Assistant = 2,
    /// A tool's answer.
    ToolResult = 3,
    /// A marker or note of the gateway.
    System = 4,
}

/// A message by role. Shapes follow sessions.md §3.3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "camelCase")]
pub enum Message {
    /// An input.
    User {
        /// What was said.
        content: Vec<Block>,
    },
    /// A model's answer, possibly calling tools.
    Assistant {
        /// What was said.
        content: Vec<Block>,
        /// Which model said it.
        model: ModelRef,
        /// Tokens it took, where the provider told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// Why it stopped.
        stop: StopReason,
        /// Set when the answer broke off: one sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A tool's answer to one call.
    ToolResult {
        /// The call it answers.
        call_id: String,
        /// The tool.
        tool: String,
        /// What it returned.
        content: Vec<Block>,
        /// Whether the call failed.
        is_error: bool,
    },
    /// A marker or note of the gateway.
    System {
        /// What it marks.
        note: String,
    },
}

impl Message {
    /// Who said it.
    pub fn role(&self) -> Role {
        match self {
            Self::User { .. } => Role::User,
            Self::Assistant { .. } => Role::Assistant,
            Self::ToolResult { .. } => Role::ToolResult,
            Self::System { .. } => Role::System,
        }
    }

    /// Its blocks; a system note has none.
    pub fn content(&self) -> &[Block] {
        match self {
            Self::User { content } | Self::Assistant { content, .. } | Self::ToolResult { content, .. } => content,
            Self::System { .. } => &[],
        }
    }

    /// All text blocks joined.
    pub fn text(&self) -> String {
        self.content().iter().filter_map(Block::text).collect()
    }

    /// The tool calls it makes.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.content().iter().filter_map(|block| match block {
            Block::ToolCall(call) => Some(call),
            _ => None,
        })
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// The model's reasoning, never sent to another model.
    Thinking {
        /// The text.
        thinking: String,
    },
    /// The model asks for a tool.
    ToolCall(ToolCall),
    /// A picture.
    Image {
        /// Media type, such as `image/png`.
        mime_type: String,
        /// Base64 data.
        data: String,
    },
}

impl Block {
    /// A text block.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// The text of a text block.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            _ => None,
        }
    }
}

/// A request for a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names this call within its run.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, a JSON object as the model wrote it.
    pub arguments: Value,
}

/// Which model answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// Configured provider name.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
}

/// Tokens of one call. `input` excludes what came from the provider's cache. Sums stop at the largest number: a
/// provider may report anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Usage {
    /// Prompt tokens computed anew.
    pub input: u64,
    /// Completion tokens.
    pub output: u64,
    /// Prompt tokens read from a cache.
    pub cache_read: u64,
    /// Prompt tokens written to a cache.
    pub cache_write: u64,
}

impl Usage {
    /// Prompt-side size: what fills the context window.
    pub fn prompt_tokens(&self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_write)
    }

    /// Prompt and completion together.
    pub fn total(&self) -> u64 {
        self.prompt_tokens().saturating_add(self.output)
    }

    /// The sum of two calls.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
        }
    }
}

/// Why an answer ended. Wire names of sessions.md §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopReason {
    /// The model was done.
    Stop,
    /// The model asks for tools.
    ToolUse,
    /// The token limit cut it.
    Length,
    /// The provider failed.
    Error,
    /// The run was aborted.
    Aborted,
}

impl StopReason {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::ToolUse => "toolUse",
            Self::Length => "length",
            Self::Error => "error",
            Self::Aborted => "aborted",
        }
    }
}

/// Where an entry came from. Kept with every entry so that data is never mistaken for an instruction (TM9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub enum Provenance {
    /// A caller sent it.
    Caller {
        /// Who.
        principal: PrincipalId,
        /// Through which surface, such as `ws` or `cli-local`.
        surface: String,
    },
    /// A model wrote it.
    Model,
    /// A tool returned it.
    Tool,
    /// The gateway itself noted it.
    Gateway,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_body_survives_its_stored_form() {
        let body = EntryBody {
            message: Message::Assistant {
                content: vec![
                    Block::from_text("hi"),
                    Block::ToolCall(ToolCall {
                        id: "c1".into(),
                        name: "time".into(),
                        arguments: serde_json::json!({}),
                    }),
                ],
                model: ModelRef { provider: "echo".into(), model: "echo".into() },
                usage: Some(Usage { input: 1, output: 2, cache_read: 3, cache_write: 0 }),
                stop: StopReason::ToolUse,
                error: None,
            },
            provenance: Provenance::Model,
            parent: Some(EntryId::from_bytes([7; 16])),
            run: Some(RunId::parse("r").unwrap()),
            turn: Some(EntryId::from_bytes([8; 16])),
        };
        let stored = serde_json::to_string(&body).unwrap();
        assert_eq!(serde_json::from_str::<EntryBody>(&stored).unwrap(), body);
        assert_eq!(body.message.text(), "hi");
        assert_eq!(body.message.tool_calls().count(), 1);
    }
}
