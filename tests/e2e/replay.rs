//! Nothing missed and nothing doubled by a client that loses its connection again and again.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use watertight_testkit::{MockProvider, Reply};

use crate::socket::{Socket, message_text};
use crate::stage::{self, Stage};

const KEY: &str = "agent:main:followed";

/// What a client of one session knows, over all its connections.
#[derive(Default)]
struct Follower {
    cursor: Option<String>,
    /// Message ids by their place in the transcript.
    known: BTreeMap<u64, String>,
    /// How often a delta brought something.
    caught_up: usize,
}

/// A message's place and id, as it says itself.
fn place(message: &Value) -> (u64, String) {
    let own = &message["__openclaw"];
    (own["seq"].as_u64().expect("a place"), own["id"].as_str().expect("an id").to_owned())
}

impl Follower {
    fn learn(&mut self, message: &Value) {
        let (seq, id) = place(message);
        let known = self.known.entry(seq).or_insert_with(|| id.clone());
        assert_eq!(*known, id, "two messages at place {seq}");
    }

    /// Everything up to the last known place is known.
    #[track_caller]
    fn assert_whole(&self) {
        let gap = self.known.keys().zip(1..).find(|(known, place)| **known != *place);
        assert_eq!(gap, None, "a message is missing");
    }

    /// Connects, subscribes, and only then asks for what it lacks.
    async fn connect(&mut self, gateway: &Stage) -> Socket {
        let mut socket = gateway.client().await;
        socket.call("sessions.messages.subscribe", json!({"key": KEY})).await;
        let mut params = json!({"sessionKey": KEY});
        if let Some(cursor) = &self.cursor {
            params["cursor"] = json!(cursor);
        }
        let page = socket.call("chat.history", params).await;
        let messages = page["messages"].as_array().unwrap_or_else(|| panic!("no messages in {page:#}"));
        match self.cursor {
            None => {
                for message in messages {
                    self.learn(message);
                }
            }
            Some(_) => {
                assert_eq!(page["kind"], "delta", "{page:#}");
                self.caught_up += usize::from(!messages.is_empty());
                let places: Vec<_> = messages.iter().map(|m| m["sessionSeq"].as_u64().expect("a place")).collect();
                assert!(places.is_sorted(), "{places:?}");
                for message in messages {
                    self.learn(&message["message"]);
                }
            }
        }
        self.cursor = page["deltaCursor"].as_str().map(str::to_owned).or(self.cursor.take());
        let heard: Vec<Value> = socket.log.iter().filter(|f| is_message(f)).cloned().collect();
        for frame in &heard {
            self.learn(&frame["payload"]["message"]);
        }
        self.assert_whole();
        socket
    }

    /// Listens for `messages` more.
    async fn listen(&mut self, socket: &mut Socket, messages: usize) {
        for _ in 0..messages {
            let frame = socket.until("a message", is_message).await;
            self.learn(&frame["payload"]["message"]);
            self.assert_whole();
        }
    }
}

fn is_message(frame: &Value) -> bool {
    frame["event"] == "session.message" && frame["payload"]["sessionKey"] == KEY
}

/// The ids of the whole transcript.
async fn transcript(gateway: &Stage) -> Vec<String> {
    let history = gateway.client().await.call("chat.history", json!({"sessionKey": KEY, "limit": 1000})).await;
    assert_eq!(history["hasMore"], false);
    history["messages"].as_array().expect("messages").iter().map(|message| place(message).1).collect()
}

#[tokio::test]
async fn a_client_that_is_cut_again_and_again_has_every_message_once_and_in_order() {
    const TURNS: usize = 60;
    let gateway = stage::echo().await;
    let mut writer = gateway.client().await;
    writer.chat(KEY, "turn 0").await;
    let writing = async {
        for n in 1..TURNS {
            assert_eq!(writer.chat(KEY, &format!("turn {n}")).await.state(), "final");
        }
    };
    let mut follower = Follower::default();
    let following = async {
        for round in 0.. {
            let mut socket = follower.connect(&gateway).await;
            if follower.known.len() == 2 * TURNS {
                break;
            }
            // Cut in the middle of whatever is going on; turns go on meanwhile.
            let left = 2 * TURNS - follower.known.len();
            follower.listen(&mut socket, (round % 4).min(left)).await;
            drop(socket);
        }
    };
    tokio::join!(writing, following);
    let known: Vec<String> = follower.known.into_values().collect();
    assert_eq!(known, transcript(&gateway).await);
    assert!(follower.caught_up > 0, "the cursor was of use");
}

#[tokio::test]
async fn a_cursor_holds_over_kills() {
    let mut gateway = stage::echo().await;
    gateway.client().await.chat(KEY, "turn 0").await;
    let mut follower = Follower::default();
    follower.connect(&gateway).await;
    for n in 1..6 {
        let run = format!("run {n}");
        let turn = json!({"sessionKey": KEY, "message": "/echo slow 12", "idempotencyKey": run});
        let mut writer = gateway.client().await;
        writer.call("chat.send", turn.clone()).await;
        writer.until("the answer begins", |frame| frame["payload"]["state"] == "delta").await;
        gateway = gateway.kill_and_restart().await;
        let mut socket = follower.connect(&gateway).await;
        let mut writer = gateway.client().await;
        // Whether the acknowledgement arrived or not, the request may be sent again.
        writer.call("chat.send", turn).await;
        let waited = writer.call("agent.wait", json!({"runId": run, "timeoutMs": 60_000})).await;
        assert_eq!(waited["status"], "ok", "{waited:#}");
        let lacks = usize::try_from(n * 2 + 2).expect("few") - follower.known.len();
        follower.listen(&mut socket, lacks).await;
    }
    let known: Vec<String> = follower.known.into_values().collect();
    assert_eq!(known, transcript(&gateway).await);
    assert_eq!(known.len(), 12, "no turn lost, none doubled");
}

