//! The life of one component's connection, as decisions over given events.
//!
//! ```text
//!  PENDING ──► CONNECTING ──► READY
//!     ▲          │   ▲ │        │
//!     │          │   │ └► UNAVAILABLE ◄─ loss
//!     └ REJECTED ◄┘   └──── due or kicked ┘          any ──► CLOSING
//! ```
//!
//! Owns: when to try, when to ping, when a connection counts as lost, what is worth a log line.
//! Never: connects, sleeps, logs or reads a clock; the supervisor of `outrigger-sidecar` does.
//! Start at [`Machine::on`]. Tests: below, under a virtual clock, and `tests/e2e` on real servers.

use std::fmt;
use std::time::Duration;

use outrigger_core::shown::clean;
use outrigger_policy::{Backoff, Moment};

/// What kind of obstacle an error is; decides how soon another attempt makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Refused, reset, unreachable, starting: worth trying again soon.
    Transient,
    /// No answer in time.
    Timeout,
    /// The server refused who we are. Somebody will fix that on the server, so it is tried again, slowly.
    Auth,
    /// A secret that the settings name cannot be read.
    Secret,
    /// The driver panicked; the panic was caught.
    Panic,
    /// The resource itself is wrong; only a change of it can help.
    Config,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "TRANSIENT",
            Self::Timeout => "TIMEOUT",
            Self::Auth => "AUTH",
            Self::Secret => "SECRET",
            Self::Panic => "PANIC",
            Self::Config => "CONFIG",
        }
    }

    /// Soon-to-heal obstacles: callers wait a moment, and may ask for an attempt out of turn.
    pub fn is_fast(self) -> bool {
        matches!(self, Self::Transient | Self::Timeout)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub class: Class,
    pub message: String,
}

impl Failure {
    /// Everybody may read what is kept of the message: credentials in it are hidden.
    pub fn new(class: Class, message: impl AsRef<str>) -> Self {
        Self {
            class,
            message: clean(message.as_ref()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Waits for something else: a secret store, or its first use.
    Pending,
    Connecting,
    Ready,
    Unavailable,
    Rejected,
    Closing,
}

impl State {
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Connecting,
        Self::Ready,
        Self::Unavailable,
        Self::Rejected,
        Self::Closing,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Closing => "closing",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The numbers of the machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timing {
    /// Bounds each attempt, the first ping included.
    pub attempt: Duration,
    pub fast: Backoff,
    pub slow: Backoff,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            attempt: seconds(5),
            fast: Backoff {
                base: Duration::from_millis(500),
                cap: seconds(10),
            },
            slow: Backoff {
                base: seconds(5),
                cap: seconds(60),
            },
            ping_interval: seconds(10),
            ping_timeout: seconds(2),
        }
    }
}

/// After this much uninterrupted readiness the attempts are counted from one again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);
/// A first failed ping is repeated after this.
const PING_AGAIN: Duration = Duration::from_secs(1);
/// A persisting failure is told this often.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// A kick brings an attempt forward only if it is further away than this, and at most once in this time.
const KICK_WINDOW: Duration = Duration::from_secs(1);

/// Why an attempt out of turn is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kick {
    /// A caller needs the component.
    Call,
    /// An operator, a signal, a changed secret, or a neighbour on the same server that came back.
    News,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// All that the component depends on is there.
    DependenciesReady,
    /// The attempt under way ended; success includes the first ping.
    Attempted(Result<(), Failure>),
    /// The driver saw its connection end.
    Lost(Failure),
    /// A real call failed in a way that casts doubt on the connection.
    Suspected,
    Pinged(Result<(), Failure>),
    /// A fresh connection answered where the present one did not, and has taken its place.
    Renewed,
    Kicked(Kick),
    /// The component cannot start as it is written.
    Refused(Failure),
    /// The resource changed: begin again.
    Changed,
    Close,
    /// The moment of [`Machine::wake_at`] has come.
    Due,
}

/// What the supervisor has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Start attempt `number`; end it after [`Timing::attempt`], whether the driver cooperates or not.
    Attempt { number: u32 },
    /// End the attempt or the ping that is under way and forget its outcome.
    Abandon,
    /// Ping; on a fresh connection when the present one is doubted. Bounded by [`Timing::ping_timeout`].
    Ping { fresh: bool },
    /// Let go of the driver's instance.
    Release,
    /// Write a log line.
    Tell(Told),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Connected {
        attempt: u32,
        outage: Option<Duration>,
    },
    Failing {
        failure: Failure,
        attempt: u32,
        elapsed: Duration,
        next: Duration,
    },
    Lost {
        failure: Failure,
    },
    Rejected {
        failure: Failure,
    },
}

