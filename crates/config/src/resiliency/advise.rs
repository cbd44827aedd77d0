//! What is allowed but hardly meant: findings for those who ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outrigger_core::duration::format_go;
use outrigger_core::nearest::nearest;

use super::merge::{BUILT_IN_RETRIES, slots};
use super::read::SERVICE;
use super::{ResiliencyResource, RetryBackOff, RetryPolicy, TotalTimeout};
use crate::diagnostic::{self, Diagnostic, Place};

/// Durations below this are likely to be seconds without their unit.
const SUSPICIOUS: Duration = Duration::from_millis(10);

/// Looks at all resources of an app together, in the order in which they are merged; sorted by place.
pub fn advise(resources: &[ResiliencyResource]) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    unreached(resources, &mut told);
    for resource in resources {
        for (name, policy) in &resource.policies.timeouts {
            if let Some(limit) = policy.limit {
                short(name, "time-out", limit, &policy.place, &mut told);
            }
        }
        for (name, policy) in &resource.policies.retries {
            retry(name, policy, &mut told);
        }
        for (name, target) in &resource.targets.actors {
            if target.policies.retry.is_none() {
                let message = format!(
                    "actor type `{name}` is named without `retry`: a call that meets an actor on the move fails at once"
                );
                told.push(
                    Diagnostic::warning("CFG-ACTOR-RETRY", target.place.clone(), message)
                        .help("the retries that move a call to the new place are off for every actor type that is named; give it a `retry`"),
                );
            }
        }
    }
    multiplied(resources, &mut told);
    diagnostic::sort(&mut told);
    told
}

/// Policies that neither a target names nor a default looks up.
fn unreached(resources: &[ResiliencyResource], told: &mut Vec<Diagnostic>) {
    let (mut timeouts, mut retries, mut breakers) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for names in resources.iter().flat_map(slots).map(|slot| slot.names) {
        timeouts.extend(names.timeout.as_deref());
        if let Some(TotalTimeout::Named(name)) = &names.total_timeout {
            timeouts.insert(name);
        }
        retries.extend(names.retry.as_deref());
        breakers.extend(names.circuit_breaker.as_deref());
    }
    retries.extend(BUILT_IN_RETRIES);
    for resource in resources {
        let policies = &resource.policies;
        let kinds = [
            (
                "Timeout",
                "time-out",
                &timeouts,
                places(&policies.timeouts, |policy| &policy.place),
            ),
            (
                "Retry",
                "retry",
                &retries,
                places(&policies.retries, |policy| &policy.place),
            ),
            (
                "CircuitBreaker",
                "circuit breaker",
                &breakers,
                places(&policies.circuit_breakers, |policy| &policy.place),
            ),
        ];
        for (kind, noun, named, defined) in kinds {
            let defaults = default_names(kind);
            for (name, place) in defined {
                if named.contains(name) || defaults.iter().any(|default| default == name) {
                    continue;
                }
                let message = format!("nothing reaches the {noun} `{name}`");
                let told_of = Diagnostic::warning("CFG-UNREACHED", place.clone(), message);
                let close = nearest(name, defaults.iter().map(String::as_str));
                told.push(match close.filter(|_| name.starts_with("Default")) {
                    Some(close) => told_of.nearest(Some(close)),
                    None => told_of.help("name it in a target, or call it as one of the defaults such as `DefaultRetryPolicy` is called"),
                });
            }
        }
    }
}

fn places<T>(policies: &BTreeMap<String, T>, place: fn(&T) -> &Place) -> Vec<(&str, &Place)> {
    policies
        .iter()
        .map(|(name, policy)| (name.as_str(), place(policy)))
        .collect()
}

/// Every name that is looked up where no target is found.
fn default_names(kind: &str) -> Vec<String> {
    const TYPES: [&str; 8] = [
        "Statestore",
        "Pubsub",
        "Binding",
        "Secretstore",
        "Configuration",
        "Lock",
        "Crypto",
        "Conversation",
    ];
    /// Those that call the app.
    const INBOUND: [&str; 3] = ["Pubsub", "Binding", "Configuration"];
    let general = [
        "",
        "App",
        "Actor",
        "Component",
        "ComponentInbound",
        "ComponentOutbound",
    ];
    let outbound = TYPES.map(|of| format!("{of}ComponentOutbound"));
    let inbound = INBOUND.map(|of| format!("{of}ComponentInbound"));
    let middles = general.iter().map(|middle| (*middle).to_owned());
    middles
        .chain(outbound)
        .chain(inbound)
        .map(|middle| format!("Default{middle}{kind}Policy"))
        .collect()
}

fn short(name: &str, what: &str, length: Duration, place: &Place, told: &mut Vec<Diagnostic>) {
    if length.is_zero() || length >= SUSPICIOUS {
        return;
    }
    let length = format_go(length);
    let message = format!("the {what} of `{name}` is only {length}");
    told.push(
        Diagnostic::warning("CFG-SHORT", place.clone(), message)
            .help("a number without unit is in milliseconds; seconds are written as in `5s`"),
    );
}

fn retry(name: &str, policy: &RetryPolicy, told: &mut Vec<Diagnostic>) {
    let RetryBackOff::Constant { pause, .. } = policy.back_off else {
        return;
    };
    short(name, "pause", pause, &policy.place, told);
    let is_bounded = policy.max_retries.is_some()
        || policy.max_elapsed.is_some()
        || policy.total_timeout.is_some();
    if !is_bounded {
        let message = format!("the retries of `{name}` never end");
        told.push(
            Diagnostic::warning("CFG-ENDLESS", policy.place.clone(), message)
                .help("set `maxRetries`, `maxElapsedTime` or `totalTimeout`"),
        );
    }
}

/// Default retries of apps run around the built-in ones.
fn multiplied(resources: &[ResiliencyResource], told: &mut Vec<Diagnostic>) {
    let last = |name: &str| {
        let mut found = resources.iter().rev();
        found.find_map(|resource| resource.policies.retries.get(name))
    };
    let switched = resources
        .iter()
        .rev()
        .find_map(|resource| resource.built_in.service);
    let inner = switched.unwrap_or_else(|| {
        last(SERVICE).map_or(3, |policy| policy.max_retries.unwrap_or(u32::MAX))
    });
    // Dapr: the first of the two that is defined counts.
    let default = ["DefaultAppRetryPolicy", "DefaultRetryPolicy"]
        .into_iter()
        .find_map(|name| Some((name, last(name)?)));
    let Some((name, policy)) = default else {
        return;
    };
    if inner == 0 || policy.max_retries == Some(0) {
        return;
    }
    let inner = u64::from(inner) + 1;
    let attempts = match policy.max_retries {
        Some(retries) => format!("up to {} attempts", (u64::from(retries) + 1) * inner),
        None => format!("{inner} attempts each time"),
    };
    let message = format!(
        "`{name}` multiplies with the built-in retries of service invocation: {attempts} when a sidecar cannot be reached"
    );
    told.push(
        Diagnostic::warning("CFG-MULTIPLIED", policy.place.clone(), message).help(
            "`builtin: {service: off}` switches them off, and so does naming the app as a target",
        ),
    );
}
