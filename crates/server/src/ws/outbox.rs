//! What waits to be written, and what happens when it piles up (isolation.md §2.10).
//!
//! Events are pushed without waiting, from wherever they happen. Beyond 4 MiB of unsent events those a client can do
//! without are skipped; their number is used up, so that the client sees a gap. An event behind more than 8 MiB of others
//! closes the connection.
//! Responses are not part of that: the client asked for them. While more than 8 MiB of them wait, no further request
//! is read.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use watertight_engine::admission::{Ended, Held};
use watertight_wire::openclaw::ErrorShape;
use watertight_wire::openclaw::frame::{Event, Response, StateVersion};

use super::close;
use super::frame::Frame;

/// Unsent events beyond which those a client can do without are skipped, in bytes.
const SOFT_LIMIT: usize = 4 * 1024 * 1024;
/// Unsent events beyond which the connection closes; unsent responses beyond which no request is read. In bytes.
pub(crate) const HARD_LIMIT: usize = 8 * 1024 * 1024;

/// Items that an empty queue keeps room for.
const KEPT: usize = 4;

/// Room for a response and for what stands around an event's payload, in bytes.
const ENVELOPE: usize = 160;

/// Whether a client can do without an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The next one of its sort says it all again.
    Droppable,
    /// Nothing else says it.
    Required,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits to be written.
    Queued,
    /// It was skipped, or the connection is closing.
    Skipped,
}

/// Something to write.
#[derive(Debug, PartialEq)]
pub(crate) enum Item {
    /// An event.
    Event(Frame),
    /// A response.
    Response(Frame),
    /// A ping.
    Ping,
    /// The answer to a ping.
    Pong(Bytes),
    /// The end.
    Close(Option<CloseFrame>),
}

impl Item {
    /// As it is written.
    pub(crate) fn into_frame(self) -> Frame {
        match self {
            Self::Event(frame) | Self::Response(frame) => frame,
            Self::Ping => Frame::ping(),
            Self::Pong(payload) => Frame::pong(&payload),
            Self::Close(close) => Frame::close(close.as_ref()),
        }
    }
}

/// Bytes of the two sorts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    events: usize,
    responses: usize,
}

impl Load {
    /// Counts one item.
    pub(crate) fn add(&mut self, item: &Item) {
        match item {
            Item::Event(frame) => self.events += frame.payload().len(),
            Item::Response(frame) => self.responses += frame.payload().len(),
            Item::Ping | Item::Pong(_) | Item::Close(_) => {}
        }
    }

    /// Bytes of both sorts.
    pub(crate) fn bytes(self) -> usize {
        self.events + self.responses
    }
}

