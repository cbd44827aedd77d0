//! Laying files over the defaults, one after the other.

use std::sync::Arc;

use super::access_control::AccessControlDraft;
use super::metrics::MetricsDraft;
use super::tracing::TracingDraft;
use super::{Configuration, sections};
use crate::Lookup;
use crate::diagnostic::{self, Diagnostic, Place};
use crate::expand::expand;
use crate::load::SourceFile;
use crate::read::{Object, Reader, unreadable};
use crate::yaml::{Schema, documents};

/// Reads `--config` files over the defaults, then the `OTEL_` variables.
///
/// # Errors
/// Every diagnostic, if one of them is an error; daprd ends its start there.
pub fn load(
    files: &[SourceFile],
    environment: Lookup<'_>,
) -> Result<(Configuration, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (configuration, mut diagnostics) = read(files, environment);
    diagnostic::sort(&mut diagnostics);
    if diagnostics.iter().any(Diagnostic::is_error) {
        Err(diagnostics)
    } else {
        Ok((configuration, diagnostics))
    }
}

/// As much as can be read, and everything that is wrong with it.
pub(crate) fn read(
    files: &[SourceFile],
    environment: Lookup<'_>,
) -> (Configuration, Vec<Diagnostic>) {
    let mut draft = Draft::default();
    let mut diagnostics = Vec::new();
    for (name, text) in files {
        draft.lay_over(name, text, environment, &mut diagnostics);
    }
    let configuration = draft.finish(environment, &mut diagnostics);
    (configuration, diagnostics)
}

/// A configuration under way: sections that are only decided when all files are read stand beside it.
#[derive(Default)]
struct Draft {
    configuration: Configuration,
    tracing: TracingDraft,
    metric: MetricsDraft,
    metrics: MetricsDraft,
    access_control: AccessControlDraft,
}

impl Draft {
    fn lay_over(
        &mut self,
        name: &str,
        text: &str,
        environment: Lookup<'_>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let file: Arc<str> = name.into();
        let expanded = expand(text, environment);
        for (variable, line, column) in &expanded.unset {
            let place = Place {
                file: file.clone(),
                line: *line,
                column: *column,
                path: String::new(),
            };
            let told = Diagnostic::warning(
                "CFG-VARIABLE",
                place,
                format!("`${variable}` is not set and becomes empty"),
            );
            diagnostics.push(
                told.help(
                    "variables are replaced everywhere in the file, so a literal `$` is lost",
                ),
            );
        }
        let mut found = Vec::new();
        let mut documents = documents(&expanded.text, Schema::Modern).into_iter();
        match documents.next().map(|document| document.root) {
            Some(Ok(root)) => {
                let reader = Reader::new(&file, Schema::Modern);
                if let Some(document) = reader.root(&root) {
                    self.document(&document);
                }
                found = reader.finish();
            }
            Some(Err(error)) => found.push(unreadable(&file, &error)),
            None => {}
        }
        if let Some(second) = documents.next() {
            let place = Place {
                file,
                line: second.line,
                column: 1,
                path: String::new(),
            };
            found.push(Diagnostic::warning(
                "CFG-DOCUMENT",
                place,
                "only the first document of a Configuration file is read",
            ));
        }
        for mut told in found {
            told.place.line = expanded.source_line(told.place.line);
            diagnostics.push(told);
        }
    }

    fn document(&mut self, document: &Object<'_>) {
        document.knows(&["apiVersion", "metadata", "status"]);
        if let Some(kind) = document.field("kind")
            && kind.text().as_deref() != Some("Configuration")
        {
            kind.ignored(
                "CFG-KIND",
                "the document is read as a Configuration all the same",
                "`Configuration`",
            );
        }
        if let Some(name) = document
            .object("metadata")
            .and_then(|metadata| metadata.word("name"))
        {
            self.configuration.name = name;
        }
        if let Some(spec) = document.object("spec") {
            self.spec(&spec);
            spec.finish();
        }
        document.finish_with(|name| match name {
            "tracing" | "metric" | "metrics" | "secrets" | "accessControl" | "nameResolution"
            | "features" | "api" | "logging" => Some("it belongs below `spec`"),
            _ => None,
        });
    }

    fn spec(&mut self, spec: &Object<'_>) {
        let configuration = &mut self.configuration;
        section(
            spec,
            "httpPipeline",
            &mut configuration.http_pipeline,
            sections::pipeline,
        );
        section(
            spec,
            "appHttpPipeline",
            &mut configuration.app_http_pipeline,
            sections::pipeline,
        );
        section(spec, "tracing", &mut self.tracing, TracingDraft::lay_over);
        section(spec, "metric", &mut self.metric, MetricsDraft::lay_over);
        section(spec, "metrics", &mut self.metrics, MetricsDraft::lay_over);
        section(spec, "mtls", &mut configuration.mtls, sections::mtls);
        section(
            spec,
            "secrets",
            &mut configuration.secret_scopes,
            sections::secrets,
        );
        section(
            spec,
            "accessControl",
            &mut self.access_control,
            AccessControlDraft::lay_over,
        );
        section(
            spec,
            "nameResolution",
            &mut configuration.name_resolution,
            sections::name_resolution,
        );
        sections::features(spec, &mut configuration.features);
        section(spec, "api", &mut configuration.api, sections::api);
        section(
            spec,
            "components",
            &mut configuration.denied_components,
            sections::denied_components,
        );
        section(
            spec,
            "logging",
            &mut configuration.api_logging,
            sections::logging,
        );
        section(
            spec,
            "wasm",
            &mut configuration.wasm_strict_sandbox,
            sections::wasm,
        );
        section(
            spec,
            "workflow",
            &mut configuration.workflow,
            sections::workflow,
        );
    }

    fn finish(self, environment: Lookup<'_>, diagnostics: &mut Vec<Diagnostic>) -> Configuration {
        let mut configuration = self.configuration;
        configuration.tracing = self.tracing.finish(environment, diagnostics);
        configuration.metrics = self.metrics.over(self.metric).finish();
        configuration.access_control = self.access_control.finish(diagnostics);
        configuration
    }
}

/// Reads a section over what earlier files said; null forgets that.
fn section<T: Default>(
    spec: &Object<'_>,
    name: &'static str,
    value: &mut T,
    read: impl FnOnce(&mut T, &Object<'_>),
) {
    if spec.is_null(name) {
        *value = T::default();
    } else if let Some(object) = spec.object(name) {
        read(value, &object);
        object.finish();
    }
}
