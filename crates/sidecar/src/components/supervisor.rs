//! One component's supervisor: drives its connection machines with real attempts, pings and clocks.
//!
//! The machines say what to do; this task does it and tells them how it went. It is the only one that changes what the
//! component's handle shows. While a changed definition waits for its turn there are two machines, and
//! [`Succession`](outrigger_lifecycle::succession::Succession) says which of them serves.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use outrigger_blocks::component::{Control, Handle, InUse, Pending, Signal, record_state};
use outrigger_blocks::health::Proof;
use outrigger_blocks::{About, Info};
use outrigger_component_api::{Component, ComponentError, ErrorKind, Kind, Loss, Open};
use outrigger_config::Fingerprint;
use outrigger_lifecycle::connection::{
    Action as Step, Class, Event as Fact, Failure, Kick, State, Status, Timing, Told,
};
use outrigger_lifecycle::succession::{Action, Event, Revision, Succession, Turn};
use outrigger_lifecycle::{Scope, Stop};
use outrigger_telemetry::journal;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::{debug, error, info, warn};

use super::recipe::Recipe;
use super::{SCOPE, Shared};

mod driver;
mod pinging;
mod telling;

use driver::*;
use pinging::Live;

/// For an instance to let go.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// For calls and deliveries on an instance that makes way.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What an attempt came to.
struct Connected<T: ?Sized> {
    driver: Arc<T>,
    about: Arc<About>,
    scope: Scope,
    losses: mpsc::Receiver<ComponentError>,
    /// Of what it holds, as others know it.
    revision: u64,
    /// Since it was put where callers find it.
    in_use: Option<InUse>,
}

/// A component as its resource has it.
pub(crate) struct Definition<T: ?Sized> {
    pub info: Info,
    /// Equal ones are equal definitions.
    pub fingerprint: Fingerprint,
    pub recipe: Arc<dyn Recipe<T>>,
    /// Connects when somebody asks for it.
    pub lazy: bool,
    /// What an offline check of its values found; it will never start like this.
    pub fault: Option<Failure>,
    /// Time for an attempt, where it is not the usual one.
    pub attempt: Option<Duration>,
    /// Two of its type must not be open at once.
    pub exclusive: bool,
    /// The process ends when it cannot be opened.
    pub vital: bool,
}

/// What a component is to be. Only the last word counts.
pub(crate) enum Desired<T: ?Sized> {
    Definition(Arc<Definition<T>>),
    /// Its resource cannot be read any more, or is no definition.
    Refused(Failure),
    /// It is to finish what is in hand and close.
    Gone,
}

impl<T: ?Sized> Clone for Desired<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Definition(definition) => Self::Definition(definition.clone()),
            Self::Refused(failure) => Self::Refused(failure.clone()),
            Self::Gone => Self::Gone,
        }
    }
}

/// What other components may want to know of one that has become ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// A server answers.
    Server(String),
    /// A secret store can be asked.
    Store(String),
}

type Working<R> = Option<Pin<Box<dyn Future<Output = R> + Send>>>;

pub(crate) struct Supervisor<T: ?Sized> {
    shared: Arc<Shared>,
    handle: Arc<Handle<T>>,
    signals: mpsc::Receiver<Signal>,
    desired: watch::Receiver<Desired<T>>,
    both: Succession,
    serving: Arc<Definition<T>>,
    /// A changed definition that is to take its place, if it is one at all.
    heir: Option<Arc<Definition<T>>>,
    /// Somebody needs the component, or it is not lazy.
    is_wanted: bool,
    instance: Option<Connected<T>>,
    attempt: Working<Result<Connected<T>, Failure>>,
    ping: Working<Result<(), Failure>>,
    live: Live,
    /// A fresh connection, opened because the present one is doubted.
    trial: Working<Result<Connected<T>, Failure>>,
    /// What the trial has opened, until it is known whether the present one answers.
    spare: Option<Connected<T>>,
    /// The heir's; without a connection where only what needs none was checked.
    heir_attempt: Working<Result<Option<Connected<T>>, Failure>>,
    /// What the heir's attempt has opened, for the moment in which it takes over.
    fresh: Option<Connected<T>>,
    /// Fires when what served before has been closed; nothing is opened earlier.
    before: Option<Stop>,
    /// Owns connections that are being closed.
    old: Scope,
}

