//! Series of numbers under label values, and their text form.
//!
//! A lookup of known label values takes a shared lock and allocates nothing. A series appears with its first recording,
//! as in Dapr.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hashbrown::{Equivalent, HashMap};
use outrigger_core::json::go_float;
use regex::Regex;

/// Beyond this many remembered label values they are computed anew each time; the series stay.
const REMEMBERED: usize = 20_000;

/// Rewrites the values of one label of one metric.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The metric's name as it is exported.
    pub metric: String,
    pub label: String,
    /// Replacements in order; the first pattern that matches counts.
    pub patterns: Vec<(String, Regex)>,
}

/// The place of a label, and replacements for its values in order; the first pattern that matches counts.
type LabelRule = (usize, Vec<(String, Regex)>);

/// One metric with all its series.
#[derive(Debug)]
pub(crate) struct Family<M> {
    name: String,
    help: &'static str,
    labels: &'static [&'static str],
    /// Held while a series is looked for by them, so that nothing found by former ones is remembered.
    rules: RwLock<Vec<LabelRule>>,
    remembered: RwLock<HashMap<Values, Arc<M>>>,
    series: Mutex<BTreeMap<Vec<String>, Arc<M>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Values(Box<[Box<str>]>);

impl Hash for Values {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in &self.0 {
            value.hash(state);
        }
    }
}

struct Borrowed<'a>(&'a [&'a str]);

impl Hash for Borrowed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in self.0 {
            value.hash(state);
        }
    }
}

impl Equivalent<Values> for Borrowed<'_> {
    fn equivalent(&self, key: &Values) -> bool {
        self.0.len() == key.0.len() && self.0.iter().zip(&key.0).all(|(a, b)| **a == **b)
    }
}

impl<M> Family<M> {
    pub(crate) fn new(
        name: &str,
        help: &'static str,
        labels: &'static [&'static str],
        rules: &[Rule],
    ) -> Self {
        let family = Self {
            name: name.to_owned(),
            help,
            labels,
            rules: RwLock::default(),
            remembered: RwLock::default(),
            series: Mutex::default(),
        };
        family.relabel(rules);
        family
    }

    /// From now on label values follow these rules. Series that are there stay.
    fn relabel(&self, rules: &[Rule]) {
        let own = rules.iter().filter(|rule| rule.metric == self.name);
        let own = own.filter_map(|rule| {
            let place = self.labels.iter().position(|label| *label == rule.label)?;
            Some((place, rule.patterns.clone()))
        });
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        *rules = own.collect();
        self.remembered
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(crate) fn with(&self, values: &[&str], make: impl FnOnce() -> M) -> Arc<M> {
        let remembered = self
            .remembered
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = remembered.get(&Borrowed(values)) {
            return metric.clone();
        }
        drop(remembered);
        let mut named: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        for (place, patterns) in rules.iter() {
            if let Some(value) = named.get_mut(*place)
                && let Some((replacement, _)) =
                    patterns.iter().find(|(_, pattern)| pattern.is_match(value))
            {
                value.clone_from(replacement);
            }
        }
        let metric = self
            .series
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(named)
            .or_insert_with(|| Arc::new(make()))
            .clone();
        let mut remembered = self
            .remembered
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered.len() < REMEMBERED {
            remembered.insert(
                Values(values.iter().map(|value| (*value).into()).collect()),
                metric.clone(),
            );
        }
        metric
    }

    /// Every series with its label values.
    fn each(&self, mut visit: impl FnMut(&[String], &M)) -> bool {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, metric) in series.iter() {
            visit(values, metric);
        }
        !series.is_empty()
    }

    fn header(&self, out: &mut String, kind: &str) {
        writeln!(
            out,
            "# HELP {} {}\n# TYPE {} {kind}",
            self.name, self.help, self.name
        )
        .ok();
    }

    fn is_empty(&self) -> bool {
        self.series
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    fn labels(
        &self,
        out: &mut String,
        app_id: &str,
        values: &[String],
        extra: Option<(&str, &str)>,
    ) {
        let own = self
            .labels
            .iter()
            .copied()
            .zip(values.iter().map(String::as_str));
        // Readers that compare whole lines expect the order of Go's library: by name, and `le` last.
        let mut pairs: Vec<(&str, &str)> = std::iter::once(("app_id", app_id)).chain(own).collect();
        pairs.sort_unstable();
        for (place, (name, value)) in pairs.into_iter().chain(extra).enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            write!(out, "{before}{name}=\"").ok();
            escape(out, value);
            out.push('"');
        }
        out.push_str("} ");
    }
}

fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// A count that only grows.
#[derive(Debug)]
pub struct Counter<const N: usize> {
    family: Family<AtomicU64>,
}

/// A count of seconds that only grows, kept in microseconds so that short times add up.
#[derive(Debug)]
pub struct Seconds<const N: usize> {
    micros: Counter<N>,
}

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge<const N: usize> {
    family: Family<AtomicU64>,
}

/// A distribution over buckets.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    family: Family<Buckets>,
    bounds: Arc<[f64]>,
}

