//! The master key: where it comes from and what makes it acceptable (isolation.md §2.8).
//!
//! A key is 32 random bytes, kept raw or as text: `wtmk1` and 48 characters of base64url that hold the bytes and a
//! checksum. Nothing is written unless a new key file is asked for.

mod source;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

pub use self::source::{BadSource, MasterKeyError, MasterKeySource};
use crate::SealError;
use crate::key::Key;

const PREFIX: &str = "wtmk1";
const TEXT_LEN: usize = PREFIX.len() + 48;

/// The key at the top of the hierarchy. No `Debug`, no `Clone`; zeroized on drop.
pub struct MasterKey {
    key: Key,
}

impl MasterKey {
    /// A new key from the operating system's generator.
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self { key: Key::random()? })
    }

    /// The key made of exactly these 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Key::from_slice(bytes).map(|key| Self { key })
    }

    /// Makes a key and writes it to a new file, mode 0600, synced with its directory. Fails if the file exists.
    pub fn create_file(path: &Path) -> Result<Self, MasterKeyError> {
        let failed = |source| MasterKeyError::Write { path: path.to_owned(), source };
        let key = Self::generate().map_err(|_| MasterKeyError::Random)?;
        let directory = directory_of(path);
        // Written under another name and linked: a crash leaves a whole key file or none, and an existing file stays.
        let suffix = u64::from_le_bytes(crate::random().map_err(|_| MasterKeyError::Random)?);
        let draft = directory.join(format!(".master-key-{suffix:016x}"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
        let written = file
            .write_all(key.to_text().as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::hard_link(&draft, path));
        let removed = fs::remove_file(&draft);
        written.and(removed).and_then(|()| File::open(directory)?.sync_all()).map_err(failed)?;
        Ok(key)
    }

    /// Where the key that is to follow the one in `path` lies while it takes over.
    pub fn successor_file(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        name.into()
    }

    /// Makes the key that is to follow the one in `path`, beside it and synced. One that is left there from a try that
    /// came to nothing is replaced: to be called only when the key in `path` is the one in use.
    pub fn create_successor(path: &Path) -> Result<Self, MasterKeyError> {
        Self::discard_successor(path)?;
        Self::create_file(&Self::successor_file(path))
    }

    /// Removes a successor that did not take over.
    pub fn discard_successor(path: &Path) -> Result<(), MasterKeyError> {
        let successor = Self::successor_file(path);
        match fs::remove_file(&successor) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(MasterKeyError::Write { path: successor, source })
            }
            _ => Ok(()),
        }
    }

    /// Puts the successor in the place of the key in `path`, synced. What was there is gone.
    pub fn adopt_successor(path: &Path) -> Result<(), MasterKeyError> {
        fs::rename(Self::successor_file(path), path)
            .and_then(|()| File::open(directory_of(path))?.sync_all())
            .map_err(|source| MasterKeyError::Write { path: path.to_owned(), source })
    }

    /// The key below which the hierarchy stands; its own copy, so that the hierarchy can outlive `self`.
    pub(crate) fn wrapping_key(&self) -> Key {
        self.key.derive("wt/master/v1", b"")
    }

    fn to_text(&self) -> Zeroizing<String> {
        let bytes = self.key.as_bytes();
        let mut checked = Zeroizing::new([0; 36]);
        checked[..32].copy_from_slice(bytes);
        checked[32..].copy_from_slice(&checksum(bytes));
        Zeroizing::new(format!("{PREFIX}{}", *Zeroizing::new(URL_SAFE_NO_PAD.encode(*checked))))
    }

    fn parse(bytes: &[u8]) -> Result<Self, Form> {
        if let Some(key) = Key::from_slice(bytes) {
            return Ok(Self { key });
        }
        let text = bytes.trim_ascii_end();
        if !text.starts_with(PREFIX.as_bytes()) || text.len() != TEXT_LEN {
            return Err(Form::Length(bytes.len()));
        }
        let mut checked = Zeroizing::new([0; 36]);
        let decoded = URL_SAFE_NO_PAD.decode_slice(&text[PREFIX.len()..], checked.as_mut_slice());
        let (key, check) = checked.split_at(32);
        if decoded != Ok(36) || check != checksum(key) {
            return Err(Form::Checksum);
        }
        Key::from_slice(key).map(|key| Self { key }).ok_or(Form::Checksum)
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn checksum(key: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(PREFIX.as_bytes());
    hasher.update(key);
    hasher.finalize().to_be_bytes()
}

/// What is wrong with the bytes of a key.
enum Form {
    Length(usize),
    Checksum,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_created_key_file_is_private_and_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let made = MasterKey::create_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
        let loaded = MasterKeySource::File(path.clone()).load().unwrap();
        assert_eq!(loaded.key.as_bytes(), made.key.as_bytes());
        let before = fs::read(&path).unwrap();
        assert!(matches!(MasterKey::create_file(&path), Err(MasterKeyError::Write { .. })));
        assert_eq!(fs::read(&path).unwrap(), before, "an existing key is never replaced");
    }

    #[test]
    fn a_successor_lies_beside_the_key_until_it_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let load = |path: &Path| *MasterKeySource::File(path.to_owned()).load().unwrap().key.as_bytes();
        let old = *MasterKey::create_file(&path).unwrap().key.as_bytes();
        let stale = *MasterKey::create_successor(&path).unwrap().key.as_bytes();
        let new = *MasterKey::create_successor(&path).unwrap().key.as_bytes();
        assert!(new != stale && new != old);
        assert_eq!((load(&path), load(&MasterKey::successor_file(&path))), (old, new));
        MasterKey::adopt_successor(&path).unwrap();
        assert_eq!(load(&path), new);
        assert!(MasterKey::adopt_successor(&path).is_err(), "there is none any more");
        MasterKey::discard_successor(&path).unwrap();
        assert_eq!(load(&path), new);
    }

    #[test]
    fn raw_bytes_and_text_are_the_same_key() {
        let bytes = [b'k'; 32];
        let text = MasterKey::from_slice(&bytes).unwrap().to_text();
        assert_eq!(text.len(), TEXT_LEN);
        for form in [bytes.to_vec(), text.as_bytes().to_vec(), format!("{}\n", *text).into_bytes()] {
            assert_eq!(MasterKey::parse(&form).ok().unwrap().key.as_bytes(), &bytes);
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for len in [0, 31, 33, 52, 54, 1000] {
            assert!(matches!(MasterKey::parse(&vec![b'w'; len]), Err(Form::Length(_))), "{len}");
        }
    }

    #[test]
    fn a_mistyped_key_text_is_refused() {
        let text = MasterKey::from_slice(&[1; 32]).unwrap().to_text();
        for at in PREFIX.len()..TEXT_LEN {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(matches!(MasterKey::parse(&changed), Err(Form::Checksum)), "character {at}");
        }
    }
}
