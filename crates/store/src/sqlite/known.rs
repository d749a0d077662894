//! Sessions that were looked up or written lately: which session a key names, without asking the database again.
//!
//! One process writes a store, and every write of a session's row tells what it became, so what is known here is what
//! is stored. Bounded; what is not known is looked up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use watertight_core::ids::TenantId;
use watertight_core::key::CanonicalKey;
use watertight_core::session::SessionRecord;

/// Sessions at the most, a few hundred bytes each.
const MOST: usize = 8_192;

/// By tenant and key.
#[derive(Default)]
pub(super) struct Known {
    sessions: Mutex<HashMap<(TenantId, CanonicalKey), SessionRecord>>,
}

impl Known {
    pub(super) fn get(&self, tenant: TenantId, key: &CanonicalKey) -> Option<SessionRecord> {
        self.lock().get(&(tenant, key.clone())).cloned()
    }

    /// Remembers a session as it was read or written. What was read before a write may be told after it: the later life
    /// stays.
    pub(super) fn put(&self, record: &SessionRecord) {
        let mut sessions = self.lock();
        let name = (record.tenant(), record.key().clone());
        if sessions.get(&name).is_some_and(|known| known.lifecycle() > record.lifecycle()) {
            return;
        }
        if sessions.len() >= MOST
            && !sessions.contains_key(&name)
            && let Some(any) = sessions.keys().next().cloned()
        {
            sessions.remove(&any);
        }
        sessions.insert(name, record.clone());
    }

    /// Forgets what is not there any more.
    pub(super) fn forget(&self, gone: impl Fn(&SessionRecord) -> bool) {
        self.lock().retain(|_, record| !gone(record));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, CanonicalKey), SessionRecord>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_core::ids::{GenerationId, GenerationNo, Lifecycle, PrincipalId, SessionId, UnixMillis};
    use watertight_core::session::SessionColumns;

    fn session(key: &str, life: u32) -> SessionRecord {
        crate::sqlite::rows::session_record(SessionColumns {
            tenant: TenantId::from_bytes([1; 16]),
            id: SessionId::from_bytes([2; 16]),
            key: CanonicalKey::from_stored(key),
            owner: PrincipalId::from_bytes([3; 16]),
            generation: GenerationId::parse("g").unwrap(),
            generation_no: GenerationNo(1),
            lifecycle: Lifecycle(life),
            created_at: UnixMillis(0),
            draft: false,
        })
    }

    #[test]
    fn what_was_read_before_a_write_does_not_replace_it() {
        let known = Known::default();
        known.put(&session("agent:main:a", 2));
        known.put(&session("agent:main:a", 1));
        let key = CanonicalKey::from_stored("agent:main:a");
        assert_eq!(known.get(TenantId::from_bytes([1; 16]), &key).unwrap().lifecycle(), Lifecycle(2));
        assert!(known.get(TenantId::from_bytes([9; 16]), &key).is_none());
    }

    #[test]
    fn the_number_is_bounded() {
        let known = Known::default();
        for n in 0..MOST + 10 {
            known.put(&session(&format!("agent:main:{n}"), 1));
        }
        assert_eq!(known.lock().len(), MOST);
    }
}
