//! The turn state machine: `(state, command) -> (state, effects)`. Pure; the engine carries out the effects.
//!
//! One turn is: claim, call the model, and while the answer asks for tools record the intent, run them, record the
//! results and call again, at most [`TurnLimits::rounds`] times. Every way out ends in exactly one
//! [`Effect::Finish`].

use crate::run::FailureKind;
use crate::transcript::{StopReason, ToolCall};

/// Bounds of one turn.
#[derive(Clone, Copy, Debug)]
pub struct TurnLimits {
    /// Model calls at the most.
    pub rounds: u32,
    /// Tool calls in one answer at the most.
    pub calls_per_round: usize,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self { rounds: 16, calls_per_round: 32 }
    }
}

/// Where a turn stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// Acknowledged, not started.
    Queued,
    /// Model call number `round` (from 1) is under way.
    Calling {
        /// Which call.
        round: u32,
    },
    /// The answer of call `round` asked for tools; these have no result yet.
    Tools {
        /// Which call.
        round: u32,
        /// Calls still without a recorded result, in the model's order.
        waiting: Vec<ToolCall>,
    },
    /// Over.
    Ended,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The session's writer took the run.
    Claim,
    /// A later process took the run up where its journal ends: the answer of call `round` (0 before the first) asked for
    /// tools, and `waiting` have no recorded result.
    Resume {
        /// Which call; 0 when none was answered.
        round: u32,
        /// Calls without a recorded result, in the model's order.
        waiting: Vec<ToolCall>,
    },
    /// The model answered; the answer is stored together with what follows from it, and before that is carried out.
    Answered {
        /// Why it stopped.
        stop: StopReason,
        /// The tools it asks for.
        calls: Vec<ToolCall>,
    },
    /// The model call failed for good.
    CallFailed {
        /// What sort of failure.
        kind: FailureKind,
        /// One sentence for the user.
        message: String,
    },
    /// A tool's result is durable.
    ToolRecorded {
        /// The call it answers.
        call_id: String,
    },
    /// A caller stops the run.
    Abort {
        /// What stopped it.
        reason: String,
    },
    /// The time limit passed.
    Expire,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Call the model with the session's transcript.
    CallModel {
        /// Which call of this turn, from 1.
        round: u32,
    },
    /// Run these tools; their intent is already durable with the answer that asked for them.
    RunTools(Vec<ToolCall>),
    /// Stop whatever is under way.
    Cancel,
    /// End the run this way.
    Finish(Ending),
}

/// How a turn ends, before its outcome is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// The model is done.
    Completed {
        /// Why it stopped.
        stop: StopReason,
    },
    /// It failed.
    Failed {
        /// What sort of failure.
        kind: FailureKind,
        /// One sentence for the user.
        message: String,
    },
    /// A caller stopped it.
    Aborted {
        /// What stopped it.
        reason: String,
    },
    /// It hit its time limit.
    TimedOut,
}

impl Turn {
    /// Advances the turn. A command that does not fit the state (a late tool result, a second abort) changes nothing.
    pub fn step(&mut self, command: Command, limits: TurnLimits) -> Vec<Effect> {
        match (&mut *self, command) {
            (Self::Ended, _) => Vec::new(),
            (Self::Queued, Command::Claim) => {
                *self = Self::Calling { round: 1 };
                vec![Effect::CallModel { round: 1 }]
            }
            (Self::Queued, Command::Resume { round, waiting }) if waiting.is_empty() => {
                *self = Self::Calling { round: round + 1 };
                vec![Effect::CallModel { round: round + 1 }]
            }
            (Self::Queued, Command::Resume { round, waiting }) => {
                *self = Self::Tools { round, waiting: waiting.clone() };
                vec![Effect::RunTools(waiting)]
            }
            (Self::Calling { round }, Command::Answered { stop, calls }) => {
                let round = *round;
                if calls.is_empty() {
                    return self.end(Ending::Completed { stop });
                }
                if round >= limits.rounds || calls.len() > limits.calls_per_round {
                    return self.end(Ending::Failed {
                        kind: FailureKind::ToolLoop,
                        message: format!(
                            "The model kept asking for tools (call {round} of {}, {} tools at once).",
                            limits.rounds,
                            calls.len()
                        ),
                    });
                }
                *self = Self::Tools { round, waiting: calls.clone() };
                vec![Effect::RunTools(calls)]
            }
            (Self::Calling { .. }, Command::CallFailed { kind, message }) => self.end(Ending::Failed { kind, message }),
            (Self::Tools { round, waiting }, Command::ToolRecorded { call_id }) => {
                // Strictly by call id, each once: a result nobody asked for is not counted.
                if let Some(found) = waiting.iter().position(|call| call.id == call_id) {
                    waiting.remove(found);
                    if waiting.is_empty() {
                        let round = *round + 1;
                        *self = Self::Calling { round };
                        return vec![Effect::CallModel { round }];
                    }
                }
                Vec::new()
            }
            (_, Command::Abort { reason }) => self.cancel(Ending::Aborted { reason }),
            (_, Command::Expire) => self.cancel(Ending::TimedOut),
            _ => Vec::new(),
        }
    }

