//! The cuts of a recording: just before each sync, just after it, and somewhere between two of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use watertight_testkit::disk::{Disk, Event, Keep, Medium, Recording};

use crate::inspection::{self, Checked, Depth, Problem};
use crate::ledger::Ledger;

pub(crate) const EVERY_KEEP: [Keep; 5] = [Keep::Nothing, Keep::Everything, Keep::Sectors, Keep::First, Keep::Last];

/// Every so many cuts `watertight verify` goes over an image, too.
const VERIFIED: usize = 4;
/// Between two lines that say how far a long replay has come.
const PROGRESS: Duration = Duration::from_secs(15);

/// What to replay.
pub(crate) struct Plan<'a> {
    pub(crate) seed: u64,
    /// How often the dice are cast for each cut.
    pub(crate) seeds: u64,
    pub(crate) keeps: &'a [Keep],
    /// Cuts before so many events are left out.
    pub(crate) from: usize,
    /// After so many losses nothing more is looked at.
    pub(crate) stop_at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    BeforeSync,
    AfterSync,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    cut: usize,
    place: Place,
}

/// What became of a replay.
pub(crate) struct Outcome {
    seed: u64,
    seeds: u64,
    points: usize,
    syncs: usize,
    images: usize,
    checked: Checked,
    took: Duration,
    promised: String,
    losses: Vec<Loss>,
}

struct Loss {
    problem: Problem,
    point: Point,
    keep: Keep,
    seed: u64,
    kept_in: Option<PathBuf>,
}

/// Opens what every cut may leave and inspects it.
pub(crate) fn all_cuts(recording: &Recording, ledger: &Ledger, plan: &Plan<'_>) -> Outcome {
    let mut points = points(recording, plan.seed);
    points.retain(|point| point.cut >= plan.from);
    let begun = Instant::now();
    let replay =
        Replay { recording, ledger, plan, points: &points, begun, next: AtomicUsize::new(0), sum: Mutex::default() };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| replay.work());
        }
    });
    let sum = replay.sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let is_sync = |point: &&Point| point.place == Place::BeforeSync;
    Outcome {
        seed: plan.seed,
        seeds: plan.seeds,
        points: sum.points,
        syncs: points.iter().filter(is_sync).count(),
        images: sum.images,
        checked: sum.checked,
        took: begun.elapsed(),
        promised: ledger.to_string(),
        losses: sum.losses,
    }
}

/// Inspects a directory as it is, on which everything has happened that was recorded.
pub(crate) fn inspect_in_place(dir: &Path, ledger: &Ledger, recorded: usize) -> Option<Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut random = fastrand::Rng::with_seed(0);
    let depth = Depth { thorough: true, verified: true };
    runtime.block_on(inspection::inspect(dir, ledger, recorded, depth, &mut random)).err()
}

fn points(recording: &Recording, seed: u64) -> Vec<Point> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut points = Vec::new();
    let mut last = 0;
    for (at, event) in recording.events.iter().enumerate() {
        match event {
            Event::SyncStarted { .. } => {
                if at > last + 1 {
                    points.push(Point { cut: random.usize(last + 1..at), place: Place::Between });
                }
                points.push(Point { cut: at, place: Place::BeforeSync });
                last = at;
            }
            Event::Synced { .. } | Event::SyncFailed { .. } | Event::SyncFeigned { .. } | Event::DirectorySynced => {
                points.push(Point { cut: at + 1, place: Place::AfterSync });
                last = at + 1;
            }
            _ => {}
        }
    }
    points.push(Point { cut: recording.events.len(), place: Place::BeforeSync });
    points.sort_by_key(|point| point.cut);
    points
}

#[derive(Default)]
struct Sum {
    points: usize,
    images: usize,
    checked: Checked,
    losses: Vec<Loss>,
    said: Duration,
}

struct Replay<'a> {
    recording: &'a Recording,
    ledger: &'a Ledger,
    plan: &'a Plan<'a>,
    points: &'a [Point],
    begun: Instant,
    next: AtomicUsize,
    sum: Mutex<Sum>,
}

