//! The text behind `deltaCursor` (gateway-ws.md §2.1). Clients keep it and give it back; what it says is nobody's but
//! ours, and it opens nothing: it is looked up under the caller.

use watertight_core::ids::{GenerationId, Seq};

/// The form of the text. Another one is of another version, and so stale.
const FORM: &str = "1";

/// A place in a transcript as text.
pub fn write(generation: &GenerationId, seq: Seq) -> String {
    format!("{FORM}.{}.{generation}", seq.0)
}

/// The place a text names; none where it is no cursor of ours.
pub fn read(text: &str) -> Option<(GenerationId, Seq)> {
    let mut parts = text.splitn(3, '.');
    let (form, seq, generation) = (parts.next()?, parts.next()?, parts.next()?);
    let plain = form == FORM && seq.bytes().all(|digit| digit.is_ascii_digit());
    let seq = seq.parse().ok().filter(|_| plain)?;
    Some((GenerationId::parse(generation).ok()?, Seq(seq)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for id in ["018f3c2e-aaaa-bbbb-cccc-000000000001", "a.b.c"] {
            let generation = GenerationId::parse(id).unwrap();
            assert_eq!(read(&write(&generation, Seq(7))), Some((generation, Seq(7))));
        }
    }

    #[test]
    fn anything_else_is_no_cursor() {
        for text in ["", "bogus", "1", "1.7", "1.7.", "2.7.g", "1.-7.g", "1.+7.g", "1..g", "1.99999999999999999999.g"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
