//! The configured agents and providers, ready for use.

use std::collections::HashMap;
use std::sync::Arc;

use url::Url;
use watertight_config::{Config, OpenAi, Provider as ProviderConfig, SessionHeader};
use watertight_core::ids::TenantId;
use watertight_provider::openai::{OpenAi as OpenAiProvider, OpenAiOptions};
use watertight_provider::{ApiKey, Echo, HeaderMode, Provider, SessionNames, SessionNaming};
use watertight_store::model::TenantRow;

use crate::error::EngineError;
use crate::state_dir::OpenError;
use crate::view::{AgentView, ModelView};

/// Context window that is reported where a provider does not tell its own, in tokens.
const ASSUMED_CONTEXT_TOKENS: u64 = 200_000;

/// Agents and providers by name.
pub(crate) struct Catalog {
    agents: Vec<Agent>,
    providers: HashMap<String, Arc<dyn Provider>>,
    /// (name, where it is), in the configuration's order.
    listed: Vec<(String, String)>,
}

/// A configured persona.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) is_default: bool,
    pub(crate) model: ModelChoice,
    pub(crate) instructions: Option<String>,
}

/// A provider and one of its models.
#[derive(Clone)]
pub(crate) struct ModelChoice {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) model: String,
    /// Size of its context window, in tokens.
    pub(crate) context_tokens: u64,
}

impl ModelChoice {
    fn new(provider: Arc<dyn Provider>, model: &str) -> Self {
        let known = provider.models().into_iter().find(|info| info.id == model);
        let context_tokens = known.and_then(|info| info.context_window).unwrap_or(ASSUMED_CONTEXT_TOKENS);
        Self { provider, model: model.to_owned(), context_tokens }
    }

    /// Provider and model by name.
    pub(crate) fn names(&self) -> (String, String) {
        (self.provider.name().to_owned(), self.model.clone())
    }
}

impl Catalog {
    pub(crate) fn build(
        config: &Config,
        tenants: &[TenantRow],
        names: &Arc<dyn SessionNames>,
    ) -> Result<Self, OpenError> {
        let mut providers: HashMap<String, Arc<dyn Provider>> = HashMap::new();
        let mut listed = Vec::new();
        for (name, entry) in &config.providers {
            let (provider, place): (Arc<dyn Provider>, String) = match entry {
                ProviderConfig::Echo => (Arc::new(Echo::new(name.clone())), "built-in".into()),
                ProviderConfig::OpenAi(openai) => {
                    (Arc::new(open_ai(name, openai, tenants, names)?), place_of(&openai.base_url))
                }
            };
            providers.insert(name.clone(), provider);
            listed.push((name.clone(), place));
        }
        let default = config.default_agent().id.clone();
        let agents = config
            .agents
            .iter()
            .map(|agent| {
                let provider = providers.get(&agent.model.provider).cloned().ok_or_else(|| {
                    OpenError::Provider(format!(
                        "agent {} names provider {:?}, which is not configured",
                        agent.id, agent.model.provider
                    ))
                })?;
                Ok(Agent {
                    id: agent.id.to_string(),
                    is_default: agent.id == default,
                    model: ModelChoice::new(provider, &agent.model.model),
                    instructions: agent.instructions.clone(),
                })
            })
            .collect::<Result<_, OpenError>>()?;
        Ok(Self { agents, providers, listed })
    }

    /// The agent of this id; the default one for an id that is no longer configured.
    pub(crate) fn agent(&self, id: &str) -> &Agent {
        let found = self.agents.iter().find(|agent| agent.id == id);
        found.or_else(|| self.agents.iter().find(|agent| agent.is_default)).unwrap_or(&self.agents[0])
    }

    /// The model a run uses: the agent's, or the one the caller named as `provider/model` or as a model of the
    /// agent's provider.
    pub(crate) fn model(&self, agent: &Agent, wanted: Option<&str>) -> Result<ModelChoice, EngineError> {
        let Some(wanted) = wanted.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(agent.model.clone());
        };
        if let Some((provider, model)) = wanted.split_once('/')
            && let (Some(provider), false) = (self.providers.get(provider), model.is_empty())
        {
            return Ok(ModelChoice::new(provider.clone(), model));
        }
        if agent.model.provider.models().iter().any(|info| info.id == wanted) || wanted == agent.model.model {
            return Ok(ModelChoice::new(agent.model.provider.clone(), wanted));
        }
        let mut known: Vec<_> = self.providers.keys().map(String::as_str).collect();
        known.sort_unstable();
        Err(EngineError::UnknownModel(format!(
            "Unknown model {wanted:?}. Name it as provider/model; configured providers: {}.",
            known.join(", ")
        )))
    }

    pub(crate) fn agents(&self) -> Vec<AgentView> {
        let view = |agent: &Agent| AgentView {
            id: agent.id.clone(),
            is_default: agent.is_default,
            model: agent.model.names(),
        };
        self.agents.iter().map(view).collect()
    }

    /// Models the agents use and models the providers know, each once.
    pub(crate) fn models(&self) -> Vec<ModelView> {
        let used = self.agents.iter().map(|agent| agent.model.clone());
        let known = self.listed.iter().filter_map(|(name, _)| self.providers.get(name)).flat_map(|provider| {
            let models = provider.models();
            models.into_iter().map(|info| ModelChoice::new(provider.clone(), &info.id))
        });
        let mut views: Vec<ModelView> = Vec::new();
        for choice in used.chain(known) {
            let (provider, model) = choice.names();
            if !views.iter().any(|view| view.provider == provider && view.model == model) {
                views.push(ModelView { provider, model, context_tokens: choice.context_tokens });
            }
        }
        views
    }

    pub(crate) fn providers(&self) -> Vec<(String, String, HeaderMode)> {
        let mode = |name: &str| self.providers.get(name).map_or(HeaderMode::Off, |provider| provider.header_mode());
        self.listed.iter().map(|(name, place)| (name.clone(), place.clone(), mode(name))).collect()
    }
}

/// Where a provider is, without what a query may hold: some take their key there.
fn place_of(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn open_ai(
    name: &str,
    openai: &OpenAi,
    tenants: &[TenantRow],
    names: &Arc<dyn SessionNames>,
) -> Result<OpenAiProvider, OpenError> {
    let failed = |reason: String| OpenError::Provider(format!("provider {name}: {reason}"));
    let mode = match openai.session_header {
        Some(SessionHeader::Raw) => HeaderMode::Raw,
        Some(SessionHeader::Hashed) => HeaderMode::Hashed,
        Some(SessionHeader::Off) => HeaderMode::Off,
        None => HeaderMode::default_for(&openai.base_url),
    };
    let raw_tenant: TenantId = match &openai.tenant {
        None => tenants[0].operator.tenant,
        Some(bound) => {
            let found = tenants.iter().find(|row| row.name == *bound);
            found.ok_or_else(|| failed(format!("is bound to tenant {bound:?}, which does not exist")))?.operator.tenant
        }
    };
    let naming = SessionNaming::new(mode, raw_tenant, names.clone());
    let mut options = OpenAiOptions::new(name, openai.base_url.clone(), naming);
    options.api_key = openai.api_key.as_ref().map(|key| ApiKey::new(key.expose()));
    OpenAiProvider::new(options).map_err(|error| failed(error.to_string()))
}
