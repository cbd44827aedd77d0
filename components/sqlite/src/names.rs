//! `nameresolution.sqlite`: a table of sidecars that are alive.
//!
//! A sidecar writes a row with its address and refreshes it; a row that has not been refreshed for the update interval
//! counts as dead. Start at [`Resolver`]. Tests: `tests/names.rs`, and the conformance suite.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outrigger_component_api::{
    Component, ComponentError, Fault, Findings, Instance, NameResolver, Open, Opener, Resolved,
    Spec, Stop, async_trait,
};
use rusqlite::params;
use tracing::warn;
use uuid::Uuid;

use crate::cleanup::Cleanup;
use crate::database::Database;
use crate::migration::Schema;
use crate::settings::NameSettings;

/// Checks the properties of a resolver, and that the sidecar has an address to write down.
pub(crate) fn check(
    spec: &Spec,
    instance: &Instance,
    findings: &mut Findings,
) -> Option<Opener<dyn NameResolver>> {
    let settings = NameSettings::read(&spec.properties, findings);
    let missing = [
        (instance.app_id.as_str().is_empty(), "name is missing"),
        (instance.address.is_empty(), "address is missing"),
        (instance.internal_port == 0, "port is missing or invalid"),
    ];
    for (_, expected) in missing.iter().filter(|(is_missing, _)| *is_missing) {
        findings.faults.push(Fault {
            property: String::new(),
            found: None,
            expected: (*expected).to_owned(),
        });
    }
    if missing.iter().any(|(is_missing, _)| *is_missing) {
        return None;
    }
    let settings = settings?;
    let app_id = instance.app_id.to_string();
    let address = if instance.address.contains(':') && !instance.address.starts_with('[') {
        format!("[{}]:{}", instance.address, instance.internal_port)
    } else {
        format!("{}:{}", instance.address, instance.internal_port)
    };
    Some(Arc::new(move |open| {
        let (settings, app_id, address) = (settings.clone(), app_id.clone(), address.clone());
        Box::pin(async move {
            let resolver = Resolver::open(settings, app_id, address, &open).await?;
            Ok(Arc::new(resolver) as Arc<dyn NameResolver>)
        })
    }))
}

struct Resolver {
    database: Arc<Database>,
    registration: Arc<Registration>,
    resolve: String,
    update_interval: Duration,
    /// Addresses that did not answer, and since when. A row alone does not show whether its owner lives.
    suspects: Mutex<HashMap<String, Instant>>,
}

/// How long a caller may remember addresses: a query for every call would cost more than the call. One that does not
/// answer any more is asked for anew at once.
const KEEP: Duration = Duration::from_millis(500);

/// More sidecars of one app are not looked at in one resolution.
const MOST: usize = 64;

