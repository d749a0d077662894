//! What is recorded of a watched directory, and the faults that are injected into it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_OK};
use tempfile::TempDir;

use super::vfs;

/// Free bytes that make a file system in memory good enough for scratch directories.
const ROOM: u64 = 1 << 30;

/// One thing that happened to the files of a directory. A file is known by its number; a name may pass to another file.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file that was there before SQLite opened it, durable as it is.
    Found {
        /// Its name in the directory.
        name: String,
        /// Its number.
        file: usize,
        /// What it holds.
        content: Vec<u8>,
    },
    /// A new, empty file got a name.
    Created {
        /// The name.
        name: String,
        /// Its number.
        file: usize,
    },
    /// A name went away. What SQLite still writes to the file is recorded.
    Deleted {
        /// The name.
        name: String,
    },
    /// Bytes were written; the file grew where they end behind its end.
    Written {
        /// The file.
        file: usize,
        /// Where the bytes start.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The size was set.
    Truncated {
        /// The file.
        file: usize,
        /// The new size in bytes.
        size: u64,
    },
    /// SQLite asked for a sync.
    SyncStarted {
        /// The file.
        file: usize,
    },
    /// The sync that started at event `started` returned: what came before that is durable.
    Synced {
        /// The file.
        file: usize,
        /// Which event the start was.
        started: usize,
        /// Whether the directory was synced with it.
        directory: bool,
    },
    /// The sync that started at event `started` failed.
    SyncFailed {
        /// The file.
        file: usize,
        /// Which event the start was.
        started: usize,
    },
    /// The sync that started at event `started` returned as if done, and nothing was.
    SyncFeigned {
        /// Which event the start was.
        started: usize,
    },
    /// The directory was synced.
    DirectorySynced,
}

/// A file of the directory that SQLite has nothing to do with, such as a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    modified: Option<SystemTime>,
    /// What it holds.
    pub content: Arc<[u8]>,
}

/// Everything recorded.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// What happened, in order.
    pub events: Vec<Event>,
    /// The other files by name, each time from the event of this number on.
    pub sides: Vec<(usize, BTreeMap<String, Side>)>,
}

/// A failure to inject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next sync of the file of this name fails with an I/O error; later ones succeed, as on Linux.
    SyncOf(&'static str),
    /// No file can grow.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Recorded,
    Scratch,
}

/// A watched directory.
pub struct Disk {
    dir: PathBuf,
    manner: Manner,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    recording: Recording,
    /// The files that have a name now.
    named: HashMap<String, usize>,
    /// Size of each file.
    sizes: Vec<u64>,
    /// Syncs of each name that returned without an error.
    syncs: HashMap<String, usize>,
    fault: Option<Fault>,
    lies: bool,
    /// After which event a fault was first met.
    met: Option<usize>,
}

/// Watched directories.
static WATCHED: Mutex<Vec<(PathBuf, Weak<Disk>)>> = Mutex::new(Vec::new());

impl Disk {
    /// Records what SQLite does to the files of `dir` from now on, while the answer lives or a file is open.
    pub fn recorded(dir: &Path) -> Arc<Self> {
        Self::watch(dir, Manner::Recorded)
    }

    /// Goes on with a recording in a directory that holds what another process left when it was killed after the first
    /// `at` events: all it wrote, since the system's memory outlives it, while what was pending is pending still.
    pub fn continued(dir: &Path, mut recording: Recording, at: usize) -> Arc<Self> {
        recording.events.truncate(at);
        recording.sides.retain(|(from, _)| *from <= at);
        let disk = Self::watch(dir, Manner::Recorded);
        *disk.state() = State::after(recording);
        disk
    }

