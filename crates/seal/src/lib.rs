//! The only crate that sees key material (isolation.md §2.8). No async, no SQL.
//!
//! * [`master`]: the master key: where it comes from, what makes it acceptable.
//! * [`keyring`]: the hierarchy below it: master key, tenant key, shred-epoch key, session data key; how each is
//!   wrapped by the one above, and the keyed hashes that stay searchable.
//! * [`record`]: one sealed column of one row, bound to its place.
//! * [`chain`]: the hash chain over a session's entries and the MAC over its head.
//! * [`checkpoint`]: the signature over a checkpoint of all sessions.
//! * [`token`]: credential tokens: text form, checksum, keyed hash.
//! * [`device`]: proofs of device keys.
//! * [`names`]: the hashed session names sent to providers.
//!
//! Secrets are zeroized on drop and have no `Debug`, `Display` or `Clone`.

pub mod chain;
pub mod checkpoint;
pub mod device;
mod key;
pub mod keyring;
pub mod master;
pub mod names;
pub mod record;
pub mod token;

/// Why something sealed was not accepted or could not be made. Never carries content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A record is of an unknown version or algorithm, was changed, or stands where it does not belong.
    #[error("the record does not open in its place")]
    Record,
    /// A wrapped key does not open: another key wrapped it, it was changed, or it belongs elsewhere.
    #[error("the wrapped key does not open")]
    Wrap,
    /// An unwrapped key is not the one that was committed to.
    #[error("the key does not match its commitment")]
    Commitment,
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
    /// A record would be longer than the cipher allows.
    #[error("the record is too long")]
    TooLong,
}

/// Fills an array from the operating system's generator.
pub fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SealError::Random)?;
    Ok(bytes)
}
