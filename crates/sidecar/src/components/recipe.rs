//! How one component is made: what it waits for, its settings, what opens it.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_blocks::{About, Origin};
use outrigger_component_api::{Component, Findings, NameResolver, Opener, Spec};
use outrigger_config::resolve::{FetchedSecrets, Secrets, Unresolvable, resolve, secrets_of};
use outrigger_config::{ComponentResource, ValueSource};
use outrigger_lifecycle::connection::{Class, Failure};
use tracing::{debug, warn};

use super::secrets::Needs;
use super::{SCOPE, Shared, secrets};

pub(crate) type Settled<T> = (Opener<T>, About);

/// Makes a component, as often as it has to be made.
#[async_trait]
pub(crate) trait Recipe<T: ?Sized>: Send + Sync + 'static {
    /// Waits until everything is there that an attempt needs; meanwhile `needs` shows what is missing.
    async fn dependencies(&self, needs: &Needs);

    /// Everything of an attempt ahead of the connection.
    async fn settle(&self) -> Result<Settled<T>, Failure>;

    /// The server that the component is at, as far as its settings say; equal texts are equal servers.
    fn server(&self) -> Option<String>;

    /// Secret stores that have to be ready first, by name.
    fn stores(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Checks the properties of one kind of component.
pub(crate) type Checker<T> = fn(&Spec, &mut Findings) -> Option<Opener<T>>;

/// A Component resource.
pub(crate) struct FromResource<T: ?Sized> {
    pub shared: Arc<Shared>,
    pub resource: ComponentResource,
    pub check: Checker<T>,
}

#[async_trait]
impl<T: Component + ?Sized> Recipe<T> for FromResource<T> {
    async fn dependencies(&self, needs: &Needs) {
        let requests = secrets_of(&self.resource, &self.shared.context);
        secrets::requests_ready(&self.shared.registry, &requests, needs).await;
    }

    async fn settle(&self) -> Result<Settled<T>, Failure> {
        let fetched = secrets::fetch(
            &self.shared.registry,
            &secrets_of(&self.resource, &self.shared.context),
        )
        .await?;
        settle(&self.shared, &self.resource, self.check, &fetched)
    }

    fn server(&self) -> Option<String> {
        server_of(&self.resource)
    }

    fn stores(&self) -> Vec<String> {
        let requests = secrets_of(&self.resource, &self.shared.context);
        let mut stores: Vec<String> = requests.into_iter().map(|request| request.store).collect();
        stores.sort();
        stores.dedup();
        stores
    }
}

/// The name resolver, which the Configuration describes in full.
pub(crate) struct Described(pub Opener<dyn NameResolver>);

#[async_trait]
impl Recipe<dyn NameResolver> for Described {
    async fn dependencies(&self, _: &Needs) {}

    async fn settle(&self) -> Result<Settled<dyn NameResolver>, Failure> {
        Ok((self.0.clone(), About::default()))
    }

    fn server(&self) -> Option<String> {
        None
    }
}

/// The faults of a resource in one line each, with their places.
pub(crate) fn faults(resource: &ComponentResource, findings: &Findings) -> Failure {
    let told: Vec<String> = findings
        .faults
        .iter()
        .map(|fault| format!("{fault} ({})", resource.place_of(&fault.property)))
        .collect();
    let message = if told.is_empty() {
        format!("the component refuses its settings ({})", resource.place)
    } else {
        told.join("; ")
    };
    Failure::new(Class::Config, message)
}

/// Everything of an attempt that needs no I/O.
fn settle<T: ?Sized>(
    shared: &Shared,
    resource: &ComponentResource,
    check: Checker<T>,
    fetched: &FetchedSecrets,
) -> Result<Settled<T>, Failure> {
    let lookup = shared.lookup();
    let resolved = resolve(
        resource,
        &shared.context,
        &lookup,
        Secrets::Fetched(fetched),
    );
    let resolved = resolved.map_err(|unresolvable: Unresolvable| {
        Failure::new(unresolvable.class, unresolvable.reason())
    })?;
    for warning in &resolved.warnings {
        warn!(target: SCOPE, component = %resource.name, "{}", warning.located());
    }
    let mut findings = Findings::default();
    let opener = check(&resolved.spec, &mut findings);
    for unknown in &findings.unknown {
        debug!(target: SCOPE, component = %resource.name, property = unknown, "property is not known and ignored");
    }
    let Some(opener) = opener.filter(|_| findings.faults.is_empty()) else {
        return Err(faults(resource, &findings));
    };
    let secret_names = resource
        .values
        .iter()
        .filter_map(|value| match &value.source {
            ValueSource::SecretKeyRef { name, .. } => Some((value.name.clone(), name.clone())),
            ValueSource::Text(_) | ValueSource::EnvRef(_) => None,
        });
    let origin = Origin {
        secret_names: secret_names.collect(),
        mentions_namespace: resolved.is_namespaced,
    };
    let namespace = shared
        .context
        .namespace
        .as_ref()
        .map(outrigger_core::Namespace::as_str);
    let about = About::read(
        &resolved.spec.properties,
        &origin,
        shared.context.app_id.as_str(),
        namespace,
    )
    .map_err(|reason| Failure::new(Class::Config, format!("{reason} ({})", resource.place)))?;
    Ok((opener, about))
}

/// The server that a component is at, as far as its settings say; equal texts are equal servers.
fn server_of(resource: &ComponentResource) -> Option<String> {
    let named = |name: &str| {
        let value = resource
            .values
            .iter()
            .find(|value| value.name.eq_ignore_ascii_case(name))?;
        match &value.source {
            ValueSource::Text(text) if !text.is_empty() => Some(text.as_str()),
            ValueSource::Text(_) | ValueSource::SecretKeyRef { .. } | ValueSource::EnvRef(_) => {
                None
            }
        }
    };
    let text = ["redisHost", "host", "hostname", "connectionString", "url"]
        .into_iter()
        .find_map(named)?;
    // Only the part that names a machine; never user and password.
    let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let text = text.split_once("://").map_or(text, |(_, host)| host);
    Some(
        text.split(['/', '?'])
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase(),
    )
}
