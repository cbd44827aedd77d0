//! `nameresolution.mdns`: the engine, its network, and the task between them.
//!
//! Callers and the task share the engine under a short lock. A known address is handed out without waking the task; a
//! question wakes it. Start at [`Resolver`]. Tests: `tests/`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_component_api::{
    Component, ComponentError, Fault, Findings, Instance, NameResolver, Open, Opener, Reader,
    Resolved, Spec, Stop, async_trait,
};
use rand::Rng as _;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::advert::{Advert, parse_address};
use crate::engine::{Engine, LookUp, PROBE_PAUSE};
use crate::network::Network;

/// Nobody waits for an answer for longer, whatever happens to the task.
const MOST_PATIENCE: Duration = Duration::from_secs(2);
/// How long a goodbye may take to get out.
const GOODBYE: Duration = Duration::from_millis(500);

/// Checks the properties, and that the sidecar has an address to announce.
pub(crate) fn check(
    spec: &Spec,
    instance: &Instance,
    findings: &mut Findings,
) -> Option<Opener<dyn NameResolver>> {
    let mut reader = Reader::standard(&spec.properties);
    let interfaces: Vec<String> = reader
        .list("interfaces")
        .iter()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    let is_usable = reader.finish(findings);
    let address = parse_address(&instance.address);
    let mut fault = |expected: String| {
        findings.faults.push(Fault {
            property: String::new(),
            found: None,
            expected,
        });
    };
    if instance.app_id.as_str().is_empty() {
        fault("name is missing".to_owned());
    }
    if instance.internal_port == 0 {
        fault("port is missing or invalid".to_owned());
    }
    match address {
        None if instance.address.is_empty() => fault("address is missing".to_owned()),
        None => fault(format!("Failed to parse given IP: {}", instance.address)),
        Some(_) => {}
    }
    let address = address.filter(|_| {
        is_usable && instance.internal_port != 0 && !instance.app_id.as_str().is_empty()
    })?;
    let (app_id, port) = (instance.app_id.clone(), instance.internal_port);
    Some(Arc::new(move |open| {
        let (app_id, interfaces) = (app_id.clone(), interfaces.clone());
        Box::pin(async move {
            let address = (address, port).into();
            let advert = Advert::new(app_id.as_str(), &host_name(), std::process::id(), address);
            if let Err(reason) = &advert {
                warn!(app_id = %app_id, reason, "this sidecar cannot be announced, others will not find it");
            }
            let resolver = Resolver::open(advert.ok(), interfaces, &open);
            Ok(Arc::new(resolver) as Arc<dyn NameResolver>)
        })
    }))
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}

struct Resolver {
    shared: Arc<Shared>,
    stop: Stop,
}

/// What callers and the task have in common.
struct Shared {
    engine: Mutex<Engine>,
    /// The task has something to do.
    wake: Notify,
    /// Up to which farewell everything has been sent.
    sent: watch::Sender<u64>,
    /// Why nothing can be sent at present.
    obstacle: Mutex<Option<String>>,
    is_over: watch::Sender<bool>,
}

impl Resolver {
    /// Never fails: a machine may get its network later.
    fn open(advert: Option<Advert>, interfaces: Vec<String>, open: &Open) -> Self {
        let shared = Arc::new(Shared {
            engine: Mutex::new(Engine::new(advert)),
            wake: Notify::new(),
            sent: watch::Sender::new(0),
            obstacle: Mutex::default(),
            is_over: watch::Sender::new(false),
        });
        let stop = open.scope.stop().child_token();
        let mut task = Task {
            shared: shared.clone(),
            network: Network::new(interfaces),
            was_blocked: false,
        };
        // The sockets are there before anybody asks.
        task.look();
        open.scope
            .spawn_future("nameresolution.mdns", task.run(stop.clone()));
        Self { shared, stop }
    }

    fn not_found(&self, id: &str) -> ComponentError {
        // Dapr: nameresolution/mdns/mdns.go; clients match on this text.
        let message = match &*lock(&self.shared.obstacle) {
            None => format!("couldn't find service: {id}"),
            Some(reason) => {
                format!("couldn't find service: {id} (multicast DNS is not possible: {reason})")
            }
        };
        ComponentError::failed(message)
    }
}

#[async_trait]
impl Component for Resolver {
    /// The task lives. A network that is down is no reason to begin anew: the task looks after it.
    async fn ping(&self) -> Result<(), ComponentError> {
        if *self.shared.is_over.borrow() {
            return Err(ComponentError::transient("the responder has ended"));
        }
        Ok(())
    }

