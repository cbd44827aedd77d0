//! Every metric: its name, labels, buckets and meaning.
//!
//! Dapr's names keep their spelling, odd plurals and missing suffixes included; dashboards know them. Ours begin with
//! `outrigger_`. Label values come from closed sets or from the user's own resources, never from messages.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::journal::Journal;
use crate::paths::Paths;
use crate::registry::{Counter, Expose, Gauge, Histogram, Rule, Seconds};

/// What the Configuration resource may change.
#[derive(Clone, Debug)]
pub struct Settings {
    pub app_id: String,
    /// Label `namespace`; empty without one.
    pub namespace: String,
    pub enabled: bool,
    /// Record `error_code/total`.
    pub error_codes: bool,
    /// Label HTTP metrics with the request's path.
    pub increased_cardinality: bool,
    /// Leave the label `method` of HTTP metrics empty.
    pub exclude_verbs: bool,
    /// Patterns with `{name}` that stand for the paths they match.
    pub path_patterns: Vec<String>,
    /// Milliseconds; replaces the default.
    pub latency_buckets: Option<Vec<f64>>,
    pub rules: Vec<Rule>,
}

impl Settings {
    pub fn new(app_id: &str) -> Self {
        Self {
            app_id: app_id.to_owned(),
            namespace: String::new(),
            enabled: true,
            error_codes: false,
            increased_cardinality: true,
            exclude_verbs: false,
            path_patterns: Vec::new(),
            latency_buckets: None,
            rules: Vec::new(),
        }
    }
}

/// How requests are labelled; may change while the process runs.
struct Labels {
    paths: Paths,
    has_path: bool,
    exclude_verbs: bool,
    error_codes: bool,
}

impl Labels {
    fn of(settings: &Settings) -> Self {
        Self {
            paths: Paths::new(&settings.path_patterns, settings.increased_cardinality),
            has_path: settings.increased_cardinality || !settings.path_patterns.is_empty(),
            exclude_verbs: settings.exclude_verbs,
            error_codes: settings.error_codes,
        }
    }

    fn verb<'a>(&self, method: &'a str) -> &'a str {
        match method {
            _ if self.exclude_verbs => "",
            "GET" | "PUT" | "POST" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS" | "CONNECT"
            | "TRACE" => method,
            _ => "UNKNOWN",
        }
    }
}

const LATENCY: [f64; 34] = [
    1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 25.0, 30.0, 40.0, 50.0, 65.0, 80.0,
    100.0, 130.0, 160.0, 200.0, 250.0, 300.0, 400.0, 500.0, 650.0, 800.0, 1_000.0, 2_000.0,
    5_000.0, 10_000.0, 20_000.0, 50_000.0, 100_000.0,
];
const KI: f64 = 1024.0;
const SIZE: [f64; 13] = [
    KI,
    2.0 * KI,
    4.0 * KI,
    16.0 * KI,
    64.0 * KI,
    256.0 * KI,
    KI * KI,
    4.0 * KI * KI,
    16.0 * KI * KI,
    64.0 * KI * KI,
    256.0 * KI * KI,
    KI * KI * KI,
    4.0 * KI * KI * KI,
];
const SECONDS: [f64; 12] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

