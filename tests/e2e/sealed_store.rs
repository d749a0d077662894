//! Nothing on disk holds what was said or under which name.

use std::path::{Path, PathBuf};

use watertight_testkit::canary;

use crate::stage;

#[tokio::test]
async fn no_file_of_the_state_directory_holds_a_message_or_a_key() {
    let gateway = stage::echo().await;
    let token = gateway.token();
    let mut client = gateway.client().await;
    let (in_message, in_key) = (canary::marker(), canary::marker());
    let key = format!("agent:main:{in_key}");

    for n in 0..3 {
        let turn = client.chat(&key, &format!("{in_message} number {n}")).await;
        assert!(turn.text().contains(&in_message), "the answer repeats the marker");
    }
    client.chat(&key, &format!("/echo tool session_info {{\"{in_message}\":1}}")).await;
    assert!(client.history(&key).await.len() >= 8, "the store holds the conversation");
    let unsealed = |state: &Path| {
        [&in_message, &in_key].into_iter().flat_map(|marker| canary::grep_dir(state, marker)).collect::<Vec<_>>()
    };

    let state = gateway.state_dir();
    assert_eq!(canary::grep_dir(&state, &token), [state.join("operator.token")], "the search finds what is there");
    assert_eq!(unsealed(&state), Vec::<PathBuf>::new(), "while it runs");

    let setup = gateway.stop().await;
    assert_eq!(unsealed(&setup.state_dir()), Vec::<PathBuf>::new(), "after it stopped");
}
