//! What must hold in a trace.
//!
//! The store's one writer writes a commit's pages to the log, then syncs the log, then answers. Such a *commit* is seen
//! here as all writes to the log between two syncs, and the sync after them. (The header that a log begins with is synced
//! on its own; it is no commit.) For a run the trace shows
//!
//! * when its request had arrived: the end of the first read from a client that brought its id;
//! * when it was acknowledged: the beginning of the first write to any client that carried its id;
//! * when its end was told: the beginning of the first write to any client with its id and `"state":"final"`.
//!
//! **Exact.** One client that waits for the end of each run before it asks again leaves no doubt whose a commit is: a turn
//! has two, its input and its answer. The first must be synced, and that sync returned without error, before the
//! acknowledgement is begun; the second before the end is told.
//!
//! **Shared.** With several clients one commit carries what waits together. A run's input can only be in a commit whose
//! first write began after the request had arrived, so at least one such commit must be synced before its acknowledgement
//! is begun, and at least two before its end is told.

use std::collections::HashMap;

use crate::trace::{Call, Target, Trace};

/// What a frame that tells a client of success says.
const ACCEPTING: [&str; 5] = [
    "\\\"started\\\"",
    "\\\"accepted\\\"",
    "\\\"in_flight\\\"",
    "\\\"status\\\":\\\"ok\\\"",
    "\\\"state\\\":\\\"final\\\"",
];

/// How sure it is whose a commit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribution {
    Exact,
    Shared,
}

/// What was proved.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) acknowledged: usize,
    pub(crate) ended: usize,
    /// The commits of each run, in the order of the runs; with [`Attribution::Exact`] only.
    commits: Vec<Vec<Commit>>,
    /// Where each run was acknowledged and its end told.
    told: Vec<[usize; 2]>,
}

/// Writes to the log and the sync that makes them durable.
#[derive(Clone, Copy, Debug)]
struct Commit {
    /// When its first write began.
    begun: usize,
    /// When its sync had returned; none where it failed or never returned.
    durable: Option<usize>,
    /// Which call the sync is.
    sync: usize,
}

/// What the trace shows of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    arrived: Option<usize>,
    acknowledged: Option<usize>,
    ended: Option<usize>,
}

/// A change to a trace, after which it proves nothing any more.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Harm {
    /// The sync is not there.
    Missing,
    /// It failed.
    Failed,
    /// It returned only after the client had been told.
    Late,
}

/// Every run of `runs` must have been acknowledged.
pub(crate) fn prove(trace: &Trace, runs: &[String], attribution: Attribution) -> Result<Proof, Vec<String>> {
    let commits = commits(trace);
    let courses = courses(trace);
    let mut faults = Vec::new();
    let mut proof = Proof { acknowledged: 0, ended: 0, commits: Vec::new(), told: Vec::new() };
    for (at, run) in runs.iter().enumerate() {
        let course = courses.get(run.as_str()).copied().unwrap_or_default();
        let (Some(arrived), Some(acknowledged)) = (course.arrived, course.acknowledged) else {
            faults.push(format!("{run}: the trace shows no request or no acknowledgement: {course:?}"));
            continue;
        };
        let next = runs.get(at + 1).and_then(|next| courses.get(next.as_str())?.arrived).unwrap_or(usize::MAX);
        let until = if attribution == Attribution::Exact { next } else { usize::MAX };
        let own: Vec<Commit> = commits.iter().filter(|c| arrived < c.begun && c.begun < until).copied().collect();
        let durable = |before: usize| own.iter().filter(|c| c.durable.is_some_and(|at| at < before)).count();
        // In their order: the first is the input's.
        let exactly = |nth: usize, before: usize| own.get(nth).is_some_and(|c| c.durable.is_some_and(|at| at < before));
        let sound = |nth: usize, before: usize| match attribution {
            Attribution::Exact => exactly(nth, before),
            Attribution::Shared => durable(before) > nth,
        };
        if sound(0, acknowledged) {
            proof.acknowledged += 1;
        } else {
            faults.push(format!("{run}: acknowledged at {acknowledged} before its commit was durable: {own:?}"));
        }
        match course.ended {
            Some(ended) if sound(1, ended) => proof.ended += 1,
            Some(ended) => faults.push(format!("{run}: its end was told at {ended} before it was durable: {own:?}")),
            None => {}
        }
        if attribution == Attribution::Exact && course.ended.is_some() && next < usize::MAX && own.len() != 2 {
            faults
                .push(format!("{run}: {} commits instead of two, so nobody knows whose they are: {own:?}", own.len()));
        }
        proof.commits.push(own);
        proof.told.push([acknowledged, course.ended.unwrap_or(usize::MAX)]);
    }
    if faults.is_empty() { Ok(proof) } else { Err(faults) }
}

