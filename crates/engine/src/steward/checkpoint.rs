//! The file of signed checkpoints: appended to while serving, continued after a restart, bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use watertight_config::Config;
use watertight_core::Steward;
use watertight_core::ids::UnixMillis;
use watertight_store::checkpoint::MAX_LINE;
use watertight_store::sqlite::SqliteStore;

use super::Housekeeping;

/// Bytes of the file before it becomes the predecessor, of which one is kept.
const MOST: u64 = 16 * 1024 * 1024;

/// Where checkpoints are appended.
pub(crate) fn file(config: &Config, dir: &Path) -> PathBuf {
    // An absolute path stands for itself.
    dir.join(config.keys.checkpoint_file.as_deref().unwrap_or(Path::new("checkpoints.jsonl")))
}

/// The file before this one.
pub(crate) fn predecessor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Writes the checkpoints of one opening of the store.
pub(crate) struct Checkpoints {
    store: Arc<SqliteStore>,
    steward: Steward,
    log: Mutex<Log>,
}

/// The file and where it has come to.
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    next: u64,
    previous: Option<[u8; 32]>,
}

impl Housekeeping {
    /// Opens the file and takes the first look at all sessions.
    pub(crate) async fn checkpoints(&self, path: PathBuf) -> io::Result<Checkpoints> {
        let store = self.store.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let steward = Steward::from_opened_keystore();
            let log = Log::open(path, |line| store.read_checkpoint(&steward, line))?;
            Ok::<_, io::Error>(Checkpoints { store, steward, log: Mutex::new(log) })
        });
        let checkpoints = opened.await.map_err(io::Error::other)??;
        self.store.watch_heads(&self.steward).await.map_err(io::Error::other)?;
        Ok(checkpoints)
    }
}

impl Checkpoints {
    /// Resolves when one is due before its time.
    pub(crate) async fn due(&self) {
        self.store.much_changed().await;
    }

    /// Appends a checkpoint, synced, if something changed since the last one, or as the last one of this process.
    pub(crate) async fn append(self: &Arc<Self>, at: UnixMillis, end: bool) {
        let checkpoints = self.clone();
        let appended = tokio::task::spawn_blocking(move || {
            let mut log = checkpoints.log.lock().unwrap_or_else(PoisonError::into_inner);
            let place = (log.next, log.previous);
            let mac = checkpoints.store.checkpoint(&checkpoints.steward, place, at, end, |line| log.append(line))?;
            if let Some(mac) = mac {
                log.next += 1;
                log.previous = Some(mac);
            }
            Ok::<_, io::Error>(())
        });
        if let Err(error) = appended.await.map_err(io::Error::other).and_then(|appended| appended) {
            tracing::error!(%error, "a checkpoint could not be written; the next one stands for it");
        }
    }
}

impl Log {
    fn open(path: PathBuf, read: impl Fn(&str) -> Option<(u64, [u8; 32])>) -> io::Result<Self> {
        let mut file = open(&path)?;
        let (bytes, last) = last_line(&mut file)?;
        // A kill may have cut the last line.
        file.set_len(bytes)?;
        let last = match last {
            Some(last) => Some(last),
            None => File::open(predecessor(&path)).ok().and_then(|mut file| last_line(&mut file).ok()?.1),
        };
        let last = last.and_then(|line| read(&line));
        let (next, previous) = last.map_or((1, None), |(number, mac)| (number + 1, Some(mac)));
        Ok(Self { path, file, bytes, next, previous })
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > MOST {
            std::fs::rename(&self.path, predecessor(&self.path))?;
            self.file = open(&self.path)?;
            self.bytes = 0;
        }
        let written = self.file.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.bytes += line.len() as u64 + 1,
            // Half a line would spoil the next one.
            Err(_) => self.file.set_len(self.bytes)?,
        }
        written
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Bytes up to the last line break, and the line before it.
fn last_line(file: &mut File) -> io::Result<(u64, Option<String>)> {
    let bytes = file.metadata()?.len();
    let from = bytes.saturating_sub(2 * MAX_LINE as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok((0, None)) };
    let start = tail[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok((from + end as u64 + 1, Some(String::from_utf8_lossy(&tail[start..end]).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(line: &str) -> Option<(u64, [u8; 32])> {
        Some((line.trim_start_matches('n').parse().ok()?, [0; 32]))
    }

    #[test]
    fn a_log_goes_on_after_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints.jsonl");
        let mut log = Log::open(path.clone(), number).unwrap();
        assert_eq!((log.next, log.previous), (1, None));
        log.append("n1").unwrap();
        log.append("n2").unwrap();
        drop(log);
        std::fs::write(&path, "n1\nn2\nn3 that was cu").unwrap();
        let mut log = Log::open(path.clone(), number).unwrap();
        assert_eq!((log.next, log.previous), (3, Some([0; 32])));
        log.append("n3").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "n1\nn2\nn3\n");
    }

    #[test]
    fn a_full_file_becomes_the_only_predecessor_and_the_count_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints.jsonl");
        let mut log = Log::open(path.clone(), number).unwrap();
        for n in 0..3 {
            log.bytes = MOST;
            log.append(&format!("n{n}")).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "n2\n");
        assert_eq!(std::fs::read_to_string(predecessor(&path)).unwrap(), "n1\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        std::fs::write(&path, "").unwrap();
        assert_eq!(Log::open(path, number).unwrap().next, 2, "it goes on from the predecessor");
    }
}
