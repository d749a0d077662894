//! `[providers.<name>]` and the provider that `OPENAI_API_KEY` brings.

use std::collections::BTreeMap;

use url::Url;

use crate::environment::{Environment, OPENAI_API_KEY, OPENAI_BASE_URL};
use crate::error::Source;
use crate::gateway::secret_text;
use crate::secret::Secret;
use crate::section::{Found, Problems, Section, check_name, unknown};
use crate::settings::{Config, OpenAi, Provider, SessionHeader, Tenant};

pub(crate) fn read(
    root: &mut Section<'_, '_>,
    tenants: &BTreeMap<String, Tenant>,
    environment: Environment<'_>,
    problems: &Problems<'_>,
) -> BTreeMap<String, Provider> {
    let mut providers = BTreeMap::from([(Config::ECHO_PROVIDER.to_owned(), Provider::Echo)]);
    for (name, mut section) in root.named("providers") {
        check_name(&name, &section.at, problems);
        let provider = entry(&name, &mut section, tenants, environment);
        section.finish();
        providers.insert(name, provider);
    }
    if let Some(key) = environment.get(OPENAI_API_KEY) {
        providers.entry(Config::OPENAI_PROVIDER.to_owned()).or_insert_with(|| {
            let base_url = match environment.get(OPENAI_BASE_URL).map(base_url) {
                Some(Ok(url)) => Some(url),
                Some(Err(message)) => {
                    problems.report_source(Source::Variable(OPENAI_BASE_URL), message);
                    None
                }
                None => None,
            };
            Provider::OpenAi(OpenAi {
                base_url: base_url.unwrap_or_else(default_url),
                api_key: Some(Secret::new(key)),
                session_header: None,
                tenant: None,
            })
        });
    }
    providers
}

const KINDS: [&str; 2] = ["openai", "echo"];

fn entry(
    name: &str,
    section: &mut Section<'_, '_>,
    tenants: &BTreeMap<String, Tenant>,
    environment: Environment<'_>,
) -> Provider {
    let problems = section.problems;
    let kind = section.string("kind");
    match &kind {
        None => problems.report(&section.missing("kind"), "is missing: \"openai\" or \"echo\""),
        Some(kind) if !KINDS.contains(&kind.value.as_str()) => {
            problems.report(&kind.at, unknown("kind", &kind.value, KINDS.into_iter()));
        }
        Some(kind) if name == Config::ECHO_PROVIDER && kind.value != "echo" => {
            problems.report(&kind.at, "the provider named \"echo\" is the built-in model: choose another name");
        }
        Some(kind) if kind.value == "echo" => return Provider::Echo,
        Some(_) => {}
    }

    let base_url = section.string("base_url").and_then(|Found { value, at }| match base_url(&value) {
        Ok(url) => Some(url),
        Err(message) => {
            problems.report(&at, message);
            None
        }
    });
    let api_key =
        section.string("api_key").and_then(|Found { value, at }| secret_text(&value, &at, environment, problems));
    let session_header = section.string("session_header").and_then(|Found { value, at }| match value.as_str() {
        "raw" => Some(SessionHeader::Raw),
        "hashed" => Some(SessionHeader::Hashed),
        "off" => Some(SessionHeader::Off),
        _ => {
            problems.report(&at, unknown("mode", &value, ["raw", "hashed", "off"].into_iter()));
            None
        }
    });
    let tenant = section.string("tenant").map(|Found { value, at }| {
        if !tenants.contains_key(&value) {
            problems.report(&at, unknown("tenant", &value, tenants.keys().map(String::as_str)));
        }
        value
    });
    Provider::OpenAi(OpenAi {
        base_url: base_url.unwrap_or_else(default_url),
        api_key: api_key.map(Secret::new),
        session_header,
        tenant,
    })
}

fn base_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL, such as http://127.0.0.1:8080/v1")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must start with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password: use api_key");
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment");
    }
    Ok(url)
}

#[expect(clippy::expect_used, reason = "the text is a constant, and a test parses it")]
fn default_url() -> Url {
    Url::parse(Config::DEFAULT_OPENAI_URL).expect("a constant URL")
}
