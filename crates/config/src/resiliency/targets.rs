//! `spec.targets`.

use std::collections::HashMap;

use outrigger_core::duration::parse_go;
use outrigger_core::nearest::nearest;

use super::read::{each, map};
use super::{
    ActorTarget, AppTarget, BreakerKey, BreakerScope, ComponentTarget, MethodTarget, PolicyNames,
    Targets, TotalTimeout, durations, extensions,
};
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
        total_timeout: total_timeout(object),
        budget: extensions::budget(object),
        errors: extensions::errors(object),
    }
}

/// A duration if it reads as one, the name of a policy otherwise.
fn total_timeout(object: &Object<'_>) -> Option<TotalTimeout> {
    let text = object.word("totalTimeout")?;
    if text.parse::<i64>().is_err() && parse_go(&text).is_none() {
        return Some(TotalTimeout::Named(text));
    }
    let limit = durations::optional(object, "totalTimeout", "without limit")?;
    limit.positive().map(TotalTimeout::Limit)
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
        methods: Vec::new(),
        place: field.place(),
    };
    if let Some(object) = map(field) {
        target.policies = policy_names(&object);
        target.cache_size = cache_size(&object, DEFAULT_APP_CACHE);
        target.methods = read_methods(&object);
        object.finish();
    }
    Some(target)
}

fn read_methods(app: &Object<'_>) -> Vec<MethodTarget> {
    let fields = app.list("methods").unwrap_or_default();
    let methods: Vec<MethodTarget> = fields.iter().filter_map(read_method).collect();
    let mut seen: HashMap<&str, Vec<&MethodTarget>> = HashMap::new();
    for method in &methods {
        let earlier = seen.entry(method.pattern.trim_matches('/')).or_default();
        match earlier.iter().find(|earlier| covers(earlier, method)) {
            None => earlier.push(method),
            Some(first) => {
                let message = format!(
                    "`{}` has no effect, an earlier one matches first",
                    method.pattern
                );
                let told = Diagnostic::warning("CFG-NO-EFFECT", method.place.clone(), message);
                app.reader()
                    .tell(told.help(format!("the first one is in line {}", first.place.line)));
            }
        }
    }
    methods
}

/// Whether one of two methods with one pattern leaves nothing to the other.
fn covers(earlier: &MethodTarget, method: &MethodTarget) -> bool {
    let takes = |verb| earlier.verbs.contains(verb);
    earlier.verbs.is_empty() || !method.verbs.is_empty() && method.verbs.iter().all(takes)
}

fn read_method(field: &Field<'_>) -> Option<MethodTarget> {
    let object = field.object()?;
    let pattern = object.required("match");
    let is_whole = |segment: &str| segment == "*" || !segment.contains('*');
    if !pattern.split('/').all(is_whole)
        && let Some(field) = object.field("match")
    {
        field.unusable(
            "CFG-PATTERN",
            format!("`{pattern}` has a `*` beside other characters"),
            "a `*` in place of a whole segment, as in `/orders/*/items`",
        );
    }
    let words = [
        ("path", BreakerKey::Path),
        ("pattern", BreakerKey::Pattern),
        ("app", BreakerKey::App),
    ];
    let method = MethodTarget {
        pattern,
        verbs: read_verbs(&object),
        policies: policy_names(&object),
        breaker_key: object
            .field("breakerKey")
            .and_then(|key| key.choice(false, &words))
            .unwrap_or_default(),
        place: field.place(),
    };
    object.finish();
    Some(method)
}

fn read_verbs(object: &Object<'_>) -> Vec<String> {
    const USUAL: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
    ];
    let mut verbs = Vec::new();
    for field in object.list("verbs").unwrap_or_default() {
        let Some(verb) = field.text().map(|text| text.to_ascii_uppercase()) else {
            if field.node.is_null() {
                field.unusable("CFG-WORD", "a verb is missing", "a verb such as `GET`");
            }
            continue;
        };
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if verb.is_empty() || !verb.chars().all(is_token) {
            field.unusable("CFG-WORD", "this is no verb", "a verb such as `GET`");
        } else if !USUAL.contains(&verb.as_str()) {
            let message = format!("`{verb}` is not a usual verb");
            let told = Diagnostic::warning("CFG-WORD", field.place(), message);
            field.reader().tell(told.nearest(nearest(&verb, USUAL)));
        }
        verbs.push(verb);
    }
    verbs
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
        on_open: None,
        place: field.place(),
    };
    if let Some(object) = map(field) {
        if let Some(inbound) = object.object("inbound") {
            target.inbound = policy_names(&inbound);
            target.on_open = extensions::on_open(&inbound);
            inbound.finish();
        }
        if let Some(outbound) = object.object("outbound") {
            target.outbound = policy_names(&outbound);
            outbound.finish_with(|name| match name {
                "onOpen" => Some("only messages that come in can wait: it belongs below `inbound`"),
                _ => None,
            });
        }
        object.finish_with(|name| match name {
            "timeout" | "retry" | "circuitBreaker" | "totalTimeout" | "budget" | "errors"
            | "onOpen" => Some("it belongs below `inbound` or `outbound`"),
            _ => None,
        });
    }
    Some(target)
}
