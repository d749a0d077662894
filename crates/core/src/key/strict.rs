//! The `strict` grammar (isolation.md §2.1): an ASCII alphabet, byte-exact identity, no aliases but `main`.
//!
//! Only the structure is folded, and only by ASCII: the word `agent` and the agent id. Everything else is compared
//! as bytes and never decoded, so two spellings are two sessions.

use super::KeyError;

/// Longest key in canonical form, in bytes.
pub const MAX_BYTES: usize = 512;
/// Most segments of a key in canonical form.
pub const MAX_SEGMENTS: usize = 16;
/// Namespaces of internal sessions, refused to every caller, in any case and at any depth.
pub const RESERVED: [&str; 5] = ["subagent", "cron", "acp", "hook", "harness"];

/// Whether `byte` may stand inside a segment.
pub fn in_alphabet(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._@+=!~/#$%-".contains(&byte)
}

pub(super) fn is_sentinel(text: &str) -> bool {
    matches!(text, "global" | "unknown")
}

pub(super) fn reserved_word(segment: &str) -> Option<&'static str> {
    RESERVED.into_iter().find(|word| segment.eq_ignore_ascii_case(word))
}

/// What the text of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// `global` or `unknown`.
    Sentinel,
    /// `agent:<agent>:<rest>`; the agent is still as written.
    Agent { agent: &'a str, rest: &'a str },
    /// Anything else.
    Bare,
}

pub(super) fn parse(text: &str) -> Result<Parsed<'_>, KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(KeyError::TooLong { bytes: text.len(), max: MAX_BYTES });
    }
    if let Some(position) = text.bytes().position(|b| b != b':' && !in_alphabet(b)) {
        return Err(KeyError::BadCharacter { position });
    }
    if text.contains("..") {
        return Err(KeyError::DotDot);
    }
    if is_sentinel(text) {
        return Ok(Parsed::Sentinel);
    }
    let (parsed, open) = match text.split_once(':') {
        Some((word, tail)) if word.eq_ignore_ascii_case("agent") => match tail.split_once(':') {
            Some((agent, rest)) if !agent.is_empty() && !rest.is_empty() && !rest.starts_with(':') => {
                (Parsed::Agent { agent, rest }, rest)
            }
            _ => return Err(KeyError::Malformed),
        },
        _ => (Parsed::Bare, text),
    };
    check_segments(open)?;
    Ok(parsed)
}

/// Checks the segments a client chooses freely: none empty, none that opens a reserved namespace.
fn check_segments(open: &str) -> Result<(), KeyError> {
    let mut segments = open.split(':').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            return Err(KeyError::EmptySegment);
        }
        if let (Some(namespace), Some(_)) = (reserved_word(segment), segments.peek()) {
            return Err(KeyError::Reserved { namespace });
        }
    }
    Ok(())
}

/// Checks the bounds of a key in canonical form.
pub(super) fn check_bounds(canonical: &str) -> Result<(), KeyError> {
    if canonical.len() > MAX_BYTES {
        return Err(KeyError::TooLong { bytes: canonical.len(), max: MAX_BYTES });
    }
    let segments = canonical.split(':').count();
    if segments > MAX_SEGMENTS {
        return Err(KeyError::TooManySegments { segments, max: MAX_SEGMENTS });
    }
    Ok(())
}
