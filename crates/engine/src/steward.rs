//! Housekeeping at start: the state directory's keys, the store, the tenant `default` and its operator.
//!
//! The only module that holds core's `Steward`; it yields no plaintext of any session.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use watertight_config::Config;
use watertight_core::Steward;
use watertight_core::ids::UnixMillis;
use watertight_seal::master::{MasterKey, MasterKeySource};
use watertight_seal::token::{Token, TokenKind};
use watertight_store::Store;
use watertight_store::model::{NewTenant, TenantRow};
use watertight_store::sqlite::SqliteStore;

use crate::state_dir::OpenError;

/// Name of the tenant a fresh install has.
pub(crate) const DEFAULT_TENANT: &str = "default";

/// What a start finds or makes.
pub(crate) struct Opened {
    pub(crate) store: SqliteStore,
    /// Configured tenants that exist, `default` first.
    pub(crate) tenants: Vec<TenantRow>,
    /// Runs a former process left open, now interrupted.
    pub(crate) interrupted: u64,
}

/// Opens keys and store in `dir`, makes what a first start needs, and ends runs that a former process left open.
pub(crate) async fn open(config: &Config, dir: &Path, now: UnixMillis) -> Result<Opened, OpenError> {
    let master = master_key(config, dir)?;
    let store = SqliteStore::open(dir, &master).map_err(|error| OpenError::Store(error.to_string()))?;
    drop(master);
    let steward = Steward::from_opened_keystore();
    let failed = |error: watertight_store::StoreError| OpenError::Store(error.to_string());

    let mut tenants = Vec::new();
    let found = store.find_tenant(&steward, DEFAULT_TENANT).await.map_err(failed)?;
    tenants.push(match found {
        Some(tenant) => tenant,
        None => first_start(&store, &steward, dir, now).await?,
    });
    for name in config.tenants.keys().filter(|name| *name != DEFAULT_TENANT) {
        tenants.extend(store.find_tenant(&steward, name).await.map_err(failed)?);
    }
    let interrupted = store.interrupt_open_runs(&steward, now).await.map_err(failed)?;
    Ok(Opened { store, tenants, interrupted })
}

/// Where the operator's generated token lies.
pub(crate) fn operator_token_file(dir: &Path) -> PathBuf {
    dir.join("operator.token")
}

fn master_key(config: &Config, dir: &Path) -> Result<MasterKey, OpenError> {
    let source = match &config.keys.source {
        Some(text) => text.parse::<MasterKeySource>().map_err(|error| OpenError::Store(error.to_string()))?,
        None => MasterKeySource::File(dir.join("master.key")),
    };
    // A missing key beside a store is never replaced: what the store holds would be lost for good.
    source.load_or_create(!SqliteStore::exists(dir)).map_err(|error| OpenError::Store(error.to_string()))
}

/// Makes the tenant `default` and its operator's token. The file comes first: a crash in between leaves a token that
/// no store knows, and the next start, which finds no tenant, replaces it.
async fn first_start(
    store: &SqliteStore,
    steward: &Steward,
    dir: &Path,
    now: UnixMillis,
) -> Result<TenantRow, OpenError> {
    let token = Token::generate(TokenKind::Operator).map_err(|error| OpenError::Store(error.to_string()))?;
    let path = operator_token_file(dir);
    write_private(&path, token.expose().as_bytes())
        .map_err(|error| OpenError::Directory { path: path.clone(), reason: error.to_string() })?;
    store
        .ensure_tenant(steward, NewTenant { name: DEFAULT_TENANT, operator_token: &token, now })
        .await
        .map_err(|error| OpenError::Store(error.to_string()))
}

/// Writes a file that only its owner may read, whole and synced or not at all.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(parent)?.sync_all()
}
