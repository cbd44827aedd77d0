//! Servers, sidecars, apps and the links between them; hurting and healing them.
//!
//! Owns: every process, and a proxy on every link. Whatever is hurt is healed by [`World::carry_out`].
//! Never: decides what is hurt. Start at [`World::start`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::future::join_all;
use outrigger_e2e::component::{names_in, with_dead_letters};
use outrigger_e2e::http::{self, Request};
use outrigger_e2e::process::Signal;
use outrigger_e2e::{Component, Plan, Sidecar, s};
use outrigger_testkit::proxy::{Direction, Proxy};
use outrigger_testkit::servers::{Rabbit, RabbitServer, Redis, RedisServer, Server as _};
use outrigger_testkit::{ports, wait};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ledger::Topic;
use crate::plan::{Fault, Kind, Node, Part, Server, Target};
use crate::traffic::Books;

/// The app id of the receivers.
pub(crate) const RECEIVER: &str = "receiver";
/// So long may a sidecar take from a signal to its end. It has 25 s to finish what is in hand.
const END: Duration = Duration::from_secs(35);
/// So long does an app go on calling a sidecar that ends.
const TALKATIVE: Duration = Duration::from_secs(2);
/// The address at which sidecars listen for each other; at the one they give away there is a proxy.
const PEERS: &str = "127.0.0.2";

pub(crate) struct World {
    rabbit: RabbitServer,
    stream: RedisServer,
    store: RedisServer,
    links: BTreeMap<(Node, LinkTo), Proxy>,
    sidecars: BTreeMap<Node, Mutex<Sidecar>>,
    apps: BTreeMap<Node, Mutex<AppProcess>>,
    lives: StdMutex<BTreeMap<Node, Life>>,
    odd: StdMutex<Vec<String>>,
    /// Nobody is started again any more.
    is_over: AtomicBool,
    logs: PathBuf,
    log_number: AtomicUsize,
    books: Arc<Books>,
    // Declared last: the file by which sidecars find each other.
    _names: outrigger_testkit::PrivateDir,
}

/// The other end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum LinkTo {
    Server(Server),
    App,
    Peers,
    Clients,
}

/// A sidecar's process, for those who look at it from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) id: i32,
    pub(crate) since: Instant,
}

struct AppProcess {
    port: u16,
    child: Child,
    reader: JoinSet<()>,
}

impl World {
    /// Starts everything. `logs` is where the logs of ended sidecars go.
    pub(crate) async fn start(logs: &Path, books: Arc<Books>) -> Result<Self> {
        let rabbit = RabbitServer::launch(Rabbit::default());
        // They sync before they answer, so that what they confirmed survives a kill.
        let redis = || RedisServer::launch(Redis::default());
        let (rabbit, stream, store) = tokio::join!(rabbit, redis(), redis());
        let names = outrigger_testkit::PrivateDir::new("soak-names");
        let config = names.write("config.yaml", names_in(&names.path().join("names.db")));
        let mut world = Self {
            rabbit,
            stream,
            store,
            links: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            apps: BTreeMap::new(),
            lives: StdMutex::default(),
            odd: StdMutex::default(),
            is_over: AtomicBool::new(false),
            logs: logs.to_owned(),
            log_number: AtomicUsize::new(0),
            books,
            _names: names,
        };
        for node in Node::ALL {
            let plan = world.plan(node).await?;
            let sidecar = plan.flag(&format!("--config={}", config.display())).start();
            world.connect(node, &sidecar).await;
            world.note_life(node, &sidecar);
            world.sidecars.insert(node, Mutex::new(sidecar));
        }
        for sidecar in world.sidecars.values() {
            sidecar.lock().await.serves(s(60)).await;
        }
        Ok(world)
    }

