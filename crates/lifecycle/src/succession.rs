//! A component whose definition changes: the one that serves, and the one that is to take its place.
//!
//! ```text
//!  changed ─► has what serves ever worked?  no ──► adopt: begin with the new definition
//!                      │ yes
//!                      ▼
//!             may both be open at once?     yes ─► connect beside; ready ─► take over, the old one drains
//!                      │ no
//!                      └─► check everything that needs no second one; good ─► adopt: drain, close, then open
//! ```
//!
//! A new definition that cannot be used leaves what serves as it is, and is tried again like any component.
//! Owns: which of two definitions serves. Never: connects, drains, sleeps or reads a clock; the supervisor does.
//! Start at [`Succession::on`]. Each definition has a machine of [`connection`](crate::connection). Tests: below.

use outrigger_policy::Moment;

use crate::connection::{
    Action as Step, Event as Fact, Failure, Kick, Machine, State, Status, Timing,
};

/// How a new definition comes into its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It connects while the old one serves.
    Beside,
    /// The two must not be open at once: an attempt only checks what can be checked without opening.
    After,
}

/// A definition that differs from what is in place.
#[derive(Clone, PartialEq, Debug)]
pub struct Revision {
    pub turn: Turn,
    pub timing: Timing,
    /// What an offline check found: it cannot work like this.
    pub fault: Option<Failure>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Something happened to what serves.
    Serving(Fact),
    /// Something happened to what is to take its place.
    Heir(Fact),
    /// An attempt out of turn is wanted of whichever needs one.
    Kicked(Kick),
    /// There is a new definition. It replaces one that is still waiting.
    Revised(Revision),
    /// What stands in the resource now is no definition at all.
    Refused(Failure),
    /// The definition of what serves is in force again.
    Withdrawn,
    Close,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// To be done for what serves.
    Serving(Step),
    /// To be done for the heir.
    Heir(Step),
    /// The heir's definition and connection take the place of those that serve, in one step for callers. What served
    /// until now finishes its calls and is closed.
    TakeOver,
    /// The heir's definition is now the one that counts. What served until now finishes its calls and is closed before
    /// anything else is opened.
    Adopt,
    /// The heir is no more.
    Forget,
}

#[derive(Clone, Debug)]
pub struct Succession {
    serving: Machine,
    heir: Option<Heir>,
}

#[derive(Clone, Debug)]
struct Heir {
    machine: Machine,
    /// None where there is no definition that could ever be tried.
    turn: Option<Turn>,
}

impl Succession {
    pub fn new(timing: Timing, now: Moment) -> Self {
        Self {
            serving: Machine::new(timing, now),
            heir: None,
        }
    }

    pub fn serving(&self) -> &Machine {
        &self.serving
    }

    /// A real call succeeded: as good as a ping.
    pub fn used(&mut self, at: Moment) {
        self.serving.used(at);
    }

    /// The definition that waits for its turn.
    pub fn heir(&self) -> Option<&Status> {
        self.heir.as_ref().map(|heir| heir.machine.status())
    }

    /// How an attempt of the heir is to be made.
    pub fn turn(&self) -> Option<Turn> {
        self.heir.as_ref().and_then(|heir| heir.turn)
    }

    pub fn heir_timing(&self) -> Option<&Timing> {
        self.heir.as_ref().map(|heir| heir.machine.timing())
    }

    /// When a [`Fact::Due`] is to be given to what serves, and to the heir.
    pub fn wake_at(&self) -> [Option<Moment>; 2] {
        let heir = self.heir.as_ref().and_then(|heir| heir.machine.wake_at());
        [self.serving.wake_at(), heir]
    }

