//! Whether the app has gone for good: it was there once, and its port has been closed for as long as somebody said.
//!
//! Never: connects or reads a clock; the task of `outrigger-sidecar` does.

use std::time::Duration;

use outrigger_policy::Moment;

const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    limit: Duration,
    was_there: bool,
    since: Option<Moment>,
}

impl Machine {
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            was_there: false,
            since: None,
        }
    }

    /// How often the port is tried.
    pub fn pause(&self) -> Duration {
        (self.limit / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// Whether it is gone for good, now that its port was found open or closed.
    pub fn seen(&mut self, open: bool, now: Moment) -> bool {
        if open {
            self.was_there = true;
            self.since = None;
            return false;
        }
        if !self.was_there {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now.since(since) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn an_app_that_never_came_is_not_gone() {
        let mut machine = Machine::new(Duration::from_secs(5));
        assert!((0..1_000).all(|second| !machine.seen(false, at(second))));
    }

    #[test]
    fn it_is_gone_after_so_long_in_one_piece() {
        let mut machine = Machine::new(Duration::from_secs(5));
        assert!(!machine.seen(true, at(0)));
        assert!((1..5).all(|second| !machine.seen(false, at(second))));
        assert!(!machine.seen(true, at(5)), "it is back");
        assert!((6..11).all(|second| !machine.seen(false, at(second))));
        assert!(machine.seen(false, at(11)));
    }

    #[test]
    fn the_port_is_tried_often_enough_for_the_limit() {
        let pause = |millis| {
            Machine::new(Duration::from_millis(millis))
                .pause()
                .as_millis()
        };
        assert_eq!([pause(0), pause(400), pause(60_000)], [50, 100, 1_000]);
    }
}
