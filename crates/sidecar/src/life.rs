//! The way up and the way down: from bound ports to the exit code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_blocks::{AnyHandle, Blocks, StopRequest};
use outrigger_component_api::Kind;
use outrigger_lifecycle::connection::State;
use outrigger_lifecycle::phase::{Event, Phase};
use outrigger_lifecycle::{Clock, Scope, gate};
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{error, info, warn};

use crate::app::App;
use crate::companion::Companion;
use crate::components::Names;
use crate::phases::Phases;
use crate::reload::Resources;
use crate::servers::Servers;
use crate::signals::{Signals, Told};

const SCOPE: &str = "dapr.runtime";

/// Work must be at zero for this long.
const CALM: Duration = Duration::from_millis(100);
/// How often work in hand is counted on the way down.
const COUNT_EVERY: Duration = Duration::from_millis(10);
/// For components, servers and subscriptions to let go.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A repeated signal is one that somebody insists with, if it comes this much later.
const INSISTS_AFTER: Duration = Duration::from_millis(500);
/// What there is time for when somebody insists.
const LAST_BREATH: Duration = Duration::from_millis(120);
/// For what has been observed to reach its readers.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// The app's port: asked this often, gone after this many refusals in a row.
const GONE_EVERY: Duration = Duration::from_millis(200);
const GONE_AFTER: u32 = 3;
/// The exit code of a process that is to be started again elsewhere.
const NETWORK_LOST: u8 = 75;

/// Numbers of the way up and down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub settle_timeout: Duration,
    /// Every component must be ready by then.
    pub init_deadline: Option<Duration>,
    /// For everything from the trigger on; none means for as long as it takes.
    pub drain_timeout: Option<Duration>,
    pub block_shutdown: Option<Duration>,
    pub quiet: Duration,
    /// How long peers are let in after the end has begun.
    pub accept_window: Duration,
    /// The app's absence ends the wait for its last calls.
    pub watches_app: bool,
}

/// Everything that the life of the sidecar moves.
pub(crate) struct Life {
    pub settings: Settings,
    pub phases: Arc<Phases>,
    pub gate: watch::Receiver<gate::State>,
    pub blocks: Arc<Blocks>,
    pub app: Option<App>,
    pub resources: Arc<Mutex<Resources>>,
    /// Components whose first attempt is waited for.
    pub eager: Vec<AnyHandle>,
    pub names: Option<Names>,
    pub servers: Servers,
    /// Owns subscriptions.
    pub subscriptions: Scope,
    /// Owns everything else.
    pub scope: Scope,
    /// Owns what tells others of us: exporters.
    pub telling: Scope,
    pub clock: Clock,
    pub stop: mpsc::Receiver<StopRequest>,
    pub fatal: mpsc::Receiver<String>,
    pub signals: Signals,
    pub companion: Option<Box<dyn Companion>>,
    pub ports: (u16, u16),
}

/// Why the end has come.
enum Trigger {
    Signal,
    Api,
    Forced,
    AppGone,
    NetworkLost,
    /// The companion ended by itself.
    Ended(u8),
    Fatal(String),
}

/// How the way down went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Clean,
    /// Work was left behind.
    Late,
    Insisted,
}

impl Life {
    /// Runs until the end.
    pub(crate) async fn run(mut self) -> u8 {
        let trigger = self.live().await;
        let began = Instant::now();
        let cause = match &trigger {
            Trigger::Signal => "signal",
            Trigger::Api => "api",
            Trigger::Forced => "forced",
            Trigger::AppGone => "app",
            Trigger::NetworkLost => "network",
            Trigger::Ended(_) => "child",
            Trigger::Fatal(_) => "fatal",
        };
        let mut cut_short = false;
        let code = match trigger {
            Trigger::Forced => {
                cut_short = true;
                self.end(LAST_BREATH / 2).await;
                1
            }
            Trigger::NetworkLost => {
                // Nobody can be reached any more; only an app of ours may have something to finish.
                cut_short = self.companion.is_none();
                self.end(if cut_short { LAST_BREATH } else { CLOSE_LIMIT })
                    .await;
                NETWORK_LOST
            }
            Trigger::Fatal(why) => {
                self.way_down(Duration::ZERO, false, began).await;
                error!(target: SCOPE, fatal = true, "Fatal error from runtime: {why}");
                1
            }
            Trigger::Ended(code) => {
                self.way_down(Duration::ZERO, false, began).await;
                code
            }
            Trigger::Signal | Trigger::Api | Trigger::AppGone => match self
                .way_down(
                    self.settings.quiet,
                    matches!(trigger, Trigger::Signal),
                    began,
                )
                .await
            {
                Outcome::Clean => self.companion.as_ref().map_or(0, |app| app.verdict()),
                Outcome::Late => {
                    self.blocks.metrics.drain_forced.add(["deadline"], 1);
                    1
                }
                Outcome::Insisted => {
                    cut_short = true;
                    self.blocks.metrics.drain_forced.add(["signal"], 1);
                    1
                }
            },
        };
        self.blocks
            .metrics
            .drain_seconds
            .observe([cause], began.elapsed().as_secs_f64());
        if code == 0 {
            info!(target: SCOPE, "Daprd shutdown gracefully");
        }
        self.servers.close_telling();
        self.telling
            .close(if cut_short {
                LAST_BREATH / 2
            } else {
                FLUSH_LIMIT
            })
            .await;
        code
    }

