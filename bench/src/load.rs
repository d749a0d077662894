//! Load: a crowd of users at full speed, or at a pace that does not wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::figures::histogram;
use crate::timer::Timer;
use crate::user::{Marks, Problem, Surface, User, World};

/// How long a turn may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// Problems after which a user gives up.
const ENOUGH: u64 = 20;
/// Problems that are told in words.
const EXAMPLES: usize = 5;

/// What came of a load.
pub(crate) struct Tally {
    pub(crate) turns: u64,
    pub(crate) errors: u64,
    pub(crate) leaks: u64,
    /// Some of the errors and leaks, in words.
    pub(crate) examples: Vec<String>,
    /// Microseconds from the turn's start, as those below.
    pub(crate) acknowledged: Histogram<u64>,
    pub(crate) first: Histogram<u64>,
    pub(crate) done: Histogram<u64>,
    pub(crate) elapsed: Duration,
}

impl Tally {
    fn new() -> Self {
        Self {
            turns: 0,
            errors: 0,
            leaks: 0,
            examples: Vec::new(),
            acknowledged: histogram(),
            first: histogram(),
            done: histogram(),
            elapsed: Duration::ZERO,
        }
    }

    fn add(&mut self, mut other: Self) -> Result<()> {
        self.turns += other.turns;
        self.errors += other.errors;
        self.leaks += other.leaks;
        self.examples.append(&mut other.examples);
        self.examples.truncate(EXAMPLES);
        self.acknowledged.add(&other.acknowledged)?;
        self.first.add(&other.first)?;
        self.done.add(&other.done)?;
        Ok(())
    }

    fn count(&mut self, start: Instant, marks: &Marks) {
        let micros = |at: Instant| at.duration_since(start).as_micros() as u64;
        self.turns += 1;
        if let Some(at) = marks.acknowledged {
            self.acknowledged.saturating_record(micros(at));
        }
        if let Some(at) = marks.first {
            self.first.saturating_record(micros(at));
        }
        self.done.saturating_record(micros(marks.done));
    }

    fn fault(&mut self, problem: &Problem) {
        match problem {
            Problem::Leak(_) => self.leaks += 1,
            Problem::Failed(_) => self.errors += 1,
        }
        if self.examples.len() < EXAMPLES {
            self.examples.push(problem.to_string());
        }
    }
}

/// When a load at full speed ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    Turns(u64),
}

/// Users of one surface, who stay connected between loads.
pub(crate) struct Crowd {
    world: Arc<World>,
    surface: Surface,
    users: Vec<User>,
}

impl Crowd {
    pub(crate) async fn gather(world: &Arc<World>, surface: Surface, size: usize) -> Result<Self> {
        let mut users = Vec::with_capacity(size);
        for _ in 0..size {
            users.push(User::open(world, surface).await?);
        }
        Ok(Self { world: Arc::clone(world), surface, users })
    }

    /// Each user takes the next turn when the last one is answered.
    pub(crate) async fn at_full_speed(&mut self, until: Until) -> Result<Tally> {
        let taken = Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        let mut working = JoinSet::new();
        for mut one in self.workers() {
            let taken = Arc::clone(&taken);
            working.spawn(async move {
                while one.goes_on()
                    && match until {
                        Until::Elapsed(time) => began.elapsed() < time,
                        Until::Turns(turns) => taken.fetch_add(1, Ordering::Relaxed) < turns,
                    }
                {
                    one.turn(Instant::now()).await;
                }
                one
            });
        }
        self.collect(working, began).await
    }

    /// Turns begin at even distances, `rate` in a second, whether those before have ended or not; a turn whose user is
    /// still busy waits for it, and its time runs from when it should have begun.
    pub(crate) async fn at_pace(&mut self, time: Duration, rate: f64) -> Result<Tally> {
        let began = Instant::now();
        let mut working = JoinSet::new();
        let mut starts = Vec::new();
        for mut one in self.workers() {
            let (start, mut due) = mpsc::unbounded_channel();
            starts.push(start);
            working.spawn(async move {
                while let Some(start) = due.recv().await {
                    if one.goes_on() {
                        one.turn(start).await;
                    }
                }
                one
            });
        }
        let pacer = tokio::task::spawn_blocking(move || {
            let timer = Timer::new()?;
            for turn in 0..(rate * time.as_secs_f64()) as usize {
                let due = began + Duration::from_secs_f64(turn as f64 / rate);
                timer.until(due)?;
                // A user who gave up still takes what is due.
                let _ = starts[turn % starts.len()].send(due);
            }
            anyhow::Ok(())
        });
        let tally = self.collect(working, began).await;
        pacer.await??;
        tally
    }

    fn workers(&mut self) -> impl Iterator<Item = Worker> {
        let (world, surface) = (Arc::clone(&self.world), self.surface);
        std::mem::take(&mut self.users).into_iter().map(move |user| Worker {
            world: Arc::clone(&world),
            surface,
            user: Some(user),
            tally: Tally::new(),
        })
    }

    async fn collect(&mut self, mut working: JoinSet<Worker>, began: Instant) -> Result<Tally> {
        let mut all = Tally::new();
        while let Some(worker) = working.join_next().await {
            let Worker { user, tally, .. } = worker?;
            self.users.extend(user);
            all.add(tally)?;
        }
        all.elapsed = began.elapsed();
        if all.turns == 0 {
            bail!("{}: not one turn succeeded; {}", self.surface.name(), all.examples.join("; "));
        }
        Ok(all)
    }
}

/// A user at work.
struct Worker {
    world: Arc<World>,
    surface: Surface,
    /// None when nobody can connect.
    user: Option<User>,
    tally: Tally,
}

impl Worker {
    fn goes_on(&self) -> bool {
        self.user.is_some() && self.tally.errors + self.tally.leaks < ENOUGH
    }

    async fn turn(&mut self, start: Instant) {
        let Some(user) = &mut self.user else { return };
        let turn = async {
            let marks = user.turn(&self.world).await?;
            user.prepare(&self.world).await?;
            Ok(marks)
        };
        let taken = timeout(PATIENCE, turn).await;
        match taken.unwrap_or_else(|_| Err(anyhow::anyhow!("no end within {PATIENCE:?}").into())) {
            Ok(marks) => self.tally.count(start, &marks),
            Err(problem) => {
                self.tally.fault(&problem);
                // What is still under way on the connection is nobody's any more.
                self.user = User::open(&self.world, self.surface).await.ok();
            }
        }
    }
}
