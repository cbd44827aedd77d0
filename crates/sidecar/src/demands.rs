//! What the user demands of components before the sidecar may call itself ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use outrigger_blocks::health::Missing;
use outrigger_config::flags::{LifecycleOptions, OutboundReady, ReadinessRequires};

use crate::components::{Components, Required};

/// The demands, and whom they concern now.
#[derive(Debug)]
pub(crate) struct Demands {
    ready: ReadinessRequires,
    outbound: OutboundReady,
    for_ready: Mutex<Required>,
    for_outbound: Mutex<Required>,
    /// Every component was ready once; nothing takes that back.
    were_all_ready: AtomicBool,
}

impl Demands {
    pub(crate) fn new(options: &LifecycleOptions) -> Self {
        Self {
            ready: options.readiness_requires,
            outbound: options.outbound_ready,
            for_ready: Mutex::default(),
            for_outbound: Mutex::default(),
            were_all_ready: AtomicBool::new(false),
        }
    }

    /// Looks the components up anew.
    pub(crate) fn concern(&self, components: &Components) {
        let ready = match self.ready {
            // Placement and scheduler are no components.
            ReadinessRequires::None | ReadinessRequires::ControlPlane => Required::default(),
            ReadinessRequires::Required => components.required(false),
            ReadinessRequires::All => components.required(true),
        };
        let outbound = match self.outbound {
            OutboundReady::Settled => Required::default(),
            OutboundReady::AllReady => components.required(true),
        };
        *self
            .for_ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = ready;
        *self
            .for_outbound
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = outbound;
    }
}

impl Missing for Demands {
    fn for_ready(&self) -> Vec<String> {
        let required = self.for_ready.lock();
        required.unwrap_or_else(PoisonError::into_inner).missing()
    }

    fn for_outbound(&self) -> bool {
        if self.outbound == OutboundReady::Settled || self.were_all_ready.load(Ordering::Relaxed) {
            return false;
        }
        let required = self.for_outbound.lock();
        let missing = required.unwrap_or_else(PoisonError::into_inner).missing();
        let is_missing = !missing.is_empty();
        if !is_missing {
            self.were_all_ready.store(true, Ordering::Relaxed);
        }
        is_missing
    }
}
