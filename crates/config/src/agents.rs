//! `[[agents]]`.

use std::fs;
use std::path::Path;

use watertight_core::key::{AgentId, Roster};

use crate::section::{Found, Place, Problems, Section, unknown};
use crate::settings::{Agent, ModelName};

/// Longest `instructions_file`, in bytes.
const MAX_INSTRUCTIONS: u64 = 1024 * 1024;

/// The agents and their roster; none where something was reported.
pub(crate) fn read(
    root: &mut Section<'_, '_>,
    providers: &[&str],
    default_model: &ModelName,
    problems: &Problems<'_>,
) -> Option<(Vec<Agent>, Roster)> {
    let mut agents: Vec<(Agent, Place)> = Vec::new();
    let mut default: Option<(usize, Place)> = None;
    for mut section in root.list("agents") {
        let agent = entry(&mut section, providers, default_model);
        let says_default = section.boolean("default").filter(|found| found.value);
        let at = section.at.clone();
        section.finish();
        if let Some(found) = &says_default {
            match &default {
                Some((_, first)) => problems.report(
                    &found.at,
                    format!("only one agent can be the default; line {} already names one", first.line),
                ),
                None => default = Some((agents.len(), found.at.clone())),
            }
        }
        let Some(agent) = agent else { continue };
        if let Some((_, first)) = agents.iter().find(|(other, _)| other.id == agent.id) {
            problems.report(&at, format!("agent \"{}\" is already in line {}", agent.id, first.line));
        }
        agents.push((Agent { default: says_default.is_some(), ..agent }, at));
    }
    let mut agents: Vec<Agent> = agents.into_iter().map(|(agent, _)| agent).collect();
    if agents.is_empty() {
        let id = AgentId::parse("main").ok()?;
        agents.push(Agent { id, default: false, model: default_model.clone(), instructions: None });
    }
    let ids = agents.iter().map(|agent| agent.id.clone()).collect();
    let roster = Roster::new(ids, default.map_or(0, |(at, _)| at)).ok()?;
    Some((agents, roster))
}

fn entry(section: &mut Section<'_, '_>, providers: &[&str], default_model: &ModelName) -> Option<Agent> {
    let problems = section.problems;
    let id = match section.string("id") {
        None => {
            problems.report(&section.missing("id"), "is missing: the agent's name, such as \"main\"");
            None
        }
        Some(Found { value, at }) => {
            AgentId::parse(&value).map_err(|error| problems.report(&at, error.to_string())).ok()
        }
    };
    let model = match section.string("model") {
        None => default_model.clone(),
        Some(Found { value, at }) => model_name(&value, providers).unwrap_or_else(|message| {
            problems.report(&at, message);
            default_model.clone()
        }),
    };
    let text = section.string("instructions");
    let file = section.string("instructions_file");
    if let (Some(_), Some(file)) = (&text, &file) {
        problems.report(&file.at, "stands beside instructions: use one of them");
    }
    let instructions = match (text, file) {
        (Some(text), _) => Some(text.value),
        (None, Some(Found { value, at })) => instructions_of(&value, problems)
            .map_err(|reason| problems.report(&at, format!("cannot read {value}: {reason}")))
            .ok(),
        (None, None) => None,
    };
    let instructions = instructions.filter(|text| !text.trim().is_empty());
    Some(Agent { id: id?, default: false, model, instructions })
}

/// Parses `<provider>/<model>`; the model may have slashes of its own.
pub(crate) fn model_name(text: &str, providers: &[&str]) -> Result<ModelName, String> {
    match text.split_once('/') {
        Some((provider, model)) if !provider.is_empty() && !model.trim().is_empty() => {
            if !providers.contains(&provider) {
                return Err(unknown("provider", provider, providers.iter().copied()));
            }
            Ok(ModelName { provider: provider.to_owned(), model: model.to_owned() })
        }
        _ => Err("must be \"<provider>/<model>\", such as \"echo/echo\"".to_owned()),
    }
}

/// The file's text; the name is relative to the configuration's directory.
fn instructions_of(name: &str, problems: &Problems<'_>) -> Result<String, String> {
    let path = problems.path.parent().unwrap_or(Path::new("")).join(name);
    let size = fs::metadata(&path).map_err(|error| error.to_string())?.len();
    if size > MAX_INSTRUCTIONS {
        return Err(format!("it has {size} bytes; at most {MAX_INSTRUCTIONS} are allowed"));
    }
    fs::read_to_string(&path).map_err(|error| error.to_string())
}
