//! The authorization matrix: every method and every route, by every kind of principal, on what is its own, shared with
//! it, somebody else's in its tenant, another tenant's, or not there.
//!
//! Methods and routes are read from the source of the tables that serve them: one without a row here fails the test.
//! What the store reads for a foreign and for a missing object cannot be counted from outside; the answers can.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use watertight_testkit::device::Device;
use watertight_testkit::gateway_client::{ConnectError, ConnectOptions, GatewayClient, Tap};

use crate::world::{World, canary, reason, turn};

/// What a method is about.
#[derive(Clone, Copy)]
enum About {
    /// A session, named by a key in these parameters. A key beyond the caller's grants is not found.
    Session(fn(&str) -> Value),
    /// The same, but the answer is the same for every key: there is no telling whether it is there.
    Silent(fn(&str) -> Value),
    /// A run, message, transcript or device of this kind, by its id. A foreign one is answered like a missing one.
    Thing(Kind, fn(&str) -> Value),
    /// Nothing in particular: the answer holds what is the caller's own.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Run,
    Device,
    Request,
}

/// A row for every method, with the constant of the table that says who may call it.
const METHODS: &[(&str, &str, About)] = &[
    ("agent", "WRITE", About::Session(|key| json!({"sessionKey": key, "message": "hi", "idempotencyKey": id()}))),
    ("agent.wait", "WRITE", About::Thing(Kind::Run, |run| json!({"runId": run, "timeoutMs": 1}))),
    ("agents.list", "READ", About::Nothing),
    ("chat.abort", "WRITE", About::Silent(|key| json!({"sessionKey": key}))),
    ("chat.history", "READ", About::Session(|key| json!({"sessionKey": key}))),
    ("chat.send", "WRITE", About::Session(|key| json!({"sessionKey": key, "message": "hi", "idempotencyKey": id()}))),
    ("chat.startup", "READ", About::Session(|key| json!({"sessionKey": key}))),
    ("device.pair.approve", "PAIRING", About::Thing(Kind::Request, |id| json!({"requestId": id}))),
    ("device.pair.list", "PAIRING", About::Nothing),
    ("device.pair.reject", "PAIRING", About::Thing(Kind::Request, |id| json!({"requestId": id}))),
    ("device.pair.remove", "PAIRING", About::Thing(Kind::Device, |id| json!({"deviceId": id}))),
    ("device.pair.setupCode", "PAIRING", About::Nothing),
    ("device.token.revoke", "PAIRING", About::Thing(Kind::Device, |id| json!({"deviceId": id, "role": "operator"}))),
    ("device.token.rotate", "PAIRING", About::Thing(Kind::Device, |id| json!({"deviceId": id, "role": "operator"}))),
    ("health", "Anyone", About::Nothing),
    ("models.list", "READ", About::Nothing),
    ("sessions.describe", "READ", About::Session(|key| json!({"key": key}))),
    ("sessions.list", "READ", About::Nothing),
    ("sessions.messages.subscribe", "READ", About::Silent(|key| json!({"key": key}))),
    ("sessions.messages.unsubscribe", "READ", About::Silent(|key| json!({"key": key}))),
    ("sessions.resolve", "READ", About::Session(|key| json!({"key": key}))),
    ("sessions.send", "WRITE", About::Session(|key| json!({"key": key, "message": "hi"}))),
    ("sessions.steer", "WRITE", About::Session(|key| json!({"key": key, "message": "hi"}))),
    ("sessions.subscribe", "READ", About::Nothing),
    ("status", "READ", About::Nothing),
    ("system-presence", "READ", About::Nothing),
];

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} is read: {error}", path.display()))
}

