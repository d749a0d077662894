//! What can go wrong with a model call.

use std::fmt;
use std::time::Duration;

use watertight_core::run::FailureKind;

use crate::secret::ApiKey;

/// What went wrong, by what a caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No connection to the endpoint.
    #[error("cannot be reached; check base_url and that the provider runs")]
    Unreachable,
    /// Connected, but silent for too long.
    #[error("sent nothing for {} s", .after.as_secs())]
    Timeout {
        /// The limit that passed.
        after: Duration,
    },
    /// Asked to slow down.
    #[error("is limiting the rate of requests; try again later")]
    RateLimited {
        /// How long the provider asks to wait.
        retry_after: Option<Duration>,
    },
    /// The account has no quota left.
    #[error("says the account has no quota left; check its plan and billing")]
    OutOfQuota,
    /// The credential was refused.
    #[error("refused the API key; check api_key of this provider")]
    Auth,
    /// The transcript does not fit the model.
    #[error("says the conversation no longer fits the model's context window")]
    ContextLength,
    /// The model or a filter declined to answer.
    #[error("declined to answer")]
    Refusal,
    /// No such model or no such path.
    #[error("knows no such model or path; check base_url and the model name")]
    NotFound,
    /// Any other request error.
    #[error("refused the request")]
    Rejected,
    /// The provider failed on its side.
    #[error("failed")]
    Failed,
    /// The provider wants us elsewhere; a key is never carried along a redirect.
    #[error("answered with a redirect, which is not followed; set base_url to the final address")]
    Redirect,
    /// The answer is no chat completion: a web page, for one.
    #[error("answered with {content_type} instead of a chat completion; check base_url")]
    NotAnApi {
        /// What it sent.
        content_type: String,
    },
    /// The answer cannot be understood.
    #[error("sent an answer that cannot be understood: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The connection or stream ended before the answer did.
    #[error("broke off: the provider's stream ended early")]
    EndedEarly,
    /// The answer is larger than allowed.
    #[error("sent more than allowed: {limit}")]
    TooLarge {
        /// The limit, in words.
        limit: String,
    },
}

impl Fault {
    /// The sort of failure a run ends with.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Timeout { .. } => FailureKind::Timeout,
            Self::RateLimited { .. } | Self::OutOfQuota => FailureKind::RateLimit,
            Self::Auth => FailureKind::ProviderAuth,
            Self::ContextLength => FailureKind::ContextLength,
            Self::Refusal => FailureKind::Refusal,
            Self::NotFound | Self::Rejected => FailureKind::Unknown,
            Self::Unreachable
            | Self::Failed
            | Self::Redirect
            | Self::NotAnApi { .. }
            | Self::Malformed { .. }
            | Self::EndedEarly
            | Self::TooLarge { .. } => FailureKind::ProviderUnavailable,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Timeout { .. } | Self::RateLimited { .. } | Self::Failed | Self::EndedEarly
        )
    }
}

/// A model call that failed for good: retries, where they make sense, are already spent.
///
/// Displays as one sentence fit for the user: never a key, never more than 300 characters of the provider's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderError {
    /// What went wrong.
    pub fault: Fault,
    /// Configured provider name.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// The provider's own words: at most 300 characters on one line.
    pub preview: Option<String>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl ProviderError {
    /// The sort of failure a run ends with.
    pub fn kind(&self) -> FailureKind {
        self.fault.kind()
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The provider {} (model {}) {}", self.provider, self.model, self.fault)?;
        // A good status says nothing about what went wrong after it.
        if let Some(status) = self.status.filter(|status| *status >= 300) {
            write!(f, " (HTTP {status})")?;
        }
        match &self.preview {
            Some(preview) => write!(f, ": {preview}"),
            None => f.write_str("."),
        }
    }
}

impl std::error::Error for ProviderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.fault)
    }
}

/// Longest piece of a provider's own words that is kept, in characters.
pub const PREVIEW_CHARS: usize = 300;

/// The provider's words on one line: control characters and the key removed, cut to [`PREVIEW_CHARS`].
pub(crate) fn preview(text: &str, key: Option<&ApiKey>) -> Option<String> {
    let clean = match key {
        Some(key) => key.redact(text),
        None => text.to_owned(),
    };
    let words = clean
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let mut preview: String = words.chars().filter(|c| !is_invisible(*c)).take(PREVIEW_CHARS).collect();
    if words.chars().count() > PREVIEW_CHARS {
        preview.pop();
        preview.push('…');
    }
    (!preview.is_empty()).then_some(preview)
}

/// Marks that reorder or hide text on a terminal.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_short_one_line_and_without_the_key() {
        let key = ApiKey::new("sk-secret-1");
        let text = format!("bad\x1b[31m key\r\n sk-secret-1 \u{202e}{}", "x".repeat(400));
        let shown = preview(&text, Some(&key)).unwrap();
        assert!(shown.starts_with("bad [31m key [key] x"), "{shown}");
        assert_eq!(shown.chars().count(), PREVIEW_CHARS);
        assert!(shown.ends_with('…'));
        assert_eq!(preview(" \n\u{feff}", None), None);
    }

    #[test]
    fn an_error_reads_as_one_sentence() {
        let error = ProviderError {
            fault: Fault::RateLimited { retry_after: None },
            provider: "openai".into(),
            model: "m-1".into(),
            status: Some(429),
            preview: Some("slow down".into()),
            retryable: true,
        };
        insta::assert_snapshot!(error, @"The provider openai (model m-1) is limiting the rate of requests; try again later (HTTP 429): slow down");
    }
}
