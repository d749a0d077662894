//! Which pages may open a socket (gateway-ws.md §1.6, isolation.md §2.6).

use http::HeaderMap;
use http::header::ORIGIN;
use url::Url;

use crate::routes::{host_name, is_loopback_name};

/// What the `Origin` header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// No page: a program.
    None,
    /// A page that may.
    Allowed,
    /// A page that may not.
    Foreign,
}

/// Judges the `Origin` header of a request. `host` is the name the client used for us, `listed` are the origins of other
/// pages that may. Of a gateway that speaks TLS (`tls`) a page without it is not its own.
pub(crate) fn judge(headers: &HeaderMap, host: &str, peer_is_loopback: bool, tls: bool, listed: &[String]) -> Page {
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return Page::None,
        (Some(origin), None) => origin,
        _ => return Page::Foreign,
    };
    let allowed = origin.to_str().ok().and_then(|text| Url::parse(text).ok()).is_some_and(|origin| {
        let Some(name) = origin.host_str() else { return false };
        if !matches!(origin.scheme(), "http" | "https") {
            return false;
        }
        if listed.contains(&origin.origin().ascii_serialization()) {
            return true;
        }
        let name = host_name(name);
        // A page of this machine, opened on this machine.
        (peer_is_loopback && is_loopback_name(name))
            || (is_same_host(&origin, name, host) && (!tls || origin.scheme() == "https"))
    });
    if allowed { Page::Allowed } else { Page::Foreign }
}

fn is_same_host(origin: &Url, name: &str, host: &str) -> bool {
    let after_name = host.strip_prefix('[').map_or(host, |rest| rest.split_once(']').map_or("", |(_, port)| port));
    let port = after_name.rsplit_once(':').map(|(_, port)| port);
    let default = origin.port_or_known_default();
    let same_port = match port {
        Some(port) => port.parse().ok() == default,
        // A proxy on the scheme's own port names none.
        None => origin.port().is_none(),
    };
    same_port && name.eq_ignore_ascii_case(host_name(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn page(origin: &str, host: &str, local: bool) -> Page {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        judge(&headers, host, local, false, &["https://app.example".to_owned()])
    }

    #[test]
    fn a_program_has_no_page() {
        assert_eq!(judge(&HeaderMap::new(), "localhost:1", true, false, &[]), Page::None);
    }

    #[test]
    fn a_page_of_our_own_host_may() {
        assert_eq!(page("https://gw.example", "gw.example", false), Page::Allowed);
        assert_eq!(page("https://gw.example", "gw.example:443", false), Page::Allowed);
        assert_eq!(page("http://gw.example:18789", "gw.example:18789", false), Page::Allowed);
        assert_eq!(page("http://[2001:db8::1]:80", "[2001:db8::1]", false), Page::Allowed);
    }

    #[test]
    fn a_page_without_tls_is_no_page_of_a_host_with_tls() {
        let from = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            judge(&headers, "gw.example", false, true, &[])
        };
        assert_eq!((from("http://gw.example"), from("https://gw.example")), (Page::Foreign, Page::Allowed));
    }

    #[test]
    fn a_page_of_this_machine_may_on_this_machine() {
        assert_eq!(page("http://localhost:3000", "127.0.0.1:18789", true), Page::Allowed);
        assert_eq!(page("http://localhost:3000", "gw.example", false), Page::Foreign);
    }

    #[test]
    fn a_listed_page_may_and_nothing_that_resembles_it() {
        assert_eq!(page("https://app.example", "gw.example", false), Page::Allowed);
        for origin in [
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil.com",
            "https://x.app.example",
            "https://app.example.",
        ] {
            assert_eq!(page(origin, "gw.example", false), Page::Foreign, "{origin}");
        }
    }

    #[test]
    fn every_other_page_may_not() {
        for origin in
            ["https://evil.example", "null", "file://", "https://gw.example.evil.example", "ws://gw.example", ""]
        {
            assert_eq!(page(origin, "gw.example", true), Page::Foreign, "{origin}");
        }
        assert_eq!(page("https://gw.example:8443", "gw.example", false), Page::Foreign);
        assert_eq!(page("https://gw.example", "gw.example:8443", false), Page::Foreign);
    }

    #[test]
    fn two_origins_are_foreign() {
        let mut headers = HeaderMap::new();
        headers.append(ORIGIN, HeaderValue::from_static("https://gw.example"));
        headers.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert_eq!(judge(&headers, "gw.example", false, false, &[]), Page::Foreign);
    }
}
