//! Whether the network namespace has lost its owner: nothing but loopback is left of what was there.
//!
//! A container that shares another's namespace keeps it when that one is restarted, without the interfaces. An interface
//! that is down is still there. One that was never up does not count: some kernels put tunnels into every namespace.
//!
//! Never: lists interfaces or reads a clock; the task of `outrigger-sidecar` does.

use std::collections::BTreeSet;
use std::time::Duration;

use outrigger_policy::Moment;

/// With only loopback for this long it is lost.
const ALONE: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub name: String,
    pub is_loopback: bool,
    pub is_up: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Lost,
    Back,
}

#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Those that are there and were up.
    known: BTreeSet<String>,
    alone_since: Option<Moment>,
    was_connected: bool,
    is_lost: bool,
}

impl Machine {
    /// What is new, now that these interfaces were found.
    pub fn seen(&mut self, interfaces: &[Interface], now: Moment) -> Option<Change> {
        let others = interfaces.iter().filter(|one| !one.is_loopback);
        self.known = others
            .filter(|one| one.is_up || self.known.contains(&one.name))
            .map(|one| one.name.clone())
            .collect();
        if !self.known.is_empty() {
            self.was_connected = true;
            self.alone_since = None;
            return std::mem::take(&mut self.is_lost).then_some(Change::Back);
        }
        let since = *self.alone_since.get_or_insert(now);
        if !self.was_connected || self.is_lost || now.since(since) < ALONE {
            return None;
        }
        self.is_lost = true;
        Some(Change::Lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    /// `eth0` is up, `eth0?` is down.
    fn found(text: &str) -> Vec<Interface> {
        let one = |word: &str| Interface {
            name: word.trim_end_matches('?').to_owned(),
            is_loopback: word == "lo",
            is_up: !word.ends_with('?'),
        };
        text.split_whitespace().map(one).collect()
    }

    /// What was told second by second, with what was there from which second on.
    fn told(course: &[(u64, &str)], end: u64) -> Vec<(u64, Change)> {
        let mut machine = Machine::default();
        let mut told = Vec::new();
        for second in 0..end {
            let there = course.iter().rfind(|(from, _)| *from <= second).unwrap().1;
            told.extend(
                machine
                    .seen(&found(there), at(second))
                    .map(|change| (second, change)),
            );
        }
        told
    }

    #[test]
    fn it_is_lost_after_ten_seconds_alone_and_told_once() {
        let course = [(0, "lo eth0"), (20, "lo")];
        assert_eq!(told(&course, 300), [(30, Change::Lost)]);
    }

    #[test]
    fn it_comes_back() {
        let course = [(0, "lo eth0"), (20, "lo"), (50, "lo eth1"), (60, "lo")];
        let expected = [(30, Change::Lost), (50, Change::Back), (70, Change::Lost)];
        assert_eq!(told(&course, 300), expected);
    }

    #[test]
    fn a_short_absence_is_none() {
        let course = [
            (0, "lo eth0"),
            (20, "lo"),
            (29, "lo eth0"),
            (31, "lo"),
            (40, "lo eth0"),
        ];
        assert_eq!(told(&course, 100), []);
    }

    #[test]
    fn who_never_had_a_network_has_not_lost_it() {
        assert_eq!(told(&[(0, "lo")], 100), []);
        assert_eq!(told(&[(0, "lo tunl0? sit0?")], 100), []);
    }

    #[test]
    fn an_interface_that_is_down_is_there_and_a_tunnel_that_never_was_up_is_not() {
        assert_eq!(told(&[(0, "lo wlan0"), (20, "lo wlan0?")], 100), []);
        let course = [(0, "lo eth0 tunl0?"), (20, "lo tunl0?")];
        assert_eq!(told(&course, 100), [(30, Change::Lost)]);
    }
}
