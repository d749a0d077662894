//! What a deployment or a test may set.

use std::time::Duration;

use crate::tls::Tls;

/// How the server runs. The defaults are the product's; tests shorten the times.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Our version, as clients are told.
    pub version: &'static str,
    /// What clients must present; only worded, the engine decides.
    pub auth_mode: AuthMode,
    /// Whether a proxy in front speaks TLS: then the `Host` header names the proxy, also on loopback, and all clients
    /// have its address, so that nothing is counted by address.
    pub behind_tls_proxy: bool,
    /// Certificate and key of a listener that speaks TLS; none for plain text.
    pub tls: Option<Tls>,
    /// Origins of pages that may use the gateway beside its own: scheme, host and port, compared exactly.
    pub allowed_origins: Vec<String>,
    /// How long active runs may go on after the shutdown.
    pub drain_grace: Duration,
    /// The clocks of a WebSocket.
    pub timing: Timing,
    /// Bounds on strangers and on connections.
    pub limits: Limits,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            auth_mode: AuthMode::Token,
            behind_tls_proxy: false,
            tls: None,
            allowed_origins: Vec::new(),
            drain_grace: Duration::from_mins(5),
            timing: Timing::default(),
            limits: Limits::default(),
        }
    }
}

/// What clients must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// A token.
    Token,
    /// The shared password.
    Password,
    /// Nothing; loopback only.
    None,
}

impl AuthMode {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::None => "none",
        }
    }
}

impl From<&watertight_config::Auth> for AuthMode {
    fn from(auth: &watertight_config::Auth) -> Self {
        match auth {
            watertight_config::Auth::GeneratedToken | watertight_config::Auth::Token(_) => Self::Token,
            watertight_config::Auth::Password(_) => Self::Password,
            watertight_config::Auth::None => Self::None,
        }
    }
}

/// The clocks of a WebSocket (gateway-ws.md §1.2) and of its beginnings (isolation.md §2.10).
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From accept to hello. A plain HTTP connection is told to close after the same time.
    pub handshake: Duration,
    /// From accept to the whole header of a request, the TLS handshake included.
    pub header: Duration,
    /// Between two looks at the files of the certificate.
    pub certificate: Duration,
    /// Between ticks; announced to clients.
    pub tick: Duration,
    /// Between pings.
    pub ping: Duration,
    /// From a written ping to its pong.
    pub pong: Duration,
    /// From our close frame to the end of the socket.
    pub close_grace: Duration,
    /// Between two presence lists on one connection.
    pub presence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(15),
            header: Duration::from_secs(10),
            certificate: Duration::from_secs(2),
            tick: Duration::from_secs(30),
            ping: Duration::from_secs(25),
            pong: Duration::from_secs(25),
            close_grace: Duration::from_secs(1),
            presence: Duration::from_secs(1),
        }
    }
}

/// Bounds on strangers and on connections (isolation.md §2.10).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one address before they are believed.
    pub strangers_per_address: usize,
    /// Connections of all addresses before they are believed.
    pub strangers: usize,
    /// Connections of one principal.
    pub connections_per_principal: usize,
    /// Wrong secrets of one address within [`Self::failure_window`].
    pub failures: u32,
    /// See [`Self::failures`].
    pub failure_window: Duration,
    /// How long an address with too many wrong secrets is refused.
    pub lockout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers_per_address: 32,
            strangers: 4096,
            connections_per_principal: 16_384,
            failures: 10,
            failure_window: Duration::from_mins(1),
            lockout: Duration::from_mins(5),
        }
    }
}
