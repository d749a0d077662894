//! Text from a model or a gateway, made safe to show.

/// `text` without what a terminal would obey or a reader be misled by: control characters other than line breaks and
/// tabs, and the marks that reorder text. A model must not move the cursor, set the window's title or hide words.
pub(crate) fn visible(text: &str) -> String {
    let shown = |c: &char| match c {
        '\n' | '\t' => true,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    };
    text.chars().filter(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nobody_and_shows_text_in_its_order() {
        assert_eq!(visible("a\u{1b}]0;title\u{7}b\tc\n\u{9b}2J"), "a]0;titleb\tc\n2J");
        assert_eq!(visible("safe\u{202e}txt.exe\u{2066}"), "safetxt.exe");
    }
}
