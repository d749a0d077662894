//! What a configuration means, and what is said about a wrong one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use watertight_config::error::Source;
use watertight_config::{Auth, Config, ConfigErrors, Origin, Overrides, Provider, SecretUse, SessionHeader, Sources};
use watertight_core::key::KeyPolicy;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(text: &str) -> Self {
        let home = Self::new();
        fs::write(home.file(), text).unwrap();
        home
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("config.toml")
    }

    fn sources(&self, env: &[(&str, &str)]) -> Sources {
        Sources {
            state_dir: self.0.path().to_owned(),
            env: env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
            ..Sources::default()
        }
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        Config::load(self.sources(env))
    }
}

#[track_caller]
fn good(result: Result<Config, ConfigErrors>) -> Config {
    result.unwrap_or_else(|errors| panic!("refused:\n{errors}"))
}

/// The complaints as `line key: message`.
#[track_caller]
fn complaints(result: Result<Config, ConfigErrors>) -> Vec<String> {
    let Err(errors) = result else { panic!("accepted") };
    let show = |e: watertight_config::ConfigError| match e.source {
        Source::File(_) => format!("{} {}: {}", e.line.unwrap_or(0), e.key, e.message),
        Source::Variable(name) | Source::Flag(name) => format!("{name}: {}", e.message),
    };
    errors.0.into_iter().map(show).collect()
}

#[test]
fn without_a_file_there_is_one_agent_on_the_echo_model() {
    let config = good(Home::new().load(&[]));
    assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:18789");
    assert!(matches!(config.gateway.auth, Auth::GeneratedToken) && !config.gateway.behind_tls_proxy);
    assert_eq!(config.agents.len(), 1);
    assert_eq!(config.default_agent().id.as_str(), "main");
    assert_eq!(config.default_agent().model.to_string(), "echo/echo");
    assert!(matches!(config.providers["echo"], Provider::Echo));
    assert_eq!(config.tenants["default"].key_policy, KeyPolicy::Strict);
    assert_eq!(config.keys.source, None);
    assert_eq!(config.origin, Origin::BuiltIn);
}

