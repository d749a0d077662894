//! What the bench calls its sessions and turns, and how it finds the markers of messages again in what comes back.
//!
//! A marker holds the number of its session, so that one search tells whose words anything contains: words of one
//! session in what is for another are a leak. Keys and run ids hold the number too but are no words: an operator may be
//! told of any session.

use memchr::memmem;

const MARKER: &[u8] = b"marker-";
const KEY: &[u8] = b":bench-";
/// Digits of a session's number, and of a turn's.
const DIGITS: usize = 8;

/// A turn's place: which session, and which turn of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) session: u32,
    pub(crate) turn: u32,
}

impl Label {
    /// The session key, for this agent.
    pub(crate) fn key(self, agent: &str) -> String {
        format!("agent:{agent}:bench-{:08x}", self.session)
    }

    /// The idempotency key.
    pub(crate) fn run(self) -> String {
        format!("run-{:08x}-{:08x}", self.session, self.turn)
    }

    /// The words that only this turn's message contains; the model repeats them.
    pub(crate) fn marker(self) -> String {
        format!("marker-{:08x}-{:08x}", self.session, self.turn)
    }
}

/// The sessions whose markers are in `bytes`, in the order they are.
pub(crate) fn marked(bytes: &[u8]) -> impl Iterator<Item = u32> {
    memmem::find_iter(bytes, MARKER).filter_map(|at| number(bytes, at + MARKER.len()))
}

/// The session a key names.
pub(crate) fn session(key: &[u8]) -> Option<u32> {
    number(key, memmem::find(key, KEY)? + KEY.len())
}

/// The last marker in `bytes`: that of the newest message of a prompt.
pub(crate) fn last_marker(bytes: &[u8]) -> Option<&[u8]> {
    let at = memmem::rfind(bytes, MARKER)?;
    bytes.get(at..at + MARKER.len() + DIGITS + 1 + DIGITS)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = std::str::from_utf8(bytes.get(at..at + DIGITS)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_their_session_and_so_does_the_key() {
        let label = Label { session: 0xab, turn: 7 };
        assert_eq!(marked(format!("x{}y", label.marker()).as_bytes()).collect::<Vec<_>>(), [0xab]);
        assert_eq!(session(label.key("main").as_bytes()), Some(0xab));
        assert_eq!(session(b"agent:main:main"), None);
        for name in [label.key("main"), label.run()] {
            assert_eq!(marked(name.as_bytes()).next(), None, "{name}");
        }
    }

    #[test]
    fn two_sessions_in_one_text_are_both_found() {
        let [one, two] = [1, 2].map(|session| Label { session, turn: 1 }.marker());
        assert_eq!(marked(format!("{one} {two} marker-no marker-").as_bytes()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_last_marker_is_that_of_the_newest_message() {
        let [one, two] = [1, 2].map(|turn| Label { session: 5, turn }.marker());
        assert_eq!(last_marker(format!("{one} {two} and more").as_bytes()), Some(two.as_bytes()));
        assert_eq!(last_marker(b"nothing"), None);
    }
}
