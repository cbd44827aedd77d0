//! What a sidecar measures, as it is scraped.

use std::time::Duration;

use outrigger_testkit::wait;

use crate::Sidecar;
use crate::http::{self, Request};

impl Sidecar {
    /// The whole page.
    ///
    /// # Panics
    /// When it cannot be had.
    pub async fn scraped(&self) -> String {
        let answer = http::call(self.ports.metrics, &Request::get("/")).await;
        answer
            .unwrap_or_else(|error| panic!("metrics: {error}"))
            .text()
    }

    /// The sum of all series of this name with these labels; 0 without any.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.scraped().await, name, labels)
    }

    /// Waits for the sum of all series of this name with these labels.
    #[allow(clippy::float_cmp, reason = "these are counts")]
    pub async fn until_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name} {labels:?} {value}");
        wait::until(what, Duration::from_secs(5), async || {
            let seen = self.metric(name, labels).await;
            if seen == value { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (own, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let has = |(name, value): &(&str, &str)| {
            let wanted = format!("{name}={value:?}");
            own.split(',').any(|one| one == wanted)
        };
        let value = value.split(' ').next()?;
        labels.iter().all(has).then(|| value.parse::<f64>().ok())?
    };
    page.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_their_labels() {
        let page =
            "# HELP a text\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\na 5\nab{x=\"1\"} 9\n";
        let of = |labels: &[(&str, &str)]| sum(page, "a", labels);
        assert!((of(&[("x", "1")]) - 7.0).abs() < 1e-9);
        assert!((of(&[("x", "1"), ("y", "3")]) - 4.0).abs() < 1e-9);
        assert!((of(&[]) - 12.0).abs() < 1e-9);
    }
}
