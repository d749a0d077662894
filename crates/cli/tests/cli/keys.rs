//! `watertight keys`, and checkpoints as the program writes and checks them.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};
use watertight_testkit::GatewaySetup;

use crate::command::{Ran, run, setup};

/// Two sessions with a turn each.
async fn filled(setup: &GatewaySetup) {
    for key in ["x", "y"] {
        turn(setup, key).await;
    }
}

async fn turn(setup: &GatewaySetup, key: &str) {
    let ran = run(setup, &["agent", "-m", "hi", "--session-key", key]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
}

fn keystore(setup: &GatewaySetup) -> Connection {
    Connection::open(setup.state_dir().join("keys.db")).unwrap()
}

#[track_caller]
fn done(ran: &Ran) -> Value {
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    ran.json()
}

#[track_caller]
fn failed(ran: &Ran, exit: i32, why: &str) {
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(exit), ""), "{ran:?}");
    assert!(ran.stderr.starts_with("Error: ") && ran.stderr.contains(why), "{ran:?}");
}

#[tokio::test]
async fn status_tells_epochs_and_data_keys_alone_and_beside_a_gateway() {
    let setup = setup();
    failed(&run(&setup, &["keys", "status"]).await, 1, "there is no store");
    filled(&setup).await;
    let status = done(&run(&setup, &["keys", "status", "--json"]).await);
    let tenant = &status["tenants"][0];
    assert_eq!((tenant["tenant"].as_str(), tenant["epoch"].as_u64()), (Some("default"), Some(1)), "{status}");
    let (since, next) = (tenant["since"].as_i64().unwrap(), tenant["nextTurn"].as_i64().unwrap());
    assert_eq!(next - since, 24 * 3_600_000);
    assert!(tenant["epochs"][0]["dataKeys"].as_u64().unwrap() >= 2 && tenant["pooled"].as_u64().is_some());
    let gateway = setup.start().await;
    let ran = run(&setup, &["keys", "status"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("default: epoch 1, ") && ran.stdout.contains(" data keys\n"), "{ran:?}");
    drop(gateway);
}

#[tokio::test]
async fn verify_names_the_key_that_does_not_open() {
    let setup = setup();
    failed(&run(&setup, &["keys", "verify"]).await, 2, "there is no store");
    filled(&setup).await;
    let ran = run(&setup, &["keys", "verify"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("Verified the keys of 1 tenant, 1 epoch, "), "{ran:?}");
    assert!(ran.stdout.ends_with(": all of them open.\n"), "{ran:?}");
    failed(&run(&setup, &["keys", "verify", "--tenant", "none"]).await, 2, "there is no tenant \"none\"");

    let gateway = setup.start().await;
    let damage = "UPDATE data_keys SET commitment = zeroblob(32) WHERE session = (SELECT min(session) FROM data_keys)";
    assert_eq!(keystore(&setup).execute(damage, []).unwrap(), 1);
    let ran = run(&setup, &["keys", "verify", "--json"]).await;
    assert_eq!(ran.exit, Some(1), "{ran:?}");
    let report = ran.json();
    assert_eq!(
        (report["ok"].as_bool(), report["problems"].as_array().map(Vec::len)),
        (Some(false), Some(1)),
        "{report}"
    );
    let problem = &report["problems"][0];
    assert_eq!((problem["tenant"].as_str(), problem["session"].as_str().map(str::len)), (Some("default"), Some(32)));
    let text = problem["problem"].as_str().unwrap();
    assert!(text.contains("data key 1 of epoch 1") && text.contains("commitment"), "{text}");
    drop(gateway);
}

#[tokio::test]
async fn rotate_turns_every_tenant_and_leaves_everything_readable() {
    let setup = setup();
    failed(&run(&setup, &["keys", "rotate"]).await, 1, "there is no store");
    filled(&setup).await;
    let rotated = done(&run(&setup, &["keys", "rotate", "--json"]).await);
    let tenant = &rotated["tenants"][0];
    assert!(tenant["rewrapped"].as_u64().unwrap() >= 2, "{rotated}");
    assert_eq!(
        json!([tenant["tenant"], tenant["epoch"], tenant["damaged"], tenant["epochsLeft"]]),
        json!(["default", 2, 0, 0])
    );
    let ran = run(&setup, &["keys", "rotate", "--tenant", "default"]).await;
    assert!(ran.exit == Some(0) && ran.stdout.starts_with("default: epoch 3, "), "{ran:?}");
    failed(&run(&setup, &["keys", "rotate", "--tenant", "none"]).await, 1, "There is no tenant named \"none\".");
    for check in [["verify"].as_slice(), &["keys", "verify"]] {
        let ran = run(&setup, check).await;
        assert_eq!(ran.exit, Some(0), "{ran:?}");
    }
    let _gateway = setup.start().await;
    let ran = run(&setup, &["keys", "rotate"]).await;
    assert!(ran.exit == Some(0) && ran.stdout.starts_with("default: epoch 4, "), "beside a gateway: {ran:?}");
    turn(&setup, "x").await;
    let master = done(&run(&setup, &["keys", "rotate", "--master", "--json"]).await);
    assert!(master["masterKey"].as_str().is_some_and(|path| path.ends_with("master.key")), "{master}");
    turn(&setup, "x").await;
    failed(&run(&setup, &["keys", "rotate", "--tenant", "none"]).await, 1, "There is no tenant named \"none\".");
}

#[tokio::test]
async fn a_gateway_turns_an_epoch_that_is_due() {
    let setup = setup();
    filled(&setup).await;
    keystore(&setup).execute("UPDATE epoch_keys SET made_at = made_at - 24 * 3600000", []).unwrap();
    let gateway = setup.start().await;
    gateway.wait_for_output("turned to a new key epoch").await;
    turn(&setup, "x").await;
    assert!(gateway.terminate().await.success());
    let status = done(&run(&setup, &["keys", "status", "--json"]).await);
    let tenant = &status["tenants"][0];
    assert_eq!((tenant["epoch"].as_u64(), tenant["epochs"].as_array().map(Vec::len)), (Some(2), Some(1)), "{status}");
}

fn master(setup: &GatewaySetup) -> PathBuf {
    setup.state_dir().join("master.key")
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("key.new")
}

#[tokio::test]
async fn a_new_master_key_takes_the_old_ones_place() {
    let setup = setup();
    filled(&setup).await;
    let path = master(&setup);
    let old = fs::read(&path).unwrap();
    let ran = run(&setup, &["keys", "rotate", "--master"]).await;
    assert!(ran.exit == Some(0) && ran.stdout.contains("is a new one. Keep a copy of it"), "{ran:?}");
    let new = fs::read(&path).unwrap();
    assert!(new != old && !beside(&path).exists());
    let holds = async |what: &str| {
        let ran = run(&setup, &["verify"]).await;
        assert!(ran.exit == Some(0) && ran.stdout.contains("2 sessions"), "{what}: {ran:?}");
    };
    holds("replaced").await;

    // Killed before the new key took its place: both lie there, and the store is under the new one.
    fs::rename(&path, beside(&path)).unwrap();
    fs::write(&path, &old).unwrap();
    private(&path);
    holds("read only").await;
    assert_eq!(fs::read(&path).unwrap(), old, "a verification changes nothing");
    turn(&setup, "x").await;
    assert!(fs::read(&path).unwrap() == new && !beside(&path).exists());

    // Killed before anything was under the new key: it never comes into use.
    fs::write(beside(&path), &old).unwrap();
    private(&beside(&path));
    turn(&setup, "x").await;
    assert!(fs::read(&path).unwrap() == new && !beside(&path).exists());

    // The old key alone opens nothing.
    fs::write(&path, &old).unwrap();
    failed(&run(&setup, &["agent", "--local", "-m", "hi"]).await, 1, "master key does not open this store");
    fs::write(&path, &new).unwrap();
    holds("put back").await;
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn a_master_key_that_is_in_no_file_is_not_replaced() {
    let setup = setup();
    filled(&setup).await;
    let kept = setup.state_dir().join("kept.key");
    fs::rename(master(&setup), &kept).unwrap();
    let setup = setup.config(&format!("[keys]\nsource = \"command:cat {}\"\n", kept.display()));
    let before = fs::read(&kept).unwrap();
    failed(&run(&setup, &["keys", "rotate", "--master"]).await, 1, "cannot write a new one");
    assert_eq!(fs::read(&kept).unwrap(), before);
    assert_eq!(run(&setup, &["keys", "verify"]).await.exit, Some(0));
    let both = run(&setup, &["keys", "rotate", "--master", "--tenant", "default"]).await;
    assert_eq!(both.exit, Some(1), "{both:?}");
}

#[tokio::test]
async fn a_gateway_exports_checkpoints_that_find_an_older_copy() {
    let setup = setup();
    let file = setup.state_dir().join("checkpoints.jsonl");
    let against = ["verify", "--against", file.to_str().unwrap()];
    let serve = async |key: &str| {
        let gateway = setup.start().await;
        turn(&setup, key).await;
        assert!(gateway.terminate().await.success());
    };
    serve("x").await;
    let lines = || fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    let last: Value = serde_json::from_str(lines().last().unwrap()).unwrap();
    assert_eq!((last["end"].as_bool(), last["n"].as_u64()), (Some(true), Some(lines().len() as u64)), "{last}");
    let ran = run(&setup, &against).await;
    assert!(ran.exit == Some(0) && ran.stdout.contains("checkpoint"), "{ran:?}");
    let files = ["store.db", "store.db-wal", "store.db-shm"].map(|name| setup.state_dir().join(name));
    let older: Vec<_> = files.iter().map(|file| fs::read(file).ok()).collect();

    serve("x").await;
    let ran = run(&setup, &[against.as_slice(), &["--json"]].concat()).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert_eq!(ran.json()["verified"]["checkpoints"].as_u64(), Some(lines().len() as u64));
    for (file, content) in files.iter().zip(older) {
        let _ = fs::remove_file(file);
        if let Some(content) = content {
            fs::write(file, content).unwrap();
        }
    }
    assert_eq!(run(&setup, &["verify"]).await.exit, Some(0), "from inside it cannot be seen");
    let ran = run(&setup, &against).await;
    assert_eq!(ran.exit, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("the whole store is an older copy"), "{ran:?}");
    assert!(ran.stdout.contains("it ends at entry 2"), "{ran:?}");

    let nothing = setup.state_dir().join("nothing.jsonl");
    failed(&run(&setup, &["verify", "--against", nothing.to_str().unwrap()]).await, 2, "cannot be read");
    fs::write(&nothing, "").unwrap();
    failed(&run(&setup, &["verify", "--against", nothing.to_str().unwrap()]).await, 2, "holds no checkpoint");
}
