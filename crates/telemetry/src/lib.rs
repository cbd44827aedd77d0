//! What the sidecar tells of itself: metrics, log lines, spans.
//!
//! Owns: every metric name, label and bucket ([`metrics`]), the form of a log line ([`log`]), spans and their sampling
//! ([`span`]). Names of Dapr keep their spelling; ours begin with `outrigger_`.
//! Never: opens a connection; exporting spans is `outrigger-channel`'s work, serving metrics `outrigger-sidecar`'s.

pub mod history;
pub mod journal;
pub mod log;
pub mod metrics;
mod paths;
mod registry;
pub mod span;

pub use metrics::Metrics;
pub use registry::{Count, Counter, Gauge, Histogram, Rule};
