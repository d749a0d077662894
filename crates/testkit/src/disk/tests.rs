//! The model against SQLite itself: what it commits with syncs survives every cut, and the machine sees what does not.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::{Disk, Event, Fault, Keep, Medium, Recording};

const ALL: [Keep; 5] = [Keep::Nothing, Keep::Everything, Keep::Sectors, Keep::First, Keep::Last];
const COMMITS: usize = 12;

/// Commits one row after the other; answers what was recorded, and after which event each commit had returned.
fn recorded(disk: &Disk, dir: &Path, settings: &str) -> (Recording, Vec<usize>) {
    let conn = Connection::open(dir.join("t.db")).unwrap();
    conn.execute_batch(settings).unwrap();
    conn.execute_batch("CREATE TABLE t (x, y)").unwrap();
    let mut told = Vec::new();
    for x in 0..COMMITS {
        conn.execute("INSERT INTO t VALUES (?1, randomblob(3000))", [x as i64]).unwrap();
        if x % 5 == 4 {
            let _ = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        told.push(disk.now());
    }
    drop(conn);
    (disk.finish(), told)
}

/// How many images of all cuts miss a commit that had returned, or do not open.
fn losses(recording: &Recording, told: &[usize], keeps: &[Keep]) -> usize {
    let (_disk, dir) = Disk::scratch();
    let mut medium = Medium::new(recording);
    let mut random = fastrand::Rng::with_seed(7);
    let mut lost = 0;
    for cut in told[0]..=recording.events.len() {
        medium.advance(cut);
        for keep in keeps {
            medium.image(*keep, &mut random).write_to(dir.path()).unwrap();
            let wanted = told.partition_point(|at| *at <= cut);
            lost += usize::from(!holds(dir.path(), wanted));
        }
    }
    lost
}

fn holds(dir: &Path, wanted: usize) -> bool {
    let read = || -> rusqlite::Result<bool> {
        let conn = Connection::open(dir.join("t.db"))?;
        let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let mut rows = conn.prepare("SELECT x FROM t WHERE length(y) = 3000 ORDER BY rowid")?;
        let rows: Vec<usize> =
            rows.query_map([], |row| row.get::<_, i64>(0).map(|x| x as usize))?.collect::<Result<_, _>>()?;
        Ok(sound == "ok" && rows.len() >= wanted && rows.iter().enumerate().all(|(at, x)| at == *x))
    };
    read().unwrap_or(false)
}

#[test]
fn a_synced_commit_survives_every_cut() {
    for (mode, synchronous) in [("WAL", "FULL"), ("TRUNCATE", "FULL"), ("PERSIST", "FULL"), ("DELETE", "EXTRA")] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::recorded(dir.path());
        let settings = format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = {synchronous}");
        let (recording, told) = recorded(&disk, dir.path(), &settings);
        assert_eq!(losses(&recording, &told, &ALL), 0, "{mode} {synchronous}");
    }
}

/// SQLite's own documentation says so of `DELETE` without `EXTRA`: the deleted journal may come back.
#[test]
fn a_name_whose_directory_was_not_synced_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::recorded(dir.path());
    let (recording, told) = recorded(&disk, dir.path(), "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL");
    assert!(losses(&recording, &told, &[Keep::Nothing]) > 0);
}

#[test]
fn a_commit_without_a_sync_is_seen_to_be_lost() {
    for mode in ["WAL", "TRUNCATE"] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::recorded(dir.path());
        let (recording, told) =
            recorded(&disk, dir.path(), &format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = OFF"));
        assert!(losses(&recording, &told, &[Keep::Nothing]) > 0, "{mode}");
        assert!(losses(&recording, &told, &[Keep::Sectors]) > 0, "{mode}");
        assert_eq!(losses(&recording, &told, &[Keep::Everything]), 0, "a disk that was fast enough lost nothing");

        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::recorded(dir.path());
        disk.lie(true);
        let (recording, told) =
            recorded(&disk, dir.path(), &format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = FULL"));
        assert!(losses(&recording, &told, &[Keep::Nothing]) > 0, "{mode} on a lying disk");
    }
}

#[test]
fn what_a_failed_sync_gave_up_no_later_sync_makes_durable() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::recorded(dir.path());
    let conn = Connection::open(dir.path().join("t.db")).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (x, y)").unwrap();
    conn.execute("INSERT INTO t VALUES (0, randomblob(3000))", []).unwrap();
    let told = disk.now();
    disk.inject(Some(Fault::SyncOf("t.db-wal")));
    let failed = conn.execute("INSERT INTO t VALUES (1, randomblob(3000))", []).unwrap_err();
    assert_eq!(failed.sqlite_error_code(), Some(ErrorCode::SystemIoFailure));
    assert!(disk.fault_met().is_some());
    conn.execute("INSERT INTO t VALUES (1, randomblob(3000))", []).unwrap();
    drop(conn);
    let recording = disk.finish();
    assert!(recording.events.iter().any(|event| matches!(event, Event::SyncFailed { .. })));
    // The first row was durable before the failure, and stays so.
    assert_eq!(losses(&recording, &[told], &ALL), 0);
}

