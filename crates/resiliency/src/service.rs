//! The policies in force, and the breakers that outlive a change of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use outrigger_config::ResiliencyResource;
use outrigger_config::resiliency::{BreakerKey, BreakerScope};
use outrigger_core::secret::redact_urls;
use outrigger_lifecycle::{Clock, Moment};
use outrigger_telemetry::Metrics;
use tokio::sync::watch;

use crate::book::{ActorPlan, AppPlan, Book, MethodPlan};
use crate::breakers::Cells;
use crate::operation::{Key, Operation};
use crate::plan::{ComponentKind, Flow, Plan, RetryRule, Slot};
use crate::target::{Environment, Subject, Target};
use crate::view::RefusedResource;

/// Names that callers invent are remembered up to this many.
const REMEMBERED: usize = 10_000;

/// The policies of a sidecar.
pub struct Resiliency {
    environment: Arc<Environment>,
    own_namespace: String,
    shelf: ArcSwap<Shelf>,
    /// Breakers by what they protect.
    cells: Mutex<HashMap<Place, Arc<Cells>>>,
    /// What could not be taken over when resources were last read.
    refused: Mutex<Vec<RefusedResource>>,
}

/// Where breakers of one definition belong.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Place {
    App { name: String, which: Which },
    Actor(String),
    Component(String, ComponentKind, Flow),
}

/// What was asked for, by name.
type Known<T> = RwLock<HashMap<Box<str>, Arc<T>>>;

/// Which breakers of an app.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Which {
    Whole,
    /// Those of one of its methods.
    Method(usize),
    /// The one of all methods that name the same policy, and that share it.
    Shared(Arc<str>),
}

/// One state of the resources, with the targets that were asked for since.
struct Shelf {
    book: Book,
    service_retry: Option<Arc<Slot<RetryRule>>>,
    apps: Known<App>,
    actors: Known<Actor>,
    /// By kind and direction.
    components: [[Known<Target>; 2]; ComponentKind::ALL.len()],
    /// Of every app, as long as nothing is configured.
    plain: Option<Arc<App>>,
}

/// An app as a target of calls.
#[derive(Debug)]
pub struct App {
    whole: Arc<Target>,
    methods: Vec<(MethodPlan, Arc<Target>)>,
    /// The retry that is made where no entry names the app.
    pub built_in: Option<Arc<Slot<RetryRule>>>,
}

/// The policies of one call of an app.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    pub target: &'a Arc<Target>,
    /// In place of the path in the breaker's key.
    shared_key: Option<&'a str>,
}

/// An actor type as a target of calls.
#[derive(Debug)]
pub struct Actor {
    target: Arc<Target>,
    scope: BreakerScope,
}

impl App {
    /// What applies to a method, and to a verb where there is one.
    pub fn choose(&self, method: &str, verb: Option<&str>) -> Choice<'_> {
        let found = self
            .methods
            .iter()
            .find(|(plan, _)| plan.matches(method, verb));
        match found {
            None => Choice {
                target: &self.whole,
                shared_key: None,
            },
            Some((plan, target)) => Choice {
                target,
                shared_key: match plan.breaker_key {
                    BreakerKey::Path => None,
                    BreakerKey::Pattern => Some(&plan.pattern),
                    BreakerKey::App => Some("*"),
                },
            },
        }
    }
}

impl<'a> Choice<'a> {
    /// The operation's key, unless a pattern gives another.
    pub fn key(&self, key: Key<'a>) -> Key<'a> {
        match self.shared_key {
            None => key,
            Some(within) => Key { within, ..key },
        }
    }

    /// Whether no policy applies.
    pub fn is_empty(&self) -> bool {
        self.target.plan.is_empty()
    }
}

impl Actor {
    /// A call of an actor begins.
    pub fn begin<'k>(
        &self,
        actor_type: &'k str,
        key: &'k str,
        deadline: Option<Moment>,
    ) -> Operation<'k> {
        let of_type = Key {
            prefix: "",
            joint: "",
            within: actor_type,
        };
        let of_id = Key {
            prefix: "",
            joint: "",
            within: key,
        };
        match self.scope {
            BreakerScope::Type => Operation::begin(&self.target, of_type, deadline),
            BreakerScope::Id => Operation::begin(&self.target, of_id, deadline),
            BreakerScope::Both => Operation::begin_twice(&self.target, [of_type, of_id], deadline),
        }
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }
}

