//! The gate in front of the app: whether anything may be handed to it.
//!
//! ```text
//!  WAIT_PORT ─► WAIT_READY ─► WAIT_HEALTH ─► DISCOVER ─► OPEN ◄─► CLOSED
//! ```
//! Steps that are not configured are left out. Without an app port the gate is ABSENT for good.
//!
//! Owns: what to ask the app next and when, and what the answers mean.
//! Never: connects, asks or reads a clock; the gate task of `outrigger-sidecar` does.

use std::time::Duration;

use outrigger_policy::{Backoff, Moment};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    Absent,
    WaitPort,
    WaitReady,
    WaitHealth,
    Discover,
    Open,
    /// The app was there and answers its health probe badly, or its process has ended.
    Closed,
}

impl State {
    pub const ALL: [Self; 7] = [
        Self::Absent,
        Self::WaitPort,
        Self::WaitReady,
        Self::WaitHealth,
        Self::Discover,
        Self::Open,
        Self::Closed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::WaitPort => "wait_port",
            Self::WaitReady => "wait_ready",
            Self::WaitHealth => "wait_health",
            Self::Discover => "discover",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// What is asked of the app.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    pub has_app: bool,
    /// A readiness path or service is configured.
    pub asks_ready: bool,
    pub health: Option<Health>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Health {
    pub interval: Duration,
    /// Failures in a row that close the gate.
    pub threshold: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Whether the port accepted a connection.
    Port(bool),
    Ready(bool),
    Health(bool),
    /// Everything that had to be asked was answered, or not.
    Discovered(bool),
    /// A delivery found the port closed.
    Refused,
    /// The app's process has ended. What was asked before will not be answered.
    Gone,
    /// It was started again.
    Back,
    Due,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    TryPort,
    AskReady,
    ProbeHealth,
    /// Ask for configuration and subscriptions.
    Discover,
    /// Say that the app's port is still closed.
    TellWaiting,
}

const PORT_EVERY: Duration = Duration::from_millis(100);
const READY_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The gate opens after this even if the app has not answered what it was asked.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(10);
const DISCOVERY: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(10),
};

#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    since: Moment,
    due: Option<Moment>,
    /// When the next health probe is due; it goes on beside everything else once the app was healthy.
    probe_due: Option<Moment>,
    asking: bool,
    probing: bool,
    failures: u32,
    discovery_failures: u32,
    /// Discovery is unfinished although the gate is open.
    discovery_due: Option<Moment>,
    told_at: Moment,
    /// There is no process to ask.
    gone: bool,
}

