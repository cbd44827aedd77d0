//! Every flag: its name, default, meaning, and where its value goes.
//!
//! To add one, add a row here and a field in [`options`](super::options). A row's function gets the value in the form
//! that daprd parses it into; text that has no such form is a fault of syntax (exit code 2), a value that the function
//! does not accept is a fault of value (exit code 1).

use std::time::Duration;

use outrigger_core::duration::GoDuration;
use outrigger_core::quantity;

use super::draft::Draft;
use super::options::{
    AppProtocol, AppRestart, AppStart, InitMode, LazyComponents, LogLevel, Mode, OutboundReady,
    ReadinessRequires, StateJsonNumbers,
};

/// `Err` says what was expected.
pub(super) type Accepted = Result<(), &'static str>;

/// How a value is parsed, and what is done with it.
#[derive(Clone, Copy)]
pub(super) enum Set {
    Text(fn(&mut Draft, &str) -> Accepted),
    /// Needs no value.
    Switch(fn(&mut Draft, bool)),
    Number(fn(&mut Draft, i64) -> Accepted),
    /// A number that is not negative.
    Count(fn(&mut Draft, u32) -> Accepted),
    Duration(fn(&mut Draft, GoDuration) -> Accepted),
    /// Comma-separated; may be repeated.
    List(fn(&mut Draft) -> &mut Vec<String>),
}

/// One flag.
#[derive(Clone, Copy)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    /// Applied before anything else, unless it is empty.
    pub(super) default: &'static str,
    pub(super) set: Set,
    pub(super) meaning: &'static str,
    /// Not one of daprd's; has an environment variable.
    pub(super) is_ours: bool,
    /// What to use in its place.
    pub(super) deprecated: Option<&'static str>,
    /// Left out of the help text.
    pub(super) is_hidden: bool,
}

impl Flag {
    /// `OUTRIGGER_COMPONENT_WAIT`; daprd's flags have none.
    pub(super) fn variable(&self) -> Option<String> {
        self.is_ours.then(|| {
            format!(
                "OUTRIGGER_{}",
                self.name.replace('-', "_").to_ascii_uppercase()
            )
        })
    }

    const fn deprecated(mut self, instead: &'static str) -> Self {
        self.deprecated = Some(instead);
        self
    }

    const fn hidden(mut self) -> Self {
        self.is_hidden = true;
        self
    }
}

const fn dapr(name: &'static str, default: &'static str, set: Set, meaning: &'static str) -> Flag {
    Flag {
        name,
        default,
        set,
        meaning,
        is_ours: false,
        deprecated: None,
        is_hidden: false,
    }
}

const fn ours(name: &'static str, default: &'static str, set: Set, meaning: &'static str) -> Flag {
    Flag {
        name,
        default,
        set,
        meaning,
        is_ours: true,
        deprecated: None,
        is_hidden: false,
    }
}

use Set::{Count, Duration as Time, List, Number, Switch, Text};

