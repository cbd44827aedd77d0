//! Components: from resources to supervised handles in the registry, and again when resources change.

mod endpoints;
mod names;
mod recipe;
mod secrets;
pub(crate) mod supervisor;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::component::{AnyHandle, Handle, Info};
use outrigger_blocks::pubsub::route;
use outrigger_blocks::{Registry, Rejected, Table};
use outrigger_component_api::{Catalog, Check, Entry, Findings, Kind, Lookup as Found};
use outrigger_config::flags::LazyComponents;
use outrigger_config::resolve::{Secrets, resolve, secrets_of};
use outrigger_config::{
    ComponentResource, Configuration, Context, Fingerprint, Loaded, ResourceKind,
};
use outrigger_lifecycle::connection::{Class, Failure, State, Timing};
use outrigger_lifecycle::{Clock, Scope};
use outrigger_telemetry::Metrics;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tracing::{error, info, warn};

pub(crate) use endpoints::ExternalEndpoints;
pub(crate) use names::Names;
use recipe::{Checker, FromResource};
use supervisor::{Start, Supervisor};

pub(crate) const SCOPE: &str = "dapr.runtime.processor";
/// For a component to let go of everything.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
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
    /// Servers at which a component has become ready: its neighbours there try at once.
    pub neighbours: broadcast::Sender<String>,
}

impl Shared {
    pub(crate) fn permits() -> Semaphore {
        Semaphore::new(PARALLEL_ATTEMPTS)
    }

    pub(crate) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| (self.environment)(name)
    }
}

/// The components that are running.
pub(crate) struct Components {
    shared: Arc<Shared>,
    scope: Scope,
    running: Vec<Running>,
}

