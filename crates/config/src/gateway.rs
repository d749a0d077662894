//! `[gateway]`: the file's, over which the environment goes, over which the flags go.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use url::Url;

use crate::environment::{
    AUTH_MODE, AUTH_PASSWORD, AUTH_TOKEN, BEHIND_TLS_PROXY, Environment, LISTEN, TLS_CERT, TLS_KEY,
};
use crate::error::Source;
use crate::load::Overrides;
use crate::secret::Secret;
use crate::section::{Found, Place, Problems, Section, unknown};
use crate::settings::{Auth, Gateway, TlsFiles};

/// Where a setting comes from, so that a complaint goes to the right place.
enum Spot {
    File(Place),
    Elsewhere(Source),
}

impl Spot {
    fn report(&self, problems: &Problems<'_>, message: impl Into<String>) {
        match self {
            Self::File(place) => problems.report(place, message),
            Self::Elsewhere(source) => problems.report_source(source.clone(), message),
        }
    }
}

fn variable(name: &'static str) -> Spot {
    Spot::Elsewhere(Source::Variable(name))
}

pub(crate) fn read(
    root: &mut Section<'_, '_>,
    environment: Environment<'_>,
    flags: &Overrides,
    problems: &Problems<'_>,
) -> Gateway {
    let mut section = root.section("gateway");
    let mut file = section.as_mut();

    let in_file = file.as_mut().and_then(|s| s.string("listen")).map(|Found { value, at }| (value, Spot::File(at)));
    let in_variable = environment.get(LISTEN).map(|text| (text.to_owned(), variable(LISTEN)));
    let listen = match flags.listen {
        Some(address) => Some((address, Spot::Elsewhere(Source::Flag("--listen")))),
        None => in_variable.or(in_file).and_then(|(text, spot)| match text.parse::<SocketAddr>() {
            Ok(address) => Some((address, spot)),
            Err(_) => {
                spot.report(problems, "must be an address with a port, such as 127.0.0.1:18789 or [::1]:18789");
                None
            }
        }),
    };

    let in_file =
        file.as_mut().and_then(|s| s.boolean("behind_tls_proxy")).map(|Found { value, at }| (value, Spot::File(at)));
    // Where it is said to be behind a proxy.
    let proxy = match environment.get(BEHIND_TLS_PROXY) {
        None => in_file.and_then(|(value, spot)| value.then_some(spot)),
        Some("true") => Some(variable(BEHIND_TLS_PROXY)),
        Some("false") => None,
        Some(_) => {
            variable(BEHIND_TLS_PROXY).report(problems, "must be true or false");
            Some(variable(BEHIND_TLS_PROXY))
        }
    };

    let allowed_origins = allowed_origins(file.as_deref_mut(), problems);
    let in_file = TlsWords::of_file(file.as_deref_mut(), problems);
    let tls = TlsWords::of_environment(environment).unwrap_or(in_file);
    let speaks_tls = tls.is_named();
    let tls = tls.decide(problems);

    let mut auth_section = file.and_then(|s| s.section("auth"));
    let words = auth_section.as_mut().map(|s| AuthWords::of_file(s, environment));
    if let Some(section) = auth_section {
        section.finish();
    }
    if let Some(section) = section {
        section.finish();
    }
    let auth = AuthWords::of_environment(environment).or(words).unwrap_or_default().decide(problems);

    if let (Some(spot), Auth::None) = (&proxy, &auth) {
        // Also on loopback: the proxy is there to bring others in.
        spot.report(
            problems,
            "lets in everybody the proxy forwards, which auth.mode = \"none\" does not allow: set auth.mode to \
             \"token\" or \"password\"",
        );
    }
    if let Some((address, spot)) = &listen
        && !address.ip().to_canonical().is_loopback()
        && (proxy.is_none() || speaks_tls)
    {
        if matches!(auth, Auth::None) {
            spot.report(
                problems,
                format!("{address} is open to other machines, which auth.mode = \"none\" does not allow"),
            );
        }
        if !speaks_tls {
            spot.report(
                problems,
                format!(
                    "{address} is open to other machines and has no TLS: name a certificate with gateway.tls_cert and \
                     gateway.tls_key, or put a TLS proxy in front and set gateway.behind_tls_proxy = true, or listen on \
                     127.0.0.1"
                ),
            );
        }
    }
    Gateway {
        listen: listen.map_or(Gateway::DEFAULT_LISTEN, |(address, _)| address),
        auth,
        behind_tls_proxy: proxy.is_some(),
        tls,
        allowed_origins,
    }
}

