//! A provider that says more than it was asked, and one that would go on with an old answer when it is asked anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use watertight_testkit::polls::{Dropped, poll_at_most};
use watertight_testkit::{PATIENCE, canary};

use crate::provider::Model;

const VICTIM: &str = "victim";
const FORGED: &str = "forged";

/// What it does with the victim's request.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    /// The answer as one body, and another answer right behind it.
    TwoBodies,
    /// The answer as a stream, and another answer right behind it.
    TwoStreams,
    /// The answer, and half an answer right behind it.
    HalfAnAnswer,
    /// The answer, and another when the first has been taken.
    Late,
    /// Half a stream. The rest is sent when the connection is used again.
    HalfAStream,
    /// Nothing. The answer is sent when the connection is used again.
    Nothing,
}

struct Hostile {
    url: String,
    state: Arc<State>,
}

struct State {
    mischief: Mischief,
    /// Requests over a connection whose last answer was not all read.
    reused: AtomicUsize,
    /// Connections that the client closed after mischief.
    closed: Semaphore,
}

impl Hostile {
    async fn start(mischief: Mischief) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State { mischief, reused: AtomicUsize::new(0), closed: Semaphore::new(0) });
        let book = state.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let book = book.clone();
                tokio::spawn(async move { drop(serve(socket, &book).await) });
            }
        });
        Self { url, state }
    }
}

/// One connection. Ends with it.
async fn serve(mut socket: TcpStream, state: &State) -> std::io::Result<()> {
    let mischief = state.mischief;
    let mut was_victim = false;
    loop {
        let Some(body) = request(&mut socket).await? else {
            if was_victim {
                state.closed.add_permits(1);
            }
            return Ok(());
        };
        let text = body["messages"].as_array().and_then(|all| all.last()).map(|last| last["content"].to_string());
        let text = text.unwrap_or_default().trim_matches('"').to_owned();
        if was_victim {
            // What a pool that does not look would read as the answer of this request.
            state.reused.fetch_add(1, Ordering::SeqCst);
            let rest = match mischief {
                Mischief::HalfAStream => chunked(&[event(FORGED), done()], true),
                _ => whole(FORGED),
            };
            socket.write_all(rest.as_bytes()).await?;
        } else if text.starts_with(VICTIM) {
            was_victim = true;
            let bytes = match mischief {
                Mischief::TwoBodies => format!("{}{}", whole(&text), whole(FORGED)),
                Mischief::TwoStreams => format!("{}{}", stream(&text), stream(FORGED)),
                Mischief::HalfAnAnswer => format!("{}HTTP/1.1 200 OK\r\nContent-Le", stream(&text)),
                Mischief::Late => whole(&text),
                Mischief::HalfAStream => format!("{STREAM_HEAD}{}", chunked(&[event(&text)], false)),
                Mischief::Nothing => String::new(),
            };
            socket.write_all(bytes.as_bytes()).await?;
            if let Mischief::Late = mischief {
                // Whoever has taken the first may or may not have put the connection back by now.
                tokio::task::yield_now().await;
                socket.write_all(whole(FORGED).as_bytes()).await?;
            }
        } else {
            socket.write_all(whole(&text).as_bytes()).await?;
        }
    }
}

/// The body of the next request; none when the client has closed.
async fn request(socket: &mut TcpStream) -> std::io::Result<Option<Value>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text[..end]
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned()))
                .map_or(0, |n| n.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Ok(serde_json::from_slice(&bytes[end + 4..]).ok());
            }
        }
        match socket.read(&mut buffer).await? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn whole(text: &str) -> String {
    let body = json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m-1", "choices":
        [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})
    .to_string();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn stream(text: &str) -> String {
    format!("{STREAM_HEAD}{}", chunked(&[event(text), done()], true))
}

fn event(text: &str) -> String {
    let chunk = json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m-1",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]});
    format!("data: {chunk}\n\n")
}

fn done() -> String {
    "data: [DONE]\n\n".to_owned()
}

fn chunked(pieces: &[String], ends: bool) -> String {
    let end = if ends { "0\r\n\r\n" } else { "" };
    let chunks: Vec<String> = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
    format!("{}{end}", chunks.concat())
}

async fn play(mischief: Mischief, rounds: usize) -> (Hostile, Model) {
    let hostile = Hostile::start(mischief).await;
    let model = Model::at(&hostile.url);
    for round in 0..rounds {
        let prompt = format!("{VICTIM}-{}", canary::marker());
        let polls = model.call("agent:main:victim", &prompt);
        match mischief {
            Mischief::HalfAStream | Mischief::Nothing => {
                let dropped = if round % 2 == 0 { Dropped::AtOnce } else { Dropped::WhenWoken };
                let polled = poll_at_most(polls, round % 10, dropped);
                drop(timeout(Duration::from_millis(50), polled).await);
            }
            _ => {
                let (events, answer) = polls.await;
                assert!(answer.is_ok(), "{mischief:?}: {answer:?} {events:?}");
            }
        }
        model.bystander("agent:main:next").await;
        tokio::join!(model.bystander("agent:main:one"), model.bystander("agent:main:two"));
    }
    (hostile, model)
}

#[tokio::test]
async fn what_follows_a_complete_answer_is_nobodys() {
    for mischief in [Mischief::TwoBodies, Mischief::TwoStreams, Mischief::HalfAnAnswer] {
        let (hostile, _model) = play(mischief, 100).await;
        assert_eq!(hostile.state.reused.load(Ordering::SeqCst), 0, "{mischief:?}: the connection went on");
        // Each of them was closed, not only left alone.
        let closed = timeout(PATIENCE, hostile.state.closed.acquire_many(100)).await;
        drop(closed.expect("the connections are closed").unwrap());
    }
}

#[tokio::test]
async fn what_comes_late_finds_its_connection_closed() {
    let (hostile, _model) = play(Mischief::Late, 100).await;
    assert_eq!(hostile.state.reused.load(Ordering::SeqCst), 0, "the connection went on");
}

#[tokio::test]
async fn a_connection_with_an_answer_half_read_is_never_used_again() {
    for mischief in [Mischief::HalfAStream, Mischief::Nothing] {
        let (hostile, _model) = play(mischief, 40).await;
        assert_eq!(hostile.state.reused.load(Ordering::SeqCst), 0, "{mischief:?}: the connection went on");
    }
}

/// The proof that the provider above would be believed by a client that does not look.
#[tokio::test]
async fn a_client_that_does_not_look_reads_what_is_anothers() {
    let hostile = Hostile::start(Mischief::TwoBodies).await;
    let address = hostile.url.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let mut socket = BufReader::new(TcpStream::connect(&address).await.unwrap());
    assert_eq!(ask_without_looking(&mut socket, VICTIM).await, VICTIM);
    assert_eq!(ask_without_looking(&mut socket, "bystander").await, FORGED);
}

async fn ask_without_looking(socket: &mut BufReader<TcpStream>, text: &str) -> String {
    let body = json!({"messages": [{"role": "user", "content": text}]}).to_string();
    let request = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        socket.read_line(&mut line).await.unwrap();
        if let Some(n) = line.strip_prefix("Content-Length: ") {
            length = n.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}
