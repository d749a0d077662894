//! The oracle must be able to find what it looks for.

use super::*;
use crate::ledger::{Method, Receipt};

const KEY: &str = "agent:main:s0";

/// A completed turn of writer `writer`, sent at and acknowledged at these times.
fn turn(run: &str, writer: usize, sent: u64, acked: u64) -> Turn {
    Turn {
        run: run.to_owned(),
        writer,
        key: KEY.to_owned(),
        text: format!("{KEY} {run} plain"),
        kind: Kind::Plain,
        method: Method::Send,
        sent_at: Some(sent),
        acked_at: Some(acked),
        fresh: true,
        message_seq: None,
        receipt: None,
        kills_at_send: 0,
        kills_at_end: 0,
        end: Some(End::Completed(None)),
        audited: false,
    }
}

fn message(role: &str, run: &str, text: &str) -> Message {
    Message {
        id: String::new(),
        seq: 0,
        role: role.to_owned(),
        text: text.to_owned(),
        run: Some(run.to_owned()),
        stop: (role == "assistant").then(|| "stop".to_owned()),
        calls: Vec::new(),
        call: None,
    }
}

fn input(run: &str) -> Message {
    message("user", run, &format!("{KEY} {run} plain"))
}

fn answer(run: &str, place: usize) -> Message {
    message("assistant", run, &format!("Echo: {KEY} {run} plain (turn {place})"))
}

/// With places and ids as a gateway gives them.
fn placed(mut messages: Vec<Message>) -> Vec<Message> {
    for (at, message) in messages.iter_mut().enumerate() {
        message.seq = at as u64 + 1;
        message.id = format!("id{at}");
    }
    messages
}

/// Three turns of two writers: `a`, then `b` and `c` at once.
fn turns() -> Vec<Turn> {
    vec![turn("a", 1, 1, 2), turn("b", 1, 3, 5), turn("c", 2, 4, 6)]
}

fn history() -> Vec<Message> {
    vec![input("a"), answer("a", 1), input("b"), input("c"), answer("b", 2), answer("c", 3)]
}

fn faults(messages: Vec<Message>, turns: &[Turn]) -> Vec<Fault> {
    judge(&placed(messages), turns)
}

fn run(name: &str) -> String {
    name.to_owned()
}

#[test]
fn a_sound_transcript_is_not_blamed() {
    assert_eq!(faults(history(), &turns()), []);
    // Neither is one in which turns that overlapped stand the other way round.
    let mut other = turns();
    (other[1].acked_at, other[2].acked_at) = (Some(6), Some(5));
    assert_eq!(faults(history(), &other), []);
    // Nor an unacknowledged turn, whether it is there or not.
    let mut unsure = turns();
    unsure.push(Turn { acked_at: None, fresh: false, end: None, ..turn("d", 1, 7, 0) });
    assert_eq!(faults(history(), &unsure), []);
    let with = [history(), vec![input("d"), answer("d", 4)]].concat();
    assert_eq!(faults(with, &unsure), []);
}

#[test]
fn a_lost_input_is_found() {
    let mut short = history();
    short.truncate(1);
    let found = faults(short, &turns());
    assert!(found.contains(&Fault::Lost(run("b"))) && found.contains(&Fault::Lost(run("c"))), "{found:?}");
    assert!(found.contains(&Fault::LostAnswer(run("a"))), "{found:?}");
}

#[test]
fn a_doubled_input_is_found() {
    let mut doubled = history();
    doubled.push(input("b"));
    assert_eq!(faults(doubled, &turns()), [Fault::Doubled(run("b"))]);
}

#[test]
fn an_input_before_one_that_was_acknowledged_earlier_is_found() {
    let swapped = vec![input("b"), input("a"), answer("a", 2), answer("b", 1), input("c"), answer("c", 3)];
    let found = faults(swapped, &turns());
    assert!(found.contains(&Fault::Reordered { first: run("b"), second: run("a") }), "{found:?}");
}

#[test]
fn inputs_in_another_order_than_one_connection_was_answered_are_found() {
    // Sent together, answered `b` then `a`, stored `a` then `b`.
    let turns = [turn("a", 1, 1, 4), turn("b", 1, 2, 3)];
    let stored = vec![input("a"), input("b"), answer("a", 1), answer("b", 2)];
    let wanted = Fault::Reordered { first: run("a"), second: run("b") };
    assert_eq!(faults(stored.clone(), &turns), [wanted]);
    // A repetition's answer says nothing about the order.
    let mut again = turns.clone();
    again[0].fresh = false;
    assert_eq!(faults(stored, &again), []);
}

#[test]
fn what_nobody_sent_is_found() {
    for stranger in [input("x"), message("user", "a", "something else"), answer("x", 1)] {
        let text = stranger.text.clone();
        let with = [history(), vec![stranger]].concat();
        let found = faults(with, &turns());
        assert!(found.contains(&Fault::Foreign { place: 7, text }), "{found:?}");
    }
}

