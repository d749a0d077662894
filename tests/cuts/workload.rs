//! The recorded run: several writers in several sessions, with tools, queues, changes of generation and aborts, and a
//! clean restart in the middle.

use std::path::Path;
use std::sync::Arc;

use watertight_core::ids::RunId;
use watertight_core::run::QueuePolicy;
use watertight_engine::hub::{EventSink, Interest};
use watertight_engine::request::Target;
use watertight_testkit::disk::{Disk, Recording};

use crate::ledger::{Ledger, Notebook, Said};
use crate::subject::{PATIENCE, Say, Subject};

const SESSIONS: usize = 6;
const WRITERS: usize = 2;
const LOG: &str = "store.db-wal";

/// How long the run is.
#[derive(Clone, Copy)]
pub(crate) struct Length {
    /// Synced commits of the store.
    pub(crate) commits: usize,
    /// After so many the disk begins to lie about syncs.
    pub(crate) lies_after: Option<usize>,
}

/// A run that is over.
pub(crate) struct Run {
    pub(crate) recording: Recording,
    pub(crate) ledger: Ledger,
    /// How many events came before the restart in the middle.
    pub(crate) second_life: usize,
}

/// Runs and records.
pub(crate) fn run(length: Length) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::recorded(dir.path());
    let notebook = Arc::new(Notebook::new(disk.clone()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = length.lies_after.unwrap_or(length.commits / 2);
    runtime.block_on(live(dir.path(), &disk, &notebook, 1, first));
    let second_life = disk.now();
    disk.lie(length.lies_after.is_some());
    runtime.block_on(live(dir.path(), &disk, &notebook, 2, length.commits));
    Run { recording: disk.finish(), ledger: notebook.close(), second_life }
}

/// One life of the process, until the store has made so many commits in all.
async fn live(dir: &Path, disk: &Arc<Disk>, notebook: &Arc<Notebook>, life: usize, commits: usize) {
    let subject = Subject::open(dir).await.unwrap();
    let sink: Arc<dyn EventSink> = notebook.clone();
    let listener = subject.engine.listen(&subject.access, Interest::Everything, sink);
    let mut writers = Vec::new();
    for session in 0..SESSIONS {
        for writer in 0..WRITERS {
            let (subject, disk, notebook) = (subject.clone(), disk.clone(), notebook.clone());
            writers.push(tokio::spawn(async move {
                let key = format!("agent:main:s{session}");
                let name = format!("l{life}s{session}w{writer}");
                // So that in a short run, too, everything happens somewhere.
                let mut n = 5 * (session * WRITERS + writer);
                while disk.syncs_of(LOG) < commits {
                    step(&subject, &notebook, &key, &name, n).await;
                    n += 1;
                }
            }));
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    drop(listener);
    subject.close().await;
}

/// The `n`th turn of a writer. Its text is nobody else's.
async fn step(subject: &Subject, notebook: &Arc<Notebook>, key: &str, name: &str, n: usize) {
    let Subject { engine, access } = subject;
    let run = format!("{name}n{n}");
    let mut text = format!("turn {run}.");
    let (mut switch, mut queue) = (None, QueuePolicy::Queue);
    let (mut hangs, mut waits) = (false, true);
    match n % 11 {
        1 => text = format!("/echo tool session_info {{\"from\": \"{run}\"}}"),
        2 => text = format!("/echo tool time {{\"from\": \"{run}\"}}"),
        3 => text.push_str(&" and more".repeat(700)),
        4 => switch = Some(format!("from-{run}")),
        5 => waits = false,
        6 => queue = QueuePolicy::Steer,
        7 => queue = QueuePolicy::Interrupt,
        8 => text = format!("/echo die {run}"),
        9 => (hangs, text) = (true, format!("/echo hang {run}")),
        _ => {}
    }
    let said = Said { text, generation: switch, hangs };
    let say = Say { queue, generation: said.generation.as_deref(), ..Say::plain(key, &run, &said.text) };
    // Some are sent again, as by a client that lost the answer.
    for _ in 0..=usize::from(n % 11 == 10) {
        let (notebook, said) = (notebook.clone(), said.clone());
        let noted = move |accepted: &_| notebook.acknowledge(&said, accepted);
        engine.submit(access, say.request(), noted).await.expect("a turn is taken");
    }
    let run = RunId::parse(&run).unwrap();
    if hangs {
        engine.abort(access, &Target::of_key(key), Some(&run), "rpc").await.expect("a run can be aborted");
    }
    if waits {
        engine.wait(access, &run, Some(PATIENCE)).await.expect("a run can be waited for").expect("it ends");
    }
}