    /// Records nothing and syncs nothing: for copies that nobody needs after the process. In a new directory, in memory
    /// where the system has a file system there with room.
    pub fn scratch() -> (Arc<Self>, TempDir) {
        let memory = Path::new("/dev/shm");
        let roomy = rustix::fs::statvfs(memory).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= ROOM);
        let in_memory = if roomy { tempfile::tempdir_in(memory).ok() } else { None };
        let dir = in_memory.unwrap_or_else(|| tempfile::tempdir().expect("a directory can be made"));
        (Self::watch(dir.path(), Manner::Scratch), dir)
    }

    fn watch(dir: &Path, manner: Manner) -> Arc<Self> {
        vfs::install();
        let dir = dir.canonicalize().expect("the directory to watch exists");
        let disk = Arc::new(Self { dir: dir.clone(), manner, state: Mutex::default() });
        let mut watched = lock(&WATCHED);
        watched.retain(|(known, disk)| *known != dir && disk.strong_count() > 0);
        watched.push((dir, Arc::downgrade(&disk)));
        disk
    }

    /// The disk that watches the directory of `path`, and the name in it.
    pub(super) fn of(path: &Path) -> Option<(Arc<Self>, &str)> {
        let (dir, name) = (path.parent()?, path.file_name()?.to_str()?);
        let watched = lock(&WATCHED);
        let (_, disk) = watched.iter().find(|(known, _)| known == dir)?;
        Some((disk.upgrade()?, name))
    }

    /// How many events were recorded until now. What a caller notes with this number happened after the events before it.
    pub fn now(&self) -> usize {
        self.state().recording.events.len()
    }

    /// How many syncs of the file of this name returned.
    pub fn syncs_of(&self, name: &str) -> usize {
        self.state().syncs.get(name).copied().unwrap_or(0)
    }

    /// Injects a fault, or takes it back.
    pub fn inject(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.fault = fault;
        state.met = None;
    }

    /// Whether syncs are feigned from now on: they return as if done, and nothing is.
    pub fn lie(&self, lies: bool) {
        self.state().lies = lies;
    }

    /// How many events were recorded when the injected fault was first met; none when it was not.
    pub fn fault_met(&self) -> Option<usize> {
        self.state().met
    }

    /// Ends the recording.
    pub fn finish(&self) -> Recording {
        std::mem::take(&mut self.state().recording)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Opens a file with the platform's function. `journal` says that SQLite may create it and will sync the directory with
    /// its first sync.
    pub(super) fn open(
        self: Arc<Self>,
        name: &str,
        journal: bool,
        real: impl FnOnce() -> c_int,
    ) -> Result<Box<Handle>, c_int> {
        let mut state = self.state();
        let path = self.dir.join(name);
        let records = self.manner != Manner::Scratch;
        // Before it is opened: afterwards it is there in any case.
        let content = if records && !state.named.contains_key(name) { fs::read(&path).ok() } else { None };
        let code = real();
        if code != SQLITE_OK {
            return Err(code);
        }
        let mut file = 0;
        if records {
            file = match state.named.get(name) {
                Some(file) => *file,
                None => state.name(name, content),
            };
            state.look_aside(&self.dir);
        }
        drop(state);
        let syncs_directory = AtomicBool::new(journal);
        Ok(Box::new(Handle { disk: self, file, name: name.to_owned(), syncs_directory }))
    }

    /// Deletes a file with the platform's function.
    pub(super) fn delete(&self, name: &str, syncs_directory: bool, real: impl FnOnce() -> c_int) -> c_int {
        let mut state = self.state();
        let code = real();
        if code == SQLITE_OK && self.manner != Manner::Scratch {
            state.named.remove(name);
            state.recording.events.push(Event::Deleted { name: name.to_owned() });
            if syncs_directory && !state.lies {
                state.recording.events.push(Event::DirectorySynced);
            }
        }
        code
    }
}

impl State {
    fn after(recording: Recording) -> Self {
        let mut state = Self::default();
        for event in &recording.events {
            match event {
                Event::Found { name, file, content } => {
                    state.sizes.push(content.len() as u64);
                    state.named.insert(name.clone(), *file);
                }
                Event::Created { name, file } => {
                    state.sizes.push(0);
                    state.named.insert(name.clone(), *file);
                }
                Event::Deleted { name } => drop(state.named.remove(name)),
                Event::Written { file, offset, data } => {
                    state.sizes[*file] = state.sizes[*file].max(offset + data.len() as u64);
                }
                Event::Truncated { file, size } => state.sizes[*file] = *size,
                _ => {}
            }
        }
        Self { recording, ..state }
    }

