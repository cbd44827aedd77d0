//! The way down as it is gone: counts, asks the app, and lets the machine of [`outrigger_lifecycle::drain`] decide.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::Blocks;
use outrigger_blocks::activity::table;
use outrigger_blocks::drain::{Cause, Drain, budget};
use outrigger_lifecycle::drain::{
    Answer, Asking, Busy, Comeback, Exit, GONE_AFTER, Linger, Machine, Observed, Stage,
};
use outrigger_lifecycle::phase::{Event, Phase};
use outrigger_lifecycle::{Clock, Moment, gate};
use outrigger_telemetry::journal::{Kind, Told};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::app::App;
use crate::components::Names;
use crate::phases::Phases;

const SCOPE: &str = "dapr.runtime";

/// How often work in hand is counted.
const COUNT_EVERY: Duration = Duration::from_millis(10);
/// How often the app is asked whether it is busy.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often its port is tried.
const TRY_EVERY: Duration = Duration::from_millis(200);

type Working<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// What the way down looks at.
pub(crate) struct Sight {
    pub phases: Arc<Phases>,
    pub blocks: Arc<Blocks>,
    pub gate: watch::Receiver<gate::State>,
    /// Told when the app's port turned out to be closed.
    pub refused: Arc<Notify>,
    pub app: Option<App>,
    pub names: Option<Arc<Names>>,
    pub clock: Clock,
    /// How long peers are still let in.
    pub window: Duration,
    pub asks_busy: bool,
    pub view: watch::Sender<Option<Drain>>,
}

/// Why and for how long.
pub(crate) struct Reason {
    pub cause: Cause,
    /// The process is to end.
    pub exit: Option<Exit>,
    /// What decided how long it may take.
    pub because: &'static str,
}

/// A drain under way.
pub(crate) struct WayDown {
    machine: Machine,
    before: Phase,
    window_over: Moment,
    asking: Asking,
    question: Working<(Moment, Answer)>,
    ask_at: Moment,
    /// Why the log was told that the app does not say whether it is busy.
    busy_told: String,
    port: Working<bool>,
    try_at: Moment,
    refused: u32,
    leaving: Working<()>,
    /// For one that a hook began.
    comeback: Option<Comeback>,
    has_app_ended: bool,
    is_observed: bool,
    /// Messages that had been given back before.
    released_before: u64,
    shown: Drain,
}

enum Woken {
    Counted,
    Answered(Moment, Answer),
    Tried(bool),
    Left,
}

impl WayDown {
    pub(crate) fn begin(sight: &Sight, number: u32, reason: &Reason) -> Self {
        let now = sight.clock.now();
        let before = sight.phases.now();
        let metrics = &sight.blocks.metrics;
        // Without an app there is nothing that peers could call.
        let window = if is_away(sight) {
            Duration::ZERO
        } else {
            sight.window
        };
        sight.phases.accept_peers(window > Duration::ZERO);
        tell(sight, number, "started", reason.cause.name());
        sight.phases.on(Event::StopRequested, metrics);
        let names = sight.names.clone();
        let leaving = async move {
            if let Some(names) = names {
                names.leave().await;
            }
        };
        let mut way = Self {
            machine: Machine::new(),
            before,
            window_over: now + window,
            asking: Asking::new(sight.asks_busy),
            question: None,
            ask_at: now,
            busy_told: String::new(),
            port: None,
            try_at: now + TRY_EVERY,
            refused: 0,
            leaving: Some(Box::pin(leaving)),
            comeback: (reason.cause == Cause::PreStop).then(Comeback::default),
            has_app_ended: false,
            is_observed: false,
            released_before: released(sight),
            shown: Drain {
                number,
                cause: reason.cause,
                since: now,
                exits: false,
                drained: false,
                drained_at: None,
                deadline: None,
                busy: None,
            },
        };
        match reason.exit {
            Some(exit) => way.exit(sight, exit, reason),
            None => {
                let in_hand = table(&sight.blocks.activity.in_hand());
                info!(target: SCOPE, event = "drain", drain_id = way.shown.id(), cause = reason.cause.name(), inflight = sight.blocks.activity.in_flight(), "draining, and staying: nothing new is taken in; in hand: [{in_hand}]");
            }
        }
        way.show(sight);
        way
    }

