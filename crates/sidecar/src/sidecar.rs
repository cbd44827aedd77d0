//! The sidecar as a whole: from options to an exit code.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use outrigger_blocks::activity::Activity;
use outrigger_blocks::app::AppChannel;
use outrigger_blocks::drain::{Drain, Drains};
use outrigger_blocks::health::{Health, Pulse};
use outrigger_blocks::invoke::{Invoke, REPLAY_LIMIT};
use outrigger_blocks::metadata::MetadataApi;
use outrigger_blocks::pubsub::Poison;
use outrigger_blocks::pubsub::deliver::Desk;
use outrigger_blocks::pubsub::{Publisher, Subscriptions};
use outrigger_blocks::resolve::Resolver;
use outrigger_blocks::secrets::Secrets;
use outrigger_blocks::state::{Numbers, State};
use outrigger_blocks::{Blocks, Guard, Patience, Registry, StopRequest};
use outrigger_channel::peer::{Access, PeerPool, PeerServer, PeerSettings, Stamp};
use outrigger_channel::proxy::Proxy;
use outrigger_channel::webhook::Webhook;
use outrigger_component_api::{Catalog, Instance};
use outrigger_config::configuration::Features;
use outrigger_config::flags::{AllowedOrigins, InitMode, Mode, StateJsonNumbers};
use outrigger_config::{Configuration, Context, Options};
use outrigger_core::Namespace;
use outrigger_http::Origins;
use outrigger_lifecycle::connection::Timing;
use outrigger_lifecycle::{Backoff, Clock, Scope, gate};
use outrigger_resiliency::Resiliency;
use outrigger_telemetry::history::Reader;
use outrigger_telemetry::span::Tracer;
use outrigger_telemetry::{Metrics, journal};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tracing::{error, info, warn};

use crate::app::{App, GateKeeper};
use crate::companion::Companion;
use crate::components::{Components, Environment, ExternalEndpoints, Names, Shared};
use crate::configured::{self, Configured};
use crate::demands::Demands;
use crate::discovery::Answers;
use crate::drain::Sight;
use crate::events::{Audience, Teller};
use crate::life::{Life, Settings};
use crate::listeners::{Listeners, Ports};
use crate::phases::{Phases, Watches};
use crate::policies::Policies;
use crate::reload::Resources;
use crate::servers::{Apis, Servers};
use crate::signals::Signals;
use crate::subscriptions::Wanted;
use crate::vital::vital;
use crate::watch::{Seen, Watched, run as watch_files};
use crate::{absence, app, components, events, host, listeners, network, telemetry};

const SCOPE: &str = "dapr.runtime";

/// Requests to stop, and reasons to: one is enough.
const FEW: usize = 16;

/// The namespace of those who name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Who we are.
#[derive(Clone, Debug)]
pub struct Versions {
    /// Of Dapr, whose API and behaviour this is.
    pub dapr: String,
    pub own: String,
    pub commit: String,
}

/// What a sidecar is started with.
pub struct Start {
    pub options: Options,
    /// Lines to begin the log with.
    pub warnings: Vec<String>,
    /// Ahead of each line of the log.
    pub log_prefix: &'static str,
    pub catalog: Catalog,
    pub versions: Versions,
    pub companion: Option<Box<dyn Companion>>,
    /// When the process began.
    pub began: Instant,
}

/// Runs a sidecar until its end; the exit code.
///
/// # Errors
/// When not even a log can be written; everything later is told there.
pub async fn run(start: Start) -> Result<u8, String> {
    let host_name = host::name();
    telemetry::start_log(
        &start.options,
        start.log_prefix,
        &host_name,
        &start.versions.dapr,
    )?;
    for warning in &start.warnings {
        warn!(target: SCOPE, "{warning}");
    }
    Ok(match begin(start, host_name).await {
        Ok(Some(life)) => life.run().await,
        Ok(None) => 0,
        Err(why) => {
            error!(target: SCOPE, fatal = true, "Fatal error from runtime: {why}");
            1
        }
    })
}

/// Everything up to a running sidecar, or nothing if the process is told to stop meanwhile: a port that is not free yet and
/// a slow disk take their time.
async fn begin(start: Start, host_name: String) -> Result<Option<Life>, String> {
    let listen =
        || Signals::listen().map_err(|error| format!("cannot listen for signals: {error}"));
    let (signals, mut early) = (listen()?, listen()?);
    tokio::select! {
        life = Box::pin(assemble(start, host_name, signals)) => life.map(Some),
        name = early.stopped() => {
            info!(target: SCOPE, "Received signal '{name}' while starting; ending");
            Ok(None)
        }
    }
}

