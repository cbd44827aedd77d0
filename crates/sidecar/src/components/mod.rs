//! Components: from resources to supervised handles in the registry, and again when resources change.

mod endpoints;
mod fate;
mod names;
mod recipe;
mod rejected;
mod secrets;
pub(crate) mod supervisor;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::component::{AnyHandle, Handle, Info};
use outrigger_blocks::pubsub::route;
use outrigger_blocks::{Registry, Rejected, Table};
use outrigger_component_api::{
    Catalog, Check, Component, Entry, Findings, Kind, Lookup as Found, PubSub, SecretStore,
    StateStore,
};
use outrigger_config::flags::LazyComponents;
use outrigger_config::resolve::{Secrets, resolve, secrets_of};
use outrigger_config::{ComponentResource, Configuration, Context, Fingerprint, Loaded};
use outrigger_lifecycle::connection::{Class, Failure, State, Timing};
use outrigger_lifecycle::{Clock, Scope, Stop};
use outrigger_telemetry::Metrics;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tracing::{error, info, warn};

use crate::faults::Faults;
pub(crate) use endpoints::ExternalEndpoints;
use fate::{Fate, Known, Read};
pub(crate) use names::Names;
use recipe::{Checker, FromResource};
use rejected::{elsewhere, is_required};
use supervisor::{Definition, Desired, News, Supervisor};

pub(crate) const SCOPE: &str = "dapr.runtime.processor";
/// Attempts that may be under way at once.
const PARALLEL_ATTEMPTS: usize = 64;

/// Looks up an environment variable, those of the sidecar itself included.
pub(crate) type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What every supervisor needs.
pub(crate) struct Shared {
    pub catalog: Arc<Catalog>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub context: Context,
    pub environment: Environment,
    pub timing: Timing,
    pub strict: bool,
    pub lazy: LazyComponents,
    /// Told when the process has to end because of a component.
    pub fatal: mpsc::Sender<String>,
    pub attempts: Semaphore,
    /// Who has become ready: its neighbours try at once.
    pub neighbours: broadcast::Sender<News>,
}

impl Shared {
    pub(crate) fn permits() -> Semaphore {
        Semaphore::new(PARALLEL_ATTEMPTS)
    }

    pub(crate) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| (self.environment)(name)
    }

    /// Whether the process ends when this component cannot be opened, as Dapr's does.
    fn is_vital(&self, resource: &ComponentResource) -> bool {
        rejected::is_vital(
            resource.annotation("init-mode"),
            resource.ignore_errors,
            self.strict,
        )
    }

    /// The process ends because of a component that is vital.
    pub(crate) fn give_up(&self, name: &str, full_type: &str, why: &str) {
        let cause = format!(
            "process component {name} error: [INIT_COMPONENT_FAILURE]: initialization error occurred for {name} ({full_type}): {why}"
        );
        warn!(target: SCOPE, "Error processing component, daprd will exit gracefully: {cause}");
        self.fatal.try_send(cause).ok();
    }
}

/// The components that are running.
pub(crate) struct Components {
    shared: Arc<Shared>,
    scope: Scope,
    running: Vec<Running>,
    /// Gone from the resources, and not closed yet.
    leaving: Vec<Running>,
    told: Told,
}

/// Components that must be ready.
#[derive(Debug, Default)]
pub(crate) struct Required {
    pub handles: Vec<AnyHandle>,
    /// Those that cannot be as they are written.
    pub rejected: Vec<String>,
}

