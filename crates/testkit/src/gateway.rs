//! The built program as a child process: `watertight serve` on a state directory of its own.

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;

use crate::PATIENCE;
use crate::certificates::Authority;
use crate::gateway_client::{ConnectError, ConnectOptions, GatewayClient};

/// How often a starting program is asked whether it is ready. It is asked at once whenever it has said something, as it
/// does when it begins to serve.
const POLL: Duration = Duration::from_millis(20);

/// The built program: `WATERTIGHT_BIN`, else what lies in the folder above the running test's own.
pub fn built_program() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().expect("the test's own path");
        test.ancestors().nth(2).expect("a folder of builds").join("watertight")
    };
    let path = std::env::var_os("WATERTIGHT_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.exists(), "{} is not built: run `cargo build -p watertight-cli`", path.display());
    path
}

/// A free port of loopback, which the system picks.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A state directory and how the program is started on it; survives the program, which can be started again.
pub struct GatewaySetup {
    binary: PathBuf,
    dir: TempDir,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// What `serve` is started under, such as a tracer; empty for nothing.
    wrapper: Vec<String>,
    poll: Duration,
    /// How a gateway that speaks TLS is asked.
    client: Option<Arc<ClientConfig>>,
}

impl GatewaySetup {
    /// A fresh state directory for this binary.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let dir = TempDir::with_prefix("watertight-test-").expect("a temporary directory");
        let setup = Self {
            binary: binary.into(),
            dir,
            args: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            poll: POLL,
            client: None,
        };
        let private = Permissions::from_mode(0o700);
        fs::create_dir(setup.state_dir()).expect("the state directory is made");
        fs::set_permissions(setup.state_dir(), private).expect("the state directory is made private");
        setup
    }

    /// Writes `config.toml` in the state directory.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        let path = self.state_dir().join("config.toml");
        fs::write(&path, text).expect("the configuration is written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the configuration is made private");
        self
    }

    /// Adds an environment variable. The program gets no other than these, `PATH`, `HOME` and the state directory.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Makes it speak TLS, with a certificate of this authority for this machine. Its files are in
    /// [`Self::tls_dir`].
    #[must_use]
    pub fn tls(mut self, authority: &Authority) -> Self {
        fs::create_dir(self.tls_dir()).expect("the directory is made");
        let (cert, key) = authority.issue(&["localhost", "127.0.0.1", "0.0.0.0"]).write(&self.tls_dir());
        self.client = Some(authority.client());
        let text = |path: PathBuf| path.into_os_string().into_string().expect("a path that is text");
        self.env("WATERTIGHT_TLS_CERT", &text(cert)).env("WATERTIGHT_TLS_KEY", &text(key))
    }

    /// Where `cert.pem` and `key.pem` are.
    pub fn tls_dir(&self) -> PathBuf {
        self.dir.path().join("tls")
    }

    /// Adds an argument of `serve`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts `serve` from now on as the last words of this command, which must make way for it by `exec`, as
    /// `strace -D` does: the program keeps the process id that was started.
    pub fn set_wrapper(&mut self, command: &[&str]) {
        self.wrapper = command.iter().map(|&word| word.into()).collect();
    }

    /// Asks a starting program this often whether it is ready: whoever measures starts needs to know it to the millisecond.
    #[must_use]
    pub fn asked_every(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Lets the files be when this is dropped, and says where they are.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.state_dir()
    }

    /// The program with these arguments, on this state directory, in the same clean environment. Killed when dropped.
    pub fn command(&self, args: &[&str]) -> Command {
        self.in_clean_environment(Command::new(&self.binary), args)
    }

    fn in_clean_environment(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("WATERTIGHT_STATE_DIR", self.state_dir())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts `serve` on a free port of loopback and waits until it is ready.
    pub async fn start(&self) -> Gateway {
        self.start_at(ANY_PORT).await
    }

    /// [`Self::start`] at this address, such as that of a gateway that was stopped.
    pub async fn start_at(&self, address: SocketAddr) -> Gateway {
        let started = self.serve(address).await;
        started.unwrap_or_else(|failed| panic!("the gateway did not start: {failed:?}"))
    }

    /// Starts `serve`; a program that ends before it is ready is the error.
    pub async fn try_start(&self) -> Result<Gateway, FailedStart> {
        self.serve(ANY_PORT).await
    }

    async fn serve(&self, address: SocketAddr) -> Result<Gateway, FailedStart> {
        let listen = address.to_string();
        let mut args = vec!["serve", "--listen", &listen];
        args.extend(self.args.iter().map(String::as_str));
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, words)) => {
                let mut command = Command::new(wrapper);
                command.args(words).arg(&self.binary);
                self.in_clean_environment(command, &args)
            }
            None => self.command(&args),
        };
        let begun = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} is started: {error}", self.binary.display()));
        let output = Output::default();
        let mut readers = vec![
            output.collect(child.stdout.take().expect("stdout is piped")),
            output.collect(child.stderr.take().expect("stderr is piped")),
        ];
        let pid = child.id().expect("the child was just started");
        let mut ticks = interval(self.poll);
        let mut said = output.0.subscribe();
        let ready = timeout(PATIENCE, async {
            loop {
                tokio::select! {
                    status = child.wait() => {
                        let status = status.expect("the child is waited for");
                        for reader in readers.drain(..) {
                            let _ = reader.await;
                        }
                        return Err(FailedStart { status, output: output.text() });
                    }
                    _ = ticks.tick() => {}
                    Ok(()) = said.changed() => {}
                }
                if let Some(address) = locked_address(&self.state_dir(), pid)
                    && get(address, self.client.as_ref(), "/readyz").await.is_ok_and(|(status, _)| status == 200)
                {
                    return Ok(address);
                }
            }
        })
        .await;
        match ready {
            Ok(Ok(address)) => {
                let ready_after = begun.elapsed();
                Ok(Gateway {
                    child,
                    pid,
                    address,
                    state_dir: self.state_dir(),
                    output,
                    readers,
                    ready_after,
                    client: self.client.clone(),
                })
            }
            Ok(Err(failed)) => Err(failed),
            Err(elapsed) => panic!("the gateway is not ready: {elapsed}; it said:\n{}", output.text()),
        }
    }
}

