//! What a write does to the table, as statements.
//!
//! Owns: the form of a stored row, the rules of entity tags and expiry. All times are the database's.
//! Tests: `tests/state.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_component_api::{
    ComponentError, Concurrency, Delete, Metadata, Operation, Set, Value,
};
use rusqlite::{Connection, params};
use uuid::Uuid;

use crate::error::Failure;

/// A checked write, ready to be run any number of times.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Set {
        key: String,
        text: String,
        is_binary: bool,
        /// SQLite's way to say when, from now; `None` for never.
        expiry: Option<String>,
        expected: Expected,
    },
    Delete {
        key: String,
        etag: Option<String>,
    },
}

/// What has to be there for a set to happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    Anything,
    /// No row, or one that has expired.
    Nothing,
    Etag(String),
}

impl Write {
    pub(crate) fn of(operation: &Operation) -> Result<Self, ComponentError> {
        match operation {
            Operation::Set(set) => Self::set(set),
            Operation::Delete(delete) => Self::delete(delete),
        }
    }

    pub(crate) fn set(set: &Set) -> Result<Self, ComponentError> {
        if set.key.is_empty() {
            return Err(ComponentError::invalid("missing key in set option"));
        }
        let expiry = ttl(&set.metadata)?.map(|seconds| format!("+{seconds} seconds"));
        let (text, is_binary) = match &set.value {
            Value::Bytes(bytes) => (STANDARD.encode(bytes), true),
            Value::Json(json) => {
                let text = std::str::from_utf8(json)
                    .map_err(|_| ComponentError::invalid("the value is not valid JSON"))?;
                (text.to_owned(), false)
            }
        };
        let expected = match (tag(set.etag.as_ref()), set.concurrency) {
            (Some(etag), _) => Expected::Etag(etag),
            (None, Concurrency::FirstWrite) => Expected::Nothing,
            (None, Concurrency::Unset | Concurrency::LastWrite) => Expected::Anything,
        };
        Ok(Self::Set {
            key: set.key.clone(),
            text,
            is_binary,
            expiry,
            expected,
        })
    }

    pub(crate) fn delete(delete: &Delete) -> Result<Self, ComponentError> {
        if delete.key.is_empty() {
            return Err(ComponentError::invalid("missing key in delete operation"));
        }
        Ok(Self::Delete {
            key: delete.key.clone(),
            etag: tag(delete.etag.as_ref()),
        })
    }

    pub(crate) fn run(&self, connection: &Connection, sql: &Statements) -> Result<(), Failure> {
        let (changed, is_conditional) = match self {
            Self::Set {
                key,
                text,
                is_binary,
                expiry,
                expected,
            } => {
                let etag = Uuid::new_v4().to_string();
                let changed = match expected {
                    Expected::Anything => connection
                        .prepare_cached(&sql.set)?
                        .execute(params![key, text, is_binary, etag, expiry])?,
                    Expected::Nothing => connection
                        .prepare_cached(&sql.set_first)?
                        .execute(params![key, text, is_binary, etag, expiry])?,
                    Expected::Etag(old) => connection
                        .prepare_cached(&sql.set_matching)?
                        .execute(params![key, text, is_binary, etag, expiry, old])?,
                };
                (changed, *expected != Expected::Anything)
            }
            Self::Delete { key, etag: None } => {
                let changed = connection.prepare_cached(&sql.delete)?.execute([key])?;
                (changed, false)
            }
            Self::Delete {
                key,
                etag: Some(etag),
            } => {
                let changed = connection
                    .prepare_cached(&sql.delete_matching)?
                    .execute([key, etag])?;
                (changed, true)
            }
        };
        if is_conditional && changed == 0 {
            return Err(ComponentError::etag_mismatch().into());
        }
        Ok(())
    }
}

fn tag(etag: Option<&String>) -> Option<String> {
    etag.filter(|etag| !etag.is_empty()).cloned()
}

/// Seconds to live; `None` for ever.
fn ttl(metadata: &Metadata) -> Result<Option<i64>, ComponentError> {
    let text = metadata.get("ttlInSeconds").map_or("", String::as_str);
    if text.is_empty() {
        return Ok(None);
    }
    // Dapr: state/utils/ttl.go; clients see this text.
    let refused = |why: &str| {
        ComponentError::invalid(format!(
            "error parsing TTL: incorrect value for metadata 'ttlInSeconds': {why}"
        ))
    };
    match text.parse::<i64>() {
        Ok(seconds) if (-1..=i64::from(i32::MAX)).contains(&seconds) => {
            Ok((seconds > 0).then_some(seconds))
        }
        Ok(_) => Err(refused("must be -1 or greater")),
        Err(error) => {
            let why = match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    "value out of range"
                }
                _ => "invalid syntax",
            };
            Err(refused(&format!(
                "strconv.ParseInt: parsing {text:?}: {why}"
            )))
        }
    }
}

