//! Markers that say whose they are: for runs of so many that no list of them could be kept.
//!
//! A tag is [`PREFIX`], its owner, what it stands in, a serial number and check digits: lower-case letters and digits, so
//! that no key folding, JSON escape or percent-encoding changes it. The prefix is looked for in either letter case, in
//! hex and in base64, and what follows is decoded from that form: a leak that was encoded on its way is still a leak.

use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;

/// What every tag begins with.
pub const PREFIX: &str = "wtcanary";

/// Hex digits of an owner: four each for tenant, session and generation.
const OWNER_DIGITS: usize = 12;
/// Characters after the prefix: the owner, the sort, eight digits of serial number, four of check.
const REST: usize = OWNER_DIGITS + 1 + 8 + 4;

/// Whose a tag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Number of the tenant.
    pub tenant: u16,
    /// Number of the session in its tenant.
    pub session: u16,
    /// Number of the transcript in its session.
    pub generation: u16,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenant {} session {} generation {}", self.tenant, self.session, self.generation)
    }
}

/// A marker that says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Whose it is.
    pub owner: Owner,
    /// What it stands in, a letter from `g` to `z`, such as `i` for inputs.
    pub sort: char,
    /// Tells tags of one sort apart.
    pub serial: u32,
}

/// Whose tags something may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Nobody's.
    Nobody,
    /// Those of this tenant.
    Tenant(u16),
    /// Those of this session: tenant and session.
    Session(u16, u16),
    /// Those of this transcript of a session.
    Generation(Owner),
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
            Self::Session(tenant, session) => write!(f, "tenant {tenant} session {session}"),
            Self::Generation(owner) => write!(f, "{owner}"),
        }
    }
}

/// A tag that was found, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All of it.
    Whole(Tag),
    /// Its beginning, as in a preview that was cut or a piece of a stream. The visible part of what follows the prefix.
    Cut(String),
    /// As long as a tag, but its check digits are wrong: two were spliced, or one was changed.
    Altered(String),
}

impl Reading {
    /// Whether it may be shown to this audience. What is left of a cut one must agree as far as it goes.
    pub fn is_for(&self, audience: Audience) -> bool {
        let (owner, digits) = match audience {
            Audience::Nobody => return false,
            Audience::Tenant(tenant) => (Owner { tenant, session: 0, generation: 0 }, 4),
            Audience::Session(tenant, session) => (Owner { tenant, session, generation: 0 }, 8),
            Audience::Generation(owner) => (owner, OWNER_DIGITS),
        };
        match self {
            Self::Altered(_) => false,
            Self::Whole(Tag { owner: seen, .. }) => {
                seen.tenant == owner.tenant
                    && (digits < 8 || seen.session == owner.session)
                    && (digits < OWNER_DIGITS || seen.generation == owner.generation)
            }
            Self::Cut(rest) => {
                rest.bytes().zip(self::digits(owner).bytes().take(digits)).all(|(seen, own)| seen == own)
            }
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(Tag { owner, sort, serial }) => write!(f, "{sort}{serial} of {owner}"),
            Self::Cut(rest) => write!(f, "a cut tag {PREFIX}{rest}"),
            Self::Altered(rest) => write!(f, "a spliced or changed tag {PREFIX}{rest}"),
        }
    }
}

fn digits(Owner { tenant, session, generation }: Owner) -> String {
    format!("{tenant:04x}{session:04x}{generation:04x}")
}

/// How a tag was written where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Hex,
    /// Base64, with this many bytes before the tag in its first group of three.
    Base64(usize),
}

