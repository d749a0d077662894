//! Model clients.
//!
//! * [`model`]: the [`Provider`] trait, what goes into a call and what comes out of it.
//! * [`fault`]: what can go wrong with a call, and what a user is told.
//! * [`naming`]: how a call tells the provider which session it serves.
//! * [`secret`]: the API key.

pub mod fault;
pub mod model;
pub mod naming;
pub mod secret;

pub use fault::{Fault, ProviderError};
pub use model::{Answer, ModelEvent, ModelInfo, ModelRequest, ModelStream, Provider, ToolSpec};
pub use naming::{HashedNames, HeaderMode, SessionNames, SessionNaming};
pub use secret::ApiKey;
