//! The way down: what is still in hand, what is waited for after it, and when it is over.
//!
//! ```text
//!  work in hand ─► calm for 100 ms, app not busy ─► lingering ─► over
//!  resume, if nobody told us to end ◄──────────────────┘
//! ```
//! A drain may stand alone: then it lingers until it is taken back, or until an exit is asked for. The deadline belongs to
//! the exit, and is counted from there.
//!
//! Owns: the decision. Never: counts, asks the app or reads a clock; `outrigger-sidecar` does.

use std::time::Duration;

use outrigger_policy::Moment;

use crate::gate;

/// Work must be at zero for this long.
const CALM: Duration = Duration::from_millis(100);
/// The app's port is gone after this many refusals in a row.
pub const GONE_AFTER: u32 = 3;

/// What ends the wait for the app's last calls, once all work is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Linger {
    /// Nothing is waited for: the app is ended next, with its calls still served.
    Not,
    /// Until the end was asked for this long ago, the gate is closed, or the app that we started has ended.
    Block(Duration),
    /// Until the app's port refuses.
    AppGone,
    /// Until nobody has called for this long.
    Quiet(Duration),
}

/// The end was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    pub at: Moment,
    /// None: it may take as long as it takes.
    pub deadline: Option<Moment>,
    pub linger: Linger,
}

/// What the app says of work that nobody else sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Busy {
    /// It is not asked, cannot say, or is gone.
    #[default]
    Untold,
    /// It is asked, and has not answered yet.
    Unknown,
    /// The answer to a question that was put at that moment.
    Said { asked: Moment, busy: bool },
}

/// How things are at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// Deliveries and calls that have been handed to the app.
    pub in_flight: usize,
    pub busy: Busy,
    /// Peers are still let in.
    pub is_accepting: bool,
    /// Calls of any kind that are under way.
    pub calls: usize,
    pub last_call: Moment,
    /// Connections to the app's port that were refused, in a row.
    pub refused: u32,
    pub is_gate_closed: bool,
    /// The app that we started is no more.
    pub has_app_ended: bool,
}

