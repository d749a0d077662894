//! What a provider answers: chunks of a stream, or one body.
//!
//! Read leniently: absent and `null` are the same, unknown fields are ignored.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use watertight_core::transcript::Usage;

/// A chunk of a streamed answer, or a whole plain one.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ChatAnswer {
    /// The provider's name for the answer.
    #[serde(default, deserialize_with = "text_or_none")]
    pub id: Option<String>,
    /// The model as the provider names it.
    #[serde(default, deserialize_with = "text_or_none")]
    pub model: Option<String>,
    /// Alternatives; only the first is ever asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub choices: Vec<ChatChoice>,
    /// Tokens, in the last chunk.
    #[serde(default)]
    usage: Option<Value>,
    /// An error told inside the stream.
    #[serde(default)]
    pub error: Option<Value>,
}

impl ChatAnswer {
    /// Tokens of the call. `input` excludes what came from the provider's cache.
    pub fn usage(&self) -> Option<Usage> {
        let usage = self.usage.as_ref()?.as_object()?;
        let count = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
        let cache_read = count(usage.get("prompt_tokens_details").and_then(|d| d.get("cached_tokens")));
        Some(Usage {
            input: count(usage.get("prompt_tokens")).saturating_sub(cache_read),
            output: count(usage.get("completion_tokens")),
            cache_read,
            cache_write: 0,
        })
    }
}

/// One alternative.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ChatChoice {
    /// Which alternative.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// In a stream: what is new.
    #[serde(default)]
    delta: Option<ChatPiece>,
    /// In a plain answer: all of it.
    #[serde(default)]
    message: Option<ChatPiece>,
    /// Set when the answer is over.
    #[serde(default, deserialize_with = "text_or_none")]
    pub finish_reason: Option<String>,
}

impl ChatChoice {
    /// What this choice brings.
    pub fn into_piece(self) -> ChatPiece {
        self.delta.or(self.message).unwrap_or_default()
    }
}

/// Part of an answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ChatPiece {
    #[serde(default)]
    content: Option<Value>,
    #[serde(default, deserialize_with = "text_or_none")]
    refusal: Option<String>,
    #[serde(default, deserialize_with = "text_or_none")]
    reasoning_content: Option<String>,
    #[serde(default, deserialize_with = "text_or_none")]
    reasoning: Option<String>,
    /// Requests for tools, whole or in fragments.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tool_calls: Vec<ToolCallPiece>,
}

impl ChatPiece {
    /// Answer text; a refusal is said in the model's own words. Content given as parts is joined.
    pub fn text(&self) -> String {
        let mut text = match &self.content {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()
            }
            _ => String::new(),
        };
        text.push_str(self.refusal.as_deref().unwrap_or_default());
        text
    }

    /// Reasoning text, under either name providers give it; one that sends both says the same twice.
    pub fn thinking(&self) -> &str {
        self.reasoning_content.as_deref().or(self.reasoning.as_deref()).unwrap_or_default()
    }
}

/// A request for a tool, or a fragment of one.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ToolCallPiece {
    /// Which call of the answer the fragment belongs to.
    #[serde(default)]
    pub index: Option<u32>,
    /// Names the call; in the first fragment only.
    #[serde(default, deserialize_with = "text_or_none")]
    pub id: Option<String>,
    /// The tool and its arguments.
    #[serde(default, deserialize_with = "null_as_default")]
    pub function: FunctionPiece,
}

/// The tool and its arguments, or a fragment of them.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct FunctionPiece {
    /// The tool; in the first fragment only.
    #[serde(default, deserialize_with = "text_or_none")]
    pub name: Option<String>,
    #[serde(default)]
    arguments: Option<Value>,
}

impl FunctionPiece {
    /// JSON text of the arguments, or the next piece of it. Some providers send the object itself.
    pub fn arguments(&self) -> String {
        match &self.arguments {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// A non-empty text; anything else counts as absent.
fn text_or_none<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(input)? {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(json: Value) -> ChatAnswer {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn input_tokens_exclude_what_came_from_the_cache() {
        let told = answer(json!({"usage": {"prompt_tokens": 100, "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 60}}}));
        assert_eq!(told.usage(), Some(Usage { input: 40, output: 7, cache_read: 60, cache_write: 0 }));
        assert_eq!(answer(json!({"usage": null})).usage(), None);
        assert_eq!(answer(json!({"usage": {"prompt_tokens": "many"}})).usage(), Some(Usage::default()));
    }

    #[test]
    fn nulls_and_unknown_fields_are_no_errors() {
        let chunk =
            answer(json!({"id": null, "choices": [{"index": null, "delta": {"content": null, "tool_calls": null,
            "role": "assistant", "new": 1}, "finish_reason": null}], "x": {}}));
        let piece = chunk.choices.into_iter().next().unwrap().into_piece();
        assert_eq!((piece.text(), piece.thinking()), (String::new(), ""));
        assert!(answer(json!({"choices": null})).choices.is_empty());
    }

    #[test]
    fn text_comes_as_a_string_as_parts_or_as_a_refusal() {
        let text = |delta: Value| {
            let chunk = answer(json!({"choices": [{"delta": delta}]}));
            chunk.choices.into_iter().next().unwrap().into_piece().text()
        };
        assert_eq!(text(json!({"content": "a"})), "a");
        assert_eq!(text(json!({"content": [{"type": "text", "text": "a"}, {"type": "x"}, {"text": "b"}]})), "ab");
        assert_eq!(text(json!({"refusal": "no"})), "no");
    }

    #[test]
    fn arguments_come_as_text_or_as_an_object() {
        let arguments = |value: Value| {
            let piece: ToolCallPiece = serde_json::from_value(json!({"function": {"arguments": value}})).unwrap();
            piece.function.arguments()
        };
        assert_eq!(arguments(json!("{\"a\":")), "{\"a\":");
        assert_eq!(arguments(json!({"a": 1})), "{\"a\":1}");
        assert_eq!(arguments(json!(null)), "");
    }
}
