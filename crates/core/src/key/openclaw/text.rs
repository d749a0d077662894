//! Text as upstream's JavaScript sees it.

use std::ops::Range;

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

/// A stretch of a key that keeps its case, and what of it stays.
struct Kept<'a> {
    range: Range<usize>,
    text: &'a str,
}

/// A key trimmed and lower-cased, except for the peer ids that are case-sensitive at their provider
/// (sessions.md §1.3): one segment after each `signal:group:`, and the whole tail of a Matrix room but its thread
/// marker.
pub fn fold(key: &str) -> String {
    let key = trim(key);
    let mut folded = String::with_capacity(key.len());
    let mut done = 0;
    for kept in matrix_room(key).unwrap_or_else(|| signal_groups(key)) {
        // What is between two of them is lowered in one piece: the lower case of a sigma depends on its neighbours.
        folded += &lower(&key[done..kept.range.start]);
        folded += kept.text;
        done = kept.range.end;
    }
    folded + &lower(&key[done..])
}

/// What keeps its case in a Matrix room key, after any number of `agent:<id>:` wrappers; None for other keys.
fn matrix_room(key: &str) -> Option<Vec<Kept<'_>>> {
    const MARKER: &str = ":thread:";
    let room = matrix_room_start(key)?;
    let kept = |range: Range<usize>| Kept { text: &key[range.clone()], range };
    Some(match key[room..].to_ascii_lowercase().rfind(MARKER) {
        Some(at) => vec![kept(room..room + at), kept(room + at + MARKER.len()..key.len())],
        None => vec![kept(room..key.len())],
    })
}

fn matrix_room_start(key: &str) -> Option<usize> {
    let mut body = key;
    let mut wrapped = false;
    while let Some(after) = strip_word(body, "agent") {
        let (_, rest) = after.split_once(':')?;
        body = rest;
        wrapped = true;
    }
    if wrapped {
        body = body.trim_start_matches(':');
    }
    let kind = strip_word(body, "matrix")?;
    let room = strip_word(kind, "channel").or_else(|| strip_word(kind, "group"))?;
    (!room.is_empty()).then(|| key.len() - room.len())
}

/// What follows the first segment of `text` and its colon, if that segment is `word` in any case.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.split_once(':').filter(|(first, _)| first.eq_ignore_ascii_case(word)).map(|(_, rest)| rest)
}

fn signal_groups(key: &str) -> Vec<Kept<'_>> {
    let mut groups = Vec::new();
    let mut tail = key;
    loop {
        let peer = strip_word(tail, "signal")
            .and_then(|kind| strip_word(kind, "group"))
            .filter(|peer| !peer.is_empty() && !peer.starts_with(':'));
        if let Some(peer) = peer {
            let start = key.len() - peer.len();
            let end = peer.find(':').map_or(key.len(), |colon| start + colon);
            groups.push(Kept { range: start..end, text: trim(&key[start..end]) });
            tail = &key[end..];
        }
        match tail.split_once(':') {
            Some((_, next)) => tail = next,
            None => return groups,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_is_that_of_javascript() {
        assert_eq!(trim("\u{feff}\u{a0} a\u{200b} \u{3000}"), "a\u{200b}");
        assert_eq!(trim("\u{85}a"), "\u{85}a");
    }

    #[test]
    fn signal_group_ids_and_matrix_rooms_keep_their_case() {
        let cases = [
            ("Signal:Group: AbC :X:SIGNAL:group:DeF", "signal:group:AbC:x:signal:group:DeF"),
            ("agent:M:xsignal:group:AbC", "agent:m:xsignal:group:abc"),
            ("AGENT:M::Matrix:Group:!Ab:THREAD:$Ev", "agent:m::matrix:group:!Ab:thread:$Ev"),
            ("agent:m:matrix:direct:@Ab", "agent:m:matrix:direct:@ab"),
            ("agent:m:x:matrix:channel:!Ab", "agent:m:x:matrix:channel:!ab"),
            ("signal:group:", "signal:group:"),
            ("signal:group::A", "signal:group::a"),
        ];
        for (key, folded) in cases {
            assert_eq!(fold(key), folded, "{key}");
        }
    }

    #[test]
    fn a_sigma_is_lowered_by_its_neighbours_beyond_the_colon() {
        assert_eq!(fold("ΑΣ:Β"), "ασ:β");
        assert_eq!(fold("ΑΣ"), "ας");
    }
}
