//! One place through which every call to a component goes: waiting for it, its policies, measuring it, doubting its
//! connection.
//!
//! Order: the instance (bounded wait), the breaker, the call within its time, what follows; then the metrics. A component
//! that is not ready is no failure of what the breaker protects, so it is asked about first.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_component_api::{ComponentError, Kind};
use outrigger_core::ApiError;
use outrigger_policy::Code;
use outrigger_resiliency::{
    ComponentKind, Ending, Flow, Judged, Key, Operation, Refusal, Resiliency, Step, Target, limited,
};
use outrigger_telemetry::Metrics;

use crate::component::{Handle, Instance};
use crate::errors::policy as told;
use crate::waiting::Patience;

/// What every building block needs to call components.
#[derive(Clone, Debug)]
pub struct Guard {
    pub metrics: Arc<Metrics>,
    pub patience: Patience,
    pub resiliency: Arc<Resiliency>,
}

/// Why a call did not succeed.
#[derive(Clone, Debug)]
pub enum Failed {
    /// The component was not asked, or its connection broke: the caller is told this.
    Unavailable(Box<ApiError>),
    /// The call is not to be made at all: the caller is told this.
    Refused(Box<ApiError>),
    /// The component answered with an error; the building block has words for it.
    Component(ComponentError),
}

impl Failed {
    /// The answer to the caller, with the building block's words for a component's own error.
    pub fn told(self, words: impl FnOnce(&ComponentError) -> ApiError) -> ApiError {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => *error,
            Self::Component(error) => words(&error),
        }
    }

    /// The breaker lets no call through.
    pub(crate) fn rejected(refusal: &Refusal) -> Self {
        if refusal.precise {
            Self::Refused(Box::new(told::circuit_open(refusal)))
        } else {
            Self::Component(ComponentError::failed(refusal.to_string()))
        }
    }

    /// The call took longer than its policy allows.
    pub(crate) fn timed_out(target: &Target) -> Self {
        if target.is_precise() {
            Self::Refused(Box::new(told::timed_out()))
        } else {
            out_of_time()
        }
    }

    /// What policies make of it; `codes` finds the status that retries are matched on.
    fn ending(&self, codes: Codes) -> Ending<'_> {
        match self {
            Self::Unavailable(error) => Ending::Failed(Judged {
                neutral: true,
                ..Judged::plain(&error.message)
            }),
            // An entity tag that does not fit is an answer, and the same one the next time.
            Self::Component(error) if error.is_etag() => Ending::Success,
            Self::Refused(_) => Ending::Success,
            Self::Component(error) => Ending::Failed(Judged {
                failure: outrigger_policy::Failure {
                    code: codes(error),
                    ..Default::default()
                },
                ..Judged::plain(&error.message)
            }),
        }
    }
}

/// Finds the status that retries are matched on; for most building blocks there is none.
pub type Codes = fn(&ComponentError) -> Option<Code>;

impl From<ComponentError> for Failed {
    fn from(error: ComponentError) -> Self {
        Self::Component(error)
    }
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Refused(Box::new(error))
    }
}

/// The kind of a component, as policies name it; none apply to name resolution.
fn policy_kind(kind: Kind) -> Option<ComponentKind> {
    match kind {
        Kind::State => Some(ComponentKind::Statestore),
        Kind::PubSub => Some(ComponentKind::Pubsub),
        Kind::Secrets => Some(ComponentKind::Secretstore),
        Kind::Names => None,
    }
}

impl Guard {
    /// The instance of a component, waiting for it where that makes sense.
    ///
    /// # Errors
    /// What the caller is to be told.
    pub async fn ready<T: ?Sized>(
        &self,
        handle: &Arc<Handle<T>>,
    ) -> Result<Arc<Instance<T>>, ApiError> {
        self.ready_within(handle, None).await
    }

    async fn ready_within<T: ?Sized>(
        &self,
        handle: &Arc<Handle<T>>,
        limit: Option<Duration>,
    ) -> Result<Arc<Instance<T>>, ApiError> {
        if let Some(instance) = handle.instance() {
            return Ok(instance);
        }
        let patience = self.patience.of_caller().wait;
        let wait = limit.map_or(patience, |limit| limit.min(patience));
        let ready = handle.ready(Patience { wait }).await;
        if let Err(error) = &ready {
            handle.refuse();
            self.metrics
                .component_rejected_calls
                .add([handle.name.as_str(), &error.tag], 1);
        }
        ready
    }

    /// Whether calls of a component may be made more than once.
    pub fn repeats<T: ?Sized>(&self, handle: &Arc<Handle<T>>) -> bool {
        self.outbound(handle).is_some_and(|target| target.retries())
    }

    /// The policies of calls to a component; nothing where there are none.
    fn outbound<T: ?Sized>(&self, handle: &Arc<Handle<T>>) -> Option<Arc<Target>> {
        if self.resiliency.is_empty() {
            return None;
        }
        let kind = policy_kind(handle.kind)?;
        self.resiliency
            .component(handle.name.as_str(), kind, Flow::Outbound)
    }

