//! State.

use std::collections::BTreeMap;

use http::HeaderValue;
use http::header::{ETAG, IF_MATCH};
use outrigger_blocks::errors::absent::malformed;
use outrigger_blocks::errors::state as told;
use outrigger_blocks::state::{BulkItem, Change, NewValue, Remove, Save};
use outrigger_core::Metadata;
use outrigger_core::error::{ApiError, Detail};
use outrigger_core::json::{
    self, Numbers, Style, Value, encode, encode_string, is_float64, is_plain, map_field,
    parse_first, text_field,
};

use super::{Outcome, done};
use crate::pipeline::{Api, Asked};
use crate::reply;

pub(super) async fn get(api: &Api, asked: Asked<'_>) -> Outcome {
    let (store, key) = (asked.param(0), asked.param(1));
    let query = asked.query();
    let store = api.blocks.state.find(&store).await?;
    let found = store
        .get(&key, query.get("consistency"), query.metadata())
        .await
        .map_err(worded)?;
    let Some(item) = found else {
        return Ok(reply::empty());
    };
    let mut response = reply::data(200, item.data);
    if let Some(etag) = item.etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        response.headers_mut().insert(ETAG, etag);
    }
    reply::add_metadata(&mut response, &item.metadata);
    Ok(response)
}

pub(super) async fn save(api: &Api, mut asked: Asked<'_>) -> Outcome {
    let store = asked.param(0);
    let store = api.blocks.state.find(&store).await?;
    let body = asked
        .read()
        .await
        .map_err(|error| told::malformed(error.to_string()))?;
    let (list, _) = parse_first(&body).map_err(|error| told::malformed(error.to_string()))?;
    let metadata = asked.query().metadata();
    let items = match &list {
        Value::Null => Vec::new(),
        Value::Array(items) => items
            .iter()
            .map(|item| save_item(item, &metadata))
            .collect::<Result<_, _>>()
            .map_err(told::malformed)?,
        other => {
            return Err(Box::new(told::malformed(format!(
                "json: cannot unmarshal {} into Go value of type []state.SetRequest",
                other.kind()
            ))));
        }
    };
    if items.iter().any(|item| item.key.is_empty()) {
        return Err(Box::new(told::malformed("\"key\" is a required field")));
    }
    done(store.save(items).await.map_err(worded))
}

/// An item of a save, with the query's metadata on top of its own.
fn save_item(item: &Value, query: &Metadata) -> Result<Save, String> {
    const STRUCTURE: &str = "SetRequest";
    if item.is_null() {
        return Ok(no_save());
    }
    if item.as_object().is_none() {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type state.SetRequest",
            item.kind()
        ));
    }
    let value = item.field("value").cloned().unwrap_or(Value::Null);
    check_numbers(&value)?;
    let text = |name| text_field(item, STRUCTURE, name).map_err(|error| error.to_string());
    let (concurrency, consistency) = options(item, STRUCTURE)?;
    let mut metadata = map_field(item, STRUCTURE, "metadata")
        .map_err(|error| error.to_string())?
        .unwrap_or_default();
    metadata.extend(query.clone());
    Ok(Save {
        key: text("key")?.unwrap_or_default(),
        value: NewValue::Json(value),
        etag: text("etag")?,
        concurrency,
        consistency,
        metadata,
    })
}

fn no_save() -> Save {
    Save {
        key: String::new(),
        value: NewValue::Json(Value::Null),
        etag: None,
        concurrency: String::new(),
        consistency: String::new(),
        metadata: Metadata::new(),
    }
}

fn options(item: &Value, structure: &str) -> Result<(String, String), String> {
    let Some(options) = item.field("options").filter(|options| !options.is_null()) else {
        return Ok(Default::default());
    };
    if options.as_object().is_none() {
        return Err(format!(
            "json: cannot unmarshal {} into Go struct field {structure}.options of type state.SetStateOption",
            options.kind()
        ));
    }
    let text = |name| text_field(options, structure, name).map_err(|error| error.to_string());
    Ok((
        text("concurrency")?.unwrap_or_default(),
        text("consistency")?.unwrap_or_default(),
    ))
}

