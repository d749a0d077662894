//! Devices as the wire carries them: proofs, pairing, tokens (gateway-ws.md §1.7, §2.3).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::json;
use uuid::Uuid;
use watertight_core::grant::VerbSet;
use watertight_core::ids::UnixMillis;
use watertight_engine::devices::{
    ApprovedVia, Decided, Description, DeviceId, DeviceRow, Keeper, PairingId, PairingRow, Pending, ProvenDevice,
    Withdrawal,
};
use watertight_seal::device::{DeviceKey, key_text};
use watertight_wire::openclaw::connect::ConnectParams;
use watertight_wire::openclaw::device::{
    DeviceTokenSummary, PairApproveParams, PairApproved, PairList, PairRejectParams, PairRejected, PairRemoveParams,
    PairRemoved, PairResolved, PairedDevice, PendingDevice, SetupCode, SetupCodeParams, TokenRevokeParams,
    TokenRevoked, TokenRotateParams, TokenRotated,
};
use watertight_wire::openclaw::params::Nothing;
use watertight_wire::openclaw::{ErrorShape, scope};

use super::call::{Answer, Call, Client, Failure, Outcome};
use super::close;
use super::outbox::{Need, Outbox};
use crate::accept::Peer;
use crate::gateway::now;

/// How far a device's clock may be off, in milliseconds.
const SKEW: u64 = 120_000;
/// Longest of what a device says of itself that is kept, in characters.
const MAX_SAID: usize = 80;
/// The only role we know.
const ROLE: &str = "operator";

/// The device at the other end, if the client claims one: its key signed this connection's `challenge`. An error where
/// it did not; the checks come in the order clients know.
pub(crate) fn proven(
    params: &ConnectParams,
    challenge: &str,
    now: UnixMillis,
) -> Result<Option<ProvenDevice>, ErrorShape> {
    let Some(device) = &params.device else { return Ok(None) };
    let key = DeviceKey::parse(&device.public_key)
        .map_err(|_| refusal("device public key invalid", "DEVICE_AUTH_PUBLIC_KEY_INVALID", "device-public-key"))?;
    if key.id().to_string() != device.id {
        return Err(refusal("device identity mismatch", "DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch"));
    }
    if now.0.abs_diff(device.signed_at) > SKEW {
        return Err(refusal("device signature expired", "DEVICE_AUTH_SIGNATURE_EXPIRED", "device-signature-stale"));
    }
    if device.nonce.is_empty() {
        return Err(refusal("device nonce required", "DEVICE_AUTH_NONCE_REQUIRED", "device-nonce-missing"));
    }
    if device.nonce != challenge {
        return Err(refusal("device nonce mismatch", "DEVICE_AUTH_NONCE_MISMATCH", "device-nonce-mismatch"));
    }
    let payloads = params.device_payloads();
    let proven = payloads.and_then(|payloads| key.prove(&payloads, &device.signature).ok());
    let invalid = || refusal("device signature invalid", "DEVICE_AUTH_SIGNATURE_INVALID", "device-signature");
    proven.map(Some).ok_or_else(invalid)
}

fn refusal(message: &str, code: &str, reason: &str) -> ErrorShape {
    ErrorShape::invalid(message).with_details(json!({"code": code, "reason": reason})).because("unauthorized")
}

/// What a client says of itself, cut to what a list shows.
pub(crate) fn description(params: &ConnectParams, peer: &Peer) -> Description {
    let said = |text: &str| text.trim().chars().filter(|c| !c.is_control()).take(MAX_SAID).collect::<String>();
    let client = &params.client;
    Description {
        display_name: client.display_name.as_deref().map(said).filter(|name| !name.is_empty()),
        platform: said(&client.platform),
        device_family: client.device_family.as_deref().map(said).filter(|family| !family.is_empty()),
        client_id: client.id.name(),
        client_mode: client.mode.name(),
        address: peer.address.ip().to_canonical().to_string(),
    }
}

/// What a device is told that has to wait for somebody's decision.
pub(crate) fn pairing_required(params: &ConnectParams, request: &PairingRow, approved: Option<VerbSet>) -> ErrorShape {
    let (reason, why) = match approved {
        None => ("not-paired", "device is not approved yet"),
        Some(held) if request.verbs.meet(held) == request.verbs.meet(request.verbs) => {
            ("not-paired", "device has no token that holds")
        }
        Some(_) => ("scope-upgrade", "device is asking for more scopes than currently approved"),
    };
    let mut details = json!({
        "code": "PAIRING_REQUIRED",
        "reason": reason,
        "requestId": request.id.to_string(),
        "deviceId": request.device.to_string(),
        "requestedRole": ROLE,
        "requestedScopes": params.scopes,
        "pairingCode": request.code,
        "remediationHint": "Have the request approved: watertight devices approve <requestId>.",
        "recommendedNextStep": "wait_then_retry",
        "retryable": true,
        "pauseReconnect": false,
    });
    if let Some(held) = approved {
        details["approvedRoles"] = json!([ROLE]);
        details["approvedScopes"] = json!(scope::names(held));
    }
    let message = format!("pairing required: {why} (requestId: {})", request.id);
    ErrorShape::not_paired(message).with_details(details).because("unauthorized")
}

