//! Whether tasks still get their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_lifecycle::{Clock, Stop};

const EVERY: Duration = Duration::from_secs(1);
/// A process whose tasks have not had a turn for longer does not work.
const LIMIT: Duration = Duration::from_secs(5);

/// When a task that does nothing else had its last turn.
#[derive(Clone, Debug)]
pub struct Pulse {
    clock: Clock,
    /// Milliseconds of the clock.
    last: Arc<AtomicU64>,
}

impl Pulse {
    pub fn new(clock: Clock) -> Self {
        let pulse = Self {
            clock,
            last: Arc::default(),
        };
        pulse.beat();
        pulse
    }

    /// Beats once a second until it is stopped.
    pub async fn run(self, stop: Stop) {
        loop {
            self.beat();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    pub fn is_beating(&self) -> bool {
        let silent = self.now().saturating_sub(self.last.load(Ordering::Relaxed));
        u128::from(silent) <= LIMIT.as_millis()
    }

    fn beat(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        let now = self.clock.now().distance_from_start();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use outrigger_lifecycle::Scope;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_beats_as_long_as_its_task_gets_a_turn_and_is_silent_after_five_seconds() {
        let scope = Scope::root();
        let pulse = Pulse::new(Clock::start());
        let beating = pulse.clone();
        scope.spawn("pulse", |stop| beating.run(stop));
        for _ in 0..60 {
            tokio::time::sleep(EVERY).await;
            assert!(pulse.is_beating());
        }
        scope.close(EVERY).await;
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(pulse.is_beating());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(!pulse.is_beating());
    }
}
