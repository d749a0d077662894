//! The error object of a response (gateway-ws.md §1.3, §1.9).

use serde::Serialize;
use serde_json::{Value, json};
use watertight_core::ErrorCode;
use watertight_core::grant::Verb;

use super::scope;

/// The closed set of codes. There is none for "not found": that is [`WireCode::InvalidRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WireCode {
    /// The request does not fit, or names something that is not there.
    InvalidRequest,
    /// The connection's scopes do not allow the method.
    Forbidden,
    /// Not now, or not at all; `retryable` says which.
    Unavailable,
    /// The connection shows neither a credential nor a paired device.
    NotPaired,
}

/// An error as a response carries it. The message is never empty: clients drop frames whose error has none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorShape {
    /// What sort of error.
    pub code: WireCode,
    /// One sentence for people.
    pub message: String,
    /// For programs; `details.code` is stable, and so is `details.reasonCode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// Whether the same request may succeed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// When to try again, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ErrorShape {
    fn new(code: WireCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None, retryable: None, retry_after_ms: None }
    }

    /// The request does not fit.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(WireCode::InvalidRequest, message)
    }

    /// Not now or not at all; see [`Self::retry_after`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(WireCode::Unavailable, message)
    }

    /// No credential and no paired device.
    pub fn not_paired(message: impl Into<String>) -> Self {
        Self::new(WireCode::NotPaired, message)
    }

    /// The method needs a scope that the connection does not hold.
    pub fn missing_scope(verb: Verb) -> Self {
        let scope = scope::name(verb);
        Self::new(WireCode::Forbidden, format!("missing scope: {scope}")).with_details(json!({
            "code": "MISSING_SCOPE",
            "missingScope": scope,
            "requiredScopes": [scope],
            "reasonCode": "forbidden_scope",
        }))
    }

    /// The same with details for programs.
    #[must_use]
    pub fn with_details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    /// The same with our stable code as `details.code`, and its reason where there is one name for it.
    #[must_use]
    pub fn with_code(self, code: ErrorCode) -> Self {
        let error = self.with_details(json!({ "code": code.as_str() }));
        match reason(code) {
            Some(reason) => error.because(reason),
            None => error,
        }
    }

    /// The same with this word as `details.reasonCode`: why, in terms that every surface shares.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        let details = self.details.get_or_insert_with(|| json!({}));
        if let Some(details) = details.as_object_mut() {
            details.insert("reasonCode".into(), reason.into());
        }
        self
    }

    /// The same request may succeed after this many milliseconds.
    #[must_use]
    pub fn retry_after(self, millis: u64) -> Self {
        Self { retryable: Some(true), retry_after_ms: Some(millis), ..self }
    }
}

/// The word for a code among the reasons that every surface shares; none where the code says no more than that the
/// request does not fit.
fn reason(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::InvalidKey => Some("invalid_session_key"),
        ErrorCode::KeyMismatch => Some("session_key_conflict"),
        ErrorCode::UnknownAgent => Some("invalid_agent_id"),
        ErrorCode::NotFound => Some("session_not_found"),
        ErrorCode::Forbidden => Some("forbidden_scope"),
        ErrorCode::TooBusy => Some("rate_limited"),
        ErrorCode::Unavailable => Some("draining"),
        ErrorCode::Unauthorized
        | ErrorCode::IdempotencyMismatch
        | ErrorCode::SessionBusy
        | ErrorCode::IntegrityError
        | ErrorCode::StorageFull
        | ErrorCode::StorageUnavailable => Some(code.as_str()),
        ErrorCode::InvalidRequest | ErrorCode::SessionChanged | ErrorCode::ProviderError | ErrorCode::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_scope_reads_as_upstream_says_it() {
        insta::assert_json_snapshot!(ErrorShape::missing_scope(Verb::Read), @r#"
        {
          "code": "FORBIDDEN",
          "message": "missing scope: operator.read",
          "details": {
            "code": "MISSING_SCOPE",
            "missingScope": "operator.read",
            "reasonCode": "forbidden_scope",
            "requiredScopes": [
              "operator.read"
            ]
          }
        }
        "#);
    }

    #[test]
    fn a_retryable_error_says_when() {
        let error = ErrorShape::unavailable("busy").with_code(ErrorCode::TooBusy).retry_after(500);
        insta::assert_json_snapshot!(error, @r#"
        {
          "code": "UNAVAILABLE",
          "message": "busy",
          "details": {
            "code": "too_busy",
            "reasonCode": "rate_limited"
          },
          "retryable": true,
          "retryAfterMs": 500
        }
        "#);
    }
}
