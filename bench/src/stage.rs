//! The other two programs: the gateway on a state directory of its own, and the model.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use watertight_testkit::gateway::{Gateway, GatewaySetup};

use crate::client::http::Http;
use crate::mock::{Manner, Seen};
use crate::process::Programs;
use crate::user::World;

/// How often a starting gateway is asked whether it is ready.
const ASK: Duration = Duration::from_millis(1);

/// The model as a child process. Killed when dropped.
pub(crate) struct Model {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Model {
    pub(crate) async fn start(manner: Manner) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("mock").args(["--chunks", &manner.chunks.to_string()]);
        if manner.burst {
            command.arg("--burst");
        }
        // It ends with its standard input, also when this process is killed.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let line = lines.next_line().await?.context("the model ended")?;
        Ok(Self { child, address: line.parse().context("the model says its address")? })
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the model ended")
    }

    /// What it was asked so far.
    pub(crate) async fn seen(&self) -> Result<Seen> {
        Ok(serde_json::from_slice(&Http::open(self.address).await?.get("/seen").await?)?)
    }
}

/// A state directory for the gateway, with an agent `main` on the model and an agent `echo` on the built-in one.
pub(crate) fn setup(binary: &Path, model: &Model) -> GatewaySetup {
    GatewaySetup::new(binary).asked_every(ASK).config(&format!(
        "[[agents]]\nid = \"main\"\nmodel = \"mock/m\"\n\
         [[agents]]\nid = \"echo\"\nmodel = \"echo/echo\"\n\
         [providers.mock]\nkind = \"openai\"\nbase_url = \"http://{}/v1\"\n",
        model.address
    ))
}

/// What users of this gateway share.
pub(crate) fn world(
    gateway: &Gateway,
    model: &Model,
    agent: &'static str,
    conversation: u32,
    sessions: &Arc<AtomicU32>,
) -> Arc<World> {
    Arc::new(World {
        gateway: gateway.address(),
        token: gateway.token(),
        model: model.address,
        agent,
        conversation: conversation.max(1),
        sessions: Arc::clone(sessions),
    })
}

pub(crate) fn programs(gateway: &Gateway, model: &Model) -> Result<Programs> {
    Ok(Programs { gateway: gateway.pid(), model: model.pid()? })
}
