//! The name resolver: supervised like a component, described by the Configuration.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_blocks::component::Info;
use outrigger_blocks::invoke::Invoke;
use outrigger_component_api::{
    Check, ComponentName, Entry, Findings, Instance, Kind, Lookup as Found, NameResolver, Opener,
};
use outrigger_config::Fingerprint;
use outrigger_config::configuration::NameResolution;
use outrigger_config::resolve::name_resolver;
use outrigger_lifecycle::connection::State;
use outrigger_lifecycle::{Scope, Stop};
use tokio::sync::watch;
use tracing::info;

use super::recipe::Described;
use super::supervisor::{Definition, Desired, Supervisor};
use super::{SCOPE, Shared};

/// Taking our name out of a registry must not hold anything up.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// The resolver of this sidecar, whichever that is at the moment. Clones are one.
#[derive(Clone)]
pub(crate) struct Names {
    shared: Arc<Shared>,
    /// Who asks it.
    invoke: Arc<Invoke>,
    instance: Instance,
    /// Where the Configuration names none.
    usual: &'static str,
    present: Arc<Mutex<Present>>,
    supervisors: Scope,
}

#[derive(Default)]
struct Present {
    serving: Option<Arc<Running>>,
    /// Takes the place of the serving one when it is ready.
    waiting: Option<Arc<Running>>,
}

struct Running {
    handle: Arc<outrigger_blocks::Handle<dyn NameResolver>>,
    scope: Scope,
    closed: Stop,
    exclusive: bool,
    _desired: watch::Sender<Desired<dyn NameResolver>>,
}

impl Names {
    pub(crate) fn new(
        shared: Arc<Shared>,
        invoke: Arc<Invoke>,
        instance: Instance,
        usual: &'static str,
    ) -> Self {
        Self {
            shared,
            invoke,
            instance,
            usual,
            present: Arc::default(),
            supervisors: Scope::root(),
        }
    }

    /// Starts the resolver that the Configuration names, else the usual one. Where there is one already, that serves until
    /// the new one is ready; two that must not run at once come one after the other.
    ///
    /// # Errors
    /// When it cannot be used as it is configured. Nothing has changed then.
    pub(crate) fn apply(&self, resolution: &NameResolution) -> Result<(), String> {
        let spec = name_resolver(resolution, self.usual, &self.shared.context);
        let entry = match self.shared.catalog.find(&spec.type_name, &spec.version) {
            Found::Found(entry) => entry,
            Found::Unknown { message, nearest } => {
                let hint = nearest
                    .map(|nearest| format!("; the nearest known type is {nearest}"))
                    .unwrap_or_default();
                return Err(format!("{message}{hint} ({})", resolution.place));
            }
        };
        let Check::Names(check) = entry.check else {
            return Err(format!(
                "{} is no name resolver ({})",
                spec.type_name, resolution.place
            ));
        };
        let mut findings = Findings::default();
        let opener: Option<Opener<dyn NameResolver>> = check(&spec, &self.instance, &mut findings);
        let Some(opener) = opener.filter(|_| findings.faults.is_empty()) else {
            let told: Vec<String> = findings.faults.iter().map(ToString::to_string).collect();
            return Err(format!(
                "{}: {} ({})",
                spec.type_name,
                told.join("; "),
                resolution.place
            ));
        };
        let mut present = self.present();
        if let Some(abandoned) = present.waiting.take() {
            abandoned.scope.cancel();
        }
        let before = present.serving.clone();
        let must_wait = before
            .as_ref()
            .is_some_and(|before| before.exclusive && entry.exclusive);
        let (running, run) = self.supervise(&spec.name, entry, opener);
        let (me, next) = (self.clone(), running.clone());
        let Some(before) = before else {
            present.serving = Some(running);
            self.invoke.resolver.install(next.handle.clone());
            self.supervisors.spawn_future("name_resolver", run);
            info!(target: SCOPE, "Initialized name resolution to {}", spec.name);
            return Ok(());
        };
        present.waiting = Some(running);
        drop(present);
        let name = spec.name.clone();
        self.supervisors
            .spawn_future("name_resolver.change", async move {
                if must_wait {
                    before.end().await;
                    before.closed.cancelled().await;
                    me.supervisors.spawn_future("name_resolver", run);
                } else {
                    me.supervisors.spawn_future("name_resolver", run);
                    let mut status = next.handle.watch();
                    let ready = status
                        .wait_for(|status| matches!(status.state, State::Ready | State::Closing));
                    ready.await.ok();
                }
                if me.promote(&next) {
                    info!(target: SCOPE, "Initialized name resolution to {name}");
                    before.end().await;
                }
            });
        Ok(())
    }

    /// Callers ask this one from now on, unless it has been replaced meanwhile.
    fn promote(&self, next: &Arc<Running>) -> bool {
        let mut present = self.present();
        let is_waiting = present
            .waiting
            .as_ref()
            .is_some_and(|waiting| Arc::ptr_eq(waiting, next));
        if is_waiting {
            present.serving = present.waiting.take();
            self.invoke.resolver.install(next.handle.clone());
        }
        is_waiting
    }

    fn supervise(
        &self,
        name: &ComponentName,
        entry: &Entry,
        opener: Opener<dyn NameResolver>,
    ) -> (Arc<Running>, impl Future<Output = ()> + Send + 'static) {
        let info = Info {
            name: name.clone(),
            type_name: entry.type_name.to_owned(),
            version: entry.version.to_owned(),
            kind: Kind::Names,
            optional: true,
        };
        let definition: Definition<dyn NameResolver> = Definition {
            info,
            fingerprint: Fingerprint::default(),
            recipe: Arc::new(Described(opener)),
            lazy: false,
            fault: None,
            attempt: None,
            exclusive: entry.exclusive,
            vital: false,
        };
        let (desired, seen) = watch::channel(Desired::Gone);
        let supervisor = Supervisor::new(self.shared.clone(), definition, seen);
        let (scope, closed) = (Scope::root(), Stop::new());
        let running = Running {
            handle: supervisor.handle(),
            scope: scope.clone(),
            closed: closed.clone(),
            exclusive: entry.exclusive,
            _desired: desired,
        };
        let run = async move {
            supervisor.run(scope.stop().clone()).await;
            closed.cancel();
        };
        (Arc::new(running), run)
    }

    fn present(&self) -> std::sync::MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes this sidecar's name back: nobody new is to find it.
    pub(crate) async fn leave(&self) {
        let serving = self.present().serving.clone();
        if let Some(serving) = serving {
            serving.leave().await;
        }
    }

    /// Lets this sidecar be found again.
    pub(crate) async fn join(&self) {
        let serving = self.present().serving.clone();
        if let Some(serving) = serving {
            serving.join().await;
        }
    }

    pub(crate) async fn close(&self, limit: Duration) {
        let Present { serving, waiting } = std::mem::take(&mut *self.present());
        for running in serving.iter().chain(&waiting) {
            running.scope.cancel();
        }
        self.supervisors.close(limit).await;
    }
}

impl Running {
    async fn leave(&self) {
        if let Some(instance) = self.handle.instance() {
            tokio::time::timeout(LEAVE_LIMIT, instance.driver.leave())
                .await
                .ok();
        }
    }

    async fn join(&self) {
        if let Some(instance) = self.handle.instance() {
            tokio::time::timeout(LEAVE_LIMIT, instance.driver.join())
                .await
                .ok();
        }
    }

    async fn end(&self) {
        self.leave().await;
        self.scope.cancel();
    }
}
