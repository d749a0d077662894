//! A gateway with TLS, and whose certificate is believed.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use watertight_testkit::certificates::{Authority, Certificate};
use watertight_testkit::relay::Relay;
use watertight_testkit::{Gateway, GatewaySetup, canary};

use crate::command::{Held, Ran, run, setup};

fn ca_file(setup: &GatewaySetup, authority: &Authority) -> String {
    let path = setup.state_dir().join("ca.pem");
    fs::write(&path, authority.pem()).unwrap();
    path.into_os_string().into_string().unwrap()
}

/// One turn of this text in a session of this name, through the relay.
async fn turn(setup: &GatewaySetup, gateway: &Gateway, scheme: &str, relay: &Relay, text: &str, key: &str) -> Ran {
    let (url, token) = (format!("{scheme}://{}", relay.address()), gateway.token());
    run(setup, &["agent", "--url", &url, "--token", &token, "--session-key", key, "-m", text]).await
}

#[tokio::test]
async fn a_capture_of_a_session_under_tls_holds_no_canary_and_one_without_does() {
    let (text, key) = (canary::marker(), canary::marker());
    let authority = Authority::new();
    let plain = setup();
    let gateway = plain.start().await;
    let relay = Relay::to(gateway.address()).await;
    let ran = turn(&plain, &gateway, "ws", &relay, &text, &key).await;
    assert!(ran.exit == Some(0) && ran.stdout.contains(&text), "{ran:?}");
    assert!(relay.holds(&text) && relay.holds(&key), "the capture can tell");

    let secured = setup().tls(&authority);
    let secured_gateway = secured.start().await;
    let relay = Relay::to(secured_gateway.address()).await;
    let ca = ca_file(&secured, &authority);
    let secured = secured.env("WATERTIGHT_CA_FILE", &ca);
    let ran = turn(&secured, &secured_gateway, "wss", &relay, &text, &key).await;
    assert!(ran.exit == Some(0) && ran.stdout.contains(&text), "{ran:?}");
    assert!(relay.bytes() > 2000, "the whole session went through the relay");
    assert!(!relay.holds(&text) && !relay.holds(&key) && !relay.holds(&secured_gateway.token()));
}

#[tokio::test]
async fn the_gateway_of_the_state_directory_is_called_over_tls_without_a_flag() {
    let setup = setup().tls(&Authority::new());
    let gateway = setup.start().await;
    let said = gateway.output();
    assert!(said.contains(&format!("listens on wss://{}", gateway.address())), "{said}");
    let lock: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(setup.state_dir().join("serve.lock")).unwrap()).unwrap();
    let fingerprint = lock["certificate"].as_str().unwrap();
    assert_eq!(fingerprint.len(), 64);
    assert!(said.contains(&format!("cert.pem, SHA-256 {fingerprint}")), "{said}");
    let by_name = format!("wss://localhost:{}", gateway.address().port());
    let by_address = format!("https://{}", gateway.address());
    for flags in [&[][..], &["--url", &by_name], &["--url", &by_address]] {
        let ran = run(&setup, &[&["agent", "-m", "hi", "--no-fallback"], flags].concat()).await;
        assert_eq!(ran.exit, Some(0), "{flags:?}: {ran:?}");
    }
}