    /// A file that is seen for the first time.
    fn name(&mut self, name: &str, content: Option<Vec<u8>>) -> usize {
        let file = self.sizes.len();
        self.sizes.push(content.as_ref().map_or(0, |content| content.len() as u64));
        self.named.insert(name.to_owned(), file);
        let name = name.to_owned();
        self.recording.events.push(match content {
            Some(content) => Event::Found { name, file, content },
            None => Event::Created { name, file },
        });
        file
    }

    /// Notes the directory's other files where they changed.
    fn look_aside(&mut self, dir: &Path) {
        let last = self.recording.sides.last().map(|(_, sides)| sides);
        let mut sides = BTreeMap::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let passing = name.ends_with("-shm") || Path::new(&name).extension().is_some_and(|end| end == "lock");
            let own = passing || self.named.contains_key(&name);
            let Some(meta) = entry.metadata().ok().filter(|meta| meta.is_file() && !own) else { continue };
            let modified = meta.modified().ok();
            let known = last.and_then(|last| last.get(&name));
            let side = match known {
                Some(side) if side.modified == modified && side.content.len() as u64 == meta.len() => side.clone(),
                _ => match fs::read(entry.path()) {
                    Ok(content) => Side { modified, content: content.into() },
                    Err(_) => continue,
                },
            };
            sides.insert(name, side);
        }
        if last != Some(&sides) {
            self.recording.sides.push((self.recording.events.len(), sides));
        }
    }

    fn meet_fault(&mut self) {
        let now = self.recording.events.len();
        self.met.get_or_insert(now);
    }
}

/// A file SQLite has open in a watched directory.
pub(super) struct Handle {
    disk: Arc<Disk>,
    file: usize,
    name: String,
    /// Whether the next sync takes the directory along.
    syncs_directory: AtomicBool,
}

impl Handle {
    pub(super) fn write(&self, offset: u64, data: &[u8], real: impl FnOnce() -> c_int) -> c_int {
        if self.disk.manner == Manner::Scratch {
            return real();
        }
        let mut state = self.disk.state();
        let end = offset + data.len() as u64;
        if end > state.sizes[self.file] {
            if state.fault == Some(Fault::Full) {
                state.meet_fault();
                return SQLITE_FULL;
            }
            state.sizes[self.file] = end;
        }
        // Also where the platform's function fails: some of it may be on the disk.
        state.recording.events.push(Event::Written { file: self.file, offset, data: data.to_owned() });
        real()
    }

    pub(super) fn truncate(&self, size: u64, real: impl FnOnce() -> c_int) -> c_int {
        if self.disk.manner == Manner::Scratch {
            return real();
        }
        let mut state = self.disk.state();
        state.sizes[self.file] = size;
        state.recording.events.push(Event::Truncated { file: self.file, size });
        real()
    }

    pub(super) fn sync(&self, real: impl FnOnce() -> c_int) -> c_int {
        if self.disk.manner == Manner::Scratch {
            return SQLITE_OK;
        }
        let file = self.file;
        let (started, fails, lies) = {
            let mut state = self.disk.state();
            state.look_aside(&self.disk.dir);
            let started = state.recording.events.len();
            state.recording.events.push(Event::SyncStarted { file });
            let fails = matches!(state.fault, Some(Fault::SyncOf(name)) if name == self.name);
            if fails {
                state.fault = None;
                state.meet_fault();
            }
            (started, fails, state.lies)
        };
        // Others go on meanwhile. What they write is recorded after the start, so this sync does not vouch for it.
        let code = match (fails, lies) {
            (true, _) => SQLITE_IOERR_FSYNC,
            (false, true) => SQLITE_OK,
            (false, false) => real(),
        };
        let mut state = self.disk.state();
        let event = match (code, lies) {
            (SQLITE_OK, true) => Event::SyncFeigned { started },
            (SQLITE_OK, false) => {
                let directory = self.syncs_directory.swap(false, Ordering::Relaxed);
                Event::Synced { file, started, directory }
            }
            _ => Event::SyncFailed { file, started },
        };
        state.recording.events.push(event);
        if code == SQLITE_OK {
            *state.syncs.entry(self.name.clone()).or_default() += 1;
        }
        code
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
