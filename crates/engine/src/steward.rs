//! Housekeeping: the state directory's keys and store, tenants, and the runs that a former process left open.
//!
//! The only module that holds core's `Steward`; it yields no plaintext of any session.

pub(crate) mod checkpoint;
pub mod rotation;
pub mod verification;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use watertight_config::Config;
use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_core::principal::Principal;
use watertight_core::run::RunRecord;
use watertight_core::scope::readmit;
use watertight_core::{SessionScope, Steward};
use watertight_seal::master::{BadSource, MasterKeySource};
use watertight_seal::token::{Token, TokenKind};
use watertight_store::model::{NewTenant, OpenRun, TenantRow};
use watertight_store::sqlite::SqliteStore;
use watertight_store::{Store, StoreError};

use crate::state_dir::OpenError;

/// Name of the tenant a fresh install has.
pub(crate) const DEFAULT_TENANT: &str = "default";

/// What a start finds or makes.
pub(crate) struct Opened {
    pub(crate) store: Arc<SqliteStore>,
    /// Configured tenants that exist, `default` first.
    pub(crate) tenants: Vec<TenantRow>,
    /// Sessions in which a former process left runs open, the longest waiting first.
    pub(crate) unfinished: Vec<(TenantId, SessionId)>,
    pub(crate) housekeeping: Housekeeping,
}

/// The right to keep house.
pub(crate) struct Housekeeping {
    steward: Steward,
    store: Arc<SqliteStore>,
}

/// A run that a former process left open, under what its principal may do now.
pub(crate) struct Readmitted {
    pub(crate) record: RunRecord,
    pub(crate) principal: Principal,
    /// The principal's name.
    pub(crate) name: String,
    pub(crate) scope: SessionScope,
}

/// Opens keys and store in `dir`, and makes what a first start needs.
pub(crate) async fn open(config: &Config, dir: &Path, now: UnixMillis) -> Result<Opened, OpenError> {
    let store = rotation::open_store(config, dir)?;
    let housekeeping = Housekeeping { steward: Steward::from_opened_keystore(), store: Arc::new(store) };
    let Housekeeping { steward, store } = &housekeeping;
    let failed = |error: StoreError| OpenError::Store(error.to_string());

    let mut tenants = Vec::new();
    let found = store.find_tenant(steward, DEFAULT_TENANT).await.map_err(failed)?;
    tenants.push(match found {
        Some(tenant) => tenant,
        None => first_start(store, steward, dir, now).await?,
    });
    for name in config.tenants.keys().filter(|name| *name != DEFAULT_TENANT) {
        tenants.extend(store.find_tenant(steward, name).await.map_err(failed)?);
    }
    let unfinished = store.unfinished(steward).await.map_err(failed)?;
    Ok(Opened { store: store.clone(), tenants, unfinished, housekeeping })
}

impl Housekeeping {
    /// The open runs of a session, in the order of their inputs, each under what its principal may do now. Those that
    /// nobody may or can take up any more are ended as interrupted.
    pub(crate) async fn take_up(
        &self,
        tenant: TenantId,
        session: SessionId,
        now: UnixMillis,
    ) -> Result<Vec<Readmitted>, StoreError> {
        let open = self.store.open_runs(&self.steward, tenant, session).await?;
        for damaged in &open.damaged {
            tracing::error!(%session, "a run that was left open cannot be read; it ends as interrupted");
            self.store.interrupt_damaged_run(&self.steward, tenant, damaged, now).await?;
        }
        let mut readmitted = Vec::new();
        for OpenRun { run, session, principal, auth_epoch, grants } in open.runs {
            match readmit(&self.steward, &run, &session, principal, &grants, auth_epoch, now) {
                Ok(scope) => {
                    let name = grants.name().unwrap_or_default().to_owned();
                    readmitted.push(Readmitted { record: run, principal, name, scope });
                }
                Err(_) => {
                    tracing::warn!(session = %session.id(), "a run that was left open may not go on; it ends as interrupted");
                    self.interrupt(tenant, &run, now).await?;
                }
            }
        }
        Ok(readmitted)
    }

    /// Ends a run that was left open as interrupted.
    pub(crate) async fn interrupt(&self, tenant: TenantId, run: &RunRecord, now: UnixMillis) -> Result<(), StoreError> {
        self.store.interrupt_run(&self.steward, tenant, run, now).await
    }

    /// The names of all tenants, oldest first.
    pub(crate) async fn tenant_names(&self) -> Result<Vec<String>, StoreError> {
        self.store.tenant_names(&self.steward).await
    }

    /// Makes a tenant; `None` when there is one of this name.
    pub(crate) async fn create_tenant(&self, name: &str, now: UnixMillis) -> Result<Option<Token>, StoreError> {
        if self.store.find_tenant(&self.steward, name).await?.is_some() {
            return Ok(None);
        }
        let token = Token::generate(TokenKind::Operator).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        self.store.ensure_tenant(&self.steward, NewTenant { name, operator_token: &token, now }).await?;
        Ok(Some(token))
    }
}

/// Where the operator's generated token lies.
pub(crate) fn operator_token_file(dir: &Path) -> PathBuf {
    dir.join("operator.token")
}

fn master_key_source(config: &Config, dir: &Path) -> Result<MasterKeySource, OpenError> {
    match &config.keys.source {
        Some(text) => text.parse().map_err(|error: BadSource| OpenError::Store(error.to_string())),
        None => Ok(MasterKeySource::File(dir.join("master.key"))),
    }
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
