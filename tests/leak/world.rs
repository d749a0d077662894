//! One gateway with several tenants, from an empty state directory to the end of its directory. A long run takes many,
//! so that neither memory nor disk grows with it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use watertight_config::Config;
use watertight_core::ids::EntryId;
use watertight_engine::Engine;
use watertight_engine::admission::{Access, Presented};
use watertight_engine::engine::Parts;
use watertight_engine::event::SessionEvent;
use watertight_engine::hub::{EventSink, Interest, Listener};
use watertight_engine::state_dir::StateDir;
use watertight_server::{ServerOptions, run};
use watertight_testkit::canary::tag::Audience;
use watertight_testkit::gateway_client::{ConnectOptions, GatewayClient, Tap};
use watertight_testkit::mock_provider::MockProvider;

use crate::model::Repeat;
use crate::names;
use crate::oracle::{Oracle, Place};

/// Tenants of a world; the first is the one a fresh install has.
pub(crate) const TENANTS: usize = 8;
/// Tenants with a connection that hears everything of theirs.
const WATCHED_TENANTS: usize = 2;
/// Longer than anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// How long what still runs at the end of a world may take.
const DRAIN: Duration = Duration::from_secs(2);
/// Between two rounds of probes.
const PROBED: Duration = Duration::from_millis(500);
const PROBES: [&str; 8] =
    ["/healthz", "/readyz", "/startupz", "/health", "/ready", "/metrics", "/", "/v1/chat/completions"];

pub(crate) struct World {
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) engine: Engine,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) url: String,
    /// Turns after which no more begin.
    turns: u64,
    begun: AtomicU64,
    /// Which run number a session that lanes share is at, by tenant.
    shared: Vec<AtomicU64>,
}

/// A tenant as its clients know it.
pub(crate) struct Tenant {
    /// Its number among all tenants of all worlds.
    pub(crate) number: u16,
    pub(crate) token: String,
    pub(crate) access: Access,
    /// Message ids of its sessions, for others to ask for.
    pub(crate) entries: std::sync::Mutex<Vec<EntryId>>,
}

/// A world with what watches it.
pub(crate) struct Running {
    pub(crate) world: Arc<World>,
    stop: CancellationToken,
    server: JoinHandle<io::Result<()>>,
    watchers: Vec<JoinHandle<()>>,
    _listeners: Vec<Listener>,
    dir: tempfile::TempDir,
}

/// A listener that hears all of one tenant, as a surface would.
struct Ear {
    oracle: Arc<Oracle>,
    tenant: u16,
}

impl EventSink for Ear {
    fn deliver(&self, event: &Arc<SessionEvent>) {
        self.oracle.figures.events.one();
        let audience = match names::session(event.key.as_str()) {
            Some(session) => Audience::Session(self.tenant, session),
            None => {
                self.oracle.wrong("an event of a session nobody made", &event.key);
                Audience::Nobody
            }
        };
        self.oracle.check(Place::Listener, audience, format!("{event:?}").as_bytes());
    }
}

impl World {
    /// Whether another turn may begin.
    pub(crate) fn goes_on(&self) -> bool {
        self.begun.load(Ordering::Relaxed) < self.turns
    }

    /// A turn was accepted.
    pub(crate) fn began_turn(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.oracle.figures.turns.one();
    }

    /// A turn's place among those of the shared sessions of a tenant.
    pub(crate) fn next_shared(&self, tenant: usize) -> u64 {
        self.shared[tenant].fetch_add(1, Ordering::Relaxed)
    }
}

