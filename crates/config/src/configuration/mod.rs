//! The Configuration resource: what `--config` files say about this sidecar.
//!
//! Files are laid over the defaults in order; a later one wins per field, and a list is replaced as a whole. The
//! defaults stand in the `Default` implementations, each beside the field's doc line.

mod access_control;
mod load;
mod metrics;
mod sections;
#[cfg(test)]
mod tests;
mod tracing;

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_core::json::Value;

use crate::diagnostic::Place;
pub use load::load;
pub(crate) use load::read;

/// Everything that `--config` files may set, with defaults for the rest.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Configuration {
    /// `metadata.name` of the last file that gives one.
    pub name: String,
    /// `httpPipeline.handlers`: middleware for our own HTTP API, in order.
    pub http_pipeline: Vec<PipelineHandler>,
    /// `appHttpPipeline.handlers`: middleware for calls to the app, in order.
    pub app_http_pipeline: Vec<PipelineHandler>,
    pub tracing: Tracing,
    /// `metric` and `metrics`, the latter winning per field.
    pub metrics: Metrics,
    /// `mtls`, which the control plane reads; the sidecar goes by its flags.
    pub mtls: Mtls,
    /// `secrets.scopes`, one per store at most.
    pub secret_scopes: Vec<SecretScope>,
    pub access_control: AccessControl,
    pub name_resolution: NameResolution,
    pub features: Features,
    pub api: ApiAccess,
    /// `components.deny`.
    pub denied_components: Vec<DeniedType>,
    /// `logging.apiLogging`.
    pub api_logging: ApiLogging,
    /// `wasm.strictSandbox`: false.
    pub wasm_strict_sandbox: bool,
    pub workflow: Workflow,
}

impl Configuration {
    /// Whether a component of this type must not be loaded. Dapr: with any denied type, one without a version is refused
    /// too.
    pub fn denies(&self, type_name: &str, version: &str) -> bool {
        let denied = &self.denied_components;
        !denied.is_empty()
            && (type_name.is_empty()
                || version.is_empty()
                || denied
                    .iter()
                    .any(|denied| denied.matches(type_name, version)))
    }
}

/// One middleware of a pipeline; names a component.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PipelineHandler {
    pub name: String,
    /// `middleware.http.<name>`.
    pub type_name: String,
    pub version: String,
    /// `selector.fields`: field and value.
    pub selector: Vec<(String, String)>,
}

/// `spec.tracing`, with the exporter that the `OTEL_` variables name where the files name none.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// `samplingRate`: 0.0001, or 1 with an endpoint from the environment. 0 switches tracing off.
    pub sampling_rate: f64,
    /// `stdout`: false. Spans are written into the log.
    pub stdout: bool,
    /// `zipkin.endpointAddress`.
    pub zipkin_endpoint: Option<String>,
    /// `otel`; present when both an address and a protocol are known.
    pub otel: Option<OtelExporter>,
}

const DEFAULT_SAMPLING: f64 = 0.0001;

impl Default for Tracing {
    fn default() -> Self {
        Self {
            sampling_rate: DEFAULT_SAMPLING,
            stdout: false,
            zipkin_endpoint: None,
            otel: None,
        }
    }
}

/// Where spans are sent in OTLP.
#[derive(Clone, PartialEq, Eq)]
pub struct OtelExporter {
    pub protocol: OtelProtocol,
    pub endpoint: String,
    /// `isSecure`: true.
    pub secure: bool,
    /// Added to every export; may hold credentials.
    pub headers: Vec<(String, String)>,
    /// `timeout`; absent means the exporter's own.
    pub timeout: Option<Duration>,
}

impl std::fmt::Debug for OtelExporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("OtelExporter")
            .field("protocol", &self.protocol)
            .field("endpoint", &self.endpoint)
            .field("secure", &self.secure)
            .field("headers", &headers)
            .field("timeout", &self.timeout)
            .finish()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtelProtocol {
    Grpc,
    Http,
}

/// `spec.metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// `enabled`: true.
    pub enabled: bool,
    /// `recordErrorCodes`: false.
    pub record_error_codes: bool,
    /// `http.increasedCardinality`: true.
    pub increased_cardinality: bool,
    /// `http.pathMatching`.
    pub path_matching: Vec<String>,
    /// `http.excludeVerbs`: false.
    pub exclude_verbs: bool,
    /// `latencyDistributionBuckets`, in milliseconds, ascending; absent means the default ones.
    pub latency_buckets: Option<Vec<f64>>,
    /// `workflow.latencyDistributionBuckets`, ascending, in the unit beside it.
    pub workflow_latency_buckets: Option<Vec<f64>>,
    /// `workflow.latencyDistributionUnits`.
    pub workflow_latency_unit: Option<String>,
    pub rules: Vec<MetricRule>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            enabled: true,
            record_error_codes: false,
            increased_cardinality: true,
            path_matching: Vec::new(),
            exclude_verbs: false,
            latency_buckets: None,
            workflow_latency_buckets: None,
            workflow_latency_unit: None,
            rules: Vec::new(),
        }
    }
}

/// Rewrites the values of one label of one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricRule {
    pub metric: String,
    pub label: String,
    /// Replacement and regular expression, in the order of the file; every expression compiles.
    pub patterns: Vec<(String, String)>,
}

