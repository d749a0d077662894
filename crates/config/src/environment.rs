//! The variables Watertight reads.
//!
//! | variable | stands for |
//! |---|---|
//! | `WATERTIGHT_LISTEN` | `gateway.listen` |
//! | `WATERTIGHT_BEHIND_TLS_PROXY` | `gateway.behind_tls_proxy`, `true` or `false` |
//! | `WATERTIGHT_TLS_CERT`, `WATERTIGHT_TLS_KEY` | `gateway.tls_cert`, `gateway.tls_key`; either of them replaces both of the file |
//! | `WATERTIGHT_AUTH_MODE`, `WATERTIGHT_AUTH_TOKEN`, `WATERTIGHT_AUTH_PASSWORD` | `gateway.auth`; any of them replaces the file's whole `[gateway.auth]` |
//! | `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_MODEL` | a provider `openai` where the file has none, and the model of an agent that names none |

use std::collections::BTreeMap;

pub(crate) const LISTEN: &str = "WATERTIGHT_LISTEN";
pub(crate) const BEHIND_TLS_PROXY: &str = "WATERTIGHT_BEHIND_TLS_PROXY";
pub(crate) const TLS_CERT: &str = "WATERTIGHT_TLS_CERT";
pub(crate) const TLS_KEY: &str = "WATERTIGHT_TLS_KEY";
pub(crate) const AUTH_MODE: &str = "WATERTIGHT_AUTH_MODE";
pub(crate) const AUTH_TOKEN: &str = "WATERTIGHT_AUTH_TOKEN";
pub(crate) const AUTH_PASSWORD: &str = "WATERTIGHT_AUTH_PASSWORD";
pub(crate) const OPENAI_API_KEY: &str = "OPENAI_API_KEY";
pub(crate) const OPENAI_BASE_URL: &str = "OPENAI_BASE_URL";
pub(crate) const OPENAI_MODEL: &str = "OPENAI_MODEL";

/// The environment the caller passed in.
#[derive(Clone, Copy)]
pub(crate) struct Environment<'e> {
    variables: &'e BTreeMap<String, String>,
    /// Whether a variable that `${…}` names may be missing: its setting is then left out.
    pub(crate) lenient: bool,
}

impl<'e> Environment<'e> {
    pub(crate) fn new(variables: &'e BTreeMap<String, String>, lenient: bool) -> Self {
        Self { variables, lenient }
    }

    /// A variable's text; an empty variable counts as missing.
    pub(crate) fn get(self, name: &str) -> Option<&'e str> {
        self.variables.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// `text` with every `${NAME}` replaced. `Ok(None)`: a variable is missing and that is allowed.
    pub(crate) fn substitute(self, text: &str) -> Result<Option<String>, String> {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, tail)) = after.split_once('}') else {
                return Err("has a \"${\" without \"}\"".to_owned());
            };
            if !is_variable_name(name) {
                return Err("names a variable with characters other than A-Z, a-z, 0-9 and _".to_owned());
            }
            out.push_str(before);
            match self.get(name) {
                Some(value) => out.push_str(value),
                None if self.lenient => return Ok(None),
                None => return Err(format!("the environment variable {name} is not set")),
            }
            rest = tail;
        }
        out.push_str(rest);
        Ok(Some(out))
    }
}

fn is_variable_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [("KEY", "s3cret"), ("BLANK", " ")].map(|(name, text)| (name.to_owned(), text.to_owned())).into()
    }

    #[test]
    fn variables_are_replaced_wherever_they_stand() {
        let all = variables();
        let environment = Environment::new(&all, false);
        assert_eq!(environment.substitute("a-${KEY}-$x-${KEY}"), Ok(Some("a-s3cret-$x-s3cret".to_owned())));
        assert_eq!(environment.substitute("plain"), Ok(Some("plain".to_owned())));
    }

    #[test]
    fn a_missing_or_blank_variable_is_an_error_unless_secrets_are_optional() {
        let all = variables();
        for text in ["${NOPE}", "${BLANK}"] {
            assert!(Environment::new(&all, false).substitute(text).unwrap_err().ends_with("is not set"));
            assert_eq!(Environment::new(&all, true).substitute(text), Ok(None));
        }
        for text in ["${KEY", "${}", "${A-B}", "${1A}"] {
            assert!(Environment::new(&all, true).substitute(text).is_err(), "{text}");
        }
    }
}
