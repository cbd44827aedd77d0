//! Subscriptions as supervised children: each runs, fails and comes back on its own.
//!
//! [`Subscriptions`] holds what is wanted (resources, the app's own list, streams) and starts one runner for each. A runner
//! drives the machine of [`outrigger_lifecycle::subscription`]: it subscribes while the component is ready and messages may
//! flow, pauses while they may not, and subscribes anew after an outage.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_component_api::{ComponentError, Handler, PubSub, Source, Subscribe};
use outrigger_core::Metadata;
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_lifecycle::connection;
use outrigger_lifecycle::subscription::{Action, Event, Machine, State, Status};
use outrigger_lifecycle::{Clock, Moment, Scope, Stop};
use outrigger_telemetry::journal::{self, Told};
use tokio::sync::watch;
use tracing::{info, warn};

use super::bulk::{BulkDesk, BulkHandler};
use super::deliver::{AppSink, Deliverer, Desk, SCOPE, Sink};
use super::policy::{Halt, Hold};
use super::route::Rules;
use super::stream::{self, Connection};
use crate::activity::Kind;
use crate::app::{AppChannel, BulkOptions};
use crate::component::{Handle, Instance};
use crate::errors;
use crate::registry::Registry;

/// A broker has this long to register a subscription.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Each step of letting go has this long.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A subscription that is not wanted any more has this long for what it has in hand.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// How often work in hand is counted.
const LOOK: Duration = Duration::from_millis(10);
/// A message that was released while the gate stayed open goes back after this.
const STRAY_LIMIT: Duration = Duration::from_millis(500);

/// Where a subscription was asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    Declarative,
    Programmatic,
    Streaming,
}

impl Origin {
    /// The word of the metadata API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Declarative => "DECLARATIVE",
            Self::Programmatic => "PROGRAMMATIC",
            Self::Streaming => "STREAMING",
        }
    }
}

/// What is subscribed to, and what is to become of its messages.
#[derive(Debug)]
pub struct Plan {
    pub origin: Origin,
    pub pubsub: String,
    pub topic: String,
    pub rules: Rules,
    pub dead_letter_topic: String,
    pub metadata: Metadata,
    pub bulk: Option<BulkOptions>,
    /// Equal texts are equal subscriptions.
    pub fingerprint: String,
}

/// A subscription as the metadata API shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub plan: Arc<Plan>,
    pub status: Status,
}

/// All subscriptions of the sidecar.
pub struct Subscriptions {
    shared: Arc<Shared>,
    scope: Scope,
    running: Mutex<Running>,
}

struct Shared {
    registry: Arc<Registry>,
    desk: Arc<Desk>,
    app: Option<Arc<dyn AppChannel>>,
    clock: Clock,
    /// Messages may flow to the app.
    pulls: watch::Receiver<bool>,
    /// Events may flow over streams.
    streams: watch::Receiver<bool>,
    /// Everything ends.
    stop: Stop,
}

#[derive(Default)]
struct Running {
    /// Subscriptions of the app, in their order; at most one per component and topic.
    app: Vec<Entry>,
    streams: HashMap<u64, Entry>,
    next_stream: u64,
}

struct Entry {
    plan: Arc<Plan>,
    /// The component that the runner uses; none while there is no such component.
    handle: Option<Arc<Handle<dyn PubSub>>>,
    status: watch::Receiver<Status>,
    scope: Scope,
}

/// An open stream; dropping it ends its subscription.
pub struct Stream {
    pub connection: Connection,
    status: watch::Receiver<Status>,
    id: u64,
    owner: Arc<Subscriptions>,
}

