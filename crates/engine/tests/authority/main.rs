//! Who may do what, and how soon that changes (isolation.md §2.2 to §2.4): principals, tokens, grants, revocation, the
//! audit log, over the real store under a clock that is set by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use watertight_config::Config;
use watertight_core::grant::{Grant, Verb, VerbSet};
use watertight_core::ids::UnixMillis;
use watertight_core::key::KeyPrefix;
use watertight_core::principal::PrincipalKind;
use watertight_engine::admission::{Access, AuthFailure, Ended, Held, Presented};
use watertight_engine::clock::Clock;
use watertight_engine::engine::Parts;
use watertight_engine::engine::administration::{DEFAULT_IDLE, DEFAULT_LIFETIME, Issued, NewToken, RevokeTarget};
use watertight_engine::request::{HistoryQuery, Target};
use watertight_engine::state_dir::StateDir;
use watertight_engine::{Engine, EngineError};

const ALL: HistoryQuery = HistoryQuery { limit: 10, offset: 0, max_bytes: usize::MAX };

struct World {
    engine: Engine,
    operator: Access,
    time: Arc<AtomicI64>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(1_800_000_000_000));
        let told = time.clone();
        let parts =
            Parts { clock: Clock::from_fn(move || UnixMillis(told.load(Ordering::SeqCst))), ..Parts::default() };
        let lock = StateDir::lock(&dir.path().join("state")).unwrap();
        let engine = Engine::open_with(Arc::new(Config::from_toml("").unwrap()), lock, parts).await.unwrap();
        let token = std::fs::read_to_string(engine.operator_token_file().unwrap()).unwrap();
        let operator = engine.authenticate(Presented::Secret(token.trim()), None).await.unwrap();
        Self { engine, operator, time, _dir: dir }
    }

    fn pass(&self, time: Duration) {
        self.time.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    async fn user(&self, name: &str) {
        self.engine.add_principal(&self.operator, name, PrincipalKind::User, true).await.unwrap();
    }

    async fn token(&self, name: &str, scopes: &[Verb], refresh: bool) -> Issued {
        let new = NewToken {
            principal: name.into(),
            ceiling: scopes.iter().copied().collect(),
            lifetime: Some(DEFAULT_LIFETIME),
            idle: Some(DEFAULT_IDLE),
            refresh,
            label: Some("laptop".into()),
        };
        self.engine.issue_token(&self.operator, new).await.unwrap()
    }

    async fn enter(&self, token: &str) -> Result<Access, AuthFailure> {
        self.engine.authenticate(Presented::Secret(token), None).await
    }

    /// A user with a token to read and write, let in.
    async fn access(&self, name: &str) -> (Access, Issued) {
        self.user(name).await;
        let issued = self.token(name, &[Verb::Read, Verb::Write], false).await;
        (self.enter(&issued.token).await.unwrap(), issued)
    }

    async fn may_read(&self, access: &Access, key: &str) -> bool {
        self.engine.history(access, &Target::of_key(key), ALL).await.is_ok()
    }

    async fn actions(&self) -> Vec<String> {
        let rows = self.engine.audit(&self.operator, 0, 1000).await.unwrap();
        rows.into_iter().map(|row| row.event.action).collect()
    }
}

/// A connection that counts its endings.
#[derive(Default)]
struct Connection(Mutex<Vec<Ended>>);

impl Held for Connection {
    fn end(&self, why: Ended) {
        self.0.lock().unwrap().push(why);
    }
}

fn hold(access: &Access) -> Arc<Connection> {
    let connection = Arc::new(Connection::default());
    let held: Arc<dyn Held> = connection.clone();
    access.hold(&held);
    connection
}

fn verbs(verbs: &[Verb]) -> VerbSet {
    verbs.iter().copied().collect()
}

fn grant(prefix: &str, of: &[Verb], not_after: Option<UnixMillis>) -> Grant {
    Grant { verbs: verbs(of), prefix: KeyPrefix::parse(prefix).unwrap(), not_after }
}

