//! What the caller and the trace of a request are told of the policies under which it ran.
//!
//! The operation writes into a slip that belongs to the request's task; who serves the request collects it. Between the
//! two lie building blocks and channels that need not know of it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};
use outrigger_policy::breaker::State;

use crate::target::Target;

tokio::task_local! {
    static SLIP: Slip;
}

/// The field that tells a caller of policies.
pub const FIELD: HeaderName = HeaderName::from_static("outrigger-resiliency");
/// The field that tells a rejected caller what failed before it.
pub const LAST_ERROR: HeaderName = HeaderName::from_static("outrigger-last-error");
/// The longest text in a field.
const LONGEST: usize = 512;

struct Slip {
    wish: Wish,
    report: RefCell<Option<Box<Report>>>,
}

/// What who serves a request wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    /// Events, for a trace.
    pub events: bool,
    /// The field on every answer, with everything that is known.
    pub full: bool,
}

/// Why a call failed, as far as policies have to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    BreakerOpen,
    BreakerHalfOpen,
    Timeout,
    RetriesExhausted,
    BudgetExhausted,
    BodyNotBuffered,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker-open",
            Self::BreakerHalfOpen => "breaker-half-open",
            Self::Timeout => "timeout",
            Self::RetriesExhausted => "retries-exhausted",
            Self::BudgetExhausted => "budget-exhausted",
            Self::BodyNotBuffered => "body-not-buffered",
        }
    }
}

/// How an operation ran.
#[derive(Clone, Debug)]
pub struct Report {
    pub target: Arc<Target>,
    /// Set for a failure that policies have to do with.
    pub reason: Option<Reason>,
    pub attempts: u32,
    /// Of the breaker, when the operation ended.
    pub state: Option<State>,
    /// When a rejected call is worth another try.
    pub retry_after: Option<Duration>,
    /// The last failure that the breaker has seen, of a rejected call.
    pub last: Option<String>,
    /// For the trace.
    pub events: Vec<Event>,
}

/// Something that happened on the way.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: SystemTime,
    pub name: &'static str,
    pub attributes: Vec<(&'static str, String)>,
}

/// More events than this of one request are not kept.
const EVENTS: usize = 64;

impl Report {
    pub(crate) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            reason: None,
            attempts: 0,
            state: None,
            retry_after: None,
            last: None,
            events: Vec::new(),
        }
    }

    /// The fields of an answer; `failed` where it is one that policies may have to do with.
    pub fn fields(&self, full: bool, failed: bool) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = Vec::new();
        if !failed && !full {
            return fields;
        }
        let told = self.field(full);
        if let Some(value) = told.and_then(|text| HeaderValue::try_from(text).ok()) {
            fields.push((FIELD, value));
        }
        let Some(wait) = self.retry_after.filter(|_| failed) else {
            return fields;
        };
        let seconds = u64::try_from(wait.as_millis().div_ceil(1_000).max(1)).unwrap_or(u64::MAX);
        fields.push((RETRY_AFTER, HeaderValue::from(seconds)));
        if let Some(last) = &self.last {
            let clean = last.chars().filter(|c| (' '..='~').contains(c));
            let text: String = clean.take(LONGEST).collect();
            fields.extend(
                HeaderValue::try_from(text)
                    .ok()
                    .map(|value| (LAST_ERROR, value)),
            );
        }
        fields
    }

    /// The value of the field `outrigger-resiliency`: of failures with a reason, or with everything that is known.
    pub fn field(&self, full: bool) -> Option<String> {
        if !full {
            let reason = self.reason?.name();
            return Some(format!("{reason}; attempts={}", self.attempts));
        }
        let mut text = format!(
            "{}; attempts={}",
            self.reason.map_or("none", Reason::name),
            self.attempts
        );
        let plan = self.target.plan();
        if let Some(retry) = &plan.retry {
            match retry.rule.retry.max_retries {
                Some(max) => write!(text, "/{}; retry={}", u64::from(max) + 1, retry.name).ok(),
                None => write!(text, "; retry={}", retry.name).ok(),
            };
        }
        if let Some(timeout) = &plan.timeout {
            write!(text, "; timeout={}", timeout.name).ok();
        }
        if let Some(breaker) = &plan.breaker {
            write!(text, "; breaker={}", breaker.name).ok();
            if let Some(state) = self.state {
                write!(text, "; state={}", state.name()).ok();
            }
        }
        write!(text, "; target={}", self.target.label()).ok();
        Some(text)
    }
}

/// Runs what serves a request; with it comes what policies have to say, if any applied.
/// It is pinned by the caller, because a future that is handed on by value is there twice.
pub async fn collected<F: Future>(
    wish: Wish,
    serving: Pin<&mut F>,
) -> (F::Output, Option<Box<Report>>) {
    let slip = Slip {
        wish,
        report: RefCell::new(None),
    };
    SLIP.scope(slip, async {
        let output = serving.await;
        let report = SLIP.with(|slip| slip.report.borrow_mut().take());
        (output, report)
    })
    .await
}

/// Whether somebody traces the request that is being served.
pub(crate) fn is_traced() -> bool {
    SLIP.try_with(|slip| slip.wish.events).unwrap_or(false)
}

/// The fields for the request that is being served, as far as they are known by now.
pub fn fields(failed: bool) -> Vec<(HeaderName, HeaderValue)> {
    let fields = |slip: &Slip| {
        let report = slip.report.borrow();
        let report = report.as_ref();
        report.map(|report| report.fields(slip.wish.full, failed))
    };
    SLIP.try_with(fields).ok().flatten().unwrap_or_default()
}

/// Adds to the report of the request that is being served; nothing happens where nobody collects it.
pub(crate) fn note(target: &Arc<Target>, change: impl FnOnce(&mut Report)) {
    SLIP.try_with(|slip| {
        let mut report = slip.report.borrow_mut();
        let report = report.get_or_insert_with(|| Box::new(Report::new(target.clone())));
        if !Arc::ptr_eq(&report.target, target) {
            report.target = target.clone();
        }
        change(report);
    })
    .ok();
}

pub(crate) fn event(
    target: &Arc<Target>,
    name: &'static str,
    attributes: impl FnOnce() -> Vec<(&'static str, String)>,
) {
    if !is_traced() {
        return;
    }
    note(target, |report| {
        if report.events.len() < EVENTS {
            report.events.push(Event {
                at: SystemTime::now(),
                name,
                attributes: attributes(),
            });
        }
    });
}

/// The request's body was too long, or of unknown length, so that it was sent once and cannot be sent again.
pub fn body_not_buffered(target: &Arc<Target>) {
    note(target, |report| {
        report.reason.get_or_insert(Reason::BodyNotBuffered);
    });
}