/// Makes tags and finds them.
pub struct Tags {
    key: u64,
    finders: Vec<(Form, Finder<'static>)>,
}

impl Tags {
    /// Tags of this run: those of a run with another key are found, but their check digits are wrong.
    pub fn new(key: u64) -> Self {
        let finder = |form, text: &str| (form, Finder::new(text).into_owned());
        let hex = PREFIX.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let mut finders = vec![
            finder(Form::Plain, PREFIX),
            finder(Form::Plain, &PREFIX.to_ascii_uppercase()),
            finder(Form::Hex, &hex),
            finder(Form::Hex, &hex.to_ascii_uppercase()),
        ];
        for before in 0..3 {
            let shifted = [&[0; 2][..before], PREFIX.as_bytes()].concat();
            // The digits that depend on what stands before or after the prefix are cut off.
            let stable = SKIPPED[before]..shifted.len() * 8 / 6;
            let encoded = STANDARD_NO_PAD.encode(&shifted)[stable].to_owned();
            assert!(!encoded.contains(['+', '/']), "both alphabets write the prefix alike");
            finders.push(finder(Form::Base64(before), &encoded));
        }
        Self { key, finders }
    }

    /// The tag as text.
    pub fn text(&self, tag: Tag) -> String {
        let mut text = format!("{PREFIX}{}{}{:08x}", digits(tag.owner), tag.sort, tag.serial);
        let check = self.check(&text[PREFIX.len()..]);
        let _ = write!(text, "{check:04x}");
        text
    }

    /// Every tag in the bytes with its place there: first those that are written as they are, in order, then others.
    pub fn find(&self, bytes: &[u8], mut found: impl FnMut(usize, Reading)) {
        for (form, finder) in &self.finders {
            for at in finder.find_iter(bytes) {
                found(at, self.read(*form, bytes, at));
            }
        }
    }

    fn read(&self, form: Form, bytes: &[u8], at: usize) -> Reading {
        let rest: String = match form {
            Form::Plain => visible(&bytes[at + PREFIX.len()..]),
            Form::Hex => visible(&from_hex(&bytes[at + PREFIX.len() * 2..])),
            Form::Base64(before) => {
                let start = at.saturating_sub(SKIPPED[before]);
                visible(from_base64(&bytes[start..]).get(before + PREFIX.len()..).unwrap_or_default())
            }
        };
        if rest.len() < REST {
            return Reading::Cut(rest);
        }
        match self.parse(&rest) {
            Some(tag) => Reading::Whole(tag),
            None => Reading::Altered(rest),
        }
    }

    fn parse(&self, rest: &str) -> Option<Tag> {
        let number = |from: usize, to: usize| u32::from_str_radix(rest.get(from..to)?, 16).ok();
        let short = |from: usize| u16::try_from(number(from, from + 4)?).ok();
        let owner = Owner { tenant: short(0)?, session: short(4)?, generation: short(8)? };
        let sort = char::from(*rest.as_bytes().get(OWNER_DIGITS)?);
        let tag = Tag { owner, sort, serial: number(OWNER_DIGITS + 1, REST - 4)? };
        (number(REST - 4, REST)? == u32::from(self.check(&rest[..REST - 4]))).then_some(tag)
    }

    /// FNV-1a over the key and the digits: catches splices, defends against nobody.
    fn check(&self, digits: &str) -> u16 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.key;
        for byte in digits.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        (hash >> 32 ^ hash >> 16 ^ hash) as u16
    }
}

/// Base64 digits before the first that depends on the prefix alone, by the number of bytes before it.
const SKIPPED: [usize; 3] = [0, 2, 3];

/// What may belong to a tag, of the bytes that follow its prefix.
fn visible(bytes: &[u8]) -> String {
    let of_tag = bytes.iter().take(REST).take_while(|byte| byte.is_ascii_alphanumeric());
    of_tag.map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

fn from_hex(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = bytes.chunks_exact(2).take(REST);
    let bytes = pairs.map_while(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8));
    bytes.collect()
}

