//! Where the master key comes from, and every reason to refuse it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use zeroize::Zeroizing;

use super::{Form, MasterKey};

/// More than any accepted form, so that a longer input is seen to be longer.
const READ_LIMIT: u64 = 256;
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Where the master key is kept: `file:<path>`, `credential:<name>` (systemd) or `command:<program> <arguments>`.
#[derive(Clone, PartialEq, Eq)]
pub enum MasterKeySource {
    /// A file that only its owner, who must be us, can read.
    File(PathBuf),
    /// A file of this name in `$CREDENTIALS_DIRECTORY`, put there by the service manager.
    Credential(String),
    /// A program that prints the key; the words are passed as they are, without a shell. It has 30 seconds.
    Command(Vec<String>),
}

/// A key source that does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key source: write file:<path>, credential:<name> or command:<program> <arguments>")]
pub struct BadSource;

impl FromStr for MasterKeySource {
    type Err = BadSource;

    fn from_str(text: &str) -> Result<Self, BadSource> {
        let (kind, rest) = text.split_once(':').ok_or(BadSource)?;
        if rest.trim().is_empty() {
            return Err(BadSource);
        }
        match kind {
            "file" => Ok(Self::File(rest.into())),
            // A credential is a file name, never a path.
            "credential" if !rest.contains('/') && rest != "." && rest != ".." => Ok(Self::Credential(rest.to_owned())),
            "command" => Ok(Self::Command(rest.split_ascii_whitespace().map(str::to_owned).collect())),
            _ => Err(BadSource),
        }
    }
}

impl fmt::Display for MasterKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
            // Arguments may hold a secret of the key service.
            Self::Command(words) => write!(f, "command:{}", words.first().map_or("", String::as_str)),
        }
    }
}

/// As [`fmt::Display`]: without a command's arguments.
impl fmt::Debug for MasterKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKeySource({self})")
    }
}

/// Why there is no master key. Texts say what to do; none holds a part of a key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file does not exist.
    #[error(
        "the master key file {path} does not exist: restore it from where you keep it; without it the stored sessions cannot be read"
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// Somebody else could read it.
    #[error(
        "the master key file {path} can be read by others (mode {mode:03o}): run `chmod 600 {path}`, and replace the key if others had access"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "the master key file {path} belongs to user {owner}, not to us (user {us}): run `chown {us} {path}` or start as its owner"
    )]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user this process runs as.
        us: u32,
    },
    /// It is a symbolic link, directory, socket or device.
    #[error(
        "the master key file {path} is not a plain file (a symbolic link is not followed): name the file itself, or use command:cat <path>"
    )]
    NotPlain {
        /// Which path.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("the master key cannot be read from {from}: {source}")]
    Read {
        /// The source.
        from: String,
        /// Why.
        source: io::Error,
    },
    /// The key file cannot be made.
    #[error("the master key file {path} cannot be written: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither 32 bytes nor a text of the right length.
    #[error(
        "the master key from {from} has {bytes} bytes: it must be exactly 32 raw bytes or a `wtmk1` text of 53 characters"
    )]
    Length {
        /// The source.
        from: String,
        /// How many bytes were read, up to a bound.
        bytes: usize,
    },
    /// A text whose checksum does not fit.
    #[error("the master key from {from} has a wrong checksum: it was changed or not copied whole")]
    Checksum {
        /// The source.
        from: String,
    },
    /// The service manager passed no credentials.
    #[error(
        "credential:{name} needs $CREDENTIALS_DIRECTORY, which the service manager sets: add LoadCredential={name} to the unit"
    )]
    NoCredentials {
        /// The credential.
        name: String,
    },
    /// The command failed.
    #[error("the key command {program} failed: {reason}")]
    Command {
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
}

