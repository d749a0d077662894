//! A changed row that says who may do what gives nobody anything.

use watertight_core::grant::{Grant, Verb};
use watertight_core::key::KeyPrefix;
use watertight_core::principal::PrincipalKind;
use watertight_core::scope::administer;
use watertight_core::{Steward, TenantAdmin};
use watertight_store::StoreError;
use watertight_store::conformance::world::{Operator, START, World, caller};

use crate::Sqlite;

/// Applies this SQL, in which `$A` is a principal of the first tenant and `$B` one of the other's: neither the token nor
/// the tenant's name gets anybody in any more.
async fn changed(sql: &str) {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let other = world.tenant("other").await;
    let id = |principal: &[u8; 16]| format!("x'{:032x}'", u128::from_be_bytes(*principal));
    let (first, second) = (world.operator.caller.principal(), other.caller.principal());
    let sql = sql.replace("$A", &id(first.as_bytes())).replace("$B", &id(second.as_bytes()));
    let conn = fixture.database("store.db");
    // Whoever changes a file does not mind its constraints.
    conn.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").unwrap();
    let before = conn.total_changes();
    conn.execute_batch(&sql).unwrap();
    assert!(conn.total_changes() > before, "{sql}: the statement changed nothing");

    let token = &world.operator.token;
    let by_token = world.store.credential(token.id()).await;
    let steward = Steward::from_opened_keystore();
    let by_name = world.store.find_tenant(&steward, "default").await;
    let refused = [by_token.err(), by_name.err()].into_iter().flatten().collect::<Vec<_>>();
    assert!(!refused.is_empty() && refused.iter().all(|e| matches!(e, StoreError::Integrity(_))), "{sql}: {refused:?}");
    // The other tenant goes on, unless it is the one that was taken from.
    if !sql.contains("other") {
        assert!(caller(&world.store, &world.hasher, &other.token).await.is_some(), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_with_any_changed_column_is_refused() {
    for change in [
        "credential = credential, tenant = (SELECT tenant FROM principals WHERE principal = $B)",
        "(tenant, principal) = (SELECT tenant, principal FROM principals WHERE principal = $B)",
        "principal = zeroblob(16)",
        "secret_hash = (SELECT secret_hash FROM credentials WHERE principal = $B)",
        "ceiling = 1",
        "ceiling = ceiling | 32768",
        "not_after = 9223372036854775807",
        "not_after = 0",
        "kind = 2",
        "family = zeroblob(16)",
        "idle = 9223372036854775807",
        "used_at = used_at + 1",
        "revoked = 1",
        "created_at = created_at + 1",
        "mac = zeroblob(32)",
        "mac = x''",
        "mac = (SELECT mac FROM credentials WHERE principal = $B)",
    ] {
        changed(&format!("UPDATE credentials SET {change} WHERE principal = $A")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_with_any_changed_column_is_refused() {
    for change in [
        "kind = 2",
        "kind = 9",
        "disabled = 1",
        "name_hash = zeroblob(32)",
        "auth_epoch = auth_epoch + 1",
        "auth_epoch = -1",
        "created_at = created_at + 1",
        "mac = zeroblob(32)",
        "mac = (SELECT mac FROM principals WHERE principal = $B)",
    ] {
        changed(&format!("UPDATE principals SET {change} WHERE principal = $A")).await;
    }
    changed("DELETE FROM principals WHERE principal = $A").await;
    changed("UPDATE principals SET principal = zeroblob(16) WHERE principal = $A").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_any_changed_column_is_refused() {
    for change in ["operator = $B", "created_at = created_at + 1", "mac = zeroblob(32)"] {
        changed(&format!("UPDATE tenants SET {change} WHERE operator = $A")).await;
    }
    // Two names swapped, so that the one tenant's secret would open the other.
    changed(
        "UPDATE tenants SET name = 'x' WHERE operator = $A; UPDATE tenants SET name = 'default' WHERE name = 'other'",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_under_another_public_id_is_refused() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let other = world.tenant("other").await;
    let (own, stolen) = (world.operator.token.id(), other.token.id());
    let sql = "DELETE FROM credentials WHERE credential = ?1";
    let conn = fixture.database("store.db");
    conn.execute(sql, [stolen.as_str()]).unwrap();
    conn.execute("UPDATE credentials SET credential = ?1 WHERE credential = ?2", [stolen.as_str(), own.as_str()])
        .unwrap();
    assert!(matches!(world.store.credential(stolen).await, Err(StoreError::Integrity(_))));
    assert!(world.store.credential(own).await.unwrap().is_none());
}

async fn admin(world: &World, operator: &Operator) -> TenantAdmin {
    let grants = world.store.grants(&operator.caller).await.unwrap();
    administer(&operator.caller, &grants, START).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_with_any_change_is_refused() {
    for change in [
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 3",
        "UPDATE audit SET at = at + 1 WHERE seq = 2",
        "UPDATE audit SET event = (SELECT event FROM audit WHERE seq = 3) WHERE seq = 2",
        "UPDATE audit SET chain = zeroblob(32) WHERE seq = 2",
        "UPDATE audit SET seq = 5 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 3; UPDATE audit_heads SET seq = 2, chain = (SELECT chain FROM audit WHERE seq = 2)",
        "DELETE FROM audit; DELETE FROM audit_heads",
        "DELETE FROM audit; UPDATE audit_heads SET seq = 0",
    ] {
        let fixture = Sqlite::new();
        let world = World::new(&fixture).await;
        let admin = admin(&world, &world.operator).await;
        for name in ["alice", "bob"] {
            world.store.create_principal(&admin, name, PrincipalKind::User, START).await.unwrap().unwrap();
        }
        let actions = world.store.audit(&admin, 0, 10).await.unwrap();
        assert_eq!(actions.iter().map(|row| row.seq).collect::<Vec<_>>(), [1, 2, 3]);
        fixture.database("store.db").execute_batch(change).unwrap();
        assert!(matches!(world.store.audit(&admin, 0, 10).await, Err(StoreError::Integrity(_))), "{change}");
        let next = world.store.create_principal(&admin, "carol", PrincipalKind::User, START).await;
        let goes_on = world.store.audit(&admin, 0, 10).await.is_ok();
        assert!(!goes_on, "{change}: what comes later does not hide it ({next:?})");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_moved_to_another_principal_opens_for_nobody() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let admin = admin(&world, &world.operator).await;
    let alice = world.store.create_principal(&admin, "alice", PrincipalKind::User, START).await.unwrap().unwrap();
    let bob = world.store.create_principal(&admin, "bob", PrincipalKind::User, START).await.unwrap().unwrap();
    let all = Grant { verbs: [Verb::Admin].into_iter().collect(), prefix: KeyPrefix::everything(), not_after: None };
    world.store.grant(&admin, alice.id, all, START).await.unwrap().unwrap();
    let sql = "UPDATE grants SET principal = ?1 WHERE principal = ?2";
    let conn = fixture.database("store.db");
    assert_eq!(conn.execute(sql, [bob.id.as_bytes(), alice.id.as_bytes()]).unwrap(), 1);
    assert!(matches!(world.store.grants_of(&admin, bob.id).await, Err(StoreError::Integrity(_))));
    assert!(world.store.grants_of(&admin, alice.id).await.unwrap().rules().is_empty());
}