impl Required {
    /// Names of those that are not ready.
    pub(crate) fn missing(&self) -> Vec<String> {
        let handles = self.handles.iter();
        let away = handles.filter(|handle| handle.status().state != State::Ready);
        let away = away.map(|handle| handle.name().to_string());
        let mut names: Vec<String> = Vec::new();
        for name in away.chain(self.rejected.iter().cloned()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// What the log has been told of resources; each thing is told once, until it is no more.
#[derive(Default)]
struct Told {
    before: HashSet<(String, String)>,
    now: HashSet<(String, String)>,
}

impl Told {
    /// The resources are read again.
    fn again(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    fn is_new(&mut self, name: &str, what: &str) -> bool {
        let line = (name.to_owned(), what.to_owned());
        let is_new = !self.before.contains(&line);
        self.now.insert(line) && is_new
    }
}

struct Running {
    name: String,
    /// Where its definition was read.
    file: String,
    /// What it was last told to be; nothing where that cannot be used.
    fingerprint: Option<Fingerprint>,
    scope: Scope,
    /// Fires when everything has been let go of.
    closed: Stop,
    handle: AnyHandle,
    optional: bool,
    lazy: bool,
    required: bool,
    helm: Box<dyn Steer>,
}

/// Tells a supervisor what its component is to be from now on.
trait Steer: Send + Sync {
    fn define(&self, component: &Accepted<'_>);

    fn refuse(&self, failure: Failure);

    fn leave(&self);
}

/// A resource that became a component.
struct Accepted<'a> {
    resource: &'a ComponentResource,
    entry: &'a Entry,
    lazy: bool,
    /// What an offline check of its values found; it will never start like this.
    fault: Option<Failure>,
}

impl Components {
    pub(crate) fn new(shared: Arc<Shared>, scope: Scope) -> Self {
        Self {
            shared,
            scope,
            running: Vec::new(),
            leaving: Vec::new(),
            told: Told::default(),
        }
    }

    /// Makes the running components be those of the resources. What has not changed runs on undisturbed, and so does what
    /// has changed into something that cannot be used.
    pub(crate) fn apply(
        &mut self,
        loaded: &Loaded,
        unreadable: &[(String, String)],
        faults: &Faults,
        configuration: &Configuration,
    ) {
        let shared = self.shared.clone();
        let subscribed: HashSet<&str> = loaded
            .subscriptions
            .iter()
            .map(|subscription| subscription.pubsub.as_str())
            .collect();
        let stores: HashSet<&str> = loaded
            .components
            .iter()
            .filter(|component| {
                component
                    .type_name
                    .to_ascii_lowercase()
                    .starts_with("secretstores.")
            })
            .map(|component| component.name.as_str())
            .collect();
        let mut rejected = Vec::new();
        let mut accepted = Vec::new();
        // Those that run and would be refused now, for something that is not their own.
        let mut unchanged = Vec::new();
        self.told.again();
        for resource in &loaded.components {
            match accept(&shared, resource, configuration, &stores, &subscribed) {
                Ok(Some(component)) => accepted.push(component),
                Ok(None) => {
                    if self.told.is_new(resource.name.as_str(), "denied") {
                        warn!(target: SCOPE, component = %resource.name, component_type = resource.type_name, "component is of a denied type and is left out");
                    }
                }
                Err(why) if self.runs(resource) => {
                    if self.told.is_new(&why.name, &why.reason) {
                        warn!(target: SCOPE, component = why.name, err = why.reason, "component would be rejected now, and runs on as it is");
                    }
                    unchanged.push(resource.name.as_str());
                }
                Err(why) => {
                    self.give_up(&why, shared.is_vital(resource));
                    rejected.push(why);
                }
            }
        }
        for (one, is_vital) in rejected::documents(loaded, shared.strict) {
            self.give_up(&one, is_vital);
        }
        let names = loaded.components.iter().map(|one| one.name.as_str());
        let reasons = |name: &str| {
            let own = rejected.iter().find(|one| one.name == name);
            own.map(|one| one.reason.clone())
        };
        let read = Read {
            accepted: accepted
                .iter()
                .map(|one| (one.resource.name.as_str(), one.entry.kind))
                .collect(),
            refused: names
                .filter_map(|name| Some((name, reasons(name)?)))
                .collect(),
            faults,
        };

        let mut starting = Vec::new();
        let mut table = Table::default();
        let (mut kept, mut blamed) = (HashSet::new(), HashSet::new());
        let mut before: Vec<Running> = Vec::new();
        for running in self.running.drain(..) {
            let known = Known {
                name: &running.name,
                kind: running.handle.kind(),
                file: &running.file,
            };
            let fate = if unchanged.contains(&running.name.as_str()) {
                Fate::Stays
            } else {
                read.fate(known)
            };
            match fate {
                Fate::Stays => before.push(running),
                Fate::Refused(reason) => {
                    kept.insert(running.name.clone());
                    before.push(running.refused(reason));
                }
                Fate::Unreadable(reason) => {
                    blamed.insert(running.file.clone());
                    before.push(running.refused(reason));
                }
                Fate::Gone => {
                    info!(target: SCOPE, component = running.name, "component removed");
                    self.leaving.push(running);
                }
            }
        }
        for component in accepted {
            let name = component.resource.name.as_str();
            let known = before.iter().position(|running| running.name == name);
            let running = match known {
                Some(place) => before.swap_remove(place).defined(&component),
                None => {
                    let Some((running, supervisor)) = self.prepare(&component) else {
                        continue;
                    };
                    starting.push(supervisor);
                    running
                }
            };
            self.running.push(running);
        }
        // Those without a definition stand behind the others, in the order they had.
        self.running.extend(before);
        for running in &self.running {
            put(&mut table, &running.handle);
        }

        rejected.retain(|one| !kept.contains(&one.name));
        rejected.extend(elsewhere(loaded, unreadable, &kept, &blamed));
        table.rejected = rejected;
        self.tell(&table.rejected);
        shared.registry.replace(table);
        // Only now can stores be found by those that need them.
        for start in starting {
            start();
        }
        // Nobody finds them any more; what is in hand is finished.
        for gone in &self.leaving {
            gone.helm.leave();
        }
        self.leaving.retain(|gone| !gone.closed.is_cancelled());
    }

    /// Whether this very definition runs.
    fn runs(&self, resource: &ComponentResource) -> bool {
        self.running.iter().any(|running| {
            running.name == resource.name.as_str()
                && running.fingerprint == Some(resource.fingerprint)
        })
    }

    /// As Dapr does, if that is wanted: the process ends because of a component that cannot be as it is written.
    fn give_up(&mut self, why: &Rejected, is_vital: bool) {
        let what = format!("given up: {} {is_vital}", why.reason);
        if self.told.is_new(&why.name, &what) && is_vital {
            let full = format!("{}/{}", why.type_name, why.version);
            self.shared.give_up(&why.name, &full, &why.reason);
        }
    }

    fn tell(&mut self, rejected: &[Rejected]) {
        for one in rejected {
            if self.told.is_new(&one.name, &one.reason) {
                error!(target: SCOPE, component = one.name, component_type = one.full_type(), class = "CONFIG", err = one.reason, event = "component_state", from = "pending", to = "rejected", "component rejected");
                self.shared
                    .metrics
                    .component_init_fail
                    .add([one.type_name.as_str(), "config", one.name.as_str()], 1);
            }
        }
    }

    /// Tries whatever is not ready.
    pub(crate) fn retry(&self) {
        for running in &self.running {
            running.handle.retry();
        }
    }

    /// Statuses of those that have to make their first attempt before the sidecar counts as started.
    pub(crate) fn eager(&self) -> Vec<AnyHandle> {
        self.running
            .iter()
            .filter(|running| !running.lazy)
            .map(|running| running.handle.clone())
            .collect()
    }

    /// Components that must be ready, by the user's choice.
    pub(crate) fn required(&self, all: bool) -> Required {
        let counts = |optional: bool, required: bool| if all { !optional } else { required };
        let running = self.running.iter();
        let running = running.filter(|running| counts(running.optional, running.required));
        let table = self.shared.registry.table();
        let rejected = table.rejected.iter();
        let rejected = rejected.filter(|rejected| counts(rejected.optional, rejected.required));
        let mut required = Required {
            handles: running.map(|running| running.handle.clone()).collect(),
            rejected: Vec::new(),
        };
        for rejected in rejected {
            // A second definition is missed by nobody as long as the first one works.
            let mut first = self.running.iter().map(|running| &running.handle);
            match first.find(|handle| handle.name().as_str() == rejected.name) {
                Some(first) => required.handles.push(first.clone()),
                None => required.rejected.push(rejected.name.clone()),
            }
        }
        required
    }

    /// Lets every component go, side by side.
    pub(crate) async fn close(&mut self, limit: Duration) {
        let all = self.running.drain(..).chain(self.leaving.drain(..));
        let closing = all.map(|running| async move {
            running.scope.cancel();
            running.closed.cancelled().await;
        });
        let closing = futures_util::future::join_all(closing);
        if tokio::time::timeout(limit, closing).await.is_err() {
            warn!(target: SCOPE, "not every component has closed in time, the rest is left behind");
        }
    }

    fn prepare(&self, component: &Accepted<'_>) -> Option<(Running, Box<dyn FnOnce() + Send>)> {
        let resource = component.resource;
        let (scope, closed) = (self.scope.child(), Stop::new());
        let place = Place {
            shared: self.shared.clone(),
            owner: self.scope.clone(),
            scope: scope.clone(),
            closed: closed.clone(),
        };
        let supervised = match component.entry.check {
            Check::State(_) => place.supervise(component, state_check, AnyHandle::State),
            Check::PubSub(_) => place.supervise(component, pubsub_check, AnyHandle::PubSub),
            Check::Secrets(_) => place.supervise(component, secrets_check, AnyHandle::Secrets),
            // They were refused before.
            Check::Names(_) => None,
        };
        let Supervised {
            handle,
            helm,
            start,
        } = supervised?;
        let running = Running {
            name: resource.name.to_string(),
            file: resource.place.file.to_string(),
            fingerprint: Some(resource.fingerprint),
            scope,
            closed,
            handle,
            optional: resource.ignore_errors,
            lazy: component.lazy,
            required: is_required(resource.annotation("required"), resource.ignore_errors),
            helm,
        };
        Some((running, start))
    }
}

impl Running {
    /// Its definition as it is now, changed or not.
    fn defined(mut self, component: &Accepted<'_>) -> Self {
        let resource = component.resource;
        if self.fingerprint != Some(resource.fingerprint) {
            self.helm.define(component);
        }
        self.fingerprint = Some(resource.fingerprint);
        self.file = resource.place.file.to_string();
        self.optional = resource.ignore_errors;
        self.lazy = component.lazy;
        self.required = is_required(resource.annotation("required"), resource.ignore_errors);
        self
    }

    /// Its definition cannot be used any more.
    fn refused(mut self, reason: String) -> Self {
        self.fingerprint = None;
        self.helm.refuse(Failure::new(Class::Config, reason));
        self
    }
}

/// Where a supervisor runs.
struct Place {
    shared: Arc<Shared>,
    owner: Scope,
    scope: Scope,
    closed: Stop,
}

struct Supervised {
    handle: AnyHandle,
    helm: Box<dyn Steer>,
    start: Box<dyn FnOnce() + Send>,
}

impl Place {
    fn supervise<T: Component + ?Sized>(
        self,
        component: &Accepted<'_>,
        pick: Pick<T>,
        any: fn(Arc<Handle<T>>) -> AnyHandle,
    ) -> Option<Supervised> {
        let first = definition(&self.shared, component, pick)?;
        // Nothing is waiting there yet.
        let (desired, seen) = watch::channel(Desired::Gone);
        let supervisor = Supervisor::new(self.shared.clone(), first, seen);
        let handle = any(supervisor.handle());
        let helm = Helm {
            shared: self.shared,
            desired,
            pick,
        };
        let (owner, stop, closed) = (self.owner, self.scope.stop().clone(), self.closed);
        // It outlives the stop by the time that letting go takes.
        let start = move || {
            owner.spawn_future("component", async move {
                supervisor.run(stop).await;
                closed.cancel();
            });
        };
        Some(Supervised {
            handle,
            helm: Box::new(helm),
            start: Box::new(start),
        })
    }
}

/// Picks the check of one kind of component.
type Pick<T> = fn(&Check) -> Option<Checker<T>>;

fn state_check(check: &Check) -> Option<Checker<dyn StateStore>> {
    match check {
        Check::State(check) => Some(*check),
        _ => None,
    }
}

fn pubsub_check(check: &Check) -> Option<Checker<dyn PubSub>> {
    match check {
        Check::PubSub(check) => Some(*check),
        _ => None,
    }
}

fn secrets_check(check: &Check) -> Option<Checker<dyn SecretStore>> {
    match check {
        Check::Secrets(check) => Some(*check),
        _ => None,
    }
}

fn definition<T: Component + ?Sized>(
    shared: &Arc<Shared>,
    component: &Accepted<'_>,
    pick: Pick<T>,
) -> Option<Definition<T>> {
    let Accepted {
        resource,
        entry,
        lazy,
        fault,
    } = component;
    Some(Definition {
        info: Info {
            name: resource.name.clone(),
            type_name: entry.type_name.to_owned(),
            version: resource.version.clone(),
            kind: entry.kind,
            optional: resource.ignore_errors,
        },
        fingerprint: resource.fingerprint,
        recipe: Arc::new(FromResource {
            shared: shared.clone(),
            resource: (*resource).clone(),
            check: pick(&entry.check)?,
        }),
        lazy: *lazy,
        fault: fault.clone(),
        attempt: resource.init_timeout,
        exclusive: entry.exclusive,
        vital: shared.is_vital(resource),
    })
}

struct Helm<T: ?Sized> {
    shared: Arc<Shared>,
    desired: watch::Sender<Desired<T>>,
    pick: Pick<T>,
}

impl<T: Component + ?Sized> Steer for Helm<T> {
    fn define(&self, component: &Accepted<'_>) {
        if let Some(definition) = definition(&self.shared, component, self.pick) {
            self.desired
                .send_replace(Desired::Definition(Arc::new(definition)));
        }
    }

    fn refuse(&self, failure: Failure) {
        self.desired.send_if_modified(|desired| {
            let is_news = !matches!(desired, Desired::Refused(known) if *known == failure);
            *desired = Desired::Refused(failure);
            is_news
        });
    }

    fn leave(&self) {
        self.desired.send_replace(Desired::Gone);
    }
}

fn put(table: &mut Table, handle: &AnyHandle) {
    let name = handle.name().to_string();
    match handle {
        AnyHandle::State(handle) => {
            table.state.insert(name, handle.clone());
        }
        AnyHandle::PubSub(handle) => {
            table.pubsub.insert(name, handle.clone());
        }
        AnyHandle::Secrets(handle) => {
            table.secrets.insert(name, handle.clone());
        }
        AnyHandle::Names(_) => {}
    }
    table.all.push(handle.clone());
}

/// What becomes of a resource: a component, nothing, or a rejection.
fn accept<'a>(
    shared: &'a Shared,
    resource: &'a ComponentResource,
    configuration: &Configuration,
    stores: &HashSet<&str>,
    subscribed: &HashSet<&str>,
) -> Result<Option<Accepted<'a>>, Rejected> {
    let rejected = |reason: String| rejected::of_resource(resource, reason);
    if configuration.denies(&resource.type_name, &resource.version) {
        return Ok(None);
    }
    let entry = match shared.catalog.find(&resource.type_name, &resource.version) {
        Found::Found(entry) if entry.kind != Kind::Names => entry,
        Found::Found(_) => {
            return Err(rejected(
                "a name resolver belongs into the Configuration, not into a Component".to_owned(),
            ));
        }
        Found::Unknown { message, nearest } => {
            let hint = nearest
                .map(|nearest| format!("; the nearest known type is {nearest}"))
                .unwrap_or_default();
            return Err(rejected(format!(
                "{message}{hint} ({})",
                resource.type_place
            )));
        }
    };
    let wanted = secrets_of(resource, &shared.context);
    if let Some(missing) = wanted
        .iter()
        .find(|request| !stores.contains(request.store.as_str()))
    {
        return Err(rejected(format!(
            "secret store {} does not exist ({})",
            missing.store, resource.secret_store_place
        )));
    }
    // Values that need no secret can be judged at once.
    let fault = if wanted.is_empty() {
        offline_fault(shared, resource, entry)
    } else {
        None
    };
    let lazy = match resource.annotation("init") {
        Some("lazy") => true,
        Some(_) => false,
        None => match shared.lazy {
            LazyComponents::None => false,
            LazyComponents::Outbound => {
                entry.kind != Kind::Secrets && !subscribed.contains(resource.name.as_str())
            }
            LazyComponents::All => entry.kind != Kind::Secrets,
        },
    };
    Ok(Some(Accepted {
        resource,
        entry,
        lazy,
        fault,
    }))
}

fn offline_fault(shared: &Shared, resource: &ComponentResource, entry: &Entry) -> Option<Failure> {
    let lookup = shared.lookup();
    let resolved = match resolve(resource, &shared.context, &lookup, Secrets::Offline) {
        Ok(resolved) => resolved,
        Err(unresolvable) => return Some(Failure::new(Class::Config, unresolvable.reason())),
    };
    let mut findings = Findings::default();
    let passed = match &entry.check {
        Check::State(check) => check(&resolved.spec, &mut findings).is_some(),
        Check::PubSub(check) => check(&resolved.spec, &mut findings).is_some(),
        Check::Secrets(check) => check(&resolved.spec, &mut findings).is_some(),
        Check::Names(_) => true,
    };
    if passed && findings.faults.is_empty() {
        None
    } else {
        Some(recipe::faults(resource, &findings))
    }
}

/// Compiles a routing rule or a trip condition, for whoever checks resources.
///
/// # Errors
/// Message, line and column.
pub fn compile_rule(expression: &str) -> Result<(), (String, Option<(usize, usize)>)> {
    route::check(expression).map_err(|bad| (bad.reason, Some((bad.line, bad.column))))
}