/// The connections that hear of pairing.
#[derive(Default)]
pub(crate) struct Audience {
    all: Mutex<HashMap<Uuid, (Keeper, Weak<Outbox>)>>,
}

impl Audience {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, (Keeper, Weak<Outbox>)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection hears of what its keeper may decide, until it is closed.
    pub(crate) fn join(&self, conn_id: Uuid, keeper: Keeper, outbox: &Arc<Outbox>) {
        let mut all = self.lock();
        // Closed connections are swept when the map would grow, so that it stays in proportion to the open ones.
        if all.len() == all.capacity() {
            all.retain(|_, (_, outbox)| outbox.strong_count() > 0);
        }
        all.insert(conn_id, (keeper, Arc::downgrade(outbox)));
    }

    fn tell(&self, sees: impl Fn(&Keeper) -> bool, tell: impl Fn(&Outbox)) {
        let listeners: Vec<_> =
            self.lock().values().filter(|(keeper, _)| sees(keeper)).filter_map(|(_, to)| to.upgrade()).collect();
        for outbox in &listeners {
            tell(outbox);
        }
    }

    /// A device asks; a request that it made before is over.
    pub(crate) fn requested(&self, pending: &Pending) {
        let Pending { tenant, request, superseded, .. } = pending;
        let sees = |row: &PairingRow| {
            let invited_by = row.invited_by;
            move |keeper: &Keeper| keeper.sees(*tenant, invited_by)
        };
        if let Some(former) = superseded {
            let event = resolution(former, "rejected");
            self.tell(sees(former), |outbox| {
                outbox.event("device.pair.resolved", &event, Need::Droppable);
            });
        }
        let event = PendingDevice { pairing_code: None, expires_at_ms: None, ..pending_device(request) };
        self.tell(sees(request), |outbox| {
            outbox.event("device.pair.requested", &event, Need::Droppable);
        });
    }

    fn resolved(&self, by: &Client, request: &PairingRow, decision: &'static str) {
        let (tenant, _) = by.access.identity();
        let event = resolution(request, decision);
        let sees = |keeper: &Keeper| keeper.sees(tenant, request.invited_by);
        self.tell(sees, |outbox| {
            outbox.event("device.pair.resolved", &event, Need::Droppable);
        });
    }
}

fn resolution(request: &PairingRow, decision: &'static str) -> PairResolved {
    PairResolved { request_id: request.id.to_string(), device_id: request.device.to_string(), decision, ts: now().0 }
}

fn pending_device(row: &PairingRow) -> PendingDevice {
    let about = row.about.clone();
    PendingDevice {
        request_id: row.id.to_string(),
        device_id: row.device.to_string(),
        public_key: key_text(&row.key),
        display_name: about.display_name,
        platform: about.platform,
        device_family: about.device_family,
        client_id: about.client_id,
        client_mode: about.client_mode,
        role: ROLE,
        roles: [ROLE],
        scopes: scope::names(row.verbs),
        remote_ip: about.address,
        is_repair: row.known,
        ts: row.requested_at.0,
        pairing_code: Some(row.code.clone()),
        expires_at_ms: Some(row.expires_at.0),
    }
}

fn paired_device(row: &DeviceRow, connected: Option<bool>) -> PairedDevice {
    let about = row.about.clone();
    let token = row.token.created_at.map(|created_at| DeviceTokenSummary {
        role: ROLE,
        scopes: scope::names(row.verbs),
        created_at_ms: created_at.0,
        rotated_at_ms: row.token.rotated_at.map(|at| at.0),
        revoked_at_ms: row.token.revoked_at.map(|at| at.0),
    });
    PairedDevice {
        device_id: row.id.to_string(),
        public_key: key_text(&row.key),
        display_name: about.display_name,
        platform: about.platform,
        device_family: about.device_family,
        client_id: about.client_id,
        client_mode: about.client_mode,
        role: ROLE,
        roles: [ROLE],
        scopes: scope::names(row.verbs),
        remote_ip: about.address,
        approved_via: match row.via {
            ApprovedVia::Owner => "owner",
            ApprovedVia::Silent => "silent",
        },
        created_at_ms: row.created_at.0,
        approved_at_ms: row.approved_at.0,
        tokens: token.into_iter().collect(),
        connected,
    }
}

