//! Publishing.
//!
//! Owns: the channels that messages are sent on, the memory of declared exchanges, what counts as success.
//! Never: keeps a message. What is not confirmed is the caller's to send again.
//! Start at [`Publisher::publish`]. Tests: tests/broker/publish.rs.
//!
//! Each topic is sent over one channel of a small pool, so that its messages keep their order. Messages are pipelined:
//! nobody waits for somebody else's confirmation. What was declared is remembered per channel, because whatever closes a
//! channel may have taken the exchange with it. The broker refuses by closing the channel, and does not say whose message
//! it meant; where topics share a channel, each message is then sent once more on one of its own.
//!
//! A nack means that a queue did not take the message. After a node of a cluster died, a broker may go on like that for
//! as long as the channel lives, because it asks the dead node about the queue (seen with quorum queues of RabbitMQ 3.10). So
//! a channel is replaced after a nack, and messages that come right after connecting are tried again.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use outrigger_component_api::{ComponentError, Publish, Scope};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error;
use crate::link::{Link, to_the_end};
use crate::message::Outgoing;
use crate::settings::Settings;
use crate::topology::Exchange;

/// Channels of the pool. Up to this many topics have one of their own.
const LANES: usize = 16;
/// Messages of one channel that wait for the broker's word; further ones queue here.
const IN_FLIGHT: usize = 256;
/// A confirmation that is later than this does not come.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);
/// How long a message under way may wait once the broker has stopped taking messages.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(2);
/// How often a closed channel is replaced for one message.
const REPLACEMENTS: u32 = 3;
/// A queue whose leader died has another one by then.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Before a nacked message is tried once more, as long as nothing has settled.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1_600),
];
/// A nack does not replace channels that are younger: a queue that is full nacks everything.
const NACKED_AFTER: Duration = Duration::from_secs(1);
/// Channels that are open for one message each.
const APART: usize = 16;
/// Topics that are remembered; beyond that, all is forgotten and learned again.
const REMEMBERED: usize = 4_096;

pub(crate) struct Publisher {
    settings: Arc<Settings>,
    link: Arc<Link>,
    scope: Scope,
    lanes: Vec<Lane>,
    /// Which lane a topic uses.
    routes: Mutex<HashMap<ShortString, usize>>,
    /// Topics that the broker refused on a channel of their own. They keep away from the lanes until it takes them.
    refused: Mutex<HashSet<ShortString>>,
    apart: Arc<Semaphore>,
    since: Instant,
}

/// One channel of the pool, and its successor when it is closed.
struct Lane {
    live: Mutex<Arc<OnceCell<Arc<Live>>>>,
    window: Arc<Semaphore>,
}

/// An open channel.
struct Live {
    channel: Channel,
    /// Held while one message is numbered and queued: confirmations name messages by number.
    order: Mutex<()>,
    declared: Mutex<HashMap<ShortString, Arc<OnceCell<()>>>>,
    since: Instant,
    /// A message was confirmed.
    has_taken: AtomicBool,
}

/// Why a message was not confirmed.
enum Failure {
    /// The channel was closed before the message was queued.
    NotSent(Arc<Live>),
    /// The channel was closed because an exchange is not there.
    NoExchange(Arc<Live>, ComponentError),
    /// The channel was closed because of something else that was sent on it.
    Refused(Arc<Live>, ComponentError),
    /// A queue did not take the message.
    Nacked(Arc<Live>),
    Final(ComponentError),
}

impl Publisher {
    pub(crate) fn new(settings: Arc<Settings>, link: Arc<Link>, scope: Scope) -> Self {
        let lane = || Lane {
            live: Mutex::default(),
            window: Arc::new(Semaphore::new(IN_FLIGHT)),
        };
        Self {
            settings,
            link,
            scope,
            lanes: std::iter::repeat_with(lane).take(LANES).collect(),
            routes: Mutex::default(),
            refused: Mutex::default(),
            apart: Arc::new(Semaphore::new(APART)),
            since: Instant::now(),
        }
    }

