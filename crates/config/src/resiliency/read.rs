//! From a document to policies and targets.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_core::duration::GoDuration;

use super::targets::read_targets;
use super::{
    CircuitBreakerPolicy, CodeMatch, Jitter, Policies, ResiliencyResource, RetryBackOff,
    RetryPolicy, TimeoutPolicy, annotation, durations, extensions, trip,
};
use crate::diagnostic::Diagnostic;
use crate::read::{Field, Object};
use crate::resource::{Header, fingerprint};
use crate::yaml::Node;

/// Pause of a constant back-off.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);
/// Longest base pause of an exponential back-off.
const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(60);
/// First base pause of an exponential back-off.
const DEFAULT_INITIAL: Duration = Duration::from_millis(500);
/// How long an exponential back-off goes on.
const DEFAULT_MAX_ELAPSED: Duration = Duration::from_secs(15 * 60);
/// The longest pause that a server may ask for.
const DEFAULT_MAX_PUSHBACK: Duration = Duration::from_secs(60);
/// Growth of an exponential back-off.
const DEFAULT_MULTIPLIER: f64 = 1.5;
/// Share of an exponential back-off that is left to chance.
const DEFAULT_RANDOMIZATION: f64 = 0.5;
/// Below this, a default time-out hinders activities of workflows.
const WORKFLOW_ACTIVITY: Duration = Duration::from_secs(60);
/// How long a breaker stays open.
const DEFAULT_OPEN: Duration = Duration::from_secs(60);

/// Retries that exist without being configured; redefining one has a floor of three.
const BUILT_IN: [&str; 4] = [
    SERVICE,
    "DaprBuiltInActorRetries",
    "DaprBuiltInActorReminderRetries",
    "DaprBuiltInInitializationRetries",
];
/// The one of them that decides by itself which failures count.
pub(super) const SERVICE: &str = "DaprBuiltInServiceRetries";
/// The one that cannot be redefined.
const PROTECTED: &str = "DaprBuiltInActorNotFoundRetries";

