//! Text as upstream's JavaScript sees it.

/// Whether JavaScript's `trim` removes `c`. Differs from Rust's white space in U+0085 (kept) and U+FEFF (removed).
fn is_js_space(c: char) -> bool {
    c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}')
}

/// JavaScript's `String.prototype.trim`.
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_js_space)
}

/// JavaScript's `String.prototype.toLowerCase`: full Unicode, no locale.
pub fn lower(text: &str) -> String {
    text.to_lowercase()
}

/// A key trimmed and lower-cased, except for the peer ids that are case-sensitive at their provider
/// (sessions.md §1.3): one segment after `signal:group:`, and the whole tail of a Matrix room.
pub fn fold(key: &str) -> String {
    let key = trim(key);
    matrix_tail(key).map_or_else(
        || fold_around_signal_groups(key),
        |at| {
            let (front, tail) = key.split_at(at);
            lower(front) + &fold_thread_marker(tail)
        },
    )
}

/// Where the room id of a Matrix room key starts, after any number of `agent:<id>:` wrappers.
fn matrix_tail(key: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let mut segments = key[at..].split(':');
        let first = segments.next()?;
        let second = segments.next()?;
        let next = at + first.len() + 1 + second.len() + 1;
        segments.next()?;
        if first.eq_ignore_ascii_case("agent") && !second.is_empty() {
            at = next;
        } else {
            let room = second.eq_ignore_ascii_case("channel") || second.eq_ignore_ascii_case("group");
            return (first.eq_ignore_ascii_case("matrix") && room).then_some(next);
        }
    }
}

fn fold_thread_marker(tail: &str) -> String {
    const MARKER: &str = ":thread:";
    let found = tail.to_ascii_lowercase().rfind(MARKER);
    match found {
        Some(at) => format!("{}{MARKER}{}", &tail[..at], &tail[at + MARKER.len()..]),
        None => tail.to_owned(),
    }
}

fn fold_around_signal_groups(key: &str) -> String {
    let segments: Vec<&str> = key.split(':').collect();
    let is = |at: usize, word: &str| segments.get(at).is_some_and(|s| s.eq_ignore_ascii_case(word));
    let folded: Vec<String> = segments
        .iter()
        .enumerate()
        .map(|(at, segment)| {
            let peer = at >= 2 && is(at - 2, "signal") && is(at - 1, "group");
            if peer { trim(segment).to_owned() } else { lower(segment) }
        })
        .collect();
    folded.join(":")
}
