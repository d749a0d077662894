//! Calls to a model provider, each given up after every number of polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::timeout;
use watertight_core::ids::RunId;
use watertight_core::transcript::{Block, Message};
use watertight_provider::naming::{HashedNames, HeaderMode, SessionNames, SessionNaming};
use watertight_provider::{
    Answer, ApiKey, ModelEvent, ModelRequest, OpenAi, OpenAiOptions, Provider, ProviderError, ToolSpec,
};
use watertight_testkit::mock_provider::{Reply, ScriptedCall};
use watertight_testkit::polls::{Dropped, poll_at_most};
use watertight_testkit::scope::{scope, tenant};
use watertight_testkit::{MockProvider, canary};

/// How long a call is given that is known to wait for ever.
const STUCK: Duration = Duration::from_millis(100);

/// Names nothing: these calls send raw keys.
struct NoNames;

impl SessionNames for NoNames {
    fn hashed(&self, _scope: &watertight_core::SessionScope) -> Option<HashedNames> {
        None
    }
}

/// What the requests of a call get, by its marker.
type Replies = dyn Fn(&str) -> Vec<Reply> + Send + Sync;

/// A call and what the provider does about it.
struct Recorded {
    name: &'static str,
    /// The text of its prompt after the marker.
    prompt: String,
    /// What its first request gets, its second, and so on; the last for all that follow.
    replies: Box<Replies>,
    /// How it ends, where it is let.
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answer,
    Error,
    /// Not soon: it is given up where it waits.
    Never,
}

fn recorded(name: &'static str, end: End, replies: impl Fn(&str) -> Vec<Reply> + Send + Sync + 'static) -> Recorded {
    Recorded { name, prompt: String::new(), replies: Box::new(replies), end }
}

fn call(id: &str, marker: &str) -> ScriptedCall {
    ScriptedCall::new(id, "look_up", &json!({"what": marker}))
}

