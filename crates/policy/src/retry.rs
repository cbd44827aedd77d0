//! Whether a call that failed is made again, and when.
//!
//! [`Attempts`] is the history of one call; the policy, the moment and the dice are brought by whoever asks.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::{Budget, Moment};

/// How often, how far apart and after what a call is repeated.
#[derive(Clone, PartialEq, Debug)]
pub struct Retry {
    pub pauses: Pauses,
    /// Absent: without end.
    pub max_retries: Option<u32>,
    /// No retry is begun later than this after the call's beginning.
    pub max_elapsed: Option<Duration>,
    pub http: Codes,
    pub grpc: Codes,
    /// The longest pause that the other side may ask for.
    pub max_pushback: Duration,
}

/// The pauses between attempts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pauses {
    Constant {
        pause: Duration,
        jitter: Jitter,
    },
    Exponential {
        initial: Duration,
        max: Duration,
        multiplier: f64,
        randomization: f64,
    },
}

/// What is left to chance in a constant pause.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Jitter {
    /// This share of it, up or down.
    Share(f64),
    /// It is lengthened by up to this much.
    UpTo(Duration),
}

impl Jitter {
    pub const NONE: Self = Self::Share(0.0);
}

/// The status of a failure, in its own protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Code {
    Http(u16),
    Grpc(u16),
}

/// Which statuses are meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Codes {
    #[default]
    Every,
    Only(Vec<RangeInclusive<u16>>),
}

impl Codes {
    pub fn contains(&self, code: u16) -> bool {
        match self {
            Self::Every => true,
            Self::Only(ranges) => ranges.iter().any(|range| range.contains(&code)),
        }
    }
}

impl Code {
    /// Whether a code is among those that are meant. What no protocol knows never is.
    pub fn is_among(self, http: &Codes, grpc: &Codes) -> bool {
        match self {
            Self::Http(code) => (100..=599).contains(&code) && http.contains(code),
            Self::Grpc(code) => code <= 16 && grpc.contains(code),
        }
    }

    /// A failure that says that the caller is at fault, and not the one called.
    pub fn is_clients_fault(self) -> bool {
        match self {
            Self::Http(code) => (400..=499).contains(&code) && code != 408 && code != 429,
            Self::Grpc(code) => matches!(code, 3 | 5 | 6 | 7 | 9 | 11 | 12 | 16),
        }
    }
}

impl Retry {
    /// What service invocation does where no policy names the target: a lost connection is tried again.
    // Dapr: pkg/resiliency/resiliency.go, the built-in service retry.
    pub const BUILT_IN_INVOCATION: Self = Self::constant(Duration::from_secs(1), 3);

    /// After any failure, without chance.
    pub const fn constant(pause: Duration, max_retries: u32) -> Self {
        Self {
            pauses: Pauses::Constant {
                pause,
                jitter: Jitter::NONE,
            },
            max_retries: Some(max_retries),
            max_elapsed: None,
            http: Codes::Every,
            grpc: Codes::Every,
            max_pushback: Duration::from_secs(60),
        }
    }

    /// Whether a call may be made more than once at all.
    pub fn is_any(&self) -> bool {
        self.max_retries != Some(0)
    }
}

impl Pauses {
    fn first_base(&self) -> Duration {
        match *self {
            Self::Constant { pause, .. } => pause,
            // Not capped: only what follows from it is.
            Self::Exponential { initial, .. } => initial,
        }
    }

    /// The base after `base`, without chance.
    fn next_base(&self, base: Duration) -> Duration {
        match *self {
            Self::Constant { pause, .. } => pause,
            Self::Exponential {
                max, multiplier, ..
            } => {
                if base.as_nanos() as f64 >= max.as_nanos() as f64 / multiplier {
                    max
                } else {
                    nanos(base.as_nanos() as f64 * multiplier)
                }
            }
        }
    }

