//! Checkpoints: what a store held at a moment, signed, so that an older copy of it, or of one session, is found.
//!
//! A checkpoint is one line of JSON that holds no content:
//!
//! ```json
//! {"v":1,"store":"…","n":7,"at":1700000000000,"opens":3,"sum":"…",
//!  "sessions":[["<tenant>","<session>",12,"<chain>"],["<tenant>","<session>"]],"unnamed":0,"end":false,
//!  "prev":"<mac of the line before>","mac":"…"}
//! ```
//!
//! `sessions` names those that changed since the checkpoint before, with where each ends, and without that when it was
//! destroyed; `unnamed` counts those that found no room. `sum` is over all sessions, named or not. The MAC is over the line
//! as it stands, with the member `mac` left out.

use serde::{Deserialize, Serialize};
use watertight_core::ids::{SessionId, TenantId, UnixMillis};
use watertight_seal::chain;
use watertight_seal::checkpoint::{HeadSum, Signer};

/// Sessions named in one checkpoint at the most.
pub const NAMED: usize = 4096;
/// Longest line of a checkpoint in bytes, with room to spare.
pub const MAX_LINE: usize = 1024 * 1024;

/// Where a session ends: the last entry's place and the chain up to it. None when the session is gone.
pub type HeadAt = Option<(u64, [u8; 32])>;

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The store's id, as in the keystore.
    pub store: [u8; 16],
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// When it was made.
    pub at: UnixMillis,
    /// How often the store had been opened.
    pub opens: i64,
    /// Over every session that has entries.
    pub sum: [u8; 32],
    /// What changed since the one before.
    pub sessions: Vec<(TenantId, SessionId, HeadAt)>,
    /// Sessions that changed too and are not named.
    pub unnamed: u64,
    /// Whether the store was closed right after it.
    pub end: bool,
    /// The MAC of the one before; none for the first.
    pub previous: Option<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    v: u8,
    store: String,
    n: u64,
    at: i64,
    opens: i64,
    sum: String,
    sessions: Vec<Named>,
    unnamed: u64,
    end: bool,
    prev: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Named {
    Ends(String, String, u64, String),
    Gone(String, String),
}

const MAC: &str = ",\"mac\":\"";
/// Bytes of `,"mac":"…"}`.
const TAIL: usize = MAC.len() + 64 + 2;

impl Checkpoint {
    /// The line, without its line break, and its MAC.
    pub fn sign(&self, signer: &Signer) -> (String, [u8; 32]) {
        let named = |(tenant, session, head): &(TenantId, SessionId, HeadAt)| {
            let (tenant, session) = (hex(tenant.as_bytes()), hex(session.as_bytes()));
            match head {
                Some((seq, chain)) => Named::Ends(tenant, session, *seq, hex(chain)),
                None => Named::Gone(tenant, session),
            }
        };
        let line = Line {
            v: 1,
            store: hex(&self.store),
            n: self.number,
            at: self.at.0,
            opens: self.opens,
            sum: hex(&self.sum),
            sessions: self.sessions.iter().map(named).collect(),
            unnamed: self.unnamed,
            end: self.end,
            prev: self.previous.map_or_else(String::new, |mac| hex(&mac)),
        };
        // Nothing in it can fail to become JSON.
        let body = serde_json::to_string(&line).unwrap_or_default();
        let mac = signer.sign(body.as_bytes());
        (format!("{}{MAC}{}\"}}", body.trim_end_matches('}'), hex(&mac)), mac)
    }

    /// The checkpoint of a line and its MAC; none when it is not one that this signer signed.
    pub fn open(line: &str, signer: &Signer) -> Option<(Self, [u8; 32])> {
        let at = line.len().checked_sub(TAIL)?;
        let (body, tail) = line.split_at_checked(at)?;
        let mac = unhex(tail.strip_prefix(MAC)?.strip_suffix("\"}")?)?;
        let body = format!("{body}}}");
        if !chain::same(&signer.sign(body.as_bytes()), &mac) {
            return None;
        }
        let line: Line = serde_json::from_str(&body).ok()?;
        let named = |named: Named| {
            Some(match named {
                Named::Ends(tenant, session, seq, chain) => (
                    TenantId::from_bytes(unhex(&tenant)?),
                    SessionId::from_bytes(unhex(&session)?),
                    Some((seq, unhex(&chain)?)),
                ),
                Named::Gone(tenant, session) => {
                    (TenantId::from_bytes(unhex(&tenant)?), SessionId::from_bytes(unhex(&session)?), None)
                }
            })
        };
        let checkpoint = Self {
            store: unhex(&line.store)?,
            number: line.n,
            at: UnixMillis(line.at),
            opens: line.opens,
            sum: unhex(&line.sum)?,
            sessions: line.sessions.into_iter().map(named).collect::<Option<_>>()?,
            unnamed: line.unnamed,
            end: line.end,
            previous: if line.prev.is_empty() { None } else { Some(unhex(&line.prev)?) },
        };
        (line.v == 1).then_some((checkpoint, mac))
    }
}

/// What a session that ends here adds to the sum; nothing while it has no entries.
pub(crate) fn part(signer: &Signer, tenant: TenantId, session: SessionId, seq: u64, chain: &[u8; 32]) -> HeadSum {
    if seq == 0 { HeadSum::default() } else { signer.head(tenant, session, seq, chain) }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (to, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *to = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_seal::keyring::Root;
    use watertight_seal::master::MasterKey;

    fn signer(byte: u8) -> Signer {
        let root = Root::new(&MasterKey::from_slice(&[byte; 32]).unwrap());
        let (_, pepper) = root.create_pepper().unwrap();
        root.open_signer(&pepper).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        let (tenant, session) = (TenantId::from_bytes([1; 16]), |n| SessionId::from_bytes([n; 16]));
        Checkpoint {
            store: [7; 16],
            number: 3,
            at: UnixMillis(5),
            opens: 2,
            sum: [8; 32],
            sessions: vec![(tenant, session(1), Some((4, [9; 32]))), (tenant, session(2), None)],
            unnamed: 1,
            end: true,
            previous: Some([3; 32]),
        }
    }

    #[test]
    fn a_line_is_json_and_opens_again() {
        let signer = signer(1);
        for checkpoint in [checkpoint(), Checkpoint { sessions: Vec::new(), previous: None, ..checkpoint() }] {
            let (line, mac) = checkpoint.sign(&signer);
            assert_eq!(Checkpoint::open(&line, &signer), Some((checkpoint, mac)));
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((json["n"].as_u64(), json["mac"].as_str().map(str::len)), (Some(3), Some(64)));
        }
    }

    #[test]
    fn a_changed_line_and_another_signers_do_not_open() {
        let signer = signer(1);
        let (line, _) = checkpoint().sign(&signer);
        for at in 0..line.len() {
            let mut changed = line.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(Checkpoint::open(&String::from_utf8(changed).unwrap(), &signer), None, "byte {at}");
            assert_eq!(Checkpoint::open(&line[..at], &signer), None);
        }
        assert_eq!(Checkpoint::open(&line, &self::signer(2)), None);
    }
}