/// The requests. Every reply carries the marker of the call, so that it is known wherever it turns up.
fn all() -> Vec<Recorded> {
    let many = |marker: &str| (0..20).map(|n| format!("{marker} {n} ")).collect::<Vec<_>>();
    let error = |status, marker: &str| Reply::error(status, "told_to", marker);
    let sse = |lines: Vec<String>| Reply::raw("text/event-stream", lines);
    let chunk = |text: &str| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]}));
    let mut list = vec![
        recorded("an echo", End::Answer, |_| vec![Reply::echo()]),
        recorded("one piece", End::Answer, |m| vec![Reply::text(m)]),
        recorded("twenty pieces", End::Answer, move |m| vec![Reply::pieces(many(m))]),
        recorded("slow pieces", End::Answer, |m| {
            vec![Reply::pieces([m, " and ", m]).with_pause(Duration::from_millis(2))]
        }),
        recorded("a tool call", End::Answer, |m| vec![Reply::tool_calls(vec![call("c1", m)])]),
        recorded("three tool calls", End::Answer, |m| {
            vec![Reply::tool_calls(vec![call("c1", m), call("c2", m), call("c3", m)])]
        }),
        recorded("thoughts", End::Answer, |m| vec![Reply::text(m).with_thinking(m)]),
        recorded("one JSON body", End::Answer, |m| vec![Reply::text(m).plain()]),
        recorded("tool calls in one JSON body", End::Answer, |m| vec![Reply::tool_calls(vec![call("c1", m)]).plain()]),
        recorded("cut by length", End::Answer, |m| vec![Reply::text(m).with_finish("length")]),
        recorded("a megabyte", End::Answer, |m| vec![Reply::pieces(vec![format!("{m}{}", "x".repeat(64 * 1024)); 16])]),
        recorded("a megabyte in one JSON body", End::Answer, |m| {
            vec![Reply::text(&format!("{m}{}", "x".repeat(1024 * 1024))).plain()]
        }),
        recorded("a retry after 500", End::Answer, move |m| vec![error(500, m), Reply::text(m)]),
        recorded("a retry after 429", End::Answer, move |m| {
            vec![error(429, m).with_header("retry-after", "0"), Reply::text(m)]
        }),
        recorded("two retries after 503", End::Answer, move |m| {
            vec![error(503, m), error(503, m), Reply::pieces([m, m])]
        }),
        recorded("a connection closed without an answer", End::Error, |_| vec![Reply::close()]),
        recorded("500 for ever", End::Error, move |m| vec![error(500, m)]),
        recorded("400", End::Error, move |m| vec![error(400, m)]),
        recorded("401", End::Error, move |m| vec![error(401, m)]),
        recorded("413 with a long body", End::Error, move |m| vec![error(413, &m.repeat(2000))]),
        recorded("404 with a page", End::Error, |_| vec![Reply::html().with_status(404)]),
        recorded("a page for an answer", End::Error, |_| vec![Reply::html()]),
        recorded("a redirect", End::Error, |m| {
            let to = format!("http://127.0.0.1:9/{m}");
            vec![Reply::raw("text/plain", [m.to_owned()]).with_status(302).with_header("location", &to)]
        }),
        recorded("a redirect that keeps the method", End::Error, |m| {
            vec![Reply::raw("text/plain", [m.to_owned()]).with_status(307).with_header("location", "/v1/elsewhere")]
        }),
        recorded("a stream that is cut", End::Error, |m| vec![Reply::pieces([m, m]).then_die()]),
        recorded("a stream that ends early", End::Error, |m| vec![Reply::pieces([m, m]).then_end_early()]),
        recorded("a stream that falls silent", End::Never, |m| vec![Reply::pieces([m, m]).then_hang()]),
        recorded("silence", End::Never, |_| vec![Reply::hang()]),
        recorded("no JSON in the stream", End::Error, move |m| vec![sse(vec![chunk(m), "data: {no\n\n".into()])]),
        recorded("an error in the stream", End::Error, move |m| {
            vec![sse(vec![chunk(m), format!("event: error\ndata: {m}\n\n"), chunk(m)])]
        }),
        recorded("a line without an end", End::Error, move |m| vec![sse(vec![chunk(m), "x".repeat(2 * 1024 * 1024)])]),
        recorded("more after the end", End::Answer, move |m| {
            vec![sse(vec![chunk(m), "data: [DONE]\n\n".into(), chunk("not any more"), chunk(m)])]
        }),
    ];
    list.push(Recorded {
        prompt: "p".repeat(1024 * 1024),
        ..recorded("a megabyte of prompt", End::Answer, |m| vec![Reply::text(m)])
    });
    list
}

/// A client of a provider.
pub(crate) struct Model {
    provider: OpenAi,
    /// What each call's next requests get, by marker.
    scripts: Arc<Mutex<HashMap<String, Vec<Reply>>>>,
    _mock: Option<MockProvider>,
}

impl Model {
    async fn start() -> Self {
        let mock = MockProvider::start().await;
        let base_url = mock.base_url();
        let scripts: Arc<Mutex<HashMap<String, Vec<Reply>>>> = Arc::default();
        let book = scripts.clone();
        mock.answer_with(move |request| {
            let text = request.last_user_text();
            let marker = text.split_whitespace().next()?;
            let mut book = book.lock().unwrap();
            let replies = book.get_mut(marker)?;
            Some(if replies.len() > 1 { replies.remove(0) } else { replies.first()?.clone() })
        });
        Self { scripts, _mock: Some(mock), ..Self::at(&base_url) }
    }

    /// With the provider at this address.
    pub(crate) fn at(base_url: &str) -> Self {
        let naming = SessionNaming::new(HeaderMode::Raw, tenant(1), Arc::new(NoNames));
        let mut options = OpenAiOptions::new("test", base_url.parse().unwrap(), naming);
        options.api_key = Some(ApiKey::new("sk-test-key"));
        options.retry.base_delay = Duration::from_millis(1);
        Self { provider: OpenAi::new(options).unwrap(), scripts: Arc::default(), _mock: None }
    }