/// Dapr: cmd/daprd/options/options.go; then ours. One row, one line.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    // The app.
    dapr("app-id", "", Text(|d, v| text(v, &mut d.app_id)), "id under which other apps reach this one; required"),
    dapr("app-port", "", Text(|d, v| port(v, &mut d.app.port)), "port on which the app listens; without it the app is never called"),
    dapr("app-channel-address", "127.0.0.1", Text(|d, v| text(v, &mut d.app.channel_address)), "host on which the app listens"),
    dapr("app-protocol", "http", Text(|d, v| word(v, PROTOCOLS, "http, https, h2c, grpc or grpcs", &mut d.app.protocol)), "how the app is spoken to: http, https, h2c, grpc or grpcs"),
    dapr("app-ssl", "false", Switch(|d, v| d.app_ssl = v), "speak TLS with the app").deprecated("--app-protocol https or grpcs"),
    dapr("app-max-concurrency", "-1", Number(|d, v| optional_count(v, &mut d.app.max_concurrency)), "calls to the app at the same time; -1: no limit"),
    dapr("enable-app-health-check", "false", Switch(|d, v| d.health.is_enabled = v), "probe the app's health and hold back work while it is unhealthy"),
    dapr("app-health-check-path", "/healthz", Text(|d, v| text(v, &mut d.health.path)), "path of the health probe, HTTP only"),
    dapr("app-health-probe-interval", "5", Number(|d, v| number(v, &mut d.health.interval)), "seconds between health probes"),
    dapr("app-health-probe-timeout", "500", Number(|d, v| number(v, &mut d.health.timeout)), "milliseconds that a health probe may take; at most the interval"),
    dapr("app-health-threshold", "3", Number(|d, v| number(v, &mut d.health.threshold)), "failed probes in a row until the app counts as unhealthy"),
    dapr("app-binding-options-timeout", "3s", Time(|d, v| or_default(v, 3, &mut d.app.binding_options_timeout)), "how long the app may take to say whether it handles a binding"),
    dapr("disable-init-endpoints", "", List(|d| &mut d.disabled_endpoints), "what the app is not asked for at start: config, subscribe"),
    // Where configuration comes from.
    dapr("mode", "standalone", Text(|d, v| exact(v, MODES, "standalone or kubernetes", &mut d.files.mode)), "where the sidecar runs: standalone or kubernetes"),
    dapr("config", "", List(|d| &mut d.files.config), "Configuration file, or name of the resource in Kubernetes; may be repeated, later files win"),
    dapr("resources-path", "", List(|d| &mut d.files.resources_paths), "folder with resource files; may be repeated"),
    dapr("components-path", "", Text(|d, v| text(v, &mut d.components_path)), "folder with resource files").deprecated("--resources-path"),
    dapr("hot-reload-reconcile-interval", "0", Time(|d, v| or_default(v, 60, &mut d.files.reconcile_interval)), "how often all resource files are compared, whatever the file system reports; 0: 60s"),
    dapr("disable-builtin-k8s-secret-store", "false", Switch(|d, v| d.files.disable_builtin_kubernetes_secrets = v), "no implicit secret store `kubernetes`"),
    // Servers.
    dapr("dapr-http-port", "3500", Text(|d, v| required_port(v, &mut d.api.http_port)), "port of the HTTP API"),
    dapr("dapr-grpc-port", "50001", Text(|d, v| required_port(v, &mut d.api.grpc_port)), "port of the gRPC API"),
    dapr("dapr-listen-addresses", "", Text(|d, v| items(v, &mut d.api.listen_addresses)), "addresses of the API servers, comma-separated; empty: every interface"),
    dapr("dapr-public-port", "", Text(|d, v| port_or_none(v, &mut d.api.public_port)), "port of a server for health and metadata only"),
    dapr("dapr-public-listen-address", "", Text(|d, v| text(v, &mut d.api.public_listen_address)), "address of that server; empty: every interface"),
    dapr("dapr-internal-grpc-port", "", Text(|d, v| port(v, &mut d.internal.port)), "port for other sidecars; empty: derived from the app id"),
    dapr("dapr-internal-grpc-listen-address", "", Text(|d, v| text(v, &mut d.internal.listen_address)), "address for other sidecars; empty: every interface"),
    dapr("unix-domain-socket", "", Text(|d, v| optional(v, &mut d.api.unix_domain_socket)), "folder for Unix sockets, in place of the ports of the API servers"),
    dapr("enable-profiling", "false", Switch(|d, v| d.is_profiling = v), "serve profiles"),
    dapr("profile-port", "7777", Text(|d, v| required_port(v, &mut d.profile_port)), "port of the profile server"),
    dapr("allowed-origins", "", Text(|d, v| text(v, &mut d.allowed_origins)), "origins for CORS, comma-separated, or `*`; empty: no CORS"),
    dapr("max-body-size", "4Mi", Text(|d, v| size(v, &mut d.body_size)), "largest request body, such as 16Mi; 0: no limit, -1: the default"),
    dapr("dapr-http-max-request-size", "4", Number(|d, v| number(v, &mut d.body_mebibytes)), "largest request body in MiB").deprecated("--max-body-size"),
    dapr("read-buffer-size", "4Ki", Text(|d, v| size(v, &mut d.header_size)), "largest request head, such as 8Ki; -1: the default"),
    dapr("dapr-http-read-buffer-size", "4", Number(|d, v| number(v, &mut d.header_kibibytes)), "largest request head in KiB").deprecated("--read-buffer-size"),
    dapr("enable-api-logging", "", Switch(|d, v| d.api.api_logging = Some(v)), "log every API call; not given: the Configuration decides"),
    // The end.
    dapr("dapr-graceful-shutdown-seconds", "5", Number(|d, v| number(v, &mut d.graceful_seconds)), "seconds for a clean end, 0: no limit; not given: see --drain-timeout"),
    dapr("dapr-block-shutdown-duration", "0", Time(|d, v| time(v, &mut d.block_shutdown)), "keep the APIs for this long after a stop signal, or until the app is unhealthy"),
    // Control plane.
    dapr("placement-host-address", "", Text(|d, v| text(v, &mut d.placement)), "placement servers, comma-separated; empty: no actors"),
    dapr("actors-disseminate-timeout", "30s", Time(|d, v| positive(v, &mut d.control_plane.disseminate_timeout)), "how long a change of actor placement may take"),
    dapr("scheduler-host-address", "", List(|d| &mut d.control_plane.scheduler_addresses), "scheduler servers, comma-separated; empty: no jobs"),
    dapr("scheduler-job-streams", "3", Count(|d, v| at_least_one(v, &mut d.control_plane.scheduler_job_streams)), "streams to the scheduler"),
    dapr("actors-service", "", Text(|d, v| text(v, &mut d.actors_service)), "actors service as type:address").deprecated("--placement-host-address").hidden(),
    dapr("reminders-service", "", Text(|_, _| Ok(())), "reminders service as type:address").deprecated("nothing, it has no effect").hidden(),
    dapr("control-plane-address", "", Text(|d, v| text(v, &mut d.control_plane.address)), "address of the control plane"),
    dapr("control-plane-namespace", "default", Text(|d, v| text(v, &mut d.control_plane.namespace)), "namespace of the control plane"),
    dapr("control-plane-trust-domain", "localhost", Text(|d, v| text(v, &mut d.control_plane.trust_domain)), "trust domain of the control plane"),
    dapr("sentry-address", "", Text(|d, v| text(v, &mut d.control_plane.sentry_address)), "address of the certificate authority"),
    dapr("sentry-request-jwt-audiences", "", List(|d| &mut d.control_plane.jwt_audiences), "audiences of certificate requests, comma-separated; empty: the trust domain"),
    dapr("enable-mtls", "false", Switch(|d, v| d.control_plane.mtls = v), "mutual TLS between sidecars"),
    // Logs and metrics.
    dapr("log-level", "info", Text(|d, v| word(v, LEVELS, "debug, info, warn, error or fatal", &mut d.log.level)), "least severity that is logged: debug, info, warn, error or fatal"),
    dapr("log-as-json", "false", Switch(|d, v| d.log.json = v), "log lines as JSON objects"),
    dapr("log-file", "", Text(|d, v| optional(v, &mut d.log.file)), "file for the log, in place of standard output"),
    dapr("enable-metrics", "true", Switch(|d, v| d.metrics.enabled = v), "serve metrics"),
    dapr("metrics-port", "9090", Text(|d, v| required_port(v, &mut d.metrics.port)), "port of the metrics server"),
    dapr("metrics-listen-address", "0.0.0.0", Text(|d, v| text(v, &mut d.metrics.listen_address)), "address of the metrics server"),
    // Actions.
    dapr("version", "false", Switch(|d, v| d.version = v), "print the version and exit"),
    dapr("build-info", "false", Switch(|d, v| d.build_info = v), "print version and commit and exit"),
    dapr("wait", "false", Switch(|d, v| d.wait = v), "wait until the sidecar on --dapr-http-port serves outbound calls and exit"),
    // Ours.
    ours("wait-timeout", "60s", Time(|d, v| not_negative(v, &mut d.wait_timeout)), "how long --wait waits; exit code 1 after that"),
    ours("component-init-mode", "resilient", Text(|d, v| exact(v, INIT_MODES, "resilient or strict", &mut d.components.init_mode)), "resilient: a component that cannot connect is tried for ever; strict: the process ends, as daprd does"),
    ours("component-init-deadline", "0", Time(|d, v| optional_time(v, &mut d.components.init_deadline)), "end the process if a component that does not ignore errors was never ready for this long; 0: never"),
    ours("lazy-components", "none", Text(|d, v| exact(v, LAZY, "none, outbound or all", &mut d.components.lazy)), "components that connect on first use only: none, outbound or all"),
    ours("component-wait", "2s", Time(|d, v| not_negative(v, &mut d.components.wait)), "how long a call waits for a component that is not ready"),
    ours("component-ping-interval", "10s", Time(|d, v| positive(v, &mut d.components.ping_interval)), "how often an idle component is pinged"),
    ours("component-ping-timeout", "2s", Time(|d, v| positive(v, &mut d.components.ping_timeout)), "how long a ping may take"),
    ours("component-retry-base", "500ms", Time(|d, v| positive(v, &mut d.components.retry_base)), "pause before a component is tried again; it doubles each time"),
    ours("component-retry-cap", "10s", Time(|d, v| positive(v, &mut d.components.retry_cap)), "longest of these pauses"),
    ours("component-not-ready-status", "503", Text(|d, v| exact(v, STATUSES, "503 or 500", &mut d.api.component_not_ready_status)), "HTTP status of calls to a component that is not ready: 503, or 500 as in daprd"),
    ours("resiliency-details", "false", Switch(|d, v| d.api.resiliency_details = v), "put the field outrigger-resiliency on every answer, with attempts, policies and the breaker's state; otherwise it is on failures that policies have to do with, with the reason"),
    ours("resiliency-strict", "false", Switch(|d, v| d.api.resiliency_strict = v), "end the start when a Resiliency resource is refused"),
    ours("startup-settle-timeout", "10s", Time(|d, v| not_negative(v, &mut d.lifecycle.settle_timeout)), "how long the start waits for the first attempts of all components"),
    ours("outbound-ready", "settled", Text(|d, v| exact(v, OUTBOUND, "settled or all-ready", &mut d.lifecycle.outbound_ready)), "when outbound health turns good: settled (every first attempt has ended) or all-ready, as in daprd"),
    ours("readiness-requires", "required", Text(|d, v| exact(v, REQUIRES, "none, required, all or controlplane", &mut d.lifecycle.readiness_requires)), "what readiness asks for besides the sidecar: none, required (annotated components), all or controlplane"),
    ours("app-ready-path", "", Text(|d, v| path(v, &mut d.app.ready_path)), "path of the app that must answer 2xx before it gets any work"),
    ours("app-ready-grpc-service", "", Text(|d, v| some(v, &mut d.app.ready_grpc_service)), "gRPC health service of the app that must be SERVING before it gets any work"),
    ours("app-busy-path", "", Text(|d, v| path(v, &mut d.app.busy_path)), "path of the app that answers {\"busy\": true} while it has work of its own: a drain waits for it"),
    ours("app-lifecycle-path", "", Text(|d, v| path(v, &mut d.app.lifecycle_path)), "path of the app that is sent what happens to this sidecar, as CloudEvents"),
    ours("poison-crash-limit", "5", Number(|d, v| crashes(v, &mut d.app.poison_crash_limit)), "after so many crashes of the app under the same message it counts as failed; 0: never"),
    ours("app-log-prefix", "", Text(|d, v| some(v, &mut d.app.log_prefix)), "with `outrigger run`: put before each line that the app prints; given and empty, the app has our standard output and error for its own"),
    ours("app-start", "outbound-ready", Text(|d, v| exact(v, APP_STARTS, "outbound-ready or immediately", &mut d.app.start)), "with `outrigger run`: when the app is started: outbound-ready (once its calls are served) or immediately"),
    ours("app-stop-timeout", "10s", Time(|d, v| not_negative(v, &mut d.app.stop_timeout)), "with `outrigger run`: how long the app gets to end by itself before it is killed, within --drain-timeout"),
    ours("app-signal-first", "false", Switch(|d, v| d.app.signal_first = v), "with `outrigger run`: send SIGTERM to the app when the end begins, not when all work in hand is done"),
    ours("app-restart", "never", Text(|d, v| exact(v, APP_RESTARTS, "never, on-failure or always", &mut d.app.restart)), "with `outrigger run`: whether an app that ends by itself is started again: never (its end is ours), on-failure (unless its exit code is 0) or always"),
    ours("exit-when-app-exits", "0", Time(|d, v| optional_time(v, &mut d.lifecycle.exit_when_app_exits)), "end cleanly once the app's port, having been open, has been closed for this long; 0: never"),
    ours("exit-on-network-namespace-loss", "false", Switch(|d, v| d.lifecycle.exit_on_network_loss = v), "end with exit code 75 when only loopback has been left of the network for 10s, as after a restart of the container that owns it"),
    ours("drain-timeout", "", Time(|d, v| not_negative(v, d.drain_timeout.get_or_insert_default())), "how long the end may take, 0: no limit; not given: graceful and block duration, else POD_TERMINATION_GRACE_PERIOD_SECONDS - 5s, else 25s"),
    ours("drain-accept-window", "", Time(|d, v| not_negative(v, d.accept_window.get_or_insert_default())), "how long calls of other sidecars are still taken once the end has begun; not given: 3s with --mode kubernetes, else 0"),
    ours("drain-quiet", "1s", Time(|d, v| not_negative(v, &mut d.lifecycle.drain_quiet)), "end once nothing was called for this long, after all work is done"),
    ours("prestop-on-public-port", "false", Switch(|d, v| d.lifecycle.prestop_on_public_port = v), "serve the drain endpoint on the public port too; with OUTRIGGER_PRESTOP_TOKEN set, to those who bring it"),
    ours("state-dir", "", Text(|d, v| optional(v, &mut d.lifecycle.state_dir)), "folder in which the history of this sidecar is kept; empty: no history"),
    ours("lifecycle-webhook-url", "", Text(|d, v| webhook(v, &mut d.lifecycle.webhook_url)), "http or https URL that is sent what happens to this sidecar, as CloudEvents"),
    ours("state-json-numbers", "float64", Text(|d, v| exact(v, NUMBERS, "float64 or exact", &mut d.api.state_json_numbers)), "numbers in stored JSON: float64, as Dapr keeps them, or exact"),
    ours("worker-threads", "0", Number(|d, v| threads(v, &mut d.worker_threads)), "threads that serve requests; 0: one for every two processors"),
];