#[test]
fn an_openai_key_in_the_environment_gives_the_agent_a_real_model() {
    let config = good(Home::new().load(&[("OPENAI_API_KEY", "sk-x")]));
    assert_eq!(config.default_agent().model.to_string(), "openai/gpt-5-mini");
    assert_eq!(config.origin, Origin::OpenAiVariables);
    let Provider::OpenAi(openai) = &config.providers["openai"] else { panic!() };
    assert_eq!(openai.base_url.as_str(), "https://api.openai.com/v1");
    assert_eq!(openai.api_key.as_ref().unwrap().expose(), "sk-x");

    let env = [("OPENAI_API_KEY", "sk-x"), ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"), ("OPENAI_MODEL", "m/1")];
    let config = good(Home::new().load(&env));
    assert_eq!(config.default_agent().model.to_string(), "openai/m/1");
    let Provider::OpenAi(openai) = &config.providers["openai"] else { panic!() };
    assert_eq!(openai.base_url.as_str(), "http://127.0.0.1:9/v1");

    let blank = good(Home::new().load(&[("OPENAI_API_KEY", " ")]));
    assert_eq!(blank.default_agent().model.to_string(), "echo/echo");
}

#[test]
fn every_setting_of_a_full_file_arrives() {
    let home = Home::with(
        r#"
[gateway]
listen = "0.0.0.0:8443"
behind_tls_proxy = true
auth.mode = "password"
auth.password = "pw-${PW}"

[[agents]]
id = "Main"
model = "local/org/model-1"
instructions = "Be brief."

[[agents]]
id = "ops"
default = true
model = "echo/echo"
instructions_file = "ops.md"

[providers.local]
kind = "openai"
base_url = "http://127.0.0.1:8080/v1"
api_key = "${LOCAL_KEY}"
session_header = "hashed"
tenant = "acme"

[providers.test]
kind = "echo"

[keys]
source = "file:/run/keys/master"
epoch_hours = 6
checkpoint_file = "/var/log/watertight.jsonl"

[tenants.acme]
key_policy = "openclaw"
"#,
    );
    fs::write(home.0.path().join("ops.md"), "You run things.\n").unwrap();
    let config = good(home.load(&[("PW", "x"), ("LOCAL_KEY", "k")]));
    assert_eq!(config.gateway.listen.to_string(), "0.0.0.0:8443");
    let Auth::Password(password) = &config.gateway.auth else { panic!() };
    assert_eq!(password.expose(), "pw-x");
    assert_eq!(config.agents[0].id.as_str(), "main");
    assert_eq!(config.agents[0].model.provider, "local");
    assert_eq!(config.agents[0].model.model, "org/model-1");
    assert_eq!(config.agents[0].instructions.as_deref(), Some("Be brief."));
    assert_eq!(config.default_agent().id.as_str(), "ops");
    assert_eq!(config.default_agent().instructions.as_deref(), Some("You run things.\n"));
    assert_eq!(config.roster().default().as_str(), "ops");
    let Provider::OpenAi(local) = &config.providers["local"] else { panic!() };
    assert_eq!(local.session_header, Some(SessionHeader::Hashed));
    assert_eq!(local.tenant.as_deref(), Some("acme"));
    assert_eq!(local.api_key.as_ref().unwrap().expose(), "k");
    assert_eq!(config.keys.source.as_deref(), Some("file:/run/keys/master"));
    assert_eq!(config.keys.epoch_hours, 6);
    assert_eq!(config.keys.checkpoint_file.as_deref(), Some(Path::new("/var/log/watertight.jsonl")));
    assert_eq!(config.tenants["acme"].key_policy, KeyPolicy::Openclaw);
    assert_eq!(config.tenants["default"].key_policy, KeyPolicy::Strict);
    assert_eq!(config.origin, Origin::File(home.file()));
}

#[test]
fn the_documented_file_is_accepted() {
    let page = include_str!("../../../docs/configuration.md");
    let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let home = Home::with(&format!("\u{feff}{example}"));
    fs::write(home.0.path().join("ops.md"), "Run things.").unwrap();
    let config = good(home.load(&[("GATEWAY_TOKEN", "t"), ("OPENAI_API_KEY", "k")]));
    assert_eq!(config.agents.len(), 2);
}

#[test]
fn the_first_agent_is_the_default_where_none_says_so() {
    let config = good(Config::from_toml("[[agents]]\nid='ops'\n[[agents]]\nid='main'\n"));
    assert_eq!(config.default_agent().id.as_str(), "ops");
    assert_eq!(config.roster().default().as_str(), "ops");
}

#[test]
fn everything_wrong_with_a_file_is_said_at_once_with_key_and_line() {
    let text = r#"listn = 1
[gateway]
listen = "localhost"
behind_tls_proxy = "yes"
auth.mode = "tokn"
[[agents]]
id = "ops"
default = true
model = "opena/x"
[[agents]]
id = "OPS"
default = true
instructions = "a"
instructions_file = "missing.md"
[[agents]]
id = "no spaces"
[[agents]]
model = "nothing"
[providers.openai]
base_url = "ftp://x"
api_key = "${NO_SUCH}"
session_header = "row"
tenant = "acme"
colour = 1
[providers."Bad Name"]
kind = "opnai"
[keys]
source = "vault:x"
[tenants.default]
key_policy = "lenient"
"#;
    assert_eq!(
        complaints(Home::with(text).load(&[])),
        [
            "1 listn: unknown key \"listn\"; known are: gateway, keys, tenants, providers, agents",
            "3 gateway.listen: must be an address with a port, such as 127.0.0.1:18789 or [::1]:18789",
            "4 gateway.behind_tls_proxy: must be true or false, not a string",
            "5 gateway.auth.mode: unknown mode \"tokn\"; did you mean \"token\"?",
            "9 agents[0].model: unknown provider \"opena\"; did you mean \"openai\"?",
            "10 agents[1]: agent \"ops\" is already in line 6",
            "12 agents[1].default: only one agent can be the default; line 8 already names one",
            "14 agents[1].instructions_file: stands beside instructions: use one of them",
            "16 agents[2].id: \"no spaces\" is not an agent id. Use 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit.",
            "17 agents[3].id: is missing: the agent's name, such as \"main\"",
            "18 agents[3].model: must be \"<provider>/<model>\", such as \"echo/echo\"",
            "19 providers.openai.kind: is missing: \"openai\" or \"echo\"",
            "20 providers.openai.base_url: must start with http:// or https://",
            "21 providers.openai.api_key: the environment variable NO_SUCH is not set",
            "22 providers.openai.session_header: unknown mode \"row\"; did you mean \"raw\"?",
            "23 providers.openai.tenant: unknown tenant \"acme\"; known are: default",
            "24 providers.openai.colour: unknown key \"colour\"; known are: kind, base_url, api_key, session_header, tenant",
            "25 providers.Bad Name: names are 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit",
            "26 providers.Bad Name.kind: unknown kind \"opnai\"; did you mean \"openai\"?",
            "28 keys.source: must be \"file:<path>\", \"credential:<name>\" or \"command:<command line>\"",
            "30 tenants.default.key_policy: unknown policy \"lenient\"; known are: strict, openclaw",
        ]
    );
}

#[test]
fn a_mistyped_key_is_met_with_the_right_one() {
    for (text, expected) in [
        ("[gatway]\n", "1 gatway: unknown key \"gatway\"; did you mean \"gateway\"?"),
        ("[gateway]\nlisten_ = 1\n", "2 gateway.listen_: unknown key \"listen_\"; did you mean \"listen\"?"),
        (
            "[[agents]]\nid='a'\ninstuctions='x'\n",
            "3 agents[0].instuctions: unknown key \"instuctions\"; did you mean \"instructions\"?",
        ),
    ] {
        assert_eq!(complaints(Config::from_toml(text)), [expected]);
    }
}

#[test]
fn broken_toml_names_every_line_and_never_quotes_it() {
    let said = complaints(Config::from_toml("[gateway]\nauth.token = \"s3cret\nlisten = \n"));
    assert!(!said.is_empty());
    assert!(said.iter().all(|line| line.contains("not valid TOML")), "{said:?}");
    assert!(said[0].starts_with("2 "), "{said:?}");
    assert!(!said.concat().contains("s3cret"), "{said:?}");
    let errors = Config::load(Home::with("[gateway]\nauth.token = \"s3cret\n").sources(&[])).err().unwrap();
    assert!(!format!("{errors} {errors:?}").contains("s3cret"));
}

#[test]
fn a_file_named_explicitly_must_exist_and_be_text() {
    let home = Home::new();
    let missing = home.0.path().join("nope.toml");
    let said = complaints(Config::load(Sources { file: Some(missing), ..home.sources(&[]) }));
    assert!(said[0].contains("cannot be read"), "{said:?}");
    fs::write(home.file(), b"[gateway]\n# \xff\n").unwrap();
    assert_eq!(complaints(home.load(&[])), ["0 : is not UTF-8 text"]);
}

#[test]
fn an_address_open_to_others_needs_authentication_and_tls() {
    let open = "[gateway]\nlisten = '0.0.0.0:1'\n";
    assert_eq!(complaints(Config::from_toml(open)).len(), 1);
    assert!(complaints(Config::from_toml(open))[0].contains("behind_tls_proxy"));
    good(Config::from_toml("[gateway]\nlisten = '0.0.0.0:1'\nbehind_tls_proxy = true\n"));
    let said =
        complaints(Config::from_toml("[gateway]\nlisten = '[::]:1'\nbehind_tls_proxy = true\nauth.mode = 'none'\n"));
    assert!(said[0].contains("auth.mode"), "{said:?}");
    let tls = "tls_cert = 'c.pem'\ntls_key = 'k.pem'\n";
    good(Config::from_toml(&format!("{open}{tls}")));
    let said = complaints(Config::from_toml(&format!("{open}{tls}auth.mode = 'none'\n")));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("auth.mode = \"none\" does not allow"), "{said:?}");
    for way_out in ["gateway.tls_cert and gateway.tls_key", "gateway.behind_tls_proxy = true", "127.0.0.1"] {
        assert!(complaints(Config::from_toml(open))[0].contains(way_out), "{way_out}");
    }
    for loopback in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        good(Config::from_toml(&format!("[gateway]\nlisten = '{loopback}'\nauth.mode = 'none'\n")));
    }
}

