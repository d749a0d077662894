//! `agent` over the WebSocket: accepted in the first response, the end in the second. Nothing is streamed to a client that
//! subscribes to no session.

use std::time::Instant;

use anyhow::{Result, anyhow};

use super::chat::request;
use super::{Marks, Problem, Talk, World};
use crate::client::websocket::{WebSocket, contains, is_ok, is_response, shown};

pub(crate) struct User {
    pub(super) talk: Talk,
    socket: WebSocket,
}

impl User {
    pub(super) async fn open(world: &World) -> Result<Self> {
        Ok(Self { talk: Talk::new(world), socket: WebSocket::open(world.gateway, &world.token).await? })
    }

    pub(super) async fn turn(&mut self, world: &World) -> Result<Marks, Problem> {
        let (run, key) = (self.talk.label.run(), self.talk.label.key(world.agent));
        let params =
            format!(r#"{{"sessionKey":"{key}","message":"{}","idempotencyKey":"{run}"}}"#, self.talk.message());
        self.socket.queue(&request(&run, "agent", &params));
        self.socket.flush().await?;
        let mut acknowledged = None;
        loop {
            let frame = self.socket.next().await?;
            self.talk.check(frame)?;
            if !is_response(frame, &run) {
                continue;
            }
            if !is_ok(frame) {
                return Err(anyhow!("the turn failed: {}", shown(frame)).into());
            }
            if acknowledged.is_none() {
                acknowledged = Some(Instant::now());
                continue;
            }
            let done = Instant::now();
            if !contains(frame, self.talk.label.marker().as_bytes()) {
                return Err(anyhow!("not the answer to this turn: {}", shown(frame)).into());
            }
            return Ok(Marks { acknowledged, first: None, done });
        }
    }
}
