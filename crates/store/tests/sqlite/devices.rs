//! Devices: what is stored opens in its place only, is bounded, and survives a restart.

use std::sync::Arc;

use watertight_core::device::{DeviceId, DeviceKeeper, PairingId, ProvenDevice, keep_devices};
use watertight_core::grant::{Verb, VerbSet};
use watertight_core::ids::{PrincipalId, TenantId, UnixMillis};
use watertight_seal::token::{Token, TokenKind};
use watertight_store::conformance::world::World;
use watertight_store::device::{
    Asked, Decided, Description, DeviceRow, DeviceStore, NewPairing, PairingRow, Withdrawal,
};
use watertight_store::{SqliteStore, Store, StoreError};

use crate::Sqlite;

const NOW: UnixMillis = UnixMillis(1_900_000_000_000);

fn device(number: u16) -> ProvenDevice {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    ProvenDevice::verified(DeviceId::from_bytes(bytes), bytes)
}

fn asking(tenant: TenantId, source: &str) -> NewPairing {
    NewPairing {
        tenant,
        verbs: [Verb::Read].into_iter().collect(),
        about: Description::default(),
        source: source.to_owned(),
        invited_by: None,
        expires_at: NOW.plus_millis(600_000),
    }
}

async fn keeper(store: &dyn Store, world: &World) -> DeviceKeeper {
    let caller = &world.operator.caller;
    keep_devices(caller, &store.grants(caller).await.unwrap(), NOW).unwrap()
}

async fn asked(store: &dyn Store, device: &ProvenDevice, new: NewPairing) -> PairingRow {
    match store.ask_pairing(device, new, NOW).await.unwrap() {
        Asked::New(row, _) => *row,
        other => panic!("{other:?}"),
    }
}