impl ResiliencyResource {
    /// Reads a document whose kind and header are known.
    pub(crate) fn read(document: &Object<'_>, root: &Node, header: Header) -> Self {
        let merged = annotation::merged(document, root);
        let field = merged
            .as_ref()
            .map(|node| document.field_as("spec", node.as_ref()));
        let spec = field.and_then(|spec| spec.object());
        let spec = spec.as_ref();
        let policies = spec
            .and_then(|spec| spec.object("policies"))
            .map(|policies| read_policies(&policies))
            .unwrap_or_default();
        let targets = spec
            .and_then(|spec| spec.object("targets"))
            .map(|targets| read_targets(&targets))
            .unwrap_or_default();
        let errors = spec.and_then(extensions::errors);
        let built_in = spec.map(extensions::built_in).unwrap_or_default();
        if let Some(spec) = spec {
            spec.finish_with(|name| match name {
                "timeouts" | "retries" | "circuitBreakers" => Some("it belongs below `policies`"),
                "apps" | "actors" | "components" => Some("it belongs below `targets`"),
                "scopes" => Some("it belongs beside `spec`, not below it"),
                "spec" => Some("leave it out: this is the `spec`"),
                _ => None,
            });
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
            errors,
            built_in,
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

fn read_policies(object: &Object<'_>) -> Policies {
    let policies = Policies {
        timeouts: each(object, "timeouts", read_timeout),
        retries: each(object, "retries", read_retry),
        circuit_breakers: each(object, "circuitBreakers", |_, field| read_breaker(field)),
    };
    object.finish();
    policies
}

fn read_timeout(name: &str, field: &Field<'_>) -> Option<TimeoutPolicy> {
    if field.node.is_null() {
        field.unusable(
            "CFG-DURATION",
            format!("`{name}` has no duration"),
            "a number with a unit such as `5s`",
        );
    }
    let limit = durations::read(field, "no time-out")?.positive();
    if name == "DefaultTimeoutPolicy" && limit.is_some_and(|limit| limit < WORKFLOW_ACTIVITY) {
        let told = Diagnostic::warning(
            "CFG-WORKFLOW-TIMEOUT",
            field.place(),
            format!("`{name}` ends activities of workflows, too, which may take longer"),
        );
        field.reader().tell(told.help(
            "a default of 60s or more, or `DefaultAppTimeoutPolicy` and `DefaultComponentTimeoutPolicy`",
        ));
    }
    Some(TimeoutPolicy {
        limit,
        place: field.place(),
    })
}

fn read_retry(name: &str, field: &Field<'_>) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy {
        back_off: RetryBackOff::Constant {
            pause: DEFAULT_PAUSE,
            jitter: Jitter::Share(0.0),
        },
        max_retries: None,
        max_elapsed: None,
        total_timeout: None,
        max_pushback: DEFAULT_MAX_PUSHBACK,
        budget: None,
        attempt_marker: false,
        http_codes: CodeMatch::Every,
        grpc_codes: CodeMatch::Every,
        place: field.place(),
    };
    let mut gives_up_unasked = false;
    if let Some(object) = map(field) {
        policy.back_off = read_back_off(&object);
        policy.max_retries = object.integer("maxRetries").and_then(limit);
        let elapsed = durations::optional(&object, "maxElapsedTime", "without limit");
        let is_exponential = matches!(policy.back_off, RetryBackOff::Exponential { .. });
        policy.max_elapsed = match elapsed {
            Some(elapsed) => elapsed.positive(),
            None => is_exponential.then_some(DEFAULT_MAX_ELAPSED),
        };
        gives_up_unasked = is_exponential && elapsed.is_none();
        policy.total_timeout = durations::optional(&object, "totalTimeout", "without limit")
            .and_then(GoDuration::positive);
        policy.max_pushback = durations::or(&object, "maxPushback", DEFAULT_MAX_PUSHBACK);
        policy.budget = extensions::budget(&object);
        policy.attempt_marker = object.boolean("attemptMarker").unwrap_or(false);
        (policy.http_codes, policy.grpc_codes) = extensions::matching(&object);
        object.finish();
    }
    if name == PROTECTED {
        // Dapr's words, for who searches logs for them.
        let message = format!(
            "Attempted to override protected policy {name} which is not allowed. Ignoring provided policy and using default."
        );
        warn(field, "CFG-BUILT-IN", message);
        return None;
    }
    if BUILT_IN.contains(&name) && policy.max_retries.is_none_or(|retries| retries < 3) {
        let message = format!(
            "Attempted override of {name} did not meet minimum retry count, resetting to 3."
        );
        warn(field, "CFG-BUILT-IN", message);
        policy.max_retries = Some(3);
    }
    let every = (&CodeMatch::Every, &CodeMatch::Every);
    if name == SERVICE && (&policy.http_codes, &policy.grpc_codes) != every {
        let message =
            format!("`matching` of `{name}` has no effect: only lost connections are tried again");
        warn(field, "CFG-NO-EFFECT", message);
    }
    if gives_up_unasked && policy.max_retries.is_none() {
        let told = Diagnostic::warning(
            "CFG-RETRY-ELAPSED",
            field.place(),
            format!(
                "`{name}` gives up after about 15 minutes, although `maxRetries` sets no limit"
            ),
        );
        field
            .reader()
            .tell(told.help("`maxElapsedTime` sets another limit, and `maxElapsedTime: 0s` none"));
    }
    Some(policy)
}

/// A share, or a duration with its unit.
fn read_jitter(object: &Object<'_>) -> Jitter {
    let Some(field) = object.field("jitter") else {
        return Jitter::Share(0.0);
    };
    let is_duration = field
        .node
        .as_scalar()
        .is_some_and(|scalar| scalar.text.ends_with(['s', 'm', 'h']));
    if is_duration {
        let most = field.duration_or_milliseconds();
        return Jitter::UpTo(most.map_or(Duration::ZERO, GoDuration::clamped));
    }
    let share = field.number(
        0.0..=1.0,
        "a number from 0 to 1, or a duration such as `100ms`",
    );
    Jitter::Share(share.unwrap_or(0.0))
}

fn read_back_off(object: &Object<'_>) -> RetryBackOff {
    let word = object.field("policy").filter(|field| {
        field
            .node
            .as_scalar()
            .is_none_or(|scalar| !scalar.text.is_empty())
    });
    let is_exponential = word
        .and_then(|word| word.choice(true, &[("constant", false), ("exponential", true)]))
        .unwrap_or(false);
    let share = |name, default| {
        let number = |field: Field<'_>| field.number(0.0..=1.0, "a number from 0 to 1");
        object.field(name).and_then(number).unwrap_or(default)
    };
    let constant = RetryBackOff::Constant {
        pause: durations::or(object, "duration", DEFAULT_PAUSE),
        jitter: read_jitter(object),
    };
    let exponential = RetryBackOff::Exponential {
        initial: durations::or(object, "initialInterval", DEFAULT_INITIAL),
        max_interval: durations::or(object, "maxInterval", DEFAULT_MAX_INTERVAL),
        multiplier: object
            .field("multiplier")
            .and_then(|field| field.number(1.0..=f64::MAX, "a number from 1"))
            .unwrap_or(DEFAULT_MULTIPLIER),
        randomization: share("randomizationFactor", DEFAULT_RANDOMIZATION),
    };
    // Dapr's own two fields are left alone: many resources have both.
    let (back_off, idle, other): (_, &[&str], _) = if is_exponential {
        (exponential, &["jitter"], "constant")
    } else {
        let idle = &["initialInterval", "multiplier", "randomizationFactor"];
        (constant, idle, "exponential")
    };
    for (key, field) in object.members() {
        if idle.iter().any(|name| name.eq_ignore_ascii_case(key)) && !field.node.is_null() {
            let message = format!("`{key}` has no effect without `policy: {other}`");
            warn(&field, "CFG-NO-EFFECT", message);
        }
    }
    back_off
}

fn warn(field: &Field<'_>, code: &'static str, message: String) {
    field
        .reader()
        .tell(Diagnostic::warning(code, field.place(), message));
}

/// A negative number means without limit.
fn limit(number: i64) -> Option<u32> {
    (number >= 0).then(|| u32::try_from(number).unwrap_or(u32::MAX))
}

fn read_breaker(field: &Field<'_>) -> Option<CircuitBreakerPolicy> {
    let mut policy = CircuitBreakerPolicy {
        max_requests: 1,
        interval: None,
        timeout: DEFAULT_OPEN,
        trip: None,
        http_codes: CodeMatch::Every,
        grpc_codes: CodeMatch::Every,
        ignores_client_errors: false,
        counts_stream_errors: false,
        on_open: None,
        place: field.place(),
    };
    if let Some(object) = map(field) {
        policy.max_requests = object
            .field("maxRequests")
            .and_then(|field| field.count())
            .filter(|count| *count > 0)
            .unwrap_or(1);
        policy.interval =
            durations::optional(&object, "interval", "that the counts are never cleared")
                .and_then(GoDuration::positive);
        policy.timeout = durations::optional(&object, "timeout", "60s")
            .and_then(GoDuration::positive)
            .unwrap_or(DEFAULT_OPEN);
        policy.trip = object.field("trip").and_then(|field| trip::read(&field));
        (policy.http_codes, policy.grpc_codes) = extensions::matching(&object);
        policy.ignores_client_errors = object.boolean("ignoreClientErrors").unwrap_or(false);
        policy.counts_stream_errors = object.boolean("countStreamErrors").unwrap_or(false);
        policy.on_open = extensions::on_open(&object);
        object.finish();
    }
    Some(policy)
}