impl Subscriptions {
    pub fn new(
        registry: Arc<Registry>,
        desk: Arc<Desk>,
        app: Option<Arc<dyn AppChannel>>,
        clock: Clock,
        pulls: watch::Receiver<bool>,
        streams: watch::Receiver<bool>,
        scope: Scope,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                registry,
                desk,
                app,
                clock,
                pulls,
                streams,
                stop: scope.stop().clone(),
            }),
            scope,
            running: Mutex::default(),
        }
    }

    /// Makes the app's subscriptions be exactly these, in this order. What has not changed runs on undisturbed.
    pub fn apply(&self, plans: Vec<Arc<Plan>>) {
        let Some(app) = self.shared.app.clone() else {
            return;
        };
        let sink: Arc<dyn Sink> = Arc::new(AppSink(app));
        let mut running = self.lock();
        let mut kept: Vec<Entry> = std::mem::take(&mut running.app);
        for plan in plans {
            let handle = self.shared.registry.pubsub(&plan.pubsub);
            let same = |entry: &Entry| {
                entry.plan.fingerprint == plan.fingerprint
                    && same_handle(entry.handle.as_ref(), handle.as_ref())
            };
            let entry = match kept.iter().position(same) {
                Some(place) => kept.swap_remove(place),
                None => self.start(plan, handle, sink.clone(), self.shared.pulls.clone()),
            };
            running.app.push(entry);
        }
        drop(running);
        for gone in kept {
            gone.scope.cancel();
        }
    }

    /// Looks the components up anew after resources have changed.
    pub fn reconcile(&self) {
        let plans: Vec<Arc<Plan>> = self
            .lock()
            .app
            .iter()
            .map(|entry| entry.plan.clone())
            .collect();
        self.apply(plans);
    }

    /// Opens a subscription over a stream. Its events wait until it stands.
    ///
    /// # Errors
    /// When the component is unknown or rejected, or the topic is not allowed.
    pub fn open_stream(
        self: &Arc<Self>,
        pubsub: &str,
        topic: &str,
        metadata: Metadata,
        dead_letter_topic: &str,
    ) -> Result<Stream, ApiError> {
        let Some(handle) = self.shared.registry.pubsub(pubsub) else {
            return Err(self
                .shared
                .registry
                .rejection(pubsub, "pubsub.")
                .unwrap_or_else(|| errors::pubsub::not_found(pubsub, None)));
        };
        if handle.status().state == connection::State::Rejected {
            return Err(handle.not_ready());
        }
        if let Some(instance) = handle.instance()
            && !instance.about.access.may_subscribe(topic)
        {
            let message = format!(
                "failed to create subscription for {pubsub}: {}",
                not_allowed(pubsub, topic)
            );
            return Err(ApiError::legacy(
                403,
                GrpcCode::Unknown,
                "ERR_PUBSUB_FORBIDDEN",
                "pubsub",
                message,
            ));
        }
        let plan = Arc::new(Plan {
            origin: Origin::Streaming,
            pubsub: pubsub.to_owned(),
            topic: topic.to_owned(),
            rules: Rules::single("/"),
            dead_letter_topic: dead_letter_topic.to_owned(),
            metadata,
            bulk: None,
            fingerprint: String::new(),
        });
        let (sink, connection) = stream::pair();
        let entry = self.start(
            plan,
            Some(handle),
            Arc::new(sink),
            self.shared.streams.clone(),
        );
        let status = entry.status.clone();
        let mut running = self.lock();
        running.next_stream += 1;
        let id = running.next_stream;
        running.streams.insert(id, entry);
        drop(running);
        Ok(Stream {
            connection,
            status,
            id,
            owner: self.clone(),
        })
    }

    /// Every subscription, those of the app first.
    pub fn list(&self) -> Vec<Listed> {
        let running = self.lock();
        let mut streams: Vec<_> = running.streams.iter().collect();
        streams.sort_by_key(|(id, _)| **id);
        let listed = |entry: &Entry| Listed {
            plan: entry.plan.clone(),
            status: entry.status.borrow().clone(),
        };
        running
            .app
            .iter()
            .chain(streams.into_iter().map(|(_, entry)| entry))
            .map(listed)
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        &self,
        plan: Arc<Plan>,
        handle: Option<Arc<Handle<dyn PubSub>>>,
        sink: Arc<dyn Sink>,
        gate: watch::Receiver<bool>,
    ) -> Entry {
        let scope = self.scope.child();
        let machine = Machine::new(self.shared.clock.now());
        let (status, seen) = watch::channel(machine.status().clone());
        match &handle {
            Some(handle) => {
                let runner = Runner {
                    shared: self.shared.clone(),
                    plan: plan.clone(),
                    handle: handle.clone(),
                    sink,
                    gate,
                    scope: scope.clone(),
                    machine,
                    status,
                    subscribed: None,
                    hold: Arc::new(watch::channel(None).0),
                    released: watch::Sender::new(0),
                    stray_since: None,
                    over: Stop::new(),
                };
                // The runner outlives its own scope's cancellation by the time that letting go takes.
                let stop = scope.stop().clone();
                self.scope
                    .spawn_future("pubsub.subscription", runner.run(stop));
            }
            None => {
                warn!(target: SCOPE, pubsub = plan.pubsub, topic = plan.topic, "no pub/sub component of this name: the subscription waits for one")
            }
        }
        Entry {
            plan,
            handle,
            status: seen,
            scope,
        }
    }
}

