use std::sync::Arc;

use serde_json::{Value, json};
use watertight_core::ids::{EntryId, GenerationId, UnixMillis};
use watertight_core::session::SessionMeta;
use watertight_core::transcript::{StopReason, Usage};

use watertight_engine::event::Rendered;

use super::super::outbox::Item;
use super::*;

struct Heard {
    feed: Feed,
    outbox: Arc<Outbox>,
    seq: u64,
}

fn listen(caps: Caps) -> Heard {
    let outbox = Arc::new(Outbox::default());
    Heard { feed: Feed::new(outbox.clone(), caps), outbox, seq: 0 }
}

fn key() -> CanonicalKey {
    CanonicalKey::from_stored("agent:main:main")
}

fn session() -> Arc<SessionView> {
    Arc::new(SessionView {
        key: key(),
        agent: "main".into(),
        is_main: true,
        generation: None,
        meta: SessionMeta::default(),
        created_at: None,
        updated_at: None,
        active_runs: vec![],
        model: ("p1".into(), "m1".into()),
        context_tokens: 1,
    })
}

fn report(outcome: RunOutcome, text: &str) -> EventKind {
    let report = RunReport {
        run: RunId::parse("r").unwrap(),
        key: key(),
        agent: "main".into(),
        generation: GenerationId::parse("g").unwrap(),
        outcome,
        text: text.into(),
        model: None,
        provider_status: None,
        usage: Usage::default(),
        last_usage: Usage::default(),
        started_at: UnixMillis(1),
        ended_at: UnixMillis(2),
        receipt: None,
    };
    EventKind::Ended { report: Arc::new(report), session: session() }
}

fn text(delta: &str, text: &str) -> EventKind {
    EventKind::Text { delta: delta.into(), text: text.into() }
}

impl Heard {
    fn happens(&mut self, kind: EventKind) -> Vec<Value> {
        self.seq += 1;
        self.feed.deliver(&Arc::new(SessionEvent {
            seq: self.seq,
            key: key(),
            agent: "main".into(),
            generation: GenerationId::parse("g").unwrap(),
            run: Some((RunId::parse("r").unwrap(), self.seq)),
            at: UnixMillis(7),
            kind,
            rendered: Rendered::default(),
        }));
        self.drain()
    }

    fn drain(&self) -> Vec<Value> {
        let (mut frames, mut load) = (Vec::new(), super::super::outbox::Load::default());
        while let Some(item) = self.outbox.try_next() {
            load.add(&item);
            let Item::Event(frame) = item else { panic!("{item:?}") };
            frames.push(serde_json::from_slice(frame.payload()).unwrap());
        }
        self.outbox.sent(load);
        frames
    }
}

/// Event names, with the state or stream where there is one.
fn names(frames: &[Value]) -> Vec<String> {
    let detail = |payload: &Value| {
        let stream = payload["stream"].as_str().map(|stream| match payload["data"]["phase"].as_str() {
            Some(phase) => format!("{stream}.{phase}"),
            None => stream.to_owned(),
        });
        stream.or_else(|| payload["state"].as_str().map(str::to_owned))
    };
    frames
        .iter()
        .map(|frame| {
            let name = frame["event"].as_str().unwrap();
            detail(&frame["payload"]).map_or_else(|| name.to_owned(), |detail| format!("{name} {detail}"))
        })
        .collect()
}

#[test]
fn a_run_is_heard_in_order_without_a_subscription() {
    let mut heard = listen(Caps::default());
    assert_eq!(names(&heard.happens(EventKind::StartingModel)), ["chat status", "agent run_status.starting_model"]);
    let started = EventKind::Started { started_at: UnixMillis(1), session: session() };
    assert_eq!(names(&heard.happens(started)), ["agent lifecycle.start"]);
    assert_eq!(names(&heard.happens(text("Hi", "Hi"))), ["agent assistant", "chat delta"]);
    let done = RunOutcome::Completed { stop: StopReason::Stop, answer: EntryId::from_bytes([0; 16]) };
    assert_eq!(names(&heard.happens(report(done, "Hi"))), ["agent lifecycle.end", "chat final"]);
}

