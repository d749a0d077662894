//! What all connections share.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use watertight_core::ids::UnixMillis;
use watertight_engine::Engine;

use crate::limit::{FailedLogins, Strangers};
use crate::options::ServerOptions;
use crate::tally::Tally;
use crate::ws::devices::Audience;
use crate::ws::origin::{self, Page};
use crate::ws::presence::Roll;

/// How far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everything is served.
    Serving,
    /// No new connection, no new run; what runs goes on.
    Draining,
    /// Connections close.
    Closing,
}

/// What all connections share.
pub(crate) struct Gateway {
    pub(crate) engine: Engine,
    pub(crate) options: ServerOptions,
    /// The bound address.
    pub(crate) address: IpAddr,
    /// The bound port.
    port: u16,
    /// Names this run of the process.
    pub(crate) boot_id: Uuid,
    /// Who is connected.
    pub(crate) roll: Roll,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) logins: FailedLogins,
    /// Who hears of devices that ask to be paired.
    pub(crate) audience: Audience,
    /// Every connection, until it is closed.
    pub(crate) connections: TaskTracker,
    /// Frames after hello that were not JSON.
    pub(crate) unreadable_frames: Tally,
    /// Connections that found no place among the strangers.
    pub(crate) turned_away: Tally,
    /// Pages of other origins that tried to connect.
    pub(crate) foreign_pages: Tally,
    /// Connections that presented a wrong secret.
    pub(crate) wrong_secrets: Tally,
    started: Instant,
    phase: watch::Sender<Phase>,
}

impl Gateway {
    pub(crate) fn new(engine: Engine, options: ServerOptions, address: SocketAddr) -> Arc<Self> {
        let mut limits = options.limits;
        if options.behind_tls_proxy {
            // Every client has the proxy's address: what one did wrong would shut out all.
            limits.strangers_per_address = limits.strangers;
            limits.failures = u32::MAX;
        }
        Arc::new(Self {
            engine,
            address: address.ip(),
            port: address.port(),
            boot_id: Uuid::new_v4(),
            roll: Roll::new(options.version, now(), limits.connections_per_principal),
            strangers: Strangers::new(limits.strangers_per_address, limits.strangers),
            logins: FailedLogins::new(limits),
            audience: Audience::default(),
            connections: TaskTracker::new(),
            unreadable_frames: Tally::default(),
            turned_away: Tally::default(),
            foreign_pages: Tally::default(),
            wrong_secrets: Tally::default(),
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Serving),
            options,
        })
    }

    /// Moves on; never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Completes once the server is as far as `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        // Fails only when the sender is gone, and that is ours.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Completes when every connection is gone, or has had more time than its last answers, its last frames and the
    /// other side's close may take.
    pub(crate) async fn connections_closed(&self) {
        self.connections.close();
        let patience = self.options.timing.close_grace * 3 + Duration::from_secs(1);
        if tokio::time::timeout(patience, self.connections.wait()).await.is_err() {
            tracing::warn!(open = self.connections.len(), "connections did not close in time");
        }
    }

    /// Where it listens, as clients on this machine call it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}", SocketAddr::new(self.address, self.port))
    }

    /// Which page a request comes from, as its headers say. `host` is the name the client used for us.
    pub(crate) fn page(&self, headers: &HeaderMap, host: &str, peer_is_loopback: bool) -> Page {
        let options = &self.options;
        origin::judge(headers, host, peer_is_loopback, options.tls.is_some(), &options.allowed_origins)
    }

    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The wall clock.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
