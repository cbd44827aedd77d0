//! `state.sqlite`.
//!
//! Reads go to any of a few threads, writes to one. Start at [`Store`].
//! Tests: `tests/state.rs`, and the conformance suite.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use outrigger_component_api::{
    Bytes, Component, ComponentError, Delete, Findings, Get, JsonForm, KeysPage, Metadata, Open,
    Opener, Operation, Set, Spec, StateFeatures, StateItem, StateStore, async_trait,
};
use rusqlite::{
    Connection, OptionalExtension as _, Row, TransactionBehavior, params, params_from_iter,
};

use crate::cleanup::Cleanup;
use crate::database::Database;
use crate::error::{Failure, closed};
use crate::group::Group;
use crate::migration::Schema;
use crate::settings::StateSettings;
use crate::write::{EXPIRED, Statements, Write};

/// Checks the properties of a state store.
pub(crate) fn check(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn StateStore>> {
    let settings = StateSettings::read(&spec.properties, findings)?;
    Some(Arc::new(move |open| {
        let settings = settings.clone();
        Box::pin(async move {
            let store = Store::open(settings, &open).await?;
            Ok(Arc::new(store) as Arc<dyn StateStore>)
        })
    }))
}

struct Store {
    database: Arc<Database>,
    sql: Arc<Statements>,
    group: Arc<Group>,
    begin: TransactionBehavior,
}

/// Placeholders in one statement of a bulk read.
const BULK: usize = 500;
/// The token of the first page: no row lies before it.
const FIRST: &str = "-9223372036854775808";

impl Store {
    async fn open(settings: StateSettings, open: &Open) -> Result<Self, ComponentError> {
        let sql = Arc::new(Statements::over(&settings.table));
        let schema = Schema {
            metadata_table: settings.metadata_table.clone(),
            level_key: "migrations",
            table: settings.table.clone(),
            create: sql.create.clone(),
        };
        let begin = settings.plan.connection.begin.into();
        let is_read_only = settings.plan.connection.read_only;
        let database = Database::open(settings.plan, open, move |connection| {
            schema.prepare(connection)
        })
        .await?;
        open.scope.spawn("state.sqlite/end", {
            let database = database.clone();
            |stop| async move {
                stop.cancelled().await;
                database.close().await;
            }
        });
        if let Some(interval) = settings.cleanup_interval.filter(|_| !is_read_only) {
            let cleanup = Cleanup {
                metadata_table: settings.metadata_table,
                lease_key: "last-cleanup",
                table: settings.table,
                condition: EXPIRED.to_owned(),
                interval,
            };
            let database = database.clone();
            open.scope
                .spawn("state.sqlite/cleanup", |stop| cleanup.run(database, stop));
        }
        Ok(Self {
            database,
            sql,
            group: Arc::default(),
            begin,
        })
    }

    async fn write(&self, write: Write) -> Result<(), ComponentError> {
        let verdict = self.group.add(write);
        let (sql, group) = (self.sql.clone(), self.group.clone());
        self.database
            .write(move |connection| group.run(connection, &sql))
            .await?;
        // That run, or one before it, took our write along.
        verdict.await.map_err(|_| closed())?
    }
}

#[async_trait]
impl Component for Store {
    async fn ping(&self) -> Result<(), ComponentError> {
        self.database.ping().await
    }

    async fn close(&self) {
        self.database.close().await;
    }
}

#[async_trait]
impl StateStore for Store {
    fn features(&self) -> StateFeatures {
        StateFeatures {
            etag: true,
            transactional: true,
            ttl: true,
            keys_like: true,
            ..StateFeatures::default()
        }
    }

    fn json_form(&self) -> JsonForm {
        JsonForm::Standard
    }

    async fn get(&self, request: &Get) -> Result<Option<StateItem>, ComponentError> {
        if request.key.is_empty() {
            return Err(ComponentError::invalid("missing key in get operation"));
        }
        let (key, sql) = (request.key.clone(), self.sql.clone());
        let found = self
            .database
            .read(move |connection| {
                let mut statement = connection.prepare_cached(&sql.get)?;
                Ok(statement.query_row([&key], Stored::read).optional()?)
            })
            .await?;
        found.map(Stored::into_item).transpose()
    }

    async fn set(&self, request: &Set) -> Result<(), ComponentError> {
        self.write(Write::set(request)?).await
    }

    async fn delete(&self, request: &Delete) -> Result<(), ComponentError> {
        self.write(Write::delete(request)?).await
    }

    /// Found keys first, in their own order; then the missing ones, in that of the request; then found ones again that
    /// were asked for again.
    async fn bulk_get(
        &self,
        requests: &[Get],
        _parallelism: usize,
    ) -> Result<Vec<(String, Result<Option<StateItem>, ComponentError>)>, ComponentError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: BTreeSet<String> = requests.iter().map(|get| get.key.clone()).collect();
        let sql = self.sql.clone();
        let found = self
            .database
            .read(move |connection| read_many(connection, &sql.bulk_get, &wanted))
            .await?;
        let mut answers: BTreeMap<String, Result<Option<StateItem>, ComponentError>> =
            BTreeMap::new();
        let mut all = Vec::with_capacity(requests.len());
        for stored in found {
            let key = stored.key.clone();
            let answer = stored.into_item().map(Some);
            answers.insert(key.clone(), answer.clone());
            all.push((key, answer));
        }
        let mut repeats = Vec::new();
        let mut seen = BTreeSet::new();
        for Get { key, .. } in requests {
            match answers.get(key) {
                None => all.push((key.clone(), Ok(None))),
                Some(_) if seen.insert(key) => {}
                Some(answer) => repeats.push((key.clone(), answer.clone())),
            }
        }
        all.append(&mut repeats);
        Ok(all)
    }

    async fn transact(
        &self,
        operations: &[Operation],
        _metadata: &Metadata,
    ) -> Result<(), ComponentError> {
        let mut writes = operations
            .iter()
            .map(Write::of)
            .collect::<Result<Vec<_>, _>>()?;
        if writes.len() < 2 {
            return match writes.pop() {
                Some(write) => self.write(write).await,
                None => Ok(()),
            };
        }
        let (sql, begin) = (self.sql.clone(), self.begin);
        self.database
            .write(move |connection| {
                // Dropped without a commit it rolls back.
                let transaction = connection.transaction_with_behavior(begin)?;
                for write in &writes {
                    write.run(&transaction, &sql)?;
                }
                transaction.commit()?;
                Ok(())
            })
            .await
    }

    async fn keys_like(
        &self,
        pattern: &str,
        page_size: Option<u32>,
        token: Option<&str>,
    ) -> Result<KeysPage, ComponentError> {
        if pattern.is_empty() {
            // Dapr: state/errors.go
            return Err(ComponentError::invalid("keys like pattern cannot be empty"));
        }
        let page_size = page_size.filter(|size| *size > 0);
        let (sql, pattern) = (self.sql.clone(), pattern.to_owned());
        let after = token.filter(|token| !token.is_empty()).unwrap_or(FIRST);
        let after = after.to_owned();
        self.database
            .read(move |connection| {
                list_keys(connection, &sql.keys_like, &pattern, page_size, &after)
            })
            .await
    }
}

