//! `watertight verify`: proves that what the state directory holds is what was stored.

mod report;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use watertight_core::receipt::Receipt;
use watertight_engine::verification::{self, Progress, Request};

use crate::args::VerifyArgs;
use crate::failure::Failure;
use crate::home::Home;
use crate::visible::visible;

/// Exit status when something does not hold.
pub(crate) const FOUND: u8 = 1;
/// Exit status when nothing could be verified.
pub(crate) const NOT_VERIFIED: u8 = 2;
/// Time between two lines of progress, and before the first.
const BEAT: Duration = Duration::from_millis(200);

pub(crate) fn run(home: &Home, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    verify(home, args).map_err(|failure| Failure { exit: NOT_VERIFIED, ..failure })
}

fn verify(home: &Home, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let request = Request {
        tenant: args.tenant.clone(),
        sessions: args.sessions.clone(),
        receipts: receipts(&args.receipts, args.receipt_file.as_deref())?,
        against: args.against.clone(),
    };
    if request.receipts.is_empty() && (!args.receipts.is_empty() || args.receipt_file.is_some()) {
        return Err(Failure::new("No receipt was given: there is none in what was read."));
    }
    let config = home.client_config()?;
    let mut line = ProgressLine::new("sessions");
    let verified = verification::verify(&config, home.state_dir(), &request, |progress| line.show(progress));
    line.clear();
    let report = verified.map_err(Failure::new)?;
    let text = if args.json { report::as_json(&report) } else { report::as_lines(&report) };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(format!("The result could not be written: {error}")))?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

/// The receipts of the flags; `-` stands for those on standard input.
fn receipts(given: &[String], file: Option<&str>) -> Result<Vec<Receipt>, Failure> {
    let mut receipts = Vec::new();
    for text in given {
        if text == "-" {
            read("standard input", io::stdin().lock(), &mut receipts)?;
        } else {
            receipts.push(receipt(text).map_err(|error| Failure::new(format!("--receipt {text:?}: {error}.")))?);
        }
    }
    match file {
        Some("-") => read("standard input", io::stdin().lock(), &mut receipts)?,
        Some(path) => {
            let file = File::open(path).map_err(|error| Failure::new(format!("Cannot read {path}: {error}.")))?;
            read(path, BufReader::new(file), &mut receipts)?;
        }
        None => {}
    }
    Ok(receipts)
}

/// One receipt a line; empty lines are left out.
fn read(name: &str, lines: impl BufRead, receipts: &mut Vec<Receipt>) -> Result<(), Failure> {
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line.map_err(|error| Failure::new(format!("Cannot read {name}: {error}.")))?;
        if !line.trim().is_empty() {
            receipts.push(receipt(&line).map_err(|error| Failure::new(format!("{name}, line {number}: {error}.")))?);
        }
    }
    Ok(())
}

/// A receipt as text, or as the JSON object that the gateway sends.
fn receipt(text: &str) -> Result<Receipt, &'static str> {
    let text = text.trim();
    let parsed = if text.starts_with('{') { serde_json::from_str(text).ok() } else { text.parse().ok() };
    parsed.ok_or("this is no receipt: write <session>:<seq>:<chain> or {\"session\":…,\"seq\":…,\"chain\":…}")
}

/// How far a long verification has come, on a terminal.
pub(crate) struct ProgressLine {
    what: &'static str,
    next: Option<Instant>,
    shown: bool,
}

impl ProgressLine {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, next: io::stderr().is_terminal().then(|| Instant::now() + BEAT), shown: false }
    }

    pub(crate) fn show(&mut self, progress: Progress) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + BEAT);
        self.shown = true;
        // Progress that nobody can read stops nothing.
        let _ = write!(io::stderr(), "\r{} of {} {}", progress.done, progress.total.max(progress.done), self.what);
    }

    pub(crate) fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

pub(crate) fn shown(text: &str) -> String {
    visible(text).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_come_as_text_or_json_one_a_line() {
        let text = format!("{}:7:{}", "ab".repeat(16), "01".repeat(32));
        let json = serde_json::to_string(&receipt(&text).unwrap()).unwrap();
        let mut found = Vec::new();
        read("x", format!("{text}\n\n  {json}  \r\n").as_bytes(), &mut found).unwrap();
        assert_eq!(found, [receipt(&text).unwrap(); 2]);
        let refused = read("x", format!("{text}\nnothing\n").as_bytes(), &mut found).unwrap_err();
        assert!(refused.message.starts_with("x, line 2: this is no receipt"), "{}", refused.message);
    }
}