    /// Everything up to the trigger of the end.
    async fn live(&mut self) -> Trigger {
        let settled = settled(self.eager.clone());
        let settle_timeout = self.settings.settle_timeout;
        let mut settling = Box::pin(async move {
            if tokio::time::timeout(settle_timeout, settled).await.is_err() {
                warn!(target: SCOPE, "not every component has ended its first attempt in time, going on without them");
            }
        });
        let is_settled = |life: &Self| life.phases.now() != Phase::Starting;
        let mut overdue = Box::pin(overdue(self.settings.init_deadline, self.eager.clone()));
        loop {
            let settled = is_settled(self);
            let woken = tokio::select! {
                biased;
                told = self.signals.next() => match told {
                    Told::Stop(name) => {
                        info!(target: SCOPE, "Received signal '{name}'; beginning shutdown");
                        return Trigger::Signal;
                    }
                    Told::Reload => {
                        self.reload();
                        continue;
                    }
                    Told::Dump => {
                        self.dump();
                        continue;
                    }
                    Told::Drain => {
                        info!(target: SCOPE, "SIGUSR1 has no effect yet");
                        continue;
                    }
                },
                Some(request) = self.stop.recv() => match request {
                    StopRequest::Graceful => {
                        info!(target: SCOPE, "Shutdown requested via API; beginning shutdown");
                        return Trigger::Api;
                    }
                    StopRequest::Forced => {
                        info!(target: SCOPE, "Shutdown requested via API; ending at once");
                        return Trigger::Forced;
                    }
                    StopRequest::AppGone => return Trigger::AppGone,
                    StopRequest::NetworkLost => return Trigger::NetworkLost,
                },
                Some(why) = self.fatal.recv() => return Trigger::Fatal(why),
                why = &mut overdue => return Trigger::Fatal(why),
                code = ended(&mut self.companion) => {
                    info!(target: SCOPE, code, "the application has ended by itself");
                    return Trigger::Ended(code);
                }
                Ok(()) = self.gate.changed() => Woken::Gate,
                () = &mut settling, if !settled => Woken::Settled,
            };
            match woken {
                Woken::Gate => self.gate_changed(),
                Woken::Settled => {
                    self.phases.on(Event::Settled, &self.blocks.metrics);
                    self.gate_changed();
                    let (http, grpc) = self.ports;
                    if let Some(companion) = &mut self.companion
                        && let Err(why) = companion.start(http, grpc).await
                    {
                        return Trigger::Fatal(why);
                    }
                }
            }
        }
    }

    fn gate_changed(&self) {
        self.phases.gate_changed();
        let state = *self.gate.borrow();
        let open = matches!(state, gate::State::Open | gate::State::Absent);
        if open {
            if state == gate::State::Open && self.phases.now() == Phase::WaitingApp {
                self.blocks.metrics.startup_seconds.set(
                    ["app"],
                    self.clock.now().distance_from_start().as_secs_f64(),
                );
            }
            self.phases.on(Event::GateOpened, &self.blocks.metrics);
        } else if state != gate::State::Discover {
            self.phases.on(Event::GateClosed, &self.blocks.metrics);
        }
    }

    fn reload(&self) {
        let resources = self.resources.clone();
        self.scope.spawn_future(
            "reload",
            async move { resources.lock().await.reload().await },
        );
    }

    /// The whole state, for whoever looks into a log.
    fn dump(&self) {
        let document = self.blocks.metadata.document();
        let components = document
            .extended
            .get("outrigger.dev/components")
            .cloned()
            .unwrap_or_default();
        info!(target: SCOPE, phase = self.phases.now().name(), gate = self.gate.borrow().name(), inflight = self.in_flight(), components, "state");
    }

