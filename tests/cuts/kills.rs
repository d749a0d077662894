//! A kill, a restart, and then the power fails: what the killed process wrote and did not sync is in the system's memory,
//! where the next process finds it.

use std::collections::BTreeSet;
use std::sync::Arc;

use watertight_engine::hub::{EventSink, Interest};
use watertight_testkit::disk::{Disk, Event, Keep, Medium, Recording};

use crate::ledger::{Ledger, Notebook, Turn};
use crate::replay::{self, Plan};
use crate::subject::{Say, Subject};
use crate::workload::{self, Length, Run};

/// Moments at which the process is killed.
const KILLS: usize = 4;
/// Turns that clients send again after it, those first that were not acknowledged yet.
const REPEATED: usize = 12;

#[test]
fn what_a_killed_process_did_not_sync_is_not_acknowledged_before_it_is() {
    let run = workload::run(Length { commits: 50, lies_after: None });
    let seed = crate::first_seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut found = 0;
    for at in random.choose_multiple(moments(&run), KILLS) {
        let (recording, ledger) = second_process(&run, at, &mut random);
        let plan = Plan { seed, seeds: 1, keeps: &replay::EVERY_KEEP, from: at, stop_at: usize::MAX };
        let result = replay::all_cuts(&recording, &ledger, &plan);
        println!("killed at {at}: {result}");
        assert!(result.is_clean(), "\n{}", result.losses());
        // They were told of turns that the killed process had written and not acknowledged.
        found += ledger.turns_after(at).iter().filter(|turn| turn.accepted.message_seq.is_none()).count();
    }
    assert!(found > 0, "no process was killed over a commit");
}

/// Before the syncs that turns were acknowledged after.
fn moments(run: &Run) -> BTreeSet<usize> {
    let syncs: Vec<(usize, usize)> = run
        .recording
        .events
        .iter()
        .enumerate()
        .filter_map(|(at, event)| match event {
            Event::Synced { started, .. } => Some((at, *started)),
            _ => None,
        })
        .collect();
    let before =
        |turn: &Turn| syncs[..syncs.partition_point(|(at, _)| *at < turn.at)].last().map(|(_, started)| *started);
    run.ledger.turns_after(0).iter().filter(|turn| is_repeatable(turn)).filter_map(before).collect()
}

/// Whether the turn can be sent again without waiting for what else is there.
fn is_repeatable(turn: &Turn) -> bool {
    !turn.said.hangs && turn.said.generation.is_none()
}

/// Starts where the process was killed. Its clients repeat what they heard nothing of.
fn second_process(run: &Run, at: usize, random: &mut fastrand::Rng) -> (Recording, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let mut medium = Medium::new(&run.recording);
    medium.advance(at);
    medium.image(Keep::Everything, random).write_to(dir.path()).unwrap();
    let disk = Disk::continued(dir.path(), run.recording.clone(), at);
    let notebook = Arc::new(Notebook::continued(disk.clone(), &run.ledger, at));
    let missed = run.ledger.turns_after(at).iter();
    let repeated: Vec<&Turn> = missed.filter(|turn| is_repeatable(turn)).take(REPEATED).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let subject = Subject::open(dir.path()).await.unwrap();
        let sink: Arc<dyn EventSink> = notebook.clone();
        let listener = subject.engine.listen(&subject.access, Interest::Everything, sink);
        for turn in repeated {
            let say = Say::plain(turn.key(), turn.accepted.run.as_str(), &turn.said.text);
            let (notebook, said) = (notebook.clone(), turn.said.clone());
            let noted = move |accepted: &_| notebook.acknowledge(&said, accepted);
            subject.engine.submit(&subject.access, say.request(), noted).await.expect("a turn is taken");
        }
        drop(listener);
        subject.close().await;
    });
    (disk.finish(), notebook.close())
}
