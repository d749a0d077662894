//! Clients that vanish or stop reading, and a second gateway on the same state directory.

use serde_json::json;

use super::assert_sound;
use crate::stage;

#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_of_an_answer_loses_nothing() {
    let gateway = stage::echo().await;
    let key = "agent:main:vanished";
    let mut client = gateway.client().await;
    let run = client.start_chat(key, "/echo slow 10").await;
    client.until("a piece of the answer", |frame| frame["payload"]["state"] == "delta").await;
    drop(client);

    let mut client = gateway.client().await;
    let params = json!({"runId": run, "timeoutMs": 30000});
    assert_eq!(client.call("agent.wait", params).await["status"], "ok", "the run goes on without its client");
    let history = client.history(key).await;
    assert_eq!(history.len(), 2);
    assert!(history[1].1.contains("word10"), "{history:?}");
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off_and_holds_nobody_up() {
    let gateway = stage::echo().await;
    let mut stuck = gateway.client().await;
    let mut client = gateway.client().await;
    // The limit is 8 MiB beside what the kernel buffers; each answer is sent as events of several megabytes.
    for n in 0..12 {
        let turn = client.chat(&format!("agent:main:long-{n}"), "/echo long 1000000").await;
        assert_eq!(turn.state(), "final", "{n}");
    }
    let close = stuck.closed().await;
    assert!(close.code.is_none_or(|code| code == 1008), "{close:?}");
    let finals = stuck.log.iter().filter(|frame| frame["payload"]["state"] == "final").count();
    assert!(finals < 12, "the connection ended before it had everything");
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_directory_is_refused_naming_the_first() {
    let gateway = stage::echo().await;
    let second = gateway.serve_again().await;
    assert!(!second.status.success());
    let errors = String::from_utf8_lossy(&second.stderr);
    assert!(errors.contains(&gateway.pid().to_string()), "{errors}");
    assert!(errors.contains(&gateway.address().to_string()), "{errors}");
    assert_sound(&gateway).await;
}