    /// A call to its end.
    pub(crate) async fn call(&self, key: &str, prompt: &str) -> (Vec<ModelEvent>, Result<Answer, ProviderError>) {
        let request = ModelRequest {
            model: "m-1".into(),
            instructions: Some("Answer.".into()),
            messages: vec![Message::User { content: vec![Block::from_text(prompt)] }],
            tools: vec![ToolSpec {
                name: "look_up".into(),
                description: "Looks it up.".into(),
                parameters: json!({"type": "object"}),
            }]
            .into(),
            thinking: None,
            run: RunId::parse("run-1").unwrap(),
        };
        let mut stream = self.provider.call(&scope(tenant(1), key, "gen-1"), request);
        let mut events = Vec::new();
        loop {
            match stream.next().await.expect("a call ends with an answer or an error") {
                Ok(ModelEvent::Done(answer)) => return (events, Ok(answer)),
                Ok(event) => events.push(event),
                Err(error) => return (events, Err(error)),
            }
        }
    }

    /// A call that gets its own words back, and nothing else.
    pub(crate) async fn bystander(&self, key: &str) {
        let marker = format!("bystander-{}", canary::marker());
        let (events, answer) = self.call(key, &marker).await;
        let answer = answer.unwrap_or_else(|error| panic!("{key}: {error} after {events:?}"));
        let text: String = answer.content.iter().filter_map(Block::text).collect();
        assert_eq!(text, marker, "{key} was answered with what is another's: {events:?}");
    }
}

#[tokio::test]
async fn a_call_given_up_at_any_poll_leaves_nothing_for_others() {
    let model = Model::start().await;
    let (mut calls, mut drops) = (0, 0);
    for recorded in all() {
        for dropped in [Dropped::AtOnce, Dropped::WhenWoken] {
            for polls in 0.. {
                let marker = format!("victim-{}", canary::marker());
                model.scripts.lock().unwrap().insert(marker.clone(), (recorded.replies)(&marker));
                let prompt = format!("{marker} {}", recorded.prompt);
                let polled = poll_at_most(model.call("agent:main:victim", &prompt), polls, dropped);
                let outcome = match recorded.end {
                    End::Never => timeout(STUCK, polled).await.map_err(|_| ()),
                    End::Answer | End::Error => Ok(polled.await),
                };
                // One alone takes the connection that was put back last; two at once want two.
                model.bystander("agent:main:one").await;
                join_all([model.bystander("agent:main:two"), model.bystander("agent:main:three")]).await;
                model.scripts.lock().unwrap().remove(&marker);
                match outcome {
                    Ok(None) => drops += 1,
                    Ok(Some((events, outcome))) => {
                        let end = if outcome.is_ok() { End::Answer } else { End::Error };
                        assert_eq!(end, recorded.end, "{}: {outcome:?} {events:?}", recorded.name);
                        assert!(polls > 1, "{} needed no second poll", recorded.name);
                        break;
                    }
                    Err(()) => {
                        drops += 1;
                        break;
                    }
                }
                assert!(polls < 10_000, "{} does not end", recorded.name);
            }
            calls += 1;
        }
    }
    println!("{calls} calls to their ends, {drops} given up before");
}

/// Many at once on several threads, given up wherever they happen to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_given_up_at_random_leave_nothing_for_others() {
    let model = Arc::new(Model::start().await);
    let lists = Arc::new(
        all()
            .into_iter()
            .filter(|recorded| recorded.prompt.is_empty() && recorded.end != End::Never)
            .collect::<Vec<_>>(),
    );
    let lanes = (0..16_usize).map(|lane| {
        let (model, lists) = (model.clone(), lists.clone());
        tokio::spawn(async move {
            for round in 0..40_usize {
                let recorded = &lists[(lane * 7 + round) % lists.len()];
                let marker = format!("victim-{}", canary::marker());
                model.scripts.lock().unwrap().insert(marker.clone(), (recorded.replies)(&marker));
                let key = format!("agent:main:victim-{lane}");
                let dropped = if round % 2 == 0 { Dropped::AtOnce } else { Dropped::WhenWoken };
                drop(poll_at_most(model.call(&key, &marker), round % 12, dropped).await);
                model.bystander(&format!("agent:main:by-{lane}")).await;
                model.scripts.lock().unwrap().remove(&marker);
            }
        })
    });
    for lane in join_all(lanes).await {
        lane.unwrap();
    }
}
