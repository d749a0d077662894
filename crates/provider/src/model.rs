//! One model call: what goes in, what comes out.

use std::pin::Pin;

use futures_util::Stream;
use std::sync::Arc;

use serde_json::Value;
use watertight_core::SessionScope;
use watertight_core::ids::RunId;
use watertight_core::transcript::{Block, Message, StopReason, Usage};

use crate::fault::ProviderError;
use crate::naming::HeaderMode;

/// A model endpoint. Shared as `Arc<dyn Provider>`.
pub trait Provider: Send + Sync {
    /// The name it was configured under.
    fn name(&self) -> &str;

    /// How it names sessions to the endpoint, for the start-up print. A turn of another tenant than the entry's own
    /// is hashed where this says raw.
    fn header_mode(&self) -> HeaderMode;

    /// The models known without a call.
    fn models(&self) -> Vec<ModelInfo>;

    /// One model call in the session of `scope`. Nothing is sent before the stream is polled; dropping the stream
    /// aborts the call and closes its connection.
    fn call(&self, scope: &SessionScope, request: ModelRequest) -> ModelStream;
}

/// The events of one call. Exactly one [`ModelEvent::Done`] or one error ends it.
pub type ModelStream = Pin<Box<dyn Stream<Item = Result<ModelEvent, ProviderError>> + Send>>;

/// A model as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The provider's name for it.
    pub id: String,
    /// Context window in tokens, where known.
    pub context_window: Option<u64>,
}

/// What a call is made from.
#[derive(Clone, Debug)]
pub struct ModelRequest {
    /// The provider's name for the model.
    pub model: String,
    /// The agent's instructions, sent first.
    pub instructions: Option<String>,
    /// The session's transcript, oldest first.
    pub messages: Vec<Message>,
    /// Tools the model may ask for.
    pub tools: Arc<[ToolSpec]>,
    /// Thinking level, passed on as `reasoning_effort`; `off` is sent as none.
    pub thinking: Option<String>,
    /// The run the call belongs to. For our own log; never sent.
    pub run: RunId,
}

/// A tool as a model is told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

/// Something a call brought.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// The provider began to answer. At most once, before any other event.
    Started {
        /// The model as the provider names it in its answer.
        model: String,
        /// The provider's name for the answer.
        response_id: Option<String>,
    },
    /// More of the answer's text; never empty.
    Text(String),
    /// More of the model's reasoning; never empty.
    Thinking(String),
    /// The whole answer. The last event.
    Done(Answer),
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Thinking, then text, then tool calls; parts that are empty are absent. Tool call ids are unique in the
    /// request's transcript and this answer. Arguments the model wrote as something other than JSON are kept as a
    /// JSON string, so a tool must check that it got an object.
    pub content: Vec<Block>,
    /// Tokens, where the provider told.
    pub usage: Option<Usage>,
    /// Why it stopped: [`StopReason::ToolUse`] exactly when there are tool calls, else `Stop` or `Length`.
    pub stop: StopReason,
}
