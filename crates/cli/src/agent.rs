//! `watertight agent`: one turn in one session (sessions.md §2).
//!
//! * [`message`]: the text, from a flag, a file or standard input.
//! * [`turn`]: the checks before any dispatch, in their order, and what they leave to send.
//! * [`gateway`]: the turn over a gateway, re-attached by its run id when the connection breaks.
//! * [`client`]: one WebSocket connection to a gateway.
//! * [`endpoint`]: which gateway, with which credential.
//! * [`local`]: the turn in this process.
//! * [`terminal`]: what is printed.

pub(crate) mod client;
pub(crate) mod endpoint;
mod gateway;
mod local;
mod message;
mod terminal;
mod turn;

use std::process::ExitCode;

use tokio::runtime::Runtime;

use crate::agent::endpoint::Endpoint;
use crate::agent::gateway::GatewayError;
use crate::agent::local::Circumstance;
use crate::agent::terminal::Terminal;
use crate::agent::turn::Turn;
use crate::args::AgentArgs;
use crate::failure::Failure;
use crate::home::Home;
use crate::signals::{Signal, Signals};

pub(crate) fn run(runtime: &Runtime, home: &Home, args: &AgentArgs) -> Result<ExitCode, Failure> {
    turn::check_flags(args)?;
    let text = message::read(args)?;
    let config = home.client_config()?;
    let turn = Turn::plan(args, text, &config, !args.local && Endpoint::is_named(args))?;
    let mut terminal = Terminal::new(args.json, turn.verbose);
    runtime.block_on(async {
        let mut signals = Signals::catch().map_err(|error| Failure::new(format!("cannot catch signals: {error}")))?;
        if args.local {
            return local::run(home, &turn, Circumstance::Asked, &mut terminal, &mut signals).await;
        }
        let endpoint = tokio::select! {
            endpoint = Endpoint::find(home, &config, args) => endpoint?,
            signal = signals.next() => return Ok(stopped(signal)),
        };
        let answer = gateway::run(&turn, &endpoint, !args.no_fallback, &mut terminal, &mut signals);
        match Box::pin(answer).await {
            Ok(exit) => Ok(exit),
            Err(GatewayError::Undelivered { reason }) => {
                if args.no_fallback || endpoint.explicit {
                    return Err(Failure::new(reason));
                }
                // Nothing was delivered, so the same run may start here without ever running twice (decision 3).
                local::run(home, &turn, Circumstance::Fallback { reason }, &mut terminal, &mut signals).await
            }
            Err(GatewayError::Failed(failure)) => Err(failure),
            Err(GatewayError::Stopped(signal)) => Ok(stopped(signal)),
        }
    })
}

/// The end of a command that a signal stopped, after everything was said.
fn stopped(signal: Signal) -> ExitCode {
    ExitCode::from(signal.exit())
}
