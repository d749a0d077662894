//! Who is sent the operator's token, and who is not.

use std::process::Stdio;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::timeout;
use watertight_testkit::{GatewaySetup, PATIENCE};

use crate::command::{Held, ran, run, setup};
use crate::fake_gateway::{FakeGateway, Step, Visit, said};

/// A state directory that has its generated token, with `[gateway] listen` where the stranger listens.
async fn generated(stranger: &FakeGateway) -> GatewaySetup {
    let setup = setup().config(&format!("[gateway]\nlisten = '{}'\n", stranger.address));
    assert_eq!(run(&setup, &["agent", "-m", "hi", "--local"]).await.exit, Some(0));
    assert!(!token(&setup).is_empty());
    setup
}

fn token(setup: &GatewaySetup) -> String {
    std::fs::read_to_string(setup.state_dir().join("operator.token")).unwrap().trim().to_owned()
}

fn not_sent(stranger: &FakeGateway, setup: &GatewaySetup) -> String {
    format!(
        "What listens at ws://{} does not serve the state directory {}, so the operator token was not sent to it: pass \
         --token (or WATERTIGHT_TOKEN), or name its own directory with --state-dir.",
        stranger.address,
        setup.state_dir().display()
    )
}

#[tokio::test]
async fn a_stranger_on_the_gateways_port_gets_neither_token_nor_message() {
    let stranger = FakeGateway::saying("hello there").await;
    let setup = generated(&stranger).await;
    run(&setup, &["agent", "-m", "hi", "--no-fallback"]).await.refused(&not_sent(&stranger, &setup));
    // Nothing was delivered and the directory is free: the turn runs here.
    let ran = run(&setup, &["agent", "-m", "hi"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let note = "Running the turn in this process instead, in the same session.";
    assert_eq!(ran.stderr, format!("{} {note}\n", not_sent(&stranger, &setup)));
    assert_eq!(stranger.asked().len(), 0);
}

#[tokio::test]
async fn a_stranger_gets_nothing_either_while_another_process_has_the_directory() {
    let stranger = FakeGateway::saying("hello there").await;
    let setup = generated(&stranger).await;
    let held = Held::new(&setup, None);
    let reason = not_sent(&stranger, &setup);
    run(&setup, &["agent", "-m", "hi"])
        .await
        .refused(&format!("{reason}\nThe turn was not run here either: process 1 is using the state directory."));
    assert_eq!(stranger.asked().len(), 0);
    drop(held);
}

#[tokio::test]
async fn a_url_that_names_another_gateway_gets_no_generated_token() {
    let stranger = FakeGateway::start([Visit::Refused("unauthorized: gateway token missing")]).await;
    let setup = generated(&stranger).await;
    let url = format!("ws://{}", stranger.address);
    run(&setup, &["agent", "-m", "hi", "--url", &url]).await.refused(&format!(
        "The gateway at {url} refused the connection: unauthorized: gateway token missing. {}",
        not_sent(&stranger, &setup)
    ));
    let asked = stranger.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].params["auth"].is_null(), "{asked:?}");
}

#[tokio::test]
async fn a_gateway_that_asks_for_nothing_may_be_named_by_its_url() {
    let other = FakeGateway::saying("here").await;
    let ran = run(&generated(&other).await, &["agent", "-m", "hi", "--url", &other.address.to_string()]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "here\n"), "{ran:?}");
    assert!(other.asked()[0].params["auth"].is_null());
}

#[tokio::test]
async fn the_gateway_of_the_directory_gets_the_token_however_it_is_named() {
    let setup = setup().config("[gateway]\nlisten = '127.0.0.1:1'\n");
    let gateway = setup.start().await;
    let address = gateway.address();
    let by_name = format!("ws://localhost:{}", address.port());
    let by_address = address.to_string();
    for flags in [&[][..], &["--url", &by_name], &["--url", &by_address]] {
        let ran = run(&setup, &[&["agent", "-m", "hi", "--no-fallback"], flags].concat()).await;
        assert_eq!(ran.exit, Some(0), "{flags:?}: {ran:?}");
    }
    // From another state directory only with the token.
    let elsewhere = crate::command::setup();
    let args = ["agent", "-m", "hi", "--url", &by_address];
    assert_eq!(run(&elsewhere, &args).await.exit, Some(1));
    let ran = run(&elsewhere, &[&args[..], &["--token", &gateway.token()]].concat()).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
}

#[tokio::test]
async fn a_configured_token_goes_to_the_configured_address() {
    let gateway = FakeGateway::saying("ok").await;
    assert_eq!(run(&gateway.setup(), &["agent", "-m", "hi"]).await.exit, Some(0));
    assert_eq!(gateway.asked()[0].params["auth"]["token"], "fake-token");
}

#[tokio::test]
async fn before_it_reattaches_it_looks_again_who_is_there() {
    let go_on = Arc::new(Notify::new());
    let first = Visit::Served(vec![Step::Accept, Step::Wait(go_on.clone()), Step::Break]);
    let gateway = FakeGateway::start([first, Visit::Served(vec![Step::Accept, said("Hello")])]).await;
    let setup = generated(&gateway).await;
    let held = Held::new(&setup, Some(gateway.address));
    let mut command = setup.command(&["agent", "-m", "hi"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    gateway.wait_for("agent").await;
    drop(held);
    go_on.notify_one();
    // The third is made because the second was left without a word.
    gateway.wait_for_connections(3).await;
    let _held = Held::new(&setup, Some(gateway.address));
    let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends").unwrap());
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "Hello\n"), "{ran:?}");
    let greeted: Vec<_> = gateway.asked().into_iter().filter(|asked| asked.method == "connect").collect();
    assert_eq!(greeted.len(), 2, "{greeted:?}");
    assert!(greeted[1].connection >= 2, "{greeted:?}");
    assert!(greeted.iter().all(|asked| asked.params["auth"]["token"] == token(&setup).as_str()));
}
