//! One component's supervisor: drives its connection machine with real attempts, pings and clocks.
//!
//! The machine says what to do; this task does it and tells the machine how it went. It is the only one that changes
//! what the component's handle shows.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use outrigger_blocks::component::{Control, Handle, Signal, record_state};
use outrigger_blocks::health::Proof;
use outrigger_blocks::{About, Info};
use outrigger_component_api::{Component, ComponentError, ErrorKind, Kind, Loss, Open};
use outrigger_lifecycle::connection::{
    Action, Class, Event, Failure, Kick, Machine, State, Status, Timing, Told,
};
use outrigger_lifecycle::{Scope, Stop};
use outrigger_telemetry::journal;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::{debug, info, warn};

use super::recipe::Recipe;
use super::{SCOPE, Shared};

/// For an instance to let go.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What an attempt came to.
struct Connected<T: ?Sized> {
    driver: Arc<T>,
    about: Arc<About>,
    scope: Scope,
    losses: mpsc::Receiver<ComponentError>,
}

/// What a supervisor starts with.
#[derive(Default)]
pub(crate) struct Start {
    /// Connects when somebody asks for it.
    pub lazy: bool,
    /// What an offline check of its values found; it will never start like this.
    pub fault: Option<Failure>,
    /// Time for an attempt, where it is not the usual one.
    pub attempt: Option<Duration>,
}

type Working<R> = Option<Pin<Box<dyn Future<Output = R> + Send>>>;

pub(crate) struct Supervisor<T: ?Sized> {
    shared: Arc<Shared>,
    recipe: Arc<dyn Recipe<T>>,
    handle: Arc<Handle<T>>,
    signals: mpsc::Receiver<Signal>,
    machine: Machine,
    lazy: bool,
    fault: Option<Failure>,
    kicked: watch::Receiver<u64>,
    instance: Option<Connected<T>>,
    attempt: Working<Result<Connected<T>, Failure>>,
    ping: Working<Result<(), Failure>>,
    live: Live,
    /// A fresh connection, opened because the present one did not answer somebody who wants to know now.
    trial: Working<Result<Connected<T>, Failure>>,
    /// Owns connections that are being closed.
    old: Scope,
    /// When the state that now holds was entered, for the metrics.
    down_since: Option<Instant>,
}

/// Who waits for the ping under way besides the machine, and since when it is under way.
#[derive(Default)]
struct Live {
    is_asked: bool,
    since: Option<Instant>,
}

enum Woken<T: ?Sized> {
    Stopped,
    Dependencies,
    Attempted(Result<Connected<T>, Failure>),
    Pinged(Result<(), Failure>),
    Asked,
    Tried(Result<Connected<T>, Failure>),
    Lost(ComponentError),
    Signal(Signal),
    Kicked,
    Neighbour(String),
    Due,
}