    /// Returns when the broker has the message, or, with confirmations switched off, when it was sent.
    ///
    /// # Errors
    /// Whenever that is not known to be so.
    pub(crate) async fn publish(&self, request: Publish) -> Result<(), ComponentError> {
        let message = Outgoing::new(request, &self.settings)?;
        let lane = self.lane(&message.exchange)?;
        tokio::time::timeout(CONFIRMED_WITHIN, self.deliver(lane, &message))
            .await
            .unwrap_or_else(|_| {
                lane.renew(CONFIRMED_WITHIN);
                Err(ComponentError::timeout(format!(
                    "publishing to `{}`: no confirmation within {CONFIRMED_WITHIN:?}",
                    message.exchange
                )))
            })
    }

    fn lane(&self, topic: &ShortString) -> Result<&Lane, ComponentError> {
        let mut routes = lock(&self.routes);
        let at = match routes.get(topic) {
            Some(at) => *at,
            None => {
                if routes.len() >= REMEMBERED {
                    routes.clear();
                }
                let at = routes.len() % LANES;
                routes.insert(topic.clone(), at);
                at
            }
        };
        self.lanes
            .get(at)
            .ok_or_else(|| ComponentError::failed("no channel for this topic"))
    }

    async fn deliver(&self, lane: &Lane, message: &Outgoing) -> Result<(), ComponentError> {
        let mut replacements = 0;
        let mut declared_again = false;
        let mut pauses = PAUSES.iter();
        loop {
            if self.link.is_blocked() {
                return Err(blocked());
            }
            if lock(&self.refused).contains(&message.exchange) {
                return self.deliver_apart(message).await;
            }
            match self.attempt(lane, message).await {
                Ok(()) => return Ok(()),
                Err(Failure::NotSent(live)) if replacements < REPLACEMENTS => {
                    replacements += 1;
                    lane.retire(&live);
                }
                Err(Failure::NoExchange(live, _)) if !declared_again => {
                    declared_again = true;
                    lane.retire(&live);
                }
                Err(Failure::Nacked(live)) if self.is_settling(&live) => {
                    lane.retire(&live);
                    let Some(pause) = pauses.next() else {
                        return Err(Failure::Nacked(live).told(&message.exchange));
                    };
                    tokio::time::sleep(*pause).await;
                }
                Err(failure @ Failure::Nacked(_)) => {
                    lane.renew(NACKED_AFTER);
                    return Err(failure.told(&message.exchange));
                }
                // Others keep closing it.
                Err(Failure::NotSent(_)) => return self.deliver_apart(message).await,
                Err(Failure::NoExchange(live, _) | Failure::Refused(live, _))
                    if live.is_shared() =>
                {
                    return self.deliver_apart(message).await;
                }
                Err(failure) => return Err(failure.told(&message.exchange)),
            }
        }
    }

    /// A nack says more about the broker's state than about the message.
    fn is_settling(&self, live: &Live) -> bool {
        !live.has_taken.load(Ordering::Relaxed) && self.since.elapsed() < SETTLED_AFTER
    }

    /// Sends one message on a channel of its own.
    async fn deliver_apart(&self, message: &Outgoing) -> Result<(), ComponentError> {
        let place = self.place(&self.apart).await;
        let place = place.map_err(|failure| failure.told(&message.exchange))?;
        let live = self.open().await?;
        let told = self.attempt_on(live.clone(), message, place).await;
        let closing = live.channel.close(200, "OK".into());
        self.link.answer(closing).await.ok();
        self.learn(&message.exchange, &told);
        told.map_err(|failure| failure.told(&message.exchange))
    }

    /// What a message that was sent on a channel of its own tells about its topic.
    fn learn(&self, topic: &ShortString, told: &Result<(), Failure>) {
        let mut refused = lock(&self.refused);
        match told {
            Ok(()) => {
                refused.remove(topic);
            }
            Err(Failure::NoExchange(..) | Failure::Refused(..)) => {
                if refused.len() >= REMEMBERED {
                    refused.clear();
                }
                refused.insert(topic.clone());
            }
            Err(_) => {}
        }
    }