enum Woken<T: ?Sized> {
    Stopped,
    Desired,
    Dependencies,
    Attempted(Result<Connected<T>, Failure>),
    HeirDependencies,
    HeirAttempted(Result<Option<Connected<T>>, Failure>),
    Pinged(Result<(), Failure>),
    Asked,
    Tried(Result<Connected<T>, Failure>),
    Lost(ComponentError),
    Signal(Signal),
    Kicked,
    News(News),
    Due,
}

impl<T: Component + ?Sized> Supervisor<T> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        definition: Definition<T>,
        desired: watch::Receiver<Desired<T>>,
    ) -> Self {
        let timing = timing(&shared, &definition);
        let both = Succession::new(timing, shared.clock.now());
        let control = Control::new(
            definition.info.clone(),
            shared.clock,
            both.serving().status().clone(),
        );
        control.handle.proofs.set_dormant(definition.lazy);
        control.handle.proofs.set_stores(definition.recipe.stores());
        Self {
            shared,
            handle: control.handle,
            signals: control.signals,
            desired,
            both,
            is_wanted: !definition.lazy,
            serving: Arc::new(definition),
            heir: None,
            instance: None,
            attempt: None,
            ping: None,
            live: Live::default(),
            trial: None,
            spare: None,
            heir_attempt: None,
            fresh: None,
            before: None,
            old: Scope::root(),
        }
    }

    pub(crate) fn handle(&self) -> Arc<Handle<T>> {
        self.handle.clone()
    }

    pub(crate) async fn run(mut self, stop: Stop) {
        let shared = self.shared.clone();
        let mut neighbours = shared.neighbours.subscribe();
        let mut asked = self.handle.proofs.wanted();
        let mut kicked = self.handle.kicked();
        let parked = self.both.serving().status().state;
        record_state(&shared.metrics, &self.serving.info, Some(parked));
        if let Some(fault) = self.serving.fault.clone() {
            self.faulty(&self.serving, &fault);
            self.event(Event::Serving(Fact::Refused(fault)));
        }
        let is_gone = loop {
            let due = self.both.wake_at().into_iter().flatten().min();
            let is_pending = self.both.serving().status().state == State::Pending;
            let heir_is_pending = self
                .both
                .heir()
                .is_some_and(|status| status.state == State::Pending);
            let (recipe, heir) = (self.serving.recipe.clone(), self.heir.clone());
            let clock = shared.clock;
            let handle = self.handle.clone();
            let woken: Woken<T> = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stopped,
                Some(error) = lost(self.instance.as_mut()) => Woken::Lost(error),
                Ok(()) = self.desired.changed() => Woken::Desired,
                outcome = working(&mut self.attempt) => Woken::Attempted(outcome),
                outcome = working(&mut self.ping) => Woken::Pinged(outcome),
                outcome = working(&mut self.trial) => Woken::Tried(outcome),
                outcome = working(&mut self.heir_attempt) => Woken::HeirAttempted(outcome),
                Some(signal) = self.signals.recv() => Woken::Signal(signal),
                Ok(()) = asked.changed() => Woken::Asked,
                Ok(()) = kicked.changed() => Woken::Kicked,
                Ok(news) = neighbours.recv() => Woken::News(news),
                () = recipe.dependencies(handle.needs()), if is_pending && self.is_wanted => Woken::Dependencies,
                () = dependencies(heir.as_deref()), if heir_is_pending => Woken::HeirDependencies,
                () = async { match due { Some(due) => clock.until(due).await, None => std::future::pending().await } } => Woken::Due,
            };
            match woken {
                Woken::Stopped => break false,
                Woken::Desired => {
                    if self.desired() {
                        break true;
                    }
                }
                Woken::Dependencies => self.event(Event::Serving(Fact::DependenciesReady)),
                Woken::Attempted(outcome) => self.attempted(outcome),
                Woken::HeirDependencies => self.event(Event::Heir(Fact::DependenciesReady)),
                Woken::HeirAttempted(outcome) => self.heir_attempted(outcome),
                Woken::Pinged(outcome) => self.pinged(outcome),
                Woken::Asked => self.asked(),
                Woken::Tried(outcome) => self.tried(outcome),
                Woken::Lost(error) => self.event(Event::Serving(Fact::Lost(error.into_failure()))),
                Woken::Signal(Signal::Wanted) => {
                    self.is_wanted = true;
                    self.handle.proofs.set_dormant(false);
                    self.event(Event::Kicked(Kick::Call));
                }
                Woken::Signal(Signal::Suspected) => self.event(Event::Serving(Fact::Suspected)),
                Woken::Kicked => self.event(Event::Kicked(Kick::News)),
                Woken::News(news) => self.hear(&news),
                Woken::Due => self.due(due),
            }
        };
        self.end(is_gone, &stop).await;
    }

    /// Lets everything go: in good order if the component is no more, at once if everything ends.
    async fn end(&mut self, is_gone: bool, stop: &Stop) {
        let now = self.shared.clock.now();
        let before = self.both.serving().status().state;
        for action in self.both.on(Event::Close, now, 0.5) {
            if action != Action::Serving(Step::Release) {
                self.act(action, before);
            }
        }
        self.end_trial();
        self.handle.retire();
        self.handle.withdraw();
        if is_gone {
            self.journal_end();
        }
        // Whoever works on it looks at this.
        self.show();
        self.handle.count_downtime(&self.shared.metrics);
        if let Some(instance) = self.instance.take() {
            if is_gone {
                self.retire(instance);
            } else {
                self.let_go(instance);
            }
        }
        if is_gone {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = self.old.drained(DRAIN_LIMIT + CLOSE_LIMIT) => {}
            }
        }
        self.old.cancel();
        self.old.drained(CLOSE_LIMIT).await;
        let metrics = &self.shared.metrics;
        metrics.component_waiters.set([self.name()], 0.0);
        record_state(metrics, &self.serving.info, None);
    }

    /// What the component is to be has changed; whether it is to be no more.
    fn desired(&mut self) -> bool {
        let desired = self.desired.borrow_and_update().clone();
        match desired {
            Desired::Gone => return true,
            Desired::Refused(failure) => {
                self.event(Event::Refused(failure));
            }
            Desired::Definition(wanted) if wanted.fingerprint == self.serving.fingerprint => {
                let is_withdrawn = self.both.heir().is_some();
                self.event(Event::Withdrawn);
                if is_withdrawn {
                    info!(target: SCOPE, component = self.name(), event = "component_revision", to = "withdrawn", "the definition that serves is in force again");
                }
                if self.both.serving().status().state == State::Rejected {
                    self.event(Event::Serving(Fact::Changed));
                }
            }
            Desired::Definition(wanted) => {
                let is_known = self
                    .heir
                    .as_ref()
                    .is_some_and(|heir| heir.fingerprint == wanted.fingerprint);
                if is_known {
                    return false;
                }
                self.event(Event::Withdrawn);
                let turn = if wanted.exclusive && self.serving.exclusive {
                    Turn::After
                } else {
                    Turn::Beside
                };
                let revision = Revision {
                    turn,
                    timing: timing(&self.shared, &wanted),
                    fault: wanted.fault.clone(),
                };
                if let Some(fault) = &wanted.fault {
                    self.faulty(&wanted, fault);
                }
                self.heir = Some(wanted);
                self.event(Event::Revised(revision));
            }
        }
        false
    }

    /// A neighbour has become ready: what waits for its like tries at once.
    fn hear(&mut self, news: &News) {
        let concerns = |definition: &Definition<T>| match news {
            News::Server(server) => definition.recipe.server().as_ref() == Some(server),
            News::Store(store) => definition.recipe.stores().contains(store),
        };
        let is_away = self.both.serving().status().state == State::Unavailable;
        if is_away && concerns(&self.serving) {
            self.event(Event::Serving(Fact::Kicked(Kick::News)));
        }
        let is_away = self
            .both
            .heir()
            .is_some_and(|status| status.state == State::Unavailable);
        if is_away && self.heir.as_deref().is_some_and(concerns) {
            self.event(Event::Heir(Fact::Kicked(Kick::News)));
        }
    }

    fn due(&mut self, due: Option<outrigger_lifecycle::Moment>) {
        let is_due = |at: Option<outrigger_lifecycle::Moment>| at.is_some() && at <= due;
        let [serving, heir] = self.both.wake_at();
        if is_due(serving) {
            self.notice();
            self.both.used(self.handle.last_used());
            self.event(Event::Serving(Fact::Due));
        }
        if is_due(heir) {
            self.event(Event::Heir(Fact::Due));
        }
    }

    fn name(&self) -> &str {
        self.handle.name.as_str()
    }

    fn attempted(&mut self, outcome: Result<Connected<T>, Failure>) {
        self.attempt = None;
        self.count_attempt(outcome.is_ok());
        match outcome {
            Ok(connected) => {
                self.install(connected);
                if self.both.serving().status().was_ready {
                    let reconnects = &self.shared.metrics.component_reconnects;
                    reconnects.add([self.name()], 1);
                } else {
                    self.loaded(State::Connecting);
                }
                self.event(Event::Serving(Fact::Attempted(Ok(()))));
                self.spread();
            }
            Err(failure) => {
                let is_first = !self.both.serving().status().was_ready;
                self.count_failure(&self.serving.info, &failure);
                if is_first {
                    self.give_up(&self.serving, &failure);
                }
                self.event(Event::Serving(Fact::Attempted(Err(failure))));
            }
        }
    }

    fn heir_attempted(&mut self, outcome: Result<Option<Connected<T>>, Failure>) {
        self.heir_attempt = None;
        self.count_attempt(outcome.is_ok());
        match outcome {
            Ok(connected) => {
                let has_connected = connected.is_some();
                let before = self.both.serving().status().state;
                self.fresh = connected;
                self.event(Event::Heir(Fact::Attempted(Ok(()))));
                if has_connected {
                    self.loaded(before);
                    self.spread();
                }
            }
            Err(failure) => {
                if let Some(heir) = &self.heir {
                    self.count_failure(&heir.info, &failure);
                    self.give_up(heir, &failure);
                }
                self.event(Event::Heir(Fact::Attempted(Err(failure))));
            }
        }
    }

    /// Gives the machines an event, does what they ask for, shows what is then.
    fn event(&mut self, event: Event) {
        let before = self.both.serving().status().state;
        let now = self.shared.clock.now();
        for action in self.both.on(event, now, rand::random()) {
            self.act(action, before);
        }
        // Whatever it was opened for did not come about.
        if let Some(unused) = self.fresh.take() {
            self.let_go(unused);
        }
        let status = self.both.serving().status();
        let (state, last_ok) = (status.state, status.last_ok);
        if state != before {
            record_state(&self.shared.metrics, &self.serving.info, Some(state));
            // Another attempt is no news; an outage of days is one line, not thousands.
            if (before, state) != (State::Unavailable, State::Connecting) {
                self.journal(self.both.serving().status());
            }
        }
        if let Some(at) = last_ok {
            let ago = self.shared.clock.now().since(at);
            if let Some(at) = std::time::SystemTime::now()
                .checked_sub(ago)
                .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
            {
                self.shared
                    .metrics
                    .component_last_ok
                    .set([self.name()], at.as_secs_f64());
            }
        }
        self.show();
    }

    /// `before` is the state of what serves that the action leads out of.
    fn act(&mut self, action: Action, before: State) {
        match action {
            Action::Serving(Step::Attempt { number }) => {
                debug!(target: SCOPE, component = self.name(), attempt = number, "connecting");
                let limit = self.both.serving().timing().attempt;
                self.attempt = Some(Box::pin(self.connect(&self.serving, limit)));
            }
            Action::Serving(Step::Abandon) => {
                self.attempt = None;
                self.ping = None;
                self.live = Live::default();
            }
            Action::Serving(Step::Ping { fresh: false }) => self.start_ping(),
            Action::Serving(Step::Ping { fresh: true }) => self.doubt(),
            Action::Serving(Step::Release) => self.release(),
            Action::Serving(Step::Tell(told)) => self.tell(told, before),
            Action::Heir(Step::Attempt { number }) => self.try_heir(number),
            Action::Heir(Step::Abandon) => self.heir_attempt = None,
            Action::Heir(Step::Tell(told)) => self.tell_heir(told),
            // It has no connection of its own before it serves.
            Action::Heir(Step::Ping { .. } | Step::Release) => {}
            Action::TakeOver => self.take_over(),
            Action::Adopt => self.adopt(),
            Action::Forget => self.heir = None,
        }
    }

    fn try_heir(&mut self, number: u32) {
        let (Some(heir), Some(timing)) = (self.heir.clone(), self.both.heir_timing()) else {
            return;
        };
        debug!(target: SCOPE, component = self.name(), attempt = number, "connecting by the changed definition");
        let limit = timing.attempt;
        self.heir_attempt = Some(match self.both.turn() {
            Some(Turn::After) => Box::pin(async move {
                let settling = AssertUnwindSafe(heir.recipe.settle()).catch_unwind();
                bounded(limit, settling).await.map(|_| None)
            }),
            Some(Turn::Beside) | None => {
                let connecting = self.connect(&heir, limit);
                Box::pin(async move { connecting.await.map(Some) })
            }
        });
    }

    /// The heir is connected: callers find it from now on.
    fn take_over(&mut self) {
        let (Some(heir), Some(connected)) = (self.heir.take(), self.fresh.take()) else {
            return;
        };
        self.end_trial();
        self.handle.retire();
        self.define(heir);
        if let Some(old) = self.install(connected) {
            self.retire(old);
        }
        info!(target: SCOPE, component = self.name(), component_type = self.serving.info.full_type(), event = "component_revision", to = "ready", "a changed definition has taken over");
    }

    /// The heir's definition counts; nothing is opened by it before the old instance is closed.
    fn adopt(&mut self) {
        let Some(heir) = self.heir.take() else {
            return;
        };
        self.end_trial();
        self.handle.retire();
        self.handle.withdraw();
        let old = self.instance.take();
        self.is_wanted = !heir.lazy || old.is_some();
        self.handle.proofs.set_dormant(!self.is_wanted);
        self.before = old.map(|old| self.retire(old));
        self.define(heir);
    }

    fn define(&mut self, definition: Arc<Definition<T>>) {
        record_state(&self.shared.metrics, &self.serving.info, None);
        let state = self.both.serving().status().state;
        record_state(&self.shared.metrics, &definition.info, Some(state));
        self.handle.define(definition.info.clone());
        self.handle.proofs.set_stores(definition.recipe.stores());
        self.serving = definition;
    }

    /// One attempt: secrets, settings, connection, first ping, all within `limit`.
    fn connect(
        &self,
        definition: &Definition<T>,
        limit: Duration,
    ) -> impl Future<Output = Result<Connected<T>, Failure>> + Send + 'static {
        let (shared, recipe) = (self.shared.clone(), definition.recipe.clone());
        let (name, handle) = (self.name().to_owned(), self.handle.clone());
        let before = self.before.clone();
        async move {
            if let Some(before) = before {
                before.cancelled().await;
            }
            let _permit = shared.attempts.acquire().await;
            let started = Instant::now();
            let scope = Scope::root();
            // Nobody may want the outcome any more: what was begun ends all the same.
            let unfinished = scope.stop().clone().drop_guard();
            let attempt = AssertUnwindSafe(open(&*recipe, &handle, scope.clone())).catch_unwind();
            let outcome = bounded(limit, attempt).await;
            shared
                .metrics
                .component_connect_seconds
                .observe([&name], started.elapsed().as_secs_f64());
            if outcome.is_ok() {
                unfinished.disarm();
            }
            outcome
        }
    }

    /// Takes the instance away from callers, and lets go of it: nobody waits for an old connection to close.
    fn release(&mut self) {
        self.handle.withdraw();
        self.ping = None;
        self.end_trial();
        self.live = Live::default();
        if let Some(instance) = self.instance.take() {
            self.let_go(instance);
        }
    }

    /// Puts an instance where callers find it, in the place of what was there.
    fn install(&mut self, mut connected: Connected<T>) -> Option<Connected<T>> {
        let in_use = self
            .handle
            .install(connected.driver.clone(), connected.about.clone());
        connected.in_use = Some(in_use);
        self.instance.replace(connected)
    }

    /// Lets go of an instance once the calls on it have ended; fires when that is done.
    fn retire(&self, mut instance: Connected<T>) -> Stop {
        let (name, closed) = (self.name().to_owned(), Stop::new());
        let done = closed.clone();
        self.old.spawn("component.retire", |stop| async move {
            let in_use = instance.in_use.take();
            let draining = async {
                if let Some(in_use) = in_use {
                    in_use.ended().await;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                drained = tokio::time::timeout(DRAIN_LIMIT, draining) => {
                    if drained.is_err() {
                        warn!(target: SCOPE, component = name, "calls on the old connection did not end in time and are cut");
                    }
                }
            }
            close(&name, instance).await;
            done.cancel();
        });
        closed
    }

    fn let_go(&self, instance: Connected<T>) {
        let name = self.name().to_owned();
        self.old.spawn_future("component.close", async move {
            close(&name, instance).await;
        });
    }
}

fn timing<T: ?Sized>(shared: &Shared, definition: &Definition<T>) -> Timing {
    Timing {
        attempt: definition.attempt.unwrap_or(shared.timing.attempt),
        ..shared.timing
    }
}

/// So that neighbours can be told before anybody listens.
pub(crate) fn neighbours() -> broadcast::Sender<News> {
    broadcast::channel(64).0
}
