//! Where single values come from.

use outrigger_component_api::secret::redact_urls;
use outrigger_component_api::{Class, PropertyValue, Secret};

use super::go_quote::unquoted;
use super::{SecretRequest, Secrets, Unresolvable, text_of};
use crate::Lookup;
use crate::component::ValueSource;
use crate::diagnostic::{Diagnostic, Place, is_sensitive};
use crate::load::Context;

/// The store that answers a resource's references; in Kubernetes there is one that need not be named.
pub(super) fn store<'a>(named: Option<&'a str>, context: &Context) -> Option<&'a str> {
    named.or_else(|| context.kubernetes.then_some("kubernetes"))
}

/// Reads values one by one and gathers what is wrong.
pub(super) struct Sources<'a> {
    context: &'a Context,
    environment: Lookup<'a>,
    secrets: Secrets<'a>,
    store: Option<&'a str>,
    failures: Vec<Diagnostic>,
    class: Class,
    warnings: Vec<Diagnostic>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        context: &'a Context,
        environment: Lookup<'a>,
        secrets: Secrets<'a>,
        named_store: Option<&'a str>,
    ) -> Self {
        let store = store(named_store, context);
        Self {
            context,
            environment,
            secrets,
            store,
            failures: Vec::new(),
            class: Class::Secret,
            warnings: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Result<Vec<Diagnostic>, Unresolvable> {
        if self.failures.is_empty() {
            Ok(self.warnings)
        } else {
            Err(Unresolvable {
                class: self.class,
                diagnostics: self.failures,
            })
        }
    }

    fn is_offline(&self) -> bool {
        matches!(self.secrets, Secrets::Offline)
    }

    /// A value before its templates are filled. Values with sensitive names become secrets, wherever they come from.
    pub(super) fn value(
        &mut self,
        name: &str,
        source: &ValueSource,
        place: &Place,
    ) -> PropertyValue {
        match source {
            ValueSource::Text(text) => hidden_if_sensitive(name, text.clone()),
            ValueSource::EnvRef(variable) => self.variable(name, variable, place),
            ValueSource::SecretKeyRef { name: secret, key } => {
                self.secret(name, secret, key, place)
            }
        }
    }

    /// Dapr: pkg/runtime/processor/secret: a variable that may not be read leaves the value empty.
    fn variable(&mut self, name: &str, variable: &str, place: &Place) -> PropertyValue {
        if !is_readable(variable, self.environment) {
            let message =
                format!("`{name}` stays empty: the variable `{variable}` may not be read");
            self.warnings
                .push(Diagnostic::warning("CFG-ENV", place.clone(), message));
            return PropertyValue::Text(String::new());
        }
        match (self.environment)(variable) {
            Some(value) => hidden_if_sensitive(name, unquoted(&value).unwrap_or(value)),
            None if self.is_offline() => PropertyValue::Unresolved,
            None => {
                let message = format!("`{name}` is empty: the variable `{variable}` is not set");
                self.warnings
                    .push(Diagnostic::warning("CFG-ENV", place.clone(), message));
                PropertyValue::Text(String::new())
            }
        }
    }

    fn secret(&mut self, name: &str, secret: &str, key: &str, place: &Place) -> PropertyValue {
        let Some(store) = self.store else {
            self.class = Class::Config;
            self.fail(
                "CFG-SECRET",
                place,
                format!("`{name}` refers to a secret, but no store is named"),
            );
            return PropertyValue::Unresolved;
        };
        let Secrets::Fetched(fetched) = self.secrets else {
            return PropertyValue::Unresolved;
        };
        let request = SecretRequest {
            store: store.to_owned(),
            name: secret.to_owned(),
        };
        let value = fetched
            .values
            .get(&request)
            .and_then(|values| values.get(key));
        match value {
            Some(value) if !value.is_empty() => {
                let text = value.reveal();
                PropertyValue::Secret(Secret::new(
                    unquoted(text).unwrap_or_else(|| text.to_owned()),
                ))
            }
            Some(_) if fetched.lenient_stores.contains(store) => {
                let message =
                    format!("`{name}` is empty: store `{store}` has an empty value for `{secret}`");
                self.warnings
                    .push(Diagnostic::warning("CFG-SECRET", place.clone(), message));
                PropertyValue::Secret(Secret::default())
            }
            Some(_) => {
                self.fail(
                    "CFG-SECRET",
                    place,
                    format!(
                        "`{name}`: key `{key}` of secret `{secret}` in store `{store}` is empty"
                    ),
                );
                PropertyValue::Unresolved
            }
            None => {
                self.fail(
                    "CFG-SECRET",
                    place,
                    format!("`{name}`: store `{store}` has no secret `{secret}` with key `{key}`"),
                );
                PropertyValue::Unresolved
            }
        }
    }

    fn fail(&mut self, code: &'static str, place: &Place, message: String) {
        self.failures
            .push(Diagnostic::error(code, place.clone(), message));
    }

    /// Fills the templates of a value.
    pub(super) fn fill(
        &mut self,
        name: &str,
        value: PropertyValue,
        place: &Place,
    ) -> PropertyValue {
        let Some(text) = text_of(&value).filter(|text| text.contains('{')) else {
            return value;
        };
        let mut text = text.to_owned();
        while text.contains("{uuid}") {
            text = text.replacen("{uuid}", &uuid::Uuid::new_v4().to_string(), 1);
        }
        if text.contains("{podName}") {
            match (self.environment)("POD_NAME").filter(|pod| !pod.is_empty()) {
                Some(pod) => text = text.replace("{podName}", &pod),
                None if self.is_offline() => return PropertyValue::Unresolved,
                None => {
                    self.class = Class::Config;
                    self.fail(
                        "CFG-TEMPLATE",
                        place,
                        format!(
                            "`{name}` holds {{podName}}, but the variable `POD_NAME` is not set"
                        ),
                    );
                }
            }
        }
        let app_id = self.context.app_id.as_str();
        let namespace = self
            .context
            .namespace
            .as_ref()
            .map_or("default", |namespace| namespace.as_str());
        let text = text
            .replace("{namespace}", &format!("{namespace}.{app_id}"))
            .replace("{appID}", app_id);
        match value {
            PropertyValue::Secret(_) => PropertyValue::Secret(Secret::new(text)),
            PropertyValue::Text(_) | PropertyValue::Unresolved => PropertyValue::Text(text),
        }
    }
}

/// Passwords in URLs count as well as names that look like one.
fn hidden_if_sensitive(name: &str, text: String) -> PropertyValue {
    if is_sensitive(name) || redact_urls(&text) != text {
        PropertyValue::Secret(Secret::new(text))
    } else {
        PropertyValue::Text(text)
    }
}

/// Whether a resource may read a variable: none of the sidecar's own, and with `DAPR_ENV_KEYS` only those it lists.
fn is_readable(variable: &str, environment: Lookup<'_>) -> bool {
    let name = variable.to_uppercase();
    if name.is_empty() || name == "APP_API_TOKEN" || name.starts_with("DAPR_") || name.contains(' ')
    {
        return false;
    }
    match environment("DAPR_ENV_KEYS").filter(|keys| !keys.is_empty()) {
        Some(keys) => keys.split(' ').any(|key| key == name),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_variables_are_readable() {
        for (variable, keys, readable) in [
            ("HOME", "", true),
            ("", "", false),
            ("app_api_token", "", false),
            ("DAPR_API_TOKEN", "", false),
            ("dapr_x", "", false),
            ("A B", "", false),
            ("FOO", "FOOBAR FOO", true),
            ("FOO", "FOOBAR BAR", false),
            ("foo", "FOO", true),
        ] {
            let environment = |name: &str| (name == "DAPR_ENV_KEYS").then(|| keys.to_owned());
            assert_eq!(
                is_readable(variable, &environment),
                readable,
                "{variable} {keys}"
            );
        }
    }
}
