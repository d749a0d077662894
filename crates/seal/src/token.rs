//! Credential tokens (isolation.md §2.2): `wto_<id: 16 hex>_<secret: 64 hex>_<crc32: 8 hex>`.
//!
//! The prefix and the checksum let secret scanners find a leaked token and let us refuse a mistyped one without a
//! look-up. The id finds the record, the secret proves it; at rest there is only the secret's keyed hash.

use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use watertight_core::ids::CredentialId;
use watertight_core::principal::SecretHash;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::SealError;
use crate::key::Key;

/// What a token is for.
pub use watertight_core::principal::CredentialKind as TokenKind;

/// The text is not a token: a wrong prefix, length, character or checksum. Says no more, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token: check that it was copied whole")]
pub struct NotAToken;

const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 64;
const TEXT_LEN: usize = 4 + ID_DIGITS + 1 + SECRET_DIGITS + 1 + 8;

/// A token in memory. Zeroized on drop.
#[derive(ZeroizeOnDrop)]
pub struct Token {
    #[zeroize(skip)]
    kind: TokenKind,
    #[zeroize(skip)]
    id: CredentialId,
    secret: [u8; 32],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// A new token from the operating system's generator.
    pub fn generate(kind: TokenKind) -> Result<Self, SealError> {
        let id = u64::from_le_bytes(crate::random()?);
        let id = CredentialId::parse(&format!("{id:016x}")).ok_or(SealError::Random)?;
        let mut token = Self { kind, id, secret: [0; 32] };
        getrandom::fill(&mut token.secret).map_err(|_| SealError::Random)?;
        Ok(token)
    }

    /// Reads a token. White space around it is not accepted; files are trimmed by whoever reads them.
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        let kind = TokenKind::ALL.into_iter().find(|kind| text.starts_with(kind.prefix())).ok_or(NotAToken)?;
        if text.len() != TEXT_LEN || !text.is_ascii() {
            return Err(NotAToken);
        }
        let (body, check) = text.rsplit_once('_').ok_or(NotAToken)?;
        if check != checksum(body) {
            return Err(NotAToken);
        }
        let (id, digits) = body[4..].split_once('_').ok_or(NotAToken)?;
        let id = CredentialId::parse(id).ok_or(NotAToken)?;
        let mut token = Self { kind, id, secret: [0; 32] };
        decode_hex(digits, &mut token.secret).ok_or(NotAToken)?;
        Ok(token)
    }

    /// What it is for.
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The public part.
    pub fn id(&self) -> &CredentialId {
        &self.id
    }

    /// The whole token as text: the one way to get at the secret. For the file or the caller it was made for.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        text.push_str(self.kind.prefix());
        text.push_str(self.id.as_str());
        text.push('_');
        for byte in self.secret {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        let check = checksum(&text);
        text.push('_');
        text.push_str(&check);
        text
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        Self::parse(text)
    }
}

fn checksum(body: &str) -> String {
    format!("{:08x}", crc32fast::hash(body.as_bytes()))
}

fn decode_hex(digits: &str, out: &mut [u8; 32]) -> Option<()> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let digits = digits.as_bytes();
    if digits.len() != SECRET_DIGITS {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(())
}

/// Turns secrets into their stored form: HMAC-SHA-256 under a pepper that lives in the keystore, so that a copy of
/// the database alone neither forges nor confirms one.
pub struct TokenHasher {
    pepper: Key,
}

impl TokenHasher {
    pub(crate) fn new(pepper: Key) -> Self {
        Self { pepper }
    }

    /// Hash of any presented secret, such as a configured password.
    pub fn hash(&self, secret: &[u8]) -> SecretHash {
        // An HMAC key of any length is accepted; the pepper is 32 bytes.
        #[allow(clippy::expect_used)]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.pepper.as_bytes()).expect("any key length");
        mac.update(secret);
        SecretHash::new(mac.finalize().into_bytes().into())
    }

    /// Hash of a token's secret part.
    pub fn hash_token(&self, token: &Token) -> SecretHash {
        self.hash(&token.secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_survives_its_text_form() {
        for kind in TokenKind::ALL {
            let token = Token::generate(kind).unwrap();
            let text = token.expose();
            let back = Token::parse(&text).unwrap();
            assert_eq!((back.kind(), back.id(), back.secret), (kind, token.id(), token.secret));
            assert!(text.starts_with(kind.prefix()) && text.len() == TEXT_LEN);
        }
    }

    #[test]
    fn two_tokens_share_nothing() {
        let (a, b) = (Token::generate(TokenKind::Operator).unwrap(), Token::generate(TokenKind::Operator).unwrap());
        assert!(a.id() != b.id() && a.secret != b.secret);
    }

    #[test]
    fn debug_output_holds_no_part_of_the_token() {
        assert_eq!(format!("{:?}", Token::generate(TokenKind::Access).unwrap()), "Token");
    }

    #[test]
    fn the_same_secret_hashes_differently_under_another_pepper() {
        let token = Token::generate(TokenKind::Operator).unwrap();
        let hasher = TokenHasher::new(Key::random().unwrap());
        assert_eq!(hasher.hash_token(&token).as_bytes(), hasher.hash_token(&token).as_bytes());
        let other = TokenHasher::new(Key::random().unwrap());
        assert_ne!(hasher.hash_token(&token).as_bytes(), other.hash_token(&token).as_bytes());
    }

    #[test]
    fn the_hash_is_hmac_sha_256() {
        // The data of RFC 4231's first case under a key of our length, computed with OpenSSL.
        let hasher = TokenHasher::new(Key::from_slice(&[0x0b; 32]).unwrap());
        let expected = "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7";
        let mut bytes = [0; 32];
        decode_hex(expected, &mut bytes).unwrap();
        assert_eq!(hasher.hash(b"Hi There").as_bytes(), &bytes);
    }

    proptest! {
        #[test]
        fn a_token_with_one_changed_character_is_refused(at in 0..TEXT_LEN, to in "[ -~]") {
            let text = Token::generate(TokenKind::Operator).unwrap().expose();
            let mut changed = text.to_string();
            changed.replace_range(at..=at, &to);
            prop_assert_eq!(Token::parse(&changed).is_ok(), changed == *text);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            prop_assert!(Token::parse(&text).is_err());
        }
    }
}
