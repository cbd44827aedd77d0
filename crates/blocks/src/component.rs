//! A component as the rest of the sidecar holds it: by name, connected or not.
//!
//! A [`Handle`] outlives every connection of its component. Asking for the instance is one atomic load while the
//! component is ready; otherwise the caller waits for a bounded time and is then told what stands in the way.
//! It outlives changes of the definition too: a caller that holds it uses whatever serves under the name by then.
//! The supervisor of `outrigger-sidecar` is the only one to change what a handle shows.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use outrigger_component_api::{
    Catalog, ComponentError, ComponentName, Kind, NameResolver, PubSub, SecretStore, StateStore,
};
use outrigger_core::ApiError;
use outrigger_lifecycle::connection::{Class, Failure, State, Status};
use outrigger_lifecycle::{Clock, Moment};
use outrigger_telemetry::Metrics;
use tokio::sync::{mpsc, oneshot, watch};

use crate::about::About;
use crate::downtime::Downtime;
use crate::errors;
use crate::health::{Proofs, SHARED_FOR};
use crate::waiting::{Need, Obstacle, Patience, may_come};

/// Callers beyond this many do not wait for a component that is not ready.
const MAX_WAITERS: usize = 1_000;

/// What is known of a component without asking it.
#[derive(Clone, Debug)]
pub struct Info {
    pub name: ComponentName,
    /// `state.redis`.
    pub type_name: String,
    /// `v1`, or empty where the resource has none.
    pub version: String,
    pub kind: Kind,
    /// `ignoreErrors`: never counts for strictness, deadlines or readiness.
    pub optional: bool,
}

impl Info {
    /// `state.redis/v1`.
    pub fn full_type(&self) -> String {
        full_type(&self.type_name, &self.version)
    }
}

/// `state.redis/v1`; a resource without a version means the first.
pub(crate) fn full_type(type_name: &str, version: &str) -> String {
    let version = if version.is_empty() { "v1" } else { version };
    format!("{type_name}/{version}")
}

/// What a handle tells its supervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Somebody needs the component and it is not ready.
    Wanted,
    /// A call failed in a way that casts doubt on the connection.
    Suspected,
}

/// One component. Kept by name in the [`Registry`](crate::Registry).
pub struct Handle<T: ?Sized> {
    pub name: ComponentName,
    pub kind: Kind,
    /// Of the definition that serves.
    info: ArcSwap<Info>,
    clock: Clock,
    instance: ArcSwapOption<Instance<T>>,
    status: watch::Sender<Status>,
    /// A changed definition that has not taken its place yet.
    pending: watch::Sender<Option<Pending>>,
    /// The secret store that is missing, while the component is pending for it.
    needs: watch::Sender<Option<Need>>,
    signals: mpsc::Sender<Signal>,
    /// How often an attempt out of turn was asked for. A counter cannot overflow as a queue can.
    kicks: watch::Sender<u64>,
    waiters: AtomicUsize,
    /// Calls that were answered without asking the component, because it was not ready.
    refused: AtomicU64,
    /// Milliseconds from the process's start to the last successful call.
    last_used: AtomicU64,
    downtime: Mutex<Downtime>,
    /// What pings say, and who wants one.
    pub proofs: Proofs,
}

/// A connected instance, with what the runtime itself reads from the component's properties.
pub struct Instance<T: ?Sized> {
    pub driver: Arc<T>,
    pub about: Arc<About>,
    /// It makes way in good order: whoever works on it for long is to finish and let go.
    is_leaving: AtomicBool,
    /// Dropped with the instance.
    _held: oneshot::Sender<()>,
}

impl<T: ?Sized> Instance<T> {
    /// Whether whoever works on it is to finish and let go of it. One that broke does not leave, it is gone.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }
}

/// Tells when nobody uses an instance any more.
#[derive(Debug)]
pub struct InUse(oneshot::Receiver<()>);

impl InUse {
    /// Waits until the last call on the instance has ended.
    pub async fn ended(self) {
        // Nothing is ever sent; the sender goes with the instance.
        self.0.await.ok();
    }
}

/// A changed definition that cannot take its place, or not yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// `state.redis/v1`; empty where the resource does not tell any more.
    pub full_type: String,
    pub status: Status,
}

/// The supervisor's side of a handle.
pub struct Control<T: ?Sized> {
    pub handle: Arc<Handle<T>>,
    pub signals: mpsc::Receiver<Signal>,
}