#[test]
fn an_abort_is_told_before_the_lifecycle_ends() {
    let mut heard = listen(Caps::default());
    let frames = heard.happens(report(RunOutcome::Aborted { reason: "rpc".into() }, "part"));
    assert_eq!(names(&frames), ["chat aborted", "agent lifecycle.end"]);
    assert_eq!(frames[0]["payload"]["stopReason"], "rpc");
    assert_eq!(frames[0]["payload"]["message"]["content"][0]["text"], "part");
}

#[test]
fn every_other_ending_is_one_error() {
    let failed = RunOutcome::Failed { kind: FailureKind::RateLimit, message: "slow down".into() };
    for (outcome, kind) in
        [(failed, "rate_limit"), (RunOutcome::TimedOut, "timeout"), (RunOutcome::Interrupted, "unknown")]
    {
        let frames = listen(Caps::default()).happens(report(outcome, ""));
        assert_eq!(names(&frames), ["agent lifecycle.error", "chat error"]);
        assert_eq!(frames[1]["payload"]["errorKind"], kind);
        assert_ne!(frames[1]["payload"]["errorMessage"], "");
    }
}

fn deltas(frames: &[Value]) -> Vec<Value> {
    let chats = frames.iter().filter(|frame| frame["event"] == "chat").map(|frame| &frame["payload"]);
    chats.map(|chat| json!([chat["deltaText"], chat["replace"], chat["message"]["content"][0]["text"]])).collect()
}

#[test]
fn deltas_always_add_up_to_the_message() {
    let mut heard = listen(Caps::default());
    assert_eq!(deltas(&heard.happens(text("Hi", "Hi"))), [json!(["Hi", null, "Hi"])]);
    assert_eq!(deltas(&heard.happens(text(" you", "Hi you"))), [json!([" you", null, "Hi you"])]);
    // After a tool round the answer begins anew.
    assert_eq!(deltas(&heard.happens(text("So", "So"))), [json!(["So", true, "So"])]);
    // A connection that comes in the middle gets all of it.
    assert_eq!(deltas(&listen(Caps::default()).happens(text("c", "abc"))), [json!(["abc", true, "abc"])]);
}

#[test]
fn after_a_skipped_delta_the_next_one_brings_all() {
    let mut heard = listen(Caps::default());
    heard.happens(text("a", "a"));
    let big = "x".repeat(5 * 1024 * 1024);
    heard.outbox.event("filler", &big, Need::Required);
    let filler = heard.outbox.try_next().unwrap();
    assert!(heard.happens(text("b", "ab")).is_empty());
    let mut load = super::super::outbox::Load::default();
    load.add(&filler);
    heard.outbox.sent(load);
    let frames = heard.happens(text("c", "abc"));
    assert_eq!(deltas(&frames), [json!(["abc", true, "abc"])]);
    assert_eq!(frames[0]["seq"], 6, "the skipped events used up their numbers");
}

#[test]
fn a_scoped_client_hears_runs_only_of_sessions_it_named() {
    let mut heard = listen(Caps { session_scoped: true, tool_events: false });
    assert!(heard.happens(text("a", "a")).is_empty());
    heard.feed.subscribe(key()).unwrap();
    assert_eq!(names(&heard.happens(text("b", "ab"))), ["agent assistant", "chat delta"]);
    heard.feed.unsubscribe(&key());
    assert!(heard.happens(text("c", "abc")).is_empty());
}

#[test]
fn list_subscribers_hear_of_changes() {
    let changed = || EventKind::Changed { reason: "create", session: session() };
    let mut heard = listen(Caps::default());
    assert!(heard.happens(changed()).is_empty());
    heard.feed.subscribe_list();
    let frames = heard.happens(changed());
    assert_eq!(names(&frames), ["sessions.changed"]);
    assert_eq!(
        (&frames[0]["payload"]["reason"], &frames[0]["payload"]["session"]["key"]),
        (&json!("create"), &json!("agent:main:main"))
    );
    let started = EventKind::Started { started_at: UnixMillis(1), session: session() };
    let frames = heard.happens(started);
    assert_eq!(names(&frames), ["agent lifecycle.start", "sessions.changed"]);
    assert_eq!((&frames[1]["payload"]["phase"], &frames[1]["payload"]["runId"]), (&json!("start"), &json!("r")));
}