/// Numbers that no 64-bit float can hold are refused.
fn check_numbers(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) if !is_float64(number) => Err(format!(
            "json: cannot unmarshal number {number} into Go value of type float64"
        )),
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(members) => members
            .iter()
            .try_for_each(|(_, member)| check_numbers(member)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

pub(super) async fn delete(api: &Api, asked: Asked<'_>) -> Outcome {
    let (store, key) = (asked.param(0), asked.param(1));
    let query = asked.query();
    let etag = asked
        .head
        .headers
        .get(IF_MATCH)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let store = api.blocks.state.find(&store).await?;
    let remove = Remove {
        key: key.to_string(),
        etag,
        concurrency: query.get("concurrency").to_owned(),
        consistency: query.get("consistency").to_owned(),
        metadata: query.metadata(),
    };
    done(store.delete(remove).await.map_err(worded))
}

pub(super) async fn bulk_get(api: &Api, mut asked: Asked<'_>) -> Outcome {
    let store = asked.param(0);
    let store = api.blocks.state.find(&store).await?;
    let body = asked
        .read()
        .await
        .map_err(|error| malformed(&error.to_string()))?;
    let (keys, parallelism, mut metadata) =
        bulk_request(&body).map_err(|error| malformed(&error))?;
    metadata.extend(asked.query().metadata());
    let items = store
        .bulk_get(&keys, parallelism, &metadata)
        .await
        .map_err(worded)?;
    Ok(reply::data(200, bulk_json(&items)))
}

fn bulk_request(body: &[u8]) -> Result<(Vec<String>, i64, Metadata), String> {
    const STRUCTURE: &str = "BulkGetRequest";
    let (request, _) = parse_first(body).map_err(|error| error.to_string())?;
    if request.is_null() {
        return Ok(Default::default());
    }
    if request.as_object().is_none() {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type http.{STRUCTURE}",
            request.kind()
        ));
    }
    let mut keys = Vec::new();
    match request.field("keys") {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) => {
            for item in items {
                match item {
                    Value::String(key) => keys.push(key.clone()),
                    Value::Null => keys.push(String::new()),
                    other => {
                        return Err(format!(
                            "json: cannot unmarshal {} into Go struct field {STRUCTURE}.keys of type string",
                            other.kind()
                        ));
                    }
                }
            }
        }
        Some(other) => {
            return Err(format!(
                "json: cannot unmarshal {} into Go struct field {STRUCTURE}.keys of type []string",
                other.kind()
            ));
        }
    }
    let parallelism = match request.field("parallelism") {
        None | Some(Value::Null) => 0,
        Some(number) => number.as_i64().ok_or_else(|| format!("json: cannot unmarshal {} into Go struct field {STRUCTURE}.parallelism of type int", number.kind()))?,
    };
    Ok((
        keys,
        parallelism,
        map_field(&request, STRUCTURE, "metadata")
            .map_err(|error| error.to_string())?
            .unwrap_or_default(),
    ))
}

/// The list of results. Stored bytes that are no JSON break it: nothing is left of it then, as in Dapr.
fn bulk_json(items: &[BulkItem]) -> Vec<u8> {
    let mut out = vec![b'['];
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"key\":");
        encode_string(&mut out, &item.key, Style::Standard);
        match &item.outcome {
            Ok(found) => {
                if !found.data.is_empty() {
                    if !is_plain(&found.data) && json::parse_all(&found.data).is_err() {
                        return Vec::new();
                    }
                    out.extend_from_slice(b",\"data\":");
                    push_compact(&mut out, &found.data);
                }
                if let Some(etag) = &found.etag {
                    out.extend_from_slice(b",\"etag\":");
                    encode_string(&mut out, etag, Style::Standard);
                }
                if !found.metadata.is_empty() {
                    out.extend_from_slice(b",\"metadata\":");
                    out.extend_from_slice(&encode(
                        &Value::strings(&found.metadata),
                        Style::Standard,
                        Numbers::Exact,
                    ));
                }
            }
            Err(error) => {
                out.extend_from_slice(b",\"error\":");
                encode_string(&mut out, error, Style::Standard);
            }
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]\n");
    out
}

/// JSON without the blanks between its parts, and with the escapes that Go's encoder also puts into raw messages.
fn push_compact(out: &mut Vec<u8>, text: &[u8]) {
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if in_text {
            in_text = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_text = *byte == b'"';
        }
        match (*byte, after) {
            (b'<', _) => out.extend_from_slice(b"\\u003c"),
            (b'>', _) => out.extend_from_slice(b"\\u003e"),
            (b'&', _) => out.extend_from_slice(b"\\u0026"),
            (0xe2, [0x80, last @ (0xa8 | 0xa9), tail @ ..]) => {
                out.extend_from_slice(if *last == 0xa8 {
                    b"\\u2028"
                } else {
                    b"\\u2029"
                });
                rest = tail;
            }
            (byte, _) => out.push(byte),
        }
    }
}

