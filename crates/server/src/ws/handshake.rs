//! Who is let in, and as what (gateway-ws.md §1.5 to §1.7).
//!
//! A device block is verified before any secret is looked at; a wrong one ends the connection. A client with the shared
//! secret is let in with or without one, and a device without a secret is told to pair.

use std::borrow::Cow;
use std::time::Instant;

use serde_json::json;
use watertight_core::grant::VerbSet;
use watertight_engine::Engine;
use watertight_engine::admission::{Access, AuthFailure, Presented};
use watertight_wire::openclaw::connect::ConnectParams;
use watertight_wire::openclaw::frame::{self, BadFrame};
use watertight_wire::openclaw::{ErrorShape, scope};

use super::origin::Page;
use super::{close, devices};
use crate::accept::Peer;
use crate::gateway::{Gateway, Phase, now};
use crate::options::AuthMode;

/// A client that is let in.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// The id of its `connect` request.
    pub(crate) id: String,
    /// What it says about itself.
    pub(crate) params: ConnectParams,
    /// What it may do.
    pub(crate) access: Access,
    /// The scopes it asked for and was given.
    pub(crate) scopes: Vec<String>,
}

/// A client that is not let in.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The response, where the first frame was a request.
    pub(crate) response: Option<(String, ErrorShape)>,
    /// Why the socket closes.
    pub(crate) code: u16,
    /// The same in words.
    pub(crate) reason: Cow<'static, str>,
}

/// Judges the first frame of a connection.
pub(crate) async fn judge(
    gateway: &Gateway,
    peer: &Peer,
    page: Page,
    challenge: &str,
    frame: &str,
) -> Result<Welcome, Refusal> {
    let request = frame::parse(frame).map_err(|bad| Refusal {
        response: None,
        code: close::POLICY,
        reason: match bad {
            BadFrame::NotJson => "invalid request frame".into(),
            BadFrame::OutOfBounds(error) => format!("invalid request frame: {error}").into(),
            BadFrame::NotRequest { problem, .. } => format!("invalid request frame: {problem}").into(),
        },
    })?;
    let id = request.id;
    let admitted = if request.method == "connect" {
        match ConnectParams::parse(request.params.as_deref()) {
            Ok(params) => admit(gateway, peer, page, challenge, params).await,
            Err(error) => Err(Denial::policy(error)),
        }
    } else {
        Err(Denial::policy(ErrorShape::invalid("invalid handshake: first request must be connect")))
    };
    match admitted {
        Ok((params, access, scopes)) => Ok(Welcome { id, params, access, scopes }),
        Err(Denial { error, code, reason }) => Err(Refusal { response: Some((id, error)), code, reason }),
    }
}

/// Why a `connect` request is refused.
struct Denial {
    error: ErrorShape,
    code: u16,
    reason: Cow<'static, str>,
}

impl Denial {
    /// The close reason repeats the message.
    fn policy(error: ErrorShape) -> Self {
        Self { reason: error.message.clone().into(), error, code: close::POLICY }
    }
}

async fn admit(
    gateway: &Gateway,
    peer: &Peer,
    page: Page,
    challenge: &str,
    params: ConnectParams,
) -> Result<(ConnectParams, Access, Vec<String>), Denial> {
    if gateway.phase() != Phase::Serving {
        let error = ErrorShape::unavailable("gateway restarting; retry shortly")
            .with_details(json!({"reason": "gateway-restarting"}))
            .retry_after(1000);
        return Err(Denial { error, code: close::TRY_LATER, reason: "gateway restarting".into() });
    }
    params.negotiate().map_err(|error| Denial { error, code: close::PROTOCOL, reason: "protocol mismatch".into() })?;
    if params.role.as_deref().is_some_and(|role| role != "operator") {
        return Err(Denial::policy(ErrorShape::invalid("invalid role")));
    }
    check_page(&params, page).map_err(Denial::policy)?;
    let _device = devices::proven(&params, challenge, now()).map_err(Denial::policy)?;
    let scopes = requested_scopes(&params);
    let access = authenticate(gateway, peer, &params, scope::verbs(scopes.iter().map(String::as_str))).await?;
    if params.device.is_none() && params.client.is_ui() {
        let error = ErrorShape::invalid("control ui requires device identity (use HTTPS or localhost secure context)");
        return Err(Denial::policy(error.with_details(json!({"code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"}))));
    }
    let granted = scope::granted(&scopes, access.verbs());
    Ok((params, access, granted))
}

/// A page must be ours or this machine's; the chat page must be a page at all.
fn check_page(params: &ConnectParams, page: Page) -> Result<(), ErrorShape> {
    if page == Page::Foreign || (page == Page::None && params.client.is_browser()) {
        let error = ErrorShape::invalid("origin not allowed (open the page from the gateway's own host)");
        return Err(error.with_details(json!({
            "code": "CONTROL_UI_ORIGIN_NOT_ALLOWED",
            "reason": if page == Page::None { "origin missing" } else { "origin not allowed" },
        })));
    }
    Ok(())
}

