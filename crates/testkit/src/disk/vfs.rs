//! SQLite's file functions, passed on to the platform's own, with a look at those of watched directories.
//!
//! A watched file is one allocation of SQLite's: [`File`], and behind it what the platform's functions keep. Everything
//! that changes the disk goes through the file's [`Handle`], which is safe code and calls the platform's function itself.

#![allow(unsafe_code, reason = "SQLite takes its file functions as C function pointers")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Once;
use std::{ptr, slice};

use rusqlite::ffi::{
    SQLITE_DELETE, SQLITE_IOERR, SQLITE_OK, SQLITE_OPEN_CREATE, SQLITE_OPEN_MAIN_JOURNAL, SQLITE_OPEN_SUPER_JOURNAL,
    SQLITE_OPEN_WAL, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find,
    sqlite3_vfs_register,
};

use super::recording::{Disk, Handle};

/// Makes this layer SQLite's default. Connections that are open already keep what they have.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: null asks for the default. SQLite's own objects of this type are static.
        let real = unsafe { sqlite3_vfs_find(ptr::null()) };
        assert!(!real.is_null(), "SQLite has file functions of its own");
        // SAFETY: it is not null and nobody changes it. The copy's functions are called with the copy; those kept from the
        // platform's look in it at nothing but the sizes, which are right for both, or not at all.
        let mut ours = unsafe { *real };
        ours.zName = c"watched".as_ptr();
        ours.pNext = ptr::null_mut();
        ours.szOsFile += size_of::<File>() as c_int;
        ours.pAppData = real.cast();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        // SAFETY: the object is never freed, and every function it must have is there.
        let code = unsafe { sqlite3_vfs_register(Box::leak(Box::new(ours)), 1) };
        assert_eq!(code, SQLITE_OK, "SQLite takes the layer");
    });
}

/// An open watched file, as SQLite sees it. The platform's part follows.
#[repr(C)]
struct File {
    base: sqlite3_file,
    /// From `Box::into_raw`, until the file is closed.
    handle: *mut Handle,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};

/// The platform's part of a file.
///
/// # Safety
/// `file` has room for this layer's part and the platform's: SQLite allocated `szOsFile` bytes.
unsafe fn behind(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: still inside the allocation; the size of `File` keeps the alignment.
    unsafe { file.cast::<u8>().add(size_of::<File>()).cast() }
}

/// The recorder's part of a file.
///
/// # Safety
/// `file` was opened by [`open`] and not closed since.
unsafe fn handle<'a>(file: *mut sqlite3_file) -> &'a Handle {
    // SAFETY: `open` wrote a `File` with a handle there, which `close` takes away.
    unsafe { &*(*file.cast::<File>()).handle }
}

/// Directory and name of a path SQLite was given; none for a file without a name.
///
/// # Safety
/// `name` is null or a C string that outlives the answer.
unsafe fn path<'a>(name: *const c_char) -> Option<&'a Path> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as promised.
    let name = unsafe { CStr::from_ptr(name) };
    Some(Path::new(OsStr::from_bytes(name.to_bytes())))
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: `install` put the platform's object there.
    let real: *mut sqlite3_vfs = unsafe { (*vfs).pAppData.cast() };
    // SAFETY: SQLite's own objects are complete.
    let Some(real_open) = (unsafe { (*real).xOpen }) else { return SQLITE_IOERR };
    // SAFETY: SQLite's names live as long as the file is open.
    let Some((disk, name_in_dir)) = unsafe { path(name) }.and_then(Disk::of) else {
        // SAFETY: the arguments as SQLite gave them; the file is the platform's from here on.
        return unsafe { real_open(real, name, file, flags, out_flags) };
    };
    // SAFETY: SQLite allocated the file for this layer.
    let inner = unsafe { behind(file) };
    // SAFETY: SQLite looks at the methods whatever comes of this; null means there is nothing to close.
    unsafe { (*file).pMethods = ptr::null() };
    let creates = flags & SQLITE_OPEN_CREATE != 0;
    let journal = flags & (SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL | SQLITE_OPEN_WAL) != 0;
    let opened = disk.open(name_in_dir, creates && journal, || {
        // SAFETY: the arguments as SQLite gave them, with the room meant for the platform's part.
        unsafe { real_open(real, name, inner, flags, out_flags) }
    });
    match opened {
        Ok(handle) => {
            let ours = File { base: sqlite3_file { pMethods: &raw const METHODS }, handle: Box::into_raw(handle) };
            // SAFETY: the room is SQLite's for this purpose and holds nothing that needs dropping.
            unsafe { ptr::write(file.cast(), ours) };
            SQLITE_OK
        }
        Err(code) => code,
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: `install` put the platform's object there.
    let real: *mut sqlite3_vfs = unsafe { (*vfs).pAppData.cast() };
    // SAFETY: SQLite's own objects are complete.
    let Some(real_delete) = (unsafe { (*real).xDelete }) else { return SQLITE_DELETE };
    // SAFETY: the arguments as SQLite gave them.
    let pass_on = || unsafe { real_delete(real, name, sync_directory) };
    // SAFETY: the name is a C string during this call.
    match unsafe { path(name) }.and_then(Disk::of) {
        Some((disk, name)) => disk.delete(name, sync_directory & 1 != 0, pass_on),
        None => pass_on(),
    }
}

