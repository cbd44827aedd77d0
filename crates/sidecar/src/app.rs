//! The app: how it is spoken to, and the task behind the gate in front of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::app::{AppChannel, Probe};
use outrigger_blocks::invoke::Admission;
use outrigger_blocks::metadata::{AppFacts, HealthFacts};
use outrigger_channel::app::{GrpcApp, HttpApp, Protocol, Settings};
use outrigger_config::Options;
use outrigger_config::flags::AppProtocol;
use outrigger_lifecycle::gate::{Action, Event, Health, Machine, State};
use outrigger_lifecycle::{Clock, Moment, Scope, Stop};
use outrigger_resiliency::Resiliency;
use outrigger_telemetry::{Metrics, journal};
use outrigger_wire::Target;
use outrigger_wire::grpc::Channel;
use outrigger_wire::http2;
use outrigger_wire::tls::ClientTls;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::discovery::{Answers, Discovery, Round};
use crate::phases::Phases;

const SCOPE: &str = "dapr.runtime";

/// The app behind the sidecar.
#[derive(Clone)]
pub(crate) struct App {
    pub channel: Arc<dyn AppChannel>,
    /// For calls that are passed on as they are.
    pub relay: Arc<Channel>,
    pub port: u16,
}

/// Makes the app's channel; no connection yet.
///
/// # Errors
/// When the address cannot be one.
pub(crate) fn open(
    options: &Options,
    metrics: &Arc<Metrics>,
    scope: &Scope,
) -> Result<Option<App>, String> {
    let app = &options.app;
    let Some(port) = app.port else {
        return Ok(None);
    };
    let tls = |protocols: &[&[u8]]| {
        if app.protocol.is_tls() {
            ClientTls::trusting(protocols)
                .map(Some)
                .map_err(|error| error.to_string())
        } else {
            Ok(None)
        }
    };
    let protocols: &[&[u8]] = if app.protocol.is_http() {
        &[b"http/1.1"]
    } else {
        &[b"h2"]
    };
    let target = Target {
        host: app.channel_address.clone(),
        port,
        tls: tls(protocols)?,
    };
    let unlimited = |bytes: u64| {
        if bytes == 0 {
            usize::MAX
        } else {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        }
    };
    let health = app.health.as_ref();
    let settings = Settings {
        target: target.clone(),
        app_id: options.app_id.to_string(),
        token: options.environment.app_api_token.clone(),
        metrics: metrics.clone(),
        max_concurrency: app.max_concurrency,
        max_head: unlimited(options.api.read_buffer_size),
        max_message: unlimited(options.api.max_body_size),
        probe_timeout: health.map_or(Duration::from_millis(500), |health| health.timeout),
        health_path: health.map_or_else(|| "/healthz".to_owned(), |health| health.path.clone()),
        ready: if app.protocol.is_http() {
            app.ready_path.clone()
        } else {
            app.ready_grpc_service.clone()
        },
        busy_path: app.busy_path.clone(),
        lifecycle_path: app.lifecycle_path.clone(),
    };
    let max_message = settings.max_message;
    let channel: Arc<dyn AppChannel> = match app.protocol {
        AppProtocol::Http | AppProtocol::Https => {
            Arc::new(HttpApp::new(settings, Protocol::Http1, scope)?)
        }
        AppProtocol::H2c => Arc::new(HttpApp::new(settings, Protocol::H2c, scope)?),
        AppProtocol::Grpc | AppProtocol::Grpcs => Arc::new(GrpcApp::new(settings, scope)?),
    };
    let relay = Channel::new(
        target,
        http2::Settings::default(),
        max_message,
        scope.clone(),
    )
    .map_err(|status| status.message)?;
    Ok(Some(App {
        channel,
        relay: Arc::new(relay),
        port,
    }))
}

/// What the metadata document says of it.
pub(crate) fn facts(options: &Options) -> AppFacts {
    let app = &options.app;
    AppFacts {
        port: app.port,
        protocol: app.protocol.name().to_owned(),
        channel_address: app.channel_address.clone(),
        max_concurrency: app
            .max_concurrency
            .map_or(0, |limit| i32::try_from(limit).unwrap_or(i32::MAX)),
        health: app.health.as_ref().map(|health| HealthFacts {
            path: if app.protocol.is_http() {
                health.path.clone()
            } else {
                String::new()
            },
            interval: health.interval,
            timeout: health.timeout,
            threshold: health.threshold,
        }),
    }
}

