//! Whole files, laid over each other.

use std::time::Duration;

use outrigger_core::json::{Numbers, Style, encode};

use super::{Action, Configuration, OtelProtocol, load};
use crate::diagnostic::Diagnostic;

fn load_with(
    specs: &[&str],
    variables: &[(&str, &str)],
) -> Result<(Configuration, Vec<Diagnostic>), Vec<Diagnostic>> {
    let files: Vec<_> = specs
        .iter()
        .enumerate()
        .map(|(i, spec)| {
            (
                format!("c{i}.yaml"),
                format!("kind: Configuration\nspec:\n{spec}"),
            )
        })
        .collect();
    load(&files, &|name| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

#[track_caller]
fn one(specs: &[&str]) -> Configuration {
    load_with(specs, &[]).unwrap().0
}

#[track_caller]
fn refused(spec: &str) -> Vec<String> {
    let told = load_with(&[spec], &[]).unwrap_err();
    told.iter()
        .filter(|told| told.is_error())
        .map(|told| format!("{} {}", told.code, told.place.path))
        .collect()
}

#[test]
fn without_files_the_defaults_hold() {
    let (configuration, told) = load(&[], &|_| None).unwrap();
    assert_eq!(
        (configuration.clone(), told.len()),
        (Configuration::default(), 0)
    );
    assert!(
        (configuration.tracing.sampling_rate - 0.0001).abs() < f64::EPSILON
            && configuration.tracing.otel.is_none()
    );
    assert!(configuration.metrics.enabled && configuration.metrics.increased_cardinality);
    assert_eq!(configuration.access_control.default_action, Action::Allow);
    assert_eq!(
        configuration.features.enabled().collect::<Vec<_>>(),
        ["HotReload", "WorkflowsRemoteActivityReminder"]
    );
    assert!(!configuration.denies("state.redis", ""));
}

#[test]
fn later_files_win_per_field_and_lists_as_a_whole() {
    let first = "  tracing: {samplingRate: '1', stdout: true, otel: {endpointAddress: a, protocol: grpc, headers: [a=1]}}\n  metric: {enabled: false, http: {excludeVerbs: true}}\n  features: [{name: HotReload, enabled: false}, {name: X, enabled: true}]\n  logging: {apiLogging: {enabled: true}}\n";
    let second = "  tracing: {samplingRate: 0.5, otel: {protocol: http, isSecure: false, headers: [b=2]}}\n  metrics: {recordErrorCodes: true}\n  features: [{name: ActorStateTTL, enabled: true}]\n  logging: {apiLogging: {obfuscateURLs: yes}}\n";
    let configuration = one(&[first, second]);
    let otel = configuration.tracing.otel.as_ref().unwrap();
    assert_eq!(
        (otel.endpoint.as_str(), otel.protocol, otel.secure),
        ("a", OtelProtocol::Http, false)
    );
    assert_eq!(otel.headers, [("b".to_owned(), "2".to_owned())]);
    assert!(
        (configuration.tracing.sampling_rate - 0.5).abs() < f64::EPSILON
            && configuration.tracing.stdout
    );
    assert!(
        !configuration.metrics.enabled
            && configuration.metrics.record_error_codes
            && configuration.metrics.exclude_verbs
    );
    assert_eq!(
        configuration.features.enabled().collect::<Vec<_>>(),
        [
            "ActorStateTTL",
            "HotReload",
            "WorkflowsRemoteActivityReminder"
        ]
    );
    assert!(configuration.api_logging.enabled && configuration.api_logging.obfuscate_urls);
}

#[test]
fn null_forgets_what_earlier_files_said() {
    let configuration = one(&[
        "  tracing: {stdout: true}\n  secrets: {scopes: [{storeName: s}]}\n",
        "  tracing: null\n  secrets: {scopes: null}\n",
    ]);
    assert!(!configuration.tracing.stdout);
    assert_eq!(configuration.secret_scopes, []);
}

#[test]
fn metrics_win_over_metric_per_field() {
    let configuration = one(&[
        "  metric:\n    enabled: true\n    http: {increasedCardinality: false, pathMatching: [/a]}\n    rules: [{name: m, labels: [{name: l, regex: {r: p.+, s: q}}]}]\n  metrics:\n    enabled: false\n    http: {excludeVerbs: true}\n    latencyDistributionBuckets: [5, 10]\n    workflow: {latencyDistributionBuckets: [], latencyDistributionUnits: s}\n",
    ]);
    let metrics = configuration.metrics;
    assert!(!metrics.enabled && metrics.exclude_verbs);
    // The section `http` is taken as a whole.
    assert!(metrics.increased_cardinality && metrics.path_matching.is_empty());
    assert_eq!(
        (metrics.latency_buckets, metrics.workflow_latency_buckets),
        (Some(vec![5.0, 10.0]), None)
    );
    assert_eq!(metrics.workflow_latency_unit.as_deref(), Some("s"));
    assert_eq!(
        metrics.rules[0].patterns,
        [
            ("r".to_owned(), "p.+".to_owned()),
            ("s".to_owned(), "q".to_owned())
        ]
    );
}

#[test]
fn secret_scopes_decide_in_order() {
    let scopes = one(&[
        "  secrets:\n    scopes:\n    - {storeName: a, defaultAccess: Deny, allowedSecrets: [x], deniedSecrets: [x]}\n    - {storeName: b, deniedSecrets: [x]}\n    - {storeName: c, defaultAccess: deny}\n",
    ])
    .secret_scopes;
    let allows: Vec<_> = scopes
        .iter()
        .map(|scope| (scope.allows("x"), scope.allows("y")))
        .collect();
    assert_eq!(allows, [(true, false), (false, true), (false, false)]);
    assert_eq!(
        refused("  secrets: {scopes: [{storeName: a}, {storeName: a}]}\n"),
        ["CFG-DUPLICATE spec.secrets.scopes[1].storeName"]
    );
    assert_eq!(
        refused("  secrets: {scopes: [{storeName: a, defaultAccess: maybe}]}\n"),
        ["CFG-WORD spec.secrets.scopes[0].defaultAccess"]
    );
}

#[test]
fn access_control_follows_dapr() {
    let control = |spec: &str| one(&[spec]).access_control;
    let policy = "{appId: a, trustDomain: public, namespace: ns, defaultAction: deny, operations: [{name: op/*, httpVerb: [GET], action: Allow}]}";
    let full = control(&format!(
        "  accessControl: {{trustDomain: td, policies: [{policy}]}}\n"
    ));
    assert_eq!(
        (full.default_action, full.trust_domain.as_str()),
        (Action::Allow, "td")
    );
    let app = &full.policies[0];
    assert_eq!(
        (
            app.app_id.as_str(),
            app.namespace.as_str(),
            app.default_action
        ),
        ("a", "ns", Some(Action::Deny))
    );
    assert_eq!(
        (app.operations[0].path.as_str(), app.operations[0].action),
        ("/op/*", Action::Allow)
    );
    for (spec, action) in [
        ("{}".to_owned(), Action::Allow),
        ("{defaultAction: ''}".to_owned(), Action::Deny),
        (
            "{defaultAction: '', policies: []}".to_owned(),
            Action::Allow,
        ),
        (
            format!("{{defaultAction: '', policies: [{policy}]}}"),
            Action::Deny,
        ),
        ("{defaultAction: DENY}".to_owned(), Action::Deny),
        ("{defaultAction: nonsense}".to_owned(), Action::Deny),
        ("null".to_owned(), Action::Allow),
    ] {
        assert_eq!(
            control(&format!("  accessControl: {spec}\n")).default_action,
            action,
            "{spec}"
        );
    }
    for missing in ["appId: a, ", "trustDomain: public, ", "namespace: ns, "] {
        assert_eq!(
            refused(&format!(
                "  accessControl: {{policies: [{}]}}\n",
                policy.replace(missing, "")
            ))
            .len(),
            1,
            "{missing}"
        );
    }
}

#[test]
fn the_environment_names_an_exporter_where_the_files_do_not() {
    let variables: &[(&str, &str)] = &[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=x%20y"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
    ];
    let tracing = load_with(&[], variables).unwrap().0.tracing;
    let otel = tracing.otel.unwrap();
    assert_eq!(
        (otel.endpoint.as_str(), otel.protocol, otel.secure),
        ("otel:4317", OtelProtocol::Http, false)
    );
    assert_eq!(
        (otel.headers.as_slice(), otel.timeout),
        (
            &[("a".to_owned(), "x y".to_owned())][..],
            Some(Duration::from_millis(250))
        )
    );
    assert!((tracing.sampling_rate - 1.0).abs() < f64::EPSILON);

    let named = load_with(
        &["  tracing: {samplingRate: '0', otel: {endpointAddress: own, protocol: grpc}}\n"],
        variables,
    )
    .unwrap()
    .0
    .tracing;
    let otel = named.otel.unwrap();
    assert_eq!(
        (otel.endpoint.as_str(), otel.secure, otel.headers.len()),
        ("own", true, 0)
    );
    assert!(named.sampling_rate.abs() < f64::EPSILON);

    for bad in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "a"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ] {
        assert_eq!(
            load_with(&[], &[bad]).unwrap_err()[0].place.to_string(),
            format!("environment ({})", bad.0)
        );
    }
}

#[test]
fn variables_are_replaced_and_unset_ones_are_told() {
    let (configuration, told) = load_with(
        &["  tracing:\n    samplingRate: '${RATE}'\n    stdout: $GONE\n"],
        &[("RATE", "0.25")],
    )
    .unwrap();
    assert!((configuration.tracing.sampling_rate - 0.25).abs() < f64::EPSILON);
    assert_eq!(
        told.iter()
            .map(|told| (told.code, told.place.line, told.place.column))
            .collect::<Vec<_>>(),
        [("CFG-VARIABLE", 5, 13)]
    );
}

#[test]
fn lists_of_apis_types_and_limits_are_read() {
    let configuration = one(&[
        "  api: {allowed: [{name: state, version: v1, protocol: http}], denied: [{name: invoke, version: v1, protocol: grpc}]}\n  components: {deny: [bindings.cron, state.redis/v1, '', a/b/c]}\n  httpPipeline: {handlers: [{name: up, type: middleware.http.uppercase, version: v1, selector: {fields: [{field: f, value: 5}]}}]}\n  wasm: {strictSandbox: true}\n  mtls: {enabled: true, workloadCertTTL: 24h, tokenValidators: [{name: jwks, options: {a: 1}}]}\n  workflow: {maxConcurrentWorkflowInvocations: 5, maxConcurrentActivityInvocations: 0, workflowConcurrencyLimits: [{name: w, maxConcurrent: 2}], stateRetentionPolicy: {completed: 1h, failed: 0s}}\n",
    ]);
    assert_eq!(
        (
            configuration.api.allowed[0].name.as_str(),
            configuration.api.denied[0].protocol.as_str()
        ),
        ("state", "grpc")
    );
    let denies = |name, version| configuration.denies(name, version);
    assert!(denies("bindings.cron", "v9") && denies("state.redis", "v1") && denies("state.x", ""));
    assert!(!denies("state.redis", "v2") && !denies("Bindings.Cron", "v1"));
    assert_eq!(
        configuration.http_pipeline[0].selector,
        [("f".to_owned(), "5".to_owned())]
    );
    assert!(configuration.wasm_strict_sandbox && configuration.mtls.enabled);
    let workflow = configuration.workflow;
    assert_eq!(
        (
            workflow.max_concurrent_workflows,
            workflow.max_concurrent_activities
        ),
        (Some(5), None)
    );
    assert_eq!(workflow.workflow_limits, [("w".to_owned(), 2)]);
    assert_eq!(
        (
            workflow.retention.completed,
            workflow.retention.failed,
            workflow.retention.terminated
        ),
        (Some(Duration::from_secs(3_600)), Some(Duration::ZERO), None)
    );
}

#[test]
fn a_name_resolver_keeps_its_configuration_as_it_stands() {
    let resolution = one(&["  nameResolution: {component: sqlite, version: v1, configuration: {connectionString: 'db', nested: [1, yes]}}\n"]).name_resolution;
    assert_eq!(
        (resolution.component.as_deref(), resolution.version.as_str()),
        (Some("sqlite"), "v1")
    );
    let text = encode(
        resolution.configuration.as_ref().unwrap(),
        Style::Ours,
        Numbers::Exact,
    );
    assert_eq!(
        String::from_utf8(text).unwrap(),
        r#"{"connectionString":"db","nested":[1,"yes"]}"#
    );
}

#[test]
fn what_ends_daprds_start_is_an_error_here() {
    for (spec, told) in [
        (
            "  tracing: {stdout: maybe}\n",
            "CFG-TYPE spec.tracing.stdout",
        ),
        (
            "  tracing: {otel: {timeout: 5}}\n",
            "CFG-DURATION spec.tracing.otel.timeout",
        ),
        (
            "  tracing: {otel: {endpointAddress: a, protocol: udp}}\n",
            "CFG-WORD spec.tracing.otel.protocol",
        ),
        ("  features: {HotReload: true}\n", "CFG-TYPE spec.features"),
        (
            "  tracing: {stdout: true, stdout: true}\n",
            "CFG-DUPLICATE spec.tracing.stdout",
        ),
        ("  - x\n", "CFG-TYPE spec"),
        (" x: [\n", "CFG-YAML "),
    ] {
        assert_eq!(refused(spec), [told], "{spec}");
    }
}

#[test]
fn empty_files_and_foreign_kinds_are_read_all_the_same() {
    for text in ["", "# nothing\n", "---\n"] {
        assert!(
            load(&[("c".to_owned(), text.to_owned())], &|_| None)
                .unwrap()
                .1
                .is_empty(),
            "{text}"
        );
    }
    let text =
        "kind: Component\nspec: {tracing: {stdout: true}}\n---\nspec: {tracing: {stdout: false}}\n";
    let (configuration, told) = load(&[("c".to_owned(), text.to_owned())], &|_| None).unwrap();
    assert!(configuration.tracing.stdout);
    assert_eq!(
        told.iter().map(|told| told.code).collect::<Vec<_>>(),
        ["CFG-KIND", "CFG-DOCUMENT"]
    );
}

#[test]
fn headers_are_not_printed() {
    let configuration = one(&[
        "  tracing: {otel: {endpointAddress: a, protocol: grpc, headers: ['auth=hunter2', {name: b, value: hunter2}]}}\n",
    ]);
    assert_eq!(
        configuration.tracing.otel.as_ref().unwrap().headers.len(),
        2
    );
    assert!(!format!("{configuration:?}").contains("hunter2"));
}
