//! Tokens. The input is tried as the text of one, and is what another one is made of and changed by.

use watertight_seal::device::DeviceKey;
use watertight_seal::token::{Token, TokenKind};

pub(crate) fn check(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        reads_back(text);
        device_key(text);
    }
    made_and_changed(data);
}

/// A text that is a token is the only text of it.
fn reads_back(text: &str) {
    let Ok(token) = Token::parse(text) else { return };
    assert_eq!(*token.expose(), text);
    assert!(text.starts_with(token.kind().prefix()) && text.contains(token.id().as_str()));
    assert_eq!(format!("{token:?}"), "Token");
}

/// Nobody's word proves a key.
fn device_key(text: &str) {
    if let Ok(key) = DeviceKey::parse(text) {
        let _ = key.id();
        assert!(key.prove(&[text.to_owned()], text).is_err(), "{text} signs for itself");
    }
}

fn made_and_changed(data: &[u8]) {
    let Some(([kind, at, id @ .., _], rest)) = data.split_first_chunk::<11>() else { return };
    let Some((secret, splice)) = rest.split_first_chunk::<32>() else { return };
    let kind = TokenKind::ALL[usize::from(*kind) % TokenKind::ALL.len()];
    let body = format!("{}{}_{}", kind.prefix(), hex(id), hex(secret));
    let text = format!("{body}_{:08x}", crc32fast::hash(body.as_bytes()));
    let token = Token::parse(&text).expect("a token with its own checksum");
    assert_eq!((token.kind(), &**token.expose()), (kind, &*text));

    // Something else in a place of it is another text, and a CRC finds every change within 32 bits.
    let at = usize::from(*at) % text.len();
    let splice = &splice[..splice.len().min(4).min(text.len() - at)];
    let mut changed = text.clone().into_bytes();
    changed[at..at + splice.len()].copy_from_slice(splice);
    if let Ok(changed) = String::from_utf8(changed) {
        let within = at >= kind.prefix().len() && at + splice.len() < body.len();
        assert!(!within || Token::parse(&changed).is_ok() == (changed == text), "{at}");
        reads_back(&changed);
    }
    for cut in [&text[..at], &text[at + 1..], &format!("{text} "), &format!(" {text}"), &format!("{text}0")] {
        assert!(Token::parse(cut).is_err(), "a part of a token is a token");
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}
