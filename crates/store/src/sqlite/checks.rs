//! What must hold before a store is opened (isolation.md C8): SQLite's version, the file system, permissions, and that
//! nobody else has it open.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rustix::fs::FlockOperation;

use super::OpenError;

/// Older versions can corrupt a WAL database when a checkpoint meets a reset of the log.
const MIN_SQLITE: i32 = 3_051_003;

/// Refuses an SQLite that can lose data in WAL mode.
pub(super) fn sqlite_version() -> Result<(), OpenError> {
    accept_version(rusqlite::version_number())
        .map_err(|_| OpenError::OldSqlite { found: rusqlite::version().to_owned() })
}

fn accept_version(number: i32) -> Result<(), i32> {
    if number >= MIN_SQLITE { Ok(()) } else { Err(number) }
}

/// Makes the directory if it is missing, private to us, and refuses network file systems.
pub(super) fn directory(dir: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Directory { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    #[cfg(target_os = "linux")]
    {
        let magic = rustix::fs::statfs(dir).map_err(|e| failed(e.into()))?.f_type;
        match classify(magic as u32) {
            FileSystem::Local => {}
            FileSystem::Network(name) => {
                return Err(OpenError::NetworkFileSystem { path: dir.to_owned(), name });
            }
            FileSystem::Unsure(name) => tracing::warn!(
                file_system = name,
                "the state directory is on a file system that may not keep SQLite's locking and sync promises"
            ),
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
enum FileSystem {
    Local,
    /// Locks or sync are known not to hold for SQLite's WAL.
    Network(&'static str),
    /// Depends on what is behind it.
    Unsure(&'static str),
}

/// By the `f_type` that statfs reports.
#[cfg(target_os = "linux")]
fn classify(magic: u32) -> FileSystem {
    match magic {
        0x0000_6969 => FileSystem::Network("NFS"),
        0x0000_517B | 0xFE53_4D42 => FileSystem::Network("SMB"),
        0xFF53_4D42 => FileSystem::Network("CIFS"),
        0x5346_414F | 0x6B41_4653 => FileSystem::Network("AFS"),
        0x7375_7245 => FileSystem::Network("Coda"),
        0x0000_564C => FileSystem::Network("NCP"),
        0x00C3_6400 => FileSystem::Network("Ceph"),
        0x0BD0_0BD0 => FileSystem::Network("Lustre"),
        0x0116_1970 => FileSystem::Network("GFS2"),
        0x7461_636F => FileSystem::Network("OCFS2"),
        0x6573_5546 => FileSystem::Unsure("FUSE"),
        0x0102_1997 => FileSystem::Unsure("9p"),
        _ => FileSystem::Local,
    }
}

/// Makes `path` an empty private file if it is missing; takes other users' access to an existing one away.
pub(super) fn private_file(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Directory { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            file.sync_all().map_err(failed)?;
            let parent = path.parent().unwrap_or(Path::new("."));
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                tracing::warn!(path = %path.display(), "the file was open to other users; setting its mode to 600");
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
            }
            Ok(())
        }
        Err(e) => Err(failed(e)),
    }
}

/// Held as long as the store is open.
pub(super) struct StoreLock {
    file: File,
}

impl StoreLock {
    /// Takes the lock of a state directory, or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path: PathBuf = dir.join("store.lock");
        let failed = |source| OpenError::Directory { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The holder is named where its note can be read; without it the refusal stands all the same.
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
                let holder = text
                    .trim()
                    .parse()
                    .map_or_else(|_| "another process".to_owned(), |pid: u32| format!("process {pid}"));
                Err(OpenError::InUse { path: dir.to_owned(), holder })
            }
            Err(e) => Err(failed(e.into())),
        }
    }

    /// Notes our process id for the next one who wants the lock.
    pub(super) fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

/// Sets a pragma and demands that SQLite took it.
pub(super) fn pragma(conn: &Connection, name: &'static str, set: &str, expected: &str) -> Result<(), OpenError> {
    // Some pragmas answer with their new value, some with nothing; the read below is what counts.
    conn.execute_batch(&format!("PRAGMA {name} = {set}"))?;
    let found = conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))?;
    let found = match found {
        rusqlite::types::Value::Integer(value) => value.to_string(),
        rusqlite::types::Value::Text(value) => value,
        other => format!("{other:?}"),
    };
    if found == expected { Ok(()) } else { Err(OpenError::Setting { name, found, expected: expected.to_owned() }) }
}

/// The settings every connection of ours has.
pub(super) fn common_settings(conn: &Connection) -> Result<(), OpenError> {
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    // Otherwise a statement is planned anew whenever other values are bound to it: every time.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    pragma(conn, "foreign_keys", "ON", "1")?;
    pragma(conn, "trusted_schema", "OFF", "0")?;
    pragma(conn, "cell_size_check", "ON", "1")?;
    // Sorting must not spill to a file outside the state directory.
    pragma(conn, "temp_store", "MEMORY", "2")
}

/// A whole-file check after an unclean end.
pub(super) fn quick_check(conn: &Connection) -> Result<(), OpenError> {
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(OpenError::Damaged { found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_sqlite_is_accepted_and_affected_ones_are_not() {
        assert!(sqlite_version().is_ok());
        assert!(accept_version(3_051_002).is_err() && accept_version(3_040_001).is_err());
        assert!(accept_version(3_051_003).is_ok());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn network_file_systems_are_told_from_local_ones() {
        for magic in [0x6969, 0xFF53_4D42, 0xFE53_4D42, 0x517B] {
            assert!(matches!(classify(magic), FileSystem::Network(_)));
        }
        // ext4, xfs, btrfs, tmpfs, overlayfs
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(classify(magic), FileSystem::Local);
        }
    }

    #[test]
    fn a_setting_sqlite_does_not_take_is_an_error() {
        let conn = Connection::open_in_memory().unwrap();
        // A database in memory cannot keep a write-ahead log.
        assert!(matches!(pragma(&conn, "journal_mode", "WAL", "wal"), Err(OpenError::Setting { .. })));
    }
}
