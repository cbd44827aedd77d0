//! State: values under keys.
//!
//! A request goes: find the store, qualify the key, seal the value, ask the store, open the answer. Both APIs call the
//! same verbs of [`OpenStore`]; they differ only in how values come in ([`NewValue`]).

mod keys;
mod seal;
mod value;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use outrigger_component_api::{
    ComponentError, Concurrency, Consistency, Delete, ErrorKind, Get, Operation, Set, StateItem,
    StateStore, Value,
};
use outrigger_core::{ApiError, AppId, Metadata};

pub use keys::KeyPrefix;
pub use seal::Seal;
pub use value::{NewValue, Numbers};

use crate::component::{Handle, Instance};
use crate::errors::state as told;
use crate::guard::{Failed, Guard};
use crate::registry::Registry;

/// The state API.
#[derive(Debug)]
pub struct State {
    pub registry: Arc<Registry>,
    pub guard: Guard,
    pub app_id: AppId,
    pub numbers: Numbers,
}

/// A value to be written.
#[derive(Clone, Debug)]
pub struct Save {
    pub key: String,
    pub value: NewValue,
    pub etag: Option<String>,
    /// Words as they came; unknown ones fail the write.
    pub concurrency: String,
    pub consistency: String,
    pub metadata: Metadata,
}

/// A key to be removed.
#[derive(Clone, Debug, Default)]
pub struct Remove {
    pub key: String,
    pub etag: Option<String>,
    pub concurrency: String,
    pub consistency: String,
    pub metadata: Metadata,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Change {
    Upsert(Save),
    Delete(Remove),
}

/// One key's part of a bulk read.
#[derive(Clone, Debug, PartialEq)]
pub struct BulkItem {
    pub key: String,
    pub outcome: Result<StateItem, String>,
}

type Store = Instance<dyn StateStore>;

/// A store that was found. Its verbs wait for the store where needed.
#[derive(Clone, Debug)]
pub struct OpenStore<'a> {
    state: &'a State,
    handle: Arc<Handle<dyn StateStore>>,
}

impl State {
    /// Finds a store by name.
    ///
    /// # Errors
    /// When there is none of that name, none at all, or only a rejected one.
    pub async fn find(&self, store: &str) -> Result<OpenStore<'_>, ApiError> {
        if let Some(handle) = self.registry.state(store) {
            return Ok(OpenStore {
                state: self,
                handle,
            });
        }
        self.registry.loaded(self.guard.patience).await?;
        if let Some(handle) = self.registry.state(store) {
            return Ok(OpenStore {
                state: self,
                handle,
            });
        }
        let metrics = &self.guard.metrics;
        if let Some(refusal) = self.registry.refusal(metrics, store, "state.") {
            return Err(refusal);
        }
        let table = self.registry.table();
        let any = !table.state.is_empty()
            || table
                .rejected
                .iter()
                .any(|rejected| rejected.type_name.starts_with("state."));
        let app_id = Some(self.app_id.as_str());
        Err(if any {
            told::not_found(store, app_id)
        } else {
            told::not_configured(store, app_id)
        })
    }
}

