//! TLS on the listener: a certificate and its key, and new ones in their place while the gateway serves.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use watertight_config::TlsFiles;
use zeroize::Zeroizing;

/// Largest certificate or key file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// How long a client that speaks no TLS may take to read the answer and close.
const PLAIN_TEXT_LIMIT: Duration = Duration::from_secs(1);

/// What a listener needs to speak TLS 1.2 and 1.3. Clones share one certificate.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: TlsFiles,
    /// What the files were when the certificate was read.
    marks: Marks,
    current: watch::Sender<Arc<Current>>,
}

/// What new connections get.
#[derive(Debug)]
struct Current {
    /// A new one with every certificate: no session goes on under the old one.
    config: Arc<ServerConfig>,
    fingerprint: String,
}

/// Why a certificate and its key cannot be used. Texts say what to do and never quote a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is none, or larger than any certificate.
    #[error("{} is no plain file of at most {MAX_FILE} bytes", .path.display())]
    NotPlain {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the key, or change it.
    #[error("the key file {} is open to others (mode {mode:04o}); run: chmod 600 {}", .path.display(), .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key belongs to another user of the system.
    #[error("the key file {} belongs to another user (uid {uid}); it must be root's or this process's", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// No certificate in the file.
    #[error("{} holds no certificate: PEM text with -----BEGIN CERTIFICATE----- is needed", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No private key in the file.
    #[error("{} holds no private key: PEM text with -----BEGIN PRIVATE KEY----- is needed, not encrypted", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The two do not belong together.
    #[error("the key in {} is not that of the certificate in {}, whose own must come first", .files.key.display(), .files.cert.display())]
    Mismatch {
        /// Both.
        files: TlsFiles,
    },
    /// The certificate or the key is of a sort that cannot be used.
    #[error("{} with {} cannot be used: {reason}", .files.cert.display(), .files.key.display())]
    Unusable {
        /// Both.
        files: TlsFiles,
        /// Why.
        reason: rustls::Error,
    },
}

impl Tls {
    /// Reads both files.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is seen later.
        let marks = Marks::of(files);
        let current = watch::Sender::new(Arc::new(Current::load(files)?));
        Ok(Self(Arc::new(Shared { files: files.clone(), marks, current })))
    }

    /// The SHA-256 of the certificate that new connections get, in hex: what `openssl x509 -fingerprint -sha256` prints,
    /// without the colons.
    pub fn fingerprint(&self) -> String {
        self.0.current.borrow().fingerprint.clone()
    }

    /// Completes with the fingerprint of the next certificate other than `known`.
    pub async fn fingerprint_after(&self, known: &str) -> String {
        let mut current = self.0.current.subscribe();
        // Fails only when the sender is gone, and that is ours.
        match current.wait_for(|current| current.fingerprint != known).await {
            Ok(current) => current.fingerprint.clone(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Looks at the files every `pause` and takes up new ones; for ever. What cannot be used is told once and leaves the
    /// old certificate where it is.
    pub(crate) async fn keep_up(self, pause: Duration) {
        let mut taken = self.0.marks.clone();
        let mut before = taken.clone();
        loop {
            tokio::time::sleep(pause).await;
            let files = self.0.files.clone();
            let looked = tokio::task::spawn_blocking(move || Marks::of(&files)).await;
            let Ok(now) = looked else { continue };
            // Two files take a moment to be written: they have to stand still from one look to the next.
            let still = std::mem::replace(&mut before, now.clone()) == now;
            if now == taken || !still {
                continue;
            }
            taken = now;
            let files = self.0.files.clone();
            match tokio::task::spawn_blocking(move || Current::load(&files)).await {
                Ok(Ok(current)) => {
                    tracing::info!(sha256 = current.fingerprint, "new connections get the new TLS certificate");
                    self.0.current.send_replace(Arc::new(current));
                }
                Ok(Err(error)) => tracing::error!("the new TLS certificate is not used, the old one stays: {error}"),
                Err(_) => {}
            }
        }
    }

    /// The handshake; none where there was none. The caller bounds how long it takes.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first[0] != HANDSHAKE {
            let _ = tokio::time::timeout(PLAIN_TEXT_LIMIT, answer_plain_text(stream, first[0])).await;
            return None;
        }
        let config = self.0.current.borrow().config.clone();
        match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    }
}

/// The first byte of every TLS connection: a record of the handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

/// One sentence for whoever speaks HTTP, and a clean end for everybody.
async fn answer_plain_text(mut stream: TcpStream, first: u8) {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
        Connection: close\r\nContent-Length: 45\r\n\r\nThis port speaks TLS: use https:// or wss://\n";
    if first.is_ascii_uppercase() {
        let _ = stream.write_all(ANSWER).await;
    }
    let _ = stream.shutdown().await;
    // What was not read would turn the end into a reset, and the sentence might never be seen.
    let mut rest = [0; 4096];
    while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
}

