//! Log, metrics and traces as the user configured them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_channel::export::{self, Exporter, OtlpGrpc, OtlpHttp, Resource, Zipkin};
use outrigger_config::configuration::OtelProtocol;
use outrigger_config::flags::LogLevel;
use outrigger_config::{Configuration, Options};
use outrigger_core::json::{Numbers, Style, Value, encode, go_float};
use outrigger_lifecycle::Scope;
use outrigger_telemetry::history::{Reader, Writer};
use outrigger_telemetry::span::Tracer;
use outrigger_telemetry::{Metrics, Rule, log, metrics};
use regex::Regex;
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

use crate::components::Environment;
use crate::events;

const SCOPE: &str = "dapr.runtime";
/// For the folder of the history.
const OPEN_LIMIT: Duration = Duration::from_secs(1);

/// Starts the process's log.
///
/// # Errors
/// When the log file cannot be opened.
pub(crate) fn start_log(
    options: &Options,
    prefix: &'static str,
    host_name: &str,
    version: &str,
) -> Result<(), String> {
    let level = match options.log.level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Fatal => LevelFilter::ERROR,
    };
    let settings = log::Settings {
        level,
        json: options.log.json,
        prefix: if options.log.json { "" } else { prefix },
        file: options.log.file.as_ref().map(PathBuf::from),
        app_id: options.app_id.to_string(),
        instance: host_name.to_owned(),
        version: version.to_owned(),
    };
    log::init(settings).map_err(|error| format!("cannot write the log: {error}"))
}

/// Tells what is measured, in Dapr's words.
pub(crate) fn tell_metrics(configuration: &Configuration) {
    let metrics = &configuration.metrics;
    let patterns = metrics.path_matching.iter();
    let patterns = patterns.map(|pattern| Value::string(pattern.as_str()));
    let http = [
        (
            "increasedCardinality",
            Value::Bool(metrics.increased_cardinality),
        ),
        ("pathMatching", Value::Array(patterns.collect())),
        ("excludeVerbs", Value::Bool(metrics.exclude_verbs)),
    ];
    let spec = Value::object([
        ("enabled", Value::Bool(metrics.enabled)),
        ("recordErrorCodes", Value::Bool(metrics.record_error_codes)),
        ("http", Value::object(http)),
    ]);
    let spec = encode(&spec, Style::Ours, Numbers::Exact);
    info!(target: SCOPE, "metric spec: {}", String::from_utf8_lossy(&spec));
}

/// Tells which traces are sampled, in Dapr's words.
pub(crate) fn tell_sampler(configuration: &Configuration) {
    let rate = configuration.tracing.sampling_rate;
    let root = if rate >= 1.0 {
        "AlwaysOnSampler".to_owned()
    } else {
        format!("TraceIDRatioBased{{{}}}", go_float(rate.max(0.0)))
    };
    info!(target: SCOPE, "Dapr trace sampler initialized: ParentBased{{root:{root}}}");
}

/// The metrics of the process.
pub(crate) fn metrics(options: &Options, configuration: &Configuration) -> Arc<Metrics> {
    Arc::new(Metrics::new(metrics_settings(options, configuration)))
}

/// What the Configuration makes of them.
pub(crate) fn metrics_settings(
    options: &Options,
    configuration: &Configuration,
) -> metrics::Settings {
    let chosen = &configuration.metrics;
    let rules = chosen.rules.iter().map(|rule| Rule {
        metric: exported_name(&rule.metric),
        label: rule.label.clone(),
        patterns: rule
            .patterns
            .iter()
            .filter_map(|(replacement, pattern)| {
                Some((replacement.clone(), Regex::new(pattern).ok()?))
            })
            .collect(),
    });
    metrics::Settings {
        namespace: options
            .environment
            .namespace
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        enabled: options.metrics.enabled && chosen.enabled,
        error_codes: chosen.record_error_codes,
        increased_cardinality: chosen.increased_cardinality,
        exclude_verbs: chosen.exclude_verbs,
        path_patterns: chosen.path_matching.clone(),
        latency_buckets: chosen.latency_buckets.clone(),
        rules: rules.collect(),
        ..metrics::Settings::new(options.app_id.as_str())
    }
}

