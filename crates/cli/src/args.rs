//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::args::AdminCommand;

/// The name in messages and examples.
pub(crate) const PROGRAM: &str = "watertight";

/// A session gateway for AI agents: agent sessions that do not leak.
#[derive(Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, disable_help_subcommand = true, after_help = "\
Examples:
  watertight serve
  watertight agent --session-key incident-42 --message \"Summarize status\"

WATERTIGHT_LISTEN, WATERTIGHT_AUTH_MODE, WATERTIGHT_AUTH_TOKEN, WATERTIGHT_AUTH_PASSWORD, WATERTIGHT_TLS_CERT, \
WATERTIGHT_TLS_KEY and WATERTIGHT_BEHIND_TLS_PROXY go over the configuration file. OPENAI_API_KEY, OPENAI_BASE_URL \
and OPENAI_MODEL give an agent that names no model a real one.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Configuration file [default: config.toml in the state directory, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "WATERTIGHT_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the store, the keys and the operator's token [default: ~/.watertight]
    #[arg(long, global = true, value_name = "DIR", env = "WATERTIGHT_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// What is logged to stderr: error, warn, info, debug or trace [default: info for serve, warn elsewhere]
    #[arg(long, global = true, value_name = "LEVEL", env = "WATERTIGHT_LOG", hide_env_values = true)]
    pub(crate) log: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the gateway until it is stopped
    Serve(ServeArgs),
    /// Send one message to a session and print the answer
    Agent(Box<AgentArgs>),
    #[command(flatten)]
    Admin(AdminCommand),
    /// Find what is weak in this deployment
    #[command(subcommand)]
    Security(crate::security::SecurityCommand),
    /// Look at the configured agents
    #[command(subcommand)]
    Agents(AgentsCommand),
    /// Look at paired devices, approve them, take from them
    #[command(subcommand)]
    Devices(crate::devices::DevicesCommand),
    /// Decide about devices that ask to be paired
    #[command(subcommand)]
    Pairing(crate::devices::PairingCommand),
    /// Look at the keys, prove that they open, replace them
    #[command(subcommand)]
    Keys(crate::keys::args::KeysCommand),
    /// Prove that the stored sessions, and what receipts were given for, are unchanged
    Verify(VerifyArgs),
}

/// `watertight agents`.
#[derive(Subcommand)]
pub(crate) enum AgentsCommand {
    /// List the agents of the configuration, with their models
    List(AgentsListArgs),
}

/// `watertight agents list`.
#[derive(Args)]
pub(crate) struct AgentsListArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `watertight verify`.
#[derive(Args)]
#[command(after_help = "\
Reads the state directory and writes nothing; a gateway may be at work in it. Without --session and --receipt everything \
is verified: every entry opens in its place and follows the one before it, link by link, up to the session's head, and \
its run is there. A receipt is what the gateway sends with an acknowledgement and at a run's end, as JSON or as \
<session>:<seq>:<chain>.

Examples:
  watertight verify
  watertight verify --session agent:ops:incident-42
  watertight verify --receipts receipts.txt --json

Exit status: 0 all of it holds, 1 something does not, 2 nothing could be verified.")]
pub(crate) struct VerifyArgs {
    /// Only this session, by its key; may be given more than once
    #[arg(long = "session", value_name = "KEY")]
    pub(crate) sessions: Vec<String>,
    /// That what this receipt was given for is there, with its whole session; `-` reads receipts from standard input, one
    /// a line; may be given more than once
    #[arg(long = "receipt", value_name = "RECEIPT", allow_hyphen_values = true)]
    pub(crate) receipts: Vec<String>,
    /// The same for every receipt in this file, one a line
    #[arg(long = "receipts", value_name = "FILE", allow_hyphen_values = true)]
    pub(crate) receipt_file: Option<String>,
    /// That the store is not older than these checkpoints, which a gateway appends to checkpoints.jsonl in its state
    /// directory; keep copies of them elsewhere
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Only this tenant's sessions [default: every tenant; for --session: default]
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `watertight serve`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  watertight serve
  watertight serve --listen 127.0.0.1:0
  watertight --state-dir ./state --config ./watertight.toml serve

Any address but a loopback one needs authentication, and gateway.tls_cert with gateway.tls_key or \
gateway.behind_tls_proxy = true. SIGTERM or Ctrl-C lets active runs finish; a second one stops within five seconds.")]
pub(crate) struct ServeArgs {
    /// Address to listen on [default: gateway.listen, else 127.0.0.1:18789]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
}

/// `watertight agent` (sessions.md §2.1).
#[derive(Args, Default)]
#[command(after_help = "\
Which session: --session-key, else --session-id, else the main session of --agent, else that of the default agent. \
A bare key belongs to --agent or to the default agent: `incident-42` is `agent:main:incident-42`. With --session-key \
and --session-id together the key picks the session and the id its transcript.

Examples:
  watertight agent --session-key agent:ops:incident-42 --message \"Summarize status\"
  watertight agent --agent ops --session-key incident-42 --message \"And now?\"
  git diff | watertight agent --session-key review --message-file - --json
  watertight agent --local --message \"Without a gateway\"

Exit status: 0 answered, 1 failed, timed out or cancelled, 130 and 143 stopped by Ctrl-C and SIGTERM.")]
pub(crate) struct AgentArgs {
    /// The message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) message: Option<String>,
    /// Read the message from a file, or from standard input with `-`; UTF-8, at most 4 MiB
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub(crate) message_file: Option<String>,

