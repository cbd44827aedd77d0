//! Connection strings: a path, a `file:` URI with a query, or `:memory:`.
//!
//! Owns: what of a connection string SQLite sees, what is meant for us, and what is refused.
//! Never: opens a file. Start at [`ConnectionString::parse`]. Tests: below.

use rusqlite::TransactionBehavior;

/// A connection string, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionString {
    /// What SQLite opens; always starts with `file:`.
    pub(crate) uri: String,
    /// Texts of `_pragma`, in their order.
    pub(crate) pragmas: Vec<String>,
    /// How transactions begin: `_txlock`.
    pub(crate) begin: Begin,
    /// The database lives in this process only, so all work shares one connection.
    pub(crate) in_memory: bool,
    /// Declared read-only by `mode=ro` or `immutable=1`.
    pub(crate) read_only: bool,
}

/// What a transaction locks at its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    Deferred,
    Immediate,
    Exclusive,
}

impl From<Begin> for TransactionBehavior {
    fn from(begin: Begin) -> Self {
        match begin {
            Begin::Deferred => Self::Deferred,
            Begin::Immediate => Self::Immediate,
            Begin::Exclusive => Self::Exclusive,
        }
    }
}

/// Pragmas that have a property of their own, or must stay as they are.
const REFUSED: [&str; 3] = ["busy_timeout", "journal_mode", "foreign_keys"];

impl ConnectionString {
    /// # Errors
    /// What was expected instead.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (path, query) = match text.split_once('?') {
            Some((path, query)) if !path.is_empty() => (path, query),
            _ => (text, ""),
        };
        let lower = text.to_ascii_lowercase();
        let shared_memory = lower.starts_with(":memory:") || lower.starts_with("file::memory:");

        let mut passed: Vec<(String, String)> = Vec::new();
        let mut pragmas = Vec::new();
        let mut lock: Option<String> = None;
        for (name, value) in parse_query(query) {
            match name.as_str() {
                "_pragma" => pragmas.push(value),
                "_txlock" => {
                    lock.get_or_insert(value);
                }
                "cache" if shared_memory => {}
                // Of the others that start so, none is SQLite's.
                other if other.starts_with('_') => {}
                _ if passed.iter().any(|(other, _)| *other == name) => {}
                _ => passed.push((name, value)),
            }
        }
        if shared_memory {
            passed.push(("cache".to_owned(), "shared".to_owned()));
        }
        for pragma in &pragmas {
            let pragma = pragma.trim_start().to_ascii_lowercase();
            if let Some(name) = REFUSED.iter().find(|name| pragma.starts_with(**name)) {
                // Dapr: common/authentication/sqlite/metadata.go
                return Err(format!(
                    "found forbidden option '_pragma={name}' in the connection string"
                ));
            }
        }
        let has = |name: &str, value: &str| passed.iter().any(|(n, v)| n == name && v == value);
        let in_memory = shared_memory || has("mode", "memory");
        let read_only = has("mode", "ro") || has("immutable", "1");

        let scheme = if lower.starts_with("file:") {
            ""
        } else {
            "file:"
        };
        let mut uri = format!("{scheme}{path}");
        for (i, (name, value)) in passed.iter().enumerate() {
            uri.push(if i == 0 { '?' } else { '&' });
            uri.push_str(&encode(name));
            uri.push('=');
            uri.push_str(&encode(value));
        }
        Ok(Self {
            uri,
            pragmas,
            begin: begin(lock.as_deref())?,
            in_memory,
            read_only,
        })
    }
}

fn begin(lock: Option<&str>) -> Result<Begin, String> {
    match lock.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "immediate" => Ok(Begin::Immediate),
        "deferred" => Ok(Begin::Deferred),
        "exclusive" => Ok(Begin::Exclusive),
        other => Err(format!(
            "`_txlock` as `immediate`, `deferred` or `exclusive`, not `{other}`"
        )),
    }
}

/// The pairs of a query; those that are not encoded well are left out.
fn parse_query(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> ConnectionString {
        ConnectionString::parse(text).unwrap()
    }

    #[test]
    fn every_form_becomes_a_uri() {
        for (text, uri) in [
            ("data.db", "file:data.db"),
            ("/var/lib/a b.db", "file:/var/lib/a b.db"),
            ("file:data.db", "file:data.db"),
            ("FILE:data.db?mode=ro", "FILE:data.db?mode=ro"),
            (":memory:", "file::memory:?cache=shared"),
            ("file::memory:", "file::memory:?cache=shared"),
            (
                ":memory:?cache=private&_txlock=deferred",
                "file::memory:?cache=shared",
            ),
            (
                "data.db?mode=rwc&mode=ro&vfs=my%20vfs",
                "file:data.db?mode=rwc&vfs=my%20vfs",
            ),
            ("data.db?_time_format=sqlite", "file:data.db"),
        ] {
            assert_eq!(parse(text).uri, uri, "{text}");
        }
    }

    #[test]
    fn memory_and_read_only_are_recognised() {
        for text in [
            ":memory:",
            "file::MEMORY:?x=1",
            "file:shared?mode=memory&cache=shared",
        ] {
            assert!(parse(text).in_memory, "{text}");
        }
        for text in ["file:a.db?mode=ro", "a.db?immutable=1"] {
            assert!(parse(text).read_only, "{text}");
        }
        let plain = parse("a.db?mode=rwc&immutable=0");
        assert!(!plain.in_memory && !plain.read_only);
    }

    #[test]
    fn pragmas_are_kept_in_order_and_some_are_refused() {
        let text = "a.db?_pragma=cache_size(-100)&_pragma=synchronous%281%29";
        assert_eq!(parse(text).pragmas, ["cache_size(-100)", "synchronous(1)"]);
        for bad in [
            "busy_timeout(1)",
            "Journal_Mode=OFF",
            "foreign_keys(1)",
            " busy_timeout(1)",
        ] {
            let refused = ConnectionString::parse(&format!("a.db?_pragma={bad}"));
            assert!(refused.unwrap_err().contains("forbidden"), "{bad}");
        }
    }

    #[test]
    fn the_first_lock_word_counts() {
        assert_eq!(parse("a.db").begin, Begin::Immediate);
        let twice = parse("a.db?_txlock=DEFERRED&_txlock=exclusive");
        assert_eq!(twice.begin, Begin::Deferred);
        assert!(ConnectionString::parse("a.db?_txlock=none").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            ConnectionString::parse(&text).ok();
        }

        #[test]
        fn what_is_encoded_is_decoded(text in "\\PC*") {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }
    }
}
