//! The `watertight` program.
//!
//! * [`args`]: the command line.
//! * [`serve`]: the gateway.
//! * [`admin`]: who may do what.
//! * [`agent`]: one turn, over a gateway or in this process.
//! * [`agents`]: the configured agents.
//! * [`devices`]: paired devices, and those that ask to be.
//! * [`keys`]: the keys, and replacing them.
//! * [`verify`]: proving what is stored.
//! * [`security`]: what is weak in a deployment.
//! * [`home`]: state directory, configuration, the operator's credential.
//! * [`failure`]: how a command fails.
//! * [`memory`]: keeps secrets out of core dumps.
//! * [`tls`]: whose certificate is believed.
//! * [`visible`]: text that is safe to show.
//! * [`signals`], [`logging`].

mod admin;
mod agent;
mod agents;
mod args;
mod devices;
mod failure;
mod home;
mod keys;
mod logging;
mod memory;
mod security;
mod serve;
mod signals;
mod tls;
mod verify;
mod visible;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::{AgentsCommand, Cli, Command, PROGRAM};
use crate::failure::Failure;
use crate::home::Home;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = match &cli.command {
        Command::Agent(args) => args.json,
        Command::Verify(args) => args.json,
        Command::Keys(command) => command.json(),
        Command::Devices(command) => command.json(),
        Command::Pairing(command) => command.json(),
        Command::Admin(command) => command.json(),
        Command::Security(command) => command.json(),
        Command::Serve(_) | Command::Agents(_) => false,
    };
    run(cli).unwrap_or_else(|failure| failure.report(json))
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let home = Home::find(&cli.global)?;
    let default_level = if matches!(cli.command, Command::Serve(_)) { "info" } else { "warn" };
    logging::start(cli.global.log.as_deref(), default_level)?;
    memory::guard();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    match cli.command {
        Command::Serve(args) => runtime.block_on(serve::run(&home, &args)).map_err(Failure::from),
        Command::Agent(args) => agent::run(&runtime, &home, &args),
        Command::Agents(AgentsCommand::List(args)) => agents::list(&home, &args).map_err(Failure::from),
        Command::Verify(args) => verify::run(&home, &args),
        Command::Devices(command) => runtime.block_on(command.run(&home)),
        Command::Pairing(command) => runtime.block_on(command.run(&home)),
        Command::Keys(command) => keys::run(&runtime, &home, &command),
        Command::Admin(command) => runtime.block_on(command.run(&home)),
        Command::Security(command) => runtime.block_on(security::run(&home, &command)),
    }
}

/// Help and version go to stdout; a wrong command line is an error like any other.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let help = format!("{} --help", command_of(error));
    let message = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) if option.starts_with('-') => {
            format!("{PROGRAM} does not recognize option \"{option}\".\nTry: {help}")
        }
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand, _) => {
            format!("no command is given.\n\n{}", error.render())
        }
        _ => error.render().to_string().trim_start_matches("error: ").trim_end().to_owned(),
    };
    let exit = if command_of(error).ends_with(" verify") { verify::NOT_VERIFIED } else { 1 };
    Failure { exit, ..Failure::new(message) }.report(words.iter().any(|word| word == "--json"))
}

/// The command whose line is wrong, as the error's usage line names it.
fn command_of(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let name = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
    let words: Vec<&str> = usage.trim_start_matches("Usage:").split_whitespace().take_while(name).collect();
    if words.is_empty() { PROGRAM.to_owned() } else { words.join(" ") }
}