/// Names and authorizations of the method table.
fn methods_of_the_source() -> BTreeMap<String, String> {
    let source = source("crates/server/src/ws/method.rs");
    let rows = source.lines().filter(|line| line.trim_start().starts_with("Method {"));
    let row = |line: &str| {
        let name = line.split("name: \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let who = line.split("authorization: ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        (name, who)
    };
    rows.map(row).collect()
}

/// Methods and paths of the routes.
fn routes_of_the_source() -> Vec<(String, String)> {
    let source = source("crates/server/src/admin/routes.rs");
    let mut routes = Vec::new();
    for line in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, handlers) = line.split_once("\", ").unwrap();
        for verb in ["get", "post", "delete", "put", "patch", "any"] {
            let word = format!("{verb}(");
            let is_called = |at: usize| at == 0 || !handlers.as_bytes()[at - 1].is_ascii_alphanumeric();
            if handlers.match_indices(&word).any(|(at, _)| is_called(at)) {
                routes.push((verb.to_uppercase(), path.to_owned()));
            }
        }
    }
    routes
}

#[test]
fn every_method_has_a_row() {
    let source = methods_of_the_source();
    assert!(source.len() > 15, "the table was not found");
    let rows: BTreeMap<String, String> =
        METHODS.iter().map(|(name, who, _)| ((*name).to_owned(), (*who).to_owned())).collect();
    assert_eq!(rows, source);
}

#[test]
fn every_route_has_a_row() {
    let mut source = routes_of_the_source();
    let mut rows: Vec<(String, String)> =
        ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    source.sort();
    rows.sort();
    assert_eq!(rows, source);
}

/// Who asks.
struct Asker {
    name: &'static str,
    tenant: &'static str,
    /// What the connection holds; in the table's words.
    scopes: &'static [&'static str],
    /// Whether its token is over.
    expired: bool,
    /// The operator of its tenant.
    operator: bool,
}

const ASKERS: &[Asker] = &[
    Asker { name: "bob", tenant: "T1", scopes: &["operator.read", "operator.write"], expired: false, operator: false },
    Asker { name: "reader", tenant: "T1", scopes: &["operator.read"], expired: false, operator: false },
    Asker { name: "mal", tenant: "T2", scopes: &["operator.read", "operator.write"], expired: false, operator: false },
    Asker { name: "bob", tenant: "T1", scopes: &[], expired: false, operator: false },
    Asker { name: "bob", tenant: "T1", scopes: &["operator.read", "operator.write"], expired: true, operator: false },
    Asker { name: "t1admin", tenant: "T1", scopes: &["operator.admin"], expired: false, operator: false },
    Asker { name: "operator", tenant: "T1", scopes: &["operator.admin"], expired: false, operator: true },
];

impl Asker {
    fn holds(&self, who: &str) -> bool {
        let has = |scope: &str| self.scopes.contains(&scope) || self.scopes.contains(&"operator.admin");
        match who {
            "Anyone" => true,
            "READ" => has("operator.read") || has("operator.write"),
            "WRITE" => has("operator.write"),
            "PAIRING" => has("operator.pairing"),
            other => panic!("the table has a new authorization: {other}"),
        }
    }

    fn describe(&self) -> String {
        format!("{} with {:?}{}", self.name, self.scopes, if self.expired { ", expired" } else { "" })
    }
}

/// What is asked for, by name. The key of a missing session is new each time.
const OBJECTS: [&str; 5] = ["own", "shared", "foreign", "foreign tenant", "missing"];

fn key_of(object: &str, asker: &Asker) -> String {
    match object {
        "own" => format!("agent:main:user:{}:own", asker.name),
        "shared" => "agent:main:user:alice:shared".into(),
        "foreign" => "agent:main:user:alice:private".into(),
        "foreign tenant" => {
            let other = if asker.tenant == "T1" { "mallory" } else { "alice" };
            format!("agent:main:user:{other}:private")
        }
        _ => format!("agent:main:user:nobody:{}", id()),
    }
}

/// A connection and the raw text of its last response.
struct Line {
    client: GatewayClient,
    raw: Arc<Mutex<Vec<String>>>,
}

