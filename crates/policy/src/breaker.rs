//! The circuit breaker's state machine.
//!
//! It moves only when it is asked: there is no clock in it. Numbers and transitions are those of Dapr's, with two
//! differences: a probe that never ends counts as a failure after one `timeout`, and a probe whose caller went away gives
//! its place back. Without them a half-open breaker could stay so for ever.

use std::time::Duration;

use crate::Moment;
use crate::trip::Counts;

/// What a breaker is made of, but for its condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Probes of one half-open round; as many have to succeed. At least one.
    pub max_requests: u32,
    /// After how long a closed breaker forgets its counts; absent: never.
    pub interval: Option<Duration>,
    /// How long it stays open.
    pub timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum State {
    #[default]
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// As it stands in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// A call that was let through. It is given back with its outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Admission {
    generation: u64,
    /// Which probe of a half-open round it is.
    probe: u32,
}

/// A call that was not let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    Open,
    /// Half-open, and all probes of the round are on their way.
    TooMany,
}

/// How a call that was let through ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Success,
    Failure,
    /// Its caller went away: it says nothing.
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    pub from: State,
    pub to: State,
    pub cause: Cause,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// `trip` held.
    Tripped,
    /// The open state lasted its time.
    Waited,
    ProbeFailed,
    ProbeHung,
    ProbesSucceeded,
    Reset,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tripped => "tripped",
            Self::Waited => "timeout passed",
            Self::ProbeFailed => "probe failed",
            Self::ProbeHung => "probe did not end",
            Self::ProbesSucceeded => "probes succeeded",
            Self::Reset => "reset",
        }
    }
}

/// One breaker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    state: State,
    counts: Counts,
    generation: u64,
    /// When the current state, or the current window of the closed state, began.
    since: Moment,
    /// Probes on their way: their numbers, and when they began.
    probes: Vec<(u32, Moment)>,
    /// How many probes the round has seen, those included that gave their place back.
    probed: u32,
}