impl Shelf {
    fn new(book: Book, plain: Option<Arc<App>>) -> Self {
        Self {
            service_retry: book.service_retry().map(Arc::new),
            book,
            apps: RwLock::default(),
            actors: RwLock::default(),
            components: Default::default(),
            plain,
        }
    }
}

impl Resiliency {
    /// Without any resource.
    pub fn new(own_namespace: impl Into<String>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let environment = Arc::new(Environment {
            clock,
            metrics,
            dice: rand::random,
            changes: watch::channel(0).0,
        });
        let book = Book::new([]);
        let plain = plain(&book, &environment);
        Self {
            environment,
            own_namespace: own_namespace.into(),
            shelf: ArcSwap::from_pointee(Shelf::new(book, Some(plain))),
            cells: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Shows what could not be taken over.
    pub fn show_refused(&self, refused: Vec<RefusedResource>) {
        self.environment
            .metrics
            .policy_config_errors
            .set([], refused.len() as f64);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// A resource was taken over.
    pub fn count_loaded(&self, name: &str, namespace: &str) {
        self.environment
            .metrics
            .resiliency_loaded
            .add([name, namespace], 1);
    }

    pub fn refused(&self) -> Vec<RefusedResource> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The retry of service invocation that nobody configured, or what became of it.
    pub fn service_retry(&self) -> Option<Slot<RetryRule>> {
        self.shelf.load().book.service_retry()
    }

    /// Takes over the resources. Operations under way end under the policies with which they began; breakers whose
    /// definition has not changed stay as they are.
    pub fn apply<'a>(&self, resources: impl IntoIterator<Item = &'a ResiliencyResource>) {
        let book = Book::new(resources);
        let plain = book.is_empty().then(|| plain(&book, &self.environment));
        let before = self.targets();
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|place, cells| {
            let (plan, capacity) = self.plan_of(&book, place);
            plan.and_then(|plan| plan.breaker)
                .is_some_and(|slot| slot.rule.continues(&cells.rule))
                && capacity == cells.capacity()
        });
        let kept: Vec<Place> = cells.keys().cloned().collect();
        drop(cells);
        self.shelf.store(Arc::new(Shelf::new(book, plain)));
        // Entries are known before callers can invent names, and breakers that go on are seen at once.
        self.touch_named();
        for place in &kept {
            match place {
                Place::App { name, .. } => drop(self.app(name)),
                Place::Actor(name) => drop(self.actor(name)),
                Place::Component(name, kind, flow) => {
                    drop(self.component(name, *kind, *flow));
                }
            }
        }
        let after = self.targets();
        for old in before {
            let goes_on = |new: &&Arc<Target>| {
                new.label == old.label && new.flow == old.flow && new.cells.is_some()
            };
            if !after.iter().any(|new| goes_on(&new)) {
                old.hide();
            }
        }
        self.environment.changes.send_modify(|count| *count += 1);
    }

    /// Grows when policies change or breakers are closed by hand.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.environment.changes.subscribe()
    }

