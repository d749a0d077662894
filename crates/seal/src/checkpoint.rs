//! Checkpoints of a store: a keyed sum over where every session ends, and the MAC over a checkpoint's line
//! (isolation.md §2.8).
//!
//! The sum is over the keyed hashes of all heads, modulo 2^256: it does not depend on an order, and a session that
//! changes is taken out and put in again without a look at the others. Without the key no hash is known, so no other set
//! of heads can be made to give the same sum.

use watertight_core::ids::{SessionId, TenantId};

use crate::key::Key;

/// Signs checkpoints and hashes heads.
pub struct Signer {
    line: Key,
    head: Key,
}

impl Signer {
    pub(crate) fn new(pepper: &Key) -> Self {
        Self { line: pepper.derive("wt/checkpoint/v1", b""), head: pepper.derive("wt/checkpoint-head/v1", b"") }
    }

    /// MAC over a checkpoint's line.
    pub fn sign(&self, line: &[u8]) -> [u8; 32] {
        self.line.mac(&[line])
    }

    /// What a session that ends here adds to the sum.
    pub fn head(&self, tenant: TenantId, session: SessionId, seq: u64, chain: &[u8; 32]) -> HeadSum {
        let hash = self.head.mac(&[tenant.as_bytes(), session.as_bytes(), &seq.to_le_bytes(), chain]);
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(hash.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        HeadSum(limbs)
    }
}

/// The sum over a set of heads; starts at none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadSum([u64; 4]);

impl HeadSum {
    /// With another set's heads.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let (mut sum, mut carry) = ([0; 4], false);
        for (to, (a, b)) in sum.iter_mut().zip(self.0.into_iter().zip(other.0)) {
            let (partial, first) = a.overflowing_add(b);
            let (whole, second) = partial.overflowing_add(u64::from(carry));
            (*to, carry) = (whole, first || second);
        }
        Self(sum)
    }

    /// Without the heads of a set that is in it.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        // Two's complement: the other's bits turned, and one more.
        self.plus(Self(other.0.map(|limb| !limb))).plus(Self([1, 0, 0, 0]))
    }

    /// The sum as it is written down.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *to = limb.to_le_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signer() -> Signer {
        Signer::new(&Key::from_slice(&[3; 32]).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_taken_out_leaves_the_sum_of_the_rest(a: [u64; 4], b: [u64; 4], c: [u64; 4]) {
            let (a, b, c) = (HeadSum(a), HeadSum(b), HeadSum(c));
            prop_assert_eq!(a.plus(b).plus(c).minus(b), c.plus(a));
            prop_assert_eq!(a.minus(a), HeadSum::default());
        }
    }

    #[test]
    fn a_head_depends_on_tenant_session_place_and_chain() {
        let head = |tenant, session, seq, chain| {
            signer().head(TenantId::from_bytes([tenant; 16]), SessionId::from_bytes([session; 16]), seq, &[chain; 32])
        };
        let here = head(1, 1, 1, 1);
        assert_eq!(here, head(1, 1, 1, 1));
        for other in [head(2, 1, 1, 1), head(1, 2, 1, 1), head(1, 1, 2, 1), head(1, 1, 1, 2)] {
            assert_ne!(here, other);
        }
        assert_ne!(here.to_bytes(), HeadSum::default().to_bytes());
    }

    #[test]
    fn a_signature_is_of_one_line_and_one_key() {
        let other = Signer::new(&Key::from_slice(&[4; 32]).unwrap());
        assert_eq!(signer().sign(b"a"), signer().sign(b"a"));
        assert!(signer().sign(b"a") != signer().sign(b"b") && signer().sign(b"a") != other.sign(b"a"));
    }
}