/// The statements over one table.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    pub(crate) create: String,
    pub(crate) get: String,
    pub(crate) bulk_get: String,
    pub(crate) keys_like: String,
    set: String,
    set_first: String,
    set_matching: String,
    delete: String,
    delete_matching: String,
}

/// A row that has not expired.
const LIVE: &str = "(expiration_time IS NULL OR expiration_time > CURRENT_TIMESTAMP)";
/// Rows expired but not yet deleted.
pub(crate) const EXPIRED: &str =
    "expiration_time IS NOT NULL AND expiration_time < CURRENT_TIMESTAMP";

impl Statements {
    pub(crate) fn over(table: &str) -> Self {
        let columns =
            "key, value, is_binary, etag, strftime('%Y-%m-%dT%H:%M:%SZ', expiration_time)";
        // `DATETIME` of an absent modifier is null: never.
        let expiry = "DATETIME(CURRENT_TIMESTAMP, ?5)";
        Self {
            // The order of columns counts: Dapr has a statement that inserts by position.
            create: format!(
                r#"CREATE TABLE IF NOT EXISTS "{table}" (
                    key TEXT NOT NULL PRIMARY KEY,
                    value TEXT NOT NULL,
                    is_binary BOOLEAN NOT NULL,
                    etag TEXT NOT NULL,
                    expiration_time TIMESTAMP DEFAULT NULL,
                    update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
                )"#
            ),
            get: format!(r#"SELECT {columns} FROM "{table}" WHERE key = ? AND {LIVE}"#),
            bulk_get: format!(r#"SELECT {columns} FROM "{table}" WHERE {LIVE} AND key IN"#),
            keys_like: format!(
                r#"SELECT key, rowid FROM "{table}"
                   WHERE key LIKE ?1 ESCAPE '\' AND {LIVE} AND rowid > ?2
                   ORDER BY rowid LIMIT ?3"#
            ),
            set: format!(
                r#"INSERT OR REPLACE INTO "{table}"
                   (key, value, is_binary, etag, expiration_time, update_time)
                   VALUES (?1, ?2, ?3, ?4, {expiry}, CURRENT_TIMESTAMP)"#
            ),
            set_first: format!(
                r#"INSERT OR REPLACE INTO "{table}"
                   (key, value, is_binary, etag, expiration_time, update_time)
                   SELECT ?1, ?2, ?3, ?4, {expiry}, CURRENT_TIMESTAMP
                   WHERE NOT EXISTS (SELECT 1 FROM "{table}" WHERE key = ?1 AND {LIVE})"#
            ),
            set_matching: format!(
                r#"UPDATE "{table}"
                   SET value = ?2, is_binary = ?3, etag = ?4, expiration_time = {expiry},
                       update_time = CURRENT_TIMESTAMP
                   WHERE key = ?1 AND etag = ?6 AND {LIVE}"#
            ),
            delete: format!(r#"DELETE FROM "{table}" WHERE key = ?"#),
            delete_matching: format!(r#"DELETE FROM "{table}" WHERE key = ? AND etag = ?"#),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(ttl: &str) -> Metadata {
        Metadata::from([("ttlInSeconds".to_owned(), ttl.to_owned())])
    }

    #[test]
    fn a_ttl_is_a_whole_number_from_minus_one_on() {
        for (text, seconds) in [
            ("", None),
            ("0", None),
            ("-1", None),
            ("1", Some(1)),
            ("+5", Some(5)),
            ("2147483647", Some(2_147_483_647)),
        ] {
            assert_eq!(ttl(&with(text)).unwrap(), seconds, "{text}");
        }
        assert_eq!(ttl(&Metadata::new()).unwrap(), None);
    }

    #[test]
    fn other_ttls_are_refused_in_daprs_words() {
        let told = |text: &str| ttl(&with(text)).unwrap_err().message;
        let start = "error parsing TTL: incorrect value for metadata 'ttlInSeconds': ";
        for (text, why) in [
            ("-2", "must be -1 or greater"),
            ("2147483648", "must be -1 or greater"),
            ("1.5", "strconv.ParseInt: parsing \"1.5\": invalid syntax"),
            (
                "99999999999999999999",
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
        ] {
            assert_eq!(told(text), format!("{start}{why}"));
        }
    }
}
