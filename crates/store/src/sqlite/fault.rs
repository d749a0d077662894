//! Faults of SQLite and of sealed records, as a caller of the store sees them.

use rusqlite::ErrorCode;
use watertight_seal::SealError;

use crate::StoreError;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match &error {
            E::SqliteFailure(e, _) => match e.code {
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Integrity("database page"),
                _ => Self::Unavailable(error.to_string()),
            },
            E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..) => {
                Self::Integrity("column")
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Record => Self::Integrity("sealed record"),
            SealError::Wrap => Self::Integrity("wrapped key"),
            SealError::Commitment => Self::Integrity("key commitment"),
            SealError::Random | SealError::TooLong => Self::Unavailable(error.to_string()),
        }
    }
}

/// Why an operation on the writer wrote nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not to be done.
    Refused(StoreError),
    /// SQLite could not do it.
    Sqlite(rusqlite::Error),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(error) => error,
            Fault::Sqlite(error) => error.into(),
        }
    }
}

/// Whether the fault is that of a violated UNIQUE or PRIMARY KEY constraint.
pub(super) fn is_duplicate(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(e, _)
        if e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
            || e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY)
}

/// Whether reading or writing the file itself failed.
pub(super) fn is_io(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
}

/// Whether the store may go on after a write failed this way. After any other fault the page cache may have dropped
/// what a sync was to make durable, so nothing more is acknowledged (isolation.md C9).
pub(super) fn is_survivable(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
