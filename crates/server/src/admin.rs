//! The administration of a tenant over HTTP, and the trade of refresh tokens.
//!
//! * `admin` (here): who is let in, and how answers are worded.
//! * [`routes`]: what can be asked.
//! * [`openapi`]: the same as an OpenAPI description.

mod openapi;
mod routes;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use watertight_core::ErrorCode;
use watertight_engine::EngineError;
use watertight_engine::admission::{Access, AuthFailure, Presented};

use crate::accept::Peer;
use crate::gateway::Gateway;
use crate::routes::request_host;
use crate::ws::origin::Page;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Every route of this surface.
pub(crate) fn router() -> Router<Arc<Gateway>> {
    routes::router().layer(DefaultBodyLimit::max(MAX_BODY))
}

/// A refused or failed request.
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest.as_str(), message)
    }

    fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Unauthorized.as_str(),
            "A credential is required: send a valid token as `Authorization: Bearer <token>`.",
        )
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let code = error.code();
        let status = match code {
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::InvalidRequest | ErrorCode::InvalidKey | ErrorCode::KeyMismatch | ErrorCode::UnknownAgent => {
                StatusCode::BAD_REQUEST
            }
            ErrorCode::StorageFull | ErrorCode::StorageUnavailable | ErrorCode::Unavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!("an administrative request failed: {error}");
        }
        Self::new(status, code.as_str(), error.to_string())
    }
}

impl From<AuthFailure> for Problem {
    fn from(failure: AuthFailure) -> Self {
        match failure {
            AuthFailure::Missing | AuthFailure::Mismatch => Self::unauthorized(),
            AuthFailure::Unavailable => {
                let message = "The gateway cannot check credentials now. Try again shortly.";
                Self {
                    retry_after: Some(1),
                    ..Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable.as_str(), message)
                }
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let error = json!({"type": self.code, "code": self.code, "message": self.message});
        let mut response = reply(self.status, &json!({"ok": false, "error": error}));
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn reply(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What a handler answers with.
type Answer = Result<Response, Problem>;

fn ok(body: impl Serialize) -> Answer {
    let body = serde_json::to_value(body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Internal.as_str(),
            "The answer could not be written.",
        )
    })?;
    Ok(reply(StatusCode::OK, &body))
}

/// Whoever knocks without being a page of somebody else's and without having been wrong too often.
struct Knock {
    gateway: Arc<Gateway>,
    peer: Peer,
}

impl Knock {
    fn of(parts: &Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().cloned().ok_or_else(Problem::unauthorized)?;
        let host = request_host(&parts.headers, &parts.uri).unwrap_or_default();
        let local = peer.address.ip().to_canonical().is_loopback();
        // Whatever a page holds, its origin decides first (§2.6).
        if gateway.page(&parts.headers, &host, local) == Page::Foreign {
            let message = "Pages of this origin may not use the gateway.";
            return Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", message));
        }
        gateway.logins.check(peer.source(), Instant::now()).map_err(|locked| Problem {
            retry_after: Some(locked.retry_after.as_secs().max(1)),
            ..Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many failed authentication attempts. Try again later.",
            )
        })?;
        Ok(Self { gateway: gateway.clone(), peer })
    }

    /// Counts a wrong secret against whoever showed it.
    fn judged<T>(&self, result: Result<T, AuthFailure>) -> Result<T, Problem> {
        if matches!(result, Err(AuthFailure::Mismatch)) {
            self.gateway.logins.failed(self.peer.source(), 1, Instant::now());
            if let Some(count) = self.gateway.wrong_secrets.count() {
                tracing::warn!(address = %self.peer.address, count, "a client presented a wrong secret");
            }
        }
        Ok(result?)
    }
}

impl FromRequestParts<Arc<Gateway>> for Knock {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        Self::of(parts, gateway)
    }
}

/// A caller who was let in. Taken before the body is read.
struct Admin {
    gateway: Arc<Gateway>,
    access: Access,
}

impl FromRequestParts<Arc<Gateway>> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let knock = Knock::of(parts, gateway)?;
        let mut given = parts.headers.get_all(AUTHORIZATION).iter();
        let presented = match (given.next(), given.next()) {
            (None, _) => Presented::Nothing,
            (Some(value), None) => {
                let text = value.to_str().ok().and_then(|text| text.split_once(' '));
                let bearer = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                Presented::Secret(bearer.map(|(_, token)| token.trim()).ok_or_else(Problem::unauthorized)?)
            }
            (Some(_), Some(_)) => {
                let message = "The Authorization header is given more than once.";
                return Err(Problem::new(StatusCode::BAD_REQUEST, "duplicate_security_header", message));
            }
        };
        let access = knock.judged(gateway.engine.authenticate(presented, None).await)?;
        access.spend(gateway.engine.now()).map_err(|wait| Problem {
            retry_after: Some(wait.as_secs().max(1)),
            ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests. Try again shortly.")
        })?;
        gateway.engine.touch(&access);
        Ok(Self { gateway: gateway.clone(), access })
    }
}

/// A JSON body. What it names twice or does not know is refused.
struct Json<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<Gateway>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Arc<Gateway>) -> Result<Self, Problem> {
        let too_large = |_| {
            let message = format!("The body is larger than {MAX_BODY} bytes.");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
        };
        let body = Bytes::from_request(request, state).await.map_err(too_large)?;
        // Nothing means no fields.
        let text = if body.is_empty() { &b"{}"[..] } else { &body };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| Problem::invalid(format!("The body does not fit: {error}")))
    }
}

/// The query of the address. What it does not know is refused.
struct Query<T>(T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Gateway>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Gateway>) -> Result<Self, Problem> {
        let found = axum::extract::Query::try_from_uri(&parts.uri);
        found.map(|query| Self(query.0)).map_err(|error| Problem::invalid(format!("The query does not fit: {error}")))
    }
}

/// No such path under the prefixes of this surface, for everybody alike.
async fn nowhere(State(_): State<Arc<Gateway>>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound.as_str(), "There is no such route.")
}

/// Runs a handler's work in a task of its own: what it changes is not to be torn when the client goes away.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            tracing::error!(%error, "an administrative request died");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal.as_str(), "The request failed."))
        }
    }
}
