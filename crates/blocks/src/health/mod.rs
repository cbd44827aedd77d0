//! Health: whether calls are served, whether the app behind is being served too, and how each component does.
//!
//! [`question`] reads what is asked, `exam` looks, [`judge`] decides, and the edges give it a form. Both pure parts have
//! their tests beside them; `tests/e2e/tests/component_health.rs` has real servers.

mod exam;
pub mod judge;

mod proof;
mod pulse;
pub mod question;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use outrigger_core::{ApiError, AppId};
use outrigger_lifecycle::phase::Phase;
use tokio::sync::watch;

pub use proof::{Proof, Proofs, SHARED_FOR};
pub use pulse::Pulse;

use crate::errors::invoke as told;

/// The health API.
#[derive(Clone, Debug)]
pub struct Health {
    pub app_id: AppId,
    pub phase: watch::Receiver<Phase>,
    /// Components that must be ready for readiness, by the user's choice; their names when they are not.
    pub missing: Arc<dyn Missing>,
    /// The app has said what it subscribes to since its gate last began to open.
    pub topics_told: Arc<AtomicBool>,
    pub pulse: Pulse,
}

/// Names what stands between the sidecar and readiness besides its phase.
pub trait Missing: std::fmt::Debug + Send + Sync {
    /// For `healthz`.
    fn for_ready(&self) -> Vec<String>;

    /// For `healthz/outbound`.
    fn for_outbound(&self) -> bool;
}

/// Nothing is demanded of components.
#[derive(Clone, Copy, Debug)]
pub struct NothingMissing;

impl Missing for NothingMissing {
    fn for_ready(&self) -> Vec<String> {
        Vec::new()
    }

    fn for_outbound(&self) -> bool {
        false
    }
}

impl Health {
    /// `healthz`.
    ///
    /// # Errors
    /// With the names of what is missing.
    pub fn ready(&self, app_id: Option<&str>) -> Result<(), ApiError> {
        self.ours(app_id)?;
        let phase = *self.phase.borrow();
        let mut missing = Vec::new();
        if !phase.is_healthy() {
            missing.push(
                if phase.is_ending() {
                    "drain"
                } else {
                    "runtime"
                }
                .to_owned(),
            );
        }
        missing.extend(self.missing.for_ready());
        if missing.is_empty() {
            Ok(())
        } else {
            Err(told::not_ready(&missing))
        }
    }

    /// `healthz/live`.
    ///
    /// # Errors
    /// When tasks do not get their turn.
    pub fn live(&self) -> Result<(), ApiError> {
        if self.pulse.is_beating() {
            Ok(())
        } else {
            Err(told::not_ready(&["scheduler".to_owned()]))
        }
    }

    /// Whether a question is meant for this sidecar.
    ///
    /// # Errors
    /// When it names another app.
    pub fn ours(&self, app_id: Option<&str>) -> Result<(), ApiError> {
        if app_id.is_some_and(|app_id| !app_id.is_empty() && app_id != self.app_id.as_str()) {
            return Err(told::app_id_mismatch());
        }
        Ok(())
    }

    /// `healthz/outbound`.
    ///
    /// # Errors
    /// While calls are not served yet, or not any more.
    pub fn outbound(&self) -> Result<(), ApiError> {
        if self.phase.borrow().serves_outbound() && !self.missing.for_outbound() {
            Ok(())
        } else {
            Err(told::outbound_not_ready())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_lifecycle::Clock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_whose_tasks_get_no_turn_is_not_live() {
        let health = Health {
            app_id: AppId::from("orders"),
            phase: watch::channel(Phase::Ready).1,
            missing: Arc::new(NothingMissing),
            topics_told: Arc::default(),
            pulse: Pulse::new(Clock::start()),
        };
        assert!(health.live().is_ok());
        tokio::time::advance(Duration::from_secs(6)).await;
        let error = health.live().unwrap_err();
        assert_eq!(
            (error.http, error.message.as_str()),
            (500, "dapr is not ready: [scheduler]")
        );
    }
}