impl std::fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscriptions({})", self.lock().app.len())
    }
}

impl Stream {
    /// Waits until the subscription stands at the broker.
    pub async fn registered(&mut self) {
        self.status
            .wait_for(|status| status.state == State::Active)
            .await
            .ok();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(entry) = self.owner.lock().streams.remove(&self.id) {
            entry.scope.cancel();
        }
    }
}

fn same_handle(a: Option<&Arc<Handle<dyn PubSub>>>, b: Option<&Arc<Handle<dyn PubSub>>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn not_allowed(pubsub: &str, topic: &str) -> String {
    format!("subscription to topic '{topic}' on pubsub '{pubsub}' is not allowed")
}

struct Runner {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    handle: Arc<Handle<dyn PubSub>>,
    sink: Arc<dyn Sink>,
    gate: watch::Receiver<bool>,
    scope: Scope,
    machine: Machine,
    status: watch::Sender<Status>,
    subscribed: Option<Subscribed>,
    /// Until when an open breaker keeps messages from the app.
    hold: Arc<Hold>,
    /// How many messages were released, for whatever reason.
    released: watch::Sender<u64>,
    /// When the first of them was that no pause has taken back to the broker.
    stray_since: Option<Moment>,
    /// Ends what is still being handled.
    over: Stop,
}

/// A source on an instance; paused while the gate is closed.
struct Subscribed {
    instance: Arc<Instance<dyn PubSub>>,
    source: Box<dyn Source>,
    /// Owns what the handler runs; ends with the source.
    scope: Scope,
}

impl Subscribed {
    /// Waits until nothing is being handled.
    async fn finished(&self) {
        while self.source.in_flight() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }
}

type Starting = Pin<Box<dyn std::future::Future<Output = Result<Subscribed, String>> + Send>>;

enum Woken {
    Stopped,
    Conditions,
    HoldOver,
    /// A handler has let a message go.
    Released,
    /// It did so a while ago, and no pause has followed.
    Stray,
    Started(Result<Subscribed, String>),
    Ended(ComponentError),
    Due,
}

impl Runner {
    async fn run(mut self, stop: Stop) {
        let mut component = self.handle.watch();
        let mut gate = self.gate.clone();
        let mut hold = self.hold.subscribe();
        let mut released = self.released.subscribe();
        let mut starting: Option<Starting> = None;
        self.check_conditions(&mut starting).await;
        loop {
            let due = self.machine.wake_at();
            let clock = self.shared.clock;
            let held = *hold.borrow_and_update();
            let stray = self.stray_since.map(|since| since + STRAY_LIMIT);
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stopped,
                Ok(()) = component.changed() => Woken::Conditions,
                Ok(()) = gate.changed() => Woken::Conditions,
                Ok(()) = hold.changed() => Woken::Conditions,
                () = over(clock, held) => Woken::HoldOver,
                Ok(()) = released.changed() => Woken::Released,
                () = over(clock, stray) => Woken::Stray,
                started = poll_some(&mut starting) => Woken::Started(started),
                ended = ended(self.subscribed.as_ref()), if starting.is_none() => Woken::Ended(ended),
                () = async move { match due { Some(due) => clock.until(due).await, None => std::future::pending().await } } => Woken::Due,
            };
            match woken {
                Woken::Stopped => {
                    drop(starting);
                    self.event(Event::Close);
                    self.finish().await;
                    self.leave().await;
                    return;
                }
                Woken::Conditions => self.check_conditions(&mut starting).await,
                Woken::HoldOver => {
                    self.hold.send_replace(None);
                    self.check_conditions(&mut starting).await;
                }
                Woken::Released => {
                    let now = self.shared.clock.now();
                    self.stray_since.get_or_insert(now);
                }
                Woken::Stray => self.collect_strays().await,
                Woken::Started(outcome) => {
                    starting = None;
                    self.started(outcome);
                }
                Woken::Ended(error) => {
                    warn!(target: SCOPE, pubsub = self.plan.pubsub, topic = self.plan.topic, error = %error, event = "subscription_state", from = "active", to = "retrying", "subscription ended, starting it again");
                    if error.doubts_connection() {
                        self.handle.suspect();
                    }
                    self.let_go().await;
                    self.event(Event::Ended(error.message));
                }
                Woken::Due => {
                    if self.event(Event::Due) == Some(Action::Start) {
                        starting = self.begin().await;
                    }
                }
            }
        }
    }

    /// Gives the machine an event and shows what it made of it.
    fn event(&mut self, event: Event) -> Option<Action> {
        let before = self.machine.status().state;
        let action = self
            .machine
            .on(event, self.shared.clock.now(), rand::random());
        let status = self.machine.status().clone();
        let metrics = &self.shared.desk.metrics;
        for state in State::ALL {
            metrics.subscription_state.set(
                [&self.plan.pubsub, &self.plan.topic, state.name()],
                f64::from(u8::from(state == status.state)),
            );
        }
        let subject = format!("{}/{}", self.plan.pubsub, self.plan.topic);
        let told = Told {
            cause: status.error.as_deref(),
            ..Told::default()
        };
        // Another attempt is no news.
        if (before, status.state) != (State::Retrying, State::Starting) {
            let journal = &metrics.journal;
            let kind = journal::Kind::Subscription;
            journal.change(kind, &subject, status.state.name(), told);
        }
        self.status.send_replace(status);
        action
    }

    async fn check_conditions(&mut self, starting: &mut Option<Starting>) {
        let instance = self.handle.instance();
        let gate = *self.gate.borrow() && self.hold.borrow().is_none();
        // Another instance than the one subscribed on: the old one is gone, whatever its state looked like meanwhile.
        let replaced = match (&self.subscribed, &instance) {
            (Some(subscribed), Some(instance)) => !Arc::ptr_eq(&subscribed.instance, instance),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if replaced {
            *starting = None;
            self.event(Event::Conditions {
                component: false,
                gate,
            });
            self.let_go().await;
        }
        if gate && instance.is_none() {
            self.handle.want();
        }
        match self.event(Event::Conditions {
            component: instance.is_some(),
            gate,
        }) {
            Some(Action::Start) => *starting = self.begin().await,
            Some(Action::Stop) => {
                *starting = None;
                self.pause().await;
            }
            None => {}
        }
    }

    /// Goes on where a pause left off, or subscribes.
    async fn begin(&mut self) -> Option<Starting> {
        let Some(instance) = self.handle.instance() else {
            self.event(Event::Started(Err("the component is not ready".to_owned())));
            return None;
        };
        if let Some(subscribed) = &self.subscribed {
            subscribed.source.resume().await;
            self.event(Event::Started(Ok(())));
            return None;
        }
        let scope = self.scope.child();
        let handler = self.handler(&instance, &scope);
        let topic = if instance.about.namespaced {
            format!("{}{}", self.shared.desk.namespace, self.plan.topic)
        } else {
            self.plan.topic.clone()
        };
        let request = Subscribe {
            topic,
            metadata: self.plan.metadata.clone(),
        };
        let allowed = instance.about.access.may_subscribe(&self.plan.topic);
        let refusal = not_allowed(&self.plan.pubsub, &self.plan.topic);
        Some(Box::pin(async move {
            if !allowed {
                return Err(refusal);
            }
            let source =
                tokio::time::timeout(START_LIMIT, instance.driver.subscribe(request, handler))
                    .await;
            match source {
                Ok(Ok(source)) => Ok(Subscribed {
                    instance,
                    source,
                    scope,
                }),
                Ok(Err(error)) => Err(error.message),
                Err(_) => Err("the broker did not register the subscription in time".to_owned()),
            }
        }))
    }

    fn handler(&self, instance: &Arc<Instance<dyn PubSub>>, scope: &Scope) -> Arc<dyn Handler> {
        let desk = self.shared.desk.clone();
        let activity = desk.activity.clone();
        let kind = match self.plan.origin {
            Origin::Streaming => Kind::Stream,
            Origin::Declarative | Origin::Programmatic => Kind::PubSub,
        };
        let pubsub: Arc<str> = self.plan.pubsub.as_str().into();
        let namespaced = instance.about.namespaced;
        let halt = Halt {
            ending: desk.ending.clone(),
            gate: self.gate.clone(),
        };
        let (over, released) = (self.over.clone(), self.released.clone());
        match (self.plan.bulk, &self.shared.app) {
            (Some(options), Some(app)) => {
                let desk = BulkDesk {
                    desk,
                    plan: self.plan.clone(),
                    app: app.clone(),
                    pubsub,
                    options,
                    hold: self.hold.clone(),
                    halt,
                    over,
                    released,
                    tally: activity.tally(Kind::Bulk, &self.plan.pubsub),
                };
                Arc::new(BulkHandler::start(scope, desk))
            }
            _ => Arc::new(Deliverer {
                desk,
                plan: self.plan.clone(),
                sink: self.sink.clone(),
                pubsub,
                namespaced,
                hold: self.hold.clone(),
                halt,
                over,
                released,
                tally: activity.tally(kind, &self.plan.pubsub),
            }),
        }
    }

    fn started(&mut self, outcome: Result<Subscribed, String>) {
        match outcome {
            Ok(subscribed) => {
                self.subscribed = Some(subscribed);
                let first = self.machine.status().attempt <= 1;
                self.event(Event::Started(Ok(())));
                if !first {
                    info!(target: SCOPE, pubsub = self.plan.pubsub, topic = self.plan.topic, event = "subscription_state", to = "active", "subscription is active again");
                }
            }
            Err(error) => {
                if self.machine.status().error.as_deref() != Some(error.as_str()) {
                    warn!(target: SCOPE, pubsub = self.plan.pubsub, topic = self.plan.topic, error, event = "subscription_state", to = "retrying", "failed to subscribe to topic, trying again");
                }
                self.event(Event::Started(Err(error)));
            }
        }
    }

    /// The gate is closed: fetch no more, give back what was not handed out. What is being handled goes on.
    async fn pause(&mut self) {
        if let Some(subscribed) = &self.subscribed {
            tokio::time::timeout(STOP_LIMIT, subscribed.source.pause())
                .await
                .ok();
            tokio::time::timeout(STOP_LIMIT, subscribed.source.release())
                .await
                .ok();
        }
        self.stray_since = None;
    }

    /// Messages that were released wait for a pause to take them back. A gate that was shut for a moment only brings none.
    async fn collect_strays(&mut self) {
        self.stray_since = None;
        if self.machine.status().state == State::Active && *self.gate.borrow() {
            self.pause().await;
            if let Some(subscribed) = &self.subscribed {
                subscribed.source.resume().await;
            }
        }
    }

    /// A subscription that is not wanted any more has time for what it has in hand, unless everything ends.
    async fn finish(&mut self) {
        let stop = self.shared.stop.clone();
        if stop.is_cancelled() {
            return;
        }
        self.pause().await;
        let Some(subscribed) = &self.subscribed else {
            return;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = tokio::time::timeout(FINISH_LIMIT, subscribed.finished()) => {}
        }
    }

    /// Lets go for good. What is still being handled is cut off.
    async fn leave(&mut self) {
        let Some(subscribed) = self.subscribed.take() else {
            return;
        };
        tokio::time::timeout(STOP_LIMIT, subscribed.source.close())
            .await
            .ok();
        // Only now: the broker has its messages back, and is told nothing of what becomes of these.
        self.over.cancel();
        tokio::time::timeout(STOP_LIMIT, subscribed.finished())
            .await
            .ok();
        subscribed.scope.cancel();
    }

    async fn let_go(&mut self) {
        if let Some(subscribed) = self.subscribed.take() {
            tokio::time::timeout(STOP_LIMIT, subscribed.source.close())
                .await
                .ok();
            subscribed.scope.cancel();
        }
    }
}

async fn poll_some(starting: &mut Option<Starting>) -> Result<Subscribed, String> {
    match starting {
        Some(starting) => starting.await,
        None => std::future::pending().await,
    }
}

/// Waits until a hold is over; for ever where there is none.
async fn over(clock: Clock, hold: Option<Moment>) {
    match hold {
        Some(until) => clock.until(until).await,
        None => std::future::pending().await,
    }
}

async fn ended(subscribed: Option<&Subscribed>) -> ComponentError {
    match subscribed {
        Some(subscribed) => subscribed.source.ended().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
