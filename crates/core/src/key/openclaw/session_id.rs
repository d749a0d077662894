//! Session ids: which may name a transcript (sessions.md §1.13) and which session an id means (§2.4).

use std::cmp::Reverse;

use unicode_normalization::char::is_combining_mark;
use unicode_normalization::is_nfc;

use super::store::to_request_key;
use super::text::{lower, trim};
use crate::key::error::Printable;

/// The text may not name a transcript file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid session ID: {0}")]
pub struct InvalidSessionId(pub Printable);

/// The id, trimmed: letters, digits and marks of any script with `.`, `_` and `-`, at most 128 characters, in NFC, at
/// most 255 bytes as a file name, and not shaped like a compaction checkpoint.
pub fn validate_session_id(text: &str) -> Result<&str, InvalidSessionId> {
    const MAX_CHARS: usize = 128;
    const MAX_FILE_NAME_BYTES: usize = 255;
    let id = trim(text);
    let well_formed = id.chars().next().is_some_and(is_letter_or_number)
        && id.chars().all(|c| is_letter_or_number(c) || is_combining_mark(c) || matches!(c, '.' | '_' | '-'))
        && id.chars().count() <= MAX_CHARS
        && id.len() + ".jsonl".len() <= MAX_FILE_NAME_BYTES
        && is_nfc(id)
        && !is_checkpoint(id);
    if well_formed { Ok(id) } else { Err(InvalidSessionId(Printable::within(text, 2 * MAX_CHARS))) }
}

/// General categories L and N. `is_alphabetic` also takes marks and the circled and squared letters, which are symbols.
fn is_letter_or_number(c: char) -> bool {
    let symbol = matches!(c, '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f149}' | '\u{1f150}'..='\u{1f169}' | '\u{1f170}'..='\u{1f189}');
    c.is_numeric() || (c.is_alphabetic() && !is_combining_mark(c) && !symbol)
}

/// `<name>.checkpoint.<UUID of version 1 to 5>`, in any case.
fn is_checkpoint(id: &str) -> bool {
    let lowered = id.to_ascii_lowercase();
    let Some((name, uuid)) = lowered.rsplit_once(".checkpoint.") else { return false };
    let groups: Vec<&str> = uuid.split('-').collect();
    let hex = |group: &&str| group.bytes().all(|b| b.is_ascii_hexdigit());
    !name.is_empty()
        && groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(hex)
        && matches!(groups[2].as_bytes()[0], b'1'..=b'5')
        && matches!(groups[3].as_bytes()[0], b'8' | b'9' | b'a' | b'b')
}

/// Which of the sessions that hold an id is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection<'a> {
    /// None holds it.
    None,
    /// This one.
    Selected(&'a str),
    /// Any of these; it cannot be told.
    Ambiguous(Vec<&'a str>),
}

struct Match<'a> {
    key: &'a str,
    folded: String,
    request_key: String,
    updated_at: i64,
}

/// Chooses among the sessions `(key, last update in ms)` whose transcript is `session_id`.
///
/// Rows that differ only in their agent or spelling count as one, the freshest; keys that end in the id are preferred;
/// then the freshest wins, and a tie is ambiguous.
pub fn select_by_session_id<'a>(rows: &[(&'a str, i64)], session_id: &str) -> Selection<'a> {
    let id = lower(trim(session_id));
    let mut groups: Vec<Match<'a>> = Vec::new();
    for (key, updated_at) in rows {
        let request_key = lower(trim(&to_request_key(key).unwrap_or_else(|| (*key).to_owned())));
        let row = Match { key, folded: lower(trim(key)), request_key, updated_at: *updated_at };
        match groups.iter_mut().find(|other| other.request_key == row.request_key) {
            Some(other) if preference(&row) < preference(other) => *other = row,
            Some(_) => {}
            None => groups.push(row),
        }
    }
    let ends_in_id = |row: &&Match<'_>| {
        let tail = format!(":{id}");
        row.folded.ends_with(&tail) || row.request_key == id || row.request_key.ends_with(&tail)
    };
    let all: Vec<&Match<'a>> = groups.iter().collect();
    let structural: Vec<&Match<'a>> = groups.iter().filter(ends_in_id).collect();
    match (&all[..], &structural[..]) {
        ([], _) => Selection::None,
        ([only], _) => Selection::Selected(only.key),
        (_, []) => freshest(&all),
        (_, _) => freshest(&structural),
    }
}

/// Rows of one group in the order of preference: fresh, then canonically spelt, then by key.
fn preference<'r>(row: &'r Match<'_>) -> (Reverse<i64>, bool, &'r str) {
    (Reverse(row.updated_at), row.key != row.folded, &row.folded)
}

fn freshest<'a>(rows: &[&Match<'a>]) -> Selection<'a> {
    let newest = rows.iter().map(|row| row.updated_at).max();
    let mut fresh = rows.iter().filter(|row| Some(row.updated_at) == newest);
    match (fresh.next(), fresh.next()) {
        (Some(one), None) => Selection::Selected(one.key),
        _ => Selection::Ambiguous(rows.iter().map(|row| row.key).collect()),
    }
}
