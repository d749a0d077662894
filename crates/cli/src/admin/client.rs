//! Requests to the administration API of the gateway that serves the state directory; where none runs, of one that this
//! process runs on loopback for as long as the command takes. One way in, whoever serves.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::Connector;
use tokio_util::sync::{CancellationToken, DropGuard};
use watertight_config::{Overrides, Secret};
use watertight_engine::Engine;
use watertight_engine::state_dir::StateDir;
use watertight_server::ServerOptions;

use super::args::Reach;
use crate::agent::endpoint::Endpoint;
use crate::args::{AgentArgs, PROGRAM};
use crate::failure::Failure;
use crate::home::Home;

/// For a connection and its answer.
const LIMIT: Duration = Duration::from_mins(1);
/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Where requests go.
pub(crate) enum Client {
    /// A gateway that runs.
    Gateway(Box<Endpoint>),
    /// This process.
    Here(Local),
}

/// A gateway for this command alone.
pub(crate) struct Local {
    address: std::net::SocketAddr,
    secret: Option<Secret>,
    stop: DropGuard,
    server: JoinHandle<std::io::Result<()>>,
}

impl Client {
    pub(crate) async fn find(home: &Home, reach: &Reach) -> Result<Self, Failure> {
        let args = AgentArgs {
            url: reach.url.clone(),
            token: reach.token.clone(),
            ca_file: reach.ca_file.clone(),
            ..AgentArgs::default()
        };
        if Endpoint::is_named(&args) || StateDir::holder(home.state_dir()).is_some() {
            return Ok(Self::Gateway(Box::new(Endpoint::find(home, &home.client_config()?, &args).await?)));
        }
        Local::start(home, reach).await.map(Self::Here)
    }

    /// Asks, and gives the answer's JSON. What the gateway refuses is a failure in its words.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = match self {
            Self::Here(local) => {
                let stream = TcpStream::connect(local.address).await.map_err(lost)?;
                let host = local.address.to_string();
                timeout(LIMIT, exchange(stream, &host, local.secret.as_ref(), method, path, body)).await
            }
            Self::Gateway(endpoint) => timeout(LIMIT, ask(endpoint, method, path, body)).await,
        };
        let (status, answer) = answer.map_err(|_| Failure::new("The gateway does not answer."))??;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let message = answer["error"]["message"].as_str().map(str::to_owned);
        Err(Failure::new(match (status, message) {
            (401, _) => format!(
                "The gateway refused the credential: pass --token (or WATERTIGHT_TOKEN) of whoever administers the tenant, \
                 or name the operator's state directory with --state-dir. Try: {PROGRAM} token --help"
            ),
            (_, Some(message)) => message,
            (status, None) => format!("The gateway answered with HTTP status {status}."),
        }))
    }

    /// Ends what was started for the command.
    pub(crate) async fn close(self) {
        if let Self::Here(Local { stop, server, .. }) = self {
            drop(stop);
            let _ = server.await;
        }
    }
}

impl Local {
    async fn start(home: &Home, reach: &Reach) -> Result<Self, Failure> {
        let config = Arc::new(home.config(Overrides::default())?);
        let dir = StateDir::lock(home.state_dir()).map_err(anyhow::Error::from)?;
        let engine = Engine::open(config.clone(), dir).await.map_err(anyhow::Error::from)?;
        let secret = match &reach.token {
            Some(token) => Some(Secret::new(token.trim())),
            None => home.operator_secret(&config),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(lost)?;
        let address = listener.local_addr().map_err(lost)?;
        let stop = CancellationToken::new();
        let options = ServerOptions {
            auth_mode: (&config.gateway.auth).into(),
            drain_grace: Duration::ZERO,
            ..ServerOptions::default()
        };
        let server = tokio::spawn(watertight_server::run(listener, engine, options, stop.clone().cancelled_owned()));
        Ok(Self { address, secret, stop: stop.drop_guard(), server })
    }
}

async fn ask(endpoint: &Endpoint, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), Failure> {
    let unreachable =
        |reason: String| Failure::new(format!("Gateway not reachable at {} ({reason}).", endpoint.shown()));
    let holder = endpoint.holder();
    let connector = endpoint.connector().map_err(unreachable)?;
    let url = &endpoint.url;
    let name = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await.map_err(|error| unreachable(error.to_string()))?;
    let host = format!("{name}:{port}");
    match connector {
        Connector::Rustls(config) => {
            let server = ServerName::try_from(bare.to_owned()).map_err(|error| unreachable(error.to_string()))?;
            let connecting = tokio_rustls::TlsConnector::from(config).connect(server, stream);
            let stream = connecting.await.map_err(|error| unreachable(error.to_string()))?;
            let secret = endpoint.secret(holder.as_ref()).map_err(Failure::new)?;
            exchange(stream, &host, secret.as_ref(), method, path, body).await
        }
        _ => {
            let secret = endpoint.secret(holder.as_ref()).map_err(Failure::new)?;
            exchange(stream, &host, secret.as_ref(), method, path, body).await
        }
    }
}

/// One request and its answer: the status and the body as JSON, null where it is none.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    secret: Option<&Secret>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let connection = tokio::spawn(connection);
    let mut request = hyper::Request::builder().method(method).uri(path).header(HOST, host);
    if let Some(secret) = secret {
        request = request.header(AUTHORIZATION, format!("Bearer {}", secret.expose()));
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = request.body(Full::new(Bytes::from(body))).map_err(lost)?;
    let answer = sender.send_request(request).await.map_err(lost)?;
    let status = answer.status().as_u16();
    let bytes = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(lost)?.to_bytes();
    connection.abort();
    Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}

fn lost(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("The gateway cannot be asked: {error}."))
}
