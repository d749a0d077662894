//! What is said of keys, for people and for programs.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use watertight_core::ids::UnixMillis;
use watertight_engine::rotation::Rotated;
use watertight_engine::verification::{EpochStatus, KeyReport, Problem, TenantKeyStatus};

use crate::verify::shown;

/// The epoch new data keys are of.
fn newest(tenant: &TenantKeyStatus) -> Option<&EpochStatus> {
    tenant.epochs.iter().find(|epoch| epoch.epoch == tenant.epoch)
}

fn name(tenant: &TenantKeyStatus) -> String {
    tenant.name.as_deref().map_or_else(|| tenant.tenant.to_string(), shown)
}

fn next_turn(tenant: &TenantKeyStatus, lasts: Duration) -> Option<UnixMillis> {
    let since = newest(tenant)?.since?;
    Some(UnixMillis(since.0.saturating_add(i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX))))
}

pub(super) fn status_as_lines(tenants: &[TenantKeyStatus], lasts: Duration, now: UnixMillis) -> String {
    let mut lines = Vec::new();
    for tenant in tenants {
        let age = newest(tenant).and_then(|epoch| epoch.since);
        let age = age.map_or_else(|| "of unknown age".to_owned(), |since| format!("{} old", span(now.0 - since.0)));
        let turn = match next_turn(tenant, lasts) {
            Some(at) if at.0 > now.0 => format!("turns in {}", span(at.0 - now.0)),
            _ => "its turn is due".to_owned(),
        };
        lines.push(format!("{}: epoch {}, {age}, {turn}", name(tenant), tenant.epoch));
        for epoch in &tenant.epochs {
            let left = if epoch.epoch == tenant.epoch { "" } else { ", still to be wrapped anew" };
            lines.push(format!("  epoch {}: {}{left}", epoch.epoch, count(epoch.data_keys, "data key")));
        }
        lines.push(format!("  kept ready for new sessions: {}", tenant.pooled));
    }
    lines.join("\n") + "\n"
}

pub(super) fn status_as_json(tenants: &[TenantKeyStatus], lasts: Duration) -> String {
    let tenant = |tenant: &TenantKeyStatus| {
        let epochs = tenant.epochs.iter().map(
            |epoch| json!({"epoch": epoch.epoch, "since": epoch.since.map(|at| at.0), "dataKeys": epoch.data_keys}),
        );
        json!({
            "tenant": tenant.name,
            "id": tenant.tenant.to_string(),
            "epoch": tenant.epoch,
            "since": newest(tenant).and_then(|epoch| epoch.since).map(|at| at.0),
            "nextTurn": next_turn(tenant, lasts).map(|at| at.0),
            "epochs": epochs.collect::<Vec<_>>(),
            "pooled": tenant.pooled,
        })
    };
    format!("{:#}\n", json!({"ok": true, "tenants": tenants.iter().map(tenant).collect::<Vec<_>>()}))
}

pub(super) fn keys_as_lines(report: &KeyReport) -> String {
    let mut lines: Vec<String> = report.problems.iter().map(line).collect();
    if report.further > 0 {
        lines.push(format!("… and {} more", report.further));
    }
    let counted = [count(report.tenants, "tenant"), count(report.epochs, "epoch"), count(report.data_keys, "data key")]
        .join(", ");
    lines.push(match report.problems.len() as u64 + report.further {
        0 => format!("Verified the keys of {counted}: all of them open."),
        problems => format!("Verified the keys of {counted}: {} found.", count(problems, "problem")),
    });
    lines.join("\n") + "\n"
}

fn line(problem: &Problem) -> String {
    let tenant = problem.tenant.as_deref().map_or_else(String::new, |name| format!("tenant {}", shown(name)));
    let session = problem.session.map_or_else(String::new, |session| format!(", session {session}"));
    format!("{tenant}{session}: {}", problem.what)
}

pub(super) fn keys_as_json(report: &KeyReport) -> String {
    let problem = |problem: &Problem| {
        json!({
            "tenant": problem.tenant,
            "session": problem.session.map(|session| session.to_string().replace('-', "")),
            "problem": problem.what,
        })
    };
    let object = json!({
        "ok": report.holds(),
        "verified": {"tenants": report.tenants, "epochs": report.epochs, "dataKeys": report.data_keys},
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "furtherProblems": report.further,
    });
    format!("{object:#}\n")
}

pub(super) fn rotated_as_lines(rotated: &[Rotated]) -> String {
    let line = |Rotated { tenant, turned }: &Rotated| {
        let damaged = match turned.damaged {
            0 => String::new(),
            damaged => {
                format!("; {damaged} do not open, so the key that wraps them is kept: see `watertight keys verify`")
            }
        };
        let rewrapped = count(turned.rewrapped, "data key");
        format!("{}: epoch {}, {rewrapped} wrapped anew{damaged}\n", shown(tenant), turned.epoch)
    };
    rotated.iter().map(line).collect::<Vec<_>>().concat()
}

pub(super) fn rotated_as_json(rotated: &[Rotated]) -> String {
    let tenant = |Rotated { tenant, turned }: &Rotated| {
        json!({
            "tenant": tenant,
            "epoch": turned.epoch,
            "rewrapped": turned.rewrapped,
            "damaged": turned.damaged,
            "epochsLeft": turned.epochs_left,
        })
    };
    format!("{:#}\n", json!({"ok": true, "tenants": rotated.iter().map(tenant).collect::<Vec<_>>()}))
}

pub(super) fn master_as(json: bool, file: &Path) -> String {
    if json {
        return format!("{:#}\n", json!({"ok": true, "masterKey": file}));
    }
    format!(
        "The master key in {} is a new one. Keep a copy of it: the former one opens only older copies of keys.db.\n",
        shown(&file.display().to_string())
    )
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A span of time in its two largest units.
fn span(millis: i64) -> String {
    let minutes = millis.max(0) / 60_000;
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        let minute = 60_000;
        for (millis, text) in [
            (0, "0 min"),
            (-5, "0 min"),
            (59 * minute, "59 min"),
            (61 * minute, "1 h 1 min"),
            (24 * 60 * minute, "1 d 0 h"),
            ((49 * 60 + 59) * minute, "2 d 1 h"),
        ] {
            assert_eq!(span(millis), text);
        }
    }
}
