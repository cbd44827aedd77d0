//! What becomes of one message: the handler's word, and what the broker is told.
//!
//! Owns: how many messages are in work, the rest before a failed message goes back, messages that handlers let go.
//! Never: fetches. Start at [`Desk::handle`]. Tests: tests/broker/subscribe.rs.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use outrigger_component_api::{Handler, Outcome, Stop};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::debug;

use crate::link::Link;
use crate::message::{attempts, incoming};
use crate::requeue::Requeues;
use crate::settings::Settings;

/// What the handlers of one subscription share.
pub(crate) struct Desk {
    pub(crate) settings: Arc<Settings>,
    link: Arc<Link>,
    pub(crate) channel: Channel,
    handler: Arc<dyn Handler>,
    topic: String,
    in_work: AtomicUsize,
    /// Messages that their handlers neither finished nor failed.
    left: Mutex<Vec<u64>>,
    requeues: Mutex<Requeues>,
    /// True between a release and the next resume: whatever is not done goes back at once. Changes under `left`.
    returning: watch::Sender<bool>,
    /// The channel is being closed.
    over: Stop,
}

impl Desk {
    pub(crate) fn new(
        settings: Arc<Settings>,
        link: Arc<Link>,
        channel: Channel,
        handler: Arc<dyn Handler>,
        topic: String,
    ) -> Self {
        Self {
            settings,
            link,
            channel,
            handler,
            topic,
            in_work: AtomicUsize::new(0),
            left: Mutex::default(),
            requeues: Mutex::default(),
            returning: watch::Sender::new(false),
            over: Stop::new(),
        }
    }

    /// Hands a message out, and tells the broker what became of it.
    pub(crate) async fn handle(self: Arc<Self>, delivery: Delivery, work: InWork) {
        let tag = delivery.delivery_tag;
        let print = self
            .settings
            .requeue_in_failure
            .then(|| Requeues::print(&delivery));
        let told = attempts(&delivery);
        let message = incoming(delivery, &self.topic, &self.settings);
        let handled = AssertUnwindSafe(self.handler.handle(message)).catch_unwind();
        let outcome = handled
            .await
            .unwrap_or_else(|_| Outcome::Retry("the handler panicked".to_owned()));
        if self.settings.auto_ack {
            return;
        }
        // `work` ends with this function: a message is in work until the broker was told.
        match outcome {
            Outcome::Done => {
                if let Some(print) = print {
                    lock(&self.requeues).forget(print);
                }
                self.ack(tag).await;
            }
            Outcome::GaveUp(reason) => {
                debug!(topic = self.topic, reason, "message given up");
                self.nack(tag, false).await;
            }
            Outcome::Retry(reason) => match print {
                Some(print) => {
                    let delay = lock(&self.requeues).delay(print, told);
                    debug!(
                        topic = self.topic,
                        reason,
                        ?delay,
                        "message goes back to its queue"
                    );
                    // It is no work any more: the slot is free, and nobody who drains waits for it.
                    drop(work);
                    self.until_return(delay).await;
                    self.nack(tag, true).await;
                }
                None => {
                    debug!(topic = self.topic, reason, "message failed");
                    self.nack(tag, false).await;
                }
            },
            Outcome::Released => {
                let goes_back = {
                    let mut left = lock(&self.left);
                    let goes_back = *self.returning.borrow();
                    if !goes_back {
                        left.push(tag);
                    }
                    goes_back
                };
                if goes_back {
                    self.nack(tag, true).await;
                }
            }
        }
    }

    /// How many messages are being handled.
    pub(crate) fn in_work(&self) -> usize {
        self.in_work.load(Ordering::Acquire)
    }

    /// The messages that handlers let go. With `go_back`, failed ones need not rest any longer, and messages that fail or
    /// are let go from now on return to the queue at once.
    pub(crate) fn left_behind(&self, go_back: bool) -> Vec<u64> {
        let mut left = lock(&self.left);
        self.returning.send_replace(go_back);
        std::mem::take(&mut left)
    }

    /// The channel is about to be closed: nothing needs to wait any longer.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    async fn until_return(&self, delay: Duration) {
        let mut returning = self.returning.subscribe();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = returning.wait_for(|returning| *returning) => {}
            () = self.over.cancelled() => {}
        }
    }

    /// An acknowledgement that does not reach the broker needs no words: the message comes again.
    pub(crate) async fn ack(&self, tag: u64) {
        let sending = self.channel.basic_ack(tag, BasicAckOptions::default());
        if let Err(cause) = self.link.answer(sending).await {
            debug!(topic = self.topic, %cause, "late acknowledgement dropped");
        }
    }

    /// Returns messages to the queue.
    pub(crate) async fn put_back(&self, tags: Vec<u64>) {
        for tag in tags {
            self.nack(tag, true).await;
        }
    }

    async fn nack(&self, tag: u64, requeue: bool) {
        let options = BasicNackOptions {
            requeue,
            ..BasicNackOptions::default()
        };
        let sending = self.channel.basic_nack(tag, options);
        if let Err(cause) = self.link.answer(sending).await {
            debug!(topic = self.topic, %cause, "late refusal dropped");
        }
    }
}

/// One message in work: counted, and one of those that may be handled at a time.
pub(crate) struct InWork {
    desk: Arc<Desk>,
    _slot: OwnedSemaphorePermit,
}

impl InWork {
    pub(crate) fn begin(desk: Arc<Desk>, slot: OwnedSemaphorePermit) -> Self {
        desk.in_work.fetch_add(1, Ordering::AcqRel);
        Self { desk, _slot: slot }
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.desk.in_work.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
