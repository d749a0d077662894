//! Liveness, readiness and start-up probes (http-and-agui.md §1.1).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::accept::Peer;
use crate::gateway::{Gateway, Phase};
use crate::routes;

/// The paths of the probes.
pub(crate) const PATHS: [&str; 6] = ["/health", "/healthz", "/ready", "/readyz", "/startup", "/startupz"];

/// Answers any of [`PATHS`]. Details only to this machine.
pub(crate) async fn answer(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let method = request.method().clone();
    if method != Method::GET && method != Method::HEAD {
        return routes::method_not_allowed("GET, HEAD");
    }
    let local = request.extensions().get::<Peer>().is_some_and(|peer| peer.address.ip().to_canonical().is_loopback());
    // Behind a proxy every caller looks local.
    let detailed = local && !gateway.options.behind_tls_proxy;
    let uptime = gateway.uptime_ms();
    let (status, body) = match request.uri().path() {
        "/health" | "/healthz" => (StatusCode::OK, json!({"ok": true, "status": "live"})),
        "/startup" | "/startupz" => {
            let mut body = json!({"ok": true, "status": "started"});
            if detailed {
                body["version"] = gateway.options.version.into();
                body["uptimeMs"] = uptime.into();
            }
            (StatusCode::OK, body)
        }
        _ => readiness(&gateway, detailed.then_some(uptime)),
    };
    let mut response = routes::json(status, body.to_string(), &method);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn readiness(gateway: &Gateway, detail: Option<u64>) -> (StatusCode, Value) {
    let mut failing = Vec::new();
    if gateway.phase() != Phase::Serving {
        failing.push("draining");
    } else if !gateway.engine.is_ready() {
        failing.push("engine");
    }
    let ready = failing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = match detail {
        Some(uptime) => json!({"ready": ready, "failing": failing, "uptimeMs": uptime}),
        None => json!({ "ready": ready }),
    };
    (status, body)
}
