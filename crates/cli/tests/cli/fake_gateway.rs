//! A gateway that does as it is told: for what a real one does only when it is unlucky.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, accept_async};
use watertight_testkit::{GatewaySetup, PATIENCE};

use crate::command::{TWO_AGENTS, setup};

/// What one connection gets.
#[derive(Clone)]
pub(crate) enum Visit {
    /// Closed with 1000 and no reason, before the challenge.
    ClosedAtOnce,
    /// Refused in the handshake, with this message.
    Refused(&'static str),
    /// Let in; `agent` is answered by these steps.
    Served(Vec<Step>),
    /// Let in; the first `agent` is answered `in_flight`, a further one by these steps.
    InFlight(Vec<Step>),
}

/// One thing said in answer to `agent`.
#[derive(Clone)]
pub(crate) enum Step {
    /// `accepted`, with the request's key, else the main session's.
    Accept,
    /// `accepted`, under this key.
    AcceptAs(&'static str),
    /// The `chat` event of a growing answer: everything so far.
    Delta(&'static str),
    /// The `agent` event of a tool at work: its data.
    Tool(Value),
    /// Waits until the test has let go on.
    Wait(Arc<Notify>),
    /// The response, with the run's id filled in.
    Final(Value),
    /// The failed response: error message, and payload with the run's id filled in.
    Failed(&'static str, Value),
    /// The refusal of the request: the whole error.
    Refuse(Value),
    /// Breaks the connection off.
    Break,
    /// Breaks it off and takes no other.
    Vanish,
}

/// The successful end of a run that said `text`.
pub(crate) fn said(text: &str) -> Step {
    Step::Final(json!({
        "status": "ok",
        "summary": "completed",
        "result": {"payloads": [{"text": text, "mediaUrl": null}], "meta": {"durationMs": 1}},
    }))
}

/// A request it got.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) params: Value,
}

pub(crate) struct FakeGateway {
    pub(crate) address: SocketAddr,
    asked: watch::Receiver<Vec<Asked>>,
    connections: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeGateway {
    /// Gives each connection its visit, the last one over and over.
    pub(crate) async fn start(visits: impl IntoIterator<Item = Visit>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (log, asked) = watch::channel(Vec::new());
        let (count, connections) = watch::channel(0);
        let visits: VecDeque<Visit> = visits.into_iter().collect();
        let task = tokio::spawn(serve(listener, visits, Arc::new(log), count));
        Self { address, asked, connections, task }
    }

    /// One that answers every `agent` with this text.
    pub(crate) async fn saying(text: &str) -> Self {
        Self::start([Visit::Served(vec![Step::Accept, said(text)])]).await
    }

    /// A state directory whose configuration names this gateway, with the agents `main` and `ops`.
    pub(crate) fn setup(&self) -> GatewaySetup {
        self.setup_with("")
    }

    pub(crate) fn setup_with(&self, more: &str) -> GatewaySetup {
        setup()
            .config(&format!("[gateway]\nlisten = '{}'\nauth.token = 'fake-token'\n{more}\n{TWO_AGENTS}", self.address))
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }

    /// The params of the only `agent` request.
    #[track_caller]
    pub(crate) fn turn(&self) -> Value {
        let turns: Vec<Asked> = self.asked().into_iter().filter(|asked| asked.method == "agent").collect();
        assert_eq!(turns.len(), 1, "{turns:?}");
        turns[0].params.clone()
    }

    /// Waits until this many connections were made.
    pub(crate) async fn wait_for_connections(&self, count: usize) {
        let mut connections = self.connections.clone();
        timeout(PATIENCE, connections.wait_for(|made| *made >= count)).await.expect("they are made").unwrap();
    }

    /// Waits for a request of this method.
    pub(crate) async fn wait_for(&self, method: &str) -> Asked {
        let mut asked = self.asked.clone();
        let found = asked.wait_for(|all| all.iter().any(|asked| asked.method == method));
        let all = timeout(PATIENCE, found).await.expect("the request comes").unwrap().clone();
        all.into_iter().find(|asked| asked.method == method).unwrap()
    }
}

type Log = Arc<watch::Sender<Vec<Asked>>>;
type Socket = WebSocketStream<TcpStream>;

async fn serve(listener: TcpListener, visits: VecDeque<Visit>, log: Log, connections: watch::Sender<usize>) {
    let visits = Arc::new(Mutex::new(visits));
    let (vanish, mut vanished) = watch::channel(false);
    let vanish = Arc::new(vanish);
    let mut count = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = vanished.changed() => return,
        };
        let (stream, _) = accepted.unwrap();
        let visit = {
            let mut visits = visits.lock().unwrap_or_else(PoisonError::into_inner);
            if visits.len() > 1 { visits.pop_front().unwrap() } else { visits.front().unwrap().clone() }
        };
        tokio::spawn(receive(stream, visit, count, log.clone(), vanish.clone()));
        count += 1;
        connections.send_replace(count);
    }
}

async fn receive(
    stream: TcpStream,
    visit: Visit,
    connection: usize,
    log: Log,
    vanish: Arc<watch::Sender<bool>>,
) -> Option<()> {
    let mut socket = accept_async(stream).await.ok()?;
    if matches!(visit, Visit::ClosedAtOnce) {
        socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await.ok()?;
        return None;
    }
    send(&mut socket, json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n", "ts": 1}}))
        .await?;
    let mut asked_before = false;
    loop {
        let Message::Text(text) = socket.next().await?.ok()? else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        let (id, method, params) = (&frame["id"], frame["method"].as_str().unwrap(), &frame["params"]);
        let asked = Asked { connection, method: method.to_owned(), params: params.clone() };
        log.send_modify(|all| all.push(asked));
        match (method, &visit) {
            ("connect", Visit::Refused(message)) => {
                let error = json!({"code": "INVALID_REQUEST", "message": message});
                send(&mut socket, json!({"type": "res", "id": id, "ok": false, "error": error})).await?;
                socket.close(Some(CloseFrame { code: CloseCode::Policy, reason: "refused".into() })).await.ok()?;
                return None;
            }
            ("connect", _) => {
                let hello = json!({"type": "hello-ok", "protocol": 4, "policy": {"tickIntervalMs": 30_000}});
                answer(&mut socket, id, hello).await?;
            }
            ("chat.abort", _) => {
                let known = !matches!(&visit, Visit::Served(steps) if steps.is_empty());
                let runs: &[_] = if known { &[&params["runId"]] } else { &[] };
                answer(&mut socket, id, json!({"ok": true, "aborted": known, "runIds": runs})).await?;
            }
            ("agent.wait", _) => {
                answer(&mut socket, id, json!({"runId": params["runId"], "status": "ok"})).await?;
            }
            ("agent", Visit::InFlight(_)) if !asked_before => {
                asked_before = true;
                answer(&mut socket, id, json!({"runId": params["idempotencyKey"], "status": "in_flight"})).await?;
            }
            ("agent", Visit::Served(steps) | Visit::InFlight(steps)) => {
                for step in steps {
                    take(&mut socket, id, params, step, &vanish).await?;
                }
            }
            _ => panic!("nobody asks for {method}"),
        }
    }
}

async fn take(
    socket: &mut Socket,
    id: &Value,
    params: &Value,
    step: &Step,
    vanish: &watch::Sender<bool>,
) -> Option<()> {
    let run = &params["idempotencyKey"];
    let key = params["sessionKey"].as_str().unwrap_or("agent:main:main");
    match step {
        Step::Accept | Step::AcceptAs(_) => {
            let key = if let Step::AcceptAs(key) = step { key } else { key };
            let payload = json!({"runId": run, "sessionKey": key, "status": "accepted", "acceptedAt": 1});
            answer(socket, id, payload).await
        }
        Step::Delta(text) => {
            let message = json!({"role": "assistant", "content": [{"type": "text", "text": text}]});
            let payload = json!({"runId": run, "sessionKey": key, "state": "delta", "message": message});
            send(socket, json!({"type": "event", "event": "chat", "payload": payload, "seq": 1})).await
        }
        Step::Tool(data) => {
            let payload = json!({"runId": run, "sessionKey": key, "stream": "tool", "data": data});
            send(socket, json!({"type": "event", "event": "agent", "payload": payload, "seq": 1})).await
        }
        Step::Wait(go_on) => {
            go_on.notified().await;
            Some(())
        }
        Step::Final(payload) => {
            let mut payload = payload.clone();
            payload["runId"] = run.clone();
            answer(socket, id, payload).await
        }
        Step::Failed(message, payload) => {
            let mut payload = payload.clone();
            payload["runId"] = run.clone();
            let error = json!({"code": "UNAVAILABLE", "message": message});
            send(socket, json!({"type": "res", "id": id, "ok": false, "payload": payload, "error": error})).await
        }
        Step::Refuse(error) => send(socket, json!({"type": "res", "id": id, "ok": false, "error": error})).await,
        Step::Break => None,
        Step::Vanish => {
            vanish.send_replace(true);
            None
        }
    }
}

async fn answer(socket: &mut Socket, id: &Value, payload: Value) -> Option<()> {
    send(socket, json!({"type": "res", "id": id, "ok": true, "payload": payload})).await
}

async fn send(socket: &mut Socket, frame: Value) -> Option<()> {
    socket.send(Message::text(frame.to_string())).await.ok()
}
