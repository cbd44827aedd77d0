//! Random Resiliency resources: whatever comes, it is taken as a whole or refused as a whole, nothing panics, and it
//! takes bounded time.
//!
//! `OUTRIGGER_FUZZ_CASES=1000000 cargo test --release -p outrigger-config --test fuzz_resiliency` runs for long.

use std::time::{Duration, Instant};

use outrigger_config::load::{Loaded, load};
use outrigger_config::resiliency::{Jitter, ResiliencyResource, RetryBackOff, advise};
use outrigger_config::{Context, Diagnostic, ResourceKind};
use outrigger_policy::trip::Trip;
use proptest::prelude::*;
use proptest::sample::select;

/// Far above what any document may take, on a busy machine and without optimisation.
const LIMIT: Duration = Duration::from_secs(5);

fn cases(divisor: u32) -> ProptestConfig {
    let cases: u32 = std::env::var("OUTRIGGER_FUZZ_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(400);
    ProptestConfig {
        cases: (cases / divisor).max(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A value of a document.
#[derive(Clone, Debug)]
enum Node {
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

const KEYS: [&str; 63] = [
    "policies",
    "targets",
    "errors",
    "builtin",
    "service",
    "initialization",
    "actor",
    "actorNotFound",
    "timeouts",
    "retries",
    "circuitBreakers",
    "policy",
    "duration",
    "maxInterval",
    "maxRetries",
    "initialInterval",
    "multiplier",
    "randomizationFactor",
    "maxElapsedTime",
    "jitter",
    "totalTimeout",
    "maxPushback",
    "budget",
    "retryBudget",
    "ratio",
    "minPerSecond",
    "attemptMarker",
    "matching",
    "httpStatusCodes",
    "gRPCStatusCodes",
    "maxRequests",
    "interval",
    "timeout",
    "trip",
    "ignoreClientErrors",
    "countStreamErrors",
    "onOpen",
    "apps",
    "actors",
    "components",
    "inbound",
    "outbound",
    "retry",
    "circuitBreaker",
    "circuitBreakerScope",
    "circuitBreakerCacheSize",
    "methods",
    "match",
    "verbs",
    "breakerKey",
    "a",
    "b",
    "DefaultRetryPolicy",
    "DefaultTimeoutPolicy",
    "DaprBuiltInServiceRetries",
    "DaprBuiltInActorNotFoundRetries",
    "spec",
    "Policies",
    "MAXRETRIES",
    "<<",
    "~",
    "''",
    "0x10",
];

const SCALARS: [&str; 77] = [
    "5s",
    "-5s",
    "500",
    "-1",
    "0",
    "''",
    "5 sec",
    "1h30m",
    "2562047h47m16.854775807s",
    "2562048h",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "-0.0",
    "0.5",
    "1.5",
    ".nan",
    ".inf",
    "-.Inf",
    "0x7fffffff",
    "0b1",
    "010",
    "1_000",
    "1:30",
    "2024-01-01",
    "true",
    "false",
    "yes",
    "off",
    "'off'",
    "on",
    "null",
    "~",
    "",
    "constant",
    "Exponential",
    "linear",
    "dapr",
    "precise",
    "hold",
    "nack",
    "deadLetter",
    "type",
    "id",
    "both",
    "path",
    "pattern",
    "app",
    "a",
    "b",
    "GET",
    "get it",
    "/orders/*",
    "/*/*x",
    "'*'",
    "'429,500-599'",
    "'500, 502'",
    "','",
    "'0-16'",
    "17",
    "'1-2-3'",
    "consecutiveFailures > 5",
    "consecutiveFailures >",
    "'foo() > 1'",
    "totalFailures * 1.0 / requests > 0.5",
    "nosuch > 1",
    "'((((((((((requests))))))))))'",
    "!!int '5'",
    "!!binary aGk=",
    "!x y",
    "&x 5",
    "*x",
    "\"\\u0000\"",
    "\"é\\n\"",
    "'\u{1F600}'",
];

/// Anything anywhere.
fn anything() -> impl Strategy<Value = Node> {
    let scalar = prop_oneof![
        12 => select(SCALARS.to_vec()).prop_map(str::to_owned),
        1 => "[a-z0-9*/.,>< -]{0,12}",
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| format!("{number:e}")),
    ];
    let key = select(KEYS.to_vec()).prop_map(str::to_owned);
    scalar
        .prop_map(Node::Scalar)
        .prop_recursive(5, 48, 5, move |inner| {
            prop_oneof![
                1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Node::List),
                4 => proptest::collection::vec((key.clone(), inner), 0..6).prop_map(Node::Map),
            ]
        })
}

/// A map with some of the fields, each with what it usually has.
fn fields(fields: Vec<(&'static str, BoxedStrategy<Node>)>) -> BoxedStrategy<Node> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| {
            let named = value.prop_map(move |value| (name.to_owned(), value));
            proptest::option::weighted(0.4, named)
        })
        .collect();
    fields
        .prop_map(|fields| Node::Map(fields.into_iter().flatten().collect()))
        .boxed()
}

/// One of the values, and rarely something else.
fn mostly(values: &[&'static str]) -> BoxedStrategy<Node> {
    let values = select(values.to_vec()).prop_map(|value| Node::Scalar(value.to_owned()));
    prop_oneof![24 => values, 1 => anything()].boxed()
}

fn named(value: BoxedStrategy<Node>) -> BoxedStrategy<Node> {
    let names = select(vec![
        "a",
        "b",
        "c",
        "DefaultRetryPolicy",
        "DefaultAppRetryPolicy",
        "DefaultTimeoutPolicy",
        "DaprBuiltInServiceRetries",
    ]);
    proptest::collection::vec((names.prop_map(str::to_owned), value), 0..4)
        .prop_map(Node::Map)
        .boxed()
}

fn durations() -> BoxedStrategy<Node> {
    mostly(&["5s", "100ms", "5", "-1s", "0", "''", "1h", "1.5s", "90s"])
}

fn codes() -> BoxedStrategy<Node> {
    fields(vec![
        (
            "httpStatusCodes",
            mostly(&["'500-599'", "429", "','", "'404,500'"]),
        ),
        ("gRPCStatusCodes", mostly(&["'14'", "1", "'1-3'", "''"])),
    ])
}

fn budget() -> BoxedStrategy<Node> {
    fields(vec![
        ("ratio", mostly(&["0.2", "0", "1"])),
        ("minPerSecond", mostly(&["10", "0.5"])),
    ])
}

fn names(mut more: Vec<(&'static str, BoxedStrategy<Node>)>) -> BoxedStrategy<Node> {
    more.extend([
        ("timeout", mostly(&["a", "b", "nosuch"])),
        ("retry", mostly(&["a", "DaprBuiltInServiceRetries"])),
        ("circuitBreaker", mostly(&["a", "b"])),
        ("totalTimeout", mostly(&["a", "5s", "5", "-1s", "5 sec"])),
        ("budget", budget()),
        ("errors", mostly(&["dapr", "precise"])),
    ]);
    fields(more)
}

/// What `spec` may hold.
fn spec() -> BoxedStrategy<Node> {
    let retry = fields(vec![
        ("policy", mostly(&["constant", "exponential", "Constant"])),
        ("duration", durations()),
        ("maxInterval", durations()),
        ("initialInterval", durations()),
        ("maxElapsedTime", durations()),
        ("totalTimeout", durations()),
        ("maxPushback", durations()),
        ("maxRetries", mostly(&["3", "-1", "0", "4294967296"])),
        ("multiplier", mostly(&["1", "1.5", "2"])),
        ("randomizationFactor", mostly(&["0", "0.5", "1"])),
        ("jitter", mostly(&["0", "0.5", "1"])),
        ("budget", budget()),
        ("retryBudget", budget()),
        ("attemptMarker", mostly(&["true", "false"])),
        ("matching", codes()),
    ]);
    let breaker = fields(vec![
        ("maxRequests", mostly(&["1", "0", "3"])),
        ("interval", durations()),
        ("timeout", durations()),
        (
            "trip",
            mostly(&["consecutiveFailures >= 3", "requests > 4", "nosuch > 1"]),
        ),
        ("matching", codes()),
        ("ignoreClientErrors", mostly(&["true", "false"])),
        ("countStreamErrors", mostly(&["true", "false"])),
        ("onOpen", mostly(&["hold", "nack", "deadLetter"])),
    ]);
    let policies = fields(vec![
        ("timeouts", named(durations())),
        ("retries", named(retry)),
        ("circuitBreakers", named(breaker)),
    ]);
    let verbs = proptest::collection::vec(mostly(&["GET", "post", "GETT"]), 0..3);
    let method = names(vec![
        ("match", mostly(&["/a", "/a/*", "'*'"])),
        ("verbs", verbs.prop_map(Node::List).boxed()),
        ("breakerKey", mostly(&["path", "pattern", "app"])),
    ]);
    let methods = proptest::collection::vec(method, 0..3).prop_map(Node::List);
    let app = names(vec![
        ("methods", methods.boxed()),
        ("circuitBreakerCacheSize", mostly(&["5", "0"])),
    ]);
    let actor = names(vec![
        ("circuitBreakerScope", mostly(&["type", "id", "both"])),
        ("circuitBreakerCacheSize", mostly(&["5", "0"])),
    ]);
    let component = fields(vec![
        (
            "inbound",
            names(vec![("onOpen", mostly(&["hold", "nack", "deadLetter"]))]),
        ),
        ("outbound", names(Vec::new())),
    ]);
    let targets = fields(vec![
        ("apps", named(app)),
        ("actors", named(actor)),
        ("components", named(component)),
    ]);
    let built_in = fields(vec![
        ("service", mostly(&["off", "1", "'off'"])),
        ("actor", mostly(&["off", "0"])),
        ("actorNotFound", mostly(&["false"])),
        ("initialization", mostly(&["5"])),
    ]);
    fields(vec![
        ("errors", mostly(&["dapr", "precise"])),
        ("builtin", built_in),
        ("policies", policies),
        ("targets", targets),
    ])
}

/// In the flow style, or in the block style.
fn write(node: &Node, indent: Option<usize>, text: &mut String) {
    let inner = indent.map(|indent| indent + 2);
    let pad = "\n".to_owned() + &" ".repeat(indent.unwrap_or(0));
    match (node, indent) {
        (Node::Scalar(scalar), _) => text.push_str(scalar),
        (Node::List(items), Some(_)) if !items.is_empty() => {
            for item in items {
                text.push_str(&pad);
                text.push_str("- ");
                write(item, inner, text);
            }
        }
        (Node::Map(entries), Some(_)) if !entries.is_empty() => {
            for (key, value) in entries {
                text.push_str(&pad);
                text.push_str(&format!("{key}: "));
                write(value, inner, text);
            }
        }
        (Node::List(items), _) => {
            text.push('[');
            for item in items {
                write(item, None, text);
                text.push_str(", ");
            }
            text.push(']');
        }
        (Node::Map(entries), _) => {
            text.push('{');
            for (key, value) in entries {
                text.push_str(&format!("{key}: "));
                write(value, None, text);
                text.push_str(", ");
            }
            text.push('}');
        }
    }
}

fn resource(name: &str, spec: &Node, annotation: Option<&Node>, is_block: bool) -> String {
    let mut text =
        format!("apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: {name}\n");
    if let Some(annotation) = annotation {
        let mut inner = String::new();
        write(annotation, is_block.then_some(6), &mut inner);
        let inner = inner.trim_start_matches('\n');
        text.push_str("  annotations:\n    outrigger.dev/resiliency: |\n");
        if !inner.starts_with(' ') {
            text.push_str("      ");
        }
        text.push_str(inner);
        text.push('\n');
    }
    text.push_str("spec: ");
    write(spec, is_block.then_some(2), &mut text);
    text.push('\n');
    text
}

/// Loads, and looks at everything that must hold of any text.
fn load_it(text: &str) -> Loaded {
    let context = Context {
        app_id: "app".into(),
        namespace: None,
        kubernetes: false,
    };
    let started = Instant::now();
    let loaded = load(&[("r.yaml".to_owned(), text.to_owned())], &context, &|_| {
        Ok(())
    });
    let advice = advise(&loaded.resiliencies);
    let took = started.elapsed();
    assert!(took < LIMIT, "{took:?} for {text}");
    let lines = u32::try_from(text.matches(['\n', '\r']).count() + 1).unwrap_or(u32::MAX);
    for told in loaded.diagnostics.iter().chain(&advice) {
        assert!((1..=lines).contains(&told.place.line), "{told}\n{text}");
        let message = &told.message;
        assert!(!message.is_empty() && !message.contains('\n'), "{told}");
    }
    assert!(!advice.iter().any(Diagnostic::is_error));
    for refused in &loaded.refused_resiliencies {
        let is_same = |place: &outrigger_config::Place| place.file == refused.place.file;
        assert!(loaded.rejected.iter().any(|other| is_same(&other.place)));
    }
    for resource in &loaded.resiliencies {
        assert_valid(resource, text);
    }
    loaded
}

fn assert_valid(resource: &ResiliencyResource, text: &str) {
    for policy in resource.policies.retries.values() {
        let share = 0.0..=1.0;
        match policy.back_off {
            RetryBackOff::Constant {
                jitter: Jitter::Share(jitter),
                ..
            } => assert!(share.contains(&jitter), "{text}"),
            RetryBackOff::Constant { .. } => {}
            RetryBackOff::Exponential {
                multiplier,
                randomization,
                ..
            } => assert!(
                multiplier.is_finite() && multiplier >= 1.0 && share.contains(&randomization),
                "{text}"
            ),
        }
        if let Some(budget) = policy.budget {
            assert!(budget.ratio.is_finite() && budget.ratio >= 0.0, "{text}");
            let floor = budget.min_per_second;
            assert!(floor.is_finite() && floor >= 0.0, "{text}");
        }
    }
    for policy in resource.policies.circuit_breakers.values() {
        assert!(policy.max_requests > 0 && !policy.timeout.is_zero());
        if let Some(trip) = &policy.trip {
            assert!(Trip::compile(trip).is_ok(), "{trip}");
        }
    }
    for target in resource.targets.apps.values() {
        assert!(
            target
                .methods
                .iter()
                .all(|method| !method.pattern.is_empty())
        );
    }
    for target in resource.targets.actors.values() {
        let is_scoped = target.policies.circuit_breaker.is_none() || target.scope.is_some();
        assert!(is_scoped, "{text}");
    }
}

/// A refused resource leaves nothing behind, and its sibling is as if it were alone.
fn beside_a_sibling(text: &str) {
    let sibling = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: sibling\nspec: {policies: {timeouts: {only: 5s}}}\n";
    let alone = load_it(text);
    let both = load_it(&format!("{text}\n---\n{sibling}"));
    let count = |loaded: &Loaded| (loaded.resiliencies.len(), loaded.refused_resiliencies.len());
    let (taken, refused) = count(&alone);
    assert_eq!(count(&both), (taken + 1, refused), "{text}");
    let last = both.resiliencies.last().map(|resource| &*resource.name);
    assert_eq!(last, Some("sibling"), "{text}");
}

proptest! {
    #![proptest_config(cases(1))]

    #[test]
    fn usual_resources_are_taken_or_refused_as_a_whole(spec in spec(), annotation in proptest::option::weighted(0.3, spec()), is_block in any::<bool>()) {
        let text = resource("r", &spec, annotation.as_ref(), is_block);
        let loaded = load_it(&text);
        prop_assert_eq!(loaded.resiliencies.len() + loaded.refused_resiliencies.len(), 1, "{}", text);
        let errors = loaded.diagnostics.iter().filter(|told| told.is_error() && told.code != "CFG-UNKNOWN-POLICY");
        prop_assert_eq!(errors.count() > 0, loaded.resiliencies.is_empty(), "{}", text);
        let refused = loaded.rejected.iter().filter(|rejected| rejected.kind == ResourceKind::Resiliency);
        prop_assert!(refused.count() <= loaded.refused_resiliencies.len());
    }

    #[test]
    fn any_structure_is_taken_or_refused(spec in anything(), annotation in proptest::option::weighted(0.5, anything()), is_block in any::<bool>()) {
        load_it(&resource("r", &spec, annotation.as_ref(), is_block));
    }

    #[test]
    fn a_sibling_is_never_touched(spec in prop_oneof![3 => spec(), 1 => anything().boxed()]) {
        beside_a_sibling(&resource("r", &spec, None, false));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        load_it(&text);
        load_it(&format!("apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {{name: r}}\nspec:\n{text}"));
    }

    #[test]
    fn any_text_in_the_annotation_is_taken_or_refused(text in "[-a-z\\[\\]{}:,&*!|>'\"%@`#? \n\t\\\\~<.0-9é]{0,80}", is_quoted in any::<bool>()) {
        let head = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: r\n  annotations:\n    outrigger.dev/resiliency: ";
        let value = if is_quoted {
            format!("'{}'", text.replace('\'', "''"))
        } else {
            format!("|\n      {}", text.replace('\n', "\n      "))
        };
        load_it(&format!("{head}{value}\nspec: {{}}\n"));
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn size_is_no_trouble(spec in spec(), times in 1_usize..60) {
        let one = resource("r", &spec, None, true);
        load_it(&vec![one; times].join("---\n"));
        let policies: Vec<_> = (0..times * 20)
            .map(|i| (format!("p{i}"), Node::Scalar("5s".to_owned())))
            .collect();
        let targets: Vec<_> = (0..times * 20)
            .map(|i| {
                let timeout = Node::Scalar(format!("p{}", i * 7 % 1_500));
                (format!("t{i}"), Node::Map(vec![("timeout".to_owned(), timeout)]))
            })
            .collect();
        let map = |name: &str, node: Node| Node::Map(vec![(name.to_owned(), node)]);
        let (Node::Map(mut large), Node::Map(other)) = (
            map("policies", map("timeouts", Node::Map(policies))),
            map("targets", map("apps", Node::Map(targets))),
        ) else {
            return Ok(());
        };
        large.extend(other);
        load_it(&resource("large", &Node::Map(large), None, true));
    }
}
