//! From single flags to options: what depends on several of them.

use std::collections::HashSet;
use std::time::Duration;

use outrigger_core::AppId;
use outrigger_core::duration::{GoDuration, format_go};

use super::environment;
use super::options::{
    AllowedOrigins, ApiOptions, AppHealth, AppOptions, AppProtocol, ComponentOptions,
    ControlPlaneOptions, DrainSource, FileOptions, InternalOptions, LifecycleOptions, LogOptions,
    MetricsOptions, Mode, Options,
};
use crate::Lookup;

const DEFAULT_BODY_SIZE: u64 = 4 << 20;
const DEFAULT_HEADER_SIZE: u64 = 4 << 10;
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
const DEFAULT_DRAIN: Duration = Duration::from_secs(25);
const POD_GRACE: &str = "POD_TERMINATION_GRACE_PERIOD_SECONDS";
/// Until every peer has learnt that this one is leaving.
const KUBERNETES_WINDOW: Duration = Duration::from_secs(3);

/// Options under way: groups that are filled directly, and raw values that need a second look.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) app: AppOptions,
    pub(super) api: ApiOptions,
    pub(super) internal: InternalOptions,
    pub(super) files: FileOptions,
    pub(super) control_plane: ControlPlaneOptions,
    pub(super) log: LogOptions,
    pub(super) metrics: MetricsOptions,
    pub(super) components: ComponentOptions,
    pub(super) lifecycle: LifecycleOptions,
    pub(super) worker_threads: Option<usize>,

    pub(super) app_id: String,
    pub(super) app_ssl: bool,
    pub(super) health: Health,
    pub(super) disabled_endpoints: Vec<String>,
    pub(super) components_path: String,
    pub(super) is_profiling: bool,
    pub(super) profile_port: u16,
    pub(super) allowed_origins: String,
    pub(super) body_size: Option<i64>,
    pub(super) body_mebibytes: Option<i64>,
    pub(super) header_size: Option<i64>,
    pub(super) header_kibibytes: Option<i64>,
    pub(super) graceful_seconds: Option<i64>,
    pub(super) block_shutdown: Option<GoDuration>,
    pub(super) placement: String,
    pub(super) actors_service: String,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) accept_window: Option<Duration>,

    pub(super) version: bool,
    pub(super) build_info: bool,
    pub(super) wait: bool,
    pub(super) wait_timeout: Duration,

    /// Flags that were given, on the command line or by variable.
    pub(super) given: HashSet<&'static str>,
}

/// The health probe's raw numbers.
#[derive(Default)]
pub(super) struct Health {
    pub(super) is_enabled: bool,
    pub(super) path: String,
    pub(super) interval: Option<i64>,
    pub(super) timeout: Option<i64>,
    pub(super) threshold: Option<i64>,
}

