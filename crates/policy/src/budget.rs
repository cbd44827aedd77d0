//! How many of many calls may be repeated: retries must not become the load that brings a service down.

use crate::Moment;

/// What fills a budget.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Allowance {
    /// What each first attempt adds.
    pub ratio: f64,
    /// What each second adds, whatever happens.
    pub min_per_second: f64,
}

impl Allowance {
    /// A quiet time is not saved up for longer than this many seconds, nor busy ones for more than so many calls.
    const SECONDS: f64 = 10.0;
    const CALLS: f64 = 1_000.0;

    fn capacity(&self) -> f64 {
        self.min_per_second * Self::SECONDS + self.ratio * Self::CALLS
    }
}

/// The retries that are left to a target.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Budget {
    allowance: Allowance,
    tokens: f64,
    filled: Moment,
}

impl Budget {
    pub fn new(allowance: Allowance, now: Moment) -> Self {
        Self {
            allowance,
            tokens: allowance.min_per_second,
            filled: now,
        }
    }

    /// A call makes its first attempt.
    pub fn deposit(&mut self, now: Moment) {
        self.fill(now);
        self.add(self.allowance.ratio);
    }

    /// Whether one more retry may be made; then it is counted.
    pub fn withdraw(&mut self, now: Moment) -> bool {
        self.fill(now);
        // Sums of tenths are not exact.
        let granted = self.tokens + 1e-9 >= 1.0;
        if granted {
            self.tokens = (self.tokens - 1.0).max(0.0);
        }
        granted
    }

    pub fn left(&self) -> f64 {
        self.tokens
    }

    pub fn allowance(&self) -> Allowance {
        self.allowance
    }

    fn fill(&mut self, now: Moment) {
        let passed = now.since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.add(passed * self.allowance.min_per_second);
    }

    fn add(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.allowance.capacity());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_a_hundred_calls_may_be_repeated() {
        let allowance = Allowance {
            ratio: 0.2,
            min_per_second: 0.0,
        };
        let mut budget = Budget::new(allowance, Moment::START);
        let granted: usize = (0..100)
            .map(|_| {
                budget.deposit(Moment::START);
                (0..3).filter(|_| budget.withdraw(Moment::START)).count()
            })
            .sum();
        assert_eq!(granted, 20);
    }

    proptest! {
        #[test]
        fn a_budget_is_never_negative_and_never_gives_more_than_it_got(
            ratio in 0.0_f64..2.0,
            min_per_second in 0.0_f64..20.0,
            steps in proptest::collection::vec((0_u64..3_000, any::<bool>()), 0..200),
        ) {
            let mut budget = Budget::new(Allowance { ratio, min_per_second }, Moment::START);
            let (mut now, mut given, mut calls) = (Moment::START, 0_u32, 0_u32);
            for (millis, is_call) in steps {
                now = now + Duration::from_millis(millis);
                if is_call {
                    calls += 1;
                    budget.deposit(now);
                } else if budget.withdraw(now) {
                    given += 1;
                }
                prop_assert!(budget.left() >= 0.0);
            }
            let got = min_per_second * (1.0 + now.distance_from_start().as_secs_f64()) + ratio * f64::from(calls);
            prop_assert!(f64::from(given) <= got + 1e-3);
        }
    }
}