#[tokio::test]
async fn a_user_has_its_home_and_nothing_else() {
    let world = World::open().await;
    let (al, _) = world.access("al").await;
    let (_alice, _) = world.access("alice").await;
    assert!(world.may_read(&al, "agent:main:user:al").await);
    assert!(world.may_read(&al, "agent:main:user:al:thread:1").await);
    for foreign in ["agent:main:user:alice", "agent:main:main", "agent:main:user", "agent:main:user:alx"] {
        assert!(!world.may_read(&al, foreign).await, "{foreign}");
    }
    let bare = world.engine.resolve_key(&al, "notes", None).unwrap();
    assert_eq!(bare.as_str(), "agent:main:user:al:notes");
}

#[tokio::test]
async fn a_token_never_does_more_than_it_was_issued_for() {
    let world = World::open().await;
    world.user("reader").await;
    let issued = world.token("reader", &[Verb::Read], false).await;
    let everything = world.engine.authenticate(Presented::Secret(&issued.token), Some(VerbSet::all())).await.unwrap();
    assert_eq!(everything.verbs().names(), ["read"]);
    assert!(matches!(world.engine.principals(&everything).await, Err(EngineError::NotAdmin)));
}

#[tokio::test]
async fn admin_of_a_part_of_the_keys_administers_nobody() {
    let world = World::open().await;
    world.user("team").await;
    let part = grant("agent:main", &[Verb::Admin], None);
    world.engine.grant(&world.operator, "team", part).await.unwrap();
    let issued = world.token("team", &[Verb::Admin], false).await;
    let team = world.enter(&issued.token).await.unwrap();
    assert!(matches!(world.engine.principals(&team).await, Err(EngineError::NotAdmin)));
    world.engine.grant(&world.operator, "team", grant("*", &[Verb::Admin], None)).await.unwrap();
    assert!(world.engine.principals(&team).await.is_ok(), "a new grant reaches a connection that is open");
    assert!(matches!(
        world.engine.add_tenant(&world.enter(&issued.token).await.unwrap(), "x y").await,
        Err(EngineError::Invalid(_))
    ));
}

#[tokio::test]
async fn a_revoked_token_ends_what_is_open_and_opens_nothing_more() {
    let world = World::open().await;
    let (alice, issued) = world.access("alice").await;
    let (bob, _) = world.access("bob").await;
    let again = world.enter(&issued.token).await.unwrap();
    let (one, two, other) = (hold(&alice), hold(&again), hold(&bob));
    let done = world.engine.revoke(&world.operator, RevokeTarget::Token(issued.id.clone())).await.unwrap();
    assert_eq!((done.credentials, done.closed), (vec![issued.id.clone()], 2));
    for connection in [one, two] {
        assert_eq!(*connection.0.lock().unwrap(), [Ended::Revoked]);
    }
    assert!(other.0.lock().unwrap().is_empty());
    let refused = world.engine.history(&alice, &Target::of_key("agent:main:user:alice"), ALL).await;
    assert!(matches!(refused, Err(EngineError::Ended(Ended::Revoked))));
    assert_eq!(world.enter(&issued.token).await.err(), Some(AuthFailure::Mismatch));
    // Who comes to hold it afterwards is told at once.
    assert_eq!(*hold(&alice).0.lock().unwrap(), [Ended::Revoked]);
    let twice = world.engine.revoke(&world.operator, RevokeTarget::Token(issued.id)).await.unwrap();
    assert!(twice.credentials.is_empty());
}

#[tokio::test]
async fn a_disabled_principal_is_out_until_it_is_enabled() {
    let world = World::open().await;
    let (alice, issued) = world.access("alice").await;
    let connection = hold(&alice);
    assert_eq!(world.engine.set_principal_disabled(&world.operator, "alice", true).await.unwrap(), 1);
    assert_eq!(*connection.0.lock().unwrap(), [Ended::Revoked]);
    assert_eq!(world.enter(&issued.token).await.err(), Some(AuthFailure::Mismatch));
    world.engine.set_principal_disabled(&world.operator, "alice", false).await.unwrap();
    assert!(world.enter(&issued.token).await.is_ok());
    assert!(matches!(
        world.engine.set_principal_disabled(&world.operator, "operator", true).await,
        Err(EngineError::Invalid(_))
    ));
}

