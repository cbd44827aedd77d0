//! From a document to policies and targets.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_core::duration::GoDuration;

use super::codes::{self, GRPC, HTTP};
use super::targets::read_targets;
use super::trip::warn_of_unknown_counters;
use super::{
    CircuitBreakerPolicy, CodeMatch, Policies, ResiliencyResource, RetryBackOff, RetryPolicy,
    TimeoutPolicy,
};
use crate::diagnostic::Diagnostic;
use crate::expression;
use crate::load::Compile;
use crate::read::{Field, Object};
use crate::resource::{Header, fingerprint};
use crate::yaml::Node;

/// Pause of a constant back-off.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);
/// Longest base pause of an exponential back-off.
const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(60);
/// How long a breaker stays open.
const DEFAULT_OPEN: Duration = Duration::from_secs(60);

/// Retries that exist without being configured; redefining one has a floor of three.
const BUILT_IN: [&str; 4] = [
    "DaprBuiltInServiceRetries",
    "DaprBuiltInActorRetries",
    "DaprBuiltInActorReminderRetries",
    "DaprBuiltInInitializationRetries",
];
/// The one that cannot be redefined.
const PROTECTED: &str = "DaprBuiltInActorNotFoundRetries";

impl ResiliencyResource {
    /// Reads a document whose kind and header are known.
    pub(crate) fn read(
        document: &Object<'_>,
        root: &Node,
        header: Header,
        compile: Compile<'_>,
    ) -> Self {
        let spec = document.object("spec");
        let spec = spec.as_ref();
        let policies = spec
            .and_then(|spec| spec.object("policies"))
            .map(|policies| read_policies(&policies, compile))
            .unwrap_or_default();
        let targets = spec
            .and_then(|spec| spec.object("targets"))
            .map(|targets| read_targets(&targets))
            .unwrap_or_default();
        if let Some(spec) = spec {
            spec.finish();
        }
        document.finish_with(|name| match name {
            "policies" | "targets" => Some("it belongs below `spec`"),
            _ => None,
        });
        Self {
            name: header.name,
            namespace: header.namespace,
            policies,
            targets,
            scopes: header.scopes,
            place: header.name_place,
            fingerprint: fingerprint(root),
        }
    }
}

/// Reads each member of a map by its name.
pub(super) fn each<T>(
    object: &Object<'_>,
    name: &'static str,
    read: impl Fn(&str, &Field<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    let Some(members) = object.object(name) else {
        return BTreeMap::new();
    };
    members
        .members()
        .filter_map(|(name, field)| Some((name.to_owned(), read(name, &field)?)))
        .collect()
}

/// A member that is a map; null reads as an empty one.
pub(super) fn map<'a>(field: &Field<'a>) -> Option<Object<'a>> {
    if field.node.is_null() {
        None
    } else {
        field.object()
    }
}

fn read_policies(object: &Object<'_>, compile: Compile<'_>) -> Policies {
    let policies = Policies {
        timeouts: each(object, "timeouts", |name, field| {
            if field.node.is_null() {
                field.unusable(
                    "CFG-DURATION",
                    format!("`{name}` has no duration"),
                    "a number with a unit such as `5s`",
                );
            }
            let limit = field.duration_or_milliseconds()?.positive();
            Some(TimeoutPolicy {
                limit,
                place: field.place(),
            })
        }),
        retries: each(object, "retries", read_retry),
        circuit_breakers: each(object, "circuitBreakers", |_, field| {
            read_breaker(field, compile)
        }),
    };
    object.finish();
    policies
}

/// A duration field; empty and absent mean the default.
fn duration(object: &Object<'_>, name: &'static str) -> Option<GoDuration> {
    let field = object.field(name)?;
    if field
        .node
        .as_scalar()
        .is_some_and(|scalar| scalar.text.is_empty())
    {
        return None;
    }
    field.duration_or_milliseconds()
}

fn read_retry(name: &str, field: &Field<'_>) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy {
        back_off: RetryBackOff::Constant {
            pause: DEFAULT_PAUSE,
        },
        max_retries: None,
        http_codes: CodeMatch::Every,
        grpc_codes: CodeMatch::Every,
        place: field.place(),
    };
    if let Some(object) = map(field) {
        let pause = duration(&object, "duration").map_or(DEFAULT_PAUSE, GoDuration::clamped);
        let max_interval =
            duration(&object, "maxInterval").map_or(DEFAULT_MAX_INTERVAL, GoDuration::clamped);
        let constant = RetryBackOff::Constant { pause };
        let words = [
            ("constant", constant),
            ("exponential", RetryBackOff::Exponential { max_interval }),
        ];
        let word = object.field("policy").filter(|field| {
            field
                .node
                .as_scalar()
                .is_none_or(|scalar| !scalar.text.is_empty())
        });
        policy.back_off = word
            .and_then(|word| word.choice(true, &words))
            .unwrap_or(constant);
        policy.max_retries = object.integer("maxRetries").and_then(limit);
        if let Some(matching) = object.object("matching") {
            policy.http_codes = matching
                .field("httpStatusCodes")
                .map(|field| codes::read(&field, HTTP))
                .unwrap_or_default();
            policy.grpc_codes = matching
                .field("gRPCStatusCodes")
                .map(|field| codes::read(&field, GRPC))
                .unwrap_or_default();
            matching.finish();
        }
        object.finish();
    }
    if name == PROTECTED {
        tell(
            field,
            "CFG-BUILT-IN",
            format!("`{name}` cannot be redefined and stays as it is"),
        );
        return None;
    }
    if BUILT_IN.contains(&name) && policy.max_retries.is_none_or(|retries| retries < 3) {
        tell(
            field,
            "CFG-BUILT-IN",
            format!("`{name}` retries three times at least; `maxRetries` is taken as 3"),
        );
        policy.max_retries = Some(3);
    }
    Some(policy)
}

fn tell(field: &Field<'_>, code: &'static str, message: String) {
    field
        .reader()
        .tell(Diagnostic::warning(code, field.place(), message));
}

/// A negative number means without limit.
fn limit(number: i64) -> Option<u32> {
    (number >= 0).then(|| u32::try_from(number).unwrap_or(u32::MAX))
}

fn read_breaker(field: &Field<'_>, compile: Compile<'_>) -> Option<CircuitBreakerPolicy> {
    let mut policy = CircuitBreakerPolicy {
        max_requests: 1,
        interval: None,
        timeout: DEFAULT_OPEN,
        trip: None,
        place: field.place(),
    };
    if let Some(object) = map(field) {
        policy.max_requests = object
            .field("maxRequests")
            .and_then(|field| field.count())
            .filter(|count| *count > 0)
            .unwrap_or(1);
        policy.interval = duration(&object, "interval").and_then(GoDuration::positive);
        policy.timeout = duration(&object, "timeout")
            .and_then(GoDuration::positive)
            .unwrap_or(DEFAULT_OPEN);
        if let Some(trip) = object.field("trip") {
            policy.trip = expression::read(&trip, compile);
            if let Some(expression) = &policy.trip {
                warn_of_unknown_counters(&trip, expression);
            }
        }
        object.finish();
    }
    Some(policy)
}
