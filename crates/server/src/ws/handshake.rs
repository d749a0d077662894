//! Who is let in, and as what (gateway-ws.md §1.5 to §1.7).
//!
//! A device block is verified before any secret is looked at; a wrong one ends the connection. A client with the shared
//! secret is let in with or without one, and a device without a secret is told to pair.

use std::borrow::Cow;
use std::time::Instant;

use serde_json::json;
use watertight_core::grant::VerbSet;
use watertight_core::ids::UnixMillis;
use watertight_core::principal::CredentialKind;
use watertight_engine::admission::{Access, AuthFailure, Presented};
use watertight_engine::devices::{Arrival, Let, Newcomer, Seat, Wanting};
use watertight_wire::openclaw::connect::ConnectParams;
use watertight_wire::openclaw::frame::{self, BadFrame};
use watertight_wire::openclaw::{ErrorShape, scope};
use zeroize::Zeroizing;

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
    /// The device it ends with.
    pub(crate) seat: Option<Seat>,
    /// The device's new token, and when it was issued.
    pub(crate) device_token: Option<(Zeroizing<String>, UnixMillis)>,
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
            Ok(params) => admit(gateway, peer, page, challenge, &params).await.map(|entered| (params, entered)),
            Err(error) => Err(Denial::policy(error)),
        }
    } else {
        Err(Denial::policy(ErrorShape::invalid("invalid handshake: first request must be connect")))
    };
    match admitted {
        Ok((params, Let { access, seat, token })) => {
            let scopes = scope::granted(&requested_scopes(&params), access.verbs());
            Ok(Welcome { id, params, access, scopes, seat, device_token: token })
        }
        Err(Denial { error, code, reason }) => Err(Refusal { response: Some((id, error)), code, reason }),
    }
}

/// Why a `connect` request is refused.
#[derive(Debug)]
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
    params: &ConnectParams,
) -> Result<Let, Denial> {
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
    check_page(params, page).map_err(Denial::policy)?;
    let device = devices::proven(params, challenge, now()).map_err(Denial::policy)?;
    let requested = scope::verbs(requested_scopes(params).iter().map(String::as_str));
    let newcomer = device.map(|device| Newcomer {
        device,
        requested,
        about: devices::description(params, peer),
        source: peer.source().to_string(),
        near: peer.address.ip().to_canonical().is_loopback() && !gateway.options.behind_tls_proxy,
    });
    let entered = authenticate(gateway, peer, params, newcomer.as_ref(), requested).await?;
    if newcomer.is_none() && params.client.is_ui() {
        let error = ErrorShape::invalid("control ui requires device identity (use HTTPS or localhost secure context)");
        return Err(Denial::policy(error.with_details(json!({"code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"}))));
    }
    Ok(entered)
}