impl Resolver {
    async fn open(
        settings: NameSettings,
        app_id: String,
        address: String,
        open: &Open,
    ) -> Result<Self, ComponentError> {
        let table = &settings.table;
        let schema = Schema {
            metadata_table: settings.metadata_table.clone(),
            level_key: "nr-migrations",
            table: table.clone(),
            create: format!(
                r#"CREATE TABLE IF NOT EXISTS "{table}" (
                    registration_id TEXT NOT NULL PRIMARY KEY,
                    address TEXT NOT NULL,
                    app_id TEXT NOT NULL,
                    namespace TEXT NOT NULL,
                    last_update INTEGER NOT NULL
                );
                CREATE UNIQUE INDEX IF NOT EXISTS "{table}_address_idx" ON "{table}" (address);
                CREATE INDEX IF NOT EXISTS "{table}_last_update_idx" ON "{table}" (last_update);"#
            ),
        };
        let (in_memory, timeout) = (settings.plan.connection.in_memory, settings.plan.timeout);
        if in_memory {
            warn!("name resolution over an in-memory database finds no other sidecar");
        }
        let database = Database::open(settings.plan, open, move |connection| {
            schema.prepare(connection)
        })
        .await?;
        let registration = Arc::new(Registration {
            database: database.clone(),
            app_id,
            address,
            insert: format!(
                r#"REPLACE INTO "{table}" (registration_id, address, app_id, namespace, last_update)
                   VALUES (?, ?, ?, '', unixepoch(CURRENT_TIMESTAMP))"#
            ),
            refresh: format!(
                r#"UPDATE "{table}" SET last_update = unixepoch(CURRENT_TIMESTAMP)
                   WHERE registration_id = ? AND address = ?"#
            ),
            delete: format!(r#"DELETE FROM "{table}" WHERE registration_id = ? AND address = ?"#),
            standing: tokio::sync::Mutex::new(Standing::Absent),
        });
        registration.enter().await?;
        // Others count in whole seconds: a refresh that comes late must still find the row alive.
        let latest = settings.update_interval.saturating_sub(timeout);
        let every = latest.min(settings.update_interval / 2);
        open.scope.spawn("nameresolution.sqlite/refresh", {
            let registration = registration.clone();
            |stop| async move { registration.keep(every, stop).await }
        });
        if let Some(interval) = settings.cleanup_interval {
            // Dapr: nameresolution/sqlite deletes the rows that are alive here, and a sidecar whose row is gone ends.
            // Ours leaves everything that may still come back.
            let dead = interval
                .max(settings.update_interval.saturating_mul(10))
                .as_secs();
            let cleanup = Cleanup {
                metadata_table: settings.metadata_table,
                lease_key: "nr-last-cleanup",
                table: table.clone(),
                condition: format!("unixepoch(CURRENT_TIMESTAMP) - last_update >= {dead}"),
                interval,
            };
            let database = database.clone();
            open.scope.spawn("nameresolution.sqlite/cleanup", |stop| {
                cleanup.run(database, stop)
            });
        }
        open.scope.spawn("nameresolution.sqlite/end", {
            let (database, registration) = (database.clone(), registration.clone());
            |stop| async move {
                stop.cancelled().await;
                registration.leave().await;
                database.close().await;
            }
        });
        Ok(Self {
            database,
            registration,
            resolve: format!(
                r#"SELECT address FROM "{table}"
                   WHERE app_id = ? AND unixepoch(CURRENT_TIMESTAMP) - last_update < ?
                   ORDER BY RANDOM() LIMIT {MOST}"#
            ),
            update_interval: settings.update_interval,
            suspects: Mutex::default(),
        })
    }

    /// Addresses without those that lately did not answer, unless there are no others.
    fn trusted(&self, addresses: Vec<String>) -> Vec<String> {
        let suspects = lock(&self.suspects);
        let is_suspect = |address: &String| {
            suspects
                .get(address)
                .is_some_and(|since| since.elapsed() < self.update_interval)
        };
        if addresses.iter().all(is_suspect) {
            return addresses;
        }
        addresses
            .into_iter()
            .filter(|address| !is_suspect(address))
            .collect()
    }
}

#[async_trait]
impl Component for Resolver {
    async fn ping(&self) -> Result<(), ComponentError> {
        self.database.ping().await
    }

    async fn close(&self) {
        self.registration.leave().await;
        self.database.close().await;
    }
}

#[async_trait]
impl NameResolver for Resolver {
    /// The addresses come in random order. Namespaces are not told apart, as in Dapr.
    async fn resolve(&self, id: &str, _namespace: &str) -> Result<Resolved, ComponentError> {
        let (sql, id) = (self.resolve.clone(), id.to_owned());
        let fresh = i64::try_from(self.update_interval.as_secs()).unwrap_or(i64::MAX);
        let addresses = self
            .database
            .read(move |connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map(params![id, fresh], |row| row.get(0))?;
                Ok(rows.collect::<Result<Vec<String>, _>>()?)
            })
            .await?;
        if addresses.is_empty() {
            // Dapr: nameresolution/sqlite/sqlite.go
            return Err(ComponentError::failed("no host found with the given ID"));
        }
        Ok(Resolved {
            addresses: self.trusted(addresses),
            keep: KEEP,
        })
    }

    async fn unreachable(&self, _id: &str, _namespace: &str, address: &str) {
        let mut suspects = lock(&self.suspects);
        suspects.retain(|_, since| since.elapsed() < self.update_interval);
        suspects.insert(address.to_owned(), Instant::now());
    }

    async fn leave(&self) {
        self.registration.leave().await;
    }

    async fn join(&self) {
        self.registration.come_back().await;
    }
}