const PROTOCOLS: &[(&str, AppProtocol)] = &[
    ("http", AppProtocol::Http),
    ("https", AppProtocol::Https),
    ("h2c", AppProtocol::H2c),
    ("grpc", AppProtocol::Grpc),
    ("grpcs", AppProtocol::Grpcs),
    ("", AppProtocol::Http),
];
const MODES: &[(&str, Mode)] = &[
    ("standalone", Mode::Standalone),
    ("kubernetes", Mode::Kubernetes),
];
const LEVELS: &[(&str, LogLevel)] = &[
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warn", LogLevel::Warn),
    ("error", LogLevel::Error),
    ("fatal", LogLevel::Fatal),
];
const INIT_MODES: &[(&str, InitMode)] = &[
    ("resilient", InitMode::Resilient),
    ("strict", InitMode::Strict),
];
const LAZY: &[(&str, LazyComponents)] = &[
    ("none", LazyComponents::None),
    ("outbound", LazyComponents::Outbound),
    ("all", LazyComponents::All),
];
const APP_STARTS: &[(&str, AppStart)] = &[
    ("outbound-ready", AppStart::OutboundReady),
    ("immediately", AppStart::Immediately),
];
const APP_RESTARTS: &[(&str, AppRestart)] = &[
    ("never", AppRestart::Never),
    ("on-failure", AppRestart::OnFailure),
    ("always", AppRestart::Always),
];
const STATUSES: &[(&str, u16)] = &[("503", 503), ("500", 500)];
const OUTBOUND: &[(&str, OutboundReady)] = &[
    ("settled", OutboundReady::Settled),
    ("all-ready", OutboundReady::AllReady),
];
const REQUIRES: &[(&str, ReadinessRequires)] = &[
    ("none", ReadinessRequires::None),
    ("required", ReadinessRequires::Required),
    ("all", ReadinessRequires::All),
    ("controlplane", ReadinessRequires::ControlPlane),
];
const NUMBERS: &[(&str, StateJsonNumbers)] = &[
    ("float64", StateJsonNumbers::Float64),
    ("exact", StateJsonNumbers::Exact),
];

