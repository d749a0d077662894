//! What the methods answer, and in which order their events come.

use serde_json::{Value, json};
use watertight_server::ServerOptions;
use watertight_testkit::gateway_client::ConnectOptions;

use super::{chat, message, start, start_with};

#[tokio::test]
async fn the_answer_to_chat_send_comes_before_the_first_event_of_its_run() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let mut ack = client.request("chat.send", message("main", "hello", "r1")).await.unwrap();
    assert_eq!(ack["receipt"].take()["seq"], 1);
    assert_eq!(ack, json!({"runId": "r1", "status": "started", "messageSeq": 1, "receipt": null}));
    client.next_payload("chat", |chat| chat["state"] == "final").await;
    let states: Vec<Value> = client
        .events()
        .iter()
        .filter(|frame| frame["event"] == "chat")
        .map(|frame| frame["payload"]["state"].clone())
        .collect();
    assert_eq!((&states[0], states.last().unwrap()), (&json!("status"), &json!("final")));
}

#[tokio::test]
async fn requests_sent_without_waiting_keep_their_order_in_a_session() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let mut answers = Vec::new();
    for n in 0..20 {
        answers.push(
            client.send("chat.send", Some(message("agent:main:line", &format!("number {n}"), &format!("r{n}")))).await,
        );
    }
    for (n, answer) in answers.iter_mut().enumerate() {
        let answer = answer.next().await.unwrap();
        assert_eq!(answer["payload"]["status"], "started", "{answer}");
        client.next_payload("chat", |chat| chat["runId"] == format!("r{n}") && chat["state"] == "final").await;
    }
    let history = client.request("chat.history", json!({"sessionKey": "agent:main:line"})).await.unwrap();
    let users: Vec<&Value> =
        history["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "user").map(|m| &m["content"]).collect();
    let expected: Vec<Value> = (0..20).map(|n| json!(format!("number {n}"))).collect();
    assert_eq!(users, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeated_run_id_is_not_run_again() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    client.request("chat.send", message("main", "/echo hang", "slow")).await.unwrap();
    let again = client.request("chat.send", message("main", "/echo hang", "slow")).await.unwrap();
    assert_eq!((&again["runId"], &again["status"]), (&json!("slow"), &json!("in_flight")));
    client.request("chat.abort", json!({"sessionKey": "main"})).await.unwrap();
    assert_eq!(client.request("chat.send", message("main", "/echo hang", "slow")).await.unwrap()["status"], "timeout");
    chat(&client, "main", "hi", "quick").await;
    assert_eq!(client.request("chat.send", message("main", "hi", "quick")).await.unwrap()["status"], "ok");
    let conflict = client.request("chat.send", message("main", "other", "quick")).await.unwrap_err();
    assert_eq!(
        (&conflict["code"], &conflict["details"]["code"]),
        (&json!("INVALID_REQUEST"), &json!("idempotency_mismatch"))
    );
}

#[tokio::test]
async fn an_abort_is_announced_before_it_is_answered() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    client.request("chat.send", message("main", "/echo hang", "r")).await.unwrap();
    client.next_payload("agent", |agent| agent["data"]["phase"] == "start").await;
    let answer = client.request("chat.abort", json!({"sessionKey": "main", "runId": "r"})).await.unwrap();
    assert_eq!(answer, json!({"ok": true, "aborted": true, "runIds": ["r"]}));
    assert!(
        client.events().iter().any(|frame| frame["payload"]["state"] == "aborted"),
        "the event was here before the answer"
    );
    let idle = client.request("chat.abort", json!({"sessionKey": "main"})).await.unwrap();
    assert_eq!(idle, json!({"ok": true, "aborted": false, "runIds": []}));
    let nowhere = client.request("chat.abort", json!({"sessionKey": "agent:main:never"})).await.unwrap();
    assert_eq!(nowhere, idle);
}

#[tokio::test]
async fn a_typed_stop_aborts_instead_of_starting_a_turn() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    client.request("chat.send", message("main", "/echo hang", "r")).await.unwrap();
    let answer = client.request("chat.send", message("main", " /stop ", "s")).await.unwrap();
    assert_eq!(answer, json!({"ok": true, "aborted": true, "runIds": ["r"]}));
    let end = client.next_payload("chat", |chat| chat["state"] == "aborted").await;
    assert_eq!(end["stopReason"], "stop");
}