impl Current {
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let text = read(&files.cert, |_| Ok(()))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| TlsError::NoCertificate { path: files.cert.clone() })?;
        let text = read(&files.key, |file| only_ours(&files.key, file))?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::NoKey { path: files.key.clone() })?;
        let fingerprint = Sha256::digest(&chain[0]).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|reason| match reason {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { files: files.clone() },
                reason => TlsError::Unusable { files: files.clone(), reason },
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), fingerprint })
    }
}

/// The only one in the program, the one the model clients use. Named, so that nothing depends on who sets a default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The whole file. It is checked when it is open, so that what is checked is what is read. Links are followed: those who
/// renew certificates move them.
fn read(
    path: &Path,
    check: impl FnOnce(&fs::Metadata) -> Result<(), TlsError>,
) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    // Not blocking: a FIFO in the file's place must not hang the start.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(TlsError::NotPlain { path: path.to_owned() });
    }
    check(&metadata)?;
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// A group may read the key, as those who hand out certificates arrange it; nobody else, and nobody may change it.
fn only_ours(path: &Path, file: &fs::Metadata) -> Result<(), TlsError> {
    let path = path.to_owned();
    let uid = file.uid();
    if file.mode() & 0o037 != 0 {
        Err(TlsError::Open { path, mode: file.mode() & 0o7777 })
    } else if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        Err(TlsError::Owner { path, uid })
    } else {
        Ok(())
    }
}

/// What tells whether the files are others than before; none for one that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks([Option<Mark>; 2]);

/// Device, inode, length, and when content and inode changed: a copy may keep the first of the two.
type Mark = (u64, u64, u64, (i64, i64), (i64, i64));

impl Marks {
    fn of(files: &TlsFiles) -> Self {
        Self([&files.cert, &files.key].map(|path| {
            let file = fs::metadata(path).ok()?;
            let content = (file.mtime(), file.mtime_nsec());
            Some((file.dev(), file.ino(), file.len(), content, (file.ctime(), file.ctime_nsec())))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;
    use watertight_testkit::certificates::Authority;

    use super::*;

    fn files() -> (TempDir, TlsFiles) {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = Authority::new().issue(&["localhost"]).write(dir.path());
        (dir, TlsFiles { cert, key })
    }

    fn said(files: &TlsFiles) -> String {
        Tls::load(files).unwrap_err().to_string()
    }

    #[test]
    fn a_certificate_with_its_key_has_the_usual_fingerprint() {
        let (_dir, files) = files();
        let der = CertificateDer::from_pem_file(&files.cert).unwrap();
        let expected: Vec<u8> = Sha256::digest(&der).to_vec();
        let fingerprint = Tls::load(&files).unwrap().fingerprint();
        assert_eq!(fingerprint.len(), 64);
        let bytes: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&fingerprint[2 * n..2 * n + 2], 16).unwrap()).collect();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_key_that_others_may_read_or_change_is_refused() {
        let (_dir, files) = files();
        for mode in [0o604, 0o644, 0o620, 0o602, 0o650, 0o777] {
            fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
            let text = said(&files);
            let path = files.key.display();
            let expected = format!("the key file {path} is open to others (mode {mode:04o}); run: chmod 600 {path}");
            assert_eq!(text, expected);
        }
        for mode in [0o600, 0o400, 0o640, 0o440] {
            fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
            assert!(Tls::load(&files).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn another_certificates_key_is_refused() {
        let (_dir, first) = files();
        let (_other, second) = files();
        let mixed = TlsFiles { cert: first.cert, key: second.key };
        assert!(said(&mixed).contains("is not that of the certificate"), "{}", said(&mixed));
    }

    #[test]
    fn files_that_are_missing_or_hold_something_else_are_named_and_never_quoted() {
        let (dir, files) = files();
        let nowhere = TlsFiles { key: dir.path().join("nope"), ..files.clone() };
        assert!(said(&nowhere).starts_with(&format!("{} cannot be read", nowhere.key.display())));
        let nowhere = TlsFiles { cert: dir.path().join("nope"), ..files.clone() };
        assert!(said(&nowhere).starts_with(&format!("{} cannot be read", nowhere.cert.display())));
        let directory = TlsFiles { cert: dir.path().to_owned(), ..files.clone() };
        assert!(matches!(Tls::load(&directory), Err(TlsError::NotPlain { .. })));
        let swapped = TlsFiles { cert: files.key.clone(), key: files.key.clone() };
        assert!(said(&swapped).contains("holds no certificate"), "{}", said(&swapped));
        fs::write(&files.key, "-----BEGIN SECRET-----\ns3cret\n-----END SECRET-----\n").unwrap();
        assert!(said(&files).contains("holds no private key") && !said(&files).contains("s3cret"), "{}", said(&files));
        let large = vec![b'x'; usize::try_from(MAX_FILE).unwrap() + 1];
        fs::write(&files.key, large).unwrap();
        assert!(matches!(Tls::load(&files), Err(TlsError::NotPlain { .. })));
    }

    #[test]
    fn a_broken_certificate_under_the_right_label_is_refused() {
        let (_dir, files) = files();
        fs::write(&files.cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(said(&files).contains("cannot be used"), "{}", said(&files));
    }
}
