//! The CloudEvents envelope that lies in a broker.
//!
//! [`wrap`] makes the bytes that a publish puts there, [`raw`] the event that a raw subscription sees,
//! [`Event`] what a delivery reads out of a message. Attribute names and defaults are Dapr's.
//! Tests: below, and the recorded publish conversations of `tests/e2e`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Local, SecondsFormat, Utc};

use crate::Metadata;
use crate::duration::parse_go;
use crate::json::{
    JsonError, Numbers, Style, Value, encode, encode_string, encode_to, is_plain, parse_first,
};
use crate::metadata::get_ignore_case;

pub const DEFAULT_TYPE: &str = "com.dapr.event.sent";
pub const DEFAULT_BULK_TYPE: &str = "com.dapr.event.sent.bulk";
pub const DEFAULT_SOURCE: &str = "Dapr";
pub const SPEC_VERSION: &str = "1.0";
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// What a publisher gave, and where it goes.
#[derive(Debug)]
pub struct Publication<'a> {
    pub source: &'a str,
    pub topic: &'a str,
    pub pubsub: &'a str,
    pub content_type: &'a str,
    pub data: &'a Bytes,
    /// Request metadata: `cloudevent.*` overrides and the time to live.
    pub metadata: &'a Metadata,
    pub trace_parent: &'a str,
    pub trace_state: &'a str,
    /// Whether the sidecar, not the broker, has to end the message's life.
    pub sets_expiration: bool,
}

/// Why a body cannot be published.
#[derive(Clone, Debug, PartialEq)]
pub enum WrapError {
    /// A body that claims to be an event is none.
    NotAnEvent(JsonError),
    /// The body is the word `null`, on which Dapr's handler ends the connection without an answer.
    Null,
}

/// Makes the message: an envelope around the body, or the completed event that the body is.
///
/// # Errors
/// When the content type says that the body is an event and it is not.
pub fn wrap(publication: &Publication<'_>) -> Result<Bytes, WrapError> {
    if is_content_type(publication.content_type, CONTENT_TYPE) {
        complete(publication)
    } else {
        Ok(envelope(publication))
    }
}

fn envelope(publication: &Publication<'_>) -> Bytes {
    let metadata = publication.metadata;
    let given = |name: &str| {
        if metadata.is_empty() {
            None
        } else {
            get_ignore_case(metadata, name).filter(|text| !text.is_empty())
        }
    };
    let content_type = if publication.content_type.is_empty() {
        "text/plain"
    } else {
        publication.content_type
    };
    let trace = given("cloudevent.traceparent")
        .or_else(|| given("cloudevent.traceid"))
        .unwrap_or(publication.trace_parent);

    let mut out = Vec::with_capacity(publication.data.len() + 384);
    out.extend_from_slice(b"{\"data");
    data_member(&mut out, content_type, publication.data);
    let mut text = |name: &str, value: &str| {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        encode_string(&mut out, value, Style::Ours);
    };
    text("datacontenttype", content_type);
    if let Some(expiration) = publication
        .sets_expiration
        .then(|| expiration(metadata))
        .flatten()
    {
        text("expiration", &expiration);
    }
    match given("cloudevent.id") {
        Some(id) => text("id", id),
        None => text(
            "id",
            uuid::Uuid::new_v4()
                .as_hyphenated()
                .encode_lower(&mut [0; 36]),
        ),
    }
    text("pubsubname", publication.pubsub);
    text(
        "source",
        given("cloudevent.source").unwrap_or(publication.source),
    );
    text("specversion", SPEC_VERSION);
    if let Some(subject) = given("cloudevent.subject") {
        text("subject", subject);
    }
    text("time", &now_text());
    text("topic", publication.topic);
    text("traceid", trace);
    text("traceparent", trace);
    text(
        "tracestate",
        given("cloudevent.tracestate").unwrap_or(publication.trace_state),
    );
    text("type", given("cloudevent.type").unwrap_or(DEFAULT_TYPE));
    out.push(b'}');
    out.into()
}

