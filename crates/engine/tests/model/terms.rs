//! What the model and the engine are compared by.

/// Time limit of runs that have one. Never a multiple of [`STEP`] after anything else happens.
pub(crate) const LIMIT: u64 = 257;
/// What a tool says whose run was cut short and must not be repeated.
pub(crate) const UNKNOWN: &str = "unknown_outcome";
/// What the tools of the test say.
pub(crate) const RESULT: &str = "done";

/// What a model does with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Lists what it was sent.
    Say,
    /// So many words, one at a time.
    Slow(u8),
    Hang,
    Fail,
    Die,
    /// Asks for a tool, which must not be repeated or may be, and answers with its result.
    Tool {
        repeatable: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Queue,
    Interrupt,
    Reject,
    Steer,
}

/// A turn as a client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) run: u8,
    pub(crate) kind: Kind,
    pub(crate) policy: Policy,
    /// The generation it makes live.
    pub(crate) switch: Option<u8>,
    /// Whether it has a time limit.
    pub(crate) limited: bool,
}

impl Request {
    pub(crate) fn text(self, tenant: usize) -> String {
        let run = self.run;
        match self.kind {
            Kind::Say => format!("/echo history {tenant} {run}"),
            Kind::Slow(words) => format!("/echo slow {words}"),
            Kind::Hang => format!("/echo hang {tenant} {run}"),
            Kind::Fail => "/echo fail".into(),
            Kind::Die => format!("/echo die {tenant} {run}"),
            Kind::Tool { repeatable: false } => "/echo tools once".into(),
            Kind::Tool { repeatable: true } => "/echo tools again".into(),
        }
    }

    pub(crate) fn tool(self) -> &'static str {
        if self.kind == (Kind::Tool { repeatable: true }) { "again" } else { "once" }
    }
}

/// What a client is told of its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Started,
    /// It was accepted before.
    Known,
    Conflict,
    Busy,
    Aborted,
    Draining,
    /// Its process died before it was told.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Completed,
    Failed,
    Aborted,
    TimedOut,
    Interrupted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Assistant,
    ToolResult,
}

/// What can be seen of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The live generation.
    pub(crate) entries: Vec<(Role, String)>,
    /// The active run, those it took up, those that wait.
    pub(crate) runs: Vec<u8>,
    /// The active run and what it has said since its last entry.
    pub(crate) in_flight: Option<(u8, String)>,
    /// Runs that ended in this process, in order, with what they said last.
    pub(crate) ended: Vec<(u8, Outcome, String)>,
    /// What the turns were told, by the order in which they were sent.
    pub(crate) answers: Vec<Option<Answer>>,
    /// How often a tool ran.
    pub(crate) executions: u32,
    /// How often a model began to answer in this process. From then on its clock runs.
    pub(crate) calls: u32,
}