/// The scopes a client asks for. Without a device, most sorts of client get none, as upstream has it.
fn requested_scopes(params: &ConnectParams) -> Vec<String> {
    let bound = params.device.is_some() || params.client.keeps_scopes_without_device();
    if bound { params.scopes.clone() } else { Vec::new() }
}

async fn authenticate(
    gateway: &Gateway,
    peer: &Peer,
    params: &ConnectParams,
    requested: VerbSet,
) -> Result<Access, Denial> {
    let secrets = params.auth.secrets();
    if !secrets.is_empty() {
        // Asked before the secret is looked at.
        gateway.logins.check(peer.source(), Instant::now()).map_err(|locked| {
            let error = unauthorized(
                "unauthorized: too many failed authentication attempts (retry later)",
                "AUTH_RATE_LIMITED",
                "rate_limited",
                "wait_then_retry",
            );
            let wait = u64::try_from(locked.retry_after.as_millis()).unwrap_or(u64::MAX);
            Denial::policy(ErrorShape { retry_after_ms: Some(wait), ..error })
        })?;
    }
    let (wrong, result) = try_secrets(&gateway.engine, &secrets, requested).await;
    if wrong > 0 {
        gateway.logins.failed(peer.source(), wrong, Instant::now());
        if let Some(count) = gateway.wrong_secrets.count() {
            tracing::warn!(address = %peer.address, count, "a client presented a wrong secret");
        }
    }
    match result {
        Ok(access) => Ok(access),
        Err(AuthFailure::Unavailable) => {
            let error = ErrorShape::unavailable("The gateway cannot check credentials now. Try again shortly.");
            Err(Denial {
                error: error.retry_after(1000),
                code: close::TRY_LATER,
                reason: "credentials cannot be checked now".into(),
            })
        }
        Err(AuthFailure::Mismatch) => Err(Denial::policy(mismatch(gateway.options.auth_mode))),
        Err(AuthFailure::Missing) => Err(nothing_presented(params)),
    }
}

/// Tries what the client put into the token field, then what it put into the password field. How many were wrong, also
/// before a right one.
async fn try_secrets(engine: &Engine, secrets: &[&str], requested: VerbSet) -> (u32, Result<Access, AuthFailure>) {
    let mut wrong = 0;
    for secret in secrets {
        match engine.authenticate(Presented::Secret(secret), Some(requested)).await {
            Err(AuthFailure::Mismatch) => wrong += 1,
            other => return (wrong, other),
        }
    }
    match wrong {
        0 => (0, engine.authenticate(Presented::Nothing, Some(requested)).await),
        _ => (wrong, Err(AuthFailure::Mismatch)),
    }
}

fn unauthorized(message: &str, code: &str, reason: &str, next: &str) -> ErrorShape {
    ErrorShape::invalid(message).with_details(json!({
        "code": code,
        "authReason": reason,
        "canRetryWithDeviceToken": false,
        "recommendedNextStep": next,
    }))
}

fn mismatch(mode: AuthMode) -> ErrorShape {
    let next = "update_auth_credentials";
    match mode {
        AuthMode::Password => unauthorized(
            "unauthorized: gateway password mismatch (provide gateway auth password)",
            "AUTH_PASSWORD_MISMATCH",
            "password_mismatch",
            next,
        ),
        AuthMode::Token | AuthMode::None => unauthorized(
            "unauthorized: gateway token mismatch (provide gateway auth token)",
            "AUTH_TOKEN_MISMATCH",
            "token_mismatch",
            next,
        ),
    }
}

/// The client showed no secret we could check.
fn nothing_presented(params: &ConnectParams) -> Denial {
    if params.auth.bootstrap_token().is_some() {
        return Denial::policy(unauthorized(
            "unauthorized: setup code invalid, expired, revoked, or already used (create a new code)",
            "AUTH_BOOTSTRAP_TOKEN_INVALID",
            "bootstrap_token_invalid",
            "review_auth_configuration",
        ));
    }
    if params.auth.device_token().is_some() {
        return Denial::policy(unauthorized(
            "unauthorized: device token mismatch (rotate/reissue device token)",
            "AUTH_DEVICE_TOKEN_MISMATCH",
            "device_token_mismatch",
            "update_auth_credentials",
        ));
    }
    match &params.device {
        None => Denial::policy(
            ErrorShape::not_paired("device identity required")
                .with_details(json!({"code": "DEVICE_IDENTITY_REQUIRED"})),
        ),
        Some(device) => {
            Denial::policy(ErrorShape::not_paired("pairing required: device is not approved yet").with_details(json!({
                "code": "PAIRING_REQUIRED",
                "reason": "not-paired",
                "deviceId": device.id,
                "requestedRole": "operator",
                "requestedScopes": params.scopes,
                "remediationHint": "Connect with the gateway's token.",
            })))
        }
    }
}
