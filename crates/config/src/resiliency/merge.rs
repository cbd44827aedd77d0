//! What shows only when all resources are together.

use std::collections::{BTreeSet, HashMap};

use super::{PolicyNames, ResiliencyResource, TotalTimeout};
use crate::diagnostic::{Diagnostic, Place};
use outrigger_core::nearest::nearest;

/// Retries that a target may name although nobody defines them.
pub(super) const BUILT_IN_RETRIES: [&str; 5] = [
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
    let known = Known::of(resources);
    for slot in resources.iter().flat_map(slots) {
        missing(&known, &slot, &mut told);
    }
    told
}

/// A place in a target that may name policies.
pub(super) struct Slot<'a> {
    pub(super) names: &'a PolicyNames,
    place: &'a Place,
    target: String,
}

/// All of a resource's, in the order of its kinds of target.
pub(super) fn slots(resource: &ResiliencyResource) -> Vec<Slot<'_>> {
    let targets = &resource.targets;
    let mut slots = Vec::new();
    let mut add = |names, place, target: String| {
        slots.push(Slot {
            names,
            place,
            target,
        });
    };
    for (name, target) in &targets.apps {
        add(&target.policies, &target.place, format!("app `{name}`"));
        for method in &target.methods {
            let of = format!("method `{}` of app `{name}`", method.pattern);
            add(&method.policies, &method.place, of);
        }
    }
    for (name, target) in &targets.actors {
        let of = format!("actor type `{name}`");
        add(&target.policies, &target.place, of);
    }
    for (name, target) in &targets.components {
        let of = |direction: &str| format!("component `{name}` ({direction})");
        add(&target.inbound, &target.place, of("inbound"));
        add(&target.outbound, &target.place, of("outbound"));
    }
    slots
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

/// Every name that a target may name.
struct Known<'a> {
    timeouts: BTreeSet<&'a str>,
    retries: BTreeSet<&'a str>,
    breakers: BTreeSet<&'a str>,
}

impl<'a> Known<'a> {
    fn of(resources: &'a [ResiliencyResource]) -> Self {
        let policies = || resources.iter().map(|resource| &resource.policies);
        Self {
            timeouts: policies()
                .flat_map(|policies| policies.timeouts.keys().map(String::as_str))
                .collect(),
            retries: policies()
                .flat_map(|policies| policies.retries.keys().map(String::as_str))
                .chain(BUILT_IN_RETRIES)
                .collect(),
            breakers: policies()
                .flat_map(|policies| policies.circuit_breakers.keys().map(String::as_str))
                .collect(),
        }
    }
}

fn missing(known: &Known<'_>, slot: &Slot<'_>, told: &mut Vec<Diagnostic>) {
    /// With more findings than this, nobody reads which name is near, and to look for it takes long.
    const HELPED: usize = 100;
    let Slot {
        names,
        place,
        target,
    } = slot;
    let total = match &names.total_timeout {
        Some(TotalTimeout::Named(name)) => Some(name),
        Some(TotalTimeout::Limit(_)) | None => None,
    };
    for (kind, name, known) in [
        ("timeout", names.timeout.as_ref(), &known.timeouts),
        ("total timeout", total, &known.timeouts),
        ("retry", names.retry.as_ref(), &known.retries),
        (
            "circuit breaker",
            names.circuit_breaker.as_ref(),
            &known.breakers,
        ),
    ] {
        if let Some(name) = name.filter(|name| !known.contains(name.as_str())) {
            let message =
                format!("{target} names the {kind} `{name}`, which nothing defines; it gets none");
            let close = (told.len() < HELPED)
                .then(|| nearest(name, known.iter().copied()))
                .flatten();
            let place = (*place).clone();
            told.push(Diagnostic::error("CFG-UNKNOWN-POLICY", place, message).nearest(close));
        }
    }
}
