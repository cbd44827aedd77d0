//! Every figure of the bench, with its unit and its bar.
//!
//! Owns: the list in the order of the table, the samples, the median.
//! Start at [`FIGURES`].

use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Better {
    Less,
    More,
}

pub(super) struct Figure {
    /// What was measured; a heading of the table.
    pub(super) scene: &'static str,
    pub(super) name: &'static str,
    pub(super) better: Better,
    /// What must be reached.
    pub(super) bar: Option<f64>,
}

/// Figures that a scene's load gives.
pub(super) const P50: &str = "added p50 at 1,000/s, ms";
pub(super) const P90: &str = "added p90 at 1,000/s, ms";
pub(super) const P99: &str = "added p99 at 1,000/s, ms";
pub(super) const DIRECT_P50: &str = "p50 at 1,000/s, ms";
pub(super) const DIRECT_P90: &str = "p90 at 1,000/s, ms";
pub(super) const DIRECT_P99: &str = "p99 at 1,000/s, ms";
pub(super) const CPU: &str = "CPU at 1,000/s, ms per 1,000";
pub(super) const CALLING: &str = "CPU at 1,000/s, calling, ms per 1,000";
pub(super) const CALLED: &str = "CPU at 1,000/s, called, ms per 1,000";
pub(super) const FLAT: &str = "flat out, requests per CPU second";
pub(super) const RATE: &str = "flat out, requests per second";

pub(super) const DIRECT_HTTP: &str = "direct HTTP";
pub(super) const DIRECT_GRPC: &str = "direct gRPC";
pub(super) const STATE_GET: &str = "state get, one sidecar";
pub(super) const STATE_SET: &str = "state set, one sidecar";
pub(super) const PUBLISH: &str = "publish, one sidecar";
pub(super) const HTTP: &str = "HTTP invocation, two sidecars";
pub(super) const GRPC: &str = "gRPC proxying, two sidecars";
pub(super) const SIZE: &str = "size and start";

pub(super) const MACHINE: &str = "the machine";
/// Latencies of a busy machine say little.
pub(super) const BUSY: &str = "busy with others before a round, %";

pub(super) const IDLE: &str = "resident, idle with five components, MB";
pub(super) const LOADED: &str = "resident at 1,000/s, the larger of two, MB";
pub(super) const START: &str = "exec to the first answer, ms";
pub(super) const BINARY: &str = "binary, MB";

const fn less(scene: &'static str, name: &'static str, bar: Option<f64>) -> Figure {
    Figure {
        scene,
        name,
        better: Better::Less,
        bar,
    }
}

const fn more(scene: &'static str, name: &'static str, bar: Option<f64>) -> Figure {
    Figure {
        scene,
        name,
        better: Better::More,
        bar,
    }
}

pub(super) const FIGURES: &[Figure] = &[
    less(MACHINE, BUSY, None),
    less(DIRECT_HTTP, DIRECT_P50, None),
    less(DIRECT_HTTP, DIRECT_P90, None),
    less(DIRECT_HTTP, DIRECT_P99, None),
    less(DIRECT_GRPC, DIRECT_P50, None),
    less(DIRECT_GRPC, DIRECT_P90, None),
    less(DIRECT_GRPC, DIRECT_P99, None),
    less(STATE_GET, P50, None),
    less(STATE_GET, P90, None),
    less(STATE_GET, P99, None),
    less(STATE_GET, CPU, None),
    more(STATE_GET, FLAT, Some(60_000.0)),
    more(STATE_GET, RATE, None),
    less(STATE_SET, P50, None),
    less(STATE_SET, P90, None),
    less(STATE_SET, P99, None),
    less(STATE_SET, CPU, None),
    more(STATE_SET, FLAT, None),
    more(STATE_SET, RATE, None),
    less(PUBLISH, P50, None),
    less(PUBLISH, P90, None),
    less(PUBLISH, P99, None),
    less(PUBLISH, CPU, None),
    more(PUBLISH, FLAT, Some(28_000.0)),
    more(PUBLISH, RATE, None),
    less(HTTP, P50, Some(1.6)),
    less(HTTP, P90, None),
    less(HTTP, P99, Some(4.0)),
    less(HTTP, CALLING, Some(89.0)),
    less(HTTP, CALLED, Some(65.0)),
    more(HTTP, FLAT, Some(10_000.0)),
    more(HTTP, RATE, None),
    less(GRPC, P50, Some(1.9)),
    less(GRPC, P90, None),
    less(GRPC, P99, Some(5.0)),
    less(GRPC, CALLING, None),
    less(GRPC, CALLED, None),
    more(GRPC, FLAT, Some(9_500.0)),
    more(GRPC, RATE, None),
    less(SIZE, IDLE, Some(12.0)),
    less(SIZE, LOADED, Some(20.0)),
    less(SIZE, START, Some(15.0)),
    less(SIZE, BINARY, Some(25.0)),
];

impl Figure {
    pub(super) fn passes(&self, value: f64) -> Option<bool> {
        self.bar.map(|bar| match self.better {
            Better::Less => value <= bar,
            Better::More => value >= bar,
        })
    }

    /// How many times better `ours` is than `theirs`. What is lost in noise, below nothing, has no ratio.
    pub(super) fn gain(&self, ours: f64, theirs: f64) -> Option<f64> {
        let gain = match self.better {
            Better::Less => theirs / ours,
            Better::More => ours / theirs,
        };
        (ours > 0.0 && theirs > 0.0).then_some(gain)
    }
}

/// What the rounds of one subject gave.
#[derive(Default)]
pub(super) struct Samples(BTreeMap<(&'static str, &'static str), Vec<f64>>);

impl Samples {
    pub(super) fn add(&mut self, scene: &'static str, name: &'static str, value: f64) {
        self.0.entry((scene, name)).or_default().push(value);
    }

    pub(super) fn median(&self, figure: &Figure) -> Option<f64> {
        let mut values = self.0.get(&(figure.scene, figure.name))?.clone();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        if values.len() % 2 == 1 {
            return Some(upper);
        }
        values
            .get(middle.checked_sub(1)?)
            .map(|lower| f64::midpoint(*lower, upper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let mut samples = Samples::default();
        let figure = less(SIZE, IDLE, Some(12.0));
        assert_eq!(samples.median(&figure), None);
        for (value, median) in [(9.0, 9.0), (1.0, 5.0), (3.0, 3.0), (100.0, 6.0)] {
            samples.add(SIZE, IDLE, value);
            assert_eq!(samples.median(&figure), Some(median));
        }
    }

    #[test]
    fn a_bar_is_passed_by_reaching_it() {
        assert_eq!(less(SIZE, IDLE, Some(12.0)).passes(12.0), Some(true));
        assert_eq!(more(HTTP, FLAT, Some(10.0)).passes(9.9), Some(false));
        assert_eq!(less(SIZE, IDLE, None).passes(1.0), None);
    }

    #[test]
    fn a_gain_above_one_is_good_either_way() {
        assert_eq!(less(SIZE, IDLE, None).gain(2.0, 6.0), Some(3.0));
        assert_eq!(more(HTTP, FLAT, None).gain(6.0, 2.0), Some(3.0));
        assert_eq!(less(HTTP, P99, None).gain(-0.1, 6.0), None);
    }

    #[test]
    fn no_figure_is_listed_twice() {
        let names: std::collections::BTreeSet<_> =
            FIGURES.iter().map(|f| (f.scene, f.name)).collect();
        assert_eq!(names.len(), FIGURES.len());
    }
}
