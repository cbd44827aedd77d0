//! What all resources have in common: kind, name, namespace, scopes.

use std::collections::BTreeMap;

use outrigger_core::Namespace;
use outrigger_core::json::{Numbers, Style, Value, encode};
use outrigger_core::nearest::nearest;

use crate::component::{NamedValue, ValueSource};
use crate::diagnostic::{Diagnostic, Place};
use crate::fingerprint::Fingerprint;
use crate::load::Context;
use crate::read::{Field, Object};
use crate::yaml::Node;

const V1: &str = "dapr.io/v1alpha1";
const V2: &str = "dapr.io/v2alpha1";

/// Every kind of Dapr's that a file may hold.
const KINDS: [&str; 7] = [
    "Component",
    "Subscription",
    "HTTPEndpoint",
    "Resiliency",
    "Configuration",
    "MCPServer",
    "WorkflowAccessPolicy",
];

/// What a document is, by its first two fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sort {
    Component,
    /// Whether it is v2alpha1.
    Subscription {
        second: bool,
    },
    HttpEndpoint,
    Resiliency,
    /// Of no interest here; the reason, if it is one of Dapr's.
    Ignored(Option<&'static str>),
    /// Close to something known; the warning.
    Misspelt(Box<Diagnostic>),
}

/// Tells what a document is. Kinds of others are ignored without a word.
pub(crate) fn sort(object: &Object<'_>) -> Sort {
    let word = |name| {
        object
            .field(name)
            .and_then(|field| field.node.as_scalar().map(|scalar| scalar.text.to_string()))
            .unwrap_or_default()
    };
    let (version, kind) = (word("apiVersion"), word("kind"));
    match (version.as_str(), kind.as_str()) {
        (V1, "Component") => Sort::Component,
        (V1, "Subscription") => Sort::Subscription { second: false },
        (V2, "Subscription") => Sort::Subscription { second: true },
        (V1, "HTTPEndpoint") => Sort::HttpEndpoint,
        (V1, "Resiliency") => Sort::Resiliency,
        (V1, "Configuration") => {
            Sort::Ignored(Some("a Configuration is read from `--config` only"))
        }
        (V1, "MCPServer") => Sort::Ignored(Some("MCPServer is not supported and ignored")),
        (V1, "WorkflowAccessPolicy") => {
            Sort::Ignored(Some("WorkflowAccessPolicy is not supported and ignored"))
        }
        _ => misspelt(object, &version, &kind)
            .map_or(Sort::Ignored(None), |told| Sort::Misspelt(Box::new(told))),
    }
}

fn misspelt(object: &Object<'_>, version: &str, kind: &str) -> Option<Diagnostic> {
    let place = |name| {
        object
            .field(name)
            .map_or_else(|| object.place(), |field| field.place())
    };
    let ignored = "the document is ignored";
    let is_ours = version.is_empty()
        || version.starts_with("dapr.io")
        || nearest(version, [V1, V2]).is_some();
    if !is_ours {
        return None;
    }
    if kind.is_empty() {
        return Some(Diagnostic::warning(
            "CFG-KIND",
            object.place(),
            format!("no `kind`, {ignored}"),
        ));
    }
    if KINDS.contains(&kind) {
        let versions: &[&str] = if kind == "Subscription" {
            &[V1, V2]
        } else {
            &[V1]
        };
        let told = Diagnostic::warning(
            "CFG-KIND",
            place("apiVersion"),
            format!("no such version of {kind}, {ignored}"),
        );
        return Some(
            told.found(version).expected(
                versions
                    .iter()
                    .map(|version| format!("`{version}`"))
                    .collect::<Vec<_>>()
                    .join(" or "),
            ),
        );
    }
    let close = nearest(kind, KINDS);
    if version != V1 && version != V2 && close.is_none() {
        return None;
    }
    let told = Diagnostic::warning(
        "CFG-KIND",
        place("kind"),
        format!("no such kind, {ignored}"),
    );
    Some(told.found(kind).nearest(close))
}

/// Name, namespace and scopes.
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) name_place: Place,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) scopes: Vec<String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// `outrigger.dev/<name>`.
pub(crate) fn annotation<'a>(
    annotations: &'a BTreeMap<String, String>,
    name: &str,
) -> Option<&'a str> {
    annotations
        .get(&format!("outrigger.dev/{name}"))
        .map(String::as_str)
}

impl Header {
    pub(crate) fn read(document: &Object<'_>) -> Self {
        document.knows(&["apiVersion", "kind", "status", "spec"]);
        let metadata = document.object("metadata");
        let metadata = metadata.as_ref();
        let name_field = metadata.and_then(|metadata| metadata.field("name"));
        let header = Self {
            name_place: name_field
                .as_ref()
                .map_or_else(|| document.place(), Field::place),
            name: name_field.and_then(|name| name.text()).unwrap_or_default(),
            namespace: metadata
                .and_then(|metadata| metadata.word("namespace"))
                .map(Namespace::from),
            annotations: metadata
                .and_then(|metadata| metadata.text_map("annotations"))
                .unwrap_or_default(),
            scopes: document.texts("scopes").unwrap_or_default(),
        };
        if let Some(metadata) = metadata {
            metadata.knows(&[
                "labels",
                "generateName",
                "uid",
                "resourceVersion",
                "generation",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "ownerReferences",
                "finalizers",
                "managedFields",
                "selfLink",
            ]);
            metadata.finish();
        }
        header
    }

    /// Whether the resource is meant for this app.
    pub(crate) fn is_for(&self, context: &Context) -> bool {
        let same_namespace = match (&context.namespace, &self.namespace) {
            (Some(own), Some(theirs)) => own == theirs,
            _ => true,
        };
        same_namespace
            && (self.scopes.is_empty()
                || self
                    .scopes
                    .iter()
                    .any(|scope| scope == context.app_id.as_str()))
    }

