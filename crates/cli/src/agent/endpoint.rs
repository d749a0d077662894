//! Which gateway, with which credential.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use url::{Host, Url};
use watertight_config::{Config, Secret};
use watertight_engine::state_dir::StateDir;

use crate::args::AgentArgs;
use crate::failure::Failure;
use crate::home::Home;

/// How long a process that holds the state directory may take to name its address.
const STARTING_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked at. A lock file has no other way to tell.
const STARTING_POLL: Duration = Duration::from_millis(50);

/// A gateway to call.
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    pub(crate) credential: Option<Secret>,
    /// Whether it was named with `--url`: then it may be another machine's, and nothing runs here in its place.
    pub(crate) explicit: bool,
}

impl Endpoint {
    /// Whether `--url` names the gateway.
    pub(crate) fn is_named(args: &AgentArgs) -> bool {
        given(args.url.as_ref()).is_some()
    }

    /// `--url`, else the address of the process that serves the state directory, else `[gateway] listen`.
    pub(crate) async fn find(home: &Home, config: &Config, args: &AgentArgs) -> Result<Self, Failure> {
        let token = given(args.token.as_ref()).map(Secret::new);
        if let Some(text) = given(args.url.as_ref()) {
            let url = parse_url(text)?;
            let near = is_loopback(&url);
            if !near && token.is_none() {
                // The operator's token is not sent to wherever a URL points.
                return Err(Failure::new("Pass --token (or WATERTIGHT_TOKEN) for a gateway on another machine."));
            }
            if !near && url.scheme() == "ws" {
                eprintln!("Warning: the token goes to {url} without encryption; use wss:// if the gateway has it.");
            }
            let credential = token.or_else(|| home.operator_secret(config));
            return Ok(Self { url, credential, explicit: true });
        }
        let url = url_of(serving(home).await.unwrap_or(config.gateway.listen))?;
        Ok(Self { url, credential: token.or_else(|| home.operator_secret(config)), explicit: false })
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
}
