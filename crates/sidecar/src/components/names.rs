//! The name resolver: supervised like a component, described by the Configuration.

use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::component::Info;
use outrigger_blocks::resolve::Resolver;
use outrigger_component_api::{
    Check, ComponentName, Findings, Instance, Kind, Lookup as Found, NameResolver, Opener,
};
use outrigger_config::Fingerprint;
use outrigger_config::configuration::NameResolution;
use outrigger_config::resolve::name_resolver;
use outrigger_lifecycle::Scope;
use tokio::sync::watch;
use tracing::info;

use super::recipe::Described;
use super::supervisor::{Definition, Desired, Supervisor};
use super::{SCOPE, Shared};

/// Taking our name out of a registry must not hold anything up.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// The running resolver.
pub(crate) struct Names {
    handle: Arc<outrigger_blocks::Handle<dyn NameResolver>>,
    scope: Scope,
    supervisors: Scope,
    _desired: watch::Sender<Desired<dyn NameResolver>>,
}

impl Names {
    /// Starts the resolver that the Configuration names, else the usual one.
    ///
    /// # Errors
    /// When it cannot be used as it is configured.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        resolution: &NameResolution,
        usual: &str,
        instance: &Instance,
        resolver: &Resolver,
    ) -> Result<Self, String> {
        let spec = name_resolver(resolution, usual, &shared.context);
        let entry = match shared.catalog.find(&spec.type_name, &spec.version) {
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
        let opener: Option<Opener<dyn NameResolver>> = check(&spec, instance, &mut findings);
        let Some(opener) = opener.filter(|_| findings.faults.is_empty()) else {
            let told: Vec<String> = findings.faults.iter().map(ToString::to_string).collect();
            return Err(format!(
                "{}: {} ({})",
                spec.type_name,
                told.join("; "),
                resolution.place
            ));
        };
        let info = Info {
            name: ComponentName::from(spec.name.as_str()),
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
        };
        let (desired, seen) = watch::channel(Desired::Gone);
        let supervisor = Supervisor::new(shared.clone(), definition, seen);
        let handle = supervisor.handle();
        resolver.install(handle.clone());
        let (scope, supervisors) = (Scope::root(), Scope::root());
        supervisors.spawn_future("name_resolver", supervisor.run(scope.stop().clone()));
        info!(target: SCOPE, "Initialized name resolution to {}", spec.name);
        Ok(Self {
            handle,
            scope,
            supervisors,
            _desired: desired,
        })
    }

    /// Takes this sidecar's name back: nobody new is to find it.
    pub(crate) async fn leave(&self) {
        if let Some(instance) = self.handle.instance() {
            tokio::time::timeout(LEAVE_LIMIT, instance.driver.leave())
                .await
                .ok();
        }
    }

    /// Lets this sidecar be found again.
    pub(crate) async fn join(&self) {
        if let Some(instance) = self.handle.instance() {
            tokio::time::timeout(LEAVE_LIMIT, instance.driver.join())
                .await
                .ok();
        }
    }

    pub(crate) async fn close(&self, limit: Duration) {
        self.scope.cancel();
        self.supervisors.close(limit).await;
    }
}
