//! What the command line and the environment say, parsed and checked.

use std::time::Duration;

use outrigger_core::{AppId, Namespace, Secret};

/// Everything that the start of a sidecar is told from outside, except its files.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--app-id`; required.
    pub app_id: AppId,
    pub app: AppOptions,
    pub api: ApiOptions,
    pub internal: InternalOptions,
    pub files: FileOptions,
    pub control_plane: ControlPlaneOptions,
    pub log: LogOptions,
    pub metrics: MetricsOptions,
    pub components: ComponentOptions,
    pub lifecycle: LifecycleOptions,
    /// `--worker-threads`; absent means one for every two processors.
    pub worker_threads: Option<usize>,
    pub environment: Environment,
}

/// The application behind the sidecar.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AppOptions {
    /// `--app-port`; absent and 0 mean that no app is called.
    pub port: Option<u16>,
    /// `--app-channel-address`: 127.0.0.1.
    pub channel_address: String,
    /// `--app-protocol`: http; `--app-ssl` already applied.
    pub protocol: AppProtocol,
    /// `--app-max-concurrency`: absent, which means no limit.
    pub max_concurrency: Option<u32>,
    /// `--enable-app-health-check` and the four flags of its probes.
    pub health: Option<AppHealth>,
    /// `--app-binding-options-timeout`: 3s.
    pub binding_options_timeout: Duration,
    /// `--disable-init-endpoints` does not name `config`.
    pub reads_config: bool,
    /// `--disable-init-endpoints` does not name `subscribe`.
    pub reads_subscriptions: bool,
    /// `--app-ready-path`: absent.
    pub ready_path: Option<String>,
    /// `--app-ready-grpc-service`: absent. The empty name asks for the server as a whole.
    pub ready_grpc_service: Option<String>,
    /// `--app-busy-path`: absent.
    pub busy_path: Option<String>,
    /// `--app-lifecycle-path`: absent.
    pub lifecycle_path: Option<String>,
    /// `--poison-crash-limit`: 5; 0 means without limit.
    pub poison_crash_limit: u32,
    /// `--app-log-prefix`: absent. Empty means that the app writes where we do.
    pub log_prefix: Option<String>,
    /// `--app-start`: outbound-ready.
    pub start: AppStart,
    /// `--app-stop-timeout`: 10s.
    pub stop_timeout: Duration,
    /// `--app-signal-first`: false.
    pub signal_first: bool,
    /// `--app-restart`: never.
    pub restart: AppRestart,
}

/// When an app that is our child is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AppStart {
    /// Once its calls are served.
    #[default]
    OutboundReady,
    Immediately,
}

/// Whether an app that is our child is started again when it ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AppRestart {
    #[default]
    Never,
    /// Unless its exit code is 0.
    OnFailure,
    Always,
}

/// How the app is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AppProtocol {
    #[default]
    Http,
    Https,
    /// HTTP/2 without TLS.
    H2c,
    Grpc,
    Grpcs,
}

impl AppProtocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::H2c)
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }
}

/// How the app's health is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppHealth {
    /// `--app-health-check-path`: /healthz. HTTP only.
    pub path: String,
    /// `--app-health-probe-interval`: 5 seconds.
    pub interval: Duration,
    /// `--app-health-probe-timeout`: 500 milliseconds, not above the interval.
    pub timeout: Duration,
    /// `--app-health-threshold`: 3 failures in a row.
    pub threshold: u32,
}

/// The servers for the app's own calls.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ApiOptions {
    /// `--dapr-http-port`: 3500. 0 means any free port.
    pub http_port: u16,
    /// `--dapr-grpc-port`: 50001. 0 means any free port.
    pub grpc_port: u16,
    /// `--dapr-listen-addresses`: empty, which means every interface.
    pub listen_addresses: Vec<String>,
    /// `--dapr-public-port`: absent, which means no public server.
    pub public_port: Option<u16>,
    /// `--dapr-public-listen-address`: empty, which means every interface.
    pub public_listen_address: String,
    /// `--unix-domain-socket`: a folder; absent means TCP.
    pub unix_domain_socket: Option<String>,
    /// `--enable-profiling` and `--profile-port` (7777).
    pub profile_port: Option<u16>,
    pub allowed_origins: AllowedOrigins,
    /// `--max-body-size`: 4 MiB, in bytes; 0 means without limit.
    pub max_body_size: u64,
    /// `--read-buffer-size`: 4 KiB, in bytes; bounds request headers. 0 leaves the bound to the server.
    pub read_buffer_size: u64,
    /// `--enable-api-logging`; absent means that the Configuration decides.
    pub api_logging: Option<bool>,
    /// `--state-json-numbers`: float64.
    pub state_json_numbers: StateJsonNumbers,
    /// `--component-not-ready-status`: 503; 500 is daprd's.
    pub component_not_ready_status: u16,
    /// `--resiliency-details`: false.
    pub resiliency_details: bool,
    /// `--resiliency-strict`: false.
    pub resiliency_strict: bool,
}

