//! The task that owns the consumer of one subscription.
//!
//! Owns: fetching, handing out, pausing, giving back, noticing the consumer's end.
//! Never: decides about a message; `handle.rs` does. Start at [`Feed::run`]. Tests: tests/broker/subscribe.rs.
//!
//! What is fetched is in one of three places: in work (a handler has it), failed and waiting for its return, or held
//! (fetched, not handed out). Pausing cancels the consumer, so that nothing more is fetched. An auto-delete queue would
//! vanish with it; there a consumer of lowest priority, which takes one message at most, stays behind and keeps the
//! queue in being.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::Consumer;
use lapin::message::Delivery;
use lapin::options::BasicCancelOptions;
use outrigger_component_api::{ComponentError, Scope, Stop};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::{debug, warn};

use crate::handle::{Desk, InWork};
use crate::link::Link;
use crate::settings::Concurrency;
use crate::topology::Plan;

/// A broker that does not answer a request about the consumer in this time is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same for closing the channel.
const FAREWELL: Duration = Duration::from_millis(800);
/// A message that lies with the consumer that keeps a queue goes back and comes again after this time. A broker closes the
/// channel of a consumer that keeps one for too long (30 minutes by default), which would end the queue.
const KEPT_FOR: Duration = Duration::from_secs(5 * 60);

pub(crate) enum Command {
    Pause,
    Resume,
    Release,
    Close,
}

/// A command, and where to say that it was carried out.
pub(crate) struct Order {
    pub(crate) command: Command,
    pub(crate) done: oneshot::Sender<()>,
}

/// The task that owns the consumer.
pub(crate) struct Feed {
    plan: Plan,
    desk: Arc<Desk>,
    link: Arc<Link>,
    scope: Scope,
    /// Fetches. Absent while paused, and after its end.
    consumer: Option<Consumer>,
    /// Keeps an auto-delete queue in being while paused.
    keeper: Option<Consumer>,
    /// Fetched and not handed out.
    held: VecDeque<Delivery>,
    /// Handlers that may run at a time.
    slots: Arc<Semaphore>,
    is_paused: bool,
    ended: watch::Sender<Option<ComponentError>>,
}

enum Step {
    Stopped,
    Ordered(Option<Order>),
    Fetched(Box<Delivery>, OwnedSemaphorePermit),
    /// Paused for a while.
    Kept,
    Died(ComponentError),
}

impl Feed {
    pub(crate) fn new(
        plan: Plan,
        desk: Arc<Desk>,
        link: Arc<Link>,
        scope: Scope,
        consumer: Consumer,
        ended: watch::Sender<Option<ComponentError>>,
    ) -> Self {
        let limit = match desk.settings.concurrency {
            Concurrency::Parallel => usize::from(desk.settings.prefetch),
            Concurrency::Single => 1,
        };
        Self {
            plan,
            desk,
            link,
            scope,
            consumer: Some(consumer),
            keeper: None,
            held: VecDeque::new(),
            slots: Arc::new(Semaphore::new(limit)),
            is_paused: false,
            ended,
        }
    }

