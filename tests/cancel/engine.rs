//! Turns, and looking at them, each given up after every number of polls.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use watertight_config::Config;
use watertight_core::ids::{EntryId, GenerationId, RunId, Seq};
use watertight_core::run::{QueuePolicy, RunOptions, RunOutcome};
use watertight_core::transcript::{Block, Message};
use watertight_engine::Engine;
use watertight_engine::admission::{Access, Presented};
use watertight_engine::engine::SessionFilter;
use watertight_engine::report::RunReport;
use watertight_engine::request::{Cursor, GenerationChoice, HistoryQuery, Selector, Target, TurnRequest};
use watertight_engine::state_dir::StateDir;
use watertight_testkit::mock_provider::{Gate, Reply};
use watertight_testkit::polls::{Dropped, poll_at_most};
use watertight_testkit::{MockProvider, PATIENCE, canary};

/// How long a request is given that waits for what does not come by itself.
const STUCK: Duration = Duration::from_millis(50);
/// A prompt that begins so is answered when its gate is opened.
const HOLD: &str = "hold";

struct World {
    engine: Engine,
    access: Access,
    /// The operator of another tenant, whose sessions have the same keys.
    other: Access,
    token: String,
    gates: Arc<Mutex<HashMap<String, Gate>>>,
    _mock: MockProvider,
    _dir: tempfile::TempDir,
}

impl World {
    async fn open() -> Arc<Self> {
        let mock = MockProvider::start().await;
        let gates: Arc<Mutex<HashMap<String, Gate>>> = Arc::default();
        let book = gates.clone();
        mock.answer_with(move |request| {
            let text = request.last_user_text();
            if !text.starts_with(HOLD) {
                return None;
            }
            let (reply, gate) = Reply::gated([text.clone()]);
            book.lock().unwrap().insert(text, gate);
            Some(reply)
        });
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[[agents]]\nid = \"main\"\nmodel = \"mock/m\"\n[providers.mock]\nkind = \"openai\"\nbase_url = \"{}\"\n",
            mock.base_url()
        );
        let state = StateDir::lock(&dir.path().join("state")).unwrap();
        let engine = Engine::open(Arc::new(Config::from_toml(&config).unwrap()), state).await.unwrap();
        let token = std::fs::read_to_string(engine.operator_token_file().unwrap()).unwrap().trim().to_owned();
        let access = engine.authenticate(Presented::Secret(&token), None).await.unwrap();
        let theirs = engine.create_tenant("other").await.unwrap();
        let other = engine.authenticate(Presented::Secret(&theirs), None).await.unwrap();
        Arc::new(Self { engine, access, other, token, gates, _mock: mock, _dir: dir })
    }

    /// A turn to its end.
    async fn say(&self, access: &Access, key: &str, text: &str) -> Arc<RunReport> {
        let run = canary::marker();
        self.engine.submit(access, turn(key, &run, text), |_| {}).await.unwrap();
        self.ended(access, &run).await
    }

    async fn ended(&self, access: &Access, run: &str) -> Arc<RunReport> {
        let run = RunId::parse(run).unwrap();
        self.engine.wait(access, &run, Some(PATIENCE)).await.unwrap().expect("the run ends")
    }

    /// A turn that is answered when [`Self::release`] says so.
    async fn hold(&self, key: &str, run: &str) {
        let text = format!("{HOLD} {key}");
        self.engine.submit(&self.access, turn(key, run, &text), |_| {}).await.unwrap();
        while !self.gates.lock().unwrap().contains_key(&text) {
            tokio::task::yield_now().await;
        }
    }

    fn release(&self, key: &str) {
        if let Some(gate) = self.gates.lock().unwrap().remove(&format!("{HOLD} {key}")) {
            gate.open(2);
        }
    }

    /// Texts of the live generation, with whether each is an input.
    async fn texts(&self, access: &Access, key: &str) -> Vec<(bool, String)> {
        let history = self.engine.history(access, &Target::of_key(key), page()).await.unwrap();
        let text = |message: &Message| (matches!(message, Message::User { .. }), message.text());
        history.entries.iter().map(|entry| text(&entry.body.message)).collect()
    }
}

