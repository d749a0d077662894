//! The routes as an OpenAPI 3.1 description. A test compares it with the routes.

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;

/// The description. Says nothing about this gateway, so anybody may read it.
const DESCRIPTION: &str = include_str!("openapi.json");

pub(super) async fn describe() -> Response {
    let mut response = DESCRIPTION.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}