/// Calls the platform's function of a file.
macro_rules! platform {
    ($file:expr, $method:ident ($($argument:expr),*), $missing:expr) => {{
        // SAFETY: `file` is open, so the platform's part is too, with its methods; the arguments are SQLite's own.
        unsafe {
            let file = behind($file);
            match (*(*file).pMethods).$method {
                Some(method) => method(file, $($argument),*),
                None => $missing,
            }
        }
    }};
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = platform!(file, xClose(), SQLITE_OK);
    // SAFETY: `open` made the handle from a box, and SQLite closes a file once.
    drop(unsafe { Box::from_raw((*file.cast::<File>()).handle) });
    code
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite hands over `amount` readable bytes.
    let bytes = unsafe { slice::from_raw_parts(data.cast::<u8>(), amount as usize) };
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    handle.write(offset as u64, bytes, || platform!(file, xWrite(data, amount, offset), SQLITE_IOERR))
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    handle.truncate(size as u64, || platform!(file, xTruncate(size), SQLITE_IOERR))
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    handle.sync(|| platform!(file, xSync(flags), SQLITE_IOERR))
}

/// Functions that change nothing on the disk.
macro_rules! pass_on {
    ($($name:ident => $method:ident($($argument:ident: $type:ty),*) -> $answer:ty, $missing:expr;)*) => {
        $(unsafe extern "C" fn $name(file: *mut sqlite3_file, $($argument: $type),*) -> $answer {
            platform!(file, $method($($argument),*), $missing)
        })*
    };
}

pass_on! {
    read => xRead(data: *mut c_void, amount: c_int, offset: sqlite3_int64) -> c_int, SQLITE_IOERR;
    file_size => xFileSize(size: *mut sqlite3_int64) -> c_int, SQLITE_IOERR;
    lock => xLock(level: c_int) -> c_int, SQLITE_IOERR;
    unlock => xUnlock(level: c_int) -> c_int, SQLITE_IOERR;
    check_reserved_lock => xCheckReservedLock(answer: *mut c_int) -> c_int, SQLITE_IOERR;
    file_control => xFileControl(operation: c_int, argument: *mut c_void) -> c_int, SQLITE_IOERR;
    sector_size => xSectorSize() -> c_int, 0;
    device_characteristics => xDeviceCharacteristics() -> c_int, 0;
    shm_map => xShmMap(region: c_int, size: c_int, extend: c_int, at: *mut *mut c_void) -> c_int, SQLITE_IOERR;
    shm_lock => xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int, SQLITE_IOERR;
    shm_barrier => xShmBarrier() -> (), ();
    shm_unmap => xShmUnmap(delete: c_int) -> c_int, SQLITE_IOERR;
    fetch => xFetch(offset: sqlite3_int64, amount: c_int, at: *mut *mut c_void) -> c_int, SQLITE_IOERR;
    unfetch => xUnfetch(offset: sqlite3_int64, at: *mut c_void) -> c_int, SQLITE_IOERR;
}