#[test]
fn a_certificate_and_its_key_are_named_together_and_beside_the_configuration() {
    let home = Home::with("[gateway]\ntls_cert = 'tls/cert.pem'\ntls_key = '/etc/key.pem'\n");
    let tls = good(home.load(&[])).gateway.tls.unwrap();
    assert_eq!(tls.cert, home.file().parent().unwrap().join("tls/cert.pem"));
    assert_eq!(tls.key, std::path::Path::new("/etc/key.pem"));
    assert_eq!(good(Config::from_toml("")).gateway.tls, None);

    let half = "[gateway]\nlisten = '0.0.0.0:1'\ntls_cert = 'c'\n";
    let advice = "beside it: a certificate and its key go together";
    assert_eq!(complaints(Config::from_toml(half)), [format!("3 gateway.tls_cert: needs gateway.tls_key {advice}")]);
    let half = "[gateway]\ntls_key = 'c'\n";
    assert_eq!(complaints(Config::from_toml(half)), [format!("2 gateway.tls_key: needs gateway.tls_cert {advice}")]);
    assert_eq!(complaints(Config::from_toml("[gateway]\ntls_key = 'c'\ntls_cert = ' '\n")).len(), 1);

    let variables = [("WATERTIGHT_TLS_CERT", "c"), ("WATERTIGHT_TLS_KEY", "k")];
    let tls = good(home.load(&variables)).gateway.tls.unwrap();
    assert_eq!((tls.cert.to_str(), tls.key.to_str()), (Some("c"), Some("k")));
    let said = complaints(home.load(&variables[..1]));
    assert_eq!(said, [format!("WATERTIGHT_TLS_CERT: needs WATERTIGHT_TLS_KEY {advice}")]);
}