#[test]
fn a_gap_or_a_repeated_id_is_found() {
    let mut gap = placed(history());
    gap.remove(1);
    assert!(judge(&gap, &turns()).contains(&Fault::Torn { place: 3 }));
    let mut repeated = placed(history());
    repeated[4].id = repeated[3].id.clone();
    assert_eq!(judge(&repeated, &turns()), [Fault::Torn { place: 5 }]);
}

#[test]
fn a_doubled_answer_is_found() {
    let mut doubled = history();
    doubled.push(answer("b", 2));
    assert_eq!(faults(doubled, &turns()), [Fault::DoubledAnswer(run("b"))]);
}

#[test]
fn a_tool_that_was_called_or_answered_twice_is_found() {
    let mut turns = turns();
    turns[0].kind = Kind::Tool;
    let call = || Message {
        stop: Some("toolUse".to_owned()),
        calls: vec!["call".to_owned()],
        ..message("assistant", "a", "")
    };
    let result = || Message { call: Some("call".to_owned()), ..message("toolResult", "a", "12:00") };
    let rest = || history().split_off(1);
    assert_eq!(faults([vec![input("a"), call(), result()], rest()].concat(), &turns), []);
    for twice in [vec![input("a"), call(), result(), result()], vec![input("a"), call(), call(), result()]] {
        assert_eq!(faults([twice, rest()].concat(), &turns), [Fault::DoubledAnswer(run("a"))]);
    }
    let early = [vec![input("a"), result()], rest()].concat();
    assert_eq!(faults(early, &turns), [Fault::Stray { run: run("a"), place: 2 }]);
    let other = Message { call: Some("other".to_owned()), ..result() };
    let other = [vec![input("a"), call(), other], rest()].concat();
    assert_eq!(faults(other, &turns), [Fault::Stray { run: run("a"), place: 3 }]);
}

#[test]
fn the_answer_to_another_input_or_of_another_prompt_is_found() {
    for wrong in [answer("c", 2), answer("b", 3), answer("b", 1)] {
        let mut history = history();
        history[4] = Message { run: Some(run("b")), ..wrong.clone() };
        assert_eq!(faults(history, &turns()), [Fault::WrongAnswer { run: run("b"), text: wrong.text }]);
    }
    let mut told = turns();
    told[0].end = Some(End::Completed(Some("something else".to_owned())));
    let wanted = Fault::WrongAnswer { run: run("a"), text: "something else".to_owned() };
    assert_eq!(faults(history(), &told), [wanted]);
}

#[test]
fn an_answer_before_its_input_or_after_a_failure_is_found() {
    let early = vec![answer("a", 1), input("a"), input("b"), input("c"), answer("b", 2), answer("c", 3)];
    assert!(faults(early, &turns()).contains(&Fault::Stray { run: run("a"), place: 1 }));
    let mut failed = turns();
    failed[0].end = Some(End::Failed("no".to_owned()));
    assert!(faults(history(), &failed).contains(&Fault::Stray { run: run("a"), place: 0 }));
}

#[test]
fn an_acknowledged_turn_without_an_end_is_found() {
    let mut stuck = turns();
    stuck[2].end = None;
    let mut open = history();
    open.pop();
    assert_eq!(faults(open, &stuck), [Fault::Wedged(run("c"))]);
}

#[test]
fn a_run_may_be_given_up_only_after_it_was_killed_too_often() {
    let mut open = history();
    open.pop();
    let mut given_up = turns();
    given_up[2] = Turn { end: Some(End::Interrupted), kills_at_send: 5, kills_at_end: 9, ..given_up[2].clone() };
    assert_eq!(faults(open.clone(), &given_up), []);
    given_up[2].kills_at_end = 8;
    let wanted = Fault::GivenUp { run: run("c"), kills: 3, end: End::Interrupted };
    assert_eq!(faults(open.clone(), &given_up), [wanted]);
    let end = End::Failed("no".to_owned());
    given_up[2] = Turn { end: Some(end.clone()), kills_at_end: 9, ..given_up[2].clone() };
    assert_eq!(faults(open, &given_up), [Fault::GivenUp { run: run("c"), kills: 4, end }]);
}

#[test]
fn receipts_and_places_that_do_not_fit_are_found() {
    let receipt = |seq, session: &str| Some(Receipt { session: session.to_owned(), seq, chain: String::new() });
    let mut turns = turns();
    for (turn, seq) in turns.iter_mut().zip([1, 3, 4]) {
        (turn.message_seq, turn.receipt) = (Some(seq), receipt(seq, "s"));
    }
    assert_eq!(faults(history(), &turns), []);
    let mut moved = turns.clone();
    moved[1].message_seq = Some(2);
    assert_eq!(faults(history(), &moved), [Fault::Misplaced(run("b"))]);
    for wrong in [receipt(1, "s"), receipt(3, "other")] {
        let mut moved = turns.clone();
        moved[1].receipt = wrong;
        assert!(faults(history(), &moved).contains(&Fault::Misplaced(run("b"))));
    }
}
