//! `watertight security audit`: what is weak in a deployment, and how to mend it.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use url::{Host, Url};
use watertight_config::{Auth, Config, Provider, SessionHeader};

use crate::admin::args::Reach;
use crate::admin::client::Client;
use crate::failure::Failure;
use crate::home::Home;

/// `watertight security`.
#[derive(Subcommand)]
pub(crate) enum SecurityCommand {
    /// Inspect configuration, files and credentials; exit status 1 when something is weak
    Audit {
        #[command(flatten)]
        reach: Reach,
    },
}

impl SecurityCommand {
    /// Whether failures are to be printed as JSON.
    pub(crate) fn json(&self) -> bool {
        let Self::Audit { reach } = self;
        reach.json
    }
}

/// How bad something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Whoever can reach it can use it.
    Critical,
    /// It should not stay so.
    Weak,
}

impl Weight {
    fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Weak => "weak",
        }
    }
}

/// Something weak.
struct Finding {
    weight: Weight,
    code: &'static str,
    what: String,
    mend: &'static str,
}

pub(crate) async fn run(home: &Home, command: &SecurityCommand) -> Result<ExitCode, Failure> {
    let SecurityCommand::Audit { reach } = command;
    let config = home.client_config()?;
    let mut findings = Vec::new();
    gateway(&config, &mut findings);
    providers(&config, &mut findings);
    files(home.state_dir(), &config, &mut findings);
    let mut skipped = None;
    if home.state_dir().join("store.db").exists() {
        let client = Client::find(home, reach).await?;
        let tokens = client.call("GET", "/v1/admin/tokens", None).await;
        client.close().await;
        match tokens {
            Ok(answer) => credentials(&answer["tokens"], &mut findings),
            Err(failure) => skipped = Some(failure.message),
        }
    }
    findings.sort_by_key(|finding| finding.weight);
    print(&findings, skipped.as_deref(), reach.json);
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn gateway(config: &Config, findings: &mut Vec<Finding>) {
    let gateway = &config.gateway;
    if matches!(gateway.auth, Auth::None) {
        findings.push(Finding {
            weight: Weight::Critical,
            code: "auth_none",
            what: "gateway.auth.mode is \"none\": every program on this machine is the operator.".into(),
            mend: "Remove it: the gateway makes a token for its operator.",
        });
    }
    if let Auth::Password(secret) | Auth::Token(secret) = &gateway.auth
        && secret.expose().len() < 20
    {
        findings.push(Finding {
            weight: Weight::Weak,
            code: "short_secret",
            what: "The operator's secret in gateway.auth is shorter than 20 characters.".into(),
            mend: "Use `openssl rand -hex 32`, or leave it out for a generated token.",
        });
    }
    if gateway.behind_tls_proxy {
        findings.push(Finding {
            weight: Weight::Weak,
            code: "behind_tls_proxy",
            what: "Behind a proxy all clients have one address: wrong secrets are not bounded by address here.".into(),
            mend: "Bound attempts by address in the proxy, or let the gateway speak TLS with gateway.tls_cert.",
        });
    }
    for origin in gateway.allowed_origins.iter().filter(|origin| origin.starts_with("http://")) {
        findings.push(Finding {
            weight: Weight::Weak,
            code: "origin_without_tls",
            what: format!("gateway.allowed_origins has {origin}: who can change that page on its way can use it."),
            mend: "Serve the page over https and list that origin.",
        });
    }
}

fn providers(config: &Config, findings: &mut Vec<Finding>) {
    for (name, provider) in &config.providers {
        let Provider::OpenAi(provider) = provider else { continue };
        let near = is_near(&provider.base_url);
        if provider.base_url.scheme() == "http" && !near {
            findings.push(Finding {
                weight: Weight::Critical,
                code: "provider_without_tls",
                what: format!("The provider {name} is called without TLS: prompts and its key can be read on the way."),
                mend: "Use its https address.",
            });
        }
        if provider.session_header == Some(SessionHeader::Raw) && !near {
            findings.push(Finding {
                weight: Weight::Weak,
                code: "raw_session_header",
                what: format!("The provider {name}, on another machine, is told session keys as they are."),
                mend: "Set session_header = \"hashed\" or \"off\".",
            });
        }
    }
}

/// Whether an address means this machine or a private network.
fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

fn files(dir: &Path, config: &Config, findings: &mut Vec<Finding>) {
    let mode = |path: &Path| fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777).ok();
    if let Some(found) = mode(dir).filter(|mode| mode & 0o077 != 0) {
        findings.push(Finding {
            weight: Weight::Critical,
            code: "state_dir_open",
            what: format!("The state directory {} is open to other users (mode {found:o}).", dir.display()),
            mend: "Run chmod 700 on it.",
        });
    }
    for name in ["store.db", "store.db-wal", "keys.db", "master.key", "operator.token", "config.toml"] {
        let path = dir.join(name);
        if let Some(found) = mode(&path).filter(|mode| mode & 0o077 != 0) {
            findings.push(Finding {
                weight: if name == "config.toml" { Weight::Weak } else { Weight::Critical },
                code: "file_open",
                what: format!("{} can be read or written by other users (mode {found:o}).", path.display()),
                mend: "Run chmod 600 on it.",
            });
        }
    }
    if config.keys.source.is_none() && dir.join("master.key").exists() {
        findings.push(Finding {
            weight: Weight::Weak,
            code: "master_key_beside_store",
            what: "The master key lies beside the store: whoever copies the directory can read it.".into(),
            mend: "Keep it elsewhere with keys.source, such as credential:<name> or command:<command line>.",
        });
    }
}

fn credentials(tokens: &Value, findings: &mut Vec<Finding>) {
    for token in tokens.as_array().into_iter().flatten().filter(|token| token["revoked"] == false) {
        let text = |field: &str| token[field].as_str().unwrap_or_default();
        let admin = token["scopes"].as_array().is_some_and(|scopes| scopes.iter().any(|scope| scope == "admin"));
        if text("kind") == "access" && token["expiresAtMs"].is_null() {
            findings.push(Finding {
                weight: if admin { Weight::Critical } else { Weight::Weak },
                code: "token_without_end",
                what: format!("The token {} of {} never expires.", text("id"), text("principal")),
                mend: "Issue one with --lifetime, and revoke this one.",
            });
        }
    }
}

fn print(findings: &[Finding], skipped: Option<&str>, json: bool) {
    let text = if json {
        let findings: Vec<Value> = findings
            .iter()
            .map(|f| json!({"weight": f.weight.name(), "code": f.code, "finding": f.what, "mend": f.mend}))
            .collect();
        format!("{:#}\n", json!({"findings": findings, "credentialsNotRead": skipped}))
    } else {
        let lines = findings.iter().map(|f| format!("{:<8}  {}\n          {}\n", f.weight.name(), f.what, f.mend));
        let mut text: String = lines.collect();
        if let Some(why) = skipped {
            let _ = writeln!(text, "The credentials were not read: {why}");
        }
        if findings.is_empty() {
            text.push_str("Nothing weak was found.\n");
        }
        text
    };
    // Nothing is left to do for a reader that has gone.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
