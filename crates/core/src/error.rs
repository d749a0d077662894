//! Stable error codes. Each has one page in the documentation and one helpful sentence at its point of use.

use std::fmt;

/// What went wrong, for programs. Texts may change, codes do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A field is missing, of the wrong form or out of range.
    InvalidRequest,
    /// The key text is not a session key.
    InvalidKey,
    /// The key, the agent and the session named do not fit together.
    KeyMismatch,
    /// No such agent is configured.
    UnknownAgent,
    /// The credential was not accepted.
    Unauthorized,
    /// Missing, or not the caller's: the two are never told apart.
    NotFound,
    /// The caller's scopes do not allow the method.
    Forbidden,
    /// The same run id was used for another request.
    IdempotencyMismatch,
    /// The session's queue, or a limit of the caller, is full.
    TooBusy,
    /// The session is at work and the caller did not want to wait.
    SessionBusy,
    /// The session moved on (reset, switched) under the request.
    SessionChanged,
    /// A stored record failed its integrity check.
    IntegrityError,
    /// The store cannot write: disk full.
    StorageFull,
    /// The store cannot write: anything else.
    StorageUnavailable,
    /// The gateway is starting or stopping.
    Unavailable,
    /// The model provider failed.
    ProviderError,
    /// A defect of ours.
    Internal,
}

impl ErrorCode {
    /// The code as it is printed and documented.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidKey => "invalid_key",
            Self::KeyMismatch => "key_mismatch",
            Self::UnknownAgent => "unknown_agent",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::TooBusy => "too_busy",
            Self::SessionBusy => "session_busy",
            Self::SessionChanged => "session_changed",
            Self::IntegrityError => "integrity_error",
            Self::StorageFull => "storage_full",
            Self::StorageUnavailable => "storage_unavailable",
            Self::Unavailable => "unavailable",
            Self::ProviderError => "provider_error",
            Self::Internal => "internal",
        }
    }

    /// Whether the same request may succeed later without a change.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::TooBusy | Self::SessionBusy | Self::StorageFull | Self::StorageUnavailable | Self::Unavailable
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