impl OpenStore<'_> {
    fn name(&self) -> &str {
        self.handle.name.as_str()
    }

    async fn ready(&self) -> Result<Arc<Instance<dyn StateStore>>, ApiError> {
        self.state.guard.ready(&self.handle).await
    }

    fn check_key(&self, key: &str) -> Result<(), ApiError> {
        if keys::is_legal(key) {
            Ok(())
        } else {
            Err(told::illegal_key(self.name(), key))
        }
    }

    /// Reads one value. `Ok(None)`: there is no such key.
    ///
    /// # Errors
    /// `ERR_STATE_GET`, or why the store was not asked.
    pub async fn get(
        &self,
        key: &str,
        consistency: &str,
        metadata: Metadata,
    ) -> Result<Option<StateItem>, ApiError> {
        self.check_key(key)?;
        // Dapr: an unknown word is no error on a read.
        let consistency = Consistency::parse(consistency).unwrap_or_default();
        let get = |instance: Arc<Store>| {
            let request = Get {
                key: instance.about.keys.qualify(self.name(), key),
                consistency,
                metadata: metadata.clone(),
            };
            async move {
                let item = instance.driver.get(&request).await?;
                Ok((item, instance))
            }
        };
        let found = self.state.guard.call(&self.handle, "get", get).await;
        let (item, instance) = found
            .map_err(|failed| failed.told(|cause| told::get(self.name(), key, &cause.message)))?;
        match (item, &instance.about.seal) {
            (Some(item), Some(seal)) => {
                let data = seal
                    .open(self.name(), &item.data)
                    .map_err(|cause| told::get(self.name(), key, &cause))?;
                Ok(Some(StateItem { data, ..item }))
            }
            (item, _) => Ok(item),
        }
    }

    /// Reads several values; a key's own failure is part of its result.
    ///
    /// # Errors
    /// `ERR_STATE_BULK_GET`, or why the store was not asked.
    pub async fn bulk_get(
        &self,
        keys: &[String],
        parallelism: i64,
        metadata: &Metadata,
    ) -> Result<Vec<BulkItem>, ApiError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        keys.iter().try_for_each(|key| self.check_key(key))?;
        let parallelism = usize::try_from(parallelism)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX);
        let bulk_get = |instance: Arc<Store>| {
            let request = |key: &String| Get {
                key: instance.about.keys.qualify(self.name(), key),
                consistency: Consistency::Unset,
                metadata: metadata.clone(),
            };
            let requests: Vec<Get> = keys.iter().map(request).collect();
            async move {
                let found = instance.driver.bulk_get(&requests, parallelism).await?;
                Ok((found, instance))
            }
        };
        let found = self
            .state
            .guard
            .call(&self.handle, "bulk_get", bulk_get)
            .await;
        let (found, instance) =
            found.map_err(|failed| failed.told(|cause| told::bulk_get(&cause.message)))?;
        let open = |(key, outcome): (String, Result<Option<StateItem>, ComponentError>)| {
            let outcome = outcome.map_err(|error| error.message).and_then(|item| {
                let item = item.unwrap_or_default();
                match &instance.about.seal {
                    Some(seal) if !item.data.is_empty() => seal
                        .open(self.name(), &item.data)
                        .map(|data| StateItem { data, ..item }),
                    _ => Ok(item),
                }
            });
            BulkItem {
                key: keys::original(&key).to_owned(),
                outcome,
            }
        };
        Ok(found.into_iter().map(open).collect())
    }

    /// Writes values; several are written independently of each other.
    ///
    /// # Errors
    /// `ERR_STATE_SAVE`, or why the store was not asked.
    pub async fn save(&self, items: Vec<Save>) -> Result<(), ApiError> {
        if items.is_empty() {
            return Ok(());
        }
        items
            .iter()
            .try_for_each(|item| self.check_key(&item.key))?;
        let batch = Batch::new(items.len());
        let write = |instance: Arc<Store>| {
            let (batch, items) = (&batch, &items);
            async move {
                let pending = batch.pending();
                let requests: Result<Vec<Set>, ComponentError> = pending
                    .iter()
                    .filter_map(|place| items.get(*place))
                    .map(|item| self.set_request(&instance, item))
                    .collect();
                let requests = requests?;
                let outcomes =
                    join_all(requests.iter().map(|request| instance.driver.set(request))).await;
                batch.settle(&pending, outcomes)
            }
        };
        let outcome = self.state.guard.call(&self.handle, "set", write).await;
        outcome
            .and_then(|()| batch.verdict())
            .map_err(|failed| failed.told(|cause| told::save(self.name(), cause)))
    }

    /// Removes a key. An absent one without entity tag is no error.
    ///
    /// # Errors
    /// `ERR_STATE_DELETE`, or why the store was not asked.
    pub async fn delete(&self, item: Remove) -> Result<(), ApiError> {
        self.check_key(&item.key)?;
        let remove = |instance: Arc<Store>| {
            let request = self.delete_request(&instance, &item);
            async move { Ok(instance.driver.delete(&request?).await?) }
        };
        let outcome = self.state.guard.call(&self.handle, "delete", remove).await;
        outcome.map_err(|failed| failed.told(|cause| told::delete(&item.key, cause)))
    }

    /// Removes several keys independently of each other.
    ///
    /// # Errors
    /// `ERR_STATE_BULK_DELETE`, or why the store was not asked.
    pub async fn bulk_delete(&self, items: Vec<Remove>) -> Result<(), ApiError> {
        items
            .iter()
            .try_for_each(|item| self.check_key(&item.key))?;
        let batch = Batch::new(items.len());
        let remove = |instance: Arc<Store>| {
            let (batch, items) = (&batch, &items);
            async move {
                let pending = batch.pending();
                let requests: Result<Vec<Delete>, ComponentError> = pending
                    .iter()
                    .filter_map(|place| items.get(*place))
                    .map(|item| self.delete_request(&instance, item))
                    .collect();
                let requests = requests?;
                let deletes = requests
                    .iter()
                    .map(|request| instance.driver.delete(request));
                batch.settle(&pending, join_all(deletes).await)
            }
        };
        let outcome = self
            .state
            .guard
            .call(&self.handle, "bulk_delete", remove)
            .await;
        outcome
            .and_then(|()| batch.verdict())
            .map_err(|failed| failed.told(|cause| told::bulk_delete(self.name(), cause)))
    }

    /// Whether the store can do transactions at all.
    ///
    /// # Errors
    /// When it cannot, or is not ready to tell.
    pub async fn require_transactions(&self) -> Result<(), ApiError> {
        let instance = self.ready().await?;
        if instance.driver.features().transactional {
            Ok(())
        } else {
            Err(told::transactions_not_supported(self.name()))
        }
    }

    /// Applies changes in order, as one where the store can.
    ///
    /// # Errors
    /// `ERR_STATE_TRANSACTION`, or why the store was not asked.
    pub async fn transact(
        &self,
        changes: Vec<Change>,
        metadata: &Metadata,
    ) -> Result<(), ApiError> {
        let key = |change: &Change| match change {
            Change::Upsert(item) => self.check_key(&item.key),
            Change::Delete(item) => self.check_key(&item.key),
        };
        changes.iter().try_for_each(key)?;
        let apply = |instance: Arc<Store>| {
            let changes = &changes;
            async move {
                if !instance.driver.features().transactional {
                    return Err(told::transactions_not_supported(self.name()).into());
                }
                if let Some(max) = instance
                    .driver
                    .max_transaction_size()
                    .filter(|max| changes.len() > *max)
                {
                    return Err(told::too_many_operations(self.name(), changes.len(), max).into());
                }
                let request = |change: &Change| match change {
                    Change::Upsert(item) => self.set_request(&instance, item).map(Operation::Set),
                    Change::Delete(item) => {
                        self.delete_request(&instance, item).map(Operation::Delete)
                    }
                };
                let operations: Result<Vec<Operation>, ComponentError> =
                    changes.iter().map(request).collect();
                Ok(instance.driver.transact(&operations?, metadata).await?)
            }
        };
        let outcome = self
            .state
            .guard
            .call(&self.handle, "transaction", apply)
            .await;
        outcome.map_err(|failed| failed.told(told::transaction))
    }

    /// Queries are not offered by any store yet.
    pub async fn query(&self) -> ApiError {
        match self.ready().await {
            Ok(instance) => match instance.driver.query_needs() {
                Some(cause) => told::query(self.name(), cause),
                None => told::query_not_supported(self.name()),
            },
            Err(error) => error,
        }
    }

    fn set_request(
        &self,
        instance: &Instance<dyn StateStore>,
        item: &Save,
    ) -> Result<Set, ComponentError> {
        let value = match &instance.about.seal {
            Some(seal) => Value::Bytes(seal.close(&item.value.to_plain())),
            None => item
                .value
                .to_stored(instance.driver.json_form(), self.state.numbers),
        };
        Ok(Set {
            key: instance.about.keys.qualify(self.name(), &item.key),
            value,
            etag: item.etag.clone().filter(|etag| !etag.is_empty()),
            consistency: Consistency::parse(&item.consistency)?,
            concurrency: Concurrency::parse(&item.concurrency)?,
            metadata: item.metadata.clone(),
        })
    }

    fn delete_request(
        &self,
        instance: &Instance<dyn StateStore>,
        item: &Remove,
    ) -> Result<Delete, ComponentError> {
        Ok(Delete {
            key: instance.about.keys.qualify(self.name(), &item.key),
            etag: item.etag.clone().filter(|etag| !etag.is_empty()),
            consistency: Consistency::parse(&item.consistency)?,
            concurrency: Concurrency::parse(&item.concurrency)?,
            metadata: item.metadata.clone(),
        })
    }
}

