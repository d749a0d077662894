//! Every order in which threads can meet in the places of actors, the hub and the runs, tried by `loom`: `make loom`.
//!
//! * `mailbox`: bringing mail while an actor retires or dies.
//! * `hub`: listening, publishing and leaving.
//! * `runs`: waiting for runs while they begin and end.
//!
//! Channels are tokio's own, with a point before each step where another thread may go first.

#![allow(clippy::unwrap_used, reason = "a model that cannot go on has failed")]

mod hub;
mod mailbox;
mod runs;

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use loom::model::Builder;
use loom::thread::{self, Thread};

/// Preemptions tried in each order, where `LOOM_MAX_PREEMPTIONS` says nothing.
const PREEMPTIONS: usize = 2;

/// Tries `model` in every order within the bound.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    let orders = Arc::new(AtomicUsize::new(0));
    let count = orders.clone();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

/// Drives a future in a thread of the model; one that nobody wakes any more is a deadlock, which ends the model.
///
/// `loom`'s own driver takes a second wake for that of whatever its thread waits for next. This one wakes a thread only
/// when it is asleep.
fn block_on<F: Future>(future: F) -> F::Output {
    let bell = Arc::new(Bell { sleeper: thread::current(), state: Mutex::new(State::Awake) });
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !bell.has_rung() {
            thread::park();
        }
    }
}

struct Bell {
    sleeper: Thread,
    /// Under a lock of the standard library: nobody can come between what it says and what is done about it.
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Awake,
    Rung,
    Asleep,
}

impl Bell {
    /// Whether to poll again; else the thread counts as asleep.
    fn has_rung(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let rung = *state == State::Rung;
        *state = if rung { State::Awake } else { State::Asleep };
        rung
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let before = std::mem::replace(&mut *self.state.lock().unwrap(), State::Rung);
        if before == State::Asleep {
            self.sleeper.unpark();
        }
    }
}
