//! Error bodies.

use serde_json::Value;

/// What an error body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiProblem {
    /// The provider's words.
    pub message: String,
    /// Its code or type, such as `context_length_exceeded`.
    pub code: Option<String>,
}

impl ApiProblem {
    /// Reads the forms in use: `{"error":{"message","code","type"}}`, `{"error":"…"}`, `{"detail":…}` as FastAPI
    /// writes it, `{"message":"…"}`.
    pub fn from_body(body: &Value) -> Option<Self> {
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            return Some(Self::from_error(error));
        }
        let message = body.get("detail").or_else(|| body.get("message"))?;
        Some(Self { message: text_of(message), code: None })
    }

    /// Reads the value of an `error` field.
    pub fn from_error(error: &Value) -> Self {
        let code = ["code", "type"].into_iter().filter_map(|name| error.get(name)).find(|value| !value.is_null());
        Self { message: error.get("message").map_or_else(|| text_of(error), text_of), code: code.map(text_of) }
    }

    /// Whether it says that the conversation no longer fits. Codes differ between providers, and some have none.
    pub fn is_context_length(&self) -> bool {
        let words = self.message.to_ascii_lowercase();
        self.code.as_deref() == Some("context_length_exceeded")
            || ["maximum context length", "context window", "context length", "prompt is too long"]
                .iter()
                .any(|phrase| words.contains(phrase))
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_form_of_error_body_is_read() {
        let read = |body: Value| ApiProblem::from_body(&body).map(|problem| (problem.message, problem.code));
        assert_eq!(
            read(json!({"error": {"message": "m", "type": "t", "code": null}})),
            Some(("m".into(), Some("t".into())))
        );
        assert_eq!(
            read(json!({"error": {"message": "m", "type": "t", "code": 42}})),
            Some(("m".into(), Some("42".into())))
        );
        assert_eq!(read(json!({"error": "plain"})), Some(("plain".into(), None)));
        assert_eq!(read(json!({"detail": "upstream request failed"})), Some(("upstream request failed".into(), None)));
        assert_eq!(read(json!({"detail": [1]})), Some(("[1]".into(), None)));
        assert_eq!(read(json!({"ok": true})), None);
        assert_eq!(read(json!([])), None);
    }

    #[test]
    fn a_conversation_that_is_too_long_is_recognised_by_code_or_words() {
        let by_code = ApiProblem { message: "x".into(), code: Some("context_length_exceeded".into()) };
        let by_words = ApiProblem { message: "This model's maximum context length is 8192".into(), code: None };
        assert!(by_code.is_context_length() && by_words.is_context_length());
        assert!(!ApiProblem { message: "bad model".into(), code: None }.is_context_length());
    }
}