macro_rules! metrics {
    ($( $(#[$doc:meta])* $field:ident: $kind:ident<$n:literal> = $name:literal [$($label:literal),*] $(($buckets:ident))? $help:literal; )*) => {
        /// The sidecar's metrics.
        pub struct Metrics {
            pub settings: Settings,
            /// What happens, one by one, beside the numbers.
            pub journal: Journal,
            labels: ArcSwap<Labels>,
            $( $(#[$doc])* pub $field: $kind<$n>, )*
        }

        impl Metrics {
            pub fn new(settings: Settings) -> Self {
                let labels = ArcSwap::from_pointee(Labels::of(&settings));
                let latency: Arc<[f64]> = settings.latency_buckets.clone().unwrap_or_else(|| LATENCY.to_vec()).into();
                let size: Arc<[f64]> = SIZE.into();
                let seconds: Arc<[f64]> = SECONDS.into();
                let bounds = |which: &str| match which { "size" => &size, "seconds" => &seconds, _ => &latency };
                let _ = &bounds;
                Self {
                    $( $field: metrics!(@new $kind $name [$($label),*] $(($buckets))? $help, settings, bounds), )*
                    journal: Journal::new(),
                    labels,
                    settings,
                }
            }

            fn each(&self) -> Vec<&dyn Expose> {
                vec![$( &self.$field, )*]
            }

            /// Name, kind and labels of every metric, for the reference page and the tests.
            pub fn catalogue() -> Vec<(&'static str, &'static str, &'static [&'static str])> {
                vec![$( ($name, stringify!($kind), &[$($label),*]), )*]
            }
        }
    };
    (@new Counter $name:literal [$($label:literal),*] $help:literal, $settings:ident, $bounds:ident) => { Counter::new($name, $help, &[$($label),*], &$settings.rules) };
    (@new Seconds $name:literal [$($label:literal),*] $help:literal, $settings:ident, $bounds:ident) => { Seconds::new($name, $help, &[$($label),*], &$settings.rules) };
    (@new Gauge $name:literal [$($label:literal),*] $help:literal, $settings:ident, $bounds:ident) => { Gauge::new($name, $help, &[$($label),*], &$settings.rules) };
    (@new Histogram $name:literal [$($label:literal),*] ($buckets:ident) $help:literal, $settings:ident, $bounds:ident) => {
        Histogram::new($name, $help, &[$($label),*], &$settings.rules, $bounds(stringify!($buckets)))
    };
}

metrics! {
    http_server_request_count: Counter<3> = "dapr_http_server_request_count" ["method", "path", "status"] "Count of HTTP requests processed by the server.";
    http_server_response_count: Counter<3> = "dapr_http_server_response_count" ["method", "path", "status"] "The number of HTTP responses";
    http_server_latency: Histogram<3> = "dapr_http_server_latency" ["method", "path", "status"] (latency) "HTTP request end-to-end latency in the server, in milliseconds.";
    http_server_request_bytes: Histogram<0> = "dapr_http_server_request_bytes" [] (size) "HTTP request body size if set as ContentLength (uncompressed) in server.";
    http_server_response_bytes: Histogram<0> = "dapr_http_server_response_bytes" [] (size) "HTTP response body size (uncompressed) in server.";
    http_client_completed_count: Counter<3> = "dapr_http_client_completed_count" ["method", "path", "status"] "Count of completed requests to the app.";
    http_client_roundtrip_latency: Histogram<3> = "dapr_http_client_roundtrip_latency" ["method", "path", "status"] (latency) "Time between the first byte of a request to the app and the head of its answer, in milliseconds.";
    http_client_sent_bytes: Histogram<3> = "dapr_http_client_sent_bytes" ["method", "path", "status"] (size) "Total bytes sent in a request body to the app.";
    http_client_received_bytes: Histogram<0> = "dapr_http_client_received_bytes" [] (size) "Total bytes received in an answer's body from the app.";
    http_healthprobes_completed_count: Counter<1> = "dapr_http_healthprobes_completed_count" ["status"] "Count of completed health probes.";
    http_healthprobes_roundtrip_latency: Histogram<1> = "dapr_http_healthprobes_roundtrip_latency" ["status"] (latency) "Time of a health probe, in milliseconds.";

    grpc_server_received_bytes: Histogram<1> = "dapr_grpc_io_server_received_bytes_per_rpc" ["grpc_server_method"] (size) "Distribution of received bytes per RPC, by method.";
    grpc_server_sent_bytes: Histogram<1> = "dapr_grpc_io_server_sent_bytes_per_rpc" ["grpc_server_method"] (size) "Distribution of total sent bytes per RPC, by method.";
    grpc_server_latency: Histogram<2> = "dapr_grpc_io_server_server_latency" ["grpc_server_method", "grpc_server_status"] (latency) "Distribution of server latency in milliseconds, by method.";
    grpc_server_completed: Counter<2> = "dapr_grpc_io_server_completed_rpcs" ["grpc_server_method", "grpc_server_status"] "Distribution of completed RPCs, by method and status.";
    grpc_client_sent_bytes: Histogram<1> = "dapr_grpc_io_client_sent_bytes_per_rpc" ["grpc_client_method"] (size) "Distribution of bytes sent per RPC, by method.";
    grpc_client_received_bytes: Histogram<1> = "dapr_grpc_io_client_received_bytes_per_rpc" ["grpc_client_method"] (size) "Distribution of bytes received per RPC, by method.";
    grpc_client_latency: Histogram<2> = "dapr_grpc_io_client_roundtrip_latency" ["grpc_client_method", "grpc_client_status"] (latency) "Distribution of round-trip latency, by method.";
    grpc_client_completed: Counter<2> = "dapr_grpc_io_client_completed_rpcs" ["grpc_client_method", "grpc_client_status"] "Distribution of completed RPCs, by method and status.";
    grpc_healthprobes_completed_count: Counter<1> = "dapr_grpc_io_healthprobes_completed_count" ["grpc_client_status"] "Count of completed health probes.";
    grpc_healthprobes_roundtrip_latency: Histogram<1> = "dapr_grpc_io_healthprobes_roundtrip_latency" ["grpc_client_status"] (latency) "Time of a health probe, in milliseconds.";

    component_loaded: Counter<0> = "dapr_runtime_component_loaded" [] "The number of successfully loaded components.";
    component_init: Counter<1> = "dapr_runtime_component_init_total" ["component"] "The number of initialized components.";
    component_init_fail: Counter<3> = "dapr_runtime_component_init_fail_total" ["component", "reason", "componentName"] "The number of component initialization failures.";

    state_count: Counter<4> = "dapr_component_state_count" ["component", "namespace", "operation", "success"] "The number of operations performed on the state component.";
    state_latencies: Histogram<4> = "dapr_component_state_latencies" ["component", "namespace", "operation", "success"] (latency) "The latency of the response from the state component.";
    secret_count: Counter<4> = "dapr_component_secret_count" ["component", "namespace", "operation", "success"] "The number of operations performed on the secret component.";
    secret_latencies: Histogram<4> = "dapr_component_secret_latencies" ["component", "namespace", "operation", "success"] (latency) "The latency of the response from the secret component.";
    output_binding_count: Counter<4> = "dapr_component_output_binding_count" ["component", "namespace", "operation", "success"] "The number of operations invoked on the output binding component.";
    output_binding_latencies: Histogram<4> = "dapr_component_output_binding_latencies" ["component", "namespace", "operation", "success"] (latency) "The latency of the response from the output binding component.";
    pubsub_ingress_count: Counter<5> = "dapr_component_pubsub_ingress_count" ["component", "namespace", "process_status", "topic", "status"] "The number of incoming messages arriving from the pub/sub component.";
    pubsub_ingress_latencies: Histogram<5> = "dapr_component_pubsub_ingress_latencies" ["component", "namespace", "process_status", "topic", "status"] (latency) "The consuming app event processing latency.";
    pubsub_bulk_ingress_count: Counter<4> = "dapr_component_pubsub_ingress_bulk_count" ["component", "namespace", "process_status", "topic"] "The number of incoming bulk subscribe calls.";
    pubsub_bulk_ingress_events: Counter<4> = "dapr_component_pubsub_ingress_bulk_event_count" ["component", "namespace", "process_status", "topic"] "Total number of incoming messages arriving via bulk subscribe.";
    pubsub_bulk_ingress_latencies: Histogram<4> = "dapr_component_pubsub_ingress_bulk_latencies" ["component", "namespace", "process_status", "topic"] (latency) "The consuming app event processing latency for the bulk pub/sub.";
    pubsub_egress_count: Counter<4> = "dapr_component_pubsub_egress_count" ["component", "namespace", "success", "topic"] "The number of outgoing messages published to the pub/sub component.";
    pubsub_egress_latencies: Histogram<4> = "dapr_component_pubsub_egress_latencies" ["component", "namespace", "success", "topic"] (latency) "The latency of the response from the pub/sub component.";
    pubsub_bulk_egress_count: Counter<4> = "dapr_component_pubsub_egress_bulk_count" ["component", "namespace", "success", "topic"] "The number of bulk publish calls to the pub/sub component.";
    pubsub_bulk_egress_events: Counter<4> = "dapr_component_pubsub_egress_bulk_event_count" ["component", "namespace", "success", "topic"] "Total number of outgoing messages to the pub/sub component published through bulk publish.";
    pubsub_bulk_egress_latencies: Histogram<4> = "dapr_component_pubsub_egress_bulk_latencies" ["component", "namespace", "success", "topic"] (latency) "The latency of the response for the bulk publish call.";

    invocation_req_sent: Counter<2> = "dapr_runtime_service_invocation_req_sent_total" ["dst_app_id", "type"] "The number of requests sent via service invocation.";
    invocation_req_recv: Counter<1> = "dapr_runtime_service_invocation_req_recv_total" ["src_app_id"] "The number of requests received via service invocation.";
    invocation_res_sent: Counter<2> = "dapr_runtime_service_invocation_res_sent_total" ["dst_app_id", "status"] "The number of responses sent via service invocation.";
    invocation_res_recv: Counter<3> = "dapr_runtime_service_invocation_res_recv_total" ["src_app_id", "status", "type"] "The number of responses received via service invocation.";
    invocation_res_recv_latency: Histogram<2> = "dapr_runtime_service_invocation_res_recv_latency_ms" ["src_app_id", "status"] (latency) "The latency of service invocation response.";

    acl_app_allowed: Counter<2> = "dapr_runtime_acl_app_policy_action_allowed_total" ["trustDomain", "namespace"] "The number of requests allowed by the app specific action of the access control policy.";
    acl_app_blocked: Counter<2> = "dapr_runtime_acl_app_policy_action_blocked_total" ["trustDomain", "namespace"] "The number of requests blocked by the app specific action of the access control policy.";
    acl_global_allowed: Counter<2> = "dapr_runtime_acl_global_policy_action_allowed_total" ["trustDomain", "namespace"] "The number of requests allowed by the global action of the access control policy.";
    acl_global_blocked: Counter<2> = "dapr_runtime_acl_global_policy_action_blocked_total" ["trustDomain", "namespace"] "The number of requests blocked by the global action of the access control policy.";

    resiliency_loaded: Counter<2> = "dapr_resiliency_loaded" ["name", "namespace"] "Number of resiliency policies loaded.";
    resiliency_count: Counter<6> = "dapr_resiliency_count" ["name", "namespace", "policy", "flow_direction", "target", "status"] "Number of times a resiliency policyKey has been applied to a building block.";
    resiliency_activations: Counter<6> = "dapr_resiliency_activations_total" ["name", "namespace", "policy", "flow_direction", "target", "status"] "Number of times a resiliency policyKey has been activated in a building block after a failure or after a state change.";
    resiliency_cb_state: Gauge<6> = "dapr_resiliency_cb_state" ["name", "namespace", "policy", "flow_direction", "target", "status"] "1 for the state of a target's circuit breakers that matters most.";
    error_code: Counter<2> = "dapr_error_code_total" ["error_code", "category"] "Number of times an error with a specific error code was encountered.";

    phase: Gauge<1> = "outrigger_phase" ["phase"] "1 for the phase that the sidecar is in.";
    app_gate: Gauge<1> = "outrigger_app_gate" ["state"] "1 for the state of the gate in front of the app.";
    component_state: Gauge<3> = "outrigger_component_state" ["component", "type", "state"] "1 for the state that the component's connection is in.";
    subscription_state: Gauge<3> = "outrigger_subscription_state" ["component", "topic", "state"] "1 for the state that the subscription is in.";
    startup_seconds: Gauge<1> = "outrigger_startup_seconds" ["stage"] "Seconds from the process's start to listening, settled components, a ready app, readiness.";
    component_attempts: Counter<2> = "outrigger_component_attempts_total" ["component", "result"] "Connection attempts.";
    component_reconnects: Counter<1> = "outrigger_component_reconnects_total" ["component"] "Connections that came back after a loss.";
    component_unavailable_seconds: Seconds<1> = "outrigger_component_unavailable_seconds_total" ["component"] "Seconds for which a component was away, from its first failure or loss.";
    component_ping_failures: Counter<2> = "outrigger_component_ping_failures_total" ["component", "reason"] "Pings that failed, by the class of the failure.";
    component_rejected_calls: Counter<2> = "outrigger_component_rejected_calls_total" ["component", "code"] "API calls that were answered without asking the component, because it was not ready.";
    component_connect_seconds: Histogram<1> = "outrigger_component_connect_seconds" ["component"] (seconds) "Time of connection attempts, in seconds.";
    component_ping_seconds: Histogram<1> = "outrigger_component_ping_seconds" ["component"] (seconds) "Time of pings, in seconds.";
    component_last_ok: Gauge<1> = "outrigger_component_last_ok_timestamp_seconds" ["component"] "When the component last answered a ping or a call, in seconds since 1970.";
    component_waiters: Gauge<1> = "outrigger_component_waiters" ["component"] "API calls that wait for the component to be ready.";
    component_revision_pending: Gauge<1> = "outrigger_component_revision_pending" ["component"] "1 while a changed definition of the component has not taken its place.";
    inflight: Gauge<2> = "outrigger_inflight" ["kind", "component"] "Work that has been handed to the app and has not ended.";
    app_probe: Counter<1> = "outrigger_app_probe_total" ["result"] "Health probes of the app.";
    app_restarts: Counter<0> = "outrigger_app_restarts_total" [] "Starts of the app after its first, by outrigger run.";
    network_lost: Gauge<0> = "outrigger_network_namespace_lost" [] "1 while only loopback is left of the network.";
    drain_forced: Counter<1> = "outrigger_drain_forced_total" ["cause"] "Stops that cut work short.";
    drain_seconds: Histogram<1> = "outrigger_drain_seconds" ["cause"] (seconds) "Time from the trigger of a stop to its end, in seconds.";
    events_dropped: Counter<0> = "outrigger_events_dropped_total" [] "Changes that a listener was too slow for, or that its receiver did not take.";
    released_messages: Counter<2> = "outrigger_released_messages_total" ["component", "cause"] "Messages given back to their broker undelivered.";
    policy_attempts: Counter<3> = "outrigger_resiliency_attempts_total" ["target", "policy", "outcome"] "Attempts under policies, by the outermost kind of policy.";
    policy_retry_delay: Histogram<1> = "outrigger_resiliency_retry_delay_seconds" ["target"] (seconds) "Pauses before retries, in seconds.";
    policy_breakers: Gauge<2> = "outrigger_resiliency_breakers" ["target", "state"] "Circuit breakers, by state.";
    policy_rejections: Counter<1> = "outrigger_resiliency_rejections_total" ["target"] "Attempts that a circuit breaker did not let through.";
    policy_config_errors: Gauge<0> = "outrigger_resiliency_config_errors" [] "Resiliency resources that were refused when resources were last read.";
    log_lines_dropped: Counter<0> = "outrigger_log_lines_dropped_total" [] "Log lines that could not be written because the reader of our output was too slow.";
}

impl Metrics {
    /// The page of the metrics port.
    pub fn text(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        for metric in self.each() {
            metric.expose(&mut out, &self.settings.app_id);
        }
        process(&mut out);
        out
    }

    /// Labels what is recorded from now on by other rules; series that are there stay. Whether metrics are recorded at
    /// all, and the buckets, stay as they were.
    pub fn relabel(&self, settings: &Settings) {
        for metric in self.each() {
            metric.relabel(&settings.rules);
        }
        self.labels.store(Arc::new(Labels::of(settings)));
    }

    /// A request to our HTTP API has been answered.
    pub fn http_server(
        &self,
        method: &str,
        path: &str,
        status: u16,
        sizes: Sizes,
        elapsed: Duration,
    ) {
        if !self.settings.enabled {
            return;
        }
        let chosen = self.labels.load();
        let path = chosen.paths.of_server(path);
        let mut number = itoa::Buffer::new();
        let labels = [chosen.verb(method), &path, number.format(status)];
        self.http_server_request_count.add(labels, 1);
        self.http_server_latency.observe(labels, millis(elapsed));
        if chosen.has_path {
            self.http_server_response_count.add(labels, 1);
        }
        self.http_server_request_bytes
            .observe([], sizes.received as f64);
        self.http_server_response_bytes
            .observe([], sizes.sent as f64);
    }

    /// A request to the app has been answered, or failed and counts as `status`.
    pub fn http_client(
        &self,
        method: &str,
        path: &str,
        status: u16,
        sizes: Sizes,
        elapsed: Duration,
    ) {
        if !self.settings.enabled {
            return;
        }
        let chosen = self.labels.load();
        let path = chosen.paths.of_client(path);
        let mut number = itoa::Buffer::new();
        let labels = [chosen.verb(method), &path, number.format(status)];
        self.http_client_sent_bytes
            .observe([labels[0], labels[1], ""], sizes.sent as f64);
        self.http_client_completed_count.add(labels, 1);
        self.http_client_roundtrip_latency
            .observe(labels, millis(elapsed));
        self.http_client_received_bytes
            .observe([], sizes.received as f64);
    }

    /// A call of our gRPC API has ended. `code` is the code's name.
    pub fn grpc_server(&self, method: &str, code: &str, sizes: Option<Sizes>, elapsed: Duration) {
        if !self.settings.enabled {
            return;
        }
        if let Some(sizes) = sizes {
            self.grpc_server_received_bytes
                .observe([method], sizes.received as f64);
            self.grpc_server_sent_bytes
                .observe([method], sizes.sent as f64);
        }
        self.grpc_server_completed.add([method, code], 1);
        self.grpc_server_latency
            .observe([method, code], millis(elapsed));
    }

    /// A gRPC call to the app or from a peer to our app has ended.
    pub fn grpc_client(&self, method: &str, code: &str, sizes: Option<Sizes>, elapsed: Duration) {
        if !self.settings.enabled {
            return;
        }
        if let Some(sizes) = sizes {
            self.grpc_client_received_bytes
                .observe([method], sizes.received as f64);
            self.grpc_client_sent_bytes
                .observe([method], sizes.sent as f64);
        }
        self.grpc_client_completed.add([method, code], 1);
        self.grpc_client_latency
            .observe([method, code], millis(elapsed));
    }

    /// Counts an error that was told to a caller.
    pub fn error(&self, code: &str, category: &str) {
        if self.labels.load().error_codes {
            self.error_code.add([code, category], 1);
        }
    }
}

/// Bytes of a message and of its answer.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sizes {
    pub received: u64,
    pub sent: u64,
}

/// Latencies are recorded in whole milliseconds, as Dapr does; most calls count as zero.
fn millis(elapsed: Duration) -> f64 {
    elapsed.as_millis() as f64
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// What the operating system says of the process, under the names that Go programs use for it.
fn process(out: &mut String) {
    use std::fmt::Write as _;
    let mut metric = |name: &str, kind: &str, help: &str, value: f64| {
        writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}",
            outrigger_core::json::go_float(value)
        )
        .ok();
    };
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        metric(
            "go_goroutines",
            "gauge",
            "Number of tasks that currently exist.",
            runtime.metrics().num_alive_tasks() as f64,
        );
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the command's name in brackets: state, then numbers.
    let fields: Vec<f64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    let field = |place: usize| fields.get(place).copied().unwrap_or(0.0);
    metric(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        (field(11) + field(12)) / 100.0,
    );
    metric(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        field(21) * 4096.0,
    );
    metric(
        "process_virtual_memory_bytes",
        "gauge",
        "Virtual memory size in bytes.",
        field(20),
    );
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metric(
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            files.count() as f64,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_legal_and_ours_are_marked() {
        let mut seen = std::collections::HashSet::new();
        for (name, _, labels) in Metrics::catalogue() {
            assert!(
                name.starts_with("dapr_") || name.starts_with("outrigger_"),
                "{name}"
            );
            assert!(seen.insert(name), "{name} twice");
            assert!(
                labels
                    .iter()
                    .chain([&name])
                    .all(|text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')),
                "{name}"
            );
        }
    }

    #[test]
    fn the_page_tells_of_the_process() {
        let text = Metrics::new(Settings::new("a")).text();
        assert!(text.contains("# TYPE process_resident_memory_bytes gauge"));
    }
}