    /// What chance makes of a base. `dice` lies in `0.0..1.0`.
    fn rolled(&self, base: Duration, dice: f64) -> Duration {
        let share = match *self {
            Self::Constant {
                jitter: Jitter::UpTo(most),
                ..
            } => return base.saturating_add(most.mul_f64(dice.clamp(0.0, 1.0))),
            Self::Constant {
                jitter: Jitter::Share(share),
                ..
            } => share,
            Self::Exponential { randomization, .. } => randomization,
        };
        if share <= 0.0 {
            return base;
        }
        let base = base.as_nanos() as f64;
        let dice = dice.clamp(0.0, 1.0);
        nanos(base * (1.0 - share) + dice * (2.0 * share * base + 1.0))
    }
}

/// Whole nanoseconds; the fraction is cut off.
fn nanos(nanos: f64) -> Duration {
    if nanos < u64::MAX as f64 {
        Duration::from_nanos(nanos.max(0.0) as u64)
    } else {
        Duration::from_nanos(u64::MAX)
    }
}

/// What is known of a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failure {
    /// Absent where the failure is none of the other side's: no connection, or no time.
    pub code: Option<Code>,
    /// Another attempt cannot come to anything else.
    pub permanent: bool,
    pub pushback: Pushback,
}

/// What the other side asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pushback {
    #[default]
    None,
    /// No attempt before this has passed.
    After(Duration),
    /// No further attempt.
    Stop,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The call is made once more, after a pause.
    Retry { at: Moment, pause: Duration },
    /// The outcome goes to the caller.
    GiveUp(GivenUp),
}

/// Why no further attempt is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GivenUp {
    /// No policy says to repeat it.
    NoRetry,
    /// Another attempt cannot come to anything else.
    Permanent,
    /// The policy is not meant for this status.
    NotMatched,
    /// Every retry that the policy allows was made.
    Exhausted,
    /// The policy's own time has passed.
    TimeSpent,
    /// The pause would outlast whoever waits for the call.
    Deadline,
    /// Too many calls are being repeated already.
    Budget,
    /// The other side asked for it, or for a longer pause than is allowed.
    Pushback,
}

/// The attempts of one call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attempts {
    began: Moment,
    deadline: Option<Moment>,
    retries: u32,
    base: Option<Duration>,
}

impl Attempts {
    /// A call that begins now, and that nobody waits for after `deadline`.
    pub fn new(began: Moment, deadline: Option<Moment>) -> Self {
        Self {
            began,
            deadline,
            retries: 0,
            base: None,
        }
    }

