//! Whole resources.

use outrigger_component_api::{Class, PropertyValue, Secret};
use outrigger_core::json::Value;

use super::{
    FetchedSecrets, Resolved, SecretRequest, Secrets, Unresolvable, name_resolver, resolve,
    resolve_endpoint, secrets_of, secrets_of_endpoint,
};
use crate::component::ComponentResource;
use crate::configuration::NameResolution;
use crate::load::Context;
use crate::testing::{context, load_text, resource};

fn component(type_name: &str, values: &[&str]) -> ComponentResource {
    let values: String = values
        .iter()
        .map(|value| format!("  - {{{value}}}\n"))
        .collect();
    let text = resource(
        "Component",
        "c",
        &format!("  type: {type_name}\n  metadata:\n{values}"),
    ) + "auth: {secretStore: vault}\n";
    load_text(&text).components.remove(0)
}

fn fetched(secrets: &[(&str, &str, &str)]) -> FetchedSecrets {
    let mut fetched = FetchedSecrets::default();
    for (name, key, value) in secrets {
        let request = SecretRequest {
            store: "vault".to_owned(),
            name: (*name).to_owned(),
        };
        fetched
            .values
            .entry(request)
            .or_default()
            .insert((*key).to_owned(), Secret::new(*value));
    }
    fetched
}

fn environment(name: &str) -> Option<String> {
    let known = [
        ("HOST", "localhost"),
        ("QUOTED", "\"in quotes\""),
        ("POD_NAME", "pod-1"),
        ("DAPR_API_TOKEN", "t"),
    ];
    known
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| (*value).to_owned())
}

fn run(component: &ComponentResource, secrets: &FetchedSecrets) -> Result<Resolved, Unresolvable> {
    resolve(
        component,
        &context(),
        &environment,
        Secrets::Fetched(secrets),
    )
}

