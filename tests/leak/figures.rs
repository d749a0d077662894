//! What was done, counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that many lanes add to.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// Keeps the larger.
    pub(crate) fn at_least(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! figures {
    ($($name:ident: $text:literal,)*) => {
        /// All counts of a run, by what they count.
        #[derive(Default)]
        pub(crate) struct Figures {
            $(pub(crate) $name: Count,)*
        }

        impl fmt::Display for Figures {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write!(f, concat!("{} ", $text, ", "), self.$name.get())?;)*
                Ok(())
            }
        }
    };
}

figures! {
    turns: "turns",
    socket_turns: "of them over sockets",
    tenants: "tenants",
    sessions: "sessions",
    completed: "completed",
    cancels: "requests dropped",
    aborts: "aborts",
    timeouts: "time-outs",
    reconnects: "reconnects",
    resets: "generation switches",
    tool_calls: "tool calls",
    model_errors: "model errors",
    resends: "resends",
    conflicts: "run id conflicts",
    refused: "refused as queue full",
    interruptions: "interrupting, rejecting or steering inputs",
    reads: "reads",
    prompts: "prompts",
    prompt_bytes: "bytes of prompts",
    events: "events at listeners",
    frames: "frames",
    frame_bytes: "bytes of frames",
    answer_bytes: "bytes of answers",
    log_lines: "log lines",
    probes: "probe answers",
    tags: "tags seen where they belong",
    disk_bytes: "bytes of a state directory at most",
    memory: "KiB resident at most",
    leaks: "leaks",
    wrongs: "other faults",
}
