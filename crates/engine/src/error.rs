//! What a surface has to report.

use watertight_core::ErrorCode;
use watertight_core::ids::NameError;
use watertight_core::key::KeyError;
use watertight_store::StoreError;

use crate::admission::Ended;

/// A refused or failed request. The text is for the caller: it never holds a secret or another session's data.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The key text does not name a session of this caller.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A session id or run id is not of the allowed form.
    #[error("{what} {error}")]
    Name {
        /// Which field.
        what: &'static str,
        /// What is wrong with it.
        error: NameError,
    },
    /// A field is missing or does not fit.
    #[error("{0}")]
    Invalid(String),
    /// Missing, or not the caller's: the two are never told apart.
    #[error("No session found: {0}")]
    NoSession(String),
    /// The session's generation is not the one the caller expected.
    #[error("Session \"{0}\" changed before expected work could start.")]
    Changed(String),
    /// The run id was used for another request.
    #[error("The idempotency key was already used for a different request. Use a new key for a new request.")]
    RunConflict,
    /// The session's queue is full.
    #[error("Too many runs are waiting in this session ({0}). Try again when one has ended.")]
    QueueFull(usize),
    /// The session is at work, and the caller's queue policy is to be refused then.
    #[error("The session is at work. Try again when its run has ended, or choose another queue mode.")]
    Busy,
    /// No agent of the configuration answers to the model name.
    #[error("{0}")]
    UnknownModel(String),
    /// The credential was revoked, or its time is over.
    #[error("{}", match .0 { Ended::Revoked => "The credential was revoked. Sign in again.", Ended::Expired => "The credential has expired. Sign in again." })]
    Ended(Ended),
    /// Only who administers the tenant may do this.
    #[error("This needs a credential that administers the tenant: admin on every key.")]
    NotAdmin,
    /// Only who may pair devices may do this.
    #[error("This needs a credential that may pair devices.")]
    NotKeeper,
    /// A principal, credential or grant that is not there.
    #[error("There is no {what} {name:?}.")]
    NoSuch {
        /// What sort of thing.
        what: &'static str,
        /// What it was named by.
        name: String,
    },
    /// The gateway is starting or stopping.
    #[error("The gateway is stopping and takes no new runs. Try again shortly.")]
    Draining,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EngineError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Key(error) => error.code(),
            Self::Name { .. } | Self::Invalid(_) | Self::UnknownModel(_) => ErrorCode::InvalidRequest,
            Self::NoSession(_) | Self::NoSuch { .. } => ErrorCode::NotFound,
            Self::Changed(_) => ErrorCode::SessionChanged,
            Self::RunConflict => ErrorCode::IdempotencyMismatch,
            Self::QueueFull(_) => ErrorCode::TooBusy,
            Self::Busy => ErrorCode::SessionBusy,
            Self::Ended(_) => ErrorCode::Unauthorized,
            Self::NotAdmin | Self::NotKeeper => ErrorCode::Forbidden,
            Self::Draining => ErrorCode::Unavailable,
            Self::Store(error) => error.code(),
        }
    }
}
