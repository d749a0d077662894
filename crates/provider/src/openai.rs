//! OpenAI-compatible endpoints: `POST {base_url}/chat/completions`.
//!
//! * [`options`]: what can be configured, with its defaults.
//! * `call`: one call: requests, retries, reading the answer.
//! * `assemble`: chunks become events and, at the end, an answer. Pure.
//! * `retry`: when a failed request is tried again. Pure.
//! * `verdict`: what a status or an error body means. Pure.

mod assemble;
mod call;
pub mod options;
mod retry;
mod verdict;

use std::sync::Arc;

use futures_util::stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use reqwest::redirect;
use url::Url;
use watertight_core::SessionScope;

use crate::fault::{Fault, ProviderError, preview};
use crate::model::{ModelInfo, ModelRequest, ModelStream, Provider};
use crate::naming::{HeaderMode, is_near};
pub use options::{AnswerLimits, OpenAiOptions, OptionsError, RetryBudget, Timeouts};

/// A configured OpenAI-compatible endpoint.
pub struct OpenAi {
    endpoint: Arc<Endpoint>,
}

/// What all calls of one entry share.
struct Endpoint {
    client: reqwest::Client,
    url: Url,
    options: OpenAiOptions,
}

impl OpenAi {
    /// Checks the options and makes the connection pool. Opens no connection.
    pub fn new(options: OpenAiOptions) -> Result<Self, OptionsError> {
        let url = options.completions_url()?;
        options.check()?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(options.timeouts.connect)
            // A redirect would carry the session's name, and perhaps the key, to an address nobody configured.
            .redirect(redirect::Policy::none())
            // Our own budget counts every request; a hidden second one would escape it.
            .retry(reqwest::retry::never());
        if is_near(&url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| OptionsError::Client { reason: error.to_string() })?;
        Ok(Self { endpoint: Arc::new(Endpoint { client, url, options }) })
    }
}

impl Provider for OpenAi {
    fn name(&self) -> &str {
        &self.endpoint.options.name
    }

    fn header_mode(&self) -> HeaderMode {
        self.endpoint.options.naming.mode()
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.endpoint.options.models.clone()
    }

    fn call(&self, scope: &SessionScope, request: ModelRequest) -> ModelStream {
        let call = call::Call::new(Arc::clone(&self.endpoint), scope, request);
        Box::pin(stream::unfold(call, |mut call| async move { Some((call.next().await?, call)) }))
    }
}

impl Endpoint {
    /// The headers of every request in the session, retries included.
    fn headers(&self, scope: &SessionScope) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("watertight/", env!("CARGO_PKG_VERSION"))));
        if let Some(key) = &self.options.api_key
            && let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        {
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        headers.extend(self.options.naming.headers(scope).into_iter().map(|(name, value)| (Some(name), value)));
        headers
    }

    fn error(&self, model: &str, fault: Fault, status: Option<u16>, words: &str) -> ProviderError {
        ProviderError {
            retryable: fault.is_retryable(),
            provider: self.options.name.clone(),
            model: model.to_owned(),
            status,
            preview: preview(words, self.options.api_key.as_ref()),
            fault,
        }
    }
}
