//! What a connection is told when it is let in (gateway-ws.md §1.8), and the two snapshots it is kept up to date with.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::PROTOCOL;
use super::frame::StateVersion;

/// `hello-ok`.
#[derive(Debug, Serialize)]
pub struct HelloOk {
    #[serde(rename = "type")]
    kind: &'static str,
    protocol: u32,
    /// Who answers.
    pub server: Server,
    /// What may be asked and heard.
    pub features: Features,
    /// How things stand.
    pub snapshot: Snapshot,
    /// What the connection may do.
    pub auth: Granted,
    /// The limits it lives under.
    pub policy: Policy,
}

impl HelloOk {
    /// The answer to `connect`.
    pub fn new(server: Server, features: Features, snapshot: Snapshot, auth: Granted, policy: Policy) -> Self {
        Self { kind: "hello-ok", protocol: PROTOCOL, server, features, snapshot, auth, policy }
    }
}

/// Who answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Our version.
    pub version: &'static str,
    /// Names this run of the process.
    pub boot_id: String,
    /// Names the connection.
    pub conn_id: String,
}

/// What may be asked and heard.
#[derive(Debug, Serialize)]
pub struct Features {
    /// Methods, sorted.
    pub methods: &'static [&'static str],
    /// Events.
    pub events: &'static [&'static str],
}

/// How things stand.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Who is here: JSON of a list of [`PresenceEntry`].
    pub presence: Arc<RawValue>,
    /// How we are.
    pub health: Health,
    /// Versions of the two.
    pub state_version: StateVersion,
    /// How long the process runs, in milliseconds.
    pub uptime_ms: u64,
    /// Where a client that names nothing ends up.
    pub session_defaults: SessionDefaults,
    /// `token`, `password` or `none`; only for administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<&'static str>,
}

/// Where a client that names nothing ends up.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaults {
    /// The default agent.
    pub default_agent_id: String,
    /// The bare key of a main session.
    pub main_key: &'static str,
    /// The canonical key of the caller's main session.
    pub main_session_key: String,
    /// Always `per-sender`.
    pub scope: &'static str,
    /// Whether the default agent has a model.
    pub model_configured: bool,
}

/// What the connection may do.
#[derive(Debug, Serialize)]
pub struct Granted {
    /// Always `operator`.
    pub role: &'static str,
    /// The scopes it was given.
    pub scopes: Vec<String>,
    /// Its device's new token. Shown this once.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub device: Option<IssuedToken>,
}

/// A device's token as it is handed over. No `Debug` of the token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// The token.
    pub device_token: String,
    /// When it was issued, in milliseconds since the epoch.
    pub issued_at_ms: i64,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IssuedToken")
    }
}

/// The limits of a connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Largest frame we read, in bytes.
    pub max_payload: usize,
    /// Most bytes of events that may wait for a slow client.
    pub max_buffered_bytes: usize,
    /// Time between ticks, in milliseconds.
    pub tick_interval_ms: u64,
    /// Largest attachments.
    pub attachments: AttachmentPolicy,
}

/// Largest attachments, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentPolicy {
    /// All of one message.
    pub max_bytes: usize,
    /// One picture.
    pub max_image_bytes: usize,
}

/// Someone who is here.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PresenceEntry {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What sort of machine it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Which machine it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_identifier: Option<String>,
    /// Its time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// In what way it is here.
    pub mode: String,
    /// Why it is listed.
    pub reason: &'static str,
    /// Since when, in milliseconds since the epoch.
    pub ts: i64,
    /// Its role.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<&'static str>,
    /// Its scopes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Which of its instances it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
}

/// How we are. Counts what the asker may see, nothing else.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    ok: bool,
    ts: i64,
    duration_ms: u64,
    channels: Empty,
    channel_order: [(); 0],
    channel_labels: Empty,
    heartbeat_seconds: u32,
    default_agent_id: String,
    agents: Vec<AgentHealth>,
    sessions: SessionCount,
}

/// `{}`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Empty {}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentHealth {
    agent_id: String,
    is_default: bool,
    heartbeat: Heartbeat,
    sessions: SessionCount,
}

/// We have no heartbeats; clients read the fields all the same.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    enabled: bool,
    every: &'static str,
    every_ms: Option<u64>,
    prompt: &'static str,
    target: &'static str,
    ack_max_chars: u32,
}

impl Heartbeat {
    /// No heartbeat.
    pub const OFF: Self =
        Self { enabled: false, every: "disabled", every_ms: None, prompt: "", target: "none", ack_max_chars: 0 };
}

/// How many sessions, and the latest of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SessionCount {
    path: &'static str,
    /// How many.
    pub count: u64,
    /// The latest.
    pub recent: Vec<RecentSession>,
}

/// A session in [`SessionCount`].
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentSession {
    /// Its canonical key.
    pub key: String,
    /// Its last write.
    pub updated_at: Option<i64>,
    /// How long ago that was, in milliseconds.
    pub age: Option<u64>,
}

