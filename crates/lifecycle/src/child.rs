//! The life of an app that is our child: started, watched, started again, told to end.
//!
//! ```text
//!  IDLE ─► RUNNING ─► CLEARING ─► OVER
//!             ▲           │
//!             └─ PAUSED ◄─┘  a restart is due
//! ```
//! CLEARING: it has ended, and what it left behind is told to end, and killed in the end.
//!
//! Owns: whether and when it is started again, how long it and what it left behind get to end, what its end means for the
//! exit code.
//! Never: starts, signals or waits for a process; the binary's `run` does.

use std::time::Duration;

use outrigger_policy::{Backoff, Moment};

/// Whether it is started again when it ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restart {
    #[default]
    Never,
    /// Unless its exit code is 0.
    OnFailure,
    Always,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub restart: Restart,
    /// What it gets to end by itself once told.
    pub stop_timeout: Duration,
    /// It is told when the end begins, not when all work is done.
    pub signal_first: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Idle,
    Running,
    Clearing,
    Paused,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Start,
    /// The process has ended with this code, or could not be started again.
    Ended(u8),
    /// Whether anything is left that it started.
    Rest(bool),
    /// The end of everything has begun: no more starts.
    Ending,
    /// It is to be gone within this time.
    Stop(Duration),
    Due,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Spawn,
    Terminate,
    TerminateRest,
    /// The process and everything that it started.
    Kill,
}

const RESTART: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(30),
};
/// One process does not need chance in its pauses.
const NO_DICE: f64 = 1.0;
/// Having run for this long it counts as good.
const GOOD_RUN: Duration = Duration::from_secs(30);
/// For what it left behind when it ended by itself.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// For the kernel to end what was killed.
const KILLED: Duration = Duration::from_secs(1);
/// What the code of a process is that SIGTERM has ended.
const TERMINATED: u8 = 128 + 15;
/// We had to kill it.
const FORCED: u8 = 1;

#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    since: Moment,
    /// What `Due` is about in this state.
    due: Option<Moment>,
    /// Ends in a row after a short run.
    failures: u32,
    ending: bool,
    told: bool,
    /// What is left gets no more time.
    killing: bool,
    /// It, or something that it started, did not end when told.
    forced: bool,
    /// Of its last end.
    code: Option<u8>,
    /// Its end was its own, and final.
    ended: Option<u8>,
    ended_at: Moment,
    /// When it is to be started again.
    restart_at: Option<Moment>,
}