#[tokio::test]
async fn a_client_that_returns_in_the_middle_of_an_answer_sees_what_is_there_of_it() {
    let model = MockProvider::start().await;
    let (reply, gate) = Reply::gated(["half ", "of it"]);
    model.push(reply);
    let gateway = stage::with_model(&model, "").await;
    let mut client = gateway.client().await;
    let run = client.start_chat(KEY, "hello").await;
    gate.open(1);
    client.until("half", |frame| frame["payload"]["state"] == "delta").await;
    let mut follower = Follower::default();
    drop(client);
    let mut client = follower.connect(&gateway).await;
    let page = client.call("chat.history", json!({"sessionKey": KEY, "cursor": follower.cursor})).await;
    let in_flight = &page["inFlightRun"];
    let told = (&in_flight["runId"], &in_flight["text"], &in_flight["provisional"]);
    assert_eq!(told, (&json!(run), &json!("half "), &json!(true)), "{page:#}");
    assert!(in_flight["receipt"].is_null(), "nothing of it is durable");
    gate.open(2);
    assert_eq!(client.end_of(run).await.text(), "half of it");
    let after = client.call("chat.history", json!({"sessionKey": KEY, "cursor": follower.cursor})).await;
    assert_eq!(message_text(&after["messages"][0]["message"]), "half of it");
    assert!(after["inFlightRun"].is_null(), "{after:#}");
}

#[tokio::test]
async fn a_cursor_that_says_nothing_here_is_a_reset() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    for text in ["one", "two", "three"] {
        client.chat(KEY, text).await;
    }
    client.chat("agent:main:other", "one").await;
    let mut cursor_of = async |key: &str| {
        client.call("chat.history", json!({"sessionKey": key, "limit": 1})).await["deltaCursor"].clone()
    };
    let (here, there) = (cursor_of(KEY).await, cursor_of("agent:main:other").await);
    let mut asked = async |params: Value| {
        let mut all = json!({"sessionKey": KEY});
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        client.call("chat.history", all).await
    };
    assert_eq!(asked(json!({"cursor": here})).await["messages"], json!([]));
    let beyond = here.as_str().unwrap().replacen(".6.", ".7.", 1);
    let start = here.as_str().unwrap().replacen(".6.", ".0.", 1);
    for stale in [there, json!("bogus"), json!(""), json!(beyond)] {
        assert_eq!(asked(json!({"cursor": stale})).await, json!({"kind": "reset"}), "{stale}");
    }
    assert_eq!(asked(json!({"cursor": start})).await["messages"].as_array().unwrap().len(), 6);
    let error = client.refused("chat.history", json!({"sessionKey": KEY, "cursor": here, "offset": 1})).await;
    assert_eq!(error["message"], "cursor cannot be used with offset or messageId");
    // Another transcript behind the same key: what the cursor counted is not there.
    let switch = json!({"sessionKey": KEY, "sessionId": "another", "message": "x", "idempotencyKey": "x"});
    client.call("agent", switch).await;
    client.end_of("x".into()).await;
    let stale = client.call("chat.history", json!({"sessionKey": KEY, "cursor": here})).await;
    assert_eq!(stale, json!({"kind": "reset"}));
}

#[tokio::test]
async fn a_delta_that_is_too_large_is_a_reset_and_never_a_part() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    client.chat(KEY, "one").await;
    let page = client.call("chat.history", json!({"sessionKey": KEY})).await;
    client.chat(KEY, &"long ".repeat(1000)).await;
    let cursor = page["deltaCursor"].clone();
    let small = client.call("chat.history", json!({"sessionKey": KEY, "cursor": cursor, "maxBytes": 1024})).await;
    assert_eq!(small, json!({"kind": "reset"}));
    let whole = client.call("chat.history", json!({"sessionKey": KEY, "cursor": cursor, "limit": 1})).await;
    assert_eq!(whole["messages"].as_array().unwrap().len(), 2, "a limit does not tear it");
}

#[tokio::test]
async fn older_pages_have_no_cursor() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    client.chat(KEY, "one").await;
    let older = client.call("chat.history", json!({"sessionKey": KEY, "limit": 1, "offset": 1})).await;
    assert!(older["deltaCursor"].is_null(), "{older:#}");
    let unborn = client.call("chat.history", json!({"sessionKey": "agent:main:unborn"})).await;
    assert!(unborn["deltaCursor"].is_null(), "{unborn:#}");
}

#[tokio::test]
async fn a_client_that_does_not_read_never_slows_a_run() {
    // Each answer is larger than what all queues and buffers on the way to the client hold together.
    let gateway = stage::echo().await;
    let mut stuck = gateway.client().await;
    stuck.call("sessions.subscribe", json!({})).await;
    let mut writer = gateway.client().await;
    // Nothing is read from `stuck` while these run: that they end at all is what is shown.
    for n in 0..12 {
        let turn = writer.chat(KEY, "/echo long 1000000").await;
        assert_eq!(turn.state(), "final", "turn {n}");
    }
    let close = stuck.closed().await;
    assert!(close.code.is_none_or(|code| code == 1008), "{close:?}");
    let heard = stuck.log.iter().filter(|frame| frame["payload"]["state"] == "final").count();
    assert!(heard < 12, "it was let go, not waited for");
    let page = gateway.client().await.call("chat.history", json!({"sessionKey": KEY})).await;
    assert_eq!(page["totalMessages"], 24, "and it can read everything later");
}
