//! The queue of one subscription, between publishers and the one worker that empties it.
//!
//! A message takes one of 1024 places from its publish until it is settled, repetitions included, so that a full queue
//! holds publishers back and a repetition never has to wait for a place.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_component_api::{Bytes, Metadata, Outcome, Stop};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

const PLACES: usize = 1024;
/// A message that failed is repeated this often.
const REPETITIONS: u32 = 3;
/// Between a failure and the repetition, and after a release that nobody follows up.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) data: Bytes,
    /// Shared by all queues that the message is in.
    pub(super) metadata: Option<Arc<Metadata>>,
    /// From 1 on.
    pub(super) delivery: u32,
}

impl Item {
    pub(super) fn new(data: Bytes, metadata: Option<Metadata>) -> Self {
        Self {
            data,
            metadata: metadata.map(Arc::new),
            delivery: 1,
        }
    }
}

/// What became of the message in hand.
#[derive(Debug)]
pub(super) enum Settled {
    /// It lies in the queue again, or there was none.
    Kept,
    Gone,
    /// The queue is closed; the message belongs to whoever comes next.
    Left(Item),
}

#[derive(Debug)]
pub(super) struct Closed;

pub(super) struct Queue {
    /// How many queues of the exchange are older.
    number: u64,
    /// How many queues the exchange had made when this one ended.
    made_at_end: AtomicU64,
    inner: Mutex<Inner>,
    places: Semaphore,
    /// Something changed that the worker may be waiting for.
    changed: Notify,
    /// Fires when the queue is closed without being asked.
    died: Stop,
}

struct Inner {
    state: State,
    waiting: VecDeque<Item>,
    /// Failed messages with the time of their repetition. All pauses are equal, so the first is the next.
    failed: VecDeque<(Instant, Item)>,
    /// Handed out and not settled.
    in_hand: Option<Item>,
    /// Nothing is handed out before.
    rests_until: Option<Instant>,
    /// Messages that came without taking a place, given back by another queue.
    placeless: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Closed,
}

impl Queue {
    /// A queue that begins with what an earlier one left.
    pub(super) fn new(number: u64, left: VecDeque<Item>) -> Self {
        let taken = left.len().min(PLACES);
        Self {
            number,
            made_at_end: AtomicU64::new(u64::MAX),
            inner: Mutex::new(Inner {
                state: State::Running,
                placeless: left.len() - taken,
                waiting: left,
                failed: VecDeque::new(),
                in_hand: None,
                rests_until: None,
            }),
            places: Semaphore::new(PLACES - taken),
            changed: Notify::new(),
            died: Stop::new(),
        }
    }

    /// Notes that the exchange sends nothing any more.
    pub(super) fn ends(&self, made: u64) {
        self.made_at_end.fetch_min(made, Ordering::SeqCst);
    }

    /// Whether this queue began after the other one had ended.
    pub(super) fn follows(&self, other: &Self) -> bool {
        self.number >= other.made_at_end.load(Ordering::SeqCst)
    }

