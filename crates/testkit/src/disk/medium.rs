//! What a disk holds when power fails at a point of a recording.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::recording::{Event, Recording, Side};

/// The unit a disk writes whole or not at all, in bytes.
const SECTOR: u64 = 512;

/// Which part of what is pending a cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing of it.
    Nothing,
    /// All of it: power failed before the sync, and the disk was fast.
    Everything,
    /// Any sectors.
    Sectors,
    /// What came first, up to a byte within a write.
    First,
    /// What came last, from a byte within a write on: the disk wrote backwards.
    Last,
}

/// The files of a directory at a point of its recording: what is durable, and what is pending.
pub struct Medium<'r> {
    recording: &'r Recording,
    at: usize,
    files: Vec<File>,
    names: BTreeMap<&'r str, Name>,
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

struct Pending {
    event: usize,
    /// Whether a sync of it failed: no later one makes it durable.
    given_up: bool,
}

#[derive(Default)]
struct Name {
    durable: Option<usize>,
    pending: Vec<(usize, Option<usize>)>,
}

/// The files a cut leaves.
pub struct Image<'r> {
    files: BTreeMap<&'r str, Vec<u8>>,
    sides: Option<&'r BTreeMap<String, Side>>,
}

impl<'r> Medium<'r> {
    /// The directory before anything was recorded.
    pub fn new(recording: &'r Recording) -> Self {
        Self { recording, at: 0, files: Vec::new(), names: BTreeMap::new() }
    }

    /// Goes on until the first `to` events have happened.
    pub fn advance(&mut self, to: usize) {
        while self.at < to {
            let event = &self.recording.events[self.at];
            self.apply(event);
            self.at += 1;
        }
    }

    /// How many writes and changes of size are pending.
    pub fn pending(&self) -> usize {
        self.files.iter().map(|file| file.pending.len()).sum()
    }

    /// How many changes of names are pending.
    pub fn pending_names(&self) -> usize {
        self.names.values().map(|name| name.pending.len()).sum()
    }

    fn apply(&mut self, event: &'r Event) {
        let at = self.at;
        match event {
            Event::Found { name, file, content } => {
                self.file(*file).durable.clone_from(content);
                self.names.entry(name).or_default().durable = Some(*file);
            }
            Event::Created { name, file } => {
                self.file(*file);
                self.names.entry(name).or_default().pending.push((at, Some(*file)));
            }
            Event::Deleted { name } => self.names.entry(name).or_default().pending.push((at, None)),
            Event::Written { file, .. } | Event::Truncated { file, .. } => {
                self.file(*file).pending.push(Pending { event: at, given_up: false });
            }
            Event::SyncStarted { .. } | Event::SyncFeigned { .. } => {}
            Event::Synced { file, started, directory } => {
                let events = &self.recording.events;
                self.file(*file).sync(events, *started);
                if *directory {
                    self.sync_names(*started);
                }
            }
            Event::SyncFailed { file, started } => {
                for pending in &mut self.file(*file).pending {
                    pending.given_up |= pending.event < *started;
                }
            }
            Event::DirectorySynced => self.sync_names(at),
        }
    }

    fn file(&mut self, number: usize) -> &mut File {
        if self.files.len() <= number {
            self.files.resize_with(number + 1, File::default);
        }
        &mut self.files[number]
    }

    fn sync_names(&mut self, started: usize) {
        for name in self.names.values_mut() {
            let synced = name.pending.partition_point(|(event, _)| *event < started);
            if let Some((_, file)) = name.pending.drain(..synced).next_back() {
                name.durable = file;
            }
        }
    }

    /// One image that power failing now may leave.
    pub fn image(&self, keep: Keep, random: &mut fastrand::Rng) -> Image<'r> {
        let choice = self.choose(keep, random);
        let mut files = BTreeMap::new();
        for (name, entry) in &self.names {
            let known = match &choice {
                Choice::Nothing => 0,
                Choice::Everything | Choice::Last { .. } => entry.pending.len(),
                Choice::Sectors { .. } => random.usize(..=entry.pending.len()),
                Choice::First { tear, .. } => entry.pending.partition_point(|(event, _)| event < tear),
            };
            let file = match known.checked_sub(1) {
                Some(last) => entry.pending[last].1,
                None => entry.durable,
            };
            if let Some(file) = file {
                files.insert(*name, self.files[file].content(&self.recording.events, &choice, random));
            }
        }
        let sides = self.recording.sides.iter().rev().find(|(from, _)| *from <= self.at).map(|(_, sides)| sides);
        Image { files, sides }
    }

    fn choose(&self, keep: Keep, random: &mut fastrand::Rng) -> Choice {
        let tear = |random: &mut fastrand::Rng| {
            let pending: Vec<usize> = self.files.iter().flat_map(|file| &file.pending).map(|op| op.event).collect();
            let event = random.choice(pending)?;
            let length = match &self.recording.events[event] {
                Event::Written { data, .. } => data.len(),
                _ => 0,
            };
            Some((event, random.usize(..=length)))
        };
        match keep {
            Keep::Nothing => Choice::Nothing,
            Keep::Everything => Choice::Everything,
            Keep::Sectors => Choice::Sectors { share: random.choice([0.1, 0.5, 0.9]).unwrap_or(0.5) },
            Keep::First => tear(random).map_or(Choice::Everything, |(tear, bytes)| Choice::First { tear, bytes }),
            Keep::Last => tear(random).map_or(Choice::Everything, |(tear, bytes)| Choice::Last { tear, bytes }),
        }
    }
}

