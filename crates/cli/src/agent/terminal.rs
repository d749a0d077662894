//! What is printed: data on stdout, everything else on stderr (sessions.md §2.7).

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use serde_json::Value;

use crate::agent::turn::Verbose;
use crate::failure::Failure;
use crate::visible::visible;

/// The user's side of a turn.
pub(crate) struct Terminal {
    json: bool,
    verbose: Verbose,
    /// Whether text is shown while it is written.
    live: bool,
    /// What of the present piece of the answer is on the screen.
    shown: String,
    /// The first error of writing to stdout. A reader that has gone is none.
    broken: Option<io::Error>,
}

/// The end of a turn, in the shape both ways to run one have in common.
pub(crate) struct Reply<'r> {
    /// `ok`, `error`, `timeout`, `in_flight` or another word of the gateway's.
    status: &'r str,
    run: &'r str,
    summary: Option<&'r str>,
    stop_reason: Option<&'r str>,
    /// `{payloads, meta}`.
    result: &'r Value,
    /// What `--json` prints.
    whole: &'r Value,
}

impl<'r> Reply<'r> {
    /// The final response `answer` of the run; `--json` prints `whole`.
    pub(crate) fn new(answer: &'r Value, run: &'r str, whole: &'r Value) -> Self {
        let text = |key: &str| answer.get(key).and_then(Value::as_str);
        Self {
            status: text("status").unwrap_or("ok"),
            run,
            summary: text("summary"),
            stop_reason: text("stopReason"),
            result: answer.get("result").unwrap_or(&Value::Null),
            whole,
        }
    }
}

impl Terminal {
    pub(crate) fn new(json: bool, verbose: Verbose) -> Self {
        Self { json, verbose, live: !json && io::stdout().is_terminal(), shown: String::new(), broken: None }
    }

    /// Whether tool calls are to be shown.
    pub(crate) fn wants_tools(&self) -> bool {
        self.verbose > Verbose::Off
    }

    /// A line about what is going on.
    pub(crate) fn note(&mut self, line: &str) {
        self.end_line();
        // A reader that has gone wants no notes.
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// The answer so far, since the run's last stored entry.
    pub(crate) fn text(&mut self, so_far: &str) {
        if !self.live {
            return;
        }
        let new = match so_far.strip_prefix(self.shown.as_str()) {
            Some(new) => new.to_owned(),
            None => {
                self.end_line();
                so_far.to_owned()
            }
        };
        self.put(&new);
        so_far.clone_into(&mut self.shown);
    }

    /// A tool was called.
    pub(crate) fn tool_started(&mut self, name: &str, arguments: &Value) {
        if self.wants_tools() {
            let arguments = if self.verbose == Verbose::Full { format!(" {arguments}") } else { String::new() };
            self.note(&visible(&format!("[tool] {name}{arguments}")));
        }
    }

    /// A tool has answered.
    pub(crate) fn tool_ended(&mut self, name: &str, is_error: bool, result: &str) {
        if self.wants_tools() && (self.verbose == Verbose::Full || is_error) {
            let word = if is_error { "failed" } else { "answered" };
            self.note(&visible(&format!("[tool] {name} {word}: {result}")));
        }
    }

    /// Prints the end of the turn and gives the exit status. An answer that could not be written is a failure.
    pub(crate) fn finish(&mut self, reply: &Reply<'_>) -> Result<ExitCode, Failure> {
        if reply.status == "in_flight" {
            self.note(&format!("Agent run {} is already in flight; not starting a duplicate run.", reply.run));
        }
        if self.json {
            self.write(&format!("{:#}\n", reply.whole));
        } else {
            self.answer(reply);
        }
        if let Some(error) = self.broken.take() {
            return Err(Failure::new(format!("The turn ended, but its answer could not be written: {error}")));
        }
        if matches!(reply.status, "ok" | "in_flight") {
            return Ok(ExitCode::SUCCESS);
        }
        match reply.stop_reason {
            Some("timeout") => self.note("The turn hit its time limit; --timeout <seconds> gives it more."),
            Some(reason) => self.note(&format!("The turn was stopped ({}).", visible(reason))),
            None => {}
        }
        Ok(ExitCode::FAILURE)
    }

    fn answer(&mut self, reply: &Reply<'_>) {
        let payloads = reply.result.get("payloads").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut lines = Vec::new();
        for payload in payloads {
            let text = payload.get("text").and_then(Value::as_str).unwrap_or_default().trim_end();
            if !text.is_empty() {
                lines.push(text.to_owned());
            }
            let many = payload.get("mediaUrls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let media = payload.get("mediaUrl").into_iter().chain(many).filter_map(Value::as_str);
            for url in media {
                let line = format!("Attachment: {url}");
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        if lines.is_empty() && !matches!(reply.status, "ok" | "in_flight") {
            lines.push(reply.summary.unwrap_or("No reply from agent.").to_owned());
        }
        let whole = lines.join("\n");
        let rest = whole.strip_prefix(self.shown.trim_end()).filter(|_| !self.shown.is_empty());
        match rest {
            Some(rest) => {
                // White space at its end is on the screen already.
                let on_screen = self.shown.len() - self.shown.trim_end().len();
                let rest = rest.get(on_screen.min(rest.len())..).unwrap_or_default().to_owned();
                self.put(&rest);
                self.shown.push_str(&rest);
            }
            None => {
                self.end_line();
                self.put(&whole);
                self.shown = whole;
            }
        }
        self.end_line();
    }

    /// Ends the line that live text has begun.
    pub(crate) fn end_line(&mut self) {
        if !self.shown.is_empty() && !self.shown.ends_with('\n') {
            self.write("\n");
        }
        self.shown.clear();
    }

    fn put(&mut self, text: &str) {
        if self.live {
            self.write(&visible(text));
        } else {
            self.write(text);
        }
    }

    fn write(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.broken.get_or_insert(error);
        }
    }
}
