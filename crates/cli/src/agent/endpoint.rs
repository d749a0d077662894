//! Which gateway, with which credential.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_tungstenite::Connector;
use url::{Host, Url};
use watertight_config::{Auth, Config, Secret};
use watertight_engine::state_dir::{Holder, StateDir};

use crate::args::AgentArgs;
use crate::failure::Failure;
use crate::home::{self, Home};
use crate::tls::Trust;

/// How long a process that holds the state directory may take to name its address.
const STARTING_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked at. A lock file has no other way to tell.
const STARTING_POLL: Duration = Duration::from_millis(50);

/// A gateway to call.
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    credential: Credential,
    certificate: Certificate,
    /// Whether it was named with `--url`: then it may be another machine's, and nothing runs here in its place.
    pub(crate) explicit: bool,
}

/// Which certificate a gateway with TLS must show.
enum Certificate {
    /// The one announced in this state directory: asked for anew with every connection, since it may be renewed.
    Announced(PathBuf),
    /// One that is vouched for.
    Vouched(Trust),
}

/// What proves the operator.
enum Credential {
    /// `--token`, or the secret of the configuration; none in mode `none`.
    Chosen(Option<Secret>),
    /// The token generated in this state directory. Every user of this machine may listen on a free port, so it goes
    /// to nobody but the process that holds the directory.
    Generated(PathBuf),
    /// Nothing, since `--url` names another gateway than that of this state directory.
    Withheld(PathBuf),
}

impl Endpoint {
    /// Whether `--url` names the gateway.
    pub(crate) fn is_named(args: &AgentArgs) -> bool {
        given(args.url.as_ref()).is_some()
    }

    /// `--url`, else the address of the process that serves the state directory, else `[gateway] listen`.
    pub(crate) async fn find(home: &Home, config: &Config, args: &AgentArgs) -> Result<Self, Failure> {
        let token = given(args.token.as_ref()).map(Secret::new);
        let chosen = token.is_some();
        let state_dir = home.state_dir().to_owned();
        let credential = match (token, &config.gateway.auth) {
            (Some(token), _) => Credential::Chosen(Some(token)),
            (None, Auth::Token(secret) | Auth::Password(secret)) => {
                Credential::Chosen(Some(Secret::new(secret.expose())))
            }
            (None, Auth::None) => Credential::Chosen(None),
            (None, Auth::GeneratedToken) => Credential::Generated(state_dir.clone()),
        };
        let ca_file = args.ca_file.clone().filter(|path| !path.as_os_str().is_empty());
        let Some(text) = given(args.url.as_ref()) else {
            let (url, certificate) = match serving(home).await {
                Some(served) => (served.url()?, Certificate::Announced(state_dir)),
                None => {
                    let served = Served { address: config.gateway.listen, tls: config.gateway.tls.is_some() };
                    (served.url()?, Certificate::Vouched(ca_file.map_or(Trust::System, Trust::CaFile)))
                }
            };
            return Ok(Self { url, credential, certificate, explicit: false });
        };
        let mut url = parse_url(text)?;
        let near = is_loopback(&url);
        let ask = matches!(credential, Credential::Generated(_)) || (ca_file.is_none() && url.scheme() == "wss");
        let served = if near && ask { serving(home).await } else { None };
        let exact = served.and_then(|served| served.at(&url));
        let certificate = match (ca_file, &exact) {
            (Some(file), _) => Certificate::Vouched(Trust::CaFile(file)),
            (None, Some(exact)) => {
                url = exact.clone();
                Certificate::Announced(state_dir.clone())
            }
            (None, None) => Certificate::Vouched(Trust::System),
        };
        if !near && !chosen {
            // The operator's secret is not sent to wherever a URL points.
            return Err(Failure::new("Pass --token (or WATERTIGHT_TOKEN) for a gateway on another machine."));
        }
        if !near && url.scheme() == "ws" {
            eprintln!("Warning: the token goes to {url} without encryption; use wss:// if the gateway has it.");
        }
        let credential = match credential {
            Credential::Generated(_) => match exact {
                Some(exact) => {
                    url = exact;
                    credential
                }
                None => Credential::Withheld(state_dir),
            },
            chosen => chosen,
        };
        Ok(Self { url, credential, certificate, explicit: true })
    }

