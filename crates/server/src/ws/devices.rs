//! Device proofs as the wire carries them (gateway-ws.md §1.7).

use serde_json::json;
use watertight_core::device::ProvenDevice;
use watertight_core::ids::UnixMillis;
use watertight_seal::device::DeviceKey;
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::connect::ConnectParams;

/// How far a device's clock may be off, in milliseconds.
const SKEW: u64 = 120_000;

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
    ErrorShape::invalid(message).with_details(json!({"code": code, "reason": reason}))
}
