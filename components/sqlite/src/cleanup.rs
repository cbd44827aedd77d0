//! Deletes rows that are over, from time to time.
//!
//! Sidecars that share a file take turns: who moves the time of the last cleanup forward may clean. The row is the
//! lease, so that it works between processes and with Dapr's sidecars.

use std::sync::Arc;
use std::time::Duration;

use outrigger_component_api::{ComponentError, Stop};
use rusqlite::params;
use tracing::warn;

use crate::database::Database;

/// What is cleaned, and how often.
#[derive(Clone, Debug)]
pub(crate) struct Cleanup {
    pub(crate) metadata_table: String,
    /// The row that holds the time of the last cleanup.
    pub(crate) lease_key: &'static str,
    pub(crate) table: String,
    /// Which rows are over.
    pub(crate) condition: String,
    pub(crate) interval: Duration,
}

/// Rows per transaction, so that no writer waits for long.
const BATCH: usize = 1000;
/// Timers are not exact; an interval may be this much short.
const SLACK_MS: i64 = 100;

impl Cleanup {
    /// Runs until the scope stops.
    pub(crate) async fn run(self, database: Arc<Database>, stop: Stop) {
        loop {
            let cleaned = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                cleaned = self.wait_and_clean(&database) => cleaned,
            };
            if let Err(error) = cleaned {
                warn!(table = %self.table, error = %error, "cleanup of expired rows failed");
            }
        }
    }

    async fn wait_and_clean(&self, database: &Database) -> Result<u64, ComponentError> {
        tokio::time::sleep(self.interval).await;
        self.clean(database).await
    }

    /// Cleans if nobody did within the interval. Returns how many rows went.
    pub(crate) async fn clean(&self, database: &Database) -> Result<u64, ComponentError> {
        if !self.take_lease(database).await? {
            return Ok(0);
        }
        let Self {
            table, condition, ..
        } = self;
        let sql = format!(
            r#"DELETE FROM "{table}" WHERE rowid IN (SELECT rowid FROM "{table}" WHERE {condition} LIMIT {BATCH})"#
        );
        let mut total = 0;
        loop {
            let sql = sql.clone();
            let gone = database
                .write_unbounded(move |connection| Ok(connection.execute(&sql, [])?))
                .await?;
            total += u64::try_from(gone).unwrap_or(0);
            if gone < BATCH {
                return Ok(total);
            }
        }
    }

    async fn take_lease(&self, database: &Database) -> Result<bool, ComponentError> {
        let sql = format!(
            r#"INSERT INTO "{}" (key, value) VALUES (?1, CURRENT_TIMESTAMP)
               ON CONFLICT (key) DO UPDATE SET value = CURRENT_TIMESTAMP
               WHERE (unixepoch(CURRENT_TIMESTAMP) - unixepoch(value)) * 1000 > ?2"#,
            self.metadata_table
        );
        let key = self.lease_key;
        let least = i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX) - SLACK_MS;
        database
            .write_unbounded(move |connection| {
                Ok(connection.execute(&sql, params![key, least])? > 0)
            })
            .await
    }
}
