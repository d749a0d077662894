//! A keystore that is gone, or older than the store it belongs to.

use std::fs;
use std::path::Path;

use crate::stage::{self, Stage};

const KEY: &str = "agent:main:kept";

/// The two databases' content.
fn files(dir: &Path) -> [Option<Vec<u8>>; 2] {
    ["store.db", "keys.db"].map(|name| fs::read(dir.join(name)).ok())
}

#[tokio::test]
async fn a_missing_keystore_is_an_error_at_the_start_and_nothing_is_written() {
    let gateway = stage::echo().await;
    gateway.client().await.chat(KEY, "hello").await;
    let setup = gateway.stop().await;
    let (keys, away) = (setup.state_dir().join("keys.db"), setup.state_dir().join("away"));
    fs::rename(&keys, &away).expect("it is moved away");
    let before = files(&setup.state_dir());
    let failed = setup.try_start().await.err().expect("it does not start");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(failed.output.contains("Error: ") && failed.output.contains("restore keys.db"), "{failed:?}");
    assert_eq!(files(&setup.state_dir()), before);

    fs::rename(&away, &keys).expect("it is put back");
    let gateway = Stage::resume(setup).await;
    assert_eq!(gateway.client().await.history(KEY).await.len(), 2);
}

#[tokio::test]
async fn a_keystore_older_than_the_store_is_an_error_at_the_start_and_nothing_is_written() {
    let gateway = stage::echo().await;
    gateway.client().await.chat("agent:main:old", "hello").await;
    let setup = gateway.stop().await;
    let keys = setup.state_dir().join("keys.db");
    let old = fs::read(&keys).expect("a keystore");
    let gateway = Stage::resume(setup).await;
    let mut client = gateway.client().await;
    // More than the keys a start makes ahead.
    for n in 0..200 {
        client.chat(&format!("agent:main:new-{n}"), "hello").await;
    }
    let setup = gateway.stop().await;
    let new = fs::read(&keys).expect("a keystore");
    fs::write(&keys, &old).expect("the old one is put back");
    let failed = setup.try_start().await.err().expect("it does not start");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(failed.output.contains("Error: ") && failed.output.contains("keys.db is older"), "{failed:?}");
    assert_eq!(fs::read(&keys).expect("a keystore"), old, "it is left as it is");

    fs::write(&keys, new).expect("the right one is put back");
    let gateway = Stage::resume(setup).await;
    assert_eq!(gateway.client().await.history("agent:main:new-199").await.len(), 2);
}