    fn end(&mut self, ending: Ending) -> Vec<Effect> {
        *self = Self::Ended;
        vec![Effect::Finish(ending)]
    }

    fn cancel(&mut self, ending: Ending) -> Vec<Effect> {
        let busy = !matches!(self, Self::Queued);
        *self = Self::Ended;
        let finish = Effect::Finish(ending);
        if busy { vec![Effect::Cancel, finish] } else { vec![finish] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(id: &str) -> ToolCall {
        ToolCall { id: id.into(), name: "time".into(), arguments: serde_json::json!({}) }
    }

    fn step(turn: &mut Turn, command: Command) -> Vec<Effect> {
        turn.step(command, TurnLimits::default())
    }

    #[test]
    fn a_plain_answer_takes_one_call() {
        let mut turn = Turn::Queued;
        assert_eq!(step(&mut turn, Command::Claim), [Effect::CallModel { round: 1 }]);
        let done = step(&mut turn, Command::Answered { stop: StopReason::Stop, calls: vec![] });
        assert_eq!(done, [Effect::Finish(Ending::Completed { stop: StopReason::Stop })]);
        assert_eq!(turn, Turn::Ended);
    }

    #[test]
    fn the_next_call_waits_for_every_tool_result() {
        let mut turn = Turn::Calling { round: 1 };
        let calls = vec![call("a"), call("b")];
        let effects = step(&mut turn, Command::Answered { stop: StopReason::ToolUse, calls: calls.clone() });
        assert_eq!(effects, [Effect::RunTools(calls)]);
        assert!(step(&mut turn, Command::ToolRecorded { call_id: "b".into() }).is_empty());
        assert!(step(&mut turn, Command::ToolRecorded { call_id: "b".into() }).is_empty(), "a result counts once");
        assert!(step(&mut turn, Command::ToolRecorded { call_id: "zz".into() }).is_empty(), "nobody asked");
        let last = step(&mut turn, Command::ToolRecorded { call_id: "a".into() });
        assert_eq!(last, [Effect::CallModel { round: 2 }]);
    }

    #[test]
    fn a_resumed_turn_goes_on_where_its_journal_ends() {
        let mut turn = Turn::Queued;
        assert_eq!(step(&mut turn, Command::Resume { round: 0, waiting: vec![] }), [Effect::CallModel { round: 1 }]);
        let mut turn = Turn::Queued;
        assert_eq!(step(&mut turn, Command::Resume { round: 2, waiting: vec![] }), [Effect::CallModel { round: 3 }]);
        let mut turn = Turn::Queued;
        let waiting = vec![call("b")];
        let effects = step(&mut turn, Command::Resume { round: 2, waiting: waiting.clone() });
        assert_eq!(effects, [Effect::RunTools(waiting)]);
        assert_eq!(step(&mut turn, Command::ToolRecorded { call_id: "b".into() }), [Effect::CallModel { round: 3 }]);
    }

    #[test]
    fn a_model_that_never_stops_calling_tools_is_stopped() {
        let limits = TurnLimits { rounds: 2, calls_per_round: 4 };
        let mut turn = Turn::Calling { round: 2 };
        let effects = turn.step(Command::Answered { stop: StopReason::ToolUse, calls: vec![call("a")] }, limits);
        assert!(matches!(&effects[..], [Effect::Finish(Ending::Failed { kind: FailureKind::ToolLoop, .. })]));
    }

    #[test]
    fn an_abort_before_the_start_has_nothing_to_cancel() {
        let mut turn = Turn::Queued;
        let effects = step(&mut turn, Command::Abort { reason: "rpc".into() });
        assert_eq!(effects, [Effect::Finish(Ending::Aborted { reason: "rpc".into() })]);
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            Just(Command::Claim),
            (0..20_u32, prop::collection::vec("[a-c]", 0..3))
                .prop_map(|(round, ids)| Command::Resume { round, waiting: ids.iter().map(|id| call(id)).collect() }),
            Just(Command::Answered { stop: StopReason::Stop, calls: vec![] }),
            prop::collection::vec("[a-c]", 1..4).prop_map(|ids| Command::Answered {
                stop: StopReason::ToolUse,
                calls: ids.iter().map(|id| call(id)).collect(),
            }),
            "[a-c]".prop_map(|call_id| Command::ToolRecorded { call_id }),
            Just(Command::CallFailed { kind: FailureKind::Unknown, message: "x".into() }),
            Just(Command::Abort { reason: "rpc".into() }),
            Just(Command::Expire),
        ]
    }

    proptest! {
        #[test]
        fn a_turn_finishes_at_most_once_and_stays_finished(script in prop::collection::vec(commands(), 0..40)) {
            let mut turn = Turn::Queued;
            let mut finishes = 0;
            for command in script {
                for effect in step(&mut turn, command) {
                    prop_assert!(finishes == 0, "nothing follows the end");
                    if matches!(effect, Effect::Finish(_)) {
                        finishes += 1;
                    }
                }
            }
            prop_assert_eq!(finishes == 1, turn == Turn::Ended);
        }
    }
}
