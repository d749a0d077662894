//! `watertight serve`: the gateway.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use watertight_config::{Auth, Config, Origin, Overrides, Provider};
use watertight_engine::Engine;
use watertight_engine::state_dir::StateDir;
use watertight_provider::HeaderMode;
use watertight_server::ServerOptions;
use watertight_server::tls::Tls;

use crate::args::{PROGRAM, ServeArgs};
use crate::home::Home;
use crate::signals::Signals;

/// Sent when a file grows beyond the process's limit; the same number on every Linux and BSD.
const SIGXFSZ: i32 = 25;
/// How long everything may take after the second.
const SHORT_GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(home: &Home, args: &ServeArgs) -> Result<ExitCode> {
    let config = Arc::new(home.config(Overrides { listen: args.listen })?);
    let tls = config.gateway.tls.as_ref().map(Tls::load).transpose()?;
    let mut signals = Signals::catch().context("cannot catch signals")?;
    // A file size limit then fails the write, which the store knows how to survive, instead of ending the process.
    let _size_limit = signal(SignalKind::from_raw(SIGXFSZ)).context("cannot catch signals")?;
    let dir = StateDir::lock(home.state_dir())?;
    let listen = config.gateway.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let engine = tokio::select! {
        engine = Engine::open(config.clone(), dir) => engine?,
        signal = signals.next() => return Ok(ExitCode::from(signal.exit())),
    };
    let certificate = tls.as_ref().map(Tls::fingerprint);
    engine.state_dir().announce(address, certificate.clone())?;
    let banner = banner(home, &config, &engine, address, certificate.as_deref());
    // Who started it may have closed stdout; that is no reason not to serve.
    let _ = std::io::stdout().write_all(banner.as_bytes());

    engine.recover();
    engine.keep_keys();
    let stop = CancellationToken::new();
    let options = ServerOptions {
        auth_mode: (&config.gateway.auth).into(),
        behind_tls_proxy: config.gateway.behind_tls_proxy,
        tls: tls.clone(),
        allowed_origins: config.gateway.allowed_origins.clone(),
        ..ServerOptions::default()
    };
    let grace = options.drain_grace;
    let server = watertight_server::run(listener, engine.clone(), options, stop.clone().cancelled_owned());
    tokio::pin!(server);
    let broken = broken(&engine);
    tokio::pin!(broken);
    let renewed = renewed(&engine, address, tls);
    tokio::pin!(renewed);
    let early = tokio::select! {
        error = &mut renewed => return Err(error),
        ended = &mut server => Some(ended),
        error = &mut broken => return Err(error),
        signal = signals.next() => {
            tracing::info!("stopping on {signal}; active runs may take {} s more, a second signal ends them", grace.as_secs());
            stop.cancel();
            None
        }
    };
    let ended = match early {
        Some(ended) => ended,
        None => {
            tokio::select! {
                ended = &mut server => ended,
                error = &mut broken => return Err(error),
                _ = signals.next() => {
                    tracing::warn!("second signal: stopping within {} s", SHORT_GRACE.as_secs());
                    // Ends the runs the server's own drain waits for, so that the server ends as usual.
                    let hurried = async { tokio::join!(engine.drain(Duration::ZERO), &mut server).1 };
                    match tokio::time::timeout(SHORT_GRACE, hurried).await {
                        Ok(ended) => ended,
                        Err(_) => return Ok(ExitCode::FAILURE),
                    }
                }
            }
        }
    };
    ended.context("the server failed")?;
    Ok(ExitCode::SUCCESS)
}

/// Announces every new certificate; resolves when that fails. To be dropped before the announcement is taken back.
async fn renewed(engine: &Engine, address: SocketAddr, tls: Option<Tls>) -> anyhow::Error {
    let Some(tls) = tls else { return std::future::pending().await };
    let mut known = tls.fingerprint();
    loop {
        known = tls.fingerprint_after(&known).await;
        if let Err(error) = engine.state_dir().announce(address, Some(known.clone())) {
            return anyhow::Error::new(error).context("the new certificate cannot be announced");
        }
    }
}

