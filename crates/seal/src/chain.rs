//! The hash chain over a session's entries and the MAC over where it ends (isolation.md §2.8).
//!
//! `h_n = BLAKE3_keyed(K_chain, h_{n-1} ‖ seq ‖ BLAKE3(record_n))`. Reordering, cutting, doubling or editing entries
//! breaks a link; moving the end breaks the MAC.

use subtle::ConstantTimeEq;
use watertight_core::ids::{EntryId, SessionId};

use crate::key::Key;

/// The link before the first entry.
pub const START: [u8; 32] = [0; 32];

/// What the head's MAC covers: everything that says where a transcript ends and which one is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// The session's life.
    pub lifecycle: u32,
    /// The generation that ends here.
    pub generation: u32,
    /// Last entry of the session.
    pub seq: u64,
    /// The chain up to there.
    pub chain: &'a [u8; 32],
    /// Messages in the generation.
    pub message_seq: u32,
    /// Last entry of the generation.
    pub leaf: Option<EntryId>,
}

/// The chain keys of one session.
pub struct Chain {
    link: Key,
    head: Key,
    session: SessionId,
}

impl Chain {
    pub(crate) fn new(root: &Key, session: SessionId) -> Self {
        Self {
            link: root.derive("wt/chain/v1", session.as_bytes()),
            head: root.derive("wt/head/v1", session.as_bytes()),
            session,
        }
    }

    /// The link of entry `seq`, whose sealed record is `record`, after `previous`.
    pub fn link(&self, previous: &[u8; 32], seq: u64, record: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(self.link.as_bytes());
        hasher.update(previous);
        hasher.update(&seq.to_le_bytes());
        hasher.update(blake3::hash(record).as_bytes());
        hasher.finalize().into()
    }

    /// MAC over the session's head.
    pub fn head_mac(&self, end: &End<'_>) -> [u8; 32] {
        self.mac("head", end)
    }

    /// MAC over the end of a generation that is not live.
    pub fn closing_mac(&self, end: &End<'_>) -> [u8; 32] {
        self.mac("closing", end)
    }

    fn mac(&self, what: &str, end: &End<'_>) -> [u8; 32] {
        let leaf = end.leaf.as_ref().map_or(&[][..], |id| id.as_bytes());
        self.head.mac(&[
            what.as_bytes(),
            self.session.as_bytes(),
            &end.lifecycle.to_le_bytes(),
            &end.generation.to_le_bytes(),
            &end.seq.to_le_bytes(),
            end.chain,
            &end.message_seq.to_le_bytes(),
            leaf,
        ])
    }
}

/// Compares two MACs or links in constant time.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(session: u8) -> Chain {
        Chain::new(&Key::from_slice(&[5; 32]).unwrap(), SessionId::from_bytes([session; 16]))
    }

    #[test]
    fn a_link_depends_on_session_predecessor_place_and_content() {
        let link = chain(1).link(&START, 1, b"a");
        assert_eq!(link, chain(1).link(&START, 1, b"a"));
        for other in [
            chain(2).link(&START, 1, b"a"),
            chain(1).link(&[1; 32], 1, b"a"),
            chain(1).link(&START, 2, b"a"),
            chain(1).link(&START, 1, b"b"),
        ] {
            assert_ne!(link, other);
        }
    }

    #[test]
    fn a_head_mac_covers_every_field() {
        let end = End { lifecycle: 1, generation: 1, seq: 4, chain: &[3; 32], message_seq: 4, leaf: None };
        let mac = chain(1).head_mac(&end);
        let others = [
            End { lifecycle: 2, ..end.clone() },
            End { generation: 2, ..end.clone() },
            End { seq: 5, ..end.clone() },
            End { chain: &[4; 32], ..end.clone() },
            End { message_seq: 5, ..end.clone() },
            End { leaf: Some(EntryId::from_bytes([0; 16])), ..end.clone() },
        ];
        assert!(others.iter().all(|other| chain(1).head_mac(other) != mac));
        assert!(chain(2).head_mac(&end) != mac && chain(1).closing_mac(&end) != mac);
    }
}
