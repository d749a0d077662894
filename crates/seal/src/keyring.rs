//! The key hierarchy (isolation.md §2.8): the master key wraps each tenant's key, that wraps the tenant's shred-epoch
//! keys and index root, and an epoch key wraps the data key of each session.
//!
//! A tenant has one epoch, and more while it turns from one to the next: new data keys are wrapped by the newest epoch's
//! key, the others open under theirs until they are wrapped anew.
//!
//! Wrapped keys are bytes for the keystore; opened keys never leave this crate.

use std::collections::BTreeMap;
use std::sync::Arc;

use watertight_core::SessionScope;
use watertight_core::ids::{GenerationId, PrincipalId, RunId, SessionId, TenantId};
use watertight_core::key::CanonicalKey;

use crate::SealError;
use crate::chain::{Chain, same};
use crate::checkpoint::Signer;
use crate::key::{Aad, Key};
use crate::master::MasterKey;
use crate::names::HashedNames;
use crate::record::DataKey;
use crate::token::TokenHasher;

const WRAP_VERSION: u8 = 1;
const WRAP_ALGORITHM: u8 = 1;
const NOBODY: [u8; 16] = [0; 16];

/// Whose key is wrapped, and where in the hierarchy it stands. Bound into the wrapping.
struct Slot<'a> {
    level: &'static str,
    tenant: &'a [u8; 16],
    session: &'a [u8; 16],
    generation: u32,
}

impl Slot<'_> {
    fn aad(&self) -> Aad {
        Aad::new("wt/wrap/v1")
            .field(&[WRAP_VERSION, WRAP_ALGORITHM])
            .field(self.level.as_bytes())
            .field(self.tenant)
            .field(self.session)
            .field(&self.generation.to_le_bytes())
    }
}

fn wrap(under: &Key, slot: &Slot<'_>, key: &Key) -> Result<Vec<u8>, SealError> {
    let mut wrapped = vec![WRAP_VERSION, WRAP_ALGORITHM];
    under.seal_into(slot.aad().as_bytes(), key.as_bytes(), &mut wrapped)?;
    Ok(wrapped)
}

fn unwrap(under: &Key, slot: &Slot<'_>, wrapped: &[u8]) -> Result<Key, SealError> {
    let [WRAP_VERSION, WRAP_ALGORITHM, sealed @ ..] = wrapped else { return Err(SealError::Wrap) };
    let bytes = under.open(slot.aad().as_bytes(), sealed).ok_or(SealError::Wrap)?;
    Key::from_slice(&bytes).ok_or(SealError::Wrap)
}

/// The top of the hierarchy: opens and makes tenants' keys.
pub struct Root {
    key: Key,
}

impl Root {
    const PEPPER: Slot<'static> = Slot { level: "pepper", tenant: &NOBODY, session: &NOBODY, generation: 0 };

    /// The root that stands on this master key.
    pub fn new(master: &MasterKey) -> Self {
        Self { key: master.wrapping_key() }
    }

    /// A new pepper and its wrapped form. Opening that form is also the proof that a master key is the right one.
    pub fn create_pepper(&self) -> Result<(TokenHasher, Vec<u8>), SealError> {
        let pepper = Key::random()?;
        let wrapped = wrap(&self.key, &Self::PEPPER, &pepper)?;
        Ok((TokenHasher::new(pepper), wrapped))
    }

    /// Opens the pepper; [`SealError::Wrap`] when the master key is another one.
    pub fn open_pepper(&self, wrapped: &[u8]) -> Result<TokenHasher, SealError> {
        unwrap(&self.key, &Self::PEPPER, wrapped).map(TokenHasher::new)
    }

    /// Keys for a new tenant.
    pub fn create_tenant(&self, tenant: TenantId) -> Result<(TenantKeys, WrappedTenant), SealError> {
        let (key, index_root, epoch_key) = (Key::random()?, Key::random()?, Key::random()?);
        let wrapped = WrappedTenant {
            key: wrap(&self.key, &tenant_slot(&tenant), &key)?,
            index_root: wrap(&key, &index_slot(&tenant), &index_root)?,
            epoch: 1,
            epochs: vec![WrappedEpoch { epoch: 1, key: wrap(&key, &epoch_slot(&tenant, 1), &epoch_key)? }],
        };
        Ok((TenantKeys::new(tenant, &index_root, 1, BTreeMap::from([(1, Arc::new(epoch_key))])), wrapped))
    }