#[test]
fn a_proxy_that_brings_others_in_needs_authentication_on_loopback_too() {
    let none = "[gateway]\nauth.mode = 'none'\nbehind_tls_proxy = true\n";
    let refusal = "lets in everybody the proxy forwards, which auth.mode = \"none\" does not allow: set auth.mode to \
                   \"token\" or \"password\"";
    assert_eq!(complaints(Config::from_toml(none)), [format!("3 gateway.behind_tls_proxy: {refusal}")]);
    let home = Home::with("[gateway]\nauth.mode = 'none'\n");
    let said = complaints(home.load(&[("WATERTIGHT_BEHIND_TLS_PROXY", "true")]));
    assert_eq!(said, [format!("WATERTIGHT_BEHIND_TLS_PROXY: {refusal}")]);
    good(home.load(&[("WATERTIGHT_BEHIND_TLS_PROXY", "false")]));
    assert!(good(Home::with(none).load(&[("WATERTIGHT_AUTH_MODE", "token")])).gateway.behind_tls_proxy);
}

#[test]
fn flags_go_over_the_environment_and_the_environment_over_the_file() {
    let home = Home::with("[gateway]\nlisten = '127.0.0.1:1'\nauth.password = 'file'\n");
    let env = [("WATERTIGHT_LISTEN", "127.0.0.1:2"), ("WATERTIGHT_AUTH_TOKEN", "variable")];
    let config = good(home.load(&env));
    assert_eq!(config.gateway.listen.port(), 2);
    let Auth::Token(token) = &config.gateway.auth else { panic!("the environment replaces the whole of auth") };
    assert_eq!(token.expose(), "variable");

    let flags = Overrides { listen: Some("127.0.0.1:3".parse().unwrap()) };
    assert_eq!(good(Config::load(Sources { flags, ..home.sources(&env) })).gateway.listen.port(), 3);

    let flags = Overrides { listen: Some("0.0.0.0:3".parse().unwrap()) };
    let said = complaints(Config::load(Sources { flags, ..home.sources(&env) }));
    assert!(said[0].starts_with("--listen: 0.0.0.0:3 is open"), "{said:?}");
    let said = complaints(home.load(&[("WATERTIGHT_LISTEN", "x"), ("WATERTIGHT_BEHIND_TLS_PROXY", "1")]));
    assert!(said[0].starts_with("WATERTIGHT_LISTEN: must be"), "{said:?}");
    assert!(said[1].starts_with("WATERTIGHT_BEHIND_TLS_PROXY: must be"), "{said:?}");
    let flags = Overrides { listen: Some("0.0.0.0:3".parse().unwrap()) };
    let env = [("WATERTIGHT_BEHIND_TLS_PROXY", "true")];
    assert!(good(Config::load(Sources { flags, ..home.sources(&env) })).gateway.behind_tls_proxy);
}

