//! `spec.metric` and `spec.metrics`.

use regex::Regex;

use super::sections::{items, set};
use super::{MetricRule, Metrics};
use crate::diagnostic::Diagnostic;
use crate::read::{Field, Object};

/// One of the two sections, as far as the files say.
#[derive(Default)]
pub(super) struct MetricsDraft {
    enabled: Option<bool>,
    record_error_codes: Option<bool>,
    http: Option<Http>,
    latency_buckets: Option<Vec<f64>>,
    workflow: Option<Workflow>,
    rules: Vec<MetricRule>,
}

#[derive(Default)]
struct Http {
    increased_cardinality: Option<bool>,
    path_matching: Vec<String>,
    exclude_verbs: Option<bool>,
}

#[derive(Default)]
struct Workflow {
    buckets: Option<Vec<f64>>,
    unit: Option<String>,
}

impl MetricsDraft {
    pub(super) fn lay_over(&mut self, object: &Object<'_>) {
        self.enabled = object.boolean("enabled").or(self.enabled);
        self.record_error_codes = object
            .boolean("recordErrorCodes")
            .or(self.record_error_codes);
        if let Some(section) = object.object("http") {
            let http = self.http.get_or_insert_default();
            http.increased_cardinality = section
                .boolean("increasedCardinality")
                .or(http.increased_cardinality);
            http.exclude_verbs = section.boolean("excludeVerbs").or(http.exclude_verbs);
            set(&mut http.path_matching, section.texts("pathMatching"));
            section.finish();
        }
        if let Some(buckets) = object
            .field("latencyDistributionBuckets")
            .and_then(|field| buckets(&field))
        {
            self.latency_buckets = Some(buckets);
        }
        if let Some(section) = object.object("workflow") {
            let workflow = self.workflow.get_or_insert_default();
            workflow.buckets = section
                .field("latencyDistributionBuckets")
                .and_then(|field| buckets(&field))
                .or_else(|| workflow.buckets.take());
            workflow.unit = section
                .word("latencyDistributionUnits")
                .or_else(|| workflow.unit.take());
            section.finish();
        }
        if let Some(read) = items(object, "rules", rules) {
            self.rules = read.into_iter().flatten().collect();
        }
    }

    /// This section's fields, else those of the other. Dapr: pkg/config takes `http` as a whole.
    pub(super) fn over(self, other: Self) -> Self {
        Self {
            enabled: self.enabled.or(other.enabled),
            record_error_codes: self.record_error_codes.or(other.record_error_codes),
            http: self.http.or(other.http),
            latency_buckets: self.latency_buckets.or(other.latency_buckets),
            workflow: self.workflow.or(other.workflow),
            rules: if self.rules.is_empty() {
                other.rules
            } else {
                self.rules
            },
        }
    }

    pub(super) fn finish(self) -> Metrics {
        let default = Metrics::default();
        let http = self.http.unwrap_or_default();
        let workflow = self.workflow.unwrap_or_default();
        Metrics {
            enabled: self.enabled.unwrap_or(default.enabled),
            record_error_codes: self
                .record_error_codes
                .unwrap_or(default.record_error_codes),
            increased_cardinality: http
                .increased_cardinality
                .unwrap_or(default.increased_cardinality),
            path_matching: http.path_matching,
            exclude_verbs: http.exclude_verbs.unwrap_or(default.exclude_verbs),
            latency_buckets: self.latency_buckets.filter(|buckets| !buckets.is_empty()),
            workflow_latency_buckets: workflow.buckets.filter(|buckets| !buckets.is_empty()),
            workflow_latency_unit: workflow.unit,
            rules: self.rules,
        }
    }
}

/// Upper bounds in ascending order.
fn buckets(field: &Field<'_>) -> Option<Vec<f64>> {
    let numbers: Vec<i64> = field.list()?.iter().filter_map(Field::integer).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted != numbers {
        field.ignored(
            "CFG-BUCKETS",
            "the bounds are put in order",
            "ascending numbers",
        );
    }
    Some(sorted.into_iter().map(|number| number as f64).collect())
}

/// The labels of one metric; an expression that does not compile is left out.
fn rules(object: &Object<'_>) -> Vec<MetricRule> {
    let metric = object.required("name");
    let labels = items(object, "labels", |label| {
        let name = label.required("name");
        let mut patterns = Vec::new();
        if let Some(regex) = label.object("regex") {
            for (replacement, field) in regex.members() {
                let Some(pattern) = field.text() else {
                    continue;
                };
                match Regex::new(&pattern) {
                    Ok(_) => patterns.push((replacement.to_owned(), pattern)),
                    Err(error) => {
                        let text = error.to_string();
                        let reason = text
                            .lines()
                            .last()
                            .unwrap_or_default()
                            .trim_start_matches("error: ")
                            .to_owned();
                        let told = Diagnostic::warning(
                            "CFG-REGEX",
                            field.place(),
                            format!("the expression is ignored: {reason}"),
                        );
                        label.reader().tell(told.found(pattern));
                    }
                }
            }
        }
        MetricRule {
            metric: metric.clone(),
            label: name,
            patterns,
        }
    });
    labels.unwrap_or_default()
}