impl<T: Component + ?Sized> Supervisor<T> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        recipe: Arc<dyn Recipe<T>>,
        info: Info,
        start: Start,
        kicked: watch::Receiver<u64>,
    ) -> Self {
        let timing = Timing {
            attempt: start.attempt.unwrap_or(shared.timing.attempt),
            ..shared.timing
        };
        let machine = Machine::new(timing, shared.clock.now());
        let control = Control::new(info, shared.clock, machine.status().clone());
        control.handle.proofs.set_dormant(start.lazy);
        control.handle.proofs.set_stores(recipe.stores());
        Self {
            shared,
            recipe,
            handle: control.handle,
            signals: control.signals,
            machine,
            lazy: start.lazy,
            fault: start.fault,
            kicked,
            instance: None,
            attempt: None,
            ping: None,
            live: Live::default(),
            trial: None,
            old: Scope::root(),
            down_since: None,
        }
    }

    pub(crate) fn handle(&self) -> Arc<Handle<T>> {
        self.handle.clone()
    }

    pub(crate) async fn run(mut self, stop: Stop) {
        let (shared, recipe) = (self.shared.clone(), self.recipe.clone());
        let mut neighbours = shared.neighbours.subscribe();
        let mut asked = self.handle.proofs.wanted();
        if let Some(fault) = self.fault.take() {
            self.event(Event::Refused(fault));
        }
        let mut wanted = !self.lazy;
        loop {
            let due = self.machine.wake_at();
            let pending = self.machine.status().state == State::Pending;
            let clock = shared.clock;
            let woken: Woken<T> = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stopped,
                Some(error) = lost(self.instance.as_mut()) => Woken::Lost(error),
                outcome = working(&mut self.attempt) => Woken::Attempted(outcome),
                outcome = working(&mut self.ping) => Woken::Pinged(outcome),
                outcome = working(&mut self.trial) => Woken::Tried(outcome),
                Some(signal) = self.signals.recv() => Woken::Signal(signal),
                Ok(()) = asked.changed() => Woken::Asked,
                Ok(()) = self.kicked.changed() => Woken::Kicked,
                Ok(server) = neighbours.recv() => Woken::Neighbour(server),
                () = recipe.dependencies(), if pending && wanted => Woken::Dependencies,
                () = async { match due { Some(due) => clock.until(due).await, None => std::future::pending().await } } => Woken::Due,
            };
            match woken {
                Woken::Stopped => break,
                Woken::Dependencies => self.event(Event::DependenciesReady),
                Woken::Attempted(outcome) => self.attempted(outcome),
                Woken::Pinged(outcome) => self.pinged(outcome),
                Woken::Asked => self.asked(),
                Woken::Tried(outcome) => self.tried(outcome),
                Woken::Lost(error) => self.event(Event::Lost(error.into_failure())),
                Woken::Signal(Signal::Wanted) => {
                    wanted = true;
                    self.handle.proofs.set_dormant(false);
                    self.event(Event::Kicked(Kick::Call));
                }
                Woken::Signal(Signal::Suspected) => self.event(Event::Suspected),
                Woken::Kicked => self.event(Event::Kicked(Kick::News)),
                Woken::Neighbour(server) => {
                    if self.machine.status().state == State::Unavailable
                        && self.recipe.server().is_some_and(|own| own == server)
                    {
                        self.event(Event::Kicked(Kick::News));
                    }
                }
                Woken::Due => {
                    let used = self.handle.last_used();
                    self.machine.used(used);
                    self.event(Event::Due);
                }
            }
        }
        let now = shared.clock.now();
        for action in self.machine.on(Event::Close, now, 0.5) {
            self.act(action);
        }
        self.release();
        self.old.drained(CLOSE_LIMIT).await;
        self.handle.show(self.machine.status().clone());
    }

    /// Somebody wants to know how the component does now.
    fn asked(&mut self) {
        let is_under_way = self.live.is_asked || self.trial.is_some();
        let is_known = self.handle.proofs.is_fresh(self.shared.clock.now());
        if self.instance.is_none() || is_under_way || is_known {
            return;
        }
        self.live.is_asked = true;
        self.start_ping();
    }

    fn start_ping(&mut self) {
        if self.ping.is_none() {
            self.live.since = Some(Instant::now());
            self.ping = Some(Box::pin(self.probe()));
        }
    }

    fn pinged(&mut self, outcome: Result<(), Failure>) {
        self.ping = None;
        let (is_asked, since) = (
            std::mem::take(&mut self.live.is_asked),
            self.live.since.take(),
        );
        let took = since.map(|since| since.elapsed()).unwrap_or_default();
        match outcome {
            Ok(()) => {
                self.machine.used(self.shared.clock.now());
                self.event(Event::Pinged(Ok(())));
                self.prove(took, Ok(()));
            }
            Err(failure) => {
                let metrics = &self.shared.metrics;
                metrics.component_ping_failures.add([self.name()], 1);
                self.event(Event::Pinged(Err(failure.clone())));
                if !is_asked {
                    return;
                }
                // A resolver announces this sidecar when it is opened, which is no way to ask how it does.
                let may_try = self.handle.info.kind != Kind::Names;
                if self.instance.is_some() && may_try {
                    self.trial = Some(Box::pin(self.connect(self.machine.timing().ping_timeout)));
                } else {
                    self.event(Event::Suspected);
                    self.prove(took, Err(failure));
                }
            }
        }
    }

    /// How the second try went, on a connection of its own. It takes the place of one that does not answer.
    fn tried(&mut self, outcome: Result<Connected<T>, Failure>) {
        self.trial = None;
        match outcome {
            Ok(connected) if self.machine.status().state == State::Ready => {
                self.replace(connected);
                self.event(Event::Renewed);
                self.prove(Duration::ZERO, Ok(()));
                info!(target: SCOPE, component = self.name(), "a connection that did not answer was replaced");
            }
            Ok(connected) => self.let_go(connected),
            Err(failure) => {
                self.event(Event::Lost(failure.clone()));
                self.prove(Duration::ZERO, Err(failure));
            }
        }
    }

    /// Tells everybody who waits, after the status shows it.
    fn prove(&self, took: Duration, outcome: Result<(), Failure>) {
        self.handle.proofs.tell(Proof {
            at: self.shared.clock.now(),
            took,
            outcome,
        });
    }

    fn name(&self) -> &str {
        self.handle.info.name.as_str()
    }

    fn attempted(&mut self, outcome: Result<Connected<T>, Failure>) {
        self.attempt = None;
        let info = &self.handle.info;
        let result = if outcome.is_ok() {
            "success"
        } else {
            "failure"
        };
        self.shared
            .metrics
            .component_attempts
            .add([self.name(), result], 1);
        match outcome {
            Ok(connected) => {
                self.handle
                    .install(Some((connected.driver.clone(), connected.about.clone())));
                self.instance = Some(connected);
                if !self.machine.status().was_ready {
                    if info.kind != Kind::Names {
                        // Dapr does not count name resolution among the components.
                        let metrics = &self.shared.metrics;
                        metrics.component_init.add([info.type_name.as_str()], 1);
                        metrics.component_loaded.add([], 1);
                    }
                } else {
                    self.shared
                        .metrics
                        .component_reconnects
                        .add([self.name()], 1);
                }
                self.event(Event::Attempted(Ok(())));
                if let Some(server) = self.recipe.server() {
                    self.shared.neighbours.send(server).ok();
                }
            }
            Err(failure) => {
                let reason = if failure.class == Class::Config {
                    "config"
                } else {
                    "init"
                };
                self.shared
                    .metrics
                    .component_init_fail
                    .add([info.type_name.as_str(), reason, self.name()], 1);
                if self.shared.strict && !info.optional && !self.machine.status().was_ready {
                    self.give_up(&failure);
                }
                self.event(Event::Attempted(Err(failure)));
            }
        }
    }

    /// As Dapr does: the process ends.
    fn give_up(&self, failure: &Failure) {
        let info = &self.handle.info;
        let cause = format!(
            "process component {} error: [INIT_COMPONENT_FAILURE]: initialization error occurred for {} ({}): {}",
            info.name,
            info.name,
            info.full_type(),
            failure.message
        );
        warn!(target: SCOPE, "Error processing component, daprd will exit gracefully: {cause}");
        self.shared.fatal.try_send(cause).ok();
    }

    /// Gives the machine an event, does what it asks for, shows what it is then.
    fn event(&mut self, event: Event) {
        let before = self.machine.status().state;
        let actions = self
            .machine
            .on(event, self.shared.clock.now(), rand::random());
        for action in actions {
            self.act(action);
        }
        let status = self.machine.status().clone();
        if status.state != before {
            record_state(&self.shared.metrics, &self.handle.info, status.state);
            self.count_outage(status.state);
            self.journal(&status);
        }
        if let Some(at) = status.last_ok {
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
        self.shared
            .metrics
            .component_waiters
            .set([self.name()], self.handle.waiters() as f64);
        self.handle.show(status);
    }

    /// Tells of the change, and of the calls that were refused while it was away.
    fn journal(&self, status: &Status) {
        let refused = (status.state == State::Ready).then(|| self.handle.take_refused());
        // What once failed is no reason for what is ready or under way.
        let failure = match status.state {
            State::Unavailable | State::Rejected | State::Pending => status.failure.as_ref(),
            State::Connecting | State::Ready | State::Closing => None,
        };
        let told = journal::Told {
            cause: failure.map(|failure| failure.message.as_str()),
            class: failure.map(|failure| failure.class.name()),
            refused: refused.filter(|count| *count > 0),
        };
        let journal = &self.shared.metrics.journal;
        journal.change(
            journal::Kind::Component,
            self.name(),
            status.state.name(),
            told,
        );
    }

    /// Seconds without the component, by the obstacle that stood in the way.
    fn count_outage(&mut self, state: State) {
        if state == State::Ready {
            if let Some(since) = self.down_since.take() {
                let class = self
                    .handle
                    .failure()
                    .map_or("TRANSIENT", |failure| failure.class.name());
                self.shared
                    .metrics
                    .component_unavailable_seconds
                    .add([self.name(), class], since.elapsed().as_secs());
            }
        } else {
            self.down_since.get_or_insert_with(Instant::now);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Attempt { number } => {
                debug!(target: SCOPE, component = self.name(), attempt = number, "connecting");
                self.attempt = Some(Box::pin(self.connect(self.machine.timing().attempt)));
            }
            Action::Abandon => {
                self.attempt = None;
                self.ping = None;
                self.live = Live::default();
            }
            Action::Ping { .. } => self.start_ping(),
            Action::Release => self.release(),
            Action::Tell(told) => self.tell(told),
        }
    }

    /// One attempt: secrets, settings, connection, first ping, all within `limit`.
    fn connect(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<Connected<T>, Failure>> + Send + 'static {
        let (shared, recipe) = (self.shared.clone(), self.recipe.clone());
        let (name, handle) = (self.name().to_owned(), self.handle.clone());
        async move {
            let _permit = shared.attempts.acquire().await;
            let started = Instant::now();
            let scope = Scope::root();
            let attempt = AssertUnwindSafe(open(&*recipe, &handle, scope.clone())).catch_unwind();
            let outcome = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => Err(Failure::new(Class::Panic, panic_text(&*panic))),
                Err(_) => Err(Failure::new(
                    Class::Timeout,
                    format!("no connection within {} seconds", limit.as_secs_f64()),
                )),
            };
            shared
                .metrics
                .component_connect_seconds
                .observe([&name], started.elapsed().as_secs_f64());
            if outcome.is_err() {
                scope.cancel();
            }
            outcome
        }
    }

    fn probe(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let driver = self
            .instance
            .as_ref()
            .map(|instance| instance.driver.clone());
        let (metrics, limit, name, handle) = (
            self.shared.metrics.clone(),
            self.machine.timing().ping_timeout,
            self.name().to_owned(),
            self.handle.clone(),
        );
        async move {
            let Some(driver) = driver else {
                return Err(Failure::new(Class::Transient, "there is no connection"));
            };
            let started = Instant::now();
            let ping = AssertUnwindSafe(ping(&*driver, &handle)).catch_unwind();
            let outcome = match tokio::time::timeout(limit, ping).await {
                Ok(Ok(outcome)) => outcome.map_err(ComponentError::into_failure),
                Ok(Err(panic)) => Err(Failure::new(Class::Panic, panic_text(&*panic))),
                Err(_) => Err(Failure::new(
                    Class::Timeout,
                    format!("no answer to a ping within {} seconds", limit.as_secs_f64()),
                )),
            };
            metrics
                .component_ping_seconds
                .observe([&name], started.elapsed().as_secs_f64());
            outcome
        }
    }

    /// Takes the instance away from callers, and lets go of it: nobody waits for an old connection to close.
    fn release(&mut self) {
        self.handle.install(None);
        self.ping = None;
        self.live = Live::default();
        self.trial = None;
        if let Some(instance) = self.instance.take() {
            self.let_go(instance);
        }
    }

    /// Puts a fresh connection in the place of the present one. Callers notice nothing.
    fn replace(&mut self, connected: Connected<T>) {
        self.handle
            .install(Some((connected.driver.clone(), connected.about.clone())));
        if let Some(old) = self.instance.replace(connected) {
            self.let_go(old);
        }
    }

    fn let_go(&self, instance: Connected<T>) {
        let name = self.name().to_owned();
        self.old.spawn_future("component.close", async move {
            let closing = AssertUnwindSafe(instance.driver.close()).catch_unwind();
            if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
                debug!(target: SCOPE, component = name, "the old connection did not close in time and is left behind");
            }
            instance.scope.cancel();
        });
    }

    fn tell(&self, told: Told) {
        let info = &self.handle.info;
        let (component, component_type) = (info.name.as_str(), info.full_type());
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match told {
            Told::Connected { outage: None, .. } => {
                info!(target: SCOPE, component, component_type, event = "component_state", to = "ready", "Component loaded: {component} ({component_type})");
            }
            Told::Connected {
                attempt,
                outage: Some(outage),
            } => {
                if !self.machine.status().was_ready {
                    info!(target: SCOPE, "Component loaded: {component} ({component_type})");
                }
                info!(target: SCOPE, component, component_type, event = "component_state", to = "ready", attempt, outage_ms = millis(outage), "component is ready again");
            }
            Told::Failing {
                failure,
                attempt,
                elapsed,
                next,
            } => {
                warn!(
                    target: SCOPE,
                    component,
                    component_type,
                    event = "component_state",
                    to = "unavailable",
                    class = failure.class.name(),
                    err = failure.message,
                    attempt,
                    outage_ms = millis(elapsed),
                    next_retry_ms = millis(next),
                    "component is unavailable, trying again"
                );
            }
            Told::Lost { failure } => {
                warn!(target: SCOPE, component, component_type, event = "component_state", from = "ready", to = "unavailable", class = failure.class.name(), err = failure.message, "component lost its connection");
            }
            Told::Rejected { failure } => {
                tracing::error!(target: SCOPE, component, component_type, event = "component_state", to = "rejected", class = failure.class.name(), err = failure.message, "component rejected");
            }
        }
    }
}