/// Rules may name a metric as it is exported, or as Dapr's documentation does.
fn exported_name(name: &str) -> String {
    let flat = name.replace(['/', '.'], "_");
    if flat.starts_with("dapr_") || flat.starts_with("outrigger_") {
        flat
    } else {
        format!("dapr_{flat}")
    }
}

/// The history, kept by a task in `scope`, or why none is. One that cannot be kept is no reason not to run.
pub(crate) async fn history(
    options: &Options,
    metrics: &Arc<Metrics>,
    scope: &Scope,
) -> Result<Reader, String> {
    let Some(folder) = &options.lifecycle.state_dir else {
        return Err("start the sidecar with --state-dir".to_owned());
    };
    let changes = metrics.journal.listen();
    let (folder, app_id) = (PathBuf::from(folder), options.app_id.clone());
    // A disk that hangs holds up nothing else.
    let opening = tokio::task::spawn_blocking(move || Writer::open(&folder, app_id.as_str()));
    let opened = match tokio::time::timeout(OPEN_LIMIT, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err("the folder of --state-dir does not answer".to_owned()),
    };
    match opened {
        Ok(writer) => {
            let reader = writer.reader().clone();
            let metrics = metrics.clone();
            scope.spawn("history", move |stop| {
                events::keep(writer, changes, metrics, stop)
            });
            Ok(reader)
        }
        Err(why) => {
            error!(target: SCOPE, err = why, "no history is kept");
            Err(why)
        }
    }
}

/// The tracer, with its exporters running in `scope`.
pub(crate) fn tracer(
    options: &Options,
    configuration: &Configuration,
    environment: &Environment,
    scope: &Scope,
) -> Tracer {
    let tracing = &configuration.tracing;
    if tracing.sampling_rate <= 0.0 {
        return Tracer::off();
    }
    let mut exporters = Vec::new();
    let mut add = |what: &str, exporter: Result<Exporter, String>| match exporter {
        Ok(exporter) => exporters.push(exporter),
        Err(error) => warn!(target: SCOPE, exporter = what, error, "trace exporter cannot be used"),
    };
    if tracing.stdout {
        add("stdout", Ok(Exporter::Log));
    }
    if let Some(url) = &tracing.zipkin_endpoint {
        add("zipkin", Zipkin::new(url).map(Exporter::Zipkin));
    }
    if let Some(otel) = &tracing.otel {
        let limit = otel.timeout.unwrap_or(export::LIMIT);
        let exporter = match otel.protocol {
            OtelProtocol::Grpc => OtlpGrpc::new(
                &otel.endpoint,
                otel.secure,
                otel.headers.clone(),
                limit,
                scope,
            )
            .map(Exporter::OtlpGrpc),
            OtelProtocol::Http => {
                OtlpHttp::new(&otel.endpoint, otel.secure, otel.headers.clone(), limit)
                    .map(Exporter::OtlpHttp)
            }
        };
        add("otel", exporter);
    }
    if exporters.is_empty() {
        return Tracer::passive();
    }
    let (tracer, queue) = Tracer::active(tracing.sampling_rate);
    export::start(scope, queue, resource(options, environment), exporters);
    tracer
}

fn resource(options: &Options, environment: &Environment) -> Resource {
    let mut attributes: Vec<(String, String)> = Vec::new();
    for pair in environment("OTEL_RESOURCE_ATTRIBUTES")
        .unwrap_or_default()
        .split(',')
    {
        if let Some((name, value)) = pair.split_once('=') {
            attributes.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let named = attributes
        .iter()
        .find(|(name, _)| name == "service.name")
        .map(|(_, value)| value.clone());
    attributes.retain(|(name, _)| name != "service.name");
    let service_name = environment("OTEL_SERVICE_NAME")
        .filter(|name| !name.is_empty())
        .or(named)
        .unwrap_or_else(|| options.app_id.to_string());
    Resource {
        service_name,
        attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_may_name_metrics_in_either_form() {
        assert_eq!(
            exported_name("dapr_http_server_request_count"),
            "dapr_http_server_request_count"
        );
        assert_eq!(
            exported_name("http/server/request_count"),
            "dapr_http_server_request_count"
        );
        assert_eq!(
            exported_name("grpc.io/server/completed_rpcs"),
            "dapr_grpc_io_server_completed_rpcs"
        );
    }
}
