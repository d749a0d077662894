//! `chat.send` over the WebSocket.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use memchr::memmem;

use super::{Marks, Problem, Talk, World};
use crate::client::websocket::{WebSocket, contains, is_ok, is_response, shown};

pub(crate) struct User {
    pub(super) talk: Talk,
    /// None between the turns of a user who connects anew for each.
    socket: Option<WebSocket>,
    fresh: bool,
}

impl User {
    pub(super) async fn open(world: &World, fresh: bool) -> Result<Self> {
        let mut user = Self { talk: Talk::new(world), socket: None, fresh };
        if !fresh {
            let mut socket = WebSocket::open(world.gateway, &world.token).await?;
            subscribe(&mut socket, &user.key(world)).await?;
            user.socket = Some(socket);
        }
        Ok(user)
    }

    fn key(&self, world: &World) -> String {
        self.talk.label.key(world.agent)
    }

    pub(super) async fn prepare(&mut self, world: &World) -> Result<()> {
        let last = self.key(world);
        let another = self.talk.advance(world);
        let key = self.key(world);
        if another && let Some(socket) = &mut self.socket {
            let id = "unsubscribe";
            socket.queue(&request(id, "sessions.messages.unsubscribe", &format!(r#"{{"key":"{last}"}}"#)));
            subscribe(socket, &key).await?;
        }
        Ok(())
    }

    pub(super) async fn turn(&mut self, world: &World) -> Result<Marks, Problem> {
        let key = self.key(world);
        let run = self.talk.label.run();
        let params =
            format!(r#"{{"sessionKey":"{key}","message":"{}","idempotencyKey":"{run}"}}"#, self.talk.message());
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let mut socket = WebSocket::open(world.gateway, &world.token).await?;
                socket.queue(&subscription(&key));
                socket
            }
        };
        socket.queue(&request(&run, "chat.send", &params));
        socket.flush().await?;

        let of_run = format!(r#""runId":"{run}""#);
        let (mut acknowledged, mut first) = (None, None);
        loop {
            let frame = socket.next().await?;
            self.talk.check(frame)?;
            if is_response(frame, &run) {
                if !is_ok(frame) {
                    return Err(anyhow!("refused: {}", shown(frame)).into());
                }
                acknowledged = Some(Instant::now());
            } else if contains(&frame[..frame.len().min(64)], br#""event":"chat""#)
                && contains(frame, of_run.as_bytes())
            {
                match state(frame) {
                    b"delta" if first.is_none() => first = Some(Instant::now()),
                    b"delta" | b"status" => {}
                    b"final" => {
                        let done = Instant::now();
                        if !contains(frame, self.talk.label.marker().as_bytes()) {
                            return Err(anyhow!("not the answer to this turn: {}", shown(frame)).into());
                        }
                        if self.fresh {
                            socket.close().await?;
                        } else {
                            self.socket = Some(socket);
                        }
                        return Ok(Marks { acknowledged, first, done });
                    }
                    _ => return Err(anyhow!("the turn failed: {}", shown(frame)).into()),
                }
            }
        }
    }
}

/// The state of a `chat` event.
fn state(frame: &[u8]) -> &[u8] {
    const FIELD: &[u8] = br#""state":""#;
    let Some(at) = memmem::find(frame, FIELD) else { return b"" };
    let rest = &frame[at + FIELD.len()..];
    rest.split(|&byte| byte == b'"').next().unwrap_or_default()
}

pub(crate) fn request(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"type":"req","id":"{id}","method":"{method}","params":{params}}}"#)
}

fn subscription(key: &str) -> String {
    request("subscribe", "sessions.messages.subscribe", &format!(r#"{{"key":"{key}"}}"#))
}

async fn subscribe(socket: &mut WebSocket, key: &str) -> Result<()> {
    socket.queue(&subscription(key));
    socket.flush().await?;
    let answer = socket.response("subscribe").await?;
    ensure!(is_ok(answer), "no subscription: {}", shown(answer));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_says_is_not_taken_for_the_state() {
        let frame = br#"{"type":"event","event":"chat","payload":{"deltaText":"\"state\":\"final\"","state":"delta"}}"#;
        assert_eq!(state(frame), b"delta");
        assert_eq!(state(br#"{"type":"event","event":"tick"}"#), b"");
    }
}
