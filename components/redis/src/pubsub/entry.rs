//! Stream entries, and the answers that carry them.

use std::fmt;

use outrigger_component_api::{Bytes, Metadata, json};
use redis::Value;

use crate::error::Failure;

/// An entry's id: a moment in milliseconds and a number within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Id {
    pub millis: u64,
    pub number: u64,
}

impl Id {
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (millis, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self {
            millis: millis.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    pub(super) fn after(self) -> Self {
        match self.number.checked_add(1) {
            Some(number) => Self { number, ..self },
            None => Self {
                millis: self.millis.saturating_add(1),
                number: 0,
            },
        }
    }

    pub(super) fn before(self) -> Self {
        match self.number.checked_sub(1) {
            Some(number) => Self { number, ..self },
            None => Self {
                millis: self.millis.saturating_sub(1),
                number: if self.millis == 0 { 0 } else { u64::MAX },
            },
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

/// An entry as a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub id: Id,
    pub data: Bytes,
    pub metadata: Option<Metadata>,
    /// How often it has been delivered, this time included.
    pub delivery: u32,
}

/// A pending entry, without its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    pub id: Id,
    pub idle_millis: u64,
    pub deliveries: u32,
}

/// The entries of one stream in an answer to XREADGROUP. `Nil` is none.
pub(super) fn of_read(answer: Value) -> Result<Vec<Entry>, Failure> {
    let odd = || Failure::odd("XREADGROUP");
    let streams = match answer {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(streams) => streams,
        _ => return Err(odd()),
    };
    let mut entries = Vec::new();
    for stream in streams {
        let Value::Array(parts) = stream else {
            return Err(odd());
        };
        let listed = parts.into_iter().nth(1).ok_or_else(odd)?;
        entries.extend(of_list(listed, "XREADGROUP")?);
    }
    Ok(entries)
}

/// The entries of a plain list, as XCLAIM answers. Where an entry was deleted there may be a gap.
pub(super) fn of_list(answer: Value, command: &str) -> Result<Vec<Entry>, Failure> {
    let odd = || Failure::odd(command);
    let items = match answer {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(items) => items,
        _ => return Err(odd()),
    };
    items
        .into_iter()
        .filter_map(|item| match item {
            Value::Nil => None,
            Value::Array(parts) => entry(parts).transpose(),
            _ => Some(Err(odd())),
        })
        .collect()
}

/// `None` for an entry that was deleted.
fn entry(parts: Vec<Value>) -> Result<Option<Entry>, Failure> {
    let odd = || Failure::odd("a stream command");
    let mut parts = parts.into_iter();
    let id = match parts.next() {
        Some(Value::BulkString(id)) => Id::read(&id).ok_or_else(odd)?,
        _ => return Err(odd()),
    };
    let fields = match parts.next() {
        Some(Value::Array(fields)) => fields,
        _ => return Ok(None),
    };
    let mut entry = Entry {
        id,
        data: Bytes::new(),
        metadata: None,
        delivery: 1,
    };
    let mut fields = fields.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) =
        (fields.next(), fields.next())
    {
        match name.as_slice() {
            b"data" => entry.data = Bytes::from(value),
            b"metadata" => entry.metadata = metadata(&value),
            _ => {}
        }
    }
    Ok(Some(entry))
}

/// What others wrote may be anything; what is no object of texts counts for nothing.
fn metadata(text: &[u8]) -> Option<Metadata> {
    match json::parse_all(text) {
        Ok(json::Value::Object(members)) => Some(
            members
                .into_iter()
                .map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned()))
                .collect(),
        ),
        _ => None,
    }
}

/// The answer to XPENDING with a range.
pub(super) fn of_pending(answer: Value) -> Result<Vec<Pending>, Failure> {
    let odd = || Failure::odd("XPENDING");
    let items = match answer {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(items) => items,
        _ => return Err(odd()),
    };
    items
        .into_iter()
        .map(|item| pending(item).ok_or_else(odd))
        .collect()
}

fn pending(item: Value) -> Option<Pending> {
    let Value::Array(parts) = item else {
        return None;
    };
    match parts.as_slice() {
        [
            Value::BulkString(id),
            _,
            Value::Int(idle),
            Value::Int(deliveries),
        ] => Some(Pending {
            id: Id::read(id)?,
            idle_millis: u64::try_from(*idle).unwrap_or(0),
            deliveries: u32::try_from(*deliveries).unwrap_or(u32::MAX),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn listed(fields: &[&str]) -> Entry {
        let fields = fields.iter().map(|field| bulk(field)).collect();
        let item = Value::Array(vec![bulk("5-1"), Value::Array(fields)]);
        of_list(Value::Array(vec![item]), "XCLAIM")
            .unwrap()
            .remove(0)
    }

    #[test]
    fn ids_are_read_written_and_counted() {
        let id = Id::read(b"1526919030474-55").unwrap();
        assert_eq!(id.to_string(), "1526919030474-55");
        assert_eq!(id.after().to_string(), "1526919030474-56");
        assert_eq!(id.before().to_string(), "1526919030474-54");
        let first = Id {
            millis: 7,
            number: 0,
        };
        assert_eq!(first.before().to_string(), format!("6-{}", u64::MAX));
        assert_eq!(first.before().after(), first);
        assert_eq!(Id::read(b"x"), None);
        assert!(Id::read(b"9-9") < Id::read(b"10-0"));
    }

    #[test]
    fn entries_of_others_are_read_as_they_come() {
        let entry = listed(&["metadata", "{\"a\":\"b\",\"n\":1}", "data", "x"]);
        assert_eq!(entry.data.as_ref(), b"x");
        assert_eq!(
            entry.metadata,
            Some(Metadata::from([
                ("a".into(), "b".into()),
                ("n".into(), String::new())
            ]))
        );
        let bare = listed(&["other", "1"]);
        assert!(bare.data.is_empty() && bare.metadata.is_none());
        for odd in ["", "no json", "[1]", "null", "\"text\""] {
            assert!(
                listed(&["data", "x", "metadata", odd]).metadata.is_none(),
                "{odd}"
            );
        }
    }

    #[test]
    fn deleted_entries_leave_gaps() {
        let answer = Value::Array(vec![
            Value::Nil,
            Value::Array(vec![bulk("1-1"), Value::Nil]),
            Value::Array(vec![
                bulk("2-1"),
                Value::Array(vec![bulk("data"), bulk("x")]),
            ]),
        ]);
        let entries = of_list(answer, "XCLAIM").unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].id.to_string(), "2-1");
    }

    #[test]
    fn no_messages_are_no_error() {
        assert_eq!(of_read(Value::Nil), Ok(Vec::new()));
        assert!(of_read(Value::Int(1)).is_err());
        assert_eq!(of_pending(Value::Array(Vec::new())), Ok(Vec::new()));
    }
}
