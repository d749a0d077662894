//! The command lines of administration.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

/// How the gateway is reached, and how answers are printed.
#[derive(Args, Clone, Default)]
pub(crate) struct Reach {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Gateway to call [default: the one serving the state directory; where none runs, the command opens it itself]
    #[arg(long, value_name = "URL", env = "WATERTIGHT_URL", hide_env_values = true, help_heading = "Gateway")]
    pub(crate) url: Option<String>,
    /// Token of whoever administers the tenant [default: the operator's]
    #[arg(long, value_name = "TOKEN", env = "WATERTIGHT_TOKEN", hide_env_values = true, help_heading = "Gateway")]
    pub(crate) token: Option<String>,
    /// Believe only certificates that these authorities vouch for
    #[arg(long, value_name = "FILE", env = "WATERTIGHT_CA_FILE", hide_env_values = true, help_heading = "Gateway")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// An administrative command.
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    /// Make and list tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Make, list and disable who may call
    #[command(subcommand)]
    Principal(PrincipalCommand),
    /// Issue, list and revoke credentials
    #[command(subcommand)]
    Token(TokenCommand),
    /// Say who may do what with which sessions
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Explain who may do what, or apply a file that says so
    #[command(subcommand)]
    Access(AccessCommand),
    /// Look at the log of what was granted, issued and revoked
    #[command(subcommand)]
    Audit(AuditCommand),
}

/// `watertight tenant`.
#[derive(Subcommand)]
pub(crate) enum TenantCommand {
    /// Make a tenant and print its operator's token, this once
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// List the tenants
    List {
        #[command(flatten)]
        reach: Reach,
    },
}

/// `watertight principal`.
#[derive(Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Make a principal; a user may read and write the sessions under its own name
    Create {
        /// Its name, unique in the tenant
        name: String,
        /// user, service or operator
        #[arg(long, default_value = "user", value_name = "KIND")]
        kind: String,
        /// Grant it nothing
        #[arg(long)]
        no_home: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// List the principals
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Refuse a principal from now on and close what it has open
    Disable {
        /// Its name
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Let a principal in again
    Enable {
        /// Its name
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
}

/// `watertight token`.
#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Issue a token and print it, this once
    #[command(after_help = "\
Examples:
  watertight token issue --principal alice
  watertight token issue --principal portal --scopes read,write,session.assert --lifetime 0 --idle 0 --label portal")]
    Issue {
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        principal: String,
        /// The most it may be used for
        #[arg(long, value_delimiter = ',', default_value = "read,write", value_name = "SCOPES")]
        scopes: Vec<String>,
        /// How long it lasts, such as 30m, 12h or 7d; 0 means until it is revoked [default: 12h]
        #[arg(long, value_name = "TIME", value_parser = time)]
        lifetime: Option<Duration>,
        /// How long it lasts without use; 0 means any time [default: 30m]
        #[arg(long, value_name = "TIME", value_parser = time)]
        idle: Option<Duration>,
        /// Issue a refresh token too
        #[arg(long)]
        refresh: bool,
        /// What to call it in lists
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// List the credentials
    List {
        /// Only this principal's
        #[arg(long, value_name = "NAME")]
        principal: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Revoke a token with all that descend from the same one, or every token of a principal
    Revoke {
        /// Its id: the 16 hex digits in the middle
        #[arg(required_unless_present = "principal", conflicts_with = "principal")]
        id: Option<String>,
        /// Every token of this principal
        #[arg(long, value_name = "NAME")]
        principal: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
}

/// `watertight grant`.
#[derive(Subcommand)]
pub(crate) enum GrantCommand {
    /// Grant verbs on the keys under a prefix
    #[command(after_help = "\
Examples:
  watertight grant add --principal bob --prefix agent:main:user:alice:project-x --verbs read --lifetime 7d
  watertight grant add --principal portal --prefix agent:main:portal --verbs read,write,session.assert")]
    Add {
        /// To whom
        #[arg(long, value_name = "NAME")]
        principal: String,
        /// Whole leading segments, such as agent:main:user:alice; `*` means every key
        #[arg(long, value_name = "PREFIX")]
        prefix: String,
        /// What is allowed
        #[arg(long, value_delimiter = ',', default_value = "read,write", value_name = "VERBS")]
        verbs: Vec<String>,
        /// How long, such as 7d [default: until it is removed]
        #[arg(long, value_name = "TIME", value_parser = time)]
        lifetime: Option<Duration>,
        #[command(flatten)]
        reach: Reach,
    },
    /// List the grants
    List {
        /// Only this principal's
        #[arg(long, value_name = "NAME")]
        principal: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Take a grant away; open connections lose it at once
    Remove {
        /// Its id
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
}

/// `watertight access`.
#[derive(Subcommand)]
pub(crate) enum AccessCommand {
    /// Print the rule that allows or refuses something; exit status 1 when it is refused
    Explain {
        /// The principal
        #[arg(long = "as", value_name = "NAME")]
        principal: String,
        /// The session key, as that principal would write it
        #[arg(long, value_name = "KEY")]
        key: String,
        /// The verb
        #[arg(long, value_name = "VERB", default_value = "read")]
        verb: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Make the principals and grants of a file, and remove the grants it does not name of the principals it names
    #[command(after_help = "\
A file in TOML:
  [principals.alice]
  home = true
  [[principals.alice.grants]]
  prefix = \"agent:main:shared\"
  verbs = [\"read\"]

Principals that the file does not name stay as they are.")]
    Apply {
        /// The file
        file: PathBuf,
        /// Print what would change and change nothing; exit status 1 when something would
        #[arg(long)]
        diff: bool,
        #[command(flatten)]
        reach: Reach,
    },
}

/// `watertight audit`.
#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Print the newest events
    Tail {
        /// How many
        #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
        count: u64,
        #[command(flatten)]
        reach: Reach,
    },
    /// Print every event as JSON lines
    Export {
        #[command(flatten)]
        reach: Reach,
    },
    /// Prove that the log is whole: every event follows the one before, up to the signed end
    Verify {
        #[command(flatten)]
        reach: Reach,
    },
}

/// Reads `90s`, `30m`, `12h`, `7d`; a bare number counts seconds.
fn time(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a time: write 30m, 12h or 7d");
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(bad()),
    };
    let count: u64 = digits.parse().map_err(|_| bad())?;
    count.checked_mul(seconds).filter(|all| *all <= 100 * 366 * 24 * 60 * 60).map(Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("0", 0), ("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 604_800)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "m", "12x", "-1h", "1.5h", "99999999999d", "18446744073709551615d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
