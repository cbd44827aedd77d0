//! The way up and the way down: from bound ports to the exit code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_blocks::activity::table;
use outrigger_blocks::drain::Cause;
use outrigger_blocks::metadata::Reader;
use outrigger_blocks::{AnyHandle, Blocks, Registry, StopRequest};
use outrigger_component_api::Kind;
use outrigger_config::flags::DrainSource;
use outrigger_core::duration::format_go;
use outrigger_lifecycle::connection::State;
use outrigger_lifecycle::drain::{Exit, Linger, Stage};
use outrigger_lifecycle::phase::{Event, Phase};
use outrigger_lifecycle::{Scope, gate};
use outrigger_telemetry::journal;
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{error, info, warn};

use crate::companion::Companion;
use crate::components::Names;
use crate::drain::{Reason, Sight, WayDown, usual_linger};
use crate::phases::Phases;
use crate::reload::Resources;
use crate::servers::Servers;
use crate::signals::{Signals, Told};
use crate::summary;

const SCOPE: &str = "dapr.runtime";

/// For components, servers and subscriptions to let go.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A repeated signal is one that somebody insists with, if it comes this much later.
const INSISTS_AFTER: Duration = Duration::from_millis(500);
/// What there is time for when somebody insists.
const LAST_BREATH: Duration = Duration::from_millis(120);
/// For everything that is let go of, however many steps that takes.
const END_LIMIT: Duration = Duration::from_millis(4_500);
/// For what has been observed to reach its readers.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// The exit code of a process that is to be started again elsewhere.
const NETWORK_LOST: u8 = 75;
/// A fault of our own: whoever looks after the process starts another one.
pub const BUG: u8 = 70;

/// Numbers of the way up and down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub settle_timeout: Duration,
    /// Every component must be ready by then.
    pub init_deadline: Option<Duration>,
    /// For everything from the trigger on; none means for as long as it takes.
    pub drain_timeout: Option<Duration>,
    pub block_shutdown: Option<Duration>,
    pub drain_source: DrainSource,
    pub quiet: Duration,
    /// The app's absence ends the wait for its last calls.
    pub watches_app: bool,
}

/// Everything that the life of the sidecar moves.
pub(crate) struct Life {
    pub settings: Settings,
    pub phases: Arc<Phases>,
    pub gate: watch::Receiver<gate::State>,
    pub blocks: Arc<Blocks>,
    pub resources: Arc<Mutex<Resources>>,
    /// Components whose first attempt is waited for.
    pub eager: Vec<AnyHandle>,
    /// What the way down looks at.
    pub sight: Sight,
    pub servers: Servers,
    /// Owns subscriptions.
    pub subscriptions: Scope,
    /// Owns everything else.
    pub scope: Scope,
    /// Owns what tells others of us: exporters.
    pub telling: Scope,
    pub stop: mpsc::Receiver<StopRequest>,
    pub fatal: mpsc::Receiver<String>,
    pub signals: Signals,
    pub companion: Option<Box<dyn Companion>>,
    pub ports: (u16, u16),
    /// The process is gone by then, once nothing is waited for any more.
    pub gone_by: Option<Instant>,
}

/// How the way down went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Clean,
    /// Work was left behind.
    Late,
    Insisted,
}

/// What has to be done next.
enum Woken {
    Gate,
    Settled,
    Told(Told),
    Asked(StopRequest),
    Fatal(String),
    /// The companion has ended by itself.
    Ended(u8),
    Over {
        late: bool,
    },
}

/// How long letting go may take.
#[derive(Clone, Copy)]
struct Time {
    /// Of each step.
    limit: Duration,
    /// Of all together.
    gone_by: Instant,
}

impl Time {
    /// For the next step.
    fn step(self) -> Duration {
        let left = self.gone_by.saturating_duration_since(Instant::now());
        self.limit.min(left)
    }
}

/// The end, once it has been asked for.
struct End {
    cause: Cause,
    code: u8,
    began: Instant,
    fatal: Option<String>,
}

