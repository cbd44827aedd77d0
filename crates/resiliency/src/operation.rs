//! One operation: its attempts, one after the other, each let through by the breaker and bounded by the time-out.
//!
//! The caller loops: [`Operation::attempt`] lets an attempt begin, [`limited`] bounds it, [`Operation::conclude`] says
//! what follows. A [`Pass`] that is dropped says that the caller went away: that is neither success nor failure.

use std::fmt::{self, Display};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use outrigger_core::secret::redact_urls;
use outrigger_lifecycle::{Clock, Moment};
use outrigger_policy::breaker::{Admission, Outcome, Rejection, State};
use outrigger_policy::{Attempts, Failure, GivenUp, Next};
use tracing::{debug, info, warn};

use crate::breakers::{Cell, Cells};
use crate::report::{self, Reason};
use crate::target::{SCOPE, Target};

/// What a breaker protects: `within` tells the breakers of one target apart, the whole is its name in logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key<'k> {
    pub prefix: &'k str,
    pub joint: &'static str,
    pub within: &'k str,
}

impl Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.prefix, self.joint, self.within)
    }
}

/// A call, or a delivery, with its policies.
pub struct Operation<'k> {
    target: Arc<Target>,
    name: Key<'k>,
    cells: [Option<Arc<Cell>>; 2],
    attempts: Attempts,
    number: u32,
    timed_out: bool,
    rejected: AtomicBool,
}

/// An attempt that may be made. Dropping it says that its caller went away.
pub struct Pass {
    target: Arc<Target>,
    admissions: [Option<(Arc<Cell>, Admission)>; 2],
    limit: Option<Moment>,
    state: Option<State>,
    /// The operation's time is what limits this attempt.
    is_last: bool,
    open: bool,
}

/// How an attempt ended.
pub enum Ending<'a> {
    Success,
    Failed(Judged<'a>),
    /// It took longer than the time-out.
    TimedOut,
}

/// What is to be known of a failure.
pub struct Judged<'a> {
    pub failure: Failure,
    /// It says nothing of what the breaker protects.
    pub neutral: bool,
    pub why: &'a dyn Display,
}

/// What follows an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Its outcome goes to the caller.
    Deliver,
    /// Another attempt, not before this moment.
    Retry(Moment),
}

/// The breaker lets no attempt through.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub rejection: Rejection,
    /// When the next call may be let through.
    pub retry_after: Duration,
    /// The last failure that the breaker has seen.
    pub last: Option<String>,
    pub precise: bool,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Dapr: the words of its breaker library, which clients compare.
        f.write_str(match self.rejection {
            Rejection::Open => "circuit breaker is open",
            Rejection::TooMany => "too many requests",
        })
    }
}

impl Refusal {
    /// As the field `Retry-After` tells it.
    pub fn retry_after_seconds(&self) -> u64 {
        self.retry_after.as_millis().div_ceil(1_000).max(1) as u64
    }

    fn reason(&self) -> Reason {
        match self.rejection {
            Rejection::Open => Reason::BreakerOpen,
            Rejection::TooMany => Reason::BreakerHalfOpen,
        }
    }
}

impl<'a> Judged<'a> {
    /// A failure that has no status of the other side.
    pub fn plain(why: &'a dyn Display) -> Self {
        Self {
            failure: Failure::default(),
            neutral: false,
            why,
        }
    }
}

impl<'k> Operation<'k> {
    /// Begins. Nobody waits for it after `deadline`.
    pub fn begin(target: &Arc<Target>, key: Key<'k>, deadline: Option<Moment>) -> Self {
        Self::with_keys(target, [Some(key), None], key, deadline)
    }

