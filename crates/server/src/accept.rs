//! Connections in, bounded before anybody is believed (isolation.md §2.10).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::gateway::{Gateway, Phase};
use crate::limit::{Place, Source};
use crate::routes;
use crate::stream::{HttpStream, Stream};
use crate::ws::connection;
use crate::ws::origin::Page;
use crate::ws::upgrade::Agreement;

/// Largest header of a request, in bytes.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Most header fields of a request.
const MAX_HEADER_FIELDS: usize = 64;
/// Pause after the system refused to accept, for lack of file descriptors for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The other end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// When it came.
    pub(crate) accepted_at: Instant,
    /// Its place among the strangers; the last clone frees it.
    _place: Arc<Place>,
}

impl Peer {
    /// Its address as limits count it.
    pub(crate) fn source(&self) -> Source {
        self.address.ip().into()
    }
}

/// Accepts until it is stopped.
pub(crate) async fn accept(listener: TcpListener, gateway: Arc<Gateway>) {
    let router = routes::router(gateway.clone());
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Small frames in both directions: waiting for full packets would only delay them.
                let _ = stream.set_nodelay(true);
                match gateway.strangers.admit(address.ip().into()) {
                    Some(place) => {
                        let peer = Peer { address, accepted_at: Instant::now(), _place: Arc::new(place) };
                        gateway.connections.spawn(serve(stream, peer, router.clone(), gateway.clone()));
                    }
                    None => {
                        if let Some(count) = gateway.turned_away.count() {
                            tracing::warn!(%address, count, "too many connections that have not authenticated; refused one");
                        }
                        let sentence = gateway.options.tls.is_none();
                        gateway.connections.spawn(refuse(stream, sentence));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One sentence, where it can be read, without reading anything.
async fn refuse(mut stream: TcpStream, sentence: bool) {
    if !sentence {
        return;
    }
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
        Retry-After: 1\r\nConnection: close\r\nContent-Length: 48\r\n\r\nToo many connections are waiting to authenticate";
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(ANSWER)).await;
}

/// HTTP, and then perhaps a WebSocket, to the end of the connection.
async fn serve(stream: TcpStream, peer: Peer, router: Router, gateway: Arc<Gateway>) {
    // On the heap and over soon: what a connection's task takes, it takes to its end.
    let upgraded = Box::pin(serve_http(stream, peer.clone(), router, gateway.clone())).await;
    if let Some(Upgraded { stream, early, page }) = upgraded {
        connection::serve(gateway, peer, page, stream, early).await;
    }
}

/// A connection that goes on as a WebSocket.
struct Upgraded {
    stream: Stream,
    /// What came behind the request.
    early: Bytes,
    page: Page,
}

async fn serve_http(stream: TcpStream, peer: Peer, router: Router, gateway: Arc<Gateway>) -> Option<Upgraded> {
    let timing = gateway.options.timing;
    let header_deadline = peer.accepted_at + timing.header;
    let stream = match &gateway.options.tls {
        None => HttpStream::Plain(stream),
        Some(tls) => {
            let secured = tokio::select! {
                secured = tls.accept(stream) => secured?,
                () = tokio::time::sleep_until(header_deadline.into()) => return None,
                () = gateway.reached(Phase::Closing) => return None,
            };
            HttpStream::Tls(Box::new(secured))
        }
    };
    // What is left of it, for a connection that takes it for its handshake.
    let header_patience = header_deadline.saturating_duration_since(Instant::now());
    let age = tokio::time::sleep_until((peer.accepted_at + timing.handshake).into());
    let over = async {
        tokio::select! {
            // Requests keep it open, but it holds a stranger's place all the time.
            () = age => {}
            () = gateway.reached(Phase::Closing) => {}
        }
    };
    let agreement = Agreement::default();
    let router = TowerToHyperService::new(router);
    let agreed = agreement.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(agreed.clone());
        router.call(request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_patience)
        .max_header_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADER_FIELDS)
        .serve_connection(TokioIo::new(stream), service);
    let result = tokio::select! {
        // An upgrade completes it as well.
        result = &mut connection => result,
        () = over => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended early");
        return None;
    }
    let page = agreement.page()?;
    let Parts { io, read_buf, .. } = connection.into_parts();
    Some(Upgraded { stream: io.into_inner().into_stream(), early: read_buf, page })
}
