//! The life of one subscription: (component, topic) with its routes, or one stream.
//!
//! A subscription runs while its component is ready and the app may be given messages. One that cannot start, or whose
//! consumer dies alone, is tried again on its own; neither its component nor its siblings notice.

use std::time::Duration;

use outrigger_policy::{Backoff, Moment};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// The gate is closed, or the component is not ready.
    Idle,
    Starting,
    Active,
    Retrying,
    Closed,
}

impl State {
    pub const ALL: [Self; 5] = [
        Self::Idle,
        Self::Starting,
        Self::Active,
        Self::Retrying,
        Self::Closed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Retrying => "retrying",
            Self::Closed => "closed",
        }
    }
}

const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(10),
};
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Both conditions as they are now: the component is ready, and messages may flow.
    Conditions {
        component: bool,
        gate: bool,
    },
    Started(Result<(), String>),
    /// The consumer ended without being asked.
    Ended(String),
    Close,
    Due,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Start,
    /// Stop the consumer and give back what was fetched and not delivered.
    Stop,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub state: State,
    pub since: Moment,
    pub attempt: u32,
    pub error: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Machine {
    status: Status,
    component: bool,
    gate: bool,
    due: Option<Moment>,
}

impl Machine {
    pub fn new(now: Moment) -> Self {
        let status = Status {
            state: State::Idle,
            since: now,
            attempt: 0,
            error: None,
        };
        Self {
            status,
            component: false,
            gate: false,
            due: None,
        }
    }

    pub fn status(&self) -> &Status {
        &self.status
    }

    pub fn wake_at(&self) -> Option<Moment> {
        self.due
    }

    pub fn on(&mut self, event: Event, now: Moment, dice: f64) -> Option<Action> {
        if self.status.state == State::Closed {
            return None;
        }
        match event {
            Event::Conditions { component, gate } => {
                self.component = component;
                self.gate = gate;
                match (component && gate, self.status.state) {
                    (true, State::Idle) => self.start(now),
                    (false, state) if state != State::Idle => {
                        self.enter(State::Idle, now);
                        self.status.attempt = 0;
                        Some(Action::Stop)
                    }
                    _ => None,
                }
            }
            Event::Started(Ok(())) if self.status.state == State::Starting => {
                self.enter(State::Active, now);
                self.status.error = None;
                None
            }
            Event::Started(Err(error)) if self.status.state == State::Starting => {
                self.retry(error, now, dice);
                None
            }
            Event::Ended(error) if self.status.state == State::Active => {
                if now.since(self.status.since) >= FORGIVEN_AFTER {
                    self.status.attempt = 0;
                }
                self.retry(error, now, dice);
                Some(Action::Stop)
            }
            Event::Due if self.status.state == State::Retrying => self.start(now),
            Event::Close => {
                let ran = self.status.state != State::Idle;
                self.enter(State::Closed, now);
                ran.then_some(Action::Stop)
            }
            Event::Started(_) | Event::Ended(_) | Event::Due => None,
        }
    }

    fn start(&mut self, now: Moment) -> Option<Action> {
        self.enter(State::Starting, now);
        self.status.attempt += 1;
        Some(Action::Start)
    }

    fn retry(&mut self, error: String, now: Moment, dice: f64) {
        self.enter(State::Retrying, now);
        self.status.error = Some(error);
        self.due = Some(now + BACKOFF.delay(self.status.attempt.max(1), dice));
    }

    fn enter(&mut self, state: State, now: Moment) {
        if self.status.state != state {
            self.status.state = state;
            self.status.since = now;
        }
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    const BOTH: Event = Event::Conditions {
        component: true,
        gate: true,
    };

    #[test]
    fn it_starts_when_both_conditions_hold_and_stops_when_one_ends() {
        let mut machine = Machine::new(at(0));
        assert_eq!(
            machine.on(
                Event::Conditions {
                    component: true,
                    gate: false
                },
                at(1),
                0.5
            ),
            None
        );
        assert_eq!(machine.on(BOTH, at(2), 0.5), Some(Action::Start));
        machine.on(Event::Started(Ok(())), at(3), 0.5);
        assert_eq!(machine.status().state, State::Active);
        assert_eq!(
            machine.on(
                Event::Conditions {
                    component: false,
                    gate: true
                },
                at(4),
                0.5
            ),
            Some(Action::Stop)
        );
        assert_eq!(machine.status().state, State::Idle);
    }

    #[test]
    fn a_refused_start_is_repeated_and_a_dead_consumer_comes_back_within_half_a_second() {
        let mut machine = Machine::new(at(0));
        machine.on(BOTH, at(0), 0.5);
        machine.on(Event::Started(Err("forbidden".into())), at(1), 1.0);
        assert_eq!(machine.status().state, State::Retrying);
        assert_eq!(
            machine.on(Event::Due, machine.wake_at().unwrap(), 0.5),
            Some(Action::Start)
        );
        machine.on(Event::Started(Ok(())), at(600), 0.5);
        assert_eq!(
            machine.on(Event::Ended("queue deleted".into()), at(60_000), 1.0),
            Some(Action::Stop)
        );
        assert!(machine.wake_at().unwrap() <= at(60_500));
    }

    proptest! {
        #[test]
        fn whatever_happens_starts_and_stops_alternate(
            steps in proptest::collection::vec((0_u8..7, any::<bool>(), any::<bool>(), 0_u64..5_000), 1..100),
        ) {
            let mut machine = Machine::new(at(0));
            let (mut now, mut running) = (at(0), false);
            for (kind, component, gate, passed) in steps {
                now = now + Duration::from_millis(passed);
                let event = match kind {
                    0..=2 => Event::Conditions { component, gate },
                    3 => Event::Started(Ok(())),
                    4 => Event::Started(Err("x".into())),
                    5 => Event::Ended("x".into()),
                    _ => match machine.wake_at() {
                        Some(due) => { now = now.max(due); Event::Due }
                        None => continue,
                    },
                };
                let refused = matches!(event, Event::Started(Err(_))) && machine.status().state == State::Starting;
                match machine.on(event, now, 0.3) {
                    Some(Action::Start) => { prop_assert!(!running); running = true; }
                    Some(Action::Stop) => running = false,
                    None => {}
                }
                if refused { running = false; }
                let state = machine.status().state;
                prop_assert_eq!(running, matches!(state, State::Starting | State::Active));
                prop_assert_eq!(machine.wake_at().is_some(), state == State::Retrying);
            }
        }
    }
}
