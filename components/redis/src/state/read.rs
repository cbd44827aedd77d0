//! What lies in Redis, as state items.

use chrono::{SecondsFormat, TimeDelta, Utc};
use outrigger_component_api::{Bytes, ComponentError, Get, Metadata, StateItem, json};
use redis::{Cmd, Value};

use super::write::Form;
use crate::client::Client;
use crate::error::Failure;

pub(super) type Found = Result<Option<StateItem>, ComponentError>;

/// Reads keys with their remaining life in as few round trips as possible. One outcome per request, in order.
pub(super) async fn read(client: &Client, requests: &[Get], has_json: bool) -> Vec<Found> {
    let mut found = Vec::with_capacity(requests.len());
    for some in requests.chunks(MOST_AT_ONCE) {
        found.extend(read_some(client, some, has_json).await);
    }
    found
}

/// Bounds what one pipeline makes the server hold.
const MOST_AT_ONCE: usize = 500;

async fn read_some(client: &Client, requests: &[Get], has_json: bool) -> Vec<Found> {
    let forms: Vec<Form> = requests
        .iter()
        .map(|request| Form::of(&request.metadata, has_json))
        .collect();
    let questions = requests.iter().zip(&forms).flat_map(|(request, form)| {
        let key = request.key.as_bytes();
        let value = match form {
            Form::Hash => "HGETALL",
            Form::Json => "JSON.GET",
        };
        [(key, ask(value, key)), (key, ask("PTTL", key))]
    });
    let mut answers = client
        .batch(questions.collect(), client.read_limit())
        .await
        .into_iter();
    let mut found = Vec::with_capacity(requests.len());
    // Keys that hold no hash may hold a text that somebody else wrote.
    let mut others = Vec::new();
    for (at, (request, form)) in requests.iter().zip(&forms).enumerate() {
        let (Some(value), Some(left)) = (answers.next(), answers.next()) else {
            break;
        };
        let item = match (form, value) {
            (Form::Hash, Ok(value)) => hash(value),
            (Form::Hash, Err(failure)) if failure.is("WRONGTYPE") => {
                others.push((at, request.key.as_bytes()));
                Ok(None)
            }
            (Form::Json, Ok(value)) => document(value),
            (_, Err(failure)) => Err(failure.into_error()),
        };
        found.push((item, left));
    }
    if !others.is_empty() {
        let questions = others.iter().map(|(_, key)| (*key, ask("GET", key)));
        let answers = client.batch(questions.collect(), client.read_limit()).await;
        for ((at, _), answer) in others.into_iter().zip(answers) {
            if let Some((item, _)) = found.get_mut(at) {
                *item = text(answer);
            }
        }
    }
    found
        .into_iter()
        .map(|(item, left)| {
            item.map(|item| {
                item.map(|item| StateItem {
                    metadata: expiry(left),
                    ..item
                })
            })
        })
        .collect()
}

fn ask(verb: &str, key: &[u8]) -> Cmd {
    let mut command = redis::cmd(verb);
    command.arg(key);
    command
}

/// A value of Dapr: a hash with `data` and `version`.
fn hash(answer: Value) -> Found {
    let Value::Array(fields) = answer else {
        return Err(Failure::odd("HGETALL").into_error());
    };
    if fields.is_empty() {
        return Ok(None);
    }
    let (mut data, mut version) = (None, None);
    let mut fields = fields.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) =
        (fields.next(), fields.next())
    {
        match name.as_slice() {
            b"data" => data = Some(value),
            b"version" => version = Some(value),
            _ => {}
        }
    }
    match (data, version) {
        (Some(data), Some(version)) => Ok(Some(StateItem {
            data: Bytes::from(data),
            etag: Some(String::from_utf8_lossy(&version).into_owned()),
            metadata: Metadata::new(),
        })),
        _ => Err(ComponentError::failed(
            "required hash field 'data' or 'version' was not found",
        )),
    }
}

/// A plain text, written by others.
fn text(answer: Result<Value, Failure>) -> Found {
    match answer {
        Ok(Value::Nil) => Ok(None),
        Ok(Value::BulkString(text)) => Ok(Some(StateItem {
            data: Bytes::from(text),
            ..StateItem::default()
        })),
        Ok(_) => Err(Failure::odd("GET").into_error()),
        Err(failure) => Err(failure.into_error()),
    }
}

/// A value in the form of the JSON module.
fn document(answer: Value) -> Found {
    let text = match answer {
        Value::Nil => return Ok(None),
        Value::BulkString(text) => text,
        _ => return Err(Failure::odd("JSON.GET").into_error()),
    };
    let document =
        json::parse_all(&text).map_err(|error| ComponentError::failed(error.to_string()))?;
    let data = document.get("data").unwrap_or(&json::Value::Null);
    Ok(Some(StateItem {
        data: json::encode(data, json::Style::Fast, json::Numbers::Exact).into(),
        etag: document
            .get("version")
            .and_then(json::Value::as_i64)
            .map(|version| version.to_string()),
        metadata: Metadata::new(),
    }))
}

fn expiry(left: Result<Value, Failure>) -> Metadata {
    let mut metadata = Metadata::new();
    if let Ok(Value::Int(millis @ 1..)) = left
        && let Some(left) = TimeDelta::try_milliseconds(millis)
        && let Some(at) = Utc::now().checked_add_signed(left)
    {
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        metadata.insert("ttlExpireTime".to_owned(), at);
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_hash_needs_both_of_its_fields() {
        let item = hash(Value::Array(vec![
            bulk("first-write"),
            bulk("0"),
            bulk("version"),
            bulk("3"),
            bulk("data"),
            bulk("x"),
        ]));
        let item = item.unwrap().unwrap();
        assert_eq!(
            (item.data.as_ref(), item.etag.as_deref()),
            (&b"x"[..], Some("3"))
        );
        assert_eq!(hash(Value::Array(Vec::new())), Ok(None));
        assert_eq!(
            hash(Value::Array(vec![bulk("data"), bulk("x")])),
            Err(ComponentError::failed(
                "required hash field 'data' or 'version' was not found"
            ))
        );
    }

    #[test]
    fn a_document_gives_its_data_with_every_digit() {
        let item = document(bulk(
            "{\"data\":{\"n\":12345678901234567890.10},\"version\":4}",
        ));
        let item = item.unwrap().unwrap();
        assert_eq!(item.data.as_ref(), b"{\"n\":12345678901234567890.10}");
        assert_eq!(item.etag.as_deref(), Some("4"));
        let bare = document(bulk("{\"other\":1}")).unwrap().unwrap();
        assert_eq!((bare.data.as_ref(), bare.etag), (&b"null"[..], None));
        assert_eq!(document(Value::Nil), Ok(None));
    }

    #[test]
    fn only_a_key_that_will_expire_tells_when() {
        for left in [-2, -1, 0] {
            assert!(expiry(Ok(Value::Int(left))).is_empty());
        }
        assert!(expiry(Ok(Value::Int(i64::MAX))).is_empty());
        let told = expiry(Ok(Value::Int(100_000)));
        let at = chrono::DateTime::parse_from_rfc3339(&told["ttlExpireTime"]).unwrap();
        let left = at.signed_duration_since(Utc::now()).num_seconds();
        assert!((97..=100).contains(&left), "{left}");
    }
}