#[tokio::test]
async fn agent_answers_twice_and_a_failed_run_with_payload_and_error() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let ask = |text: &str, run: &str| json!({"message": text, "sessionKey": "agent:main:x", "idempotencyKey": run});
    let (accepted, last) = client.request_final("agent", ask("ping", "a")).await.unwrap();
    assert_eq!(
        (&accepted["status"], &accepted["sessionKey"], &accepted["agentId"]),
        (&json!("accepted"), &json!("agent:main:x"), &json!("main"))
    );
    let last = last.unwrap();
    assert!(last["result"]["payloads"][0]["text"].as_str().unwrap().contains("ping"), "{last}");
    assert_eq!((&last["status"], &last["summary"]), (&json!("ok"), &json!("completed")));
    // The same again: one frame, the same answer.
    let again = client.request("agent", ask("ping", "a")).await.unwrap();
    assert_eq!((&again["status"], &again["result"]["payloads"]), (&last["status"], &last["result"]["payloads"]));

    let mut answers = client.send("agent", Some(ask("/echo fail", "b"))).await;
    assert_eq!(answers.next().await.unwrap()["payload"]["status"], "accepted");
    let failed = answers.next().await.unwrap();
    assert_eq!((&failed["ok"], &failed["error"]["code"]), (&json!(false), &json!("UNAVAILABLE")));
    assert_eq!(failed["payload"]["status"], "error");
    let waited = client.request("agent.wait", json!({"runId": "b"})).await.unwrap();
    assert_eq!((&waited["status"], &waited["error"]), (&json!("error"), &failed["error"]["message"]));
    let unknown = client.request("agent.wait", json!({"runId": "nobody", "timeoutMs": 10})).await.unwrap();
    assert_eq!(unknown, json!({"runId": "nobody", "status": "timeout"}));
}

#[tokio::test]
async fn agent_finds_its_session_by_precedence() {
    let server = start_with(
        "[[agents]]\nid = \"main\"\ndefault = true\nmodel = \"echo/echo\"\n[[agents]]\nid = \"ops\"\nmodel = \"echo/echo\"\n\
         [providers.echo]\nkind = \"echo\"",
        ServerOptions::default(),
    )
    .await;
    let client = server.client().await;
    let run = async |run: &str, params: Value| {
        let mut ask = json!({"message": "x", "idempotencyKey": run});
        ask.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        let (accepted, last) = client.request_final("agent", ask).await.unwrap();
        let id = last.unwrap()["result"]["meta"]["agentMeta"]["sessionId"].as_str().unwrap().to_owned();
        (accepted["sessionKey"].as_str().unwrap().to_owned(), id)
    };
    let (key, first) = run("a", json!({"sessionKey": "k", "agentId": "ops"})).await;
    assert_eq!(key, "agent:ops:k");
    assert_eq!(run("b", json!({"agentId": "ops"})).await.0, "agent:ops:main");
    assert_eq!(run("c", json!({"to": "+15550100"})).await.0, "agent:main:main");
    assert_eq!(run("d", json!({"sessionId": first})).await, ("agent:ops:k".to_owned(), first.clone()));
    let unknown = "11111111-2222-4333-8444-555555555555";
    assert_eq!(
        run("e", json!({"sessionId": unknown})).await,
        (format!("agent:main:explicit:{unknown}"), unknown.into())
    );
    assert_eq!(run("f:1", json!({})).await.0, "agent:main:explicit:f%3A1");
    // Key and transcript: another transcript is made live, then the first again.
    assert_eq!(run("g", json!({"sessionKey": "agent:ops:k", "sessionId": unknown})).await.1, unknown);
    assert_eq!(run("h", json!({"sessionKey": "agent:ops:k", "sessionId": first})).await.1, first);
    let refused = client
        .request("agent", json!({"message": "x", "idempotencyKey": "i", "sessionKey": "agent:ghost:k"}))
        .await
        .unwrap_err();
    assert_eq!(refused["message"], "Agent \"ghost\" no longer exists in configuration");
    let changed = json!({"message": "x", "idempotencyKey": "j", "sessionKey": "agent:ops:k", "expectedExistingSessionId": unknown});
    assert!(
        client.request("agent", changed).await.unwrap_err()["message"].as_str().unwrap().contains("changed before")
    );
    let deliver = json!({"message": "x", "idempotencyKey": "l", "deliver": true});
    assert!(
        client.request("agent", deliver).await.unwrap_err()["message"]
            .as_str()
            .unwrap()
            .contains("no messaging channels")
    );
}

