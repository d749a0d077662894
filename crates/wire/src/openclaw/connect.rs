//! The first request of a connection (gateway-ws.md §1.4 to §1.6).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::failure::ErrorShape;
use super::shape::{Shape, any, integer, list, one_of, open, optional, required, text, text_within};
use super::{MINIMUM_PROBE_PROTOCOL, PROTOCOL};

/// Sent at once after the socket opens.
#[derive(Debug, Serialize)]
pub struct Challenge<'a> {
    /// What a device signs.
    pub nonce: &'a str,
    /// Our clock, in milliseconds since the epoch.
    pub ts: i64,
}

/// Which program connects. Clients of the protocol know these and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the wire names say it")]
pub enum ClientId {
    WebchatUi,
    OpenclawControlUi,
    OpenclawBrowserCopilot,
    OpenclawTui,
    Webchat,
    Cli,
    GatewayClient,
    OpenclawMacos,
    OpenclawLinux,
    OpenclawIos,
    OpenclawWatchos,
    OpenclawAndroid,
    NodeHost,
    OpenclawWorker,
    Test,
    Fingerprint,
    OpenclawProbe,
}

const CLIENT_IDS: Shape = one_of(&[
    "webchat-ui",
    "openclaw-control-ui",
    "openclaw-browser-copilot",
    "openclaw-tui",
    "webchat",
    "cli",
    "gateway-client",
    "openclaw-macos",
    "openclaw-linux",
    "openclaw-ios",
    "openclaw-watchos",
    "openclaw-android",
    "node-host",
    "openclaw-worker",
    "test",
    "fingerprint",
    "openclaw-probe",
]);

/// In what way it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the wire names say it")]
pub enum ClientMode {
    Webchat,
    Cli,
    Ui,
    Backend,
    Node,
    Worker,
    Probe,
    Test,
}

const CLIENT_MODES: Shape = one_of(&["webchat", "cli", "ui", "backend", "node", "worker", "probe", "test"]);

// Unknown fields are accepted: a newer client must be able to connect.
static PARAMS: Shape = open(&[
    required("minProtocol", integer(1)),
    required("maxProtocol", integer(1)),
    required(
        "client",
        open(&[
            required("id", CLIENT_IDS),
            required("version", text(1)),
            required("platform", text(1)),
            required("mode", CLIENT_MODES),
            optional("displayName", text(1)),
            optional("buildId", text_within(1, 96)),
            optional("deviceFamily", text(1)),
            optional("modelIdentifier", text(1)),
            optional("timeZone", text_within(1, 64)),
            optional("instanceId", text(1)),
        ]),
    ),
    optional("role", text(1)),
    optional("scopes", list(&NAME)),
    optional("caps", list(&NAME)),
    optional("commands", list(&NAME)),
    optional("permissions", Shape::Map(&Shape::Boolean)),
    optional("pathEnv", text(0)),
    optional("computerUse", any()),
    optional("workerRuns", any()),
    optional("modelCatalog", any()),
    optional(
        "device",
        open(&[
            required("id", text(1)),
            required("publicKey", text(1)),
            required("signature", text(1)),
            required("signedAt", integer(0)),
            // Its absence has an answer of its own.
            optional("nonce", text(0)),
        ]),
    ),
    optional(
        "auth",
        open(&[
            optional("token", text(0)),
            optional("password", text(0)),
            optional("deviceToken", text(0)),
            optional("bootstrapToken", text(0)),
            optional("approvalRuntimeToken", text(0)),
            optional("agentRuntimeIdentityToken", text(0)),
        ]),
    ),
    optional("locale", text(0)),
    optional("userAgent", text(0)),
]);

static NAME: Shape = text(1);

/// What a client says about itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectParams {
    /// Oldest protocol it speaks.
    #[serde(deserialize_with = "super::shape::whole_number")]
    pub min_protocol: u32,
    /// Newest protocol it speaks.
    #[serde(deserialize_with = "super::shape::whole_number")]
    pub max_protocol: u32,
    /// Which program it is.
    pub client: Client,
    /// `operator` where absent.
    pub role: Option<String>,
    /// The scopes it asks for. None means none.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What it can handle.
    #[serde(default)]
    pub caps: Vec<String>,
    /// Its device identity.
    pub device: Option<Device>,
    /// What it presents.
    #[serde(default)]
    pub auth: Auth,
}

/// A program.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// Which program.
    pub id: ClientId,
    /// Its version.
    pub version: String,
    /// Its operating system.
    pub platform: String,
    /// In what way it connects.
    pub mode: ClientMode,
    /// What it calls itself.
    pub display_name: Option<String>,
    /// What sort of machine it runs on.
    pub device_family: Option<String>,
    /// Which machine it runs on.
    pub model_identifier: Option<String>,
    /// Its time zone.
    pub time_zone: Option<String>,
    /// Which of its instances this is.
    pub instance_id: Option<String>,
}

