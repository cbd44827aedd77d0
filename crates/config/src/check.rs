//! Everything that can be told offline, at once.

use outrigger_component_api::{
    Catalog, Check, Fault, Findings, Instance, Lookup as Type, Namespace, Spec,
};
use outrigger_core::nearest::nearest;
use outrigger_core::topic_access::TopicAccess;

use crate::Lookup;
use crate::component::ComponentResource;
use crate::configuration::{self, Configuration, NameResolution};
use crate::diagnostic::{self, Diagnostic, Place, shown};
use crate::load::{self, Compile, Context, Loaded, SourceFile};
use crate::resolve::{
    SecretRequest, Secrets, name_resolver, resolve, resolve_endpoint, secrets_of,
    secrets_of_endpoint,
};
use crate::subscription::SubscriptionResource;

/// Checks resource files and Configuration files together; sorted by place. Secret stores are not asked: nothing is said
/// of values that come from them.
pub fn check(
    files: &[SourceFile],
    config_files: &[SourceFile],
    catalog: &Catalog,
    context: &Context,
    environment: Lookup<'_>,
    compile: Compile<'_>,
) -> Vec<Diagnostic> {
    let loaded = load::read(files, context, compile, true);
    let (configuration, found) = configuration::read(config_files, environment);
    let mut checker = Checker {
        loaded: &loaded,
        catalog,
        context,
        environment,
        told: found,
    };
    for component in &loaded.components {
        checker.component(component, &configuration);
    }
    for endpoint in &loaded.http_endpoints {
        checker.stores(
            &secrets_of_endpoint(endpoint, context),
            &endpoint.secret_store_place,
        );
        if let Ok(resolved) = resolve_endpoint(endpoint, context, environment, Secrets::Offline) {
            checker.told.extend(resolved.warnings);
        }
    }
    for subscription in &loaded.subscriptions {
        checker.subscription(subscription);
    }
    checker.name_resolution(&configuration.name_resolution);
    let mut told = checker.told;
    told.extend(loaded.diagnostics);
    diagnostic::sort(&mut told);
    told
}