impl End {
    fn new(cause: Cause) -> Self {
        Self {
            cause,
            code: 0,
            began: Instant::now(),
            fatal: None,
        }
    }
}

impl Life {
    /// Runs until the end.
    pub(crate) async fn run(mut self) -> u8 {
        let (end, outcome) = self.live().await;
        let code = self.close(&end, outcome).await;
        if let Some(why) = &end.fatal {
            error!(target: SCOPE, fatal = true, "Fatal error from runtime: {why}");
        }
        let ended = format!("{}, exit code {code}", end.cause.name());
        let told = journal::Told {
            cause: Some(end.fatal.as_deref().unwrap_or(&ended)),
            ..journal::Told::default()
        };
        let journal = &self.blocks.metrics.journal;
        journal.change(journal::Kind::Process, "", "ended", told);
        if code == 0 {
            info!(target: SCOPE, "Daprd shutdown gracefully");
        }
        self.servers.close_telling();
        let was_cut_short = outcome == Outcome::Insisted;
        let limit = if was_cut_short {
            LAST_BREATH / 2
        } else {
            FLUSH_LIMIT
        };
        self.telling.close(self.at_most(limit)).await;
        code
    }

    /// Everything up to the last step: the end that was asked for, and how the way to it went.
    async fn live(&mut self) -> (End, Outcome) {
        let settled = settled(self.eager.clone());
        let settle_timeout = self.settings.settle_timeout;
        let mut settling = Box::pin(async move {
            if tokio::time::timeout(settle_timeout, settled).await.is_err() {
                warn!(target: SCOPE, "not every component has ended its first attempt in time, going on without them");
            }
        });
        let mut overdue = Box::pin(overdue(
            self.settings.init_deadline,
            self.eager.clone(),
            self.blocks.registry.clone(),
        ));
        let mut is_settled = false;
        let mut way: Option<WayDown> = None;
        let mut drains = 0;
        let mut end: Option<End> = None;
        let mut companion_is_over = false;
        loop {
            let woken = tokio::select! {
                biased;
                told = self.signals.next() => Woken::Told(told),
                Some(request) = self.stop.recv() => Woken::Asked(request),
                Some(why) = self.fatal.recv() => Woken::Fatal(why),
                why = &mut overdue, if end.is_none() => Woken::Fatal(why),
                code = ended(&mut self.companion), if !companion_is_over => Woken::Ended(code),
                Ok(()) = self.gate.changed() => Woken::Gate,
                () = &mut settling, if !is_settled => Woken::Settled,
                late = on_the_way(way.as_mut(), &self.sight) => Woken::Over { late },
            };
            let next = match woken {
                Woken::Told(Told::Stop(name)) => match &end {
                    None => {
                        info!(target: SCOPE, "Received signal '{name}'; beginning shutdown");
                        self.heed_the_third();
                        End::new(Cause::Signal)
                    }
                    Some(end) if end.began.elapsed() < INSISTS_AFTER => continue,
                    Some(_) => {
                        warn!(target: SCOPE, inflight = self.blocks.activity.in_flight(), "told to stop again: ending at once");
                        cut(way.as_mut(), &self.sight);
                        return (
                            end.unwrap_or_else(|| End::new(Cause::Signal)),
                            Outcome::Insisted,
                        );
                    }
                },
                Woken::Told(Told::Reload) => {
                    self.reload();
                    continue;
                }
                Woken::Told(Told::Dump) => {
                    self.dump();
                    continue;
                }
                Woken::Told(Told::Drain) => {
                    self.begin_drain(&mut way, &mut drains, Cause::UserSignal);
                    continue;
                }
                Woken::Asked(StopRequest::Drain(cause)) => {
                    self.begin_drain(&mut way, &mut drains, cause);
                    continue;
                }
                Woken::Asked(StopRequest::Resume(answer)) => {
                    let may_resume = end.is_none();
                    if may_resume && let Some(way) = way.take() {
                        self.resume(way, is_settled).await;
                    }
                    answer.send(may_resume).ok();
                    continue;
                }
                Woken::Asked(StopRequest::Graceful) => {
                    info!(target: SCOPE, "Shutdown requested via API; beginning shutdown");
                    End::new(Cause::Api)
                }
                Woken::Asked(StopRequest::Forced) => {
                    warn!(target: SCOPE, "Force shutdown requested, exiting immediately without graceful shutdown");
                    cut(way.as_mut(), &self.sight);
                    let cause = Cause::Forced;
                    let forced = end.map_or_else(|| End::new(cause), |end| End { cause, ..end });
                    return (forced, Outcome::Insisted);
                }
                Woken::Asked(StopRequest::AppGone) => End::new(Cause::App),
                Woken::Asked(StopRequest::NetworkLost) => {
                    let lost = End {
                        code: NETWORK_LOST,
                        ..End::new(Cause::Network)
                    };
                    return (lost, Outcome::Clean);
                }
                Woken::Asked(StopRequest::Broken(part)) => End {
                    code: BUG,
                    fatal: Some(format!(
                        "{part} failed by a fault of our own; what went wrong stands on stderr"
                    )),
                    ..End::new(Cause::Fatal)
                },
                Woken::Fatal(why) => End {
                    code: 1,
                    fatal: Some(why),
                    ..End::new(Cause::Fatal)
                },
                Woken::Ended(code) => {
                    companion_is_over = true;
                    if let Some(way) = &mut way {
                        way.app_has_ended();
                    }
                    if end.is_none() {
                        info!(target: SCOPE, code, "the application has ended by itself");
                    }
                    End {
                        code,
                        ..End::new(Cause::Child)
                    }
                }
                Woken::Gate => {
                    let gate = *self.gate.borrow();
                    let over = way.take_if(|way| end.is_none() && way.is_overtaken(gate));
                    if let Some(way) = over {
                        info!(target: SCOPE, event = "drain", "the application was restarted, and nobody has asked for an end");
                        self.resume(way, is_settled).await;
                    }
                    continue;
                }
                Woken::Settled => {
                    is_settled = true;
                    summary::tell(&self.blocks);
                    let blocks = self.blocks.clone();
                    self.scope
                        .spawn("summary", move |stop| summary::watch(blocks, stop));
                    self.phases.on(Event::Settled, &self.blocks.metrics);
                    self.phases.gate_changed(&self.blocks.metrics);
                    let (http, grpc) = self.ports;
                    match &mut self.companion {
                        Some(companion) if end.is_none() => {
                            match companion.start(http, grpc).await {
                                Ok(()) => continue,
                                Err(why) => End {
                                    code: 1,
                                    fatal: Some(why),
                                    ..End::new(Cause::Fatal)
                                },
                            }
                        }
                        Some(_) | None => continue,
                    }
                }
                Woken::Over { late } => {
                    let end = end.unwrap_or_else(|| End::new(Cause::Signal));
                    let left = way.as_ref().map(|way| way.left(self.sight.clock));
                    let limit = if late {
                        self.gone_by = Some(Instant::now() + END_LIMIT);
                        CLOSE_LIMIT
                    } else {
                        left.unwrap_or(Duration::MAX)
                    };
                    let outcome = tokio::select! {
                        () = insisted(&mut self.signals, &mut self.stop, end.began) => Outcome::Insisted,
                        () = stop_companion(&mut self.companion, limit) => if late { Outcome::Late } else { Outcome::Clean },
                    };
                    return (end, outcome);
                }
            };
            // The first reason counts.
            if end.is_none() {
                if let Some(companion) = &mut self.companion {
                    companion.ending();
                }
                self.begin_end(&mut way, &mut drains, &next);
                end = Some(next);
            }
        }
    }