    /// Takes the message unless the queue is full; it is given back then.
    ///
    /// # Errors
    /// The message.
    pub(super) fn offer(&self, item: Item) -> Result<(), Item> {
        match self.places.try_acquire() {
            Ok(place) => {
                place.forget();
                self.add(item);
                Ok(())
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(item),
            // As if the subscription had ended a moment earlier: the message has no receiver here.
            Err(tokio::sync::TryAcquireError::Closed) => Ok(()),
        }
    }

    /// Takes the message as soon as there is a place, or drops it when the queue closes first.
    pub(super) async fn push(&self, item: Item) {
        if let Ok(place) = self.places.acquire().await {
            place.forget();
            self.add(item);
        }
    }

    fn add(&self, item: Item) {
        let mut inner = self.lock();
        if inner.state != State::Closed {
            inner.waiting.push_back(item);
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// Takes a message that another queue of the topic could not finish, ahead of the others.
    ///
    /// # Errors
    /// When this queue is closed too.
    pub(super) fn take_over(&self, item: Item) -> Result<(), Closed> {
        let mut inner = self.lock();
        if inner.state == State::Closed {
            return Err(Closed);
        }
        inner.placeless += 1;
        inner.waiting.push_front(item);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// The next message, which is in hand from now on; `None` once the queue is closed. For one worker only.
    ///
    /// # Cancel safety
    /// A message is taken only by completing.
    pub(super) async fn next(&self) -> Option<Item> {
        loop {
            let due = match self.lock().choose() {
                Choice::Closed => return None,
                Choice::Item(item) => return Some(item),
                Choice::Wait(due) => due,
            };
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Ends the handling of the message in hand.
    pub(super) fn settle(&self, outcome: Outcome) -> Settled {
        let mut inner = self.lock();
        let Some(mut item) = inner.in_hand.take() else {
            return Settled::Kept;
        };
        let is_closed = inner.state == State::Closed;
        match outcome {
            Outcome::Released if is_closed => return Settled::Left(item),
            Outcome::Released => {
                inner.waiting.push_front(item);
                inner.rests_until = Some(Instant::now() + PAUSE);
            }
            Outcome::Retry(_) if item.delivery <= REPETITIONS => {
                item.delivery += 1;
                if is_closed {
                    return Settled::Left(item);
                }
                inner.failed.push_back((Instant::now() + PAUSE, item));
            }
            Outcome::Done | Outcome::Retry(_) | Outcome::GaveUp(_) => {
                if inner.placeless > 0 {
                    inner.placeless -= 1;
                } else {
                    self.places.add_permits(1);
                }
                return Settled::Gone;
            }
        }
        Settled::Kept
    }

    pub(super) fn pause(&self) {
        let mut inner = self.lock();
        if inner.state == State::Running {
            inner.state = State::Paused;
        }
    }

    pub(super) fn resume(&self) {
        let mut inner = self.lock();
        if inner.state == State::Paused {
            inner.state = State::Running;
            inner.rests_until = None;
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// Lets publishers go and gives what was not handed out, the oldest first. What is in hand stays to be settled.
    pub(super) fn close(&self, was_asked: bool) -> VecDeque<Item> {
        let mut inner = self.lock();
        if inner.state == State::Closed {
            return VecDeque::new();
        }
        inner.state = State::Closed;
        let failed = std::mem::take(&mut inner.failed);
        let mut left: VecDeque<Item> = failed.into_iter().map(|(_, item)| item).collect();
        left.append(&mut inner.waiting);
        drop(inner);
        self.places.close();
        self.changed.notify_one();
        if !was_asked {
            self.died.cancel();
        }
        left
    }

    /// Completes when the queue was closed without being asked.
    pub(super) async fn died(&self) {
        self.died.cancelled().await;
    }

    pub(super) fn is_busy(&self) -> bool {
        self.lock().in_hand.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Choice {
    Item(Item),
    /// Until something changes, or until this time.
    Wait(Option<Instant>),
    Closed,
}

impl Inner {
    fn choose(&mut self) -> Choice {
        match self.state {
            State::Closed => return Choice::Closed,
            State::Paused => return Choice::Wait(None),
            State::Running => {}
        }
        let has_passed = |time: Instant| time <= Instant::now();
        if let Some(rest) = self.rests_until {
            if !has_passed(rest) {
                return Choice::Wait(Some(rest));
            }
            self.rests_until = None;
        }
        let repetition = self.failed.front().map(|(due, _)| *due);
        let item = if repetition.is_some_and(has_passed) {
            self.failed.pop_front().map(|(_, item)| item)
        } else {
            self.waiting.pop_front()
        };
        match item {
            Some(item) => {
                self.in_hand = Some(item.clone());
                Choice::Item(item)
            }
            None => Choice::Wait(repetition),
        }
    }
}