/// What waits to be written to one connection.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    drained: Notify,
    ended: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    /// The payload of the latest ping that is not answered yet. Earlier ones need no answer (RFC 6455 §5.5.3).
    pong: Option<Bytes>,
    /// Queued or being written.
    load: Load,
    last_seq: u64,
    closing: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers an event and queues it.
    pub(crate) fn event(&self, name: &str, payload: &impl Serialize, need: Need) -> Pushed {
        self.versioned_event(name, payload, need, None)
    }

    /// The same, with the versions a snapshot belongs to.
    pub(crate) fn versioned_event(
        &self,
        name: &str,
        payload: &impl Serialize,
        need: Need,
        version: Option<StateVersion>,
    ) -> Pushed {
        // Serialized before the lock is taken: events come from several threads.
        match serde_json::value::to_raw_value(payload) {
            Ok(payload) => self.written_event(name, &payload, need, version),
            Err(error) => {
                tracing::error!(%error, name, "an event cannot be written as JSON");
                Pushed::Skipped
            }
        }
    }

    /// The same for a payload that is JSON already.
    pub(crate) fn written_event(
        &self,
        name: &str,
        payload: &RawValue,
        need: Need,
        version: Option<StateVersion>,
    ) -> Pushed {
        let mut state = self.lock();
        if state.closing {
            return Pushed::Skipped;
        }
        state.last_seq += 1;
        // Without this event: a single large one does not make its reader a slow one.
        let waiting = state.load.events;
        if need == Need::Droppable && waiting + payload.get().len() > SOFT_LIMIT {
            return Pushed::Skipped;
        }
        if waiting > HARD_LIMIT {
            tracing::warn!(waiting, "a client does not read its events; closing its connection");
            state.close((close::POLICY, "slow consumer"), true);
            drop(state);
            self.filled.notify_one();
            self.ended.notify_one();
            return Pushed::Skipped;
        }
        let frame = Event::numbered(name, payload, state.last_seq, version);
        match Frame::json(&frame, ENVELOPE + payload.get().len()) {
            Ok(frame) => state.push(Item::Event(frame)),
            Err(error) => tracing::error!(%error, name, "an event cannot be written as JSON"),
        }
        drop(state);
        self.filled.notify_one();
        Pushed::Queued
    }

    /// Queues a successful response.
    pub(crate) fn respond(&self, id: &str, payload: &impl Serialize) {
        self.response(&Response::ok(id, payload));
    }

    /// Queues a failed response.
    pub(crate) fn refuse(&self, id: &str, error: &ErrorShape, payload: Option<&RawValue>) {
        self.response(&Response::failed(id, error, payload));
    }

    fn response(&self, response: &impl Serialize) {
        match Frame::json(response, ENVELOPE) {
            Ok(frame) => self.push(Item::Response(frame)),
            Err(error) => tracing::error!(%error, "a response cannot be written as JSON"),
        }
    }

    /// Queues a ping.
    pub(crate) fn ping(&self) {
        self.push(Item::Ping);
    }

    /// Answers a ping.
    pub(crate) fn pong(&self, payload: Bytes) {
        let mut state = self.lock();
        if !state.closing {
            state.pong = Some(payload);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Answers the client's close frame. What is queued still is for nobody.
    pub(crate) fn answer_close(&self, answer: Option<CloseFrame>) {
        self.lock().end(answer, true);
        self.filled.notify_one();
        self.ended.notify_one();
    }

    /// Ends the connection after what is queued already. Nothing can be queued any more.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        self.lock().close((code, reason), false);
        self.filled.notify_one();
        self.ended.notify_one();
    }

    /// Drops what is queued and ends the connection.
    pub(crate) fn cut(&self, code: u16, reason: &str) {
        self.lock().close((code, reason), true);
        self.filled.notify_one();
        self.ended.notify_one();
    }

    /// Forgets what is queued: nobody will read it.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.queue.clear();
        state.load = Load::default();
        drop(state);
        self.drained.notify_waiters();
    }

    fn push(&self, item: Item) {
        let mut state = self.lock();
        if !state.closing {
            state.push(item);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Whether the end is queued, or written.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    /// Completes once it is. For one waiter.
    pub(crate) async fn ended(&self) {
        while !self.is_closing() {
            self.ended.notified().await;
        }
    }

    /// The next item. Its bytes count until they are [`Self::sent`].
    pub(crate) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.try_next() {
                return item;
            }
            self.filled.notified().await;
        }
    }

    /// The next item, if one waits.
    pub(crate) fn try_next(&self) -> Option<Item> {
        let mut state = self.lock();
        if let Some(payload) = state.pong.take() {
            return Some(Item::Pong(payload));
        }
        let next = state.queue.pop_front();
        if state.queue.is_empty() && state.queue.capacity() > KEPT {
            state.queue.shrink_to(KEPT);
        }
        next
    }

    /// These bytes have left.
    pub(crate) fn sent(&self, load: Load) {
        let mut state = self.lock();
        state.load.events = state.load.events.saturating_sub(load.events);
        state.load.responses = state.load.responses.saturating_sub(load.responses);
        drop(state);
        self.drained.notify_waiters();
    }

    /// Whether so much is unanswered that no further request may be read or carried out.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.lock().load.responses > HARD_LIMIT
    }

    /// Completes once it is not.
    pub(crate) async fn room(&self) {
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            // Registered before the look, so that nothing is missed in between.
            drained.as_mut().enable();
            if !self.is_backed_up() {
                return;
            }
            drained.await;
        }
    }
}

impl Held for Outbox {
    fn end(&self, why: Ended) {
        match why {
            Ended::Revoked => self.cut(close::AUTH_ENDED, "revoked"),
            Ended::Expired => self.cut(close::AUTH_ENDED, "auth_expired"),
        }
    }
}

impl State {
    fn push(&mut self, item: Item) {
        self.load.add(&item);
        self.queue.push_back(item);
    }

    fn close(&mut self, (code, reason): (u16, &str), at_once: bool) {
        self.end(Some(close_frame(code, reason)), at_once);
    }

    fn end(&mut self, frame: Option<CloseFrame>, at_once: bool) {
        if self.closing {
            return;
        }
        self.closing = true;
        self.pong = None;
        if at_once {
            self.queue.clear();
        }
        self.queue.push_back(Item::Close(frame));
    }
}