/// A counter's series, kept by who records often.
#[derive(Clone, Debug)]
pub struct Count(Arc<AtomicU64>);

/// A histogram's series, kept by who records often.
#[derive(Clone, Debug)]
pub struct Distribution(Arc<Buckets>);

#[derive(Debug)]
pub(crate) struct Buckets {
    bounds: Arc<[f64]>,
    counts: Box<[AtomicU64]>,
    /// Bits of an `f64`.
    sum: AtomicU64,
}

impl Count {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

impl Distribution {
    pub fn observe(&self, value: f64) {
        self.0.observe(value);
    }
}

impl Buckets {
    fn new(bounds: Arc<[f64]>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            bounds,
            counts,
            sum: AtomicU64::new(0),
        }
    }

    fn observe(&self, value: f64) {
        // A bucket holds what is below or at its bound; most observations fall into the first ones.
        let place = self
            .bounds
            .iter()
            .position(|bound| value <= *bound)
            .unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if value != 0.0 {
            let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
            self.sum
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
                .ok();
        }
    }
}

impl<const N: usize> Counter<N> {
    pub(crate) fn new(
        name: &str,
        help: &'static str,
        labels: &'static [&'static str; N],
        rules: &[Rule],
    ) -> Self {
        Self {
            family: Family::new(name, help, labels, rules),
        }
    }

    pub fn add(&self, values: [&str; N], count: u64) {
        self.family
            .with(&values, || AtomicU64::new(0))
            .fetch_add(count, Ordering::Relaxed);
    }

    /// Writes itself, where `whole` counts make one.
    fn expose_parts(&self, out: &mut String, app_id: &str, whole: f64) {
        if self.family.is_empty() {
            return;
        }
        self.family.header(out, "counter");
        self.family.each(|values, count| {
            out.push_str(&self.family.name);
            self.family.labels(out, app_id, values, None);
            let count = count.load(Ordering::Relaxed) as f64 / whole;
            writeln!(out, "{}", go_float(count)).ok();
        });
    }

    /// The sum of the series whose label values are wanted.
    pub fn total(&self, wanted: impl Fn(&[String]) -> bool) -> u64 {
        let mut total = 0_u64;
        self.family.each(|values, count| {
            if wanted(values) {
                total = total.saturating_add(count.load(Ordering::Relaxed));
            }
        });
        total
    }

    pub fn series(&self, values: [&str; N]) -> Count {
        Count(self.family.with(&values, || AtomicU64::new(0)))
    }
}

impl<const N: usize> Seconds<N> {
    pub(crate) fn new(
        name: &str,
        help: &'static str,
        labels: &'static [&'static str; N],
        rules: &[Rule],
    ) -> Self {
        Self {
            micros: Counter::new(name, help, labels, rules),
        }
    }

    pub fn add(&self, values: [&str; N], time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.add(values, micros);
    }
}

impl<const N: usize> Gauge<N> {
    pub(crate) fn new(
        name: &str,
        help: &'static str,
        labels: &'static [&'static str; N],
        rules: &[Rule],
    ) -> Self {
        Self {
            family: Family::new(name, help, labels, rules),
        }
    }

    pub fn set(&self, values: [&str; N], value: f64) {
        self.family
            .with(&values, || AtomicU64::new(0))
            .store(value.to_bits(), Ordering::Relaxed);
    }
}

impl<const N: usize> Histogram<N> {
    pub(crate) fn new(
        name: &str,
        help: &'static str,
        labels: &'static [&'static str; N],
        rules: &[Rule],
        bounds: &Arc<[f64]>,
    ) -> Self {
        Self {
            family: Family::new(name, help, labels, rules),
            bounds: bounds.clone(),
        }
    }

    pub fn observe(&self, values: [&str; N], value: f64) {
        self.family
            .with(&values, || Buckets::new(self.bounds.clone()))
            .observe(value);
    }

    pub fn series(&self, values: [&str; N]) -> Distribution {
        Distribution(
            self.family
                .with(&values, || Buckets::new(self.bounds.clone())),
        )
    }
}

/// Writes itself in the Prometheus text format.
pub(crate) trait Expose: Send + Sync {
    fn expose(&self, out: &mut String, app_id: &str);

    /// From now on label values follow these rules.
    fn relabel(&self, rules: &[Rule]);
}

impl<const N: usize> Expose for Counter<N> {
    fn relabel(&self, rules: &[Rule]) {
        self.family.relabel(rules);
    }

    fn expose(&self, out: &mut String, app_id: &str) {
        self.expose_parts(out, app_id, 1.0);
    }
}

impl<const N: usize> Expose for Seconds<N> {
    fn relabel(&self, rules: &[Rule]) {
        self.micros.relabel(rules);
    }

    fn expose(&self, out: &mut String, app_id: &str) {
        self.micros.expose_parts(out, app_id, 1e6);
    }
}

impl<const N: usize> Expose for Gauge<N> {
    fn relabel(&self, rules: &[Rule]) {
        self.family.relabel(rules);
    }