    fn in_flight(&self) -> usize {
        self.blocks.subscriptions.in_flight() + self.blocks.activity.running()
    }

    /// Takes nothing new in, finishes what is in hand, lets everything go.
    async fn way_down(&mut self, quiet: Duration, block: bool, began: Instant) -> Outcome {
        if let Some(companion) = &mut self.companion {
            companion.ending();
        }
        let deadline = self
            .settings
            .drain_timeout
            .and_then(|limit| began.checked_add(limit));
        let outcome = {
            let mut insisted = Box::pin(insisted(&mut self.signals, &mut self.stop, began));
            let draining = drain(
                Draining {
                    settings: &self.settings,
                    phases: &self.phases,
                    blocks: &self.blocks,
                    names: self.names.as_ref(),
                    app: self.app.as_ref(),
                    gate: self.gate.clone(),
                    companion: &mut self.companion,
                    clock: self.clock,
                },
                quiet,
                block,
                deadline,
            );
            tokio::select! {
                () = &mut insisted => Outcome::Insisted,
                outcome = draining => outcome,
            }
        };
        match outcome {
            Outcome::Insisted => {
                warn!(target: SCOPE, inflight = self.in_flight(), "told to stop again: ending at once");
                self.end(LAST_BREATH).await;
            }
            Outcome::Clean | Outcome::Late => {
                if outcome == Outcome::Late {
                    warn!(target: SCOPE, inflight = self.in_flight(), "the time for finishing work in hand is over, the rest is given back");
                }
                let insists = tokio::select! {
                    () = insisted(&mut self.signals, &mut self.stop, began) => true,
                    () = end(&self.phases, &self.blocks, &self.servers, &self.subscriptions, &self.resources, self.names.as_ref(), CLOSE_LIMIT) => false,
                };
                if insists {
                    return Outcome::Insisted;
                }
            }
        }
        outcome
    }

    async fn end(&mut self, limit: Duration) {
        if let Some(companion) = &mut self.companion {
            companion.stop(limit / 2).await;
        }
        end(
            &self.phases,
            &self.blocks,
            &self.servers,
            &self.subscriptions,
            &self.resources,
            self.names.as_ref(),
            limit,
        )
        .await;
    }
}

enum Woken {
    Gate,
    Settled,
}

/// What the way down needs while signals are still listened to.
struct Draining<'a> {
    settings: &'a Settings,
    phases: &'a Phases,
    blocks: &'a Blocks,
    names: Option<&'a Names>,
    app: Option<&'a App>,
    gate: watch::Receiver<gate::State>,
    companion: &'a mut Option<Box<dyn Companion>>,
    clock: Clock,
}

async fn drain(
    mut parts: Draining<'_>,
    quiet: Duration,
    block: bool,
    deadline: Option<Instant>,
) -> Outcome {
    let metrics = &parts.blocks.metrics;
    let window = parts.settings.accept_window;
    parts.phases.accept_peers(window > Duration::ZERO);
    parts.phases.on(Event::StopRequested, metrics);
    let leaving = async {
        if let Some(names) = parts.names {
            names.leave().await;
        }
    };
    let accepting = async {
        tokio::time::sleep(window).await;
        parts.phases.accept_peers(false);
    };
    let finishing = async {
        tokio::join!(leaving, accepting);
        calm(parts.blocks).await;
    };
    if before(deadline, finishing).await.is_none() {
        parts.phases.on(Event::Finish, metrics);
        stop_companion(parts.companion, CLOSE_LIMIT).await;
        return Outcome::Late;
    }
    parts.phases.on(Event::Drained, metrics);
    let block = if block {
        parts.settings.block_shutdown
    } else {
        None
    };
    before(deadline, linger(&mut parts, quiet, block)).await;
    let left = deadline.map_or(Duration::MAX, |deadline| {
        deadline.saturating_duration_since(Instant::now())
    });
    stop_companion(parts.companion, left).await;
    let late = parts.blocks.activity.running() > 0
        && deadline.is_some_and(|deadline| Instant::now() >= deadline);
    if late { Outcome::Late } else { Outcome::Clean }
}

async fn stop_companion(companion: &mut Option<Box<dyn Companion>>, limit: Duration) {
    if let Some(companion) = companion {
        companion.stop(limit).await;
    }
}