/// A close frame; a reason beyond the 123 bytes it has room for is cut.
pub(crate) fn close_frame(code: u16, reason: &str) -> CloseFrame {
    let end = (0..=reason.len().min(123)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    CloseFrame { code: CloseCode::from(code), reason: reason[..end].into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn megabytes(count: usize) -> String {
        "x".repeat(count * 1024 * 1024)
    }

    fn seq(item: Option<Item>) -> u64 {
        let Some(Item::Event(frame)) = item else { panic!("{item:?}") };
        serde_json::from_slice::<serde_json::Value>(frame.payload()).unwrap()["seq"].as_u64().unwrap()
    }

    #[test]
    fn events_are_numbered_from_one() {
        let outbox = Outbox::default();
        outbox.event("tick", &1, Need::Droppable);
        outbox.respond("r", &2);
        outbox.event("tick", &3, Need::Droppable);
        assert_eq!(seq(outbox.try_next()), 1);
        let Some(Item::Response(frame)) = outbox.try_next() else { panic!() };
        assert_eq!(frame.payload(), br#"{"type":"res","id":"r","ok":true,"payload":2}"#);
        assert_eq!(seq(outbox.try_next()), 2);
        assert_eq!(outbox.try_next(), None);
    }

    #[test]
    fn beyond_the_soft_limit_a_droppable_event_leaves_a_gap() {
        let outbox = Outbox::default();
        let big = megabytes(3);
        assert_eq!(outbox.event("chat", &big, Need::Required), Pushed::Queued);
        assert_eq!(outbox.event("chat", &big, Need::Droppable), Pushed::Skipped);
        assert_eq!(outbox.event("chat", &big, Need::Required), Pushed::Queued);
        assert_eq!(seq(outbox.try_next()), 1);
        assert_eq!(seq(outbox.try_next()), 3);
    }

    #[test]
    fn beyond_the_hard_limit_only_the_close_is_left() {
        let outbox = Outbox::default();
        let big = megabytes(3);
        for _ in 0..3 {
            assert_eq!(outbox.event("chat", &big, Need::Required), Pushed::Queued);
        }
        assert_eq!(outbox.event("chat", &0, Need::Required), Pushed::Skipped);
        assert!(outbox.is_closing());
        assert_eq!(outbox.try_next(), Some(Item::Close(Some(close_frame(1008, "slow consumer")))));
        outbox.respond("late", &1);
        assert_eq!(outbox.event("late", &1, Need::Required), Pushed::Skipped);
        assert_eq!(outbox.try_next(), None);
    }

    #[test]
    fn one_event_of_any_size_closes_no_connection() {
        let outbox = Outbox::default();
        assert_eq!(outbox.event("chat", &megabytes(9), Need::Required), Pushed::Queued);
        assert!(!outbox.is_closing());
    }

    #[test]
    fn what_is_being_written_still_counts() {
        let outbox = Outbox::default();
        let big = megabytes(5);
        outbox.event("chat", &big, Need::Required);
        let taken = outbox.try_next().unwrap();
        assert_eq!(outbox.event("tick", &0, Need::Droppable), Pushed::Skipped);
        let mut load = Load::default();
        load.add(&taken);
        outbox.sent(load);
        assert_eq!(outbox.event("tick", &0, Need::Droppable), Pushed::Queued);
    }

    #[test]
    fn responses_never_close_a_connection_but_stop_its_requests() {
        let outbox = Outbox::default();
        let big = megabytes(3);
        for _ in 0..2 {
            outbox.respond("r", &big);
        }
        assert!(!outbox.is_backed_up());
        outbox.respond("r", &big);
        assert!(outbox.is_backed_up() && !outbox.is_closing());
        assert_eq!(outbox.event("tick", &0, Need::Droppable), Pushed::Queued, "responses do not crowd out events");
        let mut load = Load::default();
        load.add(&outbox.try_next().unwrap());
        outbox.sent(load);
        assert!(!outbox.is_backed_up());
    }

    #[test]
    fn a_close_goes_out_behind_what_was_queued_before() {
        let outbox = Outbox::default();
        outbox.event("shutdown", &1, Need::Required);
        outbox.close(1012, "service restart");
        outbox.close(1008, "too late");
        assert_eq!(seq(outbox.try_next()), 1);
        assert_eq!(outbox.try_next(), Some(Item::Close(Some(close_frame(1012, "service restart")))));
        assert_eq!(outbox.try_next(), None);
    }

    #[test]
    fn the_latest_ping_is_answered_first_and_no_ping_after_the_end() {
        let outbox = Outbox::default();
        outbox.event("tick", &1, Need::Droppable);
        outbox.pong(Bytes::from_static(b"1"));
        outbox.pong(Bytes::from_static(b"2"));
        assert_eq!(outbox.try_next(), Some(Item::Pong(Bytes::from_static(b"2"))));
        outbox.answer_close(None);
        outbox.pong(Bytes::from_static(b"3"));
        assert_eq!(outbox.try_next(), Some(Item::Close(None)));
        assert_eq!(outbox.try_next(), None);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = close_frame(1008, &"ä".repeat(100));
        assert_eq!(frame.reason.len(), 122);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_goes_on_when_there_is_some_or_nobody_is_left() {
        let outbox = std::sync::Arc::new(Outbox::default());
        outbox.room().await;
        let waiting = || {
            outbox.respond("r", &megabytes(9));
            let outbox = outbox.clone();
            tokio::spawn(async move { outbox.room().await })
        };
        let first = waiting();
        tokio::task::yield_now().await;
        assert!(!first.is_finished());
        let mut load = Load::default();
        load.add(&outbox.try_next().unwrap());
        outbox.sent(load);
        first.await.unwrap();
        let second = waiting();
        tokio::task::yield_now().await;
        outbox.abandon();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_waiting_writer_hears_of_the_next_item() {
        let outbox = std::sync::Arc::new(Outbox::default());
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.next().await }
        });
        tokio::task::yield_now().await;
        outbox.ping();
        assert_eq!(waiting.await.unwrap(), Item::Ping);
    }
}