#[tokio::test]
async fn history_pages_from_the_tail_and_unknown_keys_are_empty() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    for n in 0..3 {
        chat(&client, "main", &format!("m{n}"), &format!("r{n}")).await;
    }
    let page = client.request("chat.history", json!({"sessionKey": "main", "limit": 2})).await.unwrap();
    assert_eq!((&page["sessionKey"], &page["hasMore"], &page["nextOffset"]), (&json!("main"), &json!(true), &json!(2)));
    assert_eq!((&page["totalMessages"], &page["messages"][0]["content"]), (&json!(6), &json!("m2")));
    let older = client.request("chat.history", json!({"sessionKey": "main", "limit": 10, "offset": 2})).await.unwrap();
    assert_eq!((&older["hasMore"], &older["messages"][0]["content"]), (&json!(false), &json!("m0")));
    assert_eq!(older["messages"].as_array().unwrap().len(), 4);

    let none = client.request("chat.history", json!({"sessionKey": "never"})).await.unwrap();
    assert_eq!((&none["messages"], none.get("sessionId")), (&json!([]), None));
    assert_eq!(none["sessionInfo"]["key"], "agent:main:never");
    let says = async |params: Value| client.request("chat.history", params).await.unwrap_err()["message"].clone();
    assert_eq!(says(json!({"sessionKey": "main", "sessionId": "x"})).await, "sessionId requires messageId");
    assert_eq!(
        says(json!({"sessionKey": "main", "sessionId": "x", "messageId": "y"})).await,
        "sessionId does not belong to sessionKey"
    );
    let startup =
        client.request("chat.startup", json!({"sessionKey": "main", "limit": 80, "maxBytes": 262_144})).await.unwrap();
    assert_eq!(startup["agentsList"]["agents"][0]["model"]["primary"], "echo/echo");
    assert_eq!(startup["messages"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn subscribers_hear_messages_and_changes() {
    let server = start(ServerOptions::default()).await;
    let (writer, follower, lister) = (server.client().await, server.client().await, server.client().await);
    let answer = follower.request("sessions.messages.subscribe", json!({"key": "main"})).await.unwrap();
    assert_eq!(answer, json!({"subscribed": true, "key": "agent:main:main"}));
    assert_eq!(lister.request("sessions.subscribe", json!({})).await.unwrap(), json!({"subscribed": true}));
    chat(&writer, "main", "hello", "r").await;

    let user = follower.next_payload("session.message", |message| message["message"]["role"] == "user").await;
    assert_eq!((&user["sessionKey"], &user["messageSeq"]), (&json!("agent:main:main"), &json!(1)));
    assert_eq!(user["message"]["content"], "hello");
    follower.next_payload("session.message", |message| message["message"]["role"] == "assistant").await;
    lister.next_payload("session.message", |message| message["message"]["role"] == "assistant").await;
    let end = lister.next_payload("sessions.changed", |change| change["phase"] == "end").await;
    assert_eq!((&end["reason"], &end["session"]["hasActiveRun"]), (&json!("agent.input.settled"), &json!(false)));
    assert!(!writer.events().iter().any(|frame| frame["event"] == "session.message"), "nobody subscribed there");

    let answer = follower.request("sessions.messages.unsubscribe", json!({"key": "main"})).await.unwrap();
    assert_eq!(answer, json!({"subscribed": false, "key": "agent:main:main"}));
    follower.take_events();
    chat(&writer, "main", "again", "r2").await;
    follower.next_payload("chat", |chat| chat["runId"] == "r2" && chat["state"] == "final").await;
    assert!(!follower.events().iter().any(|frame| frame["event"] == "session.message"));
    let list = lister.request("sessions.subscribe", json!({"limit": 60, "ownerFirst": true})).await.unwrap();
    assert_eq!((&list["list"]["count"], &list["list"]["limitApplied"]), (&json!(1), &json!(60)));
}

#[tokio::test]
async fn tool_events_go_to_the_client_that_started_the_run() {
    let server = start(ServerOptions::default()).await;
    let caps = ConnectOptions { caps: vec!["tool-events".into()], ..ConnectOptions::default() };
    let (starter, other) = (server.try_client(&caps).await.unwrap(), server.try_client(&caps).await.unwrap());
    other.request("sessions.subscribe", json!({})).await.unwrap();
    chat(&starter, "main", "/echo tool time {}", "r").await;
    let is_tool = |agent: &Value| agent["stream"] == "tool" && agent["data"]["phase"] == "result";
    let own = starter.next_payload("agent", is_tool).await;
    assert_eq!((&own["data"]["name"], &own["data"]["isError"]), (&json!("time"), &json!(false)));
    let foreign = other.next_payload("session.tool", is_tool).await;
    assert_eq!(foreign["data"], own["data"]);
    assert!(!other.events().iter().any(|frame| frame["event"] == "agent" && frame["payload"]["stream"] == "tool"));
}

#[tokio::test]
async fn a_scoped_client_hears_runs_of_the_sessions_it_named_and_changes_of_all() {
    let server = start(ServerOptions::default()).await;
    let caps = ConnectOptions { caps: vec!["session-scoped-events".into()], ..ConnectOptions::default() };
    let (writer, scoped) = (server.client().await, server.try_client(&caps).await.unwrap());
    scoped.request("sessions.messages.subscribe", json!({"key": "named"})).await.unwrap();
    chat(&writer, "other", "hello", "r1").await;
    chat(&writer, "named", "hello", "r2").await;
    scoped.next_payload("chat", |chat| chat["runId"] == "r2" && chat["state"] == "final").await;
    assert!(!scoped.events().iter().any(|frame| frame["payload"]["runId"] == "r1"));

    scoped.request("sessions.subscribe", json!({})).await.unwrap();
    chat(&writer, "other", "hello", "r3").await;
    scoped.next_payload("sessions.changed", |change| change["runId"] == "r3" && change["phase"] == "end").await;
    scoped.next_payload("session.message", |message| message["sessionKey"] == "agent:main:other").await;
    assert!(!scoped.events().iter().any(|frame| frame["event"] == "chat" && frame["payload"]["runId"] == "r3"));
}

#[tokio::test]
async fn sessions_are_found_described_and_listed() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    chat(&client, "agent:main:found", "find me", "r").await;
    let resolve = async |params: Value| client.request("sessions.resolve", params).await;
    let hit = json!({"ok": true, "key": "agent:main:found", "agentId": "main"});
    assert_eq!(resolve(json!({"key": "found"})).await.unwrap(), hit);
    assert_eq!(resolve(json!({"reference": {"key": "agent:main:found"}})).await.unwrap(), hit);
    assert_eq!(resolve(json!({"label": "nope", "allowMissing": true})).await.unwrap(), json!({"ok": false}));
    assert_eq!(resolve(json!({"shortId": "abc", "allowMissing": true})).await.unwrap(), json!({"ok": false}));
    assert_eq!(resolve(json!({"key": "lost"})).await.unwrap_err()["message"], "No session found: lost");
    for names in [json!({}), json!({"key": "a", "label": "b"})] {
        assert_eq!(resolve(names).await.unwrap_err()["code"], "INVALID_REQUEST");
    }

    let describe = json!({"key": "found", "includeDerivedTitles": true});
    let session = client.request("sessions.describe", describe).await.unwrap()["session"].clone();
    assert_eq!((&session["key"], &session["status"]), (&json!("agent:main:found"), &json!("done")));
    assert!(session["derivedTitle"].is_string() && session.get("lastMessagePreview").is_none(), "{session}");
    assert_eq!(client.request("sessions.describe", json!({"key": "lost"})).await.unwrap(), json!({"session": null}));

    let list = client.request("sessions.list", json!({"search": "FIND"})).await.unwrap();
    assert_eq!((&list["count"], &list["totalCount"], &list["nextOffset"]), (&json!(1), &json!(1), &json!(null)));
    for nothing in [json!({"spawnedBy": "agent:main:found"}), json!({"pinned": true}), json!({"activeOnly": true})] {
        assert_eq!(client.request("sessions.list", nothing.clone()).await.unwrap()["count"], 0, "{nothing}");
    }
}

#[tokio::test]
async fn the_gateway_describes_itself() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    chat(&client, "main", "hi", "r").await;
    let health = client.request("health", json!({"probe": false})).await.unwrap();
    assert_eq!((&health["ok"], &health["sessions"]["count"]), (&json!(true), &json!(1)));
    assert_eq!(health["agents"][0]["sessions"]["recent"][0]["key"], "agent:main:main");
    let status = client.request("status", json!({"includeChannelSummary": false})).await.unwrap();
    assert_eq!((&status["sessions"]["count"], &status["sessions"]["defaults"]["model"]), (&json!(1), &json!("echo")));
    let agents = client.request("agents.list", json!({})).await.unwrap();
    assert_eq!((&agents["defaultId"], &agents["agents"][0]["model"]["primary"]), (&json!("main"), &json!("echo/echo")));
    let models = client.request("models.list", json!({"view": "all"})).await.unwrap();
    assert_eq!((&models["models"][0]["provider"], &models["models"][0]["id"]), (&json!("echo"), &json!("echo")));
    let mut presence = client.send("system-presence", None).await;
    let presence = presence.next().await.unwrap()["payload"].clone();
    assert_eq!((&presence[0]["mode"], &presence[1]["mode"]), (&json!("gateway"), &json!("backend")));
    assert!(!format!("{health}{status}{presence}").contains('/'), "no path of the machine");
}

