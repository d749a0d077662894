//! Sessions and tenants that are gone for good (isolation.md §2.8): first their keys, synced, then their rows.
//!
//! Between the two a crash leaves rows that nothing opens; the keystore knows of them, and the next start removes them.

use rusqlite::types::ToSql;
use rusqlite::{Connection, params_from_iter};
use watertight_core::Steward;
use watertight_core::ids::{SessionId, TenantId};

use super::fault::Fault;
use super::keystore::Shredded;
use super::rotation::blocking;
use super::{SqliteStore, rows};
use crate::StoreError;

/// Rows deleted in one operation of the writer.
const BATCH: u32 = 500;

impl SqliteStore {
    /// Destroys a session: its data keys of every generation, then its rows. False when there is no such session.
    ///
    /// Nothing of it opens from here on; what was wrapped is in no copy of the keystore made after the tenant's next
    /// turn. Whoever works in the session must have stopped before.
    pub async fn shred_session(
        &self,
        _steward: &Steward,
        tenant: TenantId,
        session: SessionId,
    ) -> Result<bool, StoreError> {
        let what = Shredded { tenant, session: Some(session) };
        let there = self.read(move |conn, _| Ok(is_there(conn, &what)?)).await?;
        if there {
            self.shred(what).await?;
        }
        Ok(there)
    }

    /// Destroys a tenant with everything in it: its keys, then its rows. False when it has no keys.
    pub async fn shred_tenant(&self, _steward: &Steward, tenant: TenantId) -> Result<bool, StoreError> {
        let vault = self.vault.clone();
        let there = blocking(move || Ok(vault.keystore().tenant(tenant)?.is_some())).await?;
        if there {
            self.shred(Shredded { tenant, session: None }).await?;
        }
        Ok(there)
    }

    /// Removes the rows of what was shredded: a crash came between, or they came back with a copy of the store. How many
    /// sessions and tenants that were.
    pub async fn sweep_shredded(&self, _steward: &Steward) -> Result<usize, StoreError> {
        let left = self
            .read(|conn, vault| {
                let mut left = Vec::new();
                for what in vault.keystore().shredded()? {
                    if is_there(conn, &what)? {
                        left.push(what);
                    }
                }
                Ok(left)
            })
            .await?;
        for what in &left {
            self.remove(*what).await?;
        }
        Ok(left.len())
    }

    async fn shred(&self, what: Shredded) -> Result<(), StoreError> {
        let vault = self.vault.clone();
        blocking(move || vault.shred(what)).await?;
        self.remove(what).await
    }

    /// Removes the rows, a batch at a time. The row that says that there is such a session or tenant goes last.
    async fn remove(&self, what: Shredded) -> Result<(), StoreError> {
        self.known.forget(|record| {
            record.tenant() == what.tenant && what.session.is_none_or(|session| session == record.id())
        });
        let tables = self.writer.submit(move |conn| Ok(tables(conn, &what)?)).await?;
        for (table, statement) in tables {
            loop {
                let statement = statement.clone();
                let deleted = if table == "sessions" {
                    let heads = self.heads.clone();
                    let tell = move |ended: &Vec<Ended>| {
                        for (session, seq, chain) in ended {
                            heads.gone((what.tenant, *session), (*seq, *chain));
                        }
                    };
                    self.writer.submit_then(move |conn| delete_sessions(conn, &statement, &what), tell).await?.len()
                } else {
                    self.writer.submit(move |conn| delete(conn, &statement, &what)).await?
                };
                if deleted < BATCH as usize {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn is_there(conn: &Connection, what: &Shredded) -> rusqlite::Result<bool> {
    match &what.session {
        Some(session) => conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant = ?1 AND session = ?2)")?
            .query_row((what.tenant.as_bytes(), session.as_bytes()), |row| row.get(0)),
        None => conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM tenants WHERE tenant = ?1)")?
            .query_row([what.tenant.as_bytes()], |row| row.get(0)),
    }
}

/// A session and where it ended.
type Ended = (SessionId, u64, [u8; 32]);

fn delete(conn: &Connection, statement: &str, what: &Shredded) -> Result<usize, Fault> {
    Ok(conn.prepare_cached(statement)?.execute(params_from_iter(values(what)))?)
}

fn delete_sessions(conn: &Connection, statement: &str, what: &Shredded) -> Result<Vec<Ended>, Fault> {
    let mut statement = conn.prepare_cached(&format!("{statement} RETURNING session, head_seq, head_chain"))?;
    let ended = statement.query_map(params_from_iter(values(what)), |row| {
        Ok((SessionId::from_bytes(row.get(0)?), rows::unsigned(row, 1)?, row.get(2)?))
    })?;
    Ok(ended.collect::<Result<_, _>>()?)
}

fn values(what: &Shredded) -> Vec<&dyn ToSql> {
    let mut values: Vec<&dyn ToSql> = vec![what.tenant.as_bytes()];
    if let Some(session) = &what.session {
        values.push(session.as_bytes());
    }
    values
}

/// A statement for each table that holds rows of it, by name, which deletes a batch of them; who refers to others comes first.
/// Found by the references between tables, so that a table to come is not forgotten.
fn tables(conn: &Connection, what: &Shredded) -> rusqlite::Result<Vec<(String, String)>> {
    let root = if what.session.is_some() { "sessions" } else { "tenants" };
    let mut references = conn.prepare(
        "SELECT m.name, f.\"table\" FROM sqlite_schema m JOIN pragma_foreign_key_list(m.name) f
         WHERE m.type = 'table' ORDER BY m.name",
    )?;
    let references: Vec<(String, String)> =
        references.query_map([], |row| row.try_into())?.collect::<Result<_, _>>()?;
    let mut ordered = Vec::new();
    children_first(root, &references, &mut ordered);
    if what.session.is_none() {
        // Refers to nothing; the triggers on the sessions keep it.
        ordered.insert(ordered.len() - 1, "session_counts".to_owned());
    }
    let mut statements = Vec::new();
    for table in ordered {
        let mut columns =
            conn.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY pk").and_then(|mut columns| {
                columns
                    .query_map([&table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)))?
                    .collect::<Result<Vec<_>, _>>()
            })?;
        let whose = match what.session {
            Some(_) => "tenant = ?1 AND session = ?2",
            None => "tenant = ?1",
        };
        if !columns.iter().any(|(name, _)| name == "tenant") {
            continue;
        }
        columns.retain(|(_, place)| *place > 0);
        let names: Vec<String> = columns.into_iter().map(|(name, _)| name).collect();
        let key = if names.is_empty() { "rowid".to_owned() } else { names.join(", ") };
        let from = format!("SELECT {key} FROM {table} WHERE {whose} LIMIT {BATCH}");
        let statement = format!("DELETE FROM {table} WHERE ({key}) IN ({from})");
        statements.push((table, statement));
    }
    Ok(statements)
}

fn children_first(table: &str, references: &[(String, String)], ordered: &mut Vec<String>) {
    if ordered.iter().any(|known| known == table) {
        return;
    }
    for (child, parent) in references {
        if parent == table && child != table {
            children_first(child, references, ordered);
        }
    }
    if !ordered.iter().any(|known| known == table) {
        ordered.push(table.to_owned());
    }
}
