//! Between a client and a gateway: records every byte, and speaks TLS for clients that cannot.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::canary;

/// One direction of one connection.
type Stretch = Arc<Mutex<Vec<u8>>>;

/// A relay at work. Dropping it ends it; connections go on.
pub struct Relay {
    address: SocketAddr,
    stretches: Arc<Mutex<Vec<Stretch>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Relay {
    /// Passes on what it gets as it is.
    pub async fn to(gateway: SocketAddr) -> Self {
        Self::start(gateway, None).await
    }

    /// Speaks TLS with the gateway, plain text with its clients.
    pub async fn over_tls(gateway: SocketAddr, client: Arc<ClientConfig>) -> Self {
        Self::start(gateway, Some(client)).await
    }

    async fn start(gateway: SocketAddr, client: Option<Arc<ClientConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stretches = Arc::<Mutex<Vec<Stretch>>>::default();
        let all = stretches.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let records = [Stretch::default(), Stretch::default()];
                all.lock().unwrap_or_else(PoisonError::into_inner).extend(records.clone());
                tokio::spawn(serve(near, gateway, client.clone(), records));
            }
        });
        Self { address, stretches, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Where its clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many bytes its clients sent and got so far.
    pub fn bytes(&self) -> usize {
        self.copies().iter().map(Vec::len).sum()
    }

    /// Whether what its clients sent or got holds the marker in any form.
    pub fn holds(&self, marker: &str) -> bool {
        self.copies().iter().any(|bytes| canary::contains(bytes, marker))
    }

    fn copies(&self) -> Vec<Vec<u8>> {
        let stretches = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
        stretches.iter().map(|bytes| bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}

async fn serve(near: TcpStream, gateway: SocketAddr, client: Option<Arc<ClientConfig>>, records: [Stretch; 2]) {
    let Ok(far) = TcpStream::connect(gateway).await else { return };
    match client {
        None => exchange(near, far, records).await,
        Some(client) => {
            let name = ServerName::IpAddress(gateway.ip().into());
            if let Ok(far) = TlsConnector::from(client).connect(name, far).await {
                exchange(near, far, records).await;
            }
        }
    }
}

async fn exchange(near: TcpStream, far: impl AsyncRead + AsyncWrite + Send + 'static, [sent, got]: [Stretch; 2]) {
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    tokio::join!(pass(near_read, far_write, sent), pass(far_read, near_write, got));
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, record: Stretch) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        // Before it is passed on: who has it knows that it is recorded.
        record.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&bytes[..read]);
        if to.write_all(&bytes[..read]).await.and(to.flush().await).is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
