//! The configured agents of a tenant.

use super::AgentId;

/// The configured agents in the order of the configuration, never empty, one of them the default (decision 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    agents: Vec<AgentId>,
    default: usize,
}

/// Why a list of agents is no roster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// No agent at all.
    #[error("no agent is configured")]
    Empty,
    /// The default is not in the list.
    #[error("the default agent is not among the configured agents")]
    NoSuchDefault,
    /// The same id twice.
    #[error("agent \"{0}\" is configured twice")]
    Duplicate(AgentId),
}

impl Roster {
    /// A roster of `agents` whose default is the one at `default_index`, from 0.
    pub fn new(agents: Vec<AgentId>, default_index: usize) -> Result<Self, RosterError> {
        if agents.is_empty() {
            return Err(RosterError::Empty);
        }
        if default_index >= agents.len() {
            return Err(RosterError::NoSuchDefault);
        }
        if let Some(twice) = agents.iter().enumerate().find(|(at, id)| agents[..*at].contains(id)) {
            return Err(RosterError::Duplicate(twice.1.clone()));
        }
        Ok(Self { agents, default: default_index })
    }

    /// A roster of one agent.
    pub fn single(agent: AgentId) -> Self {
        Self { agents: vec![agent], default: 0 }
    }

    /// The agent of a turn that names none.
    pub fn default(&self) -> &AgentId {
        &self.agents[self.default]
    }

    /// Whether `agent` is configured.
    pub fn contains(&self, agent: &AgentId) -> bool {
        self.agents.contains(agent)
    }

    /// The configured agent of exactly this canonical id.
    pub fn get(&self, id: &str) -> Option<&AgentId> {
        self.agents.iter().find(|agent| agent.as_str() == id)
    }

    /// The agents in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_has_agents_once_each_and_a_default_among_them() {
        let id = |text| AgentId::parse(text).unwrap();
        let roster = Roster::new(vec![id("main"), id("ops")], 1).unwrap();
        assert_eq!(roster.default().as_str(), "ops");
        assert!(roster.contains(&id("main")) && roster.get("nope").is_none());
        assert_eq!(Roster::new(vec![], 0), Err(RosterError::Empty));
        assert_eq!(Roster::new(vec![id("a")], 1), Err(RosterError::NoSuchDefault));
        assert_eq!(Roster::new(vec![id("a"), id("b"), id("A")], 0), Err(RosterError::Duplicate(id("a"))));
    }
}
