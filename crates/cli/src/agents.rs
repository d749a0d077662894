//! `watertight agents list`: the configured agents, as a misspelt `--agent` points to.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use watertight_config::Config;

use crate::args::AgentsListArgs;
use crate::home::Home;

pub(crate) fn list(home: &Home, args: &AgentsListArgs) -> Result<ExitCode> {
    let config = home.client_config()?;
    let text = if args.json { as_json(&config) } else { as_lines(&config) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn as_lines(config: &Config) -> String {
    let width = config.agents.iter().map(|agent| agent.id.as_str().len()).max().unwrap_or(0);
    let line = |agent: &watertight_config::Agent| {
        let default = if agent.id == config.default_agent().id { "  (default)" } else { "" };
        format!("{:width$}  {}{default}\n", agent.id.as_str(), agent.model)
    };
    config.agents.iter().map(line).collect()
}

fn as_json(config: &Config) -> String {
    let default = &config.default_agent().id;
    let agents: Vec<_> = config
        .agents
        .iter()
        .map(|agent| {
            json!({"id": agent.id.as_str(), "isDefault": agent.id == *default, "model": agent.model.to_string()})
        })
        .collect();
    format!("{:#}\n", json!({"defaultId": default.as_str(), "agents": agents}))
}
