//! Mail is taken by one actor or comes back, and no session ever has two actors, whoever retires or dies meanwhile.

use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};
use tokio::sync::{mpsc, oneshot};
use watertight_core::ids::SessionId;
use watertight_testkit::scope::tenant;

use super::{block_on, explore};
use crate::actor::live::Live;
use crate::places::{Door, Found, Mailbox, Places};

/// As often as the engine admits a turn anew.
const ROUNDS: usize = 8;

/// What became of a letter. A reply that is dropped tells its writer so: that is an answer too.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    Moved,
}

struct Letter {
    kills: bool,
    reply: oneshot::Sender<Answer>,
}

/// A step at which another thread may go first.
#[derive(Clone)]
struct Point(Arc<AtomicUsize>);

impl Point {
    fn pass(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Slot {
    sender: mpsc::Sender<Letter>,
    point: Point,
}

impl Door for Slot {
    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Slot {
    /// As tokio's `send`: a place in the channel first, then the letter.
    async fn send(&self, letter: Letter) -> Result<(), Letter> {
        self.point.pass();
        let Ok(permit) = self.sender.reserve().await else { return Err(letter) };
        self.point.pass();
        permit.send(letter);
        Ok(())
    }
}

struct Boxed {
    receiver: mpsc::Receiver<Letter>,
    point: Point,
    open: Option<Arc<AtomicUsize>>,
}

impl Boxed {
    fn try_take(&mut self) -> Option<Letter> {
        self.point.pass();
        self.receiver.try_recv().ok()
    }

    /// From now on this actor does nothing but give mail back.
    fn end(&mut self) {
        if let Some(open) = self.open.take() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Mailbox for Boxed {
    fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    fn close(&mut self) {
        self.end();
        self.receiver.close();
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Clone)]
struct Session {
    places: Arc<Places<Slot>>,
    /// Actors of the session that may still act.
    open: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
    actors: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Session {
    fn new() -> Self {
        Self { places: Arc::new(Places::new()), open: Arc::default(), taken: Arc::default(), actors: Arc::default() }
    }

    /// As `Engine::submit` and `Registry::submit`: brings the letter until somebody takes it. False when its actor died
    /// over it.
    fn bring(&self, kills: bool) -> bool {
        for _ in 0..ROUNDS {
            let (reply, answer) = oneshot::channel();
            let letter = Letter { kills, reply };
            let id = (tenant(1), SessionId::from_bytes([7; 16]));
            match self.places.enter(id, || self.open_door()) {
                Found::Full => panic!("two sessions fill the places"),
                Found::Vacancy(mailbox, live) => {
                    let session = self.clone();
                    let actor = thread::spawn(move || session.live(mailbox, &live, letter));
                    self.actors.lock().unwrap().push(actor);
                }
                Found::Actor(slot) => {
                    if let Err(letter) = block_on(slot.send(letter)) {
                        let _ = letter.reply.send(Answer::Moved);
                    }
                }
            }
            match block_on(answer) {
                Ok(Answer::Taken) => return true,
                Ok(Answer::Moved) => {}
                Err(_) => return false,
            }
        }
        panic!("the letter came back {ROUNDS} times");
    }

    fn open_door(&self) -> (Slot, Boxed) {
        assert_eq!(self.open.fetch_add(1, Ordering::SeqCst), 0, "a session has two actors");
        let (sender, receiver) = mpsc::channel(1);
        let point = Point(Arc::default());
        (Slot { sender, point: point.clone() }, Boxed { receiver, point, open: Some(self.open.clone()) })
    }

    fn actors_ended(&self) {
        let actors = std::mem::take(&mut *self.actors.lock().unwrap());
        for actor in actors {
            actor.join().unwrap();
        }
    }

    /// As `Birth::live`: one letter after the other; without any, it may find that it was idle for long enough.
    fn live(&self, mut mailbox: Boxed, live: &Arc<Live>, first: Letter) {
        let mut next = Some(first);
        loop {
            if let Some(letter) = next.take() {
                if letter.kills {
                    // A panic: the mailbox goes first, then the place.
                    drop((letter, mailbox));
                    return self.places.remove(live);
                }
                self.taken.fetch_add(1, Ordering::SeqCst);
                let _ = letter.reply.send(Answer::Taken);
            }
            next = mailbox.try_take();
            if next.is_none() && self.places.retire(live, &mut mailbox) {
                break;
            }
        }
        self.places.remove(live);
        mailbox.close();
        // `give_back`: also a letter whose writer had a place in the channel before it was closed.
        while let Some(letter) = block_on(mailbox.receiver.recv()) {
            let _ = letter.reply.send(Answer::Moved);
        }
    }
}

#[test]
fn mail_is_taken_once_while_actors_retire() {
    explore(|| {
        let session = Session::new();
        let other = session.clone();
        let second = thread::spawn(move || assert!(other.bring(false)));
        assert!(session.bring(false));
        second.join().unwrap();
        session.actors_ended();
        assert_eq!(session.taken.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn three_letters_to_a_box_for_one_are_each_taken_once() {
    explore(|| {
        let session = Session::new();
        let other = session.clone();
        let second = thread::spawn(move || {
            assert!(other.bring(false));
        });
        assert!(session.bring(false));
        assert!(session.bring(false));
        second.join().unwrap();
        session.actors_ended();
        assert_eq!(session.taken.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn mail_is_answered_when_the_actor_dies_over_another() {
    explore(|| {
        let session = Session::new();
        let other = session.clone();
        let second = thread::spawn(move || assert!(!other.bring(true), "its actor died"));
        let taken = session.bring(false);
        second.join().unwrap();
        // It was behind the other in a mailbox that is gone, and its writer knows; or it was taken.
        assert_eq!(session.taken.load(Ordering::SeqCst), usize::from(taken));
        session.actors_ended();
        assert!(session.bring(false), "the session has an actor again");
    });
}
