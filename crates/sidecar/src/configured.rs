//! The Configuration in force: read from its files, and again when they change.
//!
//! Owns: what a change concerns ([`changes`], pure), and applying it in place. Never: closes a listener or ends anything
//! because of a file that has become wrong; the last good Configuration stays in force.
//! Start at [`Configured::take_over`].

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use outrigger_blocks::Blocks;
use outrigger_blocks::secrets;
use outrigger_channel::peer::Access;
use outrigger_config::configuration::{AccessControl, Action, ApiRule};
use outrigger_config::{Configuration, Diagnostic, Options, configuration};
use outrigger_lifecycle::Scope;
use tracing::{error, info, warn};

use crate::components::{Environment, Names};
use crate::files::read_configuration;
use crate::telemetry;

const SCOPE: &str = "dapr.runtime";

/// What of a running sidecar follows the Configuration.
pub(crate) struct Configured {
    pub options: Arc<Options>,
    pub current: Arc<Configuration>,
    pub blocks: Arc<Blocks>,
    pub http: Arc<outrigger_http::Api>,
    pub grpc: Arc<outrigger_grpc::Api>,
    pub access: Arc<ArcSwap<Access>>,
    pub names: Names,
    pub environment: Environment,
    /// Owns exporters.
    pub telling: Scope,
    /// What was told of the files when they were last read; told again once it has changed.
    pub told: Vec<String>,
}

/// A part that can be changed in place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    Api,
    Logging,
    AccessControl,
    Secrets,
    Components,
    Tracing,
    Metrics,
    NameResolution,
}

impl Part {
    fn field(self) -> &'static str {
        match self {
            Self::Api => "spec.api",
            Self::Logging => "spec.logging.apiLogging",
            Self::AccessControl => "spec.accessControl",
            Self::Secrets => "spec.secrets",
            Self::Components => "spec.components",
            Self::Tracing => "spec.tracing",
            Self::Metrics => "spec.metrics",
            Self::NameResolution => "spec.nameResolution",
        }
    }
}

/// What a change concerns.
#[derive(PartialEq, Eq, Debug, Default)]
struct Changes {
    now: Vec<Part>,
    /// Fields that count from the next start on.
    later: Vec<&'static str>,
}

/// Compares two Configurations. What this sidecar does not use at all concerns nobody.
fn changes(old: &Configuration, new: &Configuration) -> Changes {
    let labels = |of: &Configuration| {
        let metrics = &of.metrics;
        (
            metrics.record_error_codes,
            metrics.increased_cardinality,
            metrics.path_matching.clone(),
            metrics.exclude_verbs,
            metrics.rules.clone(),
        )
    };
    // Where a text stands in its file makes no difference.
    let resolution = |of: &Configuration| {
        let resolution = &of.name_resolution;
        (
            resolution.component.clone(),
            resolution.version.clone(),
            resolution.configuration.clone(),
        )
    };
    let parts = [
        (old.api != new.api, Part::Api),
        (old.api_logging != new.api_logging, Part::Logging),
        (
            old.access_control != new.access_control,
            Part::AccessControl,
        ),
        (old.secret_scopes != new.secret_scopes, Part::Secrets),
        (
            old.denied_components != new.denied_components,
            Part::Components,
        ),
        (old.tracing != new.tracing, Part::Tracing),
        (labels(old) != labels(new), Part::Metrics),
        (resolution(old) != resolution(new), Part::NameResolution),
    ];
    let later = [
        (old.features != new.features, "spec.features"),
        (
            old.metrics.enabled != new.metrics.enabled,
            "spec.metrics.enabled",
        ),
        (
            old.metrics.latency_buckets != new.metrics.latency_buckets,
            "spec.metrics.latencyDistributionBuckets",
        ),
    ];
    let only = |(has_changed, what)| if has_changed { Some(what) } else { None };
    Changes {
        now: parts.into_iter().filter_map(only).collect(),
        later: later
            .into_iter()
            .filter_map(|(is, what)| is.then_some(what))
            .collect(),
    }
}

