//! Whole resources.

use std::time::Duration;

use super::{
    ActorTarget, BreakerKey, BreakerScope, BuiltIns, CodeMatch, ErrorStyle, Jitter, OnOpen,
    ResiliencyResource, RetryBackOff, RetryBudget, TotalTimeout, advise,
};
use crate::diagnostic::Diagnostic;
use crate::load::{Loaded, Refused};
use crate::testing::{load_text, resource, told as located};

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
            pause: Duration::from_secs(5),
            jitter: Jitter::Share(0.0)
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
            initial: Duration::from_millis(500),
            max_interval: Duration::from_secs(15),
            multiplier: 1.5,
            randomization: 0.5
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
            "  policies: {circuitBreakers: {a: {trip: bad() > 1}}}\n",
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

fn load_spec(spec: &str) -> Loaded {
    load_text(&resource("Resiliency", "r", spec))
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn extensions_are_off_where_nothing_is_said() {
    let resource = one(
        "  policies:\n    retries: {r: {}, e: {policy: exponential, maxRetries: 1}}\n    circuitBreakers: {c: {}}\n  targets:\n    apps: {a: {}}\n    components: {c: {inbound: {}}}\n",
    );
    assert_eq!(
        (resource.errors, resource.built_in),
        (None, BuiltIns::default())
    );
    let retry = &resource.policies.retries["r"];
    assert_eq!((retry.max_elapsed, retry.total_timeout), (None, None));
    assert_eq!((retry.max_pushback, retry.budget), (seconds(60), None));
    assert!(!retry.attempt_marker);
    assert_eq!(
        resource.policies.retries["e"].max_elapsed,
        Some(seconds(900))
    );
    let breaker = &resource.policies.circuit_breakers["c"];
    assert_eq!(
        (&breaker.http_codes, &breaker.grpc_codes, breaker.on_open),
        (&CodeMatch::Every, &CodeMatch::Every, None)
    );
    assert!(!breaker.ignores_client_errors && !breaker.counts_stream_errors);
    assert_eq!(resource.targets.apps["a"].methods, []);
    assert_eq!(resource.targets.components["c"].on_open, None);
}

#[test]
fn every_extension_is_read() {
    let spec = "
  errors: precise
  builtin: {service: off, initialization: 1, actor: 'off', actorNotFound: false}
  policies:
    timeouts: {t: 70s}
    retries:
      e: {policy: exponential, initialInterval: 100ms, multiplier: 2, randomizationFactor: 0, maxElapsedTime: 1m, maxInterval: 1s}
      f: {policy: exponential, maxElapsedTime: 0, randomizationFactor: 1.0, multiplier: 1}
      c: {jitter: 0.25, maxElapsedTime: 30s, totalTimeout: 10s, maxPushback: 5s, budget: {ratio: 0, minPerSecond: 0.5}, attemptMarker: true}
      d: {retryBudget: {}, totalTimeout: 0s}
    circuitBreakers:
      b: {matching: {httpStatusCodes: '500-599', gRPCStatusCodes: '14'}, ignoreClientErrors: true, countStreamErrors: true, onOpen: nack}
  targets:
    apps:
      a:
        totalTimeout: 2s
        budget: {ratio: 0.5}
        errors: dapr
        methods:
        - {match: /orders/*, verbs: [get, Post], timeout: t, retry: e, circuitBreaker: b, breakerKey: pattern, totalTimeout: t, errors: precise}
        - match: health
        - {match: '*', breakerKey: app}
    actors:
      T: {totalTimeout: t, budget: {}, errors: precise, retry: c}
    components:
      k: {inbound: {onOpen: deadLetter, totalTimeout: 1500ms, errors: precise}, outbound: {totalTimeout: t, budget: {minPerSecond: 1}}}
";
    let loaded = load_spec(spec);
    assert_eq!(loaded.diagnostics, []);
    let resource = &loaded.resiliencies[0];
    assert_eq!(resource.errors, Some(ErrorStyle::Precise));
    assert_eq!(
        resource.built_in,
        BuiltIns {
            service: Some(0),
            initialization: Some(1),
            actor: Some(0),
            actor_not_found: Some(0)
        }
    );
    let retries = &resource.policies.retries;
    assert_eq!(
        retries["e"].back_off,
        RetryBackOff::Exponential {
            initial: Duration::from_millis(100),
            max_interval: seconds(1),
            multiplier: 2.0,
            randomization: 0.0
        }
    );
    assert_eq!(retries["e"].max_elapsed, Some(seconds(60)));
    assert_eq!(retries["f"].max_elapsed, None);
    let constant = &retries["c"];
    assert_eq!(
        constant.back_off,
        RetryBackOff::Constant {
            pause: seconds(5),
            jitter: Jitter::Share(0.25)
        }
    );
    assert_eq!(constant.max_elapsed, Some(seconds(30)));
    assert_eq!(constant.total_timeout, Some(seconds(10)));
    assert_eq!(constant.max_pushback, seconds(5));
    assert!(constant.attempt_marker);
    let budget = |ratio, min_per_second| {
        Some(RetryBudget {
            ratio,
            min_per_second,
        })
    };
    assert_eq!(constant.budget, budget(0.0, 0.5));
    assert_eq!(
        (retries["d"].budget, retries["d"].total_timeout),
        (budget(0.2, 10.0), None)
    );
    let breaker = &resource.policies.circuit_breakers["b"];
    assert_eq!(breaker.http_codes, CodeMatch::Only(vec![500..=599]));
    assert_eq!(breaker.grpc_codes, CodeMatch::Only(vec![14..=14]));
    assert!(breaker.ignores_client_errors && breaker.counts_stream_errors);
    assert_eq!(breaker.on_open, Some(OnOpen::Nack));
    let named = Some(TotalTimeout::Named("t".to_owned()));
    let app = &resource.targets.apps["a"];
    assert_eq!(
        app.policies.total_timeout,
        Some(TotalTimeout::Limit(seconds(2)))
    );
    assert_eq!(app.policies.budget, budget(0.5, 10.0));
    assert_eq!(app.policies.errors, Some(ErrorStyle::Dapr));
    let patterns: Vec<_> = app.methods.iter().map(|m| m.pattern.as_str()).collect();
    assert_eq!(patterns, ["/orders/*", "health", "*"]);
    let keys: Vec<_> = app.methods.iter().map(|m| m.breaker_key).collect();
    assert_eq!(
        keys,
        [BreakerKey::Pattern, BreakerKey::Path, BreakerKey::App]
    );
    assert_eq!(app.methods[0].verbs, ["GET", "POST"]);
    let method = &app.methods[0].policies;
    assert_eq!(
        (&method.timeout, &method.retry, &method.circuit_breaker),
        (
            &Some("t".to_owned()),
            &Some("e".to_owned()),
            &Some("b".to_owned())
        )
    );
    assert_eq!(
        (&method.total_timeout, method.errors),
        (&named, Some(ErrorStyle::Precise))
    );
    assert_eq!(resource.targets.actors["T"].policies.total_timeout, named);
    assert_eq!(
        resource.targets.actors["T"].policies.budget,
        budget(0.2, 10.0)
    );
    let component = &resource.targets.components["k"];
    assert_eq!(component.on_open, Some(OnOpen::DeadLetter));
    assert_eq!(
        component.inbound.total_timeout,
        Some(TotalTimeout::Limit(Duration::from_millis(1_500)))
    );
    assert_eq!(component.inbound.errors, Some(ErrorStyle::Precise));
    assert_eq!(component.outbound.total_timeout, named);
    assert_eq!(component.outbound.budget, budget(0.2, 1.0));
}

#[test]
fn a_wrong_extension_refuses_the_resource() {
    for (spec, place) in [
        ("  errors: Precise\n", "CFG-WORD spec.errors"),
        ("  errors: [dapr]\n", "CFG-TYPE spec.errors"),
        ("  builtin: off\n", "CFG-TYPE spec.builtin"),
        (
            "  builtin: {service: on}\n",
            "CFG-WORD spec.builtin.service",
        ),
        (
            "  builtin: {service: -1}\n",
            "CFG-RANGE spec.builtin.service",
        ),
        ("  builtin: {actor: '2'}\n", "CFG-WORD spec.builtin.actor"),
        ("  builtin: {actor: 1.5}\n", "CFG-TYPE spec.builtin.actor"),
        (
            "  policies: {retries: {a: {policy: exponential, multiplier: 0.9}}}\n",
            "CFG-RANGE spec.policies.retries.a.multiplier",
        ),
        (
            "  policies: {retries: {a: {policy: exponential, multiplier: .inf}}}\n",
            "CFG-RANGE spec.policies.retries.a.multiplier",
        ),
        (
            "  policies: {retries: {a: {policy: exponential, randomizationFactor: .nan}}}\n",
            "CFG-RANGE spec.policies.retries.a.randomizationFactor",
        ),
        (
            "  policies: {retries: {a: {jitter: 20%}}}\n",
            "CFG-TYPE spec.policies.retries.a.jitter",
        ),
        (
            "  policies: {retries: {a: {jitter: 1.5}}}\n",
            "CFG-RANGE spec.policies.retries.a.jitter",
        ),
        (
            "  policies: {retries: {a: {maxElapsedTime: long}}}\n",
            "CFG-DURATION spec.policies.retries.a.maxElapsedTime",
        ),
        (
            "  policies: {retries: {a: {budget: 0.2}}}\n",
            "CFG-TYPE spec.policies.retries.a.budget",
        ),
        (
            "  policies: {retries: {a: {budget: {ratio: -1}}}}\n",
            "CFG-RANGE spec.policies.retries.a.budget.ratio",
        ),
        (
            "  policies: {retries: {a: {attemptMarker: 1}}}\n",
            "CFG-TYPE spec.policies.retries.a.attemptMarker",
        ),
        (
            "  policies: {circuitBreakers: {a: {matching: {httpStatusCodes: '500, 502'}}}}\n",
            "CFG-CODES spec.policies.circuitBreakers.a.matching.httpStatusCodes",
        ),
        (
            "  policies: {circuitBreakers: {a: {onOpen: deadletter}}}\n",
            "CFG-WORD spec.policies.circuitBreakers.a.onOpen",
        ),
        (
            "  targets: {apps: {a: {methods: {match: a}}}}\n",
            "CFG-TYPE spec.targets.apps.a.methods",
        ),
        (
            "  targets: {apps: {a: {methods: [orders]}}}\n",
            "CFG-TYPE spec.targets.apps.a.methods[0]",
        ),
        (
            "  targets: {apps: {a: {methods: [{retry: r, match: ''}]}}}\n",
            "CFG-REQUIRED spec.targets.apps.a.methods[0].match",
        ),
        (
            "  targets: {apps: {a: {methods: [{}]}}}\n",
            "CFG-REQUIRED spec.targets.apps.a.methods[0].match",
        ),
        (
            "  targets: {apps: {a: {methods: [{match: /or*}]}}}\n",
            "CFG-PATTERN spec.targets.apps.a.methods[0].match",
        ),
        (
            "  targets: {apps: {a: {methods: [{match: a, verbs: GET}]}}}\n",
            "CFG-TYPE spec.targets.apps.a.methods[0].verbs",
        ),
        (
            "  targets: {apps: {a: {methods: [{match: a, verbs: [GET, 'P T']}]}}}\n",
            "CFG-WORD spec.targets.apps.a.methods[0].verbs[1]",
        ),
        (
            "  targets: {apps: {a: {methods: [{match: a, breakerKey: verb}]}}}\n",
            "CFG-WORD spec.targets.apps.a.methods[0].breakerKey",
        ),
        (
            "  targets: {components: {a: {inbound: {onOpen: wait}}}}\n",
            "CFG-WORD spec.targets.components.a.inbound.onOpen",
        ),
        (
            "  targets: {components: {a: {outbound: {errors: none}}}}\n",
            "CFG-WORD spec.targets.components.a.outbound.errors",
        ),
    ] {
        let loaded = load_spec(spec);
        assert_eq!(loaded.resiliencies, [], "{spec}");
        let errors = loaded.diagnostics.into_iter().filter(Diagnostic::is_error);
        let errors: Vec<_> = errors.collect();
        assert_eq!(told(&errors), [place], "{spec}");
        assert!(
            errors[0].expected.is_some() || errors[0].code == "CFG-CODES",
            "{}",
            errors[0]
        );
    }
}

#[test]
fn every_fault_of_the_acceptance_list_refuses_its_resource_and_no_other() {
    let retry =
        |codes: &str| format!("  policies: {{retries: {{a: {{matching: {{{codes}}}}}}}}}\n");
    let trip = |text: &str| format!("  policies: {{circuitBreakers: {{a: {{trip: '{text}'}}}}}}\n");
    let faults = [
        retry("httpStatusCodes: '500, 502'"),
        retry("httpStatusCodes: '600'"),
        retry("httpStatusCodes: '99'"),
        retry("httpStatusCodes: '20-10'"),
        retry("httpStatusCodes: '1-2-3'"),
        retry("gRPCStatusCodes: '17'"),
        "  targets: {actors: {a: {circuitBreaker: c}}}\n".to_owned(),
        trip("consecutiveFailures >"),
        trip("foo() > 1"),
    ];
    for fault in faults {
        let good = resource("Resiliency", "good", "  policies: {timeouts: {t: 5s}}\n");
        let bad = resource("Resiliency", "bad", &fault);
        let loaded = load_text(&format!("{bad}---\n{good}"));
        let names: Vec<_> = loaded.resiliencies.iter().map(|r| &r.name).collect();
        assert_eq!(names, ["good"], "{fault}");
        let refused: Vec<_> = loaded
            .refused_resiliencies
            .iter()
            .map(|r| &r.name)
            .collect();
        assert_eq!(refused, ["bad"], "{fault}");
        assert_eq!(loaded.rejected.len(), 1);
    }
}

#[test]
fn lists_of_codes_are_independent_and_a_comma_matches_nothing() {
    let resource = one(
        "  policies:\n    retries:\n      grpc: {maxRetries: 3, matching: {gRPCStatusCodes: '14'}}\n      none: {maxRetries: 3, matching: {httpStatusCodes: ','}}\n",
    );
    let retries = &resource.policies.retries;
    assert!(retries["grpc"].http_codes.contains(500));
    assert!(!retries["grpc"].grpc_codes.contains(13));
    assert!(!retries["none"].http_codes.contains(500));
    assert!(retries["none"].grpc_codes.contains(13));
}

#[test]
fn the_valid_rest_of_a_resource_is_never_half_applied() {
    let bad = resource(
        "Resiliency",
        "bad",
        "  errors: precise\n  builtin: {service: off}\n  policies:\n    timeouts: {t: 5s, u: 5 sec}\n    retries: {r: {maxRetries: x}}\n  targets:\n    apps: {a: {timeout: t, methods: [{}]}}\n",
    );
    let user = resource(
        "Resiliency",
        "user",
        "  targets: {apps: {b: {timeout: t}}}\n",
    );
    let loaded = load_text(&format!("{bad}---\n{user}"));
    let names: Vec<_> = loaded.resiliencies.iter().map(|r| &r.name).collect();
    assert_eq!(names, ["user"]);
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-DURATION spec.policies.timeouts.u",
            "CFG-TYPE spec.policies.retries.r.maxRetries",
            "CFG-REQUIRED spec.targets.apps.a.methods[0].match",
            "CFG-UNKNOWN-POLICY spec.targets.apps.b",
        ]
    );
}

#[test]
fn what_is_refused_has_its_name_even_if_it_does_not_parse() {
    let broken = resource("Resiliency", "broken", "  policies: [\n");
    let bad = resource("Resiliency", "bad", "  policies: 5\n");
    let other = resource("Component", "other", "  type: [\n");
    let nameless = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nspec: {targets: []}\n";
    let loaded = load_text(
        &[&broken, &bad, &other, nameless]
            .map(String::from)
            .join("---\n"),
    );
    let refused: Vec<_> = loaded
        .refused_resiliencies
        .iter()
        .map(|Refused { name, place }| (name.as_str(), &*place.file, place.line))
        .collect();
    assert_eq!(
        refused,
        [
            ("broken", "dir/file.yaml", 1),
            ("bad", "dir/file.yaml", 11),
            ("", "dir/file.yaml", 22)
        ]
    );
    assert_eq!(loaded.rejected.len(), 4);
}

#[test]
fn durations_that_surprise_are_told() {
    let loaded = load_spec(
        "  policies:\n    timeouts: {a: 5, b: 5000, c: -1s, d: 0, e: -5, f: '7'}\n    retries: {r: {duration: 3, maxRetries: 2}}\n    circuitBreakers: {c: {interval: -1, timeout: -1s}}\n  targets:\n    apps: {x: {totalTimeout: 30}}\n",
    );
    assert_eq!(loaded.rejected, []);
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-DURATION-UNIT spec.policies.timeouts.a",
            "CFG-DURATION-UNIT spec.policies.timeouts.b",
            "CFG-DURATION-NEGATIVE spec.policies.timeouts.c",
            "CFG-DURATION-NEGATIVE spec.policies.timeouts.e",
            "CFG-DURATION-UNIT spec.policies.timeouts.f",
            "CFG-DURATION-UNIT spec.policies.retries.r.duration",
            "CFG-DURATION-NEGATIVE spec.policies.circuitBreakers.c.interval",
            "CFG-DURATION-NEGATIVE spec.policies.circuitBreakers.c.timeout",
            "CFG-DURATION-UNIT spec.targets.apps.x.totalTimeout",
        ]
    );
    assert_eq!(
        loaded.diagnostics[0].summary(),
        "`a` has no unit, 5 is 5ms; write `5ms` or `5s`"
    );
    let policies = &loaded.resiliencies[0].policies;
    assert_eq!(policies.timeouts["a"].limit, Some(Duration::from_millis(5)));
    assert_eq!(
        loaded.resiliencies[0].targets.apps["x"]
            .policies
            .total_timeout,
        Some(TotalTimeout::Limit(Duration::from_millis(30)))
    );
}

#[test]
fn an_exponential_retry_without_end_that_ends_is_told() {
    let loaded = load_spec(
        "  policies:\n    retries:\n      a: {policy: exponential}\n      b: {policy: exponential, maxRetries: -1, maxInterval: 15s}\n      c: {policy: exponential, maxRetries: 3}\n      d: {policy: exponential, maxElapsedTime: 0s}\n      e: {policy: constant}\n      DaprBuiltInActorRetries: {policy: exponential}\n",
    );
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-RETRY-ELAPSED spec.policies.retries.a",
            "CFG-RETRY-ELAPSED spec.policies.retries.b",
            "CFG-BUILT-IN spec.policies.retries.DaprBuiltInActorRetries"
        ]
    );
}

#[test]
fn what_has_no_effect_is_told() {
    let loaded = load_spec(
        "  policies:\n    timeouts: {DefaultTimeoutPolicy: 59s}\n    retries:\n      DaprBuiltInServiceRetries: {maxRetries: 5, matching: {httpStatusCodes: '503'}}\n      a: {policy: exponential, maxRetries: 1, jitter: 0.1}\n      b: {initialInterval: 1s, Multiplier: 2, budget: {}, retryBudget: {}}\n  targets:\n    apps: {a: {methods: [{match: /a}, {match: a/, verbs: [GETT]}, {match: /a/b, verbs: [GET, PUT]}, {match: /a/b, verbs: [GET]}, {match: /a/b}]}}\n    components: {c: {outbound: {onOpen: nack}, errors: dapr}}\n  policy: {}\n  apps: {}\n",
    );
    assert_eq!(loaded.rejected, []);
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-WORKFLOW-TIMEOUT spec.policies.timeouts.DefaultTimeoutPolicy",
            "CFG-NO-EFFECT spec.policies.retries.DaprBuiltInServiceRetries",
            "CFG-NO-EFFECT spec.policies.retries.a.jitter",
            "CFG-NO-EFFECT spec.policies.retries.b.initialInterval",
            "CFG-NO-EFFECT spec.policies.retries.b.Multiplier",
            "CFG-DUPLICATE spec.policies.retries.b.retryBudget",
            "CFG-NO-EFFECT spec.targets.apps.a.methods[1]",
            "CFG-WORD spec.targets.apps.a.methods[1].verbs[0]",
            "CFG-NO-EFFECT spec.targets.apps.a.methods[3]",
            "CFG-UNKNOWN-FIELD spec.targets.components.c.outbound.onOpen",
            "CFG-UNKNOWN-FIELD spec.targets.components.c.errors",
            "CFG-UNKNOWN-FIELD spec.policy",
            "CFG-UNKNOWN-FIELD spec.apps",
        ]
    );
}

#[test]
fn a_list_in_place_of_a_map_is_told_with_what_to_write() {
    for (spec, path) in [
        (
            "  policies:\n    retries:\n    - name: r\n      policy: constant\n",
            "spec.policies.retries",
        ),
        ("  policies:\n  - timeouts: {}\n", "spec.policies"),
        ("  targets:\n    apps:\n    - a\n", "spec.targets.apps"),
        (
            "  targets:\n    components:\n      c:\n      - outbound: {}\n",
            "spec.targets.components.c",
        ),
    ] {
        let loaded = load_spec(spec);
        assert_eq!(told(&loaded.diagnostics), [format!("CFG-TYPE {path}")]);
        let help = loaded.diagnostics[0].help.as_deref().unwrap_or_default();
        assert!(help.contains("without a dash"), "{help}");
    }
}

#[test]
fn a_condition_that_can_only_fail_is_told() {
    let loaded = load_spec(
        "  policies:\n    circuitBreakers:\n      a: {trip: totalFailures * 1.0 / requests > 0.5}\n      b: {trip: consecutiveFailures}\n      c: {trip: consecutivefailures > 1 && request > 3}\n      d: {trip: 'double(totalFailures) / double(requests) >= 0.5'}\n",
    );
    assert_eq!(loaded.rejected, []);
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-TRIP spec.policies.circuitBreakers.a.trip",
            "CFG-TRIP spec.policies.circuitBreakers.b.trip",
            "CFG-TRIP spec.policies.circuitBreakers.c.trip",
            "CFG-TRIP spec.policies.circuitBreakers.c.trip",
        ]
    );
    let helps: Vec<_> = loaded.diagnostics[2..]
        .iter()
        .map(|told| told.help.as_deref().unwrap_or_default())
        .collect();
    assert_eq!(
        helps,
        [
            "did you mean `consecutiveFailures`?",
            "did you mean `requests`?"
        ]
    );
}

#[test]
fn a_condition_that_does_not_compile_is_told_where_it_breaks() {
    let loaded = load_spec(
        "  policies:\n    circuitBreakers:\n      a: {trip: requests > 1 && foo() > 1}\n      b:\n        trip: |\n          requests > 1 &&\n          foo() > 1\n",
    );
    assert_eq!(
        located(&loaded.diagnostics),
        [
            "CFG-EXPRESSION 8:33 spec.policies.circuitBreakers.a.trip",
            "CFG-EXPRESSION 11:11 spec.policies.circuitBreakers.b.trip",
        ]
    );
    let second = &loaded.diagnostics[1].message;
    assert!(
        second.contains("(line 2, column 1 of the expression)"),
        "{second}"
    );
}

fn annotated(annotation: &str, spec: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: r\n  annotations:\n    other: x\n    outrigger.dev/resiliency: {annotation}\n{spec}"
    )
}

#[test]
fn the_annotation_is_merged_over_the_spec() {
    let block = "|\n      errors: precise\n      Policies:\n        retries:\n          r: {MAXRETRIES: 7, budget: {ratio: 0.1}}\n          R: {maxRetries: 1}\n        timeouts: {t: null, u: 6s}\n      targets:\n        apps: {a: {methods: [{match: /x, retry: r}]}}\n";
    let spec = "spec:\n  errors: dapr\n  policies:\n    retries:\n      r: {maxRetries: 3, duration: 1s, matching: {httpStatusCodes: '500'}}\n    timeouts: {v: 5s}\n  targets:\n    apps: {a: {retry: R}}\n";
    let loaded = load_text(&annotated(block, spec).replace("t: null, ", ""));
    assert_eq!(loaded.diagnostics, []);
    let merged = &loaded.resiliencies[0];
    assert_eq!(merged.errors, Some(ErrorStyle::Precise));
    let retry = &merged.policies.retries["r"];
    assert_eq!(
        (retry.max_retries, &retry.http_codes),
        (Some(7), &CodeMatch::Only(vec![500..=500]))
    );
    assert_eq!(retry.budget.map(|budget| budget.ratio), Some(0.1));
    assert_eq!(merged.policies.retries["R"].max_retries, Some(1));
    let timeouts: Vec<_> = merged.policies.timeouts.keys().collect();
    assert_eq!(timeouts, ["u", "v"]);
    let app = &merged.targets.apps["a"];
    assert_eq!(app.policies.retry.as_deref(), Some("R"));
    assert_eq!(app.methods.len(), 1);
    let quoted = load_text(&annotated("'errors: precise'", ""));
    assert_eq!(quoted.diagnostics, []);
    assert_eq!(quoted.resiliencies[0].errors, Some(ErrorStyle::Precise));
    let empty = load_text(&annotated("''", spec));
    assert_eq!(empty.resiliencies[0].errors, Some(ErrorStyle::Dapr));
}

#[test]
fn a_changed_annotation_changes_the_fingerprint() {
    let of = |text: &str| load_text(&annotated(text, "")).resiliencies[0].fingerprint;
    assert_ne!(of("'errors: precise'"), of("'errors: dapr'"));
}

#[test]
fn faults_in_the_annotation_are_told_in_its_lines() {
    let block = "|\n\n      # of ours\n      policies:\n        timeouts: {a: 5 sec, a: 5s}\n        retries:\n          r: {maxRetry: 3}\n      targets:\n        apps: {x: {retry: q}}\n";
    let spec = "spec:\n  policies:\n    timeouts: {b: 1 sec}\n";
    let at = "metadata.annotations[outrigger.dev/resiliency]";
    let text = annotated(block, spec);
    let loaded = load_text(&text.replace("a: 5 sec, a: 5s", "a: 5s, a: 5 sec"));
    assert_eq!(
        located(&loaded.diagnostics),
        [
            format!("CFG-DUPLICATE 11:27 {at}.policies.timeouts.a"),
            format!("CFG-DURATION 11:30 {at}.policies.timeouts.a"),
            format!("CFG-UNKNOWN-FIELD 13:15 {at}.policies.retries.r.maxRetry"),
            "CFG-DURATION 19:19 spec.policies.timeouts.b".to_owned(),
        ]
    );
    let duplicate = loaded.diagnostics[0].help.as_deref().unwrap_or_default();
    assert!(duplicate.contains("line 11"), "{duplicate}");
    let loaded = load_text(&text.replace("1 sec", "1s").replace("5 sec", "6s"));
    let last = loaded.diagnostics.last();
    assert_eq!(
        located(last.map(std::slice::from_ref).unwrap_or_default()),
        [format!("CFG-UNKNOWN-POLICY 15:19 {at}.targets.apps.x")]
    );
}

#[test]
fn an_annotation_of_one_line_is_told_where_it_begins() {
    let at = "metadata.annotations[outrigger.dev/resiliency]";
    let loaded = load_text(&annotated(
        "\"policies:\\n  timeouts: {a: x}\\n  circuitBreakers: {c: {trip: foo()}}\"",
        "spec: {}\n",
    ));
    assert_eq!(
        located(&loaded.diagnostics),
        [
            format!("CFG-DURATION 7:31 {at}.policies.timeouts.a"),
            format!("CFG-EXPRESSION 7:31 {at}.policies.circuitBreakers.c.trip"),
        ]
    );
}

#[test]
fn an_annotation_that_is_no_map_refuses_the_resource() {
    for (annotation, place) in [
        ("precise", "CFG-ANNOTATION 7:31"),
        ("'[a]'", "CFG-ANNOTATION 7:31"),
        ("'a: ['", "CFG-ANNOTATION 7:31"),
        (
            "|\n      errors: dapr\n      policies: [\n",
            "CFG-ANNOTATION 9:",
        ),
        (
            "|\n      errors: dapr\n      ---\n      errors: precise\n",
            "CFG-ANNOTATION",
        ),
        ("{errors: precise}", "CFG-TYPE"),
    ] {
        let loaded = load_text(&annotated(annotation, "spec: {}\n"));
        assert_eq!(loaded.resiliencies, [], "{annotation}");
        assert_eq!(loaded.refused_resiliencies[0].name, "r");
        let told = located(&loaded.diagnostics);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(place), "{annotation}: {told:?}");
    }
}

#[test]
fn a_later_resource_wins_and_one_of_another_app_is_ignored() {
    let first = resource("Resiliency", "a", "  policies: {timeouts: {r1: 1s}}\n");
    let second = resource("Resiliency", "b", "  policies: {timeouts: {r1: 2s}}\n");
    let third = resource(
        "Resiliency",
        "c",
        "  policies: {timeouts: {r1: 3s}}\nscopes: [other]\n",
    );
    let loaded = load_text(&[first, second, third].join("---\n"));
    let names: Vec<_> = loaded
        .resiliencies
        .iter()
        .map(|r| r.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        told(&loaded.diagnostics),
        ["CFG-DUPLICATE spec.policies.timeouts.r1"]
    );
}

#[test]
fn names_in_methods_and_total_timeouts_are_looked_up_too() {
    let loaded = load_spec(
        "  policies: {timeouts: {slow: 60s}}\n  targets:\n    apps: {a: {totalTimeout: slwo, methods: [{match: /x, retry: nosuch, totalTimeout: slow}]}}\n    components: {c: {inbound: {totalTimeout: 5 sec}}}\n",
    );
    assert_eq!(loaded.resiliencies.len(), 1);
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-UNKNOWN-POLICY spec.targets.apps.a",
            "CFG-UNKNOWN-POLICY spec.targets.apps.a.methods[0]",
            "CFG-UNKNOWN-POLICY spec.targets.components.c",
        ]
    );
    assert_eq!(
        loaded.diagnostics[0].help.as_deref(),
        Some("did you mean `slow`?")
    );
}

fn advice(spec: &str) -> Vec<String> {
    told(&advise(&[one(spec)]))
}

#[test]
fn policies_that_nothing_reaches_are_advised_of() {
    let resources = load_text(
        &[
            resource("Resiliency", "a", "  policies:\n    timeouts: {used: 1s, total: 2s, method: 3s, idle: 4s, DefaultSecretstoreComponentTimeoutPolicy: 5s, DefaultStatestoreComponentOutboundTimeoutPolicy: 5s, DefaultRetryPolicy: 1s}\n    retries: {DaprBuiltInServiceRetries: {maxRetries: 4}, DefaultPubsubComponentInboundRetryPolicy: {maxRetries: 1}, DefaultLockComponentInboundRetryPolicy: {maxRetries: 1}}\n    circuitBreakers: {DefaultCircuitBreakerPolicy: {}, used: {}}\n"),
            resource("Resiliency", "b", "  targets:\n    apps: {x: {timeout: used, totalTimeout: total, methods: [{match: m, timeout: method}]}}\n"),
        ]
        .join("---\n"),
    )
    .resiliencies;
    assert_eq!(
        told(&advise(&resources)),
        [
            "CFG-UNREACHED spec.policies.timeouts.idle",
            "CFG-UNREACHED spec.policies.timeouts.DefaultSecretstoreComponentTimeoutPolicy",
            "CFG-UNREACHED spec.policies.timeouts.DefaultRetryPolicy",
            "CFG-UNREACHED spec.policies.retries.DefaultLockComponentInboundRetryPolicy",
            "CFG-UNREACHED spec.policies.circuitBreakers.used",
        ]
    );
    assert!(advise(&resources).iter().all(|told| told.help.is_some()));
}

#[test]
fn retries_without_end_are_advised_of() {
    assert_eq!(
        advice(
            "  policies:\n    retries: {DefaultActorRetryPolicy: {}, DefaultComponentRetryPolicy: {maxRetries: -1, maxElapsedTime: 1m}, DefaultComponentInboundRetryPolicy: {totalTimeout: 1m}}\n"
        ),
        ["CFG-ENDLESS spec.policies.retries.DefaultActorRetryPolicy"]
    );
}

#[test]
fn milliseconds_that_are_meant_as_seconds_are_advised_of() {
    assert_eq!(
        advice(
            "  policies:\n    timeouts: {DefaultAppTimeoutPolicy: 5, DefaultActorTimeoutPolicy: 10ms, DefaultComponentTimeoutPolicy: 0}\n    retries: {DefaultActorRetryPolicy: {duration: 5, maxRetries: 1}, DefaultComponentRetryPolicy: {duration: 0, maxRetries: 1}}\n"
        ),
        [
            "CFG-SHORT spec.policies.timeouts.DefaultAppTimeoutPolicy",
            "CFG-SHORT spec.policies.retries.DefaultActorRetryPolicy"
        ]
    );
}

#[test]
fn retries_around_retries_are_advised_of() {
    let multiplied = ["CFG-MULTIPLIED spec.policies.retries.DefaultRetryPolicy"];
    let default = "DefaultRetryPolicy: {maxRetries: 3}";
    let of = |built_in: &str, retries: &str| {
        advice(&format!(
            "{built_in}  policies:\n    retries: {{{retries}}}\n"
        ))
    };
    assert_eq!(of("", default), multiplied);
    assert_eq!(of("  builtin: {service: 1}\n", default), multiplied);
    assert_eq!(of("  builtin: {service: off}\n", default), [""; 0]);
    let app = format!("{default}, DefaultAppRetryPolicy: {{maxRetries: 0}}");
    assert_eq!(of("", &app), [""; 0]);
    let told = advise(&[one(&format!("  policies:\n    retries: {{{default}}}\n"))]);
    assert!(told[0].message.contains("up to 16 attempts"), "{}", told[0]);
}

#[test]
fn an_actor_type_without_retry_is_advised_of() {
    assert_eq!(
        advice(
            "  policies: {timeouts: {t: 60s}, retries: {r: {maxRetries: 1}}}\n  targets: {actors: {A: {timeout: t}, B: {retry: r}}}\n"
        ),
        ["CFG-ACTOR-RETRY spec.targets.actors.A"]
    );
}
