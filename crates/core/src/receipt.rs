//! Receipts: what a client keeps to prove later that an entry is still there, unchanged.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::ids::{Seq, SessionId};

/// Where a session's total order ended right after an entry was stored. The chain covers every entry up to `seq`, so
/// no entry before it can be changed, left out or moved without the receipt failing. It is no credential.
///
/// Its text is `<session>:<seq>:<chain>`: 32 hex digits, a decimal number, 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The session's internal id.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub session: SessionId,
    /// Place of the entry in the session's total order, from 1.
    pub seq: Seq,
    /// The chain over every entry up to `seq` (isolation.md §2.8).
    #[serde(serialize_with = "as_hex", deserialize_with = "from_hex")]
    pub chain: [u8; 32],
}

/// The text is not a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a receipt is <session>:<seq>:<chain>, 32 hex digits, a number and 64 hex digits")]
pub struct ReceiptError;

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", hex(self.session.as_bytes()), self.seq.0, hex(&self.chain))
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        let mut parts = text.split(':');
        let (Some(session), Some(seq), Some(chain), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ReceiptError);
        };
        let plain = !seq.is_empty() && seq.bytes().all(|digit| digit.is_ascii_digit());
        Ok(Self {
            session: SessionId::from_bytes(bytes(session)?),
            seq: Seq(seq.parse().ok().filter(|_| plain).ok_or(ReceiptError)?),
            chain: bytes(chain)?,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], ReceiptError> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(ReceiptError);
    }
    let digit = |at: usize| char::from(digits[at]).to_digit(16).ok_or(ReceiptError);
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (digit(2 * at)? * 16 + digit(2 * at + 1)?) as u8;
    }
    Ok(bytes)
}

fn as_text<S: Serializer>(session: &SessionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(session.as_bytes()))
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SessionId, D::Error> {
    from_hex(deserializer).map(SessionId::from_bytes)
}

fn as_hex<S: Serializer>(chain: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(chain))
}

fn from_hex<'de, D: serde::Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    bytes(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        Receipt { session: SessionId::from_bytes([0xab; 16]), seq: Seq(7), chain: [0x01; 32] }
    }

    #[test]
    fn text_and_json_come_back_as_they_went() {
        let text = receipt().to_string();
        assert_eq!(text, format!("{}:7:{}", "ab".repeat(16), "01".repeat(32)));
        assert_eq!(text.parse(), Ok(receipt()));
        let json = serde_json::to_value(receipt()).unwrap();
        assert_eq!(json, serde_json::json!({"session": "ab".repeat(16), "seq": 7, "chain": "01".repeat(32)}));
        assert_eq!(serde_json::from_value::<Receipt>(json).unwrap(), receipt());
    }

    #[test]
    fn anything_else_is_refused() {
        let good = receipt().to_string();
        for bad in [
            "",
            ":",
            "::",
            "a:1:b",
            &good[1..],
            &format!("{good}0"),
            &good.replace(":7:", ":+7:"),
            &good.replace(':', "-"),
        ] {
            assert_eq!(bad.parse::<Receipt>(), Err(ReceiptError), "{bad}");
        }
        assert_eq!(format!("{}:7:{}", "ä".repeat(16), "01".repeat(32)).parse::<Receipt>(), Err(ReceiptError));
    }
}