fn text(resolved: &Resolved, name: &str) -> String {
    resolved
        .spec
        .properties
        .text(name)
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn templates_are_filled() {
    let component = component(
        "State.X",
        &[
            "name: a, value: 'x-{appID}-{namespace}-{podName}'",
            "name: b, value: '{uuid} {uuid}'",
        ],
    );
    let resolved = run(&component, &FetchedSecrets::default()).unwrap();
    assert_eq!(resolved.spec.type_name, "state.x");
    assert_eq!(text(&resolved, "a"), "x-app-default.app-pod-1");
    let b = text(&resolved, "b");
    let (first, second) = b.split_once(' ').unwrap();
    assert!(
        first.len() == 36 && second.len() == 36 && first != second,
        "{b}"
    );
    assert!(resolved.is_namespaced);
    let own = Context {
        namespace: Some("prod".into()),
        ..context()
    };
    let resolved = resolve(&component, &own, &environment, Secrets::Offline).unwrap();
    assert_eq!(text(&resolved, "a"), "x-app-prod.app-pod-1");
}

#[test]
fn a_template_that_cannot_be_filled_is_a_fault_of_the_configuration() {
    let component = component("state.x", &["name: a, value: '{podName}'"]);
    let error = resolve(
        &component,
        &context(),
        &|_| None,
        Secrets::Fetched(&FetchedSecrets::default()),
    )
    .unwrap_err();
    assert_eq!(error.class, Class::Config);
    assert!(error.reason().contains("POD_NAME"), "{}", error.reason());
    let offline = resolve(&component, &context(), &|_| None, Secrets::Offline).unwrap();
    assert!(matches!(
        offline.spec.properties.0[0].value,
        PropertyValue::Unresolved
    ));
}

#[test]
fn variables_are_read_unless_they_are_the_sidecars_own() {
    let component = component(
        "state.x",
        &[
            "name: a, envRef: HOST",
            "name: b, envRef: QUOTED",
            "name: c, envRef: DAPR_API_TOKEN",
            "name: d, envRef: GONE",
        ],
    );
    let resolved = run(&component, &FetchedSecrets::default()).unwrap();
    assert_eq!(
        ["a", "b", "c", "d"].map(|name| text(&resolved, name)),
        ["localhost", "in quotes", "", ""]
    );
    let told: Vec<_> = resolved
        .warnings
        .iter()
        .map(|told| told.place.line)
        .collect();
    assert_eq!(told, [10, 11]);
    let offline = resolve(&component, &context(), &|_| None, Secrets::Offline).unwrap();
    assert!(matches!(
        offline.spec.properties.0[3].value,
        PropertyValue::Unresolved
    ));
}

#[test]
fn secrets_are_asked_for_once_and_put_in() {
    let component = component(
        "state.x",
        &[
            "name: user, secretKeyRef: {name: login, key: user}",
            "name: pass, secretKeyRef: {name: login, key: pass}",
            "name: url, secretKeyRef: {name: url}",
        ],
    );
    let requests: Vec<_> = secrets_of(&component, &context())
        .into_iter()
        .map(|request| (request.store, request.name))
        .collect();
    assert_eq!(
        requests,
        [
            ("vault".to_owned(), "login".to_owned()),
            ("vault".to_owned(), "url".to_owned())
        ]
    );
    let resolved = run(
        &component,
        &fetched(&[
            ("login", "user", "u"),
            ("login", "pass", "'p'"),
            ("url", "url", "{appID}"),
        ]),
    )
    .unwrap();
    assert_eq!(
        ["user", "pass", "url"].map(|name| text(&resolved, name)),
        ["u", "p", "app"]
    );
    assert!(!format!("{resolved:?}").contains("\"u\""));
}

#[test]
fn a_missing_or_empty_secret_is_never_put_in() {
    let component = component(
        "state.x",
        &["name: pass, secretKeyRef: {name: login, key: pass}, value: fallback"],
    );
    for secrets in [
        fetched(&[]),
        fetched(&[("login", "other", "x")]),
        fetched(&[("login", "pass", "")]),
    ] {
        let error = run(&component, &secrets).unwrap_err();
        assert_eq!(error.class, Class::Secret);
        assert!(error.reason().contains("`pass`"), "{}", error.reason());
    }
    let mut lenient = fetched(&[("login", "pass", "")]);
    lenient.lenient_stores.insert("vault".to_owned());
    let resolved = run(&component, &lenient).unwrap();
    assert_eq!(
        (text(&resolved, "pass").as_str(), resolved.warnings.len()),
        ("", 1)
    );
    let offline = resolve(&component, &context(), &environment, Secrets::Offline).unwrap();
    assert!(matches!(
        offline.spec.properties.0[0].value,
        PropertyValue::Unresolved
    ));
}

#[test]
fn in_kubernetes_a_store_need_not_be_named() {
    let own = Context {
        kubernetes: true,
        ..context()
    };
    let mut component = component("state.x", &["name: a, secretKeyRef: {name: s, key: k}"]);
    component.secret_store = None;
    assert_eq!(secrets_of(&component, &own)[0].store, "kubernetes");
    assert_eq!(secrets_of(&component, &context()), []);
    assert_eq!(
        run(&component, &FetchedSecrets::default())
            .unwrap_err()
            .class,
        Class::Config
    );
}

#[test]
fn a_pubsub_has_a_consumer() {
    let consumer = |values: &[&str]| {
        text(
            &run(&component("pubsub.x", values), &FetchedSecrets::default()).unwrap(),
            "consumerID",
        )
    };
    assert_eq!(consumer(&["name: a, value: b"]), "app");
    assert_eq!(consumer(&["name: consumerID, value: '  '"]), "app");
    assert_eq!(consumer(&["name: consumerID, value: ' g '"]), "g");
    assert_eq!(consumer(&["name: consumerId, value: '{appID}-g'"]), "app-g");
    let state = run(
        &component("state.x", &["name: a, value: b"]),
        &FetchedSecrets::default(),
    )
    .unwrap();
    assert_eq!(state.spec.properties.0.len(), 1);
}

#[test]
fn of_two_properties_of_one_name_the_later_counts() {
    let resolved = run(
        &component(
            "state.x",
            &[
                "name: a, value: 1",
                "name: b, value: 2",
                "name: a, value: 3",
            ],
        ),
        &FetchedSecrets::default(),
    )
    .unwrap();
    let names: Vec<_> = resolved
        .spec
        .properties
        .0
        .iter()
        .map(|property| property.name.as_str())
        .collect();
    assert_eq!(
        (names, text(&resolved, "a").as_str()),
        (vec!["b", "a"], "3")
    );
}

#[test]
fn values_that_look_like_secrets_are_hidden_whatever_their_source() {
    let component = component(
        "state.x",
        &[
            "name: password, value: hunter2",
            "name: host, value: 'amqp://u:hunter2@h'",
            "name: port, value: 5",
        ],
    );
    let resolved = run(&component, &FetchedSecrets::default()).unwrap();
    assert!(!format!("{:?}", resolved.spec).contains("hunter2"));
    assert!(matches!(
        resolved.spec.properties.0[2].value,
        PropertyValue::Text(_)
    ));
}

#[test]
fn an_endpoint_is_resolved_too() {
    let spec = "  baseUrl: https://x\n  headers: [{name: h, value: '{appID}'}, {name: t, secretKeyRef: {name: s, key: t}}]\n  clientTLS: {certificate: {value: PEM}, privateKey: {secretKeyRef: {name: s, key: k}}}\n";
    let endpoint =
        load_text(&(resource("HTTPEndpoint", "e", spec) + "auth: {secretStore: vault}\n"))
            .http_endpoints
            .remove(0);
    assert_eq!(secrets_of_endpoint(&endpoint, &context()).len(), 1);
    let secrets = fetched(&[("s", "t", "token"), ("s", "k", "KEY")]);
    let resolved = resolve_endpoint(
        &endpoint,
        &context(),
        &environment,
        Secrets::Fetched(&secrets),
    )
    .unwrap();
    let headers: Vec<_> = resolved
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.reveal()))
        .collect();
    assert_eq!(headers, [("h", "{appID}"), ("t", "token")]);
    assert_eq!(
        (
            resolved.certificate.as_deref(),
            resolved.private_key.unwrap().reveal()
        ),
        (Some("PEM"), "KEY")
    );
    assert!(
        resolve_endpoint(
            &endpoint,
            &context(),
            &environment,
            Secrets::Fetched(&fetched(&[]))
        )
        .is_err()
    );
}

#[test]
fn a_name_resolver_is_a_component_without_a_resource() {
    let configuration = Value::object([
        ("connectionString", Value::string("db")),
        ("cleanup", Value::Bool(true)),
        ("none", Value::Null),
    ]);
    let resolution = NameResolution {
        component: Some("SQLite".into()),
        configuration: Some(configuration),
        ..NameResolution::default()
    };
    let spec = name_resolver(&resolution, "mdns", &context());
    assert_eq!(
        (spec.type_name.as_str(), spec.name.as_str()),
        ("nameresolution.sqlite", "sqlite")
    );
    assert_eq!(
        ["connectionString", "cleanup", "none"].map(|name| spec
            .properties
            .text(name)
            .unwrap()
            .to_owned()),
        ["db", "true", ""]
    );
    assert_eq!(
        name_resolver(&NameResolution::default(), "mdns", &context()).type_name,
        "nameresolution.mdns"
    );
}
