//! Server-side tools and the broker that runs them.
//!
//! Two harmless built-ins keep the tool loop real until tools can be configured. A tool gets the run's scope and
//! nothing that would let it name another session.

mod session_info;
mod time;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use watertight_core::SessionScope;
use watertight_core::ids::UnixMillis;
use watertight_core::transcript::{Block, ToolCall};
use watertight_provider::ToolSpec;

/// Longest result of one call, in bytes; the rest is cut.
const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// Longest time one call may take.
const TIME_LIMIT: Duration = Duration::from_mins(1);

/// What a tool may know about the run it serves.
#[derive(Clone)]
pub struct ToolContext {
    /// The run's authority: its session and nothing else.
    pub scope: Arc<SessionScope>,
    /// The agent that answers.
    pub agent: String,
    /// Messages in the live generation.
    pub messages: u32,
    /// When the call was started.
    pub now: UnixMillis,
}

/// What a call returned: text for the model, and whether it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolOutput {
    pub(crate) text: String,
    pub(crate) is_error: bool,
}

/// What a call comes to: text for the model, or one sentence about what went wrong.
pub type ToolFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// One server-side tool.
pub trait Tool: Send + Sync {
    /// What a model is told of it.
    fn spec(&self) -> ToolSpec;
    /// Whether running a call twice does what running it once does. If not, a call that a crash cut short is never run
    /// again: its outcome is unknown, and the model is told so (isolation.md C5).
    fn is_idempotent(&self) -> bool;
    /// `Err` holds one sentence for the model.
    fn run(&self, context: ToolContext, arguments: Value) -> ToolFuture;
}

/// Knows every server-side tool.
pub(crate) struct Broker {
    tools: Vec<Box<dyn Tool>>,
    /// What a model is told of each, in the same order.
    specs: Arc<[ToolSpec]>,
}

impl Broker {
    /// The built-in tools and `more`.
    pub(crate) fn new(more: Vec<Box<dyn Tool>>) -> Self {
        let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(time::Time), Box::new(session_info::SessionInfo)];
        tools.extend(more);
        let specs = tools.iter().map(|tool| tool.spec()).collect();
        Self { tools, specs }
    }

    /// Whether a call that may have run already may be run again.
    pub(crate) fn may_repeat(&self, call: &ToolCall) -> bool {
        // What does not exist has no effect.
        self.find(&call.name).is_none_or(Tool::is_idempotent)
    }

    fn find(&self, name: &str) -> Option<&dyn Tool> {
        let at = self.specs.iter().position(|spec| spec.name == name)?;
        Some(&*self.tools[at])
    }

    /// What a model is told it may ask for.
    pub(crate) fn specs(&self) -> Arc<[ToolSpec]> {
        self.specs.clone()
    }

    /// Runs one call. Never fails: what goes wrong is told to the model.
    pub(crate) fn run(&self, context: ToolContext, call: &ToolCall) -> impl Future<Output = ToolOutput> + Send + use<> {
        let started = match self.find(&call.name) {
            None => Err(format!("There is no tool named {:?}.", call.name)),
            Some(_) if !call.arguments.is_object() => Err("The arguments must be a JSON object.".to_owned()),
            Some(tool) => Ok(tool.run(context, call.arguments.clone())),
        };
        async move {
            let result = match started {
                Ok(future) => tokio::time::timeout(TIME_LIMIT, future)
                    .await
                    .unwrap_or_else(|_| Err(format!("The tool took longer than {} s.", TIME_LIMIT.as_secs()))),
                Err(refusal) => Err(refusal),
            };
            match result {
                Ok(text) => ToolOutput { text: bounded(text), is_error: false },
                Err(text) => ToolOutput { text: bounded(text), is_error: true },
            }
        }
    }
}

impl ToolOutput {
    /// The result of a call that was cut short and is not repeated.
    pub(crate) fn unknown_outcome() -> Self {
        let text = "unknown_outcome: the gateway stopped while this tool ran. Whether it took effect is not known; it \
                    was not run again.";
        Self { text: text.into(), is_error: true }
    }

    pub(crate) fn content(&self) -> Vec<Block> {
        vec![Block::from_text(self.text.clone())]
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_OUTPUT_BYTES {
        let mut end = MAX_OUTPUT_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("\n[cut]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_is_cut_at_a_character() {
        let text = bounded("ä".repeat(MAX_OUTPUT_BYTES));
        assert!(text.len() <= MAX_OUTPUT_BYTES + 6 && text.ends_with("\n[cut]"));
        assert_eq!(bounded("short".into()), "short");
    }

    #[test]
    fn tool_names_are_unique() {
        let mut names: Vec<_> = Broker::new(Vec::new()).specs().iter().map(|spec| spec.name.clone()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