/// Origins as browsers write them: scheme, host and, where it is not the scheme's own, port.
fn allowed_origins(section: Option<&mut Section<'_, '_>>, problems: &Problems<'_>) -> Vec<String> {
    let mut origins = Vec::new();
    for Found { value, at } in section.map(|section| section.strings("allowed_origins")).unwrap_or_default() {
        let origin = Url::parse(&value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let whole = origin.map(|url| url.origin().ascii_serialization()).filter(|whole| *whole == value);
        match whole {
            Some(whole) => origins.push(whole),
            None => problems.report(
                &at,
                "must be an origin as browsers send it: scheme, host and port without a path, such as https://app.example",
            ),
        }
    }
    origins
}

/// `tls_cert` and `tls_key` as written. The environment's replace the file's as a pair, so that the certificate of one
/// run does not meet another's key.
#[derive(Default)]
struct TlsWords {
    cert: Option<(PathBuf, Spot)>,
    key: Option<(PathBuf, Spot)>,
    /// What the two are called where they stand.
    names: [&'static str; 2],
}

impl TlsWords {
    /// Names are relative to the configuration's directory.
    fn of_file(section: Option<&mut Section<'_, '_>>, problems: &Problems<'_>) -> Self {
        let base = problems.path.parent().unwrap_or(Path::new(""));
        let names = ["gateway.tls_cert", "gateway.tls_key"];
        let Some(section) = section else { return Self { names, ..Self::default() } };
        let mut path = |key| {
            let Found { value, at } = section.string(key)?;
            if value.trim().is_empty() {
                problems.report(&at, "must not be empty: leave it out instead");
            }
            Some((base.join(value), Spot::File(at)))
        };
        Self { cert: path("tls_cert"), key: path("tls_key"), names }
    }

    fn of_environment(environment: Environment<'_>) -> Option<Self> {
        let path = |name| environment.get(name).map(|text| (PathBuf::from(text), variable(name)));
        let words = Self { cert: path(TLS_CERT), key: path(TLS_KEY), names: [TLS_CERT, TLS_KEY] };
        words.is_named().then_some(words)
    }

    fn is_named(&self) -> bool {
        self.cert.is_some() || self.key.is_some()
    }

    fn decide(self, problems: &Problems<'_>) -> Option<TlsFiles> {
        let [cert_name, key_name] = self.names;
        let (spot, missing) = match (self.cert, self.key) {
            (Some((cert, _)), Some((key, _))) => return Some(TlsFiles { cert, key }),
            (Some((_, spot)), None) => (spot, key_name),
            (None, Some((_, spot))) => (spot, cert_name),
            (None, None) => return None,
        };
        spot.report(problems, format!("needs {missing} beside it: a certificate and its key go together"));
        None
    }
}

/// A secret that is named, though perhaps by a variable that is not set.
struct Word {
    text: Option<String>,
    spot: Spot,
}

/// `[gateway.auth]` as written. The environment's replaces the file's as a whole, so that a token given for one run
/// does not meet the password of the file.
#[derive(Default)]
struct AuthWords {
    mode: Option<(String, Spot)>,
    token: Option<Word>,
    password: Option<Word>,
}

impl AuthWords {
    fn of_file(section: &mut Section<'_, '_>, environment: Environment<'_>) -> Self {
        let mode = section.string("mode").map(|Found { value, at }| (value, Spot::File(at)));
        let mut secret = |key| {
            let Found { value, at } = section.string(key)?;
            let text = secret_text(&value, &at, environment, section.problems);
            Some(Word { text, spot: Spot::File(at) })
        };
        Self { mode, token: secret("token"), password: secret("password") }
    }

    fn of_environment(environment: Environment<'_>) -> Option<Self> {
        let word = |name| environment.get(name).map(|text| Word { text: Some(text.to_owned()), spot: variable(name) });
        let mode = environment.get(AUTH_MODE).map(|text| (text.to_owned(), variable(AUTH_MODE)));
        let words = Self { mode, token: word(AUTH_TOKEN), password: word(AUTH_PASSWORD) };
        (words.mode.is_some() || words.token.is_some() || words.password.is_some()).then_some(words)
    }

    fn decide(self, problems: &Problems<'_>) -> Auth {
        let Self { mode, token, password } = self;
        let mode = match (mode, &token, &password) {
            (Some((text, spot)), ..) => {
                if !MODES.contains(&text.as_str()) {
                    spot.report(problems, unknown("mode", &text, MODES.into_iter()));
                    return Auth::GeneratedToken;
                }
                if text == "password" && password.is_none() {
                    spot.report(problems, "mode \"password\" needs auth.password");
                }
                text
            }
            (None, Some(_), Some(second)) => {
                second.spot.report(problems, "token and password are both given: name one of them in auth.mode");
                return Auth::GeneratedToken;
            }
            (None, None, Some(_)) => "password".to_owned(),
            (None, _, None) => "token".to_owned(),
        };
        for (name, word) in [("token", &token), ("password", &password)] {
            if let Some(word) = word
                && mode != name
            {
                word.spot.report(problems, format!("has no effect in mode \"{mode}\": remove it"));
            }
        }
        let text = |word: Option<Word>| word.and_then(|word| word.text).map(Secret::new);
        match mode.as_str() {
            "none" => Auth::None,
            "password" => text(password).map_or(Auth::GeneratedToken, Auth::Password),
            _ => text(token).map_or(Auth::GeneratedToken, Auth::Token),
        }
    }
}

const MODES: [&str; 3] = ["token", "password", "none"];

/// The text of a secret setting after `${…}`; none, where allowed or reported, if there is none.
pub(crate) fn secret_text(
    value: &str,
    at: &Place,
    environment: Environment<'_>,
    problems: &Problems<'_>,
) -> Option<String> {
    match environment.substitute(value) {
        Ok(Some(text)) if text.trim().is_empty() => {
            problems.report(at, "must not be empty: leave it out instead");
            None
        }
        Ok(text) => text,
        Err(message) => {
            problems.report(at, message);
            None
        }
    }
}