/// A device identity, as the client claims it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Fingerprint of the device's key: lower-case hex.
    pub id: String,
    /// The key: 32 bytes in base64url.
    pub public_key: String,
    /// The key's signature over one of [`ConnectParams::device_payloads`].
    pub signature: String,
    /// When it was signed, in milliseconds since the epoch.
    #[serde(deserialize_with = "super::shape::whole_number")]
    pub signed_at: i64,
    /// The challenge it answers.
    #[serde(default)]
    pub nonce: String,
}

/// What a client presents. No `Debug`: it holds secrets.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    token: Option<String>,
    password: Option<String>,
    device_token: Option<String>,
    bootstrap_token: Option<String>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

impl Auth {
    /// The secrets to try, in order: clients put the shared secret into either of two fields or both, and a device's
    /// token into its own field and the first.
    pub fn secrets(&self) -> Vec<&str> {
        let mut secrets = Vec::new();
        for secret in [&self.token, &self.password, &self.device_token].into_iter().flatten() {
            if !secret.is_empty() && !secrets.contains(&secret.as_str()) {
                secrets.push(secret.as_str());
            }
        }
        secrets
    }

    /// A setup code.
    pub fn bootstrap_token(&self) -> Option<&str> {
        given(self.bootstrap_token.as_ref())
    }

    /// What a device signs of all this: the first that is there, also an empty one.
    fn signed_token(&self) -> &str {
        [&self.token, &self.device_token, &self.bootstrap_token].into_iter().flatten().next().map_or("", String::as_str)
    }
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// Stands between the fields of what a device signs.
const SEPARATOR: char = '|';

impl ConnectParams {
    /// What its device has to have signed: version 3 of the payload, or version 2 without the last two fields
    /// (gateway-ws.md §1.7). None without a device, and where a field holds a separator: then two sets of fields could
    /// read the same.
    pub fn device_payloads(&self) -> Option<[String; 2]> {
        let device = self.device.as_ref()?;
        let scopes = self.scopes.join(",");
        let described = |text: Option<&str>| text.unwrap_or_default().trim().to_ascii_lowercase();
        let (platform, family) =
            (described(Some(&self.client.platform)), described(self.client.device_family.as_deref()));
        let (role, token) = (self.role.as_deref().unwrap_or("operator"), self.auth.signed_token());
        let fields = [&device.id, &device.nonce, role, &scopes, token, &platform, &family];
        if fields.iter().any(|field| field.contains(SEPARATOR)) || self.scopes.iter().any(|scope| scope.contains(',')) {
            return None;
        }
        let (client, mode) = (name(&self.client.id), name(&self.client.mode));
        let common = [&device.id, &*client, &*mode, role, &scopes, &device.signed_at.to_string(), token, &device.nonce]
            .join("|");
        Some([format!("v3|{common}|{platform}|{family}"), format!("v2|{common}")])
    }

    /// Parses the parameters of `connect`.
    pub fn parse(params: Option<&serde_json::value::RawValue>) -> Result<Self, ErrorShape> {
        super::shape::parse("connect", &PARAMS, params)
    }

    /// Whether it speaks our protocol. A probe may be one version behind.
    pub fn negotiate(&self) -> Result<(), ErrorShape> {
        let covers = |version| self.min_protocol <= version && version <= self.max_protocol;
        let probe = self.client.mode == ClientMode::Probe
            && self.max_protocol >= MINIMUM_PROBE_PROTOCOL
            && self.min_protocol <= PROTOCOL;
        if covers(PROTOCOL) || probe {
            return Ok(());
        }
        Err(ErrorShape::invalid("protocol mismatch").with_details(json!({
            "code": "PROTOCOL_MISMATCH",
            "clientMinProtocol": self.min_protocol,
            "clientMaxProtocol": self.max_protocol,
            "expectedProtocol": PROTOCOL,
            "minimumProbeProtocol": MINIMUM_PROBE_PROTOCOL,
        })))
    }

    /// Whether it names this capability.
    pub fn has_cap(&self, cap: &str) -> bool {
        self.caps.iter().any(|mine| mine == cap)
    }
}

impl Client {
    /// Whether it is the chat page or another page in a browser.
    pub fn is_browser(&self) -> bool {
        matches!(
            self.id,
            ClientId::OpenclawControlUi | ClientId::Webchat | ClientId::WebchatUi | ClientId::OpenclawBrowserCopilot
        ) || self.mode == ClientMode::Webchat
    }

    /// Whether a person's eyes are in front of it, so that it must come with a device identity.
    pub fn is_ui(&self) -> bool {
        self.is_browser() || self.id == ClientId::OpenclawTui
    }

    /// Whether it keeps the scopes it asks for without a device identity.
    pub fn keeps_scopes_without_device(&self) -> bool {
        matches!(
            (self.id, self.mode),
            (ClientId::GatewayClient, ClientMode::Backend) | (ClientId::Cli, ClientMode::Cli)
        )
    }
}

impl ClientId {
    /// Its name on the wire.
    pub fn name(self) -> String {
        name(&self)
    }
}

impl ClientMode {
    /// Its name on the wire.
    pub fn name(self) -> String {
        name(&self)
    }
}

/// A name of a closed set as the wire spells it.
fn name(of: &impl Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, value::RawValue};

