//! Every component by name, for callers; replaced as a whole when resources change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_component_api::{PubSub, SecretStore, StateStore};
use outrigger_core::ApiError;
use tokio::sync::watch;

use crate::component::{AnyHandle, Handle, full_type};
use crate::errors;

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
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            loaded: watch::channel(false).0,
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
    pub async fn loaded(&self, patience: Duration) -> Result<(), ApiError> {
        let mut loaded = self.loaded.subscribe();
        match tokio::time::timeout(patience, loaded.wait_for(|loaded| *loaded)).await {
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
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} components)", self.table.load().all.len())
    }
}