impl Line {
    async fn open(world: &World, asker: &Asker, token: &str) -> Result<Self, ConnectError> {
        let raw: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = raw.clone();
        let tap = Tap::new(move |text| {
            if text.contains("\"type\":\"res\"") {
                log.lock().unwrap().push(text.to_owned());
            }
        });
        let options = ConnectOptions { tap: Some(tap), ..ConnectOptions::default() }.with_scopes(asker.scopes);
        let client = GatewayClient::connect(&world.gateway.url(), Some(token), &options).await?;
        Ok(Self { client, raw })
    }

    /// The answer, and its bytes without the request's id and the object's name.
    async fn ask(&self, method: &str, params: Value, object: &str) -> (Result<Value, Value>, String) {
        let (request, mut answers, mut frame) = loop {
            let mut answers = self.client.send(method, Some(params.clone())).await;
            let frame = answers.next().await.expect("the connection stays open");
            // A user asks for no more than so much a second; the gateway says when to go on.
            match frame["error"]["retryAfterMs"].as_u64() {
                Some(wait) if reason(&frame["error"]) == "rate_limited" => {
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                _ => break (answers.id().to_owned(), answers, frame),
            }
        };
        if frame["payload"]["status"] == "accepted" {
            frame = answers.next().await.expect("the connection stays open");
        }
        let raw = self.raw.lock().unwrap();
        let text = raw.iter().rev().find(|text| text.contains(&request)).expect("it came over this connection");
        let text = text.replace(&request, "<id>").replace(object, "<object>");
        let answer = if frame["ok"] == true { Ok(frame["payload"].take()) } else { Err(frame["error"].take()) };
        (answer, text)
    }
}

async fn explain(world: &World, tenant: &str, principal: &str, key: &str, verb: &str) -> bool {
    let path = format!("/v1/admin/access/explain?principal={principal}&key={key}&verb={verb}");
    let answer = world.admin(tenant, "GET", &path, Value::Null).await;
    answer["allowed"].as_bool().unwrap()
}

/// The world of the matrix: whose sessions, runs and devices there are.
struct Scene {
    world: World,
    /// Things of alice, and of the other tenant.
    things: BTreeMap<Kind, [String; 2]>,
    /// Said in sessions that are not the asker's.
    secrets: Vec<String>,
    tokens: Vec<String>,
}

impl Scene {
    async fn open() -> Self {
        let mut world = World::open().await;
        let scopes = ["operator.read".to_owned(), "operator.write".to_owned()];
        world.make_person("T2", "mal", &scopes, &["agent:main:user:mal".to_owned()]).await;
        for (name, verbs) in [("bob", json!(["read", "write"])), ("reader", json!(["read"]))] {
            let prefix = "agent:main:user:alice:shared";
            world
                .admin("T1", "POST", "/v1/admin/grants", json!({"principal": name, "verbs": verbs, "prefix": prefix}))
                .await;
        }
        // The file gives the reader alice's whole home: here it has its own, and what is shared.
        let grants = world.admin("T1", "GET", "/v1/admin/grants?principal=reader", Value::Null).await;
        for grant in grants["grants"].as_array().unwrap() {
            if grant["prefix"] == "agent:main:user:alice" {
                let path = format!("/v1/admin/grants/{}", grant["id"].as_str().unwrap());
                world.admin("T1", "DELETE", &path, Value::Null).await;
            }
        }
        let own = json!({"principal": "reader", "verbs": ["read"], "prefix": "agent:main:user:reader"});
        world.admin("T1", "POST", "/v1/admin/grants", own).await;

        let mut secrets = Vec::new();
        let mut things = BTreeMap::new();
        let mut runs = Vec::new();
        for (tenant, owner) in [("T1", "alice"), ("T2", "mallory")] {
            let operator = world.operator_socket(tenant).await;
            for name in ["private", "shared"] {
                let word = canary();
                turn(&operator, &format!("agent:main:user:{owner}:{name}"), &word).await.unwrap();
                secrets.push(word);
            }
            let client = world.socket(owner).await;
            let run = id();
            crate::world::turn_as(&client, &format!("agent:main:user:{owner}:private"), "hi", &run).await.unwrap();
            runs.push(run);
        }
        things.insert(Kind::Run, [runs[0].clone(), runs[1].clone()]);
        let mut devices = Vec::new();
        for (seed, tenant) in [(1, "T1"), (2, "T2")] {
            let device = Device::new(seed);
            let options = ConnectOptions { device: Some(device.clone()), ..ConnectOptions::default() };
            let token = world.operator(tenant).to_owned();
            GatewayClient::connect(&world.gateway.url(), Some(&token), &options).await.expect("a device connects");
            devices.push(device.id());
        }
        things.insert(Kind::Device, [devices[0].clone(), devices[1].clone()]);
        // Pairing requests are made by strangers; none waits here, so each id is one of nobody.
        things.insert(Kind::Request, [id(), id()]);
        for tenant in ["T1", "T2"] {
            let operator = world.operator_socket(tenant).await;
            for asker in ASKERS.iter().filter(|asker| asker.tenant == tenant) {
                turn(&operator, &key_of("own", asker), "mine").await.unwrap();
            }
        }
        let mut tokens = Vec::new();
        for asker in ASKERS {
            tokens.push(Self::token(&world, asker).await);
        }
        Self { world, things, secrets, tokens }
    }