/// The rest of the member name, and its value.
fn data_member(out: &mut Vec<u8>, content_type: &str, data: &Bytes) {
    if is_content_type(content_type, "application/json") {
        out.extend_from_slice(b"\":");
        if is_plain(data) {
            out.extend_from_slice(data);
        } else if let Ok((value, _)) = parse_first(data) {
            encode_to(out, &value, Style::Ours, Numbers::Exact);
        } else {
            encode_string(out, &lossy(data), Style::Ours);
        }
    } else if is_binary(content_type) || is_event_protobuf(content_type, data) {
        out.extend_from_slice(b"_base64\":\"");
        out.extend_from_slice(STANDARD.encode(data).as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(b"\":");
        encode_string(out, &lossy(data), Style::Ours);
    }
}

/// Text in which each broken byte became one replacement character.
fn lossy(data: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(data) {
        Ok(text) => text.into(),
        Err(_) => {
            let mut out = String::with_capacity(data.len());
            for chunk in data.utf8_chunks() {
                out.push_str(chunk.valid());
                out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
            }
            out.into()
        }
    }
}

/// The body is an event: what it lacks is added, its addresses are overwritten.
fn complete(publication: &Publication<'_>) -> Result<Bytes, WrapError> {
    let mut members = match parse_first(publication.data)
        .map_err(WrapError::NotAnEvent)?
        .0
    {
        Value::Object(members) => members,
        Value::Null => return Err(WrapError::Null),
        other => {
            return Err(WrapError::NotAnEvent(JsonError::kind(
                other.kind(),
                "map[string]interface {}",
            )));
        }
    };
    let has = |members: &[(String, Value)], name: &str| members.iter().any(|(key, _)| key == name);
    if !has(&members, "time") {
        set(&mut members, "time", &now_text());
    }
    if !has(&members, "traceid") {
        set(&mut members, "traceid", publication.trace_parent);
        set(&mut members, "traceparent", publication.trace_parent);
    }
    if !has(&members, "tracestate") {
        set(&mut members, "tracestate", publication.trace_state);
    }
    set(&mut members, "topic", publication.topic);
    set(&mut members, "pubsubname", publication.pubsub);
    for (name, default) in [
        ("source", DEFAULT_SOURCE),
        ("type", DEFAULT_TYPE),
        ("specversion", SPEC_VERSION),
    ] {
        if members
            .iter()
            .find(|(key, _)| key == name)
            .is_none_or(|(_, value)| value.is_null())
        {
            set(&mut members, name, default);
        }
    }
    if let Some(expiration) = publication
        .sets_expiration
        .then(|| expiration(publication.metadata))
        .flatten()
    {
        set(&mut members, "expiration", &expiration);
    }
    Ok(encode(&Value::Object(members), Style::Standard, Numbers::Exact).into())
}

fn set(members: &mut Vec<(String, Value)>, name: &str, text: &str) {
    match members.iter_mut().find(|(key, _)| key == name) {
        Some(member) => member.1 = Value::string(text),
        None => members.push((name.to_owned(), Value::string(text))),
    }
}

/// `ttl`, else `ttlInSeconds`: a Go duration (a negative one counts as zero), or whole seconds above zero.
/// Any other text is as if it were not there.
pub fn time_to_live(metadata: &Metadata) -> Option<Duration> {
    let text = get_ignore_case(metadata, "ttl")
        .or_else(|| get_ignore_case(metadata, "ttlInSeconds"))
        .filter(|text| !text.is_empty())?;
    if let Some(duration) = parse_go(text) {
        return Some(duration.clamped());
    }
    text.parse::<i64>()
        .ok()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

fn expiration(metadata: &Metadata) -> Option<String> {
    if metadata.is_empty() {
        return None;
    }
    let ttl = chrono::Duration::from_std(time_to_live(metadata)?).ok()?;
    Some(
        Utc::now()
            .checked_add_signed(ttl)?
            .to_rfc3339_opts(SecondsFormat::Secs, true),
    )
}

/// The local time with its offset, to the second. The text is kept for as long as the second lasts.
fn now_text() -> String {
    use std::cell::RefCell;
    thread_local!(static LAST: RefCell<(i64, String)> = const { RefCell::new((0, String::new())) });
    let now = Utc::now();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now.timestamp() {
            *second = now.timestamp();
            *text = now
                .with_timezone(&Local)
                .to_rfc3339_opts(SecondsFormat::Secs, true);
        }
        text.clone()
    })
}