#[test]
fn a_full_disk_takes_no_growth_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::recorded(dir.path());
    let conn = Connection::open(dir.path().join("t.db")).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (x, y)").unwrap();
    disk.inject(Some(Fault::Full));
    let insert = || conn.execute("INSERT INTO t VALUES (0, randomblob(3000))", []);
    assert_eq!(insert().unwrap_err().sqlite_error_code(), Some(ErrorCode::DiskFull));
    disk.inject(None);
    insert().unwrap();
}

#[test]
fn files_of_other_directories_are_not_watched() {
    let (watched, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = Disk::recorded(watched.path());
    Connection::open(other.path().join("t.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert_eq!(disk.now(), 0);
    Connection::open(watched.path().join("t.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(disk.now() > 0);
}

/// A file of two sectors of zeros, and ones written over both.
fn overwritten() -> Recording {
    let events = vec![
        Event::Found { name: "f".to_owned(), file: 0, content: vec![0; 1024] },
        Event::Written { file: 0, offset: 0, data: vec![1; 1024] },
        Event::SyncStarted { file: 0 },
        Event::Written { file: 0, offset: 1024, data: vec![2; 512] },
        Event::Synced { file: 0, started: 2, directory: false },
    ];
    Recording { events, sides: Vec::new() }
}

/// Every content the dice give, as (ones at the start, ones in all, length).
fn contents(recording: &Recording, cut: usize, keep: Keep) -> std::collections::BTreeSet<(usize, usize, usize)> {
    let mut medium = Medium::new(recording);
    medium.advance(cut);
    let shape = |seed| {
        let image = medium.image(keep, &mut fastrand::Rng::with_seed(seed));
        let content = image.file("f").unwrap();
        let first = content.iter().take_while(|byte| **byte == 1).count();
        (first, content.iter().map(|byte| usize::from(*byte == 1)).sum::<usize>(), content.len())
    };
    (0..200).map(shape).collect()
}

#[test]
fn a_pending_write_is_there_in_any_part_and_a_synced_one_as_a_whole() {
    let recording = overwritten();
    let pending = |keep| contents(&recording, 2, keep);
    assert_eq!(pending(Keep::Nothing), [(0, 0, 1024)].into());
    assert_eq!(pending(Keep::Everything), [(1024, 1024, 1024)].into());
    let sectors = [(0, 0, 1024), (0, 512, 1024), (512, 512, 1024), (1024, 1024, 1024)];
    assert_eq!(pending(Keep::Sectors), sectors.into());
    let first = pending(Keep::First);
    assert!(first.len() > 50 && first.iter().all(|(first, all, _)| first == all), "torn at any byte");
    let last = pending(Keep::Last);
    assert!(last.len() > 50 && last.iter().all(|(first, all, _)| *first == 0 || all == first));

    // Not yet durable when the sync has begun, and what was written after it began is not vouched for.
    assert_eq!(contents(&recording, 4, Keep::Nothing), [(0, 0, 1024)].into());
    assert_eq!(contents(&recording, 5, Keep::Nothing), [(1024, 1024, 1024)].into());
    assert_eq!(contents(&recording, 5, Keep::Everything), [(1024, 1024, 1536)].into());
    let sizes: Vec<usize> = contents(&recording, 5, Keep::Sectors).into_iter().map(|(_, _, size)| size).collect();
    assert_eq!(sizes, [1024, 1536], "the size may have changed or not");
}
