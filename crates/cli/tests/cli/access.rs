//! Tenants, principals, tokens, grants and the audit log, with a gateway and without.

use watertight_testkit::GatewaySetup;

use crate::command::{Ran, run, setup};

/// Runs a command that must succeed.
async fn done(setup: &GatewaySetup, args: &[&str]) -> Ran {
    let ran = run(setup, args).await;
    assert_eq!((ran.exit, ran.stderr.as_str()), (Some(0), ""), "{args:?}: {ran:?}");
    ran
}

/// A user's token to read and write.
async fn user(setup: &GatewaySetup, name: &str) -> String {
    done(setup, &["principal", "create", name]).await;
    done(setup, &["token", "issue", "--principal", name]).await.stdout.trim().to_owned()
}

#[tokio::test]
async fn access_is_said_the_same_with_a_gateway_and_without() {
    let setup = setup();
    let token = user(&setup, "alice").await;
    assert!(token.starts_with("wta_"), "without a gateway");
    let gateway = setup.start().await;
    let key = ["--session-key", "agent:main:user:alice:notes"];
    let said = run(&setup, &[&["agent", "--token", &token, "-m", "hello"], &key[..]].concat()).await;
    assert_eq!(said.exit, Some(0), "{said:?}");
    let foreign = ["agent", "--token", &token, "-m", "hello", "--session-key", "agent:main:user:bob"];
    assert!(run(&setup, &foreign).await.stderr.contains("No session found"));
    let listed = done(&setup, &["token", "list", "--principal", "alice", "--json"]).await.json();
    let id = listed["tokens"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(listed["tokens"][0]["principal"], "alice");
    let revoked = done(&setup, &["token", "revoke", &id]).await;
    assert_eq!(revoked.stdout, "Revoked 1 credentials; closed 0 open connections.\n");
    assert_eq!(run(&setup, &[&["agent", "--token", &token, "-m", "again"], &key[..]].concat()).await.exit, Some(1));
    let log = done(&setup, &["audit", "tail", "-n", "2"]).await.stdout;
    assert!(log.contains("token.revoke") && !log.contains("principal.create"), "{log}");
    assert_eq!(done(&setup, &["audit", "verify"]).await.stdout, "5 events, all in place.\n");
    gateway.kill().await;
    let exported = done(&setup, &["audit", "export"]).await.stdout;
    assert_eq!(exported.lines().count(), 5, "without a gateway again");
}

#[tokio::test]
async fn explain_says_which_grant_allows_something_and_its_status_says_whether() {
    let setup = setup();
    user(&setup, "alice").await;
    user(&setup, "bob").await;
    let ask = ["access", "explain", "--as", "bob", "--key", "agent:main:user:alice:x", "--verb", "read"];
    let refused = run(&setup, &ask).await;
    assert_eq!(refused.exit, Some(1));
    assert!(refused.stdout.starts_with("refused: agent:main:user:alice:x\n"), "{refused:?}");
    let shared = ["grant", "add", "--principal", "bob", "--prefix", "agent:main:user:alice:x", "--verbs", "read"];
    let grant = done(&setup, &shared).await.stdout;
    let allowed = done(&setup, &ask).await.stdout;
    let id = grant.split("  ").next().expect("an id");
    assert!(allowed.starts_with("allowed:") && allowed.contains(id), "{allowed}");
    done(&setup, &["grant", "remove", id]).await;
    assert_eq!(run(&setup, &ask).await.exit, Some(1));
}

#[tokio::test]
async fn a_file_is_compared_and_made_true() {
    let setup = setup();
    user(&setup, "alice").await;
    done(&setup, &["grant", "add", "--principal", "alice", "--prefix", "agent:main:old"]).await;
    let file = setup.state_dir().join("access.toml");
    let text = "[principals.alice]\n[[principals.alice.grants]]\nprefix = 'agent:main:new'\nverbs = ['read']\n\
                [principals.portal]\nkind = 'service'\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let wanted = "+ grant alice read on agent:main:new\n- grant alice read,write on agent:main:old\n\
                  + principal portal (service)\n";
    let diff = run(&setup, &["access", "apply", file, "--diff"]).await;
    assert_eq!((diff.exit, diff.stdout.as_str()), (Some(1), wanted));
    assert_eq!(done(&setup, &["access", "apply", file]).await.stdout, wanted);
    assert_eq!(done(&setup, &["access", "apply", file, "--diff"]).await.stdout, "Nothing to change.\n");
    let home = ["access", "explain", "--as", "alice", "--key", "mine", "--verb", "write"];
    assert_eq!(run(&setup, &home).await.exit, Some(0), "her home is not the file's to take");
}

#[tokio::test]
async fn a_tenants_operator_is_nobody_in_another() {
    let setup = setup();
    let made = done(&setup, &["tenant", "create", "acme"]).await.stdout;
    let token = made.lines().nth(1).expect("a token").to_owned();
    assert_eq!(done(&setup, &["tenant", "list"]).await.stdout, "default\nacme\n");
    user(&setup, "alice").await;
    let theirs = done(&setup, &["principal", "list", "--token", &token]).await.stdout;
    assert!(!theirs.contains("alice") && theirs.contains("operator"), "{theirs}");
    let refused = run(&setup, &["tenant", "list", "--token", &token]).await;
    assert!(refused.stderr.contains("administers"), "{refused:?}");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_words_and_changes_nothing() {
    let setup = setup();
    user(&setup, "alice").await;
    for (args, says) in [
        (&["principal", "create", "alice"][..], "There is a principal named \"alice\" already."),
        (&["token", "issue", "--principal", "nobody"], "There is no principal \"nobody\"."),
        (&["token", "issue", "--principal", "alice", "--scopes", "fly"], "\"fly\" is not a scope."),
        (&["grant", "add", "--principal", "alice", "--prefix", "a::b"], "empty segment"),
        (&["token", "revoke", "0123456789abcdef"], "There is no token \"0123456789abcdef\"."),
        (&["principal", "list", "--token", "wrong"], "The gateway refused the credential"),
    ] {
        let ran = run(&setup, args).await;
        assert_eq!(ran.exit, Some(1), "{args:?}");
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn what_is_weak_is_named_with_how_to_mend_it() {
    let setup = setup().config(
        "[gateway]\nallowed_origins = ['http://app.example']\n[[agents]]\nid = 'main'\nmodel = 'far/m'\n\
         [providers.far]\nkind = 'openai'\nbase_url = 'http://models.example/v1'\nsession_header = 'raw'\n",
    );
    user(&setup, "alice").await;
    let endless = ["token", "issue", "--principal", "alice", "--scopes", "admin", "--lifetime", "0"];
    done(&setup, &endless).await;
    let audit = run(&setup, &["security", "audit", "--json"]).await;
    assert_eq!(audit.exit, Some(1), "{audit:?}");
    let found = audit.json();
    let mut codes: Vec<&str> =
        found["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    codes.sort_unstable();
    let expected = ["master_key_beside_store", "origin_without_tls", "provider_without_tls", "raw_session_header"];
    assert_eq!(codes, [&expected[..], &["token_without_end"]].concat(), "{found:#}");
    let text = run(&setup, &["security", "audit"]).await.stdout;
    assert!(text.starts_with("critical  ") && text.contains("Use its https address."), "{text}");
}