    /// Drains and stays.
    fn begin_drain(&self, way: &mut Option<WayDown>, drains: &mut u32, cause: Cause) {
        if way.is_none() {
            *drains += 1;
            let reason = Reason {
                cause,
                exit: None,
                because: "",
            };
            *way = Some(WayDown::begin(&self.sight, *drains, &reason));
        } else if let Some(way) = way {
            way.asked_again(&self.sight, cause);
        }
    }

    fn begin_end(&self, way: &mut Option<WayDown>, drains: &mut u32, end: &End) {
        let settings = &self.settings;
        let now = self.sight.clock.now();
        let deadline = settings.drain_timeout.map(|limit| now + limit);
        let quiet = match end.cause {
            // Nobody is left whose calls could be waited for.
            Cause::Child | Cause::Fatal => Linger::Quiet(Duration::ZERO),
            _ => {
                let watches_app = settings.watches_app && self.sight.app.is_some();
                usual_linger(self.companion.is_some(), watches_app, settings.quiet)
            }
        };
        let linger = match (settings.block_shutdown, end.cause) {
            (Some(time), Cause::Signal) => {
                info!(target: SCOPE, "Blocking graceful shutdown for {} or until app reports unhealthy...", format_go(time));
                Linger::Block(time)
            }
            _ => quiet,
        };
        let reason = Reason {
            cause: end.cause,
            exit: Some(Exit {
                at: now,
                deadline,
                linger,
            }),
            because: settings.drain_source.words(),
        };
        match (way.as_mut(), reason.exit) {
            (Some(way), Some(exit)) => way.exit(&self.sight, exit, &reason),
            _ => {
                *drains += 1;
                *way = Some(WayDown::begin(&self.sight, *drains, &reason));
            }
        }
    }