    async fn attempt(&self, lane: &Lane, message: &Outgoing) -> Result<(), Failure> {
        let place = self.place(&lane.window).await?;
        let live = self.live(lane).await.map_err(Failure::Final)?;
        self.attempt_on(live, message, place).await
    }

    /// Waits until one more message may be under way.
    async fn place(&self, window: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
        let place = tokio::select! {
            biased;
            place = window.clone().acquire_owned() => place.ok(),
            () = self.link.stalled(BLOCKED_PATIENCE) => None,
        };
        match place {
            Some(place) => Ok(place),
            None => Err(Failure::Final(self.unconfirmed().await)),
        }
    }

    /// `place` is given back when the broker has answered, even if nobody waits for that any longer.
    async fn attempt_on(
        &self,
        live: Arc<Live>,
        message: &Outgoing,
        place: OwnedSemaphorePermit,
    ) -> Result<(), Failure> {
        let declared = self.declare(&live, &message.exchange).await;
        declared.map_err(Failure::Final)?;
        let sending = Sending {
            confirming: Some(confirming(live.channel.clone(), message.clone(), place)),
            live: live.clone(),
            link: self.link.clone(),
            scope: self.scope.clone(),
            is_queued: false,
        };
        let told = tokio::select! {
            biased;
            told = sending => told,
            () = self.link.stalled(BLOCKED_PATIENCE) => {
                return Err(Failure::Final(self.unconfirmed().await));
            }
        };
        match told {
            Ok(Confirmation::Ack(_) | Confirmation::NotRequested) => {
                live.has_taken.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(Confirmation::Nack(_)) => Err(Failure::Nacked(live)),
            Err(Unsent(None)) => Err(Failure::NotSent(live)),
            Err(Unsent(Some(cause))) => {
                let doing = format!("publishing to `{}`", message.exchange);
                let told = self.link.blame(&cause, &doing);
                Err(if error::is_not_found(&cause) {
                    Failure::NoExchange(live, told)
                } else if told.doubts_connection() {
                    Failure::Final(told)
                } else {
                    Failure::Refused(live, told)
                })
            }
        }
    }

    /// Why no confirmation comes.
    async fn unconfirmed(&self) -> ComponentError {
        if self.link.is_alive() {
            blocked()
        } else {
            self.link.lost().await
        }
    }

    async fn live(&self, lane: &Lane) -> Result<Arc<Live>, ComponentError> {
        let cell = lock(&lane.live).clone();
        let live = cell.get_or_try_init(|| self.open()).await?;
        Ok(live.clone())
    }

    async fn open(&self) -> Result<Arc<Live>, ComponentError> {
        let (link, confirms) = (self.link.clone(), self.settings.confirms);
        let opened = to_the_end(&self.scope, async move {
            let channel = link.channel().await?;
            if confirms {
                let selecting = channel.confirm_select(ConfirmSelectOptions::default());
                link.answer(selecting)
                    .await
                    .map_err(|cause| link.blame(&cause, "asking for confirmations"))?;
            }
            Ok(channel)
        });
        Ok(Arc::new(Live {
            channel: opened.await?,
            order: Mutex::default(),
            declared: Mutex::default(),
            since: Instant::now(),
            has_taken: AtomicBool::new(false),
        }))
    }

    /// Makes sure that the exchange was declared since the channel was opened.
    async fn declare(&self, live: &Live, topic: &ShortString) -> Result<(), ComponentError> {
        let cell = {
            let mut declared = lock(&live.declared);
            if declared.len() >= REMEMBERED {
                declared.clear();
            }
            declared.entry(topic.clone()).or_default().clone()
        };
        let declared = cell.get_or_try_init(|| self.declare_apart(topic.clone()));
        declared.await.copied()
    }

    /// Declares on a channel of its own, which a refusal closes.
    async fn declare_apart(&self, topic: ShortString) -> Result<(), ComponentError> {
        let exchange = Exchange::of_topic(topic.as_str(), &self.settings)?;
        let link = self.link.clone();
        to_the_end(&self.scope, async move {
            let channel = link.channel().await?;
            exchange
                .declare(&channel)
                .await
                .map_err(|cause| link.blame(&cause, &format!("declaring exchange `{topic}`")))?;
            link.answer(channel.close(200, "OK".into())).await.ok();
            Ok(())
        })
        .await
    }
}

impl Lane {
    /// The next message opens a new channel, unless another message has done so already.
    fn retire(&self, dead: &Arc<Live>) {
        let mut live = lock(&self.live);
        if live.get().is_some_and(|live| Arc::ptr_eq(live, dead)) {
            *live = Arc::default();
        }
    }

