//! From a resource to what a driver gets: environment, secrets, templates.
//!
//! Secrets are fetched by others: [`secrets_of`] says which, [`resolve`] takes the answers. Without a store to ask, as in
//! an offline check, values stay unresolved and nothing is said of them.

mod go_quote;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use outrigger_component_api::{
    Class, ComponentName, Identity, Properties, Property, PropertyValue, Secret, Spec,
};
use outrigger_core::json::{Numbers, Style, Value, encode};

use crate::Lookup;
use crate::component::{ComponentResource, ValueSource};
use crate::configuration::NameResolution;
use crate::diagnostic::{Diagnostic, Place};
use crate::http_endpoint::HttpEndpointResource;
use crate::load::Context;
use source::Sources;

/// A secret that must be read before a resource can be used.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SecretRequest {
    /// The component that holds it.
    pub store: String,
    pub name: String,
}

/// The secrets at hand.
#[derive(Clone, Copy, Debug)]
pub enum Secrets<'a> {
    /// None are asked for: values from stores stay unresolved.
    Offline,
    Fetched(&'a FetchedSecrets),
}

/// What the secret stores answered.
#[derive(Clone, Debug, Default)]
pub struct FetchedSecrets {
    /// The keys of each secret.
    pub values: BTreeMap<SecretRequest, BTreeMap<String, Secret>>,
    /// Stores that answer an unknown name with an empty text, which then counts (`secretstores.local.env`).
    pub lenient_stores: BTreeSet<String>,
}

/// A component's values, resolved.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub spec: Spec,
    /// Some value holds `{namespace}`; a pub/sub then puts the namespace in front of every topic.
    pub is_namespaced: bool,
    /// Such as an environment variable that may not be read.
    pub warnings: Vec<Diagnostic>,
}

/// An HTTP endpoint's values, resolved.
#[derive(Clone, Debug, Default)]
pub struct ResolvedEndpoint {
    pub headers: Vec<(String, Secret)>,
    /// PEM.
    pub root_ca: Option<String>,
    /// PEM.
    pub certificate: Option<String>,
    /// PEM.
    pub private_key: Option<Secret>,
    pub warnings: Vec<Diagnostic>,
}

/// Why a resource cannot be used now.
#[derive(Clone, Debug)]
pub struct Unresolvable {
    /// [`Class::Secret`] heals when the store does; [`Class::Config`] only when the resource changes.
    pub class: Class,
    pub diagnostics: Vec<Diagnostic>,
}

