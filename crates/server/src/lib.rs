//! The network surfaces of Watertight.
//!
//! The caller owns the socket and the shutdown: [`run`] serves a bound listener until told to stop, then drains.
//! Every surface parses its wire, asks the engine under the caller's access, and words the answer; what a caller may
//! touch is decided in the engine alone.
//!
//! * [`options`]: what a deployment or a test may set.
//! * [`accept`]: connections in, bounded before anybody is believed.
//! * [`tls`]: the certificate, and new ones in its place.
//! * [`stream`]: a connection, with TLS or without.
//! * [`routes`]: paths, common headers and common refusals.
//! * [`probe`]: liveness, readiness and start-up probes.
//! * [`admin`]: administration of a tenant, and the trade of refresh tokens.
//! * [`limit`]: who may knock, and how often with a wrong secret.
//! * [`tally`]: counts for the log that strangers cannot flood.
//! * [`gateway`]: what all connections share.
//! * [`ws`]: the OpenClaw WebSocket protocol.

mod accept;
mod admin;
mod gateway;
mod limit;
pub mod options;
mod probe;
mod routes;
mod stream;
mod tally;
pub mod tls;
mod ws;

use std::future::Future;
use std::io;

use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use watertight_engine::Engine;

pub use options::ServerOptions;
pub use ws::view::ended as ended_run;

use gateway::{Gateway, Phase};

/// Serves `listener` until `shutdown` completes, then drains: readiness turns off, new connections are told to come
/// back, active runs get [`ServerOptions::drain_grace`], every WebSocket hears `shutdown` and closes with 1012. Returns
/// when the engine is closed and the sockets are.
pub async fn run(
    listener: TcpListener,
    engine: Engine,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let gateway = Gateway::new(engine, options, address);
    // A task of its own: whoever polls this future may be a thread that has to be woken for every connection.
    let mut accepting = AbortOnDropHandle::new(tokio::spawn(accept::accept(listener, gateway.clone())));
    let tls = gateway.options.tls.clone();
    let _renewing =
        tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(tls.keep_up(gateway.options.timing.certificate))));
    tokio::select! {
        // Only a panic ends it.
        ended = &mut accepting => return Err(io::Error::other(format!("no connections are accepted any more: {ended:?}"))),
        () = shutdown => {}
    }
    gateway.enter(Phase::Draining);
    // Still accepting, so that probes and clients learn why.
    gateway.engine.drain(gateway.options.drain_grace).await;
    // Gone, and the listener with it, once it is joined.
    accepting.abort();
    let _ = accepting.await;
    gateway.enter(Phase::Closing);
    gateway.connections_closed().await;
    Ok(())
}