    /// Takes one event at `now` and says what to do. `dice` lies in `0.0..1.0`.
    pub fn on(&mut self, event: Event, now: Moment, dice: f64) -> Vec<Action> {
        if self.serving.status().state == State::Closing {
            return Vec::new();
        }
        match event {
            Event::Serving(fact) => {
                let mut actions = self.serve(fact, now, dice);
                // It will not serve again as it is defined.
                if self.serving.status().state == State::Rejected && self.turn().is_some() {
                    actions.extend(self.adopt(now));
                }
                actions
            }
            Event::Heir(fact) => self.advance(fact, now, dice),
            Event::Kicked(kick) => {
                let mut actions = self.serve(Fact::Kicked(kick), now, dice);
                if self.turn().is_some() {
                    actions.extend(self.advance(Fact::Kicked(kick), now, dice));
                }
                actions
            }
            Event::Revised(revision) => self.revise(revision, now, dice),
            Event::Refused(failure) => {
                let mut actions = self.forget(now, dice);
                if self.is_worth_keeping() {
                    actions.extend(self.reject(None, *self.serving.timing(), failure, now, dice));
                } else {
                    actions.extend(self.serve(Fact::Refused(failure), now, dice));
                }
                actions
            }
            Event::Withdrawn => self.forget(now, dice),
            Event::Close => {
                let mut actions = self.forget(now, dice);
                actions.extend(self.serve(Fact::Close, now, dice));
                actions
            }
        }
    }

    /// What never worked, or never will again, is not kept for the sake of what it once was.
    fn is_worth_keeping(&self) -> bool {
        let status = self.serving.status();
        status.was_ready && !matches!(status.state, State::Rejected | State::Closing)
    }

    fn revise(&mut self, revision: Revision, now: Moment, dice: f64) -> Vec<Action> {
        let Revision {
            turn,
            timing,
            fault,
        } = revision;
        let mut actions = self.forget(now, dice);
        if let (true, Some(fault)) = (self.is_worth_keeping(), fault.clone()) {
            actions.extend(self.reject(Some(turn), timing, fault, now, dice));
            return actions;
        }
        self.heir = Some(Heir {
            machine: Machine::new(timing, now),
            turn: Some(turn),
        });
        if !self.is_worth_keeping() {
            actions.extend(self.adopt(now));
            if let Some(fault) = fault {
                actions.extend(self.serve(Fact::Refused(fault), now, dice));
            }
        }
        actions
    }

    /// Puts an heir in place that cannot be used.
    fn reject(
        &mut self,
        turn: Option<Turn>,
        timing: Timing,
        failure: Failure,
        now: Moment,
        dice: f64,
    ) -> Vec<Action> {
        let mut machine = Machine::new(timing, now);
        let steps = machine.on(Fact::Refused(failure), now, dice);
        self.heir = Some(Heir { machine, turn });
        steps.into_iter().map(Action::Heir).collect()
    }

    fn advance(&mut self, fact: Fact, now: Moment, dice: f64) -> Vec<Action> {
        let Some(heir) = &mut self.heir else {
            return Vec::new();
        };
        let is_through =
            fact == Fact::Attempted(Ok(())) && heir.machine.status().state == State::Connecting;
        match heir.turn {
            Some(Turn::Beside) if is_through => self.take_over(now, dice),
            Some(Turn::After) if is_through => {
                // Its attempt has ended; there is nothing to abandon.
                heir.machine = Machine::new(*heir.machine.timing(), now);
                self.adopt(now)
            }
            _ => {
                let steps = heir.machine.on(fact, now, dice);
                steps.into_iter().map(Action::Heir).collect()
            }
        }
    }

    fn take_over(&mut self, now: Moment, dice: f64) -> Vec<Action> {
        let Some(heir) = self.heir.take() else {
            return Vec::new();
        };
        let under_way = self.serving.on(Fact::Close, now, dice).into_iter();
        // Its connection is not let go of: it drains.
        let mut actions: Vec<Action> = under_way
            .filter(|step| *step != Step::Release)
            .map(Action::Serving)
            .collect();
        self.serving = heir.machine;
        actions.push(Action::TakeOver);
        actions.extend(self.serve(Fact::Attempted(Ok(())), now, dice));
        actions
    }

    fn adopt(&mut self, now: Moment) -> Vec<Action> {
        let Some(mut heir) = self.heir.take() else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        for (machine, of) in [
            (&mut heir.machine, Action::Heir as fn(Step) -> Action),
            (&mut self.serving, Action::Serving),
        ] {
            let under_way = machine.on(Fact::Close, now, 0.5).into_iter();
            actions.extend(under_way.filter(|step| *step != Step::Release).map(of));
        }
        self.serving = Machine::new(*heir.machine.timing(), now);
        actions.push(Action::Adopt);
        actions
    }

