//! How a command fails: one line on stderr, and with `--json` an object on stdout (decision 11).

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Map, json};

use crate::visible::visible;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What happened and what to do; never a secret.
    pub(crate) message: String,
    /// Exit status.
    pub(crate) exit: u8,
    /// The run the gateway had accepted.
    pub(crate) run: Option<String>,
}

impl Failure {
    pub(crate) fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), exit: 1, run: None }
    }

    /// A failure of a run that the gateway knows.
    pub(crate) fn of_run(message: impl Display, run: impl Into<String>) -> Self {
        Self { run: Some(run.into()), ..Self::new(message) }
    }

    /// Prints it and gives the exit status.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            let mut object = Map::new();
            object.insert("ok".into(), false.into());
            object.insert("error".into(), json!({"type": "cli_error", "message": self.message}));
            if let Some(run) = &self.run {
                object.insert("runId".into(), run.as_str().into());
                object.insert("origin".into(), "gateway".into());
            }
            // Nothing is left to do for a reader that has gone.
            let _ = writeln!(std::io::stdout(), "{:#}", serde_json::Value::Object(object));
        }
        let _ = writeln!(std::io::stderr(), "Error: {}", visible(&self.message));
        ExitCode::from(self.exit)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}