    fn expose(&self, out: &mut String, app_id: &str) {
        if self.family.is_empty() {
            return;
        }
        self.family.header(out, "gauge");
        self.family.each(|values, value| {
            out.push_str(&self.family.name);
            self.family.labels(out, app_id, values, None);
            writeln!(
                out,
                "{}",
                go_float(f64::from_bits(value.load(Ordering::Relaxed)))
            )
            .ok();
        });
    }
}

impl<const N: usize> Expose for Histogram<N> {
    fn relabel(&self, rules: &[Rule]) {
        self.family.relabel(rules);
    }

    fn expose(&self, out: &mut String, app_id: &str) {
        if self.family.is_empty() {
            return;
        }
        self.family.header(out, "histogram");
        self.family.each(|values, buckets| {
            let mut total = 0;
            for (bound, count) in buckets
                .bounds
                .iter()
                .map(|bound| go_float(*bound))
                .chain(["+Inf".to_owned()])
                .zip(&buckets.counts)
            {
                total += count.load(Ordering::Relaxed);
                write!(out, "{}_bucket", self.family.name).ok();
                self.family
                    .labels(out, app_id, values, Some(("le", &bound)));
                writeln!(out, "{total}").ok();
            }
            let sum = f64::from_bits(buckets.sum.load(Ordering::Relaxed));
            for (suffix, value) in [("_sum", go_float(sum)), ("_count", go_float(total as f64))] {
                write!(out, "{}{suffix}", self.family.name).ok();
                self.family.labels(out, app_id, values, None);
                writeln!(out, "{value}").ok();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metric: &impl Expose) -> String {
        let mut out = String::new();
        metric.expose(&mut out, "a");
        out
    }

    #[test]
    fn rules_that_change_apply_to_what_is_recorded_from_then_on() {
        let counter = Counter::new("dapr_x_count", "help", &["k"], &[]);
        let rule = |replacement: &str| Rule {
            metric: "dapr_x_count".to_owned(),
            label: "k".to_owned(),
            patterns: vec![(replacement.to_owned(), Regex::new("^secret").unwrap())],
        };
        counter.add(["secret-1"], 1);
        counter.relabel(&[rule("hidden")]);
        counter.add(["secret-1"], 2);
        counter.relabel(&[]);
        counter.add(["secret-1"], 4);
        let text = text(&counter);
        assert!(text.contains("k=\"secret-1\"} 5\n"), "{text}");
        assert!(text.contains("k=\"hidden\"} 2\n"), "{text}");
    }

    #[test]
    fn a_series_appears_with_its_first_recording() {
        let counter = Counter::new("dapr_x_count", "help", &["k"], &[]);
        assert_eq!(text(&counter), "");
        counter.add(["v\"1"], 2_000_000);
        assert_eq!(
            text(&counter),
            "# HELP dapr_x_count help\n# TYPE dapr_x_count counter\ndapr_x_count{app_id=\"a\",k=\"v\\\"1\"} 2e+06\n"
        );
    }

    #[test]
    fn times_shorter_than_a_second_add_up() {
        let seconds = Seconds::new("m_total", "help", &["k"], &[]);
        seconds.add(["v"], Duration::ZERO);
        assert!(text(&seconds).ends_with("m_total{app_id=\"a\",k=\"v\"} 0\n"));
        for _ in 0..3 {
            seconds.add(["v"], Duration::from_millis(500));
        }
        let text = text(&seconds);
        assert!(text.contains("# TYPE m_total counter\n"), "{text}");
        assert!(text.ends_with("} 1.5\n"), "{text}");
    }

    #[test]
    fn buckets_are_cumulative_and_bounds_read_like_those_of_the_reference() {
        let histogram = Histogram::new("h", "help", &[], &[], &Arc::from([1.0, 1_048_576.0]));
        histogram.observe([], 0.0);
        histogram.observe([], 5.0);
        histogram.observe([], 2e6);
        let text = text(&histogram);
        for line in [
            "h_bucket{app_id=\"a\",le=\"1\"} 1",
            "h_bucket{app_id=\"a\",le=\"1.048576e+06\"} 2",
            "h_bucket{app_id=\"a\",le=\"+Inf\"} 3",
            "h_sum{app_id=\"a\"} 2.000005e+06",
            "h_count{app_id=\"a\"} 3",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn a_rule_joins_series() {
        let rule = Rule {
            metric: "m".into(),
            label: "path".into(),
            patterns: vec![("STATE".into(), Regex::new("/v1.0/state/.+").unwrap())],
        };
        let counter = Counter::new("m", "help", &["path"], &[rule]);
        counter.add(["/v1.0/state/a"], 1);
        counter.add(["/v1.0/state/b"], 1);
        counter.add(["/other"], 1);
        let text = text(&counter);
        assert!(text.contains("m{app_id=\"a\",path=\"STATE\"} 2"), "{text}");
        assert!(text.contains("m{app_id=\"a\",path=\"/other\"} 1"), "{text}");
    }
}