impl Replay<'_> {
    /// Takes one cut after the other. The medium only ever goes forward.
    fn work(&self) {
        let (_disk, dir) = Disk::scratch();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut medium = Medium::new(self.recording);
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(point) = self.points.get(at) else { return };
            if self.sum().losses.len() >= self.plan.stop_at {
                return;
            }
            medium.advance(point.cut);
            for (keep, seed) in self.images(*point, &medium) {
                let mut random = fastrand::Rng::with_seed(seed);
                let image = medium.image(keep, &mut random);
                image.write_to(dir.path()).unwrap();
                let thorough = at + 1 == self.points.len();
                let depth = Depth { thorough, verified: thorough || at.is_multiple_of(VERIFIED) };
                let found =
                    runtime.block_on(inspection::inspect(dir.path(), self.ledger, point.cut, depth, &mut random));
                let mut sum = self.sum();
                sum.images += 1;
                match found {
                    Ok(checked) => sum.checked += checked,
                    Err(problem) => {
                        // The first ones are kept to look at.
                        let kept_in = (sum.losses.len() < 3 && self.plan.stop_at > 1).then(|| {
                            let kept = tempfile::tempdir().unwrap().keep();
                            image.write_to(&kept).unwrap();
                            kept
                        });
                        let loss = Loss { problem, point: *point, keep, seed, kept_in };
                        println!("{loss}");
                        sum.losses.push(loss);
                    }
                }
            }
            let mut sum = self.sum();
            sum.points += 1;
            let elapsed = self.begun.elapsed();
            if elapsed > sum.said + PROGRESS {
                sum.said = elapsed;
                let (points, all) = (sum.points, self.points.len());
                println!(
                    "{points} of {all} cuts, {} images, {} lost, {} s",
                    sum.images,
                    sum.losses.len(),
                    elapsed.as_secs()
                );
            }
        }
    }

    /// The images of a cut, each with its seed. Where nothing is pending there is one.
    fn images(&self, point: Point, medium: &Medium<'_>) -> Vec<(Keep, u64)> {
        let wanted: &[Keep] = match point.place {
            _ if medium.pending() + medium.pending_names() == 0 => &[Keep::Nothing],
            Place::BeforeSync => &EVERY_KEEP,
            Place::Between => &[Keep::Sectors, Keep::First],
            Place::AfterSync => &[Keep::Nothing, Keep::Sectors],
        };
        let mut images = Vec::new();
        for (number, keep) in wanted.iter().enumerate().filter(|(_, keep)| self.plan.keeps.contains(keep)) {
            let casts = match keep {
                Keep::Nothing | Keep::Everything => 1,
                Keep::Sectors | Keep::First | Keep::Last => self.plan.seeds,
            };
            for cast in 0..casts {
                let mut mixed = fastrand::Rng::with_seed(self.plan.seed.wrapping_add(cast));
                let seed = mixed.u64(..) ^ (point.cut as u64) << 3 ^ number as u64;
                images.push((*keep, seed));
            }
        }
        images
    }

    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    pub(crate) fn is_clean(&self) -> bool {
        self.losses.is_empty()
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.losses.iter().map(|loss| &loss.problem)
    }

    /// The first losses, with what it takes to look at them.
    pub(crate) fn losses(&self) -> String {
        self.losses.iter().take(10).map(Loss::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problem, point, keep, seed, kept_in } = self;
        write!(f, "{problem} (cut {} {:?}, keeping {keep:?}, seed {seed}", point.cut, point.place)?;
        match kept_in {
            Some(path) => write!(f, ", image in {})", path.display()),
            None => write!(f, ")"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, seeds, points, syncs, images, checked, took, promised, losses } = self;
        write!(
            f,
            "{promised}; {points} cuts at {syncs} syncs, {images} images opened, seed {seed} x {seeds}, {checked}, {} lost, {:.1} s",
            losses.len(),
            took.as_secs_f64()
        )
    }
}