/// What a raw subscription is given: the message's bytes in a fresh envelope.
pub fn raw(
    data: &[u8],
    topic: &str,
    pubsub: &str,
    trace_parent: Option<&str>,
    trace_state: Option<&str>,
) -> Value {
    let mut event = Value::object([
        ("data_base64", Value::String(STANDARD.encode(data))),
        ("datacontenttype", Value::string("application/octet-stream")),
        ("id", Value::String(uuid::Uuid::new_v4().to_string())),
        ("pubsubname", Value::string(pubsub)),
        ("source", Value::string(DEFAULT_SOURCE)),
        ("specversion", Value::string(SPEC_VERSION)),
        ("topic", Value::string(topic)),
        ("type", Value::string(DEFAULT_TYPE)),
    ]);
    if let Value::Object(members) = &mut event {
        for (name, text) in [
            ("traceid", trace_parent),
            ("traceparent", trace_parent),
            ("tracestate", trace_state),
        ] {
            if let Some(text) = text {
                members.push((name.to_owned(), Value::string(text)));
            }
        }
    }
    event
}

/// Whether the event's `expiration` has passed; one that cannot be read never does.
pub fn has_expired(event: &Value) -> bool {
    let Some(text) = event
        .get("expiration")
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
    else {
        return false;
    };
    DateTime::parse_from_rfc3339(text).is_ok_and(|at| at < Utc::now())
}

/// `text` is `expected`, perhaps with parameters behind it; case does not count.
pub fn is_content_type(text: &str, expected: &str) -> bool {
    text.split(';')
        .next()
        .unwrap_or_default()
        .eq_ignore_ascii_case(expected)
}

pub fn is_binary(content_type: &str) -> bool {
    is_content_type(content_type, "application/octet-stream")
}

pub fn is_json(content_type: &str) -> bool {
    is_content_type(content_type, "application/json")
}

/// `text/*` and XML: the types whose data is a string.
pub fn is_text(content_type: &str) -> bool {
    content_type
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("text/"))
        || is_content_type(content_type, "application/xml")
}

fn is_event_protobuf(content_type: &str, data: &[u8]) -> bool {
    is_content_type(content_type, "application/cloudevents+protobuf")
        || (is_content_type(content_type, "application/x-protobuf") && has_event_layout(data))
}

/// Whether bytes have the layout of `io.cloudevents.v1.CloudEvent`: fields 1 to 8, all length-delimited, with the
/// specification's version set.
fn has_event_layout(mut data: &[u8]) -> bool {
    let mut version = false;
    while !data.is_empty() {
        let Some((key, rest)) = varint(data) else {
            return false;
        };
        let Some((length, rest)) = varint(rest) else {
            return false;
        };
        let Some(value) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(..length))
        else {
            return false;
        };
        if key & 7 != 2
            || !(1..=8).contains(&(key >> 3))
            || ((1..=4).contains(&(key >> 3)) && std::str::from_utf8(value).is_err())
        {
            return false;
        }
        version |= key >> 3 == 3 && matches!(value, b"1.0" | b"0.3");
        data = rest.get(value.len()..).unwrap_or_default();
    }
    version
}

fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (i, byte) in data.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, data.get(i + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse_all;

    fn published(
        content_type: &str,
        data: &'static [u8],
        metadata: &[(&str, &str)],
    ) -> Result<Value, WrapError> {
        let metadata = metadata
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let data = Bytes::from_static(data);
        let bytes = wrap(&Publication {
            source: "a",
            topic: "t",
            pubsub: "ps",
            content_type,
            data: &data,
            metadata: &metadata,
            trace_parent: "",
            trace_state: "",
            sets_expiration: true,
        })?;
        Ok(parse_all(&bytes).unwrap())
    }

    fn text(event: &Value, name: &str) -> String {
        event
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or("(absent)")
            .to_owned()
    }

    #[test]
    fn a_json_body_becomes_data() {
        let event = published(
            "application/json; charset=utf-8",
            br#"{"a":12345678901234567890}"#,
            &[],
        )
        .unwrap();
        assert_eq!(
            event.get("data").unwrap().get("a"),
            Some(&Value::Number("12345678901234567890".into()))
        );
        for (name, expected) in [
            ("source", "a"),
            ("topic", "t"),
            ("pubsubname", "ps"),
            ("specversion", "1.0"),
            ("type", DEFAULT_TYPE),
            ("traceid", ""),
            ("tracestate", ""),
        ] {
            assert_eq!(text(&event, name), expected, "{name}");
        }
        assert_eq!(text(&event, "expiration"), "(absent)");
        assert_eq!(text(&event, "id").len(), 36);
    }

    #[test]
    fn text_that_is_no_json_stays_text() {
        assert_eq!(
            text(
                &published("application/json", b"{broken", &[]).unwrap(),
                "data"
            ),
            "{broken"
        );
        assert_eq!(
            text(&published("application/json", b"", &[]).unwrap(), "data"),
            ""
        );
        assert_eq!(
            text(&published("", b"x", &[]).unwrap(), "datacontenttype"),
            "text/plain"
        );
        assert_eq!(
            text(&published("text/plain", b"\xffx", &[]).unwrap(), "data"),
            "\u{fffd}x"
        );
        assert_eq!(
            text(
                &published("application/vnd.x+json", b"{}", &[]).unwrap(),
                "data"
            ),
            "{}"
        );
    }

    #[test]
    fn bytes_travel_as_base64() {
        assert_eq!(
            text(
                &published("application/octet-stream", b"\x00\xff\x10", &[]).unwrap(),
                "data_base64"
            ),
            "AP8Q"
        );
        assert_eq!(
            text(
                &published("application/x-protobuf", b"\x1a\x031.0", &[]).unwrap(),
                "data_base64"
            ),
            "GgMxLjA="
        );
        assert_eq!(
            text(
                &published("application/x-protobuf", b"hello", &[]).unwrap(),
                "data"
            ),
            "hello"
        );
    }

    #[test]
    fn overrides_replace_attributes() {
        let event = published(
            "text/plain",
            b"x",
            &[
                ("CloudEvent.ID", "7"),
                ("cloudevent.traceid", "i"),
                ("cloudevent.traceparent", "p"),
                ("cloudevent.subject", "s"),
            ],
        )
        .unwrap();
        assert_eq!(
            (
                text(&event, "id"),
                text(&event, "traceid"),
                text(&event, "traceparent"),
                text(&event, "subject")
            ),
            ("7".into(), "p".into(), "p".into(), "s".into())
        );
    }

    #[test]
    fn a_structured_event_is_completed() {
        let event = published(
            CONTENT_TYPE,
            br#"{"id":"my","topic":"other","type":null,"data":{"x":1},"traceid":"own"}"#,
            &[("ttl", "5s"), ("cloudevent.id", "no")],
        )
        .unwrap();
        for (name, expected) in [
            ("id", "my"),
            ("topic", "t"),
            ("type", DEFAULT_TYPE),
            ("source", DEFAULT_SOURCE),
            ("traceid", "own"),
            ("traceparent", "(absent)"),
        ] {
            assert_eq!(text(&event, name), expected, "{name}");
        }
        assert_ne!(text(&event, "expiration"), "(absent)");
    }

    #[test]
    fn a_body_that_claims_to_be_an_event_must_be_one() {
        assert_eq!(published(CONTENT_TYPE, b"null", &[]), Err(WrapError::Null));
        assert_eq!(
            published(CONTENT_TYPE, b"", &[]),
            Err(WrapError::NotAnEvent(JsonError::Empty))
        );
        assert!(matches!(
            published(CONTENT_TYPE, b"[1]", &[]),
            Err(WrapError::NotAnEvent(_))
        ));
    }

    #[test]
    fn lifetimes_are_durations_or_whole_seconds() {
        let ttl = |value: &str| {
            time_to_live(&Metadata::from([(
                "TTLInSeconds".to_owned(),
                value.to_owned(),
            )]))
        };
        assert_eq!(ttl("60"), Some(Duration::from_secs(60)));
        assert_eq!(ttl("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(ttl("0"), Some(Duration::ZERO));
        assert_eq!(ttl("-5s"), Some(Duration::ZERO));
        for ignored in ["-1", "x", "1.5", ""] {
            assert_eq!(ttl(ignored), None, "{ignored}");
        }
    }

    #[test]
    fn only_a_readable_past_expiration_ends_an_event() {
        let event = |text: &str| Value::object([("expiration", Value::string(text))]);
        assert!(has_expired(&event("2020-01-01T00:00:00Z")));
        assert!(!has_expired(&event("2999-01-01T00:00:00Z")));
        assert!(!has_expired(&event("soon")));
        assert!(!has_expired(&Value::object([])));
    }
}
