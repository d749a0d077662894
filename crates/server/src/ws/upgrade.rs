//! From HTTP to a socket (gateway-ws.md §1.1).

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, COOKIE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::origin::Page;
use crate::accept::Peer;
use crate::gateway::Gateway;
use crate::routes::{closing, request_host, text};

/// What a request and the connection it came on agree on: that it goes on as a WebSocket, opened by this page. Put into
/// every request.
#[derive(Clone, Default)]
pub(crate) struct Agreement(Arc<OnceLock<Page>>);

impl Agreement {
    /// The page, once it is agreed.
    pub(crate) fn page(&self) -> Option<Page> {
        self.0.get().copied()
    }
}

/// `/`: upgrades to the protocol, and says so to everybody else.
///
/// Neither compression nor a subprotocol is ever agreed to.
pub(crate) async fn root(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    if !request.headers().contains_key(UPGRADE) {
        let mut response =
            text(StatusCode::UPGRADE_REQUIRED, "This is a WebSocket endpoint: connect with ws:// or wss://");
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        return response;
    }
    if let Some(refusal) = refuse_url(request.uri().query().unwrap_or_default()) {
        return closing(text(StatusCode::BAD_REQUEST, refusal));
    }
    let Some(accept) = accept_key(&request) else {
        let mut response = closing(text(StatusCode::BAD_REQUEST, "Bad Request"));
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return response;
    };
    let extensions = request.extensions();
    let (Some(peer), Some(agreement), Some(_)) =
        (extensions.get::<Peer>(), extensions.get::<Agreement>(), extensions.get::<OnUpgrade>())
    else {
        return closing(text(StatusCode::BAD_REQUEST, "Bad Request"));
    };
    let host = request_host(request.headers(), request.uri()).unwrap_or_default();
    let local = peer.address.ip().to_canonical().is_loopback();
    let page = gateway.page(request.headers(), &host, local);
    // No program of this protocol has cookies, and a browser that sends them names the page.
    let nameless = page == Page::None && request.headers().contains_key(COOKIE);
    if page == Page::Foreign || nameless {
        // Before anything of the protocol is spoken: a browser lets any page open a socket anywhere (isolation.md §2.6).
        if let Some(count) = gateway.foreign_pages.count() {
            tracing::warn!(address = %peer.address, count, "a page of another origin tried to connect");
        }
        return closing(text(
            StatusCode::FORBIDDEN,
            "origin_not_allowed: pages of this origin may not connect. List it in gateway.allowed_origins.",
        ));
    }
    // Whoever serves the connection goes on from here.
    let _ = agreement.0.set(page);

    let mut response = (StatusCode::SWITCHING_PROTOCOLS, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// URLs end up in logs and histories, so nothing that opens or names a session may stand in one.
fn refuse_url(query: &str) -> Option<&'static str> {
    let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.to_ascii_lowercase());
    names.find_map(|name| match name.as_str() {
        "token" | "access_token" | "auth" | "password" | "secret" | "devicetoken" | "bootstraptoken" => Some(
            "Credentials do not belong into the URL, where logs and histories keep them. Send the token in the connect request.",
        ),
        "session" | "sessionkey" | "session_key" | "sessionid" | "session_id" | "key" => Some(
            "Session keys do not belong into the URL, where logs and histories keep them. Name the session in each request.",
        ),
        _ => None,
    })
}

/// The answer to the client's key; none if the request is no WebSocket handshake of version 13.
fn accept_key(request: &Request) -> Option<HeaderValue> {
    let headers = request.headers();
    let whole = request.method() == Method::GET
        && names(headers, CONNECTION.as_str(), "upgrade")
        && headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| whole && key.len() == 24)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

/// Whether a comma-separated header names `word`.
fn names(headers: &HeaderMap, header: &str, word: &str) -> bool {
    headers
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_session_keys_in_the_url_are_refused() {
        for query in ["token=x", "a=1&Token=x", "access_token=x", "password=", "%74oken=x"] {
            assert!(refuse_url(query).is_some_and(|text| text.starts_with("Credentials")), "{query}");
        }
        for query in ["sessionKey=agent:main:x", "session=x", "session_id=x"] {
            assert!(refuse_url(query).is_some_and(|text| text.starts_with("Session keys")), "{query}");
        }
        assert_eq!(refuse_url(""), None);
        assert_eq!(refuse_url("v=1"), None);
    }

    #[test]
    fn only_a_whole_handshake_is_accepted() {
        let request = |method: &str, change: &dyn Fn(&mut HeaderMap)| {
            let mut request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
            let headers = request.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            change(headers);
            accept_key(&request)
        };
        assert_eq!(request("GET", &|_| {}).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(request("POST", &|_| {}).is_none());
        assert!(request("GET", &|headers| drop(headers.remove(CONNECTION))).is_none());
        assert!(request("GET", &|headers| drop(headers.remove(SEC_WEBSOCKET_KEY))).is_none());
        assert!(
            request("GET", &|headers| drop(headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"))))
                .is_none()
        );
    }
}