impl Running {
    /// Opens the `round`-th world, for this many turns.
    pub(crate) async fn open(oracle: &Arc<Oracle>, provider: &MockProvider, round: usize, turns: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = format!(
            "[[agents]]\nid = \"main\"\nmodel = \"mock/m\"\ninstructions = \"Be brief.\"\n\
             [providers.mock]\nkind = \"openai\"\nbase_url = \"{}\"\n",
            provider.base_url()
        );
        let config = Arc::new(Config::from_toml(&config).expect("a configuration"));
        let state = StateDir::lock(&dir.path().join("state")).expect("a free state directory");
        let parts = Parts { tools: vec![Box::new(Repeat)], ..Parts::default() };
        let engine = Engine::open_with(config, state, parts).await.expect("an engine");
        let mut tenants = Vec::new();
        for at in 0..TENANTS {
            let token = match at {
                0 => {
                    let file = engine.operator_token_file().expect("a generated token");
                    fs::read_to_string(file).expect("a token").trim().to_owned()
                }
                _ => engine.create_tenant(&format!("tenant-{at}")).await.expect("a new tenant"),
            };
            let access = engine.authenticate(Presented::Secret(&token), None).await.expect("its operator");
            let number = u16::try_from(round * TENANTS + at).expect("few enough rounds");
            tenants.push(Tenant { number, token, access, entries: std::sync::Mutex::default() });
            oracle.figures.tenants.one();
        }
        let listeners = tenants.iter().map(|tenant| {
            let ear = Ear { oracle: oracle.clone(), tenant: tenant.number };
            engine.listen(&tenant.access, Interest::Everything, Arc::new(ear))
        });
        let listeners = listeners.collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}/", listener.local_addr().expect("an address"));
        let stop = CancellationToken::new();
        let options = ServerOptions { drain_grace: DRAIN, ..ServerOptions::default() };
        let server = tokio::spawn(run(listener, engine.clone(), options, stop.clone().cancelled_owned()));
        let world = World {
            oracle: oracle.clone(),
            engine,
            tenants,
            url,
            turns,
            begun: AtomicU64::new(0),
            shared: (0..TENANTS).map(|_| AtomicU64::new(0)).collect(),
        };
        let world = Arc::new(world);
        let mut watchers = vec![tokio::spawn(probe(world.clone()))];
        for tenant in 0..WATCHED_TENANTS {
            let client = connect(&world, tenant, &[]).await;
            client.request("sessions.subscribe", serde_json::json!({})).await.expect("it may hear the list");
            watchers.push(tokio::spawn(hear(client)));
        }
        Self { world, stop, server, watchers, _listeners: listeners, dir }
    }

    /// Stops it in the middle of whatever still runs, and looks through what it left on the disk.
    pub(crate) async fn close(self) {
        let Self { world, stop, server, watchers, _listeners: listeners, dir } = self;
        stop.cancel();
        let served = timeout(PATIENCE, server).await.expect("the server ends").expect("without a panic");
        served.expect("in order");
        for watcher in watchers {
            watcher.abort();
            let _ = watcher.await;
        }
        drop(listeners);
        let oracle = world.oracle.clone();
        let held = Arc::into_inner(world).is_none();
        assert!(!held, "everybody has left");
        oracle.forget_names();
        let bytes = search(&oracle, &dir.path().join("state")).expect("the state directory is read");
        oracle.figures.disk_bytes.at_least(bytes);
    }
}

/// A connection of a tenant's operator, all of whose frames the oracle sees.
pub(crate) async fn connect(world: &World, tenant: usize, caps: &[&str]) -> GatewayClient {
    let Tenant { number, token, .. } = &world.tenants[tenant];
    let (oracle, number) = (world.oracle.clone(), *number);
    let options = ConnectOptions {
        caps: caps.iter().map(|&cap| cap.to_owned()).collect(),
        tap: Some(Tap::new(move |frame| oracle.frame(number, frame))),
        ..ConnectOptions::default()
    };
    GatewayClient::connect(&world.url, Some(token), &options).await.expect("the operator is let in")
}

/// Hears everything until it ends.
async fn hear(client: GatewayClient) {
    let mut ticks = interval(Duration::from_millis(50));
    while !client.is_closed() {
        ticks.tick().await;
        client.take_events();
    }
}

/// Asks every probe again and again.
async fn probe(world: Arc<World>) {
    let mut ticks = interval(PROBED);
    let address = world.url.trim_start_matches("ws://").trim_end_matches('/').to_owned();
    loop {
        ticks.tick().await;
        for path in PROBES {
            // At the end nobody answers any more.
            if let Ok(answer) = http_get(&address, path).await {
                world.oracle.figures.probes.one();
                world.oracle.check(Place::Probe, Audience::Nobody, &answer);
            }
        }
    }
}

async fn http_get(address: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await??;
    Ok(answer)
}

/// Looks for tags in every file; at rest everything is sealed. Returns how many bytes there are.
fn search(oracle: &Oracle, dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            bytes += search(oracle, &path)?;
        } else {
            let content = fs::read(&path)?;
            oracle.check(Place::Disk, Audience::Nobody, &content);
            bytes += content.len() as u64;
        }
    }
    Ok(bytes)
}