    async fn plan(&mut self, node: Node) -> Result<Plan> {
        for server in Server::ALL {
            let proxy = Proxy::to(self.address(server)).await;
            self.links.insert((node, LinkTo::Server(server)), proxy);
        }
        let url = format!("amqp://guest:guest@{}", self.link(node, Server::RabbitMq));
        let rabbit = Component::rabbit("rabbit-bus", &url).set("prefetchCount", "20");
        // Replicas share a consumer, so what a killed one had waits for this time.
        let stream = Component::redis_pubsub("stream-bus", &self.link(node, Server::Stream))
            .set("processingTimeout", "10s")
            .set("redeliverInterval", "2s");
        let store = Component::redis_state("store", &self.link(node, Server::Store))
            .set("keyPrefix", "none");
        let receives = Node::RECEIVERS.contains(&node);
        let app_id = if receives { RECEIVER } else { "caller" };
        let mut plan = Plan::new(app_id)
            .with(&rabbit)
            .with(&stream)
            .with(&store)
            .env("DAPR_HOST_IP", "127.0.0.1")
            .flag(&format!("--dapr-internal-grpc-listen-address={PEERS}"));
        if !Node::MORTAL.contains(&node) {
            let history = self.logs.join(format!("{node:?}-state"));
            plan = plan.flag(&format!("--state-dir={}", history.display()));
        }
        if !receives {
            return Ok(plan);
        }
        for topic in Topic::ALL {
            let (bus, name) = (format!("{}-bus", topic.name()), topic.name());
            let dead = format!("{name}-dead");
            let subscription = with_dead_letters(&bus, name, &dead);
            let grave = outrigger_e2e::component::subscription(&bus, &dead);
            plan = plan
                .file(&format!("{name}.yaml"), subscription)
                .file(&format!("{dead}.yaml"), grave);
        }
        if Node::MORTAL.contains(&node) {
            plan = plan
                .flag("--enable-app-health-check")
                .flag("--app-health-probe-interval=1");
        }
        let app = AppProcess::start(ports::free(), node, &self.books)?;
        let proxy = Proxy::to(format!("127.0.0.1:{}", app.port)).await;
        plan = plan.app(proxy.port());
        self.links.insert((node, LinkTo::App), proxy);
        self.apps.insert(node, Mutex::new(app));
        Ok(plan)
    }

    /// The links to a sidecar, once its ports are known.
    async fn connect(&mut self, node: Node, sidecar: &Sidecar) {
        let internal = sidecar.ports.internal;
        let peers = Proxy::on(internal, format!("{PEERS}:{internal}")).await;
        self.links.insert((node, LinkTo::Peers), peers);
        let clients = Proxy::to(format!("127.0.0.1:{}", sidecar.ports.http)).await;
        self.links.insert((node, LinkTo::Clients), clients);
    }

    fn address(&self, server: Server) -> String {
        match server {
            Server::RabbitMq => self.rabbit.address(),
            Server::Stream => self.stream.address(),
            Server::Store => self.store.address(),
        }
    }

    fn link(&self, node: Node, server: Server) -> String {
        let link = self.links.get(&(node, LinkTo::Server(server)));
        link.map(Proxy::address).unwrap_or_default()
    }

    /// Where clients of a sidecar connect.
    pub(crate) fn api_port(&self, node: Node) -> u16 {
        let link = self.links.get(&(node, LinkTo::Clients));
        link.map_or(0, Proxy::port)
    }

    pub(crate) fn lives(&self) -> BTreeMap<Node, Life> {
        lock(&self.lives).clone()
    }

    fn note_life(&self, node: Node, sidecar: &Sidecar) {
        let life = Life {
            id: sidecar.process.id(),
            since: sidecar.process.started,
        };
        lock(&self.lives).insert(node, life);
    }

    /// What went wrong besides answers.
    pub(crate) fn odd(&self) -> Vec<String> {
        lock(&self.odd).clone()
    }

    fn is_odd(&self, what: String) {
        lock(&self.odd).push(what);
    }