/// Stands where upstream shows a path: ours is nobody's business.
pub const STORE_NAME: &str = "store.db";

impl SessionCount {
    /// So many sessions.
    pub fn new(count: u64, recent: Vec<RecentSession>) -> Self {
        Self { path: STORE_NAME, count, recent }
    }
}

/// An agent in a health snapshot.
#[derive(Clone, Debug)]
pub struct AgentSessions {
    /// The agent.
    pub id: String,
    /// Whether it is the default agent.
    pub is_default: bool,
    /// Its sessions.
    pub sessions: SessionCount,
}

impl Health {
    /// We are well. The first default agent is the default.
    pub fn new(ts: i64, duration_ms: u64, agents: Vec<AgentSessions>, sessions: SessionCount) -> Self {
        let default = agents.iter().find(|agent| agent.is_default).map(|agent| agent.id.clone());
        Self {
            ok: true,
            ts,
            duration_ms,
            channels: Empty {},
            channel_order: [],
            channel_labels: Empty {},
            heartbeat_seconds: 0,
            default_agent_id: default.unwrap_or_default(),
            agents: agents
                .into_iter()
                .map(|agent| AgentHealth {
                    agent_id: agent.id,
                    is_default: agent.is_default,
                    heartbeat: Heartbeat::OFF,
                    sessions: agent.sessions,
                })
                .collect(),
            sessions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_has_the_required_fields() {
        let sessions = SessionCount::new(0, Vec::new());
        let agents = vec![AgentSessions { id: "main".into(), is_default: true, sessions: sessions.clone() }];
        let hello = HelloOk::new(
            Server { version: "0.1.0", boot_id: "b".into(), conn_id: "c".into() },
            Features { methods: &["agent", "health"], events: &["chat", "tick"] },
            Snapshot {
                presence: serde_json::value::to_raw_value(&[PresenceEntry {
                    host: Some("h".into()),
                    version: None,
                    platform: None,
                    device_family: None,
                    model_identifier: None,
                    time_zone: None,
                    mode: "gateway".into(),
                    reason: "self",
                    ts: 1_800_000_000_000,
                    roles: vec![],
                    scopes: vec![],
                    instance_id: None,
                }])
                .unwrap()
                .into(),
                health: Health::new(1_800_000_000_000, 3, agents, sessions),
                state_version: StateVersion { presence: 2, health: 1 },
                uptime_ms: 1200,
                session_defaults: SessionDefaults {
                    default_agent_id: "main".into(),
                    main_key: "main",
                    main_session_key: "agent:main:main".into(),
                    scope: "per-sender",
                    model_configured: true,
                },
                auth_mode: Some("token"),
            },
            Granted { role: "operator", scopes: vec!["operator.admin".into()], device: None },
            Policy {
                max_payload: 26_214_400,
                max_buffered_bytes: 8_388_608,
                tick_interval_ms: 30_000,
                attachments: AttachmentPolicy { max_bytes: 20_971_520, max_image_bytes: 6_291_456 },
            },
        );
        insta::assert_snapshot!(serde_json::to_string_pretty(&hello).unwrap(), @r#"
        {
          "type": "hello-ok",
          "protocol": 4,
          "server": {
            "version": "0.1.0",
            "bootId": "b",
            "connId": "c"
          },
          "features": {
            "methods": [
              "agent",
              "health"
            ],
            "events": [
              "chat",
              "tick"
            ]
          },
          "snapshot": {
            "presence": [{"host":"h","mode":"gateway","reason":"self","ts":1800000000000}],
            "health": {
              "ok": true,
              "ts": 1800000000000,
              "durationMs": 3,
              "channels": {},
              "channelOrder": [],
              "channelLabels": {},
              "heartbeatSeconds": 0,
              "defaultAgentId": "main",
              "agents": [
                {
                  "agentId": "main",
                  "isDefault": true,
                  "heartbeat": {
                    "enabled": false,
                    "every": "disabled",
                    "everyMs": null,
                    "prompt": "",
                    "target": "none",
                    "ackMaxChars": 0
                  },
                  "sessions": {
                    "path": "store.db",
                    "count": 0,
                    "recent": []
                  }
                }
              ],
              "sessions": {
                "path": "store.db",
                "count": 0,
                "recent": []
              }
            },
            "stateVersion": {
              "presence": 2,
              "health": 1
            },
            "uptimeMs": 1200,
            "sessionDefaults": {
              "defaultAgentId": "main",
              "mainKey": "main",
              "mainSessionKey": "agent:main:main",
              "scope": "per-sender",
              "modelConfigured": true
            },
            "authMode": "token"
          },
          "auth": {
            "role": "operator",
            "scopes": [
              "operator.admin"
            ]
          },
          "policy": {
            "maxPayload": 26214400,
            "maxBufferedBytes": 8388608,
            "tickIntervalMs": 30000,
            "attachments": {
              "maxBytes": 20971520,
              "maxImageBytes": 6291456
            }
          }
        }
        "#);
    }
}