/// A flag whose value contradicts another, and what is wrong.
pub(super) type Conflict = (&'static str, String);

impl Draft {
    fn is_given(&self, name: &'static str) -> bool {
        self.given.contains(name)
    }

    /// The options, and what is doubtful about them.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub(super) fn finish(
        mut self,
        lookup: Lookup<'_>,
    ) -> Result<(Options, Vec<String>), Vec<Conflict>> {
        let mut conflicts = Vec::new();
        self.check_app_id(&mut conflicts);
        self.check_ports(&mut conflicts);
        self.finish_app(&mut conflicts);
        self.finish_api();
        self.finish_control_plane(lookup);
        self.finish_lifecycle(lookup);
        self.check_times(&mut conflicts);
        self.check_paths(&mut conflicts);
        if self.files.resources_paths.is_empty() && !self.components_path.is_empty() {
            self.files
                .resources_paths
                .push(std::mem::take(&mut self.components_path));
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let doubts = self.doubts(lookup);
        let options = Options {
            app_id: AppId::from(self.app_id),
            app: self.app,
            api: self.api,
            internal: self.internal,
            files: self.files,
            control_plane: self.control_plane,
            log: self.log,
            metrics: self.metrics,
            components: self.components,
            lifecycle: self.lifecycle,
            worker_threads: self.worker_threads,
            environment: environment::read(lookup),
        };
        Ok((options, doubts))
    }

    fn check_app_id(&self, conflicts: &mut Vec<Conflict>) {
        if self.app_id.is_empty() {
            conflicts.push(("app-id", "--app-id is missing".to_owned()));
        } else if self.files.mode == Mode::Standalone && self.app_id.contains('.') {
            conflicts.push(("app-id", format!("--app-id {:?} holds a dot", self.app_id)));
        }
    }

    fn check_ports(&self, conflicts: &mut Vec<Conflict>) {
        for (name, port) in [
            ("dapr-http-port", self.api.http_port),
            ("dapr-grpc-port", self.api.grpc_port),
        ] {
            if self.app.port == Some(port) {
                conflicts.push((name, format!("--{name} {port} is the same as --app-port")));
            }
        }
    }

    fn finish_app(&mut self, conflicts: &mut Vec<Conflict>) {
        self.app.protocol = match (self.app.protocol, self.app_ssl) {
            (AppProtocol::Http, true) => AppProtocol::Https,
            (AppProtocol::Grpc, true) => AppProtocol::Grpcs,
            (protocol, _) => protocol,
        };
        (self.app.reads_config, self.app.reads_subscriptions) = (true, true);
        for endpoint in &self.disabled_endpoints {
            match endpoint.trim().to_ascii_lowercase().as_str() {
                "" => {}
                "config" => self.app.reads_config = false,
                "subscribe" => self.app.reads_subscriptions = false,
                _ => conflicts.push((
                    "disable-init-endpoints",
                    format!("--disable-init-endpoints {endpoint:?}, expected config or subscribe"),
                )),
            }
        }
        let health = self.health.finish();
        if health.timeout > health.interval {
            conflicts.push((
                "app-health-probe-timeout",
                "--app-health-probe-timeout is above --app-health-probe-interval".to_owned(),
            ));
        }
        self.app.health = self.health.is_enabled.then_some(health);
    }

    fn finish_api(&mut self) {
        let older = self
            .body_mebibytes
            .filter(|_| self.is_given("dapr-http-max-request-size"));
        let newer = self.body_size.filter(|_| self.is_given("max-body-size"));
        self.api.max_body_size = size(newer, older, 1 << 20, DEFAULT_BODY_SIZE);
        let older = self
            .header_kibibytes
            .filter(|_| self.is_given("dapr-http-read-buffer-size"));
        let newer = self
            .header_size
            .filter(|_| self.is_given("read-buffer-size"));
        self.api.read_buffer_size = size(newer, older, 1 << 10, DEFAULT_HEADER_SIZE);
        self.api.profile_port = self.is_profiling.then_some(self.profile_port);
        self.api.allowed_origins = match self.allowed_origins.as_str() {
            "" => AllowedOrigins::Off,
            "*" => AllowedOrigins::Every,
            list => AllowedOrigins::Only(
                list.split(',')
                    .map(|origin| origin.trim().to_owned())
                    .collect(),
            ),
        };
    }

    fn finish_control_plane(&mut self, lookup: Lookup<'_>) {
        let list = |text: &str| {
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()
        };
        // Dapr: the deprecated flag still names the placement servers when the newer one is absent.
        let older = self
            .actors_service
            .strip_prefix("placement:")
            .unwrap_or_default();
        self.control_plane.placement_addresses = list(if self.placement.is_empty() {
            older
        } else {
            &self.placement
        });
        let schedulers = lookup("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A")
            .filter(|_| !self.is_given("scheduler-host-address"));
        if let Some(schedulers) = schedulers {
            self.control_plane.scheduler_addresses = list(&schedulers);
        }
        self.control_plane
            .scheduler_addresses
            .retain(|address| !address.is_empty());
        if let Some(namespace) = lookup("DAPR_CONTROLPLANE_NAMESPACE")
            .filter(|_| !self.is_given("control-plane-namespace"))
        {
            self.control_plane.namespace = namespace;
        }
        if let Some(domain) = lookup("DAPR_CONTROLPLANE_TRUST_DOMAIN")
            .filter(|_| !self.is_given("control-plane-trust-domain"))
        {
            self.control_plane.trust_domain = domain;
        }
    }

    /// Times that cannot all be kept.
    fn check_times(&self, conflicts: &mut Vec<Conflict>) {
        let own = [
            ("drain-quiet", self.lifecycle.drain_quiet),
            ("drain-accept-window", self.lifecycle.accept_window),
            ("app-stop-timeout", self.app.stop_timeout),
        ];
        let timeout = self.lifecycle.drain_timeout.unwrap_or(Duration::MAX);
        for (name, time) in own {
            if self.is_given(name) && time >= timeout {
                let why = format!(
                    "--{name} {} leaves nothing of the {} that the end may take ({})",
                    format_go(time),
                    format_go(timeout),
                    self.lifecycle.drain_source.words(),
                );
                conflicts.push((name, why));
            }
        }
        let components = &self.components;
        if components.retry_cap < components.retry_base {
            let why = "--component-retry-cap is below --component-retry-base".to_owned();
            conflicts.push(("component-retry-cap", why));
        }
        let (name, other) = ("component-ping-timeout", "component-ping-interval");
        let are_given = self.is_given(name) && self.is_given(other);
        if are_given && components.ping_timeout > components.ping_interval {
            let why = format!(
                "--{name} {} is above --{other} {}",
                format_go(components.ping_timeout),
                format_go(components.ping_interval)
            );
            conflicts.push((name, why));
        }
    }

    /// Times of Dapr's that cannot all be kept, as far as they are no reason not to start, and flags without effect.
    fn doubts(&self, lookup: Lookup<'_>) -> Vec<String> {
        let mut doubts = Vec::new();
        let limit = self.lifecycle.drain_timeout.unwrap_or(Duration::MAX);
        if let Some(block) = self.lifecycle.block_shutdown
            && block >= limit
        {
            doubts.push(format!(
                "--dapr-block-shutdown-duration {} is cut short: the end may take {} ({})",
                format_go(block),
                format_go(limit),
                self.lifecycle.drain_source.words(),
            ));
        }
        match pod_grace(lookup) {
            Some(Ok(grace))
                if self.lifecycle.drain_source != DrainSource::Pod && limit >= grace =>
            {
                let limit = match self.lifecycle.drain_timeout {
                    Some(limit) => format_go(limit),
                    None => "as long as it wants".to_owned(),
                };
                doubts.push(format!(
                    "the end may take {limit} ({}), but the pod is killed after {} ({POD_GRACE})",
                    self.lifecycle.drain_source.words(),
                    format_go(grace),
                ));
            }
            Some(Err(found)) => doubts.push(format!(
                "{POD_GRACE} is {found:?}, expected whole seconds: it is not heeded"
            )),
            _ => {}
        }
        if self.app.port.is_none() {
            let paths = [
                "app-ready-path",
                "app-ready-grpc-service",
                "app-busy-path",
                "app-lifecycle-path",
            ];
            for name in paths.into_iter().filter(|name| self.is_given(name)) {
                doubts.push(format!("--{name} has no effect without --app-port"));
            }
        }
        doubts
    }

    /// What the app is to be asked in a way that it does not speak, and what is missing for other flags.
    fn check_paths(&self, conflicts: &mut Vec<Conflict>) {
        let is_http = self.app.protocol.is_http();
        if self.is_given("app-ready-path") && !is_http {
            let why = "--app-ready-path needs an app that speaks HTTP; for gRPC there is --app-ready-grpc-service";
            conflicts.push(("app-ready-path", why.to_owned()));
        }
        if self.is_given("app-ready-grpc-service") && is_http {
            let why = "--app-ready-grpc-service needs an app that speaks gRPC; for HTTP there is --app-ready-path";
            conflicts.push(("app-ready-grpc-service", why.to_owned()));
        }
        if self.is_given("app-busy-path") && !self.app.protocol.is_http() {
            let why = "--app-busy-path needs an app that speaks HTTP".to_owned();
            conflicts.push(("app-busy-path", why));
        }
        if self.is_given("prestop-on-public-port")
            && self.lifecycle.prestop_on_public_port
            && self.api.public_port.is_none()
        {
            let why = "--prestop-on-public-port needs --dapr-public-port".to_owned();
            conflicts.push(("prestop-on-public-port", why));
        }
    }

    fn finish_lifecycle(&mut self, lookup: Lookup<'_>) {
        let not_negative = |time: GoDuration| (time.nanoseconds >= 0).then(|| time.clamped());
        let block = self
            .block_shutdown
            .filter(|_| self.is_given("dapr-block-shutdown-duration"))
            .and_then(not_negative);
        let grace = self
            .graceful_seconds
            .filter(|_| self.is_given("dapr-graceful-shutdown-seconds"));
        let grace = grace
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs);
        let pod = || {
            let grace = pod_grace(lookup)?.ok()?;
            let rest = grace.saturating_sub(Duration::from_secs(5));
            Some(rest.max(Duration::from_secs(1)))
        };
        self.lifecycle.block_shutdown = block;
        let (timeout, source) = match (self.drain_timeout, grace, block) {
            (Some(timeout), _, _) => (
                Some(timeout).filter(|timeout| !timeout.is_zero()),
                DrainSource::Flag,
            ),
            (None, None, None) => match pod() {
                Some(pod) => (Some(pod), DrainSource::Pod),
                None => (Some(DEFAULT_DRAIN), DrainSource::Default),
            },
            (None, Some(Duration::ZERO), _) => (None, DrainSource::Grace),
            (None, grace, block) => (
                Some(
                    grace
                        .unwrap_or(DEFAULT_GRACE)
                        .saturating_add(block.unwrap_or_default()),
                ),
                DrainSource::Grace,
            ),
        };
        self.lifecycle.drain_timeout = timeout;
        self.lifecycle.drain_source = source;
        let usual = match self.files.mode {
            Mode::Kubernetes => KUBERNETES_WINDOW,
            Mode::Standalone => Duration::ZERO,
        };
        // Where there is little time, not all of it is for peers.
        let half = timeout.map_or(usual, |timeout| timeout / 2);
        self.lifecycle.accept_window = self.accept_window.unwrap_or_else(|| usual.min(half));
    }
}