    /// Tells of sidecars that have ended though nobody ended them, and starts them again.
    pub(crate) async fn look_after(&self) {
        if self.is_over.load(Ordering::SeqCst) {
            return;
        }
        for (node, sidecar) in &self.sidecars {
            // One that is being hurt is looked after by whoever hurts it.
            let Ok(mut sidecar) = sidecar.try_lock() else {
                continue;
            };
            if sidecar.process.is_alive() {
                continue;
            }
            let ended = sidecar.process.ended(s(5)).await;
            let log = self.keep_log(*node, &ended.output);
            self.is_odd(format!(
                "{node:?} ended by itself with code {}, see {log}",
                ended.code
            ));
            self.begin_again(*node, &mut sidecar);
        }
    }

    fn begin_again(&self, node: Node, sidecar: &mut Sidecar) {
        sidecar.start_again();
        self.note_life(node, sidecar);
        self.books.reconnect(node, self.api_port(node));
    }

    /// Hurts something, and heals it when its time is over.
    pub(crate) async fn carry_out(&self, fault: &Fault) -> Result<()> {
        let parts = fault.target.parts();
        self.books.disturb(&parts, true);
        let done = match fault.target {
            Target::Server(server) => self.hurt_server(server, fault).await,
            Target::Sidecar(node) => self.hurt_sidecar(node, fault).await,
            Target::App(node) => self.hurt_app(node, fault).await,
            Target::Fleet => self.restart_fleet().await,
            _ => {
                self.hurt_links(&parts, fault).await;
                Ok(())
            }
        };
        self.books.disturb(&parts, false);
        done.with_context(|| fault.to_string())
    }

    async fn hurt_server(&self, server: Server, fault: &Fault) -> Result<()> {
        let server: &dyn outrigger_testkit::servers::Server = match server {
            Server::RabbitMq => &self.rabbit,
            Server::Stream => &self.stream,
            Server::Store => &self.store,
        };
        match fault.kind {
            Kind::Kill => {
                server.kill().await;
                sleep(fault.hold).await;
                server.start().await;
            }
            Kind::Pause => {
                server.pause();
                sleep(fault.hold).await;
                server.resume();
            }
            Kind::Restart => {
                server.stop().await;
                server.start().await;
            }
            other => bail!("a server cannot suffer {other:?}"),
        }
        Ok(())
    }

    async fn hurt_sidecar(&self, node: Node, fault: &Fault) -> Result<()> {
        let sidecar = self.sidecars.get(&node).context("no such sidecar")?;
        let mut sidecar = sidecar.lock().await;
        if !sidecar.process.is_alive() {
            bail!("{node:?} is dead already");
        }
        match fault.kind {
            Kind::Kill => {
                sidecar.process.signal(Signal::KILL);
                let ended = sidecar.process.ended(END).await;
                self.keep_log(node, &ended.output);
                sleep(fault.hold).await;
                self.begin_again(node, &mut sidecar);
            }
            Kind::Pause => {
                sidecar.process.signal(Signal::STOP);
                sleep(fault.hold).await;
                sidecar.process.signal(Signal::CONT);
            }
            Kind::Restart => {
                // It lingers while it is called, so the app has to fall silent. This one takes its time.
                let falls_silent = async {
                    sleep(TALKATIVE).await;
                    self.books.disconnect(node);
                };
                tokio::join!(falls_silent, self.end(node, &mut sidecar));
                self.begin_again(node, &mut sidecar);
            }
            other => bail!("a sidecar cannot suffer {other:?}"),
        }
        Ok(())
    }

