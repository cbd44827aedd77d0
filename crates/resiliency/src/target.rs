//! A target with everything that lives beside its policies: breakers, budget, numbers.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use outrigger_core::secret::redact_urls;
use outrigger_lifecycle::Clock;
use outrigger_policy::breaker::{State, Transition};
use outrigger_policy::{Budget, Moment};
use outrigger_telemetry::Count;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::journal::{Kind, Told};
use tokio::sync::watch;
use tracing::{error, info};

use crate::breakers::Cells;
use crate::plan::{Flow, Plan, Source};

/// Under which resiliency speaks in logs.
pub(crate) const SCOPE: &str = "dapr.runtime.resiliency";
/// A half-open state is shown for as long.
const SEEN: Duration = Duration::from_secs(1);
/// Two warnings about exhausted retries of one target lie this far apart at least.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What everything needs that runs operations.
pub(crate) struct Environment {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub dice: fn() -> f64,
    /// Grows when policies change or breakers are closed by hand: who waits for a breaker looks again.
    pub changes: watch::Sender<u64>,
}

/// What is called, or what delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    App(String),
    Actor(String),
    Component(String),
}

/// One target.
pub struct Target {
    pub(crate) plan: Plan,
    pub(crate) subject: Subject,
    pub(crate) flow: Flow,
    pub(crate) label: String,
    pub(crate) cells: Option<Arc<Cells>>,
    budget: Option<Mutex<Budget>>,
    pub(crate) environment: Arc<Environment>,
    counts: Counts,
    /// When exhausted retries were last told, in nanoseconds from the start; 0: never.
    warned: AtomicU64,
    shown: Mutex<Shown>,
}

/// What the gauge shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shown {
    state: Option<State>,
    /// A half-open state that is over is shown until then: it lasts too short a time to be seen otherwise.
    until: Moment,
}

/// Series that are recorded for every call.
#[derive(Default)]
struct Counts {
    timeout: OnceLock<Count>,
    retry: OnceLock<Count>,
    closed: OnceLock<Count>,
    attempts: OnceLock<Count>,
}

