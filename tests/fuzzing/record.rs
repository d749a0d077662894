//! Sealed records. The input is tried as a record, and is what one is sealed from and changed by.

use std::sync::LazyLock;

use watertight_core::ids::{SessionId, TenantId};
use watertight_seal::keyring::Root;
use watertight_seal::master::MasterKey;
use watertight_seal::record::{DataKey, OVERHEAD, Place, key_gen};

/// Of one session: its key, the key after it; and another session's.
static KEYS: LazyLock<[DataKey; 3]> = LazyLock::new(|| {
    let root = Root::new(&MasterKey::from_slice(&[7; 32]).expect("a master key"));
    let (tenant, _) = root.create_tenant(TenantId::from_bytes([1; 16])).expect("a tenant");
    let key =
        |session, key_gen| tenant.create_data_key(SessionId::from_bytes([session; 16]), key_gen).expect("a data key").0;
    [key(1, 1), key(1, 2), key(2, 1)]
});

pub(crate) fn check(data: &[u8]) {
    let [own, next, foreign] = &*KEYS;
    let Some(([seq, role, flip, rest @ ..], text)) = data.split_first_chunk::<8>() else { return };
    let at = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
    let row = &rest[2..];
    let place =
        Place { lifecycle: 1, generation: 2, table: "entries", column: "body", row, seq: u64::from(*seq), role: *role };
    assert!(own.open(&place, data).is_err(), "made-up bytes open");

    let record = own.seal(&place, text).expect("a record");
    assert_eq!(record.len(), text.len() + OVERHEAD);
    assert_eq!(key_gen(&record), Ok(own.key_gen()));
    assert_eq!(own.open(&place, &record).as_deref().map(Vec::as_slice), Ok(text));

    let mut changed = record.clone();
    let at = at % changed.len();
    changed[at] ^= (*flip).max(1);
    assert!(own.open(&place, &changed).is_err(), "opens with byte {at} changed");
    assert!(own.open(&place, &record[..at]).is_err(), "opens when cut at {at}");
    assert!(own.open(&place, &[&record[..], &[*flip]].concat()).is_err(), "opens with a byte more");

    let elsewhere = [
        Place { lifecycle: 2, ..place },
        Place { generation: 1, ..place },
        Place { table: "runs", ..place },
        Place { column: "bod", ..place },
        Place { row: &row[1..], ..place },
        Place { seq: place.seq + 1, ..place },
        Place { role: place.role ^ (*flip).max(1), ..place },
    ];
    for other in &elsewhere {
        assert!(own.open(other, &record).is_err(), "opens in {other:?}");
    }
    // Under the number of another key it does not open with that key either.
    let renumbered = |key: &DataKey| [&record[..2], &key.key_gen().to_le_bytes(), &record[6..]].concat();
    for key in [next, foreign] {
        assert!(key.open(&place, &record).is_err() && key.open(&place, &renumbered(key)).is_err(), "a foreign key");
    }
}
