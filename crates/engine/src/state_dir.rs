//! The state directory and its lock.
//!
//! `serve.lock` is locked with `flock` for as long as a process uses the directory, so a crash frees it; its content
//! only tells people and clients who that is.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// A state directory whose lock this process holds. Dropping it frees the directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

/// Who holds a state directory, as `serve.lock` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id; 0 in the moment before the holder has written it.
    pub pid: u32,
    /// Bound address; none for `agent --local`, which listens nowhere, and before `serve` has bound.
    pub address: Option<SocketAddr>,
    /// The SHA-256 of the certificate it shows there, in hex; none where it speaks no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl Holder {
    /// One that has told nothing yet.
    const UNKNOWN: Self = Self { pid: 0, address: None, certificate: None };
}

/// Why the engine could not start. Texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("the state directory {} is in use by process {}{}; stop it first, or name another with --state-dir",
        .path.display(), .holder.pid, .holder.address.map(|a| format!(", which serves on {a}")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// The directory cannot be made or used.
    #[error("cannot use the state directory {}: {reason}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The master key, the keystore or the store cannot be opened.
    #[error("{0}")]
    Store(String),
    /// A provider of the configuration cannot be set up.
    #[error("{0}")]
    Provider(String),
}

impl StateDir {
    const LOCK_FILE: &str = "serve.lock";
    /// Length of a note, more than any needs.
    const NOTE_BYTES: usize = 256;

    /// Makes the directory where missing (0700), takes its lock without waiting, and notes this process in `serve.lock`.
    pub fn lock(path: &Path) -> Result<Self, OpenError> {
        let fail = |reason: String| OpenError::Directory { path: path.to_owned(), reason };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| fail(e.to_string()))?;
        let meta = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
        if meta.permissions().mode() & 0o022 != 0 {
            return Err(fail(format!("others may write to it; run: chmod go-w {}", path.display())));
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(Self::LOCK_FILE))
            .map_err(|e| fail(format!("{}: {e}", Self::LOCK_FILE)))?;
        // A probe (`holder`) holds a shared lock for a moment; only a lock that stays is somebody's.
        let mut tries = 0;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(fail(format!("{}: {error}", Self::LOCK_FILE)));
            }
            tries += 1;
            if tries == 10 {
                let holder = read_holder(&lock).unwrap_or(Holder::UNKNOWN);
                return Err(OpenError::InUse { path: path.to_owned(), holder });
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let dir = Self { path: path.to_owned(), lock };
        dir.note(None, None)?;
        Ok(dir)
    }

    /// Who holds the directory now, if anybody does. Takes nothing.
    pub fn holder(path: &Path) -> Option<Holder> {
        let file = File::open(path.join(Self::LOCK_FILE)).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => Some(read_holder(&file).unwrap_or(Holder::UNKNOWN)),
            _ => None,
        }
    }

    /// Notes the bound address for clients that look for it, and the SHA-256 of the certificate they will be shown there.
    pub fn announce(&self, address: SocketAddr, certificate: Option<String>) -> Result<(), OpenError> {
        self.note(Some(address), certificate)
    }

    /// Takes the announcement back. To be done before the address is given up: whoever listens there next is not to be
    /// taken for this process. That the note cannot be written is no reason not to go on stopping.
    pub fn withdraw(&self) {
        let _ = self.note(None, None);
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn note(&self, address: Option<SocketAddr>, certificate: Option<String>) -> Result<(), OpenError> {
        let holder = Holder { pid: std::process::id(), address, certificate };
        let write = || -> std::io::Result<()> {
            let mut text = serde_json::to_vec(&holder)?;
            // One write over the whole of the note before: whoever looks at that moment finds one or the other.
            text.resize(text.len().max(Self::NOTE_BYTES), b' ');
            self.lock.write_all_at(&text, 0)?;
            self.lock.set_len(text.len() as u64)
        };
        write()
            .map_err(|e| OpenError::Directory { path: self.path.clone(), reason: format!("{}: {e}", Self::LOCK_FILE) })
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Best effort: the lock itself goes with the file handle.
        let _ = self.lock.set_len(0);
    }
}

fn read_holder(mut file: &File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert_eq!(StateDir::holder(&path), None);
        let held = StateDir::lock(&path).unwrap();
        let address = "127.0.0.1:1234".parse().unwrap();
        let pid = std::process::id();
        let certificate = Some("ab".repeat(32));
        held.announce(address, certificate.clone()).unwrap();
        assert_eq!(StateDir::holder(&path), Some(Holder { pid, address: Some(address), certificate }));
        held.withdraw();
        assert_eq!(StateDir::holder(&path), Some(Holder { pid, address: None, certificate: None }));
        held.announce(address, None).unwrap();
        let error = StateDir::lock(&path).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("127.0.0.1:1234"), "{error}");
        drop(held);
        assert_eq!(StateDir::holder(&path), None);
        StateDir::lock(&path).unwrap();
    }

    #[test]
    fn a_directory_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(StateDir::lock(dir.path()), Err(OpenError::Directory { .. })));
    }
}
