//! The checks before any dispatch, in the order of sessions.md §2.3, and what they leave to send.

use std::time::Duration;

use uuid::Uuid;
use watertight_config::Config;
use watertight_core::key::dispatch::{self, DispatchError};
use watertight_core::key::openclaw::MainKeyRules;
use watertight_core::key::openclaw::request::Selectors;
use watertight_core::run::QueuePolicy;

use crate::args::{AgentArgs, PROGRAM};
use crate::failure::Failure;

/// One turn, ready to be sent.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Its run id, and so its idempotency key: the same for every attempt.
    pub(crate) run: Uuid,
    pub(crate) message: String,
    pub(crate) address: Address,
    pub(crate) model: Option<String>,
    pub(crate) thinking: Option<String>,
    pub(crate) verbose: Verbose,
    /// What becomes of it when the session is at work.
    pub(crate) queue: QueuePolicy,
    /// Time limit, in seconds; 0 means none.
    pub(crate) timeout: u64,
}

/// Which session. The gateway resolves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) session_key: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) agent: Option<String>,
}

/// How much of the tool calls is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbose {
    #[default]
    Off,
    On,
    Full,
}

/// Seconds a turn may take where `--timeout` does not say.
const DEFAULT_TIMEOUT: u64 = 600;

/// Flags that need a messaging channel, and blank selectors (message 7).
pub(crate) fn check_flags(args: &AgentArgs) -> Result<(), Failure> {
    let channel = [
        ("--deliver", args.deliver),
        ("--channel", args.channel.is_some()),
        ("--reply-to", args.reply_to.is_some()),
        ("--reply-channel", args.reply_channel.is_some()),
        ("--reply-account", args.reply_account.is_some()),
    ];
    if let Some((flag, _)) = channel.into_iter().find(|(_, given)| *given) {
        return Err(Failure::new(format!(
            "{flag} needs a messaging channel, which {PROGRAM} does not have: leave it out and read the answer here."
        )));
    }
    for (flag, value) in [
        ("--agent", &args.agent),
        ("--session-id", &args.session_id),
        ("--session-key", &args.session_key),
        ("--to", &args.to),
    ] {
        dispatch::check_not_blank(flag, value.as_deref()).map_err(refused)?;
    }
    Ok(())
}

impl Turn {
    /// Everything after the message's own checks. `roster_is_theirs`: the gateway was named with `--url`, so our
    /// configuration says nothing about its agents.
    pub(crate) fn plan(
        args: &AgentArgs,
        message: String,
        config: &Config,
        roster_is_theirs: bool,
    ) -> Result<Self, Failure> {
        let address = Address::resolve(args, config, roster_is_theirs).map_err(refused)?;
        let timeout = match &args.timeout {
            Some(text) => dispatch::parse_timeout_seconds(text).map_err(refused)?,
            None => DEFAULT_TIMEOUT,
        };
        if let Some(id) = &address.session_id {
            dispatch::parse_session_id(id).map_err(refused)?;
        }
        let thinking = args.thinking.as_deref().map(thinking).transpose()?;
        let verbose = args.verbose.as_deref().map_or(Ok(Verbose::Off), verbose)?;
        let queue = args.queue.as_deref().map_or(Ok(QueuePolicy::Queue), queue)?;
        let model = args.model.as_deref().map(str::trim).filter(|model| !model.is_empty()).map(str::to_owned);
        Ok(Self { run: Uuid::new_v4(), message, address, model, thinking, verbose, queue, timeout })
    }

    /// How long the client waits for the end: a little longer than the turn may take.
    pub(crate) fn client_wait(&self) -> Option<Duration> {
        (self.timeout > 0).then(|| Duration::from_secs(self.timeout.saturating_add(30).max(10)))
    }
}

