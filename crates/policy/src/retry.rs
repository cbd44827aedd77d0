//! Retry decisions for one call.

use std::time::Duration;

use crate::Moment;

/// How often and how far apart a call is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    pub pause: Duration,
    pub max_retries: u32,
}

impl Retry {
    /// What service invocation does where no policy names the target: a lost connection is tried again.
    // Dapr: pkg/resiliency/resiliency.go, the built-in service retry.
    pub const BUILT_IN_INVOCATION: Self = Self {
        pause: Duration::from_secs(1),
        max_retries: 3,
    };
}

/// What follows an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The outcome goes to the caller.
    Deliver,
    /// The call is made once more at this moment.
    RetryAt(Moment),
}

/// The attempts of one call.
#[derive(Clone, Debug)]
pub struct Attempts {
    retry: Retry,
    deadline: Option<Moment>,
    used: u32,
}

impl Attempts {
    pub fn new(retry: Retry, deadline: Option<Moment>) -> Self {
        Self {
            retry,
            deadline,
            used: 0,
        }
    }

    /// How many retries were granted so far.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Decides what follows an attempt that ended at `now`. Reads no clock, sleeps nowhere.
    pub fn after(&mut self, is_transient: bool, now: Moment) -> Next {
        let due = now + self.retry.pause;
        let too_late = self.deadline.is_some_and(|deadline| deadline <= due);
        if !is_transient || self.used >= self.retry.max_retries || too_late {
            return Next::Deliver;
        }
        self.used += 1;
        Next::RetryAt(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    const EVERY_2S: Retry = Retry {
        pause: Duration::from_secs(2),
        max_retries: 5,
    };

    #[test]
    fn no_retry_is_planned_past_the_deadline() {
        let mut call = Attempts::new(EVERY_2S, Some(at(3)));
        assert_eq!(call.after(true, at(0)), Next::RetryAt(at(2)));
        assert_eq!(call.after(true, at(2)), Next::Deliver);
    }

    #[test]
    fn only_transient_failures_are_retried() {
        assert_eq!(
            Attempts::new(EVERY_2S, None).after(false, at(0)),
            Next::Deliver
        );
    }

    proptest! {
        #[test]
        fn never_more_retries_than_allowed(max_retries in 0_u32..20, failures in 0_u32..40) {
            let mut call = Attempts::new(Retry { max_retries, ..EVERY_2S }, None);
            let granted = (0..failures).filter(|n| call.after(true, at(u64::from(*n))) != Next::Deliver).count();
            prop_assert_eq!(granted as u32, failures.min(max_retries));
            prop_assert_eq!(call.used(), failures.min(max_retries));
        }
    }
}
