//! What shows only when all resources are together.

use std::collections::HashMap;

use super::{PolicyNames, ResiliencyResource};
use crate::diagnostic::{Diagnostic, Place};
use outrigger_core::nearest::nearest;

/// Retries that a target may name although nobody defines them.
const BUILT_IN_RETRIES: [&str; 5] = [
    "DaprBuiltInServiceRetries",
    "DaprBuiltInActorRetries",
    "DaprBuiltInActorReminderRetries",
    "DaprBuiltInInitializationRetries",
    "DaprBuiltInActorNotFoundRetries",
];

/// Tells names that two resources define, where the later one counts, and targets that name policies nobody defines,
/// which means none.
pub(crate) fn check(resources: &[ResiliencyResource]) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    repeated(resources, &mut told);
    for resource in resources {
        let targets = &resource.targets;
        for (name, target) in &targets.apps {
            missing(
                resources,
                &target.policies,
                &target.place,
                &format!("app `{name}`"),
                &mut told,
            );
        }
        for (name, target) in &targets.actors {
            missing(
                resources,
                &target.policies,
                &target.place,
                &format!("actor type `{name}`"),
                &mut told,
            );
        }
        for (name, target) in &targets.components {
            missing(
                resources,
                &target.inbound,
                &target.place,
                &format!("component `{name}` (inbound)"),
                &mut told,
            );
            missing(
                resources,
                &target.outbound,
                &target.place,
                &format!("component `{name}` (outbound)"),
                &mut told,
            );
        }
    }
    told
}

fn repeated(resources: &[ResiliencyResource], told: &mut Vec<Diagnostic>) {
    let mut seen: HashMap<(&str, &str), &Place> = HashMap::new();
    for resource in resources {
        let policies = &resource.policies;
        let names = (policies
            .timeouts
            .iter()
            .map(|(name, policy)| ("timeout", name, &policy.place)))
        .chain(
            policies
                .retries
                .iter()
                .map(|(name, policy)| ("retry", name, &policy.place)),
        )
        .chain(
            policies
                .circuit_breakers
                .iter()
                .map(|(name, policy)| ("circuit breaker", name, &policy.place)),
        )
        .chain(
            resource
                .targets
                .apps
                .iter()
                .map(|(name, target)| ("target app", name, &target.place)),
        )
        .chain(
            resource
                .targets
                .actors
                .iter()
                .map(|(name, target)| ("target actor type", name, &target.place)),
        )
        .chain(
            resource
                .targets
                .components
                .iter()
                .map(|(name, target)| ("target component", name, &target.place)),
        );
        for (kind, name, place) in names {
            if let Some(first) = seen.insert((kind, name), place) {
                let message = format!("{kind} `{name}` is defined a second time; this one counts");
                told.push(
                    Diagnostic::warning("CFG-DUPLICATE", place.clone(), message)
                        .help(format!("the first one is in {first}")),
                );
            }
        }
    }
}

fn missing(
    resources: &[ResiliencyResource],
    names: &PolicyNames,
    place: &Place,
    target: &str,
    told: &mut Vec<Diagnostic>,
) {
    let all = |of: fn(&ResiliencyResource) -> Vec<&str>| {
        resources.iter().flat_map(of).collect::<Vec<&str>>()
    };
    let kinds = [
        (
            "timeout",
            &names.timeout,
            all(|r| r.policies.timeouts.keys().map(String::as_str).collect()),
        ),
        (
            "retry",
            &names.retry,
            all(|r| {
                r.policies
                    .retries
                    .keys()
                    .map(String::as_str)
                    .chain(BUILT_IN_RETRIES)
                    .collect()
            }),
        ),
        (
            "circuit breaker",
            &names.circuit_breaker,
            all(|r| {
                r.policies
                    .circuit_breakers
                    .keys()
                    .map(String::as_str)
                    .collect()
            }),
        ),
    ];
    for (kind, name, known) in kinds {
        if let Some(name) = name.as_ref().filter(|name| !known.contains(&name.as_str())) {
            let message =
                format!("{target} names the {kind} `{name}`, which nothing defines; it gets none");
            told.push(
                Diagnostic::error("CFG-UNKNOWN-POLICY", place.clone(), message)
                    .nearest(nearest(name, known)),
            );
        }
    }
}
