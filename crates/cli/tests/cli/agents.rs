//! `watertight agents list`.

use crate::command::{TWO_AGENTS, run, setup};

#[tokio::test]
async fn the_agents_of_the_configuration_are_listed_with_the_default_marked() {
    let setup = setup().config(&format!("{TWO_AGENTS}model = 'echo/loud'\ndefault = true\n"));
    let listed = run(&setup, &["agents", "list"]).await;
    assert_eq!((listed.exit, listed.stderr.as_str()), (Some(0), ""), "{listed:?}");
    assert_eq!(listed.stdout, "main  echo/echo\nops   echo/loud  (default)\n");
    let json = run(&setup, &["agents", "list", "--json"]).await.json();
    assert_eq!(json["defaultId"], "ops");
    assert_eq!(json["agents"][0]["id"], "main");
}

#[tokio::test]
async fn the_command_that_an_unknown_agent_points_to_exists() {
    let setup = setup();
    let refused = run(&setup, &["agent", "--agent", "nope", "--message", "hi"]).await;
    let advice = refused.stderr.split('"').find(|part| part.starts_with("watertight ")).expect("advice");
    let words: Vec<&str> = advice.split(' ').skip(1).collect();
    assert_eq!(run(&setup, &words).await.exit, Some(0), "{advice}");
}