/// Reads the files of `--config`.
///
/// # Errors
/// Everything that is wrong with them, in one line each.
pub(crate) fn read(options: &Options) -> Reading {
    let files = read_configuration(&options.files.config).map_err(|error| vec![error])?;
    let located = |all: &[Diagnostic], errors: bool| -> Vec<String> {
        let chosen = all.iter().filter(|one| one.is_error() || !errors);
        chosen.map(Diagnostic::located).collect()
    };
    match configuration::load(&files, &|name| std::env::var(name).ok()) {
        Ok((configuration, warnings)) => Ok((configuration, located(&warnings, false))),
        Err(diagnostics) => Err(located(&diagnostics, true)),
    }
}

/// What reading the files gave.
pub(crate) type Reading = Result<(Configuration, Vec<String>), Vec<String>>;

impl Configured {
    /// Reads the files once more. Nothing has changed yet.
    pub(crate) async fn read(&self) -> Reading {
        let options = self.options.clone();
        // Files may lie on slow disks; nothing else waits for them.
        tokio::task::spawn_blocking(move || read(&options))
            .await
            .unwrap_or_else(|error| Err(vec![error.to_string()]))
    }

    /// Applies what has changed. What is wrong changes nothing.
    pub(crate) fn take_over(&mut self, reading: Reading) {
        let is_good = reading.is_ok();
        let (new, told) = match reading {
            Ok((new, warnings)) => (Some(new), warnings),
            Err(errors) => (None, errors),
        };
        for line in told.iter().filter(|line| !self.told.contains(*line)) {
            if is_good {
                warn!(target: SCOPE, "{line}");
            } else {
                error!(target: SCOPE, "error loading configuration: {line}; the one in force stays");
            }
        }
        self.told = told;
        if let Some(new) = new {
            self.apply(new);
        }
    }

    fn apply(&mut self, new: Configuration) {
        let Changes { now, later } = changes(&self.current, &new);
        for part in &now {
            self.change(*part, &new);
        }
        if !now.is_empty() {
            let fields: Vec<&str> = now.iter().map(|part| part.field()).collect();
            info!(target: SCOPE, fields = fields.join(", "), "the configuration changed and applies from now on");
        }
        if !later.is_empty() {
            warn!(target: SCOPE, fields = later.join(", "), "changes of the configuration that apply after a restart only");
        }
        self.current = Arc::new(new);
    }

    fn change(&self, part: Part, new: &Configuration) {
        match part {
            Part::Api | Part::Logging => {
                self.http.reshape(&http_shape(&self.options, new));
                self.grpc.reshape(grpc_shape(&self.options, new));
            }
            Part::AccessControl => self.access.store(Arc::new(access(new))),
            Part::Secrets => self
                .blocks
                .secrets
                .scopes
                .store(Arc::new(secret_scopes(new))),
            // Whoever applies resources looks at it.
            Part::Components => {}
            Part::Tracing => {
                let tracer =
                    telemetry::tracer(&self.options, new, &self.environment, &self.telling);
                self.blocks.tracer.become_like(&tracer);
                telemetry::tell_sampler(new);
            }
            Part::Metrics => {
                let settings = telemetry::metrics_settings(&self.options, new);
                self.blocks.metrics.relabel(&settings);
                telemetry::tell_metrics(new);
            }
            Part::NameResolution => {
                if let Err(why) = self.names.apply(&new.name_resolution) {
                    error!(target: SCOPE, "failed to init name resolution: {why}; the one in force stays");
                }
            }
        }
    }
}

pub(crate) fn secret_scopes(configuration: &Configuration) -> HashMap<String, secrets::Scope> {
    let scope = |scope: &configuration::SecretScope| secrets::Scope {
        allowed_by_default: scope.default_access == Action::Allow,
        allowed: scope.allowed.iter().cloned().collect(),
        denied: scope.denied.iter().cloned().collect(),
    };
    configuration
        .secret_scopes
        .iter()
        .map(|entry| (entry.store.clone(), scope(entry)))
        .collect()
}

/// Without mTLS nobody's identity is known, and only the default counts.
pub(crate) fn access(configuration: &Configuration) -> Access {
    let control = &configuration.access_control;
    if *control == AccessControl::default() {
        Access::Open
    } else {
        Access::Default {
            allow: control.default_action == Action::Allow,
        }
    }
}

