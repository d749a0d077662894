//! Schema migrations: numbered SQL files compiled in, applied once each, their checksums remembered.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::OpenError;

/// One step of a schema.
pub(super) struct Migration {
    /// 1, 2, 3 …
    version: u32,
    sql: &'static str,
}

/// The steps of `store.db`.
pub(super) const STORE: &[Migration] = &[
    Migration { version: 1, sql: include_str!("migrations/store_0001_sessions.sql") },
    Migration { version: 2, sql: include_str!("migrations/store_0002_devices.sql") },
];

/// The steps of `keys.db`.
pub(super) const KEYS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("migrations/keys_0001_keystore.sql") },
    Migration { version: 2, sql: include_str!("migrations/keys_0002_rotation.sql") },
];

/// Version of the schema the database is at; 0 for an empty one. Refuses a newer schema and a changed step, writing
/// nothing.
pub(super) fn check(conn: &Connection, steps: &[Migration]) -> Result<u32, OpenError> {
    let known = conn
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'", [], |_| Ok(()))
        .optional()?
        .is_some();
    if !known {
        return Ok(0);
    }
    let mut statement = conn.prepare("SELECT version, checksum FROM schema_migrations ORDER BY version")?;
    let applied = statement.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, [u8; 32]>(1)?)))?;
    let mut version = 0;
    for row in applied {
        let (found, checksum) = row?;
        let Some(step) = steps.iter().find(|step| step.version == found) else {
            let known = steps.len() as u32;
            return Err(OpenError::NewerSchema { found, known });
        };
        if step.checksum() != checksum {
            return Err(OpenError::ChangedSchema { version: found });
        }
        version = found;
    }
    Ok(version)
}

/// Refuses a database that lacks a step: who only reads cannot apply it.
pub(super) fn demand_latest(conn: &Connection, steps: &[Migration], path: &Path) -> Result<(), OpenError> {
    let latest = steps.last().map_or(0, |step| step.version);
    if check(conn, steps)? == latest { Ok(()) } else { Err(OpenError::Unfinished { path: path.to_owned() }) }
}

/// Applies the steps that are missing and then `finish`, all in one transaction; returns the version reached.
pub(super) fn apply(
    conn: &mut Connection,
    steps: &[Migration],
    finish: impl FnOnce(&Connection) -> Result<(), OpenError>,
) -> Result<u32, OpenError> {
    let from = check(conn, steps)?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, checksum BLOB NOT NULL) STRICT",
    )?;
    for step in steps.iter().filter(|step| step.version > from) {
        transaction.execute_batch(step.sql)?;
        transaction.execute(
            "INSERT INTO schema_migrations (version, checksum) VALUES (?1, ?2)",
            (step.version, step.checksum()),
        )?;
    }
    finish(&transaction)?;
    transaction.commit()?;
    Ok(steps.last().map_or(0, |step| step.version))
}

impl Migration {
    fn checksum(&self) -> [u8; 32] {
        *blake3::hash(self.sql.as_bytes()).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = Migration { version: 1, sql: "CREATE TABLE a (x) " };
    const TWO: Migration = Migration { version: 2, sql: "ALTER TABLE a ADD COLUMN y" };

    fn applied(conn: &mut Connection, steps: &[Migration]) -> Result<u32, OpenError> {
        apply(conn, steps, |_| Ok(()))
    }

    #[test]
    fn missing_steps_are_applied_once_and_in_order() {
        let mut conn = Connection::open_in_memory().unwrap();
        assert_eq!(check(&conn, &[ONE]).unwrap(), 0);
        assert_eq!(applied(&mut conn, &[ONE]).unwrap(), 1);
        assert_eq!(applied(&mut conn, &[ONE, TWO]).unwrap(), 2);
        assert_eq!(applied(&mut conn, &[ONE, TWO]).unwrap(), 2);
        conn.execute("INSERT INTO a (x, y) VALUES (1, 2)", []).unwrap();
    }

    #[test]
    fn a_newer_schema_and_a_changed_step_are_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        applied(&mut conn, &[ONE, TWO]).unwrap();
        assert!(matches!(check(&conn, &[ONE]), Err(OpenError::NewerSchema { found: 2, known: 1 })));
        let changed = Migration { version: 1, sql: "CREATE TABLE a (x, z)" };
        assert!(matches!(check(&conn, &[changed, TWO]), Err(OpenError::ChangedSchema { version: 1 })));
    }

    #[test]
    fn a_failing_step_leaves_nothing_behind() {
        let mut conn = Connection::open_in_memory().unwrap();
        let broken = Migration { version: 2, sql: "CREATE TABLE b (x); NOT SQL" };
        assert!(applied(&mut conn, &[ONE, broken]).is_err());
        assert_eq!(check(&conn, &[ONE, TWO]).unwrap(), 0);
        assert!(conn.execute("INSERT INTO a VALUES (1)", []).is_err());
    }

    #[test]
    fn the_shipped_schemas_apply() {
        for steps in [STORE, KEYS] {
            assert_eq!(applied(&mut Connection::open_in_memory().unwrap(), steps).unwrap(), steps.len() as u32);
        }
    }
}
