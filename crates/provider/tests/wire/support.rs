//! What the tests share.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use watertight_core::SessionScope;
use watertight_core::ids::RunId;
use watertight_core::transcript::{Block, Message, ModelRef};
use watertight_provider::naming::{HashedNames, HeaderMode, SessionNames, SessionNaming};
use watertight_provider::{
    Answer, ApiKey, ModelEvent, ModelRequest, ModelStream, OpenAi, OpenAiOptions, Provider, ProviderError,
};
use watertight_testkit::scope::{scope, tenant};
use watertight_testkit::{MockProvider, PATIENCE};

struct NamedByTenant;

impl SessionNames for NamedByTenant {
    fn hashed(&self, scope: &SessionScope) -> Option<HashedNames> {
        let byte = scope.tenant().as_bytes()[0];
        Some(HashedNames {
            key: format!("wt1_hash-of-tenant-{byte}"),
            generation: format!("wt1_generation-of-tenant-{byte}"),
        })
    }
}

type Change = dyn Fn(&mut OpenAiOptions);

/// Options under construction. Raw keys are those of tenant 1.
pub(crate) struct Setup {
    base_url: String,
    mode: HeaderMode,
    changes: Vec<Box<Change>>,
}

impl Setup {
    pub(crate) fn new(mock: &MockProvider) -> Self {
        Self::at(&mock.base_url())
    }

    pub(crate) fn at(base_url: &str) -> Self {
        Self { base_url: base_url.into(), mode: HeaderMode::Raw, changes: Vec::new() }
    }

    pub(crate) fn mode(self, mode: HeaderMode) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn with(mut self, change: impl Fn(&mut OpenAiOptions) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    pub(crate) fn options(&self) -> OpenAiOptions {
        let naming = SessionNaming::new(self.mode, tenant(1), Arc::new(NamedByTenant));
        let mut options = OpenAiOptions::new("test", self.base_url.parse().expect("an address"), naming);
        options.api_key = Some(ApiKey::new("sk-test-key"));
        options.retry.base_delay = Duration::from_millis(1);
        for change in &self.changes {
            change(&mut options);
        }
        options
    }

    pub(crate) fn provider(&self) -> OpenAi {
        OpenAi::new(self.options()).expect("options that work")
    }
}

pub(crate) type Outcome = (Vec<ModelEvent>, Result<Answer, ProviderError>);

pub(crate) async fn next(stream: &mut ModelStream) -> Option<Result<ModelEvent, ProviderError>> {
    timeout(PATIENCE, stream.next()).await.expect("the stream goes on")
}

/// Runs a call to its end: the events before the last, and how it ended. Checks that exactly one thing ends it.
pub(crate) async fn run(mut stream: ModelStream) -> Outcome {
    let mut events = Vec::new();
    let outcome = loop {
        match next(&mut stream).await.expect("a call ends with Done or an error") {
            Ok(ModelEvent::Done(answer)) => break Ok(answer),
            Ok(event) => events.push(event),
            Err(error) => break Err(error),
        }
    };
    assert!(next(&mut stream).await.is_none(), "nothing follows the end");
    (events, outcome)
}

/// A call in the session `key` of tenant 1.
pub(crate) async fn collect(provider: &dyn Provider, key: &str, request: ModelRequest) -> Outcome {
    run(provider.call(&scope(tenant(1), key, "gen-1"), request)).await
}

pub(crate) fn failure((events, outcome): Outcome) -> ProviderError {
    match outcome {
        Err(error) => error,
        Ok(answer) => panic!("it succeeded: {events:?} {answer:?}"),
    }
}

pub(crate) fn text_of(events: &[ModelEvent]) -> String {
    let text = |event: &ModelEvent| match event {
        ModelEvent::Text(text) => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

pub(crate) fn answer_text(answer: &Answer) -> String {
    answer.content.iter().filter_map(Block::text).collect()
}

pub(crate) fn message(text: &str) -> Message {
    Message::User { content: vec![Block::from_text(text)] }
}

/// The answer as the engine stores it.
pub(crate) fn as_message(answer: Answer) -> Message {
    Message::Assistant {
        content: answer.content,
        model: ModelRef { provider: "test".into(), model: "m-1".into() },
        usage: answer.usage,
        stop: answer.stop,
        error: None,
    }
}

pub(crate) fn tool_result(call_id: &str, tool: &str, text: &str) -> Message {
    let content = vec![Block::from_text(text)];
    Message::ToolResult { call_id: call_id.into(), tool: tool.into(), content, is_error: false }
}

pub(crate) fn request(messages: Vec<Message>) -> ModelRequest {
    ModelRequest {
        model: "m-1".into(),
        instructions: None,
        messages,
        tools: [].into(),
        thinking: None,
        run: RunId::parse("run-1").expect("a run id"),
    }
}

pub(crate) fn user(text: &str) -> ModelRequest {
    request(vec![message(text)])
}
