//! Values in memory.
//!
//! [`Table`] keeps them in shards, each a map behind a mutex of its own that is held for one operation and never across
//! an await. A read takes one lock and one look-up, and clones two handles. An expired value counts as absent from the
//! moment on at which its time has passed; a task per instance collects what nobody asks for.
//!
//! Owns: tags, insertion indexes, expiry, patterns. Never: looks into a value.
//! Start at [`Store`], then `table.rs`. Tests: below each part, and the conformance suite.

mod like;
mod table;

use std::sync::Arc;
use std::time::Duration;

use outrigger_component_api::{
    Component, ComponentError, Delete, Get, KeysPage, Metadata, Operation, Scope, Set,
    StateFeatures, StateItem, StateStore, Stop, async_trait,
};

use like::Pattern;
pub(crate) use table::Table;

/// How often expired values are collected, while any value can expire.
const SWEEP: Duration = Duration::from_secs(1);

type Answer = (String, Result<Option<StateItem>, ComponentError>);

/// One instance over a table.
pub(crate) struct Store {
    table: Arc<Table>,
}

impl Store {
    pub(crate) fn open(table: Arc<Table>, scope: &Scope) -> Self {
        let swept = Arc::clone(&table);
        scope.spawn("state.in-memory.sweep", |stop| sweep(swept, stop));
        Self { table }
    }
}

/// Collects expired values; sleeps without a timer while there is nothing to collect.
async fn sweep(table: Arc<Table>, stop: Stop) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = table.has_ends() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        table.sweep();
    }
}

#[async_trait]
impl Component for Store {
    async fn ping(&self) -> Result<(), ComponentError> {
        Ok(())
    }

    async fn close(&self) {}
}

#[async_trait]
impl StateStore for Store {
    fn features(&self) -> StateFeatures {
        StateFeatures {
            etag: true,
            transactional: true,
            ttl: true,
            query: false,
            delete_with_prefix: true,
            keys_like: true,
        }
    }

    async fn get(&self, request: &Get) -> Result<Option<StateItem>, ComponentError> {
        Ok(self.table.get(&request.key))
    }

    async fn bulk_get(
        &self,
        requests: &[Get],
        _parallelism: usize,
    ) -> Result<Vec<Answer>, ComponentError> {
        let answer = |request: &Get| (request.key.clone(), Ok(self.table.get(&request.key)));
        Ok(requests.iter().map(answer).collect())
    }

    async fn set(&self, request: &Set) -> Result<(), ComponentError> {
        self.table.set(request)
    }

    async fn delete(&self, request: &Delete) -> Result<(), ComponentError> {
        self.table.delete(request)
    }

    async fn transact(
        &self,
        operations: &[Operation],
        _metadata: &Metadata,
    ) -> Result<(), ComponentError> {
        self.table.transact(operations)
    }

    async fn delete_with_prefix(&self, prefix: &str) -> Result<u64, ComponentError> {
        if prefix.is_empty() || prefix == "||" {
            // Dapr: components-contrib/state/requests.go; clients match on this text.
            return Err(ComponentError::invalid(
                "a prefix is required for deleteWithPrefix request",
            ));
        }
        Ok(if prefix.ends_with("||") {
            self.table.delete_with_prefix(prefix)
        } else {
            self.table.delete_with_prefix(&format!("{prefix}||"))
        })
    }