pub(super) async fn transact(api: &Api, mut asked: Asked<'_>) -> Outcome {
    let store = asked.param(0);
    let store = api.blocks.state.find(&store).await?;
    store.require_transactions().await?;
    let body = asked
        .read()
        .await
        .map_err(|error| malformed(&error.to_string()))?;
    let (request, _) = parse_first(&body).map_err(|error| malformed(&error.to_string()))?;
    let query = asked.query().metadata();
    let (changes, metadata) = transaction(&request, &query)?;
    if changes.is_empty() {
        return Ok(reply::empty());
    }
    done(
        store
            .transact(changes, &metadata)
            .await
            .map_err(worded_without_field),
    )
}

fn transaction(
    request: &Value,
    query: &Metadata,
) -> Result<(Vec<Change>, Metadata), Box<ApiError>> {
    const STRUCTURE: &str = "stateTransactionRequestBody";
    let bad = |error: String| Box::new(malformed(&error));
    if request.is_null() {
        return Ok(Default::default());
    }
    if request.as_object().is_none() {
        return Err(bad(format!(
            "json: cannot unmarshal {} into Go value of type http.{STRUCTURE}",
            request.kind()
        )));
    }
    let mut metadata: BTreeMap<String, String> = map_field(request, STRUCTURE, "metadata")
        .map_err(|error| bad(error.to_string()))?
        .unwrap_or_default();
    metadata.extend(query.clone());
    let operations = match request.field("operations") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items.as_slice(),
        Some(other) => {
            return Err(bad(format!(
                "json: cannot unmarshal {} into Go struct field {STRUCTURE}.operations of type []http.stateTransactionRequestBodyOperation",
                other.kind()
            )));
        }
    };
    let mut changes = Vec::with_capacity(operations.len());
    for operation in operations {
        if !operation.is_null() && operation.as_object().is_none() {
            return Err(bad(format!(
                "json: cannot unmarshal {} into Go struct field {STRUCTURE}.operations of type http.stateTransactionRequestBodyOperation",
                operation.kind()
            )));
        }
        let verb = text_field(
            operation,
            "stateTransactionRequestBodyOperation",
            "operation",
        )
        .map_err(|error| bad(error.to_string()))?
        .unwrap_or_default();
        let nothing = Value::Null;
        let item = operation.field("request").unwrap_or(&nothing);
        match verb.as_str() {
            "upsert" => changes.push(Change::Upsert(save_item(item, query).map_err(bad)?)),
            "delete" => changes.push(Change::Delete(remove_item(item, query).map_err(bad)?)),
            other => return Err(Box::new(told::operation_not_supported(other))),
        }
    }
    Ok((changes, metadata))
}

fn remove_item(item: &Value, query: &Metadata) -> Result<Remove, String> {
    const STRUCTURE: &str = "DeleteRequest";
    if item.is_null() {
        return Ok(Remove {
            metadata: query.clone(),
            ..Remove::default()
        });
    }
    if item.as_object().is_none() {
        return Err(format!("'' expected a map, got '{}'", item.kind()));
    }
    let text = |name| text_field(item, STRUCTURE, name).map_err(|error| error.to_string());
    let (concurrency, consistency) = options(item, STRUCTURE)?;
    let mut metadata = map_field(item, STRUCTURE, "metadata")
        .map_err(|error| error.to_string())?
        .unwrap_or_default();
    metadata.extend(query.clone());
    Ok(Remove {
        key: text("key")?.unwrap_or_default(),
        etag: text("etag")?,
        concurrency,
        consistency,
        metadata,
    })
}

pub(super) async fn query(api: &Api, asked: Asked<'_>) -> Outcome {
    let store = asked.param(0);
    let store = api.blocks.state.find(&store).await.map_err(without_app)?;
    Err(Box::new(store.query().await))
}

/// Only plain routes tell the app id.
fn without_app(mut error: ApiError) -> ApiError {
    for detail in &mut error.details {
        if let Detail::ErrorInfo { metadata, .. } = detail
            && metadata
                .as_ref()
                .is_some_and(|metadata| metadata.contains_key("appID"))
        {
            *metadata = None;
        }
    }
    error
}

