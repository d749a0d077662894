//! Help texts, version, wrong command lines.

use crate::command::{run, setup};

#[tokio::test]
async fn the_help_texts_are_as_recorded() {
    let setup = setup();
    let commands = [
        ("help", &["--help"][..]),
        ("agent-help", &["agent", "--help"]),
        ("serve-help", &["serve", "--help"]),
        ("verify-help", &["verify", "--help"]),
    ];
    for (name, args) in commands {
        let ran = run(&setup, args).await;
        assert_eq!((ran.exit, ran.stderr.as_str()), (Some(0), ""));
        insta::assert_snapshot!(name, ran.stdout);
    }
}

#[tokio::test]
async fn the_version_is_one_line() {
    let ran = run(&setup(), &["--version"]).await;
    assert_eq!(ran.stdout, format!("watertight {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_wrong_command_line_is_an_error_like_any_other() {
    let setup = setup();
    let bogus = run(&setup, &["agent", "--bogus"]).await;
    bogus.refused("watertight does not recognize option \"--bogus\".\nTry: watertight agent --help");
    let bogus = run(&setup, &["--bogus"]).await;
    bogus.refused("watertight does not recognize option \"--bogus\".\nTry: watertight --help");

    let bogus = run(&setup, &["agents", "list", "--bogus"]).await;
    bogus.refused("watertight does not recognize option \"--bogus\".\nTry: watertight agents list --help");
    // Other words of the line name no command.
    let bogus = run(&setup, &["agent", "--message", "serve", "--bogus"]).await;
    bogus.refused("watertight does not recognize option \"--bogus\".\nTry: watertight agent --help");
    let bogus = run(&setup, &["--bogus", "agent"]).await;
    bogus.refused("watertight does not recognize option \"--bogus\".\nTry: watertight --help");

    let json = run(&setup, &["agent", "--bogus", "--json"]).await;
    assert_eq!(json.exit, Some(1));
    assert_eq!(json.json()["ok"], false);
    assert_eq!(json.json()["error"]["type"], "cli_error");

    let nothing = run(&setup, &[]).await;
    assert_eq!((nothing.exit, nothing.stdout.as_str()), (Some(1), ""));
    assert!(nothing.stderr.starts_with("Error: no command is given.") && nothing.stderr.contains("serve"));
    let listen = run(&setup, &["serve", "--listen", "localhost"]).await;
    assert!(listen.exit == Some(1) && listen.stderr.starts_with("Error: invalid value 'localhost'"), "{listen:?}");
}