/// `--allowed-origins`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AllowedOrigins {
    /// No CORS at all.
    #[default]
    Off,
    Every,
    Only(Vec<String>),
}

/// How numbers in stored JSON are treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StateJsonNumbers {
    /// As Dapr keeps them: through float64.
    #[default]
    Float64,
    /// Digit by digit.
    Exact,
}

/// The server for other sidecars.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct InternalOptions {
    /// `--dapr-internal-grpc-port`; absent and 0 mean a port derived from the app id.
    pub port: Option<u16>,
    /// `--dapr-internal-grpc-listen-address`: empty, which means every interface.
    pub listen_address: String,
}

/// Where configuration comes from.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct FileOptions {
    /// `--mode`: standalone.
    pub mode: Mode,
    /// `--config`: files, or the name of a resource in Kubernetes.
    pub config: Vec<String>,
    /// `--resources-path`, or its older name `--components-path`: folders.
    pub resources_paths: Vec<String>,
    /// `--hot-reload-reconcile-interval`: 60s.
    pub reconcile_interval: Duration,
    /// `--disable-builtin-k8s-secret-store`: false.
    pub disable_builtin_kubernetes_secrets: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    Standalone,
    Kubernetes,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// Placement, scheduler, operator and Sentry.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ControlPlaneOptions {
    /// `--placement-host-address`, or `--actors-service placement:...`; empty means no actors.
    pub placement_addresses: Vec<String>,
    /// `--actors-disseminate-timeout`: 30s.
    pub disseminate_timeout: Duration,
    /// `--scheduler-host-address`, or env `DAPR_SCHEDULER_HOST_ADDRESS_DNS_A`; empty means no jobs.
    pub scheduler_addresses: Vec<String>,
    /// `--scheduler-job-streams`: 3.
    pub scheduler_job_streams: u32,
    /// `--control-plane-address`: empty.
    pub address: String,
    /// `--control-plane-namespace`: default.
    pub namespace: String,
    /// `--control-plane-trust-domain`: localhost.
    pub trust_domain: String,
    /// `--sentry-address`: empty.
    pub sentry_address: String,
    /// `--sentry-request-jwt-audiences`: empty, which means the trust domain.
    pub jwt_audiences: Vec<String>,
    /// `--enable-mtls`: false.
    pub mtls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// `--log-level`: info.
    pub level: LogLevel,
    /// `--log-as-json`: false.
    pub json: bool,
    /// `--log-file`; absent means standard output.
    pub file: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
    Fatal,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MetricsOptions {
    /// `--enable-metrics`: true.
    pub enabled: bool,
    /// `--metrics-port`: 9090. 0 means any free port.
    pub port: u16,
    /// `--metrics-listen-address`: 0.0.0.0.
    pub listen_address: String,
}

/// How components are connected and kept.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ComponentOptions {
    /// `--component-init-mode`: resilient.
    pub init_mode: InitMode,
    /// `--component-init-deadline`: 0, which means none.
    pub init_deadline: Option<Duration>,
    /// `--lazy-components`: none.
    pub lazy: LazyComponents,
    /// `--component-wait`: 2s.
    pub wait: Duration,
    /// `--component-ping-interval`: 10s.
    pub ping_interval: Duration,
    /// `--component-ping-timeout`: 2s.
    pub ping_timeout: Duration,
    /// `--component-retry-base`: 500ms.
    pub retry_base: Duration,
    /// `--component-retry-cap`: 10s.
    pub retry_cap: Duration,
}

/// What a first attempt that fails means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InitMode {
    /// The component is tried again, for ever.
    #[default]
    Resilient,
    /// As in daprd: the process ends, unless the component ignores errors.
    Strict,
}

