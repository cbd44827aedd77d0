//! The phases of a sidecar's life, and what each of them serves.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Ports are bound, resources are being read, components make their first attempt.
    Starting,
    /// Outbound calls are served; the app has not been ready yet.
    WaitingApp,
    /// Everything is served.
    Ready,
    /// The app went away or turned unhealthy: nothing is handed to it.
    Paused,
    /// Told to stop: nothing new is taken in, work in hand is finished.
    Draining,
    /// Work in hand is done; outbound calls are still served.
    Lingering,
    /// Listeners are closed.
    Stopping,
}

impl Phase {
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::WaitingApp,
        Self::Ready,
        Self::Paused,
        Self::Draining,
        Self::Lingering,
        Self::Stopping,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WaitingApp => "waiting_app",
            Self::Ready => "ready",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Lingering => "lingering",
            Self::Stopping => "stopping",
        }
    }

    /// `/v1.0/healthz` answers 204.
    pub fn is_healthy(self) -> bool {
        matches!(self, Self::Ready | Self::Paused)
    }

    /// `/v1.0/healthz/outbound` answers 204. Components need not be up for that.
    pub fn serves_outbound(self) -> bool {
        !matches!(self, Self::Starting | Self::Stopping)
    }

    /// Messages, jobs and input bindings may flow to the app.
    pub fn pulls(self) -> bool {
        self == Self::Ready
    }

    /// The end has begun.
    pub fn is_ending(self) -> bool {
        self >= Self::Draining
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to a sidecar as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Every component's first attempt ended, or the time for that is over.
    Settled,
    GateOpened,
    GateClosed,
    StopRequested,
    Drained,
    /// A drain that was to end nothing was taken back; the phase before it.
    Resumed(Phase),
    /// Lingering is over, or the deadline passed, or somebody insisted.
    Finish,
}

/// The phase that follows; events that do not apply leave it as it is. An app that was ready before the
/// components had settled is remembered by the caller, which repeats [`Event::GateOpened`].
pub fn next(phase: Phase, event: Event) -> Phase {
    match (phase, event) {
        (Phase::Starting, Event::Settled) => Phase::WaitingApp,
        (Phase::WaitingApp | Phase::Paused, Event::GateOpened) => Phase::Ready,
        (Phase::Ready, Event::GateClosed) => Phase::Paused,
        (
            Phase::Starting | Phase::WaitingApp | Phase::Ready | Phase::Paused,
            Event::StopRequested,
        ) => Phase::Draining,
        (Phase::Draining, Event::Drained) => Phase::Lingering,
        (Phase::Draining | Phase::Lingering, Event::Resumed(before)) if !before.is_ending() => {
            before
        }
        (Phase::Draining | Phase::Lingering, Event::Finish) => Phase::Stopping,
        (phase, _) => phase,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_life() {
        let life = [
            Event::Settled,
            Event::GateOpened,
            Event::GateClosed,
            Event::GateOpened,
            Event::StopRequested,
            Event::Drained,
            Event::Finish,
        ];
        let phases: Vec<Phase> = life
            .iter()
            .scan(Phase::Starting, |phase, event| {
                *phase = next(*phase, *event);
                Some(*phase)
            })
            .collect();
        assert_eq!(
            phases,
            [
                Phase::WaitingApp,
                Phase::Ready,
                Phase::Paused,
                Phase::Ready,
                Phase::Draining,
                Phase::Lingering,
                Phase::Stopping
            ]
        );
    }

    proptest! {
        #[test]
        fn the_end_is_taken_back_only_by_a_resume_and_never_once_listeners_are_closed(events in proptest::collection::vec(0_usize..7, 0..40)) {
            let all = [Event::Settled, Event::GateOpened, Event::GateClosed, Event::StopRequested, Event::Drained, Event::Finish, Event::Resumed(Phase::Paused)];
            let mut phase = Phase::Starting;
            for event in events {
                let following = next(phase, all[event]);
                let is_resume = all[event] == Event::Resumed(Phase::Paused) && phase != Phase::Stopping;
                prop_assert!(!phase.is_ending() || following >= phase || is_resume);
                phase = following;
            }
        }
    }
}
