//! How long a revocation takes, and that nothing comes after it (isolation.md §2.4).
//!
//! `WATERTIGHT_REVOCATIONS` is how many; the figures are printed and never judged: a busy machine is no leak.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;
use watertight_testkit::gateway_client::{ConnectError, ConnectOptions, GatewayClient, Tap};

use crate::world::{World, canary, turn};

/// Revocations under way at the same time.
const LANES: usize = 4;
/// Revocations during which one session is written into.
const BLOCK: usize = 50;

/// What the frames of a connection are counted against.
#[derive(Default)]
struct Watch {
    /// The socket has closed.
    closed: AtomicBool,
    after_close: AtomicUsize,
}

struct Figures {
    returned: Vec<Duration>,
    closed: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_comes_after_a_revocation_and_nothing_succeeds() {
    let revocations = crate::parameter("WATERTIGHT_REVOCATIONS", 200);
    let mut world = World::open().await;
    let scopes = ["operator.read".to_owned(), "operator.write".to_owned()];
    world.make("T1", "robot", "service", &scopes, &["agent:main:user:robot".to_owned()]).await;
    let world = Arc::new(world);
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let share = revocations / LANES + usize::from(lane < revocations % LANES);
        lanes.spawn(revoke_often(world.clone(), lane, share));
    }
    let mut all = Figures { returned: Vec::new(), closed: Vec::new() };
    while let Some(lane) = lanes.join_next().await {
        let Figures { returned, closed } = lane.expect("a lane holds");
        all.returned.extend(returned);
        all.closed.extend(closed);
    }
    assert_eq!(all.closed.len(), revocations);
    for (what, mut times) in
        [("the call returned", all.returned), ("the call returned and the socket was closed", all.closed)]
    {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!("{revocations} revocations until {what}: p50 {:.1?}, p99 {:.1?}", at(50), at(99));
    }
}

/// Each with a token, and a socket that hears a session somebody else writes into.
async fn revoke_often(world: Arc<World>, lane: usize, share: usize) -> Figures {
    let (mut returned, mut closed) = (Vec::new(), Vec::new());
    let writer = world.socket("robot").await;
    for at in 0..share {
        // A session does not grow with the number of revocations: its prompts would.
        let key = format!("agent:main:user:robot:lane-{lane}:{}", at / BLOCK);
        let body = json!({"principal": "robot", "scopes": world.person("robot").scopes});
        let issued = world.admin("T1", "POST", "/v1/admin/tokens", body).await;
        let (token, id) = (issued["token"].as_str().unwrap(), issued["id"].as_str().unwrap());
        let watch: Arc<Watch> = Arc::default();
        let seen = watch.clone();
        let tap = Tap::new(move |_| {
            if seen.closed.load(Ordering::SeqCst) {
                seen.after_close.fetch_add(1, Ordering::SeqCst);
            }
        });
        let options = ConnectOptions { tap: Some(tap), ..ConnectOptions::default() };
        let options = options.with_scopes(&["operator.read", "operator.write"]);
        let client = GatewayClient::connect(&world.gateway.url(), Some(token), &options).await.unwrap();
        client.request("sessions.messages.subscribe", json!({"key": key})).await.unwrap();

        // Something is on its way to the socket while the token is revoked.
        let params = json!({"sessionKey": key, "message": "before", "idempotencyKey": Uuid::new_v4()});
        writer.request("chat.send", params).await.unwrap();
        let begun = Instant::now();
        let done = world.admin("T1", "POST", &format!("/v1/admin/tokens/{id}/revoke"), json!({})).await;
        returned.push(begun.elapsed());
        assert_eq!(done["closed"], 1, "{done}");

        // The call has returned: from here on nothing succeeds, whatever the client knows yet.
        let params = json!({"sessionKey": key, "message": "after", "idempotencyKey": Uuid::new_v4()});
        let (asked, ended) = tokio::join!(client.request("chat.send", params), client.closed());
        closed.push(begun.elapsed());
        watch.closed.store(true, Ordering::SeqCst);
        assert_eq!((ended.code, ended.reason.as_str()), (Some(4001), "revoked"));
        assert_eq!(asked.unwrap_err()["code"], "CLOSED");
        // One lane asks over HTTP too, from ever new addresses: a revoked token counts as a wrong one.
        if lane == 0 {
            let [high, low] = u16::try_from(at / 8).expect("fewer").to_be_bytes();
            let from = Ipv4Addr::new(127, 2, high, low);
            let refused = world.http_from(from, token, "GET", "/v1/admin/tokens", &Value::Null).await;
            assert_eq!(refused.status, 401, "{refused:?}");
        }
        // What happens in the session now would be heard if anything were.
        let later = canary();
        turn(&writer, &key, &later).await.unwrap();
        assert_eq!(watch.after_close.load(Ordering::SeqCst), 0, "frames after the close");
        assert!(!client.events().iter().any(|event| event.to_string().contains(&later)));
        // The writer hears every lane: what it keeps of ten thousand would fill the memory.
        drop(writer.take_events());
        if at % BLOCK == BLOCK - 1 || at == share - 1 {
            let params = json!({"sessionKey": key, "limit": 1000});
            let written = world.socket("robot").await.request("chat.history", params).await.unwrap().to_string();
            assert!(written.contains("\"before\"") && !written.contains("\"after\""), "a revoked token wrote");
        }
    }
    let unknown = GatewayClient::connect(&world.gateway.url(), Some("wta_x"), &ConnectOptions::default()).await;
    assert!(matches!(unknown, Err(ConnectError::Refused { .. })));
    Figures { returned, closed }
}