async fn paired(store: &dyn Store, keeper: &DeviceKeeper, number: u16) -> DeviceRow {
    let row = asked(store, &device(number), asking(keeper.tenant(), &number.to_string())).await;
    match store.decide_pairing(keeper, row.id, Some(row.device), true, NOW).await.unwrap() {
        Decided::Approved(_, row) => *row,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_devices_requests_and_codes() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let keeper = keeper(&*world.store, &world).await;
    let tenant = keeper.tenant();
    let row = paired(&*world.store, &keeper, 1).await;
    let waiting = asked(&*world.store, &device(2), asking(tenant, "a")).await;
    assert!(world.store.invite_device(&keeper, "CODE", VerbSet::all(), NOW.plus_millis(1), NOW).await.unwrap());
    drop(world);

    let store: Arc<SqliteStore> = Arc::new(fixture.store());
    assert_eq!(store.device(tenant, &device(1)).await.unwrap(), Some(row.clone()));
    assert_eq!(store.claimable(&device(1), NOW).await.unwrap().map(|(of, row)| (of, row.id)), Some((tenant, row.id)));
    assert_eq!(store.pairings(&keeper, NOW).await.unwrap(), [waiting]);
    let invited = store.present_setup_code(&device(3), "CODE", NOW).await.unwrap().unwrap();
    assert_eq!((invited.tenant, invited.invited_by), (tenant, keeper.principal()));
    assert_eq!(store.present_setup_code(&device(4), "CODE", NOW).await.unwrap(), None);
    assert_eq!(store.present_setup_code(&device(3), "OTHER", NOW).await.unwrap(), None);
    assert_eq!(store.present_setup_code(&device(3), "CODE", NOW.plus_millis(1)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_or_changed_record_opens_for_nobody() {
    for (change, request) in [
        ("UPDATE devices SET record = zeroblob(64)", false),
        ("UPDATE devices SET device = x'0200000000000000000000000000000000000000000000000000000000000000'", false),
        ("UPDATE devices SET tenant = (SELECT tenant FROM tenants WHERE name = 'other')", false),
        ("UPDATE pairings SET request = zeroblob(16)", true),
        ("UPDATE pairings SET record = (SELECT record FROM devices)", true),
    ] {
        let fixture = Sqlite::new();
        let world = World::new(&fixture).await;
        let other = world.tenant("other").await;
        let keeper = keeper(&*world.store, &world).await;
        paired(&*world.store, &keeper, 1).await;
        asked(&*world.store, &device(2), asking(keeper.tenant(), "a")).await;
        let conn = fixture.database("store.db");
        assert_eq!(conn.execute(change, []).unwrap(), 1, "{change}");
        let result = if request {
            world.store.pairings(&keeper, NOW).await.map(|rows| rows.len())
        } else {
            let mut found = Ok(0);
            for tenant in [keeper.tenant(), other.caller.tenant()] {
                for number in [1, 2] {
                    let row = world.store.device(tenant, &device(number)).await;
                    found = found.and_then(|count| row.map(|row| count + usize::from(row.is_some())));
                }
            }
            found
        };
        assert!(matches!(result, Err(StoreError::Integrity(_))), "{change}: {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_codes_are_bounded() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let keeper = keeper(&*world.store, &world).await;
    let store = &world.store;
    let ask = |number: u16, source: String| {
        let new = asking(keeper.tenant(), &source);
        async move { store.ask_pairing(&device(number), new, NOW).await.unwrap() }
    };
    for number in 0..3 {
        assert!(matches!(ask(number, "one address".into()).await, Asked::New(..)));
    }
    assert!(matches!(ask(3, "one address".into()).await, Asked::TooMany));
    for number in 3..256 {
        assert!(matches!(ask(number, number.to_string()).await, Asked::New(..)), "{number}");
    }
    assert!(matches!(ask(256, "another".into()).await, Asked::TooMany));
    assert!(matches!(ask(255, "255".into()).await, Asked::Waiting(_)), "one that waits is not refused");
    // What has ended makes room.
    let later = NOW.plus_millis(600_000);
    let new = NewPairing { expires_at: later.plus_millis(1), ..asking(keeper.tenant(), "another") };
    assert!(matches!(store.ask_pairing(&device(256), new, later).await.unwrap(), Asked::New(..)));
    assert_eq!(store.pairings(&keeper, later).await.unwrap().len(), 1);

    for number in 0..64 {
        let code = number.to_string();
        assert!(store.invite_device(&keeper, &code, VerbSet::all(), later, NOW).await.unwrap(), "{number}");
    }
    assert!(!store.invite_device(&keeper, "more", VerbSet::all(), later, NOW).await.unwrap());
    assert!(store.invite_device(&keeper, "more", VerbSet::all(), later.plus_millis(1), later).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_and_a_narrow_keeper_see_nothing_of_it() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let other = world.tenant("other").await;
    let mine = keeper(&*world.store, &world).await;
    let theirs = keep_devices(&other.caller, &world.store.grants(&other.caller).await.unwrap(), NOW).unwrap();
    let row = paired(&*world.store, &mine, 1).await;
    let waiting = asked(&*world.store, &device(2), asking(mine.tenant(), "a")).await;
    let store = &world.store;
    assert!(store.devices(&theirs).await.unwrap().is_empty() && store.pairings(&theirs, NOW).await.unwrap().is_empty());
    assert_eq!(store.decide_pairing(&theirs, waiting.id, None, true, NOW).await.unwrap(), Decided::Unknown);
    for what in [Withdrawal::Remove, Withdrawal::Revoke, Withdrawal::Rotate(None)] {
        assert_eq!(store.withdraw(&theirs, row.id, what, NOW).await.unwrap(), None);
    }
    assert!(mine.keeps(None) && mine.keeps(Some(PrincipalId::from_bytes([9; 16]))));
    let caller = world.operator.caller.clone().narrowed([Verb::Write].into_iter().collect());
    assert!(keep_devices(&caller, &store.grants(&caller).await.unwrap(), NOW).is_err(), "without the verb");
    let unknown = PairingId::from_bytes([0; 16]);
    assert_eq!(store.decide_pairing(&mine, unknown, None, true, NOW).await.unwrap(), Decided::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_one_token_at_a_time() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let keeper = keeper(&*world.store, &world).await;
    let row = paired(&*world.store, &keeper, 1).await;
    let (store, tenant) = (&world.store, keeper.tenant());
    let token = || Token::generate(TokenKind::Device).unwrap();
    let (first, second) = (token(), token());
    let issue = |former: Option<String>, token: Token| async move {
        let issued = store.issue_device_token(tenant, row.id, former.as_deref(), &token, NOW).await.unwrap();
        issued.is_some()
    };
    let (first_id, second_id) = (first.id().clone(), second.id().clone());
    assert!(issue(None, first).await);
    assert!(!issue(None, token()).await, "it has been fetched");
    assert!(store.claimable(&device(1), NOW).await.unwrap().is_none(), "once");
    assert!(store.device_credential(&first_id).await.unwrap().is_some());
    assert!(issue(Some(first_id.as_str().to_owned()), second).await);
    assert!(store.device_credential(&first_id).await.unwrap().is_none(), "replaced");
    assert!(store.device_credential(world.operator.token.id()).await.unwrap().is_none(), "not a device's");
    let change = store.withdraw(&keeper, row.id, Withdrawal::Revoke, NOW).await.unwrap().unwrap();
    assert_eq!(change.ended.as_slice(), std::slice::from_ref(&second_id));
    assert!(store.device_credential(&second_id).await.unwrap().is_none());
}
