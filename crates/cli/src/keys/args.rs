//! The command line of `watertight keys`.

use clap::{Args, Subcommand};

/// `watertight keys`.
#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// Show each tenant's key epoch, its age, its data keys and when it turns next
    Status(KeysStatusArgs),
    /// Prove that every wrapped key opens in its place
    Verify(KeysVerifyArgs),
    /// Replace keys: each tenant's tenant key and epoch, or the master key
    Rotate(KeysRotateArgs),
}

/// `watertight keys status`.
#[derive(Args)]
pub(crate) struct KeysStatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `watertight keys verify`.
#[derive(Args)]
#[command(after_help = "\
Reads the state directory and writes nothing; a gateway may be at work in it.

Exit status: 0 every key opens, 1 one does not, 2 nothing could be verified.")]
pub(crate) struct KeysVerifyArgs {
    /// Only this tenant's keys [default: every tenant's]
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `watertight keys rotate`.
#[derive(Args)]
#[command(after_help = "\
Without --master: each tenant gets a new tenant key and a new epoch, the keys of its sessions are wrapped anew, and the \
former epoch's key is destroyed; what was deleted before is then out of reach of every copy of the store. A run that is \
cut short is finished by the next one, or by the gateway.

With --master: a new key in the master key's file; keep a copy of it, the old one does not open the store any more.

The state directory must be free: stop the gateway first. It turns epochs by itself, every keys.epoch_hours.

Examples:
  watertight keys rotate
  watertight keys rotate --tenant acme
  watertight keys rotate --master")]
pub(crate) struct KeysRotateArgs {
    /// Only this tenant's keys [default: every tenant's]
    #[arg(long, value_name = "NAME", conflicts_with = "master")]
    pub(crate) tenant: Option<String>,
    /// Replace the master key instead
    #[arg(long)]
    pub(crate) master: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl KeysCommand {
    /// Whether JSON is wanted.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Status(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Rotate(args) => args.json,
        }
    }
}