    /// Opens a tenant's keys. The newest epoch must open; an older one that does not is left out, and the data keys under
    /// it do not open.
    pub fn open_tenant(&self, tenant: TenantId, wrapped: &WrappedTenant) -> Result<TenantKeys, SealError> {
        let key = unwrap(&self.key, &tenant_slot(&tenant), &wrapped.key)?;
        let index_root = unwrap(&key, &index_slot(&tenant), &wrapped.index_root)?;
        let mut epochs = BTreeMap::new();
        for epoch in &wrapped.epochs {
            if let Ok(key) = unwrap(&key, &epoch_slot(&tenant, epoch.epoch), &epoch.key) {
                epochs.insert(epoch.epoch, Arc::new(key));
            }
        }
        if !epochs.contains_key(&wrapped.epoch) {
            return Err(SealError::Wrap);
        }
        Ok(TenantKeys::new(tenant, &index_root, wrapped.epoch, epochs))
    }

    /// The key of the epoch after the tenant's newest, and its wrapped form, to be synced before the key is used.
    pub fn next_epoch(&self, tenant: TenantId, wrapped: &WrappedTenant) -> Result<(EpochKey, WrappedEpoch), SealError> {
        let tenant_key = unwrap(&self.key, &tenant_slot(&tenant), &wrapped.key)?;
        let epoch = wrapped.epoch.checked_add(1).ok_or(SealError::Wrap)?;
        let key = Key::random()?;
        let sealed = wrap(&tenant_key, &epoch_slot(&tenant, epoch), &key)?;
        Ok((EpochKey { epoch, key: Arc::new(key) }, WrappedEpoch { epoch, key: sealed }))
    }

    /// The same keys under a new tenant key. Fails when one of them does not open: it would be lost.
    pub fn renew_tenant(&self, tenant: TenantId, wrapped: &WrappedTenant) -> Result<WrappedTenant, SealError> {
        let old = unwrap(&self.key, &tenant_slot(&tenant), &wrapped.key)?;
        let new = Key::random()?;
        let again = |slot: &Slot<'_>, sealed: &[u8]| wrap(&new, slot, &unwrap(&old, slot, sealed)?);
        let epochs = wrapped.epochs.iter().map(|WrappedEpoch { epoch, key }| {
            Ok(WrappedEpoch { epoch: *epoch, key: again(&epoch_slot(&tenant, *epoch), key)? })
        });
        Ok(WrappedTenant {
            key: wrap(&self.key, &tenant_slot(&tenant), &new)?,
            index_root: again(&index_slot(&tenant), &wrapped.index_root)?,
            epoch: wrapped.epoch,
            epochs: epochs.collect::<Result<_, SealError>>()?,
        })
    }

    /// A tenant's key that `former` wrapped, under this root.
    pub fn adopt_tenant_key(&self, former: &Self, tenant: TenantId, key: &[u8]) -> Result<Vec<u8>, SealError> {
        let slot = tenant_slot(&tenant);
        wrap(&self.key, &slot, &unwrap(&former.key, &slot, key)?)
    }

    /// The pepper that `former` wrapped, under this root.
    pub fn adopt_pepper(&self, former: &Self, wrapped: &[u8]) -> Result<Vec<u8>, SealError> {
        wrap(&self.key, &Self::PEPPER, &unwrap(&former.key, &Self::PEPPER, wrapped)?)
    }

    /// Signs checkpoints. Its key hangs on the pepper, so that checkpoints outlive a new master key.
    pub fn open_signer(&self, pepper: &[u8]) -> Result<Signer, SealError> {
        unwrap(&self.key, &Self::PEPPER, pepper).map(|pepper| Signer::new(&pepper))
    }
}

fn tenant_slot(tenant: &TenantId) -> Slot<'_> {
    Slot { level: "tenant", tenant: tenant.as_bytes(), session: &NOBODY, generation: 0 }
}

fn index_slot(tenant: &TenantId) -> Slot<'_> {
    Slot { level: "index", tenant: tenant.as_bytes(), session: &NOBODY, generation: 0 }
}

fn epoch_slot(tenant: &TenantId, epoch: u32) -> Slot<'_> {
    Slot { level: "epoch", tenant: tenant.as_bytes(), session: &NOBODY, generation: epoch }
}

