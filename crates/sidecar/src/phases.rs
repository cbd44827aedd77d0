//! The sidecar's phase, and everything that follows from it and from the gate in front of the app.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outrigger_blocks::invoke::Admission;
use outrigger_lifecycle::gate;
use outrigger_lifecycle::phase::{Event, Phase, next};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::journal::{Kind, Told};
use tokio::sync::watch;
use tracing::info;

use crate::app::{admission, show_gate};

const SCOPE: &str = "dapr.runtime";

/// What others look at.
pub(crate) struct Watches {
    pub phase: watch::Receiver<Phase>,
    /// Messages may flow to the app.
    pub pulls: watch::Receiver<bool>,
    /// Events may flow over streams.
    pub streams: watch::Receiver<bool>,
    /// What fails now is released.
    pub ending: watch::Receiver<bool>,
    pub admission: watch::Receiver<Admission>,
}

/// The writer of them; there is one. The gate's task, the life and the drain tell it what happens.
pub(crate) struct Phases {
    /// One change after the other, with everything that follows from it.
    changing: Mutex<()>,
    phase: watch::Sender<Phase>,
    pulls: watch::Sender<bool>,
    streams: watch::Sender<bool>,
    ending: watch::Sender<bool>,
    admission: watch::Sender<Admission>,
    gate: watch::Receiver<gate::State>,
    was_open: AtomicBool,
    /// Peers are still let in although the end has begun.
    accepts: AtomicBool,
    started: Instant,
}

impl Phases {
    /// Shows what both are at first: no change tells that.
    pub(crate) fn new(
        gate: watch::Receiver<gate::State>,
        started: Instant,
        metrics: &Metrics,
    ) -> (Self, Watches) {
        show(Phase::Starting, metrics);
        show_gate(*gate.borrow(), metrics);
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let (pulls, pulls_seen) = watch::channel(false);
        let (streams, streams_seen) = watch::channel(false);
        let (ending, ending_seen) = watch::channel(false);
        let (admission, admission_seen) = watch::channel(Admission::NotReadyYet);
        let watches = Watches {
            phase: phase_seen,
            pulls: pulls_seen,
            streams: streams_seen,
            ending: ending_seen,
            admission: admission_seen,
        };
        let phases = Self {
            changing: Mutex::new(()),
            phase,
            pulls,
            streams,
            ending,
            admission,
            gate,
            was_open: AtomicBool::new(false),
            accepts: AtomicBool::new(false),
            started,
        };
        phases.gate_changed(metrics);
        (phases, watches)
    }