async fn assemble(start: Start, host_name: String, signals: Signals) -> Result<Life, String> {
    let Start {
        options,
        catalog,
        versions,
        companion,
        began: started,
        ..
    } = start;
    info!(target: SCOPE, "Starting Outrigger {} -- version {} -- commit {}", versions.own, versions.dapr, versions.commit);
    let (configuration, told) = configuration(&options)?;
    let (options, configuration) = (Arc::new(options), Arc::new(configuration));
    let listeners = listeners::bind(&options, &host_name).await?;
    let own_environment = environment(&options, &listeners.ports);
    let scope = Scope::root();
    let telling = Scope::root();
    let clock = Clock::since(started);
    let metrics = telemetry::metrics(&options, &configuration);
    metrics
        .startup_seconds
        .set(["listen"], started.elapsed().as_secs_f64());
    metrics.journal.change(
        journal::Kind::Process,
        "",
        "running",
        journal::Told::default(),
    );
    let history = telemetry::history(&options, &metrics, &telling).await;
    let tracer = telemetry::tracer(&options, &configuration, &own_environment, &telling);
    telemetry::tell_metrics(&configuration);
    telemetry::tell_sampler(&configuration);
    let namespace = namespace(&options).to_string();
    let resiliency = Arc::new(Resiliency::new(namespace, clock, metrics.clone()));
    let assembly = Assembly {
        resiliency,
        options,
        configuration,
        catalog: Arc::new(catalog),
        versions,
        host_name,
        environment: own_environment,
        scope,
        telling,
        clock,
        activity: Arc::new(Activity::new(clock)),
        history,
        metrics,
        tracer,
        started,
        told,
    };
    assembly.build(listeners, companion, signals).await
}

/// The Configuration to start with, and what was told of it.
fn configuration(options: &Options) -> Result<(Configuration, Vec<String>), String> {
    let (configuration, warnings) = configured::read(options)
        .map_err(|errors| format!("error loading configuration: {}", errors.join("; ")))?;
    for warning in &warnings {
        warn!(target: SCOPE, "{warning}");
    }
    Ok((configuration, warnings))
}

/// The process's environment with what daprd adds to its own.
fn environment(options: &Options, ports: &Ports) -> Environment {
    let own: HashMap<&'static str, String> = HashMap::from([
        ("APP_ID", options.app_id.to_string()),
        ("APP_PORT", options.app.port.unwrap_or_default().to_string()),
        ("HOST_ADDRESS", address(options)),
        ("DAPR_PORT", ports.internal.to_string()),
        ("DAPR_GRPC_PORT", ports.grpc.to_string()),
        ("DAPR_HTTP_PORT", ports.http.to_string()),
        ("DAPR_METRICS_PORT", ports.metrics.to_string()),
        ("DAPR_PROFILE_PORT", ports.profile.to_string()),
    ]);
    Arc::new(move |name| own.get(name).cloned().or_else(|| std::env::var(name).ok()))
}

fn address(options: &Options) -> String {
    options
        .environment
        .host_ip
        .clone()
        .filter(|address| !address.is_empty())
        .unwrap_or_else(host::address)
}

/// Questions that the app is not asked.
fn skipped(options: &Options) {
    for (asked, what) in [
        (options.app.reads_config, "dapr configuration"),
        (options.app.reads_subscriptions, "subscription"),
    ] {
        if !asked {
            warn!(target: SCOPE, "Skipping programmatic {what} loading (see 'disable-init-endpoints' flag/annotation)");
        }
    }
}

/// Where peers find us: who listens on loopback alone cannot be reached elsewhere.
fn reachable(options: &Options) -> String {
    match options.internal.listen_address.as_str() {
        loopback @ ("127.0.0.1" | "localhost" | "::1" | "[::1]") => loopback.to_owned(),
        _ => address(options),
    }
}

fn namespace(options: &Options) -> Namespace {
    let own = options.environment.namespace.clone();
    own.unwrap_or_else(|| Namespace::from(DEFAULT_NAMESPACE))
}

/// What everything is built from.
struct Assembly {
    options: Arc<Options>,
    configuration: Arc<Configuration>,
    catalog: Arc<Catalog>,
    versions: Versions,
    host_name: String,
    environment: Environment,
    scope: Scope,
    telling: Scope,
    clock: Clock,
    activity: Arc<Activity>,
    history: Result<Reader, String>,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    resiliency: Arc<Resiliency>,
    started: Instant,
    /// Warnings about the Configuration that the log has.
    told: Vec<String>,
}