    /// How many retries were granted so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    pub fn began(&self) -> Moment {
        self.began
    }

    pub fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// Decides what follows an attempt that failed at `now`.
    pub fn after(
        &mut self,
        retry: &Retry,
        budget: Option<&mut Budget>,
        failure: &Failure,
        now: Moment,
        dice: f64,
    ) -> Next {
        match self.plan(retry, failure, now, dice) {
            Err(why) => Next::GiveUp(why),
            Ok(_) if budget.is_some_and(|budget| !budget.withdraw(now)) => {
                Next::GiveUp(GivenUp::Budget)
            }
            Ok((base, pause)) => {
                self.base = Some(base);
                self.retries += 1;
                Next::Retry {
                    at: now + pause,
                    pause,
                }
            }
        }
    }

    fn plan(
        &self,
        retry: &Retry,
        failure: &Failure,
        now: Moment,
        dice: f64,
    ) -> Result<(Duration, Duration), GivenUp> {
        if retry.max_retries == Some(0) {
            return Err(GivenUp::NoRetry);
        }
        if failure.permanent {
            return Err(GivenUp::Permanent);
        }
        if failure
            .code
            .is_some_and(|code| !code.is_among(&retry.http, &retry.grpc))
        {
            return Err(GivenUp::NotMatched);
        }
        if retry.max_retries.is_some_and(|max| self.retries >= max) {
            return Err(GivenUp::Exhausted);
        }
        let base = match self.base {
            None => retry.pauses.first_base(),
            Some(base) => retry.pauses.next_base(base),
        };
        let pause = retry.pauses.rolled(base, dice);
        let elapsed = now.since(self.began);
        if retry
            .max_elapsed
            .is_some_and(|max| elapsed.saturating_add(pause) > max)
        {
            return Err(GivenUp::TimeSpent);
        }
        let pause = match failure.pushback {
            Pushback::None => pause,
            Pushback::After(asked) if asked <= retry.max_pushback => pause.max(asked),
            Pushback::After(_) | Pushback::Stop => return Err(GivenUp::Pushback),
        };
        if self
            .deadline
            .is_some_and(|deadline| deadline <= now + pause)
        {
            return Err(GivenUp::Deadline);
        }
        Ok((base, pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    const ANY: Failure = Failure {
        code: None,
        permanent: false,
        pushback: Pushback::None,
    };

    fn exponential(max: Duration, max_retries: Option<u32>) -> Retry {
        Retry {
            pauses: Pauses::Exponential {
                initial: Duration::from_millis(500),
                max,
                multiplier: 1.5,
                randomization: 0.5,
            },
            max_retries,
            max_elapsed: Some(Duration::from_secs(15 * 60)),
            ..Retry::BUILT_IN_INVOCATION
        }
    }

    /// Fails always, at once: the pauses, and when the last attempt ended.
    fn run(retry: &Retry, dice: f64) -> (Vec<Duration>, Moment, GivenUp) {
        let mut call = Attempts::new(Moment::START, None);
        let (mut now, mut pauses) = (Moment::START, Vec::new());
        loop {
            match call.after(retry, None, &ANY, now, dice) {
                Next::Retry { at, pause } => {
                    pauses.push(pause);
                    now = at;
                }
                Next::GiveUp(why) => return (pauses, now, why),
            }
        }
    }

    #[test]
    fn an_exponential_policy_gives_up_after_a_quarter_of_an_hour() {
        let (pauses, end, why) = run(&exponential(Duration::from_secs(60), None), 0.5);
        let millis: Vec<f64> = pauses
            .iter()
            .take(5)
            .map(|pause| (pause.as_secs_f64() * 1e4).round() / 10.0)
            .collect();
        assert_eq!(millis, [500.0, 750.0, 1125.0, 1687.5, 2531.3]);
        assert_eq!(pauses.len() + 1, 25);
        assert!((end.distance_from_start().as_secs_f64() - 848.7).abs() < 0.1);
        assert_eq!(why, GivenUp::TimeSpent);
        let (pauses, end, _) = run(&exponential(Duration::from_secs(15), None), 0.5);
        assert_eq!(pauses.len() + 1, 67);
        assert!((end.distance_from_start().as_secs_f64() - 892.4).abs() < 0.1);
    }

    #[test]
    fn the_first_pause_of_an_exponential_policy_is_not_capped() {
        let short = exponential(Duration::from_millis(100), Some(3));
        let millis = |dice| -> Vec<u128> {
            run(&short, dice)
                .0
                .iter()
                .map(Duration::as_millis)
                .collect()
        };
        assert_eq!(millis(0.5), [500, 100, 100]);
        assert_eq!(millis(1.0), [750, 150, 150]);
    }

    #[test]
    fn no_retry_is_planned_past_the_deadline() {
        let every_2s = Retry::constant(Duration::from_secs(2), 5);
        let mut call = Attempts::new(at(0), Some(at(3_000)));
        let first = call.after(&every_2s, None, &ANY, at(0), 0.0);
        assert_eq!(
            first,
            Next::Retry {
                at: at(2_000),
                pause: Duration::from_secs(2)
            }
        );
        let second = call.after(&every_2s, None, &ANY, at(2_000), 0.0);
        assert_eq!(second, Next::GiveUp(GivenUp::Deadline));
    }

    #[test]
    fn statuses_are_matched_in_their_own_protocol() {
        let retry = Retry {
            http: Codes::Only(vec![429..=429, 500..=599]),
            ..Retry::constant(Duration::ZERO, 3)
        };
        let next = |code| {
            Attempts::new(at(0), None).after(&retry, None, &Failure { code, ..ANY }, at(0), 0.0)
        };
        let goes_on = |code| matches!(next(Some(code)), Next::Retry { .. });
        assert!(goes_on(Code::Http(503)) && goes_on(Code::Http(429)));
        assert!(!goes_on(Code::Http(404)));
        assert!(goes_on(Code::Grpc(14)), "the other list is empty");
        assert!(!goes_on(Code::Grpc(20)) && !goes_on(Code::Http(700)));
        assert!(matches!(next(None), Next::Retry { .. }));
    }

    #[test]
    fn the_other_side_may_lengthen_a_pause_within_limits() {
        let retry = Retry::constant(Duration::from_secs(1), 3);
        let next = |pushback| {
            Attempts::new(at(0), None).after(&retry, None, &Failure { pushback, ..ANY }, at(0), 0.0)
        };
        let pause_of = |next| match next {
            Next::Retry { pause, .. } => Some(pause.as_millis()),
            Next::GiveUp(_) => None,
        };
        assert_eq!(
            pause_of(next(Pushback::After(Duration::from_secs(3)))),
            Some(3_000)
        );
        assert_eq!(
            pause_of(next(Pushback::After(Duration::from_millis(3)))),
            Some(1_000)
        );
        for stopped in [Pushback::Stop, Pushback::After(Duration::from_secs(61))] {
            assert_eq!(next(stopped), Next::GiveUp(GivenUp::Pushback));
        }
    }

    #[test]
    fn what_nothing_can_change_is_not_repeated() {
        let retry = Retry::constant(Duration::ZERO, 3);
        let permanent = Failure {
            permanent: true,
            ..ANY
        };
        assert_eq!(
            Attempts::new(at(0), None).after(&retry, None, &permanent, at(0), 0.0),
            Next::GiveUp(GivenUp::Permanent)
        );
    }

    proptest! {
        #[test]
        fn never_more_retries_than_allowed(max_retries in 0_u32..20, failures in 0_u32..40, dice in 0.0_f64..1.0) {
            let retry = Retry::constant(Duration::from_secs(2), max_retries);
            let mut call = Attempts::new(at(0), None);
            let granted = (0..failures)
                .filter(|n| matches!(call.after(&retry, None, &ANY, at(u64::from(*n)), dice), Next::Retry { .. }))
                .count();
            prop_assert_eq!(granted as u32, failures.min(max_retries));
            prop_assert_eq!(call.retries(), failures.min(max_retries));
        }

        #[test]
        fn every_pause_lies_within_the_bounds_of_its_formula(
            initial in 1_u64..5_000,
            max in 1_u64..60_000,
            multiplier in 1.0_f64..4.0,
            randomization in 0.0_f64..=1.0,
            rolls in proptest::collection::vec(0.0_f64..1.0, 1..30),
        ) {
            let (initial, max) = (Duration::from_millis(initial), Duration::from_millis(max));
            let retry = Retry {
                pauses: Pauses::Exponential { initial, max, multiplier, randomization },
                max_elapsed: None,
                max_retries: None,
                ..Retry::BUILT_IN_INVOCATION
            };
            let (mut call, mut now, mut base) = (Attempts::new(at(0), None), at(0), initial);
            for dice in rolls {
                let Next::Retry { at, pause } = call.after(&retry, None, &ANY, now, dice) else {
                    return Err(TestCaseError::fail("gave up"));
                };
                let (low, high) = (base.mul_f64(1.0 - randomization), base.mul_f64(1.0 + randomization));
                prop_assert!(pause + Duration::from_nanos(2) >= low && pause <= high + Duration::from_nanos(2), "{pause:?} of {base:?}");
                now = at;
                base = base.mul_f64(multiplier).min(max);
            }
        }

        #[test]
        fn no_attempt_is_ever_planned_past_the_deadline(
            deadline in 0_u64..10_000,
            pause in 0_u64..3_000,
            took in proptest::collection::vec(0_u64..2_000, 1..20),
            asked in 0_u64..5_000,
        ) {
            let retry = Retry::constant(Duration::from_millis(pause), 100);
            let mut call = Attempts::new(at(0), Some(at(deadline)));
            let failure = Failure { pushback: Pushback::After(Duration::from_millis(asked)), ..ANY };
            let mut now = at(0);
            for took in took {
                now = now + Duration::from_millis(took);
                match call.after(&retry, None, &failure, now, 0.5) {
                    Next::Retry { at: due, .. } => {
                        prop_assert!(due < at(deadline));
                        now = due;
                    }
                    Next::GiveUp(why) => {
                        prop_assert_eq!(why, GivenUp::Deadline);
                        break;
                    }
                }
            }
        }
    }
}