#[tokio::test]
async fn a_picture_goes_with_a_message_and_other_files_do_not() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let mut send = message("main", "look", "r");
    send["attachments"] = json!([{"type": "image", "mimeType": "image/png", "content": "aGk="}]);
    client.request("chat.send", send.clone()).await.unwrap();
    client.next_payload("chat", |chat| chat["state"] == "final").await;
    let history = client.request("chat.history", json!({"sessionKey": "main"})).await.unwrap();
    assert_eq!(
        history["messages"][0]["content"],
        json!([{"type": "text", "text": "look"}, {"type": "image", "mimeType": "image/png", "omitted": true, "bytes": 2}])
    );
    send["attachments"][0]["mimeType"] = json!("text/plain");
    send["idempotencyKey"] = json!("r2");
    let refused = client.request("chat.send", send).await.unwrap_err();
    assert!(refused["message"].as_str().unwrap().contains("only pictures are taken"), "{refused}");
}

#[tokio::test]
async fn what_is_typed_is_cleaned() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    chat(&client, "main", "e\u{301}\u{7}!", "r").await;
    let history = client.request("chat.history", json!({"sessionKey": "main"})).await.unwrap();
    assert_eq!(history["messages"][0]["content"], "\u{e9}!");
    let nul = client.request("chat.send", message("main", "a\0b", "r2")).await.unwrap_err();
    assert_eq!(nul["message"], "message must not contain null bytes");
    let blank = client.request("chat.send", message("main", " \u{7} ", "r3")).await.unwrap_err();
    assert_eq!(blank["message"], "message or attachment required");
}

