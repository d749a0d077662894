//! A device with a key of its own (gateway-ws.md §1.7).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use watertight_core::device::DeviceId;

/// A device that signs challenges.
#[derive(Clone)]
pub struct Device {
    key: SigningKey,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.id())
    }
}

impl Device {
    /// The device whose seed is 32 times this byte.
    pub fn new(seed: u8) -> Self {
        Self { key: SigningKey::from_bytes(&[seed; 32]) }
    }

    /// `device.id`.
    pub fn id(&self) -> String {
        DeviceId::from_bytes(Sha256::digest(self.key.verifying_key().as_bytes()).into()).to_string()
    }

    /// `device.publicKey`.
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.verifying_key().as_bytes())
    }

    /// The device block for these `connect` parameters, signed as version 3 (or 2) has it.
    pub fn block(&self, params: &Value, version: u8, nonce: &str, signed_at: i64) -> Value {
        let text = |at: &str| params.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let scopes = params["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let token =
            ["token", "deviceToken", "bootstrapToken"].into_iter().find_map(|name| params["auth"][name].as_str());
        let mut fields = vec![
            format!("v{version}"),
            self.id(),
            text("/client/id"),
            text("/client/mode"),
            params["role"].as_str().unwrap_or("operator").to_owned(),
            scopes.collect::<Vec<_>>().join(","),
            signed_at.to_string(),
            token.unwrap_or_default().to_owned(),
            nonce.to_owned(),
        ];
        if version == 3 {
            for at in ["/client/platform", "/client/deviceFamily"] {
                fields.push(text(at).trim().to_ascii_lowercase());
            }
        }
        let signature = self.key.sign(fields.join("|").as_bytes());
        json!({
            "id": self.id(),
            "publicKey": self.public_key(),
            "signature": URL_SAFE_NO_PAD.encode(signature.to_bytes()),
            "signedAt": signed_at,
            "nonce": nonce,
        })
    }
}