fn turn(key: &str, run: &str, text: &str) -> TurnRequest {
    TurnRequest {
        target: Target::of_key(key),
        input: vec![Block::from_text(text)],
        run: RunId::parse(run).unwrap(),
        options: RunOptions::default(),
        expect_generation: None,
        surface: "test",
        method: "agent",
    }
}

fn page() -> HistoryQuery {
    HistoryQuery { limit: 1000, offset: 0, max_bytes: usize::MAX }
}

/// What the session is doing when the request comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// It has had a turn, of run `before`.
    Quiet,
    /// A turn is under way, of run `held`, and another waits, of run `waiting`.
    Busy,
}

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The parts a request is made of.
struct Names {
    key: String,
    /// The run it may start, and what it says.
    run: String,
    text: String,
    /// Ids that go with [`Before`].
    before: String,
    held: String,
    waiting: String,
    entry: Option<EntryId>,
    cursor: Option<Cursor>,
    /// How often its turn was acknowledged.
    acknowledged: Arc<AtomicUsize>,
}

struct Recorded {
    name: &'static str,
    before: Before,
    /// Waits for what is held.
    stuck: bool,
    /// The turn it is, where it is one.
    turn: Option<fn(&Names) -> TurnRequest>,
    make: fn(Arc<World>, &Names) -> Request,
}

fn submit(name: &'static str, before: Before, stuck: bool, turn: fn(&Names) -> TurnRequest) -> Recorded {
    // Each makes the turn of its own list entry: see `make_turn`.
    Recorded { name, before, stuck, turn: Some(turn), make: |_, _| unreachable!("turns are made by `make_turn`") }
}

fn make_turn(world: Arc<World>, names: &Names, turn: TurnRequest) -> Request {
    let acknowledged = names.acknowledged.clone();
    Box::pin(async move {
        let acknowledge = move |_: &_| {
            acknowledged.fetch_add(1, Ordering::SeqCst);
        };
        let _ = world.engine.submit(&world.access, turn, acknowledge).await;
    })
}

fn look(name: &'static str, before: Before, stuck: bool, make: fn(Arc<World>, &Names) -> Request) -> Recorded {
    Recorded { name, before, stuck, turn: None, make }
}

fn plain(names: &Names) -> TurnRequest {
    turn(&names.key, &names.run, &names.text)
}

fn queued(names: &Names, queue: QueuePolicy) -> TurnRequest {
    TurnRequest { options: RunOptions { queue, ..RunOptions::default() }, ..plain(names) }
}

fn switching(names: &Names) -> TurnRequest {
    let mut turn = plain(names);
    turn.target.generation = GenerationChoice::MakeLive(GenerationId::parse("another").unwrap());
    turn
}