impl MasterKeySource {
    /// Reads the key. Writes nothing.
    pub fn load(&self) -> Result<MasterKey, MasterKeyError> {
        let bytes = match self {
            Self::File(path) => self.read_file(path, Readers::OwnerOnly)?,
            Self::Credential(name) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| MasterKeyError::NoCredentials { name: name.clone() })?;
                self.read_file(&Path::new(&directory).join(name), Readers::ServiceManager)?
            }
            Self::Command(words) => run(words, COMMAND_LIMIT)?,
        };
        MasterKey::parse(&bytes).map_err(|form| form.of(self))
    }

    /// Reads the key; at the first start, when no store exists yet, a missing key file is made.
    pub fn load_or_create(&self, first_start: bool) -> Result<MasterKey, MasterKeyError> {
        match (self.load(), self) {
            (Err(MasterKeyError::Missing { .. }), Self::File(path)) if first_start => MasterKey::create_file(path),
            (result, _) => result,
        }
    }

    fn read_file(&self, path: &Path, readers: Readers) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        let not_plain = || MasterKeyError::NotPlain { path: path.to_owned() };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => MasterKeyError::Missing { path: path.to_owned() },
            _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => not_plain(),
            _ => MasterKeyError::Read { from: self.to_string(), source },
        };
        // Not blocking: a FIFO in the file's place must not hang the start.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(failed)?;
        // Checked on the opened file, so that what is checked is what is read.
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(not_plain());
        }
        readers.check(path, metadata.mode(), metadata.uid())?;
        read_limited(file).map_err(failed)
    }
}

/// Output of a key command.
fn run(words: &[String], limit: Duration) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
    let program = words.first().cloned().unwrap_or_default();
    let failed = |reason: String| MasterKeyError::Command { program: program.clone(), reason };
    let mut child = Command::new(OsStr::new(&program))
        .args(words.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let output = child.stdout.take().ok_or_else(|| failed("no output".to_owned()))?;
    let pid = Pid::from_child(&child);
    let (done, read) = mpsc::channel();
    std::thread::spawn(move || {
        let bytes = read_limited(output);
        // A command may close its output and stay. The child is left to be reaped below, so its id stays its own.
        let ended = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        drop(done.send(ended.map_err(io::Error::from).and(bytes)));
    });
    let Ok(read) = read.recv_timeout(limit) else {
        // The thread ends with the pipe and the child; the child is ours to end.
        drop(child.kill().and_then(|()| child.wait()));
        return Err(failed(format!("it did not end within {} seconds", limit.as_secs())));
    };
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    if !status.success() {
        return Err(failed(format!("it ended with {status}")));
    }
    read.map_err(|e| failed(e.to_string()))
}

impl Form {
    fn of(self, source: &MasterKeySource) -> MasterKeyError {
        let from = source.to_string();
        match self {
            Self::Length(bytes) => MasterKeyError::Length { from, bytes },
            Self::Checksum => MasterKeyError::Checksum { from },
        }
    }
}

/// Who may be able to read a key file.
enum Readers {
    /// Its owner, who must be us.
    OwnerOnly,
    /// The service manager decides; it grants through ownership or an access list, whose mask shows as group bits.
    ServiceManager,
}

impl Readers {
    fn check(&self, path: &Path, mode: u32, owner: u32) -> Result<(), MasterKeyError> {
        let us = rustix::process::geteuid().as_raw();
        let forbidden = match self {
            Self::OwnerOnly => 0o077,
            Self::ServiceManager => 0o007,
        };
        if mode & forbidden != 0 {
            return Err(MasterKeyError::Exposed { path: path.to_owned(), mode: mode & 0o777 });
        }
        match self {
            Self::OwnerOnly if owner != us => Err(MasterKeyError::Owner { path: path.to_owned(), owner, us }),
            _ => Ok(()),
        }
    }
}