fn text(value: &str, slot: &mut String) -> Accepted {
    value.clone_into(slot);
    Ok(())
}

/// Present even when empty.
fn some(value: &str, slot: &mut Option<String>) -> Accepted {
    *slot = Some(value.to_owned());
    Ok(())
}

/// Absent when empty.
fn optional(value: &str, slot: &mut Option<String>) -> Accepted {
    *slot = Some(value.to_owned()).filter(|value| !value.is_empty());
    Ok(())
}

fn path(value: &str, slot: &mut Option<String>) -> Accepted {
    if !value.is_empty() && !value.starts_with('/') {
        return Err("a path that begins with `/`");
    }
    optional(value, slot)
}

fn items(value: &str, slot: &mut Vec<String>) -> Accepted {
    *slot = value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(())
}

const PORT: &str = "a port from 0 to 65535";

fn required_port(value: &str, slot: &mut u16) -> Accepted {
    *slot = value.parse().map_err(|_| PORT)?;
    Ok(())
}

/// Absent when empty.
fn port_or_none(value: &str, slot: &mut Option<u16>) -> Accepted {
    *slot = if value.is_empty() {
        None
    } else {
        Some(value.parse().map_err(|_| PORT)?)
    };
    Ok(())
}

/// Absent when empty or 0.
fn port(value: &str, slot: &mut Option<u16>) -> Accepted {
    port_or_none(value, slot)?;
    *slot = slot.filter(|port| *port != 0);
    Ok(())
}