    fn forget(&mut self, now: Moment, dice: f64) -> Vec<Action> {
        let Some(mut heir) = self.heir.take() else {
            return Vec::new();
        };
        let steps = heir.machine.on(Fact::Close, now, dice).into_iter();
        steps.map(Action::Heir).chain([Action::Forget]).collect()
    }

    fn serve(&mut self, fact: Fact, now: Moment, dice: f64) -> Vec<Action> {
        let steps = self.serving.on(fact, now, dice);
        steps.into_iter().map(Action::Serving).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Class;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    fn failure(class: Class) -> Failure {
        Failure::new(class, "x")
    }

    fn revised(turn: Turn) -> Event {
        Event::Revised(Revision {
            turn,
            timing: Timing::default(),
            fault: None,
        })
    }

    fn faulty(turn: Turn) -> Event {
        Event::Revised(Revision {
            turn,
            timing: Timing::default(),
            fault: Some(failure(Class::Config)),
        })
    }

    fn serving() -> Succession {
        let mut both = Succession::new(Timing::default(), at(0));
        both.on(Event::Serving(Fact::DependenciesReady), at(0), 0.5);
        both.on(Event::Serving(Fact::Attempted(Ok(()))), at(1), 0.5);
        both
    }

    #[track_caller]
    fn states(both: &Succession, serving: State, heir: Option<State>) {
        assert_eq!(both.serving().status().state, serving);
        assert_eq!(both.heir().map(|status| status.state), heir);
    }

    #[test]
    fn a_new_definition_connects_beside_the_old_one_and_takes_over_when_it_is_ready() {
        let mut both = serving();
        assert_eq!(both.on(revised(Turn::Beside), at(10), 0.5), []);
        states(&both, State::Ready, Some(State::Pending));
        assert_eq!(
            both.on(Event::Heir(Fact::DependenciesReady), at(11), 0.5),
            [Action::Heir(Step::Attempt { number: 1 })]
        );
        let actions = both.on(Event::Heir(Fact::Attempted(Ok(()))), at(12), 0.5);
        assert_eq!(actions.first(), Some(&Action::TakeOver));
        assert!(matches!(
            actions.get(1),
            Some(Action::Serving(Step::Tell(_)))
        ));
        states(&both, State::Ready, None);
    }

    #[test]
    fn one_that_cannot_connect_is_tried_for_ever_while_the_old_one_serves() {
        let mut both = serving();
        both.on(revised(Turn::Beside), at(10), 0.5);
        both.on(Event::Heir(Fact::DependenciesReady), at(11), 0.5);
        let mut now = at(20);
        for number in 2..20 {
            let failed = Fact::Attempted(Err(failure(Class::Transient)));
            both.on(Event::Heir(failed), now, 0.5);
            states(&both, State::Ready, Some(State::Unavailable));
            now = both.wake_at()[1].unwrap();
            assert_eq!(
                both.on(Event::Heir(Fact::Due), now, 0.5),
                [Action::Heir(Step::Attempt { number })]
            );
        }
    }

    #[test]
    fn one_that_is_wrong_waits_for_a_change_and_changes_nothing() {
        let mut both = serving();
        let told = both.on(faulty(Turn::Beside), at(10), 0.5);
        assert!(matches!(told.as_slice(), [Action::Heir(Step::Tell(_))]));
        states(&both, State::Ready, Some(State::Rejected));
        assert_eq!(both.wake_at()[1], None);
        assert_eq!(both.on(Event::Withdrawn, at(20), 0.5), [Action::Forget]);
        states(&both, State::Ready, None);
        both.on(Event::Refused(failure(Class::Config)), at(30), 0.5);
        states(&both, State::Ready, Some(State::Rejected));
        assert_eq!(
            both.on(Event::Kicked(Kick::News), at(31), 0.5),
            [],
            "there is nothing to try"
        );
    }

    #[test]
    fn what_never_worked_is_replaced_at_once() {
        let mut both = Succession::new(Timing::default(), at(0));
        both.on(Event::Serving(Fact::DependenciesReady), at(0), 0.5);
        let actions = both.on(revised(Turn::Beside), at(1), 0.5);
        assert_eq!(actions, [Action::Serving(Step::Abandon), Action::Adopt]);
        states(&both, State::Pending, None);
        both.on(faulty(Turn::Beside), at(2), 0.5);
        states(&both, State::Rejected, None);
        both.on(revised(Turn::Beside), at(3), 0.5);
        states(&both, State::Pending, None);
    }

    #[test]
    fn two_that_must_not_be_open_at_once_come_one_after_the_other() {
        let mut both = serving();
        both.on(revised(Turn::After), at(10), 0.5);
        both.on(Event::Heir(Fact::DependenciesReady), at(11), 0.5);
        let secret = Fact::Attempted(Err(failure(Class::Secret)));
        both.on(Event::Heir(secret), at(12), 0.5);
        states(&both, State::Ready, Some(State::Unavailable));
        let due = both.wake_at()[1].unwrap();
        both.on(Event::Heir(Fact::Due), due, 0.5);
        let actions = both.on(Event::Heir(Fact::Attempted(Ok(()))), due, 0.5);
        assert_eq!(actions, [Action::Adopt]);
        states(&both, State::Pending, None);
    }

    #[test]
    fn the_old_one_comes_back_by_itself_while_the_new_one_waits() {
        let mut both = serving();
        both.on(revised(Turn::Beside), at(10), 0.5);
        let lost = Fact::Lost(failure(Class::Transient));
        both.on(Event::Serving(lost), at(20), 0.5);
        states(&both, State::Unavailable, Some(State::Pending));
        let due = both.wake_at()[0].unwrap();
        both.on(Event::Serving(Fact::Due), due, 0.5);
        both.on(Event::Serving(Fact::Attempted(Ok(()))), due, 0.5);
        states(&both, State::Ready, Some(State::Pending));
    }

    #[test]
    fn an_old_one_that_is_rejected_makes_way() {
        let mut both = serving();
        both.on(revised(Turn::Beside), at(10), 0.5);
        let lost = Fact::Lost(failure(Class::Transient));
        both.on(Event::Serving(lost), at(20), 0.5);
        let due = both.wake_at()[0].unwrap();
        both.on(Event::Serving(Fact::Due), due, 0.5);
        let wrong = Fact::Attempted(Err(failure(Class::Config)));
        let actions = both.on(Event::Serving(wrong), due, 0.5);
        assert_eq!(actions.last(), Some(&Action::Adopt));
        states(&both, State::Pending, None);
    }

    fn any_fact() -> impl Strategy<Value = Fact> {
        let class = prop_oneof![
            Just(Class::Transient),
            Just(Class::Auth),
            Just(Class::Secret),
            Just(Class::Config)
        ];
        prop_oneof![
            3 => Just(Fact::DependenciesReady),
            4 => Just(Fact::Attempted(Ok(()))),
            2 => class.prop_map(|class| Fact::Attempted(Err(failure(class)))),
            1 => Just(Fact::Lost(failure(Class::Transient))),
            1 => Just(Fact::Suspected),
            1 => Just(Fact::Pinged(Ok(()))),
            1 => Just(Fact::Pinged(Err(failure(Class::Timeout)))),
            3 => Just(Fact::Due),
        ]
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let turn = || prop_oneof![2 => Just(Turn::Beside), 1 => Just(Turn::After)];
        prop_oneof![
            6 => any_fact().prop_map(Event::Serving),
            6 => any_fact().prop_map(Event::Heir),
            1 => Just(Event::Kicked(Kick::News)),
            1 => Just(Event::Kicked(Kick::Call)),
            2 => turn().prop_map(revised),
            1 => turn().prop_map(faulty),
            1 => Just(Event::Refused(failure(Class::Config))),
            1 => Just(Event::Withdrawn),
        ]
    }

    /// What the supervisor holds for one definition.
    #[derive(Clone, Copy, Default, PartialEq, Debug)]
    struct Held {
        attempt: bool,
        ping: bool,
        instance: bool,
    }

    impl Held {
        fn may(&self, fact: &Fact) -> bool {
            match fact {
                Fact::Attempted(_) => self.attempt,
                Fact::Pinged(_) => self.ping,
                Fact::Lost(_) => self.instance,
                _ => true,
            }
        }

        fn note(&mut self, fact: &Fact) {
            match fact {
                Fact::Attempted(_) => self.attempt = false,
                Fact::Pinged(_) => self.ping = false,
                _ => {}
            }
        }

        fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
            match step {
                Step::Attempt { .. } => {
                    prop_assert!(!self.attempt && !self.instance);
                    self.attempt = true;
                }
                Step::Ping { .. } => {
                    prop_assert!(self.instance && !self.ping);
                    self.ping = true;
                }
                Step::Abandon => {
                    prop_assert!(self.attempt || self.ping);
                    self.attempt = false;
                    self.ping = false;
                }
                Step::Release => {
                    prop_assert!(self.instance);
                    self.instance = false;
                }
                Step::Tell(_) => {}
            }
            Ok(())
        }
    }

