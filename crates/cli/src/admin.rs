//! Tenants, principals, tokens, grants, access and the audit log: the administration API on the command line.
//!
//! * `admin` (here): the commands and how their answers are printed.
//! * [`args`]: their command lines.
//! * [`client`]: requests to the gateway, or to this process where none runs.
//! * [`apply`]: a file that says who may do what.

mod apply;
pub(crate) mod args;
pub(crate) mod client;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use self::args::{
    AccessCommand, AdminCommand, AuditCommand, GrantCommand, PrincipalCommand, Reach, TenantCommand, TokenCommand,
};
use self::client::Client;
use crate::failure::Failure;
use crate::home::Home;
use crate::visible::visible;

/// Events of one page of the audit log.
const PAGE: u64 = 500;

/// What to ask, and how to show the answer.
struct Request {
    method: &'static str,
    path: String,
    body: Option<Value>,
    show: fn(&Value) -> String,
}

impl Request {
    fn get(path: impl Into<String>, show: fn(&Value) -> String) -> Self {
        Self { method: "GET", path: path.into(), body: None, show }
    }

    fn post(path: impl Into<String>, body: Value, show: fn(&Value) -> String) -> Self {
        Self { method: "POST", path: path.into(), body: Some(body), show }
    }
}

impl AdminCommand {
    /// Whether failures are to be printed as JSON.
    pub(crate) fn json(&self) -> bool {
        self.reach().json
    }

    fn reach(&self) -> &Reach {
        match self {
            Self::Tenant(TenantCommand::Create { reach, .. } | TenantCommand::List { reach })
            | Self::Principal(
                PrincipalCommand::Create { reach, .. }
                | PrincipalCommand::List { reach }
                | PrincipalCommand::Disable { reach, .. }
                | PrincipalCommand::Enable { reach, .. },
            )
            | Self::Token(
                TokenCommand::Issue { reach, .. }
                | TokenCommand::List { reach, .. }
                | TokenCommand::Revoke { reach, .. },
            )
            | Self::Grant(
                GrantCommand::Add { reach, .. } | GrantCommand::List { reach, .. } | GrantCommand::Remove { reach, .. },
            )
            | Self::Access(AccessCommand::Explain { reach, .. } | AccessCommand::Apply { reach, .. })
            | Self::Audit(
                AuditCommand::Tail { reach, .. } | AuditCommand::Export { reach } | AuditCommand::Verify { reach },
            ) => reach,
        }
    }

    /// Carries it out.
    pub(crate) async fn run(&self, home: &Home) -> Result<ExitCode, Failure> {
        let client = Client::find(home, self.reach()).await?;
        let done = self.work(&client).await;
        client.close().await;
        done
    }