impl Address {
    fn resolve(args: &AgentArgs, config: &Config, roster_is_theirs: bool) -> Result<Self, DispatchError> {
        let (policy, roster) = (config.default_key_policy(), config.roster());
        let selectors = Selectors {
            session_key: args.session_key.as_deref(),
            session_id: args.session_id.as_deref(),
            agent: args.agent.as_deref(),
            to: args.to.as_deref(),
        };
        let target = dispatch::normalize_cli_target(policy, MainKeyRules::default(), &roster, selectors)?;
        let session_id = target.session_id.map(|id| id.trim().to_owned());
        if roster_is_theirs {
            if selectors.agent.is_none() && session_id.is_none() {
                // Another gateway has its own default agent: it scopes a bare key, and `main` is that agent's.
                let key = selectors.promoted().session_key.unwrap_or("main");
                return Ok(Self { session_key: Some(key.to_owned()), ..Self::default() });
            }
        } else if let Some(agent) = selectors.agent {
            dispatch::check_known_agent(policy, &roster, agent)?;
        }
        let agent = match (&target.session_key, &session_id) {
            (None, None) => target.agent.or_else(|| target.implied_agent.map(|id| id.to_string())),
            _ => target.agent,
        };
        Ok(Self { session_key: target.session_key, session_id, agent })
    }

    /// The key to abort by, as far as it can be told before the gateway has answered.
    pub(crate) fn known_key(&self) -> Option<String> {
        match (&self.session_key, &self.session_id, &self.agent) {
            (Some(key), ..) => Some(key.clone()),
            (None, None, Some(agent)) => Some(format!("agent:{agent}:main")),
            _ => None,
        }
    }
}

const THINKING: [&str; 6] = ["off", "minimal", "low", "medium", "high", "xhigh"];

fn thinking(text: &str) -> Result<String, Failure> {
    let level = text.trim().to_ascii_lowercase();
    if THINKING.contains(&level.as_str()) {
        Ok(level)
    } else {
        Err(Failure::new(format!("Invalid thinking level. Use one of: {}.", THINKING.join(", "))))
    }
}

fn verbose(text: &str) -> Result<Verbose, Failure> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" => Ok(Verbose::On),
        "full" => Ok(Verbose::Full),
        "off" => Ok(Verbose::Off),
        _ => Err(Failure::new("Invalid verbose level. Use \"on\", \"full\", or \"off\".")),
    }
}

fn queue(text: &str) -> Result<QueuePolicy, Failure> {
    match text.trim().to_ascii_lowercase().as_str() {
        "queue" => Ok(QueuePolicy::Queue),
        "interrupt" => Ok(QueuePolicy::Interrupt),
        "reject" => Ok(QueuePolicy::Reject),
        "steer" => Ok(QueuePolicy::Steer),
        _ => Err(Failure::new("Invalid queue mode. Use \"queue\", \"interrupt\", \"reject\", or \"steer\".")),
    }
}