impl Proof {
    /// The trace as it would be if one commit of one run had come to this harm.
    pub(crate) fn harmed(&self, trace: &Trace, run: usize, commit: usize, harm: Harm) -> Trace {
        let sync = self.commits[run][commit].sync;
        let mut harmed = trace.clone();
        match harm {
            Harm::Missing => {
                harmed.calls.remove(sync);
            }
            Harm::Failed => harmed.calls[sync].result = -1,
            Harm::Late => harmed.calls[sync].ended = self.told[run][commit] + 1,
        }
        harmed
    }
}

/// A run that a former process accepted: it is told of only after this process has written the log's content into the
/// database and synced that. Syncing the log again would not do: if a sync of it had failed, the system takes its pages
/// for written.
pub(crate) fn durable_before_any_acknowledgement(trace: &Trace, run: &str) -> Result<(), String> {
    let told = courses(trace).get(run).and_then(|course| course.acknowledged);
    let told = told.ok_or_else(|| format!("the trace shows nothing told of {run}"))?;
    let of_database = |call: &&Call| call.target == Target::Database && call.succeeded();
    let written = trace.calls.iter().filter(of_database).find(|call| call.is_file_write());
    let synced = trace.calls.iter().filter(of_database).find(|call| {
        call.is_file_sync() && call.ended < told && written.is_some_and(|written| written.ended < call.begun)
    });
    match synced {
        Some(_) => Ok(()),
        None => Err(format!("{run} was told of at {told}, before what the log held was durable in the database")),
    }
}

/// After the log failed to sync, nobody who asked later is acknowledged, and no end is told that was not durable before.
pub(crate) fn nothing_after_failure(trace: &Trace) -> Result<(), String> {
    let failed = trace.calls.iter().find(|call| call.is_sync() && !call.succeeded() && call.ended != usize::MAX);
    let Some(failed) = failed else { return Err("no sync of the log failed".to_owned()) };
    let elsewhere =
        trace.calls.iter().find(|call| matches!(call.name.as_str(), "fsync" | "fdatasync") && !call.succeeded());
    if elsewhere.is_some_and(|call| call.begun < failed.begun) {
        return Err("a sync of another file failed first; choose a later one to fail".to_owned());
    }
    let durable = commits(trace).iter().filter(|commit| commit.durable.is_some()).map(|commit| commit.begun).max();
    let courses = courses(trace);
    for call in trace.calls.iter().filter(|call| call.is_sending() && call.begun > failed.begun) {
        for (run, frame) in mentions(&call.text) {
            // A request that had arrived before the last durable commit may have been in it.
            let arrived = courses.get(&run).and_then(|course| course.arrived);
            let late = arrived.is_none_or(|arrived| durable.is_none_or(|durable| durable < arrived));
            if late && ACCEPTING.iter().any(|word| frame.contains(word)) {
                return Err(format!("{run} came after the last durable commit and was acknowledged at {}", call.begun));
            }
        }
    }
    Ok(())
}

fn commits(trace: &Trace) -> Vec<Commit> {
    let mut commits = Vec::new();
    let mut writes: Vec<&Call> = Vec::new();
    for (at, call) in trace.calls.iter().enumerate() {
        if call.is_log_write() && !call.is_log_header() {
            writes.push(call);
        } else if call.is_sync()
            && let Some(first) = writes.first()
        {
            // A write that was still under way, or did not succeed, is not what the sync makes durable.
            let whole = writes.iter().all(|write| write.succeeded() && write.ended < call.begun);
            let durable = (whole && call.succeeded()).then_some(call.ended);
            commits.push(Commit { begun: first.begun, durable, sync: at });
            writes.clear();
        }
    }
    commits
}

/// By run id. Only ids of the form `order-<n>-<nnnn>` are looked for.
fn courses(trace: &Trace) -> HashMap<String, Course> {
    let mut courses: HashMap<String, Course> = HashMap::new();
    for call in trace.calls.iter().filter(|call| call.is_receipt() || call.is_sending()) {
        for (run, frame) in mentions(&call.text) {
            let course = courses.entry(run).or_default();
            if call.is_receipt() {
                course.arrived.get_or_insert(call.ended);
            } else {
                course.acknowledged.get_or_insert(call.begun);
                if frame.contains("\\\"state\\\":\\\"final\\\"") {
                    course.ended.get_or_insert(call.begun);
                }
            }
        }
    }
    courses
}

