//! `watertight devices` and `watertight pairing`: who asks to be paired, who is, and what they may do (isolation.md
//! §2.2, §2.3). Over the running gateway's WebSocket.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::agent::client::{Connection, OpenFailure};
use crate::agent::endpoint::Endpoint;
use crate::args::AgentArgs;
use crate::failure::Failure;
use crate::home::Home;
use crate::visible::visible;

/// How the gateway is reached, and how answers are printed.
#[derive(Args, Clone, Default)]
pub(crate) struct Reach {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Gateway to call [default: the one serving the state directory]
    #[arg(long, value_name = "URL", env = "WATERTIGHT_URL", hide_env_values = true, help_heading = "Gateway")]
    url: Option<String>,
    /// Token of whoever may pair devices [default: the operator's]
    #[arg(long, value_name = "TOKEN", env = "WATERTIGHT_TOKEN", hide_env_values = true, help_heading = "Gateway")]
    token: Option<String>,
    /// Believe only certificates that these authorities vouch for
    #[arg(long, value_name = "FILE", env = "WATERTIGHT_CA_FILE", hide_env_values = true, help_heading = "Gateway")]
    ca_file: Option<PathBuf>,
}

/// Names a request that waits.
#[derive(Args)]
pub(crate) struct Request {
    /// The request: its id, or the code that the device shows
    #[arg(value_name = "REQUEST")]
    request: String,
    #[command(flatten)]
    reach: Reach,
}

