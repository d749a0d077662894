//! Identifiers. Every id is its own type; none of them carries authority.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Milliseconds since the Unix epoch, UTC. Time enters core as a parameter, never from a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The time `millis` later.
    #[must_use]
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to `self`; 0 when the clock went back.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id made of these 16 bytes. Callers draw them from the operating system's generator.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

random_id! {
    /// A tenant: a private key space with its own sessions, principals and encryption keys.
    TenantId
}
random_id! {
    /// Who calls, inside one tenant.
    PrincipalId
}
random_id! {
    /// The internal name of a session: random, made by us, shown in receipts only. No request names a session by it.
    SessionId
}
random_id! {
    /// One transcript entry.
    EntryId
}
random_id! {
    /// One grant.
    GrantId
}

/// Public part of a credential: 64 random bits as 16 lower-case hex digits. Finds the record, proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CredentialId(String);

impl CredentialId {
    /// Accepts exactly 16 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let ok = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ok.then(|| Self(text.to_owned()))
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a client-chosen name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than the bound, in bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// A character outside the allowed set.
    #[error("contains a character that is not allowed")]
    BadCharacter,
}

/// One generation (transcript) of a session as the wire names it: `sessionId`. A v4 UUID unless the caller chose it.
///
/// Follows sessions.md §1.13: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, never shaped like a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationId(Arc<str>);

impl GenerationId {
    /// Longest accepted id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Parses a caller-chosen id; surrounding white space is ignored.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        let mut bytes = text.bytes();
        let first = bytes.next().ok_or(NameError::Empty)?;
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong(Self::MAX_BYTES));
        }
        let rest_ok = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first.is_ascii_alphanumeric() && rest_ok && !text.contains("..") {
            Ok(Self(text.into()))
        } else {
            Err(NameError::BadCharacter)
        }
    }

    /// A generation named by a UUID.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid.to_string().into())
    }

    /// The id as the wire carries it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One turn. On the WebSocket it is the client's idempotency key; elsewhere we draw a UUID.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Arc<str>);

impl RunId {
    /// Longest accepted id, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Parses a client's idempotency key: 1 to 256 bytes without control characters. Compared byte for byte.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.trim().is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong(Self::MAX_BYTES));
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::BadCharacter);
        }
        Ok(Self(text.into()))
    }

    /// A run named by a UUID.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid.to_string().into())
    }

    /// The id as the wire carries it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Prints a name that is text inside: as it is, and with its type for programmers.
macro_rules! text_id_fmt {
    ($($name:ident),*) => { $(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )* };
}
text_id_fmt!(GenerationId, RunId);
pub(crate) use text_id_fmt;

/// Position in a session's total order: 1 is the first entry, 0 means "nothing yet". Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Ordinal of a generation inside its session; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationNo(pub u32);

/// Counts resets and generation switches of a session. A run of an older life cannot write into a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lifecycle(pub u32);

/// Fencing token of the session's single writer; checked inside every write (isolation.md C6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseEpoch(pub u64);

/// Raised when a principal's or a credential's authority changes; a capability of an older epoch is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthEpoch(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_id_is_never_shaped_like_a_path() {
        for bad in ["", "  ", "../x", "a/b", "a..b", ".hidden", "-x", "a b", "ä", "a\0"] {
            assert!(GenerationId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(GenerationId::parse(&"a".repeat(129)).is_err());
        assert_eq!(GenerationId::parse(" my-sess_1.a ").unwrap().as_str(), "my-sess_1.a");
    }

    #[test]
    fn a_run_id_refuses_control_characters_and_blank_text() {
        assert!(RunId::parse("a\nb").is_err());
        assert!(RunId::parse(" \t").is_err());
        assert!(RunId::parse(&"x".repeat(257)).is_err());
        assert_eq!(RunId::parse(" kept as is ").unwrap().as_str(), " kept as is ");
    }

    #[test]
    fn elapsed_time_is_zero_when_the_clock_went_back() {
        assert_eq!(UnixMillis(5).since(UnixMillis(9)), 0);
        assert_eq!(UnixMillis(9).since(UnixMillis(5)), 4);
    }
}
