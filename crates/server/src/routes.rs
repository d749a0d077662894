//! Routes, common headers and common refusals (http-and-agui.md §0).

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::gateway::Gateway;
use crate::{admin, probe, ws};

/// Every route.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let mut router = Router::new().route("/", any(ws::upgrade::root));
    for path in probe::PATHS {
        router = router.route(path, any(probe::answer));
    }
    router = router.merge(admin::router());
    router.fallback(|| async { not_found() }).layer(from_fn_with_state(gateway.clone(), gatekeeper)).with_state(gateway)
}

/// In front of every route: whose name the client used, upgrades nobody offers, and the headers of every answer.
async fn gatekeeper(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let mut response = match refuse_host(&gateway, &request).or_else(|| refuse_upgrade(&request)) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

const SECURITY_HEADERS: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("permissions-policy", "camera=(), microphone=(self), geolocation=()"),
];

/// On loopback, a page of somebody else's may reach us under a name of theirs that resolves here (DNS rebinding); its
/// browser then takes us for their server. So only names of this machine are answered. Behind a proxy the name is the
/// proxy's affair.
fn refuse_host(gateway: &Gateway, request: &Request) -> Option<Response> {
    let Some(host) = request_host(request.headers(), request.uri()) else {
        return Some(text(StatusCode::BAD_REQUEST, "Bad Request"));
    };
    let guarded = gateway.address.is_loopback() && !gateway.options.behind_tls_proxy;
    (guarded && !is_loopback_name(host_name(&host))).then(|| {
        closing(text(
            StatusCode::FORBIDDEN,
            "origin_not_allowed: this gateway listens on loopback and answers only to localhost, 127.0.0.1 or [::1] as its host name.",
        ))
    })
}

/// The `Host` header, or the host of an absolute request target; none where there is neither, or more than one.
pub(crate) fn request_host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().filter(|host| !host.is_empty()).map(str::to_ascii_lowercase),
        (None, None) => uri.authority().map(|authority| authority.as_str().to_ascii_lowercase()),
        _ => None,
    }
}

/// The name without the port: `[::1]:8080` gives `::1`.
pub(crate) fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Whether a host name can only mean this machine.
pub(crate) fn is_loopback_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn refuse_upgrade(request: &Request) -> Option<Response> {
    let wanted = request.headers().get(UPGRADE)?;
    if !wanted.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return Some(closing(text(StatusCode::BAD_REQUEST, "Bad Request")));
    }
    (request.uri().path() != "/").then(|| closing(not_found()))
}

/// A plain sentence.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Response {
    let mut response = (status, text).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The same answer, after which the connection closes.
pub(crate) fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// No such path.
pub(crate) fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "Not Found")
}

/// Not by this method.
pub(crate) fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// JSON; to a HEAD request only its headers.
pub(crate) fn json(status: StatusCode, body: String, method: &Method) -> Response {
    let length = body.len();
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(body) };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for name in ["localhost", "app.localhost", "localhost.", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback_name(name), "{name}");
        }
        for name in
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0", "10.0.0.1", "notlocalhost"]
        {
            assert!(!is_loopback_name(name), "{name}");
        }
    }

    #[test]
    fn a_host_loses_its_port_only() {
        assert_eq!(host_name("[::1]:18789"), "::1");
        assert_eq!(host_name("localhost:1"), "localhost");
        assert_eq!(host_name("localhost"), "localhost");
    }

    #[test]
    fn two_hosts_are_no_host() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(request_host(&headers, &Uri::from_static("/")).as_deref(), Some("localhost"));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(request_host(&headers, &Uri::from_static("/")), None);
    }
}
