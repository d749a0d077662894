//! What a verification found, for people and for programs.

use serde_json::json;
use watertight_engine::verification::{Problem, Report};

use super::shown;

pub(super) fn as_lines(report: &Report) -> String {
    let mut lines: Vec<String> = report.problems.iter().map(line).collect();
    if report.further > 0 {
        lines.push(format!("… and {} more", report.further));
    }
    let counted = [
        count(report.sessions, "session"),
        if report.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", report.entries) },
        count(report.runs, "run"),
        count(report.receipts, "receipt"),
    ]
    .into_iter()
    .chain((report.checkpoints > 0).then(|| count(report.checkpoints, "checkpoint")))
    .collect::<Vec<_>>()
    .join(", ");
    let problems = report.problems.len() as u64 + report.further;
    lines.push(match problems {
        0 => format!("Verified {counted}: all of it holds."),
        problems => format!("Verified {counted}: {} found.", count(problems, "problem")),
    });
    lines.join("\n") + "\n"
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Where, and what: `agent:main:x, entry 4: it is missing`.
fn line(problem: &Problem) -> String {
    let mut place = Vec::new();
    if let Some(tenant) = &problem.tenant {
        place.push(format!("tenant {}", shown(tenant)));
    }
    match (&problem.key, &problem.session) {
        (Some(key), _) => place.push(format!("session {}", shown(key))),
        (None, Some(session)) => place.push(format!("session {session}")),
        (None, None) => {}
    }
    if let Some(seq) = problem.seq {
        place.push(format!("entry {seq}"));
    }
    let receipt = problem.receipt.map_or_else(String::new, |receipt| format!(" (receipt {receipt})"));
    format!("{}: {}{receipt}", place.join(", "), problem.what)
}

pub(super) fn as_json(report: &Report) -> String {
    let problem = |problem: &Problem| {
        json!({
            "tenant": problem.tenant,
            "session": problem.session.map(|session| session.to_string().replace('-', "")),
            "key": problem.key,
            "seq": problem.seq,
            "receipt": problem.receipt,
            "problem": problem.what,
        })
    };
    let object = json!({
        "ok": report.holds(),
        "verified": {
            "sessions": report.sessions,
            "entries": report.entries,
            "runs": report.runs,
            "receipts": report.receipts,
            "checkpoints": report.checkpoints,
        },
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "furtherProblems": report.further,
    });
    format!("{object:#}\n")
}