/// What the rest of the sidecar may know of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub state: State,
    pub since: Moment,
    pub attempt: u32,
    pub failure: Option<Failure>,
    pub next_attempt: Option<Moment>,
    /// When a caller last brought an attempt forward.
    pub kicked_at: Option<Moment>,
    /// Since when there is no connection, after the first failure or loss.
    pub down_since: Option<Moment>,
    pub last_ready: Option<Moment>,
    pub last_ok: Option<Moment>,
    pub ping_failures: u32,
    /// The first attempt has ended, one way or another.
    pub settled: bool,
    /// The component has been ready at least once.
    pub was_ready: bool,
}

impl Status {
    /// Whether a caller who needs the component now brings the next attempt forward.
    pub fn takes_kick(&self, now: Moment) -> bool {
        let is_fast = |failure: &Failure| failure.class.is_fast();
        let is_far = self.next_attempt.is_some_and(|due| due > now + KICK_WINDOW);
        let is_first = self.kicked_at.is_none_or(|at| now.since(at) >= KICK_WINDOW);
        self.state == State::Unavailable
            && self.failure.as_ref().is_some_and(is_fast)
            && is_far
            && is_first
    }
}

#[derive(Clone, Debug)]
pub struct Machine {
    timing: Timing,
    status: Status,
    /// Retry or ping, whichever the state calls for.
    due: Option<Moment>,
    pinging: bool,
    told_at: Option<Moment>,
    told_class: Option<Class>,
    /// Failed attempts of one pace: whoever turns us away is another obstacle than whoever is not there.
    alike: u32,
}

impl Machine {
    pub fn new(timing: Timing, now: Moment) -> Self {
        Self {
            timing,
            status: Status {
                state: State::Pending,
                since: now,
                attempt: 0,
                failure: None,
                next_attempt: None,
                kicked_at: None,
                down_since: None,
                last_ready: None,
                last_ok: None,
                ping_failures: 0,
                settled: false,
                was_ready: false,
            },
            due: None,
            pinging: false,
            told_at: None,
            told_class: None,
            alike: 0,
        }
    }

    pub fn status(&self) -> &Status {
        &self.status
    }

    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// When [`Event::Due`] is to be given.
    pub fn wake_at(&self) -> Option<Moment> {
        self.due
    }

    /// A real call succeeded: as good as a ping.
    pub fn used(&mut self, at: Moment) {
        if self.status.state == State::Ready && self.status.last_ok < Some(at) {
            self.status.last_ok = Some(at);
        }
    }

    /// Takes one event at `now` and says what to do. `dice` lies in `0.0..1.0`.
    pub fn on(&mut self, event: Event, now: Moment, dice: f64) -> Vec<Action> {
        if self.status.state == State::Closing {
            return Vec::new();
        }
        match event {
            Event::Close => self.close(now),
            Event::Changed => self.begin_again(now),
            Event::Refused(failure) => self.reject(failure, now),
            event => match self.status.state {
                State::Pending => self.pending(&event, now),
                State::Connecting => self.connecting(event, now, dice),
                State::Ready => self.ready(event, now, dice),
                State::Unavailable => self.unavailable(&event, now),
                State::Rejected => match event {
                    Event::Kicked(Kick::News) => self.begin_again(now),
                    _ => Vec::new(),
                },
                State::Closing => Vec::new(),
            },
        }
    }

    fn pending(&mut self, event: &Event, now: Moment) -> Vec<Action> {
        if *event == Event::DependenciesReady {
            self.attempt(now)
        } else {
            Vec::new()
        }
    }

