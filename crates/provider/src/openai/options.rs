//! What can be configured about an OpenAI-compatible endpoint.

use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;
use watertight_wire::openai::ChatRequest;

use crate::model::ModelInfo;
use crate::naming::SessionNaming;
use crate::secret::ApiKey;

/// One `[providers.<name>]` entry of kind `openai`.
pub struct OpenAiOptions {
    /// The entry's name.
    pub name: String,
    /// Everything before `/chat/completions`; a query is kept.
    pub base_url: Url,
    /// Sent as bearer token; none for servers that want none.
    pub api_key: Option<ApiKey>,
    /// How sessions are named.
    pub naming: SessionNaming,
    /// Models to list.
    pub models: Vec<ModelInfo>,
    /// Fields merged into every request body; `null` removes one of ours.
    pub extra_body: Map<String, Value>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// How often a failed request is tried again.
    pub retry: RetryBudget,
    /// Size limits of an answer.
    pub limits: AnswerLimits,
}

/// Time limits of a request.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To open a connection, TLS included.
    pub connect: Duration,
    /// From sending the request to the first byte of the answer's body.
    pub first_byte: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes_2 = Duration::from_mins(2);
        Self { connect: Duration::from_secs(10), first_byte: minutes_2, idle: minutes_2 }
    }
}

/// How often a failed request is tried again. Only before any of the answer arrived.
#[derive(Clone, Copy, Debug)]
pub struct RetryBudget {
    /// Further requests after the first, at the most.
    pub retries: u32,
    /// Wait before the first retry; doubled for each further one and shortened at random by up to half.
    pub base_delay: Duration,
    /// Longest `Retry-After` that is waited for; a longer one ends the call.
    pub max_retry_after: Duration,
    /// No retry starts later than this after the call began.
    pub total: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            retries: 2,
            base_delay: Duration::from_millis(500),
            max_retry_after: Duration::from_secs(20),
            total: Duration::from_mins(1),
        }
    }
}

/// Size limits of an answer. Beyond them the call fails and its connection is closed.
#[derive(Clone, Copy, Debug)]
pub struct AnswerLimits {
    /// One line of the event stream, in bytes.
    pub line: usize,
    /// Text, thinking and tool arguments together, in bytes; also a plain JSON answer as a whole.
    pub answer: usize,
    /// The event stream with all its framing, in bytes.
    pub stream: usize,
    /// Tool calls in one answer.
    pub tool_calls: usize,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        // A chunk wraps a few bytes of text in a few hundred of JSON, hence the larger limit for the raw stream.
        Self { line: MIB, answer: 8 * MIB, stream: 128 * MIB, tool_calls: 128 }
    }
}

/// Why an entry cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// `base_url` is no plain http or https address.
    #[error("base_url must be an http or https address without user name, password or fragment")]
    BaseUrl,
    /// `api_key` holds something no header can carry.
    #[error("api_key must be visible ASCII without spaces")]
    ApiKey,
    /// `extra_body` names a field that the turn decides.
    #[error("extra_body must not set `{field}`")]
    ExtraBody {
        /// The field.
        field: &'static str,
    },
    /// The HTTP client cannot be made, for want of root certificates for one.
    #[error("the HTTP client cannot be made: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
}

impl OpenAiOptions {
    /// The defaults for an endpoint.
    pub fn new(name: impl Into<String>, base_url: Url, naming: SessionNaming) -> Self {
        Self {
            name: name.into(),
            base_url,
            api_key: None,
            naming,
            models: Vec::new(),
            extra_body: Map::new(),
            timeouts: Timeouts::default(),
            retry: RetryBudget::default(),
            limits: AnswerLimits::default(),
        }
    }

    /// Where requests go.
    pub(crate) fn completions_url(&self) -> Result<Url, OptionsError> {
        let mut url = self.base_url.clone();
        let plain = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none();
        if !plain {
            return Err(OptionsError::BaseUrl);
        }
        url.path_segments_mut().map_err(|()| OptionsError::BaseUrl)?.pop_if_empty().extend(["chat", "completions"]);
        Ok(url)
    }

    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        if self.api_key.as_ref().is_some_and(|key| !key.expose().bytes().all(|b| b.is_ascii_graphic())) {
            return Err(OptionsError::ApiKey);
        }
        match ChatRequest::OWN_FIELDS.into_iter().find(|field| self.extra_body.contains_key(*field)) {
            Some(field) => Err(OptionsError::ExtraBody { field }),
            None => Ok(()),
        }
    }
}
