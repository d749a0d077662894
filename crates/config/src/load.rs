//! From file, environment and flags to a [`Config`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use watertight_core::key::KeyPolicy;

use crate::environment::{Environment, OPENAI_API_KEY, OPENAI_MODEL};
use crate::error::{ConfigError, ConfigErrors, Source};
use crate::section::{Found, Problems, Section, check_name, unknown};
use crate::settings::{Config, Keys, ModelName, Origin, Tenant};
use crate::{agents, gateway, providers};

/// Everything a configuration is read from. No `Debug`: the environment holds secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file named explicitly, which must exist; else `config.toml` in the state directory, if it is there.
    pub file: Option<PathBuf>,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The environment of the process.
    pub env: BTreeMap<String, String>,
    /// The command line.
    pub flags: Overrides,
    /// Whether every secret must be there.
    pub secrets: SecretUse,
}

/// Settings of the command line.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `serve --listen`.
    pub listen: Option<SocketAddr>,
}

/// Whether every secret must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretUse {
    /// A variable that `${…}` names and that is not set is an error.
    #[default]
    Required,
    /// A client of the gateway: it never calls a provider, and its shell need not hold the gateway's secrets. A secret
    /// whose variable is not set is left out.
    IfPresent,
}

impl Config {
    /// Reads the configuration; on failure everything that is wrong, at once.
    pub fn load(sources: Sources) -> Result<Self, ConfigErrors> {
        let (path, must_exist) = match &sources.file {
            Some(path) => (path.clone(), true),
            None => (sources.state_dir.join("config.toml"), false),
        };
        let text = match fs::read(&path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Some(text),
                Err(_) => return Err(whole_file(&path, "is not UTF-8 text")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => None,
            Err(error) => return Err(whole_file(&path, format!("cannot be read: {error}"))),
        };
        let environment = Environment::new(&sources.env, sources.secrets == SecretUse::IfPresent);
        read(&path, text.as_deref(), environment, &sources.flags)
    }

    /// Reads a configuration from its text alone: no environment, no flags.
    pub fn from_toml(text: &str) -> Result<Self, ConfigErrors> {
        let nothing = BTreeMap::new();
        read(Path::new("config.toml"), Some(text), Environment::new(&nothing, false), &Overrides::default())
    }
}

fn read(
    path: &Path,
    text: Option<&str>,
    environment: Environment<'_>,
    flags: &Overrides,
) -> Result<Config, ConfigErrors> {
    let problems = Problems::new(path, text.unwrap_or_default());
    let (table, syntax) = DeTable::parse_recoverable(text.unwrap_or_default());
    if !syntax.is_empty() {
        // What the parser guessed past a syntax error would only draw false complaints.
        for error in &syntax {
            problems.syntax(error);
        }
        return Err(ConfigErrors(problems.into_errors()));
    }

    let mut root = Section::root(table.get_ref(), &problems);
    let gateway = gateway::read(&mut root, environment, flags, &problems);
    let keys = keys(&mut root);
    let tenants = tenants(&mut root);
    let providers = providers::read(&mut root, &tenants, environment, &problems);
    let names: Vec<&str> = providers.keys().map(String::as_str).collect();
    let agents = agents::read(&mut root, &names, &default_model(&names, environment), &problems);
    if let Some(at) = root.lonely("providers", "agents") {
        problems.report(&at, "no agent uses a provider yet: add [[agents]] with id and model = \"<provider>/<model>\"");
    }
    root.finish();

    match agents {
        Some((agents, roster)) if problems.is_empty() => {
            let origin = match text {
                Some(_) => Origin::File(path.to_owned()),
                None if environment.get(OPENAI_API_KEY).is_some() => Origin::OpenAiVariables,
                None => Origin::BuiltIn,
            };
            Ok(Config { gateway, agents, providers, keys, tenants, origin, roster })
        }
        _ => Err(ConfigErrors(problems.into_errors())),
    }
}

/// The model of an agent that names none.
fn default_model(providers: &[&str], environment: Environment<'_>) -> ModelName {
    if environment.get(OPENAI_API_KEY).is_some() && providers.contains(&Config::OPENAI_PROVIDER) {
        let model = environment.get(OPENAI_MODEL).unwrap_or(Config::DEFAULT_OPENAI_MODEL);
        ModelName { provider: Config::OPENAI_PROVIDER.to_owned(), model: model.to_owned() }
    } else {
        ModelName { provider: Config::ECHO_PROVIDER.to_owned(), model: "echo".to_owned() }
    }
}

const KEY_SOURCES: [&str; 3] = ["file", "credential", "command"];

fn keys(root: &mut Section<'_, '_>) -> Keys {
    let Some(mut section) = root.section("keys") else { return Keys::default() };
    let source = section.string("source").map(|Found { value, at }| {
        let well_formed =
            value.split_once(':').is_some_and(|(kind, rest)| KEY_SOURCES.contains(&kind) && !rest.trim().is_empty());
        if !well_formed {
            section
                .problems
                .report(&at, "must be \"file:<path>\", \"credential:<name>\" or \"command:<command line>\"");
        }
        value
    });
    let epoch_hours = section.number("epoch_hours", Keys::MAX_EPOCH_HOURS);
    let checkpoint_file = section.string("checkpoint_file").and_then(|Found { value, at }| {
        if value.trim().is_empty() {
            section.problems.report(&at, "must name a file");
            return None;
        }
        Some(PathBuf::from(value))
    });
    section.finish();
    let default = Keys::default();
    Keys { source, epoch_hours: epoch_hours.unwrap_or(default.epoch_hours), checkpoint_file }
}

fn tenants(root: &mut Section<'_, '_>) -> BTreeMap<String, Tenant> {
    let mut tenants = BTreeMap::from([(Config::DEFAULT_TENANT.to_owned(), Tenant::default())]);
    for (name, mut section) in root.named("tenants") {
        let problems = section.problems;
        check_name(&name, &section.at, problems);
        let key_policy = section.string("key_policy").map(|Found { value, at }| {
            value.parse().unwrap_or_else(|_| {
                problems.report(&at, unknown("policy", &value, ["strict", "openclaw"].into_iter()));
                KeyPolicy::default()
            })
        });
        section.finish();
        tenants.insert(name, Tenant { key_policy: key_policy.unwrap_or_default() });
    }
    tenants
}

fn whole_file(path: &Path, message: impl Into<String>) -> ConfigErrors {
    ConfigErrors(vec![ConfigError {
        source: Source::File(path.to_owned()),
        line: None,
        key: String::new(),
        message: message.into(),
    }])
}
