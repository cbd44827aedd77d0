//! All Resiliency resources as one: names of policies, names of targets, and the defaults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::ResiliencyResource;
use outrigger_config::resiliency::{
    ActorTarget, AppTarget, BreakerKey, BreakerScope, BuiltIns, CircuitBreakerPolicy, CodeMatch,
    ComponentTarget, ErrorStyle, PolicyNames, RetryBackOff, RetryBudget, RetryPolicy, TotalTimeout,
};
use outrigger_policy::breaker::Limits;
use outrigger_policy::trip::Trip;
use outrigger_policy::{Allowance, Codes, Jitter, Pauses, Retry};

use crate::plan::{BreakerRule, ComponentKind, Entry, Flow, Origin, Plan, RetryRule, Slot, Source};

/// The retry of service invocation that nobody configured.
pub const SERVICE_RETRIES: &str = "DaprBuiltInServiceRetries";
const ACTOR_RETRIES: &str = "DaprBuiltInActorRetries";
const ACTOR_NOT_FOUND_RETRIES: &str = "DaprBuiltInActorNotFoundRetries";
const ACTOR_REMINDER_RETRIES: &str = "DaprBuiltInActorReminderRetries";
/// The retry of reading the app's subscriptions that nobody configured.
const INITIALIZATION_RETRIES: &str = "DaprBuiltInInitializationRetries";

/// Breakers remembered per app that no entry names.
const DEFAULT_APP_CACHE: usize = 100;
/// Breakers remembered per actor type that no entry names.
const DEFAULT_ACTOR_CACHE: usize = 5_000;

/// A target whose policies are looked up by kind where no entry names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Default {
    App,
    Actor,
    Component(ComponentKind, Flow),
}

impl Default {
    /// The names under which a kind of policy is looked up, in order.
    pub fn names(self, kind: &str) -> Vec<String> {
        let mut names = match self {
            Self::App => vec![format!("DefaultApp{kind}Policy")],
            Self::Actor => vec![format!("DefaultActor{kind}Policy")],
            Self::Component(component, flow) => {
                let (component, flow) = (component.keyword(), flow.keyword());
                vec![
                    format!("Default{component}Component{flow}{kind}Policy"),
                    format!("DefaultComponent{flow}{kind}Policy"),
                    format!("DefaultComponent{kind}Policy"),
                ]
            }
        };
        names.push(format!("Default{kind}Policy"));
        names
    }
}

struct Named<T> {
    source: Arc<Source>,
    rule: T,
}

type Names<T> = BTreeMap<String, Named<T>>;

/// The merged resources.
pub struct Book {
    timeouts: Names<Option<Duration>>,
    retries: Names<RetryRule>,
    breakers: Names<Arc<BreakerRule>>,
    apps: Names<AppTarget>,
    actors: Names<ActorTarget>,
    components: Names<ComponentTarget>,
    errors: Option<ErrorStyle>,
    built_in: BuiltIns,
    /// Names of the resources, in order.
    pub resources: Vec<String>,
}

/// The plans of an app: of its methods, in order, and of everything else.
#[derive(Clone, Debug)]
pub struct AppPlan {
    pub plan: Plan,
    pub methods: Vec<MethodPlan>,
    pub cache_size: usize,
    /// The name of the entry that was found.
    pub entry: Option<String>,
}

#[derive(Clone, Debug)]
pub struct MethodPlan {
    pub pattern: String,
    pub verbs: Vec<String>,
    pub breaker_key: BreakerKey,
    pub plan: Plan,
}

impl MethodPlan {
    /// Whether a call is meant. `method` has no leading slash; an unknown verb matches none.
    pub fn matches(&self, method: &str, verb: Option<&str>) -> bool {
        let verb_fits = self.verbs.is_empty()
            || verb.is_some_and(|verb| self.verbs.iter().any(|one| one.eq_ignore_ascii_case(verb)));
        verb_fits && path_matches(&self.pattern, method)
    }
}