#[test]
fn an_authentication_that_cannot_work_is_refused() {
    for (auth, part) in [
        ("auth.mode = 'password'", "needs auth.password"),
        ("auth.token = 'a'\nauth.password = 'b'", "both given"),
        ("auth.mode = 'none'\nauth.token = 'a'", "no effect in mode \"none\""),
        ("auth.mode = 'token'\nauth.password = 'a'", "no effect in mode \"token\""),
        ("auth.token = ' '", "must not be empty"),
        ("auth = 'none'", "must be a table"),
    ] {
        let said = complaints(Config::from_toml(&format!("[gateway]\n{auth}\n")));
        assert!(said.iter().any(|line| line.contains(part)), "{auth}: {said:?}");
    }
    assert!(matches!(good(Config::from_toml("[gateway]\nauth.mode='token'\n")).gateway.auth, Auth::GeneratedToken));
    assert!(matches!(good(Config::from_toml("[gateway]\nauth.token='t'\n")).gateway.auth, Auth::Token(_)));
    assert!(matches!(good(Config::from_toml("[gateway]\nauth.password='t'\n")).gateway.auth, Auth::Password(_)));
}

#[test]
fn a_client_does_without_the_gateways_secrets() {
    let home = Home::with(
        "[gateway]\nauth.token = '${T}'\n[[agents]]\nid='a'\nmodel='p/m'\n[providers.p]\nkind='openai'\napi_key='${K}'\n",
    );
    assert_eq!(complaints(home.load(&[])).len(), 2);
    let client = || Sources { secrets: SecretUse::IfPresent, ..home.sources(&[]) };
    let config = good(Config::load(client()));
    assert!(matches!(config.gateway.auth, Auth::GeneratedToken));
    let env = BTreeMap::from([("T".to_owned(), "t".to_owned())]);
    assert!(matches!(good(Config::load(Sources { env, ..client() })).gateway.auth, Auth::Token(_)));
}

#[test]
fn an_epoch_lasts_from_an_hour_to_a_year() {
    assert_eq!(good(Config::from_toml("")).keys.epoch_hours, 24);
    assert_eq!(good(Config::from_toml("[keys]\nepoch_hours = 1")).keys.epoch_hours, 1);
    for hours in ["0", "-1", "8785", "99999999999999999999"] {
        let said = complaints(Config::from_toml(&format!("[keys]\nepoch_hours = {hours}")));
        assert!(said[0].contains("keys.epoch_hours: must be from 1 to 8784"), "{said:?}");
    }
    let said = complaints(Config::from_toml("[keys]\nepoch_hours = 'day'\ncheckpoint_file = ' '"));
    assert!(said[0].contains("must be a whole number") && said[1].contains("must name a file"), "{said:?}");
}

#[test]
fn providers_without_an_agent_are_pointed_out() {
    let said = complaints(Config::from_toml("[providers.p]\nkind = 'openai'\n"));
    assert!(said[0].contains("add [[agents]]"), "{said:?}");
}

#[test]
fn the_echo_provider_is_the_built_in_model_and_has_no_settings() {
    let said = complaints(Config::from_toml("[[agents]]\nid='a'\n[providers.e]\nkind='echo'\nbase_url='http://h'\n"));
    assert!(said[0].starts_with("5 providers.e.base_url: unknown key"), "{said:?}");
    let said = complaints(Config::from_toml("[[agents]]\nid='a'\n[providers.echo]\nkind = 'openai'\n"));
    assert!(said[0].contains("built-in model"), "{said:?}");
}

#[test]
fn a_provider_address_holds_nothing_but_an_address() {
    for url in ["http://u:p@h/v1", "http://h/#f", "h/v1", "file:///x"] {
        let text = format!("[[agents]]\nid='a'\n[providers.p]\nkind='openai'\nbase_url='{url}'\n");
        assert_eq!(complaints(Config::from_toml(&text)).len(), 1, "{url}");
    }
}

#[test]
fn debug_output_holds_no_argument_of_a_key_command() {
    let config = Config::from_toml("[keys]\nsource = \"command:get --secret x\"").unwrap();
    assert_eq!(
        format!("{:?}", config.keys),
        "Keys { source: Some(\"command:get\"), epoch_hours: 24, checkpoint_file: None }"
    );
    let config = Config::from_toml("[keys]\nsource = \"file:/a b\"").unwrap();
    assert_eq!(
        format!("{:?}", config.keys),
        "Keys { source: Some(\"file:/a b\"), epoch_hours: 24, checkpoint_file: None }"
    );
}
