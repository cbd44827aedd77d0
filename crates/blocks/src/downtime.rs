//! How long a component was away, for the metrics: from its first failure or loss until it is ready. Pure.
//!
//! The first attempt of a start is no outage, however long it takes. What grows is taken in parts, so that an outage shows
//! while it lasts and no part counts twice.

use std::time::Duration;

use outrigger_lifecycle::Moment;
use outrigger_lifecycle::connection::{State, Status};

#[derive(Debug, Default)]
pub(crate) struct Downtime {
    /// The outage that lasts, since it began or was last taken from.
    since: Option<Moment>,
    /// Of outages that are over, not taken yet.
    over: Duration,
}

impl Downtime {
    /// The component is like this from now on.
    pub(crate) fn tell(&mut self, status: &Status) {
        match status.state {
            State::Ready | State::Closing => {
                if let Some(since) = self.since.take() {
                    self.over += status.since.since(since);
                }
            }
            State::Rejected => {
                self.since.get_or_insert(status.since);
            }
            // An outage goes on while the next attempt is under way.
            State::Pending | State::Connecting | State::Unavailable => {
                self.since = self.since.or(status.down_since);
            }
        }
    }

    /// What has come together since this was last asked.
    pub(crate) fn take(&mut self, now: Moment) -> Duration {
        let lasting = self.since.as_mut();
        let lasting = lasting.map(|since| now.since(std::mem::replace(since, now)));
        std::mem::take(&mut self.over) + lasting.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_lifecycle::connection::{Class, Event, Failure, Machine, Timing};

    struct Story {
        machine: Machine,
        downtime: Downtime,
    }

    impl Story {
        fn new() -> Self {
            Self {
                machine: Machine::new(Timing::default(), at(0)),
                downtime: Downtime::default(),
            }
        }

        fn on(&mut self, event: Event, millis: u64) {
            self.machine.on(event, at(millis), 0.5);
            self.downtime.tell(self.machine.status());
        }

        #[track_caller]
        fn assert_taken(&mut self, now: u64, expected: u64) {
            let taken = self.downtime.take(at(now));
            assert_eq!(taken, Duration::from_millis(expected));
        }
    }

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    fn refused() -> Failure {
        Failure::new(Class::Transient, "connection refused")
    }

    #[test]
    fn a_clean_first_connect_is_no_outage() {
        let mut story = Story::new();
        story.on(Event::DependenciesReady, 3_000);
        story.assert_taken(4_000, 0);
        story.on(Event::Attempted(Ok(())), 5_000);
        story.assert_taken(9_000, 0);
    }

    #[test]
    fn an_outage_grows_while_it_lasts_and_short_ones_add_up() {
        let mut story = Story::new();
        story.on(Event::DependenciesReady, 0);
        story.on(Event::Attempted(Err(refused())), 1_000);
        story.assert_taken(1_400, 400);
        story.on(Event::Due, 1_500);
        story.assert_taken(2_000, 600);
        story.on(Event::Attempted(Ok(())), 2_100);
        story.on(Event::Lost(refused()), 10_000);
        story.on(Event::Due, 10_200);
        story.on(Event::Attempted(Ok(())), 10_300);
        story.assert_taken(20_000, 400);
        story.assert_taken(30_000, 0);
    }

    #[test]
    fn what_is_rejected_is_away_until_its_changed_definition_is_ready() {
        let mut story = Story::new();
        story.on(Event::Refused(refused()), 1_000);
        story.on(Event::Changed, 3_000);
        story.on(Event::DependenciesReady, 4_000);
        story.on(Event::Attempted(Ok(())), 4_500);
        story.assert_taken(9_000, 3_500);
    }

    #[test]
    fn the_end_ends_an_outage() {
        let mut story = Story::new();
        story.on(Event::DependenciesReady, 0);
        story.on(Event::Attempted(Err(refused())), 1_000);
        story.on(Event::Close, 1_250);
        story.assert_taken(9_000, 250);
    }
}