/// `*` stands for one segment; as the last one for all that follow.
fn path_matches(pattern: &str, path: &str) -> bool {
    let mut path = path.trim_matches('/').split('/');
    let mut pattern = pattern.trim_matches('/').split('/').peekable();
    while let Some(expected) = pattern.next() {
        let Some(found) = path.next() else {
            return false;
        };
        if expected == "*" && pattern.peek().is_none() {
            return true;
        }
        if expected != "*" && expected != found {
            return false;
        }
    }
    path.next().is_none()
}

/// The plan of an actor type.
#[derive(Clone, Debug)]
pub struct ActorPlan {
    pub plan: Plan,
    pub scope: BreakerScope,
    pub cache_size: usize,
}

impl Book {
    /// Later resources win over earlier ones.
    pub fn new<'a>(resources: impl IntoIterator<Item = &'a ResiliencyResource>) -> Self {
        let mut book = Self {
            timeouts: BTreeMap::new(),
            retries: BTreeMap::new(),
            breakers: BTreeMap::new(),
            apps: BTreeMap::new(),
            actors: BTreeMap::new(),
            components: BTreeMap::new(),
            errors: None,
            built_in: BuiltIns::default(),
            resources: Vec::new(),
        };
        for (name, rule) in built_in() {
            let source = Arc::new(Source::default());
            book.retries.insert(name.to_owned(), Named { source, rule });
        }
        for resource in resources {
            book.add(resource);
        }
        book
    }

    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    fn add(&mut self, resource: &ResiliencyResource) {
        let namespace = resource
            .namespace
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let source = |place: &outrigger_config::diagnostic::Place| {
            Arc::new(Source {
                resource: resource.name.clone(),
                namespace: namespace.clone(),
                place: Some(place.clone()),
            })
        };
        let policies = &resource.policies;
        for (name, policy) in &policies.timeouts {
            let source = source(&policy.place);
            let rule = policy.limit;
            self.timeouts.insert(name.clone(), Named { source, rule });
        }
        for (name, policy) in &policies.retries {
            let source = source(&policy.place);
            let rule = retry_rule(policy);
            self.retries.insert(name.clone(), Named { source, rule });
        }
        for (name, policy) in &policies.circuit_breakers {
            let source = source(&policy.place);
            let rule = Arc::new(breaker_rule(policy));
            self.breakers.insert(name.clone(), Named { source, rule });
        }
        for (name, target) in &resource.targets.apps {
            let (source, rule) = (source(&target.place), target.clone());
            self.apps.insert(name.clone(), Named { source, rule });
        }
        for (name, target) in &resource.targets.actors {
            let (source, rule) = (source(&target.place), target.clone());
            self.actors.insert(name.clone(), Named { source, rule });
        }
        for (name, target) in &resource.targets.components {
            let (source, rule) = (source(&target.place), target.clone());
            self.components.insert(name.clone(), Named { source, rule });
        }
        self.errors = resource.errors.or(self.errors);
        let (own, earlier) = (resource.built_in, self.built_in);
        self.built_in = BuiltIns {
            service: own.service.or(earlier.service),
            initialization: own.initialization.or(earlier.initialization),
            actor: own.actor.or(earlier.actor),
            actor_not_found: own.actor_not_found.or(earlier.actor_not_found),
        };
        self.resources.push(resource.name.clone());
    }

    /// What applies to calls of an app, an HTTPEndpoint or a URL, as the caller wrote it.
    pub fn app(&self, written: &str, own_namespace: &str) -> AppPlan {
        let Some((key, named)) = self.app_entry(written, own_namespace) else {
            return AppPlan {
                plan: self.defaults(Default::App),
                methods: Vec::new(),
                cache_size: DEFAULT_APP_CACHE,
                entry: None,
            };
        };
        let entry = &named.rule;
        let origin = Origin::Target(format!("app {key}"));
        let method = |method: &outrigger_config::resiliency::MethodTarget| {
            let mut names = method.policies.clone();
            let whole = &entry.policies;
            names.timeout = names.timeout.or_else(|| whole.timeout.clone());
            names.retry = names.retry.or_else(|| whole.retry.clone());
            names.circuit_breaker = names
                .circuit_breaker
                .or_else(|| whole.circuit_breaker.clone());
            names.total_timeout = names.total_timeout.or_else(|| whole.total_timeout.clone());
            names.budget = names.budget.or(whole.budget);
            names.errors = names.errors.or(whole.errors);
            MethodPlan {
                pattern: method.pattern.clone(),
                verbs: method.verbs.clone(),
                breaker_key: method.breaker_key,
                plan: self.plan(
                    &names,
                    &Origin::Target(format!("app {key}, method {}", method.pattern)),
                    &Arc::new(Source {
                        place: Some(method.place.clone()),
                        ..(*named.source).clone()
                    }),
                ),
            }
        };
        AppPlan {
            plan: self.plan(&entry.policies, &origin, &named.source),
            methods: entry.methods.iter().map(method).collect(),
            cache_size: entry.cache_size,
            entry: Some(key.to_owned()),
        }
    }

    /// As written, with the namespace that it lacks, without the namespace that is our own.
    fn app_entry(&self, written: &str, own_namespace: &str) -> Option<(&str, &Named<AppTarget>)> {
        let find = |key: &str| {
            self.apps
                .get_key_value(key)
                .map(|(key, named)| (key.as_str(), named))
        };
        find(written).or_else(|| {
            if written.contains("://") {
                return None;
            }
            match written.rsplit_once('.') {
                Some((id, namespace)) if namespace == own_namespace => find(id),
                Some(_) => None,
                None => find(&format!("{written}.{own_namespace}")),
            }
        })
    }

    /// What applies to an actor type.
    pub fn actor(&self, actor_type: &str) -> ActorPlan {
        match self.actors.get(actor_type) {
            Some(named) => ActorPlan {
                plan: self.plan(
                    &named.rule.policies,
                    &Origin::Target(format!("actor {actor_type}")),
                    &named.source,
                ),
                scope: named.rule.scope.unwrap_or(BreakerScope::Type),
                cache_size: named.rule.cache_size,
            },
            None => ActorPlan {
                plan: self.defaults(Default::Actor),
                scope: BreakerScope::Type,
                cache_size: DEFAULT_ACTOR_CACHE,
            },
        }
    }

    /// What applies to calls of a component, or to what comes from it.
    pub fn component(&self, name: &str, kind: ComponentKind, flow: Flow) -> Plan {
        let Some(named) = self.components.get(name) else {
            return self.defaults(Default::Component(kind, flow));
        };
        let names = match flow {
            Flow::Inbound => &named.rule.inbound,
            Flow::Outbound => &named.rule.outbound,
        };
        let origin = Origin::Target(format!("component {name}, {}", flow.name()));
        let mut plan = self.plan(names, &origin, &named.source);
        if flow == Flow::Inbound {
            plan.on_open = named.rule.on_open.or(plan.on_open);
        }
        plan
    }

    /// The retry that service invocation makes by itself; absent when it is switched off.
    pub fn service_retry(&self) -> Option<Slot<RetryRule>> {
        self.built_in_retry(SERVICE_RETRIES, self.built_in.service)
    }

    /// The retry of reading the app's subscriptions.
    pub fn initialization_retry(&self) -> Option<Slot<RetryRule>> {
        self.built_in_retry(INITIALIZATION_RETRIES, self.built_in.initialization)
    }

    /// The retry of actor routing.
    pub fn actor_not_found_retry(&self) -> Option<Slot<RetryRule>> {
        self.built_in_retry(ACTOR_NOT_FOUND_RETRIES, self.built_in.actor_not_found)
    }

    fn built_in_retry(&self, name: &str, limit: Option<u32>) -> Option<Slot<RetryRule>> {
        if limit == Some(0) {
            return None;
        }
        let named = self.retries.get(name)?;
        let mut rule = named.rule.clone();
        if limit.is_some() {
            rule.retry.max_retries = limit;
        }
        Some(Slot {
            name: name.into(),
            origin: Origin::BuiltIn,
            source: named.source.clone(),
            rule,
        })
    }

    /// A time-out by its name, and where it is defined; one that is not positive is none.
    pub fn timeout(&self, name: &str) -> Option<(Option<Duration>, &Source)> {
        let named = self.timeouts.get(name)?;
        Some((named.rule, &*named.source))
    }

    /// Names of app targets, in order.
    pub fn app_targets(&self) -> impl Iterator<Item = &str> {
        self.apps.keys().map(String::as_str)
    }

    pub fn actor_targets(&self) -> impl Iterator<Item = &str> {
        self.actors.keys().map(String::as_str)
    }

    pub fn component_targets(&self) -> impl Iterator<Item = &str> {
        self.components.keys().map(String::as_str)
    }

    /// What applies where no entry names a target: each kind of policy is looked up by itself.
    pub fn defaults(&self, default: Default) -> Plan {
        if self.is_empty() {
            return Plan::default();
        }
        let timeout = first(&self.timeouts, &default.names("Timeout"))
            .and_then(|(name, named)| slot(name, Origin::Default, named, named.rule?));
        let retry = first(&self.retries, &default.names("Retry"))
            .and_then(|(name, named)| slot(name, Origin::Default, named, named.rule.clone()));
        let breaker = first(&self.breakers, &default.names("CircuitBreaker"))
            .and_then(|(name, named)| slot(name, Origin::Default, named, named.rule.clone()));
        self.assemble(timeout, retry, breaker)
    }

    fn plan(&self, names: &PolicyNames, origin: &Origin, source: &Arc<Source>) -> Plan {
        let timeout = names.timeout.as_deref().and_then(|name| {
            let named = self.timeouts.get(name)?;
            slot(name, origin.clone(), named, named.rule?)
        });
        let retry = names.retry.as_deref().and_then(|name| {
            let named = self.retries.get(name)?;
            slot(name, origin.clone(), named, named.rule.clone())
        });
        let breaker = names.circuit_breaker.as_deref().and_then(|name| {
            let named = self.breakers.get(name)?;
            slot(name, origin.clone(), named, named.rule.clone())
        });
        let mut plan = self.assemble(timeout, retry, breaker);
        plan.is_named = true;
        plan.entry = Some(Arc::new(Entry {
            source: source.clone(),
            names: names.clone(),
        }));
        plan.style(names.errors);
        plan.budget = names.budget.map(allowance).or(plan.budget);
        let total = match &names.total_timeout {
            Some(TotalTimeout::Limit(limit)) => Some(*limit),
            Some(TotalTimeout::Named(name)) => self.timeouts.get(name).and_then(|named| named.rule),
            None => None,
        };
        plan.total = total.or(plan.total);
        plan
    }

    fn assemble(
        &self,
        timeout: Option<Slot<Duration>>,
        retry: Option<Slot<RetryRule>>,
        breaker: Option<Slot<Arc<BreakerRule>>>,
    ) -> Plan {
        let mut plan = Plan {
            total: retry.as_ref().and_then(|slot| slot.rule.total),
            budget: retry.as_ref().and_then(|slot| slot.rule.budget),
            on_open: breaker.as_ref().and_then(|slot| slot.rule.on_open),
            timeout,
            retry,
            breaker,
            ..Plan::default()
        };
        plan.style(self.errors);
        plan
    }
}

