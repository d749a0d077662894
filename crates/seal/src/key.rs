//! A 256-bit secret and the primitives over it.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::SealError;

/// Bytes of a nonce.
pub(crate) const NONCE: usize = 24;
/// Bytes of an authentication tag.
pub(crate) const TAG: usize = 16;

/// 32 secret bytes. No `Debug`, no `Clone`; zeroized on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn random() -> Result<Self, SealError> {
        let mut key = Self([0; 32]);
        getrandom::fill(&mut key.0).map_err(|_| SealError::Random)?;
        Ok(key)
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Self([0; 32]);
        if bytes.len() != key.0.len() {
            return None;
        }
        key.0.copy_from_slice(bytes);
        Some(key)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key of its own for `context`, bound to `label` (the label has one length per context).
    pub(crate) fn derive(&self, context: &'static str, label: &[u8]) -> Self {
        let mut material = Zeroizing::new(Vec::with_capacity(self.0.len() + label.len()));
        material.extend_from_slice(&self.0);
        material.extend_from_slice(label);
        Self(blake3::derive_key(context, &material))
    }

    /// Keyed hash of length-prefixed fields.
    pub(crate) fn mac(&self, fields: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for field in fields {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        let mac = hasher.finalize().into();
        hasher.zeroize();
        mac
    }

    /// `nonce ‖ ciphertext ‖ tag`, appended to `out`.
    pub(crate) fn seal_into(&self, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let nonce: [u8; NONCE] = crate::random()?;
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad })
            .map_err(|_| SealError::TooLong)?;
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(())
    }

    /// Opens what [`Self::seal_into`] appended.
    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE>()?;
        let plaintext = self.cipher().decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad }).ok()?;
        Some(Zeroizing::new(plaintext))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&self.0).into())
    }
}

/// Associated data: fields in order, each with its length before it, so that no two lists of fields read the same.
pub(crate) struct Aad(Vec<u8>);

impl Aad {
    pub(crate) fn new(domain: &str) -> Self {
        Self(Vec::with_capacity(192)).field(domain.as_bytes())
    }

    pub(crate) fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