    /// The same with a second breaker, which has to let attempts through as well.
    pub fn begin_twice(target: &Arc<Target>, keys: [Key<'k>; 2], deadline: Option<Moment>) -> Self {
        let [first, second] = keys;
        Self::with_keys(target, [Some(first), Some(second)], first, deadline)
    }

    fn with_keys(
        target: &Arc<Target>,
        keys: [Option<Key<'k>>; 2],
        name: Key<'k>,
        deadline: Option<Moment>,
    ) -> Self {
        let now = target.now();
        let own = target.plan.total.map(|total| now + total);
        let deadline = match (own, deadline) {
            (Some(own), Some(other)) => Some(own.min(other)),
            (own, other) => own.or(other),
        };
        target.count_operation();
        target.with_budget(|budget| {
            if let Some(budget) = budget {
                budget.deposit(now);
            }
        });
        let cells = keys.map(|key| {
            let (cells, key) = (target.cells.as_ref()?, key?);
            Some(cells.cell(key.within, now, || redact_urls(&key.to_string())))
        });
        Self {
            target: target.clone(),
            name,
            cells,
            attempts: Attempts::new(now, deadline),
            number: 0,
            timed_out: false,
            rejected: AtomicBool::new(false),
        }
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// The attempt that runs, or ran last: 1 for the first.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether retries tell the other side which attempt they are.
    pub fn marks(&self) -> bool {
        self.number > 1
            && self
                .target
                .plan
                .retry
                .as_ref()
                .is_some_and(|slot| slot.rule.marks)
    }

    /// Begins an attempt.
    ///
    /// # Errors
    /// When the breaker lets none through: that ends the operation.
    pub fn attempt(&mut self) -> Result<Pass, Refusal> {
        let now = self.target.now();
        let mut admissions = [None, None];
        let mut shown = None;
        if let Some(cells) = &self.target.cells {
            for (place, cell) in admissions.iter_mut().zip(&self.cells) {
                let Some(cell) = cell else {
                    continue;
                };
                let admitted = cells.admit(cell, now, |step| {
                    self.target.moved(&cell.name, step, None);
                });
                match admitted {
                    Ok((admission, state)) => {
                        if self.number == 0 {
                            self.target.count_breaker(state);
                        }
                        shown.get_or_insert(state);
                        *place = Some((cell.clone(), admission));
                    }
                    Err(rejection) => {
                        // What the other breaker let through does not happen.
                        give_back(&self.target, &mut admissions, now);
                        return Err(self.refused(cells, cell, rejection, now));
                    }
                }
            }
        }
        self.number += 1;
        let own = self
            .target
            .plan
            .timeout
            .as_ref()
            .map(|slot| now + slot.rule);
        let deadline = self.own_deadline();
        let limit = match (own, deadline) {
            (Some(own), Some(deadline)) => Some(own.min(deadline)),
            (own, deadline) => own.or(deadline),
        };
        Ok(Pass {
            target: self.target.clone(),
            admissions,
            limit,
            state: shown,
            is_last: deadline.is_some_and(|deadline| limit == Some(deadline)),
            open: true,
        })
    }

    /// An attempt could not even be made, for a reason that says nothing of what the breaker protects.
    pub fn unmade(&mut self, judged: &Judged<'_>) -> Step {
        self.number += 1;
        self.target.count_attempt("failure");
        self.after(judged, false, None)
    }

    /// When the operation has to have ended, if its policies bound it.
    fn own_deadline(&self) -> Option<Moment> {
        let deadline = self.attempts.deadline();
        deadline.filter(|_| self.target.plan.total.is_some())
    }

    /// How long an attempt may take.
    pub fn time_left(&self) -> Option<Duration> {
        let own = self.target.plan.timeout.as_ref().map(|slot| slot.rule);
        let total = self
            .own_deadline()
            .map(|deadline| deadline.since(self.target.now()));
        match (own, total) {
            (Some(own), Some(total)) => Some(own.min(total)),
            (own, total) => own.or(total),
        }
    }

    /// Waits for the next attempt's moment.
    pub async fn pause(&self, at: Moment) {
        self.target.environment.clock.until(at).await;
    }

    fn refused(&self, cells: &Cells, cell: &Cell, rejection: Rejection, now: Moment) -> Refusal {
        let state = match rejection {
            Rejection::Open => State::Open,
            Rejection::TooMany => State::HalfOpen,
        };
        // Who waits for the breaker asks often.
        if !self.rejected.swap(true, Ordering::Relaxed) {
            if self.number == 0 {
                self.target.count_breaker(state);
            }
            self.target.count_rejection();
        }
        let refusal = Refusal {
            rejection,
            retry_after: cell.retry_after(&cells.rule, now),
            last: cell.last(),
            precise: self.target.plan.precise,
        };
        report::note(&self.target, |report| {
            report.reason = Some(refusal.reason());
            report.attempts = self.number;
            report.state = Some(state);
            report.retry_after = Some(refusal.retry_after);
            report.last.clone_from(&refusal.last);
        });
        report::event(&self.target, "resiliency.rejected", || {
            vec![
                ("target", self.target.label.clone()),
                ("breaker", cell.name.clone()),
                ("state", state.name().to_owned()),
            ]
        });
        refusal
    }

    /// Takes an attempt's end and says what follows.
    pub fn conclude(&mut self, pass: Pass, ending: Ending<'_>) -> Step {
        let (judged, is_timeout) = match ending {
            Ending::Success => {
                self.succeeded(pass.state, None);
                pass.succeed();
                return Step::Deliver;
            }
            Ending::Failed(judged) => (judged, false),
            Ending::TimedOut => (Judged::plain(&TIMED_OUT), true),
        };
        if is_timeout && !self.timed_out {
            self.timed_out = true;
            self.target.count_timeout();
        }
        let is_last = pass.is_last && is_timeout;
        let state = pass.state;
        pass.fail(&judged);
        if is_last {
            self.gave_up(GivenUp::Deadline, is_timeout, &judged, state);
            return Step::Deliver;
        }
        self.after(&judged, is_timeout, state)
    }

    /// The attempt goes on after what the operation waited for has come: its end is told to the pass.
    pub fn hold(&mut self, pass: Pass) -> Pass {
        self.succeeded(pass.state, Some("head"));
        pass
    }

    fn succeeded(&self, state: Option<State>, until: Option<&'static str>) {
        self.trace("success", state, until.unwrap_or_default(), None);
        report::note(&self.target, |report| {
            report.reason = None;
            report.attempts = self.number;
            report.state = state;
        });
        if self.number > 1 {
            tell_recovery(&self.name(), self.number);
        }
    }

    fn after(&mut self, judged: &Judged<'_>, is_timeout: bool, state: Option<State>) -> Step {
        let target = self.target.clone();
        let Some(slot) = &target.plan.retry else {
            self.gave_up(GivenUp::NoRetry, is_timeout, judged, state);
            return Step::Deliver;
        };
        let now = target.now();
        let dice = (target.environment.dice)();
        let next = target.with_budget(|budget| {
            self.attempts
                .after(&slot.rule.retry, budget, &judged.failure, now, dice)
        });
        match next {
            Next::GiveUp(why) => {
                self.gave_up(why, is_timeout, judged, state);
                Step::Deliver
            }
            Next::Retry { at, pause } => {
                self.trace("failure", state, &cause(judged.why), Some(pause));
                target.count_delay(pause);
                if self.attempts.retries() == 1 {
                    target.count_first_retry();
                    tell_retry(&self.name(), pause);
                }
                debug!(target: SCOPE, "Error for operation {} was: {}", self.name(), cause(judged.why));
                Step::Retry(at)
            }
        }
    }

    fn gave_up(&self, why: GivenUp, is_timeout: bool, judged: &Judged<'_>, state: Option<State>) {
        self.trace("failure", state, &cause(judged.why), None);
        let reason = match why {
            _ if is_timeout => Some(Reason::Timeout),
            GivenUp::NoRetry | GivenUp::Permanent | GivenUp::NotMatched => None,
            GivenUp::Budget => Some(Reason::BudgetExhausted),
            GivenUp::Exhausted | GivenUp::TimeSpent | GivenUp::Deadline | GivenUp::Pushback => {
                Some(Reason::RetriesExhausted)
            }
        };
        report::note(&self.target, |report| {
            report.reason = reason;
            report.attempts = self.number;
            report.state = state;
        });
        let now = self.target.now();
        if self.attempts.retries() > 0 && self.target.may_warn(now) {
            let elapsed = now.since(self.attempts.began());
            warn!(
                target: SCOPE,
                attempts = self.number,
                elapsed = outrigger_core::duration::format_go(Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))),
                err = cause(judged.why),
                "Gave up on {}",
                self.name()
            );
        }
    }

    fn name(&self) -> String {
        self.target.operation(self.name)
    }

    fn trace(
        &self,
        outcome: &'static str,
        state: Option<State>,
        why: &str,
        pause: Option<Duration>,
    ) {
        report::event(&self.target, "resiliency.attempt", || {
            let mut attributes = vec![
                ("target", self.target.label.clone()),
                ("attempt", self.number.to_string()),
                ("outcome", outcome.to_owned()),
            ];
            if !why.is_empty() {
                attributes.push(("detail", why.to_owned()));
            }
            if let Some(pause) = pause {
                attributes.push(("delay", outrigger_core::duration::format_go(pause)));
            }
            if let Some(state) = state {
                attributes.push(("breaker", state.name().to_owned()));
            }
            attributes
        });
    }
}

/// A failure as others may see it: addresses of one caller are nobody else's business.
fn cause(why: &dyn Display) -> String {
    let text = why.to_string();
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(place) = rest.find("://") {
        let (before, after) = rest.split_at(place);
        clean.push_str(before);
        clean.push_str("://");
        let after = after.get(3..).unwrap_or_default();
        let authority = after.find(['/', '?', '#', '"', ' ']).unwrap_or(after.len());
        let (host, tail) = after.split_at(authority);
        clean.push_str(host.rsplit('@').next().unwrap_or_default());
        let end = tail.find(['"', ' ']).unwrap_or(tail.len());
        rest = tail.get(end..).unwrap_or_default();
    }
    clean.push_str(rest);
    clean
}

/// What is told of an attempt that ran out of time.
static TIMED_OUT: &str = "context deadline exceeded";

fn give_back(target: &Target, admissions: &mut [Option<(Arc<Cell>, Admission)>; 2], now: Moment) {
    record(target, admissions, Outcome::Cancelled, now, None);
}

fn record(
    target: &Target,
    admissions: &mut [Option<(Arc<Cell>, Admission)>; 2],
    outcome: Outcome,
    now: Moment,
    why: Option<&str>,
) {
    let Some(cells) = &target.cells else {
        return;
    };
    for place in admissions {
        if let Some((cell, admission)) = place.take() {
            let broken = cells.record(&cell, admission, outcome, now, why, |step| {
                target.moved(&cell.name, step, why);
            });
            if let Some(broken) = broken {
                target.tell_broken(&broken);
            }
        }
    }
}

impl Pass {
    /// When the attempt has to have ended.
    pub fn limit(&self) -> Option<Moment> {
        self.limit
    }

