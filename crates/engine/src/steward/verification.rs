//! Proving what a state directory holds, without starting an engine: it may be in use meanwhile.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use watertight_config::Config;
use watertight_core::Steward;
use watertight_core::key::{CanonicalKey, Home, KeyError, KeyPolicy, KeyRules};
use watertight_core::receipt::Receipt;
use watertight_store::sqlite::Verifier;
use watertight_store::verification::{Selection, VerifyError};

pub use watertight_store::keys::{EpochStatus, KeyReport, TenantKeyStatus};
pub use watertight_store::verification::{Problem, Progress, Report};

use super::{DEFAULT_TENANT, rotation};
use crate::state_dir::OpenError;

/// What to verify. Without sessions and receipts: everything.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Only this tenant; sessions without one are those of `default`.
    pub tenant: Option<String>,
    /// These sessions, by keys as an operator writes them.
    pub sessions: Vec<String>,
    /// These receipts, with the whole of their sessions.
    pub receipts: Vec<Receipt>,
    /// The checkpoints in this file.
    pub against: Option<PathBuf>,
}

/// Why a verification came to no result. Texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum VerificationError {
    /// A session key does not read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The keys or the store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be verified.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// Verifies what the state directory holds and says how far it has come after each session. Writes nothing. Blocks.
pub fn verify(
    config: &Config,
    dir: &Path,
    request: &Request,
    progress: impl FnMut(Progress),
) -> Result<Report, VerificationError> {
    let tenant = request.tenant.as_deref().unwrap_or(DEFAULT_TENANT);
    let rules = rules(config, tenant);
    let sessions = request.sessions.iter().map(|text| Ok((tenant.to_owned(), key(&rules, text)?)));
    let selection = Selection {
        tenant: request.tenant.clone(),
        sessions: sessions.collect::<Result<_, KeyError>>()?,
        receipts: request.receipts.clone(),
    };
    let verifier = open(config, dir)?;
    let steward = Steward::from_opened_keystore();
    let mut report = verifier.verify(&steward, &selection, progress)?;
    if let Some(path) = &request.against {
        let name = path.display().to_string();
        let file =
            File::open(path).map_err(|error| VerifyError::Checkpoints(format!("{name} cannot be read: {error}")))?;
        verifier.compare(&steward, &name, BufReader::new(file), &mut report)?;
    }
    Ok(report)
}

/// Whether `dir` holds a store with its keystore.
pub fn find(dir: &Path) -> Result<(), OpenError> {
    Verifier::find(dir).map_err(|error| OpenError::Store(error.to_string()))
}

/// Every tenant's keys in numbers. Writes nothing. Blocks.
pub fn key_status(config: &Config, dir: &Path) -> Result<Vec<TenantKeyStatus>, VerificationError> {
    let status = open(config, dir)?.key_status(&Steward::from_opened_keystore());
    Ok(status.map_err(VerifyError::from)?)
}

/// Opens every wrapped key of one tenant, or of all, and says how far it has come. Writes nothing. Blocks.
pub fn verify_keys(
    config: &Config,
    dir: &Path,
    tenant: Option<&str>,
    progress: impl FnMut(Progress),
) -> Result<KeyReport, VerificationError> {
    Ok(open(config, dir)?.verify_keys(&Steward::from_opened_keystore(), tenant, progress)?)
}

fn open(config: &Config, dir: &Path) -> Result<Verifier, OpenError> {
    let failed = |error: &dyn std::error::Error| OpenError::Store(error.to_string());
    // Else a directory that holds nothing would be said to lack its key.
    Verifier::find(dir).map_err(|error| failed(&error))?;
    let source = super::master_key_source(config, dir)?;
    let master = source.load().map_err(|error| failed(&error))?;
    match (Verifier::open(dir, &master), rotation::successor(&source)) {
        // The master key is just being replaced.
        (Err(watertight_store::OpenError::WrongMasterKey), Some(successor)) => Verifier::open(dir, &successor),
        (opened, _) => opened,
    }
    .map_err(|error| failed(&error))
}

fn rules(config: &Config, tenant: &str) -> KeyRules {
    let policy = config.tenants.get(tenant).map_or(KeyPolicy::Strict, |tenant| tenant.key_policy);
    KeyRules::new(policy, config.roster())
}

/// The key an operator's text names. A session outlives its agent's place in the configuration: the key of an agent that
/// is not there any more is taken as it is written.
fn key(rules: &KeyRules, text: &str) -> Result<CanonicalKey, KeyError> {
    match rules.resolve(&Home::Operator, text, None) {
        Err(KeyError::UnknownAgent { .. }) => Ok(CanonicalKey::from_stored(text)),
        resolved => resolved,
    }
}