struct Checker<'a> {
    loaded: &'a Loaded,
    catalog: &'a Catalog,
    context: &'a Context,
    environment: Lookup<'a>,
    told: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn component(&mut self, component: &ComponentResource, configuration: &Configuration) {
        self.stores(
            &secrets_of(component, self.context),
            &component.secret_store_place,
        );
        if configuration.denies(&component.type_name, &component.version) {
            let message = if component.version.is_empty() {
                "without a version it is not loaded, since some types are denied".to_owned()
            } else {
                format!(
                    "components of type `{}` are denied, this one is not loaded",
                    component.type_name
                )
            };
            self.told.push(Diagnostic::warning(
                "CFG-DENIED",
                component.type_place.clone(),
                message,
            ));
            return;
        }
        if is_of(component, "nameresolution.") {
            let message = format!("incorrect type {}", component.type_name);
            let told = Diagnostic::error("CFG-UNKNOWN-TYPE", component.type_place.clone(), message);
            self.told
                .push(told.help("a name resolver belongs into the Configuration"));
            return;
        }
        match resolve(component, self.context, self.environment, Secrets::Offline) {
            Ok(resolved) => {
                self.told.extend(resolved.warnings);
                let place = |property: &str| component.place_of(property).clone();
                self.settings(&resolved.spec, &component.type_place, &place);
            }
            Err(unresolvable) => self.told.extend(unresolvable.diagnostics),
        }
    }

    /// Runs a type's own check.
    fn settings(&mut self, spec: &Spec, type_place: &Place, place: &dyn Fn(&str) -> Place) {
        let entry = match self.catalog.find(&spec.type_name, &spec.version) {
            Type::Found(entry) => entry,
            Type::Unknown { message, nearest } => {
                let told = Diagnostic::error("CFG-UNKNOWN-TYPE", type_place.clone(), message);
                let told = match nearest {
                    Some(nearest) if nearest == spec.type_name => {
                        told.expected(self.versions(nearest))
                    }
                    // A Configuration names a resolver without the prefix.
                    nearest => told.nearest(
                        nearest.map(|name| name.strip_prefix("nameresolution.").unwrap_or(name)),
                    ),
                };
                return self.told.push(told);
            }
        };
        let mut findings = Findings::default();
        match entry.check {
            Check::State(check) => drop(check(spec, &mut findings)),
            Check::PubSub(check) => drop(check(spec, &mut findings)),
            Check::Secrets(check) => drop(check(spec, &mut findings)),
            Check::Names(check) => drop(check(spec, &self.instance(), &mut findings)),
        }
        self.told.extend(
            findings
                .faults
                .iter()
                .map(|fault| told_of(fault, place(&fault.property))),
        );
        for name in findings.unknown {
            let message = format!(
                "`{name}` is not a property of {} and has no effect",
                spec.type_name
            );
            self.told.push(Diagnostic::warning(
                "CFG-UNKNOWN-PROPERTY",
                place(&name),
                message,
            ));
        }
    }

    fn versions(&self, type_name: &str) -> String {
        let versions: Vec<String> = self
            .catalog
            .entries()
            .iter()
            .filter(|entry| entry.type_name == type_name)
            .map(|entry| format!("version `{}`", entry.version))
            .collect();
        versions.join(" or ")
    }

    /// This sidecar, for a check that only wants to know whether its settings are well formed.
    fn instance(&self) -> Instance {
        Instance {
            app_id: self.context.app_id.clone(),
            namespace: self
                .context
                .namespace
                .clone()
                .unwrap_or_else(|| Namespace::from("default")),
            address: "127.0.0.1".to_owned(),
            http_port: 3500,
            internal_port: 50002,
            app_port: None,
        }
    }

    /// Every store that is asked must be there, and be a secret store.
    fn stores(&mut self, requests: &[SecretRequest], place: &Place) {
        // All references of a resource go to one store.
        let Some(SecretRequest { store, .. }) = requests.first() else {
            return;
        };
        let is_built_in = self.context.kubernetes && store == "kubernetes";
        let found = self
            .loaded
            .components
            .iter()
            .find(|component| component.name.as_str() == store);
        if is_built_in || found.is_some_and(|found| is_of(found, "secretstores.")) {
            return;
        }
        let told = match found {
            Some(found) => {
                let message = format!(
                    "`{store}` is not a secret store, but of type `{}`",
                    found.type_name
                );
                Diagnostic::error("CFG-SECRET-STORE", place.clone(), message)
            }
            None if self
                .loaded
                .rejected
                .iter()
                .any(|rejected| rejected.name == *store) =>
            {
                Diagnostic::error(
                    "CFG-SECRET-STORE",
                    place.clone(),
                    format!("secret store `{store}` cannot be used itself"),
                )
            }
            None => {
                let stores = self
                    .loaded
                    .components
                    .iter()
                    .filter(|component| is_of(component, "secretstores."));
                Diagnostic::error(
                    "CFG-SECRET-STORE",
                    place.clone(),
                    format!("there is no secret store `{store}`"),
                )
                .nearest(nearest(store, stores.map(|store| store.name.as_str())))
            }
        };
        self.told.push(told);
    }

    fn subscription(&mut self, subscription: &SubscriptionResource) {
        let name = subscription.pubsub.as_str();
        let found = self
            .loaded
            .components
            .iter()
            .find(|component| component.name.as_str() == name);
        let place = subscription.pubsub_place.clone();
        let told = match found {
            Some(found) if is_of(found, "pubsub.") => return self.topic(subscription, found),
            Some(found) => Diagnostic::error(
                "CFG-PUBSUB",
                place,
                format!(
                    "`{name}` is not a pub/sub, but of type `{}`",
                    found.type_name
                ),
            ),
            None if self
                .loaded
                .rejected
                .iter()
                .any(|rejected| rejected.name == name) =>
            {
                Diagnostic::error(
                    "CFG-PUBSUB",
                    place,
                    format!("pub/sub `{name}` cannot be used itself"),
                )
            }
            None => {
                let brokers = self
                    .loaded
                    .components
                    .iter()
                    .filter(|component| is_of(component, "pubsub."));
                Diagnostic::error("CFG-PUBSUB", place, format!("there is no pub/sub `{name}`"))
                    .nearest(nearest(name, brokers.map(|broker| broker.name.as_str())))
            }
        };
        self.told.push(told);
    }

    /// The component may keep this app away from the topic.
    fn topic(&mut self, subscription: &SubscriptionResource, broker: &ComponentResource) {
        let Ok(resolved) = resolve(broker, self.context, self.environment, Secrets::Offline) else {
            return;
        };
        let access = TopicAccess::read(
            &resolved.spec.properties.to_metadata(),
            self.context.app_id.as_str(),
        );
        if !access.may_subscribe(subscription.topic.as_str()) {
            let message = format!(
                "`{}` does not let `{}` subscribe to topic `{}`",
                broker.name, self.context.app_id, subscription.topic
            );
            let told = Diagnostic::error("CFG-TOPIC", subscription.pubsub_place.clone(), message);
            self.told.push(
                told.help("see its `allowedTopics`, `protectedTopics` and `subscriptionScopes`"),
            );
        }
    }

    fn name_resolution(&mut self, resolution: &NameResolution) {
        let Some(component) = &resolution.component else {
            return;
        };
        let spec = name_resolver(resolution, component, self.context);
        self.settings(&spec, &resolution.place, &|_| resolution.place.clone());
    }
}

fn is_of(component: &ComponentResource, prefix: &str) -> bool {
    component
        .type_name
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn told_of(fault: &Fault, place: Place) -> Diagnostic {
    let message = match (fault.property.is_empty(), &fault.found) {
        (true, _) => "the settings do not fit together".to_owned(),
        (false, Some(_)) => format!("`{}` has a value that cannot be used", fault.property),
        (false, None) => format!("`{}` is missing or cannot be used", fault.property),
    };
    let mut told = Diagnostic::error("CFG-PROPERTY", place, message).expected(&fault.expected);
    told.found = fault
        .found
        .as_ref()
        .and_then(|found| shown(&fault.property, found));
    told
}