impl Machine {
    pub fn new(settings: Settings, now: Moment) -> Self {
        Self {
            settings,
            state: State::Idle,
            since: now,
            due: None,
            failures: 0,
            ending: false,
            told: false,
            killing: false,
            forced: false,
            code: None,
            ended: None,
            ended_at: now,
            restart_at: None,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn wake_at(&self) -> Option<Moment> {
        self.due
    }

    /// Its exit code, once it has ended by itself and is not started again.
    pub fn ended(&self) -> Option<u8> {
        self.ended
    }

    /// How long after its end it is to be started again, if it is.
    pub fn pause(&self) -> Option<Duration> {
        Some(self.restart_at?.since(self.ended_at))
    }

    /// What its end adds to the exit code of the whole: nothing if it did as it was told.
    pub fn verdict(&self) -> u8 {
        match self.code {
            _ if self.forced => FORCED,
            Some(TERMINATED) if self.told => 0,
            // Between two starts: it was going to be there again.
            _ if self.ended.is_none() && !self.told => 0,
            code => code.unwrap_or(0),
        }
    }

    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Action> {
        match (self.state, event) {
            (State::Idle, Event::Start) => self.spawn(now),
            (State::Running, Event::Ended(code)) => self.process_ended(code, now),
            (State::Clearing, Event::Rest(false)) => self.cleared(now),
            (State::Clearing, Event::Rest(true)) => vec![self.clear()],
            (_, Event::Ending) => self.end_began(now),
            (_, Event::Stop(limit)) => self.stop(limit, now),
            (_, Event::Due) if self.due.is_some_and(|due| due <= now) => self.on_due(now),
            _ => Vec::new(),
        }
    }

    fn spawn(&mut self, now: Moment) -> Vec<Action> {
        self.enter(State::Running, now);
        (self.killing, self.forced) = (false, false);
        self.restart_at = None;
        vec![Action::Spawn]
    }

    fn process_ended(&mut self, code: u8, now: Moment) -> Vec<Action> {
        self.code = Some(code);
        self.ended_at = now;
        if now.since(self.since) >= GOOD_RUN {
            self.failures = 0;
        }
        let again = match self.settings.restart {
            Restart::Never => false,
            Restart::OnFailure => code != 0,
            Restart::Always => true,
        };
        let limit = self.due.unwrap_or(now + LEFT_BEHIND);
        if self.ending || !again {
            if !self.told {
                self.ended = Some(code);
            }
        } else {
            self.failures = self.failures.saturating_add(1);
            self.restart_at = Some(now + RESTART.delay(self.failures, NO_DICE));
        }
        self.enter(State::Clearing, now);
        self.due = Some(limit);
        vec![self.clear()]
    }

    fn clear(&self) -> Action {
        if self.killing {
            Action::Kill
        } else {
            Action::TerminateRest
        }
    }

    /// Nothing is left of it.
    fn cleared(&mut self, now: Moment) -> Vec<Action> {
        match self.restart_at {
            Some(at) if !self.ending => {
                self.enter(State::Paused, now);
                self.due = Some(at);
            }
            _ => self.enter(State::Over, now),
        }
        Vec::new()
    }

    fn end_began(&mut self, now: Moment) -> Vec<Action> {
        self.ending = true;
        self.restart_at = None;
        match self.state {
            State::Idle | State::Paused => {
                self.enter(State::Over, now);
                Vec::new()
            }
            State::Running if self.settings.signal_first => self.terminate(),
            State::Running | State::Clearing | State::Over => Vec::new(),
        }
    }

    fn terminate(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.told, true) {
            return Vec::new();
        }
        vec![Action::Terminate]
    }

    fn stop(&mut self, limit: Duration, now: Moment) -> Vec<Action> {
        let mut actions = self.end_began(now);
        if matches!(self.state, State::Running | State::Clearing) {
            let deadline = now + limit.min(self.settings.stop_timeout);
            self.due = Some(self.due.map_or(deadline, |due| due.min(deadline)));
        }
        if self.state == State::Running {
            actions.extend(self.terminate());
        }
        actions
    }

    fn on_due(&mut self, now: Moment) -> Vec<Action> {
        match self.state {
            State::Paused => self.spawn(now),
            State::Running | State::Clearing if !self.killing => {
                self.killing = true;
                self.forced = self.state == State::Running || self.told;
                self.due = Some(now + KILLED);
                vec![Action::Kill]
            }
            // Not even the kernel gets rid of it.
            State::Running => {
                self.enter(State::Over, now);
                Vec::new()
            }
            State::Clearing => self.cleared(now),
            State::Idle | State::Over => Vec::new(),
        }
    }

    fn enter(&mut self, state: State, now: Moment) {
        self.state = state;
        self.since = now;
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

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn running(restart: Restart) -> Machine {
        let settings = Settings {
            restart,
            stop_timeout: secs(10),
            signal_first: false,
        };
        let mut machine = Machine::new(settings, at(0));
        assert_eq!(machine.on(Event::Start, at(0)), [Action::Spawn]);
        machine
    }

    /// It ends and leaves nothing behind.
    fn end(machine: &mut Machine, code: u8, now: Moment) {
        machine.on(Event::Ended(code), now);
        machine.on(Event::Rest(false), now);
    }

    #[test]
    fn its_end_is_final_unless_it_is_to_be_started_again() {
        for (restart, code, ended) in [
            (Restart::Never, 0, Some(0)),
            (Restart::Never, 3, Some(3)),
            (Restart::OnFailure, 0, Some(0)),
            (Restart::OnFailure, 3, None),
            (Restart::Always, 0, None),
            (Restart::Always, 139, None),
        ] {
            let mut machine = running(restart);
            end(&mut machine, code, at(10));
            assert_eq!(machine.ended(), ended, "{restart:?} {code}");
            let state = if ended.is_some() {
                State::Over
            } else {
                State::Paused
            };
            assert_eq!(machine.state(), state, "{restart:?} {code}");
        }
    }

    #[test]
    fn pauses_grow_from_one_second_to_thirty_and_a_good_run_begins_anew() {
        let mut machine = running(Restart::OnFailure);
        let (mut now, mut pauses) = (at(0), Vec::new());
        for _ in 0..8 {
            end(&mut machine, 1, now);
            let due = machine.wake_at().unwrap();
            pauses.push(due.since(now).as_secs());
            assert_eq!(machine.on(Event::Due, due), [Action::Spawn]);
            now = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        let almost = now + Duration::from_millis(29_999);
        end(&mut machine, 1, almost);
        let due = machine.wake_at().unwrap();
        assert_eq!(due.since(almost), secs(30));
        machine.on(Event::Due, due);
        end(&mut machine, 1, due + secs(30));
        assert_eq!(machine.wake_at(), Some(due + secs(31)));
    }

    #[test]
    fn told_to_stop_it_has_its_time_and_is_killed_after_that() {
        let mut machine = running(Restart::Always);
        assert_eq!(machine.on(Event::Ending, at(0)), []);
        assert_eq!(
            machine.on(Event::Stop(secs(60)), at(1_000)),
            [Action::Terminate]
        );
        assert_eq!(machine.wake_at(), Some(at(11_000)));
        assert_eq!(machine.on(Event::Due, at(11_000)), [Action::Kill]);
        assert_eq!(machine.on(Event::Ended(137), at(11_010)), [Action::Kill]);
        assert_eq!(machine.on(Event::Rest(true), at(11_020)), [Action::Kill]);
        machine.on(Event::Rest(false), at(11_030));
        assert_eq!((machine.state(), machine.verdict()), (State::Over, 1));
    }

    #[test]
    fn less_time_is_given_when_less_is_left_and_never_more() {
        let mut machine = running(Restart::Never);
        machine.on(Event::Stop(secs(3)), at(0));
        assert_eq!(machine.on(Event::Stop(secs(60)), at(1_000)), []);
        assert_eq!(machine.wake_at(), Some(at(3_000)));
        machine.on(Event::Stop(Duration::ZERO), at(1_500));
        assert_eq!(machine.wake_at(), Some(at(1_500)));
        assert_eq!(machine.on(Event::Due, at(1_500)), [Action::Kill]);
    }

    #[test]
    fn with_the_signal_first_it_is_told_once_and_its_time_counts_from_the_stop() {
        let settings = Settings {
            restart: Restart::Always,
            stop_timeout: secs(10),
            signal_first: true,
        };
        let mut machine = Machine::new(settings, at(0));
        machine.on(Event::Start, at(0));
        assert_eq!(machine.on(Event::Ending, at(0)), [Action::Terminate]);
        assert_eq!(machine.wake_at(), None);
        assert_eq!(machine.on(Event::Stop(secs(60)), at(20_000)), []);
        assert_eq!(machine.wake_at(), Some(at(30_000)));
        end(&mut machine, 0, at(21_000));
        assert_eq!((machine.state(), machine.verdict()), (State::Over, 0));
    }

    #[test]
    fn the_code_of_the_whole_is_what_the_app_made_of_being_told() {
        for (code, verdict) in [(0, 0), (143, 0), (3, 3), (139, 139)] {
            let mut machine = running(Restart::Never);
            machine.on(Event::Stop(secs(60)), at(0));
            end(&mut machine, code, at(1));
            assert_eq!(machine.verdict(), verdict, "{code}");
        }
        let mut by_itself = running(Restart::Always);
        by_itself.on(Event::Ending, at(0));
        end(&mut by_itself, 143, at(1));
        assert_eq!(by_itself.verdict(), 143, "nobody told it");
        let mut paused = running(Restart::Always);
        end(&mut paused, 3, at(1));
        paused.on(Event::Ending, at(2));
        assert_eq!((paused.state(), paused.verdict()), (State::Over, 0));
    }

    #[test]
    fn what_it_leaves_behind_is_told_then_killed_before_the_next_start() {
        let mut machine = running(Restart::Always);
        assert_eq!(machine.on(Event::Ended(1), at(0)), [Action::TerminateRest]);
        assert_eq!(
            machine.on(Event::Rest(true), at(100)),
            [Action::TerminateRest]
        );
        assert_eq!(machine.on(Event::Due, at(2_000)), [Action::Kill]);
        assert_eq!(machine.on(Event::Rest(true), at(2_050)), [Action::Kill]);
        machine.on(Event::Rest(false), at(2_100));
        assert_eq!(machine.state(), State::Paused);
        assert_eq!(machine.pause(), Some(secs(1)));
        assert_eq!(machine.on(Event::Due, at(2_100)), [Action::Spawn]);
    }

    #[test]
    fn what_a_wrapper_leaves_behind_has_the_wrappers_time() {
        let mut machine = running(Restart::Never);
        machine.on(Event::Stop(secs(60)), at(0));
        assert_eq!(
            machine.on(Event::Ended(143), at(10)),
            [Action::TerminateRest]
        );
        assert_eq!(machine.wake_at(), Some(at(10_000)));
        machine.on(Event::Due, at(10_000));
        machine.on(Event::Rest(false), at(10_010));
        assert_eq!((machine.state(), machine.verdict()), (State::Over, 1));
    }

    #[test]
    fn what_cannot_be_killed_holds_up_the_end_for_a_second() {
        let mut machine = running(Restart::Never);
        machine.on(Event::Ended(0), at(0));
        machine.on(Event::Due, at(2_000));
        machine.on(Event::Rest(true), at(2_900));
        machine.on(Event::Due, at(3_000));
        assert_eq!((machine.state(), machine.verdict()), (State::Over, 0));
    }

    proptest! {
        /// Once the end has begun, nothing is started, and it comes in bounded time whatever the process does.
        #[test]
        fn the_end_comes_and_nothing_is_started_after_it_began(
            restart in prop_oneof![Just(Restart::Never), Just(Restart::OnFailure), Just(Restart::Always)],
            before in proptest::collection::vec((0_u8..4, any::<u8>(), 0_u64..40_000), 0..40),
            limit in 0_u64..30_000,
            left in any::<bool>(),
            ends in any::<bool>(),
        ) {
            let mut machine = running(restart);
            let mut now = at(0);
            for (kind, code, passed) in before {
                now = now + Duration::from_millis(passed);
                match kind {
                    0 => { machine.on(Event::Ended(code), now); }
                    1 => { machine.on(Event::Rest(code % 2 == 0), now); }
                    _ => { machine.on(Event::Due, now); }
                }
                prop_assert!(
                    machine.state() != State::Clearing && machine.state() != State::Paused || machine.wake_at().is_some(),
                    "it would stay {:?} for ever", machine.state()
                );
            }
            let began = now;
            machine.on(Event::Ending, now);
            let mut actions = machine.on(Event::Stop(Duration::from_millis(limit)), now);
            while machine.state() != State::Over {
                let due = machine.wake_at();
                prop_assert!(due.is_some(), "it would never end");
                now = now.max(due.unwrap_or(now));
                if ends {
                    actions.extend(machine.on(Event::Ended(0), now));
                }
                actions.extend(machine.on(Event::Rest(left), now));
                actions.extend(machine.on(Event::Due, now));
            }
            prop_assert!(!actions.contains(&Action::Spawn));
            let most = Duration::from_millis(limit).min(secs(10)).max(LEFT_BEHIND) + LEFT_BEHIND + KILLED * 2;
            prop_assert!(now.since(began) <= most, "{:?}", now.since(began));
            prop_assert_eq!(machine.on(Event::Start, now), []);
        }
    }
}