    /// The process is to end after it.
    pub(crate) fn exit(&mut self, sight: &Sight, exit: Exit, reason: &Reason) {
        if self.machine.is_exiting() {
            return;
        }
        self.machine.exit(exit);
        self.refused = 0;
        self.comeback = None;
        self.shown.cause = reason.cause;
        self.shown.exits = true;
        self.shown.deadline = exit.deadline;
        let limit = exit.deadline.map(|deadline| deadline.since(exit.at));
        let in_hand = table(&sight.blocks.activity.in_hand());
        info!(
            target: SCOPE,
            event = "drain",
            drain_id = self.shown.id(),
            cause = reason.cause.name(),
            deadline_ms = limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            inflight = sight.blocks.activity.in_flight(),
            "draining before the end: at most {} ({}); in hand: [{in_hand}]",
            budget(limit),
            reason.because,
        );
        self.show(sight);
    }

    /// It was asked for by somebody else too, who decides how long it stays.
    pub(crate) fn asked_again(&mut self, sight: &Sight, cause: Cause) {
        if cause != Cause::PreStop && self.comeback.take().is_some() {
            self.shown.cause = cause;
            self.show(sight);
        }
    }

    /// Whether what a hook began has been overtaken: the app is another.
    pub(crate) fn is_overtaken(&mut self, gate: gate::State) -> bool {
        self.comeback
            .as_mut()
            .is_some_and(|comeback| comeback.on(gate))
    }

    pub(crate) fn app_has_ended(&mut self) {
        self.has_app_ended = true;
    }

    /// How long the work in hand took; told once.
    pub(crate) fn observe(&mut self, sight: &Sight) {
        if !std::mem::replace(&mut self.is_observed, true) {
            let took = sight.clock.now().since(self.shown.since);
            let cause = self.shown.cause.name();
            let seconds = &sight.blocks.metrics.drain_seconds;
            seconds.observe([cause], took.as_secs_f64());
        }
    }

    /// What is left of the time.
    pub(crate) fn left(&self, clock: Clock) -> Duration {
        self.machine
            .deadline()
            .map_or(Duration::MAX, |deadline| deadline.since(clock.now()))
    }