/// Waits until no work has been in hand for a while.
async fn calm(blocks: &Blocks) {
    let mut since = None;
    loop {
        let busy = blocks.subscriptions.in_flight() + blocks.activity.running() > 0;
        if busy {
            since = None;
        } else if since
            .get_or_insert_with(tokio::time::Instant::now)
            .elapsed()
            >= CALM
        {
            return;
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Serves the app's last calls.
async fn linger(parts: &mut Draining<'_>, quiet: Duration, block: Option<Duration>) {
    if let Some(duration) = block {
        info!(target: SCOPE, "Blocking shutdown for {duration:?} or until the application is unhealthy");
        let closed = parts
            .gate
            .wait_for(|state| matches!(state, gate::State::Closed | gate::State::WaitPort));
        tokio::time::timeout(duration, closed).await.ok();
        return;
    }
    if parts.companion.is_some() {
        // It is told to end next, with our calls still open to it.
        return;
    }
    match (parts.settings.watches_app, parts.app) {
        (true, Some(app)) => gone(app).await,
        _ => quiet_for(parts.blocks, parts.clock, quiet).await,
    }
}

/// Waits until nobody has called for a while, counted from now on.
async fn quiet_for(blocks: &Blocks, clock: Clock, quiet: Duration) {
    let began = clock.now();
    loop {
        if blocks.activity.running() == 0 {
            let last = blocks.activity.last_end().max(began);
            if clock.now().since(last) >= quiet {
                return;
            }
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Waits until the app's port has refused several times.
async fn gone(app: &App) {
    let mut refused = 0;
    while refused < GONE_AFTER {
        tokio::time::sleep(GONE_EVERY).await;
        refused = if app.channel.accepts().await {
            0
        } else {
            refused + 1
        };
    }
}

/// The last step: nothing is served any more.
async fn end(
    phases: &Phases,
    blocks: &Blocks,
    servers: &Servers,
    subscriptions: &Scope,
    resources: &Mutex<Resources>,
    names: Option<&Names>,
    limit: Duration,
) {
    phases.on(Event::StopRequested, &blocks.metrics);
    phases.on(Event::Finish, &blocks.metrics);
    let serving = servers.close(limit);
    let subscribing = async {
        subscriptions.close(limit).await;
    };
    tokio::join!(serving, subscribing);
    let components = async {
        // A reload under way must not hold up the end.
        if let Ok(mut resources) = tokio::time::timeout(limit, resources.lock()).await {
            resources.components.close(limit).await;
        }
    };
    let names = async {
        if let Some(names) = names {
            names.close(limit).await;
        }
    };
    tokio::join!(components, names);
}

/// Completes when somebody insists on the end: with another signal, or a forced stop over the API.
async fn insisted(signals: &mut Signals, stop: &mut mpsc::Receiver<StopRequest>, began: Instant) {
    loop {
        tokio::select! {
            told = signals.next() => {
                if matches!(told, Told::Stop(_)) && began.elapsed() >= INSISTS_AFTER {
                    return;
                }
            }
            Some(request) = stop.recv() => {
                if request == StopRequest::Forced {
                    return;
                }
            }
        }
    }
}

async fn before<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok(),
        None => Some(work.await),
    }
}

async fn ended(companion: &mut Option<Box<dyn Companion>>) -> u8 {
    match companion {
        Some(companion) => companion.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits until every component has ended its first attempt, one way or the other. One that waits for a secret store which
/// is not to be had has come as far as it can, too.
async fn settled(handles: Vec<AnyHandle>) {
    let is_store = |handle: &&AnyHandle| handle.info().kind == Kind::Secrets;
    for store in handles.iter().filter(is_store) {
        store.watch().wait_for(|status| status.settled).await.ok();
    }
    let stores_ready = handles
        .iter()
        .filter(is_store)
        .all(|store| store.status().state == State::Ready);
    for handle in &handles {
        handle
            .watch()
            .wait_for(|status| status.settled || (!stores_ready && status.state == State::Pending))
            .await
            .ok();
    }
}

/// Completes when a component is not ready in time.
async fn overdue(limit: Option<Duration>, handles: Vec<AnyHandle>) -> String {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    tokio::time::sleep(limit).await;
    let late = handles
        .iter()
        .find(|handle| !handle.info().optional && !handle.status().was_ready);
    match late {
        Some(handle) => format!(
            "component {} is not ready after {} seconds (--component-init-deadline)",
            handle.info().name,
            limit.as_secs_f64()
        ),
        None => std::future::pending().await,
    }
}