/// A tenant's keys as the keystore holds them.
#[derive(Clone, Debug)]
pub struct WrappedTenant {
    /// The tenant key, under the master key.
    pub key: Vec<u8>,
    /// The root of index, chain and name keys, under the tenant key.
    pub index_root: Vec<u8>,
    /// Number of the newest shred epoch.
    pub epoch: u32,
    /// Every epoch whose key is still there.
    pub epochs: Vec<WrappedEpoch>,
}

/// The key of a shred epoch as the keystore holds it.
#[derive(Clone, Debug)]
pub struct WrappedEpoch {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Its key, under the tenant key.
    pub key: Vec<u8>,
}

/// The opened key of a new shred epoch, for [`TenantKeys::turned`].
pub struct EpochKey {
    epoch: u32,
    key: Arc<Key>,
}

/// A session's data key as the keystore holds it.
#[derive(Clone, Debug)]
pub struct WrappedDataKey {
    /// The shred epoch whose key wraps it.
    pub epoch: u32,
    /// The key, under the epoch key.
    pub key: Vec<u8>,
    /// Which key it is: the cipher alone would accept another one that fits a forged record.
    pub commitment: [u8; 32],
}

/// The opened keys of one tenant.
pub struct TenantKeys {
    tenant: TenantId,
    /// The newest epoch; its key is there.
    epoch: u32,
    epochs: BTreeMap<u32, Arc<Key>>,
    lasting: Arc<Lasting>,
}

/// The keys that every epoch has in common.
struct Lasting {
    index: Key,
    idempotency: Key,
    names: Key,
    chain_root: Key,
    authority: Key,
    own: DataKey,
}

impl TenantKeys {
    fn new(tenant: TenantId, root: &Key, epoch: u32, epochs: BTreeMap<u32, Arc<Key>>) -> Self {
        let lasting = Lasting {
            index: root.derive("wt/idx/v1", b""),
            idempotency: root.derive("wt/idem/v1", b""),
            names: root.derive("wt/name/v1", b""),
            chain_root: root.derive("wt/chain-root/v1", b""),
            authority: root.derive("wt/authority/v1", b""),
            own: DataKey::new(root.derive("wt/meta/v1", b""), tenant, SessionId::from_bytes(NOBODY), 0),
        };
        Self { tenant, epoch, epochs, lasting: Arc::new(lasting) }
    }

    /// The same keys with a new epoch as the newest.
    #[must_use]
    pub fn turned(&self, to: EpochKey) -> Self {
        let mut epochs = self.epochs.clone();
        epochs.insert(to.epoch, to.key);
        Self { tenant: self.tenant, epoch: to.epoch, epochs, lasting: self.lasting.clone() }
    }

    /// The same keys without the older epochs but for these.
    #[must_use]
    pub fn keeping(&self, older: &[u32]) -> Self {
        let kept = |epoch: &u32| *epoch == self.epoch || older.contains(epoch);
        let epochs = self.epochs.iter().filter(|(epoch, _)| kept(epoch)).map(|(no, key)| (*no, key.clone())).collect();
        Self { tenant: self.tenant, epoch: self.epoch, epochs, lasting: self.lasting.clone() }
    }

