//! Event streams. The first bytes say how the rest is cut into pieces.

use watertight_provider::sse::{SseError, SseEvent, SseLimits, SseParser};

const LIMITS: SseLimits = SseLimits { line: 200, event: 300 };
/// For what was written again: no spelling of an event within [`LIMITS`] is beyond these.
const WIDE: SseLimits = SseLimits { line: 1_000, event: 1_000 };

pub(crate) fn check(data: &[u8]) {
    let Some((cuts, stream)) = data.split_first_chunk::<4>() else { return };
    let whole = parse([stream], LIMITS);
    assert_eq!(parse(stream.chunks(1), LIMITS), whole, "byte by byte");
    assert_eq!(parse(pieces(stream, cuts), LIMITS), whole, "in pieces of {cuts:?}");

    let (events, end) = whole;
    for event in &events {
        assert!(!event.data.is_empty() && event.data.len() <= LIMITS.event, "{event:?}");
        assert!(event.event.as_ref().is_none_or(|name| !name.is_empty()), "{event:?}");
        assert!(!event.data.contains('\r'), "{event:?}");
    }
    let again = events.iter().map(write).collect::<String>();
    assert_eq!(parse([again.as_bytes()], WIDE), (events, Ok(())), "written again after {end:?}");
}

fn pieces<'a>(mut rest: &'a [u8], cuts: &[u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = (*cuts).into_iter().cycle();
    std::iter::from_fn(move || {
        let size = usize::from(sizes.next()?) % 32;
        let (piece, after) = rest.split_at(size.max(1).min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: SseLimits) -> (Vec<SseEvent>, Result<(), SseError>) {
    let mut parser = SseParser::new(limits);
    let mut events = Vec::new();
    for piece in pieces {
        if let Err(error) = parser.feed(piece, &mut events) {
            return (events, Err(error));
        }
    }
    match parser.finish() {
        Ok(last) => events.extend(last),
        Err(error) => return (events, Err(error)),
    }
    (events, Ok(()))
}

fn write(event: &SseEvent) -> String {
    let name = event.event.iter().map(|name| format!("event: {name}\n"));
    let data = event.data.split('\n').map(|line| format!("data: {line}\n"));
    name.chain(data).chain(["\n".to_owned()]).collect()
}
