//! Subscriptions as supervised children: each runs, fails and comes back on its own.
//!
//! [`Subscriptions`] holds what is wanted (resources, the app's own list, streams) and starts one runner for each. A runner
//! drives the machine of [`outrigger_lifecycle::subscription`]: it subscribes while the component is ready and messages may
//! flow, pauses while they may not, and subscribes anew after an outage.
//!
//! A subscription that changes gets a new runner beside the old one, which delivers until the new one stands at the broker;
//! where a broker would give both every message, the old one ends first. A runner whose component makes way for a changed
//! one does the same with its source. Whoever makes way stops fetching, gives back, finishes what the app has, and closes;
//! only then is anything handed out that came the new way.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_component_api::{
    ComponentError, Handler, Message, Outcome, PubSub, Source, Subscribe,
};
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
/// For the app to finish what a source that makes way has handed out. Its connection is cut a moment later.
const DRAIN_LIMIT: Duration = Duration::from_secs(9);
/// How often what the app has is counted meanwhile.
const COUNT_EVERY: Duration = Duration::from_millis(10);

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
    place: Place,
    /// Earlier definitions of the same topic. They deliver until this one does.
    before: Vec<Entry>,
}

/// How a runner is told to make way, and tells that it has.
#[derive(Clone)]
struct Place {
    scope: Scope,
    /// Fires when everything has been let go of.
    over: Stop,
    /// Another definition has taken its place, and speaks for the topic.
    has_successor: Arc<AtomicBool>,
}

impl Entry {
    fn is(&self, plan: &Plan, handle: Option<&Arc<Handle<dyn PubSub>>>) -> bool {
        self.plan.fingerprint == plan.fingerprint && same_handle(self.handle.as_ref(), handle)
    }

    fn is_active(&self) -> bool {
        self.status.borrow().state == State::Active && !self.place.scope.is_stopped()
    }

    /// Ends it, and whatever it was to take the place of.
    fn end(&self) {
        self.place.scope.cancel();
        self.before.iter().for_each(Self::end);
    }

    /// What is true of the topic: as long as an earlier definition delivers, that is what there is.
    fn listed(&self) -> Listed {
        let status = self.status.borrow().clone();
        let earlier = self.before.iter().find(|earlier| earlier.is_active());
        match earlier {
            Some(earlier) if status.state != State::Active => Listed {
                plan: earlier.plan.clone(),
                status: Status {
                    error: status.error,
                    ..earlier.status.borrow().clone()
                },
            },
            _ => Listed {
                plan: self.plan.clone(),
                status,
            },
        }
    }
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
            let known = kept.iter().position(|entry| {
                entry.plan.pubsub == plan.pubsub && entry.plan.topic == plan.topic
            });
            let start = |before| {
                let pulls = self.shared.pulls.clone();
                self.start(plan.clone(), handle.clone(), sink.clone(), pulls, before)
            };
            let entry = match known.map(|place| kept.swap_remove(place)) {
                None => start(Vec::new()),
                Some(entry) if entry.is(&plan, handle.as_ref()) => entry,
                Some(entry) => match back(entry, &plan, handle.as_ref()) {
                    Ok(entry) => entry,
                    Err(before) => start(before),
                },
            };
            running.app.push(entry);
        }
        drop(running);
        for gone in kept {
            gone.end();
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
            Vec::new(),
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
        running
            .app
            .iter()
            .chain(streams.into_iter().map(|(_, entry)| entry))
            .map(Entry::listed)
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
        before: Vec<Entry>,
    ) -> Entry {
        let place = Place {
            scope: self.scope.child(),
            over: Stop::new(),
            has_successor: Arc::default(),
        };
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
                    home: self.scope.clone(),
                    place: place.clone(),
                    before: before.iter().map(|entry| entry.place.clone()).collect(),
                    machine,
                    status,
                    subscribed: None,
                    retired: Vec::new(),
                    hold: Arc::new(watch::channel(None).0),
                    released: watch::Sender::new(0),
                    stray_since: None,
                };
                // The runner outlives its own scope's cancellation by the time that letting go takes.
                let stop = place.scope.stop().clone();
                self.scope
                    .spawn_future("pubsub.subscription", runner.run(stop));
            }
            None => {
                warn!(target: SCOPE, pubsub = plan.pubsub, topic = plan.topic, "no pub/sub component of this name: the subscription waits for one");
                before.iter().for_each(Entry::end);
                place.over.cancel();
            }
        }
        Entry {
            plan,
            handle,
            status: seen,
            place,
            before,
        }
    }
}

