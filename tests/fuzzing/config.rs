//! Configuration files.

use watertight_config::Config;
use watertight_config::error::Source;

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::from_toml(text) {
        Ok(config) => {
            let default = config.default_agent();
            assert!(config.roster().contains(&default.id));
            assert!(config.agents.iter().filter(|agent| agent.default).count() <= 1, "two agents are the default");
            for agent in &config.agents {
                assert!(config.providers.contains_key(&agent.model.provider), "{} has a provider", agent.id);
            }
            assert!(config.tenants.contains_key(Config::DEFAULT_TENANT));
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a reason");
            assert!(errors.0.is_sorted_by_key(|error| error.line), "not in the order of the file");
            let lines = text.split('\n').count();
            for error in &errors.0 {
                assert!(matches!(error.source, Source::File(_)), "{error}");
                // Only what is missing from the whole file stands nowhere in it.
                assert!(error.line.is_some() || !error.key.contains('.'), "no line: {error}");
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "no such line: {error}");
                assert!(!error.message.is_empty());
                let shown = error.to_string();
                assert!(!shown.chars().any(char::is_control), "one error is one line without control: {shown:?}");
            }
        }
    }
}