impl Assembly {
    async fn build(
        self,
        listeners: Listeners,
        mut companion: Option<Box<dyn Companion>>,
        signals: Signals,
    ) -> Result<Life, String> {
        let options = &self.options;
        let ports = listeners.ports;
        let (fatal, fatal_seen) = mpsc::channel(FEW);
        let (stop, stop_seen) = mpsc::channel(FEW);
        let (drain, drain_seen) = watch::channel(None);
        let registry = Arc::new(Registry::default());
        let app = app::open(options, &self.metrics, &self.scope)?;
        let gate_settings = app::settings(options);
        let (gate, gate_seen) =
            watch::channel(gate::Machine::new(gate_settings, self.clock.now()).state());
        let (phases, watches) = Phases::new(gate_seen.clone(), self.started, &self.metrics);
        let phases = Arc::new(phases);
        let shared = self.shared(&registry, fatal);
        let demands = Arc::new(Demands::new(&options.lifecycle));
        let endpoints = Arc::new(ExternalEndpoints::new(self.metrics.clone()));
        let refused = Arc::new(Notify::new());
        let sight_refused = refused.clone();
        let subscriptions_scope = Scope::root();
        let peers = self.peers();
        let invoke = Arc::new(self.invoke(app.as_ref(), &watches, &peers, &endpoints));
        let names = self.names(&shared, &invoke, ports);
        self.watch(app.as_ref(), &gate_seen, &stop);
        let end = stop.clone();
        let blocks = Arc::new(self.blocks(Parts {
            registry: &registry,
            app: app.as_ref(),
            watches,
            gate: gate_seen.clone(),
            demands: demands.clone(),
            endpoints: endpoints.clone(),
            refused: refused.clone(),
            invoke: invoke.clone(),
            scope: &subscriptions_scope,
            stop,
            drain: drain_seen,
        }));
        let (apis, access) = self.apis(&blocks, app.as_ref(), &peers);
        let configured = Configured {
            options: self.options.clone(),
            current: self.configuration.clone(),
            blocks: blocks.clone(),
            http: apis.http.clone(),
            grpc: apis.grpc.clone(),
            access,
            names: names.clone(),
            environment: self.environment.clone(),
            telling: self.telling.clone(),
            told: self.told.clone(),
        };
        let servers = Servers::start(listeners, apis, options, end.clone());
        info!(target: SCOPE, "HTTP server is running on port {}", ports.http);
        info!(target: SCOPE, "API gRPC server is running on port {}", ports.grpc);
        info!(target: SCOPE, "Internal gRPC server is running on :{}", ports.internal);

        let wanted = Arc::new(Wanted::new(
            blocks.subscriptions.clone(),
            registry.clone(),
            options.app.reads_subscriptions,
        ));
        let renewed = Arc::new(Notify::new());
        let mut resources = Resources {
            watched: Watched {
                folders: options.files.resources_paths.clone(),
                files: options.files.config.clone(),
            },
            seen: Seen::new(),
            configured,
            shared: shared.clone(),
            components: Components::new(shared, self.scope.clone()),
            endpoints,
            wanted: wanted.clone(),
            demands,
            renewed: renewed.clone(),
            policies: Policies::new(self.resiliency.clone(), options.api.resiliency_strict),
            scope: self.scope.clone(),
            http_endpoints: Vec::new(),
            subscriptions: Vec::new(),
            told: HashSet::new(),
        };
        resources.begin().await?;
        let eager = resources.components.eager();
        if app.is_some() {
            skipped(options);
        }
        if let Some(app) = &app {
            let keeper = GateKeeper {
                app: app.clone(),
                settings: gate_settings,
                reads_config: options.app.reads_config,
                discovery: wanted,
                answers: Answers::new(blocks.health.topics_told.clone()),
                metrics: self.metrics.clone(),
                clock: self.clock,
                refused,
                renewed,
                away: companion.as_ref().map(|app| app.away()),
                state: gate,
                phases: phases.clone(),
                resiliency: self.resiliency.clone(),
            };
            vital(&self.scope, "app.gate", &end, |stop| keeper.run(stop));
        }
        let watched = resources.watched.clone();
        let resources = Arc::new(Mutex::new(resources));
        if self.configuration.features.is_enabled(Features::HOT_RELOAD) && !watched.is_empty() {
            let changing = resources.clone();
            vital(&self.scope, "resources.watch", &end, |stop| {
                watch_files(changing, watched, stop)
            });
        }
        self.tell_others(app.as_ref(), &gate_seen);
        if self.history.is_ok() {
            let blocks = blocks.clone();
            self.scope
                .spawn("history.tally", |stop| events::tally(blocks, stop));
        }
        let kubernetes = options.files.mode == Mode::Kubernetes;
        if let Some(app) = companion.as_mut().filter(|app| app.starts_at_once()) {
            app.start(ports.http, ports.grpc).await?;
        }
        Ok(Life {
            settings: Settings {
                settle_timeout: options.lifecycle.settle_timeout,
                init_deadline: options.components.init_deadline,
                drain_timeout: options.lifecycle.drain_timeout,
                drain_source: options.lifecycle.drain_source,
                block_shutdown: options.lifecycle.block_shutdown,
                quiet: options.lifecycle.drain_quiet,
                watches_app: kubernetes,
            },
            sight: Sight {
                phases: phases.clone(),
                blocks: blocks.clone(),
                gate: gate_seen.clone(),
                refused: sight_refused,
                asks_busy: app.is_some() && options.app.busy_path.is_some(),
                app,
                names: Some(Arc::new(names)),
                clock: self.clock,
                window: options.lifecycle.accept_window,
                view: drain,
            },
            phases,
            gate: gate_seen,
            blocks,
            resources,
            eager,
            servers,
            subscriptions: subscriptions_scope,
            scope: self.scope,
            telling: self.telling,
            stop: stop_seen,
            fatal: fatal_seen,
            signals,
            companion,
            ports: (ports.http, ports.grpc),
            gone_by: None,
        })
    }

