//! What one tenant never sees of another.

use watertight_core::Steward;
use watertight_seal::token::{Token, TokenKind};

use super::Fixture;
use super::world::{START, World, caller, everything};
use crate::model::NewTenant;

/// The same key, generation id and label in two tenants are two sessions; neither shows in the other's answers.
pub async fn tenants_with_the_same_names_are_apart(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let other = world.tenant("other").await;
    assert_ne!(world.operator.caller.tenant(), other.caller.tenant());
    let mut mine = world.desk("agent:main:main").await;
    world.switch(&mut mine, "same").await;
    world.say(&mut mine, "mine").await;
    assert!(world.find(&other.caller, "agent:main:main").await.is_none());
    let grants = world.store.grants(&other.caller).await.expect("grants");
    assert_eq!(world.store.list(&other.caller, &grants, everything()).await.expect("a list").total, 0);
    assert!(world.holding(&other.caller, "same").await.is_empty());

    let mut theirs = world.desk_of(&other.caller, "agent:main:main").await;
    world.switch(&mut theirs, "same").await;
    world.say(&mut theirs, "theirs").await;
    assert_eq!(world.texts(&mine).await, ["mine"]);
    assert_eq!(world.texts(&theirs).await, ["theirs"]);
    assert_eq!(world.listed(everything()).await.1, 1);
    assert_ne!(mine.scope.session(), theirs.scope.session());
}

/// Asking again for a tenant finds it, with its operator, and leaves its token alone.
pub async fn a_tenant_is_made_once(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let steward = Steward::from_opened_keystore();
    let late = Token::generate(TokenKind::Operator).expect("random bytes");
    let new = NewTenant { name: "default", operator_token: &late, now: START };
    let again = world.store.ensure_tenant(&steward, new).await.expect("found");
    assert_eq!(again.operator, world.operator.row.operator);
    assert!(caller(&world.store, &world.hasher, &late).await.is_none());
    let found = world.store.find_tenant(&steward, "default").await.expect("a look-up").expect("it is there");
    assert_eq!((found.operator, found.auth_epoch), (again.operator, again.auth_epoch));
    assert!(world.store.find_tenant(&steward, "nowhere").await.expect("a look-up").is_none());
}

/// The id of a token with another secret proves nothing.
pub async fn only_the_operators_own_token_is_accepted(fixture: &impl Fixture) {
    let world = World::new(fixture).await;
    let operator = &world.operator;
    let accepted = caller(&world.store, &world.hasher, &operator.token).await.expect("accepted");
    assert_eq!(accepted.principal(), operator.row.operator.id);
    let record = world.store.credential(operator.token.id()).await.expect("a look-up").expect("it is there");
    let wrong = watertight_core::principal::Proof::Secret(world.hasher.hash(b"guess"));
    assert!(watertight_core::scope::authenticate(&record, &wrong, START).is_err());
    let unknown = Token::generate(TokenKind::Operator).expect("random bytes");
    assert!(world.store.credential(unknown.id()).await.expect("a look-up").is_none());
    assert!(world.store.schema_version().await.expect("a version") > 0);
}
