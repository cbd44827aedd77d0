//! Publishing.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use outrigger_blocks::errors::pubsub as told;
use outrigger_blocks::invoke::Surface;
use outrigger_blocks::pubsub::{BulkEntryIn, BulkFailed, Publish, PublishError};
use outrigger_core::error::ApiError;
use outrigger_core::json::{Numbers, Style, Value, encode, map_field, parse_first, text_field};
use outrigger_core::{Body, Metadata, cloud_event};
use outrigger_telemetry::span::{Kind, Span};
use outrigger_wire::http1::Hangup;

use super::Outcome;
use crate::pipeline::{Api, Asked, trace_texts};
use crate::reply;

pub(super) async fn single(api: &Api, mut asked: Asked<'_>) -> Outcome {
    let (pubsub, topic) = (asked.param(0), asked.param(1));
    let metadata = asked.query().metadata();
    let bus = api.blocks.publisher.find(&pubsub, Some(&metadata)).await?;
    let topic = topic.trim_end_matches('/');
    if topic.is_empty() {
        return Err(Box::new(told::topic_empty(&pubsub, Some(metadata))));
    }
    let data = asked
        .read()
        .await
        .map_err(|error| told::publish(&pubsub, topic, &error.to_string()))?;
    let content_type = asked
        .head
        .headers
        .get(CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let (trace_parent, trace_state) = trace_texts(asked.trail.span.context());
    let request = Publish {
        topic: topic.to_owned(),
        data,
        content_type: content_type.unwrap_or_default(),
        metadata: Some(metadata),
        trace_parent,
        trace_state,
        raw_trace: false,
        surface: Surface::Http,
    };
    match bus.publish(request).await {
        Ok(()) => Ok(reply::empty()),
        Err(error) => failed(error),
    }
}

fn failed(error: PublishError) -> Outcome {
    match error {
        PublishError::Told(error) => Err(error),
        PublishError::Hangup => Ok(hang_up()),
    }
}

/// Dapr ends the connection in place of an answer.
fn hang_up() -> Response<Body> {
    let mut response = Response::new(Body::EMPTY);
    response.extensions_mut().insert(Hangup);
    response
}

pub(super) async fn bulk(api: &Api, mut asked: Asked<'_>) -> Outcome {
    let (pubsub, topic) = (asked.param(0), asked.param(1));
    let metadata = asked.query().metadata();
    let app_id = api.blocks.app_id.as_str();
    let bus = api.blocks.publisher.find(&pubsub, Some(&metadata)).await?;
    let topic = topic.trim_end_matches('/');
    if topic.is_empty() {
        return Err(Box::new(told::topic_empty(&pubsub, Some(metadata))));
    }
    outrigger_core::metadata::raw_payload(&metadata)
        .map_err(|value| told::bad_metadata(&pubsub, value, metadata.clone()))?;
    let unreadable =
        |cause: String| Box::new(told::unreadable_entries(&pubsub, topic, app_id, &cause));
    let body = asked
        .read()
        .await
        .map_err(|error| unreadable(error.to_string()))?;
    let (list, _) = parse_first(&body).map_err(|error| unreadable(error.to_string()))?;
    let items = match &list {
        Value::Null => &[],
        Value::Array(items) => items.as_slice(),
        other => {
            return Err(unreadable(format!(
                "json: cannot unmarshal {} into Go value of type []http.bulkPublishMessageEntry",
                other.kind()
            )));
        }
    };
    // Every entry is looked at as a structure before any is looked at as an event.
    let entries = items
        .iter()
        .map(entry)
        .collect::<Result<Vec<_>, String>>()
        .map_err(unreadable)?;
    let mut known = HashSet::new();
    let mut messages = Vec::with_capacity(entries.len());
    let mut spans = Vec::new();
    for Entry {
        id,
        event,
        content_type,
        metadata: own,
    } in entries
    {
        let data = event_bytes(&event, &content_type)
            .map_err(|cause| Box::new(told::envelope(&pubsub, topic, app_id, &cause)))?;
        if id.is_empty() || !known.insert(id.clone()) {
            return Err(Box::new(told::entries(
                &pubsub,
                topic,
                app_id,
                "entryId is duplicated or not present for entry",
            )));
        }
        // The request's metadata joins that of entries which have some of their own.
        let own = own.map(|own| {
            metadata
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .chain(own)
                .collect::<Metadata>()
        });
        let span = producer(api, &asked);
        let (trace_parent, trace_state) = trace_texts(span.context());
        spans.push(span);
        messages.push(BulkEntryIn {
            entry_id: id,
            data,
            content_type,
            metadata: own,
            trace_parent,
            trace_state,
        });
    }
    let outcome = bus
        .bulk_publish(topic, messages, &metadata, Surface::Http)
        .await;
    for mut span in spans {
        if outcome.is_err() {
            span.fail(|| "the messages were not all published".to_owned());
        }
        span.finish();
    }
    match outcome {
        Ok(()) => Ok(reply::empty()),
        Err(Err(error)) => failed(error),
        Err(Ok(failure)) => Ok(some_failed(api, &failure)),
    }
}

/// Each entry of a bulk has a span of its own.
fn producer(api: &Api, asked: &Asked<'_>) -> Span {
    let parent = asked.trail.span.context();
    api.blocks
        .tracer
        .start(parent.is_valid().then_some(parent), Kind::Producer, || {
            asked.head.uri.path().to_owned()
        })
}

struct Entry {
    id: String,
    event: Value,
    content_type: String,
    metadata: Option<Metadata>,
}

fn entry(item: &Value) -> Result<Entry, String> {
    const STRUCTURE: &str = "bulkPublishMessageEntry";
    if !item.is_null() && item.as_object().is_none() {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type http.{STRUCTURE}",
            item.kind()
        ));
    }
    let text = |name| text_field(item, STRUCTURE, name).map_err(|error| error.to_string());
    Ok(Entry {
        id: text("entryId")?.unwrap_or_default(),
        event: item.field("event").cloned().unwrap_or(Value::Null),
        content_type: text("contentType")?.unwrap_or_default(),
        metadata: map_field(item, STRUCTURE, "metadata").map_err(|error| error.to_string())?,
    })
}