/// Resolves when nothing can be stored any more. There is no going on from a failed sync: the system may have dropped
/// what was to be synced, so only a new start knows what is durable (isolation.md C9).
async fn broken(engine: &Engine) -> anyhow::Error {
    let damaged = async {
        match engine.checked().await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        error = damaged => anyhow::Error::new(error).context("the store is damaged; restore it from a backup"),
        error = engine.failed() => {
            anyhow::Error::new(error).context("stopped, because nothing can be stored any more; see to the disk and start again")
        }
    }
}

/// What a person needs to know at the start. Never the token itself.
fn banner(home: &Home, config: &Config, engine: &Engine, address: SocketAddr, certificate: Option<&str>) -> String {
    let scheme = if certificate.is_some() { "wss" } else { "ws" };
    let mut lines = vec![format!("Watertight {} listens on {scheme}://{address}", env!("CARGO_PKG_VERSION"))];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<9} {text}"));
    line("state", home.state_dir().display().to_string());
    line(
        "config",
        match &config.origin {
            Origin::File(path) => path.display().to_string(),
            Origin::OpenAiVariables => {
                "none; OPENAI_API_KEY is set, so the agent answers through that provider".to_owned()
            }
            Origin::BuiltIn => "none; the agent repeats what it hears until a model is configured".to_owned(),
        },
    );
    if let (Some(sha256), Some(files)) = (certificate, &config.gateway.tls) {
        line("tls", format!("certificate {}, SHA-256 {sha256}", files.cert.display()));
    }
    line(
        "token",
        match (&config.gateway.auth, engine.operator_token_file()) {
            (_, Some(file)) if std::fs::read_to_string(&file).is_ok_and(|token| !token.trim().is_empty()) => {
                format!("in {}", file.display())
            }
            (_, Some(file)) => format!(
                "MISSING from {}: nobody can sign in; put the file back from a backup, or set gateway.auth.token",
                file.display()
            ),
            (Auth::Password(_), _) => "none; the password of the configuration".to_owned(),
            (Auth::None, _) => "none; every process on this machine is let in".to_owned(),
            _ => "the one of the configuration".to_owned(),
        },
    );
    for agent in engine.agents() {
        let default = if agent.is_default { " (default)" } else { "" };
        line("agent", format!("{}{default}: {}/{}", agent.id, agent.model.0, agent.model.1));
    }
    for (name, place, mode) in engine.providers() {
        let header = session_header(config.providers.get(&name), mode);
        line("provider", format!("{name}: {place}{}", header.map(|text| format!("; {text}")).unwrap_or_default()));
    }
    lines.push(String::new());
    lines.push("Send a first message from another terminal:".to_owned());
    lines.push(format!("  {}", first_command(home)));
    lines.join("\n") + "\n"
}

/// What the provider is told about sessions, and why (decision 9).
fn session_header(provider: Option<&Provider>, mode: HeaderMode) -> Option<String> {
    let Some(Provider::OpenAi(entry)) = provider else { return None };
    let why = match (entry.session_header, mode) {
        (Some(_), _) => "as configured",
        (None, HeaderMode::Off) => "the address is public; session_header changes it",
        (None, _) => "a loopback or private address",
    };
    Some(format!("session header {mode} ({why})"))
}

/// A command to copy, for the program as it was started here.
fn first_command(home: &Home) -> String {
    // A path that is no text cannot be printed to be copied.
    let program = std::env::args_os().next().and_then(|path| path.into_string().ok());
    let program = program.unwrap_or_else(|| PROGRAM.to_owned());
    let mut words = vec![quoted(&program)];
    if std::env::home_dir().is_none_or(|dir| dir.join(".watertight") != home.state_dir()) {
        words.extend(["--state-dir".to_owned(), quoted(&home.state_dir().display().to_string())]);
    }
    if let Some(file) = home.config_file() {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        words.extend(["--config".to_owned(), quoted(&file.display().to_string())]);
    }
    words.extend(["agent", "--session-key", "first", "--message"].map(str::to_owned));
    words.push("\"Hello\"".to_owned());
    words.join(" ")
}

/// One word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=:@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_to_copy_survives_a_shell() {
        assert_eq!(quoted("/home/a/.watertight"), "/home/a/.watertight");
        assert_eq!(quoted("/tmp/a b"), "'/tmp/a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