    async fn token(world: &World, asker: &Asker) -> String {
        match asker {
            Asker { operator: true, tenant, .. } => world.operator(tenant).to_owned(),
            Asker { expired: true, name, tenant, .. } => {
                let body = json!({"principal": name, "scopes": asker.scopes, "lifetimeMs": 1});
                let issued = world.admin(tenant, "POST", "/v1/admin/tokens", body).await;
                let token = issued["token"].as_str().unwrap().to_owned();
                while world.http(&token, "GET", "/v1/admin/tokens", &Value::Null).await.status != 401 {
                    tokio::task::yield_now().await;
                }
                token
            }
            asker => world.person(asker.name).token.clone(),
        }
    }

    /// What must not change for anything the askers do that are not alice's administrators.
    async fn state(&self) -> Value {
        let all = [self.world.state("T1").await, self.world.state("T2").await];
        let rows = all.iter().flat_map(|rows| rows.as_array().unwrap().clone());
        Value::Array(rows.filter(|row| row[0].as_str().unwrap().ends_with(":private")).collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_gets_at_what_is_not_its_own_and_a_foreign_thing_answers_like_a_missing_one() {
    let scene = Scene::open().await;
    let world = &scene.world;
    let before = scene.state().await;
    let mut cells = 0;
    for (asker, token) in ASKERS.iter().zip(&scene.tokens) {
        let who = asker.describe();
        let line = match Line::open(world, asker, token).await {
            Ok(line) => line,
            Err(error) => {
                let ConnectError::Refused { error, .. } = error else { panic!("{who}: {error}") };
                assert!(asker.expired, "{who}: {error}");
                assert_eq!(reason(&error), "unauthorized", "{error}");
                cells += METHODS.len() * OBJECTS.len();
                continue;
            }
        };
        assert!(!asker.expired, "an expired token opens a connection");
        let advertised = line.client.hello()["features"]["methods"].as_array().unwrap().clone();
        assert!(advertised.iter().all(|name| METHODS.iter().any(|(row, ..)| name == row)), "{advertised:?}");
        for (method, needs, about) in METHODS {
            let cell = format!("{method} by {who}");
            if !asker.holds(needs) {
                let params = match about {
                    About::Session(params) | About::Silent(params) => params("agent:main:user:alice:private"),
                    About::Thing(_, params) => params(&id()),
                    About::Nothing => json!({}),
                };
                let (answer, _) = line.ask(method, params, "-").await;
                assert_eq!(reason(&answer.expect_err(&cell)), "forbidden_scope", "{cell}");
                cells += OBJECTS.len();
                continue;
            }
            match about {
                About::Session(params) => {
                    cells += OBJECTS.len();
                    let verb = if *needs == "READ" { "read" } else { "write" };
                    let mut refusals = BTreeMap::new();
                    for object in OBJECTS {
                        let key = key_of(object, asker);
                        let (answer, bytes) = line.ask(method, params(&key), &key).await;
                        let allowed = match &answer {
                            Ok(_) => true,
                            // In the caller's own authority nothing need be hidden: there it is simply not there.
                            Err(error) => reason(error) != "session_not_found" || object_is_mine(asker, object),
                        };
                        let principal = if asker.operator { "t1admin" } else { asker.name };
                        let explained = explain(world, asker.tenant, principal, &key, verb).await;
                        assert_eq!(allowed, explained, "{cell} on {object} ({key}): {answer:?}");
                        if !allowed {
                            assert_secret(&scene, &bytes, &cell);
                            refusals.insert(object, bytes);
                        }
                    }
                    assert_alike(&refusals, &cell);
                }
                About::Silent(params) => {
                    cells += OBJECTS.len();
                    let mut answers = BTreeMap::new();
                    for object in ["foreign", "foreign tenant", "missing"] {
                        let key = key_of(object, asker);
                        let (_, bytes) = line.ask(method, params(&key), &key).await;
                        answers.insert(object, bytes);
                    }
                    assert_alike(&answers, &cell);
                }
                About::Thing(kind, params) => {
                    cells += OBJECTS.len();
                    let [of_t1, of_t2] = &scene.things[kind];
                    // Runs are one principal's, devices one tenant's.
                    let mut foreign = BTreeMap::new();
                    if asker.tenant == "T1" {
                        foreign.insert("foreign tenant", of_t2.clone());
                    } else {
                        foreign.insert("foreign tenant", of_t1.clone());
                    }
                    if *kind == Kind::Run {
                        foreign.insert("foreign", of_t1.clone());
                    }
                    let length = of_t1.len();
                    foreign.insert("missing", if length == 36 { id() } else { "0".repeat(length) });
                    let mut answers = BTreeMap::new();
                    for (object, id) in &foreign {
                        let (_, bytes) = line.ask(method, params(id), id).await;
                        assert_secret(&scene, &bytes, &cell);
                        answers.insert(*object, bytes);
                    }
                    assert_alike(&answers, &cell);
                }
                About::Nothing => {
                    cells += 1;
                    let (answer, bytes) = line.ask(method, json!({}), "-").await;
                    assert!(answer.is_ok(), "{cell}: {answer:?}");
                    assert_secret(&scene, &bytes, &cell);
                    if !object_is_mine(asker, "foreign") {
                        assert!(!bytes.contains("alice:private"), "{cell}: {bytes}");
                    }
                    let administers = asker.holds("PAIRING");
                    assert!(asker.tenant == "T2" || administers || !bytes.contains(":mal"), "{cell}: {bytes}");
                }
            }
        }
        if !asker.operator && asker.name != "t1admin" {
            assert_eq!(scene.state().await, before, "{who} changed what is not its own");
        }
    }
    println!("{cells} cells of methods");
}

/// Whether the asker's grants reach the object.
fn object_is_mine(asker: &Asker, object: &str) -> bool {
    let all = asker.operator || asker.name == "t1admin";
    all || object == "own" || (object == "shared" && asker.tenant == "T1")
}

/// What was said in another tenant comes out nowhere.
fn assert_secret(scene: &Scene, bytes: &str, cell: &str) {
    for word in &scene.secrets[2..] {
        assert!(!bytes.contains(word), "{cell} tells: {bytes}");
    }
}

fn assert_alike(answers: &BTreeMap<&str, String>, cell: &str) {
    let Some(missing) = answers.get("missing") else { return };
    for (object, bytes) in answers.iter().filter(|(object, _)| object.starts_with("foreign")) {
        assert_eq!(bytes, missing, "{cell}: {object} is told from missing");
    }
}

/// A row for every route.
struct Route {
    method: &'static str,
    path: &'static str,
    who: Who,
    body: fn(&str) -> Value,
    /// What the path or the body names, where it names something of a tenant.
    names: Option<Named>,
}

/// Who may.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Whoever administers the tenant.
    Administrator,
    /// Whoever administers the tenant of the gateway.
    Gateway,
    /// Whoever is there: it is the same for all.
    Public,
    /// Everybody: the body is the credential.
    Everybody,
    /// Nobody: there is no such thing.
    Nobody,
}

/// What a route names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Principal,
    Token,
    Grant,
}

const fn route(
    method: &'static str,
    path: &'static str,
    who: Who,
    names: Option<Named>,
    body: fn(&str) -> Value,
) -> Route {
    Route { method, path, who, body, names }
}

fn empty(_: &str) -> Value {
    json!({})
}

const ROUTES: &[Route] = &[
    route("POST", "/v1/auth/refresh", Who::Everybody, None, |_| json!({"refreshToken": "wtr_0_0_0"})),
    route("GET", "/v1/admin/openapi.json", Who::Public, None, empty),
    route("GET", "/v1/admin/tenants", Who::Gateway, None, empty),
    route("POST", "/v1/admin/tenants", Who::Gateway, None, |_| json!({"name": id()})),
    route("GET", "/v1/admin/principals", Who::Administrator, None, empty),
    route("POST", "/v1/admin/principals", Who::Administrator, None, |_| json!({"name": id()})),
    route("POST", "/v1/admin/principals/{name}/disable", Who::Administrator, Some(Named::Principal), empty),
    route("POST", "/v1/admin/principals/{name}/enable", Who::Administrator, Some(Named::Principal), empty),
    route("POST", "/v1/admin/principals/{name}/revoke", Who::Administrator, Some(Named::Principal), empty),
    route("GET", "/v1/admin/tokens", Who::Administrator, None, empty),
    route(
        "POST",
        "/v1/admin/tokens",
        Who::Administrator,
        Some(Named::Principal),
        |name| json!({"principal": name, "scopes": ["read"]}),
    ),
    route("POST", "/v1/admin/tokens/{id}/revoke", Who::Administrator, Some(Named::Token), empty),
    route("GET", "/v1/admin/grants", Who::Administrator, None, empty),
    route(
        "POST",
        "/v1/admin/grants",
        Who::Administrator,
        Some(Named::Principal),
        |name| json!({"principal": name, "verbs": ["read"], "prefix": "agent:main:user:nobody"}),
    ),
    route("DELETE", "/v1/admin/grants/{id}", Who::Administrator, Some(Named::Grant), empty),
    route("GET", "/v1/admin/access/explain", Who::Administrator, Some(Named::Principal), empty),
    route("GET", "/v1/admin/audit", Who::Administrator, None, empty),
    route("POST", "/v1/admin/keys/rotate", Who::Gateway, None, empty),
    route("ANY", "/v1/admin/{*rest}", Who::Nobody, None, empty),
];

impl Route {
    /// The path for a thing of this name.
    fn path_of(&self, name: &str) -> String {
        let path = self.path.replace("{name}", name).replace("{id}", name).replace("{*rest}", "nowhere");
        if path.ends_with("/explain") {
            return format!("{path}?principal={name}&key=agent:main:x&verb=read");
        }
        path
    }

