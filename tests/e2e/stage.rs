//! A gateway on a state directory of its own, that can be stopped and started again.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Output;

use serde_json::json;
use watertight_testkit::{Gateway, GatewaySetup, MockProvider};

use crate::clients::Target;
use crate::socket::Socket;

/// A running gateway and what it stands on. Killed and removed when dropped.
pub(crate) struct Stage {
    gateway: Gateway,
    setup: GatewaySetup,
}

impl Deref for Stage {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

/// The built program: `WATERTIGHT_BIN`, else what lies in the folder above this test's own.
pub(crate) fn binary() -> PathBuf {
    let built = || {
        let test = std::env::current_exe().expect("the test's own path");
        test.ancestors().nth(2).expect("a folder of builds").join("watertight")
    };
    let path = std::env::var_os("WATERTIGHT_BIN").map_or_else(built, PathBuf::from);
    assert!(path.exists(), "{} is not built: run `cargo build -p watertight-cli`", path.display());
    path
}

/// A gateway without configuration: one agent `main` on the echo model.
pub(crate) async fn echo() -> Stage {
    Stage::resume(GatewaySetup::new(binary())).await
}

/// A gateway with this `config.toml`.
pub(crate) async fn start(config: &str) -> Stage {
    Stage::resume(GatewaySetup::new(binary()).config(config)).await
}

/// A gateway whose agent `main` speaks through `model`, as provider `p1` and model `m1`; `more` goes into the
/// provider's entry.
pub(crate) async fn with_model(model: &MockProvider, more: &str) -> Stage {
    let base_url = model.base_url();
    start(&format!(
        "[[agents]]\nid = \"main\"\nmodel = \"p1/m1\"\n\n\
         [providers.p1]\nkind = \"openai\"\nbase_url = \"{base_url}\"\n{more}\n"
    ))
    .await
}

impl Stage {
    /// Starts a gateway on a state directory, which may be that of a stopped one.
    pub(crate) async fn resume(setup: GatewaySetup) -> Self {
        let gateway = setup.start().await;
        Self { gateway, setup }
    }

    /// A connection that may do everything.
    pub(crate) async fn client(&self) -> Socket {
        Socket::connect(&self.url(), &self.token(), json!(["operator.admin"]), json!([])).await.0
    }

    /// Its state directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.setup.state_dir()
    }

    /// Where the official clients find it.
    pub(crate) fn target(&self) -> Target {
        Target { url: self.url(), token: self.token() }
    }

    /// Stops it with SIGTERM, which must end it well; what it stood on stays.
    pub(crate) async fn stop(self) -> GatewaySetup {
        let status = self.gateway.terminate().await;
        assert!(status.success(), "SIGTERM ended it with {status}");
        self.setup
    }

    /// Stops it with SIGTERM and starts it again at the same address.
    pub(crate) async fn restart(self) -> Self {
        let address = self.address();
        let setup = self.stop().await;
        let gateway = setup.start_at(address).await;
        Self { gateway, setup }
    }

    /// Kills it, as a crash does, and starts it again.
    pub(crate) async fn kill_and_restart(self) -> Self {
        self.gateway.kill().await;
        Self::resume(self.setup).await
    }

    /// Runs another command of the program on the same state directory.
    pub(crate) async fn run(&self, args: &[&str]) -> Output {
        let ended = tokio::time::timeout(crate::socket::PATIENCE, self.setup.command(args).output()).await;
        ended.expect("the command ends").expect("the program starts")
    }

    /// What a second `serve` on the same state directory says before it ends.
    pub(crate) async fn serve_again(&self) -> Output {
        let mut command = self.setup.command(&["serve", "--listen", "127.0.0.1:0"]);
        let ended = tokio::time::timeout(crate::socket::PATIENCE, command.output()).await;
        ended.expect("the second one ends").expect("the program starts")
    }
}