/// `spec.mtls`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Mtls {
    pub enabled: bool,
    pub workload_cert_ttl: String,
    pub allowed_clock_skew: String,
    pub sentry_address: String,
    pub control_plane_trust_domain: String,
    /// Name and options.
    pub token_validators: Vec<(String, Value)>,
}

/// Which secrets of one store the app may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretScope {
    pub store: String,
    /// `defaultAccess`: allow.
    pub default_access: Action,
    pub allowed: Vec<String>,
    pub denied: Vec<String>,
}

impl SecretScope {
    /// A non-empty list of allowed names decides alone; then the denied names; then the default.
    pub fn allows(&self, secret: &str) -> bool {
        let listed = |names: &[String]| names.iter().any(|name| name == secret);
        if !self.allowed.is_empty() {
            return listed(&self.allowed);
        }
        !listed(&self.denied) && self.default_access == Action::Allow
    }
}

/// Allowed or denied; every word but `allow` denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Action {
    Allow,
    #[default]
    Deny,
}

/// `spec.accessControl`: who may call this app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessControl {
    /// `defaultAction`: allow; deny when it is empty and there are policies.
    pub default_action: Action,
    /// `trustDomain`: public.
    pub trust_domain: String,
    pub policies: Vec<AppPolicy>,
}

impl Default for AccessControl {
    fn default() -> Self {
        Self {
            default_action: Action::Allow,
            trust_domain: "public".to_owned(),
            policies: Vec::new(),
        }
    }
}

/// What one calling app may do; the first three fields are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppPolicy {
    pub app_id: String,
    pub trust_domain: String,
    pub namespace: String,
    /// Absent means the default of all apps.
    pub default_action: Option<Action>,
    pub operations: Vec<OperationRule>,
}

/// What a calling app may do on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRule {
    /// With a leading `/`; may hold `*`, `/*` and `/**`.
    pub path: String,
    /// `*` means any; not used for gRPC.
    pub verbs: Vec<String>,
    pub action: Action,
}

/// `spec.nameResolution`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct NameResolution {
    /// Absent means the default of the mode.
    pub component: Option<String>,
    pub version: String,
    /// As it stands in the file.
    pub configuration: Option<Value>,
    /// Where `component` stands.
    pub place: Place,
}

/// `spec.features` over what is on by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features(BTreeMap<String, bool>);

impl Features {
    pub const HOT_RELOAD: &str = "HotReload";
    /// Every feature that Dapr knows.
    pub const KNOWN: [&str; 6] = [
        Self::HOT_RELOAD,
        "ActorStateTTL",
        "WorkflowHistorySigning",
        "WorkflowsClusteredDeployment",
        "WorkflowsFastPath",
        "WorkflowsRemoteActivityReminder",
    ];

    pub fn is_enabled(&self, name: &str) -> bool {
        self.0.get(name).copied().unwrap_or(false)
    }

    /// The enabled ones, sorted; `GET /v1.0/metadata` shows them.
    pub fn enabled(&self) -> impl Iterator<Item = &str> + '_ {
        self.0
            .iter()
            .filter(|(_, on)| **on)
            .map(|(name, _)| name.as_str())
    }

    pub fn set(&mut self, name: impl Into<String>, enabled: bool) {
        self.0.insert(name.into(), enabled);
    }
}

impl Default for Features {
    fn default() -> Self {
        Self(BTreeMap::from([
            (Self::HOT_RELOAD.to_owned(), true),
            ("WorkflowsRemoteActivityReminder".to_owned(), true),
        ]))
    }
}

/// `spec.api`: which of our APIs are served.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ApiAccess {
    pub allowed: Vec<ApiRule>,
    pub denied: Vec<ApiRule>,
}

/// One API; all three texts as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRule {
    pub name: String,
    pub version: String,
    /// `http` in any case, or `grpc` in lower case only; anything else has no effect.
    pub protocol: String,
}

/// A type that must not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedType {
    pub type_name: String,
    /// Absent means every version.
    pub version: Option<String>,
}

impl DeniedType {
    /// Compares with case, as Dapr does.
    pub fn matches(&self, type_name: &str, version: &str) -> bool {
        self.type_name == type_name
            && self
                .version
                .as_deref()
                .is_none_or(|denied| denied == version)
    }
}

/// `spec.logging.apiLogging`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ApiLogging {
    /// `enabled`: false. The flag `--enable-api-logging` wins.
    pub enabled: bool,
    /// `obfuscateURLs`: false.
    pub obfuscate_urls: bool,
    /// `omitHealthChecks`: false.
    pub omit_health_checks: bool,
}

/// `spec.workflow`; 0 and absent limits mean none.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Workflow {
    pub max_concurrent_workflows: Option<u32>,
    pub max_concurrent_activities: Option<u32>,
    pub global_max_concurrent_workflows: Option<u32>,
    pub global_max_concurrent_activities: Option<u32>,
    /// Name and limit.
    pub workflow_limits: Vec<(String, u32)>,
    /// Name and limit.
    pub activity_limits: Vec<(String, u32)>,
    pub retention: WorkflowRetention,
}

/// How long the state of ended workflows is kept; absent means for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WorkflowRetention {
    pub any_terminal: Option<Duration>,
    pub completed: Option<Duration>,
    pub failed: Option<Duration>,
    pub terminated: Option<Duration>,
}