impl Unresolvable {
    /// In one line, for a state or a log.
    pub fn reason(&self) -> String {
        self.diagnostics
            .iter()
            .map(Diagnostic::summary)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// The secrets that [`resolve`] will look for, each once.
pub fn secrets_of(resource: &ComponentResource, context: &Context) -> Vec<SecretRequest> {
    requests(
        resource.values.iter().map(|value| &value.source),
        resource.secret_store.as_deref(),
        context,
    )
}

/// The secrets that [`resolve_endpoint`] will look for, each once.
pub fn secrets_of_endpoint(
    resource: &HttpEndpointResource,
    context: &Context,
) -> Vec<SecretRequest> {
    let tls = resource
        .client_tls
        .iter()
        .flat_map(|tls| [&tls.root_ca, &tls.certificate, &tls.private_key])
        .flatten();
    requests(
        resource
            .headers
            .iter()
            .map(|value| &value.source)
            .chain(tls),
        resource.secret_store.as_deref(),
        context,
    )
}

fn requests<'a>(
    sources: impl Iterator<Item = &'a ValueSource>,
    store: Option<&str>,
    context: &Context,
) -> Vec<SecretRequest> {
    let store = source::store(store, context);
    let mut requests: Vec<SecretRequest> = Vec::new();
    for source in sources {
        if let (ValueSource::SecretKeyRef { name, .. }, Some(store)) = (source, store) {
            let request = SecretRequest {
                store: store.to_owned(),
                name: name.clone(),
            };
            if !requests.contains(&request) {
                requests.push(request);
            }
        }
    }
    requests
}

/// Turns a resource into the form in which its driver sees it.
///
/// # Errors
/// When a secret is missing, or a template cannot be filled.
pub fn resolve(
    resource: &ComponentResource,
    context: &Context,
    environment: Lookup<'_>,
    secrets: Secrets<'_>,
) -> Result<Resolved, Unresolvable> {
    let mut sources = Sources::new(
        context,
        environment,
        secrets,
        resource.secret_store.as_deref(),
    );
    let mut properties: Vec<Property> = Vec::with_capacity(resource.values.len());
    let mut is_namespaced = false;
    for named in &resource.values {
        let raw = sources.value(&named.name, &named.source, &named.place);
        is_namespaced |= text_of(&raw).is_some_and(|text| text.contains("{namespace}"));
        let value = sources.fill(&named.name, raw, &named.place);
        // Dapr: of two properties of one name the later counts.
        properties.retain(|property| property.name != named.name);
        properties.push(Property {
            name: named.name.clone(),
            value,
        });
    }
    let type_name = resource.type_name.to_ascii_lowercase();
    if type_name.starts_with("pubsub.") {
        set_consumer(&mut properties, context);
    }
    let spec = Spec {
        name: resource.name.clone(),
        type_name,
        version: resource.version.clone(),
        identity: identity(context),
        properties: Properties(properties),
    };
    let warnings = sources.finish()?;
    Ok(Resolved {
        spec,
        is_namespaced,
        warnings,
    })
}

/// Turns an HTTP endpoint into what a client is built from.
///
/// # Errors
/// When a secret is missing.
pub fn resolve_endpoint(
    resource: &HttpEndpointResource,
    context: &Context,
    environment: Lookup<'_>,
    secrets: Secrets<'_>,
) -> Result<ResolvedEndpoint, Unresolvable> {
    let mut sources = Sources::new(
        context,
        environment,
        secrets,
        resource.secret_store.as_deref(),
    );
    let mut resolved = ResolvedEndpoint::default();
    for header in &resource.headers {
        let value = sources.value(&header.name, &header.source, &header.place);
        resolved.headers.push((
            header.name.clone(),
            Secret::new(text_of(&value).unwrap_or_default()),
        ));
    }
    if let Some(tls) = &resource.client_tls {
        let mut part = |name: &str, source: &Option<ValueSource>, place: &Place| {
            let value = sources.value(name, source.as_ref()?, place);
            text_of(&value)
                .map(str::to_owned)
                .filter(|text| !text.is_empty())
        };
        resolved.root_ca = part("rootCA", &tls.root_ca, &resource.place);
        resolved.certificate = part("certificate", &tls.certificate, &resource.place);
        resolved.private_key =
            part("privateKey", &tls.private_key, &resource.place).map(Secret::new);
    }
    resolved.warnings = sources.finish()?;
    Ok(resolved)
}

/// The name resolver of a Configuration as a component, with the members of `configuration` as its properties.
pub fn name_resolver(
    resolution: &NameResolution,
    default_component: &str,
    context: &Context,
) -> Spec {
    let members = resolution
        .configuration
        .as_ref()
        .and_then(Value::as_object)
        .unwrap_or_default();
    let property = |(name, value): &(String, Value)| Property {
        name: name.clone(),
        value: PropertyValue::Text(plain(value)),
    };
    let component = resolution
        .component
        .as_deref()
        .unwrap_or(default_component)
        .to_ascii_lowercase();
    Spec {
        name: ComponentName::from(component.as_str()),
        type_name: format!("nameresolution.{component}"),
        version: resolution.version.clone(),
        identity: identity(context),
        properties: Properties(members.iter().map(property).collect()),
    }
}

fn identity(context: &Context) -> Identity {
    Identity {
        app_id: context.app_id.clone(),
        namespace: context.namespace.clone(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) | Value::Number(text) => text.clone(),
        Value::Null => String::new(),
        other => {
            String::from_utf8(encode(other, Style::Standard, Numbers::Exact)).unwrap_or_default()
        }
    }
}

fn text_of(value: &PropertyValue) -> Option<&str> {
    match value {
        PropertyValue::Text(text) => Some(text),
        PropertyValue::Secret(secret) => Some(secret.reveal()),
        PropertyValue::Unresolved => None,
    }
}

/// The consumer group of a pub/sub is the app's id, unless something else is said.
fn set_consumer(properties: &mut Vec<Property>, context: &Context) {
    const NAME: &str = "consumerID";
    match properties
        .iter_mut()
        .find(|property| property.name.eq_ignore_ascii_case(NAME))
    {
        None => properties.push(Property {
            name: NAME.to_owned(),
            value: PropertyValue::Text(context.app_id.to_string()),
        }),
        Some(property) => {
            if let Some(text) = text_of(&property.value) {
                let trimmed = text.trim();
                let consumer = if trimmed.is_empty() {
                    context.app_id.as_str()
                } else {
                    trimmed
                };
                property.value = PropertyValue::Text(consumer.to_owned());
            }
        }
    }
}