/// The definition that is wanted, if it is one that has not made way yet; else those that a new one follows.
fn back(
    mut entry: Entry,
    plan: &Plan,
    handle: Option<&Arc<Handle<dyn PubSub>>>,
) -> Result<Entry, Vec<Entry>> {
    let mut before = std::mem::take(&mut entry.before);
    let wanted = before
        .iter()
        .position(|earlier| earlier.is(plan, handle) && !earlier.place.scope.is_stopped());
    if let Some(wanted) = wanted {
        let wanted = before.swap_remove(wanted);
        entry.end();
        before.iter().for_each(Entry::end);
        wanted.place.has_successor.store(false, Ordering::Relaxed);
        return Ok(wanted);
    }
    before.retain(|earlier| !earlier.place.over.is_cancelled());
    // What does not deliver, or belongs to another component, has nothing to wait for.
    if !entry.is_active() || !same_handle(entry.handle.as_ref(), handle) {
        entry.place.scope.cancel();
    }
    before.push(entry);
    for earlier in &before {
        earlier.place.has_successor.store(true, Ordering::Relaxed);
    }
    Err(before)
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
            entry.end();
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
    /// Where sources that make way finish.
    home: Scope,
    place: Place,
    /// Earlier definitions of the same topic.
    before: Vec<Place>,
    machine: Machine,
    status: watch::Sender<Status>,
    subscribed: Option<Subscribed>,
    /// Sources of this runner that make way; each fires when it has let go of everything.
    retired: Vec<Stop>,
    /// Until when an open breaker keeps messages from the app.
    hold: Arc<Hold>,
    /// How many messages were released, for whatever reason.
    released: watch::Sender<u64>,
    /// When the first of them was that no pause has taken back to the broker.
    stray_since: Option<Moment>,
}

/// A source on an instance; paused while the gate is closed.
struct Subscribed {
    instance: Arc<Instance<dyn PubSub>>,
    source: Box<dyn Source>,
    /// Owns what the handler runs; ends with the source.
    scope: Scope,
    /// Fires when it has let go of everything.
    over: Stop,
    /// Ends what is still being handled.
    cut: Stop,
}

