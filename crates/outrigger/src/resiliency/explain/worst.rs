//! What policies add up to when everything fails: attempts, and the time until the caller has an answer.
//!
//! The engine that runs in a sidecar is asked, with a clock of its own: nothing is computed a second time.

use std::time::Duration;

use outrigger_policy::breaker::{Breaker, Outcome};
use outrigger_policy::{Attempts, Failure, Jitter, Moment, Next, Pauses, Retry};
use outrigger_resiliency::{BreakerRule, Plan};

/// Calls after which nobody counts on.
const MOST_CALLS: u64 = 100_000;

/// How each attempt fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Case {
    /// At once; the retries that are built in do not take it up.
    AtOnce,
    /// At once, in a way that the retries that are built in take up first.
    Unreachable,
    /// There is no answer.
    Hanging,
}

/// The policies of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layers<'a> {
    pub retry: Option<&'a Retry>,
    pub timeout: Option<Duration>,
    pub total: Option<Duration>,
    pub breaker: Option<&'a BreakerRule>,
    pub built_in: Option<&'a Retry>,
    /// The time-out bounds what is built in, too.
    pub spans_built_in: bool,
}

/// How a call went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    pub attempts: u64,
    /// With those of the retries that are built in.
    pub calls: u64,
    /// Until the caller has an answer.
    pub time: Duration,
    pub end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Answer,
    /// The breaker opened on the way.
    Rejected,
    /// It goes on, longer than anybody counts.
    Endless,
    /// An attempt never ends.
    Stuck,
}

impl<'a> Layers<'a> {
    pub(super) fn of(plan: &'a Plan, built_in: Option<&'a Retry>, spans_built_in: bool) -> Self {
        Self {
            retry: plan.retry.as_ref().map(|slot| &slot.rule.retry),
            timeout: plan.timeout.as_ref().map(|slot| slot.rule),
            total: plan.total,
            breaker: None,
            built_in,
            spans_built_in,
        }
    }

    /// With a breaker that has seen nothing yet.
    pub(super) fn with_breaker(self, breaker: &'a BreakerRule) -> Self {
        Self {
            breaker: Some(breaker),
            ..self
        }
    }

    /// Whether chance decides how long the pauses are.
    pub(super) fn has_chance(&self, case: Case) -> bool {
        let built_in = self.built_in.filter(|_| case == Case::Unreachable);
        let rolls = |retry: &Retry| {
            retry.is_any()
                && match retry.pauses {
                    Pauses::Constant {
                        jitter: Jitter::Share(share),
                        ..
                    } => share > 0.0,
                    Pauses::Constant {
                        jitter: Jitter::UpTo(most),
                        ..
                    } => !most.is_zero(),
                    Pauses::Exponential { randomization, .. } => randomization > 0.0,
                }
        };
        self.retry.is_some_and(rolls) || built_in.is_some_and(rolls)
    }

    /// Runs a call whose attempts all fail. `dice` lies in `0.0..1.0`.
    pub(super) fn run(&self, case: Case, dice: f64) -> Sum {
        let deadline = self.total.map(|total| Moment::START + total);
        let mut history = Attempts::new(Moment::START, deadline);
        let mut guard = self.breaker.map(|rule| (rule, Breaker::new(Moment::START)));
        let mut now = Moment::START;
        let mut sum = Sum {
            attempts: 0,
            calls: 0,
            time: Duration::ZERO,
            end: End::Answer,
        };
        loop {
            sum.time = now.distance_from_start();
            let mut admission = None;
            if let Some((rule, breaker)) = &mut guard {
                match breaker.admit(&rule.limits, now, &mut |_| {}) {
                    Ok(admitted) => admission = Some(admitted),
                    Err(_) => {
                        return Sum {
                            end: End::Rejected,
                            ..sum
                        };
                    }
                }
            }
            sum.attempts += 1;
            let left = deadline.map(|deadline| deadline.since(now));
            let own = [self.timeout, left].into_iter().flatten().min();
            let Some(attempt) = self.attempt(case, now, own, left, dice) else {
                return Sum {
                    calls: sum.calls + 1,
                    end: End::Stuck,
                    ..sum
                };
            };
            sum.calls += attempt.calls;
            now = now + attempt.took;
            sum.time = now.distance_from_start();
            if let (Some((rule, breaker)), Some(admission)) = (&mut guard, admission) {
                let trips = |counts: &_| rule.trip.holds(counts).unwrap_or(false);
                breaker.record(
                    &rule.limits,
                    admission,
                    Outcome::Failure,
                    now,
                    trips,
                    &mut |_| {},
                );
            }
            let is_over = attempt.timed_out && left.is_some() && own == left;
            let Some(retry) = self.retry.filter(|_| !is_over) else {
                return sum;
            };
            match history.after(retry, None, &Failure::default(), now, dice) {
                Next::GiveUp(_) => return sum,
                Next::Retry { .. } if sum.calls >= MOST_CALLS => {
                    return Sum {
                        end: End::Endless,
                        ..sum
                    };
                }
                Next::Retry { at, .. } => now = at,
            }
        }
    }

