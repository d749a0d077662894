//! Hashed session names for providers in header mode `hashed` (product.md decision 9).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use watertight_core::SessionScope;
use watertight_core::ids::{GenerationId, SessionId, TenantId};

use crate::key::Key;

/// What a provider in mode `hashed` sees instead of a session's names: stable over restarts, the same for no two
/// sessions or tenants, and nothing can be read from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HashedNames {
    /// In place of the session key: `wt1_` and 43 characters of base64url.
    pub session_key: String,
    /// In place of the generation: the same form.
    pub session_id: String,
}

impl HashedNames {
    pub(crate) fn of_scope(names: &Key, scope: &SessionScope) -> Self {
        Self::new(names, scope.tenant(), scope.session(), scope.generation())
    }

    fn new(names: &Key, tenant: TenantId, session: SessionId, generation: &GenerationId) -> Self {
        let text = |hash: [u8; 32]| format!("wt1_{}", URL_SAFE_NO_PAD.encode(hash));
        let (tenant, session) = (tenant.as_bytes().as_slice(), session.as_bytes().as_slice());
        Self {
            session_key: text(names.mac(&[b"session", tenant, session])),
            session_id: text(names.mac(&[b"generation", tenant, session, generation.as_str().as_bytes()])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_names_are_stable_and_differ_by_tenant_session_and_generation() {
        let key = Key::from_slice(&[9; 32]).unwrap();
        let name = |tenant, session, generation| {
            let generation = GenerationId::parse(generation).unwrap();
            HashedNames::new(
                &key,
                TenantId::from_bytes([tenant; 16]),
                SessionId::from_bytes([session; 16]),
                &generation,
            )
        };
        let here = name(1, 1, "g1");
        assert_eq!(here, name(1, 1, "g1"));
        assert!(here.session_key.starts_with("wt1_") && here.session_key.len() == 47);
        assert!(name(1, 1, "g2").session_key == here.session_key && name(1, 1, "g2").session_id != here.session_id);
        for other in [name(2, 1, "g1"), name(1, 2, "g1")] {
            assert!(other.session_key != here.session_key && other.session_id != here.session_id);
        }
        assert_ne!(here.session_key, here.session_id);
    }
}