fn refused(error: DispatchError) -> Failure {
    Failure::new(error.message(PROGRAM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::key::KeyPolicy;

    const AGENTS: &str = "[[agents]]\nid='main'\n[[agents]]\nid='ops'\n";

    fn address(policy: KeyPolicy, flags: &[(&str, &str)], theirs: bool) -> Result<Address, String> {
        let text = format!("{AGENTS}[tenants.default]\nkey_policy='{policy}'\n");
        let config = Config::from_toml(&text).unwrap_or_else(|errors| panic!("{errors}"));
        let mut args = AgentArgs::default();
        for (flag, value) in flags {
            let slot = match *flag {
                "key" => &mut args.session_key,
                "id" => &mut args.session_id,
                "agent" => &mut args.agent,
                "to" => &mut args.to,
                other => panic!("{other}"),
            };
            *slot = Some((*value).to_owned());
        }
        let turn = Turn::plan(&args, "hi".to_owned(), &config, theirs);
        turn.map(|turn| turn.address).map_err(|failure| failure.message)
    }

    fn sent(flags: &[(&str, &str)]) -> (Option<String>, Option<String>, Option<String>) {
        let Address { session_key, session_id, agent } = address(KeyPolicy::Strict, flags, false).unwrap();
        (session_key, session_id, agent)
    }

    #[expect(clippy::unnecessary_wraps, reason = "short for what is compared")]
    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_key_goes_before_an_id_an_id_before_an_agent_and_an_agent_before_a_recipient() {
        assert_eq!(sent(&[("key", "x"), ("id", "i"), ("to", "+1")]), (some("agent:main:x"), some("i"), None));
        assert_eq!(sent(&[("id", "i"), ("agent", "ops"), ("to", "+1")]), (None, some("i"), some("ops")));
        assert_eq!(sent(&[("id", "i"), ("to", "agent:ops:x")]), (None, some("i"), None));
        assert_eq!(sent(&[("agent", "ops"), ("to", "+1")]), (None, None, some("ops")));
        assert_eq!(sent(&[("to", "+15555550123")]), (None, None, some("main")));
        assert_eq!(sent(&[]), (some("agent:main:main"), None, None));
    }

    #[test]
    fn a_recipient_that_is_an_agents_key_is_the_key() {
        assert_eq!(sent(&[("to", "agent:ops:x")]), (some("agent:ops:x"), None, None));
        assert_eq!(sent(&[("to", "agent:ops:x"), ("key", "y")]), (some("agent:main:y"), None, None));
        let mismatch = address(KeyPolicy::Strict, &[("to", "agent:ops:x"), ("agent", "main")], false);
        assert_eq!(mismatch.unwrap_err(), "Agent id \"main\" does not match session key agent \"ops\".");
        assert_eq!(sent(&[("to", "agent:ops")]), (None, None, some("main")), "no key, so a recipient like any other");
    }

    #[test]
    fn the_tenants_policy_decides_what_is_folded() {
        let flags = [("key", "Incident-42"), ("agent", "ops")];
        let strict = address(KeyPolicy::Strict, &flags, false).unwrap();
        assert_eq!(strict.session_key.as_deref(), Some("agent:ops:Incident-42"));
        let openclaw = address(KeyPolicy::Openclaw, &flags, false).unwrap();
        assert_eq!(openclaw.session_key.as_deref(), Some("agent:ops:incident-42"));
    }

    #[test]
    fn another_gateway_scopes_keys_to_its_own_agents() {
        let theirs = |flags: &[(&str, &str)]| address(KeyPolicy::Strict, flags, true).unwrap();
        assert_eq!(theirs(&[("key", "x")]), Address { session_key: some("x"), ..Address::default() });
        assert_eq!(theirs(&[]), Address { session_key: some("main"), ..Address::default() });
        let named = theirs(&[("key", "x"), ("agent", "theirs")]);
        assert_eq!((named.session_key.as_deref(), named.agent.as_deref()), (Some("agent:theirs:x"), Some("theirs")));
        assert!(address(KeyPolicy::Strict, &[("agent", "theirs")], false).unwrap_err().starts_with("Unknown agent id"));
    }

    #[test]
    fn a_session_id_is_never_shaped_like_a_path() {
        let refused = address(KeyPolicy::Strict, &[("id", "bad id/.."), ("agent", "ops")], false);
        assert_eq!(refused.unwrap_err(), "Invalid session ID: bad id/..");
    }

    #[test]
    fn a_queue_mode_is_one_of_four_and_to_queue_where_none_is_named() {
        let plan = |queue: Option<&str>| {
            let args = AgentArgs { queue: queue.map(str::to_owned), ..AgentArgs::default() };
            let config = Config::from_toml(AGENTS).unwrap_or_else(|errors| panic!("{errors}"));
            Turn::plan(&args, "hi".to_owned(), &config, false).map(|turn| turn.queue).map_err(|failure| failure.message)
        };
        assert_eq!(plan(None), Ok(QueuePolicy::Queue));
        assert_eq!(plan(Some("Interrupt")), Ok(QueuePolicy::Interrupt));
        assert_eq!(plan(Some("reject")), Ok(QueuePolicy::Reject));
        assert_eq!(plan(Some("steer")), Ok(QueuePolicy::Steer));
        assert!(plan(Some("followup")).unwrap_err().starts_with("Invalid queue mode."));
    }

    #[test]
    fn the_client_waits_half_a_minute_longer_than_the_turn_may_take() {
        let mut turn = Turn {
            run: Uuid::nil(),
            message: String::new(),
            address: Address::default(),
            model: None,
            thinking: None,
            verbose: Verbose::Off,
            queue: QueuePolicy::Queue,
            timeout: 600,
        };
        assert_eq!(turn.client_wait(), Some(Duration::from_secs(630)));
        turn.timeout = 0;
        assert_eq!(turn.client_wait(), None);
    }
}
