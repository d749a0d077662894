//! How a call tells the provider which session it serves (product.md decision 9).
//!
//! Every request carries `x-openclaw-session-key` and `x-openclaw-session-id`, unless the entry's mode is
//! [`HeaderMode::Off`]. A provider never sees two tenants under one name: of each entry, one tenant's keys at the
//! most go out as they are, all others as a keyed hash.
//!
//! In raw mode bytes outside visible ASCII are escaped and `%` is not (decision 9), so under the `openclaw` key policy
//! two keys of one tenant, such as `agent:main:incident 42` and `agent:main:incident%2042`, share the key header. The
//! generation beside it differs: a provider keeps sessions apart by both headers, as our router does.

use std::fmt;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use url::{Host, Url};
use watertight_core::SessionScope;
use watertight_core::ids::TenantId;

/// The session's key, or its keyed hash.
pub const SESSION_KEY_HEADER: HeaderName = HeaderName::from_static("x-openclaw-session-key");
/// The session's generation, or its keyed hash.
pub const SESSION_ID_HEADER: HeaderName = HeaderName::from_static("x-openclaw-session-id");

/// What a provider is told about the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderMode {
    /// The canonical key and the generation.
    Raw,
    /// Keyed hashes of both: stable, but they name nobody.
    Hashed,
    /// Nothing.
    Off,
}

impl HeaderMode {
    /// The mode where the configuration names none: raw on loopback and private addresses, off elsewhere, so that a
    /// user's identity is not sent to a third party by accident. A host name other than `localhost` counts as
    /// elsewhere, since what it resolves to is not ours to know.
    pub fn default_for(base_url: &Url) -> Self {
        if is_near(base_url) { Self::Raw } else { Self::Off }
    }

    /// The configured word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Hashed => "hashed",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for HeaderMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the address is this machine's or a private network's.
pub(crate) fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private(),
        Some(Host::Ipv6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.is_loopback() || ip.is_private(),
            None => ip.is_loopback() || ip.is_unique_local(),
        },
        None => false,
    }
}

/// Keyed hashes of a session's names; what they are keyed with is not known here.
pub trait SessionNames: Send + Sync {
    /// The hashed names of the session; stable over restarts, different for every tenant. None when there is no key to
    /// hash with: then nothing is sent.
    fn hashed(&self, scope: &SessionScope) -> Option<HashedNames>;
}

/// What stands in for a session's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedNames {
    /// For the key: `wt1_` and 43 base64url characters.
    pub key: String,
    /// For the generation.
    pub generation: String,
}

/// How one provider entry names sessions.
#[derive(Clone)]
pub struct SessionNaming {
    mode: HeaderMode,
    raw_tenant: TenantId,
    names: Arc<dyn SessionNames>,
}

impl SessionNaming {
    /// `raw_tenant` is the tenant the entry is bound to, else tenant `default`: the only one whose keys may go out raw.
    pub fn new(mode: HeaderMode, raw_tenant: TenantId, names: Arc<dyn SessionNames>) -> Self {
        Self { mode, raw_tenant, names }
    }

    /// The configured mode.
    pub fn mode(&self) -> HeaderMode {
        self.mode
    }

    /// The mode for one session.
    pub fn mode_for(&self, scope: &SessionScope) -> HeaderMode {
        match self.mode {
            HeaderMode::Raw if scope.tenant() != self.raw_tenant => HeaderMode::Hashed,
            mode => mode,
        }
    }

    /// The headers every request of this session carries.
    pub fn headers(&self, scope: &SessionScope) -> Vec<(HeaderName, HeaderValue)> {
        let (key, generation) = match self.mode_for(scope) {
            HeaderMode::Off => return Vec::new(),
            HeaderMode::Raw => (visible_ascii(scope.key().as_str()), visible_ascii(scope.generation().as_str())),
            HeaderMode::Hashed => {
                let Some(names) = self.names.hashed(scope) else { return Vec::new() };
                (visible_ascii(&names.key), visible_ascii(&names.generation))
            }
        };
        vec![(SESSION_KEY_HEADER, key), (SESSION_ID_HEADER, generation)]
    }
}

/// Everything outside visible ASCII is escaped; `%` itself is not, and nothing is ever decoded.
const OUTSIDE_VISIBLE_ASCII: &AsciiSet = &CONTROLS.add(b' ');

fn visible_ascii(text: &str) -> HeaderValue {
    let encoded = percent_encode(text.as_bytes(), OUTSIDE_VISIBLE_ASCII).to_string();
    // Only visible ASCII is left, which every header value may hold.
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}