#[tokio::test]
async fn sharing_is_explicit_and_ends() {
    let world = World::open().await;
    let (_, _) = world.access("alice").await;
    let (bob, _) = world.access("bob").await;
    let key = "agent:main:user:alice:project";
    assert!(!world.may_read(&bob, key).await);
    let until = world.engine.now().plus_millis(60_000);
    let shared = world.engine.grant(&world.operator, "bob", grant(key, &[Verb::Read], Some(until))).await.unwrap();
    assert!(world.may_read(&bob, key).await);
    world.pass(Duration::from_mins(2));
    assert!(!world.may_read(&bob, key).await, "it ends by itself");
    let explained = world.engine.explain(&world.operator, "bob", key, Verb::Read).await.unwrap();
    assert!(!explained.allowed && explained.reason.contains("ended"), "{}", explained.reason);
    world.engine.ungrant(&world.operator, shared.id).await.unwrap();
    let lasting = world.engine.grant(&world.operator, "bob", grant(key, &[Verb::Read], None)).await.unwrap();
    assert!(world.may_read(&bob, key).await);
    world.engine.ungrant(&world.operator, lasting.id).await.unwrap();
    assert!(!world.may_read(&bob, key).await, "it is taken away from a connection that is open");
    assert!(matches!(world.engine.ungrant(&world.operator, lasting.id).await, Err(EngineError::NoSuch { .. })));
}

#[tokio::test]
async fn a_token_ends_when_its_time_is_over_and_when_it_is_not_used() {
    let world = World::open().await;
    let (alice, issued) = world.access("alice").await;
    let step = Duration::from_mins(20);
    for _ in 0..3 {
        world.pass(step);
        assert_eq!(alice.ended(world.engine.now()), None, "it is used every twenty minutes");
        world.engine.touch(&alice);
    }
    world.pass(DEFAULT_IDLE + Duration::from_secs(1));
    assert_eq!(alice.ended(world.engine.now()), Some(Ended::Expired));
    assert!(!world.may_read(&alice, "agent:main:user:alice").await);
    assert_eq!(world.enter(&issued.token).await.err(), Some(AuthFailure::Mismatch));

    let second = world.token("alice", &[Verb::Read], false).await;
    let alice = world.enter(&second.token).await.unwrap();
    let end = alice.lasts_until().unwrap();
    while world.engine.now() < end.plus_millis(i64::try_from(DEFAULT_LIFETIME.as_millis()).unwrap()) {
        if alice.ended(world.engine.now()).is_some() {
            break;
        }
        world.pass(step);
        world.engine.touch(&alice);
    }
    let lasted = world.engine.now().since(second.not_after.unwrap());
    assert!(lasted <= u64::try_from(step.as_millis()).unwrap(), "no use keeps it beyond its lifetime");
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_second_use_ends_the_family() {
    let world = World::open().await;
    world.user("alice").await;
    let first = world.token("alice", &[Verb::Read, Verb::Write], true).await;
    let r0 = first.refresh.clone().unwrap();
    assert_eq!(world.enter(&r0).await.err(), Some(AuthFailure::Mismatch), "it lets nobody in by itself");
    let second = world.engine.refresh(&r0).await.unwrap();
    let alice = world.enter(&second.token).await.unwrap();
    assert_eq!(alice.verbs().names(), ["read", "write"]);
    let connection = hold(&alice);
    assert_eq!(world.engine.refresh(&r0).await.err(), Some(AuthFailure::Mismatch), "it was traded before");
    assert_eq!(*connection.0.lock().unwrap(), [Ended::Revoked]);
    for dead in [&first.token, &second.token] {
        assert_eq!(world.enter(dead).await.err(), Some(AuthFailure::Mismatch));
    }
    assert_eq!(world.engine.refresh(&second.refresh.unwrap()).await.err(), Some(AuthFailure::Mismatch));
    assert!(world.actions().await.contains(&"token.refresh_reuse".to_owned()));
    let wrong = world.token("alice", &[Verb::Read], false).await;
    assert_eq!(world.engine.refresh(&wrong.token).await.err(), Some(AuthFailure::Mismatch), "an access token is none");
}

#[tokio::test]
async fn a_tenants_administrator_sees_and_changes_nothing_of_another() {
    let world = World::open().await;
    let (_, issued) = world.access("alice").await;
    world.pass(Duration::from_millis(1));
    let token = world.engine.add_tenant(&world.operator, "acme").await.unwrap();
    let acme = world.enter(&token).await.unwrap();
    assert!(world.engine.may_administer(&acme));
    let names: Vec<_> = world.engine.principals(&acme).await.unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["operator"]);
    let foreign = world.engine.revoke(&acme, RevokeTarget::Token(issued.id.clone())).await;
    let missing = world.engine.revoke(&acme, RevokeTarget::Principal("alice".into())).await;
    assert!(matches!(foreign, Err(EngineError::NoSuch { .. })) && matches!(missing, Err(EngineError::NoSuch { .. })));
    assert!(matches!(world.engine.tenants(&acme).await, Err(EngineError::NotAdmin)));
    assert!(matches!(world.engine.add_tenant(&acme, "more").await, Err(EngineError::NotAdmin)));
    assert!(world.enter(&issued.token).await.is_ok());
    assert_eq!(world.engine.tenants(&world.operator).await.unwrap(), ["default", "acme"]);
    assert!(world.engine.add_tenant(&world.operator, "acme").await.is_err(), "there is one of this name");
}

