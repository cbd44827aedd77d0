//! When the next request is due.
//!
//! Owns: the timetable shared by all connections, and a timer that keeps it.
//! Start at [`Pace::next`].

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use super::job::{Amount, Job};

pub(super) struct Pace {
    began: Instant,
    /// Between two requests; none means as fast as it goes.
    interval: Option<Duration>,
    amount: Amount,
    taken: AtomicU64,
}

impl Pace {
    pub(super) fn new(job: &Job, began: Instant) -> Self {
        let interval = job.rate.map(|rate| Duration::from_secs(1) / rate.max(1));
        Pace {
            began,
            interval,
            amount: job.amount,
            taken: AtomicU64::new(0),
        }
    }

    /// The moment at which the next request is due; none when all are taken.
    pub(super) fn next(&self) -> Option<Instant> {
        let place = self.taken.fetch_add(1, Ordering::Relaxed);
        let due = match self.interval {
            Some(interval) => {
                self.began + Duration::from_secs_f64(interval.as_secs_f64() * place as f64)
            }
            None => Instant::now(),
        };
        let is_in_time = match self.amount {
            Amount::Requests(count) => place < count,
            Amount::Time(length) => due.duration_since(self.began) < length,
        };
        is_in_time.then_some(due)
    }
}

/// A timer of the kernel. The runtime's own counts in milliseconds, which is as long as what is measured.
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    pub(super) fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "an owned descriptor stays what it is; the new name needs unsafe code"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Timer(timer))
    }

    pub(super) async fn until(&self, due: Instant) -> Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let alarm = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: left.as_secs().try_into()?,
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &alarm)?;
        let mut ready = self.0.readable().await?;
        let mut count = [0_u8; 8];
        rustix::io::read(self.0.get_ref(), &mut count)?;
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Protocol;

    fn pace(rate: Option<u32>, amount: Amount) -> Pace {
        let job = Job {
            rate,
            amount,
            ..Job::new(Protocol::Http, 1, "/")
        };
        Pace::new(&job, Instant::now())
    }

    #[test]
    fn requests_are_due_at_even_distances_whenever_they_are_taken() {
        let pace = pace(Some(1000), Amount::Requests(3));
        let due: Vec<_> = std::iter::from_fn(|| pace.next())
            .map(|due| due - pace.began)
            .collect();
        assert_eq!(due, [0, 1, 2].map(Duration::from_millis));
    }

    #[test]
    fn a_time_bounds_a_paced_load_by_what_is_due_in_it() {
        let pace = pace(Some(100), Amount::Time(Duration::from_millis(50)));
        assert_eq!(std::iter::from_fn(|| pace.next()).count(), 5);
    }

    #[test]
    fn without_a_rate_a_request_is_due_at_once() {
        let pace = pace(None, Amount::Requests(1));
        assert!(pace.next().is_some_and(|due| due <= Instant::now()));
        assert!(pace.next().is_none());
    }
}