pub(crate) async fn pair_list(mut call: Call) -> Outcome {
    let Nothing {} = call.params().await?;
    let engine = &call.gateway.engine;
    let pending = engine.pairings(call.access()).await?.iter().map(pending_device).collect();
    let paired = engine.devices(call.access()).await?;
    Answer::of(&PairList {
        pending,
        paired: paired.iter().map(|(row, open)| paired_device(row, Some(*open))).collect(),
    })
}

pub(crate) async fn pair_approve(mut call: Call) -> Outcome {
    let PairApproveParams { request_id, device_id } = call.params().await?;
    let request = PairingId::parse(&request_id).ok_or_else(unknown_request)?;
    let shown = match device_id {
        Some(text) => Some(DeviceId::parse(&text).ok_or_else(unknown_request)?),
        None => None,
    };
    match call.gateway.engine.approve_pairing(call.access(), request, shown).await? {
        Decided::Approved(request, device) => {
            call.gateway.audience.resolved(&call.client, &request, "approved");
            Answer::of(&PairApproved { request_id: request.id.to_string(), device: paired_device(&device, None) })
        }
        Decided::NothingInCommon => Err(Failure::invalid(
            "device pairing approval denied: this connection holds none of the scopes the device asks for",
        )),
        Decided::TooMany => Err(Failure::invalid("There are too many devices. Remove one first.")),
        Decided::Rejected(_) | Decided::Unknown => Err(unknown_request()),
    }
}

pub(crate) async fn pair_reject(mut call: Call) -> Outcome {
    let PairRejectParams { request_id } = call.params().await?;
    let request = PairingId::parse(&request_id).ok_or_else(unknown_request)?;
    match call.gateway.engine.reject_pairing(call.access(), request).await? {
        Decided::Rejected(request) => {
            call.gateway.audience.resolved(&call.client, &request, "rejected");
            let (request_id, device_id) = (request.id.to_string(), request.device.to_string());
            Answer::of(&PairRejected { request_id, device_id })
        }
        _ => Err(unknown_request()),
    }
}

pub(crate) async fn pair_remove(mut call: Call) -> Outcome {
    let PairRemoveParams { device_id } = call.params().await?;
    let answer = |row: &DeviceRow, _| PairRemoved { device_id: row.id.to_string() };
    withdraw(&call, &device_id, Withdrawal::Remove, answer).await
}

pub(crate) async fn token_revoke(mut call: Call) -> Outcome {
    let TokenRevokeParams { device_id, role } = call.params().await?;
    known_role(&role)?;
    let answer = |row: &DeviceRow, at: UnixMillis| TokenRevoked {
        device_id: row.id.to_string(),
        role: ROLE,
        revoked_at_ms: at.0,
    };
    withdraw(&call, &device_id, Withdrawal::Revoke, answer).await
}

/// What is taken from a device ends what is open on it before the caller hears of it. A caller on the device itself
/// hears of it last.
async fn withdraw<T: serde::Serialize>(
    call: &Call,
    device_id: &str,
    what: Withdrawal,
    answer: impl FnOnce(&DeviceRow, UnixMillis) -> T,
) -> Outcome {
    let device = DeviceId::parse(device_id).ok_or_else(unknown_device)?;
    let withdrawn = call.gateway.engine.withdraw(call.access(), device, what).await?.ok_or_else(unknown_device)?;
    let answer = answer(&withdrawn.device, withdrawn.at);
    if is_own(call, device) {
        farewell(call, &answer);
        drop(withdrawn.ending);
        return Ok(Answer::Sent);
    }
    drop(withdrawn.ending);
    Answer::of(&answer)
}

pub(crate) async fn token_rotate(mut call: Call) -> Outcome {
    let TokenRotateParams { device_id, role, scopes } = call.params().await?;
    known_role(&role)?;
    let device = DeviceId::parse(&device_id).ok_or_else(unknown_device)?;
    let named = scopes.map(|scopes| scope::verbs(scopes.iter().map(String::as_str)));
    let engine = &call.gateway.engine;
    let withdrawn =
        engine.withdraw(call.access(), device, Withdrawal::Rotate(named)).await?.ok_or_else(unknown_device)?;
    let mut answer = TokenRotated {
        device_id: device.to_string(),
        role: ROLE,
        token: None,
        scopes: scope::names(withdrawn.device.verbs),
        rotated_at_ms: withdrawn.at.0,
        token_delivery: "withheld-cross-device",
    };
    if is_own(&call, device) {
        // The device itself is told its new token, here and nowhere else. Another's fetches its own.
        let token = engine.rotated_token(&withdrawn).await?;
        answer.token_delivery = if token.is_some() { "in-band" } else { answer.token_delivery };
        answer.token = token.map(|token| token.to_string());
        farewell(&call, &answer);
        drop(withdrawn.ending);
        return Ok(Answer::Sent);
    }
    drop(withdrawn.ending);
    Answer::of(&answer)
}