impl Machine {
    pub fn new(settings: Settings, now: Moment) -> Self {
        let state = if settings.has_app {
            State::WaitPort
        } else {
            State::Absent
        };
        Self {
            settings,
            state,
            since: now,
            due: settings.has_app.then_some(now),
            probe_due: None,
            asking: false,
            probing: false,
            failures: 0,
            discovery_failures: 0,
            discovery_due: None,
            told_at: now,
            gone: false,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn since(&self) -> Moment {
        self.since
    }

    /// Messages may flow.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The app can be called at all: it was found ready, and is not known to be unhealthy.
    pub fn takes_calls(&self) -> bool {
        matches!(self.state, State::Open | State::Discover)
    }

    pub fn wake_at(&self) -> Option<Moment> {
        [self.due, self.probe_due, self.discovery_due]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn on(&mut self, event: Event, now: Moment, dice: f64) -> Vec<Action> {
        match (self.state, event) {
            (State::Absent, _) => Vec::new(),
            (_, Event::Gone) => {
                self.process_gone(now);
                Vec::new()
            }
            (_, Event::Back) if self.gone => {
                self.gone = false;
                self.wait_port(now)
            }
            (_, _) if self.gone => Vec::new(),
            (_, Event::Due) => self.on_due(now),
            (State::WaitPort, Event::Port(open)) => {
                self.asking = false;
                if open {
                    self.port_found(now)
                } else {
                    self.port_closed(now)
                }
            }
            (State::WaitReady, Event::Ready(ready)) => {
                self.asking = false;
                if ready {
                    return self.ready_found(now);
                }
                self.due = Some(now + READY_EVERY);
                Vec::new()
            }
            (_, Event::Health(healthy)) => self.on_health(healthy, now),
            (State::Discover | State::Open, Event::Discovered(complete)) => {
                self.asking = false;
                self.on_discovered(complete, now, dice);
                Vec::new()
            }
            (State::Open | State::Discover, Event::Refused) => self.wait_port(now),
            _ => Vec::new(),
        }
    }

    fn on_due(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.state == State::Discover && self.asking && self.is_out_of_patience(now) {
            // The app takes its time for an answer, which will be heeded when it comes.
            self.enter(State::Open, now);
        }
        if self.due.is_some_and(|due| due <= now) && !self.asking {
            self.due = None;
            match self.state {
                State::WaitPort => self.ask(Action::TryPort, &mut actions),
                State::WaitReady => self.ask(Action::AskReady, &mut actions),
                State::Discover if self.is_out_of_patience(now) => {
                    self.enter(State::Open, now);
                    self.discovery_due = Some(now);
                }
                State::Discover => {
                    self.ask(Action::Discover, &mut actions);
                    self.due = Some(self.since + DISCOVERY_PATIENCE);
                }
                State::Absent | State::WaitHealth | State::Open | State::Closed => {}
            }
        }
        if self.probe_due.is_some_and(|due| due <= now) && !self.probing {
            self.probe_due = None;
            self.probing = true;
            actions.push(Action::ProbeHealth);
        }
        if self.discovery_due.is_some_and(|due| due <= now) && !self.asking {
            self.discovery_due = None;
            self.ask(Action::Discover, &mut actions);
        }
        actions
    }

    fn is_out_of_patience(&self, now: Moment) -> bool {
        now.since(self.since) >= DISCOVERY_PATIENCE
    }

    fn ask(&mut self, action: Action, actions: &mut Vec<Action>) {
        self.asking = true;
        actions.push(action);
    }

    fn port_closed(&mut self, now: Moment) -> Vec<Action> {
        self.due = Some(now + PORT_EVERY);
        if now.since(self.told_at) < TELL_EVERY {
            return Vec::new();
        }
        self.told_at = now;
        vec![Action::TellWaiting]
    }

    fn port_found(&mut self, now: Moment) -> Vec<Action> {
        if !self.settings.asks_ready {
            return self.ready_found(now);
        }
        self.enter(State::WaitReady, now);
        self.asking = true;
        vec![Action::AskReady]
    }

    fn ready_found(&mut self, now: Moment) -> Vec<Action> {
        if self.settings.health.is_none() {
            return self.discover(now);
        }
        self.enter(State::WaitHealth, now);
        if std::mem::replace(&mut self.probing, true) {
            Vec::new()
        } else {
            vec![Action::ProbeHealth]
        }
    }

    fn discover(&mut self, now: Moment) -> Vec<Action> {
        self.enter(State::Discover, now);
        self.due = Some(now + DISCOVERY_PATIENCE);
        self.discovery_failures = 0;
        self.asking = true;
        vec![Action::Discover]
    }

    fn on_discovered(&mut self, complete: bool, now: Moment, dice: f64) {
        if complete {
            self.discovery_due = None;
            if self.state == State::Discover {
                self.enter(State::Open, now);
            }
            return;
        }
        self.discovery_failures += 1;
        let next = now + DISCOVERY.delay(self.discovery_failures, dice);
        if self.state == State::Open {
            self.discovery_due = Some(next);
        } else {
            self.due = Some(next.min(self.since + DISCOVERY_PATIENCE));
        }
    }

    fn on_health(&mut self, healthy: bool, now: Moment) -> Vec<Action> {
        self.probing = false;
        let Some(health) = self.settings.health else {
            return Vec::new();
        };
        if matches!(self.state, State::WaitPort | State::WaitReady) {
            return Vec::new();
        }
        self.probe_due = Some(now + health.interval);
        if healthy {
            self.failures = 0;
            return match self.state {
                // It may be another process than the one that was ready.
                State::Closed if self.settings.asks_ready => self.wait_port(now),
                State::WaitHealth | State::Closed => self.discover(now),
                _ => Vec::new(),
            };
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= health.threshold && matches!(self.state, State::Open | State::Discover)
        {
            self.enter(State::Closed, now);
            self.asking = false;
        }
        Vec::new()
    }

    fn process_gone(&mut self, now: Moment) {
        self.enter(State::Closed, now);
        self.gone = true;
        self.probe_due = None;
        (self.asking, self.probing) = (false, false);
    }

    fn wait_port(&mut self, now: Moment) -> Vec<Action> {
        self.enter(State::WaitPort, now);
        self.told_at = now;
        self.probe_due = None;
        self.failures = 0;
        self.asking = true;
        vec![Action::TryPort]
    }

    fn enter(&mut self, state: State, now: Moment) {
        if self.state != state {
            self.since = now;
        }
        self.state = state;
        self.due = None;
        self.discovery_due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    fn with(health: Option<Health>) -> Machine {
        Machine::new(
            Settings {
                has_app: true,
                asks_ready: false,
                health,
            },
            at(0),
        )
    }

    const EVERY_SECOND: Health = Health {
        interval: Duration::from_secs(1),
        threshold: 3,
    };

    #[test]
    fn without_an_app_nothing_is_asked() {
        let machine = Machine::new(
            Settings {
                has_app: false,
                asks_ready: false,
                health: None,
            },
            at(0),
        );
        assert_eq!((machine.state(), machine.wake_at()), (State::Absent, None));
    }

    #[test]
    fn the_port_is_tried_ten_times_a_second_until_it_opens() {
        let mut machine = with(None);
        let (mut now, mut told) = (at(0), 0);
        for _ in 0..250 {
            now = machine.wake_at().unwrap();
            assert_eq!(machine.on(Event::Due, now, 0.5), [Action::TryPort]);
            told += machine.on(Event::Port(false), now, 0.5).len();
        }
        assert_eq!(now, at(24_900));
        assert_eq!(told, 2);
        now = machine.wake_at().unwrap();
        machine.on(Event::Due, now, 0.5);
        assert_eq!(machine.on(Event::Port(true), now, 0.5), [Action::Discover]);
        machine.on(Event::Discovered(true), now, 0.5);
        assert!(machine.is_open());
    }

    fn opened(health: Health) -> (Machine, Moment) {
        let mut machine = with(Some(health));
        machine.on(Event::Due, at(0), 0.5);
        assert_eq!(
            machine.on(Event::Port(true), at(0), 0.5),
            [Action::ProbeHealth]
        );
        assert_eq!(
            machine.on(Event::Health(true), at(1), 0.5),
            [Action::Discover]
        );
        machine.on(Event::Discovered(true), at(2), 0.5);
        assert!(machine.is_open());
        (machine, at(2))
    }

    fn probe(machine: &mut Machine, healthy: bool) -> Vec<Action> {
        let due = machine.wake_at().unwrap();
        assert_eq!(machine.on(Event::Due, due, 0.5), [Action::ProbeHealth]);
        machine.on(Event::Health(healthy), due, 0.5)
    }

    #[test]
    fn failures_in_a_row_close_the_gate_and_one_success_opens_it() {
        let (mut machine, _) = opened(EVERY_SECOND);
        for healthy in [false, false, true, false, false] {
            probe(&mut machine, healthy);
            assert!(machine.is_open());
        }
        probe(&mut machine, false);
        assert_eq!(machine.state(), State::Closed);
        assert_eq!(probe(&mut machine, true), [Action::Discover]);
    }

    #[test]
    fn an_app_that_is_healthy_again_is_asked_whether_it_is_ready_too() {
        let (mut machine, _) = opened(EVERY_SECOND);
        machine.settings.asks_ready = true;
        for _ in 0..3 {
            probe(&mut machine, false);
        }
        assert_eq!(probe(&mut machine, true), [Action::TryPort]);
        let now = at(5_000);
        assert_eq!(machine.on(Event::Port(true), now, 0.5), [Action::AskReady]);
        assert_eq!(
            machine.on(Event::Ready(true), now, 0.5),
            [Action::ProbeHealth]
        );
        assert_eq!(
            machine.on(Event::Health(true), now, 0.5),
            [Action::Discover]
        );
    }

    #[test]
    fn discovery_is_repeated_and_opens_the_gate_after_ten_seconds_anyway() {
        let mut machine = with(None);
        machine.on(Event::Due, at(0), 1.0);
        machine.on(Event::Port(true), at(0), 1.0);
        let mut now = at(0);
        let mut asked = Vec::new();
        while !machine.is_open() {
            machine.on(Event::Discovered(false), now, 1.0);
            now = machine.wake_at().unwrap();
            asked = machine.on(Event::Due, now, 1.0);
        }
        assert_eq!(now, at(10_000));
        assert_eq!(asked, [Action::Discover], "and it is asked on");
        machine.on(Event::Discovered(false), now, 1.0);
        assert!(machine.wake_at().is_some());
        assert!(machine.is_open());
    }

    #[test]
    fn an_app_that_never_answers_what_it_is_asked_gets_its_work_after_ten_seconds() {
        let mut machine = with(None);
        machine.on(Event::Due, at(0), 1.0);
        machine.on(Event::Port(true), at(0), 1.0);
        assert_eq!(machine.wake_at(), Some(at(10_000)));
        assert_eq!(machine.on(Event::Due, at(10_000), 1.0), []);
        assert!(machine.is_open());
        assert_eq!(machine.wake_at(), None, "its answer is still waited for");
        machine.on(Event::Discovered(false), at(11_000), 1.0);
        assert!(machine.wake_at().is_some(), "and asked for again");
    }

    #[test]
    fn a_refused_delivery_closes_the_gate_at_once() {
        let (mut machine, now) = opened(EVERY_SECOND);
        assert_eq!(machine.on(Event::Refused, now, 0.5), [Action::TryPort]);
        assert_eq!(machine.state(), State::WaitPort);
        assert_eq!(machine.on(Event::Refused, now, 0.5), []);
    }

    #[test]
    fn while_its_process_is_gone_the_app_is_asked_nothing_and_then_everything() {
        let (mut machine, now) = opened(EVERY_SECOND);
        assert_eq!(machine.on(Event::Gone, now, 0.5), []);
        assert_eq!((machine.state(), machine.wake_at()), (State::Closed, None));
        for late in [
            Event::Health(true),
            Event::Discovered(true),
            Event::Refused,
            Event::Due,
        ] {
            assert_eq!(machine.on(late, now, 0.5), []);
            assert_eq!(machine.state(), State::Closed, "{late:?}");
        }
        assert_eq!(machine.on(Event::Back, now, 0.5), [Action::TryPort]);
        assert_eq!(
            machine.on(Event::Port(true), now, 0.5),
            [Action::ProbeHealth]
        );
        assert_eq!(
            machine.on(Event::Health(true), now, 0.5),
            [Action::Discover]
        );
        assert_eq!(machine.on(Event::Back, now, 0.5), [], "it was never gone");
    }

    #[test]
    fn a_readiness_question_comes_before_everything_else() {
        let mut machine = Machine::new(
            Settings {
                has_app: true,
                asks_ready: true,
                health: Some(EVERY_SECOND),
            },
            at(0),
        );
        machine.on(Event::Due, at(0), 0.5);
        assert_eq!(
            machine.on(Event::Port(true), at(0), 0.5),
            [Action::AskReady]
        );
        machine.on(Event::Ready(false), at(1), 0.5);
        assert_eq!(machine.on(Event::Due, at(1_001), 0.5), [Action::AskReady]);
        assert_eq!(
            machine.on(Event::Ready(true), at(1_002), 0.5),
            [Action::ProbeHealth]
        );
    }

    proptest! {
        #[test]
        fn the_gate_never_falls_asleep(steps in proptest::collection::vec((0_u8..7, any::<bool>(), 0_u64..3_000), 1..150)) {
            let (mut machine, mut now) = opened(EVERY_SECOND);
            let mut asked: Vec<Action> = Vec::new();
            for (kind, good, passed) in steps {
                now = now + Duration::from_millis(passed);
                let event = match kind {
                    0 => Event::Refused,
                    1 | 2 => match machine.wake_at() {
                        Some(due) => { now = now.max(due); Event::Due }
                        None => continue,
                    },
                    // Nobody answers any more, until it is there again.
                    6 => {
                        machine.on(Event::Gone, now, 0.5);
                        prop_assert_eq!(machine.wake_at(), None);
                        asked.clear();
                        Event::Back
                    }
                    // Answer the oldest question.
                    _ => match (!asked.is_empty()).then(|| asked.remove(0)) {
                        Some(Action::TryPort) => Event::Port(good),
                        Some(Action::AskReady) => Event::Ready(good),
                        Some(Action::ProbeHealth) => Event::Health(good),
                        Some(Action::Discover) => Event::Discovered(good),
                        Some(Action::TellWaiting) | None => continue,
                    },
                };
                asked.extend(machine.on(event, now, 0.5).into_iter().filter(|a| *a != Action::TellWaiting));
                prop_assert!(machine.wake_at().is_some() || !asked.is_empty(), "{:?}: nothing is due and nothing is asked", machine.state());
                prop_assert!(asked.iter().filter(|a| **a == Action::ProbeHealth).count() <= 1);
            }
        }
    }
}
