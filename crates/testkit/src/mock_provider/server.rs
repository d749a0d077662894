//! The HTTP side of the mock provider.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::reply::{Body, End, Gate, Reply, ScriptedAnswer};
use super::{Recorded, State};

type HttpBody = UnsyncBoxBody<Bytes, io::Error>;

/// Accepts until `stop`, which also ends every connection.
pub(super) async fn run(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    let connections = AtomicUsize::new(0);
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(_) => continue,
            },
        };
        // Chunks go out as they come, as those of a real provider do; else each waits for the last one's acknowledgement.
        let _ = socket.set_nodelay(true);
        let connection = connections.fetch_add(1, Ordering::Relaxed);
        let (state, stop) = (Arc::clone(&state), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, connection, Arc::clone(&state)));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                () = stop.cancelled() => {}
                // An error is a connection that was cut, by us or by the client: nothing to do.
                _ = serving => {}
            }
        });
    }
}

/// Notes whether an answer was written to its end or given up by the client.
struct Outcome {
    state: Arc<State>,
    settled: bool,
}

impl Outcome {
    fn of(state: &Arc<State>) -> Self {
        Self { state: Arc::clone(state), settled: false }
    }

    fn answered(&mut self) {
        if !std::mem::replace(&mut self.settled, true) {
            self.state.counts.send_modify(|counts| counts.answered += 1);
        }
    }

    /// Ended by our own doing.
    fn ours(&mut self) {
        self.settled = true;
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.settled {
            self.state.counts.send_modify(|counts| counts.disconnects += 1);
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    state: Arc<State>,
) -> Result<Response<HttpBody>, io::Error> {
    let (head, body) = request.into_parts();
    let raw = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if head.uri.path().ends_with("/models") {
        let list = json!({"object": "list", "data": [{"id": "mock-model", "object": "model", "owned_by": "mock"}]});
        return Ok(json_response(200, &list));
    }
    let (recorded, reply) = record(&state, connection, head, raw);
    let mut outcome = Outcome::of(&state);
    if !recorded.path.ends_with("/chat/completions") {
        outcome.answered();
        return Ok(json_response(404, &json!({"error": {"message": "no such path"}})));
    }
    let mut response = match reply.body {
        Body::Echo => respond(&recorded, ScriptedAnswer::of_text(recorded.last_user_text()), outcome),
        Body::Answer(answer) => respond(&recorded, answer, outcome),
        Body::Raw { content_type, pieces, end } => {
            let pieces = pieces.into_iter().map(|bytes| Piece { bytes, gate: None, pause: None }).collect();
            response(&content_type, streamed(pieces, end, outcome))
        }
        Body::Silence => std::future::pending().await,
        Body::Close => {
            outcome.ours();
            return Err(io::Error::other("told to close"));
        }
    };
    *response.status_mut() = StatusCode::from_u16(reply.status).expect("the scripted status is a status");
    for (name, value) in reply.headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("the scripted header has a name");
        response.headers_mut().insert(name, value.parse().expect("the scripted header has a value"));
    }
    Ok(response)
}

fn record(state: &State, connection: usize, head: http::request::Parts, raw: Bytes) -> (Recorded, Reply) {
    let mut book = state.book();
    let recorded = Recorded {
        order: book.taken + book.requests.len(),
        connection,
        at: Instant::now(),
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: serde_json::from_slice(&raw).unwrap_or(Value::Null),
        raw,
    };
    book.requests.push(recorded.clone());
    let queued = book.queue.pop_front();
    let answerer = book.answerer.clone();
    drop(book);
    let reply = queued.or_else(|| answerer.and_then(|answer| answer(&recorded))).unwrap_or_else(Reply::echo);
    state.counts.send_modify(|counts| counts.requests += 1);
    (recorded, reply)
}

fn respond(request: &Recorded, answer: ScriptedAnswer, outcome: Outcome) -> Response<HttpBody> {
    let (model, order) = (&request.body["model"], request.order);
    let tokens = |bytes: usize| bytes.div_ceil(4);
    let (prompt, completion) = (tokens(request.raw.len()), tokens(answer.pieces.iter().map(String::len).sum()));
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
    if answer.plain || request.body["stream"] != true {
        let mut outcome = outcome;
        outcome.answered();
        return json_response(200, &answer.completion(model, order, &usage));
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for (at, chunk) in answer.chunks(model, order).into_iter().enumerate() {
        // The first chunk says nothing yet: it is not held back.
        let (gate, pause) = if at == 0 { (None, None) } else { (answer.gate.clone(), answer.pause) };
        pieces.push(Piece { bytes: chunk.into(), gate, pause });
    }
    if answer.end == End::Complete {
        let bytes = answer.ending(model, order, &usage).into();
        pieces.push(Piece { bytes, gate: answer.gate.clone(), pause: None });
    }
    response("text/event-stream; charset=utf-8", streamed(pieces, answer.end, outcome))
}

struct Piece {
    bytes: Bytes,
    gate: Option<Gate>,
    pause: Option<std::time::Duration>,
}

fn streamed(pieces: Vec<Piece>, end: End, outcome: Outcome) -> HttpBody {
    let state = (pieces.into_iter(), outcome);
    let frames = stream::unfold(Some(state), move |state| async move {
        let (mut pieces, mut outcome) = state?;
        if let Some(Piece { bytes, gate, pause }) = pieces.next() {
            if let Some(gate) = gate {
                gate.pass().await;
            }
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            return Some((Ok(Frame::data(bytes)), Some((pieces, outcome))));
        }
        match end {
            End::Complete => outcome.answered(),
            End::Early => outcome.ours(),
            End::Cut => {
                outcome.ours();
                // A body that is not ready for a moment makes the server flush what it has.
                yield_now().await;
                return Some((Err(io::Error::other("told to die")), None));
            }
            End::Silence => std::future::pending().await,
        }
        None
    });
    StreamBody::new(frames).boxed_unsync()
}

fn response(content_type: &str, body: HttpBody) -> Response<HttpBody> {
    let mut response = Response::new(body);
    let value = content_type.parse().expect("the scripted content type is a header value");
    response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    response
}

fn json_response(status: u16, body: &Value) -> Response<HttpBody> {
    let bytes = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut response = response("application/json", bytes);
    *response.status_mut() = StatusCode::from_u16(status).expect("the status is a status");
    response
}
