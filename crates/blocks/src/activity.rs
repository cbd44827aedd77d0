//! Which calls are under way, and since when there are none: what the way down waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_lifecycle::{Clock, Moment};

/// Calls of the API and of peers. Health checks and open streams do not count: they never end.
#[derive(Debug)]
pub struct Activity {
    clock: Clock,
    running: AtomicUsize,
    /// Milliseconds from the process's start to the end of the last call.
    last_end: AtomicU64,
}

/// A call under way; dropped when it has ended.
#[derive(Debug)]
pub struct Running(Arc<Activity>);

impl Activity {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            running: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
        }
    }

    /// A call begins.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// When the last call ended; the process's start if there was none.
    pub fn last_end(&self) -> Moment {
        Moment::from_start(Duration::from_millis(self.last_end.load(Ordering::Relaxed)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = self.0.clock.now().distance_from_start().as_millis();
        self.0
            .last_end
            .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