    /// What may end us besides what we are told.
    fn watch(
        &self,
        app: Option<&App>,
        gate: &watch::Receiver<gate::State>,
        stop: &mpsc::Sender<StopRequest>,
    ) {
        let chosen = &self.options.lifecycle;
        let network = network::Watcher {
            clock: self.clock,
            metrics: self.metrics.clone(),
            end: chosen.exit_on_network_loss.then(|| stop.clone()),
        };
        vital(&self.scope, "network", stop, |gone| network.run(gone));
        match (chosen.exit_when_app_exits, app) {
            (Some(limit), Some(app)) => {
                let watcher = absence::Watcher {
                    app: app.channel.clone(),
                    gate: gate.clone(),
                    limit,
                    clock: self.clock,
                    end: stop.clone(),
                };
                vital(&self.scope, "app.absence", stop, |gone| watcher.run(gone));
            }
            (Some(_), None) => {
                warn!(target: SCOPE, "--exit-when-app-exits has no effect without --app-port")
            }
            (None, _) => {}
        }
    }

    /// Beats to the very end.
    fn pulse(&self) -> Pulse {
        let pulse = Pulse::new(self.clock);
        let beating = pulse.clone();
        self.telling.spawn("pulse", |stop| beating.run(stop));
        pulse
    }

    fn namespace(&self) -> Namespace {
        namespace(&self.options)
    }

    /// Those who want to hear what happens.
    fn tell_others(&self, app: Option<&App>, gate: &watch::Receiver<gate::State>) {
        let mut audiences = Vec::new();
        if let Some(url) = &self.options.lifecycle.webhook_url {
            match Webhook::new(url) {
                Ok(webhook) => audiences.push(Audience::Webhook(webhook)),
                Err(why) => {
                    error!(target: SCOPE, err = why, "--lifecycle-webhook-url cannot be used")
                }
            }
        }
        if let (Some(app), Some(_)) = (app, &self.options.app.lifecycle_path) {
            audiences.push(Audience::App {
                channel: app.channel.clone(),
                gate: gate.clone(),
            });
        }
        for audience in audiences {
            let teller = Teller {
                audience,
                metrics: self.metrics.clone(),
                app_id: self.options.app_id.to_string(),
                namespace: self.namespace().to_string(),
            };
            let changes = self.metrics.journal.listen();
            self.telling
                .spawn("events", move |stop| teller.run(changes, stop));
        }
    }