    /// Takes a drain back.
    async fn resume(&self, way: WayDown, is_settled: bool) {
        let before = match way.take_back(&self.sight) {
            Phase::Starting if is_settled => Phase::WaitingApp,
            before => before,
        };
        self.phases.accept_peers(false);
        if let Some(names) = &self.sight.names {
            names.join().await;
        }
        self.phases.on(Event::Resumed(before), &self.blocks.metrics);
        self.phases.gate_changed(&self.blocks.metrics);
    }

    fn reload(&self) {
        let resources = self.resources.clone();
        self.scope.spawn_future(
            "reload",
            async move { crate::reload::reload(&resources).await },
        );
    }

    /// The whole state, for whoever looks into a log.
    fn dump(&self) {
        let document = self.blocks.metadata.document(Reader::Trusted);
        let components = document
            .extended
            .get("outrigger.dev/components")
            .cloned()
            .unwrap_or_default();
        let in_hand = table(&self.blocks.activity.in_hand());
        info!(target: SCOPE, phase = self.phases.now().name(), gate = self.gate.borrow().name(), inflight = in_hand, components, "state");
    }

    /// What is left of a limit.
    fn at_most(&self, limit: Duration) -> Duration {
        self.gone_by
            .map_or(limit, |gone_by| Time { limit, gone_by }.step())
    }

    /// Whoever tells us a third time to end is obeyed, whatever is going on.
    fn heed_the_third(&self) {
        let began = Instant::now();
        self.telling.spawn("signals.third", move |stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = third(began) => {
                    #[expect(clippy::disallowed_methods, reason = "that is what was asked for")]
                    std::process::exit(1);
                }
            }
        });
    }

    /// Lets everything go; the exit code.
    async fn close(&mut self, end: &End, outcome: Outcome) -> u8 {
        let limit = match (outcome, end.cause) {
            (Outcome::Insisted, Cause::Forced) => LAST_BREATH / 2,
            (Outcome::Insisted, _) => LAST_BREATH,
            (Outcome::Late, _) => {
                let in_hand = table(&self.blocks.activity.in_hand());
                warn!(target: SCOPE, inflight = self.blocks.activity.in_flight(), "Graceful shutdown timeout exceeded, forcing shutdown: what is still in hand is given back, [{in_hand}]");
                CLOSE_LIMIT
            }
            // Nobody can be reached any more; only an app of ours may have something to finish.
            (Outcome::Clean, Cause::Network) if self.companion.is_none() => LAST_BREATH,
            (Outcome::Clean, _) => CLOSE_LIMIT,
        };
        let gone_by = self
            .gone_by
            .get_or_insert_with(|| Instant::now() + END_LIMIT);
        let time = Time {
            limit,
            gone_by: *gone_by,
        };
        let forced = &self.blocks.metrics.drain_forced;
        // Told while somebody can still read it.
        match outcome {
            Outcome::Insisted if end.cause == Cause::Forced => forced.add(["api"], 1),
            Outcome::Insisted => forced.add(["signal"], 1),
            Outcome::Late => forced.add(["deadline"], 1),
            Outcome::Clean => {}
        }
        if outcome == Outcome::Insisted || end.cause == Cause::Network {
            stop_companion(&mut self.companion, limit / 2).await;
        }
        let insists = {
            let began = end.began;
            tokio::select! {
                () = insisted(&mut self.signals, &mut self.stop, began) => true,
                () = let_go(&self.phases, &self.blocks, &self.servers, &self.subscriptions, &self.resources, self.sight.names.as_deref(), time) => false,
            }
        };
        match (outcome, insists) {
            (Outcome::Insisted, _) | (_, true) => 1,
            (Outcome::Late, false) if end.code == 0 => 1,
            (Outcome::Late, false) => end.code,
            (Outcome::Clean, false) if end.code == 0 => {
                self.companion.as_ref().map_or(0, |app| app.verdict())
            }
            (Outcome::Clean, false) => end.code,
        }
    }
}

