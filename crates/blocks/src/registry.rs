//! Every component by name, for callers; replaced as a whole when resources change.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use outrigger_component_api::{PubSub, SecretStore, StateStore};
use outrigger_core::ApiError;
use outrigger_lifecycle::connection::State;
use outrigger_telemetry::Metrics;
use tokio::sync::watch;

use crate::component::{AnyHandle, Handle, full_type, record_state_of};
use crate::errors;
use crate::waiting::Patience;

/// A resource that exists and cannot be used as it is written.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The component's name, or the file and line of what has none.
    pub name: String,
    /// `state.redis`; empty where it is not known.
    pub type_name: String,
    /// `v1`, or empty where the resource has none.
    pub version: String,
    pub reason: String,
    /// `ignoreErrors`: never counts for strictness, deadlines or readiness.
    pub optional: bool,
    /// The sidecar is ready with it only, by an annotation.
    pub required: bool,
}

impl Rejected {
    /// `state.redis/v1`; empty where the type is not known.
    pub fn full_type(&self) -> String {
        if self.type_name.is_empty() {
            String::new()
        } else {
            full_type(&self.type_name, &self.version)
        }
    }
}

/// What is configured now.
#[derive(Default)]
pub struct Table {
    pub state: HashMap<String, Arc<Handle<dyn StateStore>>>,
    pub pubsub: HashMap<String, Arc<Handle<dyn PubSub>>>,
    pub secrets: HashMap<String, Arc<Handle<dyn SecretStore>>>,
    /// All of them, in the order of their resources.
    pub all: Vec<AnyHandle>,
    /// Those of the components in scope that never got a handle.
    pub rejected: Vec<Rejected>,
}

/// The components of this sidecar.
pub struct Registry {
    table: ArcSwap<Table>,
    loaded: watch::Sender<bool>,
    /// Name and type of whatever the metrics show as rejected without a handle.
    shown: Mutex<HashSet<Series>>,
}

/// Name and type: what tells one component's state from another's in the metrics.
type Series = (String, String);

impl Default for Registry {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            loaded: watch::channel(false).0,
            shown: Mutex::default(),
        }
    }
}

impl Registry {
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Puts a new table in place. From the first time on, an absent name is really absent.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
        self.loaded.send_replace(true);
    }

    /// Waits until resources have been read, for a moment at most.
    ///
    /// # Errors
    /// When they have not been read in time.
    pub async fn loaded(&self, patience: Patience) -> Result<(), ApiError> {
        if self.is_loaded() {
            return Ok(());
        }
        let mut loaded = self.loaded.subscribe();
        match tokio::time::timeout(patience.of_caller().wait, loaded.wait_for(|loaded| *loaded))
            .await
        {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(errors::component::starting()),
        }
    }

    pub fn is_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    /// A state store by name; `None` when no resource of that name exists.
    pub fn state(&self, name: &str) -> Option<Arc<Handle<dyn StateStore>>> {
        self.table.load().state.get(name).cloned()
    }

    pub fn pubsub(&self, name: &str) -> Option<Arc<Handle<dyn PubSub>>> {
        self.table.load().pubsub.get(name).cloned()
    }

    pub fn secrets(&self, name: &str) -> Option<Arc<Handle<dyn SecretStore>>> {
        self.table.load().secrets.get(name).cloned()
    }

    /// What to tell of a name under which only a rejected resource exists.
    pub fn rejection(&self, name: &str, prefix: &str) -> Option<ApiError> {
        let table = self.table.load();
        let rejected = table
            .rejected
            .iter()
            .find(|rejected| rejected.name == name && rejected.type_name.starts_with(prefix))?;
        Some(errors::component::rejected(
            &rejected.name,
            &rejected.full_type(),
            &rejected.reason,
        ))
    }

    /// The same for a call, which is counted as refused.
    pub fn refusal(&self, metrics: &Metrics, name: &str, prefix: &str) -> Option<ApiError> {
        let refusal = self.rejection(name, prefix)?;
        metrics
            .component_rejected_calls
            .add([name, &refusal.tag], 1);
        Some(refusal)
    }

    /// Shows in the metrics what was rejected without a handle, and takes back what is so no more. A second definition
    /// shares the series of the first, so this is done whenever metrics are read.
    pub(crate) fn show_rejected(&self, metrics: &Metrics) {
        let table = self.table();
        let of = |handle: &AnyHandle| {
            let info = handle.info();
            (info.name.to_string(), info.type_name.clone())
        };
        let rejected = table.rejected.iter();
        let now: HashSet<Series> = rejected
            .map(|rejected| (rejected.name.clone(), rejected.type_name.clone()))
            .collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for series in now.union(&shown) {
            let (name, type_name) = (series.0.as_str(), series.1.as_str());
            let handle = table.all.iter().find(|handle| of(handle) == *series);
            let state = handle.map(|handle| handle.status().state);
            let is_rejected = now.contains(series);
            record_state_of(
                metrics,
                name,
                type_name,
                match state {
                    None => is_rejected.then_some(State::Rejected),
                    state => state,
                },
            );
            if is_rejected {
                let labels = [name, type_name, State::Rejected.name()];
                metrics.component_state.set(labels, 1.0);
            }
        }
        *shown = now;
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} components)", self.table.load().all.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_telemetry::metrics::Settings;

    fn rejected(name: &str) -> Rejected {
        Rejected {
            name: name.to_owned(),
            type_name: "state.redsi".to_owned(),
            version: String::new(),
            reason: "is unknown".to_owned(),
            optional: false,
            required: false,
        }
    }

    fn table(names: &[&str]) -> Table {
        Table {
            rejected: names.iter().map(|name| rejected(name)).collect(),
            ..Table::default()
        }
    }

    #[test]
    fn what_is_rejected_without_a_handle_is_shown_until_it_is_gone() {
        let (metrics, registry) = (Metrics::new(Settings::new("a")), Registry::default());
        let shows = |name: &str, state: &str, value: u8| {
            let line = format!(
                "outrigger_component_state{{app_id=\"a\",component=\"{name}\",state=\"{state}\",type=\"state.redsi\"}} {value}\n"
            );
            registry.show_rejected(&metrics);
            metrics.text().contains(&line)
        };
        registry.replace(table(&["a", "b"]));
        assert!(shows("a", "rejected", 1) && shows("b", "rejected", 1));
        assert!(shows("a", "ready", 0));
        registry.replace(table(&["b"]));
        assert!(shows("a", "rejected", 0) && shows("b", "rejected", 1));
    }

    #[test]
    fn a_call_that_is_refused_is_counted() {
        let (metrics, registry) = (Metrics::new(Settings::new("a")), Registry::default());
        registry.replace(table(&["store"]));
        assert!(registry.refusal(&metrics, "store", "pubsub.").is_none());
        let refusal = registry.refusal(&metrics, "store", "state.").unwrap();
        assert!(refusal.message.contains("store (state.redsi/v1)"));
        let is_own = |labels: &[String]| labels == ["store", "ERR_COMPONENT_REJECTED"];
        assert_eq!(metrics.component_rejected_calls.total(is_own), 1);
        assert_eq!(metrics.component_rejected_calls.total(|_| true), 1);
    }
}