    /// Ends a sidecar by SIGTERM, which it must do cleanly.
    async fn end(&self, node: Node, sidecar: &mut Sidecar) {
        if !sidecar.process.is_alive() {
            return;
        }
        sidecar.process.signal(Signal::TERM);
        let waited = timeout(END, async {
            while sidecar.process.is_alive() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        if waited.await.is_err() {
            self.is_odd(format!("{node:?} has not ended {END:?} after SIGTERM"));
            sidecar.process.signal(Signal::KILL);
        }
        let ended = sidecar.process.ended(s(5)).await;
        let log = self.keep_log(node, &ended.output);
        if ended.code != 0 {
            self.is_odd(format!(
                "{node:?} ended with code {} after SIGTERM, see {log}",
                ended.code
            ));
        }
    }

    async fn hurt_app(&self, node: Node, fault: &Fault) -> Result<()> {
        let app = self.apps.get(&node).context("no such app")?;
        let mut app = app.lock().await;
        match fault.kind {
            Kind::Kill => {
                self.end_app(node, &mut app, Signal::KILL).await?;
                sleep(fault.hold).await;
                self.start_app(node, &mut app).await?;
            }
            Kind::Pause => {
                app.signal(Signal::STOP)?;
                sleep(fault.hold).await;
                app.signal(Signal::CONT)?;
            }
            Kind::Restart => {
                self.end_app(node, &mut app, Signal::TERM).await?;
                self.start_app(node, &mut app).await?;
            }
            other => bail!("an app cannot suffer {other:?}"),
        }
        Ok(())
    }

    /// Ends an app, and has nobody listen in its place.
    async fn end_app(&self, node: Node, app: &mut AppProcess, signal: Signal) -> Result<()> {
        if let Some(link) = self.links.get(&(node, LinkTo::App)) {
            link.refuse().await;
        }
        app.end(signal).await
    }

    async fn start_app(&self, node: Node, app: &mut AppProcess) -> Result<()> {
        *app = AppProcess::start(app.port, node, &self.books)?;
        let port = app.port;
        wait::until("the app's port", s(10), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await
        })
        .await;
        if let Some(link) = self.links.get(&(node, LinkTo::App)) {
            link.pass().await;
        }
        Ok(())
    }

    /// A rolling restart: sidecar and app are told to end at the same time, and the next follows once they serve again.
    async fn restart_fleet(&self) -> Result<()> {
        for node in Node::MORTAL {
            let sidecar = self.sidecars.get(&node).context("no such sidecar")?;
            let mut sidecar = sidecar.lock().await;
            self.books.disconnect(node);
            let app_ends = async {
                let Some(app) = self.apps.get(&node) else {
                    return Ok(());
                };
                let mut app = app.lock().await;
                self.end_app(node, &mut app, Signal::TERM).await?;
                self.start_app(node, &mut app).await
            };
            let (app, ()) = tokio::join!(app_ends, self.end(node, &mut sidecar));
            app?;
            self.begin_again(node, &mut sidecar);
            let port = sidecar.ports.http;
            drop(sidecar);
            wait::until(format!("{node:?} to serve"), s(30), async || {
                http::call(port, &Request::get("/v1.0/healthz/outbound")).await
            })
            .await;
        }
        Ok(())
    }

    async fn hurt_links(&self, parts: &[Part], fault: &Fault) {
        let link = |part: &Part| match part {
            Part::ServerLink(node, server) => self.links.get(&(*node, LinkTo::Server(*server))),
            Part::AppLink(node) => self.links.get(&(*node, LinkTo::App)),
            Part::PeerLink(node) => self.links.get(&(*node, LinkTo::Peers)),
            Part::ApiLink(node) => self.links.get(&(*node, LinkTo::Clients)),
            Part::Server(_) | Part::Sidecar(_) | Part::App(_) => None,
        };
        let links: Vec<&Proxy> = parts.iter().filter_map(link).collect();
        match fault.kind {
            Kind::Cut => {
                join_all(links.iter().map(|link| link.cut())).await;
            }
            Kind::Reset => {
                join_all(links.iter().map(|link| link.reset())).await;
            }
            Kind::Hang => links.iter().for_each(|link| link.hang()),
            Kind::Strand => links.iter().for_each(|link| link.strand()),
            Kind::Slow => {
                for link in &links {
                    link.delay(Direction::ToServer, fault.latency);
                    link.delay(Direction::ToClient, fault.latency);
                }
            }
            Kind::Kill | Kind::Pause | Kind::Restart => {}
        }
        sleep(fault.hold).await;
        join_all(links.iter().map(|link| link.pass())).await;
        for part in parts {
            if let Part::ApiLink(node) = *part {
                self.books.reconnect(node, self.api_port(node));
            }
        }
    }

    /// How many messages the brokers still have.
    pub(crate) async fn left(&self) -> usize {
        let listed = ["-q", "list_queues", "name", "messages"];
        let listed = self.rabbit.control(&listed).await;
        let counts = listed.lines().filter_map(|line| line.split('\t').nth(1));
        let counts = counts.filter_map(|count| count.trim().parse::<usize>().ok());
        let pending = self.stream.command(&["XPENDING", "stream", RECEIVER]).await;
        let pending = pending.unwrap_or_default();
        let pending = pending.lines().nth(1);
        let pending = pending.and_then(|line| line.strip_prefix(':')?.trim().parse().ok());
        counts.sum::<usize>() + pending.unwrap_or(0)
    }

    /// What the sidecars say of themselves, where it is not that all is well.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (node, sidecar) in &self.sidecars {
            let port = sidecar.lock().await.ports.http;
            let status = http::call(port, &Request::get("/outrigger/v1/status")).await;
            let Ok(status) = status.map(|answer| answer.json()) else {
                complaints.push(format!("{node:?} does not tell its status"));
                continue;
            };
            let word = |value: Option<&serde_json::Value>| {
                value
                    .and_then(|value| value.as_str())
                    .unwrap_or_default()
                    .to_owned()
            };
            let phase = word(status.get("phase"));
            if phase != "ready" {
                complaints.push(format!("{node:?} is {phase}"));
            }
            let components = status.get("components").and_then(|all| all.as_array());
            for component in components.into_iter().flatten() {
                let (name, state) = (word(component.get("name")), word(component.get("state")));
                if state != "ready" {
                    complaints.push(format!("{node:?}: {name} is {state}"));
                }
                let topics = component
                    .get("subscriptions")
                    .and_then(|all| all.as_array());
                for topic in topics.into_iter().flatten() {
                    if word(topic.get("state")) != "active" {
                        complaints.push(format!("{node:?}: {name}: {topic}"));
                    }
                }
            }
            let inflight = status.get("inflight").and_then(|all| all.as_object());
            if inflight.is_some_and(|all| !all.is_empty()) {
                complaints.push(format!("{node:?} has in flight: {inflight:?}"));
            }
        }
        complaints
    }

    /// Ends all sidecars, each cleanly.
    pub(crate) async fn stop(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        for (node, sidecar) in &self.sidecars {
            let mut sidecar = sidecar.lock().await;
            self.end(*node, &mut sidecar).await;
        }
    }

    /// Writes what a sidecar printed to a file. A panic in it is odd.
    fn keep_log(&self, node: Node, output: &str) -> String {
        let number = self.log_number.fetch_add(1, Ordering::Relaxed);
        let path = self.logs.join(format!("{number:03}-{node:?}.log"));
        if let Err(error) = std::fs::write(&path, output) {
            self.is_odd(format!("{}: {error}", path.display()));
        }
        if output.contains("panicked") {
            self.is_odd(format!("{node:?} panicked, see {}", path.display()));
        }
        path.display().to_string()
    }
}

impl AppProcess {
    fn start(port: u16, node: Node, books: &Arc<Books>) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("app")
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the app")?;
        let lines = child.stdout.take().context("it is piped")?;
        let (mut reader, books) = (JoinSet::new(), Arc::clone(books));
        reader.spawn(async move {
            let mut lines = BufReader::new(lines).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                books.app_says(node, &line);
            }
        });
        Ok(Self {
            port,
            child,
            reader,
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().context("the app is dead already")?;
        outrigger_e2e::process::send(i32::try_from(id)?, signal)?;
        Ok(())
    }

    /// Signals it, waits for its end, and hears its last words.
    async fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        timeout(s(10), self.child.wait())
            .await
            .context("the app does not end")??;
        while self.reader.join_next().await.is_some() {}
        Ok(())
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