/// A page must be ours or this machine's; the chat page must be a page at all.
fn check_page(params: &ConnectParams, page: Page) -> Result<(), ErrorShape> {
    if page == Page::Foreign || (page == Page::None && params.client.is_browser()) {
        let error = ErrorShape::invalid("origin not allowed (open the page from the gateway's own host)");
        return Err(error.with_details(json!({
            "code": "CONTROL_UI_ORIGIN_NOT_ALLOWED",
            "reason": if page == Page::None { "origin missing" } else { "origin not allowed" },
            "reasonCode": "origin_not_allowed",
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
    newcomer: Option<&Newcomer>,
    requested: VerbSet,
) -> Result<Let, Denial> {
    let (secrets, code) = (params.auth.secrets(), params.auth.bootstrap_token());
    if !secrets.is_empty() || code.is_some() || newcomer.is_some() {
        // Asked before anything secret is looked at.
        gateway.logins.check(peer.source(), Instant::now()).map_err(|locked| {
            let wait = u64::try_from(locked.retry_after.as_millis()).unwrap_or(u64::MAX);
            rate_limited("too many failed authentication attempts (retry later)", wait)
        })?;
    }
    let (wrong, result) = try_all(gateway, &secrets, code, newcomer, requested).await;
    if wrong > 0 {
        gateway.logins.failed(peer.source(), wrong, Instant::now());
        if let Some(count) = gateway.wrong_secrets.count() {
            tracing::warn!(address = %peer.address, count, "a client presented a wrong secret");
        }
    }
    match (result, newcomer) {
        (Ok(Arrival::In(entered)), _) => Ok(*entered),
        (Ok(Arrival::Pair(wanting)), Some(newcomer)) => Err(ask(gateway, peer, params, wanting, newcomer).await),
        (Ok(Arrival::Pair(_)) | Err(AuthFailure::Missing), _) => Err(Denial::policy(
            ErrorShape::not_paired("device identity required")
                .with_details(json!({"code": "DEVICE_IDENTITY_REQUIRED"}))
                .because("unauthorized"),
        )),
        (Err(AuthFailure::Unavailable), _) => Err(unavailable()),
        (Err(AuthFailure::Mismatch), _) => Err(Denial::policy(mismatch(gateway.options.auth_mode, &secrets, code))),
    }
}

/// Tries what the client put into its fields, one after the other: shared secrets and device tokens, else a setup code,
/// else nothing but its device. How many were wrong, also before a right one.
async fn try_all(
    gateway: &Gateway,
    secrets: &[&str],
    code: Option<&str>,
    newcomer: Option<&Newcomer>,
    requested: VerbSet,
) -> (u32, Result<Arrival, AuthFailure>) {
    let engine = &gateway.engine;
    let mut wrong = 0;
    for secret in secrets {
        let result = match newcomer {
            Some(newcomer) if is_device_token(secret) => engine.arrive_with_token(secret, newcomer).await,
            _ => match engine.authenticate(Presented::Secret(secret), Some(requested)).await {
                Ok(access) => enter(gateway, access, newcomer).await,
                Err(failure) => Err(failure),
            },
        };
        match result {
            Err(AuthFailure::Mismatch) => wrong += 1,
            other => return (wrong, other),
        }
    }
    let result = match (code, newcomer) {
        (Some(code), Some(newcomer)) => engine.arrive_with_code(code, newcomer).await,
        (Some(_), None) => Err(AuthFailure::Mismatch),
        (None, _) if wrong > 0 => return (wrong, Err(AuthFailure::Mismatch)),
        (None, _) => match (engine.authenticate(Presented::Nothing, Some(requested)).await, newcomer) {
            (Ok(access), _) => Ok(Arrival::In(Box::new(Let { access, seat: None, token: None }))),
            (Err(AuthFailure::Missing), Some(newcomer)) => engine.arrive(newcomer).await,
            (Err(failure), _) => Err(failure),
        },
    };
    wrong += u32::from(matches!(result, Err(AuthFailure::Mismatch)));
    (wrong, result)
}

async fn enter(gateway: &Gateway, access: Access, newcomer: Option<&Newcomer>) -> Result<Arrival, AuthFailure> {
    match newcomer {
        Some(newcomer) => gateway.engine.arrive_with_secret(access, newcomer).await,
        None => Ok(Arrival::In(Box::new(Let { access, seat: None, token: None }))),
    }
}

fn is_device_token(text: &str) -> bool {
    text.starts_with(CredentialKind::Device.prefix())
}

/// Makes a pairing request of it, for somebody to decide.
async fn ask(gateway: &Gateway, peer: &Peer, params: &ConnectParams, wanting: Wanting, newcomer: &Newcomer) -> Denial {
    let approved = wanting.approved;
    match gateway.engine.ask_pairing(wanting, newcomer).await {
        Ok(Some(pending)) => {
            if pending.is_new {
                // Each costs a write: they are counted with what else a stranger does wrong.
                gateway.logins.failed(peer.source(), 1, Instant::now());
                gateway.audience.requested(&pending);
            }
            Denial::policy(devices::pairing_required(params, &pending.request, approved))
        }
        Ok(None) => rate_limited("too many pairing requests wait for a decision (retry later)", 60_000),
        Err(_) => unavailable(),
    }
}

fn unavailable() -> Denial {
    let error = ErrorShape::unavailable("The gateway cannot check credentials now. Try again shortly.");
    Denial {
        error: error.retry_after(1000),
        code: close::TRY_LATER,
        reason: "credentials cannot be checked now".into(),
    }
}

fn rate_limited(what: &str, wait: u64) -> Denial {
    let message = format!("unauthorized: {what}");
    let error = unauthorized(&message, "AUTH_RATE_LIMITED", "rate_limited", "wait_then_retry");
    Denial::policy(ErrorShape { retry_after_ms: Some(wait), ..error })
}

fn unauthorized(message: &str, code: &str, reason: &str, next: &str) -> ErrorShape {
    let error = ErrorShape::invalid(message).with_details(json!({
        "code": code,
        "authReason": reason,
        "canRetryWithDeviceToken": false,
        "recommendedNextStep": next,
    }));
    error.because(if reason == "rate_limited" { reason } else { "unauthorized" })
}

fn mismatch(mode: AuthMode, secrets: &[&str], code: Option<&str>) -> ErrorShape {
    let next = "update_auth_credentials";
    if secrets.is_empty() && code.is_some() {
        return unauthorized(
            "unauthorized: setup code invalid, expired, revoked, or already used (create a new code)",
            "AUTH_BOOTSTRAP_TOKEN_INVALID",
            "bootstrap_token_invalid",
            "review_auth_configuration",
        );
    }
    if secrets.iter().all(|secret| is_device_token(secret)) {
        return unauthorized(
            "unauthorized: device token mismatch (rotate/reissue device token)",
            "AUTH_DEVICE_TOKEN_MISMATCH",
            "device_token_mismatch",
            next,
        );
    }
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
