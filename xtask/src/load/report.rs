//! What a load showed.
//!
//! Owns: the one line on which the load generator hands its figures over.
//! Start at [`Report::new`].

use std::time::Duration;

use anyhow::{Context, Result};

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Report {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

impl Report {
    /// Latencies are in tenths of a microsecond.
    pub(super) fn new(mut latencies: Vec<u32>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        let quantile = |hundredths: usize| {
            let place = (latencies.len() * hundredths)
                .div_ceil(100)
                .saturating_sub(1);
            latencies
                .get(place)
                .map_or(0.0, |&latency| f64::from(latency) / 10_000.0)
        };
        Report {
            requests: latencies.len() as f64,
            seconds: elapsed.as_secs_f64(),
            p50: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
        }
    }

    pub(super) fn to_text(self) -> String {
        let Report {
            requests,
            seconds,
            p50,
            p90,
            p99,
        } = self;
        format!("{requests} {seconds} {p50} {p90} {p99}\n")
    }

    pub(crate) fn from_text(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace().map(str::parse);
        let mut next = || {
            words
                .next()
                .context("a report is short")?
                .context("a report is no number")
        };
        Ok(Report {
            requests: next()?,
            seconds: next()?,
            p50: next()?,
            p90: next()?,
            p99: next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_latencies_that_occurred() {
        let latencies = (1..=200).rev().map(|n| n * 10_000).collect();
        let report = Report::new(latencies, Duration::from_secs(1));
        assert_eq!((report.p50, report.p90, report.p99), (100.0, 180.0, 198.0));
        assert_eq!(Report::from_text(&report.to_text()).unwrap(), report);
    }

    #[test]
    fn no_request_has_no_latency() {
        assert_eq!(Report::new(Vec::new(), Duration::ZERO).p99, 0.0);
        assert!(Report::from_text("1 2").is_err());
    }
}