/// A program that ended before it was ready.
#[derive(Debug)]
pub struct FailedStart {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub output: String,
}

/// A running gateway. Killed when dropped.
pub struct Gateway {
    child: Child,
    pid: u32,
    address: SocketAddr,
    state_dir: PathBuf,
    output: Output,
    /// Collect what it says until nobody holds the other end.
    readers: Vec<JoinHandle<()>>,
    ready_after: Duration,
    client: Option<Arc<ClientConfig>>,
}

impl Gateway {
    /// How long it took from its start until it said that it is ready.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of its WebSocket.
    pub fn url(&self) -> String {
        let scheme = if self.client.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}/", self.address)
    }

    /// The address of its HTTP side, without a slash at the end.
    pub fn http_url(&self) -> String {
        let scheme = if self.client.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The operator token it wrote at its first start.
    pub fn token(&self) -> String {
        let path = self.state_dir.join("operator.token");
        let token = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} is read: {error}", path.display()));
        token.trim().to_owned()
    }

    /// What it wrote to stdout and stderr so far.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Waits until it has written this.
    pub async fn wait_for_output(&self, text: &str) {
        let mut said = self.output.0.subscribe();
        let found = timeout(PATIENCE, said.wait_for(|said| said.contains(text))).await;
        assert!(found.is_ok_and(|found| found.is_ok()), "it never said {text:?}:\n{}", self.output());
    }

    /// A connection with the operator token.
    pub async fn connect(&self) -> GatewayClient {
        self.try_connect(&ConnectOptions::default())
            .await
            .unwrap_or_else(|error| panic!("no connection: {error}; the gateway said:\n{}", self.output()))
    }

    /// A connection with the operator token and these options.
    pub async fn try_connect(&self, options: &ConnectOptions) -> Result<GatewayClient, ConnectError> {
        GatewayClient::connect(&self.url(), Some(&self.token()), options).await
    }

    /// `GET path`: status and body.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        get(self.address, self.client.as_ref(), path).await
    }

    /// Kills it, as a crash does, and waits until it is gone.
    pub async fn kill(mut self) -> ExitStatus {
        self.child.start_kill().expect("the child is ours to kill");
        self.wait().await
    }

    /// Sends SIGTERM and waits until it has ended by itself.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait().await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("the child has a process id");
        kill_process(pid, signal).expect("the child is ours to signal");
    }

    /// Waits until it has ended, and everything it said is in [`Self::output`].
    pub async fn wait(&mut self) -> ExitStatus {
        let ended = async {
            let status = self.child.wait().await;
            for reader in self.readers.drain(..) {
                let _ = reader.await;
            }
            status
        };
        match timeout(PATIENCE, ended).await {
            Ok(status) => status.expect("the child is waited for"),
            Err(elapsed) => panic!("the gateway did not end: {elapsed}; it said:\n{}", self.output()),
        }
    }
}

/// The address in `serve.lock`, if this process wrote it.
fn locked_address(state_dir: &Path, pid: u32) -> Option<SocketAddr> {
    let text = fs::read_to_string(state_dir.join("serve.lock")).ok()?;
    let lock: Value = serde_json::from_str(&text).ok()?;
    (lock["pid"] == pid).then(|| lock["address"].as_str()?.parse().ok()).flatten()
}

/// `GET path` over a connection of its own: status and body.
pub async fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    get(address, None, path).await
}

async fn get(address: SocketAddr, client: Option<&Arc<ClientConfig>>, path: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let tcp = TcpStream::connect(address).await?;
        let mut socket: Box<dyn Socket> = match client {
            None => Box::new(tcp),
            Some(client) => {
                let name = ServerName::IpAddress(address.ip().into());
                Box::new(TlsConnector::from(client.clone()).connect(name, tcp).await?)
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no HTTP answer: {head:.200}")))?;
        Ok((status, body.to_owned()))
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// What a child wrote, line by line as it came.
#[derive(Clone, Debug, Default)]
struct Output(Arc<watch::Sender<String>>);

impl Output {
    fn text(&self) -> String {
        self.0.borrow().clone()
    }

    fn collect(&self, stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
        let output = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                output.0.send_modify(|text| {
                    text.push_str(&line);
                    text.push('\n');
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_ends_before_it_is_ready_is_told_with_its_output() {
        // The shell takes `serve` for a script's name, and finds none.
        let failed = GatewaySetup::new("/bin/sh").try_start().await.err().unwrap();
        assert!(!failed.status.success());
        assert!(failed.output.contains("serve"), "{failed:?}");
    }

    #[test]
    fn only_the_lock_of_the_process_itself_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(locked_address(dir.path(), 7), None);
        fs::write(dir.path().join("serve.lock"), r#"{"pid":7,"address":"127.0.0.1:4000"}"#).unwrap();
        assert_eq!(locked_address(dir.path(), 7), Some("127.0.0.1:4000".parse().unwrap()));
        assert_eq!(locked_address(dir.path(), 8), None);
    }
}
