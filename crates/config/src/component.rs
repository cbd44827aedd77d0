//! The Component resource.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use outrigger_core::duration::{GoDuration, parse_go};
use outrigger_core::{ComponentName, Namespace};

use crate::diagnostic::Place;
use crate::fingerprint::Fingerprint;
use crate::load::Context;
use crate::read::{Field, Object};
use crate::resource::{self, Header, check_secret_store, fingerprint, named_values, secret_store};
use crate::yaml::Node;

/// A checked Component; what its type makes of the values is the catalog's business.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentResource {
    pub name: ComponentName,
    /// `metadata.namespace`; absent when empty.
    pub namespace: Option<Namespace>,
    /// `spec.type` as it is written, such as `state.redis`.
    pub type_name: String,
    /// `spec.version` as it is written; empty when absent.
    pub version: String,
    /// `spec.ignoreErrors`: false. The component is optional.
    pub ignore_errors: bool,
    /// `spec.initTimeout`; absent when missing, unreadable or not positive.
    pub init_timeout: Option<Duration>,
    /// `spec.metadata`, in the order of the file.
    pub values: Vec<NamedValue>,
    /// `auth.secretStore`; absent when empty.
    pub secret_store: Option<String>,
    /// App ids; empty means every app.
    pub scopes: Vec<String>,
    /// `metadata.annotations`; ours begin with `outrigger.dev/`.
    pub annotations: BTreeMap<String, String>,
    pub place: Place,
    /// Where `spec.type` stands.
    pub type_place: Place,
    /// Where `auth.secretStore` stands.
    pub secret_store_place: Place,
    pub fingerprint: Fingerprint,
}

impl ComponentResource {
    /// Reads a document whose kind and header are known. What is wrong is told to the document's reader.
    pub(crate) fn read(
        document: &Object<'_>,
        root: &Node,
        header: Header,
        context: &Context,
    ) -> Self {
        header.check_name(document, true);
        let spec = document.required_object("spec");
        let spec = spec.as_ref();
        let values = spec
            .and_then(|spec| spec.list("metadata"))
            .map(|fields| named_values(&fields))
            .unwrap_or_default();
        let (secret_store, secret_store_place) = secret_store(document);
        let sources: Vec<_> = values
            .iter()
            .map(|value| (value.name.as_str(), &value.source, value.place.clone()))
            .collect();
        check_secret_store(document, secret_store.as_deref(), &sources, context);
        let resource = Self {
            name: header.name.into(),
            namespace: header.namespace,
            type_name: spec.map(|spec| spec.required("type")).unwrap_or_default(),
            version: spec
                .and_then(|spec| spec.text("version"))
                .unwrap_or_default(),
            ignore_errors: spec
                .and_then(|spec| spec.boolean("ignoreErrors"))
                .unwrap_or(false),
            init_timeout: spec
                .and_then(|spec| spec.field("initTimeout"))
                .and_then(|field| init_timeout(&field)),
            values,
            secret_store,
            scopes: header.scopes,
            annotations: header.annotations,
            type_place: spec
                .and_then(|spec| spec.field("type"))
                .map_or_else(|| header.name_place.clone(), |field| field.place()),
            secret_store_place,
            place: header.name_place,
            fingerprint: fingerprint(root),
        };
        if let Some(spec) = spec {
            spec.finish();
        }
        document.finish();
        resource
    }

    /// Where a value stands, found without regard to case; the resource's place if there is none.
    pub fn place_of(&self, property: &str) -> &Place {
        let value = self
            .values
            .iter()
            .find(|value| value.name.eq_ignore_ascii_case(property));
        value.map_or(&self.place, |value| &value.place)
    }

    /// `outrigger.dev/<name>`.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        resource::annotation(&self.annotations, name)
    }
}

/// A time-out that cannot be used is replaced by the default, as in Dapr, but not silently.
fn init_timeout(field: &Field<'_>) -> Option<Duration> {
    let text = field.text().filter(|text| !text.is_empty())?;
    let timeout = parse_go(&text).and_then(GoDuration::positive);
    if timeout.is_none() {
        field.ignored(
            "CFG-DURATION",
            "`initTimeout` is not a positive duration, the default is used",
            "a number with a unit such as `5s`",
        );
    }
    timeout
}

/// A property and where its value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedValue {
    pub name: String,
    pub source: ValueSource,
    /// Where the value stands, or the entry when there is no value.
    pub place: Place,
}

/// Where a value comes from. Printing it shows no value, since any may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// The value as a text; numbers, booleans and JSON are written out as Dapr does.
    Text(String),
    /// `key` is never empty: it defaults to `name`.
    SecretKeyRef { name: String, key: String },
    /// The name of an environment variable.
    EnvRef(String),
}