/// The run ids in what was read or written, each with its frame: one call may carry several.
fn mentions(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.split("{\\\"type\\\":").flat_map(|frame| {
        frame.match_indices("order-").map(move |(at, _)| {
            let id = frame[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-');
            (id.collect(), frame)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "1 openat(AT_FDCWD, \"/s/store.db-wal\", O_RDWR, 0600) = 5\n\
        1 accept4(3, {sa_family=AF_INET}, [16], SOCK_CLOEXEC) = 7\n";
    const REQUEST: &str = "2 recvfrom(7, \"{order-0-0000}\", 8192, 0, NULL, NULL) = 14\n";
    const WRITE: &str = "3 pwrite64(5, \"\\1\\2\", 4120, 32) = 4120\n";
    const SYNC: &str = "3 fsync(5) = 0\n";
    const ACK: &str = "2 sendto(7, \"{order-0-0000 \\\"started\\\"}\", 20, 0, NULL, 0) = 20\n";
    const FINAL: &str = "2 sendto(7, \"{order-0-0000 \\\"state\\\":\\\"final\\\"}\", 20, 0, NULL, 0) = 20\n";

    fn proved(lines: &[&str]) -> bool {
        let text = [&[START], lines].concat().concat();
        let runs = ["order-0-0000".to_owned()];
        let verdicts = [Attribution::Exact, Attribution::Shared].map(|a| prove(&Trace::read(&text), &runs, a).is_ok());
        assert_eq!(verdicts[0], verdicts[1], "with one run there is no difference");
        verdicts[0]
    }

    #[test]
    fn a_turn_in_its_order_is_proved() {
        assert!(proved(&[REQUEST, WRITE, WRITE, SYNC, ACK, WRITE, SYNC, FINAL]));
        assert!(proved(&[REQUEST, WRITE, SYNC, WRITE, ACK, SYNC, FINAL]), "the answer may be on its way already");
    }

    #[test]
    fn a_turn_in_any_other_order_is_not() {
        for wrong in [
            &[REQUEST, WRITE, ACK, SYNC, WRITE, SYNC, FINAL][..],
            &[REQUEST, ACK, WRITE, SYNC, WRITE, SYNC, FINAL],
            &[REQUEST, WRITE, ACK, WRITE, SYNC, FINAL],
            &[REQUEST, WRITE, SYNC, ACK, WRITE, FINAL, SYNC],
            &[REQUEST, WRITE, SYNC, ACK, FINAL],
            // Another's commit, written before the request came.
            &[WRITE, REQUEST, SYNC, ACK, WRITE, SYNC, FINAL],
            // A sync of nothing, and one of the log's header.
            &[REQUEST, SYNC, ACK, WRITE, SYNC, WRITE, SYNC, FINAL],
            &[REQUEST, "3 pwrite64(5, \"\\1\", 32, 0) = 32\n", SYNC, ACK, WRITE, SYNC, FINAL],
            // A sync that failed, that had not returned, and that began before the write was over.
            &[REQUEST, WRITE, "3 fsync(5) = -1 EIO (Input/output error)\n", ACK, WRITE, SYNC, FINAL],
            &[REQUEST, WRITE, "3 fsync(5 <unfinished ...>\n", ACK, "3 <... fsync resumed>) = 0\n", WRITE, SYNC, FINAL],
            &[
                REQUEST,
                "4 pwrite64(5, \"\\1\", 4120, 32 <unfinished ...>\n",
                SYNC,
                "4 <... pwrite64 resumed>) = 4120\n",
                ACK,
                WRITE,
                SYNC,
                FINAL,
            ],
            // Syncs of another file.
            &[REQUEST, WRITE, "3 fsync(6) = 0\n", ACK, "3 fsync(6) = 0\n", FINAL],
            // No acknowledgement at all.
            &[REQUEST, WRITE, SYNC],
        ] {
            assert!(!proved(wrong), "{wrong:#?}");
        }
    }

    #[test]
    fn an_acknowledgement_after_a_failed_sync_is_found() {
        let failed = "3 fsync(5) = -1 EIO (Input/output error) (INJECTED)\n";
        let refused = "2 sendto(7, \"{order-0-0000 \\\"ok\\\":false}\", 20, 0, NULL, 0) = 20\n";
        let check = |lines: &[&str]| nothing_after_failure(&Trace::read(&[&[START], lines].concat().concat()));
        assert_eq!(check(&[REQUEST, WRITE, failed, refused]), Ok(()));
        assert_eq!(check(&[REQUEST, WRITE, SYNC, WRITE, failed, ACK]), Ok(()), "it was durable before");
        assert!(check(&[REQUEST, WRITE, failed, ACK]).is_err());
        assert!(check(&[REQUEST, WRITE, failed, WRITE, failed, FINAL, ACK]).is_err());
        assert!(check(&[REQUEST, WRITE, SYNC, ACK]).is_err(), "nothing failed");
    }

    #[test]
    fn something_told_of_a_former_run_before_it_is_durable_is_found() {
        let (open, write, sync) = (
            "1 openat(AT_FDCWD, \"/s/store.db\", O_RDWR) = 6\n",
            "1 pwrite64(6, \"\\1\", 4096, 0) = 4096\n",
            "1 fsync(6) = 0\n",
        );
        let check = |lines: &[&str]| {
            durable_before_any_acknowledgement(&Trace::read(&[&[START, open], lines].concat().concat()), "order-0-0000")
        };
        assert_eq!(check(&[write, sync, REQUEST, ACK]), Ok(()));
        assert!(check(&[write, REQUEST, ACK, sync]).is_err());
        assert!(check(&[sync, REQUEST, ACK]).is_err());
        assert!(check(&[WRITE, SYNC, REQUEST, ACK]).is_err());
        assert!(check(&[write, sync, REQUEST]).is_err());
    }
}