    /// How to make a connection. The error says why there is no way.
    pub(crate) fn connector(&self) -> Result<Connector, String> {
        if self.url.scheme() != "wss" {
            return Ok(Connector::Plain);
        }
        let trust = match &self.certificate {
            Certificate::Vouched(trust) => trust.clone(),
            Certificate::Announced(state_dir) => {
                match StateDir::holder(state_dir).and_then(|holder| holder.certificate) {
                    Some(sha256) => Trust::Exactly(sha256),
                    None => return Err(format!("nothing serves the state directory {} over TLS", state_dir.display())),
                }
            }
        };
        trust.client().map(Connector::Rustls)
    }

    /// Who holds the state directory whose token is to be sent. Asked before a connection is made, for
    /// [`Self::secret`] after it.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match &self.credential {
            Credential::Generated(state_dir) => StateDir::holder(state_dir),
            Credential::Chosen(_) | Credential::Withheld(_) => None,
        }
    }

    /// What to send on a connection that was made after `before` was the holder. The error says why nothing may be
    /// sent: the other end is not the gateway of this state directory. One process that holds the directory and this
    /// address before and after is the one that answered in between.
    pub(crate) fn secret(&self, before: Option<&Holder>) -> Result<Option<Secret>, String> {
        let state_dir = match &self.credential {
            Credential::Chosen(secret) => return Ok(secret.as_ref().map(|secret| Secret::new(secret.expose()))),
            Credential::Withheld(_) => return Ok(None),
            Credential::Generated(state_dir) => state_dir,
        };
        let ours = before.and_then(Served::of).and_then(|served| served.at(&self.url)).is_some();
        // A certificate may be renewed at any time, and was asked for when the connection was made.
        let identity = |holder: &Holder| (holder.pid, holder.address);
        if ours && self.holder().as_ref().map(identity) == before.map(identity) {
            Ok(home::generated_token(state_dir))
        } else {
            Err(self.foreign(state_dir))
        }
    }

    /// What to say about a gateway that was sent no token, if that may be why it refused.
    pub(crate) fn withheld(&self) -> Option<String> {
        match &self.credential {
            Credential::Withheld(state_dir) => Some(self.foreign(state_dir)),
            Credential::Chosen(_) | Credential::Generated(_) => None,
        }
    }

    fn foreign(&self, state_dir: &Path) -> String {
        format!(
            "What listens at {} does not serve the state directory {}, so the operator token was not sent to it: pass \
             --token (or WATERTIGHT_TOKEN), or name its own directory with --state-dir.",
            self.shown(),
            state_dir.display()
        )
    }

    /// The address without the slash that `Url` adds.
    pub(crate) fn shown(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

/// Where a gateway listens.
#[derive(Clone, Copy)]
struct Served {
    address: SocketAddr,
    tls: bool,
}

impl Served {
    fn of(holder: &Holder) -> Option<Self> {
        Some(Self { address: holder.address?, tls: holder.certificate.is_some() })
    }

    /// The address as a client on this machine calls it.
    fn url(self) -> Result<Url, Failure> {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let scheme = if self.tls { "wss" } else { "ws" };
        parse_url(&format!("{scheme}://{}", SocketAddr::new(ip, self.address.port())))
    }

    /// `url` spelt with the address itself, if that is what it names. `localhost` may mean two addresses, and the other
    /// one may be somebody else's.
    fn at(self, url: &Url) -> Option<Url> {
        let ours = self.url().ok()?;
        let same = url.scheme() == ours.scheme() && url.port_or_known_default() == ours.port_or_known_default();
        let named = matches!(url.host(), Some(Host::Domain(_))) && is_loopback(url) && is_loopback(&ours);
        if !same || !(named || url.host() == ours.host()) {
            return None;
        }
        let mut exact = url.clone();
        exact.set_host(ours.host_str()).ok()?;
        Some(exact)
    }
}

/// Where the process that holds the state directory listens. One that has just started gets a moment to say so.
async fn serving(home: &Home) -> Option<Served> {
    let end = Instant::now() + STARTING_LIMIT;
    loop {
        let holder = StateDir::holder(home.state_dir())?;
        if holder.address.is_some() || Instant::now() >= end {
            return Served::of(&holder);
        }
        sleep(STARTING_POLL).await;
    }
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn parse_url(text: &str) -> Result<Url, Failure> {
    let bad =
        || Failure::new(format!("--url must be a gateway's address such as ws://127.0.0.1:18789, not \"{text}\"."));
    let spelt = if text.contains("://") { text.to_owned() } else { format!("ws://{text}") };
    let spelt = match spelt.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}"),
        Some(("https", rest)) => format!("wss://{rest}"),
        _ => spelt,
    };
    let url = Url::parse(&spelt).map_err(|_| bad())?;
    if matches!(url.scheme(), "ws" | "wss") && url.has_host() && url.username().is_empty() && url.password().is_none() {
        Ok(url)
    } else {
        Err(bad())
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_or_without_its_scheme() {
        for (text, url) in [
            ("127.0.0.1:18789", "ws://127.0.0.1:18789/"),
            ("ws://h:1", "ws://h:1/"),
            ("http://h:1/base", "ws://h:1/base"),
            ("https://h", "wss://h/"),
        ] {
            assert_eq!(parse_url(text).unwrap().as_str(), url);
        }
        for bad in ["ftp://h", "ws://", "ws://u:p@h", "://"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_gateway_on_every_address_is_called_on_loopback() {
        let url = |address: &str, tls| Served { address: address.parse().unwrap(), tls }.url().unwrap().to_string();
        assert_eq!(url("0.0.0.0:5", false), "ws://127.0.0.1:5/");
        assert_eq!(url("[::]:5", true), "wss://[::1]:5/");
        assert_eq!(url("10.0.0.7:5", false), "ws://10.0.0.7:5/");
    }

    #[test]
    fn only_the_served_address_itself_counts_as_served() {
        let served = |url: &str, address: &str| {
            let (tls, address) = address.strip_prefix("tls ").map_or((false, address), |address| (true, address));
            let served = Served { address: address.parse().unwrap(), tls };
            served.at(&parse_url(url).unwrap()).map(|url| url.to_string())
        };
        for (url, address, exact) in [
            ("127.0.0.1:5", "127.0.0.1:5", "ws://127.0.0.1:5/"),
            ("ws://127.0.0.1:5/base", "0.0.0.0:5", "ws://127.0.0.1:5/base"),
            ("localhost:5", "127.0.0.1:5", "ws://127.0.0.1:5/"),
            ("LocalHost:5", "[::1]:5", "ws://[::1]:5/"),
            ("127.0.0.1", "127.0.0.1:80", "ws://127.0.0.1/"),
            ("https://localhost:5", "tls 0.0.0.0:5", "wss://127.0.0.1:5/"),
        ] {
            assert_eq!(served(url, address).as_deref(), Some(exact), "{url} {address}");
        }
        for (url, address) in [
            ("127.0.0.1:5", "127.0.0.1:6"),
            ("127.0.0.2:5", "127.0.0.1:5"),
            ("[::1]:5", "127.0.0.1:5"),
            ("[::1]:5", "0.0.0.0:5"),
            ("wss://127.0.0.1:5", "127.0.0.1:5"),
            ("ws://127.0.0.1:5", "tls 127.0.0.1:5"),
            ("localhost:5", "10.0.0.7:5"),
            ("gateway.example:5", "127.0.0.1:5"),
        ] {
            assert_eq!(served(url, address), None, "{url} {address}");
        }
    }
}