impl<T: ?Sized> Control<T> {
    /// Of a component that has not been connected yet.
    pub fn new(info: Info, clock: Clock, status: Status) -> Self {
        let (signals, received) = mpsc::channel(16);
        let handle = Handle {
            name: info.name.clone(),
            kind: info.kind,
            info: ArcSwap::from_pointee(info),
            clock,
            instance: ArcSwapOption::const_empty(),
            status: watch::Sender::new(status),
            pending: watch::Sender::new(None),
            needs: watch::Sender::new(None),
            signals,
            kicks: watch::Sender::new(0),
            waiters: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
            downtime: Mutex::default(),
            proofs: Proofs::default(),
        };
        Self {
            handle: Arc::new(handle),
            signals: received,
        }
    }
}

impl<T: ?Sized> Handle<T> {
    /// What is known of the definition that serves.
    pub fn info(&self) -> Arc<Info> {
        self.info.load_full()
    }

    /// The instance, if the component is ready.
    pub fn instance(&self) -> Option<Arc<Instance<T>>> {
        self.instance.load_full()
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// A changed definition that has not taken its place yet.
    pub fn pending(&self) -> Option<Pending> {
        self.pending.borrow().clone()
    }

    /// How many callers are waiting.
    pub fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }

    /// A call was answered without asking the component.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls were, since this was last asked.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// The instance, waiting for it where that makes sense.
    ///
    /// # Errors
    /// What the caller is to be told.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn ready(&self, patience: Patience) -> Result<Arc<Instance<T>>, ApiError> {
        match self.instance() {
            Some(instance) => Ok(instance),
            None => self.wait(patience).await,
        }
    }

    async fn wait(&self, patience: Patience) -> Result<Arc<Instance<T>>, ApiError> {
        let now = self.clock.now();
        let until = now + patience.wait;
        // Most calls of an outage: nobody can help them, and they trouble nobody.
        let is_vain = {
            let status = self.status.borrow();
            status.state == State::Unavailable && !may_come(&status, Obstacle::None, now, until)
        };
        if is_vain {
            return Err(self.not_ready());
        }
        let (mut watch, mut needs) = (self.watch(), self.needs.subscribe());
        self.want();
        let _place = Waiting::begin(&self.waiters);
        if self.waiters() > MAX_WAITERS {
            return self.instance().ok_or_else(|| self.not_ready());
        }
        let ready = async {
            loop {
                let mut need = needs.borrow_and_update().clone();
                let status = watch.borrow_and_update().clone();
                // Only now: what comes later is a change.
                if let Some(instance) = self.instance() {
                    return Some(instance);
                }
                let store = need.as_mut().map(Need::seen);
                let obstacle = match &store {
                    Some(store) => Obstacle::Store(store.as_ref()),
                    None => Obstacle::None,
                };
                if !may_come(&status, obstacle, self.clock.now(), until) {
                    return None;
                }
                tokio::select! {
                    changed = watch.changed() => if changed.is_err() {
                        return None;
                    },
                    // The sender lives in self.
                    _ = needs.changed() => {}
                    () = changed(need.as_mut()) => {}
                }
            }
        };
        match tokio::time::timeout(patience.wait, ready).await {
            Ok(Some(instance)) => Ok(instance),
            Ok(None) | Err(_) => Err(self.not_ready()),
        }
    }

    /// For the supervisor: where it shows which secret store is missing.
    pub fn needs(&self) -> &watch::Sender<Option<Need>> {
        &self.needs
    }

    fn need(&self) -> Option<Need> {
        let is_pending = self.status.borrow().state == State::Pending;
        self.needs.borrow().clone().filter(|_| is_pending)
    }

    /// Why a component is pending, in one word for machines: `secretstore:<name>` or `lazy`.
    pub fn reason(&self) -> Option<String> {
        if self.status.borrow().state != State::Pending {
            return None;
        }
        match self.need() {
            Some(need) => Some(format!("secretstore:{}", need.store)),
            None => self.proofs.is_dormant().then(|| "lazy".to_owned()),
        }
    }

    /// The status as it is told: what a pending component waits for is its obstacle.
    pub fn told(&self) -> Status {
        let mut status = self.status();
        if let Some(mut need) = self.need() {
            let message = format!("waiting for secret store {}", need.store);
            status.failure = Some(Failure::new(Class::Secret, message));
            status.next_attempt = need.seen().and_then(|store| store.next_attempt);
        }
        status
    }

    /// What a caller is told of a component that does not serve now.
    pub fn not_ready(&self) -> ApiError {
        errors::component::not_ready(&self.info(), &self.told(), self.clock.now())
    }

    /// What a caller is told when the connection broke under its call.
    pub fn lost(&self, error: &ComponentError) -> ApiError {
        let mut status = self.status();
        if status.state == State::Ready {
            // The supervisor is about to find out; the caller need not wait for that.
            status.state = State::Unavailable;
            status.failure = Some(error.clone().into_failure());
            status.next_attempt = Some(self.clock.now() + Duration::from_millis(500));
        }
        errors::component::not_ready(&self.info(), &status, self.clock.now())
    }

    /// A call succeeded: as good as a ping.
    pub fn used(&self) {
        let millis = self.clock.now().distance_from_start().as_millis();
        self.last_used
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn last_used(&self) -> Moment {
        Moment::from_start(Duration::from_millis(
            self.last_used.load(Ordering::Relaxed),
        ))
    }

    /// Waits until it is known anew how the component does: by a ping where it is ready, by the end of an attempt where
    /// one makes sense soon. What came out is in status and proofs.
    ///
    /// # Cancel safety
    /// May be dropped at any time; what was begun goes on.
    pub async fn prove(&self) {
        let now = self.clock.now();
        let mut watch = self.watch();
        let status = watch.borrow_and_update().clone();
        if status.state == State::Ready {
            let last_ok = status.last_ok.max(Some(self.last_used()));
            if last_ok.is_some_and(|at| now.since(at) < SHARED_FOR) {
                return;
            }
            tokio::select! {
                biased;
                () = self.proofs.since(now) => return,
                // The connection broke under the ping. The attempt that follows is the second try.
                _ = watch.wait_for(|status| status.state != State::Ready) => {}
            }
        }
        self.next_attempt().await;
    }

    /// Waits until the attempt under way, or the next one, has ended.
    async fn next_attempt(&self) {
        let mut watch = self.watch();
        let status = watch.borrow_and_update().clone();
        let is_worth_it = match status.state {
            State::Connecting => true,
            State::Unavailable => status
                .failure
                .as_ref()
                .is_none_or(|failure| failure.class.is_fast()),
            State::Pending => self.proofs.is_dormant(),
            State::Ready | State::Rejected | State::Closing => false,
        };
        if !is_worth_it {
            return;
        }
        self.want();
        let before = match status.state {
            State::Connecting => status.attempt.saturating_sub(1),
            _ => status.attempt,
        };
        let has_ended = |status: &Status| match status.state {
            State::Pending | State::Connecting => false,
            State::Unavailable => status.attempt > before,
            State::Ready | State::Rejected | State::Closing => true,
        };
        watch.wait_for(has_ended).await.ok();
    }

    /// Somebody will need the component soon.
    pub fn want(&self) {
        self.signals.try_send(Signal::Wanted).ok();
    }

    /// A call failed on its connection.
    pub fn suspect(&self) {
        self.signals.try_send(Signal::Suspected).ok();
    }

    /// Whatever is not ready is to be tried at once, a changed definition included.
    pub fn retry(&self) {
        self.kicks.send_modify(|count| *count += 1);
    }

    /// For the supervisor: changes whenever somebody asks for an attempt out of turn.
    pub fn kicked(&self) -> watch::Receiver<u64> {
        self.kicks.subscribe()
    }

    /// Shows what the connection machine says. Only the supervisor calls it.
    pub fn show(&self, status: Status) {
        self.downtime().tell(&status);
        self.status.send_replace(status);
    }

    fn downtime(&self) -> MutexGuard<'_, Downtime> {
        self.downtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the metrics for how long the component was away, the outage that lasts included.
    pub fn count_downtime(&self, metrics: &Metrics) {
        let away = self.downtime().take(self.clock.now());
        let labels = [self.name.as_str()];
        metrics.component_unavailable_seconds.add(labels, away);
    }

    /// Shows a changed definition that waits. Only the supervisor calls it.
    pub fn show_pending(&self, pending: Option<Pending>) {
        self.pending.send_replace(pending);
    }

    /// From now on this is the definition that serves. Only the supervisor calls it.
    pub fn define(&self, info: Info) {
        self.info.store(Arc::new(info));
    }

    /// Asks whoever works on the present instance to finish. Only the supervisor calls it, ahead of taking it away.
    pub fn retire(&self) {
        if let Some(instance) = self.instance() {
            instance.is_leaving.store(true, Ordering::Release);
        }
    }

    /// Puts an instance in place of whatever is there. Only the supervisor calls it.
    pub fn install(&self, driver: Arc<T>, about: Arc<About>) -> InUse {
        let (held, ended) = oneshot::channel();
        self.instance.store(Some(Arc::new(Instance {
            driver,
            about,
            is_leaving: AtomicBool::new(false),
            _held: held,
        })));
        InUse(ended)
    }

    /// Takes the instance away. Only the supervisor calls it.
    pub fn withdraw(&self) {
        self.instance.store(None);
    }

    /// The last failure, for people.
    pub fn failure(&self) -> Option<Failure> {
        self.status.borrow().failure.clone()
    }
}

