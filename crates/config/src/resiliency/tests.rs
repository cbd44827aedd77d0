//! Whole resources.

use std::time::Duration;

use super::{ActorTarget, BreakerScope, CodeMatch, ResiliencyResource, RetryBackOff};
use crate::diagnostic::Diagnostic;
use crate::testing::{load_text, resource};

/// Code and path; positions are compared in the golden files.
fn told(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|told| format!("{} {}", told.code, told.place.path))
        .collect()
}

fn one(spec: &str) -> ResiliencyResource {
    let mut loaded = load_text(&resource("Resiliency", "r", spec));
    assert_eq!(loaded.rejected, []);
    loaded.resiliencies.remove(0)
}

#[test]
fn defaults_are_those_of_dapr() {
    let resource = one(
        "  policies:\n    retries: {r: {}, none: }\n    circuitBreakers: {c: {}}\n  targets:\n    apps: {a: {}}\n    actors: {t: {}}\n    components: {c: {}}\n",
    );
    let retry = &resource.policies.retries["r"];
    assert_eq!(
        retry.back_off,
        RetryBackOff::Constant {
            pause: Duration::from_secs(5)
        }
    );
    assert_eq!(
        (retry.max_retries, &retry.http_codes),
        (None, &CodeMatch::Every)
    );
    assert_eq!(resource.policies.retries["none"].back_off, retry.back_off);
    let breaker = &resource.policies.circuit_breakers["c"];
    assert_eq!(
        (breaker.max_requests, breaker.interval, breaker.timeout),
        (1, None, Duration::from_secs(60))
    );
    assert_eq!(breaker.trip, None);
    assert_eq!(
        (
            resource.targets.apps["a"].cache_size,
            resource.targets.actors["t"].cache_size
        ),
        (100, 5_000)
    );
}

#[test]
fn values_come_in_every_form_that_dapr_takes() {
    let resource = one(
        "  policies:\n    timeouts: {a: 5s, b: 500, c: -1s, d: '0', e: 1.5s}\n    Retries:\n      r: {policy: Exponential, maxInterval: 15000, maxRetries: 3, matching: {httpStatusCodes: '429,500-599', gRPCStatusCodes: '1'}}\n      s: {duration: '', maxRetries: -1}\n      t: {maxRetries: 0, matching: {httpStatusCodes: ','}}\n    circuitBreakers:\n      c: {maxRequests: 0, interval: 0, timeout: -5s, trip: ' consecutiveFailures >= 2 '}\n  targets:\n    actors:\n      T: {circuitBreaker: c, circuitBreakerScope: both, circuitBreakerCacheSize: 7, timeout: a}\n      U: {circuitBreakerScope: nonsense}\n",
    );
    let limit = |name: &str| resource.policies.timeouts[name].limit;
    assert_eq!(
        [limit("a"), limit("b"), limit("e")],
        [5_000, 500, 1_500].map(|ms| Some(Duration::from_millis(ms)))
    );
    assert_eq!([limit("c"), limit("d")], [None, None]);
    let retries = &resource.policies.retries;
    assert_eq!(
        retries["r"].back_off,
        RetryBackOff::Exponential {
            max_interval: Duration::from_secs(15)
        }
    );
    assert_eq!(
        (
            retries["r"].max_retries,
            retries["s"].max_retries,
            retries["t"].max_retries
        ),
        (Some(3), None, Some(0))
    );
    assert!(retries["r"].http_codes.contains(503) && !retries["r"].http_codes.contains(404));
    assert!(retries["r"].grpc_codes.contains(1) && !retries["t"].http_codes.contains(500));
    let breaker = &resource.policies.circuit_breakers["c"];
    assert_eq!(
        (breaker.max_requests, breaker.interval, breaker.timeout),
        (1, None, Duration::from_secs(60))
    );
    assert_eq!(breaker.trip.as_deref(), Some("consecutiveFailures >= 2"));
    let ActorTarget {
        scope, cache_size, ..
    } = &resource.targets.actors["T"];
    assert_eq!((*scope, *cache_size), (Some(BreakerScope::Both), 7));
    assert_eq!(resource.targets.actors["U"].scope, None);
}