impl Target {
    pub(crate) fn new(
        plan: Plan,
        subject: Subject,
        flow: Flow,
        label: String,
        cells: Option<Arc<Cells>>,
        environment: Arc<Environment>,
    ) -> Self {
        let now = environment.clock.now();
        let budget = plan
            .budget
            .filter(|_| plan.retry.is_some())
            .map(|allowance| Mutex::new(Budget::new(allowance, now)));
        Self {
            plan,
            subject,
            flow,
            label,
            cells,
            budget,
            environment,
            counts: Counts::default(),
            warned: AtomicU64::new(0),
            shown: Mutex::new(Shown {
                state: None,
                until: Moment::START,
            }),
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// As it stands in metrics: `app_a`, `Statestore_s`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether a call may be made more than once.
    pub fn retries(&self) -> bool {
        self.plan.retries()
    }

    /// Rejections and time-outs have statuses of their own.
    pub fn is_precise(&self) -> bool {
        self.plan.precise
    }

    pub(crate) fn now(&self) -> Moment {
        self.environment.clock.now()
    }

    /// The name of an operation in logs.
    pub(crate) fn operation(&self, key: crate::Key<'_>) -> String {
        match (&self.subject, self.flow) {
            (Subject::App(app), _) => redact_urls(&format!("endpoint[{app}, {key}]")),
            (Subject::Actor(actor), _) => format!("actor[{actor}, {key}]"),
            (Subject::Component(name), Flow::Outbound) => format!("component[{name}] output"),
            (Subject::Component(name), Flow::Inbound) => format!("component[{name}] input"),
        }
    }

    pub(crate) fn with_budget<R>(&self, ask: impl FnOnce(Option<&mut Budget>) -> R) -> R {
        match &self.budget {
            None => ask(None),
            Some(budget) => {
                let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
                ask(Some(&mut budget))
            }
        }
    }

    fn measures(&self) -> bool {
        self.environment.metrics.settings.enabled
    }

    fn labels<'a>(
        &'a self,
        source: &'a Source,
        policy: &'static str,
        status: &'static str,
    ) -> [&'a str; 6] {
        [
            &source.resource,
            &source.namespace,
            policy,
            self.flow.name(),
            &self.label,
            status,
        ]
    }

    /// An operation begins.
    pub(crate) fn count_operation(&self) {
        if !self.measures() {
            return;
        }
        let metrics = &self.environment.metrics;
        if let Some(slot) = &self.plan.timeout {
            let series = || {
                metrics
                    .resiliency_count
                    .series(self.labels(&slot.source, "timeout", ""))
            };
            self.counts.timeout.get_or_init(series).add(1);
        }
        if let Some(slot) = &self.plan.retry {
            let series = || {
                metrics
                    .resiliency_count
                    .series(self.labels(&slot.source, "retry", ""))
            };
            self.counts.retry.get_or_init(series).add(1);
        }
    }

    /// A breaker was looked at for an operation.
    pub(crate) fn count_breaker(&self, state: State) {
        let Some(slot) = self.plan.breaker.as_ref().filter(|_| self.measures()) else {
            return;
        };
        let labels = self.labels(&slot.source, "circuitbreaker", state.name());
        let count = &self.environment.metrics.resiliency_count;
        self.show_state();
        if state == State::Closed {
            let series = || count.series(labels);
            self.counts.closed.get_or_init(series).add(1);
        } else {
            count.add(labels, 1);
        }
    }

    pub(crate) fn count_timeout(&self) {
        if let Some(slot) = self.plan.timeout.as_ref().filter(|_| self.measures()) {
            let labels = self.labels(&slot.source, "timeout", "");
            self.environment
                .metrics
                .resiliency_activations
                .add(labels, 1);
        }
    }

    pub(crate) fn count_first_retry(&self) {
        if let Some(slot) = self.plan.retry.as_ref().filter(|_| self.measures()) {
            let labels = self.labels(&slot.source, "retry", "");
            self.environment
                .metrics
                .resiliency_activations
                .add(labels, 1);
        }
    }

    /// An attempt has ended; `outcome` is one of a few words.
    pub(crate) fn count_attempt(&self, outcome: &'static str) {
        if !self.measures() {
            return;
        }
        let metrics = &self.environment.metrics;
        let policy = if self.plan.retry.is_some() {
            "retry"
        } else if self.plan.breaker.is_some() {
            "circuitbreaker"
        } else {
            "timeout"
        };
        let labels = [self.label.as_str(), policy, outcome];
        if outcome == "success" {
            let series = || metrics.policy_attempts.series(labels);
            self.counts.attempts.get_or_init(series).add(1);
        } else {
            metrics.policy_attempts.add(labels, 1);
        }
    }

    pub(crate) fn count_delay(&self, pause: Duration) {
        if self.measures() {
            self.environment
                .metrics
                .policy_retry_delay
                .observe([&self.label], pause.as_secs_f64());
        }
    }

    pub(crate) fn count_rejection(&self) {
        if self.measures() {
            self.environment
                .metrics
                .policy_rejections
                .add([&self.label], 1);
        }
    }

    /// A breaker has moved: one line, and the numbers.
    pub(crate) fn moved(&self, name: &str, step: Transition, why: Option<&str>) {
        let (from, to) = (step.from.name(), step.to.name());
        info!(
            target: SCOPE,
            cause = step.cause.name(),
            target_name = self.label,
            last_error = why.unwrap_or_default(),
            "Circuit breaker {name:?} changed state from {from} to {to}"
        );
        let journal = &self.environment.metrics.journal;
        let subject = format!("{} {name}", self.label);
        journal.change(
            Kind::Breaker,
            &subject,
            to,
            Told {
                cause: why.or_else(|| Some(step.cause.name())),
                ..Told::default()
            },
        );
        let Some(slot) = self.plan.breaker.as_ref().filter(|_| self.measures()) else {
            return;
        };
        let labels = self.labels(&slot.source, "circuitbreaker", to);
        self.environment
            .metrics
            .resiliency_activations
            .add(labels, 1);
        if let Some(cells) = &self.cells {
            self.show_counts(cells.census());
        }
        if step.from == State::HalfOpen && step.to == State::Closed {
            self.lock_shown().until = self.now() + SEEN;
        } else {
            self.show_state();
        }
    }

    fn lock_shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody reads the gauges.
    pub(crate) fn refresh(&self) {
        let now = self.now();
        let shown = *self.lock_shown();
        let Some(cells) = self.cells.as_ref().filter(|_| shown.state.is_some()) else {
            return;
        };
        let census = cells.census_at(now);
        if shown.until <= now {
            let [_, half_open, open] = census;
            self.show(match (open, half_open) {
                (0, 0) => State::Closed,
                (0, _) => State::HalfOpen,
                _ => State::Open,
            });
        }
        // Last, for a changed state shows what is stored, not what has come of it with time.
        self.show_counts(census);
    }

    /// Its policy is gone: no gauge shows it any more.
    pub(crate) fn hide(&self) {
        let Some(slot) = self.plan.breaker.as_ref() else {
            return;
        };
        if self.lock_shown().state.take().is_none() {
            return;
        }
        let gauge = &self.environment.metrics.resiliency_cb_state;
        for state in ["closed", "half-open", "open", "unknown"] {
            gauge.set(self.labels(&slot.source, "circuitbreaker", state), 0.0);
        }
        self.show_counts([0; 3]);
    }

    /// The gauge of the state that matters most.
    pub(crate) fn show_state(&self) {
        if let Some(cells) = &self.cells {
            self.show(cells.worst());
        }
    }

    fn show(&self, worst: State) {
        let (Some(slot), Some(cells)) = (&self.plan.breaker, &self.cells) else {
            return;
        };
        let mut shown = self.lock_shown();
        if shown.state == Some(worst) {
            return;
        }
        shown.state = Some(worst);
        let gauge = &self.environment.metrics.resiliency_cb_state;
        for state in ["closed", "half-open", "open", "unknown"] {
            gauge.set(
                self.labels(&slot.source, "circuitbreaker", state),
                f64::from(u8::from(state == worst.name())),
            );
        }
        drop(shown);
        self.show_counts(cells.census());
    }

    /// How many breakers are in which state.
    fn show_counts(&self, census: [usize; 3]) {
        let metrics = &self.environment.metrics;
        for (state, count) in State::ALL.into_iter().zip(census) {
            metrics
                .policy_breakers
                .set([self.label.as_str(), state.name()], count as f64);
        }
    }

    /// An expression failed where it was needed.
    pub(crate) fn tell_broken(&self, why: &str) {
        if let Some(slot) = &self.plan.breaker {
            error!(
                target: SCOPE,
                resource = slot.source.resource,
                policy = &*slot.name,
                trip = slot.rule.trip.text(),
                err = why,
                "the expression of a circuit breaker fails, so that it never opens"
            );
        }
    }

    /// Whether exhausted retries may be told again.
    pub(crate) fn may_warn(&self, now: Moment) -> bool {
        let now = u64::try_from(now.distance_from_start().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let every = u64::try_from(WARN_EVERY.as_nanos()).unwrap_or(u64::MAX);
        let renew = |last: u64| (last == 0 || now.saturating_sub(last) >= every).then_some(now);
        self.warned
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, renew)
            .is_ok()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.label)
    }
}