    proptest! {
        /// Callers lose a connection that works only for one that works, or because two must not be open.
        #[test]
        fn nothing_that_happens_to_a_new_definition_takes_a_connection_from_callers(
            steps in proptest::collection::vec((any_event(), 0_u64..20_000, 0.0_f64..1.0), 1..150),
        ) {
            let mut both = Succession::new(Timing::default(), at(0));
            let (mut serving, mut heir) = (Held::default(), Held::default());
            let mut now = at(0);
            for (event, passed, dice) in steps {
                now = now + Duration::from_millis(passed);
                match &event {
                    Event::Serving(fact) if !serving.may(fact) => continue,
                    Event::Heir(fact) if !heir.may(fact) => continue,
                    Event::Serving(Fact::Due) => match both.wake_at()[0] {
                        Some(due) => now = now.max(due),
                        None => continue,
                    },
                    Event::Heir(Fact::Due) => match both.wake_at()[1] {
                        Some(due) => now = now.max(due),
                        None => continue,
                    },
                    _ => {}
                }
                let (worked, turn) = (serving.instance, both.turn());
                let own = matches!(event, Event::Serving(_));
                let opened = event == Event::Serving(Fact::Attempted(Ok(())));
                match &event {
                    Event::Serving(fact) => serving.note(fact),
                    Event::Heir(fact) => heir.note(fact),
                    _ => {}
                }
                if opened {
                    serving.instance = true;
                }
                for action in both.on(event.clone(), now, dice) {
                    match action {
                        Action::Serving(step) => serving.step(&step)?,
                        Action::Heir(step) => heir.step(&step)?,
                        Action::TakeOver => {
                            prop_assert!(!serving.attempt && !serving.ping && !heir.attempt);
                            prop_assert_eq!(turn, Some(Turn::Beside));
                            serving = Held { instance: true, ..Held::default() };
                            heir = Held::default();
                        }
                        Action::Adopt => {
                            prop_assert!(!serving.attempt && !serving.ping && !heir.attempt);
                            serving = Held::default();
                            heir = Held::default();
                        }
                        Action::Forget => {
                            prop_assert_eq!(heir, Held::default());
                        }
                    }
                }
                if worked && !own {
                    let made_way = turn == Some(Turn::After)
                        && event == Event::Heir(Fact::Attempted(Ok(())));
                    prop_assert!(serving.instance || made_way, "{:?} took it away", event);
                }
                prop_assert_eq!(serving.instance, both.serving().status().state == State::Ready);
                prop_assert!(!heir.instance);
                prop_assert_eq!(heir.attempt, both.heir().is_some_and(|status| status.state == State::Connecting));
                prop_assert!(both.heir().is_none_or(|status| status.state != State::Ready));
                if both.heir().is_some_and(|status| status.state == State::Unavailable) {
                    prop_assert!(both.wake_at()[1].is_some_and(|due| due <= now + Duration::from_secs(60)), "never given up");
                }
            }
        }
    }
}
