//! Opening components as the runtime does, and looking into their files.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by several test binaries, of which none uses everything"
)]

use std::path::Path;
use std::sync::Arc;

use outrigger_component_api::{
    AppId, Bytes, Catalog, Check, ComponentError, Concurrency, Consistency, Delete, Findings, Get,
    Identity, Instance, Lookup, Loss, Metadata, NameResolver, Namespace, Open, Opener, Operation,
    Properties, Property, PropertyValue, Scope, Set, Spec, StateStore, Value,
};
use rusqlite::Connection;

pub(crate) fn spec(type_name: &str, pairs: &[(&str, &str)]) -> Spec {
    let properties = pairs
        .iter()
        .map(|(name, value)| Property {
            name: (*name).to_owned(),
            value: PropertyValue::Text((*value).to_owned()),
        })
        .collect();
    Spec {
        name: "store".into(),
        type_name: type_name.to_owned(),
        version: "v1".to_owned(),
        identity: Identity {
            app_id: AppId::from("a"),
            namespace: None,
        },
        properties: Properties(properties),
    }
}

pub(crate) fn opening(scope: &Scope) -> Open {
    Open {
        scope: scope.clone(),
        loss: Loss::ignored(),
    }
}

pub(crate) fn check_state(pairs: &[(&str, &str)]) -> Result<Opener<dyn StateStore>, Vec<String>> {
    let mut catalog = Catalog::default();
    outrigger_component_sqlite::register(&mut catalog);
    let Lookup::Found(entry) = catalog.find("state.sqlite", "v1") else {
        panic!("state.sqlite is not registered");
    };
    let Check::State(check) = &entry.check else {
        panic!("state.sqlite is no state store");
    };
    let mut findings = Findings::default();
    check(&spec("state.sqlite", pairs), &mut findings)
        .ok_or_else(|| findings.faults.iter().map(ToString::to_string).collect())
}

pub(crate) fn check_names(
    pairs: &[(&str, &str)],
    instance: &Instance,
) -> Result<Opener<dyn NameResolver>, Vec<String>> {
    let mut catalog = Catalog::default();
    outrigger_component_sqlite::register(&mut catalog);
    let Lookup::Found(entry) = catalog.find("nameresolution.sqlite", "v1") else {
        panic!("nameresolution.sqlite is not registered");
    };
    let Check::Names(check) = &entry.check else {
        panic!("nameresolution.sqlite is no name resolver");
    };
    let mut findings = Findings::default();
    check(
        &spec("nameresolution.sqlite", pairs),
        instance,
        &mut findings,
    )
    .ok_or_else(|| findings.faults.iter().map(ToString::to_string).collect())
}

pub(crate) async fn try_store(
    scope: &Scope,
    pairs: &[(&str, &str)],
) -> Result<Arc<dyn StateStore>, ComponentError> {
    check_state(pairs).unwrap()(opening(scope)).await
}

/// A store in a scope of its own.
pub(crate) async fn store(pairs: &[(&str, &str)]) -> Arc<dyn StateStore> {
    try_store(&Scope::root(), pairs).await.unwrap()
}

pub(crate) async fn store_at(path: &Path) -> Arc<dyn StateStore> {
    store(&[("connectionString", path.to_str().unwrap())]).await
}

pub(crate) fn instance(app_id: &str, address: &str, port: u16) -> Instance {
    Instance {
        app_id: AppId::from(app_id),
        namespace: Namespace::from("default"),
        address: address.to_owned(),
        http_port: 3500,
        internal_port: port,
        app_port: None,
    }
}

pub(crate) fn json(key: &str, value: &str) -> Set {
    Set {
        key: key.to_owned(),
        value: Value::Json(Bytes::copy_from_slice(value.as_bytes())),
        etag: None,
        concurrency: Concurrency::Unset,
        consistency: Consistency::Unset,
        metadata: Metadata::new(),
    }
}

pub(crate) fn binary(key: &str, value: &[u8]) -> Set {
    Set {
        value: Value::Bytes(Bytes::copy_from_slice(value)),
        ..json(key, "")
    }
}

pub(crate) fn first_write(set: Set) -> Set {
    Set {
        concurrency: Concurrency::FirstWrite,
        ..set
    }
}

pub(crate) fn with_etag(set: Set, etag: &str) -> Set {
    Set {
        etag: Some(etag.to_owned()),
        ..set
    }
}

pub(crate) fn with_ttl(mut set: Set, ttl: &str) -> Set {
    set.metadata
        .insert("ttlInSeconds".to_owned(), ttl.to_owned());
    set
}

pub(crate) fn delete(key: &str, etag: Option<&str>) -> Delete {
    Delete {
        key: key.to_owned(),
        etag: etag.map(str::to_owned),
        concurrency: Concurrency::Unset,
        consistency: Consistency::Unset,
        metadata: Metadata::new(),
    }
}

pub(crate) fn op(set: Set) -> Operation {
    Operation::Set(set)
}

pub(crate) fn get(key: &str) -> Get {
    Get {
        key: key.to_owned(),
        ..Get::default()
    }
}

/// The value of a key as text.
pub(crate) async fn text(store: &Arc<dyn StateStore>, key: &str) -> Option<String> {
    let item = store.get(&get(key)).await.unwrap()?;
    Some(String::from_utf8(item.data.to_vec()).unwrap())
}

pub(crate) async fn etag(store: &Arc<dyn StateStore>, key: &str) -> String {
    store.get(&get(key)).await.unwrap().unwrap().etag.unwrap()
}

/// Rows of a query on the file itself, each as its values with bars between.
pub(crate) fn rows(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let shown = (0..columns).map(|i| match row.get_ref(i).unwrap() {
            rusqlite::types::ValueRef::Null => "null".to_owned(),
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            rusqlite::types::ValueRef::Real(number) => number.to_string(),
            rusqlite::types::ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            rusqlite::types::ValueRef::Blob(_) => "blob".to_owned(),
        });
        Ok(shown.collect::<Vec<_>>().join("|"))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Changes the file behind the component's back.
pub(crate) fn execute(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .unwrap();
    connection.execute_batch(sql).unwrap();
}
