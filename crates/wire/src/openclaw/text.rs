//! Cleaning what people typed (gateway-ws.md §2.1, `chat.send`).

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// A message with a NUL byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message must not contain null bytes")]
pub struct HasNul;

/// The message in NFC without control characters other than tab, line feed and carriage return.
pub fn clean(message: &str) -> Result<String, HasNul> {
    if message.contains('\0') {
        return Err(HasNul);
    }
    let keeps = |c: &char| matches!(c, '\t' | '\n' | '\r') || !c.is_control();
    // Characters meet where a control character goes, so composing comes last.
    let kept: String = message.chars().filter(keeps).collect();
    Ok(if is_nfc(&kept) { kept } else { kept.nfc().collect() })
}

/// Whether a message is the typed form of "stop what you are doing", which aborts instead of starting a turn.
pub fn is_stop_command(message: &str) -> bool {
    let word = message.trim();
    word.eq_ignore_ascii_case("/stop") || word.eq_ignore_ascii_case("stop")
}

/// The text cut after `max` characters, and whether anything was cut.
pub fn cut(text: &str, max: usize) -> (&str, bool) {
    match text.char_indices().nth(max) {
        Some((at, _)) => (&text[..at], true),
        None => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_go_and_text_is_composed() {
        assert_eq!(clean("a\u{7}b\r\n\tc\u{1b}[0m\u{85}").unwrap(), "ab\r\n\tc[0m");
        assert_eq!(clean("e\u{301}").unwrap(), "\u{e9}");
        assert_eq!(clean("e\u{7}\u{301}").unwrap(), "\u{e9}");
        assert_eq!(clean("a\0b"), Err(HasNul));
    }

    #[test]
    fn only_the_bare_word_stops() {
        assert!(is_stop_command(" /stop\n") && is_stop_command("Stop"));
        assert!(!is_stop_command("stop it") && !is_stop_command("/stopping") && !is_stop_command(""));
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("äöü", 2), ("äö", true));
        assert_eq!(cut("äöü", 3), ("äöü", false));
    }
}
