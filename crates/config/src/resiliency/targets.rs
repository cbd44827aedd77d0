//! `spec.targets`.

use super::read::{each, map};
use super::{ActorTarget, AppTarget, BreakerScope, ComponentTarget, PolicyNames, Targets};
use crate::diagnostic::Diagnostic;
use crate::read::{Field, Object};

/// Breakers remembered per app.
const DEFAULT_APP_CACHE: usize = 100;
/// Breakers remembered per actor type.
const DEFAULT_ACTOR_CACHE: usize = 5_000;

pub(super) fn read_targets(object: &Object<'_>) -> Targets {
    let targets = Targets {
        apps: each(object, "apps", |_, field| read_app(field)),
        actors: each(object, "actors", |_, field| read_actor(field)),
        components: each(object, "components", |_, field| read_component(field)),
    };
    object.finish();
    targets
}

fn policy_names(object: &Object<'_>) -> PolicyNames {
    PolicyNames {
        timeout: object.word("timeout"),
        retry: object.word("retry"),
        circuit_breaker: object.word("circuitBreaker"),
    }
}

/// 0 and absent mean the default.
fn cache_size(object: &Object<'_>, default: usize) -> usize {
    let size = object
        .field("circuitBreakerCacheSize")
        .and_then(|field| field.count())
        .filter(|size| *size > 0);
    size.and_then(|size| usize::try_from(size).ok())
        .unwrap_or(default)
}

fn read_app(field: &Field<'_>) -> Option<AppTarget> {
    let mut target = AppTarget {
        policies: PolicyNames::default(),
        cache_size: DEFAULT_APP_CACHE,
        place: field.place(),
    };
    if let Some(object) = map(field) {
        target.policies = policy_names(&object);
        target.cache_size = cache_size(&object, DEFAULT_APP_CACHE);
        object.finish();
    }
    Some(target)
}

fn read_actor(field: &Field<'_>) -> Option<ActorTarget> {
    let mut target = ActorTarget {
        policies: PolicyNames::default(),
        scope: None,
        cache_size: DEFAULT_ACTOR_CACHE,
        place: field.place(),
    };
    if let Some(object) = map(field) {
        target.policies = policy_names(&object);
        target.cache_size = cache_size(&object, DEFAULT_ACTOR_CACHE);
        object.knows(&["circuitBreakerScope"]);
        if target.policies.circuit_breaker.is_some() {
            let words = [
                ("type", BreakerScope::Type),
                ("id", BreakerScope::Id),
                ("both", BreakerScope::Both),
            ];
            target.scope = match object
                .field("circuitBreakerScope")
                .filter(|field| field.node.as_scalar().is_none_or(|s| !s.text.is_empty()))
            {
                Some(scope) => scope.choice(false, &words),
                None => {
                    let told = Diagnostic::error(
                        "CFG-REQUIRED",
                        field.place(),
                        "a circuit breaker of an actor type needs a `circuitBreakerScope`",
                    );
                    field
                        .reader()
                        .tell(told.expected("`type` or `id` or `both`"));
                    None
                }
            };
        }
        object.finish();
    }
    Some(target)
}

fn read_component(field: &Field<'_>) -> Option<ComponentTarget> {
    let mut target = ComponentTarget {
        inbound: PolicyNames::default(),
        outbound: PolicyNames::default(),
        place: field.place(),
    };
    if let Some(object) = map(field) {
        let direction = |name: &'static str| {
            let Some(names) = object.object(name) else {
                return PolicyNames::default();
            };
            let policies = policy_names(&names);
            names.finish();
            policies
        };
        target.inbound = direction("inbound");
        target.outbound = direction("outbound");
        object.finish_with(|name| match name {
            "timeout" | "retry" | "circuitBreaker" => {
                Some("it belongs below `inbound` or `outbound`")
            }
            _ => None,
        });
    }
    Some(target)
}