    /// The same if the channel is at least so old. What is under way on it is still waited for.
    fn renew(&self, age: Duration) {
        let mut live = lock(&self.live);
        if live.get().is_some_and(|live| live.since.elapsed() >= age) {
            *live = Arc::default();
        }
    }
}

impl Live {
    /// Whether more than one topic was sent on this channel.
    fn is_shared(&self) -> bool {
        lock(&self.declared).len() > 1
    }
}

impl Failure {
    fn told(self, topic: &ShortString) -> ComponentError {
        match self {
            Self::NotSent(_) => ComponentError::failed(format!(
                "publishing to `{topic}`: the broker keeps closing the channel"
            )),
            Self::Nacked(_) => ComponentError::failed(format!(
                "publishing to `{topic}`: the broker did not take the message"
            )),
            Self::NoExchange(_, error) | Self::Refused(_, error) | Self::Final(error) => error,
        }
    }
}

pub(crate) fn blocked() -> ComponentError {
    ComponentError::transient("the broker takes no messages: it is short of memory or disk")
}

/// The message never reached the channel, or the channel ended before the broker's word.
struct Unsent(Option<lapin::Error>);

type Confirming = Pin<Box<dyn Future<Output = Result<Confirmation, lapin::Error>> + Send>>;

/// One message on its way to being confirmed.
///
/// The first poll numbers and queues it, under the channel's order. A caller who loses patience drops it; what lapin
/// keeps for it is then awaited elsewhere, for it would be kept for ever.
struct Sending {
    confirming: Option<Confirming>,
    live: Arc<Live>,
    link: Arc<Link>,
    scope: Scope,
    is_queued: bool,
}

fn confirming(channel: Channel, message: Outgoing, place: OwnedSemaphorePermit) -> Confirming {
    Box::pin(async move {
        let _place = place;
        let confirm = channel
            .basic_publish(
                message.exchange,
                message.routing_key,
                BasicPublishOptions::default(),
                &message.data,
                message.properties,
            )
            .await?;
        confirm.await
    })
}

impl Future for Sending {
    type Output = Result<Confirmation, Unsent>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(confirming) = this.confirming.as_mut() else {
            return Poll::Ready(Err(Unsent(None)));
        };
        let is_first = !std::mem::replace(&mut this.is_queued, true);
        let polled = {
            let _order = is_first.then(|| lock(&this.live.order));
            confirming.as_mut().poll(cx)
        };
        let Poll::Ready(told) = polled else {
            return Poll::Pending;
        };
        this.confirming = None;
        Poll::Ready(told.map_err(|cause| {
            // A refusal on the spot comes from the channel's state, before anything is queued.
            Unsent((!is_first).then_some(cause))
        }))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let confirming = self.confirming.take().filter(|_| self.is_queued);
        if let Some(confirming) = confirming {
            let link = self.link.clone();
            self.scope.spawn("pubsub.rabbitmq/late", |stop| async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    _ = confirming => {}
                    _ = link.lost() => {}
                }
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
