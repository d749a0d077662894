//! `watertight access apply`: a file that says who may do what.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::{escaped, say};
use crate::failure::Failure;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    principals: BTreeMap<String, Principal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Principal {
    #[serde(default)]
    kind: Option<String>,
    /// Whether it may use its home: by default, where it is a user and has to be made.
    #[serde(default)]
    home: Option<bool>,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    grants: Vec<Grant>,
}

#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Grant {
    prefix: String,
    verbs: Vec<String>,
}

/// One thing to do.
struct Step {
    says: String,
    method: &'static str,
    path: String,
    body: Value,
}

pub(super) async fn run(client: &Client, path: &Path, diff: bool, json: bool) -> Result<ExitCode, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("{} cannot be read: {error}", path.display())))?;
    let file: File =
        toml::from_str(&text).map_err(|error| Failure::new(format!("{} does not fit:\n{error}", path.display())))?;
    let mut steps = Vec::new();
    for (name, wanted) in &file.principals {
        steps.extend(differences(client, name, wanted).await?);
    }
    let mut done = Vec::new();
    for step in &steps {
        if !diff {
            client.call(step.method, &step.path, Some(&step.body)).await?;
        }
        if json {
            done.push(Value::from(step.says.clone()));
        } else {
            say(&format!("{}\n", step.says));
        }
    }
    if json {
        say(&format!("{:#}\n", json!({"changes": done, "applied": !diff})));
    } else if steps.is_empty() {
        say("Nothing to change.\n");
    }
    Ok(if diff && !steps.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is to be done so that a principal is as the file says.
async fn differences(client: &Client, name: &str, wanted: &Principal) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    let all = client.call("GET", "/v1/admin/principals", None).await?;
    let found = all["principals"].as_array().into_iter().flatten().find(|row| row["name"] == *name).cloned();
    let kind = wanted.kind.as_deref().unwrap_or("user");
    let present = match &found {
        None => {
            let home = wanted.home.unwrap_or(kind == "user");
            steps.push(Step {
                says: format!("+ principal {name} ({kind}{})", if home { ", home" } else { "" }),
                method: "POST",
                path: "/v1/admin/principals".into(),
                body: json!({"name": name, "kind": kind, "home": home}),
            });
            Vec::new()
        }
        Some(row) => {
            if row["kind"] != *kind && wanted.kind.is_some() {
                let now = row["kind"].as_str().unwrap_or_default();
                return Err(Failure::new(format!("The principal {name} is of kind {now}, which cannot change.")));
            }
            let path = format!("/v1/admin/grants?principal={}", escaped(name));
            client.call("GET", &path, None).await?["grants"].as_array().cloned().unwrap_or_default()
        }
    };
    let disabled = found.as_ref().is_some_and(|row| row["disabled"] == true);
    if disabled != wanted.disabled {
        let word = if wanted.disabled { "disable" } else { "enable" };
        let path = format!("/v1/admin/principals/{}/{word}", escaped(name));
        steps.push(Step { says: format!("~ {word} {name}"), method: "POST", path, body: json!({}) });
    }
    let of_row = |row: &Value| Grant {
        prefix: row["prefix"].as_str().unwrap_or_default().to_owned(),
        verbs: row["verbs"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
    };
    let same = |a: &Grant, b: &Grant| {
        let (mut a_verbs, mut b_verbs) = (a.verbs.clone(), b.verbs.clone());
        a_verbs.sort();
        b_verbs.sort();
        a.prefix == b.prefix && a_verbs == b_verbs
    };
    for grant in wanted.grants.iter().filter(|grant| !present.iter().any(|row| same(grant, &of_row(row)))) {
        steps.push(Step {
            says: format!("+ grant {name} {} on {}", grant.verbs.join(","), grant.prefix),
            method: "POST",
            path: "/v1/admin/grants".into(),
            body: json!({"principal": name, "prefix": grant.prefix, "verbs": grant.verbs}),
        });
    }
    // The grants of its home and those that end by themselves are not the file's.
    let is_home = |grant: &Grant| grant.prefix.ends_with(&format!(":user:{name}"));
    for row in &present {
        let grant = of_row(row);
        let named = wanted.grants.iter().any(|wanted| same(wanted, &grant));
        let kept = named || !row["expiresAtMs"].is_null() || (is_home(&grant) && wanted.home != Some(false));
        if !kept {
            steps.push(Step {
                says: format!("- grant {name} {} on {}", grant.verbs.join(","), grant.prefix),
                method: "DELETE",
                path: format!("/v1/admin/grants/{}", row["id"].as_str().unwrap_or_default()),
                body: json!({}),
            });
        }
    }
    Ok(steps)
}
