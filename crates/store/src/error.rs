//! What can go wrong in a store, by what the caller can do about it.

use watertight_core::ErrorCode;

/// A failed store operation. Never carries stored content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another session took the key since it was looked up: look it up again.
    #[error("the session key was taken by another session")]
    KeyTaken,
    /// The principal already has a run of this id: look it up and compare.
    #[error("the run id is already in use")]
    RunExists,
    /// Another writer holds the session: this one must stop.
    #[error("another writer has taken over the session")]
    StaleLease,
    /// The session was reset, switched or written since it was read.
    #[error("the session has changed")]
    SessionChanged,
    /// The scope or permit does not allow the operation.
    #[error("not permitted")]
    NotPermitted,
    /// A stored record is damaged, was moved, or does not belong where it stands.
    #[error("a stored record failed its integrity check ({0})")]
    Integrity(&'static str),
    /// The disk is full; reads go on.
    #[error("the disk is full")]
    Full,
    /// The store stopped after a failed sync or cannot be reached; nothing more is acknowledged.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

impl StoreError {
    /// The stable code a surface reports.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::KeyTaken | Self::StaleLease | Self::SessionChanged => ErrorCode::SessionChanged,
            Self::RunExists => ErrorCode::IdempotencyMismatch,
            Self::NotPermitted => ErrorCode::NotFound,
            Self::Integrity(_) => ErrorCode::IntegrityError,
            Self::Full => ErrorCode::StorageFull,
            Self::Unavailable(_) => ErrorCode::StorageUnavailable,
        }
    }
}