fn first<'a, T>(names: &'a Names<T>, wanted: &[String]) -> Option<(&'a str, &'a Named<T>)> {
    wanted
        .iter()
        .find_map(|name| names.get_key_value(name))
        .map(|(name, named)| (name.as_str(), named))
}

fn slot<T, R>(name: &str, origin: Origin, named: &Named<T>, rule: R) -> Option<Slot<R>> {
    Some(Slot {
        name: name.into(),
        origin,
        source: named.source.clone(),
        rule,
    })
}

/// Dapr: pkg/resiliency/resiliency.go, addBuiltInPolicies.
fn built_in() -> [(&'static str, RetryRule); 5] {
    let constant = |retries| plain(Retry::constant(Duration::from_secs(1), retries));
    let exponential = |max, max_elapsed, retries| {
        plain(Retry {
            pauses: Pauses::Exponential {
                initial: Duration::from_millis(500),
                max,
                multiplier: 1.5,
                randomization: 0.5,
            },
            max_retries: Some(retries),
            max_elapsed: Some(max_elapsed),
            ..Retry::BUILT_IN_INVOCATION
        })
    };
    let minute = Duration::from_secs(60);
    [
        (SERVICE_RETRIES, constant(3)),
        (ACTOR_RETRIES, constant(3)),
        (ACTOR_NOT_FOUND_RETRIES, constant(5)),
        (ACTOR_REMINDER_RETRIES, exponential(minute, 15 * minute, 0)),
        (
            INITIALIZATION_RETRIES,
            exponential(Duration::from_secs(1), Duration::from_secs(10), 3),
        ),
    ]
}

fn plain(retry: Retry) -> RetryRule {
    RetryRule {
        retry,
        total: None,
        budget: None,
        marks: false,
    }
}

fn codes(codes: &CodeMatch) -> Codes {
    match codes {
        CodeMatch::Every => Codes::Every,
        CodeMatch::Only(ranges) => Codes::Only(ranges.clone()),
    }
}

fn allowance(budget: RetryBudget) -> Allowance {
    Allowance {
        ratio: budget.ratio,
        min_per_second: budget.min_per_second,
    }
}

fn retry_rule(policy: &RetryPolicy) -> RetryRule {
    let pauses = match policy.back_off {
        RetryBackOff::Constant { pause, jitter } => Pauses::Constant {
            pause,
            jitter: match jitter {
                outrigger_config::resiliency::Jitter::Share(share) => Jitter::Share(share),
                outrigger_config::resiliency::Jitter::UpTo(most) => Jitter::UpTo(most),
            },
        },
        RetryBackOff::Exponential {
            initial,
            max_interval,
            multiplier,
            randomization,
        } => Pauses::Exponential {
            initial,
            max: max_interval,
            multiplier,
            randomization,
        },
    };
    RetryRule {
        retry: Retry {
            pauses,
            max_retries: policy.max_retries,
            max_elapsed: policy.max_elapsed,
            http: codes(&policy.http_codes),
            grpc: codes(&policy.grpc_codes),
            max_pushback: policy.max_pushback,
        },
        total: policy.total_timeout,
        budget: policy.budget.map(allowance),
        marks: policy.attempt_marker,
    }
}

fn breaker_rule(policy: &CircuitBreakerPolicy) -> BreakerRule {
    // A resource whose expression does not compile was refused when it was read.
    let trip = policy
        .trip
        .as_deref()
        .and_then(|text| Trip::compile(text).ok())
        .unwrap_or_default();
    BreakerRule {
        limits: Limits {
            max_requests: policy.max_requests,
            interval: policy.interval,
            timeout: policy.timeout,
        },
        trip,
        http: codes(&policy.http_codes),
        grpc: codes(&policy.grpc_codes),
        ignores_client_errors: policy.ignores_client_errors,
        counts_stream_errors: policy.counts_stream_errors,
        on_open: policy.on_open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_by_segments() {
        for (pattern, path, expected) in [
            ("/orders/*", "orders/1", true),
            ("/orders/*", "orders/1/items", true),
            ("/orders/*", "orders", false),
            ("orders/*/items", "orders/7/items", true),
            ("orders/*/items", "orders/7/other", false),
            ("/orders", "orders", true),
            ("/orders", "orders/1", false),
            ("*", "anything/at/all", true),
        ] {
            assert_eq!(path_matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn defaults_are_looked_up_from_the_narrow_to_the_wide() {
        let of = Default::Component(ComponentKind::Pubsub, Flow::Inbound);
        assert_eq!(
            of.names("Retry"),
            [
                "DefaultPubsubComponentInboundRetryPolicy",
                "DefaultComponentInboundRetryPolicy",
                "DefaultComponentRetryPolicy",
                "DefaultRetryPolicy"
            ]
        );
    }
}