fn all() -> Vec<Recorded> {
    use Before::{Busy, Nothing, Quiet};
    macro_rules! ask {
        (|$world:ident, $names:ident $(, $part:ident)*| $body:expr) => {
            |$world, $names| {
                $(let $part = $names.$part.clone();)*
                let _ = $names;
                Box::pin(async move {
                    let _ = $body.await;
                })
            }
        };
    }
    vec![
        submit("the first turn", Nothing, false, plain),
        submit("a turn", Quiet, false, plain),
        submit("a turn that waits", Busy, false, plain),
        submit("a turn that interrupts", Busy, false, |names| queued(names, QueuePolicy::Interrupt)),
        submit("a turn that steers", Busy, false, |names| queued(names, QueuePolicy::Steer)),
        submit("a turn that would rather not wait", Busy, false, |names| queued(names, QueuePolicy::Reject)),
        submit("a turn in another generation", Quiet, false, switching),
        submit("the first turn, with its generation", Nothing, false, switching),
        submit("a turn that waits for another generation", Busy, true, switching),
        look(
            "a turn again",
            Quiet,
            false,
            ask!(|w, n, key, before| w.engine.submit(&w.access, turn(&key, &before, "before"), |_| {})),
        ),
        look(
            "a run id of another turn",
            Quiet,
            false,
            ask!(|w, n, key, before| w.engine.submit(&w.access, turn(&key, &before, "else"), |_| {})),
        ),
        look("history", Quiet, false, ask!(|w, n, key| w.engine.history(&w.access, &Target::of_key(key), page()))),
        look(
            "history of a busy session",
            Busy,
            false,
            ask!(|w, n, key| w.engine.history(&w.access, &Target::of_key(key), HistoryQuery { offset: 1, ..page() })),
        ),
        look(
            "changes",
            Busy,
            false,
            ask!(|w, n, key, cursor| w.engine.changes(
                &w.access,
                &Target::of_key(key),
                cursor.as_ref().unwrap(),
                100,
                usize::MAX
            )),
        ),
        look(
            "an entry",
            Quiet,
            false,
            ask!(|w, n, key, entry| w.engine.entry(&w.access, &Target::of_key(key), entry.unwrap())),
        ),
        look("the list", Quiet, false, ask!(|w, n| w.engine.list(&w.access, SessionFilter::default()))),
        look("a description", Busy, false, ask!(|w, n, key| w.engine.describe(&w.access, &Target::of_key(key)))),
        look("a session by key", Quiet, false, ask!(|w, n, key| w.engine.find(&w.access, &Selector::Key(key), None))),
        look(
            "a session by generation",
            Quiet,
            false,
            ask!(|w, n| w.engine.find(&w.access, &Selector::Generation(GenerationId::parse("another").unwrap()), None)),
        ),
        look(
            "a session by label",
            Quiet,
            false,
            ask!(|w, n| w.engine.find(&w.access, &Selector::Label("none".into()), None)),
        ),
        look("a credential", Nothing, false, ask!(|w, n| w.engine.authenticate(Presented::Secret(&w.token), None))),
        look("a new tenant", Nothing, false, ask!(|w, n, run| w.engine.create_tenant(&run))),
        look(
            "the end of a run that is over",
            Quiet,
            false,
            ask!(|w, n, before| w.engine.wait(&w.access, &RunId::parse(&before).unwrap(), None)),
        ),
        look(
            "the end of a run under way",
            Busy,
            true,
            ask!(|w, n, held| w.engine.wait(&w.access, &RunId::parse(&held).unwrap(), None)),
        ),
        look(
            "the end of a run nobody knows",
            Quiet,
            true,
            ask!(|w, n, run| w.engine.wait(&w.access, &RunId::parse(&run).unwrap(), None)),
        ),
        look(
            "aborting what is under way",
            Busy,
            false,
            ask!(|w, n, key| w.engine.abort(&w.access, &Target::of_key(key), None, "rpc")),
        ),
        look(
            "aborting what waits",
            Busy,
            false,
            ask!(|w, n, key, waiting| w.engine.abort(
                &w.access,
                &Target::of_key(key),
                Some(&RunId::parse(&waiting).unwrap()),
                "rpc"
            )),
        ),
        look(
            "aborting nothing",
            Quiet,
            false,
            ask!(|w, n, key| w.engine.abort(&w.access, &Target::of_key(key), None, "rpc")),
        ),
    ]
}