    /// One attempt that begins at `now`; `None` when it never ends.
    fn attempt(
        &self,
        case: Case,
        now: Moment,
        limit: Option<Duration>,
        left: Option<Duration>,
        dice: f64,
    ) -> Option<Attempt> {
        let one = Attempt {
            calls: 1,
            took: Duration::ZERO,
            timed_out: false,
        };
        match (case, self.built_in) {
            (Case::Hanging, _) => limit.map(|took| Attempt {
                took,
                timed_out: true,
                ..one
            }),
            (Case::Unreachable, Some(retry)) => {
                let limit = if self.spans_built_in { limit } else { left };
                Some(repeated(retry, now, limit, dice))
            }
            (Case::AtOnce | Case::Unreachable, _) => Some(one),
        }
    }
}

struct Attempt {
    calls: u64,
    took: Duration,
    timed_out: bool,
}

/// The calls of one attempt.
fn repeated(retry: &Retry, began: Moment, limit: Option<Duration>, dice: f64) -> Attempt {
    let mut history = Attempts::new(began, None);
    let (mut now, mut calls) = (began, 1);
    loop {
        let next = history.after(retry, None, &Failure::default(), now, dice);
        match (next, limit) {
            (Next::Retry { at, .. }, Some(limit)) if at >= began + limit => {
                return Attempt {
                    calls,
                    took: limit,
                    timed_out: true,
                };
            }
            (Next::Retry { at, .. }, _) if calls < MOST_CALLS => {
                now = at;
                calls += 1;
            }
            _ => {
                return Attempt {
                    calls,
                    took: now.since(began),
                    timed_out: false,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_policy::Codes;
    use outrigger_policy::breaker::Limits;
    use outrigger_policy::trip::Trip;
    use proptest::prelude::*;

    use super::*;

    const NOTHING: Layers<'_> = Layers {
        retry: None,
        timeout: None,
        total: None,
        breaker: None,
        built_in: None,
        spans_built_in: true,
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[track_caller]
    fn check(layers: Layers<'_>, case: Case, calls: u64, millis: u64, end: End) {
        let sum = layers.run(case, 0.5);
        assert_eq!(
            (sum.calls, sum.time.as_millis(), sum.end),
            (calls, millis.into(), end)
        );
    }

    #[test]
    fn layers_multiply_and_time_outs_cut() {
        let quick = Retry::constant(ms(10), 3);
        let built_in = Retry::BUILT_IN_INVOCATION;
        let alone = Layers {
            built_in: Some(&built_in),
            ..NOTHING
        };
        check(alone, Case::Unreachable, 4, 3_000, End::Answer);
        check(alone, Case::AtOnce, 1, 0, End::Answer);
        check(alone, Case::Hanging, 1, 0, End::Stuck);
        let both = Layers {
            retry: Some(&quick),
            ..alone
        };
        check(both, Case::Unreachable, 16, 12_030, End::Answer);
        check(both, Case::AtOnce, 4, 30, End::Answer);
        let cut = Layers {
            timeout: Some(ms(1_500)),
            ..both
        };
        check(cut, Case::Unreachable, 8, 6_030, End::Answer);
        check(cut, Case::Hanging, 4, 6_030, End::Answer);
        let total = Layers {
            total: Some(ms(4_000)),
            ..cut
        };
        check(total, Case::Hanging, 3, 4_000, End::Answer);
    }

    #[test]
    fn a_call_alone_may_open_its_breaker() {
        let retry = Retry::constant(ms(10), 10);
        let breaker = BreakerRule {
            limits: Limits {
                max_requests: 1,
                interval: None,
                timeout: ms(5_000),
            },
            trip: Trip::compile("consecutiveFailures >= 3").unwrap(),
            http: Codes::Every,
            grpc: Codes::Every,
            ignores_client_errors: false,
            counts_stream_errors: false,
            on_open: None,
        };
        let layers = Layers {
            retry: Some(&retry),
            ..NOTHING
        };
        check(
            layers.with_breaker(&breaker),
            Case::AtOnce,
            3,
            30,
            End::Rejected,
        );
    }

    #[test]
    fn what_never_ends_is_not_counted_to_its_end() {
        let retry = Retry {
            max_retries: None,
            ..Retry::constant(ms(1_000), 0)
        };
        let layers = Layers {
            retry: Some(&retry),
            ..NOTHING
        };
        assert_eq!(layers.run(Case::AtOnce, 0.5).end, End::Endless);
    }

    proptest! {
        #[test]
        fn longer_pauses_never_mean_more_attempts(
            initial in 0_u64..5_000, max in 0_u64..5_000, elapsed in 1_u64..60_000, retries in 0_u32..50, timeout in 0_u64..2_000,
        ) {
            let retry = Retry {
                pauses: Pauses::Exponential { initial: ms(initial), max: ms(max), multiplier: 1.5, randomization: 0.5 },
                max_retries: Some(retries),
                max_elapsed: Some(ms(elapsed)),
                ..Retry::BUILT_IN_INVOCATION
            };
            let layers = Layers { retry: Some(&retry), timeout: Some(ms(timeout)), ..NOTHING };
            for case in [Case::AtOnce, Case::Hanging] {
                let [low, high] = [0.0, 1.0].map(|dice| layers.run(case, dice));
                prop_assert!(high.calls <= low.calls && low.attempts <= u64::from(retries) + 1);
            }
        }
    }
}