    /// Calls a component under its policies and records the outcome under `operation`. `call` may be asked more than once,
    /// each time with the instance that serves then.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn call<T, R, F, A>(
        &self,
        handle: &Arc<Handle<T>>,
        operation: &'static str,
        call: F,
    ) -> Result<R, Failed>
    where
        T: ?Sized,
        F: FnMut(Arc<Instance<T>>) -> A,
        A: Future<Output = Result<R, Failed>>,
    {
        let started = Instant::now();
        let outcome = self.run(handle, |_| None, call).await;
        // Who was not asked is not measured.
        if !matches!(outcome, Err(Failed::Unavailable(_) | Failed::Refused(_))) {
            self.record(handle, operation, outcome.is_ok(), started.elapsed());
        }
        outcome
    }

    /// Calls a component under its policies.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn run<T, R, F, A>(
        &self,
        handle: &Arc<Handle<T>>,
        codes: Codes,
        mut call: F,
    ) -> Result<R, Failed>
    where
        T: ?Sized,
        F: FnMut(Arc<Instance<T>>) -> A,
        A: Future<Output = Result<R, Failed>>,
    {
        let name = handle.name.as_str();
        let target = self.outbound(handle);
        // With policies or without, the call stands here once: its future is large.
        let mut operation = target
            .as_ref()
            .map(|target| Operation::begin(target, component_key(target, name), None));
        loop {
            let time = operation.as_ref().and_then(Operation::time_left);
            let ready = self.ready_within(handle, time).await;
            let (outcome, step) = match (ready, &mut operation) {
                (Err(error), None) => return Err(unavailable(error)),
                (Err(error), Some(operation)) => {
                    let failed = unavailable(error);
                    let step = match failed.ending(codes) {
                        Ending::Failed(judged) => operation.unmade(&judged),
                        Ending::Success | Ending::TimedOut => Step::Deliver,
                    };
                    (Err(failed), step)
                }
                (Ok(instance), operation) => {
                    let pass = operation.as_mut().map(Operation::attempt).transpose();
                    let pass = pass.map_err(|refusal| Failed::rejected(&refusal))?;
                    let outcome = limited(pass.as_ref(), pin!(call(instance))).await;
                    let outcome = outcome.map(|outcome| self.judged(handle, outcome));
                    if outcome.is_none() {
                        // Whoever does not answer in time may not be there any more.
                        handle.suspect();
                    }
                    let (Some(operation), Some(pass)) = (operation, pass) else {
                        return outcome.unwrap_or_else(|| Err(out_of_time()));
                    };
                    let ending = match &outcome {
                        None => Ending::TimedOut,
                        Some(Ok(_)) => Ending::Success,
                        Some(Err(failed)) => failed.ending(codes),
                    };
                    let step = operation.conclude(pass, ending);
                    let late = || Err(Failed::timed_out(operation.target()));
                    (outcome.unwrap_or_else(late), step)
                }
            };
            match (step, &operation) {
                (Step::Retry(at), Some(operation)) => operation.pause(at).await,
                _ => return outcome,
            }
        }
    }

    /// What an outcome says of the connection.
    fn judged<T: ?Sized, R>(
        &self,
        handle: &Arc<Handle<T>>,
        outcome: Result<R, Failed>,
    ) -> Result<R, Failed> {
        match outcome {
            Ok(value) => {
                handle.used();
                Ok(value)
            }
            Err(Failed::Component(error)) => Err(self.judge(handle, error)),
            other => other,
        }
    }

    /// What an error of a component means for its connection and for the caller.
    pub fn judge<T: ?Sized>(&self, handle: &Arc<Handle<T>>, error: ComponentError) -> Failed {
        if error.doubts_connection() {
            handle.suspect();
            Failed::Unavailable(Box::new(handle.lost(&error)))
        } else {
            Failed::Component(error)
        }
    }

    fn record<T: ?Sized>(
        &self,
        handle: &Handle<T>,
        operation: &'static str,
        success: bool,
        elapsed: Duration,
    ) {
        if !self.metrics.settings.enabled {
            return;
        }
        let success = if success { "true" } else { "false" };
        let labels = [
            handle.name.as_str(),
            self.metrics.settings.namespace.as_str(),
            operation,
            success,
        ];
        let millis = whole_millis(elapsed);
        match handle.kind {
            Kind::State => {
                self.metrics.state_count.add(labels, 1);
                self.metrics.state_latencies.observe(labels, millis);
            }
            Kind::Secrets => {
                self.metrics.secret_count.add(labels, 1);
                self.metrics.secret_latencies.observe(labels, millis);
            }
            // These record topics and apps, which are known further out.
            Kind::PubSub | Kind::Names => {}
        }
    }
}

/// Of a component's breaker: it has one for each direction.
pub(crate) fn component_key<'k>(target: &'k Target, name: &'k str) -> Key<'k> {
    let breaker = target.plan().breaker.as_ref();
    Key {
        prefix: breaker.map_or("", |slot| &slot.name),
        joint: "-",
        within: name,
    }
}

fn out_of_time() -> Failed {
    Failed::Component(ComponentError::failed(told::TIMED_OUT))
}

fn unavailable(error: ApiError) -> Failed {
    Failed::Unavailable(Box::new(error))
}

/// Latencies are recorded in whole milliseconds, as Dapr does; most calls count as zero.
pub fn whole_millis(elapsed: Duration) -> f64 {
    elapsed.as_millis() as f64
}