/// An event as the bytes that its content type makes of it.
fn event_bytes(event: &Value, content_type: &str) -> Result<Bytes, String> {
    const MISMATCH: &str = "error: mismatch between contentType and event";
    if cloud_event::is_binary(content_type) {
        let text = event.as_str().ok_or(MISMATCH)?;
        return STANDARD.decode(text).map(Bytes::from).map_err(|error| {
            format!("error: unable to decode base64 application/octect-stream data: {error}")
        });
    }
    if cloud_event::is_text(content_type) {
        return event
            .as_str()
            .map(|text| Bytes::copy_from_slice(text.as_bytes()))
            .ok_or_else(|| MISMATCH.to_owned());
    }
    if cloud_event::is_json(content_type)
        || cloud_event::is_content_type(content_type, cloud_event::CONTENT_TYPE)
    {
        return Ok(encode(event, Style::Standard, Numbers::Exact).into());
    }
    Err(MISMATCH.to_owned())
}

/// Which entries failed, in the body and in headers.
fn some_failed(api: &Api, failure: &BulkFailed) -> Response<Body> {
    let error: &ApiError = &failure.error;
    api.blocks.metrics.error(&error.tag, error.category);
    let entries = failure.entries.iter().map(|(id, cause)| {
        Value::object([
            ("entryId", Value::string(id.as_str())),
            ("error", Value::string(cause.as_str())),
        ])
    });
    let body = Value::object([
        ("failedEntries", Value::Array(entries.collect())),
        ("errorCode", Value::string(error.tag.as_ref())),
    ]);
    let bytes = encode(&body, Style::Ours, Numbers::Exact);
    let mut response = reply::data(error.http, bytes.clone());
    let text = format!(
        "api error: code = {} desc = {}",
        error.grpc.name(),
        error.message
    );
    for (name, value) in [
        ("metadata.responsedata", HeaderValue::from_bytes(&bytes)),
        ("metadata.error", HeaderValue::from_str(&text)),
    ] {
        if let Ok(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::json::parse_all;

    #[test]
    fn events_become_bytes_by_their_type() {
        let bytes =
            |event: &str, kind: &str| event_bytes(&parse_all(event.as_bytes()).unwrap(), kind);
        assert_eq!(bytes("\"aGk=\"", "application/octet-stream").unwrap(), "hi");
        assert_eq!(bytes("\"hi\"", "text/plain").unwrap(), "hi");
        assert_eq!(
            bytes("{\"b\":1,\"a\":2}", "application/json").unwrap(),
            "{\"a\":2,\"b\":1}"
        );
        assert_eq!(bytes("null", "application/json").unwrap(), "null");
        for (event, kind) in [
            ("1", "text/plain"),
            ("\"x\"", ""),
            ("\"?\"", "application/octet-stream"),
            ("1", "application/octet-stream"),
            ("1", "image/png"),
        ] {
            assert!(bytes(event, kind).is_err(), "{event} {kind}");
        }
    }

    #[test]
    fn entries_are_structures() {
        assert!(entry(&parse_all(b"1").unwrap()).is_err());
        assert!(entry(&parse_all(b"{\"entryId\":1}").unwrap()).is_err());
        let read =
            entry(&parse_all(b"{\"entryId\":\"1\",\"metadata\":{\"a\":\"b\"}}").unwrap()).unwrap();
        assert_eq!((read.id.as_str(), read.metadata.unwrap().len()), ("1", 1));
    }
}