    fn max_message(&self) -> usize {
        match self.options.api.max_body_size {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    fn shared(&self, registry: &Arc<Registry>, fatal: mpsc::Sender<String>) -> Arc<Shared> {
        let chosen = &self.options.components;
        let usual = Timing::default();
        Arc::new(Shared {
            catalog: self.catalog.clone(),
            registry: registry.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock,
            context: Context {
                app_id: self.options.app_id.clone(),
                namespace: self.options.environment.namespace.clone(),
                kubernetes: self.options.files.mode == Mode::Kubernetes,
            },
            environment: self.environment.clone(),
            timing: Timing {
                fast: Backoff {
                    base: chosen.retry_base,
                    cap: chosen.retry_cap,
                },
                ping_interval: chosen.ping_interval,
                ping_timeout: chosen.ping_timeout,
                ..usual
            },
            strict: chosen.init_mode == InitMode::Strict,
            lazy: chosen.lazy,
            fatal,
            attempts: Shared::permits(),
            neighbours: components::supervisor::neighbours(),
        })
    }

    fn guard(&self) -> Guard {
        Guard {
            metrics: self.metrics.clone(),
            resiliency: self.resiliency.clone(),
            patience: Patience {
                wait: self.options.components.wait,
            },
        }
    }

    fn peers(&self) -> Arc<PeerPool> {
        let stamp = Stamp {
            app_id: self.options.app_id.to_string(),
            namespace: self.namespace().to_string(),
            host_address: address(&self.options),
            host_name: self.host_name.clone(),
        };
        let limit = Some(self.options.api.max_body_size).filter(|limit| *limit > 0);
        Arc::new(PeerPool::new(
            stamp,
            PeerSettings::for_body_limit(limit),
            self.scope.clone(),
        ))
    }

    fn invoke(
        &self,
        app: Option<&App>,
        watches: &Watches,
        peers: &Arc<PeerPool>,
        endpoints: &Arc<ExternalEndpoints>,
    ) -> Invoke {
        Invoke {
            app_id: self.options.app_id.clone(),
            namespace: self.namespace(),
            app: app.map(|app| app.channel.clone()),
            admission: watches.admission.clone(),
            peers: peers.clone(),
            endpoints: endpoints.clone(),
            resolver: Arc::new(Resolver::new(self.guard(), self.clock)),
            metrics: self.metrics.clone(),
            clock: self.clock,
            resiliency: self.resiliency.clone(),
            activity: self.activity.clone(),
            replay_limit: (self.max_message() as u64).min(REPLAY_LIMIT),
        }
    }

    /// Name resolution that cannot be had is no reason not to start: everything else goes on, and calls of peers say so.
    fn names(&self, shared: &Arc<Shared>, invoke: &Arc<Invoke>, ports: Ports) -> Names {
        let instance = Instance {
            app_id: self.options.app_id.clone(),
            namespace: self.namespace(),
            address: reachable(&self.options),
            http_port: ports.http,
            internal_port: ports.internal,
            app_port: self.options.app.port,
        };
        let usual = if self.options.files.mode == Mode::Kubernetes {
            "kubernetes"
        } else {
            "mdns"
        };
        let names = Names::new(shared.clone(), invoke.clone(), instance, usual);
        if let Err(why) = names.apply(&self.configuration.name_resolution) {
            error!(target: SCOPE, "failed to init name resolution: {why}");
        }
        names
    }

    fn blocks(&self, parts: Parts<'_>) -> Blocks {
        let Parts {
            registry,
            app,
            watches,
            gate,
            demands,
            endpoints,
            refused,
            invoke,
            scope,
            stop,
            drain,
        } = parts;
        let options = &self.options;
        let guard = self.guard();
        let publisher = Arc::new(Publisher {
            registry: registry.clone(),
            guard: guard.clone(),
            app_id: options.app_id.clone(),
            namespace: self.namespace().to_string(),
        });
        let desk = Arc::new(Desk {
            publisher: publisher.clone(),
            metrics: self.metrics.clone(),
            namespace: self.namespace().to_string(),
            ending: watches.ending,
            away: Box::new(move || refused.notify_one()),
            activity: self.activity.clone(),
            poison: Poison::new(options.app.poison_crash_limit),
            resiliency: self.resiliency.clone(),
            clock: self.clock,
        });
        let channel: Option<Arc<dyn AppChannel>> = app.map(|app| app.channel.clone());
        let subscriptions = Arc::new(Subscriptions::new(
            registry.clone(),
            desk,
            channel,
            self.clock,
            watches.pulls,
            watches.streams,
            scope.clone(),
        ));
        let numbers = match options.api.state_json_numbers {
            StateJsonNumbers::Float64 => Numbers::Float64,
            StateJsonNumbers::Exact => Numbers::Exact,
        };
        let metadata = MetadataApi {
            app_id: options.app_id.to_string(),
            runtime_version: self.versions.dapr.clone(),
            version: self.versions.own.clone(),
            features: self
                .configuration
                .features
                .enabled()
                .map(str::to_owned)
                .collect(),
            app: app::facts(options),
            registry: registry.clone(),
            subscriptions: subscriptions.clone(),
            resources: endpoints,
            phase: watches.phase.clone(),
            gate,
            clock: self.clock,
            resiliency: self.resiliency.clone(),
            extended: std::sync::Mutex::default(),
        };
        Blocks {
            app_id: options.app_id.clone(),
            namespace: self.namespace(),
            registry: registry.clone(),
            state: State {
                registry: registry.clone(),
                guard: guard.clone(),
                app_id: options.app_id.clone(),
                numbers,
            },
            publisher,
            subscriptions,
            secrets: Secrets {
                registry: registry.clone(),
                guard,
                scopes: ArcSwap::from_pointee(configured::secret_scopes(&self.configuration)),
            },
            invoke,
            metadata,
            health: Health {
                app_id: options.app_id.clone(),
                phase: watches.phase,
                missing: demands,
                topics_told: Arc::default(),
                pulse: self.pulse(),
            },
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            activity: self.activity.clone(),
            history: self.history.clone(),
            drains: Drains {
                requests: stop,
                view: drain,
            },
        }
    }

    fn apis(
        &self,
        blocks: &Arc<Blocks>,
        app: Option<&App>,
        peers: &Arc<PeerPool>,
    ) -> (Apis, Arc<ArcSwap<Access>>) {
        let options = &self.options;
        let api = &options.api;
        let access = Arc::new(ArcSwap::from_pointee(configured::access(
            &self.configuration,
        )));
        let token = options.environment.api_token.clone();
        let proxy = Arc::new(Proxy {
            invoke: blocks.invoke.clone(),
            peers: peers.clone(),
            app: app.map(|app| app.relay.clone()),
            app_token: options.environment.app_api_token.clone(),
            access: access.clone(),
            max_message: self.max_message(),
            tracer: self.tracer.clone(),
        });
        let prestop = options
            .lifecycle
            .prestop_on_public_port
            .then(|| outrigger_http::PreStop {
                token: options.environment.prestop_token.clone(),
            });
        let http = outrigger_http::Settings {
            token: token.clone(),
            origins: match &api.allowed_origins {
                AllowedOrigins::Off => Origins::Off,
                AllowedOrigins::Every => Origins::Every,
                AllowedOrigins::Only(origins) => Origins::Only(origins.clone()),
            },
            shape: configured::http_shape(options, &self.configuration),
            not_ready_status: Some(api.component_not_ready_status).filter(|status| *status != 503),
            tells_policies: api.resiliency_details,
        };
        let grpc = outrigger_grpc::Settings {
            token,
            shape: configured::grpc_shape(options, &self.configuration),
            max_message: self.max_message(),
            tells_policies: api.resiliency_details,
        };
        let server = PeerServer {
            invoke: blocks.invoke.clone(),
            access: access.clone(),
            app_is_http: options.app.protocol.is_http(),
            tracer: self.tracer.clone(),
            piece: peers.settings().piece,
        };
        let apis = Apis {
            http: Arc::new(outrigger_http::Api::new(blocks.clone(), http)),
            public: Arc::new(outrigger_http::PublicApi::new(blocks.clone(), prestop)),
            grpc: Arc::new(outrigger_grpc::Api::new(
                blocks.clone(),
                proxy.clone(),
                grpc,
            )),
            internal: Arc::new(outrigger_grpc::Internal {
                peers: Arc::new(server),
                proxy,
                activity: blocks.activity.clone(),
            }),
            blocks: blocks.clone(),
        };
        (apis, access)
    }
}

/// What building blocks are made of besides the assembly itself.
struct Parts<'a> {
    registry: &'a Arc<Registry>,
    app: Option<&'a App>,
    watches: Watches,
    gate: watch::Receiver<gate::State>,
    demands: Arc<Demands>,
    endpoints: Arc<ExternalEndpoints>,
    refused: Arc<Notify>,
    invoke: Arc<Invoke>,
    scope: &'a Scope,
    stop: mpsc::Sender<StopRequest>,
    drain: watch::Receiver<Option<Drain>>,
}