    pub fn clock(&self) -> Clock {
        self.target.environment.clock
    }

    /// Whether anything is left to be told to it.
    pub fn is_idle(&self) -> bool {
        self.limit.is_none() && self.admissions.iter().all(Option::is_none)
    }

    /// The attempt is no longer bounded in time.
    pub fn unlimited(mut self) -> Self {
        self.limit = None;
        self
    }

    pub fn succeed(mut self) {
        self.open = false;
        self.target.count_attempt("success");
        self.record(Outcome::Success, None);
    }

    /// The attempt failed after its operation had ended.
    pub fn fail_late(self, why: &str) {
        self.fail(&Judged::plain(&why));
    }

    /// The attempt ran out of time after its operation had ended.
    pub fn time_out_late(self) {
        self.target.count_timeout();
        report::note(&self.target, |report| report.reason = Some(Reason::Timeout));
        self.fail(&Judged::plain(&TIMED_OUT));
    }

    fn fail(mut self, judged: &Judged<'_>) {
        self.open = false;
        self.target.count_attempt("failure");
        if self.admissions.iter().all(Option::is_none) {
            return;
        }
        if judged.neutral {
            self.record(Outcome::Cancelled, None);
            return;
        }
        let counts = self
            .target
            .plan
            .breaker
            .as_ref()
            .is_none_or(|slot| slot.rule.counts(judged.failure.code));
        if counts {
            self.record(Outcome::Failure, Some(&cause(judged.why)));
        } else {
            self.record(Outcome::Success, None);
        }
    }

