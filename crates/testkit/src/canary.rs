//! Unique markers, and an oracle that finds those of others.
//!
//! A marker is lower-case letters and digits, so that no key folding, JSON escape or percent-encoding changes it. It is
//! looked for as it is, in any letter case, in hex and in base64: a leak that was encoded on its way is still a leak.
//!
//! * [`tag`]: markers that say whose they are, for long runs.

pub mod tag;

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;
use uuid::Uuid;

/// A marker nobody else has: `canary` and 32 hex digits.
pub fn marker() -> String {
    format!("canary{}", Uuid::new_v4().simple())
}

/// Whether `bytes` contain the marker in any form.
pub fn contains(bytes: &[u8], marker: &str) -> bool {
    forms(marker).iter().any(|form| memmem::find(bytes, form).is_some())
        || memmem::find(&bytes.to_ascii_lowercase(), marker.to_ascii_lowercase().as_bytes()).is_some()
}

/// The marker as itself, in hex, and in base64 at each of the three offsets it can have in an encoded text.
fn forms(marker: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![marker.as_bytes().to_vec()];
    let hex = hex(marker);
    forms.push(hex.to_ascii_uppercase().into_bytes());
    forms.push(hex.into_bytes());
    for offset in 0..3 {
        let mut shifted = vec![0; offset];
        shifted.extend_from_slice(marker.as_bytes());
        // The digits that depend on what stands before or after the marker are cut off.
        let (skip, keep) = ([0, 2, 3][offset], shifted.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            forms.push(encoded.as_bytes()[skip..keep].to_vec());
        }
    }
    forms
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Knows every marker and whose it is.
#[derive(Debug, Default)]
pub struct Oracle {
    markers: Vec<(String, String)>,
}

/// A marker found where it must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Whose marker it is.
    pub owner: String,
    /// The marker.
    pub marker: String,
}

impl Oracle {
    /// A new marker of `owner`.
    pub fn mint(&mut self, owner: &str) -> String {
        let marker = marker();
        self.markers.push((owner.to_owned(), marker.clone()));
        marker
    }

    /// The markers in `bytes` that are not `owner`'s.
    pub fn foreign_in(&self, owner: &str, bytes: &[u8]) -> Vec<Leak> {
        self.markers
            .iter()
            .filter(|(whose, marker)| whose != owner && contains(bytes, marker))
            .map(|(whose, marker)| Leak { owner: whose.clone(), marker: marker.clone() })
            .collect()
    }

    /// Fails when `bytes`, which `owner` was given, contain a marker of somebody else.
    #[track_caller]
    pub fn assert_clean(&self, owner: &str, bytes: impl AsRef<[u8]>) {
        let leaks = self.foreign_in(owner, bytes.as_ref());
        assert!(leaks.is_empty(), "{owner} was given {leaks:?}");
    }
}

/// The files below `dir` whose bytes contain `needle` in any form. Files that vanish while it looks, as a live
/// database's do, are passed over.
pub fn grep_dir(dir: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{} is listed: {error}", folder.display())) {
            let path = entry.unwrap_or_else(|error| panic!("{} is listed: {error}", folder.display())).path();
            let kind = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata.file_type(),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => panic!("{} is looked at: {error}", path.display()),
            };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                match fs::read(&path) {
                    Ok(bytes) if contains(&bytes, needle) => found.push(path),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => panic!("{} is read: {error}", path.display()),
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "{} holds no file: there is nothing to look through", dir.display());
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_in_every_form_and_at_every_offset() {
        let marker = marker();
        for before in ["", "a", "ab", "abc"] {
            let text = format!("{before}{marker}{before}");
            let hex = hex(&text);
            for form in [
                text.clone(),
                text.to_ascii_uppercase(),
                hex,
                STANDARD_NO_PAD.encode(&text),
                URL_SAFE_NO_PAD.encode(&text),
            ] {
                assert!(contains(form.as_bytes(), &marker), "{form}");
            }
        }
        assert!(!contains(b"canary", &marker));
        assert!(!contains(super::marker().as_bytes(), &marker));
    }

    #[test]
    fn the_oracle_tells_own_from_foreign() {
        let mut oracle = Oracle::default();
        let (alice, bob) = (oracle.mint("alice"), oracle.mint("bob"));
        let text = format!("{alice} {bob}");
        assert_eq!(oracle.foreign_in("alice", text.as_bytes()), [Leak { owner: "bob".into(), marker: bob }]);
        oracle.assert_clean("alice", &alice);
    }

    #[test]
    fn a_marker_is_found_in_any_file_below_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let needle = marker();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("clean"), "nothing").unwrap();
        fs::write(dir.path().join("sub/dirty"), format!("\0\u{1}{needle}\0")).unwrap();
        assert_eq!(grep_dir(dir.path(), &needle), [dir.path().join("sub/dirty")]);
        assert!(grep_dir(dir.path(), &marker()).is_empty());
    }
}
