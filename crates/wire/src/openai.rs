//! The OpenAI chat completions API as a client of a provider speaks it.
//!
//! * [`request`]: the body we send, and how a stored transcript becomes its messages.
//! * [`answer`]: what comes back, as a stream of chunks or as one body.
//! * [`problem`]: error bodies, in the forms providers use.

pub mod answer;
pub mod problem;
pub mod request;

pub use answer::{ChatAnswer, ChatChoice, ChatPiece, ToolCallPiece};
pub use problem::ApiProblem;
pub use request::{ChatMessage, ChatRequest, ChatTool};