impl Breaker {
    pub fn new(now: Moment) -> Self {
        Self {
            state: State::Closed,
            counts: Counts::default(),
            generation: 0,
            since: now,
            probes: Vec::new(),
            probed: 0,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When the current state, or the current window of the closed state, began.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// Asks to let a call through.
    ///
    /// # Errors
    /// When it must not be made.
    pub fn admit(
        &mut self,
        limits: &Limits,
        now: Moment,
        told: &mut impl FnMut(Transition),
    ) -> Result<Admission, Rejection> {
        self.follow(limits, now, told);
        match self.state {
            State::Open => return Err(Rejection::Open),
            State::HalfOpen if self.counts.requests >= limits.max_requests.max(1) => {
                return Err(Rejection::TooMany);
            }
            State::HalfOpen => {
                self.probed = self.probed.wrapping_add(1);
                self.probes.push((self.probed, now));
            }
            State::Closed => {}
        }
        let probe = self.probed;
        self.counts.requests = self.counts.requests.saturating_add(1);
        Ok(Admission {
            generation: self.generation,
            probe,
        })
    }

    /// Takes the outcome of a call that was let through. `trips` is asked after a failure in the closed state.
    pub fn record(
        &mut self,
        limits: &Limits,
        admission: Admission,
        outcome: Outcome,
        now: Moment,
        trips: impl FnOnce(&Counts) -> bool,
        told: &mut impl FnMut(Transition),
    ) {
        // A late probe that nobody missed is not a hung one.
        if admission.generation == self.generation {
            self.probes.retain(|(probe, _)| *probe != admission.probe);
        }
        self.follow(limits, now, told);
        if admission.generation != self.generation {
            return;
        }
        let counts = &mut self.counts;
        match outcome {
            Outcome::Cancelled => {
                // Another one may probe in its place.
                if self.state == State::HalfOpen {
                    counts.requests = counts.requests.saturating_sub(1);
                }
            }
            Outcome::Success => {
                counts.total_successes = counts.total_successes.saturating_add(1);
                counts.consecutive_successes = counts.consecutive_successes.saturating_add(1);
                counts.consecutive_failures = 0;
                if self.state == State::HalfOpen
                    && counts.consecutive_successes >= limits.max_requests.max(1)
                {
                    self.turn(State::Closed, Cause::ProbesSucceeded, now, told);
                }
            }
            Outcome::Failure => {
                counts.total_failures = counts.total_failures.saturating_add(1);
                counts.consecutive_failures = counts.consecutive_failures.saturating_add(1);
                counts.consecutive_successes = 0;
                match self.state {
                    State::Closed if trips(&self.counts) => {
                        self.turn(State::Open, Cause::Tripped, now, told);
                    }
                    State::HalfOpen => self.turn(State::Open, Cause::ProbeFailed, now, told),
                    State::Closed | State::Open => {}
                }
            }
        }
    }

    /// Closes it, whatever it was.
    pub fn reset(&mut self, now: Moment, told: &mut impl FnMut(Transition)) {
        if self.state == State::Closed {
            self.begin(now);
        } else {
            self.turn(State::Closed, Cause::Reset, now, told);
        }
    }

    /// What it is at `now`, without moving it; and when the next probe may be made, unless that is now.
    pub fn seen(&self, limits: &Limits, now: Moment) -> (State, Option<Moment>) {
        let mut copy = self.clone();
        copy.follow(limits, now, &mut |_| {});
        let next = (copy.state == State::Open).then(|| copy.since + limits.timeout);
        (copy.state, next)
    }

    /// How long until a rejected call is worth another try.
    pub fn retry_after(&self, limits: &Limits, now: Moment) -> Duration {
        let until = match self.state {
            State::Closed => return Duration::ZERO,
            State::Open => self.since + limits.timeout,
            State::HalfOpen => match self.oldest_probe() {
                Some(began) => began + limits.timeout,
                None => return Duration::ZERO,
            },
        };
        until.since(now)
    }

    /// What time alone has changed.
    fn follow(&mut self, limits: &Limits, now: Moment, told: &mut impl FnMut(Transition)) {
        match self.state {
            State::Closed => {
                let window = limits.interval.filter(|window| !window.is_zero());
                if window.is_some_and(|window| now > self.since + window) {
                    self.begin(now);
                }
            }
            State::HalfOpen => {
                let hung = self.oldest_probe().map(|began| began + limits.timeout);
                if let Some(hung) = hung.filter(|hung| now > *hung) {
                    self.turn(State::Open, Cause::ProbeHung, hung, told);
                    self.follow(limits, now, told);
                }
            }
            State::Open => {
                if now > self.since + limits.timeout {
                    self.turn(State::HalfOpen, Cause::Waited, now, told);
                }
            }
        }
    }

    fn oldest_probe(&self) -> Option<Moment> {
        self.probes.iter().map(|(_, began)| *began).min()
    }

    fn turn(&mut self, to: State, cause: Cause, now: Moment, told: &mut impl FnMut(Transition)) {
        let from = std::mem::replace(&mut self.state, to);
        self.begin(now);
        told(Transition { from, to, cause });
    }

    /// A new generation: what belongs to an earlier one is ignored.
    fn begin(&mut self, now: Moment) {
        self.counts = Counts::default();
        self.generation += 1;
        self.since = now;
        self.probes.clear();
        self.probed = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        max_requests: 1,
        interval: None,
        timeout: Duration::from_secs(5),
    };

    /// A breaker with a clock that the test moves.
    struct Bench {
        breaker: Breaker,
        limits: Limits,
        now: Moment,
        told: Vec<Transition>,
        trips_at: u32,
    }

    impl Bench {
        fn new(limits: Limits, trips_at: u32) -> Self {
            Self {
                breaker: Breaker::new(Moment::START),
                limits,
                now: Moment::START,
                told: Vec::new(),
                trips_at,
            }
        }

        fn at(&mut self, millis: u64) -> &mut Self {
            self.now = Moment::from_start(Duration::from_millis(millis));
            self
        }

        fn admit(&mut self) -> Result<Admission, Rejection> {
            let told = &mut self.told;
            self.breaker
                .admit(&self.limits, self.now, &mut |step| told.push(step))
        }

        fn end(&mut self, admission: Admission, outcome: Outcome) {
            let (told, trips_at) = (&mut self.told, self.trips_at);
            self.breaker.record(
                &self.limits,
                admission,
                outcome,
                self.now,
                |counts| counts.consecutive_failures >= trips_at,
                &mut |step| told.push(step),
            );
        }

        fn call(&mut self, outcome: Outcome) -> Result<(), Rejection> {
            let admission = self.admit()?;
            self.end(admission, outcome);
            Ok(())
        }

        fn states(&self) -> Vec<(State, State)> {
            self.told.iter().map(|step| (step.from, step.to)).collect()
        }
    }

    use Outcome::{Cancelled, Failure, Success};
    use State::{Closed, HalfOpen, Open};

    #[test]
    fn it_opens_waits_probes_and_closes() {
        let mut bench = Bench::new(LIMITS, 3);
        for _ in 0..3 {
            bench.call(Failure).unwrap();
        }
        assert_eq!(bench.call(Success), Err(Rejection::Open));
        assert_eq!(
            bench.breaker.retry_after(&LIMITS, bench.now),
            Duration::from_secs(5)
        );
        assert_eq!(bench.at(5_000).call(Success), Err(Rejection::Open));
        assert_eq!(bench.at(5_001).call(Success), Ok(()));
        assert_eq!(
            bench.states(),
            [(Closed, Open), (Open, HalfOpen), (HalfOpen, Closed)]
        );
    }

    #[test]
    fn a_half_open_round_admits_its_probes_and_needs_all_of_them() {
        for (outcomes, end) in [
            ([Success, Success, Success], Closed),
            ([Success, Failure, Success], Open),
        ] {
            let limits = Limits {
                max_requests: 3,
                ..LIMITS
            };
            let mut bench = Bench::new(limits, 1);
            bench.call(Failure).unwrap();
            bench.at(5_001);
            let probes: Vec<Admission> = (0..3).map(|_| bench.admit().unwrap()).collect();
            assert_eq!(bench.admit(), Err(Rejection::TooMany));
            for (probe, outcome) in probes.into_iter().zip(outcomes) {
                bench.end(probe, outcome);
            }
            assert_eq!(bench.breaker.state(), end);
            if end == Open {
                assert_eq!(bench.at(10_001).call(Success), Err(Rejection::Open));
                assert_eq!(bench.at(10_002).call(Success), Ok(()));
            }
        }
    }

    #[test]
    fn a_probe_that_never_ends_is_a_failure_after_one_timeout() {
        let mut bench = Bench::new(LIMITS, 1);
        bench.call(Failure).unwrap();
        let hung = bench.at(6_000).admit().unwrap();
        assert_eq!(bench.at(11_000).admit(), Err(Rejection::TooMany));
        assert_eq!(bench.at(11_001).admit(), Err(Rejection::Open));
        bench.end(hung, Success);
        assert_eq!(bench.breaker.state(), Open, "it comes too late");
        assert_eq!(bench.at(16_001).call(Success), Ok(()));
        assert_eq!(bench.breaker.state(), Closed);
    }

    #[test]
    fn a_probe_whose_caller_left_gives_its_place_back() {
        let mut bench = Bench::new(LIMITS, 1);
        bench.call(Failure).unwrap();
        bench.at(6_000).call(Cancelled).unwrap();
        assert_eq!(bench.breaker.state(), HalfOpen);
        assert_eq!(bench.call(Success), Ok(()));
        assert_eq!(bench.breaker.state(), Closed);
    }

    #[test]
    fn a_closed_breaker_forgets_after_its_interval() {
        let limits = Limits {
            interval: Some(Duration::from_secs(8)),
            ..LIMITS
        };
        let mut bench = Bench::new(limits, 3);
        for millis in [0, 1_000, 9_000] {
            bench.at(millis).call(Failure).unwrap();
        }
        assert_eq!(bench.breaker.state(), Closed);
        assert_eq!(bench.breaker.counts().consecutive_failures, 1);
        bench.at(17_000).call(Failure).unwrap();
        assert_eq!(bench.breaker.counts().consecutive_failures, 2);
        bench.at(17_001).call(Failure).unwrap();
        assert_eq!(bench.breaker.counts().consecutive_failures, 1);
    }

    #[test]
    fn what_time_has_changed_is_seen_without_moving_it() {
        let mut bench = Bench::new(LIMITS, 1);
        bench.call(Failure).unwrap();
        let later = Moment::from_start(Duration::from_secs(6));
        assert_eq!(bench.breaker.seen(&LIMITS, later), (HalfOpen, None));
        assert_eq!(bench.breaker.state(), Open);
        bench.breaker.reset(later, &mut |_| {});
        assert_eq!(bench.breaker.state(), Closed);
    }

    proptest! {
        /// Every rule of the table, whatever happens in whatever order.
        #[test]
        fn it_moves_only_along_the_table_and_is_never_wedged(
            max_requests in 1_u32..5,
            trips_at in 1_u32..4,
            interval in proptest::option::of(1_u64..3_000),
            steps in proptest::collection::vec((0_u64..4_000, 0_u8..4, any::<prop::sample::Index>()), 0..120),
        ) {
            let limits = Limits { max_requests, interval: interval.map(Duration::from_millis), timeout: Duration::from_secs(2) };
            let mut bench = Bench::new(limits, trips_at);
            let (mut running, mut now): (Vec<Admission>, u64) = (Vec::new(), 0);
            for (millis, action, which) in steps {
                now += millis;
                bench.at(now);
                if action == 0 || running.is_empty() {
                    let before = bench.told.len();
                    if let Ok(admission) = bench.admit() {
                        running.push(admission);
                    }
                    let round = bench.breaker.counts();
                    if bench.breaker.state() == HalfOpen {
                        prop_assert!(round.requests <= max_requests);
                    }
                    prop_assert!(bench.told.len() - before <= 3);
                } else {
                    let place = which.index(running.len());
                    let admission = running.swap_remove(place);
                    bench.end(admission, [Success, Failure, Cancelled][usize::from(action) - 1]);
                }
            }
            for pair in bench.states() {
                prop_assert!([(Closed, Open), (Open, HalfOpen), (HalfOpen, Open), (HalfOpen, Closed)].contains(&pair), "{pair:?}");
            }
            for pair in bench.told.windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from);
            }
            // Whatever is still on its way: after two time-outs somebody may probe.
            bench.at(now + 4_002);
            prop_assert!(bench.admit().is_ok());
        }
    }
}