#[tokio::test]
async fn requests_that_wait_for_a_change_of_generation_hold_nothing_else_up() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let keys: Vec<String> = (0..17).map(|n| format!("agent:main:busy-{n}")).collect();
    for key in &keys {
        client.request("chat.send", message(key, "/echo hang", &format!("hang-{key}"))).await.unwrap();
        let switch = json!({
            "message": "hi", "sessionKey": key, "sessionId": "another", "idempotencyKey": format!("parked-{key}"),
        });
        client.send("agent", Some(switch)).await;
    }
    assert!(client.request("health", json!({})).await.is_ok());
    for key in &keys {
        let aborted = client.request("chat.abort", json!({"sessionKey": key})).await.unwrap();
        assert_eq!(aborted["aborted"], true, "{aborted}");
    }
}

#[tokio::test]
async fn the_order_of_a_session_holds_whatever_it_is_called() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    let names = ["line", "agent:main:line", "Agent:Main:line"];
    let mut answers = Vec::new();
    for n in 0..24 {
        let params = message(names[n % names.len()], &format!("number {n}"), &format!("r{n}"));
        answers.push(client.send("chat.send", Some(params)).await);
    }
    for (n, answer) in answers.iter_mut().enumerate() {
        let answer = answer.next().await.unwrap();
        assert_eq!(answer["payload"]["status"], "started", "{n}: {answer}");
    }
    client.next_payload("chat", |chat| chat["runId"] == "r23" && chat["state"] == "final").await;
    let history = client.request("chat.history", json!({"sessionKey": "line"})).await.unwrap();
    let messages = history["messages"].as_array().unwrap().iter();
    let users: Vec<&Value> = messages.filter(|m| m["role"] == "user").map(|m| &m["content"]).collect();
    let expected: Vec<Value> = (0..24).map(|n| json!(format!("number {n}"))).collect();
    assert_eq!(users, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn history_pages_around_a_message() {
    let server = start(ServerOptions::default()).await;
    let client = server.client().await;
    for n in 0..5 {
        chat(&client, "main", &format!("number {n}"), &format!("r{n}")).await;
    }
    let history = async |params: Value| client.request("chat.history", params).await;
    let all = history(json!({"sessionKey": "main"})).await.unwrap();
    let third = all["messages"][4]["__openclaw"]["id"].clone();
    let page = history(json!({"sessionKey": "main", "messageId": third, "limit": 4})).await.unwrap();
    let numbers: Vec<&Value> =
        page["messages"].as_array().unwrap().iter().map(|message| &message["__openclaw"]["seq"]).collect();
    assert_eq!(numbers, [4, 5, 6, 7]);
    assert_eq!((&page["offset"], &page["nextOffset"], &page["hasMore"]), (&json!(3), &json!(7), &json!(true)));
    for unknown in ["nope", "00000000-0000-4000-8000-000000000000"] {
        let error = history(json!({"sessionKey": "main", "messageId": unknown})).await.unwrap_err();
        assert!(error["message"].as_str().unwrap().starts_with(&format!("No message {unknown}")), "{error}");
    }
}
