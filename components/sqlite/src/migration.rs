//! Brings a database to the level that a building block needs.
//!
//! The level is a row of the metadata table. Everything happens in one exclusive transaction, so that sidecars that
//! start together wait for each other. A level above ours was written by a newer sidecar and is left alone.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::error::Failure;
use outrigger_component_api::ComponentError;

/// The tables of one building block.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub(crate) metadata_table: String,
    /// The row that holds the level.
    pub(crate) level_key: &'static str,
    pub(crate) table: String,
    /// Creates the table, and does nothing where it is there.
    pub(crate) create: String,
}

/// The level that `create` leads to.
const LEVEL: i64 = 1;

impl Schema {
    /// # Errors
    /// When the tables cannot be made, or the level is not readable as one.
    pub(crate) fn prepare(&self, connection: &mut Connection) -> Result<(), Failure> {
        if self.is_current(connection)? {
            return Ok(());
        }
        if connection.is_readonly("main")? {
            let error = ComponentError::failed(format!(
                "the database is read-only and has no usable table `{}`",
                self.table
            ));
            return Err(error.into());
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        self.migrate(&transaction)?;
        transaction.commit()?;
        Ok(())
    }

    /// Looks without a lock that others would feel.
    fn is_current(&self, connection: &Connection) -> Result<bool, Failure> {
        if !has_table(connection, &self.metadata_table)? {
            return Ok(false);
        }
        let level = self.level(connection)?;
        Ok(level > LEVEL || (level == LEVEL && has_table(connection, &self.table)?))
    }

    fn migrate(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let Self {
            metadata_table,
            level_key,
            ..
        } = self;
        if !has_table(transaction, metadata_table)? {
            transaction.execute_batch(&format!(
                r#"CREATE TABLE IF NOT EXISTS "{metadata_table}" (
                    key text NOT NULL PRIMARY KEY,
                    value text NOT NULL
                )"#
            ))?;
        }
        let level = self.level(transaction)?;
        // Another component may share the metadata table and have written the level for a table of its own.
        if level <= LEVEL {
            transaction.execute_batch(&self.create)?;
        }
        if level < LEVEL {
            let sql = format!(r#"REPLACE INTO "{metadata_table}" (key, value) VALUES (?, ?)"#);
            transaction.execute(&sql, params![level_key, LEVEL.to_string()])?;
        }
        Ok(())
    }

    fn level(&self, connection: &Connection) -> Result<i64, Failure> {
        let sql = format!(
            r#"SELECT value FROM "{}" WHERE key = ?"#,
            self.metadata_table
        );
        let found: Option<String> = connection
            .query_row(&sql, [self.level_key], |row| row.get(0))
            .optional()?;
        let Some(text) = found else {
            return Ok(0);
        };
        match text.parse() {
            Ok(level) if level >= 0 => Ok(level),
            // Dapr: common/component/sql/migrations.go
            _ => Err(ComponentError::failed(format!(
                "invalid migration level found in metadata table: {text}"
            ))
            .into()),
        }
    }
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE)",
        [name],
        |row| row.get(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(table: &str) -> Schema {
        Schema {
            metadata_table: "metadata".into(),
            level_key: "migrations",
            table: table.into(),
            create: format!(r#"CREATE TABLE IF NOT EXISTS "{table}" (key TEXT)"#),
        }
    }

    fn level(connection: &Connection) -> String {
        connection
            .query_row("SELECT value FROM metadata", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn a_fresh_database_gets_both_tables_and_its_level() {
        let mut connection = Connection::open_in_memory().unwrap();
        for _ in 0..2 {
            schema("state").prepare(&mut connection).unwrap();
            assert_eq!(level(&connection), "1");
            assert!(has_table(&connection, "state").unwrap());
        }
    }

    #[test]
    fn a_table_that_was_there_before_is_kept() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE state (key TEXT); INSERT INTO state VALUES ('old')")
            .unwrap();
        schema("state").prepare(&mut connection).unwrap();
        let kept: String = connection
            .query_row("SELECT key FROM state", [], |row| row.get(0))
            .unwrap();
        assert_eq!((kept.as_str(), level(&connection).as_str()), ("old", "1"));
    }

    #[test]
    fn a_newer_level_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE metadata (key TEXT, value TEXT); INSERT INTO metadata VALUES ('migrations', '9')",
            )
            .unwrap();
        schema("state").prepare(&mut connection).unwrap();
        assert_eq!(level(&connection), "9");
        assert!(!has_table(&connection, "state").unwrap());
    }

    #[test]
    fn a_second_table_beside_the_first_is_made() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema("one").prepare(&mut connection).unwrap();
        schema("two").prepare(&mut connection).unwrap();
        assert!(has_table(&connection, "two").unwrap());
    }

    #[test]
    fn a_level_that_is_no_number_is_an_error_and_leaves_no_transaction() {
        for bad in ["x", "-1", ""] {
            let mut connection = Connection::open_in_memory().unwrap();
            connection
                .execute_batch(&format!(
                    "CREATE TABLE metadata (key TEXT, value TEXT); INSERT INTO metadata VALUES ('migrations', '{bad}')"
                ))
                .unwrap();
            let error = schema("state").prepare(&mut connection).unwrap_err();
            assert!(
                error
                    .into_error()
                    .message
                    .contains("invalid migration level")
            );
            assert!(connection.is_autocommit());
        }
    }
}