impl fmt::Debug for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::SecretKeyRef { name, key } => write!(f, "SecretKeyRef({name}/{key})"),
            Self::EnvRef(name) => write!(f, "EnvRef({name})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{load_text, resource, told};

    fn one(spec: &str) -> ComponentResource {
        let mut loaded = load_text(&resource("Component", "c", spec));
        assert_eq!(loaded.rejected, []);
        loaded.components.remove(0)
    }

    #[test]
    fn every_field_is_read() {
        let text = resource(
            "Component",
            "c",
            "  type: state.Redis\n  version: v1\n  ignoreErrors: true\n  initTimeout: 10s\n",
        ) + "auth: {secretStore: vault}\nscopes: [app, other]\n";
        let text = text.replace(
            "  name: c",
            "  name: c\n  namespace: prod\n  annotations: {outrigger.dev/init: lazy, count: 1}",
        );
        let component = load_text(&text).components.remove(0);
        assert_eq!(component.name.as_str(), "c");
        assert_eq!(component.namespace.as_ref().unwrap().as_str(), "prod");
        assert_eq!(
            (component.type_name.as_str(), component.version.as_str()),
            ("state.Redis", "v1")
        );
        assert!(component.ignore_errors);
        assert_eq!(component.init_timeout, Some(Duration::from_secs(10)));
        assert_eq!(component.secret_store.as_deref(), Some("vault"));
        assert_eq!(component.scopes, ["app", "other"]);
        assert_eq!(
            (component.annotation("init"), component.annotation("count")),
            (Some("lazy"), None)
        );
        assert_eq!(
            (
                component.place.line,
                component.place.column,
                component.type_place.line
            ),
            (4, 9, 8)
        );
    }

    #[test]
    fn values_of_every_kind_become_the_text_that_dapr_makes_of_them() {
        for (value, text) in [
            ("plain", "plain"),
            ("'6379'", "6379"),
            ("6379", "6379"),
            ("1.50", "1.5"),
            ("1.0", "1"),
            ("010", "8"),
            ("0x10", "16"),
            ("true", "true"),
            ("yes", "true"),
            ("\"yes\"", "yes"),
            ("", ""),
            ("null", ""),
            ("{b: [1, x], a: '<'}", "{\"a\":\"\\u003c\",\"b\":[1,\"x\"]}"),
            ("'\"quoted\"'", "\"quoted\""),
            ("2024-01-01", "2024-01-01"),
            ("12345678901234567890123", "1.2345678901234568e+22"),
        ] {
            let component = one(&format!(
                "  type: t\n  metadata:\n  - name: n\n    value: {value}\n"
            ));
            assert_eq!(
                component.values[0].source,
                ValueSource::Text(text.to_owned()),
                "{value}: {:?}",
                component.values
            );
        }
    }

    #[test]
    fn a_variable_counts_only_without_a_value_and_a_secret_always() {
        let source = |entry: &str| {
            let text = resource(
                "Component",
                "c",
                &format!("  type: t\n  metadata:\n  - {{name: n, {entry}}}\n"),
            ) + "auth: {secretStore: s}\n";
            load_text(&text).components[0].values[0].source.clone()
        };
        let secret = |name: &str, key: &str| ValueSource::SecretKeyRef {
            name: name.to_owned(),
            key: key.to_owned(),
        };
        assert_eq!(source("envRef: X"), ValueSource::EnvRef("X".into()));
        assert_eq!(
            source("value: '', envRef: X"),
            ValueSource::Text(String::new())
        );
        assert_eq!(
            source("value: v, secretKeyRef: {name: a, key: k}"),
            secret("a", "k")
        );
        assert_eq!(source("secretKeyRef: {name: a}"), secret("a", "a"));
        assert_eq!(
            source("secretKeyRef: {name: a}, envRef: X"),
            ValueSource::EnvRef("X".into())
        );
        assert_eq!(
            source("secretKeyRef: {key: k}, value: v"),
            ValueSource::Text("v".into())
        );
    }

    #[test]
    fn a_time_out_that_cannot_be_used_is_left_out_with_a_warning() {
        for bad in ["5 sec", "0s", "-1s", "5"] {
            let loaded = load_text(&resource(
                "Component",
                "c",
                &format!("  type: t\n  initTimeout: {bad}\n"),
            ));
            assert_eq!(loaded.components[0].init_timeout, None, "{bad}");
            assert_eq!(
                told(&loaded.diagnostics),
                ["CFG-DURATION 7:16 spec.initTimeout"],
                "{bad}"
            );
        }
        assert_eq!(one("  type: t\n  initTimeout: ''\n").init_timeout, None);
    }

    #[test]
    fn what_cannot_be_a_component_is_rejected() {
        for (spec, place) in [
            ("  version: v1\n", "CFG-REQUIRED 6:3 spec.type"),
            (
                "  type: t\n  ignoreErrors: 'true'\n",
                "CFG-TYPE 7:17 spec.ignoreErrors",
            ),
            (
                "  type: t\n  metadata: {host: x}\n",
                "CFG-TYPE 7:13 spec.metadata",
            ),
            (
                "  type: t\n  metadata:\n  - value: x\n",
                "CFG-REQUIRED 8:5 spec.metadata[0].name",
            ),
            (
                "  type: t\n  metadata:\n  - {name: n, secretKeyRef: {name: s}}\n",
                "CFG-SECRET 8:29 spec.metadata[0].secretKeyRef",
            ),
            ("  - type: t\n", "CFG-TYPE 6:3 spec"),
        ] {
            let loaded = load_text(&resource("Component", "c", spec));
            assert_eq!(loaded.components, [], "{spec}");
            assert_eq!(loaded.rejected[0].name, "c");
            assert_eq!(told(&loaded.diagnostics), [place], "{spec}");
        }
        for name in ["a/b", "..", "a%b", "''"] {
            let loaded = load_text(&resource("Component", name, "  type: t\n"));
            assert_eq!(
                told(&loaded.diagnostics),
                ["CFG-NAME 4:9 metadata.name"],
                "{name}"
            );
        }
    }

    #[test]
    fn printing_a_component_shows_no_value() {
        let component = one("  type: t\n  metadata: [{name: password, value: hunter2}]\n");
        assert!(!format!("{component:?}").contains("hunter2"));
    }
}