    fn record(&mut self, outcome: Outcome, why: Option<&str>) {
        let now = self.target.now();
        record(&self.target, &mut self.admissions, outcome, now, why);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.open {
            self.target.count_attempt("cancelled");
            self.record(Outcome::Cancelled, None);
        }
    }
}

/// The first retry of an operation, in the words of Dapr.
pub fn tell_retry(operation: &str, pause: Duration) {
    let pause = outrigger_core::duration::format_go(pause);
    warn!(target: SCOPE, "Error processing operation {operation}. Retrying in {pause}…");
}

/// An operation that succeeded after all.
pub fn tell_recovery(operation: &str, attempts: u32) {
    info!(target: SCOPE, "Recovered processing operation {operation} after {attempts} attempts");
}

/// Runs an attempt until its limit; `None` when that came first. Without a pass, or a limit, it takes what it takes.
/// The attempt is pinned by the caller, because a future that is handed on by value is there twice.
pub async fn limited<F: Future>(
    pass: Option<&Pass>,
    mut attempt: Pin<&mut F>,
) -> Option<F::Output> {
    let limit = pass.and_then(|pass| Some((pass.limit?, pass.clock())));
    let mut alarm =
        pin!(limit.map(|(limit, clock)| { tokio::time::sleep(limit.since(clock.now())) }));
    poll_fn(|context| {
        if let Poll::Ready(output) = attempt.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        match alarm.as_mut().as_pin_mut() {
            Some(alarm) => alarm.poll(context).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_others_nothing_of_its_callers_address() {
        for (said, shown) in [
            (
                "Get \"http://u:p@h:1/a/user-42?token=x\": EOF",
                "Get \"http://h:1\": EOF",
            ),
            ("https://h?q then http://o/p#f", "https://h then http://o"),
            ("no address", "no address"),
            ("://", "://"),
        ] {
            assert_eq!(cause(&said), shown);
        }
    }
}