    fn plan_of(&self, book: &Book, place: &Place) -> (Option<Plan>, usize) {
        match place {
            Place::App { name, which } => {
                let AppPlan {
                    plan,
                    mut methods,
                    cache_size,
                    ..
                } = book.app(name, &self.own_namespace);
                let plan = match which {
                    Which::Whole => Some(plan),
                    Which::Method(index) if *index < methods.len() => {
                        Some(methods.swap_remove(*index).plan)
                    }
                    Which::Method(_) => None,
                    Which::Shared(policy) => {
                        methods.into_iter().map(|method| method.plan).find(|plan| {
                            plan.breaker
                                .as_ref()
                                .is_some_and(|slot| slot.name == *policy)
                        })
                    }
                };
                (plan, cache_size)
            }
            Place::Actor(name) => {
                let ActorPlan {
                    plan, cache_size, ..
                } = book.actor(name);
                (Some(plan), cache_size)
            }
            Place::Component(name, kind, flow) => (Some(book.component(name, *kind, *flow)), 1),
        }
    }

    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.shelf.load().plain.is_some()
    }

    /// The policies of calls to an app, an HTTPEndpoint or a URL.
    pub fn app(&self, written: &str) -> Arc<App> {
        let shelf = self.shelf.load();
        if let Some(plain) = &shelf.plain {
            return plain.clone();
        }
        remembered(&shelf.apps, written, |is_known| {
            let AppPlan {
                plan,
                methods,
                cache_size,
                entry,
            } = shelf.book.app(written, &self.own_namespace);
            let name = entry.as_deref().unwrap_or(written);
            let target = |plan: Plan, which| {
                let place = Place::App {
                    name: name.to_owned(),
                    which,
                };
                // Whoever invents names gets no series of its own for each.
                let label = if is_known {
                    redact_urls(&format!("app_{written}"))
                } else {
                    "app_other".to_owned()
                };
                Arc::new(self.target(
                    plan,
                    Subject::App(written.to_owned()),
                    Flow::Outbound,
                    label,
                    place,
                    cache_size,
                ))
            };
            App {
                built_in: shelf.service_retry.clone().filter(|_| entry.is_none()),
                methods: methods
                    .into_iter()
                    .enumerate()
                    .map(|(index, method)| {
                        let shared = method
                            .plan
                            .breaker
                            .as_ref()
                            .filter(|_| method.breaker_key == BreakerKey::App);
                        let which = shared.map_or(Which::Method(index), |slot| {
                            Which::Shared(slot.name.clone())
                        });
                        let target = target(method.plan.clone(), which);
                        (method, target)
                    })
                    .collect(),
                whole: target(plan, Which::Whole),
            }
        })
    }

    /// The policies of calls to actors of a type.
    pub fn actor(&self, actor_type: &str) -> Arc<Actor> {
        let shelf = self.shelf.load();
        remembered(&shelf.actors, actor_type, |_| {
            let ActorPlan {
                plan,
                scope,
                cache_size,
            } = shelf.book.actor(actor_type);
            let target = self.target(
                plan,
                Subject::Actor(actor_type.to_owned()),
                Flow::Outbound,
                format!("actor_{actor_type}"),
                Place::Actor(actor_type.to_owned()),
                cache_size,
            );
            Actor {
                target: Arc::new(target),
                scope,
            }
        })
    }

    /// The policies of a component; nothing where there are none.
    pub fn component(&self, name: &str, kind: ComponentKind, flow: Flow) -> Option<Arc<Target>> {
        let shelf = self.shelf.load();
        if shelf.plain.is_some() {
            return None;
        }
        let known = shelf
            .components
            .get(kind as usize)
            .and_then(|flows| flows.get(flow as usize))?;
        let target = remembered(known, name, |_| {
            self.target(
                shelf.book.component(name, kind, flow),
                Subject::Component(name.to_owned()),
                flow,
                format!("{}_{name}", kind.keyword()),
                Place::Component(name.to_owned(), kind, flow),
                1,
            )
        });
        (!target.plan.is_empty()).then_some(target)
    }

    /// The retry of reading the app's subscriptions.
    pub fn initialization_retry(&self) -> Option<RetryRule> {
        let slot = self.shelf.load().book.initialization_retry()?;
        Some(slot.rule)
    }

    /// Names of the resources in force.
    pub fn resources(&self) -> Vec<String> {
        self.shelf.load().book.resources.clone()
    }

    fn target(
        &self,
        plan: Plan,
        subject: Subject,
        flow: Flow,
        label: String,
        place: Place,
        capacity: usize,
    ) -> Target {
        let cells = plan.breaker.as_ref().map(|slot| {
            let mut all = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(cells) = all.get(&place)
                && cells.rule.continues(&slot.rule)
                && cells.capacity() == capacity
            {
                return cells.clone();
            }
            let cells = Arc::new(Cells::new(slot.rule.clone(), capacity));
            if all.len() < REMEMBERED {
                all.insert(place, cells.clone());
            }
            cells
        });
        Target::new(plan, subject, flow, label, cells, self.environment.clone())
    }

    /// Every target that was asked for since the resources were taken over.
    pub(crate) fn targets(&self) -> Vec<Arc<Target>> {
        let shelf = self.shelf.load();
        let mut targets: Vec<Arc<Target>> = Vec::new();
        for app in read(&shelf.apps).values() {
            targets.push(app.whole.clone());
            targets.extend(app.methods.iter().map(|(_, target)| target.clone()));
        }
        targets.extend(
            read(&shelf.actors)
                .values()
                .map(|actor| actor.target.clone()),
        );
        for known in shelf.components.iter().flatten() {
            targets.extend(read(known).values().cloned());
        }
        targets.retain(|target| !target.plan.is_empty());
        targets.sort_by(|a, b| a.label.cmp(&b.label));
        targets
    }

    /// Somebody reads the metrics.
    pub fn refresh(&self) {
        if !self.is_empty() {
            for target in self.targets() {
                target.refresh();
            }
        }
    }

    /// Makes the targets known that entries name, so that they are seen before they are used.
    pub(crate) fn touch_named(&self) {
        let shelf = self.shelf.load_full();
        for name in shelf.book.app_targets() {
            self.app(name);
        }
        for name in shelf.book.actor_targets() {
            self.actor(name);
        }
    }

    /// Closes breakers: of the target with a label, or of all; of a name, or all. How many.
    pub fn reset(&self, label: Option<&str>, breaker: Option<&str>) -> usize {
        let now = self.environment.clock.now();
        let targets = self.targets();
        let chosen = targets
            .iter()
            .filter(|target| label.is_none_or(|label| target.label == label));
        let count = chosen
            .filter_map(|target| {
                let cells = target.cells.as_ref()?;
                let count = cells.reset(breaker, now, |name, step| target.moved(name, step, None));
                target.show_state();
                Some(count)
            })
            .sum();
        self.environment.changes.send_modify(|count| *count += 1);
        count
    }

    pub(crate) fn now(&self) -> Moment {
        self.environment.clock.now()
    }
}

impl fmt::Debug for Resiliency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resiliency")
            .field(&self.resources())
            .finish()
    }
}

fn plain(book: &Book, environment: &Arc<Environment>) -> Arc<App> {
    let target = Target::new(
        Plan::default(),
        Subject::App(String::new()),
        Flow::Outbound,
        String::new(),
        None,
        environment.clone(),
    );
    Arc::new(App {
        whole: Arc::new(target),
        methods: Vec::new(),
        built_in: book.service_retry().map(Arc::new),
    })
}

fn read<K, V>(lock: &RwLock<HashMap<K, V>>) -> std::sync::RwLockReadGuard<'_, HashMap<K, V>> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// What is known under a name, made if it is not; `make` is told whether it will be remembered.
fn remembered<T>(known: &Known<T>, name: &str, make: impl FnOnce(bool) -> T) -> Arc<T> {
    if let Some(found) = read(known).get(name) {
        return found.clone();
    }
    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(name) {
        return found.clone();
    }
    let fits = known.len() < REMEMBERED;
    let made = Arc::new(make(fits));
    if fits {
        known.insert(name.into(), made.clone());
    }
    made
}