#[tokio::test]
async fn an_address_open_to_others_is_served_with_tls_and_refused_without() {
    let ran = run(&setup(), &["serve", "--listen", "0.0.0.0:0"]).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    for way_out in ["gateway.tls_cert and gateway.tls_key", "gateway.behind_tls_proxy = true", "127.0.0.1"] {
        assert!(ran.stderr.contains(way_out), "{ran:?}");
    }
    let setup = setup().tls(&Authority::new());
    let open = "0.0.0.0:0".parse().unwrap();
    let gateway = setup.start_at(open).await;
    assert!(gateway.output().contains("listens on wss://0.0.0.0:"), "{}", gateway.output());
    let ran = run(&setup, &["agent", "-m", "hi", "--no-fallback"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    gateway.terminate().await;
    let none = setup.config("[gateway.auth]\nmode = 'none'\n");
    let ran = run(&none, &["serve", "--listen", "0.0.0.0:0"]).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains("auth.mode = \"none\" does not allow"), "{ran:?}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_before_anything_is_made() {
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let half = setup().env("WATERTIGHT_TLS_CERT", "cert.pem");
    let ran = run(&half, &serve).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains("WATERTIGHT_TLS_CERT: needs WATERTIGHT_TLS_KEY"), "{ran:?}");

    let setup = setup().tls(&Authority::new());
    let key = setup.tls_dir().join("key.pem");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    run(&setup, &serve).await.refused(&format!(
        "the key file {key} is open to others (mode 0644); run: chmod 600 {key}",
        key = key.display()
    ));
    let other = Authority::new().issue(&["localhost"]).key;
    fs::remove_file(&key).unwrap();
    let ran = run(&setup, &serve).await;
    assert!(ran.stderr.starts_with(&format!("Error: {} cannot be read", key.display())), "{ran:?}");
    fs::write(&key, other).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let ran = run(&setup, &serve).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains("is not that of the certificate"), "{ran:?}");
    assert!(!setup.state_dir().join("store.db").exists(), "nothing was made");
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_told_once() {
    let setup = setup().tls(&Authority::new());
    let gateway = setup.start().await;
    fs::write(setup.tls_dir().join("cert.pem"), "nothing").unwrap();
    let broken = "the new TLS certificate is not used, the old one stays";
    gateway.wait_for_output(broken).await;
    let ran = run(&setup, &["agent", "-m", "hi", "--no-fallback"]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");

    let authority = Authority::new();
    authority.issue(&["127.0.0.1"]).write(&setup.tls_dir());
    gateway.wait_for_output("new connections get the new TLS certificate").await;
    assert_eq!(gateway.output().matches(broken).count(), 1, "{}", gateway.output());
    // Announced anew a moment later.
    let announced = async {
        loop {
            let ran = run(&setup, &["agent", "-m", "hi", "--no-fallback"]).await;
            if ran.exit == Some(0) {
                break;
            }
            assert!(ran.stderr.contains("not the one announced"), "{ran:?}");
        }
    };
    tokio::time::timeout(watertight_testkit::PATIENCE, announced).await.unwrap();
    let (ca, token) = (ca_file(&setup, &authority), gateway.token());
    let url = format!("wss://{}", gateway.address());
    let ran = run(&setup, &["agent", "-m", "hi", "--url", &url, "--ca-file", &ca, "--token", &token]).await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
}

/// Shakes hands with this certificate, and no more.
async fn shows(certificate: &Certificate) -> (SocketAddr, AbortOnDropHandle<()>) {
    let chain = CertificateDer::pem_slice_iter(certificate.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = TlsAcceptor::from(Arc::new(config.clone())).accept(socket).await;
        }
    });
    (address, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_is_explained() {
    let setup = setup();
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = ca_file(&setup, &authority);
    let cases = [
        (
            other.issue(&["127.0.0.1"]),
            "its certificate is not signed by an authority that is trusted here: pass --ca-file (or \
             WATERTIGHT_CA_FILE) with the certificate of the authority that signed it",
        ),
        (
            authority.issue_expired(&["127.0.0.1"]),
            "its certificate has expired: renew it at the gateway, which takes up the new files by itself",
        ),
        (
            authority.issue(&["gateway.example"]),
            "its certificate is not for 127.0.0.1 but for gateway.example: call it by a name that the \
             certificate has",
        ),
    ];
    for (certificate, reason) in cases {
        let (address, _task) = shows(&certificate).await;
        let url = format!("wss://{address}");
        let ran = run(&setup, &["agent", "-m", "hi", "--url", &url, "--ca-file", &ca, "--token", "t"]).await;
        ran.refused(&format!("Gateway not reachable at {url} ({reason})."));
    }
}

#[tokio::test]
async fn an_authoritys_own_certificate_is_not_one_of_a_server() {
    let setup = setup();
    let own = Certificate::of_an_authority(&["127.0.0.1"]);
    let ca: PathBuf = setup.state_dir().join("ca.pem");
    fs::write(&ca, &own.cert).unwrap();
    let (address, _task) = shows(&own).await;
    let (url, ca) = (format!("wss://{address}"), ca.to_str().unwrap());
    let ran = run(&setup, &["agent", "-m", "hi", "--url", &url, "--ca-file", ca, "--token", "t"]).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains("basicConstraints=critical,CA:FALSE"), "{ran:?}");
}

#[tokio::test]
async fn whoever_shows_another_certificate_than_the_announced_one_gets_nothing() {
    let setup = setup();
    assert_eq!(run(&setup, &["agent", "-m", "hi", "--local"]).await.exit, Some(0));
    let (address, _task) = shows(&Authority::new().issue(&["127.0.0.1"])).await;
    let mut held = Held::new(&setup, None);
    held.write(&json!({"pid": 1, "address": address, "certificate": "ab".repeat(32)}));
    let ran = run(&setup, &["agent", "-m", "hi", "--no-fallback"]).await;
    ran.refused(&format!(
        "Gateway not reachable at wss://{address} (its certificate is not the one announced in the state directory, so \
         it is another program, or its certificate has just changed: try again)."
    ));
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_used_is_named() {
    let setup = setup();
    let ca = setup.state_dir().join("ca.pem");
    let call = |ca: &str| {
        let args = ["agent", "-m", "hi", "--url", "wss://127.0.0.1:1", "--token", "t", "--ca-file", ca];
        args.map(str::to_owned)
    };
    let path = ca.to_str().unwrap();
    let args = call(path);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ran = run(&setup, &args).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains(&format!("the CA file {path} cannot be read")), "{ran:?}");
    fs::write(&ca, "nothing").unwrap();
    let ran = run(&setup, &args).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains(&format!("the CA file {path} holds no certificate")), "{ran:?}");
}

#[tokio::test]
async fn the_wrong_scheme_is_explained() {
    let plain = setup();
    let gateway = plain.start().await;
    let (url, authority) = (format!("wss://{}", gateway.address()), Authority::new());
    let ca = ca_file(&plain, &authority);
    let ran = run(&plain, &["agent", "-m", "hi", "--url", &url, "--ca-file", &ca, "--token", "t"]).await;
    assert!(ran.exit == Some(1) && ran.stderr.contains("it does not speak TLS"), "{ran:?}");

    let secured = setup().tls(&authority);
    let gateway = secured.start().await;
    let url = format!("ws://{}", gateway.address());
    let ran = run(&secured, &["agent", "-m", "hi", "--url", &url, "--token", "t"]).await;
    ran.refused(&format!(
        "Gateway not reachable at {url} (it answered with HTTP status 400; if it speaks TLS, use wss://)."
    ));
}