    async fn work(&self, client: &Client) -> Result<ExitCode, Failure> {
        let request = match self {
            Self::Tenant(command) => tenant(command),
            Self::Principal(command) => principal(command),
            Self::Token(command) => token(command),
            Self::Grant(command) => grant(command),
            Self::Access(AccessCommand::Explain { principal, key, verb, .. }) => {
                let query = query(&[("principal", Some(principal)), ("key", Some(key)), ("verb", Some(verb))]);
                let answer = client.call("GET", &format!("/v1/admin/access/explain{query}"), None).await?;
                self.print(&answer, explained);
                return Ok(if answer["allowed"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Self::Access(AccessCommand::Apply { file, diff, reach }) => {
                return apply::run(client, file, *diff, reach.json).await;
            }
            Self::Audit(command) => return audit(client, command).await,
        };
        let answer = client.call(request.method, &request.path, request.body.as_ref()).await?;
        self.print(&answer, request.show);
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, answer: &Value, show: fn(&Value) -> String) {
        let text = if self.json() { format!("{answer:#}\n") } else { show(answer) };
        say(&text);
    }
}

/// Nothing is left to do for a reader that has gone.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn tenant(command: &TenantCommand) -> Request {
    match command {
        TenantCommand::Create { name, .. } => Request::post("/v1/admin/tenants", json!({"name": name}), |answer| {
            let (name, token) = (text(&answer["name"]), text(&answer["operatorToken"]));
            format!("Made tenant {name}. Its operator's token, shown only now:\n{token}\n")
        }),
        TenantCommand::List { .. } => {
            Request::get("/v1/admin/tenants", |answer| each(&answer["tenants"], |name| format!("{}\n", text(name))))
        }
    }
}

fn principal(command: &PrincipalCommand) -> Request {
    const PATH: &str = "/v1/admin/principals";
    match command {
        PrincipalCommand::Create { name, kind, no_home, .. } => {
            let mut body = json!({"name": name, "kind": kind});
            if *no_home {
                body["home"] = false.into();
            }
            Request::post(PATH, body, |answer| {
                format!("Made {} {} ({}).\n", text(&answer["kind"]), text(&answer["name"]), text(&answer["id"]))
            })
        }
        PrincipalCommand::List { .. } => Request::get(PATH, |answer| {
            each(&answer["principals"], |row| {
                let disabled = if row["disabled"] == true { "  disabled" } else { "" };
                format!("{}  {:<8}  {}{disabled}\n", text(&row["id"]), text(&row["kind"]), text(&row["name"]))
            })
        }),
        PrincipalCommand::Disable { name, .. } => {
            Request::post(format!("{PATH}/{}/disable", escaped(name)), json!({}), |answer| {
                format!("Disabled; closed {} open connections.\n", answer["closed"])
            })
        }
        PrincipalCommand::Enable { name, .. } => {
            Request::post(format!("{PATH}/{}/enable", escaped(name)), json!({}), |_| "Enabled.\n".to_owned())
        }
    }
}

fn token(command: &TokenCommand) -> Request {
    const PATH: &str = "/v1/admin/tokens";
    let revoked = |answer: &Value| {
        let count = answer["revoked"].as_array().map_or(0, Vec::len);
        format!("Revoked {count} credentials; closed {} open connections.\n", answer["closed"])
    };
    match command {
        TokenCommand::Issue { principal, scopes, lifetime, idle, refresh, label, .. } => {
            let mut body = json!({"principal": principal, "scopes": scopes, "refresh": refresh, "label": label});
            for (field, time) in [("lifetimeMs", lifetime), ("idleMs", idle)] {
                if let Some(time) = time {
                    body[field] = millis(*time);
                }
            }
            Request::post(PATH, body, |answer| {
                let refresh = answer["refreshToken"].as_str().map(|text| format!("refresh: {text}\n"));
                format!("{}\n{}", text(&answer["token"]), refresh.unwrap_or_default())
            })
        }
        TokenCommand::List { principal, .. } => {
            Request::get(format!("{PATH}{}", query(&[("principal", principal.as_ref())])), |answer| {
                each(&answer["tokens"], |row| {
                    let state = if row["revoked"] == true { "revoked" } else { "valid" };
                    let label = row["label"].as_str().map(|label| format!("  {}", visible(label)));
                    format!(
                        "{}  {:<8}  {:<7}  {}  {}{}\n",
                        text(&row["id"]),
                        text(&row["kind"]),
                        state,
                        text(&row["principal"]),
                        words(&row["scopes"]),
                        label.unwrap_or_default()
                    )
                })
            })
        }
        TokenCommand::Revoke { id: Some(id), .. } => {
            Request::post(format!("{PATH}/{}/revoke", escaped(id)), json!({}), revoked)
        }
        TokenCommand::Revoke { principal, .. } => {
            let name = escaped(principal.as_deref().unwrap_or_default());
            Request::post(format!("/v1/admin/principals/{name}/revoke"), json!({}), revoked)
        }
    }
}

fn grant(command: &GrantCommand) -> Request {
    const PATH: &str = "/v1/admin/grants";
    match command {
        GrantCommand::Add { principal, prefix, verbs, lifetime, .. } => {
            let mut body = json!({"principal": principal, "prefix": prefix, "verbs": verbs});
            if let Some(time) = lifetime {
                body["lifetimeMs"] = millis(*time);
            }
            Request::post(PATH, body, granted)
        }
        GrantCommand::List { principal, .. } => {
            Request::get(format!("{PATH}{}", query(&[("principal", principal.as_ref())])), |answer| {
                each(&answer["grants"], granted)
            })
        }
        GrantCommand::Remove { id, .. } => Request {
            method: "DELETE",
            path: format!("{PATH}/{}", escaped(id)),
            body: None,
            show: |_| "Removed.\n".to_owned(),
        },
    }
}

fn granted(row: &Value) -> String {
    let end = row["expiresAtMs"].as_i64().map(|at| format!("  until {at}"));
    format!(
        "{}  {}  {}  {}{}\n",
        text(&row["id"]),
        text(&row["principal"]),
        words(&row["verbs"]),
        text(&row["prefix"]),
        end.unwrap_or_default()
    )
}

fn explained(answer: &Value) -> String {
    let word = if answer["allowed"] == true { "allowed" } else { "refused" };
    format!("{word}: {}\n{}\n", text(&answer["key"]), text(&answer["reason"]))
}

async fn audit(client: &Client, command: &AuditCommand) -> Result<ExitCode, Failure> {
    let page = async |after: u64, limit: u64| {
        client.call("GET", &format!("/v1/admin/audit?after={after}&limit={limit}"), None).await
    };
    let (mut after, json) = match command {
        AuditCommand::Tail { count, reach } => {
            let newest = page(0, 1).await?["newest"].as_u64().unwrap_or(0);
            (newest.saturating_sub(*count), reach.json)
        }
        AuditCommand::Export { .. } => (0, true),
        AuditCommand::Verify { reach } => (0, reach.json),
    };
    let verifies = matches!(command, AuditCommand::Verify { .. });
    let mut count = 0_u64;
    loop {
        let answer = page(after, PAGE).await?;
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        let Some(last) = events.last().and_then(|event| event["seq"].as_u64()) else { break };
        count += events.len() as u64;
        if !verifies {
            say(&events.iter().map(|event| if json { format!("{event}\n") } else { shown(event) }).collect::<String>());
        }
        after = last;
    }
    if verifies {
        // The gateway reads every link and the end; one that does not hold is a failed request.
        say(&if json {
            format!("{:#}\n", json!({"ok": true, "events": count}))
        } else {
            format!("{count} events, all in place.\n")
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(event: &Value) -> String {
    let by = event["principal"].as_str().unwrap_or("gateway");
    format!(
        "{}  {}  {}  by {by}  {}\n",
        event["seq"],
        event["atMs"],
        text(&event["action"]),
        visible(&event["object"].to_string())
    )
}

fn millis(time: Duration) -> Value {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

/// What the gateway says, safe to show.
fn text(value: &Value) -> String {
    visible(value.as_str().unwrap_or_default())
}

fn words(list: &Value) -> String {
    let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(",")
}

fn each(list: &Value, show: impl Fn(&Value) -> String) -> String {
    list.as_array().into_iter().flatten().map(show).collect()
}

fn escaped(text: &str) -> String {
    // A form writes a space as `+`, which a path takes literally.
    byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

fn query(fields: &[(&str, Option<&String>)]) -> String {
    let fields: Vec<String> =
        fields.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", escaped(value)))).collect();
    if fields.is_empty() { String::new() } else { format!("?{}", fields.join("&")) }
}