    fn connecting(&mut self, event: Event, now: Moment, dice: f64) -> Vec<Action> {
        match event {
            Event::Attempted(Ok(())) => {
                let outage = self.status.down_since.take().map(|since| now.since(since));
                let told = Told::Connected {
                    attempt: self.status.attempt,
                    outage,
                };
                self.enter(State::Ready, now);
                self.status.settled = true;
                self.status.was_ready = true;
                self.status.failure = None;
                self.status.last_ready = Some(now);
                self.status.last_ok = Some(now);
                self.status.ping_failures = 0;
                self.told_at = None;
                self.told_class = None;
                self.plan_ping(now, dice);
                vec![Action::Tell(told)]
            }
            Event::Attempted(Err(failure)) if failure.class == Class::Config => {
                self.rejected(failure, now, Vec::new())
            }
            Event::Attempted(Err(failure)) => self.retry_later(failure, now, dice),
            Event::DependenciesReady
            | Event::Lost(_)
            | Event::Suspected
            | Event::Pinged(_)
            | Event::Renewed
            | Event::Kicked(_)
            | Event::Due
            | Event::Refused(_)
            | Event::Changed
            | Event::Close => Vec::new(),
        }
    }

    fn ready(&mut self, event: Event, now: Moment, dice: f64) -> Vec<Action> {
        match event {
            Event::Lost(failure) => self.lose(failure, now, dice),
            Event::Suspected if !self.pinging => {
                self.pinging = true;
                self.due = None;
                // One failure is enough: there is evidence already.
                self.status.ping_failures = self.status.ping_failures.max(1);
                vec![Action::Ping { fresh: true }]
            }
            Event::Suspected => {
                self.status.ping_failures = self.status.ping_failures.max(1);
                Vec::new()
            }
            Event::Due => {
                let quiet = self
                    .status
                    .last_ok
                    .is_none_or(|at| now.since(at) >= self.timing.ping_interval / 2);
                if self.status.ping_failures == 0 && !quiet {
                    self.plan_ping(now, dice);
                    return Vec::new();
                }
                self.pinging = true;
                self.due = None;
                vec![Action::Ping {
                    fresh: self.status.ping_failures > 0,
                }]
            }
            Event::Renewed => {
                let actions = if std::mem::take(&mut self.pinging) {
                    vec![Action::Abandon]
                } else {
                    Vec::new()
                };
                self.status.ping_failures = 0;
                self.status.last_ok = Some(now);
                self.plan_ping(now, dice);
                actions
            }
            Event::Pinged(Ok(())) if self.pinging => {
                self.pinging = false;
                self.status.ping_failures = 0;
                self.status.last_ok = Some(now);
                self.plan_ping(now, dice);
                Vec::new()
            }
            Event::Pinged(Err(failure)) if self.pinging => {
                self.pinging = false;
                self.status.ping_failures += 1;
                if self.status.ping_failures >= 2 {
                    return self.lose(failure, now, dice);
                }
                self.due = Some(now + PING_AGAIN);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn unavailable(&mut self, event: &Event, now: Moment) -> Vec<Action> {
        match event {
            Event::Due => self.attempt(now),
            Event::Kicked(Kick::News) => self.attempt(now),
            Event::Kicked(Kick::Call) => {
                if self.status.takes_kick(now) {
                    self.status.kicked_at = Some(now);
                    return self.attempt(now);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn attempt(&mut self, now: Moment) -> Vec<Action> {
        self.enter(State::Connecting, now);
        self.status.attempt += 1;
        vec![Action::Attempt {
            number: self.status.attempt,
        }]
    }

    fn retry_later(&mut self, failure: Failure, now: Moment, dice: f64) -> Vec<Action> {
        self.status.down_since.get_or_insert(now);
        let backoff = if failure.class.is_fast() {
            self.timing.fast
        } else {
            self.timing.slow
        };
        let was_fast = self.status.failure.as_ref();
        let was_fast = was_fast.is_none_or(|before| before.class.is_fast());
        if was_fast != failure.class.is_fast() {
            self.alike = 0;
        }
        self.alike = self.alike.saturating_add(1).min(self.status.attempt);
        let delay = backoff.delay(self.alike, dice);
        self.wait(failure, delay, now)
    }

    /// The connection that was there is gone: the first attempt comes within half a second.
    fn lose(&mut self, failure: Failure, now: Moment, dice: f64) -> Vec<Action> {
        if self
            .status
            .last_ready
            .is_some_and(|at| now.since(at) >= FORGIVEN_AFTER)
        {
            self.status.attempt = 0;
        }
        self.status.down_since = Some(now);
        let mut actions = vec![Action::Tell(Told::Lost {
            failure: failure.clone(),
        })];
        if std::mem::take(&mut self.pinging) {
            actions.push(Action::Abandon);
        }
        actions.push(Action::Release);
        // The line about the loss stands for the first failure.
        self.told_at = Some(now);
        self.told_class = Some(failure.class);
        let delay = self.timing.fast.delay(1, dice);
        actions.extend(self.wait(failure, delay, now));
        actions
    }

    fn wait(&mut self, failure: Failure, delay: Duration, now: Moment) -> Vec<Action> {
        self.enter(State::Unavailable, now);
        self.status.settled = true;
        let news = self.told_class != Some(failure.class)
            || self.told_at.is_none_or(|at| now.since(at) >= TELL_AGAIN);
        let mut actions = Vec::new();
        if news {
            self.told_at = Some(now);
            self.told_class = Some(failure.class);
            actions.push(Action::Tell(Told::Failing {
                failure: failure.clone(),
                attempt: self.status.attempt,
                elapsed: self
                    .status
                    .down_since
                    .map(|since| now.since(since))
                    .unwrap_or_default(),
                next: delay,
            }));
        }
        self.status.failure = Some(failure);
        self.due = Some(now + delay);
        self.status.next_attempt = self.due;
        actions
    }

    fn reject(&mut self, failure: Failure, now: Moment) -> Vec<Action> {
        let actions = self.let_go();
        self.rejected(failure, now, actions)
    }

    fn rejected(&mut self, failure: Failure, now: Moment, mut actions: Vec<Action>) -> Vec<Action> {
        self.enter(State::Rejected, now);
        self.status.settled = true;
        actions.push(Action::Tell(Told::Rejected {
            failure: failure.clone(),
        }));
        self.status.failure = Some(failure);
        actions
    }

    fn begin_again(&mut self, now: Moment) -> Vec<Action> {
        let actions = self.let_go();
        self.enter(State::Pending, now);
        self.status.attempt = 0;
        self.status.failure = None;
        self.told_at = None;
        self.told_class = None;
        actions
    }

    fn close(&mut self, now: Moment) -> Vec<Action> {
        let actions = self.let_go();
        self.enter(State::Closing, now);
        actions
    }

    /// What has to end before the state that holds it is left.
    fn let_go(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.status.state == State::Connecting || std::mem::take(&mut self.pinging) {
            actions.push(Action::Abandon);
        }
        if self.status.state == State::Ready {
            actions.push(Action::Release);
        }
        actions
    }

    fn enter(&mut self, state: State, now: Moment) {
        if self.status.state != state {
            self.status.state = state;
            self.status.since = now;
        }
        self.due = None;
        self.status.next_attempt = None;
    }

    fn plan_ping(&mut self, now: Moment, dice: f64) {
        // A fifth earlier or later, so that a fleet does not ping in step.
        self.due = Some(
            now + self
                .timing
                .ping_interval
                .mul_f64(0.8 + 0.4 * dice.clamp(0.0, 1.0)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    fn transient() -> Failure {
        Failure::new(Class::Transient, "connection refused")
    }

    fn machine() -> Machine {
        Machine::new(Timing::default(), at(0))
    }

    fn connected() -> Machine {
        let mut machine = machine();
        machine.on(Event::DependenciesReady, at(0), 0.5);
        machine.on(Event::Attempted(Ok(())), at(10), 0.5);
        machine
    }

    #[track_caller]
    fn state(machine: &Machine, expected: State) {
        assert_eq!(machine.status().state, expected);
    }

    #[test]
    fn an_attempt_follows_the_dependencies_and_success_makes_ready() {
        let mut machine = machine();
        assert_eq!(
            machine.on(Event::DependenciesReady, at(0), 0.5),
            [Action::Attempt { number: 1 }]
        );
        state(&machine, State::Connecting);
        let told = machine.on(Event::Attempted(Ok(())), at(10), 0.5);
        assert_eq!(
            told,
            [Action::Tell(Told::Connected {
                attempt: 1,
                outage: None
            })]
        );
        state(&machine, State::Ready);
        assert_eq!(machine.wake_at(), Some(at(10_010)));
    }

    #[test]
    fn attempts_go_on_for_ever_and_the_log_stays_quiet() {
        let mut machine = machine();
        machine.on(Event::DependenciesReady, at(0), 0.5);
        let (mut lines, mut now) = (0, at(0));
        for attempt in 1..200_u32 {
            now = now + Duration::from_millis(5);
            lines += machine
                .on(Event::Attempted(Err(transient())), now, 1.0)
                .iter()
                .filter(|a| matches!(a, Action::Tell(_)))
                .count();
            let due = machine.wake_at().unwrap();
            assert!(due > now && due <= now + Duration::from_secs(10));
            now = due;
            assert_eq!(
                machine.on(Event::Due, now, 1.0),
                [Action::Attempt {
                    number: attempt + 1
                }]
            );
        }
        let minutes = now.distance_from_start().as_secs() / 60;
        assert!(
            lines as u64 <= minutes + 2,
            "{lines} lines in {minutes} minutes"
        );
    }

    #[test]
    fn a_login_that_is_refused_after_a_long_outage_is_tried_again_within_five_seconds() {
        let mut machine = machine();
        machine.on(Event::DependenciesReady, at(0), 1.0);
        let mut now = at(0);
        let mut fail = |class, expected: Option<u64>| {
            machine.on(Event::Attempted(Err(Failure::new(class, "x"))), now, 1.0);
            let next = machine.wake_at().unwrap();
            let delay = next.since(now);
            assert!(
                expected.is_none_or(|seconds| delay == Duration::from_secs(seconds)),
                "{delay:?}"
            );
            now = next;
            machine.on(Event::Due, now, 1.0);
        };
        for _ in 0..8 {
            fail(Class::Transient, None);
        }
        for seconds in [5, 10, 20] {
            fail(Class::Auth, Some(seconds));
        }
    }

    #[test]
    fn no_failure_keeps_a_password() {
        let failure = Failure::new(Class::Transient, "file:/x.db?password=Top: no such file");
        assert!(!failure.message.contains("Top"), "{}", failure.message);
    }

    #[test]
    fn a_refused_login_is_tried_slowly() {
        let mut machine = machine();
        machine.on(Event::DependenciesReady, at(0), 0.0);
        let (mut now, mut attempts) = (at(0), 1);
        while now < at(45_000) {
            machine.on(
                Event::Attempted(Err(Failure::new(Class::Auth, "ACCESS_REFUSED"))),
                now,
                0.0,
            );
            now = machine.wake_at().unwrap();
            machine.on(Event::Due, now, 0.0);
            attempts += 1;
        }
        assert!(
            attempts <= 7,
            "{attempts}: six within 45 s, and the one behind"
        );
    }

    #[test]
    fn a_wrong_resource_is_not_tried_again_until_it_changes() {
        let mut machine = machine();
        machine.on(Event::DependenciesReady, at(0), 0.5);
        machine.on(
            Event::Attempted(Err(Failure::new(Class::Config, "no such type"))),
            at(5),
            0.5,
        );
        state(&machine, State::Rejected);
        assert_eq!(machine.wake_at(), None);
        assert_eq!(machine.on(Event::Kicked(Kick::Call), at(10), 0.5), []);
        machine.on(Event::Changed, at(20), 0.5);
        assert_eq!(
            machine.on(Event::DependenciesReady, at(20), 0.5),
            [Action::Attempt { number: 1 }]
        );
    }

    #[test]
    fn a_lost_connection_is_tried_again_within_half_a_second() {
        let mut machine = connected();
        let actions = machine.on(Event::Lost(transient()), at(1_000), 1.0);
        assert_eq!(
            actions,
            [
                Action::Tell(Told::Lost {
                    failure: transient()
                }),
                Action::Release
            ]
        );
        state(&machine, State::Unavailable);
        assert!(machine.wake_at().unwrap() <= at(1_500));
    }

    #[test]
    fn a_silent_server_is_found_by_two_pings() {
        let mut machine = connected();
        let first = machine.wake_at().unwrap();
        assert_eq!(
            machine.on(Event::Due, first, 1.0),
            [Action::Ping { fresh: false }]
        );
        let late = first + Duration::from_secs(2);
        machine.on(
            Event::Pinged(Err(Failure::new(Class::Timeout, "no answer"))),
            late,
            1.0,
        );
        state(&machine, State::Ready);
        let second = machine.wake_at().unwrap();
        assert_eq!(second, late + Duration::from_secs(1));
        assert_eq!(
            machine.on(Event::Due, second, 1.0),
            [Action::Ping { fresh: true }]
        );
        machine.on(
            Event::Pinged(Err(Failure::new(Class::Timeout, "no answer"))),
            second + Duration::from_secs(2),
            1.0,
        );
        state(&machine, State::Unavailable);
        let worst = Duration::from_secs(12 + 2 + 1 + 2);
        assert!(machine.status().since.since(at(10)) <= worst);
    }

    #[test]
    fn real_calls_spare_the_ping() {
        let mut machine = connected();
        let due = machine.wake_at().unwrap();
        machine.used(due - Duration::from_secs(1));
        assert_eq!(machine.on(Event::Due, due, 0.5), []);
        state(&machine, State::Ready);
    }

    #[test]
    fn a_doubted_connection_is_pinged_at_once_and_one_failure_is_enough() {
        let mut machine = connected();
        assert_eq!(
            machine.on(Event::Suspected, at(500), 0.5),
            [Action::Ping { fresh: true }]
        );
        assert_eq!(machine.on(Event::Suspected, at(501), 0.5), []);
        machine.on(Event::Pinged(Err(transient())), at(510), 0.5);
        state(&machine, State::Unavailable);
    }

    #[test]
    fn a_doubt_that_proves_wrong_changes_nothing() {
        let mut machine = connected();
        machine.on(Event::Suspected, at(500), 0.5);
        machine.on(Event::Pinged(Ok(())), at(510), 0.5);
        state(&machine, State::Ready);
        assert_eq!(machine.status().ping_failures, 0);
    }

    #[test]
    fn a_call_brings_a_far_attempt_forward_once_a_second() {
        let mut machine = machine();
        machine.on(Event::DependenciesReady, at(0), 1.0);
        let mut now = at(0);
        for _ in 0..8 {
            machine.on(Event::Attempted(Err(transient())), now, 1.0);
            now = machine.wake_at().unwrap();
            machine.on(Event::Due, now, 1.0);
        }
        machine.on(Event::Attempted(Err(transient())), now, 1.0);
        assert!(machine.wake_at().unwrap() > now + Duration::from_secs(1));
        assert_eq!(machine.on(Event::Kicked(Kick::Call), now, 1.0).len(), 1);
        machine.on(Event::Attempted(Err(transient())), now, 1.0);
        assert_eq!(
            machine.on(Event::Kicked(Kick::Call), now, 1.0),
            [],
            "a second kick in the same second"
        );
    }

    #[test]
    fn attempts_are_forgiven_after_half_a_minute() {
        let mut machine = machine();
        machine.on(Event::DependenciesReady, at(0), 0.5);
        machine.on(Event::Attempted(Err(transient())), at(1), 0.5);
        machine.on(Event::Due, machine.wake_at().unwrap(), 0.5);
        machine.on(Event::Attempted(Ok(())), at(1_000), 0.5);
        machine.on(Event::Lost(transient()), at(40_000), 0.5);
        assert_eq!(
            machine.on(Event::Due, machine.wake_at().unwrap(), 0.5),
            [Action::Attempt { number: 1 }]
        );
    }

    #[test]
    fn recovery_tells_the_length_of_the_outage() {
        let mut machine = connected();
        machine.on(Event::Lost(transient()), at(1_000), 0.5);
        machine.on(Event::Due, machine.wake_at().unwrap(), 0.5);
        let told = machine.on(Event::Attempted(Ok(())), at(4_000), 0.5);
        assert_eq!(
            told,
            [Action::Tell(Told::Connected {
                attempt: 2,
                outage: Some(Duration::from_secs(3))
            })]
        );
    }

    #[test]
    fn a_renewed_connection_is_doubted_no_more() {
        let mut machine = connected();
        assert_eq!(
            machine.on(Event::Suspected, at(1_000), 0.5),
            [Action::Ping { fresh: true }]
        );
        assert_eq!(
            machine.on(Event::Renewed, at(2_000), 0.5),
            [Action::Abandon]
        );
        let status = machine.status();
        assert_eq!(
            (status.state, status.ping_failures, status.last_ok),
            (State::Ready, 0, Some(at(2_000)))
        );
        assert!(machine.wake_at().is_some());
    }

    #[test]
    fn closing_ends_what_is_under_way() {
        let mut connecting = machine();
        connecting.on(Event::DependenciesReady, at(0), 0.5);
        assert_eq!(connecting.on(Event::Close, at(1), 0.5), [Action::Abandon]);
        let mut ready = connected();
        assert_eq!(ready.on(Event::Close, at(1), 0.5), [Action::Release]);
        assert_eq!(ready.on(Event::Lost(transient()), at(2), 0.5), []);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let failure = || {
            prop_oneof![
                Just(Class::Transient),
                Just(Class::Timeout),
                Just(Class::Auth),
                Just(Class::Secret),
                Just(Class::Panic),
                Just(Class::Config)
            ]
            .prop_map(|class| Failure::new(class, "x"))
        };
        prop_oneof![
            Just(Event::DependenciesReady),
            Just(Event::Attempted(Ok(()))),
            failure().prop_map(|f| Event::Attempted(Err(f))),
            failure().prop_map(Event::Lost),
            Just(Event::Suspected),
            Just(Event::Pinged(Ok(()))),
            Just(Event::Renewed),
            failure().prop_map(|f| Event::Pinged(Err(f))),
            Just(Event::Kicked(Kick::Call)),
            Just(Event::Kicked(Kick::News)),
            failure().prop_map(Event::Refused),
            Just(Event::Changed),
            Just(Event::Due),
            Just(Event::Due),
            Just(Event::Due),
        ]
    }

    /// What the supervisor holds at any moment, to judge the machine by.
    #[derive(Default)]
    struct Held {
        attempt: bool,
        ping: bool,
        instance: bool,
    }

    proptest! {
        #[test]
        fn whatever_happens_the_machine_keeps_its_promises(
            steps in proptest::collection::vec((any_event(), 0_u64..20_000, 0.0_f64..1.0), 1..120),
        ) {
            let mut machine = machine();
            let mut held = Held::default();
            let mut now = at(0);
            for (mut event, passed, dice) in steps {
                now = now + Duration::from_millis(passed);
                // Only what can happen: outcomes of what is under way, due moments that have come.
                match &event {
                    Event::Attempted(_) if !held.attempt => continue,
                    Event::Pinged(_) if !held.ping => continue,
                    Event::Due => match machine.wake_at() {
                        Some(due) => now = now.max(due),
                        None => continue,
                    },
                    _ => {}
                }
                let before = machine.status().state;
                if let Event::Attempted(outcome) = &mut event {
                    held.attempt = false;
                    held.instance = outcome.is_ok();
                }
                if matches!(event, Event::Pinged(_)) {
                    held.ping = false;
                }
                let actions = machine.on(event.clone(), now, dice);
                for action in &actions {
                    match action {
                        Action::Attempt { .. } => {
                            prop_assert!(!held.attempt && !held.instance, "one attempt at a time, and none beside an instance");
                            held.attempt = true;
                        }
                        Action::Ping { .. } => {
                            prop_assert!(held.instance && !held.ping);
                            held.ping = true;
                        }
                        Action::Abandon => {
                            prop_assert!(held.attempt || held.ping);
                            held.attempt = false;
                            held.ping = false;
                        }
                        Action::Release => {
                            prop_assert!(held.instance);
                            held.instance = false;
                        }
                        Action::Tell(_) => {}
                    }
                }
                let status = machine.status();
                let after = status.state;
                let allowed = matches!(
                    (before, after),
                    (State::Pending, State::Connecting)
                        | (State::Connecting, State::Ready | State::Unavailable)
                        | (State::Ready, State::Unavailable)
                        | (State::Unavailable, State::Connecting)
                        | (_, State::Rejected | State::Pending)
                );
                prop_assert!(before == after || allowed, "{before} -> {after} on {event:?}");
                prop_assert_eq!(held.instance, after == State::Ready);
                prop_assert_eq!(held.attempt, after == State::Connecting);
                match after {
                    State::Unavailable => {
                        let due = machine.wake_at();
                        prop_assert!(due.is_some_and(|due| due <= now + Duration::from_secs(60)), "never given up");
                        prop_assert_eq!(status.next_attempt, due);
                        prop_assert!(status.failure.is_some());
                    }
                    State::Ready => prop_assert!(machine.wake_at().is_some() != held.ping, "either pinging or about to"),
                    State::Pending | State::Rejected | State::Closing => prop_assert_eq!(machine.wake_at(), None),
                    State::Connecting => {}
                }
            }
        }
    }
}
