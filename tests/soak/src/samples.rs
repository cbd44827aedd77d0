//! Memory and file descriptors of the sidecars over time, and whether they grow.
//!
//! Owns: the samples, and the judgement about them.
//! Start at [`Samples::judge`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::plan::Node;
use crate::world::Life;

/// A process that is younger is still finding its size.
const GROWN_UP: Duration = Duration::from_secs(20);
/// Of the whole time, what is not looked at.
const WARM_UP: f64 = 0.2;
/// Fewer samples in a quarter say nothing.
const FEWEST: usize = 5;
/// By how much the last quarter may be above the first: a tenth and 4 MiB of memory, 16 file descriptors.
const MEMORY_FACTOR: f64 = 1.1;
const MEMORY_SLACK_KIB: u64 = 4 * 1024;
const FDS_SLACK: u64 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sample {
    /// Since the beginning of the soak.
    pub(crate) at: Duration,
    /// Since the start of the process.
    pub(crate) age: Duration,
    pub(crate) memory_kib: u64,
    pub(crate) fds: u64,
}

#[derive(Default, Debug)]
pub(crate) struct Samples(pub(crate) BTreeMap<Node, Vec<Sample>>);

/// Medians of the first quarter after the warm-up and of the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Growth {
    pub(crate) memory_kib: (u64, u64),
    pub(crate) fds: (u64, u64),
}

impl Growth {
    pub(crate) fn is_flat(&self) -> bool {
        let (first, last) = self.memory_kib;
        #[allow(
            clippy::cast_precision_loss,
            reason = "kibibytes of a process are far below 2^52"
        )]
        let is_flat = last as f64 <= first as f64 * MEMORY_FACTOR + MEMORY_SLACK_KIB as f64;
        is_flat && self.fds.1 <= self.fds.0 + FDS_SLACK
    }
}

impl Samples {
    pub(crate) fn take(&mut self, at: Duration, lives: &BTreeMap<Node, Life>) {
        for (node, life) in lives {
            if let Some((memory_kib, fds)) = look(life.id) {
                self.0.entry(*node).or_default().push(Sample {
                    at,
                    age: life.since.elapsed(),
                    memory_kib,
                    fds,
                });
            }
        }
    }

    /// How a sidecar has grown; nothing where there are too few samples to tell.
    pub(crate) fn judge(&self, node: Node) -> Option<Growth> {
        let all = self.0.get(&node)?;
        let end = all.last()?.at;
        let start = end.mul_f64(WARM_UP);
        let quarter = (end - start) / 4;
        let between = |from: Duration, to: Duration| {
            let inside = move |sample: &&Sample| {
                sample.age >= GROWN_UP && sample.at >= from && sample.at <= to
            };
            all.iter().filter(inside).copied().collect::<Vec<_>>()
        };
        let first = between(start, start + quarter);
        let last = between(end - quarter, end);
        if first.len().min(last.len()) < FEWEST {
            return None;
        }
        let memory = |samples: &[Sample]| median(samples.iter().map(|sample| sample.memory_kib));
        let fds = |samples: &[Sample]| median(samples.iter().map(|sample| sample.fds));
        Some(Growth {
            memory_kib: (memory(&first)?, memory(&last)?),
            fds: (fds(&first)?, fds(&last)?),
        })
    }
}

pub(crate) fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Resident memory in KiB and the number of open files, as the kernel tells them.
fn look(id: i32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory = memory.split_whitespace().next()?.parse().ok()?;
    let fds = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
    Some((memory, u64::try_from(fds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(u64) -> u64, age: impl Fn(u64) -> u64) -> Samples {
        let sample = |second| Sample {
            at: Duration::from_secs(second),
            age: Duration::from_secs(age(second)),
            memory_kib: memory(second),
            fds: 50,
        };
        let all = (0..100).map(sample).collect();
        Samples(BTreeMap::from([(Node::Caller1, all)]))
    }

    #[test]
    fn what_is_level_is_flat_and_what_grows_is_not() {
        let level = samples(|second| 20_000 + second % 7, |second| second);
        assert!(level.judge(Node::Caller1).unwrap().is_flat());
        let growing = samples(|second| 20_000 + second * 200, |second| second);
        let growth = growing.judge(Node::Caller1).unwrap();
        assert!(!growth.is_flat(), "{growth:?}");
        let warming = samples(
            |second| if second < 20 { 1 } else { 20_000 },
            |second| second,
        );
        assert!(warming.judge(Node::Caller1).unwrap().is_flat());
    }

    #[test]
    fn more_files_are_growth_too() {
        let growth = Growth {
            memory_kib: (1, 1),
            fds: (30, 47),
        };
        assert!(!growth.is_flat());
    }

    #[test]
    fn young_processes_are_not_compared() {
        let young = samples(|_| 20_000, |second| second % 15);
        assert_eq!(young.judge(Node::Caller1), None);
        assert_eq!(young.judge(Node::Caller2), None);
    }

    #[test]
    fn the_kernel_tells_of_this_process() {
        let (memory, fds) = look(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(memory > 1_000 && fds >= 3, "{memory} {fds}");
    }
}
