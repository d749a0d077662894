//! Server-sent events, parsed from bytes as they arrive.
//!
//! Follows the event stream grammar of the HTML standard: lines end with LF, CR or CR LF, a leading byte order mark is
//! ignored, comments are skipped, several `data` lines are joined by LF. Pure: how the bytes are cut never changes the
//! events. Bounded: a line or an event larger than its limit is an error, found before it is held in memory.

use std::str;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent {
    /// Its name; none for the default.
    pub event: Option<String>,
    /// Its data; never empty.
    pub data: String,
}

/// Why a stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line is longer than allowed.
    #[error("a line is longer than allowed")]
    LineTooLong,
    /// The data of one event is larger than allowed.
    #[error("an event is larger than allowed")]
    EventTooLarge,
    /// A line is not UTF-8.
    #[error("a line is not UTF-8")]
    NotUtf8,
}

/// Sizes a stream must keep to, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct SseLimits {
    /// One line.
    pub line: usize,
    /// The data of one event.
    pub event: usize,
}

/// The parser. After an error or [`Self::finish`] it must not be fed again.
#[derive(Debug)]
pub struct SseParser {
    limits: SseLimits,
    line: Vec<u8>,
    /// The last byte was a CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    first_line: bool,
    event: Option<String>,
    data: String,
    has_data: bool,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl SseParser {
    /// A parser at the start of a stream.
    pub fn new(limits: SseLimits) -> Self {
        Self {
            limits,
            line: Vec::new(),
            after_cr: false,
            first_line: true,
            event: None,
            data: String::new(),
            has_data: false,
        }
    }

    /// Takes the next bytes; complete events are appended to `events`, also those before an error.
    pub fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + piece.len() > self.limits.line {
                return Err(SseError::LineTooLong);
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { break };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(events)?;
        }
        Ok(())
    }

    /// The stream is over. The standard drops an event without its blank line; servers that close right after their
    /// last line exist, so what there is of it is given out here.
    pub fn finish(&mut self) -> Result<Option<SseEvent>, SseError> {
        let mut events = Vec::new();
        self.end_line(&mut events)?;
        self.dispatch(&mut events);
        Ok(events.pop())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let mut rest = &line[..];
        if std::mem::take(&mut self.first_line) {
            rest = rest.strip_prefix(BYTE_ORDER_MARK).unwrap_or(rest);
        }
        let text = str::from_utf8(rest).map_err(|_| SseError::NotUtf8)?;
        if text.is_empty() {
            self.dispatch(events);
        } else {
            let (field, value) = text.split_once(':').unwrap_or((text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => self.add_data(value)?,
                "event" => self.event = (!value.is_empty()).then(|| value.to_owned()),
                // A comment has an empty name; `id` and `retry` serve reconnection, which a model call has not.
                _ => {}
            }
        }
        // Keep the allocation for the next line.
        self.line = line;
        self.line.clear();
        Ok(())
    }

    fn add_data(&mut self, value: &str) -> Result<(), SseError> {
        if self.data.len() + value.len() + 1 > self.limits.event {
            return Err(SseError::EventTooLarge);
        }
        if self.has_data {
            self.data.push('\n');
        }
        self.has_data = true;
        self.data.push_str(value);
        Ok(())
    }

    fn dispatch(&mut self, events: &mut Vec<SseEvent>) {
        let event = self.event.take();
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) && !data.is_empty() {
            events.push(SseEvent { event, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: SseLimits = SseLimits { line: 64, event: 128 };

    fn parse(pieces: &[&[u8]]) -> Result<Vec<SseEvent>, SseError> {
        let mut parser = SseParser::new(LIMITS);
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut events)?;
        }
        events.extend(parser.finish()?);
        Ok(events)
    }

    fn data(text: &str) -> SseEvent {
        SseEvent { event: None, data: text.into() }
    }

    #[test]
    fn every_line_end_ends_a_line() {
        for stream in ["data: a\n\ndata: b\n\n", "data: a\r\n\r\ndata: b\r\n\r\n", "data: a\r\rdata: b\r\r"] {
            assert_eq!(parse(&[stream.as_bytes()]).unwrap(), [data("a"), data("b")], "{stream:?}");
        }
    }

    #[test]
    fn names_comments_marks_and_several_data_lines_are_understood() {
        let stream = "\u{feff}: hello\nevent: error\nid: 7\nretry: 1\ndata: {\ndata:}\ndata:  x\n\nevent: gone\n\ndata\n\ndata: [DONE]";
        let expected = [SseEvent { event: Some("error".into()), data: "{\n}\n x".into() }, data("[DONE]")];
        assert_eq!(parse(&[stream.as_bytes()]).unwrap(), expected);
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        assert_eq!(parse(&[&[b'x'; 65]]), Err(SseError::LineTooLong));
        assert_eq!(parse(&[&[b'x'; 40], &[b'x'; 40]]), Err(SseError::LineTooLong));
        let lines = "data: 0123456789012345678901234567890123456789\n".repeat(4);
        assert_eq!(parse(&[lines.as_bytes()]), Err(SseError::EventTooLarge));
        assert_eq!(parse(&[b"data: \xff\n\n"]), Err(SseError::NotUtf8));
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("data: a"),
            Just("data:é日"),
            Just("data"),
            Just("event: e"),
            Just(": c"),
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\u{feff}"),
            Just(" "),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn how_a_stream_is_cut_never_changes_its_events(
            stream in streams(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&stream[from..cut]);
                from = cut;
            }
            pieces.push(&stream[from..]);
            prop_assert_eq!(parse(&pieces), parse(&[&stream]));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&[&bytes]);
        }
    }
}
