//! Sealed records: `ver u8 | alg u8 | key_gen u32 | nonce 24 | ct | tag 16`, 46 bytes more than the plaintext.
//!
//! A record opens only in its place: tenant, session, life, generation, table, column, row, seq, role and key
//! generation are bound in, so swapping rows, columns, sessions or tenants, or passing a tool result off as a user's
//! message, fails (isolation.md §2.8).

use watertight_core::ids::{SessionId, TenantId};
use zeroize::Zeroizing;

use crate::SealError;
use crate::key::{Aad, Key, NONCE, TAG};

/// Bytes a record has beyond its plaintext.
pub const OVERHEAD: usize = HEADER + NONCE + TAG;

const HEADER: usize = 6;
const VERSION: u8 = 1;
/// XChaCha20-Poly1305 with a random nonce.
const ALGORITHM: u8 = 1;

/// Where a record stands, apart from the tenant, session and key generation, which its [`DataKey`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The life of the session it was written in; 0 for what outlives a life.
    pub lifecycle: u32,
    /// The transcript it belongs to; 0 for what belongs to the whole session.
    pub generation: u32,
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// What names the row, and any plain column of it that must not be changed.
    pub row: &'a [u8],
    /// Place in the session's order; 0 where there is none.
    pub seq: u64,
    /// Who says it; 0 where nobody does.
    pub role: u8,
}

/// An opened key that seals the records of one session (or, with session zero, of its tenant).
pub struct DataKey {
    key: Key,
    tenant: TenantId,
    session: SessionId,
    key_gen: u32,
}

impl DataKey {
    pub(crate) fn new(key: Key, tenant: TenantId, session: SessionId, key_gen: u32) -> Self {
        Self { key, tenant, session, key_gen }
    }

    /// The number of this key among its session's keys.
    pub fn key_gen(&self) -> u32 {
        self.key_gen
    }

    /// Seals `plaintext` for `place`.
    pub fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut record = Vec::with_capacity(plaintext.len() + OVERHEAD);
        record.extend_from_slice(&[VERSION, ALGORITHM]);
        record.extend_from_slice(&self.key_gen.to_le_bytes());
        self.key.seal_into(self.aad(place).as_bytes(), plaintext, &mut record)?;
        Ok(record)
    }

    /// Opens a record that stands at `place`.
    pub fn open(&self, place: &Place<'_>, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if key_gen(record)? != self.key_gen {
            return Err(SealError::Record);
        }
        self.key.open(self.aad(place).as_bytes(), &record[HEADER..]).ok_or(SealError::Record)
    }

    fn aad(&self, place: &Place<'_>) -> Aad {
        Aad::new("wt/record/v1")
            .field(&[VERSION, ALGORITHM])
            .field(self.tenant.as_bytes())
            .field(self.session.as_bytes())
            .field(&place.lifecycle.to_le_bytes())
            .field(&place.generation.to_le_bytes())
            .field(place.table.as_bytes())
            .field(place.column.as_bytes())
            .field(place.row)
            .field(&place.seq.to_le_bytes())
            .field(&[place.role])
            .field(&self.key_gen.to_le_bytes())
    }
}

/// Number of the key that opens `record`. Fails on an unknown version or algorithm: there is no legacy plaintext.
pub fn key_gen(record: &[u8]) -> Result<u32, SealError> {
    match record {
        [VERSION, ALGORITHM, a, b, c, d, ..] if record.len() >= OVERHEAD => Ok(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => Err(SealError::Record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data_key(bytes: [u8; 32], tenant: u8, session: u8, key_gen: u32) -> DataKey {
        let key = Key::from_slice(&bytes).unwrap();
        DataKey::new(key, TenantId::from_bytes([tenant; 16]), SessionId::from_bytes([session; 16]), key_gen)
    }

    const PLACE: Place<'static> =
        Place { lifecycle: 1, generation: 2, table: "entries", column: "body", row: b"row", seq: 9, role: 1 };

    proptest! {
        #[test]
        fn a_record_opens_where_it_was_sealed(key: [u8; 32], text: Vec<u8>, row: Vec<u8>, seq: u64, role: u8) {
            let key = data_key(key, 1, 1, 3);
            let place = Place { row: &row, seq, role, ..PLACE };
            let record = key.seal(&place, &text).unwrap();
            prop_assert_eq!(record.len(), text.len() + OVERHEAD);
            prop_assert_eq!(key_gen(&record).unwrap(), 3);
            prop_assert_eq!(&*key.open(&place, &record).unwrap(), &text);
        }

        #[test]
        fn a_record_with_any_changed_byte_does_not_open(text: Vec<u8>, at: prop::sample::Index, flip in 1..=255u8) {
            let key = data_key([7; 32], 1, 1, 3);
            let mut record = key.seal(&PLACE, &text).unwrap();
            let at = at.index(record.len());
            record[at] ^= flip;
            prop_assert!(key.open(&PLACE, &record).is_err());
        }

        #[test]
        fn a_cut_record_does_not_open(text: Vec<u8>, at: prop::sample::Index) {
            let key = data_key([7; 32], 1, 1, 3);
            let record = key.seal(&PLACE, &text).unwrap();
            prop_assert!(key.open(&PLACE, &record[..at.index(record.len())]).is_err());
        }
    }

    #[test]
    fn a_record_in_any_other_place_does_not_open() {
        let key = data_key([7; 32], 1, 1, 3);
        let record = key.seal(&PLACE, b"hello").unwrap();
        let elsewhere = [
            Place { lifecycle: 2, ..PLACE },
            Place { generation: 1, ..PLACE },
            Place { table: "runs", ..PLACE },
            Place { column: "meta", ..PLACE },
            Place { row: b"other", ..PLACE },
            Place { row: b"", ..PLACE },
            Place { seq: 8, ..PLACE },
            Place { role: 2, ..PLACE },
            // The same bytes with the field border moved.
            Place { table: "entriesb", column: "ody", ..PLACE },
        ];
        for place in elsewhere {
            assert_eq!(key.open(&place, &record).unwrap_err(), SealError::Record, "{place:?}");
        }
        for other in [data_key([7; 32], 2, 1, 3), data_key([7; 32], 1, 2, 3), data_key([7; 32], 1, 1, 4)] {
            assert_eq!(other.open(&PLACE, &record).unwrap_err(), SealError::Record);
        }
        assert!(key.open(&PLACE, &record).is_ok());
    }

    #[test]
    fn a_record_sealed_under_another_key_number_does_not_open_when_its_header_is_rewritten() {
        let mut record = data_key([7; 32], 1, 1, 3).seal(&PLACE, b"hello").unwrap();
        record[2..6].copy_from_slice(&4_u32.to_le_bytes());
        assert!(data_key([7; 32], 1, 1, 4).open(&PLACE, &record).is_err());
    }

    #[test]
    fn an_unknown_version_or_algorithm_is_refused() {
        let key = data_key([7; 32], 1, 1, 3);
        for at in [0, 1] {
            for value in [0, 2, 255] {
                let mut record = key.seal(&PLACE, b"hello").unwrap();
                record[at] = value;
                assert_eq!(key_gen(&record), Err(SealError::Record));
            }
        }
    }
}
