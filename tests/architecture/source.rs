//! Rust source as words, without comments and literals, so that a rule cannot be tripped by prose.

/// A piece of source: an identifier or one punctuation character. Literals are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// An identifier or keyword; `r#name` is `name`.
    Word(String),
    /// One punctuation character, with `::` as one token.
    Mark(&'static str),
    /// Any other punctuation or a literal.
    Other,
}

/// A source file.
pub(crate) struct Source {
    path: String,
    tokens: Vec<(Token, usize)>,
}

impl Source {
    /// Reads `text`; `path` is relative to the workspace, with forward slashes.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), tokens: Lexer { rest: text, line: 1 }.run() }
    }

    /// The file's path relative to the workspace.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Its tokens, each with its line from 1.
    pub(crate) fn tokens(&self) -> &[(Token, usize)] {
        &self.tokens
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
}

impl Lexer<'_> {
    fn run(mut self) -> Vec<(Token, usize)> {
        let mut tokens = Vec::new();
        while let Some(first) = self.rest.chars().next() {
            let line = self.line;
            if first.is_whitespace() {
                self.skip(first.len_utf8());
            } else if self.rest.starts_with("//") {
                self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.skip_block_comment();
            } else if let Some(length) = string_length(self.rest) {
                self.skip(length);
                tokens.push((Token::Other, line));
            } else if first == '\'' {
                self.skip(char_or_lifetime_length(self.rest));
                tokens.push((Token::Other, line));
            } else if first == '_' || first.is_alphabetic() {
                if self.rest.starts_with("r#") {
                    self.skip(2);
                }
                let length = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest.len());
                tokens.push((Token::Word(self.rest[..length].to_owned()), line));
                self.skip(length.max(1));
            } else {
                let mark =
                    ["::", "{", "}", ",", ";", "*", "<", ">", "="].into_iter().find(|m| self.rest.starts_with(m));
                self.skip(mark.map_or(first.len_utf8(), str::len));
                tokens.push((mark.map_or(Token::Other, Token::Mark), line));
            }
        }
        tokens
    }

    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest.is_empty() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(self.rest.chars().next().map_or(0, char::len_utf8));
            }
        }
    }
}

/// Length of the string literal that `text` starts with: plain, byte, C or raw.
fn string_length(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|p| {
        text.strip_prefix(p).is_some_and(|rest| {
            let body = if p.ends_with('r') { rest.trim_start_matches('#') } else { rest };
            body.starts_with('"')
        })
    })?;
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let start = hashes + 1;
        let length = body[start..].find(&end).map_or(body.len(), |at| start + at + end.len());
        return Some(prefix.len() + length);
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// Length of the character literal or lifetime that `text` starts with.
fn char_or_lifetime_length(text: &str) -> usize {
    let mut inner = text[1..].chars();
    match (inner.next(), inner.next()) {
        (Some('\\'), Some(escaped)) => {
            let after = 2 + escaped.len_utf8();
            text[after..].find('\'').map_or(text.len(), |at| after + at + 1)
        }
        (Some(c), Some('\'')) => 1 + c.len_utf8() + 1,
        _ => {
            let end = text[1..].find(|c: char| c != '_' && !c.is_alphanumeric());
            end.map_or(text.len(), |at| 1 + at)
        }
    }
}

#[cfg(test)]
fn words(text: &str) -> Vec<String> {
    let source = Source::new("x.rs", text);
    let word = |(token, _): &(Token, usize)| match token {
        Token::Word(word) => Some(word.clone()),
        _ => None,
    };
    source.tokens().iter().filter_map(word).collect()
}

#[test]
fn comments_and_literals_are_not_words() {
    let text = r##"
        // gone
        /* gone /* nested */ gone */ kept1
        "gone \" gone" kept2 r#"gone " gone"# kept3 b"gone" 'g' '\'' kept4 '\u{67}' kept5
    "##;
    assert_eq!(words(text), ["kept1", "kept2", "kept3", "kept4", "kept5"]);
}

#[test]
fn a_lifetime_does_not_swallow_what_follows() {
    assert_eq!(words("fn f<'a>(x: &'a str) -> &'static str"), ["fn", "f", "x", "str", "str"]);
}

#[test]
fn lines_are_counted_through_comments_and_strings() {
    let source = Source::new("x.rs", "/* a\nb */ \"c\nd\"\nlast");
    assert_eq!(source.tokens().last(), Some(&(Token::Word("last".into()), 4)));
}
