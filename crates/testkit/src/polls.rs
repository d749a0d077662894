//! Polling a future by hand and dropping it half-way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::PATIENCE;

/// When a future is dropped that was polled as often as it was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Right after its last poll.
    AtOnce,
    /// When it would have been polled again: what it waited for has happened, and nobody takes it.
    WhenWoken,
}

/// Polls `future` at most `polls` times, the first time at once and each further time when it asks for it, then drops it.
/// What it waits for goes on between two polls. `None` where it was dropped before it was ready.
pub async fn poll_at_most<F: Future>(future: F, polls: usize, dropped: Dropped) -> Option<F::Output> {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut future: Pin<Box<F>> = Box::pin(future);
    for n in 0..polls {
        if n > 0 {
            alarm.wait().await;
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    if polls > 0 && dropped == Dropped::WhenWoken {
        alarm.wait().await;
    }
    None
}

#[derive(Default)]
struct Alarm(Notify);

impl Alarm {
    async fn wait(&self) {
        timeout(PATIENCE, self.0.notified()).await.expect("whoever waits for something is woken");
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}