/// Settings, connection, first ping.
async fn open<T: Component + ?Sized>(
    recipe: &dyn Recipe<T>,
    handle: &Handle<T>,
    scope: Scope,
) -> Result<Connected<T>, Failure> {
    let (opener, about) = recipe.settle().await?;
    let (report, losses) = mpsc::channel(1);
    let driver = opener(Open {
        scope: scope.clone(),
        loss: Loss::new(report),
    })
    .await
    .map_err(ComponentError::into_failure)?;
    if let Err(error) = ping(&*driver, handle).await {
        tokio::time::timeout(CLOSE_LIMIT, driver.close()).await.ok();
        return Err(error.into_failure());
    }
    Ok(Connected {
        driver,
        about: Arc::new(about),
        scope,
        losses,
    })
}

/// A driver without a ping is believed to be well.
async fn ping<T: Component + ?Sized>(driver: &T, handle: &Handle<T>) -> Result<(), ComponentError> {
    let outcome = driver.ping().await;
    let has_ping = !matches!(&outcome, Err(error) if error.kind == ErrorKind::Unsupported);
    handle.proofs.set_has_ping(has_ping);
    if has_ping { outcome } else { Ok(()) }
}

async fn lost<T: ?Sized>(instance: Option<&mut Connected<T>>) -> Option<ComponentError> {
    match instance {
        Some(instance) => match instance.losses.recv().await {
            Some(error) => Some(error),
            // A driver that cannot report any more has nothing to report.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn working<R>(work: &mut Working<R>) -> R {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the component panicked: {}", text.unwrap_or_default())
}

/// So that neighbours can be told before anybody listens.
pub(crate) fn neighbours() -> broadcast::Sender<String> {
    broadcast::channel(64).0
}