impl<T: ?Sized> std::fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}) {}",
            self.name,
            self.info.load().type_name,
            self.status.borrow().state
        )
    }
}

/// Waits until the store that is needed does otherwise.
async fn changed(need: Option<&mut Need>) {
    match need {
        Some(need) => need.changed().await,
        None => std::future::pending().await,
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A handle of any kind.
#[derive(Clone, Debug)]
pub enum AnyHandle {
    State(Arc<Handle<dyn StateStore>>),
    PubSub(Arc<Handle<dyn PubSub>>),
    Secrets(Arc<Handle<dyn SecretStore>>),
    Names(Arc<Handle<dyn NameResolver>>),
}

macro_rules! each {
    ($any:expr, $handle:ident => $do:expr) => {
        match $any {
            AnyHandle::State($handle) => $do,
            AnyHandle::PubSub($handle) => $do,
            AnyHandle::Secrets($handle) => $do,
            AnyHandle::Names($handle) => $do,
        }
    };
}

impl AnyHandle {
    pub fn name(&self) -> &ComponentName {
        each!(self, handle => &handle.name)
    }

    pub fn kind(&self) -> Kind {
        each!(self, handle => handle.kind)
    }

    pub fn info(&self) -> Arc<Info> {
        each!(self, handle => handle.info())
    }

    pub fn pending(&self) -> Option<Pending> {
        each!(self, handle => handle.pending())
    }

    /// See [`Handle::count_downtime`].
    pub fn count_downtime(&self, metrics: &Metrics) {
        each!(self, handle => handle.count_downtime(metrics));
    }

    /// See [`Handle::retry`].
    pub fn retry(&self) {
        each!(self, handle => handle.retry());
    }

    pub fn status(&self) -> Status {
        each!(self, handle => handle.status())
    }

    /// See [`Handle::told`].
    pub fn told(&self) -> Status {
        each!(self, handle => handle.told())
    }

    /// See [`Handle::reason`].
    pub fn reason(&self) -> Option<String> {
        each!(self, handle => handle.reason())
    }

    pub fn watch(&self) -> watch::Receiver<Status> {
        each!(self, handle => handle.watch())
    }

    pub fn waiters(&self) -> usize {
        each!(self, handle => handle.waiters())
    }

    pub fn last_used(&self) -> Moment {
        each!(self, handle => handle.last_used())
    }

    pub fn proofs(&self) -> &Proofs {
        each!(self, handle => &handle.proofs)
    }

    /// See [`Handle::prove`].
    pub async fn prove(&self) {
        each!(self, handle => handle.prove().await);
    }

    /// What keeps a connected component from serving calls.
    pub fn impediment(&self) -> Option<Failure> {
        let error = each!(self, handle => handle.instance().and_then(|instance| instance.driver.impediment()));
        error.map(ComponentError::into_failure)
    }

    /// The words of the metadata API. Those of a component that was never connected are not known.
    pub fn capabilities(&self) -> Vec<&'static str> {
        match self {
            Self::State(handle) => handle
                .instance()
                .map(|instance| instance.driver.features().capabilities())
                .unwrap_or_default(),
            Self::PubSub(handle) => handle
                .instance()
                .map(|instance| instance.driver.features().capabilities())
                .unwrap_or_default(),
            Self::Secrets(_) | Self::Names(_) => Vec::new(),
        }
    }
}

/// Shows a component's state in the metrics; none for one that is no more.
pub fn record_state(metrics: &Metrics, info: &Info, state: Option<State>) {
    record_state_of(metrics, info.name.as_str(), &info.type_name, state);
}

/// The same for one that may have no handle.
pub(crate) fn record_state_of(
    metrics: &Metrics,
    name: &str,
    type_name: &str,
    state: Option<State>,
) {
    for other in State::ALL {
        let value = f64::from(u8::from(Some(other) == state));
        let labels = [name, type_name, other.name()];
        metrics.component_state.set(labels, value);
    }
}

/// The prefix of a type tells its kind, whether we know the type or not.
pub fn kind_of(type_name: &str) -> Option<Kind> {
    [Kind::State, Kind::PubSub, Kind::Secrets, Kind::Names]
        .into_iter()
        .find(|kind| {
            type_name
                .to_ascii_lowercase()
                .starts_with(&format!("{}.", kind.prefix()))
        })
}

/// So that who assembles need not name the catalog's crate.
pub type Types = Catalog;