    /// Runs until it is closed or stopped.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Order>, all: Stop, own: Stop) {
        loop {
            let step = tokio::select! {
                biased;
                () = all.cancelled() => Step::Stopped,
                () = own.cancelled() => Step::Stopped,
                order = inbox.recv() => Step::Ordered(order),
                step = self.next() => step,
            };
            match step {
                Step::Stopped | Step::Ordered(None) => break,
                Step::Ordered(Some(order)) => {
                    let is_last = matches!(order.command, Command::Close);
                    self.carry_out(order.command).await;
                    // Whoever asked may have gone.
                    order.done.send(()).ok();
                    if is_last {
                        return;
                    }
                }
                Step::Fetched(delivery, slot) => {
                    // Counted before its task runs: whoever pauses and finds nothing in work may rely on that.
                    let work = InWork::begin(self.desk.clone(), slot);
                    let handling = self.desk.clone().handle(*delivery, work);
                    self.scope.spawn_future("pubsub.rabbitmq/handler", handling);
                }
                Step::Kept => {
                    let kept = tags(waiting(&mut self.keeper));
                    let returning = self.desk.put_back(kept);
                    tokio::time::timeout(PATIENCE, returning).await.ok();
                }
                Step::Died(reason) => {
                    self.consumer = None;
                    // The broker has them; with autoAck nobody has, and leaving tells.
                    if !self.desk.settings.auto_ack {
                        self.held.clear();
                    }
                    self.ended.send_replace(Some(reason));
                }
            }
        }
        self.leave().await;
    }

    /// The next thing to do of its own accord. Cancel safe: a delivery is handed over or held.
    async fn next(&mut self) -> Step {
        if self.ended.borrow().is_some() {
            return std::future::pending().await;
        }
        if self.is_paused {
            // The channel has no consumer to tell of its end. Resuming notices a channel that was closed meanwhile.
            return tokio::select! {
                reason = self.link.lost() => Step::Died(reason),
                () = tokio::time::sleep(KEPT_FOR) => Step::Kept,
            };
        }
        loop {
            let has_held = !self.held.is_empty();
            let Some(consumer) = self.consumer.as_mut() else {
                return std::future::pending().await;
            };
            // The consumer is listened to even while all slots are taken: its end must not wait for a handler's.
            let fetched = tokio::select! {
                biased;
                Ok(slot) = self.slots.clone().acquire_owned(), if has_held => {
                    if let Some(delivery) = self.held.pop_front() {
                        return Step::Fetched(Box::new(delivery), slot);
                    }
                    continue;
                }
                fetched = consumer.next() => fetched,
                reason = self.link.lost() => return Step::Died(reason),
            };
            match fetched {
                Some(Ok(delivery)) => self.held.push_back(delivery),
                Some(Err(cause)) => {
                    let doing = format!("the consumer of queue `{}` ended", self.plan.queue.name);
                    return Step::Died(self.link.blame(&cause, &doing));
                }
                None if !self.link.is_alive() => return Step::Died(self.link.reason()),
                None => {
                    return Step::Died(ComponentError::failed(format!(
                        "the broker ended the consumer of queue `{}`: the queue was deleted or moved",
                        self.plan.queue.name
                    )));
                }
            }
        }
    }

    async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Pause => self.pause().await,
            Command::Resume => self.resume().await,
            Command::Release if self.is_paused => {
                tokio::time::timeout(PATIENCE, self.give_back()).await.ok();
            }
            Command::Release => {}
            Command::Close => {
                self.is_paused = true;
                let giving_back = async {
                    self.cancel().await;
                    self.give_back().await;
                };
                tokio::time::timeout(PATIENCE, giving_back).await.ok();
                self.leave().await;
            }
        }
    }

    async fn pause(&mut self) {
        if self.is_paused || self.ended.borrow().is_some() {
            return;
        }
        self.is_paused = true;
        if self.plan.queue.auto_delete && !self.keep().await {
            // Better to hold what is fetched than to lose the queue.
            return;
        }
        self.cancel().await;
    }

    /// Registers the keeper. False when it could not be.
    async fn keep(&mut self) -> bool {
        let keeping = self.plan.keep(&self.desk.channel);
        match self.request(keeping).await {
            Some(Ok(keeper)) => {
                self.keeper = Some(keeper);
                true
            }
            refused => {
                debug!(queue = %self.plan.queue.name, ?refused, "paused without a keeper");
                false
            }
        }
    }

    /// Stops fetching, and keeps what was fetched until the broker knew.
    async fn cancel(&mut self) {
        let Some(mut consumer) = self.consumer.take() else {
            return;
        };
        if self.cancelled(&consumer).await {
            while let Some(Ok(delivery)) = consumer.next().await {
                self.held.push_back(delivery);
            }
        } else {
            // The broker may still send, and may cancel late; nobody listens until the pause ends.
            self.consumer = Some(consumer);
            if self.link.is_alive() {
                warn!(
                    component = %self.desk.settings.component,
                    queue = %self.plan.queue.name,
                    "the broker does not answer: what is acknowledged from now on may be delivered again"
                );
            }
        }
    }

    async fn resume(&mut self) {
        if !self.is_paused || self.ended.borrow().is_some() {
            return;
        }
        let left = self.desk.left_behind(false);
        self.held.extend(waiting(&mut self.consumer));
        if self.consumer.is_none() {
            let doing = format!("consuming queue `{}` again", self.plan.queue.name);
            let consuming = self.plan.consume(&self.desk.channel);
            let failed = match self.request(consuming).await {
                Some(Ok(consumer)) => {
                    self.consumer = Some(consumer);
                    None
                }
                Some(Err(cause)) => Some(self.link.blame(&cause, &doing)),
                None => Some(ComponentError::timeout(format!(
                    "{doing}: no answer within {PATIENCE:?}"
                ))),
            };
            if failed.is_some() {
                self.ended.send_replace(failed);
                return;
            }
        }
        if let Some(mut keeper) = self.keeper.take() {
            if self.cancelled(&keeper).await {
                while let Some(Ok(delivery)) = keeper.next().await {
                    if self.desk.settings.auto_ack {
                        self.desk.ack(delivery.delivery_tag).await;
                    }
                    self.held.push_back(delivery);
                }
            } else {
                self.keeper = Some(keeper);
            }
        }
        self.is_paused = false;
        let returning = self.desk.put_back(left);
        tokio::time::timeout(PATIENCE, returning).await.ok();
    }

    /// Returns everything that was fetched and is in nobody's work to the queue.
    async fn give_back(&mut self) {
        self.held.extend(waiting(&mut self.consumer));
        let left = self.desk.left_behind(true);
        let mut back = tags(waiting(&mut self.keeper));
        // With autoAck the broker has forgotten what was fetched; that can only be handed out after a resume.
        if !self.desk.settings.auto_ack {
            back.extend(tags(self.held.drain(..)));
            back.extend(left);
        }
        // A nack, not a closed channel: since RabbitMQ 4.3 quorum queues do not count it as a failed delivery.
        self.desk.put_back(back).await;
    }

    /// A request about a consumer, bounded. `None` when it was not answered.
    async fn request<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Option<lapin::Result<T>> {
        tokio::time::timeout(PATIENCE, self.link.answer(asking))
            .await
            .ok()
    }

    /// Cancels a consumer; true when the broker has confirmed it, so that nothing more comes.
    async fn cancelled(&self, consumer: &Consumer) -> bool {
        let options = BasicCancelOptions::default();
        let cancelling = self.desk.channel.basic_cancel(consumer.tag(), options);
        matches!(self.request(cancelling).await, Some(Ok(())))
    }

    /// Closes the channel: what is in work returns to the queue, and its late outcomes are dropped.
    pub(crate) async fn leave(&mut self) {
        if self.desk.settings.auto_ack && !self.held.is_empty() {
            warn!(
                component = %self.desk.settings.component,
                queue = %self.plan.queue.name,
                messages = self.held.len(),
                "messages lost: autoAck fetched them, and nobody handled them"
            );
        }
        self.desk.end();
        if self.desk.channel.status().connected() {
            let closing = self.desk.channel.close(200, "OK".into());
            let closing = self.link.answer(closing);
            tokio::time::timeout(FAREWELL, closing).await.ok();
        }
    }
}

/// What a consumer has received and nobody has taken. A consumer that was cancelled is let go.
fn waiting(consumer: &mut Option<Consumer>) -> Vec<Delivery> {
    let mut waiting = Vec::new();
    while let Some(next) = consumer.as_mut().map(|consumer| consumer.next()) {
        match next.now_or_never() {
            Some(Some(Ok(delivery))) => waiting.push(delivery),
            Some(None) => *consumer = None,
            Some(Some(Err(_))) | None => break,
        }
    }
    waiting
}

fn tags(deliveries: impl IntoIterator<Item = Delivery>) -> Vec<u64> {
    let tag = |delivery: Delivery| delivery.delivery_tag;
    deliveries.into_iter().map(tag).collect()
}
