//! The model without a gateway: the same messages, with the conversation so far, as the gateway would send them.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::{Marks, Problem, Talk, World};
use crate::client::http::Http;
use crate::client::websocket::contains;

pub(crate) struct User {
    talk: Talk,
    model: Http,
    /// The messages so far, each with a comma behind it.
    history: String,
}

impl User {
    pub(super) async fn open(world: &World) -> Result<Self> {
        Ok(Self { talk: Talk::new(world), model: Http::open(world.model).await?, history: String::new() })
    }

    pub(super) fn prepare(&mut self, world: &World) {
        let _ = write!(
            self.history,
            r#"{{"role":"user","content":"{}"}},{{"role":"assistant","content":"You said {}. {}"}},"#,
            self.talk.message(),
            self.talk.label.marker(),
            "piece 10 of it ".repeat(19)
        );
        if self.talk.advance(world) {
            self.history.clear();
        }
    }

    pub(super) async fn turn(&mut self, world: &World) -> Result<Marks, Problem> {
        let marker = self.talk.label.marker();
        let body = format!(
            r#"{{"model":"m","messages":[{}{{"role":"user","content":"{}"}}],"stream":true,"stream_options":{{"include_usage":true}}}}"#,
            self.history,
            self.talk.message()
        );
        self.model.ask(&self.talk.label.key(world.agent), &body).await?;
        self.model.until(marker.as_bytes()).await?;
        let first = Instant::now();
        let answer = self.model.rest().await?;
        let done = Instant::now();
        self.talk.check(&answer)?;
        if !contains(&answer, b"data: [DONE]") {
            return Err(anyhow!("the model's answer has no end").into());
        }
        Ok(Marks { acknowledged: None, first: Some(first), done })
    }
}