fn number(value: i64, slot: &mut Option<i64>) -> Accepted {
    *slot = Some(value);
    Ok(())
}

fn at_least_one(value: u32, slot: &mut u32) -> Accepted {
    if value == 0 {
        return Err("a number of at least 1");
    }
    *slot = value;
    Ok(())
}

/// Absent when not positive.
fn optional_count(value: i64, slot: &mut Option<u32>) -> Accepted {
    *slot = (value > 0).then(|| u32::try_from(value).unwrap_or(u32::MAX));
    Ok(())
}

fn threads(value: i64, slot: &mut Option<usize>) -> Accepted {
    let threads = usize::try_from(value)
        .ok()
        .filter(|threads| *threads <= 1024)
        .ok_or("a whole number from 0 to 1024")?;
    *slot = Some(threads).filter(|threads| *threads > 0);
    Ok(())
}

fn crashes(value: i64, slot: &mut u32) -> Accepted {
    *slot = u32::try_from(value).map_err(|_| "a whole number that is not negative")?;
    Ok(())
}

fn webhook(value: &str, slot: &mut Option<String>) -> Accepted {
    let rest = value
        .strip_prefix("http://")
        .or_else(|| value.strip_prefix("https://"));
    if !value.is_empty() && rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err("an http:// or https:// URL");
    }
    let authority = rest.and_then(|rest| rest.split(['/', '?']).next());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err("a URL without user and password");
    }
    optional(value, slot)
}