async fn stop_companion(companion: &mut Option<Box<dyn Companion>>, limit: Duration) {
    if let Some(companion) = companion {
        companion.stop(limit).await;
    }
}

/// Goes down, if that is the way; whether work was left behind in the end. A drain that is to end nothing goes on for ever.
async fn on_the_way(way: Option<&mut WayDown>, sight: &Sight) -> bool {
    if let Some(way) = way
        && let Stage::Over { late } = way.step(sight).await
    {
        return late;
    }
    std::future::pending().await
}

/// The last step: nothing is served any more.
async fn let_go(
    phases: &Phases,
    blocks: &Blocks,
    servers: &Servers,
    subscriptions: &Scope,
    resources: &Mutex<Resources>,
    names: Option<&Names>,
    time: Time,
) {
    phases.on(Event::StopRequested, &blocks.metrics);
    phases.on(Event::Finish, &blocks.metrics);
    let first = time.step();
    let serving = servers.close(first);
    let subscribing = async {
        subscriptions.close(first).await;
    };
    tokio::join!(serving, subscribing);
    let second = time.step();
    let components = async {
        // A reload under way must not hold up the end.
        if let Ok(mut resources) = tokio::time::timeout(second / 2, resources.lock()).await {
            resources.components.close(time.step()).await;
        }
    };
    let names = async {
        if let Some(names) = names {
            names.close(second).await;
        }
    };
    tokio::join!(components, names);
}

/// A way down that is not gone to its end.
fn cut(way: Option<&mut WayDown>, sight: &Sight) {
    if let Some(way) = way {
        way.observe(sight);
    }
}

/// Completes when the process is told a third time to end.
async fn third(began: Instant) {
    let Ok(mut signals) = Signals::of_the_end() else {
        return std::future::pending().await;
    };
    let mut insists = false;
    loop {
        signals.stopped().await;
        if began.elapsed() < INSISTS_AFTER {
            continue;
        }
        if std::mem::replace(&mut insists, true) {
            return;
        }
    }
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
                if matches!(request, StopRequest::Forced) {
                    return;
                }
            }
        }
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
    let is_store = |handle: &&AnyHandle| handle.kind() == Kind::Secrets;
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
async fn overdue(
    limit: Option<Duration>,
    handles: Vec<AnyHandle>,
    registry: Arc<Registry>,
) -> String {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    tokio::time::sleep(limit).await;
    let late = handles
        .iter()
        .find(|handle| !handle.info().optional && !handle.status().was_ready);
    let table = registry.table();
    // What is still rejected never had a handle.
    let rejected = table.rejected.iter().find(|rejected| !rejected.optional);
    let late = late.map(|handle| handle.name().to_string());
    match late.or_else(|| rejected.map(|rejected| rejected.name.clone())) {
        Some(name) => format!(
            "component {name} is not ready after {} seconds (--component-init-deadline)",
            limit.as_secs_f64()
        ),
        None => std::future::pending().await,
    }
}