/// As much as can be decoded of what a tag may take.
fn from_base64(bytes: &[u8]) -> Vec<u8> {
    let of_text = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(*byte);
    let mut text: Vec<u8> =
        bytes.iter().take((PREFIX.len() + REST).div_ceil(3) * 4 + 4).take_while(of_text).copied().collect();
    // One digit alone is no byte.
    if text.len() % 4 == 1 {
        text.pop();
    }
    // The last digit may stand for bits that follow, where the text goes on.
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for end in [text.len(), text.len() / 4 * 4] {
            if let Ok(decoded) = engine.decode(&text[..end]) {
                return decoded;
            }
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag { owner: Owner { tenant: 7, session: 0x1a2b, generation: 3 }, sort: 'i', serial: 0xdead_beef };

    fn found(tags: &Tags, bytes: &[u8]) -> Vec<Reading> {
        let mut found = Vec::new();
        tags.find(bytes, |_, reading| found.push(reading));
        found
    }

    #[test]
    fn a_tag_is_read_in_every_form_and_at_every_offset() {
        let tags = Tags::new(42);
        let tag = tags.text(TAG);
        for (before, after) in [("", ""), ("a", "-"), ("?>", "~~"), ("abc ", " and more to come"), ("\"", "\"")] {
            let text = format!("{before}{tag}{after}");
            let hex: String = text.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            for form in [
                text.clone(),
                text.to_ascii_uppercase(),
                hex.to_ascii_uppercase(),
                hex,
                STANDARD_NO_PAD.encode(&text),
                URL_SAFE_NO_PAD.encode(&text),
                format!("data:image/png;base64,{}==\"", STANDARD_NO_PAD.encode(&text)),
            ] {
                assert_eq!(found(&tags, form.as_bytes()), [Reading::Whole(TAG)], "{form}");
            }
        }
        assert!(found(&tags, b"wtcanar y wt canary").is_empty());
    }

    #[test]
    fn all_tags_of_a_text_are_found_with_their_places() {
        let tags = Tags::new(1);
        let other = Tag { serial: 1, ..TAG };
        let text = format!("x{}{}", tags.text(TAG), tags.text(other));
        let mut places = Vec::new();
        tags.find(text.as_bytes(), |at, reading| places.push((at, reading)));
        assert_eq!(places, [(1, Reading::Whole(TAG)), (34, Reading::Whole(other))]);
    }

    #[test]
    fn what_is_left_of_a_cut_tag_must_agree_with_its_audience() {
        let tags = Tags::new(42);
        let tag = tags.text(TAG);
        let own = [Audience::Tenant(7), Audience::Session(7, 0x1a2b), Audience::Generation(TAG.owner)];
        for end in PREFIX.len()..tag.len() {
            let [cut] = &found(&tags, format!("{}…", &tag[..end]).as_bytes())[..] else { panic!("one tag") };
            assert!(matches!(cut, Reading::Cut(_)));
            assert!(own.iter().all(|audience| cut.is_for(*audience)), "{cut}");
            assert!(!cut.is_for(Audience::Nobody));
            assert_eq!(cut.is_for(Audience::Tenant(8)), end < PREFIX.len() + 4, "{cut}");
        }
    }

    #[test]
    fn a_tag_is_for_its_owner_alone() {
        let whole = Reading::Whole(TAG);
        let Owner { tenant, session, generation } = TAG.owner;
        assert!(whole.is_for(Audience::Generation(TAG.owner)));
        for audience in [
            Audience::Nobody,
            Audience::Tenant(tenant + 1),
            Audience::Session(tenant + 1, session),
            Audience::Session(tenant, session + 1),
            Audience::Generation(Owner { generation: generation + 1, ..TAG.owner }),
        ] {
            assert!(!whole.is_for(audience), "{audience}");
        }
    }

    #[test]
    fn a_spliced_or_foreign_tag_is_for_nobody() {
        let tags = Tags::new(42);
        let (tag, other) = (tags.text(TAG), tags.text(Tag { owner: Owner { session: 9, ..TAG.owner }, ..TAG }));
        let spliced = format!("{}{}", &tag[..16], &other[16..]);
        for text in [spliced, Tags::new(43).text(TAG)] {
            let [altered] = &found(&tags, text.as_bytes())[..] else { panic!("one tag") };
            assert!(matches!(altered, Reading::Altered(_)) && !altered.is_for(Audience::Tenant(7)), "{altered}");
        }
    }
}
