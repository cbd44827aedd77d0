//! Looks after the app's process: what is decided in `lifecycle::child` is done here, and what happens is told there.
//!
//! Besides, it is a parent to every process that the app leaves behind, passes on what the terminal and others tell us and
//! mean for the app, and stops with it when the terminal says so.

use std::time::Duration;

use outrigger_lifecycle::child::{Action, Event, Machine, Settings, State};
use outrigger_lifecycle::{Clock, Moment};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::family::Family;
use super::process::{Process, Program};

const SCOPE: &str = "outrigger.run";

/// How often it is looked whether anything is left.
const LOOKS_EVERY: Duration = Duration::from_millis(20);
/// An app that could not be started again has ended with this, as shells have it.
const NOT_STARTED: u8 = 126;
/// How often something is killed that does not go.
const KILL_TRIES: u32 = 50;

pub(super) enum Order {
    Start {
        http_port: u16,
        grpc_port: u16,
        told: oneshot::Sender<Result<(), String>>,
    },
    Ending,
    Stop(Duration),
}

/// What others look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// The code of an end of its own that is final.
    pub(super) ended: Option<u8>,
    /// Nothing is left of it, and nothing will be started.
    pub(super) is_over: bool,
    pub(super) verdict: u8,
}

/// What the process is told from outside.
struct Incomings {
    child: Incoming,
    second_user: Incoming,
    window: Incoming,
    stop: Incoming,
    go_on: Incoming,
}

impl Incomings {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            second_user: signal(SignalKind::user_defined2())?,
            window: signal(SignalKind::window_change())?,
            stop: signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?,
            go_on: signal(SignalKind::from_raw(Signal::CONT.as_raw()))?,
        })
    }
}

/// Something to react to.
enum Woken {
    Order(Option<Order>),
    ChildChanged,
    SecondUser,
    Window,
    StopTogether,
    GoOnTogether,
    Due,
    Look,
}

/// Runs until nobody gives orders any more.
pub(super) async fn keep(
    program: Program,
    settings: Settings,
    mut orders: mpsc::Receiver<Order>,
    shown: &watch::Sender<Seen>,
    gone: &watch::Sender<bool>,
) {
    let clock = Clock::start();
    let mut incomings = match Incomings::listen() {
        Ok(incomings) => incomings,
        Err(error) => {
            warn!(target: SCOPE, err = %error, "cannot listen for signals, the app cannot be started");
            return;
        }
    };
    let mut keeper = Keeper {
        program,
        ports: (0, 0),
        process: None,
        family: Family::adopting(),
        machine: Machine::new(settings, clock.now()),
        clock,
    };
    loop {
        match keeper.next(&mut orders, &mut incomings).await {
            Woken::Order(Some(order)) => keeper.obey(order),
            Woken::Order(None) => return keeper.kill_everything().await,
            Woken::ChildChanged => keeper.look_at_children(),
            Woken::SecondUser => keeper.signal_process(Signal::USR2),
            // As the terminal does with the group in front.
            Woken::Window => keeper.signal_group(Signal::WINCH),
            Woken::StopTogether => keeper.stop_together(),
            Woken::GoOnTogether => keeper.signal_group(Signal::CONT),
            Woken::Due => {
                keeper.on(Event::Due).ok();
            }
            Woken::Look => {
                keeper.look_at_children();
                keeper.look_for_rest();
            }
        }
        keeper.show(shown, gone);
    }
}

struct Keeper {
    program: Program,
    ports: (u16, u16),
    process: Option<Process>,
    family: Family,
    machine: Machine,
    clock: Clock,
}