pub(crate) async fn setup_code(mut call: Call) -> Outcome {
    let SetupCodeParams { public_url, scopes } = call.params().await?;
    let verbs = scopes.map_or(VerbSet::all(), |scopes| scope::verbs(scopes.iter().map(String::as_str)));
    let invited = call.gateway.engine.invite_device(call.access(), verbs).await?;
    let invited = invited.ok_or_else(|| Failure::invalid("Too many setup codes wait to be used. Try again later."))?;
    let (gateway_url, url_source) = match public_url {
        Some(url) => (url, "request"),
        None => (call.gateway.url(), "gateway.listen"),
    };
    Answer::of(&SetupCode {
        setup_code: invited.code.to_string(),
        gateway_url,
        auth: "token",
        url_source,
        expires_at_ms: invited.expires_at.0,
    })
}

/// Whether the caller is on this device.
fn is_own(call: &Call, device: DeviceId) -> bool {
    call.client.seat.is_some_and(|seat| seat.device() == device)
}

/// Answers, and closes the connection behind the answer.
fn farewell(call: &Call, answer: &impl serde::Serialize) {
    call.client.outbox.respond(&call.id, answer);
    call.client.outbox.close(close::AUTH_ENDED, "revoked");
}

fn known_role(role: &str) -> Result<(), Failure> {
    if role == ROLE { Ok(()) } else { Err(unknown_device()) }
}

fn unknown_request() -> Failure {
    Failure::invalid("unknown requestId")
}

fn unknown_device() -> Failure {
    Failure::invalid("unknown deviceId")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    fn vector() -> Value {
        serde_json::from_str(include_str!("../../../../tests/vectors/device-proof.json")).unwrap()
    }

    fn judged(connect: &Value, challenge: &str, now: i64) -> Result<Option<ProvenDevice>, ErrorShape> {
        let params = ConnectParams::parse(Some(&RawValue::from_string(connect.to_string()).unwrap())).unwrap();
        proven(&params, challenge, UnixMillis(now))
    }

    fn refused(connect: &Value, challenge: &str, now: i64) -> Value {
        judged(connect, challenge, now).unwrap_err().details.unwrap()["reason"].clone()
    }

    #[test]
    fn the_published_vector_proves_its_device() {
        let vector = vector();
        let (connect, now) = (&vector["connect"], vector["now"].as_i64().unwrap());
        let params = ConnectParams::parse(Some(&RawValue::from_string(connect.to_string()).unwrap())).unwrap();
        assert_eq!(params.device_payloads().unwrap()[0], vector["payload"]);
        let challenge = vector["challenge"].as_str().unwrap();
        for skew in [-120_000, 0, 120_000] {
            let device = judged(connect, challenge, now + skew).unwrap().unwrap();
            assert_eq!(device.id().to_string(), connect["device"]["id"]);
        }
        for skew in [-120_001, 120_001, i64::MAX - now, i64::MIN] {
            assert_eq!(refused(connect, challenge, now.saturating_add(skew)), "device-signature-stale");
        }
        assert_eq!(refused(connect, "nonce-2", now), "device-nonce-mismatch");
    }

    #[test]
    fn a_changed_field_and_a_missing_nonce_are_refused_and_no_device_is_none() {
        let vector = vector();
        let (now, challenge) = (vector["now"].as_i64().unwrap(), vector["challenge"].as_str().unwrap());
        for (at, to, reason) in [
            ("/auth/token", "OTHER", "device-signature"),
            ("/scopes/0", "operator.admin", "device-signature"),
            ("/client/platform", "darwin", "device-signature"),
            ("/client/deviceFamily", "phone", "device-signature"),
            ("/client/mode", "cli", "device-signature"),
            ("/client/id", "cli", "device-signature"),
            ("/device/id", "5a67330b803d5c88757afb9328615344a89c49839a07f1f76887ad62d06a1f57", "device-id-mismatch"),
            ("/device/publicKey", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "device-public-key"),
            ("/device/nonce", "", "device-nonce-missing"),
        ] {
            let mut connect = vector["connect"].clone();
            *connect.pointer_mut(at).unwrap() = json!(to);
            assert_eq!(refused(&connect, challenge, now), reason, "{at}");
        }
        let mut connect = vector["connect"].clone();
        connect["device"].as_object_mut().unwrap().remove("nonce");
        assert_eq!(refused(&connect, challenge, now), "device-nonce-missing");
        connect.as_object_mut().unwrap().remove("device");
        assert_eq!(judged(&connect, challenge, now).unwrap(), None);
    }
}
