//! A disk under SQLite that loses power, lies about syncs, fails and fills up.
//!
//! * [`vfs`]: the layer between SQLite and the platform's file functions, SQLite's default for the whole process once the
//!   first directory is watched. The one module of this crate that holds `unsafe` code. Files outside watched directories
//!   are not touched by it.
//! * [`recording`]: what is recorded of a directory, in one order, and the faults that are injected.
//! * [`medium`]: what an honest disk may hold when power fails at a point of a recording.
//!
//! # The model
//!
//! A write or a change of size is *pending* until a sync of its file that began after it has returned; then it is durable.
//! A file's name, and that it was deleted, is pending until its directory is synced, which SQLite does at the first sync of
//! a journal or log it may have created, and with a delete when it asks for it. A sync of the file alone does not make the
//! name durable, which is less than the usual file systems promise. A file that was there before SQLite opened it counts
//! as durable with what it held: the store makes and syncs its files before.
//!
//! At a cut everything durable is there. Of what is pending any part may be:
//!
//! * of each write any of its 512-byte sectors, whatever came before or after it; in a torn write, the sector at the tear up
//!   to any byte;
//! * of a file's changes of size the first so many; a part that the size covers and no write reached reads as zeros;
//! * of the changes to one name the first so many.
//!
//! Bytes beside those being written stay as they were (SQLite's "powersafe overwrite", which it relies on by default).
//! After a failed sync what was pending may be on the disk or not, and no later sync makes it durable: the page cache may
//! have dropped it (isolation.md C9). Shared memory (`-shm`) is no file of the disk's; it is gone after a cut.

mod medium;
mod recording;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests;
mod vfs;

pub use medium::{Image, Keep, Medium};
pub use recording::{Disk, Event, Fault, Recording, Side};
