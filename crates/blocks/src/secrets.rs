//! Secrets, within the scopes of the Configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use outrigger_component_api::{Kind, SecretStore, SecretValue};
use outrigger_core::{ApiError, Metadata};

use crate::component::{Handle, Instance};
use crate::errors::secrets as told;
use crate::guard::Guard;
use crate::registry::Registry;

/// What of a store may be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    pub allowed_by_default: bool,
    /// Alone decides, unless empty.
    pub allowed: BTreeSet<String>,
    pub denied: BTreeSet<String>,
}

impl Scope {
    pub fn allows(&self, key: &str) -> bool {
        if !self.allowed.is_empty() {
            return self.allowed.contains(key);
        }
        !self.denied.contains(key) && self.allowed_by_default
    }
}

/// The secrets API.
#[derive(Debug)]
pub struct Secrets {
    pub registry: Arc<Registry>,
    pub guard: Guard,
    /// May change while calls are served.
    pub scopes: ArcSwap<HashMap<String, Scope>>,
}

impl Secrets {
    async fn find(&self, store: &str) -> Result<Arc<Handle<dyn SecretStore>>, ApiError> {
        if let Some(handle) = self.registry.secrets(store) {
            return Ok(handle);
        }
        self.registry.loaded(self.guard.patience).await?;
        if let Some(handle) = self.registry.secrets(store) {
            return Ok(handle);
        }
        let (metrics, prefix) = (&self.guard.metrics, Kind::Secrets.prefix());
        if let Some(refusal) = self.registry.refusal(metrics, store, prefix) {
            return Err(refusal);
        }
        let table = self.registry.table();
        let any = !table.secrets.is_empty()
            || table
                .rejected
                .iter()
                .any(|rejected| rejected.type_name.starts_with(Kind::Secrets.prefix()));
        Err(if any {
            told::not_found(store)
        } else {
            told::not_configured()
        })
    }

    fn allows(&self, store: &str, key: &str) -> bool {
        let scopes = self.scopes.load();
        scopes.get(store).is_none_or(|scope| scope.allows(key))
    }

    /// One secret. `Ok(None)`: the store has nothing to say.
    ///
    /// # Errors
    /// When it is forbidden, or the store failed.
    pub async fn get(
        &self,
        store: &str,
        key: &str,
        metadata: &Metadata,
    ) -> Result<Option<SecretValue>, ApiError> {
        let handle = self.find(store).await?;
        if !self.allows(store, key) {
            return Err(told::denied(key, store));
        }
        let get = |instance: Arc<Instance<dyn SecretStore>>| async move {
            Ok(instance.driver.get(key, metadata).await?)
        };
        let found = self.guard.call(&handle, "get", get).await;
        found.map_err(|failed| failed.told(|cause| told::get(key, store, &cause.message)))
    }

    /// Every secret that may be read.
    ///
    /// # Errors
    /// When the store failed.
    pub async fn bulk_get(
        &self,
        store: &str,
        metadata: &Metadata,
    ) -> Result<BTreeMap<String, SecretValue>, ApiError> {
        let handle = self.find(store).await?;
        let get = |instance: Arc<Instance<dyn SecretStore>>| async move {
            Ok(instance.driver.bulk_get(metadata).await?)
        };
        let found = self.guard.call(&handle, "bulk_get", get).await;
        let mut all =
            found.map_err(|failed| failed.told(|cause| told::bulk_get(store, &cause.message)))?;
        all.retain(|key, _| self.allows(store, key));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(allowed_by_default: bool, allowed: &[&str], denied: &[&str]) -> Scope {
        let set = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Scope {
            allowed_by_default,
            allowed: set(allowed),
            denied: set(denied),
        }
    }

    #[test]
    fn a_list_of_allowed_secrets_decides_alone() {
        let scope = scope(false, &["a"], &["a"]);
        assert!(scope.allows("a"));
        assert!(!scope.allows("b"));
    }

    #[test]
    fn otherwise_denied_ones_are_taken_from_the_default() {
        assert!(scope(true, &[], &["a"]).allows("b"));
        assert!(!scope(true, &[], &["a"]).allows("a"));
        assert!(!scope(false, &[], &[]).allows("b"));
    }
}