/// A [`Keep`] with its dice cast.
enum Choice {
    Nothing,
    Everything,
    /// Each sector with this probability.
    Sectors {
        share: f64,
    },
    /// What came before event `tear`, and of that the first `bytes`.
    First {
        tear: usize,
        bytes: usize,
    },
    /// What came after event `tear`, and of that all but the first `bytes`.
    Last {
        tear: usize,
        bytes: usize,
    },
}

impl Choice {
    /// What is kept of one sector of the write that is `event`; `sector` counts the write's bytes.
    fn kept(&self, event: usize, sector: Range<usize>, random: &mut fastrand::Rng) -> Range<usize> {
        let Range { start, end } = sector;
        let (from, to) = match self {
            Self::Everything => (start, end),
            Self::Sectors { share } if random.f64() < *share => (start, end),
            Self::Nothing | Self::Sectors { .. } => (start, start),
            Self::First { tear, bytes } => match event.cmp(tear) {
                Ordering::Less => (start, end),
                Ordering::Equal => (start, end.min(*bytes)),
                Ordering::Greater => (start, start),
            },
            Self::Last { tear, bytes } => match event.cmp(tear) {
                Ordering::Less => (start, start),
                Ordering::Equal => (start.max(*bytes), end),
                Ordering::Greater => (start, end),
            },
        };
        from..to.max(from)
    }

    /// How many of a file's pending changes its size on the disk knows of.
    fn known_sizes(&self, pending: &[Pending], random: &mut fastrand::Rng) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Everything | Self::Last { .. } => pending.len(),
            Self::Sectors { .. } => random.usize(..=pending.len()),
            Self::First { tear, .. } => pending.partition_point(|op| op.event <= *tear),
        }
    }
}

/// A write cut where sectors of the disk end.
fn sectors(offset: u64, length: usize) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut from = 0;
    while from < length {
        let within = ((offset + from as u64) % SECTOR) as usize;
        let to = length.min(from + SECTOR as usize - within);
        parts.push(from..to);
        from = to;
    }
    parts
}

impl File {
    /// Makes durable what was pending when the sync started.
    fn sync(&mut self, events: &[Event], started: usize) {
        let mut left: Vec<Pending> = Vec::new();
        for op in self.pending.drain(..) {
            if op.event >= started || op.given_up {
                left.push(op);
                continue;
            }
            match &events[op.event] {
                Event::Written { offset, data, .. } => {
                    // What was given up and is overwritten now is gone.
                    left.retain(|old| !overlap(&events[old.event], *offset, data.len()));
                    grow(&mut self.durable, *offset + data.len() as u64);
                    put(&mut self.durable, *offset, data);
                }
                Event::Truncated { size, .. } => self.durable.resize(*size as usize, 0),
                _ => {}
            }
        }
        self.pending = left;
    }

    fn content(&self, events: &[Event], choice: &Choice, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut content = self.durable.clone();
        let known = choice.known_sizes(&self.pending, random);
        for (at, op) in self.pending.iter().enumerate() {
            match &events[op.event] {
                Event::Written { offset, data, .. } => {
                    if at < known {
                        let reached = match choice {
                            // Of the torn write itself the size follows the bytes.
                            Choice::First { tear, bytes } if op.event == *tear => *bytes,
                            _ => data.len(),
                        };
                        grow(&mut content, offset + reached as u64);
                    }
                    for sector in sectors(*offset, data.len()) {
                        let part = choice.kept(op.event, sector, random);
                        put(&mut content, offset + part.start as u64, &data[part]);
                    }
                }
                Event::Truncated { size, .. } if at < known => content.resize(*size as usize, 0),
                _ => {}
            }
        }
        content
    }
}

fn overlap(event: &Event, offset: u64, length: usize) -> bool {
    match event {
        Event::Written { offset: from, data, .. } => {
            *from < offset + length as u64 && offset < from + data.len() as u64
        }
        _ => false,
    }
}

fn grow(content: &mut Vec<u8>, size: u64) {
    if content.len() < size as usize {
        content.resize(size as usize, 0);
    }
}

/// Writes what lies within the size; what lies behind it is unreachable.
fn put(content: &mut [u8], offset: u64, data: &[u8]) {
    if let Some(place) = content.get_mut(offset as usize..) {
        let length = place.len().min(data.len());
        place[..length].copy_from_slice(&data[..length]);
    }
}

impl Image<'_> {
    /// What the file of this name holds; none where it is not there.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Makes the image all that is in `dir`.
    pub fn write_to(&self, dir: &Path) -> std::io::Result<()> {
        let sides = self.sides.into_iter().flatten();
        let all: BTreeMap<&str, Cow<'_, [u8]>> = self
            .files
            .iter()
            .map(|(name, content)| (*name, Cow::from(content)))
            .chain(sides.map(|(name, side)| (name.as_str(), Cow::from(&*side.content))))
            .collect();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| all.contains_key(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        for (name, content) in all {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(name))?;
            file.write_all(&content)?;
            file.set_len(content.len() as u64)?;
        }
        Ok(())
    }
}
