//! Receipts, cursors and ids of transcripts.

use watertight_core::ids::GenerationId;
use watertight_core::receipt::Receipt;
use watertight_wire::openclaw::cursor;

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(receipt) = text.parse::<Receipt>() {
        let written = receipt.to_string();
        assert_eq!(written.parse(), Ok(receipt));
        let same = |a: &str, b: &str| a.trim_start_matches('0').eq_ignore_ascii_case(b.trim_start_matches('0'));
        assert!(text.split(':').zip(written.split(':')).all(|(a, b)| same(a, b)), "{text:?} became {written}");
    }
    if let Ok(receipt) = serde_json::from_str::<Receipt>(text) {
        let written = serde_json::to_string(&receipt).expect("a receipt is JSON");
        assert_eq!(serde_json::from_str::<Receipt>(&written).ok(), Some(receipt));
    }
    if let Some((generation, seq)) = cursor::read(text) {
        assert_eq!(cursor::read(&cursor::write(&generation, seq)), Some((generation, seq)));
    }
    if let Ok(id) = GenerationId::parse(text) {
        assert_eq!(GenerationId::parse(id.as_str()), Ok(id));
    }
}