#[test]
fn tool_events_go_to_the_starter_and_by_another_name_to_list_subscribers() {
    let tool = || EventKind::ToolStarted { call_id: "c1".into(), name: "time".into(), arguments: json!({}) };
    let run = RunId::parse("r").unwrap();
    let caps = Caps { session_scoped: false, tool_events: true };

    let mut starter = listen(caps);
    starter.feed.started(&run, &key());
    assert_eq!(names(&starter.happens(tool())), ["agent tool.start"]);

    let mut other = listen(caps);
    assert!(other.happens(tool()).is_empty());
    other.feed.subscribe_list();
    assert_eq!(names(&other.happens(tool())), ["session.tool tool.start"]);

    let mut without_cap = listen(Caps::default());
    without_cap.feed.started(&run, &key());
    assert!(without_cap.happens(tool()).is_empty());
}

#[test]
fn nothing_is_remembered_of_a_run_that_has_ended() {
    let mut heard = listen(Caps { session_scoped: false, tool_events: true });
    heard.feed.started(&RunId::parse("r").unwrap(), &key());
    heard.happens(text("a", "a"));
    heard.happens(report(RunOutcome::TimedOut, "a"));
    let state = heard.feed.lock();
    assert!(state.own_runs.is_empty() && state.answers.is_empty());
}

#[test]
fn subscriptions_are_bounded() {
    let heard = listen(Caps::default());
    for n in 0..MAX_SUBSCRIPTIONS {
        heard.feed.subscribe(CanonicalKey::from_stored(&format!("agent:main:{n}"))).unwrap();
    }
    assert_eq!(heard.feed.subscribe(key()), Err(TooMany));
    assert_eq!(heard.feed.subscribe(CanonicalKey::from_stored("agent:main:0")), Ok(()));
}

#[test]
fn nothing_is_remembered_of_runs_whose_end_is_not_heard() {
    let run = RunId::parse("r").unwrap();
    let remembered = |heard: &Heard| {
        let state = heard.feed.lock();
        state.own_runs.len() + state.answers.len()
    };
    let no_tools = listen(Caps::default());
    no_tools.feed.started(&run, &key());
    assert_eq!(remembered(&no_tools), 0);

    let mut scoped = listen(Caps { session_scoped: true, tool_events: true });
    scoped.feed.started(&run, &key());
    assert_eq!(remembered(&scoped), 0);
    scoped.feed.subscribe(key()).unwrap();
    scoped.feed.started(&run, &key());
    scoped.happens(text("a", "a"));
    assert_eq!(remembered(&scoped), 2);
    scoped.feed.unsubscribe(&key());
    assert_eq!(remembered(&scoped), 0);

    let lost = listen(Caps { session_scoped: false, tool_events: true });
    for n in 0..2 * MAX_RUNS {
        lost.feed.started(&RunId::parse(&format!("r{n}")).unwrap(), &key());
    }
    assert_eq!(remembered(&lost), MAX_RUNS);
}

#[test]
fn an_event_is_written_once_for_all_who_hear_it() {
    let event = Arc::new(SessionEvent {
        seq: 1,
        key: key(),
        agent: "main".into(),
        generation: GenerationId::parse("g").unwrap(),
        run: Some((RunId::parse("r").unwrap(), 1)),
        at: UnixMillis(7),
        kind: text("Hi", "Hi"),
        rendered: Rendered::default(),
    });
    let (first, second) = (listen(Caps::default()), listen(Caps::default()));
    first.feed.deliver(&event);
    let forms = ["agent", "chat"].map(|form| event.rendered.form(form, || panic!("it is written")).unwrap());
    second.feed.deliver(&event);
    assert_eq!(forms.map(|form| Arc::strong_count(&form)), [2, 2], "whoever is told keeps a frame, not the form");
    assert_eq!(first.drain(), second.drain());
}

#[test]
fn a_long_answer_is_told_again_only_when_it_has_grown() {
    let mut heard = listen(Caps::default());
    let mut answer = String::new();
    let piece = "x".repeat(16 * 1024);
    let mut sent = 0;
    while answer.len() < 8 * LONG_ANSWER {
        answer.push_str(&piece);
        sent += deltas(&heard.happens(text(&piece, &answer))).len();
    }
    assert!((16..45).contains(&sent), "{sent} of 128");
    let start_over = heard.happens(text("So", "So"));
    assert_eq!(deltas(&start_over), [json!(["So", true, "So"])]);
}
