//! What a configuration says, after every check.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use url::Url;
use watertight_core::key::{AgentId, KeyPolicy, Roster};

use crate::secret::Secret;

/// The whole configuration.
pub struct Config {
    /// Where the gateway listens and whom it believes.
    pub gateway: Gateway,
    /// The agents in the order of the file; never empty.
    pub agents: Vec<Agent>,
    /// The providers by name. Always holds `echo`.
    pub providers: BTreeMap<String, Provider>,
    /// Where the master key comes from.
    pub keys: Keys,
    /// The tenants by name. Always holds `default`.
    pub tenants: BTreeMap<String, Tenant>,
    /// What it was read from.
    pub origin: Origin,
    pub(crate) roster: Roster,
}

impl Config {
    /// The name of the tenant every install has.
    pub const DEFAULT_TENANT: &'static str = "default";
    /// The provider that is always there.
    pub const ECHO_PROVIDER: &'static str = "echo";
    /// The provider that `OPENAI_API_KEY` brings.
    pub const OPENAI_PROVIDER: &'static str = "openai";
    /// The model behind `OPENAI_API_KEY` where `OPENAI_MODEL` names none.
    pub const DEFAULT_OPENAI_MODEL: &'static str = "gpt-5-mini";
    /// Base address of an `openai` provider that names none.
    pub const DEFAULT_OPENAI_URL: &'static str = "https://api.openai.com/v1";

    /// The agents a key may name.
    pub fn roster(&self) -> Roster {
        self.roster.clone()
    }

    /// The agent of a turn that names none (decision 10).
    pub fn default_agent(&self) -> &Agent {
        self.agents.iter().find(|agent| agent.default).unwrap_or(&self.agents[0])
    }

    /// The key policy of tenant `default`, which the command line speaks for.
    pub fn default_key_policy(&self) -> KeyPolicy {
        self.tenants.get(Self::DEFAULT_TENANT).map(|tenant| tenant.key_policy).unwrap_or_default()
    }
}

/// What a configuration was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// No file: one agent, whose provider `OPENAI_API_KEY` brings.
    OpenAiVariables,
    /// Nothing: one agent on the echo model.
    BuiltIn,
}

/// Where the gateway listens and whom it believes: `[gateway]`.
pub struct Gateway {
    /// Address of the listener. Default `127.0.0.1:18789`.
    pub listen: SocketAddr,
    /// What a client must show.
    pub auth: Auth,
    /// Whether a proxy in front speaks TLS; anything but a loopback address needs it, or [`Self::tls`].
    pub behind_tls_proxy: bool,
    /// Pages that may use the gateway beside its own, as browsers write their origins.
    pub allowed_origins: Vec<String>,
    /// The files of a listener that speaks TLS itself; none for plain text.
    pub tls: Option<TlsFiles>,
}

/// A certificate and its key: `gateway.tls_cert` and `gateway.tls_key`, both PEM. They are read by the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key; nobody but its owner may read it.
    pub key: PathBuf,
}

impl Gateway {
    /// The address of a gateway that names none.
    pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 18789);
}

/// What a client of the operator must show: `[gateway.auth]`.
pub enum Auth {
    /// The token the gateway generated at its first start.
    GeneratedToken,
    /// This token.
    Token(Secret),
    /// This password.
    Password(Secret),
    /// Nothing; loopback only.
    None,
}

/// One `[[agents]]` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Whether the entry says `default = true`; see [`Config::default_agent`].
    pub default: bool,
    /// The model it speaks through.
    pub model: ModelName,
    /// Its system prompt, from `instructions` or from the text of `instructions_file`.
    pub instructions: Option<String>,
}

/// `<provider>/<model>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    /// A configured provider's name.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// One `[providers.<name>]` entry.
pub enum Provider {
    /// The built-in model that repeats what it hears.
    Echo,
    /// An OpenAI-compatible endpoint.
    OpenAi(OpenAi),
}

/// An OpenAI-compatible endpoint.
pub struct OpenAi {
    /// Address under which `chat/completions` lies; a query is kept.
    pub base_url: Url,
    /// What the endpoint wants to see.
    pub api_key: Option<Secret>,
    /// How it is told which session it serves; none means by its address (decision 9).
    pub session_header: Option<SessionHeader>,
    /// The one tenant whose sessions it may see by name; none means `default`.
    pub tenant: Option<String>,
}

/// The outgoing `x-openclaw-session-key` (decision 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionHeader {
    /// The canonical key.
    Raw,
    /// A keyed hash.
    Hashed,
    /// No header.
    Off,
}

/// Where the master key comes from, how long other keys last, and where checkpoints go: `[keys]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// `file:<path>`, `credential:<name>` or `command:<command line>`; none means `master.key` in the state directory.
    pub source: Option<String>,
    /// Hours until a tenant turns to a new shred epoch, 1 to [`Keys::MAX_EPOCH_HOURS`]: what was shredded is in no copy of
    /// the store and of a later keystore after that time.
    pub epoch_hours: u32,
    /// Where signed checkpoints are appended; none means `checkpoints.jsonl` in the state directory. A relative path is
    /// taken from there.
    pub checkpoint_file: Option<PathBuf>,
}

impl Keys {
    /// A year.
    pub const MAX_EPOCH_HOURS: u32 = 8784;
}

impl Default for Keys {
    fn default() -> Self {
        Self { source: None, epoch_hours: 24, checkpoint_file: None }
    }
}

/// Without the arguments of a command: they may hold a secret of the key service.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = self.source.as_deref().map(|text| match text.strip_prefix("command:") {
            Some(line) => format!("command:{}", line.split_ascii_whitespace().next().unwrap_or_default()),
            None => text.to_owned(),
        });
        f.debug_struct("Keys")
            .field("source", &source)
            .field("epoch_hours", &self.epoch_hours)
            .field("checkpoint_file", &self.checkpoint_file)
            .finish()
    }
}

/// One `[tenants.<name>]` entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// How it reads keys.
    pub key_policy: KeyPolicy,
}
