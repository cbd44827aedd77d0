//! One subscription's task: drives its machine with real sources.

use super::*;

pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<Plan>,
    pub(super) handle: Arc<Handle<dyn PubSub>>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) gate: watch::Receiver<bool>,
    /// Where sources that make way finish.
    pub(super) home: Scope,
    pub(super) place: Place,
    /// Earlier definitions of the same topic.
    pub(super) before: Vec<Place>,
    pub(super) machine: Machine,
    pub(super) status: watch::Sender<Status>,
    pub(super) subscribed: Option<Subscribed>,
    /// Sources of this runner that make way; each fires when it has let go of everything.
    pub(super) retired: Vec<Stop>,
    /// Until when an open breaker keeps messages from the app.
    pub(super) hold: Arc<Hold>,
    /// How many messages were released, for whatever reason.
    pub(super) released: watch::Sender<u64>,
    /// When the first of them was that no pause has taken back to the broker.
    pub(super) stray_since: Option<Moment>,
}

/// A source on an instance; paused while the gate is closed.
pub(super) struct Subscribed {
    pub(super) instance: Arc<Instance<dyn PubSub>>,
    pub(super) source: Box<dyn Source>,
    /// Owns what the handler runs; ends with the source.
    pub(super) scope: Scope,
    /// Fires when it has let go of everything.
    pub(super) over: Stop,
    /// Ends what is still being handled.
    pub(super) cut: Stop,
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
    pub(super) async fn run(mut self, stop: Stop) {
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
                    warn!(target: SCOPE, component = self.plan.pubsub, topic = self.plan.topic, err = %error, event = "subscription_state", from = "active", to = "retrying", "subscription ended, starting it again");
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
        // One that is tried anyway has its own pauses.
        if gate && instance.is_none() && self.handle.proofs.is_dormant() {
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
                warn!(target: SCOPE, component = self.plan.pubsub, topic = self.plan.topic, err = error, event = "subscription_state", from = "active", to = "retrying", "failed to subscribe through the changed component, trying again");
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
                    info!(target: SCOPE, component = self.plan.pubsub, topic = self.plan.topic, event = "subscription_state", from = "starting", to = "active", "subscription is active again");
                }
            }
            Err(error) => {
                if self.machine.status().error.as_deref() != Some(error.as_str()) {
                    warn!(target: SCOPE, component = self.plan.pubsub, topic = self.plan.topic, err = error, event = "subscription_state", from = "starting", to = "retrying", "failed to subscribe to topic, trying again");
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
