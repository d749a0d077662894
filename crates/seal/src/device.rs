//! Device proofs: Ed25519 over this connection's challenge (gateway-ws.md §1.7).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use watertight_core::device::{DeviceId, ProvenDevice};

/// A device's public key as a client showed it. Nothing is proved yet.
#[derive(Clone, Debug)]
pub struct DeviceKey {
    bytes: [u8; 32],
}

/// Not a key, or one that anybody could sign for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key")]
pub struct BadKey;

/// The signature is not this key's over any of the payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct BadSignature;

impl DeviceKey {
    /// Reads 32 bytes in base64url without padding, which must be a point that is not of small order: for such a point
    /// a signature proves nothing.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let bytes = decode::<32>(text).ok_or(BadKey)?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self { bytes }),
            _ => Err(BadKey),
        }
    }

    /// Its fingerprint.
    pub fn id(&self) -> DeviceId {
        fingerprint(&self.bytes)
    }

    /// Believes that the key's holder is at the other end, if `signature` is its signature over one of the payloads. The
    /// payloads must hold this connection's challenge. Strict verification: one signature has one spelling.
    pub fn prove(&self, payloads: &[String], signature: &str) -> Result<ProvenDevice, BadSignature> {
        let signature = decode::<64>(signature).ok_or(BadSignature)?;
        let signature = Signature::from_bytes(&signature);
        let key = VerifyingKey::from_bytes(&self.bytes).map_err(|_| BadSignature)?;
        if payloads.iter().any(|payload| key.verify_strict(payload.as_bytes(), &signature).is_ok()) {
            Ok(ProvenDevice::verified(self.id(), self.bytes))
        } else {
            Err(BadSignature)
        }
    }
}

/// The fingerprint of a raw public key.
pub fn fingerprint(key: &[u8; 32]) -> DeviceId {
    DeviceId::from_bytes(Sha256::digest(key).into())
}

/// A raw public key as the wire spells it.
pub fn key_text(key: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Looked at before anything is allocated for it.
    if text.len() > N.div_ceil(3) * 4 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The vector of gateway-ws.md §1.7.
    const KEY: &str = "TLWr9q15-_WrvMr8wmnYXNJlHtS4hbWGnyQa7fCluik";
    const ID: &str = "4a67330b803d5c88757afb9328615344a89c49839a07f1f76887ad62d06a1f57";
    const PAYLOAD: &str = "v3|4a67330b803d5c88757afb9328615344a89c49839a07f1f76887ad62d06a1f57|test|test|operator|\
        operator.read,operator.write|1800000000000|SECRET|nonce-1|linux|box";
    const SIGNATURE: &str = "7hvifUHkMhIRwsjRNbVl_hYPcn4UH2QNeOspELVo60isB536ZT_LRgeTcFticyr9cdMx_cyIZcf1DMPAKS6EAA";

    #[test]
    fn the_published_vector_verifies_and_its_signature_is_ours() {
        let key = DeviceKey::parse(KEY).unwrap();
        assert_eq!(key.id().to_string(), ID);
        let proven = key.prove(&["v2|another".into(), PAYLOAD.into()], SIGNATURE).unwrap();
        assert_eq!((proven.id(), key_text(proven.key())), (key.id(), KEY.to_owned()));
        let mut seed = [0; 32];
        seed[31] = 1;
        let signing = ed25519_dalek::SigningKey::from_bytes(&seed);
        assert_eq!(key_text(signing.verifying_key().as_bytes()), KEY);
        let signature = ed25519_dalek::Signer::sign(&signing, PAYLOAD.as_bytes());
        assert_eq!(URL_SAFE_NO_PAD.encode(signature.to_bytes()), SIGNATURE);
    }

    #[test]
    fn a_signature_has_one_spelling() {
        let key = DeviceKey::parse(KEY).unwrap();
        let payload = [PAYLOAD.to_owned()];
        assert!(key.prove(&payload, SIGNATURE).is_ok());
        // The same signature with its second half enlarged by the group's order, which lax verifiers take.
        let mut bytes = decode::<64>(SIGNATURE).unwrap();
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0;
        for (byte, add) in bytes[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert_eq!(key.prove(&payload, &URL_SAFE_NO_PAD.encode(bytes)), Err(BadSignature));
        for other in [format!("{SIGNATURE}=="), SIGNATURE.replace('_', "/"), String::new(), "A".repeat(86)] {
            assert_eq!(key.prove(&payload, &other), Err(BadSignature), "{other}");
        }
    }

    #[test]
    fn a_key_that_anybody_can_sign_for_is_none() {
        // Of order 4, of order 1 (the neutral element), not on the curve, too short, too long, padded.
        let point = |first: u8| {
            let mut bytes = [0; 32];
            bytes[0] = first;
            URL_SAFE_NO_PAD.encode(bytes)
        };
        let (neutral, off) = (point(1), point(2));
        for bad in [&"A".repeat(43), &neutral, &off, &KEY[1..], &format!("A{KEY}"), &format!("{KEY}=")] {
            assert!(DeviceKey::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_payload_does_not_verify(at in 0..PAYLOAD.len(), to in "[ -~]") {
            let mut changed = PAYLOAD.to_owned();
            changed.replace_range(at..=at, &to);
            let same = changed == PAYLOAD;
            prop_assert_eq!(DeviceKey::parse(KEY).unwrap().prove(&[changed], SIGNATURE).is_ok(), same);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(key in "\\PC*", signature in "\\PC*") {
            prop_assert!(DeviceKey::parse(&key).is_err());
            prop_assert!(DeviceKey::parse(KEY).unwrap().prove(&[PAYLOAD.to_owned()], &signature).is_err());
        }
    }
}
