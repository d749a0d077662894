//! Sessions side by side, and many requests to one session.

use std::collections::HashSet;

use serde_json::json;

use crate::stage;

#[tokio::test]
async fn two_interleaved_sessions_keep_to_themselves() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let sessions = [("agent:main:alice", "marker-alice"), ("agent:main:bob", "marker-bob")];
    const ROUNDS: usize = 8;

    for round in 0..ROUNDS {
        let mut runs = Vec::new();
        for (key, marker) in sessions {
            runs.push(client.start_chat(key, &format!("{marker} {round}")).await);
        }
        for run in runs {
            assert_eq!(client.end_of(run).await.state(), "final");
        }
    }

    for (key, marker) in sessions {
        let foreign = sessions.iter().find(|(other, _)| *other != key).expect("there are two").1;
        let history = client.history(key).await;
        assert_eq!(history.len(), 2 * ROUNDS);
        for (round, pair) in history.chunks(2).enumerate() {
            assert_eq!(pair[0], ("user".to_owned(), format!("{marker} {round}")));
            assert!(pair[1].1.contains(&format!("{marker} {round}")), "{pair:?}");
        }
        assert!(!format!("{history:?}").contains(foreign), "{key} holds nothing of the other");
        let seen = client.chat(key, "/echo history").await.text();
        assert!(seen.contains(marker) && !seen.contains(foreign), "the model saw {seen}");
    }
    for frame in client.log.iter().filter(|frame| frame["type"] == "event") {
        let text = frame.to_string();
        for (key, marker) in sessions {
            let named = frame["payload"]["sessionKey"].as_str();
            assert!(!text.contains(marker) || named == Some(key), "{marker} came under {named:?}: {text}");
        }
    }
}

#[tokio::test]
async fn concurrent_sends_to_one_session_run_one_after_the_other_in_order() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let key = "agent:main:busy";
    const SENDS: usize = 12;

    let mut runs = Vec::new();
    for n in 0..SENDS {
        let run = uuid::Uuid::new_v4().to_string();
        let params = json!({"sessionKey": key, "message": format!("message {n}"), "idempotencyKey": run});
        let id = client.start("chat.send", params).await;
        runs.push((run, id));
    }
    for (run, id) in &runs {
        let ack = client.response(id).await;
        assert_eq!((&ack["ok"], &ack["payload"]["runId"]), (&true.into(), &run.as_str().into()), "{ack:#}");
    }
    for (n, (run, _)) in runs.iter().enumerate() {
        let turn = client.end_of(run.clone()).await;
        assert_eq!(turn.state(), "final");
        let answer = turn.text();
        assert!(answer.contains(&format!("message {n}")), "run {n} got the answer to its own message: {answer}");
        assert!(answer.contains(&format!("(turn {})", n + 1)), "run {n} saw {n} turns before it: {answer}");
    }

    let history = client.history(key).await;
    let asked: Vec<&str> = history.iter().filter(|(role, _)| role == "user").map(|(_, text)| text.as_str()).collect();
    let sent: Vec<String> = (0..SENDS).map(|n| format!("message {n}")).collect();
    assert_eq!(asked, sent, "inputs stand in the order of their acknowledgement");
    assert_eq!(history.len(), 2 * SENDS);
    let ends = client.log.iter().filter(|frame| frame["event"] == "chat" && frame["payload"]["state"] == "final");
    let ended: Vec<&str> = ends.filter_map(|frame| frame["payload"]["runId"].as_str()).collect();
    assert_eq!(ended.len(), SENDS, "each run ends once");
    assert_eq!(ended.iter().collect::<HashSet<_>>().len(), SENDS);
}

#[tokio::test]
async fn concurrent_sends_from_many_connections_lose_and_double_nothing() {
    let gateway = stage::echo().await;
    let key = "agent:main:shared";
    const CONNECTIONS: usize = 6;

    let mut watcher = gateway.client().await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(gateway.client().await);
    }
    let turns = clients.iter_mut().enumerate().map(|(n, client)| async move {
        let turn = client.chat(key, &format!("from connection {n}")).await;
        assert!(turn.text().contains(&format!("from connection {n}")), "{}", turn.text());
        turn.run
    });
    let runs = futures_util::future::join_all(turns).await;

    let mut asked: Vec<String> =
        watcher.history(key).await.into_iter().filter(|(role, _)| role == "user").map(|(_, text)| text).collect();
    asked.sort();
    assert_eq!(asked, (0..CONNECTIONS).map(|n| format!("from connection {n}")).collect::<Vec<_>>());
    for run in runs {
        let turn = watcher.end_of(run).await;
        assert_eq!(turn.state(), "final", "a connection that only listens sees every run");
    }
}
