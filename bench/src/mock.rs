//! The model: an OpenAI-compatible endpoint as a process of its own, so that its CPU is counted apart.
//!
//! It answers at once, in a fixed number of pieces, and repeats the marker of the newest message in the first. It does no
//! more with a request than that needs: it looks for names in the bytes instead of reading the JSON. It keeps the head of
//! the last request, and counts the requests, those without a session key, and those whose prompt holds words of another
//! session.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::client::Wire;
use crate::label;

/// How the model answers.
#[derive(clap::Args, Clone, Copy, Debug, Serialize)]
pub(crate) struct Manner {
    /// Pieces of each reply.
    #[arg(long, default_value_t = 20)]
    pub(crate) chunks: usize,
    /// Write all pieces of a reply at once, instead of each by itself as they come from a model.
    #[arg(long)]
    pub(crate) burst: bool,
}

/// What the model was asked so far; the answer to `GET /seen`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    /// Requests without the header `x-openclaw-session-key`.
    pub(crate) unnamed: u64,
    /// Requests whose prompt holds words of another session than the header's.
    pub(crate) leaks: u64,
    /// The head of the last request.
    pub(crate) last_head: String,
}

/// The pieces every reply has in common, each framed as a chunk of HTTP.
struct Reply {
    head: Vec<u8>,
    rest: Vec<Vec<u8>>,
}

impl Reply {
    fn new(manner: Manner) -> Self {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut head = head.to_vec();
        chunk(&mut head, &event(r#"{"role":"assistant","content":""}"#, "null"));
        let piece = |at| {
            let mut bytes = Vec::new();
            chunk(&mut bytes, &event(&format!(r#"{{"content":"piece {at} of it "}}"#), "null"));
            bytes
        };
        let mut rest: Vec<_> = (1..manner.chunks.max(1)).map(piece).collect();
        let usage = r#"{"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1800000000,"model":"m","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":80,"total_tokens":180}}"#;
        let mut end = Vec::new();
        chunk(&mut end, &(event("{}", r#""stop""#) + "data: " + usage + "\n\ndata: [DONE]\n\n"));
        end.extend_from_slice(b"0\r\n\r\n");
        rest.push(end);
        if manner.burst {
            rest = vec![rest.concat()];
        }
        Self { head, rest }
    }

    /// Head, role and the first piece, which repeats the marker.
    fn first(&self, marker: &[u8]) -> Vec<u8> {
        let mut bytes = self.head.clone();
        let marker = String::from_utf8_lossy(marker);
        chunk(&mut bytes, &event(&format!(r#"{{"content":"You said {marker}. "}}"#), "null"));
        bytes
    }
}

fn event(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1800000000,\"model\":\"m\",\
         \"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn chunk(bytes: &mut Vec<u8>, event: &str) {
    bytes.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
}

/// Serves until standard input ends: until whoever started it is gone. Says its address on standard output.
pub(crate) fn serve(manner: Manner) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let reply = Rc::new(Reply::new(manner));
    let seen = Rc::new(RefCell::new(Seen::default()));
    let serving = async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", listener.local_addr()?)?;
        out.flush()?;
        let accept = async {
            loop {
                let (socket, _) = listener.accept().await?;
                let wire = Wire::new(socket)?;
                let (reply, seen) = (Rc::clone(&reply), Rc::clone(&seen));
                // A connection that breaks is the client's business.
                tokio::task::spawn_local(async move { connection(wire, &reply, &seen).await });
            }
        };
        let mut nothing = Vec::new();
        let mut stdin = tokio::io::stdin();
        tokio::select! {
            accepted = accept => accepted,
            _ = stdin.read_to_end(&mut nothing) => Ok(()),
        }
    };
    let served = LocalSet::new().block_on(&runtime, serving);
    // The read of standard input holds a thread that may never come back.
    runtime.shutdown_background();
    served
}

async fn connection(mut wire: Wire, reply: &Reply, seen: &RefCell<Seen>) -> Result<()> {
    loop {
        let Some((head, body)) = request(&mut wire).await? else { return Ok(()) };
        let bytes = wire.unread();
        let (head, body) = (&bytes[..head], &bytes[head..head + body]);
        let taken = head.len() + body.len();
        if head.starts_with(b"GET ") {
            let text = serde_json::to_string(&*seen.borrow())?;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            );
            wire.send(answer.as_bytes()).await?;
        } else {
            note(&mut seen.borrow_mut(), head, body);
            let first = reply.first(label::last_marker(body).unwrap_or_default());
            if let [rest] = reply.rest.as_slice() {
                wire.send(&[first.as_slice(), rest].concat()).await?;
            } else {
                wire.send(&first).await?;
                for piece in &reply.rest {
                    wire.send(piece).await?;
                }
            }
        }
        wire.consume(taken);
    }
}

/// Waits for a whole request: the lengths of its head and its body; none when the client is gone.
async fn request(wire: &mut Wire) -> Result<Option<(usize, usize)>> {
    let mut searched = 0;
    let head = loop {
        let bytes = wire.unread();
        if let Some(at) = memmem::find(&bytes[searched..], b"\r\n\r\n") {
            break searched + at + 4;
        }
        searched = bytes.len().saturating_sub(3);
        if !wire.fill().await? {
            return Ok(None);
        }
    };
    let body = match header(&wire.unread()[..head], "content-length") {
        Some(length) => length.parse().context("no length")?,
        None => 0,
    };
    while wire.unread().len() < head + body {
        if !wire.fill().await? {
            bail!("half a request");
        }
    }
    Ok(Some((head, body)))
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| std::str::from_utf8(value).ok().map(str::trim))?
    })
}

fn note(seen: &mut Seen, head: &[u8], body: &[u8]) {
    seen.requests += 1;
    let key = header(head, "x-openclaw-session-key");
    match key.and_then(|key| label::session(key.as_bytes())) {
        None => seen.unnamed += 1,
        Some(session) if label::marked(body).any(|other| other != session) => seen.leaks += 1,
        Some(_) => {}
    }
    seen.last_head.clear();
    seen.last_head.push_str(&String::from_utf8_lossy(head));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Label;

    #[test]
    fn a_prompt_with_words_of_another_session_is_a_leak() {
        let [mine, other] = [1, 2].map(|session| Label { session, turn: 1 });
        let head = format!("POST / HTTP/1.1\r\nX-OpenClaw-Session-Key: {}\r\n\r\n", mine.key("main"));
        let mut seen = Seen::default();
        note(&mut seen, head.as_bytes(), mine.marker().as_bytes());
        assert_eq!((seen.requests, seen.unnamed, seen.leaks), (1, 0, 0));
        note(&mut seen, head.as_bytes(), format!("{} {}", mine.marker(), other.marker()).as_bytes());
        assert_eq!((seen.requests, seen.unnamed, seen.leaks), (2, 0, 1));
        note(&mut seen, b"POST / HTTP/1.1\r\n\r\n", mine.marker().as_bytes());
        assert_eq!((seen.requests, seen.unnamed, seen.leaks), (3, 1, 1));
    }

    #[test]
    fn a_reply_has_its_pieces_and_ends() {
        for burst in [false, true] {
            let reply = Reply::new(Manner { chunks: 3, burst });
            let whole = [reply.first(b"bench-x"), reply.rest.concat()].concat();
            let whole = String::from_utf8(whole).unwrap();
            assert_eq!(whole.matches(r#"{"content":"#).count(), 3);
            assert!(whole.contains("You said bench-x."));
            assert!(whole.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"));
            assert_eq!(reply.rest.len(), if burst { 1 } else { 3 });
        }
    }
}