/// The gate's task.
pub(crate) struct GateKeeper {
    pub app: App,
    pub settings: outrigger_lifecycle::gate::Settings,
    pub reads_config: bool,
    pub discovery: Arc<dyn Discovery>,
    /// What the app has answered.
    pub answers: Answers,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    /// A delivery found the port closed.
    pub refused: Arc<Notify>,
    /// Discovery is to be repeated, because there is something new to subscribe through.
    pub renewed: Arc<Notify>,
    /// True while the app's process, which is our child, is gone.
    pub away: Option<watch::Receiver<bool>>,
    pub state: watch::Sender<State>,
    /// What follows from the gate.
    pub phases: Arc<Phases>,
    pub resiliency: Arc<Resiliency>,
}

/// What the gate asks of the app.
pub(crate) fn settings(options: &Options) -> outrigger_lifecycle::gate::Settings {
    let app = &options.app;
    outrigger_lifecycle::gate::Settings {
        has_app: app.port.is_some(),
        asks_ready: if app.protocol.is_http() {
            app.ready_path.is_some()
        } else {
            app.ready_grpc_service.is_some()
        },
        health: app.health.as_ref().map(|health| Health {
            interval: health.interval,
            threshold: health.threshold,
        }),
    }
}

type Asking = Option<Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// What the app said.
struct Answer {
    event: Event,
    /// Why it is not ready.
    why: Option<String>,
}

impl From<Event> for Answer {
    fn from(event: Event) -> Self {
        Self { event, why: None }
    }
}

/// An app that is not ready is told of as often as one whose port is closed.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Since when the app has not been ready, or was last told not to be.
#[derive(Default)]
struct Unready(Option<Moment>);

impl Unready {
    /// The app is not ready; whether that is to be told.
    fn is_due(&mut self, now: Moment) -> bool {
        let is_due = now.since(*self.0.get_or_insert(now)) >= TELL_EVERY;
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

impl GateKeeper {
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut away = self.away.take();
        let mut machine = Machine::new(self.settings, self.clock.now());
        let (mut asking, mut probing): (Asking, Asking) = (None, None);
        let (mut found, mut unready) = (false, Unready::default());
        loop {
            let due = machine.wake_at();
            let clock = self.clock;
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                gone = changed(&mut away) => {
                    if gone {
                        // Nobody is left to answer.
                        (asking, probing) = (None, None);
                        Event::Gone
                    } else {
                        self.metrics.app_restarts.add([], 1);
                        Event::Back
                    }
                }
                () = self.refused.notified() => Event::Refused,
                answer = answer(&mut asking) => {
                    asking = None;
                    if let Some(why) = answer.why && unready.is_due(clock.now()) {
                        warn!(target: SCOPE, event = "gate", err = why, "waiting for application to be ready");
                    }
                    answer.event
                }
                answer = answer(&mut probing) => {
                    probing = None;
                    answer.event
                }
                () = self.renewed.notified() => {
                    self.answers.ask_topics_anew();
                    // Whatever is being asked will do; otherwise the app is asked once more.
                    if asking.is_none() && machine.is_open() {
                        asking = Some(self.ask(Action::Discover));
                    }
                    continue;
                }
                () = async move { match due { Some(due) => clock.until(due).await, None => std::future::pending().await } } => Event::Due,
            };
            let before = machine.state();
            if matches!(event, Event::Port(true)) && !found {
                found = true;
                info!(target: SCOPE, "application discovered on port {}", self.app.port);
            }
            let actions = machine.on(event, self.clock.now(), rand::random());
            let now = machine.state();
            if now != before && now != State::Open {
                // Whatever it said, it is asked again when its gate opens.
                self.answers.forget();
            }
            for action in actions {
                match action {
                    Action::TellWaiting => {
                        info!(target: SCOPE, event = "gate", "waiting for application to listen on port {}", self.app.port)
                    }
                    Action::ProbeHealth => probing = Some(self.ask(action)),
                    Action::TryPort | Action::AskReady | Action::Discover => {
                        asking = Some(self.ask(action))
                    }
                }
            }
            if now != before {
                let (from, to) = (before.name(), now.name());
                unready = Unready::default();
                if matches!(now, State::WaitPort | State::Closed)
                    && matches!(before, State::Open | State::Discover)
                {
                    warn!(target: SCOPE, event = "gate", from, to, "the application is away, nothing is handed to it");
                } else {
                    info!(target: SCOPE, event = "gate", from, to, "the gate in front of the application is {to}");
                }
                if now == State::Open
                    && let Some(missing) = self.answers.missing()
                {
                    warn!(target: SCOPE, event = "gate", "the application has not told {missing} yet, and is asked on");
                }
                let told = outrigger_telemetry::journal::Told {
                    cause: cause_of(event, before, now),
                    ..Default::default()
                };
                let journal = &self.metrics.journal;
                journal.change(journal::Kind::Gate, "", now.name(), told);
                self.show(now);
            }
        }
    }