#[test]
fn one_fault_refuses_the_whole_resource() {
    for (spec, place) in [
        (
            "  policies: {timeouts: {a: 5 sec}}\n",
            "CFG-DURATION spec.policies.timeouts.a",
        ),
        (
            "  policies: {timeouts: {a: ''}}\n",
            "CFG-DURATION spec.policies.timeouts.a",
        ),
        (
            "  policies: {timeouts: {a: }}\n",
            "CFG-DURATION spec.policies.timeouts.a",
        ),
        (
            "  policies: {retries: {a: {policy: linear}}}\n",
            "CFG-WORD spec.policies.retries.a.policy",
        ),
        (
            "  policies: {retries: {a: {maxRetries: '3'}}}\n",
            "CFG-TYPE spec.policies.retries.a.maxRetries",
        ),
        (
            "  policies: {retries: {a: {matching: {gRPCStatusCodes: '17'}}}}\n",
            "CFG-CODES spec.policies.retries.a.matching.gRPCStatusCodes",
        ),
        (
            "  policies: {circuitBreakers: {a: {trip: bad > 1}}}\n",
            "CFG-EXPRESSION spec.policies.circuitBreakers.a.trip",
        ),
        (
            "  policies: {circuitBreakers: {a: {maxRequests: -1}}}\n",
            "CFG-RANGE spec.policies.circuitBreakers.a.maxRequests",
        ),
        (
            "  targets: {apps: {a: {circuitBreakerCacheSize: -1}}}\n",
            "CFG-RANGE spec.targets.apps.a.circuitBreakerCacheSize",
        ),
        (
            "  targets: {actors: {a: {circuitBreaker: c}}}\n",
            "CFG-REQUIRED spec.targets.actors.a",
        ),
        (
            "  targets: {actors: {a: {circuitBreaker: c, circuitBreakerScope: Type}}}\n",
            "CFG-WORD spec.targets.actors.a.circuitBreakerScope",
        ),
        (
            "  targets: {components: [a]}\n",
            "CFG-TYPE spec.targets.components",
        ),
    ] {
        let loaded = load_text(&resource("Resiliency", "r", spec));
        assert_eq!(loaded.resiliencies, [], "{spec}");
        assert_eq!(loaded.rejected[0].kind.name(), "Resiliency");
        let errors: Vec<_> = loaded
            .diagnostics
            .iter()
            .filter(|told| told.is_error())
            .cloned()
            .collect();
        assert_eq!(told(&errors), [place], "{spec}");
    }
}

#[test]
fn built_in_retries_have_a_floor_and_one_is_protected() {
    let loaded = load_text(&resource(
        "Resiliency",
        "r",
        "  policies:\n    retries:\n      DaprBuiltInServiceRetries: {maxRetries: 1}\n      DaprBuiltInActorNotFoundRetries: {maxRetries: 9}\n      DaprBuiltInActorRetries: {maxRetries: 9}\n",
    ));
    let retries = &loaded.resiliencies[0].policies.retries;
    assert_eq!(retries["DaprBuiltInServiceRetries"].max_retries, Some(3));
    assert_eq!(retries["DaprBuiltInActorRetries"].max_retries, Some(9));
    assert!(!retries.contains_key("DaprBuiltInActorNotFoundRetries"));
    assert_eq!(loaded.diagnostics.len(), 2);
}

#[test]
fn names_are_compared_over_all_resources() {
    let first = resource("Resiliency", "one", "  policies: {timeouts: {t: 5s}}\n");
    let second = resource(
        "Resiliency",
        "two",
        "  policies: {timeouts: {t: 6s}}\n  targets:\n    apps: {a: {timeout: t, retry: rr}}\n    components: {c: {outbound: {circuitBreaker: cb}}}\n",
    );
    let loaded = load_text(&format!("{first}---\n{second}"));
    assert_eq!((loaded.resiliencies.len(), loaded.rejected.len()), (2, 0));
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-DUPLICATE spec.policies.timeouts.t",
            "CFG-UNKNOWN-POLICY spec.targets.apps.a",
            "CFG-UNKNOWN-POLICY spec.targets.components.c"
        ]
    );
}

#[test]
fn an_unknown_counter_is_a_warning_only() {
    let loaded = load_text(&resource(
        "Resiliency",
        "r",
        "  policies: {circuitBreakers: {a: {trip: nosuch > 1}}}\n",
    ));
    assert_eq!(loaded.resiliencies.len(), 1);
    assert_eq!(
        told(&loaded.diagnostics),
        ["CFG-TRIP spec.policies.circuitBreakers.a.trip"]
    );
}
