//! `session_info`: which session the run is in.

use serde_json::{Value, json};
use watertight_provider::ToolSpec;

use super::{Tool, ToolContext, ToolFuture};

pub(super) struct SessionInfo;

impl Tool for SessionInfo {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "session_info".into(),
            description: "Tells the key, the id and the agent of this conversation and how many messages it holds."
                .into(),
            parameters: json!({"type": "object", "properties": {}, "additionalProperties": false}),
        }
    }

    fn is_idempotent(&self) -> bool {
        true
    }

    fn run(&self, context: ToolContext, _arguments: Value) -> ToolFuture {
        let text = json!({
            "sessionKey": context.scope.key().as_str(),
            "sessionId": context.scope.generation().as_str(),
            "agentId": context.agent,
            "messages": context.messages,
        })
        .to_string();
        Box::pin(std::future::ready(Ok(text)))
    }
}