    fn method(&self) -> &'static str {
        if self.method == "ANY" { "GET" } else { self.method }
    }
}

/// Makes one for every kind of thing in the tenant.
async fn thing(world: &World, tenant: &str, named: Named) -> String {
    let name = format!("p-{}", id());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    world.admin(tenant, "POST", "/v1/admin/principals", json!({"name": name, "home": false})).await;
    match named {
        Named::Principal => name,
        Named::Token => {
            let issued = json!({"principal": name, "scopes": ["read"]});
            text(&world.admin(tenant, "POST", "/v1/admin/tokens", issued).await["id"])
        }
        Named::Grant => {
            let grant = json!({"principal": name, "verbs": ["read"], "prefix": "agent:main:user:nobody"});
            text(&world.admin(tenant, "POST", "/v1/admin/grants", grant).await["id"])
        }
    }
}

/// An address of loopback for every try: wrong secrets are counted by address.
fn address(at: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(at).expect("few cells").to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

fn missing(named: Named) -> String {
    match named {
        Named::Principal => format!("p-{}", id()),
        Named::Token => id().replace('-', "")[..16].to_owned(),
        Named::Grant => id(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_route_is_for_administrators_of_the_tenant_and_finds_nothing_beyond_it() {
    let scene = Scene::open().await;
    let world = &scene.world;
    let gateway = world.gateway.token();
    let mut askers: Vec<(String, &str, &str)> = ASKERS
        .iter()
        .zip(&scene.tokens)
        .map(|(asker, token)| (asker.describe(), asker.tenant, token.as_str()))
        .collect();
    askers.push(("nobody".into(), "T1", ""));
    askers.push(("the other tenant's operator".into(), "T2", world.operator("T2")));
    let is_admin = |who: &str| who.contains("operator.admin") || who.contains("operator") && !who.contains("operator.");
    let audit = world.admin("T2", "GET", "/v1/admin/audit?limit=1000", Value::Null).await;
    let mut cells = 0;
    for route in ROUTES {
        for (who, tenant, token) in &askers {
            let other = if *tenant == "T1" { "T2" } else { "T1" };
            let cell = format!("{} {} by {who}", route.method, route.path);
            let known = !token.is_empty() && !who.contains("expired");
            let allowed = match route.who {
                Who::Administrator => known && is_admin(who),
                Who::Public => true,
                Who::Gateway | Who::Everybody | Who::Nobody => false,
            };
            let refused = match route.who {
                // The token in the body is what is wrong.
                Who::Everybody => 401,
                Who::Nobody => 404,
                _ if !known => 401,
                _ => 403,
            };
            let Some(named) = route.names else {
                cells += 1;
                let (path, body) = (route.path_of(""), (route.body)(""));
                let answer = world.http_from(address(cells), token, route.method(), &path, &body).await;
                let expected = if allowed { 200 } else { refused };
                assert_eq!(answer.status, expected, "{cell}: {answer:?}");
                let theirs = if *tenant == "T1" { "mallory" } else { "alice" };
                assert!(!answer.body.contains(theirs), "{cell} tells of the other tenant: {answer:?}");
                continue;
            };
            // Its own goes last: what is done to it is real.
            let names = [
                ("foreign tenant", thing(world, other, named).await),
                ("missing", missing(named)),
                ("own", thing(world, tenant, named).await),
            ];
            let mut refusals = BTreeMap::new();
            for (object, name) in names {
                cells += 1;
                let (path, body) = (route.path_of(&name), (route.body)(&name));
                let answer = world.http_from(address(cells), token, route.method(), &path, &body).await;
                let expected = match (allowed, object) {
                    (true, "own") => 200,
                    (true, _) => 404,
                    (false, _) => refused,
                };
                assert_eq!(answer.status, expected, "{cell} on {object}: {answer:?}");
                if answer.status != 200 {
                    refusals.insert(object, answer.bytes().replace(&name, "<object>"));
                }
            }
            assert_alike(&refusals, &cell);
            if !allowed {
                assert_eq!(refusals["own"], refusals["missing"], "{cell}");
            }
        }
        // The operator of the gateway.
        if route.who == Who::Gateway {
            cells += 1;
            let answer = world.http(&gateway, route.method(), &route.path_of(""), &(route.body)("")).await;
            assert_eq!(answer.status, 200, "{} {}: {answer:?}", route.method, route.path);
        }
    }
    // Nothing T1's administrators did is in T2's log: it holds what T2's operator did, in order.
    let after = world.admin("T2", "GET", "/v1/admin/audit?limit=1000", Value::Null).await;
    let (before, after) = (audit["events"].as_array().unwrap(), after["events"].as_array().unwrap());
    assert_eq!(&after[..before.len()], &before[..]);
    println!("{cells} cells of routes");
}