fn read_many(
    connection: &mut Connection,
    sql: &str,
    wanted: &BTreeSet<String>,
) -> Result<Vec<Stored>, Failure> {
    // One snapshot for all the statements.
    let transaction = connection.transaction()?;
    let keys: Vec<&String> = wanted.iter().collect();
    let mut found = Vec::new();
    for keys in keys.chunks(BULK) {
        let places = vec!["?"; keys.len()].join(",");
        let mut statement = transaction.prepare(&format!("{sql} ({places}) ORDER BY key"))?;
        let rows = statement.query_map(params_from_iter(keys), Stored::read)?;
        for row in rows {
            found.push(row?);
        }
    }
    Ok(found)
}

fn list_keys(
    connection: &mut Connection,
    sql: &str,
    pattern: &str,
    page_size: Option<u32>,
    after: &str,
) -> Result<KeysPage, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let size = page_size.and_then(|size| usize::try_from(size).ok());
    // One more than asked for shows whether another page follows.
    let limit = page_size.map_or(-1, |size| i64::from(size) + 1);
    // The token stays text: SQLite reads a number in it as one, and finds nothing after anything else.
    let rows = statement.query_map(params![pattern, after, limit], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
    })?;
    let mut page = KeysPage::default();
    let mut last = None;
    for row in rows {
        let (key, rowid) = row?;
        if size == Some(page.keys.len()) {
            page.token = last.map(|rowid: i64| rowid.to_string());
            break;
        }
        page.keys.push(key);
        last = Some(rowid);
    }
    Ok(page)
}

/// A row, as it lies in the table.
struct Stored {
    key: String,
    value: Vec<u8>,
    is_binary: bool,
    etag: String,
    expires: Option<String>,
}

/// Go's decoder: padding is required, spare bits are not looked at.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: row.get(0)?,
            value: row.get_ref(1)?.as_bytes()?.to_vec(),
            is_binary: row.get(2)?,
            etag: row.get(3)?,
            expires: row.get(4)?,
        })
    }

    fn into_item(mut self) -> Result<StateItem, ComponentError> {
        let data = if self.is_binary {
            self.value.retain(|byte| !b"\r\n".contains(byte));
            LENIENT.decode(&self.value).map_err(|error| {
                ComponentError::failed(format!("failed to decode binary data: {error}"))
            })?
        } else {
            self.value
        };
        let expires = self.expires.map(|time| ("ttlExpireTime".to_owned(), time));
        Ok(StateItem {
            data: Bytes::from(data),
            etag: Some(self.etag),
            metadata: expires.into_iter().collect(),
        })
    }
}
