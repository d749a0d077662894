//! Names. They are the same in every tenant on purpose: keys, run ids, transcripts, tool calls.

/// Sessions that several lanes use at once are numbered from here.
pub(crate) const SHARED: u16 = 0x8000;

/// The key of a session.
pub(crate) fn key(session: u16) -> String {
    match session {
        0 => "agent:main:main".to_owned(),
        1 => "global".to_owned(),
        _ => format!("agent:main:leak-{session}"),
    }
}

/// The session of a key.
pub(crate) fn session(key: &str) -> Option<u16> {
    match key {
        "agent:main:main" => Some(0),
        "global" => Some(1),
        _ => key.strip_prefix("agent:main:leak-")?.parse().ok(),
    }
}

/// The id of a transcript.
pub(crate) fn generation(number: u16) -> String {
    format!("transcript-{number}")
}

/// The id of a run. Run ids are names under a principal, so those of two of its sessions differ.
pub(crate) fn run(session: u16, number: u32) -> String {
    format!("run-{session}-{number}")
}