/// How long the kubelet waits, or what stands there instead.
fn pod_grace(lookup: Lookup<'_>) -> Option<Result<Duration, String>> {
    let text = lookup(POD_GRACE)?;
    let seconds = text.trim().parse();
    Some(seconds.map(Duration::from_secs).map_err(|_| text))
}

/// The newer flag's bytes, else the older one's in its unit. -1 means the default, less than that no limit.
fn size(newer: Option<i64>, older: Option<i64>, unit: i64, default: u64) -> u64 {
    let older = older.map(|number| {
        if number > 0 {
            number.saturating_mul(unit)
        } else {
            number
        }
    });
    match newer.or(older) {
        None | Some(-1) => default,
        Some(bytes) => u64::try_from(bytes).unwrap_or(0),
    }
}

impl Health {
    /// Dapr: numbers that are not positive mean the default.
    fn finish(&self) -> AppHealth {
        let positive = |number: Option<i64>, default: u64| {
            number
                .and_then(|number| u64::try_from(number).ok())
                .filter(|n| *n > 0)
                .unwrap_or(default)
        };
        let threshold = self
            .threshold
            .and_then(|number| i32::try_from(number).ok())
            .filter(|number| (1..i32::MAX).contains(number));
        AppHealth {
            path: self.path.clone(),
            interval: Duration::from_secs(positive(self.interval, 5)),
            timeout: Duration::from_millis(positive(self.timeout, 500)),
            threshold: threshold
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(3),
        }
    }
}