    /// The session: agent:<agent-id>:<key>, a bare key, `global` or `unknown`
    #[arg(long, value_name = "KEY", help_heading = "Session")]
    pub(crate) session_key: Option<String>,
    /// The transcript: of the session that has it, or with --session-key of that session
    #[arg(long, value_name = "ID", help_heading = "Session")]
    pub(crate) session_id: Option<String>,
    /// The agent
    #[arg(long, value_name = "ID", help_heading = "Session")]
    pub(crate) agent: Option<String>,
    /// A recipient; one that is an agent's session key counts as --session-key, any other means the main session
    #[arg(short, long, value_name = "RECIPIENT", help_heading = "Session")]
    pub(crate) to: Option<String>,

    /// Model for this turn: <provider>/<model>, or a model of the agent's provider
    #[arg(long, value_name = "MODEL", help_heading = "Turn")]
    pub(crate) model: Option<String>,
    /// Thinking level for this turn: off, minimal, low, medium, high or xhigh
    #[arg(long, value_name = "LEVEL", help_heading = "Turn")]
    pub(crate) thinking: Option<String>,
    /// Show tool calls on stderr: on, full (with their results) or off
    #[arg(long, value_name = "LEVEL", help_heading = "Turn")]
    pub(crate) verbose: Option<String>,
    /// Seconds the turn may take; 0 means no limit [default: 600]
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, help_heading = "Turn")]
    pub(crate) timeout: Option<String>,
    /// While the session is at work: queue (wait for its turn), interrupt (abort the run under way and go next), reject
    /// (fail at once) or steer (join the run under way) [default: queue]
    #[arg(long, value_name = "MODE", help_heading = "Turn")]
    pub(crate) queue: Option<String>,
    /// Print the result as JSON
    #[arg(long, help_heading = "Turn")]
    pub(crate) json: bool,

    /// Run in this process instead of calling a gateway; the state directory must be free
    #[arg(long, help_heading = "Gateway")]
    pub(crate) local: bool,
    /// Fail when no gateway answers or the one that does is not ours, instead of running in this process
    #[arg(long, help_heading = "Gateway")]
    pub(crate) no_fallback: bool,
    /// Gateway to call, such as ws://127.0.0.1:18789 or wss://gateway.example:18789 [default: the one serving the state
    /// directory]
    #[arg(long, value_name = "URL", env = "WATERTIGHT_URL", hide_env_values = true, help_heading = "Gateway")]
    pub(crate) url: Option<String>,
    /// Token or password of the gateway [default: from the configuration, else operator.token, which goes only to the
    /// gateway that serves the state directory]
    #[arg(long, value_name = "TOKEN", env = "WATERTIGHT_TOKEN", hide_env_values = true, help_heading = "Gateway")]
    pub(crate) token: Option<String>,

    /// Certificates of the authorities that may vouch for the gateway at --url, in PEM; only these are trusted [default:
    /// the system's; for the gateway that serves the state directory the certificate it announces there]
    #[arg(long, value_name = "FILE", env = "WATERTIGHT_CA_FILE", hide_env_values = true, help_heading = "Gateway")]
    pub(crate) ca_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    pub(crate) deliver: bool,
    #[arg(long, hide = true)]
    pub(crate) channel: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) reply_to: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) reply_channel: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) reply_account: Option<String>,
}