/// A request that is to be approved.
#[derive(Args)]
#[command(after_help = "\
The device gets what it asks for, as far as your credential holds it. Compare the code or the fingerprint with what the \
device shows; with --device the approval fails unless the request is that device's.")]
pub(crate) struct Approval {
    #[command(flatten)]
    request: Request,
    /// The fingerprint of the device you mean: its whole id
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

/// Names a paired device.
#[derive(Args)]
pub(crate) struct Device {
    /// The device: its id, or the first eight or more digits of it
    #[arg(value_name = "DEVICE")]
    device: String,
    #[command(flatten)]
    reach: Reach,
}

/// `watertight devices`.
#[derive(Subcommand)]
pub(crate) enum DevicesCommand {
    /// List the devices that are paired and those that ask to be
    List(Reach),
    /// Approve a device's request
    Approve(Approval),
    /// Reject a device's request
    Reject(Request),
    /// End a device's token and close its connections; it has to be approved again
    Revoke(Device),
    /// Replace a device's token and close its connections; its key fetches the new one
    Rotate(Device),
    /// Forget a device, end its token and close its connections
    Remove(Device),
}

/// `watertight pairing`.
#[derive(Subcommand)]
pub(crate) enum PairingCommand {
    /// List the requests that wait for a decision
    List(Reach),
    /// Approve a request
    Approve(Approval),
    /// Reject a request
    Reject(Request),
    /// Make a setup code, which brings one device's request before you; it lasts ten minutes
    Code(Invitation),
}

/// `watertight pairing code`.
#[derive(Args)]
pub(crate) struct Invitation {
    /// The most the device may ask for, such as read or write; may be given more than once [default: all you hold]
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

/// What is to be done.
enum Task<'a> {
    List { paired: bool },
    Approve(&'a Approval),
    Reject(&'a Request),
    Withdraw(&'static str, &'a Device),
    Invite(&'a Invitation),
}

impl DevicesCommand {
    fn task(&self) -> (Task<'_>, &Reach) {
        match self {
            Self::List(reach) => (Task::List { paired: true }, reach),
            Self::Approve(approval) => (Task::Approve(approval), &approval.request.reach),
            Self::Reject(request) => (Task::Reject(request), &request.reach),
            Self::Revoke(device) => (Task::Withdraw("device.token.revoke", device), &device.reach),
            Self::Rotate(device) => (Task::Withdraw("device.token.rotate", device), &device.reach),
            Self::Remove(device) => (Task::Withdraw("device.pair.remove", device), &device.reach),
        }
    }

    /// Whether failures are to be printed as JSON.
    pub(crate) fn json(&self) -> bool {
        self.task().1.json
    }

    pub(crate) async fn run(&self, home: &Home) -> Result<ExitCode, Failure> {
        let (task, reach) = self.task();
        run(home, reach, task).await
    }
}

impl PairingCommand {
    fn task(&self) -> (Task<'_>, &Reach) {
        match self {
            Self::List(reach) => (Task::List { paired: false }, reach),
            Self::Approve(approval) => (Task::Approve(approval), &approval.request.reach),
            Self::Reject(request) => (Task::Reject(request), &request.reach),
            Self::Code(invitation) => (Task::Invite(invitation), &invitation.reach),
        }
    }

    /// Whether failures are to be printed as JSON.
    pub(crate) fn json(&self) -> bool {
        self.task().1.json
    }

    pub(crate) async fn run(&self, home: &Home) -> Result<ExitCode, Failure> {
        let (task, reach) = self.task();
        run(home, reach, task).await
    }
}

async fn run(home: &Home, reach: &Reach, task: Task<'_>) -> Result<ExitCode, Failure> {
    let mut desk = Desk::open(home, reach).await?;
    let (answer, text) = desk.work(task).await?;
    desk.connection.close().await;
    let text = if reach.json { format!("{answer:#}\n") } else { visible(&text) };
    // Nothing is left to do for a reader that has gone.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// A connection that may pair devices.
struct Desk {
    connection: Connection,
}

impl Desk {
    async fn open(home: &Home, reach: &Reach) -> Result<Self, Failure> {
        let args = AgentArgs {
            url: reach.url.clone(),
            token: reach.token.clone(),
            ca_file: reach.ca_file.clone(),
            ..AgentArgs::default()
        };
        let endpoint = Endpoint::find(home, &home.client_config()?, &args).await?;
        let connection = Connection::open(&endpoint, &[]).await.map_err(|failure| match failure {
            OpenFailure::Unreachable(reason)
            | OpenFailure::Foreign(reason)
            | OpenFailure::NotReady(reason)
            | OpenFailure::Refused(reason) => Failure::new(reason),
            OpenFailure::ClosedInHandshake => Failure::new("The gateway is stopping. Try again shortly."),
        })?;
        Ok(Self { connection })
    }

    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        let response = self.connection.ask(method, &params).await;
        let response = response.map_err(|lost| Failure::new(format!("The connection was lost: {}.", lost.0)))?;
        match response.error {
            Some(error) => Err(Failure::new(error.message)),
            None if response.ok => Ok(response.payload),
            None => Err(Failure::new("The gateway refused and gave no reason.")),
        }
    }

    /// The answer, and the same for people.
    async fn work(&mut self, task: Task<'_>) -> Result<(Value, String), Failure> {
        match task {
            Task::List { paired } => {
                let mut list = self.ask("device.pair.list", json!({})).await?;
                if !paired {
                    list = json!({"pending": list["pending"].take()});
                }
                let text = listed(&list);
                Ok((list, text))
            }
            Task::Approve(Approval { request, device }) => {
                let pending = self.pending(&request.request).await?;
                let shown = device.clone().map_or_else(|| pending["deviceId"].clone(), Value::from);
                let params = json!({"requestId": pending["requestId"], "deviceId": shown});
                let answer = self.ask("device.pair.approve", params).await?;
                let device = &answer["device"];
                let text = format!(
                    "Approved device {} ({}) for {}.\n",
                    word(&device["deviceId"]),
                    called(device),
                    words(&device["scopes"])
                );
                Ok((answer, text))
            }
            Task::Reject(request) => {
                let pending = self.pending(&request.request).await?;
                let answer = self.ask("device.pair.reject", json!({"requestId": pending["requestId"]})).await?;
                let text = format!("Rejected device {}.\n", word(&answer["deviceId"]));
                Ok((answer, text))
            }
            Task::Withdraw(method, device) => {
                let id = self.device(&device.device).await?;
                let params = match method {
                    "device.pair.remove" => json!({"deviceId": id}),
                    _ => json!({"deviceId": id, "role": "operator"}),
                };
                let answer = self.ask(method, params).await?;
                let done = match method {
                    "device.pair.remove" => "is forgotten",
                    "device.token.rotate" => "fetches a new token when it connects next",
                    _ => "has no token any more",
                };
                Ok((answer, format!("Device {id} {done}; its connections are closed.\n")))
            }
            Task::Invite(Invitation { scopes, .. }) => {
                let named = |scope: &String| match scope.split_once('.') {
                    Some(_) => scope.clone(),
                    None => format!("operator.{scope}"),
                };
                let scopes: Vec<_> = scopes.iter().map(named).collect();
                let params = if scopes.is_empty() { json!({}) } else { json!({"scopes": scopes}) };
                let answer = self.ask("device.pair.setupCode", params).await?;
                let text = format!("{}\n", word(&answer["setupCode"]));
                Ok((answer, text))
            }
        }
    }

    /// The request of this id or code, as it waits now.
    async fn pending(&mut self, named: &str) -> Result<Value, Failure> {
        let mut list = self.ask("device.pair.list", json!({})).await?;
        let Value::Array(pending) = list["pending"].take() else { return Err(no_request(named)) };
        let code = named.to_ascii_uppercase();
        let fits = |row: &Value| row["requestId"] == *named || row["pairingCode"] == *code;
        pending.into_iter().find(fits).ok_or_else(|| no_request(named))
    }

    /// The whole id of the one device that it begins.
    async fn device(&mut self, named: &str) -> Result<String, Failure> {
        let list = self.ask("device.pair.list", json!({})).await?;
        let rows = list["paired"].as_array().into_iter().flatten();
        let ids: Vec<_> = rows.filter_map(|row| row["deviceId"].as_str()).filter(|id| id.starts_with(named)).collect();
        match ids[..] {
            [id] if named.len() >= 8 => Ok(id.to_owned()),
            [] => Err(Failure::new(format!("There is no paired device {named:?}. Try: watertight devices list"))),
            _ => Err(Failure::new(format!("{named:?} does not name one device: give more digits, at least eight."))),
        }
    }
}

fn no_request(named: &str) -> Failure {
    Failure::new(format!(
        "No request {named:?} waits; it may have ended, or the device has asked anew. Try: watertight pairing list"
    ))
}

/// Requests and devices, one each in two lines.
fn listed(list: &Value) -> String {
    let mut text = String::new();
    for row in list["pending"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "waiting  {}  code {}  asks for {}\n         {} from {}, key {}",
            word(&row["requestId"]),
            word(&row["pairingCode"]),
            words(&row["scopes"]),
            called(row),
            word(&row["remoteIp"]),
            word(&row["deviceId"])
        );
    }
    for row in list["paired"].as_array().into_iter().flatten() {
        let holds = row["tokens"][0].get("revokedAtMs").is_none() && row["tokens"][0].is_object();
        let state = match (row["connected"].as_bool(), holds) {
            (Some(true), _) => "connected",
            (_, true) => "has a token",
            (_, false) => "has no token",
        };
        let _ = writeln!(
            text,
            "paired   {}\n         {} from {}, may {}, {state}",
            word(&row["deviceId"]),
            called(row),
            word(&row["remoteIp"]),
            words(&row["scopes"])
        );
    }
    if text.is_empty() { "Nothing.\n".to_owned() } else { text }
}

fn called(row: &Value) -> String {
    let name = row["displayName"].as_str().or(row["clientId"].as_str()).unwrap_or_default();
    format!("{name} on {}", word(&row["platform"]))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(list: &Value) -> String {
    let all: Vec<_> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}