    /// Goes on until the stage is another, or the way is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn step(&mut self, sight: &Sight) -> Stage {
        loop {
            let was_drained = self.machine.is_drained();
            let seen = self.look(sight);
            let stage = self.machine.on(&seen, sight.clock.now());
            if self.machine.is_drained() && !was_drained {
                let now = sight.clock.now();
                self.shown.drained = true;
                self.shown.drained_at = Some(now);
                let duration = now.since(self.shown.since);
                let released = released(sight).saturating_sub(self.released_before);
                info!(target: SCOPE, event = "drain", drain_id = self.shown.id(), released, "drained after {} ms: nothing is in hand", duration.as_millis());
                tell(
                    sight,
                    self.shown.number,
                    "finished",
                    self.shown.cause.name(),
                );
                sight.phases.on(Event::Drained, &sight.blocks.metrics);
                self.observe(sight);
                self.show(sight);
            }
            if let Stage::Over { late } = stage {
                self.observe(sight);
                if self.machine.blocks() && !late {
                    let why = if seen.has_app_ended {
                        "App has ended"
                    } else if seen.is_gate_closed {
                        "App reported unhealthy"
                    } else {
                        "Block shutdown period expired"
                    };
                    info!(target: SCOPE, "{why}, entering shutdown...");
                }
                if self.shown.busy == Some(true) {
                    warn!(target: SCOPE, event = "drain", drain_id = self.shown.id(), "the application still says that it is busy");
                }
                if !self.machine.is_drained() {
                    tell(sight, self.shown.number, "finished", "deadline");
                }
                return stage;
            }
            match self.wait(sight).await {
                Woken::Counted => {}
                Woken::Left => self.leaving = None,
                Woken::Answered(asked, answer) => self.answered(sight, asked, &answer),
                Woken::Tried(is_open) => {
                    self.port = None;
                    self.try_at = sight.clock.now() + TRY_EVERY;
                    self.refused = if is_open { 0 } else { self.refused + 1 };
                    if self.refused == GONE_AFTER && !self.machine.is_exiting() {
                        sight.refused.notify_one();
                    }
                }
            }
        }
    }

    /// Everything goes on as it was before; what was before. Only a drain that ends nothing can be taken back.
    pub(crate) fn take_back(self, sight: &Sight) -> Phase {
        sight.view.send_replace(None);
        tell(sight, self.shown.number, "resumed", "resume");
        info!(target: SCOPE, event = "drain", drain_id = self.shown.id(), "the drain is taken back");
        self.before
    }

    fn look(&self, sight: &Sight) -> Observed {
        let activity = &sight.blocks.activity;
        let is_accepting = sight.clock.now() < self.window_over && !is_away(sight);
        sight.phases.accept_peers(is_accepting);
        Observed {
            in_flight: activity.in_flight(),
            busy: self.asking.busy(),
            is_accepting,
            calls: activity.running(),
            last_call: activity.last_end(),
            refused: self.refused,
            is_gate_closed: matches!(
                *sight.gate.borrow(),
                gate::State::Closed | gate::State::WaitPort
            ),
            has_app_ended: self.has_app_ended,
        }
    }

    async fn wait(&mut self, sight: &Sight) -> Woken {
        let now = sight.clock.now();
        if let Some(app) = &sight.app {
            if self.question.is_none() && !self.asking.is_over() && now >= self.ask_at {
                self.ask_at = now + ASK_EVERY;
                let app = app.channel.clone();
                self.question = Some(Box::pin(async move { (now, app.busy().await) }));
            }
            if self.port.is_none() && self.machine.is_drained() && now >= self.try_at {
                let app = app.channel.clone();
                self.port = Some(Box::pin(async move { app.accepts().await }));
            }
        }
        tokio::select! {
            biased;
            () = finished(&mut self.leaving) => Woken::Left,
            (asked, answer) = finished(&mut self.question) => Woken::Answered(asked, answer),
            is_open = finished(&mut self.port) => Woken::Tried(is_open),
            () = tokio::time::sleep(COUNT_EVERY) => Woken::Counted,
        }
    }

    fn answered(&mut self, sight: &Sight, asked: Moment, answer: &Answer) {
        self.question = None;
        self.asking.on(answer, asked);
        self.show_busy(sight);
        let (why, what) = match answer {
            Answer::Unsupported(why) => (
                why,
                "the application does not say whether it is busy: only deliveries and calls count",
            ),
            Answer::Failed(why) => (
                why,
                "the application does not answer whether it is busy, and counts as busy",
            ),
            Answer::Said(_) | Answer::Refused => return self.busy_told.clear(),
        };
        // It is asked once a second, and may say the same for minutes.
        if self.busy_told != *why {
            self.busy_told.clone_from(why);
            warn!(target: SCOPE, event = "drain", drain_id = self.shown.id(), err = why, "{what}");
        }
    }

    fn show_busy(&mut self, sight: &Sight) {
        let busy = match self.asking.busy() {
            Busy::Said { busy, .. } => Some(busy),
            Busy::Untold | Busy::Unknown => None,
        };
        if self.shown.busy != busy {
            self.shown.busy = busy;
            self.show(sight);
        }
    }

    fn show(&self, sight: &Sight) {
        sight.view.send_replace(Some(self.shown));
    }
}

/// Messages that have been given back to their brokers.
fn released(sight: &Sight) -> u64 {
    sight.blocks.metrics.released_messages.total(|_| true)
}

/// There is no app, or none that listens.
fn is_away(sight: &Sight) -> bool {
    matches!(
        *sight.gate.borrow(),
        gate::State::Absent | gate::State::WaitPort | gate::State::Closed
    )
}

fn tell(sight: &Sight, number: u32, what: &str, cause: &str) {
    let told = Told {
        cause: Some(cause),
        ..Told::default()
    };
    let journal = &sight.blocks.metrics.journal;
    journal.happened(Kind::Drain, &format!("d-{number}"), what, told);
}

async fn finished<T>(working: &mut Working<T>) -> T {
    match working {
        Some(working) => working.await,
        None => std::future::pending().await,
    }
}

/// What ends the wait for the app's last calls, where nothing else says so.
pub(crate) fn usual_linger(has_companion: bool, watches_app: bool, quiet: Duration) -> Linger {
    if has_companion {
        Linger::Not
    } else if watches_app {
        Linger::AppGone
    } else {
        Linger::Quiet(quiet)
    }
}