/// Which components connect on first use only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LazyComponents {
    #[default]
    None,
    /// Those that nothing subscribes through.
    Outbound,
    All,
}

/// Readiness and the end.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LifecycleOptions {
    /// `--startup-settle-timeout`: 10s.
    pub settle_timeout: Duration,
    /// `--outbound-ready`: settled.
    pub outbound_ready: OutboundReady,
    /// `--readiness-requires`: required.
    pub readiness_requires: ReadinessRequires,
    /// How long a drain may take: `--drain-timeout`; else the sum of `--dapr-graceful-shutdown-seconds` and
    /// `--dapr-block-shutdown-duration`; else env `POD_TERMINATION_GRACE_PERIOD_SECONDS` less 5; else 25s. Absent means
    /// without limit.
    pub drain_timeout: Option<Duration>,
    /// Where that comes from.
    pub drain_source: DrainSource,
    /// `--drain-accept-window`: 3s with `--mode kubernetes`, else 0.
    pub accept_window: Duration,
    /// `--dapr-block-shutdown-duration`, if given.
    pub block_shutdown: Option<Duration>,
    /// `--drain-quiet`: 1s.
    pub drain_quiet: Duration,
    /// `--exit-when-app-exits`: 0, which means never.
    pub exit_when_app_exits: Option<Duration>,
    /// `--exit-on-network-namespace-loss`: false.
    pub exit_on_network_loss: bool,
    /// `--prestop-on-public-port`: false.
    pub prestop_on_public_port: bool,
    /// `--state-dir`; absent means that no history is kept.
    pub state_dir: Option<String>,
    /// `--lifecycle-webhook-url`.
    pub webhook_url: Option<String>,
}

/// What decided how long a drain may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DrainSource {
    #[default]
    Default,
    Flag,
    Grace,
    Pod,
}

impl DrainSource {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Default => "the default",
            Self::Flag => "--drain-timeout",
            Self::Grace => "--dapr-graceful-shutdown-seconds and --dapr-block-shutdown-duration",
            Self::Pod => "POD_TERMINATION_GRACE_PERIOD_SECONDS less 5 s",
        }
    }
}

/// When `/v1.0/healthz/outbound` turns good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutboundReady {
    /// Every component's first attempt has ended, one way or the other.
    #[default]
    Settled,
    /// As in daprd: every component is ready.
    AllReady,
}

/// What `/v1.0/healthz` asks for besides the sidecar itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadinessRequires {
    None,
    /// Components annotated `outrigger.dev/required: "true"`.
    #[default]
    Required,
    /// Every component that does not ignore errors.
    All,
    /// Placement and scheduler.
    ControlPlane,
}

/// What the environment says.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `NAMESPACE`; absent when unset or empty.
    pub namespace: Option<Namespace>,
    /// `POD_NAME`.
    pub pod_name: Option<String>,
    /// `DAPR_HOST_IP`.
    pub host_ip: Option<String>,
    /// `DAPR_API_TOKEN`; asked of the app's calls.
    pub api_token: Option<Secret>,
    /// `APP_API_TOKEN`; shown to the app.
    pub app_api_token: Option<Secret>,
    /// `DAPR_TRUST_ANCHORS`: PEM.
    pub trust_anchors: Option<String>,
    /// `DAPR_SENTRY_TOKEN_FILE`.
    pub sentry_token_file: Option<String>,
    /// `SENTRY_LOCAL_IDENTITY`.
    pub sentry_local_identity: Option<String>,
    /// `DAPR_COMPONENTS_SOCKETS_FOLDER`: /tmp/dapr-components-sockets.
    pub components_sockets_folder: String,
    /// `DAPR_HTTP_DISABLE_H2C`: false.
    pub disable_h2c: bool,
    /// `DAPR_GRPC_MAX_CONN_IDLE`: 3m.
    pub peer_idle_limit: Duration,
    /// `DAPR_GRPC_CONN_COLLECTOR_INTERVAL`: 45s.
    pub peer_sweep_interval: Duration,
    /// `OUTRIGGER_PRESTOP_TOKEN`; asked of those who drain over the public port.
    pub prestop_token: Option<Secret>,
    /// `DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK`: false.
    pub skip_user_check: bool,
}