impl Keeper {
    async fn next(&self, orders: &mut mpsc::Receiver<Order>, incomings: &mut Incomings) -> Woken {
        let due = self.machine.wake_at();
        let clearing = self.machine.state() == State::Clearing;
        tokio::select! {
            biased;
            order = orders.recv() => Woken::Order(order),
            _ = incomings.child.recv() => Woken::ChildChanged,
            _ = incomings.stop.recv() => Woken::StopTogether,
            _ = incomings.go_on.recv() => Woken::GoOnTogether,
            _ = incomings.second_user.recv() => Woken::SecondUser,
            _ = incomings.window.recv() => Woken::Window,
            () = until(self.clock, due) => Woken::Due,
            () = tokio::time::sleep(LOOKS_EVERY), if clearing => Woken::Look,
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start {
                http_port,
                grpc_port,
                told,
            } => {
                self.ports = (http_port, grpc_port);
                told.send(self.on(Event::Start)).ok();
            }
            Order::Ending => {
                self.on(Event::Ending).ok();
            }
            Order::Stop(limit) => {
                self.on(Event::Stop(limit)).ok();
            }
        }
    }

    /// # Errors
    /// Why the process cannot be started, if that was to be done.
    fn on(&mut self, event: Event) -> Result<(), String> {
        let mut started = Ok(());
        for action in self.machine.on(event, self.clock.now()) {
            match (action, &self.process) {
                (Action::Spawn, _) => started = self.spawn(),
                (Action::Terminate, Some(process)) => process.signal(Signal::TERM),
                (Action::TerminateRest, Some(process)) => self.family.terminate_rest(process),
                (Action::Kill, Some(process)) => self.family.kill(process),
                (Action::Terminate | Action::TerminateRest | Action::Kill, None) => {}
            }
        }
        started
    }

    fn spawn(&mut self) -> Result<(), String> {
        let again = self.process.take().is_some();
        match self.program.start(self.ports) {
            Ok(process) => {
                if again {
                    info!(target: SCOPE, event = "app", "the application was started again");
                }
                self.process = Some(process);
                Ok(())
            }
            Err(why) => {
                if again {
                    warn!(target: SCOPE, event = "app", err = why, "the application cannot be started again");
                }
                // Nothing of it is there to be told anything.
                self.machine.on(Event::Ended(NOT_STARTED), self.clock.now());
                Err(why)
            }
        }
    }

    /// Reaps whoever has ended.
    fn look_at_children(&mut self) {
        if self.machine.state() == State::Running
            && let Some(code) = self.process.as_mut().and_then(Process::code)
        {
            self.on(Event::Ended(code)).ok();
            if let Some(pause) = self.machine.pause() {
                let pause_ms = pause.as_millis();
                warn!(target: SCOPE, event = "app", code, pause_ms, "the application has ended by itself and is to be started again");
            }
        }
        self.family.reap(self.process.as_ref());
    }

    fn look_for_rest(&mut self) {
        let Some(process) = &self.process else {
            self.on(Event::Rest(false)).ok();
            return;
        };
        let rest = self.family.has_rest(process);
        if !rest {
            process.finish_output();
        }
        self.on(Event::Rest(rest)).ok();
    }

    fn signal_process(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal_group(signal);
        }
    }

    /// The terminal wants its user back: the app, which is in a group of its own, would go on without us.
    fn stop_together(&self) {
        if getpid().is_init() {
            // The kernel does not stop us, so that nobody would come to wake the app.
            return;
        }
        self.signal_group(Signal::STOP);
        kill_process(getpid(), Signal::STOP).ok();
    }

    /// Nobody gives orders any more.
    async fn kill_everything(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        for _ in 0..KILL_TRIES {
            self.family.kill(&process);
            self.family.reap(None);
            if !self.family.has_rest(&process) {
                return;
            }
            tokio::time::sleep(LOOKS_EVERY).await;
        }
    }

    fn show(&self, shown: &watch::Sender<Seen>, gone: &watch::Sender<bool>) {
        let state = self.machine.state();
        let seen = Seen {
            ended: self.machine.ended(),
            is_over: state == State::Over,
            verdict: self.machine.verdict(),
        };
        set(shown, seen);
        set(gone, !matches!(state, State::Idle | State::Running));
    }
}

/// Wakes nobody who would see what he saw before.
fn set<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let differs = *current != value;
        *current = value;
        differs
    });
}

async fn until(clock: Clock, due: Option<Moment>) {
    match due {
        Some(due) => clock.until(due).await,
        None => std::future::pending().await,
    }
}
