//! Which gateway, with which credential.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use url::{Host, Url};
use watertight_config::{Auth, Config, Secret};
use watertight_engine::state_dir::{Holder, StateDir};

use crate::args::AgentArgs;
use crate::failure::Failure;
use crate::home::{self, Home};

/// How long a process that holds the state directory may take to name its address.
const STARTING_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked at. A lock file has no other way to tell.
const STARTING_POLL: Duration = Duration::from_millis(50);

/// A gateway to call.
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    credential: Credential,
    /// Whether it was named with `--url`: then it may be another machine's, and nothing runs here in its place.
    pub(crate) explicit: bool,
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
        let Some(text) = given(args.url.as_ref()) else {
            let url = url_of(serving(home).await.unwrap_or(config.gateway.listen))?;
            return Ok(Self { url, credential, explicit: false });
        };
        let mut url = parse_url(text)?;
        let near = is_loopback(&url);
        if !near && !chosen {
            // The operator's secret is not sent to wherever a URL points.
            return Err(Failure::new("Pass --token (or WATERTIGHT_TOKEN) for a gateway on another machine."));
        }
        if !near && url.scheme() == "ws" {
            eprintln!("Warning: the token goes to {url} without encryption; use wss:// if the gateway has it.");
        }
        let credential = match credential {
            Credential::Generated(_) => match serving(home).await.and_then(|address| served_at(&url, address)) {
                Some(exact) => {
                    url = exact;
                    credential
                }
                None => Credential::Withheld(state_dir),
            },
            chosen => chosen,
        };
        Ok(Self { url, credential, explicit: true })
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
        let address = before.and_then(|holder| holder.address);
        let ours = address.and_then(|address| served_at(&self.url, address)).is_some();
        if ours && self.holder().as_ref() == before {
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

    fn foreign(&self, state_dir: &std::path::Path) -> String {
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

/// The address of the process that holds the state directory. One that has just started gets a moment to name it.
async fn serving(home: &Home) -> Option<SocketAddr> {
    let end = Instant::now() + STARTING_LIMIT;
    loop {
        let holder = StateDir::holder(home.state_dir())?;
        if holder.address.is_some() || Instant::now() >= end {
            return holder.address;
        }
        sleep(STARTING_POLL).await;
    }
}

/// `url` spelt with the address itself, if that is what it names. `localhost` may mean two addresses, and the other one
/// may be somebody else's.
fn served_at(url: &Url, address: SocketAddr) -> Option<Url> {
    let ours = url_of(address).ok()?;
    let same = url.scheme() == "ws" && url.port_or_known_default() == ours.port_or_known_default();
    let named = matches!(url.host(), Some(Host::Domain(_))) && is_loopback(url) && is_loopback(&ours);
    if !same || !(named || url.host() == ours.host()) {
        return None;
    }
    let mut exact = url.clone();
    exact.set_host(ours.host_str()).ok()?;
    Some(exact)
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

/// The address as a client on this machine calls it.
fn url_of(address: SocketAddr) -> Result<Url, Failure> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    parse_url(&format!("ws://{}", SocketAddr::new(ip, address.port())))
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
        assert_eq!(url_of("0.0.0.0:5".parse().unwrap()).unwrap().as_str(), "ws://127.0.0.1:5/");
        assert_eq!(url_of("[::]:5".parse().unwrap()).unwrap().as_str(), "ws://[::1]:5/");
        assert_eq!(url_of("10.0.0.7:5".parse().unwrap()).unwrap().as_str(), "ws://10.0.0.7:5/");
    }

    #[test]
    fn only_the_served_address_itself_counts_as_served() {
        let served = |url: &str, address: &str| {
            served_at(&parse_url(url).unwrap(), address.parse().unwrap()).map(|url| url.to_string())
        };
        for (url, address, exact) in [
            ("127.0.0.1:5", "127.0.0.1:5", "ws://127.0.0.1:5/"),
            ("ws://127.0.0.1:5/base", "0.0.0.0:5", "ws://127.0.0.1:5/base"),
            ("localhost:5", "127.0.0.1:5", "ws://127.0.0.1:5/"),
            ("LocalHost:5", "[::1]:5", "ws://[::1]:5/"),
            ("127.0.0.1", "127.0.0.1:80", "ws://127.0.0.1/"),
        ] {
            assert_eq!(served(url, address).as_deref(), Some(exact), "{url} {address}");
        }
        for (url, address) in [
            ("127.0.0.1:5", "127.0.0.1:6"),
            ("127.0.0.2:5", "127.0.0.1:5"),
            ("[::1]:5", "127.0.0.1:5"),
            ("[::1]:5", "0.0.0.0:5"),
            ("wss://127.0.0.1:5", "127.0.0.1:5"),
            ("localhost:5", "10.0.0.7:5"),
            ("gateway.example:5", "127.0.0.1:5"),
        ] {
            assert_eq!(served(url, address), None, "{url} {address}");
        }
    }
}