    /// The newest epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the key of this epoch is open.
    pub fn knows_epoch(&self, epoch: u32) -> bool {
        self.epochs.contains_key(&epoch)
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Seals what belongs to the tenant and to no session, such as the key prefix of a grant.
    pub fn own(&self) -> &DataKey {
        &self.lasting.own
    }

    /// A new data key for a session, and its wrapped form, to be synced before anything is sealed with the key.
    pub fn create_data_key(&self, session: SessionId, key_gen: u32) -> Result<(DataKey, WrappedDataKey), SealError> {
        let key = Key::random()?;
        let wrapped = self.wrap_data_key(session, key_gen, &key)?;
        Ok((DataKey::new(key, self.tenant, session, key_gen), wrapped))
    }

    /// Opens a session's data key and checks its commitment.
    pub fn open_data_key(
        &self,
        session: SessionId,
        key_gen: u32,
        wrapped: &WrappedDataKey,
    ) -> Result<DataKey, SealError> {
        let key = self.unwrap_data_key(session, key_gen, wrapped)?;
        Ok(DataKey::new(key, self.tenant, session, key_gen))
    }

    /// The same data key under the newest epoch. Checks its commitment.
    pub fn rewrap_data_key(
        &self,
        session: SessionId,
        key_gen: u32,
        wrapped: &WrappedDataKey,
    ) -> Result<WrappedDataKey, SealError> {
        self.wrap_data_key(session, key_gen, &self.unwrap_data_key(session, key_gen, wrapped)?)
    }

    fn wrap_data_key(&self, session: SessionId, key_gen: u32, key: &Key) -> Result<WrappedDataKey, SealError> {
        let under = self.epochs.get(&self.epoch).ok_or(SealError::Wrap)?;
        Ok(WrappedDataKey {
            epoch: self.epoch,
            key: wrap(under, &self.data_slot(&session, key_gen), key)?,
            commitment: commitment(key),
        })
    }

    fn unwrap_data_key(&self, session: SessionId, key_gen: u32, wrapped: &WrappedDataKey) -> Result<Key, SealError> {
        let under = self.epochs.get(&wrapped.epoch).ok_or(SealError::Wrap)?;
        let key = unwrap(under, &self.data_slot(&session, key_gen), &wrapped.key)?;
        if same(&commitment(&key), &wrapped.commitment) { Ok(key) } else { Err(SealError::Commitment) }
    }

    fn data_slot<'a>(&'a self, session: &'a SessionId, key_gen: u32) -> Slot<'a> {
        Slot { level: "data", tenant: self.tenant.as_bytes(), session: session.as_bytes(), generation: key_gen }
    }

    /// The chain keys of a session.
    pub fn chain(&self, session: SessionId) -> Chain {
        Chain::new(&self.lasting.chain_root, session)
    }

    /// What a session is looked up by.
    pub fn key_hash(&self, key: &CanonicalKey) -> [u8; 32] {
        self.lasting.index.mac(&[b"key", key.as_str().as_bytes()])
    }

    /// What sessions under these leading segments are listed by.
    pub fn prefix_hash<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> [u8; 32] {
        let mut fields: Vec<&[u8]> = vec![b"prefix"];
        fields.extend(segments.into_iter().map(str::as_bytes));
        self.lasting.index.mac(&fields)
    }

    /// What a generation is looked up by.
    pub fn generation_hash(&self, id: &GenerationId) -> [u8; 32] {
        self.lasting.index.mac(&[b"generation", id.as_str().as_bytes()])
    }

    /// What a session's label is looked up by.
    pub fn label_hash(&self, label: &str) -> [u8; 32] {
        self.lasting.index.mac(&[b"label", label.as_bytes()])
    }

    /// What a principal is looked up by.
    pub fn principal_hash(&self, name: &str) -> [u8; 32] {
        self.lasting.index.mac(&[b"principal", name.as_bytes()])
    }

    /// What a principal's run is looked up by.
    pub fn run_hash(&self, principal: PrincipalId, id: &RunId) -> [u8; 32] {
        self.lasting.idempotency.mac(&[principal.as_bytes(), id.as_str().as_bytes()])
    }

    /// MAC over a plain row that says who may do what: its table and its columns, in one order.
    pub fn authority_mac(&self, table: &'static str, columns: &[&[u8]]) -> [u8; 32] {
        let fields: Vec<&[u8]> =
            [table.as_bytes(), self.tenant.as_bytes()].into_iter().chain(columns.iter().copied()).collect();
        self.lasting.authority.mac(&fields)
    }

    /// The session's names as a provider in mode `hashed` sees them.
    pub fn hashed_names(&self, scope: &SessionScope) -> HashedNames {
        HashedNames::of_scope(&self.lasting.names, scope)
    }
}

fn commitment(key: &Key) -> [u8; 32] {
    blake3::derive_key("wt/commit/v1", key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Place;

    const PLACE: Place<'static> =
        Place { lifecycle: 0, generation: 1, table: "t", column: "c", row: b"", seq: 0, role: 0 };

    fn root(byte: u8) -> Root {
        Root::new(&MasterKey::from_slice(&[byte; 32]).unwrap())
    }

    fn tenant(byte: u8) -> TenantId {
        TenantId::from_bytes([byte; 16])
    }

    fn session(byte: u8) -> SessionId {
        SessionId::from_bytes([byte; 16])
    }

    #[test]
    fn a_data_key_reopened_through_the_whole_hierarchy_opens_its_records() {
        let (keys, wrapped) = root(1).create_tenant(tenant(1)).unwrap();
        let (data, wrapped_data) = keys.create_data_key(session(1), 1).unwrap();
        let record = data.seal(&PLACE, b"hello").unwrap();
        let again = root(1).open_tenant(tenant(1), &wrapped).unwrap();
        let data = again.open_data_key(session(1), 1, &wrapped_data).unwrap();
        assert_eq!(&**data.open(&PLACE, &record).unwrap(), b"hello");
        let key = CanonicalKey::from_stored("agent:main:main");
        assert_eq!(keys.key_hash(&key), again.key_hash(&key));
    }

    #[test]
    fn another_master_key_opens_nothing() {
        let (_, wrapped) = root(1).create_tenant(tenant(1)).unwrap();
        assert_eq!(root(2).open_tenant(tenant(1), &wrapped).err(), Some(SealError::Wrap));
        let (_, pepper) = root(1).create_pepper().unwrap();
        assert_eq!(root(2).open_pepper(&pepper).err(), Some(SealError::Wrap));
        assert!(root(1).open_pepper(&pepper).is_ok());
    }

    #[test]
    fn a_wrapped_key_opens_only_in_its_own_slot() {
        let (keys, wrapped) = root(1).create_tenant(tenant(1)).unwrap();
        assert!(root(1).open_tenant(tenant(2), &wrapped).is_err());
        let swapped = WrappedTenant { index_root: wrapped.epochs[0].key.clone(), ..wrapped.clone() };
        assert!(root(1).open_tenant(tenant(1), &swapped).is_err());
        assert!(root(1).open_tenant(tenant(1), &WrappedTenant { epoch: 2, ..wrapped }).is_err());

        let (_, data) = keys.create_data_key(session(1), 1).unwrap();
        assert!(keys.open_data_key(session(2), 1, &data).is_err());
        assert!(keys.open_data_key(session(1), 2, &data).is_err());
        let (other, _) = root(1).create_tenant(tenant(2)).unwrap();
        assert!(other.open_data_key(session(1), 1, &data).is_err());
    }

    #[test]
    fn data_keys_of_an_older_epoch_open_until_it_is_gone_and_new_ones_are_of_the_newest() {
        let root = root(1);
        let (keys, mut wrapped) = root.create_tenant(tenant(1)).unwrap();
        let (data, old) = keys.create_data_key(session(1), 1).unwrap();
        let record = data.seal(&PLACE, b"hello").unwrap();
        let (key, epoch) = root.next_epoch(tenant(1), &wrapped).unwrap();
        let turned = keys.turned(key);
        wrapped.epoch = epoch.epoch;
        wrapped.epochs.push(epoch);
        for keys in [turned, root.open_tenant(tenant(1), &wrapped).unwrap()] {
            assert_eq!(keys.create_data_key(session(2), 1).unwrap().1.epoch, 2);
            assert!(keys.open_data_key(session(1), 1, &old).is_ok());
            let new = keys.rewrap_data_key(session(1), 1, &old).unwrap();
            let alone = keys.keeping(&[]);
            assert!(alone.open_data_key(session(1), 1, &old).is_err() && !alone.knows_epoch(1));
            let data = alone.open_data_key(session(1), 1, &new).unwrap();
            assert_eq!(&**data.open(&PLACE, &record).unwrap(), b"hello");
            // The number of its epoch is not what opens a key.
            assert!(keys.open_data_key(session(1), 1, &WrappedDataKey { epoch: 1, ..new }).is_err());
        }
    }

    #[test]
    fn an_older_epoch_that_does_not_open_hides_only_its_own_data_keys() {
        let root = root(1);
        let (keys, mut wrapped) = root.create_tenant(tenant(1)).unwrap();
        let (_, old) = keys.create_data_key(session(1), 1).unwrap();
        let (_, epoch) = root.next_epoch(tenant(1), &wrapped).unwrap();
        wrapped.epoch = epoch.epoch;
        wrapped.epochs.push(epoch);
        wrapped.epochs[0].key[10] ^= 1;
        let keys = root.open_tenant(tenant(1), &wrapped).unwrap();
        assert_eq!(keys.open_data_key(session(1), 1, &old).err(), Some(SealError::Wrap));
        assert!(keys.rewrap_data_key(session(1), 1, &old).is_err());
        assert!(root.renew_tenant(tenant(1), &wrapped).is_err(), "a key that does not open is not thrown away");
    }

    #[test]
    fn a_new_tenant_key_and_a_new_master_key_open_what_the_former_did() {
        let (old, new) = (root(1), root(2));
        let (keys, wrapped) = old.create_tenant(tenant(1)).unwrap();
        let (_, data) = keys.create_data_key(session(1), 1).unwrap();
        let renewed = old.renew_tenant(tenant(1), &wrapped).unwrap();
        let mixed = WrappedTenant { key: renewed.key.clone(), ..wrapped };
        assert!(old.open_tenant(tenant(1), &mixed).is_err(), "the former tenant key wrapped these");
        let key = new.adopt_tenant_key(&old, tenant(1), &renewed.key).unwrap();
        let adopted = WrappedTenant { key, ..renewed };
        assert!(old.open_tenant(tenant(1), &adopted).is_err());
        assert!(new.open_tenant(tenant(1), &adopted).unwrap().open_data_key(session(1), 1, &data).is_ok());

        let (hasher, pepper) = old.create_pepper().unwrap();
        let adopted = new.adopt_pepper(&old, &pepper).unwrap();
        assert!(old.open_pepper(&adopted).is_err());
        assert_eq!(new.open_pepper(&adopted).unwrap().hash(b"x").as_bytes(), hasher.hash(b"x").as_bytes());
        let signed = old.open_signer(&pepper).unwrap().sign(b"line");
        assert_eq!(new.open_signer(&adopted).unwrap().sign(b"line"), signed);
    }

    #[test]
    fn a_key_that_is_not_the_committed_one_is_refused() {
        let (keys, _) = root(1).create_tenant(tenant(1)).unwrap();
        let (_, mut data) = keys.create_data_key(session(1), 1).unwrap();
        data.commitment[0] ^= 1;
        assert_eq!(keys.open_data_key(session(1), 1, &data).err(), Some(SealError::Commitment));
    }

    #[test]
    fn a_wrapped_key_with_any_changed_byte_does_not_open() {
        let (keys, _) = root(1).create_tenant(tenant(1)).unwrap();
        let (_, data) = keys.create_data_key(session(1), 1).unwrap();
        for at in 0..data.key.len() {
            let mut changed = data.clone();
            changed.key[at] ^= 1;
            assert!(keys.open_data_key(session(1), 1, &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_authority_mac_covers_tenant_table_and_every_column() {
        let (a, _) = root(1).create_tenant(tenant(1)).unwrap();
        let (b, _) = root(1).create_tenant(tenant(2)).unwrap();
        let mac = a.authority_mac("t", &[b"one", b"two"]);
        assert_eq!(mac, a.authority_mac("t", &[b"one", b"two"]));
        for other in [
            b.authority_mac("t", &[b"one", b"two"]),
            a.authority_mac("u", &[b"one", b"two"]),
            a.authority_mac("t", &[b"on", b"etwo"]),
            a.authority_mac("t", &[b"one", b"two", b""]),
            a.authority_mac("t", &[b"two", b"one"]),
        ] {
            assert_ne!(mac, other);
        }
    }

    #[test]
    fn index_hashes_differ_by_tenant_kind_and_content() {
        let (a, _) = root(1).create_tenant(tenant(1)).unwrap();
        let (b, _) = root(1).create_tenant(tenant(2)).unwrap();
        let key = CanonicalKey::from_stored("agent:main");
        assert_ne!(a.key_hash(&key), b.key_hash(&key));
        assert_ne!(a.prefix_hash(["agent", "main"]), a.prefix_hash(["agent:main"]));
        assert_ne!(a.prefix_hash(["agent:main"]), a.key_hash(&key));
        assert_ne!(a.label_hash("agent:main"), a.key_hash(&key));
        assert_ne!(a.label_hash("one"), a.label_hash("two"));
        let run = RunId::parse("r").unwrap();
        assert_ne!(
            a.run_hash(PrincipalId::from_bytes([1; 16]), &run),
            a.run_hash(PrincipalId::from_bytes([2; 16]), &run)
        );
    }
}