    fn parse(params: Value) -> Result<ConnectParams, ErrorShape> {
        ConnectParams::parse(Some(&RawValue::from_string(params.to_string()).unwrap()))
    }

    fn with_client(min: u32, max: u32, id: &str, mode: &str) -> Value {
        json!({
            "minProtocol": min, "maxProtocol": max,
            "client": {"id": id, "version": "1", "platform": "linux", "mode": mode},
        })
    }

    #[test]
    fn every_listed_client_and_mode_parses() {
        let (Shape::OneOf(ids), Shape::OneOf(modes)) = (CLIENT_IDS, CLIENT_MODES) else { panic!() };
        for id in ids {
            let parsed = parse(with_client(4, 4, id, "cli")).unwrap();
            assert_eq!(serde_json::to_value(parsed.client.id).unwrap(), *id);
        }
        for mode in modes {
            let parsed = parse(with_client(4, 4, "cli", mode)).unwrap();
            assert_eq!(serde_json::to_value(parsed.client.mode).unwrap(), *mode);
        }
    }

    #[test]
    fn an_unknown_client_is_refused_in_upstreams_words() {
        let error = parse(with_client(4, 4, "mine", "operator")).unwrap_err().message;
        assert_eq!(
            error,
            "invalid connect params: at /client/id: must be equal to one of the allowed values; \
             at /client/mode: must be equal to one of the allowed values"
        );
    }

    #[test]
    fn an_unknown_field_of_a_newer_client_is_accepted() {
        let mut params = with_client(4, 4, "cli", "cli");
        params["somethingNew"] = json!(1);
        params["client"]["somethingNew"] = json!(1);
        params["auth"] = json!({"somethingNew": "x", "token": "t", "password": "t"});
        assert_eq!(parse(params).unwrap().auth.secrets(), ["t"]);
    }

    #[test]
    fn a_secret_is_never_printed() {
        let mut params = with_client(4, 4, "cli", "cli");
        params["auth"] = json!({"token": "hush", "deviceToken": "hush", "bootstrapToken": "hush"});
        assert!(!format!("{:?}", parse(params).unwrap()).contains("hush"));
    }

    fn device_params() -> Value {
        let mut params = with_client(4, 4, "test", "test");
        params["client"]["platform"] = json!(" Linux ");
        params["client"]["deviceFamily"] = json!("BOX");
        params["scopes"] = json!(["operator.read", "operator.write"]);
        params["auth"] = json!({"token": "SECRET", "deviceToken": "other"});
        params["device"] = json!({"id": "ab", "publicKey": "k", "signature": "s", "signedAt": 1_800_000_000_000_i64, "nonce": "nonce-1"});
        params
    }

    #[test]
    fn a_device_signs_every_field_that_decides_what_it_gets() {
        let payloads = parse(device_params()).unwrap().device_payloads().unwrap();
        let common = "ab|test|test|operator|operator.read,operator.write|1800000000000|SECRET|nonce-1";
        assert_eq!(payloads, [format!("v3|{common}|linux|box"), format!("v2|{common}")]);
        let mut bare = device_params();
        bare["auth"] = json!({"password": "p", "bootstrapToken": "code"});
        bare["client"].as_object_mut().unwrap().remove("deviceFamily");
        bare["scopes"] = json!([]);
        let payloads = parse(bare).unwrap().device_payloads().unwrap();
        assert_eq!(payloads[0], "v3|ab|test|test|operator||1800000000000|code|nonce-1|linux|");
    }

    #[test]
    fn fields_that_could_be_read_two_ways_are_not_signed_for() {
        for (at, text) in [
            ("/scopes/0", "operator.read|x"),
            ("/scopes/0", "operator.read,operator.admin"),
            ("/auth/token", "SECRET|n"),
            ("/client/platform", "linux|box"),
            ("/client/deviceFamily", "a|b"),
            ("/device/nonce", "n|n"),
            ("/device/id", "a|b"),
        ] {
            let mut params = device_params();
            *params.pointer_mut(at).unwrap() = json!(text);
            assert_eq!(parse(params).unwrap().device_payloads(), None, "{at} {text}");
        }
        assert_eq!(parse(with_client(4, 4, "cli", "cli")).unwrap().device_payloads(), None);
    }

    #[test]
    fn only_a_probe_may_be_one_version_behind() {
        let negotiate = |min, max, mode| parse(with_client(min, max, "cli", mode)).unwrap().negotiate();
        assert!(negotiate(4, 4, "cli").is_ok() && negotiate(3, 5, "cli").is_ok());
        assert!(negotiate(3, 4, "probe").is_ok() && negotiate(3, 3, "probe").is_ok());
        assert!(negotiate(5, 6, "probe").is_err() && negotiate(1, 2, "probe").is_err());
        insta::assert_json_snapshot!(negotiate(3, 3, "cli").unwrap_err(), @r#"
        {
          "code": "INVALID_REQUEST",
          "message": "protocol mismatch",
          "details": {
            "clientMaxProtocol": 3,
            "clientMinProtocol": 3,
            "code": "PROTOCOL_MISMATCH",
            "expectedProtocol": 4,
            "minimumProbeProtocol": 3
          }
        }
        "#);
    }
}
