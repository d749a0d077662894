//! Users: each holds one conversation after another through one of the surfaces.
//!
//! * [`chat`]: `chat.send` over the WebSocket, on one connection or on a fresh one each turn.
//! * [`agent`]: `agent` over the WebSocket, answered twice.
//! * [`direct`]: the same requests straight to the model, without a gateway.
//!
//! A further surface is one more file here, and one more variant of [`Surface`] and [`User`].

pub(crate) mod agent;
pub(crate) mod chat;
pub(crate) mod direct;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::label::{self, Label};

/// What every message says, after its marker.
const QUESTION: &str = "Please look at the figures of last week and say in one sentence what changed.";

/// A way to ask for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Surface {
    #[serde(rename = "chat.send")]
    ChatSend,
    #[serde(rename = "chat.send, fresh connection")]
    ChatSendFresh,
    #[serde(rename = "agent")]
    Agent,
    #[serde(rename = "model, no gateway")]
    Direct,
}

impl Surface {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ChatSend => "chat.send",
            Self::ChatSendFresh => "chat.send, fresh",
            Self::Agent => "agent",
            Self::Direct => "model, no gateway",
        }
    }
}

/// What users share.
pub(crate) struct World {
    pub(crate) gateway: SocketAddr,
    pub(crate) token: String,
    pub(crate) model: SocketAddr,
    /// The agent whose sessions they are.
    pub(crate) agent: &'static str,
    /// Turns of a conversation; then the user begins another, in a session of its own.
    pub(crate) conversation: u32,
    /// The next session's number.
    pub(crate) sessions: Arc<AtomicU32>,
}

/// When what came of a turn came.
pub(crate) struct Marks {
    /// The acknowledgement, where the surface has one.
    pub(crate) acknowledged: Option<Instant>,
    /// The first text, where the surface streams.
    pub(crate) first: Option<Instant>,
    /// The end.
    pub(crate) done: Instant,
}

/// Why a turn does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// Something of another session was received.
    #[error("LEAK: {0}")]
    Leak(String),
    /// Anything else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// One user.
pub(crate) enum User {
    Chat(chat::User),
    Agent(agent::User),
    Direct(direct::User),
}

impl User {
    /// Ready for its first turn.
    pub(crate) async fn open(world: &World, surface: Surface) -> anyhow::Result<Self> {
        Ok(match surface {
            Surface::ChatSend => Self::Chat(chat::User::open(world, false).await?),
            Surface::ChatSendFresh => Self::Chat(chat::User::open(world, true).await?),
            Surface::Agent => Self::Agent(agent::User::open(world).await?),
            Surface::Direct => Self::Direct(direct::User::open(world).await?),
        })
    }

    /// One turn, to its end.
    pub(crate) async fn turn(&mut self, world: &World) -> Result<Marks, Problem> {
        match self {
            Self::Chat(user) => user.turn(world).await,
            Self::Agent(user) => user.turn(world).await,
            Self::Direct(user) => user.turn(world).await,
        }
    }

    /// Makes ready for the next turn; not part of any turn's time.
    pub(crate) async fn prepare(&mut self, world: &World) -> anyhow::Result<()> {
        match self {
            Self::Chat(user) => user.prepare(world).await,
            Self::Agent(user) => {
                user.talk.advance(world);
                Ok(())
            }
            Self::Direct(user) => {
                user.prepare(world);
                Ok(())
            }
        }
    }
}

/// A user's place in its conversations.
pub(crate) struct Talk {
    pub(crate) label: Label,
    /// The session before this one: what is still under way of it may come late.
    before: Option<u32>,
}

impl Talk {
    fn new(world: &World) -> Self {
        Self { label: Label { session: world.sessions.fetch_add(1, Ordering::Relaxed), turn: 0 }, before: None }
    }

    /// Moves on to the next turn; true when it is the first of another session.
    fn advance(&mut self, world: &World) -> bool {
        self.label.turn += 1;
        let over = self.label.turn >= world.conversation;
        if over {
            let next = Self::new(world);
            self.before = Some(self.label.session);
            self.label = next.label;
        }
        over
    }

    /// Fails when `bytes` hold words of a session that is not this user's, or of two at once.
    fn check(&self, bytes: &[u8]) -> Result<(), Problem> {
        let mut found = label::marked(bytes);
        let Some(whose) = found.next() else { return Ok(()) };
        let own = whose == self.label.session || Some(whose) == self.before;
        match if own { found.find(|&other| other != whose) } else { Some(whose) } {
            None => Ok(()),
            Some(other) => Err(Problem::Leak(format!(
                "words of session {other:08x} in what session {:08x} was sent: {}",
                self.label.session,
                crate::client::websocket::shown(bytes)
            ))),
        }
    }

    fn message(&self) -> String {
        format!("{} {QUESTION}", self.label.marker())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(session: u32, before: Option<u32>) -> Talk {
        Talk { label: Label { session, turn: 0 }, before }
    }

    #[test]
    fn a_frame_with_words_of_another_session_is_a_leak() {
        let words = |session| Label { session, turn: 3 }.marker();
        let mine = talk(2, Some(1));
        for good in [String::new(), words(2), words(1), words(2) + &words(2)] {
            assert!(mine.check(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [words(3), words(2) + &words(3), words(2) + &words(1), words(1) + &words(2)] {
            assert!(matches!(mine.check(bad.as_bytes()), Err(Problem::Leak(_))), "{bad}");
        }
    }
}
