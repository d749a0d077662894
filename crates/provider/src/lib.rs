//! Model clients.
//!
//! * [`model`]: the [`Provider`] trait, what goes into a call and what comes out of it.
//! * [`openai`]: OpenAI-compatible endpoints.
//! * [`echo`]: the built-in model.
//! * [`naming`]: how a call tells the provider which session it serves.
//! * [`fault`]: what can go wrong with a call, and what a user is told.
//! * [`secret`]: the API key.
//! * [`sse`]: the event stream parser.

pub mod echo;
pub mod fault;
pub mod model;
pub mod naming;
pub mod openai;
pub mod secret;
pub mod sse;

pub use echo::Echo;
pub use fault::{Fault, ProviderError};
pub use model::{Answer, ModelEvent, ModelInfo, ModelRequest, ModelStream, Provider, ToolSpec};
pub use naming::{HashedNames, HeaderMode, SessionNames, SessionNaming};
pub use openai::{OpenAi, OpenAiOptions};
pub use secret::ApiKey;