/// Independent operations that are tried until none is left that another attempt could help.
struct Batch(Mutex<Progress>);

struct Progress {
    /// Places of those that are still to be tried.
    pending: Vec<usize>,
    /// Of those that no further attempt can help.
    settled: Vec<ComponentError>,
    /// A single one keeps its error as it is.
    is_single: bool,
}

impl Batch {
    fn new(count: usize) -> Self {
        Self(Mutex::new(Progress {
            pending: (0..count).collect(),
            settled: Vec::new(),
            is_single: count == 1,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> Vec<usize> {
        self.lock().pending.clone()
    }

    /// Takes the outcomes of one attempt. What failed on its entity tag is not tried again.
    fn settle(
        &self,
        places: &[usize],
        outcomes: Vec<Result<(), ComponentError>>,
    ) -> Result<(), Failed> {
        let mut progress = self.lock();
        progress.pending.clear();
        let mut failed = Vec::new();
        for (place, outcome) in places.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {}
                Err(error) if error.is_etag() => progress.settled.push(error),
                Err(error) => {
                    progress.pending.push(*place);
                    failed.push(error);
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        // Until the end, whose words name everything that failed.
        let mut all = progress.settled.clone();
        all.append(&mut failed);
        Err(joined(all, progress.is_single).into())
    }

    /// After the last attempt: entity tags that did not fit.
    fn verdict(&self) -> Result<(), Failed> {
        let progress = self.lock();
        if progress.settled.is_empty() {
            return Ok(());
        }
        Err(joined(progress.settled.clone(), progress.is_single).into())
    }
}

/// The errors of independent operations: a single one keeps its error; several errors become one text.
fn joined(errors: Vec<ComponentError>, is_single: bool) -> ComponentError {
    let mut errors = errors;
    if is_single && let Some(only) = errors.pop() {
        return only;
    }
    let first = errors.first().map_or(ErrorKind::Failed, |error| error.kind);
    let text = errors
        .iter()
        .map(|error| error.message.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    if let Some(broken) = errors.iter().find(|error| error.doubts_connection()) {
        return ComponentError::new(broken.kind, text);
    }
    // Dapr: pkg/components/state/bulk.go names the kind in front when nothing but entity tags failed.
    if errors.iter().all(ComponentError::is_etag) {
        let invalid = errors
            .iter()
            .any(|error| error.kind == ErrorKind::EtagInvalid);
        let (kind, words) = if invalid {
            (ErrorKind::EtagInvalid, "invalid etag value")
        } else {
            (first, "possible etag mismatch. error from state store")
        };
        return ComponentError::new(kind, format!("{words}: {text}"));
    }
    ComponentError::new(ErrorKind::Failed, text)
}

/// So that callers can match on it.
pub type CallFailed = Failed;
