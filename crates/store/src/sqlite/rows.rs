//! Row decoding: the only place where columns become core's records. Every sealed column is opened in its place and
//! every head and chain link is checked here, so nothing unverified leaves the store.
//!
//! * [`session`]: sessions and generations. [`entry`]: transcript entries. [`run`]: runs.
//! * [`authority`]: tenants, credentials and grants.
//!
//! Beside each decoder stand the places its columns are sealed for, so that writing and reading agree.

mod authority;
mod entry;
mod run;
mod session;

use std::sync::Arc;

use rusqlite::Row;
use serde::{Deserialize, Serialize};
use watertight_core::ids::{SessionId, TenantId};
use watertight_seal::record::{self, DataKey, Place};

pub(super) use self::authority::{
    CredentialColumns, PrincipalColumns, PrincipalFound, TenantColumns, credential, credential_kind_to_stored, grant,
    grant_place, grant_row, grants, kind_to_stored, label_place, name_place, principal, tenant,
};
pub(super) use self::entry::{EntryRaw, entry_place, entry_row, role};
pub(super) use self::run::{RunRaw, RunRequest, how, outcome_place, request_place, run_row};
pub(super) use self::session::{
    Ending, Session, SessionRaw, closing_mac, ending, endings, generation_place, generations, key_place, key_row,
    meta_place, session_record,
};
use super::vault::Vault;
use crate::StoreError;

/// Whose records are being opened: finds the data key by the number in each record's header.
pub(super) struct RecordSite<'a> {
    pub(super) vault: &'a Vault,
    pub(super) tenant: TenantId,
    pub(super) session: SessionId,
}

impl RecordSite<'_> {
    fn json<T: for<'de> Deserialize<'de>>(&self, place: &Place<'_>, sealed: &[u8]) -> Result<T, StoreError> {
        open_json(&*self.key(sealed)?, place, sealed)
    }

    fn text(&self, place: &Place<'_>, sealed: &[u8]) -> Result<String, StoreError> {
        let plain = self.key(sealed)?.open(place, sealed)?;
        String::from_utf8(plain.to_vec()).map_err(|_| StoreError::Integrity("text"))
    }

    fn key(&self, sealed: &[u8]) -> Result<Arc<DataKey>, StoreError> {
        self.vault.data_key(self.tenant, self.session, record::key_gen(sealed)?)
    }
}

/// Opens a value that was sealed as JSON.
pub(super) fn open_json<T: for<'de> Deserialize<'de>>(
    key: &DataKey,
    place: &Place<'_>,
    sealed: &[u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(&key.open(place, sealed)?).map_err(|_| StoreError::Integrity("stored form"))
}

/// Seals a value as JSON.
pub(super) fn seal_json<T: Serialize>(key: &DataKey, place: &Place<'_>, value: &T) -> Result<Vec<u8>, StoreError> {
    let plain = serde_json::to_vec(value).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    Ok(key.seal(place, &plain)?)
}

/// A count or sequence number; SQLite's integers are signed.
pub(super) fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(at)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, value))
}