impl Subscribed {
    /// Waits until nothing is being handled.
    async fn finished(&self) {
        while self.source.in_flight() > 0 {
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }
}

type Starting = Pin<Box<dyn std::future::Future<Output = Result<Subscribed, String>> + Send>>;

/// A source on the instance that has taken the place of the one subscribed on, which delivers until it stands.
struct Renewal {
    instance: Arc<Instance<dyn PubSub>>,
    starting: Starting,
}

/// What is under way at the broker.
#[derive(Default)]
struct UnderWay {
    starting: Option<Starting>,
    renewal: Option<Renewal>,
}

enum Woken {
    Stopped,
    Conditions,
    HoldOver,
    /// A handler has let a message go.
    Released,
    /// It did so a while ago, and no pause has followed.
    Stray,
    Started(Result<Subscribed, String>),
    Renewed(Result<Subscribed, String>),
    Ended(ComponentError),
    Due,
}

impl Runner {
    async fn run(mut self, stop: Stop) {
        let _over = self.place.over.clone().drop_guard();
        let mut component = self.handle.watch();
        let mut gate = self.gate.clone();
        let mut hold = self.hold.subscribe();
        let mut released = self.released.subscribe();
        let mut under_way = UnderWay::default();
        self.check_conditions(&mut under_way).await;
        loop {
            let due = self.machine.wake_at();
            let clock = self.shared.clock;
            let held = *hold.borrow_and_update();
            let stray = self.stray_since.map(|since| since + STRAY_LIMIT);
            let UnderWay { starting, renewal } = &mut under_way;
            let is_starting = starting.is_some();
            let renewing = renewal.as_mut().map(|renewal| &mut renewal.starting);
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stopped,
                Ok(()) = component.changed() => Woken::Conditions,
                Ok(()) = gate.changed() => Woken::Conditions,
                Ok(()) = hold.changed() => Woken::Conditions,
                () = over(clock, held) => Woken::HoldOver,
                Ok(()) = released.changed() => Woken::Released,
                () = over(clock, stray) => Woken::Stray,
                started = poll_some(starting.as_mut()) => Woken::Started(started),
                renewed = poll_some(renewing) => Woken::Renewed(renewed),
                ended = ended(self.subscribed.as_ref()), if !is_starting => Woken::Ended(ended),
                () = async move { match due { Some(due) => clock.until(due).await, None => std::future::pending().await } } => Woken::Due,
            };
            match woken {
                Woken::Stopped => {
                    drop(under_way);
                    self.event(Event::Close);
                    if let Some(subscribed) = self.subscribed.take() {
                        leave(subscribed, self.shared.stop.clone()).await;
                    }
                    return;
                }
                Woken::Conditions => self.check_conditions(&mut under_way).await,
                Woken::HoldOver => {
                    self.hold.send_replace(None);
                    self.check_conditions(&mut under_way).await;
                }
                Woken::Released => {
                    let now = self.shared.clock.now();
                    self.stray_since.get_or_insert(now);
                }
                Woken::Stray => self.collect_strays().await,
                Woken::Started(outcome) => {
                    under_way.starting = None;
                    self.started(outcome);
                }
                Woken::Renewed(outcome) => {
                    under_way.renewal = None;
                    self.renewed(outcome);
                }
                Woken::Ended(error) => {
                    if let Some(renewal) = under_way.renewal.take() {
                        // It went before its successor stood.
                        self.let_go().await;
                        self.restart();
                        under_way.starting = Some(renewal.starting);
                        continue;
                    }
                    warn!(target: SCOPE, pubsub = self.plan.pubsub, topic = self.plan.topic, error = %error, event = "subscription_state", from = "active", to = "retrying", "subscription ended, starting it again");
                    if error.doubts_connection() {
                        self.handle.suspect();
                    }
                    self.let_go().await;
                    self.event(Event::Ended(error.message));
                }
                Woken::Due => {
                    if self.event(Event::Due) == Some(Action::Start) {
                        under_way.starting = self.begin().await;
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
        if !self.place.has_successor.load(Ordering::Relaxed) {
            for state in State::ALL {
                let is_in = state == status.state && state != State::Closed;
                metrics.subscription_state.set(
                    [&self.plan.pubsub, &self.plan.topic, state.name()],
                    f64::from(u8::from(is_in)),
                );
            }
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

    async fn check_conditions(&mut self, under_way: &mut UnderWay) {
        let instance = self.handle.instance();
        let gate = *self.gate.borrow() && self.hold.borrow().is_none();
        // Another instance than the one subscribed on.
        let is_replaced = match (&self.subscribed, &instance) {
            (Some(subscribed), Some(instance)) => !Arc::ptr_eq(&subscribed.instance, instance),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_replaced && self.renew(instance.as_ref().filter(|_| gate), under_way) {
            return;
        }
        under_way.renewal = None;
        if is_replaced {
            under_way.starting = None;
            self.event(Event::Conditions {
                component: false,
                gate,
            });
            self.make_way().await;
        }
        if gate && instance.is_none() {
            self.handle.want();
        }
        match self.event(Event::Conditions {
            component: instance.is_some(),
            gate,
        }) {
            Some(Action::Start) => under_way.starting = self.begin().await,
            Some(Action::Stop) => {
                under_way.starting = None;
                self.pause().await;
            }
            None => {}
        }
    }

    /// Subscribes on the instance that has come in the place of the present one, which delivers until that stands. False
    /// when this cannot be done so.
    fn renew(
        &mut self,
        instance: Option<&Arc<Instance<dyn PubSub>>>,
        under_way: &mut UnderWay,
    ) -> bool {
        let (Some(instance), Some(subscribed)) = (instance, &self.subscribed) else {
            return false;
        };
        let is_smooth = subscribed.instance.is_leaving()
            && self.machine.status().state == State::Active
            && instance.driver.features().consumer_groups;
        if !is_smooth {
            return false;
        }
        let is_known = under_way
            .renewal
            .as_ref()
            .is_some_and(|renewal| Arc::ptr_eq(&renewal.instance, instance));
        if !is_known {
            let starting = self.subscribe_on(instance.clone());
            under_way.renewal = Some(Renewal {
                instance: instance.clone(),
                starting,
            });
        }
        true
    }

    fn renewed(&mut self, outcome: Result<Subscribed, String>) {
        match outcome {
            Ok(subscribed) => {
                if let Some(old) = self.subscribed.replace(subscribed) {
                    self.retire(old);
                }
            }
            Err(error) => {
                warn!(target: SCOPE, pubsub = self.plan.pubsub, topic = self.plan.topic, error, event = "subscription_state", from = "active", to = "retrying", "failed to subscribe through the changed component, trying again");
                if let Some(old) = self.subscribed.take() {
                    self.retire(old);
                }
                self.event(Event::Ended(error));
            }
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
        Some(self.subscribe_on(instance))
    }

    /// Whoever was there before; each fires when it has let go of everything.
    fn earlier(&mut self) -> Vec<Stop> {
        self.retired.retain(|over| !over.is_cancelled());
        self.before.retain(|place| !place.over.is_cancelled());
        let own = self.subscribed.iter().map(|subscribed| &subscribed.over);
        let before = self.before.iter().map(|place| &place.over);
        own.chain(&self.retired).chain(before).cloned().collect()
    }

    fn subscribe_on(&mut self, instance: Arc<Instance<dyn PubSub>>) -> Starting {
        let earlier = self.earlier();
        // Elsewhere both would get every message.
        let shares = instance.driver.features().consumer_groups;
        if !shares {
            self.step_in();
        }
        let (scope, cut) = (self.home.child(), Stop::new());
        let handler: Arc<dyn Handler> = Arc::new(Behind {
            earlier: earlier.clone(),
            is_free: AtomicBool::new(false),
            stop: scope.stop().clone(),
            handler: self.handler(&instance, &scope, &cut),
        });
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
        Box::pin(async move {
            if !allowed {
                return Err(refusal);
            }
            if !shares {
                passed(&earlier).await;
            }
            let source =
                tokio::time::timeout(START_LIMIT, instance.driver.subscribe(request, handler))
                    .await;
            match source {
                Ok(Ok(source)) => Ok(Subscribed {
                    instance,
                    source,
                    scope,
                    over: Stop::new(),
                    cut,
                }),
                Ok(Err(error)) => Err(error.message),
                Err(_) => Err("the broker did not register the subscription in time".to_owned()),
            }
        })
    }

    /// Earlier definitions make way for this one.
    fn step_in(&self) {
        for earlier in &self.before {
            earlier.scope.cancel();
        }
    }

    fn handler(
        &self,
        instance: &Arc<Instance<dyn PubSub>>,
        scope: &Scope,
        cut: &Stop,
    ) -> Arc<dyn Handler> {
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
        let (over, released) = (cut.clone(), self.released.clone());
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
                self.step_in();
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

    /// The connection is gone, and whatever was fetched through it.
    async fn let_go(&mut self) {
        if let Some(subscribed) = self.subscribed.take() {
            subscribed.close().await;
        }
    }

    /// The instance is not where callers find it any more: because it makes way, or because it broke.
    async fn make_way(&mut self) {
        match self.subscribed.take() {
            Some(subscribed) if subscribed.instance.is_leaving() => self.retire(subscribed),
            subscribed => {
                self.subscribed = subscribed;
                self.let_go().await;
            }
        }
    }

    /// Lets a source finish beside everything else.
    fn retire(&mut self, subscribed: Subscribed) {
        self.retired.push(subscribed.over.clone());
        let stop = self.shared.stop.clone();
        self.home
            .spawn_future("pubsub.subscription.retire", leave(subscribed, stop));
    }

    /// The source died, and another one is being made already.
    fn restart(&mut self) {
        let gate = *self.gate.borrow();
        for component in [false, true] {
            self.event(Event::Conditions { component, gate });
        }
    }
}

impl Subscribed {
    async fn close(&self) {
        tokio::time::timeout(STOP_LIMIT, self.source.close())
            .await
            .ok();
        self.scope.cancel();
        self.over.cancel();
    }
}

/// Lets a source go in good order: it fetches no more, gives back what was not handed out, and stays until the app is
/// through with the rest, unless everything ends: that has waited for the app already. What is still being handled then is
/// cut off.
async fn leave(subscribed: Subscribed, stop: Stop) {
    let source = &subscribed.source;
    if !stop.is_cancelled() {
        let paused = tokio::time::timeout(STOP_LIMIT, source.pause()).await;
        // Whatever waits for its turn is given back, too.
        subscribed.scope.cancel();
        tokio::time::timeout(STOP_LIMIT, source.release())
            .await
            .ok();
        if paused.is_ok() {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                _ = tokio::time::timeout(DRAIN_LIMIT, subscribed.finished()) => {}
            }
        }
    }
    tokio::time::timeout(STOP_LIMIT, source.close()).await.ok();
    // Only now: the broker has its messages back, and is told nothing of what becomes of these.
    subscribed.cut.cancel();
    tokio::time::timeout(STOP_LIMIT, subscribed.finished())
        .await
        .ok();
    subscribed.scope.cancel();
    subscribed.over.cancel();
}

/// Hands nothing out before whoever was there earlier has finished.
struct Behind {
    earlier: Vec<Stop>,
    is_free: AtomicBool,
    stop: Stop,
    handler: Arc<dyn Handler>,
}

#[async_trait]
impl Handler for Behind {
    async fn handle(&self, message: Message) -> Outcome {
        if !self.is_free.load(Ordering::Acquire) {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Outcome::Released,
                () = passed(&self.earlier) => self.is_free.store(true, Ordering::Release),
            }
        }
        self.handler.handle(message).await
    }
}

async fn passed(earlier: &[Stop]) {
    for over in earlier {
        over.cancelled().await;
    }
}

async fn poll_some(starting: Option<&mut Starting>) -> Result<Subscribed, String> {
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
