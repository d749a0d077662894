//! Devices and pairing: parameters, answers and events of `device.pair.*` and `device.token.*` (gateway-ws.md §1.7, §2.3).

use serde::{Deserialize, Serialize};

use super::params::{Params, shapes};
use super::shape::{Shape, closed, list, optional, required, text, text_within, word};

static NAME: Shape = text(1);

shapes! {
    // `deviceId` is ours: the fingerprint that whoever approves has seen.
    PairApproveParams: closed(&[required("requestId", text(1)), optional("deviceId", text(1))]);
    PairRejectParams: closed(&[required("requestId", text(1))]);
    PairRemoveParams: closed(&[required("deviceId", text(1))]);
    TokenRotateParams:
        closed(&[required("deviceId", text(1)), required("role", text(1)), optional("scopes", list(&NAME))]);
    TokenRevokeParams: closed(&[required("deviceId", text(1)), required("role", text(1))]);
    SetupCodeParams: closed(&[
        optional("publicUrl", text_within(1, 2048)),
        optional("preferRemoteUrl", super::shape::boolean()),
        optional("includeQr", super::shape::boolean()),
        optional("bootstrapProfile", word(&["limited", "node"])),
        optional("joinUrl", super::shape::boolean()),
        // Ours: the most that the device may ask for.
        optional("scopes", list(&NAME)),
    ]);
}

/// `device.pair.approve`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairApproveParams {
    /// The request.
    pub request_id: String,
    /// The device the caller means; another one's request is unknown.
    pub device_id: Option<String>,
}

/// `device.pair.reject`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairRejectParams {
    /// The request.
    pub request_id: String,
}

/// `device.pair.remove`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairRemoveParams {
    /// The device.
    pub device_id: String,
}

/// `device.token.rotate`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRotateParams {
    /// The device.
    pub device_id: String,
    /// Its role.
    pub role: String,
    /// What the new token is to open, of what the device holds; none keeps that.
    pub scopes: Option<Vec<String>>,
}

/// `device.token.revoke`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRevokeParams {
    /// The device.
    pub device_id: String,
    /// Its role.
    pub role: String,
}

/// `device.pair.setupCode`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupCodeParams {
    /// The address the device is to use, where it is not the one the gateway listens on.
    pub public_url: Option<String>,
    /// The most that the device may ask for; none means all that the caller holds.
    pub scopes: Option<Vec<String>>,
}

/// A request to be paired, as lists and `device.pair.requested` show it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingDevice {
    /// Names the request.
    pub request_id: String,
    /// Fingerprint of the device's key.
    pub device_id: String,
    /// The key.
    pub public_key: String,
    /// What it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its operating system.
    pub platform: String,
    /// What sort of machine it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Which program.
    pub client_id: String,
    /// In what way it connects.
    pub client_mode: String,
    /// Always `operator`.
    pub role: &'static str,
    /// The same in a list.
    pub roles: [&'static str; 1],
    /// What it asks for.
    pub scopes: Vec<&'static str>,
    /// Where it came from.
    pub remote_ip: String,
    /// Whether the device is known.
    pub is_repair: bool,
    /// When it asked, in milliseconds since the epoch.
    pub ts: i64,
    /// What people compare on both sides. Lists only, and ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairing_code: Option<String>,
    /// When the request ends by itself. Lists only, and ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
}

/// A paired device.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairedDevice {
    /// Fingerprint of its key.
    pub device_id: String,
    /// The key.
    pub public_key: String,
    /// What it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its operating system.
    pub platform: String,
    /// What sort of machine it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Which program.
    pub client_id: String,
    /// In what way it connects.
    pub client_mode: String,
    /// Always `operator`.
    pub role: &'static str,
    /// The same in a list.
    pub roles: [&'static str; 1],
    /// The most it may do.
    pub scopes: Vec<&'static str>,
    /// Where it last asked from.
    pub remote_ip: String,
    /// `owner` or `silent`.
    pub approved_via: &'static str,
    /// When it was first approved, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When it was last approved.
    pub approved_at_ms: i64,
    /// Its tokens: one at the most.
    pub tokens: Vec<DeviceTokenSummary>,
    /// Whether anything is open on it. Lists only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
}

/// What may be said of a device's token.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTokenSummary {
    /// Always `operator`.
    pub role: &'static str,
    /// What it opens.
    pub scopes: Vec<&'static str>,
    /// When the first was issued.
    pub created_at_ms: i64,
    /// When it was last replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated_at_ms: Option<i64>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<i64>,
}

/// The answer to `device.pair.list`.
#[derive(Debug, Serialize)]
pub struct PairList {
    /// Requests that wait.
    pub pending: Vec<PendingDevice>,
    /// Devices.
    pub paired: Vec<PairedDevice>,
}

/// The answer to `device.pair.approve`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairApproved {
    /// The request.
    pub request_id: String,
    /// The device it made.
    pub device: PairedDevice,
}

/// The answer to `device.pair.reject`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairRejected {
    /// The request.
    pub request_id: String,
    /// The device that asked.
    pub device_id: String,
}

/// The answer to `device.pair.remove`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairRemoved {
    /// The device that was.
    pub device_id: String,
}

/// The answer to `device.token.rotate`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRotated {
    /// The device.
    pub device_id: String,
    /// Its role.
    pub role: &'static str,
    /// The new token, for the device itself and nobody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What it opens.
    pub scopes: Vec<&'static str>,
    /// When, in milliseconds since the epoch.
    pub rotated_at_ms: i64,
    /// `in-band` or `withheld-cross-device`.
    pub token_delivery: &'static str,
}

/// The answer to `device.token.revoke`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRevoked {
    /// The device.
    pub device_id: String,
    /// Its role.
    pub role: &'static str,
    /// When, in milliseconds since the epoch.
    pub revoked_at_ms: i64,
}

/// The answer to `device.pair.setupCode`. No `Debug`: it holds the code.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupCode {
    /// The code, to be presented as `auth.bootstrapToken`.
    pub setup_code: String,
    /// The address to present it at.
    pub gateway_url: String,
    /// Always `token`.
    pub auth: &'static str,
    /// Where the address comes from.
    pub url_source: &'static str,
    /// When the code ends, in milliseconds since the epoch.
    pub expires_at_ms: i64,
}

/// `device.pair.resolved`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairResolved {
    /// The request.
    pub request_id: String,
    /// The device.
    pub device_id: String,
    /// `approved` or `rejected`.
    pub decision: &'static str,
    /// When, in milliseconds since the epoch.
    pub ts: i64,
}
