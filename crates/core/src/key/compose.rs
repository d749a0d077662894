//! Building the rest of a key from typed parts, so that two different tuples never make the same key (TM2).
//!
//! Every part becomes exactly one segment. Inside an opaque part `%` becomes `%25`, `:` becomes `%3A`, and every other
//! byte outside the alphabet `%XX`; so does the second of two dots (no `..` can appear) and the first letter of a
//! part that spells a reserved namespace (the result is always a key its owner may also write whole). Nothing is
//! folded and nothing is ever decoded on the way to a session.

use std::fmt::Write as _;

use super::KeyError;
use super::strict::{in_alphabet, reserved_word};

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A word of ours, such as `user`: non-empty and inside the alphabet.
    Word(&'static str),
    /// Any non-empty text of a client's.
    Opaque(&'a str),
}

/// Composed segments: the rest of a key, or the front of it. Made only by [`compose`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Composed(String);

impl Composed {
    /// The segments joined with `:`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, still escaped.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split(':')
    }
}

/// Joins `parts`. Two lists of the same shape give the same result only if they are equal.
///
/// Fails with [`KeyError::EmptySegment`] on an empty part and [`KeyError::Empty`] on no part at all.
pub fn compose(parts: &[Part<'_>]) -> Result<Composed, KeyError> {
    if parts.is_empty() {
        return Err(KeyError::Empty);
    }
    let mut joined = String::new();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            joined.push(':');
        }
        match part {
            Part::Word("") | Part::Opaque("") => return Err(KeyError::EmptySegment),
            Part::Word(word) => {
                debug_assert!(word.bytes().all(in_alphabet), "a word of ours is inside the alphabet");
                joined.push_str(word);
            }
            Part::Opaque(text) => escape_into(&mut joined, text),
        }
    }
    Ok(Composed(joined))
}

/// The texts of the parts that [`compose`] joined. None if `composed` is not a result of it.
pub fn decompose(composed: &str) -> Option<Vec<String>> {
    composed.split(':').map(unescape).collect()
}

fn escape_into(out: &mut String, text: &str) {
    let start = out.len();
    for (at, byte) in text.bytes().enumerate() {
        let opens_reserved = at == 0 && reserved_word(text).is_some();
        let second_dot = byte == b'.' && out.len() > start && out.ends_with('.');
        if byte != b'%' && in_alphabet(byte) && !second_dot && !opens_reserved {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn unescape(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let [high, low, after @ ..] = tail else { return None };
            let digit = |b: &u8| char::from(*b).to_digit(16);
            bytes.push((digit(high)? * 16 + digit(low)?) as u8);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

/// Where a conversation comes from. Each route has a fixed number of segments, which keeps [`Conversation`] injective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// The agent's main session: `main`.
    Main,
    /// A peer of a channel: `<channel>:direct:<peer>`.
    Direct {
        /// The channel's word, such as `clawg-ui`.
        channel: &'static str,
        /// Who writes: any text.
        peer: &'a str,
    },
}

/// `<route>[:user:<user>][:thread:<thread>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation<'a> {
    /// Where it comes from.
    pub route: Route<'a>,
    /// For whom: any text.
    pub user: Option<&'a str>,
    /// In which thread: any text.
    pub thread: Option<&'a str>,
}

impl Conversation<'_> {
    /// The rest of the conversation's key. Two conversations on routes of the same kind give the same rest only if
    /// they are equal.
    pub fn compose(&self) -> Result<Composed, KeyError> {
        let mut parts = match self.route {
            Route::Main => vec![Part::Word(super::MAIN)],
            Route::Direct { channel, peer } => vec![Part::Word(channel), Part::Word("direct"), Part::Opaque(peer)],
        };
        for (marker, value) in [("user", self.user), ("thread", self.thread)] {
            if let Some(value) = value {
                parts.extend([Part::Word(marker), Part::Opaque(value)]);
            }
        }
        compose(&parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(user: &str, thread: &str) -> String {
        let route = Route::Direct { channel: "clawg-ui", peer: "dev1" };
        Conversation { route, user: Some(user), thread: Some(thread) }.compose().unwrap().as_str().to_owned()
    }

    #[test]
    fn plain_parts_stand_as_they_are() {
        assert_eq!(rest("Alice@example.org", "T1"), "clawg-ui:direct:dev1:user:Alice@example.org:thread:T1");
        let main = Conversation { route: Route::Main, user: Some("a"), thread: None };
        assert_eq!(main.compose().unwrap().as_str(), "main:user:a");
    }

    #[test]
    fn a_delimiter_in_the_user_or_thread_forges_nothing() {
        assert_ne!(rest("alice:thread:x", "y"), rest("alice", "x:thread:y"));
        assert_eq!(rest("alice:thread:x", "y"), "clawg-ui:direct:dev1:user:alice%3Athread%3Ax:thread:y");
        assert_ne!(rest("a:b", "y"), rest("a%3Ab", "y"));
    }

    #[test]
    fn what_a_key_may_not_hold_is_escaped() {
        assert_eq!(rest("é", "a b"), "clawg-ui:direct:dev1:user:%C3%A9:thread:a%20b");
        assert_eq!(rest("../x", "..."), "clawg-ui:direct:dev1:user:.%2E/x:thread:.%2E.");
        assert_eq!(rest("Cron", "hooks"), "clawg-ui:direct:dev1:user:%43ron:thread:hooks");
    }

    #[test]
    fn an_empty_part_is_refused() {
        assert_eq!(compose(&[]), Err(KeyError::Empty));
        assert_eq!(compose(&[Part::Word("user"), Part::Opaque("")]), Err(KeyError::EmptySegment));
    }

    #[test]
    fn only_results_of_composition_can_be_taken_apart() {
        assert_eq!(decompose("user:a%3Ab").unwrap(), ["user", "a:b"]);
        for text in ["", "a::b", "%", "%4", "%zz", "%FF", "%+1"] {
            assert_eq!(decompose(text), None, "{text}");
        }
    }
}