struct Running {
    name: String,
    fingerprint: Fingerprint,
    scope: Scope,
    handle: AnyHandle,
    optional: bool,
    lazy: bool,
    required: bool,
    kick: watch::Sender<u64>,
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
        }
    }

    /// Makes the running components be exactly those of the resources. What has not changed runs on undisturbed; the
    /// rest is told to try at once.
    pub(crate) async fn apply(
        &mut self,
        loaded: &Loaded,
        unreadable: &[(String, String)],
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
        let mut table = Table::default();
        let mut accepted = Vec::new();
        for resource in &loaded.components {
            match accept(&shared, resource, configuration, &stores, &subscribed) {
                Ok(Some(component)) => accepted.push(component),
                Ok(None) => {}
                Err(rejected) => table.rejected.push(rejected),
            }
        }
        // Of the others the log has told already.
        let components = loaded.rejected.iter().filter(|rejected| {
            matches!(
                rejected.kind,
                ResourceKind::Component | ResourceKind::Unknown
            )
        });
        table.rejected.extend(components.map(|rejected| Rejected {
            name: rejected.name.clone(),
            type_name: rejected.type_name.clone(),
            reason: rejected.reason.clone(),
        }));
        table
            .rejected
            .extend(unreadable.iter().map(|(file, reason)| Rejected {
                name: file.clone(),
                type_name: String::new(),
                reason: reason.clone(),
            }));

        let mut before: HashMap<String, Running> = self
            .running
            .drain(..)
            .map(|running| (running.name.clone(), running))
            .collect();
        let mut starting = Vec::new();
        for component in accepted {
            let name = component.resource.name.to_string();
            let running = match before.remove(&name) {
                Some(running) if running.fingerprint == component.resource.fingerprint => {
                    running.kick.send_modify(|count| *count += 1);
                    running
                }
                replaced => {
                    if let Some(replaced) = replaced {
                        // Two of them must not own one file, one cron or one queue at once.
                        stop(replaced).await;
                    }
                    let Some((running, supervisor)) = self.prepare(&component) else {
                        continue;
                    };
                    starting.push(supervisor);
                    running
                }
            };
            put(&mut table, &running.handle);
            self.running.push(running);
        }
        for rejected in &table.rejected {
            error!(target: SCOPE, component = rejected.name, component_type = rejected.type_name, class = "CONFIG", err = rejected.reason, event = "component_state", to = "rejected", "component rejected");
            shared.metrics.component_init_fail.add(
                [
                    rejected.type_name.as_str(),
                    "config",
                    rejected.name.as_str(),
                ],
                1,
            );
        }
        shared.registry.replace(table);
        // Only now can stores be found by those that need them.
        for start in starting {
            start();
        }
        for (_, gone) in before {
            info!(target: SCOPE, component = gone.name, "component removed");
            stop(gone).await;
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
    pub(crate) fn required(&self, all: bool) -> Vec<AnyHandle> {
        self.running
            .iter()
            .filter(|running| {
                if all {
                    !running.optional
                } else {
                    running.required
                }
            })
            .map(|running| running.handle.clone())
            .collect()
    }

    /// Lets every component go, side by side.
    pub(crate) async fn close(&mut self, limit: Duration) {
        let closing = self.running.drain(..).map(stop);
        tokio::time::timeout(limit, futures_util::future::join_all(closing))
            .await
            .ok();
    }

    fn prepare(&self, component: &Accepted<'_>) -> Option<(Running, Box<dyn FnOnce() + Send>)> {
        let Accepted {
            resource,
            entry,
            lazy,
            fault,
        } = component;
        let info = Info {
            name: resource.name.clone(),
            type_name: entry.type_name.to_owned(),
            version: resource.version.clone(),
            kind: entry.kind,
            optional: resource.ignore_errors,
        };
        let scope = self.scope.child();
        let (kick, kicked) = watch::channel(0);
        let start = Start {
            lazy: *lazy,
            fault: fault.clone(),
            attempt: resource.init_timeout,
        };
        let supervise = Supervise {
            shared: self.shared.clone(),
            resource: (*resource).clone(),
            start,
            owner: self.scope.clone(),
            scope: scope.clone(),
            kicked,
        };
        let (handle, start) = match entry.check {
            Check::State(check) => supervise.with(info, check, AnyHandle::State),
            Check::PubSub(check) => supervise.with(info, check, AnyHandle::PubSub),
            Check::Secrets(check) => supervise.with(info, check, AnyHandle::Secrets),
            // They were refused before.
            Check::Names(_) => return None,
        };
        let running = Running {
            name: resource.name.to_string(),
            fingerprint: resource.fingerprint,
            scope,
            handle,
            optional: resource.ignore_errors,
            lazy: *lazy,
            required: resource.annotation("required") == Some("true"),
            kick,
        };
        Some((running, start))
    }
}

struct Supervise {
    shared: Arc<Shared>,
    resource: ComponentResource,
    start: Start,
    owner: Scope,
    scope: Scope,
    kicked: watch::Receiver<u64>,
}

impl Supervise {
    fn with<T>(
        self,
        info: Info,
        check: Checker<T>,
        any: fn(Arc<Handle<T>>) -> AnyHandle,
    ) -> (AnyHandle, Box<dyn FnOnce() + Send>)
    where
        T: outrigger_component_api::Component + ?Sized,
    {
        let recipe = FromResource {
            shared: self.shared.clone(),
            resource: self.resource,
            check,
        };
        let supervisor =
            Supervisor::new(self.shared, Arc::new(recipe), info, self.start, self.kicked);
        let handle = any(supervisor.handle());
        let (owner, stop) = (self.owner, self.scope.stop().clone());
        // It outlives the stop by the time that letting go takes.
        let start = move || {
            owner.spawn_future("component", supervisor.run(stop));
        };
        (handle, Box::new(start))
    }
}

fn put(table: &mut Table, handle: &AnyHandle) {
    let name = handle.info().name.to_string();
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

/// Lets one component go and waits for that, for a moment at most.
async fn stop(running: Running) {
    let mut status = running.handle.watch();
    running.scope.cancel();
    let closed = status.wait_for(|status| status.state == State::Closing);
    if tokio::time::timeout(CLOSE_LIMIT, closed).await.is_err() {
        warn!(target: SCOPE, component = running.name, "component did not close in time and is left behind");
    }
}

/// What becomes of a resource: a component, nothing, or a rejection.
fn accept<'a>(
    shared: &'a Shared,
    resource: &'a ComponentResource,
    configuration: &Configuration,
    stores: &HashSet<&str>,
    subscribed: &HashSet<&str>,
) -> Result<Option<Accepted<'a>>, Rejected> {
    let rejected = |reason: String| Rejected {
        name: resource.name.to_string(),
        type_name: resource.type_name.clone(),
        reason,
    };
    if configuration.denies(&resource.type_name, &resource.version) {
        warn!(target: SCOPE, component = %resource.name, component_type = resource.type_name, "component is of a denied type and is left out");
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