    /// Names become parts of paths.
    pub(crate) fn check_name(&self, document: &Object<'_>, is_required: bool) {
        let refuse = |message: &str, expected: &str| {
            let mut told =
                Diagnostic::error("CFG-NAME", self.name_place.clone(), message).expected(expected);
            told.place.path = "metadata.name".to_owned();
            told.found = (!self.name.is_empty()).then(|| self.name.clone());
            document.reader().tell(told);
        };
        if self.name.is_empty() {
            if is_required {
                refuse("the resource has no name", "a `metadata.name`");
            }
        } else if self.name == "." || self.name == ".." || self.name.contains(['/', '%']) {
            refuse(
                "the name cannot be part of a path",
                "a name without `/` and `%`",
            );
        }
    }
}

/// Reads a `value`, `secretKeyRef` and `envRef` beside each other. Dapr: pkg/runtime/processor/secret: a variable counts
/// only without a value, a secret in any case.
fn source(object: &Object<'_>) -> (ValueSource, Place) {
    let value = object.field("value");
    let variable = object.field("envRef");
    let secret = object.object("secretKeyRef").map(|secret| {
        let read = (
            secret.text("name").unwrap_or_default(),
            secret.word("key"),
            secret.place(),
        );
        secret.finish();
        read
    });
    if let (None, Some(variable)) = (&value, &variable) {
        let name = variable.text().unwrap_or_default();
        if !name.is_empty() {
            return (ValueSource::EnvRef(name), variable.place());
        }
    }
    if let Some((name, key, place)) = secret.filter(|(name, _, _)| !name.is_empty()) {
        let key = key.unwrap_or_else(|| name.clone());
        return (ValueSource::SecretKeyRef { name, key }, place);
    }
    match value {
        Some(value) => (ValueSource::Text(value_text(value.node)), value.place()),
        None => (ValueSource::Text(String::new()), object.place()),
    }
}

/// The text of a value of any kind; lists and maps are written as JSON.
pub(crate) fn value_text(node: &Node) -> String {
    match node.to_json() {
        Value::String(text) | Value::Number(text) => text,
        Value::Null => String::new(),
        other => {
            String::from_utf8(encode(&other, Style::Standard, Numbers::Exact)).unwrap_or_default()
        }
    }
}

/// Reads a list of named values.
pub(crate) fn named_values(fields: &[Field<'_>]) -> Vec<NamedValue> {
    let mut values: Vec<NamedValue> = Vec::with_capacity(fields.len());
    for entry in fields.iter().filter_map(Field::object) {
        let name = entry.required("name");
        let (source, place) = source(&entry);
        entry.finish();
        if values.iter().any(|value| value.name == name) && !name.is_empty() {
            let told = Diagnostic::warning(
                "CFG-DUPLICATE",
                entry.place(),
                format!("`{name}` is given a second time; this one counts"),
            );
            entry.reader().tell(told);
        }
        values.push(NamedValue {
            name,
            source,
            place,
        });
    }
    values
}

/// Reads a single value, such as a certificate.
pub(crate) fn single_value(object: &Object<'_>) -> Option<ValueSource> {
    let (source, _) = source(object);
    object.finish();
    (source != ValueSource::Text(String::new())).then_some(source)
}

/// `auth.secretStore`, and where it stands.
pub(crate) fn secret_store(document: &Object<'_>) -> (Option<String>, Place) {
    let Some(auth) = document.object("auth") else {
        return (None, document.place());
    };
    let place = auth
        .field("secretStore")
        .map_or_else(|| auth.place(), |field| field.place());
    let store = auth.word("secretStore");
    auth.finish();
    (store, place)
}

/// Refuses secret references that lead nowhere.
pub(crate) fn check_secret_store(
    document: &Object<'_>,
    store: Option<&str>,
    sources: &[(&str, &ValueSource, Place)],
    context: &Context,
) {
    if store.is_some() || context.kubernetes {
        return;
    }
    for (name, source, place) in sources {
        if matches!(source, ValueSource::SecretKeyRef { .. }) {
            let told = Diagnostic::error(
                "CFG-SECRET",
                place.clone(),
                format!("`{name}` refers to a secret, but no store is named"),
            );
            document
                .reader()
                .tell(told.expected("the name of a secret store in `auth.secretStore`"));
        }
    }
}

/// The hash of what a resource means.
pub(crate) fn fingerprint(root: &Node) -> Fingerprint {
    let member = |name: &str| {
        let entry = root
            .as_map()?
            .iter()
            .rev()
            .find(|entry| entry.key.eq_ignore_ascii_case(name))?;
        Some((name.to_owned(), entry.value.to_json()))
    };
    let mut members: Vec<(String, Value)> = ["apiVersion", "kind", "spec", "auth", "scopes"]
        .into_iter()
        .filter_map(member)
        .collect();
    if let Some((_, metadata)) = member("metadata") {
        let annotations = metadata
            .field("annotations")
            .and_then(Value::as_object)
            .unwrap_or_default();
        let ours: Vec<(String, Value)> = annotations
            .iter()
            .filter(|(name, _)| name.starts_with("outrigger.dev/"))
            .cloned()
            .collect();
        for name in ["name", "namespace"] {
            members.extend(
                metadata
                    .field(name)
                    .map(|value| (name.to_owned(), value.clone())),
            );
        }
        members.push(("annotations".to_owned(), Value::Object(ours)));
    }
    Fingerprint::of(&encode(
        &Value::Object(members),
        Style::Standard,
        Numbers::Exact,
    ))
}
