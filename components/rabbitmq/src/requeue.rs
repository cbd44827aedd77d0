//! How long a failed message rests before it returns to its queue.
//!
//! With `requeueInFailure` a message that always fails would otherwise run in circles as fast as broker and app can.
//! Classic queues do not tell how often they delivered a message, so the recent failures are remembered here, by a
//! print of the message.
//! Tests: below.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use lapin::message::Delivery;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// Messages that are remembered; beyond that, all are forgotten, and rest shortly again.
const REMEMBERED: usize = 1_024;

/// The failures of one subscription.
#[derive(Default)]
pub(crate) struct Requeues {
    failures: HashMap<u64, u32>,
}

impl Requeues {
    /// Tells messages apart well enough to count their failures.
    pub(crate) fn print(delivery: &Delivery) -> u64 {
        let mut hasher = DefaultHasher::new();
        delivery.data.hash(&mut hasher);
        delivery.routing_key.hash(&mut hasher);
        delivery.properties.message_id().hash(&mut hasher);
        hasher.finish()
    }

    /// The rest after one more failure of a message that the broker has delivered `told` times, as far as it knows.
    pub(crate) fn delay(&mut self, print: u64, told: u32) -> Duration {
        if self.failures.len() >= REMEMBERED {
            self.failures.clear();
        }
        let failures = self.failures.entry(print).or_insert(0);
        *failures = failures.saturating_add(1).max(told);
        let doublings = failures.saturating_sub(1).min(10);
        (FIRST * 2_u32.pow(doublings)).min(LONGEST)
    }

    /// The message succeeded.
    pub(crate) fn forget(&mut self, print: u64) {
        self.failures.remove(&print);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_doubles_up_to_five_seconds() {
        let mut requeues = Requeues::default();
        let rests: Vec<_> = (0..8).map(|_| requeues.delay(1, 2).as_millis()).collect();
        assert_eq!(rests, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(requeues.delay(2, 1), FIRST, "another message");
        requeues.forget(1);
        assert_eq!(requeues.delay(1, 1), FIRST);
        assert_eq!(
            requeues.delay(3, u32::MAX),
            LONGEST,
            "a quorum queue counts itself"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut requeues = Requeues::default();
        for print in 0..5_000 {
            requeues.delay(print, 1);
        }
        assert!(requeues.failures.len() <= REMEMBERED);
    }

    #[test]
    fn equal_messages_share_a_print_and_others_do_not() {
        let delivery = |data: &str, redelivered| {
            Delivery::mock(7, "t".into(), "".into(), redelivered, data.into())
        };
        assert_eq!(
            Requeues::print(&delivery("a", false)),
            Requeues::print(&delivery("a", true))
        );
        assert_ne!(
            Requeues::print(&delivery("a", false)),
            Requeues::print(&delivery("b", false))
        );
    }
}