/// Our own row.
struct Registration {
    database: Arc<Database>,
    app_id: String,
    address: String,
    insert: String,
    refresh: String,
    delete: String,
    standing: tokio::sync::Mutex<Standing>,
}

enum Standing {
    Absent,
    Entered { id: String },
    Left,
}

/// After a refresh that failed, the next one comes sooner, so that the row does not grow old over one hiccup.
const AGAIN: Duration = Duration::from_millis(250);

impl Registration {
    /// Writes the row. Whoever had our address before is gone.
    async fn enter(&self) -> Result<(), ComponentError> {
        let mut standing = self.standing.lock().await;
        if matches!(*standing, Standing::Left) {
            return Ok(());
        }
        let id = Uuid::new_v4().to_string();
        self.write(
            &self.insert,
            [id.clone(), self.address.clone(), self.app_id.clone()],
        )
        .await?;
        *standing = Standing::Entered { id };
        Ok(())
    }

    /// Refreshes the row until the scope stops.
    async fn keep(&self, every: Duration, stop: Stop) {
        let mut pause = every;
        let mut is_failing = false;
        loop {
            let refreshed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                refreshed = self.wait_and_refresh(pause) => refreshed,
            };
            match refreshed {
                Ok(()) => {
                    pause = every;
                    is_failing = false;
                }
                Err(error) => {
                    if !is_failing {
                        warn!(error = %error, "host registration could not be refreshed, trying again");
                    }
                    pause = AGAIN.min(every);
                    is_failing = true;
                }
            }
        }
    }

    async fn wait_and_refresh(&self, pause: Duration) -> Result<(), ComponentError> {
        tokio::time::sleep(pause).await;
        if self.refresh().await? {
            return Ok(());
        }
        // Dapr: the process ends here; ours writes its row again.
        warn!(address = %self.address, "host registration was lost, registering again");
        self.enter().await
    }

    /// False when the row is not there any more.
    async fn refresh(&self) -> Result<bool, ComponentError> {
        let standing = self.standing.lock().await;
        match &*standing {
            Standing::Entered { id } => {
                let changed = self
                    .write(&self.refresh, [id.clone(), self.address.clone()])
                    .await?;
                Ok(changed > 0)
            }
            Standing::Absent => Ok(false),
            Standing::Left => Ok(true),
        }
    }

    /// Writes the row again after it was deleted. What fails here is made good by the next refresh.
    async fn come_back(&self) {
        {
            let mut standing = self.standing.lock().await;
            if matches!(*standing, Standing::Left) {
                *standing = Standing::Absent;
            }
        }
        if let Err(error) = self.enter().await {
            warn!(error = %error, "host registration could not be written again, trying on");
        }
    }

    /// Deletes the row, until [`Self::come_back`]. What fails here is over with the update interval.
    async fn leave(&self) {
        let mut standing = self.standing.lock().await;
        if let Standing::Entered { id } = std::mem::replace(&mut *standing, Standing::Left) {
            let deleted = self.write(&self.delete, [id, self.address.clone()]).await;
            if let Err(error) = deleted {
                warn!(error = %error, "host registration could not be deleted");
            }
        }
    }

    async fn write<const N: usize>(
        &self,
        sql: &str,
        values: [String; N],
    ) -> Result<usize, ComponentError> {
        let sql = sql.to_owned();
        self.database
            .write(move |connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                Ok(statement.execute(rusqlite::params_from_iter(&values))?)
            })
            .await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