/// An illegal key is told in a form of its own over HTTP.
fn worded(mut error: ApiError) -> ApiError {
    let illegal = error.details.iter().any(|detail| matches!(detail, Detail::ErrorInfo { reason, .. } if reason == "DAPR_STATE_ILLEGAL_KEY"));
    if !illegal {
        return error;
    }
    error.message = format!("api error: code = InvalidArgument desc = {}", error.message);
    for detail in &mut error.details {
        if let Detail::BadRequest { violations } = detail {
            for (_, description) in violations {
                *description = format!("api error: code = InvalidArgument desc = {description}");
            }
        }
    }
    error
}

/// In a transaction the key is not named.
fn worded_without_field(error: ApiError) -> ApiError {
    let mut error = worded(error);
    for detail in &mut error.details {
        if let Detail::BadRequest { violations } = detail {
            for (field, _) in violations {
                field.clear();
            }
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::StateItem;
    use proptest::prelude::*;

    fn value(text: &str) -> Value {
        json::parse_all(text.as_bytes()).unwrap()
    }

    #[test]
    fn items_are_read_and_the_query_wins() {
        let query = [("a".to_owned(), "2".to_owned())].into();
        let item = save_item(&value(r#"{"key":"k","value":{"b":1},"etag":"7","metadata":{"a":"1","c":"3"},"options":{"concurrency":"first-write"}}"#), &query).unwrap();
        assert_eq!(
            (
                item.key.as_str(),
                item.etag.as_deref(),
                item.concurrency.as_str()
            ),
            ("k", Some("7"), "first-write")
        );
        assert_eq!(item.metadata["a"], "2");
        assert!(save_item(&value(r#"{"key":1}"#), &query).is_err());
        assert!(save_item(&value(r#"{"key":"k","value":1e999}"#), &query).is_err());
    }

    #[test]
    fn a_transaction_names_what_it_cannot_do() {
        let none = Metadata::new();
        let error = transaction(
            &value(r#"{"operations":[{"operation":"Upsert","request":{}}]}"#),
            &none,
        )
        .unwrap_err();
        assert_eq!(
            (error.http, error.message.as_str()),
            (400, "operation type Upsert not supported")
        );
        assert_eq!(transaction(&value("null"), &none).unwrap().0.len(), 0);
        let (changes, _) = transaction(&value(r#"{"operations":[{"operation":"delete","request":{"key":"k"}},{"operation":"upsert"}]}"#), &none).unwrap();
        assert_eq!(changes.len(), 2);
    }

    #[test]
    fn bulk_results_leave_empty_members_out() {
        let found = StateItem {
            data: bytes::Bytes::from_static(b"{\"a\" : \"x y\"}"),
            etag: Some("1".into()),
            metadata: Metadata::new(),
        };
        let items = [
            BulkItem {
                key: "a".into(),
                outcome: Ok(found),
            },
            BulkItem {
                key: "b".into(),
                outcome: Ok(StateItem::default()),
            },
            BulkItem {
                key: "c".into(),
                outcome: Err("no".into()),
            },
        ];
        assert_eq!(
            String::from_utf8(bulk_json(&items)).unwrap(),
            "[{\"key\":\"a\",\"data\":{\"a\":\"x y\"},\"etag\":\"1\"},{\"key\":\"b\"},{\"key\":\"c\",\"error\":\"no\"}]\n"
        );
        let broken = StateItem {
            data: bytes::Bytes::from_static(b"x"),
            ..StateItem::default()
        };
        assert!(
            bulk_json(&[BulkItem {
                key: "a".into(),
                outcome: Ok(broken)
            }])
            .is_empty()
        );
    }

    proptest! {
        #[test]
        fn no_body_panics(body in "\\PC{0,60}") {
            bulk_request(body.as_bytes()).ok();
            if let Ok((value, _)) = parse_first(body.as_bytes()) {
                save_item(&value, &Metadata::new()).ok();
                transaction(&value, &Metadata::new()).ok();
            }
        }

        #[test]
        fn compacting_changes_no_value(text in "[a-z\\\\\" <&\u{2028}]{0,20}") {
            let written = format!("{{ \"k\" : {} }}", String::from_utf8(encode(&Value::string(text.as_str()), Style::Ours, Numbers::Exact)).unwrap());
            let mut out = Vec::new();
            push_compact(&mut out, written.as_bytes());
            prop_assert_eq!(json::parse_all(&out).unwrap(), value(&written));
            prop_assert!(!out.contains(&b'<'));
        }
    }
}
