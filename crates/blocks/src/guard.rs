//! One place through which every call to a component goes: waiting for it, measuring it, doubting its connection.
//!
//! Order: the instance (bounded wait), the call, the metrics, the consequences of a broken connection. Policies take their
//! place around the call.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_component_api::{ComponentError, Kind};
use outrigger_core::ApiError;
use outrigger_telemetry::Metrics;

use crate::component::{Handle, Instance, Patience};

/// What every building block needs to call components.
#[derive(Clone, Debug)]
pub struct Guard {
    pub metrics: Arc<Metrics>,
    pub patience: Patience,
}

/// Why a call did not succeed.
#[derive(Debug)]
pub enum Failed {
    /// The component was not asked, or its connection broke: the caller is told this.
    Unavailable(Box<ApiError>),
    /// The component answered with an error; the building block has words for it.
    Component(ComponentError),
}

impl Failed {
    /// The answer to the caller, with the building block's words for a component's own error.
    pub fn told(self, words: impl FnOnce(&ComponentError) -> ApiError) -> ApiError {
        match self {
            Self::Unavailable(error) => *error,
            Self::Component(error) => words(&error),
        }
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
        let ready = handle.ready(self.patience).await;
        if let Err(error) = &ready {
            self.metrics
                .component_rejected_calls
                .add([handle.info.name.as_str(), &error.tag], 1);
            self.metrics.error(&error.tag, error.category);
        }
        ready
    }

    /// Calls a component and records the outcome under `operation`.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn call<T, R, F>(
        &self,
        handle: &Arc<Handle<T>>,
        operation: &'static str,
        call: F,
    ) -> Result<R, Failed>
    where
        T: ?Sized,
        F: Future<Output = Result<R, ComponentError>>,
    {
        let started = Instant::now();
        let outcome = call.await;
        self.record(handle, operation, outcome.is_ok(), started.elapsed());
        outcome
            .map_err(|error| self.judge(handle, error))
            .inspect(|_| handle.used())
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
            handle.info.name.as_str(),
            self.metrics.settings.namespace.as_str(),
            operation,
            success,
        ];
        let millis = whole_millis(elapsed);
        match handle.info.kind {
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

/// Latencies are recorded in whole milliseconds, as Dapr does; most calls count as zero.
pub fn whole_millis(elapsed: Duration) -> f64 {
    elapsed.as_millis() as f64
}
