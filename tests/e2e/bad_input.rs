//! What is malformed, oversize, unknown or broken: a clear error, nothing lost, nothing else disturbed.

mod clients;
mod damage;
mod frames;
mod keys;
mod providers;

use crate::stage::Stage;

/// The gateway still answers and a session of its own still works.
async fn assert_sound(gateway: &Stage) {
    let mut client = gateway.client().await;
    assert_eq!(client.call("health", serde_json::json!({})).await["ok"], true);
    let turn = client.chat(&format!("agent:main:sound-{}", uuid::Uuid::new_v4()), "still there?").await;
    assert!(turn.text().contains("still there?"), "{:#}", turn.end());
}