    pub(crate) fn now(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Something happened to the sidecar as a whole.
    pub(crate) fn on(&self, event: Event, metrics: &Metrics) {
        let _changing = self.lock();
        self.step(event, metrics);
    }

    fn step(&self, event: Event, metrics: &Metrics) {
        let before = self.now();
        let after = next(before, event);
        if before == after {
            return;
        }
        show(after, metrics);
        info!(target: SCOPE, event = "phase", from = before.name(), to = after.name(), "the sidecar is {}", after.name());
        metrics
            .journal
            .change(Kind::Phase, "", after.name(), Told::default());
        self.phase.send_replace(after);
        let elapsed = self.started.elapsed();
        if before == Phase::Starting && !after.is_ending() {
            metrics
                .startup_seconds
                .set(["settled"], elapsed.as_secs_f64());
        }
        if after == Phase::Ready && before == Phase::WaitingApp {
            let millis = elapsed.as_millis();
            if *self.gate.borrow() == gate::State::Open {
                metrics.startup_seconds.set(["app"], elapsed.as_secs_f64());
            }
            metrics
                .startup_seconds
                .set(["ready"], elapsed.as_secs_f64());
            info!(target: SCOPE, "dapr initialized. Status: Running. Init Elapsed {millis}ms");
        }
        self.derive();
    }

    /// The gate is another than before, or is to be heeded now.
    pub(crate) fn gate_changed(&self, metrics: &Metrics) {
        let _changing = self.lock();
        let state = *self.gate.borrow();
        if takes_calls(state) {
            self.was_open.store(true, Ordering::Relaxed);
        }
        self.derive();
        match state {
            gate::State::Open | gate::State::Absent => self.step(Event::GateOpened, metrics),
            gate::State::Discover => {}
            _ => self.step(Event::GateClosed, metrics),
        }
    }

    /// Whether peers are let in while the end is under way.
    pub(crate) fn accept_peers(&self, accept: bool) {
        let _changing = self.lock();
        self.accepts.store(accept, Ordering::Relaxed);
        self.derive();
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn derive(&self) {
        let phase = self.now();
        let draining = phase.is_ending() && !self.accepts.load(Ordering::Relaxed);
        let admitted = admission(
            *self.gate.borrow(),
            self.was_open.load(Ordering::Relaxed),
            draining,
        );
        set(&self.admission, admitted);
        set(&self.pulls, phase.pulls());
        set(
            &self.streams,
            matches!(phase, Phase::WaitingApp | Phase::Ready | Phase::Paused),
        );
        set(&self.ending, phase.is_ending());
    }
}

fn takes_calls(state: gate::State) -> bool {
    matches!(
        state,
        gate::State::Open | gate::State::Discover | gate::State::Absent
    )
}

/// Wakes nobody who would see what he saw before.
fn set<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let differs = *current != value;
        *current = value;
        differs
    });
}

fn show(now: Phase, metrics: &Metrics) {
    for phase in Phase::ALL {
        metrics
            .phase
            .set([phase.name()], f64::from(u8::from(phase == now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_telemetry::metrics::Settings;

    #[test]
    fn phase_and_gate_are_shown_before_either_changes() {
        let metrics = Metrics::new(Settings::new("a"));
        let (_gate, seen) = watch::channel(gate::State::Absent);
        let (phases, _watches) = Phases::new(seen, Instant::now(), &metrics);
        let shows = |line: &str| metrics.text().lines().any(|one| one == line);
        assert!(shows(r#"outrigger_phase{app_id="a",phase="starting"} 1"#));
        assert!(shows(r#"outrigger_app_gate{app_id="a",state="absent"} 1"#));
        assert!(shows(r#"outrigger_app_gate{app_id="a",state="open"} 0"#));
        phases.on(Event::Settled, &metrics);
        assert!(shows(r#"outrigger_phase{app_id="a",phase="starting"} 0"#));
    }

    #[test]
    fn messages_flow_only_while_the_app_is_ready_and_nothing_ends() {
        let metrics = Metrics::new(Settings::new("a"));
        let (gate, seen) = watch::channel(gate::State::WaitPort);
        let (phases, watches) = Phases::new(seen, Instant::now(), &metrics);
        assert_eq!(*watches.admission.borrow(), Admission::NotReadyYet);
        phases.on(Event::Settled, &metrics);
        assert!(!*watches.pulls.borrow() && *watches.streams.borrow());
        gate.send_replace(gate::State::Open);
        phases.gate_changed(&metrics);
        assert!(*watches.pulls.borrow());
        assert_eq!(*watches.admission.borrow(), Admission::Open);
        gate.send_replace(gate::State::Discover);
        phases.gate_changed(&metrics);
        assert!(*watches.pulls.borrow());
        gate.send_replace(gate::State::Closed);
        phases.gate_changed(&metrics);
        assert!(!*watches.pulls.borrow() && *watches.streams.borrow());
        assert_eq!(*watches.admission.borrow(), Admission::Unhealthy);
        phases.on(Event::StopRequested, &metrics);
        assert!(*watches.ending.borrow() && !*watches.streams.borrow());
        assert_eq!(*watches.admission.borrow(), Admission::Draining);
        phases.accept_peers(true);
        assert_eq!(*watches.admission.borrow(), Admission::Unhealthy);
    }
}
