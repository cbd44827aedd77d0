//! The pause before another attempt to reach something that is down.

use std::time::Duration;

/// Doubles from `base` to `cap`; half of each pause is left to chance, so that a fleet does not return at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// The pause after the `failures`-th failure in a row (the first is 1). `dice` lies in `0.0..1.0`.
    pub fn delay(&self, failures: u32, dice: f64) -> Duration {
        let doubled = 2_u32
            .checked_pow(failures.saturating_sub(1))
            .and_then(|factor| self.base.checked_mul(factor));
        let full = doubled.unwrap_or(self.cap).min(self.cap);
        let half = full / 2;
        half + half.mul_f64(dice.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAST: Backoff = Backoff {
        base: Duration::from_millis(500),
        cap: Duration::from_secs(10),
    };

    #[test]
    fn pauses_double_up_to_the_cap() {
        let longest: Vec<u64> = (1..8)
            .map(|n| FAST.delay(n, 1.0).as_millis() as u64)
            .collect();
        assert_eq!(longest, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(FAST.delay(1, 0.0), Duration::from_millis(250));
    }

    proptest! {
        #[test]
        fn every_pause_lies_within_its_bounds(failures in any::<u32>(), dice in 0.0_f64..1.0) {
            let delay = FAST.delay(failures, dice);
            prop_assert!(delay >= FAST.base / 2);
            prop_assert!(delay <= FAST.cap);
        }
    }
}