    async fn keys_like(
        &self,
        pattern: &str,
        page_size: Option<u32>,
        token: Option<&str>,
    ) -> Result<KeysPage, ComponentError> {
        if pattern.is_empty() {
            // Dapr: components-contrib/state/errors.go; clients match on this text.
            return Err(ComponentError::invalid("keys like pattern cannot be empty"));
        }
        let from = match token {
            None => 0,
            Some(token) => token.parse().map_err(|_| {
                ComponentError::invalid(format!("invalid continue token: {token:?}"))
            })?,
        };
        let pattern = Pattern::parse(pattern);
        let mut found = self.table.keys(from, |key| pattern.matches(key));
        // A page of no keys would never lead to its end; it counts as no page size.
        let size = page_size
            .filter(|size| *size > 0)
            .and_then(|size| usize::try_from(size).ok());
        let mut token = None;
        if let Some(size) = size {
            token = found.get(size).map(|(index, _)| index.to_string());
            found.truncate(size);
        }
        Ok(KeysPage {
            keys: found.into_iter().map(|(_, key)| key.to_string()).collect(),
            token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::{Bytes, Concurrency, Consistency, Value};

    fn set(key: &str) -> Set {
        Set {
            key: key.to_owned(),
            value: Value::Json(Bytes::from_static(b"1")),
            etag: None,
            concurrency: Concurrency::Unset,
            consistency: Consistency::Unset,
            metadata: Metadata::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn expired_values_are_collected_though_nobody_asks_for_them() {
        let (table, scope) = (Arc::new(Table::default()), Scope::root());
        let store = Store::open(Arc::clone(&table), &scope);
        for (key, ttl) in [("short", "1"), ("long", "10"), ("lasting", "0")] {
            let mut set = set(key);
            set.metadata.insert("ttlInSeconds".into(), ttl.into());
            store.set(&set).await.unwrap();
        }
        for (seconds, left) in [(0, 3), (3, 2), (9, 1), (100, 1)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(table.len(), left, "after {seconds} more seconds");
        }
        assert!(scope.close(SWEEP).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_value_is_absent_everywhere_before_it_is_collected() {
        let (table, scope) = (Arc::new(Table::default()), Scope::root());
        let store = Store::open(Arc::clone(&table), &scope);
        // Nobody collects from here on.
        assert!(scope.close(SWEEP).await.is_empty());
        let mut living = set("p||k");
        living.metadata.insert("ttlInSeconds".into(), "1".into());
        let get = Get {
            key: living.key.clone(),
            ..Get::default()
        };
        store.set(&living).await.unwrap();
        let tag = store.get(&get).await.unwrap().unwrap().etag;
        tokio::time::advance(SWEEP).await;
        assert!(
            store.get(&get).await.unwrap().is_some(),
            "to the last moment"
        );
        tokio::time::advance(Duration::from_millis(1)).await;

        assert_eq!(table.len(), 1);
        assert_eq!(store.get(&get).await.unwrap(), None);
        let bulk = store.bulk_get(std::slice::from_ref(&get), 1).await;
        assert_eq!(bulk.unwrap(), [(get.key.clone(), Ok(None))]);
        let page = store.keys_like("%", None, None).await.unwrap();
        assert_eq!(page.keys, Vec::<String>::new());
        assert_eq!(store.delete_with_prefix("p").await, Ok(0));
        let mut tagged = set("p||k");
        tagged.etag = tag;
        assert!(store.set(&tagged).await.unwrap_err().is_etag());
        let mut first = set("p||k");
        first.concurrency = Concurrency::FirstWrite;
        store.set(&first).await.unwrap();
        let item = store.get(&get).await.unwrap().unwrap();
        assert_eq!(item.metadata, Metadata::new());
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_and_deleted_values_leave_no_end_behind() {
        let (table, scope) = (Arc::new(Table::default()), Scope::root());
        let store = Store::open(Arc::clone(&table), &scope);
        let mut living = set("k");
        living.metadata.insert("ttlInSeconds".into(), "1000".into());
        for _ in 0..3 {
            store.set(&living).await.unwrap();
        }
        assert_eq!(table.ends(), 1);
        store.set(&set("k")).await.unwrap();
        assert_eq!(table.ends(), 0);
        let far = ["9223372036854775807", "-9223372036854775808"];
        for seconds in far {
            living
                .metadata
                .insert("ttlInSeconds".into(), seconds.into());
            store.set(&living).await.unwrap();
            assert_eq!(table.ends(), 0, "{seconds}");
        }
        let wrong = Operation::Set(Set {
            etag: Some("x".to_owned()),
            ..set("k")
        });
        living.metadata.insert("ttlInSeconds".into(), "10".into());
        let operations = [Operation::Set(living), wrong];
        assert!(store.transact(&operations, &Metadata::new()).await.is_err());
        assert_eq!(table.ends(), 0);
        let get = Get {
            key: "k".to_owned(),
            ..Get::default()
        };
        let item = store.get(&get).await.unwrap().unwrap();
        assert_eq!(item.metadata, Metadata::new(), "rolled back");
    }

    #[tokio::test]
    async fn a_refused_tag_is_explained_as_in_dapr() {
        let store = Store::open(Arc::default(), &Scope::root());
        let tagged = Set {
            etag: Some("x".to_owned()),
            ..set("k")
        };
        let text = async |set: &Set| store.set(set).await.unwrap_err().message;
        let prefix = "possible etag mismatch. error from state store";
        assert_eq!(
            text(&tagged).await,
            format!("{prefix}: state not exist or expired for key=k")
        );
        store.set(&set("k")).await.unwrap();
        let get = Get {
            key: "k".to_owned(),
            ..Get::default()
        };
        let current = store.get(&get).await.unwrap().unwrap().etag.unwrap();
        assert_eq!(
            text(&tagged).await,
            format!("{prefix}: state etag not match for key=k: current={current}, expect=x")
        );
        let first = Set {
            concurrency: Concurrency::FirstWrite,
            ..set("k")
        };
        assert_eq!(
            text(&first).await,
            format!("{prefix}: item already exists and no etag was passed")
        );
    }

    #[tokio::test]
    async fn keys_are_listed_in_the_order_of_their_last_write() {
        let store = Store::open(Arc::default(), &Scope::root());
        for key in ["c", "a", "b", "a"] {
            store.set(&set(key)).await.unwrap();
        }
        let page = store.keys_like("%", None, None).await.unwrap();
        assert_eq!(page.keys, ["c", "b", "a"]);
        let page = store.keys_like("%", Some(1), None).await.unwrap();
        assert_eq!(page.token.as_deref(), Some("2"));
        let page = store.keys_like("%", Some(2), Some("2")).await.unwrap();
        assert_eq!(
            (page.keys, page.token),
            (vec!["b".into(), "a".into()], None)
        );
        let page = store.keys_like("%", Some(0), None).await.unwrap();
        assert_eq!((page.keys.len(), page.token), (3, None));
        assert!(store.keys_like("%", None, Some("x")).await.is_err());
    }
}