/// Bytes, or a Kubernetes quantity.
fn size(value: &str, slot: &mut Option<i64>) -> Accepted {
    *slot = Some(quantity::parse(value).ok_or("bytes such as 4194304 or 4Mi")?);
    Ok(())
}

/// One of several words, whatever their case.
fn word<T: Copy>(
    value: &str,
    words: &[(&str, T)],
    expected: &'static str,
    slot: &mut T,
) -> Accepted {
    exact(&value.to_ascii_lowercase(), words, expected, slot)
}

fn exact<T: Copy>(
    value: &str,
    words: &[(&str, T)],
    expected: &'static str,
    slot: &mut T,
) -> Accepted {
    let (_, found) = words
        .iter()
        .find(|(word, _)| *word == value)
        .ok_or(expected)?;
    *slot = *found;
    Ok(())
}

fn time(value: GoDuration, slot: &mut Option<GoDuration>) -> Accepted {
    *slot = Some(value);
    Ok(())
}

fn positive(value: GoDuration, slot: &mut Duration) -> Accepted {
    *slot = value.positive().ok_or("a positive duration")?;
    Ok(())
}

fn not_negative(value: GoDuration, slot: &mut Duration) -> Accepted {
    if value.nanoseconds < 0 {
        return Err("a duration that is not negative");
    }
    *slot = value.clamped();
    Ok(())
}

/// Absent when 0.
fn optional_time(value: GoDuration, slot: &mut Option<Duration>) -> Accepted {
    let mut time = Duration::ZERO;
    not_negative(value, &mut time)?;
    *slot = Some(time).filter(|time| !time.is_zero());
    Ok(())
}

/// The default, in seconds, when not positive.
fn or_default(value: GoDuration, default: u64, slot: &mut Duration) -> Accepted {
    *slot = value
        .positive()
        .unwrap_or_else(|| Duration::from_secs(default));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_well_formed() {
        for (i, flag) in FLAGS.iter().enumerate() {
            assert!(
                flag.name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{}",
                flag.name
            );
            assert!(
                FLAGS
                    .iter()
                    .skip(i + 1)
                    .all(|other| other.name != flag.name),
                "{}",
                flag.name
            );
            assert!(
                !flag.meaning.ends_with('.') && !flag.meaning.is_empty(),
                "{}",
                flag.name
            );
        }
    }

    #[test]
    fn our_flags_have_a_variable() {
        let wait = FLAGS
            .iter()
            .find(|flag| flag.name == "component-wait")
            .unwrap();
        assert_eq!(wait.variable().as_deref(), Some("OUTRIGGER_COMPONENT_WAIT"));
        assert_eq!(FLAGS[0].variable(), None);
    }
}
