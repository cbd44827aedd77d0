//! `secretstores.local.env`: a secret is an environment variable.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use outrigger_component_api::{
    Component, ComponentError, ComponentName, Findings, Metadata, Opener, Reader, Secret,
    SecretStore, SecretValue, Spec, async_trait,
};
use tracing::warn;

pub(crate) fn check(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn SecretStore>> {
    let mut reader = Reader::standard(&spec.properties);
    // Empty by default: names are taken as they are.
    let prefix = reader.text("prefix").unwrap_or_default();
    if !reader.finish(findings) {
        return None;
    }
    let component = spec.name.clone();
    Some(Arc::new(move |_| {
        let store: Arc<dyn SecretStore> = Arc::new(Environment {
            component: component.clone(),
            prefix: prefix.clone(),
        });
        Box::pin(std::future::ready(Ok(store)))
    }))
}

struct Environment {
    component: ComponentName,
    prefix: String,
}

#[async_trait]
impl Component for Environment {
    async fn ping(&self) -> Result<(), ComponentError> {
        Ok(())
    }

    async fn close(&self) {}
}

#[async_trait]
impl SecretStore for Environment {
    /// Never `None`: resources rely on an unset variable being an empty text.
    async fn get(
        &self,
        name: &str,
        _metadata: &Metadata,
    ) -> Result<Option<SecretValue>, ComponentError> {
        let variable = format!("{}{name}", self.prefix);
        let value = if is_withheld(&variable) {
            warn!(component = %self.component, variable, "withheld environment variable was asked for");
            OsString::new()
        } else {
            std::env::var_os(&variable).unwrap_or_default()
        };
        Ok(Some(single(name, value)))
    }

    async fn bulk_get(
        &self,
        _metadata: &Metadata,
    ) -> Result<BTreeMap<String, SecretValue>, ComponentError> {
        Ok(list(&self.prefix, std::env::vars_os()))
    }
}

// Dapr: components-contrib/secretstores/local/env/envstore.go; the rule looks at the whole name, prefix included.
fn is_withheld(variable: &str) -> bool {
    let upper = variable.to_uppercase();
    upper == "APP_API_TOKEN" || upper.starts_with("DAPR_")
}

fn list(
    prefix: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> BTreeMap<String, SecretValue> {
    variables
        .filter_map(|(variable, value)| {
            let variable = variable.to_string_lossy();
            let name = variable.strip_prefix(prefix)?;
            let is_listed = !name.is_empty() && !is_withheld(&variable);
            is_listed.then(|| (name.to_owned(), single(name, value)))
        })
        .collect()
}

fn single(name: &str, value: OsString) -> SecretValue {
    let text = match value.into_string() {
        Ok(text) => text,
        Err(value) => value.to_string_lossy().into_owned(),
    };
    SecretValue::from([(name.to_owned(), Secret::new(text))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str, variables: &[&str]) -> Vec<String> {
        let pairs = variables.iter().map(|name| (name.into(), "v".into()));
        list(prefix, pairs).into_keys().collect()
    }

    #[test]
    fn tokens_and_settings_of_the_runtime_are_withheld_in_any_case() {
        for withheld in [
            "APP_API_TOKEN",
            "app_api_token",
            "DAPR_API_TOKEN",
            "dapr_x",
            "DAPR_",
        ] {
            assert!(is_withheld(withheld), "{withheld}");
        }
        for open in ["APP_API_TOKENS", "MY_DAPR_X", "DAPR", "DAPRX"] {
            assert!(!is_withheld(open), "{open}");
        }
    }

    #[test]
    fn a_bulk_read_takes_the_prefix_away_and_leaves_withheld_variables_out() {
        let variables = [
            "A_ONE",
            "A_",
            "B_ONE",
            "DAPR_TOKEN",
            "APP_API_TOKEN",
            "a_two",
        ];
        assert_eq!(names("A_", &variables), ["ONE"]);
        assert_eq!(names("", &variables), ["A_", "A_ONE", "B_ONE", "a_two"]);
        // Judged with the prefix in front.
        assert_eq!(names("DAPR_", &variables), Vec::<String>::new());
        assert_eq!(names("APP_", &variables), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_withheld_or_unset_variable_reads_as_an_empty_text() {
        let read = async |prefix: &str, name: &str| {
            let store = Environment {
                component: ComponentName::from("env"),
                prefix: prefix.to_owned(),
            };
            let found = store.get(name, &Metadata::new()).await.unwrap().unwrap();
            found.get(name).map(|secret| secret.reveal().to_owned())
        };
        let package = || Some(env!("CARGO_PKG_NAME").to_owned());
        assert_eq!(read("", "CARGO_PKG_NAME").await, package());
        assert_eq!(read("CARGO_PKG_", "NAME").await, package());
        let empty = || Some(String::new());
        assert_eq!(read("", "OUTRIGGER_NO_SUCH_VARIABLE").await, empty());
        assert_eq!(read("DAPR_", "HOST_IP").await, empty());
        assert_eq!(read("", "").await, empty());
        assert_eq!(read("", "a=b").await, empty());
    }
}