/// Makes the session, gives the request up after `polls`, and looks what became of it. True when it was complete.
async fn give_up(world: &Arc<World>, recorded: &Recorded, polls: usize, dropped: Dropped) -> bool {
    let marker = canary::marker;
    let mut names = Names {
        key: format!("agent:main:{}", marker()),
        run: marker(),
        text: format!("given up {}", marker()),
        before: marker(),
        held: marker(),
        waiting: marker(),
        entry: None,
        cursor: None,
        acknowledged: Arc::default(),
    };
    let name = recorded.name;
    let key = names.key.clone();
    match recorded.before {
        Before::Nothing => {}
        Before::Quiet => {
            let first = world.engine.submit(&world.access, turn(&key, &names.before, "before"), |_| {}).await.unwrap();
            names.entry = Some(first.input);
            world.ended(&world.access, &names.before).await;
        }
        Before::Busy => {
            world.hold(&key, &names.held).await;
            let waiting = turn(&key, &names.waiting, "waiting");
            let waiting = world.engine.submit(&world.access, waiting, |_| {}).await.unwrap();
            names.cursor = Some(Cursor { generation: waiting.generation, seq: Seq(1) });
        }
    }

    let request = match recorded.turn {
        Some(turn) => make_turn(world.clone(), &names, turn(&names)),
        None => (recorded.make)(world.clone(), &names),
    };
    let polled = poll_at_most(request, polls, dropped);
    let complete = if recorded.stuck {
        timeout(STUCK, polled).await.map_or(true, |done| done.is_some())
    } else {
        polled.await.is_some()
    };

    // The same key in another tenant, and another key in this one.
    let own = format!("own {}", marker());
    let theirs = world.say(&world.other, &key, &own).await;
    assert_eq!(theirs.text, own, "{name}");
    assert_eq!(world.texts(&world.other, &key).await, [(true, own.clone()), (false, own)], "{name}");
    let beside = format!("beside {}", marker());
    assert_eq!(world.say(&world.access, "agent:main:beside", &beside).await.text, beside, "{name}");

    // What comes next in the session comes after whatever the request has done.
    world.release(&key);
    let next = format!("next {}", marker());
    let report = world.say(&world.access, &key, &next).await;
    assert_eq!(report.text, next, "{name} after {polls} polls");
    if let Some(turn) = recorded.turn {
        let texts = world.texts(&world.access, &key).await;
        let inputs = texts.iter().filter(|(is_input, text)| *is_input && *text == names.text).count();
        let acknowledged = names.acknowledged.load(Ordering::SeqCst);
        assert_eq!(inputs, acknowledged, "{name} after {polls} polls: acknowledged and stored go together: {texts:?}");
        assert!(inputs <= 1, "{name} after {polls} polls: {texts:?}");
        // Sent again, it is there once, and answered once.
        world.engine.submit(&world.access, turn(&names), |_| {}).await.unwrap();
        let report = world.ended(&world.access, &names.run).await;
        assert!(matches!(report.outcome, RunOutcome::Completed { .. }), "{name}: {:?}", report.outcome);
        let texts = world.texts(&world.access, &key).await;
        let count = |is_input| texts.iter().filter(|entry| **entry == (is_input, names.text.clone())).count();
        assert_eq!((count(true), count(false)), (1, 1), "{name} after {polls} polls: {texts:?}");
    }
    let all = world.texts(&world.access, &key).await;
    for run in [&names.held, &names.waiting].into_iter().filter(|_| recorded.before == Before::Busy) {
        // Neither lost nor left open by what was given up.
        world.ended(&world.access, run).await;
    }
    assert!(all.iter().all(|(_, text)| !text.starts_with("own ") && !text.starts_with("beside ")), "{name}: {all:?}");
    complete
}

#[tokio::test]
async fn a_request_given_up_at_any_poll_happens_wholly_or_not_at_all() {
    let world = World::open().await;
    let (mut requests, mut drops) = (0, 0);
    for recorded in all() {
        for dropped in [Dropped::AtOnce, Dropped::WhenWoken] {
            for polls in 0.. {
                if give_up(&world, &recorded, polls, dropped).await {
                    break;
                }
                drops += 1;
                assert!(polls < 1000, "{} does not end", recorded.name);
            }
            requests += 1;
        }
    }
    println!("{requests} requests to their ends, {drops} given up before");
    assert!(drops > requests, "requests that are ready at once prove nothing");
    world.engine.drain(Duration::ZERO).await;
}