#[tokio::test]
async fn what_was_changed_is_in_the_log_and_holds_no_secret() {
    let world = World::open().await;
    let (_, issued) = world.access("alice").await;
    world.engine.revoke(&world.operator, RevokeTarget::Principal("alice".into())).await.unwrap();
    let rows = world.engine.audit(&world.operator, 0, 1000).await.unwrap();
    let actions: Vec<_> = rows.iter().map(|row| row.event.action.as_str()).collect();
    assert_eq!(actions, ["tenant.create", "principal.create", "grant.add", "token.issue", "token.revoke"]);
    assert_eq!(world.engine.audit_end(&world.operator).await.unwrap(), 5);
    assert_eq!(world.engine.audit(&world.operator, 3, 1).await.unwrap()[0].event.action, "token.issue");
    let secret = issued.token.split('_').nth(2).unwrap();
    assert!(!format!("{rows:?}").contains(secret));
    assert!(rows[4].event.object.to_string().contains(issued.id.as_str()));
}

#[tokio::test]
async fn a_name_that_a_key_could_not_hold_is_refused() {
    let world = World::open().await;
    for bad in ["", "a b", "a:b", "../x", "é", &"a".repeat(129), "a\n"] {
        let made = world.engine.add_principal(&world.operator, bad, PrincipalKind::User, true).await;
        assert!(matches!(made, Err(EngineError::Invalid(_) | EngineError::Key(_))), "{bad:?}");
    }
    world.user("alice").await;
    let again = world.engine.add_principal(&world.operator, "alice", PrincipalKind::User, true).await;
    assert!(matches!(again, Err(EngineError::Invalid(_))));
}

/// How long it takes to let a caller in and to admit it to a session, printed; the number of principals by
/// `WATERTIGHT_PRINCIPALS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release -p watertight-engine --test authority cost -- --ignored --nocapture"]
async fn cost_of_authentication_and_admission() {
    const ROUNDS: u32 = 20_000;
    let count: usize =
        std::env::var("WATERTIGHT_PRINCIPALS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let world = World::open().await;
    let (engine, operator) = (&world.engine, &world.operator);
    for block in (0..count).collect::<Vec<_>>().chunks(512) {
        let made = block.iter().map(|n| async move {
            engine.add_principal(operator, &format!("user-{n}"), PrincipalKind::User, true).await.unwrap()
        });
        futures_util::future::join_all(made).await;
    }
    let mut tokens = Vec::new();
    for n in 0..100 {
        tokens.push(world.token(&format!("user-{}", n * (count / 100)), &[Verb::Read, Verb::Write], false).await);
    }
    let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(ROUNDS);
    let began = std::time::Instant::now();
    for round in 0..ROUNDS {
        let token = &tokens[round as usize % tokens.len()].token;
        engine.authenticate(Presented::Secret(token), None).await.unwrap();
    }
    let entering = each(began.elapsed());
    let alice = world.enter(&tokens[0].token).await.unwrap();
    let target = Target::of_key("agent:main:user:user-0:notes");
    let began = std::time::Instant::now();
    for _ in 0..ROUNDS {
        engine.describe(&alice, &target).await.unwrap();
    }
    println!(
        "{count} principals: authenticate {entering:.1} us, admit and find a session {:.1} us",
        each(began.elapsed())
    );
}