fn is_logged(options: &Options, configuration: &Configuration) -> bool {
    let logging = &configuration.api_logging;
    options.api.api_logging.unwrap_or(logging.enabled)
}

pub(crate) fn http_shape(
    options: &Options,
    configuration: &Configuration,
) -> outrigger_http::Shape {
    let logging = &configuration.api_logging;
    outrigger_http::Shape {
        allowed: http_rules(&configuration.api.allowed),
        denied: http_rules(&configuration.api.denied),
        log: is_logged(options, configuration).then_some(outrigger_http::ApiLog {
            obfuscate: logging.obfuscate_urls,
            health_checks: !logging.omit_health_checks,
        }),
    }
}

pub(crate) fn grpc_shape(
    options: &Options,
    configuration: &Configuration,
) -> outrigger_grpc::Shape {
    let logging = &configuration.api_logging;
    outrigger_grpc::Shape {
        allowed: grpc_rules(&configuration.api.allowed),
        denied: grpc_rules(&configuration.api.denied),
        log: is_logged(options, configuration).then_some(outrigger_grpc::ApiLog {
            health_checks: !logging.omit_health_checks,
        }),
    }
}

fn http_rules(rules: &[ApiRule]) -> Vec<outrigger_http::Rule> {
    let own = rules
        .iter()
        .filter(|rule| rule.protocol.eq_ignore_ascii_case("http"));
    own.map(|rule| outrigger_http::Rule {
        name: rule.name.clone(),
        version: rule.version.clone(),
    })
    .collect()
}

fn grpc_rules(rules: &[ApiRule]) -> Vec<outrigger_grpc::Rule> {
    let own = rules.iter().filter(|rule| rule.protocol == "grpc");
    own.map(|rule| outrigger_grpc::Rule {
        name: rule.name.clone(),
        version: rule.version.clone(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: &str) -> Configuration {
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec: {spec}\n"
        );
        let files = [("c.yaml".to_owned(), text)];
        configuration::load(&files, &|_| None).unwrap().0
    }

    #[track_caller]
    fn concern(spec: &str, now: &[Part], later: &[&str]) {
        let changes = changes(&of("{}"), &of(spec));
        assert_eq!((&*changes.now, &*changes.later), (now, later), "{spec}");
    }

    #[test]
    fn each_field_concerns_its_part_and_only_that() {
        concern("{}", &[], &[]);
        let rule = "{name: state, version: v1.0, protocol: http}";
        concern(&format!("{{api: {{denied: [{rule}]}}}}"), &[Part::Api], &[]);
        concern(
            "{logging: {apiLogging: {enabled: true}}}",
            &[Part::Logging],
            &[],
        );
        concern(
            "{accessControl: {defaultAction: deny}}",
            &[Part::AccessControl],
            &[],
        );
        let scope = "{storeName: s, defaultAccess: deny}";
        concern(
            &format!("{{secrets: {{scopes: [{scope}]}}}}"),
            &[Part::Secrets],
            &[],
        );
        concern(
            "{components: {deny: [state.redis]}}",
            &[Part::Components],
            &[],
        );
        concern("{tracing: {samplingRate: '1'}}", &[Part::Tracing], &[]);
        concern(
            "{metrics: {http: {increasedCardinality: false}}}",
            &[Part::Metrics],
            &[],
        );
        concern(
            "{nameResolution: {component: sqlite}}",
            &[Part::NameResolution],
            &[],
        );
        concern(
            "{metrics: {enabled: false, latencyDistributionBuckets: [1, 2]}, features: [{name: HotReload, enabled: false}]}",
            &[],
            &[
                "spec.features",
                "spec.metrics.enabled",
                "spec.metrics.latencyDistributionBuckets",
            ],
        );
    }

    #[test]
    fn what_is_not_used_here_concerns_nobody() {
        concern(
            "{mtls: {enabled: true}, wasm: {strictSandbox: true}}",
            &[],
            &[],
        );
    }

    #[test]
    fn the_place_of_a_field_makes_no_difference() {
        let resolution = "{nameResolution: {component: sqlite}}";
        let moved = "\n  nameResolution:\n    # moved\n    component: sqlite";
        assert_eq!(changes(&of(resolution), &of(moved)), Changes::default());
    }
}