    /// Nobody has to wait for another task until what follows from the state follows.
    fn show(&self, now: State) {
        show_gate(now, &self.metrics);
        self.state.send_replace(now);
        self.phases.gate_changed(&self.metrics);
    }

    fn ask(&self, action: Action) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let app = self.app.channel.clone();
        match action {
            Action::TryPort => Box::pin(async move { Event::Port(app.accepts().await).into() }),
            Action::AskReady => Box::pin(async move {
                let why = app.readiness().await.err();
                let event = Event::Ready(why.is_none());
                Answer { event, why }
            }),
            Action::ProbeHealth => {
                let metrics = self.metrics.clone();
                Box::pin(async move {
                    let healthy = app.probe().await == Probe::Healthy;
                    metrics
                        .app_probe
                        .add([if healthy { "ok" } else { "failed" }], 1);
                    Event::Health(healthy).into()
                })
            }
            Action::Discover | Action::TellWaiting => {
                let asking = Round {
                    app,
                    discovery: self.discovery.clone(),
                    answers: self.answers.clone(),
                    reads_config: self.reads_config,
                    retry: self.resiliency.initialization_retry(),
                    clock: self.clock,
                };
                Box::pin(async move { Event::Discovered(asking.ask().await).into() })
            }
        }
    }
}

pub(crate) fn show_gate(now: State, metrics: &Metrics) {
    for state in State::ALL {
        metrics
            .app_gate
            .set([state.name()], f64::from(u8::from(state == now)));
    }
}

/// Why the gate is another.
fn cause_of(event: Event, before: State, now: State) -> Option<&'static str> {
    match (event, now) {
        (Event::Refused, State::WaitPort) => Some("a delivery found the application's port closed"),
        (Event::Health(false), State::Closed) => Some("the application's health probes failed"),
        _ if before == State::Discover && now == State::Open => None,
        _ => None,
    }
}

async fn answer(asking: &mut Asking) -> Answer {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn changed(away: &mut Option<watch::Receiver<bool>>) -> bool {
    if let Some(seen) = away
        && seen.changed().await.is_ok()
    {
        return *seen.borrow_and_update();
    }
    std::future::pending().await
}

/// Whether calls may go to the app.
pub(crate) fn admission(state: State, was_open: bool, draining: bool) -> Admission {
    match state {
        _ if draining => Admission::Draining,
        State::Open | State::Discover | State::Absent => Admission::Open,
        _ if was_open => Admission::Unhealthy,
        _ => Admission::NotReadyYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_is_not_ready_is_told_of_after_ten_seconds_and_every_ten() {
        let mut unready = Unready::default();
        let at = |second| Moment::from_start(Duration::from_secs(second));
        let told: Vec<u64> = (5..40)
            .filter(|second| unready.is_due(at(*second)))
            .collect();
        assert_eq!(told, [15, 25, 35]);
    }

    #[test]
    fn an_app_that_was_never_ready_is_not_unhealthy() {
        assert_eq!(
            admission(State::WaitPort, false, false),
            Admission::NotReadyYet
        );
        assert_eq!(admission(State::Closed, true, false), Admission::Unhealthy);
        assert_eq!(admission(State::Open, true, false), Admission::Open);
        assert_eq!(admission(State::Open, true, true), Admission::Draining);
    }
}