fn read_limited(input: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(READ_LIMIT as usize));
    input.take(READ_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn key_file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, MasterKeySource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, MasterKeySource::File(path))
    }

    fn same_key(a: &MasterKey, b: &MasterKey) -> bool {
        a.key.as_bytes() == b.key.as_bytes()
    }

    fn error(source: &MasterKeySource) -> MasterKeyError {
        source.load().err().unwrap()
    }

    #[test]
    fn only_a_first_start_makes_a_missing_key_file() {
        let dir = tempfile::tempdir().unwrap();
        let source = MasterKeySource::File(dir.path().join("master.key"));
        assert!(matches!(source.load_or_create(false), Err(MasterKeyError::Missing { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
        let made = source.load_or_create(true).unwrap();
        assert!(same_key(&source.load_or_create(true).unwrap(), &made));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_left_alone() {
        for mode in [0o604, 0o640, 0o644, 0o620, 0o601] {
            let (dir, source) = key_file(&[1; 32], mode);
            let MasterKeyError::Exposed { mode: told, .. } = error(&source) else { panic!("mode {mode:o}") };
            assert_eq!(told, mode);
            let metadata = fs::metadata(dir.path().join("master.key")).unwrap();
            assert_eq!(metadata.mode() & 0o777, mode);
        }
    }

    #[test]
    fn a_key_of_another_owner_is_refused() {
        let us = rustix::process::geteuid().as_raw();
        let path = Path::new("k");
        assert!(matches!(Readers::OwnerOnly.check(path, 0o600, us + 1), Err(MasterKeyError::Owner { .. })));
        assert!(Readers::OwnerOnly.check(path, 0o600, us).is_ok());
        assert!(Readers::ServiceManager.check(path, 0o440, us + 1).is_ok());
        assert!(Readers::ServiceManager.check(path, 0o444, us).is_err());
    }

    #[test]
    fn a_link_or_directory_in_the_files_place_is_refused() {
        let (dir, _) = key_file(&[1; 32], 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("master.key"), &link).unwrap();
        for path in [link, dir.path().to_owned()] {
            assert!(matches!(error(&MasterKeySource::File(path)), MasterKeyError::NotPlain { .. }));
        }
    }

    #[test]
    fn a_command_prints_the_key_or_the_start_is_refused() {
        let text = MasterKey::from_slice(&[3; 32]).unwrap().to_text();
        let command = |words: &[&str]| MasterKeySource::Command(words.iter().map(|&w| w.to_owned()).collect());
        assert_eq!(command(&["echo", &text]).load().unwrap().key.as_bytes(), &[3; 32]);
        assert!(matches!(error(&command(&["false"])), MasterKeyError::Command { .. }));
        assert!(matches!(error(&command(&["/no/such/program"])), MasterKeyError::Command { .. }));
        assert!(matches!(error(&command(&["echo", "short"])), MasterKeyError::Length { .. }));
    }

    #[test]
    fn a_command_that_does_not_end_in_time_is_ended() {
        let text = MasterKey::from_slice(&[3; 32]).unwrap().to_text();
        // The second one prints the key and closes its output, but stays.
        for script in ["exec sleep 600".to_owned(), format!("echo {}; exec >&-; exec sleep 600", *text)] {
            let dir = tempfile::tempdir().unwrap();
            let note = dir.path().join("pid");
            let script = format!("echo $$ >{}; {script}", note.display());
            let words = ["sh".to_owned(), "-c".to_owned(), script];
            let began = std::time::Instant::now();
            assert!(matches!(run(&words, Duration::from_millis(500)), Err(MasterKeyError::Command { .. })));
            assert!(began.elapsed() < Duration::from_mins(1));
            let pid = fs::read_to_string(&note).unwrap().trim().parse().unwrap();
            let ended = rustix::process::test_kill_process(Pid::from_raw(pid).unwrap());
            assert_eq!(ended, Err(rustix::io::Errno::SRCH), "the command is gone");
        }
    }

    #[test]
    fn debug_output_holds_no_argument_of_a_command() {
        let source: MasterKeySource = "command:get --secret x".parse().unwrap();
        assert_eq!(format!("{source:?}"), "MasterKeySource(command:get)");
    }

    #[test]
    fn sources_read_as_they_are_documented() {
        let parse = |text: &str| text.parse::<MasterKeySource>();
        assert_eq!(parse("file:/a b/c:d"), Ok(MasterKeySource::File("/a b/c:d".into())));
        assert_eq!(parse("credential:master"), Ok(MasterKeySource::Credential("master".into())));
        assert_eq!(parse("command: a  b"), Ok(MasterKeySource::Command(vec!["a".into(), "b".into()])));
        for bad in ["", "file:", "file", "/path", "env:X", "credential:../x", "credential:..", "command: "] {
            assert_eq!(parse(bad), Err(BadSource), "{bad}");
        }
        assert_eq!(parse("command:get --secret x").unwrap().to_string(), "command:get");
    }
}