    async fn close(&self) {
        self.stop.cancel();
        let mut is_over = self.shared.is_over.subscribe();
        is_over.wait_for(|is_over| *is_over).await.ok();
    }
}

#[async_trait]
impl NameResolver for Resolver {
    /// Addresses take turns in being first. Namespaces are not told apart, as in Dapr.
    async fn resolve(&self, id: &str, _namespace: &str) -> Result<Resolved, ComponentError> {
        let found = lock(&self.shared.engine).look_up(id, Instant::now());
        let addresses = match found {
            LookUp::Known(addresses) => addresses,
            LookUp::Asked(answer) => {
                self.shared.wake.notify_one();
                match tokio::time::timeout(MOST_PATIENCE, answer).await {
                    Ok(Ok(addresses)) => addresses,
                    Ok(Err(_)) | Err(_) => return Err(self.not_found(id)),
                }
            }
        };
        if addresses.is_empty() {
            return Err(self.not_found(id));
        }
        Ok(Resolved {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            keep: Duration::ZERO,
        })
    }

    async fn unreachable(&self, id: &str, _namespace: &str, address: &str) {
        lock(&self.shared.engine).forget(id, address);
    }

    async fn leave(&self) {
        let farewell = lock(&self.shared.engine).leave();
        self.shared.wake.notify_one();
        let mut sent = self.shared.sent.subscribe();
        let mut is_over = self.shared.is_over.subscribe();
        let gone = async {
            tokio::select! {
                _ = sent.wait_for(|sent| *sent >= farewell) => {}
                _ = is_over.wait_for(|is_over| *is_over) => {}
            }
        };
        tokio::time::timeout(GOODBYE, gone).await.ok();
    }

    async fn join(&self) {
        lock(&self.shared.engine).come_back(Instant::now(), dice());
        self.shared.wake.notify_one();
    }
}

fn dice() -> [Duration; 2] {
    [(); 2].map(|()| rand::rng().random_range(Duration::ZERO..PROBE_PAUSE))
}

/// Moves packets between the engine and the network.
struct Task {
    shared: Arc<Shared>,
    network: Network,
    was_blocked: bool,
}

impl Task {
    async fn run(mut self, stop: Stop) {
        let _over = Over(self.shared.clone());
        {
            lock(&self.shared.engine).start(Instant::now(), dice());
        }
        while !stop.is_cancelled() {
            lock(&self.shared.engine).catch_up(Instant::now());
            self.send_all().await;
            self.wait(&stop).await;
            self.look_if_due();
        }
        lock(&self.shared.engine).leave();
        self.send_all().await;
    }

    /// Until there is something to do. A packet is taken in here.
    async fn wait(&mut self, stop: &Stop) {
        let look_at = self.network.due(Instant::now());
        let due = lock(&self.shared.engine)
            .due()
            .map_or(look_at, |due| due.min(look_at));
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.shared.wake.notified() => {}
            () = tokio::time::sleep_until(due) => {}
            _ = self.network.receive(|bytes, origin| {
                lock(&shared.engine).hear(bytes, origin, Instant::now());
            }) => {}
        }
    }

    fn look_if_due(&mut self) {
        let now = Instant::now();
        // A caller waits and nothing can be sent: the network may be there by now.
        let is_blocked = lock(&self.shared.obstacle).is_some();
        if is_blocked || now >= self.network.due(now) {
            self.look();
        }
    }

    fn look(&mut self) {
        if let Some(seen) = self.network.look(Instant::now()) {
            lock(&self.shared.engine).set_interfaces(seen.interfaces, &seen.new);
        }
        let obstacle = self.network.obstacle();
        if let Some(reason) = obstacle.as_ref().filter(|_| !self.was_blocked) {
            warn!(
                reason,
                "multicast DNS is not possible, peers are not found until it is"
            );
        }
        self.was_blocked = obstacle.is_some();
        *lock(&self.shared.obstacle) = obstacle;
    }

    async fn send_all(&self) {
        let farewells = lock(&self.shared.engine).farewells();
        loop {
            let next = lock(&self.shared.engine).take_outgoing();
            let Some(outgoing) = next else {
                break;
            };
            self.network.send(outgoing).await;
        }
        self.shared.sent.send_replace(farewells);
    }
}

/// Tells that the task has ended, however it did.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_over.send_replace(true);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