impl Observed {
    /// Something is in the app's hands, or may be.
    fn has_work(&self) -> bool {
        let is_busy = match self.busy {
            Busy::Untold => false,
            Busy::Unknown => true,
            Busy::Said { busy, .. } => busy,
        };
        self.in_flight > 0 || is_busy
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Draining,
    Lingering,
    Over {
        /// Work was left behind.
        late: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Machine {
    exit: Option<Exit>,
    idle_since: Option<Moment>,
    lingering_since: Option<Moment>,
}

impl Machine {
    pub fn new() -> Self {
        Self {
            exit: None,
            idle_since: None,
            lingering_since: None,
        }
    }

    /// The end was asked for; the first time counts.
    pub fn exit(&mut self, exit: Exit) {
        self.exit.get_or_insert(exit);
    }

    pub fn is_exiting(&self) -> bool {
        self.exit.is_some()
    }

    pub fn deadline(&self) -> Option<Moment> {
        self.exit?.deadline
    }

    /// Whether the wait after all work is that of `--dapr-block-shutdown-duration`.
    pub fn blocks(&self) -> bool {
        self.exit
            .is_some_and(|exit| matches!(exit.linger, Linger::Block(_)))
    }

    pub fn is_drained(&self) -> bool {
        self.lingering_since.is_some()
    }

    pub fn on(&mut self, seen: &Observed, now: Moment) -> Stage {
        let is_late = self.deadline().is_some_and(|deadline| now >= deadline);
        if self.lingering_since.is_none() {
            if seen.in_flight > 0 || seen.is_accepting {
                self.idle_since = None;
            } else {
                let since = *self.idle_since.get_or_insert(now);
                let is_busy = match seen.busy {
                    Busy::Untold => false,
                    Busy::Unknown => true,
                    // An answer from before the last work ended says nothing of what came of it.
                    Busy::Said { asked, busy } => busy || asked < since,
                };
                if !is_busy && now.since(since) >= CALM {
                    self.lingering_since = Some(now);
                }
            }
        }
        let Some(lingering) = self.lingering_since else {
            return if is_late {
                // Nothing may be in hand, with peers that would still have been let in.
                Stage::Over {
                    late: seen.has_work(),
                }
            } else {
                Stage::Draining
            };
        };
        let Some(exit) = self.exit else {
            return Stage::Lingering;
        };
        let since = lingering.max(exit.at);
        let over = match exit.linger {
            Linger::Not => true,
            Linger::Block(time) => {
                seen.is_gate_closed || seen.has_app_ended || now.since(exit.at) >= time
            }
            Linger::AppGone => seen.refused >= GONE_AFTER,
            Linger::Quiet(quiet) => {
                seen.calls == 0 && now.since(seen.last_call.max(since)) >= quiet
            }
        };
        if over {
            Stage::Over { late: false }
        } else if is_late {
            Stage::Over {
                late: seen.calls > 0,
            }
        } else {
            Stage::Lingering
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// A drain that a preStop hook began, and nobody asked for an end: the kubelet may have restarted the app alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comeback {
    was_away: bool,
}

impl Comeback {
    /// Whether the app was away and is back, so that the drain has had its day.
    pub fn on(&mut self, gate: gate::State) -> bool {
        match gate {
            gate::State::Open => self.was_away,
            gate::State::WaitPort | gate::State::Closed => {
                self.was_away = true;
                false
            }
            _ => false,
        }
    }
}

/// What an app answers when it is asked whether it is busy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Said(bool),
    /// It knows no such question, or answers something else: only what is counted here counts.
    Unsupported(String),
    /// Nobody listens at its port.
    Refused,
    /// No answer that can be used. Rather wait than cut work short.
    Failed(String),
}

/// Keeps the app's answers.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    busy: Busy,
    refused: u32,
    /// It cannot say.
    is_over: bool,
}

impl Asking {
    /// `asks` says that there is somebody who can be asked.
    pub fn new(asks: bool) -> Self {
        Self {
            busy: if asks { Busy::Unknown } else { Busy::Untold },
            refused: 0,
            is_over: !asks,
        }
    }

    pub fn busy(&self) -> Busy {
        self.busy
    }

    /// Asking on makes no sense.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn on(&mut self, answer: &Answer, asked: Moment) {
        if self.is_over {
            return;
        }
        if *answer == Answer::Refused {
            self.refused += 1;
        } else {
            self.refused = 0;
        }
        match answer {
            Answer::Said(busy) => self.busy = Busy::Said { asked, busy: *busy },
            Answer::Refused if self.refused < GONE_AFTER => {
                self.busy = Busy::Said { asked, busy: true };
            }
            Answer::Failed(_) => self.busy = Busy::Said { asked, busy: true },
            Answer::Refused | Answer::Unsupported(_) => {
                self.busy = Busy::Untold;
                self.is_over = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    const IDLE: Observed = Observed {
        in_flight: 0,
        busy: Busy::Untold,
        is_accepting: false,
        calls: 0,
        last_call: Moment::START,
        refused: 0,
        is_gate_closed: false,
        has_app_ended: false,
    };

    fn exiting(now: Moment, limit: u64, linger: Linger) -> Machine {
        let mut machine = Machine::new();
        machine.exit(Exit {
            at: now,
            deadline: Some(now + Duration::from_millis(limit)),
            linger,
        });
        machine
    }

    const SECOND: Linger = Linger::Quiet(Duration::from_secs(1));

    #[test]
    fn an_idle_sidecar_is_drained_after_a_moment_and_over_after_the_quiet() {
        let mut machine = exiting(at(0), 25_000, SECOND);
        assert_eq!(machine.on(&IDLE, at(0)), Stage::Draining);
        assert_eq!(machine.on(&IDLE, at(99)), Stage::Draining);
        assert_eq!(machine.on(&IDLE, at(100)), Stage::Lingering);
        let called = Observed {
            last_call: at(600),
            ..IDLE
        };
        assert_eq!(machine.on(&called, at(1_100)), Stage::Lingering);
        assert_eq!(machine.on(&called, at(1_600)), Stage::Over { late: false });
    }

    #[test]
    fn work_that_comes_back_within_the_calm_starts_it_anew() {
        let mut machine = exiting(at(0), 25_000, SECOND);
        machine.on(&IDLE, at(0));
        let working = Observed {
            in_flight: 1,
            ..IDLE
        };
        assert_eq!(machine.on(&working, at(90)), Stage::Draining);
        assert_eq!(machine.on(&IDLE, at(110)), Stage::Draining);
        assert_eq!(machine.on(&IDLE, at(210)), Stage::Lingering);
    }

    #[test]
    fn work_at_the_deadline_is_left_behind_and_a_quiet_wait_is_not() {
        let mut machine = exiting(at(0), 5_000, SECOND);
        let working = Observed {
            in_flight: 1,
            calls: 1,
            ..IDLE
        };
        assert_eq!(machine.on(&working, at(4_999)), Stage::Draining);
        assert_eq!(machine.on(&working, at(5_000)), Stage::Over { late: true });
        let mut machine = exiting(at(0), 500, Linger::AppGone);
        machine.on(&IDLE, at(0));
        machine.on(&IDLE, at(100));
        assert_eq!(machine.on(&IDLE, at(500)), Stage::Over { late: false });
    }

    #[test]
    fn peers_that_are_still_let_in_are_no_work_left_behind() {
        let mut machine = exiting(at(0), 2_000, SECOND);
        let accepting = Observed {
            is_accepting: true,
            ..IDLE
        };
        assert_eq!(machine.on(&accepting, at(1_999)), Stage::Draining);
        let over = machine.on(&accepting, at(2_000));
        assert_eq!(over, Stage::Over { late: false });
        let busy = Observed {
            busy: Busy::Unknown,
            ..accepting
        };
        let mut machine = exiting(at(0), 2_000, SECOND);
        assert_eq!(machine.on(&busy, at(2_000)), Stage::Over { late: true });
    }

    #[test]
    fn a_block_counts_from_the_signal_and_is_cut_short_by_the_app() {
        let block = Linger::Block(Duration::from_secs(4));
        let working = Observed {
            in_flight: 1,
            ..IDLE
        };
        let mut machine = exiting(at(0), 25_000, block);
        machine.on(&working, at(3_000));
        machine.on(&IDLE, at(3_000));
        assert_eq!(machine.on(&IDLE, at(3_999)), Stage::Lingering);
        assert_eq!(machine.on(&IDLE, at(4_000)), Stage::Over { late: false });
        let mut machine = exiting(at(0), 25_000, block);
        machine.on(&IDLE, at(0));
        machine.on(&IDLE, at(100));
        let ended = Observed {
            has_app_ended: true,
            ..IDLE
        };
        assert_eq!(machine.on(&ended, at(200)), Stage::Over { late: false });
    }

    #[test]
    fn an_app_that_was_away_and_is_back_ends_what_its_hook_began() {
        use gate::State;
        let mut comeback = Comeback::default();
        let states = [
            State::Open,
            State::Discover,
            State::Open,
            State::WaitPort,
            State::WaitReady,
            State::Discover,
            State::Open,
        ];
        let told: Vec<bool> = states.map(|state| comeback.on(state)).into();
        assert_eq!(told, [false, false, false, false, false, false, true]);
    }

    #[test]
    fn a_drain_alone_lingers_until_an_exit_is_asked_for() {
        let mut machine = Machine::new();
        machine.on(&IDLE, at(0));
        assert_eq!(machine.on(&IDLE, at(3_600_000)), Stage::Lingering);
        assert!(machine.is_drained() && !machine.is_exiting());
        machine.exit(Exit {
            at: at(3_600_000),
            deadline: None,
            linger: SECOND,
        });
        // The app may be told to end at the same moment, and has its last calls still to make.
        assert_eq!(machine.on(&IDLE, at(3_600_100)), Stage::Lingering);
        assert_eq!(
            machine.on(&IDLE, at(3_601_000)),
            Stage::Over { late: false }
        );
    }

    #[test]
    fn an_app_that_says_it_is_busy_is_waited_for_and_an_old_answer_does_not_count() {
        let mut machine = exiting(at(0), 60_000, Linger::Not);
        let said = |asked, busy| Observed {
            busy: Busy::Said { asked, busy },
            ..IDLE
        };
        let unknown = Observed {
            busy: Busy::Unknown,
            ..IDLE
        };
        assert_eq!(machine.on(&unknown, at(1_000)), Stage::Draining);
        assert_eq!(
            machine.on(&said(at(999), false), at(2_000)),
            Stage::Draining
        );
        assert_eq!(
            machine.on(&said(at(2_000), true), at(3_000)),
            Stage::Draining
        );
        assert_eq!(
            machine.on(&said(at(4_000), false), at(4_001)),
            Stage::Over { late: false }
        );
    }

    #[test]
    fn an_error_is_busy_three_refusals_are_an_app_that_is_gone() {
        let mut asking = Asking::new(true);
        assert_eq!(asking.busy(), Busy::Unknown);
        asking.on(&Answer::Failed("500".into()), at(1));
        assert_eq!(
            asking.busy(),
            Busy::Said {
                asked: at(1),
                busy: true
            }
        );
        asking.on(&Answer::Refused, at(2));
        asking.on(&Answer::Refused, at(3));
        assert!(!asking.is_over());
        asking.on(&Answer::Refused, at(4));
        assert_eq!((asking.busy(), asking.is_over()), (Busy::Untold, true));
        let mut asking = Asking::new(true);
        asking.on(&Answer::Unsupported("404".into()), at(1));
        assert_eq!((asking.busy(), asking.is_over()), (Busy::Untold, true));
        assert!(Asking::new(false).is_over());
    }

    #[test]
    fn the_app_that_is_gone_and_the_gate_that_closes_end_their_waits() {
        let mut machine = exiting(at(0), 60_000, Linger::AppGone);
        machine.on(&IDLE, at(0));
        machine.on(&IDLE, at(100));
        let refused = |refused| Observed { refused, ..IDLE };
        assert_eq!(machine.on(&refused(2), at(500)), Stage::Lingering);
        assert_eq!(
            machine.on(&refused(3), at(700)),
            Stage::Over { late: false }
        );
        let mut machine = exiting(at(0), 60_000, Linger::Block(Duration::from_secs(30)));
        machine.on(&IDLE, at(0));
        assert_eq!(machine.on(&IDLE, at(100)), Stage::Lingering);
        let closed = Observed {
            is_gate_closed: true,
            ..IDLE
        };
        assert_eq!(machine.on(&closed, at(200)), Stage::Over { late: false });
    }

    proptest! {
        #[test]
        fn nothing_is_over_before_work_is_done_or_time_is_up_and_time_is_kept(
            steps in proptest::collection::vec((0_usize..3, any::<bool>(), 0_usize..2, 0_u64..400), 1..60),
            limit in 1_u64..5_000,
        ) {
            let mut machine = exiting(at(0), limit, SECOND);
            let mut now = at(0);
            for (in_flight, is_accepting, calls, passed) in steps {
                now = now + Duration::from_millis(passed);
                let seen = Observed { in_flight, is_accepting, calls, ..IDLE };
                let drained = machine.is_drained();
                let stage = machine.on(&seen, now);
                let is_late = now >= at(limit);
                match stage {
                    Stage::Draining => prop_assert!(!is_late),
                    Stage::Lingering => prop_assert!(!is_late && (drained || in_flight == 0)),
                    Stage::Over { late } => {
                        prop_assert!(is_late || machine.is_drained());
                        prop_assert!(machine.is_drained() || late == (in_flight > 0));
                        break;
                    }
                }
            }
        }
    }
}
