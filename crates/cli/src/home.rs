//! Where this installation lives: its state directory, its configuration, the operator's credential.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use watertight_config::{Auth, Config, Overrides, Secret, SecretUse, Sources};

use crate::args::Global;

/// The state directory and what else a configuration is read from.
pub(crate) struct Home {
    state_dir: PathBuf,
    config: Option<PathBuf>,
    env: BTreeMap<String, String>,
}

impl Home {
    /// From the global flags and the environment of the process.
    pub(crate) fn find(global: &Global) -> Result<Self> {
        // Variables that are not UTF-8 cannot be ours.
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
            .collect();
        let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let state_dir = match given(&global.state_dir) {
            Some(dir) => dir,
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .context("There is no home directory: name a state directory with --state-dir.")?
                .join(".watertight"),
        };
        // Absolute, so that messages and the first command it prints hold wherever they are used.
        let state_dir = std::path::absolute(&state_dir).unwrap_or(state_dir);
        Ok(Self { state_dir, config: given(&global.config), env })
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The configuration file named on the command line.
    pub(crate) fn config_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The configuration of a process that runs turns.
    pub(crate) fn config(&self, flags: Overrides) -> Result<Config> {
        self.load(flags, SecretUse::Required)
    }

    /// The configuration as far as a client of the gateway needs it.
    pub(crate) fn client_config(&self) -> Result<Config> {
        self.load(Overrides::default(), SecretUse::IfPresent)
    }

    fn load(&self, flags: Overrides, secrets: SecretUse) -> Result<Config> {
        let sources = Sources {
            file: self.config.clone(),
            state_dir: self.state_dir.clone(),
            env: self.env.clone(),
            flags,
            secrets,
        };
        Config::load(sources).map_err(|errors| anyhow::anyhow!("The configuration is wrong:\n{errors}"))
    }

    /// What proves the operator to the store: the configured secret, else the token that was generated; none in mode
    /// `none` or before the first start.
    pub(crate) fn operator_secret(&self, config: &Config) -> Option<Secret> {
        match &config.gateway.auth {
            Auth::Token(secret) | Auth::Password(secret) => Some(Secret::new(secret.expose())),
            Auth::GeneratedToken => generated_token(&self.state_dir),
            Auth::None => None,
        }
    }
}

/// The token that the first start generated in this state directory.
pub(crate) fn generated_token(state_dir: &Path) -> Option<Secret> {
    let text = fs::read_to_string(state_dir.join("operator.token")).ok()?;
    Some(Secret::new(text.trim())).filter(|token| !token.expose().is_empty())
}
